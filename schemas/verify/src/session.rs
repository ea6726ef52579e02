//! One session, row by row: what exactly is wrong with it, and where. [`crate::sessions`] finds out cheaply
//! whether anything is; this names it. The two agree on every session (a test in `tests/tamper` sees to it).

use std::collections::{BTreeMap, HashMap};

use bodycam_lake::StoredEvent;
use bodycam_record::kinds::session::{SessionCheckpoint, SessionClosed, SessionOpened};
use bodycam_record::{Body, Digest, Genesis, Seal, SessionId, key};

use crate::events::{hash_after, is, same_session};
use crate::fault::{Class, Fault};
use crate::files::Row;
use crate::ledger::{End, InLedger, Ledgers};
use crate::tree::Tree;

/// Rows whose true place is looked for; the others are reported as altered.
const MAX_DIAGNOSED: usize = 8;
/// Events on either side of a row among which its true predecessor is looked for, beyond the first rows.
const NEAR: i64 = 4;

/// Everything there is about a session.
pub struct Evidence<'a> {
    /// The session.
    pub session: SessionId,
    /// Its rows, in any order.
    pub rows: Vec<Row>,
    /// Numbers of events whose rows could not be read, with the hashes that they state; they were reported.
    pub holes: HashMap<i64, Option<Digest>>,
    /// The ledgers.
    pub ledgers: &'a Ledgers,
    /// Hashes of events of sessions near by, in order of session and number.
    pub neighbours: &'a [(SessionId, i64, Digest)],
    /// Number of events that the newest commit states, while the session is open.
    pub committed: Option<i64>,
}

/// What is wrong with a session that has rows. Whether it should have had any is not asked here.
pub fn examine(evidence: &Evidence<'_>) -> Vec<Fault> {
    let mut examiner = Examiner {
        evidence,
        announced: evidence.ledgers.sessions.get(&evidence.session),
        faults: Vec::new(),
        diagnosed: 0,
        origin: None,
        displaced: None,
    };
    examiner.run();
    let mut merged: Vec<Fault> = Vec::new();
    for fault in examiner.faults {
        if !merged.last_mut().is_some_and(|last| last.absorbs(&fault)) {
            merged.push(fault);
        }
    }
    merged
}

struct Examiner<'a> {
    evidence: &'a Evidence<'a>,
    announced: Option<&'a InLedger>,
    faults: Vec<Fault>,
    diagnosed: usize,
    /// Session and shift in number of the last spliced event.
    origin: Option<(SessionId, i64)>,
    /// The last event that turned out to belong elsewhere.
    displaced: Option<i64>,
}

/// What is known when the walk has reached an event.
struct Walked<'a> {
    /// Event 0.
    opened: Option<&'a StoredEvent>,
    /// Its body.
    opening: Option<SessionOpened>,
    /// Subtrees over all hashes so far; none once one was missing.
    tree: Option<Tree>,
    /// Hash of the event before; none when it is missing.
    head: Option<Digest>,
    /// Number of the `session.closed`.
    closed: Option<(i64, SessionClosed, i64)>,
    /// Wall time of event 0.
    first_ts_ns: Option<i64>,
}

impl<'a> Examiner<'a> {
    fn fault(&mut self, class: Class, row: &Row, detail: impl std::fmt::Display) {
        let fault = Fault::new(class, detail).of(self.evidence.session).seq(row.seq);
        self.faults.push(fault.at_row(&row.path, row.row));
    }

