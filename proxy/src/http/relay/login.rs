//! From a connection to a session: the credential, the limits, the opening event.
//!
//! Invariant: nobody learns from an answer whether a principal exists or what is wrong with a credential.

use std::net::IpAddr;
use std::sync::atomic::Ordering::Relaxed;

use bodycam_record::Digest;
use tokio::time::{Instant, timeout_at};

use super::answer::{Answer, Refused};
use super::client::{Client, Patience};
use crate::http::Service;
use crate::http::codec::credential::Credential;
use crate::http::codec::head::{Framing, RequestHead, Version};
use crate::http::inspect;
use crate::identity::{LoginRefused, Principal, RefusedLogin, token};
use crate::recording::{Lane, Opening, RecordingError, SessionPen};
use crate::slots::{Limit, Slot};

/// Heads that a connection may send before one logs it in: a client asks without credentials, then with them.
const LOGIN_HEADS: usize = 8;

/// A principal that has logged in, with its session open.
pub(super) struct Login {
    pub pen: SessionPen,
    pub principal: Principal,
    pub secret: Digest,
    pub slot: Slot,
}

/// No session.
enum LoginFailure {
    /// The credential; the client is asked again.
    Refused(LoginRefused),
    /// Something else, which the client is told.
    Answer(Refused),
    /// The principal has as many sessions as it may.
    Limit(Box<Principal>, u32),
}

/// A client that nobody knows yet.
struct Stranger<'a> {
    service: &'a Service,
    lane: &'a Lane,
    peer: IpAddr,
    encrypted: bool,
}

impl Stranger<'_> {
    /// Counts, logs and records that it is not let in.
    async fn refuse(
        &self,
        refused: &Refused,
        credential: Option<&Credential>,
        limit: Option<(&Principal, u32)>,
    ) {
        self.service.counters.refused.fetch_add(1, Relaxed);
        self.lane.producer().counters().refused.fetch_add(1, Relaxed);
        tracing::info!(event = "http_login_refused", peer = %self.peer, reason = refused.code, status = refused.status, "not logged in");
        let login = RefusedLogin {
            protocol: "http",
            target: &self.service.config.name,
            peer: self.peer,
            client_tls: self.encrypted,
            principal: limit.map(|(principal, _)| principal),
            claimed: credential.and_then(|c| c.user.as_deref()),
            credential: credential.and_then(|c| Some((token::id_of(&c.secret)?, c.method))),
            reason: refused.code,
            code: refused.status.to_string(),
            detail: &refused.detail,
            limit: limit.map(|(_, limit)| i64::from(limit)),
        };
        self.service.refusals.record(self.lane, login).await;
    }

    /// Whether what it sends in clear may be read on the way: then it is not even asked for a token.
    fn is_overheard(&self) -> bool {
        !(self.encrypted || self.peer.is_loopback() || self.service.config.allow_cleartext)
    }
}

/// Reads heads until one has a valid credential. The session is open and recorded when it comes back. All of
/// it, answers included, is over by `deadline`.
pub(super) async fn log_in(
    service: &Service,
    client: &mut Client,
    peer: IpAddr,
    lane: &Lane,
    deadline: Instant,
) -> Option<(Login, RequestHead)> {
    let stranger = Stranger { service, lane, peer, encrypted: client.encrypted };
    for _ in 0..LOGIN_HEADS {
        let head = match client.read_head(service.config.head_limits(), Patience::Until(deadline)).await {
            Ok(head) => head?,
            Err(failure) => {
                // Nothing is said to, or recorded of, who only opened a connection.
                let refused = failure.refused()?;
                stranger.refuse(&refused, None, None).await;
                client.answer_and_close(&Answer::refusal(&refused), "GET").await;
                return None;
            }
        };
        let presented = head.fields.all("proxy-authorization").next();
        if stranger.is_overheard() {
            let refused = overheard(presented.is_some());
            let credential = presented.and_then(Credential::parse);
            stranger.refuse(&refused, credential.as_ref(), None).await;
            client.answer_and_close(&Answer::refusal(&refused), &head.method).await;
            return None;
        }
        match presented.map(Credential::parse) {
            // Clients ask without credentials first: that is no attempt.
            None => {}
            Some(None) => stranger.refuse(&wrong(LoginRefused::Malformed), None, None).await,
            Some(Some(credential)) => match open(&stranger, &credential, &head).await {
                Ok(login) => return Some((login, head)),
                Err(LoginFailure::Refused(why)) => {
                    stranger.refuse(&wrong(why), Some(&credential), None).await
                }
                Err(LoginFailure::Answer(refused)) => {
                    stranger.refuse(&refused, Some(&credential), None).await;
                    client.answer_and_close(&Answer::refusal(&refused), &head.method).await;
                    return None;
                }
                Err(LoginFailure::Limit(principal, limit)) => {
                    let refused = too_many(&principal, limit);
                    stranger.refuse(&refused, Some(&credential), Some((&principal, limit))).await;
                    client.answer_and_close(&Answer::refusal(&refused), &head.method).await;
                    return None;
                }
            },
        }
        let keep = head.body == Framing::None && !head.closes();
        let answer = Answer::ask_for_credentials();
        if !keep {
            client.answer_and_close(&answer, &head.method).await;
            return None;
        }
        timeout_at(deadline, client.answer(&answer, &head.method, true)).await.ok()?.ok()?;
    }
    None
}

