//! Which values of a statement belong to a secret's name by the expression or the definition that they stand in.
//!
//! A statement is read as groups (parentheses, brackets, CASE … END) of items, which commas and the words that
//! begin a clause end. An item that names a secret loses all of its values, those of its groups included: so do
//! comparisons, assignments, arguments, defaults, checks and what a query puts out under such a name.
//! Invariant: time and memory are in proportion to the length of the text, whatever its depth.

use std::collections::HashSet;

use super::super::lexer::{Kind, Token, value_of};
use super::names::{is_secret_word, names_secret};
use super::positions::{is_value, is_word};

/// What an item is to its statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// Anything else.
    Plain,
    /// What a query puts out.
    Output,
    /// What a query reads from.
    From,
    /// What holds or does not.
    Condition,
    /// What SET assigns.
    Assigned,
    /// Rows of VALUES.
    Values,
    /// What CASE compares with.
    Operand,
    /// What CASE becomes.
    Outcome,
}

/// An expression, or what stands in the place of one.
#[derive(Debug)]
struct Item {
    group: usize,
    part: Part,
    /// It names a secret itself.
    named: bool,
    /// How many of its groups do.
    within: usize,
    /// It takes a value from something that is not called a secret.
    reads: bool,
    /// An argument that is handed over by name.
    by_name: bool,
    /// BETWEEN was read, its AND was not.
    between: bool,
    tokens: usize,
    /// It begins with a literal that is a secret's name.
    spells_name: bool,
    cut: bool,
}

impl Item {
    fn is_secret(&self) -> bool {
        self.named || self.within > 0
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// The statement itself.
    Statement,
    /// Parentheses or brackets that call nothing.
    List,
    /// Arguments of a function.
    Call,
    /// Columns or arguments that a CREATE defines.
    Definition,
    /// CASE … END.
    Case,
}

#[derive(Debug)]
struct Group {
    shape: Shape,
    /// The item that it is in.
    parent: Option<usize>,
    items: Vec<usize>,
    query: bool,
    /// It holds UNION, INTERSECT or EXCEPT: what one query puts out goes by the names of another.
    united: bool,
    secret: bool,
}

/// What kind of statement it is, as far as that changes where items end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Statement {
    /// CREATE of what has a body or a query behind AS, or not.
    Create {
        body: bool,
        query: bool,
    },
    /// ALTER of what takes a list of actions, or not.
    Alter {
        list: bool,
    },
    Set,
    Copy,
    Other,
}

/// Words before the name of something that holds no value itself.
const OBJECTS: [&str; 26] = [
    "table",
    "view",
    "index",
    "sequence",
    "schema",
    "function",
    "procedure",
    "routine",
    "aggregate",
    "trigger",
    "policy",
    "rule",
    "statistics",
    "extension",
    "publication",
    "subscription",
    "server",
    "wrapper",
    "database",
    "tablespace",
    "language",
    "collation",
    "role",
    "user",
    "group",
    "copy",
];

/// Keywords that are called like functions.
const CALLED: [&str; 18] = [
    "coalesce",
    "nullif",
    "greatest",
    "least",
    "substring",
    "overlay",
    "trim",
    "position",
    "normalize",
    "row",
    "cast",
    "treat",
    "xmlconcat",
    "xmlelement",
    "in",
    "any",
    "some",
    "all",
];

/// Words of expressions that are no names of columns.
const NO_COLUMNS: [&str; 15] = [
    "as", "is", "not", "null", "true", "false", "default", "distinct", "all", "like", "ilike", "in", "to",
    "between", "array",
];

/// Places of the values that belong to a secret's name.
pub(super) fn expressed_secrets<'a>(
    tokens: &[Token],
    text: impl Fn(&Token) -> &'a str + Copy,
) -> HashSet<usize> {
    let mut found = HashSet::new();
    let mut from = 0;
    for statement in tokens.split(|t| t.kind == Kind::Mark && text(t) == ";") {
        let mut tree = Tree::new(kind_of(statement, text));
        for at in 0..statement.len() {
            tree.step(statement, at, text);
        }
        found.extend(tree.secrets().into_iter().map(|at| from + at));
        from += statement.len() + 1;
    }
    found
}

