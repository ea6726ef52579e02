//! Content: everything that a person or a target wrote. It enters the chain only as a salted commitment and
//! rests encrypted under the session key, so that erasing the key erases it in every copy without breaking
//! a chain.
//!
//! Content is numbered in its session when its first chunk is written, which can be before its event is:
//! rows are spooled while they stream, their result's event after the last.
//!
//! An event's content is a list of chunks of at most [`MAX_CHUNK`] bytes. The commitment is
//! `H_COMMIT(LP(salt) || count || for each chunk: kind, length, H_CHUNK(LP(salt) || kind || index || LP(bytes)))`.

pub mod postgres;
pub mod structured;

use std::cell::RefCell;

use zstd::bulk::{Compressor, Decompressor};

use crate::canonical::{DecodeError, Writer};
use crate::digest::{self, Digest};
use crate::ids::SessionId;
use crate::key::SessionKey;

/// Longest chunk, in bytes of clear content.
pub const MAX_CHUNK: usize = 256 * 1024;

/// The length prefixes of canonical fields of 8, 16 and 32 bytes.
const LP_8: [u8; 8] = 8u64.to_le_bytes();
const LP_16: [u8; 8] = 16u64.to_le_bytes();
const LP_32: [u8; 8] = 32u64.to_le_bytes();

/// Bytes that encryption adds: the tag of Poly1305.
const TAG: usize = 16;

/// Content shorter than this is not compressed.
const COMPRESS_FROM: usize = 256;

macro_rules! content_kinds {
    ($($(#[doc = $doc:literal])* $name:ident = $code:literal $text:literal,)*) => {
        /// What a chunk holds. Chunks of one kind in one event are parts of one byte string, in order.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum ContentKind { $($(#[doc = $doc])* $name),* }

        impl ContentKind {
            /// Every kind, with code, name and meaning.
            pub const ALL: &[(ContentKind, i64, &str, &str)] = &[$((ContentKind::$name, $code, $text, concat!($($doc),*))),*];

            /// The code that is hashed.
            pub fn code(self) -> i64 {
                match self { $(ContentKind::$name => $code),* }
            }

            /// Its name.
            pub fn name(self) -> &'static str {
                match self { $(ContentKind::$name => $text),* }
            }

            /// The kind of a code.
            pub fn of(code: i64) -> Result<Self, DecodeError> {
                match code {
                    $($code => Ok(ContentKind::$name),)*
                    _ => Err(DecodeError::Unknown { what: "content kind", code }),
                }
            }
        }
    };
}

content_kinds! {
    /// Statement text as the client sent it (secrets replaced), without the terminating NUL.
    SqlText = 1 "sql-text",
    /// Bind parameters: [`structured::Binds`].
    Binds = 2 "binds",
    /// Body of a RowDescription message as sent to the client.
    Columns = 3 "columns",
    /// DataRow messages as sent to the client, whole frames with type and length.
    Rows = 4 "rows",
    /// Body of an ErrorResponse as sent to the client.
    Error = 5 "error",
    /// Body of a notice, notification, parameter status or error outside a statement, as sent.
    Message = 6 "message",
    /// COPY data as it passed, without framing.
    CopyData = 7 "copy-data",
    /// URL of a request, or authority of a CONNECT.
    Url = 8 "url",
    /// Request head fields that are kept: [`structured::Pairs`].
    RequestHead = 9 "request-head",
    /// Response head fields that are kept: [`structured::Pairs`].
    ResponseHead = 10 "response-head",
    /// Session facts in text: client address, startup parameters, credential name: [`structured::Pairs`].
    SessionFacts = 11 "session-facts",
    /// Correlation id in text.
    Correlation = 12 "correlation",
    /// Explanation of a refusal, with what the client sent: [`structured::Pairs`].
    Detail = 13 "detail",
    /// Names of statement and portal: [`structured::Pairs`].
    Names = 14 "names",
}

/// A chunk in clear.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// What it holds.
    pub kind: ContentKind,
    /// Number among the chunks of its content, from 0.
    pub index: u32,
    /// At most [`MAX_CHUNK`] bytes.
    pub bytes: Vec<u8>,
}

