//! A gateway inside the test process, and what it has recorded.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bodycam_bus::{Record, SpoolConfig};
use bodycam_proxy::clock::Clock;
use bodycam_proxy::gateway::{Gateway as Running, GatewayConfig, Service};
use bodycam_proxy::identity::{Directory, PrincipalConfig, Roster, token};
use bodycam_proxy::postgres::{self, PostgresConfig, TargetConfig};
use bodycam_proxy::recording::{Producer, ProducerOptions, RecordingConfig, Rows};
use bodycam_proxy::slots::SessionSlots;
use bodycam_proxy::state::SqliteState;
use bodycam_record::content::structured;
use bodycam_record::kinds::Body;
use bodycam_record::kinds::sql::{SqlResult, SqlStatement};
use bodycam_record::{ContentKind, Digest, Event, SealedChunk, SessionId, TenantKey};

use super::ports::free_port;
use super::postgres::{Cluster, ROLE, ROLE_PASSWORD};
use super::spool::records;

/// What a gateway is made of; a test changes what it wants different.
pub struct Setup {
    pub postgres: PostgresConfig,
    pub targets: Vec<TargetConfig>,
    pub recording: RecordingConfig,
    pub principals: Vec<PrincipalConfig>,
    pub clock: Clock,
    pub spool: SpoolConfig,
    pub max_connections: usize,
}

/// A gateway with the principals `ada` (a person) and `robot` (her agent); drained when it is dropped.
pub struct Gateway {
    running: Option<Running>,
    pub port: u16,
    pub clock: Clock,
    state: Arc<SqliteState>,
    directory: Directory,
    principals: Vec<PrincipalConfig>,
    roster: Roster,
    spool: SpoolConfig,
    /// Holds the spool and the state until the end.
    _dir: tempfile::TempDir,
}

/// One recorded event with its content in clear.
#[derive(Debug, Clone)]
pub struct Recorded {
    pub event: Event,
    pub body: Body,
    /// By kind, in order; parts of one kind joined.
    pub content: Vec<(ContentKind, Vec<u8>)>,
}

impl Setup {
    /// A gateway before `cluster`, every database of it, rows in clear.
    pub fn new(cluster: &Cluster) -> Self {
        let target = format!(
            "name = \"crm\"\ndatabases = [\"*\"]\naddress = \"{}\"\nrole = \"{ROLE}\"\ntls = \"disable\"",
            cluster.address()
        );
        let principals = "[[p]]\nname = \"ada\"\nkind = \"person\"\ntargets = [\"*\"]\n\
                          [[p]]\nname = \"robot\"\nkind = \"agent\"\nowner = \"ada\"\ntargets = [\"*\"]";
        let mut principals: HashMap<String, Vec<PrincipalConfig>> = toml::from_str(principals).unwrap();
        Self {
            postgres: PostgresConfig {
                listen: SocketAddr::from(([127, 0, 0, 1], free_port().unwrap())),
                ..PostgresConfig::default()
            },
            targets: vec![toml::from_str(&target).unwrap()],
            recording: RecordingConfig { rows: Rows::Clear, hold_seconds: 2, ..RecordingConfig::default() },
            principals: principals.remove("p").unwrap(),
            clock: Clock::system(),
            spool: SpoolConfig::default(),
            max_connections: GatewayConfig::default().max_connections,
        }
    }

    /// Starts it.
    pub fn start(self) -> Gateway {
        let dir = tempfile::tempdir().unwrap();
        let spool = SpoolConfig { dir: dir.path().join("spool"), ..self.spool };
        let password = dir.path().join("password");
        std::fs::write(&password, ROLE_PASSWORD).unwrap();
        let mut targets = self.targets;
        for target in &mut targets {
            if target.password.is_none() {
                target.password = Some(format!("file:{}", password.display()).try_into().unwrap());
            }
        }
        let tenant_key = TenantKey::new(KEY);
        let producer = Producer::start(ProducerOptions {
            producer: "gw".to_owned(),
            tenant: "test".to_owned(),
            tenant_key: tenant_key.clone(),
            spool: spool.clone(),
            policy_digest: Digest::ZERO,
            config_digest: Digest::ZERO,
            hold_seconds: self.recording.hold_seconds,
            clock: self.clock.clone(),
        })
        .unwrap();
        let state = Arc::new(SqliteState::open(&dir.path().join("state.db")).unwrap());
        let roster = Roster::new(&self.principals).unwrap();
        let directory = Directory::new(tenant_key.clone(), roster.clone(), state.clone()).unwrap();
        let (shared, principals) = (directory.clone(), self.principals);
        let listen = self.postgres.listen;
        let service = postgres::Service::new(
            self.postgres,
            targets,
            self.recording,
            directory,
            SessionSlots::default(),
            tenant_key,
        )
        .unwrap();
        let config = GatewayConfig {
            cores: 1,
            drain_seconds: 5,
            max_connections: self.max_connections,
            ..GatewayConfig::default()
        };
        let listeners = vec![(listen.to_string(), Service::Postgres(Arc::new(service)))];
        let running = Some(Running::start(&config, producer, listeners).unwrap());
        let (port, clock) = (listen.port(), self.clock);
        Gateway { running, port, clock, state, directory: shared, principals, roster, spool, _dir: dir }
    }
}

