//! Detection rules: the ones that come with the program and those of a directory, read, checked and bound to
//! their parameters. `record/rule.rs` says what a rule's envelope holds.
//!
//! Invariant: a rule that does not hold together stops the start; it is never left out silently.

use std::collections::{BTreeMap, BTreeSet};
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
mod source;

pub(crate) use evaluate::{Batch, SharedSteps, evaluate};
pub use evaluate::{Hit, Sensitive};
pub use fixtures::Fixture;
pub use source::RuleText;

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
    /// The rule in a file, checked.
    pub async fn parse(text: &RuleText, overrides: &Overrides) -> Result<Self, AnalyzerError> {
        let rule: Rule =
            serde_norway::from_str(&text.rule).map_err(|err| source::yaml_fault(&text.origin, &err))?;
        let fixtures: Vec<Fixture> = match text.fixtures.trim() {
            "" => Vec::new(),
            _ => serde_norway::from_str(&text.fixtures)
                .map_err(|err| source::yaml_fault(&text.fixtures_origin, &err))?,
        };
        let none = BTreeMap::new();
        let located = |err: AnalyzerError| source::fault(text, &err);
        let values =
            rule.values(overrides.get(&rule.id).unwrap_or(&none)).map_err(|err| located(err.into()))?;
        rule.check().map_err(|err| located(err.into()))?;
        Self::of(&text.origin, rule, values, fixtures).await.map_err(|err| source::query_fault(text, &err))
    }

    /// The rule with these values of its parameters, checked.
    pub(crate) async fn of(
        origin: &str,
        rule: Rule,
        values: BTreeMap<String, ParamValue>,
        fixtures: Vec<Fixture>,
    ) -> Result<Self, AnalyzerError> {
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
    pub(crate) fn with(&self, overrides: &BTreeMap<String, ParamValue>) -> Result<Self, AnalyzerError> {
        let values = self.rule.values(overrides)?;
        Ok(Self { digest: self.rule.digest(&values), values, fixtures: Vec::new(), ..self.clone() })
    }
}

/// Reads every rule of `source`, in order of their ids.
pub async fn load(source: &RuleSource) -> Result<Vec<Arc<LoadedRule>>, AnalyzerError> {
    let mut texts: Vec<RuleText> = Vec::new();
    if !source.without_built_in {
        texts.extend(BUILT_IN.iter().map(|(name, rule, fixtures)| RuleText::built_in(name, rule, fixtures)));
    }
    if let Some(dir) = &source.dir {
        texts.extend(source::read_dir(dir)?);
    }
    let mut rules: BTreeMap<RuleId, Arc<LoadedRule>> = BTreeMap::new();
    for text in texts {
        let rule = LoadedRule::parse(&text, &source.overrides).await?;
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
    if rules.is_empty() {
        return Err(AnalyzerError::rule_file(
            "[detect]",
            "no rule is left: detection would look for nothing",
        ));
    }
    Ok(rules.into_values().collect())
}

#[cfg(test)]
mod mutants;
#[cfg(test)]
mod tests;