/// A chunk as it travels and rests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedChunk {
    /// Session of its event.
    pub session: SessionId,
    /// Number of the content in its session; the event's envelope names it.
    pub content_no: i64,
    /// Number among the chunks of its content.
    pub index: u32,
    /// Code of what it holds.
    pub kind: i64,
    /// `ChaCha20-Poly1305(codec byte || clear or zstd bytes)`.
    pub sealed: Vec<u8>,
}

/// Collects the commitment of one event's content, chunk by chunk.
#[derive(Debug, Clone)]
pub struct Commitment {
    salt: [u8; 32],
    no: i64,
    count: u32,
    /// Kind, length and digest of each chunk.
    parts: Writer,
}

impl Commitment {
    /// The commitment of content `no`, so far without chunks.
    pub fn new(key: &SessionKey, no: i64) -> Self {
        Self { salt: key.salt(no), no, count: 0, parts: Writer::new() }
    }

    /// Number of the content in its session.
    pub fn no(&self) -> i64 {
        self.no
    }

    /// Number of chunks so far, which is the index of the next.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Adds the next chunk.
    pub fn add(&mut self, kind: ContentKind, bytes: &[u8]) {
        let [a, b, c, d] = self.salt_words();
        let (kind, index) = (kind.code(), i64::from(self.count));
        let before = [
            LP_32,
            a,
            b,
            c,
            d,
            LP_8,
            kind.to_le_bytes(),
            LP_8,
            index.to_le_bytes(),
            (bytes.len() as u64).to_le_bytes(),
        ];
        let mut hasher = digest::CHUNK.hasher();
        hasher.update(before.as_flattened()).update(bytes);
        self.parts.int(kind);
        self.parts.int(i64::try_from(bytes.len()).unwrap_or(i64::MAX));
        self.parts.bytes(hasher.finalize().as_bytes());
        self.count += 1;
    }

    /// The commitment; none when there were no chunks.
    pub fn finish(&self) -> Option<Digest> {
        if self.count == 0 {
            return None;
        }
        let [a, b, c, d] = self.salt_words();
        let before = [LP_32, a, b, c, d, LP_8, i64::from(self.count).to_le_bytes()];
        let mut hasher = digest::COMMIT.hasher();
        hasher.update(before.as_flattened()).update(self.parts.as_slice());
        Some(Digest(*hasher.finalize().as_bytes()))
    }

    fn salt_words(&self) -> [[u8; 8]; 4] {
        let mut words = [[0; 8]; 4];
        words.as_flattened_mut().copy_from_slice(&self.salt);
        words
    }
}

impl Chunk {
    /// Compresses (zstd 1, where it helps) and encrypts the chunk for content `no` of `session`.
    pub fn seal(&self, key: &SessionKey, session: SessionId, no: i64) -> SealedChunk {
        seal_chunk(key, session, no, self.index, self.kind, &self.bytes)
    }
}

/// As [`Chunk::seal`], from borrowed bytes.
pub fn seal_chunk(
    key: &SessionKey,
    session: SessionId,
    no: i64,
    index: u32,
    kind: ContentKind,
    bytes: &[u8],
) -> SealedChunk {
    let mut plain = Vec::with_capacity(1 + bytes.len() + TAG);
    let packed = if bytes.len() >= COMPRESS_FROM { pack(bytes) } else { None };
    match packed.filter(|p| p.len() < bytes.len()) {
        Some(packed) => {
            plain.push(1);
            plain.extend_from_slice(&packed);
        }
        None => {
            plain.push(0);
            plain.extend_from_slice(bytes);
        }
    }
    let sealed = key.seal(no, index, &aad(session, no, index, kind.code()), plain);
    SealedChunk { session, content_no: no, index, kind: kind.code(), sealed }
}

