//! For the tests of this crate: a producer whose records are real (chains, seals, sealed content), a bus in
//! memory, stores that fail when they are told to, and a check that a lake holds exactly what the bus carried.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex};

use bodycam_bus::mark::Ends;
use bodycam_bus::spool::{LaneWriter, Spool};
use bodycam_bus::{
    Bus, BusError, Held, Progress, Publisher, Record, Scope, SpoolConfig, StreamId, Subscription,
};
use bodycam_lake::columns::sessions::SessionRow;
use bodycam_lake::content::{ContentReader, Opened};
use bodycam_lake::{Filter, Lake, Store, Table};
use bodycam_record::content::Commitment;
use bodycam_record::kinds::ledger::{LedgerCrash, LedgerHeartbeat, LedgerOpen, LedgerSeal, LedgerStop};
use bodycam_record::kinds::session::{SessionClosed, SessionOpened};
use bodycam_record::kinds::sql::{SqlResult, SqlStatement};
use bodycam_record::ledger::{Ledger, LedgerEnd, Start};
use bodycam_record::{
    Body, Chain, Chunk, ContentKind, Digest, Draft, EpochKey, Event, Family, Genesis, Id16, ProducerKey,
    SessionId, SessionKey, TenantKey,
};
use futures::TryStreamExt;
use object_store::memory::InMemory;

mod stores;

pub use stores::{Failing, Late};

/// 2026-11-21T10:00Z.
pub const T0: i64 = 1_795_255_200_000_000_000;
pub const SECOND: i64 = 1_000_000_000;

/// Streams in memory.
#[derive(Clone, Default)]
pub struct MemoryBus {
    pub streams: Arc<Mutex<BTreeMap<StreamId, Vec<Record>>>>,
    pub released: Arc<Mutex<BTreeMap<StreamId, i64>>>,
    /// What it was told that the lake holds.
    pub held: Arc<Mutex<BTreeMap<StreamId, Held>>>,
    /// Streams that have a fault at a position.
    pub faults: Arc<Mutex<BTreeMap<StreamId, (i64, Fault)>>>,
    pub origins: Arc<Mutex<BTreeMap<StreamId, Id16>>>,
    pub parked: Arc<Mutex<BTreeSet<StreamId>>>,
    /// Whether it says that several readers share it.
    pub shared: bool,
    /// Producers that are another reader's.
    pub revoked: Arc<Mutex<BTreeSet<String>>>,
}

/// Makes the error that a stream has.
pub type Fault = fn(String) -> BusError;

pub struct MemorySubscription {
    bus: MemoryBus,
    stream: StreamId,
    position: i64,
}

impl MemoryBus {
    pub fn push(&self, stream: &str, record: Record) {
        self.streams.lock().unwrap().entry(stream.parse().unwrap()).or_default().push(record);
    }

    pub fn records(&self) -> BTreeMap<StreamId, Vec<Record>> {
        self.streams.lock().unwrap().clone()
    }
}

