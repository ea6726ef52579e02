//! Files, then keys and names, then the commit, then the release: in this order, each durable before the next.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use bodycam_lake::commit::{Signature, VERSION};
use bodycam_lake::layout::{self, FileName};
use bodycam_lake::store::Put;
use bodycam_lake::{Commit, FileEntry, Lake, LakeError, StreamName};
use bodycam_record::{Digest, EpochKey};
use bytes::Bytes;
use futures::{StreamExt, stream};
use tokio::task::JoinSet;

use crate::error::RecorderError;
use crate::ingest::{Ingest, Staged};
use crate::metrics::{Metrics, add, set};
use crate::tables::Files;

/// Keys and names written at once: each waits for the disk.
const KEYS_AT_ONCE: usize = 16;
/// Data files of a commit that are written at once: each waits for the store.
const FILES_AT_ONCE: usize = 8;

/// Makes commits.
pub struct Committer {
    /// The key that signs.
    pub key: Arc<EpochKey>,
    /// Chance bits in file names: a file that a killed recorder left behind is never written over.
    pub writer: u32,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

impl Committer {
    /// Commits the positions `[from, to)` of a stream with everything staged from them.
    pub async fn commit(
        &self,
        lake: &mut Lake,
        ingest: &mut Ingest,
        stream: (&StreamName, u64),
        (from, to): (u64, u64),
        mut staged: Staged,
    ) -> Result<(), RecorderError> {
        self.put_keys(lake, &mut staged).await?;
        let counted = count(&staged);
        let templates: Vec<_> = staged.templates.iter().map(|(fingerprint, _)| *fingerprint).collect();
        let mut written = Vec::new();
        let result = self.write(lake, ingest, stream, (from, to), &mut staged, &mut written).await;
        if let Err(err) = result {
            self.discard(lake, &layout::commit(stream.0, stream.1, from), &err, &written).await;
            return Err(err);
        }
        ingest.committed(stream.0, &staged.sessions, templates);
        let (events, ledger_records, chunks) = counted;
        add(&self.metrics.events_total, events);
        add(&self.metrics.ledger_records_total, ledger_records);
        add(&self.metrics.chunks_total, chunks);
        add(&self.metrics.duplicates_total, staged.duplicates);
        add(&self.metrics.findings_total, staged.findings.len() as u64);
        add(&self.metrics.commits_total, 1);
        set(&self.metrics.last_commit_seconds, u64::try_from(now_ns() / 1_000_000_000).unwrap_or(0));
        set(&self.metrics.open_sessions, ingest.sessions.len() as u64);
        Ok(())
    }

    /// Writes the files and the commit; `written` gets the path of every file that may be there afterwards.
    async fn write(
        &self,
        lake: &mut Lake,
        ingest: &Ingest,
        (name, generation): (&StreamName, u64),
        (from, to): (u64, u64),
        staged: &mut Staged,
        written: &mut Vec<String>,
    ) -> Result<(), RecorderError> {
        let place = |n| FileName { stream: name, generation, from, n, writer: self.writer };
        let files = self.put_files(lake, Files::of(staged, &ingest.sessions), place, written).await?;
        let commit = Commit {
            version: VERSION,
            stream: name.clone(),
            generation,
            from,
            to,
            created_ns: now_ns(),
            previous: None,
            files,
            replaces: Vec::new(),
            deleted_to: 0,
            sessions: staged.sessions.iter().filter_map(|id| ingest.sessions.state(*id)).collect(),
            ledger: staged.ledger_state.take(),
            duplicates: staged.duplicates,
            recorder: Digest::ZERO,
            signature: Signature::NONE,
        };
        let committed = lake.commit(commit, &self.key).await;
        // On an object store a commit whose answer was lost may still be on its way: its files stay, and are orphans
        // once the name is another's.
        if lake.store().directory().is_none()
            && matches!(&committed, Err(err) if !matches!(err, LakeError::CommitConflict { .. }))
        {
            written.clear();
        }
        Ok(committed?)
    }

