//! What stops a recorder.

use bodycam_bus::BusError;
use bodycam_lake::LakeError;
use thiserror::Error;

/// Why the recorder stopped, or parked a stream. Nothing is lost by it: what is not committed stays on the bus.
#[derive(Debug, Error)]
pub enum RecorderError {
    /// A setting that cannot work.
    #[error("recorder.{setting} {why}")]
    Config { setting: &'static str, why: &'static str },
    /// The lake refused.
    #[error(transparent)]
    Lake(#[from] LakeError),
    /// The bus refused.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// The bus ends before the position that the lake holds.
    #[error(
        "stream {stream} ends at position {end}, but the lake holds it up to {committed}: the spool was lost or \
         recreated. Nothing is read from it until recorder.recreated names '{stream}'; it then goes on as a \
         new generation"
    )]
    Recreated { stream: String, end: i64, committed: u64 },
    /// A record that this build cannot store.
    #[error(
        "record {position} of stream {stream} cannot be stored: {why}. It stays on the bus; start a recorder of the \
         gateway's version"
    )]
    Unstorable { stream: String, position: i64, why: String },
    /// A task of the recorder died.
    #[error("a task of the recorder ended before its work was done: {0}")]
    Task(String),
}

impl RecorderError {
    /// Whether it is the fault of one stream, which stays as it is until someone acts; the others can go on.
    pub fn is_of_one_stream(&self) -> bool {
        use RecorderError::{Bus, Recreated, Unstorable};
        matches!(
            self,
            Recreated { .. }
                | Unstorable { .. }
                | Bus(BusError::Truncated { .. } | BusError::Recreated { .. } | BusError::Decode { .. })
        )
    }

    /// Whether what is wrong with a stream can be mended where it lies, with this recorder as it is.
    pub fn may_be_mended(&self) -> bool {
        matches!(self, RecorderError::Recreated { .. } | RecorderError::Bus(BusError::Decode { .. }))
    }

    /// Whether the stream is another recorder's now.
    pub fn is_revoked(&self) -> bool {
        matches!(self, RecorderError::Bus(BusError::Revoked { .. }))
    }

    /// Whether the name of a commit was taken.
    pub fn is_conflict(&self) -> bool {
        matches!(self, RecorderError::Lake(LakeError::CommitConflict { .. }))
    }

    /// Whether a write may or may not come to be.
    pub fn is_unanswered(&self) -> bool {
        matches!(self, RecorderError::Lake(LakeError::Unanswered { .. }))
    }

    /// Whether trying again later can help without anyone doing anything here: the disk may have room again,
    /// the store may answer again, the gateway may have kept a damaged segment aside, the group may have settled.
    pub fn is_transient(&self) -> bool {
        use RecorderError::{Bus, Lake};
        matches!(
            self,
            Lake(LakeError::Store { .. } | LakeError::Unanswered { .. })
                | Bus(BusError::Io { .. } | BusError::Damaged { .. })
                | Bus(BusError::Revoked { .. } | BusError::Kafka { .. })
        )
    }
}
