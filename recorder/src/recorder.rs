//! The loop: read every stream, flush by time and size, drain at the end.
//!
//! Invariant: a ledger record is committed only after everything that its producer had put on its other
//! streams before it, so that the time of the last committed ledger record is a watermark.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::Future;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bodycam_bus::stream::LEDGER_LANE;
use bodycam_bus::{Bus, BusError, Record, StreamId, Subscription};
use bodycam_lake::store::Lock;
use bodycam_lake::{Lake, LakeError, Store, StreamName, layout};
use bodycam_record::EpochKey;

use crate::commit::Committer;
use crate::compact::Compactor;
use crate::config::RecorderConfig;
use crate::error::RecorderError;
use crate::ingest::{Ingest, Ledgers, Staged};
use crate::metrics::{Metrics, add, set};
use crate::sessions::Sessions;
use crate::templates::Templates;

/// Bytes read from one stream before the next one has its turn.
const READ_BYTES: usize = 2 << 20;
/// How long to wait when no stream had anything.
const IDLE: Duration = Duration::from_millis(20);
/// How often new streams are looked for.
const DISCOVER: Duration = Duration::from_millis(500);
/// After this time a busy stream is asked where it ends, instead of waiting for it to run dry.
const PATIENCE: Duration = Duration::from_secs(1);
/// The file in a local lake that its recorder holds locked.
const LOCK: &str = bodycam_lake::layout::RECORDER_LOCK;
/// Age from which a half-written file counts as left behind by a killed writer.
const HALF_WRITTEN_AGE: Duration = Duration::from_secs(600);
/// Waits between attempts after a transient failure.
const RETRY: [Duration; 5] = [
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(3),
    Duration::from_secs(10),
    Duration::from_secs(30),
];

/// A recorder: the one writer of the record in a lake, for every stream of a bus. After an error it is of no
/// further use: a new one goes on where the commits end.
pub struct Recorder<B: Bus> {
    bus: B,
    lake: Lake,
    config: RecorderConfig,
    committer: Committer,
    ingest: Ingest,
    streams: BTreeMap<StreamId, Stream<B::Subscription>>,
    discovered: Option<Instant>,
    flushed: Instant,
    metrics: Arc<Metrics>,
    /// Held while the recorder lives.
    _lock: Option<Lock>,
}

/// A stream being read.
struct Stream<S> {
    name: StreamName,
    generation: u64,
    subscription: S,
    /// First position that is not committed.
    committed: u64,
    /// First position that is not staged.
    next: u64,
    staged: Staged,
    /// Ledger records that wait for the producer's other streams.
    held: VecDeque<(i64, Record)>,
    /// The streams that they wait for, each with the position to reach, once it was asked for.
    waits_for: BTreeMap<StreamId, Option<i64>>,
    waits_since: Instant,
}

impl<B: Bus> Recorder<B> {
    /// Takes the lake for itself, probes its store, and goes on where the commits end. Refused while another
    /// recorder is at work on the lake.
    pub async fn open(
        bus: B,
        store: Store,
        key: Arc<EpochKey>,
        config: RecorderConfig,
        metrics: Arc<Metrics>,
    ) -> Result<Self, RecorderError> {
        let lock = store.lock(LOCK)?;
        Ok(Self { _lock: lock, ..Self::open_locked(bus, store, key, config, metrics).await? })
    }

    /// As [`Recorder::open`], when the caller holds the lock.
    async fn open_locked(
        bus: B,
        store: Store,
        key: Arc<EpochKey>,
        config: RecorderConfig,
        metrics: Arc<Metrics>,
    ) -> Result<Self, RecorderError> {
        config.check()?;
        store.sweep(HALF_WRITTEN_AGE).await?;
        let nonce = std::hash::RandomState::new().build_hasher().finish();
        store.probe(nonce).await?;
        let lake = Lake::open_as(store, key.public()).await?;
        let ledgers = Ledgers::load(lake.state(), config.trusted()?);
        let ingest = Ingest::new(Sessions::load(&lake).await?, Templates::load(&lake).await?, ledgers);
        let [a, b, c, d, ..] = nonce.to_le_bytes();
        let writer = u32::from_le_bytes([a, b, c, d]);
        let committer = Committer { key, writer, metrics: metrics.clone() };
        Ok(Self {
            bus,
            lake,
            config,
            committer,
            ingest,
            streams: BTreeMap::new(),
            discovered: None,
            flushed: Instant::now(),
            metrics,
            _lock: None,
        })
    }

