//! Compaction on a recorded lake: fewer files, the same rows, whatever happens when.

use std::collections::HashMap;

use arrow::array::{Array, AsArray};
use arrow::datatypes::DataType;
use bodycam_lake::store::Writes;
use bodycam_record::Family;
use bytes::Bytes;
use futures::future::BoxFuture;
use object_store::memory::InMemory;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression, Encoding};
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader};

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
    let done = compactor(&store, 900).compact_all(&Selection::default()).await.unwrap();
    assert!(done.commits > 0 && done.files > 8 * done.commits, "{done:?}");
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
    assert!(most <= 3 * plan::FAN_IN + 12, "even while it grows a folder stays small: {most}");
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
    compactor(&store, 900).compact_all(&Selection::default()).await.unwrap();
    for file in before.state().all_files() {
        assert!(store.exists(&file.path).await.unwrap(), "{}", file.path);
    }
    let mut now = compactor(&store, 0);
    now.compact_all(&Selection::default()).await.unwrap();
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
    now.compact_all(&Selection::default()).await.unwrap();
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
            let died = compactor(&Failing::wrap(store.clone(), k, after), 0)
                .compact_all(&Selection::default())
                .await;
            if died.is_ok() {
                break;
            }
            deaths += 1;
            assert_lake_is_bus(&store, &bus).await;
            compactor(&store, 0).compact_all(&Selection::default()).await.unwrap();
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
    compactor.compact_all(&Selection::default()).await.unwrap();
    let after = Lake::open(store.clone()).await.unwrap();
    assert!(after.state().file(&file.path).is_some(), "the altered file is still named by its own commit");
    assert!(after.state().file(&missing.path).is_some());
    assert_eq!(compactor.metrics.damaged_files_total.load(Ordering::Relaxed), 2);
    assert!(after.state().files(Table::Events(Family::Sql)).count() <= 2);
}

/// Does something before the first put of an object whose path begins with `prefix`.
struct Meanwhile {
    inner: Arc<dyn Writes>,
    prefix: &'static str,
    work: std::sync::Mutex<Option<BoxFuture<'static, ()>>>,
}

impl Meanwhile {
    fn wrap(store: Store, prefix: &'static str, work: impl Future<Output = ()> + Send + 'static) -> Store {
        let work = std::sync::Mutex::new(Some(Box::pin(work) as BoxFuture<'static, ()>));
        store.with_writes(|inner| Arc::new(Self { inner, prefix, work }))
    }
}

impl Writes for Meanwhile {
    fn put_new(&self, path: String, bytes: Bytes) -> BoxFuture<'_, Result<Put, LakeError>> {
        Box::pin(async move {
            let work = if path.starts_with(self.prefix) { self.work.lock().unwrap().take() } else { None };
            if let Some(work) = work {
                work.await;
            }
            self.inner.put_new(path, bytes).await
        })
    }

    fn put(&self, path: String, bytes: Bytes) -> BoxFuture<'_, Result<(), LakeError>> {
        self.inner.put(path, bytes)
    }

    fn delete(&self, path: String) -> BoxFuture<'_, Result<(), LakeError>> {
        self.inner.delete(path)
    }
}

/// Asserts that every data file is named by a commit, or waits to be deleted.
async fn assert_no_orphans(store: &Store) {
    let lake = Lake::open_from_commits(store.clone()).await.unwrap();
    for folder in ["tables", "content", "sessions", "templates", "findings"] {
        for file in store.listed(folder).await.unwrap() {
            let named = lake.state().file(&file.path).is_some();
            let waits = lake.state().tombstones.iter().any(|t| t.path == file.path);
            assert!(named || waits, "{} is an orphan", file.path);
        }
    }
}

#[tokio::test]
async fn whoever_comes_second_to_the_same_files_removes_its_own_and_goes_on() {
    let (_dir, store) = directory();
    let bus = recorded(&store, 6).await;
    let before = Lake::open(store.clone()).await.unwrap().view();
    let mut other = compactor(&store, 900);
    let all = Selection::default;
    // The other one has merged everything when this one comes with its first commit.
    let work = async move {
        other.compact_all(&Selection::default()).await.unwrap();
    };
    let mut late = compactor(&Meanwhile::wrap(store.clone(), "commits/compaction", work), 900);
    assert_eq!(late.compact_all(&all()).await.unwrap(), Compacted::default());
    assert_no_orphans(&store).await;
    assert_lake_is_bus(&store, &bus).await;
    // A reader that opened the lake before still finds every file.
    let rows = before.events(&bodycam_lake::Filter::all()).await.unwrap();
    let now = Lake::open(store.clone()).await.unwrap().view();
    assert_eq!(rows.events, now.events(&bodycam_lake::Filter::all()).await.unwrap().events);
    assert!(!rows.events.is_empty());
}