    fn run(&mut self) {
        let evidence = self.evidence;
        let mut by_seq: BTreeMap<i64, Vec<&Row>> = BTreeMap::new();
        for row in &evidence.rows {
            match row.seq {
                0.. => by_seq.entry(row.seq).or_default().push(row),
                _ => self.fault(Class::Row, row, "events are numbered from 0"),
            }
        }
        let mut walked = Walked {
            opened: None,
            opening: None,
            tree: Some(Tree::default()),
            head: None,
            closed: None,
            first_ts_ns: None,
        };
        let mut expected = 0;
        let mut heads: BTreeMap<i64, Digest> = BTreeMap::new();
        let end = self.announced.map(|a| &a.end);
        let promised = end.and_then(|end| match end {
            End::Sealed(seal) => Some((seal.count, "SEAL")),
            End::Crashed(crash) => Some((crash.count, "CRASH")),
            End::Open | End::Abandoned(_) => None,
        });
        for (seq, rows) in &by_seq {
            if *seq != expected {
                self.missing(expected, *seq, &mut walked);
            }
            let next = seq.checked_add(1).and_then(|n| by_seq.get(&n)).map(Vec::as_slice).unwrap_or_default();
            let Some(row) = self.choose(rows, walked.head, next) else { continue };
            let after_close = walked.closed.as_ref().map(|_| "the session.closed");
            let after_seal = promised.filter(|(count, _)| seq >= count).map(|(_, what)| what);
            if let Some(what) = after_seal.or(after_close) {
                self.fault(Class::AfterSeal, row, format!("it follows on {what} that ends the session"));
            }
            let head = self.event(row, &mut walked, &by_seq);
            if let Some(tree) = &mut walked.tree {
                tree.push(head);
            }
            walked.head = Some(head);
            if promised.is_some_and(|(count, _)| *seq == count.saturating_sub(1)) {
                heads.insert(*seq, head);
                if let (Some(End::Sealed(seal)), Some(tree)) = (end, &walked.tree)
                    && seal.head == head
                    && seal.root != tree.root()
                {
                    self.fault(
                        Class::SealMismatch,
                        row,
                        "the Merkle root of the SEAL is not that of the events",
                    );
                }
            }
            expected = seq.saturating_add(1);
        }
        self.end(expected, &heads, &walked);
    }

    /// Events `[from, to)` are not there.
    fn missing(&mut self, from: i64, to: i64, walked: &mut Walked<'_>) {
        let holes = &self.evidence.holes;
        // What comes next follows on the stated hash, whatever else the row holds.
        walked.head = holes.get(&to.saturating_sub(1)).copied().flatten();
        walked.tree = None;
        if (from..to).take(1 << 20).all(|n| holes.contains_key(&n)) {
            return;
        }
        let class = if from == 0 { Class::GenesisMissing } else { Class::SeqGap };
        let detail = format!("{} events are missing", to.saturating_sub(from));
        self.faults.push(Fault::new(class, detail).of(self.evidence.session).seqs(from, to - 1));
    }

