//! A session of a principal: the pen, the lists, and the watch over whether it may go on.
//!
//! Invariant: the pen is used between the steps of a relay, never inside one, so that every step can be cut
//! short by a revoked token or a stop of the gateway, and the cut is recorded.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use bodycam_record::content::structured;
use bodycam_record::kinds::Body;
use bodycam_record::kinds::control::{ControlDecision, ControlLimit};
use bodycam_record::{ContentKind, Digest, Id16};
use subtle::ConstantTimeEq as _;
use tokio::time::{Duration, Instant, sleep_until};

use super::answer::Refused;
use super::client::Client;
use super::login::Login;
use crate::http::Service;
use crate::http::codec::authority::Authority;
use crate::http::codec::credential::Credential;
use crate::http::codec::head::{HeadError, RequestHead};
use crate::http::hosts::HostLists;
use crate::http::inspect;
use crate::identity::{Ended, Principal};
use crate::recording::{ContentWriter, RecordingError, SessionPen};
use crate::slots::Slot;
use crate::stop::{Stage, Stop, reached};

/// Reason code of a request with another credential than the session's.
pub(super) const OTHER_CREDENTIAL: &str = "other-credential";

/// A session at work.
pub(super) struct Session<'a> {
    /// The proxy.
    pub service: &'a Service,
    /// What this principal may reach.
    pub hosts: Arc<HostLists>,
    pen: SessionPen,
    principal: Principal,
    secret: Digest,
    correlation: Option<String>,
    /// Where the open exchange or tunnel leads.
    pub(super) destination: Option<Authority>,
    /// Whether the open tunnel needs a rule that lets anything through.
    pub(super) opaque: bool,
    requests: i64,
    check_at: Instant,
    stop: Stop,
    drain_at: Option<Instant>,
    _slot: Slot,
}

/// Why a session ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Close {
    Client,
    Server,
    Protocol,
    Ended(Ended),
    Unlisted,
    Drain,
    Timeout,
    Spool,
}

impl<'a> Session<'a> {
    /// Takes over an open session.
    pub fn start(service: &'a Service, login: Login, stop: Stop) -> Self {
        let Login { pen, principal, secret, slot } = login;
        let hosts = Arc::new(HostLists::of(&principal.member));
        let check_at = Instant::now();
        let mut session = Self {
            service,
            hosts,
            pen,
            principal,
            secret,
            correlation: None,
            destination: None,
            opaque: false,
            requests: 0,
            check_at,
            stop,
            drain_at: None,
            _slot: slot,
        };
        session.check_at = session.next_check();
        session
    }

    /// Whether a request carries the session's credential; another one never changes who the session is.
    pub fn check_credential(&mut self, head: &RequestHead) -> Result<(), Refused> {
        let Some(value) = head.fields.all("proxy-authorization").next() else {
            return Err(Refused::new(407, "credential-missing", "the request carries no credential"));
        };
        let other = || {
            let detail =
                "another credential than the one this connection began with; open a connection of its own";
            Refused::new(403, OTHER_CREDENTIAL, detail)
        };
        let credential = Credential::parse(value).ok_or_else(other)?;
        let secret = self.pen.key().keyed_digest(credential.secret.as_bytes());
        let user = credential.user.as_deref().is_none_or(|user| user == &*self.principal.name);
        if !(bool::from(secret.0.ct_eq(&self.secret.0)) && user) {
            return Err(other());
        }
        self.correlation = inspect::trace_id(&head.fields).or(credential.correlation);
        Ok(())
    }

    /// The number of the next request.
    pub fn next_request(&mut self) -> i64 {
        self.requests += 1;
        self.requests
    }

    /// The correlation id of the request at hand, under the tenant key.
    pub fn correlation(&self) -> Option<Id16> {
        self.correlation.as_deref().map(|id| self.pen.tenant_key().correlation(id))
    }

    /// The pen.
    pub fn pen(&mut self) -> &mut SessionPen {
        &mut self.pen
    }

    /// Microseconds of the gateway's clock.
    pub fn mono_us(&self) -> i64 {
        self.pen.lane().producer().clock().mono_ns() / 1000
    }

    /// Says when the gateway stops.
    pub fn stop(&self) -> Stop {
        self.stop.clone()
    }

    /// Whether the gateway stops.
    pub fn is_draining(&self) -> bool {
        *self.stop.borrow() >= Stage::Draining
    }

    /// Runs one step of a relay, unless the principal loses its access or the gateway stops first.
    pub async fn guarded<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Close> {
        self.watch(work, self.service.drain).await
    }

    /// Waits for something that a stop of the gateway may cut at once.
    pub async fn idle<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Close> {
        self.watch(work, Duration::ZERO).await
    }

