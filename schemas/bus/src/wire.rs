//! Record ⇄ protobuf.

use bodycam_record::canonical::DecodeError;
use bodycam_record::{Digest, Envelope, Event, Id16, LedgerRecord, SealedChunk, SessionId};
use prost::Message;

use crate::record::Record;

#[allow(clippy::all, missing_docs)]
mod proto {
    include!(concat!(env!("OUT_DIR"), "/bodycam.v1.rs"));
}

use proto::record::Record as Wire;

/// Appends the protobuf of `record`.
pub(crate) fn encode(record: &Record, out: &mut Vec<u8>) {
    let wire = match record {
        Record::Event(event) => Wire::Event(event_to_wire(event)),
        Record::Chunk(c) => Wire::Chunk(proto::Chunk {
            session: c.session.0.to_vec(),
            content_no: c.content_no,
            index: c.index,
            kind: c.kind,
            sealed: c.sealed.clone(),
        }),
        Record::Template { fingerprint, text } => {
            Wire::Template(proto::Template { fingerprint: fingerprint.0.to_vec(), text: text.clone() })
        }
        Record::Ledger(l) => Wire::Ledger(ledger_to_wire(l)),
        Record::Key { session, wrapped } => {
            Wire::Key(proto::Key { session: session.0.to_vec(), wrapped: wrapped.clone() })
        }
        Record::Name { principal_ref, wrapped } => {
            Wire::Name(proto::Name { principal_ref: principal_ref.0.to_vec(), wrapped: wrapped.clone() })
        }
        Record::State(state) => Wire::State(proto::State { state: state.clone() }),
    };
    proto::Record { record: Some(wire) }.encode_raw(out);
}

/// The record that protobuf bytes hold.
pub(crate) fn decode(bytes: &[u8]) -> Result<Record, DecodeError> {
    let malformed = DecodeError::Malformed { expected: "bus record" };
    let record = proto::Record::decode(bytes).map_err(|_| malformed.clone())?;
    Ok(match record.record.ok_or(malformed)? {
        Wire::Event(e) => Record::Event(Box::new(event_from_wire(e)?)),
        Wire::Chunk(c) => Record::Chunk(SealedChunk {
            session: session(&c.session)?,
            content_no: c.content_no,
            index: c.index,
            kind: c.kind,
            sealed: c.sealed,
        }),
        Wire::Template(t) => Record::Template { fingerprint: id(&t.fingerprint)?, text: t.text },
        Wire::Ledger(l) => Record::Ledger(Box::new(ledger_from_wire(l)?)),
        Wire::Key(k) => Record::Key { session: session(&k.session)?, wrapped: k.wrapped },
        Wire::Name(n) => Record::Name { principal_ref: id(&n.principal_ref)?, wrapped: n.wrapped },
        Wire::State(s) => Record::State(s.state),
    })
}

fn session(bytes: &[u8]) -> Result<SessionId, DecodeError> {
    SessionId::try_from(bytes)
}

fn id(bytes: &[u8]) -> Result<Id16, DecodeError> {
    Id16::try_from(bytes)
}

fn digest(bytes: &[u8]) -> Result<Digest, DecodeError> {
    Digest::try_from(bytes)
}

fn event_to_wire(event: &Event) -> proto::Event {
    let e = &event.envelope;
    proto::Event {
        suite: e.suite,
        schema_version: e.schema_version,
        producer: e.producer.clone(),
        epoch: e.epoch,
        session: e.session.0.to_vec(),
        seq: e.seq,
        ts_wall_ns: e.ts_wall_ns,
        ts_mono_ns: e.ts_mono_ns,
        kind: e.kind,
        kind_version: e.kind_version,
        parent_seq: e.parent_seq,
        principal_ref: e.principal_ref.0.to_vec(),
        target: e.target.clone(),
        policy_digest: e.policy_digest.0.to_vec(),
        body_digest: e.body_digest.0.to_vec(),
        content_no: e.content_no,
        content: e.content.map(|d| d.0.to_vec()),
        prev: e.prev.0.to_vec(),
        body: event.body.clone(),
        hash: event.hash.0.to_vec(),
    }
}

fn event_from_wire(e: proto::Event) -> Result<Event, DecodeError> {
    Ok(Event {
        envelope: Envelope {
            suite: e.suite,
            schema_version: e.schema_version,
            producer: e.producer,
            epoch: e.epoch,
            session: session(&e.session)?,
            seq: e.seq,
            ts_wall_ns: e.ts_wall_ns,
            ts_mono_ns: e.ts_mono_ns,
            kind: e.kind,
            kind_version: e.kind_version,
            parent_seq: e.parent_seq,
            principal_ref: id(&e.principal_ref)?,
            target: e.target,
            policy_digest: digest(&e.policy_digest)?,
            body_digest: digest(&e.body_digest)?,
            content_no: e.content_no,
            content: e.content.as_deref().map(digest).transpose()?,
            prev: digest(&e.prev)?,
        },
        body: e.body,
        hash: digest(&e.hash)?,
    })
}

fn ledger_to_wire(l: &LedgerRecord) -> proto::Ledger {
    proto::Ledger {
        suite: l.suite,
        schema_version: l.schema_version,
        producer: l.producer.clone(),
        epoch: l.epoch,
        seq: l.seq,
        ts_wall_ns: l.ts_wall_ns,
        kind: l.kind,
        kind_version: l.kind_version,
        body: l.body.clone(),
        body_digest: l.body_digest.0.to_vec(),
        prev: l.prev.0.to_vec(),
        hash: l.hash.0.to_vec(),
        signature: l.signature.clone(),
    }
}

fn ledger_from_wire(l: proto::Ledger) -> Result<LedgerRecord, DecodeError> {
    Ok(LedgerRecord {
        suite: l.suite,
        schema_version: l.schema_version,
        producer: l.producer,
        epoch: l.epoch,
        seq: l.seq,
        ts_wall_ns: l.ts_wall_ns,
        kind: l.kind,
        kind_version: l.kind_version,
        body: l.body,
        body_digest: digest(&l.body_digest)?,
        prev: digest(&l.prev)?,
        hash: digest(&l.hash)?,
        signature: l.signature,
    })
}
