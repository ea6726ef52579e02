//! Cells of a batch that anyone may have re-encoded: dictionaries, views, large and fixed-size variants and
//! any column order are read alike; a type that cannot hold the value is an error.

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, FixedSizeBinaryArray, Int64Array, ListArray,
    RecordBatch, StringArray,
};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Int64Type};
use bodycam_record::value::Type;
use bodycam_record::{Digest, Id16};

use super::list_item;
use crate::error::LakeError;

/// A column in the one representation that its type is read in.
pub(crate) enum Cells {
    Bool(BooleanArray),
    Int(Int64Array),
    Text(StringArray),
    Binary(BinaryArray),
    Fixed(FixedSizeBinaryArray),
    IntList(ListArray, Int64Array),
    TextList(ListArray, StringArray),
}

/// The columns of a batch, by name.
pub(crate) struct Columns<'a> {
    pub table: &'static str,
    pub batch: &'a RecordBatch,
}

impl Columns<'_> {
    /// The column `name`, none when the batch has none.
    pub fn get(&self, name: &str, ty: Type) -> Result<Option<Cells>, LakeError> {
        let Some(array) = self.batch.column_by_name(name) else { return Ok(None) };
        let got = array.data_type();
        let cells = Cells::new(array, ty).ok_or_else(|| {
            LakeError::columns(self.table, format_args!("column {name} is {got}, not {}", ty.name()))
        })?;
        Ok(Some(cells))
    }

    /// The column `name`, which must be there.
    pub fn need(&self, name: &str, ty: Type) -> Result<Cells, LakeError> {
        self.get(name, ty)?.ok_or_else(|| LakeError::columns(self.table, format_args!("no column {name}")))
    }
}

impl Cells {
    fn new(array: &ArrayRef, ty: Type) -> Option<Self> {
        Some(match ty {
            Type::Bool => Cells::Bool(as_type(array, &DataType::Boolean)?.as_boolean_opt()?.clone()),
            Type::Int => Cells::Int(ints(array)?),
            Type::Text => Cells::Text(texts(array)?),
            Type::Bytes => binary(array, None)?,
            Type::Id16 => binary(array, Some(16))?,
            Type::Digest => binary(array, Some(32))?,
            Type::IntList => {
                let list = lists(array, DataType::Int64)?;
                let items = ints(list.values())?;
                Cells::IntList(list, items)
            }
            Type::TextList => {
                let list = lists(array, DataType::Utf8)?;
                let items = texts(list.values())?;
                Cells::TextList(list, items)
            }
        })
    }

    /// Whether row `row` has no value.
    pub fn is_null(&self, row: usize) -> bool {
        self.array().is_null(row)
    }

    /// The underlying array.
    pub fn array(&self) -> &dyn Array {
        match self {
            Cells::Bool(a) => a,
            Cells::Int(a) => a,
            Cells::Text(a) => a,
            Cells::Binary(a) => a,
            Cells::Fixed(a) => a,
            Cells::IntList(a, _) => a,
            Cells::TextList(a, _) => a,
        }
    }

    /// The integer of a row.
    pub fn int(&self, row: usize) -> Option<i64> {
        match self {
            Cells::Int(a) if row < a.len() && a.is_valid(row) => Some(a.value(row)),
            _ => None,
        }
    }

    /// The boolean of a row.
    pub fn bool(&self, row: usize) -> Option<bool> {
        match self {
            Cells::Bool(a) if row < a.len() && a.is_valid(row) => Some(a.value(row)),
            _ => None,
        }
    }

    /// The text of a row.
    pub fn text(&self, row: usize) -> Option<&str> {
        match self {
            Cells::Text(a) if row < a.len() && a.is_valid(row) => Some(a.value(row)),
            _ => None,
        }
    }

    /// The bytes of a row.
    pub fn bytes(&self, row: usize) -> Option<&[u8]> {
        match self {
            Cells::Binary(a) if row < a.len() && a.is_valid(row) => Some(a.value(row)),
            Cells::Fixed(a) if row < a.len() && a.is_valid(row) => Some(a.value(row)),
            _ => None,
        }
    }

