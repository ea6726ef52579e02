//! The recorder on a real directory: exactly once, whatever happens when.

use std::sync::atomic::Ordering;

use bodycam_lake::columns::findings::FindingRow;
use bodycam_record::SessionId;
use bodycam_record::canonical::DecodeError;

use super::*;
use crate::run;
use crate::scene::{
    Failing, Fault, Gateway, Late, MemoryBus, Mirror, SECOND, T0, assert_lake_is_bus, directory, memory,
};

fn config() -> RecorderConfig {
    RecorderConfig { flush_rows: 20, snapshot_commits: 4, ..RecorderConfig::default() }
}

async fn open(
    bus: &MemoryBus,
    store: &Store,
    config: RecorderConfig,
) -> Result<Recorder<MemoryBus>, RecorderError> {
    let key = Arc::new(EpochKey::from_seed(&[7; 32]));
    Recorder::open(bus.clone(), store.clone(), key, config, Arc::default()).await
}

async fn record(bus: &MemoryBus, store: &Store) -> Result<(), RecorderError> {
    open(bus, store, config()).await?.drain().await
}

async fn findings(store: &Store) -> Vec<FindingRow> {
    Lake::open(store.clone()).await.unwrap().view().committed_findings().await.unwrap()
}

async fn rules(store: &Store) -> Vec<String> {
    let mut rules: Vec<_> = findings(store).await.into_iter().map(|f| f.rule).collect();
    rules.sort();
    rules
}

/// Alters the `n`th event on a stream.
fn alter(bus: &MemoryBus, stream: &str, n: usize, change: impl FnOnce(&mut bodycam_record::Event)) {
    let mut streams = bus.streams.lock().unwrap();
    let records = streams.get_mut(&stream.parse().unwrap()).unwrap();
    let mut events = records.iter_mut().filter_map(|r| match r {
        Record::Event(event) => Some(event),
        _ => None,
    });
    change(events.nth(n).unwrap());
}

#[tokio::test]
async fn everything_on_the_bus_rests_in_the_lake_exactly_once() {
    let (_dir, store) = directory();
    let bus = MemoryBus::default();
    let mut gateways = [Gateway::start(&bus, "gw", None), Gateway::start(&bus, "gw-two", None)];
    for round in 0..4 {
        gateways.iter_mut().for_each(|g| g.work(5));
        if round % 2 == 0 {
            record(&bus, &store).await.unwrap();
        } else {
            let mut one = open(&bus, &store, config()).await.unwrap();
            one.drain().await.unwrap();
            gateways[0].work(3);
            one.drain().await.unwrap();
        }
        assert_lake_is_bus(&store, &bus).await;
    }
    assert_eq!(findings(&store).await, []);
    assert!(store.exists("snapshots/0.json").await.unwrap());
}

#[tokio::test]
async fn a_recorder_that_dies_at_any_write_loses_nothing_and_repeats_nothing() {
    for after in [false, true] {
        let mut deaths = 0;
        for k in 1.. {
            let store = memory();
            let bus = MemoryBus::default();
            let mut gateway = Gateway::start(&bus, "gw", None);
            gateway.work(3);
            let died = record(&bus, &Failing::wrap(store.clone(), k, after)).await;
            if died.is_ok() {
                break;
            }
            deaths += 1;
            let message = died.unwrap_err().to_string();
            assert!(message.contains("No space left on device"), "{message}");
            gateway.work(2);
            record(&bus, &store).await.unwrap();
            assert_lake_is_bus(&store, &bus).await;
            assert_eq!(findings(&store).await, [], "after death at write {k}");
        }
        assert!(deaths > 20, "{deaths}");
    }
}

