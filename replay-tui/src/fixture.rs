//! A lake for tests: made with the lake's own writer from real chains, keys and sealed content.

use std::path::Path;

use bodycam_lake::columns::content as content_columns;
use bodycam_lake::columns::findings::{self, FindingRow};
use bodycam_lake::columns::sessions::{self, SessionRow};
use bodycam_lake::columns::templates::{self, TemplateRow};
use bodycam_lake::columns::{self, Table};
use bodycam_lake::commit::{Commit, FileEntry, SessionState, Signature, VERSION};
use bodycam_lake::file::{self, EncodedFile};
use bodycam_lake::layout::{self, FileName, Hour};
use bodycam_lake::{Lake, Store, StreamName};
use bodycam_record::content::structured::{Bind, encode_binds, encode_pairs};
use bodycam_record::content::{Commitment, MAX_CHUNK, seal_chunk};
use bodycam_record::kinds::http::{HttpRequest, HttpResponse, HttpTunnelClosed, HttpTunnelOpened};
use bodycam_record::kinds::session::{SessionCheckpoint, SessionClosed, SessionOpened};
use bodycam_record::kinds::sql::{SqlResult, SqlStatement};
use bodycam_record::{
    Body, Chain, ContentKind, Digest, Draft, EpochKey, Event, Family, Genesis, Id16, SealedChunk, SessionId,
    SessionKey, TenantKey,
};

/// When the first recording starts: 2026-11-21 10:00:00 UTC.
pub const T0: i64 = 1_795_255_200_000_000_000;
/// A second.
pub const SECOND: i64 = 1_000_000_000;

/// The tenant's key in every fixture.
pub fn tenant() -> TenantKey {
    TenantKey::new([42; 32])
}

/// A session that is being recorded.
pub struct Recording {
    pub row: SessionRow,
    pub principal: String,
    key: SessionKey,
    chain: Chain,
    started: bool,
    now_ns: i64,
    next_content: i64,
    steps: i64,
    events: Vec<Event>,
    chunks: Vec<SealedChunk>,
    templates: Vec<TemplateRow>,
}

/// A lake in a directory.
pub struct LakeDir {
    pub lake: Lake,
    key: EpochKey,
    position: u64,
    files: usize,
}

impl Recording {
    /// A session of `principal` to `target`, opened `n` minutes after [`T0`].
    pub fn open(n: u8, principal: &str, protocol: &str, target: &str) -> Self {
        let now_ns = T0 + i64::from(n) * 60 * SECOND;
        let session = SessionId::new(u64::try_from(now_ns / 1_000_000).unwrap(), [n; 10]);
        let key = SessionKey::new([n; 32]);
        let principal_ref = tenant().principal_ref(principal);
        let opened = SessionOpened {
            tenant: "acme".into(),
            nonce: Digest([n; 32]),
            identity_digest: Digest([1; 32]),
            target_digest: Digest([2; 32]),
            key_digest: key.digest(),
            ledger_seq: i64::from(n),
            protocol: protocol.into(),
            principal_kind: "agent".into(),
            auth_method: "scram-sha-256".into(),
            credential: Id16([3; 16]),
            client_address: tenant().address("10.0.0.7"),
            credential_addresses: 1,
            database: if protocol == "postgres" { "shop".into() } else { String::new() },
            upstream_role: if protocol == "postgres" { "shop_ro".into() } else { String::new() },
            client_tls: true,
            upstream_tls: true,
            protocol_version: "3.2".into(),
            correlation: None,
            simulated_clock: false,
        };
        let genesis = Genesis {
            producer: "gw-1",
            epoch: 1,
            session,
            policy_digest: Digest([0x4f; 32]),
            opened: &opened,
        };
        let chain = Chain::start(&genesis, principal_ref, target);
        let row = SessionRow {
            session_id: session,
            revision: 0,
            principal_ref,
            principal_kind: "agent".into(),
            target: target.into(),
            protocol: protocol.into(),
            database: opened.database.clone(),
            producer: "gw-1".into(),
            epoch: 1,
            started_ns: now_ns,
            ended_ns: None,
            last_activity_ns: now_ns,
            state: "open".into(),
            end_reason: None,
            statements: 0,
            rows: 0,
            bytes_in: 0,
            bytes_out: 0,
            denies: 0,
            errors: 0,
            events: 0,
            head: chain.head(),
            simulated_clock: false,
            correlation: None,
        };
        let mut recording = Self {
            row,
            principal: principal.into(),
            key,
            chain,
            started: false,
            now_ns,
            next_content: 0,
            steps: 0,
            events: Vec::new(),
            chunks: Vec::new(),
            templates: Vec::new(),
        };
        let facts = encode_pairs([("client_address", &b"10.0.0.7"[..]), ("application_name", b"psql")]);
        recording.event(opened.into(), None, &[(ContentKind::SessionFacts, facts)]);
        recording
    }

