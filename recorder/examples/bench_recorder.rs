//! How many bench events a second the recorder stores, per core: a spool is filled, then drained into a lake on
//! disk by one recorder on one thread (files are encoded on up to two more), in turns, so that the spool stays
//! small. Only draining is measured.
//!
//! A bench event has about 300 bytes of envelope, body and statement, and 1 KiB of content on one in four.
//!
//! `cargo run --release -p bodycam-recorder --example bench_recorder -- [EVENTS] [DIRECTORY] [LARGEST]`
//!
//! `DIRECTORY` keeps the lake for other measurements (`bench_replay` of the replay); `LARGEST` is the number of
//! events of its last session, where that is to be more than that of the others.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use bodycam_bus::spool::{LaneWriter, Spool, SpoolBus};
use bodycam_bus::{Publisher, Record, SpoolConfig};
use bodycam_lake::Store;
use bodycam_record::content::Commitment;
use bodycam_record::kinds::session::{SessionClosed, SessionOpened};
use bodycam_record::kinds::sql::SqlStatement;
use bodycam_record::{
    Chain, Chunk, ContentKind, Digest, Draft, EpochKey, Genesis, Id16, SessionId, SessionKey, TenantKey,
};
use bodycam_recorder::{Metrics, Recorder, RecorderConfig};

type Error = Box<dyn std::error::Error>;

/// Events in a session.
const SESSION: u64 = 100;
/// Events that are filled in before they are drained.
const TURN: u64 = 1_000_000;
/// 2026-11-21T10:00Z; a thousand events a second from there on.
const T0: i64 = 1_795_255_200_000_000_000;

fn main() -> Result<(), Error> {
    let mut args = std::env::args().skip(1);
    let events: u64 = args.next().map_or(Ok(2_000_000), |n| n.parse())?;
    let scratch = tempfile::tempdir()?;
    let dir = args.next().map_or_else(|| scratch.path().to_owned(), PathBuf::from);
    let largest: u64 = args.next().map_or(Ok(SESSION), |n| n.parse())?;
    let spool = SpoolConfig { dir: dir.join("spool"), max_bytes: u64::MAX, ..SpoolConfig::default() };
    let mut filler = Filler::open(&spool, events, largest)?;
    let store = Store::create(&dir.join("lake").display().to_string())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let metrics = Arc::new(Metrics::default());
    let key = Arc::new(EpochKey::from_seed(&[7; 32]));
    let (bus, config) = (SpoolBus::new(&spool), RecorderConfig::default());
    let mut recorder = runtime.block_on(Recorder::open(bus, store, key, config, metrics.clone()))?;
    let (mut wall, mut cpu) = (0.0, 0.0);
    while filler.turn()? {
        let (wall_before, cpu_before) = (Instant::now(), cpu_seconds());
        runtime.block_on(recorder.drain())?;
        wall += wall_before.elapsed().as_secs_f64();
        cpu += cpu_seconds() - cpu_before;
    }
    let bytes = metrics.bytes_total.load(std::sync::atomic::Ordering::Relaxed);
    let stored = metrics.events_total.load(std::sync::atomic::Ordering::Relaxed);
    println!("events            {stored}");
    println!("wall              {wall:.2} s, {:.0} events/s", stored as f64 / wall);
    println!("processor         {cpu:.2} s, {:.0} events/s a core", stored as f64 / cpu);
    println!("files             {bytes} bytes, {:.1} a bench event", bytes as f64 / stored as f64);
    println!("peak memory       {} KiB", status("VmHWM:"));
    Ok(())
}

/// Fills the spool, a turn at a time.
struct Filler {
    lane: LaneWriter,
    tenant: TenantKey,
    content: Vec<u8>,
    /// The next session, and the last, which is the largest.
    next: u64,
    last: u64,
    largest: u64,
}