#[tokio::test]
async fn a_commit_whose_name_was_taken_by_work_on_other_files_is_made_at_the_next_position() {
    let (_dir, store) = directory();
    let bus = recorded(&store, 6).await;
    let mut other = compactor(&store, 900);
    let sql = Selection { table: Some(Table::Events(Family::Sql)), hour: None };
    let session = Selection { table: Some(Table::Events(Family::Session)), hour: None };
    let work = async move {
        other.compact_all(&sql).await.unwrap();
    };
    let mut late = compactor(&Meanwhile::wrap(store.clone(), "commits/compaction", work), 900);
    let done = late.compact_all(&session).await.unwrap();
    assert_eq!((done.commits, done.files), (1, 12));
    assert_no_orphans(&store).await;
    assert_lake_is_bus(&store, &bus).await;
    let lake = Lake::open(store.clone()).await.unwrap();
    for family in [Family::Sql, Family::Session] {
        assert_eq!(lake.state().files(Table::Events(family)).count(), 1);
    }
}

#[tokio::test]
async fn compactors_at_work_at_once_beside_a_recorder_neither_fail_nor_lose_a_row() {
    let (_dir, store) = directory();
    let bus = recorded(&store, 4).await;
    let mut gateway = Gateway::start(&bus, "gw-two", None);
    let compactors: Vec<_> = (0..3)
        .map(|n| {
            let mut compactor = compactor(&store, if n == 0 { 0 } else { 900 });
            tokio::spawn(async move {
                for _ in 0..6 {
                    compactor.compact_all(&Selection::default()).await.unwrap();
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                assert_eq!(compactor.left_alone().count(), 0);
            })
        })
        .collect();
    let config = RecorderConfig::default();
    let mut recorder =
        Recorder::open(bus.clone(), store.clone(), key(), config, Arc::default()).await.unwrap();
    for _ in 0..8 {
        gateway.work(2);
        recorder.drain().await.unwrap();
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    for compactor in compactors {
        compactor.await.unwrap();
    }
    assert_lake_is_bus(&store, &bus).await;
    assert_no_orphans(&store).await;
}

/// Makes one write, and then says that the object was there already, as a put does that was sent again because its
/// answer was lost.
struct AnswerLost(Arc<dyn Writes>, std::sync::atomic::AtomicI64);

impl Writes for AnswerLost {
    fn put_new(&self, path: String, bytes: Bytes) -> BoxFuture<'_, Result<Put, LakeError>> {
        Box::pin(async move {
            let put = self.0.put_new(path, bytes).await?;
            Ok(if self.1.fetch_sub(1, Ordering::SeqCst) == 1 { Put::Exists } else { put })
        })
    }

    fn put(&self, path: String, bytes: Bytes) -> BoxFuture<'_, Result<(), LakeError>> {
        self.0.put(path, bytes)
    }

    fn delete(&self, path: String) -> BoxFuture<'_, Result<(), LakeError>> {
        self.0.delete(path)
    }
}

#[tokio::test]
async fn a_put_that_finds_itself_is_no_conflict() {
    let objects = Arc::new(InMemory::new());
    let bus = recorded(&Store::on(objects.clone(), "memory"), 3).await;
    for k in 1.. {
        let store = in_memory(&objects);
        let lossy = store
            .clone()
            .with_writes(|inner| Arc::new(AnswerLost(inner, std::sync::atomic::AtomicI64::new(k))));
        let done = compactor(&lossy, 0).compact_all(&Selection::default()).await.unwrap();
        assert_lake_is_bus(&store, &bus).await;
        assert!(done.commits > 3);
        if k > 2 * done.commits as i64 + 1 {
            break;
        }
    }
}

#[tokio::test]
async fn a_file_that_is_not_sorted_is_merged_all_the_same() {
    use bodycam_lake::columns::templates::{self, TemplateRow};
    let (_dir, store) = directory();
    let bus = recorded(&store, 3).await;
    // As another build may have left it: a commit of a recorder with texts in no order.
    let rows: Vec<_> = [9u8, 3, 7]
        .map(|n| TemplateRow { fingerprint: bodycam_record::Id16([n; 16]), text: n.to_string() })
        .into();
    let file = bodycam_lake::file::encode(Table::Templates, &templates::encode(&rows).unwrap()).unwrap();
    let path = "templates/other@0-0-0-0-00000001.parquet".to_owned();
    store.put_new(&path, file.bytes).await.unwrap();
    let mut lake = Lake::open(store.clone()).await.unwrap();
    let stream = "other/0".parse().unwrap();
    lake.add_stream(&stream, 0, 0).await.unwrap();
    let files = vec![FileEntry { path, ..file.entry }];
    let commit = Commit { stream, ..commit_of_compaction(0, 0, files, vec![]) };
    lake.commit(commit, &key()).await.unwrap();
    let mut compactor = compactor(&store, 0);
    compactor.compact_all(&Selection::default()).await.unwrap();
    assert_eq!(compactor.left_alone().count(), 0);
    let lake = Lake::open(store.clone()).await.unwrap();
    assert_eq!(lake.state().files(Table::Templates).count(), 1);
    let texts = lake.view().templates().await.unwrap();
    assert!([3, 7, 9].iter().all(|n| texts[&bodycam_record::Id16([*n; 16])] == n.to_string()));
    drop(bus);
}

