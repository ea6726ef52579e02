//! `bodycam up`, `gateway`, `recorder`: one process, any of the parts, drained in order.

use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use bodycam_bus::kafka::Drain;
use bodycam_proxy::admin::{self, Admin};
use bodycam_proxy::clock::Clock;
use bodycam_proxy::gateway::{Gateway, Service};
use bodycam_proxy::identity::{Directory, Roster};
use bodycam_proxy::recording::{Producer, ProducerOptions};
use bodycam_proxy::slots::SessionSlots;
use bodycam_proxy::state::SqliteState;
use bodycam_proxy::{http, postgres};
use bodycam_record::digest;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::config::Config;

mod reload;

use reload::Reload;

/// A producer without a heartbeat for this long takes no traffic: three were missed.
const SILENT: Duration = Duration::from_secs(16);

/// Which parts run in this process.
#[derive(Debug, Clone, Copy, Default)]
pub struct Parts {
    /// The gateway.
    pub gateway: bool,
    /// The recorder.
    #[cfg(feature = "recorder")]
    pub recorder: bool,
    /// Scheduled detection.
    #[cfg(feature = "analyzer")]
    pub detect: bool,
    /// Where health and metrics are told, if at all.
    pub admin: Option<AdminAt>,
}

impl Parts {
    /// Every part that this binary has.
    pub fn all() -> Self {
        Self {
            gateway: true,
            #[cfg(feature = "recorder")]
            recorder: true,
            #[cfg(feature = "analyzer")]
            detect: true,
            admin: None,
        }
    }
}

/// Which of the configured admin addresses is listened on.
#[derive(Debug, Clone, Copy)]
pub enum AdminAt {
    /// `[admin] listen`.
    Listen,
    /// `[admin] recorder_listen`.
    #[cfg_attr(not(feature = "recorder"), expect(dead_code, reason = "only a recorder alone listens there"))]
    RecorderListen,
}

/// Runs the parts that the configuration at `path` describes until SIGTERM or SIGINT, then drains.
pub fn run(path: &Path, parts: Parts) -> Result<ExitCode> {
    let config = &Config::load(path)?;
    init_logging();
    let runtime = super::runtime()?;
    // Before anything is opened: a signal during the start stops in order, too.
    let mut signals = Signals::listen(&runtime)?;
    // What cannot go on must not have begun: the parts start one after another.
    check_files(path, config, parts, &runtime)?;
    let mut running = Running::start_on(runtime, config, Clock::system(), parts)?;
    running.say_where(config);
    let reload = running.follow(path, config)?;
    let stopped = running.wait_for_signal(&mut signals, reload.as_ref());
    drop(reload);
    running.hurry_on(signals);
    running.drain()?;
    match stopped {
        None => Ok(ExitCode::SUCCESS),
        Some(error) => Err(error),
    }
}

/// Whether these parts can read what the configuration at `path` refers to: secrets, keys, certificates, rules.
#[cfg_attr(
    not(feature = "analyzer"),
    expect(unused_variables, reason = "rules are read by the analyzer alone")
)]
pub fn check_files(
    path: &Path,
    config: &Config,
    parts: Parts,
    runtime: &tokio::runtime::Runtime,
) -> Result<()> {
    let readable = || {
        if parts.gateway {
            config.check_gateway_files()?;
        }
        #[cfg(feature = "recorder")]
        if parts.recorder {
            config.check_recorder_files()?;
        }
        #[cfg(feature = "analyzer")]
        if parts.detect {
            runtime.block_on(bodycam_analyzer::detect::ls(&config.detect))?;
        }
        Ok::<_, anyhow::Error>(())
    };
    readable().with_context(|| format!("the configuration {} is not usable", path.display()))
}

/// What the operating system tells the process to do.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    /// Listens from now on.
    pub fn listen(runtime: &tokio::runtime::Runtime) -> Result<Self> {
        let _guard = runtime.enter();
        Ok(Self {
            terminate: signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?,
            interrupt: signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?,
            hangup: signal(SignalKind::hangup()).context("cannot listen for SIGHUP")?,
        })
    }

    /// As [`Signals::stop`], for what follows no file: it stops with its terminal, too.
    #[cfg(feature = "analyzer")]
    pub async fn stop_or_hangup(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }

    /// Resolves when the process is to stop.
    async fn stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// The parts, running.
pub struct Running {
    runtime: tokio::runtime::Runtime,
    gateway: Option<Serving>,
    /// In the order in which they are stopped.
    background: Vec<Background>,
    /// The name of each that ends.
    ended: mpsc::UnboundedReceiver<&'static str>,
    admin: Option<Admin>,
    /// Events that the recorder has stored.
    stored: Arc<dyn Fn() -> u64>,
    /// How long the end waits for Kafka to take what is in the spool.
    drain_patience: Duration,
}

