//! Files that no reader needs any more: replaced ones, and what killed writers left behind.
//!
//! Invariant: no file is removed that a commit names or can still come to name. That is known, never guessed:
//!
//! - A **replaced** file goes when the grace that readers have is over.
//! - An **orphan** is a data file that no commit names. It goes when it is older than an age, and when the commit
//!   that it was written for can not be made any more. Its name says which one that is. A stream's commits have the
//!   names of the positions at which they start, and each name is taken once: as soon as the stream stands behind the
//!   position, the name is taken, and a recorder that was stopped for however long finds its commit refused.
//! - Compaction, too, commits a file at the position that its name says or nowhere; a compactor that finds another one
//!   was first gives its file another name. Where compaction still stands at the position, a commit that changes nothing
//!   takes it before the orphan is removed.
//!
//! Whatever has another name than recorders give was put there by somebody else, and stays.

use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

use bodycam_lake::layout::WrittenFor;
use bodycam_lake::state::Tombstone;
use bodycam_lake::store::Listed;
use bodycam_lake::{Lake, LakeState, Store, StreamName};
use bodycam_record::{Digest, EpochKey};

use crate::commit::now_ns;
use crate::compact::commit_of_compaction;
use crate::error::RecorderError;

/// Folders of data files. Among the findings lie those of rules, which window records name: their names are others.
const FOLDERS: [&str; 5] = ["tables", "content", "sessions", "templates", "findings"];

/// Age from which orphans are removed.
pub const ORPHAN_AGE: Duration = Duration::from_secs(24 * 3600);
/// Age from which orphans of compaction are removed at the earliest, whatever is asked for, so that one that is at work
/// need not begin again.
const LEAST_MERGED_AGE: Duration = Duration::from_secs(2 * 3600);

/// What lies in a lake and is no part of it.
#[derive(Debug, Default)]
pub struct Garbage {
    /// Replaced files that are still to be deleted.
    pub replaced: Vec<Replaced>,
    /// Data files that no commit names.
    pub orphans: Vec<Orphan>,
}

/// A file that was replaced.
#[derive(Debug, Clone)]
pub struct Replaced {
    /// Where it is.
    pub tombstone: Tombstone,
    /// From when on it is deleted, Unix ns.
    pub due_ns: i64,
}

/// A data file that no commit names.
#[derive(Debug, Clone)]
pub struct Orphan {
    /// The file.
    pub file: Listed,
    /// Its age.
    pub age: Duration,
    /// Why it stays; none when it goes.
    pub stays: Option<Stays>,
}

/// Why an orphan stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stays {
    /// It is younger than the age.
    Young,
    /// The commit that it was written for can still be made.
    CanBeCommitted(WrittenFor),
    /// No recorder wrote it.
    Foreign,
}

/// What was removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Removed {
    /// Paths of the files.
    pub paths: BTreeSet<String>,
    /// Bytes of orphans.
    pub orphan_bytes: u64,
}

impl std::fmt::Display for Stays {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Stays::Young => f.write_str("too young"),
            Stays::CanBeCommitted(WrittenFor { stream, generation: 0, from }) => {
                write!(f, "can still be committed: stream {stream} stands at {from}")
            }
            Stays::CanBeCommitted(WrittenFor { stream, generation, from }) => {
                write!(
                    f,
                    "can still be committed: stream {stream} (generation {generation}) stands at {from}"
                )
            }
            Stays::Foreign => f.write_str("not written by a recorder"),
        }
    }
}

impl Garbage {
    /// Looks at a lake: what was replaced and stays for `grace`, and orphans, which go from `age` on. Who removes them
    /// believes only snapshots of these keys.
    pub async fn find(
        store: &Store,
        believed: Option<&BTreeSet<Digest>>,
        grace: Duration,
        age: Duration,
    ) -> Result<(Self, Lake), RecorderError> {
        let now = now_ns();
        let mut listed = Vec::new();
        for folder in FOLDERS {
            listed.extend(store.listed(folder).await?);
        }
        // Read after the listing: a file that was committed meanwhile is named by it. A commit that is missing before
        // a later one would make orphans of what the later one names.
        let mut lake = match believed {
            Some(keys) => Lake::open_by(store.clone(), keys).await?,
            None => Lake::open(store.clone()).await?,
        };
        lake.miss_nothing().await?;
        let state = lake.state();
        let replaced: Vec<_> = replaced(state, grace).collect();
        let waiting: HashSet<&str> = state.tombstones.iter().map(|t| t.path.as_str()).collect();
        let is_named = |path: &str| state.file(path).is_some() || waiting.contains(path);
        listed.retain(|file| file.path.ends_with(".parquet") && !is_named(&file.path));
        let orphans = listed.into_iter().filter_map(|file| {
            let old = u64::try_from(now.saturating_sub(file.written_ns)).unwrap_or(0);
            let old = Duration::from_nanos(old);
            // What rules found is named by window records, which are not looked at here.
            let written_for = match WrittenFor::of(&file.path) {
                None if file.path.starts_with("findings/") => return None,
                written_for => written_for,
            };
            Some(Orphan { stays: stays(state, written_for, old, age), age: old, file })
        });
        Ok((Self { replaced, orphans: orphans.collect() }, lake))
    }

