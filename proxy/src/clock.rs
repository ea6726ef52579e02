//! The gateway's clock: the system's, or an injected one for demonstrations and tests.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Wall and monotonic time. A simulated clock is said to be one in every genesis and ledger START.
#[derive(Debug, Clone)]
pub struct Clock {
    started: Instant,
    shift_ns: Option<Arc<AtomicI64>>,
    /// How far a simulated clock was set forward in all: monotonic time goes on with it.
    ahead_ns: Arc<AtomicI64>,
}

impl Clock {
    /// The system's clock.
    pub fn system() -> Self {
        Self { started: Instant::now(), shift_ns: None, ahead_ns: Arc::default() }
    }

    /// A clock that runs at the system's pace but can be set.
    pub fn simulated() -> Self {
        Self { started: Instant::now(), shift_ns: Some(Arc::default()), ahead_ns: Arc::default() }
    }

    /// Whether this clock is injected.
    pub fn is_simulated(&self) -> bool {
        self.shift_ns.is_some()
    }

    /// Sets a simulated clock to `unix_ns`; the system's clock cannot be set and stays as it is.
    pub fn set(&self, unix_ns: i64) {
        if let Some(shift) = &self.shift_ns {
            let now = unix_ns.saturating_sub(system_ns());
            let before = shift.swap(now, Ordering::SeqCst);
            self.ahead_ns.fetch_add(now.saturating_sub(before).max(0), Ordering::SeqCst);
        }
    }

    /// Wall time, Unix nanoseconds.
    pub fn wall_ns(&self) -> i64 {
        system_ns().saturating_add(self.shift_ns.as_ref().map_or(0, |s| s.load(Ordering::SeqCst)))
    }

    /// Nanoseconds since this clock was made; never goes back.
    pub fn mono_ns(&self) -> i64 {
        let elapsed = i64::try_from(self.started.elapsed().as_nanos()).unwrap_or(i64::MAX);
        elapsed.saturating_add(self.ahead_ns.load(Ordering::SeqCst))
    }
}

fn system_ns() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}
