//! Kinds of ledger records. They are hashed like event bodies but form a chain per producer, not per session.

use super::kind;
use crate::digest::Digest;
use crate::ids::{Id16, SessionId};

kind! {
    /// A producer process started a new epoch.
    LedgerStart = 100 "ledger.start" v 1 in Ledger {
        /// Long-term Ed25519 public key of the producer.
        producer_key: Digest,
        /// Ed25519 public key of this epoch.
        epoch_key: Digest,
        /// Signature of the long-term key over the epoch certificate digest.
        certificate: Vec<u8>,
        /// Epoch before this one; absent for the first.
        previous_epoch: Option<i64>,
        /// Digest of the configuration in force.
        config_digest: Digest,
        /// Sessions of earlier epochs that were open when their process died, hyphenated UUIDs.
        inherited: Vec<String>,
        /// Clock: `system` or `simulated`.
        clock: String,
        /// Version of the software.
        software: String,
    }
}

kind! {
    /// A session was opened.
    LedgerOpen = 101 "ledger.open" v 1 in Ledger {
        /// The session.
        session_id: SessionId,
        /// Its genesis.
        genesis: Digest,
        /// Digest of its session key.
        key_digest: Digest,
        /// Its principal.
        principal_ref: Id16,
        /// Its target.
        target: String,
    }
}

kind! {
    /// A session ended and was sealed.
    LedgerSeal = 102 "ledger.seal" v 1 in Ledger {
        /// The session.
        session_id: SessionId,
        /// Number of its events.
        count: i64,
        /// Hash of its last event.
        head: Digest,
        /// Merkle root over the hashes of its events.
        root: Digest,
        /// Wall time of its first event, Unix ns.
        first_ts_ns: i64,
        /// Wall time of its last event, Unix ns.
        last_ts_ns: i64,
        /// Bytes from the client.
        bytes_in: i64,
        /// Bytes to the client.
        bytes_out: i64,
        /// Why it was sealed: `closed`.
        reason: String,
        /// Ledger sequence number of its OPEN record.
        open_seq: i64,
        /// Ed25519 signature of the epoch key over the seal digest.
        signature: Vec<u8>,
    }
}

kind! {
    /// The producer is alive.
    LedgerHeartbeat = 103 "ledger.heartbeat" v 1 in Ledger {
        /// Sessions accepted since START.
        accepted: i64,
        /// Connections refused since START.
        refused: i64,
        /// Events spooled since START.
        events: i64,
        /// Events dropped since START (none, unless a GAP says so).
        dropped: i64,
        /// Sessions open now, hyphenated UUIDs in ascending order.
        open_sessions: Vec<String>,
        /// For each open session: number of its events so far.
        open_counts: Vec<i64>,
        /// Digest over the heads of the open sessions.
        open_heads: Digest,
    }
}

kind! {
    /// The producer could not record something, or declares a gap in a stream.
    LedgerGap = 104 "ledger.gap" v 1 in Ledger {
        /// The stream concerned.
        stream: String,
        /// First position missing.
        from_position: i64,
        /// First position after the gap; equal to `from_position` when nobody knows where it ends, because the stream began
        /// anew.
        to_position: i64,
        /// Why.
        reason: String,
    }
}

kind! {
    /// A session that a crash cut: written by the next epoch, in place of a seal.
    LedgerCrash = 105 "ledger.crash" v 1 in Ledger {
        /// The session.
        session_id: SessionId,
        /// Epoch that opened it.
        session_epoch: i64,
        /// Number of its durable events.
        count: i64,
        /// Hash of the last durable event; the genesis when there is none.
        head: Digest,
        /// `statement_no` of statements without a durable result: their outcome is unknown.
        unknown_outcome: Vec<i64>,
        /// Ledger sequence number of its OPEN record.
        open_seq: i64,
    }
}

kind! {
    /// The producer stopped in order; nothing follows in this epoch.
    LedgerStop = 106 "ledger.stop" v 1 in Ledger {
        /// Why: `drain`, `error`.
        reason: String,
        /// Events spooled in this epoch.
        events: i64,
        /// Sessions accepted in this epoch.
        accepted: i64,
    }
}
