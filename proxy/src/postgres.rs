//! The PostgreSQL wire: from a client's first byte to the target and back.
//!
//! `codec` knows frames, `relay` the session, `inspect` what a statement does, `upstream` the target.
//! Invariant: whatever arrives on either side, [`Service::serve`] returns and the session is sealed.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bodycam_record::TenantKey;
use thiserror::Error;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use crate::admission::Admission;
use crate::identity::scram::tls_server_end_point;
use crate::identity::{Directory, Refusals};
use crate::recording::{Lane, RecordingConfig};
use crate::slots::SessionSlots;
use crate::stop::Stop;
use crate::tls::ListenerTls;

pub mod codec;
pub mod config;
pub mod inspect;
pub mod live;
mod relay;
mod socket;
pub mod survey;
mod upstream;

pub use config::{ClientAuth, ClientTls, ConfigError, PostgresConfig, TargetConfig, UpstreamTls};

use inspect::Inspector;
use inspect::catalog::refresh::Catalogs;
use live::{Live, LiveProcess};
use relay::cancel::CancelKeys;
use upstream::{Target, Targets};

/// Everything that all PostgreSQL sessions of the process share.
pub struct Service {
    config: PostgresConfig,
    recording: RecordingConfig,
    targets: Targets,
    directory: Directory,
    inspector: Inspector,
    catalogs: Catalogs,
    slots: SessionSlots,
    cancel_keys: CancelKeys,
    /// What long messages take of the disk.
    quota: relay::spill::quota::Quota,
    live: Live,
    refusals: Refusals,
    client_tls: Option<Tls>,
}

/// The client's side of TLS.
struct Tls {
    acceptor: TlsAcceptor,
    /// Channel binding data of our certificate.
    end_point: Option<Vec<u8>>,
}

/// Why the service cannot start.
#[derive(Debug, Error)]
pub enum ServiceError {
    /// A setting.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The threads that analyse statements.
    #[error("cannot start the analysis of statements: {0}")]
    Inspect(std::io::Error),
}

impl Service {
    /// Reads certificates and secrets. Once a process.
    pub fn new(
        config: PostgresConfig,
        targets: Vec<TargetConfig>,
        recording: RecordingConfig,
        directory: Directory,
        slots: SessionSlots,
        tenant: TenantKey,
    ) -> Result<Self, ServiceError> {
        config.check(&targets)?;
        let timeout = Duration::from_secs(config.connect_timeout_seconds);
        let live = Live::default();
        let targets = targets
            .into_iter()
            .map(|target| Target::new(target, timeout, live.clone()).map(Arc::new))
            .collect::<Result<Targets, ConfigError>>()?;
        let client_tls = config.tls.as_ref().map(Tls::new).transpose()?;
        let inspector = Inspector::new(config.inspect.clone(), tenant).map_err(ServiceError::Inspect)?;
        let catalogs = Catalogs::new(Duration::from_secs(config.inspect.catalog_refresh_seconds));
        let cancel_keys = CancelKeys::default();
        Ok(Self {
            config,
            recording,
            targets,
            directory,
            inspector,
            catalogs,
            slots,
            cancel_keys,
            quota: Default::default(),
            live,
            refusals: Refusals::default(),
            client_tls,
        })
    }

    /// The targets' server processes that work for this gateway now.
    pub fn live(&self) -> Vec<LiveProcess> {
        self.live.all()
    }

    /// Serves one connection to its end, which `stop` may bring about; `admission` is told when the client has
    /// logged in.
    pub async fn serve(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        lane: &Lane,
        stop: Stop,
        admission: &Admission,
    ) {
        relay::serve(self, stream, peer, lane, stop, admission).await;
    }
}

/// Whether what the settings refer to can be read: passwords, authorities, certificate and private key.
pub fn check_files(config: &PostgresConfig, targets: &[TargetConfig]) -> Result<(), ConfigError> {
    let timeout = Duration::from_secs(config.connect_timeout_seconds);
    for target in targets {
        Target::new(target.clone(), timeout, Live::default())?;
    }
    config.tls.as_ref().map(Tls::new).transpose().map(drop)
}

impl Tls {
    fn new(files: &ClientTls) -> Result<Self, ConfigError> {
        let tls = ListenerTls::read(&files.cert, &files.key, b"postgresql")
            .map_err(|problem| ConfigError::Listener { field: "tls", problem })?;
        Ok(Self { end_point: tls_server_end_point(&tls.certificate), acceptor: tls.acceptor })
    }
}

/// No delay for small messages; a peer that is gone is noticed.
fn tune(stream: &TcpStream) {
    let keepalive = socket2::TcpKeepalive::new()
        .with_time(Duration::from_secs(60))
        .with_interval(Duration::from_secs(10));
    let _ = stream.set_nodelay(true);
    let _ = socket2::SockRef::from(stream).set_tcp_keepalive(&keepalive);
}
