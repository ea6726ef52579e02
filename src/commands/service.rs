//! `bodycam up`, `gateway`, `recorder`: one process, any of the parts, drained in order.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use bodycam_analyzer::detect;
use bodycam_analyzer::findings::News;
use bodycam_bus::spool::SpoolBus;
use bodycam_lake::Store;
use bodycam_proxy::admin::{self, Admin};
use bodycam_proxy::clock::Clock;
use bodycam_proxy::gateway::{Gateway, Service};
use bodycam_proxy::identity::{Directory, Roster};
use bodycam_proxy::recording::{Producer, ProducerOptions, load_or_create_key_file};
use bodycam_proxy::slots::SessionSlots;
use bodycam_proxy::state::SqliteState;
use bodycam_proxy::{http, postgres};
use bodycam_record::{EpochKey, digest};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::config::Config;

/// Which parts run in this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parts {
    /// The gateway.
    pub gateway: bool,
    /// The recorder.
    pub recorder: bool,
    /// Scheduled detection.
    pub detect: bool,
    /// Health and metrics.
    pub admin: bool,
}

impl Parts {
    /// `bodycam up`.
    pub const ALL: Parts = Parts { gateway: true, recorder: true, detect: true, admin: true };
    /// `bodycam gateway`.
    pub const GATEWAY: Parts = Parts { recorder: false, detect: false, ..Self::ALL };
    /// `bodycam recorder`.
    pub const RECORDER: Parts = Parts { gateway: false, detect: false, ..Self::ALL };
}

/// Runs the parts until SIGTERM or SIGINT, then drains.
pub fn run(config: &Config, parts: Parts) -> Result<ExitCode> {
    init_logging();
    let mut running = Running::start(config, Clock::system(), parts)?;
    let stopped = running.wait_for_signal()?;
    running.drain()?;
    match stopped {
        None => Ok(ExitCode::SUCCESS),
        Some(error) => Err(error),
    }
}

/// The parts, running.
pub struct Running {
    runtime: tokio::runtime::Runtime,
    gateway: Option<Gateway>,
    recorder: Option<Background>,
    detect: Option<Background>,
    admin: Option<Admin>,
    recorder_metrics: Arc<bodycam_recorder::Metrics>,
}

/// A part on the async runtime.
struct Background {
    stop: watch::Sender<bool>,
    task: JoinHandle<Result<()>>,
}

impl Running {
    /// Starts the parts, the ones that are written to first.
    pub fn start(config: &Config, clock: Clock, parts: Parts) -> Result<Self> {
        let runtime = super::runtime()?;
        let tenant_key = crate::tenant_key::load(&config.gateway.tenant_key, parts.gateway)?;
        let spool = SpoolBus::new(&config.spool);
        let recorder_metrics = Arc::new(bodycam_recorder::Metrics::default());
        let recorder = match parts.recorder {
            true => Some(start_recorder(&runtime, config, spool.clone(), Arc::clone(&recorder_metrics))?),
            false => None,
        };
        let gateway = match parts.gateway {
            true => Some(start_gateway(config, clock, tenant_key.clone())?),
            false => None,
        };
        let detect = match parts.detect {
            true => Some(start_detect(&runtime, config)?),
            false => None,
        };
        let admin = match parts.admin {
            true => {
                let producer = gateway.as_ref().map(|g| g.producer().clone());
                let probe = Probe {
                    producer,
                    recorder: parts.recorder.then(|| Arc::clone(&recorder_metrics)),
                    limit: config.spool.max_bytes,
                };
                let _guard = runtime.enter();
                Some(Admin::start(&config.admin, Arc::new(probe))?)
            }
            false => None,
        };
        Ok(Self { runtime, gateway, recorder, detect, admin, recorder_metrics })
    }

    /// Returns on SIGTERM or SIGINT, or with the error of a part that ended by itself.
    fn wait_for_signal(&mut self) -> Result<Option<anyhow::Error>> {
        use tokio::signal::unix::{SignalKind, signal};
        let (recorder, detect) = (&mut self.recorder, &mut self.detect);
        self.runtime.block_on(async {
            let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
            let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
            tokio::select! {
                _ = terminate.recv() => Ok(None),
                _ = interrupt.recv() => Ok(None),
                error = ended(recorder, "recorder") => Ok(Some(error)),
                error = ended(detect, "detection") => Ok(Some(error)),
            }
        })
    }

    /// Stops in order: sessions sealed, spool stored, commit made. Gives the number of events stored.
    pub fn drain(mut self) -> Result<u64> {
        if let Some(admin) = &self.admin {
            admin.draining();
        }
        let mut outcome = match self.gateway.take() {
            Some(gateway) => gateway.drain().map_err(anyhow::Error::from),
            None => Ok(()),
        };
        if let Some(recorder) = self.recorder.take() {
            outcome = outcome.and(recorder.stop(&self.runtime, "recorder"));
        }
        if let Some(detect) = self.detect.take() {
            outcome = outcome.and(detect.stop(&self.runtime, "detection"));
        }
        outcome?;
        Ok(self.recorder_metrics.events_total.load(std::sync::atomic::Ordering::Relaxed))
    }
}

impl Background {
    fn stop(self, runtime: &tokio::runtime::Runtime, what: &'static str) -> Result<()> {
        self.stop.send_replace(true);
        runtime
            .block_on(self.task)
            .with_context(|| format!("{what} panicked"))?
            .with_context(|| format!("{what} failed"))
    }
}

