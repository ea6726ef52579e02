//! Secrets in statements: what must never be content. Passwords of roles, user mappings and subscriptions,
//! connection strings, columns and settings that bear a secret's name.
//!
//! It works on tokens, so that it also works on what does not parse. Invariant: when in doubt more is
//! replaced, never less; a text without any of the words that mark a secret is not touched.

use std::borrow::Cow;
use std::collections::HashSet;

use super::lexer::{Kind, Lexer, Token, name_of, value_of};

/// What stands for a secret.
const REPLACED: &str = "'***'";

/// Parts of the names that secrets go by.
const MARKS: [&str; 9] =
    ["passw", "passphrase", "pwd", "secret", "token", "api_key", "apikey", "access_key", "credential"];

/// Depth to which bodies of functions and DO blocks are followed.
const MAX_DEPTH: usize = 4;

/// `sql` with its secrets replaced. `parses` says that the server's grammar accepts it; a text that it does not
/// accept and that mentions a secret loses every literal.
pub fn redact_secrets(sql: &str, standard_strings: bool, parses: bool) -> Cow<'_, str> {
    Redaction { standard_strings, parses }.of(sql, 0)
}

/// Whether `sql` may hold a secret at all.
pub fn may_hold_secret(sql: &str, standard_strings: bool) -> bool {
    Redaction { standard_strings, parses: true }.may_hold_secret(sql)
}

#[derive(Clone, Copy)]
struct Redaction {
    standard_strings: bool,
    parses: bool,
}

impl Redaction {
    fn of(self, sql: &str, depth: usize) -> Cow<'_, str> {
        if !self.may_hold_secret(sql) {
            return Cow::Borrowed(sql);
        }
        let tokens: Vec<Token> =
            Lexer::new(sql, self.standard_strings).filter(|t| t.kind != Kind::Comment).collect();
        let text = |token: &Token| sql.get(token.start..token.end).unwrap_or_default();
        let mentioned = tokens.iter().any(|t| names_secret(t, text(t)));
        let json = depth > 0
            && tokens.windows(2).any(|pair| match pair {
                [key, colon] => {
                    key.kind == Kind::Quoted && names_secret(key, text(key)) && text(colon) == ":"
                }
                _ => false,
            });
        if depth > MAX_DEPTH || json {
            return Cow::Owned(REPLACED.to_owned());
        }
        let inserted = inserted_secrets(&tokens, text);
        // Once a literal ends inside a password clause, the secret is in what is appended to it.
        let mut built_here = false;
        let mut edit = Edit { sql, out: String::new(), copied: 0 };
        for (at, token) in tokens.iter().enumerate() {
            let before = tokens.get(..at).unwrap_or_default();
            if !token.kind.is_string() {
                // `PASSWORD hunter2`, mistyped.
                let bare = matches!(token.kind, Kind::Word | Kind::Number | Kind::Quoted);
                if bare && !self.parses && before.last().is_some_and(|b| names_secret(b, text(b))) {
                    edit.replace(token, REPLACED);
                }
                continue;
            }
            let value = value_of(token.kind, text(token));
            let own_escape = token.kind == Kind::Unicode
                && tokens.get(at + 1).is_some_and(|next| text(next).eq_ignore_ascii_case("uescape"));
            if built_here
                || own_escape
                || inserted.contains(&at)
                || mentioned && (!self.parses || token.cut)
                || follows_secret_name(before, text)
            {
                edit.replace(token, REPLACED);
            } else if is_connection_string(token.kind, &value) {
                edit.replace(token, &without_values(token.kind, text(token), &value));
            } else if self.may_hold_secret(&value) {
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

    /// Whether any word that marks a secret is in the text, or anything that could spell one by escapes.
    fn may_hold_secret(self, sql: &str) -> bool {
        let lower = sql.to_ascii_lowercase();
        let escapes = lower.contains('\\') && (!self.standard_strings || lower.contains("e'"));
        marked(&lower) || lower.contains("://") || lower.contains("u&") || escapes
    }
}

/// A text in which tokens are being replaced.
struct Edit<'a> {
    sql: &'a str,
    out: String,
    copied: usize,
}

impl<'a> Edit<'a> {
    fn replace(&mut self, token: &Token, by: &str) {
        self.out.push_str(self.sql.get(self.copied..token.start).unwrap_or_default());
        self.out.push_str(by);
        self.copied = token.end;
    }

