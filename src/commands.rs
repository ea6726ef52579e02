//! One file a subcommand; this one dispatches and holds what several need.

use std::process::ExitCode;

use anyhow::{Context, Result};
#[cfg(feature = "reader")]
use bodycam_record::TenantKey;

#[cfg(feature = "reader")]
use crate::cli::LakeArg;
use crate::cli::{Cli, Command};
#[cfg(feature = "gateway")]
use crate::cli::{ConfigArg, ConfigCommand};
use crate::config::Config;
#[cfg(feature = "reader")]
use crate::config::LakeConfig;
#[cfg(feature = "gateway")]
use service::{AdminAt, Parts};

#[cfg(feature = "analyzer")]
mod cluster;
#[cfg(feature = "analyzer")]
mod demo;
#[cfg(feature = "analyzer")]
pub mod detect;
#[cfg(feature = "analyzer")]
mod doctor;
#[cfg(feature = "recorder")]
mod lake;
#[cfg(feature = "analyzer")]
mod query;
#[cfg(feature = "reader")]
pub mod replay;
#[cfg(feature = "gateway")]
pub mod service;
#[cfg(feature = "gateway")]
mod token;
#[cfg(feature = "reader")]
pub mod verify;

/// Runs the command; the exit code is the command's verdict.
pub fn run(cli: Cli) -> Result<ExitCode> {
    match cli.command {
        #[cfg(feature = "analyzer")]
        Command::Demo { dir, no_replay } => demo::run(dir, !no_replay),
        #[cfg(feature = "analyzer")]
        Command::Up(arg) => service::run(&arg.config, Parts { admin: Some(AdminAt::Listen), ..Parts::all() }),
        #[cfg(feature = "gateway")]
        Command::Gateway(arg) => service::run(
            &arg.config,
            Parts { gateway: true, admin: Some(AdminAt::Listen), ..Parts::default() },
        ),
        #[cfg(feature = "recorder")]
        Command::Recorder(arg) => service::run(
            &arg.config,
            Parts { recorder: true, admin: Some(AdminAt::RecorderListen), ..Parts::default() },
        ),
        #[cfg(feature = "analyzer")]
        Command::Detect(command) => detect::run(command),
        #[cfg(feature = "analyzer")]
        Command::Query { sql, format, output, timeout, memory, cluster, lake } => {
            query::run(&sql, format, output, timeout, memory, cluster.as_deref(), &lake)
        }
        #[cfg(feature = "analyzer")]
        Command::Cluster(command) => cluster::run(command),
        #[cfg(feature = "reader")]
        Command::Replay { session, format, at, to, rows, lake } => {
            replay::replay(session, format, replay::Part { at, to, rows }, &lake)
        }
        #[cfg(feature = "reader")]
        Command::Sessions(command) => replay::sessions(command),
        #[cfg(feature = "reader")]
        Command::Events(command) => replay::events(command),
        #[cfg(feature = "reader")]
        Command::Findings(command) => replay::findings(command),
        #[cfg(feature = "gateway")]
        Command::Principals(arg) => token::principals(&load(&arg)?),
        #[cfg(feature = "gateway")]
        Command::Token(command) => token::run(command),
        #[cfg(feature = "reader")]
        Command::Verify { json, as_of, trust, lake } => verify::run(json, as_of, trust, &lake),
        #[cfg(feature = "analyzer")]
        Command::Doctor { gateway, json, config } => doctor::run(&load(&config)?, &gateway, json),
        #[cfg(feature = "recorder")]
        Command::Lake(command) => lake::run(command),
        #[cfg(feature = "reader")]
        Command::Keys { format } => replay::keys(format),
        #[cfg(feature = "gateway")]
        Command::Config(ConfigCommand::Check(arg)) => {
            let config = load(&arg)?;
            service::check_files(&arg.config, &config, Parts::all(), &runtime()?)?;
            let path = bodycam_record::shown(&arg.config.display().to_string());
            crate::speak::to_stdout(format_args!("{path}: usable\n"))?;
            Ok(ExitCode::SUCCESS)
        }
        #[cfg(feature = "analyzer")]
        Command::Config(ConfigCommand::Reference) => {
            crate::speak::to_stdout(format_args!("{}", crate::config::reference()))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

#[cfg(feature = "gateway")]
fn load(arg: &ConfigArg) -> Result<Config> {
    Config::load(&arg.config)
}

#[cfg(feature = "reader")]
/// A lake to read, and what opens its content.
pub struct LakeAt {
    lake: LakeConfig,
    tenant_key: Option<TenantKey>,
    /// The configuration, when the lake came from it.
    config: Option<Config>,
}

#[cfg(feature = "analyzer")]
impl LakeAt {
    /// The lake of a configuration.
    pub fn of(config: &Config) -> Result<Self> {
        let tenant_key = Some(crate::tenant_key::load(&config.gateway.tenant_key, false)?);
        Ok(Self { lake: config.lake.clone(), tenant_key, config: Some(config.clone()) })
    }
}

#[cfg(feature = "reader")]
/// Resolves `--lake`, `--tenant-key` and the configuration file, in this order.
fn lake_at(arg: &LakeArg) -> Result<LakeAt> {
    let config = match &arg.lake {
        None => Some(Config::load(&arg.config).context("no --lake was given")?),
        Some(_) => None,
    };
    let lake = match (&arg.lake, &config) {
        (Some(url), _) => LakeConfig::at(url),
        (None, Some(config)) => config.lake.clone(),
        (None, None) => anyhow::bail!("name the lake with --lake"),
    };
    let reference = match (&arg.tenant_key, &config) {
        (Some(reference), _) => Some(reference.clone()),
        (None, Some(config)) => Some(config.gateway.tenant_key.clone()),
        (None, None) => None,
    };
    let tenant_key = match reference.as_deref() {
        None | Some("none") => None,
        Some(reference) => Some(crate::tenant_key::load(reference, false)?),
    };
    Ok(LakeAt { lake, tenant_key, config })
}

#[cfg(feature = "gateway")]
/// A runtime for commands that read the lake.
pub fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the async runtime")
}

/// Wall time, Unix nanoseconds.
fn now_ns() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(feature = "gateway")]
/// A moment for people: RFC 3339, seconds, UTC.
fn moment(ns: i64) -> String {
    jiff::Timestamp::from_nanosecond(i128::from(ns))
        .map(|t| t.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
        .unwrap_or_else(|_| "?".to_owned())
}
