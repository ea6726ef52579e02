//! DataFusion over the lake: the guarded SQL door, and detections.

pub mod engine;
pub mod error;
mod guard;
pub mod query;
pub mod rules;

pub use error::AnalyzerError;
