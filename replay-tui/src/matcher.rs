//! Evaluating a filter over sessions and events.
//!
//! A field that a row does not have satisfies no test; `not` turns that around like anything else. Text is
//! compared without regard to case.

use std::borrow::Cow;
use std::collections::BTreeMap;

use bodycam_record::filter::{Comparison, Expr, Field, FieldType, Filter, FilterError, Span, Test, Value};
use regex::{Regex, RegexBuilder};

use crate::error::ReplayError;

/// Saved filters may use one another this deep.
const MAX_SAVED_DEPTH: usize = 8;
/// Compiled size of a regex, in bytes.
const MAX_REGEX_BYTES: usize = 1 << 20;

/// A field's value in a row.
#[derive(Debug, Clone, PartialEq)]
pub enum Cell<'a> {
    /// The row has none.
    Absent,
    /// Text, several when the field holds a list.
    Text(Vec<Cow<'a, str>>),
    /// A number, nanoseconds, or Unix nanoseconds.
    Int(i64),
}

/// Something that a filter can be asked about.
pub trait Row {
    /// The value of a field.
    fn cell(&self, field: Field) -> Cell<'_>;
    /// The texts that a bare word is looked for in.
    fn words(&self) -> Vec<Cow<'_, str>>;
    /// When its session started, Unix nanoseconds.
    fn session_start_ns(&self) -> i64;
}

/// A filter, ready to be asked.
#[derive(Debug, Clone, Default)]
pub struct Matcher {
    root: Option<Node>,
    now_ns: i64,
    fields: Vec<Field>,
}

#[derive(Debug, Clone)]
enum Node {
    And(Vec<Node>),
    Or(Vec<Node>),
    Not(Box<Node>),
    Words(String),
    Field(Field, Ask),
}

#[derive(Debug, Clone)]
enum Ask {
    Plain(Test),
    Regex(Regex),
}

impl Cell<'_> {
    /// One text.
    pub fn text(text: &str) -> Cell<'_> {
        Cell::Text(vec![Cow::Borrowed(text)])
    }

    /// A text, where there is one.
    pub fn optional(text: Option<&str>) -> Cell<'_> {
        text.map_or(Cell::Absent, Cell::text)
    }

    /// Several texts.
    pub fn list(texts: &[String]) -> Cell<'_> {
        match texts {
            [] => Cell::Absent,
            texts => Cell::Text(texts.iter().map(|t| Cow::Borrowed(t.as_str())).collect()),
        }
    }

    /// A number, where there is one.
    pub fn int(n: Option<i64>) -> Cell<'static> {
        n.map_or(Cell::Absent, Cell::Int)
    }
}

impl Matcher {
    /// The matcher of `text`: parsed, saved filters put in, regexes compiled, `now` fixed. Fields outside
    /// `known` are refused, with what to do instead.
    pub fn new(
        text: &str,
        saved: &BTreeMap<String, String>,
        now_ns: i64,
        known: Option<(&[Field], &str)>,
    ) -> Result<Self, ReplayError> {
        let error = |source| ReplayError::filter(text, source);
        let filter = Filter::parse(text).map_err(error)?;
        let mut fields = Vec::new();
        let root = filter.expr.as_ref().map(|e| compile(text, e, saved, 0, &mut fields)).transpose()?;
        if let Some((known, hint)) = known
            && let Some((field, span)) = fields.iter().find(|(field, _)| !known.contains(field))
        {
            let message = format!("'{}' is not known of {hint}", field.name());
            return Err(error(FilterError::new(text, *span, message)));
        }
        Ok(Self { root, now_ns, fields: fields.into_iter().map(|(field, _)| field).collect() })
    }

    /// Whether it lets everything through.
    pub fn is_empty(&self) -> bool {
        self.root.is_none()
    }

    /// Whether it asks for this field.
    pub fn asks(&self, field: Field) -> bool {
        self.fields.contains(&field)
    }

    /// Whether a row passes.
    pub fn matches(&self, row: &dyn Row) -> bool {
        self.root.as_ref().is_none_or(|node| node.matches(row, self.now_ns))
    }
}

