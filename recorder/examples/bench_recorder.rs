//! How many bench events a second the recorder stores, per core: a spool is filled, then drained into a lake on
//! disk by one recorder on one thread (files are encoded on up to two more), in turns, so that the spool stays
//! small. Only draining is measured. With a broker the spool is sent to Kafka first, and the recorder reads from there;
//! the processor time is that of the recorder and its client of Kafka.
//!
//! A bench event has about 300 bytes of envelope, body and statement, and 1 KiB of content on one in four.
//!
//! `cargo run --release -p bodycam-recorder --example bench_recorder -- [EVENTS] [DIRECTORY] [LARGEST] [BROKER]`
//!
//! `DIRECTORY` keeps the lake for other measurements (`bench_replay` of the replay); `LARGEST` is the number of
//! events of its last session, where that is to be more than that of the others.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bodycam_bus::kafka::{Drain, Kafka, KafkaBus, KafkaConfig};
use bodycam_bus::spool::{LaneWriter, Spool, SpoolBus};
use bodycam_bus::{Bus, Publisher, Record, SpoolConfig};
use bodycam_lake::Store;
use bodycam_record::content::Commitment;
use bodycam_record::{Chain, Chunk, ContentKind, Draft, EpochKey, SessionKey, TenantKey};
use bodycam_recorder::{Metrics, Recorder, RecorderConfig};

use event::{PRODUCER, T0, TARGET};
use process::{cpu_seconds, peak_kib};

#[path = "../../tests/bench/event.rs"]
mod event;
#[path = "../../tests/bench/process.rs"]
mod process;

type Error = Box<dyn std::error::Error>;

/// Events in a session.
const SESSION: u64 = 100;
/// Events that are filled in before they are drained.
const TURN: u64 = 1_000_000;
/// Longest wait for Kafka to take a turn.
const PATIENCE: Duration = Duration::from_secs(600);
/// Between two events: a thousand a second.
const STEP_NS: i64 = 1_000_000;

fn main() -> Result<(), Error> {
    let mut args = std::env::args().skip(1);
    let events: u64 = args.next().map_or(Ok(2_000_000), |n| n.parse())?;
    let scratch = tempfile::tempdir()?;
    let dir = args.next().map_or_else(|| scratch.path().to_owned(), PathBuf::from);
    let largest: u64 = args.next().map_or(Ok(SESSION), |n| n.parse())?;
    let broker = args.next();
    let spool = SpoolConfig { dir: dir.join("spool"), max_bytes: u64::MAX, ..SpoolConfig::default() };
    let filler = Filler::open(&spool, events, largest)?;
    let store = Store::create(&dir.join("lake").display().to_string())?;
    let Some(broker) = broker else {
        return measure(SpoolBus::new(&spool), store, filler, || Ok(()));
    };
    let one =
        KafkaConfig { replicas: 1, min_insync_replicas: 1, partitions: 1, ..KafkaConfig::at(&[&broker]) };
    let kafka = Kafka::new(one, None);
    // Makes the topics, too.
    Drain::start(kafka.clone(), &spool, PRODUCER)?.stop(PATIENCE);
    let bus = KafkaBus::open(kafka.clone())?;
    measure(bus, store, filler, || {
        let left = Drain::start(kafka.clone(), &spool, PRODUCER)?.stop(PATIENCE);
        if left > 0 { Err(format!("Kafka has not taken {left} records").into()) } else { Ok(()) }
    })
}

fn measure<B: Bus>(
    bus: B,
    store: Store,
    mut filler: Filler,
    mut send: impl FnMut() -> Result<(), Error>,
) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let metrics = Arc::new(Metrics::default());
    let key = Arc::new(EpochKey::from_seed(&[7; 32]));
    let config = RecorderConfig::default();
    let mut recorder = runtime.block_on(Recorder::open(bus, store, key, config, metrics.clone()))?;
    let (mut wall, mut cpu) = (0.0, 0.0);
    while filler.turn()? {
        send()?;
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
    println!("peak memory       {} KiB", peak_kib());
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
            lane: Spool::open(config, PRODUCER)?.lane("0")?,
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
    let start = T0 + i64::try_from(n * SESSION)? * STEP_NS;
    let session = event::session_id(n, start)?;
    let key = SessionKey::new([n as u8; 32]);
    let opened = event::opened(n, key.digest(), 0);
    let mut chain = Chain::start(&event::genesis(session, &opened), event::principal_ref(tenant, n), TARGET);
    let mut contents = 0;
    for i in 0..events {
        let ts_wall_ns = start + i64::try_from(i)? * STEP_NS;
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
            i if i == events - 1 => event::closed(i64::try_from(events)? - 2).into(),
            i => event::statement(tenant, n, i).into(),
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
