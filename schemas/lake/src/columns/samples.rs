//! Events of every kind with chance values, for the tests of this crate.

use bodycam_record::canonical::Writer;
use bodycam_record::digest::SUITE;
use bodycam_record::envelope::SCHEMA_VERSION;
use bodycam_record::kinds::TABLES;
use bodycam_record::value::{Type, Value};
use bodycam_record::{Body, Digest, Envelope, Event, Family, Id16, KindTable, LedgerRecord, SessionId};
use proptest::prelude::*;

fn value(ty: Type) -> BoxedStrategy<Value> {
    let text = "\\PC{0,12}|[\\x00-\\x7f]{0,8}";
    match ty {
        Type::Bool => any::<bool>().prop_map(Value::Bool).boxed(),
        Type::Int => any::<i64>().prop_map(Value::Int).boxed(),
        Type::Text => text.prop_map(Value::Text).boxed(),
        Type::Bytes => proptest::collection::vec(any::<u8>(), 0..70).prop_map(Value::Bytes).boxed(),
        Type::Id16 => any::<[u8; 16]>().prop_map(|b| Value::Id16(Id16(b))).boxed(),
        Type::Digest => any::<[u8; 32]>().prop_map(|b| Value::Digest(Digest(b))).boxed(),
        Type::IntList => proptest::collection::vec(any::<i64>(), 0..4).prop_map(Value::IntList).boxed(),
        Type::TextList => proptest::collection::vec(text, 0..4).prop_map(Value::TextList).boxed(),
    }
}

/// A body of a kind.
pub fn body(table: &'static KindTable) -> BoxedStrategy<Body> {
    let fields: Vec<_> = table
        .fields
        .iter()
        .map(|f| match f.optional {
            true => prop_oneof![Just(Value::Absent), value(f.ty)].boxed(),
            false => value(f.ty),
        })
        .collect();
    fields.prop_map(|values| Body::from_values(table.code, table.version, values).unwrap()).boxed()
}

fn kind_in(family: Family) -> BoxedStrategy<&'static KindTable> {
    let tables: Vec<_> = TABLES.iter().copied().filter(|t| t.family == family).collect();
    proptest::sample::select(tables).boxed()
}

/// An event of a family, with a hash that fits.
pub fn event(family: Family) -> BoxedStrategy<Event> {
    let envelope = (
        any::<[u8; 16]>(),
        any::<[i64; 4]>(),
        proptest::option::of(any::<i64>()),
        any::<[u8; 16]>(),
        "[a-z]{1,5}",
        proptest::option::of(any::<(i64, [u8; 32])>()),
        any::<[u8; 32]>(),
    );
    (kind_in(family).prop_flat_map(body), envelope)
        .prop_map(
            |(body, (session, [epoch, seq, wall, mono], parent_seq, principal, name, content, prev))| {
                let table = body.table();
                let body = body.canonical();
                let envelope = Envelope {
                    suite: SUITE,
                    schema_version: SCHEMA_VERSION,
                    producer: name.clone(),
                    epoch,
                    session: SessionId(session),
                    seq,
                    ts_wall_ns: wall,
                    ts_mono_ns: mono,
                    kind: table.code,
                    kind_version: table.version,
                    parent_seq,
                    principal_ref: Id16(principal),
                    target: name,
                    policy_digest: Digest(prev),
                    body_digest: table.body_digest(&body),
                    content_no: content.map(|(no, _)| no),
                    content: content.map(|(_, commitment)| Digest(commitment)),
                    prev: Digest(prev),
                };
                let hash = envelope.hash();
                Event { envelope, body, hash }
            },
        )
        .boxed()
}

/// A ledger record with a hash that fits.
pub fn ledger_record() -> BoxedStrategy<LedgerRecord> {
    (kind_in(Family::Ledger).prop_flat_map(body), any::<[i64; 3]>(), "[a-z]{1,5}", any::<[u8; 32]>())
        .prop_map(|(body, [epoch, seq, ts_wall_ns], producer, prev)| {
            let table = body.table();
            let body = body.canonical();
            let mut record = LedgerRecord {
                suite: SUITE,
                schema_version: SCHEMA_VERSION,
                producer,
                epoch,
                seq,
                ts_wall_ns,
                kind: table.code,
                kind_version: table.version,
                body_digest: table.body_digest(&body),
                body,
                prev: Digest(prev),
                hash: Digest::ZERO,
                signature: prev.repeat(2),
            };
            record.hash = record.compute_hash();
            record
        })
        .boxed()
}

/// Canonical bytes of an envelope, for comparing.
pub fn canonical(envelope: &Envelope) -> Vec<u8> {
    let mut w = Writer::new();
    envelope.put(&mut w);
    w.into_vec()
}
