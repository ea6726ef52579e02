//! Columns back into events. A row that does not hold exactly one event of a known kind is an error of that
//! row, with its coordinates, and never stops the rows after it.

use std::fmt;

use arrow::array::{Array, RecordBatch};
use bodycam_record::canonical::Writer;
use bodycam_record::digest::SUITE;
use bodycam_record::envelope::SCHEMA_VERSION;
use bodycam_record::value::Type;
use bodycam_record::{Digest, Envelope, Event, Family, Fingerprint, KindTable, SessionId};
use thiserror::Error;

use super::cells::{Cells, Columns, list_range};
use super::{FamilyLayout, body_columns, layout_of};
use crate::error::LakeError;

/// Partition columns that other readers add from the folders' names; they are derived and not read.
const PARTITION_COLUMNS: [&str; 2] = ["dt", "hh"];

/// An event as a table holds it: without the hash of the event before, which is derived from its neighbour.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredEvent {
    /// The envelope; `prev` is zero, and the body's digest is recomputed from the columns.
    pub envelope: Envelope,
    /// Canonical bytes of the body, made from the columns.
    pub body: Vec<u8>,
    /// The hash that the table states.
    pub hash: Digest,
}

/// Why a row is not an event.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RowError {
    /// A suite, version or kind that this build does not know.
    #[error("unknown {what} {value}")]
    Unsupported { what: &'static str, value: i64 },
    /// A value in a column that this build does not know.
    #[error("a value in unknown column {column}")]
    UnknownColumn { column: String },
    /// No value where the kind has one.
    #[error("no value in column {column}")]
    MissingValue { column: &'static str },
    /// A value where the kind has none.
    #[error("a value in column {column}, which kind {kind} does not have")]
    ExtraValue { column: &'static str, kind: &'static str },
    /// A value of the wrong form.
    #[error("column {column} does not hold {expected}")]
    Malformed { column: &'static str, expected: &'static str },
}

/// A row that is not an event, with what can be said about its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowFault {
    /// Row in the batch, from 0.
    pub row: usize,
    /// Session, where that column can be read.
    pub session: Option<SessionId>,
    /// Number in the session (or ledger), where that column can be read.
    pub seq: Option<i64>,
    /// The hash that the row states, where its table has one and that column can be read.
    pub hash: Option<Digest>,
    /// What is wrong.
    pub error: RowError,
}

impl fmt::Display for RowFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "row {}", self.row)?;
        if let Some(session) = self.session {
            write!(f, ", session {session}")?;
        }
        if let Some(seq) = self.seq {
            write!(f, ", seq {seq}")?;
        }
        write!(f, ": {}", self.error)
    }
}

impl RowError {
    /// Whether a newer build may know better, as opposed to a row that is wrong in any build.
    pub fn is_unsupported(&self) -> bool {
        matches!(self, RowError::Unsupported { .. } | RowError::UnknownColumn { .. })
    }
}

impl StoredEvent {
    /// The event that follows on `prev`.
    pub fn after(mut self, prev: Digest) -> Event {
        self.envelope.prev = prev;
        Event { envelope: self.envelope, body: self.body, hash: self.hash }
    }

    /// The body, typed.
    pub fn decode_body(&self) -> Result<bodycam_record::Body, bodycam_record::canonical::DecodeError> {
        bodycam_record::Body::decode(self.envelope.kind, self.envelope.kind_version, &self.body)
    }
}

/// The rows of a batch of `family`: events, and faults with their place.
pub fn decode(family: Family, batch: &RecordBatch) -> Result<Vec<Result<StoredEvent, RowFault>>, LakeError> {
    let decoder = Decoder::new(family, batch)?;
    Ok((0..batch.num_rows()).map(|row| decoder.row(row)).collect())
}

