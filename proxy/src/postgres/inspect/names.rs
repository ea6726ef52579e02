//! The prepared statements and cursors of one session, whatever made them: `PREPARE`, a Parse message,
//! `DECLARE`, a Bind message. They share their names, so that `EXECUTE` finds what Parse made and `FETCH` what
//! Bind made.
//!
//! Invariant: a name never stands for less than what it may run. A definition can fail at the target, so a
//! second one under the same name adds to the first until the name is given up.

use std::collections::HashMap;
use std::sync::Arc;

use super::facts::{EXECUTE_UNKNOWN, Facts, Reference};

/// Names that one session may define; what comes later stays unknown.
const MAX_NAMES: usize = 4096;

/// What the names of one session stand for.
#[derive(Debug, Default)]
pub struct SessionNames {
    statements: HashMap<String, Arc<Facts>>,
    cursors: HashMap<String, Arc<Facts>>,
}

impl SessionNames {
    /// A Parse message defined the statement `name` (not the unnamed one).
    pub fn prepared(&mut self, name: &str, facts: &Arc<Facts>) {
        define(&mut self.statements, name, facts);
    }

    /// A Bind message made the portal `name` (not the unnamed one) of a statement with these facts.
    pub fn bound(&mut self, name: &str, facts: &Arc<Facts>) {
        define(&mut self.cursors, name, facts);
    }

    /// A Close message was answered, or the portal's transaction is over.
    pub fn closed_statement(&mut self, name: &str) {
        self.statements.remove(name);
    }

    /// A Close message was answered, or the portal's transaction is over.
    pub fn closed_portal(&mut self, name: &str) {
        self.cursors.remove(name);
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
                Reference::Executes(name) => self.statements.get(name),
                Reference::Fetches(name) => self.cursors.get(name),
                Reference::Prepares(name, inner) => {
                    define(&mut self.statements, name, inner);
                    continue;
                }
                Reference::Declares(name, inner) => {
                    define(&mut self.cursors, name, inner);
                    continue;
                }
                Reference::Deallocates(name) => {
                    forget(&mut self.statements, name.as_deref());
                    continue;
                }
                Reference::Closes(name) => {
                    forget(&mut self.cursors, name.as_deref());
                    continue;
                }
            };
            match used {
                Some(used) => whole = whole.using(used),
                None => all_known = false,
            }
        }
        if all_known {
            whole.opaque.retain(|reason| *reason != EXECUTE_UNKNOWN);
        }
        Arc::new(whole)
    }
}

fn define(names: &mut HashMap<String, Arc<Facts>>, name: &str, facts: &Arc<Facts>) {
    if let Some(before) = names.get_mut(name) {
        if before != facts {
            *before = Arc::new(before.using(facts));
        }
    } else if names.len() < MAX_NAMES {
        names.insert(name.to_owned(), facts.clone());
    }
}

fn forget(names: &mut HashMap<String, Arc<Facts>>, name: Option<&str>) {
    match name {
        Some(name) => {
            names.remove(name);
        }
        None => names.clear(),
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
        names.follow(&with(Reference::Prepares("p".to_owned(), reading("public.customers"))));
        names.follow(&with(Reference::Prepares("p".to_owned(), reading("public.colours"))));
        let execute = with(Reference::Executes("p".to_owned()));
        assert_eq!(names.follow(&execute).relations_read, ["public.colours", "public.customers"]);
        names.follow(&with(Reference::Deallocates(Some("p".to_owned()))));
        assert_eq!(names.follow(&execute).opaque, [EXECUTE_UNKNOWN]);
    }

    #[test]
    fn fetch_has_the_facts_of_its_cursor_until_it_is_closed() {
        let mut names = SessionNames::default();
        names.follow(&with(Reference::Declares("c".to_owned(), reading("public.customers"))));
        let fetch = with(Reference::Fetches("c".to_owned()));
        assert_eq!(names.follow(&fetch).relations_read, ["public.customers"]);
        names.follow(&with(Reference::Closes(None)));
        assert_eq!(names.follow(&fetch).opaque, [EXECUTE_UNKNOWN]);
    }
}
