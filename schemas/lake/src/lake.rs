//! A lake, opened: the fold of its commits, kept up to date by asking for each stream's next commit by name.
//!
//! Invariant: no listing says what a lake holds. A reader that starts anew begins at the newest snapshot and walks on,
//! and without a good one at the first commit; then, once, it looks what lies beyond the end of each stream, for a commit
//! that is not reached because one before it is missing. A writer's commit is put if absent, and only then becomes part
//! of its own state.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use bodycam_record::{Digest, EpochKey, Id16};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};

use crate::commit::{Commit, StreamEntry, VERSION, check_size, check_version};
use crate::error::LakeError;
use crate::layout::{self, StreamName};
use crate::state::{LakeState, Snapshot};
use crate::store::{Put, Store};

mod recent;

use recent::Moved;

/// Objects that are asked for at once.
const ASKED_AT_ONCE: usize = 32;
/// Snapshots that are kept beside the newest.
const SNAPSHOTS_KEPT: u64 = 10;

/// A lake and where it stands, as far as it has been read.
#[derive(Debug, Clone)]
pub struct Lake {
    store: Store,
    state: Arc<LakeState>,
    /// Number of the next snapshot.
    next_snapshot: u64,
    /// Commits folded when the last snapshot was written or read.
    snapshot_at: u64,
    moved: Moved,
}

/// A lake as of one moment: cheap to clone, never changes.
#[derive(Debug, Clone)]
pub struct View {
    pub(crate) store: Store,
    pub(crate) state: Arc<LakeState>,
}

/// A numbered object that lies behind the last one that was read.
struct Beyond {
    folder: String,
    next: u64,
    later: u64,
}

/// The hint that says which snapshot is the newest. Only a hint: a reader walks on from it.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Hint {
    version: i64,
    n: u64,
}

impl Lake {
    /// Reads the newest snapshot and every commit after it; every commit from the first on when there is no
    /// snapshot, when it cannot be read, or when its key signed none of the commits that it stands on. Whether it
    /// says what the commits say is for the verifier to find out. A commit that is missing before a later one is an
    /// error: what comes after it would be left out in silence.
    pub async fn open(store: Store) -> Result<Self, LakeError> {
        let mut lake = Self::open_with(store, None).await?;
        lake.miss_nothing().await?;
        Ok(lake)
    }

    /// As [`Lake::open`], for readers of what was recorded: a place without a lake is an error.
    pub async fn open_recorded(store: Store) -> Result<Self, LakeError> {
        let lake = Self::open(store).await?;
        lake.expect_recorded().await?;
        Ok(lake)
    }

    /// Refuses a place without a list of streams, unless a recorder is about to make it there.
    pub async fn expect_recorded(&self) -> Result<(), LakeError> {
        let is_young = || async {
            let locked = self.store.directory().is_some_and(|d| d.join(layout::RECORDER_LOCK).is_file());
            Ok::<_, LakeError>(locked && self.store.names("commits").await?.is_empty())
        };
        if self.store.exists(&layout::stream(0)).await? || is_young().await? {
            return Ok(());
        }
        Err(LakeError::NoLake { store: self.store.name().to_owned() })
    }

    /// Looks beyond the end of the list of streams and of every stream: nothing may be there, unless it was written
    /// since.
    pub async fn miss_nothing(&mut self) -> Result<(), LakeError> {
        // The list of streams first; its entries are numbered as commits are.
        while let Some(later) = self.beyond("streams".to_owned(), self.state.streams.len() as u64).await? {
            self.reach(later).await?;
        }
        loop {
            let ends =
                self.state.streams.iter().map(|s| (layout::commits(&s.stream, s.generation), s.position));
            let looks: Vec<_> = ends.map(|(folder, next)| self.beyond(folder, next)).collect();
            let found: Vec<_> = stream::iter(looks).buffer_unordered(ASKED_AT_ONCE).try_collect().await?;
            let Some(later) = found.into_iter().flatten().next() else { return Ok(()) };
            self.reach(later).await?;
        }
    }

    /// What lies in a folder of numbered objects at or behind the one that would be `next`.
    async fn beyond(&self, folder: String, next: u64) -> Result<Option<Beyond>, LakeError> {
        let names = self.store.names_near(&folder, next).await?;
        let numbers = names.iter().filter_map(|name| name.strip_suffix(".json")?.parse::<u64>().ok());
        Ok(numbers.filter(|n| *n >= next).min().map(|later| Beyond { folder, next, later }))
    }

