//! What names mean: relations by the catalog and the search path, columns by the FROM items in scope.

use bodycam_record::TenantKey;
use pg_query::protobuf as pg;

use super::super::builtin;
use super::super::catalog::CatalogSnapshot;
use super::super::settings::{SearchPath, Settings};
use super::from::{Columns, Item};
use super::{Walk, strings};

/// A relation as facts name it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rel {
    /// `schema.name` as the catalog spells it, or `?` and 16 hex digits.
    pub label: String,
    /// Its place in the catalog.
    pub place: Option<usize>,
}

/// One column, or all columns of a relation, that a query puts out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Name by which an outer query can refer to it.
    pub name: Option<String>,
    /// Where its value comes from.
    pub origin: Origin,
}

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A column of a relation, as it is.
    Column(Rel, String),
    /// All columns of a relation.
    All(Rel),
    /// Something computed.
    Expression,
}

/// Columns that one query puts out at most; the server itself refuses more.
pub const MAX_OUTPUTS: usize = 1664;

/// FROM items of one query among which a column without a qualifier is looked for.
const MAX_SEARCHED: usize = 64;

/// System columns of every table.
const SYSTEM_COLUMNS: [&str; 6] = ["ctid", "xmin", "xmax", "cmin", "cmax", "tableoid"];

/// The relations that a name can mean; one without a place when the catalog knows none.
pub fn relations(
    catalog: &CatalogSnapshot,
    tenant: &TenantKey,
    settings: &Settings,
    schema: &str,
    name: &str,
) -> Vec<Rel> {
    let mut found = Vec::new();
    if schema == "pg_temp" || schema.is_empty() && settings.temporary.contains(name) {
        // Made by this session. Its making may have failed, or it may be gone: then the name means what follows.
        found.push(temporary(catalog, tenant, name));
        if !schema.is_empty() {
            return found;
        }
    }
    let lasting = lasting(catalog, tenant, &settings.search_path, schema, name);
    found.extend(lasting.into_iter().filter(|rel| !settings.temporary.contains(name) || rel.place.is_some()));
    found
}

/// A relation of the session's own temporary schema.
pub(super) fn temporary(catalog: &CatalogSnapshot, tenant: &TenantKey, name: &str) -> Rel {
    let shown = if catalog.knows(name) { name.to_owned() } else { tenant.unknown_identifier(name) };
    Rel { label: format!("pg_temp.{shown}"), place: None }
}

fn lasting(
    catalog: &CatalogSnapshot,
    tenant: &TenantKey,
    path: &SearchPath,
    schema: &str,
    name: &str,
) -> Vec<Rel> {
    let places = catalog.resolve(schema, name, path);
    if !places.is_empty() {
        return places
            .into_iter()
            .filter_map(|at| catalog.at(at).map(|r| Rel { label: r.label(), place: Some(at) }))
            .collect();
    }
    let system = builtin::schema_of_relation(name)
        .filter(|of| *of == schema || (schema.is_empty() && *of == "pg_catalog"));
    let label = match system {
        Some(of) => format!("{of}.{name}"),
        None if schema.is_empty() => tenant.unknown_identifier(name),
        None => tenant.unknown_identifier(&format!("{schema}.{name}")),
    };
    vec![Rel { label, place: None }]
}

