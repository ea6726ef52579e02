//! Small files → few: merged inside their hour and table, losslessly, under commits of their own.
//!
//! Invariant: the rows of the inputs are exactly the rows of the outputs (their sums are checked before the
//! commit, by every reader of it, and by the verifier); inputs that are not what their commit says are left
//! alone, so that compaction never hides an alteration.
//!
//! How many files an hour keeps in a table, once it is quiet: at most three up to 192 MiB, and above that one
//! for each 48 to 64 MiB (`LARGE`, `AT_ONCE`): a merge holds its rows in memory, and larger files help no reader.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use arrow::array::{RecordBatch, new_null_array};
use arrow::compute::{SortColumn, SortOptions, concat_batches, lexsort_to_indices, take_record_batch};
use bodycam_lake::columns::sessions;
use bodycam_lake::commit::{Signature, VERSION};
use bodycam_lake::file::{self, EncodedFile, FileWriter};
use bodycam_lake::layout::{self, FileName};
use bodycam_lake::{Commit, FileEntry, Lake, LakeError, Store, StreamName, Table};
use bodycam_record::{Digest, EpochKey};
use bytes::Bytes;
use tokio::sync::watch;

use crate::commit::now_ns;
use crate::config::RecorderConfig;
use crate::error::RecorderError;
use crate::metrics::{Metrics, add};

/// Files of this size and above are left as they are.
const LARGE: u64 = 48 << 20;
/// Most bytes that are merged at once: bounds the memory.
const AT_ONCE: u64 = 64 << 20;
/// So many files of like size are merged even while more arrive.
const FAN_IN: usize = 8;

/// Age from which a file that no commit names counts as left behind by a killed writer.
const LEFTOVER_AGE: Duration = Duration::from_secs(24 * 3600);

/// Merges small files.
pub struct Compactor {
    store: Store,
    key: Arc<EpochKey>,
    every: Duration,
    grace: Duration,
    metrics: Arc<Metrics>,
    /// The lake as the last turn left it.
    lake: Option<Lake>,
    /// When each folder was last seen to change, and the number of small files in it then.
    quiet: HashMap<String, (usize, Instant)>,
    /// Files that are not what their commit says.
    damaged: Vec<String>,
    n: usize,
}

/// Files to be merged into one.
#[derive(Debug)]
struct Job {
    table: Table,
    /// Folder of the inputs and of the output.
    folder: String,
    inputs: Vec<Arc<FileEntry>>,
}

impl Compactor {
    /// A compactor of the lake in `store`.
    pub fn new(store: Store, key: Arc<EpochKey>, config: &RecorderConfig, metrics: Arc<Metrics>) -> Self {
        Self {
            store,
            key,
            every: Duration::from_secs(config.compact_seconds),
            grace: Duration::from_secs(config.compact_grace_seconds),
            metrics,
            lake: None,
            quiet: HashMap::new(),
            damaged: Vec::new(),
            n: 0,
        }
    }

    /// Deletes data files that no commit ever named: what killed writers left behind. Gives their number.
    pub async fn collect_leftovers(&self, older_than: Duration) -> Result<u64, RecorderError> {
        self.store.sweep(older_than).await?;
        let before = now_ns().saturating_sub(i64::try_from(older_than.as_nanos()).unwrap_or(i64::MAX));
        let mut found = Vec::new();
        // Findings are left out: those of rules are named by window records, not by commits.
        for folder in ["tables", "content", "sessions", "templates"] {
            found.extend(self.store.written_before(folder, before).await?);
        }
        // Read after the listing: a file that was committed meanwhile is named by it.
        let lake = self.open().await?;
        let state = lake.state();
        found.retain(|path| state.file(path).is_none() && !state.tombstones.iter().any(|t| t.path == *path));
        for path in &found {
            self.store.delete(path).await?;
            tracing::info!(file = %path, "leftover_deleted");
        }
        Ok(found.len() as u64)
    }

    async fn open(&self) -> Result<Lake, RecorderError> {
        Ok(Lake::open_as(self.store.clone(), self.key.public()).await?)
    }

