//! FROM: which relations and sub-queries a query reads, under which names, and which of them it narrows.

use std::sync::Arc;

use pg_query::protobuf as pg;
use pg_query::protobuf::Node;
use pg_query::protobuf::node::Node as N;

use super::super::catalog::CatalogSnapshot;
use super::super::search::search;
use super::names::{self, Origin, Output, Rel};
use super::{Walk, narrows, strings};

/// Column references times FROM items that a predicate is applied to; beyond it nothing is narrowed.
const MAX_COMPARED: usize = 100_000;

/// One item of a FROM list.
#[derive(Debug, Clone)]
pub struct Item {
    /// Name by which columns refer to it.
    pub name: String,
    /// Its columns.
    pub columns: Columns,
    /// Names given to its first columns.
    pub renamed: Vec<String>,
    /// Whether it reads a relation that nothing has narrowed yet.
    pub open: bool,
}

/// The columns of an item.
#[derive(Debug, Clone)]
pub enum Columns {
    /// Those of a relation.
    Relation(Rel),
    /// Those that a sub-query puts out.
    Outputs(Arc<[Output]>),
    /// Those of a function or the like.
    Computed,
}

impl Item {
    /// A relation under its own name.
    pub fn of_relation(relation: Rel) -> Self {
        let columns = Columns::Relation(relation);
        Self { name: String::new(), columns, renamed: Vec::new(), open: true }
    }

    /// Whether it has a column of this name; nothing when nobody knows.
    pub fn may_have(&self, catalog: &CatalogSnapshot, name: &str) -> Option<bool> {
        if self.renamed.iter().any(|renamed| renamed == name) {
            return Some(true);
        }
        match &self.columns {
            Columns::Relation(relation) => {
                relation.place.and_then(|at| catalog.at(at)).map(|place| place.has_column(name))
            }
            Columns::Outputs(outputs) => {
                let mut blind = false;
                for output in outputs.iter() {
                    match &output.origin {
                        Origin::All(relation) => {
                            match Item::of_relation(relation.clone()).may_have(catalog, name) {
                                Some(true) => return Some(true),
                                Some(false) => {}
                                None => blind = true,
                            }
                        }
                        _ if output.name.as_deref() == Some(name) => return Some(true),
                        _ => {}
                    }
                }
                if blind { None } else { Some(false) }
            }
            Columns::Computed => None,
        }
    }
}

