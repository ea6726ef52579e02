//! The gateway process: listeners, one current-thread runtime per core, accept, heartbeat, drain.
//!
//! An accept thread takes connections and gives each to the core with the fewest; both directions of a
//! session then live on one task of that core. Invariant: after [`Gateway::drain`] every session is sealed
//! and the ledger says STOP.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
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

use crate::admission::{Admission, Admissions};
use crate::recording::{Lane, Producer, RecordingError};
use crate::stop::{Stage, Stop, reached};
use crate::{http, postgres};

mod descriptors;

/// Time between two heartbeats in the ledger.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// How long sessions that are cut may take to end themselves; what is still open then is dropped.
const CUT: Duration = Duration::from_secs(10);
/// Time to wait after the operating system refused to accept (out of file descriptors).
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Time between two tries to seal what ended while the spool took nothing.
const SEAL_RETRY: Duration = Duration::from_millis(500);
/// How long a core that ends waits for the spool to take the last seals.
const SEAL_LAST: Duration = Duration::from_secs(2);
/// A warning that repeats is written once in this time.
const TELL_AGAIN: Duration = Duration::from_secs(10);
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
    /// Most connections open at once, lowered to what the limit of open files allows; further ones wait in the
    /// operating system's queue. A quarter may be of clients that have not logged in, and a quarter of these of
    /// one address; beyond it the oldest of them are closed.
    pub max_connections: usize,
    /// Seconds that sessions get to finish after SIGTERM. Then they are cut: what the target runs for them is
    /// cancelled, and the record says so.
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
    /// The system allows too few open files.
    #[error(
        "the system allows this process {files} open files, and {needed} are needed to serve anyone; raise the limit \
         (ulimit -n, LimitNOFILE=)"
    )]
    Files { files: u64, needed: u64 },
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
    stop: watch::Sender<Stage>,
    /// Says that every session has ended, and with them the heartbeats.
    ended: watch::Sender<bool>,
    drain_seconds: u64,
    hurry: Arc<AtomicBool>,
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
    admission: Admission,
}

/// What the accept thread hands connections to.
type Targets = Vec<(Arc<AtomicUsize>, mpsc::UnboundedSender<Accepted>)>;

