//! A client's message that is too long to be held: it is read once while it comes in, kept aside encrypted,
//! and sent on when its event is in the spool; or, beyond `max_statement_bytes`, dropped and refused.
//!
//! Invariant: memory holds its beginning only, whatever length it has.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use bodycam_record::content::{MAX_CHUNK, seal_chunk};
use bodycam_record::{ContentKind, Digest, SealedChunk, SessionId, SessionKey};

use super::answers::Refusal;
use super::client::{client_error, secret_arguments};
use super::end::End;
use super::pipe::Pipe;
use super::record::{Arguments, count};
use super::session::{Session, Within};
use crate::postgres::codec::frontend::{self, Formats, Kind};
use crate::postgres::codec::{FrameError, HEADER, SMALL};
use crate::postgres::inspect::redact::{is_secret_value, redact_secrets};
use crate::postgres::inspect::{Facts, SecretParameters};

/// Longest message that is held whole.
pub(super) const HELD: usize = 1 << 20;

/// What a refused statement becomes: a text that no server can parse, so that it refuses for us.
const POISON: &[u8] = b"bodycam refused this statement";

/// The name of a statement that a refused Bind asks for: nobody can have prepared what nobody can guess.
fn poison_name() -> Result<Vec<u8>, End> {
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(|e| End::Spill(io::Error::other(e)))?;
    Ok(format!("bodycam refused {}", bodycam_record::ids::to_hex(&random)).into_bytes())
}

/// A message that comes in.
pub(super) struct Spill {
    kind: Kind,
    /// Bytes of the whole frame.
    frame: usize,
    left: usize,
    skipped: usize,
    store: Option<Store>,
    reader: Reader,
}

/// Reads the fields of a message from pieces of any size.
struct Reader {
    kind: Kind,
    field: Field,
    small: Vec<u8>,
    names: Vec<Vec<u8>>,
    oid: u32,
    types: Vec<u32>,
    formats: Vec<u8>,
    result_formats: Vec<u8>,
    /// The beginning of the text.
    text: Vec<u8>,
    text_bytes: usize,
    hasher: blake3::Hasher,
    /// Values read and to read.
    values: usize,
    values_left: usize,
    value_bytes: usize,
    /// The value that is being read, if it is kept.
    value: Option<Vec<u8>>,
    encoded: Vec<u8>,
    cut: bool,
    /// Bytes of text or values that are recorded.
    keep: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
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

/// Bytes kept aside in an unlinked file, encrypted under a key that only this process has.
pub(super) struct Store {
    file: File,
    key: SessionKey,
    buffer: Vec<u8>,
    pieces: u32,
    read: u32,
}

impl Spill {
    /// A message of `body` bytes begins, of which `keep` bytes of text or values are recorded. Without `dir`
    /// it is refused and read only to be counted.
    pub fn start(
        kind: Kind,
        body: usize,
        keep: usize,
        hasher: blake3::Hasher,
        dir: Option<&Path>,
    ) -> io::Result<Self> {
        let store = dir.map(Store::new).transpose()?;
        let frame = HEADER + body;
        Ok(Self {
            kind,
            frame,
            left: frame,
            skipped: 0,
            store,
            reader: Reader::new(kind, keep.min(HELD), hasher),
        })
    }
}

impl Session {
    /// Takes what came in of a long message; at its end appends its event and sends it, or its poison, on.
    pub(super) fn spill(&mut self, mut spill: Box<Spill>, pipe: &mut Pipe) -> Result<usize, End> {
        let part = pipe.unread();
        let part = part.get(..spill.left).unwrap_or(part);
        let n = part.len();
        if n == 0 {
            self.client_within = Within::Spilling(spill);
            return Ok(0);
        }
        if let Some(store) = &mut spill.store {
            store.put(part).map_err(End::Spill)?;
        }
        // The frame's own header is not part of the message.
        let header = HEADER.saturating_sub(spill.skipped).min(n);
        spill.skipped += header;
        let (statements, window) = (&self.statements, self.answers.window());
        let types_of = |name: &[u8]| {
            let statement = statements.latest(name, window).known();
            statement.map(|s| s.types.borrow().clone()).unwrap_or_default()
        };
        spill.reader.feed(part.get(header..).unwrap_or_default(), &types_of).map_err(client_error)?;
        spill.left -= n;
        if spill.left > 0 {
            pipe.replace(n, Vec::new());
            self.client_within = Within::Spilling(spill);
            return Ok(n);
        }
        let Spill { kind, frame, store, reader, .. } = *spill;
        if reader.field != Field::End {
            return Err(client_error(reader.malformed("ends too early")));
        }
        let instead = match store {
            Some(store) => {
                self.long_statement(kind, reader, None)?;
                self.client_within = Within::Returning(Box::new(store.rewound().map_err(End::Spill)?));
                Vec::new()
            }
            None => self.refuse_long(kind, frame, reader)?,
        };
        pipe.replace(n, instead);
        Ok(n)
    }

