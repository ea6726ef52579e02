//! Request and response heads (RFC 9112), checked by our own code before anything else sees them.
//!
//! Invariant: a head that comes out of here says exactly one thing about where its message ends: `body` holds
//! it, and the fields that say so are never copied.

use thiserror::Error;

use super::fields::{Fields, Limits, Scanner, Section, is_token, lines};

/// HTTP version of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0, which Python's CONNECT still speaks.
    Http10,
    /// HTTP/1.1.
    Http11,
}

/// Where a message ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// After the head.
    None,
    /// After this many bytes.
    Length(u64),
    /// With the last chunk.
    Chunked,
    /// With the connection; responses only.
    UntilClose,
}

/// A request head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestHead {
    /// Method, a token.
    pub method: String,
    /// Request target as sent.
    pub target: Vec<u8>,
    /// Version.
    pub version: Version,
    /// Fields.
    pub fields: Fields,
    /// Where the request ends.
    pub body: Framing,
    /// Whether the client waits for a 100 before it sends the body.
    pub expects_continue: bool,
    /// Bytes of the head.
    pub bytes: usize,
}

/// A response head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResponseHead {
    /// Status code, 100 to 599.
    pub status: u16,
    /// Reason phrase, printable.
    pub reason: String,
    /// Fields.
    pub fields: Fields,
    /// Where the response ends.
    pub body: Framing,
    /// Length that a response without a body (HEAD, 304) announces.
    pub announced_length: Option<u64>,
    /// Bytes of the head.
    pub bytes: usize,
}

/// Why a head is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Error)]
pub enum HeadError {
    #[error("a line ends with LF alone")]
    BareLf,
    #[error("a CR stands without its LF")]
    BareCr,
    #[error("a control byte")]
    ControlByte,
    #[error("the first line is not one of HTTP/1")]
    FirstLine,
    #[error("the version is neither HTTP/1.1 nor HTTP/1.0")]
    Version,
    #[error("a field is continued on the next line")]
    ObsFold,
    #[error("a field line has no colon")]
    NoColon,
    #[error("white space before the colon of a field")]
    SpaceBeforeColon,
    #[error("a field name is not a token")]
    FieldName,
    #[error("the head is larger than the limit")]
    TooLarge,
    #[error("more fields than the limit")]
    TooManyFields,
    #[error("the request target is longer than the limit")]
    UrlTooLong,
    #[error("no Host field")]
    HostMissing,
    #[error("more than one Host field")]
    HostRepeated,
    #[error("Content-Length is not one decimal number")]
    LengthInvalid,
    #[error("more than one Content-Length field")]
    LengthRepeated,
    #[error("both Content-Length and Transfer-Encoding")]
    LengthAndEncoding,
    #[error("Transfer-Encoding is not exactly 'chunked'")]
    EncodingUnknown,
    #[error("more than one Transfer-Encoding field")]
    EncodingRepeated,
    #[error("Transfer-Encoding in HTTP/1.0")]
    EncodingInHttp10,
    #[error("a body on CONNECT")]
    ConnectBody,
    #[error("an expectation other than 100-continue")]
    Expectation,
    #[error("more than one Proxy-Authorization field")]
    CredentialRepeated,
    #[error("more than one Content-Type field")]
    TypeRepeated,
}

impl HeadError {
    /// The reason code in the record.
    pub fn code(self) -> &'static str {
        match self {
            HeadError::BareLf => "bare-lf",
            HeadError::BareCr => "bare-cr",
            HeadError::ControlByte => "control-byte",
            HeadError::FirstLine => "first-line",
            HeadError::Version => "version",
            HeadError::ObsFold => "obs-fold",
            HeadError::NoColon => "no-colon",
            HeadError::SpaceBeforeColon => "space-before-colon",
            HeadError::FieldName => "field-name",
            HeadError::TooLarge => "head-bytes",
            HeadError::TooManyFields => "head-fields",
            HeadError::UrlTooLong => "url-bytes",
            HeadError::HostMissing => "host-missing",
            HeadError::HostRepeated => "host-repeated",
            HeadError::LengthInvalid => "length-invalid",
            HeadError::LengthRepeated => "length-repeated",
            HeadError::LengthAndEncoding => "length-and-encoding",
            HeadError::EncodingUnknown => "encoding-unknown",
            HeadError::EncodingRepeated => "encoding-repeated",
            HeadError::EncodingInHttp10 => "encoding-in-http10",
            HeadError::ConnectBody => "connect-body",
            HeadError::Expectation => "expectation",
            HeadError::CredentialRepeated => "credential-repeated",
            HeadError::TypeRepeated => "type-repeated",
        }
    }

    /// The status that the client gets.
    pub fn status(self) -> u16 {
        match self {
            HeadError::TooLarge | HeadError::TooManyFields => 431,
            HeadError::UrlTooLong => 414,
            HeadError::Version => 505,
            HeadError::Expectation => 417,
            _ => 400,
        }
    }
}

