//! Queries: SELECT, VALUES, set operations, INSERT, UPDATE, DELETE, MERGE, and WITH around them.

use std::sync::Arc;

use pg_query::protobuf as pg;
use pg_query::protobuf::Node;
use pg_query::protobuf::node::Node as N;

use super::super::search::search;
use super::from::narrow;
use super::names::{MAX_OUTPUTS, Origin, Output, Rel};
use super::{Walk, expression_output, strings};

/// What a query puts out, and whether it reads a relation that nothing narrows.
#[derive(Debug, Default)]
pub struct Query {
    pub outputs: Vec<Output>,
    pub open: bool,
}

/// A common table expression in scope.
#[derive(Debug, Clone)]
pub struct Cte {
    pub name: String,
    pub outputs: Arc<[Output]>,
    pub open: bool,
    /// Whether its own body is being walked.
    pub walking: bool,
}

impl Walk<'_> {
    /// The common table expression of this name, the innermost first.
    pub(super) fn cte(&self, name: &str) -> Option<Cte> {
        self.ctes.iter().rev().find(|cte| cte.name == name).cloned()
    }

    /// Walks a query of any kind, where there is one.
    pub fn query(&mut self, node: &Node) -> Query {
        node.node.as_ref().map(|node| self.query_of(node)).unwrap_or_default()
    }

    /// Walks a query of any kind.
    pub fn query_of(&mut self, node: &N) -> Query {
        match node {
            N::SelectStmt(select) => self.select(select),
            N::InsertStmt(insert) => self.insert(insert),
            N::UpdateStmt(update) => self.update(update),
            N::DeleteStmt(delete) => self.delete(delete),
            N::MergeStmt(merge) => self.merge(merge),
            other => {
                self.unusual(&search(other));
                Query { outputs: Vec::new(), open: true }
            }
        }
    }

    /// Runs `inside` with the common table expressions of `with` in scope, on a level of its own.
    fn scoped(&mut self, with: Option<&pg::WithClause>, inside: impl FnOnce(&mut Self) -> Query) -> Query {
        let before = self.ctes.len();
        if let Some(with) = with {
            self.with(with);
        }
        self.levels.push(Vec::new());
        let query = inside(self);
        self.levels.pop();
        self.ctes.truncate(before);
        query
    }

    fn with(&mut self, with: &pg::WithClause) {
        let ctes = with.ctes.iter().filter_map(|node| match &node.node {
            Some(N::CommonTableExpr(cte)) => Some(cte),
            _ => None,
        });
        let first = self.ctes.len();
        if with.recursive {
            // All see each other. What is not walked yet is taken for open; oneself is set right below.
            self.ctes.extend(ctes.clone().map(|cte| Cte {
                name: cte.ctename.clone(),
                outputs: Arc::default(),
                open: true,
                walking: false,
            }));
        }
        for (number, cte) in ctes.enumerate() {
            if with.recursive
                && let Some(own) = self.ctes.get_mut(first + number)
            {
                (own.open, own.walking) = (false, true);
            }
            let Some(body) = &cte.ctequery else { continue };
            let mut query = self.query(body);
            if !matches!(body.node, Some(N::SelectStmt(_))) {
                // A change runs whether anybody reads its output or not.
                self.open |= query.open;
                query.open = false;
            }
            for (output, name) in query.outputs.iter_mut().zip(strings(&cte.aliascolnames)) {
                output.name = Some(name);
            }
            let walked = Cte {
                name: cte.ctename.clone(),
                outputs: query.outputs.into(),
                open: query.open,
                walking: false,
            };
            match self.ctes.get_mut(first + number) {
                Some(own) if with.recursive => *own = walked,
                _ => self.ctes.push(walked),
            }
        }
    }

    /// Walks a SELECT, VALUES or set operation.
    pub fn select(&mut self, select: &pg::SelectStmt) -> Query {
        self.scoped(select.with_clause.as_ref(), |walk| {
            let mut query = match (&select.larg, &select.rarg) {
                (Some(left), Some(right)) => walk.set_operation(left, right),
                _ => walk.plain_select(select),
            };
            walk.expressions(&select.sort_clause);
            walk.expressions(select.limit_count.as_deref());
            walk.expressions(select.limit_offset.as_deref());
            if let Some(into) = select.into_clause.as_ref().and_then(|into| into.rel.as_ref()) {
                walk.write_relation(into);
            }
            if !select.values_lists.is_empty() {
                walk.expressions(&select.values_lists);
                query.outputs = values_outputs(&select.values_lists);
            }
            query
        })
    }

    fn plain_select(&mut self, select: &pg::SelectStmt) -> Query {
        self.read_from(&select.from_clause);
        self.expressions(&select.target_list);
        self.expressions(&select.distinct_clause);
        self.expressions(&select.group_clause);
        self.expressions(&select.window_clause);
        self.expressions(select.where_clause.as_deref());
        self.expressions(select.having_clause.as_deref());
        let open = self.narrowed(&[select.where_clause.as_deref(), select.having_clause.as_deref()]);
        Query { outputs: self.targets(&select.target_list), open }
    }

    fn set_operation(&mut self, left: &pg::SelectStmt, right: &pg::SelectStmt) -> Query {
        let mut whole = self.select(left);
        if let Some(own) = self.recursive_self() {
            // The recursive arm reads what the first one puts out.
            own.outputs = whole.outputs.as_slice().into();
        }
        let right = self.select(right);
        whole.open |= right.open;
        let alike = whole.outputs.len() == right.outputs.len();
        for (at, output) in whole.outputs.iter_mut().enumerate() {
            if !alike || right.outputs.get(at).is_none_or(|other| other.origin != output.origin) {
                output.origin = Origin::Expression;
            }
        }
        whole
    }

    /// The recursive common table expression whose first arm has just been walked.
    fn recursive_self(&mut self) -> Option<&mut Cte> {
        self.ctes.iter_mut().rev().find(|cte| cte.walking && cte.outputs.is_empty())
    }

    /// Applies predicates to the current level. Says whether a read stays open.
    fn narrowed(&mut self, predicates: &[Option<&Node>]) -> bool {
        let catalog = self.catalog;
        let Some(level) = self.levels.last_mut() else { return false };
        for predicate in predicates.iter().flatten() {
            narrow(level, predicate, catalog);
        }
        level.iter().any(|item| item.open)
    }

    /// What a target list puts out.
    fn targets(&self, targets: &[Node]) -> Vec<Output> {
        let mut outputs = Vec::new();
        for node in targets {
            if outputs.len() > MAX_OUTPUTS {
                return vec![expression_output(None)];
            }
            let Some(N::ResTarget(target)) = &node.node else { continue };
            let alias = (!target.name.is_empty()).then(|| target.name.clone());
            match target.val.as_deref().and_then(|value| value.node.as_ref()) {
                Some(N::ColumnRef(column)) => {
                    for mut output in self.outputs_of(column) {
                        output.name = alias.clone().or(output.name);
                        outputs.push(output);
                    }
                }
                // (c).card and (c).* of a row by the name of its item.
                Some(N::AIndirection(of)) => outputs.extend(self.fields_of(of, alias)),
                _ => outputs.push(expression_output(alias)),
            }
        }
        if outputs.len() > MAX_OUTPUTS {
            return vec![expression_output(None)];
        }
        outputs
    }

    fn fields_of(&self, of: &pg::AIndirection, alias: Option<String>) -> Vec<Output> {
        let base = match of.arg.as_deref().and_then(|arg| arg.node.as_ref()) {
            Some(N::ColumnRef(column)) if column.fields.len() == 1 => column,
            _ => return vec![expression_output(alias)],
        };
        let fields = [base.fields.as_slice(), of.indirection.as_slice()].concat();
        if strings(&fields).len() != fields.len() || of.indirection.len() != 1 {
            return vec![expression_output(alias)];
        }
        let mut outputs = self.outputs_of(&pg::ColumnRef { fields, location: 0 });
        for output in &mut outputs {
            output.name = alias.clone().or_else(|| output.name.take());
        }
        outputs
    }

    fn insert(&mut self, insert: &pg::InsertStmt) -> Query {
        self.scoped(insert.with_clause.as_ref(), |walk| {
            let mut open = false;
            if let Some(source) = &insert.select_stmt {
                open = walk.query(source).open;
            }
            walk.expressions(&insert.cols);
            let target = walk.target(insert.relation.as_ref(), false);
            if let Some(conflict) = &insert.on_conflict_clause {
                walk.expressions(&conflict.target_list);
                walk.expressions(conflict.where_clause.as_deref());
                if let Some(infer) = &conflict.infer {
                    walk.unusual(&search(&**infer));
                }
            }
            // Without a conflict it hands out nothing but what was put in.
            let target = if insert.on_conflict_clause.is_some() { target } else { Vec::new() };
            Query { outputs: walk.returning(&target, insert.returning_clause.as_ref()), open }
        })
    }

    fn update(&mut self, update: &pg::UpdateStmt) -> Query {
        self.scoped(update.with_clause.as_ref(), |walk| {
            let target = walk.target(update.relation.as_ref(), true);
            walk.read_from(&update.from_clause);
            walk.expressions(&update.target_list);
            walk.expressions(update.where_clause.as_deref());
            let open = walk.narrowed(&[update.where_clause.as_deref()]);
            Query { outputs: walk.returning(&target, update.returning_clause.as_ref()), open }
        })
    }

    fn delete(&mut self, delete: &pg::DeleteStmt) -> Query {
        self.scoped(delete.with_clause.as_ref(), |walk| {
            let target = walk.target(delete.relation.as_ref(), true);
            walk.read_from(&delete.using_clause);
            walk.expressions(delete.where_clause.as_deref());
            let open = walk.narrowed(&[delete.where_clause.as_deref()]);
            Query { outputs: walk.returning(&target, delete.returning_clause.as_ref()), open }
        })
    }

    fn merge(&mut self, merge: &pg::MergeStmt) -> Query {
        self.scoped(merge.with_clause.as_ref(), |walk| {
            let target = walk.target(merge.relation.as_ref(), true);
            let join = merge.join_condition.as_deref();
            // The condition narrows the target only: every row of the source is looked at.
            let mut open = walk.narrowed(&[join]);
            let before = walk.levels.last().map_or(0, Vec::len);
            if let Some(source) = &merge.source_relation {
                walk.read_from(std::slice::from_ref(source));
            }
            let source = walk.levels.last().and_then(|level| level.get(before..)).unwrap_or_default();
            open |= source.iter().any(|item| item.open);
            walk.expressions(join);
            for node in &merge.merge_when_clauses {
                if let Some(N::MergeWhenClause(when)) = &node.node {
                    walk.expressions(when.condition.as_deref());
                    walk.expressions(&when.target_list);
                    walk.expressions(&when.values);
                }
            }
            Query { outputs: walk.returning(&target, merge.returning_clause.as_ref()), open }
        })
    }

    /// Notes the relation that a change writes, and puts it in sight. `reads` says that the change looks at its
    /// rows first.
    fn target(&mut self, relation: Option<&pg::RangeVar>, reads: bool) -> Vec<Rel> {
        let Some(relation) = relation else { return Vec::new() };
        let (found, mut item) = self.base_item(relation);
        self.changed.extend(found.iter().cloned());
        self.written.extend(found.iter().cloned());
        item.open = reads;
        self.enter(vec![item]);
        found
    }

    /// What a change hands out of its target's rows: it reads them.
    fn returning(&mut self, target: &[Rel], returning: Option<&pg::ReturningClause>) -> Vec<Output> {
        let Some(returning) = returning else { return Vec::new() };
        self.read.extend(target.iter().cloned());
        self.expressions(&returning.exprs);
        self.targets(&returning.exprs)
    }
}

fn values_outputs(lists: &[Node]) -> Vec<Output> {
    match lists.first().and_then(|node| node.node.as_ref()) {
        Some(N::List(row)) => {
            (1..=row.items.len()).map(|number| expression_output(Some(format!("column{number}")))).collect()
        }
        _ => Vec::new(),
    }
}
