//! The `findings` table. Files that a commit of this table names hold findings of the recorder (a fork, a
//! broken chain); files that a window record names hold findings of rules. Per id the highest revision counts.

use bodycam_record::Id16;

use super::rows::rows;

rows! {
    /// A finding.
    FindingRow in "findings" {
        /// Deterministic id.
        id: Id16,
        /// Rule, e.g. `EXF-002`.
        rule: String,
        /// Version of the rule, `major.minor`.
        rule_version: String,
        /// `info`, `low`, `medium`, `high` or `critical`.
        severity: String,
        /// First nanosecond of the window, Unix.
        window_start_ns: i64,
        /// First nanosecond after the window.
        window_end_ns: i64,
        /// Pseudonym of the principal concerned.
        principal_ref: Option<Id16>,
        /// Target concerned.
        target: Option<String>,
        /// Sessions concerned, hyphenated UUIDs.
        session_ids: Vec<String>,
        /// What was measured, in the rule's unit.
        measure: Option<i64>,
        /// The threshold that it crossed, in the rule's unit.
        threshold: Option<i64>,
        /// Sessions of the evidence events, hyphenated UUIDs, one for each entry of `evidence_seqs`.
        evidence_sessions: Vec<String>,
        /// Numbers of the evidence events in their sessions.
        evidence_seqs: Vec<i64>,
        /// Grows when the finding is told anew; the highest counts.
        revision: i64,
        /// Whether no later revision is expected.
        is_final: bool,
        /// What was found, in one paragraph, without anything that a person or a target wrote.
        text: String,
    }
}
