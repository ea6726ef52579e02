//! The parser: recursive descent over the text itself, so that an error knows its column.

use super::field::{self, Field, FieldType};
use super::{Comparison, Expr, Filter, FilterError, Span, Test, Value, literal};

/// Longest filter, in bytes.
const MAX_BYTES: usize = 8192;
/// Deepest nesting of parentheses and `not`.
const MAX_DEPTH: usize = 64;

const OPERATORS: &[(&str, Operator)] = &[
    ("!=", Operator::Compare(Comparison::NotEqual)),
    ("<=", Operator::Compare(Comparison::LessOrEqual)),
    (">=", Operator::Compare(Comparison::GreaterOrEqual)),
    ("<", Operator::Compare(Comparison::Less)),
    (">", Operator::Compare(Comparison::Greater)),
    ("=", Operator::Compare(Comparison::Equal)),
    (":", Operator::Has),
    ("~", Operator::Matches),
];

#[derive(Clone, Copy)]
enum Operator {
    Has,
    Matches,
    Compare(Comparison),
}

/// A run of text: bare, or between quotes with escapes resolved.
struct Token {
    text: String,
    quoted: bool,
    span: Span,
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
}

/// The filter that `text` says.
pub(super) fn parse(text: &str) -> Result<Filter, FilterError> {
    if text.len() > MAX_BYTES {
        let span = Span { start: 0, end: 1 };
        return Err(FilterError::new(text, span, format!("a filter has at most {MAX_BYTES} bytes")));
    }
    let mut parser = Parser { text, at: 0, depth: 0 };
    parser.blanks();
    if parser.rest().is_empty() {
        return Ok(Filter::default());
    }
    let expr = parser.or()?;
    match parser.rest().chars().next() {
        None => Ok(Filter { expr: Some(expr) }),
        Some(')') => Err(parser.error_here("this ')' closes nothing")),
        Some(c) => Err(parser.error_here(format!("'{}' is not expected here", crate::shown(&c.to_string())))),
    }
}

impl<'a> Parser<'a> {
    fn or(&mut self) -> Result<Expr, FilterError> {
        let mut parts = vec![self.and()?];
        while self.keyword("or") {
            parts.push(self.and()?);
        }
        Ok(single(parts, Expr::Or))
    }

    fn and(&mut self) -> Result<Expr, FilterError> {
        let mut parts = vec![self.not()?];
        loop {
            self.blanks();
            let explicit = self.keyword("and");
            if !explicit
                && (self.rest().is_empty() || self.rest().starts_with(')') || self.peek_keyword("or"))
            {
                return Ok(single(parts, Expr::And));
            }
            parts.push(self.not()?);
        }
    }

    fn not(&mut self) -> Result<Expr, FilterError> {
        self.blanks();
        let start = self.at;
        if !self.keyword("not") && !self.symbol("!") {
            return self.atom();
        }
        self.deeper(start)?;
        let inner = self.not()?;
        self.depth -= 1;
        Ok(match inner {
            Expr::Not(inner) => *inner,
            inner => Expr::Not(Box::new(inner)),
        })
    }

    fn atom(&mut self) -> Result<Expr, FilterError> {
        self.blanks();
        let start = self.at;
        if self.symbol("(") {
            self.deeper(start)?;
            let inner = self.or()?;
            self.depth -= 1;
            self.blanks();
            return match self.symbol(")") {
                true => Ok(inner),
                false => {
                    let span = Span { start, end: start + 1 };
                    Err(FilterError::new(self.text, span, "this '(' is not closed"))
                }
            };
        }
        if self.symbol("@") {
            return self.saved(start);
        }
        let name = self.identifier();
        if !name.is_empty() {
            if name.eq_ignore_ascii_case("has") && self.rest().starts_with(':') {
                self.at += 1;
                let (field, _) = self.field()?;
                return Ok(Expr::Test(field, Test::Exists, Span { start, end: self.at }));
            }
            if let Some((symbol, operator)) = OPERATORS.iter().find(|(s, _)| self.rest().starts_with(s)) {
                let field = self.known(name, start)?;
                self.at += symbol.len();
                let test = self.test(field, *operator)?;
                return Ok(Expr::Test(field, test, Span { start, end: self.at }));
            }
            let after_name = self.at;
            self.blanks();
            if self.at > after_name && Field::named(name).is_some() && self.keyword("in") {
                self.blanks();
                if self.rest().starts_with('(') {
                    let field = self.known(name, start)?;
                    let test = self.list(field)?;
                    return Ok(Expr::Test(field, test, Span { start, end: self.at }));
                }
            }
            self.at = start;
        }
        self.words(start)
    }