impl Walk<'_> {
    /// Walks a column reference: `c.f` can be a call of the function `f`.
    pub(super) fn column(&mut self, column: &pg::ColumnRef) {
        let fields = strings(&column.fields);
        let [.., qualifier, name] = fields.as_slice() else { return };
        let Some(item) = self.item_named(qualifier) else { return };
        let Columns::Relation(relation) = &item.columns else { return };
        let Some(place) = relation.place.and_then(|at| self.catalog.at(at)) else { return };
        let is_column = name == "*" || place.has_column(name) || SYSTEM_COLUMNS.contains(&name.as_str());
        if !is_column && item.renamed.is_empty() {
            self.function(std::slice::from_ref(name));
        }
    }

    /// What a column reference puts out.
    pub(super) fn outputs_of(&self, column: &pg::ColumnRef) -> Vec<Output> {
        let fields = strings(&column.fields);
        match fields.as_slice() {
            [star] if star == "*" => {
                let level = self.levels.last().map(Vec::as_slice).unwrap_or_default();
                level.iter().flat_map(|item| self.all_of(item)).take(MAX_OUTPUTS + 1).collect()
            }
            [.., qualifier, star] if star == "*" => match self.item_named(qualifier) {
                Some(item) => self.all_of(item),
                None => vec![super::expression_output(None)],
            },
            [.., qualifier, name] => {
                let found = self.item_named(qualifier).map(|item| self.column_of(item, name));
                vec![Output {
                    name: Some(name.clone()),
                    origin: found.flatten().unwrap_or(Origin::Expression),
                }]
            }
            [name] => vec![Output { name: Some(name.clone()), origin: self.unqualified(name) }],
            [] => Vec::new(),
        }
    }

    /// The FROM item of this name, the innermost first.
    fn item_named(&self, name: &str) -> Option<&Item> {
        self.levels.iter().rev().find_map(|level| level.iter().find(|item| item.name == name))
    }

    /// Where the value of a column without a qualifier comes from.
    fn unqualified(&self, name: &str) -> Origin {
        for level in self.levels.iter().rev() {
            if level.len() > MAX_SEARCHED {
                return Origin::Expression;
            }
            let mut having = level.iter().filter(|item| item.may_have(self.catalog, name) == Some(true));
            if let Some(item) = having.next() {
                return self.column_of(item, name).unwrap_or(Origin::Expression);
            }
            let mut blind = level.iter().filter(|item| item.may_have(self.catalog, name).is_none());
            match (blind.next(), blind.next()) {
                (Some(item), None) => return self.column_of(item, name).unwrap_or(Origin::Expression),
                (Some(_), Some(_)) => return Origin::Expression,
                (None, _) => {}
            }
            if SYSTEM_COLUMNS.contains(&name)
                && let [item] = level.as_slice()
            {
                return self.column_of(item, name).unwrap_or(Origin::Expression);
            }
            // A whole row by the name of its item.
            if let Some(item) = level.iter().find(|item| item.name == name) {
                return match self.all_of(item).as_slice() {
                    [one] => one.origin.clone(),
                    _ => Origin::Expression,
                };
            }
        }
        Origin::Expression
    }

    /// Where the value of an item's column comes from; nothing when the item is known not to have it.
    fn column_of(&self, item: &Item, name: &str) -> Option<Origin> {
        match &item.columns {
            Columns::Relation(relation) => {
                let place = relation.place.and_then(|at| self.catalog.at(at));
                let number = item.renamed.iter().position(|renamed| renamed == name);
                let own = match (number, place) {
                    (Some(number), Some(place)) => {
                        place.columns.get(number).map(|(_, own)| own.to_string())?
                    }
                    (Some(_), None) => return Some(Origin::Expression),
                    (None, Some(place)) if place.has_column(name) || SYSTEM_COLUMNS.contains(&name) => {
                        name.to_owned()
                    }
                    (None, Some(_)) => return None,
                    (None, None) => self.tenant.unknown_identifier(name),
                };
                Some(Origin::Column(relation.clone(), own))
            }
            Columns::Outputs(outputs) => {
                let by_alias = item.renamed.iter().position(|renamed| renamed == name);
                if let Some(at) = by_alias {
                    return Some(outputs.get(at).map_or(Origin::Expression, |o| self.sole(o)));
                }
                outputs.iter().find_map(|output| match &output.origin {
                    Origin::All(relation) => {
                        let inner = Item::of_relation(relation.clone());
                        match inner.may_have(self.catalog, name) {
                            Some(false) => None,
                            _ => self.column_of(&inner, name),
                        }
                    }
                    origin => (output.name.as_deref() == Some(name)).then(|| origin.clone()),
                })
            }
            Columns::Computed => Some(Origin::Expression),
        }
    }

    /// An output that stands for one column; `*` behind a list of aliases is not taken apart.
    fn sole(&self, output: &Output) -> Origin {
        match &output.origin {
            Origin::All(_) => Origin::Expression,
            origin => origin.clone(),
        }
    }

    /// All columns of an item.
    fn all_of(&self, item: &Item) -> Vec<Output> {
        match &item.columns {
            Columns::Relation(relation) => vec![Output { name: None, origin: Origin::All(relation.clone()) }],
            Columns::Outputs(outputs) => outputs
                .iter()
                .enumerate()
                .map(|(at, output)| Output {
                    name: item.renamed.get(at).cloned().or_else(|| output.name.clone()),
                    origin: output.origin.clone(),
                })
                .collect(),
            Columns::Computed => vec![super::expression_output(None)],
        }
    }
}

impl Output {
    /// How facts name it.
    pub fn label(&self) -> String {
        match &self.origin {
            Origin::Column(relation, column) => format!("{}.{column}", relation.label),
            Origin::All(relation) => format!("{}.*", relation.label),
            Origin::Expression => "?".to_owned(),
        }
    }
}
