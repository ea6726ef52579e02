//! Secrets in statements: what must never be content. Passwords of roles, user mappings and subscriptions,
//! connection strings, columns and settings that bear a secret's name.
//!
//! It works on tokens, so that it also works on what does not parse. Invariant: when in doubt more is
//! replaced, never less; a text without any of the words that mark a secret is not touched.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::{BTreeSet, HashSet};

use super::lexer::{Kind, Lexer, Token, name_of, value_of};
use crate::identity::token as tokens;

/// What stands for a secret.
const REPLACED: &str = "'***'";

/// Parts of the names that secrets go by.
const MARKS: [&str; 12] = [
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

/// Depth to which bodies of functions and DO blocks are followed.
const MAX_DEPTH: usize = 4;

/// The columns that relations of a name have, for an INSERT that lists none.
pub type ColumnsOf<'a> = &'a dyn Fn(&str) -> Vec<Vec<String>>;

/// A text without its secrets.
#[derive(Debug)]
pub struct Redacted<'a> {
    /// The text; borrowed when it holds none.
    pub text: Cow<'a, str>,
    /// Its parameters that stand where a secret does.
    pub parameters: SecretParameters,
}

/// Parameters whose values are secrets.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum SecretParameters {
    /// None of them.
    #[default]
    None,
    /// Those of these numbers, from 1.
    Some(BTreeSet<usize>),
    /// All, as far as anybody can tell.
    All,
}

impl SecretParameters {
    /// Whether parameter number `number`, from 1, is one.
    pub fn contains(&self, number: usize) -> bool {
        match self {
            Self::None => false,
            Self::Some(numbers) => numbers.contains(&number),
            Self::All => true,
        }
    }
}

/// `sql` with its secrets replaced. `parses` says that the server's grammar accepts it; a text that it does not
/// accept and that mentions a secret loses every literal.
pub fn redact_secrets<'a>(
    sql: &'a str,
    standard_strings: bool,
    parses: bool,
    columns_of: ColumnsOf<'_>,
) -> Redacted<'a> {
    let parameters = RefCell::default();
    let redaction = Redaction { standard_strings, parses, columns_of, parameters: &parameters };
    let text = redaction.of(sql, 0);
    Redacted { text, parameters: parameters.into_inner() }
}

/// `sql` without any literal: what EXECUTE hands to a statement whose parameters are secrets.
pub fn without_literals(sql: &str, standard_strings: bool) -> String {
    let mut edit = Edit { sql, out: String::new(), copied: 0 };
    for token in Lexer::new(sql, standard_strings) {
        if token.kind.is_literal() || token.kind == Kind::Comment {
            edit.replace(&token, if token.kind == Kind::Comment { "" } else { REPLACED });
        }
    }
    edit.finish().into_owned()
}

/// Whether `sql` may hold a secret at all.
pub fn may_hold_secret(sql: &str, standard_strings: bool) -> bool {
    may_hold(sql, standard_strings)
}

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

/// Whether a value is the name of a secret, so that another value is the secret.
pub fn is_secret_name(value: &[u8]) -> bool {
    let lawful = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    value.len() <= 128
        && value.iter().all(lawful)
        && marked(&String::from_utf8_lossy(value).to_ascii_lowercase())
}

#[derive(Clone, Copy)]
struct Redaction<'r> {
    standard_strings: bool,
    parses: bool,
    columns_of: ColumnsOf<'r>,
    parameters: &'r RefCell<SecretParameters>,
}

