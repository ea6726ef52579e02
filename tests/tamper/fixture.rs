//! A recorded lake in memory, and what tests do to it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, LazyLock};

use crate::support::spool::records;
use bodycam_bus::{Record, SpoolConfig};
use bodycam_lake::columns::sessions::{self, SessionRow};
use bodycam_lake::columns::templates::{self, TemplateRow};
use bodycam_lake::columns::{self, Table};
use bodycam_lake::commit::{
    Commit, FileEntry, LedgerState, SessionState, Signature, StreamEntry, TableName, VERSION,
};
use bodycam_lake::layout::{self, FileName, Hour, StreamName};
use bodycam_lake::{EncodedFile, file};
use bodycam_proxy::clock::Clock;
use bodycam_proxy::recording::{Opening, Producer, ProducerOptions, SessionPen};
use bodycam_record::kinds::sql::{SqlResult, SqlStatement};
use bodycam_record::kinds::{Body, KindTable};
use bodycam_record::value::{Type, Value};
use bodycam_record::{
    ContentKind, Digest, EpochKey, Event, Family, Genesis, Id16, LedgerRecord, PrincipalRef, SealedChunk,
    SessionId, TenantKey,
};
use bodycam_verify::{Class, Files, Options, Report, Sequential, Trust};
use bytes::Bytes;

pub const PRODUCER: &str = "gw-1";
const START_NS: i64 = 1_795_255_200_000_000_000;

/// The tenant key of every recording here.
pub fn tenant() -> TenantKey {
    TenantKey::new([1; 32])
}

/// The recorder's key, which R does not have.
pub fn recorder_key() -> EpochKey {
    EpochKey::from_seed(&[9; 32])
}

/// The key with which R signs commits.
pub fn thief_key() -> EpochKey {
    EpochKey::from_seed(&[66; 32])
}

/// Everything that a producer wrote.
#[derive(Clone)]
pub struct Recording {
    pub events: Vec<Event>,
    pub chunks: Vec<SealedChunk>,
    pub ledger: Vec<LedgerRecord>,
    pub keys: Vec<(SessionId, Vec<u8>)>,
    pub names: Vec<(PrincipalRef, Vec<u8>)>,
    pub texts: Vec<TemplateRow>,
}

/// A lake in memory.
#[derive(Clone, Default)]
pub struct Lake {
    pub objects: BTreeMap<String, Bytes>,
}

impl Files for Lake {
    fn read(&self, path: &str, _limit: u64) -> Result<Option<Bytes>, String> {
        // As the command does with a directory.
        if path.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err("not a path inside the lake".to_owned());
        }
        Ok(self.objects.get(path).cloned())
    }

    fn list(&self, folder: &str) -> Result<Option<Vec<String>>, String> {
        Ok(Some(self.objects.keys().filter(|k| k.starts_with(folder)).cloned().collect()))
    }
}

/// Sessions `ada`, `bob` and `eve`, all sealed, `ada` with a checkpoint in the middle, recorded once.
pub fn recording() -> &'static Recording {
    static RECORDING: LazyLock<Recording> = LazyLock::new(|| record(End::Stop));
    &RECORDING
}

/// As [`recording`], but `eve` is open when the process dies, and the next one declares it.
pub fn crashed_recording() -> &'static Recording {
    static RECORDING: LazyLock<Recording> = LazyLock::new(|| record(End::CrashAndRestart));
    &RECORDING
}

/// As [`recording`], but `eve` is still open.
pub fn open_recording() -> &'static Recording {
    static RECORDING: LazyLock<Recording> = LazyLock::new(|| record(End::Open));
    &RECORDING
}

#[derive(Clone, Copy, PartialEq)]
enum End {
    Stop,
    Open,
    CrashAndRestart,
}

fn record(end: End) -> Recording {
    // On a thread of its own: the caller can be inside a runtime already.
    let recorded = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(record_sessions(end))
    });
    recorded.join().unwrap()
}

async fn record_sessions(end: End) -> Recording {
    let dir = tempfile::tempdir().unwrap();
    record_in(dir.path(), end).await
}

/// Records three sealed sessions in a spool below `dir`.
pub async fn spool(dir: &std::path::Path) {
    record_in(dir, End::Stop).await;
}

