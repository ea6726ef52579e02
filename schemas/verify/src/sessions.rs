//! All sessions, cheaply: runs of events are joined into chains, and chains compared with what the ledgers say.
//! A session about which anything is off is only marked here; [`crate::session`] then says what it is.
//!
//! Invariant: a session that is not marked has been proven whole: every hash recomputed, every link, checkpoint,
//! seal and signature checked. State is kept for each session, never for each event.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use bodycam_lake::StoredEvent;
use bodycam_record::kinds::session::SessionCheckpoint;
use bodycam_record::{Body, Digest, Seal, SessionId, key};

use crate::commits::Walk;
use crate::events::{Run, hash_after, is, same_session};
use crate::fault::{Class, Fault};
use crate::files::FileFacts;
use crate::ledger::{End, InLedger, Ledgers};
use crate::session::genesis_of;
use crate::tree::Tree;
use crate::verdict::{OpenSession, SessionCounts};

/// A heartbeat that is older than this is missed.
const SILENCE_NS: i64 = 15_000_000_000;
/// A ledger that is this much behind the newest commit of its producer lacks its end.
const LEDGER_LAG_NS: i64 = 60_000_000_000;

/// The sessions of a lake.
pub struct Sessions<'a> {
    ledgers: &'a Ledgers,
    states: HashMap<SessionId, State>,
    heads: HashMap<(SessionId, i64), Digest>,
    unreadable: HashSet<SessionId>,
    /// Events.
    pub events: u64,
}

/// How far a session's chain has been joined.
#[derive(Default)]
struct State {
    opened: Option<Box<StoredEvent>>,
    ledger_seq: i64,
    key_digest: Digest,
    next: i64,
    head: Digest,
    tree: Tree,
    last_ts_ns: i64,
    closed: Option<Box<StoredEvent>>,
    waiting: BTreeMap<i64, Run>,
    suspect: bool,
    rows: u64,
    /// Indices of the files that hold rows of it.
    files: Vec<u32>,
    /// Time of the first commit that holds rows of it.
    committed_ns: i64,
    producer: String,
}

/// What becomes of all sessions in the end.
#[derive(Debug, Default)]
pub struct Settled {
    /// How many there are of each sort.
    pub counts: SessionCounts,
    /// Sessions that are open.
    pub open: Vec<OpenSession>,
    /// Sessions that must be looked at row by row, with the files that hold them and their rows.
    pub suspects: BTreeMap<SessionId, (Vec<u32>, u64)>,
    /// What is wrong with the population.
    pub faults: Vec<Fault>,
}

impl<'a> Sessions<'a> {
    /// No sessions yet.
    pub fn new(ledgers: &'a Ledgers) -> Self {
        Self { ledgers, states: HashMap::new(), heads: HashMap::new(), unreadable: HashSet::new(), events: 0 }
    }

    /// Takes the facts of file number `index`, which was committed at `committed_ns`.
    pub fn add(&mut self, index: u32, committed_ns: i64, facts: &mut FileFacts) {
        for session in facts.unreadable.drain() {
            let state = self.states.entry(session).or_default();
            state.suspect = true;
            state.seen_in(index, committed_ns);
            self.unreadable.insert(session);
        }
        for (session, count, head) in facts.heads.drain(..) {
            self.heads.insert((session, count), head);
        }
        for run in facts.runs.drain(..) {
            let rows = u64::try_from(run.next.saturating_sub(run.from())).unwrap_or_default();
            self.events += rows;
            let announced = self.ledgers.sessions.get(&run.session());
            let state = self.states.entry(run.session()).or_default();
            state.rows += rows;
            state.seen_in(index, committed_ns);
            state.take(run, announced, self.ledgers);
        }
    }

    /// Whether rows of this session could not be read.
    pub fn is_unreadable(&self, session: SessionId) -> bool {
        self.unreadable.contains(&session)
    }

    /// Compares with the ledgers. With `only`, nothing is said about other sessions.
    pub fn settle(&mut self, walk: &Walk, as_of_ns: Option<i64>, only: Option<SessionId>) -> Settled {
        let mut out = Settled::default();
        let mut ids: BTreeSet<SessionId> = self.states.keys().copied().collect();
        ids.extend(self.ledgers.sessions.keys());
        ids.retain(|id| only.is_none_or(|only| only == *id));
        let mut suspect = HashSet::new();
        for session in ids {
            let state = self.states.get(&session);
            let announced = self.ledgers.sessions.get(&session);
            let committed = walk.open.get(&session).copied();
            if let Some(state) = state
                && !state.agrees(announced, committed)
            {
                out.suspects.insert(session, (state.files.clone(), state.rows));
                suspect.insert(session);
            }
            match (announced, state) {
                (Some(announced), state) => {
                    self.announced(session, announced, state, committed, as_of_ns, &mut out);
                }
                (None, Some(state)) => self.unannounced(session, state, walk, as_of_ns, &mut out),
                (None, None) => {}
            }
        }
        if only.is_none() {
            let clean = |session: &SessionId| !suspect.contains(session);
            self.heads.retain(|(session, _), _| clean(session));
            self.ledgers.check_heartbeats(&self.heads, &mut out.faults);
            self.ledger_tails(walk, &mut out.faults);
        }
        out
    }