    async fn watch<T>(&mut self, work: impl Future<Output = T>, grace: Duration) -> Result<T, Close> {
        let mut work = pin!(work);
        if grace.is_zero() && self.is_draining() {
            return Err(Close::Drain);
        }
        loop {
            let (check_at, drain_at) = (self.check_at, self.drain_at);
            // The timers come first: work that is always ready must not starve them.
            let (mut draining, mut cutting) = (self.stop.clone(), self.stop.clone());
            let due = tokio::select! {
                biased;
                () = sleep_until(check_at) => Due::Check,
                () = reached(&mut cutting, Stage::Cutting) => return Err(Close::Drain),
                () = reached(&mut draining, Stage::Draining), if drain_at.is_none() => Due::Drain,
                () = sleep_until(drain_at.unwrap_or(check_at)), if drain_at.is_some() => return Err(Close::Drain),
                done = &mut work => return Ok(done),
            };
            match due {
                Due::Check => self.check().await?,
                Due::Drain if grace.is_zero() => return Err(Close::Drain),
                Due::Drain => self.drain_at = Some(Instant::now() + grace),
            }
        }
    }

    /// Whether the principal may still be here, and which hosts it may reach from now on.
    async fn check(&mut self) -> Result<(), Close> {
        self.pen.tick().map_err(spool)?;
        self.persist().await?;
        let now = self.pen.lane().producer().clock().wall_ns();
        self.service.directory.principal_still_valid(&self.principal, now).map_err(Close::Ended)?;
        if let Some(member) = self.service.directory.roster().get(&self.principal.name) {
            self.hosts = Arc::new(HostLists::of(member));
        }
        self.check_at = self.next_check();
        match &self.destination {
            Some(open) if self.hosts.allow(open).is_err() => Err(Close::Unlisted),
            Some(open) if self.opaque && !self.hosts.allow_opaque(open) => Err(Close::Unlisted),
            _ => Ok(()),
        }
    }

    /// The next check: when its time comes, or when the credential expires.
    fn next_check(&self) -> Instant {
        let now = self.pen.lane().producer().clock().wall_ns();
        let left = u64::try_from(self.principal.expires_ns.saturating_sub(now)).unwrap_or(0);
        let every = Duration::from_secs(self.service.config.recheck_seconds);
        Instant::now() + every.min(Duration::from_nanos(left).max(Duration::from_millis(10)))
    }

    /// Appends an event; it counts after [`Session::persist`].
    pub fn record(
        &mut self,
        body: Body,
        parent: Option<i64>,
        content: Option<ContentWriter>,
    ) -> Result<i64, Close> {
        self.pen.event(body, parent, content).map_err(spool)
    }

    /// Everything recorded so far is in the spool.
    pub async fn persist(&mut self) -> Result<(), Close> {
        self.pen.persist().await.map_err(spool)
    }

    /// Adds bytes to a content.
    pub fn put(&mut self, content: &mut ContentWriter, kind: ContentKind, bytes: &[u8]) -> Result<(), Close> {
        self.pen.put(content, kind, bytes).map_err(spool)
    }

    /// Adds names and values to a content.
    pub fn put_pairs(
        &mut self,
        content: &mut ContentWriter,
        kind: ContentKind,
        pairs: &[(String, Vec<u8>)],
    ) -> Result<(), Close> {
        if pairs.is_empty() {
            return Ok(());
        }
        let bytes = structured::encode_pairs(pairs.iter().map(|(n, v)| (n.as_str(), v.as_slice())));
        self.put(content, kind, &bytes)
    }

    /// The content of a request: URL or authority, kept fields, correlation id, and what else is to say.
    pub fn request_content(
        &mut self,
        head: &RequestHead,
        url: &[u8],
        detail: Option<&Refused>,
    ) -> Result<ContentWriter, Close> {
        let mut content = self.pen.content();
        self.put(&mut content, ContentKind::Url, &inspect::redact_url(url))?;
        self.put_pairs(&mut content, ContentKind::RequestHead, &inspect::kept_fields(&head.fields))?;
        if let Some(id) = self.correlation.clone() {
            self.put(&mut content, ContentKind::Correlation, id.as_bytes())?;
        }
        let mut pairs = Vec::new();
        if inspect::method(&head.method) != head.method {
            pairs.push(("method".to_owned(), inspect::redact_text(head.method.as_bytes())));
        }
        if let Some(refused) = detail {
            pairs.push((refused.code.to_owned(), refused.detail.clone().into_bytes()));
        }
        self.put_pairs(&mut content, ContentKind::Detail, &pairs)?;
        Ok(content)
    }

    /// Records that something was refused that is not a request to a destination.
    pub async fn decide(
        &mut self,
        subject: &str,
        refused: &Refused,
        head: Option<&RequestHead>,
    ) -> Result<(), Close> {
        self.decide_in(subject, refused, head, None)?;
        self.persist().await
    }