impl Gateway {
    /// Listens on every address, then starts the cores. Everything is bound before anything is served.
    pub fn start(
        config: &GatewayConfig,
        producer: Producer,
        listeners: Vec<(String, Service)>,
    ) -> Result<Self, GatewayError> {
        let limit = descriptors::fit(config.max_connections)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|source| GatewayError::Start { what: "the accept thread's runtime", source })?;
        let (mut bound, mut addresses) = (Vec::new(), Vec::new());
        for (address, service) in listeners {
            let listen = |source| GatewayError::Listen { address: address.clone(), source };
            let listener = std::net::TcpListener::bind(&address).map_err(listen)?;
            listener.set_nonblocking(true).map_err(listen)?;
            addresses.push(listener.local_addr().map_err(listen)?);
            let _guard = runtime.enter();
            bound.push((TcpListener::from_std(listener).map_err(listen)?, service));
        }
        let count = match config.cores {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            n => n,
        };
        let (stop, stopping) = watch::channel(Stage::default());
        let (ended, end) = watch::channel(false);
        let cores = (0..count)
            .map(|core| Core::start(core, producer.clone(), stopping.clone()))
            .collect::<Result<Vec<_>, _>>()?;
        let targets: Targets = cores.iter().map(|c| (Arc::clone(&c.connections), c.sender.clone())).collect();
        let (heart, admissions) = (producer.clone(), Admissions::new(limit));
        let accept = std::thread::Builder::new()
            .name("accept".to_owned())
            .spawn(move || {
                let local = LocalSet::new();
                local.block_on(&runtime, accept_all(bound, targets, admissions, heart, stopping, end));
            })
            .map_err(|source| GatewayError::Start { what: "the accept thread", source })?;
        Ok(Self {
            producer,
            cores,
            accept: Some(accept),
            addresses,
            stop,
            ended,
            drain_seconds: config.drain_seconds,
            hurry: Arc::default(),
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

    /// Set during a drain, it ends the sessions at once.
    pub fn hurry(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.hurry)
    }

    /// Accepts no more, lets sessions finish for `drain_seconds`, cuts the others, seals every one, writes STOP.
    /// Heartbeats go on until then. Blocks.
    pub fn drain(mut self) -> Result<(), GatewayError> {
        self.stop.send_replace(Stage::Draining);
        self.wait_for_sessions(Duration::from_secs(self.drain_seconds), || {
            self.hurry.load(Ordering::Relaxed)
        });
        self.producer.stop_accepting();
        self.stop.send_replace(Stage::Cutting);
        self.wait_for_sessions(CUT, || false);
        for core in &mut self.cores {
            // With the sender gone the core's loop ends; what is still open is dropped, and every pen seals.
            core.sender = mpsc::unbounded_channel().0;
        }
        for core in &mut self.cores {
            if let Some(thread) = core.thread.take() {
                let _ = thread.join();
            }
        }
        self.ended.send_replace(true);
        if let Some(accept) = self.accept.take() {
            let _ = accept.join();
        }
        Ok(self.producer.stop("drain")?)
    }

    /// Waits until no connection is open, for at most `patience`.
    fn wait_for_sessions(&self, patience: Duration, hurry: impl Fn() -> bool) {
        let deadline = Instant::now() + patience;
        // A connection that was accepted in this moment is in the count before the first pause is over.
        loop {
            std::thread::sleep(Duration::from_millis(20));
            if self.connections() == 0 || Instant::now() >= deadline || hurry() {
                return;
            }
        }
    }
}

impl Core {
    fn start(core: usize, producer: Producer, stop: Stop) -> Result<Self, GatewayError> {
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
                        local.block_on(&runtime, serve(receiver, lane.clone(), stop, open));
                        // What is still open ends here.
                        drop(local);
                        seal_last(&lane);
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
    lane: Lane,
    stop: Stop,
    open: Arc<AtomicUsize>,
) {
    let mut seal = tokio::time::interval(SEAL_RETRY);
    loop {
        let accepted = tokio::select! {
            accepted = receiver.recv() => accepted,
            _ = seal.tick() => {
                lane.seal_ended();
                continue;
            }
        };
        let Some(Accepted { stream, peer, service, admission }) = accepted else { return };
        let (lane, stop, place) = (lane.clone(), stop.clone(), Place(Arc::clone(&open)));
        tokio::task::spawn_local(async move {
            let _place = place;
            let Ok(stream) = TcpStream::from_std(stream) else { return };
            let served = match service {
                Service::Postgres(postgres) => {
                    admission.hold(postgres.serve(stream, peer, &lane, stop, &admission)).await
                }
                Service::Http(http) => {
                    admission.hold(http.serve(stream, peer, &lane, stop, &admission)).await
                }
            };
            if !served {
                lane.producer().counters().refused.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
}

/// Gives a spool that refuses a last chance to take the ends of sessions.
fn seal_last(lane: &Lane) {
    let since = Instant::now();
    while lane.seal_ended() > 0 && since.elapsed() < SEAL_LAST {
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A connection's place in its core's count; given back however the connection ends.
struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Accepts until the gateway drains; beats until every session has ended.
async fn accept_all(
    listeners: Vec<(TcpListener, Service)>,
    targets: Targets,
    admissions: Arc<Admissions>,
    producer: Producer,
    mut stopping: Stop,
    mut ended: watch::Receiver<bool>,
) {
    let mut tasks = tokio::task::JoinSet::new();
    for (listener, service) in listeners {
        tasks.spawn_local(accept(listener, service, targets.clone(), Arc::clone(&admissions)));
    }
    drop(targets);
    let mut heartbeat = tokio::time::interval(HEARTBEAT);
    loop {
        tokio::select! {
            // The listeners close, and with the tasks go their ends of the cores' channels.
            () = reached(&mut stopping, Stage::Draining), if !tasks.is_empty() => tasks.shutdown().await,
            _ = ended.wait_for(|e| *e) => return,
            _ = heartbeat.tick() => {
                if let Err(error) = producer.heartbeat() {
                    tracing::error!(event = "heartbeat_failed", error = %error, "the ledger took no heartbeat");
                }
            }
        }
    }
}

async fn accept(listener: TcpListener, service: Service, cores: Targets, admissions: Arc<Admissions>) {
    let (mut refused, mut evicted) = (Rarely::default(), Rarely::default());
    loop {
        if admissions.is_full() {
            tokio::time::sleep(ACCEPT_RETRY).await;
            continue;
        }
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                if let Some(times) = refused.tell(1) {
                    tracing::warn!(event = "accept_failed", error = %error, times, "the system refused a connection");
                }
                tokio::time::sleep(ACCEPT_RETRY).await;
                continue;
            }
        };
        let (admission, gone) = admissions.enter(peer.ip().to_canonical());
        if gone > 0
            && let Some(times) = evicted.tell(gone)
        {
            tracing::warn!(event = "logins_evicted", address = %peer.ip(), times, "too many connections wait for their login: the oldest are dropped");
        }
        let _ = stream.set_nodelay(true);
        let Ok(stream) = stream.into_std() else { continue };
        if let Some((count, sender)) = cores.iter().min_by_key(|(n, _)| n.load(Ordering::Relaxed)) {
            count.fetch_add(1, Ordering::Relaxed);
            if sender.send(Accepted { stream, peer, service: service.clone(), admission }).is_err() {
                count.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }
}

/// Lets what could fill a log be told at most once in ten seconds, with how often it happened.
#[derive(Debug, Default)]
struct Rarely {
    told: Option<Instant>,
    untold: usize,
}

impl Rarely {
    fn tell(&mut self, times: usize) -> Option<usize> {
        self.untold += times;
        if self.told.is_some_and(|at| at.elapsed() < TELL_AGAIN) {
            return None;
        }
        self.told = Some(Instant::now());
        Some(std::mem::take(&mut self.untold))
    }
}

#[cfg(test)]
mod tests;
