//! The test vectors of everything that a lake hashes and signs: `schemas/vectors/lake.json`.

use bodycam_record::ids::to_hex;
use bodycam_record::{Digest, EpochKey, Family, Id16, SealedChunk, SessionId};
use serde_json::{Value as Json, json};

use crate::columns::Table;
use crate::columns::findings::FindingRow;
use crate::columns::templates::TemplateRow;
use crate::commit::{
    Commit, FileEntry, LedgerState, SessionRange, SessionState, Signature, StreamEntry, TableName, VERSION,
};
use crate::file::{RowSum, content_row_hash};
use crate::state::LakeState;

const WALL: i64 = 1_795_255_200_000_000_000;

fn session(n: u8) -> SessionId {
    SessionId::new(WALL as u64 / 1_000_000, [n; 10])
}

fn file(n: u8, table: Table, full: bool) -> FileEntry {
    let path = match table {
        Table::Events(family) => format!("tables/{}/dt=2026-11-21/hh=10/gw-1@0-0-{n}.parquet", family.name()),
        other => format!("{}/gw-1@0-0-{n}.parquet", other.name()),
    };
    let range = SessionRange { session: session(1), seq_from: 0, seq_to: 4, head: Some(Digest([n; 32])) };
    FileEntry {
        path,
        table: TableName(table),
        rows: 5,
        bytes: 4096 + u64::from(n),
        sha256: Digest([n; 32]),
        min_ts_ns: full.then_some(WALL),
        max_ts_ns: full.then_some(WALL + 7),
        row_sum: full.then_some(Digest([0xf0 | n; 32])),
        min_session: full.then(|| session(1)),
        max_session: full.then(|| session(1)),
        sessions: full.then(|| vec![range]),
    }
}

fn commits(key: &EpochKey) -> Vec<Commit> {
    let state =
        |n, next_seq, open| SessionState { session: session(n), next_seq, head: Digest([n; 32]), open };
    let ledger = LedgerState {
        producer: "gw-1".into(),
        epoch: 2,
        producer_key: Digest([0x21; 32]),
        epoch_key: Digest([0x22; 32]),
        next_seq: 9,
        head: Digest([0x23; 32]),
        watermark_ns: WALL + 9,
        stopped: true,
    };
    let commit = |stream: &str, from, files| Commit {
        version: VERSION,
        stream: stream.parse().unwrap(),
        generation: 0,
        from,
        to: from + 10,
        created_ns: WALL + 1,
        previous: None,
        files,
        replaces: vec![],
        deleted_to: 0,
        sessions: vec![],
        ledger: None,
        duplicates: 0,
        recorder: Digest::ZERO,
        signature: Signature::NONE,
    };
    let sql = Table::Events(Family::Sql);
    let mut all = vec![
        Commit {
            sessions: vec![state(1, 5, true), state(2, 3, false), state(3, 2, true)],
            ..commit("gw-1/0", 0, vec![file(1, sql, true), file(2, Table::Templates, false)])
        },
        Commit { duplicates: 3, ..commit("gw-1/0", 10, vec![file(3, sql, true)]) },
        Commit {
            sessions: vec![state(3, 2, false), state(4, 6, false)],
            ledger: Some(ledger),
            ..commit("gw-1/ledger", 0, vec![])
        },
        Commit {
            replaces: vec![file(1, sql, true).path],
            deleted_to: 0,
            ..commit("compaction", 0, vec![FileEntry { path: file(4, sql, true).path, ..file(1, sql, true) }])
        },
    ];
    for n in 0..all.len() {
        if n == 1 {
            all[n].previous = Some(all[0].digest());
        }
        all[n].sign(key);
    }
    all
}

fn snapshot(key: &EpochKey) -> Json {
    let mut state = LakeState::default();
    for (n, stream) in ["gw-1/0", "gw-1/ledger", "compaction"].into_iter().enumerate() {
        let stream = stream.parse().unwrap();
        let entry = StreamEntry { version: VERSION, stream, generation: 0, from: 0, origin: None };
        state.add_stream(&n.to_string(), entry).unwrap();
    }
    for commit in commits(key) {
        let (index, _) = state.stream(&commit.stream, 0).unwrap();
        state.apply(index, &commit).unwrap();
    }
    let snapshot = state.snapshot(7, key);
    json!({
        "object": serde_json::from_slice::<Json>(&snapshot.to_json()).unwrap(),
        "digest": snapshot.digest(),
    })
}

fn vectors() -> Json {
    let key = EpochKey::from_seed(&[0x55; 32]);
    let chunk =
        SealedChunk { session: session(1), content_no: 4, index: 2, kind: 4, sealed: (0..40).collect() };
    let commits: Vec<_> = commits(&key)
        .iter()
        .map(|c| json!({"object": serde_json::from_slice::<Json>(&c.to_json()).unwrap(), "digest": c.digest()}))
        .collect();
    let template = TemplateRow { fingerprint: Id16([8; 16]), text: "SELECT $1".into() };
    let finding = FindingRow {
        id: Id16([9; 16]),
        rule: "EXF-002".into(),
        rule_version: "1.0".into(),
        severity: "high".into(),
        window_start_ns: WALL,
        window_end_ns: WALL + 1,
        principal_ref: Some(Id16([1; 16])),
        target: None,
        session_ids: vec![session(1).to_string()],
        measure: Some(20_000),
        threshold: Some(10_000),
        evidence_sessions: vec![session(1).to_string()],
        evidence_seqs: vec![4],
        revision: 0,
        is_final: true,
        text: "a large result".into(),
    };
    let mut sum = RowSum::default();
    let hashes = [Digest([0xff; 32]), content_row_hash(&chunk), template.row_hash()];
    hashes.iter().for_each(|hash| sum.add(*hash));
    json!({
        "recorder_seed": to_hex(&[0x55; 32]),
        "commits": commits,
        "snapshot": snapshot(&key),
        "content_row": {
            "session": chunk.session, "content_no": chunk.content_no, "index": chunk.index, "kind": chunk.kind,
            "sealed": to_hex(&chunk.sealed), "hash": content_row_hash(&chunk),
        },
        "table_rows": [
            {
                "table": "templates",
                "fields": [["id16", false, template.fingerprint], ["text", false, template.text]],
                "hash": template.row_hash(),
            },
            {
                "table": "findings",
                "fields": [
                    ["id16", false, finding.id], ["text", false, finding.rule], ["text", false, finding.rule_version],
                    ["text", false, finding.severity], ["int", false, finding.window_start_ns],
                    ["int", false, finding.window_end_ns], ["id16", true, finding.principal_ref],
                    ["text", true, finding.target], ["list of text", false, finding.session_ids],
                    ["int", true, finding.measure], ["int", true, finding.threshold],
                    ["list of text", false, finding.evidence_sessions], ["list of int", false, finding.evidence_seqs],
                    ["int", false, finding.revision], ["bool", false, finding.is_final], ["text", false, finding.text],
                ],
                "hash": finding.row_hash(),
            },
        ],
        "row_sum": {"hashes": hashes, "sum": sum.digest()},
    })
}

#[test]
fn vectors_of_the_lake_are_current() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../vectors/lake.json");
    let expected = serde_json::to_string_pretty(&vectors()).unwrap() + "\n";
    if std::env::var("BODYCAM_UPDATE").is_ok_and(|v| v == "1") {
        std::fs::write(&path, &expected).unwrap();
    }
    let current = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(current == expected, "schemas/vectors/lake.json differs from the code: run `make vectors`");
}