fn kind_of<'a>(tokens: &[Token], text: impl Fn(&Token) -> &'a str + Copy) -> Statement {
    let mut words = tokens.iter().filter(|t| t.kind == Kind::Word).map(|t| text(t).to_ascii_lowercase());
    let mut first = words.next().unwrap_or_default();
    if first == "explain" {
        first = words.find(|w| matches!(w.as_str(), "create" | "select" | "with")).unwrap_or_default();
    }
    let rest: Vec<String> = words.take(6).collect();
    let one_of = |kinds: &[&str]| {
        let known = OBJECTS.iter().chain(&["domain", "type", "operator", "cast"]);
        let what = rest.iter().find(|word| known.clone().any(|known| known == word));
        what.is_some_and(|what| kinds.contains(&what.as_str()))
    };
    match first.as_str() {
        "create" => Statement::Create {
            body: !one_of(&["domain", "type", "operator", "cast"]),
            query: one_of(&["table", "view"]),
        },
        "alter" => Statement::Alter { list: one_of(&["table", "view"]) },
        "set" => Statement::Set,
        "copy" => Statement::Copy,
        _ => Statement::Other,
    }
}

/// A statement in groups and items; both are listed in the order in which they begin.
struct Tree {
    statement: Statement,
    groups: Vec<Group>,
    items: Vec<Item>,
    /// Groups that are open.
    open: Vec<usize>,
    /// Values, by their place, and the items that they are in.
    values: Vec<(usize, usize)>,
    /// The AS of a CREATE was read.
    body: bool,
}

impl Tree {
    fn new(statement: Statement) -> Self {
        let mut tree = Self {
            statement,
            groups: Vec::new(),
            items: Vec::new(),
            open: Vec::new(),
            values: Vec::new(),
            body: false,
        };
        tree.begin_group(Shape::Statement, Part::Plain);
        tree
    }

    fn begin_group(&mut self, shape: Shape, part: Part) {
        let parent = self.current();
        self.open.push(self.groups.len());
        self.groups.push(Group {
            shape,
            parent,
            items: Vec::new(),
            query: false,
            united: false,
            secret: false,
        });
        self.begin_item(part);
    }

    fn begin_item(&mut self, part: Part) {
        let Some(group) = self.open.last().copied() else { return };
        if let Some(open) = self.groups.get_mut(group) {
            open.items.push(self.items.len());
        }
        self.items.push(Item {
            group,
            part,
            named: false,
            within: 0,
            reads: false,
            by_name: false,
            between: false,
            tokens: 0,
            spells_name: false,
            cut: false,
        });
    }

    fn group(&mut self) -> Option<&mut Group> {
        self.open.last().and_then(|at| self.groups.get_mut(*at))
    }

    fn current(&self) -> Option<usize> {
        self.open.last().and_then(|at| self.groups.get(*at)).and_then(|group| group.items.last().copied())
    }

    fn item(&mut self) -> Option<&mut Item> {
        self.current().and_then(|at| self.items.get_mut(at))
    }