/// The last file of a table in a compacted lake.
async fn footer(store: &Store, table: Table) -> (Bytes, ParquetMetaData) {
    let lake = Lake::open(store.clone()).await.unwrap();
    let file = lake.state().files(table).next_back().unwrap().clone();
    // Texts come once, in one file.
    assert!(table == Table::Templates || file.path.contains("compaction-"), "{}", file.path);
    let bytes = store.get(&file.path).await.unwrap().unwrap();
    let metadata = ParquetMetaDataReader::new()
        .with_page_index_policy(PageIndexPolicy::Required)
        .parse_and_finish(&bytes)
        .unwrap();
    (bytes, metadata)
}

#[tokio::test]
async fn a_compacted_file_is_laid_out_as_its_readers_want_it() {
    let (_dir, store) = directory();
    recorded(&store, 12).await;
    compactor(&store, 0).compact_all(&Selection::default()).await.unwrap();
    let delta = Encoding::DELTA_BINARY_PACKED;
    for (table, blooms, deltas) in [
        (
            Table::Events(Family::Sql),
            vec!["session_id", "principal_ref", "fingerprint"],
            vec!["seq", "ts_wall_ns", "ts_mono_ns", "duration_us"],
        ),
        (
            Table::Events(Family::Session),
            vec!["session_id", "principal_ref"],
            vec!["seq", "ts_wall_ns", "duration_us"],
        ),
        (Table::Content, vec!["session_id"], vec!["content_no"]),
        (Table::Sessions, vec!["session_id", "principal_ref"], vec![]),
        (Table::Templates, vec!["fingerprint"], vec![]),
    ] {
        let (bytes, metadata) = footer(&store, table).await;
        let schema = table.schema();
        let name = table.name();
        let group = metadata.row_group(0);
        let sorted: Vec<_> = group.sorting_columns().unwrap().iter().map(|c| c.column_idx).collect();
        let expected: Vec<_> = table.sorted_by().iter().map(|n| schema.index_of(n).unwrap() as i32).collect();
        assert_eq!(sorted, expected, "{name}");
        for column in group.columns() {
            let path = column.column_path().string();
            let encodings: Vec<_> = column.encodings().collect();
            assert_eq!(
                column.bloom_filter_offset().is_some(),
                blooms.contains(&path.as_str()),
                "{name} {path}"
            );
            if deltas.contains(&path.as_str()) {
                assert!(encodings.contains(&delta), "{name} {path}: {encodings:?}");
            }
            let has_dictionary = column.dictionary_page_offset().is_some();
            // Digests and ciphertext neither compress nor repeat nor sort; but the policy's digest repeats.
            let is_digest = schema.field_with_name(&path).is_ok_and(|field| {
                *field.data_type() == DataType::FixedSizeBinary(32) && path != "policy_digest"
            });
            if is_digest || path == "sealed" {
                assert!(matches!(column.compression(), Compression::UNCOMPRESSED), "{name} {path}");
                assert!(!has_dictionary && column.statistics().is_none(), "{name} {path}");
            } else {
                assert!(matches!(column.compression(), Compression::ZSTD(_)), "{name} {path}");
                if path == "text" {
                    assert!(encodings.contains(&Encoding::DELTA_LENGTH_BYTE_ARRAY), "{encodings:?}");
                    assert!(!has_dictionary && column.statistics().is_none());
                } else {
                    assert!(column.statistics().is_some(), "{name} {path}");
                }
            }
        }
        // What a Bloom filter says: the ids that are there, and of others hardly one.
        let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).unwrap();
        let by = if blooms[0] == "fingerprint" { "fingerprint" } else { "session_id" };
        let filter =
            reader.get_row_group_column_bloom_filter(0, schema.index_of(by).unwrap()).unwrap().unwrap();
        let ids: Vec<_> = reader
            .build()
            .unwrap()
            .flat_map(|b| {
                let b = b.unwrap();
                let ids = b.column_by_name(by).unwrap().as_fixed_size_binary().clone();
                (0..ids.len()).filter(|i| ids.is_valid(*i)).map(|i| ids.value(i).to_vec()).collect::<Vec<_>>()
            })
            .collect();
        assert!(!ids.is_empty() && ids.iter().all(|id| filter.check(id.as_slice())), "{name}");
        let false_positives = (0..10_000u64)
            .filter(|n| filter.check([n.to_le_bytes(), n.to_be_bytes()].concat().as_slice()))
            .count();
        assert!(false_positives <= 200, "{name}: {false_positives} of 10000");
    }
}
