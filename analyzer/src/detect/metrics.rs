//! What detection tells of itself: Prometheus text for the admin listener, and one sentence when it fails.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::{Summary, wall_ns};

/// Counters of one process. They outlive a detector that is opened anew.
#[derive(Debug, Default)]
pub struct Metrics {
    failing: AtomicBool,
    looks: AtomicU64,
    looks_failed: AtomicU64,
    /// Wall time of the last look that did not fail as a whole, Unix ns; 0 before the first.
    looked_ns: AtomicI64,
    /// Whether the last look failed as a whole.
    is_blind: AtomicBool,
    rules_failing: AtomicU64,
    look_millis: AtomicU64,
    windows_evaluated: AtomicU64,
    windows_recorded: AtomicU64,
    /// Findings that were not known before, by rule.
    findings: Mutex<BTreeMap<String, u64>>,
    findings_not_sent: AtomicU64,
    retracted: AtomicU64,
    windows_of_others: AtomicU64,
    claims_held: AtomicU64,
    claims_lost: AtomicU64,
    claims_taken_over: AtomicU64,
    /// Event time up to which the lake is complete; 0 when that is not known, or everything is here.
    watermark_ns: AtomicI64,
    /// Event time up to which roll-ups are kept; likewise.
    settled_ns: AtomicI64,
    rollups_read: AtomicU64,
    rollups_made: AtomicU64,
    rollup_bytes: AtomicU64,
    records_unreadable: AtomicU64,
    rollups_unreadable: AtomicU64,
    hours_ahead: AtomicU64,
    litter_removed: AtomicU64,
}

impl Metrics {
    /// A look at the lake is over: how many rules failed; none when it failed as a whole.
    pub fn looked(&self, rules_failing: Option<usize>) {
        add(&self.looks, 1);
        add(&self.looks_failed, u64::from(rules_failing.is_none()));
        self.is_blind.store(rules_failing.is_none(), Ordering::Relaxed);
        if let Some(rules) = rules_failing {
            self.looked_ns.store(wall_ns(), Ordering::Relaxed);
            self.rules_failing.store(u64::try_from(rules).unwrap_or(u64::MAX), Ordering::Relaxed);
        }
        let failed = rules_failing != Some(0);
        if self.failing.swap(failed, Ordering::Relaxed) && !failed {
            tracing::info!(event = "detect.works_again", "every rule was evaluated");
        }
    }

    /// Whether the last look failed, wholly or for a rule.
    pub fn is_failing(&self) -> bool {
        self.failing.load(Ordering::Relaxed)
    }

