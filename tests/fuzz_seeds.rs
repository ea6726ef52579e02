//! The seeds of the fuzz targets (`tests/fuzz`): valid inputs of each, from the test vectors and our own encoders.
//! They are committed; `make fuzz-seeds` writes them anew.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::path::Path;

use bodycam_bus::Record;
use bodycam_lake::StreamEntry;
use bodycam_lake::commit::Commit;
use bodycam_lake::state::LakeState;
use bodycam_proxy::postgres::codec::startup::{self, Version};
use bodycam_proxy::postgres::codec::{backend, frame, frontend};
use bodycam_record::{Body, Digest, Draft, EpochKey, Id16, Ledger, ProducerKey, SealedChunk, SessionId};
use serde_json::Value;

type Outcome = Result<(), Box<dyn Error>>;

#[test]
fn seeds_of_the_fuzz_targets_are_current() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut seeds = Seeds::default();
    fill(&mut seeds, &root.join("schemas/vectors")).unwrap();
    let folder = root.join("tests/fuzz/seeds");
    if std::env::var("BODYCAM_UPDATE").is_ok_and(|v| v == "1") {
        fs::remove_dir_all(&folder).ok();
        for (name, bytes) in &seeds.0 {
            fs::create_dir_all(folder.join(name).parent().unwrap()).unwrap();
            fs::write(folder.join(name), bytes).unwrap();
        }
    }
    for (name, bytes) in &seeds.0 {
        let current = fs::read(folder.join(name)).ok();
        assert!(current.as_ref() == Some(bytes), "tests/fuzz/seeds/{name} is not current: `make fuzz-seeds`");
    }
    let targets = fs::read_dir(root.join("tests/fuzz/fuzz_targets")).unwrap();
    for target in targets.map(|t| t.unwrap().path()) {
        let name = target.file_stem().unwrap().to_str().unwrap();
        let seeded = seeds.0.keys().any(|seed| seed.starts_with(&format!("{name}/")));
        assert!(seeded, "the fuzz target {name} has no seeds");
    }
}

fn fill(seeds: &mut Seeds, vectors: &Path) -> Outcome {
    postgres(seeds)?;
    http(seeds)?;
    events(seeds, vectors)?;
    commits(seeds)
}

/// Seeds by `<target>/<name>`.
#[derive(Default)]
struct Seeds(BTreeMap<String, Vec<u8>>);

impl Seeds {
    fn put(&mut self, target: &str, name: &str, bytes: impl AsRef<[u8]>) -> Outcome {
        self.0.insert(format!("{target}/{name}"), bytes.as_ref().to_vec());
        Ok(())
    }
}

fn postgres(seeds: &mut Seeds) -> Outcome {
    let mut simple = Vec::new();
    frontend::put_query(&mut simple, b"SELECT 1");
    frontend::put_terminate(&mut simple);
    seeds.put("frontend_frames", "simple", simple)?;

    let mut extended = Vec::new();
    frontend::put_parse(&mut extended, b"s", b"SELECT $1, $2");
    frame(&mut extended, b'B', |out| {
        out.extend_from_slice(b"p\0s\0\0\x01\0\x01\0\x02\0\0\0\x02ab\xff\xff\xff\xff\0\x02\0\0\0\x01");
    });
    frame(&mut extended, b'D', |out| out.extend_from_slice(b"Pp\0"));
    frame(&mut extended, b'E', |out| out.extend_from_slice(b"p\0\0\0\0\x05"));
    frame(&mut extended, b'C', |out| out.extend_from_slice(b"Ss\0"));
    frame(&mut extended, b'S', |_| ());
    frontend::put_function_call(&mut extended, 1598);
    seeds.put("frontend_frames", "extended", extended)?;

    let mut login = Vec::new();
    frontend::put_sasl_initial(&mut login, "SCRAM-SHA-256", b"n,,n=,r=abc");
    frontend::put_sasl_response(&mut login, b"c=biws,r=abc,p=AAAA");
    frontend::put_password(&mut login, b"secret");
    frame(&mut login, b'd', |out| out.extend_from_slice(b"1\ta\n"));
    frame(&mut login, b'f', |out| out.extend_from_slice(b"no\0"));
    seeds.put("frontend_frames", "login-and-copy", login)?;

    let mut session = Vec::new();
    backend::put_authentication(&mut session, 10, b"SCRAM-SHA-256\0\0");
    backend::put_authentication(&mut session, 5, b"salt");
    backend::put_authentication(&mut session, 0, b"");
    frame(&mut session, b'S', |out| out.extend_from_slice(b"TimeZone\0UTC\0"));
    backend::put_key_data(&mut session, 4711, b"key!");
    backend::put_negotiate(&mut session, Version::V3_2.code(), &[b"_pq_.x".to_vec()]);
    frame(&mut session, b'Z', |out| out.push(b'I'));
    seeds.put("backend_frames", "login", session)?;

    let mut result = Vec::new();
    frame(&mut result, b'1', |_| ());
    frame(&mut result, b't', |out| out.extend_from_slice(b"\0\x01\0\0\0\x17"));
    frame(&mut result, b'T', |out| {
        out.extend_from_slice(b"\0\x01id\0\0\0\x40\x01\0\x01\0\0\0\x17\0\x04\xff\xff\xff\xff\0\0");
    });
    frame(&mut result, b'D', |out| out.extend_from_slice(b"\0\x01\0\0\0\x02\x34\x32"));
    frame(&mut result, b'C', |out| out.extend_from_slice(b"SELECT 1\0"));
    frame(&mut result, b'H', |out| out.extend_from_slice(b"\0\0\x01\0\0"));
    frame(&mut result, b'd', |out| out.extend_from_slice(b"42\n"));
    backend::put_error(&mut result, "ERROR", "42P01", "relation \"x\" does not exist", Some("look"));
    seeds.put("backend_frames", "result-and-error", result)?;

    let mut packet = Vec::new();
    let pairs = [("user", "ada"), ("database", "crm"), ("options", "-c search_path=a\\ b --work-mem=4MB")];
    startup::put_startup(&mut packet, Version::V3_2, pairs.map(|(n, v)| (n.as_bytes(), v.as_bytes())));
    seeds.put("startup_packet", "startup", packet)?;
    let mut packet = Vec::new();
    startup::put_tls_request(&mut packet);
    startup::put_cancel(&mut packet, 4711, b"key!");
    seeds.put("startup_packet", "tls-then-cancel", packet)?;
    seeds.put("startup_packet", "options", r"-c a.b=c -cx=y\ z --d-e=")
}