async fn record_in(dir: &std::path::Path, end: End) -> Recording {
    let crashed = tempfile::tempdir().unwrap();
    let clock = Clock::simulated();
    clock.set(START_NS);
    let producer = Producer::start(options(dir, clock.clone())).unwrap();
    let lane = producer.lane(0).unwrap();
    let mut pens = Vec::new();
    for name in ["ada", "bob", "eve"] {
        let mut pen = lane.open_session(opening(name)).unwrap();
        pen.persist().await.unwrap();
        pens.push(pen);
    }
    for round in 1..=6 {
        for (pen, rows) in pens.iter_mut().zip([10, 20, 30]) {
            statement(pen, round, rows * round).await;
        }
        producer.heartbeat().unwrap();
        if round == 3 {
            clock.advance(std::time::Duration::from_secs(61));
            pens[0].tick().unwrap();
            pens[0].persist().await.unwrap();
        }
    }
    let eve = pens.pop().unwrap();
    for pen in pens {
        pen.close("client").await.unwrap();
    }
    match end {
        End::Stop => {
            eve.close("client").await.unwrap();
            producer.heartbeat().unwrap();
            producer.stop("drain").unwrap();
            read(dir)
        }
        End::Open => {
            producer.heartbeat().unwrap();
            let recording = read(dir);
            drop(eve);
            recording
        }
        End::CrashAndRestart => {
            // What a killed process leaves is what the disk holds at that moment.
            copy(dir, crashed.path());
            drop(eve);
            let again = Producer::start(options(crashed.path(), clock)).unwrap();
            again.heartbeat().unwrap();
            again.stop("drain").unwrap();
            read(crashed.path())
        }
    }
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            std::fs::create_dir_all(&target).unwrap();
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn options(dir: &std::path::Path, clock: Clock) -> ProducerOptions {
    ProducerOptions {
        producer: PRODUCER.to_owned(),
        tenant: "acme".to_owned(),
        tenant_key: tenant(),
        spool: SpoolConfig { dir: dir.to_owned(), ..SpoolConfig::default() },
        policy_digest: Digest([7; 32]),
        config_digest: Digest([8; 32]),
        hold_seconds: 1,
        clock,
    }
}

fn opening(principal: &str) -> Opening {
    Opening {
        protocol: "postgres",
        principal: principal.to_owned(),
        principal_kind: "person".to_owned(),
        auth_method: "token".to_owned(),
        target: "crm".to_owned(),
        database: "app".to_owned(),
        client_address: "192.0.2.7".to_owned(),
        ..Opening::default()
    }
}

async fn statement(pen: &mut SessionPen, no: i64, rows: i64) {
    let mut content = pen.content();
    let sql = format!("SELECT * FROM customers LIMIT {rows}");
    pen.put(&mut content, ContentKind::SqlText, sql.as_bytes()).unwrap();
    let Body::SqlStatement(statement) = plain("sql.statement") else { panic!("a statement") };
    let template = "SELECT * FROM customers LIMIT $1";
    let fingerprint = pen.tenant_key().fingerprint(template);
    pen.template(fingerprint, template).unwrap();
    let fingerprint = Some(fingerprint);
    let statement = SqlStatement {
        statement_no: no,
        statement_kind: "select".to_owned(),
        verdict: "allow".to_owned(),
        fingerprint,
        main_relation: Some("public.customers".to_owned()),
        relations_read: vec!["public.customers".to_owned()],
        limit_rows: Some(rows),
        ..statement
    };
    let seq = pen.event(statement.into(), None, Some(content)).unwrap();
    let Body::SqlResult(result) = plain("sql.result") else { panic!("a result") };
    let result = SqlResult {
        statement_no: no,
        statement_kind: "select".to_owned(),
        verdict: "allow".to_owned(),
        outcome: "complete".to_owned(),
        fingerprint,
        main_relation: Some("public.customers".to_owned()),
        tag: format!("SELECT {rows}"),
        rows,
        bytes: rows * 100,
        column_types: vec![23, 25],
        ..result
    };
    pen.event(result.into(), Some(seq), None).unwrap();
    pen.totals().statements += 1;
    pen.totals().bytes_out += rows * 100;
    pen.persist().await.unwrap();
}

/// A body of a kind with zeros, nothing in its optional fields and nothing in its lists.
fn plain(kind: &str) -> Body {
    let table = KindTable::named(kind).unwrap();
    let value = |ty| match ty {
        Type::Bool => Value::Bool(false),
        Type::Int => Value::Int(0),
        Type::Text => Value::Text(String::new()),
        Type::Bytes => Value::Bytes(Vec::new()),
        Type::Id16 => Value::Id16(Id16::ZERO),
        Type::Digest => Value::Digest(Digest::ZERO),
        Type::IntList => Value::IntList(Vec::new()),
        Type::TextList => Value::TextList(Vec::new()),
    };
    let values = table.fields.iter().map(|f| if f.optional { Value::Absent } else { value(f.ty) }).collect();
    Body::from_values(table.code, table.version, values).unwrap()
}

fn read(dir: &std::path::Path) -> Recording {
    let mut out = Recording {
        events: vec![],
        chunks: vec![],
        ledger: vec![],
        keys: vec![],
        names: vec![],
        texts: vec![],
    };
    for record in records(&SpoolConfig { dir: dir.to_owned(), ..SpoolConfig::default() }) {
        match record {
            Record::Event(event) => out.events.push(*event),
            Record::Chunk(chunk) => out.chunks.push(chunk),
            Record::Ledger(record) => out.ledger.push(*record),
            Record::Key { session, wrapped } => out.keys.push((session, wrapped)),
            Record::Name { principal_ref, wrapped } => out.names.push((principal_ref, wrapped)),
            Record::Template { fingerprint, text } => out.texts.push(TemplateRow { fingerprint, text }),
            Record::State(_) => {}
        }
    }
    out
}

impl Recording {
    /// The sessions, in the order in which they were opened: `ada`, `bob`, `eve`.
    pub fn sessions(&self) -> Vec<SessionId> {
        let opens = self.ledger.iter().filter_map(|r| match r.decode_body().unwrap() {
            Body::LedgerOpen(open) => Some(open.session_id),
            _ => None,
        });
        opens.collect()
    }

    /// Index of an event.
    pub fn at(&self, session: SessionId, seq: i64) -> usize {
        self.events.iter().position(|e| (e.envelope.session, e.envelope.seq) == (session, seq)).unwrap()
    }

    /// Number of the events of a session.
    pub fn count(&self, session: SessionId) -> i64 {
        self.events.iter().filter(|e| e.envelope.session == session).count() as i64
    }

    /// Changes the body of an event, and not its hash.
    pub fn edit(&mut self, session: SessionId, seq: i64, change: impl FnOnce(&mut Body)) {
        let at = self.at(session, seq);
        let event = &mut self.events[at];
        let mut body = event.decode_body().unwrap();
        change(&mut body);
        event.body = body.canonical();
        event.envelope.body_digest = body.table().body_digest(&event.body);
    }

    /// What R does: recomputes every hash of a session in the order of its numbers, from its own genesis.
    pub fn rehash(&mut self, session: SessionId) {
        let mut events: Vec<&mut Event> =
            self.events.iter_mut().filter(|e| e.envelope.session == session).collect();
        events.sort_by_key(|e| e.envelope.seq);
        let mut prev = Digest::ZERO;
        for event in events {
            if let Body::SessionOpened(opened) = event.decode_body().unwrap()
                && event.envelope.seq == 0
            {
                let e = &event.envelope;
                let (producer, epoch, policy_digest) = (e.producer.as_str(), e.epoch, e.policy_digest);
                prev = Genesis { producer, epoch, session, policy_digest, opened: &opened }.digest();
            }
            event.envelope.prev = prev;
            event.hash = event.envelope.hash();
            prev = event.hash;
        }
    }

    /// The lake, as the recorder would have committed it.
    pub fn lake(&self) -> Lake {
        self.lake_by(&recorder_key())
    }

    /// The lake, with commits signed by `key`.
    pub fn lake_by(&self, key: &EpochKey) -> Lake {
        let mut lake = Lake::default();
        let lane: StreamName = "gw-1/0".parse().unwrap();
        let ledger_lane: StreamName = "gw-1/ledger".parse().unwrap();
        for (n, stream) in [&lane, &ledger_lane].into_iter().enumerate() {
            let entry = StreamEntry {
                version: VERSION,
                stream: stream.clone(),
                generation: 0,
                from: 0,
                origin: None,
            };
            lake.put(&layout::stream(n as u64), entry.to_json());
        }
        // Two commits, so that every session lies in several files.
        let (early, late): (Vec<&Event>, Vec<&Event>) = self.events.iter().partition(|e| e.envelope.seq < 6);
        let mut previous = None;
        for (from, to, events) in [(0, 50, early), (50, 100, late)] {
            let mut files = Vec::new();
            for ((family, hour), mut rows) in grouped(&events) {
                rows.sort_by_key(|e| (e.envelope.session, e.envelope.seq));
                let table = Table::Events(family);
                let batch = columns::encode(family, rows).unwrap();
                files.push(lake.data(
                    &lane,
                    from,
                    files.len(),
                    table,
                    Some(hour),
                    file::encode(table, &batch).unwrap(),
                ));
            }
            if from == 0 && !self.chunks.is_empty() {
                let mut chunks: Vec<&SealedChunk> = self.chunks.iter().collect();
                chunks.sort_by_key(|c| (c.session, c.content_no, c.index));
                let hour = Hour::of_session(chunks[0].session);
                let batch = columns::content::encode(chunks).unwrap();
                let encoded = file::encode(Table::Content, &batch).unwrap();
                files.push(lake.data(&lane, from, files.len(), Table::Content, Some(hour), encoded));
            }
            if from == 0 && !self.texts.is_empty() {
                let encoded =
                    file::encode(Table::Templates, &templates::encode(&self.texts).unwrap()).unwrap();
                files.push(lake.data(&lane, from, files.len(), Table::Templates, None, encoded));
            }
            if from > 0 {
                let rows = self.index();
                let encoded = file::encode(Table::Sessions, &sessions::encode(&rows).unwrap()).unwrap();
                files.push(lake.data(&lane, from, files.len(), Table::Sessions, None, encoded));
            }
            let commit = self.commit(&lane, from, to, previous, files);
            previous = Some(lake.commit(commit, key));
        }
        let mut records: Vec<&LedgerRecord> = self.ledger.iter().collect();
        records.sort_by_key(|r| (&r.producer, r.seq));
        if let Some(last) = records.last().copied() {
            let table = Table::Events(Family::Ledger);
            let batch = columns::encode_ledger(records).unwrap();
            let hour = Hour::of_ns(self.ledger[0].ts_wall_ns);
            let encoded = file::encode(table, &batch).unwrap();
            let file = lake.data(&ledger_lane, 0, 0, table, Some(hour), encoded);
            let mut commit = self.commit(&ledger_lane, 0, 100, None, vec![file]);
            commit.sessions.clear();
            commit.ledger = Some(self.ledger_state(last));
            lake.commit(commit, key);
        }
        for (session, wrapped) in &self.keys {
            lake.put(&layout::session_key(*session), wrapped.clone());
        }
        for (principal, wrapped) in &self.names {
            lake.put(&layout::directory_entry(*principal), wrapped.clone());
        }
        lake
    }

    /// The rows of the index of sessions, as the recorder would have made them.
    fn index(&self) -> Vec<SessionRow> {
        let mut rows: BTreeMap<SessionId, SessionRow> = BTreeMap::new();
        let mut events: Vec<&Event> = self.events.iter().collect();
        events.sort_by_key(|e| (e.envelope.session, e.envelope.seq));
        // The same event again is dropped.
        events.dedup_by_key(|e| (e.envelope.session, e.envelope.seq, e.hash));
        for event in events {
            let session = event.envelope.session;
            let row = rows.entry(session).or_insert_with(|| SessionRow::blank(session));
            row.take(&event.envelope, &event.body, event.hash);
        }
        for record in &self.ledger {
            if let Ok(Body::LedgerCrash(crash)) = record.decode_body()
                && let Some(row) = rows.get_mut(&crash.session_id)
            {
                row.crash();
            }
        }
        rows.into_values().collect()
    }

    fn ledger_state(&self, last: &LedgerRecord) -> LedgerState {
        let start = self.ledger.iter().rev().find_map(|r| match r.decode_body().unwrap() {
            Body::LedgerStart(start) => Some(start),
            _ => None,
        });
        LedgerState {
            producer: last.producer.clone(),
            epoch: last.epoch,
            producer_key: start.as_ref().map_or(Digest::ZERO, |s| s.producer_key),
            epoch_key: start.as_ref().map_or(Digest::ZERO, |s| s.epoch_key),
            next_seq: last.seq + 1,
            head: last.hash,
            watermark_ns: last.ts_wall_ns,
            stopped: last.kind == 106,
        }
    }

    fn commit(
        &self,
        stream: &StreamName,
        from: u64,
        to: u64,
        previous: Option<Digest>,
        files: Vec<FileEntry>,
    ) -> Commit {
        let mut newest: HashMap<SessionId, &Event> = HashMap::new();
        let events = files.iter().filter(|f| matches!(f.table.0, Table::Events(_)));
        let held = events.filter_map(|f| f.sessions.as_ref()).flatten();
        let upto: HashMap<SessionId, i64> = held.fold(HashMap::new(), |mut all, range| {
            let known = all.entry(range.session).or_insert(0);
            *known = range.seq_to.max(*known);
            all
        });
        for event in self
            .events
            .iter()
            .filter(|e| upto.get(&e.envelope.session).is_some_and(|to| e.envelope.seq <= *to))
        {
            let known = newest.entry(event.envelope.session).or_insert(event);
            if event.envelope.seq > known.envelope.seq {
                *known = event;
            }
        }
        let mut sessions: Vec<SessionState> = newest
            .into_iter()
            .map(|(session, event)| SessionState {
                session,
                next_seq: event.envelope.seq + 1,
                head: event.hash,
                open: event.envelope.kind != 3,
            })
            .collect();
        sessions.sort_by_key(|s| s.session);
        Commit {
            version: VERSION,
            stream: stream.clone(),
            generation: 0,
            from,
            to,
            created_ns: START_NS + 100_000_000_000,
            previous,
            files,
            replaces: vec![],
            deleted_to: 0,
            sessions,
            ledger: None,
            duplicates: 0,
            recorder: Digest::ZERO,
            signature: Signature::NONE,
        }
    }
}

fn grouped<'a>(events: &[&'a Event]) -> BTreeMap<(Family, Hour), Vec<&'a Event>> {
    let mut groups: BTreeMap<(Family, Hour), Vec<&Event>> = BTreeMap::new();
    for event in events {
        let family = event.table().unwrap().family;
        groups.entry((family, Hour::of_ns(event.envelope.ts_wall_ns))).or_default().push(event);
    }
    groups
}

