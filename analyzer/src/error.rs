//! What can go wrong in a query or a detection, and what to do about it.

use std::time::Duration;

use bodycam_lake::LakeError;
use bodycam_record::rule::RuleError;
use bodycam_record::shown;
use datafusion::error::DataFusionError;
use thiserror::Error;

use crate::engine::last_panic;

/// An error of the analyzer.
#[derive(Debug, Error)]
pub enum AnalyzerError {
    /// The lake could not be read or written.
    #[error(transparent)]
    Lake(#[from] LakeError),
    /// The statement is not one that may run.
    #[error("refused: {0}")]
    Refused(String),
    /// The statement does not fit the tables, or failed while it ran.
    #[error("{what} failed: {reason}")]
    Sql { what: String, reason: String },
    /// The statement took too long.
    #[error("stopped after {} s: raise --timeout, or narrow the time range", .0.as_secs_f64())]
    TimedOut(Duration),
    /// The statement needed too much memory.
    #[error("stopped at the memory limit of {limit} MiB: raise --memory, or narrow the query ({reason})")]
    OutOfMemory { limit: u64, reason: String },
    /// The caller stopped it.
    #[error("cancelled")]
    Cancelled,
    /// A rule does not hold together.
    #[error(transparent)]
    Rule(#[from] RuleError),
    /// A rule's file, or a file with its fixtures, cannot be used.
    #[error("{path}: {reason}")]
    RuleFile { path: String, reason: String },
    /// The result could not be written.
    #[error("cannot write the result: {0}")]
    Output(#[from] std::io::Error),
}

impl AnalyzerError {
    /// An error of DataFusion while doing `what`.
    pub(crate) fn sql(what: impl Into<String>, err: DataFusionError) -> Self {
        match err.find_root() {
            DataFusionError::External(inner) if inner.downcast_ref::<LakeError>().is_some() => {
                AnalyzerError::Sql { what: what.into(), reason: inner.to_string() }
            }
            root => AnalyzerError::Sql { what: what.into(), reason: shown(&root.strip_backtrace()) },
        }
    }

    /// An error of DataFusion while running `what` with `limit` MiB of memory. What a panic said is not repeated: it
    /// may hold anything.
    pub(crate) fn ran(limit: u64, what: &str, err: DataFusionError) -> Self {
        match err.find_root() {
            DataFusionError::ResourcesExhausted(reason) => {
                AnalyzerError::OutOfMemory { limit, reason: shown(reason) }
            }
            DataFusionError::ExecutionJoin(joined) if joined.is_panic() => Self::panicked(what),
            _ => Self::sql(what, err),
        }
    }

    /// The engine gave up on `what`.
    pub(crate) fn panicked(what: &str) -> Self {
        let place = last_panic().map_or_else(String::new, |place| format!(" at {}", shown(&place)));
        AnalyzerError::Sql {
            what: what.to_owned(),
            reason: format!("the engine gave up{place} (a bug: please report the statement)"),
        }
    }

    /// A rule file that cannot be used.
    pub(crate) fn rule_file(path: &str, reason: impl std::fmt::Display) -> Self {
        AnalyzerError::RuleFile { path: shown(path), reason: shown(&reason.to_string()) }
    }
}
