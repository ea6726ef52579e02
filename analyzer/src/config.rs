//! `[detect]`: the scheduled detection.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use bodycam_record::rule::{ParamValue, RuleId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::AnalyzerError;
use crate::rules::RuleSource;

/// `[detect]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DetectConfig {
    /// Longest time in seconds between two evaluations of what is due. New commits are looked for twice a second and evaluated at once, unless the last evaluation took so long that more than a quarter of the time would go into them.
    pub interval_seconds: u64,
    /// How many seconds without a sign of life pass until the windows that a `detect watch` has claimed are taken over by another one on the same lake.
    pub lease_seconds: u64,
    /// How many seconds after its end a window stays open for late events. Later ones re-open it.
    pub lateness_seconds: u64,
    /// How many days back windows are evaluated that no rule has looked at yet, counted from the newest event of the rule's tables, or from where the lake stands if that is earlier.
    pub backfill_days: u64,
    /// Most memory that one evaluation may use, in MiB.
    pub memory_mib: u64,
    /// Directory with rules of your own (`*.yaml`, each with its `*.fixtures.yaml` beside it).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rules_dir: Option<PathBuf>,
    /// Ids of rules that are not wanted, e.g. `["EXF-001"]`.
    pub disable: BTreeSet<String>,
    /// Parameters that differ from the rules' defaults, e.g. `[detect.params.EXF-002]` with `min_rows = 20000`.
    pub params: BTreeMap<String, BTreeMap<String, ParamSetting>>,
}

/// The value of a rule's parameter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum ParamSetting {
    /// A whole number.
    Int(i64),
    /// A number with a fraction.
    Float(f64),
    /// A text.
    Text(String),
    /// A list of texts.
    TextList(Vec<String>),
}

impl Default for DetectConfig {
    fn default() -> Self {
        Self {
            interval_seconds: 10,
            lease_seconds: 30,
            lateness_seconds: 120,
            backfill_days: 31,
            memory_mib: 512,
            rules_dir: None,
            disable: BTreeSet::new(),
            params: BTreeMap::new(),
        }
    }
}

impl DetectConfig {
    /// Where the rules come from, with what the configuration changes about them.
    pub fn rules(&self) -> Result<RuleSource, AnalyzerError> {
        let id = |id: &String| id.parse::<RuleId>().map_err(|err| AnalyzerError::rule_file("[detect]", err));
        let mut source = RuleSource { dir: self.rules_dir.clone(), ..RuleSource::default() };
        for name in &self.disable {
            source.disabled.insert(id(name)?);
        }
        for (name, values) in &self.params {
            let values = values.iter().map(|(name, value)| (name.clone(), value.clone().into())).collect();
            source.overrides.insert(id(name)?, values);
        }
        Ok(source)
    }

    /// Most memory that one evaluation may use, in bytes.
    pub(crate) fn memory_bytes(&self) -> usize {
        usize::try_from(self.memory_mib.saturating_mul(1 << 20)).unwrap_or(usize::MAX)
    }

    /// Refuses settings that cannot work.
    pub fn check(&self) -> Result<(), AnalyzerError> {
        let refuse = |reason: &str| Err(AnalyzerError::rule_file("[detect]", reason));
        if self.interval_seconds == 0 {
            return refuse("interval_seconds must be at least 1");
        }
        if self.lease_seconds == 0 {
            return refuse("lease_seconds must be at least 1");
        }
        if self.memory_mib < 16 {
            return refuse("memory_mib must be at least 16");
        }
        let rules = self.rules()?;
        if let Some(id) = rules.overrides.keys().find(|id| rules.disabled.contains(*id)) {
            return refuse(&format!(
                "params.{id} would do nothing: {id} is among those that `disable` names; remove one of them"
            ));
        }
        Ok(())
    }
}

impl From<ParamSetting> for ParamValue {
    fn from(setting: ParamSetting) -> Self {
        match setting {
            ParamSetting::Int(n) => ParamValue::Int(n),
            ParamSetting::Float(x) => ParamValue::Float(x),
            ParamSetting::Text(text) => ParamValue::Text(text),
            ParamSetting::TextList(items) => ParamValue::TextList(items),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_of_a_rule_that_is_disabled_are_refused() {
        let params: BTreeMap<_, _> =
            [("EXF-002".to_owned(), [("min_rows".to_owned(), ParamSetting::Int(5))].into())].into();
        let check = |disable: &[&str]| {
            let disable = disable.iter().map(|id| (*id).to_owned()).collect();
            DetectConfig { disable, params: params.clone(), ..DetectConfig::default() }.check()
        };
        let error = check(&["EXF-001", "EXF-002"]).unwrap_err().to_string();
        assert!(error.contains("params.EXF-002") && error.contains("disable"), "{error}");
        check(&["EXF-001"]).unwrap();
    }
}
