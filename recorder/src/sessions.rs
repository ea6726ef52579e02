//! The sessions that the recorder follows: where each chain stands, and its row in the index.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use bodycam_lake::columns::sessions::SessionRow;
use bodycam_lake::{Filter, Lake, SessionState};
use bodycam_record::kinds::ledger::LedgerCrash;
use bodycam_record::{Digest, Event, SessionId};

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
    /// Producer of the stream that it comes on.
    owner: Arc<str>,
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
    /// Follows the sessions of these producers that the lake says are open, and what was followed of them no longer.
    pub async fn load(&mut self, lake: &Lake, producers: &BTreeSet<String>) -> Result<(), RecorderError> {
        producers.iter().for_each(|producer| self.forget(producer));
        let (view, state) = (lake.view(), lake.state());
        let owner = |index: usize| {
            let producer = state.streams.get(index)?.stream.producer();
            producers.contains(producer).then(|| Arc::<str>::from(producer))
        };
        let open: HashMap<_, _> =
            state.open.iter().filter_map(|(id, (i, state))| Some((*id, (owner(*i)?, *state)))).collect();
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
        self.by_id.extend(open.into_iter().map(|(id, (owner, state))| {
            let row = rows.remove(&id).unwrap_or_else(|| SessionRow::blank(id));
            (id, Session::new(state.next_seq, state.head, row, owner))
        }));
        Ok(())
    }

    /// Follows no session of a producer any more.
    pub fn forget(&mut self, producer: &str) {
        self.by_id.retain(|_, session| *session.owner != *producer);
    }

    /// The session, when it is followed.
    pub fn get(&self, id: SessionId) -> Option<&Session> {
        self.by_id.get(&id)
    }

    /// Number of sessions followed.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Takes an event that came on a stream of producer `owner` into its session, following it from now on.
    pub fn take(&mut self, event: &Event, owner: &str) {
        let e = &event.envelope;
        let session = self
            .by_id
            .entry(e.session)
            .or_insert_with(|| Session::new(0, Digest::ZERO, SessionRow::blank(e.session), owner.into()));
        session.next_seq = session.next_seq.max(e.seq.saturating_add(1));
        session.head = event.hash;
        match session.recent.last() {
            Some((last, _)) if *last >= e.seq => session.recent_odd.push((e.seq, event.hash)),
            _ => session.recent.push((e.seq, event.hash)),
        }
        session.row.take(e, &event.body, event.hash);
        session.open = session.row.state == "open";
    }

    /// Marks a session as cut by a crash; gives whether it is followed.
    pub fn crash(&mut self, crash: &LedgerCrash) -> bool {
        let Some(session) = self.by_id.get_mut(&crash.session_id) else { return false };
        session.open = false;
        session.row.crash();
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
    fn new(next_seq: i64, head: Digest, row: SessionRow, owner: Arc<str>) -> Self {
        Self { next_seq, head, open: true, row, owner, recent: Vec::new(), recent_odd: Vec::new() }
    }

    /// The hashes of the events with number `seq` that came since the last commit.
    pub fn recent(&self, seq: i64) -> impl Iterator<Item = Digest> {
        let found = self.recent.binary_search_by_key(&seq, |(seq, _)| *seq).ok();
        let in_order = found.and_then(|at| self.recent.get(at));
        let odd = self.recent_odd.iter().filter(move |(odd, _)| *odd == seq);
        in_order.into_iter().chain(odd).map(|(_, hash)| *hash)
    }
}
