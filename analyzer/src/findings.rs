//! What is said about findings: their marks in window records, and the JSON lines that detection prints.

use arrow::temporal_conversions::timestamp_ns_to_datetime;
use bodycam_lake::columns::findings::FindingRow;
use bodycam_lake::window::FindingMark;
use bodycam_record::canonical::Writer;
use bodycam_record::rule::{Rule, Severity};
use bodycam_record::value::put_field;
use bodycam_record::{Id16, digest};
use serde::Serialize;

/// News of a finding.
// One at a time, on its way to a line of text.
#[allow(clippy::large_enum_variant)]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// A finding, new or in a new revision.
    Found {
        /// The finding.
        finding: FindingRow,
        /// Title of its rule.
        title: String,
        /// Unit of its measure.
        unit: String,
        /// ATT&CK and ATLAS techniques.
        techniques: Vec<String>,
        /// Whether it was not known before.
        is_new: bool,
    },
    /// An earlier finding that the rows, as they are now, do not support.
    Retracted {
        /// Its id.
        id: Id16,
        /// Its rule.
        rule: String,
        /// The revision that takes it back.
        revision: u64,
    },
}

impl News {
    pub(crate) fn found(finding: FindingRow, rule: &Rule, is_new: bool) -> Self {
        News::Found {
            finding,
            title: rule.title.clone(),
            unit: rule.unit.clone(),
            techniques: rule.attack.iter().chain(&rule.atlas).cloned().collect(),
            is_new,
        }
    }

    /// Id of the finding.
    pub fn id(&self) -> Id16 {
        match self {
            News::Found { finding, .. } => finding.id,
            News::Retracted { id, .. } => *id,
        }
    }

    /// One line of JSON, safe for a terminal.
    pub fn to_json(&self) -> String {
        let json = match self {
            News::Found { finding, title, unit, techniques, .. } => {
                let events = finding.evidence_sessions.iter().zip(&finding.evidence_seqs);
                serde_json::to_string(&Line {
                    id: finding.id,
                    revision: finding.revision,
                    is_final: finding.is_final,
                    rule: &finding.rule,
                    rule_version: &finding.rule_version,
                    title,
                    severity: &finding.severity,
                    window_start: time(finding.window_start_ns),
                    window_end: time(finding.window_end_ns),
                    principal_ref: finding.principal_ref,
                    target: finding.target.as_deref(),
                    measure: finding.measure,
                    threshold: finding.threshold,
                    unit,
                    techniques,
                    text: &finding.text,
                    evidence: events
                        .map(|(session, seq)| EvidenceLine {
                            event_id: format!("{session}:{seq}"),
                            session,
                            seq: *seq,
                        })
                        .collect(),
                })
            }
            News::Retracted { id, rule, revision } => {
                serde_json::to_string(&Retraction { id: *id, revision: *revision, rule, retracted: true })
            }
        };
        bodycam_record::shown::shown_json(&json.unwrap_or_default())
    }
}

#[derive(Serialize)]
struct Line<'a> {
    id: Id16,
    revision: i64,
    #[serde(rename = "final")]
    is_final: bool,
    rule: &'a str,
    rule_version: &'a str,
    title: &'a str,
    severity: &'a str,
    window_start: String,
    window_end: String,
    principal_ref: Option<Id16>,
    target: Option<&'a str>,
    measure: Option<i64>,
    threshold: Option<i64>,
    unit: &'a str,
    techniques: &'a [String],
    text: &'a str,
    evidence: Vec<EvidenceLine<'a>>,
}

#[derive(Serialize)]
struct EvidenceLine<'a> {
    /// As the tables spell it.
    event_id: String,
    session: &'a str,
    seq: i64,
}

#[derive(Serialize)]
struct Retraction<'a> {
    id: Id16,
    revision: u64,
    rule: &'a str,
    retracted: bool,
}

/// RFC 3339, in UTC.
pub fn time(ns: i64) -> String {
    timestamp_ns_to_datetime(ns)
        .map_or_else(|| ns.to_string(), |t| t.format("%Y-%m-%dT%H:%M:%S%.fZ").to_string())
}

/// What a window record says about a finding.
pub(crate) fn mark(finding: &FindingRow) -> FindingMark {
    let mut w = Writer::new();
    w.bytes(&finding.id.0);
    w.bytes(finding.rule.as_bytes());
    w.bytes(finding.rule_version.as_bytes());
    w.bytes(finding.severity.as_bytes());
    w.int(finding.window_start_ns);
    w.int(finding.window_end_ns);
    put_field(&mut w, &finding.principal_ref);
    put_field(&mut w, &finding.target);
    put_field(&mut w, &finding.measure);
    put_field(&mut w, &finding.threshold);
    put_field(&mut w, &finding.evidence_sessions);
    put_field(&mut w, &finding.evidence_seqs);
    w.bool(finding.is_final);
    w.bytes(finding.text.as_bytes());
    FindingMark {
        id: finding.id,
        severity: Severity::named(&finding.severity).unwrap_or(Severity::Info),
        said: digest::FINDING_MARK.digest(w.as_slice()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_its_evidence_and_carries_nothing_hostile() {
        let finding = FindingRow {
            id: Id16([7; 16]),
            rule: "EXF-002".into(),
            rule_version: "1.0".into(),
            severity: "medium".into(),
            window_start_ns: 1_795_255_200_000_000_000,
            window_end_ns: 1_795_258_800_000_000_000,
            principal_ref: None,
            target: Some("crm".into()),
            session_ids: vec!["s".into()],
            measure: Some(1),
            threshold: None,
            evidence_sessions: vec!["s".into(), "t".into()],
            evidence_seqs: vec![3, 4],
            revision: 2,
            is_final: true,
            text: "a\u{9b}31m \u{202e} \u{1b}[2J \u{e0041}".into(),
        };
        let mark_before = mark(&finding);
        assert_eq!(mark(&FindingRow { revision: 3, ..finding.clone() }), mark_before);
        assert_ne!(mark(&FindingRow { is_final: false, ..finding.clone() }), mark_before);
        let news = News::Found {
            finding: finding.clone(),
            title: "t".into(),
            unit: "rows".into(),
            techniques: vec![],
            is_new: true,
        };
        let line = news.to_json();
        assert!(!line.chars().any(bodycam_record::shown::is_hostile), "{line}");
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["text"], finding.text.as_str());
        assert_eq!(value["final"], true);
        assert_eq!(value["window_start"], "2026-11-21T10:00:00Z");
        assert_eq!(value["evidence"][1]["session"], "t");
        assert_eq!(value["evidence"][1]["seq"], 4);
        assert_eq!(value["evidence"][1]["event_id"], "t:4");
    }
}