#[tokio::test]
async fn a_second_recorder_on_the_same_lake_is_refused_and_the_first_goes_on() {
    let (dir, store) = directory();
    let bus = MemoryBus::default();
    let mut gateway = Gateway::start(&bus, "gw", None);
    gateway.work(3);
    let mut first = open(&bus, &store, config()).await.unwrap();
    let other = Store::open(dir.path().to_str().unwrap()).unwrap();
    let message = open(&bus, &other, config()).await.err().unwrap().to_string();
    assert!(message.contains("recorder.lock") && message.contains("another recorder"), "{message}");
    // As a whole, with its compaction.
    let (key, metrics) = (Arc::new(EpochKey::from_seed(&[7; 32])), Arc::default());
    let whole = run(bus.clone(), other.clone(), key, config(), metrics, std::future::pending());
    let message = whole.await.unwrap_err().to_string();
    assert!(message.contains("another recorder"), "{message}");
    first.drain().await.unwrap();
    gateway.work(2);
    first.drain().await.unwrap();
    assert_lake_is_bus(&store, &bus).await;
    drop(first);
    open(&bus, &other, config()).await.unwrap();
}

#[tokio::test]
async fn where_nothing_can_be_locked_the_second_recorder_collides_and_leaves_nothing() {
    let store = memory();
    let bus = MemoryBus::default();
    let mut gateway = Gateway::start(&bus, "gw", None);
    gateway.work(3);
    let (mut first, mut second) =
        (open(&bus, &store, config()).await.unwrap(), open(&bus, &store, config()).await.unwrap());
    second.discover().await.unwrap();
    first.drain().await.unwrap();
    let message = second.drain().await.unwrap_err().to_string();
    assert!(message.contains("commits/gw@") && message.contains("another recorder"), "{message}");
    assert_no_leftovers(&store).await;
    // The winner goes on; what the loser wrote belongs to no commit.
    gateway.work(2);
    first.drain().await.unwrap();
    assert_lake_is_bus(&store, &bus).await;
}

/// Asserts that every data file is named by a commit.
async fn assert_no_leftovers(store: &Store) {
    let lake = Lake::open_from_commits(store.clone()).await.unwrap();
    for folder in ["tables", "content", "sessions", "templates", "findings"] {
        for path in store.listed(folder).await.unwrap().into_iter().map(|file| file.path) {
            assert!(lake.state().file(&path).is_some(), "{path} is left over");
        }
    }
}

#[tokio::test]
async fn an_attempt_that_fails_on_a_full_disk_leaves_no_files_behind() {
    let mut failed = 0;
    for k in 1.. {
        let (_dir, store) = directory();
        let bus = MemoryBus::default();
        Gateway::start(&bus, "gw", None).work(3);
        let full = Failing::once(store.clone(), k);
        if record(&bus, &full).await.is_ok() {
            break;
        }
        failed += 1;
        // Deleting works on a full disk.
        let files: Vec<_> = store.listed("tables").await.unwrap().into_iter().map(|file| file.path).collect();
        let lake = Lake::open_from_commits(store.clone()).await.unwrap();
        let left = files.iter().filter(|p| lake.state().file(p).is_none()).count();
        assert_eq!(left, 0, "at write {k}: {files:?}");
    }
    assert!(failed > 20, "{failed}");
}

