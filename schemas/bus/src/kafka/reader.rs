//! The reading end: a member of the consumer group, on a thread of its own.
//!
//! The thread polls, sorts what comes into streams ([`super::demux`]) and commits offsets before which everything
//! rests in the lake, each with a claim that says so ([`super::claim`]). Nothing depends on them: what is wanted is said
//! by positions, and an offset that is too high or too low costs a second look, never a record.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bodycam_record::Id16;
use rdkafka::client::ClientContext;
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, Rebalance};
use rdkafka::error::KafkaError;
use rdkafka::message::BorrowedMessage;
use rdkafka::{Message, Offset, TopicPartitionList};

use super::claim::Claim;
use super::demux::{Demux, Rewind};
use super::{Away, Kafka, Place, Topic, prepare};
use crate::{Bus, BusError, Held, Progress, Record, Scope, StreamId, Subscription};

/// Bytes that the library fetches ahead, of all partitions; of one, at least and at most.
const FETCHED: usize = 32 << 20;
const FETCHED_OF_ONE: (usize, usize) = (64 << 10, 4 << 20);
/// How long to wait when no partition had anything.
const IDLE: Duration = Duration::from_millis(10);
/// How long to wait at the end of a stream before looking again.
const POLL: Duration = Duration::from_millis(20);
/// Messages taken from one partition before the next one has its turn.
const TURN: usize = 32;
/// How often offsets are committed.
const COMMIT: Duration = Duration::from_secs(1);
/// How often it is looked, at one partition after the other, whether what was read last is still there.
const LOOK: Duration = Duration::from_secs(1);
/// How long one request to the brokers may take.
const REQUEST: Duration = Duration::from_secs(5);
/// How long the end waits for the group to be left.
const LEAVE: Duration = Duration::from_secs(5);

/// Kafka, read as one member of the group of recorders. Clones share the membership, which ends with the last.
#[derive(Debug, Clone)]
pub struct KafkaBus {
    handle: Arc<Handle>,
}

/// What a reader counts; the clones share it.
#[derive(Debug, Clone)]
pub struct KafkaMetrics(Arc<Shared>);

/// Reads one stream, in order, from a position on; waits at the end.
#[derive(Debug)]
pub struct KafkaSubscription {
    shared: Arc<Shared>,
    stream: StreamId,
    number: u64,
    position: i64,
}

/// Where partitions ended at a moment, once the brokers have said it.
#[derive(Debug)]
pub struct KafkaMark {
    scope: Marked,
    ends: Ends,
}

/// Offsets at which partitions ended.
type Ends = Arc<Mutex<Option<Vec<(Place, i64)>>>>;

#[derive(Debug, Clone)]
enum Marked {
    Everything,
    Beside(String),
}

#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
    ended: Mutex<Receiver<()>>,
}

#[derive(Debug)]
struct Shared {
    kafka: Kafka,
    demux: Mutex<Demux>,
    /// Marks that the brokers are still to be asked about.
    marks: Mutex<Vec<(Marked, Ends)>>,
    /// Times that the group was settled anew.
    rebalances: Arc<AtomicU64>,
    stop: AtomicBool,
}

impl KafkaBus {
    /// Joins the group, after the topics were made or checked. Waits for the brokers, on the calling thread.
    pub fn open(kafka: Kafka) -> Result<Self, BusError> {
        prepare(&kafka)?;
        let shared = Arc::new(Shared {
            demux: Mutex::default(),
            marks: Mutex::default(),
            rebalances: Arc::default(),
            stop: AtomicBool::new(false),
            kafka,
        });
        let consumer = Arc::new(consumer(&shared.kafka, Arc::clone(&shared.rebalances))?);
        let (end, ended) = mpsc::channel();
        let mut poller = Poller {
            shared: Arc::clone(&shared),
            consumer,
            queues: BTreeMap::new(),
            arriving: BTreeSet::new(),
            committed: BTreeMap::new(),
            commit_at: Instant::now(),
            looked: (Instant::now(), None),
        };
        std::thread::Builder::new()
            .name("kafka-read".to_owned())
            .spawn(move || {
                poller.run();
                drop(poller);
                // Nobody waits any more when the end was given up.
                let _ = end.send(());
            })
            .map_err(|e| BusError::Kafka {
                action: "start the thread that reads".into(),
                why: e.to_string(),
            })?;
        Ok(Self { handle: Arc::new(Handle { shared, ended: Mutex::new(ended) }) })
    }

