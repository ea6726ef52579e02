//! A lake for tests: made with the lake's own writer from real chains, keys and sealed content.

use std::path::Path;

use bodycam_lake::columns::findings::FindingRow;
use bodycam_record::{Id16, TenantKey};

// Said where they are: a test of the binary includes this file by its path.
#[path = "fixture/lake_dir.rs"]
mod lake_dir;
#[path = "fixture/recording.rs"]
mod recording;

pub use lake_dir::LakeDir;
pub use recording::Recording;

/// When the first recording starts: 2026-11-21 10:00:00 UTC.
pub const T0: i64 = 1_795_255_200_000_000_000;
/// A second.
pub const SECOND: i64 = 1_000_000_000;

/// Text that must never reach a terminal as it is.
pub const HOSTILE: &[u8] =
    b"\x1b[31mred\x1b]52;c;aGFja2Vk\x07 \xc2\x9b2J c1 \r\n\0nul \xe2\x80\xae bidi \xe2\x81\xa6 \xef\xbb\xbf end";

/// The company's lake of the tests: a bulk read that leaves by egress, an ordinary session that goes on, and
/// one whose chain does not hold.
pub struct Company {
    pub dir: LakeDir,
    pub bulk: Recording,
    pub egress: Recording,
    pub live: Recording,
    pub broken: Recording,
}

impl Company {
    /// Writes it to `directory`.
    pub async fn record(directory: &Path) -> Self {
        let mut dir = LakeDir::create(directory).await;
        let mut bulk = Recording::open(1, "support-copilot", "postgres", "customers-db");
        let count = bulk.statement(b"SELECT count(*) FROM customers", &[], "allow", &["public.customers"]);
        bulk.result(count, &["count"], &[vec![Some(b"48200".to_vec())]], 1);
        bulk.wait(10 * 60 * SECOND);
        let sql = b"SELECT id, email, card FROM customers WHERE region = $1 ORDER BY id";
        let pull = bulk.statement(sql, &[b"EU"], "allow", &["public.customers"]);
        let rows: Vec<Vec<Option<Vec<u8>>>> = (0..300)
            .map(|i| {
                let email = format!("person{i}@example.org").into_bytes();
                vec![Some(i.to_string().into_bytes()), Some(email), None]
            })
            .collect();
        let answer = bulk.result(pull, &["id", "email", "card"], &rows, 48_200);
        bulk.checkpoint();
        let drop = bulk.statement(b"DROP TABLE customers", &[], "deny", &["public.customers"]);
        bulk.error(drop, "42501", b"bodycam: refused by policy");
        bulk.close();

        let mut egress = Recording::open(13, "support-copilot", "http", "egress");
        egress.tunnel("api.openai.com", "allow", 2048);
        egress.tunnel("paste.evil.example", "deny", 0);
        let out = egress.tunnel("files.example.net", "allow", 6 << 20);
        egress.request("hooks.example.net", b"http://hooks.example.net/in?key=1", 204);
        egress.close();

        let mut live = Recording::open(20, "etl-nightly", "postgres", "orders-db");
        for i in 0..3 {
            let sql = format!("SELECT * FROM orders WHERE id = {i}");
            let statement = live.statement(sql.as_bytes(), &[], "allow", &["public.orders"]);
            live.result(statement, &["id"], &[vec![Some(i.to_string().into_bytes())]], 1);
        }

        let mut broken = Recording::open(25, "mallory", "postgres", "customers-db");
        let s = broken.statement(b"SELECT 1", &[], "allow", &[]);
        broken.result(s, &["?column?"], &[vec![Some(b"1".to_vec())]], 1);
        broken.close();
        broken.tamper(|events| {
            let envelope = &mut events[2].envelope;
            envelope.ts_wall_ns += 1;
        });

        let findings = [finding(&bulk, "EXF-002", &[answer]), finding(&bulk, "EXF-001", &[pull, answer])];
        let mut cross = finding(&egress, "EXF-014", &[out, out, out]);
        cross.evidence_sessions[0] = bulk.session().to_string();
        cross.evidence_seqs[0] = answer;
        cross.session_ids.push(bulk.session().to_string());
        let mut all = findings.to_vec();
        all.push(cross);
        let mut recordings = [&mut bulk, &mut egress, &mut live, &mut broken];
        dir.commit(&mut recordings, &all).await;
        Self { dir, bulk, egress, live, broken }
    }

    /// A lake of one session in which everything that can be hostile is.
    pub async fn record_hostile(directory: &Path) -> Recording {
        let text = String::from_utf8_lossy(HOSTILE).into_owned();
        let mut dir = LakeDir::create(directory).await;
        let mut hostile = Recording::open(1, &text, "postgres", &text);
        hostile.row.database.clone_from(&text);
        let mut sql = b"SELECT '".to_vec();
        sql.extend(HOSTILE);
        sql.extend(b"' -- ");
        sql.extend(HOSTILE);
        let s = hostile.statement(&sql, &[HOSTILE], "allow", &[&text]);
        let cells = vec![Some(HOSTILE.to_vec()), None, Some(b"\xff\xfe\x9b".to_vec())];
        let answer = hostile.result(s, &[&text.replace('\0', ""), "b", "c"], &[cells.clone(), cells], 2);
        let e = hostile.statement(HOSTILE, &[], "deny", &[&text]);
        hostile.error(e, "42501", HOSTILE);
        hostile.tunnel(&text, "allow", 1);
        hostile.tunnel(&text, "deny", 1);
        hostile.request(&text, HOSTILE, 200);
        let mut long = b"SELECT '".to_vec();
        long.extend(std::iter::repeat_n(b'x', 1 << 20));
        long.extend(HOSTILE);
        let l = hostile.statement(&long, &[], "allow", &[]);
        hostile.result(l, &["x"], &[vec![Some(long.clone())]], 1);
        hostile.close();
        let mut found = finding(&hostile, "EXF-002", &[answer]);
        found.text.clone_from(&text);
        found.rule.clone_from(&text);
        found.severity.clone_from(&text);
        found.target = Some(text);
        dir.commit(&mut [&mut hostile], &[found]).await;
        hostile
    }
}

/// The tenant's key in every fixture.
pub fn tenant() -> TenantKey {
    TenantKey::new([42; 32])
}

/// A finding about a session with one or more evidence events.
pub fn finding(recording: &Recording, rule: &str, evidence: &[i64]) -> FindingRow {
    let session = recording.session().to_string();
    // What is most severe is not the newest.
    let (severity, start_ns) = if rule == "EXF-001" { ("medium", T0 + 1800 * SECOND) } else { ("high", T0) };
    FindingRow {
        id: Id16([evidence.len() as u8; 16]),
        rule: rule.into(),
        rule_version: "1.0".into(),
        severity: severity.into(),
        window_start_ns: start_ns,
        window_end_ns: start_ns + 3600 * SECOND,
        principal_ref: Some(recording.row.principal_ref),
        target: Some(recording.row.target.clone()),
        session_ids: vec![session.clone()],
        measure: Some(48_200),
        threshold: Some(10_000),
        evidence_sessions: vec![session; evidence.len()],
        evidence_seqs: evidence.to_vec(),
        revision: 0,
        is_final: true,
        text: "One result of 48,200 rows was read from a sensitive relation.".into(),
    }
}