    fn step<'a>(&mut self, tokens: &[Token], at: usize, text: impl Fn(&Token) -> &'a str + Copy) {
        let Some(token) = tokens.get(at) else { return };
        let before = tokens.get(..at).unwrap_or_default();
        let next = tokens.get(at + 1);
        let word = text(token);
        match token.kind {
            Kind::Mark if matches!(word, "(" | "[") => {
                self.count();
                let shape = self.shape_of(before, word, text);
                self.begin_group(shape, Part::Plain);
            }
            Kind::Mark if matches!(word, ")" | "]") => {
                while self.open.len() > 1 {
                    let closed = self.open.pop().and_then(|at| self.groups.get(at));
                    if closed.is_none_or(|group| group.shape != Shape::Case) {
                        break;
                    }
                }
            }
            Kind::Mark if word == "," => self.comma(),
            Kind::Word => self.word(tokens, at, text),
            Kind::Quoted | Kind::UnicodeQuoted => self.name(before, token, next, text),
            _ => {
                self.count();
                if token.kind == Kind::Operator && word == "=>" || word == ":=" {
                    if let Some(item) = self.item() {
                        item.by_name = true;
                    }
                } else if is_value(token) {
                    self.value(before, at, token, text);
                }
            }
        }
    }

    fn count(&mut self) {
        if let Some(item) = self.item() {
            item.tokens += 1;
        }
    }

    fn shape_of<'a>(&self, before: &[Token], open: &str, text: impl Fn(&Token) -> &'a str + Copy) -> Shape {
        let begins = self.current().and_then(|at| self.items.get(at)).is_some_and(|i| i.part == Part::Plain);
        let creates = matches!(self.statement, Statement::Create { .. }) && !self.body;
        if self.open.len() == 1 && creates && begins {
            return Shape::Definition;
        }
        let calls = before.last().is_some_and(|called| match called.kind {
            Kind::Word => {
                let word = text(called).to_ascii_lowercase();
                CALLED.contains(&word.as_str()) || !super::super::builtin::is_keyword(&word)
            }
            Kind::Quoted | Kind::UnicodeQuoted => true,
            _ => false,
        });
        if open == "(" && calls { Shape::Call } else { Shape::List }
    }

    fn comma(&mut self) {
        let list = match self.statement {
            Statement::Create { .. } => self.body,
            Statement::Alter { list } => list,
            Statement::Set => false,
            Statement::Copy | Statement::Other => true,
        };
        if self.open.len() == 1 && !list {
            return self.count();
        }
        let part = self.item().map_or(Part::Plain, |item| item.part);
        // set_config('my.password', …), jsonb_build_object('password', …)
        let names = self.open.len() > 1 && self.item().is_some_and(|i| i.spells_name && i.tokens <= 3);
        self.begin_item(part);
        if let Some(item) = self.item() {
            item.cut = names;
        }
    }

    fn word<'a>(&mut self, tokens: &[Token], at: usize, text: impl Fn(&Token) -> &'a str + Copy) {
        let Some(token) = tokens.get(at) else { return };
        let (before, next) = (tokens.get(..at).unwrap_or_default(), tokens.get(at + 1));
        let last = before.last();
        let word = text(token).to_ascii_lowercase();
        // What follows a dot is a name, whatever it is spelt like.
        if last.is_some_and(|t| text(t) == ".") {
            return self.name(before, token, next, text);
        }
        let operand = last.is_some_and(|t| t.kind == Kind::Operator);
        let followed = |by: &str| next.is_some_and(|t| text(t).eq_ignore_ascii_case(by));
        let after = |word: &str| last.is_some_and(|t| is_word(t, text(t), word));
        let part = self.item().map_or(Part::Plain, |item| item.part);
        let alter = matches!(self.statement, Statement::Alter { .. });
        let query = self.group().is_some_and(|group| group.query);
        let begun = match word.as_str() {
            "case" if !after("end") => {
                self.count();
                return self.begin_group(Shape::Case, Part::Operand);
            }
            "end" if self.open.len() > 1 && self.group().is_some_and(|g| g.shape == Shape::Case) => {
                self.open.pop();
                return;
            }
            "and" | "or" => {
                if let Some(item) = self.item().filter(|item| item.between && word == "and") {
                    item.between = false;
                    return;
                }
                Some(part).filter(|part| !matches!(part, Part::Output | Part::Assigned))
            }
            "select" | "returning" => Some(Part::Output),
            "from" if query && !after("distinct") => Some(Part::From),
            "join" => Some(Part::From),
            "using" if !alter => Some(Part::From),
            "where" | "having" | "on" | "when" => Some(Part::Condition),
            "then" | "else" => Some(Part::Outcome),
            "set" if !alter && !operand => {
                let target = |t: &Token| {
                    matches!(t.kind, Kind::Word | Kind::Quoted | Kind::UnicodeQuoted) || text(t) == "("
                };
                next.is_some_and(target).then_some(Part::Assigned)
            }
            "values" if followed("(") && !operand => Some(Part::Values),
            "group" | "order" if followed("by") => Some(Part::Plain),
            "valid" if followed("until") => Some(Part::Plain),
            "limit" | "offset" | "window" | "fetch" | "union" | "intersect" | "except" => Some(Part::Plain),
            "as" if self.open.len() == 1
                && !self.body
                && matches!(self.statement, Statement::Create { body: true, .. }) =>
            {
                self.body = true;
                Some(Part::Plain)
            }
            _ => None,
        };
        if let Some(group) = self.group() {
            group.query |= matches!(word.as_str(), "select" | "update" | "delete") && !operand;
            group.united |= matches!(word.as_str(), "union" | "intersect" | "except");
        }
        match begun {
            Some(part) => self.begin_item(part),
            None => {
                if let Some(item) = self.item() {
                    item.between |= word == "between";
                }
                self.name(before, token, next, text);
            }
        }
    }

    fn name<'a>(
        &mut self,
        before: &[Token],
        token: &Token,
        next: Option<&Token>,
        text: impl Fn(&Token) -> &'a str + Copy,
    ) {
        let follows = |mark: &str| next.is_some_and(|t| text(t) == mark);
        let setting = matches!(self.statement, Statement::Set | Statement::Alter { .. });
        let Some(item) = self.item() else { return };
        item.tokens += 1;
        // Of a.b only b says what it is, but for parts of what is assigned.
        let qualifies = follows(".") && !(setting || item.part == Part::Assigned && item.tokens == 1);
        if qualifies {
            return;
        }
        if names_secret(token, text(token)) {
            item.named |= !names_object(before, text);
        } else {
            let typed = before.last().is_some_and(|t| text(t) == "::");
            let column =
                token.kind != Kind::Word || !NO_COLUMNS.iter().any(|w| text(token).eq_ignore_ascii_case(w));
            item.reads |= column && !typed && !follows("(");
        }
    }

    fn value<'a>(
        &mut self,
        before: &[Token],
        at: usize,
        token: &Token,
        text: impl Fn(&Token) -> &'a str + Copy,
    ) {
        let escapes = matches!(before, [.., literal, word]
            if literal.kind == Kind::Unicode && is_word(word, text(word), "uescape"));
        let Some(current) = self.current().filter(|_| !escapes) else { return };
        let named = token.kind.is_string() && spells_name(&value_of(token.kind, text(token)));
        let accesses = before.last().is_some_and(|t| matches!(text(t), "->" | "->>" | "#>" | "#>>" | "["));
        if let Some(item) = self.items.get_mut(current) {
            item.spells_name |= named && item.tokens == 1;
            // json_object('password': '…'), json_object('password' value '…')
            let pairs = before.last().is_some_and(|t| text(t) == ":" || is_word(t, text(t), "value"));
            item.named |= item.spells_name && pairs;
            // data ->> 'password', data['password']
            if named && accesses {
                item.named = true;
                return;
            }
        }
        self.values.push((at, current));
    }

    /// Places of the values that are secrets.
    fn secrets(mut self) -> Vec<usize> {
        let copies = self.statement == Statement::Copy;
        let mut defines = false;
        // A group and its items begin after the item that it is in.
        for at in (0..self.items.len()).rev() {
            let Some((secret, reads, part, group)) =
                self.items.get(at).map(|item| (item.is_secret(), item.reads, item.part, item.group))
            else {
                continue;
            };
            let Some(group) = self.groups.get_mut(group) else { continue };
            let tells = match group.shape {
                Shape::Statement => false,
                Shape::Definition => {
                    defines |= secret;
                    false
                }
                Shape::Case => matches!(part, Part::Operand | Part::Outcome),
                _ => !group.query || part == Part::Output,
            };
            let first = secret && !group.secret && (tells || group.shape == Shape::Statement);
            group.secret |= first;
            let parent = group.parent.and_then(|parent| self.items.get_mut(parent));
            if let Some(parent) = parent {
                parent.within += usize::from(first);
                parent.reads |= reads;
            }
        }
        // create view v(password) as select …
        let all = defines && self.body && matches!(self.statement, Statement::Create { query: true, .. });
        // What is put out or assigned under a secret's name comes from somewhere else.
        let sources = self
            .items
            .iter()
            .any(|item| item.is_secret() && item.reads && matches!(item.part, Part::Output | Part::Assigned));
        for group in &self.groups {
            let items = || group.items.iter().filter_map(|at| self.items.get(*at));
            let around = group.parent.and_then(|parent| self.items.get(parent));
            let others = |item: &Item| item.within > usize::from(group.secret);
            let root = copies && around.is_some_and(|item| item.group == 0);
            let whole = all && group.shape == Shape::Statement
                || around.is_some_and(|item| item.cut || others(item) && !root)
                || group.shape == Shape::Call
                    && !group.query
                    && items().any(|item| item.is_secret() && !item.by_name)
                || group.shape == Shape::Case && group.secret;
            let united = group.united && group.secret;
            for at in &group.items {
                let Some(item) = self.items.get_mut(*at) else { continue };
                let output = matches!(item.part, Part::Output | Part::Values);
                item.cut |=
                    whole || item.named || united && output || sources && (output || item.part == Part::From);
            }
        }
        let is_cut = |item: &Item| item.cut || item.within > 0 && !(copies && item.group == 0);
        let cut = |at: usize| self.items.get(at).is_some_and(is_cut);
        self.values.iter().filter(|(_, item)| cut(*item)).map(|(at, _)| *at).collect()
    }
}

