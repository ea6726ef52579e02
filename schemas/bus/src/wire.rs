//! Record ⇄ protobuf.

use bodycam_record::canonical::DecodeError;
use bodycam_record::{Digest, Envelope, Event, Id16, LedgerRecord, SealedChunk, SessionId};
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint};

use crate::record::Record;

#[allow(clippy::all, missing_docs)]
#[cfg_attr(not(feature = "kafka"), allow(dead_code, reason = "batches travel over Kafka alone"))]
pub(crate) mod proto {
    include!(concat!(env!("OUT_DIR"), "/bodycam.v1.rs"));
}

use proto::record::Record as Wire;

/// Appends the protobuf of `record`, from borrowed bytes: what prost writes for the same message, without the
/// copies that its owned structs want.
pub(crate) fn encode(record: &Record, out: &mut Vec<u8>) {
    match record {
        Record::Event(event) => message(out, 1, |f| put_event(f, event)),
        Record::Chunk(c) => message(out, 2, |f| {
            f.bytes(1, &c.session.0);
            f.int(2, c.content_no);
            f.int(3, i64::from(c.index));
            f.int(4, c.kind);
            f.bytes(5, &c.sealed);
        }),
        Record::Template { fingerprint, text } => message(out, 3, |f| {
            f.bytes(1, &fingerprint.0);
            f.bytes(2, text.as_bytes());
        }),
        Record::Ledger(l) => message(out, 4, |f| put_ledger(f, l)),
        Record::Key { session, wrapped } => message(out, 5, |f| {
            f.bytes(1, &session.0);
            f.bytes(2, wrapped);
        }),
        Record::Name { principal_ref, wrapped } => message(out, 6, |f| {
            f.bytes(1, &principal_ref.0);
            f.bytes(2, wrapped);
        }),
        Record::State(state) => message(out, 7, |f| f.bytes(1, state)),
    }
}

/// The fields of a message, in the order of their numbers; proto3 leaves out what is zero or empty.
struct Fields<'a>(&'a mut Vec<u8>);

impl Fields<'_> {
    fn int(&mut self, number: u32, value: i64) {
        if value != 0 {
            self.present_int(number, Some(value));
        }
    }

    fn present_int(&mut self, number: u32, value: Option<i64>) {
        if let Some(value) = value {
            encode_key(number, WireType::Varint, self.0);
            // Two's complement, as protobuf has int64.
            encode_varint(value.cast_unsigned(), self.0);
        }
    }

    fn fixed(&mut self, number: u32, value: i64) {
        if value != 0 {
            encode_key(number, WireType::SixtyFourBit, self.0);
            self.0.extend_from_slice(&value.to_le_bytes());
        }
    }

    fn bytes(&mut self, number: u32, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.present_bytes(number, Some(bytes));
        }
    }

    fn present_bytes(&mut self, number: u32, bytes: Option<&[u8]>) {
        if let Some(bytes) = bytes {
            encode_key(number, WireType::LengthDelimited, self.0);
            encode_varint(bytes.len() as u64, self.0);
            self.0.extend_from_slice(bytes);
        }
    }
}