/// Reads the rows of one batch.
pub struct Decoder {
    suite: Cells,
    schema_version: Cells,
    producer: Cells,
    epoch: Cells,
    session_id: Cells,
    seq: Cells,
    ts_wall_ns: Cells,
    ts_mono_ns: Cells,
    parent_seq: Cells,
    principal_ref: Cells,
    target: Cells,
    policy_digest: Cells,
    content_no: Cells,
    content: Cells,
    hash: Cells,
    fingerprint: Option<Cells>,
    body: BodyDecoder,
}

impl Decoder {
    /// A decoder of `batch`; fails when a column is missing or of a type that cannot hold its values.
    pub fn new(family: Family, batch: &RecordBatch) -> Result<Self, LakeError> {
        let columns = Columns { table: family.name(), batch };
        Ok(Self {
            suite: columns.need("suite", Type::Int)?,
            schema_version: columns.need("schema_version", Type::Int)?,
            producer: columns.need("producer", Type::Text)?,
            epoch: columns.need("epoch", Type::Int)?,
            session_id: columns.need("session_id", Type::Id16)?,
            seq: columns.need("seq", Type::Int)?,
            ts_wall_ns: columns.need("ts_wall_ns", Type::Int)?,
            ts_mono_ns: columns.need("ts_mono_ns", Type::Int)?,
            parent_seq: columns.need("parent_seq", Type::Int)?,
            principal_ref: columns.need("principal_ref", Type::Id16)?,
            target: columns.need("target", Type::Text)?,
            policy_digest: columns.need("policy_digest", Type::Digest)?,
            content_no: columns.need("content_no", Type::Int)?,
            content: columns.need("content", Type::Digest)?,
            hash: columns.need("hash", Type::Digest)?,
            fingerprint: columns.get("fingerprint", Type::Id16)?,
            body: BodyDecoder::new(family, &columns)?,
        })
    }

    /// The statement fingerprint in row `row`, where the table has them; read without decoding the body.
    pub fn fingerprint(&self, row: usize) -> Option<Fingerprint> {
        self.fingerprint.as_ref()?.id16(row)
    }

    /// The event in row `row`.
    pub fn row(&self, row: usize) -> Result<StoredEvent, RowFault> {
        self.event(row).map_err(|error| RowFault {
            row,
            session: self.session_id.id16(row).map(|id| SessionId(id.0)),
            seq: self.seq.int(row),
            hash: self.hash.digest(row),
            error,
        })
    }

    fn event(&self, row: usize) -> Result<StoredEvent, RowError> {
        let suite = int(&self.suite, row, "suite")?;
        if suite != SUITE {
            return Err(RowError::Unsupported { what: "hash suite", value: suite });
        }
        let schema_version = int(&self.schema_version, row, "schema_version")?;
        if schema_version != SCHEMA_VERSION {
            return Err(RowError::Unsupported { what: "schema version", value: schema_version });
        }
        let (table, body) = self.body.row(row)?;
        let principal = self.principal_ref.id16(row);
        let session = self.session_id.id16(row);
        Ok(StoredEvent {
            envelope: Envelope {
                suite,
                schema_version,
                producer: text(&self.producer, row, "producer")?.to_owned(),
                epoch: int(&self.epoch, row, "epoch")?,
                session: SessionId(
                    session.ok_or(RowError::Malformed { column: "session_id", expected: "16 bytes" })?.0,
                ),
                seq: int(&self.seq, row, "seq")?,
                ts_wall_ns: int(&self.ts_wall_ns, row, "ts_wall_ns")?,
                ts_mono_ns: int(&self.ts_mono_ns, row, "ts_mono_ns")?,
                kind: table.code,
                kind_version: table.version,
                parent_seq: self.parent_seq.int(row),
                principal_ref: principal
                    .ok_or(RowError::Malformed { column: "principal_ref", expected: "16 bytes" })?,
                target: text(&self.target, row, "target")?.to_owned(),
                policy_digest: digest(&self.policy_digest, row, "policy_digest")?,
                body_digest: table.body_digest(&body),
                content_no: self.content_no.int(row),
                content: match self.content.is_null(row) {
                    true => None,
                    false => Some(digest(&self.content, row, "content")?),
                },
                prev: Digest::ZERO,
            },
            body,
            hash: digest(&self.hash, row, "hash")?,
        })
    }
}

