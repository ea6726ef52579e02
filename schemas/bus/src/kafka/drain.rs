//! From a gateway's spool to Kafka: every lane in its order, segments released once Kafka has acknowledged them.
//!
//! Invariants: a record is on the disk before it is sent, so that no position is ever given to two records; a
//! ledger record is sent after everything that was in the gateway's other lanes before it has been acknowledged.
//! An outage only lets the spool grow. After a kill, or a failure that the client cannot mend by itself, what was
//! not noted as acknowledged is sent again, and readers drop it by its position.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rdkafka::ClientContext;
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext};

use super::batch::{Batcher, Outgoing};
use super::topics::preparing;
use super::{Away, Kafka, Unready};
use crate::mark::Ends;
use crate::spool::{SpoolBus, SpoolSubscription};
use crate::stream::LEDGER_LANE;
use crate::{Bus, BusError, Progress, Record, Scope, SpoolConfig, StreamId, Subscription, wire};

/// Bytes of all lanes that may be on their way: what a kill sends again, and what an outage holds in memory.
const IN_FLIGHT: usize = 16 << 20;
/// Fewest of them for a lane, however many lanes there are.
const LANE_IN_FLIGHT: usize = 1 << 20;
/// Bytes read from a lane before the next one has its turn.
const READ_BYTES: usize = 512 << 10;
/// How long to wait when no lane had anything.
const IDLE: Duration = Duration::from_millis(20);
/// How often new lanes are looked for.
const DISCOVER: Duration = Duration::from_millis(500);
/// How often what was acknowledged is noted in the spool, and after how many bytes at once.
const NOTE_EVERY: Duration = Duration::from_secs(1);
const NOTE_BYTES: usize = 8 << 20;
/// How often it is measured how far behind Kafka is.
const MEASURE: Duration = Duration::from_secs(5);
/// Waits after failures: the first, and the longest.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// How long a start waits for what the brokers say of the topics. A start without brokers is none the later.
const FIRST_WORD: Duration = Duration::from_secs(3);

/// The drainer of a gateway: a thread that sends until it is stopped.
#[derive(Debug)]
pub struct Drain {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// What the drainer counts; the clones share it.
#[derive(Debug, Clone)]
pub struct DrainMetrics(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    stop: Mutex<Option<Instant>>,
    records: AtomicU64,
    bytes: AtomicU64,
    failures: AtomicU64,
    refused: AtomicBool,
    left: AtomicU64,
    /// As of the last measurement.
    lanes: Mutex<BTreeMap<StreamId, Lag>>,
}

/// How far a lane is behind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Lag {
    records: u64,
    bytes: u64,
    /// Wall time of the oldest record that is not acknowledged, Unix ns.
    oldest_ns: Option<i64>,
}

impl Drain {
    /// Drains the lanes of `producer` from now on. Refused when the brokers say at once that the topics would lose
    /// or refuse records; brokers that are away are waited for while the spool fills.
    pub fn start(kafka: Kafka, spool: &SpoolConfig, producer: &str) -> Result<Self, BusError> {
        let shared = Arc::new(Shared::default());
        let (word, first_word) = mpsc::channel();
        let mut worker = Worker {
            bus: SpoolBus::new(spool),
            producer: producer.to_owned(),
            shared: Arc::clone(&shared),
            lanes: BTreeMap::new(),
            client: None,
            generation: 0,
            discovered: None,
            measured: None,
            oldest: BTreeMap::new(),
            kafka,
        };
        let thread = std::thread::Builder::new()
            .name("kafka-drain".to_owned())
            .spawn(move || worker.run(&word))
            .map_err(BusError::io("start the thread that drains", &spool.dir))?;
        let mut drain = Self { shared, thread: Some(thread) };
        match first_word.recv_timeout(FIRST_WORD) {
            Ok(Err(refused @ Unready::Refused(_))) => {
                drain.stop(Duration::ZERO);
                return Err(refused.into());
            }
            Ok(Err(unreachable)) => {
                tracing::warn!(event = "kafka_unreachable", error = %unreachable, "events stay in the spool until Kafka is there");
            }
            Err(RecvTimeoutError::Timeout) => {
                tracing::warn!(
                    event = "kafka_unreachable",
                    "no broker has answered yet: events stay in the spool until Kafka is there"
                );
            }
            Ok(Ok(())) | Err(RecvTimeoutError::Disconnected) => {}
        }
        Ok(drain)
    }

