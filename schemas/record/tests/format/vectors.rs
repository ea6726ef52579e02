//! The test vectors in `schemas/vectors/`: inputs in plain fields, what they must hash, sign or encrypt to,
//! and nothing that needs this code to be read.

use std::collections::BTreeMap;

use bodycam_record::canonical::Writer;
use bodycam_record::chain::Genesis;
use bodycam_record::content::{Commitment, seal_chunk, structured};
use bodycam_record::ids::to_hex;
use bodycam_record::kinds::{Family, KindTable, TABLES};
use bodycam_record::ledger::{LedgerEnd, Start, open_heads_digest};
use bodycam_record::merkle::{Merkle, Side, inclusion_path};
use bodycam_record::rule::{ParamValue, Rule, finding_id};
use bodycam_record::value::{Type, Value};
use bodycam_record::{
    Body, Chain, ContentKind, Digest, Draft, EpochKey, Id16, Ledger, LedgerRecord, ProducerKey, Seal,
    SealReason, SessionId, SessionKey, TenantKey, digest, key,
};
use serde_json::{Value as Json, json};

use super::{is_current, root};

const WALL: i64 = 1_795_255_200_000_000_000;
const PRODUCER: &str = "gw-1";

#[test]
fn vectors_are_current() {
    for (name, vectors) in [
        ("bodies", bodies()),
        ("chain", chain()),
        ("merkle", merkle()),
        ("content", content()),
        ("keys", keys()),
        ("seals", seals()),
        ("ledger", ledger()),
        ("rules", rules()),
    ] {
        let text = serde_json::to_string_pretty(&vectors).unwrap() + "\n";
        is_current(&root().join(format!("schemas/vectors/{name}.json")), &text, "make vectors");
    }
}

