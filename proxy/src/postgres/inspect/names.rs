//! The prepared statements and cursors of one session, whatever made them: `PREPARE`, a Parse message,
//! `DECLARE`, a Bind message. They share their names, so that `EXECUTE` finds what Parse made and `FETCH` what
//! Bind made.
//!
//! Invariant: a name never stands for less than what it may run. A definition can fail at the target, so a
//! second one under the same name adds to the first until the target has answered; and what ran out of sight
//! (a function, DO) may have given any name another meaning.

use std::collections::HashMap;
use std::sync::Arc;

use super::facts::{EXECUTE_UNKNOWN, Facts, Reference};

/// Names that one session may define; what comes later stays unknown.
const MAX_NAMES: usize = 4096;
/// Bytes of the facts of all statements, and of all cursors: those that the target has refused count here until the
/// name is defined anew. What comes later stays unknown, too.
const MAX_BYTES: usize = 16 << 20;

/// What the names of one session stand for.
#[derive(Debug, Default)]
pub struct SessionNames {
    statements: Names,
    cursors: Names,
    epoch: u64,
    meaning: u64,
}

#[derive(Debug, Default)]
struct Names {
    known: HashMap<String, Entry>,
    bytes: usize,
}

#[derive(Debug, Clone)]
struct Entry {
    facts: Arc<Facts>,
    /// When it was defined.
    epoch: u64,
    /// Under which [`meaning`](super::CatalogSnapshot::meaning) of the catalog. A cursor is planned once; nothing
    /// that changes later changes what it reads.
    meaning: Option<u64>,
    /// Whether it outlives its transaction.
    holds: bool,
}

impl SessionNames {
    /// How often something ran that may have changed what any name stands for: what was defined in an earlier
    /// epoch is not certain.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Something is sent that may change what any name stands for.
    pub fn doubt(&mut self) {
        self.epoch += 1;
    }

    /// Statements are sent under this [`meaning`](super::CatalogSnapshot::meaning) of the catalog from now on: what
    /// was prepared under another is planned anew, and not certain.
    pub fn catalog_means(&mut self, meaning: u64) {
        self.meaning = meaning;
    }

    /// What the catalog meant when the last statement was analysed.
    pub fn meaning(&self) -> u64 {
        self.meaning
    }

    /// A Parse message is sent that defines the statement `name` (not the unnamed one).
    pub fn prepared(&mut self, name: &str, facts: &Arc<Facts>) {
        let (facts, epoch, meaning) = (facts.clone(), self.epoch, Some(self.meaning));
        self.statements.define(name, Entry { facts, epoch, meaning, holds: false });
    }

    /// A Bind message is sent that makes the portal `name` (not the unnamed one).
    pub fn bound(&mut self, name: &str, facts: &Arc<Facts>) {
        let (facts, epoch) = (facts.clone(), self.epoch);
        self.cursors.define(name, Entry { facts, epoch, meaning: None, holds: false });
    }

    /// The target has made `name`, sent in `epoch` under this `meaning` of the catalog, stand for this statement
    /// and nothing else.
    pub fn is_statement(&mut self, name: &str, facts: &Arc<Facts>, epoch: u64, meaning: u64) {
        let (facts, meaning) = (facts.clone(), Some(meaning));
        self.statements.replace(name, Entry { facts, epoch, meaning, holds: false });
    }

    /// The target has made `name`, sent in `epoch`, stand for this query and nothing else.
    pub fn is_cursor(&mut self, name: &str, facts: &Arc<Facts>, epoch: u64, holds: bool) {
        self.cursors.replace(name, Entry { facts: facts.clone(), epoch, meaning: None, holds });
    }

    /// The target has forgotten the statement `name`; all without one.
    pub fn closed_statement(&mut self, name: Option<&str>) {
        self.statements.forget(name);
    }

    /// The target has closed the cursor `name`; all without one.
    pub fn closed_cursor(&mut self, name: Option<&str>) {
        self.cursors.forget(name);
    }

