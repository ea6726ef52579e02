//! Compaction on a recorded lake: fewer files, the same rows, whatever happens when.

use bodycam_record::Family;
use object_store::memory::InMemory;

use super::*;
use crate::recorder::Recorder;
use crate::scene::{Failing, Gateway, MemoryBus, assert_lake_is_bus, directory, in_memory, rows_of};

fn key() -> Arc<EpochKey> {
    Arc::new(EpochKey::from_seed(&[7; 32]))
}

fn compactor(store: &Store, grace: u64) -> Compactor {
    let config = RecorderConfig { compact_grace_seconds: grace, ..RecorderConfig::default() };
    Compactor::new(store.clone(), key(), &config, Arc::default())
}

/// A lake with one commit per stream for each of `flushes` flushes.
async fn recorded(store: &Store, flushes: usize) -> MemoryBus {
    let bus = MemoryBus::default();
    let mut gateway = Gateway::start(&bus, "gw", None);
    let config = RecorderConfig::default();
    let mut recorder =
        Recorder::open(bus.clone(), store.clone(), key(), config, Arc::default()).await.unwrap();
    for _ in 0..flushes {
        gateway.work(3);
        recorder.drain().await.unwrap();
    }
    bus
}

fn files_per_folder(lake: &Lake) -> usize {
    let mut folders: HashMap<String, usize> = HashMap::new();
    for file in lake.state().all_files() {
        *folders.entry(file.path.rsplit_once('/').unwrap().0.to_owned()).or_default() += 1;
    }
    folders.into_values().max().unwrap()
}

#[tokio::test]
async fn many_small_files_become_few_with_the_same_rows() {
    let (_dir, store) = directory();
    let bus = recorded(&store, 30).await;
    let before = Lake::open(store.clone()).await.unwrap();
    assert!(files_per_folder(&before) >= 30);
    let commits = compactor(&store, 900).compact_all().await.unwrap();
    assert!(commits > 0);
    let after = Lake::open(store.clone()).await.unwrap();
    assert!(files_per_folder(&after) <= 3, "{}", files_per_folder(&after));
    for table in Table::ALL {
        let rows = rows_of(&after, table).await;
        if table != Table::Sessions {
            assert_eq!(rows, rows_of(&before, table).await, "{}", table.name());
        }
        assert!(
            !rows.is_empty()
                || matches!(
                    table,
                    Table::Findings | Table::Events(Family::Http | Family::Control | Family::Gap)
                )
        );
    }
    assert_lake_is_bus(&store, &bus).await;
    let (old, new) = (before.view(), after.view());
    let all = bodycam_lake::Filter::all();
    assert_eq!(old.sessions(&all).await.unwrap(), new.sessions(&all).await.unwrap());
}

#[tokio::test]
async fn an_hour_of_flushes_every_five_seconds_leaves_three_files_per_hour_and_table() {
    let store = crate::scene::memory();
    let bus = MemoryBus::default();
    let mut gateway = Gateway::start(&bus, "gw", None);
    let config = RecorderConfig { snapshot_commits: 1_000, ..RecorderConfig::default() };
    let mut recorder =
        Recorder::open(bus.clone(), store.clone(), key(), config.clone(), Arc::default()).await.unwrap();
    let mut compactor = compactor(&store, 900);
    // The turns of an hour, one a minute; a folder counts as quiet when a whole turn brought nothing.
    compactor.every = Duration::ZERO;
    let mut most = 0;
    for flush in 0..720 {
        let n = gateway.open();
        gateway.statement(n);
        gateway.close(n);
        gateway.now += 4 * crate::scene::SECOND;
        recorder.drain().await.unwrap();
        if flush % 12 == 11 {
            compactor.every = Duration::from_secs(3600);
            compactor.turn().await.unwrap();
            most = most.max(files_per_folder(&Lake::open(store.clone()).await.unwrap()));
        }
    }
    let before = Lake::open(store.clone()).await.unwrap();
    assert!(most <= 3 * FAN_IN + 12, "even while it grows a folder stays small: {most}");
    let mut rows_before = Vec::new();
    for table in Table::ALL.into_iter().filter(|t| *t != Table::Sessions) {
        rows_before.push(rows_of(&before, table).await);
    }
    // The hour is over: two turns in which nothing came.
    compactor.every = Duration::ZERO;
    compactor.turn().await.unwrap();
    let after = Lake::open(store.clone()).await.unwrap();
    assert!(files_per_folder(&after) <= 3, "{}", files_per_folder(&after));
    for (table, rows) in Table::ALL.into_iter().filter(|t| *t != Table::Sessions).zip(rows_before) {
        assert_eq!(rows_of(&after, table).await, rows, "{}", table.name());
    }
    let all = bodycam_lake::Filter::all();
    assert_eq!(before.view().sessions(&all).await.unwrap(), after.view().sessions(&all).await.unwrap());
    assert_lake_is_bus(&store, &bus).await;
}

