//! One event as the replay knows it: what kind of thing happened, its verdict, and one line that says it.

use bodycam_lake::StoredEvent;
use bodycam_record::kinds::Body;

use crate::shown::Shown;
use crate::units;

/// An event with its decoded body and, where it could be opened, the text that names it.
#[derive(Debug, Clone)]
pub struct EventItem {
    /// The event as stored.
    pub event: StoredEvent,
    /// Its body; none when the stored bytes are not of its kind.
    pub body: Option<Body>,
    /// Statement text, URL or error message, as recorded; at most [`TEXT_LIMIT`] bytes.
    pub text: Option<String>,
    /// Literal-free text of the statement, when the text itself could not be opened.
    pub template: Option<String>,
    /// Bind values of the statement as they are shown, where they could be opened; at most [`TEXT_LIMIT`] bytes.
    pub binds: Vec<Shown>,
}

/// Longest text that an item carries; the rest is read when its details are opened.
pub const TEXT_LIMIT: usize = 8 * 1024;

/// Who speaks in an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the client towards the target.
    In,
    /// From the target towards the client.
    Out,
    /// The gateway itself.
    Gateway,
}

/// What an event means to the eye that looks for trouble.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Mark {
    /// Nothing in particular.
    None,
    /// Allowed.
    Allow,
    /// Ended in an error.
    Error,
    /// Something passed that the record does not hold.
    Gap,
    /// Refused.
    Deny,
}

impl EventItem {
    /// The item of a stored event.
    pub fn new(event: StoredEvent) -> Self {
        let body = event.decode_body().ok();
        Self { event, body, text: None, template: None, binds: Vec::new() }
    }

    /// Number in the session.
    pub fn seq(&self) -> i64 {
        self.event.envelope.seq
    }

