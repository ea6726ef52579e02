//! The gateway process: listeners, one current-thread runtime per core, accept, heartbeat, drain.
//!
//! An accept thread takes connections and gives each to the core with the fewest; both directions of a
//! session then live on one task of that core. Invariant: after [`Gateway::drain`] every session is sealed
//! and the ledger says STOP.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bodycam_bus::StreamId;
use bodycam_bus::stream::LEDGER_LANE;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::LocalSet;

use crate::recording::{Producer, RecordingError};
use crate::{http, postgres};

/// Time between two heartbeats in the ledger.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// Time to wait after the operating system refused to accept (out of file descriptors).
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Most cores that can be asked for.
const MAX_CORES: usize = 1024;
/// Longest drain, in seconds.
const MAX_DRAIN: u64 = 24 * 60 * 60;

/// `[gateway]` in `bodycam.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct GatewayConfig {
    /// Name of this gateway process in the record: letters, digits, `-`, `_`, `.`. Two gateways never share one.
    pub producer: String,
    /// Tenant that the deployment serves.
    pub tenant: String,
    /// File that holds the tenant key (64 hex digits, mode 0600), as `file:PATH` or `env:NAME`. `bodycam up` makes the file when it is missing.
    pub tenant_key: String,
    /// Number of cores that serve connections; 0 means all.
    pub cores: usize,
    /// Most connections open at once; further ones wait in the operating system's queue.
    pub max_connections: usize,
    /// Seconds that sessions get to finish after SIGTERM.
    pub drain_seconds: u64,
}

impl Default for GatewayConfig {
    fn default() -> Self {
        Self {
            producer: "gateway-1".to_owned(),
            tenant: "default".to_owned(),
            tenant_key: "file:tenant.key".to_owned(),
            cores: 0,
            max_connections: 10_000,
            drain_seconds: 20,
        }
    }
}

/// A setting of `[gateway]` that cannot work.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("gateway.{field}: {problem}")]
pub struct GatewayConfigError {
    /// The setting.
    pub field: &'static str,
    /// What is wrong with it, and what would be right.
    pub problem: &'static str,
}

impl GatewayConfig {
    /// Refuses what cannot work.
    pub fn check(&self) -> Result<(), GatewayConfigError> {
        let fault = |field, problem| Err(GatewayConfigError { field, problem });
        if StreamId::new(&self.producer, LEDGER_LANE).is_err() {
            return fault(
                "producer",
                "must be 1 to 64 of the characters A-Z a-z 0-9 . _ -, and not begin with a dot",
            );
        }
        if self.tenant.is_empty() || self.tenant.len() > 255 {
            return fault("tenant", "must be 1 to 255 bytes long");
        }
        if self.cores > MAX_CORES {
            return fault("cores", "must be at most 1024; 0 means all that there are");
        }
        if self.max_connections == 0 {
            return fault("max_connections", "0 would let nobody in");
        }
        if self.drain_seconds > MAX_DRAIN {
            return fault("drain_seconds", "must be at most 86400, one day");
        }
        Ok(())
    }
}

/// What a listener speaks.
#[derive(Clone)]
pub enum Service {
    /// PostgreSQL.
    Postgres(Arc<postgres::Service>),
    /// HTTP forward proxy.
    Http(Arc<http::Service>),
}

