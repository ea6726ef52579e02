//! What detection tells of itself: Prometheus text for the admin listener, and one sentence when it fails.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Counters of one process. They outlive a detector that is opened anew.
#[derive(Debug, Default)]
pub struct Metrics {
    failing: AtomicBool,
    looks: AtomicU64,
    records_unreadable: AtomicU64,
    rollups_unreadable: AtomicU64,
    hours_ahead: AtomicU64,
}

impl Metrics {
    /// A look at the lake is over.
    pub fn looked(&self, failed: bool) {
        self.looks.fetch_add(1, Ordering::Relaxed);
        if self.failing.swap(failed, Ordering::Relaxed) && !failed {
            tracing::info!(event = "detect.works_again", "every rule was evaluated");
        }
    }

    /// Whether the last look failed, wholly or for a rule.
    pub fn is_failing(&self) -> bool {
        self.failing.load(Ordering::Relaxed)
    }

    pub(crate) fn record_unreadable(&self) {
        self.records_unreadable.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn rollup_unreadable(&self) {
        self.rollups_unreadable.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn ahead(&self, hours: u64) {
        self.hours_ahead.store(hours, Ordering::Relaxed);
    }

    /// Roll-ups that could not be read, or were not made with the tenant key.
    pub fn rollups_unreadable(&self) -> u64 {
        self.rollups_unreadable.load(Ordering::Relaxed)
    }

    /// Window records that could not be read.
    pub fn records_unreadable(&self) -> u64 {
        self.records_unreadable.load(Ordering::Relaxed)
    }

    /// In the Prometheus text format.
    pub fn prometheus(&self) -> String {
        let rows = [
            (
                "failing",
                "gauge",
                "Whether the last look at the lake failed, wholly or for a rule",
                u64::from(self.is_failing()),
            ),
            ("looks_total", "counter", "Looks at the lake", self.looks.load(Ordering::Relaxed)),
            (
                "records_unreadable_total",
                "counter",
                "Window records that were damaged or gone, and made again",
                self.records_unreadable(),
            ),
            (
                "rollups_unreadable_total",
                "counter",
                "Kept roll-ups that were damaged or foreign, and made again",
                self.rollups_unreadable(),
            ),
            (
                "hours_ahead",
                "gauge",
                "Hours with events that are dated after the newest commit",
                self.hours_ahead.load(Ordering::Relaxed),
            ),
        ];
        let row = |(name, kind, help, value): (&str, &str, &str, u64)| {
            format!(
                "# HELP bodycam_detect_{name} {help}.\n# TYPE bodycam_detect_{name} {kind}\nbodycam_detect_{name} {value}\n"
            )
        };
        rows.map(row).concat()
    }
}
