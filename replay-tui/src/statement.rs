//! A SQL statement laid out for reading: clauses on lines of their own, bind parameters in place.
//!
//! Invariant: only blanks are changed. The tokens, in order, are those of the recorded text.

use crate::shown::Shown;

/// Longest statement that is laid out, in bytes; the raw view shows the rest.
pub const LAYOUT_LIMIT: usize = 64 * 1024;
/// Longest token that is shown whole, in bytes.
const TOKEN_LIMIT: usize = 2048;

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenKind {
    /// A key word that starts a clause, or another reserved word.
    Keyword,
    /// A name, number or operator.
    Plain,
    /// A quoted text.
    Literal,
    /// A comment.
    Comment,
    /// A parameter's place, `$1`.
    Parameter,
    /// The value bound to it.
    Bound,
    /// A note of ours, not part of the text.
    Note,
}

/// One token of a laid-out line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// What it is.
    pub kind: TokenKind,
    /// Its text.
    pub text: Shown,
}

/// One line: its indentation in steps, and its tokens.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Line {
    /// Steps of indentation.
    pub indent: usize,
    /// The tokens; blanks between them are tokens of their own.
    pub tokens: Vec<Token>,
}

impl Line {
    /// The line as plain text.
    pub fn plain(&self) -> String {
        let mut out = "  ".repeat(self.indent);
        self.tokens.iter().for_each(|t| out.push_str(t.text.as_str()));
        out
    }
}

/// Lays out `text` with `binds` in place (`$1` is the first).
pub fn layout(text: &str, binds: &[Shown]) -> Vec<Line> {
    let (head, cut) = match text.char_indices().find(|(at, _)| *at >= LAYOUT_LIMIT) {
        Some((at, _)) => (text.get(..at).unwrap_or_default(), text.len() - at),
        None => (text, 0),
    };
    let mut out = Layout::default();
    let tokens: Vec<Raw<'_>> = Lexer { rest: head }.collect();
    for (i, token) in tokens.iter().enumerate() {
        out.token(token, tokens.get(i + 1..).unwrap_or_default(), binds);
    }
    if cut > 0 {
        out.new_line(0);
        out.push(TokenKind::Note, Shown::of(&format!("… ({cut} more bytes, press p for the raw text)")));
    }
    out.finish()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RawKind {
    Blank,
    Word,
    Quoted,
    Comment,
    Parameter,
    Open,
    Close,
    Semicolon,
    Comma,
    Other,
}

struct Raw<'a> {
    kind: RawKind,
    text: &'a str,
}

struct Lexer<'a> {
    rest: &'a str,
}

impl<'a> Iterator for Lexer<'a> {
    type Item = Raw<'a>;

    fn next(&mut self) -> Option<Raw<'a>> {
        let rest = self.rest;
        let first = rest.chars().next()?;
        let (kind, length) = match first {
            c if c.is_whitespace() => (RawKind::Blank, run(rest, char::is_whitespace)),
            '\'' => (RawKind::Quoted, quoted(rest, '\'', false)),
            '"' => (RawKind::Quoted, quoted(rest, '"', false)),
            'e' | 'E' if rest.get(1..).is_some_and(|r| r.starts_with('\'')) => {
                (RawKind::Quoted, 1 + quoted(rest.get(1..).unwrap_or_default(), '\'', true))
            }
            '-' if rest.starts_with("--") => (RawKind::Comment, rest.find('\n').unwrap_or(rest.len())),
            '/' if rest.starts_with("/*") => (RawKind::Comment, block_comment(rest)),
            '$' => match dollar(rest) {
                Some(found) => found,
                None => (RawKind::Other, 1),
            },
            c if c.is_alphanumeric() || c == '_' => {
                (RawKind::Word, run(rest, |c| c.is_alphanumeric() || matches!(c, '_' | '.' | '$')))
            }
            '(' | '[' => (RawKind::Open, 1),
            ')' | ']' => (RawKind::Close, 1),
            ';' => (RawKind::Semicolon, 1),
            ',' => (RawKind::Comma, 1),
            c => (RawKind::Other, c.len_utf8()),
        };
        let length = length.clamp(first.len_utf8(), rest.len());
        let text = rest.get(..length)?;
        self.rest = rest.get(length..)?;
        Some(Raw { kind, text })
    }
}

fn run(text: &str, belongs: impl Fn(char) -> bool) -> usize {
    text.find(|c| !belongs(c)).unwrap_or(text.len())
}

/// Length of a quoted text; a doubled quote stands for itself, and so does an escaped one.
fn quoted(text: &str, quote: char, escapes: bool) -> usize {
    let mut chars = text.char_indices().skip(1).peekable();
    while let Some((at, c)) = chars.next() {
        if escapes && c == '\\' {
            chars.next();
        } else if c == quote {
            match chars.peek() {
                Some((_, next)) if *next == quote => drop(chars.next()),
                _ => return at + 1,
            }
        }
    }
    text.len()
}

