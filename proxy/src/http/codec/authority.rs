//! Host and port: the one canonical form in which names are compared, resolved, recorded and sent.
//!
//! Names become lower-case A-labels (UTS 46) without a trailing dot. Addresses are read in the form of RFC 3986
//! only: octal, hexadecimal, decimal and short IPv4, zone ids and percent-encoding are refused, because every
//! resolver reads them in its own way. Invariant: two spellings of one destination give equal values.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use idna::uts46::{AsciiDenyList, DnsLength, Hyphens, Uts46};
use thiserror::Error;

/// A canonical host.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Host {
    /// A name: lower-case A-labels, no trailing dot.
    Name(String),
    /// An address; never an IPv4-mapped IPv6 one.
    Address(IpAddr),
}

/// Host and port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Authority {
    /// Host.
    pub host: Host,
    /// Port, not 0.
    pub port: u16,
}

/// An authority that is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum AuthorityError {
    #[error("it holds a user or a password")]
    Userinfo,
    #[error("the host is empty")]
    Empty,
    #[error("the host holds a character that no host name has")]
    Character,
    #[error("a label of the host is empty, or the name is too long")]
    Label,
    #[error("the internationalised name is invalid")]
    Idna,
    #[error("the IPv4 address is not four decimal numbers")]
    Ipv4,
    #[error("the IPv6 address is invalid or has a zone id")]
    Ipv6,
    #[error("the port is missing or is not a number from 1 to 65535")]
    Port,
}

impl AuthorityError {
    /// The reason code in the record.
    pub fn code(self) -> &'static str {
        match self {
            AuthorityError::Userinfo => "userinfo",
            AuthorityError::Port => "bad-port",
            _ => "bad-host",
        }
    }
}

impl Authority {
    /// Reads `host[:port]`; without a port `default_port` stands in.
    pub fn parse(text: &[u8], default_port: Option<u16>) -> Result<Self, AuthorityError> {
        if text.contains(&b'@') {
            return Err(AuthorityError::Userinfo);
        }
        let (host, port) = if text.starts_with(b"[") {
            let end = text.iter().position(|b| *b == b']').ok_or(AuthorityError::Ipv6)?;
            let (host, port) = text.split_at_checked(end + 1).ok_or(AuthorityError::Ipv6)?;
            (host, (!port.is_empty()).then_some(port))
        } else {
            let colon = text.iter().position(|b| *b == b':').unwrap_or(text.len());
            let (host, port) = text.split_at_checked(colon).ok_or(AuthorityError::Empty)?;
            (host, (!port.is_empty()).then_some(port))
        };
        let port = match port {
            None => default_port.ok_or(AuthorityError::Port)?,
            Some(port) => parse_port(port.strip_prefix(b":").ok_or(AuthorityError::Port)?)?,
        };
        Ok(Self { host: Host::parse(host)?, port })
    }

    /// As it stands in a Host field: without the port when it is `default_port`.
    pub fn host_field(&self, default_port: u16) -> String {
        if self.port == default_port { self.host.bracketed() } else { self.to_string() }
    }
}

impl Host {
    /// Reads a host; IPv6 addresses stand in brackets.
    pub fn parse(text: &[u8]) -> Result<Self, AuthorityError> {
        if let Some(inner) = text.strip_prefix(b"[") {
            let inner = inner.strip_suffix(b"]").and_then(|t| std::str::from_utf8(t).ok());
            let address: Ipv6Addr = inner.and_then(|t| t.parse().ok()).ok_or(AuthorityError::Ipv6)?;
            return Ok(Host::Address(IpAddr::V6(address).to_canonical()));
        }
        let ascii = text.is_ascii();
        let spelled = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_') || !b.is_ascii();
        if text.is_empty() {
            return Err(AuthorityError::Empty);
        }
        if !text.iter().all(spelled) {
            return Err(AuthorityError::Character);
        }
        if ascii && looks_numeric(text) {
            let text = std::str::from_utf8(text).map_err(|_| AuthorityError::Ipv4)?;
            let address: Ipv4Addr = text.parse().map_err(|_| AuthorityError::Ipv4)?;
            return Ok(Host::Address(IpAddr::V4(address)));
        }
        let name = Uts46::new()
            .to_ascii(text, AsciiDenyList::URL, Hyphens::Allow, DnsLength::Ignore)
            .map_err(|_| AuthorityError::Idna)?;
        let name = name.strip_suffix('.').unwrap_or(&name);
        let label = |l: &str| (1..=63).contains(&l.len()) && l.bytes().all(|b| spelled(&b) && b.is_ascii());
        if name.len() > 253 || !name.split('.').all(label) {
            return Err(AuthorityError::Label);
        }
        if looks_numeric(name.as_bytes()) {
            return Err(AuthorityError::Ipv4);
        }
        Ok(Host::Name(name.to_ascii_lowercase()))
    }

    /// As it stands in a URL: IPv6 in brackets.
    pub fn bracketed(&self) -> String {
        match self {
            Host::Address(IpAddr::V6(address)) => format!("[{address}]"),
            host => host.to_string(),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Name(name) => f.write_str(name),
            Host::Address(address) => address.fmt(f),
        }
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host.bracketed(), self.port)
    }
}