    /// The lake as this recorder has made it.
    pub fn lake(&self) -> &Lake {
        &self.lake
    }

    /// Records until `shutdown` is ready; then reads what is on the bus, commits it and returns.
    pub async fn run(&mut self, shutdown: impl Future<Output = ()>) -> Result<(), RecorderError> {
        let mut shutdown = std::pin::pin!(shutdown);
        loop {
            let read = self.read().await?;
            if self.is_due() {
                self.flush().await?;
            }
            let idle = if read > 0 { Duration::ZERO } else { IDLE };
            // A zero wait still lets the shutdown be seen, and other tasks of this thread run.
            tokio::select! {
                biased;
                () = &mut shutdown => break,
                () = tokio::time::sleep(idle) => {}
            }
        }
        self.drain().await
    }

    /// Reads everything that is on the bus now, and commits it.
    pub async fn drain(&mut self) -> Result<(), RecorderError> {
        self.discover()?;
        let mut ends = BTreeMap::new();
        for id in self.streams.keys() {
            ends.insert(id.clone(), self.bus.end(id)?);
        }
        loop {
            let read = self.read().await?;
            if self.is_due() {
                self.flush().await?;
            }
            let reached = |(id, end): (&StreamId, &i64)| {
                self.streams.get(id).is_none_or(|s| i64::try_from(s.next).is_ok_and(|next| next >= *end))
            };
            if ends.iter().all(reached) {
                return self.flush().await;
            }
            if read == 0 {
                tokio::time::sleep(IDLE).await;
            }
        }
    }

    /// Reads once from every stream; gives the number of records.
    async fn read(&mut self) -> Result<usize, RecorderError> {
        if self.discovered.is_none_or(|at| at.elapsed() >= DISCOVER) {
            self.discover()?;
        }
        let mut read = self.read_ledgers().await?;
        let view = self.lake.view();
        let mut dry = BTreeSet::new();
        for (id, stream) in &mut self.streams {
            if id.lane() == LEDGER_LANE {
                continue;
            }
            let records = stream.poll().await?;
            if records.is_empty() {
                dry.insert(id.clone());
            }
            read += records.len();
            for (position, record) in records {
                self.ingest.take(&mut stream.staged, &view, stream.name.as_str(), position, record).await?;
            }
            // Not the position after the last record: a stream can skip positions that were lost.
            stream.next = at(stream.subscription.position())?;
        }
        let positions: BTreeMap<_, _> = self.streams.iter().map(|(id, s)| (id.clone(), s.next)).collect();
        for stream in self.streams.values_mut() {
            stream.waits_for.retain(|id, until| {
                let there = positions.get(id).copied().unwrap_or(u64::MAX);
                !dry.contains(id)
                    && until.is_none_or(|until| i64::try_from(there).is_ok_and(|there| there < until))
            });
            if stream.waits_for.is_empty() {
                while let Some((position, record)) = stream.held.pop_front() {
                    self.ingest
                        .take(&mut stream.staged, &view, stream.name.as_str(), position, record)
                        .await?;
                }
                stream.next = at(stream.subscription.position())?;
            } else if stream.waits_since.elapsed() >= PATIENCE {
                for (id, until) in stream.waits_for.iter_mut().filter(|(_, until)| until.is_none()) {
                    *until = Some(self.bus.end(id)?);
                }
            }
        }
        let pending = self.streams.values().map(|s| s.staged.records + s.held.len() as u64).sum();
        set(&self.metrics.pending_records, pending);
        Ok(read)
    }

