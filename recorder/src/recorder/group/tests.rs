//! Several recorders on one bus and one lake: whoever comes second is refused, and nothing is lost or repeated.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bodycam_lake::{Lake, Store};
use bodycam_record::EpochKey;

use super::*;
use crate::config::RecorderConfig;
use crate::metrics::Metrics;
use crate::scene::{Gateway, MemoryBus, assert_lake_is_bus, directory, memory};

/// What one reader of a bus that several share sees.
fn seat(bus: &MemoryBus) -> MemoryBus {
    MemoryBus { shared: true, revoked: Arc::default(), ..bus.clone() }
}

async fn open(bus: &MemoryBus, store: &Store, key: u8) -> (Recorder<MemoryBus>, Arc<Metrics>) {
    let metrics = Arc::new(Metrics::default());
    let config = RecorderConfig { flush_rows: 1_000_000, snapshot_commits: 3, ..RecorderConfig::default() };
    let key = Arc::new(EpochKey::from_seed(&[key; 32]));
    let opened = Recorder::open(bus.clone(), store.clone(), key, config, metrics.clone()).await;
    (opened.unwrap(), metrics)
}

fn give(bus: &MemoryBus, taken: &[&str]) {
    *bus.revoked.lock().unwrap() = taken.iter().map(|producer| (*producer).to_owned()).collect();
}

async fn no_findings_and_no_leftovers(store: &Store) {
    let lake = Lake::open_from_commits(store.clone()).await.unwrap();
    assert_eq!(lake.view().committed_findings().await.unwrap(), []);
    for folder in ["tables", "content", "sessions", "templates", "findings"] {
        for file in store.listed(folder).await.unwrap() {
            assert!(lake.state().file(&file.path).is_some(), "{} is left over", file.path);
        }
    }
}

#[tokio::test]
async fn a_stale_commit_is_refused_and_its_recorder_goes_on_with_what_it_has() {
    // On a directory, where recorders of a group share the lock, and where nothing can be locked.
    for (_dir, store) in [directory(), (tempfile::tempdir().unwrap(), memory())] {
        let bus = MemoryBus::default();
        let mut gateways = [Gateway::start(&bus, "gw", None), Gateway::start(&bus, "gw-two", None)];
        gateways.iter_mut().for_each(|g| g.work(6));
        let seats = [seat(&bus), seat(&bus)];
        let (mut stale, metrics) = open(&seats[0], &store, 7).await;
        for _ in 0..3 {
            stale.read().await.unwrap();
        }
        let staged = stale.streams.values().map(|s| s.staged.records).sum::<u64>();
        assert!(staged > 20, "{staged}");
        // It is stopped. The other one has "gw" meanwhile, and goes further.
        give(&seats[1], &["gw-two"]);
        gateways[0].work(3);
        let (mut other, of_other) = open(&seats[1], &store, 8).await;
        other.drain().await.unwrap();
        gateways[1].work(2);
        stale.flush().await.unwrap();
        assert_eq!(metrics.refused_commits_total.load(Ordering::Relaxed), 1, "one producer, let go of once");
        assert!(stale.streams.keys().all(|id| id.producer() == "gw-two"));
        no_findings_and_no_leftovers(&store).await;
        // Its bus gives it "gw" still: it goes on where the lake stands.
        gateways.iter_mut().for_each(|g| g.work(4));
        stale.drain().await.unwrap();
        assert_lake_is_bus(&store, &bus).await;
        // And now the other one is the stale one, which learns of it at its end only, and stores the rest all the same.
        gateways[0].work(2);
        other.drain().await.unwrap();
        assert_eq!(of_other.refused_commits_total.load(Ordering::Relaxed), 1);
        assert_lake_is_bus(&store, &bus).await;
        no_findings_and_no_leftovers(&store).await;
    }
}

#[tokio::test]
async fn producers_that_move_back_and_forth_are_stored_once_with_all_their_texts_and_sessions() {
    let (_dir, store) = directory();
    let bus = MemoryBus::default();
    let mut gateways = [Gateway::start(&bus, "gw", None), Gateway::start(&bus, "gw-two", None)];
    let seats = [seat(&bus), seat(&bus)];
    let (mut first, _) = open(&seats[0], &store, 7).await;
    let (mut second, _) = open(&seats[1], &store, 8).await;
    for round in 0..24_usize {
        gateways.iter_mut().for_each(|g| g.work(1 + round % 4));
        // Who has what changes in every round; in some nobody, in some both have a producer for a while.
        let names: [&[&str]; 4] = [&["gw"], &["gw-two"], &[], &["gw", "gw-two"]];
        give(&seats[0], names[round % 4]);
        give(&seats[1], names[(round / 2 + 1) % 4]);
        for (n, recorder) in [&mut first, &mut second].into_iter().enumerate() {
            for _ in 0..(round + n) % 3 {
                recorder.read().await.unwrap();
            }
            if (round + n) % 5 < 3 {
                recorder.flush().await.unwrap();
            }
        }
    }
    give(&seats[0], &["gw"]);
    give(&seats[1], &["gw-two"]);
    gateways.iter_mut().for_each(|g| g.stop());
    first.drain().await.unwrap();
    second.drain().await.unwrap();
    assert_lake_is_bus(&store, &bus).await;
    no_findings_and_no_leftovers(&store).await;
}

#[tokio::test]
async fn a_group_shares_a_lake_that_a_recorder_without_kafka_has_for_itself() {
    let (_dir, store) = directory();
    let bus = MemoryBus::default();
    let alone = || async {
        let key = Arc::new(EpochKey::from_seed(&[7; 32]));
        Recorder::open(bus.clone(), store.clone(), key, RecorderConfig::default(), Arc::default()).await
    };
    let one = open(&seat(&bus), &store, 7).await;
    let two = open(&seat(&bus), &store, 8).await;
    assert!(alone().await.err().unwrap().to_string().contains("recorder.lock"));
    drop((one, two));
    let held = alone().await.unwrap();
    let key = Arc::new(EpochKey::from_seed(&[8; 32]));
    let refused =
        Recorder::open(seat(&bus), store.clone(), key, RecorderConfig::default(), Arc::default()).await;
    assert!(refused.err().unwrap().to_string().contains("group"));
    drop(held);
}

#[tokio::test]
async fn a_recorder_begins_at_its_own_snapshot_or_at_one_of_a_peer_that_it_names() {
    let store = memory();
    let bus = MemoryBus::default();
    let mut gateway = Gateway::start(&bus, "gw", None);
    for key in [7, 8] {
        gateway.work(3);
        let (mut recorder, _) = open(&seat(&bus), &store, key).await;
        recorder.drain().await.unwrap();
    }
    let key = |n: u8| EpochKey::from_seed(&[n; 32]).public();
    // Where it began shows by the first commit, which is needed by who reads all of them only.
    store.delete("streams/0.json").await.unwrap();
    for (keys, believed) in [(vec![7], true), (vec![8], true), (vec![9], false), (vec![9, 8], true)] {
        let keys: BTreeSet<_> = keys.into_iter().map(key).collect();
        let lake = Lake::open_by(store.clone(), &keys).await.unwrap();
        assert_eq!(lake.state().commits > 0, believed, "{keys:?}");
    }
}
