//! Ledger records into columns and back. `prev` and the body's digest are derived, hash and signature stored.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryBuilder, FixedSizeBinaryBuilder, Int64Builder, RecordBatch, StringBuilder,
};
use bodycam_record::digest::SUITE;
use bodycam_record::envelope::SCHEMA_VERSION;
use bodycam_record::value::Type;
use bodycam_record::{Digest, Family, LedgerRecord};

use super::cells::{Cells, Columns};
use super::decode::{BodyDecoder, RowError, RowFault, digest, int, text};
use super::encode::BodyBuilder;
use super::layout_of;
use crate::error::LakeError;

const NAME: &str = "ledger";

/// A ledger record as the table holds it: `prev` is zero, the body's digest recomputed from the columns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredLedgerRecord(pub LedgerRecord);

impl StoredLedgerRecord {
    /// The record that follows on `prev`.
    pub fn after(mut self, prev: Digest) -> LedgerRecord {
        self.0.prev = prev;
        self.0
    }
}

/// Builds the rows of the ledger table.
pub struct LedgerBuilder {
    rows: usize,
    suite: Int64Builder,
    schema_version: Int64Builder,
    producer: StringBuilder,
    epoch: Int64Builder,
    seq: Int64Builder,
    ts_wall_ns: Int64Builder,
    kind: Int64Builder,
    kind_name: StringBuilder,
    kind_version: Int64Builder,
    record_signature: BinaryBuilder,
    hash: FixedSizeBinaryBuilder,
    body: BodyBuilder,
}

/// The batch of `records`.
pub fn encode_ledger<'a>(
    records: impl IntoIterator<Item = &'a LedgerRecord>,
) -> Result<RecordBatch, LakeError> {
    let mut builder = LedgerBuilder::default();
    for record in records {
        builder.push(record)?;
    }
    builder.finish()
}

/// The rows of a batch of the ledger table: records, and faults with their place.
pub fn decode_ledger(batch: &RecordBatch) -> Result<Vec<Result<StoredLedgerRecord, RowFault>>, LakeError> {
    let decoder = LedgerDecoder::new(batch)?;
    Ok((0..batch.num_rows()).map(|row| decoder.row(row)).collect())
}

impl Default for LedgerBuilder {
    fn default() -> Self {
        Self {
            rows: 0,
            suite: Int64Builder::new(),
            schema_version: Int64Builder::new(),
            producer: StringBuilder::new(),
            epoch: Int64Builder::new(),
            seq: Int64Builder::new(),
            ts_wall_ns: Int64Builder::new(),
            kind: Int64Builder::new(),
            kind_name: StringBuilder::new(),
            kind_version: Int64Builder::new(),
            record_signature: BinaryBuilder::new(),
            hash: FixedSizeBinaryBuilder::new(32),
            body: BodyBuilder::new(layout_of(Family::Ledger)),
        }
    }
}

impl LedgerBuilder {
    /// Appends a record. One that does not decode is refused and leaves the builder unusable.
    pub fn push(&mut self, record: &LedgerRecord) -> Result<(), LakeError> {
        let LedgerRecord { kind, kind_version, .. } = *record;
        let (table, places) = self.body.layout.kind(kind, kind_version).ok_or_else(|| {
            LakeError::columns(NAME, format_args!("no kind {kind} version {kind_version} here"))
        })?;
        self.body.push(self.rows, table, places, &record.body).map_err(|reason| {
            LakeError::columns(NAME, format_args!("{} record {}: {reason}", record.producer, record.seq))
        })?;
        self.suite.append_value(record.suite);
        self.schema_version.append_value(record.schema_version);
        self.producer.append_value(&record.producer);
        self.epoch.append_value(record.epoch);
        self.seq.append_value(record.seq);
        self.ts_wall_ns.append_value(record.ts_wall_ns);
        self.kind.append_value(kind);
        self.kind_name.append_value(table.name);
        self.kind_version.append_value(kind_version);
        self.record_signature.append_value(&record.signature);
        self.hash.append_value(record.hash.0).map_err(|err| LakeError::columns(NAME, err))?;
        self.rows += 1;
        Ok(())
    }