impl Redaction<'_> {
    fn of<'a>(self, sql: &'a str, depth: usize) -> Cow<'a, str> {
        let inserts = sql.as_bytes().windows(6).any(|w| w.eq_ignore_ascii_case(b"insert"));
        if !inserts && !may_hold(sql, self.standard_strings) {
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
        if depth > MAX_DEPTH || json {
            return Cow::Owned(REPLACED.to_owned());
        }
        let mut secret = inserted_secrets(&tokens, text, self.columns_of);
        secret.extend(merged_secrets(&tokens, text));
        secret.extend(assigned_secrets(&tokens, text));
        secret.extend(joined_secrets(&tokens, text));
        let grouped = grouped_secrets(&tokens, text);
        secret.extend(grouped);
        // Once a literal ends inside a password clause, the secret is in what is appended to it.
        let mut built_here = false;
        let mut edit = Edit { sql, out: String::new(), copied: 0 };
        let mut at = 0;
        for token in &all {
            if token.kind == Kind::Comment {
                let comment = text(token);
                if is_secret_text(&comment.to_ascii_lowercase()) || is_connection_string(Kind::Text, comment)
                {
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
            if !token.kind.is_string() {
                // `PASSWORD hunter2`, mistyped.
                let bare = matches!(token.kind, Kind::Word | Kind::Number | Kind::Quoted);
                if bare && tokens::is_in(text(token).as_bytes()) {
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
            } else if may_hold(&value, self.standard_strings) {
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

/// Whether any word that marks a secret is in the text, or anything that could spell one by escapes or parts.
fn may_hold(sql: &str, standard_strings: bool) -> bool {
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

fn is_secret_text(lower: &str) -> bool {
    SECRET_TEXTS.iter().any(|text| lower.contains(text))
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
        && is_secret_word(&name_of(token.kind, text).to_ascii_lowercase())
}

fn is_secret_word(name: &str) -> bool {
    marked(name) || name == "pass" || name.ends_with("_pass")
}

/// Whether the tokens before a literal end with a secret's name and little between: `PASSWORD '…'`,
/// `password = '…'`, `SET my.token TO '…'`, `set_config('my.secret', '…'`, `secret => '…'`.
fn follows_secret_name<'a>(before: &[Token], text: impl Fn(&Token) -> &'a str) -> bool {
    let mut back = before.iter().rev();
    let mut compared = false;
    for _ in 0..5 {
        let Some(token) = back.next() else { return false };
        compared |= token.kind == Kind::Operator || is_word(token, text(token), "in");
        let word = text(token);
        if names_secret(token, word) {
            return true;
        }
        let between = match token.kind {
            Kind::Word => [
                "to", "text", "varchar", "is", "not", "like", "ilike", "in", "from", "distinct", "any",
                "all", "some", "array", "row",
            ]
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
            // lower(password) = '…'
            Kind::Mark if word == ")" && compared => {
                let inside = back.by_ref().take(8).take_while(|t| text(t) != "(");
                if inside.into_iter().any(|t| names_secret(t, text(t))) {
                    return true;
                }
                false
            }
            Kind::Mark => matches!(word, ":=" | "::" | "["),
            _ => false,
        };
        if !between {
            return false;
        }
    }
    false
}

/// Whether a literal is compared with a secret's name behind it: `'…' = password`.
fn precedes_secret_name<'a>(after: &[Token], text: impl Fn(&Token) -> &'a str) -> bool {
    let compares =
        |t: &Token| t.kind == Kind::Operator && text(t) != "||" || text(t).eq_ignore_ascii_case("in");
    match after {
        [operator, rest @ ..] if compares(operator) => {
            let names = rest.iter().take(5).take_while(|t| {
                let joins = ["and", "or", "where"].iter().any(|word| is_word(t, text(t), word));
                matches!(t.kind, Kind::Word | Kind::Quoted | Kind::UnicodeQuoted) && !joins
                    || matches!(text(t), "." | "(")
            });
            names.into_iter().take(3).any(|t| names_secret(t, text(t)))
        }
        _ => false,
    }
}

fn is_value(token: &Token) -> bool {
    token.kind.is_string() || token.kind == Kind::Parameter
}

fn is_word(token: &Token, text: &str, word: &str) -> bool {
    token.kind == Kind::Word && text.eq_ignore_ascii_case(word)
}

/// Places of the values in parentheses or brackets behind a secret's name: `password in ('…', '…')`,
/// `password = any(array['…'])`, `password = crypt('…', …)`.
fn grouped_secrets<'a>(tokens: &[Token], text: impl Fn(&Token) -> &'a str + Copy) -> HashSet<usize> {
    let mut found = HashSet::new();
    let mut groups: Vec<bool> = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        match (token.kind, text(token)) {
            (Kind::Mark, "(" | "[") => {
                let before = tokens.get(..at).unwrap_or_default();
                let within = groups.last().copied().unwrap_or(false);
                // The name of what is called is passed over.
                let named = match before {
                    [named @ .., called] if called.kind == Kind::Word => named,
                    named => named,
                };
                let secret = before.last().is_some_and(|called| calls_secret(called, text(called)));
                groups.push(
                    within || secret || follows_operator(before, text) && follows_secret_name(named, text),
                );
            }
            (Kind::Mark, ")" | "]") => {
                groups.pop();
            }
            _ if is_value(token) && groups.last().copied().unwrap_or(false) => {
                found.insert(at);
            }
            _ => {}
        }
    }
    found
}

/// Whether this is the name of a function with secret arguments.
fn calls_secret(token: &Token, text: &str) -> bool {
    matches!(token.kind, Kind::Word | Kind::Quoted | Kind::UnicodeQuoted)
        && SECRET_FUNCTIONS.contains(&name_of(token.kind, text).to_ascii_lowercase().as_str())
}

/// Whether something is compared or assigned shortly before.
fn follows_operator<'a>(before: &[Token], text: impl Fn(&Token) -> &'a str) -> bool {
    before.iter().rev().take(4).any(|t| {
        t.kind == Kind::Operator || text(t) == ":=" || is_word(t, text(t), "in") || is_word(t, text(t), "to")
    })
}

/// Places of all values of a MERGE that mentions a secret's name: it can take them from anywhere.
fn merged_secrets<'a>(tokens: &[Token], text: impl Fn(&Token) -> &'a str + Copy) -> HashSet<usize> {
    let mut found = HashSet::new();
    let mut from = 0;
    for statement in tokens.split(|t| text(t) == ";") {
        let merges = statement.windows(2).any(|pair| match pair {
            [merge, into] => is_word(merge, text(merge), "merge") && is_word(into, text(into), "into"),
            _ => false,
        });
        if merges && statement.iter().any(|t| names_secret(t, text(t))) {
            let values = statement.iter().enumerate().filter(|(_, t)| is_value(t));
            found.extend(values.map(|(at, _)| from + at));
        }
        from += statement.len() + 1;
    }
    found
}

/// Places of the values that `SET (…, password, …) = …` assigns, up to the WHERE.
fn assigned_secrets<'a>(tokens: &[Token], text: impl Fn(&Token) -> &'a str + Copy) -> HashSet<usize> {
    let mut found = HashSet::new();
    for (start, pair) in tokens.windows(2).enumerate() {
        let [set, open] = pair else { continue };
        if !(is_word(set, text(set), "set") || text(set) == ",") || text(open) != "(" {
            continue;
        }
        let names = tokens.get(start + 2..).unwrap_or_default();
        let Some(close) = names.iter().position(|t| text(t) == ")") else { continue };
        let assigns = names.get(close + 1).is_some_and(|t| text(t) == "=");
        let secret = names.iter().take(close).any(|t| names_secret(t, text(t)));
        if assigns && secret {
            let values = names.iter().enumerate().skip(close);
            let values = values.take_while(|(_, t)| text(t) != ";" && !is_word(t, text(t), "where"));
            found.extend(values.filter(|(_, t)| is_value(t)).map(|(at, _)| start + 2 + at));
        }
    }
    found
}