/// Whether these tokens end in front of the name of a table, a function or another thing that holds no value itself.
fn names_object<'a>(before: &[Token], text: impl Fn(&Token) -> &'a str + Copy) -> bool {
    let mut before = before;
    while let [rest @ .., _, dot] = before {
        if text(dot) != "." {
            break;
        }
        before = rest;
    }
    let skipped = ["if", "not", "exists", "only", "concurrently"];
    let mut back = before.iter().rev();
    let what = back.find(|t| !skipped.iter().any(|word| is_word(t, text(t), word)));
    what.is_some_and(|t| OBJECTS.iter().any(|word| is_word(t, text(t), word)))
}

/// Whether a literal is a secret's name, or a path to one: `password`, `{login,password}`, `"password"`.
fn spells_name(value: &str) -> bool {
    let lower = value.to_ascii_lowercase();
    let last =
        lower.trim_end_matches(['}', '"', ' ']).rsplit([',', '{', '"', ' ']).next().unwrap_or_default();
    let lawful = lower
        .chars()
        .all(|c| c.is_alphanumeric() || matches!(c, '_' | '.' | '-' | '{' | '}' | ',' | '"' | ' '));
    lawful && value.len() <= 128 && is_secret_word(last)
}

#[cfg(test)]
mod tests;
