//! A client's first packets: encryption, cancel requests, the startup message, who it is.
//!
//! Invariant: before a client has proven who it is, it costs at most 10,000 bytes and
//! `startup_timeout_seconds`, and nothing of it reaches a target.

use std::net::SocketAddr;

use bodycam_record::shown::shown_bytes;
use tokio::net::TcpStream;

use crate::identity::login::REFUSED;
use crate::identity::{ChannelBinding, LoginRefused, Principal, token};
use crate::postgres::Service;
use crate::postgres::codec::frontend::{self, Frontend, Kind};
use crate::postgres::codec::startup::{Packet, Startup, Version, packet};
use crate::postgres::codec::{SMALL, backend};
use crate::postgres::config::ClientAuth;
use crate::postgres::socket::{Inbox, ReadError, Socket};

/// Code of AuthenticationCleartextPassword, AuthenticationSASL and what follows it.
const CLEARTEXT: i32 = 3;
const SASL: i32 = 10;
const SASL_CONTINUE: i32 = 11;
const SASL_FINAL: i32 = 12;

/// A client that has proven who it is and waits for the rest of the greeting.
pub(super) struct Client {
    pub socket: Socket,
    pub inbox: Inbox,
    pub startup: Startup,
    pub version: Version,
    pub principal: Principal,
    /// The end of the authentication, which leaves with the greeting.
    pub greeting: Vec<u8>,
    /// TLS version and cipher suite.
    pub tls_facts: Option<String>,
}

/// What became of a connection.
pub(super) enum Outcome {
    Client(Box<Client>),
    /// A cancel request; the client waits until its connection ends.
    Cancel {
        socket: Socket,
        process: i32,
        key: Vec<u8>,
    },
    /// It was told why, where there was something to say.
    Refused(&'static str),
    /// It said who it is and is not believed; it is told so when that is recorded.
    TurnedAway(Box<TurnedAway>),
}

/// A client that said who it is.
pub(super) struct TurnedAway {
    socket: Socket,
    pub why: &'static str,
    pub sqlstate: &'static str,
    /// What it is told.
    pub message: String,
    /// Who it says it is.
    pub claimed: String,
    /// The target that its database leads to; empty when there is none.
    pub target: String,
    pub client_tls: bool,
}

/// A refusal before there is a session.
struct Refusal {
    why: &'static str,
    sqlstate: &'static str,
    message: String,
}

/// Takes a connection up to the point where it is known who it is.
pub(super) async fn accept(
    service: &Service,
    stream: TcpStream,
    peer: SocketAddr,
    now_ns: impl Fn() -> i64,
) -> Outcome {
    let (mut socket, mut inbox) = match encrypt_at_once(service, stream).await {
        Ok(socket) => (socket, Inbox::default()),
        Err(why) => return Outcome::Refused(why),
    };
    let startup = loop {
        let (mut tls, mut gss) = (socket.is_tls(), false);
        let step = loop {
            match inbox.read(&mut socket, packet).await {
                Ok(Packet::Tls) if !tls => {
                    tls = true;
                    if !inbox.is_empty() {
                        // Bytes in clear after a request for encryption are somebody else's (CVE-2021-23214).
                        break Step::Refuse(violation("bytes in clear followed SSLRequest"));
                    }
                    if service.client_tls.is_some() {
                        break Step::Encrypt;
                    }
                    if socket.send(b"N").await.is_err() {
                        return Outcome::Refused("closed");
                    }
                }
                Ok(Packet::Gss) if !gss => {
                    gss = true;
                    if !inbox.is_empty() {
                        break Step::Refuse(violation("bytes followed GSSENCRequest"));
                    }
                    if socket.send(b"N").await.is_err() {
                        return Outcome::Refused("closed");
                    }
                }
                Ok(Packet::Tls | Packet::Gss) => {
                    break Step::Refuse(violation("encryption was asked for twice"));
                }
                Ok(Packet::Cancel { process, key }) => return Outcome::Cancel { socket, process, key },
                Ok(Packet::Startup(startup)) => break Step::Start(startup),
                Ok(Packet::Unsupported(version)) => {
                    break Step::Refuse(Refusal {
                        why: "protocol-version",
                        sqlstate: "0A000",
                        message: format!("bodycam: protocol {version} is not supported; 3.0 and 3.2 are"),
                    });
                }
                Err(ReadError::Frame(error)) => break Step::Refuse(violation(&error.to_string())),
                Err(_) => return Outcome::Refused("closed"),
            }
        };
        match step {
            Step::Start(startup) => break startup,
            Step::Refuse(refusal) => return refuse(socket, refusal).await,
            Step::Encrypt => {
                let (Some(tls), Socket::Plain(tcp)) = (&service.client_tls, socket) else {
                    return Outcome::Refused("tls");
                };
                let mut plain = Socket::Plain(tcp);
                if plain.send(b"S").await.is_err() {
                    return Outcome::Refused("closed");
                }
                let Socket::Plain(tcp) = plain else { return Outcome::Refused("tls") };
                match tls.acceptor.accept(tcp).await {
                    Ok(stream) => socket = Socket::TlsServer(Box::new(stream)),
                    Err(_) => return Outcome::Refused("tls"),
                }
                inbox = Inbox::default();
            }
        }
    };
    let required = service.config.tls.as_ref().is_some_and(|t| t.required);
    if required && !socket.is_tls() {
        let message = "bodycam: connections must be encrypted; use sslmode=require".to_owned();
        return turn_away(
            service,
            socket,
            &startup,
            Refusal { why: "tls-required", sqlstate: "28000", message },
        )
        .await;
    }
    let (version, hello) = negotiate(&startup);
    match authenticate(service, &mut socket, &mut inbox, &startup, hello, peer, &now_ns).await {
        Ok((principal, greeting)) => {
            let tls_facts = tls_facts(&socket);
            Outcome::Client(Box::new(Client {
                socket,
                inbox,
                startup,
                version,
                principal,
                greeting,
                tls_facts,
            }))
        }
        Err(Some(refusal)) => turn_away(service, socket, &startup, refusal).await,
        Err(None) => Outcome::Refused("closed"),
    }
}

enum Step {
    Start(Startup),
    Encrypt,
    Refuse(Refusal),
}

/// A connection that begins with a TLS record (`sslnegotiation=direct`) is encrypted from its first byte; it
/// must say by ALPN that it means PostgreSQL.
async fn encrypt_at_once(service: &Service, stream: TcpStream) -> Result<Socket, &'static str> {
    const HANDSHAKE_RECORD: u8 = 0x16;
    let mut first = [0];
    match stream.peek(&mut first).await {
        Ok(1..) if first == [HANDSHAKE_RECORD] => {}
        Ok(1..) => return Ok(Socket::Plain(stream)),
        _ => return Err("closed"),
    }
    let tls = service.client_tls.as_ref().ok_or("tls")?;
    let stream = tls.acceptor.accept(stream).await.map_err(|_| "tls")?;
    if stream.get_ref().1.alpn_protocol() != Some(b"postgresql") {
        return Err("alpn");
    }
    Ok(Socket::TlsServer(Box::new(stream)))
}

