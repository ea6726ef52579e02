//! What each kind of statement does: one function that knows them all by name.
//!
//! Queries are walked; of a utility statement this says which relations it touches. Invariant: a kind of
//! statement that is not listed is searched, and every relation in it counts as written.

use std::sync::Arc;

use pg_query::protobuf as pg;
use pg_query::protobuf::Node;
use pg_query::protobuf::node::Node as N;

use super::analyse::{Outcome, constant, found};
use super::facts::{EXECUTE_UNKNOWN, Facts, Reference, SettingChange};
use super::search::search;
use super::walk::names::{Origin, Output, Rel};
use super::walk::{Walk, strings};

/// Walks one statement.
pub fn statement(walk: &mut Walk<'_>, node: &N) -> Outcome {
    walk.attaches_code |= matches!(
        node,
        N::ViewStmt(_)
            | N::RuleStmt(_)
            | N::CreateTrigStmt(_)
            | N::CreateEventTrigStmt(_)
            | N::AlterEventTrigStmt(_)
            | N::CreatePolicyStmt(_)
            | N::AlterPolicyStmt(_)
            | N::CreateFunctionStmt(_)
            | N::CreateDomainStmt(_)
            | N::AlterDomainStmt(_)
            | N::CreateCastStmt(_)
            | N::DefineStmt(_)
            | N::AlterTableStmt(_)
            | N::RenameStmt(_)
            | N::CreateExtensionStmt(_)
    );
    let outcome = by_kind(walk, node);
    // An event trigger runs whatever changes the catalog.
    walk.sets_config |= walk.catalog.code().ddl && matches!(outcome.kind, "ddl" | "dcl");
    outcome
}