    /// What is counted. Holds no membership.
    pub fn metrics(&self) -> KafkaMetrics {
        KafkaMetrics(Arc::clone(&self.handle.shared))
    }
}

impl KafkaMetrics {
    /// The text that Prometheus scrapes.
    pub fn prometheus(&self) -> String {
        use std::fmt::Write as _;
        let demux = lock(&self.0.demux);
        let mut out = String::new();
        let partitions = demux.places().count() as u64;
        for (name, kind, help, value) in [
            ("partitions", "gauge", "Partitions that this recorder reads.", partitions),
            ("waiting_bytes", "gauge", "Bytes read from Kafka and not taken yet.", demux.waiting() as u64),
            (
                "messages_total",
                "counter",
                "Messages read from Kafka, those that came again with them.",
                demux.messages,
            ),
            ("repeated_total", "counter", "Records that came again and were passed over.", demux.repeated),
            ("foreign_total", "counter", "Messages that no gateway sends.", demux.foreign),
            (
                "rebalances_total",
                "counter",
                "Times that the group was settled anew and gave this recorder its partitions.",
                self.0.rebalances.load(Ordering::Relaxed),
            ),
        ] {
            let name = format!("bodycam_recorder_kafka_{name}");
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
        }
        out
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        let ended = self.ended.get_mut().unwrap_or_else(PoisonError::into_inner);
        if ended.recv_timeout(LEAVE).is_err() {
            tracing::warn!(
                event = "kafka_group_not_left",
                "the group will notice by itself that this recorder is gone"
            );
        }
    }
}

impl Bus for KafkaBus {
    type Subscription = KafkaSubscription;
    type Mark = KafkaMark;

    fn is_shared(&self) -> bool {
        true
    }

    fn holds(&self, held: BTreeMap<StreamId, Held>) -> Result<(), BusError> {
        lock(&self.handle.shared.demux).holds(held);
        Ok(())
    }

    fn asks(&self) -> Result<bool, BusError> {
        Ok(lock(&self.handle.shared.demux).asks())
    }

    fn goes_on(&self, stream: &StreamId, held: Held) -> Result<(), BusError> {
        lock(&self.handle.shared.demux).goes_on(stream, held);
        Ok(())
    }

    fn streams(&self) -> Result<Vec<StreamId>, BusError> {
        Ok(lock(&self.handle.shared.demux).streams())
    }

    fn subscribe(&self, stream: &StreamId, from: i64) -> Result<KafkaSubscription, BusError> {
        let shared = Arc::clone(&self.handle.shared);
        let place = shared.kafka.place(stream);
        let number = lock(&shared.demux).subscribe(stream, place, from)?;
        Ok(KafkaSubscription { shared, stream: stream.clone(), number, position: from })
    }

    fn park(&self, stream: &StreamId) -> Result<(), BusError> {
        lock(&self.handle.shared.demux).park(stream);
        Ok(())
    }

    fn settle(&self, _: &StreamId, _: i64) -> Result<(), BusError> {
        // What is read was acknowledged by all in-sync replicas.
        Ok(())
    }

    fn release(&self, stream: &StreamId, to: i64) -> Result<(), BusError> {
        lock(&self.handle.shared.demux).release(stream, to);
        Ok(())
    }

    fn known_end(&self, _: &StreamId) -> Result<Option<i64>, BusError> {
        Ok(None)
    }

    fn origin(&self, stream: &StreamId) -> Result<Option<Id16>, BusError> {
        Ok(lock(&self.handle.shared.demux).origin(stream))
    }

