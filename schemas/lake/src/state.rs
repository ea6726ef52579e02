//! What commits add up to: the live files of every table, where each stream and session stands. The same fold
//! serves readers, the recorder and the verifier; a snapshot is this fold, written down and signed.
//!
//! Invariant: a state is made of commits only, each following on the one before it in its stream.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use bodycam_record::canonical::Writer;
use bodycam_record::digest::{self, Digest};
use bodycam_record::{EpochKey, SessionId, key};
use serde::{Deserialize, Serialize};

use crate::columns::Table;
use crate::commit::{
    Commit, FileEntry, LedgerState, SessionState, Signature, StreamEntry, VERSION, check_size, check_version,
    list,
};
use crate::error::LakeError;
use crate::file::RowSum;
use crate::layout::{self, StreamName};

/// Files with more sessions than this lose their list of sessions in a snapshot; smallest and largest id
/// and the Bloom filter do then.
const SNAPSHOT_RANGES: usize = 64;

/// What a lake holds, as of some commits.
#[derive(Debug, Clone, Default)]
pub struct LakeState {
    /// The streams, in the order of the list of streams.
    pub streams: Vec<StreamState>,
    /// Live files by table and path.
    files: BTreeMap<Table, BTreeMap<String, Arc<FileEntry>>>,
    /// Files that were replaced and not yet deleted.
    pub tombstones: Vec<Tombstone>,
    /// Sessions of which more is expected: index of the stream and where they stand.
    pub open: HashMap<SessionId, (usize, SessionState)>,
    /// Sessions that a ledger ended before the stream of their events was folded so far, and the number of their
    /// events.
    ended: BTreeMap<SessionId, i64>,
    /// Commits folded so far.
    pub commits: u64,
}

/// Where a stream stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StreamState {
    /// The stream.
    pub stream: StreamName,
    /// Its generation.
    pub generation: u64,
    /// First position that is not committed: the name of the next commit.
    pub position: u64,
    /// First position of the last commit: its name.
    pub last_from: Option<u64>,
    /// Digest of the last commit.
    pub last: Option<Digest>,
    /// The producer's ledger, when the stream carries one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ledger: Option<LedgerState>,
}

/// A file that was replaced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tombstone {
    /// Its path.
    pub path: String,
    /// Position of the compaction commit that replaced it.
    pub replaced_by: u64,
    /// When that was, Unix ns.
    pub replaced_ns: i64,
}

/// A state as a snapshot holds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Snapshot {
    version: i64,
    /// Its number.
    pub n: u64,
    /// Commits folded.
    pub commits: u64,
    streams: Vec<StreamState>,
    files: Vec<Arc<FileEntry>>,
    tombstones: Vec<Tombstone>,
    open: Vec<(usize, SessionState)>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    ended: Vec<(SessionId, i64)>,
    /// Ed25519 public key of the recorder that wrote it.
    pub recorder: Digest,
    signature: Signature,
}

impl LakeState {
    /// Adds a stream: the next entry of the list of streams.
    pub fn add_stream(&mut self, path: &str, entry: StreamEntry) -> Result<(), LakeError> {
        if self.stream(&entry.stream, entry.generation).is_some() {
            return Err(LakeError::damaged(path, format_args!("stream {} is listed twice", entry.stream)));
        }
        self.streams.push(StreamState {
            stream: entry.stream,
            generation: entry.generation,
            position: entry.from,
            last_from: None,
            last: None,
            ledger: None,
        });
        Ok(())
    }

    /// A stream and its index.
    pub fn stream(&self, stream: &StreamName, generation: u64) -> Option<(usize, &StreamState)> {
        self.streams.iter().enumerate().find(|(_, s)| s.stream == *stream && s.generation == generation)
    }

    /// The newest generation of a stream.
    pub fn newest(&self, stream: &StreamName) -> Option<&StreamState> {
        self.streams.iter().filter(|s| s.stream == *stream).max_by_key(|s| s.generation)
    }

    /// Whether `commit` is the next of stream number `index`, and fits what is there.
    pub fn check(&self, index: usize, commit: &Commit) -> Result<(), LakeError> {
        let path = commit.path();
        let damaged = |reason: String| Err(LakeError::damaged(path.clone(), reason));
        let Some(stream) = self.streams.get(index) else {
            return damaged("its stream is not in the list of streams".into());
        };
        if (&commit.stream, commit.generation) != (&stream.stream, stream.generation) {
            return damaged(format!("it is of stream {} {}", commit.stream, commit.generation));
        }
        if commit.from != stream.position {
            return damaged(format!("it starts at {}, not at {}", commit.from, stream.position));
        }
        if commit.previous != stream.last {
            return damaged("it does not name the commit before it".into());
        }
        if let Some(path) = commit.replaces.iter().find(|p| self.file(p).is_none()) {
            return damaged(format!("it replaces {path}, which is not part of the lake"));
        }
        if let Some(file) = commit.files.iter().find(|f| self.file(&f.path).is_some()) {
            return damaged(format!("it adds {}, which is part of the lake already", file.path));
        }
        if let Some(table) = self.imbalance(commit) {
            return damaged(format!("its {} rows are not those of the files that it replaces", table.name()));
        }
        Ok(())
    }