    /// Its id.
    pub fn session(&self) -> SessionId {
        self.row.session_id
    }

    /// Lets time pass.
    pub fn wait(&mut self, ns: i64) {
        self.now_ns += ns;
    }

    /// Appends an event with its content.
    pub fn event(&mut self, body: Body, parent_seq: Option<i64>, content: &[(ContentKind, Vec<u8>)]) -> i64 {
        let content = (!content.is_empty()).then(|| self.seal(content));
        let event = self.chain.append(&Draft {
            ts_wall_ns: self.now_ns,
            ts_mono_ns: self.now_ns - T0,
            parent_seq,
            body,
            content,
        });
        let seq = event.envelope.seq;
        self.row.events = seq + 1;
        self.row.head = event.hash;
        self.row.last_activity_ns = self.now_ns;
        self.events.push(event);
        self.started = true;
        self.wait(50_000_000);
        seq
    }

    fn seal(&mut self, content: &[(ContentKind, Vec<u8>)]) -> (i64, Digest) {
        let no = self.next_content;
        self.next_content += 1;
        let mut commitment = Commitment::new(&self.key, no);
        for (kind, bytes) in content {
            for part in bytes.chunks(MAX_CHUNK) {
                let session = self.session();
                self.chunks.push(seal_chunk(&self.key, session, no, commitment.count(), *kind, part));
                commitment.add(*kind, part);
            }
        }
        (no, commitment.finish().unwrap())
    }

    /// A statement with binds.
    pub fn statement(&mut self, sql: &[u8], binds: &[&[u8]], verdict: &str, tables: &[&str]) -> i64 {
        self.steps += 1;
        let text = String::from_utf8_lossy(sql).into_owned();
        let fingerprint = tenant().fingerprint(&text);
        self.templates.push(TemplateRow { fingerprint, text: format!("template of {}", self.steps) });
        let binds: Vec<Bind> =
            binds.iter().map(|b| Bind { type_oid: 25, format: 0, value: Some(b.to_vec()) }).collect();
        let mut content = vec![(ContentKind::SqlText, sql.to_vec())];
        if !binds.is_empty() {
            content.push((ContentKind::Binds, encode_binds(&binds)));
        }
        self.row.statements += 1;
        self.row.denies += i64::from(verdict == "deny");
        let body = SqlStatement {
            functions: Vec::new(),
            statement_no: self.steps,
            form: if binds.is_empty() { "simple" } else { "extended" }.into(),
            statement_kind: "select".into(),
            verdict: verdict.into(),
            fingerprint: Some(fingerprint),
            main_relation: tables.first().map(|t| (*t).into()),
            relations_read: tables.iter().map(|t| (*t).into()).collect(),
            relations_written: vec![],
            output_columns: vec![],
            has_predicate: true,
            limit_rows: None,
            offset_rows: None,
            statement_count: 1,
            opaque: vec![],
            est_rows: Some(50_000),
            statement_bytes: sql.len() as i64,
            statement_digest: self.key.keyed_digest(sql),
            bind_count: binds.len() as i64,
            bind_bytes: 0,
            binds_digest: None,
            portal: None,
            content_cut: false,
            correlation: None,
        };
        self.event(body.into(), None, &content)
    }

