//! Events into columns, straight from their canonical body bytes.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryBuilder, BooleanBuilder, FixedSizeBinaryBuilder, Int64Builder, ListBuilder, RecordBatch,
    StringBuilder,
};
use arrow::datatypes::DataType;
use bodycam_record::canonical::Reader;
use bodycam_record::value::Type;
use bodycam_record::{Event, Family, KindTable};

use super::{FamilyLayout, layout_of, list_item};
use crate::error::LakeError;

/// Builds the rows of one family's table.
pub struct TableBuilder {
    family: Family,
    rows: usize,
    suite: Int64Builder,
    schema_version: Int64Builder,
    producer: StringBuilder,
    epoch: Int64Builder,
    session_id: FixedSizeBinaryBuilder,
    seq: Int64Builder,
    ts_wall_ns: Int64Builder,
    ts_mono_ns: Int64Builder,
    kind: Int64Builder,
    kind_name: StringBuilder,
    kind_version: Int64Builder,
    parent_seq: Int64Builder,
    principal_ref: FixedSizeBinaryBuilder,
    target: StringBuilder,
    policy_digest: FixedSizeBinaryBuilder,
    content_no: Int64Builder,
    content: FixedSizeBinaryBuilder,
    hash: FixedSizeBinaryBuilder,
    body: BodyBuilder,
}

/// The batch of `events`, all of `family`.
pub fn encode<'a>(
    family: Family,
    events: impl IntoIterator<Item = &'a Event>,
) -> Result<RecordBatch, LakeError> {
    let mut builder = TableBuilder::new(family);
    for event in events {
        builder.push(event)?;
    }
    builder.finish()
}

impl TableBuilder {
    /// An empty builder for a family of events.
    pub fn new(family: Family) -> Self {
        Self {
            family,
            rows: 0,
            suite: Int64Builder::new(),
            schema_version: Int64Builder::new(),
            producer: StringBuilder::new(),
            epoch: Int64Builder::new(),
            session_id: FixedSizeBinaryBuilder::new(16),
            seq: Int64Builder::new(),
            ts_wall_ns: Int64Builder::new(),
            ts_mono_ns: Int64Builder::new(),
            kind: Int64Builder::new(),
            kind_name: StringBuilder::new(),
            kind_version: Int64Builder::new(),
            parent_seq: Int64Builder::new(),
            principal_ref: FixedSizeBinaryBuilder::new(16),
            target: StringBuilder::new(),
            policy_digest: FixedSizeBinaryBuilder::new(32),
            content_no: Int64Builder::new(),
            content: FixedSizeBinaryBuilder::new(32),
            hash: FixedSizeBinaryBuilder::new(32),
            body: BodyBuilder::new(layout_of(family)),
        }
    }