    /// Sends the next piece of a message that was kept aside.
    pub(super) fn send_back(&mut self, mut store: Box<Store>, pipe: &mut Pipe) -> Result<usize, End> {
        if !pipe.outgoing().is_empty() {
            self.client_within = Within::Returning(store);
            return Ok(0);
        }
        match store.next().map_err(End::Spill)? {
            None => Ok(1),
            Some(piece) => {
                let n = piece.len();
                pipe.replace(0, piece);
                self.client_within = Within::Returning(store);
                Ok(n)
            }
        }
    }

    fn refuse_long(&mut self, kind: Kind, frame: usize, reader: Reader) -> Result<Vec<u8>, End> {
        let limit = self.max_statement_bytes;
        let mut poison = Vec::new();
        let name = |at: usize| reader.names.get(at).cloned().unwrap_or_default();
        match kind {
            Kind::Parse => frontend::put_parse(&mut poison, &name(0), POISON),
            Kind::Bind => frontend::put_bind(&mut poison, &name(0), &poison_name()?),
            Kind::FunctionCall => frontend::put_function_call(&mut poison, 0),
            _ => frontend::put_query(&mut poison, POISON),
        }
        let refusal = Refusal {
            sqlstate: "54000",
            message: format!("bodycam: a message of {frame} bytes is longer than {limit} bytes"),
            hint: "use COPY for bulk data, or raise postgres.max_statement_bytes",
        };
        self.limit_reached("statement-bytes", limit, frame, "refused")?;
        self.long_statement(kind, reader, Some(Box::new(refusal)))?;
        Ok(poison)
    }

