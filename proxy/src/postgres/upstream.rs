//! The target's side: connecting, TLS, logging in as the configured role, cancelling.
//!
//! Invariant: the role's password leaves this process only as a SCRAM proof, as an MD5 answer, or in clear
//! under TLS to a verified server, whoever the connection is for; and no client ever sees it, nor the server's answer to it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bodycam_record::shown::{shown_bytes, shown_limit};
use rustls::pki_types::ServerName;
use thiserror::Error;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

use super::codec::backend::{self, Authentication, Backend, Kind};
use super::codec::{FrameError, frontend, startup};
use super::config::{ConfigError, TargetConfig, UpstreamTls};
use super::inspect::catalog::refresh::{Connector, SideConnection};
use super::live::Live;
use super::socket::{Inbox, ReadError, Socket};

mod handed;
mod login;
mod tls;

/// Longest message of a target before its ReadyForQuery.
const MAX_GREETING: usize = 64 * 1024;
/// Most bytes of all of them together.
const MAX_GREETINGS: usize = 1 << 20;

/// The startup parameters of the gateway's own sessions. They beat what the role and the database are set to (`ALTER
/// ROLE … SET` is anybody's who has the role): no name is looked up where others may create, nothing is written, nothing
/// waits for long, and no other role's rights apply.
const OWN_SETTINGS: [(&str, &str); 11] = [
    ("application_name", "bodycam catalog"),
    ("client_encoding", "UTF8"),
    ("search_path", "pg_catalog"),
    ("role", "none"),
    ("default_transaction_read_only", "on"),
    ("default_transaction_isolation", "read committed"),
    ("default_transaction_deferrable", "off"),
    ("standard_conforming_strings", "on"),
    // Below the patience of those who ask, so that the server stops first.
    ("statement_timeout", "25000"),
    ("lock_timeout", "5000"),
    ("idle_in_transaction_session_timeout", "60000"),
];

/// A configured target, ready to be connected to.
pub(super) struct Target {
    pub config: TargetConfig,
    host: String,
    port: u16,
    password: Option<Zeroizing<String>>,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    keys: login::KeyCache,
    timeout: Duration,
    live: Live,
}

/// A connection that the target has accepted and that is ready for queries.
pub(super) struct Upstream {
    pub socket: Socket,
    /// Bytes after ReadyForQuery.
    pub rest: Vec<u8>,
    /// What the client must see of the greeting, in order: ParameterStatus and notices.
    pub greeting: Vec<u8>,
    /// The same ParameterStatus messages, read.
    pub parameters: Vec<(Vec<u8>, Vec<u8>)>,
    /// Bodies of the notices among them.
    pub notices: Vec<Vec<u8>>,
    /// The server's process id.
    pub process: i32,
    /// The server's cancel key.
    pub key: Vec<u8>,
    /// Where it is.
    pub address: SocketAddr,
    /// Who the server takes the session for: the role, unless parameters or settings of it make it another.
    pub user: Option<String>,
    /// The session's `search_path`, as the server spells it.
    pub search_path: Option<String>,
}

/// A target could not be used.
#[derive(Debug, Error)]
pub(super) enum UpstreamError {
    #[error(
        "cannot reach target '{target}' at {address}: {source}; check that the server runs and `address` is right"
    )]
    Unreachable { target: String, address: String, source: io::Error },
    #[error("target '{target}' at {address} did not answer within {seconds} s")]
    Timeout { target: String, address: String, seconds: u64 },
    #[error("target '{target}' does not offer TLS; set ssl = on there, or tls = \"disable\" here")]
    NoTls { target: String },
    #[error("TLS to target '{target}' at {address} failed: {why}; check its certificate, `ca` and `tls`")]
    Tls { target: String, address: String, why: String },
    #[error("cannot log in to target '{target}' as its configured role: {why}")]
    Login { target: String, why: String },
    /// The target said no, for a reason that is the client's business.
    #[error("target '{target}' refused the connection with SQLSTATE {sqlstate}")]
    Refused { target: String, sqlstate: String, error: Vec<u8> },
    #[error("target '{target}' broke the protocol: {source}")]
    Protocol { target: String, source: FrameError },
}

