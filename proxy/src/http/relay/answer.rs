//! What we answer ourselves: refusals that say what to change and where, and the question for credentials.

use std::net::IpAddr;

use bodycam_record::shown;

use crate::http::codec::head::HeadError;
use crate::http::codec::target::TargetError;
use crate::http::upstream::address::AddressClass;

/// What a client without, or with a wrong, credential is told: always the same.
const CREDENTIALS: &str = "bodycam wants a principal and its token: set HTTP_PROXY and HTTPS_PROXY to http://PRINCIPAL:TOKEN@HOST:PORT; `bodycam token issue` makes tokens";

/// Something that was refused, or that failed: a value, not an error.
#[derive(Debug, Clone)]
pub(super) struct Refused {
    /// Reason code in the record and in the answer.
    pub code: &'static str,
    /// Status that the client gets.
    pub status: u16,
    /// What was attempted, why it is refused, and what to change; safe to show.
    pub detail: String,
    /// The address that it is about.
    pub address: Option<(IpAddr, AddressClass)>,
}

/// A response of our own.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    status: u16,
    code: &'static str,
    body: String,
}

impl Refused {
    pub fn new(status: u16, code: &'static str, detail: impl Into<String>) -> Self {
        Self { code, status, detail: detail.into(), address: None }
    }
}

impl From<HeadError> for Refused {
    fn from(error: HeadError) -> Self {
        Refused::new(error.status(), error.code(), format!("the head is refused: {error}"))
    }
}

impl From<TargetError> for Refused {
    fn from(error: TargetError) -> Self {
        Refused::new(error.status(), error.code(), format!("the request target is refused: {error}"))
    }
}

impl Answer {
    /// The answer to something refused.
    pub fn refusal(refused: &Refused) -> Self {
        let problem = serde_json::json!({
            "title": "refused by bodycam",
            "status": refused.status,
            "reason": refused.code,
            "detail": shown(&refused.detail),
        });
        Self { status: refused.status, code: refused.code, body: format!("{problem}\n") }
    }

    /// 407.
    pub fn ask_for_credentials() -> Self {
        Self::refusal(&Refused::new(407, "credentials", CREDENTIALS))
    }

    /// The bytes for a client that sent `method`. The reason code stands in the status line too, because that
    /// is all that most clients show of an answer to CONNECT.
    pub fn encode(&self, method: &str, keep: bool) -> Vec<u8> {
        let authenticate =
            if self.status == 407 { "Proxy-Authenticate: Basic realm=\"bodycam\"\r\n" } else { "" };
        let connection = if keep { "keep-alive" } else { "close" };
        let body = if method == "HEAD" { "" } else { self.body.as_str() };
        let (status, phrase, code, length) = (self.status, phrase(self.status), self.code, self.body.len());
        format!(
            "HTTP/1.1 {status} {phrase} (bodycam: {code})\r\n{authenticate}Content-Type: application/problem+json\r\n\
             Content-Length: {length}\r\nCache-Control: no-store\r\nConnection: {connection}\r\n\r\n{body}"
        )
        .into_bytes()
    }
}

fn phrase(status: u16) -> &'static str {
    match status {
        400 => "Bad Request",
        403 => "Forbidden",
        407 => "Proxy Authentication Required",
        408 => "Request Timeout",
        414 => "URI Too Long",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "Refused",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_a_whole_response_and_shows_nothing_hostile() {
        let refused = Refused::new(403, "host-not-allowed", "host 'a\r\nX: y\u{1b}[31m'");
        let bytes = Answer::refusal(&refused).encode("GET", true);
        let text = String::from_utf8(bytes).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 403 Forbidden (bodycam: host-not-allowed)\r\n"));
        assert!(head.contains(&format!("Content-Length: {}", body.len())));
        assert!(!head.contains("X: y") && !body.contains('\u{1b}'));
        let head_only = String::from_utf8(Answer::refusal(&refused).encode("HEAD", false)).unwrap();
        assert!(head_only.ends_with("Connection: close\r\n\r\n"));
    }

    #[test]
    fn only_the_question_for_credentials_names_a_scheme() {
        let asked = String::from_utf8(Answer::ask_for_credentials().encode("GET", true)).unwrap();
        assert!(
            asked.contains("HTTP/1.1 407 ")
                && asked.contains("Proxy-Authenticate: Basic realm=\"bodycam\"\r\n")
        );
    }
}