impl Subscription for MemorySubscription {
    async fn next(&mut self, max_bytes: usize) -> Result<Vec<(i64, Record)>, BusError> {
        loop {
            if self.bus.revoked.lock().unwrap().contains(self.stream.producer()) {
                return Err(BusError::Revoked { stream: self.stream.to_string() });
            }
            let fault = self.bus.faults.lock().unwrap().get(&self.stream).copied();
            let fault = fault.filter(|(at, _)| *at >= self.position);
            let most = fault.map_or(usize::MAX, |(at, _)| usize::try_from(at - self.position).unwrap());
            if let (0, Some((_, fault))) = (most, fault) {
                return Err(fault(self.stream.to_string()));
            }
            let records: Vec<_> = {
                let streams = self.bus.streams.lock().unwrap();
                let all = &streams[&self.stream][usize::try_from(self.position).unwrap()..];
                let all = all.iter().take(most.min(max_bytes / 4096)).cloned();
                all.zip(self.position..).map(|(r, p)| (p, r)).collect()
            };
            if !records.is_empty() {
                self.position += records.len() as i64;
                return Ok(records);
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }

    fn position(&self) -> i64 {
        self.position
    }
}

impl Bus for MemoryBus {
    type Subscription = MemorySubscription;
    type Mark = Ends;

    fn is_shared(&self) -> bool {
        self.shared
    }

    fn holds(&self, held: BTreeMap<StreamId, Held>) -> Result<(), BusError> {
        self.held.lock().unwrap().extend(held);
        Ok(())
    }

    fn asks(&self) -> Result<bool, BusError> {
        Ok(false)
    }

    fn goes_on(&self, stream: &StreamId, held: Held) -> Result<(), BusError> {
        self.held.lock().unwrap().insert(stream.clone(), held);
        Ok(())
    }

    fn streams(&self) -> Result<Vec<StreamId>, BusError> {
        let revoked = self.revoked.lock().unwrap();
        let streams = self.streams.lock().unwrap();
        Ok(streams.keys().filter(|id| !revoked.contains(id.producer())).cloned().collect())
    }

    fn subscribe(&self, stream: &StreamId, from: i64) -> Result<MemorySubscription, BusError> {
        assert!(from >= self.released.lock().unwrap().get(stream).copied().unwrap_or(0));
        Ok(MemorySubscription { bus: self.clone(), stream: stream.clone(), position: from })
    }

    fn park(&self, stream: &StreamId) -> Result<(), BusError> {
        self.parked.lock().unwrap().insert(stream.clone());
        Ok(())
    }

    fn settle(&self, _: &StreamId, _: i64) -> Result<(), BusError> {
        Ok(())
    }

    fn release(&self, stream: &StreamId, to: i64) -> Result<(), BusError> {
        self.released.lock().unwrap().insert(stream.clone(), to);
        Ok(())
    }

    fn known_end(&self, stream: &StreamId) -> Result<Option<i64>, BusError> {
        Ok(Some(self.streams.lock().unwrap()[stream].len() as i64))
    }

    fn origin(&self, stream: &StreamId) -> Result<Option<Id16>, BusError> {
        Ok(self.origins.lock().unwrap().get(stream).copied())
    }

    fn mark(&self, scope: Scope<'_>) -> Result<Ends, BusError> {
        Ok(Ends::of(self.streams()?.into_iter().filter(|stream| scope.holds(stream))))
    }

    fn passed(&self, mark: &mut Ends, progress: &BTreeMap<StreamId, Progress>) -> Result<bool, BusError> {
        mark.passed(progress, |stream| Ok(self.known_end(stream)?.unwrap_or(0)))
    }
}

/// A gateway that writes real records.
pub struct Gateway {
    pub bus: MemoryBus,
    pub producer: String,
    pub tenant: TenantKey,
    pub ledger: Ledger,
    pub now: i64,
    pub sessions: BTreeMap<u64, Open>,
    seal_key: EpochKey,
    next: u64,
}

pub struct Open {
    pub chain: Chain,
    pub key: SessionKey,
    pub lane: String,
    open_seq: i64,
    content: i64,
    statements: i64,
}

impl Gateway {
    pub fn start(bus: &MemoryBus, producer: &str, end: Option<LedgerEnd>) -> Self {
        let seed = [producer.len() as u8; 32];
        let (epoch, seal_key) = (EpochKey::from_seed(&[9; 32]), EpochKey::from_seed(&[9; 32]));
        let start = Start {
            config_digest: Digest([1; 32]),
            inherited: vec![],
            simulated_clock: false,
            software: "test".into(),
        };
        let long_term = ProducerKey::from_seed(&seed);
        let (ledger, record) = Ledger::start(producer, &long_term, epoch, end, start, T0);
        bus.push(&format!("{producer}/ledger"), Record::Ledger(Box::new(record)));
        Self {
            bus: bus.clone(),
            producer: producer.to_owned(),
            tenant: TenantKey::new([4; 32]),
            ledger,
            now: T0,
            sessions: BTreeMap::new(),
            seal_key,
            next: 0,
        }
    }

    fn ledger(&mut self, body: impl Into<Body>) {
        let record = self.ledger.append(body.into(), self.now);
        self.bus.push(&format!("{}/ledger", self.producer), Record::Ledger(Box::new(record)));
    }

    fn push_event(&self, lane: &str, event: Event) {
        self.bus.push(&format!("{}/{lane}", self.producer), Record::Event(Box::new(event)));
    }

    fn draft(&mut self, body: impl Into<Body>) -> Draft {
        self.now += SECOND / 1000;
        Draft { ts_wall_ns: self.now, ts_mono_ns: 0, parent_seq: None, body: body.into(), content: None }
    }

    /// Opens a session on one of two lanes; gives its number.
    pub fn open(&mut self) -> u64 {
        let n = self.next;
        self.next += 1;
        let millis = u64::try_from(self.now / 1_000_000).unwrap() + n;
        let mut random = [self.producer.len() as u8; 10];
        random[2..].copy_from_slice(&n.to_le_bytes());
        let session = SessionId::new(millis, random);
        let key = SessionKey::new([n as u8; 32]);
        let principal = self.tenant.principal_ref("agent-7");
        let opened = SessionOpened {
            tenant: "acme".into(),
            nonce: Digest([n as u8; 32]),
            identity_digest: Digest([2; 32]),
            target_digest: Digest([3; 32]),
            key_digest: key.digest(),
            ledger_seq: self.ledger.next_seq(),
            protocol: "postgres".into(),
            principal_kind: "agent".into(),
            auth_method: "token".into(),
            credential: Id16([5; 16]),
            client_address: Id16([6; 16]),
            credential_addresses: 1,
            database: "shop".into(),
            upstream_role: "app".into(),
            client_tls: false,
            upstream_tls: false,
            protocol_version: "3.0".into(),
            correlation: None,
            simulated_clock: false,
        };
        let genesis = Genesis {
            producer: &self.producer,
            epoch: self.ledger.epoch(),
            session,
            policy_digest: Digest([8; 32]),
            opened: &opened,
        };
        let (mut chain, digest) = (Chain::start(&genesis, principal, "shop"), genesis.digest());
        let open_seq = self.ledger.next_seq();
        self.ledger(LedgerOpen {
            session_id: session,
            genesis: digest,
            key_digest: key.digest(),
            principal_ref: principal,
            target: "shop".into(),
        });
        let keys = format!("{}/keys", self.producer);
        let name = self.tenant.wrap_name(principal, "agent-7");
        self.bus.push(&keys, Record::Name { principal_ref: principal, wrapped: name });
        self.bus.push(&keys, Record::Key { session, wrapped: self.tenant.wrap(session, &key) });
        let lane = (n % 2).to_string();
        let draft = self.draft(opened);
        let event = chain.append(&draft);
        self.push_event(&lane, event);
        self.sessions.insert(n, Open { chain, key, lane, open_seq, content: 0, statements: 0 });
        n
    }

    /// A statement with content, and its result.
    pub fn statement(&mut self, n: u64) {
        let text = format!("select * from orders where id = {n}");
        let template = "SELECT * FROM orders WHERE id = $1";
        let fingerprint = self.tenant.fingerprint(template);
        self.now += SECOND;
        let open = self.sessions.get_mut(&n).unwrap();
        open.statements += 1;
        let (no, statement_no, lane) = (open.content, open.statements, open.lane.clone());
        open.content += 1;
        let chunk = Chunk { kind: ContentKind::SqlText, index: 0, bytes: text.clone().into_bytes() };
        let mut commitment = Commitment::new(&open.key, no);
        commitment.add(chunk.kind, &chunk.bytes);
        let (sealed, digest) =
            (chunk.seal(&open.key, open.chain.session(), no), open.key.keyed_digest(text.as_bytes()));
        let stream = format!("{}/{lane}", self.producer);
        self.bus.push(&stream, Record::Chunk(sealed));
        self.bus.push(&stream, Record::Template { fingerprint, text: template.into() });
        let mut draft = self.draft(SqlStatement {
            statement_no,
            form: "simple".into(),
            statement_kind: "select".into(),
            verdict: "allow".into(),
            fingerprint: Some(fingerprint),
            main_relation: Some("public.orders".into()),
            relations_read: vec!["public.orders".into()],
            relations_written: vec![],
            output_columns: vec!["*".into()],
            functions: vec![],
            has_predicate: true,
            limit_rows: None,
            offset_rows: None,
            statement_count: 1,
            opaque: vec![],
            est_rows: Some(10),
            statement_bytes: text.len() as i64,
            statement_digest: digest,
            bind_count: 0,
            bind_bytes: 0,
            binds_digest: None,
            portal: None,
            content_cut: false,
            correlation: None,
        });
        draft.content = commitment.finish().map(|c| (no, c));
        let result = self.draft(SqlResult {
            statement_no,
            result_no: 0,
            statement_kind: "select".into(),
            verdict: "allow".into(),
            fingerprint: Some(fingerprint),
            main_relation: Some("public.orders".into()),
            relations_seen: Vec::new(),
            outcome: "complete".into(),
            sqlstate: None,
            tag: "SELECT 3".into(),
            rows: 3,
            bytes: 120,
            column_tables: vec![16_384],
            column_attributes: vec![1],
            column_types: vec![23],
            column_formats: vec![0],
            rows_digest: None,
            rows_stored: 0,
            rows_cut: false,
            duration_us: 900,
            correlation: None,
        });
        let chain = &mut self.sessions.get_mut(&n).unwrap().chain;
        let events = [chain.append(&draft), chain.append(&result)];
        events.into_iter().for_each(|event| self.push_event(&lane, event));
    }

    pub fn close(&mut self, n: u64) {
        let mut open = self.sessions.remove(&n).unwrap();
        let draft = self.draft(SessionClosed {
            reason: "client".into(),
            statements: open.statements,
            rows: open.statements * 3,
            bytes_in: 10,
            bytes_out: 120,
            duration_us: 5,
        });
        let event = open.chain.append(&draft);
        self.push_event(&open.lane, event);
        let seal = LedgerSeal {
            session_id: open.chain.session(),
            count: open.chain.next_seq(),
            head: open.chain.head(),
            root: open.chain.root(),
            first_ts_ns: 0,
            last_ts_ns: 0,
            bytes_in: 0,
            bytes_out: 0,
            reason: "closed".into(),
            open_seq: open.open_seq,
            signature: self.seal_key.sign(open.chain.head()),
        };
        self.ledger(seal);
    }

    pub fn heartbeat(&mut self) {
        self.ledger(LedgerHeartbeat {
            accepted: 0,
            refused: 0,
            events: 0,
            dropped: 0,
            open_sessions: vec![],
            open_counts: vec![],
            open_heads: Digest::ZERO,
        });
    }

    /// Writes a CRASH record for a session of this gateway, as its next epoch would.
    pub fn crash(&mut self, n: u64) {
        let open = self.sessions.remove(&n).unwrap();
        self.ledger(LedgerCrash {
            session_id: open.chain.session(),
            session_epoch: 1,
            count: open.chain.next_seq(),
            head: open.chain.head(),
            unknown_outcome: vec![],
            open_seq: open.open_seq,
        });
    }

    pub fn stop(&mut self) {
        self.ledger(LedgerStop { reason: "drain".into(), events: 0, accepted: 0 });
    }

    /// A few sessions with statements, some of them closed; the rest stays open.
    pub fn work(&mut self, sessions: usize) {
        for i in 0..sessions {
            let n = self.open();
            (0..i % 4).for_each(|_| self.statement(n));
            if i % 3 != 2 {
                self.close(n);
            }
        }
        self.heartbeat();
    }
}

/// A row of the index of sessions, as of one event.
pub fn session_row(session_id: SessionId) -> SessionRow {
    SessionRow {
        session_id,
        revision: 1,
        principal_ref: Id16([1; 16]),
        principal_kind: "agent".into(),
        target: "shop".into(),
        protocol: "postgres".into(),
        database: "shop".into(),
        producer: "gw".into(),
        epoch: 1,
        started_ns: T0,
        ended_ns: None,
        last_activity_ns: T0,
        state: "open".into(),
        end_reason: None,
        statements: 1,
        rows: 0,
        bytes_in: 0,
        bytes_out: 0,
        denies: 0,
        errors: 0,
        events: 1,
        head: Digest::ZERO,
        simulated_clock: false,
        correlation: None,
    }
}

/// A store in memory, for tests that write very often and ask nothing of a disk.
pub fn memory() -> Store {
    in_memory(&InMemory::new())
}

/// A store with a copy of what `objects` holds now.
pub fn in_memory(objects: &InMemory) -> Store {
    Store::on(Arc::new(objects.fork()), "memory")
}

/// A store in a directory of its own.
pub fn directory() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create(dir.path().to_str().unwrap()).unwrap();
    (dir, store)
}

/// Asserts that the lake in `store` holds what the bus carried, each record exactly once, each chain whole,
/// each content openable, and nothing else.
pub async fn assert_lake_is_bus(store: &Store, bus: &MemoryBus) {
    let lake = Lake::open(store.clone()).await.unwrap();
    let view = lake.view();
    let (mut events, mut ledger): (BTreeMap<SessionId, Vec<Event>>, BTreeMap<String, Vec<_>>) =
        Default::default();
    let (mut templates, mut keys, mut chunks) = (HashMap::new(), HashMap::new(), 0);
    for (stream, records) in bus.records() {
        let position = lake.state().newest(&stream.to_string().parse().unwrap()).unwrap().position;
        assert_eq!(position, records.len() as u64, "{stream}");
        if let Some(released) = bus.released.lock().unwrap().get(&stream) {
            assert_eq!(*released, records.len() as i64, "{stream}");
        }
        for record in records {
            match record {
                Record::Event(event) => events.entry(event.envelope.session).or_default().push(*event),
                Record::Ledger(record) => ledger.entry(record.producer.clone()).or_default().push(*record),
                Record::Template { fingerprint, text } => drop(templates.insert(fingerprint, text)),
                Record::Key { session, wrapped } => drop(keys.insert(session, wrapped)),
                Record::Chunk(_) => chunks += 1,
                _ => {}
            }
        }
    }
    let total: u64 =
        Family::EVENTS.iter().flat_map(|f| lake.state().files(Table::Events(*f))).map(|f| f.rows).sum();
    assert_eq!(total, events.values().map(Vec::len).sum::<usize>() as u64, "every event exactly once");
    let mut content = ContentReader::new(view.clone(), TenantKey::new([4; 32]));
    let mut opened = 0;
    let rows: HashMap<_, _> =
        view.sessions(&Filter::all()).await.unwrap().into_iter().map(|r| (r.session_id, r)).collect();
    assert_eq!(rows.len(), events.len());
    for (session, expected) in &events {
        let found = view.events_of(*session).await.unwrap();
        assert_eq!(found.faults, []);
        let found: Vec<_> = found
            .events
            .into_iter()
            .zip(expected)
            .map(|(stored, original)| stored.after(original.envelope.prev))
            .collect();
        assert_eq!(&found, expected);
        for content in content.open_range(*session, 0, i64::MAX).await.unwrap().into_values() {
            assert!(matches!(content, Opened::Chunks(c) if c.len() == 1));
            opened += 1;
        }
        let (row, last) = (&rows[session], expected.last().unwrap());
        assert_eq!((row.events, row.head), (expected.len() as i64, last.hash));
        let statements =
            expected.iter().filter(|e| e.table().unwrap().name == "sql.statement").count() as i64;
        assert_eq!((row.statements, row.rows), (statements, statements * 3));
        let is_open = lake.state().open.get(session).map(|(_, s)| (s.next_seq, s.head));
        match row.state.as_str() {
            "open" => assert_eq!(is_open, Some((expected.len() as i64, last.hash))),
            _ => assert_eq!(is_open, None),
        }
    }
    assert_eq!(opened, chunks, "every content exactly once");
    for (producer, expected) in ledger {
        let (found, faults) = view.ledger(&producer).await.unwrap();
        assert_eq!(faults, []);
        let found: Vec<_> = found.into_iter().zip(&expected).map(|(r, e)| r.after(e.prev)).collect();
        assert_eq!(found, expected);
    }
    assert_eq!(view.templates().await.unwrap(), templates);
    for (session, wrapped) in keys {
        assert_eq!(view.wrapped_key(session).await.unwrap(), Some(wrapped));
    }
    // Every file is what its commit says.
    for file in lake.state().all_files() {
        let bytes = store.get(&file.path).await.unwrap().unwrap();
        assert_eq!(bodycam_lake::file::sha256(&bytes), file.sha256, "{}", file.path);
    }
}

/// A spool on disk that is given what a bus in memory holds, in small segments.
pub struct Mirror {
    pub config: SpoolConfig,
    spool: Spool,
    lanes: BTreeMap<StreamId, (LaneWriter, usize)>,
}

impl Mirror {
    pub fn new(dir: &std::path::Path, producer: &str) -> Self {
        let config =
            SpoolConfig { dir: dir.join("spool"), segment_bytes: 16 << 10, ..SpoolConfig::default() };
        let spool = Spool::open(&config, producer).unwrap();
        Self { config, spool, lanes: BTreeMap::new() }
    }