pub(super) fn int(cells: &Cells, row: usize, column: &'static str) -> Result<i64, RowError> {
    cells.int(row).ok_or(RowError::MissingValue { column })
}

pub(super) fn text<'a>(cells: &'a Cells, row: usize, column: &'static str) -> Result<&'a str, RowError> {
    cells.text(row).ok_or(RowError::MissingValue { column })
}

pub(super) fn digest(cells: &Cells, row: usize, column: &'static str) -> Result<Digest, RowError> {
    cells.digest(row).ok_or(RowError::Malformed { column, expected: "32 bytes" })
}

/// Reads kind and body of the rows of one batch.
pub(super) struct BodyDecoder {
    layout: &'static FamilyLayout,
    kind: Cells,
    kind_name: Option<Cells>,
    kind_version: Cells,
    /// In the order of the layout's body columns; none where the file has no such column.
    columns: Vec<Option<Cells>>,
    /// For each row, how many body columns hold a value.
    values: Vec<u16>,
    /// For each row that has a value in an unknown column, that column.
    unknown: Vec<(usize, String)>,
}

impl BodyDecoder {
    pub(super) fn new(family: Family, columns: &Columns<'_>) -> Result<Self, LakeError> {
        let batch = columns.batch;
        let layout = layout_of(family);
        let body: Vec<Option<Cells>> =
            body_columns(family).iter().map(|(name, ty)| columns.get(name, *ty)).collect::<Result<_, _>>()?;
        let mut values = vec![0u16; batch.num_rows()];
        for cells in body.iter().flatten() {
            count_values(cells.array(), &mut values);
        }
        let mut unknown = Vec::new();
        for (field, array) in batch.schema_ref().fields().iter().zip(batch.columns()) {
            let name = field.name();
            if layout.schema.index_of(name).is_err() && !PARTITION_COLUMNS.contains(&name.as_str()) {
                let set = (0..array.len()).filter(|row| !array.is_null(*row));
                unknown.extend(set.map(|row| (row, bodycam_record::shown(name))));
            }
        }
        unknown.sort_unstable();
        Ok(Self {
            layout,
            kind: columns.need("kind", Type::Int)?,
            kind_name: columns.get("kind_name", Type::Text)?,
            kind_version: columns.need("kind_version", Type::Int)?,
            columns: body,
            values,
            unknown,
        })
    }

    /// The kind of row `row` and the canonical bytes of its body.
    pub(super) fn row(&self, row: usize) -> Result<(&'static KindTable, Vec<u8>), RowError> {
        let kind = int(&self.kind, row, "kind")?;
        let version = int(&self.kind_version, row, "kind_version")?;
        let Some((table, places)) = self.layout.kinds.iter().find(|(t, _)| t.code == kind) else {
            return Err(RowError::Unsupported { what: "event kind", value: kind });
        };
        if table.version != version {
            return Err(RowError::Unsupported { what: "version of its kind", value: version });
        }
        if let Ok(at) = self.unknown.binary_search_by_key(&row, |(row, _)| *row) {
            let column = self.unknown.get(at).map(|(_, name)| name.clone()).unwrap_or_default();
            return Err(RowError::UnknownColumn { column });
        }
        // The name beside the code is what people filter by: it must not say something else.
        if self.kind_name.as_ref().is_some_and(|names| names.text(row) != Some(table.name)) {
            return Err(RowError::Malformed { column: "kind_name", expected: "the name of the row's kind" });
        }
        let mut w = Writer::reusing(Vec::with_capacity(512));
        let mut present = 0u16;
        for (field, place) in table.fields.iter().zip(places) {
            let cells = self.columns.get(*place).and_then(Option::as_ref);
            match cells.filter(|cells| !cells.is_null(row)) {
                Some(cells) => {
                    present += 1;
                    put(&mut w, cells, row, field)?;
                }
                None if field.optional => w.bytes(&[0]),
                None => return Err(RowError::MissingValue { column: field.name }),
            }
        }
        if self.values.get(row) != Some(&present) {
            return Err(self.extra(row, table, places));
        }
        Ok((table, w.into_vec()))
    }