impl UpstreamError {
    /// Its name among the reasons of `control.decision`.
    pub fn reason(&self) -> &'static str {
        match self {
            UpstreamError::Unreachable { .. } => "target-unreachable",
            UpstreamError::Timeout { .. } => "target-timeout",
            UpstreamError::NoTls { .. } | UpstreamError::Tls { .. } => "target-tls",
            UpstreamError::Login { .. } => "target-login",
            UpstreamError::Refused { .. } => "target-refused",
            UpstreamError::Protocol { .. } => "target-protocol",
        }
    }

    /// What the client is told.
    pub fn sqlstate(&self) -> &str {
        match self {
            UpstreamError::Refused { sqlstate, .. } => sqlstate,
            UpstreamError::Protocol { .. } => "08P01",
            _ => "08001",
        }
    }
}

impl Target {
    /// Reads password and certificates. The gateway's own connections are listed in `live`.
    pub fn new(config: TargetConfig, timeout: Duration, live: Live) -> Result<Self, ConfigError> {
        config.check()?;
        let fault =
            |field, problem: String| ConfigError::Target { target: config.name.clone(), field, problem };
        let (host, port) =
            config.host_port().ok_or_else(|| fault("address", "must be host:port".to_owned()))?;
        let host = host.to_owned();
        let password = match &config.password {
            None => None,
            Some(secret) => Some(secret.read().map_err(|e| fault("password", e.to_string()))?),
        };
        let tls = match config.tls {
            UpstreamTls::Disable => None,
            mode => {
                let name = ServerName::try_from(host.clone())
                    .map_err(|_| fault("address", "its host is not a name that TLS can check".to_owned()))?;
                let connector = tls::connector(mode, config.ca.as_deref()).map_err(|e| fault("ca", e))?;
                Some((connector, name))
            }
        };
        Ok(Self { host, port, password, tls, keys: login::KeyCache::default(), timeout, live, config })
    }

    /// Connects and logs in; `parameters` are the client's own startup parameters.
    pub async fn connect(
        &self,
        database: &str,
        parameters: &[(Vec<u8>, Vec<u8>)],
    ) -> Result<Upstream, UpstreamError> {
        let work = self.connect_and_log_in(database, parameters);
        tokio::time::timeout(self.timeout, work).await.unwrap_or_else(|_| Err(self.timed_out()))
    }

    /// Asks the server at `address` to cancel what `process` does, and waits until it has taken note.
    pub async fn cancel(&self, address: SocketAddr, process: i32, key: &[u8]) -> Result<(), UpstreamError> {
        let work = async {
            let tcp = TcpStream::connect(address).await.map_err(|e| self.unreachable(e))?;
            let mut socket = self.encrypt(tcp).await?;
            let mut request = Vec::new();
            startup::put_cancel(&mut request, process, key);
            socket.send(&request).await.map_err(|e| self.unreachable(e))?;
            // The server answers nothing and closes.
            let mut inbox = Inbox::default();
            let _ = inbox.frame::<Backend>(&mut socket, MAX_GREETING).await;
            Ok(())
        };
        tokio::time::timeout(self.timeout, work).await.unwrap_or_else(|_| Err(self.timed_out()))
    }

