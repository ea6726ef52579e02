//! What a binary with a gateway reads: everything.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
#[cfg(feature = "analyzer")]
use bodycam_analyzer::{ClusterConfig, DetectConfig};
use bodycam_bus::SpoolConfig;
use bodycam_bus::kafka::{Kafka, KafkaConfig};
use bodycam_proxy::admin::AdminConfig;
use bodycam_proxy::clock::Clock;
use bodycam_proxy::gateway::GatewayConfig;
use bodycam_proxy::http::HttpConfig;
use bodycam_proxy::identity::{PrincipalConfig, Roster};
use bodycam_proxy::postgres::{PostgresConfig, TargetConfig};
use bodycam_proxy::recording::RecordingConfig;
use bodycam_proxy::secret::Secret;
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
    /// Where events wait for the recorder, or for Kafka.
    pub spool: SpoolConfig,
    /// Kafka between gateways and recorders. Without this section a recorder reads the spool of its host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kafka: Option<KafkaConfig>,
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
    /// Queries on many machines, with a binary that was built for it (`--features cluster`).
    #[cfg(feature = "analyzer")]
    pub cluster: ClusterConfig,
    /// Queries on many machines: another binary reads it.
    #[cfg(not(feature = "analyzer"))]
    cluster: Elsewhere,
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
        Self::load_checked(path, |config| config.check().and_then(|()| config.check_effect()))
    }

    /// As [`Config::load`], for a gateway that is running: rights that would do nothing are no reason to go on with
    /// those that somebody has taken away.
    pub fn load_again(path: &Path) -> Result<Self> {
        Self::load_checked(path, Self::check)
    }

    fn load_checked(path: &Path, check: impl FnOnce(&Self) -> Result<()>) -> Result<Self> {
        let usable = || {
            let config: Self = parse(&read(path)?, std::env::vars_os())?;
            let config = config.resolved(path.parent().unwrap_or(Path::new(".")));
            check(&config)?;
            Ok::<_, anyhow::Error>(config)
        };
        usable().with_context(|| format!("the configuration {} is not usable", path.display()))
    }

    /// What no section can see alone.
    fn check(&self) -> Result<()> {
        self.gateway.check()?;
        self.spool.check()?;
        if let Some(kafka) = &self.kafka {
            kafka.check()?;
            self.kafka_password()?;
        }
        self.record.check()?;
        if self.postgres.is_none() && self.http.is_none() {
            bail!("nothing to listen on: add a [postgres] or an [http] section");
        }
        if self.postgres.is_none() && !self.targets.is_empty() {
            bail!("[[targets]] would do nothing without a [postgres] section");
        }
        if self.postgres.is_some() && self.targets.is_empty() {
            bail!("[postgres] would do nothing without [[targets]]");
        }
        self.check_places()?;
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
        Roster::new(&self.principals)?;
        if let Some(postgres) = &self.postgres {
            postgres.check(&self.targets)?;
        }
        if let Some(http) = &self.http {
            http.check(&self.principals)?;
        }
        #[cfg(feature = "reader")]
        self.replay.keymap()?;
        #[cfg(feature = "recorder")]
        self.recorder.check()?;
        #[cfg(feature = "analyzer")]
        {
            self.detect.check()?;
            self.cluster.check()?;
        }
        Ok(())
    }

    /// `[kafka]`, ready to connect with.
    pub fn kafka(&self) -> Result<Option<Kafka>> {
        let Some(kafka) = &self.kafka else { return Ok(None) };
        Ok(Some(Kafka::new(kafka.clone(), self.kafka_password()?)))
    }

    fn kafka_password(&self) -> Result<Option<String>> {
        let Some(sasl) = self.kafka.as_ref().and_then(|kafka| kafka.sasl.as_ref()) else { return Ok(None) };
        let read = Secret::try_from(sasl.password.clone()).and_then(|secret| secret.read());
        Ok(Some(read.context("[kafka] sasl.password")?.to_string()))
    }

    /// Whether everybody and everything that is listed can do something.
    fn check_effect(&self) -> Result<()> {
        if self.principals.is_empty() {
            bail!("nobody could log in: add [[principals]]");
        }
        let now_ns = Clock::system().wall_ns();
        let roster = Roster::new(&self.principals)?;
        let targets: Vec<&str> = self.targets.iter().map(|target| target.name.as_str()).collect();
        bodycam_proxy::identity::roster::check_rights(&self.principals, &targets, now_ns)?;
        // Whoever has no access now may have it again: what only they may reach stays.
        if let Some(target) = targets.iter().find(|target| !roster.members().any(|m| m.may_reach(target))) {
            bail!(
                "target '{target}' would do nothing: no principal may reach it; name it in somebody's targets, or remove it"
            );
        }
        match &self.http {
            Some(http) => Ok(http.check_effect(&self.principals, now_ns)?),
            None => Ok(()),
        }
    }

    /// Whether a gateway can read what its settings refer to: keys, secrets, certificates. Nothing of it is kept, and
    /// nothing is made. Commands that need none of it run without, so that [`Config::load`] leaves it out.
    pub fn check_gateway_files(&self) -> Result<()> {
        let reference = &self.gateway.tenant_key;
        crate::tenant_key::check(reference).with_context(|| {
            let reference = bodycam_record::shown(reference);
            format!(
                "[gateway] tenant_key: {reference} cannot be used; bring the key back, or name where it is"
            )
        })?;
        if let Some(postgres) = &self.postgres {
            bodycam_proxy::postgres::check_files(postgres, &self.targets)?;
        }
        if let Some(http) = &self.http {
            http.check_files()?;
        }
        Ok(())
    }

    /// The same for a recorder.
    #[cfg(feature = "recorder")]
    pub fn check_recorder_files(&self) -> Result<()> {
        bodycam_proxy::recording::check_key_file(&self.recorder.key).context("[recorder] key")
    }

    /// Addresses that are taken once, and files that must be where they are said to be.
    fn check_places(&self) -> Result<()> {
        let listeners = [
            ("[postgres] listen", self.postgres.as_ref().map(|p| p.listen)),
            ("[http] listen", self.http.as_ref().map(|h| h.listen)),
            ("[admin] listen", Some(self.admin.listen)),
            ("[admin] recorder_listen", Some(self.admin.recorder_listen)),
            ("[admin] detect_listen", self.admin.detect_listen),
        ];
        let listeners: Vec<_> = listeners.iter().filter_map(|(name, at)| Some((name, (*at)?))).collect();
        for (n, (name, at)) in listeners.iter().enumerate() {
            if let Some((other, _)) =
                listeners.iter().take(n).find(|(_, before)| before == at && at.port() != 0)
            {
                bail!("{other} and {name} are both {at}: give each an address of its own");
            }
        }
        match self.gateway.tenant_key.split_once(':') {
            Some(("file", path)) if !path.is_empty() => {}
            Some(("env", name)) if !name.is_empty() => {
                if std::env::var_os(name).is_none() {
                    bail!("[gateway] tenant_key: the environment variable {name} is not set");
                }
            }
            // What stands there may be the key itself: it is not repeated.
            _ => bail!("[gateway] tenant_key: want a reference, file:PATH or env:NAME, not the key"),
        }
        self.lake.check()?;
        #[cfg(feature = "analyzer")]
        if let Some(dir) = self.detect.rules_dir.as_ref().filter(|dir| !dir.is_dir()) {
            bail!("[detect] rules_dir: {} is no directory", dir.display());
        }
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
            self.cluster.rebase(base, |reference| rebased_reference(reference, base));
        }
        self.gateway.tenant_key = rebased_reference(&self.gateway.tenant_key, base);
        if let Some(kafka) = &mut self.kafka {
            kafka.rebase(base);
        }
        if let Some(postgres) = &mut self.postgres {
            postgres.rebase(base);
        }
        if let Some(http) = &mut self.http {
            http.rebase(base);
        }
        self.targets.iter_mut().for_each(|target| target.rebase(base));
        self
    }
}
