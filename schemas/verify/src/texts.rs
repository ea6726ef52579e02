//! Statement texts: whether the text of every fingerprint that events name is there. What a text says is compared
//! with its fingerprint where there is a tenant key; that it is there can be seen without.
//!
//! Invariant: a text counts as missing only when it can no longer be on its way. A producer spools a text before the
//! first event that names it, perhaps on another lane, and a recorder commits a ledger record after all that was
//! spooled before it: so the text of an event that is older than the last ledger record of its producer is there.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bodycam_record::{Envelope, Fingerprint, SessionId};

use crate::fault::{Class, Fault};
use crate::ledger::Ledgers;

/// The beginning of what is said of a text that is missing.
pub const TEXT: &str = "the text of fingerprint";

/// What a file says about texts.
#[derive(Debug, Default)]
pub struct TextFacts {
    named: HashMap<Fingerprint, Named>,
    there: HashSet<Fingerprint>,
    last: Option<(Fingerprint, i64)>,
}

/// The oldest event that names a text.
#[derive(Debug)]
struct Named {
    producer: String,
    ts_wall_ns: i64,
    session: SessionId,
    seq: i64,
    row: u64,
}

impl TextFacts {
    /// An event, in this row, names the text of a fingerprint.
    pub fn is_named(&mut self, fingerprint: Fingerprint, e: &Envelope, row: u64) {
        // A result names what its statement named, a moment ago.
        if self.last.is_some_and(|(last, ts_ns)| last == fingerprint && ts_ns <= e.ts_wall_ns) {
            return;
        }
        self.last = Some((fingerprint, e.ts_wall_ns));
        if self.named.get(&fingerprint).is_none_or(|known| e.ts_wall_ns < known.ts_wall_ns) {
            let (session, seq, ts_wall_ns) = (e.session, e.seq, e.ts_wall_ns);
            let named = Named { producer: e.producer.clone(), ts_wall_ns, session, seq, row };
            self.named.insert(fingerprint, named);
        }
    }

    /// The text of a fingerprint is there.
    pub fn is_there(&mut self, fingerprint: Fingerprint) {
        self.there.insert(fingerprint);
    }
}

/// Joins what the files say about texts.
#[derive(Debug, Default)]
pub struct Texts {
    named: HashMap<Fingerprint, (Arc<str>, Named)>,
    there: HashSet<Fingerprint>,
}

impl Texts {
    /// Takes what the file at `path` says.
    pub fn add(&mut self, path: &str, facts: TextFacts) {
        let path: Arc<str> = path.into();
        self.there.extend(facts.there);
        for (fingerprint, named) in facts.named {
            let known = self.named.get(&fingerprint);
            if known.is_none_or(|(_, known)| named.ts_wall_ns < known.ts_wall_ns) {
                self.named.insert(fingerprint, (Arc::clone(&path), named));
            }
        }
    }

    /// The texts that are missing. `suspect` sessions have wrong events, which may name anything.
    pub fn missing(&self, ledgers: &Ledgers, suspect: &HashSet<SessionId>) -> Vec<Fault> {
        let mut faults = Vec::new();
        for (fingerprint, (path, named)) in self.named.iter().filter(|(f, _)| !self.there.contains(f)) {
            let reached = ledgers.producers.get(&named.producer).map(|p| p.last_ns);
            if suspect.contains(&named.session) || reached.is_none_or(|ns| ns < named.ts_wall_ns) {
                continue;
            }
            let detail = format!("{TEXT} {fingerprint}, which this event names, is missing");
            let fault = Fault::new(Class::Index, detail).of(named.session).seq(named.seq);
            faults.push(fault.at_row(path, named.row));
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bodycam_record::{Digest, Id16};

    use crate::ledger::Producer;

    fn facts(names: &[(u8, i64)], there: &[u8]) -> TextFacts {
        let mut facts = TextFacts::default();
        for (row, (fingerprint, ts_wall_ns)) in names.iter().enumerate() {
            let envelope = Envelope {
                suite: 1,
                schema_version: 1,
                producer: "gw".into(),
                epoch: 1,
                session: SessionId([1; 16]),
                seq: row as i64,
                ts_wall_ns: *ts_wall_ns,
                ts_mono_ns: 0,
                kind: 10,
                kind_version: 1,
                parent_seq: None,
                principal_ref: Id16([1; 16]),
                target: "crm".into(),
                policy_digest: Digest::ZERO,
                body_digest: Digest::ZERO,
                content_no: None,
                content: None,
                prev: Digest::ZERO,
            };
            facts.is_named(Id16([*fingerprint; 16]), &envelope, row as u64);
        }
        there.iter().for_each(|fingerprint| facts.is_there(Id16([*fingerprint; 16])));
        facts
    }

    #[test]
    fn a_text_is_missing_once_the_ledger_has_passed_the_oldest_event_that_names_it() {
        let mut texts = Texts::default();
        texts.add("late", facts(&[(1, 90), (2, 120), (3, 50)], &[]));
        texts.add("early", facts(&[(1, 200), (1, 100), (1, 100), (4, 10), (1, 40)], &[3]));
        let producer = |last_ns| Producer { last_ns, ..Producer::default() };
        let missing = |last_ns: i64| {
            let producers = [("gw".to_owned(), producer(last_ns))].into();
            let faults = texts.missing(&Ledgers { producers, ..Ledgers::default() }, &HashSet::new());
            let mut places: Vec<_> = faults.into_iter().map(|f| (f.path.unwrap(), f.row.unwrap())).collect();
            places.sort();
            places
        };
        assert!(missing(9).is_empty());
        assert_eq!(missing(10), [("early".to_owned(), 3)]);
        assert_eq!(missing(40), [("early".to_owned(), 3), ("early".to_owned(), 4)]);
        assert_eq!(missing(120).len(), 3);
        assert!(texts.missing(&Ledgers::default(), &HashSet::new()).is_empty(), "nobody says how far it is");
        let suspect = HashSet::from([SessionId([1; 16])]);
        let producers = [("gw".to_owned(), producer(500))].into();
        assert!(texts.missing(&Ledgers { producers, ..Ledgers::default() }, &suspect).is_empty());
    }
}
