//! The frame walker: where a message ends, which one it is, and whether that is lawful in its direction.
//! <https://www.postgresql.org/docs/current/protocol-message-formats.html>
//!
//! Frames are looked at where they lie; nothing is allocated because a length field says so. Invariant: every
//! byte that passes belongs to exactly one frame of a known type with a length that type may have.

use std::ops::RangeInclusive;

use bodycam_record::shown::shown_bytes;
use thiserror::Error;

pub mod backend;
pub mod frontend;
pub mod startup;

/// Bytes of type and length before a message's body.
pub const HEADER: usize = 5;

/// Longest body of a message that may be long: the server's own limit (`PQ_LARGE_MESSAGE_LIMIT`).
pub const LARGE: usize = 0x3fff_fffb;

/// Longest body of a message that cannot carry data (`PQ_SMALL_MESSAGE_LIMIT`).
pub const SMALL: usize = 10_000;

/// What is wrong with bytes on the wire.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FrameError {
    /// A type byte that this direction does not have.
    #[error("unknown {from} message type {}", shown_bytes(&[*tag]))]
    Unknown { from: &'static str, tag: u8 },
    /// A length that the type cannot have.
    #[error("{from} message '{}' has a length of {length}, where 4 to {most} are possible", shown_bytes(&[*tag]))]
    Length { from: &'static str, tag: u8, length: i64, most: usize },
    /// A body that does not have the form of its type.
    #[error("malformed {message} message: {what}")]
    Malformed { message: &'static str, what: &'static str },
}

impl FrameError {
    /// Its name among the reasons of `control.decision`.
    pub fn reason(&self) -> &'static str {
        match self {
            FrameError::Unknown { .. } => "unknown-message",
            FrameError::Length { .. } => "bad-length",
            FrameError::Malformed { .. } => "malformed-message",
        }
    }

    /// The type byte concerned.
    pub fn tag(&self) -> Option<u8> {
        match self {
            FrameError::Unknown { tag, .. } | FrameError::Length { tag, .. } => Some(*tag),
            FrameError::Malformed { .. } => None,
        }
    }
}

/// One direction of the wire: the same type byte means different things in each.
pub trait Direction {
    /// Its message types.
    type Kind: Copy + std::fmt::Debug + PartialEq + Eq;
    /// Who sends.
    const FROM: &'static str;
    /// The type of a type byte, and how long its body may be.
    fn kind(tag: u8) -> Option<(Self::Kind, RangeInclusive<usize>)>;
}

/// The start of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header<K> {
    /// Type.
    pub kind: K,
    /// Bytes after type and length.
    pub body: usize,
}

impl<K> Header<K> {
    /// Bytes of the whole frame.
    pub fn frame(&self) -> usize {
        HEADER + self.body
    }
}

/// The header at the start of `bytes`; none when there are too few. A bad type is refused at its first byte.
pub fn header<D: Direction>(bytes: &[u8]) -> Result<Option<Header<D::Kind>>, FrameError> {
    let Some((&tag, rest)) = bytes.split_first() else { return Ok(None) };
    let (kind, lengths) = D::kind(tag).ok_or(FrameError::Unknown { from: D::FROM, tag })?;
    let Some(length) = rest.first_chunk().map(|b| i32::from_be_bytes(*b)) else { return Ok(None) };
    let most = lengths.end() + 4;
    let bad = FrameError::Length { from: D::FROM, tag, length: i64::from(length), most };
    let body = usize::try_from(length).ok().and_then(|l| l.checked_sub(4)).ok_or(bad.clone())?;
    if !lengths.contains(&body) {
        return Err(bad);
    }
    Ok(Some(Header { kind, body }))
}

/// Reads a message's body field by field.
#[derive(Debug, Clone)]
pub struct Body<'a> {
    rest: &'a [u8],
    message: &'static str,
}

impl<'a> Body<'a> {
    /// A reader of the body of a message of this name.
    pub fn new(message: &'static str, body: &'a [u8]) -> Self {
        Self { rest: body, message }
    }

    /// The error that this message is malformed.
    pub fn malformed(&self, what: &'static str) -> FrameError {
        FrameError::Malformed { message: self.message, what }
    }

    /// The next `n` bytes.
    pub fn bytes(&mut self, n: usize) -> Result<&'a [u8], FrameError> {
        let (head, rest) = self.rest.split_at_checked(n).ok_or(self.malformed("ends too early"))?;
        self.rest = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], FrameError> {
        let (head, rest) = self.rest.split_first_chunk().ok_or(self.malformed("ends too early"))?;
        self.rest = rest;
        Ok(*head)
    }

    /// Byte1.
    pub fn byte(&mut self) -> Result<u8, FrameError> {
        self.array::<1>().map(|[b]| b)
    }

    /// Int16.
    pub fn i16(&mut self) -> Result<i16, FrameError> {
        self.array().map(i16::from_be_bytes)
    }

    /// Int32.
    pub fn i32(&mut self) -> Result<i32, FrameError> {
        self.array().map(i32::from_be_bytes)
    }

    /// Int32 that is an OID.
    pub fn oid(&mut self) -> Result<u32, FrameError> {
        self.array().map(u32::from_be_bytes)
    }

    /// Int16 that counts what follows.
    pub fn count(&mut self) -> Result<usize, FrameError> {
        usize::try_from(self.i16()?).map_err(|_| self.malformed("negative count"))
    }

    /// Int16 that counts parameters or columns of a client's message, where the server reads it unsigned.
    pub fn count_unsigned(&mut self) -> Result<usize, FrameError> {
        self.array().map(u16::from_be_bytes).map(usize::from)
    }

    /// Int32 length and as many bytes; none for NULL (-1).
    pub fn value(&mut self) -> Result<Option<&'a [u8]>, FrameError> {
        match self.i32()? {
            -1 => Ok(None),
            length => {
                let length = usize::try_from(length).map_err(|_| self.malformed("negative length"))?;
                self.bytes(length).map(Some)
            }
        }
    }

    /// Text up to NUL.
    pub fn text(&mut self) -> Result<&'a [u8], FrameError> {
        let end = memchr::memchr(0, self.rest).ok_or(self.malformed("text without end"))?;
        let text = self.bytes(end)?;
        self.byte()?;
        Ok(text)
    }

    /// Everything that is left.
    pub fn rest(self) -> &'a [u8] {
        self.rest
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Nothing may be left.
    pub fn end(self) -> Result<(), FrameError> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.malformed("bytes after its end")) }
    }
}

