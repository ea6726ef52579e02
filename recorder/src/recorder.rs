//! The loop: read every stream, flush by time and size, drain at the end.
//!
//! Invariant: a ledger record is committed only after everything that its producer had put on its other
//! streams before it, so that the time of the last committed ledger record is a watermark. A stream that cannot go on
//! is parked: what it has before the fault is stored, the other streams go on, and the ledger of its producer waits.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::Future;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bodycam_bus::stream::LEDGER_LANE;
use bodycam_bus::{Bus, BusError, Held, Progress, Record, Scope, StreamId, Subscription};
use bodycam_lake::store::Lock;
use bodycam_lake::{Lake, LakeError, Store, StreamName, View, layout};
use bodycam_record::{EpochKey, Id16};

use crate::commit::Committer;
use crate::config::RecorderConfig;
use crate::error::RecorderError;
use crate::ingest::{Ingest, Ledgers, Staged};
use crate::metrics::{Metrics, set};
use crate::templates::Templates;
use gaps::GivenUp;

/// Bytes read from one stream before the next one has its turn.
const READ_BYTES: usize = 2 << 20;
/// How long to wait when no stream had anything.
const IDLE: Duration = Duration::from_millis(20);
/// How often new streams are looked for.
const DISCOVER: Duration = Duration::from_millis(500);
/// After this time without a record a bus that has not come to its end is left as it is when the recorder stops.
const STALLED: Duration = Duration::from_secs(10);
/// The file in a local lake that its recorder holds locked.
const LOCK: &str = bodycam_lake::layout::RECORDER_LOCK;
/// Between two hints of what has moved, while there is much to commit.
const TELL: Duration = Duration::from_millis(500);
/// How often it is said that streams are parked.
const REMIND: Duration = Duration::from_secs(60);
/// Entries of the list of streams that are read at once.
const LISTED_AT_ONCE: usize = 16;
/// Age from which a half-written file counts as left behind by a killed writer.
const HALF_WRITTEN_AGE: Duration = Duration::from_secs(600);

/// A recorder: the writer of the record in a lake, for every stream of a bus, or for those that a shared bus gives to it.
/// After an error it is of no further use: a new one goes on where the commits end.
pub struct Recorder<B: Bus> {
    bus: B,
    lake: Lake,
    config: RecorderConfig,
    committer: Committer,
    ingest: Ingest,
    streams: BTreeMap<StreamId, Stream<B>>,
    /// What the lake holds of them, and of others.
    held: BTreeMap<StreamId, Held>,
    /// What tells apart streams of one name, for each entry of the list of streams.
    origins: Vec<Option<Id16>>,
    /// Streams that do not go on, and why.
    parked: BTreeMap<StreamId, RecorderError>,
    /// Streams with records that are given up: the first of these, and the first that there is.
    given_up: BTreeMap<StreamId, (i64, i64)>,
    reminded: Instant,
    /// How far each stream has come, as of the last look at all of them.
    progress: BTreeMap<StreamId, Progress>,
    discovered: Option<Instant>,
    flushed: Instant,
    metrics: Arc<Metrics>,
    /// Held while the recorder lives.
    _lock: Option<Lock>,
}

/// A stream being read.
struct Stream<B: Bus> {
    name: StreamName,
    generation: u64,
    origin: Option<Id16>,
    subscription: B::Subscription,
    /// First position that is not committed.
    committed: u64,
    /// First position that is not staged.
    next: u64,
    staged: Staged,
    /// What is given up before it, and not declared yet.
    given_up: Vec<GivenUp>,
    /// Ledger records that wait for the producer's other streams.
    held: VecDeque<(i64, Record)>,
    /// What these streams held when the records were read.
    waits_for: Option<B::Mark>,
}

