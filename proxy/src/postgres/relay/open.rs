//! From a known client to an open session: what it asks for is judged, the target connected, the session's
//! first event spooled; only then does the client see the greeting.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bodycam_record::content::structured;
use bodycam_record::kinds::Body;
use bodycam_record::kinds::control::{ControlDecision, ControlLimit};
use bodycam_record::{ContentKind, Id16, shown::shown_bytes};

use super::cancel::{self, CancelKey};
use super::pipe::Pipe;
use super::session::{Parts, Session};
use super::startup::Client;
use crate::correlation;
use crate::identity::token;
use crate::postgres::Service;
use crate::postgres::codec::backend;
use crate::postgres::codec::startup::{OptionSetting, Parameters, Startup, options};
use crate::postgres::inspect::redact::{is_secret_name, is_secret_value};
use crate::postgres::live::Listed;
use crate::postgres::socket::Socket;
use crate::postgres::upstream::{Target, Upstream, UpstreamError};
use crate::recording::{Lane, Opening, RecordingError, SessionPen};
use crate::slots::{Limit, Slot};

/// How long a session's start waits for the first reading of a database's catalog.
const FIRST_CATALOG: Duration = Duration::from_secs(2);

/// A session that is ready to relay.
pub(super) struct Opened {
    pub client: Socket,
    pub server: Socket,
    pub up: Pipe,
    pub down: Pipe,
    pub session: Session,
    pub cancel_key: Option<CancelKey>,
    pub cancel: cancel::Session,
    pub slot: Slot,
    pub listed: Listed,
}

/// A client that is refused although it is known who it is: it is told, and the record says why.
struct Refused {
    reason: &'static str,
    closed: &'static str,
    sqlstate: String,
    message: String,
    /// The target's own words, passed on as they are.
    verbatim: Option<Vec<u8>>,
    limit: Option<(i64, i64)>,
}

impl Refused {
    fn new(reason: &'static str, sqlstate: &str, message: String) -> Self {
        let sqlstate = sqlstate.to_owned();
        Self { reason, closed: "error", sqlstate, message, verbatim: None, limit: None }
    }
}

/// Opens the session of `client`; none when it was refused.
pub(super) async fn open(
    service: &Service,
    client: Box<Client>,
    peer: SocketAddr,
    lane: &Lane,
) -> Result<Option<Opened>, RecordingError> {
    let startup = &client.startup;
    let user = startup.get("user").unwrap_or_default();
    let database = match startup.get("database") {
        Some(name) if !name.is_empty() => name,
        _ => user,
    };
    let found = std::str::from_utf8(database).ok().and_then(|name| {
        service.targets.iter().find(|t| t.config.serves(name)).map(|t| (t, name.to_owned()))
    });
    let Some((target, database)) = found else {
        let message = format!(
            "bodycam: database \"{}\" leads to no target; ask for one under [[targets]]",
            shown_bytes(&token::redact(database))
        );
        tracing::warn!(event = "no_target", principal = %client.principal.name, "{message}");
        // The name is the client's own word: it is among the startup parameters, which are content.
        let opening = opening(service, &client, None, "", peer, lane).await;
        return refuse(client, opening, Refused::new("no-target", "3D000", message), lane).await;
    };
    let target = Arc::clone(target);
    let named = if token::is_in(database.as_bytes()) { "" } else { database.as_str() };
    let opening = opening(service, &client, Some(&target), named, peer, lane).await;
    let parameters = match judge(&client, &target) {
        Ok(parameters) => parameters,
        Err(refused) => return refuse(client, opening, *refused, lane).await,
    };
    let limit = Limit::of(client.principal.max_sessions(), service.config.max_sessions_per_principal);
    let Some(slot) = service.slots.enter(client.principal.principal_ref, "postgres", limit) else {
        let limit = limit.value();
        let message = format!("bodycam: too many sessions for this principal (limit {limit})");
        let refused = Refused {
            closed: "limit",
            limit: Some((i64::from(limit), i64::from(limit) + 1)),
            ..Refused::new("sessions", "53300", message)
        };
        return refuse(client, opening, refused, lane).await;
    };
    let upstream = match target.connect(&database, &parameters).await {
        Ok(upstream) => upstream,
        Err(error) => {
            // A pattern lets any name through, and nobody has said that there is such a database.
            let listed = target.config.databases.contains(&database);
            let opening = Opening { database: if listed { database } else { String::new() }, ..opening };
            return refuse(client, opening, refused_upstream(error), lane).await;
        }
    };
    // Only now is it known that there is such a database.
    let catalog = service.catalogs.of(&target.config.name, &database, || target.side_connector(&database));
    catalog.first_reading(FIRST_CATALOG).await;
    let opening = Opening { database, upstream_tls: upstream.socket.is_tls(), ..opening };
    let correlation = opening.correlation.as_deref().map(|id| lane.producer().tenant_key().correlation(id));
    let pen = match lane.open_session(opening) {
        Ok(pen) => pen,
        Err(error) => return Err(unrecorded(client.socket, client.greeting, error).await),
    };
    let Client { socket, inbox, startup, version, principal, mut greeting, .. } = *client;
    let Upstream {
        socket: server,
        rest,
        greeting: told,
        parameters: reported,
        notices,
        process,
        key,
        address,
        user,
        search_path,
    } = upstream;
    let listed = service.live.list(&target.config.name, process, Some(pen.session()));
    let cancel = cancel::Session { target: Arc::clone(&target), address, process, key };
    let cancel_key = if cancel.key.is_empty() {
        None
    } else {
        Some(service.cancel_keys.register(version, cancel.clone()).map_err(RecordingError::Random)?)
    };
    let mut session = Session::new(Parts {
        pen,
        recording: service.recording.clone(),
        max_statement_bytes: service.config.max_statement_bytes,
        quota: service.quota.clone(),
        inspector: service.inspector.clone(),
        catalog,
        principal,
        target: target.config.name.as_str().into(),
        user,
        search_path,
        parameters: reported,
        correlation_fixed: startup_correlation(&startup).is_some_and(|(_, fixed)| fixed),
        correlation,
    });
    if let Err(error) = record_opening(&mut session, &notices).await {
        return Err(unrecorded(socket, greeting, error).await);
    }
    greeting.extend_from_slice(&told);
    if let Some(key) = &cancel_key {
        backend::put_key_data(&mut greeting, process, &key.key);
    }
    greeting.extend_from_slice(&[b'Z', 0, 0, 0, 5, b'I']);
    let mut down = Pipe::with(greeting);
    down.pass(usize::MAX);
    down.append(&rest);
    let up = Pipe::with(inbox.into_bytes());
    Ok(Some(Opened { client: socket, server, up, down, session, cancel_key, cancel, slot, listed }))
}