    /// Reads ledger records and holds them until what was put on the other streams before them is staged.
    async fn read_ledgers(&mut self) -> Result<usize, RecorderError> {
        let mut producers = Vec::new();
        let mut read = 0;
        for (id, stream) in self.streams.iter_mut().filter(|(id, _)| id.lane() == LEDGER_LANE) {
            if stream.held.is_empty() {
                stream.held = stream.poll().await?.into();
                read += stream.held.len();
                if !stream.held.is_empty() {
                    producers.push(id.clone());
                }
            }
        }
        if producers.is_empty() {
            return Ok(read);
        }
        // A stream can have begun since the last look; the records just read may tell of its events.
        self.discover()?;
        for ledger in producers {
            let others: Vec<_> = self
                .streams
                .keys()
                .filter(|id| id.producer() == ledger.producer() && **id != ledger)
                .collect();
            let waits_for = others.into_iter().map(|id| (id.clone(), None)).collect();
            if let Some(stream) = self.streams.get_mut(&ledger) {
                (stream.waits_for, stream.waits_since) = (waits_for, Instant::now());
            }
        }
        Ok(read)
    }

    /// Subscribes to streams that are new.
    fn discover(&mut self) -> Result<(), RecorderError> {
        self.discovered = Some(Instant::now());
        for id in self.bus.streams()? {
            if self.streams.contains_key(&id) {
                continue;
            }
            let name: StreamName = id.to_string().parse()?;
            let known = self.lake.state().newest(&name).map(|s| (s.generation, s.position));
            let (mut generation, mut committed) = known.unwrap_or_default();
            let end = self.bus.end(&id)?;
            if i64::try_from(committed).is_ok_and(|committed| end < committed) {
                if !self.config.recreated.contains(&id.to_string()) {
                    return Err(RecorderError::Recreated { stream: id.to_string(), end, committed });
                }
                tracing::warn!(stream = %id, end, committed, "stream_recreated");
                (generation, committed) = (generation + 1, 0);
            }
            let from = i64::try_from(committed)
                .map_err(|_| LakeError::NotFound { what: "position", id: committed.to_string() })?;
            let subscription = match self.bus.subscribe(&id, from) {
                // A new generation starts at whatever the stream still has.
                Err(BusError::Truncated { first, .. }) if committed == 0 && generation > 0 => {
                    committed = at(first)?;
                    self.bus.subscribe(&id, first)?
                }
                subscription => subscription?,
            };
            tracing::info!(stream = %id, position = from, generation, "stream_found");
            let stream = Stream {
                name,
                generation,
                subscription,
                committed,
                next: committed,
                staged: Staged::default(),
                held: VecDeque::new(),
                waits_for: BTreeMap::new(),
                waits_since: Instant::now(),
            };
            self.streams.insert(id, stream);
        }
        set(&self.metrics.streams, self.streams.len() as u64);
        Ok(())
    }

    fn is_due(&self) -> bool {
        let staged = |of: fn(&Staged) -> u64| self.streams.values().map(|s| of(&s.staged)).sum::<u64>();
        staged(|s| s.records) >= self.config.flush_rows
            || staged(|s| s.bytes) >= self.config.flush_bytes
            || self.flushed.elapsed() >= self.config.flush_after()
    }

    /// Commits what is staged: the ledgers last.
    pub async fn flush(&mut self) -> Result<(), RecorderError> {
        let ledgers_last = |id: &StreamId| id.lane() == LEDGER_LANE;
        let mut order: Vec<_> =
            self.streams.iter().filter(|(_, s)| s.next > s.committed).map(|(id, _)| id.clone()).collect();
        order.sort_by_key(ledgers_last);
        let something = !order.is_empty();
        // A ledger is listed before the first event of its producer is committed, so that a lake without it is
        // not taken for one that is only beginning.
        for id in order.iter().filter(|id| id.lane() != LEDGER_LANE) {
            let ledger = StreamId::new(id.producer(), LEDGER_LANE);
            if let Some(stream) = ledger.ok().and_then(|id| self.streams.get(&id)) {
                self.lake.add_stream(&stream.name, stream.generation, stream.committed).await?;
            }
        }
        for id in order {
            let Some(stream) = self.streams.get_mut(&id) else { continue };
            self.lake.add_stream(&stream.name, stream.generation, stream.committed).await?;
            let staged = std::mem::take(&mut stream.staged);
            let (records, from, to) = (staged.records, stream.committed, stream.next);
            let place = (&stream.name, stream.generation);
            if let Ok(to) = i64::try_from(to) {
                self.bus.settle(&id, to)?;
            }
            self.committer.commit(&mut self.lake, &mut self.ingest, place, (from, to), staged).await?;
            stream.committed = to;
            tracing::debug!(stream = %id, from, to, records, "committed");
            if let Ok(to) = i64::try_from(to) {
                self.bus.release(&id, to)?;
            }
        }
        self.flushed = Instant::now();
        if something {
            // Commits of compaction, and of anyone who should not be here.
            self.lake.refresh().await?;
            for stream in self.streams.values() {
                let there = self.lake.state().stream(&stream.name, stream.generation);
                if there.is_some_and(|(_, s)| s.position != stream.committed) {
                    let path = layout::commit(&stream.name, stream.generation, stream.committed);
                    return Err(LakeError::CommitConflict { path }.into());
                }
            }
            self.lake.snapshot(self.config.snapshot_commits, &self.committer.key).await?;
        }
        Ok(())
    }
}

