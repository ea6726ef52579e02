//! The literal-free text of a statement: what the `templates` table holds and the fingerprint is made of.
//!
//! Literals and parameters become `$1`, `$2`, …, comments go, keywords and names are folded, lists of values
//! shrink to their first, and every name that neither the catalog nor PostgreSQL itself knows is replaced by
//! a keyed digest. Invariant: nothing in it was invented by the client, but for numbers of parameters.

use std::fmt::Write as _;

use bodycam_record::TenantKey;

use super::builtin;
use super::catalog::CatalogSnapshot;
use super::lexer::{Kind, Lexer, name_of};

/// One piece of the text.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    /// A literal or parameter.
    Value,
    /// Values left out.
    More,
    /// Keyword, or what stands for a name.
    Word(String),
    /// A name; no space before an opening parenthesis.
    Name(String),
    /// Operators and marks.
    Sign(String),
}

/// The literal-free text of `sql`.
pub fn template(sql: &str, standard_strings: bool, catalog: &CatalogSnapshot, tenant: &TenantKey) -> String {
    let mut pieces = Vec::new();
    for token in Lexer::new(sql, standard_strings) {
        let text = sql.get(token.start..token.end).unwrap_or_default();
        pieces.push(match token.kind {
            Kind::Comment => continue,
            kind if kind.is_literal() => Piece::Value,
            Kind::Parameter => Piece::Value,
            Kind::Word if builtin::is_keyword(&text.to_ascii_lowercase()) => {
                Piece::Word(text.to_ascii_lowercase())
            }
            kind @ (Kind::Word | Kind::Quoted | Kind::UnicodeQuoted) => {
                Piece::Name(shown_name(&name_of(kind, text), catalog, tenant))
            }
            _ => Piece::Sign(text.to_owned()),
        });
    }
    while pieces.last() == Some(&Piece::Sign(";".to_owned())) {
        pieces.pop();
    }
    written(&shrunk(&pieces))
}