    fn long_statement(
        &mut self,
        kind: Kind,
        reader: Reader,
        refusal: Option<Box<Refusal>>,
    ) -> Result<(), End> {
        let digest = Digest(*reader.hasher.finalize().as_bytes());
        let name = |at: usize| reader.names.get(at).map(Vec::as_slice).unwrap_or_default();
        match kind {
            Kind::Query | Kind::Parse => {
                let beginning = String::from_utf8_lossy(&reader.text);
                let strings = self.settings.standard_conforming_strings;
                let kept = redact_secrets(&beginning, strings, false, &|_| Vec::new()).text.into_owned();
                let facts = Arc::new(Facts::unparsed("too-large"));
                let text = self.text_of(kept.as_bytes(), reader.text_bytes, digest);
                match kind {
                    Kind::Query => self.query(facts, &text, refusal),
                    _ => self.parse(name(0), reader.types.clone(), facts, text, refusal),
                }
            }
            _ => {
                // Its values were read one by one: where any is a secret, none is kept.
                let secret = match kind {
                    Kind::Bind => match self.statement_named(name(1)).flatten() {
                        Some(statement) => statement.facts.secret_parameters.clone(),
                        None => SecretParameters::All,
                    },
                    _ => secret_arguments(reader.oid),
                };
                let keep = secret == SecretParameters::None && !is_secret_value(&reader.encoded);
                let arguments = Arguments {
                    count: count(reader.values),
                    bytes: count(reader.value_bytes),
                    digest: (reader.values > 0).then_some(digest),
                    encoded: if keep { reader.encoded.clone() } else { Vec::new() },
                    cut: reader.cut || !keep,
                };
                match kind {
                    Kind::Bind => {
                        self.bind(name(0), name(1), reader.result_formats.clone(), arguments, refusal)
                    }
                    _ => self.call(reader.oid, arguments, refusal),
                }
            }
        }
    }
}

impl Reader {
    fn new(kind: Kind, keep: usize, hasher: blake3::Hasher) -> Self {
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

    fn malformed(&self, what: &'static str) -> FrameError {
        let message = match self.kind {
            Kind::Query => "Query",
            Kind::Parse => "Parse",
            Kind::Bind => "Bind",
            _ => "FunctionCall",
        };
        FrameError::Malformed { message, what }
    }

    /// Reads the next bytes. `types_of` knows the parameter types of a statement.
    fn feed(&mut self, mut bytes: &[u8], types_of: &dyn Fn(&[u8]) -> Vec<u32>) -> Result<(), FrameError> {
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

    /// The canonical form of a value is digested as [`Session::arguments`] does for messages held whole.
    fn value_begins(&mut self, length: i32) -> Result<(), FrameError> {
        let index = self.values;
        let type_oid = self.types.get(index).copied().map_or(0, i64::from);
        let format = Formats::of(&self.formats).at(index);
        let length = match length {
            -1 => None,
            n => Some(usize::try_from(n).map_err(|_| self.malformed("negative length"))?),
        };
        let mut w = bodycam_record::canonical::Writer::new();
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

impl Store {
    fn new(dir: &Path) -> io::Result<Self> {
        let mut random = [0; 48];
        getrandom::fill(&mut random).map_err(io::Error::other)?;
        let (name, seed) = random.split_at(16);
        let path = dir.join(format!("spill-{}", bodycam_record::ids::to_hex(name)));
        let mut open = OpenOptions::new();
        let file = open.read(true).write(true).create_new(true).mode(0o600).open(&path)?;
        // Nobody else can open it, and it is gone when this process is.
        std::fs::remove_file(&path)?;
        let key = SessionKey::new(seed.try_into().map_err(io::Error::other)?);
        Ok(Self { file, key, buffer: Vec::new(), pieces: 0, read: 0 })
    }

    fn put(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let room = MAX_CHUNK - self.buffer.len();
            let part = bytes.get(..room).unwrap_or(bytes);
            self.buffer.extend_from_slice(part);
            bytes = bytes.get(part.len()..).unwrap_or_default();
            if self.buffer.len() == MAX_CHUNK {
                self.seal()?;
            }
        }
        Ok(())
    }

    fn seal(&mut self) -> io::Result<()> {
        let kind = ContentKind::SqlText;
        let sealed = seal_chunk(&self.key, SessionId::default(), 0, self.pieces, kind, &self.buffer).sealed;
        self.buffer.clear();
        self.pieces += 1;
        let length = u32::try_from(sealed.len()).map_err(io::Error::other)?;
        self.file.write_all(&length.to_le_bytes())?;
        self.file.write_all(&sealed)
    }

    fn rewound(mut self) -> io::Result<Self> {
        if !self.buffer.is_empty() {
            self.seal()?;
        }
        self.buffer = Vec::new();
        self.file.rewind()?;
        Ok(self)
    }

    fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        if self.read == self.pieces {
            return Ok(None);
        }
        let mut length = [0; 4];
        self.file.read_exact(&mut length)?;
        let mut sealed = vec![0; usize::try_from(u32::from_le_bytes(length)).map_err(io::Error::other)?];
        self.file.read_exact(&mut sealed)?;
        let (session, kind) = (SessionId::default(), ContentKind::SqlText.code());
        let chunk = SealedChunk { session, content_no: 0, index: self.read, kind, sealed };
        self.read += 1;
        chunk.open(&self.key).map(|chunk| Some(chunk.bytes)).map_err(io::Error::other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(kind: Kind, body: &[u8], pieces: usize) -> Result<Reader, FrameError> {
        let mut reader = Reader::new(kind, HELD, SessionKey::new([1; 32]).hasher());
        for part in body.chunks(pieces) {
            reader.feed(part, &|_| vec![23, 25])?;
        }
        Ok(reader)
    }

    #[test]
    fn what_was_kept_aside_comes_back_and_the_disk_never_saw_it() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::new(dir.path()).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "the file has no name");
        let bytes: Vec<u8> = (0..700_000u32).flat_map(|n| n.to_le_bytes()).collect();
        for part in bytes.chunks(100_001) {
            store.put(part).unwrap();
        }
        let mut store = store.rewound().unwrap();
        let mut back = Vec::new();
        while let Some(piece) = store.next().unwrap() {
            back.extend_from_slice(&piece);
        }
        assert_eq!(back, bytes);
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
            let binds: Vec<_> = values.iter().enumerate().map(|(i, v)| bodycam_record::content::structured::Bind {
                type_oid: [23, 25].get(i).copied().unwrap_or(0),
                format: held.formats.at(i),
                value: v.as_ref().map(|v| v.as_bytes().to_vec()),
            }).collect();
            let canonical = bodycam_record::content::structured::encode_binds(&binds);
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
