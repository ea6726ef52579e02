//! The whole way: pen, spool, recorder, compaction, a lake in a directory; then one cell of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bodycam_bus::SpoolConfig;
use bodycam_bus::spool::SpoolBus;
use bodycam_lake::{Lake as Recorded, Store, Table, file};
use bodycam_record::{Family, SessionId};
use bodycam_recorder::compact::Selection;
use bodycam_recorder::{Compactor, Metrics, Recorder, RecorderConfig};
use bodycam_verify::{Class, Files, Options, Sequential};
use bytes::Bytes;

use super::fixture::*;

/// A lake of `epochs` runs of one gateway, each recorded to its end.
async fn recorded(dir: &std::path::Path, epochs: usize) -> std::path::PathBuf {
    let (spool_dir, lake) = (dir.join("spool"), dir.join("lake"));
    std::fs::create_dir_all(&spool_dir).unwrap();
    for _ in 0..epochs {
        spool(&spool_dir).await;
        let bus = SpoolBus::new(&SpoolConfig { dir: spool_dir.clone(), ..SpoolConfig::default() });
        let store = Store::create(lake.to_str().unwrap()).unwrap();
        let (key, metrics) = (Arc::new(recorder_key()), Arc::new(Metrics::default()));
        let mut recorder = Recorder::open(bus, store, key, RecorderConfig::default(), metrics).await.unwrap();
        recorder.run(async {}).await.unwrap();
    }
    lake
}

/// Merges everything, and deletes what was merged at once.
async fn compact(root: &std::path::Path) {
    let store = Store::open(root.to_str().unwrap()).unwrap();
    let config = RecorderConfig { compact_grace_seconds: 0, ..RecorderConfig::default() };
    let mut compactor =
        Compactor::new(store, Arc::new(recorder_key()), &config, Arc::new(Metrics::default()));
    assert!(
        compactor.compact_all(&Selection::default()).await.unwrap().commits > 0,
        "something was compacted"
    );
}

#[tokio::test]
async fn what_the_recorder_wrote_verifies_and_one_changed_cell_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let root = recorded(dir.path(), 1).await;
    let options = Options { tenant_key: Some(tenant()), ..Options::default() };
    let lake = from_directory(&root);
    let report = verify_with(&lake, &options);
    expect("recorded", &report, 4, &[]);
    assert_eq!((report.sessions.sealed, report.checked.events), (3, 45), "{}", report.to_text());
    assert!(report.checked.contents > 0 && report.checked.contents_not_opened == 0, "{}", report.to_text());

    let store = Store::open(root.to_str().unwrap()).unwrap();
    let state = Recorded::open(store).await.unwrap();
    let session: SessionId = {
        let holds = |f: &&Arc<bodycam_lake::FileEntry>| f.table.0 == Table::Events(Family::Session);
        state.state().all_files().find(holds).unwrap().min_session.unwrap()
    };
    let entry = state.state().files(Table::Events(Family::Sql)).find(|f| f.may_hold(session)).unwrap();
    let batch = super::files::batch_of(&lake.objects[&entry.path]);
    let changed = super::files::with_first_result_larger(&batch, session);
    let mut altered = lake.clone();
    let encoded = file::encode(Table::Events(Family::Sql), &changed).unwrap();
    altered.objects.insert(entry.path.clone(), encoded.bytes);
    let report = verify_with(&altered, &options);
    assert_eq!(report.exit_code, 2);
    expect_path(&report, Class::Manifest, &entry.path);
    let cell = report.faults.iter().find(|f| f.class == Class::Hash).unwrap();
    assert_eq!((cell.session, cell.seq, cell.seq_to), (Some(session), Some(2), None), "{}", report.to_text());
    assert_eq!(cell.path.as_ref(), Some(&entry.path));
}

/// A lake whose files are compacted, and the old ones deleted, when the first of them has been looked for.
struct Moving {
    before: Lake,
    after: Lake,
    moved: AtomicBool,
}

impl Files for Moving {
    fn read(&self, path: &str, limit: u64) -> Result<Option<Bytes>, String> {
        if path.starts_with("tables/") {
            self.moved.store(true, Ordering::SeqCst);
        }
        let now = if self.moved.load(Ordering::SeqCst) { &self.after } else { &self.before };
        now.read(path, limit)
    }

    fn list(&self, folder: &str) -> Result<Option<Vec<String>>, String> {
        let now = if self.moved.load(Ordering::SeqCst) { &self.after } else { &self.before };
        now.list(folder)
    }
}

#[tokio::test]
async fn files_that_are_compacted_and_deleted_while_they_are_verified_are_no_alarm() {
    let dir = tempfile::tempdir().unwrap();
    let root = recorded(dir.path(), 2).await;
    let before = from_directory(&root);
    compact(&root).await;
    let after = from_directory(&root);
    let options = Options { tenant_key: Some(tenant()), ..Options::default() };
    let moving = Moving { before: before.clone(), after: after.clone(), moved: AtomicBool::default() };
    let report = bodycam_verify::run(&moving, &options, &Sequential, &|_| ());
    expect("moving", &report, 4, &[]);
    assert_eq!(report.checked.events, verify_with(&after, &options).checked.events);

    // Without the commit that says so, what is gone is gone.
    let mut thinned = after;
    thinned.objects.retain(|path, _| !path.starts_with("commits/compaction/"));
    let moving = Moving { before, after: thinned, moved: AtomicBool::default() };
    let report = bodycam_verify::run(&moving, &options, &Sequential, &|_| ());
    assert_eq!(report.exit_code, 2, "{}", report.to_text());
}

#[tokio::test]
async fn a_compacted_lake_of_two_epochs_verifies_alike() {
    let dir = tempfile::tempdir().unwrap();
    let root = recorded(dir.path(), 2).await;
    let options = Options { tenant_key: Some(tenant()), ..Options::default() };
    let before = verify_with(&from_directory(&root), &options);
    expect("before", &before, 4, &[]);
    compact(&root).await;
    let after = verify_with(&from_directory(&root), &options);
    expect("after", &after, 4, &[]);
    assert!(after.checked.files < before.checked.files, "{} {}", after.checked.files, before.checked.files);
    assert_eq!(after.checked.events, before.checked.events);
    assert_eq!(after.checked.contents, before.checked.contents);
    assert_eq!((after.sessions, after.trust.producers[0].epochs), (before.sessions, 2));
}
