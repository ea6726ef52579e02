//! What a detection is: the envelope around its query, its parameters, and the id of what it finds. The
//! scheduled detection and a counter inside the gateway share this file, so that both give one id to one
//! finding.
//!
//! Invariant: a finding's id depends only on rule, major version, window and entity, never on when, where or
//! how often the rule was evaluated.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::canonical::Writer;
use crate::digest::{self, Digest};
use crate::ids::Id16;
use crate::shown::shown;
use crate::value::put_field;

/// A detection rule as its file declares it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Id, e.g. `EXF-002`.
    pub id: RuleId,
    /// `major.minor`; another major version means other finding ids.
    pub version: RuleVersion,
    /// What it looks for, in one line.
    pub title: String,
    /// What it looks for, why, and what it does not see.
    pub description: String,
    /// How bad a finding is, unless the query's column `severity` says otherwise.
    pub severity: Severity,
    /// MITRE ATT&CK tactics.
    #[serde(default)]
    pub tactics: Vec<String>,
    /// MITRE ATT&CK techniques.
    #[serde(default)]
    pub attack: Vec<String>,
    /// MITRE ATLAS techniques.
    #[serde(default)]
    pub atlas: Vec<String>,
    /// Columns of the query's output that name what a finding is about. With rule and window they make its id.
    pub entity: Vec<String>,
    /// Length of a window: whole hours, aligned to the epoch.
    pub window: Span,
    /// How far before a window's start the query sees roll-ups: whole hours, `$lookback` in the query.
    #[serde(default)]
    pub lookback: Span,
    /// How far before a window's start the query sees single events: whole hours.
    #[serde(default)]
    pub reach: Span,
    /// Whether a finding may be told before its window closes: only when more events can never take it back.
    #[serde(default)]
    pub early: bool,
    /// Unit of the columns `measure` and `threshold`.
    pub unit: String,
    /// Parameters of the query, as `$name`; a list is a table of that name with the column `value`.
    #[serde(default)]
    pub params: BTreeMap<String, Param>,
    /// What a finding says; `{column}` is replaced by that column of the query's output.
    pub text: String,
    /// What an analyst should do with a finding.
    #[serde(default)]
    pub runbook: String,
    /// The query.
    pub query: String,
}

/// Id of a rule: capital letters and digits in parts joined by `-`, ending in a number.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RuleId(String);

/// Version of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RuleVersion {
    /// Changes when a finding means something else.
    pub major: u64,
    /// Changes with every other change.
    pub minor: u64,
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    Info,
    Low,
    Medium,
    High,
    Critical,
}

/// A length of time: a whole number and `s`, `m`, `h` or `d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Span {
    seconds: i64,
}

/// A parameter with its default.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Param {
    /// Value unless the configuration sets another of the same type.
    pub default: ParamValue,
    /// Meaning and unit.
    pub doc: String,
}

/// The value of a parameter; its form is its type.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ParamValue {
    /// A whole number.
    Int(i64),
    /// A number with a fraction.
    Float(f64),
    /// A text.
    Text(String),
    /// A list of texts.
    TextList(Vec<String>),
}

/// Why a rule's envelope does not hold together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("rule {id}: {reason}")]
pub struct RuleError {
    /// The rule.
    pub id: String,
    /// What is wrong.
    pub reason: String,
}

/// Seconds in an hour.
const HOUR: i64 = 3600;

impl Rule {
    /// Checks what the types cannot.
    pub fn check(&self) -> Result<(), RuleError> {
        let refuse = |reason: String| Err(RuleError { id: self.id.to_string(), reason });
        if self.window.seconds < HOUR || self.window.seconds % HOUR != 0 {
            return refuse(format!("window {} is not a whole number of hours", self.window));
        }
        for (name, span) in [("lookback", self.lookback), ("reach", self.reach)] {
            if span.seconds % HOUR != 0 {
                return refuse(format!("{name} {span} is not a whole number of hours"));
            }
        }
        if self.entity.is_empty() {
            return refuse("entity names no column: a finding must be about something".to_owned());
        }
        for name in self.entity.iter().chain(self.params.keys()) {
            if !is_identifier(name) {
                return refuse(format!(
                    "'{}' is not a name of lower-case letters, digits and '_'",
                    shown(name)
                ));
            }
        }
        if let Some(name) = self.params.keys().find(|n| RESERVED.contains(&n.as_str())) {
            return refuse(format!("parameter {name} has the name of something that every rule is given"));
        }
        Ok(())
    }

