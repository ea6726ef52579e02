//! Small files → few: merged inside their hour and table, losslessly, under commits of their own.
//!
//! Invariant: the rows of the inputs are exactly the rows of the outputs (their sums are compared before the output
//! is put into the lake, before the commit, by every reader of it, and by the verifier); inputs that are not what
//! their commit says are left alone, so that compaction never hides an alteration.
//!
//! Memory is bounded, whatever the size of the files: 128 MiB for the inputs of a merge, of which each is read a page
//! at a time (`plan`, `source`), and twice a row group of at most 64 MiB of texts for the output (`merge`), which is
//! written to a scratch file and put into the lake from there. Which files are merged, and how often a row is written
//! again at most, says `plan`.
//!
//! Any number of compactors may be at work on a lake: commits have one order, and whoever comes second to the same
//! files removes its own output.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bodycam_lake::commit::{Signature, VERSION};
use bodycam_lake::file::RowSum;
use bodycam_lake::lake::newest_snapshot_number;
use bodycam_lake::layout::{self, FileName};
use bodycam_lake::state::Snapshot;
use bodycam_lake::store::Put;
use bodycam_lake::{Commit, FileEntry, Lake, LakeError, Store, StreamName, Table};
use bodycam_record::{Digest, EpochKey};
use tokio::sync::watch;

use crate::commit::now_ns;
use crate::config::RecorderConfig;
use crate::error::RecorderError;
use crate::garbage::{Garbage, ORPHAN_AGE, Removed, replaced};
use crate::metrics::{Metrics, add, set};

pub mod merge;
pub mod plan;
mod source;

pub use plan::{Job, Selection};

use merge::Unmerged;
use plan::Quiet;
use source::{Scratch, Source};

/// A file that is not sorted is sorted in memory up to this size.
const SORTED_IN_MEMORY: u64 = 16 << 20;
/// Small files from which a folder is crowded.
const CROWDED: usize = 32;
/// Names that are tried for a file.
const NAMES: usize = 3;

/// Merges small files.
pub struct Compactor {
    store: Store,
    key: Arc<EpochKey>,
    /// The keys whose snapshots are believed.
    believed: BTreeSet<Digest>,
    every: Duration,
    grace: Duration,
    metrics: Arc<Metrics>,
    /// The lake as the last turn left it.
    lake: Option<Lake>,
    quiet: Quiet,
    /// Files that are not merged, and why.
    left_alone: BTreeMap<String, String>,
    /// Files whose rows are to be sorted first.
    unsorted: HashSet<String>,
    /// Replaced files that were deleted.
    deleted: HashSet<String>,
    /// Chance bits in the names of files: no two compactors ever use one name.
    writer: u32,
    /// Number of the next file.
    n: usize,
    /// Number of the newest snapshot that was looked at, and the commits in it.
    snapshot: Option<(u64, u64)>,
    /// Set when the work is to be given up.
    stop: Arc<AtomicBool>,
}

/// What became of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// Its files are one now.
    Merged,
    /// Another compactor was first, or a file was left alone.
    Gone,
}

/// What [`Compactor::compact_all`] has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Compacted {
    /// Commits made.
    pub commits: usize,
    /// Files replaced, and their bytes.
    pub files: usize,
    /// Bytes of the files that were replaced.
    pub bytes: u64,
}

/// The output of a merge, not yet in the lake.
struct Merged {
    file: Scratch,
    entry: FileEntry,
}

impl Compactor {
    /// A compactor of the lake in `store`.
    pub fn new(store: Store, key: Arc<EpochKey>, config: &RecorderConfig, metrics: Arc<Metrics>) -> Self {
        let [a, b, c, d, ..] = chance().to_le_bytes();
        // A configuration that names no keys is refused where it is read.
        let believed = config.believed(&key).unwrap_or_else(|_| [key.public()].into());
        Self {
            store,
            key,
            believed,
            every: Duration::from_secs(config.compact_seconds),
            grace: Duration::from_secs(config.compact_grace_seconds),
            metrics,
            lake: None,
            quiet: Quiet::default(),
            left_alone: BTreeMap::new(),
            unsorted: HashSet::new(),
            deleted: HashSet::new(),
            writer: u32::from_le_bytes([a, b, c, d]),
            n: 0,
            snapshot: None,
            stop: Arc::default(),
        }
    }

    /// Files that are not merged, and why.
    pub fn left_alone(&self) -> impl Iterator<Item = (&str, &str)> {
        self.left_alone.iter().map(|(path, why)| (path.as_str(), why.as_str()))
    }

    async fn open(&self) -> Result<Lake, RecorderError> {
        Ok(Lake::open_by(self.store.clone(), &self.believed).await?)
    }

