//! The producer: one per gateway process. It holds the spool, the ledger, the keys and the clock.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bodycam_bus::spool::{LaneWriter, Spool, SpoolBus};
use bodycam_bus::stream::{KEYS_LANE, LEDGER_LANE};
use bodycam_bus::{BusError, Publisher, Record, SpoolConfig};
use bodycam_record::kinds::Body;
use bodycam_record::kinds::ledger::{
    LedgerCrash, LedgerGap, LedgerHeartbeat, LedgerOpen, LedgerSeal, LedgerStop,
};
use bodycam_record::ledger::{self, Ledger, Start};
use bodycam_record::{
    Digest, EpochKey, PrincipalRef, ProducerKey, Seal, SealReason, SessionId, SessionKey, TenantKey,
};
use zeroize::Zeroizing;

use super::key_file::{key_error, load_or_create_key_file};
use super::recovery::{self, LedgerState};
use super::{Lane, RecordingError};
use crate::clock::Clock;

/// How long STOP waits for a spool that refuses.
const STOP_PATIENCE: Duration = Duration::from_secs(2);
/// Time between two tries.
const STOP_RETRY: Duration = Duration::from_millis(50);

/// What a producer is made of.
pub struct ProducerOptions {
    /// Name of the producer; one per gateway process.
    pub producer: String,
    /// Tenant.
    pub tenant: String,
    /// Key of the tenant.
    pub tenant_key: TenantKey,
    /// The spool.
    pub spool: SpoolConfig,
    /// Digest of the policy in force.
    pub policy_digest: Digest,
    /// Digest of the configuration in force.
    pub config_digest: Digest,
    /// Seconds that traffic is held when the spool refuses.
    pub hold_seconds: u64,
    /// Clock.
    pub clock: Clock,
}

/// Counters since START, for heartbeats and metrics.
#[derive(Debug, Default)]
pub struct Counters {
    /// Sessions accepted.
    pub accepted: AtomicU64,
    /// Connections refused.
    pub refused: AtomicU64,
    /// Events spooled.
    pub events: AtomicU64,
    /// Events of sessions that were closed because the spool failed for good before it took them.
    pub dropped: AtomicU64,
    /// Tries on a spool that refused.
    pub held: AtomicU64,
}

/// How long a refusal of the spool counts.
const REFUSAL: Duration = Duration::from_secs(15);

/// A handle on the process's producer.
#[derive(Clone)]
pub struct Producer {
    inner: Arc<Inner>,
}

struct Inner {
    options: ProducerOptions,
    spool: Spool,
    ledger: Mutex<LedgerLane>,
    keys: Mutex<KeysLane>,
    counters: Counters,
    /// When the spool last refused a lane's records, and why.
    refused: Mutex<Option<(Instant, String)>>,
    open: Mutex<BTreeMap<SessionId, Arc<Mutex<Progress>>>>,
    stopping: AtomicBool,
    /// Whether the ledger has records that the spool has not taken: events must wait for them.
    ledger_behind: AtomicBool,
    policy: Mutex<Digest>,
    /// When the ledger last took a heartbeat, or START.
    beat: Mutex<Instant>,
    epoch: i64,
}

/// A session that has ended, and what its seal says.
#[derive(Debug, Clone, Copy)]
pub(super) struct Unsealed {
    pub session: SessionId,
    pub count: i64,
    pub head: Digest,
    pub root: Digest,
    pub first_ts_ns: i64,
    pub last_ts_ns: i64,
    pub bytes_in: i64,
    pub bytes_out: i64,
    pub open_seq: i64,
}

struct LedgerLane {
    ledger: Ledger,
    writer: LaneWriter,
    state: LedgerState,
    /// Whether this epoch has its STOP.
    stopped: bool,
}

struct KeysLane {
    writer: LaneWriter,
    names: HashSet<PrincipalRef>,
}

/// How far an open session has come, as heartbeats say it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Progress {
    pub count: i64,
    pub head: Digest,
}