    /// Names the column that has a value without belonging to the kind.
    fn extra(&self, row: usize, table: &'static KindTable, places: &[usize]) -> RowError {
        let column =
            self.columns.iter().zip(&self.layout.body).enumerate().find_map(|(i, (cells, (name, _)))| {
                let set = cells.as_ref().is_some_and(|c| !c.is_null(row));
                (set && !places.contains(&i)).then_some(*name)
            });
        RowError::ExtraValue { column: column.unwrap_or_default(), kind: table.name }
    }
}

fn count_values(array: &dyn Array, values: &mut [u16]) {
    match array.nulls() {
        None => values.iter_mut().for_each(|n| *n += 1),
        Some(nulls) if nulls.null_count() == nulls.len() => {}
        Some(nulls) => {
            for row in nulls.valid_indices() {
                if let Some(n) = values.get_mut(row) {
                    *n += 1;
                }
            }
        }
    }
}

/// Writes the value of a cell as the field's canonical bytes.
fn put(
    w: &mut Writer,
    cells: &Cells,
    row: usize,
    field: &bodycam_record::kinds::Field,
) -> Result<(), RowError> {
    let malformed = RowError::Malformed { column: field.name, expected: field.ty.name() };
    let present: &[u8] = if field.optional { &[1] } else { &[] };
    let mut scalar = |bytes: &[u8]| {
        w.field(|out| {
            out.extend_from_slice(present);
            out.extend_from_slice(bytes);
        });
    };
    match (field.ty, cells) {
        (Type::Bool, Cells::Bool(a)) => scalar(&[u8::from(a.value(row))]),
        (Type::Int, Cells::Int(a)) => scalar(&a.value(row).to_le_bytes()),
        (Type::Text, Cells::Text(a)) => scalar(a.value(row).as_bytes()),
        (Type::Bytes, Cells::Binary(a)) => scalar(a.value(row)),
        (Type::Id16 | Type::Digest, Cells::Fixed(a)) => scalar(a.value(row)),
        (Type::Id16 | Type::Digest, Cells::Binary(a)) => {
            let width = if field.ty == Type::Id16 { 16 } else { 32 };
            match a.value(row) {
                bytes if bytes.len() == width => scalar(bytes),
                _ => return Err(malformed),
            }
        }
        (Type::IntList, Cells::IntList(list, items)) => {
            let range = list_range(list, row).ok_or(malformed.clone())?;
            if range.clone().any(|i| items.is_null(i)) {
                return Err(malformed);
            }
            w.field(|out| {
                out.extend_from_slice(present);
                out.extend_from_slice(&(range.len() as u64).to_le_bytes());
                for i in range {
                    out.extend_from_slice(&8u64.to_le_bytes());
                    out.extend_from_slice(&items.value(i).to_le_bytes());
                }
            });
        }
        (Type::TextList, Cells::TextList(list, items)) => {
            let range = list_range(list, row).ok_or(malformed.clone())?;
            if range.clone().any(|i| items.is_null(i)) {
                return Err(malformed);
            }
            w.field(|out| {
                out.extend_from_slice(present);
                out.extend_from_slice(&(range.len() as u64).to_le_bytes());
                for i in range {
                    let item = items.value(i).as_bytes();
                    out.extend_from_slice(&(item.len() as u64).to_le_bytes());
                    out.extend_from_slice(item);
                }
            });
        }
        _ => return Err(malformed),
    }
    Ok(())
}