    /// Number of rows so far.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Appends an event. One that does not decode is refused and leaves the builder unusable.
    pub fn push(&mut self, event: &Event) -> Result<(), LakeError> {
        let name = self.family.name();
        let e = &event.envelope;
        let (table, places) = self.body.layout.kind(e.kind, e.kind_version).ok_or_else(|| {
            LakeError::columns(name, format_args!("no kind {} version {} here", e.kind, e.kind_version))
        })?;
        self.body.push(self.rows, table, places, &event.body).map_err(|reason| {
            LakeError::columns(name, format_args!("session {} event {}: {reason}", e.session, e.seq))
        })?;
        let fixed = |r: Result<(), arrow::error::ArrowError>| r.map_err(|err| LakeError::columns(name, err));
        self.suite.append_value(e.suite);
        self.schema_version.append_value(e.schema_version);
        self.producer.append_value(&e.producer);
        self.epoch.append_value(e.epoch);
        fixed(self.session_id.append_value(e.session.0))?;
        self.seq.append_value(e.seq);
        self.ts_wall_ns.append_value(e.ts_wall_ns);
        self.ts_mono_ns.append_value(e.ts_mono_ns);
        self.kind.append_value(e.kind);
        self.kind_name.append_value(table.name);
        self.kind_version.append_value(e.kind_version);
        self.parent_seq.append_option(e.parent_seq);
        fixed(self.principal_ref.append_value(e.principal_ref.0))?;
        self.target.append_value(&e.target);
        fixed(self.policy_digest.append_value(e.policy_digest.0))?;
        self.content_no.append_option(e.content_no);
        match e.content {
            Some(commitment) => fixed(self.content.append_value(commitment.0))?,
            None => self.content.append_null(),
        }
        fixed(self.hash.append_value(event.hash.0))?;
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
            Arc::new(self.session_id.finish()),
            Arc::new(self.seq.finish()),
            Arc::new(self.ts_wall_ns.finish()),
            Arc::new(self.ts_mono_ns.finish()),
            Arc::new(self.kind.finish()),
            Arc::new(self.kind_name.finish()),
            Arc::new(self.kind_version.finish()),
            Arc::new(self.parent_seq.finish()),
            Arc::new(self.principal_ref.finish()),
            Arc::new(self.target.finish()),
            Arc::new(self.policy_digest.finish()),
            Arc::new(self.content_no.finish()),
            Arc::new(self.content.finish()),
            Arc::new(self.hash.finish()),
        ];
        columns.extend(self.body.finish(self.rows));
        self.rows = 0;
        RecordBatch::try_new(layout_of(self.family).schema.clone(), columns)
            .map_err(|err| LakeError::columns(self.family.name(), err))
    }
}

impl FamilyLayout {
    /// The table of a kind in a version, and the places of its fields.
    pub(super) fn kind(&self, code: i64, version: i64) -> Option<(&'static KindTable, &[usize])> {
        let (table, places) = self.kinds.iter().find(|(t, _)| t.code == code)?;
        (table.version == version).then_some((*table, places.as_slice()))
    }
}

/// Builds the body columns of a family. A column is padded with nulls only when it is next written to, so a
/// row costs what its own kind costs.
pub(super) struct BodyBuilder {
    pub(super) layout: &'static FamilyLayout,
    columns: Vec<Column>,
}

/// One column under construction.
pub(super) struct Column {
    ty: Type,
    len: usize,
    cells: CellsBuilder,
}

enum CellsBuilder {
    Bool(BooleanBuilder),
    Int(Int64Builder),
    Text(StringBuilder),
    Bytes(BinaryBuilder),
    Fixed(FixedSizeBinaryBuilder),
    IntList(ListBuilder<Int64Builder>),
    TextList(ListBuilder<StringBuilder>),
}

impl BodyBuilder {
    pub(super) fn new(layout: &'static FamilyLayout) -> Self {
        let columns = layout.body.iter().map(|(_, ty)| Column::new(*ty)).collect();
        Self { layout, columns }
    }

    /// Writes the fields in `body` into row `row`.
    pub(super) fn push(
        &mut self,
        row: usize,
        table: &'static KindTable,
        places: &[usize],
        body: &[u8],
    ) -> Result<(), String> {
        let mut r = Reader::new(body);
        for (field, place) in table.fields.iter().zip(places) {
            let inside = r.bytes().map_err(|e| format!("{}: {e}", field.name))?;
            let inside = match (field.optional, inside) {
                (false, inside) => inside,
                (true, [1, inside @ ..]) => inside,
                (true, [0]) => continue,
                (true, _) => return Err(format!("{}: not a canonical optional field", field.name)),
            };
            let Some(column) = self.columns.get_mut(*place) else { continue };
            column.push(row, inside).ok_or_else(|| format!("{}: not a {}", field.name, field.ty.name()))?;
        }
        r.finish().map_err(|e| e.to_string())
    }

    /// The columns, `rows` long each.
    pub(super) fn finish(&mut self, rows: usize) -> Vec<ArrayRef> {
        self.columns.iter_mut().map(|c| c.finish(rows)).collect()
    }
}

