//! Seals and checkpoints: a signed statement about all events of a session up to a point.

use crate::canonical::Writer;
use crate::digest::{self, Digest};
use crate::ids::SessionId;

/// Why the statement was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SealReason {
    /// A checkpoint: the session goes on.
    Open,
    /// The session ended.
    Closed,
}

impl SealReason {
    /// The text that is hashed.
    pub fn as_str(self) -> &'static str {
        match self {
            SealReason::Open => "open",
            SealReason::Closed => "closed",
        }
    }
}

/// What is signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seal<'a> {
    /// The session.
    pub session: SessionId,
    /// Producer of the session.
    pub producer: &'a str,
    /// Epoch whose key signs.
    pub epoch: i64,
    /// Number of events covered.
    pub count: i64,
    /// Hash of the last event covered.
    pub head: Digest,
    /// Merkle root over the hashes of the events covered.
    pub root: Digest,
    /// Wall time of the first event, Unix ns; 0 in a checkpoint.
    pub first_ts_ns: i64,
    /// Wall time of the last event, Unix ns; 0 in a checkpoint.
    pub last_ts_ns: i64,
    /// Bytes from the client; 0 in a checkpoint.
    pub bytes_in: i64,
    /// Bytes to the client; 0 in a checkpoint.
    pub bytes_out: i64,
    /// Why.
    pub reason: SealReason,
    /// Ledger sequence number of the session's OPEN.
    pub open_seq: i64,
}

impl Seal<'_> {
    /// A checkpoint over `count` events.
    pub fn checkpoint(
        session: SessionId,
        producer: &str,
        epoch: i64,
        count: i64,
        head: Digest,
        root: Digest,
        open_seq: i64,
    ) -> Seal<'_> {
        Seal {
            session,
            producer,
            epoch,
            count,
            head,
            root,
            first_ts_ns: 0,
            last_ts_ns: 0,
            bytes_in: 0,
            bytes_out: 0,
            reason: SealReason::Open,
            open_seq,
        }
    }

    /// The digest that the epoch key signs.
    pub fn digest(&self) -> Digest {
        let mut w = Writer::new();
        w.bytes(&self.session.0);
        w.bytes(self.producer.as_bytes());
        w.int(self.epoch);
        w.int(self.count);
        w.bytes(&self.head.0);
        w.bytes(&self.root.0);
        w.int(self.first_ts_ns);
        w.int(self.last_ts_ns);
        w.int(self.bytes_in);
        w.int(self.bytes_out);
        w.bytes(self.reason.as_str().as_bytes());
        w.int(self.open_seq);
        digest::SEAL.digest(w.as_slice())
    }
}