    /// Writes data files while others are encoded. Returns when none is being written any more, failed or not: what is
    /// deleted then stays deleted.
    async fn put_files<'a>(
        &self,
        lake: &Lake,
        mut encoded: Files,
        name: impl Fn(usize) -> FileName<'a>,
        written: &mut Vec<String>,
    ) -> Result<Vec<FileEntry>, RecorderError> {
        let (mut files, mut puts) = (Vec::new(), JoinSet::new());
        // The first failure is the one that is told.
        let mut result: Result<(), RecorderError> = Ok(());
        loop {
            let next = match &result {
                Ok(()) => encoded.next().await,
                Err(_) => Ok(None),
            };
            let file = next.unwrap_or_else(|err| {
                result = Err(err);
                None
            });
            let last = file.is_none();
            if let Some((hour, file)) = file {
                let path = layout::data_file(file.entry.table.0, hour, name(files.len()));
                written.push(path.clone());
                files.push(FileEntry { path: path.clone(), ..file.entry });
                let (store, bytes) = (lake.store().clone(), file.bytes);
                puts.spawn(async move {
                    let length = bytes.len() as u64;
                    (store.put_new(&path, bytes).await, path, length)
                });
            }
            while puts.len() >= FILES_AT_ONCE || last && !puts.is_empty() {
                let Some(put) = puts.join_next().await else { break };
                let (put, path, bytes) = put.map_err(|err| RecorderError::Task(err.to_string()))?;
                match put {
                    Ok(Put::New) => {
                        add(&self.metrics.files_total, 1);
                        add(&self.metrics.bytes_total, bytes);
                    }
                    Ok(Put::Exists) => {
                        written.retain(|other| *other != path);
                        result = result.and(Err(LakeError::Exists { path }.into()));
                    }
                    Err(err) => result = result.and(Err(err.into())),
                }
            }
            if last {
                return result.map(|()| files);
            }
        }
    }

    /// Deletes the files of an attempt that failed: on a full disk they would be written again and again. Left
    /// alone when the commit may be there all the same, as after an error that came when it had its name, or may still
    /// come to be, as when the store gave no answer.
    async fn discard(&self, lake: &Lake, commit: &str, err: &RecorderError, written: &[String]) {
        if matches!(err, RecorderError::Lake(LakeError::Unanswered { .. })) {
            return;
        }
        let foreign = matches!(err, RecorderError::Lake(LakeError::CommitConflict { .. }));
        if !foreign && !matches!(lake.store().exists(commit).await, Ok(false)) {
            return;
        }
        for path in written {
            if let Err(err) = lake.store().delete(path).await {
                tracing::warn!(file = %path, error = %err, "file_of_failed_attempt_not_deleted");
            }
        }
    }

    /// Writes keys and names, which never change. One that is there with other content stays as it is.
    async fn put_keys(&self, lake: &Lake, staged: &mut Staged) -> Result<(), RecorderError> {
        let keys = std::mem::take(&mut staged.keys).into_iter();
        let keys = keys.map(|(id, wrapped)| (Some(id), layout::session_key(id), wrapped));
        let names = std::mem::take(&mut staged.names).into_iter();
        let names = names.map(|(id, wrapped)| (None, layout::directory_entry(id), wrapped));
        let store = lake.store();
        let puts = keys.chain(names).map(|(session, path, wrapped)| async move {
            (session, store.put_once(&path, Bytes::from(wrapped)).await)
        });
        let mut puts = stream::iter(puts).buffer_unordered(KEYS_AT_ONCE);
        while let Some((session, put)) = puts.next().await {
            match put {
                Ok(_) => {}
                Err(LakeError::Exists { path }) => {
                    let what = "it came again with other content; the first is kept";
                    staged.findings.key(session, &path, now_ns(), what);
                }
                Err(err) => return Err(err.into()),
            }
        }
        Ok(())
    }
}

fn count(staged: &Staged) -> (u64, u64, u64) {
    let events: usize = staged.events.values().map(Vec::len).sum();
    let ledger: usize = staged.ledger.values().map(Vec::len).sum();
    let chunks: usize = staged.chunks.values().map(Vec::len).sum();
    (events as u64, ledger as u64, chunks as u64)
}

/// Wall time, Unix ns.
pub fn now_ns() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}
