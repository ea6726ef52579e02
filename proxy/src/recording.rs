//! A session's pen: facts become events, events become links of a chain, links are spooled, and only then do
//! bytes move on. The ordering rules are kept here and nowhere else:
//!
//! 1. OPEN is in the ledger before a session's first event is spooled.
//! 2. A statement's event is in the spool before its bytes leave for the target; a result's event before
//!    CommandComplete or ReadyForQuery leave for the client; a row chunk before it is forwarded. The relay
//!    appends, then awaits [`SessionPen::persist`], then writes to its sockets.
//! 3. The seal follows the last event, when the spool has taken it: until then the lane keeps the session and
//!    tries again. A session whose process ends before that is sealed by the next epoch (CRASH); no STOP is
//!    written over it.
//!
//! A full or failing spool holds traffic for [`RecordingConfig::hold_seconds`], then closes the sessions.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use thiserror::Error;

mod key_file;
mod lane;
mod pen;
mod producer;
mod recovery;

pub use key_file::{check_key_file, load_or_create_key_file};
pub use lane::Lane;
pub use pen::{ContentWriter, Opening, SessionPen, Totals};
pub use producer::{Counters, Producer, ProducerOptions};

/// `[record]` in `bodycam.toml`: what is recorded, and how much of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RecordingConfig {
    /// Result rows: `digest` records counts and a keyed digest, `clear` also the rows as sent to the client.
    pub rows: Rows,
    /// Rows stored per result with `rows = "clear"`; beyond it counts and digest go on.
    pub max_rows_per_result: u64,
    /// Bytes of rows stored per result with `rows = "clear"`.
    pub max_bytes_per_result: u64,
    /// Rows stored per session with `rows = "clear"`.
    pub max_rows_per_session: u64,
    /// Bytes of rows stored per session with `rows = "clear"`.
    pub max_bytes_per_session: u64,
    /// Bytes of one statement's text, and of its bind parameters, that are stored; beyond it keyed digest, length and prefix.
    pub max_statement_content: u64,
    /// Seconds that traffic is held when the spool is full or failing, before sessions are closed.
    pub hold_seconds: u64,
}

impl Default for RecordingConfig {
    fn default() -> Self {
        Self {
            rows: Rows::Digest,
            max_rows_per_result: 10_000,
            max_bytes_per_result: 16 << 20,
            max_rows_per_session: 1_000_000,
            max_bytes_per_session: 256 << 20,
            max_statement_content: 1 << 20,
            hold_seconds: 30,
        }
    }
}

/// A setting of `[record]` that cannot work.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("record.{field}: {problem}")]
pub struct RecordingConfigError {
    /// The setting.
    pub field: &'static str,
    /// What is wrong with it, and what would be right.
    pub problem: &'static str,
}

impl RecordingConfig {
    /// Refuses what cannot work or would do nothing.
    pub fn check(&self) -> Result<(), RecordingConfigError> {
        let fault = |field, problem| Err(RecordingConfigError { field, problem });
        let usual = Self::default();
        for (field, value, default) in [
            ("max_rows_per_result", self.max_rows_per_result, usual.max_rows_per_result),
            ("max_bytes_per_result", self.max_bytes_per_result, usual.max_bytes_per_result),
            ("max_rows_per_session", self.max_rows_per_session, usual.max_rows_per_session),
            ("max_bytes_per_session", self.max_bytes_per_session, usual.max_bytes_per_session),
        ] {
            if self.rows == Rows::Digest && value != default {
                return fault(
                    field,
                    "does nothing with rows = \"digest\"; remove it, or set rows = \"clear\"",
                );
            }
            if self.rows == Rows::Clear && value == 0 {
                return fault(field, "0 would store no row; set rows = \"digest\" to store none");
            }
        }
        if !(1..=600).contains(&self.hold_seconds) {
            return fault("hold_seconds", "must be between 1 and 600");
        }
        if self.max_statement_content > 1 << 30 {
            return fault("max_statement_content", "must be at most 1 GiB");
        }
        Ok(())
    }
}

/// How result rows are recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Rows {
    /// Counts and keyed digest only.
    #[default]
    Digest,
    /// Rows as sent to the client, encrypted under the session key.
    Clear,
}

