//! How the secrets of a text are replaced: token by token, and within the bodies and statements that its
//! literals hold.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::BTreeSet;

use super::super::lexer::{Kind, Lexer, Token, name_of, value_of};
use super::expressions::expressed_secrets;
use super::names::{builds_secret, is_secret_comment, is_secret_text, may_hold_secret, names_secret};
use super::positions::{
    assigned_secrets, follows_secret_name, grouped_secrets, inserted_secrets, joined_secrets, merged_secrets,
    precedes_secret_name,
};
use super::values::{is_connection_string, without_values};
use super::{ColumnsOf, SecretParameters};
use crate::identity::token as tokens;

/// What stands for a secret.
pub(super) const REPLACED: &str = "'***'";

/// Depth to which bodies of functions and DO blocks are followed.
const MAX_DEPTH: usize = 4;

#[derive(Clone, Copy)]
pub(super) struct Redaction<'r> {
    pub(super) standard_strings: bool,
    pub(super) parses: bool,
    pub(super) columns_of: ColumnsOf<'r>,
    pub(super) parameters: &'r RefCell<SecretParameters>,
}

impl Redaction<'_> {
    pub(super) fn of<'a>(self, sql: &'a str, depth: usize) -> Cow<'a, str> {
        let suspected = may_hold_secret(sql, self.standard_strings);
        let inserts = sql.as_bytes().windows(6).any(|w| w.eq_ignore_ascii_case(b"insert"));
        if !inserts && !suspected {
            return Cow::Borrowed(sql);
        }
        let all: Vec<Token> = Lexer::new(sql, self.standard_strings).collect();
        let tokens: Vec<Token> = all.iter().copied().filter(|t| t.kind != Kind::Comment).collect();
        let text = |token: &Token| sql.get(token.start..token.end).unwrap_or_default();
        let mentioned = tokens.iter().any(|t| names_secret(t, text(t)));
        let json = depth > 0
            && tokens.windows(2).any(|pair| match pair {
                [key, colon] => {
                    key.kind == Kind::Quoted && names_secret(key, text(key)) && text(colon) == ":"
                }
                _ => false,
            });
        // A path in JSON: '$.password ? (@ == "…")'.
        let path = depth > 0
            && mentioned
            && (sql.contains("$.") || sql.contains("$["))
            && tokens.iter().any(|t| t.kind == Kind::Quoted);
        if depth > MAX_DEPTH || json || path {
            return Cow::Owned(REPLACED.to_owned());
        }
        let mut secret = inserted_secrets(&tokens, text, self.columns_of);
        secret.extend(merged_secrets(&tokens, text));
        secret.extend(assigned_secrets(&tokens, text));
        secret.extend(joined_secrets(&tokens, text));
        secret.extend(grouped_secrets(&tokens, text));
        if suspected {
            secret.extend(expressed_secrets(&tokens, text));
        }
        // Once a literal ends inside a password clause, the secret is in what is appended to it.
        let mut built_here = false;
        let mut edit = Edit::of(sql);
        let mut at = 0;
        for token in &all {
            if token.kind == Kind::Comment {
                let comment = text(token);
                if is_secret_comment(comment) || is_connection_string(Kind::Text, comment) {
                    edit.replace(token, "/* *** */ ");
                }
                continue;
            }
            let (before, after) =
                (tokens.get(..at).unwrap_or_default(), tokens.get(at + 1..).unwrap_or_default());
            let is_secret = |secret_here: bool| {
                secret_here
                    || mentioned && (!self.parses || token.cut)
                    || follows_secret_name(before, text)
                    || precedes_secret_name(after, text)
            };
            let here = built_here || secret.contains(&at);
            at += 1;
            if token.kind == Kind::Parameter && depth == 0 {
                if is_secret(here) {
                    self.secret_parameter(text(token));
                }
                continue;
            }
            if token.kind == Kind::Bits && is_secret(here) {
                edit.replace(token, REPLACED);
                continue;
            }
            if !token.kind.is_string() {
                // `PASSWORD hunter2`, mistyped.
                let bare = matches!(token.kind, Kind::Word | Kind::Number | Kind::Quoted);
                let named = bare || token.kind == Kind::UnicodeQuoted;
                if named && tokens::is_in(name_of(token.kind, text(token)).as_bytes()) {
                    edit.replace(token, "\"***\"");
                } else if bare && !self.parses && before.last().is_some_and(|b| names_secret(b, text(b))) {
                    edit.replace(token, REPLACED);
                }
                continue;
            }
            let value = value_of(token.kind, text(token));
            let lower = value.to_ascii_lowercase();
            let own_escape = token.kind == Kind::Unicode
                && after.first().is_some_and(|next| text(next).eq_ignore_ascii_case("uescape"));
            let program = before.last().is_some_and(|b| text(b).eq_ignore_ascii_case("program"));
            let quoted_body = lower.contains('\'');
            if own_escape
                || is_secret(here)
                || is_secret_text(&lower) && !quoted_body
                || program
                    && (lower.contains(" -u")
                        || lower.contains(" -h")
                        || is_connection_string(Kind::Text, &value))
            {
                edit.replace(token, REPLACED);
            } else if is_connection_string(token.kind, &value) {
                edit.replace(token, &without_values(token.kind, text(token), &value));
            } else if may_hold_secret(&value, self.standard_strings) {
                // A function body, a DO block, or a statement that is put together from parts.
                built_here |= builds_secret(&value);
                match self.of(&value, depth + 1) {
                    Cow::Borrowed(_) => {}
                    Cow::Owned(inner) if token.kind == Kind::Dollar => {
                        let tag = text(token).get(1..).and_then(|r| r.find('$')).map_or(0, |end| end + 2);
                        let tag = text(token).get(..tag).unwrap_or_default();
                        edit.replace(token, &format!("{tag}{inner}{tag}"));
                    }
                    Cow::Owned(_) => edit.replace(token, REPLACED),
                }
            }
        }
        edit.finish()
    }

    fn secret_parameter(&self, text: &str) {
        let mut parameters = self.parameters.borrow_mut();
        let number = text.get(1..).and_then(|digits| digits.parse().ok());
        match (&mut *parameters, number) {
            (SecretParameters::All, _) => {}
            (SecretParameters::Some(numbers), Some(number)) => {
                numbers.insert(number);
            }
            (SecretParameters::None, Some(number)) => {
                *parameters = SecretParameters::Some(BTreeSet::from([number]));
            }
            (_, None) => *parameters = SecretParameters::All,
        }
    }
}

/// A text in which tokens are being replaced.
pub(super) struct Edit<'a> {
    sql: &'a str,
    out: String,
    copied: usize,
}

impl<'a> Edit<'a> {
    pub(super) fn of(sql: &'a str) -> Self {
        Self { sql, out: String::new(), copied: 0 }
    }

    pub(super) fn replace(&mut self, token: &Token, by: &str) {
        self.out.push_str(self.sql.get(self.copied..token.start).unwrap_or_default());
        self.out.push_str(by);
        self.copied = token.end;
    }

    pub(super) fn finish(mut self) -> Cow<'a, str> {
        if self.copied == 0 {
            return Cow::Borrowed(self.sql);
        }
        self.out.push_str(self.sql.get(self.copied..).unwrap_or_default());
        Cow::Owned(self.out)
    }
}
