//! The chain of each producer's ledger, checked as it is stored.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bodycam_lake::layout::Hour;
use bodycam_lake::{LakeState, LedgerState, View};
use bodycam_record::{Body, Digest, LedgerRecord, key, ledger};

use super::{Ingest, Staged};
use crate::error::RecorderError;
use crate::findings::Fault;

/// The ledgers that the recorder follows, and the keys that it trusts.
#[derive(Debug, Default)]
pub struct Ledgers {
    by_producer: HashMap<String, LedgerState>,
    /// Hashes of stored records of producers that were asked for since the last commit.
    stored: HashMap<String, HashMap<i64, Digest>>,
    trusted: BTreeMap<String, Digest>,
}

impl Ledgers {
    /// No ledger yet; these keys are trusted.
    pub fn new(trusted: BTreeMap<String, Digest>) -> Self {
        Self { trusted, ..Self::default() }
    }

    /// Follows the ledgers of these producers from where the lake has them.
    pub(super) fn load(&mut self, state: &LakeState, producers: &BTreeSet<String>) {
        producers.iter().for_each(|producer| self.forget(producer));
        let theirs = state.watermarks().filter(|l| producers.contains(&l.producer));
        self.by_producer.extend(theirs.map(|l| (l.producer.clone(), l.clone())));
    }

    /// Follows the ledger of a producer no longer.
    pub(super) fn forget(&mut self, producer: &str) {
        self.by_producer.remove(producer);
    }

    pub(super) fn forget_stored(&mut self) {
        self.stored.clear();
    }

    /// Whether this very record is in the lake.
    async fn is_stored(&mut self, view: &View, record: &LedgerRecord) -> Result<bool, RecorderError> {
        if !self.stored.contains_key(&record.producer) {
            let (records, _) = view.ledger(&record.producer).await?;
            let hashes = records.into_iter().map(|r| (r.0.seq, r.0.hash)).collect();
            self.stored.insert(record.producer.clone(), hashes);
        }
        let hashes = self.stored.get(&record.producer);
        Ok(hashes.and_then(|h| h.get(&record.seq)) == Some(&record.hash))
    }
}

impl Ingest {
    /// Takes a ledger record: checks hash, link, signature and keys, and what it says about sessions.
    pub(super) async fn ledger(
        &mut self,
        staged: &mut Staged,
        view: &View,
        record: Box<LedgerRecord>,
    ) -> Result<(), RecorderError> {
        let known = self.ledgers.by_producer.get(&record.producer).cloned();
        if known.as_ref().is_some_and(|k| record.seq < k.next_seq) {
            let is_staged = staged.ledger.values().flatten().any(|r| **r == *record);
            if is_staged || self.ledgers.is_stored(view, &record).await? {
                staged.duplicates += 1;
                return Ok(());
            }
        }
        let mut fault = |fault, what: &str| {
            let LedgerRecord { producer, seq, hash, ts_wall_ns, .. } = record.as_ref();
            staged.findings.ledger(fault, producer, *seq, *hash, *ts_wall_ns, what);
        };
        let body = record.decode_body();
        let body_fits = bodycam_record::KindTable::of(record.kind)
            .is_some_and(|t| t.body_digest(&record.body) == record.body_digest);
        if !body_fits || record.compute_hash() != record.hash {
            fault(Fault::Ledger, "the stated hash is not that of its fields");
        }
        let (next_seq, head) = known.as_ref().map_or((0, Digest::ZERO), |k| (k.next_seq, k.head));
        if record.seq != next_seq {
            fault(Fault::Ledger, &format!("record {next_seq} was expected"));
        } else if record.prev != head {
            fault(Fault::Ledger, "it does not link to the record before it");
        }
        let mut keys = known.as_ref().map(|k| (k.producer_key, k.epoch_key));
        if let Ok(Body::LedgerStart(start)) = &body {
            if !ledger::certificate_is_valid(&record.producer, record.epoch, start) {
                fault(Fault::ProducerKey, "the long-term key did not certify the key of the epoch");
            }
            let trusted = self.ledgers.trusted.get(&record.producer).copied();
            if trusted.is_some_and(|key| key != start.producer_key) {
                fault(Fault::ProducerKey, "its long-term key is not the one pinned in recorder.trust");
            } else if trusted.is_none() && !self.ledgers.trusted.is_empty() {
                fault(Fault::ProducerKey, "recorder.trust pins no key for this producer");
            } else if known.as_ref().is_some_and(|k| k.producer_key != start.producer_key) {
                fault(Fault::ProducerKey, "its long-term key is not the one it had before");
            }
            keys = Some((start.producer_key, start.epoch_key));
        }
        let (producer_key, epoch_key) = keys.unwrap_or_default();
        if !key::verify_signature(epoch_key, record.hash, &record.signature) {
            fault(Fault::Ledger, "its signature is not that of the key of its epoch");
        }
        if let Ok(Body::LedgerCrash(crash)) = &body
            && self.sessions.crash(crash)
        {
            staged.sessions.insert(crash.session_id);
        }
        let state = LedgerState {
            producer: record.producer.clone(),
            epoch: record.epoch,
            producer_key,
            epoch_key,
            next_seq: record.seq.saturating_add(1).max(next_seq),
            head: record.hash,
            watermark_ns: known.map_or(i64::MIN, |k| k.watermark_ns).max(record.ts_wall_ns),
            stopped: matches!(body, Ok(Body::LedgerStop(_))),
        };
        self.ledgers.by_producer.insert(record.producer.clone(), state.clone());
        staged.ledger_state = Some(state);
        staged.bytes += 400 + record.body.len() as u64;
        staged.ledger.entry(Hour::of_ns(record.ts_wall_ns)).or_default().push(record);
        Ok(())
    }
}