    /// What is counted.
    pub fn metrics(&self) -> DrainMetrics {
        DrainMetrics(Arc::clone(&self.shared))
    }

    /// Sends what the spool holds, for as long as `patience`, and ends. Gives the number of records that Kafka has
    /// not acknowledged; they stay in the spool.
    pub fn stop(&mut self, patience: Duration) -> u64 {
        *lock(&self.shared.stop) = Some(Instant::now() + patience);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!(event = "kafka_drain_panicked", "what was not sent stays in the spool");
        }
        self.shared.left.load(Ordering::Relaxed)
    }
}

impl Drop for Drain {
    fn drop(&mut self) {
        if self.thread.is_some() {
            self.stop(Duration::ZERO);
        }
    }
}

impl DrainMetrics {
    /// The text that Prometheus scrapes.
    pub fn prometheus(&self) -> String {
        use std::fmt::Write as _;
        let shared = &self.0;
        let lanes = lock(&shared.lanes).clone();
        let mut out = String::new();
        let now = now_ns();
        let oldest = lanes
            .values()
            .filter_map(|lag| lag.oldest_ns)
            .min()
            .map_or(0, |ns| now.saturating_sub(ns).max(0));
        let sum = |of: fn(&Lag) -> u64| lanes.values().map(of).sum::<u64>();
        for (name, kind, help, value) in [
            ("records_total", "counter", "Records that Kafka has acknowledged.", load(&shared.records)),
            (
                "bytes_total",
                "counter",
                "Bytes of messages that Kafka has acknowledged, before compression.",
                load(&shared.bytes),
            ),
            (
                "failures_total",
                "counter",
                "Times that sending began again from the last acknowledged record.",
                load(&shared.failures),
            ),
            (
                "refused",
                "gauge",
                "1 while the topics are set up so that records would be lost: see the log.",
                u64::from(shared.refused.load(Ordering::Relaxed)),
            ),
            (
                "unsent_records",
                "gauge",
                "Records in the spool that Kafka has not acknowledged.",
                sum(|lag| lag.records),
            ),
            ("spool_bytes", "gauge", "Bytes of the segments that hold them.", sum(|lag| lag.bytes)),
            (
                "oldest_unsent_seconds",
                "gauge",
                "Age of the oldest record that Kafka has not acknowledged.",
                u64::try_from(oldest / 1_000_000_000).unwrap_or(0),
            ),
        ] {
            let name = format!("bodycam_gateway_kafka_{name}");
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
        }
        let name = "bodycam_gateway_kafka_lane_unsent_records";
        let _ = writeln!(
            out,
            "# HELP {name} Records of a lane that Kafka has not acknowledged.\n# TYPE {name} gauge"
        );
        for (stream, lag) in &lanes {
            let _ = writeln!(out, "{name}{{lane=\"{}\"}} {}", stream.lane(), lag.records);
        }
        out
    }
}

struct Worker {
    kafka: Kafka,
    bus: SpoolBus,
    producer: String,
    shared: Arc<Shared>,
    lanes: BTreeMap<StreamId, Lane>,
    client: Option<BaseProducer<Deliveries>>,
    /// Number of the client: what an older one says is of no interest.
    generation: u64,
    discovered: Option<Instant>,
    measured: Option<Instant>,
    /// Of lanes that are not being sent: the first position that is not acknowledged, and the time of its record.
    oldest: BTreeMap<StreamId, (i64, i64)>,
}

