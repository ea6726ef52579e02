//! Whether a session's events are a chain: recomputed from what the lake stores, event by event.
//!
//! This is the part of verification that needs nothing but the session: hashes, links, numbers, checkpoints.
//! Signatures, seals, the ledger and files are `bodycam verify`'s.

use bodycam_record::kinds::Body;
use bodycam_record::merkle::Merkle;
use bodycam_record::{Digest, Genesis};

use crate::event::EventItem;

/// The check, as far as it has come.
#[derive(Debug, Clone, Default)]
pub struct ChainCheck {
    next_seq: i64,
    head: Option<Digest>,
    merkle: Merkle,
    fault: Option<ChainFault>,
    seen: i64,
    policy: Option<Digest>,
}

/// The first event that does not fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainFault {
    /// Its number.
    pub seq: i64,
    /// What is wrong.
    pub what: &'static str,
    /// The hash that follows from the columns.
    pub computed: Option<Digest>,
    /// The hash that the table states.
    pub stored: Option<Digest>,
}

impl ChainCheck {
    /// Adds the next events, in order.
    pub fn extend<'a>(&mut self, events: impl IntoIterator<Item = &'a EventItem>) {
        for event in events {
            self.seen += 1;
            self.policy.get_or_insert(event.event.envelope.policy_digest);
            if self.fault.is_none()
                && let Err(fault) = self.add(event)
            {
                self.fault = Some(fault);
            }
        }
    }

    fn add(&mut self, item: &EventItem) -> Result<(), ChainFault> {
        let fault = |seq, what| ChainFault { seq, what, computed: None, stored: None };
        let seq = item.seq();
        if seq > self.next_seq {
            return Err(fault(self.next_seq, "the event is missing"));
        }
        if seq < self.next_seq {
            return Err(fault(seq, "the number stands twice: two versions of one event"));
        }
        let envelope = &item.event.envelope;
        let prev = match self.head {
            Some(head) => head,
            None => {
                let Some(Body::SessionOpened(opened)) = &item.body else {
                    return Err(fault(seq, "the session does not start with its opening"));
                };
                Genesis {
                    producer: &envelope.producer,
                    epoch: envelope.epoch,
                    session: envelope.session,
                    policy_digest: envelope.policy_digest,
                    opened,
                }
                .digest()
            }
        };
        let event = item.event.clone().after(prev);
        let computed = event.envelope.hash();
        if computed != event.hash {
            return Err(ChainFault {
                seq,
                what: "the hash does not follow from the columns",
                computed: Some(computed),
                stored: Some(event.hash),
            });
        }
        if let Some(Body::SessionCheckpoint(checkpoint)) = &item.body
            && (checkpoint.count, checkpoint.head, checkpoint.root) != (seq, prev, self.merkle.root())
        {
            return Err(fault(seq, "the checkpoint is of other events"));
        }
        self.merkle.push(computed);
        self.head = Some(computed);
        self.next_seq = seq + 1;
        Ok(())
    }

    /// Events that were looked at.
    pub fn seen(&self) -> i64 {
        self.seen
    }

    /// The policy in force at the first event.
    pub fn policy(&self) -> Option<Digest> {
        self.policy
    }

    /// Events that fit, from the first on.
    pub fn verified(&self) -> i64 {
        self.next_seq
    }

    /// The first event that does not.
    pub fn fault(&self) -> Option<&ChainFault> {
        self.fault.as_ref()
    }

    /// The result in a few words: `✔ 5,310/5,310` or `✘ at #812`.
    pub fn label(&self, expected: i64, ascii: bool) -> String {
        let total = crate::units::count(expected.max(self.seen));
        let verified = crate::units::count(self.verified());
        match &self.fault {
            Some(fault) => format!("{} BROKEN at #{}", if ascii { "x" } else { "✘" }, fault.seq),
            None if self.verified() < expected => {
                format!("{} {verified}/{total}", if ascii { "..." } else { "…" })
            }
            None => format!("{} {verified}/{total}", if ascii { "ok" } else { "✔" }),
        }
    }
}