/// Resolves when a part that should run ends; never when there is none.
async fn ended(part: &mut Option<Background>, what: &'static str) -> anyhow::Error {
    let Some(background) = part else { return std::future::pending().await };
    let outcome = (&mut background.task).await;
    *part = None;
    match outcome {
        Ok(Ok(())) => anyhow::anyhow!("{what} ended by itself"),
        Ok(Err(error)) => error.context(format!("{what} failed")),
        Err(error) => anyhow::Error::new(error).context(format!("{what} panicked")),
    }
}

fn start_gateway(config: &Config, clock: Clock, tenant_key: bodycam_record::TenantKey) -> Result<Gateway> {
    let text = toml::to_string(config).context("the configuration cannot be written down")?;
    let producer = Producer::start(ProducerOptions {
        producer: config.gateway.producer.clone(),
        tenant: config.gateway.tenant.clone(),
        tenant_key: tenant_key.clone(),
        spool: config.spool.clone(),
        policy_digest: policy_digest(config)?,
        config_digest: digest::POLICY.digest(text.as_bytes()),
        hold_seconds: config.record.hold_seconds,
        clock,
    })?;
    let state = Arc::new(SqliteState::open(&config.state.path)?);
    let directory = Directory::new(tenant_key, Roster::new(&config.principals)?, state)?;
    let slots = SessionSlots::default();
    let own: Vec<SocketAddr> = [
        config.postgres.as_ref().map(|p| p.listen),
        config.http.as_ref().map(|h| h.listen),
        Some(config.admin.listen),
    ]
    .into_iter()
    .flatten()
    .collect();
    let mut listeners = Vec::new();
    if let Some(postgres) = &config.postgres {
        let service = postgres::Service::new(
            postgres.clone(),
            config.targets.clone(),
            config.record.clone(),
            directory.clone(),
            slots.clone(),
            producer.tenant_key().clone(),
        )?;
        listeners.push((postgres.listen.to_string(), Service::Postgres(Arc::new(service))));
    }
    if let Some(http) = &config.http {
        let drain = std::time::Duration::from_secs(config.gateway.drain_seconds);
        let service = http::Service::new(http.clone(), directory, slots, own, drain)?;
        listeners.push((http.listen.to_string(), Service::Http(Arc::new(service))));
    }
    Ok(Gateway::start(&config.gateway, producer, listeners)?)
}

/// What is in force until policies exist: who may reach what.
fn policy_digest(config: &Config) -> Result<bodycam_record::Digest> {
    let rules = serde_json::to_vec(&(&config.principals, &config.targets))?;
    Ok(digest::POLICY.digest(&rules))
}

fn start_recorder(
    runtime: &tokio::runtime::Runtime,
    config: &Config,
    spool: SpoolBus,
    metrics: Arc<bodycam_recorder::Metrics>,
) -> Result<Background> {
    let store = Store::create(&config.lake.url)?;
    let key = Arc::new(EpochKey::from_seed(&*load_or_create_key_file(&config.recorder.key)?));
    let (stop, mut stopped) = watch::channel(false);
    let config = config.recorder.clone();
    let task = runtime.spawn(async move {
        let shutdown = async move { drop(stopped.wait_for(|stop| *stop).await) };
        Ok(bodycam_recorder::run(spool, store, key, config, metrics, shutdown).await?)
    });
    Ok(Background { stop, task })
}

fn start_detect(runtime: &tokio::runtime::Runtime, config: &Config) -> Result<Background> {
    let options = super::detect::options(config, &config.lake.url)?;
    let (stop, mut stopped) = watch::channel(false);
    let task = runtime.spawn(async move {
        let shutdown = async move { drop(stopped.wait_for(|stop| *stop).await) };
        let mut told = |news: &News| tracing::warn!(event = "finding", finding = %news.to_json(), "{}", super::detect::line(news));
        detect::watch(options, &mut told, shutdown).await?;
        Ok(())
    });
    Ok(Background { stop, task })
}

/// What the admin listener asks.
struct Probe {
    producer: Option<Producer>,
    recorder: Option<Arc<bodycam_recorder::Metrics>>,
    limit: u64,
}

impl admin::Probe for Probe {
    fn ready(&self) -> Result<(), String> {
        match &self.producer {
            Some(producer) if producer.spool_bytes() >= self.limit => {
                Err("the spool is full: traffic is held until the recorder catches up".to_owned())
            }
            _ => Ok(()),
        }
    }

    fn metrics(&self) -> String {
        let mut out = String::new();
        if let Some(producer) = &self.producer {
            out.push_str(&producer.prometheus());
        }
        if let Some(recorder) = &self.recorder {
            out.push_str(&recorder.prometheus());
        }
        out
    }
}

/// JSON lines on standard error unless it is a terminal; `BODYCAM_LOG` filters (default `info`).
fn init_logging() {
    use std::io::IsTerminal;
    let filter = tracing_subscriber::EnvFilter::try_from_env("BODYCAM_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info,tokio_postgres=warn"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let outcome = if std::io::stderr().is_terminal() {
        builder.with_ansi(false).try_init()
    } else {
        builder.json().try_init()
    };
    if let Err(error) = outcome {
        eprintln!("bodycam: no logging: {error}");
    }
}