    /// Removes what is due. `removed` says what is gone so far at any time: after an error, too.
    pub async fn remove(
        &self,
        lake: &mut Lake,
        key: &EpochKey,
        removed: &mut Removed,
    ) -> Result<(), RecorderError> {
        let now = now_ns();
        for Replaced { tombstone, due_ns } in &self.replaced {
            if *due_ns <= now && lake.store().exists(&tombstone.path).await? {
                lake.store().delete(&tombstone.path).await?;
                removed.paths.insert(tombstone.path.clone());
            }
        }
        let due: Vec<_> = self.orphans.iter().filter(|orphan| orphan.stays.is_none()).collect();
        let compaction = StreamName::compaction();
        let merged = |orphan: &&&Orphan| {
            WrittenFor::of(&orphan.file.path).is_some_and(|written_for| written_for.stream == compaction)
        };
        if due.iter().any(|orphan| merged(&orphan)) {
            take_next_name(lake, key).await?;
        }
        for orphan in due {
            // Once more, after that: whoever was first may have named it.
            if lake.state().file(&orphan.file.path).is_some() {
                continue;
            }
            lake.store().delete(&orphan.file.path).await?;
            tracing::info!(file = %orphan.file.path, bytes = orphan.file.bytes, "orphan_removed");
            removed.paths.insert(orphan.file.path.clone());
            removed.orphan_bytes += orphan.file.bytes;
        }
        Ok(())
    }
}

/// Replaced files that a commit has not yet said to be deleted.
pub fn replaced(state: &LakeState, grace: Duration) -> impl Iterator<Item = Replaced> {
    let grace = i64::try_from(grace.as_nanos()).unwrap_or(i64::MAX);
    state.tombstones.iter().map(move |tombstone| Replaced {
        due_ns: tombstone.replaced_ns.saturating_add(grace),
        tombstone: tombstone.clone(),
    })
}

fn stays(state: &LakeState, written_for: Option<WrittenFor>, old: Duration, age: Duration) -> Option<Stays> {
    let Some(written_for) = written_for else { return Some(Stays::Foreign) };
    let is_merged = written_for.stream == StreamName::compaction();
    if old < age || (is_merged && old < LEAST_MERGED_AGE) {
        return Some(Stays::Young);
    }
    if is_merged {
        return None;
    }
    let stream = state.stream(&written_for.stream, written_for.generation);
    match stream.is_some_and(|(_, stream)| stream.position > written_for.from) {
        true => None,
        false => Some(Stays::CanBeCommitted(written_for)),
    }
}