/// A lane being sent.
struct Lane {
    topic: String,
    partition: i32,
    subscription: SpoolSubscription,
    batcher: Batcher,
    /// Made and not handed to the client yet.
    ready: VecDeque<Outgoing>,
    /// Handed to the client and not acknowledged yet.
    sent: VecDeque<Sent>,
    in_flight: usize,
    /// First position that is not acknowledged.
    acked: i64,
    acked_bytes: usize,
    noted: i64,
    noted_at: Instant,
    /// Whether the last look found nothing.
    dry: bool,
    /// Of a ledger: what was in the other lanes when its records were read.
    waits_for: Option<Ends>,
    /// Wall time of the record at `acked`, or a little before it; none when all is acknowledged.
    oldest_ns: Option<i64>,
}

struct Sent {
    to: i64,
    bytes: usize,
    oldest_ns: Option<i64>,
}

/// What comes back with a delivery.
struct Receipt {
    stream: StreamId,
    generation: u64,
    to: i64,
}

#[derive(Default)]
struct Deliveries {
    done: Mutex<Vec<(Receipt, Option<KafkaError>)>>,
    away: Away,
}

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        super::log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.away.say(&error, reason);
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = Box<Receipt>;

    fn delivery(&self, result: &DeliveryResult<'_>, receipt: Box<Receipt>) {
        let error = result.as_ref().err().map(|(error, _)| error.clone());
        lock(&self.done).push((*receipt, error));
    }
}

impl Worker {
    fn run(&mut self, word: &mpsc::Sender<Result<(), Unready>>) {
        let mut wait = RETRY.0;
        loop {
            match self.drain(word) {
                Ok(()) => break,
                Err(error) => {
                    self.shared.refused.store(matches!(error, BusError::Refused(_)), Ordering::Relaxed);
                    self.shared.failures.fetch_add(1, Ordering::Relaxed);
                    tracing::error!(event = "kafka_drain_failed", error = %error, retry_in_ms = wait.as_millis() as u64, "events stay in the spool");
                }
            }
            self.client = None;
            self.lanes.clear();
            let until = Instant::now() + wait;
            while Instant::now() < until {
                if self.is_over() {
                    break;
                }
                self.measure();
                std::thread::sleep(IDLE);
            }
            if self.is_over() {
                break;
            }
            wait =
                if self.shared.refused.load(Ordering::Relaxed) { RETRY.1 } else { (wait * 2).min(RETRY.1) };
        }
        self.measured = None;
        self.measure();
        let left = lock(&self.shared.lanes).values().map(|lag| lag.records).sum();
        self.shared.left.store(left, Ordering::Relaxed);
    }

    /// Sends until it is told to stop, or fails.
    fn drain(&mut self, word: &mpsc::Sender<Result<(), Unready>>) -> Result<(), BusError> {
        let Some(prepared) = self.prepare() else { return Ok(()) };
        // Nobody listens any more when this is not the first try.
        let _ = word.send(prepared.clone());
        prepared?;
        self.shared.refused.store(false, Ordering::Relaxed);
        self.generation += 1;
        self.client = Some(client(&self.kafka)?);
        self.discovered = None;
        loop {
            // Asked before the lanes are read: what was written before the stop, STOP itself, is then seen.
            let stopping = lock(&self.shared.stop).is_some();
            if stopping || self.discovered.is_none_or(|at| at.elapsed() >= DISCOVER) {
                self.discover()?;
            }
            // Asked before the lanes are looked at: what was spooled before the stop is seen after it.
            let stopping = lock(&self.shared.stop).is_some();
            let busy = self.pump()?;
            if let Some(client) = &self.client {
                client.poll(if busy { Duration::ZERO } else { IDLE });
            }
            self.receipts()?;
            let over = self.is_over();
            let clean = !busy && self.lanes.values().all(|lane| lane.dry && lane.is_clear());
            self.note(over || (stopping && clean))?;
            if self.measured.is_none_or(|at| at.elapsed() >= MEASURE) {
                self.measure();
            }
            if over || (stopping && clean) {
                return Ok(());
            }
        }
    }

