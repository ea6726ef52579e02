//! The tokens of a statement, by PostgreSQL's lexical rules (`src/backend/parser/scan.l`).
//!
//! The grammar of `pg_query` judges what a statement does; this lexer serves what must work on every text,
//! also on one that does not parse or ends in the middle: replacing literals and secrets. Invariant: the
//! tokens and the gaps between them cover the text, and nothing that the server would read as part of a
//! literal is ever outside one.

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Keyword or identifier without quotes.
    Word,
    /// `"…"`.
    Quoted,
    /// `U&"…"`.
    UnicodeQuoted,
    /// `'…'`, with the continuations on later lines; `N'…'`.
    Text,
    /// `E'…'`, and `'…'` without `standard_conforming_strings`.
    Escaped,
    /// `U&'…'`.
    Unicode,
    /// `B'…'`, `X'…'`.
    Bits,
    /// `$tag$…$tag$`.
    Dollar,
    /// Any numeric literal.
    Number,
    /// `$1`.
    Parameter,
    /// A run of operator characters.
    Operator,
    /// One of `( ) [ ] , ; : .`, `::`, `:=`, `..` or any other character.
    Mark,
    /// `-- …` or `/* … */`.
    Comment,
}

/// A token: bytes `start..end` of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token {
    pub kind: Kind,
    pub start: usize,
    pub end: usize,
    /// A literal, quoted name or comment that the end of the text cuts.
    pub cut: bool,
}

impl Kind {
    /// Whether its text is a value rather than a name or syntax.
    pub fn is_literal(self) -> bool {
        matches!(self, Kind::Text | Kind::Escaped | Kind::Unicode | Kind::Bits | Kind::Dollar | Kind::Number)
    }

    /// Whether it is a literal that can hold text.
    pub fn is_string(self) -> bool {
        matches!(self, Kind::Text | Kind::Escaped | Kind::Unicode | Kind::Dollar)
    }
}

/// Reads the tokens of a text, comments included, white space left out.
#[derive(Debug, Clone)]
pub struct Lexer<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
    standard_strings: bool,
}

impl<'a> Lexer<'a> {
    /// The tokens of `text` under this value of `standard_conforming_strings`.
    pub fn new(text: &'a str, standard_strings: bool) -> Self {
        Self { text, bytes: text.as_bytes(), at: 0, standard_strings }
    }

    fn peek(&self, ahead: usize) -> u8 {
        self.bytes.get(self.at + ahead).copied().unwrap_or(0)
    }

    fn skip_while(&mut self, class: impl Fn(u8) -> bool) {
        while self.at < self.bytes.len() && class(self.peek(0)) {
            self.at += 1;
        }
    }

    /// Moves behind the next `close` that is not doubled. False when the text ends first.
    fn quoted(&mut self, close: u8, backslash: bool) -> bool {
        while self.at < self.bytes.len() {
            let byte = self.peek(0);
            self.at += 1;
            if byte == b'\\' && backslash {
                self.at = (self.at + 1).min(self.bytes.len());
            } else if byte == close {
                if self.peek(0) != close {
                    return true;
                }
                self.at += 1;
            }
        }
        false
    }

    /// A string whose opening quote is next, and its continuations: more quotes after white space that holds
    /// a line break (`quotecontinue` in scan.l).
    fn string(&mut self, backslash: bool) -> bool {
        self.continued(|lexer| lexer.quoted(b'\'', backslash))
    }

    /// A bit string whose opening quote is next: a second quote does not double the first there.
    fn bits(&mut self) -> bool {
        self.continued(|lexer| {
            lexer.skip_while(|b| b != b'\'');
            lexer.at += 1;
            lexer.at <= lexer.bytes.len()
        })
    }