    /// Folds the next commit of stream number `index`. Refuses one that does not follow.
    pub fn apply(&mut self, index: usize, commit: &Commit) -> Result<(), LakeError> {
        self.check(index, commit)?;
        if let Some(stream) = self.streams.get_mut(index) {
            stream.position = commit.to;
            stream.last_from = Some(commit.from);
            stream.last = Some(commit.digest());
            if commit.ledger.is_some() {
                stream.ledger.clone_from(&commit.ledger);
            }
        }
        for path in &commit.replaces {
            self.files.values_mut().for_each(|t| drop(t.remove(path)));
            self.tombstones.push(Tombstone {
                path: path.clone(),
                replaced_by: commit.from,
                replaced_ns: commit.created_ns,
            });
        }
        self.tombstones.retain(|t| t.replaced_by >= commit.deleted_to);
        for file in &commit.files {
            self.files.entry(file.table.0).or_default().insert(file.path.clone(), Arc::new(file.clone()));
        }
        fold_sessions(&mut self.open, &mut self.ended, index, commit);
        self.commits += 1;
        Ok(())
    }

    /// Live files of a table, in the order of their paths (hours ascending).
    pub fn files(&self, table: Table) -> impl DoubleEndedIterator<Item = &Arc<FileEntry>> {
        self.files.get(&table).into_iter().flat_map(BTreeMap::values)
    }

    /// All live files.
    pub fn all_files(&self) -> impl Iterator<Item = &Arc<FileEntry>> {
        self.files.values().flat_map(BTreeMap::values)
    }

    /// The live file at `path`.
    pub fn file(&self, path: &str) -> Option<&Arc<FileEntry>> {
        self.files.values().find_map(|t| t.get(path))
    }

    /// For each producer with a ledger: everything that it recorded before this time is here, and whether it
    /// has stopped.
    pub fn watermarks(&self) -> impl Iterator<Item = &LedgerState> {
        self.streams.iter().filter_map(|s| s.ledger.as_ref())
    }

    /// The time before which the lake is complete: the smallest watermark of the producers that run; when all
    /// have stopped, the largest. None without any producer.
    pub fn watermark_ns(&self) -> Option<i64> {
        let running = self.watermarks().filter(|l| !l.stopped).map(|l| l.watermark_ns).min();
        running.or_else(|| self.watermarks().map(|l| l.watermark_ns).max())
    }

    /// Whether a commit that replaces files holds exactly their rows, by the sums that the commits state;
    /// otherwise the table that does not balance. The index of sessions may lose superseded rows.
    pub fn imbalance(&self, commit: &Commit) -> Option<Table> {
        let mut unknown: BTreeSet<Table> = [Table::Sessions].into();
        let mut side = |files: &mut dyn Iterator<Item = &FileEntry>| {
            let mut sums: BTreeMap<Table, (u64, RowSum)> = BTreeMap::new();
            for file in files {
                let Some(row_sum) = file.row_sum else {
                    unknown.insert(file.table.0);
                    continue;
                };
                let (rows, sum) = sums.entry(file.table.0).or_default();
                *rows += file.rows;
                sum.add(row_sum);
            }
            sums
        };
        if commit.replaces.is_empty() {
            return None;
        }
        let inputs = side(&mut commit.replaces.iter().filter_map(|p| self.file(p)).map(Arc::as_ref));
        let outputs = side(&mut commit.files.iter());
        let mut tables = inputs.keys().chain(outputs.keys()).filter(|t| !unknown.contains(t));
        tables.find(|t| inputs.get(t) != outputs.get(t)).copied()
    }

    /// The snapshot number `n` of this state, signed.
    pub fn snapshot(&self, n: u64, key: &EpochKey) -> Snapshot {
        let files = self.all_files().map(|file| match &file.sessions {
            Some(ranges) if ranges.len() > SNAPSHOT_RANGES => {
                Arc::new(FileEntry { sessions: None, ..file.as_ref().clone() })
            }
            _ => file.clone(),
        });
        let mut open: Vec<_> = self.open.values().copied().collect();
        open.sort_unstable_by_key(|(_, s)| s.session);
        let mut snapshot = Snapshot {
            version: VERSION,
            n,
            commits: self.commits,
            streams: self.streams.clone(),
            files: files.collect(),
            tombstones: self.tombstones.clone(),
            open,
            ended: self.ended.iter().map(|(session, count)| (*session, *count)).collect(),
            recorder: key.public(),
            signature: Signature::NONE,
        };
        snapshot.signature = Signature::by(key, snapshot.digest());
        snapshot
    }
}

