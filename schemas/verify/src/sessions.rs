//! All sessions, cheaply: runs of events are joined into chains, and chains compared with what the ledgers say.
//! A session about which anything is off is only marked here; [`crate::session`] then says what it is.
//!
//! Invariant: a session that is not marked has been proven whole: every hash recomputed, every link, checkpoint,
//! seal and signature checked. State is kept for each session, never for each event.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use bodycam_lake::columns::sessions::{SessionRow, Tally};
use bodycam_lake::{LedgerState, SessionState, StoredEvent};
use bodycam_record::kinds::session::SessionCheckpoint;
use bodycam_record::{Body, Digest, PrincipalRef, Seal, SessionId, key};

use crate::commits::Walk;
use crate::events::{Run, hash_after, is, same_session};
use crate::fault::{Class, Fault};
use crate::files::FileFacts;
use crate::ledger::{End, InLedger, Ledgers, Producer};
use crate::session::genesis_of;
use crate::tree::Tree;
use crate::verdict::{OpenSession, SessionCounts};

/// A heartbeat that is older than this is missed.
const SILENCE_NS: i64 = 15_000_000_000;
/// A ledger that is this much behind the newest commit of its producer lacks its end; and an event that is this
/// much older than the newest ledger record has its OPEN before that record.
const LEDGER_LAG_NS: i64 = 60_000_000_000;
/// Commits of events, in one stream, that can come before the first commit of the ledger.
const FIRST_COMMITS: u64 = 3;
/// More ledger records than a producer writes in a second.
const RECORDS_A_SECOND: i64 = 100_000;

/// Why a session of an epoch without a START is none, unless that START is on its way.
const NEW_EPOCH: &str = "no ledger announces it, and none has a START of its epoch";

/// The sessions of a lake.
pub struct Sessions<'a> {
    ledgers: &'a Ledgers,
    states: HashMap<SessionId, State>,
    heads: HashMap<(SessionId, i64), Digest>,
    unreadable: HashSet<SessionId>,
    index: HashMap<SessionId, Indexed>,
    /// Events.
    pub events: u64,
}

