//! What every bus must do, run on the spool and on a real Apache Kafka broker behind it; and what Kafka must do
//! besides: outages, settings, authentication.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bodycam_bus::spool::{LaneWriter, Spool, SpoolBus};
use bodycam_bus::{
    Bus, BusError, Held, Progress, Publisher, Record, Scope, SpoolConfig, StreamId, Subscription,
};
use bodycam_record::Id16;

#[path = "../../../tests/support/broker.rs"]
mod broker;
#[path = "contract/kafka.rs"]
mod kafka;
#[path = "../../../src/demo/ports.rs"]
mod ports;

/// How long anything may take, on a machine with other things to do.
const LIMIT: Duration = Duration::from_secs(60);

/// A bus with its writing end.
trait Scene: Sized {
    type Bus: Bus + Clone;

    /// A new one; none when it cannot run here.
    fn new() -> Option<Self>;
    fn gateway(&mut self) -> &mut Gateway;
    /// A reader of its own.
    fn reader(&self) -> Self::Bus;
    /// What was written can be read, once this returns.
    fn written(&mut self) {}
    /// Removes what comes before about this position of `gw/0`, read or not.
    fn cut(&mut self, to: i64);
    /// Kills the writing end and starts it again, so that some of what was delivered is delivered again.
    fn kill(&mut self);
}

/// The producer's side: a spool.
struct Gateway {
    dir: tempfile::TempDir,
    spool: Option<Spool>,
    lanes: BTreeMap<String, LaneWriter>,
    /// What was written, by stream and position.
    written: BTreeMap<StreamId, BTreeMap<i64, Record>>,
}

impl Gateway {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut gateway = Self { dir, spool: None, lanes: BTreeMap::new(), written: BTreeMap::new() };
        gateway.start();
        gateway
    }

    fn config(&self) -> SpoolConfig {
        let dir = self.dir.path().join("spool");
        SpoolConfig { dir, segment_bytes: 64 << 10, ..SpoolConfig::default() }
    }

    fn start(&mut self) {
        self.spool = Some(Spool::open(&self.config(), "gw").unwrap());
    }

    /// As a kill does it: nothing more is flushed, and the lock is gone.
    fn kill(&mut self) {
        self.lanes.clear();
        self.spool = None;
    }

    fn write(&mut self, lane: &str, record: &Record) -> i64 {
        let spool = self.spool.as_ref().unwrap();
        let writer = self.lanes.entry(lane.to_owned()).or_insert_with(|| spool.lane(lane).unwrap());
        let position = writer.append(record).unwrap();
        // A new segment begins with a record of the producer's own.
        writer.flush_and_rotate(|| b"state".to_vec()).unwrap();
        self.written.entry(writer.stream().clone()).or_default().insert(position, record.clone());
        position
    }

    fn fill(&mut self, lane: &str, range: std::ops::Range<usize>) {
        for n in range {
            self.write(lane, &template(n));
        }
    }
}

struct OnSpool(Gateway);

impl Scene for OnSpool {
    type Bus = SpoolBus;

    fn new() -> Option<Self> {
        Some(Self(Gateway::new()))
    }

    fn gateway(&mut self) -> &mut Gateway {
        &mut self.0
    }

    fn reader(&self) -> SpoolBus {
        SpoolBus::new(&self.0.config())
    }

    fn cut(&mut self, to: i64) {
        SpoolBus::new(&self.0.config()).release(&stream("gw/0"), to).unwrap();
    }

    fn kill(&mut self) {
        self.0.kill();
        self.0.start();
    }
}

fn template(n: usize) -> Record {
    Record::Template { fingerprint: Id16([n as u8; 16]), text: format!("{n} {}", "x".repeat(n * 37 % 900)) }
}

fn large(megabytes: usize, n: u8) -> Record {
    Record::Template { fingerprint: Id16([n; 16]), text: format!("{n}").repeat(megabytes << 20) }
}

fn stream(name: &str) -> StreamId {
    name.parse().unwrap()
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(work)
}

