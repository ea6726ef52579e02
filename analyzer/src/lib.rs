//! DataFusion over the lake: the guarded SQL door, and detections.

pub mod engine;
pub mod error;
mod guard;

pub use error::AnalyzerError;