impl<B: Bus> Recorder<B> {
    /// Takes the lake for itself, or for the group of a shared bus, probes its store, and goes on where the commits end.
    /// Refused while a recorder that is none of the group is at work on the lake.
    pub async fn open(
        bus: B,
        store: Store,
        key: Arc<EpochKey>,
        config: RecorderConfig,
        metrics: Arc<Metrics>,
    ) -> Result<Self, RecorderError> {
        let lock = lock(&bus, &store)?;
        Ok(Self { _lock: lock, ..Self::open_locked(bus, store, key, config, metrics).await? })
    }

    /// As [`Recorder::open`], when the caller holds the lock.
    pub(crate) async fn open_locked(
        bus: B,
        store: Store,
        key: Arc<EpochKey>,
        config: RecorderConfig,
        metrics: Arc<Metrics>,
    ) -> Result<Self, RecorderError> {
        config.check()?;
        store.sweep(HALF_WRITTEN_AGE).await?;
        set(&metrics.parked_streams, 0);
        let nonce = std::hash::RandomState::new().build_hasher().finish();
        store.probe(nonce).await?;
        let lake = Lake::open_by(store, &config.believed(&key)?).await?;
        let ingest = Ingest::new(Templates::load(&lake).await?, Ledgers::new(config.trusted()?));
        let [a, b, c, d, ..] = nonce.to_le_bytes();
        let writer = u32::from_le_bytes([a, b, c, d]);
        let committer = Committer { key, writer, metrics: metrics.clone() };
        let mut recorder = Self {
            bus,
            lake,
            config,
            committer,
            ingest,
            streams: BTreeMap::new(),
            held: BTreeMap::new(),
            origins: Vec::new(),
            parked: BTreeMap::new(),
            given_up: BTreeMap::new(),
            reminded: Instant::now(),
            progress: BTreeMap::new(),
            discovered: None,
            flushed: Instant::now(),
            metrics,
            _lock: None,
        };
        recorder.held = recorder.look_up_held().await?;
        recorder.bus.holds(recorder.held.clone())?;
        Ok(recorder)
    }

    /// The lake as this recorder has made it.
    pub fn lake(&self) -> &Lake {
        &self.lake
    }

