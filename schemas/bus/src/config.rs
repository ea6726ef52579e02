//! `[spool]` in `bodycam.toml`.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// When a record counts as written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// In the operating system before bytes move on; fsync every few milliseconds. Survives a crash of the gateway.
    #[default]
    Process,
    /// On the disk (group-commit fsync) before bytes move on. Survives a power cut.
    Power,
}

/// The spool: where the gateway writes events before bytes move on, and where the recorder reads them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SpoolConfig {
    /// Directory of the spool. Must be on a local disk.
    pub dir: PathBuf,
    /// `process` or `power`: what a statement waits for before it leaves for the target.
    pub durability: Durability,
    /// Most bytes that may wait for the recorder. When they are reached, traffic is held, then closed.
    pub max_bytes: u64,
    /// Bytes after which a segment file is closed and a new one begun.
    pub segment_bytes: u64,
}

impl Default for SpoolConfig {
    fn default() -> Self {
        Self {
            dir: PathBuf::from("spool"),
            durability: Durability::Process,
            max_bytes: 4 << 30,
            segment_bytes: 32 << 20,
        }
    }
}
