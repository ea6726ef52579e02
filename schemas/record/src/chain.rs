//! The hash chain of a session: `e_i = H(envelope_i)`, where the envelope holds `prev = e_{i-1}`.
//!
//! The first event links to the genesis, which binds tenant, producer, epoch, session, identity, target,
//! policy, session key and ledger position; so a chain can be moved to no other place.

use crate::canonical::Writer;
use crate::digest::{self, Digest};
use crate::envelope::{Draft, Envelope, Event, SCHEMA_VERSION};
use crate::ids::{PrincipalRef, SessionId};
use crate::kinds::session::SessionOpened;
use crate::merkle::Merkle;

/// What a session's first event links to.
#[derive(Debug, Clone, Copy)]
pub struct Genesis<'a> {
    /// Producer that opened the session.
    pub producer: &'a str,
    /// Epoch of the producer.
    pub epoch: i64,
    /// The session.
    pub session: SessionId,
    /// Policy in force at open.
    pub policy_digest: Digest,
    /// Body of the first event.
    pub opened: &'a SessionOpened,
}

impl Genesis<'_> {
    /// The genesis digest.
    pub fn digest(&self) -> Digest {
        let mut w = Writer::new();
        w.bytes(self.opened.tenant.as_bytes());
        w.bytes(self.producer.as_bytes());
        w.int(self.epoch);
        w.bytes(&self.session.0);
        w.bytes(&self.opened.nonce.0);
        w.bytes(&self.opened.identity_digest.0);
        w.bytes(&self.opened.target_digest.0);
        w.bytes(&self.policy_digest.0);
        w.bytes(&self.opened.key_digest.0);
        w.int(self.opened.ledger_seq);
        digest::GENESIS.digest(w.as_slice())
    }
}

/// The writing end of a session's chain.
#[derive(Debug, Clone)]
pub struct Chain {
    producer: String,
    epoch: i64,
    session: SessionId,
    principal_ref: PrincipalRef,
    target: String,
    policy_digest: Digest,
    next_seq: i64,
    head: Digest,
    merkle: Merkle,
    scratch: Vec<u8>,
}

impl Chain {
    /// A chain that starts at `genesis`. The first draft must be its `session.opened`.
    pub fn start(genesis: &Genesis<'_>, principal_ref: PrincipalRef, target: &str) -> Self {
        Self {
            producer: genesis.producer.to_owned(),
            epoch: genesis.epoch,
            session: genesis.session,
            principal_ref,
            target: target.to_owned(),
            policy_digest: genesis.policy_digest,
            next_seq: 0,
            head: genesis.digest(),
            merkle: Merkle::new(),
            scratch: Vec::new(),
        }
    }

    /// The session.
    pub fn session(&self) -> SessionId {
        self.session
    }

    /// Number of the next event; how many there are.
    pub fn next_seq(&self) -> i64 {
        self.next_seq
    }

    /// Hash of the last event; the genesis when there is none.
    pub fn head(&self) -> Digest {
        self.head
    }

    /// Merkle root over the hashes of all events so far.
    pub fn root(&self) -> Digest {
        self.merkle.root()
    }

    /// Appends an event.
    pub fn append(&mut self, draft: &Draft) -> Event {
        let table = draft.body.table();
        let body = draft.body.canonical();
        let envelope = Envelope {
            suite: digest::SUITE,
            schema_version: SCHEMA_VERSION,
            producer: self.producer.clone(),
            epoch: self.epoch,
            session: self.session,
            seq: self.next_seq,
            ts_wall_ns: draft.ts_wall_ns,
            ts_mono_ns: draft.ts_mono_ns,
            kind: table.code,
            kind_version: table.version,
            parent_seq: draft.parent_seq,
            principal_ref: self.principal_ref,
            target: self.target.clone(),
            policy_digest: self.policy_digest,
            body_digest: table.body_digest(&body),
            content_no: draft.content.map(|(no, _)| no),
            content: draft.content.map(|(_, commitment)| commitment),
            prev: self.head,
        };
        let mut w = Writer::reusing(std::mem::take(&mut self.scratch));
        envelope.put(&mut w);
        let hash = digest::EVENT.digest(w.as_slice());
        self.scratch = w.into_vec();
        self.merkle.push(hash);
        self.head = hash;
        self.next_seq += 1;
        Event { envelope, body, hash }
    }
}
