//! The shipped rules with one bound, join, aggregate, order or parameter changed: a fixture must fail for each, or
//! the rule could come to say something else and nobody would hear of it. What takes a predicate out is in
//! `tests.rs`.
//!
//! Not here, because they are the same rule: `UNION` for `UNION ALL` and back (what comes twice is grouped
//! afterwards), a longer reach (every join has a bound of its own), `max` of a column that is one value a group.

use super::tests::is_caught;
use super::*;
use crate::engine::Engine;
use crate::rules::fixtures::Prepared;

/// What is in the rule, which occurrence of it is meant, and what comes in its place.
type Change = (&'static str, usize, &'static str);

const EXF_001: &[Change] = &[
    ("LEFT JOIN usual", 0, "JOIN usual"),
    ("lookback: 28d", 0, "lookback: 27d"),
    ("lookback: 28d", 0, "lookback: 29d"),
    ("window: 1h", 0, "window: 2h"),
    ("h.hour >= c.window_start", 0, "h.hour > c.window_start"),
    ("h.hour < c.window_start", 0, "h.hour <= c.window_start"),
    ("ORDER BY rows DESC, event_id", 0, "ORDER BY event_id"),
    ("ORDER BY rows DESC", 0, "ORDER BY rows"),
    ("HAVING sum(rows) >= $min_rows", 0, "HAVING sum(rows) > $min_rows"),
    ("hours >= $min_history", 0, "hours > $min_history"),
    ("WHERE rows >= bulk", 0, "WHERE rows > bulk"),
    ("median(size) AS middle", 0, "max(size) AS middle"),
    ("median(size) AS middle", 0, "min(size) AS middle"),
    ("median(abs(size - middle))", 0, "max(abs(size - middle))"),
    ("median(abs(size - middle))", 0, "min(abs(size - middle))"),
    ("1.4826 * ", 0, "1.0 * "),
    ("greatest(spread, $min_spread)", 0, "spread"),
    ("greatest(spread, $min_spread)", 0, "$min_spread"),
    ("greatest(bulk, $min_rows)", 0, "bulk"),
    ("ceil(", 0, "floor("),
    ("ln(1 + sum(h.rows))", 0, "ln(1 + max(h.rows))"),
    ("count(*) AS pulls", 0, "0 AS pulls"),
    (", 1, 20)", 0, ", 1, 1)"),
    ("min_rows: { default: 5000", 0, "min_rows: { default: 4999"),
    ("min_rows: { default: 5000", 0, "min_rows: { default: 5001"),
    ("z: { default: 3.5", 0, "z: { default: 3.4"),
    ("z: { default: 3.5", 0, "z: { default: 3.6"),
    ("min_spread: { default: 0.3", 0, "min_spread: { default: 0.29"),
    ("min_spread: { default: 0.3", 0, "min_spread: { default: 0.31"),
    ("min_history: { default: 24", 0, "min_history: { default: 23"),
    ("min_history: { default: 24", 0, "min_history: { default: 25"),
    ("cold_start_rows: { default: 50000", 0, "cold_start_rows: { default: 49999"),
    ("cold_start_rows: { default: 50000", 0, "cold_start_rows: { default: 50001"),
];

