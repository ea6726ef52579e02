//! Ledgers: which sessions there are, how each ended, which keys sign, and whether any record is missing.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use bodycam_lake::columns::StoredLedgerRecord;
use bodycam_lake::{LedgerState, SessionState};
use bodycam_record::kinds::ledger::{LedgerCrash, LedgerHeartbeat, LedgerOpen, LedgerSeal, LedgerStart};
use bodycam_record::{
    Body, Digest, Id16, LedgerRecord, Seal, SealReason, SessionId, key, ledger as record_ledger, shown,
};

use crate::fault::{Class, Fault, Gravity};
use crate::trust::Trust;

/// A ledger record and where it rests.
#[derive(Debug, Clone)]
pub struct Placed {
    /// The file.
    pub path: Arc<str>,
    /// The row in it.
    pub row: u64,
    /// The record.
    pub record: StoredLedgerRecord,
}

/// What the ledgers say.
#[derive(Debug, Default)]
pub struct Ledgers {
    /// Every producer with a ledger.
    pub producers: BTreeMap<String, Producer>,
    /// Every session that a ledger announces.
    pub sessions: HashMap<SessionId, InLedger>,
    /// Heartbeats that name open sessions.
    pub heartbeats: Vec<Heartbeat>,
    /// Where ledgers stood at the records at which commits say where they do, by producer and next record. Of
    /// ledgers without a fault only.
    pub stood: HashMap<(String, i64), LedgerState>,
    /// What is wrong.
    pub faults: Vec<Fault>,
    /// Records.
    pub records: u64,
    /// Numbers of records that could not be decoded.
    pub holes: BTreeSet<i64>,
    /// Gaps that they declare.
    pub gaps: Vec<Gap>,
}

/// A gap in a stream, declared in a ledger.
#[derive(Debug, Clone)]
pub struct Gap {
    /// Whose ledger.
    pub producer: Arc<str>,
    /// The stream, as the ledger names it.
    pub stream: String,
    /// First position missing.
    pub from: i64,
    /// First position after it.
    pub to: i64,
}

/// A producer, by its ledger.
#[derive(Debug, Clone, Default)]
pub struct Producer {
    /// Its long-term public key, as its ledger states it.
    pub key: Option<Digest>,
    /// The keys of its epochs.
    pub epochs: BTreeMap<i64, Digest>,
    /// Number of the next record.
    pub next_seq: i64,
    /// Time of the last record, Unix ns.
    pub last_ns: i64,
    /// Whether the last record is a STOP.
    pub stopped: bool,
    /// Whether an epoch of it ran on an injected clock.
    pub simulated: bool,
    /// Whether nothing is wrong with its ledger.
    pub sound: bool,
}

/// A session, by the ledger.
#[derive(Debug, Clone)]
pub struct InLedger {
    /// Its producer.
    pub producer: Arc<str>,
    /// The epoch that opened it.
    pub epoch: i64,
    /// Number of its OPEN.
    pub open_seq: i64,
    /// Time of its OPEN, Unix ns.
    pub opened_ns: i64,
    /// Its genesis.
    pub genesis: Digest,
    /// Digest of its key.
    pub key_digest: Digest,
    /// Its principal.
    pub principal_ref: Id16,
    /// Its target.
    pub target: String,
    /// How it ended.
    pub end: End,
    /// The last heartbeat that named it: events and time.
    pub heartbeat: Option<(i64, i64)>,
}

/// How a session ended, by the ledger.
#[derive(Debug, Clone)]
pub enum End {
    /// It has not.
    Open,
    /// It was sealed.
    Sealed(Box<LedgerSeal>),
    /// A crash cut it.
    Crashed(Box<LedgerCrash>),
    /// Its producer went on without sealing it.
    Abandoned(&'static str),
}

/// A heartbeat that names open sessions.
#[derive(Debug, Clone)]
pub struct Heartbeat {
    /// Whose.
    pub producer: Arc<str>,
    /// Number in the ledger.
    pub seq: i64,
    /// The file.
    pub path: Arc<str>,
    /// The row in it.
    pub row: u64,
    /// Open sessions and their counts.
    pub open: Vec<(SessionId, i64)>,
    /// Digest over their heads.
    pub heads: Digest,
}

/// Walks the ledger of one producer.
struct Walk<'a> {
    name: Arc<str>,
    pinned: Option<Digest>,
    out: &'a mut Ledgers,
    producer: Producer,
    epoch: Option<i64>,
    key: Option<Digest>,
    inherited: BTreeSet<SessionId>,
    open: BTreeSet<SessionId>,
    /// Whether records are missing, so that not every OPEN is known.
    gapped: bool,
    /// Numbers after which commits say where the ledger stands.
    stated: BTreeSet<i64>,
    /// Where it stands, as a recorder keeps it.
    standing: LedgerState,
    /// Where it stood at those numbers.
    stood: Vec<LedgerState>,
}

