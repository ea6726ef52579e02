//! What can go wrong in a query or a detection, and what to do about it.

use std::time::Duration;

use arrow::error::ArrowError;
use bodycam_lake::LakeError;
use bodycam_record::rule::RuleError;
use bodycam_record::shown;
use datafusion::error::DataFusionError;
use parquet::errors::ParquetError;
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
    /// A cluster is not there, or not as it should be.
    #[error("cluster: {0}")]
    Cluster(String),
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

/// The lake's own error inside of one of DataFusion's.
fn lake_error(err: &DataFusionError) -> Option<&LakeError> {
    match err {
        DataFusionError::External(inner) => inner.downcast_ref(),
        DataFusionError::ParquetError(inner) => match &**inner {
            ParquetError::External(inner) => inner.downcast_ref(),
            _ => None,
        },
        DataFusionError::ArrowError(inner, _) => match &**inner {
            ArrowError::ExternalError(inner) => inner.downcast_ref(),
            _ => None,
        },
        _ => None,
    }
}

/// A message without the names of the layers that it came through.
pub(crate) fn plain(err: &DataFusionError) -> String {
    let text = err.find_root().strip_backtrace();
    let mut text = text.as_str();
    const LAYERS: [&str; 6] = [
        "Parquet error: ",
        "Parquet argument error: ",
        "External: ",
        "External error: ",
        "Arrow error: ",
        "Arrow: ",
    ];
    while let Some(rest) = LAYERS.iter().find_map(|layer| text.strip_prefix(layer)) {
        text = rest;
    }
    text.to_owned()
}

impl AnalyzerError {
    /// An error of DataFusion while doing `what`.
    pub(crate) fn sql(what: impl Into<String>, err: DataFusionError) -> Self {
        let root = err.find_root();
        let reason = match lake_error(root) {
            Some(err) => err.to_string(),
            // Of several lines it makes one.
            None => shown(&plain(root).lines().collect::<Vec<_>>().join(" ")),
        };
        AnalyzerError::Sql { what: what.into(), reason }
    }

    /// Whether a file of the lake may be at fault, one that is not named.
    pub(crate) fn is_about_a_file(err: &DataFusionError) -> bool {
        let root = err.find_root();
        let is_parquet = matches!(root, DataFusionError::ParquetError(_))
            || matches!(root, DataFusionError::ArrowError(inner, _)
                if matches!(**inner, ArrowError::ParquetError(_)));
        is_parquet && lake_error(root).is_none() && !root.to_string().contains(".parquet")
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