async fn record_opening(session: &mut Session, notices: &[Vec<u8>]) -> Result<(), RecordingError> {
    for notice in notices {
        let digest = session.digest(notice);
        session.side_message("notice", notice, notice.len(), digest)?;
    }
    session.pen.persist().await?;
    session.dirty = false;
    Ok(())
}

/// Tells a client that its session cannot be recorded and so is not opened.
async fn unrecorded(socket: Socket, greeting: Vec<u8>, error: RecordingError) -> RecordingError {
    let (sqlstate, message, hint) = match error {
        RecordingError::Stopping => ("57P01", "bodycam: the gateway is stopping", "connect again"),
        _ => (
            "58030",
            "bodycam: no session can be recorded now, so none is opened",
            "try again later; the gateway's log says why",
        ),
    };
    let mut out = greeting;
    backend::put_error(&mut out, "FATAL", sqlstate, message, Some(hint));
    socket.farewell(&out).await;
    error
}

async fn opening(
    service: &Service,
    client: &Client,
    target: Option<&Target>,
    database: &str,
    peer: SocketAddr,
    lane: &Lane,
) -> Opening {
    let address = peer.ip().to_canonical().to_string();
    let (principal, clock) = (&client.principal, lane.producer().clock());
    let keyed = lane.producer().tenant_key().address(&address);
    let addresses = service.sighting(principal.credential, keyed, clock.wall_ns()).await;
    let mut facts: Vec<(String, Vec<u8>)> =
        vec![("credential".to_owned(), principal.credential_name.as_bytes().to_vec())];
    for (name, value) in &client.startup.parameters {
        facts.push((format!("startup.{}", String::from_utf8_lossy(name)), without_secrets(name, value)));
    }
    if let Some(tls) = &client.tls_facts {
        facts.push(("client_tls".to_owned(), tls.clone().into_bytes()));
    }
    Opening {
        protocol: "postgres",
        principal: principal.name.to_string(),
        principal_kind: principal.kind.name().to_owned(),
        credential: principal.credential,
        auth_method: principal.auth_method.to_owned(),
        target: target.map(|t| t.config.name.clone()).unwrap_or_default(),
        database: database.to_owned(),
        upstream_role: target.map(|t| t.config.role.clone()).unwrap_or_default(),
        client_address: address,
        credential_addresses: addresses,
        client_tls: client.socket.is_tls(),
        upstream_tls: false,
        protocol_version: client.version.to_string(),
        correlation: startup_correlation(&client.startup).map(|(id, _)| id),
        facts,
    }
}

/// What the record holds of a startup parameter: settings with a secret's name keep theirs to themselves.
fn without_secrets(name: &[u8], value: &[u8]) -> Vec<u8> {
    const HIDDEN: &[u8] = b"***";
    if name != b"options" {
        let secret = is_secret_name(name) || is_secret_value(value);
        return if secret { HIDDEN.to_vec() } else { value.to_vec() };
    }
    let settings = options(value).unwrap_or_default();
    let secret = |s: &OptionSetting| is_secret_name(s.name.as_bytes()) || is_secret_value(&s.value);
    if !settings.iter().any(secret) {
        let unread = settings.is_empty() && is_secret_value(value);
        return if unread { HIDDEN.to_vec() } else { value.to_vec() };
    }
    let told = settings.iter().map(|s| {
        let shown = if secret(s) { HIDDEN } else { &s.value };
        [b"-c ", s.name.as_bytes(), b"=", shown].concat()
    });
    told.collect::<Vec<_>>().join(&b' ')
}