    /// Has the topics made or checked; none when it is told to stop, and its time is over, before brokers have answered.
    fn prepare(&mut self) -> Option<Result<(), Unready>> {
        let answer = preparing(&self.kafka);
        loop {
            match answer.recv_timeout(IDLE) {
                Ok(prepared) => return Some(prepared),
                Err(RecvTimeoutError::Disconnected) => {
                    let why = "the thread that asks them ended".to_owned();
                    return Some(Err(Unready::Unreachable(why)));
                }
                Err(RecvTimeoutError::Timeout) if self.is_over() => return None,
                Err(RecvTimeoutError::Timeout) => self.measure(),
            }
        }
    }

    /// Whether it was told to stop, and its time is over.
    fn is_over(&self) -> bool {
        lock(&self.shared.stop).is_some_and(|deadline| Instant::now() >= deadline)
    }

    fn discover(&mut self) -> Result<(), BusError> {
        self.discovered = Some(Instant::now());
        for stream in self.bus.streams()? {
            if stream.producer() != self.producer || self.lanes.contains_key(&stream) {
                continue;
            }
            // A lane without one is being made at this moment.
            let Some(origin) = self.bus.origin(&stream)? else { continue };
            let acked = self.bus.released(&stream)?;
            let (topic, partition) = self.kafka.place(&stream);
            let lane = Lane {
                topic: self.kafka.topic(topic),
                partition,
                subscription: self.bus.subscribe(&stream, acked)?,
                batcher: Batcher::new(&stream, origin, acked),
                ready: VecDeque::new(),
                sent: VecDeque::new(),
                in_flight: 0,
                acked,
                acked_bytes: 0,
                noted: acked,
                noted_at: Instant::now(),
                dry: false,
                waits_for: None,
                oldest_ns: None,
            };
            tracing::info!(event = "kafka_drain_lane", stream = %stream, position = acked, origin = %origin, "draining");
            self.lanes.insert(stream, lane);
        }
        Ok(())
    }

    /// Reads from every lane and hands to the client what it takes. Gives whether there was anything to do.
    fn pump(&mut self) -> Result<bool, BusError> {
        let budget = (IN_FLIGHT / self.lanes.len().max(1)).max(LANE_IN_FLIGHT);
        let mut busy = false;
        // Ledgers first: what is read from the other lanes afterwards is what their marks speak of.
        let mut order: Vec<StreamId> = self.lanes.keys().cloned().collect();
        order.sort_by_key(|stream| stream.lane() != LEDGER_LANE);
        for stream in &order {
            let Some(lane) = self.lanes.get_mut(stream) else { continue };
            if !lane.ready.is_empty() || lane.in_flight >= budget {
                lane.dry = false;
                continue;
            }
            busy |= lane.read(&self.bus, stream)?;
            if stream.lane() == LEDGER_LANE && !lane.ready.is_empty() {
                lane.waits_for = Some(self.bus.mark(Scope::Beside(stream.producer()))?);
            }
        }
        let progress: BTreeMap<StreamId, Progress> = self
            .lanes
            .iter()
            .map(|(stream, lane)| {
                (stream.clone(), Progress { position: lane.acked, dry: lane.dry && lane.is_clear() })
            })
            .collect();
        let Some(client) = &self.client else { return Ok(busy) };
        for (stream, lane) in &mut self.lanes {
            if let Some(mark) = &mut lane.waits_for
                && !self.bus.passed(mark, &progress)?
            {
                continue;
            }
            lane.waits_for = None;
            busy |= lane.send(client, stream, self.generation)?;
        }
        Ok(busy)
    }

