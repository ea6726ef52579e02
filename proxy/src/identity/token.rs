//! Tokens: their text, and how they are issued, listed and revoked.
//!
//! `bcam_<id>_<secret><check>`: a prefix that secret scanners recognise, 80 random bits that name the token,
//! 200 random bits that are the secret, 30 bits of checksum that catch a cut copy before any look-up. The
//! text is a URL-safe word, so that it fits a password prompt, a pgpass line and a proxy URL alike.
//! Invariant: the secret exists in the answer of [`issue`] and nowhere else.

use std::borrow::Cow;
use std::fmt;

use bodycam_record::{shown, shown::shown_limit};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::roster::Roster;
use super::scram;
use crate::state::{State, StateError, StoredToken};

/// What every token starts with.
pub const PREFIX: &str = "bcam_";

/// Longest life of a token.
pub const MAX_TTL_NS: i64 = 366 * 86_400 * 1_000_000_000;

/// Live tokens that one principal may hold: each is tried at every SCRAM login.
pub const MAX_LIVE: usize = 16;

/// Characters of id, secret and checksum: RFC 4648 base32, lower case.
const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
const ID_LEN: usize = 16;
const SECRET_LEN: usize = 40;
const CHECK_LEN: usize = 6;
/// Letters, digits and `_` behind the prefix from which on a text that has no id is taken for a token all the same.
const TOO_LONG: usize = 32;
/// Stands for what is cut out of a text.
const CUT: &[u8] = b"***";

/// A token just issued; the only place that ever holds its text.
pub struct Issued {
    /// The text to hand over.
    pub text: Zeroizing<String>,
    /// Its id, which may be shown and revokes it.
    pub id: String,
    /// First moment it no longer works, Unix ns.
    pub expires_ns: i64,
}

impl fmt::Debug for Issued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Issued({})", self.id)
    }
}

/// A token could not be issued or revoked.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// Not in the roster.
    #[error("principal '{0}' is not in the roster; add it under [[principals]]")]
    UnknownPrincipal(String),
    /// In the roster, but out.
    #[error("principal '{0}' cannot have a token: {1}")]
    Inactive(String, super::login::Ended),
    /// Time to live out of bounds.
    #[error(
        "a token lives between 1 second and 366 days, written as in 90s, 30m, 8h or 30d; {0} was asked for"
    )]
    Ttl(String),
    /// Too many live tokens.
    #[error("principal '{0}' already holds {MAX_LIVE} live tokens; revoke one first")]
    TooMany(String),
    /// The note is too long.
    #[error("the note is longer than 200 characters")]
    Note,
    /// Nothing to revoke.
    #[error("no live token '{0}'; `bodycam token ls` lists them")]
    NoSuchToken(String),
    /// The store failed.
    #[error(transparent)]
    State(#[from] StateError),
}

/// Issues a token for a principal of the roster.
pub fn issue(
    state: &dyn State,
    roster: &Roster,
    principal: &str,
    ttl_ns: i64,
    note: &str,
    now_ns: i64,
) -> Result<Issued, TokenError> {
    if roster.get(principal).is_none() {
        return Err(TokenError::UnknownPrincipal(shown(principal)));
    }
    roster.standing(principal, now_ns).map_err(|ended| TokenError::Inactive(shown(principal), ended))?;
    if !(1_000_000_000..=MAX_TTL_NS).contains(&ttl_ns) {
        return Err(TokenError::Ttl(format!("{} s", ttl_ns / 1_000_000_000)));
    }
    if note.chars().count() > 200 {
        return Err(TokenError::Note);
    }
    let live = |t: &StoredToken| t.principal == principal && t.revoked_ns.is_none() && t.expires_ns > now_ns;
    if state.tokens()?.iter().filter(|t| live(t)).count() >= MAX_LIVE {
        return Err(TokenError::TooMany(shown(principal)));
    }
    let salt = state.salt_of(principal)?;
    let (id, text) = new_text()?;
    let keys = scram::keys(text.as_bytes(), &salt.salt, salt.iterations);
    let expires_ns = now_ns.saturating_add(ttl_ns);
    state.add_token(&StoredToken {
        id: id.clone(),
        principal: principal.to_owned(),
        note: shown_limit(note, 200),
        issued_ns: now_ns,
        expires_ns,
        revoked_ns: None,
        verifier: verifier(&text),
        stored_key: keys.stored_key,
        server_key: keys.server_key,
    })?;
    Ok(Issued { text, id, expires_ns })
}

/// Every token, live or not, oldest first.
pub fn list(state: &dyn State) -> Result<Vec<StoredToken>, TokenError> {
    Ok(state.tokens()?)
}

/// Revokes the token with this id; the whole text of the token names it too.
pub fn revoke(state: &dyn State, id_or_text: &str, now_ns: i64) -> Result<(), TokenError> {
    let id = id_of(id_or_text).unwrap_or(id_or_text);
    match state.revoke_token(id, now_ns)? {
        true => Ok(()),
        // The argument may be a mistyped secret: only its length class is safe to repeat.
        false if id.len() > ID_LEN => Err(TokenError::NoSuchToken("…".to_owned())),
        false => Err(TokenError::NoSuchToken(shown(id))),
    }
}