impl Producer {
    /// Opens the spool, starts a new epoch, seals what an earlier process left open, and says what was lost. It
    /// starts on a spool that takes nothing, too: no session opens before the ledger is written.
    pub fn start(options: ProducerOptions) -> Result<Self, RecordingError> {
        let mut spool = Spool::open(&options.spool, &options.producer)?;
        let recovered = recovery::recover(&SpoolBus::new(&options.spool), &options.producer)?;
        let key_path = options.spool.dir.join(&options.producer).join("producer.key");
        let long_term = ProducerKey::from_seed(&*load_or_create_key_file(&key_path)?);
        let mut writer = spool.lane(LEDGER_LANE)?;
        let mut state = recovered.ledger;
        if state.end.is_none() && writer.next_position() > 0 {
            let (stream, released) = (writer.stream().to_string(), writer.next_position());
            return Err(BusError::LedgerLost { stream, end: 0, released }.into());
        }
        let start = Start {
            config_digest: options.config_digest,
            inherited: state.open.keys().map(ToString::to_string).collect(),
            simulated_clock: options.clock.is_simulated(),
            software: concat!("bodycam ", env!("CARGO_PKG_VERSION")).to_owned(),
        };
        let epoch_key = EpochKey::from_seed(&*random_seed()?);
        let now = options.clock.wall_ns();
        let (ledger, record) =
            Ledger::start(&options.producer, &long_term, epoch_key, state.ledger_end(), start, now);
        let body = record.decode_body().map_err(|e| key_error(&key_path, e))?;
        state.saw(&record, &body);
        writer.append(&Record::Ledger(Box::new(record)))?;
        let mut lane = LedgerLane { ledger, writer, state, stopped: false };
        for (session, open) in lane.state.open.clone() {
            let progress = recovered.sessions.get(&session);
            let crash = LedgerCrash {
                session_id: session,
                session_epoch: open.epoch,
                count: progress.map_or(0, |p| p.count),
                head: progress.map_or(open.genesis, |p| p.head),
                unknown_outcome: progress.map(|p| p.unanswered.iter().copied().collect()).unwrap_or_default(),
                open_seq: open.open_seq,
            };
            tracing::warn!(event = "session_inherited", session = %session, events = crash.count, "sealed a session that a crash cut");
            lane.append(crash.into(), now)?;
        }
        for lost in spool.lost() {
            let gap = LedgerGap {
                stream: lost.stream.to_string(),
                from_position: lost.from,
                to_position: lost.to,
                reason: lost.reason.clone(),
            };
            lane.append(gap.into(), now)?;
        }
        let written = lane.flush().and_then(|()| lane.writer.sync());
        match &written {
            Ok(()) => spool.declared()?,
            Err(error) => {
                tracing::error!(event = "ledger_behind", error = %error, "no session opens until the spool takes the ledger");
            }
        }
        let keys = KeysLane { writer: spool.lane(KEYS_LANE)?, names: HashSet::new() };
        let epoch = lane.ledger.epoch();
        let policy = Mutex::new(options.policy_digest);
        let beat = Mutex::new(Instant::now());
        Ok(Self {
            inner: Arc::new(Inner {
                options,
                spool,
                ledger: Mutex::new(lane),
                keys: Mutex::new(keys),
                counters: Counters::default(),
                refused: Mutex::default(),
                open: Mutex::default(),
                stopping: AtomicBool::new(false),
                ledger_behind: AtomicBool::new(written.is_err()),
                policy,
                beat,
                epoch,
            }),
        })
    }

    /// Opens the event lane of a core. Call it on the core's own thread.
    pub fn lane(&self, core: usize) -> Result<Lane, RecordingError> {
        let writer = self.inner.spool.lane(&core.to_string())?;
        Ok(Lane::new(self.clone(), writer, Duration::from_secs(self.inner.options.hold_seconds)))
    }