    /// No transaction is open: cursors without hold are gone.
    pub fn transaction_over(&mut self) {
        let over = self.cursors.known.extract_if(|_, entry| !entry.holds);
        self.cursors.bytes -= over.map(|(_, entry)| entry.facts.weight()).sum::<usize>();
    }

    /// Notes what a statement that is sent on defines, and gives its facts with what it uses filled in.
    pub fn follow(&mut self, facts: &Arc<Facts>) -> Arc<Facts> {
        if facts.references.is_empty() {
            return facts.clone();
        }
        let mut whole = facts.as_ref().clone();
        let mut all_known = true;
        for reference in &facts.references {
            let used = match reference {
                Reference::Executes(name) => self.statements.known.get(name),
                Reference::Fetches(name) => self.cursors.known.get(name),
                Reference::Prepares(name, inner) => {
                    self.prepared(name, inner);
                    continue;
                }
                Reference::Declares(name, inner, holds) => {
                    let (facts, epoch) = (inner.clone(), self.epoch);
                    let entry = Entry { facts, epoch, meaning: None, holds: *holds };
                    self.cursors.define(name, entry);
                    continue;
                }
                // The target may refuse it.
                Reference::Deallocates(_) | Reference::Closes(_) => continue,
            };
            match used {
                Some(used) => {
                    whole = whole.using(&used.facts);
                    all_known &= used.epoch == self.epoch
                        && used.meaning.is_none_or(|meaning| meaning == self.meaning)
                        && !used.facts.opaque.contains(&EXECUTE_UNKNOWN);
                }
                None => all_known = false,
            }
        }
        if all_known {
            whole.opaque.retain(|reason| *reason != EXECUTE_UNKNOWN);
        }
        Arc::new(whole)
    }
}

impl Names {
    fn define(&mut self, name: &str, entry: Entry) {
        let Some(before) = self.known.get(name) else { return self.replace(name, entry) };
        let facts = match before.facts == entry.facts {
            true => before.facts.clone(),
            false => Arc::new(before.facts.using(&entry.facts)),
        };
        let (epoch, meaning, holds) = (before.epoch, before.meaning, before.holds || entry.holds);
        self.replace(name, Entry { facts, epoch, meaning, holds });
    }

    /// A name without an entry is unknown, so that leaving one out hides nothing.
    fn replace(&mut self, name: &str, entry: Entry) {
        self.forget(Some(name));
        let bytes = self.bytes + entry.facts.weight();
        if self.known.len() < MAX_NAMES && bytes <= MAX_BYTES {
            self.bytes = bytes;
            self.known.insert(name.to_owned(), entry);
        }
    }

