//! What the index says about a session, made from its events: by the recorder event by event, by the verifier
//! from sums that it gathers file by file.
//!
//! Invariant: both ways give the same row.

use bodycam_record::canonical::Reader;
use bodycam_record::{Body, Digest, Envelope, Id16, KindTable, SessionId};

use super::SessionRow;

/// What the events between the first and the last of a session add up to, in any order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    events: i64,
    statements: i64,
    rows: i64,
    bytes_in: i64,
    bytes_out: i64,
    denies: i64,
    errors: i64,
    last_activity_ns: i64,
    /// The first correlation id, with the number of its event.
    correlation: Option<(i64, Id16)>,
}

impl Tally {
    /// Whether the row takes more than sums from events of this kind: those that open and close a session.
    pub fn is_end(kind: i64) -> bool {
        KindTable::of(kind).is_some_and(|t| matches!(t.name, "session.opened" | "session.closed"))
    }

    /// Adds an event that neither opens nor closes its session.
    pub fn add(&mut self, e: &Envelope, body: &[u8]) {
        self.events = self.events.saturating_add(1);
        self.last_activity_ns = self.last_activity_ns.max(e.ts_wall_ns);
        let Some(table) = KindTable::of(e.kind) else { return };
        let facts = Facts::of(table, body);
        let denied = i64::from(facts.verdict == Some(b"deny"));
        let failed = i64::from(facts.outcome == Some(b"error"));
        match table.name {
            "sql.statement" | "http.request" | "http.tunnel_opened" => {
                self.statements = self.statements.saturating_add(1);
                self.denies = self.denies.saturating_add(denied);
            }
            "sql.result" => {
                self.rows = self.rows.saturating_add(facts.rows);
                self.bytes_out = self.bytes_out.saturating_add(facts.bytes);
                self.errors = self.errors.saturating_add(failed);
            }
            // What a COPY sends to the client stands in its result as well.
            "sql.copy" if facts.direction == Some(b"in") => {
                self.bytes_in = self.bytes_in.saturating_add(facts.bytes);
            }
            // What leaves for the target came from the client.
            "http.response" | "http.tunnel_closed" => {
                self.bytes_in = self.bytes_in.saturating_add(facts.bytes_out);
                self.bytes_out = self.bytes_out.saturating_add(facts.bytes_in);
                self.errors = self.errors.saturating_add(failed);
            }
            "control.decision" => self.denies = self.denies.saturating_add(denied),
            _ => {}
        }
        let seen = facts.correlation.map(|id| (e.seq, id));
        self.correlation = first(self.correlation, seen);
    }

    /// Adds what other events of the session add up to.
    pub fn merge(&mut self, other: &Tally) {
        for (sum, more) in [
            (&mut self.events, other.events),
            (&mut self.statements, other.statements),
            (&mut self.rows, other.rows),
            (&mut self.bytes_in, other.bytes_in),
            (&mut self.bytes_out, other.bytes_out),
            (&mut self.denies, other.denies),
            (&mut self.errors, other.errors),
        ] {
            *sum = sum.saturating_add(more);
        }
        self.last_activity_ns = self.last_activity_ns.max(other.last_activity_ns);
        self.correlation = first(self.correlation, other.correlation);
    }
}

/// The one with the smaller number.
fn first(a: Option<(i64, Id16)>, b: Option<(i64, Id16)>) -> Option<(i64, Id16)> {
    match (a, b) {
        (Some(a), Some(b)) => Some(if b.0 < a.0 { b } else { a }),
        (a, b) => a.or(b),
    }
}

impl SessionRow {
    /// The row of a session of which nothing is known yet.
    pub fn blank(id: SessionId) -> Self {
        Self {
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

    /// Takes the next event.
    pub fn take(&mut self, e: &Envelope, body: &[u8], hash: Digest) {
        if self.events == 0 {
            self.principal_ref = e.principal_ref;
            self.target.clone_from(&e.target);
            self.producer.clone_from(&e.producer);
            self.epoch = e.epoch;
            self.started_ns = e.ts_wall_ns;
        }
        // Sessions begin and end once; everything between is read without building its body.
        if Tally::is_end(e.kind) {
            self.events = self.events.saturating_add(1);
            self.last_activity_ns = self.last_activity_ns.max(e.ts_wall_ns);
            self.end(e, body);
        } else {
            let mut tally = Tally::default();
            tally.add(e, body);
            self.add(&tally);
        }
        self.head = hash;
        self.revise();
    }

    /// Takes what events between the first and the last add up to. Their newest hash is `head` of the row only
    /// when the caller says so.
    pub fn add(&mut self, tally: &Tally) {
        for (sum, more) in [
            (&mut self.events, tally.events),
            (&mut self.statements, tally.statements),
            (&mut self.rows, tally.rows),
            (&mut self.bytes_in, tally.bytes_in),
            (&mut self.bytes_out, tally.bytes_out),
            (&mut self.denies, tally.denies),
            (&mut self.errors, tally.errors),
        ] {
            *sum = sum.saturating_add(more);
        }
        self.last_activity_ns = self.last_activity_ns.max(tally.last_activity_ns);
        self.correlation = self.correlation.or(tally.correlation.map(|(_, id)| id));
        self.revise();
    }

    /// Takes note that a crash cut the session.
    pub fn crash(&mut self) {
        self.state = "crashed".to_owned();
        self.end_reason = Some("crash".to_owned());
        self.ended_ns = Some(self.last_activity_ns);
        self.revise();
    }

    fn end(&mut self, e: &Envelope, body: &[u8]) {
        match Body::decode(e.kind, e.kind_version, body) {
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
        }
    }

    /// Revisions grow with the events, and once more with an end that is no event.
    fn revise(&mut self) {
        self.revision = self.events.saturating_mul(2).saturating_add(i64::from(self.state == "crashed"));
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
