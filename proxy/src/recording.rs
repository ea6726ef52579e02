//! A session's pen: facts become events, events become links of a chain, links are spooled, and only then do
//! bytes move on. The ordering rules are kept here and nowhere else:
//!
//! 1. OPEN is in the ledger before a session's first event is spooled.
//! 2. A statement's event is in the spool before its bytes leave for the target; a result's event before
//!    CommandComplete or ReadyForQuery leave for the client; a row chunk before it is forwarded. The relay
//!    appends, then awaits [`SessionPen::persist`], then writes to its sockets.
//! 3. The seal follows the last event. A session whose process dies is sealed by the next epoch (CRASH).
//!
//! A full or failing spool holds traffic for [`RecordingConfig::hold_seconds`], then closes the sessions.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use thiserror::Error;

mod lane;
mod pen;
mod producer;
mod recovery;

pub use lane::Lane;
pub use pen::{ContentWriter, Opening, SessionPen, Totals};
pub use producer::{Counters, Producer, ProducerOptions, load_or_create_key_file};

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

    #[tokio::test(flavor = "current_thread")]
    async fn a_full_spool_holds_and_then_closes_and_nothing_is_lost() {
        let dir = tempfile::tempdir().unwrap();
        let mut options = options(&dir);
        options.spool.max_bytes = 40_000;
        let producer = Producer::start(options).unwrap();
        let lane = producer.lane(0).unwrap();
        let mut pen = lane.open_session(opening()).unwrap();
        let error = loop {
            pen.event(message(), None, None).unwrap();
            if let Err(error) = pen.persist().await {
                break error;
            }
        };
        assert!(error.to_string().contains("is full"), "{error}");
        assert!(lane.open_session(opening()).is_err(), "no new session either");
    }
}