    fn forget(&mut self, name: Option<&str>) {
        match name {
            Some(name) => {
                let gone = self.known.remove(name);
                self.bytes -= gone.map_or(0, |entry| entry.facts.weight());
            }
            None => *self = Self::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(relation: &str) -> Arc<Facts> {
        Arc::new(Facts { relations_read: vec![relation.to_owned()], has_predicate: true, ..Facts::default() })
    }

    fn with(reference: Reference) -> Arc<Facts> {
        let opaque = match reference {
            Reference::Executes(_) | Reference::Fetches(_) => vec![EXECUTE_UNKNOWN],
            _ => Vec::new(),
        };
        Arc::new(Facts { references: vec![reference], opaque, ..Facts::default() })
    }

    #[test]
    fn execute_of_a_parse_message_has_its_facts() {
        let mut names = SessionNames::default();
        names.prepared("s8", &reading("public.customers"));
        let facts = names.follow(&with(Reference::Executes("s8".to_owned())));
        assert_eq!(facts.relations_read, ["public.customers"]);
        assert!(facts.opaque.is_empty());
    }

    #[test]
    fn a_redefinition_that_may_have_failed_hides_nothing() {
        let mut names = SessionNames::default();
        let (customers, colours) = (reading("public.customers"), reading("public.colours"));
        names.follow(&with(Reference::Prepares("p".to_owned(), customers)));
        names.follow(&with(Reference::Deallocates(Some("p".to_owned()))));
        names.follow(&with(Reference::Prepares("p".to_owned(), colours.clone())));
        let execute = with(Reference::Executes("p".to_owned()));
        assert_eq!(names.follow(&execute).relations_read, ["public.colours", "public.customers"]);
        names.is_statement("p", &colours, 0, 0);
        assert_eq!(names.follow(&execute).relations_read, ["public.colours"]);
        names.closed_statement(Some("p"));
        assert_eq!(names.follow(&execute).opaque, [EXECUTE_UNKNOWN]);
    }

    #[test]
    fn facts_that_take_too_much_room_leave_their_name_unknown() {
        let mut names = SessionNames::default();
        let heavy = Arc::new(Facts { template: Some("x".repeat(1 << 20)), ..Facts::default() });
        for n in 0..100 {
            names.prepared(&n.to_string(), &heavy);
        }
        assert!(names.statements.known.len() < 16 && names.statements.bytes <= MAX_BYTES);
        let execute = with(Reference::Executes("99".into()));
        assert_eq!(names.follow(&execute).opaque, [EXECUTE_UNKNOWN]);
        names.closed_statement(Some("0"));
        names.is_statement("99", &reading("public.customers"), 0, 0);
        assert_eq!(names.follow(&execute).relations_read, ["public.customers"]);
        names.closed_statement(None);
        assert_eq!(names.statements.bytes, 0);
        names.bound("c", &heavy);
        names.transaction_over();
        assert_eq!(names.cursors.bytes, 0);
    }

    #[test]
    fn what_ran_out_of_sight_makes_every_name_uncertain_until_it_is_defined_anew() {
        let mut names = SessionNames::default();
        let (execute, fetch) = (with(Reference::Executes("p".into())), with(Reference::Fetches("c".into())));
        let facts = reading("public.customers");
        names.is_statement("p", &facts, 0, 0);
        names.is_cursor("c", &facts, 0, false);
        names.doubt();
        for using in [&execute, &fetch] {
            let used = names.follow(using);
            assert_eq!((used.relations_read.len(), used.opaque.as_slice()), (1, &[EXECUTE_UNKNOWN][..]));
        }
        names.is_statement("p", &facts, names.epoch(), names.meaning());
        assert!(names.follow(&execute).opaque.is_empty());
    }

    #[test]
    fn a_catalog_that_means_something_else_makes_statements_uncertain_and_cursors_not() {
        let mut names = SessionNames::default();
        let (execute, fetch) = (with(Reference::Executes("p".into())), with(Reference::Fetches("c".into())));
        let facts = reading("public.customers");
        names.catalog_means(3);
        names.prepared("p", &facts);
        names.bound("c", &facts);
        assert!(names.follow(&execute).opaque.is_empty());
        names.catalog_means(4);
        assert_eq!(names.follow(&execute).opaque, [EXECUTE_UNKNOWN]);
        assert!(names.follow(&fetch).opaque.is_empty());
        names.is_statement("p", &facts, 0, 4);
        assert!(names.follow(&execute).opaque.is_empty());
    }

    #[test]
    fn fetch_has_the_facts_of_its_cursor_until_it_is_closed_or_its_transaction_over() {
        let fetch = with(Reference::Fetches("c".to_owned()));
        for holds in [false, true] {
            let mut names = SessionNames::default();
            names.follow(&with(Reference::Declares("c".to_owned(), reading("public.customers"), holds)));
            names.follow(&with(Reference::Closes(None)));
            assert_eq!(names.follow(&fetch).relations_read, ["public.customers"], "CLOSE may fail");
            names.transaction_over();
            assert_eq!(names.follow(&fetch).opaque.is_empty(), holds);
            names.closed_cursor(None);
            assert_eq!(names.follow(&fetch).opaque, [EXECUTE_UNKNOWN]);
        }
    }
}