    fn finish(mut self) -> Cow<'a, str> {
        if self.copied == 0 {
            return Cow::Borrowed(self.sql);
        }
        self.out.push_str(self.sql.get(self.copied..).unwrap_or_default());
        Cow::Owned(self.out)
    }
}

fn marked(lower: &str) -> bool {
    MARKS.iter().any(|mark| lower.contains(mark))
}

fn names_secret(token: &Token, text: &str) -> bool {
    matches!(token.kind, Kind::Word | Kind::Quoted | Kind::UnicodeQuoted)
        && marked(&name_of(token.kind, text).to_ascii_lowercase())
}

/// Whether the tokens before a literal end with a secret's name and little between: `PASSWORD '…'`,
/// `password = '…'`, `SET my.token TO '…'`, `set_config('my.secret', '…'`, `secret => '…'`.
fn follows_secret_name<'a>(before: &[Token], text: impl Fn(&Token) -> &'a str) -> bool {
    let mut back = before.iter().rev();
    for _ in 0..4 {
        let Some(token) = back.next() else { return false };
        let word = text(token);
        if names_secret(token, word) {
            return true;
        }
        let between = match token.kind {
            Kind::Word => ["to", "text", "varchar", "is", "not", "like", "ilike", "in", "from", "distinct"]
                .iter()
                .any(|w| word.eq_ignore_ascii_case(w)),
            Kind::Operator => true,
            Kind::Mark if word == "," => {
                // In a list only a literal names the next one: set_config('my.password', '…').
                return back.next().is_some_and(|named| {
                    let name = value_of(named.kind, text(named)).to_ascii_lowercase();
                    let is_name = name.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '.' | '-'));
                    named.kind.is_string() && is_name && marked(&name)
                });
            }
            Kind::Mark if word == "(" => match back.next() {
                // Of a call the name is passed over: password = crypt('…'.
                Some(called) if names_secret(called, text(called)) => return true,
                Some(called) => matches!(called.kind, Kind::Word | Kind::Operator),
                None => false,
            },
            Kind::Mark => word == ":=",
            _ => false,
        };
        if !between {
            return false;
        }
    }
    false
}

/// Places of the literals that an INSERT puts into columns with a secret's name.
fn inserted_secrets<'a>(tokens: &[Token], text: impl Fn(&Token) -> &'a str) -> HashSet<usize> {
    let word = |at: usize, word: &str| {
        tokens.get(at).is_some_and(|t| t.kind == Kind::Word && text(t).eq_ignore_ascii_case(word))
    };
    let mark =
        |at: usize, mark: &str| tokens.get(at).is_some_and(|t| t.kind == Kind::Mark && text(t) == mark);
    let mut found = HashSet::new();
    let starts = (0..tokens.len()).filter(|at| word(*at, "insert") && word(at + 1, "into"));
    for start in starts {
        // insert into a.b (…, password, …) [overriding …] values (…, '…', …), …
        let Some(open) = (start..tokens.len()).take(12).find(|at| mark(*at, "(")) else { continue };
        let Some(close) = (open..tokens.len()).find(|at| mark(*at, ")")) else { continue };
        let columns = tokens.get(open + 1..close).unwrap_or_default().split(|t| text(t) == ",");
        let secret: HashSet<usize> = columns
            .enumerate()
            .filter(|(_, column)| column.iter().any(|t| names_secret(t, text(t))))
            .map(|(number, _)| number)
            .collect();
        if secret.is_empty() {
            continue;
        }
        let (mut depth, mut column) = (0usize, 0usize);
        for (at, token) in tokens.iter().enumerate().skip(close + 1) {
            match (token.kind, text(token)) {
                (Kind::Mark, ";") if depth == 0 => break,
                (Kind::Mark, "(" | "[") => {
                    depth += 1;
                    if depth == 1 {
                        column = 0;
                    }
                }
                (Kind::Mark, ")" | "]") => depth = depth.saturating_sub(1),
                (Kind::Mark, ",") if depth <= 1 => column += 1,
                (Kind::Word, select) if select.eq_ignore_ascii_case("select") && depth == 0 => column = 0,
                (kind, _) if kind.is_string() && secret.contains(&column) => {
                    found.insert(at);
                }
                _ => {}
            }
        }
    }
    found
}

