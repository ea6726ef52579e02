//! What a client presents in Proxy-Authorization (RFC 9110 §11.7, RFC 7617, RFC 6750).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use crate::identity::token;

/// Longest correlation id taken from a user name.
const MAX_CORRELATION: usize = 128;

/// A presented credential.
pub struct Credential {
    /// Name of the principal, when the client gave one.
    pub user: Option<String>,
    /// Correlation id given behind the name, as `name+id`.
    pub correlation: Option<String>,
    /// The token.
    pub secret: Zeroizing<String>,
    /// How it was presented: `proxy-basic` or `token`.
    pub method: &'static str,
}

impl Credential {
    /// Reads the value of the field; none when it is in neither form.
    pub fn parse(value: &[u8]) -> Option<Self> {
        let space = value.iter().position(|b| *b == b' ')?;
        let (scheme, rest) = value.split_at_checked(space)?;
        let rest = rest.trim_ascii();
        if scheme.eq_ignore_ascii_case(b"bearer") {
            let secret = Zeroizing::new(std::str::from_utf8(rest).ok()?.to_owned());
            return Some(Self { user: None, correlation: None, secret, method: "token" });
        }
        if !scheme.eq_ignore_ascii_case(b"basic") {
            return None;
        }
        let decoded = Zeroizing::new(STANDARD.decode(rest).ok()?);
        let (user, secret) = std::str::from_utf8(&decoded).ok()?.split_once(':')?;
        let (user, correlation) = match user.split_once('+') {
            None => (user, None),
            Some((user, id)) => (user, Some(id)),
        };
        let printable =
            |id: &str| (1..=MAX_CORRELATION).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_graphic());
        if correlation.is_some_and(|id| !printable(id)) {
            return None;
        }
        // Whoever puts the token behind the name has no correlation id.
        let correlation = correlation.filter(|id| !token::is_in(id.as_bytes()));
        Some(Self {
            user: (!user.is_empty()).then(|| user.to_owned()),
            correlation: correlation.map(str::to_owned),
            secret: Zeroizing::new(secret.to_owned()),
            method: "proxy-basic",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_schemes_are_read_and_a_correlation_id_may_follow_the_name() {
        let basic = |text: &str| Credential::parse(format!("Basic {}", STANDARD.encode(text)).as_bytes());
        for (text, user, correlation, secret) in [
            ("ada:bcam_x", Some("ada"), None, "bcam_x"),
            (":bcam_x", None, None, "bcam_x"),
            ("ada+task-7:a:b", Some("ada"), Some("task-7"), "a:b"),
            ("+run:x", None, Some("run"), "x"),
        ] {
            let c = basic(text).unwrap();
            assert_eq!(
                (c.user.as_deref(), c.correlation.as_deref(), c.secret.as_str()),
                (user, correlation, secret)
            );
        }
        let bearer = Credential::parse(b"bearer bcam_x").unwrap();
        assert_eq!((bearer.user, bearer.secret.as_str(), bearer.method), (None, "bcam_x", "token"));
    }

    #[test]
    fn other_forms_are_no_credential() {
        let basic = |text: &str| format!("Basic {}", STANDARD.encode(text)).into_bytes();
        for value in [
            b"".to_vec(),
            b"Basic".to_vec(),
            b"Basic !!!".to_vec(),
            b"Digest username=\"ada\"".to_vec(),
            b"Negotiate abc".to_vec(),
            basic("no colon"),
            basic("ada+:x"),
            basic("ada+a b:x"),
            basic(&format!("ada+{}:x", "y".repeat(129))),
        ] {
            assert!(Credential::parse(&value).is_none(), "{}", value.escape_ascii());
        }
    }
}