    /// Digest of the rule with these parameter values: what was evaluated.
    pub fn digest(&self, params: &BTreeMap<String, ParamValue>) -> Digest {
        let mut w = Writer::new();
        w.bytes(self.id.0.as_bytes());
        w.bytes(self.version.to_string().as_bytes());
        w.bytes(self.severity.name().as_bytes());
        for list in [&self.entity, &self.tactics, &self.attack, &self.atlas] {
            put_field(&mut w, list);
        }
        w.int(self.window.seconds);
        w.int(self.lookback.seconds);
        w.int(self.reach.seconds);
        w.bool(self.early);
        w.bytes(self.unit.as_bytes());
        w.bytes(self.text.as_bytes());
        w.bytes(self.query.as_bytes());
        for (name, value) in params {
            w.bytes(name.as_bytes());
            value.put(&mut w);
        }
        digest::RULE.digest(w.as_slice())
    }

    /// The values of all parameters: the defaults, and what `overrides` sets instead.
    pub fn values(
        &self,
        overrides: &BTreeMap<String, ParamValue>,
    ) -> Result<BTreeMap<String, ParamValue>, RuleError> {
        let refuse = |reason: String| RuleError { id: self.id.to_string(), reason };
        let mut values: BTreeMap<_, _> =
            self.params.iter().map(|(name, p)| (name.clone(), p.default.clone())).collect();
        for (name, value) in overrides {
            let default = values
                .get_mut(name)
                .ok_or_else(|| refuse(format!("it has no parameter '{}'", shown(name))))?;
            *default = value.as_type_of(default).ok_or_else(|| {
                refuse(format!("parameter {name} takes {}, not {}", default.type_name(), value.type_name()))
            })?;
        }
        Ok(values)
    }

    /// The start of the window that holds a time, Unix ns.
    pub fn window_start(&self, ts_ns: i64) -> i64 {
        let window = self.window.nanos().max(1);
        ts_ns.div_euclid(window).saturating_mul(window)
    }
}

/// Names that every query is given.
const RESERVED: [&str; 4] = ["from", "to", "lookback", "sensitive"];

fn is_identifier(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

/// The id of a finding: rule, major version, start of the window, and the values of the rule's entity columns.
pub fn finding_id(rule: &RuleId, major: u64, window_start_ns: i64, entity: &[Option<String>]) -> Id16 {
    let mut w = Writer::new();
    w.bytes(rule.0.as_bytes());
    w.bytes(&major.to_le_bytes());
    w.int(window_start_ns);
    w.bytes(&(entity.len() as u64).to_le_bytes());
    for value in entity {
        put_field(&mut w, value);
    }
    let mut id = [0; 16];
    for (byte, from) in id.iter_mut().zip(digest::FINDING.digest(w.as_slice()).0) {
        *byte = from;
    }
    Id16(id)
}

impl RuleId {
    /// The id.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for RuleId {
    type Error = String;
    fn try_from(id: String) -> Result<Self, String> {
        let mut parts = id.rsplit('-');
        let number = parts.next().is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
        let names: Vec<&str> = parts.collect();
        let part = |p: &&str| {
            p.starts_with(|c: char| c.is_ascii_uppercase())
                && p.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit())
        };
        if id.len() <= 64 && number && !names.is_empty() && names.iter().all(part) {
            return Ok(RuleId(id));
        }
        Err(format!("'{}' is not a rule id such as EXF-002", shown(&id)))
    }
}

impl FromStr for RuleId {
    type Err = String;
    fn from_str(id: &str) -> Result<Self, String> {
        id.to_owned().try_into()
    }
}

impl From<RuleId> for String {
    fn from(id: RuleId) -> String {
        id.0
    }
}