#[tokio::test]
async fn a_commit_whose_answer_was_lost_and_that_comes_to_be_later_is_gone_on_from() {
    for k in 1..=4 {
        let store = memory();
        let bus = MemoryBus::default();
        Gateway::start(&bus, "gw", None).work(6);
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let metrics = Arc::new(Metrics::default());
        let key = Arc::new(EpochKey::from_seed(&[7; 32]));
        let config = RecorderConfig { flush_seconds: 1, compact_seconds: 0, ..config() };
        let late = Late::wrap(store.clone(), k);
        let shutdown = async move { drop(stopped.await) };
        let task = tokio::spawn(run(bus.clone(), late, key, config, metrics.clone(), shutdown));
        // Once for the answer that did not come, once for the name that was taken.
        while metrics.restarts_total.load(std::sync::atomic::Ordering::Relaxed) < 2 {
            assert!(!task.is_finished(), "commit {k}: the recorder has ended: {:?}", task.await);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        stop.send(()).unwrap();
        task.await.unwrap().unwrap();
        assert_lake_is_bus(&store, &bus).await;
    }
}

#[tokio::test]
async fn an_event_that_comes_again_is_dropped_and_counted() {
    let store = memory();
    let bus = MemoryBus::default();
    let mut gateway = Gateway::start(&bus, "gw", None);
    gateway.work(6);
    let again: Vec<_> = bus.records()[&"gw/0".parse().unwrap()].clone();
    let ledger_again: Vec<_> = bus.records()[&"gw/ledger".parse().unwrap()].clone();
    // Once while they are staged, once while their sessions are followed, once when they have ended.
    let events = again.iter().filter(|r| matches!(r, Record::Event(_))).count() as u64;
    let mut recorder = open(&bus, &store, RecorderConfig { flush_rows: 10_000, ..config() }).await.unwrap();
    let resend = || {
        again.iter().filter(|r| matches!(r, Record::Event(_))).for_each(|r| bus.push("gw/0", r.clone()));
        ledger_again.iter().for_each(|r| bus.push("gw/ledger", r.clone()));
    };
    resend();
    recorder.drain().await.unwrap();
    resend();
    recorder.drain().await.unwrap();
    drop(recorder);
    resend();
    record(&bus, &store).await.unwrap();
    assert_eq!(rules(&store).await, Vec::<String>::new());
    let lake = Lake::open(store.clone()).await.unwrap();
    let stored: u64 = lake
        .state()
        .all_files()
        .filter(|f| f.path.contains("gw@0"))
        .map(|f| if f.path.starts_with("tables/") { f.rows } else { 0 })
        .sum();
    assert_eq!(stored, events);
    let ledger: u64 =
        lake.state().files(bodycam_lake::Table::Events(bodycam_record::Family::Ledger)).map(|f| f.rows).sum();
    assert_eq!(ledger, ledger_again.len() as u64);
}

#[tokio::test]
async fn what_is_wrong_in_a_chain_is_stored_and_found() {
    type Change = fn(&MemoryBus);
    let cases: [(&str, Change, &[&str]); 6] = [
        ("a body altered", |bus| alter(bus, "gw/0", 1, |e| e.body[8] ^= 2), &["REC-HASH"]),
        ("a time altered", |bus| alter(bus, "gw/0", 1, |e| e.envelope.ts_wall_ns += 1), &["REC-HASH"]),
        (
            "an event missing",
            |bus| {
                let mut streams = bus.streams.lock().unwrap();
                let records = streams.get_mut(&"gw/0".parse().unwrap()).unwrap();
                let at = records.iter().position(|r| matches!(r, Record::Event(e) if e.envelope.seq == 2));
                records.remove(at.unwrap());
            },
            &["REC-CHAIN"],
        ),
        (
            "another first event",
            |bus| {
                alter(bus, "gw/0", 0, |e| {
                    e.envelope.prev = bodycam_record::Digest([1; 32]);
                    e.hash = e.envelope.hash();
                })
            },
            &["REC-CHAIN"],
        ),
        (
            "a fork",
            |bus| {
                let mut event = match &bus.records()[&"gw/0".parse().unwrap()]
                    .iter()
                    .rev()
                    .find(|r| matches!(r, Record::Event(e) if e.envelope.seq == 1))
                {
                    Some(Record::Event(event)) => event.clone(),
                    _ => panic!(),
                };
                event.envelope.ts_wall_ns += 5;
                event.hash = event.envelope.hash();
                bus.push("gw/0", Record::Event(event));
            },
            &["REC-FORK"],
        ),
        (
            "an event after the end",
            |bus| {
                let mut event =
                    match bus.records()[&"gw/0".parse().unwrap()].iter().rev().find(
                        |r| matches!(r, Record::Event(e) if e.table().unwrap().name == "session.closed"),
                    ) {
                        Some(Record::Event(event)) => event.clone(),
                        _ => panic!(),
                    };
                event.envelope.seq += 1;
                event.envelope.prev = event.hash;
                event.hash = event.envelope.hash();
                bus.push("gw/0", Record::Event(event));
            },
            &["REC-AFTER-END"],
        ),
    ];
    for (name, change, expected) in cases {
        for split in [false, true] {
            let store = memory();
            let bus = MemoryBus::default();
            let mut gateway = Gateway::start(&bus, "gw", None);
            let n = gateway.open();
            (0..3).for_each(|_| gateway.statement(n));
            gateway.close(n);
            if split && (name.starts_with("a fork") || name.starts_with("an event after")) {
                record(&bus, &store).await.unwrap();
            }
            change(&bus);
            record(&bus, &store).await.unwrap();
            assert_eq!(rules(&store).await, expected, "{name}");
            let finding = findings(&store).await.remove(0);
            assert_eq!(finding.session_ids.len(), 1, "{name}: {}", finding.text);
            assert!(!finding.evidence_seqs.is_empty());
            let on_bus = bus.records()[&"gw/0".parse().unwrap()]
                .iter()
                .filter(|r| matches!(r, Record::Event(_)))
                .count();
            let session: SessionId = finding.session_ids[0].parse().unwrap();
            let lake = Lake::open(store.clone()).await.unwrap();
            let stored = lake.view().events_of(session).await.unwrap();
            assert_eq!(stored.events.len(), on_bus, "{name}: nothing is dropped");
        }
    }
}

#[tokio::test]
async fn a_ledger_that_does_not_hold_together_is_stored_and_found() {
    type Change = fn(&mut bodycam_record::LedgerRecord);
    let cases: [(&str, Change); 4] = [
        ("time", |r| r.ts_wall_ns += 1),
        ("body", |r| *r.body.last_mut().unwrap() ^= 1),
        ("signature", |r| r.signature[0] ^= 1),
        ("link", |r| {
            r.prev = bodycam_record::Digest([1; 32]);
            r.hash = r.compute_hash();
        }),
    ];
    for (name, change) in cases {
        let store = memory();
        let bus = MemoryBus::default();
        Gateway::start(&bus, "gw", None).work(3);
        {
            let mut streams = bus.streams.lock().unwrap();
            let Some(Record::Ledger(record)) =
                streams.get_mut(&"gw/ledger".parse().unwrap()).unwrap().get_mut(2)
            else {
                panic!()
            };
            change(record);
        }
        record(&bus, &store).await.unwrap();
        assert_eq!(rules(&store).await, ["REC-LEDGER"], "{name}");
    }
}

#[tokio::test]
async fn an_unpinned_or_changed_producer_key_is_found() {
    let pinned = |producer: &str, key: &str| {
        let trust = [(producer.to_owned(), key.to_owned())].into();
        RecorderConfig { trust, ..config() }
    };
    let key = bodycam_record::ProducerKey::from_seed(&[2; 32]).public().to_hex();
    for (config, expected) in [
        (pinned("gw", &key), &[][..]),
        (pinned("gw", &"ab".repeat(32)), &["REC-PRODUCER-KEY"]),
        (pinned("other", &key), &["REC-PRODUCER-KEY"]),
    ] {
        let (_dir, store) = directory();
        let bus = MemoryBus::default();
        Gateway::start(&bus, "gw", None).work(1);
        open(&bus, &store, config).await.unwrap().drain().await.unwrap();
        assert_eq!(rules(&store).await, expected);
    }
}

#[tokio::test]
async fn the_ledger_is_committed_after_what_it_speaks_of() {
    let store = memory();
    let bus = MemoryBus::default();
    let mut gateway = Gateway::start(&bus, "gw", None);
    for round in 0..30 {
        gateway.work(3);
        gateway.now += SECOND;
        let heartbeat = gateway.now;
        gateway.heartbeat();
        let mut recorder =
            open(&bus, &store, RecorderConfig { flush_rows: 1 + round, ..config() }).await.unwrap();
        // A few turns of the loop, then the process is gone.
        for _ in 0..round % 5 {
            recorder.read().await.unwrap();
            if recorder.is_due() {
                recorder.flush().await.unwrap();
            }
        }
        let lake = Lake::open(store.clone()).await.unwrap();
        let Some(watermark) = lake.state().watermark_ns() else { continue };
        assert!(watermark <= heartbeat);
        let sent = bus.records().into_values().flatten().filter_map(|r| match r {
            Record::Event(e) if e.envelope.ts_wall_ns < watermark => Some(e.hash),
            _ => None,
        });
        let stored = lake.view().events(&bodycam_lake::Filter::between(i64::MIN, watermark)).await.unwrap();
        let stored: BTreeSet<_> = stored.events.iter().map(|e| e.hash).collect();
        for hash in sent {
            assert!(stored.contains(&hash), "an event before the watermark is missing");
        }
    }
    gateway.stop();
    record(&bus, &store).await.unwrap();
    let lake = Lake::open(store.clone()).await.unwrap();
    assert!(lake.state().watermarks().all(|l| l.stopped));
    assert_eq!(lake.state().watermark_ns(), Some(gateway.now));
    assert!(gateway.now > T0);
}

#[tokio::test]
async fn a_session_that_a_crash_cut_is_marked_so() {
    let (_dir, store) = directory();
    let bus = MemoryBus::default();
    let mut gateway = Gateway::start(&bus, "gw", None);
    let n = gateway.open();
    gateway.statement(n);
    let session = gateway.sessions[&n].chain.session();
    record(&bus, &store).await.unwrap();
    gateway.crash(n);
    record(&bus, &store).await.unwrap();
    let lake = Lake::open(store.clone()).await.unwrap();
    let row = lake.view().session(session).await.unwrap().unwrap();
    assert_eq!((row.state.as_str(), row.events, row.ended_ns), ("crashed", 3, Some(row.last_activity_ns)));
    assert!(lake.state().open.is_empty());
    assert_lake_is_bus(&store, &bus).await;
}

#[tokio::test]
async fn a_stream_that_starts_anew_is_refused_until_it_is_acknowledged() {
    let (_dir, store) = directory();
    let bus = MemoryBus::default();
    Gateway::start(&bus, "gw", None).work(6);
    record(&bus, &store).await.unwrap();
    let lost = MemoryBus::default();
    // After a power cut the spool has less than the lake.
    for (stream, records) in bus.records() {
        records[..3.min(records.len())].iter().for_each(|r| lost.push(&stream.to_string(), r.clone()));
    }
    let message = record(&lost, &store).await.unwrap_err().to_string();
    assert!(
        message.contains("gw/0 ends at position 3") && message.contains("recorder.recreated"),
        "{message}"
    );
    let recreated = lost.records().keys().map(ToString::to_string).collect();
    let before = Lake::open(store.clone()).await.unwrap();
    open(&lost, &store, RecorderConfig { recreated, ..config() }).await.unwrap().drain().await.unwrap();
    let lake = Lake::open(store.clone()).await.unwrap();
    assert_eq!(lake.state().newest(&"gw/0".parse().unwrap()).unwrap().generation, 1);
    let rows = |lake: &Lake| {
        let files = lake.state().all_files();
        files
            .filter(|f| f.path.starts_with("tables/") && f.path.contains("/gw@"))
            .map(|f| f.rows)
            .sum::<u64>()
    };
    assert_eq!(rows(&lake), rows(&before), "what the lake had already is not stored twice");
    // Each stream that began anew is declared: nobody knows what may have followed on what the lake has.
    let own = bodycam_verify::recorder_name(EpochKey::from_seed(&[7; 32]).public());
    let declared = lake.state().newest(&format!("{own}/ledger").parse().unwrap()).unwrap();
    let anew = lake.state().streams.iter().filter(|s| s.generation == 1).count() as u64;
    assert!(anew > 0 && declared.position == 3 * anew, "{anew} {}", declared.position);
    assert_eq!(rules(&store).await, Vec::<String>::new());
}

#[tokio::test]
async fn a_stream_with_a_fault_is_parked_and_the_others_go_on() {
    let faults: [Fault; 3] = [
        |stream| BusError::Truncated { stream, first: 9, wanted: 4 },
        |stream| BusError::Recreated { stream, known: "old".into(), found: "new".into() },
        |stream| BusError::Decode {
            stream,
            position: 4,
            source: DecodeError::Malformed { expected: "sense" },
        },
    ];
    for fault in faults {
        let (_dir, store) = directory();
        let bus = MemoryBus::default();
        let mut gateways = [Gateway::start(&bus, "gw", None), Gateway::start(&bus, "gw-two", None)];
        gateways.iter_mut().for_each(|g| g.work(6));
        bus.faults.lock().unwrap().insert("gw/0".parse().unwrap(), (4, fault));
        let metrics = Arc::new(Metrics::default());
        let key = Arc::new(EpochKey::from_seed(&[7; 32]));
        let opened = Recorder::open(bus.clone(), store.clone(), key, config(), metrics.clone()).await;
        let mut recorder = opened.unwrap();
        recorder.read().await.unwrap();
        recorder.read().await.unwrap();
        assert_eq!(metrics.parked_streams.load(Ordering::Relaxed), 1);
        assert_eq!(*bus.parked.lock().unwrap(), ["gw/0".parse().unwrap()].into());
        // It goes on for everybody else; who stops it hears what is wrong.
        gateways.iter_mut().for_each(|g| g.work(3));
        let started = Instant::now();
        let message = recorder.drain().await.unwrap_err().to_string();
        assert!(message.contains("gw/0"), "{message}");
        assert!(started.elapsed() < STALLED, "the end waited for what does not come");
        drop(recorder);
        let lake = Lake::open(store.clone()).await.unwrap();
        let stored = |stream: &StreamId| {
            lake.state().newest(&stream.to_string().parse().unwrap()).map_or(0, |s| s.position)
        };
        for (stream, records) in bus.records() {
            let expected = match stream.to_string().as_str() {
                "gw/0" => 4,
                // What it tells of is not all there.
                "gw/ledger" => 0,
                _ => records.len() as u64,
            };
            assert_eq!(stored(&stream), expected, "{stream}");
        }
        bus.faults.lock().unwrap().clear();
        record(&bus, &store).await.unwrap();
        assert_lake_is_bus(&store, &bus).await;
        assert_eq!(findings(&store).await, []);
    }
}

#[tokio::test]
async fn a_parked_stream_that_was_mended_goes_on_by_itself() {
    let (_dir, store) = directory();
    let bus = MemoryBus::default();
    Gateway::start(&bus, "gw", None).work(6);
    let damaged: Fault = |stream| BusError::Decode {
        stream,
        position: 4,
        source: DecodeError::Malformed { expected: "sense" },
    };
    bus.faults.lock().unwrap().insert("gw/0".parse().unwrap(), (4, damaged));
    let mut recorder = open(&bus, &store, config()).await.unwrap();
    recorder.read().await.unwrap();
    recorder.read().await.unwrap();
    assert_eq!(recorder.parked.len(), 1);
    recorder.reminded = Instant::now() - REMIND;
    recorder.remind();
    assert!(recorder.parked.is_empty(), "it is looked at again");
    recorder.read().await.unwrap();
    recorder.read().await.unwrap();
    assert_eq!(recorder.parked.len(), 1, "and is as it was");
    bus.faults.lock().unwrap().clear();
    recorder.read().await.unwrap();
    assert_eq!(recorder.parked.len(), 1, "not at once");
    recorder.reminded = Instant::now() - REMIND;
    recorder.remind();
    recorder.drain().await.unwrap();
    drop(recorder);
    assert_lake_is_bus(&store, &bus).await;
}

#[tokio::test]
async fn a_stream_that_was_cut_goes_on_once_that_is_acknowledged_and_a_finding_names_what_is_gone() {
    let (_dir, store) = directory();
    let bus = MemoryBus::default();
    Gateway::start(&bus, "gw", None).work(6);
    let zero: StreamId = "gw/0".parse().unwrap();
    let cut: Fault = |stream| BusError::Truncated { stream, first: 9, wanted: 4 };
    bus.faults.lock().unwrap().insert(zero.clone(), (4, cut));
    let message = record(&bus, &store).await.unwrap_err().to_string();
    assert!(
        message.contains("records 4..9 were removed") && message.contains("recorder.truncated"),
        "{message}"
    );
    let truncated = vec![zero.to_string()];
    open(&bus, &store, RecorderConfig { truncated, ..config() }).await.unwrap().drain().await.unwrap();
    let lake = Lake::open(store.clone()).await.unwrap();
    let stands = |generation| lake.state().stream(&"gw/0".parse().unwrap(), generation).unwrap().1.position;
    assert_eq!((stands(0), stands(1)), (4, bus.records()[&zero].len() as u64));
    for (stream, records) in bus.records() {
        let newest = lake.state().newest(&stream.to_string().parse().unwrap()).unwrap().position;
        assert_eq!(newest, records.len() as u64, "{stream}");
    }
    let findings = findings(&store).await;
    let lost = findings.iter().find(|f| f.rule == "REC-LOST").unwrap();
    assert_eq!(lost.measure, Some(5));
    // Nothing is done twice when it is named for longer.
    let truncated = vec![zero.to_string()];
    open(&bus, &store, RecorderConfig { truncated, ..config() }).await.unwrap().drain().await.unwrap();
    let again = Lake::open(store.clone()).await.unwrap();
    assert!(again.state().stream(&"gw/0".parse().unwrap(), 2).is_none());
}

#[tokio::test]
async fn a_bus_is_told_what_the_lake_holds_of_every_stream_and_generation() {
    let (_dir, store) = directory();
    let bus = MemoryBus::default();
    Gateway::start(&bus, "gw", None).work(6);
    let (zero, old, new) = ("gw/0".parse::<StreamId>().unwrap(), Id16([1; 16]), Id16([2; 16]));
    bus.origins.lock().unwrap().insert(zero.clone(), old);
    record(&bus, &store).await.unwrap();
    assert!(bus.held.lock().unwrap().is_empty(), "the lake was empty");
    let end = bus.records()[&zero].len() as i64;
    open(&bus, &store, config()).await.unwrap();
    let held = bus.held.lock().unwrap()[&zero].clone();
    assert_eq!(held, Held { position: end, origin: Some(old), older: Vec::new() });
    // It begins anew, and that is acknowledged.
    bus.released.lock().unwrap().remove(&zero);
    bus.origins.lock().unwrap().insert(zero.clone(), new);
    let recreated = vec![zero.to_string()];
    open(&bus, &store, RecorderConfig { recreated, ..config() }).await.unwrap().drain().await.unwrap();
    let held = bus.held.lock().unwrap()[&zero].clone();
    assert_eq!(held, Held { position: 0, origin: Some(new), older: vec![(old, end)] });
    open(&bus, &store, config()).await.unwrap();
    let held = bus.held.lock().unwrap()[&zero].clone();
    assert_eq!(held, Held { position: end, origin: Some(new), older: vec![(old, end)] });
}

#[tokio::test]
async fn a_record_that_columns_cannot_hold_parks_its_stream_and_stays_on_the_bus() {
    let (_dir, store) = directory();
    let bus = MemoryBus::default();
    Gateway::start(&bus, "gw", None).work(3);
    for (change, expected) in [
        (
            (|e| e.body.truncate(e.body.len() - 1)) as fn(&mut bodycam_record::Event),
            "the body of its event does not decode",
        ),
        (|e| e.envelope.kind = 999, "kind 999"),
    ] {
        alter(&bus, "gw/0", 1, change);
        let message = record(&bus, &store).await.unwrap_err().to_string();
        assert!(message.contains("of stream gw/0 cannot be stored"), "{message}");
        assert!(message.contains(expected), "{message}");
    }
    // What lies before it is stored, and so are the other streams.
    let (zero, one) = ("gw/0".parse().unwrap(), "gw/1".parse().unwrap());
    let records = bus.records();
    let mut events = records[&zero].iter().zip(0..).filter(|(r, _)| matches!(r, Record::Event(_)));
    let (_, altered) = events.nth(1).unwrap();
    let released = bus.released.lock().unwrap();
    assert_eq!((released[&zero], released[&one]), (altered, records[&one].len() as i64));
}

#[tokio::test]
async fn run_commits_as_it_goes_drains_at_the_end_and_survives_a_full_disk() {
    let (_dir, store) = directory();
    let bus = MemoryBus::default();
    let mut gateway = Gateway::start(&bus, "gw", None);
    gateway.work(3);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let metrics = Arc::new(Metrics::default());
    let key = Arc::new(EpochKey::from_seed(&[7; 32]));
    // One write finds the disk full.
    let failing = Failing::once(store.clone(), 8);
    let config = RecorderConfig { flush_seconds: 1, ..config() };
    let task = tokio::spawn(run(bus.clone(), failing, key, config, metrics.clone(), async move {
        drop(stopped.await);
    }));
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        gateway.work(1);
        if metrics.commits_total.load(std::sync::atomic::Ordering::Relaxed) > 6 {
            break;
        }
    }
    stop.send(()).unwrap();
    task.await.unwrap().unwrap();
    assert!(metrics.restarts_total.load(std::sync::atomic::Ordering::Relaxed) >= 1);
    assert_lake_is_bus(&store, &bus).await;
}