    /// Parts of one literal, each read by `part` from behind its opening quote.
    fn continued(&mut self, part: impl Fn(&mut Self) -> bool) -> bool {
        loop {
            self.at += 1;
            if !part(self) {
                self.at = self.at.min(self.bytes.len());
                return false;
            }
            let (end, mut broken) = (self.at, false);
            loop {
                match self.peek(0) {
                    b'\n' | b'\r' => broken = true,
                    b' ' | b'\t' | 0x0b | 0x0c => {}
                    b'-' if self.peek(1) == b'-' => {
                        self.skip_while(|b| b != b'\n' && b != b'\r');
                        continue;
                    }
                    _ => break,
                }
                self.at += 1;
            }
            if !broken || self.peek(0) != b'\'' {
                self.at = end;
                return true;
            }
        }
    }

    fn block_comment(&mut self) -> bool {
        let mut depth = 0usize;
        while self.at < self.bytes.len() {
            match (self.peek(0), self.peek(1)) {
                (b'/', b'*') => {
                    depth += 1;
                    self.at += 2;
                }
                (b'*', b'/') => {
                    depth -= 1;
                    self.at += 2;
                    if depth == 0 {
                        return true;
                    }
                }
                _ => self.at += 1,
            }
        }
        false
    }

    /// `$tag$…$tag$` if one starts here.
    fn dollar(&mut self) -> Option<bool> {
        let rest = self.text.get(self.at..)?;
        let tag_len = rest.get(1..)?.bytes().take_while(|b| continues_word(*b) && *b != b'$').count();
        let delimiter = rest.get(..tag_len + 2)?;
        if !delimiter.ends_with('$') || delimiter.as_bytes().get(1).is_some_and(u8::is_ascii_digit) {
            return None;
        }
        let body = rest.get(delimiter.len()..)?;
        let close = memchr::memmem::find(body.as_bytes(), delimiter.as_bytes());
        self.at += close.map_or(rest.len(), |at| at + 2 * delimiter.len());
        Some(close.is_some())
    }

    fn number(&mut self) {
        // Greedy on purpose: what follows a digit without a gap is never shown as a name.
        loop {
            self.skip_while(|b| continues_word(b) && b != b'$');
            let exponent = matches!(self.bytes.get(self.at.wrapping_sub(1)), Some(b'e' | b'E'));
            match self.peek(0) {
                b'.' if self.peek(1) != b'.' => self.at += 1,
                b'+' | b'-' if exponent && self.peek(1).is_ascii_digit() => self.at += 1,
                _ => return,
            }
        }
    }
}

impl Iterator for Lexer<'_> {
    type Item = Token;

    fn next(&mut self) -> Option<Token> {
        self.skip_while(|b| matches!(b, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c));
        let start = self.at;
        let first = *self.bytes.get(start)?;
        let (kind, whole) = match (first, self.peek(1), self.peek(2)) {
            (b'-', b'-', _) => {
                self.skip_while(|b| b != b'\n' && b != b'\r');
                (Kind::Comment, true)
            }
            (b'/', b'*', _) => (Kind::Comment, self.block_comment()),
            (b'\'', ..) if self.standard_strings => (Kind::Text, self.string(false)),
            (b'\'', ..) => (Kind::Escaped, self.string(true)),
            (b'"', ..) => {
                self.at += 1;
                (Kind::Quoted, self.quoted(b'"', false))
            }
            (b'e' | b'E', b'\'', _) => {
                self.at += 1;
                (Kind::Escaped, self.string(true))
            }
            (b'n' | b'N', b'\'', _) => {
                self.at += 1;
                if self.standard_strings {
                    (Kind::Text, self.string(false))
                } else {
                    (Kind::Escaped, self.string(true))
                }
            }
            (b'b' | b'B' | b'x' | b'X', b'\'', _) => {
                self.at += 1;
                (Kind::Bits, self.bits())
            }
            (b'u' | b'U', b'&', b'\'') => {
                self.at += 2;
                (Kind::Unicode, self.string(false))
            }
            (b'u' | b'U', b'&', b'"') => {
                self.at += 3;
                (Kind::UnicodeQuoted, self.quoted(b'"', false))
            }
            (b'$', digit, _) if digit.is_ascii_digit() => {
                self.at += 1;
                self.skip_while(|b| b.is_ascii_digit());
                (Kind::Parameter, true)
            }
            (b'$', ..) => match self.dollar() {
                Some(whole) => (Kind::Dollar, whole),
                None => {
                    self.at += 1;
                    (Kind::Mark, true)
                }
            },
            (b'0'..=b'9', ..) => {
                self.number();
                (Kind::Number, true)
            }
            (b'.', digit, _) if digit.is_ascii_digit() => {
                self.at += 1;
                self.number();
                (Kind::Number, true)
            }
            (b':', b':' | b'=', _) | (b'.', b'.', _) => {
                self.at += 2;
                (Kind::Mark, true)
            }
            (first, ..) if is_operator(first) => {
                while is_operator(self.peek(0)) {
                    if self.at > start && matches!((self.peek(0), self.peek(1)), (b'-', b'-') | (b'/', b'*'))
                    {
                        break;
                    }
                    self.at += 1;
                }
                (Kind::Operator, true)
            }
            (first, ..) if continues_word(first) && first != b'$' => {
                self.skip_while(continues_word);
                (Kind::Word, true)
            }
            _ => {
                self.at += 1;
                (Kind::Mark, true)
            }
        };
        Some(Token { kind, start, end: self.at, cut: !whole })
    }
}