    /// Writes a HEARTBEAT. The gateway calls it every five seconds. While the spool takes nothing there is
    /// none: silence is what it has to say.
    pub fn heartbeat(&self) -> Result<(), RecordingError> {
        if let Err(error) = self.inner.spool.measure() {
            tracing::warn!(event = "spool_not_measured", error = %error, "how full the spool is was not seen");
        }
        let mut lane = lock(&self.inner.ledger);
        self.inner.flush(&mut lane)?;
        let open: Vec<(SessionId, Progress)> =
            lock(&self.inner.open).iter().map(|(id, p)| (*id, *lock(p))).collect();
        let counters = &self.inner.counters;
        let heartbeat = LedgerHeartbeat {
            accepted: load(&counters.accepted),
            refused: load(&counters.refused),
            events: load(&counters.events),
            dropped: load(&counters.dropped),
            open_sessions: open.iter().map(|(id, _)| id.to_string()).collect(),
            open_counts: open.iter().map(|(_, p)| p.count).collect(),
            open_heads: ledger::open_heads_digest(open.iter().map(|(id, p)| (&id.0, p.count, p.head))),
        };
        lane.append(heartbeat.into(), self.clock().wall_ns())?;
        self.inner.flush(&mut lane)?;
        *lock(&self.inner.beat) = Instant::now();
        Ok(())
    }

    /// How long ago the ledger last took a heartbeat: above some 5 s, the spool takes nothing.
    pub fn silent_for(&self) -> Duration {
        lock(&self.inner.beat).elapsed()
    }

    /// Why the spool has refused records in the last 15 s, if it has. What makes no more tries, nobody knows
    /// of: then a refusal is forgotten.
    pub fn refuses(&self) -> Option<String> {
        let refused = lock(&self.inner.refused);
        let recent = refused.as_ref().filter(|(at, _)| at.elapsed() < REFUSAL)?;
        Some(recent.1.clone())
    }

    /// Notes that the spool refused records.
    pub(super) fn refused(&self, why: &BusError) {
        *lock(&self.inner.refused) = Some((Instant::now(), why.to_string()));
    }

    /// Opens no more sessions from now on.
    pub fn stop_accepting(&self) {
        self.inner.stopping.store(true, Ordering::SeqCst);
    }

    /// Writes STOP, unless a session has no seal: then the next start must seal it, and there is no STOP.
    pub fn stop(&self, reason: &str) -> Result<(), RecordingError> {
        self.stop_accepting();
        self.inner.stop(reason)
    }

    /// Name of this producer.
    pub fn name(&self) -> &str {
        &self.inner.options.producer
    }

    /// Tenant.
    pub fn tenant(&self) -> &str {
        &self.inner.options.tenant
    }

    /// Key of the tenant.
    pub fn tenant_key(&self) -> &TenantKey {
        &self.inner.options.tenant_key
    }

    /// Clock.
    pub fn clock(&self) -> &Clock {
        &self.inner.options.clock
    }

    /// Epoch of this process.
    pub fn epoch(&self) -> i64 {
        self.inner.epoch
    }

    /// Digest of the policy in force.
    pub fn policy_digest(&self) -> Digest {
        *lock(&self.inner.policy)
    }

    /// Another policy is in force: sessions that open from now on are recorded under it.
    pub fn set_policy_digest(&self, digest: Digest) {
        *lock(&self.inner.policy) = digest;
    }

    /// Counters since START.
    pub fn counters(&self) -> &Counters {
        &self.inner.counters
    }

    /// Sessions open now.
    pub fn open_sessions(&self) -> usize {
        lock(&self.inner.open).len()
    }

    /// This producer's directory in the spool, on a local disk.
    pub fn spool_dir(&self) -> PathBuf {
        self.inner.options.spool.dir.join(&self.inner.options.producer)
    }

    /// Bytes in the spool that wait for the recorder.
    pub fn spool_bytes(&self) -> u64 {
        self.inner.spool.used_bytes()
    }