impl RequestHead {
    /// The head in `buf`, once it is whole.
    pub fn read(scanner: &mut Scanner, buf: &[u8], limits: Limits) -> Result<Option<Self>, HeadError> {
        match scanner.end(buf, limits)? {
            None => Ok(None),
            Some(end) => Self::parse(buf.get(..end).unwrap_or_default(), limits).map(Some),
        }
    }

    /// Whether the connection ends with this exchange.
    pub fn closes(&self) -> bool {
        self.version == Version::Http10 || self.fields.has_token("connection", "close")
    }

    /// The first lines of `head`, which ends with an empty line.
    fn parse(head: &[u8], limits: Limits) -> Result<Self, HeadError> {
        let (line, rest) = first_line(head)?;
        let mut parts = line.split(|b| *b == b' ');
        let (Some(method), Some(target), Some(version), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(HeadError::FirstLine);
        };
        if !is_token(method) || target.is_empty() {
            return Err(HeadError::FirstLine);
        }
        if target.len() > limits.url {
            return Err(HeadError::UrlTooLong);
        }
        let version = match version {
            b"HTTP/1.1" => Version::Http11,
            b"HTTP/1.0" => Version::Http10,
            v if v.starts_with(b"HTTP/") => return Err(HeadError::Version),
            _ => return Err(HeadError::FirstLine),
        };
        let fields = Fields::parse(rest, limits.fields)?;
        let method = String::from_utf8(method.to_vec()).map_err(|_| HeadError::FirstLine)?;
        if fields.at_most_one("host", HeadError::HostRepeated)?.is_none() && version == Version::Http11 {
            return Err(HeadError::HostMissing);
        }
        fields.at_most_one("proxy-authorization", HeadError::CredentialRepeated)?;
        fields.at_most_one("content-type", HeadError::TypeRepeated)?;
        let body = match (declared_length(&fields)?, is_chunked(&fields, version)?) {
            (_, true) => Framing::Chunked,
            (Some(0) | None, false) => Framing::None,
            (Some(length), false) => Framing::Length(length),
        };
        if method == "CONNECT" && body != Framing::None {
            return Err(HeadError::ConnectBody);
        }
        let expects_continue = match fields.at_most_one("expect", HeadError::Expectation)? {
            None => false,
            Some(v) if v.eq_ignore_ascii_case(b"100-continue") => {
                version == Version::Http11 && body != Framing::None
            }
            Some(_) => return Err(HeadError::Expectation),
        };
        let target = target.to_vec();
        Ok(Self { method, target, version, fields, body, expects_continue, bytes: head.len() })
    }
}

impl ResponseHead {
    /// The head in `buf` of a response to `method`, once it is whole.
    pub fn read(
        scanner: &mut Scanner,
        buf: &[u8],
        limits: Limits,
        method: &str,
    ) -> Result<Option<Self>, HeadError> {
        match scanner.end(buf, limits)? {
            None => Ok(None),
            Some(end) => Self::parse(buf.get(..end).unwrap_or_default(), limits, method).map(Some),
        }
    }