impl Filler {
    fn open(config: &SpoolConfig, events: u64, largest: u64) -> Result<Self, Error> {
        Ok(Self {
            lane: Spool::open(config, "bench")?.lane("0")?,
            tenant: TenantKey::new([1; 32]),
            content: (0..1024u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect(),
            next: 0,
            last: events.saturating_sub(largest).div_ceil(SESSION),
            largest,
        })
    }

    /// Fills in what follows; whether there was anything.
    fn turn(&mut self) -> Result<bool, Error> {
        let turn = self.next..(self.last + 1).min(self.next + TURN / SESSION);
        for session in turn.clone() {
            let events = if session == self.last { self.largest } else { SESSION };
            fill_session(&mut self.lane, &self.tenant, session, events, &self.content)?;
        }
        self.next = turn.end;
        Ok(!turn.is_empty())
    }
}

fn fill_session(
    lane: &mut LaneWriter,
    tenant: &TenantKey,
    n: u64,
    events: u64,
    content: &[u8],
) -> Result<(), Error> {
    let mut random = [0; 10];
    random[2..].copy_from_slice(&n.to_le_bytes());
    let start = T0 + i64::try_from(n * SESSION)? * 1_000_000;
    let session = SessionId::new(u64::try_from(start / 1_000_000)?, random);
    let key = SessionKey::new([n as u8; 32]);
    let opened = SessionOpened {
        tenant: "bench".into(),
        nonce: Digest([n as u8; 32]),
        identity_digest: Digest([2; 32]),
        target_digest: Digest([3; 32]),
        key_digest: key.digest(),
        ledger_seq: 0,
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
        simulated_clock: true,
    };
    let policy_digest = Digest([8; 32]);
    let genesis = Genesis { producer: "bench", epoch: 1, session, policy_digest, opened: &opened };
    let principal = tenant.principal_ref(&format!("agent-{}", n % 5000));
    let mut chain = Chain::start(&genesis, principal, "shop");
    let mut contents = 0;
    for i in 0..events {
        let ts_wall_ns = start + i64::try_from(i)? * 1_000_000;
        let with_content = (i % 4 == 1).then_some(contents);
        let mut commitment = None;
        if let Some(no) = with_content {
            contents += 1;
            let chunk = Chunk { kind: ContentKind::SqlText, index: 0, bytes: content.to_vec() };
            let mut commit = Commitment::new(&key, no);
            commit.add(chunk.kind, &chunk.bytes);
            commitment = commit.finish().map(|digest| (no, digest));
            lane.append(&Record::Chunk(chunk.seal(&key, session, no)))?;
        }
        let body = match i {
            0 => opened.clone().into(),
            i if i == events - 1 => SessionClosed {
                reason: "client".into(),
                statements: i64::try_from(events)? - 2,
                rows: 0,
                bytes_in: 0,
                bytes_out: 0,
                duration_us: 1,
            }
            .into(),
            i => statement(tenant, n, i).into(),
        };
        let draft =
            Draft { ts_wall_ns, ts_mono_ns: ts_wall_ns - T0, parent_seq: None, body, content: commitment };
        lane.append(&Record::Event(Box::new(chain.append(&draft))))?;
        if i % SESSION == SESSION - 1 || i == events - 1 {
            lane.flush()?;
            if lane.wants_rotation() {
                lane.rotate(Vec::new())?;
            }
        }
    }
    Ok(())
}

fn statement(tenant: &TenantKey, session: u64, i: u64) -> SqlStatement {
    let table = (session * 31 + i) % 200;
    SqlStatement {
        statement_no: i as i64,
        form: "extended".into(),
        statement_kind: "select".into(),
        verdict: "allow".into(),
        fingerprint: Some(tenant.fingerprint(&format!("SELECT a, b FROM t{table} WHERE id = $1"))),
        main_relation: Some(format!("public.t{table}")),
        relations_read: vec![format!("public.t{table}")],
        relations_written: vec![],
        output_columns: vec![format!("public.t{table}.a"), format!("public.t{table}.b")],
        functions: vec![],
        has_predicate: true,
        limit_rows: None,
        offset_rows: None,
        statement_count: 1,
        opaque: vec![],
        est_rows: Some(1000),
        statement_bytes: 60,
        statement_digest: Digest([(i % 251) as u8; 32]),
        bind_count: 1,
        bind_bytes: 8,
        binds_digest: None,
        portal: None,
        content_cut: false,
        correlation: None,
    }
}

/// Processor time of this process so far.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: f64 =
        after_name.split_whitespace().skip(11).take(2).filter_map(|t| t.parse::<f64>().ok()).sum();
    ticks / 100.0
}

fn status(name: &str) -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix(name)).unwrap_or_default();
    line.trim().trim_end_matches(" kB").to_owned()
}