/// Places of literals that spell a secret together: `'host=a pass' || 'word=…'`.
fn joined_secrets<'a>(tokens: &[Token], text: impl Fn(&Token) -> &'a str + Copy) -> HashSet<usize> {
    let mut found = HashSet::new();
    let mut at = 0;
    while at < tokens.len() {
        let (mut whole, mut places) = (String::new(), Vec::new());
        while let Some(token) = tokens.get(at) {
            if token.kind.is_string() {
                whole.push_str(&value_of(token.kind, text(token)));
            } else if token.kind != Kind::Parameter {
                break;
            }
            places.push(at);
            at += 1;
            if tokens.get(at).is_none_or(|t| text(t) != "||") {
                break;
            }
            at += 1;
        }
        if places.len() > 1 && is_secret_value(whole.as_bytes()) {
            found.extend(places);
        }
        at += 1;
    }
    found
}

/// Places of the values that an INSERT puts into columns with a secret's name. Where it takes them from a
/// query, all of its values count.
fn inserted_secrets<'a>(
    tokens: &[Token],
    text: impl Fn(&Token) -> &'a str + Copy,
    columns_of: ColumnsOf<'_>,
) -> HashSet<usize> {
    let word = |at: usize, word: &str| tokens.get(at).is_some_and(|t| is_word(t, text(t), word));
    let mark =
        |at: usize, mark: &str| tokens.get(at).is_some_and(|t| t.kind == Kind::Mark && text(t) == mark);
    let mut found = HashSet::new();
    let starts = (0..tokens.len()).filter(|at| word(*at, "insert") && word(at + 1, "into"));
    for start in starts {
        // insert into a.b [as c] [(…, password, …)] [overriding …] values (…, '…', …), …
        let mut name = start + 2;
        while mark(name + 1, ".") {
            name += 2;
        }
        let mut at = name + 1;
        if word(at, "as") {
            at += 2;
        }
        let lists = mark(at, "(") && !["select", "with", "values", "table"].iter().any(|w| word(at + 1, w));
        let (secret, from): (HashSet<usize>, usize) = if lists {
            let Some(close) = (at..tokens.len()).find(|at| mark(*at, ")")) else { continue };
            let columns = tokens.get(at + 1..close).unwrap_or_default().split(|t| text(t) == ",");
            let secret = columns.enumerate().filter(|(_, c)| c.iter().any(|t| names_secret(t, text(t))));
            (secret.map(|(number, _)| number).collect(), close + 1)
        } else {
            let name = tokens.get(name).map(|t| name_of(t.kind, text(t))).unwrap_or_default();
            let columns = columns_of(&name).into_iter().flat_map(|columns| columns.into_iter().enumerate());
            let secret = columns.filter(|(_, column)| is_secret_word(&column.to_ascii_lowercase()));
            (secret.map(|(number, _)| number).collect(), at)
        };
        if secret.is_empty() {
            continue;
        }
        let rest = tokens.iter().enumerate().skip(from).take_while(|(_, t)| text(t) != ";");
        let first = rest
            .clone()
            .find(|(_, t)| ["values", "select", "with", "table"].iter().any(|w| is_word(t, text(t), w)));
        let plain = first.is_some_and(|(_, t)| is_word(t, text(t), "values"));
        let (mut depth, mut column) = (0usize, 0usize);
        for (at, token) in rest {
            match (token.kind, text(token)) {
                (Kind::Mark, "(" | "[") => {
                    depth += 1;
                    if depth == 1 {
                        column = 0;
                    }
                }
                (Kind::Mark, ")" | "]") => depth = depth.saturating_sub(1),
                (Kind::Mark, ",") if depth <= 1 => column += 1,
                _ if is_value(token) && (!plain || secret.contains(&column)) => {
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
    is_secret_word(last)
        || marked(&lower) && ["alter ", "create ", "options", "set "].iter().any(|word| lower.contains(word))
}

/// Whether a literal is a libpq connection string or a URL with a password. In a dollar-quoted body
/// `password = '…'` is SQL, which is taken apart as such.
fn is_connection_string(kind: Kind, value: &str) -> bool {
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
        Some((name, _)) if is_secret_word(&name.to_ascii_lowercase()) => {
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
        redact(sql, true, pg_query::parse(sql, 0).is_ok()).into_owned()
    }

    fn redact(sql: &str, standard: bool, parses: bool) -> Cow<'_, str> {
        let columns_of = |name: &str| match name {
            "people" => vec![vec!["id".to_owned(), "password".to_owned()]],
            _ => Vec::new(),
        };
        redact_secrets(sql, standard, parses, &columns_of).text
    }

    #[test]
    fn no_form_of_a_statement_keeps_its_secret() {
        for sql in [
            "UPDATE people SET (id, password) = (1, 's3cret') WHERE id = 1",
            "UPDATE people SET id = 2, (id, password) = ROW('x', 's3cret')",
            "INSERT INTO people VALUES (1, 's3cret')",
            "INSERT INTO public.people AS p VALUES (1, 'a' || 's3cret') ON CONFLICT DO NOTHING",
            "INSERT INTO people AS c (id, password) OVERRIDING SYSTEM VALUE VALUES (900001, 's3cret')",
            "INSERT INTO people (id, password) SELECT 3, x FROM (VALUES ('s3cret')) v(x)",
            "INSERT INTO people SELECT 3, 's3cret'",
            "MERGE INTO people c USING (VALUES (1, 's3cret')) v(i, p) ON c.id = v.i WHEN MATCHED THEN UPDATE SET password = v.p",
            "SELECT 1 FROM people WHERE password = any(array['a', 's3cret'])",
            "SELECT 1 FROM people WHERE password IN ('a', 'b', 's3cret')",
            "SELECT 1 FROM people WHERE lower(password) = 's3cret'",
            "SELECT 1 FROM people WHERE 's3cret' = password",
            "SELECT 1 FROM people p WHERE 's3cret' = p.password::text",
            "SELECT 1 FROM people WHERE password::text = 's3cret'",
            "SELECT dblink_connect('h', 'host=a pass'||'word=s3cret')",
            "SELECT set_config('my.auth', 'Authorization: Bearer s3cret', false)",
            "SELECT 'Server=a;User=b;pass=s3cret'",
            "SELECT '-----BEGIN PRIVATE KEY-----s3cret'",
            "SELECT hmac('a', 'private_key=s3cret', 'sha256')",
            "COPY people FROM PROGRAM 'curl -s -u bob:s3cret http://127.0.0.1:1/'",
            "SELECT length('x') -- postgres://u:s3cret@h/db",
            "SELECT /* postgres://u:s3cret@h/db */ 1",
            "SELECT jsonb_build_object('password', 's3cret')",
            "SELECT $x$user=bob password=s3cret$x$",
            "SELECT crypt('s3cret', gen_salt('bf'))",
            "SELECT public . \"crypt\" ( lower('s3cret') , 'x' )",
            "SELECT pgp_sym_encrypt('x', 's3cret')",
            "UPDATE people SET id = 1 WHERE pgp_sym_decrypt(card, 's3cret', 'cipher-algo=aes256') = 'x'",
            "SELECT encode(hmac('x', 's3cret', 'sha256'), 'hex'), encrypt('x', 's3cret', 'aes')",
            "DO $$ BEGIN PERFORM crypt('s3cret', gen_salt('bf')); END $$",
            "SELECT 'bcam_abcdefghij234567_s3cret'",
            "SET application_name = bcam_abcdefghij234567_s3cret",
            "SELECT 1 AS \"bcam_abcdefghij234567_s3cret\" -- bcam_abcdefghij234567_s3cret",
        ] {
            assert!(pg_query::parse(sql, 0).is_ok(), "{sql}");
            assert!(!of(sql).contains("s3cret"), "{sql}: {}", of(sql));
        }
    }

    #[test]
    fn parameters_that_stand_where_a_secret_does_are_known() {
        let some = |numbers: &[usize]| SecretParameters::Some(numbers.iter().copied().collect());
        for (sql, expected) in [
            ("SELECT set_config('my.password', $1, false)", some(&[1])),
            ("UPDATE people SET name = $2, password = $1 WHERE id = $3", some(&[1])),
            ("INSERT INTO t (id, password) VALUES ($1, $2), ($3, $4)", some(&[2, 4])),
            ("INSERT INTO people VALUES ($1, $2)", some(&[2])),
            ("SELECT 1 FROM people WHERE id = $1 AND password = crypt($2, password)", some(&[2])),
            ("SELECT 1 FROM people WHERE id = $1 AND $2 = password", some(&[2])),
            ("SELECT crypt($1, gen_salt('bf')) WHERE $2", some(&[1])),
            ("SELECT pgp_sym_encrypt($1, $2), $3", some(&[1, 2])),
            ("SELECT password FROM people WHERE id = $1", SecretParameters::None),
            ("SELECT $1::text", SecretParameters::None),
        ] {
            let columns_of = |name: &str| match name {
                "people" => vec![vec!["id".to_owned(), "password".to_owned()]],
                _ => Vec::new(),
            };
            assert_eq!(redact_secrets(sql, true, true, &columns_of).parameters, expected, "{sql}");
        }
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
            assert!(matches!(redact(sql, true, true), Cow::Borrowed(_)), "{sql}");
        }
    }

    #[test]
    fn without_standard_strings_a_backslash_hides_no_quote() {
        let sql = "SELECT 'a\\' PASSWORD '; ALTER ROLE bob PASSWORD 's3cret'";
        assert!(!redact(sql, false, true).contains("s3cret"));
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
            prop_assert!(!redact(&clean, standard, true).contains(&secret));
            let broken = format!("{before} ALTER ROLE bob PASSWORD{gap}{literal}");
            prop_assert!(before.contains('\'') || !redact(&broken, standard, false).contains(&secret));
        }

        #[test]
        fn any_text_can_be_redacted(sql in "\\PC{0,200}", standard in any::<bool>(), parses in any::<bool>()) {
            redact(&sql, standard, parses);
        }
    }
}