    async fn connect_and_log_in(
        &self,
        database: &str,
        parameters: &[(Vec<u8>, Vec<u8>)],
    ) -> Result<Upstream, UpstreamError> {
        let tcp =
            TcpStream::connect((self.host.as_str(), self.port)).await.map_err(|e| self.unreachable(e))?;
        let address = tcp.peer_addr().map_err(|e| self.unreachable(e))?;
        let mut socket = self.encrypt(tcp).await?;
        let mut hello = Vec::new();
        let own = [(&b"user"[..], self.config.role.as_bytes()), (b"database", database.as_bytes())];
        let passed = parameters.iter().map(|(n, v)| (n.as_slice(), v.as_slice()));
        startup::put_startup(&mut hello, startup::Version::V3_0, own.into_iter().chain(passed));
        socket.send(&hello).await.map_err(|e| self.unreachable(e))?;
        let mut inbox = Inbox::default();
        self.log_in(&mut socket, &mut inbox).await?;
        let mut upstream = self.greeting(socket, inbox, address).await?;
        (upstream.user, upstream.search_path) = self.names(&mut upstream).await?;
        Ok(upstream)
    }

    /// Connections of the gateway's own to `database`, for reading its catalog.
    pub fn side_connector(self: &Arc<Self>, database: &str) -> Connector {
        let (target, database) = (Arc::clone(self), database.to_owned());
        Arc::new(move || {
            let (target, database) = (Arc::clone(&target), database.clone());
            Box::pin(async move {
                // Logged in by our own rules: the client library would send the password in clear to whoever
                // asks for it.
                let own =
                    OWN_SETTINGS.map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec()));
                let upstream = target.connect(&database, &own).await?;
                let process = upstream.process;
                let mut config = tokio_postgres::Config::new();
                config.user(&target.config.role).dbname(&database).application_name("bodycam catalog");
                config.ssl_mode(tokio_postgres::config::SslMode::Disable);
                let socket = handed::HandedOver::new(upstream);
                let (client, connection) = config.connect_raw(socket, tokio_postgres::NoTls).await?;
                let driver = tokio::spawn(async move {
                    // Why it ended shows in the query that fails.
                    let _ = connection.await;
                });
                let driver = AbortOnDrop(driver);
                let listed = target.live.list(&target.config.name, process, None);
                let driver = Box::pin(async move {
                    let _listed = listed;
                    driver.ended().await;
                });
                Ok(SideConnection { client, driver })
            })
        })
    }

    /// Asks under whose name and in which schemas names are looked up: startup parameters, roles and databases
    /// can set both, and no server before PostgreSQL 18 reports either.
    async fn names(
        &self,
        upstream: &mut Upstream,
    ) -> Result<(Option<String>, Option<String>), UpstreamError> {
        let mut question = Vec::new();
        let text = b"SELECT current_user, pg_catalog.current_setting('search_path')";
        frontend::put_query(&mut question, text);
        upstream.socket.send(&question).await.map_err(|e| self.unreachable(e))?;
        let mut inbox = Inbox::with(std::mem::take(&mut upstream.rest));
        let mut answer = Vec::new();
        loop {
            match self.message(&mut upstream.socket, &mut inbox).await? {
                (Kind::DataRow, body) => answer = backend::values(&body).map_err(|e| self.protocol(e))?,
                (Kind::ReadyForQuery, _) => break,
                (Kind::ParameterStatus | Kind::Notice | Kind::Notification, _)
                | (Kind::RowDescription | Kind::CommandComplete | Kind::Error, _) => {}
                _ => return Err(self.login_failed("it answered the question for current_user out of order")),
            }
        }
        upstream.rest = inbox.into_bytes();
        let mut answer = answer.into_iter().map(|value| String::from_utf8(value?).ok());
        Ok((answer.next().flatten(), answer.next().flatten()))
    }

    async fn encrypt(&self, tcp: TcpStream) -> Result<Socket, UpstreamError> {
        super::tune(&tcp);
        let Some((connector, name)) = &self.tls else { return Ok(Socket::Plain(tcp)) };
        let mut socket = Socket::Plain(tcp);
        let mut request = Vec::new();
        startup::put_tls_request(&mut request);
        socket.send(&request).await.map_err(|e| self.unreachable(e))?;
        let mut inbox = Inbox::default();
        let answer = inbox
            .read(&mut socket, |bytes| Ok(bytes.first().map(|b| (*b, 1))))
            .await
            .map_err(|e| self.read_failed(e))?;
        match answer {
            b'S' => {}
            b'N' | b'E' => return Err(UpstreamError::NoTls { target: self.config.name.clone() }),
            tag => return Err(self.protocol(FrameError::Unknown { from: "target", tag })),
        }
        if !inbox.is_empty() {
            // Someone on the path could have put them there (CVE-2021-23222).
            return Err(self.tls_failed("bytes in clear followed the answer to SSLRequest"));
        }
        let Socket::Plain(tcp) = socket else { return Err(self.tls_failed("already encrypted")) };
        let stream =
            connector.connect(name.clone(), tcp).await.map_err(|e| self.tls_failed(tls::reason(&e)))?;
        Ok(Socket::TlsClient(Box::new(stream)))
    }

    async fn log_in(&self, socket: &mut Socket, inbox: &mut Inbox) -> Result<(), UpstreamError> {
        let mut scram: Option<login::Scram> = None;
        let mut proven = false;
        loop {
            let body = match self.message(socket, inbox).await? {
                (Kind::Authentication, body) => body,
                (Kind::Error, body) => return Err(self.refused(body)),
                (Kind::Notice, _) => continue,
                _ => return Err(self.login_failed("it sent another message before AuthenticationOk")),
            };
            let mut answer = Vec::new();
            match backend::authentication(&body).map_err(|e| self.protocol(e))? {
                Authentication::Ok if scram.is_some() && !proven => {
                    return Err(self.login_failed("the server ended SCRAM without proving who it is"));
                }
                Authentication::Ok => return Ok(()),
                Authentication::Cleartext
                    if !socket.is_tls() || self.config.tls != UpstreamTls::VerifyFull =>
                {
                    return Err(self.login_failed(
                        "the server asks for the password in clear on a connection whose other end is not \
                         proven; set tls = \"verify-full\", or scram-sha-256 in its pg_hba.conf",
                    ));
                }
                Authentication::Cleartext => frontend::put_password(&mut answer, self.secret()?.as_bytes()),
                Authentication::Md5(salt) => {
                    let text = login::md5(self.secret()?, &self.config.role, salt);
                    frontend::put_password(&mut answer, text.as_bytes());
                }
                Authentication::Sasl(mechanisms) if scram.is_none() => {
                    let exchange = login::Scram::start(mechanisms, tls::end_point(socket))
                        .map_err(|e| self.login_failed(e))?;
                    frontend::put_sasl_initial(&mut answer, exchange.mechanism(), exchange.client_first());
                    scram = Some(exchange);
                }
                Authentication::SaslContinue(server_first) if !proven => {
                    let exchange = scram.as_mut().ok_or_else(|| self.login_failed("SASL out of order"))?;
                    let answered = exchange
                        .answer(server_first, self.secret()?, &self.keys)
                        .map_err(|e| self.login_failed(e))?;
                    frontend::put_sasl_response(&mut answer, answered.as_bytes());
                }
                Authentication::SaslFinal(server_final) => {
                    let exchange = scram.as_ref().ok_or_else(|| self.login_failed("SASL out of order"))?;
                    exchange.verify(server_final).map_err(|e| self.login_failed(e))?;
                    proven = true;
                    continue;
                }
                _ => {
                    let why = "the server asks for a method that is not supported; \
                               use scram-sha-256 or md5 in its pg_hba.conf";
                    return Err(self.login_failed(why));
                }
            }
            socket.send(&answer).await.map_err(|e| self.unreachable(e))?;
        }
    }

    async fn greeting(
        &self,
        mut socket: Socket,
        mut inbox: Inbox,
        address: SocketAddr,
    ) -> Result<Upstream, UpstreamError> {
        let (mut greeting, mut parameters, mut notices) = (Vec::new(), Vec::new(), Vec::new());
        let mut key_data = None;
        loop {
            let (kind, body) = self.message(&mut socket, &mut inbox).await?;
            let pass = |greeting: &mut Vec<u8>, tag| {
                super::codec::frame(greeting, tag, |out| out.extend_from_slice(&body));
            };
            match kind {
                Kind::ParameterStatus => {
                    let (name, value) = backend::parameter(&body).map_err(|e| self.protocol(e))?;
                    parameters.push((name.to_vec(), value.to_vec()));
                    pass(&mut greeting, b'S');
                }
                Kind::Notice => {
                    pass(&mut greeting, b'N');
                    notices.push(body);
                }
                Kind::BackendKeyData => {
                    let (process, key) = backend::key_data(&body).map_err(|e| self.protocol(e))?;
                    key_data = Some((process, key.to_vec()));
                }
                Kind::Error => return Err(self.refused(body)),
                Kind::ReadyForQuery => break,
                _ => return Err(self.login_failed("it sent another message before ReadyForQuery")),
            }
            if greeting.len() > MAX_GREETINGS {
                return Err(self.login_failed("its greeting does not end"));
            }
        }
        // A pooler may send none; then there is nothing to cancel with.
        let (process, key) = key_data.unwrap_or_default();
        let rest = inbox.into_bytes();
        let (user, search_path) = (None, None);
        Ok(Upstream { socket, rest, greeting, parameters, notices, process, key, address, user, search_path })
    }

    async fn message(
        &self,
        socket: &mut Socket,
        inbox: &mut Inbox,
    ) -> Result<(Kind, Vec<u8>), UpstreamError> {
        inbox.frame::<Backend>(socket, MAX_GREETING).await.map_err(|e| self.read_failed(e))
    }

    fn secret(&self) -> Result<&str, UpstreamError> {
        let none = || self.login_failed("the server asks for a password and `password` names none");
        self.password.as_ref().map(|p| p.as_str()).ok_or_else(none)
    }

    fn place(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    fn unreachable(&self, source: io::Error) -> UpstreamError {
        UpstreamError::Unreachable { target: self.config.name.clone(), address: self.place(), source }
    }

    fn timed_out(&self) -> UpstreamError {
        let seconds = self.timeout.as_secs();
        UpstreamError::Timeout { target: self.config.name.clone(), address: self.place(), seconds }
    }

    fn tls_failed(&self, why: impl ToString) -> UpstreamError {
        let why = shown_limit(&why.to_string(), 300);
        UpstreamError::Tls { target: self.config.name.clone(), address: self.place(), why }
    }

    fn login_failed(&self, why: impl ToString) -> UpstreamError {
        UpstreamError::Login { target: self.config.name.clone(), why: why.to_string() }
    }

    fn protocol(&self, source: FrameError) -> UpstreamError {
        UpstreamError::Protocol { target: self.config.name.clone(), source }
    }

    fn read_failed(&self, error: ReadError) -> UpstreamError {
        match error {
            ReadError::Closed => {
                self.unreachable(io::Error::new(io::ErrorKind::UnexpectedEof, "it closed the connection"))
            }
            ReadError::Io(source) => self.unreachable(source),
            ReadError::Frame(source) => self.protocol(source),
        }
    }

    /// The server's own refusal. What concerns the role and its password stays here.
    fn refused(&self, error: Vec<u8>) -> UpstreamError {
        let sqlstate = backend::sqlstate(&error).unwrap_or_else(|| "XX000".to_owned());
        if sqlstate.starts_with("28") {
            let message = backend::error_field(&error, b'M').unwrap_or_default();
            tracing::warn!(event = "target_login_refused", target_name = %self.config.name, sqlstate, message = %shown_bytes(message), "check role and password of the target");
            return self.login_failed(format!("the server answered {sqlstate}; check `role` and `password`"));
        }
        UpstreamError::Refused { target: self.config.name.clone(), sqlstate, error }
    }
}

/// A task that does not outlive its handle.
struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl AbortOnDrop {
    async fn ended(mut self) {
        let _ = (&mut self.0).await;
    }
}

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Targets in the order of the configuration.
pub(super) type Targets = Vec<Arc<Target>>;
