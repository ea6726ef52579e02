//! A client's message that is too long to be held: it is read once while it comes in, kept aside encrypted,
//! and sent on when its event is in the spool; or, beyond `max_statement_bytes`, dropped and refused.
//!
//! Invariant: memory holds its beginning only, whatever length it has.

use std::io;
use std::path::Path;
use std::sync::Arc;

use bodycam_record::Digest;

use super::answers::Refusal;
use super::client::{client_error, secret_arguments};
use super::end::End;
use super::pipe::Pipe;
use super::record::{Arguments, count};
use super::session::{Session, Within};
use crate::postgres::codec::HEADER;
use crate::postgres::codec::frontend::{self, Kind};
use crate::postgres::inspect::redact::{is_secret_value, redact_secrets};
use crate::postgres::inspect::{Facts, SecretParameters};

pub(in crate::postgres) mod quota;
mod reader;
mod store;

pub(super) use store::Store;

use quota::Room;
use reader::{Field, Reader};

/// Longest message that is held whole.
pub(super) const HELD: usize = 1 << 20;

/// What a refused statement becomes: a text that no server can parse, so that it refuses for us.
const POISON: &[u8] = b"bodycam refused this statement";

/// A message that comes in.
pub(super) struct Spill {
    kind: Kind,
    /// Bytes of the whole frame.
    frame: usize,
    left: usize,
    skipped: usize,
    store: Option<Store>,
    /// Why it is refused, when it is.
    refused: &'static str,
    reader: Reader,
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
        room: Option<Room>,
    ) -> io::Result<Self> {
        let refused = if dir.is_some() { "kept-aside" } else { "statement-bytes" };
        let store = match (dir, room) {
            (Some(dir), Some(room)) => Some(Store::new(dir, Some(room))?),
            _ => None,
        };
        let frame = HEADER + body;
        Ok(Self {
            kind,
            frame,
            left: frame,
            skipped: 0,
            store,
            refused,
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
        let Spill { kind, frame, store, refused, reader, .. } = *spill;
        if reader.field != Field::End {
            return Err(client_error(reader.malformed("ends too early")));
        }
        let instead = match store {
            Some(store) => {
                self.long_statement(kind, reader, None)?;
                self.client_within = Within::Returning(Box::new(store.rewound().map_err(End::Spill)?));
                Vec::new()
            }
            None => self.refuse_long(kind, frame, refused, reader)?,
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

    fn refuse_long(
        &mut self,
        kind: Kind,
        frame: usize,
        why: &'static str,
        reader: Reader,
    ) -> Result<Vec<u8>, End> {
        let limit = self.max_statement_bytes;
        let mut poison = Vec::new();
        let name = |at: usize| reader.names.get(at).cloned().unwrap_or_default();
        match kind {
            Kind::Parse => frontend::put_parse(&mut poison, &name(0), POISON),
            Kind::Bind => frontend::put_bind(&mut poison, &name(0), &poison_name()?),
            Kind::FunctionCall => frontend::put_function_call(&mut poison, 0),
            _ => frontend::put_query(&mut poison, POISON),
        }
        let refusal = match why {
            "kept-aside" => Refusal {
                sqlstate: "53400",
                message: format!("bodycam: too many long messages at a time to keep {frame} bytes more"),
                hint: "send them one after the other, or use COPY for bulk data",
            },
            _ => Refusal {
                sqlstate: "54000",
                message: format!("bodycam: a message of {frame} bytes is longer than {limit} bytes"),
                hint: "use COPY for bulk data, or raise postgres.max_statement_bytes",
            },
        };
        self.limit_reached(why, limit, frame, "refused")?;
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
                        Some(statement) => statement.facts().secret_parameters.clone(),
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

/// The name of a statement that a refused Bind asks for: nobody can have prepared what nobody can guess.
fn poison_name() -> Result<Vec<u8>, End> {
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(|e| End::Spill(io::Error::other(e)))?;
    Ok(format!("bodycam refused {}", bodycam_record::ids::to_hex(&random)).into_bytes())
}
