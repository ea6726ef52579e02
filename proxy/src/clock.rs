//! The gateway's clock: the system's, or an injected one for demonstrations and tests.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Wall and monotonic time. A simulated clock is said to be one in every genesis and ledger START.
#[derive(Debug, Clone)]
pub struct Clock {
    started: Instant,
    shift: Option<Arc<Shift>>,
}

/// Nanoseconds that a simulated clock is ahead of the system's.
#[derive(Debug, Default)]
struct Shift {
    wall: AtomicI64,
    mono: AtomicI64,
}

impl Clock {
    /// The system's clock.
    pub fn system() -> Self {
        Self { started: Instant::now(), shift: None }
    }

    /// A clock that runs at the system's pace but can be set.
    pub fn simulated() -> Self {
        Self { started: Instant::now(), shift: Some(Arc::default()) }
    }

    /// Whether this clock is injected.
    pub fn is_simulated(&self) -> bool {
        self.shift.is_some()
    }

    /// Sets the wall time of a simulated clock to `unix_ns`; monotonic time goes on as it did. The system's clock
    /// cannot be set and stays as it is.
    pub fn set(&self, unix_ns: i64) {
        if let Some(shift) = &self.shift {
            shift.wall.store(unix_ns.saturating_sub(system_ns()), Ordering::SeqCst);
        }
    }

    /// Lets time pass on a simulated clock, in wall and monotonic time.
    pub fn advance(&self, passed: Duration) {
        let ns = i64::try_from(passed.as_nanos()).unwrap_or(i64::MAX);
        if let Some(shift) = &self.shift {
            shift.wall.fetch_add(ns, Ordering::SeqCst);
            shift.mono.fetch_add(ns, Ordering::SeqCst);
        }
    }

    /// Wall time, Unix nanoseconds.
    pub fn wall_ns(&self) -> i64 {
        system_ns().saturating_add(self.shift.as_ref().map_or(0, |s| s.wall.load(Ordering::SeqCst)))
    }

    /// Nanoseconds since this clock was made; never goes back.
    pub fn mono_ns(&self) -> i64 {
        let elapsed = i64::try_from(self.started.elapsed().as_nanos()).unwrap_or(i64::MAX);
        elapsed.saturating_add(self.shift.as_ref().map_or(0, |s| s.mono.load(Ordering::SeqCst)))
    }
}

fn system_ns() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}
