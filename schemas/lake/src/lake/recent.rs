//! Which streams have moved: a hint that each writer leaves beside its commits, so that whoever follows a lake of thousands
//! of streams need not ask each of them for its next commit several times a second.
//!
//! Invariant: a hint says what to ask for, never what a lake holds. Every stream is asked all the same now and then, so that
//! a hint that is missing, late or forged delays news by [`SWEEP`] and does nothing else.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};

use super::{ASKED_AT_ONCE, Lake};
use crate::commit::{VERSION, check_size, check_version};
use crate::error::LakeError;
use crate::layout;
use crate::store::Store;

/// So many streams are asked each time: that is as cheap as to look at hints.
const FEW: usize = 64;
/// Every stream is asked at least so often.
const SWEEP: Duration = Duration::from_secs(30);
/// For how long a writer says that a stream has moved: longer than [`SWEEP`], so that nobody who follows misses it.
const TOLD: Duration = Duration::from_secs(120);
/// A hint that is so much older than the newest one is of a writer that is gone.
const STALE_NS: i64 = 600_000_000_000;

/// What has moved, as one writer says it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Recent {
    version: i64,
    /// By the number of the stream in the list of streams: the first position that is not committed.
    streams: BTreeMap<usize, u64>,
}

/// What a lake knows of hints.
#[derive(Debug, Clone, Default)]
pub(super) struct Moved {
    /// Streams that this writer has moved, where to and when.
    streams: BTreeMap<usize, (u64, Instant)>,
    /// Whether one of them has not been told.
    untold: bool,
    /// When every stream was asked last.
    pub(super) swept: Option<Instant>,
}

impl Moved {
    /// A commit of this writer has moved a stream.
    pub(super) fn note(&mut self, index: usize, position: u64) {
        self.streams.insert(index, (position, Instant::now()));
        self.untold = true;
    }
}

impl Lake {
    /// Leaves a hint of what this writer has committed lately, in a lake of so many streams that it spares requests.
    /// `writer` names the hint: each writer has its own. One that cannot be written is left to the next time.
    pub async fn tell(&mut self, writer: &str) -> Result<(), LakeError> {
        if !self.moved.untold || self.state.streams.len() <= FEW {
            return Ok(());
        }
        self.moved.streams.retain(|_, (_, at)| at.elapsed() < TOLD);
        let streams = self.moved.streams.iter().map(|(index, (position, _))| (*index, *position)).collect();
        let hint = serde_json::to_vec(&Recent { version: VERSION, streams }).unwrap_or_default();
        self.store.put(&layout::recent(writer)?, hint.into()).await?;
        self.moved.untold = false;
        Ok(())
    }

    /// Folds what was committed since, as far as hints tell, and everything now and then; gives the number of new commits.
    /// For those who follow a lake: a writer who must know where the lake stands asks with [`Lake::refresh`].
    pub async fn follow(&mut self) -> Result<u64, LakeError> {
        let known = self.state.streams.len();
        if known <= FEW || self.moved.swept.is_none_or(|at| at.elapsed() >= SWEEP) {
            return self.refresh().await;
        }
        let before = self.state.commits;
        self.list_streams().await?;
        let hints = self.hints().await?;
        let moved = hints.into_iter().filter(|(index, position)| {
            self.state.streams.get(*index).is_some_and(|stream| stream.position < *position)
        });
        let mut moving: Vec<usize> = moved.map(|(index, _)| index).collect();
        // Nobody may have told of a stream that is new.
        moving.extend(known..self.state.streams.len());
        moving.sort_unstable();
        moving.dedup();
        // A commit that waits for one of a stream that was not asked.
        if self.walk(moving).await?.is_some() {
            self.refresh().await?;
        }
        Ok(self.state.commits - before)
    }

    /// The hints of all writers that are at work.
    async fn hints(&self) -> Result<BTreeMap<usize, u64>, LakeError> {
        let listed = self.store.listed(layout::RECENT).await?;
        let newest = listed.iter().map(|hint| hint.written_ns).max().unwrap_or(i64::MIN);
        let current = listed.into_iter().filter(|hint| newest.saturating_sub(hint.written_ns) < STALE_NS);
        let asked: Vec<_> = current.map(|hint| hint_at(&self.store, hint.path)).collect();
        let mut hints = BTreeMap::new();
        let mut found = stream::iter(asked).buffer_unordered(ASKED_AT_ONCE);
        while let Some(hint) = found.try_next().await? {
            for (index, position) in hint.into_iter().flat_map(|hint| hint.streams) {
                let furthest = hints.entry(index).or_insert(position);
                *furthest = position.max(*furthest);
            }
        }
        Ok(hints)
    }
}

/// A hint; none when it is gone or makes no sense.
async fn hint_at(store: &Store, path: String) -> Result<Option<Recent>, LakeError> {
    let Some(bytes) = store.get(&path).await? else { return Ok(None) };
    Ok(parsed(&path, &bytes))
}

fn parsed(path: &str, bytes: &Bytes) -> Option<Recent> {
    check_size(path, bytes).ok()?;
    check_version(path, bytes).ok()?;
    serde_json::from_slice(bytes).ok()
}