/// Length of a block comment; PostgreSQL nests them.
fn block_comment(text: &str) -> usize {
    let mut depth = 0usize;
    let mut at = 0;
    while let Some(rest) = text.get(at..).filter(|r| !r.is_empty()) {
        if rest.starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest.starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += rest.chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

/// A parameter `$1`, or a dollar-quoted text.
fn dollar(text: &str) -> Option<(RawKind, usize)> {
    let after = text.get(1..)?;
    let digits = run(after, |c| c.is_ascii_digit());
    if digits > 0 {
        return Some((RawKind::Parameter, 1 + digits));
    }
    let tag = run(after, |c| c.is_alphanumeric() || c == '_');
    if !after.get(tag..)?.starts_with('$') {
        return None;
    }
    let delimiter = text.get(..tag + 2)?;
    let body = text.get(delimiter.len()..)?;
    let end = body.find(delimiter).map_or(text.len(), |at| at + 2 * delimiter.len());
    Some((RawKind::Quoted, end))
}

/// Words that start a line when they stand outside parentheses, with their indentation.
const CLAUSES: &[(&str, usize)] = &[
    ("select", 0),
    ("from", 0),
    ("where", 0),
    ("group", 0),
    ("having", 0),
    ("order", 0),
    ("limit", 0),
    ("offset", 0),
    ("fetch", 0),
    ("union", 0),
    ("intersect", 0),
    ("except", 0),
    ("values", 0),
    ("set", 0),
    ("returning", 0),
    ("window", 0),
    ("join", 1),
    ("left", 1),
    ("right", 1),
    ("inner", 1),
    ("full", 1),
    ("cross", 1),
    ("and", 1),
    ("or", 1),
];

const KEYWORDS: &[&str] = &[
    "all",
    "alter",
    "analyze",
    "as",
    "asc",
    "begin",
    "between",
    "by",
    "call",
    "case",
    "commit",
    "conflict",
    "copy",
    "create",
    "deallocate",
    "delete",
    "desc",
    "distinct",
    "do",
    "drop",
    "else",
    "end",
    "execute",
    "exists",
    "explain",
    "false",
    "grant",
    "ilike",
    "in",
    "index",
    "insert",
    "into",
    "is",
    "like",
    "not",
    "null",
    "nothing",
    "on",
    "outer",
    "prepare",
    "release",
    "revoke",
    "rollback",
    "savepoint",
    "show",
    "start",
    "stdin",
    "stdout",
    "table",
    "then",
    "to",
    "transaction",
    "true",
    "truncate",
    "update",
    "using",
    "view",
    "when",
    "with",
];

#[derive(Default)]
struct Layout {
    lines: Vec<Line>,
    line: Line,
    depth: usize,
    blank_pending: bool,
    last_word: String,
    first_word: String,
}

impl Layout {
    fn token(&mut self, token: &Raw<'_>, following: &[Raw<'_>], binds: &[Shown]) {
        let shown = Shown::limit(token.text, TOKEN_LIMIT);
        match token.kind {
            RawKind::Blank => self.blank_pending = !self.line.tokens.is_empty(),
            RawKind::Word => self.word(token.text, following),
            RawKind::Quoted => self.push(TokenKind::Literal, shown),
            RawKind::Comment => {
                self.push(TokenKind::Comment, shown);
                if token.text.starts_with("--") {
                    self.new_line(self.line.indent);
                }
            }
            RawKind::Parameter => {
                self.push(TokenKind::Parameter, shown);
                let number = token.text.trim_start_matches('$').parse::<usize>().ok();
                if let Some(value) = number.and_then(|n| n.checked_sub(1)).and_then(|n| binds.get(n)) {
                    self.line
                        .tokens
                        .push(Token { kind: TokenKind::Bound, text: Shown::of(&format!("←{value}")) });
                }
            }
            RawKind::Open => {
                self.depth += 1;
                self.push(TokenKind::Plain, shown);
            }
            RawKind::Close => {
                self.depth = self.depth.saturating_sub(1);
                self.push(TokenKind::Plain, shown);
            }
            RawKind::Semicolon => {
                self.blank_pending = false;
                self.push(TokenKind::Plain, shown);
                self.new_line(0);
                self.depth = 0;
                self.first_word.clear();
                self.last_word.clear();
            }
            RawKind::Comma | RawKind::Other => self.push(TokenKind::Plain, shown),
        }
    }

    fn word(&mut self, text: &str, following: &[Raw<'_>]) {
        let word = text.to_ascii_lowercase();
        if self.first_word.is_empty() {
            self.first_word.clone_from(&word);
        }
        let clause = CLAUSES.iter().find(|(name, _)| *name == word);
        if let Some((_, indent)) = clause
            && self.depth == 0
            && self.starts_line(&word, following)
            && !self.line.tokens.is_empty()
        {
            self.new_line(*indent);
        }
        let kind = match clause.is_some() || KEYWORDS.contains(&word.as_str()) {
            true => TokenKind::Keyword,
            false => TokenKind::Plain,
        };
        self.push(kind, Shown::limit(text, TOKEN_LIMIT));
        self.last_word = word;
    }

    /// Whether a clause word really starts a clause here: `LEFT JOIN` does at LEFT only, `BETWEEN a AND b`
    /// does not, `left(x, 3)` is a function, SET does in an UPDATE only.
    fn starts_line(&self, word: &str, following: &[Raw<'_>]) -> bool {
        let next = following.iter().find(|t| t.kind != RawKind::Blank);
        let next_is_open = next.is_some_and(|t| t.kind == RawKind::Open);
        match word {
            "join" => {
                !matches!(self.last_word.as_str(), "left" | "right" | "inner" | "full" | "cross" | "outer")
            }
            "left" | "right" => !next_is_open,
            "and" => !self.in_between(),
            "set" => self.first_word == "update" || self.last_word == "update",
            "values" => self.first_word == "insert",
            "from" => self.last_word != "distinct" && !matches!(self.first_word.as_str(), "copy" | "revoke"),
            "order" | "group" => next.is_some_and(|t| t.text.eq_ignore_ascii_case("by")),
            "select" => !matches!(self.last_word.as_str(), "explain" | "analyze" | "as"),
            _ => true,
        }
    }

    fn in_between(&self) -> bool {
        let words = self.line.tokens.iter().rev().map(|t| t.text.as_str().to_ascii_lowercase());
        words.take_while(|w| w != "and").any(|w| w == "between")
    }

    fn push(&mut self, kind: TokenKind, text: Shown) {
        if self.blank_pending {
            self.line.tokens.push(Token { kind: TokenKind::Plain, text: Shown::of(" ") });
            self.blank_pending = false;
        }
        self.line.tokens.push(Token { kind, text });
    }

    fn new_line(&mut self, indent: usize) {
        self.blank_pending = false;
        let line = std::mem::replace(&mut self.line, Line { indent, tokens: Vec::new() });
        if !line.tokens.is_empty() {
            self.lines.push(line);
        }
    }

    fn finish(mut self) -> Vec<Line> {
        self.new_line(0);
        self.lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn plain(text: &str, binds: &[&str]) -> Vec<String> {
        let binds: Vec<_> = binds.iter().map(|b| Shown::of(b)).collect();
        layout(text, &binds).iter().map(Line::plain).collect()
    }

    #[test]
    fn clauses_stand_on_lines_of_their_own_and_binds_in_place() {
        assert_eq!(
            plain(
                "select id, left(email, 3)  from customers c left join orders o on o.cid = c.id where region = $1 and \
                 age between $2 and 9 order by id",
                &["'EU'", "7"]
            ),
            [
                "select id, left(email, 3)",
                "from customers c",
                "  left join orders o on o.cid = c.id",
                "where region = $1←'EU'",
                "  and age between $2←7 and 9",
                "order by id",
            ]
        );
        assert_eq!(
            plain("update t set a = $9 where b in (select 1 from u where x) ; delete from t", &[]),
            ["update t", "set a = $9", "where b in (select 1 from u where x);", "delete", "from t"]
        );
    }

    #[test]
    fn clause_words_inside_quotes_and_comments_do_not_break_lines() {
        assert_eq!(
            plain(
                "select ' from ''x', \"where\", $a$ from $1 $a$, E'\\' from' /* a /* from */ where */ -- x\nfrom t",
                &["1"]
            ),
            [
                "select ' from ''x', \"where\", $a$ from $1 $a$, E'\\' from' /* a /* from */ where */ -- x",
                "from t"
            ]
        );
    }

    #[test]
    fn an_overlong_statement_says_what_is_missing() {
        let lines = plain(&format!("select '{}'", "x".repeat(1 << 20)), &[]);
        assert!(lines.iter().map(String::len).sum::<usize>() < 3 * LAYOUT_LIMIT);
        assert!(lines.last().unwrap().contains("more bytes"), "{:?}", lines.last());
    }

    proptest! {
        #[test]
        fn only_blanks_are_changed(text in "\\PC{0,40}|([a-z(),;'\"$ \n*/-]|select|from|and|\\$1|--){0,40}") {
            let visible = |s: &str| s.chars().filter(|c| !c.is_whitespace() && !bodycam_record::shown::is_hostile(*c)).collect::<String>();
            let laid_out: String = layout(&text, &[]).iter().map(Line::plain).collect();
            // Hostile characters come out escaped: compare texts that have none.
            prop_assume!(!text.chars().any(|c| bodycam_record::shown::is_hostile(c) && c != '\n'));
            let comment_newlines = laid_out.replace("\\n", "");
            prop_assert_eq!(visible(&comment_newlines), visible(&text).replace("\\n", ""));
        }
    }
}