/// The version to speak, and NegotiateProtocolVersion when that, or an option, is not what was asked for.
fn negotiate(startup: &Startup) -> (Version, Vec<u8>) {
    let version = startup.version.spoken();
    let unknown: Vec<Vec<u8>> =
        startup.parameters.iter().filter(|(n, _)| n.starts_with(b"_pq_.")).map(|(n, _)| n.clone()).collect();
    let mut hello = Vec::new();
    if version != startup.version || !unknown.is_empty() {
        backend::put_negotiate(&mut hello, version.code(), &unknown);
    }
    (version, hello)
}

async fn authenticate(
    service: &Service,
    socket: &mut Socket,
    inbox: &mut Inbox,
    startup: &Startup,
    mut hello: Vec<u8>,
    peer: SocketAddr,
    now_ns: &impl Fn() -> i64,
) -> Result<(Principal, Vec<u8>), Option<Refusal>> {
    let user = match startup.get("user").map(std::str::from_utf8) {
        Some(Ok(user)) if !user.is_empty() => user,
        _ => {
            let message = "bodycam: no user name in the startup message".to_owned();
            return Err(Some(Refusal { why: "no-user", sqlstate: "28000", message }));
        }
    };
    match service.config.auth {
        ClientAuth::Token => {
            if !socket.is_tls() && !peer.ip().to_canonical().is_loopback() {
                let message = "bodycam: tokens in clear need an encrypted connection; use sslmode=require";
                return Err(Some(Refusal {
                    why: "token-in-clear",
                    sqlstate: "28000",
                    message: message.to_owned(),
                }));
            }
            backend::put_authentication(&mut hello, CLEARTEXT, &[]);
            let body = ask(socket, inbox, &hello).await?;
            let secret = frontend::password(&body).map_err(|e| Some(violation(&e.to_string())))?;
            let secret = std::str::from_utf8(secret).unwrap_or_default();
            let principal = service
                .directory
                .by_token(Some(user), secret, "token", now_ns())
                .map_err(|why| Some(unproven(user, why)))?;
            let mut greeting = Vec::new();
            backend::put_authentication(&mut greeting, 0, &[]);
            Ok((principal, greeting))
        }
        ClientAuth::Scram => {
            let refused = |why| Some(unproven(user, why));
            let mut login =
                service.directory.scram(user, binding(service, socket), now_ns()).map_err(refused)?;
            let mut offered: Vec<u8> = login.mechanisms().iter().flat_map(|m| m.bytes().chain([0])).collect();
            offered.push(0);
            backend::put_authentication(&mut hello, SASL, &offered);
            let first = ask(socket, inbox, &hello).await?;
            let (mechanism, data) =
                frontend::sasl_initial(&first).map_err(|e| Some(violation(&e.to_string())))?;
            let mechanism = std::str::from_utf8(mechanism).unwrap_or_default();
            let server_first = login.start(mechanism, data).map_err(refused)?;
            let mut message = Vec::new();
            backend::put_authentication(&mut message, SASL_CONTINUE, &server_first);
            let last = ask(socket, inbox, &message).await?;
            let (server_final, principal) = login.finish(&last, now_ns()).map_err(refused)?;
            let mut greeting = Vec::new();
            backend::put_authentication(&mut greeting, SASL_FINAL, &server_final);
            backend::put_authentication(&mut greeting, 0, &[]);
            Ok((principal, greeting))
        }
    }
}

