//! Gaps that a recorder declared, and which findings they account for: only what lay at the positions that were given
//! up, in the streams that they were given up of, may be missing because of them.
//!
//! Invariant: a declaration counts only in a sound ledger under a key that signed commits (and is pinned, where
//! recorders are), and only where the commits have that very hole: one generation of the stream ends where it begins,
//! and the next one begins where it ends. What is missing of a session must begin after the last event that a commit
//! before the hole states, and end before the first that a commit behind it has; a key or a name must have had a position
//! there. What commits name and is gone is an alarm as ever.

use std::collections::HashMap;

use bodycam_lake::{Commit, StreamName, Table};
use bodycam_record::{Digest, SessionId, shown};

use crate::commits::Walk;
use crate::fault::{Class, Fault};
use crate::ledger::Ledgers;
use crate::trust::Trust;
use crate::{content, texts};

mod lost_keys;

/// The lane of ledgers, and that of wrapped keys and names.
const LEDGER: &str = "ledger";
const KEYS: &str = "keys";

/// The name under which a recorder with this key keeps a ledger.
pub fn recorder_name(key: Digest) -> String {
    format!("recorder-{}", key.to_hex().get(..16).unwrap_or_default())
}

/// A generation of a stream, as its commits have it.
#[derive(Debug)]
pub struct Generation {
    stream: StreamName,
    generation: u64,
    from: u64,
    end: u64,
    /// For each session, the most events that a commit states.
    stated: HashMap<SessionId, i64>,
    /// For each session, its first event.
    first: HashMap<SessionId, i64>,
    /// Number of the ledger record after the last.
    ledger: Option<i64>,
}

/// A hole that was declared.
struct Hole<'a> {
    stream: &'a StreamName,
    from: i64,
    to: i64,
    /// The generations before it, and those behind it.
    before: Vec<&'a Generation>,
    behind: Vec<&'a Generation>,
}

impl Generation {
    /// What the commits of a generation say.
    pub fn of<'c>(
        stream: &StreamName,
        (generation, from): (u64, u64),
        commits: impl Iterator<Item = &'c Commit>,
    ) -> Self {
        let (stated, first) = (HashMap::new(), HashMap::new());
        let mut out =
            Self { stream: stream.clone(), generation, from, end: from, stated, first, ledger: None };
        for commit in commits {
            out.end = commit.to;
            for state in &commit.sessions {
                let most = out.stated.entry(state.session).or_default();
                *most = state.next_seq.max(*most);
            }
            let events = commit.files.iter().filter(|file| matches!(file.table.0, Table::Events(_)));
            for range in events.flat_map(|file| file.sessions.iter().flatten()) {
                let first = out.first.entry(range.session).or_insert(range.seq_from);
                *first = range.seq_from.min(*first);
            }
            out.ledger = commit.ledger.as_ref().map(|ledger| ledger.next_seq).or(out.ledger);
        }
        out
    }
}

/// Turns findings that declared gaps account for into such.
pub fn account_for(walk: &Walk, ledgers: &Ledgers, trust: Option<&Trust>, faults: &mut [Fault]) {
    let holes = holes(walk, ledgers, trust);
    let keys = lost_keys::accounted(&holes, walk, ledgers, faults);
    for (n, fault) in faults.iter_mut().enumerate() {
        let hole = holes.iter().find(|hole| hole.accounts_for(fault, walk, ledgers));
        let Some(hole) = keys.get(&n).copied().or(hole) else { continue };
        fault.detail = format!(
            "{}: {}; it lay at positions {} to {} of stream {}, which were given up",
            fault.class,
            fault.detail,
            hole.from,
            hole.to.saturating_sub(1),
            shown(hole.stream.as_str())
        );
        fault.class = Class::DeclaredGap;
        fault.gravity = Class::DeclaredGap.gravity();
    }
}