impl Lake {
    pub fn put(&mut self, path: &str, bytes: Vec<u8>) {
        self.objects.insert(path.to_owned(), bytes.into());
    }

    /// Adds a data file under its usual name; gives its entry.
    pub fn data(
        &mut self,
        stream: &StreamName,
        from: u64,
        n: usize,
        table: Table,
        hour: Option<Hour>,
        encoded: EncodedFile,
    ) -> FileEntry {
        let path = layout::data_file(table, hour, FileName { stream, generation: 0, from, n, writer: 1 });
        self.objects.insert(path.clone(), encoded.bytes);
        FileEntry { path, ..encoded.entry }
    }

    /// Signs and adds a commit; gives its digest.
    pub fn commit(&mut self, mut commit: Commit, key: &EpochKey) -> Digest {
        commit.sign(key);
        self.put(&commit.path(), commit.to_json());
        commit.digest()
    }

    /// The commits of the event lane and the ledger.
    pub fn commits(&self) -> Vec<Commit> {
        let commits = self.objects.iter().filter(|(path, _)| path.starts_with("commits/"));
        commits.map(|(path, bytes)| Commit::parse(path, bytes).unwrap()).collect()
    }

    /// Path of the first live file of a table that holds this event.
    pub fn path_of(&self, table: Table, session: SessionId, seq: i64) -> String {
        let holds = |f: &&FileEntry| {
            let ranges = f.sessions.as_deref().unwrap_or_default();
            f.table == TableName(table)
                && ranges.iter().any(|r| r.session == session && r.seq_from <= seq && seq <= r.seq_to)
        };
        let files: Vec<FileEntry> = self.commits().into_iter().flat_map(|c| c.files).collect();
        files.iter().find(holds).unwrap().path.clone()
    }