    fn mark(&self, scope: Scope<'_>) -> Result<KafkaMark, BusError> {
        let scope = match scope {
            Scope::Everything => Marked::Everything,
            Scope::Beside(producer) => Marked::Beside(producer.to_owned()),
        };
        let ends = Ends::default();
        lock(&self.handle.shared.marks).push((scope.clone(), Arc::clone(&ends)));
        Ok(KafkaMark { scope, ends })
    }

    fn passed(
        &self,
        mark: &mut KafkaMark,
        progress: &BTreeMap<StreamId, Progress>,
    ) -> Result<bool, BusError> {
        let Some(ends) = lock(&mark.ends).clone() else { return Ok(false) };
        let demux = lock(&self.handle.shared.demux);
        let scope = mark.scope.scope();
        // A partition that is not read here, or was not when it was asked about, may hold what nobody has taken.
        let whole = |place: &Place| ends.iter().any(|(asked, _)| asked == place) && demux.has(*place);
        if !mark.scope.needs(&self.handle.shared.kafka).iter().all(whole) {
            return Ok(false);
        }
        // What was given out is what the reader says that it has.
        let taken = |stream: &StreamId| !scope.holds(stream) || progress.contains_key(stream);
        let stuck = |stream: &StreamId| progress.get(stream) == Some(&Progress::STUCK);
        let waited_for = |stream: &StreamId| scope.holds(stream) && !stuck(stream);
        Ok(ends.iter().all(|(place, end)| demux.given_out(*place, *end, waited_for))
            && demux.streams().iter().all(taken))
    }
}

impl Marked {
    fn scope(&self) -> Scope<'_> {
        match self {
            Marked::Everything => Scope::Everything,
            Marked::Beside(producer) => Scope::Beside(producer),
        }
    }

    /// The partitions without which nothing can be said of it.
    fn needs(&self, kafka: &Kafka) -> Vec<Place> {
        match self {
            // What became another reader's is no matter of this one.
            Marked::Everything => Vec::new(),
            Marked::Beside(producer) => {
                let partition = kafka.partition(producer);
                [Topic::Events, Topic::Keys].map(|topic| (topic, partition)).into()
            }
        }
    }

    /// Whether a partition can hold streams of it.
    fn concerns(&self, kafka: &Kafka, place: Place) -> bool {
        match self {
            Marked::Everything => true,
            Marked::Beside(producer) => place.0 != Topic::Ledger && place.1 == kafka.partition(producer),
        }
    }
}

impl Subscription for KafkaSubscription {
    async fn next(&mut self, max_bytes: usize) -> Result<Vec<(i64, Record)>, BusError> {
        loop {
            let (records, after) = lock(&self.shared.demux).take(&self.stream, self.number, max_bytes)?;
            if let Some(after) = after {
                self.position = after;
                return Ok(records);
            }
            tokio::time::sleep(POLL).await;
        }
    }

    fn position(&self) -> i64 {
        self.position
    }
}

impl Drop for KafkaSubscription {
    fn drop(&mut self) {
        lock(&self.shared.demux).leave(&self.stream, self.number);
    }
}

/// What rebalances leave for the thread to do.
#[derive(Debug)]
enum Change {
    Assigned(Place),
    Revoked(Place),
}

impl Change {
    fn revoked(&self) -> Option<Place> {
        match self {
            Change::Revoked(place) => Some(*place),
            Change::Assigned(_) => None,
        }
    }
}

struct Member {
    names: BTreeMap<String, Topic>,
    changes: Mutex<Vec<Change>>,
    rebalances: Arc<AtomicU64>,
    away: Away,
}

impl ClientContext for Member {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        super::log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.away.say(&error, reason);
    }
}

impl ConsumerContext for Member {
    fn pre_rebalance(&self, _: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        if let Rebalance::Revoke(partitions) = rebalance {
            let revoked = self.places(partitions).into_iter().map(Change::Revoked);
            lock(&self.changes).extend(revoked);
        }
    }

    fn post_rebalance(&self, _: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        match rebalance {
            Rebalance::Assign(partitions) => {
                self.rebalances.fetch_add(1, Ordering::Relaxed);
                let assigned = self.places(partitions).into_iter().map(Change::Assigned);
                lock(&self.changes).extend(assigned);
            }
            Rebalance::Revoke(_) => {}
            Rebalance::Error(error) => {
                tracing::error!(event = "kafka_rebalance_failed", error = %error, "the group could not be settled");
            }
        }
    }
}

