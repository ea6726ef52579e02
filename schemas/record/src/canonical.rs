//! Canonical bytes: the only serialization that is ever hashed.
//!
//! A record is a sequence of fields. Every field is written as `LP(bytes)` = u64 little-endian length, then
//! the bytes. Integers are 8 bytes, two's complement, little-endian; booleans one byte, 0 or 1; text is
//! UTF-8; an optional field starts with a presence byte (0 = absent, nothing follows; 1 = present); a list
//! is a u64 count and then `LP(item)` for each item. There is exactly one encoding of every value, and the
//! reader refuses every other.

use thiserror::Error;

/// Writes canonical fields into a buffer that the caller owns and can reuse.
#[derive(Debug, Default, Clone)]
pub struct Writer {
    buf: Vec<u8>,
}

/// Why bytes are not canonical.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum DecodeError {
    /// A length prefix or fixed-width value reaches past the end.
    #[error("canonical bytes end early: {need} more bytes needed at offset {at}, {have} left")]
    Truncated { at: usize, need: u64, have: usize },
    /// Bytes follow the last field.
    #[error("{extra} bytes follow the last field")]
    Trailing { extra: usize },
    /// A value is not in its one allowed form.
    #[error("field is not a canonical {expected}")]
    Malformed { expected: &'static str },
    /// A kind, version or suite that this build does not know.
    #[error("unknown {what} {code}")]
    Unknown { what: &'static str, code: i64 },
}

impl Writer {
    /// An empty writer.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty writer that reuses `buf`'s allocation.
    pub fn reusing(mut buf: Vec<u8>) -> Self {
        buf.clear();
        Self { buf }
    }

    /// One length-prefixed field of raw bytes.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.buf.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
        self.buf.extend_from_slice(bytes);
    }

    /// One length-prefixed field holding an integer.
    pub fn int(&mut self, value: i64) {
        self.bytes(&value.to_le_bytes());
    }

    /// One length-prefixed field holding a boolean.
    pub fn bool(&mut self, value: bool) {
        self.bytes(&[u8::from(value)]);
    }

    /// One length-prefixed field whose inside is written by `inside`.
    pub fn field(&mut self, inside: impl FnOnce(&mut Vec<u8>)) {
        field(&mut self.buf, inside);
    }

    /// What was written.
    pub fn as_slice(&self) -> &[u8] {
        &self.buf
    }

    /// What was written, by value.
    pub fn into_vec(self) -> Vec<u8> {
        self.buf
    }
}

/// Appends one length-prefixed field whose inside is written by `inside`.
pub(crate) fn field(out: &mut Vec<u8>, inside: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    out.extend_from_slice(&[0; 8]);
    inside(out);
    let len = (out.len() - at - 8) as u64;
    if let Some(prefix) = out.get_mut(at..at + 8) {
        prefix.copy_from_slice(&len.to_le_bytes());
    }
}

/// Reads canonical fields, refusing everything that [`Writer`] would not have written.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    rest: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// A reader at the start of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, at: 0 }
    }

    /// Exactly `n` raw bytes, without a prefix.
    pub fn raw(&mut self, n: u64) -> Result<&'a [u8], DecodeError> {
        let truncated = DecodeError::Truncated { at: self.at, need: n, have: self.rest.len() };
        let len = usize::try_from(n).map_err(|_| truncated.clone())?;
        let (head, tail) = self.rest.split_at_checked(len).ok_or(truncated)?;
        self.rest = tail;
        self.at = self.at.saturating_add(len);
        Ok(head)
    }

    /// A u64, as in a length prefix or a list count.
    pub fn count(&mut self) -> Result<u64, DecodeError> {
        let raw = self.raw(8)?;
        Ok(u64::from_le_bytes(raw.try_into().map_err(|_| DecodeError::Malformed { expected: "count" })?))
    }

    /// One length-prefixed field.
    pub fn bytes(&mut self) -> Result<&'a [u8], DecodeError> {
        let len = self.count()?;
        self.raw(len)
    }

    /// One length-prefixed integer.
    pub fn int(&mut self) -> Result<i64, DecodeError> {
        let raw = self.bytes()?;
        Ok(i64::from_le_bytes(raw.try_into().map_err(|_| DecodeError::Malformed { expected: "integer" })?))
    }

    /// One length-prefixed boolean.
    pub fn bool(&mut self) -> Result<bool, DecodeError> {
        match self.bytes()? {
            [0] => Ok(false),
            [1] => Ok(true),
            _ => Err(DecodeError::Malformed { expected: "boolean" }),
        }
    }

    /// Whether everything was read.
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Refuses bytes after the last field.
    pub fn finish(self) -> Result<(), DecodeError> {
        match self.rest.len() {
            0 => Ok(()),
            extra => Err(DecodeError::Trailing { extra }),
        }
    }
}