    /// The result of a statement, with `rows` stored out of `sent`.
    pub fn result(&mut self, parent: i64, columns: &[&str], rows: &[Vec<Option<Vec<u8>>>], sent: i64) -> i64 {
        let frames: Vec<u8> = rows.iter().flat_map(|r| data_row(r)).collect();
        let bytes = frames.len() as i64 * sent.max(1) / (rows.len() as i64).max(1);
        self.row.rows += sent;
        self.row.bytes_out += bytes;
        let body = SqlResult {
            bytes,
            tag: format!("SELECT {sent}"),
            rows: sent,
            rows_stored: rows.len() as i64,
            rows_cut: sent > rows.len() as i64,
            column_tables: vec![16_400; columns.len()],
            column_attributes: (1..=columns.len() as i64).collect(),
            column_types: vec![25; columns.len()],
            column_formats: vec![0; columns.len()],
            ..self.empty_result("complete")
        };
        let content = [(ContentKind::Columns, row_description(columns)), (ContentKind::Rows, frames)];
        let stored = if rows.is_empty() { &[][..] } else { &content[..] };
        self.event(body.into(), Some(parent), stored)
    }

    /// A statement's end in an error.
    pub fn error(&mut self, parent: i64, sqlstate: &str, message: &[u8]) -> i64 {
        let mut body = b"SERROR\0".to_vec();
        for (code, text) in [(b'C', sqlstate.as_bytes()), (b'M', message)] {
            body.push(code);
            body.extend(text.iter().filter(|b| **b != 0));
            body.push(0);
        }
        body.push(0);
        self.row.errors += 1;
        let result = SqlResult { sqlstate: Some(sqlstate.into()), ..self.empty_result("error") };
        self.event(result.into(), Some(parent), &[(ContentKind::Error, body)])
    }

    fn empty_result(&self, outcome: &str) -> SqlResult {
        SqlResult {
            statement_no: self.steps,
            result_no: 0,
            statement_kind: "select".into(),
            verdict: "allow".into(),
            fingerprint: None,
            main_relation: None,
            relations_seen: vec![],
            outcome: outcome.into(),
            sqlstate: None,
            tag: String::new(),
            rows: 0,
            bytes: 0,
            column_tables: vec![],
            column_attributes: vec![],
            column_types: vec![],
            column_formats: vec![],
            rows_digest: None,
            rows_stored: 0,
            rows_cut: false,
            duration_us: 850,
            correlation: None,
        }
    }

    /// A tunnel and its end.
    pub fn tunnel(&mut self, host: &str, verdict: &str, bytes_out: i64) -> i64 {
        self.steps += 1;
        self.row.statements += 1;
        let denied = verdict == "deny";
        self.row.denies += i64::from(denied);
        let opened = HttpTunnelOpened {
            request_no: self.steps,
            verdict: verdict.into(),
            refusal: denied.then(|| "host-not-allowed".into()),
            host: host.into(),
            port: 443,
            address: (!denied).then(|| "203.0.113.9".into()),
            address_class: (!denied).then(|| "public".into()),
            correlation: None,
        };
        let authority = format!("{host}:443").into_bytes();
        let seq = self.event(opened.into(), None, &[(ContentKind::Url, authority)]);
        if !denied {
            self.wait(2 * SECOND);
            self.row.bytes_out += 4096;
            self.row.bytes_in += bytes_out;
            let closed = HttpTunnelClosed {
                request_no: self.steps,
                verdict: verdict.into(),
                host: host.into(),
                port: 443,
                outcome: "client-closed".into(),
                bytes_out,
                bytes_in: 4096,
                tls: true,
                sni: Some(host.into()),
                alpn: vec!["h2".into()],
                duration_us: 2_000_000,
                correlation: None,
            };
            self.event(closed.into(), Some(seq), &[]);
        }
        seq
    }

    /// A request and its response.
    pub fn request(&mut self, host: &str, url: &[u8], status: i64) -> i64 {
        self.steps += 1;
        self.row.statements += 1;
        let request = HttpRequest {
            request_no: self.steps,
            verdict: "allow".into(),
            refusal: None,
            method: "POST".into(),
            scheme: "http".into(),
            host: host.into(),
            port: 80,
            address: Some("203.0.113.10".into()),
            address_class: Some("public".into()),
            url_digest: self.key.keyed_digest(url),
            url_bytes: url.len() as i64,
            head_bytes: 200,
            media_type: Some("text/csv".into()),
            content_length: Some(900),
            correlation: None,
        };
        let head = encode_pairs([("user-agent", &b"python-requests/2.32"[..])]);
        let content = [(ContentKind::Url, url.to_vec()), (ContentKind::RequestHead, head)];
        let seq = self.event(request.into(), None, &content);
        let response = HttpResponse {
            request_no: self.steps,
            verdict: "allow".into(),
            host: host.into(),
            port: 80,
            status: Some(status),
            outcome: "complete".into(),
            bytes_out: 900,
            bytes_in: 12,
            request_digest: None,
            response_digest: None,
            media_type: Some("text/plain".into()),
            duration_us: 30_000,
            correlation: None,
        };
        self.event(response.into(), Some(seq), &[]);
        seq
    }