/// Sends `message` and reads the answer.
async fn ask(socket: &mut Socket, inbox: &mut Inbox, message: &[u8]) -> Result<Vec<u8>, Option<Refusal>> {
    socket.send(message).await.map_err(|_| None)?;
    match inbox.frame::<Frontend>(socket, SMALL).await {
        Ok((Kind::Password, body)) => Ok(body),
        Ok((Kind::Terminate, _)) | Err(ReadError::Closed | ReadError::Io(_)) => Err(None),
        Ok((kind, _)) => Err(Some(violation(&format!("expected a password, got {kind:?}")))),
        Err(ReadError::Frame(error)) => Err(Some(violation(&error.to_string()))),
    }
}

fn binding(service: &Service, socket: &Socket) -> ChannelBinding {
    match (&service.client_tls, socket) {
        (Some(tls), Socket::TlsServer(_)) => match &tls.end_point {
            Some(hash) => ChannelBinding::TlsServerEndPoint(hash.clone()),
            None => ChannelBinding::None,
        },
        _ => ChannelBinding::None,
    }
}

fn tls_facts(socket: &Socket) -> Option<String> {
    let Socket::TlsServer(tls) = socket else { return None };
    let connection = tls.get_ref().1;
    let version = connection.protocol_version()?;
    let suite = connection.negotiated_cipher_suite()?.suite();
    Some(format!("{version:?} {suite:?}"))
}

fn violation(what: &str) -> Refusal {
    Refusal { why: "protocol-violation", sqlstate: "08P01", message: format!("bodycam: {what}") }
}

fn unproven(user: &str, why: LoginRefused) -> Refusal {
    tracing::warn!(event = "login_refused", principal = %shown_bytes(&token::redact(user.as_bytes())), why = %why, "a client could not prove who it is");
    Refusal { why: why.code(), sqlstate: "28P01", message: format!("bodycam: {REFUSED}") }
}

/// Refuses a client that has said who it is.
async fn turn_away(service: &Service, socket: Socket, startup: &Startup, refusal: Refusal) -> Outcome {
    let claimed = startup.get("user").unwrap_or_default();
    if claimed.is_empty() {
        return refuse(socket, refusal).await;
    }
    let database = startup.get("database").filter(|d| !d.is_empty()).or(Some(claimed));
    let database = database.and_then(|d| std::str::from_utf8(d).ok()).unwrap_or_default();
    let target = service.targets.iter().find(|t| t.config.serves(database));
    Outcome::TurnedAway(Box::new(TurnedAway {
        target: target.map(|t| t.config.name.clone()).unwrap_or_default(),
        why: refusal.why,
        sqlstate: refusal.sqlstate,
        message: refusal.message,
        claimed: shown_bytes(claimed),
        client_tls: socket.is_tls(),
        socket,
    }))
}

impl TurnedAway {
    /// Tells the client.
    pub async fn tell(self) {
        let mut out = Vec::new();
        backend::put_error(&mut out, "FATAL", self.sqlstate, &self.message, None);
        self.socket.farewell(&out).await;
    }
}

async fn refuse(socket: Socket, refusal: Refusal) -> Outcome {
    let mut out = Vec::new();
    backend::put_error(&mut out, "FATAL", refusal.sqlstate, &refusal.message, None);
    socket.farewell(&out).await;
    Outcome::Refused(refusal.why)
}