#[test]
fn a_program_written_from_the_documentation_alone_agrees_with_every_vector() {
    let python = std::env::var("BODYCAM_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let run = |args: &[&str]| std::process::Command::new(&python).args(args).output();
    let ready = run(&["-c", "import blake3, cryptography, zstandard"]).is_ok_and(|o| o.status.success());
    let ci = std::env::var_os("CI").is_some_and(|v| !v.is_empty());
    assert!(ready || !ci, "{python} needs blake3, cryptography and zstandard (`make python` installs them)");
    if !ready {
        eprintln!("skipped: {python} has no blake3, cryptography and zstandard");
        return;
    }
    let check = root().join("schemas/vectors/check.py");
    let agreed = run(&[check.to_str().unwrap()]).unwrap();
    assert!(agreed.status.success(), "{}", String::from_utf8_lossy(&agreed.stdout));

    let altered = tempdir("vectors-altered");
    for file in std::fs::read_dir(root().join("schemas/vectors")).unwrap().map(|f| f.unwrap().path()) {
        if file.extension().is_some_and(|e| e == "json") {
            let text = std::fs::read_to_string(&file).unwrap();
            let text =
                if file.ends_with("chain.json") { text.replacen("\"crm\"", "\"erm\"", 1) } else { text };
            std::fs::write(altered.join(file.file_name().unwrap()), text).unwrap();
        }
    }
    let noticed = run(&[check.to_str().unwrap(), "--vectors", altered.to_str().unwrap()]).unwrap();
    assert_eq!(noticed.status.code(), Some(1), "an altered vector must be noticed");
    std::fs::remove_dir_all(altered).unwrap();
}

fn tempdir(name: &str) -> std::path::PathBuf {
    let dir = std::env::temp_dir().join(format!("bodycam-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

/// A value of a field: different for each field, equal in each run.
fn sample(ty: Type, n: usize) -> Value {
    let byte = u8::try_from(n % 251).unwrap() + 1;
    let id16 = |n: u8| Id16([n; 16]);
    match ty {
        Type::Bool => Value::Bool(n.is_multiple_of(2)),
        Type::Int => Value::Int([0, 1, -1, 255, 256, i64::MAX, i64::MIN, WALL][n % 8]),
        Type::Text => Value::Text(
            ["select", "", "ä€漢\u{1f600}", "public.customers", "a\0b\n\u{202e}"][n % 5].to_owned(),
        ),
        Type::Bytes => Value::Bytes((0..byte % 70).collect()),
        Type::Id16 => Value::Id16(id16(byte)),
        Type::Digest => Value::Digest(Digest([byte; 32])),
        Type::IntList => Value::IntList([vec![], vec![0], vec![-1, i64::MIN, 16_385]][n % 3].clone()),
        Type::TextList => {
            let lists: [&[&str]; 3] = [&["public.customers", "public.orders"], &[], &["", "é"]];
            Value::TextList(lists[n % 3].iter().map(|s| (*s).to_owned()).collect())
        }
    }
}

fn json_of(value: &Value) -> Json {
    match value {
        Value::Absent => Json::Null,
        Value::Bool(v) => json!(v),
        Value::Int(v) => json!(v),
        Value::Text(v) => json!(v),
        Value::Bytes(v) => json!(to_hex(v)),
        Value::Id16(v) => json!(v.to_hex()),
        Value::Digest(v) => json!(v.to_hex()),
        Value::IntList(v) => json!(v),
        Value::TextList(v) => json!(v),
    }
}

fn fields_of(table: &KindTable, values: &[Value]) -> Json {
    let field = |(f, v): (&bodycam_record::kinds::Field, &Value)| json!({"name": f.name, "type": f.ty.name(), "optional": f.optional, "value": json_of(v)});
    table.fields.iter().zip(values).map(field).collect()
}

fn body_vector(table: &KindTable, values: Vec<Value>) -> Json {
    let body = Body::from_values(table.code, table.version, values.clone()).unwrap();
    let canonical = body.canonical();
    assert_eq!(Body::decode(table.code, table.version, &canonical).unwrap(), body);
    json!({
        "kind": table.name,
        "code": table.code,
        "version": table.version,
        "context": table.context().string,
        "fields": fields_of(table, &values),
        "canonical": to_hex(&canonical),
        "digest": table.body_digest(&canonical).to_hex(),
    })
}

/// Every kind, with all its fields and with every optional field absent.
fn bodies() -> Json {
    let mut out = Vec::new();
    for (i, table) in TABLES.iter().enumerate() {
        let full: Vec<_> = table.fields.iter().enumerate().map(|(j, f)| sample(f.ty, i + j)).collect();
        out.push(body_vector(table, full));
        if table.fields.iter().any(|f| f.optional) {
            let values = table.fields.iter().enumerate();
            let least = values.map(|(j, f)| if f.optional { Value::Absent } else { sample(f.ty, i + j + 1) });
            out.push(body_vector(table, least.collect()));
        }
    }
    Json::Array(out)
}

fn sample_body(name: &str) -> Body {
    let table = KindTable::named(name).unwrap();
    let values = table.fields.iter().enumerate().map(|(j, f)| sample(f.ty, j)).collect();
    Body::from_values(table.code, table.version, values).unwrap()
}

fn epoch_key() -> EpochKey {
    EpochKey::from_seed(&[0x22; 32])
}

/// One whole session: genesis, events, a checkpoint.
fn chain() -> Json {
    let session = SessionId::new(1_795_255_200_000, [7; 10]);
    let session_key = SessionKey::new([0x33; 32]);
    let Body::SessionOpened(mut opened) = sample_body("session.opened") else { panic!("a session.opened") };
    opened.key_digest = session_key.digest();
    opened.ledger_seq = 1;
    let policy_digest = digest::POLICY.digest(b"permit");
    let genesis = Genesis { producer: PRODUCER, epoch: 1, session, policy_digest, opened: &opened };
    let genesis_json = json!({
        "tenant": opened.tenant, "producer": PRODUCER, "epoch": 1, "session": session,
        "nonce": opened.nonce, "identity_digest": opened.identity_digest,
        "target_digest": opened.target_digest, "policy_digest": policy_digest,
        "key_digest": opened.key_digest, "ledger_seq": opened.ledger_seq, "digest": genesis.digest(),
    });
    let mut chain = Chain::start(&genesis, Id16([0x44; 16]), "crm");
    let mut events = Vec::new();
    let mut draft = |chain: &mut Chain, body: Body, parent_seq: Option<i64>, content| {
        let table = body.table();
        let values = body.values();
        let n = chain.next_seq();
        let (ts_wall_ns, ts_mono_ns) = (WALL + n * 1_000, n * 900);
        let event = chain.append(&Draft { ts_wall_ns, ts_mono_ns, parent_seq, body, content });
        let e = &event.envelope;
        let mut w = Writer::new();
        e.put(&mut w);
        events.push(json!({
            "envelope": {
                "suite": e.suite, "schema_version": e.schema_version, "producer": e.producer, "epoch": e.epoch,
                "session": e.session, "seq": e.seq, "ts_wall_ns": e.ts_wall_ns, "ts_mono_ns": e.ts_mono_ns,
                "kind": e.kind, "kind_version": e.kind_version, "parent_seq": e.parent_seq,
                "principal_ref": e.principal_ref, "target": e.target, "policy_digest": e.policy_digest,
                "body_digest": e.body_digest, "content_no": e.content_no, "content": e.content, "prev": e.prev,
            },
            "body": {
                "kind": table.name, "context": table.context().string,
                "fields": fields_of(table, &values), "canonical": to_hex(&event.body),
            },
            "canonical": to_hex(w.as_slice()),
            "hash": event.hash,
            "root": chain.root(),
        }));
    };
    let content = |no| {
        let mut commitment = Commitment::new(&session_key, no);
        commitment.add(ContentKind::SqlText, b"SELECT 1");
        Some((no, commitment.finish().unwrap()))
    };
    draft(&mut chain, opened.clone().into(), None, content(0));
    draft(&mut chain, sample_body("sql.statement"), None, content(1));
    draft(&mut chain, sample_body("sql.result"), Some(1), None);
    let (count, head, root) = (chain.next_seq(), chain.head(), chain.root());
    let signed = Seal::checkpoint(session, PRODUCER, 1, count, head, root, 1);
    let signature = epoch_key().sign(signed.digest());
    let checkpoint = bodycam_record::kinds::session::SessionCheckpoint { count, head, root, signature };
    draft(&mut chain, checkpoint.into(), None, None);
    draft(&mut chain, sample_body("session.closed"), None, None);
    json!({
        "session_key": to_hex(&[0x33; 32]),
        "epoch_public_key": epoch_key().public(),
        "open_seq": 1,
        "genesis": genesis_json,
        "events": events,
    })
}

fn merkle() -> Json {
    let hashes: Vec<Digest> = (0..11u8).map(|i| digest::EVENT.digest(&[i])).collect();
    let mut tree = Merkle::new();
    let mut roots = vec![tree.root()];
    for hash in &hashes {
        tree.push(*hash);
        roots.push(tree.root());
    }
    let path = |index| {
        let path = inclusion_path(&hashes, index).unwrap();
        let steps = path.iter().map(|(side, digest)| {
            json!({"side": if *side == Side::Left { "left" } else { "right" }, "digest": digest})
        });
        json!({"index": index, "steps": steps.collect::<Vec<_>>()})
    };
    json!({
        "event_hashes": hashes,
        "roots": roots,
        "paths": (0..hashes.len()).map(path).collect::<Vec<_>>(),
    })
}

fn content() -> Json {
    let session = SessionId([0x0c; 16]);
    let session_key = SessionKey::new([0x33; 32]);
    let long = b"repeat ".repeat(100);
    let binds = structured::encode_binds(&[
        structured::Bind { type_oid: 23, format: 1, value: Some(vec![0, 0, 0, 7]) },
        structured::Bind { type_oid: 0, format: 0, value: None },
    ]);
    let pairs = structured::encode_pairs([("client_address", &b"192.0.2.7"[..]), ("x", b"")]);
    let contents: [&[(ContentKind, &[u8])]; 3] = [
        &[(ContentKind::SqlText, b"SELECT $1")],
        &[(ContentKind::SqlText, &long), (ContentKind::Binds, &binds)],
        &[(ContentKind::SessionFacts, &pairs), (ContentKind::SessionFacts, b"")],
    ];
    let vector = |(no, parts): (i64, &[(ContentKind, &[u8])])| {
        let mut commitment = Commitment::new(&session_key, no);
        let mut chunks = Vec::new();
        for (kind, bytes) in parts {
            let index = commitment.count();
            commitment.add(*kind, bytes);
            let sealed = seal_chunk(&session_key, session, no, index, *kind, bytes);
            let opened = sealed.open(&session_key).unwrap();
            assert_eq!((opened.kind, opened.bytes.as_slice()), (*kind, *bytes));
            chunks.push(json!({
                "index": index, "kind": kind.code(), "kind_name": kind.name(),
                "bytes": to_hex(bytes), "sealed": to_hex(&sealed.sealed),
            }));
        }
        json!({
            "session": session, "content_no": no, "salt": to_hex(&session_key.salt(no)),
            "chunks": chunks, "commitment": commitment.finish(),
        })
    };
    json!({
        "session_key": to_hex(&[0x33; 32]),
        "contents": (0i64..).zip(contents).map(vector).collect::<Vec<_>>(),
        "binds": {
            "values": [{"type_oid": 23, "format": 1, "value": "00000007"}, {"type_oid": 0, "format": 0, "value": null}],
            "canonical": to_hex(&binds),
        },
        "pairs": {
            "values": [["client_address", to_hex(b"192.0.2.7")], ["x", ""]],
            "canonical": to_hex(&pairs),
        },
    })
}

fn keys() -> Json {
    let tenant = TenantKey::new([0x11; 32]);
    let (session, session_key) = (SessionId([0x0c; 16]), SessionKey::new([0x33; 32]));
    let producer_key = ProducerKey::from_seed(&[0x55; 32]);
    let principal = tenant.principal_ref("ada@example.com");
    let mut target = Writer::new();
    ["crm", "postgres", "app"].iter().for_each(|field| target.bytes(field.as_bytes()));
    let named = |text: &str, out: String| json!({"text": text, "out": out});
    json!({
        "tenant_key": to_hex(&[0x11; 32]),
        "principal_ref": named("ada@example.com", principal.to_hex()),
        "fingerprint": named("SELECT * FROM t WHERE a = $1", tenant.fingerprint("SELECT * FROM t WHERE a = $1").to_hex()),
        "correlation": named("task-7", tenant.correlation("task-7").to_hex()),
        "address": named("192.0.2.7", tenant.address("192.0.2.7").to_hex()),
        "credential": named("01J9", tenant.credential("01J9").to_hex()),
        "unknown_identifier": named("secret_table", tenant.unknown_identifier("secret_table")),
        "identity_digest": {
            "principal": "ada@example.com", "kind": "person", "credential": Id16([0x66; 16]), "auth_method": "token",
            "out": tenant.identity_digest("ada@example.com", "person", Id16([0x66; 16]), "token"),
        },
        "target_digest": {
            "target": "crm", "protocol": "postgres", "database": "app",
            "out": digest::TARGET.digest(target.as_slice()),
        },
        "wrapped_key": {
            "session": session, "session_key": to_hex(&[0x33; 32]), "out": to_hex(&tenant.wrap(session, &session_key)),
        },
        "wrapped_name": {
            "principal_ref": principal, "name": "ada@example.com",
            "out": to_hex(&tenant.wrap_name(principal, "ada@example.com")),
        },
        "session_key": {
            "key": to_hex(&[0x33; 32]), "digest": session_key.digest(),
            "salt_of_content_7": to_hex(&session_key.salt(7)),
            "keyed_digest": {"bytes": to_hex(b"SELECT 1"), "out": session_key.keyed_digest(b"SELECT 1")},
            "keyed_id": {"bytes": to_hex(b"portal"), "out": session_key.keyed_id(b"portal")},
        },
        "certificate": {
            "producer": PRODUCER, "epoch": 3, "producer_seed": to_hex(&[0x55; 32]),
            "producer_public_key": producer_key.public(), "epoch_public_key": epoch_key().public(),
            "digest": key::certificate_digest(PRODUCER, 3, epoch_key().public()),
            "signature": to_hex(&producer_key.certify(PRODUCER, 3, epoch_key().public())),
        },
    })
}

/// A configuration, a detection rule with values of its parameters, and the ids of its findings.
fn rules() -> Json {
    let rule: Rule = serde_json::from_value(json!({
        "id": "EXF-002", "version": "1.2", "title": "Large result", "description": "d", "severity": "high",
        "tactics": ["TA0010"], "attack": ["T1048"], "entity": ["principal_ref", "target"], "window": "1h",
        "lookback": "7d", "early": true, "unit": "rows", "text": "{measure} rows", "query": "SELECT 1",
    }))
    .unwrap();
    let params: BTreeMap<String, ParamValue> = [
        ("allowed".to_owned(), ParamValue::TextList(vec!["a".to_owned(), "b".to_owned()])),
        ("factor".to_owned(), ParamValue::Float(1.5)),
        ("name".to_owned(), ParamValue::Text("x".to_owned())),
        ("rows".to_owned(), ParamValue::Int(10_000)),
    ]
    .into();
    let entity = [Some("crm".to_owned()), None];
    json!({
        "policy": {"text": "permit", "digest": digest::POLICY.digest(b"permit")},
        "rule": {
            "id": "EXF-002", "version": "1.2", "severity": "high", "entity": rule.entity, "tactics": rule.tactics,
            "attack": rule.attack, "atlas": rule.atlas, "window_seconds": 3600, "lookback_seconds": 7 * 86_400,
            "reach_seconds": 0, "early": true, "unit": "rows", "text": rule.text, "query": rule.query,
            "params": [
                ["allowed", "list of text", ["a", "b"]], ["factor", "float", 1.5], ["name", "text", "x"],
                ["rows", "int", 10_000],
            ],
            "digest": rule.digest(&params),
        },
        "finding_id": {
            "rule": "EXF-002", "major": 1, "window_start_ns": WALL, "entity": entity,
            "id": finding_id(&rule.id, 1, WALL, &entity),
        },
    })
}

fn seals() -> Json {
    let (session, head, root) = (SessionId([0x0c; 16]), Digest([1; 32]), Digest([2; 32]));
    let sealed = Seal {
        session,
        producer: PRODUCER,
        epoch: 3,
        count: 42,
        head,
        root,
        first_ts_ns: WALL,
        last_ts_ns: WALL + 1,
        bytes_in: 100,
        bytes_out: 200,
        reason: SealReason::Closed,
        open_seq: 7,
    };
    [Seal::checkpoint(session, PRODUCER, 3, 42, head, root, 7), sealed]
        .into_iter()
        .map(|s| {
            json!({
                "session": s.session, "producer": s.producer, "epoch": s.epoch, "count": s.count,
                "head": s.head, "root": s.root, "first_ts_ns": s.first_ts_ns, "last_ts_ns": s.last_ts_ns,
                "bytes_in": s.bytes_in, "bytes_out": s.bytes_out, "reason": s.reason.as_str(), "open_seq": s.open_seq,
                "digest": s.digest(), "public_key": epoch_key().public(),
                "signature": to_hex(&epoch_key().sign(s.digest())),
            })
        })
        .collect()
}

/// A producer's ledger over two epochs, with a record of every kind.
fn ledger() -> Json {
    let long_term = ProducerKey::from_seed(&[0x55; 32]);
    let start = |inherited: Vec<String>| Start {
        config_digest: digest::POLICY.digest(b"configuration"),
        inherited,
        simulated_clock: false,
        software: "bodycam 0.1.0".to_owned(),
    };
    let session = SessionId([0x0c; 16]);
    let (mut first, started) =
        Ledger::start(PRODUCER, &long_term, epoch_key(), None, start(Vec::new()), WALL);
    let mut records = vec![started];
    for (i, name) in ["ledger.open", "ledger.heartbeat", "ledger.gap", "ledger.seal"].iter().enumerate() {
        records.push(first.append(sample_body(name), WALL + i as i64));
    }
    let end = records.last().map(|r| LedgerEnd { epoch: 1, next_seq: r.seq + 1, head: r.hash });
    let second_key = EpochKey::from_seed(&[0x23; 32]);
    let inherited = vec![session.to_string()];
    let (mut second, started) =
        Ledger::start(PRODUCER, &long_term, second_key, end, start(inherited), WALL + 10);
    records.push(started);
    records.push(second.append(sample_body("ledger.crash"), WALL + 11));
    records.push(second.append(sample_body("ledger.stop"), WALL + 12));
    let heads = [([0x0c; 16], 3, Digest([1; 32])), ([0x0d; 16], 0, Digest([2; 32]))];
    json!({
        "records": records.iter().map(record_json).collect::<Vec<_>>(),
        "open_heads": {
            "sessions": heads.iter().map(|(s, c, h)| json!({"session": SessionId(*s), "count": c, "head": h})).collect::<Vec<_>>(),
            "digest": open_heads_digest(heads.iter().map(|(s, c, h)| (s, *c, *h))),
        },
    })
}

fn record_json(record: &LedgerRecord) -> Json {
    let table = KindTable::of(record.kind).unwrap();
    assert_eq!(table.family, Family::Ledger);
    let body = record.decode_body().unwrap();
    json!({
        "suite": record.suite, "schema_version": record.schema_version, "producer": record.producer,
        "epoch": record.epoch, "seq": record.seq, "ts_wall_ns": record.ts_wall_ns,
        "kind": record.kind, "kind_version": record.kind_version,
        "body": {
            "kind": table.name, "context": table.context().string,
            "fields": fields_of(table, &body.values()), "canonical": to_hex(&record.body),
        },
        "body_digest": record.body_digest, "prev": record.prev, "hash": record.hash,
        "signature": to_hex(&record.signature),
    })
}