    /// Goes on after so many records of each stream.
    pub fn resume(&mut self, known: Vec<(StreamId, usize)>) {
        for (stream, sent) in known {
            let writer = self.spool.lane(stream.lane()).unwrap();
            self.lanes.insert(stream, (writer, sent));
        }
    }

    /// Writes what is new. A new segment begins with a record of its own, which the bus then gets too.
    pub fn write(&mut self, bus: &MemoryBus) {
        for (stream, records) in bus.streams.lock().unwrap().iter_mut() {
            let lane = || (self.spool.lane(stream.lane()).unwrap(), 0);
            let (writer, sent) = self.lanes.entry(stream.clone()).or_insert_with(lane);
            for record in &records[*sent..] {
                writer.append(record).unwrap();
            }
            writer.flush().unwrap();
            if writer.wants_rotation() {
                writer.rotate(b"state".to_vec()).unwrap();
                records.push(Record::State(b"state".to_vec()));
            }
            *sent = records.len();
        }
    }
}

/// The values of every row of a table, as text, sorted: what must not change by compaction.
pub async fn rows_of(lake: &Lake, table: Table) -> Vec<String> {
    let (view, all) = (lake.view(), Filter::all());
    let batches: Vec<_> = view.read(table, &all).try_collect().await.unwrap();
    let mut rows: Vec<String> = batches
        .iter()
        .flat_map(|(_, batch)| {
            (0..batch.num_rows())
                .map(|row| format!("{:?}", batch.slice(row, 1).columns()))
                .collect::<Vec<_>>()
        })
        .collect();
    rows.sort();
    rows
}