/// A name as it stands in a literal-free text.
fn shown_name(name: &str, catalog: &CatalogSnapshot, tenant: &TenantKey) -> String {
    if !catalog.knows(name) {
        return tenant.unknown_identifier(name);
    }
    let mut chars = name.chars();
    let plain = chars.next().is_some_and(|c| c.is_ascii_lowercase() || c == '_')
        && chars.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        && !builtin::is_keyword(name);
    if plain { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

/// The pieces with lists of values after IN, ARRAY and VALUES cut to their first entry.
fn shrunk(pieces: &[Piece]) -> Vec<Piece> {
    let mut out: Vec<Piece> = Vec::with_capacity(pieces.len());
    let mut at = 0;
    while let Some(piece) = pieces.get(at) {
        out.push(piece.clone());
        at += 1;
        let Piece::Word(word) = piece else { continue };
        match (word.as_str(), pieces.get(at)) {
            ("in", Some(Piece::Sign(open))) if open == "(" => {
                at += shrink_values(pieces.get(at..).unwrap_or_default(), ")", &mut out);
            }
            ("array", Some(Piece::Sign(open))) if open == "[" => {
                at += shrink_values(pieces.get(at..).unwrap_or_default(), "]", &mut out);
            }
            ("values", Some(Piece::Sign(open))) if open == "(" => {
                at += shrink_rows(pieces.get(at..).unwrap_or_default(), &mut out);
            }
            _ => {}
        }
    }
    out
}

/// `( $1 , $2 , … )` to `( $1 , ... )`, when it holds nothing but values. Says how many pieces it took.
fn shrink_values(pieces: &[Piece], close: &str, out: &mut Vec<Piece>) -> usize {
    let sign = |piece: Option<&Piece>, text: &str| matches!(piece, Some(Piece::Sign(s)) if s == text);
    let (mut at, mut values) = (1, 0);
    loop {
        if sign(pieces.get(at), "-") || sign(pieces.get(at), "+") {
            at += 1;
        }
        if pieces.get(at) != Some(&Piece::Value) {
            return 0;
        }
        values += 1;
        at += 1;
        if sign(pieces.get(at), close) {
            break;
        }
        if !sign(pieces.get(at), ",") {
            return 0;
        }
        at += 1;
    }
    out.extend(pieces.first().cloned());
    out.push(Piece::Value);
    if values > 1 {
        out.extend([Piece::Sign(",".to_owned()), Piece::More]);
    }
    out.extend(pieces.get(at).cloned());
    at + 1
}

/// `( row ) , ( row ) , …` to `( row ) , ...`, as far as the rows are alike. Says how many pieces it took.
fn shrink_rows(pieces: &[Piece], out: &mut Vec<Piece>) -> usize {
    let Some(row) = row_len(pieces).and_then(|len| pieces.get(..len)) else { return 0 };
    out.extend_from_slice(row);
    let mut at = row.len();
    let mut more = false;
    while pieces.get(at) == Some(&Piece::Sign(",".to_owned()))
        && pieces.get(at + 1..at + 1 + row.len()) == Some(row)
    {
        at += 1 + row.len();
        more = true;
    }
    if more {
        out.extend([Piece::Sign(",".to_owned()), Piece::More]);
    }
    at
}

/// Pieces from the opening parenthesis at the start to its closing one.
fn row_len(pieces: &[Piece]) -> Option<usize> {
    let mut depth = 0usize;
    for (at, piece) in pieces.iter().enumerate() {
        match piece {
            Piece::Sign(s) if s == "(" => depth += 1,
            Piece::Sign(s) if s == ")" => {
                depth = depth.checked_sub(1)?;
                if depth == 0 {
                    return Some(at + 1);
                }
            }
            _ => {}
        }
    }
    None
}

fn written(pieces: &[Piece]) -> String {
    let mut out = String::new();
    let mut number = 0;
    let mut before: Option<&Piece> = None;
    for piece in pieces {
        if before.is_some_and(|b| spaced(b, piece)) {
            out.push(' ');
        }
        match piece {
            Piece::Value => {
                number += 1;
                let _ = write!(out, "${number}");
            }
            Piece::More => out.push_str("..."),
            Piece::Word(text) | Piece::Name(text) | Piece::Sign(text) => out.push_str(text),
        }
        before = Some(piece);
    }
    out
}

fn spaced(before: &Piece, after: &Piece) -> bool {
    let tight_after = matches!(before, Piece::Sign(s) if matches!(s.as_str(), "(" | "[" | "." | "::"));
    let tight_before =
        matches!(after, Piece::Sign(s) if matches!(s.as_str(), ")" | "]" | "," | ";" | "." | "::" | "["));
    let call = matches!((before, after), (Piece::Name(_), Piece::Sign(s)) if s == "(");
    !(tight_after || tight_before || call)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::catalog::tests::shop;
    use super::*;

    fn of(sql: &str) -> String {
        template(sql, true, &shop(), &TenantKey::new([7; 32]))
    }

    #[test]
    fn texts_that_differ_in_values_layout_and_case_have_one_template() {
        let rows = [
            ("SELECT * FROM customers WHERE id = 5", "select * from customers where id = $1"),
            ("select *\n from Customers  where ID=$1;", "select * from customers where id = $1"),
            (
                "select * from customers /* ticket 7 */ where id = -- x\n 0x1F",
                "select * from customers where id = $1",
            ),
            ("select 1 where email in ('a', 'b', -3)", "select $1 where email in ($2, ...)"),
            ("select 1 where id = any(array[1,2,3])", "select $1 where id = any (array[$2, ...])"),
            (
                "insert into orders values (1, now()), (2, now())",
                "insert into orders values ($1, now()), ...",
            ),
            ("select count(*) from \"Odd Table\"", "select count(*) from \"Odd Table\""),
            ("select E'it\\'s', $$x$$, U&'\\0041', 1.5e-3, b'01'", "select $1, $2, $3, $4, $5"),
            ("select id::int8 from orders;;", "select id::int8 from orders"),
            ("select 'a'\n  'b'", "select $1"),
        ];
        for (sql, expected) in rows {
            assert_eq!(of(sql), expected, "{sql}");
        }
    }

    #[test]
    fn names_that_the_catalog_does_not_know_are_replaced() {
        let text = of("select email as \"4111 1111 1111 1111\" from customers bobby_tables");
        assert!(text.starts_with("select email as ?"), "{text}");
        assert!(!text.contains("4111") && !text.contains("bobby"), "{text}");
        assert_eq!(of("select id as x from orders"), of("SELECT id AS \"x\" FROM orders"));
        assert_ne!(of("select id as x from orders"), of("select id as y from orders"));
    }

    #[test]
    fn a_quoted_keyword_is_a_name() {
        assert!(of("select id as \"from\" from orders").starts_with("select id as ?"));
    }

    proptest! {
        #[test]
        fn no_literal_of_a_statement_is_in_its_template(
            word in "[a-z]{6}Q[a-z ]{0,8}", number in 1_000_000_000u64.., form in 0usize..7, noise in "[ \\n\\t]{0,3}"
        ) {
            let literal = match form {
                0 => format!("'{word}'"),
                1 => format!("E'\\n{word}'"),
                2 => format!("$t${word}$t$"),
                3 => format!("U&'{word}'"),
                4 => format!("N'{word}'"),
                5 => format!("''{noise}\n'{word}'"),
                _ => format!("\"{word}\""),
            };
            let sql = format!("select {literal}{noise}, {number}, {number}.5e7 as \"{word}\" /*{word}*/ from orders --{word}");
            let text = of(&sql);
            prop_assert!(!text.contains(&*word) && !text.contains(&number.to_string()), "{}", text);
        }

        #[test]
        fn any_text_has_a_template(sql in "\\PC{0,200}", standard in any::<bool>()) {
            template(&sql, standard, &shop(), &TenantKey::new([7; 32]));
        }
    }
}