    /// Records until `shutdown` is ready; then reads what is on the bus, commits it and returns: with the fault of a
    /// stream that is parked, if there is one.
    pub async fn run(&mut self, shutdown: impl Future<Output = ()>) -> Result<(), RecorderError> {
        let mut shutdown = std::pin::pin!(shutdown);
        loop {
            let read = self.read().await?;
            if self.is_due() {
                self.flush().await?;
            }
            self.remind();
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

    /// Reads everything that is on the bus now, and commits it. An error when a stream is parked.
    pub async fn drain(&mut self) -> Result<(), RecorderError> {
        self.discover().await?;
        let mut mark = self.bus.mark(Scope::Everything)?;
        let mut moved = Instant::now();
        loop {
            let read = self.read().await?;
            if self.is_due() {
                self.flush().await?;
            }
            // Parked streams give nothing more, nor do the ledgers that wait for them.
            let stuck = |id: &&StreamId| {
                let waits =
                    |parked: &StreamId| id.lane() == LEDGER_LANE && parked.producer() == id.producer();
                self.parked.keys().any(|parked| parked == *id || waits(parked))
            };
            let mut progress = self.progress.clone();
            let all = self.parked.keys().chain(self.streams.keys());
            progress.extend(all.filter(stuck).map(|id| (id.clone(), Progress::STUCK)));
            let nothing_held = self.streams.iter().all(|(id, s)| s.held.is_empty() || stuck(&id));
            if self.bus.passed(&mut mark, &progress)? && nothing_held {
                self.flush().await?;
                // What a group's recorder lets go of because of a refusal can be its own to store all the same.
                if self.discovered.is_some() {
                    break;
                }
                continue;
            }
            if read > 0 {
                moved = Instant::now();
            } else if moved.elapsed() >= STALLED {
                tracing::warn!(
                    "stopped_before_the_end: the bus gives nothing; what is on it stays there for the next start"
                );
                self.flush().await?;
                break;
            } else {
                tokio::time::sleep(IDLE).await;
            }
        }
        match self.parked.pop_first() {
            Some((_, why)) => Err(why),
            None => Ok(()),
        }
    }

    /// Reads once from every stream; gives the number of records.
    async fn read(&mut self) -> Result<usize, RecorderError> {
        if self.discovered.is_none_or(|at| at.elapsed() >= DISCOVER) {
            self.discover().await?;
        }
        let mut faults = Vec::new();
        let (mut read, mut dry) = self.read_ledgers(&mut faults).await?;
        let view = self.lake.view();
        for (id, stream) in &mut self.streams {
            if id.lane() == LEDGER_LANE {
                continue;
            }
            let Some(records) = stream.poll_sound(id, &mut faults).await? else { continue };
            if records.is_empty() {
                dry.insert(id.clone());
            }
            read += records.len();
            if let Some(why) = stream.stage(&mut self.ingest, &view, records).await? {
                faults.push((id.clone(), why));
            }
        }
        let mut progress = BTreeMap::new();
        for (id, stream) in &self.streams {
            // One with a fault has not passed what lies behind that.
            if faults.iter().any(|(faulty, _)| faulty == id) {
                continue;
            }
            let position = position(stream.next)?;
            progress.insert(id.clone(), Progress { position, dry: dry.contains(id) });
        }
        for (id, stream) in &mut self.streams {
            // One with a fault goes no further than that.
            if faults.iter().any(|(faulty, _)| faulty == id) {
                continue;
            }
            let passed = match &mut stream.waits_for {
                Some(mark) => self.bus.passed(mark, &progress)?,
                None => true,
            };
            if !passed {
                continue;
            }
            stream.waits_for = None;
            let held = std::mem::take(&mut stream.held);
            if let Some(why) = stream.stage(&mut self.ingest, &view, held).await? {
                faults.push((id.clone(), why));
                progress.remove(id);
            }
            if let Some(progress) = progress.get_mut(id) {
                progress.position = position(stream.next)?;
            }
        }
        self.progress = progress;
        let pending = self.streams.values().map(|s| s.staged.records + s.held.len() as u64).sum();
        set(&self.metrics.pending_records, pending);
        self.set_aside(faults).await?;
        Ok(read)
    }

    /// Takes streams with faults out of the loop: for good, or until the next look, which finds those that go on as a
    /// new generation.
    async fn set_aside(&mut self, faults: Vec<(StreamId, RecorderError)>) -> Result<(), RecorderError> {
        let (revoked, faults): (Vec<_>, Vec<_>) = faults.into_iter().partition(|(_, why)| why.is_revoked());
        for (id, _) in revoked {
            if self.streams.contains_key(&id) {
                self.revoked(&id);
            }
        }
        if faults.is_empty() {
            return Ok(());
        }
        // What lies before the faults is good, and nobody can read it again once they are acknowledged.
        self.flush().await?;
        for (id, why) in faults {
            // One that was let go of meanwhile is looked at again.
            if self.streams.remove(&id).is_none() {
                continue;
            }
            self.progress.remove(&id);
            match self.is_acknowledged(&id, &why) {
                true => self.discovered = None,
                false => self.park(id, why)?,
            }
        }
        Ok(())
    }

    /// Whether the configuration says that a stream goes on in spite of this; notes what is given up.
    fn is_acknowledged(&mut self, id: &StreamId, why: &RecorderError) -> bool {
        match why {
            RecorderError::Bus(BusError::Recreated { .. }) => self.config.recreated.contains(&id.to_string()),
            RecorderError::Bus(BusError::Truncated { first, wanted, .. }) => {
                let known = self.config.truncated.contains(&id.to_string());
                if known {
                    self.given_up.insert(id.clone(), (*wanted, *first));
                }
                known
            }
            _ => false,
        }
    }

    fn park(&mut self, id: StreamId, why: RecorderError) -> Result<(), RecorderError> {
        tracing::error!(stream = %id, error = %why, "stream_parked: the other streams go on");
        self.bus.park(&id)?;
        self.parked.insert(id, why);
        set(&self.metrics.parked_streams, self.parked.len() as u64);
        Ok(())
    }

    /// Says again, now and then, what is parked, and looks again at what may have been mended.
    fn remind(&mut self) {
        if self.parked.is_empty() || self.reminded.elapsed() < REMIND {
            return;
        }
        self.reminded = Instant::now();
        for (id, why) in &self.parked {
            tracing::error!(stream = %id, error = %why, "stream_parked: nothing more is stored of it");
        }
        self.parked.retain(|_, why| !why.may_be_mended());
        self.discovered = None;
    }

    /// Reads ledger records and holds them until what was put on the other streams before them is staged. Gives
    /// how many, and the ledgers that had none.
    async fn read_ledgers(
        &mut self,
        faults: &mut Vec<(StreamId, RecorderError)>,
    ) -> Result<(usize, BTreeSet<StreamId>), RecorderError> {
        let (mut read, mut dry) = (0, BTreeSet::new());
        let mut fresh = Vec::new();
        for (id, stream) in self.streams.iter_mut().filter(|(id, _)| id.lane() == LEDGER_LANE) {
            if !stream.held.is_empty() {
                continue;
            }
            let Some(records) = stream.poll_sound(id, faults).await? else { continue };
            stream.held = records.into();
            read += stream.held.len();
            match stream.held.is_empty() {
                true => dry.insert(id.clone()),
                false => {
                    fresh.push(id.clone());
                    true
                }
            };
        }
        if !fresh.is_empty() {
            // A stream can have begun since the last look; the records just read may tell of its events.
            self.discover().await?;
        }
        for id in fresh {
            let mark = self.bus.mark(Scope::Beside(id.producer()))?;
            if let Some(stream) = self.streams.get_mut(&id) {
                stream.waits_for = Some(mark);
            }
        }
        Ok((read, dry))
    }

    /// Subscribes to streams that are new. Those that may not go on are parked.
    async fn discover(&mut self) -> Result<(), RecorderError> {
        self.discovered = Some(Instant::now());
        self.answer().await?;
        let there: BTreeSet<StreamId> = self.bus.streams()?.into_iter().collect();
        if self.bus.is_shared() {
            // Those of other recorders.
            self.parked.retain(|id, _| there.contains(id));
            let gone: Vec<_> = self.streams.keys().filter(|id| !there.contains(id)).cloned().collect();
            for id in gone {
                if self.streams.contains_key(&id) {
                    self.revoked(&id);
                }
            }
        }
        let is_new = |id: &StreamId| !self.streams.contains_key(id) && !self.parked.contains_key(id);
        let fresh: Vec<StreamId> = there.into_iter().filter(is_new).collect();
        if !fresh.is_empty() {
            self.adopt(&fresh).await?;
        }
        for id in fresh {
            let subscribed = match self.subscribe(&id).await {
                Err(why) if self.is_acknowledged(&id, &why) => self.subscribe(&id).await,
                subscribed => subscribed,
            };
            match subscribed {
                Ok(stream) => drop(self.streams.insert(id, stream)),
                // It was given to another recorder since.
                Err(why) if why.is_revoked() => {}
                Err(why) if why.is_of_one_stream() => {
                    self.list_ledger(&id).await?;
                    self.park(id, why)?;
                }
                Err(why) => return Err(why),
            }
        }
        set(&self.metrics.streams, self.streams.len() as u64);
        set(&self.metrics.parked_streams, self.parked.len() as u64);
        Ok(())
    }

    /// A ledger that cannot be read exists all the same: a lake that does not list it would be taken for one that is only
    /// beginning.
    async fn list_ledger(&mut self, id: &StreamId) -> Result<(), RecorderError> {
        let name: StreamName = id.to_string().parse()?;
        if id.lane() == LEDGER_LANE && self.lake.state().newest(&name).is_none() {
            self.lake.add_stream_of(&name, 0, 0, self.bus.origin(id)?).await?;
        }
        Ok(())
    }

    async fn subscribe(&mut self, id: &StreamId) -> Result<Stream<B>, RecorderError> {
        let name: StreamName = id.to_string().parse()?;
        let known = self.lake.state().newest(&name).map(|s| (s.generation, s.position));
        let (mut generation, mut committed) = known.unwrap_or_default();
        let origin = self.bus.origin(id)?;
        let mut held = self.held.remove(id).unwrap_or_default();
        held.position = position(committed)?;
        let (mut staged, mut given_up) = (Staged::default(), Vec::new());
        if let Some(why) = self.is_another(id, &held, origin)? {
            if !self.config.recreated.contains(&id.to_string()) {
                self.held.insert(id.clone(), held);
                return Err(why);
            }
            tracing::warn!(stream = %id, why = %why, "stream_recreated");
            if known.is_some() {
                given_up.push(GivenUp { from: held.position, to: held.position });
            }
            held = held.followed_by(origin);
            (generation, committed) = (generation + 1, at(held.position)?);
            self.bus.goes_on(id, held.clone())?;
        }
        if let Some((wanted, first)) = self.given_up.remove(id) {
            tracing::warn!(stream = %id, wanted, first, "stream_truncated: records before the first one are given up");
            staged.findings.lost(id, wanted, first);
            given_up.push(GivenUp { from: wanted, to: first });
            held = Held { position: first, ..held.clone().followed_by(held.origin.or(origin)) };
            // A stream that the lake does not have begins there.
            (generation, committed) = (generation + u64::from(known.is_some()), at(first)?);
            self.bus.goes_on(id, held.clone())?;
        }
        held.origin = held.origin.or(origin);
        if self.bus.is_shared() {
            self.bus.goes_on(id, held.clone())?;
        }
        let from = held.position;
        self.held.insert(id.clone(), held);
        let subscription = match self.bus.subscribe(id, from) {
            // A new generation starts at whatever the stream still has.
            Err(BusError::Truncated { first, .. }) if committed == 0 && generation > 0 => {
                committed = at(first)?;
                self.bus.subscribe(id, first)?
            }
            subscription => subscription?,
        };
        tracing::info!(stream = %id, position = from, generation, "stream_found");
        Ok(Stream {
            name,
            generation,
            origin,
            subscription,
            committed,
            next: committed,
            staged,
            given_up,
            held: VecDeque::new(),
            waits_for: None,
        })
    }

    /// Why a stream is not the one that the lake holds under its name, if it is not.
    fn is_another(
        &self,
        id: &StreamId,
        held: &Held,
        origin: Option<Id16>,
    ) -> Result<Option<RecorderError>, RecorderError> {
        if let Some(end) = self.bus.known_end(id)?.filter(|end| *end < held.position) {
            let committed = at(held.position)?;
            return Ok(Some(RecorderError::Recreated { stream: id.to_string(), end, committed }));
        }
        Ok(match (held.origin, origin) {
            (Some(known), Some(found)) if known != found => {
                let (stream, known, found) = (id.to_string(), known.to_string(), found.to_string());
                Some(BusError::Recreated { stream, known, found }.into())
            }
            _ => None,
        })
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
            let ledger = StreamId::new(id.producer(), LEDGER_LANE)?;
            let listed = self.list(&ledger).await;
            self.unless_refused(&ledger, listed)?;
        }
        let mut told = Instant::now();
        for id in order {
            let committed = self.commit(&id).await;
            self.unless_refused(&id, committed)?;
            if told.elapsed() > TELL {
                self.tell().await;
                told = Instant::now();
            }
        }
        self.flushed = Instant::now();
        if something {
            self.tell().await;
            // Commits of compaction, and of other recorders: of the group, or of one that should not be here.
            self.lake.follow().await?;
            if let Some(path) = self.let_go_of_what_others_committed() {
                return Err(LakeError::CommitConflict { path }.into());
            }
            self.lake.snapshot(self.config.snapshot_commits, &self.committer.key).await?;
        }
        Ok(())
    }

    /// Tells those who follow the lake what has moved. Without it they find out later.
    async fn tell(&mut self) {
        let writer = self.committer.key.public().to_hex();
        if let Err(err) = self.lake.tell(&writer).await {
            tracing::debug!(error = %err, "hint_not_written");
        }
    }

    /// Commits what is staged of a stream.
    async fn commit(&mut self, id: &StreamId) -> Result<(), RecorderError> {
        self.list(id).await?;
        // Let go of since it was found to have something.
        let Some(stream) = self.streams.get_mut(id) else { return Ok(()) };
        let staged = std::mem::take(&mut stream.staged);
        let (records, from, to) = (staged.records, stream.committed, stream.next);
        let place = (&stream.name, stream.generation);
        self.bus.settle(id, position(to)?)?;
        self.committer.commit(&mut self.lake, &mut self.ingest, place, (from, to), staged).await?;
        stream.committed = to;
        tracing::debug!(stream = %id, from, to, records, "committed");
        self.bus.release(id, position(to)?)?;
        Ok(())
    }
}

impl<B: Bus> Stream<B> {
    /// Has the lake list it, if it does not yet.
    async fn list(&self, lake: &mut Lake) -> Result<(), RecorderError> {
        let index = lake.add_stream_of(&self.name, self.generation, self.committed, self.origin).await?;
        // Another recorder has listed it, from elsewhere on, or has committed it.
        if lake.state().streams.get(index).is_some_and(|there| there.position != self.committed) {
            let path = layout::commit(&self.name, self.generation, self.committed);
            return Err(LakeError::CommitConflict { path }.into());
        }
        Ok(())
    }