    /// A session that a ledger announces.
    fn announced(
        &self,
        session: SessionId,
        announced: &InLedger,
        state: Option<&State>,
        committed: Option<i64>,
        as_of_ns: Option<i64>,
        out: &mut Settled,
    ) {
        let fault = |class, detail: String| Fault::new(class, detail).of(session);
        let missing = |promised: i64, by: &str| {
            let detail = format!("{by} counts {promised} events; there is none");
            Fault::new(Class::MissingSession, detail).of(session).of_producer(&announced.producer)
        };
        match &announced.end {
            End::Sealed(seal) => {
                out.counts.sealed += 1;
                if state.is_none() && seal.count > 0 {
                    out.faults.push(missing(seal.count, "the SEAL"));
                }
            }
            End::Crashed(crash) => {
                out.counts.crashed += 1;
                if state.is_none() && crash.count > 0 {
                    out.faults.push(missing(crash.count, "the CRASH"));
                }
                let unknown = match crash.unknown_outcome.as_slice() {
                    [] => String::new(),
                    numbers => format!("; the outcome of statements {numbers:?} is unknown"),
                };
                let detail =
                    format!("cut by a crash of {} after {} events{unknown}", announced.producer, crash.count);
                out.faults.push(fault(Class::Crashed, detail));
            }
            End::Abandoned(why) => {
                out.counts.open += 1;
                out.faults.push(fault(Class::NoSeal, format!("neither SEAL nor CRASH: {why}")));
            }
            End::Open => {
                out.counts.open += 1;
                let beat = announced.heartbeat;
                let promised = beat.map(|(seen, _)| (seen, "a heartbeat"));
                let promised = promised.into_iter().chain(committed.map(|seen| (seen, "a commit")));
                if let (None, Some((seen, by))) = (state, promised.max().filter(|(seen, _)| *seen > 0)) {
                    out.faults.push(missing(seen, by));
                }
                let last_heartbeat_ns = beat.map_or(announced.opened_ns, |(_, ns)| ns);
                if as_of_ns.is_some_and(|now| now.saturating_sub(last_heartbeat_ns) > SILENCE_NS) {
                    let detail = "open, and its producer has been silent for more than 15 seconds";
                    out.faults.push(fault(Class::Silent, detail.to_owned()));
                }
                out.open.push(OpenSession {
                    session,
                    producer: bodycam_record::shown(&announced.producer),
                    target: bodycam_record::shown(&announced.target),
                    events: state.map_or(0, |s| s.next),
                    last_heartbeat_ns: beat.map(|(_, ns)| ns),
                });
            }
        }
    }

    /// A session that no ledger announces: not yet, or never.
    fn unannounced(
        &self,
        session: SessionId,
        state: &State,
        walk: &Walk,
        as_of_ns: Option<i64>,
        out: &mut Settled,
    ) {
        let fault = |class, detail: &str| Fault::new(class, detail).of(session).of_producer(&state.producer);
        let reached = self.ledgers.producers.get(&state.producer).map_or(0, |p| p.next_seq);
        if state.opened.is_none() || reached > state.ledger_seq {
            let detail = "no ledger announces it: its OPEN is not where its events say it is";
            out.faults.push(fault(Class::Orphan, detail));
            out.counts.orphaned += 1;
            return;
        }
        out.counts.pending += 1;
        let newest = walk.newest_ns.get(&state.producer).copied().unwrap_or(state.committed_ns);
        if newest.saturating_sub(state.committed_ns) > LEDGER_LAG_NS {
            let detail =
                "its OPEN is missing: the ledger ends before it, and later commits of the producer are there";
            out.faults.push(fault(Class::LedgerTail, detail));
        } else if as_of_ns.is_some_and(|now| now.saturating_sub(state.committed_ns) > LEDGER_LAG_NS) {
            let detail = "its OPEN is not in the lake, and should have been long ago";
            out.faults.push(fault(Class::PendingLong, detail));
        } else if reached == 0 {
            let detail = "its producer has no ledger in the lake, not even the START of its process";
            out.faults.push(fault(Class::NoLedger, detail));
        } else {
            out.faults.push(fault(Class::Pending, "its OPEN is not in the lake yet"));
        }
    }