/// Why something could not be recorded. The session must be closed: nothing unrecorded may pass.
#[derive(Debug, Error)]
pub enum RecordingError {
    /// The spool refused for longer than `hold_seconds`.
    #[error("cannot record: {0}")]
    Bus(#[from] bodycam_bus::BusError),
    /// The producer key or state is unusable.
    #[error("cannot use {what}: {why}")]
    Key { what: String, why: String },
    /// The operating system gave no random bytes.
    #[error("cannot draw random bytes for a session key: {0}")]
    Random(getrandom::Error),
    /// The process is stopping.
    #[error("the gateway is stopping and opens no more sessions")]
    Stopping,
    /// The process ends and sessions have no seal.
    #[error(
        "{sessions} sessions could not be sealed, because the spool takes nothing: the next start of this gateway seals \
         them as cut by a crash"
    )]
    Unsealed { sessions: usize },
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use bodycam_bus::spool::SpoolBus;
    use bodycam_bus::{Bus, Record, SpoolConfig};
    use bodycam_record::chain::Genesis;
    use bodycam_record::kinds::Body;
    use bodycam_record::kinds::sql::{SqlMessage, SqlStatement};
    use bodycam_record::{ContentKind, Digest, Event, LedgerRecord, TenantKey, key};

    fn options(dir: &tempfile::TempDir) -> ProducerOptions {
        ProducerOptions {
            producer: "gw".to_owned(),
            tenant: "acme".to_owned(),
            tenant_key: TenantKey::new([1; 32]),
            spool: SpoolConfig { dir: dir.path().to_owned(), segment_bytes: 8192, ..SpoolConfig::default() },
            policy_digest: Digest::ZERO,
            config_digest: Digest::ZERO,
            hold_seconds: 1,
            clock: Clock::system(),
        }
    }

    fn opening() -> Opening {
        Opening {
            protocol: "postgres",
            principal: "ada".to_owned(),
            target: "crm".to_owned(),
            ..Opening::default()
        }
    }

    fn statement(statement_no: i64) -> Body {
        SqlStatement {
            statement_no,
            form: "simple".to_owned(),
            statement_kind: "select".to_owned(),
            verdict: "allow".to_owned(),
            fingerprint: None,
            main_relation: None,
            relations_read: Vec::new(),
            relations_written: Vec::new(),
            output_columns: Vec::new(),
            functions: Vec::new(),
            has_predicate: false,
            limit_rows: None,
            offset_rows: None,
            statement_count: 1,
            opaque: Vec::new(),
            est_rows: None,
            statement_bytes: 8,
            statement_digest: Digest::ZERO,
            bind_count: 0,
            bind_bytes: 0,
            binds_digest: None,
            portal: None,
            content_cut: false,
            correlation: None,
        }
        .into()
    }

    fn message() -> Body {
        let digest = Digest::ZERO;
        SqlMessage { message: "notice".to_owned(), sqlstate: None, parameter: None, bytes: 1, digest }.into()
    }

    fn read(dir: &tempfile::TempDir) -> (Vec<Event>, Vec<LedgerRecord>) {
        let bus = SpoolBus::new(&options(dir).spool);
        let (mut events, mut ledger) = (Vec::new(), Vec::new());
        for stream in bus.streams().unwrap() {
            let mut sub = bus.subscribe(&stream, 0).unwrap();
            loop {
                let batch = sub.poll(1 << 20).unwrap();
                if batch.is_empty() {
                    break;
                }
                for (_, record) in batch {
                    match record {
                        Record::Event(e) => events.push(*e),
                        Record::Ledger(l) => ledger.push(*l),
                        _ => {}
                    }
                }
            }
        }
        (events, ledger)
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_closed_session_is_a_whole_chain_with_checkpoints_and_a_signed_seal() {
        let dir = tempfile::tempdir().unwrap();
        let producer = Producer::start(options(&dir)).unwrap();
        let lane = producer.lane(0).unwrap();
        let mut pen = lane.open_session(opening()).unwrap();
        let session = pen.session();
        let mut content = pen.content();
        pen.put(&mut content, ContentKind::SqlText, b"SELECT 1").unwrap();
        pen.event(statement(1), None, Some(content)).unwrap();
        for _ in 0..1500 {
            pen.event(message(), None, None).unwrap();
        }
        pen.persist().await.unwrap();
        pen.close("client").await.unwrap();
        producer.stop("drain").unwrap();

        let (events, ledger) = read(&dir);
        assert!(events.iter().all(|e| e.envelope.session == session && e.envelope.hash() == e.hash));
        let Body::SessionOpened(opened) = events[0].decode_body().unwrap() else { panic!("first event") };
        let genesis =
            Genesis { producer: "gw", epoch: 1, session, policy_digest: Digest::ZERO, opened: &opened }
                .digest();
        assert_eq!(events[0].envelope.prev, genesis);
        assert!(
            events
                .windows(2)
                .all(|w| w[1].envelope.prev == w[0].hash && w[1].envelope.seq == w[0].envelope.seq + 1)
        );
        assert_eq!(
            events.iter().filter(|e| e.envelope.kind == 2).count(),
            1,
            "one checkpoint in 1,500 events"
        );

        let names: Vec<_> = ledger.iter().map(|l| l.decode_body().unwrap().table().name).collect();
        assert_eq!(names, ["ledger.start", "ledger.open", "ledger.seal", "ledger.stop"]);
        let Body::LedgerStart(start) = ledger[0].decode_body().unwrap() else { panic!("START") };
        assert!(bodycam_record::ledger::certificate_is_valid("gw", 1, &start));
        for record in &ledger {
            assert_eq!(record.compute_hash(), record.hash);
            assert!(key::verify_signature(start.epoch_key, record.hash, &record.signature));
        }
        let Body::LedgerSeal(seal) = ledger[2].decode_body().unwrap() else { panic!("SEAL") };
        assert_eq!((seal.count, seal.head), (events.len() as i64, events.last().unwrap().hash));
        let times = (events[0].envelope.ts_wall_ns, events.last().unwrap().envelope.ts_wall_ns);
        assert_eq!((seal.first_ts_ns, seal.last_ts_ns), times);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn after_a_crash_the_next_epoch_seals_what_was_open_and_names_unknown_outcomes() {
        let (dir, crashed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (session, count) = {
            let producer = Producer::start(options(&crashed)).unwrap();
            let lane = producer.lane(0).unwrap();
            let mut pen = lane.open_session(opening()).unwrap();
            pen.event(statement(1), None, None).unwrap();
            for _ in 0..300 {
                pen.event(message(), None, None).unwrap();
                pen.persist().await.unwrap();
            }
            // What a killed process leaves is what the disk holds at that moment.
            for lane in std::fs::read_dir(crashed.path().join("gw")).unwrap().map(Result::unwrap) {
                let to = dir.path().join("gw").join(lane.file_name());
                if lane.path().is_dir() {
                    std::fs::create_dir_all(&to).unwrap();
                    for file in std::fs::read_dir(lane.path()).unwrap().map(Result::unwrap) {
                        std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
                    }
                } else {
                    std::fs::create_dir_all(to.parent().unwrap()).unwrap();
                    std::fs::copy(lane.path(), to).unwrap();
                }
            }
            (pen.session(), read(&dir).0.len() as i64)
        };
        let producer = Producer::start(options(&dir)).unwrap();
        assert_eq!(producer.epoch(), 2);
        let (events, ledger) = read(&dir);
        let crash = ledger.iter().find_map(|l| match l.decode_body().unwrap() {
            Body::LedgerCrash(c) => Some(c),
            _ => None,
        });
        let crash = crash.unwrap();
        assert_eq!((crash.session_id, crash.session_epoch, crash.count), (session, 1, count));
        assert_eq!(crash.head, events.last().unwrap().hash);
        assert_eq!(crash.unknown_outcome, [1]);
        assert!(ledger.windows(2).all(|w| w[1].prev == w[0].hash && w[1].seq == w[0].seq + 1));
        drop(producer);
        let third = Producer::start(options(&dir)).unwrap();
        assert_eq!(third.epoch(), 3);
        let crashes = read(&dir).1.iter().filter(|l| l.kind == 105).count();
        assert_eq!(crashes, 1, "a session is sealed once");
    }

    fn small(dir: &tempfile::TempDir) -> ProducerOptions {
        let mut options = options(dir);
        options.spool.max_bytes = 40_000;
        options
    }

    async fn fill(pen: &mut SessionPen) -> RecordingError {
        loop {
            pen.event(message(), None, None).unwrap();
            if let Err(error) = pen.persist().await {
                return error;
            }
        }
    }

    fn release_all(dir: &tempfile::TempDir) {
        let bus = SpoolBus::new(&options(dir).spool);
        for stream in bus.streams().unwrap() {
            bus.release(&stream, bus.end(&stream).unwrap()).unwrap();
        }
    }

    fn ledger_names(dir: &tempfile::TempDir) -> Vec<&'static str> {
        let bus = SpoolBus::new(&options(dir).spool);
        let stream = "gw/ledger".parse().unwrap();
        let mut sub = bus.subscribe_newest(&stream).unwrap();
        let records = std::iter::from_fn(|| Some(sub.poll(1 << 20).unwrap()).filter(|b| !b.is_empty()));
        let name = |record| match record {
            Record::Ledger(l) => Some(l.decode_body().unwrap().table().name),
            _ => None,
        };
        records.flatten().filter_map(|(_, record)| name(record)).collect()
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_full_spool_holds_once_and_then_closes_and_nothing_is_lost() {
        let dir = tempfile::tempdir().unwrap();
        let producer = Producer::start(small(&dir)).unwrap();
        let lane = producer.lane(0).unwrap();
        let mut pen = lane.open_session(opening()).unwrap();
        let error = fill(&mut pen).await;
        assert!(error.to_string().contains("is full"), "{error}");
        let Err(error) = lane.open_session(opening()) else { panic!("no new session either") };
        assert!(error.to_string().contains("is full"), "{error}");
        let since = std::time::Instant::now();
        assert!(pen.persist().await.is_err());
        assert!(pen.close("spool").await.is_err());
        assert!(since.elapsed().as_millis() < 500, "hold_seconds have passed already");
        assert_eq!((lane.seal_ended(), producer.open_sessions()), (1, 1));

        release_all(&dir);
        tokio::time::sleep(std::time::Duration::from_millis(250)).await;
        assert_eq!((lane.seal_ended(), producer.open_sessions()), (0, 0));
        drop(lane);
        producer.stop("drain").unwrap();
        assert_eq!(ledger_names(&dir), ["ledger.start", "ledger.open", "ledger.seal", "ledger.stop"]);
        drop(producer);
        let again = Producer::start(small(&dir)).unwrap();
        assert_eq!(ledger_names(&dir)[4..], ["ledger.start"], "what was sealed is not sealed again");
        assert_eq!(again.epoch(), 2);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_process_that_ends_on_a_full_spool_writes_no_stop_over_open_sessions() {
        let dir = tempfile::tempdir().unwrap();
        let producer = Producer::start(small(&dir)).unwrap();
        let lane = producer.lane(0).unwrap();
        let mut pen = lane.open_session(opening()).unwrap();
        fill(&mut pen).await;
        drop(pen);
        drop(lane);
        let error = producer.stop("drain").unwrap_err();
        assert!(matches!(error, RecordingError::Unsealed { sessions: 1 }), "{error}");
        drop(producer);
        assert_eq!(ledger_names(&dir), ["ledger.start", "ledger.open"]);
        let again = Producer::start(small(&dir)).expect("a full spool is no reason not to start");
        assert_eq!(ledger_names(&dir)[2..], ["ledger.start", "ledger.crash"]);
        again.heartbeat().unwrap();
        again.stop("drain").unwrap();
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_process_starts_again_after_every_lane_has_begun_new_segments() {
        let dir = tempfile::tempdir().unwrap();
        for epoch in 1..4 {
            let producer = Producer::start(options(&dir)).unwrap();
            assert_eq!(producer.epoch(), epoch);
            let lane = producer.lane(0).unwrap();
            for _ in 0..100 {
                let mut pen = lane.open_session(opening()).unwrap();
                pen.persist().await.unwrap();
                pen.close("client").await.unwrap();
            }
            producer.stop("drain").unwrap();
        }
        for lane in ["0", "keys", "ledger"] {
            let files = std::fs::read_dir(dir.path().join("gw").join(lane)).unwrap();
            assert!(files.count() > 2, "lane {lane} has begun new segments");
        }
    }

    #[test]
    fn a_ledger_whose_state_is_damaged_is_read_from_further_back_or_not_continued() {
        let dir = tempfile::tempdir().unwrap();
        let lane = dir.path().join("gw/ledger");
        for _ in 0..20 {
            let producer = Producer::start(options(&dir)).unwrap();
            producer.heartbeat().unwrap();
        }
        let mut segments: Vec<_> = std::fs::read_dir(&lane)
            .unwrap()
            .map(|f| f.unwrap().path())
            .filter(|f| f.extension().is_some_and(|e| e == "seg"))
            .collect();
        segments.sort();
        assert!(segments.len() > 1, "{segments:?}");
        // The newest segment is cut within the state that it begins with.
        let newest = segments.pop().unwrap();
        std::fs::OpenOptions::new().write(true).open(&newest).unwrap().set_len(30).unwrap();
        let epoch = Producer::start(options(&dir)).unwrap().epoch();
        assert!((2..=21).contains(&epoch), "{epoch}");
        let ledger = read(&dir).1;
        assert!(ledger.windows(2).all(|w| w[1].seq == w[0].seq + 1 && w[1].prev == w[0].hash));
        for older in segments {
            std::fs::remove_file(older).unwrap();
        }
        std::fs::OpenOptions::new().write(true).open(&newest).unwrap().set_len(8).unwrap();
        let error = Producer::start(options(&dir)).err().unwrap().to_string();
        assert!(error.contains("gateway.producer"), "{error}");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn lost_positions_become_a_gap_in_the_ledger_once() {
        let dir = tempfile::tempdir().unwrap();
        let producer = Producer::start(options(&dir)).unwrap();
        let lane = producer.lane(0).unwrap();
        let mut pen = lane.open_session(opening()).unwrap();
        pen.event(message(), None, None).unwrap();
        pen.close("client").await.unwrap();
        drop(lane);
        producer.stop("drain").unwrap();
        drop(producer);
        let segment = dir.path().join("gw/0/00000000000000000000.seg");
        let mut bytes = std::fs::read(&segment).unwrap();
        bytes[30] ^= 1;
        std::fs::write(&segment, bytes).unwrap();
        drop(Producer::start(options(&dir)).unwrap());
        drop(Producer::start(options(&dir)).unwrap());
        let gaps: Vec<_> = read(&dir).1.iter().filter(|l| l.kind == 104).cloned().collect();
        assert_eq!(gaps.len(), 1);
        let Body::LedgerGap(gap) = gaps[0].decode_body().unwrap() else { panic!("GAP") };
        assert_eq!((gap.stream.as_str(), gap.from_position), ("gw/0", 0));
        assert!(gap.to_position > 4 && gap.reason.contains(".seg.damaged"), "{gap:?}");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_wall_clock_that_jumps_makes_no_checkpoint() {
        let dir = tempfile::tempdir().unwrap();
        let clock = Clock::simulated();
        let producer = Producer::start(ProducerOptions { clock: clock.clone(), ..options(&dir) }).unwrap();
        let mut pen = producer.lane(0).unwrap().open_session(opening()).unwrap();
        for hour in 1..4 {
            clock.set(clock.wall_ns() + hour * 3_600_000_000_000);
            pen.event(message(), None, None).unwrap();
            pen.tick().unwrap();
        }
        let checkpoints = || read(&dir).0.iter().filter(|e| e.envelope.kind == 2).count();
        pen.persist().await.unwrap();
        assert_eq!(checkpoints(), 0);
        clock.advance(std::time::Duration::from_secs(61));
        pen.tick().unwrap();
        pen.close("client").await.unwrap();
        assert_eq!(checkpoints(), 1, "a minute that passes does");
    }

    #[test]
    fn a_process_that_fails_after_its_start_says_stop() {
        let dir = tempfile::tempdir().unwrap();
        drop(Producer::start(options(&dir)).unwrap());
        assert_eq!(ledger_names(&dir), ["ledger.start", "ledger.stop"]);
    }

    #[test]
    fn settings_that_cannot_work_or_do_nothing_are_refused_by_name() {
        let usual = RecordingConfig::default();
        assert_eq!(usual.check(), Ok(()));
        let clear = RecordingConfig { rows: Rows::Clear, max_rows_per_result: 5, ..usual.clone() };
        assert_eq!(clear.check(), Ok(()));
        for (config, field) in [
            (RecordingConfig { hold_seconds: 0, ..usual.clone() }, "hold_seconds"),
            (RecordingConfig { hold_seconds: u64::MAX, ..usual.clone() }, "hold_seconds"),
            (RecordingConfig { max_rows_per_result: 5, ..usual.clone() }, "max_rows_per_result"),
            (RecordingConfig { max_bytes_per_session: 0, ..clear }, "max_bytes_per_session"),
        ] {
            assert_eq!(config.check().unwrap_err().field, field);
        }
    }
}
