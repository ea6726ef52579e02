//! Tables whose rows are plain structs (sessions, templates, findings), declared once each.

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::SchemaRef;
use bodycam_record::canonical::DecodeError;
use bodycam_record::value::{FieldType, Type, Value};

use super::cells::{Cells, Columns};
use super::encode::Column;
use super::{arrow_type, schema_of};
use crate::error::LakeError;

/// A column of a row struct.
pub(crate) struct RowColumn {
    pub name: &'static str,
    pub ty: Type,
    pub optional: bool,
}

/// The schema of a row struct.
pub(crate) fn schema(columns: &[RowColumn]) -> SchemaRef {
    let columns: Vec<_> = columns.iter().map(|c| (c.name, arrow_type(c.ty), c.optional)).collect();
    schema_of(&columns)
}

/// Column builders of a row struct.
pub(crate) struct RowBuilder {
    table: &'static str,
    columns: Vec<Column>,
    scratch: Vec<u8>,
    rows: usize,
}

impl RowBuilder {
    pub fn new(table: &'static str, columns: &[RowColumn]) -> Self {
        let columns = columns.iter().map(|c| Column::new(c.ty)).collect();
        Self { table, columns, scratch: Vec::new(), rows: 0 }
    }

    /// Writes one value of the row that is being made.
    pub fn put<T: FieldType>(&mut self, column: usize, value: &T) -> Result<(), LakeError> {
        self.scratch.clear();
        value.put(&mut self.scratch);
        let inside = match (T::OPTIONAL, self.scratch.as_slice()) {
            (true, [1, inside @ ..]) => inside,
            (true, _) => return Ok(()),
            (false, inside) => inside,
        };
        let refused = || LakeError::columns(self.table, format_args!("column {column} refused its value"));
        self.columns.get_mut(column).and_then(|c| c.push(self.rows, inside)).ok_or_else(refused)
    }

    /// Ends the row that is being made.
    pub fn end_row(&mut self) {
        self.rows += 1;
    }

    pub fn finish(mut self, schema: SchemaRef) -> Result<RecordBatch, LakeError> {
        let rows = self.rows;
        let columns: Vec<ArrayRef> = self.columns.iter_mut().map(|c| c.finish(rows)).collect();
        RecordBatch::try_new(schema, columns).map_err(|err| LakeError::columns(self.table, err))
    }
}

/// Column readers of a row struct.
pub(crate) struct RowReader {
    table: &'static str,
    names: Vec<&'static str>,
    cells: Vec<Option<Cells>>,
}

impl RowReader {
    pub fn new(table: &'static str, columns: &[RowColumn], batch: &RecordBatch) -> Result<Self, LakeError> {
        let source = Columns { table, batch };
        let mut cells = Vec::new();
        for c in columns {
            cells.push(if c.optional { source.get(c.name, c.ty)? } else { Some(source.need(c.name, c.ty)?) });
        }
        Ok(Self { table, names: columns.iter().map(|c| c.name).collect(), cells })
    }

    /// The value of `column` in `row`.
    pub fn get<T: FieldType>(&self, column: usize, row: usize) -> Result<T, LakeError> {
        let cells = self.cells.get(column).and_then(Option::as_ref);
        let value = cells.map_or(Ok(Value::Absent), |cells| cells.value(row, T::TYPE));
        value.and_then(T::from_value).map_err(|err| {
            let name = self.names.get(column).copied().unwrap_or_default();
            LakeError::columns(self.table, format_args!("row {row}, column {name}: {err}"))
        })
    }
}

impl Cells {
    /// The cell as a value of type `ty`.
    fn value(&self, row: usize, ty: Type) -> Result<Value, DecodeError> {
        let wrong = || DecodeError::Malformed { expected: ty.name() };
        if self.is_null(row) {
            return Ok(Value::Absent);
        }
        match ty {
            Type::Bool => self.bool(row).map(Value::Bool),
            Type::Int => self.int(row).map(Value::Int),
            Type::Text => self.text(row).map(|t| Value::Text(t.to_owned())),
            Type::Bytes => self.bytes(row).map(|b| Value::Bytes(b.to_vec())),
            Type::Id16 => self.id16(row).map(Value::Id16),
            Type::Digest => self.digest(row).map(Value::Digest),
            Type::IntList => self.ints(row).map(Value::IntList),
            Type::TextList => self.texts(row).map(Value::TextList),
        }
        .ok_or_else(wrong)
    }
}

/// Declares a row struct with its schema, encoder and decoder.
macro_rules! rows {
    ($(#[doc = $doc:literal])* $ty:ident in $table:literal {
        $($(#[doc = $fdoc:literal])* $field:ident: $fty:ty,)*
    }) => {
        $(#[doc = $doc])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct $ty { $($(#[doc = $fdoc])* pub $field: $fty,)* }

        impl $ty {
            /// The hash of the row, as it enters a row sum.
            pub fn row_hash(&self) -> bodycam_record::Digest {
                let mut w = bodycam_record::canonical::Writer::new();
                w.bytes($table.as_bytes());
                $(bodycam_record::value::put_field(&mut w, &self.$field);)*
                bodycam_record::digest::LAKE_TABLE_ROW.digest(w.as_slice())
            }
        }

        const COLUMNS: &[$crate::columns::rows::RowColumn] = &[$($crate::columns::rows::RowColumn {
            name: stringify!($field),
            ty: <$fty as bodycam_record::value::FieldType>::TYPE,
            optional: <$fty as bodycam_record::value::FieldType>::OPTIONAL,
        }),*];

        /// The columns of this table, with their meaning.
        pub const DOCS: &[(&str, &str)] = &[$((stringify!($field), concat!($($fdoc),*))),*];

        /// The schema of this table.
        pub fn schema() -> arrow::datatypes::SchemaRef {
            $crate::columns::rows::schema(COLUMNS)
        }

        /// The batch of `rows`.
        pub fn encode<'a>(
            rows: impl IntoIterator<Item = &'a $ty>,
        ) -> Result<arrow::array::RecordBatch, $crate::error::LakeError> {
            let mut builder = $crate::columns::rows::RowBuilder::new($table, COLUMNS);
            for row in rows {
                let mut column = 0;
                $(builder.put(column, &row.$field)?; column += 1;)*
                let _ = column;
                builder.end_row();
            }
            builder.finish(schema())
        }

        /// The rows of `batch`.
        pub fn decode(batch: &arrow::array::RecordBatch) -> Result<Vec<$ty>, $crate::error::LakeError> {
            let reader = $crate::columns::rows::RowReader::new($table, COLUMNS, batch)?;
            (0..batch.num_rows()).map(|row| {
                let mut column = 0;
                let row = $ty { $($field: { column += 1; reader.get(column - 1, row)? },)* };
                Ok(row)
            }).collect()
        }
    };
}
pub(crate) use rows;