/// A client far away that speaks in clear, with a token that is now known to others or still without.
fn overheard(with_token: bool) -> Refused {
    if with_token {
        let detail = "the token came in clear over the network, and is not used: name the proxy with https://, and revoke this token";
        return Refused::new(403, "cleartext-credential", detail);
    }
    let detail = "a token would travel in clear, so that none is asked for: name the proxy with https://";
    Refused::new(403, "encryption-required", detail)
}

/// What the record says of a credential that does not let in; the client is only asked again.
fn wrong(why: LoginRefused) -> Refused {
    Refused::new(407, why.code(), why.to_string())
}

fn too_many(principal: &Principal, limit: u32) -> Refused {
    let detail = format!("principal '{}' has {limit} sessions open, which is its limit", principal.name);
    Refused::new(429, "sessions", detail)
}

/// Checks a credential and opens the session of its principal.
async fn open(
    stranger: &Stranger<'_>,
    credential: &Credential,
    head: &RequestHead,
) -> Result<Login, LoginFailure> {
    let Stranger { service, lane, peer, encrypted: client_tls } = *stranger;
    let producer = lane.producer();
    let now = producer.clock().wall_ns();
    let user = credential.user.as_deref();
    let principal = service
        .directory
        .by_token(user, &credential.secret, credential.method, now)
        .map_err(LoginFailure::Refused)?;
    let limit = Limit::of(principal.max_sessions(), service.config.max_sessions_per_principal);
    let Some(slot) = service.slots.enter(principal.principal_ref, "http", limit) else {
        return Err(LoginFailure::Limit(Box::new(principal), limit.value()));
    };
    let address = producer.tenant_key().address(&peer.to_string());
    let addresses = service.directory.sighting(principal.credential, address, now).map_err(|error| {
        tracing::error!(event = "http_state_unreadable", error = %error, "refusing a login");
        LoginFailure::Answer(Refused::new(
            503,
            "state-unavailable",
            "the gateway cannot read its state; try again later",
        ))
    })?;
    let correlation = inspect::trace_id(&head.fields).or_else(|| credential.correlation.clone());
    let opening = Opening {
        protocol: "http",
        principal: principal.name.to_string(),
        principal_kind: principal.kind.name().to_owned(),
        credential: principal.credential,
        auth_method: principal.auth_method.to_owned(),
        target: service.config.name.clone(),
        client_address: peer.to_string(),
        credential_addresses: addresses,
        client_tls,
        protocol_version: if head.version == Version::Http11 { "1.1" } else { "1.0" }.to_owned(),
        correlation,
        facts: facts(&principal, head),
        ..Opening::default()
    };
    let opened = async {
        let mut pen = lane.open_session(opening)?;
        pen.persist().await?;
        Ok::<_, RecordingError>(pen)
    };
    let pen = opened.await.map_err(|error| {
        tracing::error!(event = "http_session_not_recorded", error = %error, "refusing a login");
        LoginFailure::Answer(Refused::new(
            503,
            "recording",
            "the gateway cannot record, and lets nothing through",
        ))
    })?;
    let secret = pen.key().keyed_digest(credential.secret.as_bytes());
    Ok(Login { pen, principal, secret, slot })
}

fn facts(principal: &Principal, head: &RequestHead) -> Vec<(String, Vec<u8>)> {
    let mut facts = vec![("token".to_owned(), principal.credential_name.as_bytes().to_vec())];
    if let Some(agent) = head.fields.all("user-agent").next() {
        facts.push(("user_agent".to_owned(), inspect::redact_text(agent)));
    }
    facts
}
