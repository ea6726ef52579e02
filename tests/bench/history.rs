//! Lakes of many events for the bench and the tests of detection: rows made column by column, and committed hour by
//! hour. Columns that nobody sets are NULL, zero or empty; every row has a hash of its own.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, FixedSizeBinaryArray, FixedSizeBinaryBuilder, Int64Array, RecordBatch,
    StringArray, new_null_array,
};
use arrow::datatypes::DataType;
use arrow::error::ArrowError;
use bodycam_lake::commit::{LedgerState, Signature, VERSION};
use bodycam_lake::layout::{self, FileName};
use bodycam_lake::{Commit, Hour, Lake, Store, StreamName, Table, file};
use bodycam_record::{Digest, EpochKey, KindTable, SessionId, digest};

pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// One event of a kind, as far as rules look at it.
#[derive(Clone, Default)]
pub struct Row {
    pub session: [u8; 16],
    pub seq: i64,
    pub ts_ns: i64,
    pub kind: &'static str,
    pub principal: [u8; 16],
    pub target: String,
    pub statement_no: i64,
    pub rows: i64,
    pub bytes: i64,
    pub relation: String,
    pub host: String,
}

/// Writes a lake, a commit at a time.
pub struct Writer {
    lake: Lake,
    key: EpochKey,
    stream: StreamName,
    files: u32,
}

/// The session number `n` of an hour.
pub fn session(hour: i64, n: u64) -> [u8; 16] {
    let mut random = [0; 10];
    random[2..].copy_from_slice(&n.to_be_bytes());
    SessionId::new(u64::try_from(Hour(hour).start_ns() / 1_000_000).unwrap_or_default(), random).0
}

/// The rows as a table rests; `salt` makes their hashes differ from those of other batches.
pub fn batch(table: Table, rows: &[Row], salt: u64) -> Result<RecordBatch, ArrowError> {
    let ids = |of: fn(&Row) -> [u8; 16]| -> Result<ArrayRef, ArrowError> {
        Ok(Arc::new(FixedSizeBinaryArray::try_from_iter(rows.iter().map(of))?))
    };
    let ints =
        |of: fn(&Row) -> i64| -> ArrayRef { Arc::new(Int64Array::from_iter_values(rows.iter().map(of))) };
    let texts = |of: fn(&Row) -> &str| -> ArrayRef {
        Arc::new(StringArray::from_iter(rows.iter().map(|row| Some(of(row)).filter(|text| !text.is_empty()))))
    };
    let kind = |row: &Row| KindTable::named(row.kind);
    let schema = table.schema();
    let columns = schema.fields().iter().map(|field| {
        Ok(match field.name().as_str() {
            "session_id" => ids(|row| row.session)?,
            "principal_ref" => ids(|row| row.principal)?,
            "seq" => ints(|row| row.seq),
            "ts_wall_ns" => ints(|row| row.ts_ns),
            "kind" => {
                Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| kind(row).map_or(0, |k| k.code))))
            }
            "kind_name" => texts(|row| row.kind),
            "verdict" => texts(|_| "allow"),
            "target" => texts(|row| &row.target),
            "statement_no" => ints(|row| row.statement_no),
            "rows" => ints(|row| row.rows),
            "bytes" => ints(|row| row.bytes),
            "main_relation" => texts(|row| &row.relation),
            "host" => texts(|row| &row.host),
            "port" => ints(|_| 443),
            "hash" => hashes(rows.len(), salt)?,
            _ if field.is_nullable() => new_null_array(field.data_type(), rows.len()),
            _ => zeros(field.data_type(), rows.len())?,
        })
    });
    let columns = columns.collect::<Result<_, ArrowError>>()?;
    RecordBatch::try_new(schema.clone(), columns)
}

fn hashes(rows: usize, salt: u64) -> Result<ArrayRef, ArrowError> {
    let mut hashes = FixedSizeBinaryBuilder::with_capacity(rows, 32);
    for row in 0..rows as u64 {
        let name = [salt.to_le_bytes(), row.to_le_bytes()].concat();
        hashes.append_value(digest::TARGET.digest(&name).0)?;
    }
    Ok(Arc::new(hashes.finish()))
}

fn zeros(ty: &DataType, rows: usize) -> Result<ArrayRef, ArrowError> {
    Ok(match ty {
        DataType::Int64 => Arc::new(Int64Array::from(vec![0; rows])),
        DataType::Utf8 => Arc::new(StringArray::from(vec![""; rows])),
        DataType::Boolean => Arc::new(BooleanArray::from(vec![false; rows])),
        DataType::FixedSizeBinary(16) => {
            Arc::new(FixedSizeBinaryArray::try_from_iter((0..rows).map(|_| [0u8; 16]))?)
        }
        DataType::FixedSizeBinary(32) => {
            Arc::new(FixedSizeBinaryArray::try_from_iter((0..rows).map(|_| [0u8; 32]))?)
        }
        other => return Err(ArrowError::SchemaError(format!("no zero of type {other}"))),
    })
}

impl Writer {
    /// Continues the lake in `store`, as the stream of this name.
    pub async fn open(store: Store, stream: &str) -> Result<Self, Error> {
        let mut lake = Lake::open(store).await?;
        let stream: StreamName = stream.parse()?;
        lake.add_stream(&stream, 0, 0).await?;
        Ok(Self { lake, key: EpochKey::from_seed(&[5; 32]), stream, files: 0 })
    }

    /// Commits batches, each of one hour, and says that everything before `watermark_ns` is committed.
    pub async fn commit(
        &mut self,
        batches: &[(Table, Hour, RecordBatch)],
        watermark_ns: i64,
    ) -> Result<(), Error> {
        let from = self.lake.state().stream(&self.stream, 0).map_or(0, |(_, stream)| stream.position);
        let (mut files, mut rows) = (Vec::new(), 1);
        for (table, hour, batch) in batches {
            let mut encoded = file::encode(*table, batch)?;
            self.files += 1;
            let name =
                FileName { stream: &self.stream, generation: 0, from, n: files.len(), writer: self.files };
            encoded.entry.path = layout::data_file(*table, Some(*hour), name);
            self.lake.store().put_new(&encoded.entry.path, encoded.bytes).await?;
            rows += encoded.entry.rows;
            files.push(encoded.entry);
        }
        let ledger = LedgerState {
            producer: self.stream.producer().to_owned(),
            epoch: 1,
            producer_key: Digest::ZERO,
            epoch_key: Digest::ZERO,
            next_seq: watermark_ns,
            head: Digest::ZERO,
            watermark_ns,
            stopped: false,
        };
        let commit = Commit {
            version: VERSION,
            stream: self.stream.clone(),
            generation: 0,
            from,
            to: from + rows,
            created_ns: watermark_ns,
            previous: None,
            files,
            replaces: vec![],
            deleted_to: 0,
            sessions: vec![],
            ledger: Some(ledger),
            duplicates: 0,
            recorder: Digest::ZERO,
            signature: Signature::NONE,
        };
        Ok(self.lake.commit(commit, &self.key).await?)
    }
}
