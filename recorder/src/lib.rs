//! From the bus to the lake: verified, ordered, exactly once.
//!
//! `supervise` keeps a recorder going. `ingest` takes records and checks every chain, `tables` makes files of what it
//! took, `commit` puts files, keys and the commit in their order and releases the bus, `compact` merges small files,
//! `garbage` removes files that nobody needs. Invariant: a record is released only after the commit that holds it is
//! durable, and a commit exists only after its files are.

#![deny(clippy::print_stdout, clippy::print_stderr)]

mod commit;
pub mod compact;
pub mod config;
pub mod error;
mod findings;
pub mod garbage;
mod ingest;
pub mod metrics;
pub mod recorder;
#[cfg(test)]
mod scene;
mod sessions;
mod supervise;
mod tables;
mod templates;

pub use compact::Compactor;
pub use config::RecorderConfig;
pub use error::RecorderError;
pub use metrics::Metrics;
pub use recorder::Recorder;
pub use supervise::run;