    /// Compacts until `stop` is true. A failure is logged and tried again at the next turn: nothing waits for
    /// compaction.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) {
        if self.every.is_zero() {
            return;
        }
        let mut collected: Option<Instant> = None;
        loop {
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return,
                () = tokio::time::sleep(self.every) => {}
            }
            if collected.is_none_or(|at| at.elapsed() >= LEFTOVER_AGE) {
                collected = Some(Instant::now());
                if let Err(err) = self.collect_leftovers(LEFTOVER_AGE).await {
                    tracing::warn!(error = %err, "leftovers_not_collected");
                }
            }
            if let Err(err) = self.turn().await {
                tracing::warn!(error = %err, "compaction_failed");
            }
        }
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
        for job in self.jobs(&lake, false) {
            self.try_merge(&mut lake, job).await?;
        }
        self.delete_replaced(&lake).await?;
        self.lake = Some(lake);
        Ok(())
    }

    /// Merges everything that can be merged, as if every folder were quiet; gives the number of commits.
    pub async fn compact_all(&mut self) -> Result<usize, RecorderError> {
        let mut lake = self.open().await?;
        let mut commits = 0;
        loop {
            let jobs = self.jobs(&lake, true);
            if jobs.is_empty() {
                self.delete_replaced(&lake).await?;
                return Ok(commits);
            }
            for job in jobs {
                commits += usize::from(self.try_merge(&mut lake, job).await?);
            }
        }
    }

    fn jobs(&mut self, lake: &Lake, all: bool) -> Vec<Job> {
        let mut folders: BTreeMap<(Table, String), Vec<Arc<FileEntry>>> = BTreeMap::new();
        for file in lake.state().all_files().filter(|f| f.bytes < LARGE && !self.damaged.contains(&f.path)) {
            let folder = file.path.rsplit_once('/').map_or("", |(folder, _)| folder);
            folders.entry((file.table.0, folder.to_owned())).or_default().push(file.clone());
        }
        let mut jobs = Vec::new();
        for ((table, folder), mut files) in folders {
            let seen = self.quiet.entry(folder.clone()).or_insert((0, Instant::now()));
            if seen.0 != files.len() {
                *seen = (files.len(), Instant::now());
            }
            files.sort_by_key(|f| f.bytes);
            let is_quiet = all || seen.1.elapsed() >= self.every;
            let groups = if is_quiet { vec![files] } else { by_size(files) };
            for group in groups {
                let least = if is_quiet { 2 } else { FAN_IN };
                for inputs in bounded(group) {
                    if inputs.len() >= least {
                        jobs.push(Job { table, folder: folder.clone(), inputs });
                    }
                }
            }
        }
        jobs
    }

    /// Merges a job's files; one that is missing or damaged is left alone from then on.
    async fn try_merge(&mut self, lake: &mut Lake, job: Job) -> Result<bool, RecorderError> {
        match self.merge(lake, job).await {
            Err(RecorderError::Lake(
                ref err @ (LakeError::Missing { ref path, .. } | LakeError::Damaged { ref path, .. }),
            )) => {
                tracing::error!(file = %path, error = %err, "file_left_alone");
                add(&self.metrics.damaged_files_total, 1);
                self.damaged.push(path.clone());
                Ok(false)
            }
            done => done.map(|()| true),
        }
    }

    async fn merge(&mut self, lake: &mut Lake, job: Job) -> Result<(), RecorderError> {
        let mut inputs = Vec::new();
        for file in &job.inputs {
            let bytes = lake.store().need(&file.path, "a commit").await?;
            if file::sha256(&bytes) != file.sha256 {
                let reason = "its SHA-256 is not the one in its commit".to_owned();
                return Err(LakeError::Damaged { path: file.path.clone(), reason }.into());
            }
            inputs.push((file.path.clone(), bytes));
        }
        let replaces: Vec<_> = inputs.iter().map(|(path, _)| path.clone()).collect();
        let table = job.table;
        let merged = tokio::task::spawn_blocking(move || merge(table, inputs)).await;
        let merged = merged.map_err(|err| RecorderError::Task(err.to_string()))??;
        let stream = StreamName::compaction();
        let index = lake.add_stream(&stream, 0, 0).await?;
        let position = lake.state().streams.get(index).map_or(0, |s| s.position);
        self.n += 1;
        let writer = u32::from_le_bytes(take4(merged.entry.sha256));
        let name = FileName { stream: &stream, generation: 0, from: position, n: self.n, writer };
        let path = format!("{}/{name}", job.folder);
        if !layout::belongs(table, &path) {
            return Err(LakeError::BadName { what: "folder", name: job.folder, rule: "not a table's" }.into());
        }
        // The name holds a part of the digest: what a killed compactor left under it is this very file.
        lake.store().put_once(&path, merged.bytes).await?;
        let replaced = replaces.len() as u64;
        let grace = i64::try_from(self.grace.as_nanos()).unwrap_or(i64::MAX);
        let now = now_ns();
        let waiting = lake.state().tombstones.iter().filter(|t| t.replaced_ns.saturating_add(grace) > now);
        let commit = Commit {
            version: VERSION,
            stream,
            generation: 0,
            from: position,
            to: position + 1,
            created_ns: now,
            previous: None,
            files: vec![FileEntry { path, ..merged.entry }],
            replaces,
            // What has outlived its grace was deleted at the end of an earlier turn, or is deleted now.
            deleted_to: waiting.map(|t| t.replaced_by).min().unwrap_or(position),
            sessions: Vec::new(),
            ledger: None,
            duplicates: 0,
            recorder: Digest::ZERO,
            signature: Signature::NONE,
        };
        self.delete_replaced(lake).await?;
        lake.commit(commit, &self.key).await?;
        add(&self.metrics.compactions_total, 1);
        add(&self.metrics.compacted_files_total, replaced);
        Ok(())
    }

    /// Deletes replaced files that no reader needs any more.
    async fn delete_replaced(&self, lake: &Lake) -> Result<(), RecorderError> {
        let grace = i64::try_from(self.grace.as_nanos()).unwrap_or(i64::MAX);
        let now = now_ns();
        for tombstone in &lake.state().tombstones {
            if tombstone.replaced_ns.saturating_add(grace) <= now
                && lake.store().exists(&tombstone.path).await?
            {
                lake.store().delete(&tombstone.path).await?;
                self.metrics.deleted_files_total.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(())
    }
}

/// Groups of files of like size: each group spans a factor of eight.
fn by_size(files: Vec<Arc<FileEntry>>) -> Vec<Vec<Arc<FileEntry>>> {
    let mut groups: BTreeMap<u32, Vec<_>> = BTreeMap::new();
    for file in files {
        groups.entry(file.bytes.max(1).ilog2() / 3).or_default().push(file);
    }
    groups.into_values().collect()
}

/// Runs of files, each small enough to be merged at once.
fn bounded(files: Vec<Arc<FileEntry>>) -> Vec<Vec<Arc<FileEntry>>> {
    let mut runs: Vec<Vec<_>> = Vec::new();
    let mut bytes = 0;
    for file in files {
        if runs.is_empty() || bytes + file.bytes > AT_ONCE {
            runs.push(Vec::new());
            bytes = 0;
        }
        bytes += file.bytes;
        if let Some(run) = runs.last_mut() {
            run.push(file);
        }
    }
    runs
}

/// One file with the rows of all inputs. In the table of sessions superseded revisions are left out.
fn merge(table: Table, inputs: Vec<(String, Bytes)>) -> Result<EncodedFile, LakeError> {
    let failed =
        |err: arrow::error::ArrowError| LakeError::Columns { table: table.name(), reason: err.to_string() };
    let schema = table.schema();
    let mut batches = Vec::new();
    for (path, bytes) in inputs {
        for batch in file::batches(&path, bytes, 64 * 1024)? {
            let batch =
                batch.map_err(|err| LakeError::Damaged { path: path.clone(), reason: err.to_string() })?;
            batches.push(in_schema(table, &path, &batch)?);
        }
    }
    let mut all = concat_batches(&schema, &batches).map_err(failed)?;
    if table == Table::Sessions {
        all = sessions::encode(&sessions::newest(sessions::decode(&all)?))?;
    }
    let keys: Vec<_> = table
        .sorted_by()
        .iter()
        .filter_map(|name| all.column_by_name(name))
        .map(|column| SortColumn {
            values: column.clone(),
            options: Some(SortOptions { descending: false, nulls_first: false }),
        })
        .collect();
    let order = lexsort_to_indices(&keys, None).map_err(failed)?;
    let mut writer = FileWriter::new(table)?;
    for from in (0..order.len()).step_by(file::ROW_GROUP_ROWS) {
        let part = order.slice(from, file::ROW_GROUP_ROWS.min(order.len() - from));
        writer.write(&take_record_batch(&all, &part).map_err(failed)?)?;
    }
    writer.finish()
}

/// `batch` with the columns of today's table: those that its file did not have yet are null. A file with
/// columns that this build does not know is refused.
fn in_schema(table: Table, path: &str, batch: &RecordBatch) -> Result<RecordBatch, LakeError> {
    let schema = table.schema();
    let unknown = batch.schema_ref().fields().iter().find(|f| schema.index_of(f.name()).is_err());
    if let Some(field) = unknown {
        let reason = format!("column {} is not known to this build", bodycam_record::shown(field.name()));
        return Err(LakeError::Damaged { path: path.to_owned(), reason });
    }
    let columns = schema.fields().iter().map(|field| match batch.column_by_name(field.name()) {
        Some(column) => column.clone(),
        None => new_null_array(field.data_type(), batch.num_rows()),
    });
    RecordBatch::try_new(schema.clone(), columns.collect())
        .map_err(|err| LakeError::Damaged { path: path.to_owned(), reason: err.to_string() })
}

fn take4(digest: Digest) -> [u8; 4] {
    let [a, b, c, d, ..] = digest.0;
    [a, b, c, d]
}

#[cfg(test)]
mod tests;
