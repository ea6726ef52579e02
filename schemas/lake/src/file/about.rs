//! What a commit says about a file, gathered batch by batch while the file is written.

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use bodycam_record::{Digest, Family, SessionId};

use super::{RowSum, content_row_hash};
use crate::columns::Table;
use crate::commit::{FileEntry, SessionRange, TableName};
use crate::error::LakeError;

/// The column that numbers the rows of a session.
pub(crate) fn seq_column(table: Table) -> &'static str {
    if table == Table::Content { "content_no" } else { "seq" }
}

/// The hashes of rows that do not state theirs: all but events and ledger records.
fn row_hashes(table: Table, batch: &RecordBatch) -> Result<Vec<Digest>, LakeError> {
    use crate::columns::{content, findings, sessions, templates};
    Ok(match table {
        Table::Events(_) => Vec::new(),
        Table::Content => {
            content::decode(batch)?.into_iter().flatten().map(|c| content_row_hash(&c)).collect()
        }
        Table::Sessions => sessions::decode(batch)?.iter().map(sessions::SessionRow::row_hash).collect(),
        Table::Templates => templates::decode(batch)?.iter().map(templates::TemplateRow::row_hash).collect(),
        Table::Findings => findings::decode(batch)?.iter().map(findings::FindingRow::row_hash).collect(),
    })
}

/// What a commit says about a file, gathered batch by batch.
#[derive(Default)]
pub(super) struct About {
    rows: u64,
    min_ts: Option<i64>,
    max_ts: Option<i64>,
    sum: RowSum,
    ranges: Vec<SessionRange>,
}

impl About {
    pub fn add(&mut self, table: Table, batch: &RecordBatch) -> Result<(), LakeError> {
        self.rows += batch.num_rows() as u64;
        let times = match table {
            Table::Events(_) => batch.column_by_name("ts_wall_ns"),
            Table::Sessions => batch.column_by_name("last_activity_ns"),
            Table::Findings => batch.column_by_name("window_start_ns"),
            Table::Content | Table::Templates => None,
        };
        for ts in times.and_then(|a| a.as_primitive_opt::<Int64Type>()).into_iter().flatten().flatten() {
            self.min_ts = Some(self.min_ts.map_or(ts, |m| m.min(ts)));
            self.max_ts = Some(self.max_ts.map_or(ts, |m| m.max(ts)));
        }
        let hashes = match table {
            Table::Events(_) => batch.column_by_name("hash").and_then(|a| a.as_fixed_size_binary_opt()),
            _ => None,
        };
        for hash in hashes.into_iter().flatten().flatten() {
            self.sum.add(Digest(hash.try_into().unwrap_or_default()));
        }
        for hash in row_hashes(table, batch)? {
            self.sum.add(hash);
        }
        if matches!(table, Table::Events(Family::Ledger)) {
            return Ok(());
        }
        let Some(ids) = batch.column_by_name("session_id").and_then(|a| a.as_fixed_size_binary_opt()) else {
            return Ok(());
        };
        let seqs = batch.column_by_name(seq_column(table)).and_then(|a| a.as_primitive_opt::<Int64Type>());
        for row in 0..ids.len() {
            let session = SessionId(ids.value(row).try_into().unwrap_or_default());
            let seq = seqs.map_or(0, |s| s.value(row));
            let head = hashes.map(|h| Digest(h.value(row).try_into().unwrap_or_default()));
            match self.ranges.last_mut() {
                Some(last) if last.session == session => {
                    last.seq_from = last.seq_from.min(seq);
                    if seq >= last.seq_to {
                        (last.seq_to, last.head) = (seq, head);
                    }
                }
                Some(last) if last.session > session => {
                    return Err(LakeError::columns(table.name(), "rows are not sorted by session"));
                }
                _ => self.ranges.push(SessionRange { session, seq_from: seq, seq_to: seq, head }),
            }
        }
        Ok(())
    }

    /// The entry of a file of so many bytes, with an empty path.
    pub fn entry(self, table: Table, bytes: u64, sha256: Digest) -> FileEntry {
        let has_sessions = matches!(table, Table::Content | Table::Sessions)
            || matches!(table, Table::Events(family) if family != Family::Ledger);
        FileEntry {
            path: String::new(),
            table: TableName(table),
            rows: self.rows,
            bytes,
            sha256,
            min_ts_ns: self.min_ts,
            max_ts_ns: self.max_ts,
            row_sum: Some(self.sum.digest()),
            min_session: self.ranges.first().map(|r| r.session),
            max_session: self.ranges.last().map(|r| r.session),
            sessions: has_sessions.then_some(self.ranges),
        }
    }
}