fn by_kind(walk: &mut Walk<'_>, node: &N) -> Outcome {
    match node {
        N::SelectStmt(select) => {
            let kind = if select.into_clause.is_some() { "ddl" } else { "select" };
            Outcome { kind, ..outermost(walk, node) }
        }
        N::InsertStmt(_) => Outcome { kind: "insert", ..outermost(walk, node) },
        N::UpdateStmt(_) => Outcome { kind: "update", ..outermost(walk, node) },
        N::DeleteStmt(_) => Outcome { kind: "delete", ..outermost(walk, node) },
        N::MergeStmt(_) => Outcome { kind: "merge", ..outermost(walk, node) },
        N::CopyStmt(copy) => self::copy(walk, copy),
        N::ExplainStmt(explain) => self::explain(walk, explain),
        N::PrepareStmt(prepare) => {
            let Some(query) = inner(prepare.query.as_deref()) else { return kind("prepare") };
            let reference = |facts| Reference::Prepares(prepare.name.clone(), facts);
            defined(walk, "prepare", query, reference)
        }
        N::DeclareCursorStmt(declare) => {
            let Some(query) = inner(declare.query.as_deref()) else { return kind("cursor") };
            // CURSOR_OPT_HOLD of parsenodes.h.
            let holds = declare.options & 0x20 != 0;
            let reference = |facts| Reference::Declares(declare.portalname.clone(), facts, holds);
            defined(walk, "cursor", query, reference)
        }
        N::ExecuteStmt(execute) => {
            walk.expressions(&execute.params);
            walk.opaque.insert(EXECUTE_UNKNOWN);
            referring("execute", Reference::Executes(execute.name.clone()))
        }
        N::DeallocateStmt(deallocate) => {
            let name = (!deallocate.isall && !deallocate.name.is_empty()).then(|| deallocate.name.clone());
            referring("deallocate", Reference::Deallocates(name))
        }
        N::FetchStmt(fetch) => {
            walk.opaque.insert(EXECUTE_UNKNOWN);
            referring("cursor", Reference::Fetches(fetch.portalname.clone()))
        }
        N::ClosePortalStmt(close) => {
            let name = (!close.portalname.is_empty()).then(|| close.portalname.clone());
            referring("cursor", Reference::Closes(name))
        }
        N::CreateTableAsStmt(create) => {
            if let Some(into) = create.into.as_ref().and_then(|into| into.rel.as_ref()) {
                walk.write_relation(into);
            }
            match inner(create.query.as_deref()) {
                Some(query) => {
                    let Outcome { references, .. } = statement(walk, query);
                    Outcome { references, ..kind("ddl") }
                }
                None => kind("ddl"),
            }
        }
        N::ViewStmt(view) => {
            if let Some(view) = &view.view {
                walk.write_relation(view);
            }
            if let Some(query) = &view.query {
                walk.open |= walk.query(query).open;
            }
            kind("ddl")
        }
        N::CreateStmt(create) => {
            if let Some(relation) = create.relation.as_ref().filter(|r| r.relpersistence == "t") {
                walk.write_relation(relation);
            } else {
                touched(walk, create);
            }
            kind("ddl")
        }
        N::RenameStmt(rename) => {
            let relation = rename.relation.as_ref().map(|r| r.relname.as_str()).unwrap_or_default();
            if walk.settings.temporary.contains(relation) {
                walk.temporary.insert(rename.newname.clone());
            }
            touched(walk, node);
            kind("ddl")
        }
        N::RuleStmt(rule) => {
            if let Some(relation) = &rule.relation {
                walk.write_relation(relation);
            }
            walk.unusual(&search(&rule.actions));
            kind("ddl")
        }
        N::CreateFunctionStmt(function) => {
            walk.unusual(&search(&**function));
            kind("ddl")
        }
        N::RefreshMatViewStmt(refresh) => {
            written(walk, refresh.relation.as_ref());
            kind("maintenance")
        }
        N::TruncateStmt(truncate) => {
            // A delete that nothing narrows.
            walk.open = true;
            touched(walk, &truncate.relations);
            walk.changed.extend(walk.written.iter().cloned());
            kind("delete")
        }
        N::LockStmt(lock) => {
            for (schema, name) in search(&lock.relations).relations {
                walk.read_relation(&schema, &name);
            }
            kind("lock")
        }
        N::DropStmt(drop) => {
            self::drop(walk, drop);
            kind("ddl")
        }
        N::DoStmt(_) => {
            walk.opaque.insert("do");
            changing("do")
        }
        N::CallStmt(call) => {
            walk.opaque.insert("call");
            if let Some(call) = &call.funccall {
                walk.call(call);
            }
            changing("call")
        }
        N::VariableSetStmt(set) => self::set(walk, set),
        N::DiscardStmt(discard) => {
            let all = discard.target == pg::DiscardMode::DiscardAll as i32;
            let references =
                if all { vec![Reference::Deallocates(None), Reference::Closes(None)] } else { Vec::new() };
            Outcome { references, ..if all { changing("set") } else { kind("set") } }
        }
        N::VariableShowStmt(_) => kind("show"),
        N::ConstraintsSetStmt(_) => kind("set"),
        N::TransactionStmt(_) => kind("transaction"),
        N::ListenStmt(_) | N::UnlistenStmt(_) => kind("listen"),
        N::NotifyStmt(_) => kind("notify"),
        N::LoadStmt(_) => kind("other"),
        N::CheckPointStmt(_) => kind("maintenance"),
        N::VacuumStmt(_) | N::ClusterStmt(_) | N::ReindexStmt(_) => {
            touched(walk, node);
            kind("maintenance")
        }
        N::GrantStmt(_)
        | N::GrantRoleStmt(_)
        | N::AlterDefaultPrivilegesStmt(_)
        | N::CreateRoleStmt(_)
        | N::AlterRoleStmt(_)
        | N::AlterRoleSetStmt(_)
        | N::DropRoleStmt(_)
        | N::DropOwnedStmt(_)
        | N::ReassignOwnedStmt(_)
        | N::AlterOwnerStmt(_) => {
            touched(walk, node);
            kind("dcl")
        }
        other => {
            touched(walk, other);
            kind("ddl")
        }
    }
}

