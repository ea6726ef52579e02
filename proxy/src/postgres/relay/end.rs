//! How a session ends, and what client and record are told about it.

use bodycam_record::kinds::Body;
use bodycam_record::kinds::control::{ControlDecision, ControlLimit};

use crate::identity::Ended;
use crate::postgres::codec::FrameError;
use crate::recording::RecordingError;

/// Why a session ends.
#[derive(Debug)]
pub(super) enum End {
    /// The client left.
    Client,
    /// The target left.
    Server,
    /// The target (or the client) left in the middle of a message.
    Truncated { from: &'static str },
    /// A frame that cannot be.
    Frame { from: &'static str, error: FrameError },
    /// The target answered what nobody asked.
    Accounting { what: String },
    /// Something that cannot be recorded.
    Refused { reason: &'static str, what: String },
    /// The principal may not go on.
    Identity(Ended),
    /// The gateway stops.
    Drain,
    /// The client was silent for too long.
    Idle { seconds: u64 },
    /// More names than a session may have.
    Names { limit: usize },
    /// What it prepared takes more memory than a session may have.
    Facts { limit: usize, observed: usize },
    /// Nothing can be recorded any more.
    Recording(RecordingError),
    /// A large message could not be kept aside.
    Spill(std::io::Error),
}

impl From<RecordingError> for End {
    fn from(error: RecordingError) -> Self {
        End::Recording(error)
    }
}

impl End {
    /// `reason` of `session.closed`.
    pub fn reason(&self) -> &'static str {
        match self {
            End::Client | End::Truncated { from: "client" } => "client",
            End::Server | End::Truncated { .. } => "server",
            End::Frame { .. } | End::Accounting { .. } | End::Refused { .. } => "protocol-violation",
            End::Identity(ended) => ended.closed_reason(),
            End::Drain => "drain",
            End::Idle { .. } => "timeout",
            End::Names { .. } | End::Facts { .. } => "limit",
            End::Recording(_) => "spool",
            End::Spill(_) => "error",
        }
    }

    /// SQLSTATE, message and hint for the client; none when there is nothing to say.
    pub fn farewell(&self) -> Option<(&'static str, String, Option<&'static str>)> {
        Some(match self {
            End::Client | End::Server => return None,
            End::Truncated { from: "client" } => {
                ("08P01", "bodycam: the connection ended in the middle of a message".to_owned(), None)
            }
            End::Truncated { .. } => {
                let message =
                    "bodycam: the target closed the connection in the middle of a message".to_owned();
                ("08006", message, Some("its log says why"))
            }
            End::Frame { from: "client", error } => ("08P01", format!("bodycam: {error}"), None),
            End::Frame { error, .. } => {
                ("08P01", format!("bodycam: the target broke the protocol: {error}"), None)
            }
            End::Accounting { .. } => ("08P01", "bodycam: the target answered out of order".to_owned(), None),
            End::Refused { what, .. } => {
                let hint = "bodycam refuses what it cannot record";
                ("08P01", format!("bodycam: {what} is not supported"), Some(hint))
            }
            End::Identity(ended) => {
                ("57P01", format!("bodycam: session closed: {ended}"), Some("ask who issued your token"))
            }
            End::Drain => ("57P01", "bodycam: the gateway is stopping".to_owned(), Some("connect again")),
            End::Idle { seconds } => {
                ("57P05", format!("bodycam: session closed after {seconds} s without a statement"), None)
            }
            End::Names { limit } => {
                ("54000", format!("bodycam: more than {limit} prepared statements or portals"), None)
            }
            End::Facts { limit, .. } => {
                let message =
                    format!("bodycam: the prepared statements of this session take more than {limit} bytes");
                ("54000", message, Some("deallocate those that are not used any more"))
            }
            End::Recording(_) | End::Spill(_) => return Self::unrecorded(),
        })
    }

    /// The same for a session whose end cannot be recorded, whatever ended it.
    pub fn unrecorded() -> Option<(&'static str, String, Option<&'static str>)> {
        let message = "bodycam: this session cannot be recorded and is closed".to_owned();
        Some(("58030", message, Some("the gateway's log says why")))
    }

    /// The event that says why, and its explanation.
    pub fn event(&self) -> Option<(Body, String)> {
        let decision = |subject: &str, reason: &str, tag: Option<u8>| {
            Body::from(ControlDecision {
                subject: subject.to_owned(),
                verdict: "deny".to_owned(),
                reason: reason.to_owned(),
                code: self.farewell().map(|(code, ..)| code.to_owned()).unwrap_or_default(),
                message_type: tag.map(i64::from),
            })
        };
        let limit = |name: &str, value: u64, observed: u64| {
            let as_int = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
            Body::from(ControlLimit {
                limit_name: name.to_owned(),
                limit_value: as_int(value),
                observed: as_int(observed),
                action: "closed".to_owned(),
            })
        };
        Some(match self {
            End::Client | End::Server | End::Drain | End::Recording(_) => return None,
            End::Truncated { from } => (
                decision("message", "truncated-message", None),
                format!("the {from} left in the middle of a message"),
            ),
            End::Frame { error, .. } => (decision("message", error.reason(), error.tag()), error.to_string()),
            End::Accounting { what } => (decision("message", "out-of-order", None), what.clone()),
            End::Refused { reason, what } => (decision("message", reason, None), what.clone()),
            End::Identity(ended) => (decision("session", ended.code(), None), ended.to_string()),
            End::Idle { seconds } => (limit("idle", *seconds, *seconds), "no statement".to_owned()),
            End::Names { limit: n } => (limit("names", *n as u64, *n as u64 + 1), "names".to_owned()),
            End::Facts { limit: n, observed } => {
                (limit("kept-facts", *n as u64, *observed as u64), "facts of prepared statements".to_owned())
            }
            End::Spill(error) => (decision("message", "spill", None), error.to_string()),
        })
    }
}
