//! What can go wrong while replaying, and what to do about it.

use bodycam_lake::LakeError;
use bodycam_record::FilterError;
use bodycam_record::shown::shown_limit;
use thiserror::Error;

/// Why something could not be shown.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ReplayError {
    /// The lake could not be read.
    #[error(transparent)]
    Lake(#[from] LakeError),
    /// There is no such session.
    #[error("there is no session {0} in this lake; `bodycam sessions ls` lists those there are")]
    NoSession(String),
    /// The beginning of an id that several sessions have, or that is too short to look for.
    #[error("'{0}' does not name one session; give more of its id")]
    ManySessions(String),
    /// A filter that does not parse, with the place that is wrong.
    #[error("filter '{text}': {fault}")]
    Filter { fault: FilterError, text: String },
    /// A pattern that is no regex.
    #[error("{0}")]
    Pattern(String),
    /// A position in a session that cannot be understood.
    #[error("'{0}' is not a position: use +12:31, 14:02:11, #812 or 50%")]
    Position(String),
    /// An event after the last one of a session.
    #[error("there is no event #{seq}: the last one of this session is #{last}")]
    PastEnd { seq: i64, last: i64 },
    /// Writing to the terminal or a pipe failed.
    #[error("cannot write: {0}")]
    Output(#[from] std::io::Error),
    /// A setting that makes no sense.
    #[error("[replay] {0}")]
    Config(String),
    /// A worker thread could not be started or went away.
    #[error("cannot read the lake: {0}")]
    Worker(String),
}

impl ReplayError {
    /// An error about a filter's text.
    pub fn filter(text: &str, source: FilterError) -> Self {
        ReplayError::Filter { text: shown_limit(text, 200), fault: source }
    }

    /// Whether the reader of our output went away, which is no failure of ours.
    pub fn is_broken_pipe(&self) -> bool {
        matches!(self, ReplayError::Output(err) if err.kind() == std::io::ErrorKind::BrokenPipe)
    }
}