fn kind(kind: &'static str) -> Outcome {
    Outcome { kind, ..Outcome::default() }
}

fn referring(kind: &'static str, reference: Reference) -> Outcome {
    Outcome { kind, references: vec![reference], ..Outcome::default() }
}

/// A statement after which settings may be anything.
fn changing(kind: &'static str) -> Outcome {
    Outcome { kind, setting_changes: vec![SettingChange::Unknown], ..Outcome::default() }
}

fn inner(node: Option<&Node>) -> Option<&N> {
    node.and_then(|node| node.node.as_ref())
}

/// Walks a query that is the statement itself.
fn outermost(walk: &mut Walk<'_>, node: &N) -> Outcome {
    let mut outcome = Outcome::default();
    if let N::SelectStmt(select) = node {
        outcome.limit_rows = constant(select.limit_count.as_deref());
        outcome.offset_rows = constant(select.limit_offset.as_deref());
    }
    let query = walk.query_of(node);
    walk.open |= query.open;
    outcome.outputs = query.outputs;
    outcome
}

/// Walks a statement that is defined under a name; its facts go with the name.
fn defined(
    walk: &mut Walk<'_>,
    kind: &'static str,
    query: &N,
    reference: impl FnOnce(Arc<Facts>) -> Reference,
) -> Outcome {
    let mut own = Walk::new(walk.catalog, walk.tenant, walk.settings);
    let outcome = statement(&mut own, query);
    let mut facts = found(own, walk.catalog);
    facts.statement_kind = outcome.kind;
    facts.statement_count = 1;
    facts.limit_rows = outcome.limit_rows;
    facts.offset_rows = outcome.offset_rows;
    facts.output_columns = outcome.outputs.iter().map(Output::label).collect();
    let outcome = statement(walk, query);
    Outcome { kind, references: vec![reference(Arc::new(facts))], ..outcome }
}

/// Relations in a part of a statement that changes them or what may be done with them.
fn touched(walk: &mut Walk<'_>, part: &impl serde::Serialize) {
    let found = search(part);
    for (schema, name) in &found.relations {
        walk.write_named(schema, name);
    }
    for function in &found.functions {
        walk.function(function);
    }
}

fn written(walk: &mut Walk<'_>, relation: Option<&pg::RangeVar>) {
    if let Some(relation) = relation {
        walk.write_relation(relation);
    }
}

fn copy(walk: &mut Walk<'_>, copy: &pg::CopyStmt) -> Outcome {
    if copy.is_program {
        walk.opaque.insert("copy-program");
    } else if !copy.filename.is_empty() {
        walk.opaque.insert("copy-file");
    }
    walk.expressions(copy.where_clause.as_deref());
    let mut outcome = match (&copy.relation, inner(copy.query.as_deref())) {
        (Some(relation), _) if copy.is_from => {
            let rels = walk.relations_of(relation);
            walk.changed.extend(rels);
            walk.write_relation(relation);
            Outcome::default()
        }
        (Some(relation), _) => {
            // COPY TO takes no WHERE.
            walk.open = true;
            let rels = walk.relations_of(relation);
            walk.read.extend(rels.iter().cloned());
            Outcome { outputs: copied(&rels, &strings(&copy.attlist), walk), ..Outcome::default() }
        }
        (None, Some(query)) => outermost(walk, query),
        (None, None) => Outcome::default(),
    };
    outcome.kind = "copy";
    outcome
}

/// The columns that a COPY of a relation puts out.
fn copied(rels: &[Rel], columns: &[String], walk: &Walk<'_>) -> Vec<Output> {
    let [rel] = rels else { return vec![Output { name: None, origin: Origin::Expression }] };
    if columns.is_empty() {
        return vec![Output { name: None, origin: Origin::All(rel.clone()) }];
    }
    let place = rel.place.and_then(|at| walk.catalog.at(at));
    columns
        .iter()
        .map(|name| {
            let known = place.is_some_and(|place| place.has_column(name));
            let shown = if known { name.clone() } else { walk.tenant.unknown_identifier(name) };
            Output { name: Some(name.clone()), origin: Origin::Column(rel.clone(), shown) }
        })
        .collect()
}