    fn parse(head: &[u8], limits: Limits, method: &str) -> Result<Self, HeadError> {
        let (line, rest) = first_line(head)?;
        let (version, line) = if let Some(line) = line.strip_prefix(b"HTTP/1.1 ") {
            (Version::Http11, line)
        } else if let Some(line) = line.strip_prefix(b"HTTP/1.0 ") {
            (Version::Http10, line)
        } else {
            return Err(HeadError::Version);
        };
        let (code, reason) = line.split_at_checked(3).ok_or(HeadError::FirstLine)?;
        let reason = match reason.split_first() {
            None => &[][..],
            Some((b' ', reason)) => reason,
            Some(_) => return Err(HeadError::FirstLine),
        };
        let status = decimal(code).and_then(|n| u16::try_from(n).ok());
        let status = status.filter(|s| (100..600).contains(s)).ok_or(HeadError::FirstLine)?;
        let fields = Fields::parse(rest, limits.fields)?;
        let (length, chunked) = (declared_length(&fields)?, is_chunked(&fields, version)?);
        let bodiless = method == "HEAD" || status < 200 || status == 204 || status == 304;
        let body = match (length, chunked) {
            _ if bodiless => Framing::None,
            (_, true) => Framing::Chunked,
            (Some(0), false) => Framing::None,
            (Some(length), false) => Framing::Length(length),
            (None, false) => Framing::UntilClose,
        };
        let reason = reason.iter().map(|b| if b.is_ascii_graphic() { char::from(*b) } else { ' ' }).collect();
        Ok(Self { status, reason, fields, body, announced_length: length, bytes: head.len() })
    }
}

/// A scanner for request heads.
pub fn request_scanner() -> Scanner {
    Scanner::new(Section::Request)
}

/// A scanner for response heads.
pub fn response_scanner() -> Scanner {
    Scanner::new(Section::Response)
}

/// A number of ASCII digits only, without sign, space or list.
pub fn decimal(bytes: &[u8]) -> Option<u64> {
    if bytes.is_empty() || bytes.len() > 18 || !bytes.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(bytes.iter().fold(0, |n, b| n * 10 + u64::from(b - b'0')))
}

fn first_line(head: &[u8]) -> Result<(&[u8], &[u8]), HeadError> {
    let line = lines(head).next().ok_or(HeadError::FirstLine)?;
    Ok((line, head.get(line.len() + 2..).unwrap_or_default()))
}

fn declared_length(fields: &Fields) -> Result<Option<u64>, HeadError> {
    match fields.at_most_one("content-length", HeadError::LengthRepeated)? {
        None => Ok(None),
        Some(value) => decimal(value).map(Some).ok_or(HeadError::LengthInvalid),
    }
}

