//! The files of rules: where they are, and where in them a fault is.
//!
//! Invariant: every file in a directory of rules is read or named in an error; none is left out silently.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use crate::error::AnalyzerError;

/// How the files of a rule and of its fixtures end.
const RULE_FILE: &str = ".yaml";
const FIXTURES_FILE: &str = ".fixtures.yaml";

/// A rule and its fixtures, as they are written.
#[derive(Debug, Clone)]
pub struct RuleText {
    /// What messages call the rule's file.
    pub origin: String,
    /// The rule.
    pub rule: String,
    /// What messages call the file with its fixtures.
    pub fixtures_origin: String,
    /// The fixtures; empty when it has none.
    pub fixtures: String,
}

impl RuleText {
    pub(super) fn built_in(name: &str, rule: &str, fixtures: &str) -> Self {
        let origin = "built in".to_owned();
        let fixtures_origin = format!("fixtures of {name}");
        Self { origin, rule: rule.to_owned(), fixtures_origin, fixtures: fixtures.to_owned() }
    }
}

/// The rules in a directory, in order of their file names.
pub(super) fn read_dir(dir: &Path) -> Result<Vec<RuleText>, AnalyzerError> {
    let failed = |err: io::Error| unusable(dir, format!("cannot read the directory of rules: {err}"));
    let entries = std::fs::read_dir(dir).map_err(failed)?;
    let paths: io::Result<BTreeSet<PathBuf>> = entries.map(|entry| Ok(entry?.path())).collect();
    let paths = paths.map_err(failed)?;
    let mut texts = Vec::new();
    for path in &paths {
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let beside = |stem: &str, end: &str| path.with_file_name(format!("{stem}{end}"));
        if name.starts_with('.') {
            continue;
        }
        if name.ends_with(".yml") {
            return Err(unusable(path, format!("a rule's file ends in {RULE_FILE}: rename it")));
        }
        if let Some(stem) = name.strip_suffix(FIXTURES_FILE) {
            if !paths.contains(&beside(stem, RULE_FILE)) {
                let reason = format!("there is no rule {stem}{RULE_FILE} beside these fixtures");
                return Err(unusable(path, reason));
            }
        } else if let Some(stem) = name.strip_suffix(RULE_FILE) {
            let fixtures = beside(stem, FIXTURES_FILE);
            texts.push(RuleText {
                origin: path.display().to_string(),
                rule: read(path)?,
                fixtures: if paths.contains(&fixtures) { read(&fixtures)? } else { String::new() },
                fixtures_origin: fixtures.display().to_string(),
            });
        }
    }
    match texts.is_empty() {
        true => Err(unusable(dir, format!("there is no rule in this directory (*{RULE_FILE})"))),
        false => Ok(texts),
    }
}

/// What is wrong with a YAML file, and where.
pub(super) fn yaml_fault(origin: &str, err: &serde_norway::Error) -> AnalyzerError {
    match err.location() {
        Some(at) => AnalyzerError::rule_file(&format!("{origin}:{}:{}", at.line(), at.column()), err),
        None => AnalyzerError::rule_file(origin, err),
    }
}

/// What is wrong with a rule as a whole.
pub(super) fn fault(text: &RuleText, err: &AnalyzerError) -> AnalyzerError {
    AnalyzerError::rule_file(&text.origin, err)
}

/// What is wrong with a rule's query; says the line of the file when the SQL parser names one of the query.
pub(super) fn query_fault(text: &RuleText, err: &AnalyzerError) -> AnalyzerError {
    let Some(starts) = text.rule.lines().position(|line| line.starts_with("query:")) else {
        return fault(text, err);
    };
    let reason = err.to_string();
    // A block scalar keeps its lines, and begins on the line after its key.
    let keeps_lines = text.rule.lines().nth(starts).is_some_and(|line| line.contains('|'));
    let within = reason.split_once("Line: ").and_then(|(_, after)| {
        let digits = after.split(|c: char| !c.is_ascii_digit()).next()?;
        digits.parse::<usize>().ok()
    });
    let line = starts + 1 + within.filter(|_| keeps_lines).unwrap_or(0);
    AnalyzerError::rule_file(&format!("{}:{line}", text.origin), reason)
}

fn read(path: &Path) -> Result<String, AnalyzerError> {
    std::fs::read_to_string(path).map_err(|err| unusable(path, err))
}

/// A file or directory that cannot be used.
fn unusable(path: &Path, reason: impl std::fmt::Display) -> AnalyzerError {
    AnalyzerError::rule_file(&path.display().to_string(), reason)
}

#[cfg(test)]
mod tests {
    use super::super::{LoadedRule, Overrides, RuleSource, load};
    use super::*;

