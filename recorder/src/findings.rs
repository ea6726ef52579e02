//! What the recorder finds wrong while it stores: forks, broken chains, unknown keys. Stored like everything
//! else; a fault in the record never makes the recorder drop a part of it.

use std::collections::BTreeMap;

use bodycam_bus::StreamId;
use bodycam_lake::columns::findings::FindingRow;
use bodycam_record::canonical::Writer;
use bodycam_record::{Digest, Event, Id16, SessionId, digest};

use crate::commit::now_ns;

/// Most evidence events that one finding names.
const MAX_EVIDENCE: usize = 100;

/// What can be wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// The stated hash of an event is not the hash of its fields.
    Hash,
    /// An event does not follow on the one before it, or events are missing.
    Chain,
    /// Two different events have the same number in a session.
    Fork,
    /// An event came after the end of its session.
    AfterEnd,
    /// A ledger record does not follow, or its hash or signature does not fit.
    Ledger,
    /// A producer shows a long-term key that is not the one pinned or shown before.
    ProducerKey,
    /// A session key or name came again with other content.
    KeyChanged,
    /// Records were removed from the bus before they were read, and were given up.
    Lost,
}

impl Fault {
    fn rule(self) -> &'static str {
        match self {
            Fault::Hash => "REC-HASH",
            Fault::Chain => "REC-CHAIN",
            Fault::Fork => "REC-FORK",
            Fault::AfterEnd => "REC-AFTER-END",
            Fault::Ledger => "REC-LEDGER",
            Fault::ProducerKey => "REC-PRODUCER-KEY",
            Fault::KeyChanged => "REC-KEY-CHANGED",
            Fault::Lost => "REC-LOST",
        }
    }
}

/// Findings of one stream since its last commit.
#[derive(Debug, Default)]
pub struct Findings {
    rows: BTreeMap<(Fault, Vec<u8>), FindingRow>,
}

impl Findings {
    /// Adds a fault of an event; several of one kind in a session become one finding.
    pub fn event(&mut self, fault: Fault, event: &Event, what: &str) {
        let e = &event.envelope;
        let row = self.rows.entry((fault, e.session.0.to_vec())).or_insert_with(|| {
            let text = format!("session {} event {}: {what}", e.session, e.seq);
            let place = [&e.session.0[..], &e.seq.to_le_bytes(), &event.hash.0].concat();
            let mut row = row(fault, e.ts_wall_ns, &place, text);
            row.principal_ref = Some(e.principal_ref);
            row.target = Some(bodycam_record::shown(&e.target));
            row.session_ids = vec![e.session.to_string()];
            row
        });
        if row.evidence_seqs.len() < MAX_EVIDENCE {
            row.evidence_sessions.push(e.session.to_string());
            row.evidence_seqs.push(e.seq);
        }
        row.window_end_ns = row.window_end_ns.max(e.ts_wall_ns.saturating_add(1));
        row.measure = Some(row.measure.unwrap_or(0) + 1);
    }

    /// Adds a fault of a producer's ledger.
    pub fn ledger(&mut self, fault: Fault, producer: &str, seq: i64, hash: Digest, ts_ns: i64, what: &str) {
        self.rows.entry((fault, producer.as_bytes().to_vec())).or_insert_with(|| {
            let place = [producer.as_bytes(), &seq.to_le_bytes(), &hash.0].concat();
            let text = format!("ledger of {} record {seq}: {what}", bodycam_record::shown(producer));
            row(fault, ts_ns, &place, text)
        });
    }

    /// Adds a fault of a session key or name.
    pub fn key(&mut self, session: Option<SessionId>, object: &str, ts_ns: i64, what: &str) {
        self.rows.entry((Fault::KeyChanged, object.as_bytes().to_vec())).or_insert_with(|| {
            let mut row = row(Fault::KeyChanged, ts_ns, object.as_bytes(), format!("{object}: {what}"));
            row.session_ids = session.iter().map(SessionId::to_string).collect();
            row
        });
    }

    /// Adds records of a stream, from one position to before another, that nobody can read any more.
    pub fn lost(&mut self, stream: &StreamId, from: i64, to: i64) {
        let name = stream.to_string();
        self.rows.entry((Fault::Lost, name.as_bytes().to_vec())).or_insert_with(|| {
            let place = [name.as_bytes(), &from.to_le_bytes(), &to.to_le_bytes()].concat();
            let text = format!("records {from}..{to} of stream {name} were removed before they were read");
            let mut row = row(Fault::Lost, now_ns(), &place, text);
            row.measure = Some(to.saturating_sub(from));
            row
        });
    }

    /// Number of findings.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// The rows, in the order of the findings table.
    pub fn rows(&self) -> Vec<FindingRow> {
        let mut rows: Vec<_> = self.rows.values().cloned().collect();
        rows.sort_by_key(|r| (r.id, r.revision));
        rows
    }
}

fn row(fault: Fault, ts_ns: i64, place: &[u8], text: String) -> FindingRow {
    let mut w = Writer::new();
    w.bytes(fault.rule().as_bytes());
    w.bytes(place);
    let [id @ .., _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _] = digest::FINDING.digest(w.as_slice()).0;
    FindingRow {
        id: Id16(id),
        rule: fault.rule().to_owned(),
        rule_version: "1.0".to_owned(),
        severity: "critical".to_owned(),
        window_start_ns: ts_ns,
        window_end_ns: ts_ns.saturating_add(1),
        principal_ref: None,
        target: None,
        session_ids: Vec::new(),
        measure: None,
        threshold: None,
        evidence_sessions: Vec::new(),
        evidence_seqs: Vec::new(),
        revision: 0,
        is_final: true,
        text,
    }
}
