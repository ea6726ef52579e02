//! `[spool]` in `bodycam.toml`.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Smallest spool: below it a single large statement would hold all traffic.
const MIN_SPOOL: u64 = 16 << 20;
/// Smallest segment: below it the spool would begin a new file for every few records.
const MIN_SEGMENT: u64 = 64 << 10;

/// When a record counts as written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// In the operating system before bytes move on; fsync every 5 to 50 milliseconds, so that it takes a tenth of a thread at most. Survives a crash of the gateway.
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

/// A setting of `[spool]` that cannot work.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("spool.{field}: {problem}")]
pub struct SpoolConfigError {
    /// The setting.
    pub field: &'static str,
    /// What is wrong with it, and what would be right.
    pub problem: String,
}

impl SpoolConfig {
    /// Refuses what cannot work.
    pub fn check(&self) -> Result<(), SpoolConfigError> {
        let fault = |field, problem: String| Err(SpoolConfigError { field, problem });
        if self.dir.as_os_str().is_empty() {
            return fault("dir", "must name a directory on a local disk, for example \"spool\"".to_owned());
        }
        if self.max_bytes < MIN_SPOOL {
            let problem =
                format!("{} would hold all traffic; must be at least {MIN_SPOOL} (16 MiB)", self.max_bytes);
            return fault("max_bytes", problem);
        }
        if self.segment_bytes < MIN_SEGMENT {
            let problem = format!(
                "{} would fill the disk with tiny files; must be at least {MIN_SEGMENT} (64 KiB)",
                self.segment_bytes
            );
            return fault("segment_bytes", problem);
        }
        if self.segment_bytes > self.max_bytes / 4 {
            let problem = format!(
                "{} is more than a quarter of spool.max_bytes ({}): a segment is removed only as a whole; lower it or \
                 raise spool.max_bytes",
                self.segment_bytes, self.max_bytes
            );
            return fault("segment_bytes", problem);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_cannot_work_are_refused_by_name() {
        assert_eq!(SpoolConfig::default().check(), Ok(()));
        let with =
            |max_bytes, segment_bytes| SpoolConfig { max_bytes, segment_bytes, ..SpoolConfig::default() };
        for (config, field) in [
            (with(0, 1 << 20), "max_bytes"),
            (with(1 << 20, 1 << 20), "max_bytes"),
            (with(1 << 30, 0), "segment_bytes"),
            (with(1 << 30, 1 << 29), "segment_bytes"),
            (SpoolConfig { dir: PathBuf::new(), ..SpoolConfig::default() }, "dir"),
        ] {
            let error = config.check().unwrap_err();
            assert_eq!(error.field, field);
            assert!(error.to_string().starts_with(&format!("spool.{field}: ")), "{error}");
        }
    }
}