/// Appends message `number` of the union, whose fields are written by `fields`.
fn message(out: &mut Vec<u8>, number: u32, fields: impl FnOnce(&mut Fields<'_>)) {
    let at = out.len();
    fields(&mut Fields(out));
    let end = out.len();
    encode_key(number, WireType::LengthDelimited, out);
    encode_varint((end - at) as u64, out);
    let head = out.len() - end;
    // The length goes in front: it is known only now.
    if let Some(written) = out.get_mut(at..) {
        written.rotate_right(head);
    }
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

fn put_event(f: &mut Fields<'_>, event: &Event) {
    let e = &event.envelope;
    f.int(1, e.suite);
    f.int(2, e.schema_version);
    f.bytes(3, e.producer.as_bytes());
    f.int(4, e.epoch);
    f.bytes(5, &e.session.0);
    f.int(6, e.seq);
    f.fixed(7, e.ts_wall_ns);
    f.fixed(8, e.ts_mono_ns);
    f.int(9, e.kind);
    f.int(10, e.kind_version);
    f.present_int(11, e.parent_seq);
    f.bytes(12, &e.principal_ref.0);
    f.bytes(13, e.target.as_bytes());
    f.bytes(14, &e.policy_digest.0);
    f.bytes(15, &e.body_digest.0);
    f.present_bytes(16, e.content.as_ref().map(|d| d.0.as_slice()));
    f.bytes(17, &e.prev.0);
    f.bytes(18, &event.body);
    f.bytes(19, &event.hash.0);
    f.present_int(20, e.content_no);
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

fn put_ledger(f: &mut Fields<'_>, l: &LedgerRecord) {
    f.int(1, l.suite);
    f.int(2, l.schema_version);
    f.bytes(3, l.producer.as_bytes());
    f.int(4, l.epoch);
    f.int(5, l.seq);
    f.fixed(6, l.ts_wall_ns);
    f.int(7, l.kind);
    f.int(8, l.kind_version);
    f.bytes(9, &l.body);
    f.bytes(10, &l.body_digest.0);
    f.bytes(11, &l.prev.0);
    f.bytes(12, &l.hash.0);
    f.bytes(13, &l.signature);
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

#[cfg(test)]
mod tests {
    use super::*;
    use bodycam_record::Fingerprint;
    use proptest::prelude::*;

    fn number() -> impl Strategy<Value = i64> {
        prop_oneof![Just(0), Just(-1), Just(i64::MIN), Just(i64::MAX), any::<i64>(), 0i64..300]
    }

    fn some_bytes() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            Just(Vec::new()),
            proptest::collection::vec(any::<u8>(), 0..40),
            proptest::collection::vec(any::<u8>(), 120..300),
        ]
    }

    fn event() -> impl Strategy<Value = Record> {
        let numbers = proptest::collection::vec(number(), 9);
        let ids = (any::<[u8; 16]>(), any::<[u8; 16]>(), proptest::collection::vec(any::<[u8; 32]>(), 4));
        let texts = ("\\PC{0,12}", "\\PC{0,12}");
        let absent =
            (proptest::option::of(number()), proptest::option::of(number()), any::<Option<[u8; 32]>>());
        (numbers, ids, texts, absent, some_bytes()).prop_map(
            |(n, (session, principal, d), (producer, target), a, body)| {
                let envelope = Envelope {
                    suite: n[0],
                    schema_version: n[1],
                    producer,
                    epoch: n[2],
                    session: SessionId(session),
                    seq: n[3],
                    ts_wall_ns: n[4],
                    ts_mono_ns: n[5],
                    kind: n[6],
                    kind_version: n[7],
                    parent_seq: a.0,
                    principal_ref: Id16(principal),
                    target,
                    policy_digest: Digest(d[0]),
                    body_digest: Digest(d[1]),
                    content_no: a.1,
                    content: a.2.map(Digest),
                    prev: Digest(d[2]),
                };
                Record::Event(Box::new(Event { envelope, body, hash: Digest(d[3]) }))
            },
        )
    }

    fn ledger() -> impl Strategy<Value = Record> {
        let bytes = (some_bytes(), some_bytes(), "\\PC{0,12}");
        let digests = proptest::collection::vec(any::<[u8; 32]>(), 3);
        (proptest::collection::vec(number(), 7), bytes, digests).prop_map(
            |(n, (body, signature, producer), d)| {
                Record::Ledger(Box::new(LedgerRecord {
                    suite: n[0],
                    schema_version: n[1],
                    producer,
                    epoch: n[2],
                    seq: n[3],
                    ts_wall_ns: n[4],
                    kind: n[5],
                    kind_version: n[6],
                    body,
                    body_digest: Digest(d[0]),
                    prev: Digest(d[1]),
                    hash: Digest(d[2]),
                    signature,
                }))
            },
        )
    }

    fn record() -> impl Strategy<Value = Record> {
        let chunk = (any::<[u8; 16]>(), number(), any::<u32>(), number(), some_bytes());
        let keyed = (any::<[u8; 16]>(), some_bytes(), "\\PC{0,12}", 0..4);
        prop_oneof![
            event(),
            ledger(),
            chunk.prop_map(|(session, content_no, index, kind, sealed)| {
                Record::Chunk(SealedChunk { session: SessionId(session), content_no, index, kind, sealed })
            }),
            keyed.prop_map(|(id, bytes, text, which)| match which {
                0 => Record::Template { fingerprint: Fingerprint::from(Id16(id)), text },
                1 => Record::Key { session: SessionId(id), wrapped: bytes },
                2 => Record::Name { principal_ref: Id16(id), wrapped: bytes },
                _ => Record::State(bytes),
            }),
        ]
    }

    proptest! {
        #[test]
        fn a_record_comes_back_from_what_prost_itself_would_write(record in record()) {
            let mut ours = b"before".to_vec();
            encode(&record, &mut ours);
            let ours = ours.strip_prefix(b"before").unwrap();
            prop_assert_eq!(decode(ours).unwrap(), record);
            prop_assert_eq!(proto::Record::decode(ours).unwrap().encode_to_vec(), ours);
        }
    }
}