/// The gateway and what it serves.
struct Serving {
    gateway: Gateway,
    drain: Option<Drain>,
    directory: Directory,
    postgres: Option<Arc<postgres::Service>>,
    http: Option<Arc<http::Service>>,
}

/// A part on the async runtime.
struct Background {
    name: &'static str,
    stop: watch::Sender<bool>,
    task: JoinHandle<Result<()>>,
}

/// What a recorder counts, on which the admin listener looks.
#[cfg(feature = "recorder")]
struct RecorderParts {
    metrics: Arc<bodycam_recorder::Metrics>,
    /// What its bus tells, once it has joined the group.
    kafka_metrics: Arc<std::sync::OnceLock<Told>>,
}

/// Text for Prometheus.
type Told = Box<dyn Fn() -> String + Send + Sync>;

/// Starts parts on the runtime.
#[cfg_attr(not(feature = "recorder"), expect(dead_code, reason = "nothing runs in the background"))]
struct Starter<'a> {
    runtime: &'a tokio::runtime::Runtime,
    ended: mpsc::UnboundedSender<&'static str>,
}

/// Tells that a part has ended, however it did.
#[cfg(feature = "recorder")]
struct Tell(&'static str, mpsc::UnboundedSender<&'static str>);

#[cfg(feature = "recorder")]
impl Drop for Tell {
    fn drop(&mut self) {
        // Nobody listens any more while the process drains.
        let _ = self.1.send(self.0);
    }
}

impl Running {
    /// Starts the parts, the ones that are written to first.
    #[cfg(feature = "analyzer")]
    pub fn start(config: &Config, clock: Clock, parts: Parts) -> Result<Self> {
        Self::start_on(super::runtime()?, config, clock, parts)
    }

    fn start_on(
        runtime: tokio::runtime::Runtime,
        config: &Config,
        clock: Clock,
        parts: Parts,
    ) -> Result<Self> {
        let (sender, ended) = mpsc::unbounded_channel();
        let starter = Starter { runtime: &runtime, ended: sender };
        #[cfg_attr(not(feature = "recorder"), expect(unused_mut, reason = "nothing runs in the background"))]
        let mut background = Vec::new();
        let mut probe = Probe { limit: config.spool.max_bytes, ..Probe::default() };
        #[cfg_attr(not(feature = "recorder"), expect(unused_mut, reason = "nothing stores here"))]
        let mut stored: Arc<dyn Fn() -> u64> = Arc::new(|| 0);
        #[cfg(feature = "recorder")]
        if parts.recorder {
            let metrics = Arc::new(bodycam_recorder::Metrics::default());
            let kafka_metrics = Arc::new(std::sync::OnceLock::new());
            let recorder =
                RecorderParts { metrics: Arc::clone(&metrics), kafka_metrics: Arc::clone(&kafka_metrics) };
            background.push(starter.recorder(config, recorder)?);
            probe.metrics.push(Box::new(move || kafka_metrics.get().map(|told| told()).unwrap_or_default()));
            let counted = Arc::clone(&metrics);
            stored = Arc::new(move || counted.events_total.load(std::sync::atomic::Ordering::Relaxed));
            if !parts.gateway {
                let told = Arc::clone(&metrics);
                probe.trouble = Some(Box::new(move || told.trouble()));
            }
            probe.metrics.push(Box::new(move || metrics.prometheus()));
        }
        let gateway = match parts.gateway {
            true => Some(start_gateway(config, clock)?),
            false => None,
        };
        #[cfg(feature = "analyzer")]
        if parts.detect {
            let (part, metrics) = starter.detect(config)?;
            background.push(part);
            let (shown, noted) = (Arc::clone(&metrics), metrics);
            probe.metrics.push(Box::new(move || shown.prometheus()));
            probe.note = Some(Box::new(move || {
                noted.is_failing().then(|| "detection fails again and again: see the log".to_owned())
            }));
        }
        if let Some(serving) = &gateway {
            let producer = serving.gateway.producer().clone();
            probe.producer = Some(producer.clone());
            probe.postgres = serving.postgres.clone();
            probe.directory = Some(serving.directory.clone());
            probe.metrics.push(Box::new(move || producer.prometheus()));
            if let Some(drain) = &serving.drain {
                let metrics = drain.metrics();
                probe.metrics.push(Box::new(move || metrics.prometheus()));
            }
            if let Some(http) = serving.http.clone() {
                probe.metrics.push(Box::new(move || http.prometheus()));
            }
        }
        drop(starter);
        let admin = match parts.admin {
            None => None,
            Some(at) => {
                let _guard = runtime.enter();
                let listen = match at {
                    AdminAt::Listen => config.admin.listen,
                    AdminAt::RecorderListen => config.admin.recorder_listen,
                };
                Some(Admin::start(listen, Arc::new(probe))?)
            }
        };
        let drain_patience =
            Duration::from_secs(config.kafka.as_ref().map_or(0, |kafka| kafka.drain_seconds));
        Ok(Self { runtime, gateway, background, ended, admin, stored, drain_patience })
    }