/// Makes a commit of compaction that changes nothing.
async fn take_next_name(lake: &mut Lake, key: &EpochKey) -> Result<(), RecorderError> {
    loop {
        let index = lake.add_stream(&StreamName::compaction(), 0, 0).await?;
        let position = lake.state().streams.get(index).map_or(0, |stream| stream.position);
        let deleted_to = lake.state().tombstones.iter().map(|t| t.replaced_by).min().unwrap_or(position);
        let commit = commit_of_compaction(position, deleted_to, Vec::new(), Vec::new());
        match lake.commit(commit, key).await {
            // Another one has taken it, which is as good; but what it says must be known.
            Err(bodycam_lake::LakeError::CommitConflict { .. }) => {
                if lake.refresh().await? > 0 {
                    return Ok(());
                }
            }
            done => return Ok(done?),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::SystemTime;

    use bytes::Bytes;

    use super::*;
    use crate::compact::{Compactor, Selection};
    use crate::config::RecorderConfig;
    use crate::recorder::Recorder;
    use crate::scene::{Gateway, MemoryBus, assert_lake_is_bus, directory};

    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn key() -> Arc<EpochKey> {
        Arc::new(EpochKey::from_seed(&[7; 32]))
    }

    async fn record(store: &Store, bus: &MemoryBus) {
        let config = RecorderConfig::default();
        let mut recorder =
            Recorder::open(bus.clone(), store.clone(), key(), config, Arc::default()).await.unwrap();
        recorder.drain().await.unwrap();
    }

    /// Makes a file of this age.
    async fn put(store: &Store, path: &str, age: Duration) {
        store.put_new(path, Bytes::from_static(b"left")).await.unwrap();
        let at = store.directory().unwrap().join(path);
        let file = std::fs::OpenOptions::new().write(true).open(at).unwrap();
        file.set_modified(SystemTime::now() - age).unwrap();
    }

    async fn find(store: &Store, age: Duration) -> (Garbage, Lake) {
        Garbage::find(store, Some(&[key().public()].into()), Duration::from_secs(900), age).await.unwrap()
    }

    async fn removed(garbage: &Garbage, lake: &mut Lake) -> Removed {
        let mut removed = Removed::default();
        garbage.remove(lake, &key(), &mut removed).await.unwrap();
        removed
    }

    #[tokio::test]
    async fn an_orphan_goes_when_it_is_old_and_its_commit_can_not_be_made_any_more() {
        let (_dir, store) = directory();
        let bus = MemoryBus::default();
        let mut gateway = Gateway::start(&bus, "gw", None);
        gateway.work(3);
        record(&store, &bus).await;
        let lake = Lake::open(store.clone()).await.unwrap();
        let end = lake.state().stream(&"gw/0".parse().unwrap(), 0).unwrap().1.position;
        let hour = "tables/sql/dt=2026-11-21/hh=10";
        let can = |stream: &str, generation, from| {
            Some(Stays::CanBeCommitted(WrittenFor { stream: stream.parse().unwrap(), generation, from }))
        };
        let old = 2 * DAY;
        let cases = [
            (format!("{hour}/gw@0-0-0-0-deadbeef.parquet"), old, None),
            (format!("{hour}/gw@0-0-0-1-deadbeef.parquet"), DAY / 2, Some(Stays::Young)),
            (format!("{hour}/gw@0-0-{end}-0-deadbeef.parquet"), old, can("gw/0", 0, end)),
            (format!("{hour}/gw@0-1-0-0-deadbeef.parquet"), old, can("gw/0", 1, 0)),
            (format!("{hour}/gone@0-0-0-0-deadbeef.parquet"), old, can("gone/0", 0, 0)),
            (format!("{hour}/compaction-0-7-1-deadbeef.parquet"), old, None),
            ("templates/gw@0-0-0-9-deadbeef.parquet".to_owned(), old, None),
            ("findings/gw@0-0-0-8-deadbeef.parquet".to_owned(), old, None),
            (format!("{hour}/of-somebody.parquet"), old, Some(Stays::Foreign)),
        ];
        for (path, age, _) in &cases {
            put(&store, path, *age).await;
        }
        // A finding of a rule is named by a window record; other files are no data files.
        put(&store, "findings/BCR-EXF-001-1-0-0-0123456789abcdef.parquet", old).await;
        put(&store, &format!("{hour}/notes.txt"), old).await;
        let (garbage, mut lake) = find(&store, DAY).await;
        assert_eq!(garbage.orphans.len(), cases.len());
        for (path, _, stays) in &cases {
            let orphan = garbage.orphans.iter().find(|orphan| orphan.file.path == *path).unwrap();
            assert_eq!(orphan.stays, *stays, "{path}");
        }
        let removed_now = removed(&garbage, &mut lake).await;
        assert_eq!((removed_now.paths.len(), removed_now.orphan_bytes), (4, 16));
        for (path, _, stays) in &cases {
            assert_eq!(store.exists(path).await.unwrap(), stays.is_some(), "{path}");
        }
        assert_lake_is_bus(&store, &bus).await;
        // The stream goes on, and takes the name.
        gateway.work(3);
        record(&store, &bus).await;
        let (garbage, mut lake) = find(&store, DAY).await;
        assert_eq!(removed(&garbage, &mut lake).await.paths.len(), 1);
        assert!(!store.exists(&cases[2].0).await.unwrap());
        assert_lake_is_bus(&store, &bus).await;
        let (garbage, _) = find(&store, Duration::ZERO).await;
        assert_eq!(garbage.orphans.len(), 4, "{:?}", garbage.orphans);
    }

    #[tokio::test]
    async fn a_recorder_that_was_stopped_for_days_can_not_commit_a_file_that_was_removed() {
        let (_dir, store) = directory();
        let bus = MemoryBus::default();
        Gateway::start(&bus, "gw", None).work(3);
        record(&store, &bus).await;
        let stream: StreamName = "gw/0".parse().unwrap();
        // It has written its file, and is stopped before its commit. Another recorder goes on.
        let mut stopped = Lake::open(store.clone()).await.unwrap();
        let from = stopped.state().stream(&stream, 0).unwrap().1.position;
        let path = format!("templates/gw@0-0-{from}-0-deadbeef.parquet");
        put(&store, &path, 3 * DAY).await;
        let (garbage, mut lake) = find(&store, DAY).await;
        assert_eq!(removed(&garbage, &mut lake).await.paths.len(), 0, "its commit can still be made");
        let commit = |to| {
            let commit = commit_of_compaction(from, 0, Vec::new(), Vec::new());
            bodycam_lake::Commit { stream: stream.clone(), to, ..commit }
        };
        lake.commit(commit(from + 5), &key()).await.unwrap();
        let (garbage, mut lake) = find(&store, DAY).await;
        assert_eq!(removed(&garbage, &mut lake).await.paths.len(), 1);
        let err = stopped.commit(commit(from + 3), &key()).await.unwrap_err();
        assert!(matches!(err, bodycam_lake::LakeError::CommitConflict { .. }), "{err}");
    }

    #[tokio::test]
    async fn a_compactor_that_was_stopped_before_its_commit_finds_its_name_taken() {
        let (_dir, store) = directory();
        let bus = MemoryBus::default();
        let mut gateway = Gateway::start(&bus, "gw", None);
        for _ in 0..4 {
            gateway.work(3);
            record(&store, &bus).await;
        }
        let mut stopped = Lake::open(store.clone()).await.unwrap();
        stopped.add_stream(&StreamName::compaction(), 0, 0).await.unwrap();
        let path = "templates/compaction-0-0-1-deadbeef.parquet";
        put(&store, path, Duration::from_secs(5400)).await;
        let (garbage, _) = find(&store, Duration::ZERO).await;
        assert_eq!(garbage.orphans[0].stays, Some(Stays::Young), "whatever is asked for");
        store.delete(path).await.unwrap();
        put(&store, path, 3 * DAY).await;
        let (garbage, mut lake) = find(&store, DAY).await;
        assert_eq!(removed(&garbage, &mut lake).await.paths.len(), 1);
        let commit = commit_of_compaction(0, 0, Vec::new(), Vec::new());
        let err = stopped.commit(commit, &key()).await.unwrap_err();
        assert!(matches!(err, bodycam_lake::LakeError::CommitConflict { .. }), "{err}");
        // The commit that changes nothing is in nobody's way.
        let config = RecorderConfig { compact_grace_seconds: 0, ..RecorderConfig::default() };
        let mut compactor = Compactor::new(store.clone(), key(), &config, Arc::default());
        assert!(compactor.compact_all(&Selection::default()).await.unwrap().commits > 0);
        assert_lake_is_bus(&store, &bus).await;
    }

    #[tokio::test]
    async fn nothing_is_an_orphan_in_a_lake_that_lost_a_commit() {
        let (dir, store) = directory();
        let bus = MemoryBus::default();
        let mut gateway = Gateway::start(&bus, "gw", None);
        for _ in 0..4 {
            gateway.work(3);
            record(&store, &bus).await;
        }
        let folder = dir.path().join("commits/gw@0/0");
        let mut commits: Vec<u64> = std::fs::read_dir(&folder)
            .unwrap()
            .map(|e| e.unwrap().file_name().to_str().unwrap().strip_suffix(".json").unwrap().parse().unwrap())
            .collect();
        commits.sort_unstable();
        std::fs::remove_file(folder.join(format!("{}.json", commits[1]))).unwrap();
        let err = Garbage::find(&store, Some(&[key().public()].into()), Duration::ZERO, Duration::ZERO)
            .await
            .map(drop)
            .unwrap_err();
        assert!(err.to_string().contains("is missing"), "{err}");
    }
}