/// What a string literal holds, its quotes and escapes undone.
pub fn value_of(kind: Kind, literal: &str) -> String {
    match kind {
        Kind::Dollar => {
            let delimiter = literal.get(1..).and_then(|r| r.find('$')).map_or(0, |at| at + 2);
            let body = literal.get(delimiter..).unwrap_or_default();
            let end = body.len().saturating_sub(delimiter);
            let closed = body.get(end..) == literal.get(..delimiter);
            body.get(..if closed { end } else { body.len() }).unwrap_or_default().to_owned()
        }
        _ => unescaped(kind, literal, '\''),
    }
}

/// The name that a quoted or plain identifier means: folded, unescaped, cut to the 63 bytes that the server
/// keeps of a name.
pub fn name_of(kind: Kind, word: &str) -> String {
    let mut name = match kind {
        Kind::Quoted | Kind::UnicodeQuoted => unescaped(kind, word, '"'),
        _ => word.to_ascii_lowercase(),
    };
    if name.len() > 63 {
        let end = (0..=63).rev().find(|at| name.is_char_boundary(*at)).unwrap_or(0);
        name.truncate(end);
    }
    name
}

/// Undoes doubled quotes, backslashes and Unicode escapes of one literal or quoted name.
fn unescaped(kind: Kind, literal: &str, quote: char) -> String {
    let mut out = String::with_capacity(literal.len());
    let mut rest = literal.get(literal.find(quote).map_or(0, |at| at + 1)..).unwrap_or_default().chars();
    let unicode = matches!(kind, Kind::Unicode | Kind::UnicodeQuoted);
    while let Some(c) = rest.next() {
        match c {
            c if c == quote => {
                // Doubled, or the end of this part: then the opening quote of the continuation follows.
                if rest.as_str().starts_with(quote) {
                    rest.next();
                    out.push(quote);
                } else {
                    rest = rest
                        .as_str()
                        .find(quote)
                        .map_or("", |at| rest.as_str().get(at + 1..).unwrap_or(""))
                        .chars();
                }
            }
            '\\' if unicode => {
                let (skip, digits) = if rest.as_str().starts_with('+') { (1, 6) } else { (0, 4) };
                push_coded(&mut out, &mut rest, skip, digits, 16);
            }
            '\\' if kind == Kind::Escaped => match rest.clone().next() {
                Some('x') => push_coded(&mut out, &mut rest, 1, 2, 16),
                Some('u') => push_coded(&mut out, &mut rest, 1, 4, 16),
                Some('U') => push_coded(&mut out, &mut rest, 1, 8, 16),
                Some('0'..='7') => push_coded(&mut out, &mut rest, 0, 3, 8),
                _ => out.extend(rest.next().map(|c| match c {
                    'n' => '\n',
                    't' => '\t',
                    'r' => '\r',
                    c => c,
                })),
            },
            c => out.push(c),
        }
    }
    out
}

