//! The sessions that the recorder follows: where each chain stands, and its row in the index.

use std::collections::HashMap;

use bodycam_lake::columns::sessions::SessionRow;
use bodycam_lake::{Filter, Lake, SessionState};
use bodycam_record::canonical::Reader;
use bodycam_record::kinds::ledger::LedgerCrash;
use bodycam_record::{Body, Digest, Event, Id16, KindTable, SessionId};

use crate::error::RecorderError;

/// How many open sessions are looked up one by one at start; beyond it the whole index is read once.
const LOOK_UP: usize = 64;

/// A followed session.
#[derive(Debug, Clone)]
pub struct Session {
    /// Number of the next event.
    pub next_seq: i64,
    /// Hash of the last event.
    pub head: Digest,
    /// Whether more is expected.
    pub open: bool,
    /// Its row in the index.
    pub row: SessionRow,
    /// Number and hash of the events since the last commit: those that came in ascending order.
    recent: Vec<(i64, Digest)>,
    /// The others.
    recent_odd: Vec<(i64, Digest)>,
}

/// Every session that is open, or that ended since the last commit of its stream.
#[derive(Debug, Default)]
pub struct Sessions {
    by_id: HashMap<SessionId, Session>,
}

impl Sessions {
    /// The sessions that the lake says are open.
    pub async fn load(lake: &Lake) -> Result<Self, RecorderError> {
        let view = lake.view();
        let open = &lake.state().open;
        let mut rows = HashMap::new();
        if open.len() <= LOOK_UP {
            for id in open.keys() {
                rows.extend(view.session(*id).await?.map(|row| (*id, row)));
            }
        } else {
            let all = view.sessions(&Filter::all()).await?;
            rows.extend(
                all.into_iter().filter(|r| open.contains_key(&r.session_id)).map(|r| (r.session_id, r)),
            );
        }
        let by_id = open.iter().map(|(id, (_, state))| {
            let row = rows.remove(id).unwrap_or_else(|| blank(*id));
            (*id, Session::new(state.next_seq, state.head, row))
        });
        Ok(Self { by_id: by_id.collect() })
    }

    /// The session, when it is followed.
    pub fn get(&self, id: SessionId) -> Option<&Session> {
        self.by_id.get(&id)
    }

    /// Number of sessions followed.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Takes an event into its session, following it from now on.
    pub fn take(&mut self, event: &Event) {
        let e = &event.envelope;
        let session =
            self.by_id.entry(e.session).or_insert_with(|| Session::new(0, Digest::ZERO, blank(e.session)));
        session.next_seq = session.next_seq.max(e.seq.saturating_add(1));
        session.head = event.hash;
        match session.recent.last() {
            Some((last, _)) if *last >= e.seq => session.recent_odd.push((e.seq, event.hash)),
            _ => session.recent.push((e.seq, event.hash)),
        }
        session.row.take(event);
        session.open = session.row.state == "open";
    }

    /// Marks a session as cut by a crash; gives whether it is followed.
    pub fn crash(&mut self, crash: &LedgerCrash) -> bool {
        let Some(session) = self.by_id.get_mut(&crash.session_id) else { return false };
        session.open = false;
        session.row.state = "crashed".to_owned();
        session.row.end_reason = Some("crash".to_owned());
        session.row.ended_ns = Some(session.row.last_activity_ns);
        session.row.revise();
        true
    }

    /// Where a session stands, for a commit.
    pub fn state(&self, id: SessionId) -> Option<SessionState> {
        self.by_id.get(&id).map(|s| SessionState {
            session: id,
            next_seq: s.next_seq,
            head: s.head,
            open: s.open,
        })
    }

    /// Takes note that everything of a session is committed: one that has ended is forgotten.
    pub fn committed(&mut self, id: SessionId) {
        match self.by_id.get_mut(&id) {
            Some(session) if session.open => {
                session.recent.clear();
                session.recent_odd.clear();
            }
            _ => drop(self.by_id.remove(&id)),
        }
    }
}

impl Session {
    fn new(next_seq: i64, head: Digest, row: SessionRow) -> Self {
        Self { next_seq, head, open: true, row, recent: Vec::new(), recent_odd: Vec::new() }
    }

    /// The hashes of the events with number `seq` that came since the last commit.
    pub fn recent(&self, seq: i64) -> impl Iterator<Item = Digest> {
        let found = self.recent.binary_search_by_key(&seq, |(seq, _)| *seq).ok();
        let in_order = found.and_then(|at| self.recent.get(at));
        let odd = self.recent_odd.iter().filter(move |(odd, _)| *odd == seq);
        in_order.into_iter().chain(odd).map(|(_, hash)| *hash)
    }
}

