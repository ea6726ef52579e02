//! The ledger: one signed chain per producer, written at start, open, seal, heartbeat and stop only. It says
//! which sessions exist, so that a missing one is seen.

use crate::canonical::{DecodeError, Writer};
use crate::digest::{self, Digest};
use crate::envelope::SCHEMA_VERSION;
use crate::key::{self, EpochKey, ProducerKey};
use crate::kinds::Body;
use crate::kinds::ledger::LedgerStart;

/// One record of a ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerRecord {
    /// Hash suite.
    pub suite: i64,
    /// Version of this field list.
    pub schema_version: i64,
    /// Producer.
    pub producer: String,
    /// Epoch whose key signs.
    pub epoch: i64,
    /// Number in the producer's ledger, from 0, without gaps, across epochs.
    pub seq: i64,
    /// Wall time, Unix ns.
    pub ts_wall_ns: i64,
    /// Code of the kind (100 and above).
    pub kind: i64,
    /// Version of the kind.
    pub kind_version: i64,
    /// Canonical bytes of the body.
    pub body: Vec<u8>,
    /// Digest of the body.
    pub body_digest: Digest,
    /// Hash of the record before; zero for the first.
    pub prev: Digest,
    /// Hash of this record as stated.
    pub hash: Digest,
    /// Ed25519 signature of the epoch key over the hash.
    pub signature: Vec<u8>,
}

impl LedgerRecord {
    /// The hash, recomputed from the fields.
    pub fn compute_hash(&self) -> Digest {
        let mut w = Writer::new();
        w.int(self.suite);
        w.int(self.schema_version);
        w.bytes(self.producer.as_bytes());
        w.int(self.epoch);
        w.int(self.seq);
        w.int(self.ts_wall_ns);
        w.int(self.kind);
        w.int(self.kind_version);
        w.bytes(&self.body_digest.0);
        w.bytes(&self.prev.0);
        digest::LEDGER.digest(w.as_slice())
    }

    /// The body, typed.
    pub fn decode_body(&self) -> Result<Body, DecodeError> {
        Body::decode(self.kind, self.kind_version, &self.body)
    }
}

/// The writing end of a producer's ledger, for one epoch.
pub struct Ledger {
    producer: String,
    epoch: i64,
    key: EpochKey,
    next_seq: i64,
    head: Digest,
}

/// Where a producer's ledger ended before this epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LedgerEnd {
    /// Last epoch.
    pub epoch: i64,
    /// Number of the next record.
    pub next_seq: i64,
    /// Hash of the last record.
    pub head: Digest,
}

/// What START says beside keys and links.
#[derive(Debug, Clone)]
pub struct Start {
    /// Digest of the configuration in force.
    pub config_digest: Digest,
    /// Sessions that earlier epochs left open.
    pub inherited: Vec<String>,
    /// Whether the clock is injected.
    pub simulated_clock: bool,
    /// Version of the software.
    pub software: String,
}

impl Ledger {
    /// Starts a new epoch after `end` (none for a producer's first) and gives its START record.
    pub fn start(
        producer: &str,
        long_term: &ProducerKey,
        key: EpochKey,
        end: Option<LedgerEnd>,
        start: Start,
        ts_wall_ns: i64,
    ) -> (Self, LedgerRecord) {
        let epoch = end.map_or(1, |e| e.epoch + 1);
        let mut ledger = Self {
            producer: producer.to_owned(),
            epoch,
            key,
            next_seq: end.map_or(0, |e| e.next_seq),
            head: end.map_or(Digest::ZERO, |e| e.head),
        };
        let epoch_key = ledger.key.public();
        let record = ledger.append(
            LedgerStart {
                producer_key: long_term.public(),
                epoch_key,
                certificate: long_term.certify(producer, epoch, epoch_key),
                previous_epoch: end.map(|e| e.epoch),
                config_digest: start.config_digest,
                inherited: start.inherited,
                clock: if start.simulated_clock { "simulated" } else { "system" }.to_owned(),
                software: start.software,
            }
            .into(),
            ts_wall_ns,
        );
        (ledger, record)
    }

    /// The epoch.
    pub fn epoch(&self) -> i64 {
        self.epoch
    }

    /// The producer.
    pub fn producer(&self) -> &str {
        &self.producer
    }

    /// The number that the next record will have.
    pub fn next_seq(&self) -> i64 {
        self.next_seq
    }

    /// Signs a seal, checkpoint or commit digest with the epoch key.
    pub fn sign(&self, digest: Digest) -> Vec<u8> {
        self.key.sign(digest)
    }

    /// Appends a record.
    pub fn append(&mut self, body: Body, ts_wall_ns: i64) -> LedgerRecord {
        let table = body.table();
        let bytes = body.canonical();
        let mut record = LedgerRecord {
            suite: digest::SUITE,
            schema_version: SCHEMA_VERSION,
            producer: self.producer.clone(),
            epoch: self.epoch,
            seq: self.next_seq,
            ts_wall_ns,
            kind: table.code,
            kind_version: table.version,
            body_digest: table.body_digest(&bytes),
            body: bytes,
            prev: self.head,
            hash: Digest::ZERO,
            signature: Vec::new(),
        };
        record.hash = record.compute_hash();
        record.signature = self.key.sign(record.hash);
        self.head = record.hash;
        self.next_seq += 1;
        record
    }
}

/// Whether a START record certifies its own epoch key.
pub fn certificate_is_valid(producer: &str, epoch: i64, start: &LedgerStart) -> bool {
    key::verify_signature(
        start.producer_key,
        key::certificate_digest(producer, epoch, start.epoch_key),
        &start.certificate,
    )
}

/// The digest over the heads of open sessions in a heartbeat, in ascending order of session.
pub fn open_heads_digest<'a>(heads: impl Iterator<Item = (&'a [u8; 16], i64, Digest)>) -> Digest {
    let mut w = Writer::new();
    for (session, count, head) in heads {
        w.bytes(session);
        w.int(count);
        w.bytes(&head.0);
    }
    digest::OPEN_HEADS.digest(w.as_slice())
}
