//! What the record keeps of heads: facts as closed lists, text without credentials.
//!
//! Invariant: a value from outside enters an event body only when it is one of a closed list or a canonical
//! host; everything else is content, and no credential is even that.

use super::codec::authority::Host;
use super::codec::fields::{Fields, is_token};
use crate::correlation;
use crate::identity::token;

/// Fields that are credentials.
const CREDENTIALS: [&str; 6] =
    ["authorization", "proxy-authorization", "cookie", "set-cookie", "cookie2", "proxy-authenticate"];

/// Words in a field or parameter name that make its value a credential.
const SECRET_WORDS: [&str; 12] = [
    "token",
    "secret",
    "password",
    "passwd",
    "apikey",
    "api-key",
    "api_key",
    "signature",
    "credential",
    "auth",
    "session",
    "private",
];

/// Parameter names that are credentials though none of the words is in them.
const SECRET_PARAMETERS: [&str; 5] = ["sig", "key", "code", "jwt", "pwd"];

/// Fields whose value is never taken for a credential, though it may look like one.
const PLAIN: [&str; 19] = [
    "accept",
    "accept-encoding",
    "accept-language",
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-length",
    "content-type",
    "date",
    "etag",
    "expires",
    "if-modified-since",
    "if-none-match",
    "last-modified",
    "range",
    "server",
    "traceparent",
    "user-agent",
    "vary",
];

/// Registered methods (IANA, November 2026).
const METHODS: [&str; 40] = [
    "ACL",
    "BASELINE-CONTROL",
    "BIND",
    "CHECKIN",
    "CHECKOUT",
    "CONNECT",
    "COPY",
    "DELETE",
    "GET",
    "HEAD",
    "LABEL",
    "LINK",
    "LOCK",
    "MERGE",
    "MKACTIVITY",
    "MKCALENDAR",
    "MKCOL",
    "MKREDIRECTREF",
    "MKWORKSPACE",
    "MOVE",
    "OPTIONS",
    "ORDERPATCH",
    "PATCH",
    "POST",
    "PRI",
    "PROPFIND",
    "PROPPATCH",
    "PUT",
    "QUERY",
    "REBIND",
    "REPORT",
    "SEARCH",
    "TRACE",
    "UNBIND",
    "UNCHECKOUT",
    "UNLINK",
    "UNLOCK",
    "UPDATE",
    "UPDATEREDIRECTREF",
    "VERSION-CONTROL",
];

/// Top-level media types (RFC 6838).
const TYPES: [&str; 11] = [
    "application",
    "audio",
    "example",
    "font",
    "haptics",
    "image",
    "message",
    "model",
    "multipart",
    "text",
    "video",
];

/// Application protocols that TLS clients offer (IANA, the ones seen beside HTTP).
const PROTOCOLS: [&str; 12] = [
    "http/0.9",
    "http/1.0",
    "http/1.1",
    "h2",
    "h2c",
    "h3",
    "acme-tls/1",
    "dot",
    "imap",
    "postgresql",
    "smb",
    "ftp",
];

/// URLs within parameters of URLs, and layers of percent-encoding, that are looked through.
const MAX_NESTED: usize = 4;

/// A value that stands for one from outside.
const OTHER: &str = "other";

/// The method when it is registered, else `other`.
pub fn method(method: &str) -> &'static str {
    METHODS.iter().copied().find(|m| *m == method).unwrap_or(OTHER)
}

/// The media type without parameters; `other` when it is none.
pub fn media_type(fields: &Fields) -> Option<String> {
    let value = fields.all("content-type").next()?;
    let essence = value.split(|b| *b == b';').next().unwrap_or_default().trim_ascii().to_ascii_lowercase();
    let text = String::from_utf8(essence).ok().filter(|text| {
        text.len() <= 100
            && text.split_once('/').is_some_and(|(top, sub)| TYPES.contains(&top) && is_token(sub.as_bytes()))
    });
    Some(text.unwrap_or_else(|| OTHER.to_owned()))
}

/// The offered protocols that are registered, `other` for each that is not.
pub fn protocols(offered: &[Vec<u8>]) -> Vec<String> {
    let known = |name: &Vec<u8>| PROTOCOLS.iter().copied().find(|p| p.as_bytes() == name.as_slice());
    offered.iter().take(16).map(|name| known(name).unwrap_or(OTHER).to_owned()).collect()
}

/// A server name in canonical form; none when it is not a host name.
pub fn server_name(name: &[u8]) -> Option<String> {
    match Host::parse(name) {
        Ok(Host::Name(name)) => Some(name),
        _ => None,
    }
}