    /// Compacts until `stop` is true. A failure is logged and tried again at the next turn: nothing waits for
    /// compaction.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) {
        if self.every.is_zero() {
            return;
        }
        let given_up = self.stop.clone();
        let mut collected: Option<Instant> = None;
        loop {
            let wait = tokio::time::sleep(self.every);
            let turn = async {
                wait.await;
                if collected.is_none_or(|at| at.elapsed() >= ORPHAN_AGE) {
                    collected = Some(Instant::now());
                    if let Err(err) = self.collect().await {
                        tracing::warn!(error = %err, "orphans_not_collected");
                    }
                }
                if let Err(err) = self.turn().await {
                    tracing::warn!(error = %err, "compaction_failed");
                }
            };
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => {
                    given_up.store(true, Ordering::Relaxed);
                    return;
                }
                () = turn => {}
            }
        }
    }

    /// Removes what killed writers left behind.
    async fn collect(&self) -> Result<(), RecorderError> {
        self.store.sweep(ORPHAN_AGE).await?;
        let (garbage, mut lake) =
            Garbage::find(&self.store, Some(&self.believed), self.grace, ORPHAN_AGE).await?;
        set(&self.metrics.orphan_files, garbage.orphans.len() as u64);
        set(&self.metrics.orphan_bytes, garbage.orphans.iter().map(|orphan| orphan.file.bytes).sum());
        garbage.remove(&mut lake, &self.key, &mut Removed::default()).await
    }

    /// Merges what has gathered enough files of like size or has been quiet since the last turn.
    async fn turn(&mut self) -> Result<(), RecorderError> {
        let mut lake = match self.lake.take() {
            Some(mut lake) => {
                lake.refresh().await?;
                lake
            }
            None => self.open().await?,
        };
        let left_alone = |path: &str| self.left_alone.contains_key(path);
        let mut jobs = plan::due(lake.state(), &left_alone, &mut self.quiet, self.every);
        // Several compactors begin at different ends.
        let start = usize::try_from(self.writer).unwrap_or(0).checked_rem(jobs.len()).unwrap_or(0);
        jobs.rotate_left(start);
        // One folder that cannot be merged keeps no other from it.
        let mut failed = Ok(());
        for job in jobs {
            match self.compact(&mut lake, &job).await {
                Err(err) if err.is_transient() => failed = Err(err),
                done => drop(done?),
            }
        }
        let writer = format!("{}-compaction", self.key.public().to_hex());
        if let Err(err) = lake.tell(&writer).await {
            tracing::debug!(error = %err, "hint_not_written");
        }
        self.delete_replaced(&lake).await?;
        self.measure(&lake).await?;
        self.lake = Some(lake);
        failed
    }

    /// Tells how the lake stands after a turn.
    async fn measure(&mut self, lake: &Lake) -> Result<(), RecorderError> {
        let left_alone = |path: &str| self.left_alone.contains_key(path);
        let folders = plan::small_files(lake.state(), &left_alone);
        set(&self.metrics.small_files, folders.values().map(Vec::len).sum::<usize>() as u64);
        let crowded = folders.values().filter(|files| files.len() > CROWDED).count();
        set(&self.metrics.crowded_folders, crowded as u64);
        let newest = newest_snapshot_number(&self.store).await?;
        if newest != self.snapshot.map(|(n, _)| n) {
            self.snapshot = None;
            if let Some(n) = newest {
                let path = layout::snapshot(n);
                let object = self.store.get(&path).await?;
                let snapshot = object.and_then(|object| Snapshot::parse(&path, &object).ok());
                self.snapshot = snapshot.map(|snapshot| (n, snapshot.commits));
            }
        }
        let held = self.snapshot.map_or(0, |(_, commits)| commits);
        set(&self.metrics.commits_since_snapshot, lake.state().commits.saturating_sub(held));
        let written = match self.snapshot {
            Some((n, _)) => self.store.written_ns(&layout::snapshot(n)).await?,
            None => None,
        };
        let age = written.map_or(0, |ns| now_ns().saturating_sub(ns) / 1_000_000_000);
        set(&self.metrics.snapshot_age_seconds, u64::try_from(age).unwrap_or(0));
        Ok(())
    }

    /// What [`Compactor::compact_all`] would begin with.
    pub async fn plan(&self, selection: &Selection) -> Result<Vec<Job>, RecorderError> {
        let lake = self.open().await?;
        Ok(plan::all(lake.state(), &|path| self.left_alone.contains_key(path), selection))
    }

    /// Merges everything selected that can be merged, whatever that writes again; deletes replaced files that are due.
    pub async fn compact_all(&mut self, selection: &Selection) -> Result<Compacted, RecorderError> {
        let mut lake = self.open().await?;
        let mut done = Compacted::default();
        loop {
            let left_alone = |path: &str| self.left_alone.contains_key(path);
            let jobs = plan::all(lake.state(), &left_alone, selection);
            if jobs.is_empty() {
                self.delete_replaced(&lake).await?;
                return Ok(done);
            }
            for job in jobs {
                if self.compact(&mut lake, &job).await? == Outcome::Merged {
                    done.commits += 1;
                    done.files += job.inputs.len();
                    done.bytes += job.bytes();
                }
            }
        }
    }

    /// Does a job. Files that cannot be merged are left alone from then on.
    async fn compact(&mut self, lake: &mut Lake, job: &Job) -> Result<Outcome, RecorderError> {
        // Another compactor may have been here since the jobs were listed.
        lake.refresh().await?;
        if !are_live(lake, job) {
            return Ok(Outcome::Gone);
        }
        let merged = match self.merge(job).await? {
            Ok(merged) => merged,
            Err(Unmerged::Unsorted(path)) => {
                let file = job.inputs.iter().find(|file| file.path == path);
                if file.is_some_and(|file| file.bytes <= SORTED_IN_MEMORY) && !self.unsorted.contains(&path) {
                    self.unsorted.insert(path);
                } else {
                    self.leave_alone(path, "its rows are not sorted, and too many to sort them in memory");
                }
                return Ok(Outcome::Gone);
            }
            Err(Unmerged::Stopped) => return Ok(Outcome::Gone),
            Err(Unmerged::Lake(err)) => match err {
                LakeError::Missing { ref path, .. } | LakeError::Damaged { ref path, .. }
                    if lake.state().file(path).is_some() =>
                {
                    // Unless somebody else has just replaced and deleted it.
                    lake.refresh().await?;
                    if lake.state().file(path).is_some() {
                        self.leave_alone(path.clone(), &err.to_string());
                    }
                    return Ok(Outcome::Gone);
                }
                err => return Err(err.into()),
            },
        };
        self.commit(lake, job, merged).await
    }

    fn leave_alone(&mut self, path: String, why: &str) {
        tracing::error!(file = %path, why, "file_left_alone");
        add(&self.metrics.damaged_files_total, 1);
        self.left_alone.insert(path, why.to_owned());
    }

    /// Merges the files of a job into a new file in the lake.
    async fn merge(&mut self, job: &Job) -> Result<Result<Merged, Unmerged>, RecorderError> {
        let scratch = self.store.scratch()?;
        let mut sources = Vec::new();
        for file in &job.inputs {
            match Source::open(&self.store, file, &scratch).await {
                Ok(source) => sources.push((source, self.unsorted.contains(&file.path))),
                Err(err) => return Ok(Err(err.into())),
            }
        }
        let (table, stop) = (job.table, self.stop.clone());
        let merging = tokio::task::spawn_blocking(move || write_merged(table, sources, &scratch, &stop));
        let (file, entry) = match merging.await {
            Ok(Ok(merged)) => merged,
            Ok(Err(unmerged)) => return Ok(Err(unmerged)),
            Err(err) if err.is_panic() => {
                for file in &job.inputs {
                    let why = "decoding it, or one that it was to be merged with, fails as that of no writer's file";
                    self.leave_alone(file.path.clone(), why);
                }
                return Ok(Err(Unmerged::Stopped));
            }
            Err(err) => return Err(RecorderError::Task(err.to_string())),
        };
        if table != Table::Sessions && sums(job.inputs.iter().map(Arc::as_ref)) != sums([&entry].into_iter())
        {
            for file in &job.inputs {
                let why =
                    "its rows, or those of a file that it was to be merged with, are not those of its commit";
                self.leave_alone(file.path.clone(), why);
            }
            return Ok(Err(Unmerged::Stopped));
        }
        Ok(Ok(Merged { file, entry }))
    }

    /// Puts a file into the folder of a job, under a name that no other one has; gives its path.
    async fn put(&mut self, lake: &Lake, job: &Job, file: &Scratch) -> Result<String, RecorderError> {
        let stream = StreamName::compaction();
        let position = lake.state().stream(&stream, 0).map_or(0, |(_, stream)| stream.position);
        let mut path = String::new();
        for _ in 0..NAMES {
            self.n += 1;
            let name =
                FileName { stream: &stream, generation: 0, from: position, n: self.n, writer: self.writer };
            path = format!("{}/{name}", job.folder);
            if !layout::belongs(job.table, &path) {
                let name = job.folder.clone();
                return Err(LakeError::BadName { what: "folder", name, rule: "not a table's" }.into());
            }
            // A name that is taken is that of a put whose answer was lost, or of chance.
            if self.store.put_new_file(&path, file.path()).await? == Put::New {
                return Ok(path);
            }
        }
        Err(LakeError::Exists { path }.into())
    }

    /// Commits a merged file in the place of its inputs, at the position where compaction stands, whoever moves it. The
    /// file is named after that position and committed there or nowhere: once the position is taken, nothing can come to
    /// name the file, and it may be collected.
    async fn commit(&mut self, lake: &mut Lake, job: &Job, merged: Merged) -> Result<Outcome, RecorderError> {
        let replaces: Vec<_> = job.inputs.iter().map(|file| file.path.clone()).collect();
        loop {
            // This first: it reads what was committed since when another one lists the stream.
            let index = lake.add_stream(&StreamName::compaction(), 0, 0).await?;
            if !are_live(lake, job) {
                return Ok(Outcome::Gone);
            }
            let position = lake.state().streams.get(index).map_or(0, |s| s.position);
            self.delete_replaced(lake).await?;
            let deleted_to = replaced(lake.state(), Duration::ZERO)
                .filter(|replaced| !self.deleted.contains(&replaced.tombstone.path))
                .map(|replaced| replaced.tombstone.replaced_by);
            let deleted_to = deleted_to.min().unwrap_or(position);
            let path = self.put(lake, job, &merged.file).await?;
            let files = vec![FileEntry { path: path.clone(), ..merged.entry.clone() }];
            let commit = commit_of_compaction(position, deleted_to, files, replaces.clone());
            match lake.commit(commit, &self.key).await {
                Ok(()) => break,
                Err(LakeError::CommitConflict { .. }) => {
                    lake.refresh().await?;
                    // An answer that was lost: the commit that is in the way is this one.
                    let tombstones = &lake.state().tombstones;
                    if lake.state().file(&path).is_some() || tombstones.iter().any(|t| t.path == path) {
                        break;
                    }
                    lake.store().delete(&path).await?;
                }
                // It may be there all the same; when it is not, the file is an orphan.
                Err(err) => return Err(err.into()),
            }
        }
        add(&self.metrics.compactions_total, 1);
        add(&self.metrics.compacted_files_total, replaces.len() as u64);
        Ok(Outcome::Merged)
    }

    /// Deletes replaced files that no reader needs any more.
    async fn delete_replaced(&mut self, lake: &Lake) -> Result<(), RecorderError> {
        let now = now_ns();
        let mut gone = HashSet::new();
        for file in replaced(lake.state(), self.grace).filter(|file| file.due_ns <= now) {
            let path = file.tombstone.path;
            if !self.deleted.contains(&path) && lake.store().exists(&path).await? {
                lake.store().delete(&path).await?;
                add(&self.metrics.deleted_files_total, 1);
            }
            gone.insert(path);
        }
        self.deleted = gone;
        Ok(())
    }
}