impl Member {
    fn places(&self, partitions: &TopicPartitionList) -> Vec<Place> {
        let of = |topic: &str| self.names.get(topic).copied();
        partitions.elements().iter().filter_map(|e| Some((of(e.topic())?, e.partition()))).collect()
    }
}

struct Poller {
    shared: Arc<Shared>,
    consumer: Arc<BaseConsumer<Member>>,
    queues: BTreeMap<Place, PartitionQueue<Member>>,
    /// Assigned, and not known yet where they are read from.
    arriving: BTreeSet<Place>,
    committed: BTreeMap<Place, i64>,
    commit_at: Instant,
    looked: (Instant, Option<Place>),
}

impl Poller {
    fn run(&mut self) {
        let mut busy = false;
        while !self.shared.stop.load(Ordering::SeqCst) {
            match self.consumer.poll(if busy { Duration::ZERO } else { IDLE }) {
                // Came between the assignment and the split of its partition's queue.
                Some(Ok(message)) => take(&self.shared, &self.consumer, &message),
                Some(Err(error)) => self.consumer.context().away.say(&error, "reading"),
                None => {}
            }
            self.changes();
            self.arrive();
            self.look();
            busy = self.read();
            self.marks();
            if self.commit_at.elapsed() >= COMMIT {
                self.commit(CommitMode::Async);
            }
        }
        self.commit(CommitMode::Sync);
        self.queues.clear();
    }

    fn changes(&mut self) {
        let changes = std::mem::take(&mut *lock(&self.consumer.context().changes));
        let revoked: Vec<Place> = changes.iter().filter_map(Change::revoked).collect();
        if !revoked.is_empty() {
            lock(&self.shared.demux).revoked(&revoked);
        }
        for change in changes {
            match change {
                Change::Revoked(place) => {
                    self.queues.remove(&place);
                    self.arriving.remove(&place);
                    self.committed.remove(&place);
                    tracing::info!(
                        event = "kafka_partition_revoked",
                        topic = place.0.suffix(),
                        partition = place.1,
                        "the group is settled anew: whoever reads it next begins where the lake stands"
                    );
                }
                Change::Assigned(place) => {
                    let name = self.shared.kafka.topic(place.0);
                    if let Some(queue) = self.consumer.split_partition_queue(&name, place.1) {
                        self.queues.insert(place, queue);
                        self.arriving.insert(place);
                        lock(&self.shared.demux).ask();
                    }
                }
            }
        }
    }

    /// Finds out where partitions that are new here are read from, once it is known what the lake holds. In the order of
    /// the topics, and no further than the first that is not known: a ledger is read after what it speaks of.
    fn arrive(&mut self) {
        if lock(&self.shared.demux).held().is_none() {
            return;
        }
        let arriving: Vec<Place> = self.arriving.iter().copied().collect();
        for place in arriving {
            match self.begin(place) {
                Ok((offset, claim)) => {
                    tracing::info!(
                        event = "kafka_partition_assigned",
                        topic = place.0.suffix(),
                        partition = place.1,
                        offset,
                        from_the_start = claim.is_none(),
                        "reading"
                    );
                    lock(&self.shared.demux).assigned(place, offset, claim);
                    self.arriving.remove(&place);
                }
                Err(error) => {
                    tracing::warn!(event = "kafka_partition_unknown", topic = place.0.suffix(), partition = place.1, error = %error, "trying again");
                    return;
                }
            }
        }
    }