impl Column {
    pub(super) fn new(ty: Type) -> Self {
        let cells = match ty {
            Type::Bool => CellsBuilder::Bool(BooleanBuilder::new()),
            Type::Int => CellsBuilder::Int(Int64Builder::new()),
            Type::Text => CellsBuilder::Text(StringBuilder::new()),
            Type::Bytes => CellsBuilder::Bytes(BinaryBuilder::new()),
            Type::Id16 => CellsBuilder::Fixed(FixedSizeBinaryBuilder::new(16)),
            Type::Digest => CellsBuilder::Fixed(FixedSizeBinaryBuilder::new(32)),
            Type::IntList => CellsBuilder::IntList(
                ListBuilder::new(Int64Builder::new()).with_field(list_item(DataType::Int64)),
            ),
            Type::TextList => CellsBuilder::TextList(
                ListBuilder::new(StringBuilder::new()).with_field(list_item(DataType::Utf8)),
            ),
        };
        Self { ty, len: 0, cells }
    }

    /// Appends nulls up to length `len`.
    fn pad(&mut self, len: usize) {
        let n = len.saturating_sub(self.len);
        if n == 0 {
            return;
        }
        match &mut self.cells {
            CellsBuilder::Bool(b) => b.append_nulls(n),
            CellsBuilder::Int(b) => b.append_nulls(n),
            CellsBuilder::Text(b) => b.append_nulls(n),
            CellsBuilder::Bytes(b) => b.append_nulls(n),
            CellsBuilder::Fixed(b) => b.append_nulls(n),
            CellsBuilder::IntList(b) => b.append_nulls(n),
            CellsBuilder::TextList(b) => b.append_nulls(n),
        }
        self.len = len;
    }

    /// Writes the value with the canonical bytes `inside` into row `row`; none when they are not canonical.
    pub(super) fn push(&mut self, row: usize, inside: &[u8]) -> Option<()> {
        self.pad(row);
        match (&mut self.cells, self.ty) {
            (CellsBuilder::Bool(b), _) => b.append_value(match inside {
                [0] => false,
                [1] => true,
                _ => return None,
            }),
            (CellsBuilder::Int(b), _) => b.append_value(i64::from_le_bytes(inside.try_into().ok()?)),
            (CellsBuilder::Text(b), _) => b.append_value(std::str::from_utf8(inside).ok()?),
            (CellsBuilder::Bytes(b), _) => b.append_value(inside),
            (CellsBuilder::Fixed(b), _) => b.append_value(inside).ok()?,
            (CellsBuilder::IntList(b), _) => {
                for item in items(inside)? {
                    b.values().append_value(i64::from_le_bytes(item?.try_into().ok()?));
                }
                b.append(true);
            }
            (CellsBuilder::TextList(b), _) => {
                for item in items(inside)? {
                    b.values().append_value(std::str::from_utf8(item?).ok()?);
                }
                b.append(true);
            }
        }
        self.len = row + 1;
        Some(())
    }

    /// The column, `rows` long.
    pub(super) fn finish(&mut self, rows: usize) -> ArrayRef {
        self.pad(rows);
        self.len = 0;
        match &mut self.cells {
            CellsBuilder::Bool(b) => Arc::new(b.finish()),
            CellsBuilder::Int(b) => Arc::new(b.finish()),
            CellsBuilder::Text(b) => Arc::new(b.finish()),
            CellsBuilder::Bytes(b) => Arc::new(b.finish()),
            CellsBuilder::Fixed(b) => Arc::new(b.finish()),
            CellsBuilder::IntList(b) => Arc::new(b.finish()),
            CellsBuilder::TextList(b) => Arc::new(b.finish()),
        }
    }
}

/// The items of a canonical list; the last is none when the list is not canonical.
fn items(inside: &[u8]) -> Option<impl Iterator<Item = Option<&[u8]>>> {
    let mut r = Reader::new(inside);
    let count = r.count().ok()?;
    // Every item takes at least its length prefix: a count beyond that is refused before anything is made.
    if count > (inside.len() / 8) as u64 {
        return None;
    }
    let mut left = count;
    let mut over = false;
    Some(std::iter::from_fn(move || {
        if over {
            return None;
        }
        if left == 0 {
            over = true;
            return (!r.is_empty()).then_some(None);
        }
        left -= 1;
        let item = r.bytes().ok();
        over = item.is_none();
        Some(item)
    }))
}