#[tokio::test]
async fn from_a_spool_on_disk_with_compaction_beside_it_nothing_is_lost_or_repeated() {
    let (dir, store) = directory();
    let bus = MemoryBus::default();
    let mut gateway = Gateway::start(&bus, "gw", None);
    let mut mirror = Mirror::new(dir.path(), "gw");
    let spool = bodycam_bus::spool::SpoolBus::new(&mirror.config);
    let key = Arc::new(EpochKey::from_seed(&[7; 32]));
    let metrics = Arc::new(Metrics::default());
    let config = RecorderConfig {
        flush_rows: 60,
        compact_seconds: 1,
        compact_grace_seconds: 1,
        snapshot_commits: 20,
        ..RecorderConfig::default()
    };
    let count = |counter: &std::sync::atomic::AtomicU64| counter.load(std::sync::atomic::Ordering::Relaxed);
    let has_compacted = || count(&metrics.compactions_total) > 0 && count(&metrics.deleted_files_total) > 0;
    for round in 0..2 {
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let shutdown = async move { drop(stopped.await) };
        let task = run(spool.clone(), store.clone(), key.clone(), config.clone(), metrics.clone(), shutdown);
        let task = tokio::spawn(task);
        for turn in 0..300 {
            if turn >= 25 && (round == 0 || has_compacted()) {
                break;
            }
            gateway.work(4);
            mirror.write(&bus);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        stop.send(()).unwrap();
        task.await.unwrap().unwrap();
        assert_lake_is_bus(&store, &bus).await;
    }
    assert!(has_compacted());
    assert_eq!(findings(&store).await, []);
    let kept = spool.depth().unwrap();
    let lane = &kept[&"gw/0".parse().unwrap()];
    assert!(lane.0 > 0, "released segments are removed");
}

#[tokio::test]
async fn a_drain_goes_past_positions_that_the_spool_has_lost() {
    let (dir, store) = directory();
    let bus = MemoryBus::default();
    let mut gateway = Gateway::start(&bus, "gw", None);
    gateway.work(3);
    let mut mirror = Mirror::new(dir.path(), "gw");
    mirror.write(&bus);
    let (config_of_spool, lane) = (mirror.config.clone(), mirror.config.dir.join("gw/0"));
    drop(mirror);
    let spool = bodycam_bus::spool::SpoolBus::new(&config_of_spool);
    let record = async || {
        let key = Arc::new(EpochKey::from_seed(&[7; 32]));
        let metrics = Arc::new(Metrics::default());
        let mut recorder =
            Recorder::open(spool.clone(), store.clone(), key, config(), metrics).await.unwrap();
        tokio::time::timeout(Duration::from_secs(30), recorder.drain())
            .await
            .expect("the drain ends")
            .unwrap();
    };
    record().await;
    // The disk forgets the end of the lane, which the lake has.
    let segments = std::fs::read_dir(&lane).unwrap().map(|f| f.unwrap().path());
    let newest = segments.filter(|f| f.extension().is_some_and(|e| e == "seg")).max().unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(&newest).unwrap();
    file.set_len(file.metadata().unwrap().len() / 2).unwrap();
    let end = spool.released(&"gw/0".parse().unwrap()).unwrap();
    assert_eq!(bodycam_bus::spool::Spool::open(&config_of_spool, "gw").unwrap().lost()[0].to, end);
    record().await;
    // And what follows on them is stored.
    let mut mirror = Mirror::new(dir.path(), "gw");
    let known: Vec<_> = bus.records().into_iter().map(|(stream, records)| (stream, records.len())).collect();
    gateway.work(2);
    mirror.resume(known);
    mirror.write(&bus);
    drop(mirror);
    record().await;
    assert_lake_is_bus(&store, &bus).await;
}