/// Appends the character that up to `digits` digits name, after `skip` characters.
fn push_coded(out: &mut String, rest: &mut std::str::Chars<'_>, skip: usize, digits: usize, radix: u32) {
    let mut ahead = rest.as_str().get(skip..).unwrap_or_default().chars();
    let mut code = 0u32;
    let mut read = 0;
    while read < digits
        && let Some(digit) = ahead.clone().next().and_then(|c| c.to_digit(radix))
    {
        code = code.wrapping_mul(radix).wrapping_add(digit);
        ahead.next();
        read += 1;
    }
    if read > 0 {
        out.extend(char::from_u32(code));
        *rest = ahead;
    } else {
        out.extend(rest.next());
    }
}

fn continues_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$' || byte >= 0x80
}

fn is_operator(byte: u8) -> bool {
    matches!(
        byte,
        b'~' | b'!'
            | b'@'
            | b'#'
            | b'^'
            | b'&'
            | b'|'
            | b'`'
            | b'?'
            | b'+'
            | b'-'
            | b'*'
            | b'/'
            | b'%'
            | b'<'
            | b'>'
            | b'='
    )
}

#[cfg(test)]
mod tests {
    use pg_query::protobuf::Token as Pg;
    use proptest::prelude::*;

    use super::*;

    fn of(text: &str, standard: bool) -> Vec<(Kind, &str)> {
        Lexer::new(text, standard).map(|t| (t.kind, &text[t.start..t.end])).collect()
    }

    #[test]
    fn tokens_are_those_of_the_server() {
        use Kind::*;
        let rows: &[(&str, &[(Kind, &str)])] = &[
            ("select 'it''s'", &[(Word, "select"), (Text, "'it''s'")]),
            ("'a'  \n -- c\n 'b' 'c'", &[(Text, "'a'  \n -- c\n 'b'"), (Text, "'c'")]),
            (
                "E'\\'' x'1F' B'01' n'x'",
                &[(Escaped, "E'\\''"), (Bits, "x'1F'"), (Bits, "B'01'"), (Text, "n'x'")],
            ),
            (
                "$a$ $b$ ' $a$ $$x$$ $1 $1a",
                &[
                    (Dollar, "$a$ $b$ ' $a$"),
                    (Dollar, "$$x$$"),
                    (Parameter, "$1"),
                    (Parameter, "$1"),
                    (Word, "a"),
                ],
            ),
            ("$é$x$é$ a$b$c", &[(Dollar, "$é$x$é$"), (Word, "a$b$c")]),
            (
                "\"a\"\"b\" U&\"c\" u&'d' e",
                &[(Quoted, "\"a\"\"b\""), (UnicodeQuoted, "U&\"c\""), (Unicode, "u&'d'"), (Word, "e")],
            ),
            (
                "1.5e-3 .5 1..2 0x1F 1_000",
                &[
                    (Number, "1.5e-3"),
                    (Number, ".5"),
                    (Number, "1"),
                    (Mark, ".."),
                    (Number, "2"),
                    (Number, "0x1F"),
                    (Number, "1_000"),
                ],
            ),
            (
                "a->>'b'::int/*x/*y*/z*/-1",
                &[
                    (Word, "a"),
                    (Operator, "->>"),
                    (Text, "'b'"),
                    (Mark, "::"),
                    (Word, "int"),
                    (Comment, "/*x/*y*/z*/"),
                    (Operator, "-"),
                    (Number, "1"),
                ],
            ),
            ("a--'x\nb", &[(Word, "a"), (Comment, "--'x"), (Word, "b")]),
            ("u & 'x'", &[(Word, "u"), (Operator, "&"), (Text, "'x'")]),
        ];
        for (text, expected) in rows {
            assert_eq!(of(text, true), *expected, "{text}");
        }
        assert_eq!(of("'a\\' b'", false), [(Escaped, "'a\\' b'")]);
    }

