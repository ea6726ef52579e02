//! The record of one evaluation of a rule's window. It is the commit of the findings files that it names: files
//! without one do not exist, and of a window only the record with the highest number counts.

use bodycam_record::rule::{RuleId, RuleVersion, Severity};
use bodycam_record::{Digest, Id16};
use serde::{Deserialize, Serialize};

use crate::columns::Table;
use crate::commit::{FileEntry, VERSION, check_size, check_version};
use crate::error::LakeError;
use crate::layout::{self, StreamName};

/// Every entry of the list with a number that this divides repeats everything before it.
pub const COMPLETE_EVERY: u64 = 64;

/// Most records that one detection writes before it adds them to the list.
pub const RECORDS_AT_ONCE: u64 = 24;

/// One evaluation of one window of one rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WindowRecord {
    /// [`VERSION`].
    pub version: i64,
    /// The rule.
    pub rule: RuleId,
    /// Its version.
    pub rule_version: RuleVersion,
    /// Digest of the rule and its parameters as evaluated.
    pub rule_digest: Digest,
    /// First nanosecond of the window, Unix.
    pub window_start_ns: i64,
    /// First nanosecond after it.
    pub window_end_ns: i64,
    /// Number of the evaluation: the revision of its findings.
    pub n: u64,
    /// Whether the watermark had passed the window and the allowed lateness; otherwise its findings are early.
    pub closed: bool,
    /// Digest over the sums of the events that the evaluation could see one by one: those of the window and of
    /// the reach before it. The same rows give the same digest, in whatever files they rest.
    pub input: Digest,
    /// The same of the events that it saw rolled up.
    pub history: Digest,
    /// How far each stream was read.
    pub read: Vec<ReadPosition>,
    /// The findings files of the window.
    pub files: Vec<FileEntry>,
    /// The findings in them.
    pub findings: Vec<FindingMark>,
    /// Findings of an earlier evaluation that this one did not find.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub retracted: Vec<Id16>,
}

/// How far a stream was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReadPosition {
    /// The stream.
    pub stream: StreamName,
    /// Its generation.
    pub generation: u64,
    /// First position that was not read.
    pub position: u64,
}

/// A finding, as a window record names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FindingMark {
    /// Its id.
    pub id: Id16,
    /// How bad it is.
    pub severity: Severity,
    /// Digest over everything that it says but its revision: two evaluations that say the same agree in it.
    pub said: Digest,
}

/// A window of a rule.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WindowKey {
    /// The rule.
    pub rule: RuleId,
    /// Its major version.
    pub major: u64,
    /// First nanosecond of the window, Unix.
    pub start_ns: i64,
}

/// An entry of the list of window records: what was evaluated since the entry before it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IndexEntry {
    /// [`VERSION`].
    pub version: i64,
    /// Whether it repeats everything before it, so that a reader can start here.
    pub complete: bool,
    /// For each window, the record with the highest number.
    pub windows: Vec<WindowMark>,
}

/// A window and the number of its newest record: written as `[rule, major, start, n, findings]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(RuleId, u64, i64, u64, u64)", into = "(RuleId, u64, i64, u64, u64)")]
pub struct WindowMark {
    /// The window.
    pub window: WindowKey,
    /// Number of the record.
    pub n: u64,
    /// Number of findings in it.
    pub findings: u64,
}

impl WindowRecord {
    /// The record that `bytes` of the object `path` hold.
    pub fn parse(path: &str, bytes: &[u8]) -> Result<Self, LakeError> {
        check_size(path, bytes)?;
        check_version(path, bytes)?;
        let record: WindowRecord =
            serde_json::from_slice(bytes).map_err(|err| LakeError::damaged(path, err))?;
        if record.path()? != path {
            return Err(LakeError::damaged(path, "it is the record of another window"));
        }
        for file in &record.files {
            file.check().map_err(|reason| LakeError::damaged(path, reason))?;
            if file.table.0 != Table::Findings {
                return Err(LakeError::damaged(path, "it names a file that is not of findings"));
            }
        }
        Ok(record)
    }

    /// The JSON of the record.
    pub fn to_json(&self) -> Vec<u8> {
        json_line(self)
    }

    /// The window.
    pub fn key(&self) -> WindowKey {
        WindowKey { rule: self.rule.clone(), major: self.rule_version.major, start_ns: self.window_start_ns }
    }

    /// Where it belongs.
    pub fn path(&self) -> Result<String, LakeError> {
        self.key().path(self.n)
    }

    /// What the list of records says about it.
    pub fn mark(&self) -> WindowMark {
        WindowMark { window: self.key(), n: self.n, findings: self.findings.len() as u64 }
    }
}

impl WindowKey {
    /// The path of the window's record number `n`.
    pub fn path(&self, n: u64) -> Result<String, LakeError> {
        layout::window(self.rule.as_str(), self.major, self.start_ns, n)
    }
}

impl IndexEntry {
    /// An entry.
    pub fn new(complete: bool, windows: Vec<WindowMark>) -> Self {
        Self { version: VERSION, complete, windows }
    }

    /// The entry that `bytes` of the object `path` hold.
    pub fn parse(path: &str, bytes: &[u8]) -> Result<Self, LakeError> {
        check_size(path, bytes)?;
        check_version(path, bytes)?;
        serde_json::from_slice(bytes).map_err(|err| LakeError::damaged(path, err))
    }

    /// The JSON of the entry.
    pub fn to_json(&self) -> Vec<u8> {
        json_line(self)
    }
}

impl From<(RuleId, u64, i64, u64, u64)> for WindowMark {
    fn from((rule, major, start_ns, n, findings): (RuleId, u64, i64, u64, u64)) -> Self {
        Self { window: WindowKey { rule, major, start_ns }, n, findings }
    }
}

impl From<WindowMark> for (RuleId, u64, i64, u64, u64) {
    fn from(mark: WindowMark) -> Self {
        (mark.window.rule, mark.window.major, mark.window.start_ns, mark.n, mark.findings)
    }
}

fn json_line(value: &impl Serialize) -> Vec<u8> {
    let mut json = serde_json::to_vec(value).unwrap_or_default();
    json.push(b'\n');
    json
}
