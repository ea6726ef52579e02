//! Refused logins in the record: a session of three or four events for somebody who did not get in.
//!
//! A name or token that somebody only claims proves nothing, so that such a session belongs to nobody
//! ([`UNPROVEN`]) unless the credential was right; what was claimed is content, the credential and the address
//! are pseudonyms as everywhere. Invariant: anybody may ask as often as they like, so that no more than
//! [`PER_MINUTE`] refusals a minute cost room in the spool; the others are counted, and the next one that is
//! recorded says how many there were.

use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bodycam_record::content::structured;
use bodycam_record::kinds::control::{ControlDecision, ControlLimit};
use bodycam_record::{ContentKind, Id16};

use super::{Principal, token};
use crate::recording::{Lane, Opening, RecordingError};

/// Refused logins that one listener records in a minute.
pub const PER_MINUTE: i64 = 60;
/// Stands where a session has its principal. No roster can hold it.
pub const UNPROVEN: &str = "(unproven)";
const WINDOW: Duration = Duration::from_secs(60);
/// Longest claimed name that is kept.
const MAX_CLAIM: usize = 256;

/// The refused logins of one listener.
#[derive(Debug, Default)]
pub struct Refusals(Mutex<Window>);

#[derive(Debug, Default)]
struct Window {
    began: Option<Instant>,
    /// Refusals since then.
    seen: i64,
    /// Refusals of earlier windows that were not recorded, and how many there were in all.
    missed: Option<i64>,
}

/// A login that was refused.
#[derive(Debug)]
pub struct RefusedLogin<'a> {
    /// `http` or `postgres`.
    pub protocol: &'static str,
    /// Name of the listener, or of the target asked for.
    pub target: &'a str,
    /// Where the client is.
    pub peer: IpAddr,
    /// Whether its side is encrypted.
    pub client_tls: bool,
    /// Who it is, when the credential was right and something else was not.
    pub principal: Option<&'a Principal>,
    /// Who it says it is.
    pub claimed: Option<&'a str>,
    /// The id of the token presented, and how it was.
    pub credential: Option<(&'a str, &'static str)>,
    /// Reason code.
    pub reason: &'static str,
    /// What the client is sent: HTTP status or SQLSTATE.
    pub code: String,
    /// The reason in words, safe to show.
    pub detail: &'a str,
    /// The limit that was reached, when the reason is one.
    pub limit: Option<i64>,
}

impl Refusals {
    /// Records a refused login, if there is room for it. What cannot be recorded is logged: the client is
    /// refused all the same.
    pub async fn record(&self, lane: &Lane, refused: RefusedLogin<'_>) {
        let Some(missed) = self.admit(Instant::now()) else { return };
        if let Err(error) = write(lane, refused, missed).await {
            tracing::error!(event = "refusal_not_recorded", error = %error, "a login was refused");
        }
    }

    /// Whether this one is recorded, and how many there were in a time that ended with unrecorded ones.
    fn admit(&self, now: Instant) -> Option<Option<i64>> {
        let mut window = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if window.began.is_none_or(|began| now.saturating_duration_since(began) >= WINDOW) {
            let missed = (window.seen > PER_MINUTE).then_some(window.seen);
            let missed = missed.or(window.missed);
            *window = Window { began: Some(now), seen: 0, missed };
        }
        window.seen = window.seen.saturating_add(1);
        (window.seen <= PER_MINUTE).then(|| window.missed.take())
    }
}

async fn write(lane: &Lane, refused: RefusedLogin<'_>, missed: Option<i64>) -> Result<(), RecordingError> {
    let tenant = lane.producer().tenant_key();
    let mut facts = Vec::new();
    if let Some(claimed) = refused.claimed {
        // A token in the place of the name is as good as anywhere else to whoever reads it here.
        let safe = token::redact(claimed.as_bytes());
        let cut = safe.get(..MAX_CLAIM).unwrap_or(&safe);
        facts.push(("claimed_principal".to_owned(), cut.to_vec()));
    }
    if let Some((id, _)) = refused.credential {
        facts.push(("token".to_owned(), id.as_bytes().to_vec()));
    }
    let (principal, kind) = match refused.principal {
        Some(principal) => (principal.name.to_string(), principal.kind.name()),
        None => (UNPROVEN.to_owned(), "unknown"),
    };
    let opening = Opening {
        protocol: refused.protocol,
        principal,
        principal_kind: kind.to_owned(),
        credential: refused.credential.map_or(Id16::ZERO, |(id, _)| tenant.credential(id)),
        auth_method: refused.credential.map_or("none", |(_, method)| method).to_owned(),
        target: refused.target.to_owned(),
        client_address: refused.peer.to_string(),
        client_tls: refused.client_tls,
        facts,
        ..Opening::default()
    };
    let mut pen = lane.open_session(opening)?;
    let mut content = pen.content();
    let pairs = structured::encode_pairs([(refused.reason, refused.detail.as_bytes())]);
    pen.put(&mut content, ContentKind::Detail, &pairs)?;
    let decision = ControlDecision {
        subject: "login".to_owned(),
        verdict: "deny".to_owned(),
        reason: refused.reason.to_owned(),
        code: refused.code,
        message_type: None,
    };
    let parent = pen.event(decision.into(), None, Some(content))?;
    for (name, value, observed, action) in [
        refused.limit.map(|limit| (refused.reason, limit, limit.saturating_add(1), "refused")),
        missed.map(|seen| ("refused-logins", PER_MINUTE, seen, "counted")),
    ]
    .into_iter()
    .flatten()
    {
        let (limit_name, action) = (name.to_owned(), action.to_owned());
        let limit = ControlLimit { limit_name, limit_value: value, observed, action };
        pen.event(limit.into(), Some(parent), None)?;
    }
    pen.persist().await?;
    pen.close(if refused.limit.is_some() { "limit" } else { "refused" }).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_counted_and_the_next_recorded_refusal_says_how_large_it_was() {
        let refusals = Refusals::default();
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let flood: Vec<_> = (0..1000).map(|_| refusals.admit(at(1))).collect();
        assert_eq!(flood.iter().filter(|a| a.is_some()).count(), 60);
        assert_eq!(refusals.admit(at(60)), None, "the minute is not over");
        assert_eq!(refusals.admit(at(61)), Some(Some(1001)));
        assert_eq!(refusals.admit(at(62)), Some(None), "it is said once");
        assert_eq!(refusals.admit(at(200)), Some(None), "a quiet minute leaves nothing to say");
    }
}