    /// Ledgers that end before the commits say.
    fn ledger_tails(&self, walk: &Walk, faults: &mut Vec<Fault>) {
        for stated in &walk.ledgers {
            let reached = self.ledgers.producers.get(&stated.producer).map_or(0, |p| p.next_seq);
            if reached < stated.next_seq {
                let detail = "ledger records are missing at the end; a commit states them";
                let fault = Fault::new(Class::LedgerTail, detail).of_producer(&stated.producer);
                faults.push(fault.seqs(reached, stated.next_seq.saturating_sub(1)));
            }
        }
    }
}

impl State {
    fn seen_in(&mut self, index: u32, committed_ns: i64) {
        if self.files.is_empty() || committed_ns < self.committed_ns {
            self.committed_ns = committed_ns;
        }
        if !self.files.contains(&index) {
            self.files.push(index);
        }
    }

    /// Takes a run: joins it when it comes next, keeps it when it comes later.
    fn take(&mut self, run: Run, announced: Option<&InLedger>, ledgers: &Ledgers) {
        if self.producer.is_empty() {
            self.producer.clone_from(&run.first.envelope.producer);
        }
        if run.from() < self.next || self.waiting.contains_key(&run.from()) {
            self.suspect = true;
        } else {
            self.waiting.insert(run.from(), run);
        }
        while let Some(run) = self.waiting.remove(&self.next) {
            let sound = !run.broken && self.joins(&run, announced, ledgers);
            self.suspect |= !sound;
            self.tree.append(&run.tree);
            (self.next, self.head, self.last_ts_ns) = (run.next, run.head, run.last_ts_ns);
            self.closed = run.closed;
        }
        if self.suspect {
            // Nothing more is to be proven, and what waits would only take room.
            self.waiting.clear();
        }
    }

    /// Whether the run follows on what has been joined.
    fn joins(&mut self, run: &Run, announced: Option<&InLedger>, ledgers: &Ledgers) -> bool {
        let first = &run.first;
        if run.from() == 0 {
            let Ok(Body::SessionOpened(opening)) = first.decode_body() else { return false };
            let genesis = genesis_of(first, &opening);
            (self.ledger_seq, self.key_digest) = (opening.ledger_seq, opening.key_digest);
            self.producer.clone_from(&first.envelope.producer);
            self.opened = Some(first.clone());
            return hash_after(first, genesis) == first.hash
                && announced.is_none_or(|a| a.genesis == genesis);
        }
        let follows = self.closed.is_none()
            && self.opened.as_ref().is_some_and(|opened| same_session(opened, first))
            && hash_after(first, self.head) == first.hash;
        follows && (!is::<SessionCheckpoint>(first) || self.is_signed(first, ledgers))
    }

    /// Whether a checkpoint speaks of exactly what has been joined.
    fn is_signed(&self, event: &StoredEvent, ledgers: &Ledgers) -> bool {
        let Ok(Body::SessionCheckpoint(body)) = event.decode_body() else { return false };
        if (body.count, body.head, body.root) != (self.next, self.head, self.tree.root()) {
            return false;
        }
        let e = &event.envelope;
        let key = ledgers.producers.get(&e.producer).and_then(|p| p.epochs.get(&e.epoch));
        let (session, count, open_seq) = (e.session, body.count, self.ledger_seq);
        let seal = Seal::checkpoint(session, &e.producer, e.epoch, count, body.head, body.root, open_seq);
        // Without a key the session is pending or an orphan, which is reported as such.
        key.is_none_or(|key| key::verify_signature(*key, seal.digest(), &body.signature))
    }

    /// Whether everything about the session has been proven.
    fn agrees(&self, announced: Option<&InLedger>, committed: Option<i64>) -> bool {
        let Some(opened) = &self.opened else { return false };
        if self.suspect || !self.waiting.is_empty() {
            return false;
        }
        let enough = committed.is_none_or(|count| count <= self.next);
        let Some(announced) = announced else { return enough };
        let e = &opened.envelope;
        let as_announced = *announced.producer == *e.producer
            && announced.target == e.target
            && (announced.epoch, announced.principal_ref) == (e.epoch, e.principal_ref)
            && (announced.open_seq, announced.key_digest) == (self.ledger_seq, self.key_digest);
        as_announced
            && match &announced.end {
                End::Sealed(seal) => {
                    let Some(Ok(Body::SessionClosed(closed))) = self.closed.as_ref().map(|c| c.decode_body())
                    else {
                        return false;
                    };
                    (seal.count, seal.head, seal.root) == (self.next, self.head, self.tree.root())
                        && (seal.first_ts_ns, seal.last_ts_ns) == (e.ts_wall_ns, self.last_ts_ns)
                        && (seal.bytes_in, seal.bytes_out) == (closed.bytes_in, closed.bytes_out)
                }
                End::Crashed(crash) => (crash.count, crash.head) == (self.next, self.head),
                End::Open | End::Abandoned(_) => {
                    enough && announced.heartbeat.is_none_or(|(count, _)| count <= self.next)
                }
            }
    }
}
