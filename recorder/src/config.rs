//! `[recorder]` in `bodycam.toml`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use bodycam_record::{Digest, EpochKey};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::RecorderError;

/// From the spool to the lake.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RecorderConfig {
    /// File of the Ed25519 key (64 hex digits) that signs commits. Made at the first start, readable by the
    /// owner only.
    pub key: PathBuf,
    /// Seconds after which what was read is committed, however little it is: how long a statement waits until it can be
    /// queried. Each commit of a lane is a handful of objects, which object stores charge for: longer makes fewer.
    pub flush_seconds: u64,
    /// Records after which what was read is committed at once.
    pub flush_rows: u64,
    /// Bytes, about, after which what was read is committed at once. Bounds the memory of the recorder.
    pub flush_bytes: u64,
    /// Commits after which a snapshot is written, so that readers need not start from the first commit.
    pub snapshot_commits: u64,
    /// Seconds between two looks for small files to compact; 0 switches compaction off.
    pub compact_seconds: u64,
    /// Seconds for which files stay after they were compacted, for readers that still use them.
    pub compact_grace_seconds: u64,
    /// Long-term public keys (64 hex digits) of producers. When any is given, a producer that is not listed,
    /// or shows another key, is recorded with a finding.
    pub trust: BTreeMap<String, String>,
    /// Public keys (64 hex digits) of the other recorders of the group. Their snapshots of the lake are believed when this
    /// one starts; without them it looks for one of its own, and reads every commit when there is none.
    pub peers: Vec<String>,
    /// Streams (`producer/lane`) that start anew below the position that the lake holds, as after a spool was
    /// lost or recreated. Such a stream is refused until it is named here; it goes on as a new generation, and the
    /// recorder's ledger declares that nobody knows what else it may have had.
    pub recreated: Vec<String>,
    /// Streams (`producer/lane`) of which records are given up that were removed before they were read, as by the
    /// retention of Kafka. Such a stream is parked until it is named here; it goes on as a new generation at the first
    /// record that there is, with a finding that names the positions.
    pub truncated: Vec<String>,
}

impl Default for RecorderConfig {
    fn default() -> Self {
        Self {
            key: PathBuf::from("recorder.key"),
            flush_seconds: 1,
            flush_rows: 200_000,
            flush_bytes: 96 << 20,
            snapshot_commits: 100,
            compact_seconds: 60,
            compact_grace_seconds: 900,
            trust: BTreeMap::new(),
            peers: Vec::new(),
            recreated: Vec::new(),
            truncated: Vec::new(),
        }
    }
}

impl RecorderConfig {
    /// Refuses values that cannot work.
    pub fn check(&self) -> Result<(), RecorderError> {
        let refused = |setting, why| Err(RecorderError::Config { setting, why });
        if self.flush_seconds == 0 || self.flush_seconds > 3600 {
            return refused("flush_seconds", "must be 1 to 3600");
        }
        if self.flush_rows == 0 {
            return refused("flush_rows", "must be at least 1");
        }
        if self.flush_bytes < 1 << 20 {
            return refused("flush_bytes", "must be at least 1048576 (1 MiB)");
        }
        if self.snapshot_commits == 0 {
            return refused("snapshot_commits", "must be at least 1");
        }
        for (setting, streams) in [("recreated", &self.recreated), ("truncated", &self.truncated)] {
            if streams.iter().any(|s| s.parse::<bodycam_bus::StreamId>().is_err()) {
                return refused(setting, "holds a name that is not <producer>/<lane>");
            }
        }
        self.peers()?;
        self.trusted().map(drop)
    }

    /// The keys of the other recorders of the group.
    pub fn peers(&self) -> Result<BTreeSet<Digest>, RecorderError> {
        let keys: Option<_> = self.peers.iter().map(|hex| Digest::from_hex(hex)).collect();
        keys.ok_or(RecorderError::Config { setting: "peers", why: "holds a key that is not 64 hex digits" })
    }

    /// The keys whose snapshots of the lake the recorder with `key` believes: its own, and those of its group.
    pub fn believed(&self, key: &EpochKey) -> Result<BTreeSet<Digest>, RecorderError> {
        let mut believed = self.peers()?;
        believed.insert(key.public());
        Ok(believed)
    }

    /// The pinned keys by producer.
    pub fn trusted(&self) -> Result<BTreeMap<String, Digest>, RecorderError> {
        let key = |(name, hex): (&String, &String)| Some((name.clone(), Digest::from_hex(hex)?));
        let keys: Option<_> = self.trust.iter().map(key).collect();
        keys.ok_or(RecorderError::Config { setting: "trust", why: "holds a key that is not 64 hex digits" })
    }

    pub(crate) fn flush_after(&self) -> Duration {
        Duration::from_secs(self.flush_seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_usable_and_bad_values_are_named() {
        let good = RecorderConfig::default();
        good.check().unwrap();
        let trust = |key: &str| [("gw".to_owned(), key.to_owned())].into();
        for (bad, named) in [
            (RecorderConfig { flush_seconds: 0, ..good.clone() }, "flush_seconds"),
            (RecorderConfig { flush_rows: 0, ..good.clone() }, "flush_rows"),
            (RecorderConfig { flush_bytes: 1, ..good.clone() }, "flush_bytes"),
            (RecorderConfig { snapshot_commits: 0, ..good.clone() }, "snapshot_commits"),
            (RecorderConfig { trust: trust("abc"), ..good.clone() }, "trust"),
            (RecorderConfig { peers: vec!["abc".into()], ..good.clone() }, "peers"),
            (RecorderConfig { recreated: vec!["x".into()], ..good.clone() }, "recreated"),
            (RecorderConfig { truncated: vec!["x".into()], ..good.clone() }, "truncated"),
        ] {
            let message = bad.check().unwrap_err().to_string();
            assert!(message.contains(&format!("recorder.{named}")), "{message}");
        }
        assert_eq!(RecorderConfig { trust: trust(&"ab".repeat(32)), ..good }.trusted().unwrap().len(), 1);
    }
}
