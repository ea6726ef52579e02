//! From the text of a message to its facts: parse, walk each statement, name what was found.
//!
//! Invariant: this returns facts for every text, and takes time and memory in proportion to its length.

use std::collections::BTreeSet;
use std::sync::Arc;

use bodycam_record::TenantKey;
use pg_query::ParserOptions;
use pg_query::protobuf as pg;
use pg_query::protobuf::node::Node as N;
use pg_query::protobuf::summary_result::Context;

use super::catalog::CatalogSnapshot;
use super::facts::{EXECUTE_UNKNOWN, Facts, MAX_LISTED, NO_CATALOG, Reference, SettingChange};
use super::redact::{Redacted, SecretParameters, redact_secrets};
use super::settings::Settings;
use super::statement::statement;
use super::template::template;
use super::walk::Walk;
use super::walk::names::{Output, Rel};

/// What one statement adds to what its walk found.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Its kind.
    pub kind: &'static str,
    /// What it puts out.
    pub outputs: Vec<Output>,
    /// Constant LIMIT of its outermost query.
    pub limit_rows: Option<i64>,
    /// Constant OFFSET of its outermost query.
    pub offset_rows: Option<i64>,
    /// Names it defines or uses.
    pub references: Vec<Reference>,
    /// Settings it changes.
    pub setting_changes: Vec<SettingChange>,
}

/// The facts of `sql`. `max_bytes` bounds what is looked at.
pub fn analyse(
    sql: &str,
    settings: &Settings,
    catalog: &CatalogSnapshot,
    tenant: &TenantKey,
    max_bytes: usize,
) -> Facts {
    let standard = settings.standard_conforming_strings;
    if sql.len() > max_bytes {
        return unparsed(sql, standard, catalog, "too-large");
    }
    let options =
        if standard { ParserOptions::DEFAULT } else { ParserOptions::DISABLE_STANDARD_CONFORMING_STRINGS };
    let mut facts = match pg_query::parse(sql, options) {
        Ok(tree) => from_tree(&tree.protobuf.stmts, settings, catalog, tenant),
        // The tree is too deep to be handed over; its summary is not.
        Err(pg_query::Error::Decode(_)) => match pg_query::summary(sql, options, -1) {
            Ok(summary) => from_summary(&summary, settings, catalog, tenant),
            Err(_) => return unparsed(sql, standard, catalog, "too-deep"),
        },
        Err(pg_query::Error::Parse(message)) if too_deep(&message) => {
            return unparsed(sql, standard, catalog, "too-deep");
        }
        Err(_) => return unparsed(sql, standard, catalog, "unparsed"),
    };
    let text = template(sql, standard, catalog, tenant);
    facts.fingerprint = Some(tenant.fingerprint(&text));
    facts.template = Some(text);
    (facts.redacted, facts.secret_parameters) = redacted(sql, standard, true, catalog);
    if facts.secret_parameters != SecretParameters::None {
        for reference in &mut facts.references {
            if let Reference::Prepares(_, inner) = reference {
                Arc::make_mut(inner).secret_parameters = facts.secret_parameters.clone();
            }
        }
    }
    facts
}

fn unparsed(sql: &str, standard: bool, catalog: &CatalogSnapshot, reason: &'static str) -> Facts {
    let (redacted, _) = redacted(sql, standard, false, catalog);
    Facts { redacted, ..Facts::unparsed(reason) }
}

fn redacted(
    sql: &str,
    standard: bool,
    parses: bool,
    catalog: &CatalogSnapshot,
) -> (Option<Arc<str>>, SecretParameters) {
    let columns_of = |name: &str| catalog.columns_of(name);
    let Redacted { text, parameters } = redact_secrets(sql, standard, parses, &columns_of);
    match text {
        std::borrow::Cow::Borrowed(_) => (None, parameters),
        std::borrow::Cow::Owned(safe) => (Some(safe.into()), parameters),
    }
}

/// Whether the parser gave up for the depth of the text, not for its grammar.
fn too_deep(message: &str) -> bool {
    message.contains("stack depth limit") || message.contains("memory exhausted")
}

