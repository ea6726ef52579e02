//! What a long message says: its names, types and formats, the beginning of its text or values, and the digest
//! of the whole.

use bodycam_record::canonical::Writer;

use crate::postgres::codec::frontend::{Formats, Kind};
use crate::postgres::codec::{FrameError, SMALL};

/// Reads the fields of a message from pieces of any size.
pub(super) struct Reader {
    kind: Kind,
    pub(super) field: Field,
    small: Vec<u8>,
    pub(super) names: Vec<Vec<u8>>,
    pub(super) oid: u32,
    pub(super) types: Vec<u32>,
    formats: Vec<u8>,
    pub(super) result_formats: Vec<u8>,
    /// The beginning of the text.
    pub(super) text: Vec<u8>,
    pub(super) text_bytes: usize,
    pub(super) hasher: blake3::Hasher,
    /// Values read and to read.
    pub(super) values: usize,
    values_left: usize,
    pub(super) value_bytes: usize,
    /// The value that is being read, if it is kept.
    value: Option<Vec<u8>>,
    pub(super) encoded: Vec<u8>,
    pub(super) cut: bool,
    /// Bytes of text or values that are recorded.
    keep: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Field {
    Name,
    Text,
    Oid,
    TypeCount,
    Types(usize),
    FormatCount,
    Formats(usize),
    ValueCount,
    ValueLength,
    Value(usize),
    ResultCount,
    Results(usize),
    End,
}

impl Reader {
    pub(super) fn new(kind: Kind, keep: usize, hasher: blake3::Hasher) -> Self {
        let field = match kind {
            Kind::Query => Field::Text,
            Kind::FunctionCall => Field::Oid,
            _ => Field::Name,
        };
        Self {
            kind,
            field,
            small: Vec::new(),
            names: Vec::new(),
            oid: 0,
            types: Vec::new(),
            formats: Vec::new(),
            result_formats: Vec::new(),
            text: Vec::new(),
            text_bytes: 0,
            hasher,
            values: 0,
            values_left: 0,
            value_bytes: 0,
            value: None,
            encoded: Vec::new(),
            cut: false,
            keep,
        }
    }

    pub(super) fn malformed(&self, what: &'static str) -> FrameError {
        let message = match self.kind {
            Kind::Query => "Query",
            Kind::Parse => "Parse",
            Kind::Bind => "Bind",
            _ => "FunctionCall",
        };
        FrameError::Malformed { message, what }
    }

    /// Reads the next bytes. `types_of` knows the parameter types of a statement.
    pub(super) fn feed(
        &mut self,
        mut bytes: &[u8],
        types_of: &dyn Fn(&[u8]) -> Vec<u32>,
    ) -> Result<(), FrameError> {
        while !bytes.is_empty() {
            let used = match self.field {
                Field::Name => self.name(bytes, types_of)?,
                Field::Text => self.text(bytes),
                Field::Value(left) => self.value(bytes, left),
                Field::End => return Err(self.malformed("bytes after its end")),
                Field::Oid | Field::ValueLength => self.fixed(bytes, 4)?,
                Field::TypeCount | Field::FormatCount | Field::ValueCount => self.fixed(bytes, 2)?,
                Field::ResultCount => self.fixed(bytes, 2)?,
                Field::Types(n) | Field::Formats(n) | Field::Results(n) => self.fixed(bytes, n)?,
            };
            bytes = bytes.get(used..).unwrap_or_default();
        }
        Ok(())
    }

    fn name(&mut self, bytes: &[u8], types_of: &dyn Fn(&[u8]) -> Vec<u32>) -> Result<usize, FrameError> {
        let end = memchr::memchr(0, bytes);
        let part = bytes.get(..end.unwrap_or(bytes.len())).unwrap_or_default();
        self.small.extend_from_slice(part);
        if self.small.len() > SMALL {
            return Err(self.malformed("a name of more than 10,000 bytes"));
        }
        if end.is_none() {
            return Ok(part.len());
        }
        self.names.push(std::mem::take(&mut self.small));
        self.field = match (self.kind, self.names.len()) {
            (Kind::Parse, _) => Field::Text,
            (_, 1) => Field::Name,
            _ => {
                self.types = self.names.last().map(|name| types_of(name)).unwrap_or_default();
                Field::FormatCount
            }
        };
        Ok(part.len() + 1)
    }

    fn text(&mut self, bytes: &[u8]) -> usize {
        let end = memchr::memchr(0, bytes);
        let part = bytes.get(..end.unwrap_or(bytes.len())).unwrap_or_default();
        self.hasher.update(part);
        self.text_bytes += part.len();
        let room = self.keep.saturating_sub(self.text.len());
        self.text.extend_from_slice(part.get(..room).unwrap_or(part));
        if end.is_none() {
            return part.len();
        }
        self.field = if self.kind == Kind::Parse { Field::TypeCount } else { Field::End };
        part.len() + 1
    }

    fn value(&mut self, bytes: &[u8], left: usize) -> usize {
        let part = bytes.get(..left).unwrap_or(bytes);
        self.hasher.update(part);
        if let Some(value) = &mut self.value {
            value.extend_from_slice(part);
        }
        let left = left - part.len();
        if left > 0 {
            self.field = Field::Value(left);
        } else {
            self.value_read();
        }
        part.len()
    }

