//! The `sessions` table: one row a session, written anew whenever it changed; the row with the highest
//! revision counts.

use std::collections::HashMap;

use bodycam_record::{Digest, Id16, SessionId};

use super::rows::rows;

mod tally;

pub use tally::Tally;

rows! {
    /// What the index says about a session. Derived from its events; nothing in it is hashed.
    SessionRow in "sessions" {
        /// The session.
        session_id: SessionId,
        /// Grows with every change; the highest counts.
        revision: i64,
        /// Pseudonym of the principal.
        principal_ref: Id16,
        /// `person`, `agent` or `contractor`.
        principal_kind: String,
        /// Name of the target in the configuration.
        target: String,
        /// `postgres` or `http`.
        protocol: String,
        /// Database at the target, empty for HTTP.
        database: String,
        /// Producer that recorded it.
        producer: String,
        /// Epoch of the producer.
        epoch: i64,
        /// Wall time of the first event, Unix ns.
        started_ns: i64,
        /// Wall time of the last event, when the session ended.
        ended_ns: Option<i64>,
        /// Wall time of the newest event, Unix ns.
        last_activity_ns: i64,
        /// `open`, `sealed` or `crashed`.
        state: String,
        /// Why it ended.
        end_reason: Option<String>,
        /// Statements or requests.
        statements: i64,
        /// Result rows sent to the client.
        rows: i64,
        /// Bytes from the client (bodies and tunnels towards the target for HTTP).
        bytes_in: i64,
        /// Bytes to the client.
        bytes_out: i64,
        /// Statements, requests or messages refused.
        denies: i64,
        /// Results that ended in an error.
        errors: i64,
        /// Events.
        events: i64,
        /// Hash of the newest event.
        head: Digest,
        /// Whether the gateway ran on an injected clock.
        simulated_clock: bool,
        /// Correlation id under the tenant key: of the opening, else the first one seen.
        correlation: Option<Id16>,
    }
}

/// Keeps the newest revision of each session, in order of session id.
pub fn newest(rows: impl IntoIterator<Item = SessionRow>) -> Vec<SessionRow> {
    let mut best: HashMap<SessionId, SessionRow> = HashMap::new();
    for row in rows {
        match best.get(&row.session_id) {
            Some(known) if known.revision >= row.revision => {}
            _ => {
                best.insert(row.session_id, row);
            }
        }
    }
    let mut rows: Vec<_> = best.into_values().collect();
    rows.sort_unstable_by_key(|r| r.session_id);
    rows
}
