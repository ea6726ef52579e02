//! One Parquet file: how it is written, and what a commit says about it.
//!
//! Settings are the measured ones: zstd 1, page index, row groups of 128 k rows, Bloom filters on ids and
//! hosts, and no dictionary or statistics on digests and sealed bytes, which neither compress nor sort.

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use bodycam_record::value::Type;
use bodycam_record::{Digest, Family, SealedChunk, SessionId, digest};
use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::metadata::SortingColumn;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;
use sha2::{Digest as _, Sha256};

use crate::columns::{Table, body_columns};
use crate::commit::{FileEntry, SessionRange, TableName};
use crate::error::LakeError;

/// Rows in a row group.
pub const ROW_GROUP_ROWS: usize = 128 * 1024;
/// Rows in a page, so that a needle read decodes little.
const PAGE_ROWS: usize = 10_000;
/// False positives of Bloom filters.
const BLOOM_FPP: f64 = 0.01;

/// Writes one file of a table, and gathers what the commit says about it. Rows come sorted as
/// [`Table::sorted_by`] says.
pub struct FileWriter {
    table: Table,
    writer: ArrowWriter<Vec<u8>>,
    about: About,
}

/// A finished file and what a commit says about it; the path is the caller's.
#[derive(Debug, Clone)]
pub struct EncodedFile {
    /// The file.
    pub bytes: Bytes,
    /// The entry, with an empty path.
    pub entry: FileEntry,
}

/// The sum of row hashes modulo 2^256: the same for the same rows in any order and any split.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RowSum([u64; 4]);

impl RowSum {
    /// Adds a hash, read as a little-endian number.
    pub fn add(&mut self, hash: Digest) {
        let mut carry = false;
        for (limb, bytes) in self.0.iter_mut().zip(hash.0.chunks_exact(8)) {
            let word = u64::from_le_bytes(bytes.try_into().unwrap_or_default());
            let (sum, over) = limb.overflowing_add(word);
            let (sum, again) = sum.overflowing_add(u64::from(carry));
            *limb = sum;
            carry = over || again;
        }
    }

    /// The sum as 32 bytes.
    pub fn digest(&self) -> Digest {
        let mut out = [0; 32];
        for (bytes, limb) in out.chunks_exact_mut(8).zip(self.0) {
            bytes.copy_from_slice(&limb.to_le_bytes());
        }
        Digest(out)
    }
}

/// The hash of a content row, as it enters a row sum.
pub fn content_row_hash(chunk: &SealedChunk) -> Digest {
    let mut hasher = digest::LAKE_CONTENT_ROW.hasher();
    hasher.update(&chunk.session.0);
    hasher.update(&chunk.content_no.to_le_bytes());
    hasher.update(&chunk.index.to_le_bytes());
    hasher.update(&chunk.kind.to_le_bytes());
    hasher.update(&chunk.sealed);
    Digest(*hasher.finalize().as_bytes())
}

impl FileWriter {
    /// A writer of one file.
    pub fn new(table: Table) -> Result<Self, LakeError> {
        let writer = ArrowWriter::try_new(Vec::new(), table.schema(), Some(properties(table)))
            .map_err(|err| LakeError::columns(table.name(), err))?;
        Ok(Self { table, writer, about: About::default() })
    }

    /// Appends rows.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<(), LakeError> {
        self.about.add(self.table, batch)?;
        self.writer.write(batch).map_err(|err| LakeError::columns(self.table.name(), err))
    }

    /// Bytes so far, encoded and buffered.
    pub fn size(&self) -> usize {
        self.writer.bytes_written() + self.writer.in_progress_size()
    }

    /// Finishes the file.
    pub fn finish(self) -> Result<EncodedFile, LakeError> {
        let bytes = self.writer.into_inner().map_err(|err| LakeError::columns(self.table.name(), err))?;
        let bytes = Bytes::from(bytes);
        let entry = self.about.entry(self.table, &bytes);
        Ok(EncodedFile { bytes, entry })
    }
}

/// One file of `batch`.
pub fn encode(table: Table, batch: &RecordBatch) -> Result<EncodedFile, LakeError> {
    let mut writer = FileWriter::new(table)?;
    writer.write(batch)?;
    writer.finish()
}

/// The batches of a whole file in memory, at most `batch_rows` rows each.
pub fn batches(path: &str, bytes: Bytes, batch_rows: usize) -> Result<ParquetRecordBatchReader, LakeError> {
    ParquetRecordBatchReaderBuilder::try_new(bytes)
        .and_then(|builder| builder.with_batch_size(batch_rows).build())
        .map_err(|err| LakeError::damaged(path, err))
}