impl Ledgers {
    /// Checks all ledgers. `holes` are numbers of records that could not be decoded, with the hashes that these
    /// state; they were reported. `stated` is what commits say about ledgers.
    pub fn check(
        records: Vec<Placed>,
        holes: &BTreeMap<i64, Option<Digest>>,
        trust: Option<&Trust>,
        stated: &[(Arc<str>, LedgerState)],
    ) -> Self {
        let mut out = Ledgers {
            records: records.len() as u64,
            holes: holes.keys().copied().collect(),
            ..Ledgers::default()
        };
        let mut by_producer: BTreeMap<String, BTreeMap<i64, Vec<Placed>>> = BTreeMap::new();
        for placed in records {
            let seqs = match by_producer.get_mut(&placed.record.0.producer) {
                Some(seqs) => seqs,
                None => by_producer.entry(placed.record.0.producer.clone()).or_default(),
            };
            seqs.entry(placed.record.0.seq).or_default().push(placed);
        }
        for (name, seqs) in by_producer {
            let pinned = trust.and_then(|t| t.producers.get(&name)).copied();
            let known = out.faults.len();
            let mut walk = Walk {
                name: name.as_str().into(),
                pinned,
                out: &mut out,
                producer: Producer::default(),
                epoch: None,
                key: None,
                inherited: BTreeSet::new(),
                open: BTreeSet::new(),
                gapped: !holes.is_empty(),
                stated: stated.iter().filter(|(_, s)| s.producer == name).map(|(_, s)| s.next_seq).collect(),
                standing: LedgerState {
                    producer: name.clone(),
                    epoch: 0,
                    producer_key: Digest::ZERO,
                    epoch_key: Digest::ZERO,
                    next_seq: 0,
                    head: Digest::ZERO,
                    watermark_ns: i64::MIN,
                    stopped: false,
                },
                stood: Vec::new(),
            };
            walk.walk(seqs, holes);
            let Walk { mut producer, stood, .. } = walk;
            // Of a ledger that contradicts itself nothing else is to be held against commits.
            producer.sound = out.faults.iter().skip(known).all(|f| f.gravity > Gravity::Unsupported);
            if producer.sound {
                out.stood.extend(stood.into_iter().map(|s| ((name.clone(), s.next_seq), s)));
            }
            out.producers.insert(name, producer);
        }
        out
    }

    /// For each session, the counts that heartbeats and commits speak of, ascending.
    pub fn wanted_heads(&self, stated: &[(Arc<str>, SessionState)]) -> HashMap<SessionId, Vec<i64>> {
        let mut wanted: HashMap<SessionId, Vec<i64>> = HashMap::new();
        let beats = self.heartbeats.iter().flat_map(|h| &h.open).copied();
        for (session, count) in beats.chain(stated.iter().map(|(_, s)| (s.session, s.next_seq))) {
            wanted.entry(session).or_default().push(count);
        }
        for counts in wanted.values_mut() {
            counts.sort_unstable();
            counts.dedup();
        }
        wanted
    }

    /// Compares heartbeats with the heads of events; one that names a head nobody has is left alone: what
    /// is missing is reported with its session.
    pub fn check_heartbeats(&self, heads: &HashMap<(SessionId, i64), Digest>, faults: &mut Vec<Fault>) {
        'beats: for beat in &self.heartbeats {
            let mut open = Vec::new();
            for (session, count) in &beat.open {
                let genesis = || self.sessions.get(session).filter(|_| *count == 0).map(|s| s.genesis);
                match heads.get(&(*session, *count)).copied().or_else(genesis) {
                    Some(head) => open.push((session, *count, head)),
                    None => continue 'beats,
                }
            }
            let digest = record_ledger::open_heads_digest(open.iter().map(|(s, c, h)| (&s.0, *c, *h)));
            if digest != beat.heads {
                let detail = "the heads of open sessions that it states are not those of the events";
                let fault = Fault::new(Class::Heartbeat, detail).of_producer(&beat.producer);
                faults.push(fault.seq(beat.seq).at_row(&beat.path, beat.row));
            }
        }
    }
}