fn from_tree(
    statements: &[pg::RawStmt],
    settings: &Settings,
    catalog: &CatalogSnapshot,
    tenant: &TenantKey,
) -> Facts {
    let mut walk = Walk::new(catalog, tenant, settings);
    let mut outcomes = Vec::with_capacity(statements.len());
    for raw in statements {
        if let Some(node) = raw.stmt.as_ref().and_then(|node| node.node.as_ref()) {
            outcomes.push(statement(&mut walk, node));
        }
    }
    let mut facts = found(walk, catalog);
    facts.statement_count = i64::try_from(outcomes.len()).unwrap_or(i64::MAX);
    facts.statement_kind = match outcomes.as_slice() {
        [] => "empty",
        [one] => one.kind,
        _ => "multi",
    };
    if let [one] = outcomes.as_slice() {
        facts.limit_rows = one.limit_rows;
        facts.offset_rows = one.offset_rows;
        facts.output_columns = one.outputs.iter().map(Output::label).collect();
        cut(&mut facts.output_columns, &mut facts.opaque);
    }
    for outcome in outcomes {
        facts.references.extend(outcome.references);
        facts.setting_changes.extend(outcome.setting_changes);
    }
    facts.references.truncate(MAX_LISTED);
    if catalog.generation() == 0 && !(facts.relations_read.is_empty() && facts.relations_written.is_empty()) {
        facts.opaque.push(NO_CATALOG);
    }
    facts
}

/// The facts that a walk found, without those of the text as a whole.
pub fn found(walk: Walk<'_>, catalog: &CatalogSnapshot) -> Facts {
    // A body that nobody here knows can set the search path as well.
    let mut sets_config = walk.sets_config
        || ["unknown-function", "dynamic-sql"].iter().any(|reason| walk.opaque.contains(reason));
    let mut walk = walk;
    beneath_views(&mut walk.read, catalog);
    beneath_views(&mut walk.written, catalog);
    beneath_views(&mut walk.changed, catalog);
    sets_config |= runs_unseen(&walk, catalog);
    // A rule of this view turns an UPDATE into set_config.
    sets_config |= walk.written.iter().any(|rel| rel.label == "pg_catalog.pg_settings");
    let mut facts = Facts {
        has_predicate: !walk.open,
        temporary: walk.temporary.into_iter().collect(),
        attaches_code: walk.attaches_code || sets_config,
        opaque: walk.opaque.into_iter().collect(),
        functions: walk.functions.into_iter().collect(),
        ..Facts::default()
    };
    if sets_config {
        facts.setting_changes.push(SettingChange::Unknown);
    }
    (facts.main_relation, facts.est_rows) = main_relation(&walk.written, &walk.read, catalog);
    facts.relations_read = labels(walk.read);
    facts.relations_written = labels(walk.written);
    for list in [&mut facts.relations_read, &mut facts.relations_written, &mut facts.functions] {
        cut(list, &mut facts.opaque);
    }
    facts
}

/// Whether what the statement reads or changes may run functions that can set anything: by the catalog, and where that
/// does not know the relation, or not what the session itself has done to it, by what can be.
fn runs_unseen(walk: &Walk<'_>, catalog: &CatalogSnapshot) -> bool {
    let own = walk.settings.own_code;
    let code = catalog.code();
    let changed = walk.changed.iter().any(|rel| match rel.place.and_then(|at| catalog.at(at)) {
        Some(relation) => own || code.written.contains(&relation.oid),
        // To its own temporary relations only the session itself can have put anything.
        None => own || !rel.label.starts_with("pg_temp."),
    });
    let read = walk.read.iter().any(|rel| match rel.place.and_then(|at| catalog.at(at)) {
        Some(relation) => {
            own && relation.kind == 'v' && relation.oid >= 16_384 || code.read.contains(&relation.oid)
        }
        None => own,
    });
    changed || read
}

/// Adds the relations that views among these stand for.
fn beneath_views(relations: &mut BTreeSet<Rel>, catalog: &CatalogSnapshot) {
    let views: Vec<usize> = relations.iter().filter_map(|rel| rel.place).collect();
    for beneath in views.into_iter().flat_map(|at| catalog.beneath(at)) {
        if let Some(relation) = catalog.at(beneath) {
            relations.insert(Rel { label: relation.label(), place: Some(beneath) });
        }
    }
}