fn is_chunked(fields: &Fields, version: Version) -> Result<bool, HeadError> {
    match fields.at_most_one("transfer-encoding", HeadError::EncodingRepeated)? {
        None => Ok(false),
        Some(_) if fields.all("content-length").next().is_some() => Err(HeadError::LengthAndEncoding),
        Some(_) if version == Version::Http10 => Err(HeadError::EncodingInHttp10),
        Some(value) if value.eq_ignore_ascii_case(b"chunked") => Ok(true),
        Some(_) => Err(HeadError::EncodingUnknown),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMITS: Limits = Limits { bytes: 4096, fields: 16, url: 1024 };

    fn request(bytes: &[u8]) -> Result<Option<RequestHead>, HeadError> {
        RequestHead::read(&mut request_scanner(), bytes, LIMITS)
    }

    fn response(bytes: &[u8], method: &str) -> Result<Option<ResponseHead>, HeadError> {
        ResponseHead::read(&mut response_scanner(), bytes, LIMITS, method)
    }

    /// The request that the hostile rows are variations of.
    fn with(lines: &str) -> Vec<u8> {
        format!("POST http://a.example/ HTTP/1.1\r\nHost: a.example\r\n{lines}\r\n").into_bytes()
    }

    #[test]
    fn well_formed_requests_say_where_they_end() {
        for (lines, body, expects) in [
            ("", Framing::None, false),
            ("Content-Length: 0\r\n", Framing::None, false),
            ("content-length:5\r\n", Framing::Length(5), false),
            ("Content-Length: \t 5 \t\r\nExpect: 100-Continue\r\n", Framing::Length(5), true),
            ("Transfer-Encoding: chunked\r\n", Framing::Chunked, false),
            ("Transfer-Encoding: CHUNKED\r\nExpect: 100-continue\r\n", Framing::Chunked, true),
            ("Expect: 100-continue\r\n", Framing::None, false),
            ("X-Empty:\r\nX-Utf8: \u{fc}\r\n", Framing::None, false),
        ] {
            let bytes = with(lines);
            let head = request(&bytes).unwrap().unwrap();
            assert_eq!(
                (head.body, head.expects_continue, head.bytes),
                (body, expects, bytes.len()),
                "{lines}"
            );
        }
        let old = request(b"CONNECT a.example:443 HTTP/1.0\r\n\r\n").unwrap().unwrap();
        assert!(old.version == Version::Http10 && old.closes());
        assert_eq!(request(b"GET http://a.example/ HTTP/1.1\r\nHost: a.exam").unwrap(), None);
    }

    #[test]
    fn a_head_is_refused_from_the_first_byte_beyond_the_limit() {
        let head = |length: usize| {
            let start = "GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\nX: ";
            format!("{start}{}\r\n\r\n", "y".repeat(length - start.len() - 4)).into_bytes()
        };
        let longest = request(&head(LIMITS.bytes)).unwrap().unwrap();
        assert_eq!(longest.bytes, LIMITS.bytes);
        for beyond in 1..4 {
            assert_eq!(request(&head(LIMITS.bytes + beyond)), Err(HeadError::TooLarge), "{beyond}");
        }
    }

    #[test]
    fn hostile_request_heads_are_refused() {
        use HeadError::*;
        let flood = "X: y\r\n".repeat(17);
        let large = format!("X: {}\r\n", "y".repeat(5000));
        let line = |first: &str| format!("{first}\r\nHost: a.example\r\n\r\n").into_bytes();
        let long_url = line(&format!("GET http://a.example/{} HTTP/1.1", "a".repeat(1100)));
        let endless_url = format!("GET http://a.example/{}", "a".repeat(1400)).into_bytes();
        let rows: Vec<(Vec<u8>, HeadError)> = vec![
            // framing
            (with("Content-Length: 5\r\nContent-Length: 5\r\n"), LengthRepeated),
            (with("Content-Length: 5\r\nContent-Length: 6\r\n"), LengthRepeated),
            (with("Content-Length: 5, 5\r\n"), LengthInvalid),
            (with("Content-Length: 5 5\r\n"), LengthInvalid),
            (with("Content-Length: +5\r\n"), LengthInvalid),
            (with("Content-Length: -5\r\n"), LengthInvalid),
            (with("Content-Length: 0x5\r\n"), LengthInvalid),
            (with("Content-Length: 5.0\r\n"), LengthInvalid),
            (with("Content-Length: 1e3\r\n"), LengthInvalid),
            (with("Content-Length:\r\n"), LengthInvalid),
            (with("Content-Length: 9999999999999999999\r\n"), LengthInvalid),
            (with("Content-Length: \u{665}\r\n"), LengthInvalid),
            (with("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"), LengthAndEncoding),
            (with("Transfer-Encoding: chunked\r\nContent-Length: 0\r\n"), LengthAndEncoding),
            (with("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"), EncodingRepeated),
            (with("Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n"), EncodingRepeated),
            (with("Transfer-Encoding: gzip, chunked\r\n"), EncodingUnknown),
            (with("Transfer-Encoding: chunked, identity\r\n"), EncodingUnknown),
            (with("Transfer-Encoding: chunked,\r\n"), EncodingUnknown),
            (with("Transfer-Encoding: xchunked\r\n"), EncodingUnknown),
            (with("Transfer-Encoding: \"chunked\"\r\n"), EncodingUnknown),
            (with("Transfer-Encoding: chunked;q=1\r\n"), EncodingUnknown),
            (with("Transfer-Encoding: identity\r\n"), EncodingUnknown),
            (with("Transfer-Encoding:\r\n"), EncodingUnknown),
            (with("Transfer-Encoding: \x0bchunked\r\n"), ControlByte),
            (with("Transfer-Encoding : chunked\r\n"), SpaceBeforeColon),
            (with("Transfer-Encoding\t: chunked\r\n"), SpaceBeforeColon),
            (with("Content-Length : 5\r\n"), SpaceBeforeColon),
            (with("Transfer-Encoding:\r\n chunked\r\n"), ObsFold),
            (b"POST http://a/ HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec(), EncodingInHttp10),
            (b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\nContent-Length: 3\r\n\r\n".to_vec(), ConnectBody),
            (
                b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec(),
                ConnectBody,
            ),
            // lines
            (b"GET http://a.example/ HTTP/1.1\nHost: a.example\n\n".to_vec(), BareLf),
            (with("A: b\nC: d\r\n"), BareLf),
            (with("A: b\rC: d\r\n"), BareCr),
            (with("A: b\r\r\n"), BareCr),
            (with("A: b\r\n folded\r\n"), ObsFold),
            (with("A: b\r\n\tfolded\r\n"), ObsFold),
            (with(" A: b\r\n"), ObsFold),
            (with("A: b\0c\r\n"), ControlByte),
            (with("A\0: b\r\n"), ControlByte),
            (with("A: b\x1b[31m\r\n"), ControlByte),
            (with("A: b\x7f\r\n"), ControlByte),
            (with(": b\r\n"), FieldName),
            (with("A B: c\r\n"), FieldName),
            (with("A(: c\r\n"), FieldName),
            (with("\u{fc}: c\r\n"), FieldName),
            (with("no colon\r\n"), NoColon),
            // first line
            (b"\r\nGET http://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n".to_vec(), FirstLine),
            (b"\x16\x03\x01\x02\x00\x01\x00".to_vec(), ControlByte),
            (b"\x80\x2e\x01\x03".to_vec(), FirstLine),
            (line("GET http://a.example/"), FirstLine),
            (line("GET  http://a.example/ HTTP/1.1"), FirstLine),
            (line("GET http://a.example/ HTTP/1.1 "), FirstLine),
            (line("GET http://a.example/ x HTTP/1.1"), FirstLine),
            (line(" GET http://a.example/ HTTP/1.1"), FirstLine),
            (line("G\u{fc}T http://a.example/ HTTP/1.1"), FirstLine),
            (line("GET(x) http://a.example/ HTTP/1.1"), FirstLine),
            (line("GET http://a.example/ http/1.1"), FirstLine),
            (line("GET http://a.example/ ICAP/1.0"), FirstLine),
            (line("GET http://a.example/ HTTP/1.2"), Version),
            (line("GET http://a.example/ HTTP/2.0"), Version),
            (line("GET http://a.example/ HTTP/1.10"), Version),
            (line("PRI * HTTP/2.0"), Version),
            (line("GET http://a.example/ HTTP/0.9"), Version),
            // Host and others that must be single
            (b"GET http://a.example/ HTTP/1.1\r\n\r\n".to_vec(), HostMissing),
            (with("Host: a.example\r\n"), HostRepeated),
            (with("hOST: evil.example\r\n"), HostRepeated),
            (with("Proxy-Authorization: Basic a\r\nProxy-Authorization: Basic b\r\n"), CredentialRepeated),
            (with("Content-Type: a/b\r\nContent-Type: c/d\r\n"), TypeRepeated),
            (with("Expect: 200-ok\r\n"), Expectation),
            (with("Expect: 100-continue\r\nExpect: 100-continue\r\n"), Expectation),
            // floods
            (with(&flood), TooManyFields),
            (with(&large), TooLarge),
            (long_url, UrlTooLong),
            (endless_url, UrlTooLong),
            (vec![b'A'; 5000], UrlTooLong),
        ];
        for (bytes, want) in rows {
            assert_eq!(request(&bytes).unwrap_err(), want, "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn responses_say_where_they_end() {
        for (bytes, method, status, body) in [
            ("HTTP/1.1 200 OK\r\n\r\n", "GET", 200, Framing::UntilClose),
            ("HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\n", "GET", 200, Framing::Length(3)),
            ("HTTP/1.1 200 \r\nTransfer-Encoding: chunked\r\n\r\n", "GET", 200, Framing::Chunked),
            ("HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", "GET", 200, Framing::None),
            ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", "HEAD", 200, Framing::None),
            ("HTTP/1.1 204 No Content\r\nContent-Length: 3\r\n\r\n", "GET", 204, Framing::None),
            ("HTTP/1.1 304 Not Modified\r\nContent-Length: 3\r\n\r\n", "GET", 304, Framing::None),
            ("HTTP/1.1 100 Continue\r\n\r\n", "POST", 100, Framing::None),
        ] {
            let head = response(bytes.as_bytes(), method).unwrap().unwrap();
            assert_eq!((head.status, head.body), (status, body), "{bytes}");
        }
        let head = response(b"HTTP/1.1 404 N\xf6t\t Found\r\n\r\n", "GET").unwrap().unwrap();
        assert_eq!(head.reason, "N t  Found");
    }

    #[test]
    fn hostile_responses_are_refused() {
        use HeadError::*;
        for (bytes, want) in [
            ("HTTP/1.1 200 OK\nContent-Length: 3\n\n", BareLf),
            ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n", LengthRepeated),
            ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", LengthAndEncoding),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", EncodingUnknown),
            ("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", EncodingInHttp10),
            ("HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n", ObsFold),
            ("HTTP/1.1 200 OK\r\nA : b\r\n\r\n", SpaceBeforeColon),
            ("HTTP/1.1 2000 OK\r\n\r\n", FirstLine),
            ("HTTP/1.1 20 OK\r\n\r\n", FirstLine),
            ("HTTP/1.1 600 OK\r\n\r\n", FirstLine),
            ("HTTP/1.1 099 OK\r\n\r\n", FirstLine),
            ("HTTP/2 200 OK\r\n\r\n", Version),
            ("ICY 200 OK\r\n\r\n", FirstLine),
            ("<html>", FirstLine),
            ("\r\nHTTP/1.1 200 OK\r\n\r\n", FirstLine),
        ] {
            assert_eq!(response(bytes.as_bytes(), "GET").unwrap_err(), want, "{bytes}");
        }
    }

    fn token() -> impl Strategy<Value = &'static str> {
        prop_oneof![
            Just("GET "),
            Just("POST "),
            Just("CONNECT "),
            Just("http://a.example/"),
            Just("a.example:443"),
            Just(" HTTP/1.1\r\n"),
            Just(" HTTP/1.0\r\n"),
            Just("Host: a.example\r\n"),
            Just("Content-Length: 5\r\n"),
            Just("Transfer-Encoding: chunked\r\n"),
            Just("\r\n"),
            Just("\n"),
            Just("\r"),
            Just(" "),
            Just("A: b"),
            Just(":"),
            Just("\0"),
            Just("\u{fc}"),
            Just("Expect: 100-continue\r\n"),
        ]
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_head_and_verdict(tokens in proptest::collection::vec(token(), 0..14)) {
            let bytes = tokens.concat().into_bytes();
            let whole = request(&bytes);
            let mut scanner = request_scanner();
            let mut pieces = Ok(None);
            for to in 0..=bytes.len() {
                pieces = RequestHead::read(&mut scanner, &bytes[..to], LIMITS);
                if !matches!(pieces, Ok(None)) { break; }
            }
            prop_assert_eq!(pieces, whole);
        }

        #[test]
        fn what_we_accept_another_parser_reads_alike(tokens in proptest::collection::vec(token(), 0..14)) {
            let bytes = tokens.concat().into_bytes();
            if let Ok(Some(head)) = request(&bytes) {
                let mut fields = [httparse::EMPTY_HEADER; 32];
                let mut other = httparse::Request::new(&mut fields);
                let status = other.parse(&bytes).unwrap();
                prop_assert_eq!(status, httparse::Status::Complete(head.bytes));
                prop_assert_eq!(other.method, Some(head.method.as_str()));
                prop_assert_eq!(other.path.map(str::as_bytes), Some(head.target.as_slice()));
                prop_assert_eq!(other.headers.len(), head.fields.iter().count());
                for (ours, theirs) in head.fields.iter().zip(other.headers.iter()) {
                    prop_assert_eq!((&*ours.name, &*ours.value), (theirs.name, theirs.value));
                }
            }
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = request(&bytes);
            let _ = response(&bytes, "GET");
        }
    }
}