/// Appends a frame whose body `fill` writes.
pub fn frame(out: &mut Vec<u8>, tag: u8, fill: impl FnOnce(&mut Vec<u8>)) {
    out.push(tag);
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    fill(out);
    let length = i32::try_from(out.len() - at).unwrap_or(i32::MAX).to_be_bytes();
    for (to, from) in out.iter_mut().skip(at).zip(length) {
        *to = from;
    }
}

/// Appends text and NUL; NULs inside become spaces, for nobody could read past them.
pub fn put_text(out: &mut Vec<u8>, text: &[u8]) {
    out.extend(text.iter().map(|b| if *b == 0 { b' ' } else { *b }));
    out.push(0);
}

#[cfg(test)]
mod tests {
    use super::backend::Backend;
    use super::frontend::Frontend;
    use super::*;
    use proptest::prelude::*;

    fn headers<D: Direction>(mut bytes: &[u8]) -> Result<Vec<Header<D::Kind>>, FrameError> {
        let mut found = Vec::new();
        while let Some(h) = header::<D>(bytes)? {
            let Some(rest) = bytes.get(h.frame()..) else { break };
            found.push(h);
            bytes = rest;
        }
        Ok(found)
    }

    #[test]
    fn lengths_that_a_type_cannot_have_are_refused() {
        let long = i32::MAX.to_be_bytes();
        let cases: [(u8, [u8; 4]); 9] = [
            (b'Q', [0, 0, 0, 0]),
            (b'Q', [0, 0, 0, 3]),
            (b'Q', [0, 0, 0, 4]),
            (b'Q', [0xff, 0xff, 0xff, 0xff]),
            (b'Q', [0x80, 0, 0, 0]),
            (b'Q', long),
            (b'S', [0, 0, 0, 5]),
            (b'D', [0, 0, 0x7f, 0xff]),
            (b'X', [0, 1, 0, 0]),
        ];
        for (tag, length) in cases {
            let bytes = [&[tag][..], &length].concat();
            let error = header::<Frontend>(&bytes).unwrap_err();
            assert_eq!(error.reason(), "bad-length", "{tag} {length:?}");
        }
        for (tag, length) in [(b'Z', [0, 0, 0, 4]), (b'1', [0, 0, 0, 5]), (b'D', [0xff; 4]), (b'C', long)] {
            let bytes = [&[tag][..], &length].concat();
            assert_eq!(header::<Backend>(&bytes).unwrap_err().reason(), "bad-length", "{tag}");
        }
    }

    #[test]
    fn a_type_byte_means_what_its_direction_says() {
        let bytes = [b'D', 0, 0, 0, 6, b'S', 0];
        assert_eq!(header::<Frontend>(&bytes).unwrap().unwrap().kind, frontend::Kind::Describe);
        assert_eq!(header::<Backend>(&bytes).unwrap().unwrap().kind, backend::Kind::DataRow);
        for tag in [b'Z', b'T', b'1', 0, 0xff] {
            assert_eq!(header::<Frontend>(&[tag]).unwrap_err().reason(), "unknown-message");
        }
        for tag in [b'Q', b'P', b'X', 0, 0xff] {
            assert_eq!(header::<Backend>(&[tag]).unwrap_err().reason(), "unknown-message");
        }
    }

    proptest! {
        #[test]
        fn frames_are_the_same_however_the_bytes_are_split(
            bodies in proptest::collection::vec((0usize..4, proptest::collection::vec(any::<u8>(), 8..40)), 1..8),
        ) {
            let mut bytes = Vec::new();
            for (kind, body) in &bodies {
                frame(&mut bytes, [b'Q', b'P', b'B', b'd'][*kind], |out| out.extend_from_slice(body));
            }
            let whole = headers::<Frontend>(&bytes).unwrap();
            prop_assert_eq!(whole.len(), bodies.len());
            for cut in 0..=bytes.len() {
                let (head, _) = bytes.split_at(cut);
                let first = headers::<Frontend>(head).unwrap();
                prop_assert_eq!(&first[..], &whole[..first.len()]);
                let consumed: usize = first.iter().map(Header::frame).sum();
                let second = headers::<Frontend>(&bytes[consumed..]).unwrap();
                prop_assert_eq!(&second[..], &whole[first.len()..]);
            }
        }

        #[test]
        fn no_bytes_make_the_walker_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = headers::<Frontend>(&bytes);
            let _ = headers::<Backend>(&bytes);
        }
    }
}