    #[test]
    fn a_cut_text_says_so() {
        for text in ["'abc", "\"abc", "/* x /* y */", "$a$ x", "E'x\\'", "U&'x"] {
            let tokens: Vec<Token> = Lexer::new(text, true).collect();
            assert!(tokens.len() == 1 && tokens[0].cut && tokens[0].end == text.len(), "{text}: {tokens:?}");
        }
    }

    #[test]
    fn values_and_names_are_undone() {
        let value = |text: &str| {
            let token = Lexer::new(text, true).next().unwrap();
            value_of(token.kind, text)
        };
        assert_eq!(value("'it''s'"), "it's");
        assert_eq!(value("'a'\n'b'"), "ab");
        assert_eq!(value("E'a\\x41\\101\\u0041\\n\\''"), "aAAA\n'");
        assert_eq!(value("U&'\\0041\\+000042''c'"), "AB'c");
        assert_eq!(value("$t$it's$t$"), "it's");
        assert_eq!(value("'cut"), "cut");
        assert_eq!(name_of(Kind::Word, "FoO"), "foo");
        assert_eq!(name_of(Kind::Quoted, "\"Fo\"\"O\""), "Fo\"O");
        assert_eq!(name_of(Kind::UnicodeQuoted, "U&\"\\0063ustomers\""), "customers");
        assert_eq!(name_of(Kind::Word, &"é".repeat(40)).len(), 62);
    }

    /// Where string literals and quoted names lie, by pg_query's scanner.
    fn by_pg_query(text: &str) -> Option<Vec<(usize, usize)>> {
        let literals = [Pg::Sconst, Pg::Usconst, Pg::Bconst, Pg::Xconst].map(|t| t as i32);
        let tokens = pg_query::scan(text).ok()?.tokens;
        Some(
            tokens
                .iter()
                .filter(|t| literals.contains(&t.token))
                .map(|t| (t.start as usize, t.end as usize))
                .collect(),
        )
    }

    fn by_us(text: &str) -> Vec<(usize, usize)> {
        let literal = |t: &Token| t.kind.is_literal() && t.kind != Kind::Number;
        // Theirs has the N of N'…' as a keyword of its own.
        let start = |t: &Token| t.start + usize::from(text[t.start..].starts_with(['n', 'N']));
        Lexer::new(text, true).filter(literal).map(|t| (start(&t), t.end)).collect()
    }

    fn blank(text: &str) -> bool {
        text.bytes().all(|b| b.is_ascii_whitespace() || b == 0x0b)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]

        #[test]
        fn literals_lie_where_the_servers_scanner_finds_them(
            parts in proptest::collection::vec(
                prop_oneof![
                    Just("'"), Just("''"), Just("\\"), Just("E'"), Just("U&'"), Just("\""), Just("$$"), Just("$a$"), Just("--"),
                    Just("\n"), Just("/*"), Just("*/"), Just(" "), Just("a"), Just("x'"), Just("1"), Just("."), Just("-"), Just("é"),
                    Just("$"), Just("&"), Just("n'"), Just(";"), Just("\t"), Just("("), Just("0f"),
                ],
                0..14,
            )
        ) {
            let text = parts.concat();
            if let Some(theirs) = by_pg_query(&text) {
                let ours = by_us(&text);
                // Their scanner counts the white space behind U&'…' into it.
                let trimmed: Vec<_> = theirs.iter().map(|(s, e)| (*s, s + text[*s..*e].trim_end().len())).collect();
                let ours_trimmed: Vec<_> = ours.iter().map(|(s, e)| (*s, s + text[*s..*e].trim_end().len())).collect();
                prop_assert_eq!(ours_trimmed, trimmed, "{:?}", text);
            }
        }

        #[test]
        fn tokens_are_in_order_and_only_white_space_lies_between(text in "\\PC{0,60}", standard in any::<bool>()) {
            let mut at = 0;
            for token in Lexer::new(&text, standard) {
                prop_assert!(token.start >= at && token.end > token.start && token.end <= text.len());
                prop_assert!(blank(&text[at..token.start]));
                at = token.end;
            }
            prop_assert!(blank(&text[at..]));
        }
    }
}
