//! The shipped rules against their fixtures, and against themselves with one predicate less.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Expr, JoinConstraint, JoinOperator, Query, Select, SetExpr, Value, VisitMut, VisitorMut,
};

use super::*;

async fn shipped() -> Vec<Arc<LoadedRule>> {
    load(&RuleSource::default()).await.unwrap()
}

#[tokio::test]
async fn every_shipped_rule_passes_its_fixtures() {
    let mut failures = Vec::new();
    for rule in shipped().await {
        assert!(!rule.fixtures.is_empty(), "{}", rule.rule.id);
        let fires = |f: &&Fixture| !f.expect.is_empty();
        assert!(rule.fixtures.iter().any(|f| fires(&f)) && !rule.fixtures.iter().all(|f| fires(&f)));
        for fixture in &rule.fixtures {
            let started = std::time::Instant::now();
            eprintln!("{} {}", rule.rule.id, fixture.name);
            if let Err(reason) = fixtures::run(&rule, fixture).await.unwrap_or_else(|e| Err(e.to_string())) {
                failures.push(format!("{}, {}: {reason}", rule.rule.id, fixture.name));
            }
            eprintln!("  {:?}", started.elapsed());
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
