//! What a parse tree reads, writes, calls and puts out.
//!
//! The walk keeps the scopes of names as the server does: common table expressions, FROM items, outer queries.
//! Invariant: every relation, function and sub-query of the tree is either walked with its scopes, or found by
//! [`search`](super::search) and taken for the worst.

use std::collections::BTreeSet;

use bodycam_record::TenantKey;
use pg_query::protobuf as pg;
use pg_query::protobuf::Node;
use pg_query::protobuf::node::Node as N;

use super::builtin;
use super::catalog::CatalogSnapshot;
use super::search::{Found, search};
use super::settings::{SearchPath, Settings};

pub mod from;
pub mod names;
pub mod query;

use from::Item;
use names::{Output, Rel};
use query::Cte;

/// What a walk has found so far, and where it is.
pub struct Walk<'a> {
    pub(super) catalog: &'a CatalogSnapshot,
    pub(super) tenant: &'a TenantKey,
    pub(super) path: &'a SearchPath,
    pub(super) settings: &'a Settings,
    pub(super) read: BTreeSet<Rel>,
    pub(super) written: BTreeSet<Rel>,
    pub(super) functions: BTreeSet<String>,
    pub(super) opaque: BTreeSet<&'static str>,
    /// Whether a read, update or delete of a relation is not narrowed.
    pub(super) open: bool,
    /// Names of the temporary relations that it makes.
    pub(super) temporary: BTreeSet<String>,
    /// Relations whose rows are changed: what stands behind them in the catalog runs.
    pub(super) changed: BTreeSet<Rel>,
    /// Whether it puts functions where later statements run them unseen.
    pub(super) attaches_code: bool,
    /// Whether `set_config` was called, or something that may call it.
    pub(super) sets_config: bool,
    /// Common table expressions in scope, the innermost last.
    ctes: Vec<Cte>,
    /// FROM items of the queries around the current place, the innermost last.
    levels: Vec<Vec<Item>>,
}

impl<'a> Walk<'a> {
    /// A walk that has found nothing.
    pub fn new(catalog: &'a CatalogSnapshot, tenant: &'a TenantKey, settings: &'a Settings) -> Self {
        Self {
            catalog,
            tenant,
            path: &settings.search_path,
            settings,
            temporary: BTreeSet::new(),
            read: BTreeSet::new(),
            written: BTreeSet::new(),
            functions: BTreeSet::new(),
            opaque: BTreeSet::new(),
            open: false,
            changed: BTreeSet::new(),
            attaches_code: false,
            sets_config: false,
            ctes: Vec::new(),
            levels: Vec::new(),
        }
    }

