//! Snapshots against the commits that they stand for. Readers begin at one, so a false one hides what the
//! commits hold, although every commit and every file is as it was.

use std::collections::BTreeMap;

use bodycam_lake::commit::MAX_BYTES;
use bodycam_lake::state::Snapshot;
use bodycam_lake::{Commit, LakeState, StreamEntry, layout};
use bytes::Bytes;

use crate::commits::{Walk, number, object_fault};
use crate::fault::{Class, Fault};
use crate::files::unreadable;
use crate::trust::Trust;
use crate::{Files, listed};

/// Snapshots that are looked for on either side of the one that the hint names, where nothing can be listed.
const AROUND_HINT: u64 = 16;

/// The snapshots of a lake as they were before its commits were read: what they name is then there.
pub struct Snapshots(BTreeMap<u64, Bytes>);

/// The commits of each stream, in the order of the list of streams.
pub type ByStream<'a> = Vec<(StreamEntry, Vec<&'a Commit>)>;

impl Snapshots {
    /// Reads all snapshots.
    pub fn read(files: &dyn Files, out: &mut Walk) -> Self {
        let numbers: Vec<u64> = match listed(files, "snapshots/", &mut out.faults) {
            Some(names) => names.iter().filter_map(|name| number(name)).collect(),
            None => {
                let hint = files.read(layout::SNAPSHOT_HINT, MAX_BYTES as u64).ok().flatten();
                let hint = hint.and_then(|b| serde_json::from_slice::<serde_json::Value>(&b).ok());
                let newest = hint.and_then(|h| h.get("n")?.as_u64());
                newest.map_or(Vec::new(), |n| {
                    (n.saturating_sub(AROUND_HINT)..=n.saturating_add(AROUND_HINT)).collect()
                })
            }
        };
        let mut found = BTreeMap::new();
        for n in numbers {
            let path = layout::snapshot(n);
            match files.read(&path, MAX_BYTES as u64) {
                Ok(Some(bytes)) => drop(found.insert(n, bytes)),
                // Old ones go while recorders write new ones.
                Ok(None) => {}
                Err(why) => out.faults.push(unreadable(&path, &why)),
            }
        }
        Self(found)
    }

    /// Compares each with what the commits add up to at its positions. Says nothing about what commits lack:
    /// that is reported with them.
    pub fn check(&self, commits: &ByStream<'_>, trust: Option<&Trust>, out: &mut Walk) {
        let sound = out.faults.iter().all(|f| f.class == Class::CommitKey);
        let mut fold = Fold { state: LakeState::default(), next: vec![0; commits.len()] };
        for (n, bytes) in &self.0 {
            let path = layout::snapshot(*n);
            let snapshot = match Snapshot::parse(&path, bytes) {
                Ok(snapshot) => snapshot,
                Err(error) => {
                    let mut fault = object_fault(&path, &error);
                    if fault.class == Class::Commit {
                        fault = Fault::new(Class::Snapshot, fault.detail).at(&path);
                    }
                    out.faults.push(fault);
                    continue;
                }
            };
            let mut wrong = |class, detail: String| out.faults.push(Fault::new(class, detail).at(&path));
            if trust.is_some_and(|t| !t.recorders.is_empty() && !t.recorders.contains(&snapshot.recorder)) {
                let detail = format!("signed with key {}, which is not pinned", snapshot.recorder);
                wrong(Class::CommitKey, detail);
            }
            if snapshot.n != *n {
                wrong(Class::Snapshot, format!("it says that it is number {}", snapshot.n));
            }
            if !sound {
                continue;
            }
            let fits = fold.to(&snapshot, commits);
            if !fits || !snapshot.is_of(&fold.state) {
                let detail = "it is not what the commits before it add up to: readers that begin with it see another lake";
                wrong(Class::Snapshot, detail.to_owned());
            }
            if !out.recorders.contains(&snapshot.recorder) {
                let detail = format!("signed with key {}, which signed no commit", snapshot.recorder);
                out.faults.push(Fault::new(Class::Snapshot, detail).at(&path));
            }
        }
    }
}

/// The state of a lake at the positions of one snapshot after the other.
struct Fold {
    state: LakeState,
    /// For each stream, the number of its commits that were folded.
    next: Vec<usize>,
}

impl Fold {
    /// Goes on to the positions of `snapshot`, or starts anew when they lie further back. False when the
    /// commits do not lead there.
    fn to(&mut self, snapshot: &Snapshot, commits: &ByStream<'_>) -> bool {
        let targets = snapshot.streams();
        let behind = self
            .state
            .streams
            .iter()
            .enumerate()
            .any(|(i, s)| targets.get(i).is_none_or(|target| target.position < s.position));
        if behind {
            *self = Self { state: LakeState::default(), next: vec![0; commits.len()] };
        }
        for (entry, _) in commits.iter().take(targets.len()).skip(self.state.streams.len()) {
            if self.state.add_stream("streams", entry.clone()).is_err() {
                return false;
            }
        }
        // A compaction waits for the commits of the files that it replaces.
        loop {
            let before = self.state.commits;
            for (index, target) in targets.iter().enumerate() {
                self.walk(index, target.position, commits);
            }
            if self.state.commits == before {
                return true;
            }
        }
    }

    fn walk(&mut self, index: usize, target: u64, commits: &ByStream<'_>) {
        let (Some((_, all)), Some(next)) = (commits.get(index), self.next.get_mut(index)) else { return };
        while let Some(commit) = all.get(*next).filter(|c| c.from < target) {
            let waits = commit.replaces.iter().any(|path| self.state.file(path).is_none());
            if waits || self.state.apply(index, commit).is_err() {
                return;
            }
            *next += 1;
        }
    }
}