    /// Folds what was written since; an error when what comes next is missing.
    async fn reach(&mut self, beyond: Beyond) -> Result<(), LakeError> {
        let Beyond { folder, next, later } = beyond;
        let path = format!("{folder}/{next}.json");
        // Each is written after the one before it, so whoever sees a later one can read this one.
        if self.store.exists(&path).await? {
            return self.refresh().await.map(drop);
        }
        Err(LakeError::Missing { path, named_by: format!("a later one ({folder}/{later}.json)") })
    }

    /// For the one who signs with `key`: begins at the newest snapshot that this key signed, and at the first commit
    /// when there is none. A writer of the record builds on nobody's word but its own.
    pub async fn open_as(store: Store, key: Digest) -> Result<Self, LakeError> {
        Self::open_by(store, &[key].into()).await
    }

    /// As [`Lake::open_as`], for a writer that builds on the word of others, too: the recorders of its group.
    pub async fn open_by(store: Store, keys: &BTreeSet<Digest>) -> Result<Self, LakeError> {
        Self::open_with(store, Some(keys)).await
    }

    /// Reads every commit from the first on, without any snapshot.
    pub async fn open_from_commits(store: Store) -> Result<Self, LakeError> {
        let mut lake = Self::empty(store);
        lake.refresh().await?;
        Ok(lake)
    }

    async fn open_with(store: Store, keys: Option<&BTreeSet<Digest>>) -> Result<Self, LakeError> {
        let Some(newest) = newest_snapshot(&store).await? else {
            return Self::open_from_commits(store).await;
        };
        let next_snapshot = newest.n.saturating_add(1);
        let trusted = match keys {
            Some(keys) => newest_by(&store, newest, keys).await,
            None => stands_on_commits(&store, &newest).await.then_some(newest),
        };
        if let Some(snapshot) = trusted {
            let snapshot_at = snapshot.commits;
            let state = Arc::new(snapshot.into_state());
            let mut lake =
                Self { store: store.clone(), state, next_snapshot, snapshot_at, moved: Moved::default() };
            // A commit that does not follow on the snapshot may follow on the commits.
            if lake.refresh().await.is_ok() {
                return Ok(lake);
            }
        }
        Ok(Self { next_snapshot, ..Self::open_from_commits(store).await? })
    }