    /// Collects a field of `n` bytes and goes on when it is whole.
    fn fixed(&mut self, bytes: &[u8], n: usize) -> Result<usize, FrameError> {
        let part = bytes.get(..n - self.small.len()).unwrap_or(bytes);
        self.small.extend_from_slice(part);
        if self.small.len() < n {
            return Ok(part.len());
        }
        let field = std::mem::take(&mut self.small);
        let short = field.first_chunk().map_or(0, |b| usize::from(u16::from_be_bytes(*b)));
        let long = field.first_chunk().map_or(0, |b| i32::from_be_bytes(*b));
        // A field of no bytes is passed over at once.
        let or = |n: usize, field: Field, next: Field| if n == 0 { next } else { field };
        self.field = match self.field {
            Field::Oid => {
                self.oid = long.cast_unsigned();
                Field::FormatCount
            }
            Field::TypeCount => or(short, Field::Types(short * 4), Field::End),
            Field::Types(_) => {
                let oid = |b: &[u8]| b.first_chunk().map_or(0, |b| u32::from_be_bytes(*b));
                self.types = field.chunks(4).map(oid).collect();
                Field::End
            }
            Field::FormatCount => or(short, Field::Formats(short * 2), Field::ValueCount),
            Field::Formats(_) => {
                self.formats = field;
                Field::ValueCount
            }
            Field::ValueCount => {
                self.values_left = short;
                or(short, Field::ValueLength, self.after_values())
            }
            Field::ValueLength => {
                self.value_begins(long)?;
                self.field
            }
            Field::ResultCount if self.kind == Kind::Bind => or(short, Field::Results(short * 2), Field::End),
            Field::Results(_) => {
                self.result_formats = field;
                Field::End
            }
            _ => Field::End,
        };
        Ok(part.len())
    }

    fn after_values(&self) -> Field {
        // A FunctionCall ends with one format code, a Bind with a count of them.
        Field::ResultCount
    }

    /// The canonical form of a value is digested as `Session::arguments` does for messages held whole.
    fn value_begins(&mut self, length: i32) -> Result<(), FrameError> {
        let index = self.values;
        let type_oid = self.types.get(index).copied().map_or(0, i64::from);
        let format = Formats::of(&self.formats).at(index);
        let length = match length {
            -1 => None,
            n => Some(usize::try_from(n).map_err(|_| self.malformed("negative length"))?),
        };
        let mut w = Writer::new();
        w.int(type_oid);
        w.int(format);
        let mut head = w.into_vec();
        head.extend_from_slice(&(length.map_or(1, |n| n as u64 + 1)).to_le_bytes());
        head.push(u8::from(length.is_some()));
        self.hasher.update(&head);
        self.values += 1;
        self.values_left -= 1;
        self.value_bytes += length.unwrap_or(0);
        let whole = self.encoded.len() + head.len() + length.unwrap_or(0);
        self.value = (!self.cut && whole <= self.keep).then_some(head);
        self.cut |= self.value.is_none();
        match length {
            None | Some(0) => self.value_read(),
            Some(n) => self.field = Field::Value(n),
        }
        Ok(())
    }

    fn value_read(&mut self) {
        if let Some(value) = self.value.take() {
            self.encoded.extend_from_slice(&value);
        }
        self.field = if self.values_left > 0 { Field::ValueLength } else { self.after_values() };
    }
}

#[cfg(test)]
mod tests {
    use bodycam_record::SessionKey;
    use bodycam_record::content::structured::{Bind, encode_binds};
    use proptest::prelude::*;

    use super::super::HELD;
    use super::*;
    use crate::postgres::codec::frontend;

    fn read(kind: Kind, body: &[u8], pieces: usize) -> Result<Reader, FrameError> {
        let mut reader = Reader::new(kind, HELD, SessionKey::new([1; 32]).hasher());
        for part in body.chunks(pieces) {
            reader.feed(part, &|_| vec![23, 25])?;
        }
        Ok(reader)
    }

    proptest! {
        #[test]
        fn a_message_reads_the_same_in_pieces(
            pieces in 1usize..30,
            values in proptest::collection::vec(proptest::option::of("[a-z]{0,9}"), 0..5),
            formats in 0u8..2,
        ) {
            let mut body = b"portal\0statement\0".to_vec();
            body.extend_from_slice(&[0, formats]);
            body.extend(std::iter::repeat_n([0, 1], usize::from(formats)).flatten());
            body.extend_from_slice(&u16::try_from(values.len()).unwrap().to_be_bytes());
            for value in &values {
                match value {
                    None => body.extend_from_slice(&[0xff; 4]),
                    Some(v) => {
                        body.extend_from_slice(&u32::try_from(v.len()).unwrap().to_be_bytes());
                        body.extend_from_slice(v.as_bytes());
                    }
                }
            }
            body.extend_from_slice(&[0, 1, 0, 1]);
            let held = frontend::bind(&body).unwrap();
            let reader = read(Kind::Bind, &body, pieces).unwrap();
            prop_assert_eq!(reader.field, Field::End);
            prop_assert_eq!(&reader.names[1], b"statement");
            prop_assert_eq!(&reader.result_formats[..], held.result_formats.as_bytes());
            let binds: Vec<_> = values.iter().enumerate().map(|(i, v)| Bind {
                type_oid: [23, 25].get(i).copied().unwrap_or(0),
                format: held.formats.at(i),
                value: v.as_ref().map(|v| v.as_bytes().to_vec()),
            }).collect();
            let canonical = encode_binds(&binds);
            prop_assert_eq!(&reader.encoded, &canonical);
            let digest = SessionKey::new([1; 32]).keyed_digest(&canonical);
            prop_assert_eq!(*reader.hasher.finalize().as_bytes(), digest.0);
        }

        #[test]
        fn no_body_makes_the_reader_panic(
            body in proptest::collection::vec(any::<u8>(), 0..80), pieces in 1usize..20, kind in 0usize..4,
        ) {
            let kind = [Kind::Query, Kind::Parse, Kind::Bind, Kind::FunctionCall][kind];
            let _ = read(kind, &body, pieces);
        }
    }
}
