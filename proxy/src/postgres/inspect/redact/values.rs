//! Values that are secrets by themselves, whatever stands around them: connection strings, URLs with a password,
//! keys.

use super::super::lexer::Kind;
use super::names::{MARKS, is_secret_text, is_secret_word, marked};
use super::text::REPLACED;

/// Whether a value that no text names is a secret by itself: a connection string with a password, a key.
pub fn is_secret_value(value: &[u8]) -> bool {
    // No name, no `=` and no secret fit into less, and numbers, dates and times spell none.
    let spells = value.iter().any(u8::is_ascii_alphabetic) || value.windows(3).any(|w| w == b"://");
    if value.len() < 5 || !spells {
        return false;
    }
    let text = String::from_utf8_lossy(value);
    let lower = text.to_ascii_lowercase();
    is_secret_text(&lower)
        || is_connection_string(Kind::Text, &text)
        || marked(&lower) && lower.contains("\":")
}

/// Whether a literal is a libpq connection string or a URL with a password. In a dollar-quoted body
/// `password = '…'` is SQL, which is taken apart as such.
pub(super) fn is_connection_string(kind: Kind, value: &str) -> bool {
    let lower = value.to_ascii_lowercase();
    let pair = MARKS.iter().map(|mark| mark.trim_end_matches('=')).any(|mark| {
        lower.match_indices(mark).any(|(at, _)| {
            let rest = lower.get(at..).unwrap_or_default();
            let name = rest.trim_start_matches(|c: char| c.is_alphanumeric() || c == '_');
            let begins = lower.get(..at).is_none_or(|b| !b.ends_with(|c: char| c.is_alphanumeric()));
            // Of a word with this beginning only the short one is a secret's name.
            if mark == "pass" && !(begins && rest.len() - name.len() == mark.len()) {
                return false;
            }
            let rest = name.trim_start();
            rest.strip_prefix('=').is_some_and(|v| kind != Kind::Dollar || !v.trim_start().starts_with('\''))
        })
    });
    pair || credentials_of_url(value).is_some()
}

/// Where the user information of a URL lies in a text.
fn credentials_of_url(value: &str) -> Option<std::ops::Range<usize>> {
    value.match_indices("://").find_map(|(at, _)| {
        let start = at + 3;
        let rest = value.get(start..)?;
        let length = rest.find(|c: char| matches!(c, '/' | '?') || c.is_whitespace()).unwrap_or(rest.len());
        let end = rest.get(..length)?.rfind('@')?;
        let user_info = rest.get(..end)?;
        (user_info.contains(':') && user_info != ":***").then_some(start..start + end)
    })
}

/// A connection string without its secrets: host and database stay, so that the record says where to. What is
/// escaped, quoted inside or spaced around `=` is not taken apart: nothing of it stays.
pub(super) fn without_values(kind: Kind, literal: &str, value: &str) -> String {
    let ends_pair = |c: char| c.is_whitespace() || matches!(c, '&' | '?' | ';');
    let spaced = value.split_whitespace().any(|part| part.starts_with('=') || part.ends_with('='));
    if kind != Kind::Text || literal.contains("''") || value.contains(['\n', '"', '\\']) || spaced {
        return REPLACED.to_owned();
    }
    let mut whole = value.to_owned();
    while let Some(range) = credentials_of_url(&whole) {
        whole.replace_range(range, ":***");
    }
    let pairs = whole.split_inclusive(ends_pair).map(|pair| match pair.split_once('=') {
        Some((name, _)) if is_secret_word(&name.to_ascii_lowercase()) => {
            let end: String = pair.chars().next_back().filter(|c| ends_pair(*c)).into_iter().collect();
            format!("{name}=***{end}")
        }
        _ => pair.to_owned(),
    });
    format!("'{}'", pairs.collect::<String>())
}
