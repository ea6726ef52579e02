//! What a producer must know after a crash: where its ledger ended, which sessions were open, and how far
//! each had come. It is rebuilt from the newest segment of every lane, whose first record holds the state
//! at that point.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use bodycam_bus::spool::SpoolBus;
use bodycam_bus::stream::{KEYS_LANE, LEDGER_LANE};
use bodycam_bus::{Bus, BusError, Record, StreamId};
use bodycam_record::kinds::Body;
use bodycam_record::ledger::LedgerEnd;
use bodycam_record::{Digest, LedgerRecord, SessionId};
use serde::{Deserialize, Serialize};

/// How far a session has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SessionState {
    /// Number of its events.
    pub count: i64,
    /// Hash of the last; the genesis when there is none.
    pub head: Digest,
    /// `statement_no` or `request_no` of what has no result yet.
    pub unanswered: BTreeSet<i64>,
    /// Of texts with several statements: how many of them have no result yet.
    #[serde(default)]
    pub several: BTreeMap<i64, i64>,
}

/// The sessions of an event lane.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LaneState {
    sessions: BTreeMap<SessionId, SessionState>,
}

/// A session in the ledger that is open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct OpenInLedger {
    /// Epoch that opened it.
    pub epoch: i64,
    /// Ledger sequence number of its OPEN.
    pub open_seq: i64,
    /// Its genesis.
    pub genesis: Digest,
}

/// Where the ledger stands.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LedgerState {
    /// Epoch, next sequence number and head; none before the first START.
    pub end: Option<(i64, i64, Digest)>,
    /// Sessions that are open.
    pub open: BTreeMap<SessionId, OpenInLedger>,
}

/// What a producer finds when it starts.
#[derive(Debug, Default)]
pub(super) struct Recovered {
    pub ledger: LedgerState,
    pub sessions: BTreeMap<SessionId, SessionState>,
}

impl SessionState {
    /// Takes note of an event with this sequence number, hash and body.
    pub fn saw(&mut self, seq: i64, hash: Digest, body: &Body) {
        if seq < self.count {
            return;
        }
        self.count = seq + 1;
        self.head = hash;
        match body {
            Body::SqlStatement(s) if s.verdict == "allow" && s.form != "parse" => {
                self.unanswered.insert(s.statement_no);
                if s.statement_count > 1 {
                    self.several.insert(s.statement_no, s.statement_count);
                }
            }
            Body::SqlResult(r) if self.goes_on(r.statement_no, &r.outcome) => {}
            Body::SqlResult(r) if r.outcome != "suspended" => self.answered(r.statement_no),
            Body::HttpRequest(r) if r.verdict == "allow" => {
                self.unanswered.insert(r.request_no);
            }
            Body::HttpTunnelOpened(t) if t.verdict == "allow" => {
                self.unanswered.insert(t.request_no);
            }
            Body::HttpResponse(r) => self.answered(r.request_no),
            Body::HttpTunnelClosed(t) => self.answered(t.request_no),
            _ => {}
        }
    }

    /// Whether more statements of the same text follow one that ended like this.
    fn goes_on(&mut self, no: i64, outcome: &str) -> bool {
        let Some(left) = self.several.get_mut(&no) else { return false };
        *left -= 1;
        if *left > 0 && matches!(outcome, "complete" | "empty") {
            return true;
        }
        self.several.remove(&no);
        false
    }

    fn answered(&mut self, no: i64) {
        self.unanswered.remove(&no);
    }
}

impl LaneState {
    pub fn of(sessions: &BTreeMap<SessionId, Rc<RefCell<SessionState>>>) -> Self {
        Self { sessions: sessions.iter().map(|(id, state)| (*id, state.borrow().clone())).collect() }
    }

    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }
}

impl LedgerState {
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// The end in the form that a new epoch starts from.
    pub fn ledger_end(&self) -> Option<LedgerEnd> {
        self.end.map(|(epoch, next_seq, head)| LedgerEnd { epoch, next_seq, head })
    }

    /// Takes note of a ledger record.
    pub fn saw(&mut self, record: &LedgerRecord, body: &Body) {
        if self.end.is_some_and(|(_, next, _)| record.seq < next) {
            return;
        }
        self.end = Some((record.epoch, record.seq + 1, record.hash));
        match body {
            Body::LedgerOpen(o) => {
                let open = OpenInLedger { epoch: record.epoch, open_seq: record.seq, genesis: o.genesis };
                self.open.insert(o.session_id, open);
            }
            Body::LedgerSeal(s) => {
                self.open.remove(&s.session_id);
            }
            Body::LedgerCrash(c) => {
                self.open.remove(&c.session_id);
            }
            _ => {}
        }
    }
}

/// Reads what the last process of `producer` left in the spool. The caller holds the spool's lock.
pub(super) fn recover(bus: &SpoolBus, producer: &str) -> Result<Recovered, BusError> {
    let mut recovered = Recovered::default();
    // Nothing on the keys lane is needed again: its segments begin with an empty state.
    let of_producer = |s: &StreamId| s.producer() == producer && s.lane() != KEYS_LANE;
    for stream in bus.streams()?.into_iter().filter(of_producer) {
        let mut lane: BTreeMap<SessionId, SessionState> = BTreeMap::new();
        let mut subscription = bus.subscribe_newest(&stream)?;
        let mut records = subscription.poll(4 << 20)?;
        if !matches!(records.first(), Some((_, Record::State(_)))) {
            // The lane's first segment, or one whose state was damaged.
            subscription = bus.subscribe_oldest(&stream)?;
            records = subscription.poll(4 << 20)?;
        }
        loop {
            if records.is_empty() {
                break;
            }
            for (position, record) in records {
                apply(&stream, position, record, &mut lane, &mut recovered.ledger)?;
            }
            records = subscription.poll(4 << 20)?;
        }
        recovered.sessions.extend(lane);
    }
    Ok(recovered)
}

fn apply(
    stream: &StreamId,
    position: i64,
    record: Record,
    lane: &mut BTreeMap<SessionId, SessionState>,
    ledger: &mut LedgerState,
) -> Result<(), BusError> {
    let undecodable = |source| BusError::Decode { stream: stream.to_string(), position, source };
    let malformed = bodycam_record::canonical::DecodeError::Malformed { expected: "producer state" };
    match record {
        Record::State(bytes) if stream.lane() == LEDGER_LANE => {
            *ledger = serde_json::from_slice(&bytes).map_err(|_| undecodable(malformed))?;
        }
        Record::State(bytes) => {
            let state: LaneState = serde_json::from_slice(&bytes).map_err(|_| undecodable(malformed))?;
            *lane = state.sessions;
        }
        Record::Ledger(record) => {
            let body = record.decode_body().map_err(undecodable)?;
            ledger.saw(&record, &body);
        }
        Record::Event(event) => {
            let body = event.decode_body().map_err(undecodable)?;
            let session = event.envelope.session;
            if matches!(body, Body::SessionClosed(_)) {
                // Kept until the ledger says SEAL: a crash in between still needs its count and head.
                lane.entry(session).and_modify(|s| {
                    s.unanswered.clear();
                    s.several.clear();
                });
            }
            lane.entry(session)
                .or_insert_with(|| SessionState {
                    count: 0,
                    head: event.envelope.prev,
                    unanswered: BTreeSet::new(),
                    several: BTreeMap::new(),
                })
                .saw(event.envelope.seq, event.hash, &body);
        }
        Record::Chunk(_) | Record::Template { .. } | Record::Key { .. } | Record::Name { .. } => {}
    }
    Ok(())
}
