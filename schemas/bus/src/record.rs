//! What travels: the union of everything that a producer writes.

use bodycam_record::canonical::DecodeError;
use bodycam_record::{Event, Fingerprint, LedgerRecord, PrincipalRef, SealedChunk, SessionId};

use crate::wire;

/// A record on the bus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// An event of a session.
    Event(Box<Event>),
    /// A piece of an event's content; travels before its event, on the same stream.
    Chunk(SealedChunk),
    /// Literal-free statement text behind a fingerprint.
    Template {
        /// The fingerprint.
        fingerprint: Fingerprint,
        /// The text.
        text: String,
    },
    /// A record of the producer's ledger.
    Ledger(Box<LedgerRecord>),
    /// A session key, wrapped under the tenant key.
    Key {
        /// The session.
        session: SessionId,
        /// The wrapped key.
        wrapped: Vec<u8>,
    },
    /// The name behind a pseudonym, wrapped under the tenant key.
    Name {
        /// The pseudonym.
        principal_ref: PrincipalRef,
        /// The wrapped name.
        wrapped: Vec<u8>,
    },
    /// What the producer itself needs to go on after a crash; everyone else skips it.
    State(Vec<u8>),
}

impl Record {
    /// Appends its protobuf (`schemas/proto/bodycam/v1/record.proto`).
    pub fn encode(&self, out: &mut Vec<u8>) {
        wire::encode(self, out);
    }

    /// The record that protobuf bytes hold. Hashes in it are as stated: recompute before trusting them.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        wire::decode(bytes)
    }
}