fn http(seeds: &mut Seeds) -> Outcome {
    for (name, bytes) in [
        (
            "connect",
            "CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\nProxy-Authorization: Basic YTpi\r\n\r\n",
        ),
        (
            "post",
            "POST http://example.com:8080/a?b=%20 HTTP/1.1\r\nHost: example.com:8080\r\nContent-Length: 5\r\n\
             Content-Type: text/plain\r\nExpect: 100-continue\r\n\r\nhello",
        ),
        (
            "chunked-request",
            "PUT http://[2001:db8::1]/ HTTP/1.1\r\nHost: [2001:db8::1]\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        ("old", "GET http://a.example/ HTTP/1.0\r\n\r\n"),
        ("response", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Type: text/html\r\n\r\nhi"),
        ("no-content", "HTTP/1.0 204 \r\n\r\n"),
        ("chunks", "5;x=y\r\nhello\r\n0a\r\n0123456789\r\n0\r\nTrailer: v\r\n\r\n"),
        ("authority", "[2001:db8::1]:443"),
        ("name", "B\u{fc}cher.Example.:8443"),
        ("url", "http://192.0.2.1/%2e?x=y"),
    ] {
        seeds.put("http_head", name, bytes)?;
    }
    // Server name a.io, protocol h2.
    let extensions = b"\0\0\0\x09\0\x07\0\0\x04a.io\0\x10\0\x05\0\x03\x02h2";
    let mut hello = [&[3, 3][..], &[7; 32], b"\0\0\x02\x13\x01\x01\0"].concat();
    hello.extend_from_slice(&u16::try_from(extensions.len())?.to_be_bytes());
    hello.extend_from_slice(extensions);
    let message = [&[1, 0][..], &u16::try_from(hello.len())?.to_be_bytes(), &hello].concat();
    let record = [&[22, 3, 1][..], &u16::try_from(message.len())?.to_be_bytes(), &message].concat();
    seeds.put("http_head", "client-hello", record)
}

fn events(seeds: &mut Seeds, vectors: &Path) -> Outcome {
    let bodies: Value = serde_json::from_slice(&fs::read(vectors.join("bodies.json"))?)?;
    let mut drafts = Vec::new();
    for vector in bodies.as_array().ok_or("bodies.json is a list")? {
        let text = |field: &str| vector[field].as_str().ok_or("a vector has text fields");
        let canonical = unhex(text("canonical")?)?;
        let code = vector["code"].as_i64().ok_or("a vector has a code")?;
        drafts.push(Body::decode(code, vector["version"].as_i64().ok_or("and a version")?, &canonical)?);
        // Several vectors of one kind: the last, which has all its fields, stays.
        seeds.put("event_record", &format!("body-{}", text("kind")?), canonical)?;
    }
    let session = SessionId([7; 16]);
    let opened = drafts.iter().find_map(|body| match body {
        Body::SessionOpened(opened) => Some(opened.clone()),
        _ => None,
    });
    let genesis = bodycam_record::Genesis {
        producer: "gw-1",
        epoch: 1,
        session,
        policy_digest: Digest([9; 32]),
        opened: &opened.ok_or("there is a vector of session.opened")?,
    };
    let mut chain = bodycam_record::Chain::start(&genesis, Id16([5; 16]), "crm");
    let body = Body::from(genesis.opened.clone());
    let event = chain.append(&Draft {
        body,
        ts_wall_ns: 1_795_255_200_000_000_000,
        ts_mono_ns: 1,
        parent_seq: None,
        content: None,
    });
    let key = ProducerKey::from_seed(&[4; 32]);
    let start = bodycam_record::ledger::Start {
        config_digest: Digest([1; 32]),
        inherited: vec![],
        simulated_clock: false,
        software: "bodycam".into(),
    };
    let (_, ledger) = Ledger::start("gw-1", &key, EpochKey::from_seed(&[5; 32]), None, start, 1);
    for (name, record) in [
        ("event", Record::Event(Box::new(event))),
        ("ledger", Record::Ledger(Box::new(ledger))),
        (
            "chunk",
            Record::Chunk(SealedChunk { session, content_no: 1, index: 0, kind: 1, sealed: vec![1, 2, 3] }),
        ),
        ("template", Record::Template { fingerprint: Id16([3; 16]), text: "SELECT $1".into() }),
        ("key", Record::Key { session, wrapped: vec![1; 48] }),
        ("name", Record::Name { principal_ref: Id16([5; 16]), wrapped: vec![2; 48] }),
        ("state", Record::State(vec![1])),
    ] {
        let mut bytes = Vec::new();
        record.encode(&mut bytes);
        seeds.put("event_record", &format!("record-{name}"), bytes)?;
    }
    Ok(())
}

fn commits(seeds: &mut Seeds) -> Outcome {
    let session = SessionId([1; 16]).to_string();
    let digest = |n: u8| Digest([n; 32]).to_string();
    let file = |path: &str, table: &str| {
        serde_json::json!({
            "path": path, "table": table, "rows": 3, "bytes": 4000, "sha256": digest(2), "min_ts_ns": 1,
            "max_ts_ns": 2, "row_sum": digest(3), "min_session": session, "max_session": session,
            "sessions": [[session, 1, 3, digest(4)]],
        })
    };
    let commit = |more: Value| -> Result<Commit, Box<dyn Error>> {
        let mut json = serde_json::json!({
            "version": 1, "stream": "gw/0", "generation": 0, "from": 10, "to": 20, "created_ns": 5,
            "previous": null, "files": [], "recorder": digest(0), "signature": "00".repeat(64),
        });
        let (Value::Object(all), Value::Object(more)) = (&mut json, more) else { unreachable!() };
        all.extend(more);
        let mut commit: Commit = serde_json::from_value(json)?;
        commit.sign(&EpochKey::from_seed(&[5; 32]));
        Ok(commit)
    };
    let events = commit(serde_json::json!({
        "files": [file("tables/sql/dt=2026-11-21/hh=10/gw@0-0-10-0-00000001.parquet", "sql")],
        "sessions": [{"session": session, "next_seq": 4, "head": digest(4), "open": true}],
        "duplicates": 1,
    }))?;
    let ledger = commit(serde_json::json!({
        "stream": "gw/ledger", "previous": digest(6),
        "ledger": {
            "producer": "gw", "epoch": 1, "producer_key": digest(7), "epoch_key": digest(8), "next_seq": 2,
            "head": digest(9), "watermark_ns": 3, "stopped": false,
        },
    }))?;
    let compaction = commit(serde_json::json!({
        "files": [file("tables/sql/dt=2026-11-21/hh=10/gw@0-0-20-0-00000002.parquet", "sql")],
        "replaces": ["tables/sql/dt=2026-11-21/hh=10/gw@0-0-10-0-00000001.parquet"],
        "from": 20, "to": 21, "previous": events.digest().to_string(), "deleted_to": 10,
    }))?;
    let entry =
        StreamEntry { version: 1, stream: events.stream.clone(), generation: 0, from: 10, origin: None };
    let mut lake = LakeState::default();
    lake.add_stream("streams/0.json", entry.clone())?;
    lake.apply(0, &events)?;
    lake.apply(0, &compaction)?;
    seeds.put("commit", "events", events.to_json())?;
    seeds.put("commit", "ledger", ledger.to_json())?;
    seeds.put("commit", "compaction", compaction.to_json())?;
    seeds.put("commit", "stream", entry.to_json())?;
    seeds.put("commit", "snapshot", lake.snapshot(2, &EpochKey::from_seed(&[5; 32])).to_json())
}

fn unhex(text: &str) -> Result<Vec<u8>, Box<dyn Error>> {
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|pair| Ok(u8::from_str_radix(std::str::from_utf8(pair)?, 16)?)).collect()
}