impl SealedChunk {
    /// Decrypts and decompresses.
    pub fn open(&self, key: &SessionKey) -> Result<Chunk, DecodeError> {
        let kind = ContentKind::of(self.kind)?;
        let altered = DecodeError::Malformed { expected: "content chunk of this session and event" };
        let plain = key
            .open(
                self.content_no,
                self.index,
                &aad(self.session, self.content_no, self.index, self.kind),
                &self.sealed,
            )
            .ok_or(altered.clone())?;
        let bytes = match plain.split_first() {
            Some((0, bytes)) => bytes.to_vec(),
            Some((1, packed)) => unpack(packed).ok_or(altered.clone())?,
            _ => return Err(altered),
        };
        if bytes.len() > MAX_CHUNK {
            return Err(altered);
        }
        Ok(Chunk { kind, index: self.index, bytes })
    }
}

thread_local! {
    // A context costs more to make than a chunk to pack.
    static PACKER: RefCell<Option<Compressor<'static>>> = RefCell::new(Compressor::new(1).ok());
    static UNPACKER: RefCell<Option<Decompressor<'static>>> = RefCell::new(Decompressor::new().ok());
}

fn pack(bytes: &[u8]) -> Option<Vec<u8>> {
    PACKER.with_borrow_mut(|packer| packer.as_mut()?.compress(bytes).ok())
}

fn unpack(packed: &[u8]) -> Option<Vec<u8>> {
    UNPACKER.with_borrow_mut(|unpacker| unpacker.as_mut()?.decompress(packed, MAX_CHUNK).ok())
}

/// The canonical fields session, number, index and kind.
fn aad(session: SessionId, no: i64, index: u32, kind: i64) -> [u8; 72] {
    let (mut aad, mut halves) = ([0; 72], [[0; 8]; 2]);
    halves.as_flattened_mut().copy_from_slice(&session.0);
    let [high, low] = halves;
    let index = i64::from(index).to_le_bytes();
    let fields = [LP_16, high, low, LP_8, no.to_le_bytes(), LP_8, index, LP_8, kind.to_le_bytes()];
    aad.copy_from_slice(fields.as_flattened());
    aad
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_opens_only_in_its_own_place() {
        let key = SessionKey::new([3; 32]);
        let chunk = Chunk { kind: ContentKind::SqlText, index: 1, bytes: vec![b'x'; 1000] };
        let sealed = chunk.seal(&key, SessionId([1; 16]), 7);
        assert!(sealed.sealed.len() < 200, "compressed before it is encrypted");
        assert_eq!(sealed.open(&key).unwrap(), chunk);
        let moved = [
            SealedChunk { session: SessionId([2; 16]), ..sealed.clone() },
            SealedChunk { content_no: 8, ..sealed.clone() },
            SealedChunk { index: 2, ..sealed.clone() },
            SealedChunk { kind: 2, ..sealed.clone() },
        ];
        for wrong in moved {
            assert!(wrong.open(&key).is_err());
        }
        assert!(sealed.open(&SessionKey::new([4; 32])).is_err());
    }

    #[test]
    fn the_commitment_depends_on_every_part() {
        let key = SessionKey::new([3; 32]);
        let commit = |seq, parts: &[(ContentKind, &[u8])]| {
            let mut c = Commitment::new(&key, seq);
            parts.iter().for_each(|(k, b)| c.add(*k, b));
            c.finish()
        };
        use ContentKind::{Rows, SqlText};
        let base = commit(1, &[(SqlText, b"ab"), (Rows, b"c")]);
        for other in [
            commit(2, &[(SqlText, b"ab"), (Rows, b"c")]),
            commit(1, &[(SqlText, b"a"), (Rows, b"bc")]),
            commit(1, &[(SqlText, b"ab"), (SqlText, b"c")]),
            commit(1, &[(Rows, b"c"), (SqlText, b"ab")]),
            commit(1, &[(SqlText, b"ab")]),
        ] {
            assert_ne!(base, other);
        }
        assert_eq!(commit(1, &[]), None);
    }
}
