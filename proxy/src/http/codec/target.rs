//! Request targets: absolute-form for requests, authority-form for CONNECT (RFC 9112 §3.2), nothing else.

use thiserror::Error;

use super::authority::{Authority, AuthorityError};

/// Port of `http`.
pub const HTTP_PORT: u16 = 80;

/// An `http` URL as a request target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AbsoluteForm {
    /// Destination.
    pub authority: Authority,
    /// Path and query in origin-form, as sent; `/` when the path was empty.
    pub origin_form: String,
}

/// A request target that is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum TargetError {
    #[error("this is a forward proxy: the target of a request is a whole URL, of CONNECT host:port")]
    NotAbsolute,
    #[error("only http URLs are requested in clear; https goes through CONNECT")]
    Scheme,
    #[error("the authority is refused: {0}")]
    Authority(AuthorityError),
    #[error("a fragment is never sent")]
    Fragment,
    #[error("the path or query holds a character that no URL has, or a broken percent-encoding")]
    Character,
    #[error("the Host field names another destination")]
    HostMismatch,
}

impl TargetError {
    /// The reason code in the record.
    pub fn code(self) -> &'static str {
        match self {
            TargetError::NotAbsolute => "not-absolute-form",
            TargetError::Scheme => "scheme-not-allowed",
            TargetError::Authority(error) => error.code(),
            TargetError::Fragment => "fragment",
            TargetError::Character => "bad-url",
            TargetError::HostMismatch => "authority-mismatch",
        }
    }

    /// The status that the client gets.
    pub fn status(self) -> u16 {
        match self {
            TargetError::HostMismatch => 421,
            _ => 400,
        }
    }
}

impl AbsoluteForm {
    /// Reads the target of a request; `host_field` is the value of its Host field, if there was one.
    pub fn parse(target: &[u8], host_field: Option<&[u8]>) -> Result<Self, TargetError> {
        let colon = target.windows(3).position(|w| w == b"://").ok_or(TargetError::NotAbsolute)?;
        let (scheme, rest) = target.split_at_checked(colon).ok_or(TargetError::NotAbsolute)?;
        if scheme.is_empty() || !scheme.iter().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(b)) {
            return Err(TargetError::NotAbsolute);
        }
        if !scheme.eq_ignore_ascii_case(b"http") {
            return Err(TargetError::Scheme);
        }
        let rest = rest.get(3..).unwrap_or_default();
        if rest.contains(&b'#') {
            return Err(TargetError::Fragment);
        }
        let end = rest.iter().position(|b| matches!(b, b'/' | b'?')).unwrap_or(rest.len());
        let (authority, path) = rest.split_at_checked(end).ok_or(TargetError::NotAbsolute)?;
        let authority = Authority::parse(authority, Some(HTTP_PORT)).map_err(TargetError::Authority)?;
        if !is_path_and_query(path) {
            return Err(TargetError::Character);
        }
        let path = std::str::from_utf8(path).map_err(|_| TargetError::Character)?;
        let origin_form = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        check_host(host_field, &authority, HTTP_PORT)?;
        Ok(Self { authority, origin_form })
    }

    /// The URL in canonical form.
    pub fn url(&self) -> String {
        format!("http://{}{}", self.authority.host_field(HTTP_PORT), self.origin_form)
    }
}

/// Reads the target of a CONNECT.
pub fn authority_form(target: &[u8], host_field: Option<&[u8]>) -> Result<Authority, TargetError> {
    if target.contains(&b'/') {
        return Err(TargetError::NotAbsolute);
    }
    let authority = Authority::parse(target, None).map_err(TargetError::Authority)?;
    check_host(host_field, &authority, authority.port)?;
    Ok(authority)
}

/// The Host field must name the destination; clients leave the port out when it is the default.
fn check_host(field: Option<&[u8]>, authority: &Authority, default_port: u16) -> Result<(), TargetError> {
    match field {
        None => Ok(()),
        Some(value) => match Authority::parse(value, Some(default_port)) {
            Ok(named) if named == *authority => Ok(()),
            _ => Err(TargetError::HostMismatch),
        },
    }
}

