//! Detection rules: the ones that come with the program and those of a directory, read, checked and bound to
//! their parameters. `record/rule.rs` says what a rule's envelope holds.
//!
//! Invariant: a rule that does not hold together stops the start; it is never left out silently.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use bodycam_record::rule::{ParamValue, Rule, RuleId};
use bodycam_record::{Digest, Family};
use datafusion::sql::parser::Statement;

use crate::engine::spawn;
use crate::error::AnalyzerError;

mod bind;
mod evaluate;
pub mod fixtures;
mod lint;

pub(crate) use evaluate::{Batch, evaluate};
pub use evaluate::{Hit, Sensitive};
pub use fixtures::Fixture;

/// The rules that come with the program: file name, rule, fixtures.
const BUILT_IN: &[(&str, &str, &str)] = &[
    built_in!("EXF-001-bulk-pull"),
    built_in!("EXF-002-single-huge-result"),
    built_in!("EXF-014-new-destination-after-read"),
    built_in!("EXF-019-drop-site-after-read"),
];

macro_rules! built_in {
    ($name:literal) => {
        (
            concat!($name, ".yaml"),
            include_str!(concat!("../rules/", $name, ".yaml")),
            include_str!(concat!("../rules/", $name, ".fixtures.yaml")),
        )
    };
}
use built_in;

/// How the files of a rule and of its fixtures end.
const RULE_FILE: &str = ".yaml";
const FIXTURES_FILE: &str = ".fixtures.yaml";

/// Values of parameters that the configuration sets, by rule.
pub type Overrides = BTreeMap<RuleId, BTreeMap<String, ParamValue>>;

/// A rule, ready to be evaluated.
#[derive(Debug, Clone)]
pub struct LoadedRule {
    /// The envelope.
    pub rule: Rule,
    /// The values of its parameters.
    pub values: BTreeMap<String, ParamValue>,
    /// Digest of both.
    pub digest: Digest,
    /// Where it comes from: a path, or `built in`.
    pub origin: String,
    /// Families of events that it reads.
    pub families: BTreeSet<Family>,
    /// Tables that it reads.
    pub tables: BTreeSet<String>,
    /// The fixtures beside it.
    pub fixtures: Vec<Fixture>,
    statement: Statement,
}

/// Where rules come from.
#[derive(Debug, Clone, Default)]
pub struct RuleSource {
    /// Leave out the rules that come with the program.
    pub without_built_in: bool,
    /// A directory with more rules.
    pub dir: Option<std::path::PathBuf>,
    /// Ids of rules that are not wanted.
    pub disabled: BTreeSet<RuleId>,
    /// Values of parameters.
    pub overrides: Overrides,
}

impl LoadedRule {
    /// The rule in `yaml`, checked. `origin` is what messages call it.
    pub async fn parse(
        origin: &str,
        yaml: &str,
        fixtures: &str,
        overrides: &Overrides,
    ) -> Result<Self, AnalyzerError> {
        let rule: Rule = serde_norway::from_str(yaml).map_err(|err| AnalyzerError::rule_file(origin, err))?;
        let fixtures: Vec<Fixture> = match fixtures.trim() {
            "" => Vec::new(),
            text => serde_norway::from_str(text)
                .map_err(|err| AnalyzerError::rule_file(&format!("fixtures of {origin}"), err))?,
        };
        let none = BTreeMap::new();
        let values = rule.values(overrides.get(&rule.id).unwrap_or(&none))?;
        Self::of(origin, rule, values, fixtures).await
    }

    /// The rule with these values of its parameters, checked.
    pub(crate) async fn of(
        origin: &str,
        rule: Rule,
        values: BTreeMap<String, ParamValue>,
        fixtures: Vec<Fixture>,
    ) -> Result<Self, AnalyzerError> {
        rule.check()?;
        let origin = origin.to_owned();
        spawn(async move {
            let checked = lint::check(&rule, &values).await?;
            let digest = rule.digest(&values);
            let lint::Checked { statement, families, tables } = checked;
            Ok(Self { rule, values, digest, origin, families, tables, fixtures, statement })
        })?
        .await
    }

    /// The same rule with other values of some parameters.
    pub(crate) async fn with(&self, overrides: &BTreeMap<String, ParamValue>) -> Result<Self, AnalyzerError> {
        let values = self.rule.values(overrides)?;
        Self::of(&self.origin, self.rule.clone(), values, Vec::new()).await
    }
}

/// Reads every rule of `source`, in order of their ids.
pub async fn load(source: &RuleSource) -> Result<Vec<Arc<LoadedRule>>, AnalyzerError> {
    let mut texts: Vec<(String, String, String)> = Vec::new();
    if !source.without_built_in {
        texts.extend(
            BUILT_IN.iter().map(|(_, rule, fixtures)| {
                ("built in".to_owned(), (*rule).to_owned(), (*fixtures).to_owned())
            }),
        );
    }
    if let Some(dir) = &source.dir {
        texts.extend(read_dir(dir)?);
    }
    let mut rules: BTreeMap<RuleId, Arc<LoadedRule>> = BTreeMap::new();
    for (origin, rule, fixtures) in texts {
        let rule = LoadedRule::parse(&origin, &rule, &fixtures, &source.overrides).await?;
        let id = rule.rule.id.clone();
        if let Some(other) = rules.get(&id) {
            let reason = format!("its id {id} is taken by another rule ({})", other.origin);
            return Err(AnalyzerError::rule_file(&rule.origin, reason));
        }
        rules.insert(id, Arc::new(rule));
    }
    let named = source.overrides.keys().map(|id| (id, "sets parameters of"));
    for (id, what) in named.chain(source.disabled.iter().map(|id| (id, "disables"))) {
        if !rules.contains_key(id) {
            let reason = format!("the configuration {what} rule {id}, and there is no such rule");
            return Err(AnalyzerError::rule_file("[detect]", reason));
        }
    }
    rules.retain(|id, _| !source.disabled.contains(id));
    Ok(rules.into_values().collect())
}

/// The rules in a directory, with their fixtures: path, rule, fixtures.
fn read_dir(dir: &Path) -> Result<Vec<(String, String, String)>, AnalyzerError> {
    let shown_dir = dir.display().to_string();
    let failed = |err: std::io::Error| AnalyzerError::rule_file(&shown_dir, err);
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        if name.ends_with(RULE_FILE) && !name.ends_with(FIXTURES_FILE) && !name.starts_with('.') {
            paths.push(path);
        }
    }
    paths.sort();
    let read = |path: &Path| {
        std::fs::read_to_string(path)
            .map_err(|err| AnalyzerError::rule_file(&path.display().to_string(), err))
    };
    let mut texts = Vec::new();
    for path in paths {
        let beside = path.with_extension("").with_extension("fixtures.yaml");
        let fixtures = if beside.exists() { read(&beside)? } else { String::new() };
        texts.push((path.display().to_string(), read(&path)?, fixtures));
    }
    Ok(texts)
}

#[cfg(test)]
mod tests;