    /// The text that Prometheus scrapes.
    pub fn prometheus(&self) -> String {
        use std::fmt::Write as _;
        let counters = &self.inner.counters;
        let mut out = String::new();
        for (name, kind, help, value) in [
            ("sessions_accepted_total", "counter", "Sessions accepted.", load(&counters.accepted)),
            ("connections_refused_total", "counter", "Connections refused.", load(&counters.refused)),
            ("events_total", "counter", "Events recorded.", load(&counters.events)),
            (
                "events_dropped_total",
                "counter",
                "Events that a spool which failed for good did not take.",
                load(&counters.dropped),
            ),
            ("spool_refused_total", "counter", "Tries on a spool that refused.", load(&counters.held)),
            (
                "sessions_open",
                "gauge",
                "Sessions open now.",
                self.open_sessions().try_into().unwrap_or(i64::MAX),
            ),
            (
                "spool_bytes",
                "gauge",
                "Bytes in the spool.",
                self.spool_bytes().try_into().unwrap_or(i64::MAX),
            ),
            ("epoch", "gauge", "Epoch of this process.", self.epoch()),
        ] {
            let name = format!("bodycam_gateway_{name}");
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
        }
        out
    }

    /// Refuses when the process is stopping; else reserves the OPEN of a session: `make` gets its ledger
    /// sequence number and gives the session's genesis.
    pub(super) fn open(
        &self,
        session: SessionId,
        key: &SessionKey,
        principal: (&str, PrincipalRef),
        target: &str,
        make: impl FnOnce(i64) -> Digest,
    ) -> Result<Arc<Mutex<Progress>>, RecordingError> {
        if self.inner.stopping.load(Ordering::SeqCst) {
            return Err(RecordingError::Stopping);
        }
        self.inner.spool.has_room()?;
        let (name, principal_ref) = principal;
        self.write_keys(session, key, name, principal_ref)?;
        let now = self.clock().wall_ns();
        let mut lane = lock(&self.inner.ledger);
        let genesis = make(lane.ledger.next_seq());
        let open = LedgerOpen {
            session_id: session,
            genesis,
            key_digest: key.digest(),
            principal_ref,
            target: target.to_owned(),
        };
        lane.append(open.into(), now)?;
        self.inner.flush_later(&mut lane);
        drop(lane);
        self.inner.counters.accepted.fetch_add(1, Ordering::Relaxed);
        let progress = Arc::new(Mutex::new(Progress { count: 0, head: genesis }));
        lock(&self.inner.open).insert(session, Arc::clone(&progress));
        Ok(progress)
    }

    /// Signs the seal of a session and writes SEAL, at the latest with what the ledger writes next.
    pub(super) fn seal(&self, ended: Unsealed) {
        let seal = Seal {
            session: ended.session,
            producer: self.name(),
            epoch: self.epoch(),
            count: ended.count,
            head: ended.head,
            root: ended.root,
            first_ts_ns: ended.first_ts_ns,
            last_ts_ns: ended.last_ts_ns,
            bytes_in: ended.bytes_in,
            bytes_out: ended.bytes_out,
            reason: SealReason::Closed,
            open_seq: ended.open_seq,
        };
        let mut lane = lock(&self.inner.ledger);
        let body = LedgerSeal {
            session_id: seal.session,
            count: seal.count,
            head: seal.head,
            root: seal.root,
            first_ts_ns: seal.first_ts_ns,
            last_ts_ns: seal.last_ts_ns,
            bytes_in: seal.bytes_in,
            bytes_out: seal.bytes_out,
            reason: seal.reason.as_str().to_owned(),
            open_seq: seal.open_seq,
            signature: lane.ledger.sign(seal.digest()),
        };
        lock(&self.inner.open).remove(&seal.session);
        match lane.append(body.into(), self.clock().wall_ns()) {
            Ok(()) => self.inner.flush_later(&mut lane),
            Err(error) => {
                tracing::error!(event = "session_not_sealed", session = %ended.session, error = %error, "the next start seals it as a crash");
            }
        }
    }

