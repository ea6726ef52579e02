//! The tables of a lake: from the record's field tables to Arrow schemas, and rows both ways.
//!
//! A table of events has the envelope's columns (but for `prev` and the body's digest, which are derived) and
//! then the fields of all kinds of its family, joined by name and nullable. Every hash can be recomputed from
//! these columns alone, whoever re-encoded, re-sorted or split the file.

use std::sync::{Arc, LazyLock};

use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use bodycam_record::Family;
use bodycam_record::value::Type;

pub(crate) mod cells;
pub mod content;
mod decode;
mod encode;
pub mod findings;
#[cfg(test)]
mod laws;
mod ledger;
mod rows;
#[cfg(test)]
pub(crate) mod samples;
pub mod sessions;
pub mod templates;

pub use decode::{Decoder, RowError, RowFault, StoredEvent, decode};
pub use encode::{TableBuilder, encode};
pub use ledger::{LedgerBuilder, LedgerDecoder, StoredLedgerRecord, decode_ledger, encode_ledger};

/// A table of the lake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Table {
    /// Events of a family; [`Family::Ledger`] holds ledger records.
    Events(Family),
    /// Sealed content chunks.
    Content,
    /// One row a session, in revisions.
    Sessions,
    /// Literal-free statement texts by fingerprint.
    Templates,
    /// Findings.
    Findings,
}

impl Table {
    /// Every table.
    pub const ALL: [Table; 10] = [
        Table::Events(Family::Session),
        Table::Events(Family::Sql),
        Table::Events(Family::Http),
        Table::Events(Family::Control),
        Table::Events(Family::Gap),
        Table::Events(Family::Ledger),
        Table::Content,
        Table::Sessions,
        Table::Templates,
        Table::Findings,
    ];

    /// Its name in commits.
    pub fn name(self) -> &'static str {
        match self {
            Table::Events(family) => family.name(),
            Table::Content => "content",
            Table::Sessions => "sessions",
            Table::Templates => "templates",
            Table::Findings => "findings",
        }
    }

    /// The table of this name.
    pub fn named(name: &str) -> Option<Table> {
        Table::ALL.into_iter().find(|t| t.name() == name)
    }

    /// Its columns.
    pub fn schema(self) -> SchemaRef {
        match self {
            Table::Events(family) => events_schema(family),
            Table::Content => content::schema(),
            Table::Sessions => sessions::schema(),
            Table::Templates => templates::schema(),
            Table::Findings => findings::schema(),
        }
    }

    /// The columns that its files are sorted by.
    pub fn sorted_by(self) -> &'static [&'static str] {
        match self {
            Table::Events(Family::Ledger) => &["producer", "seq"],
            Table::Events(_) => &["session_id", "seq"],
            Table::Content => &["session_id", "content_no", "chunk_index"],
            Table::Sessions => &["session_id", "revision"],
            Table::Templates => &["fingerprint"],
            Table::Findings => &["id", "revision"],
        }
    }

    /// The columns with a Bloom filter in this table.
    pub fn bloom_filters(self) -> impl Iterator<Item = &'static str> {
        let schema = self.schema();
        ["session_id", "principal_ref", "fingerprint", "host"]
            .into_iter()
            .filter(move |name| !matches!(self, Table::Findings) && schema.index_of(name).is_ok())
    }

    /// Whether its rows rest by the hour of the event.
    pub fn has_hours(self) -> bool {
        matches!(self, Table::Events(_) | Table::Content)
    }
}

/// The columns that every event has.
const ENVELOPE: &[(&str, Type, bool)] = &[
    ("suite", Type::Int, false),
    ("schema_version", Type::Int, false),
    ("producer", Type::Text, false),
    ("epoch", Type::Int, false),
    ("session_id", Type::Id16, false),
    ("seq", Type::Int, false),
    ("ts_wall_ns", Type::Int, false),
    ("ts_mono_ns", Type::Int, false),
    ("kind", Type::Int, false),
    ("kind_name", Type::Text, false),
    ("kind_version", Type::Int, false),
    ("parent_seq", Type::Int, true),
    ("principal_ref", Type::Id16, false),
    ("target", Type::Text, false),
    ("policy_digest", Type::Digest, false),
    ("content_no", Type::Int, true),
    ("content", Type::Digest, true),
    ("hash", Type::Digest, false),
];

/// The columns that every ledger record has. The signature over a record is `record_signature`, because some
/// bodies have a `signature` of their own.
const LEDGER_ENVELOPE: &[(&str, Type, bool)] = &[
    ("suite", Type::Int, false),
    ("schema_version", Type::Int, false),
    ("producer", Type::Text, false),
    ("epoch", Type::Int, false),
    ("seq", Type::Int, false),
    ("ts_wall_ns", Type::Int, false),
    ("kind", Type::Int, false),
    ("kind_name", Type::Text, false),
    ("kind_version", Type::Int, false),
    ("record_signature", Type::Bytes, false),
    ("hash", Type::Digest, false),
];