    /// Says where it listens.
    fn say_where(&self, config: &Config) {
        let at = |listens: bool, address: Option<std::net::SocketAddr>| {
            address.filter(|_| listens).map_or_else(|| "-".to_owned(), |address| address.to_string())
        };
        tracing::info!(
            event = "serving",
            postgres = at(self.gateway.is_some(), config.postgres.as_ref().map(|p| p.listen)),
            http = at(self.gateway.is_some(), config.http.as_ref().map(|h| h.listen)),
            lake = %bodycam_record::shown(&config.lake.url),
            "started"
        );
    }

    /// Waits until no client is connected; an error after 10 s.
    #[cfg(feature = "analyzer")]
    pub fn wait_until_idle(&self) -> Result<()> {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while self.gateway.as_ref().is_some_and(|serving| serving.gateway.connections() > 0) {
            anyhow::ensure!(std::time::Instant::now() < deadline, "clients stay connected to the gateway");
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        Ok(())
    }

    /// Follows the file while a gateway runs.
    fn follow(&self, path: &Path, config: &Config) -> Result<Option<Reload>> {
        let Some(serving) = &self.gateway else { return Ok(None) };
        let producer = serving.gateway.producer().clone();
        Reload::start(path, config.clone(), serving.directory.clone(), producer).map(Some)
    }

    /// Returns on SIGTERM or SIGINT, or with the error of a part that ended by itself. SIGHUP has the
    /// configuration read again.
    fn wait_for_signal(&mut self, signals: &mut Signals, reload: Option<&Reload>) -> Option<anyhow::Error> {
        let (ended, background) = (&mut self.ended, &mut self.background);
        self.runtime.block_on(async {
            loop {
                tokio::select! {
                    _ = signals.terminate.recv() => return None,
                    _ = signals.interrupt.recv() => return None,
                    Some(()) = signals.hangup.recv() => reload.iter().for_each(|reload| reload.now()),
                    Some(name) = ended.recv() => return Some(why(background, name).await),
                }
            }
        })
    }

    /// From now on a further signal ends the sessions at once, each with its seal.
    fn hurry_on(&self, mut signals: Signals) {
        let Some(hurry) = self.gateway.as_ref().map(|serving| serving.gateway.hurry()) else { return };
        self.runtime.spawn(async move {
            signals.stop().await;
            tracing::warn!(event = "hurry", "a second signal: open sessions are ended and sealed now");
            hurry.store(true, std::sync::atomic::Ordering::Relaxed);
        });
    }

    /// Stops in order: sessions sealed, spool stored, commit made. Gives the number of events stored.
    pub fn drain(mut self) -> Result<u64> {
        if let Some(admin) = &self.admin {
            admin.draining();
        }
        let mut outcome = match self.gateway.take() {
            Some(serving) => {
                let drained = serving.gateway.drain().map_err(anyhow::Error::from);
                // After the gateway: its last word is STOP.
                if let Some(drain) = serving.drain {
                    send_the_rest(drain, self.drain_patience);
                }
                drained
            }
            None => Ok(()),
        };
        for part in self.background.drain(..) {
            outcome = outcome.and(part.stop(&self.runtime));
        }
        outcome?;
        Ok((self.stored)())
    }
}

fn send_the_rest(mut drain: Drain, patience: Duration) {
    match drain.stop(patience) {
        0 => {}
        records => tracing::warn!(
            event = "kafka_not_drained",
            records,
            "records stay in the spool; they are sent when this gateway starts again"
        ),
    }
}

impl Background {
    fn stop(self, runtime: &tokio::runtime::Runtime) -> Result<()> {
        let name = self.name;
        self.stop.send_replace(true);
        runtime
            .block_on(self.task)
            .with_context(|| format!("{name} panicked"))?
            .with_context(|| format!("{name} failed"))
    }
}

/// Why the part `name` ended.
async fn why(background: &mut Vec<Background>, name: &'static str) -> anyhow::Error {
    let Some(at) = background.iter().position(|part| part.name == name) else {
        return anyhow::anyhow!("{name} ended by itself");
    };
    let task = background.remove(at).task;
    match task.await {
        Ok(Ok(())) => anyhow::anyhow!("{name} ended by itself"),
        Ok(Err(error)) => error.context(format!("{name} failed")),
        Err(error) => anyhow::Error::new(error).context(format!("{name} panicked")),
    }
}

impl Starter<'_> {
    #[cfg(feature = "recorder")]
    fn spawn(
        &self,
        name: &'static str,
        stop: watch::Sender<bool>,
        work: impl Future<Output = Result<()>> + Send + 'static,
    ) -> Background {
        let tell = Tell(name, self.ended.clone());
        let task = self.runtime.spawn(async move {
            let _tell = tell;
            work.await
        });
        Background { name, stop, task }
    }