    /// As [`Session::decide`], within the request or tunnel of event `parent`, and not yet persisted.
    pub fn decide_in(
        &mut self,
        subject: &str,
        refused: &Refused,
        head: Option<&RequestHead>,
        parent: Option<i64>,
    ) -> Result<(), Close> {
        self.service.counters.denied.fetch_add(1, Relaxed);
        let content = match head {
            Some(head) => self.request_content(head, &head.target, Some(refused))?,
            None => {
                let mut content = self.pen.content();
                let pair = (refused.code.to_owned(), refused.detail.clone().into_bytes());
                self.put_pairs(&mut content, ContentKind::Detail, &[pair])?;
                content
            }
        };
        let decision = ControlDecision {
            subject: subject.to_owned(),
            verdict: "deny".to_owned(),
            reason: refused.code.to_owned(),
            code: refused.status.to_string(),
            message_type: None,
        };
        self.record(decision.into(), parent, Some(content))?;
        Ok(())
    }

    /// Counts a request or tunnel.
    pub fn count(&self, verdict: &str) {
        let counters = &self.service.counters;
        let counter = if verdict == "allow" { &counters.allowed } else { &counters.denied };
        counter.fetch_add(1, Relaxed);
    }

    /// Records that a limit was reached.
    pub async fn limit(&mut self, name: &str, value: i64, observed: i64, action: &str) -> Result<(), Close> {
        let (limit_name, action) = (name.to_owned(), action.to_owned());
        self.record(ControlLimit { limit_name, limit_value: value, observed, action }.into(), None, None)?;
        self.persist().await
    }

    /// Records the limit that a head has passed, when it has passed one.
    pub async fn head_limit(&mut self, error: HeadError) -> Result<(), Close> {
        let config = &self.service.config;
        let (name, value) = match error {
            HeadError::TooLarge => ("head-bytes", config.max_head_bytes),
            HeadError::TooManyFields => ("head-fields", config.max_head_fields),
            HeadError::UrlTooLong => ("url-bytes", config.max_url_bytes),
            _ => return Ok(()),
        };
        let value = int(value as u64);
        self.limit(name, value, value.saturating_add(1), "refused").await
    }

    /// Records the end of the session and seals it.
    pub async fn close(mut self, reason: Close, client: &Client) {
        let (bytes_in, bytes_out) = (client.source.bytes_read(), client.sink.bytes_sent());
        self.service.counters.bytes_in.fetch_add(bytes_in, Relaxed);
        self.service.counters.bytes_out.fetch_add(bytes_out, Relaxed);
        let totals = self.pen.totals();
        totals.statements = self.requests;
        totals.bytes_in = int(bytes_in);
        totals.bytes_out = int(bytes_out);
        let session = self.pen.session();
        // A spool that refused once is not asked again: the pen, dropped, tries once and leaves the rest to
        // the next start.
        if reason == Close::Spool {
            return;
        }
        let ended = match reason.decision() {
            Some(decision) => self.pen.event(decision.into(), None, None).map(|_| ()),
            None => Ok(()),
        };
        let closed = match ended {
            Ok(()) => self.pen.close(reason.reason()).await,
            Err(error) => Err(error),
        };
        if let Err(error) = closed {
            tracing::error!(event = "http_session_not_sealed", session = %session, error = %error, "sealed when the spool takes records again; a process that ends before leaves that to the next start");
        }
    }
}

enum Due {
    Check,
    Drain,
}

impl Close {
    /// The reason in `session.closed`.
    pub fn reason(self) -> &'static str {
        match self {
            Close::Client => "client",
            Close::Server => "server",
            Close::Protocol => "protocol-violation",
            Close::Ended(ended) => ended.closed_reason(),
            Close::Unlisted => "revoked",
            Close::Drain => "drain",
            Close::Timeout => "timeout",
            Close::Spool => "spool",
        }
    }

    /// The event that says why access is over that once was granted.
    fn decision(self) -> Option<ControlDecision> {
        let (Close::Ended(_) | Close::Unlisted) = self else { return None };
        Some(ControlDecision {
            subject: "session".to_owned(),
            verdict: "deny".to_owned(),
            reason: self.outcome().to_owned(),
            code: String::new(),
            message_type: None,
        })
    }

    /// How an exchange or tunnel ended that this cut.
    pub fn outcome(self) -> &'static str {
        match self {
            Close::Client => "client-closed",
            Close::Server => "server-closed",
            Close::Protocol => "refused",
            Close::Ended(ended) => ended.code(),
            Close::Unlisted => "unlisted",
            Close::Drain => "drain",
            Close::Timeout => "timeout",
            Close::Spool => "error",
        }
    }
}

/// A count as the record has it.
pub(super) fn int(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

fn spool(error: RecordingError) -> Close {
    tracing::error!(event = "http_not_recorded", error = %error, "closing the connection");
    Close::Spool
}
