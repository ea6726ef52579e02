//! What the recorder counts.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use bodycam_record::shown;

macro_rules! metrics {
    ($($(#[doc = $doc:literal])* $name:ident: $kind:literal,)*) => {
        /// Counters and gauges of a recorder; shared by its tasks, read by whoever exports them.
        #[derive(Debug, Default)]
        pub struct Metrics {
            $($(#[doc = $doc])* pub $name: AtomicU64,)*
            /// Why it failed last.
            failure: Mutex<String>,
        }

        impl Metrics {
            /// Name, kind (`counter` or `gauge`), help and value of each.
            pub fn read(&self) -> Vec<(&'static str, &'static str, &'static str, u64)> {
                vec![$((
                    concat!("bodycam_recorder_", stringify!($name)),
                    $kind,
                    concat!($($doc),*),
                    self.$name.load(Ordering::Relaxed),
                )),*]
            }
        }
    };
}

metrics! {
    /// Events stored.
    events_total: "counter",
    /// Ledger records stored.
    ledger_records_total: "counter",
    /// Content chunks stored.
    chunks_total: "counter",
    /// Events that came again and were dropped.
    duplicates_total: "counter",
    /// Findings raised by the recorder (forks, broken chains, unknown keys).
    findings_total: "counter",
    /// Commits made.
    commits_total: "counter",
    /// Data files written.
    files_total: "counter",
    /// Bytes of data files written.
    bytes_total: "counter",
    /// Records read and not yet committed.
    pending_records: "gauge",
    /// Wall time of the last commit, Unix seconds.
    last_commit_seconds: "gauge",
    /// Streams read.
    streams: "gauge",
    /// Streams that do not go on until someone acts: see the log.
    parked_streams: "gauge",
    /// Commits that were refused because another recorder had made them: what was staged was dropped, and read again
    /// where the stream is still this recorder's.
    refused_commits_total: "counter",
    /// Sessions open.
    open_sessions: "gauge",
    /// Compaction commits made.
    compactions_total: "counter",
    /// Files replaced by compaction.
    compacted_files_total: "counter",
    /// Replaced files deleted.
    deleted_files_total: "counter",
    /// Files that compaction left alone because they are not what their commit says.
    damaged_files_total: "counter",
    /// Live files that are small enough to be merged, as compaction last saw them.
    small_files: "gauge",
    /// Folders (an hour of a table) with more than 32 of them: compaction does not keep up.
    crowded_folders: "gauge",
    /// Commits since the newest snapshot: what a reader that opens the lake reads beside it.
    commits_since_snapshot: "gauge",
    /// Seconds since the newest snapshot was written; 0 without any.
    snapshot_age_seconds: "gauge",
    /// Data files that no commit names, at the last daily look.
    orphan_files: "gauge",
    /// Bytes of data files that no commit names, at the last daily look.
    orphan_bytes: "gauge",
    /// Times that the recorder started again after a failure.
    restarts_total: "counter",
    /// 1 from a failure until a later run has lasted 10 s.
    failing: "gauge",
}

impl Metrics {
    /// Notes a failure after which the recorder starts again.
    pub fn failed(&self, why: &dyn std::fmt::Display) {
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = shown(&why.to_string());
        set(&self.failing, 1);
    }

    /// Why nothing is stored, or not everything; none while all is well.
    pub fn trouble(&self) -> Option<String> {
        if self.failing.load(Ordering::Relaxed) > 0 {
            let failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
            return Some(format!("the recorder fails and tries again: {failure}"));
        }
        match self.parked_streams.load(Ordering::Relaxed) {
            0 => None,
            n => Some(format!("streams that cannot go on and are parked: {n}; the log says why")),
        }
    }

    /// The text that Prometheus scrapes.
    pub fn prometheus(&self) -> String {
        use std::fmt::Write as _;
        let mut out = String::new();
        for (name, kind, help, value) in self.read() {
            let _ = writeln!(out, "# HELP {name} {}\n# TYPE {name} {kind}\n{name} {value}", help.trim());
        }
        out
    }
}

pub(crate) fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

pub(crate) fn set(gauge: &AtomicU64, n: u64) {
    gauge.store(n, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_what_prometheus_reads() {
        let metrics = Metrics::default();
        add(&metrics.events_total, 3);
        let text = metrics.prometheus();
        assert!(
            text.contains("# TYPE bodycam_recorder_events_total counter\nbodycam_recorder_events_total 3\n")
        );
        assert!(text.lines().filter(|l| !l.starts_with('#')).all(|l| l.split(' ').count() == 2));
    }
}