    /// Whether detection follows its lake; otherwise what is wrong.
    pub fn ready(&self) -> Result<(), &'static str> {
        if self.is_blind.load(Ordering::Relaxed) {
            return Err("the lake cannot be looked at: see the log");
        }
        match self.looked_ns.load(Ordering::Relaxed) {
            0 => Err("the first look at the lake is not over"),
            _ => Ok(()),
        }
    }

    /// A finding was told that was not known before.
    pub(super) fn found(&self, rule: &str) {
        let mut findings = self.findings.lock().unwrap_or_else(PoisonError::into_inner);
        match findings.get_mut(rule) {
            Some(count) => *count += 1,
            None => drop(findings.insert(rule.to_owned(), 1)),
        }
    }

    /// A finding could not be handed to its topic.
    pub fn not_sent(&self) {
        add(&self.findings_not_sent, 1);
    }

    pub(super) fn litter_removed(&self, objects: u64) {
        add(&self.litter_removed, objects);
    }

    pub(super) fn claims_held(&self, windows: usize) {
        self.claims_held.store(u64::try_from(windows).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// How long the last look took.
    pub(super) fn took(&self, took: Duration) {
        self.look_millis.store(u64::try_from(took.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Where detection stands after a look.
    pub(super) fn stands(&self, did: &Summary, settled_ns: i64) {
        add(&self.windows_evaluated, did.evaluated);
        add(&self.windows_recorded, did.records);
        add(&self.retracted, did.retracted);
        self.windows_of_others.store(did.with_others, Ordering::Relaxed);
        let known = |ns: i64| if ns == i64::MIN || ns == i64::MAX { 0 } else { ns };
        self.watermark_ns.store(did.watermark_ns.map_or(0, known), Ordering::Relaxed);
        self.settled_ns.store(known(settled_ns), Ordering::Relaxed);
    }

    pub(super) fn claim_lost(&self) {
        add(&self.claims_lost, 1);
    }

    pub(super) fn claim_taken_over(&self) {
        add(&self.claims_taken_over, 1);
    }

    pub(crate) fn record_unreadable(&self) {
        add(&self.records_unreadable, 1);
    }

    pub(crate) fn rollup_unreadable(&self) {
        add(&self.rollups_unreadable, 1);
    }

    pub(crate) fn rollup_read(&self) {
        add(&self.rollups_read, 1);
    }

    pub(crate) fn rollup_made(&self) {
        add(&self.rollups_made, 1);
    }

    pub(crate) fn rollups_held(&self, bytes: u64) {
        self.rollup_bytes.store(bytes, Ordering::Relaxed);
    }

    pub(crate) fn ahead(&self, hours: u64) {
        self.hours_ahead.store(hours, Ordering::Relaxed);
    }

    /// Hours of roll-ups that were computed from events.
    pub fn rollups_made(&self) -> u64 {
        self.rollups_made.load(Ordering::Relaxed)
    }

    /// Windows of which another worker took over the claim.
    pub fn claims_lost(&self) -> u64 {
        self.claims_lost.load(Ordering::Relaxed)
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
        let of = |value: &AtomicU64| value.load(Ordering::Relaxed);
        let age = |ns: &AtomicI64| match ns.load(Ordering::Relaxed) {
            0 => 0,
            ns => u64::try_from(wall_ns().saturating_sub(ns) / 1_000_000_000).unwrap_or_default(),
        };
        let rows = [
            (
                "failing",
                "gauge",
                "Whether the last look at the lake failed, wholly or for a rule",
                u64::from(self.is_failing()),
            ),
            ("looks_total", "counter", "Looks at the lake", of(&self.looks)),
            ("looks_failed_total", "counter", "Looks that failed as a whole", of(&self.looks_failed)),
            (
                "last_look_seconds",
                "gauge",
                "Wall time of the last look that did not fail as a whole, Unix seconds",
                u64::try_from(self.looked_ns.load(Ordering::Relaxed) / 1_000_000_000).unwrap_or_default(),
            ),
            ("rules_failing", "gauge", "Rules that failed in the last look", of(&self.rules_failing)),
            ("look_milliseconds", "gauge", "How long the last look took", of(&self.look_millis)),
            (
                "windows_evaluated_total",
                "counter",
                "Windows evaluated, open ones each time",
                of(&self.windows_evaluated),
            ),
            ("windows_recorded_total", "counter", "Window records written", of(&self.windows_recorded)),
            ("findings_retracted_total", "counter", "Findings taken back", of(&self.retracted)),
            (
                "findings_not_sent_total",
                "counter",
                "Findings that Kafka may not have: the lake has them",
                of(&self.findings_not_sent),
            ),
            (
                "windows_of_others",
                "gauge",
                "Windows that are due and claimed by another worker",
                of(&self.windows_of_others),
            ),
            ("claims_held", "gauge", "Windows that this worker has claimed", of(&self.claims_held)),
            (
                "claims_lost_total",
                "counter",
                "Windows of this worker that another one took over",
                self.claims_lost(),
            ),
            (
                "claims_taken_over_total",
                "counter",
                "Windows that this worker took over from another one",
                of(&self.claims_taken_over),
            ),
            (
                "lag_seconds",
                "gauge",
                "Age of the event time up to which the lake is complete, 0 when every producer has stopped",
                age(&self.watermark_ns),
            ),
            (
                "state_age_seconds",
                "gauge",
                "Age of the event time up to which roll-ups are kept",
                age(&self.settled_ns),
            ),
            ("rollups_read_total", "counter", "Kept roll-ups that were read", of(&self.rollups_read)),
            ("rollups_made_total", "counter", "Hours rolled up from their events", self.rollups_made()),
            ("rollup_bytes", "gauge", "Bytes of roll-ups in memory", of(&self.rollup_bytes)),
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
                "litter_removed_total",
                "counter",
                "Beats, claims and roll-ups that nobody needed any more, removed",
                of(&self.litter_removed),
            ),
            (
                "hours_ahead",
                "gauge",
                "Hours with events that are dated after the newest commit",
                of(&self.hours_ahead),
            ),
        ];
        let row = |(name, kind, help, value): (&str, &str, &str, u64)| {
            format!(
                "# HELP bodycam_detect_{name} {help}.\n# TYPE bodycam_detect_{name} {kind}\nbodycam_detect_{name} {value}\n"
            )
        };
        let mut out = rows.map(row).concat();
        out.push_str(
            "# HELP bodycam_detect_findings_total Findings told that were not known before, by rule.\n\
             # TYPE bodycam_detect_findings_total counter\n",
        );
        for (rule, count) in self.findings.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let _ = writeln!(out, "bodycam_detect_findings_total{{rule=\"{rule}\"}} {count}");
        }
        out
    }
}

fn add(to: &AtomicU64, n: u64) {
    to.fetch_add(n, Ordering::Relaxed);
}