/// RFC 3986 characters, and the six that browsers leave unencoded; every `%` starts two hex digits.
fn is_path_and_query(path: &[u8]) -> bool {
    let mut bytes = path.iter();
    while let Some(byte) = bytes.next() {
        let good = match byte {
            b'%' => {
                let mut hex = || bytes.next().is_some_and(u8::is_ascii_hexdigit);
                hex() && hex()
            }
            b if b.is_ascii_alphanumeric() => true,
            b => b"-._~!$&'()*+,;=:@/?[]{}|^`".contains(b),
        };
        if !good {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_whole_and_sent_in_origin_form() {
        for (target, host, origin_form) in [
            ("http://example.com", "example.com", "/"),
            ("http://example.com/", "example.com:80", "/"),
            ("http://example.com:80/a/b?c=d", "example.com", "/a/b?c=d"),
            ("HTTP://Example.COM?q", "example.com.", "/?q"),
            ("http://example.com/%2e%2e//x;y=1", "EXAMPLE.COM", "/%2e%2e//x;y=1"),
            ("http://example.com:8080/?u=http://other/", "example.com:8080", "/?u=http://other/"),
        ] {
            let form = AbsoluteForm::parse(target.as_bytes(), Some(host.as_bytes())).unwrap();
            assert_eq!(form.origin_form, origin_form, "{target}");
        }
    }

    #[test]
    fn bad_targets_are_refused() {
        use TargetError::*;
        let authority = |e| Authority(e);
        for (target, host, want) in [
            ("/", Some("example.com"), NotAbsolute),
            ("*", Some("example.com"), NotAbsolute),
            ("example.com", Some("example.com"), NotAbsolute),
            ("//example.com/", Some("example.com"), NotAbsolute),
            ("/x?u=http://example.com/", Some("example.com"), NotAbsolute),
            ("https://example.com/", Some("example.com"), Scheme),
            ("ftp://example.com/", Some("example.com"), Scheme),
            ("file:///etc/passwd", None, Scheme),
            ("http:///x", None, authority(AuthorityError::Empty)),
            ("http://u@example.com/", Some("example.com"), authority(AuthorityError::Userinfo)),
            ("http://u:p@example.com/", Some("example.com"), authority(AuthorityError::Userinfo)),
            ("http://example.com\\@evil.example/", None, authority(AuthorityError::Userinfo)),
            ("http://example.com\\.evil.example/", None, authority(AuthorityError::Character)),
            ("http://example.com/#x", Some("example.com"), Fragment),
            ("http://example.com/a\\b", Some("example.com"), Character),
            ("http://example.com/\"x", Some("example.com"), Character),
            ("http://example.com/ü", Some("example.com"), Character),
            ("http://example.com/%", Some("example.com"), Character),
            ("http://example.com/%4", Some("example.com"), Character),
            ("http://example.com/%zz", Some("example.com"), Character),
            ("http://example.com/", Some("evil.example"), HostMismatch),
            ("http://example.com/", Some("example.com:81"), HostMismatch),
            ("http://example.com:81/", Some("example.com"), HostMismatch),
            ("http://example.com/", Some(""), HostMismatch),
            ("http://example.com/", Some("example.com, evil.example"), HostMismatch),
        ] {
            let got = AbsoluteForm::parse(target.as_bytes(), host.map(str::as_bytes));
            assert_eq!(got.unwrap_err(), want, "{target} {host:?}");
        }
    }

    #[test]
    fn connect_wants_host_and_port_and_nothing_else() {
        use TargetError::*;
        assert_eq!(authority_form(b"example.com:443", None).unwrap().to_string(), "example.com:443");
        assert!(authority_form(b"example.com:443", Some(b"example.com")).is_ok());
        assert!(authority_form(b"[2001:db8::1]:443", Some(b"[2001:db8::1]:443")).is_ok());
        for (target, host, want) in [
            ("example.com", None, Authority(AuthorityError::Port)),
            ("example.com:", None, Authority(AuthorityError::Port)),
            ("example.com:0", None, Authority(AuthorityError::Port)),
            ("example.com:99999", None, Authority(AuthorityError::Port)),
            ("https://example.com:443", None, NotAbsolute),
            ("example.com:443/", None, NotAbsolute),
            ("/", None, NotAbsolute),
            ("*", None, Authority(AuthorityError::Port)),
            ("u@example.com:443", None, Authority(AuthorityError::Userinfo)),
            ("example.com:443?x", None, Authority(AuthorityError::Port)),
            ("example.com:443#x", None, Authority(AuthorityError::Port)),
            ("::1:443", None, Authority(AuthorityError::Port)),
            ("[fe80::1%25eth0]:443", None, Authority(AuthorityError::Ipv6)),
            ("0x7f000001:443", None, Authority(AuthorityError::Ipv4)),
            ("example.com:443", Some("evil.example:443"), HostMismatch),
            ("example.com:443", Some("example.com:80"), HostMismatch),
        ] {
            let got = authority_form(target.as_bytes(), host.map(str::as_bytes));
            assert_eq!(got.unwrap_err(), want, "{target}");
        }
    }
}