/// Whether a literal is part of a statement whose secret comes from another literal:
/// `'ALTER ROLE x PASSWORD ' || …`, `format('… PASSWORD %L', …)`.
fn builds_secret(value: &str) -> bool {
    let lower = value.to_ascii_lowercase();
    let trimmed = lower.trim_end_matches(|c: char| c.is_whitespace() || matches!(c, '=' | '\''));
    let last = trimmed.rsplit(|c: char| !(c.is_alphanumeric() || c == '_')).next().unwrap_or_default();
    marked(last)
        || marked(&lower) && ["alter ", "create ", "options", "set "].iter().any(|word| lower.contains(word))
}

/// Whether a literal is a libpq connection string or a URL with a password. In a dollar-quoted body
/// `password = '…'` is SQL, which is taken apart as such.
fn is_connection_string(kind: Kind, value: &str) -> bool {
    let lower = value.to_ascii_lowercase();
    let pair = MARKS.iter().any(|mark| {
        lower.match_indices(mark).any(|(at, _)| {
            let rest = lower.get(at..).unwrap_or_default();
            let rest = rest.trim_start_matches(|c: char| c.is_alphanumeric() || c == '_').trim_start();
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
fn without_values(kind: Kind, literal: &str, value: &str) -> String {
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
        Some((name, _)) if marked(&name.to_ascii_lowercase()) => {
            let end: String = pair.chars().next_back().filter(|c| ends_pair(*c)).into_iter().collect();
            format!("{name}=***{end}")
        }
        _ => pair.to_owned(),
    });
    format!("'{}'", pairs.collect::<String>())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(sql: &str) -> String {
        redact_secrets(sql, true, pg_query::parse(sql, 0).is_ok()).into_owned()
    }

    #[test]
    fn the_secret_is_gone_and_the_rest_stays() {
        let rows = [
            ("ALTER ROLE bob PASSWORD 's3cret'", "ALTER ROLE bob PASSWORD '***'"),
            (
                "create user bob with encrypted password E's3\\'cret' login",
                "create user bob with encrypted password '***' login",
            ),
            (
                "ALTER USER bob PASSWORD $x$s3cret$x$ VALID UNTIL '2030-01-01'",
                "ALTER USER bob PASSWORD '***' VALID UNTIL '2030-01-01'",
            ),
            ("ALTER ROLE bob PASSWORD /* x */ 's3cret'\n 'more'", "ALTER ROLE bob PASSWORD /* x */ '***'"),
            (
                "CREATE USER MAPPING FOR bob SERVER s OPTIONS (user 'bob', password 's3cret')",
                "CREATE USER MAPPING FOR bob SERVER s OPTIONS (user 'bob', password '***')",
            ),
            (
                "ALTER USER MAPPING FOR bob SERVER s OPTIONS (SET \"password\" 's3cret')",
                "ALTER USER MAPPING FOR bob SERVER s OPTIONS (SET \"password\" '***')",
            ),
            (
                "CREATE SUBSCRIPTION s CONNECTION 'host=a password=s3cret dbname=d' PUBLICATION p",
                "CREATE SUBSCRIPTION s CONNECTION 'host=a password=*** dbname=d' PUBLICATION p",
            ),
            (
                "CREATE SUBSCRIPTION s CONNECTION 'password = s3cret host=a' PUBLICATION p",
                "CREATE SUBSCRIPTION s CONNECTION '***' PUBLICATION p",
            ),
            ("SELECT dblink('password=''s3 cret'' host=a', 'select 1')", "SELECT dblink('***', 'select 1')"),
            (
                "SELECT dblink_connect('postgresql://bob:s3cret@h/d?sslmode=require')",
                "SELECT dblink_connect('postgresql://:***@h/d?sslmode=require')",
            ),
            ("SET my.password = 's3cret'", "SET my.password = '***'"),
            ("SET my.api_token TO 's3cret'", "SET my.api_token TO '***'"),
            (
                "SELECT set_config('my.password', 's3cret', false)",
                "SELECT set_config('my.password', '***', false)",
            ),
            (
                "UPDATE users SET password = 's3cret' WHERE id = 1",
                "UPDATE users SET password = '***' WHERE id = 1",
            ),
            (
                "SELECT 1 FROM users WHERE password = crypt('s3cret', password)",
                "SELECT 1 FROM users WHERE password = crypt('***', password)",
            ),
            (
                "INSERT INTO users (name, password) VALUES ('ann', 's3cret'), ('bob', lower('s3cret'))",
                "INSERT INTO users (name, password) VALUES ('ann', '***'), ('bob', lower('***'))",
            ),
            (
                "DO $$ BEGIN EXECUTE 'ALTER ROLE bob PASSWORD ' || quote_literal('s3cret'); END $$",
                "DO $$ BEGIN EXECUTE 'ALTER ROLE bob PASSWORD ' || quote_literal('***'); END $$",
            ),
            (
                "DO $$ BEGIN ALTER ROLE bob PASSWORD 's3cret'; END $$",
                "DO $$ BEGIN ALTER ROLE bob PASSWORD '***'; END $$",
            ),
            ("DO 'BEGIN ALTER ROLE bob PASSWORD ''s3cret''; END'", "DO '***'"),
            (
                "SELECT format('ALTER ROLE %I PASSWORD %L', 'bob', 's3cret')",
                "SELECT format('ALTER ROLE %I PASSWORD %L', '***', '***')",
            ),
            ("INSERT INTO config VALUES ('{\"password\": \"s3cret\"}')", "INSERT INTO config VALUES ('***')"),
            (
                "ALTER ROLE bob PASSWORD U&'s3cr!0065t' UESCAPE '!'",
                "ALTER ROLE bob PASSWORD '***' UESCAPE '!'",
            ),
            (
                "CREATE USER MAPPING FOR b SERVER s OPTIONS (U&\"p\\0061ssword\" 's3cret')",
                "CREATE USER MAPPING FOR b SERVER s OPTIONS (U&\"p\\0061ssword\" '***')",
            ),
        ];
        for (sql, expected) in rows {
            assert_eq!(of(sql), expected, "{sql}");
        }
    }

    #[test]
    fn a_statement_that_does_not_parse_and_mentions_a_password_loses_all_its_literals() {
        let rows = [
            "ALTER ROLE bob PASSWORD IS 's3cret'",
            "ALTER ROLE bob PASWORD 'x' PASSWORD 's3cret",
            "ALTER USER bob PASSWORD hunter2",
            "ALTER USER bob PASSWORD \"hunter2\"",
            "CREATE ROLE x WITH LOGIN 's3cret' PASSWORD",
        ];
        for sql in rows {
            let safe = of(sql);
            assert!(!safe.contains("s3cret") && !safe.contains("hunter2"), "{safe}");
        }
    }

    #[test]
    fn ordinary_statements_are_not_touched() {
        for sql in [
            "SELECT * FROM orders WHERE note = 'hello' AND url = 'https://example.com/a?b=c'",
            "SELECT 1; -- password 'x'",
            "ALTER ROLE bob PASSWORD NULL",
            "SELECT password FROM users WHERE name = 'ann'",
        ] {
            assert!(matches!(redact_secrets(sql, true, true), Cow::Borrowed(_)), "{sql}");
        }
    }

    #[test]
    fn without_standard_strings_a_backslash_hides_no_quote() {
        let sql = "SELECT 'a\\' PASSWORD '; ALTER ROLE bob PASSWORD 's3cret'";
        assert!(!redact_secrets(sql, false, true).contains("s3cret"));
    }

    proptest! {
        #[test]
        fn no_role_password_survives(
            secret in "Zq[a-zA-Z0-9 $%{}:;,.-]{4,20}", gap in "( |\n|\t|/\\* x \\*/|-- '\n){1,3}", form in 0usize..4,
            before in "[a-z' ;]{0,10}", standard in any::<bool>()
        ) {
            let literal = match form {
                0 => format!("'{secret}'"),
                1 => format!("E'{secret}'"),
                2 => format!("$q_q${secret}$q_q$"),
                _ => format!("U&'{secret}'"),
            };
            let clean = format!("ALTER ROLE bob PASSWORD{gap}{literal}");
            prop_assert!(!redact_secrets(&clean, standard, true).contains(&secret));
            let broken = format!("{before} ALTER ROLE bob PASSWORD{gap}{literal}");
            prop_assert!(before.contains('\'') || !redact_secrets(&broken, standard, false).contains(&secret));
        }

        #[test]
        fn any_text_can_be_redacted(sql in "\\PC{0,200}", standard in any::<bool>(), parses in any::<bool>()) {
            redact_secrets(&sql, standard, parses);
        }
    }
}