/// A port from 1 to 65535 in plain digits.
pub fn parse_port(text: &[u8]) -> Result<u16, AuthorityError> {
    let plain = !text.is_empty() && !text.starts_with(b"0") && text.iter().all(u8::is_ascii_digit);
    let text = std::str::from_utf8(text).ok().filter(|_| plain).ok_or(AuthorityError::Port)?;
    text.parse().map_err(|_| AuthorityError::Port)
}

/// Whether a resolver might read this as an IPv4 address (the last label is a number in any base: the rule of
/// the WHATWG URL standard).
fn looks_numeric(name: &[u8]) -> bool {
    let name = name.strip_suffix(b".").unwrap_or(name);
    let last = name.rsplit(|b| *b == b'.').next().unwrap_or_default();
    let hex = last.strip_prefix(b"0x").or_else(|| last.strip_prefix(b"0X"));
    match hex {
        Some(digits) => digits.iter().all(u8::is_ascii_hexdigit),
        None => !last.is_empty() && last.iter().all(u8::is_ascii_digit),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn spellings_of_one_destination_are_one_value() {
        for (text, want) in [
            ("example.com:443", "example.com:443"),
            ("EXAMPLE.com:443", "example.com:443"),
            ("example.com.:443", "example.com:443"),
            ("example.com", "example.com:80"),
            ("xn--bcher-kva.example", "xn--bcher-kva.example:80"),
            ("bücher.example", "xn--bcher-kva.example:80"),
            ("BÜCHER.example", "xn--bcher-kva.example:80"),
            ("my_bucket.example", "my_bucket.example:80"),
            ("r3---sn-abc.example", "r3---sn-abc.example:80"),
            ("localhost:8080", "localhost:8080"),
            ("10.0.0.1", "10.0.0.1:80"),
            ("[::1]:443", "[::1]:443"),
            ("[::ffff:10.0.0.1]", "10.0.0.1:80"),
            ("[::ffff:a9fe:a9fe]:80", "169.254.169.254:80"),
            ("[2001:DB8::1]", "[2001:db8::1]:80"),
        ] {
            let authority = Authority::parse(text.as_bytes(), Some(80)).unwrap();
            assert_eq!(authority.to_string(), want, "{text}");
        }
    }

    #[test]
    fn spellings_that_readers_disagree_about_are_refused() {
        use AuthorityError::*;
        for (text, want) in [
            ("", Empty),
            (":80", Empty),
            ("user@example.com", Userinfo),
            ("user:pw@example.com:80", Userinfo),
            ("allowed.example@evil.example", Userinfo),
            ("example.com:", Port),
            ("example.com:0", Port),
            ("example.com:080", Port),
            ("example.com:+80", Port),
            ("example.com:65536", Port),
            ("example.com:80:80", Port),
            ("example.com:8o", Port),
            ("::1", Port),
            ("fe80::1", Port),
            ("example.com..", Label),
            (".example.com", Label),
            ("a..b", Label),
            (".", Label),
            ("exa mple.com", Character),
            ("example.com%00", Character),
            ("ex%61mple.com", Character),
            ("example.com\\evil", Character),
            ("example.com;a", Character),
            ("*.example.com", Character),
            ("127.1", Ipv4),
            ("0", Ipv4),
            ("2130706433", Ipv4),
            ("0177.0.0.1", Ipv4),
            ("0x7f.0.0.1", Ipv4),
            ("0x7f000001", Ipv4),
            ("127.0.0.0x1", Ipv4),
            ("0x", Ipv4),
            ("127.0.0.1.", Ipv4),
            ("127.0.0.256", Ipv4),
            ("1.2.3.4.5", Ipv4),
            ("evil.1", Ipv4),
            ("１２７.0.0.1", Ipv4),
            ("127。0。0。1", Ipv4),
            ("[::1", Ipv6),
            ("[::1]x", Port),
            ("[fe80::1%25eth0]", Ipv6),
            ("[fe80::1%eth0]", Ipv6),
            ("[127.0.0.1]", Ipv6),
            ("[v1.x]", Ipv6),
            ("xn--a-ä.example", Idna),
            ("xn--0.example", Idna),
        ] {
            assert_eq!(Authority::parse(text.as_bytes(), Some(80)).unwrap_err(), want, "{text}");
        }
        let long = format!("{}.example", "a".repeat(64));
        assert_eq!(Authority::parse(long.as_bytes(), Some(80)).unwrap_err(), Label);
        assert_eq!(Authority::parse(b"exam\xffple.com", Some(80)).unwrap_err(), Idna);
        assert_eq!(Authority::parse(b"example.com", None).unwrap_err(), Port);
    }

    proptest! {
        #[test]
        fn a_canonical_authority_reads_as_itself(text in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(authority) = Authority::parse(&text, Some(80)) {
                let again = Authority::parse(authority.to_string().as_bytes(), None);
                prop_assert_eq!(again, Ok(authority));
            }
        }

        #[test]
        fn likely_authorities_never_panic_and_are_stable(text in "[a-z0-9x.\\[\\]:%@_-]{0,24}") {
            if let Ok(authority) = Authority::parse(text.as_bytes(), Some(80)) {
                prop_assert_eq!(Authority::parse(authority.to_string().as_bytes(), None), Ok(authority));
            }
        }
    }
}
