//! What verification found: properties, findings, the code that the command exits with, and the text that
//! says so. There is no single "verified": each property has a verdict of its own.

use std::fmt::Write as _;

use bodycam_lake::layout::Hour;
use bodycam_record::{Digest, SessionId};
use serde::Serialize;

use crate::fault::{Aspect, Class, Fault, Gravity};
use crate::strays::Strays;
use crate::windows::Windows;

/// Findings that the text shows; JSON has more.
const SHOWN_FAULTS: usize = 50;

/// The outcome of a verification.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Code that the command exits with.
    pub exit_code: u8,
    /// The outcome in a few words.
    pub verdict: &'static str,
    /// Why it is not better than it is.
    pub reasons: Vec<String>,
    /// The verdict of every property.
    pub properties: Vec<Property>,
    /// Whose word the record is taken on.
    pub trust: TrustReport,
    /// What was checked.
    pub checked: Checked,
    /// Sessions, by what became of them.
    pub sessions: SessionCounts,
    /// Sessions that are open.
    pub open_sessions: Vec<OpenSession>,
    /// Objects in folders of the lake that are no part of it.
    pub strays: Vec<Strays>,
    /// Findings, gravest first.
    pub faults: Vec<Fault>,
    /// Findings that are not listed, because there are too many.
    pub faults_not_listed: u64,
}

/// The verdict of one property.
#[derive(Debug, Clone, Serialize)]
pub struct Property {
    /// Which.
    pub aspect: Aspect,
    /// The verdict.
    pub state: State,
    /// What that means here.
    pub detail: String,
}

/// A verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It holds.
    Ok,
    /// It holds as far as can be said without something from outside.
    Partial,
    /// It does not hold.
    Failed,
    /// It was not checked.
    NotChecked,
}

/// Whose word the record is taken on.
#[derive(Debug, Clone, Default, Serialize)]
pub struct TrustReport {
    /// `pinned` when the keys of all producers and recorders come from a trust file, else `self`.
    pub mode: &'static str,
    /// Producers and the keys that their ledgers state.
    pub producers: Vec<ProducerReport>,
    /// Keys that signed commits.
    pub recorders: Vec<KeyReport>,
}

/// A producer.
#[derive(Debug, Clone, Serialize)]
pub struct ProducerReport {
    /// Its name.
    pub name: String,
    /// Its key.
    pub key: Option<Digest>,
    /// Whether that key is pinned.
    pub pinned: bool,
    /// Its epochs.
    pub epochs: u64,
    /// Time of its last ledger record, Unix ns.
    pub last_ns: i64,
    /// Whether it stopped in order.
    pub stopped: bool,
    /// Whether it ran on an injected clock (demonstrations).
    pub simulated_clock: bool,
}

/// A key that signed commits.
#[derive(Debug, Clone, Serialize)]
pub struct KeyReport {
    /// The key.
    pub key: Digest,
    /// Whether it is pinned.
    pub pinned: bool,
}

/// What was checked.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Checked {
    /// Streams.
    pub streams: u64,
    /// Commits.
    pub commits: u64,
    /// Data files.
    pub files: u64,
    /// Bytes of data files.
    pub bytes: u64,
    /// Rows of all tables.
    pub rows: u64,
    /// Events.
    pub events: u64,
    /// Ledger records.
    pub ledger_records: u64,
    /// Contents whose commitment was recomputed and fits.
    pub contents: u64,
    /// Contents that are there and were not opened.
    pub contents_not_opened: u64,
    /// Windows that detection evaluated, and the findings in them.
    pub windows: u64,
    /// See `windows`.
    pub findings: u64,
}

/// Sessions, by what became of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct SessionCounts {
    /// Ended and sealed.
    pub sealed: u64,
    /// Cut by a crash that was declared.
    pub crashed: u64,
    /// Neither sealed nor inherited.
    pub open: u64,
    /// Announced by a ledger record that is not in the lake yet.
    pub pending: u64,
    /// Announced by no ledger.
    pub orphaned: u64,
    /// Of all these, those with something wrong.
    pub faulty: u64,
}