impl<S: Subscription> Stream<S> {
    /// What is there, without waiting for more.
    async fn poll(&mut self) -> Result<Vec<(i64, Record)>, RecorderError> {
        match tokio::time::timeout(Duration::ZERO, self.subscription.next(READ_BYTES)).await {
            Ok(records) => Ok(records?),
            Err(_) => Ok(Vec::new()),
        }
    }
}

fn at(position: i64) -> Result<u64, RecorderError> {
    u64::try_from(position)
        .map_err(|_| LakeError::NotFound { what: "position", id: position.to_string() }.into())
}

/// A run that lasts this long has left the last failure behind.
const STEADY: Duration = Duration::from_secs(10);

/// Runs a recorder and its compaction until `shutdown` is ready, and starts again after failures that may pass
/// (a full disk, a store that does not answer). Anything else ends it with the reason.
pub async fn run<B: Bus + Clone>(
    bus: B,
    store: Store,
    key: Arc<EpochKey>,
    config: RecorderConfig,
    metrics: Arc<Metrics>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), RecorderError> {
    // The newcomer is refused before it has written anything, and the one at work goes on.
    let _lock = store.lock(LOCK)?;
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let mut shutdown = std::pin::pin!(shutdown);
    let compaction = Compactor::new(store.clone(), key.clone(), &config, metrics.clone());
    let compaction = tokio::spawn(compaction.run(stopped.clone()));
    let mut attempt = 0;
    let result = loop {
        let started = Instant::now();
        let once = async {
            let (bus, store, key) = (bus.clone(), store.clone(), key.clone());
            let mut recorder =
                Recorder::open_locked(bus, store, key, config.clone(), metrics.clone()).await?;
            let mut seen = stopped.clone();
            recorder.run(async move { drop(seen.wait_for(|stop| *stop).await) }).await
        };
        let mut once = std::pin::pin!(once);
        let steady = async {
            tokio::time::sleep(STEADY).await;
            metrics.failing.store(0, Ordering::Relaxed);
            std::future::pending::<std::convert::Infallible>().await
        };
        let ended = tokio::select! {
            ended = &mut once => ended,
            never = steady => match never {},
            () = &mut shutdown, if !*stop.borrow() => {
                let _ = stop.send(true);
                once.await
            }
        };
        match ended {
            Err(err) if err.is_transient() && !*stop.borrow() => {
                if started.elapsed() > Duration::from_secs(60) {
                    attempt = 0;
                }
                let wait = RETRY.get(attempt).or(RETRY.last()).copied().unwrap_or(IDLE);
                attempt += 1;
                add(&metrics.restarts_total, 1);
                metrics.failing.store(1, Ordering::Relaxed);
                tracing::error!(error = %err, retry_in_ms = wait.as_millis() as u64, "recorder_failed");
                tokio::select! {
                    () = tokio::time::sleep(wait) => {}
                    () = &mut shutdown => drop(stop.send(true)),
                }
            }
            ended => break ended,
        }
    };
    let _ = stop.send(true);
    compaction.await.map_err(|err| RecorderError::Task(err.to_string()))?;
    result
}

#[cfg(test)]
mod tests;