impl Walk<'_> {
    fn fault(&mut self, class: Class, at: &Placed, detail: impl std::fmt::Display) {
        let fault = Fault::new(class, detail).of_producer(&self.name).seq(at.record.0.seq);
        self.out.faults.push(fault.at_row(&at.path, at.row));
    }

    fn walk(&mut self, seqs: BTreeMap<i64, Vec<Placed>>, holes: &BTreeMap<i64, Option<Digest>>) {
        let mut expected = 0;
        let mut prev = Some(Digest::ZERO);
        for (seq, candidates) in seqs {
            if seq > expected {
                // What comes next follows on the stated hash, whatever else the row holds.
                prev = holes.get(&seq.saturating_sub(1)).copied().flatten();
                self.gap(expected, seq, holes);
            }
            let Some(chosen) = self.choose(candidates, prev) else { continue };
            let mut record = chosen.record.0.clone();
            if let Some(prev) = prev {
                record.prev = prev;
                if record.compute_hash() != record.hash {
                    self.fault(
                        Class::LedgerHash,
                        &chosen,
                        "its columns, after the record before it, do not hash to the hash that it states",
                    );
                }
            }
            self.record(&record, &chosen);
            prev = Some(record.hash);
            expected = seq.saturating_add(1);
            self.producer.next_seq = expected;
            self.producer.last_ns = record.ts_wall_ns;
            self.stands_after(&record);
        }
        // A session whose seal the spool refused is left to the next START; here there is none.
        if self.producer.stopped {
            self.inherited.clear();
            self.abandon("its producer stopped without sealing it");
        }
    }

    /// Takes note of where the ledger stands after a record, as the recorder does that commits it.
    fn stands_after(&mut self, record: &LedgerRecord) {
        let standing = &mut self.standing;
        standing.epoch = record.epoch;
        standing.next_seq = self.producer.next_seq;
        standing.head = record.hash;
        standing.watermark_ns = standing.watermark_ns.max(record.ts_wall_ns);
        standing.stopped = self.producer.stopped;
        if self.stated.contains(&standing.next_seq) {
            self.stood.push(standing.clone());
        }
    }

    fn gap(&mut self, from: i64, to: i64, holes: &BTreeMap<i64, Option<Digest>>) {
        let missing: Vec<i64> = (from..to).take(1 << 20).filter(|n| !holes.contains_key(n)).collect();
        if let (Some(first), Some(last)) = (missing.first(), missing.last()) {
            let detail = format!("{} ledger records are missing", missing.len());
            let fault = Fault::new(Class::LedgerSeq, detail).of_producer(&self.name).seqs(*first, *last);
            self.out.faults.push(fault);
            // Which epoch and which sessions the missing records concern is not known any more.
            self.epoch = None;
            self.key = None;
            self.gapped = true;
        }
    }

    /// The record that counts among those of one number.
    fn choose(&mut self, mut candidates: Vec<Placed>, prev: Option<Digest>) -> Option<Placed> {
        let fits = |p: &Placed| {
            let mut record = p.record.0.clone();
            record.prev = prev.unwrap_or_default();
            record.compute_hash() == record.hash
        };
        let best = candidates.iter().position(fits).unwrap_or(0);
        if candidates.is_empty() {
            return None;
        }
        let chosen = candidates.swap_remove(best);
        for other in &candidates {
            match other.record == chosen.record {
                true => self.fault(Class::Duplicate, other, "the same ledger record twice"),
                false => self.fault(Class::LedgerSeq, other, "two different ledger records with one number"),
            }
        }
        Some(chosen)
    }

    fn record(&mut self, record: &LedgerRecord, at: &Placed) {
        let body = match record.decode_body() {
            Ok(body) => body,
            Err(error) => return self.fault(Class::LedgerRecord, at, error),
        };
        if let Body::LedgerStart(start) = &body {
            self.start(record, start, at);
        } else {
            if self.producer.stopped {
                self.fault(Class::LedgerRecord, at, "a record after STOP that starts no epoch");
            }
            match self.epoch {
                Some(epoch) if epoch != record.epoch => {
                    let detail = format!("a record of epoch {} in epoch {epoch}", record.epoch);
                    self.fault(Class::EpochKey, at, detail);
                }
                None if record.seq == 0 => {
                    self.fault(Class::LedgerSeq, at, "the first record of the ledger is no START");
                }
                _ => {}
            }
            // After a gap the key of a record's epoch can still be known from its START.
            self.key = self.key.or_else(|| self.producer.epochs.get(&record.epoch).copied());
            self.epoch = self.epoch.or(Some(record.epoch));
        }
        if let Some(key) = self.key
            && !key::verify_signature(key, record.hash, &record.signature)
        {
            self.fault(Class::LedgerSig, at, "the signature is not that of the epoch's key over its hash");
        }
        self.producer.stopped = false;
        match body {
            Body::LedgerOpen(open) => self.open(record, open, at),
            Body::LedgerSeal(seal) => self.seal(record, seal, at),
            Body::LedgerCrash(crash) => self.crash(crash, at),
            Body::LedgerHeartbeat(beat) => self.heartbeat(record, &beat, at),
            Body::LedgerGap(gap) => {
                let (stream, reason) = (shown(&gap.stream), shown(&gap.reason));
                let (from, to) = (gap.from_position, gap.to_position);
                let detail = match from == to {
                    true => format!(
                        "what may have lain from position {from} of stream {stream} on was never recorded: {reason}"
                    ),
                    false => format!(
                        "positions {from} to {} of stream {stream} were never recorded: {reason}",
                        to.saturating_sub(1)
                    ),
                };
                self.fault(Class::DeclaredGap, at, detail);
                let (producer, stream) = (Arc::clone(&self.name), gap.stream);
                self.out.gaps.push(Gap { producer, stream, from: gap.from_position, to: gap.to_position });
            }
            Body::LedgerStop(_) => {
                self.producer.stopped = true;
            }
            _ => {}
        }
    }

    fn start(&mut self, record: &LedgerRecord, start: &LedgerStart, at: &Placed) {
        if !record_ledger::certificate_is_valid(&record.producer, record.epoch, start) {
            let detail = "the key of this epoch is not certified by the producer's key";
            self.fault(Class::Certificate, at, detail);
        }
        match (self.pinned, self.producer.key) {
            (Some(pinned), _) if pinned != start.producer_key => {
                self.fault(
                    Class::ProducerKey,
                    at,
                    format!("producer key {}; pinned is {pinned}", start.producer_key),
                );
            }
            (None, Some(known)) if known != start.producer_key => {
                let detail = format!("a second producer key {}; before it was {known}", start.producer_key);
                self.fault(Class::ProducerKey, at, detail);
            }
            _ => {}
        }
        let last = self.producer.epochs.last_key_value().map(|(epoch, _)| *epoch);
        if record.epoch != last.unwrap_or(0).saturating_add(1) || start.previous_epoch != last {
            let detail = format!(
                "epoch {} says it follows on {}; the ledger holds {}",
                record.epoch,
                start.previous_epoch.map_or("none".to_owned(), |e| format!("epoch {e}")),
                last.map_or("none".to_owned(), |e| format!("epoch {e}")),
            );
            self.fault(Class::EpochGap, at, detail);
        }
        self.inherited.clear();
        for text in &start.inherited {
            match text.parse() {
                Ok(session) => {
                    self.inherited.insert(session);
                }
                Err(error) => self.fault(Class::LedgerRecord, at, error),
            }
        }
        self.abandon("its producer started anew without naming it");
        self.producer.key.get_or_insert(start.producer_key);
        (self.standing.producer_key, self.standing.epoch_key) = (start.producer_key, start.epoch_key);
        self.producer.epochs.insert(record.epoch, start.epoch_key);
        self.producer.simulated |= start.clock == "simulated";
        self.epoch = Some(record.epoch);
        self.key = Some(start.epoch_key);
    }

    /// Sessions that are open and not inherited will never be sealed.
    fn abandon(&mut self, why: &'static str) {
        let inherited = &self.inherited;
        let lost: Vec<SessionId> = self.open.iter().filter(|s| !inherited.contains(s)).copied().collect();
        for session in lost {
            self.open.remove(&session);
            if let Some(known) = self.out.sessions.get_mut(&session) {
                known.end = End::Abandoned(why);
            }
        }
    }

    fn open(&mut self, record: &LedgerRecord, open: LedgerOpen, at: &Placed) {
        let session = open.session_id;
        if self.out.sessions.contains_key(&session) {
            return self.fault(Class::LedgerRecord, at, format!("session {session} is opened a second time"));
        }
        self.open.insert(session);
        self.out.sessions.insert(
            session,
            InLedger {
                producer: Arc::clone(&self.name),
                epoch: record.epoch,
                open_seq: record.seq,
                opened_ns: record.ts_wall_ns,
                genesis: open.genesis,
                key_digest: open.key_digest,
                principal_ref: open.principal_ref,
                target: open.target,
                end: End::Open,
                heartbeat: None,
            },
        );
    }

    fn seal(&mut self, record: &LedgerRecord, seal: LedgerSeal, at: &Placed) {
        let session = seal.session_id;
        let signed = Seal {
            session,
            producer: &record.producer,
            epoch: record.epoch,
            count: seal.count,
            head: seal.head,
            root: seal.root,
            first_ts_ns: seal.first_ts_ns,
            last_ts_ns: seal.last_ts_ns,
            bytes_in: seal.bytes_in,
            bytes_out: seal.bytes_out,
            reason: SealReason::Closed,
            open_seq: seal.open_seq,
        };
        let signature_fits =
            self.key.is_none_or(|key| key::verify_signature(key, signed.digest(), &seal.signature));
        if !signature_fits || seal.reason != SealReason::Closed.as_str() {
            self.fault(Class::SealSig, at, "the signature is not that of the epoch's key over the seal");
            if let Some(fault) = self.out.faults.last_mut() {
                fault.session = Some(session);
            }
        }
        self.end(session, seal.open_seq, record.epoch, at, End::Sealed(Box::new(seal)));
    }

    fn crash(&mut self, crash: LedgerCrash, at: &Placed) {
        if !self.gapped && !self.inherited.contains(&crash.session_id) {
            let detail = format!("CRASH of session {}, which the START does not list", crash.session_id);
            self.fault(Class::LedgerRecord, at, detail);
        }
        self.end(crash.session_id, crash.open_seq, crash.session_epoch, at, End::Crashed(Box::new(crash)));
    }

    fn end(&mut self, session: SessionId, open_seq: i64, epoch: i64, at: &Placed, end: End) {
        self.open.remove(&session);
        let problem = match self.out.sessions.get_mut(&session) {
            None if self.gapped => None,
            None => Some("was never opened"),
            Some(known) if known.producer != self.name => Some("was opened by another producer"),
            Some(known) if !matches!(known.end, End::Open) => Some("had ended before"),
            Some(known) if known.open_seq != open_seq || known.epoch != epoch => {
                known.end = end;
                Some("was opened elsewhere than this record says")
            }
            Some(known) => {
                known.end = end;
                None
            }
        };
        if let Some(problem) = problem {
            self.fault(Class::LedgerRecord, at, format!("it ends session {session}, which {problem}"));
        }
    }

    fn heartbeat(&mut self, record: &LedgerRecord, beat: &LedgerHeartbeat, at: &Placed) {
        let mut open = Vec::new();
        if beat.open_sessions.len() != beat.open_counts.len() {
            return self.fault(Class::LedgerRecord, at, "as many open sessions as counts are wanted");
        }
        for (text, count) in beat.open_sessions.iter().zip(&beat.open_counts) {
            let session = match text.parse::<SessionId>() {
                Ok(session) => session,
                Err(error) => {
                    self.fault(Class::LedgerRecord, at, error);
                    continue;
                }
            };
            open.push((session, *count));
            match self.out.sessions.get_mut(&session) {
                Some(known) => known.heartbeat = Some((*count, record.ts_wall_ns)),
                None if self.gapped => {}
                None => self.fault(Class::LedgerRecord, at, format!("session {session} was never opened")),
            }
        }
        if !open.is_empty() {
            self.out.heartbeats.push(Heartbeat {
                producer: Arc::clone(&self.name),
                seq: record.seq,
                path: Arc::clone(&at.path),
                row: at.row,
                open,
                heads: beat.open_heads,
            });
        }
    }
}