    /// Stages records, up to the first that cannot be stored: gives why that is.
    async fn stage(
        &mut self,
        ingest: &mut Ingest,
        view: &View,
        records: impl IntoIterator<Item = (i64, Record)>,
    ) -> Result<Option<RecorderError>, RecorderError> {
        for (position, record) in records {
            match ingest.take(&mut self.staged, view, &self.name, position, record).await {
                Err(why) if why.is_of_one_stream() => {
                    self.next = at(position)?;
                    return Ok(Some(why));
                }
                taken => taken?,
            }
        }
        // Not the position after the last record: a stream can skip positions that were lost.
        self.next = at(self.subscription.position())?;
        Ok(None)
    }

    /// What is there, without waiting for more; none when it has a fault, which is noted.
    async fn poll_sound(
        &mut self,
        id: &StreamId,
        faults: &mut Vec<(StreamId, RecorderError)>,
    ) -> Result<Option<Vec<(i64, Record)>>, RecorderError> {
        match self.poll().await {
            Err(why) if why.is_of_one_stream() || why.is_revoked() => {
                faults.push((id.clone(), why));
                Ok(None)
            }
            records => records.map(Some),
        }
    }

    /// What is there, without waiting for more.
    async fn poll(&mut self) -> Result<Vec<(i64, Record)>, RecorderError> {
        match tokio::time::timeout(Duration::ZERO, self.subscription.next(READ_BYTES)).await {
            Ok(records) => Ok(records?),
            Err(_) => Ok(Vec::new()),
        }
    }
}

/// Locks the lake: for this recorder alone, or for the recorders of a shared bus.
pub(crate) fn lock<B: Bus>(bus: &B, store: &Store) -> Result<Option<Lock>, LakeError> {
    match bus.is_shared() {
        true => store.lock_shared(LOCK),
        false => store.lock(LOCK),
    }
}

fn position(at: u64) -> Result<i64, RecorderError> {
    i64::try_from(at).map_err(|_| LakeError::NotFound { what: "position", id: at.to_string() }.into())
}

fn at(position: i64) -> Result<u64, RecorderError> {
    u64::try_from(position)
        .map_err(|_| LakeError::NotFound { what: "position", id: position.to_string() }.into())
}

mod gaps;
mod group;
#[cfg(test)]
mod tests;
