//! Which names secrets go by, and which texts may hold one at all.
//!
//! Invariant: a text that [`may_hold_secret`] denies is not touched, but for an INSERT, whose columns the catalog
//! may know.

use super::super::lexer::{Kind, Token, name_of};
use crate::identity::token as tokens;

/// Parts of the names that secrets go by.
pub(super) const MARKS: [&str; 12] = [
    "passw",
    "passphrase",
    "pwd",
    "secret",
    "token",
    "api_key",
    "apikey",
    "access_key",
    "credential",
    "private_key",
    "privatekey",
    "pass=",
];

/// Texts that hold a secret whatever they are called.
const SECRET_TEXTS: [&str; 5] = ["bearer ", "authorization:", "private key-----", "--user", tokens::PREFIX];

/// Functions of pgcrypto of whose arguments one is a password, a key or what nobody may read. Which one is not told
/// apart: every value within their parentheses is replaced.
const SECRET_FUNCTIONS: [&str; 14] = [
    "crypt",
    "decrypt",
    "decrypt_iv",
    "encrypt",
    "encrypt_iv",
    "hmac",
    "pgp_pub_decrypt",
    "pgp_pub_decrypt_bytea",
    "pgp_pub_encrypt",
    "pgp_pub_encrypt_bytea",
    "pgp_sym_decrypt",
    "pgp_sym_decrypt_bytea",
    "pgp_sym_encrypt",
    "pgp_sym_encrypt_bytea",
];

/// What all of their names hold: texts without either are not looked at for them.
const SECRET_FUNCTION_MARKS: [&str; 2] = ["crypt", "hmac"];

/// Whether a value is the name of a secret, so that another value is the secret.
pub fn is_secret_name(value: &[u8]) -> bool {
    let lawful = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    value.len() <= 128
        && value.iter().all(lawful)
        && marked(&String::from_utf8_lossy(value).to_ascii_lowercase())
}

/// Whether any word that marks a secret is in the text, or anything that could spell one by escapes or parts.
pub fn may_hold_secret(sql: &str, standard_strings: bool) -> bool {
    let lower = sql.to_ascii_lowercase();
    let escapes = lower.contains('\\') && (!standard_strings || lower.contains("e'"));
    let parts = lower.contains("||") && lower.contains('\'');
    marked(&lower)
        || is_secret_text(&lower)
        || parts
        || escapes
        || ["://", "u&", "pass", "program"]
            .iter()
            .chain(&SECRET_FUNCTION_MARKS)
            .any(|word| lower.contains(word))
}

pub(super) fn is_secret_text(lower: &str) -> bool {
    SECRET_TEXTS.iter().any(|text| lower.contains(text))
}

pub(super) fn marked(lower: &str) -> bool {
    MARKS.iter().any(|mark| lower.contains(mark))
}

pub(super) fn names_secret(token: &Token, text: &str) -> bool {
    matches!(token.kind, Kind::Word | Kind::Quoted | Kind::UnicodeQuoted)
        && is_secret_word(&name_of(token.kind, text).to_ascii_lowercase())
}

/// Whether this is the name of a function with secret arguments.
pub(super) fn calls_secret(token: &Token, text: &str) -> bool {
    matches!(token.kind, Kind::Word | Kind::Quoted | Kind::UnicodeQuoted)
        && SECRET_FUNCTIONS.contains(&name_of(token.kind, text).to_ascii_lowercase().as_str())
}

pub(super) fn is_secret_word(name: &str) -> bool {
    marked(name) || name == "pass" || name.ends_with("_pass")
}

/// Whether a comment speaks of a secret: it can hold a whole statement, or only the value.
pub(super) fn is_secret_comment(comment: &str) -> bool {
    let lower = comment.to_ascii_lowercase();
    // Of this word plain sentences are made as well, in which no mark follows.
    let short = lower.match_indices("pass").any(|(at, word)| {
        let rest = lower.get(at + word.len()..).unwrap_or_default();
        rest.trim_start().starts_with([':', '=', '\'', '"'])
    });
    marked(&lower) || is_secret_text(&lower) || short
}

/// Whether a literal is part of a statement whose secret comes from another literal:
/// `'ALTER ROLE x PASSWORD ' || …`, `format('… PASSWORD %L', …)`.
pub(super) fn builds_secret(value: &str) -> bool {
    let lower = value.to_ascii_lowercase();
    let trimmed = lower.trim_end_matches(|c: char| c.is_whitespace() || matches!(c, '=' | '\''));
    let last = trimmed.rsplit(|c: char| !(c.is_alphanumeric() || c == '_')).next().unwrap_or_default();
    is_secret_word(last)
        || marked(&lower) && ["alter ", "create ", "options", "set "].iter().any(|word| lower.contains(word))
}