    /// The integers in the list of a row.
    pub fn ints(&self, row: usize) -> Option<Vec<i64>> {
        let Cells::IntList(list, items) = self else { return None };
        list_range(list, row)?.map(|i| items.is_valid(i).then(|| items.value(i))).collect()
    }

    /// The texts in the list of a row.
    pub fn texts(&self, row: usize) -> Option<Vec<String>> {
        let Cells::TextList(list, items) = self else { return None };
        list_range(list, row)?.map(|i| items.is_valid(i).then(|| items.value(i).to_owned())).collect()
    }

    /// The 16 bytes of a row; none when they are not 16.
    pub fn id16(&self, row: usize) -> Option<Id16> {
        self.bytes(row).and_then(|b| b.try_into().ok()).map(Id16)
    }

    /// The 32 bytes of a row; none when they are not 32.
    pub fn digest(&self, row: usize) -> Option<Digest> {
        self.bytes(row).and_then(|b| b.try_into().ok()).map(Digest)
    }
}

/// `array` as `ty`, cast where needed; no value is ever lost silently.
fn as_type(array: &ArrayRef, ty: &DataType) -> Option<ArrayRef> {
    if array.data_type() == ty {
        return Some(array.clone());
    }
    cast_with_options(array, ty, &CastOptions { safe: false, ..CastOptions::default() }).ok()
}

fn unpacked(ty: &DataType) -> &DataType {
    match ty {
        DataType::Dictionary(_, value) => value,
        DataType::RunEndEncoded(_, value) => value.data_type(),
        ty => ty,
    }
}

fn ints(array: &ArrayRef) -> Option<Int64Array> {
    let ty = unpacked(array.data_type());
    if !ty.is_integer() && !matches!(ty, DataType::Timestamp(..) | DataType::Null) {
        return None;
    }
    as_type(array, &DataType::Int64)?.as_primitive_opt::<Int64Type>().cloned()
}

fn texts(array: &ArrayRef) -> Option<StringArray> {
    if !matches!(
        unpacked(array.data_type()),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Null
    ) {
        return None;
    }
    as_type(array, &DataType::Utf8)?.as_string_opt::<i32>().cloned()
}

fn binary(array: &ArrayRef, width: Option<i32>) -> Option<Cells> {
    match (array.data_type(), width) {
        (DataType::FixedSizeBinary(w), Some(width)) if *w == width => {
            return Some(Cells::Fixed(array.as_fixed_size_binary_opt()?.clone()));
        }
        _ => {}
    }
    match unpacked(array.data_type()) {
        DataType::Binary
        | DataType::LargeBinary
        | DataType::BinaryView
        | DataType::FixedSizeBinary(_)
        | DataType::Null => Some(Cells::Binary(as_type(array, &DataType::Binary)?.as_binary_opt()?.clone())),
        _ => None,
    }
}

fn lists(array: &ArrayRef, item: DataType) -> Option<ListArray> {
    let item_is = |ty: &DataType| match &item {
        DataType::Int64 => ty.is_integer(),
        _ => matches!(unpacked(ty), DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View),
    };
    match array.data_type() {
        DataType::Null => {}
        DataType::List(f)
        | DataType::LargeList(f)
        | DataType::ListView(f)
        | DataType::LargeListView(f)
        | DataType::FixedSizeList(f, _)
            if item_is(f.data_type()) || f.data_type() == &DataType::Null => {}
        _ => return None,
    }
    as_type(array, &DataType::List(list_item(item)))?.as_list_opt::<i32>().cloned()
}

/// The places of the items of row `row`.
pub(crate) fn list_range(list: &ListArray, row: usize) -> Option<std::ops::Range<usize>> {
    let offsets = list.value_offsets();
    let from = usize::try_from(*offsets.get(row)?).ok()?;
    let to = usize::try_from(*offsets.get(row + 1)?).ok()?;
    Some(from..to)
}