    /// A checkpoint.
    pub fn checkpoint(&mut self) -> i64 {
        let body = SessionCheckpoint {
            count: self.chain.next_seq(),
            head: self.chain.head(),
            root: self.chain.root(),
            signature: vec![0; 64],
        };
        self.event(body.into(), None, &[])
    }

    /// The end.
    pub fn close(&mut self) -> i64 {
        let body = SessionClosed {
            reason: "client".into(),
            statements: self.row.statements,
            rows: self.row.rows,
            bytes_in: self.row.bytes_in,
            bytes_out: self.row.bytes_out,
            duration_us: (self.now_ns - self.row.started_ns) / 1000,
        };
        let seq = self.event(body.into(), None, &[]);
        self.row.ended_ns = Some(self.row.last_activity_ns);
        self.row.state = "sealed".into();
        self.row.end_reason = Some("client".into());
        seq
    }

    /// Alters an event that is not yet in the lake.
    pub fn tamper(&mut self, alter: impl FnOnce(&mut Vec<Event>)) {
        alter(&mut self.events);
    }
}

impl LakeDir {
    /// A lake in `directory`.
    pub async fn create(directory: &Path) -> Self {
        let store = Store::create(directory.to_str().unwrap()).unwrap();
        let mut lake = Lake::open(store).await.unwrap();
        lake.add_stream(&stream(), 0, 0).await.unwrap();
        Self { lake, key: EpochKey::from_seed(&[5; 32]), position: 0, files: 0 }
    }

    async fn put(&mut self, mut file: EncodedFile, hour: Option<Hour>) -> FileEntry {
        self.files += 1;
        let stream = stream();
        let name = FileName { stream: &stream, generation: 0, from: self.position, n: self.files, writer: 1 };
        file.entry.path = layout::data_file(file.entry.table.0, hour, name);
        self.lake.store().put_new(&file.entry.path, file.bytes).await.unwrap();
        file.entry
    }

    /// Commits what was recorded since the last commit.
    pub async fn commit(&mut self, recordings: &mut [&mut Recording], found: &[FindingRow]) {
        let mut files = Vec::new();
        let events: Vec<Event> = recordings.iter_mut().flat_map(|r| std::mem::take(&mut r.events)).collect();
        for family in Family::EVENTS {
            let of = |e: &&Event| e.table().unwrap().family == family;
            let mut hours: Vec<Hour> =
                events.iter().filter(of).map(|e| Hour::of_ns(e.envelope.ts_wall_ns)).collect();
            hours.sort_by_key(|h| h.0);
            hours.dedup();
            for hour in hours {
                let mut rows: Vec<_> =
                    events.iter().filter(of).filter(|e| Hour::of_ns(e.envelope.ts_wall_ns) == hour).collect();
                rows.sort_by_key(|e| (e.envelope.session, e.envelope.seq));
                let batch = columns::encode(family, rows).unwrap();
                files.push(self.put(file::encode(Table::Events(family), &batch).unwrap(), Some(hour)).await);
            }
        }
        let chunks: Vec<SealedChunk> =
            recordings.iter_mut().flat_map(|r| std::mem::take(&mut r.chunks)).collect();
        for recording in recordings.iter() {
            let id = recording.session();
            let mut of: Vec<_> = chunks.iter().filter(|c| c.session == id).collect();
            of.sort_by_key(|c| (c.content_no, c.index));
            if !of.is_empty() {
                let batch = content_columns::encode(of).unwrap();
                let encoded = file::encode(Table::Content, &batch).unwrap();
                files.push(self.put(encoded, Some(Hour::of_session(id))).await);
            }
        }
        let mut texts: Vec<_> =
            recordings.iter_mut().flat_map(|r| std::mem::take(&mut r.templates)).collect();
        texts.sort_by_key(|t| t.fingerprint);
        let batch = templates::encode(&texts).unwrap();
        files.push(self.put(file::encode(Table::Templates, &batch).unwrap(), None).await);
        recordings.iter_mut().for_each(|r| r.row.revision += 1);
        let mut rows: Vec<SessionRow> = recordings.iter().map(|r| r.row.clone()).collect();
        rows.sort_by_key(|r| r.session_id);
        let batch = sessions::encode(&rows).unwrap();
        files.push(self.put(file::encode(Table::Sessions, &batch).unwrap(), None).await);
        if !found.is_empty() {
            let batch = findings::encode(found).unwrap();
            files.push(self.put(file::encode(Table::Findings, &batch).unwrap(), None).await);
        }
        for recording in recordings.iter() {
            let wrapped = tenant().wrap(recording.session(), &recording.key);
            let path = layout::session_key(recording.session());
            self.lake.store().put_once(&path, wrapped.into()).await.unwrap();
            let name = tenant().wrap_name(recording.row.principal_ref, &recording.principal);
            let path = layout::directory_entry(recording.row.principal_ref);
            self.lake.store().put_once(&path, name.into()).await.unwrap();
        }
        let states = recordings.iter().map(|r| SessionState {
            session: r.session(),
            next_seq: r.chain.next_seq(),
            head: r.chain.head(),
            open: r.row.state == "open",
        });
        let commit = Commit {
            version: VERSION,
            stream: stream(),
            generation: 0,
            from: self.position,
            to: self.position + 100,
            created_ns: T0,
            previous: None,
            files,
            replaces: vec![],
            deleted_to: 0,
            sessions: states.collect(),
            ledger: None,
            duplicates: 0,
            recorder: Digest::ZERO,
            signature: Signature::NONE,
        };
        self.position += 100;
        self.lake.commit(commit, &self.key).await.unwrap();
    }
}