impl fmt::Display for RuleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for RuleVersion {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let parsed = text.split_once('.').and_then(|(major, minor)| {
            Some(RuleVersion { major: major.parse().ok()?, minor: minor.parse().ok()? })
        });
        // One spelling per version: "01.+0" would parse as well.
        parsed
            .filter(|v| v.to_string() == text)
            .ok_or_else(|| format!("'{}' is not a version such as 1.0", shown(&text)))
    }
}

impl From<RuleVersion> for String {
    fn from(version: RuleVersion) -> String {
        version.to_string()
    }
}

impl fmt::Display for RuleVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl Severity {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Severity::Info => "info",
            Severity::Low => "low",
            Severity::Medium => "medium",
            Severity::High => "high",
            Severity::Critical => "critical",
        }
    }

    /// The severity of this name.
    pub fn named(name: &str) -> Option<Self> {
        use Severity::{Critical, High, Info, Low, Medium};
        [Info, Low, Medium, High, Critical].into_iter().find(|s| s.name() == name)
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Span {
    /// This many seconds.
    pub const fn seconds(seconds: i64) -> Self {
        Self { seconds }
    }

    /// In nanoseconds, saturating.
    pub fn nanos(self) -> i64 {
        self.seconds.saturating_mul(1_000_000_000)
    }
}

impl TryFrom<String> for Span {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let wrong = || format!("'{}' is not a length of time such as 30m, 1h or 28d", shown(&text));
        let at = text.len().checked_sub(1).filter(|at| text.is_char_boundary(*at)).ok_or_else(wrong)?;
        let (number, unit) = text.split_at(at);
        let unit = match unit {
            "s" => 1,
            "m" => 60,
            "h" => HOUR,
            "d" => 24 * HOUR,
            _ => return Err(wrong()),
        };
        let number: u32 = number.parse().map_err(|_| wrong())?;
        Ok(Span { seconds: i64::from(number) * unit })
    }
}

impl From<Span> for String {
    fn from(span: Span) -> String {
        span.to_string()
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.seconds {
            s if s % (24 * HOUR) == 0 && s != 0 => write!(f, "{}d", s / (24 * HOUR)),
            s if s % HOUR == 0 && s != 0 => write!(f, "{}h", s / HOUR),
            s if s % 60 == 0 && s != 0 => write!(f, "{}m", s / 60),
            s => write!(f, "{s}s"),
        }
    }
}

