//! The analyst's filter: one grammar for the replay's filter line, its non-interactive twins and rules.
//!
//! ```text
//! expr := or ; or := and ("or" and)* ; and := not (["and"] not)* ; not := ["not" | "!"] atom
//! atom := "(" expr ")" | "@" saved | field op value | field "in" "(" value, … ")" | "has:" field | word | "phrase"
//! op   := ":" (contains, for text; starts with, for ids; equals, for the rest) | "=" | "!=" | "<" | "<=" | ">" | ">=" | "~" (regex)
//! value with ":" may be a range: a..b, a.., ..b
//! ```
//!
//! Here is only the meaning of the text: whoever evaluates a filter (the replay over rows, the analyzer as a
//! query plan) decides how. A field that a row does not have satisfies no test.
//!
//! Invariant: `parse(filter.to_string()) == filter`.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

mod field;
mod literal;
mod parse;

pub use field::{FIELDS, Field, FieldInfo, FieldType};
pub use literal::{Precision, Time};

/// A parsed filter; without an expression it lets everything through.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Filter {
    /// What a row must satisfy.
    pub expr: Option<Expr>,
}

/// An expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expr {
    /// All of them.
    And(Vec<Expr>),
    /// Any of them.
    Or(Vec<Expr>),
    /// Not this.
    Not(Box<Expr>),
    /// The saved filter of this name.
    Saved(String, Span),
    /// This text anywhere in what was written: names, statements, hosts.
    Text(String),
    /// A test of one field.
    Test(Field, Test, Span),
}

/// A test of one field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Test {
    /// `field:value`.
    Has(Value),
    /// `field=value` and its kin.
    Compare(Comparison, Value),
    /// `field~regex`.
    Matches(String),
    /// `field in (a, b)`.
    In(Vec<Value>),
    /// `field:a..b`; both ends are included.
    Range(Option<Value>, Option<Value>),
    /// `has:field`.
    Exists,
}

/// How a value is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// A literal, typed by the field it stands with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Text; for an id its lower-case digits.
    Text(String),
    /// A count or a size in bytes.
    Number(i64),
    /// Nanoseconds.
    Duration(i64),
    /// A moment.
    Time(Time),
    /// A network: address and length of its prefix.
    Network(IpAddr, u8),
}

/// Where in the text something stands, in bytes. Takes no part in comparing filters.
#[derive(Debug, Clone, Copy, Default)]
pub struct Span {
    /// First byte.
    pub start: usize,
    /// First byte after it.
    pub end: usize,
}

/// A text that is no filter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message} (column {})", .column + 1)]
pub struct FilterError {
    /// What is wrong and what would be right; safe to show.
    pub message: String,
    /// Where it starts, in characters from 0.
    pub column: usize,
    /// How many characters it concerns, at least one.
    pub width: usize,
}

impl Filter {
    /// The filter that `text` says.
    pub fn parse(text: &str) -> Result<Self, FilterError> {
        parse::parse(text)
    }

    /// Whether it lets everything through.
    pub fn is_empty(&self) -> bool {
        self.expr.is_none()
    }

    /// Whether `test` holds for any part of the expression.
    pub fn any(&self, mut test: impl FnMut(&Expr) -> bool) -> bool {
        let mut open: Vec<&Expr> = self.expr.iter().collect();
        while let Some(expr) = open.pop() {
            if test(expr) {
                return true;
            }
            match expr {
                Expr::And(parts) | Expr::Or(parts) => open.extend(parts),
                Expr::Not(inner) => open.push(inner),
                Expr::Saved(..) | Expr::Text(_) | Expr::Test(..) => {}
            }
        }
        false
    }
}

impl FilterError {
    /// An error about `span` of `text`.
    pub fn new(text: &str, span: Span, message: impl Into<String>) -> Self {
        let chars = |end: usize| text.char_indices().take_while(|(at, _)| *at < end).count();
        let column = chars(span.start);
        Self { message: message.into(), column, width: chars(span.end).saturating_sub(column).max(1) }
    }

