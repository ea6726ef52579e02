//! What can go wrong with a lake, and what to do about it.

use thiserror::Error;

/// An error that names the object concerned.
#[derive(Debug, Error)]
pub enum LakeError {
    /// An object that a commit names is not there.
    #[error(
        "{path} is missing, though {named_by} names it: restore it from a backup, or run `bodycam verify`"
    )]
    Missing { path: String, named_by: String },
    /// There is no lake.
    #[error(
        "there is no lake at {store}: it has no list of streams (streams/). Nothing was recorded yet, or the path is \
         wrong; if a lake was there, `bodycam verify` says what is missing"
    )]
    NoLake { store: String },
    /// An object is there but is not what it should be.
    #[error(
        "{path} is damaged or was not written by bodycam ({reason}): restore it, or run `bodycam verify`"
    )]
    Damaged { path: String, reason: String },
    /// An object of a format that this build does not know.
    #[error("{path} has {what} {value}, which this build does not know: read it with a newer bodycam")]
    Unsupported { path: String, what: &'static str, value: i64 },
    /// A name that must not become a path.
    #[error("'{name}' cannot be a {what}: {rule}")]
    BadName { what: &'static str, name: String, rule: &'static str },
    /// Another writer made this commit first.
    #[error(
        "{path} exists already. Either another recorder writes to this lake: stop one of the two; this one resumes \
         from the lake when it is started again. Or a part of the lake is missing, its list of streams (streams/) or an \
         earlier commit: run `bodycam verify` and restore it"
    )]
    CommitConflict { path: String },
    /// Somebody else holds a lock.
    #[error(
        "another recorder is at work on the lake {store}: it holds {store}/{lock}. One lake has one recorder, or one group \
         of recorders that all read Kafka: stop the other one, or give this one a lake of its own"
    )]
    Locked { store: String, lock: String },
    /// An object that is written once exists with other content.
    #[error("{path} exists already with other content")]
    Exists { path: String },
    /// The store failed.
    #[error("cannot {action} {path}: {reason}")]
    Store { action: &'static str, path: String, reason: String },
    /// The store was asked to write an object and did not answer.
    #[error(
        "cannot write {path}: {reason}. Whether the store holds it now is not known; a recorder goes on with what is there"
    )]
    Unanswered { path: String, reason: String },
    /// Nobody takes connections where the store should be.
    #[error(
        "{store} cannot be reached at {service}: {reason}. See whether the service runs, and what [lake.s3] endpoint, or \
         AWS_ENDPOINT_URL, says"
    )]
    Unreachable { store: String, service: String, reason: String },
    /// The store cannot do what a lake needs.
    #[error("{store} cannot be a lake: {reason}")]
    Unsuitable { store: String, reason: String },
    /// Rows could not be made into columns or back.
    #[error("table {table}: {reason}")]
    Columns { table: &'static str, reason: String },
    /// Something asked for is not in the lake.
    #[error("{what} {id} is not in this lake")]
    NotFound { what: &'static str, id: String },
    /// A wrapped key or name did not open.
    #[error("{path} {source}")]
    Unopenable { path: String, source: bodycam_record::key::Unopenable },
}

impl LakeError {
    pub(crate) fn damaged(path: impl Into<String>, reason: impl std::fmt::Display) -> Self {
        LakeError::Damaged { path: path.into(), reason: bodycam_record::shown(&reason.to_string()) }
    }

    /// A data file of a lake that cannot be read as what its commit says.
    pub fn not_as_committed(path: &str, err: impl std::fmt::Display) -> Self {
        // Each layer says once more that Parquet is at fault.
        let reason = ["Parquet error: ", "External: "].iter().fold(err.to_string(), |t, p| t.replace(p, ""));
        Self::damaged(path, format_args!("not as committed, it was cut or changed: {reason}"))
    }

    pub(crate) fn columns(table: &'static str, reason: impl std::fmt::Display) -> Self {
        LakeError::Columns { table, reason: bodycam_record::shown(&reason.to_string()) }
    }
}