    /// Name of the kind.
    pub fn kind(&self) -> &'static str {
        bodycam_record::KindTable::of(self.event.envelope.kind).map_or("unknown", |t| t.name)
    }

    /// Who speaks.
    pub fn direction(&self) -> Direction {
        match &self.body {
            Some(Body::SqlStatement(_) | Body::HttpRequest(_) | Body::HttpTunnelOpened(_)) => Direction::In,
            Some(
                Body::SqlResult(_) | Body::SqlMessage(_) | Body::HttpResponse(_) | Body::HttpTunnelClosed(_),
            ) => Direction::Out,
            Some(Body::SqlCopy(copy)) if copy.direction == "in" => Direction::In,
            Some(Body::SqlCopy(_)) => Direction::Out,
            _ => Direction::Gateway,
        }
    }

    /// `allow` or `deny`, for kinds that carry a verdict.
    pub fn verdict(&self) -> Option<&str> {
        Some(match self.body.as_ref()? {
            Body::SqlStatement(b) => &b.verdict,
            Body::SqlResult(b) => &b.verdict,
            Body::HttpRequest(b) => &b.verdict,
            Body::HttpResponse(b) => &b.verdict,
            Body::HttpTunnelOpened(b) => &b.verdict,
            Body::HttpTunnelClosed(b) => &b.verdict,
            Body::ControlDecision(b) => &b.verdict,
            _ => return None,
        })
    }

    /// What it means to the eye.
    pub fn mark(&self) -> Mark {
        if self.is_refusal() {
            return Mark::Deny;
        }
        match &self.body {
            None | Some(Body::Gap(_)) => Mark::Gap,
            _ if self.is_error() => Mark::Error,
            _ if self.verdict().is_some() => Mark::Allow,
            _ => Mark::None,
        }
    }

    /// Whether this event is the refusal itself (not the result of a refused statement).
    pub fn is_refusal(&self) -> bool {
        match &self.body {
            Some(Body::SqlStatement(b)) => b.verdict == "deny",
            Some(Body::HttpRequest(b)) => b.verdict == "deny",
            Some(Body::HttpTunnelOpened(b)) => b.verdict == "deny",
            Some(Body::ControlDecision(b)) => b.verdict == "deny",
            Some(Body::ControlLimit(b)) => b.action == "refused" || b.action == "closed",
            _ => false,
        }
    }

    /// Whether something ended in an error.
    pub fn is_error(&self) -> bool {
        match &self.body {
            Some(Body::SqlResult(b)) => matches!(b.outcome.as_str(), "error" | "cut"),
            Some(Body::SqlCopy(b)) => b.outcome != "done",
            Some(Body::SqlMessage(b)) => b.message == "error",
            Some(Body::HttpResponse(b)) => b.outcome != "complete" || b.status.is_some_and(|s| s >= 500),
            Some(Body::HttpTunnelClosed(b)) => matches!(b.outcome.as_str(), "error" | "timeout"),
            _ => false,
        }
    }

    /// Whether a person would call it a step: a statement, request or tunnel.
    pub fn is_step(&self) -> bool {
        matches!(&self.body, Some(Body::SqlStatement(_) | Body::HttpRequest(_) | Body::HttpTunnelOpened(_)))
    }

    /// Result rows that it sent to the client. The totals that a close repeats are not its own.
    pub fn rows(&self) -> Option<i64> {
        match self.body.as_ref()? {
            Body::SqlResult(b) => Some(b.rows),
            _ => None,
        }
    }

    /// Bytes that left: to the client for SQL, to the destination for HTTP.
    pub fn bytes(&self) -> Option<i64> {
        match self.body.as_ref()? {
            Body::SqlResult(b) => Some(b.bytes),
            Body::SqlCopy(b) => Some(b.bytes),
            Body::SqlMessage(b) => Some(b.bytes),
            Body::HttpResponse(b) => Some(b.bytes_out),
            Body::HttpTunnelClosed(b) => Some(b.bytes_out),
            Body::Gap(b) => Some(b.opaque_bytes),
            _ => None,
        }
    }

    /// How long it took, in nanoseconds.
    pub fn duration_ns(&self) -> Option<i64> {
        let us = match self.body.as_ref()? {
            Body::SqlResult(b) => b.duration_us,
            Body::SqlCopy(b) => b.duration_us,
            Body::HttpResponse(b) => b.duration_us,
            Body::HttpTunnelClosed(b) => b.duration_us,
            Body::SessionClosed(b) => b.duration_us,
            _ => return None,
        };
        Some(us.saturating_mul(1000))
    }

    /// The recorded text, else the literal-free text behind its fingerprint.
    pub fn words(&self) -> Option<&str> {
        self.text.as_deref().or(self.template.as_deref())
    }

    /// One line that says what happened.
    pub fn summary(&self) -> Shown {
        let Some(body) = &self.body else {
            return Shown::of("an event that this build cannot read");
        };
        let words = |otherwise: &str| {
            let text = self.words().unwrap_or(otherwise);
            one_line(text)
        };
        let text = match body {
            Body::SessionOpened(b) => format!(
                "session opened: {}{}{}{}{}",
                b.protocol,
                if b.database.is_empty() { "" } else { " " },
                b.database,
                if b.client_tls { ", TLS" } else { "" },
                if b.simulated_clock { ", simulated clock" } else { "" },
            ),
            Body::SessionCheckpoint(b) => format!("checkpoint over {} events", units::count(b.count)),
            Body::SessionClosed(b) => {
                format!("session closed ({}) after {}", b.reason, units::micros(b.duration_us))
            }
            Body::SqlStatement(b) => words(&format!("{} {}", b.statement_kind, b.relations_read.join(", "))),
            Body::SqlResult(b) => result(b, self.text.as_deref()),
            Body::SqlCopy(b) => format!(
                "COPY {} {}, {}",
                if b.direction == "in" { "from client" } else { "to client" },
                units::size(b.bytes),
                b.outcome
            ),
            Body::SqlMessage(b) => match (&b.parameter, self.text.as_deref()) {
                (Some(parameter), _) => format!("{} {parameter}", b.message),
                (None, Some(text)) => format!("{}: {}", b.message, one_line(text)),
                (None, None) => b.message.clone(),
            },
            Body::HttpRequest(b) => {
                format!(
                    "{} {}{}",
                    b.method,
                    words(&format!("{}://{}:{}", b.scheme, b.host, b.port)),
                    why(&b.refusal)
                )
            }
            Body::HttpResponse(b) => format!(
                "{} {}, {} out, {} in",
                b.status.map_or("no response".to_owned(), |s| s.to_string()),
                b.outcome,
                units::size(b.bytes_out),
                units::size(b.bytes_in)
            ),
            Body::HttpTunnelOpened(b) => format!("CONNECT {}:{}{}", b.host, b.port, why(&b.refusal)),
            Body::HttpTunnelClosed(b) => format!(
                "tunnel to {}:{} ended ({}): {} out, {} in, {}",
                b.host,
                b.port,
                b.outcome,
                units::size(b.bytes_out),
                units::size(b.bytes_in),
                units::micros(b.duration_us)
            ),
            Body::ControlDecision(b) => format!("refused {}: {} ({})", b.subject, b.reason, b.code),
            Body::ControlLimit(b) => format!(
                "limit {} reached: {} of {}, {}",
                b.limit_name,
                units::count(b.observed),
                units::count(b.limit_value),
                b.action
            ),
            Body::Gap(b) => format!(
                "not recorded ({}): {} events, {} opaque",
                b.reason,
                units::count(b.dropped_events),
                units::size(b.opaque_bytes)
            ),
            _ => "a ledger record".to_owned(),
        };
        Shown::limit(&text, 600)
    }
}

fn result(b: &bodycam_record::kinds::sql::SqlResult, error: Option<&str>) -> String {
    let took = units::micros(b.duration_us);
    match b.outcome.as_str() {
        "error" => {
            let code = b.sqlstate.as_deref().unwrap_or("?????");
            format!("error {code}: {}", error.map(one_line).unwrap_or_default())
        }
        "complete" if b.column_types.is_empty() && b.rows == 0 => format!("{}, {took}", b.tag),
        "complete" => {
            format!("{}, {}, {took}", units::plural(b.rows, "row", "rows"), units::size(b.bytes))
        }
        other => format!(
            "{other} after {}, {}, {took}",
            units::plural(b.rows, "row", "rows"),
            units::size(b.bytes)
        ),
    }
}

fn why(refusal: &Option<String>) -> String {
    refusal.as_ref().map(|r| format!("  refused: {r}")).unwrap_or_default()
}

/// Text with its blanks collapsed, so that a formatted statement still says much on one line.
fn one_line(text: &str) -> String {
    let mut out = String::new();
    for word in text.split([' ', '\n', '\t', '\r']).filter(|w| !w.is_empty()).take(200) {
        if !out.is_empty() {
            out.push(' ');
        }
        out.push_str(word);
        if out.len() > 2000 {
            break;
        }
    }
    out
}