/// The Arrow type of a field type.
pub fn arrow_type(ty: Type) -> DataType {
    match ty {
        Type::Bool => DataType::Boolean,
        Type::Int => DataType::Int64,
        Type::Text => DataType::Utf8,
        Type::Bytes => DataType::Binary,
        Type::Id16 => DataType::FixedSizeBinary(16),
        Type::Digest => DataType::FixedSizeBinary(32),
        Type::IntList => DataType::List(list_item(DataType::Int64)),
        Type::TextList => DataType::List(list_item(DataType::Utf8)),
    }
}

/// The field inside a list column.
pub(crate) fn list_item(ty: DataType) -> FieldRef {
    Arc::new(Field::new("item", ty, true))
}

/// The schema of columns given as name, type, nullable.
pub(crate) fn schema_of(columns: &[(&str, DataType, bool)]) -> SchemaRef {
    let fields: Vec<Field> =
        columns.iter().map(|(name, ty, nullable)| Field::new(*name, ty.clone(), *nullable)).collect();
    Arc::new(Schema::new(fields))
}

fn envelope(family: Family) -> &'static [(&'static str, Type, bool)] {
    if family == Family::Ledger { LEDGER_ENVELOPE } else { ENVELOPE }
}

/// The body columns of a family: the union of its kinds' fields by name, in order of first appearance.
pub(crate) fn body_columns(family: Family) -> &'static [(&'static str, Type)] {
    &layout_of(family).body
}

/// What encoder and decoder know of a family's table.
pub(crate) struct FamilyLayout {
    pub schema: SchemaRef,
    pub body: Vec<(&'static str, Type)>,
    /// For each kind: its table and, for each of its fields in order, the place of its body column.
    pub kinds: Vec<(&'static bodycam_record::KindTable, Vec<usize>)>,
}

impl FamilyLayout {
    fn new(family: Family) -> Self {
        let mut body: Vec<(&'static str, Type)> = Vec::new();
        let mut kinds = Vec::new();
        for table in family.tables() {
            let mut places = Vec::new();
            for field in table.fields {
                places.push(body.iter().position(|(name, _)| *name == field.name).unwrap_or_else(|| {
                    body.push((field.name, field.ty));
                    body.len() - 1
                }));
            }
            kinds.push((table, places));
        }
        let envelope = envelope(family).iter().map(|(n, ty, null)| (*n, arrow_type(*ty), *null));
        let columns: Vec<_> =
            envelope.chain(body.iter().map(|(n, ty)| (*n, arrow_type(*ty), true))).collect();
        Self { schema: schema_of(&columns), body, kinds }
    }
}

pub(crate) fn layout_of(family: Family) -> &'static FamilyLayout {
    static SESSION: LazyLock<FamilyLayout> = LazyLock::new(|| FamilyLayout::new(Family::Session));
    static SQL: LazyLock<FamilyLayout> = LazyLock::new(|| FamilyLayout::new(Family::Sql));
    static HTTP: LazyLock<FamilyLayout> = LazyLock::new(|| FamilyLayout::new(Family::Http));
    static CONTROL: LazyLock<FamilyLayout> = LazyLock::new(|| FamilyLayout::new(Family::Control));
    static GAP: LazyLock<FamilyLayout> = LazyLock::new(|| FamilyLayout::new(Family::Gap));
    static LEDGER: LazyLock<FamilyLayout> = LazyLock::new(|| FamilyLayout::new(Family::Ledger));
    match family {
        Family::Session => &SESSION,
        Family::Sql => &SQL,
        Family::Http => &HTTP,
        Family::Control => &CONTROL,
        Family::Gap => &GAP,
        Family::Ledger => &LEDGER,
    }
}

fn events_schema(family: Family) -> SchemaRef {
    layout_of(family).schema.clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_body_field_has_the_name_of_an_envelope_column() {
        for family in Family::EVENTS.into_iter().chain([Family::Ledger]) {
            let schema = events_schema(family);
            for (i, field) in schema.fields().iter().enumerate() {
                assert_eq!(schema.index_of(field.name()).unwrap(), i, "{} {}", family.name(), field.name());
            }
            assert_eq!(schema.fields().len(), envelope(family).len() + body_columns(family).len());
        }
    }

    #[test]
    fn every_table_is_found_by_its_name() {
        for table in Table::ALL {
            assert_eq!(Table::named(table.name()), Some(table));
            for column in table.sorted_by() {
                table.schema().index_of(column).unwrap();
            }
        }
    }
}