/// A commit of compaction, to be signed.
pub(crate) fn commit_of_compaction(
    position: u64,
    deleted_to: u64,
    files: Vec<FileEntry>,
    replaces: Vec<String>,
) -> Commit {
    Commit {
        version: VERSION,
        stream: StreamName::compaction(),
        generation: 0,
        from: position,
        to: position + 1,
        created_ns: now_ns(),
        previous: None,
        files,
        replaces,
        deleted_to,
        sessions: Vec::new(),
        ledger: None,
        duplicates: 0,
        recorder: Digest::ZERO,
        signature: Signature::NONE,
    }
}

/// Whether every file of a job is part of the lake.
fn are_live(lake: &Lake, job: &Job) -> bool {
    job.inputs.iter().all(|file| lake.state().file(&file.path).is_some())
}

/// Rows and the sum of their hashes; none when a file does not state it.
fn sums<'a>(files: impl Iterator<Item = &'a FileEntry>) -> Option<(u64, RowSum)> {
    files.into_iter().try_fold((0, RowSum::default()), |(rows, mut sum), file| {
        sum.add(file.row_sum?);
        Some((rows + file.rows, sum))
    })
}

/// Merges sources into a scratch file.
fn write_merged(
    table: Table,
    sources: Vec<(Source, bool)>,
    scratch: &std::path::Path,
    stop: &AtomicBool,
) -> Result<(Scratch, FileEntry), Unmerged> {
    let mut inputs = Vec::new();
    for (source, unsorted) in sources {
        let rows = source.rows()?;
        inputs.push(if unsorted { merge::sorted(table, rows)? } else { rows });
    }
    let (scratch, file) = Scratch::create(scratch)?;
    let out = std::io::BufWriter::with_capacity(1 << 20, file);
    let (out, entry) = merge::merge(table, inputs, out, stop)?;
    out.into_inner().map_err(|err| source::failed("write", "a merged file", err.error()))?;
    Ok((scratch, entry))
}

/// Chance bits.
fn chance() -> u64 {
    std::hash::RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests;