/// Folds what `commit` of stream number `index` says about sessions: which are open, and which a ledger ended
/// (a CRASH) before the commits of their events were folded. Commits of different streams may come in any
/// order, and the outcome is the same: an end in the ledger counts all events of its session, so that a commit
/// of fewer opens nothing, and one of all of them settles the matter.
pub fn fold_sessions(
    open: &mut HashMap<SessionId, (usize, SessionState)>,
    ended: &mut BTreeMap<SessionId, i64>,
    index: usize,
    commit: &Commit,
) {
    for state in &commit.sessions {
        let id = state.session;
        match (state.open, ended.get(&id).copied()) {
            (true, None) => drop(open.insert(id, (index, *state))),
            (true, Some(count)) if state.next_seq >= count => drop(ended.remove(&id)),
            (true, Some(_)) => {}
            (false, _) => {
                let seen = open.remove(&id).map_or(0, |(_, s)| s.next_seq);
                if commit.ledger.is_some() && seen < state.next_seq {
                    ended.insert(id, state.next_seq);
                }
            }
        }
    }
}

impl Snapshot {
    /// The snapshot that `bytes` of the object `path` hold, its signature checked against the key it names.
    pub fn parse(path: &str, bytes: &[u8]) -> Result<Self, LakeError> {
        check_size(path, bytes)?;
        check_version(path, bytes)?;
        let snapshot: Snapshot =
            serde_json::from_slice(bytes).map_err(|err| LakeError::damaged(path, err))?;
        snapshot.files.iter().try_for_each(|f| f.check()).map_err(|e| LakeError::damaged(path, e))?;
        if !key::verify_signature(snapshot.recorder, snapshot.digest(), &snapshot.signature.0) {
            return Err(LakeError::damaged(path, "the signature does not fit"));
        }
        Ok(snapshot)
    }

    /// The JSON of the snapshot.
    pub fn to_json(&self) -> Vec<u8> {
        let mut json = serde_json::to_vec(self).unwrap_or_default();
        json.push(b'\n');
        json
    }

    /// Where it belongs.
    pub fn path(&self) -> String {
        layout::snapshot(self.n)
    }

    /// The state that it holds.
    pub fn into_state(self) -> LakeState {
        let mut files: BTreeMap<Table, BTreeMap<String, Arc<FileEntry>>> = BTreeMap::new();
        for file in self.files {
            files.entry(file.table.0).or_default().insert(file.path.clone(), file);
        }
        LakeState {
            streams: self.streams,
            files,
            tombstones: self.tombstones,
            open: self.open.into_iter().map(|(i, s)| (s.session, (i, s))).collect(),
            ended: self.ended.into_iter().collect(),
            commits: self.commits,
        }
    }

    /// Whether it is a true snapshot of `state`: what the verifier asks after folding the commits itself.
    pub fn is_of(&self, state: &LakeState) -> bool {
        let mut expected = state.snapshot(self.n, &EpochKey::from_seed(&[0; 32]));
        expected.recorder = self.recorder;
        expected.digest() == self.digest()
    }

    /// The streams that it covers, in the order of the list of streams.
    pub fn streams(&self) -> &[StreamState] {
        &self.streams
    }

    /// The digest over its canonical bytes, signature left out.
    pub fn digest(&self) -> Digest {
        let mut w = Writer::new();
        w.int(self.version);
        w.bytes(&self.n.to_le_bytes());
        w.bytes(&self.commits.to_le_bytes());
        list(&mut w, &self.streams, |w, s| {
            w.bytes(s.stream.as_str().as_bytes());
            w.bytes(&s.generation.to_le_bytes());
            w.bytes(&s.position.to_le_bytes());
            bodycam_record::value::put_field(w, &s.last_from.and_then(|n| i64::try_from(n).ok()));
            bodycam_record::value::put_field(w, &s.last);
            list(w, s.ledger.as_slice(), |w, l| l.put(w));
        });
        list(&mut w, &self.files, |w, f| f.put(w));
        list(&mut w, &self.tombstones, |w, t| {
            w.bytes(t.path.as_bytes());
            w.bytes(&t.replaced_by.to_le_bytes());
            w.int(t.replaced_ns);
        });
        list(&mut w, &self.open, |w, (index, s)| {
            w.bytes(&(*index as u64).to_le_bytes());
            s.put(w);
        });
        list(&mut w, &self.ended, |w, (session, count)| {
            w.bytes(&session.0);
            w.int(*count);
        });
        w.bytes(&self.recorder.0);
        digest::LAKE_SNAPSHOT.digest(w.as_slice())
    }
}
