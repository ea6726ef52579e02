//! Several recorders on one lake: what becomes this one's, and what it lets go of.
//!
//! A producer is whole at one recorder, so that it is taken and let go of as a whole. What is staged of it when it goes
//! is dropped, never flushed: whoever has it next reads it again from where the commits end. Nobody is asked whether
//! a stream is still this recorder's; its commit is refused when another one has made it (`refused`).
//! Invariant: what is in memory of a producer followed on the lake's commits when the first of its streams was taken,
//! and nobody has committed any of its streams since but this recorder.

use std::collections::{BTreeMap, BTreeSet};

use bodycam_bus::{Bus, Held, StreamId};
use bodycam_lake::{LakeError, layout};
use bodycam_record::Id16;
use futures::future::try_join_all;

use super::{LISTED_AT_ONCE, Recorder, position};
use crate::error::RecorderError;
use crate::metrics::add;

impl<B: Bus> Recorder<B> {
    /// Tells the bus again what the lake holds, when it was given streams that others may have read since.
    pub(super) async fn answer(&mut self) -> Result<(), RecorderError> {
        if !self.bus.asks()? {
            return Ok(());
        }
        // The group takes everything from everyone before it gives anything. A ledger that waits for other streams may
        // not have noticed.
        while let Some(id) = self.streams.keys().next().cloned() {
            self.revoked(&id);
        }
        self.lake.refresh().await?;
        self.held = self.look_up_held().await?;
        self.bus.holds(self.held.clone())?;
        // Their faults may have been acknowledged by who had them meanwhile.
        self.parked.clear();
        Ok(())
    }

    /// Makes ready for streams that are new here: producers of whom nothing was read are followed from where the lake
    /// has them.
    pub(super) async fn adopt(&mut self, fresh: &[StreamId]) -> Result<(), RecorderError> {
        let known = |id: &StreamId| self.streams.keys().any(|known| known.producer() == id.producer());
        let producers: BTreeSet<String> =
            fresh.iter().filter(|id| !known(id)).map(|id| id.producer().to_owned()).collect();
        if self.bus.is_shared() {
            self.lake.refresh().await?;
        }
        if !producers.is_empty() {
            self.held = self.look_up_held().await?;
            self.ingest.adopt(&self.lake, &producers).await?;
        }
        Ok(())
    }

    /// What became of a commit: one that another recorder of the group has made is no error, and says which stream this
    /// one lets go of.
    pub(super) fn unless_refused(
        &mut self,
        id: &StreamId,
        outcome: Result<(), RecorderError>,
    ) -> Result<(), RecorderError> {
        match outcome {
            Err(RecorderError::Lake(LakeError::CommitConflict { .. })) if self.bus.is_shared() => {
                self.refused(id);
                Ok(())
            }
            outcome => outcome,
        }
    }

    /// Another recorder has made the commit of a stream that was to be made here.
    fn refused(&mut self, id: &StreamId) {
        add(&self.metrics.refused_commits_total, 1);
        let Some(stream) = self.streams.get(id) else { return };
        let (from, to, generation) = (stream.committed, stream.next, stream.generation);
        tracing::warn!(
            stream = %id,
            generation,
            from,
            to,
            commit = %layout::commit(&stream.name, generation, from),
            "commit_refused: another recorder of the group has committed {id} from position {from} on. What this one had \
             staged of it, up to {to}, is dropped, and so is what it had of the other streams of {}. It goes on with its \
             other producers, and with this one where the lake stands, if that is still given to it",
            id.producer()
        );
        self.let_go(id.producer());
    }

    /// A stream is another recorder's by the word of the bus.
    pub(super) fn revoked(&mut self, id: &StreamId) {
        let producer = id.producer();
        let of_producer = self.streams.iter().filter(|(id, _)| id.producer() == producer);
        let dropped: u64 = of_producer.map(|(_, s)| s.staged.records + s.held.len() as u64).sum();
        tracing::info!(
            producer,
            dropped,
            "producer_let_go: another recorder of the group has it now; what was staged of it and not committed is \
             dropped here and read again there"
        );
        self.let_go(producer);
    }

    /// Drops everything that is in memory of a producer. Its streams are looked for anew at once.
    fn let_go(&mut self, producer: &str) {
        self.streams.retain(|id, _| id.producer() != producer);
        self.progress.retain(|id, _| id.producer() != producer);
        self.given_up.retain(|id, _| id.producer() != producer);
        self.ingest.forget(producer);
        self.discovered = None;
    }

    /// Lets go of producers of which others have committed streams, as the fold of the lake shows.
    pub(super) fn let_go_of_what_others_committed(&mut self) -> Option<String> {
        let moved = self.streams.iter().filter(|(_, stream)| {
            let there = self.lake.state().stream(&stream.name, stream.generation);
            there.is_some_and(|(_, state)| state.position != stream.committed)
        });
        let moved: Vec<StreamId> = moved.map(|(id, _)| id.clone()).collect();
        if !self.bus.is_shared() {
            let stream = self.streams.get(moved.first()?)?;
            return Some(layout::commit(&stream.name, stream.generation, stream.committed));
        }
        moved.iter().for_each(|id| self.refused(id));
        None
    }

    /// What the lake holds of the streams of its buses.
    pub(super) async fn look_up_held(&mut self) -> Result<BTreeMap<StreamId, Held>, RecorderError> {
        let state = self.lake.state();
        // An entry of the list never changes.
        let new = state.streams.get(self.origins.len()..).unwrap_or_default();
        for some in new.chunks(LISTED_AT_ONCE) {
            let found = some.iter().map(|state| self.lake.origin(&state.stream, state.generation));
            self.origins.extend(try_join_all(found).await?);
        }
        let mut listed: Vec<(_, Option<Id16>)> =
            state.streams.iter().zip(self.origins.iter().copied()).collect();
        listed.sort_by_key(|(state, _)| state.generation);
        let mut held = BTreeMap::<StreamId, Held>::new();
        for (state, origin) in listed {
            // Compaction is no stream of a bus.
            let Ok(id) = state.stream.to_string().parse::<StreamId>() else { continue };
            let older = held.remove(&id).map(|older| older.followed_by(origin).older).unwrap_or_default();
            held.insert(id, Held { position: position(state.position)?, origin, older });
        }
        Ok(held)
    }
}

#[cfg(test)]
mod tests;
