//! DataFusion over the lake: the guarded SQL door, and detections.
//!
//! `engine` builds contexts over the files of a lake; `guard` says what SQL may run; `query` is the door for
//! analysts; `rules` reads and evaluates detections; `detect` schedules them by `windows` and `watermark`,
//! with roll-ups from `state`, and tells `findings`. `cluster` runs the same plans on many machines.

#![deny(clippy::print_stdout, clippy::print_stderr)]

pub mod cluster;
pub mod config;
pub mod detect;
pub mod engine;
pub mod error;
pub mod findings;
mod guard;
pub mod query;
pub mod rules;
#[cfg(test)]
mod scene;
mod state;
pub mod watermark;
mod windows;

pub use cluster::ClusterConfig;
pub use config::DetectConfig;
pub use error::AnalyzerError;