/// Key of the tenant `test`.
const KEY: [u8; 32] = [7; 32];

impl Gateway {
    /// A gateway before `cluster` with the usual settings.
    pub fn before(cluster: &Cluster) -> Self {
        Setup::new(cluster).start()
    }

    /// A token of a principal.
    pub fn token(&self, principal: &str) -> String {
        let hour = 3600 * 1_000_000_000;
        let now = self.clock.wall_ns();
        let issued = token::issue(&*self.state, &self.roster, principal, hour, "test", now).unwrap();
        issued.text.to_string()
    }

    /// Revokes a token given by its text.
    pub fn revoke(&self, text: &str) {
        let id = text.split('_').nth(1).unwrap();
        token::revoke(&*self.state, id, self.clock.wall_ns()).unwrap();
    }

    /// Puts the roster in place with other targets for `principal`.
    pub fn allow_only(&self, principal: &str, targets: &[&str]) {
        let mut principals = self.principals.clone();
        let entry = principals.iter_mut().find(|p| p.name == principal).unwrap();
        entry.targets = targets.iter().map(|t| (*t).to_owned()).collect();
        self.directory.set_roster(Roster::new(&principals).unwrap());
    }

    /// A connection string for libpq.
    pub fn conninfo(&self, user: &str, token: &str, database: &str) -> String {
        format!(
            "host=127.0.0.1 port={} user={user} password={token} dbname={database} sslmode=disable",
            self.port
        )
    }

    /// A client program of PostgreSQL that connects to the gateway as `user`.
    pub fn client(&self, program: &str, user: &str, database: &str) -> Command {
        let mut command = Command::new(super::postgres::bin().join(program));
        command
            .env("PGHOST", "127.0.0.1")
            .env("PGPORT", self.port.to_string())
            .env("PGUSER", user)
            .env("PGPASSWORD", self.token(user))
            .env("PGDATABASE", database)
            .env("PGSSLMODE", "disable");
        command
    }

    /// psql through the gateway as `ada`.
    pub fn psql(&self, database: &str) -> Command {
        let mut psql = self.client("psql", "ada", database);
        psql.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1"]);
        psql
    }

    /// Where it records.
    pub fn spool(&self) -> &SpoolConfig {
        &self.spool
    }

    /// Sessions open now, as the ledger knows them.
    pub fn open_sessions(&self) -> usize {
        self.running.as_ref().unwrap().producer().open_sessions()
    }

