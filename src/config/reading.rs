//! What a binary that only verifies and replays reads: where the lake is, what opens it, how it is shown.
//! The other sections belong to the gateway and are passed over.

use std::path::Path;

use anyhow::{Context, Result};
use bodycam_replay_tui::config::ReplayConfig;
use serde::Deserialize;

use super::{LakeConfig, parse, read, rebased_reference};

/// The configuration file, as far as readers need it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Config {
    /// Holds the reference to the tenant key.
    pub gateway: TenantKeyAt,
    /// Where the record rests.
    pub lake: LakeConfig,
    /// How recordings are shown.
    pub replay: ReplayConfig,
}

/// `[gateway] tenant_key`
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct TenantKeyAt {
    /// `file:PATH` or `env:NAME`.
    pub tenant_key: String,
}

impl Default for TenantKeyAt {
    fn default() -> Self {
        Self { tenant_key: "file:tenant.key".to_owned() }
    }
}

impl Config {
    /// Reads the file and applies the environment.
    pub fn load(path: &Path) -> Result<Self> {
        let mut config: Self = parse(&read(path)?, std::env::vars_os())
            .with_context(|| format!("the configuration {} is not usable", path.display()))?;
        let base = path.parent().unwrap_or(Path::new("."));
        config.lake.rebase(base);
        config.gateway.tenant_key = rebased_reference(&config.gateway.tenant_key, base);
        Ok(config)
    }
}