    /// What R does after changing a data file: all commits state it as it is now, signed with R's own key.
    pub fn recommit(&mut self) {
        let mut previous: HashMap<StreamName, Digest> = HashMap::new();
        let mut commits = self.commits();
        commits.sort_by_key(|c| (c.stream.clone(), c.from));
        for mut commit in commits {
            commit.previous = previous.get(&commit.stream).copied();
            for entry in &mut commit.files {
                if let Some(bytes) = self.objects.get(&entry.path) {
                    (entry.bytes, entry.sha256) = (bytes.len() as u64, file::sha256(bytes));
                }
            }
            let stream = commit.stream.clone();
            let digest = self.commit(commit, &thief_key());
            previous.insert(stream, digest);
        }
    }
}

/// What the verifier says, without any key.
pub fn verify(lake: &Lake) -> Report {
    verify_with(lake, &Options::default())
}

/// What the verifier says.
pub fn verify_with(lake: &Lake, options: &Options) -> Report {
    bodycam_verify::run(lake, options, &Sequential, &|_| {})
}

/// Options with the recorder's key and the producer's key pinned.
pub fn pinned(recording: &Recording) -> Options {
    let Body::LedgerStart(start) = recording.ledger[0].decode_body().unwrap() else { panic!("START") };
    let text = format!("producer {PRODUCER} {}\nrecorder {}\n", start.producer_key, recorder_key().public());
    Options { trust: Some(Trust::parse(&text).unwrap()), ..Options::default() }
}