/// A session that is open.
#[derive(Debug, Clone, Serialize)]
pub struct OpenSession {
    /// The session.
    pub session: SessionId,
    /// Its producer.
    pub producer: String,
    /// Its target.
    pub target: String,
    /// Events so far.
    pub events: i64,
    /// Time of the last heartbeat that names it, Unix ns.
    pub last_heartbeat_ns: Option<i64>,
}

/// Everything that a report is made of.
pub(crate) struct Parts {
    pub faults: Vec<Fault>,
    pub trust: TrustReport,
    pub checked: Checked,
    pub windows: Windows,
    pub strays: Vec<Strays>,
    pub sessions: SessionCounts,
    pub open_sessions: Vec<OpenSession>,
    pub as_of: bool,
    pub tenant_key: bool,
    pub one_session: bool,
    /// Findings that may only follow from what could not be read, and are not told.
    pub withheld: u64,
    pub max_faults: usize,
}

impl Report {
    pub(crate) fn new(mut parts: Parts) -> Self {
        parts.faults.sort_by(|a, b| {
            let key =
                |f: &Fault| (f.gravity, f.session, f.producer.clone(), f.seq, f.path.clone(), f.row, f.class);
            key(a).cmp(&key(b))
        });
        parts.faults.dedup();
        let has = |gravity| parts.faults.iter().any(|f| f.gravity == gravity);
        let (exit_code, verdict) = if has(Gravity::Unreadable) {
            (1, "could not be verified")
        } else if has(Gravity::Tamper) {
            (2, "tampered with or damaged")
        } else if has(Gravity::Unsupported) {
            (5, "not fully understood: a newer verifier is needed")
        } else if has(Gravity::Incomplete) {
            (3, "incomplete, as the record itself declares")
        } else {
            (4, "consistent, not anchored")
        };
        (parts.checked.windows, parts.checked.findings) = (parts.windows.windows, parts.windows.findings);
        let properties = properties(&parts);
        let reasons = reasons(&parts, exit_code);
        let faulty: std::collections::HashSet<SessionId> = parts
            .faults
            .iter()
            .filter(|f| f.gravity <= Gravity::Unsupported)
            .filter_map(|f| f.session)
            .collect();
        parts.sessions.faulty = faulty.len() as u64;
        let not_listed = parts.faults.len().saturating_sub(parts.max_faults) as u64;
        parts.faults.truncate(parts.max_faults);
        Self {
            exit_code,
            verdict,
            reasons,
            properties,
            trust: parts.trust,
            checked: parts.checked,
            sessions: parts.sessions,
            open_sessions: parts.open_sessions,
            strays: parts.strays,
            faults: parts.faults,
            faults_not_listed: not_listed,
        }
    }

    /// The report of a place where no lake is.
    pub(crate) fn without_lake() -> Self {
        let fault =
            Fault::new(Class::Unreadable, "no lake here: streams/0.json is missing").at("streams/0.json");
        Self::new(Parts {
            faults: vec![fault],
            trust: TrustReport { mode: "self", ..TrustReport::default() },
            checked: Checked::default(),
            windows: Windows::default(),
            strays: Vec::new(),
            sessions: SessionCounts::default(),
            open_sessions: Vec::new(),
            as_of: false,
            tenant_key: false,
            one_session: false,
            withheld: 0,
            max_faults: 1,
        })
    }

    /// Whether there is a finding of this class.
    pub fn has(&self, class: Class) -> bool {
        self.faults.iter().any(|f| f.class == class)
    }

