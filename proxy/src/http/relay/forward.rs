//! Heads as we send them on: written anew from what was parsed, without anything that belongs to one hop.
//!
//! Invariant: framing fields, Host and Connection are ours; no credential for us and no field that a
//! Connection option names goes further.

use std::fmt::Write as _;

use crate::http::codec::fields::{Field, Fields};
use crate::http::codec::head::{Framing, RequestHead, ResponseHead, Version};
use crate::http::codec::target::{AbsoluteForm, HTTP_PORT};

/// Fields that concern one hop, or that we write ourselves. `Expect` is answered here; `Alt-Svc` would lead
/// the client around us.
const NOT_FORWARDED: [&str; 13] = [
    "connection",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "http2-settings",
    "host",
    "content-length",
    "expect",
    "alt-svc",
    "alt-used",
    "max-forwards",
];

/// The head of a request to its target.
pub(super) fn request_head(head: &RequestHead, form: &AbsoluteForm) -> Vec<u8> {
    let (method, target, host) = (&head.method, &form.origin_form, form.authority.host_field(HTTP_PORT));
    let mut out = format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\n").into_bytes();
    put_fields(&mut out, &head.fields);
    match head.body {
        Framing::Length(length) => put(&mut out, "Content-Length", length.to_string().as_bytes()),
        Framing::Chunked => put(&mut out, "Transfer-Encoding", b"chunked"),
        // A client that says 0 says so to the target too: some want it with POST.
        Framing::None if head.fields.all("content-length").next().is_some() => {
            put(&mut out, "Content-Length", b"0");
        }
        Framing::None | Framing::UntilClose => {}
    }
    out.extend_from_slice(b"Via: 1.1 bodycam\r\nConnection: close\r\n\r\n");
    out
}

/// The head of a response to a client that spoke `version`, and whether its body goes in chunks.
pub(super) fn response_head(head: &ResponseHead, version: Version, keep: bool) -> (Vec<u8>, bool) {
    let mut out = format!("HTTP/1.1 {} {}\r\n", head.status, head.reason).into_bytes();
    put_fields(&mut out, &head.fields);
    let mut chunked = false;
    match head.body {
        Framing::Length(length) => put(&mut out, "Content-Length", length.to_string().as_bytes()),
        Framing::Chunked | Framing::UntilClose => {
            chunked = version == Version::Http11;
            if chunked {
                put(&mut out, "Transfer-Encoding", b"chunked");
            }
        }
        Framing::None => {
            if let Some(length) = head.announced_length.filter(|_| head.status != 204) {
                put(&mut out, "Content-Length", length.to_string().as_bytes());
            }
        }
    }
    out.extend_from_slice(b"Via: 1.1 bodycam\r\n");
    put(&mut out, "Connection", if keep { b"keep-alive" } else { b"close" });
    out.extend_from_slice(b"\r\n");
    (out, chunked)
}

/// One chunk, or nothing for no bytes: an empty chunk would be the end.
pub(super) fn put_chunk(out: &mut Vec<u8>, data: &[u8]) {
    if !data.is_empty() {
        let mut size = String::new();
        let _ = write!(size, "{:x}\r\n", data.len());
        out.extend_from_slice(size.as_bytes());
        out.extend_from_slice(data);
        out.extend_from_slice(b"\r\n");
    }
}

/// The end of a body in chunks.
pub(super) const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

fn put_fields(out: &mut Vec<u8>, fields: &Fields) {
    for field in fields.iter().filter(|f| goes_further(f, fields)) {
        put(out, &field.name, &field.value);
    }
}

fn goes_further(field: &Field, fields: &Fields) -> bool {
    let name = &*field.name;
    let proxy = name.get(..6).is_some_and(|start| start.eq_ignore_ascii_case("proxy-"));
    !proxy
        && !NOT_FORWARDED.iter().any(|n| name.eq_ignore_ascii_case(n))
        && !fields.tokens("connection").any(|option| option.eq_ignore_ascii_case(name.as_bytes()))
}