    fn saved(&mut self, start: usize) -> Result<Expr, FilterError> {
        let name = self.identifier().to_owned();
        let span = Span { start, end: self.at };
        match name.is_empty() {
            true => Err(FilterError::new(self.text, span, "after '@' comes the name of a saved filter")),
            false => Ok(Expr::Saved(name, span)),
        }
    }

    /// A word, a phrase, or a bare range of time.
    fn words(&mut self, start: usize) -> Result<Expr, FilterError> {
        let token = self.token()?;
        if token.text.is_empty() {
            let message =
                if token.quoted { "an empty phrase matches nothing" } else { "a condition is missing here" };
            return Err(FilterError::new(self.text, token.span, message));
        }
        let looks_like_time =
            token.text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '-' | '+' | '.'));
        if !token.quoted && token.text.contains("..") && looks_like_time {
            let test = self.range(Field::At, &token)?;
            return Ok(Expr::Test(Field::At, test, Span { start, end: self.at }));
        }
        Ok(Expr::Text(token.text))
    }

    fn test(&mut self, field: Field, operator: Operator) -> Result<Test, FilterError> {
        self.blanks();
        let token = self.token()?;
        let refuse = |message: &str| Err(FilterError::new(self.text, token.span, message));
        if token.text.is_empty() && !(token.quoted && field.ty() == FieldType::Text) {
            return refuse("a value is missing here");
        }
        let textual = matches!(field.ty(), FieldType::Text | FieldType::Id);
        match operator {
            Operator::Has if !token.quoted && token.text == "*" => Ok(Test::Exists),
            Operator::Has if !token.quoted && token.text.contains("..") && !textual => {
                self.range(field, &token)
            }
            Operator::Has => self.value(field, &token).map(Test::Has),
            Operator::Matches if field.ty() == FieldType::Text => Ok(Test::Matches(token.text)),
            Operator::Matches => refuse("'~' is for text"),
            Operator::Compare(op) => {
                let ordered = !matches!(op, Comparison::Equal | Comparison::NotEqual);
                if ordered && (textual || field.ty() == FieldType::Address) {
                    return refuse(&format!("'{op}' needs a number, a size, a duration or a time"));
                }
                self.value(field, &token).map(|value| Test::Compare(op, value))
            }
        }
    }

    fn range(&self, field: Field, token: &Token) -> Result<Test, FilterError> {
        let error = |message: String| FilterError::new(self.text, token.span, message);
        let Some((from, to)) = token.text.split_once("..") else {
            return Err(error("a range is written a..b".to_owned()));
        };
        let parse = |text: &str| match text {
            "" => Ok(None),
            text => literal::value(field, text).map(Some),
        };
        let from = parse(from).map_err(error)?;
        let to = match literal::complete_end(from.as_ref(), to) {
            Some(whole) => parse(&whole),
            None => parse(to),
        };
        match (from, to.map_err(error)?) {
            (None, None) => Err(error("a range needs one end at least".to_owned())),
            (from, to) => Ok(Test::Range(from, to)),
        }
    }

    fn list(&mut self, field: Field) -> Result<Test, FilterError> {
        let open = self.at;
        self.at += 1;
        let mut values = Vec::new();
        loop {
            self.blanks();
            let token = self.token()?;
            if token.text.is_empty() && !token.quoted {
                return Err(FilterError::new(self.text, token.span, "a value is missing here"));
            }
            values.push(self.value(field, &token)?);
            self.blanks();
            if self.symbol(")") {
                return Ok(Test::In(values));
            }
            if !self.symbol(",") {
                let span = Span { start: open, end: open + 1 };
                return Err(FilterError::new(
                    self.text,
                    span,
                    "this list is not closed: values, commas, ')'",
                ));
            }
        }
    }

    fn value(&self, field: Field, token: &Token) -> Result<Value, FilterError> {
        literal::value(field, &token.text).map_err(|message| FilterError::new(self.text, token.span, message))
    }

    fn field(&mut self) -> Result<(Field, Span), FilterError> {
        let start = self.at;
        let name = self.identifier();
        let field = self.known(name, start)?;
        Ok((field, Span { start, end: self.at }))
    }

    fn known(&self, name: &str, start: usize) -> Result<Field, FilterError> {
        Field::named(name).ok_or_else(|| {
            let hint = match field::nearest(name) {
                Some(near) => format!("did you mean '{near}'?"),
                None => "put text that holds an operator in quotes".to_owned(),
            };
            let span = Span { start, end: start + name.len() };
            FilterError::new(self.text, span, format!("there is no field '{}'; {hint}", crate::shown(name)))
        })
    }

    /// A quoted text, or a bare one up to a blank, comma or parenthesis.
    fn token(&mut self) -> Result<Token, FilterError> {
        let start = self.at;
        if self.symbol("\"") {
            return self.quoted(start);
        }
        let end = self.rest().find(|c: char| c.is_whitespace() || matches!(c, '(' | ')' | ',' | '"'));
        let text = self.rest().get(..end.unwrap_or(self.rest().len())).unwrap_or_default().to_owned();
        self.at += text.len();
        if self.rest().starts_with(['(', '"']) && !text.is_empty() {
            return Err(self.error_here("put a value that holds this character in quotes"));
        }
        Ok(Token { text, quoted: false, span: Span { start, end: self.at } })
    }

    fn quoted(&mut self, start: usize) -> Result<Token, FilterError> {
        let mut text = String::new();
        let mut chars = self.rest().char_indices();
        while let Some((at, c)) = chars.next() {
            match c {
                '"' => {
                    self.at += at + 1;
                    return Ok(Token { text, quoted: true, span: Span { start, end: self.at } });
                }
                '\\' => match chars.next() {
                    Some((_, c @ ('"' | '\\'))) => text.push(c),
                    // Regexes are full of backslashes: one before any other character stands for itself.
                    Some((_, c)) => text.extend(['\\', c]),
                    None => break,
                },
                c => text.push(c),
            }
        }
        let span = Span { start, end: start + 1 };
        Err(FilterError::new(self.text, span, "this quote is not closed"))
    }

    fn identifier(&mut self) -> &'a str {
        let rest = self.rest();
        let starts = rest.starts_with(|c: char| c.is_ascii_alphabetic());
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
        let name = if starts { rest.get(..end).unwrap_or_default() } else { "" };
        self.at += name.len();
        name
    }

    fn peek_keyword(&self, keyword: &str) -> bool {
        let Some(head) = self.rest().get(..keyword.len()) else { return false };
        let tail = self.rest().get(keyword.len()..).unwrap_or_default();
        head.eq_ignore_ascii_case(keyword)
            && tail.chars().next().is_none_or(|c| c.is_whitespace() || matches!(c, '(' | ')' | '"'))
    }

    fn keyword(&mut self, keyword: &str) -> bool {
        self.blanks();
        let found = self.peek_keyword(keyword);
        if found {
            self.at += keyword.len();
        }
        found
    }

    fn symbol(&mut self, symbol: &str) -> bool {
        let found = self.rest().starts_with(symbol);
        if found {
            self.at += symbol.len();
        }
        found
    }

    fn blanks(&mut self) {
        self.at = self.text.len() - self.rest().trim_start().len();
    }

    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn deeper(&mut self, start: usize) -> Result<(), FilterError> {
        self.depth += 1;
        match self.depth > MAX_DEPTH {
            true => {
                let span = Span { start, end: start + 1 };
                Err(FilterError::new(self.text, span, format!("nested deeper than {MAX_DEPTH} levels")))
            }
            false => Ok(()),
        }
    }

    fn error_here(&self, message: impl Into<String>) -> FilterError {
        FilterError::new(self.text, Span { start: self.at, end: self.at + 1 }, message)
    }
}

/// One part stands for itself; parts of the same connective are joined flat.
fn single(parts: Vec<Expr>, make: fn(Vec<Expr>) -> Expr) -> Expr {
    match <[Expr; 1]>::try_from(parts) {
        Ok([only]) => only,
        Err(parts) => make(parts),
    }
}