fn stream() -> StreamName {
    "gw-1/0".parse().unwrap()
}

/// A finding about a session with one or more evidence events.
pub fn finding(recording: &Recording, rule: &str, evidence: &[i64]) -> FindingRow {
    let session = recording.session().to_string();
    FindingRow {
        id: Id16([evidence.len() as u8; 16]),
        rule: rule.into(),
        rule_version: "1.0".into(),
        severity: "high".into(),
        window_start_ns: T0,
        window_end_ns: T0 + 3600 * SECOND,
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

/// The company's lake of the tests: a bulk read that leaves by egress, an ordinary session that goes on, and
/// one whose chain does not hold.
pub struct Company {
    pub dir: LakeDir,
    pub bulk: Recording,
    pub egress: Recording,
    pub live: Recording,
    pub broken: Recording,
}

/// Text that must never reach a terminal as it is.
pub const HOSTILE: &[u8] =
    b"\x1b[31mred\x1b]52;c;aGFja2Vk\x07 \xc2\x9b2J c1 \r\n\0nul \xe2\x80\xae bidi \xe2\x81\xa6 \xef\xbb\xbf end";

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

/// A DataRow frame.
pub fn data_row(cells: &[Option<Vec<u8>>]) -> Vec<u8> {
    let mut body = i16::try_from(cells.len()).unwrap().to_be_bytes().to_vec();
    for cell in cells {
        match cell {
            None => body.extend((-1i32).to_be_bytes()),
            Some(bytes) => {
                body.extend(i32::try_from(bytes.len()).unwrap().to_be_bytes());
                body.extend(bytes);
            }
        }
    }
    let mut frame = vec![b'D'];
    frame.extend((i32::try_from(body.len()).unwrap() + 4).to_be_bytes());
    frame.extend(body);
    frame
}

/// A RowDescription body of text columns.
pub fn row_description(columns: &[&str]) -> Vec<u8> {
    let mut body = i16::try_from(columns.len()).unwrap().to_be_bytes().to_vec();
    for (i, name) in columns.iter().enumerate() {
        body.extend(name.as_bytes());
        body.push(0);
        body.extend(16_400i32.to_be_bytes());
        body.extend(i16::try_from(i + 1).unwrap().to_be_bytes());
        body.extend(25i32.to_be_bytes());
        body.extend((-1i16).to_be_bytes());
        body.extend((-1i32).to_be_bytes());
        body.extend(0i16.to_be_bytes());
    }
    body
}
