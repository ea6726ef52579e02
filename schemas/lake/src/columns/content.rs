//! The `content` table: sealed chunks, apart from the events so that detection never reads bodies.

use std::sync::Arc;

use arrow::array::{BinaryBuilder, FixedSizeBinaryBuilder, Int64Builder, RecordBatch};
use arrow::datatypes::{DataType, SchemaRef};
use bodycam_record::value::Type;
use bodycam_record::{SealedChunk, SessionId};

use super::cells::Columns;
use super::decode::{RowError, RowFault, int};
use super::schema_of;
use crate::error::LakeError;

const NAME: &str = "content";

/// The columns of this table, with their meaning.
pub const DOCS: &[(&str, &str)] = &[
    ("session_id", "The session."),
    ("content_no", "Number of the content in its session; the event's `content_no` names it."),
    ("chunk_index", "Number of the chunk in its content, from 0."),
    ("content_kind", "Code of what the chunk holds."),
    ("sealed", "ChaCha20-Poly1305 under a key derived from the session key."),
];

/// The schema of this table.
pub fn schema() -> SchemaRef {
    schema_of(&[
        ("session_id", DataType::FixedSizeBinary(16), false),
        ("content_no", DataType::Int64, false),
        ("chunk_index", DataType::Int64, false),
        ("content_kind", DataType::Int64, false),
        ("sealed", DataType::Binary, false),
    ])
}

/// The batch of `chunks`.
pub fn encode<'a>(chunks: impl IntoIterator<Item = &'a SealedChunk>) -> Result<RecordBatch, LakeError> {
    let failed = |err| LakeError::columns(NAME, err);
    let mut session_id = FixedSizeBinaryBuilder::new(16);
    let (mut content_no, mut chunk_index) = (Int64Builder::new(), Int64Builder::new());
    let (mut content_kind, mut sealed) = (Int64Builder::new(), BinaryBuilder::new());
    for chunk in chunks {
        session_id.append_value(chunk.session.0).map_err(failed)?;
        content_no.append_value(chunk.content_no);
        chunk_index.append_value(i64::from(chunk.index));
        content_kind.append_value(chunk.kind);
        sealed.append_value(&chunk.sealed);
    }
    RecordBatch::try_new(
        schema(),
        vec![
            Arc::new(session_id.finish()),
            Arc::new(content_no.finish()),
            Arc::new(chunk_index.finish()),
            Arc::new(content_kind.finish()),
            Arc::new(sealed.finish()),
        ],
    )
    .map_err(failed)
}

/// The rows of `batch`: chunks, and faults with their place.
pub fn decode(batch: &RecordBatch) -> Result<Vec<Result<SealedChunk, RowFault>>, LakeError> {
    let columns = Columns { table: NAME, batch };
    let session_id = columns.need("session_id", Type::Id16)?;
    let content_no = columns.need("content_no", Type::Int)?;
    let chunk_index = columns.need("chunk_index", Type::Int)?;
    let content_kind = columns.need("content_kind", Type::Int)?;
    let sealed = columns.need("sealed", Type::Bytes)?;
    let chunk = |row| {
        let session = session_id.id16(row);
        Ok(SealedChunk {
            session: SessionId(
                session.ok_or(RowError::Malformed { column: "session_id", expected: "16 bytes" })?.0,
            ),
            content_no: int(&content_no, row, "content_no")?,
            index: u32::try_from(int(&chunk_index, row, "chunk_index")?)
                .map_err(|_| RowError::Malformed { column: "chunk_index", expected: "a chunk number" })?,
            kind: int(&content_kind, row, "content_kind")?,
            sealed: sealed.bytes(row).ok_or(RowError::MissingValue { column: "sealed" })?.to_vec(),
        })
    };
    let fault = |row, error| RowFault {
        row,
        session: session_id.id16(row).map(|id| SessionId(id.0)),
        seq: content_no.int(row),
        hash: None,
        error,
    };
    Ok((0..batch.num_rows()).map(|row| chunk(row).map_err(|error| fault(row, error))).collect())
}
