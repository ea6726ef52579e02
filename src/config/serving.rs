//! What a binary with a gateway reads: everything.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
#[cfg(feature = "analyzer")]
use bodycam_analyzer::DetectConfig;
use bodycam_bus::SpoolConfig;
use bodycam_proxy::admin::AdminConfig;
use bodycam_proxy::gateway::GatewayConfig;
use bodycam_proxy::http::HttpConfig;
use bodycam_proxy::identity::PrincipalConfig;
use bodycam_proxy::postgres::{PostgresConfig, TargetConfig};
use bodycam_proxy::recording::RecordingConfig;
#[cfg(feature = "recorder")]
use bodycam_recorder::RecorderConfig;
#[cfg(feature = "reader")]
use bodycam_replay_tui::config::ReplayConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{LakeConfig, parse, read, rebased_reference};

/// A section for a binary with more parts. It is taken as it is.
#[cfg(not(feature = "analyzer"))]
type Elsewhere = serde_json::Map<String, serde_json::Value>;

/// The configuration file.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The gateway process.
    pub gateway: GatewayConfig,
    /// Where events wait for the recorder.
    pub spool: SpoolConfig,
    /// What is recorded, and how much of it.
    pub record: RecordingConfig,
    /// The PostgreSQL listener. Without this section there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub postgres: Option<PostgresConfig>,
    /// Databases that stand behind the PostgreSQL listener.
    pub targets: Vec<TargetConfig>,
    /// The HTTP egress proxy. Without this section there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpConfig>,
    /// People, agents and contractors.
    pub principals: Vec<PrincipalConfig>,
    /// Tokens and other small shared state.
    pub state: StateConfig,
    /// Where the record rests.
    pub lake: LakeConfig,
    /// From the spool to the lake.
    #[cfg(feature = "recorder")]
    pub recorder: RecorderConfig,
    /// From the spool to the lake: another binary reads it.
    #[cfg(not(feature = "recorder"))]
    recorder: Elsewhere,
    /// Scheduled detection.
    #[cfg(feature = "analyzer")]
    pub detect: DetectConfig,
    /// Scheduled detection: another binary reads it.
    #[cfg(not(feature = "analyzer"))]
    detect: Elsewhere,
    /// How recordings are shown.
    #[cfg(feature = "reader")]
    pub replay: ReplayConfig,
    /// How recordings are shown: another binary reads it.
    #[cfg(not(feature = "reader"))]
    replay: Elsewhere,
    /// Health and metrics.
    pub admin: AdminConfig,
}

/// `[state]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct StateConfig {
    /// The SQLite file that holds tokens.
    pub path: PathBuf,
}

impl Default for StateConfig {
    fn default() -> Self {
        Self { path: PathBuf::from("state.db") }
    }
}

impl Config {
    /// Reads the file, applies the environment, checks everything.
    pub fn load(path: &Path) -> Result<Self> {
        let config = Self::parse(&read(path)?, std::env::vars())
            .with_context(|| format!("the configuration {} is not usable", path.display()))?;
        Ok(config.resolved(path.parent().unwrap_or(Path::new("."))))
    }

    /// The configuration in `text`, with `BODYCAM__…` variables applied.
    pub fn parse(text: &str, env: impl Iterator<Item = (String, String)>) -> Result<Self> {
        let config: Self = parse(text, env)?;
        config.check()?;
        Ok(config)
    }

    /// What no section can see alone.
    fn check(&self) -> Result<()> {
        if self.postgres.is_none() && self.http.is_none() {
            bail!("nothing to listen on: add a [postgres] or an [http] section");
        }
        if self.postgres.is_none() && !self.targets.is_empty() {
            bail!("[[targets]] would do nothing without a [postgres] section");
        }
        if self.postgres.is_some() && self.targets.is_empty() {
            bail!("[postgres] would do nothing without [[targets]]");
        }
        if self.principals.is_empty() {
            bail!("nobody could log in: add [[principals]]");
        }
        for principal in &self.principals {
            if self.http.is_none() && !principal.egress.is_empty() {
                bail!("principal '{}': egress would do nothing without an [http] section", principal.name);
            }
            for pattern in &principal.targets {
                let known =
                    self.targets.iter().any(|t| bodycam_proxy::identity::roster::matches(pattern, &t.name));
                if !known {
                    bail!(
                        "principal '{}': targets has '{pattern}', which names no [[targets]] entry",
                        principal.name
                    );
                }
            }
        }
        bodycam_proxy::identity::Roster::new(&self.principals)?;
        if let Some(postgres) = &self.postgres {
            postgres.check(&self.targets)?;
        }
        if let Some(http) = &self.http {
            http.check(&self.principals)?;
        }
        #[cfg(feature = "recorder")]
        self.recorder.check()?;
        #[cfg(feature = "analyzer")]
        self.detect.check()?;
        Ok(())
    }

    /// Relative paths are relative to the configuration file.
    fn resolved(mut self, base: &Path) -> Self {
        let join = |path: &Path| base.join(path);
        self.spool.dir = join(&self.spool.dir);
        self.state.path = join(&self.state.path);
        #[cfg(feature = "recorder")]
        {
            self.recorder.key = join(&self.recorder.key);
        }
        self.lake.rebase(base);
        #[cfg(feature = "analyzer")]
        {
            self.detect.rules_dir = self.detect.rules_dir.take().map(|dir| join(&dir));
        }
        self.gateway.tenant_key = rebased_reference(&self.gateway.tenant_key, base);
        if let Some(postgres) = &mut self.postgres {
            postgres.rebase(base);
        }
        self.targets.iter_mut().for_each(|target| target.rebase(base));
        self
    }
}