fn holes<'a>(walk: &'a Walk, ledgers: &Ledgers, trust: Option<&Trust>) -> Vec<Hole<'a>> {
    let mut holes = Vec::new();
    for gap in &ledgers.gaps {
        let Some(producer) = ledgers.producers.get(&*gap.producer) else { continue };
        let believed = producer.key.is_some_and(|key| {
            let pinned = trust.is_none_or(|t| t.recorders.is_empty() || t.recorders.contains(&key));
            pinned && *gap.producer == recorder_name(key) && walk.recorders.contains(&key)
        });
        if !believed || !producer.sound {
            continue;
        }
        let of_stream = || walk.generations.iter().filter(|g| g.stream.as_str() == gap.stream);
        let at = |position: u64| i64::try_from(position).unwrap_or(i64::MAX);
        let Some(behind) = of_stream().find(|g| at(g.from) == gap.to && gap.from < gap.to) else { continue };
        let before: Vec<_> = of_stream().filter(|g| g.generation < behind.generation).collect();
        let end = before.iter().max_by_key(|g| g.generation).map_or(0, |g| at(g.end));
        if end != gap.from {
            continue;
        }
        let later = of_stream().filter(|g| g.generation >= behind.generation).collect();
        holes.push(Hole { stream: &behind.stream, from: gap.from, to: gap.to, before, behind: later });
    }
    holes
}

impl Hole<'_> {
    fn accounts_for(&self, fault: &Fault, walk: &Walk, ledgers: &Ledgers) -> bool {
        let of_session = fault.session.and_then(|session| ledgers.sessions.get(&session));
        let producer = of_session.map(|s| &*s.producer).or(fault.producer.as_deref());
        let of_producer = producer == Some(self.stream.producer());
        match (self.stream.lane(), fault.class) {
            (LEDGER, Class::LedgerSeq) => of_producer && fault.seq == self.ledger_before(),
            (LEDGER, Class::EpochGap | Class::NoSeal) => of_producer,
            (LEDGER, Class::Orphan) => fault.producer.as_deref() == Some(self.stream.producer()),
            // Keys and names: `lost_keys`.
            (LEDGER | KEYS, _) => false,
            (_, Class::SeqGap | Class::GenesisMissing | Class::TailTruncated) => {
                fault.session.is_some_and(|session| self.holds_events(session, fault))
            }
            // Of one that a commit speaks of there was something.
            (_, Class::MissingSession) => {
                let spoken_of =
                    |session| walk.stated.iter().any(|(_, stated)| Some(stated.session) == session);
                of_producer && fault.session.is_some() && !spoken_of(fault.session)
            }
            (_, Class::PayloadMissing) => self.goes_on(fault.session),
            (_, Class::Payload) => self.goes_on(fault.session) && fault.detail.ends_with(content::NOT_WHOLE),
            (_, Class::Index) => of_producer && fault.detail.starts_with(texts::TEXT),
            _ => false,
        }
    }

    /// Whether the events that are missing can have been in the hole.
    fn holds_events(&self, session: SessionId, fault: &Fault) -> bool {
        let before = self.before.iter().filter_map(|g| g.stated.get(&session)).max();
        let behind = self.behind.iter().filter_map(|g| g.first.get(&session)).min();
        let Some(first) = fault.seq else { return false };
        let last = fault.seq_to.unwrap_or(first);
        // Of one of which nothing is in this stream nothing says that it was.
        (before.is_some() || behind.is_some())
            && first >= before.copied().unwrap_or(0)
            && behind.is_none_or(|behind| last < *behind)
    }

    /// Whether the session has events behind the hole, whose content can have been in it.
    fn goes_on(&self, session: Option<SessionId>) -> bool {
        session.is_some_and(|session| self.behind.iter().any(|g| g.first.contains_key(&session)))
    }

    fn ledger_before(&self) -> Option<i64> {
        let newest = self.before.iter().max_by_key(|g| g.generation);
        Some(newest.and_then(|g| g.ledger).unwrap_or(0))
    }
}
