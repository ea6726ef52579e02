//! What is given up: positions that were removed from the bus before anybody read them, and that the configuration
//! says are gone for good.
//!
//! The recorder declares them in a ledger of its own, `recorder-<first digits of its key>/ledger`, whose long-term key
//! is the one that signs its commits: an epoch for each declaration, START, GAP, STOP, in one commit. It is there before
//! the stream is listed anew, so that a generation that begins behind a hole without one is a loss that nobody declared.

use bodycam_bus::stream::LEDGER_LANE;
use bodycam_bus::{Bus, StreamId};
use bodycam_lake::layout::Hour;
use bodycam_lake::{LedgerState, StreamName};
use bodycam_record::digest;
use bodycam_record::kinds::ledger::{LedgerGap, LedgerStop};
use bodycam_record::ledger::{Ledger, LedgerEnd, Start};

use super::Recorder;
use crate::commit::now_ns;
use crate::error::RecorderError;
use crate::ingest::Staged;

/// Positions that are given up, from the first to before the second. None at all where a stream began anew: then nobody
/// knows what may have followed on the last.
#[derive(Debug, Clone, Copy)]
pub(super) struct GivenUp {
    pub from: i64,
    pub to: i64,
}

impl GivenUp {
    fn reason(self) -> &'static str {
        match self.from == self.to {
            true => "the stream began anew, as after its spool was lost; acknowledged by recorder.recreated",
            false => "removed from the bus before any recorder read them; given up by recorder.truncated",
        }
    }
}

impl<B: Bus> Recorder<B> {
    /// Has the lake list a stream, after what is given up of it was declared.
    pub(super) async fn list(&mut self, id: &StreamId) -> Result<(), RecorderError> {
        let Some(given_up) = self.streams.get(id).map(|stream| stream.given_up.clone()) else {
            return Ok(());
        };
        for gap in given_up {
            self.declare(id, gap).await?;
        }
        let Some(stream) = self.streams.get_mut(id) else { return Ok(()) };
        stream.given_up.clear();
        stream.list(&mut self.lake).await
    }

    /// Declares in the recorder's ledger what is given up of a stream.
    async fn declare(&mut self, id: &StreamId, gap: GivenUp) -> Result<(), RecorderError> {
        let key = self.committer.key.clone();
        let producer = bodycam_verify::recorder_name(key.public());
        let name: StreamName = format!("{producer}/{LEDGER_LANE}").parse()?;
        let index = self.lake.add_stream(&name, 0, 0).await?;
        let (position, known) =
            self.lake.state().streams.get(index).map(|s| (s.position, s.ledger.clone())).unwrap_or_default();
        let end = known.as_ref().map(|l| LedgerEnd { epoch: l.epoch, next_seq: l.next_seq, head: l.head });
        let now = now_ns().max(known.map_or(i64::MIN, |l| l.watermark_ns));
        let config = digest_of(&self.config);
        let start = Start {
            config_digest: config,
            inherited: Vec::new(),
            simulated_clock: false,
            software: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let (long_term, epoch_key) = key.for_ledger();
        let epoch_public = epoch_key.public();
        let (mut ledger, started) = Ledger::start(&producer, &long_term, epoch_key, end, start, now);
        let declared = LedgerGap {
            stream: id.to_string(),
            from_position: gap.from,
            to_position: gap.to,
            reason: gap.reason().to_owned(),
        };
        let declared = ledger.append(declared.into(), now);
        let stop = LedgerStop { reason: "declared".to_owned(), events: 0, accepted: 0 };
        let stopped = ledger.append(stop.into(), now);
        let state = LedgerState {
            producer,
            epoch: ledger.epoch(),
            producer_key: long_term.public(),
            epoch_key: epoch_public,
            next_seq: ledger.next_seq(),
            head: stopped.hash,
            watermark_ns: now,
            stopped: true,
        };
        let mut staged = Staged { ledger_state: Some(state), records: 3, ..Staged::default() };
        let records = [started, declared, stopped].map(Box::new).into();
        staged.ledger.insert(Hour::of_ns(now), records);
        let (lake, ingest) = (&mut self.lake, &mut self.ingest);
        self.committer.commit(lake, ingest, (&name, 0), (position, position + 3), staged).await?;
        tracing::warn!(stream = %id, from = gap.from, to = gap.to, ledger = %name, "gap_declared: these positions are given up");
        Ok(())
    }
}

/// The digest of the configuration in force.
fn digest_of(config: &crate::config::RecorderConfig) -> bodycam_record::Digest {
    digest::POLICY.digest(&serde_json::to_vec(config).unwrap_or_default())
}