    /// The report as text for a terminal. Everything that others wrote is made safe.
    pub fn to_text(&self) -> String {
        let mut out = String::new();
        let c = &self.checked;
        let _ = writeln!(out, "{} (exit code {})", self.verdict, self.exit_code);
        for reason in &self.reasons {
            let _ = writeln!(out, "  {reason}");
        }
        let _ = writeln!(
            out,
            "\nchecked  {} events, {} ledger records, {} files ({} bytes), {} commits in {} streams",
            c.events, c.ledger_records, c.files, c.bytes, c.commits, c.streams
        );
        let _ = writeln!(out, "content  {} verified, {} not opened", c.contents, c.contents_not_opened);
        let _ = writeln!(out, "findings {} in {} windows of detection", c.findings, c.windows);
        let s = &self.sessions;
        let _ = writeln!(
            out,
            "sessions {} sealed, {} cut by a crash, {} open, {} pending, {} orphaned; {} faulty",
            s.sealed, s.crashed, s.open, s.pending, s.orphaned, s.faulty
        );
        out.push('\n');
        for property in &self.properties {
            let state = match property.state {
                State::Ok => "ok",
                State::Partial => "partial",
                State::Failed => "FAILED",
                State::NotChecked => "not checked",
            };
            let _ = writeln!(out, "{state:<12} {:<24} {}", name(property.aspect), property.detail);
        }
        out.push('\n');
        for p in &self.trust.producers {
            let key = p.key.map_or("no key".to_owned(), |k| k.to_hex());
            let pinned = if p.pinned { "pinned" } else { "not pinned" };
            let clock = if p.simulated_clock { ", simulated clock" } else { "" };
            let stopped = if p.stopped { "stopped" } else { "running or cut" };
            let _ =
                writeln!(out, "producer {} {key} {pinned}, {} epochs, {stopped}{clock}", p.name, p.epochs);
        }
        for r in &self.trust.recorders {
            let _ = writeln!(out, "recorder {} {}", r.key, if r.pinned { "pinned" } else { "not pinned" });
        }
        for open in self.open_sessions.iter().take(SHOWN_FAULTS) {
            let beat = open
                .last_heartbeat_ns
                .map_or("no heartbeat yet".to_owned(), |ns| format!("last heartbeat at {}", utc(ns)));
            let _ = writeln!(
                out,
                "open     {} {} on {}: {} events, {beat}",
                open.session, open.target, open.producer, open.events
            );
        }
        if !self.faults.is_empty() {
            out.push('\n');
        }
        for fault in self.faults.iter().take(SHOWN_FAULTS) {
            let _ = writeln!(out, "{fault}");
        }
        let more = self.faults.len().saturating_sub(SHOWN_FAULTS) as u64 + self.faults_not_listed;
        if more > 0 {
            let _ = writeln!(out, "and {more} more; --json lists them");
        }
        out
    }
}

/// A time for people: RFC 3339, seconds, UTC.
fn utc(ns: i64) -> String {
    let hour = Hour::of_ns(ns);
    let seconds = ns.saturating_sub(hour.start_ns()) / 1_000_000_000;
    let folder = hour.partition();
    let (day, hour) = folder.trim_start_matches("dt=").split_once("/hh=").unwrap_or_default();
    format!("{day}T{hour}:{:02}:{:02}Z", seconds / 60, seconds % 60)
}

fn name(aspect: Aspect) -> &'static str {
    match aspect {
        Aspect::Integrity => "integrity",
        Aspect::Order => "order",
        Aspect::SessionCompleteness => "session completeness",
        Aspect::PopulationCompleteness => "population completeness",
        Aspect::Authenticity => "authenticity",
        Aspect::Freshness => "freshness",
        Aspect::Content => "content",
        Aspect::Findings => "findings",
        Aspect::Support => "formats",
    }
}