    /// Takes note of what Kafka has acknowledged.
    fn receipts(&mut self) -> Result<(), BusError> {
        let Some(client) = &self.client else { return Ok(()) };
        let done = std::mem::take(&mut *lock(&client.context().done));
        for (receipt, error) in done {
            if receipt.generation != self.generation {
                continue;
            }
            if let Some(error) = error {
                return Err(BusError::Kafka {
                    action: format!("deliver {} up to position {}", receipt.stream, receipt.to),
                    why: error.to_string(),
                });
            }
            let Some(lane) = self.lanes.get_mut(&receipt.stream) else { continue };
            // The client delivers a partition in order.
            let Some(sent) = lane.sent.pop_front().filter(|sent| sent.to == receipt.to) else {
                return Err(BusError::Kafka {
                    action: format!("follow the deliveries of {}", receipt.stream),
                    why: format!("position {} was acknowledged out of order", receipt.to),
                });
            };
            let records = u64::try_from(sent.to.saturating_sub(lane.acked)).unwrap_or(0);
            self.shared.records.fetch_add(records, Ordering::Relaxed);
            self.shared.bytes.fetch_add(sent.bytes as u64, Ordering::Relaxed);
            lane.in_flight -= sent.bytes;
            lane.acked_bytes += sent.bytes;
            lane.acked = sent.to;
            lane.oldest_ns = lane.sent.front().and_then(|sent| sent.oldest_ns);
        }
        Ok(())
    }

    /// Notes in the spool what was acknowledged, which releases its segments.
    fn note(&mut self, now: bool) -> Result<(), BusError> {
        for (stream, lane) in &mut self.lanes {
            let due = lane.noted_at.elapsed() >= NOTE_EVERY || lane.acked_bytes >= NOTE_BYTES || now;
            if lane.acked > lane.noted && due {
                self.bus.release(stream, lane.acked)?;
                (lane.noted, lane.noted_at, lane.acked_bytes) = (lane.acked, Instant::now(), 0);
            }
        }
        Ok(())
    }

    /// Measures how far Kafka is behind the spool.
    fn measure(&mut self) {
        if self.measured.is_some_and(|at| at.elapsed() < MEASURE) {
            return;
        }
        self.measured = Some(Instant::now());
        let measured = (|| {
            let depth = self.bus.depth()?;
            let mut lags = BTreeMap::new();
            for (stream, (_, held)) in depth {
                if stream.producer() != self.producer {
                    continue;
                }
                let known = self.lanes.get(&stream);
                let acked = known.map_or_else(|| self.bus.released(&stream), |lane| Ok(lane.acked))?;
                let clear = known.is_some_and(|lane| lane.dry && lane.is_clear());
                let end = if clear { acked } else { self.bus.end(&stream)? };
                let records = u64::try_from(end.saturating_sub(acked)).unwrap_or(0);
                let lag = match (records, known) {
                    (0, _) => Lag::default(),
                    (_, Some(lane)) => Lag { records, bytes: held, oldest_ns: lane.oldest_ns },
                    (_, None) => {
                        let oldest_ns = Some(oldest(&self.bus, &mut self.oldest, &stream, acked)?);
                        Lag { records, bytes: held, oldest_ns }
                    }
                };
                lags.insert(stream, lag);
            }
            Ok::<_, BusError>(lags)
        })();
        match measured {
            Ok(lags) => *lock(&self.shared.lanes) = lags,
            Err(error) => {
                tracing::warn!(event = "kafka_lag_not_measured", error = %error, "how far Kafka is behind was not seen");
            }
        }
    }
}

impl Lane {
    /// Whether everything that was read is acknowledged.
    fn is_clear(&self) -> bool {
        self.ready.is_empty() && self.sent.is_empty()
    }