const EXF_002: &[Change] = &[
    ("LEFT JOIN usual", 0, "JOIN usual"),
    ("lookback: 14d", 0, "lookback: 13d"),
    ("lookback: 14d", 0, "lookback: 15d"),
    ("window: 1h", 0, "window: 2h"),
    ("h.hour >= b.window_start", 0, "h.hour > b.window_start"),
    ("h.hour < b.window_start", 0, "h.hour <= b.window_start"),
    ("IS NOT DISTINCT FROM", 0, "="),
    ("rows >= $min_rows OR", 0, "rows > $min_rows OR"),
    ("bytes >= $min_bytes", 0, "bytes > $min_bytes"),
    ("$min_rows OR bytes", 0, "$min_rows AND bytes"),
    ("median(h.max_rows)", 0, "max(h.max_rows)"),
    ("median(h.max_rows)", 0, "min(h.max_rows)"),
    ("median(h.max_bytes)", 0, "max(h.max_bytes)"),
    ("median(h.max_bytes)", 0, "min(h.max_bytes)"),
    (
        "greatest($min_rows, CAST(ceil($ratio * u.rows) AS BIGINT))",
        0,
        "CAST(ceil($ratio * u.rows) AS BIGINT)",
    ),
    ("ceil(", 0, "floor("),
    ("u.hours >= $min_history", 0, "u.hours > $min_history"),
    ("< $min_history OR", 0, "<= $min_history OR"),
    ("b.rows >= $ratio", 0, "b.rows > $ratio"),
    ("b.bytes >= $ratio", 0, "b.bytes > $ratio"),
    ("OR b.rows >=", 0, "AND b.rows >="),
    ("OR b.bytes >=", 0, "AND b.bytes >="),
    ("min_rows: { default: 10000", 0, "min_rows: { default: 9999"),
    ("min_rows: { default: 10000", 0, "min_rows: { default: 10001"),
    ("min_bytes: { default: 5242880", 0, "min_bytes: { default: 5242879"),
    ("min_bytes: { default: 5242880", 0, "min_bytes: { default: 5242881"),
    ("ratio: { default: 4.0", 0, "ratio: { default: 3.9"),
    ("ratio: { default: 4.0", 0, "ratio: { default: 4.1"),
    ("min_history: { default: 5", 0, "min_history: { default: 4"),
    ("min_history: { default: 5", 0, "min_history: { default: 6"),
];

/// What EXF-014 and EXF-019 have in common.
const AFTER_A_READ: &[Change] = &[
    ("window: 1h", 0, "window: 2h"),
    ("reach: 7h", 0, "reach: 6h"),
    ("rows >= $bulk_rows", 0, "rows > $bulk_rows"),
    ("bytes >= $bulk_bytes", 0, "bytes > $bulk_bytes"),
    ("$bulk_rows OR bytes", 0, "$bulk_rows AND bytes"),
    ("r.ts >= p.ts", 0, "r.ts > p.ts"),
    ("INTERVAL '6 hours'", 0, "INTERVAL '5 hours'"),
    ("INTERVAL '6 hours'", 0, "INTERVAL '7 hours'"),
    ("ts >= $from", 0, "ts > $from"),
    ("t.ts < c.ts", 0, "t.ts <= c.ts"),
    ("t.ts < c.ts", 1, "t.ts <= c.ts"),
    ("t.ts >= c.ts", 0, "t.ts > c.ts"),
    ("t.ts >= c.ts", 1, "t.ts > c.ts"),
    ("false AS is_sensitive", 0, "true AS is_sensitive"),
    ("true AS is_sensitive", 0, "false AS is_sensitive"),
    ("max(rows) AS rows", 0, "sum(rows) AS rows"),
    ("bool_or(is_sensitive) AS is_sensitive", 0, "bool_and(is_sensitive) AS is_sensitive"),
    ("min(relation) AS relation", 0, "max(relation) AS relation"),
    ("SELECT DISTINCT window_start", 0, "SELECT window_start"),
    ("sum(rows) AS measure", 0, "max(rows) AS measure"),
    ("WHEN bool_or(is_sensitive) THEN 1", 0, "WHEN bool_and(is_sensitive) THEN 1"),
    ("sum(is_pull) AS reads", 0, "count(*) AS reads"),
    ("is_pull DESC, ", 0, ""),
    ("rows DESC, ", 0, ""),
    ("rows DESC", 0, "rows"),
    (", 1, 20)", 0, ", 1, 1)"),
    ("bulk_rows: { default: 5000", 0, "bulk_rows: { default: 4999"),
    ("bulk_rows: { default: 5000", 0, "bulk_rows: { default: 5001"),
    ("bulk_bytes: { default: 2097152", 0, "bulk_bytes: { default: 2097151"),
    ("bulk_bytes: { default: 2097152", 0, "bulk_bytes: { default: 2097153"),
    ("\"30 minutes\"", 0, "\"29 minutes\""),
    ("\"30 minutes\"", 0, "\"31 minutes\""),
];