fn properties(parts: &Parts) -> Vec<Property> {
    let aspects = [
        (Aspect::Integrity, "every hash, file digest and column statistic fits"),
        (Aspect::Order, "every event follows on the one before it"),
        (Aspect::SessionCompleteness, "every session ends where its seal says"),
        (Aspect::PopulationCompleteness, "the sessions are those of the ledgers"),
        (Aspect::Authenticity, "every signature fits"),
        (Aspect::Freshness, "the record reaches to the time asked for"),
        (Aspect::Content, "content is what its events commit to"),
        (Aspect::Findings, "every finding is in the file that its evaluation named"),
        (Aspect::Support, "every format is known"),
    ];
    let unreadable = parts.faults.iter().any(|f| f.gravity == Gravity::Unreadable);
    let property = |(aspect, meaning): (Aspect, &str)| {
        let of = |f: &&Fault| f.class.aspect() == aspect && f.gravity != Gravity::Notice;
        let found: Vec<&Fault> = parts.faults.iter().filter(of).collect();
        let worst = found.iter().map(|f| f.gravity).min();
        let (state, detail) = match worst {
            Some(Gravity::Incomplete) => (State::Partial, format!("{} declared exceptions", found.len())),
            Some(_) => (State::Failed, format!("{} findings", found.len())),
            None if unreadable => {
                (State::NotChecked, "something could not be read, so nothing can be said".to_owned())
            }
            None => match aspect {
                Aspect::Findings if parts.windows.unnamed > 0 => (
                    State::Partial,
                    format!(
                        "{} window records are there that no list names: an evaluation was cut short, or what \
                         named them was removed",
                        parts.windows.unnamed
                    ),
                ),
                Aspect::Findings if parts.windows.windows == 0 => (
                    State::NotChecked,
                    "no evaluation by detection is recorded here; nothing says that there was none"
                        .to_owned(),
                ),
                Aspect::Findings => (
                    State::Partial,
                    format!(
                        "{meaning}; not anchored: evaluations are not signed, and the newest can be removed unseen"
                    ),
                ),
                Aspect::Authenticity if parts.trust.mode != "pinned" => {
                    (State::Partial, format!("{meaning}; the keys are the record's own word (trust = self)"))
                }
                Aspect::Freshness if !parts.as_of => {
                    (State::NotChecked, "give --as-of to ask whether open sessions are alive".to_owned())
                }
                Aspect::Freshness => {
                    (State::Partial, format!("{meaning}, as far as heartbeats say; no witness"))
                }
                Aspect::Content if !parts.tenant_key => {
                    (State::NotChecked, "not opened: give --tenant-key".to_owned())
                }
                Aspect::Content if parts.checked.contents_not_opened > 0 => {
                    (State::Partial, format!("{} contents not opened", parts.checked.contents_not_opened))
                }
                Aspect::PopulationCompleteness if parts.one_session => {
                    (State::NotChecked, "only one session was asked for".to_owned())
                }
                _ => (State::Ok, meaning.to_owned()),
            },
        };
        Property { aspect, state, detail }
    };
    aspects.into_iter().map(property).collect()
}

fn reasons(parts: &Parts, exit_code: u8) -> Vec<String> {
    let mut reasons = Vec::new();
    let count = |class: Class| parts.faults.iter().filter(|f| f.class == class).count();
    if parts.withheld > 0 {
        reasons.push(format!(
            "{} findings may only follow from what could not be read, and are not listed",
            parts.withheld
        ));
    }
    if exit_code == 3 {
        let crashed = count(Class::Crashed);
        if crashed > 0 {
            reasons.push(format!("{crashed} sessions were cut by a crash; their producer declared it"));
        }
        for (class, what) in [
            (Class::Silent, "open sessions have a producer that has gone silent"),
            (Class::PendingLong, "sessions wait for a ledger record that is overdue"),
            (Class::NoLedger, "sessions have a producer without a ledger"),
            (Class::DeclaredGap, "gaps were declared"),
        ] {
            match count(class) {
                0 => {}
                n => reasons.push(format!("{n} {what}")),
            }
        }
    }
    if exit_code >= 3 {
        reasons.push(
            "not anchored: no checkpoint outside this lake was compared, so a rollback of the whole lake to an \
             older state would not be seen"
                .to_owned(),
        );
        if parts.trust.mode != "pinned" {
            reasons
                .push("self-trusted: the keys come from the lake itself; pin them with --trust".to_owned());
        }
    }
    if exit_code == 4 && parts.sessions.open > 0 {
        reasons.push(format!("{} sessions are open", parts.sessions.open));
    }
    reasons
}
