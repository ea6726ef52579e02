//! `bodycam.toml`: each crate owns its section, this file only joins them, and checks what no section can see
//! alone. A setting that would do nothing is refused.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use bodycam_analyzer::DetectConfig;
use bodycam_bus::SpoolConfig;
use bodycam_proxy::admin::AdminConfig;
use bodycam_proxy::gateway::GatewayConfig;
use bodycam_proxy::http::HttpConfig;
use bodycam_proxy::identity::PrincipalConfig;
use bodycam_proxy::postgres::{PostgresConfig, TargetConfig};
use bodycam_proxy::recording::RecordingConfig;
use bodycam_recorder::RecorderConfig;
pub use bodycam_replay_tui::config::ReplayConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

mod reference;

pub use reference::reference;

/// Environment variables that override settings: `BODYCAM__SECTION__SETTING=value`.
const ENV_PREFIX: &str = "BODYCAM__";

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
    pub recorder: RecorderConfig,
    /// Scheduled detection.
    pub detect: DetectConfig,
    /// How recordings are shown.
    pub replay: ReplayConfig,
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

/// `[lake]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LakeConfig {
    /// A directory or `file://` URL.
    pub url: String,
}

impl Default for LakeConfig {
    fn default() -> Self {
        Self { url: "lake".to_owned() }
    }
}

impl Config {
    /// Reads the file, applies the environment, checks everything.
    pub fn load(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| {
            format!("cannot read the configuration {}; name it with --config", path.display())
        })?;
        let config = Self::parse(&text, std::env::vars())
            .with_context(|| format!("the configuration {} is not usable", path.display()))?;
        Ok(config.resolved(path.parent().unwrap_or(Path::new("."))))
    }

    /// The configuration in `text`, with `BODYCAM__…` variables applied.
    pub fn parse(text: &str, env: impl Iterator<Item = (String, String)>) -> Result<Self> {
        let mut table: toml::Table = toml::from_str(text)?;
        let mut overrides: Vec<_> = env.filter(|(name, _)| name.starts_with(ENV_PREFIX)).collect();
        overrides.sort();
        for (name, value) in overrides {
            apply(&mut table, &name, &value)?;
        }
        // Deserializing the text itself, where it can be, gives errors with line and column.
        let config: Config = if std::env::vars().any(|(n, _)| n.starts_with(ENV_PREFIX)) {
            table.try_into()?
        } else {
            toml::from_str(text)?
        };
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
        self.recorder.check()?;
        self.detect.check()?;
        Ok(())
    }

    /// Relative paths are relative to the configuration file.
    fn resolved(mut self, base: &Path) -> Self {
        let join = |path: &Path| if path.is_absolute() { path.to_owned() } else { base.join(path) };
        let reference = |text: &str| match text.strip_prefix("file:") {
            Some(path) => format!("file:{}", join(Path::new(path)).display()),
            None => text.to_owned(),
        };
        self.spool.dir = join(&self.spool.dir);
        self.state.path = join(&self.state.path);
        self.recorder.key = join(&self.recorder.key);
        if !self.lake.url.contains("://") {
            self.lake.url = join(Path::new(&self.lake.url)).display().to_string();
        }
        self.detect.rules_dir = self.detect.rules_dir.take().map(|dir| join(&dir));
        self.gateway.tenant_key = reference(&self.gateway.tenant_key);
        if let Some(postgres) = &mut self.postgres {
            postgres.rebase(base);
        }
        self.targets.iter_mut().for_each(|target| target.rebase(base));
        self
    }
}

/// Applies one `BODYCAM__SECTION__SETTING=value`; the value is TOML where it parses as such, else text.
fn apply(table: &mut toml::Table, name: &str, value: &str) -> Result<()> {
    let path: Vec<String> = name.trim_start_matches(ENV_PREFIX).split("__").map(str::to_lowercase).collect();
    let parsed = toml::from_str::<toml::Table>(&format!("value = {value}"))
        .ok()
        .and_then(|mut t| t.remove("value"))
        .unwrap_or_else(|| toml::Value::String(value.to_owned()));
    let Some((last, sections)) = path.split_last() else { return Ok(()) };
    let mut at = table;
    for section in sections {
        at = at
            .entry(section.clone())
            .or_insert_with(|| toml::Value::Table(toml::Table::new()))
            .as_table_mut()
            .with_context(|| format!("environment variable {name}: '{section}' is not a section"))?;
    }
    at.insert(last.clone(), parsed);
    Ok(())
}