    #[cfg(feature = "recorder")]
    fn recorder(&self, config: &Config, recorder: RecorderParts) -> Result<Background> {
        let store = config.lake.create()?;
        let seed = bodycam_proxy::recording::load_or_create_key_file(&config.recorder.key)?;
        let key = Arc::new(bodycam_record::EpochKey::from_seed(&seed));
        let (stop, mut stopped) = watch::channel(false);
        let RecorderParts { metrics, kafka_metrics } = recorder;
        let (spool, kafka) = (bodycam_bus::spool::SpoolBus::new(&config.spool), config.kafka()?);
        let config = config.recorder.clone();
        Ok(self.spawn("recorder", stop, async move {
            let Some(kafka) = kafka else {
                let shutdown = async move { drop(stopped.wait_for(|stop| *stop).await) };
                return Ok(bodycam_recorder::run(spool, store, key, config, metrics, shutdown).await?);
            };
            let Some(bus) = join(kafka, &mut stopped, &metrics).await? else { return Ok(()) };
            let told = bus.metrics();
            // Set once: this is the only task that does.
            let _ = kafka_metrics.set(Box::new(move || told.prometheus()));
            let shutdown = async move { drop(stopped.wait_for(|stop| *stop).await) };
            Ok(bodycam_recorder::run(bus, store, key, config, metrics, shutdown).await?)
        }))
    }

    /// Detection beside a gateway. It never ends by itself, so that nothing in a lake can end the gateway: what
    /// fails is tried again, and a panic is an error like another.
    #[cfg(feature = "analyzer")]
    fn detect(&self, config: &Config) -> Result<(Background, Arc<bodycam_analyzer::detect::Metrics>)> {
        use bodycam_analyzer::findings::News;
        let tenant = crate::tenant_key::load(&config.gateway.tenant_key, false)?;
        let options = super::detect::options(config, &config.lake, Some(tenant))?;
        let metrics = Arc::clone(&options.metrics);
        // Who reads along wants the line; who collects logs wants all of it.
        let reads_along = std::io::IsTerminal::is_terminal(&std::io::stderr());
        let tell = move |news: &News| match reads_along {
            true => tracing::warn!(event = "finding", "{}", super::detect::line(news)),
            false => {
                tracing::warn!(event = "finding", finding = %news.to_json(), "{}", super::detect::line(news));
            }
        };
        let watching = super::detect::Watching::new(options, config.kafka()?.as_ref(), Arc::new(tell))?;
        let (stop, stopped) = watch::channel(false);
        let part = self.spawn("detection", stop, async move {
            watching.run(stopped).await;
            Ok(())
        });
        Ok((part, metrics))
    }
}

/// Joins the group of recorders, as soon as brokers answer; none when the process is told to stop first.
#[cfg(feature = "recorder")]
async fn join(
    kafka: bodycam_bus::kafka::Kafka,
    stopped: &mut watch::Receiver<bool>,
    metrics: &bodycam_recorder::Metrics,
) -> Result<Option<bodycam_bus::kafka::KafkaBus>> {
    use std::sync::atomic::Ordering;
    loop {
        let kafka = kafka.clone();
        let opening = tokio::task::spawn_blocking(move || bodycam_bus::kafka::KafkaBus::open(kafka));
        let error = match opening.await? {
            Ok(bus) => {
                metrics.failing.store(0, Ordering::Relaxed);
                return Ok(Some(bus));
            }
            Err(error @ bodycam_bus::BusError::Kafka { .. }) => error,
            Err(error) => return Err(error.into()),
        };
        metrics.failed(&error);
        tracing::error!(event = "kafka_unreachable", error = %error, "trying again");
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(2)) => {}
            _ = stopped.wait_for(|stop| *stop) => return Ok(None),
        }
    }
}