    /// The text on one line, safe to show, and carets under the place that is wrong.
    pub fn picture(&self, text: &str) -> String {
        let before: String = text.chars().take(self.column).collect();
        let concerned: String = text.chars().skip(self.column).take(self.width).collect();
        let indent = crate::shown(&before).chars().count();
        let width = crate::shown(&concerned).chars().count().max(1);
        format!("{}\n{}{}", crate::shown(text), " ".repeat(indent), "^".repeat(width))
    }
}

impl FromStr for Filter {
    type Err = FilterError;
    fn from_str(text: &str) -> Result<Self, FilterError> {
        Filter::parse(text)
    }
}

impl PartialEq for Span {
    fn eq(&self, _: &Span) -> bool {
        true
    }
}

impl Eq for Span {}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.expr.as_ref().map_or(Ok(()), |expr| expr.fmt(f))
    }
}

impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Expr::And(parts) => join(f, parts, " ", |p| matches!(p, Expr::Or(_) | Expr::And(_))),
            Expr::Or(parts) => join(f, parts, " or ", |p| matches!(p, Expr::Or(_))),
            Expr::Not(inner) => match inner.as_ref() {
                Expr::And(_) | Expr::Or(_) => write!(f, "not ({inner})"),
                _ => write!(f, "not {inner}"),
            },
            Expr::Saved(name, _) => write!(f, "@{name}"),
            Expr::Text(text) => word(f, text),
            Expr::Test(field, test, _) => write_test(f, field.name(), test),
        }
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Comparison::Equal => "=",
            Comparison::NotEqual => "!=",
            Comparison::Less => "<",
            Comparison::LessOrEqual => "<=",
            Comparison::Greater => ">",
            Comparison::GreaterOrEqual => ">=",
        })
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Text(text) => match is_plain(text) {
                true => f.write_str(text),
                false => quoted(f, text),
            },
            Value::Number(n) => n.fmt(f),
            Value::Duration(ns) => literal::write_duration(f, *ns),
            Value::Time(time) => time.fmt(f),
            Value::Network(address, prefix) if *prefix == literal::full_prefix(address) => address.fmt(f),
            Value::Network(address, prefix) => write!(f, "{address}/{prefix}"),
        }
    }
}

fn write_test(f: &mut fmt::Formatter<'_>, field: &str, test: &Test) -> fmt::Result {
    match test {
        Test::Has(value) => write!(f, "{field}:{value}"),
        Test::Compare(op, value) => write!(f, "{field}{op}{value}"),
        Test::Matches(regex) => {
            write!(f, "{field}~")?;
            quoted(f, regex)
        }
        Test::In(values) => {
            write!(f, "{field} in (")?;
            for (i, value) in values.iter().enumerate() {
                write!(f, "{}{value}", if i == 0 { "" } else { ", " })?;
            }
            f.write_str(")")
        }
        Test::Range(from, to) => {
            write!(f, "{field}:")?;
            from.iter().try_for_each(|v| write!(f, "{v}"))?;
            f.write_str("..")?;
            to.iter().try_for_each(|v| write!(f, "{v}"))
        }
        Test::Exists => write!(f, "has:{field}"),
    }
}

fn join(
    f: &mut fmt::Formatter<'_>,
    parts: &[Expr],
    between: &str,
    needs_parentheses: impl Fn(&Expr) -> bool,
) -> fmt::Result {
    for (i, part) in parts.iter().enumerate() {
        if i > 0 {
            f.write_str(between)?;
        }
        match needs_parentheses(part) {
            true => write!(f, "({part})")?,
            false => write!(f, "{part}")?,
        }
    }
    Ok(())
}

/// A word on its own: quoted unless it is plainly a word.
fn word(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    let keyword = matches!(text.to_ascii_lowercase().as_str(), "and" | "or" | "not" | "in" | "has");
    let starts_like_a_word = text.starts_with(|c: char| c.is_alphabetic());
    match is_plain(text) && starts_like_a_word && !keyword {
        true => f.write_str(text),
        false => quoted(f, text),
    }
}

/// Whether a text value needs no quotes.
fn is_plain(text: &str) -> bool {
    !text.is_empty()
        && !text.contains("..")
        && text.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '/'))
        && !text.ends_with('.')
        && !text.starts_with('.')
}

fn quoted(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    write!(f, "\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests;
