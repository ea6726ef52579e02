//! The embedded bus: append-only segment files in `<dir>/<producer>/<lane>/`.
//!
//! A segment is named after the position of its first record, 20 digits, `.seg`. It starts with the 8 bytes
//! `BCSPOOL1`; then come records: length (u32 LE, of what follows the CRC), CRC32C (u32 LE, of the same),
//! kind (one byte), content. Kind 1 is a record (protobuf). Kind 2 is a skip: an i64 LE, the position of the
//! next record; those in between are lost, and the ledger says GAP. When the spool is opened a torn tail is cut
//! and damage kept aside (`repair.rs`); the reader waits at a torn tail and names damage. Released positions
//! stand in `<lane>/released`,
//! what tells a lane from another one of the same name in `<lane>/origin`. Directories are made with mode 0700,
//! files with 0600.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bodycam_record::Id16;
use segment::Segment;

use crate::mark::Ends;
use crate::{Bus, BusError, Held, Progress, Scope, SpoolConfig, StreamId};

mod repair;
mod segment;
mod sync;
mod tail;
mod usage;
mod writer;

pub use repair::LostPositions;
#[cfg(feature = "kafka")]
pub(crate) use segment::MAX_RECORD;
pub use tail::SpoolSubscription;
pub use writer::{LaneWriter, Settling, Spool};

/// The reading side of a spool directory: any process may open it.
#[derive(Debug, Clone)]
pub struct SpoolBus {
    dir: Arc<PathBuf>,
}

impl SpoolBus {
    /// The spool at `config.dir`, which need not exist yet.
    pub fn new(config: &SpoolConfig) -> Self {
        Self { dir: Arc::new(config.dir.clone()) }
    }

    /// For every stream: position of its first kept record and bytes that it holds on disk.
    pub fn depth(&self) -> Result<HashMap<StreamId, (i64, u64)>, BusError> {
        let mut depths = HashMap::new();
        for stream in self.streams()? {
            let segments = segment::list(&self.lane_dir(&stream))?;
            let bytes = segments.iter().filter_map(|s| fs::metadata(&s.path).ok()).map(|m| m.len()).sum();
            depths.insert(stream, (segments.first().map_or(0, |s| s.first), bytes));
        }
        Ok(depths)
    }

    /// Reads `stream` from the start of its newest segment on: what its producer needs when it starts again.
    pub fn subscribe_newest(&self, stream: &StreamId) -> Result<SpoolSubscription, BusError> {
        let dir = self.lane_dir(stream);
        let first = match segment::list(&dir)?.pop() {
            Some(newest) => newest.first,
            None => segment::released(&dir)?,
        };
        SpoolSubscription::open(dir, stream.clone(), first)
    }

    /// Reads `stream` from the first record that it still has.
    pub fn subscribe_oldest(&self, stream: &StreamId) -> Result<SpoolSubscription, BusError> {
        let dir = self.lane_dir(stream);
        let first = match segment::list(&dir)?.first() {
            Some(oldest) => oldest.first,
            None => segment::released(&dir)?,
        };
        SpoolSubscription::open(dir, stream.clone(), first)
    }

    /// Position after the last record of the stream that can be read now.
    pub fn end(&self, stream: &StreamId) -> Result<i64, BusError> {
        let dir = self.lane_dir(stream);
        match segment::list(&dir)?.pop() {
            None => segment::released(&dir),
            Some(last) => Ok(segment::scan(&last)?.next.max(segment::released(&dir)?)),
        }
    }

    /// Position before which everything of `stream` rests in the lake, or in Kafka where the spool drains there.
    pub fn released(&self, stream: &StreamId) -> Result<i64, BusError> {
        segment::released(&self.lane_dir(stream))
    }

    fn lane_dir(&self, stream: &StreamId) -> PathBuf {
        lane_dir(&self.dir, stream)
    }
}

fn lane_dir(dir: &Path, stream: &StreamId) -> PathBuf {
    dir.join(stream.producer()).join(stream.lane())
}

impl Bus for SpoolBus {
    type Subscription = SpoolSubscription;
    type Mark = Ends;

    fn is_shared(&self) -> bool {
        false
    }

    fn holds(&self, _: BTreeMap<StreamId, Held>) -> Result<(), BusError> {
        // What was released stands in the spool itself.
        Ok(())
    }

    fn asks(&self) -> Result<bool, BusError> {
        Ok(false)
    }

    fn goes_on(&self, _: &StreamId, _: Held) -> Result<(), BusError> {
        Ok(())
    }

    fn streams(&self) -> Result<Vec<StreamId>, BusError> {
        let mut streams = Vec::new();
        for producer in segment::subdirectories(&self.dir)? {
            for lane in segment::subdirectories(&self.dir.join(&producer))? {
                streams.push(StreamId::new(&producer, &lane)?);
            }
        }
        streams.sort();
        Ok(streams)
    }

    fn subscribe(&self, stream: &StreamId, from: i64) -> Result<SpoolSubscription, BusError> {
        SpoolSubscription::open(self.lane_dir(stream), stream.clone(), from)
    }

    fn park(&self, _: &StreamId) -> Result<(), BusError> {
        Ok(())
    }

    fn release(&self, stream: &StreamId, to: i64) -> Result<(), BusError> {
        segment::release(&self.lane_dir(stream), to)
    }

    fn known_end(&self, stream: &StreamId) -> Result<Option<i64>, BusError> {
        self.end(stream).map(Some)
    }

    fn origin(&self, stream: &StreamId) -> Result<Option<Id16>, BusError> {
        segment::origin(&self.lane_dir(stream))
    }

    fn mark(&self, scope: Scope<'_>) -> Result<Ends, BusError> {
        Ok(Ends::of(self.streams()?.into_iter().filter(|stream| scope.holds(stream))))
    }

    fn passed(&self, mark: &mut Ends, progress: &BTreeMap<StreamId, Progress>) -> Result<bool, BusError> {
        mark.passed(progress, |stream| self.end(stream))
    }

    fn settle(&self, stream: &StreamId, to: i64) -> Result<(), BusError> {
        // What is released was settled; the segments before the newest were synced when it was begun.
        let newest = segment::list(&self.lane_dir(stream))?.into_iter().rfind(|s| s.first < to);
        if let Some(Segment { path, .. }) = newest {
            let file = fs::File::open(&path).map_err(BusError::io("open", &path))?;
            file.sync_data().map_err(BusError::io("fsync", &path))?;
        }
        Ok(())
    }
}