impl ParamValue {
    /// The name of its type.
    pub fn type_name(&self) -> &'static str {
        match self {
            ParamValue::Int(_) => "a whole number",
            ParamValue::Float(_) => "a number",
            ParamValue::Text(_) => "a text",
            ParamValue::TextList(_) => "a list of texts",
        }
    }

    /// This value as one of the type of `other`; a whole number will do for any number.
    fn as_type_of(&self, other: &ParamValue) -> Option<ParamValue> {
        match (self, other) {
            (ParamValue::Int(n), ParamValue::Float(_)) => Some(ParamValue::Float(*n as f64)),
            _ if std::mem::discriminant(self) == std::mem::discriminant(other) => Some(self.clone()),
            _ => None,
        }
    }

    fn put(&self, w: &mut Writer) {
        w.bytes(self.type_name().as_bytes());
        match self {
            ParamValue::Int(n) => w.int(*n),
            ParamValue::Float(x) => w.bytes(&x.to_bits().to_le_bytes()),
            ParamValue::Text(text) => w.bytes(text.as_bytes()),
            ParamValue::TextList(items) => put_field(w, items),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule() -> Rule {
        Rule {
            id: "EXF-002".parse().unwrap(),
            version: "1.0".to_owned().try_into().unwrap(),
            title: String::new(),
            description: String::new(),
            severity: Severity::Medium,
            tactics: vec![],
            attack: vec![],
            atlas: vec![],
            entity: vec!["principal_ref".into()],
            window: Span::seconds(HOUR),
            lookback: Span::default(),
            reach: Span::default(),
            early: true,
            unit: "rows".into(),
            params: [("min_rows".to_owned(), Param { default: ParamValue::Int(5), doc: String::new() })]
                .into(),
            text: String::new(),
            runbook: String::new(),
            query: "SELECT 1".into(),
        }
    }

    #[test]
    fn a_finding_id_depends_on_every_part_and_on_nothing_else() {
        let (rule, other): (RuleId, RuleId) = ("EXF-002".parse().unwrap(), "EXF-003".parse().unwrap());
        let key = |parts: &[&str]| parts.iter().map(|p| Some((*p).to_owned())).collect::<Vec<_>>();
        let base = finding_id(&rule, 1, 0, &key(&["a", "b"]));
        assert_eq!(base, finding_id(&rule, 1, 0, &key(&["a", "b"])));
        for different in [
            finding_id(&other, 1, 0, &key(&["a", "b"])),
            finding_id(&rule, 2, 0, &key(&["a", "b"])),
            finding_id(&rule, 1, 1, &key(&["a", "b"])),
            finding_id(&rule, 1, 0, &key(&["ab", ""])),
            finding_id(&rule, 1, 0, &key(&["b", "a"])),
            finding_id(&rule, 1, 0, &key(&["a"])),
            finding_id(&rule, 1, 0, &[Some("a".into()), None]),
            finding_id(&rule, 1, 0, &key(&["a", ""])),
        ] {
            assert_ne!(base, different);
        }
    }

    #[test]
    fn names_and_lengths_have_one_spelling() {
        for good in ["EXF-002", "ACME-DB2-17"] {
            assert_eq!(good.parse::<RuleId>().unwrap().as_str(), good);
        }
        for bad in ["", "EXF", "exf-002", "EXF-", "-002", "EXF-00a", "EXF--2", "../EXF-2", "002", "2X-1"] {
            assert!(bad.parse::<RuleId>().is_err(), "{bad}");
        }
        for good in ["1.0", "12.34"] {
            assert_eq!(RuleVersion::try_from(good.to_owned()).unwrap().to_string(), good);
        }
        for bad in ["1", "01.0", "1.+0", "1.0.0", "-1.0", ""] {
            assert!(RuleVersion::try_from(bad.to_owned()).is_err(), "{bad}");
        }
        for (text, seconds) in [("30m", 1800), ("1h", 3600), ("28d", 28 * 86400), ("0s", 0), ("7s", 7)] {
            let span = Span::try_from(text.to_owned()).unwrap();
            assert_eq!((span, span.to_string().as_str()), (Span::seconds(seconds), text));
        }
        for bad in ["", "h", "1", "1w", "-1h", "1.5h", "1é"] {
            assert!(Span::try_from(bad.to_owned()).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_envelope_that_does_not_hold_together_is_refused() {
        rule().check().unwrap();
        type Break = fn(&mut Rule);
        let breaks: [(Break, &str); 7] = [
            (|r| r.window = Span::seconds(1800), "whole number of hours"),
            (|r| r.window = Span::seconds(0), "whole number of hours"),
            (|r| r.lookback = Span::seconds(60), "whole number of hours"),
            (|r| r.reach = Span::seconds(60), "whole number of hours"),
            (|r| r.entity.clear(), "names no column"),
            (|r| r.entity = vec!["a b".into()], "is not a name"),
            (|r| drop(r.params.insert("from".into(), r.params["min_rows"].clone())), "every rule is given"),
        ];
        for (damage, expected) in breaks {
            let mut rule = rule();
            damage(&mut rule);
            let message = rule.check().unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }

    #[test]
    fn a_parameter_takes_only_values_of_its_type() {
        let set = |name: &str, value| rule().values(&[(name.to_owned(), value)].into());
        assert_eq!(set("min_rows", ParamValue::Int(7)).unwrap()["min_rows"], ParamValue::Int(7));
        assert!(set("min_rows", ParamValue::Float(7.5)).unwrap_err().to_string().contains("whole number"));
        assert!(set("other", ParamValue::Int(7)).unwrap_err().to_string().contains("no parameter"));
    }

    #[test]
    fn a_window_holds_the_time_that_it_starts_at() {
        let hour = HOUR * 1_000_000_000;
        for (ts, start) in [(0, 0), (1, 0), (hour - 1, 0), (hour, hour), (-1, -hour)] {
            assert_eq!(rule().window_start(ts), start, "{ts}");
        }
    }
}