/// Subscribes, as soon as the bus has the stream.
fn subscribe<B: Bus>(bus: &B, name: &str, from: i64) -> B::Subscription {
    let deadline = Instant::now() + LIMIT;
    loop {
        answer(bus);
        // As a recorder does it: what is not seen is not asked for.
        if bus.streams().unwrap().contains(&stream(name)) {
            match bus.subscribe(&stream(name), from) {
                Ok(subscription) => return subscription,
                Err(BusError::Revoked { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
        assert!(Instant::now() < deadline, "no stream {name}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Says again what the lake holds, if the bus wants it: nothing more than before.
fn answer(bus: &impl Bus) {
    if bus.asks().unwrap() {
        bus.holds(BTreeMap::new()).unwrap();
    }
}

/// Reads until it has come to `to`; what the producer writes for itself is left out.
fn read_to(subscription: &mut impl Subscription, to: i64, max_bytes: usize) -> Vec<(i64, Record)> {
    block_on(async {
        let mut all = Vec::new();
        while subscription.position() < to {
            let next = tokio::time::timeout(LIMIT, subscription.next(max_bytes)).await;
            let records = next.unwrap_or_else(|_| panic!("stuck at {} of {to}", subscription.position()));
            all.extend(records.unwrap());
        }
        all.retain(|(_, record)| !matches!(record, Record::State(_)));
        all
    })
}

fn expected(gateway: &Gateway, name: &str, from: i64) -> Vec<(i64, Record)> {
    let written = &gateway.written[&stream(name)];
    written.range(from..).map(|(position, record)| (*position, record.clone())).collect()
}

fn end(gateway: &Gateway, name: &str) -> i64 {
    gateway.written[&stream(name)].keys().next_back().unwrap() + 1
}

fn every_stream_comes_in_its_order_with_its_positions<S: Scene>(mut scene: S) {
    let lanes = ["0", "1", "keys", "ledger"];
    for n in 0..600 {
        scene.gateway().write(lanes[n % 4], &template(n));
    }
    scene.written();
    let bus = scene.reader();
    for lane in lanes {
        let name = format!("gw/{lane}");
        let mut subscription = subscribe(&bus, &name, 0);
        let got = read_to(&mut subscription, end(scene.gateway(), &name), 10_000);
        assert_eq!(got, expected(scene.gateway(), &name, 0), "{name}");
    }
    let mut streams = bus.streams().unwrap();
    streams.sort();
    assert_eq!(streams, lanes.map(|lane| stream(&format!("gw/{lane}"))));
}

fn any_position_can_be_read_from_again<S: Scene>(mut scene: S) {
    scene.gateway().fill("0", 0..300);
    scene.written();
    let to = end(scene.gateway(), "gw/0");
    let bus = scene.reader();
    for from in [0, 1, 150, to - 1, 77, 0] {
        let mut subscription = subscribe(&bus, "gw/0", from);
        let got = read_to(&mut subscription, to, 5_000);
        assert_eq!(got, expected(scene.gateway(), "gw/0", from), "from {from}");
        assert!(subscription.position() >= to);
    }
    // Later records go to the newest subscription, which waits at the end.
    let mut subscription = subscribe(&bus, "gw/0", to);
    scene.gateway().fill("0", 300..340);
    scene.written();
    let got = read_to(&mut subscription, end(scene.gateway(), "gw/0"), 5_000);
    assert_eq!(got, expected(scene.gateway(), "gw/0", to));
}

fn records_removed_before_they_were_read_are_named<S: Scene>(mut scene: S) {
    scene.gateway().fill("0", 0..2_000);
    scene.written();
    scene.cut(1_500);
    let bus = scene.reader();
    let error = block_on(async {
        let deadline = Instant::now() + LIMIT;
        loop {
            assert!(Instant::now() < deadline, "a cut stream was waited on");
            answer(&bus);
            let mut subscription = match bus.subscribe(&stream("gw/0"), 0) {
                Ok(subscription) => subscription,
                Err(BusError::Revoked { .. }) => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
                Err(error) => return error,
            };
            match tokio::time::timeout(LIMIT, subscription.next(1 << 20)).await.unwrap() {
                Ok(records) => panic!("record {} came as if nothing was missing", records[0].0),
                Err(error) => return error,
            }
        }
    });
    let BusError::Truncated { first, wanted, .. } = error else { panic!("{error}") };
    assert_eq!(wanted, 0);
    assert!(first > 0 && first <= 1_500, "{first}");
    assert!(error.to_string().contains(&format!("records 0..{first} were removed")), "{error}");
    // What is left can be read, once it is asked for as such.
    let mut subscription = subscribe(&bus, "gw/0", first);
    let to = end(scene.gateway(), "gw/0");
    assert_eq!(read_to(&mut subscription, to, 100_000), expected(scene.gateway(), "gw/0", first));
}

fn another_reader_goes_on_where_the_commits_of_the_first_end<S: Scene>(mut scene: S) {
    scene.gateway().fill("0", 0..400);
    scene.written();
    let first = scene.reader();
    let mut subscription = subscribe(&first, "gw/0", 0);
    read_to(&mut subscription, 100, 2_000);
    // It has read more than it could commit.
    let committed = 60;
    first.release(&stream("gw/0"), committed).unwrap();
    let second = scene.reader();
    drop((subscription, first));
    let mut subscription = subscribe(&second, "gw/0", committed);
    scene.gateway().fill("0", 400..500);
    scene.written();
    let got = read_to(&mut subscription, end(scene.gateway(), "gw/0"), 50_000);
    assert_eq!(got, expected(scene.gateway(), "gw/0", committed));
}

fn a_reader_that_does_not_read_holds_nobody_and_loses_nothing<S: Scene>(mut scene: S) {
    scene.gateway().fill("0", 0..50);
    scene.written();
    let bus = scene.reader();
    let mut slow = subscribe(&bus, "gw/0", 0);
    read_to(&mut slow, 1, 1);
    for n in 0..60 {
        scene.gateway().write("0", &large(1, n % 10));
        scene.gateway().write("ledger", &template(usize::from(n)));
    }
    scene.written();
    let mut other = subscribe(&bus, "gw/ledger", 0);
    let to = end(scene.gateway(), "gw/ledger");
    assert_eq!(read_to(&mut other, to, 1 << 20), expected(scene.gateway(), "gw/ledger", 0));
    let from = slow.position();
    let to = end(scene.gateway(), "gw/0");
    assert!(read_to(&mut slow, to, 1 << 20) == expected(scene.gateway(), "gw/0", from));
}

fn large_records_come_whole<S: Scene>(mut scene: S) {
    let gateway = scene.gateway();
    for (n, record) in [large(15, 1), template(1), large(1, 2), large(3, 3), template(2)].iter().enumerate() {
        assert!(gateway.write("0", record) >= n as i64);
    }
    scene.written();
    let bus = scene.reader();
    let mut subscription = subscribe(&bus, "gw/0", 0);
    let to = end(scene.gateway(), "gw/0");
    assert!(read_to(&mut subscription, to, 1 << 20) == expected(scene.gateway(), "gw/0", 0));
    // From the middle, too, by a reader that comes later.
    bus.release(&stream("gw/0"), 1).unwrap();
    drop((subscription, bus));
    let bus = scene.reader();
    let mut subscription = subscribe(&bus, "gw/0", 1);
    assert!(read_to(&mut subscription, to, 1 << 20) == expected(scene.gateway(), "gw/0", 1));
}

fn what_a_killed_producer_sends_again_comes_once<S: Scene>(mut scene: S) {
    let bus = scene.reader();
    let mut subscription = None;
    for round in 0..4 {
        scene.gateway().fill("0", round * 200..(round + 1) * 200);
        scene.written();
        // One reader that is there all the time, and one that comes later.
        let to = end(scene.gateway(), "gw/0");
        let live = subscription.get_or_insert_with(|| subscribe(&bus, "gw/0", 0));
        let from = live.position();
        assert_eq!(read_to(live, to, 7_000), expected(scene.gateway(), "gw/0", from), "round {round}");
        scene.kill();
    }
    scene.gateway().fill("0", 800..810);
    scene.written();
    drop((subscription, bus));
    let bus = scene.reader();
    let mut late = subscribe(&bus, "gw/0", 0);
    let to = end(scene.gateway(), "gw/0");
    assert_eq!(read_to(&mut late, to, 7_000), expected(scene.gateway(), "gw/0", 0));
}

fn a_mark_is_passed_only_when_what_lay_before_it_was_given_out<S: Scene>(mut scene: S) {
    scene.gateway().fill("0", 0..40);
    scene.gateway().fill("1", 0..3_000);
    scene.gateway().fill("ledger", 0..10);
    scene.written();
    let bus = scene.reader();
    let mut subscriptions: BTreeMap<StreamId, <S::Bus as Bus>::Subscription> =
        ["gw/0", "gw/1", "gw/ledger"].map(|name| (stream(name), subscribe(&bus, name, 0))).into();
    let mut mark = bus.mark(Scope::Beside("gw")).unwrap();
    let deadline = Instant::now() + LIMIT;
    let mut progress = BTreeMap::new();
    while !bus.passed(&mut mark, &progress).unwrap() {
        assert!(Instant::now() < deadline, "{progress:?}");
        for (stream, subscription) in &mut subscriptions {
            if stream.lane() == "ledger" {
                continue;
            }
            let next = block_on(async {
                tokio::time::timeout(Duration::from_millis(5), subscription.next(10_000)).await
            });
            let dry = next.map(Result::unwrap).is_err();
            progress.insert(stream.clone(), Progress { position: subscription.position(), dry });
        }
    }
    for name in ["gw/0", "gw/1"] {
        assert!(progress[&stream(name)].position >= end(scene.gateway(), name), "{name}: {progress:?}");
    }
}

macro_rules! contract {
    ($($law:ident),* $(,)?) => {
        mod on_the_spool {
            $(#[test]
            fn $law() {
                super::$law::<super::OnSpool>(super::Scene::new().unwrap());
            })*
        }

        mod on_kafka {
            $(#[test]
            fn $law() {
                if let Some(scene) = super::Scene::new() {
                    super::$law::<super::kafka::OnKafka>(scene);
                }
            })*
        }
    };
}

contract!(
    every_stream_comes_in_its_order_with_its_positions,
    any_position_can_be_read_from_again,
    records_removed_before_they_were_read_are_named,
    another_reader_goes_on_where_the_commits_of_the_first_end,
    a_reader_that_does_not_read_holds_nobody_and_loses_nothing,
    large_records_come_whole,
    what_a_killed_producer_sends_again_comes_once,
    a_mark_is_passed_only_when_what_lay_before_it_was_given_out,
);