const EXF_014: &[Change] = &[
    ("lookback: 30d", 0, "lookback: 29d"),
    ("lookback: 30d", 0, "lookback: 31d"),
    ("LEFT JOIN known", 0, "JOIN known"),
    ("min(contact_ts)", 0, "max(contact_ts)"),
    ("count(DISTINCT h.principal_ref)", 0, "count(h.principal_ref)"),
    ("bool_or(h.principal_ref = f.principal_ref)", 0, "bool_and(h.principal_ref = f.principal_ref)"),
    ("h.first_ts < f.ts", 0, "h.first_ts <= f.ts"),
    ("h.hour >= f.window_start", 0, "h.hour > f.window_start"),
    ("<= $max_users", 0, "< $max_users"),
    ("\"24 hours\"", 0, "\"23 hours\""),
    ("\"24 hours\"", 0, "\"25 hours\""),
    ("max_users: { default: 2", 0, "max_users: { default: 1"),
    ("max_users: { default: 2", 0, "max_users: { default: 3"),
    ("WHEN bool_or(is_sensitive) THEN 'high'", 0, "WHEN bool_and(is_sensitive) THEN 'high'"),
];

const EXF_019: &[Change] = &[
    ("concat('.', d.value)", 0, "d.value"),
    ("e.host = d.value OR ", 0, ""),
    ("severity: high", 0, "severity: medium"),
    ("      - webhook.site\n", 0, ""),
];

/// `text` with the `nth` occurrence of what is there changed.
fn changed(text: &str, (from, nth, to): Change) -> String {
    let (at, _) =
        text.match_indices(from).nth(nth).unwrap_or_else(|| panic!("there is no {from} number {nth}"));
    format!("{}{to}{}", &text[..at], &text[at + from.len()..])
}

async fn survivors_of(name: &str, changes: impl Iterator<Item = &Change>) -> Vec<String> {
    let (file, rule, fixtures) = BUILT_IN.iter().find(|(file, ..)| file.starts_with(name)).unwrap();
    let parse = async |rule: &str| {
        LoadedRule::parse(&RuleText::built_in(file, rule, fixtures), &Overrides::new()).await
    };
    let engine = Engine::without_store().unwrap();
    let shipped = parse(rule).await.unwrap();
    let prepared = |rule: &LoadedRule| -> Vec<_> {
        let prepared = shipped.fixtures.iter().map(|f| Prepared::of(rule, f).unwrap().unwrap());
        prepared.enumerate().collect()
    };
    let mut caught = vec![0; shipped.fixtures.len()];
    let mut survivors = Vec::new();
    for change in changes {
        // A change that makes no rule shows nothing.
        let mutant = parse(&changed(rule, *change)).await.unwrap_or_else(|err| panic!("{change:?}: {err}"));
        let mut fixtures: Vec<_> = prepared(&mutant).into_iter().map(|(at, f)| (caught[at], at, f)).collect();
        fixtures.sort_by_key(|(caught, ..)| std::cmp::Reverse(*caught));
        let order: Vec<usize> = fixtures.iter().map(|(_, at, _)| *at).collect();
        let mut fixtures: Vec<_> = fixtures.into_iter().map(|(caught, _, f)| (caught, f)).collect();
        let before: Vec<usize> = fixtures.iter().map(|(caught, _)| *caught).collect();
        if !is_caught(&engine, &mutant, &mut fixtures).await {
            survivors.push(format!("{change:?}"));
        }
        for ((at, before), (now, _)) in order.iter().zip(before).zip(&fixtures) {
            caught[*at] += now - before;
        }
    }
    survivors
}

macro_rules! every_change_fails_a_fixture {
    ($($name:ident: $id:literal, $($changes:expr),*;)*) => {$(
        #[tokio::test]
        async fn $name() {
            let survivors = survivors_of($id, [$($changes),*].into_iter().flatten()).await;
            assert!(survivors.is_empty(), "no fixture fails for:\n{}", survivors.join("\n"));
        }
    )*};
}

every_change_fails_a_fixture! {
    exf_001_with_any_one_thing_changed_fails_a_fixture: "EXF-001", EXF_001;
    exf_002_with_any_one_thing_changed_fails_a_fixture: "EXF-002", EXF_002;
    exf_014_with_any_one_thing_changed_fails_a_fixture: "EXF-014", AFTER_A_READ, EXF_014;
    exf_019_with_any_one_thing_changed_fails_a_fixture: "EXF-019", AFTER_A_READ, EXF_019;
}