    const RULE: &str = r#"id: TEST-1
version: "1.0"
title: t
description: d
severity: low
entity: [session_id, seq]
window: 1h
unit: rows
text: x
query: |
  SELECT window_of(ts) AS window_start, session_id, seq, rows AS measure, 1 AS threshold,
         make_array(event_id) AS evidence
  FROM pulls
"#;

    async fn fault_of(rule: &str, fixtures: &str) -> String {
        let text = RuleText {
            origin: "r.yaml".to_owned(),
            rule: rule.to_owned(),
            fixtures_origin: "r.fixtures.yaml".to_owned(),
            fixtures: fixtures.to_owned(),
        };
        match LoadedRule::parse(&text, &Overrides::new()).await {
            Ok(_) => String::new(),
            Err(err) => err.to_string(),
        }
    }

    #[tokio::test]
    async fn a_fault_is_named_with_its_file_and_line() {
        assert_eq!(fault_of(RULE, "").await, "");
        for (from, to, place, reason) in [
            ("unit: rows", "unit: rows\nseverty: low", "r.yaml:9:1: ", "unknown field `severty`"),
            ("severity: low", "severity: awful", "r.yaml:5:", "awful"),
            ("window: 1h", "window: 90m", "r.yaml: rule TEST-1: ", "whole number of hours"),
            ("window: 1h", "window: [", "r.yaml:7:9: ", "invalid type"),
            ("FROM pulls", "FROM pulls WHERE )", "r.yaml:13: ", "not SQL"),
            ("FROM pulls", "FROM '/etc/passwd'", "r.yaml:10: ", "files cannot be read"),
            ("FROM pulls", "FROM read_csv('x.csv')", "r.yaml:10: ", "no table function"),
            ("FROM pulls", "FROM pulls; DELETE FROM events", "r.yaml:10: ", "only one statement"),
            (
                "FROM pulls",
                "FROM pulls, content",
                "r.yaml:10: ",
                "reads content, which is not a table of events",
            ),
            ("FROM pulls", "FROM pulls, findings", "r.yaml:10: ", "reads findings, which is not"),
            ("FROM pulls", "FROM pulls, nowhere", "r.yaml:10: ", "reads nowhere, which is not"),
            ("FROM pulls", "FROM pulls WHERE ts < now()", "r.yaml:10: ", "calls now()"),
            ("FROM pulls", "FROM pulls WHERE random() > 0.5", "r.yaml:10: ", "calls random()"),
            ("FROM pulls", "FROM pulls LIMIT 1", "r.yaml:10: ", "LIMIT without ORDER BY"),
            ("FROM pulls", "FROM pulls WHERE rows > $floor", "r.yaml:10: ", "uses $floor"),
            ("text: x", "text: '{nothing}'", "r.yaml:10: ", "{nothing}"),
            ("1 AS threshold", "1.5 AS threshold", "r.yaml:10: ", "threshold is Float64"),
            ("session_id, seq, rows", "session_id, rows", "r.yaml:10: ", "no column seq"),
        ] {
            let message = fault_of(&RULE.replace(from, to), "").await;
            assert!(message.starts_with(place) && message.contains(reason), "{to}: {message}");
        }
        for (fixtures, place, reason) in [
            ("- name: n\n  events: []\n  expects: []\n", "r.fixtures.yaml:", "unknown field `expects`"),
            ("name: n\n", "r.fixtures.yaml:", "invalid type"),
        ] {
            let message = fault_of(RULE, fixtures).await;
            assert!(message.starts_with(place) && message.contains(reason), "{message}");
        }
    }

    #[tokio::test]
    async fn a_directory_that_holds_no_rule_or_hides_one_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let source = RuleSource { dir: Some(dir.path().to_owned()), ..RuleSource::default() };
        let fault = async || load(&source).await.unwrap_err().to_string();
        let put = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        assert!(fault().await.contains("there is no rule in this directory"), "{}", fault().await);
        put("a.fixtures.yaml", "[]");
        assert!(fault().await.contains("no rule a.yaml beside"), "{}", fault().await);
        put("a.yaml", RULE);
        assert_eq!(load(&source).await.unwrap().len(), 5);
        put("b.yml", RULE);
        assert!(fault().await.contains("b.yml: a rule's file ends in .yaml"), "{}", fault().await);
        std::fs::remove_file(dir.path().join("b.yml")).unwrap();
        put("b.yaml", RULE);
        assert!(fault().await.contains("its id TEST-1 is taken by another rule"), "{}", fault().await);
        let nowhere = RuleSource { dir: Some(dir.path().join("nowhere")), ..RuleSource::default() };
        let message = load(&nowhere).await.unwrap_err().to_string();
        assert!(message.contains("nowhere: cannot read the directory of rules"), "{message}");
    }
}
