//! Bus records → checked, deduplicated, staged for their tables.
//!
//! Every event's hash is recomputed and its place in the chain checked. The same event again is dropped and
//! counted; a different event in the same place, a gap or a broken link is stored and raises a finding.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bodycam_bus::Record;
use bodycam_lake::layout::Hour;
use bodycam_lake::{Lake, LedgerState, StreamName, Table, View};
use bodycam_record::canonical::Writer;
use bodycam_record::{
    Body, Digest, Event, Family, Fingerprint, Genesis, KindTable, LedgerRecord, PrincipalRef, SealedChunk,
    SessionId, digest,
};

use crate::error::RecorderError;
use crate::findings::{Fault, Findings};
use crate::sessions::Sessions;
use crate::templates::Templates;

mod ledger;

pub use ledger::Ledgers;

/// What was taken from one stream since its last commit.
#[expect(clippy::vec_box, reason = "the bus gives boxes, and sorting then moves pointers, not events")]
#[derive(Debug, Default)]
pub struct Staged {
    /// Events by table and hour.
    pub events: BTreeMap<(Family, Hour), Vec<Box<Event>>>,
    /// Content by the hour of its session.
    pub chunks: BTreeMap<Hour, Vec<SealedChunk>>,
    /// Ledger records by hour.
    pub ledger: BTreeMap<Hour, Vec<Box<LedgerRecord>>>,
    /// The ledger after these records.
    pub ledger_state: Option<LedgerState>,
    /// Statement texts that are new.
    pub templates: Vec<(Fingerprint, String)>,
    /// Wrapped session keys.
    pub keys: Vec<(SessionId, Vec<u8>)>,
    /// Wrapped names.
    pub names: Vec<(PrincipalRef, Vec<u8>)>,
    /// Sessions touched.
    pub sessions: BTreeSet<SessionId>,
    /// What is wrong.
    pub findings: Findings,
    /// Events dropped because they came again.
    pub duplicates: u64,
    /// Records taken.
    pub records: u64,
    /// Bytes held, about.
    pub bytes: u64,
}

/// What all streams share.
pub struct Ingest {
    /// Sessions followed.
    pub sessions: Sessions,
    templates: Templates,
    /// Ledgers followed.
    pub ledgers: Ledgers,
    /// Hashes of sessions that were asked for since the last commit, by session and `seq`.
    stored: HashMap<SessionId, HashMap<i64, Vec<Digest>>>,
    scratch: Vec<u8>,
}

impl Ingest {
    pub fn new(templates: Templates, ledgers: Ledgers) -> Self {
        let (sessions, stored) = (Sessions::default(), HashMap::new());
        Self { sessions, templates, ledgers, stored, scratch: Vec::new() }
    }

    /// Follows these producers from where the lake has them.
    pub async fn adopt(&mut self, lake: &Lake, producers: &BTreeSet<String>) -> Result<(), RecorderError> {
        self.sessions.load(lake, producers).await?;
        self.ledgers.load(lake.state(), producers);
        self.forget_stored();
        Ok(())
    }

    /// Forgets everything of a producer that is not in the lake.
    pub fn forget(&mut self, producer: &str) {
        self.sessions.forget(producer);
        self.templates.forget(producer);
        self.ledgers.forget(producer);
        self.forget_stored();
    }

    /// Takes one record of a stream; `view` is the lake with every commit of this recorder.
    pub async fn take(
        &mut self,
        staged: &mut Staged,
        view: &View,
        stream: &StreamName,
        position: i64,
        record: Record,
    ) -> Result<(), RecorderError> {
        staged.records += 1;
        match record {
            Record::Event(event) => {
                let (kind, version) = (event.envelope.kind, event.envelope.kind_version);
                let table = storable(stream, position, kind, version)?;
                if !self.event(staged, view, stream, table, event).await? {
                    let why = "the body of its event does not decode".to_owned();
                    return Err(RecorderError::Unstorable { stream: stream.to_string(), position, why });
                }
            }
            Record::Chunk(chunk) => {
                staged.bytes += 64 + chunk.sealed.len() as u64;
                staged.chunks.entry(Hour::of_session(chunk.session)).or_default().push(chunk);
            }
            Record::Template { fingerprint, text } => {
                if self.templates.is_new(fingerprint, stream.producer()) {
                    staged.bytes += 64 + text.len() as u64;
                    staged.templates.push((fingerprint, text));
                }
            }
            Record::Ledger(record) => {
                storable(stream, position, record.kind, record.kind_version)?;
                self.ledger(staged, view, record).await?;
            }
            Record::Key { session, wrapped } => staged.keys.push((session, wrapped)),
            Record::Name { principal_ref, wrapped } => staged.names.push((principal_ref, wrapped)),
            Record::State(_) => {}
        }
        Ok(())
    }

    /// After a commit of a stream: sessions that it ended are forgotten, its texts are known, cached hashes are stale.
    pub fn committed(
        &mut self,
        stream: &StreamName,
        sessions: &BTreeSet<SessionId>,
        templates: impl IntoIterator<Item = Fingerprint>,
    ) {
        sessions.iter().for_each(|id| self.sessions.committed(*id));
        self.templates.committed(templates, stream.producer());
        self.forget_stored();
    }

