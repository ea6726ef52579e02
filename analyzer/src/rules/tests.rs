//! The shipped rules against their fixtures, and against themselves with one predicate less.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Expr, JoinConstraint, JoinOperator, Select, Value, VisitMut, VisitorMut,
};

use super::fixtures::Prepared;
use super::*;
use crate::engine::Engine;

async fn shipped() -> Vec<Arc<LoadedRule>> {
    load(&RuleSource::default()).await.unwrap()
}

/// Whether a fixture fails. Those that have caught the most come first, and windows are looked at one by one only
/// when all fixtures pass otherwise: most faults are seen at once.
pub(super) async fn is_caught(
    engine: &Engine,
    rule: &LoadedRule,
    fixtures: &mut [(usize, Prepared)],
) -> bool {
    fixtures.sort_by_key(|(caught, _)| std::cmp::Reverse(*caught));
    let mut passed = Vec::new();
    for (caught, fixture) in fixtures.iter_mut() {
        match fixture.together(engine, rule).await {
            Ok(Ok(found)) => passed.push(found),
            _ => {
                *caught += 1;
                return true;
            }
        }
    }
    for ((_, fixture), found) in fixtures.iter().zip(passed) {
        if !matches!(fixture.one_by_one(engine, rule, found).await, Ok(Ok(()))) {
            return true;
        }
    }
    false
}

#[tokio::test]
async fn every_shipped_rule_passes_its_fixtures() {
    let mut failures = Vec::new();
    for rule in shipped().await {
        assert!(rule.fixtures.iter().any(|f| !f.expect.is_empty()), "{} never fires", rule.rule.id);
        assert!(rule.fixtures.iter().any(|f| f.expect.is_empty()), "{} always fires", rule.rule.id);
        for fixture in &rule.fixtures {
            if let Err(reason) = fixtures::run(&rule, fixture).await.unwrap() {
                failures.push(format!("{}, {}: {reason}", rule.rule.id, fixture.name));
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Takes the `target`-th predicate out of a query.
struct Remove {
    target: usize,
    seen: usize,
    removed: Option<String>,
}

impl Remove {
    fn is_next(&mut self, what: String) -> bool {
        self.seen += 1;
        let hit = self.seen - 1 == self.target;
        if hit {
            self.removed = Some(what);
        }
        hit
    }

    /// The conjuncts of a condition, and the alternatives inside each.
    fn condition(&mut self, expr: &mut Expr) {
        match expr {
            Expr::BinaryOp { left, op: BinaryOperator::And, right } => {
                self.condition(left);
                self.condition(right);
            }
            expr if self.is_next(expr.to_string()) => *expr = Expr::Value(Value::Boolean(true).into()),
            expr => self.alternatives(expr),
        }
    }

    fn alternatives(&mut self, expr: &mut Expr) {
        match expr {
            Expr::Nested(inner) => self.alternatives(inner),
            Expr::BinaryOp { left, op: BinaryOperator::Or, right } => {
                for side in [left, right] {
                    match side.as_ref() {
                        Expr::BinaryOp { op: BinaryOperator::Or, .. } => self.alternatives(side),
                        _ if self.is_next(format!("OR {side}")) => {
                            **side = Expr::Value(Value::Boolean(false).into());
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }

    fn join(&mut self, operator: &mut JoinOperator) {
        match operator {
            JoinOperator::Join(c)
            | JoinOperator::Inner(c)
            | JoinOperator::Left(c)
            | JoinOperator::LeftOuter(c) => match c {
                JoinConstraint::On(expr) => self.condition(expr),
                JoinConstraint::Using(columns) => {
                    for at in 0..columns.len() {
                        if self.is_next(format!("USING {}", columns[at])) {
                            columns.remove(at);
                            break;
                        }
                    }
                }
                _ => {}
            },
            other => panic!("the rules use no {other:?}"),
        }
    }
}

impl VisitorMut for Remove {
    type Break = ();

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<()> {
        for join in select.from.iter_mut().flat_map(|f| &mut f.joins) {
            self.join(&mut join.join_operator);
        }
        for condition in select.selection.iter_mut().chain(&mut select.having) {
            self.condition(condition);
        }
        ControlFlow::Continue(())
    }
}

async fn survivors_of(rule: &LoadedRule) -> (usize, Vec<String>) {
    let engine = Engine::without_store().unwrap();
    let prepared = rule.fixtures.iter().map(|f| (0, Prepared::of(rule, f).unwrap().unwrap()));
    let mut prepared: Vec<_> = prepared.collect();
    let whole = LoadedRule { fixtures: Vec::new(), ..rule.clone() };
    let mut survivors = Vec::new();
    for target in 0.. {
        let Statement::Statement(mut statement) = rule.statement.clone() else { unreachable!() };
        let mut remove = Remove { target, seen: 0, removed: None };
        let _ = statement.visit(&mut remove);
        let Some(removed) = remove.removed else { return (target, survivors) };
        let broken = LoadedRule { statement: Statement::Statement(statement), ..whole.clone() };
        if !is_caught(&engine, &broken, &mut prepared).await {
            survivors.push(removed);
        }
    }
    unreachable!()
}

macro_rules! without_any_predicate {
    ($($name:ident: $id:literal, $least:literal;)*) => {$(
        #[tokio::test]
        async fn $name() {
            let rules = shipped().await;
            let rule = rules.iter().find(|r| r.rule.id.as_str() == $id).unwrap();
            let (tried, survivors) = survivors_of(rule).await;
            assert!(tried >= $least, "only {tried} predicates were found");
            assert!(survivors.is_empty(), "no fixture fails without:\n{}", survivors.join("\n"));
        }
    )*};
}

without_any_predicate! {
    exf_001_without_any_one_predicate_fails_a_fixture: "EXF-001", 10;
    exf_002_without_any_one_predicate_fails_a_fixture: "EXF-002", 12;
    exf_014_without_any_one_predicate_fails_a_fixture: "EXF-014", 20;
    exf_019_without_any_one_predicate_fails_a_fixture: "EXF-019", 15;
}