/// The trace id of the `traceparent` field, when there is exactly one.
pub fn trace_id(fields: &Fields) -> Option<String> {
    let mut values = fields.all("traceparent");
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    correlation::of_traceparent(std::str::from_utf8(value).ok()?)
}

/// The fields that the record keeps: all but credentials; of a value that looks like one only its length.
pub fn kept_fields(fields: &Fields) -> Vec<(String, Vec<u8>)> {
    let kept = fields.iter().filter(|f| !CREDENTIALS.iter().any(|c| f.name.eq_ignore_ascii_case(c)));
    kept.map(|field| {
        let name = field.name.to_ascii_lowercase();
        let value = match name.as_str() {
            "host" | "location" | "content-location" | "referer" | "link" | "origin" => {
                redact_url(&field.value)
            }
            name if PLAIN.contains(&name) => redact_text(&field.value),
            name if is_secret_name(name) || is_token_like(&field.value) => removed(field.value.len()),
            _ => redact_text(&field.value),
        };
        (name, value)
    })
    .collect()
}

/// A URL or an authority without user information, and without the values of parameters that are credentials.
pub fn redact_url(url: &[u8]) -> Vec<u8> {
    redact_nested(url, MAX_NESTED)
}

/// Any text without tokens and without the user information of URLs in it.
pub fn redact_text(text: &[u8]) -> Vec<u8> {
    let held = text.windows(3).any(|part| part == b"://");
    token::redact(&if held { without_userinfo(text) } else { text.to_vec() }).into_owned()
}

/// As [`redact_url`]; `depth` bounds how many URLs within URLs are looked at.
fn redact_nested(url: &[u8], depth: usize) -> Vec<u8> {
    let url = without_userinfo(url);
    let mut out = Vec::with_capacity(url.len());
    // Parameters stand in the query, in the path (`;name=value`), and in the fragment.
    let parts = url.split_inclusive(|b| matches!(b, b'?' | b'&' | b';' | b'#'));
    for (i, part) in parts.enumerate() {
        let end = part.len()
            - usize::from(
                part.ends_with(b"?") || part.ends_with(b"&") || part.ends_with(b";") || part.ends_with(b"#"),
            );
        let (pair, delimiter) = part.split_at_checked(end).unwrap_or((part, &[]));
        let equals = pair.iter().position(|b| *b == b'=').filter(|_| i > 0);
        match equals.and_then(|at| pair.split_at_checked(at + 1)) {
            Some((name, value)) if !value.is_empty() && is_secret_pair(name, value, depth) => {
                out.extend_from_slice(name);
                out.extend_from_slice(&removed(value.len()));
            }
            _ => out.extend_from_slice(pair),
        }
        out.extend_from_slice(delimiter);
    }
    token::redact(&out).into_owned()
}

/// Whether a parameter is a credential by its name, or holds a URL with one.
fn is_secret_pair(name_and_equals: &[u8], value: &[u8], depth: usize) -> bool {
    let clear = decoded(value);
    is_secret_parameter(&decoded(name_and_equals))
        || token::is_in(&clear)
        || clear.windows(3).any(|part| part == b"://")
            && depth.checked_sub(1).is_none_or(|depth| redact_nested(&clear, depth) != clear)
}

/// A text without percent-encoding, however often it was applied.
fn decoded(text: &[u8]) -> Vec<u8> {
    let mut text = text.to_vec();
    for _ in 0..MAX_NESTED {
        if !text.contains(&b'%') {
            break;
        }
        let mut out = Vec::with_capacity(text.len());
        let mut rest = text.as_slice();
        while let Some((first, after)) = rest.split_first() {
            let digits = after.get(..2).and_then(|d| std::str::from_utf8(d).ok());
            match digits.filter(|_| *first == b'%').and_then(|d| u8::from_str_radix(d, 16).ok()) {
                Some(byte) => {
                    out.push(byte);
                    rest = after.get(2..).unwrap_or_default();
                }
                None => {
                    out.push(*first);
                    rest = after;
                }
            }
        }
        text = out;
    }
    text
}