/// The relation with the largest estimate; without estimates the first written, else the first read.
fn main_relation(
    written: &BTreeSet<Rel>,
    read: &BTreeSet<Rel>,
    catalog: &CatalogSnapshot,
) -> (Option<String>, Option<i64>) {
    let rows = |rel: &Rel| rel.place.and_then(|at| catalog.at(at)).and_then(|r| r.est_rows);
    let all = || written.iter().chain(read);
    let largest = all().filter(|rel| rows(rel).is_some()).max_by_key(|rel| rows(rel));
    let main = largest.or_else(|| all().next());
    (main.map(|rel| rel.label.clone()), main.and_then(rows))
}

fn labels(relations: BTreeSet<Rel>) -> Vec<String> {
    let mut labels: Vec<String> = relations.into_iter().map(|rel| rel.label).collect();
    labels.dedup();
    labels
}

/// Cuts a list to what an event can hold, and says so.
fn cut(list: &mut Vec<String>, opaque: &mut Vec<&'static str>) {
    if list.len() > MAX_LISTED {
        list.truncate(MAX_LISTED);
        if !opaque.contains(&"too-large") {
            opaque.push("too-large");
        }
    }
}

/// What the summary of a very deep statement tells: relations, functions and kinds, nothing about columns or
/// predicates.
fn from_summary(
    summary: &pg_query::SummaryResult,
    settings: &Settings,
    catalog: &CatalogSnapshot,
    tenant: &TenantKey,
) -> Facts {
    let mut walk = Walk::new(catalog, tenant, settings);
    walk.opaque.insert("too-deep");
    for table in &summary.protobuf.tables {
        if table.context == Context::Select as i32 || table.context == Context::None as i32 {
            walk.read_relation(&table.schema_name, &table.table_name);
        } else {
            walk.write_named(&table.schema_name, &table.table_name);
        }
        walk.open = true;
    }
    for function in &summary.protobuf.functions {
        let parts: Vec<String> = [&function.schema_name, &function.function_name]
            .into_iter()
            .filter(|part| !part.is_empty())
            .cloned()
            .collect();
        walk.function(&parts);
    }
    let kinds: Vec<&'static str> = summary.statement_types.iter().map(|kind| kind_of_type(kind)).collect();
    for (kind, reason) in [("execute", EXECUTE_UNKNOWN), ("do", "do"), ("call", "call")] {
        if kinds.contains(&kind) {
            walk.opaque.insert(reason);
        }
    }
    let changes_settings = kinds.contains(&"set");
    let count = summary.statement_types.len();
    let mut facts = found(walk, catalog);
    facts.statement_kind = match kinds.as_slice() {
        [] => "other",
        // These list the statement inside them as well.
        [outer @ ("explain" | "prepare" | "copy" | "cursor" | "ddl"), ..] | [outer] => outer,
        _ => "multi",
    };
    facts.statement_count = i64::try_from(count).unwrap_or(i64::MAX);
    if changes_settings {
        facts.setting_changes.push(SettingChange::Unknown);
    }
    facts
}

/// The kind of a statement by the name of its parse node.
fn kind_of_type(name: &str) -> &'static str {
    match name {
        "SelectStmt" => "select",
        "InsertStmt" => "insert",
        "UpdateStmt" => "update",
        "DeleteStmt" => "delete",
        "MergeStmt" => "merge",
        "CopyStmt" => "copy",
        "ExplainStmt" => "explain",
        "PrepareStmt" => "prepare",
        "ExecuteStmt" => "execute",
        "CallStmt" => "call",
        "DoStmt" => "do",
        "DeclareCursorStmt" => "cursor",
        "VariableSetStmt" => "set",
        name if name.starts_with("Create") || name.starts_with("Alter") || name == "ViewStmt" => "ddl",
        _ => "other",
    }
}

/// The constant that a LIMIT or OFFSET is.
pub fn constant(node: Option<&pg::Node>) -> Option<i64> {
    use pg::a_const::Val;
    match node?.node.as_ref()? {
        N::AConst(value) => match value.val.as_ref()? {
            Val::Ival(value) => Some(i64::from(value.ival)),
            Val::Fval(value) => value.fval.parse().ok(),
            Val::Sval(value) => value.sval.trim().parse().ok(),
            _ => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod statements;
