//! Where in a statement secrets stand: the tokens that a secret's name, a column list or the parts of a
//! concatenation make one.

use std::collections::HashSet;

use super::super::lexer::{Kind, Token, name_of, value_of};
use super::ColumnsOf;
use super::names::{calls_secret, is_secret_word, marked, names_secret};
use super::values::is_secret_value;

/// Whether the tokens before a literal end with a secret's name and little between: `PASSWORD '…'`,
/// `password = '…'`, `SET my.token TO '…'`, `set_config('my.secret', '…'`, `secret => '…'`.
pub(super) fn follows_secret_name<'a>(before: &[Token], text: impl Fn(&Token) -> &'a str) -> bool {
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
pub(super) fn precedes_secret_name<'a>(after: &[Token], text: impl Fn(&Token) -> &'a str) -> bool {
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

/// Places of the values in parentheses or brackets behind a secret's name: `password in ('…', '…')`,
/// `password = any(array['…'])`, `password = crypt('…', …)`.
pub(super) fn grouped_secrets<'a>(
    tokens: &[Token],
    text: impl Fn(&Token) -> &'a str + Copy,
) -> HashSet<usize> {
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

/// Places of all values of a MERGE that mentions a secret's name: it can take them from anywhere.
pub(super) fn merged_secrets<'a>(
    tokens: &[Token],
    text: impl Fn(&Token) -> &'a str + Copy,
) -> HashSet<usize> {
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
pub(super) fn assigned_secrets<'a>(
    tokens: &[Token],
    text: impl Fn(&Token) -> &'a str + Copy,
) -> HashSet<usize> {
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
pub(super) fn joined_secrets<'a>(
    tokens: &[Token],
    text: impl Fn(&Token) -> &'a str + Copy,
) -> HashSet<usize> {
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
pub(super) fn inserted_secrets<'a>(
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
        let (mut depth, mut column, mut elsewhere) = (0usize, 0usize, !plain);
        for (at, token) in rest {
            elsewhere |= secret.contains(&column) && is_word(token, text(token), "select");
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
        if elsewhere {
            // What the query reads can be given in front of it: with n as (values ('…')) insert into … select …
            let earlier = tokens.iter().enumerate().take(start).rev().take_while(|(_, t)| text(t) != ";");
            found.extend(earlier.filter(|(_, t)| is_value(t)).map(|(at, _)| at));
        }
    }
    found
}

/// Whether something is compared or assigned shortly before.
fn follows_operator<'a>(before: &[Token], text: impl Fn(&Token) -> &'a str) -> bool {
    before.iter().rev().take(4).any(|t| {
        t.kind == Kind::Operator || text(t) == ":=" || is_word(t, text(t), "in") || is_word(t, text(t), "to")
    })
}

pub(super) fn is_value(token: &Token) -> bool {
    token.kind.is_string() || matches!(token.kind, Kind::Bits | Kind::Parameter)
}

pub(super) fn is_word(token: &Token, text: &str, word: &str) -> bool {
    token.kind == Kind::Word && text.eq_ignore_ascii_case(word)
}