    /// The batch, and an empty builder again.
    pub fn finish(&mut self) -> Result<RecordBatch, LakeError> {
        let mut columns: Vec<ArrayRef> = vec![
            Arc::new(self.suite.finish()),
            Arc::new(self.schema_version.finish()),
            Arc::new(self.producer.finish()),
            Arc::new(self.epoch.finish()),
            Arc::new(self.seq.finish()),
            Arc::new(self.ts_wall_ns.finish()),
            Arc::new(self.kind.finish()),
            Arc::new(self.kind_name.finish()),
            Arc::new(self.kind_version.finish()),
            Arc::new(self.record_signature.finish()),
            Arc::new(self.hash.finish()),
        ];
        columns.extend(self.body.finish(self.rows));
        self.rows = 0;
        RecordBatch::try_new(layout_of(Family::Ledger).schema.clone(), columns)
            .map_err(|err| LakeError::columns(NAME, err))
    }
}

/// Reads the rows of one batch of the ledger table.
pub struct LedgerDecoder {
    suite: Cells,
    schema_version: Cells,
    producer: Cells,
    epoch: Cells,
    seq: Cells,
    ts_wall_ns: Cells,
    record_signature: Cells,
    hash: Cells,
    body: BodyDecoder,
}

impl LedgerDecoder {
    /// A decoder of `batch`; fails when a column is missing or of a type that cannot hold its values.
    pub fn new(batch: &RecordBatch) -> Result<Self, LakeError> {
        let columns = Columns { table: NAME, batch };
        Ok(Self {
            suite: columns.need("suite", Type::Int)?,
            schema_version: columns.need("schema_version", Type::Int)?,
            producer: columns.need("producer", Type::Text)?,
            epoch: columns.need("epoch", Type::Int)?,
            seq: columns.need("seq", Type::Int)?,
            ts_wall_ns: columns.need("ts_wall_ns", Type::Int)?,
            record_signature: columns.need("record_signature", Type::Bytes)?,
            hash: columns.need("hash", Type::Digest)?,
            body: BodyDecoder::new(Family::Ledger, &columns)?,
        })
    }

    /// The record in row `row`.
    pub fn row(&self, row: usize) -> Result<StoredLedgerRecord, RowFault> {
        self.record(row).map(StoredLedgerRecord).map_err(|error| RowFault {
            row,
            session: None,
            seq: self.seq.int(row),
            hash: self.hash.digest(row),
            error,
        })
    }

    fn record(&self, row: usize) -> Result<LedgerRecord, RowError> {
        let suite = int(&self.suite, row, "suite")?;
        if suite != SUITE {
            return Err(RowError::Unsupported { what: "hash suite", value: suite });
        }
        let schema_version = int(&self.schema_version, row, "schema_version")?;
        if schema_version != SCHEMA_VERSION {
            return Err(RowError::Unsupported { what: "schema version", value: schema_version });
        }
        let (table, body) = self.body.row(row)?;
        Ok(LedgerRecord {
            suite,
            schema_version,
            producer: text(&self.producer, row, "producer")?.to_owned(),
            epoch: int(&self.epoch, row, "epoch")?,
            seq: int(&self.seq, row, "seq")?,
            ts_wall_ns: int(&self.ts_wall_ns, row, "ts_wall_ns")?,
            kind: table.code,
            kind_version: table.version,
            body_digest: table.body_digest(&body),
            body,
            prev: Digest::ZERO,
            hash: digest(&self.hash, row, "hash")?,
            signature: self
                .record_signature
                .bytes(row)
                .ok_or(RowError::MissingValue { column: "record_signature" })?
                .to_vec(),
        })
    }
}