/// A finding as tests expect it: class, session, seq, last seq.
pub type Found = (Class, Option<SessionId>, Option<i64>, Option<i64>);

/// Findings but notices, in a stable order.
pub fn found(report: &Report) -> Vec<Found> {
    let mut all: Vec<Found> = report
        .faults
        .iter()
        .filter(|f| f.gravity != bodycam_verify::Gravity::Notice)
        .map(|f| (f.class, f.session, f.seq, f.seq_to))
        .collect();
    all.sort_unstable();
    all
}

/// The classes found, notices included.
pub fn classes(report: &Report) -> BTreeSet<Class> {
    report.faults.iter().map(|f| f.class).collect()
}

/// Asserts findings and exit code, and shows the report when they differ.
pub fn expect(what: &str, report: &Report, exit_code: u8, wanted: &[Found]) {
    let mut wanted = wanted.to_vec();
    wanted.sort_unstable();
    assert_eq!(found(report), wanted, "{what}\n{}", report.to_text());
    assert_eq!(report.exit_code, exit_code, "{what}\n{}", report.to_text());
}

/// Asserts that the file of a finding of this class, session and seq is the one that holds the event.
pub fn expect_path(report: &Report, class: Class, path: &str) {
    let paths: Vec<Option<&str>> =
        report.faults.iter().filter(|f| f.class == class).map(|f| f.path.as_deref()).collect();
    assert!(paths.contains(&Some(path)), "{class} in {path}: {paths:?}");
}

/// Used where a session that never was is needed.
pub fn foreign_session() -> SessionId {
    SessionId::new(START_NS as u64 / 1_000_000 + 5, [0xee; 10])
}

/// Files of a directory as a lake, for lakes that other programs wrote.
pub fn from_directory(dir: &std::path::Path) -> Lake {
    fn walk(root: &std::path::Path, dir: &std::path::Path, lake: &mut Lake) {
        for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
            if entry.path().is_dir() {
                walk(root, &entry.path(), lake);
            } else {
                let name = entry.path().strip_prefix(root).unwrap().to_str().unwrap().to_owned();
                lake.put(&name, std::fs::read(entry.path()).unwrap());
            }
        }
    }
    let mut lake = Lake::default();
    walk(dir, dir, &mut lake);
    lake
}

/// Writes a lake to a directory.
pub fn to_directory(lake: &Lake, dir: &std::path::Path) {
    for (path, bytes) in &lake.objects {
        let path = dir.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
}

/// Shared by tests that only read it.
pub fn clean_lake() -> Arc<Lake> {
    static LAKE: LazyLock<Arc<Lake>> = LazyLock::new(|| Arc::new(recording().lake()));
    Arc::clone(&LAKE)
}
