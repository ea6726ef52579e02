//! One Parquet file: how it is written, and what a commit says about it.
//!
//! Settings are the measured ones: zstd 1, page index, row groups of 128 k rows or 64 MiB of
//! texts, Bloom filters on ids and hosts, and no dictionary or statistics on digests, sealed bytes and statement texts,
//! which neither repeat nor sort.

use arrow::array::RecordBatch;
use bodycam_record::value::Type;
use bodycam_record::{Digest, Family, SealedChunk, digest};
use bytes::Bytes;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::metadata::SortingColumn;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;
use sha2::{Digest as _, Sha256};

use crate::columns::{Table, body_columns};
use crate::commit::FileEntry;
use crate::error::LakeError;

mod about;
mod writer;

#[cfg(feature = "io")]
pub(crate) use about::seq_column;
pub use writer::FileWriter;

/// Rows in a row group.
pub const ROW_GROUP_ROWS: usize = 128 * 1024;
/// Bytes of texts and ciphertext after which a row group ends before it has that many rows: it is written, and often
/// read, as a whole.
pub const ROW_GROUP_BYTES: u64 = 64 << 20;
/// Rows in a page, so that a needle read decodes little.
const PAGE_ROWS: usize = 10_000;
/// False positives of Bloom filters.
const BLOOM_FPP: f64 = 0.01;

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

/// Rows that are encoded in one go; after each go it is looked whether the page is full. A chunk of content can have
/// a quarter of a mebibyte.
pub(crate) fn step_rows(table: Table) -> usize {
    if table == Table::Content { 64 } else { 2048 }
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
        .set_write_batch_size(step_rows(table))
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
    // Long, and hardly two alike.
    if table == Table::Templates {
        let column = ColumnPath::from("text");
        p = p
            .set_column_dictionary_enabled(column.clone(), false)
            .set_column_encoding(column.clone(), Encoding::DELTA_LENGTH_BYTE_ARRAY)
            .set_column_statistics_enabled(column, EnabledStatistics::None);
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

    /// Content of `rows` chunks of `bytes` bytes.
    fn chunks(rows: i64, bytes: usize) -> RecordBatch {
        let chunk = |n: i64| SealedChunk {
            session: bodycam_record::SessionId([1; 16]),
            content_no: n,
            index: 0,
            kind: 1,
            sealed: (0..bytes).map(|i| (i as i64 * n) as u8).collect(),
        };
        crate::columns::content::encode(&(0..rows).map(chunk).collect::<Vec<_>>()).unwrap()
    }

    fn groups(file: &EncodedFile) -> Vec<i64> {
        let reader = ParquetRecordBatchReaderBuilder::try_new(file.bytes.clone()).unwrap();
        reader.metadata().row_groups().iter().map(|g| g.num_rows()).collect()
    }

    #[test]
    fn a_file_has_the_same_bytes_however_its_rows_were_cut_into_batches() {
        for (rows, bytes, expected) in [(1000, 100, 1), (3000, 100_000, 5), (700, 0, 1)] {
            let batch = chunks(rows, bytes);
            let whole = encode(Table::Content, &batch).unwrap();
            assert_eq!(groups(&whole).len(), expected, "{rows} of {bytes}");
            for cut in [1, 63, 64, 65, 1000] {
                let mut writer = FileWriter::new(Table::Content).unwrap();
                for at in (0..batch.num_rows()).step_by(cut) {
                    writer.write(&batch.slice(at, cut.min(batch.num_rows() - at))).unwrap();
                }
                let file = writer.finish().unwrap();
                assert_eq!(file.entry, whole.entry, "{cut}");
                assert!(file.bytes == whole.bytes, "{cut}");
            }
        }
    }

    #[test]
    fn a_row_group_ends_after_so_many_rows_or_bytes() {
        let rows = 2 * ROW_GROUP_ROWS as i64 + 5;
        assert_eq!(
            groups(&encode(Table::Content, &chunks(rows, 0)).unwrap()),
            [ROW_GROUP_ROWS as i64, ROW_GROUP_ROWS as i64, 5]
        );
        // 64 rows are looked at together.
        let large = encode(Table::Content, &chunks(700, 200_000)).unwrap();
        assert_eq!(groups(&large), [384, 316]);
    }
}
