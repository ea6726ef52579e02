//! How much of a spool waits for the recorder, and who may still write: event lanes up to `max_bytes`, the
//! ledger and the keys a little beyond, so that what was let through can always be sealed.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::segment;
use crate::stream::{KEYS_LANE, LEDGER_LANE};
use crate::{BusError, SpoolConfig};

/// How often a full spool is measured again.
const MEASURE_FULL: Duration = Duration::from_millis(200);
/// Bytes beyond `max_bytes` that the ledger and the keys may use.
const RESERVE: u64 = 64 << 20;

/// Of one producer's spool, shared by its lanes.
#[derive(Debug)]
pub(super) struct Usage {
    dir: PathBuf,
    max_bytes: u64,
    segment_bytes: u64,
    used: AtomicU64,
    lanes: AtomicU64,
    measured: Mutex<Option<Instant>>,
}

impl Usage {
    pub(super) fn new(dir: PathBuf, config: &SpoolConfig) -> Result<Self, BusError> {
        let usage = Self {
            dir,
            max_bytes: config.max_bytes,
            segment_bytes: config.segment_bytes,
            used: AtomicU64::new(0),
            lanes: AtomicU64::new(0),
            measured: Mutex::new(None),
        };
        usage.measure()?;
        Ok(usage)
    }

    /// Bytes in use, as last measured and counted since.
    pub(super) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    pub(super) fn wrote(&self, bytes: u64) {
        self.used.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn opened_lane(&self) {
        self.lanes.fetch_add(1, Ordering::Relaxed);
    }

    /// Bytes after which a lane begins a new segment. The newest segment of a lane is never released, so all
    /// newest ones together must stay well below what the spool may hold: else it could never empty.
    pub(super) fn segment_bytes(&self) -> u64 {
        let lanes = self.lanes.load(Ordering::Relaxed).max(1);
        self.segment_bytes.min(self.max_bytes / (4 * lanes)).max(1)
    }

    /// Whether `more` bytes may be written to `lane`.
    pub(super) fn admit(&self, lane: &str, more: u64) -> Result<(), BusError> {
        let limit = match lane {
            LEDGER_LANE | KEYS_LANE => self.max_bytes.saturating_add(RESERVE),
            _ => self.max_bytes,
        };
        let fits = |used: u64| used.saturating_add(more) <= limit;
        if fits(self.used()) {
            return Ok(());
        }
        let mut measured = self.measured.lock().unwrap_or_else(PoisonError::into_inner);
        if measured.is_none_or(|at| at.elapsed() >= MEASURE_FULL) {
            self.measure()?;
            *measured = Some(Instant::now());
        }
        match self.used() {
            used if fits(used) => Ok(()),
            used => Err(BusError::Full { path: self.dir.clone(), used, limit }),
        }
    }

    /// Asks the file system.
    pub(super) fn measure(&self) -> Result<(), BusError> {
        let mut bytes = 0;
        for lane in segment::subdirectories(&self.dir)? {
            for segment in segment::list(&self.dir.join(&lane))? {
                bytes += fs::metadata(&segment.path).map_or(0, |m| m.len());
            }
        }
        self.used.store(bytes, Ordering::Relaxed);
        Ok(())
    }
}