fn compile(
    text: &str,
    expr: &Expr,
    saved: &BTreeMap<String, String>,
    depth: usize,
    fields: &mut Vec<(Field, Span)>,
) -> Result<Node, ReplayError> {
    let error = |span: Span, message: String| {
        ReplayError::filter(text, FilterError::new(text, span, bodycam_record::shown(&message)))
    };
    let mut all = |parts: &[Expr]| -> Result<Vec<Node>, ReplayError> {
        parts.iter().map(|p| compile(text, p, saved, depth, fields)).collect()
    };
    Ok(match expr {
        Expr::And(parts) => Node::And(all(parts)?),
        Expr::Or(parts) => Node::Or(all(parts)?),
        Expr::Not(inner) => Node::Not(Box::new(compile(text, inner, saved, depth, fields)?)),
        Expr::Text(word) => Node::Words(word.to_lowercase()),
        Expr::Saved(name, span) => {
            let Some(source) = saved.get(name) else {
                let known: Vec<_> = saved.keys().map(String::as_str).collect();
                let known = if known.is_empty() { "none is".to_owned() } else { known.join(", ") };
                return Err(error(*span, format!("no saved filter '{name}' ([replay.filters]: {known})")));
            };
            if depth >= MAX_SAVED_DEPTH {
                return Err(error(*span, format!("saved filter '{name}' leads back to itself")));
            }
            let filter = Filter::parse(source).map_err(|e| ReplayError::filter(source, e))?;
            match &filter.expr {
                Some(expr) => compile(source, expr, saved, depth + 1, fields)?,
                None => Node::And(Vec::new()),
            }
        }
        Expr::Test(field, test, span) => {
            fields.push((*field, *span));
            match test {
                Test::Matches(pattern) => {
                    let regex = RegexBuilder::new(pattern)
                        .case_insensitive(true)
                        .size_limit(MAX_REGEX_BYTES)
                        .build()
                        .map_err(|e| error(*span, regex_message(&e)))?;
                    Node::Field(*field, Ask::Regex(regex))
                }
                test => Node::Field(*field, Ask::Plain(lowered(test))),
            }
        }
    })
}

/// The last line of a regex error says what is wrong; the lines before draw the pattern.
fn regex_message(error: &regex::Error) -> String {
    let text = error.to_string();
    format!("not a regex: {}", text.lines().last().unwrap_or_default().trim_start_matches("error: "))
}

fn lowered(test: &Test) -> Test {
    let lower = |value: &Value| match value {
        Value::Text(text) => Value::Text(text.to_lowercase()),
        other => other.clone(),
    };
    match test {
        Test::Has(v) => Test::Has(lower(v)),
        Test::Compare(op, v) => Test::Compare(*op, lower(v)),
        Test::In(values) => Test::In(values.iter().map(lower).collect()),
        other => other.clone(),
    }
}

impl Node {
    fn matches(&self, row: &dyn Row, now_ns: i64) -> bool {
        match self {
            Node::And(parts) => parts.iter().all(|p| p.matches(row, now_ns)),
            Node::Or(parts) => parts.iter().any(|p| p.matches(row, now_ns)),
            Node::Not(inner) => !inner.matches(row, now_ns),
            Node::Words(word) => row.words().iter().any(|t| t.to_lowercase().contains(word)),
            Node::Field(field, ask) => match (row.cell(*field), ask) {
                (Cell::Absent, _) => false,
                (Cell::Text(texts), Ask::Regex(regex)) => texts.iter().any(|t| regex.is_match(t)),
                (Cell::Int(n), Ask::Regex(regex)) => regex.is_match(&n.to_string()),
                (_, Ask::Plain(Test::Exists)) => true,
                (Cell::Text(texts), Ask::Plain(test)) => {
                    texts.iter().any(|t| text_matches(field.ty(), &t.to_lowercase(), test))
                }
                (Cell::Int(n), Ask::Plain(test)) => int_matches(n, test, now_ns, row.session_start_ns()),
            },
        }
    }
}

fn text_matches(ty: FieldType, text: &str, test: &Test) -> bool {
    let has = |value: &Value| match (ty, value) {
        (FieldType::Id, Value::Text(v)) => text.starts_with(v.as_str()),
        (_, Value::Text(v)) => text.contains(v.as_str()),
        (_, Value::Network(network, prefix)) => in_network(text, *network, *prefix),
        _ => false,
    };
    let equals = |value: &Value| match value {
        Value::Text(v) => text == v,
        other => has(other),
    };
    match test {
        Test::Has(value) => has(value),
        Test::Compare(Comparison::Equal, value) => equals(value),
        Test::Compare(Comparison::NotEqual, value) => !equals(value),
        Test::In(values) => values.iter().any(equals),
        _ => false,
    }
}

fn in_network(text: &str, network: std::net::IpAddr, prefix: u8) -> bool {
    use std::net::IpAddr::{V4, V6};
    match (text.parse(), network) {
        (Ok(V4(a)), V4(n)) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0);
            a.to_bits() & mask == n.to_bits() & mask
        }
        (Ok(V6(a)), V6(n)) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix.min(128))).unwrap_or(0);
            a.to_bits() & mask == n.to_bits() & mask
        }
        _ => false,
    }
}