impl Walk<'_> {
    /// Walks a FROM list into the current level.
    pub(super) fn read_from(&mut self, nodes: &[Node]) {
        for node in nodes {
            let items = self.read_item(node);
            self.enter(items);
        }
    }

    /// Puts items in sight of what follows in the current query.
    pub(super) fn enter(&mut self, items: Vec<Item>) {
        match self.levels.last_mut() {
            Some(level) => level.extend(items),
            None => self.levels.push(items),
        }
    }

    fn read_item(&mut self, node: &Node) -> Vec<Item> {
        match &node.node {
            Some(N::RangeVar(relation)) => self.relation_item(relation),
            Some(N::RangeSubselect(sub)) => {
                let Some(query) = &sub.subquery else { return Vec::new() };
                let query = self.query(query);
                vec![item(sub.alias.as_ref(), "", Columns::Outputs(query.outputs.into()), query.open)]
            }
            Some(N::JoinExpr(join)) => self.join(join),
            Some(N::RangeFunction(function)) => {
                self.expressions(&function.functions);
                vec![item(function.alias.as_ref(), &function_name(function), Columns::Computed, false)]
            }
            Some(N::RangeTableSample(sample)) => {
                self.expressions(&sample.args);
                self.expressions(sample.repeatable.as_deref());
                sample.relation.as_deref().map(|relation| self.read_item(relation)).unwrap_or_default()
            }
            Some(N::RangeTableFunc(table)) => {
                self.unusual(&search(table));
                vec![item(table.alias.as_ref(), "", Columns::Computed, false)]
            }
            Some(N::JsonTable(table)) => {
                self.unusual(&search(table));
                vec![item(table.alias.as_ref(), "", Columns::Computed, false)]
            }
            Some(other) => {
                self.unusual(&search(other));
                Vec::new()
            }
            None => Vec::new(),
        }
    }

    /// A relation or common table expression by name.
    pub(super) fn relation_item(&mut self, relation: &pg::RangeVar) -> Vec<Item> {
        if relation.schemaname.is_empty()
            && let Some(cte) = self.cte(&relation.relname)
        {
            return vec![item(
                relation.alias.as_ref(),
                &relation.relname,
                Columns::Outputs(cte.outputs),
                cte.open,
            )];
        }
        let (found, item) = self.base_item(relation);
        self.read.extend(found);
        vec![item]
    }

    /// A relation by name, whatever common table expressions there are.
    pub(super) fn base_item(&self, relation: &pg::RangeVar) -> (Vec<Rel>, Item) {
        let found = names::relations(
            self.catalog,
            self.tenant,
            self.settings,
            &relation.schemaname,
            &relation.relname,
        );
        // Where the name can mean several relations, columns are resolved by none of them.
        let columns = match found.as_slice() {
            [one] => Columns::Relation(one.clone()),
            _ => Columns::Computed,
        };
        (found, item(relation.alias.as_ref(), &relation.relname, columns, true))
    }

    fn join(&mut self, join: &pg::JoinExpr) -> Vec<Item> {
        let mut left = join.larg.as_deref().map(|node| self.read_item(node)).unwrap_or_default();
        // LATERAL and the condition see the left side.
        let before = self.levels.last().map_or(0, Vec::len);
        self.enter(left.clone());
        let mut right = join.rarg.as_deref().map(|node| self.read_item(node)).unwrap_or_default();
        self.enter(right.clone());
        self.expressions(join.quals.as_deref());
        if let Some(level) = self.levels.last_mut() {
            level.truncate(before);
        }
        let catalog = self.catalog;
        let on = |items: &mut Vec<Item>| match join.quals.as_deref() {
            Some(quals) => narrow(items, quals, catalog),
            None if join.is_natural || !join.using_clause.is_empty() => {
                items.iter_mut().for_each(|i| i.open = false)
            }
            None => {}
        };
        // An outer join keeps every row of its outer side.
        let kind = join.jointype;
        if kind == pg::JoinType::JoinInner as i32 || kind == pg::JoinType::JoinRight as i32 {
            on(&mut left);
        }
        if kind == pg::JoinType::JoinInner as i32 || kind == pg::JoinType::JoinLeft as i32 {
            on(&mut right);
        }
        let mut items = left;
        items.append(&mut right);
        match &join.alias {
            None => items,
            Some(alias) => {
                let open = items.iter().any(|i| i.open);
                self.levels.push(items);
                let outputs = self.outputs_of(&pg::ColumnRef {
                    fields: vec![Node { node: Some(N::AStar(pg::AStar {})) }],
                    location: 0,
                });
                self.levels.pop();
                vec![item(Some(alias), "", Columns::Outputs(outputs.into()), open)]
            }
        }
    }
}

/// Narrows the items that a predicate looks at.
pub fn narrow(items: &mut [Item], predicate: &Node, catalog: &CatalogSnapshot) {
    if !narrows(predicate) {
        return;
    }
    if matches!(predicate.node, Some(N::CurrentOfExpr(_))) {
        items.iter_mut().for_each(|item| item.open = false);
        return;
    }
    let columns = search(predicate).columns;
    if columns.len().saturating_mul(items.len()) > MAX_COMPARED {
        return;
    }
    for column in columns {
        match column.as_slice() {
            // Without a qualifier it can belong to any that is not known to lack it.
            [name] => {
                let may = items.iter_mut().filter(|item| item.may_have(catalog, name) != Some(false));
                may.for_each(|item| item.open = false);
            }
            [.., qualifier, _] => {
                items.iter_mut().filter(|item| item.name == *qualifier).for_each(|item| item.open = false);
            }
            [] => {}
        }
    }
}

fn item(alias: Option<&pg::Alias>, name: &str, columns: Columns, open: bool) -> Item {
    let (name, renamed) = match alias {
        Some(alias) => (alias.aliasname.clone(), strings(&alias.colnames)),
        None => (name.to_owned(), Vec::new()),
    };
    Item { name, columns, renamed, open }
}

/// A function in FROM without an alias goes by its own name.
fn function_name(function: &pg::RangeFunction) -> String {
    search(function).functions.first().and_then(|name| name.last().cloned()).unwrap_or_default()
}