fn start_gateway(config: &Config, clock: Clock) -> Result<Serving> {
    let tenant_key = crate::tenant_key::load(&config.gateway.tenant_key, true)?;
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
        Some(config.admin.recorder_listen),
        config.admin.detect_listen,
    ]
    .into_iter()
    .flatten()
    .collect();
    let mut listeners = Vec::new();
    let (mut postgres_service, mut http_service) = (None, None);
    if let Some(postgres) = &config.postgres {
        let service = postgres::Service::new(
            postgres.clone(),
            config.targets.clone(),
            config.record.clone(),
            directory.clone(),
            slots.clone(),
            producer.tenant_key().clone(),
        )?;
        let service = Arc::new(service);
        postgres_service = Some(Arc::clone(&service));
        listeners.push((postgres.listen.to_string(), Service::Postgres(service)));
    }
    if let Some(http) = &config.http {
        let drain = std::time::Duration::from_secs(config.gateway.drain_seconds);
        let service = Arc::new(http::Service::new(http.clone(), directory.clone(), slots, own, drain)?);
        http_service = Some(Arc::clone(&service));
        listeners.push((http.listen.to_string(), Service::Http(service)));
    }
    let drain = match config.kafka()? {
        Some(kafka) => Some(Drain::start(kafka, &config.spool, &config.gateway.producer)?),
        None => None,
    };
    let gateway = Gateway::start(&config.gateway, producer, listeners)?;
    Ok(Serving { gateway, drain, directory, postgres: postgres_service, http: http_service })
}

/// What is in force until policies exist: who may reach what.
fn policy_digest(config: &Config) -> Result<bodycam_record::Digest> {
    let rules = serde_json::to_vec(&(&config.principals, &config.targets))?;
    Ok(digest::POLICY.digest(&rules))
}

/// What the admin listener asks.
#[derive(Default)]
struct Probe {
    producer: Option<Producer>,
    postgres: Option<Arc<postgres::Service>>,
    metrics: Vec<Told>,
    directory: Option<Directory>,
    /// Of a recorder that runs alone. Beside a gateway, traffic goes on into the spool as long as that has room.
    trouble: Option<Box<dyn Fn() -> Option<String> + Send + Sync>>,
    /// What is wrong beside the traffic.
    note: Option<Box<dyn Fn() -> Option<String> + Send + Sync>>,
    limit: u64,
}

impl admin::Probe for Probe {
    fn ready(&self) -> Result<(), String> {
        if let Some(producer) = &self.producer {
            if producer.spool_bytes() >= self.limit {
                return Err("the spool is full: traffic is held until the recorder catches up".to_owned());
            }
            if let Some(why) = producer.refuses() {
                return Err(format!("the spool refuses what is recorded: {why}"));
            }
            let silent = producer.silent_for();
            if silent > SILENT {
                let seconds = silent.as_secs();
                return Err(format!(
                    "the spool has taken no heartbeat for {seconds} s: see the log and the disk"
                ));
            }
        }
        if let Some(Err(error)) = self.directory.as_ref().map(Directory::usable) {
            return Err(format!("nobody can log in: {error}"));
        }
        match self.trouble.as_ref().and_then(|trouble| trouble()) {
            Some(trouble) => Err(trouble),
            None => Ok(()),
        }
    }

    fn note(&self) -> Option<String> {
        self.note.as_ref().and_then(|note| note())
    }

    fn metrics(&self) -> String {
        self.metrics.iter().map(|part| part()).collect()
    }

    fn processes(&self) -> Vec<postgres::live::LiveProcess> {
        self.postgres.as_ref().map(|p| p.live()).unwrap_or_default()
    }
}

/// Without `BODYCAM_LOG`. What the cluster engine says of plans repeats the values in them.
const LOG_FILTER: &str =
    "info,tokio_postgres=warn,ballista_core=warn,ballista_executor=warn,ballista_scheduler=warn";

/// JSON lines on standard error unless it is a terminal; `BODYCAM_LOG` filters (default `info`).
pub fn init_logging() {
    use std::io::IsTerminal;
    let filter = tracing_subscriber::EnvFilter::try_from_env("BODYCAM_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(LOG_FILTER));
    // A log that cannot be written (a full disk) is no reason to write, and to fail, once more.
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .log_internal_errors(false);
    let outcome = if std::io::stderr().is_terminal() {
        builder.with_ansi(false).try_init()
    } else {
        builder.json().try_init()
    };
    if let Err(error) = outcome {
        crate::speak::to_stderr(format_args!("bodycam: no logging: {error}\n"));
    }
}
