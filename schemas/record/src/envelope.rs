//! The fixed part of every event, and the event itself.

use crate::canonical::{DecodeError, Writer};
use crate::digest::{self, Digest};
use crate::ids::{Id16, PrincipalRef, SessionId};
use crate::kinds::{Body, KindTable};

/// Version of the envelope's field list.
pub const SCHEMA_VERSION: i64 = 1;

/// The fixed part of an event: hashed directly, never changed when a kind is added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// Hash suite, [`digest::SUITE`].
    pub suite: i64,
    /// [`SCHEMA_VERSION`].
    pub schema_version: i64,
    /// Producer that recorded it.
    pub producer: String,
    /// Epoch of the producer.
    pub epoch: i64,
    /// Session it belongs to.
    pub session: SessionId,
    /// Number in the session, from 0 without gaps.
    pub seq: i64,
    /// Wall time, Unix nanoseconds.
    pub ts_wall_ns: i64,
    /// Monotonic time since the gateway process started, nanoseconds.
    pub ts_mono_ns: i64,
    /// Code of the kind.
    pub kind: i64,
    /// Version of the kind's field list.
    pub kind_version: i64,
    /// The event that this one answers.
    pub parent_seq: Option<i64>,
    /// Pseudonym of the principal.
    pub principal_ref: PrincipalRef,
    /// Name of the target in the configuration.
    pub target: String,
    /// Digest of the policy in force.
    pub policy_digest: Digest,
    /// Digest of the body.
    pub body_digest: Digest,
    /// Number of the content in the session, from 0; its chunks carry it.
    pub content_no: Option<i64>,
    /// Commitment to the content, if there is any.
    pub content: Option<Digest>,
    /// Hash of the event before it; the genesis for `seq` 0.
    pub prev: Digest,
}

impl Envelope {
    /// Appends the canonical bytes that are hashed.
    pub fn put(&self, w: &mut Writer) {
        w.int(self.suite);
        w.int(self.schema_version);
        w.bytes(self.producer.as_bytes());
        w.int(self.epoch);
        w.bytes(&self.session.0);
        w.int(self.seq);
        w.int(self.ts_wall_ns);
        w.int(self.ts_mono_ns);
        w.int(self.kind);
        w.int(self.kind_version);
        crate::value::put_field(w, &self.parent_seq);
        w.bytes(&self.principal_ref.0);
        w.bytes(self.target.as_bytes());
        w.bytes(&self.policy_digest.0);
        w.bytes(&self.body_digest.0);
        crate::value::put_field(w, &self.content_no);
        crate::value::put_field(w, &self.content);
        w.bytes(&self.prev.0);
    }

    /// The hash of the event.
    pub fn hash(&self) -> Digest {
        let mut w = Writer::new();
        self.put(&mut w);
        digest::EVENT.digest(w.as_slice())
    }
}

/// What a session's recorder says about a new event; the chain adds the rest.
#[derive(Debug, Clone)]
pub struct Draft {
    /// Wall time, Unix nanoseconds.
    pub ts_wall_ns: i64,
    /// Monotonic time, nanoseconds.
    pub ts_mono_ns: i64,
    /// The event that this one answers.
    pub parent_seq: Option<i64>,
    /// The body.
    pub body: Body,
    /// Number and commitment of the content.
    pub content: Option<(i64, Digest)>,
}

/// A recorded event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The envelope, `prev` included.
    pub envelope: Envelope,
    /// Canonical bytes of the body.
    pub body: Vec<u8>,
    /// The hash as stated by whoever stored it; recompute before trusting it.
    pub hash: Digest,
}

impl Event {
    /// The body, typed.
    pub fn decode_body(&self) -> Result<Body, DecodeError> {
        Body::decode(self.envelope.kind, self.envelope.kind_version, &self.body)
    }

    /// The declaration of its kind.
    pub fn table(&self) -> Result<&'static KindTable, DecodeError> {
        KindTable::of(self.envelope.kind)
            .ok_or(DecodeError::Unknown { what: "event kind", code: self.envelope.kind })
    }
}

/// A keyed 16-byte reference that stands for a text in clear columns.
pub fn keyed16(key: &[u8; 32], text: &[u8]) -> Id16 {
    let full = blake3::keyed_hash(key, text);
    let mut out = [0; 16];
    for (o, b) in out.iter_mut().zip(full.as_bytes()) {
        *o = *b;
    }
    Id16(out)
}