/// The row of a session of which nothing is known yet.
fn blank(id: SessionId) -> SessionRow {
    SessionRow {
        session_id: id,
        revision: 0,
        principal_ref: Id16::ZERO,
        principal_kind: String::new(),
        target: String::new(),
        protocol: String::new(),
        database: String::new(),
        producer: String::new(),
        epoch: 0,
        started_ns: 0,
        ended_ns: None,
        last_activity_ns: 0,
        state: "open".to_owned(),
        end_reason: None,
        statements: 0,
        rows: 0,
        bytes_in: 0,
        bytes_out: 0,
        denies: 0,
        errors: 0,
        events: 0,
        head: Digest::ZERO,
        simulated_clock: false,
        correlation: None,
    }
}

/// What the index takes from an event.
trait TakeEvent {
    fn take(&mut self, event: &Event);
    fn revise(&mut self);
}

impl TakeEvent for SessionRow {
    fn take(&mut self, event: &Event) {
        let e = &event.envelope;
        if self.events == 0 {
            self.principal_ref = e.principal_ref;
            self.target.clone_from(&e.target);
            self.producer.clone_from(&e.producer);
            self.epoch = e.epoch;
            self.started_ns = e.ts_wall_ns;
        }
        self.events += 1;
        self.head = event.hash;
        self.last_activity_ns = self.last_activity_ns.max(e.ts_wall_ns);
        // Sessions begin and end once; everything between is read without building its body.
        match KindTable::of(e.kind).map(|t| (t, t.name)) {
            Some((_, "session.opened" | "session.closed")) => match event.decode_body() {
                Ok(Body::SessionOpened(opened)) => {
                    self.principal_kind = opened.principal_kind;
                    self.protocol = opened.protocol;
                    self.database = opened.database;
                    self.simulated_clock = opened.simulated_clock;
                    self.correlation = opened.correlation;
                    self.started_ns = e.ts_wall_ns;
                }
                Ok(Body::SessionClosed(closed)) => {
                    self.state = "sealed".to_owned();
                    self.end_reason = Some(closed.reason);
                    self.ended_ns = Some(e.ts_wall_ns);
                    self.statements = closed.statements;
                    self.rows = closed.rows;
                    self.bytes_in = closed.bytes_in;
                    self.bytes_out = closed.bytes_out;
                }
                _ => {}
            },
            Some((table, name)) => {
                let facts = Facts::of(table, &event.body);
                let denied = i64::from(facts.verdict == Some(b"deny"));
                match name {
                    "sql.statement" | "http.request" | "http.tunnel_opened" => {
                        self.statements += 1;
                        self.denies += denied;
                    }
                    "sql.result" => {
                        self.rows += facts.rows;
                        self.bytes_out += facts.bytes;
                        self.errors += i64::from(facts.outcome == Some(b"error"));
                    }
                    // What a COPY sends to the client stands in its result as well.
                    "sql.copy" if facts.direction == Some(b"in") => self.bytes_in += facts.bytes,
                    // What leaves for the target came from the client.
                    "http.response" | "http.tunnel_closed" => {
                        self.bytes_in += facts.bytes_out;
                        self.bytes_out += facts.bytes_in;
                        self.errors += i64::from(facts.outcome == Some(b"error"));
                    }
                    "control.decision" => self.denies += denied,
                    _ => {}
                }
                if self.correlation.is_none() {
                    self.correlation = facts.correlation;
                }
            }
            None => {}
        }
        self.revise();
    }

    /// Revisions grow with the events, and once more with an end that is no event.
    fn revise(&mut self) {
        self.revision = self.events * 2 + i64::from(self.state == "crashed");
    }
}

/// The fields that the index counts, straight from canonical bytes.
#[derive(Default)]
struct Facts<'a> {
    verdict: Option<&'a [u8]>,
    outcome: Option<&'a [u8]>,
    direction: Option<&'a [u8]>,
    rows: i64,
    bytes: i64,
    bytes_in: i64,
    bytes_out: i64,
    correlation: Option<Id16>,
}

impl<'a> Facts<'a> {
    fn of(table: &KindTable, body: &'a [u8]) -> Self {
        let mut facts = Facts::default();
        let mut r = Reader::new(body);
        let int = |b: &[u8]| b.try_into().map_or(0, i64::from_le_bytes);
        for field in table.fields {
            let Ok(inside) = r.bytes() else { break };
            match field.name {
                "verdict" => facts.verdict = Some(inside),
                "outcome" => facts.outcome = Some(inside),
                "direction" => facts.direction = Some(inside),
                "rows" => facts.rows = int(inside),
                "bytes" => facts.bytes = int(inside),
                "bytes_in" => facts.bytes_in = int(inside),
                "bytes_out" => facts.bytes_out = int(inside),
                "correlation" => facts.correlation = inside.get(1..).and_then(|id| Id16::try_from(id).ok()),
                _ => {}
            }
        }
        facts
    }
}