/// SHA-256 of a file.
pub fn sha256(bytes: &[u8]) -> Digest {
    Digest(Sha256::digest(bytes).into())
}

/// How files of a table are written.
pub fn properties(table: Table) -> WriterProperties {
    let zstd = ZstdLevel::try_new(1).unwrap_or_default();
    let schema = table.schema();
    let sorting = table.sorted_by().iter().filter_map(|name| {
        let column_idx = i32::try_from(schema.index_of(name).ok()?).ok()?;
        Some(SortingColumn { column_idx, descending: false, nulls_first: false })
    });
    let mut p = WriterProperties::builder()
        .set_created_by("bodycam".to_owned())
        .set_compression(Compression::ZSTD(zstd))
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        .set_data_page_row_count_limit(PAGE_ROWS)
        .set_write_batch_size(2048)
        .set_sorting_columns(Some(sorting.collect()));
    for name in table.bloom_filters() {
        let column = ColumnPath::from(name);
        p = p
            .set_column_bloom_filter_enabled(column.clone(), true)
            .set_column_bloom_filter_fpp(column, BLOOM_FPP);
    }
    for name in incompressible(table) {
        let column = ColumnPath::from(name);
        p = p
            .set_column_dictionary_enabled(column.clone(), false)
            .set_column_compression(column.clone(), Compression::UNCOMPRESSED)
            .set_column_statistics_enabled(column, EnabledStatistics::None);
    }
    for name in ["seq", "content_no", "ts_wall_ns", "ts_mono_ns", "duration_us", "parent_seq"] {
        if schema.index_of(name).is_ok() {
            let column = ColumnPath::from(name);
            p = p
                .set_column_dictionary_enabled(column.clone(), false)
                .set_column_encoding(column, Encoding::DELTA_BINARY_PACKED);
        }
    }
    p.build()
}

/// Columns of digests (but the policy's, which repeats), signatures and ciphertext.
fn incompressible(table: Table) -> Vec<&'static str> {
    match table {
        Table::Events(family) => {
            let body =
                body_columns(family).iter().filter(|(_, ty)| *ty == Type::Digest).map(|(name, _)| *name);
            let fixed: &[&str] = if family == Family::Ledger { &["record_signature"] } else { &["content"] };
            body.chain(fixed.iter().copied()).chain(["hash"]).collect()
        }
        Table::Content => vec!["sealed"],
        Table::Sessions => vec!["head"],
        Table::Templates | Table::Findings => Vec::new(),
    }
}

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
struct About {
    rows: u64,
    min_ts: Option<i64>,
    max_ts: Option<i64>,
    sum: RowSum,
    ranges: Vec<SessionRange>,
}

impl About {
    fn add(&mut self, table: Table, batch: &RecordBatch) -> Result<(), LakeError> {
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

    fn entry(self, table: Table, bytes: &[u8]) -> FileEntry {
        let has_sessions = matches!(table, Table::Content | Table::Sessions)
            || matches!(table, Table::Events(family) if family != Family::Ledger);
        FileEntry {
            path: String::new(),
            table: TableName(table),
            rows: self.rows,
            bytes: bytes.len() as u64,
            sha256: sha256(bytes),
            min_ts_ns: self.min_ts,
            max_ts_ns: self.max_ts,
            row_sum: Some(self.sum.digest()),
            min_session: self.ranges.first().map(|r| r.session),
            max_session: self.ranges.last().map(|r| r.session),
            sessions: has_sessions.then_some(self.ranges),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_sum_does_not_depend_on_order_and_sees_a_lost_or_repeated_row() {
        let hashes: Vec<_> = (0..50u8).map(|i| digest::EVENT.digest(&[i])).collect();
        let sum = |hashes: &[Digest]| {
            let mut sum = RowSum::default();
            hashes.iter().for_each(|h| sum.add(*h));
            sum.digest()
        };
        let mut reversed = hashes.clone();
        reversed.reverse();
        assert_eq!(sum(&hashes), sum(&reversed));
        assert_ne!(sum(&hashes), sum(&hashes[1..]));
        let mut repeated = hashes.clone();
        repeated[0] = repeated[1];
        assert_ne!(sum(&hashes), sum(&repeated));
    }

    #[test]
    fn a_row_sum_is_the_sum_modulo_two_to_the_256() {
        let mut sum = RowSum::default();
        sum.add(Digest([0xff; 32]));
        let mut two = [0; 32];
        two[0] = 2;
        sum.add(Digest(two));
        let mut one = [0; 32];
        one[0] = 1;
        assert_eq!(sum.digest(), Digest(one));
    }
}