    /// The start of a partition, or the message before the offset that the group has committed, if the lake holds what
    /// is claimed with it.
    fn begin(&self, place: Place) -> Result<(i64, Option<Claim>), KafkaError> {
        let name = self.shared.kafka.topic(place.0);
        let (low, high) = self.consumer.fetch_watermarks(&name, place.1, REQUEST)?;
        let mut wanted = TopicPartitionList::new();
        wanted.add_partition(&name, place.1);
        let committed = self.consumer.committed_offsets(wanted, REQUEST)?;
        let begun = committed.find_partition(&name, place.1).and_then(|entry| {
            let Offset::Offset(offset) = entry.offset() else { return None };
            let demux = lock(&self.shared.demux);
            let claim =
                Claim::parse(entry.metadata()).filter(|c| demux.held().is_some_and(|h| c.is_held(h)))?;
            (low < offset && offset <= high).then_some((offset.saturating_sub(1), Some(claim)))
        });
        let (offset, claim) = begun.unwrap_or((low, None));
        // The library may have begun elsewhere, as with an offset of a topic that was recreated.
        self.consumer.seek(&name, place.1, Offset::Offset(offset), REQUEST)?;
        Ok((offset, claim))
    }

    /// Takes what the partitions have. Gives whether there was anything.
    fn read(&mut self) -> bool {
        let mut busy = false;
        for (place, queue) in &self.queues {
            if self.arriving.contains(place) {
                continue;
            }
            let rewind = lock(&self.shared.demux).rewind(*place);
            if let Some(rewind) = rewind
                && let Err(error) = self.read_again(*place, rewind)
            {
                tracing::warn!(event = "kafka_seek_failed", topic = place.0.suffix(), partition = place.1, error = %error, "trying again");
                continue;
            }
            for _ in 0..TURN {
                if !lock(&self.shared.demux).has_room(*place) {
                    break;
                }
                match queue.poll(Duration::ZERO) {
                    Some(Ok(message)) => {
                        take(&self.shared, &self.consumer, &message);
                        busy = true;
                    }
                    Some(Err(error)) => self.consumer.context().away.say(&error, "reading"),
                    None => break,
                }
            }
        }
        busy
    }

    /// Has the next partition show again the message that it gave last: a topic that was deleted and made again, and has
    /// as many messages as the old one, goes on at the offset where that was, and hides what came before.
    fn look(&mut self) {
        if self.looked.0.elapsed() < LOOK {
            return;
        }
        let all = || self.queues.keys().filter(|place| !self.arriving.contains(place)).copied();
        let next =
            all().find(|place| self.looked.1.is_none_or(|last| *place > last)).or_else(|| all().next());
        self.looked = (Instant::now(), next);
        let Some(place) = next else { return };
        let Some(last) = lock(&self.shared.demux).last(place) else { return };
        let name = self.shared.kafka.topic(place.0);
        match self.consumer.seek(&name, place.1, Offset::Offset(last), REQUEST) {
            Ok(()) => lock(&self.shared.demux).look_again(place, last),
            Err(error) => {
                tracing::debug!(event = "kafka_seek_failed", topic = place.0.suffix(), partition = place.1, error = %error, "looking later");
            }
        }
    }

    fn read_again(&self, place: Place, rewind: Rewind) -> Result<(), KafkaError> {
        let name = self.shared.kafka.topic(place.0);
        let (low, _) = self.consumer.fetch_watermarks(&name, place.1, REQUEST)?;
        let offset = match rewind {
            Rewind::Start => low,
            Rewind::To(offset) => offset.max(low),
        };
        self.consumer.seek(&name, place.1, Offset::Offset(offset), REQUEST)?;
        lock(&self.shared.demux).rewound(place, rewind, offset, offset <= low);
        tracing::info!(
            event = "kafka_reading_again",
            topic = place.0.suffix(),
            partition = place.1,
            offset,
            "a reader wants what lies before"
        );
        Ok(())
    }

    /// Asks the brokers where the partitions of marks end.
    fn marks(&self) {
        let mut asked = std::mem::take(&mut *lock(&self.shared.marks)).into_iter();
        while let Some((scope, ends)) = asked.next() {
            let places = self.queues.keys().filter(|place| scope.concerns(&self.shared.kafka, **place));
            let found: Result<Vec<_>, KafkaError> = places
                .map(|place| {
                    let name = self.shared.kafka.topic(place.0);
                    let (_, high) = self.consumer.fetch_watermarks(&name, place.1, REQUEST)?;
                    Ok((*place, high))
                })
                .collect();
            match found {
                Ok(found) => *lock(&ends) = Some(found),
                Err(error) => {
                    tracing::warn!(event = "kafka_end_unknown", error = %error, "trying again");
                    let mut waiting = lock(&self.shared.marks);
                    waiting.push((scope, ends));
                    waiting.extend(asked);
                    return;
                }
            }
        }
    }

