//! What can go wrong on the bus.

use std::path::PathBuf;

use bodycam_record::canonical::DecodeError;
use thiserror::Error;

/// A failure of the bus. Every message names the stream or file and what to do.
#[derive(Debug, Error)]
pub enum BusError {
    /// The file system refused.
    #[error("spool: cannot {action} {path}: {source}")]
    Io { action: &'static str, path: PathBuf, source: std::io::Error },
    /// The spool has reached its limit.
    #[error(
        "spool {path} is full: {used} of {limit} bytes are not yet in the lake; traffic is held until the recorder \
         catches up (is it running?), or raise spool.max_bytes"
    )]
    Full { path: PathBuf, used: u64, limit: u64 },
    /// Another process writes here.
    #[error(
        "spool {path} is in use by another gateway process; give each gateway its own producer name or stop the other"
    )]
    InUse { path: PathBuf },
    /// A segment is damaged where it cannot be a torn tail.
    #[error(
        "spool segment {path} is damaged at byte {offset}: {what}; nothing behind it is read until its gateway has \
         started again, which keeps the damaged segment aside and says GAP in the ledger"
    )]
    Damaged { path: PathBuf, offset: u64, what: String },
    /// The ledger has lost records that the lake holds.
    #[error(
        "stream {stream} ends at position {end}, but the lake holds it up to {released}: the end of the ledger was lost, \
         and its chain cannot go on from where it ended; give the gateway a new name (gateway.producer) and keep the old \
         directory"
    )]
    LedgerLost { stream: String, end: i64, released: i64 },
    /// A record does not decode.
    #[error("record {position} of stream {stream} does not decode: {source}")]
    Decode { stream: String, position: i64, source: DecodeError },
    /// The wanted records are gone.
    #[error(
        "stream {stream} starts at position {first}, but {wanted} was wanted: records {wanted}..{first} were removed before \
         they were read; nothing more is read from it until recorder.truncated names '{stream}', which gives them up"
    )]
    Truncated { stream: String, first: i64, wanted: i64 },
    /// Someone else reads the stream now, or nobody yet.
    #[error(
        "stream {stream} is read by another recorder of the group now; this one starts again from the lake"
    )]
    Revoked { stream: String },
    /// A stream begins anew under an old name.
    #[error(
        "stream {stream} goes on under another origin ({found}, before it was {known}): the spool of its gateway was lost \
         or recreated, or two gateways share one producer name; nothing more is read from it until \
         recorder.recreated names '{stream}'"
    )]
    Recreated { stream: String, known: String, found: String },
    /// The Kafka client refused what it was asked.
    #[error("kafka: cannot {action}: {why}")]
    Kafka { action: String, why: String },
    /// Kafka is set up so that records would be lost or refused.
    #[error("kafka: {0}")]
    Refused(String),
    /// A name that cannot be a stream.
    #[error("'{0}' is not a stream name (want <producer>/<lane>, letters, digits, '-', '_' and '.')")]
    StreamName(String),
    /// A failed write or fsync: the stream takes nothing more in this process.
    #[error(
        "stream {stream} failed earlier and takes no more records in this process: {why}; restart the gateway once the disk is well"
    )]
    Poisoned { stream: String, why: String },
}

impl BusError {
    pub(crate) fn io(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> BusError {
        let path = path.into();
        move |source| BusError::Io { action, path, source }
    }
}