fn int_matches(n: i64, test: &Test, now_ns: i64, start_ns: i64) -> bool {
    // A value stands for the whole numbers [from, until): one number, or all nanoseconds of a day.
    let bounds = |value: &Value| match value {
        Value::Number(v) | Value::Duration(v) => Some((*v, v.saturating_add(1))),
        Value::Time(time) => Some(time.bounds(now_ns, start_ns)),
        Value::Text(_) | Value::Network(..) => None,
    };
    let within = |value: &Value| bounds(value).is_some_and(|(from, until)| from <= n && n < until);
    match test {
        Test::Has(value) => within(value),
        Test::In(values) => values.iter().any(within),
        Test::Compare(op, value) => bounds(value).is_some_and(|(from, until)| match op {
            Comparison::Equal => from <= n && n < until,
            Comparison::NotEqual => n < from || until <= n,
            Comparison::Less => n < from,
            Comparison::LessOrEqual => n < until,
            Comparison::Greater => n >= until,
            Comparison::GreaterOrEqual => n >= from,
        }),
        Test::Range(from, to) => {
            from.as_ref().and_then(bounds).is_none_or(|(from, _)| n >= from)
                && to.as_ref().and_then(bounds).is_none_or(|(_, until)| n < until)
        }
        Test::Exists => true,
        Test::Matches(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Example;

    impl Row for Example {
        fn cell(&self, field: Field) -> Cell<'_> {
            match field {
                Field::Principal => Cell::text("Support-Copilot"),
                Field::Session => Cell::text("0193-abcd"),
                Field::Table => Cell::Text(vec!["public.customers".into(), "public.orders".into()]),
                Field::Rows => Cell::Int(48_200),
                Field::Dur => Cell::Int(1_500_000_000),
                Field::At => Cell::Int(1_795_255_200_000_000_000),
                Field::Address => Cell::text("10.1.2.3"),
                _ => Cell::Absent,
            }
        }
        fn words(&self) -> Vec<Cow<'_, str>> {
            vec!["SELECT * FROM Customers".into()]
        }
        fn session_start_ns(&self) -> i64 {
            1_795_255_200_000_000_000 - 90_000_000_000
        }
    }

    fn matches(text: &str) -> bool {
        let saved = BTreeMap::from([
            ("bulk".to_owned(), "rows>10k".to_owned()),
            ("loop".to_owned(), "@loop".to_owned()),
        ]);
        Matcher::new(text, &saved, 1_795_255_260_000_000_000, None).map(|m| m.matches(&Example)).unwrap()
    }

    #[test]
    fn every_operator_says_yes_and_no() {
        for (yes, no) in [
            ("principal:copilot", "principal=copilot"),
            ("principal=support-copilot", "principal!=support-copilot"),
            ("session:0193", "session:abcd"),
            ("table:orders", "table:payments"),
            ("table~\"^public\\.(cust|pay)\"", "table~\"^cust\""),
            ("principal in (a, \"support-copilot\")", "principal in (a, b)"),
            ("rows>10k", "rows>48200"),
            ("rows>=48.2k", "rows<48200"),
            ("rows:40k..50k", "rows:50k.."),
            ("dur>1s", "dur>1.5s"),
            ("has:rows", "has:status"),
            ("not has:status", "status!=200"),
            ("ip:10.0.0.0/8", "ip:10.1.2.4"),
            ("ip:0.0.0.0/0", "ip:::/0"),
            ("at:2026-11-21", "at:2026-11-22"),
            ("at>2026-11-20", "at>2026-11-21"),
            ("at:2026-11-21T10:00", "at:2026-11-21T10:01"),
            ("-2m..", "-30s.."),
            ("+01:00..+02:00", "+2m.."),
            ("customers", "payments"),
            ("\"from customers\"", "\"from  customers\""),
            ("customers or payments", "customers payments"),
            ("@bulk", "not @bulk"),
            ("", "!(rows>1 or x)"),
        ] {
            assert!(matches(yes), "{yes}");
            assert!(!matches(no), "{no}");
        }
    }

    #[test]
    fn what_cannot_be_asked_is_refused_with_its_place() {
        let saved = BTreeMap::from([("loop".to_owned(), "@loop".to_owned())]);
        let refused = |text: &str, known: Option<(&[Field], &str)>| {
            Matcher::new(text, &saved, 0, known).unwrap_err().to_string()
        };
        assert!(refused("a sql~\"(\"", None).contains("not a regex"), "{}", refused("a sql~\"(\"", None));
        assert!(refused("@nope", None).contains("no saved filter 'nope'"));
        assert!(refused("@loop", None).contains("leads back"));
        let sessions = (&[Field::Principal][..], "sessions; look into one, or use `bodycam events grep`");
        let text = refused("principal:a sql:b", Some(sessions));
        assert!(text.starts_with("filter 'principal:a sql:b': ") && text.ends_with("(column 13)"), "{text}");
    }
}