    fn commit(&mut self, mode: CommitMode) {
        self.commit_at = Instant::now();
        let mut offsets = TopicPartitionList::new();
        {
            let mut demux = lock(&self.shared.demux);
            let places: Vec<Place> = demux.places().collect();
            for place in places {
                let Some((offset, claim)) = demux.bookmark(place) else { continue };
                if self.committed.insert(place, offset) == Some(offset) {
                    continue;
                }
                let name = self.shared.kafka.topic(place.0);
                let mut entry = offsets.add_partition(&name, place.1);
                if let Err(error) = entry.set_offset(Offset::Offset(offset)) {
                    tracing::debug!(event = "kafka_offset_not_committed", error = %error, "an offset");
                }
                match claim.to_text() {
                    Some(text) => entry.set_metadata(text),
                    None => tracing::debug!(
                        event = "kafka_claim_too_long",
                        topic = place.0.suffix(),
                        partition = place.1,
                        streams = claim.streams.len(),
                        "the next reader will begin at the start of the partition: use more partitions"
                    ),
                }
            }
        }
        if offsets.count() > 0
            && let Err(error) = self.consumer.commit(&offsets, mode)
        {
            // The next reader begins earlier, and drops what the lake has.
            tracing::debug!(event = "kafka_offset_not_committed", error = %error, "offsets");
        }
    }
}

fn take(shared: &Shared, consumer: &BaseConsumer<Member>, message: &BorrowedMessage<'_>) {
    let Some(topic) = consumer.context().names.get(message.topic()) else { return };
    let place = (*topic, message.partition());
    let value = message.payload().unwrap_or_default();
    lock(&shared.demux).message(place, message.offset(), value, |stream| shared.kafka.place(stream));
}

fn consumer(kafka: &Kafka, rebalances: Arc<AtomicU64>) -> Result<BaseConsumer<Member>, BusError> {
    let mut client = kafka.client();
    // One recorder may have all partitions.
    let partitions = Topic::OF_STREAMS.len() * usize::try_from(kafka.config().partitions).unwrap_or(1).max(1);
    let ahead = (FETCHED / partitions).clamp(FETCHED_OF_ONE.0, FETCHED_OF_ONE.1);
    client
        .set("group.id", &kafka.config().group)
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "earliest")
        // Gives one member the same partition of every topic: a producer stays whole.
        .set("partition.assignment.strategy", "range")
        .set("isolation.level", "read_uncommitted")
        .set("session.timeout.ms", "10000")
        .set("heartbeat.interval.ms", "3000")
        .set("queued.max.messages.kbytes", (ahead >> 10).to_string())
        // Brokers give a message that is larger than this all the same.
        .set("max.partition.fetch.bytes", ahead.min(1 << 20).to_string())
        .set("fetch.max.bytes", "16777216")
        // How soon a partition is fetched again whose queue was full.
        .set("fetch.queue.backoff.ms", "10")
        .set("fetch.wait.max.ms", "100")
        .set("topic.metadata.refresh.interval.ms", "10000");
    let names: BTreeMap<String, Topic> =
        Topic::OF_STREAMS.into_iter().map(|topic| (kafka.topic(topic), topic)).collect();
    let topics: Vec<String> = names.keys().cloned().collect();
    let refused = |e: KafkaError| BusError::Refused(format!("the client cannot be made: {e}"));
    let member = Member { names, changes: Mutex::default(), rebalances, away: Away::default() };
    let consumer = BaseConsumer::from_config_and_context(&client, member).map_err(refused)?;
    let topics: Vec<&str> = topics.iter().map(String::as_str).collect();
    consumer.subscribe(&topics).map_err(refused)?;
    Ok(consumer)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