    /// Walks expressions.
    pub(super) fn expressions<'n>(&mut self, nodes: impl IntoIterator<Item = &'n Node>) {
        for node in nodes {
            self.expression(node);
        }
    }

    /// Walks an expression: functions, sub-queries.
    pub(super) fn expression(&mut self, node: &Node) {
        let Some(node) = &node.node else { return };
        match node {
            N::ColumnRef(column) => self.column(column),
            N::AConst(_) | N::ParamRef(_) | N::SetToDefault(_) | N::SqlvalueFunction(_) | N::AStar(_) => {}
            N::Integer(_) | N::String(_) | N::Float(_) | N::Boolean(_) | N::CurrentOfExpr(_) => {}
            N::AExpr(e) => {
                self.operator(&e.name);
                self.expressions(e.lexpr.as_deref());
                self.expressions(e.rexpr.as_deref());
            }
            N::BoolExpr(e) => self.expressions(&e.args),
            N::FuncCall(call) => self.call(call),
            N::SubLink(sub) => {
                self.expressions(sub.testexpr.as_deref());
                self.operator(&sub.oper_name);
                if let Some(query) = &sub.subselect {
                    // Read for every row of the outer query, whatever its WHERE says.
                    let query = self.query(query);
                    self.open |= query.open;
                }
            }
            N::CaseExpr(e) => {
                self.expressions(e.arg.as_deref());
                self.expressions(&e.args);
                self.expressions(e.defresult.as_deref());
            }
            N::CaseWhen(e) => {
                self.expressions(e.expr.as_deref());
                self.expressions(e.result.as_deref());
            }
            N::CoalesceExpr(e) => self.expressions(&e.args),
            N::MinMaxExpr(e) => self.expressions(&e.args),
            N::TypeCast(e) => {
                self.cast(e.type_name.as_ref());
                self.expressions(e.arg.as_deref());
            }
            N::CollateClause(e) => self.expressions(e.arg.as_deref()),
            N::AArrayExpr(e) => self.expressions(&e.elements),
            N::AIndirection(e) => {
                self.expressions(e.arg.as_deref());
                self.expressions(&e.indirection);
            }
            N::AIndices(e) => {
                self.expressions(e.lidx.as_deref());
                self.expressions(e.uidx.as_deref());
            }
            N::RowExpr(e) => self.expressions(&e.args),
            N::NullTest(e) => self.expressions(e.arg.as_deref()),
            N::BooleanTest(e) => self.expressions(e.arg.as_deref()),
            N::List(list) => self.expressions(&list.items),
            N::ResTarget(target) => {
                self.expressions(&target.indirection);
                self.expressions(target.val.as_deref());
            }
            N::SortBy(sort) => {
                self.expressions(sort.node.as_deref());
                self.operator(&sort.use_op);
            }
            N::GroupingSet(set) => self.expressions(&set.content),
            N::GroupingFunc(e) => self.expressions(&e.args),
            N::NamedArgExpr(e) => self.expressions(e.arg.as_deref()),
            N::MultiAssignRef(e) => self.expressions(e.source.as_deref()),
            N::WindowDef(window) => self.window(window),
            N::XmlExpr(e) => {
                self.expressions(&e.named_args);
                self.expressions(&e.args);
            }
            N::XmlSerialize(e) => self.expressions(e.expr.as_deref()),
            other => self.unusual(&search(other)),
        }
    }

    /// Takes over what a search found in a part that the walk does not understand.
    pub(super) fn unusual(&mut self, found: &Found) {
        for (schema, name) in &found.relations {
            self.read_relation(schema, name);
            self.open = true;
        }
        for function in &found.functions {
            self.function(function);
        }
    }

    /// Notes a read of a relation that is named outside any FROM.
    pub(super) fn read_relation(&mut self, schema: &str, name: &str) {
        let found = names::relations(self.catalog, self.tenant, self.settings, schema, name);
        self.read.extend(found);
    }

    /// The relations that a name in the tree can mean.
    pub(super) fn relations_of(&self, relation: &pg::RangeVar) -> Vec<Rel> {
        names::relations(self.catalog, self.tenant, self.settings, &relation.schemaname, &relation.relname)
    }

    /// Notes a write.
    pub(super) fn write_relation(&mut self, relation: &pg::RangeVar) {
        let temporary = relation.relpersistence == "t" || relation.schemaname == "pg_temp";
        if temporary {
            self.temporary.insert(relation.relname.clone());
            self.written.insert(names::temporary(self.catalog, self.tenant, &relation.relname));
        } else {
            self.write_named(&relation.schemaname, &relation.relname);
        }
    }

    /// Notes a write of a relation given by schema and name.
    pub(super) fn write_named(&mut self, schema: &str, name: &str) {
        let found = names::relations(self.catalog, self.tenant, self.settings, schema, name);
        self.written.extend(found);
    }

    fn window(&mut self, window: &pg::WindowDef) {
        self.expressions(&window.partition_clause);
        self.expressions(&window.order_clause);
        self.expressions(window.start_offset.as_deref());
        self.expressions(window.end_offset.as_deref());
    }

    pub(super) fn call(&mut self, call: &pg::FuncCall) {
        self.function(&strings(&call.funcname));
        self.expressions(&call.args);
        self.expressions(&call.agg_order);
        self.expressions(call.agg_filter.as_deref());
        if let Some(window) = &call.over {
            self.window(window);
        }
    }

    /// A cast to a domain checks what the domain says, and others may have functions of their own.
    fn cast(&mut self, to: Option<&pg::TypeName>) {
        let names = to.map(|to| strings(&to.names)).unwrap_or_default();
        self.sets_config |=
            names.last().is_some_and(|name| self.catalog.code().types.contains(name.as_str()));
    }

    /// An operator of a schema of its own runs a function that nobody here knows. Others are taken for the
    /// server's own, unless the catalog has one of the name with a function of the database's.
    fn operator(&mut self, name: &[Node]) {
        let unknown = match strings(name).as_slice() {
            [schema, _] => schema != "pg_catalog",
            [name] => self.catalog.code().operators.contains(name.as_str()),
            _ => false,
        };
        if unknown {
            self.opaque.insert("unknown-function");
        }
    }

    /// Notes a call of a function by the parts of its name.
    pub(super) fn function(&mut self, parts: &[String]) {
        let (schema, name) = match parts {
            [name] => ("", name.as_str()),
            [.., schema, name] => (schema.as_str(), name.as_str()),
            [] => return,
        };
        if builtin::runs_sql(name) {
            self.opaque.insert("dynamic-sql");
        }
        self.sets_config |= name == "set_config";
        let schemas = match schema {
            "" => self.catalog.function_schemas(name, self.path),
            schema if self.catalog.has_function(schema, name) => vec![schema],
            _ => Vec::new(),
        };
        if schemas.is_empty() {
            self.opaque.insert("unknown-function");
            let written = if schema.is_empty() { name.to_owned() } else { format!("{schema}.{name}") };
            self.functions.insert(self.tenant.unknown_identifier(&written));
        }
        for schema in schemas {
            if schema == "pg_catalog" {
                self.functions.insert(name.to_owned());
            } else {
                // Its body is the database's own; the text does not tell what it does.
                self.opaque.insert("unknown-function");
                self.functions.insert(format!("{schema}.{name}"));
            }
        }
    }
}

/// The strings of a list of names.
pub(super) fn strings(nodes: &[Node]) -> Vec<String> {
    nodes
        .iter()
        .filter_map(|node| match &node.node {
            Some(N::String(text)) => Some(text.sval.clone()),
            Some(N::AStar(_)) => Some("*".to_owned()),
            _ => None,
        })
        .collect()
}

/// Whether a predicate can let less than everything through: it looks at columns, and no branch of an OR lets
/// everything pass.
pub(super) fn narrows(node: &Node) -> bool {
    match &node.node {
        Some(N::BoolExpr(e)) if e.boolop == pg::BoolExprType::OrExpr as i32 => e.args.iter().all(narrows),
        Some(N::BoolExpr(e)) => e.args.iter().any(narrows),
        Some(N::CurrentOfExpr(_)) => true,
        // `id = id` is no predicate.
        Some(N::AExpr(e)) if e.lexpr.is_some() && same_column(e.lexpr.as_deref(), e.rexpr.as_deref()) => {
            false
        }
        Some(other) => !search(other).columns.is_empty(),
        None => false,
    }
}

fn same_column(left: Option<&Node>, right: Option<&Node>) -> bool {
    let name = |node: Option<&Node>| match node.and_then(|n| n.node.as_ref()) {
        Some(N::ColumnRef(column)) => Some(strings(&column.fields)),
        _ => None,
    };
    name(left).is_some_and(|left| name(right) == Some(left))
}

pub(super) fn expression_output(name: Option<String>) -> Output {
    Output { name, origin: names::Origin::Expression }
}