    /// Makes batches of what is next in the spool. Gives whether there was anything.
    fn read(&mut self, bus: &SpoolBus, stream: &StreamId) -> Result<bool, BusError> {
        let records = self.subscription.poll_encoded(READ_BYTES)?;
        self.dry = records.is_empty();
        let Some((_, first)) = records.first() else { return Ok(false) };
        if self.oldest_ns.is_none() {
            self.oldest_ns = wall_ns(first).or_else(|| Some(now_ns()));
        }
        bus.settle(stream, self.subscription.position())?;
        let mut full = Vec::new();
        for (position, record) in &records {
            self.batcher.push(*position, record, &mut full);
        }
        self.ready.extend(full);
        self.ready.extend(self.batcher.cut());
        if self.is_clear() {
            self.oldest_ns = None;
        }
        Ok(true)
    }

    /// Hands batches to the client, as many as it takes. Gives whether it took any.
    fn send(
        &mut self,
        client: &BaseProducer<Deliveries>,
        stream: &StreamId,
        generation: u64,
    ) -> Result<bool, BusError> {
        let key = stream.to_string();
        let mut any = false;
        while let Some(batch) = self.ready.pop_front() {
            let receipt = Box::new(Receipt { stream: stream.clone(), generation, to: batch.to });
            let record = BaseRecord::with_opaque_to(self.topic.as_str(), receipt)
                .partition(self.partition)
                .key(&key)
                .payload(&batch.value);
            match client.send(record).map_err(|(error, _)| error) {
                Ok(()) => {}
                Err(KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull)) => {
                    self.ready.push_front(batch);
                    break;
                }
                Err(error) => {
                    let action = format!("send {stream} up to position {}", batch.to);
                    return Err(BusError::Kafka { action, why: error.to_string() });
                }
            }
            let bytes = batch.value.len();
            let oldest_ns = if self.sent.is_empty() { self.oldest_ns } else { Some(now_ns()) };
            self.in_flight += bytes;
            self.sent.push_back(Sent { to: batch.to, bytes, oldest_ns });
            any = true;
        }
        Ok(any)
    }
}

fn client(kafka: &Kafka) -> Result<BaseProducer<Deliveries>, BusError> {
    let mut client = kafka.client();
    client
        .set("enable.idempotence", "true")
        .set("acks", "all")
        // A batch that cannot be delivered ends the client: nothing behind it may come first.
        .set("enable.gapless.guarantee", "true")
        // An outage may last for as long as the spool has room.
        .set("message.timeout.ms", "0")
        .set("compression.codec", "zstd")
        .set("compression.level", "1")
        .set("linger.ms", "5")
        .set("batch.size", "400000")
        .set("message.max.bytes", "921600")
        .set("queue.buffering.max.kbytes", "65536");
    BaseProducer::from_config_and_context(&client, Deliveries::default())
        .map_err(|e| BusError::Refused(format!("the client cannot be made: {e}")))
}

/// Wall time of the first record of a lane from `acked` on that tells one, as the spool has it; else of when it was
/// first seen to wait.
fn oldest(
    bus: &SpoolBus,
    known: &mut BTreeMap<StreamId, (i64, i64)>,
    stream: &StreamId,
    acked: i64,
) -> Result<i64, BusError> {
    if let Some((_, ns)) = known.get(stream).filter(|(at, _)| *at == acked) {
        return Ok(*ns);
    }
    let records = bus.subscribe(stream, acked)?.poll_encoded(READ_BYTES)?;
    let ns = records.iter().find_map(|(_, record)| wall_ns(record)).unwrap_or_else(now_ns);
    known.insert(stream.clone(), (acked, ns));
    Ok(ns)
}

/// Wall time of an encoded record, where it has one.
fn wall_ns(record: &[u8]) -> Option<i64> {
    match wire::decode(record).ok()? {
        Record::Event(event) => Some(event.envelope.ts_wall_ns),
        Record::Ledger(record) => Some(record.ts_wall_ns),
        _ => None,
    }
}

fn now_ns() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

fn load(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