/// The correlation id in the startup message, and whether a later `application_name` may not replace it.
fn startup_correlation(startup: &Startup) -> Option<(String, bool)> {
    let text = |name: &str| startup.get(name).and_then(|v| std::str::from_utf8(v).ok());
    let id = text("application_name").and_then(correlation::of_application_name);
    id.filter(|id| !token::is_in(id.as_bytes())).map(|id| (id, false))
}

/// What of the startup parameters goes on to the target, or why the client is refused.
fn judge(client: &Client, target: &Target) -> Result<Parameters, Box<Refused>> {
    if !client.principal.may_reach(&target.config.name) {
        let message = format!("bodycam: {} may not reach this target", client.principal.name);
        return Err(Box::new(Refused::new("target", "42501", message)));
    }
    let mut parameters = Vec::new();
    for (name, value) in &client.startup.parameters {
        match name.as_slice() {
            b"user" | b"database" => continue,
            name if name.starts_with(b"_pq_.") => continue,
            b"replication" => {
                if matches!(value.to_ascii_lowercase().as_slice(), b"false" | b"off" | b"no" | b"0") {
                    continue;
                }
                let message = "bodycam: replication is not supported, for it cannot be recorded".to_owned();
                return Err(Box::new(Refused::new("replication", "0A000", message)));
            }
            b"options" if options(value).is_none() => {
                let message = "bodycam: options may hold only -c name=value and --name=value".to_owned();
                return Err(Box::new(Refused::new("options", "0A000", message)));
            }
            _ => parameters.push((name.clone(), value.clone())),
        }
    }
    Ok(parameters)
}

fn refused_upstream(error: UpstreamError) -> Refused {
    tracing::warn!(event = "target_unusable", error = %error, "a client cannot be connected");
    let (reason, sqlstate, message) =
        (error.reason(), error.sqlstate().to_owned(), format!("bodycam: {error}"));
    let verbatim = match error {
        UpstreamError::Refused { error, .. } => Some(error),
        _ => None,
    };
    Refused { verbatim, ..Refused::new(reason, &sqlstate, message) }
}

/// A session of three events: opened, why it was refused, closed.
async fn refuse(
    client: Box<Client>,
    opening: Opening,
    refused: Refused,
    lane: &Lane,
) -> Result<Option<Opened>, RecordingError> {
    lane.producer().counters().refused.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let mut pen = match lane.open_session(opening) {
        Ok(pen) => pen,
        Err(error) => return Err(unrecorded(client.socket, client.greeting, error).await),
    };
    let event: Body = match refused.limit {
        Some((limit_value, observed)) => ControlLimit {
            limit_name: refused.reason.to_owned(),
            limit_value,
            observed,
            action: "refused".to_owned(),
        }
        .into(),
        None => ControlDecision {
            subject: "startup".to_owned(),
            verdict: "deny".to_owned(),
            reason: refused.reason.to_owned(),
            code: refused.sqlstate.clone(),
            message_type: None,
        }
        .into(),
    };
    record_refusal(&mut pen, event, &refused)?;
    if let Err(error) = pen.persist().await {
        return Err(unrecorded(client.socket, client.greeting, error).await);
    }
    let mut out = client.greeting;
    match &refused.verbatim {
        Some(error) => crate::postgres::codec::frame(&mut out, b'E', |out| out.extend_from_slice(error)),
        None => backend::put_error(&mut out, "FATAL", &refused.sqlstate, &refused.message, None),
    }
    client.socket.farewell(&out).await;
    pen.close(refused.closed).await?;
    Ok(None)
}

fn record_refusal(pen: &mut SessionPen, event: Body, refused: &Refused) -> Result<(), RecordingError> {
    let mut content = pen.content();
    let detail = structured::encode_pairs([("explanation", refused.message.as_bytes())]);
    pen.put(&mut content, ContentKind::Detail, &detail)?;
    if let Some(error) = &refused.verbatim {
        pen.put(&mut content, ContentKind::Error, &token::redact(error))?;
    }
    pen.event(event, None, Some(content))?;
    Ok(())
}

impl Service {
    /// How many addresses used a credential lately. The store is asked off the core: it may wait for a disk.
    async fn sighting(&self, credential: Id16, address: Id16, now_ns: i64) -> i64 {
        let directory = self.directory.clone();
        let asked =
            tokio::task::spawn_blocking(move || directory.sighting(credential, address, now_ns)).await;
        match asked {
            Ok(Ok(addresses)) => addresses,
            _ => {
                tracing::warn!(
                    event = "sighting_failed",
                    "the state store did not count the addresses of a credential"
                );
                1
            }
        }
    }
}