    fn empty(store: Store) -> Self {
        Self { store, state: Arc::default(), next_snapshot: 0, snapshot_at: 0, moved: Moved::default() }
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Where the lake stands.
    pub fn state(&self) -> &LakeState {
        &self.state
    }

    /// The lake as of now.
    pub fn view(&self) -> View {
        View { store: self.store.clone(), state: self.state.clone() }
    }

    /// Folds what was committed since; gives the number of new commits.
    pub async fn refresh(&mut self) -> Result<u64, LakeError> {
        let (before, started) = (self.state.commits, Instant::now());
        // A compaction commit can be met before the commits of the files that it replaces: it waits for them. Those were
        // there when it was met, perhaps of a stream that was listed or walked before; only when a whole round from then
        // on moves nothing is it an error.
        let mut waited = false;
        loop {
            let at = self.state.commits;
            self.list_streams().await?;
            let everything = (0..self.state.streams.len()).collect();
            let Some(index) = self.walk(everything).await? else {
                self.moved.swept = Some(started);
                return Ok(self.state.commits - before);
            };
            let moved = self.state.commits > at;
            if !moved
                && waited
                && let Some((_, commit)) = self.next(index).await?
            {
                Arc::make_mut(&mut self.state).apply(index, &commit)?;
            }
            waited = !moved;
        }
    }

    /// Adds the streams that were listed since.
    async fn list_streams(&mut self) -> Result<(), LakeError> {
        loop {
            let n = self.state.streams.len() as u64;
            let path = layout::stream(n);
            let Some(bytes) = self.store.get(&path).await? else { return Ok(()) };
            Arc::make_mut(&mut self.state).add_stream(&path, StreamEntry::parse(&path, &bytes)?)?;
        }
    }

    /// Folds the next commits of streams, of many at once, until each has no more, or waits for a commit of another
    /// stream; gives one that waits.
    async fn walk(&mut self, mut moving: Vec<usize>) -> Result<Option<usize>, LakeError> {
        let mut waits = None;
        while !moving.is_empty() {
            let asked: Vec<_> = moving.drain(..).map(|index| self.next(index)).collect();
            let found: Vec<_> = stream::iter(asked).buffered(ASKED_AT_ONCE).try_collect().await?;
            for (index, commit) in found.into_iter().flatten() {
                if commit.replaces.iter().any(|path| self.state.file(path).is_none()) {
                    waits = Some(index);
                    continue;
                }
                Arc::make_mut(&mut self.state).apply(index, &commit)?;
                moving.push(index);
            }
        }
        Ok(waits)
    }

    /// The next commit of a stream, when it is there.
    async fn next(&self, index: usize) -> Result<Option<(usize, Commit)>, LakeError> {
        let Some(stream) = self.state.streams.get(index) else { return Ok(None) };
        let path = layout::commit(&stream.stream, stream.generation, stream.position);
        let bytes = self.store.get(&path).await?;
        bytes.map(|bytes| Ok((index, Commit::parse(&path, &bytes)?))).transpose()
    }

    /// Adds a stream to the list of streams; gives its index. One that is listed already stays as it is.
    pub async fn add_stream(
        &mut self,
        stream: &StreamName,
        generation: u64,
        from: u64,
    ) -> Result<usize, LakeError> {
        self.add_stream_of(stream, generation, from, None).await
    }

    /// As [`Lake::add_stream`], with what tells the stream from another one of the same name.
    pub async fn add_stream_of(
        &mut self,
        stream: &StreamName,
        generation: u64,
        from: u64,
        origin: Option<Id16>,
    ) -> Result<usize, LakeError> {
        loop {
            if let Some((index, _)) = self.state.stream(stream, generation) {
                return Ok(index);
            }
            let entry = StreamEntry { version: VERSION, stream: stream.clone(), generation, from, origin };
            let path = layout::stream(self.state.streams.len() as u64);
            match self.store.put_new(&path, entry.to_json().into()).await? {
                Put::New => Arc::make_mut(&mut self.state).add_stream(&path, entry)?,
                Put::Exists => drop(self.refresh().await?),
            }
        }
    }

    /// What told a stream from another one of the same name when it was added.
    pub async fn origin(&self, stream: &StreamName, generation: u64) -> Result<Option<Id16>, LakeError> {
        let Some((index, _)) = self.state.stream(stream, generation) else { return Ok(None) };
        let path = layout::stream(index as u64);
        match self.store.get(&path).await? {
            Some(bytes) => Ok(StreamEntry::parse(&path, &bytes)?.origin),
            None => Err(LakeError::NotFound { what: "stream", id: stream.to_string() }),
        }
    }

    /// Signs a commit and makes it part of the lake. Its files must be durable already. A commit of this name
    /// that is there already is a conflict: another writer was first.
    pub async fn commit(&mut self, mut commit: Commit, key: &EpochKey) -> Result<(), LakeError> {
        let path = commit.path();
        let Some((index, stream)) = self.state.stream(&commit.stream, commit.generation) else {
            return Err(LakeError::NotFound { what: "stream", id: commit.stream.to_string() });
        };
        if commit.from < stream.position {
            return Err(LakeError::CommitConflict { path });
        }
        commit.previous = stream.last;
        commit.sign(key);
        // What would not be read back must not be written.
        self.state.check(index, &commit)?;
        match self.store.put_new(&path, commit.to_json().into()).await? {
            Put::New => {
                self.moved.note(index, commit.to);
                Arc::make_mut(&mut self.state).apply(index, &commit)
            }
            Put::Exists => Err(LakeError::CommitConflict { path }),
        }
    }

    /// Writes a snapshot when at least `every` commits were folded since the last one.
    pub async fn snapshot(&mut self, every: u64, key: &EpochKey) -> Result<bool, LakeError> {
        if self.state.commits < self.snapshot_at + every {
            return Ok(false);
        }
        let snapshot = self.state.snapshot(self.next_snapshot, key);
        let n = snapshot.n;
        let written = self.store.put_new(&snapshot.path(), Bytes::from(snapshot.to_json())).await?;
        self.next_snapshot = n.saturating_add(1);
        if written == Put::Exists {
            return Ok(false);
        }
        self.snapshot_at = self.state.commits;
        let hint = serde_json::to_vec(&Hint { version: VERSION, n }).unwrap_or_default();
        self.store.put(layout::SNAPSHOT_HINT, hint.into()).await?;
        if let Some(old) = n.checked_sub(SNAPSHOTS_KEPT) {
            self.store.delete(&layout::snapshot(old)).await?;
        }
        Ok(true)
    }
}

/// The number of the newest snapshot that the hint leads to; none when there is none.
pub async fn newest_snapshot_number(store: &Store) -> Result<Option<u64>, LakeError> {
    Ok(newest_snapshot_object(store).await?.map(|(n, _)| n))
}

/// The newest snapshot that the hint leads to. A hint or snapshot that is missing or damaged is as none; a service that
/// does not answer is an error, or every commit would be asked for next.
async fn newest_snapshot(store: &Store) -> Result<Option<Snapshot>, LakeError> {
    let (n, bytes) = match newest_snapshot_object(store).await {
        Ok(Some(found)) => found,
        Ok(None) => return Ok(None),
        // On a disk it is this object that cannot be read.
        Err(_) if store.directory().is_some() => return Ok(None),
        Err(err) => return Err(err),
    };
    Ok(Snapshot::parse(&layout::snapshot(n), &bytes).ok().filter(|snapshot| snapshot.n == n))
}

async fn newest_snapshot_object(store: &Store) -> Result<Option<(u64, Bytes)>, LakeError> {
    let path = layout::SNAPSHOT_HINT;
    let Some(hint) = store.get(path).await? else { return Ok(None) };
    if check_size(path, &hint).is_err() || check_version(path, &hint).is_err() {
        return Ok(None);
    }
    let Ok(Hint { mut n, .. }) = serde_json::from_slice(&hint) else { return Ok(None) };
    let mut found = store.get(&layout::snapshot(n)).await?;
    if found.is_none() {
        // Written late, by one that was stopped after its snapshot: others may have written so many since that they
        // deleted it. Those are behind it.
        let Some(remaining) = snapshot_behind(store, n).await? else { return Ok(None) };
        n = remaining;
        found = store.get(&layout::snapshot(n)).await?;
    }
    let Some(mut bytes) = found else { return Ok(None) };
    // The hint is written after the snapshot: a newer one may be there already.
    while let Some(next) = n.checked_add(1)
        && let Some(newer) = store.get(&layout::snapshot(next)).await?
    {
        (n, bytes) = (next, newer);
    }
    Ok(Some((n, bytes)))
}

/// A snapshot with a higher number than `n`, the highest that a listing of bounded length shows.
async fn snapshot_behind(store: &Store, n: u64) -> Result<Option<u64>, LakeError> {
    let names = store.names_near(layout::SNAPSHOTS, n).await?;
    let numbers = names.iter().filter_map(|name| name.strip_suffix(".json")?.parse::<u64>().ok());
    Ok(numbers.filter(|number| *number > n).max())
}

/// The newest of the snapshots from `newest` back that one of these keys signed: in a group each recorder writes some.
async fn newest_by(store: &Store, newest: Snapshot, keys: &BTreeSet<Digest>) -> Option<Snapshot> {
    let (mut n, mut found) = (newest.n, Some(newest));
    for _ in 0..=SNAPSHOTS_KEPT {
        if let Some(snapshot) = found.filter(|snapshot| keys.contains(&snapshot.recorder)) {
            return Some(snapshot);
        }
        n = n.checked_sub(1)?;
        let path = layout::snapshot(n);
        let bytes = store.get(&path).await.ok().flatten();
        found = bytes.and_then(|bytes| Snapshot::parse(&path, &bytes).ok()).filter(|s| s.n == n);
    }
    None
}

/// Whether the last commit of every stream of a snapshot is the one that it names, and its key signed one of
/// them.
async fn stands_on_commits(store: &Store, snapshot: &Snapshot) -> bool {
    let mut signed = false;
    for stream in snapshot.streams() {
        let (Some(from), Some(last)) = (stream.last_from, stream.last) else { continue };
        let path = layout::commit(&stream.stream, stream.generation, from);
        let Ok(Some(bytes)) = store.get(&path).await else { return false };
        let Ok(commit) = Commit::parse(&path, &bytes) else { return false };
        if commit.digest() != last || commit.to != stream.position {
            return false;
        }
        signed |= commit.recorder == snapshot.recorder;
    }
    signed
}

impl View {
    /// Where the lake stood.
    pub fn state(&self) -> &LakeState {
        &self.state
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.store
    }
}

#[cfg(test)]
mod tests;