/// A URL, a text with URLs, or an authority, without any user information. What is refused for it is recorded, too.
fn without_userinfo(text: &[u8]) -> Vec<u8> {
    let mut starts: Vec<usize> =
        text.windows(3).enumerate().filter(|(_, w)| *w == b"://").map(|(at, _)| at + 3).collect();
    match text {
        _ if !starts.is_empty() => {}
        // Without a scheme: `//user:password@host/` and `user:password@host`, but no path.
        [b'/', b'/', ..] => starts.push(2),
        [b'/', ..] => {}
        _ => starts.push(0),
    }
    let (mut out, mut copied) = (Vec::with_capacity(text.len()), 0);
    // Where the word ends that a start lies in, and its last `@`: looked for once a word, however many starts it has.
    let (mut word_end, mut last_at) = (0, None);
    for start in starts {
        if start < copied {
            continue;
        }
        if start >= word_end {
            let rest = text.get(start..).unwrap_or_default();
            let word = rest.iter().position(|b| b.is_ascii_whitespace() || matches!(b, b'<' | b'>' | b'"'));
            word_end = start + word.unwrap_or(rest.len());
            let word = text.get(start..word_end).unwrap_or_default();
            last_at = word.iter().rposition(|b| *b == b'@').map(|at| start + at);
        }
        let rest = text.get(start..word_end).unwrap_or_default();
        let end = rest.iter().position(|b| matches!(b, b'/' | b'?' | b'#' | b'\\')).unwrap_or(rest.len());
        let authority = rest.get(..end).unwrap_or_default();
        // A password may hold what ends an authority: then what stands before it is no host and port.
        let at = match is_host_and_port(authority) {
            true => authority.iter().rposition(|b| *b == b'@'),
            false => last_at.and_then(|at| at.checked_sub(start)),
        };
        if let Some(at) = at.filter(|at| *at > 0) {
            out.extend_from_slice(text.get(copied..start).unwrap_or_default());
            out.extend_from_slice(&removed(at));
            copied = start + at;
        }
    }
    out.extend_from_slice(text.get(copied..).unwrap_or_default());
    out
}

/// Whether the end of an authority can be a port, or there is none.
fn is_host_and_port(authority: &[u8]) -> bool {
    let host = authority.iter().rposition(|b| matches!(b, b'@' | b']')).map_or(0, |at| at + 1);
    let after = authority.get(host..).unwrap_or_default();
    match after.iter().position(|b| *b == b':') {
        None => true,
        Some(colon) => {
            let port = after.get(colon + 1..).unwrap_or_default();
            !port.is_empty() && port.iter().all(u8::is_ascii_digit)
        }
    }
}

fn removed(len: usize) -> Vec<u8> {
    format!("[removed, {len} bytes]").into_bytes()
}

fn is_secret_name(name: &str) -> bool {
    SECRET_WORDS.iter().any(|word| name.contains(word))
}

fn is_secret_parameter(name_and_equals: &[u8]) -> bool {
    let name = String::from_utf8_lossy(name_and_equals).to_ascii_lowercase();
    let name = name.trim_end_matches('=');
    is_secret_name(name) || SECRET_PARAMETERS.contains(&name)
}