/// The newest row of a session in the index, and where it rests.
struct Indexed {
    row: SessionRow,
    path: Arc<str>,
    at: u64,
    /// Whether two rows of this revision differ.
    contradicted: bool,
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
    tally: Tally,
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
        Self {
            ledgers,
            states: HashMap::new(),
            heads: HashMap::new(),
            unreadable: HashSet::new(),
            index: HashMap::new(),
            events: 0,
        }
    }

    /// Takes the facts of file number `index`, which lies at `path` and was committed at `committed_ns`.
    pub fn add(&mut self, index: u32, path: &str, committed_ns: i64, facts: &mut FileFacts) {
        let path: Option<Arc<str>> = (!facts.index.is_empty()).then(|| path.into());
        for (at, row) in facts.index.drain(..) {
            let Some(path) = path.clone() else { continue };
            match self.index.get_mut(&row.session_id) {
                Some(known) if known.row.revision == row.revision => known.contradicted |= known.row != row,
                Some(known) if known.row.revision > row.revision => {}
                _ => {
                    let session = row.session_id;
                    self.index.insert(session, Indexed { row, path, at, contradicted: false });
                }
            }
        }
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

    /// Whether there are events of this session.
    pub fn has(&self, session: SessionId) -> bool {
        self.states.contains_key(&session)
    }

    /// The principals of sessions whose first event is there.
    pub fn principals(&self) -> impl Iterator<Item = PrincipalRef> {
        self.states.values().filter_map(|state| Some(state.opened.as_ref()?.envelope.principal_ref))
    }

    /// Whether rows of this session could not be read.
    pub fn is_unreadable(&self, session: SessionId) -> bool {
        self.unreadable.contains(&session)
    }

    /// Compares with the ledgers. With `only`, nothing is said about other sessions. `grows` says whether the
    /// lake has more of a producer by now than when its commits were read.
    pub fn settle(
        &mut self,
        walk: &Walk,
        grows: &dyn Fn(&str) -> bool,
        as_of_ns: Option<i64>,
        only: Option<SessionId>,
    ) -> Settled {
        let mut out = Settled::default();
        let mut stated: HashMap<SessionId, Vec<&(Arc<str>, SessionState)>> = HashMap::new();
        for statement in &walk.stated {
            stated.entry(statement.1.session).or_default().push(statement);
        }
        let mut ids: BTreeSet<SessionId> = self.states.keys().copied().collect();
        ids.extend(self.ledgers.sessions.keys());
        ids.extend(stated.keys());
        ids.retain(|id| only.is_none_or(|only| only == *id));
        let mut suspect = HashSet::new();
        let mut growing: HashMap<String, bool> = HashMap::new();
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
            if let Some(state) = state.filter(|_| !suspect.contains(&session)) {
                out.faults.extend(self.misindexed(session, state, announced));
                let stated = stated.get(&session).map(Vec::as_slice).unwrap_or_default();
                self.misstated(session, state, stated, &mut out.faults);
            }
            match (announced, state) {
                (Some(announced), state) => {
                    self.announced(session, announced, state, committed, as_of_ns, &mut out);
                }
                (None, Some(state)) => {
                    let grows =
                        || *growing.entry(state.producer.clone()).or_insert_with(|| grows(&state.producer));
                    self.unannounced(session, state, walk, grows, as_of_ns, &mut out);
                }
                (None, None) => {
                    let count = stated.get(&session).into_iter().flatten().map(|(_, s)| s.next_seq).max();
                    let detail =
                        format!("a commit counts {} events; there is none", count.unwrap_or_default());
                    out.faults.push(Fault::new(Class::MissingSession, detail).of(session));
                }
            }
        }
        if only.is_none() {
            let clean = |session: &SessionId| !suspect.contains(session);
            self.heads.retain(|(session, _), _| clean(session));
            self.ledgers.check_heartbeats(&self.heads, &mut out.faults);
            self.ledger_tails(walk, &mut out.faults);
            self.silent_producers(as_of_ns, &mut out);
            let known = |session: &SessionId| {
                self.states.contains_key(session) || self.ledgers.sessions.contains_key(session)
            };
            for (session, indexed) in self.index.iter().filter(|(session, _)| !known(session)) {
                let detail = "the index of sessions has a row of it, and there is no event";
                out.faults.push(indexed.fault(*session, detail));
            }
        }
        out
    }

    /// Whether the newest row of a session in the index is not what its events say.
    fn misindexed(&self, session: SessionId, state: &State, announced: Option<&InLedger>) -> Option<Fault> {
        let Some(indexed) = self.index.get(&session) else {
            let detail = "the index of sessions has no row of it: lists and queries would pass over it";
            return Some(Fault::new(Class::Index, detail).of(session));
        };
        if indexed.contradicted {
            return Some(
                indexed.fault(session, "the index of sessions has two different rows of one revision"),
            );
        }
        let mut expected = state.row(session);
        let says_crashed = indexed.row.state == "crashed";
        let crashed = match announced.map(|a| &a.end) {
            Some(End::Crashed(_)) => state.closed.is_none() || says_crashed,
            // The row can be committed with the events, a moment before the CRASH in the ledger.
            Some(End::Open) | None => says_crashed,
            Some(End::Sealed(_) | End::Abandoned(_)) => false,
        };
        if crashed {
            expected.crash();
        }
        let fits = indexed.row == expected;
        (!fits).then(|| indexed.fault(session, "its row in the index of sessions is not what its events say"))
    }

    /// What commits say of where a session stands, and its events do not.
    fn misstated(
        &self,
        session: SessionId,
        state: &State,
        stated: &[&(Arc<str>, SessionState)],
        faults: &mut Vec<Fault>,
    ) {
        for (path, said) in stated {
            let head = said.next_seq >= 1 && self.heads.get(&(session, said.next_seq)) == Some(&said.head);
            let last = said.next_seq == state.next;
            let what = if !head {
                "another hash of the last event than it has"
            } else if said.open && last && state.closed.is_some() {
                "that it is open, though its last event ends it"
            } else if !said.open && !last {
                "that it has ended, though events follow"
            } else {
                continue;
            };
            let detail = format!("it states of the session, after {} events, {what}", said.next_seq);
            faults.push(Fault::new(Class::Commit, detail).of(session).at(path));
        }
        if stated.iter().map(|(_, said)| said.next_seq).max() != Some(state.next) {
            let detail = format!("no commit states where it stands after its {} events", state.next);
            faults.push(Fault::new(Class::Commit, detail).of(session));
        }
    }

    /// Producers that have not stopped and have been silent, although none of their sessions is open.
    fn silent_producers(&self, as_of_ns: Option<i64>, out: &mut Settled) {
        let Some(now) = as_of_ns else { return };
        for (name, producer) in &self.ledgers.producers {
            let open = out.open.iter().any(|o| o.producer == bodycam_record::shown(name));
            if !producer.stopped && !open && now.saturating_sub(producer.last_ns) > SILENCE_NS {
                let detail =
                    "its ledger ends without a STOP, and it has been silent for more than 15 seconds";
                out.faults.push(Fault::new(Class::Silent, detail).of_producer(name));
            }
        }
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
        mut grows: impl FnMut() -> bool,
        as_of_ns: Option<i64>,
        out: &mut Settled,
    ) {
        let fault = |class, detail: &str| Fault::new(class, detail).of(session).of_producer(&state.producer);
        let producer = self.ledgers.producers.get(&state.producer);
        let never = match (&state.opened, producer) {
            (None, _) => Some("no ledger announces it, and its first event is missing"),
            (Some(opened), Some(producer)) => state.never_announced(opened, producer),
            (Some(_), None) => None,
        };
        let never = match never {
            // The START of a new epoch can be on its way, while the recorder writes.
            Some(why) if why != NEW_EPOCH || !grows() => Some(why),
            _ => None,
        };
        if let Some(detail) = never {
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
        } else if producer.is_none() {
            // The list of streams names a ledger before the first event of its producer is committed, and the
            // ledger is committed with one of the first flushes.
            let begun = walk.next_ledger.contains_key(&state.producer)
                && walk.lanes.get(&state.producer).is_none_or(|commits| *commits <= FIRST_COMMITS);
            let (class, detail) = match begun || grows() {
                true => (
                    Class::NoLedger,
                    "its producer has no ledger in the lake yet, not even the START of its process",
                ),
                false => (
                    Class::LedgerTail,
                    "the ledger of its producer is gone: events of several commits need it",
                ),
            };
            out.faults.push(fault(class, detail));
        } else {
            out.faults.push(fault(Class::Pending, "its OPEN is not in the lake yet"));
        }
    }

    /// Ledgers that end elsewhere, or stand otherwise, than the commits say.
    fn ledger_tails(&self, walk: &Walk, faults: &mut Vec<Fault>) {
        let mut last: BTreeMap<&str, i64> = BTreeMap::new();
        for (path, stated) in &walk.ledgers {
            let known = last.entry(&stated.producer).or_insert(stated.next_seq);
            *known = stated.next_seq.max(*known);
            let stood = self.ledgers.stood.get(&(stated.producer.clone(), stated.next_seq));
            if let Some(what) = stood.and_then(|stood| differs(stated, stood)) {
                let detail = format!("it states another {what} than the ledger has there");
                let fault = Fault::new(Class::Commit, detail).of_producer(&stated.producer).at(path);
                faults.push(fault.seq(stated.next_seq.saturating_sub(1)));
            }
        }
        for (producer, stated) in &last {
            let reached = self.ledgers.producers.get(*producer).map_or(0, |p| p.next_seq);
            let unknown = |n| self.ledgers.holes.contains(&n);
            if reached < *stated && !(reached..*stated).take(1 << 20).all(unknown) {
                let detail = "ledger records are missing at the end; a commit states them";
                let fault = Fault::new(Class::LedgerTail, detail).of_producer(producer);
                faults.push(fault.seqs(reached, stated.saturating_sub(1)));
            }
        }
        for (name, producer) in &self.ledgers.producers {
            let stated = last.get(name.as_str()).copied().unwrap_or_default();
            if stated < producer.next_seq {
                let detail = "no commit states where the ledger stands after these records";
                let fault = Fault::new(Class::Commit, detail).of_producer(name);
                faults.push(fault.seqs(stated, producer.next_seq.saturating_sub(1)));
            }
        }
    }
}