    /// The row that counts among those of one number.
    fn choose<'r>(&mut self, rows: &[&'r Row], head: Option<Digest>, next: &[&Row]) -> Option<&'r Row> {
        let fits = |row: &Row| match (&row.event, head) {
            (Some(event), Some(head)) => hash_after(event, head) == row.hash,
            (None, Some(head)) => row.prev == Some(head),
            (_, None) => true,
        };
        let continued = |row: &Row| {
            next.iter().any(|n| match &n.event {
                Some(event) => hash_after(event, row.hash) == n.hash,
                None => n.prev == Some(row.hash),
            })
        };
        let chosen = match rows {
            [only] => only,
            _ => {
                let both = rows.iter().find(|r| fits(r) && continued(r));
                both.or_else(|| rows.iter().find(|r| fits(r))).or(rows.first())?
            }
        };
        for row in rows.iter().filter(|r| !std::ptr::eq(**r, *chosen)) {
            let same = row.hash == chosen.hash
                && match (&row.event, &chosen.event) {
                    (Some(a), Some(b)) => body_and_place(a) == body_and_place(b),
                    // Both were seen to hash to the hash that they state, or one was and fits here too.
                    _ => fits(row),
                };
            match same {
                true => self.fault(Class::Duplicate, row, "the same event twice, identical"),
                false => self.fault(Class::Fork, row, "another event with the number of this one"),
            }
        }
        Some(*chosen)
    }

    /// Checks one event; gives the hash on which the next follows.
    fn event<'w>(&mut self, row: &'w Row, walked: &mut Walked<'w>, all: &BTreeMap<i64, Vec<&Row>>) -> Digest {
        let Some(event) = row.event.as_deref() else {
            if let Some(head) = walked.head
                && row.prev != Some(head)
            {
                self.fault(Class::Link, row, "it follows on another event than the one before it");
            }
            return row.hash;
        };
        if row.seq == 0 {
            return self.first(row, event, walked, all);
        }
        let mut head = row.hash;
        let mut sound = true;
        if let Some(prev) = walked.head {
            sound = hash_after(event, prev) == row.hash;
            if !sound {
                head = self.unsound(row, event, prev, all);
            }
        }
        if sound
            && let Some(opened) = walked.opened
            && !same_session(opened, event)
        {
            let class =
                if opened.envelope.epoch == event.envelope.epoch { Class::Splice } else { Class::EpochKey };
            self.fault(class, row, "its producer, epoch, principal or target is not that of the session");
        }
        if is::<SessionCheckpoint>(event) {
            self.checkpoint(row, event, walked);
        }
        if is::<SessionClosed>(event)
            && let Ok(Body::SessionClosed(body)) = event.decode_body()
        {
            walked.closed = Some((row.seq, body, event.envelope.ts_wall_ns));
        }
        head
    }

    /// Checks event 0 against its own genesis and the announced one.
    fn first<'w>(
        &mut self,
        row: &'w Row,
        event: &'w StoredEvent,
        walked: &mut Walked<'w>,
        all: &BTreeMap<i64, Vec<&Row>>,
    ) -> Digest {
        let Ok(Body::SessionOpened(opening)) = event.decode_body() else {
            self.fault(Class::GenesisMissing, row, "event 0 is not the session.opened");
            return row.hash;
        };
        let genesis = genesis_of(event, &opening);
        let announced = self.announced.map(|a| a.genesis);
        let mut head = row.hash;
        if announced.is_some_and(|a| a != genesis) {
            self.fault(
                Class::Genesis,
                row,
                "the genesis made from it is not the one that the OPEN in the ledger states",
            );
        } else {
            if hash_after(event, genesis) != row.hash {
                head = self.unsound(row, event, genesis, all);
            }
        }
        if let Some(announced) = self.announced {
            let e = &event.envelope;
            if *announced.producer != *e.producer {
                self.fault(Class::Orphan, row, "its producer is not the one whose ledger opened the session");
            }
            if announced.epoch != e.epoch {
                self.fault(
                    Class::EpochKey,
                    row,
                    format!("epoch {}; the session was opened in {}", e.epoch, announced.epoch),
                );
            }
            let same = announced.principal_ref == e.principal_ref
                && announced.target == e.target
                && announced.key_digest == opening.key_digest
                && announced.open_seq == opening.ledger_seq;
            if !same && announced.genesis == genesis {
                self.fault(
                    Class::Genesis,
                    row,
                    "principal, target, key or ledger number is not that of the OPEN",
                );
            }
        }
        walked.first_ts_ns = Some(event.envelope.ts_wall_ns);
        walked.opened = Some(event);
        walked.opening = Some(opening);
        head
    }

    /// Says what is wrong with a row that does not hash to its stated hash; gives the hash on which the next
    /// event follows.
    fn unsound(
        &mut self,
        row: &Row,
        event: &StoredEvent,
        prev: Digest,
        all: &BTreeMap<i64, Vec<&Row>>,
    ) -> Digest {
        let computed = hash_after(event, prev);
        // When the next event follows on what the columns say, it is the stated hash that was altered.
        let next = row.seq.checked_add(1).and_then(|n| all.get(&n)).into_iter().flatten();
        let continues = next.filter_map(|r| Some((r, r.event.as_deref()?)));
        if continues.into_iter().any(|(r, e)| hash_after(e, computed) == r.hash) {
            self.fault(Class::Hash, row, "the stated hash was altered; the columns fit the events around it");
            return computed;
        }
        let displaced = matches!(self.displaced, Some(seq) if seq.checked_add(1) == Some(row.seq));
        self.displaced = Some(row.seq);
        match self.true_place(row, event, prev, all) {
            Some((class, what)) => self.fault(class, row, what),
            None if displaced => {
                self.fault(Class::Link, row, "the event before it is not the one that it was recorded after");
                self.displaced = None;
            }
            None => {
                self.fault(Class::Hash, row, "its columns do not hash to the hash that it states");
                self.displaced = None;
            }
        }
        row.hash
    }

    /// Where the event was recorded, if it is genuine: its stated hash fits there.
    fn true_place(
        &mut self,
        row: &Row,
        event: &StoredEvent,
        prev: Digest,
        all: &BTreeMap<i64, Vec<&Row>>,
    ) -> Option<(Class, String)> {
        let fits = |session: SessionId, seq: i64, prev: Digest| {
            let mut envelope = event.envelope.clone();
            (envelope.session, envelope.seq, envelope.prev) = (session, seq, prev);
            envelope.hash() == row.hash
        };
        let here = self.evidence.session;
        let neighbours = self.evidence.neighbours;
        // Where one row came from, the next often did, too.
        if let Some((session, shift)) = self.origin {
            let seq = row.seq.saturating_add(shift);
            let before = neighbours.partition_point(|(s, n, _)| (*s, *n) < (session, seq.saturating_sub(1)));
            let before = neighbours.iter().skip(before).take_while(|(s, n, _)| (*s, *n) < (session, seq));
            if fits(session, seq, prev) || before.into_iter().any(|(_, _, hash)| fits(session, seq, *hash)) {
                return Some(spliced(session, shift));
            }
        }
        let far = self.diagnosed < MAX_DIAGNOSED;
        self.diagnosed += 1;
        let (low, high) = match far {
            true => (i64::MIN, i64::MAX),
            false => (row.seq.saturating_sub(NEAR), row.seq.saturating_add(NEAR)),
        };
        for candidate in all.range(low..=high).flat_map(|(_, rows)| rows) {
            let near = candidate.seq.saturating_sub(2)..=candidate.seq.saturating_add(3);
            for seq in near.chain([row.seq]).filter(|seq| *seq >= 0) {
                if fits(here, seq, candidate.hash) {
                    let what = match seq.saturating_sub(row.seq) {
                        0 => "the event before it is not the one that it was recorded after".to_owned(),
                        n if n < 0 => format!("it is genuine, but was recorded {} places earlier", n.abs()),
                        n => format!("it is genuine, but was recorded {n} places later"),
                    };
                    return Some((Class::Link, what));
                }
            }
        }
        if !far {
            return None;
        }
        let found = neighbours.iter().find_map(|(session, seq, hash)| {
            let next = seq.saturating_add(1);
            (*session != here && fits(*session, next, *hash)).then_some((*session, next))
        });
        // A whole session under another name follows on itself; its opening, on the genesis that was announced.
        let renamed = || {
            let mut announced = self.evidence.ledgers.sessions.iter().filter(|(s, _)| **s != here);
            announced.find_map(|(session, known)| {
                let genesis = if row.seq == 0 { known.genesis } else { prev };
                fits(*session, row.seq, genesis).then_some((*session, row.seq))
            })
        };
        let (session, seq) = found.or_else(renamed)?;
        let shift = seq.saturating_sub(row.seq);
        self.origin = Some((session, shift));
        Some(spliced(session, shift))
    }

    fn checkpoint(&mut self, row: &Row, event: &StoredEvent, walked: &Walked<'_>) {
        let Ok(Body::SessionCheckpoint(body)) = event.decode_body() else { return };
        let head = walked.head.is_none_or(|head| head == body.head);
        let root = walked.tree.as_ref().is_none_or(|tree| tree.root() == body.root);
        if body.count != row.seq || !head || !root {
            self.fault(Class::CheckpointMismatch, row, "the events before it are not the ones that it signs");
        }
        let e = &event.envelope;
        let open_seq = self.announced.map(|a| a.open_seq);
        let open_seq = open_seq.or(walked.opening.as_ref().map(|o| o.ledger_seq));
        let key = self.evidence.ledgers.producers.get(&e.producer).and_then(|p| p.epochs.get(&e.epoch));
        if let (Some(key), Some(open_seq)) = (key, open_seq) {
            let (session, count) = (e.session, body.count);
            let seal = Seal::checkpoint(session, &e.producer, e.epoch, count, body.head, body.root, open_seq);
            if !key::verify_signature(*key, seal.digest(), &body.signature) {
                self.fault(Class::CheckpointSig, row, "the signature is not that of the epoch's key");
            }
        }
    }

    /// Compares the end with what the ledger says of it.
    fn end(&mut self, count: i64, heads: &BTreeMap<i64, Digest>, walked: &Walked<'_>) {
        let (promised, head, what) = match self.announced.map(|a| &a.end) {
            Some(End::Sealed(seal)) => (seal.count, seal.head, "SEAL"),
            Some(End::Crashed(crash)) => (crash.count, crash.head, "CRASH"),
            Some(End::Open | End::Abandoned(_)) | None => {
                let beat = self.announced.and_then(|a| a.heartbeat).map(|(seen, _)| (seen, "a heartbeat"));
                let commit = self.evidence.committed.map(|seen| (seen, "a commit"));
                if let Some((seen, by)) = beat.into_iter().chain(commit).find(|(seen, _)| *seen > count) {
                    self.tail(count, seen, by);
                }
                return;
            }
        };
        if count < promised {
            return self.tail(count, promised, &format!("the {what}"));
        }
        let last = self.evidence.rows.iter().find(|r| r.seq == promised.saturating_sub(1));
        let found = heads.get(&promised.saturating_sub(1)).copied();
        match last {
            Some(row) if found != Some(head) => {
                self.fault(
                    Class::HeadMismatch,
                    row,
                    format!("its hash is not the head that the {what} names"),
                );
            }
            Some(row) => {
                if let Some(End::Sealed(seal)) = self.announced.map(|a| &a.end) {
                    let closed = walked.closed.as_ref();
                    let totals = closed.map(|(_, c, ts)| (c.bytes_in, c.bytes_out, *ts));
                    let times = walked.first_ts_ns.is_none_or(|ts| ts == seal.first_ts_ns);
                    if !times || totals != Some((seal.bytes_in, seal.bytes_out, seal.last_ts_ns)) {
                        self.fault(
                            Class::SealMismatch,
                            row,
                            "the SEAL states other times or bytes than the events",
                        );
                    }
                }
            }
            None => {}
        }
    }

    fn tail(&mut self, count: i64, promised: i64, by: &str) {
        let holes = &self.evidence.holes;
        if (count..promised).take(1 << 20).all(|n| holes.contains_key(&n)) {
            return;
        }
        let detail = format!(
            "{} events are missing at the end; {by} counts {promised}",
            promised.saturating_sub(count)
        );
        let fault = Fault::new(Class::TailTruncated, detail).of(self.evidence.session);
        self.faults.push(fault.seqs(count, promised.saturating_sub(1)));
    }
}

/// The genesis that event 0 determines.
pub fn genesis_of(event: &StoredEvent, opened: &SessionOpened) -> Digest {
    let e = &event.envelope;
    let policy_digest = e.policy_digest;
    Genesis { producer: &e.producer, epoch: e.epoch, session: e.session, policy_digest, opened }.digest()
}

fn spliced(session: SessionId, shift: i64) -> (Class, String) {
    let number = match shift {
        0 => "with the same number".to_owned(),
        n if n < 0 => format!("with a number lower by {}", n.abs()),
        n => format!("with a number higher by {n}"),
    };
    (Class::Splice, format!("it was recorded in session {session} {number}"))
}

/// All columns of an event but its hash.
fn body_and_place(event: &StoredEvent) -> (Digest, &[u8]) {
    (hash_after(event, Digest::ZERO), &event.body)
}