#[tokio::test]
async fn replaced_files_stay_for_their_grace_and_then_go() {
    let (_dir, store) = directory();
    let bus = recorded(&store, 10).await;
    let before = Lake::open(store.clone()).await.unwrap();
    compactor(&store, 900).compact_all().await.unwrap();
    for file in before.state().all_files() {
        assert!(store.exists(&file.path).await.unwrap(), "{}", file.path);
    }
    let mut now = compactor(&store, 0);
    now.compact_all().await.unwrap();
    let after = Lake::open(store.clone()).await.unwrap();
    for file in before.state().all_files() {
        let live = after.state().file(&file.path).is_some();
        assert_eq!(store.exists(&file.path).await.unwrap(), live, "{}", file.path);
    }
    assert_lake_is_bus(&store, &bus).await;
    // The tombstones themselves go with the next compaction.
    let mut gateway = Gateway::start(&bus, "gw-two", None);
    for _ in 0..2 {
        gateway.work(2);
        let config = RecorderConfig::default();
        let mut recorder =
            Recorder::open(bus.clone(), store.clone(), key(), config, Arc::default()).await.unwrap();
        recorder.drain().await.unwrap();
    }
    now.compact_all().await.unwrap();
    let last = Lake::open(store.clone()).await.unwrap();
    assert!(last.state().tombstones.len() < after.state().tombstones.len());
    assert_lake_is_bus(&store, &bus).await;
}

#[tokio::test]
async fn a_compactor_that_dies_at_any_write_changes_no_row() {
    let objects = Arc::new(InMemory::new());
    let bus = recorded(&Store::on(objects.clone(), "memory"), 3).await;
    for after in [false, true] {
        let mut deaths = 0;
        for k in 1.. {
            let store = in_memory(&objects);
            let died = compactor(&Failing::wrap(store.clone(), k, after), 0).compact_all().await;
            if died.is_ok() {
                break;
            }
            deaths += 1;
            assert_lake_is_bus(&store, &bus).await;
            compactor(&store, 0).compact_all().await.unwrap();
            assert_lake_is_bus(&store, &bus).await;
        }
        assert!(deaths > 5, "{deaths}");
    }
}

#[tokio::test]
async fn a_file_that_is_not_what_its_commit_says_is_left_alone() {
    let (dir, store) = directory();
    recorded(&store, 6).await;
    let lake = Lake::open(store.clone()).await.unwrap();
    let file = lake.state().files(Table::Events(Family::Sql)).nth(2).unwrap().clone();
    let path = dir.path().join(&file.path);
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let missing = lake.state().files(Table::Events(Family::Session)).nth(1).unwrap().clone();
    std::fs::remove_file(dir.path().join(&missing.path)).unwrap();
    let mut compactor = compactor(&store, 900);
    compactor.compact_all().await.unwrap();
    let after = Lake::open(store.clone()).await.unwrap();
    assert!(after.state().file(&file.path).is_some(), "the altered file is still named by its own commit");
    assert!(after.state().file(&missing.path).is_some());
    assert_eq!(compactor.metrics.damaged_files_total.load(Ordering::Relaxed), 2);
    assert!(after.state().files(Table::Events(Family::Sql)).count() <= 2);
}

#[tokio::test]
async fn what_a_killed_writer_left_behind_is_collected_by_age_and_nothing_else() {
    let (_dir, store) = directory();
    let bus = recorded(&store, 2).await;
    let left = [
        "tables/sql/dt=2026-11-21/hh=10/gw@0-0-0-0-deadbeef.parquet",
        "templates/gw@0-0-9-9-deadbeef.parquet",
    ];
    for path in left {
        store.put_new(path, Bytes::from_static(b"left")).await.unwrap();
    }
    let compactor = compactor(&store, 900);
    assert_eq!(compactor.collect_leftovers(Duration::from_secs(3600)).await.unwrap(), 0, "too young");
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(compactor.collect_leftovers(Duration::ZERO).await.unwrap(), 2);
    for path in left {
        assert!(!store.exists(path).await.unwrap());
    }
    assert_lake_is_bus(&store, &bus).await;
}

#[test]
fn files_are_grouped_by_size_and_bounded() {
    let file = |bytes| {
        Arc::new(FileEntry {
            path: String::new(),
            table: bodycam_lake::commit::TableName(Table::Content),
            rows: 1,
            bytes,
            sha256: Digest::ZERO,
            min_ts_ns: None,
            max_ts_ns: None,
            row_sum: None,
            min_session: None,
            max_session: None,
            sessions: None,
        })
    };
    let sizes = |groups: Vec<Vec<Arc<FileEntry>>>| -> Vec<Vec<u64>> {
        groups.iter().map(|g| g.iter().map(|f| f.bytes >> 20).collect()).collect()
    };
    let mib = |n: u64| file(n << 20);
    assert_eq!(sizes(by_size(vec![mib(2), mib(3), mib(8), mib(16), mib(20)])), [vec![2, 3, 8], vec![16, 20]]);
    assert_eq!(sizes(bounded(vec![mib(30), mib(30), mib(30)])), [vec![30, 30], vec![30]]);
    assert!(bounded(vec![]).is_empty());
}