/// Nanoseconds of a time to live: a number and `s`, `m`, `h` or `d`.
pub fn parse_ttl(text: &str) -> Result<i64, TokenError> {
    let bad = || TokenError::Ttl(format!("'{}'", shown_limit(text, 40)));
    let (number, unit) = text.trim().split_at_checked(text.trim().len().saturating_sub(1)).ok_or_else(bad)?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err(bad()),
    };
    let number: i64 = number.trim().parse().map_err(|_| bad())?;
    let ns = number.checked_mul(seconds).and_then(|s: i64| s.checked_mul(1_000_000_000)).ok_or_else(bad)?;
    if (1_000_000_000..=MAX_TTL_NS).contains(&ns) { Ok(ns) } else { Err(bad()) }
}

/// The id inside a well-formed token text whose checksum holds.
pub fn id_of(text: &str) -> Option<&str> {
    let (id, rest) = text.strip_prefix(PREFIX)?.split_once('_')?;
    let (secret, check) = rest.split_at_checked(SECRET_LEN)?;
    let spelled = |part: &str, len| part.len() == len && part.bytes().all(|b| ALPHABET.contains(&b));
    (spelled(id, ID_LEN) && spelled(secret, SECRET_LEN) && check == checksum(id, secret)).then_some(id)
}

/// `text` with every token in it cut down to its id, whole or not: what a log or the record may hold of what anybody
/// wrote. Clients put tokens where a name, a host or a database belongs.
pub fn redact(text: &[u8]) -> Cow<'_, [u8]> {
    let (mut out, mut copied, mut at) = (Vec::new(), 0, 0);
    while let Some(found) = text.get(at..).and_then(|rest| {
        rest.windows(PREFIX.len()).position(|part| part.eq_ignore_ascii_case(PREFIX.as_bytes()))
    }) {
        let start = at + found + PREFIX.len();
        let rest = text.get(start..).unwrap_or_default();
        let word = |b: &u8| b.is_ascii_alphanumeric() || *b == b'_';
        let length = rest.iter().position(|b| !word(b)).unwrap_or(rest.len());
        let id = rest.get(..ID_LEN).is_some_and(|id| id.iter().all(|b| ALPHABET.contains(b)));
        let kept = if id && rest.get(ID_LEN) == Some(&b'_') { ID_LEN + 1 } else { 0 };
        at = start + length;
        if length > kept && (kept > 0 || length >= TOO_LONG) {
            out.extend_from_slice(text.get(copied..start + kept).unwrap_or_default());
            out.extend_from_slice(CUT);
            copied = at;
        }
    }
    if copied == 0 {
        return Cow::Borrowed(text);
    }
    out.extend_from_slice(text.get(copied..).unwrap_or_default());
    Cow::Owned(out)
}

/// Whether a text holds a token, or most of one.
pub fn is_in(text: &[u8]) -> bool {
    matches!(redact(text), Cow::Owned(_))
}

/// What the store keeps to recognise a token presented as a password: a plain hash is enough for a secret
/// of 200 random bits.
pub fn verifier(text: &str) -> [u8; 32] {
    Sha256::digest(text.as_bytes()).into()
}

fn new_text() -> Result<(String, Zeroizing<String>), StateError> {
    let mut random = Zeroizing::new([0u8; (ID_LEN + SECRET_LEN) * 5 / 8]);
    getrandom::fill(random.as_mut_slice()).map_err(StateError::Random)?;
    let word = Zeroizing::new(base32(random.as_slice()));
    let (id, secret) = word.split_at_checked(ID_LEN).unwrap_or_default();
    let text = Zeroizing::new(format!("{PREFIX}{id}_{secret}{}", checksum(id, secret)));
    Ok((id.to_owned(), text))
}

fn checksum(id: &str, secret: &str) -> String {
    let digest = Sha256::digest(format!("{PREFIX}{id}_{secret}").as_bytes());
    base32(&digest).chars().take(CHECK_LEN).collect()
}