/// The first thing in which what a commit says of a ledger is not what the ledger says.
fn differs(stated: &LedgerState, stood: &LedgerState) -> Option<&'static str> {
    let fits = [
        ("head", stated.head == stood.head),
        ("epoch", stated.epoch == stood.epoch),
        ("producer key", stated.producer_key == stood.producer_key),
        ("epoch key", stated.epoch_key == stood.epoch_key),
        ("time up to which it is complete (watermark_ns)", stated.watermark_ns == stood.watermark_ns),
        ("answer to whether the producer stopped", stated.stopped == stood.stopped),
    ];
    fits.into_iter().find(|(_, fits)| !fits).map(|(what, _)| what)
}

impl Indexed {
    fn fault(&self, session: SessionId, detail: &str) -> Fault {
        Fault::new(Class::Index, detail).of(session).at_row(&self.path, self.at)
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
            self.tally.merge(&run.tally);
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

    /// The row of the session in the index, by what has been joined.
    fn row(&self, session: SessionId) -> SessionRow {
        let mut row = SessionRow::blank(session);
        if let Some(opened) = &self.opened {
            row.take(&opened.envelope, &opened.body, opened.hash);
        }
        row.add(&self.tally);
        if let Some(closed) = &self.closed {
            row.take(&closed.envelope, &closed.body, closed.hash);
        }
        row.head = self.head;
        row
    }

    /// Why the OPEN of the session, which `producer` has not announced so far, cannot come any more.
    fn never_announced(&self, opened: &StoredEvent, producer: &Producer) -> Option<&'static str> {
        let e = &opened.envelope;
        if producer.next_seq > self.ledger_seq {
            return Some("no ledger announces it: its OPEN is not where its events say it is");
        }
        let newest = producer.epochs.last_key_value().map_or(0, |(epoch, _)| *epoch);
        if e.epoch != newest {
            let next = e.epoch == newest.saturating_add(1) && self.ledger_seq > producer.next_seq;
            return Some(if next {
                NEW_EPOCH
            } else {
                "no ledger announces it, and its epoch is none that runs"
            });
        }
        if producer.stopped {
            return Some("no ledger announces it, and its producer has stopped");
        }
        let later_ns = e.ts_wall_ns.saturating_sub(producer.last_ns);
        // An injected clock goes as it is told.
        if !producer.simulated && later_ns < -LEDGER_LAG_NS {
            return Some("no ledger announces it, and the ledger has passed the time of its first event");
        }
        let seconds = later_ns.max(0) / 1_000_000_000;
        let plausible = seconds.saturating_add(1).saturating_mul(RECORDS_A_SECOND);
        let ahead = self.ledger_seq.saturating_sub(producer.next_seq);
        (ahead > plausible)
            .then_some("no ledger announces it: its OPEN is said to be further ahead than any can be")
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

#[cfg(test)]
mod tests {
    use super::*;
    use bodycam_record::{Envelope, Id16};

    const S: i64 = 1_000_000_000;

    #[test]
    fn an_open_can_come_only_from_a_running_epoch_later_than_the_ledger_and_not_from_far_ahead() {
        let producer = Producer {
            epochs: [(1, Digest::ZERO), (2, Digest::ZERO)].into(),
            next_seq: 50,
            last_ns: 1_000 * S,
            ..Producer::default()
        };
        let never = |producer: &Producer, epoch, ledger_seq, ts_wall_ns| {
            let envelope = Envelope {
                suite: 1,
                schema_version: 1,
                producer: "gw".into(),
                epoch,
                session: SessionId([1; 16]),
                seq: 0,
                ts_wall_ns,
                ts_mono_ns: 0,
                kind: 1,
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
            let opened = StoredEvent { envelope, body: vec![], hash: Digest::ZERO };
            State { ledger_seq, ..State::default() }.never_announced(&opened, producer)
        };
        let stopped = Producer { stopped: true, ..producer.clone() };
        let simulated = Producer { simulated: true, ..producer.clone() };
        let now = 1_001 * S;
        for (what, announced, expected) in [
            ("next", never(&producer, 2, 50, now), None),
            ("some ahead", never(&producer, 2, 5_000, now), None),
            ("a little older than the ledger", never(&producer, 2, 50, 950 * S), None),
            ("much older", never(&producer, 2, 50, 900 * S), Some("has passed the time")),
            ("much older, by an injected clock", never(&simulated, 2, 50, 900 * S), None),
            ("passed", never(&producer, 2, 49, now), Some("not where")),
            ("far ahead", never(&producer, 2, 1_000_000, now), Some("further ahead")),
            ("far ahead, much later", never(&producer, 2, 1_000_000, 1_020 * S), None),
            ("stopped", never(&stopped, 2, 50, now), Some("has stopped")),
            ("an epoch that is over", never(&producer, 1, 50, now), Some("none that runs")),
            ("the next epoch", never(&stopped, 3, 51, now), Some("START of its epoch")),
            (
                "the next epoch, in the place of its START",
                never(&stopped, 3, 50, now),
                Some("none that runs"),
            ),
            ("a far epoch", never(&stopped, 4, 51, now), Some("none that runs")),
        ] {
            match expected {
                None => assert_eq!(announced, None, "{what}"),
                Some(words) => assert!(announced.unwrap().contains(words), "{what}: {announced:?}"),
            }
        }
    }
}
