//! From a connection to a session: the credential, the limits, the opening event.
//!
//! Invariant: nobody learns from an answer whether a principal exists or what is wrong with a credential.

use std::net::IpAddr;
use std::sync::atomic::Ordering::Relaxed;

use bodycam_record::Digest;
use tokio::time::Duration;

use super::answer::{Answer, Refused};
use super::client::Client;
use crate::http::Service;
use crate::http::codec::credential::Credential;
use crate::http::codec::head::{Framing, RequestHead, Version};
use crate::http::inspect;
use crate::identity::Principal;
use crate::recording::{Lane, Opening, RecordingError, SessionPen};
use crate::slots::Slot;

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
    Refused(&'static str),
    /// Something else, which the client is told.
    Answer(Refused),
}

fn refuse(service: &Service, lane: &Lane) {
    service.counters.refused.fetch_add(1, Relaxed);
    lane.producer().counters().refused.fetch_add(1, Relaxed);
}

/// Reads heads until one has a valid credential. The session is open and recorded when it comes back.
pub(super) async fn log_in(
    service: &Service,
    client: &mut Client,
    peer: IpAddr,
    lane: &Lane,
) -> Option<(Login, RequestHead)> {
    let whole = Duration::from_secs(service.config.head_seconds);
    for _ in 0..LOGIN_HEADS {
        let head = match client.read_head(service.config.head_limits(), whole, whole).await {
            Ok(head) => head?,
            Err(failure) => {
                refuse(service, lane);
                tracing::info!(event = "http_head_refused", peer = %peer, reason = failure.code(), "before login");
                if let Some(refused) = failure.refused() {
                    client.answer_and_close(&Answer::refusal(&refused), "GET").await;
                }
                return None;
            }
        };
        let presented = head.fields.all("proxy-authorization").next();
        let reason = match presented.map(Credential::parse) {
            None => "missing",
            Some(None) => "malformed-credential",
            Some(Some(_)) if !(client.encrypted || peer.is_loopback() || service.config.allow_cleartext) => {
                refuse(service, lane);
                tracing::warn!(event = "http_login_refused", peer = %peer, reason = "cleartext", "403");
                let detail = "the token came in clear over the network, and is not used: name the proxy with https://, and revoke this token";
                let refused = Refused::new(403, "cleartext-credential", detail);
                client.answer_and_close(&Answer::refusal(&refused), &head.method).await;
                return None;
            }
            Some(Some(credential)) => {
                match open(service, credential, &head, client.encrypted, peer, lane).await {
                    Ok(login) => return Some((login, head)),
                    Err(LoginFailure::Refused(reason)) => reason,
                    Err(LoginFailure::Answer(refused)) => {
                        refuse(service, lane);
                        tracing::warn!(event = "http_login_failed", peer = %peer, reason = refused.code, "no session");
                        client.answer_and_close(&Answer::refusal(&refused), &head.method).await;
                        return None;
                    }
                }
            }
        };
        if reason != "missing" {
            refuse(service, lane);
            tracing::info!(event = "http_login_refused", peer = %peer, reason, "407");
        }
        let keep = head.body == Framing::None && !head.closes();
        let answer = Answer::ask_for_credentials();
        if !keep {
            client.answer_and_close(&answer, &head.method).await;
            return None;
        }
        client.answer(&answer, &head.method, true).await.ok()?;
    }
    None
}

/// Checks a credential and opens the session of its principal.
async fn open(
    service: &Service,
    credential: Credential,
    head: &RequestHead,
    client_tls: bool,
    peer: IpAddr,
    lane: &Lane,
) -> Result<Login, LoginFailure> {
    let producer = lane.producer();
    let now = producer.clock().wall_ns();
    let user = credential.user.as_deref();
    let principal = service
        .directory
        .by_token(user, &credential.secret, credential.method, now)
        .map_err(|refused| LoginFailure::Refused(refused.code()))?;
    let limit = principal.max_sessions().unwrap_or(service.config.max_sessions_per_principal);
    let slot = service.slots.enter(principal.principal_ref, limit).ok_or_else(|| {
        let detail = format!("principal '{}' has {limit} sessions open, which is its limit", principal.name);
        LoginFailure::Answer(Refused::new(429, "sessions", detail))
    })?;
    let address = producer.tenant_key().address(&peer.to_string());
    let addresses = service.directory.sighting(principal.credential, address, now).map_err(|error| {
        tracing::error!(event = "http_state_unreadable", error = %error, "refusing a login");
        LoginFailure::Answer(Refused::new(
            503,
            "state-unavailable",
            "the gateway cannot read its state; try again later",
        ))
    })?;
    let correlation = inspect::trace_id(&head.fields).or(credential.correlation);
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
        facts.push(("user_agent".to_owned(), agent.to_vec()));
    }
    facts
}