/// Why the gateway could not start.
#[derive(Debug, Error)]
pub enum GatewayError {
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {source}; is another process using the port?")]
    Listen { address: String, source: std::io::Error },
    /// A thread or runtime could not be made.
    #[error("cannot start {what}: {source}")]
    Start { what: &'static str, source: std::io::Error },
    /// Recording could not start.
    #[error(transparent)]
    Recording(#[from] RecordingError),
    /// A core ended while starting.
    #[error("core {0} ended while starting: {1}")]
    Core(usize, String),
}

/// A running gateway.
pub struct Gateway {
    producer: Producer,
    cores: Vec<Core>,
    accept: Option<JoinHandle<()>>,
    addresses: Vec<SocketAddr>,
    drain: watch::Sender<bool>,
    drain_seconds: u64,
}

struct Core {
    connections: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
    sender: mpsc::UnboundedSender<Accepted>,
}

struct Accepted {
    stream: std::net::TcpStream,
    peer: SocketAddr,
    service: Service,
}

impl Gateway {
    /// Listens on every address, then starts the cores. Everything is bound before anything is served.
    pub fn start(
        config: &GatewayConfig,
        producer: Producer,
        listeners: Vec<(String, Service)>,
    ) -> Result<Self, GatewayError> {
        let mut bound = Vec::new();
        for (address, service) in listeners {
            let listen = |source| GatewayError::Listen { address: address.clone(), source };
            let listener = std::net::TcpListener::bind(&address).map_err(listen)?;
            listener.set_nonblocking(true).map_err(listen)?;
            bound.push((listener, service));
        }
        let addresses = bound.iter().filter_map(|(l, _)| l.local_addr().ok()).collect();
        let count = match config.cores {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            n => n,
        };
        let (drain, draining) = watch::channel(false);
        let cores = (0..count)
            .map(|core| Core::start(core, producer.clone(), draining.clone()))
            .collect::<Result<Vec<_>, _>>()?;
        let targets: Vec<_> = cores.iter().map(|c| (Arc::clone(&c.connections), c.sender.clone())).collect();
        let (heart, limit) = (producer.clone(), config.max_connections);
        let accept = std::thread::Builder::new()
            .name("accept".to_owned())
            .spawn(move || accept_loop(bound, &targets, &heart, draining, limit))
            .map_err(|source| GatewayError::Start { what: "the accept thread", source })?;
        Ok(Self {
            producer,
            cores,
            accept: Some(accept),
            addresses,
            drain,
            drain_seconds: config.drain_seconds,
        })
    }

    /// The addresses listened on, in the order of the listeners.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The producer.
    pub fn producer(&self) -> &Producer {
        &self.producer
    }

    /// Connections open now.
    pub fn connections(&self) -> usize {
        self.cores.iter().map(|c| c.connections.load(Ordering::Relaxed)).sum()
    }

    /// Accepts no more, lets sessions finish for `drain_seconds`, seals every one, writes STOP. Blocks.
    pub fn drain(mut self) -> Result<(), GatewayError> {
        self.drain.send_replace(true);
        if let Some(accept) = self.accept.take() {
            let _ = accept.join();
        }
        let deadline = Instant::now() + Duration::from_secs(self.drain_seconds);
        while self.connections() > 0 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
        self.producer.stop_accepting();
        for core in &mut self.cores {
            // With the sender gone the core's loop ends; what is still open is dropped, and every pen seals.
            core.sender = mpsc::unbounded_channel().0;
        }
        for core in &mut self.cores {
            if let Some(thread) = core.thread.take() {
                let _ = thread.join();
            }
        }
        Ok(self.producer.stop("drain")?)
    }
}

impl Core {
    fn start(core: usize, producer: Producer, drain: watch::Receiver<bool>) -> Result<Self, GatewayError> {
        let connections = Arc::new(AtomicUsize::new(0));
        let (sender, receiver) = mpsc::unbounded_channel();
        let (ready, started) = std::sync::mpsc::channel();
        let open = Arc::clone(&connections);
        let thread = std::thread::Builder::new()
            .name(format!("core-{core}"))
            .spawn(move || {
                let outcome = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .map_err(|source| GatewayError::Start { what: "a core's runtime", source })
                    .and_then(|runtime| Ok((runtime, producer.lane(core)?)));
                match outcome {
                    Ok((runtime, lane)) => {
                        let _ = ready.send(Ok(()));
                        let local = LocalSet::new();
                        local.block_on(&runtime, serve(receiver, lane, drain, open));
                    }
                    Err(error) => {
                        let _ = ready.send(Err(error));
                    }
                }
            })
            .map_err(|source| GatewayError::Start { what: "a core's thread", source })?;
        match started.recv() {
            Ok(Ok(())) => Ok(Self { connections, thread: Some(thread), sender }),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(GatewayError::Core(core, "its thread panicked".to_owned())),
        }
    }
}

/// Runs one core until the gateway gives up its end of the channel.
async fn serve(
    mut receiver: mpsc::UnboundedReceiver<Accepted>,
    lane: crate::recording::Lane,
    drain: watch::Receiver<bool>,
    open: Arc<AtomicUsize>,
) {
    while let Some(Accepted { stream, peer, service }) = receiver.recv().await {
        let (lane, drain, place) = (lane.clone(), drain.clone(), Place(Arc::clone(&open)));
        tokio::task::spawn_local(async move {
            let _place = place;
            let Ok(stream) = TcpStream::from_std(stream) else { return };
            match service {
                Service::Postgres(postgres) => postgres.serve(stream, peer, &lane, drain).await,
                Service::Http(http) => http.serve(stream, peer, &lane, drain).await,
            }
        });
    }
}

/// A connection's place in its core's count; given back however the connection ends.
struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn accept_loop(
    listeners: Vec<(std::net::TcpListener, Service)>,
    cores: &[(Arc<AtomicUsize>, mpsc::UnboundedSender<Accepted>)],
    producer: &Producer,
    mut draining: watch::Receiver<bool>,
    limit: usize,
) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(event = "accept_failed", error = %error, "no runtime for the accept thread");
            return;
        }
    };
    let local = LocalSet::new();
    local.block_on(&runtime, async {
        for (listener, service) in listeners {
            let Ok(listener) = TcpListener::from_std(listener) else { continue };
            let cores = cores.to_vec();
            tokio::task::spawn_local(async move { accept(listener, service, &cores, limit).await });
        }
        let mut heartbeat = tokio::time::interval(HEARTBEAT);
        loop {
            tokio::select! {
                _ = draining.wait_for(|d| *d) => return,
                _ = heartbeat.tick() => {
                    if let Err(error) = producer.heartbeat() {
                        tracing::error!(event = "heartbeat_failed", error = %error, "the ledger took no heartbeat");
                    }
                }
            }
        }
    });
}

async fn accept(
    listener: TcpListener,
    service: Service,
    cores: &[(Arc<AtomicUsize>, mpsc::UnboundedSender<Accepted>)],
    limit: usize,
) {
    loop {
        let open: usize = cores.iter().map(|(n, _)| n.load(Ordering::Relaxed)).sum();
        if open >= limit {
            tokio::time::sleep(ACCEPT_RETRY).await;
            continue;
        }
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(event = "accept_failed", error = %error, "the system refused a connection");
                tokio::time::sleep(ACCEPT_RETRY).await;
                continue;
            }
        };
        let _ = stream.set_nodelay(true);
        let Ok(stream) = stream.into_std() else { continue };
        if let Some((count, sender)) = cores.iter().min_by_key(|(n, _)| n.load(Ordering::Relaxed)) {
            count.fetch_add(1, Ordering::Relaxed);
            if sender.send(Accepted { stream, peer, service: service.clone() }).is_err() {
                count.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }
}