/// One word of at least 20 characters in which letters and digits mix, as API keys and signatures do, or a
/// value that begins with the name of an authentication scheme.
fn is_token_like(value: &[u8]) -> bool {
    let lower = value.to_ascii_lowercase();
    if [&b"bearer "[..], b"basic ", b"digest ", b"negotiate "].iter().any(|scheme| lower.starts_with(scheme))
    {
        return true;
    }
    let spelled = |b: &u8| b.is_ascii_alphanumeric() || b"-._~+/=:".contains(b);
    value.len() >= 20
        && value.iter().all(spelled)
        && value.iter().any(u8::is_ascii_digit)
        && value.iter().any(u8::is_ascii_alphabetic)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(lines: &[&str]) -> Fields {
        Fields::parse(format!("{}\r\n\r\n", lines.join("\r\n")).as_bytes(), 64).unwrap()
    }

    #[test]
    fn credentials_are_not_kept() {
        let kept = kept_fields(&fields(&[
            "Host: example.com",
            "Authorization: Bearer abc",
            "Proxy-Authorization: Basic abc",
            "Cookie: a=b",
            "Set-Cookie: a=b",
            "X-Api-Key: short",
            "X-Custom: AKIA0123456789ABCDEF",
            "X-Forward-Auth: Basic YTpi",
            "X-Credentials: Basic YTpi",
            "X-Note: a plain remark",
            "User-Agent: curl/7.88.1-abcdefghijklmnop",
            "Location: https://example.com/cb?code=123&state=x&access_token=abc",
        ]));
        let text: Vec<String> =
            kept.iter().map(|(n, v)| format!("{n}: {}", String::from_utf8_lossy(v))).collect();
        assert_eq!(
            text,
            [
                "host: example.com",
                "x-api-key: [removed, 5 bytes]",
                "x-custom: [removed, 20 bytes]",
                "x-forward-auth: [removed, 10 bytes]",
                "x-credentials: [removed, 10 bytes]",
                "x-note: a plain remark",
                "user-agent: curl/7.88.1-abcdefghijklmnop",
                "location: https://example.com/cb?code=[removed, 3 bytes]&state=x&access_token=[removed, 3 bytes]",
            ]
        );
    }

    #[test]
    fn no_spelling_of_a_url_keeps_a_credential() {
        let token = "bcam_abcdefghij234567_abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrst";
        for (url, want) in [
            ("http://bob:PW@host:80/a@b?x=1", "http://[removed, 6 bytes]@host:80/a@b?x=1"),
            ("bob:PW@host:443", "[removed, 6 bytes]@host:443"),
            ("u:PW@h", "[removed, 4 bytes]@h"),
            ("ftp://u:PW@host/", "ftp://[removed, 4 bytes]@host/"),
            ("http://bob:P/W@host/", "http://[removed, 7 bytes]@host/"),
            ("http://bob:P?W#@host/", "http://[removed, 8 bytes]@host/"),
            ("http://a@b:PW@host/", "http://[removed, 6 bytes]@host/"),
            ("http:\\\\bob:PW@host/", "[removed, 13 bytes]@host/"),
            ("//bob:PW@host/", "//[removed, 6 bytes]@host/"),
            (
                "<https://a/x>; rel=next, <https://u:PW@b/>",
                "<https://a/x>; rel=next, <https://[removed, 4 bytes]@b/>",
            ),
            ("/users/@me", "/users/@me"),
            ("https://h/@scope/name@1", "https://h/@scope/name@1"),
            ("http://[::1]:80/x@y", "http://[::1]:80/x@y"),
            ("http://h/?%74oken=PW&a=b", "http://h/?%74oken=[removed, 2 bytes]&a=b"),
            ("http://h/?%2574oken=PW", "http://h/?%2574oken=[removed, 2 bytes]"),
            ("http://h/?a=b;token=PW", "http://h/?a=b;token=[removed, 2 bytes]"),
            ("http://h/cb#access_token=PW", "http://h/cb#access_token=[removed, 2 bytes]"),
            ("http://h/?to=http%3A%2F%2Fu%3APW%40h%2F", "http://h/?to=[removed, 26 bytes]"),
            ("http://h/?to=http%3A%2F%2Fh%2F%3Fa%3Db", "http://h/?to=http%3A%2F%2Fh%2F%3Fa%3Db"),
        ] {
            assert_eq!(String::from_utf8_lossy(&redact_url(url.as_bytes())), want, "{url}");
        }
        assert_eq!(
            redact_url(format!("http://h/{token}/x").as_bytes()),
            b"http://h/bcam_abcdefghij234567_***/x"
        );
        let kept = kept_fields(&fields(&[
            "Host: u:PW@h",
            "Referer: https://u:PW@h/",
            "X-Callback: see https://u:PW@h/ there",
            &format!("User-Agent: agent ({token})"),
        ]));
        for (name, value) in kept {
            let value = String::from_utf8_lossy(&value).into_owned();
            assert!(!value.contains("PW") && !value.contains("qrst"), "{name}: {value}");
        }
    }

    #[test]
    fn only_closed_lists_enter_event_bodies() {
        assert_eq!(method("PATCH"), "PATCH");
        assert_eq!(method("patch"), "other");
        assert_eq!(method("CUSTOMER-4711"), "other");
        let ty = |value: &str| media_type(&fields(&[&format!("Content-Type: {value}")]));
        assert_eq!(ty("Application/JSON; charset=utf-8").as_deref(), Some("application/json"));
        assert_eq!(ty("alice@example.com").as_deref(), Some("other"));
        assert_eq!(ty("text/a b").as_deref(), Some("other"));
        assert_eq!(media_type(&fields(&["A: b"])), None);
        assert_eq!(protocols(&[b"h2".to_vec(), b"\x0a\x0a".to_vec()]), ["h2", "other"]);
        assert_eq!(server_name(b"API.Example.com").as_deref(), Some("api.example.com"));
        assert_eq!(server_name(b"10.0.0.1"), None);
        assert_eq!(server_name(b"a\x1bb"), None);
    }

    #[test]
    fn a_trace_id_is_taken_from_one_traceparent_only() {
        let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
        let line = format!("traceparent: 00-{trace}-00f067aa0ba902b7-01");
        assert_eq!(trace_id(&fields(&[&line])).as_deref(), Some(trace));
        assert_eq!(trace_id(&fields(&[&line, &line])), None);
        assert_eq!(trace_id(&fields(&["traceparent: x"])), None);
    }
}