fn put(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::codec::fields::Limits;
    use crate::http::codec::head::{request_scanner, response_scanner};

    const LIMITS: Limits = Limits { bytes: 4096, fields: 32, url: 1024 };

    fn forwarded(fields: &str) -> String {
        let bytes = format!("POST http://a.example/x HTTP/1.1\r\nHost: a.example\r\n{fields}\r\n");
        let head = RequestHead::read(&mut request_scanner(), bytes.as_bytes(), LIMITS).unwrap().unwrap();
        let form = AbsoluteForm::parse(&head.target, None).unwrap();
        String::from_utf8(request_head(&head, &form)).unwrap()
    }

    #[test]
    fn a_request_goes_on_without_what_belongs_to_this_hop() {
        let out = forwarded(
            "Proxy-Authorization: Basic x\r\nPROXY-Connection: keep-alive\r\nConnection: close, X-Hop ,x-other\r\nX-Hop: 1\r\nX-Other: 2\r\n\
             Keep-Alive: 5\r\nTE: trailers\r\nTrailer: X\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\nExpect: 100-continue\r\n\
             Authorization: Bearer t\r\nCookie: a=b\r\nAccept:\t*/*  \r\nContent-Length: 5\r\n",
        );
        assert_eq!(
            out,
            "POST /x HTTP/1.1\r\nHost: a.example\r\nAuthorization: Bearer t\r\nCookie: a=b\r\nAccept: */*\r\n\
             Content-Length: 5\r\nVia: 1.1 bodycam\r\nConnection: close\r\n\r\n"
        );
    }

    #[test]
    fn the_framing_of_a_request_is_written_once_and_by_us() {
        for (fields, want) in [
            ("Transfer-Encoding: Chunked\r\n", "\r\nTransfer-Encoding: chunked\r\n"),
            ("Content-Length: 0005\r\n", "\r\nContent-Length: 5\r\n"),
            ("Content-Length: 0\r\n", "\r\nContent-Length: 0\r\n"),
            ("Connection: content-length\r\nContent-Length: 5\r\n", "\r\nContent-Length: 5\r\n"),
            ("Connection: host\r\n", "\r\nHost: a.example\r\n"),
        ] {
            let out = forwarded(fields);
            assert_eq!(out.matches(want).count(), 1, "{fields}: {out}");
            assert_eq!(out.matches("Host:").count(), 1);
        }
    }

    #[test]
    fn a_response_is_framed_for_the_client_that_asked() {
        let framed = |fields: &str, method: &str, version| {
            let bytes = format!("HTTP/1.1 200 OK\r\n{fields}\r\n");
            let head = ResponseHead::read(&mut response_scanner(), bytes.as_bytes(), LIMITS, method)
                .unwrap()
                .unwrap();
            let (out, chunked) = response_head(&head, version, true);
            (String::from_utf8(out).unwrap(), chunked)
        };
        let chunked_fields = "Transfer-Encoding: chunked\r\n";
        assert!(framed(chunked_fields, "GET", Version::Http11).1);
        let (out, chunked) = framed(chunked_fields, "GET", Version::Http10);
        assert!(!chunked && !out.contains("Transfer-Encoding"));
        assert!(framed("", "GET", Version::Http11).1, "a body that ends with the connection");
        let (out, chunked) = framed("Content-Length: 7\r\n", "HEAD", Version::Http11);
        assert!(out.contains("Content-Length: 7\r\n") && !chunked);
        let (out, _) = framed(
            "Proxy-Authenticate: Basic\r\nAlt-Svc: h3=\":443\"\r\nSet-Cookie: a=b\r\nConnection: X-A\r\nX-A: b\r\nContent-Length: 1\r\n",
            "GET",
            Version::Http11,
        );
        assert_eq!(
            out,
            "HTTP/1.1 200 OK\r\nSet-Cookie: a=b\r\nContent-Length: 1\r\nVia: 1.1 bodycam\r\nConnection: keep-alive\r\n\r\n"
        );
    }
}
