//! What can be said about a text without parsing it: how deep its tree may be, and whether another text that
//! differs in values only has the same facts.
//!
//! Clients that write values into their statements make every text a new one; their shape stays the same.
//! Invariant: texts of one shape have equal facts, but for secrets in their values.

use super::lexer::{Kind, Lexer, Token};

/// What one pass over the tokens tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// At least as many levels as the parse tree has, not counting those that every statement has.
    pub depth: usize,
    /// Whether the facts do not depend on values. Of statements that are not queries they may.
    pub reusable: bool,
}

/// Statements whose facts do not depend on their values (but for LIMIT and OFFSET, which `shape` looks at).
const QUERIES: [&str; 8] = ["select", "insert", "update", "delete", "merge", "with", "values", "table"];

/// Words after which an expression begins anew.
const RESETS: [&str; 19] = [
    "and",
    "or",
    "select",
    "from",
    "where",
    "group",
    "order",
    "having",
    "limit",
    "offset",
    "set",
    "values",
    "on",
    "using",
    "when",
    "then",
    "else",
    "returning",
    "as",
];

/// Words that nest as often as they are written.
const NESTS: [&str; 5] = ["case", "join", "union", "intersect", "except"];

/// Passes over the tokens of `sql` and feeds what makes its shape to `hasher`.
pub fn shape(sql: &str, standard_strings: bool, hasher: &mut blake3::Hasher) -> Shape {
    let mut deepest = Depth::default();
    let mut outer: Vec<(usize, usize)> = Vec::new();
    let mut reusable = true;
    let mut begins = true;
    let mut by_value = false;
    for token in Lexer::new(sql, standard_strings).filter(|t| t.kind != Kind::Comment) {
        let text = sql.get(token.start..token.end).unwrap_or_default();
        let word = if token.kind == Kind::Word { fold(text) } else { Folded::default() };
        let word = word.as_str();
        hasher.update(&[token.kind as u8, u8::from(token.cut)]);
        if !token.kind.is_literal() || by_value {
            hasher.update(&(text.len() as u32).to_le_bytes());
            hasher.update(text.as_bytes());
        }
        if begins && text != ";" {
            reusable &= QUERIES.contains(&word) || text == "(";
        }
        begins = text == ";";
        by_value = matches!(word, "limit" | "offset" | "first" | "next");
        deepest.step(&token, text, word, &mut outer);
    }
    Shape { depth: deepest.most, reusable }
}

/// How deep the tree may be at a place of the text.
#[derive(Default)]
struct Depth {
    /// Levels of the parentheses around.
    around: usize,
    /// Levels since the expression began.
    chain: usize,
    /// Levels that last until the parenthesis closes.
    nested: usize,
    most: usize,
}

impl Depth {
    fn step(&mut self, token: &Token, text: &str, word: &str, outer: &mut Vec<(usize, usize)>) {
        match token.kind {
            Kind::Word if NESTS.contains(&word) => self.nested += 1,
            Kind::Word if RESETS.contains(&word) => self.chain = 0,
            // Any other keyword may be an operator: NOT, IS, LIKE, COLLATE, …; names do not nest.
            Kind::Word if super::builtin::is_keyword(word) => self.chain += 1,
            Kind::Operator => self.chain += 1,
            Kind::Mark => match text {
                "(" | "[" => {
                    outer.push((self.chain, self.nested));
                    self.around += self.chain + self.nested + 1;
                    (self.chain, self.nested) = (0, 0);
                }
                ")" | "]" => {
                    if let Some((chain, nested)) = outer.pop() {
                        (self.chain, self.nested) = (chain, nested);
                        self.around = self.around.saturating_sub(chain + nested + 1);
                    }
                }
                "," => self.chain = 0,
                ";" => (self.chain, self.nested) = (0, 0),
                "::" => self.chain += 1,
                _ => {}
            },
            _ => {}
        }
        self.most = self.most.max(self.around + self.chain + self.nested);
    }
}

/// A short word in lower case; longer ones are no keywords.
#[derive(Default)]
struct Folded {
    bytes: [u8; 20],
    len: usize,
}

impl Folded {
    fn as_str(&self) -> &str {
        self.bytes.get(..self.len).and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or_default()
    }
}

fn fold(text: &str) -> Folded {
    let mut folded = Folded::default();
    if text.len() <= folded.bytes.len() {
        for (to, from) in folded.bytes.iter_mut().zip(text.bytes()) {
            *to = from.to_ascii_lowercase();
        }
        folded.len = text.len();
    }
    folded
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(sql: &str) -> (Shape, [u8; 32]) {
        let mut hasher = blake3::Hasher::new();
        let shape = shape(sql, true, &mut hasher);
        (shape, *hasher.finalize().as_bytes())
    }

    #[test]
    fn texts_that_differ_in_values_have_one_shape() {
        let one = of("select * from t where a = 1 and b = 'x' limit 5");
        assert_eq!(one, of("select * from t where a = 22 and b = 'yy' limit 5 -- note"));
        assert!(one.0.reusable);
        for other in [
            "select * from t where a = 1 and b = 'x' limit 6",
            "select * from t where a = 1 and c = 'x' limit 5",
            "select * from t where a = '1' and b = 'x' limit 5",
            "select * from t where a = 1 and b = $1 limit 5",
        ] {
            assert_ne!(one.1, of(other).1, "{other}");
        }
        for fixed in
            ["set search_path = 'a'", "explain (analyze 0) delete from t", "select 1; set search_path = 'a'"]
        {
            assert!(!of(fixed).0.reusable, "{fixed}");
        }
    }

    #[test]
    fn flat_statements_are_shallow_and_nested_ones_deep() {
        let shallow = [
            "select a, b + 1, c from t where a = 1 and b like 'x' or c is not null and d between 1 and 2 order by 1",
            "insert into t values (1, 2), (3, 4), (5, 6), (7, 8), (9, 10), (11, 12), (13, 14), (15, 16), (17, 18)",
            "select count(*) from a join b on a.x = b.x where a.y in (select z from c where z > 5)",
        ];
        for sql in shallow {
            assert!(of(sql).0.depth <= 8, "{sql}: {:?}", of(sql).0);
        }
        let deep = [
            format!("select {}1", "not ".repeat(50)),
            format!("select {}1{}", "(".repeat(50), ")".repeat(50)),
            format!("select {}1", "- ".repeat(50)),
            format!("select 1{}", " + 1".repeat(50)),
            format!("select 1{}", "::int".repeat(50)),
            format!("select 1{}", " union select 1".repeat(50)),
            format!("select 1 from a{}", " join a on true".repeat(50)),
            format!("select {}1{}", "case when true then ".repeat(50), " end".repeat(50)),
            format!("select 1{}", " isnull".repeat(50)),
            format!("select a{}", " collate \"C\"".repeat(50)),
            format!("select a{}", " at time zone 'x'".repeat(50)),
        ];
        for sql in deep {
            assert!(of(&sql).0.depth >= 50, "{sql}: {:?}", of(&sql).0);
        }
    }

    proptest! {
        #[test]
        fn any_text_has_a_shape(sql in "\\PC{0,200}", standard in any::<bool>()) {
            shape(&sql, standard, &mut blake3::Hasher::new());
        }
    }
}