fn base32(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len() * 8 / 5 + 1);
    let (mut bits, mut held) = (0u32, 0u32);
    for byte in bytes {
        bits = (bits << 8) | u32::from(*byte);
        held += 8;
        while held >= 5 {
            held -= 5;
            let letter = ALPHABET.get((bits >> held & 31) as usize).copied().unwrap_or(b'a');
            out.push(char::from(letter));
        }
        bits &= (1 << held) - 1;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::roster::tests::roster;
    use crate::state::SqliteState;

    const DAY: i64 = 86_400 * 1_000_000_000;
    const NOW: i64 = 1_800_000_000 * 1_000_000_000;

    fn state() -> (tempfile::TempDir, SqliteState) {
        let dir = tempfile::tempdir().unwrap();
        let state = SqliteState::open(&dir.path().join("state.db")).unwrap();
        (dir, state)
    }

    #[test]
    fn a_token_is_one_word_with_a_checksum() {
        let (_dir, state) = state();
        let token = issue(&state, &roster(), "ann", DAY, "laptop", NOW).unwrap();
        assert!(token.text.starts_with("bcam_"));
        assert_eq!(token.text.len(), 5 + ID_LEN + 1 + SECRET_LEN + CHECK_LEN);
        assert!(token.text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'));
        assert_eq!(id_of(&token.text), Some(&*token.id));
        for at in 0..token.text.len() {
            let mut other = token.text.as_bytes().to_vec();
            other[at] = if other[at] == b'a' { b'b' } else { b'a' };
            assert_eq!(id_of(std::str::from_utf8(&other).unwrap()), None, "byte {at}");
            assert_eq!(id_of(&token.text[..at]), None, "cut at {at}");
        }
        assert!(!format!("{token:?}").contains(&token.text[22..]));
    }

    #[test]
    fn of_a_token_in_a_text_only_its_id_stays() {
        let (_dir, state) = state();
        let token = issue(&state, &roster(), "ann", DAY, "laptop", NOW).unwrap();
        let (text, id) = (token.text.as_str(), token.id.as_str());
        let cut = format!("bcam_{id}_***");
        let short = &text[..text.len() - 9];
        for (given, kept) in [
            (text.to_owned(), cut.clone()),
            (format!("{text}x"), cut.clone()),
            (short.to_owned(), cut.clone()),
            (format!("a {text}, {text}@host"), format!("a {cut}, {cut}@host")),
            (text.replacen(id, "not-an-id", 1), text.replacen(id, "not-an-id", 1)),
            (text.replacen('_', "_x", 1), "bcam_***".to_owned()),
            (text.to_uppercase(), "BCAM_***".to_owned()),
            (format!("bcam_{id}"), format!("bcam_{id}")),
            ("bcam_ and bcam_tables, 100 %".to_owned(), "bcam_ and bcam_tables, 100 %".to_owned()),
            ("bcam".to_owned(), "bcam".to_owned()),
        ] {
            assert_eq!(String::from_utf8_lossy(&redact(given.as_bytes())), kept, "{given}");
        }
    }

    #[test]
    fn the_stores_files_hold_no_secret() {
        let (dir, state) = state();
        let token = issue(&state, &roster(), "ann", DAY, "laptop", NOW).unwrap();
        let secret = &token.text.as_bytes()[PREFIX.len() + ID_LEN + 1..];
        let mut looked_at = 0;
        for entry in std::fs::read_dir(dir.path()).unwrap() {
            let bytes = std::fs::read(entry.unwrap().path()).unwrap();
            looked_at += bytes.len();
            for part in secret.windows(8) {
                assert!(memchr::memmem::find(&bytes, part).is_none());
            }
        }
        assert!(looked_at > 0);
    }

    #[test]
    fn what_may_not_be_issued_is_refused() {
        let (_dir, state) = state();
        let issue = |who: &str, ttl, now| issue(&state, &roster(), who, ttl, "", now);
        assert!(matches!(issue("nobody", DAY, NOW), Err(TokenError::UnknownPrincipal(_))));
        assert!(matches!(issue("ann", 367 * DAY, NOW), Err(TokenError::Ttl(_))));
        assert!(matches!(issue("ann", 0, NOW), Err(TokenError::Ttl(_))));
        assert!(matches!(issue("cid", DAY, NOW + 1000 * DAY), Err(TokenError::Inactive(..))));
        for _ in 0..MAX_LIVE {
            issue("ann", DAY, NOW).unwrap();
        }
        assert!(matches!(issue("ann", DAY, NOW), Err(TokenError::TooMany(_))));
        issue("ann", DAY, NOW + 2 * DAY).unwrap();
    }

    #[test]
    fn a_token_is_revoked_once_by_id_or_by_its_text() {
        let (_dir, state) = state();
        let (a, b) = (
            issue(&state, &roster(), "ann", DAY, "", NOW).unwrap(),
            issue(&state, &roster(), "ann", DAY, "", NOW).unwrap(),
        );
        revoke(&state, &a.id, NOW).unwrap();
        revoke(&state, &b.text, NOW).unwrap();
        assert!(list(&state).unwrap().iter().all(|t| t.revoked_ns == Some(NOW)));
        let error = revoke(&state, &a.id, NOW).unwrap_err();
        assert!(error.to_string().contains(&a.id));
        let mistyped = format!("{}x", &*b.text);
        assert!(!revoke(&state, &mistyped, NOW).unwrap_err().to_string().contains(&mistyped[22..]));
    }

    #[test]
    fn a_time_to_live_has_a_unit() {
        assert_eq!(parse_ttl("30d").unwrap(), 30 * DAY);
        assert_eq!(parse_ttl(" 12h").unwrap(), DAY / 2);
        assert_eq!(parse_ttl("90s").unwrap(), 90_000_000_000);
        for bad in ["", "d", "30", "0s", "-1d", "367d", "1e3d", "99999999999999999999d", "30 é"] {
            assert!(parse_ttl(bad).is_err(), "{bad}");
        }
    }
}
