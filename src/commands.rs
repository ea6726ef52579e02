//! One file a subcommand; this one dispatches and holds what several need.

use std::process::ExitCode;

use anyhow::{Context, Result};
use bodycam_record::TenantKey;

use crate::cli::{Cli, Command, ConfigArg, ConfigCommand, LakeArg};
use crate::config::Config;

mod demo;
pub mod detect;
mod query;
pub mod replay;
pub mod service;
mod token;
pub mod verify;

/// Runs the command; the exit code is the command's verdict.
pub fn run(cli: Cli) -> Result<ExitCode> {
    match cli.command {
        Command::Demo { dir, no_replay } => demo::run(dir, !no_replay),
        Command::Up(arg) => service::run(&load(&arg)?, service::Parts::ALL),
        Command::Gateway(arg) => service::run(&load(&arg)?, service::Parts::GATEWAY),
        Command::Recorder(arg) => service::run(&load(&arg)?, service::Parts::RECORDER),
        Command::Detect(command) => detect::run(command),
        Command::Query { sql, format, output, timeout, memory, lake } => {
            query::run(&sql, format, output, timeout, memory, &lake)
        }
        Command::Replay { session, format, at, to, lake } => replay::replay(session, format, at, to, &lake),
        Command::Sessions(command) => replay::sessions(command),
        Command::Events(command) => replay::events(command),
        Command::Findings(command) => replay::findings(command),
        Command::Principals(arg) => token::principals(&load(&arg)?),
        Command::Token(command) => token::run(command),
        Command::Verify { json, as_of, trust, lake } => verify::run(json, as_of, trust, &lake),
        Command::Keys { format } => replay::keys(format),
        Command::Config(ConfigCommand::Check(arg)) => {
            load(&arg)?;
            println!("{}: usable", arg.config.display());
            Ok(ExitCode::SUCCESS)
        }
        Command::Config(ConfigCommand::Reference) => {
            print!("{}", crate::config::reference());
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn load(arg: &ConfigArg) -> Result<Config> {
    Config::load(&arg.config)
}

/// A lake to read, and what opens its content.
pub struct LakeAt {
    url: String,
    tenant_key: Option<TenantKey>,
    /// The configuration, when the lake came from it or it is there.
    config: Option<Config>,
}

impl LakeAt {
    /// The lake of a configuration.
    pub fn of(config: &Config) -> Result<Self> {
        let tenant_key = Some(crate::tenant_key::load(&config.gateway.tenant_key, false)?);
        Ok(Self { url: config.lake.url.clone(), tenant_key, config: Some(config.clone()) })
    }
}

/// Resolves `--lake`, `--tenant-key` and the configuration file, in this order.
fn lake_at(arg: &LakeArg) -> Result<LakeAt> {
    let config = match (&arg.lake, arg.config.exists()) {
        (None, _) => Some(Config::load(&arg.config).context("no --lake was given")?),
        (Some(_), _) => None,
    };
    let url = match (&arg.lake, &config) {
        (Some(url), _) => url.clone(),
        (None, Some(config)) => config.lake.url.clone(),
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
    Ok(LakeAt { url, tenant_key, config })
}

/// A runtime for commands that read the lake.
pub fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the async runtime")
}

/// Wall time, Unix nanoseconds.
fn now_ns() -> i64 {
    bodycam_proxy::clock::Clock::system().wall_ns()
}

/// A moment for people: RFC 3339, seconds, UTC.
fn moment(ns: i64) -> String {
    jiff::Timestamp::from_nanosecond(i128::from(ns))
        .map(|t| t.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
        .unwrap_or_else(|_| "?".to_owned())
}