    /// Everything appended to the ledger is in the spool: events that follow on it may be.
    pub(super) fn flush_ledger(&self) -> Result<(), BusError> {
        match self.inner.ledger_behind.load(Ordering::Acquire) {
            true => self.inner.flush(&mut lock(&self.inner.ledger)),
            false => Ok(()),
        }
    }

    /// Signs a checkpoint.
    pub(super) fn sign(&self, digest: Digest) -> Vec<u8> {
        lock(&self.inner.ledger).ledger.sign(digest)
    }

    fn write_keys(
        &self,
        session: SessionId,
        key: &SessionKey,
        name: &str,
        principal_ref: PrincipalRef,
    ) -> Result<(), RecordingError> {
        let tenant = self.tenant_key();
        let mut keys = lock(&self.inner.keys);
        keys.writer.append(&Record::Key { session, wrapped: tenant.wrap(session, key) })?;
        if keys.names.insert(principal_ref) {
            keys.writer
                .append(&Record::Name { principal_ref, wrapped: tenant.wrap_name(principal_ref, name) })?;
        }
        Ok(keys.writer.flush_and_rotate(Vec::new)?)
    }
}

impl Inner {
    fn flush(&self, lane: &mut LedgerLane) -> Result<(), BusError> {
        let outcome = lane.flush();
        self.ledger_behind.store(outcome.is_err(), Ordering::Release);
        outcome
    }

    /// Tries to flush. When the spool refuses, the records stay in the writer's buffer and go out before
    /// anything else, so that the ledger has no hole.
    fn flush_later(&self, lane: &mut LedgerLane) {
        if let Err(error) = self.flush(lane) {
            tracing::warn!(event = "ledger_behind", error = %error, "the ledger waits for the spool");
        }
    }

    fn stop(&self, reason: &str) -> Result<(), RecordingError> {
        let mut lane = lock(&self.ledger);
        if lane.stopped {
            return Ok(());
        }
        if !lane.state.open.is_empty() {
            let sessions = lane.state.open.len();
            self.flush(&mut lane)?;
            return Err(RecordingError::Unsealed { sessions });
        }
        let stop = LedgerStop {
            reason: reason.to_owned(),
            events: load(&self.counters.events),
            accepted: load(&self.counters.accepted),
        };
        lane.append(stop.into(), self.options.clock.wall_ns())?;
        lane.stopped = true;
        let since = Instant::now();
        while let Err(error) = self.flush(&mut lane) {
            if since.elapsed() >= STOP_PATIENCE {
                return Err(error.into());
            }
            std::thread::sleep(STOP_RETRY);
        }
        Ok(lane.writer.sync()?)
    }
}

impl Drop for Inner {
    /// A process that ends in order without [`Producer::stop`] has failed, and says so.
    fn drop(&mut self) {
        if let Err(error) = self.stop("error") {
            tracing::error!(event = "ledger_not_stopped", error = %error, "the ledger has no STOP");
        }
    }
}

impl LedgerLane {
    fn append(&mut self, body: Body, now: i64) -> Result<(), RecordingError> {
        let record = self.ledger.append(body.clone(), now);
        self.state.saw(&record, &body);
        self.writer.append(&Record::Ledger(Box::new(record)))?;
        Ok(())
    }

    fn flush(&mut self) -> Result<(), BusError> {
        let state = &self.state;
        self.writer.flush_and_rotate(|| state.encode())
    }
}

/// 32 random bytes.
pub(super) fn random_seed() -> Result<Zeroizing<[u8; 32]>, RecordingError> {
    let mut seed = Zeroizing::new([0; 32]);
    getrandom::fill(seed.as_mut_slice()).map_err(RecordingError::Random)?;
    Ok(seed)
}

fn load(counter: &AtomicU64) -> i64 {
    i64::try_from(counter.load(Ordering::Relaxed)).unwrap_or(i64::MAX)
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