    fn forget_stored(&mut self) {
        self.ledgers.forget_stored();
        self.stored.clear();
    }

    /// Takes an event; false when it has no body that columns could hold.
    async fn event(
        &mut self,
        staged: &mut Staged,
        view: &View,
        stream: &StreamName,
        table: &'static KindTable,
        event: Box<Event>,
    ) -> Result<bool, RecorderError> {
        let e = &event.envelope;
        let mut w = Writer::reusing(std::mem::take(&mut self.scratch));
        e.put(&mut w);
        let hash = digest::EVENT.digest(w.as_slice());
        self.scratch = w.into_vec();
        let followed = self.sessions.get(e.session).map(|s| (s.next_seq, s.head, s.open));
        let in_order =
            followed.is_some_and(|(next_seq, head, open)| open && e.seq == next_seq && e.prev == head);
        let intact = hash == event.hash && table.body_digest(&event.body) == e.body_digest;
        if !intact && event.decode_body().is_err() {
            return Ok(false);
        }
        if !in_order && self.examine(staged, view, &event, followed).await? {
            staged.duplicates += 1;
            return Ok(true);
        }
        if !intact {
            staged.findings.event(Fault::Hash, &event, "the stated hash is not that of its fields");
        }
        self.sessions.take(&event, stream.producer());
        staged.sessions.insert(event.envelope.session);
        staged.bytes += 400 + event.body.len() as u64;
        let hour = Hour::of_ns(event.envelope.ts_wall_ns);
        staged.events.entry((table.family, hour)).or_default().push(event);
        Ok(true)
    }

    /// Looks closer at an event that is not simply the next of a followed session. Gives whether it is here
    /// already and is to be dropped.
    async fn examine(
        &mut self,
        staged: &mut Staged,
        view: &View,
        event: &Event,
        followed: Option<(i64, Digest, bool)>,
    ) -> Result<bool, RecorderError> {
        let e = &event.envelope;
        let ended = match followed {
            Some((_, _, open)) => !open,
            None => self.is_stored(view, e.session).await?,
        };
        if ended || followed.is_some_and(|(next_seq, ..)| e.seq < next_seq) {
            let hashes = self.hashes(view, e.session, e.seq).await?;
            if hashes.contains(&event.hash) {
                return Ok(true);
            }
            if !hashes.is_empty() {
                staged.findings.event(Fault::Fork, event, "another event has this number; both are kept");
                return Ok(false);
            }
        }
        match followed {
            _ if ended => {
                staged.findings.event(Fault::AfterEnd, event, "it came after the end of its session");
            }
            Some((next_seq, ..)) if e.seq > next_seq => {
                let what = format!("events {next_seq} to {} before it are missing", e.seq - 1);
                staged.findings.event(Fault::Chain, event, &what);
            }
            Some(_) => {
                staged.findings.event(Fault::Chain, event, "it does not link to the event before it");
            }
            None if e.seq > 0 => {
                let what = format!("the beginning of its session, events 0 to {}, is missing", e.seq - 1);
                staged.findings.event(Fault::Chain, event, &what);
            }
            None if !begins_with_genesis(event) => {
                staged.findings.event(Fault::Chain, event, "its session does not begin with its genesis");
            }
            None => {}
        }
        Ok(false)
    }

    /// The hashes of the events that are here under this number: taken since the last commit, or in the lake.
    async fn hashes(
        &mut self,
        view: &View,
        session: SessionId,
        seq: i64,
    ) -> Result<Vec<Digest>, RecorderError> {
        let mut hashes: Vec<_> = self.sessions.get(session).into_iter().flat_map(|s| s.recent(seq)).collect();
        if !self.stored.contains_key(&session) {
            let stored = match self.is_stored(view, session).await? {
                true => view.event_hashes(session).await?,
                false => HashMap::new(),
            };
            self.stored.insert(session, stored);
        }
        let stored = self.stored.get(&session).and_then(|s| s.get(&seq));
        hashes.extend(stored.into_iter().flatten());
        Ok(hashes)
    }

    /// Whether the lake has a session. New sessions have new ids, so that mostly no file has to be opened to
    /// say no.
    async fn is_stored(&self, view: &View, session: SessionId) -> Result<bool, RecorderError> {
        if !view.state().files(Table::Sessions).any(|f| f.may_hold(session)) {
            return Ok(false);
        }
        Ok(view.session(session).await?.is_some())
    }
}

/// Whether an event is the first of a session and links to the genesis that it states.
fn begins_with_genesis(event: &Event) -> bool {
    let e = &event.envelope;
    let Ok(Body::SessionOpened(opened)) = event.decode_body() else { return false };
    let (producer, epoch, session, policy_digest) = (&e.producer, e.epoch, e.session, e.policy_digest);
    Genesis { producer, epoch, session, policy_digest, opened: &opened }.digest() == e.prev
}

/// The declaration of a kind that this build can store.
fn storable(
    stream: &StreamName,
    position: i64,
    kind: i64,
    version: i64,
) -> Result<&'static KindTable, RecorderError> {
    KindTable::of(kind).filter(|t| t.version == version).ok_or_else(|| RecorderError::Unstorable {
        stream: stream.to_string(),
        position,
        why: format!("this build does not know kind {kind} version {version}"),
    })
}
