//! Marks: a bus as it stands at a moment, so that a reader can tell when it has read all that was there.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::stream::LEDGER_LANE;
use crate::{BusError, StreamId};

/// After this time a stream is asked where it ends, instead of waiting for it to run dry.
const PATIENCE: Duration = Duration::from_secs(1);

/// The streams that a mark is about.
#[derive(Debug, Clone, Copy)]
pub enum Scope<'a> {
    /// All of them.
    Everything,
    /// Those of one producer, its ledger apart.
    Beside(&'a str),
}

impl Scope<'_> {
    /// Whether a stream is one of them.
    pub fn holds(&self, stream: &StreamId) -> bool {
        match self {
            Scope::Everything => true,
            Scope::Beside(producer) => stream.producer() == *producer && stream.lane() != LEDGER_LANE,
        }
    }
}

/// How far a reader has come with a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// First position that it has not taken.
    pub position: i64,
    /// Whether its last look, later than the mark, found nothing.
    pub dry: bool,
}

impl Progress {
    /// Of a stream that is not read on, for now or for good: nobody waits for it.
    pub const STUCK: Self = Self { position: i64::MAX, dry: true };
}

/// A mark on a bus whose readers see at once what was written before.
#[derive(Debug)]
pub struct Ends {
    waits_for: BTreeMap<StreamId, Option<i64>>,
    since: Instant,
}

impl Ends {
    /// A mark on these streams. Where they end is asked only when they do not run dry.
    pub fn of(streams: impl IntoIterator<Item = StreamId>) -> Self {
        Self { waits_for: streams.into_iter().map(|stream| (stream, None)).collect(), since: Instant::now() }
    }

    /// Whether a reader is past the mark.
    pub fn passed(
        &mut self,
        progress: &BTreeMap<StreamId, Progress>,
        end: impl Fn(&StreamId) -> Result<i64, BusError>,
    ) -> Result<bool, BusError> {
        self.waits_for.retain(|stream, until| {
            let Some(progress) = progress.get(stream) else { return true };
            !progress.dry && until.is_none_or(|until| progress.position < until)
        });
        if !self.waits_for.is_empty() && self.since.elapsed() >= PATIENCE {
            for (stream, until) in self.waits_for.iter_mut().filter(|(_, until)| until.is_none()) {
                *until = Some(end(stream)?);
            }
        }
        Ok(self.waits_for.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_passed_when_every_stream_ran_dry_or_reached_its_end() {
        let (a, b): (StreamId, StreamId) = ("gw/0".parse().unwrap(), "gw/1".parse().unwrap());
        let at = |position, dry| Progress { position, dry };
        let end = |_: &StreamId| Ok(10);
        let mut ends = Ends::of([a.clone(), b.clone()]);
        let seen = |x, y| BTreeMap::from([(a.clone(), x), (b.clone(), y)]);
        assert!(!ends.passed(&seen(at(0, true), at(3, false)), end).unwrap());
        assert!(!ends.passed(&BTreeMap::new(), end).unwrap(), "a stream that nobody reads is not passed");
        ends.since -= PATIENCE;
        assert!(!ends.passed(&seen(at(0, false), at(12, false)), end).unwrap(), "its end is asked only now");
        assert!(ends.passed(&seen(at(0, false), at(12, false)), end).unwrap());
        assert!(Scope::Beside("gw").holds(&a) && !Scope::Beside("gw").holds(&"gw/ledger".parse().unwrap()));
    }
}