    /// Waits until no session is open.
    pub fn wait_closed(&self) {
        let deadline = Instant::now() + Duration::from_secs(15);
        while self.open_sessions() > 0 {
            assert!(Instant::now() < deadline, "{} sessions are still open", self.open_sessions());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Drains the gateway.
    pub fn drain(&mut self) {
        if let Some(running) = self.running.take() {
            running.drain().unwrap();
        }
    }

    /// How many pieces of content are in the spool.
    pub fn chunks(&self) -> usize {
        records(&self.spool).iter().filter(|record| matches!(record, Record::Chunk(_))).count()
    }

    /// Everything recorded so far, session after session, in the order in which they were opened. Every chain
    /// is checked.
    pub fn events(&self) -> Vec<Recorded> {
        let tenant = TenantKey::new(KEY);
        let (mut events, mut keys) = (Vec::new(), HashMap::new());
        let mut chunks: HashMap<(SessionId, i64), Vec<SealedChunk>> = HashMap::new();
        for record in records(&self.spool) {
            match record {
                Record::Event(event) => events.push(*event),
                Record::Key { session, wrapped } => {
                    keys.insert(session, tenant.unwrap(session, &wrapped).unwrap());
                }
                Record::Chunk(chunk) => {
                    chunks.entry((chunk.session, chunk.content_no)).or_default().push(chunk);
                }
                _ => {}
            }
        }
        let mut order: Vec<SessionId> = Vec::new();
        for event in &events {
            if !order.contains(&event.envelope.session) {
                order.push(event.envelope.session);
            }
        }
        events.sort_by_key(|e| (order.iter().position(|s| *s == e.envelope.session), e.envelope.seq));
        for pair in events.windows(2) {
            if pair[0].envelope.session == pair[1].envelope.session {
                assert_eq!(pair[1].envelope.prev, pair[0].hash, "the chain has a gap");
                assert_eq!(pair[1].envelope.seq, pair[0].envelope.seq + 1);
            }
        }
        events.into_iter().map(|event| opened(event, &keys, &chunks)).collect()
    }

    /// The templates recorded so far.
    pub fn templates(&self) -> Vec<String> {
        let templates = records(&self.spool).into_iter().filter_map(|record| match record {
            Record::Template { text, .. } => Some(text.to_string()),
            _ => None,
        });
        templates.collect()
    }

    /// The statements recorded so far with their results, in order.
    pub fn statements(&self) -> Vec<(Recorded, SqlStatement, Vec<(Recorded, SqlResult)>)> {
        let mut found: Vec<(Recorded, SqlStatement, Vec<(Recorded, SqlResult)>)> = Vec::new();
        for recorded in self.events() {
            match recorded.body.clone() {
                Body::SqlStatement(statement) => found.push((recorded, statement, Vec::new())),
                Body::SqlResult(result) => {
                    let (session, parent) =
                        (recorded.event.envelope.session, recorded.event.envelope.parent_seq);
                    let statement = found.iter_mut().rev().find(|(s, ..)| {
                        s.event.envelope.session == session && Some(s.event.envelope.seq) == parent
                    });
                    let (_, statement, results) = statement.expect("a result follows its statement");
                    assert_eq!(statement.statement_no, result.statement_no);
                    results.push((recorded, result));
                }
                _ => {}
            }
        }
        found
    }

    /// One line per event: what it is, and what matters of it. For comparing with what a test expects.
    pub fn story(&self) -> Vec<String> {
        self.events().iter().map(Recorded::line).collect()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            // A test may have broken what a drain needs.
            let _ = running.drain();
        }
    }
}

impl Recorded {
    /// Content of a kind as text.
    pub fn text(&self, kind: ContentKind) -> Option<String> {
        self.bytes(kind).map(|bytes| String::from_utf8_lossy(bytes).into_owned())
    }

    /// Content of a kind.
    pub fn bytes(&self, kind: ContentKind) -> Option<&[u8]> {
        self.content.iter().find(|(k, _)| *k == kind).map(|(_, bytes)| bytes.as_slice())
    }

    /// The rows of a result, cells as text.
    pub fn rows(&self) -> Vec<Vec<Option<String>>> {
        let text = |cell: Option<Vec<u8>>| cell.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        let rows = bodycam_record::content::postgres::rows(self.bytes(ContentKind::Rows).unwrap_or_default());
        rows.into_iter().map(|row| row.into_iter().map(text).collect()).collect()
    }

    /// The bind parameters.
    pub fn binds(&self) -> Vec<structured::Bind> {
        structured::decode_binds(self.bytes(ContentKind::Binds).unwrap_or_default())
    }

    fn line(&self) -> String {
        match &self.body {
            Body::SessionOpened(o) => format!("opened {} {}", o.database, o.protocol_version),
            Body::SessionClosed(c) => format!("closed {}", c.reason),
            Body::SqlStatement(s) => {
                let text = self.text(ContentKind::SqlText).unwrap_or_default();
                format!("{} #{} {} {text}", s.form, s.statement_no, s.verdict)
            }
            Body::SqlResult(r) => {
                let state = r.sqlstate.as_deref().unwrap_or_default();
                format!(
                    "result #{}.{} {} {}{state} {} rows",
                    r.statement_no, r.result_no, r.outcome, r.tag, r.rows
                )
            }
            Body::SqlCopy(c) => {
                format!("copy #{} {} {} {} bytes", c.statement_no, c.direction, c.outcome, c.bytes)
            }
            Body::SqlMessage(m) => {
                format!("message {} {}", m.message, m.parameter.as_deref().unwrap_or_default())
            }
            Body::ControlDecision(d) => format!("decision {} {} {}", d.subject, d.reason, d.code),
            Body::ControlLimit(l) => format!("limit {} {}", l.limit_name, l.action),
            other => other.table().name.to_owned(),
        }
    }
}

fn opened(
    event: Event,
    keys: &HashMap<SessionId, bodycam_record::SessionKey>,
    chunks: &HashMap<(SessionId, i64), Vec<SealedChunk>>,
) -> Recorded {
    let body = event.decode_body().unwrap();
    let mut content: Vec<(ContentKind, Vec<u8>)> = Vec::new();
    if let Some(no) = event.envelope.content_no {
        for chunk in chunks.get(&(event.envelope.session, no)).expect("content that the event names") {
            let chunk = chunk.open(&keys[&event.envelope.session]).unwrap();
            match content.iter_mut().find(|(kind, _)| *kind == chunk.kind) {
                Some((_, bytes)) => bytes.extend_from_slice(&chunk.bytes),
                None => content.push((chunk.kind, chunk.bytes)),
            }
        }
    }
    Recorded { event, body, content }
}
