//! The types that a body field can have, and their three forms: typed, canonical bytes, table cell.

use crate::canonical::{self, DecodeError, Reader, Writer};
use crate::digest::Digest;
use crate::ids::{Id16, SessionId};

/// The type of a field, as the event format and the Parquet schema know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Type {
    /// One byte, 0 or 1.
    Bool,
    /// Int64.
    Int,
    /// UTF-8 text.
    Text,
    /// Bytes of any length.
    Bytes,
    /// 16 bytes.
    Id16,
    /// 32 bytes.
    Digest,
    /// A list of Int64.
    IntList,
    /// A list of UTF-8 text.
    TextList,
}

impl Type {
    /// The name that the documentation and the test vectors use.
    pub fn name(self) -> &'static str {
        match self {
            Type::Bool => "bool",
            Type::Int => "int",
            Type::Text => "text",
            Type::Bytes => "bytes",
            Type::Id16 => "id16",
            Type::Digest => "digest",
            Type::IntList => "list of int",
            Type::TextList => "list of text",
        }
    }
}

/// A field's value, untyped, as a table cell holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// An optional field that is absent.
    Absent,
    Bool(bool),
    Int(i64),
    Text(String),
    Bytes(Vec<u8>),
    Id16(Id16),
    Digest(Digest),
    IntList(Vec<i64>),
    TextList(Vec<String>),
}

/// A Rust type that a body field can have.
pub trait FieldType: Sized {
    /// Its field type.
    const TYPE: Type;
    /// Whether it may be absent.
    const OPTIONAL: bool = false;
    /// The bytes inside the field's length prefix.
    fn put(&self, out: &mut Vec<u8>);
    /// The value that the bytes inside the length prefix hold.
    fn take(inside: &[u8]) -> Result<Self, DecodeError>;
    /// The cell.
    fn to_value(&self) -> Value;
    /// The value of a cell.
    fn from_value(value: Value) -> Result<Self, DecodeError>;
}

/// Writes one field of `T`.
pub fn put_field<T: FieldType>(w: &mut Writer, value: &T) {
    w.field(|out| value.put(out));
}

/// Reads one field of `T`.
pub fn take_field<T: FieldType>(r: &mut Reader<'_>) -> Result<T, DecodeError> {
    T::take(r.bytes()?)
}

fn wrong<T: FieldType>() -> DecodeError {
    DecodeError::Malformed { expected: T::TYPE.name() }
}

macro_rules! scalar {
    ($ty:ty, $variant:ident, $put:expr, $take:expr) => {
        impl FieldType for $ty {
            const TYPE: Type = Type::$variant;
            fn put(&self, out: &mut Vec<u8>) {
                let bytes: fn(&$ty, &mut Vec<u8>) = $put;
                bytes(self, out);
            }
            fn take(inside: &[u8]) -> Result<Self, DecodeError> {
                #[allow(clippy::redundant_closure_call)]
                ($take)(inside).ok_or_else(wrong::<Self>)
            }
            fn to_value(&self) -> Value {
                Value::$variant(self.clone().into())
            }
            fn from_value(value: Value) -> Result<Self, DecodeError> {
                match value {
                    Value::$variant(v) => Ok(v.into()),
                    _ => Err(wrong::<Self>()),
                }
            }
        }
    };
}

scalar!(bool, Bool, |v, out| out.push(u8::from(*v)), |b: &[u8]| match b {
    [0] => Some(false),
    [1] => Some(true),
    _ => None,
});
scalar!(i64, Int, |v, out| out.extend_from_slice(&v.to_le_bytes()), |b: &[u8]| b
    .try_into()
    .ok()
    .map(i64::from_le_bytes));
scalar!(String, Text, |v, out| out.extend_from_slice(v.as_bytes()), |b: &[u8]| std::str::from_utf8(b)
    .ok()
    .map(str::to_owned));
scalar!(Vec<u8>, Bytes, |v, out| out.extend_from_slice(v), |b: &[u8]| Some(b.to_vec()));
scalar!(Id16, Id16, |v, out| out.extend_from_slice(&v.0), |b: &[u8]| b.try_into().ok().map(Id16));
scalar!(Digest, Digest, |v, out| out.extend_from_slice(&v.0), |b: &[u8]| b.try_into().ok().map(Digest));

impl FieldType for SessionId {
    const TYPE: Type = Type::Id16;
    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0);
    }
    fn take(inside: &[u8]) -> Result<Self, DecodeError> {
        SessionId::try_from(inside)
    }
    fn to_value(&self) -> Value {
        Value::Id16(Id16(self.0))
    }
    fn from_value(value: Value) -> Result<Self, DecodeError> {
        Id16::from_value(value).map(|id| SessionId(id.0))
    }
}

macro_rules! list {
    ($item:ty, $variant:ident) => {
        impl FieldType for Vec<$item> {
            const TYPE: Type = Type::$variant;
            fn put(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&(self.len() as u64).to_le_bytes());
                for item in self {
                    canonical::field(out, |out| item.put(out));
                }
            }
            fn take(inside: &[u8]) -> Result<Self, DecodeError> {
                let mut r = Reader::new(inside);
                let count = r.count()?;
                let mut items = Vec::new();
                for _ in 0..count {
                    items.push(take_field(&mut r)?);
                }
                r.finish()?;
                Ok(items)
            }
            fn to_value(&self) -> Value {
                Value::$variant(self.clone())
            }
            fn from_value(value: Value) -> Result<Self, DecodeError> {
                match value {
                    Value::$variant(items) => Ok(items),
                    _ => Err(wrong::<Self>()),
                }
            }
        }
    };
}

list!(i64, IntList);
list!(String, TextList);

impl<T: FieldType> FieldType for Option<T> {
    const TYPE: Type = T::TYPE;
    const OPTIONAL: bool = true;
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            None => out.push(0),
            Some(value) => {
                out.push(1);
                value.put(out);
            }
        }
    }
    fn take(inside: &[u8]) -> Result<Self, DecodeError> {
        match inside.split_first() {
            Some((0, [])) => Ok(None),
            Some((1, rest)) => T::take(rest).map(Some),
            _ => Err(DecodeError::Malformed { expected: "optional field" }),
        }
    }
    fn to_value(&self) -> Value {
        self.as_ref().map_or(Value::Absent, T::to_value)
    }
    fn from_value(value: Value) -> Result<Self, DecodeError> {
        match value {
            Value::Absent => Ok(None),
            value => T::from_value(value).map(Some),
        }
    }
}