fn explain(walk: &mut Walk<'_>, explain: &pg::ExplainStmt) -> Outcome {
    let Some(query) = inner(explain.query.as_deref()) else { return kind("explain") };
    let before = walk.written.clone();
    let Outcome { references, .. } = statement(walk, query);
    let off = |arg: Option<&Node>| match inner(arg) {
        Some(N::String(text)) => {
            matches!(text.sval.to_ascii_lowercase().as_str(), "false" | "off" | "0" | "no")
        }
        Some(N::Integer(number)) => number.ival == 0,
        Some(N::Boolean(value)) => !value.boolval,
        _ => false,
    };
    let runs = explain.options.iter().any(|node| match &node.node {
        Some(N::DefElem(option)) => option.defname == "analyze" && !off(option.arg.as_deref()),
        _ => false,
    });
    if !runs {
        // Nothing is written; the plan still tells about what would be.
        let planned = std::mem::replace(&mut walk.written, before);
        let new: Vec<Rel> = planned.difference(&walk.written).cloned().collect();
        walk.read.extend(new);
    }
    Outcome { references, ..kind("explain") }
}

fn drop(walk: &mut Walk<'_>, drop: &pg::DropStmt) {
    use pg::ObjectType as T;
    let relations =
        [T::ObjectTable, T::ObjectView, T::ObjectMatview, T::ObjectSequence, T::ObjectForeignTable];
    // The table of a trigger, policy or rule stands before its name.
    let parts_of = [T::ObjectTrigger, T::ObjectPolicy, T::ObjectRule];
    let one_of = |types: &[T]| types.iter().any(|t| *t as i32 == drop.remove_type);
    for node in &drop.objects {
        let Some(N::List(list)) = &node.node else { continue };
        let mut name = strings(&list.items);
        if one_of(&parts_of) {
            name.pop();
        } else if !one_of(&relations) {
            continue;
        }
        match name.as_slice() {
            [name] => walk.write_named("", name),
            [.., schema, name] => walk.write_named(schema, name),
            [] => {}
        }
    }
}

fn set(walk: &mut Walk<'_>, set: &pg::VariableSetStmt) -> Outcome {
    use pg::VariableSetKind as K;
    walk.expressions(&set.args);
    let mut outcome = kind("set");
    let path = set.name.eq_ignore_ascii_case("search_path");
    // A role or session authorization can bring settings of its own only at login, but `$user` changes.
    let whose = matches!(set.name.to_ascii_lowercase().as_str(), "role" | "session_authorization");
    if path && set.kind == K::VarSetValue as i32 && !set.is_local {
        let schemas: Vec<String> = set.args.iter().filter_map(text_of).collect();
        let known = schemas.len() == set.args.len();
        let change = if known { SettingChange::SearchPath(schemas) } else { SettingChange::Unknown };
        outcome.setting_changes.push(change);
    } else if whose || set.kind == K::VarResetAll as i32 {
        outcome.setting_changes.push(SettingChange::Role);
    } else if path {
        outcome.setting_changes.push(SettingChange::Unknown);
    } else if ["standard_conforming_strings", "client_encoding", "backslash_quote", "names"]
        .iter()
        .any(|name| set.name.eq_ignore_ascii_case(name))
    {
        outcome.setting_changes.push(SettingChange::Lexing);
    }
    outcome
}

/// The text of a constant.
fn text_of(node: &Node) -> Option<String> {
    match inner(Some(node)) {
        Some(N::AConst(value)) => match value.val.as_ref()? {
            pg::a_const::Val::Sval(text) => Some(text.sval.clone()),
            _ => None,
        },
        _ => None,
    }
}
