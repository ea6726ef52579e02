//! What a session has set that changes what a text means: `search_path`, `standard_conforming_strings`.
//!
//! Only PostgreSQL 18 reports `search_path` to clients, so it is followed through the statements. Invariant:
//! as soon as it may be something else than what was followed, it is [`SearchPath::Unknown`], and a name then
//! stands for every relation that bears it.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::facts::{Facts, SettingChange};
use super::lexer::{Kind, Lexer, name_of};

/// Names of temporary relations that one session may have.
const MAX_TEMPORARY: usize = 1000;

/// Where unqualified names are looked up.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum SearchPath {
    /// These schemas, in order (`pg_catalog` comes first unless it is listed).
    Known(Arc<[String]>),
    /// Not known.
    Unknown,
}

/// The settings under which a session's next statement is read.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Settings {
    /// Where unqualified names are looked up.
    pub search_path: SearchPath,
    /// The role that `$user` stands for, as long as it is known.
    pub user: Option<Arc<str>>,
    /// Names of temporary relations that the session may have made: they come before all others.
    pub temporary: Arc<BTreeSet<String>>,
    /// Whether the session may have put functions where its statements run them unseen, which no catalog shows in time
    /// or at all: what it does in a transaction, and to temporary relations, nobody else sees.
    pub own_code: bool,
    /// `standard_conforming_strings`, as the server last reported it.
    pub standard_conforming_strings: bool,
}

impl SearchPath {
    /// The path that a value of the setting means for a session of `role`.
    pub fn parse(value: &str, role: Option<&str>) -> Self {
        let mut schemas = Vec::new();
        for token in Lexer::new(value, true) {
            let Some(word) = value.get(token.start..token.end) else { return SearchPath::Unknown };
            match token.kind {
                Kind::Word | Kind::Quoted => schemas.push(name_of(token.kind, word)),
                Kind::Mark if word == "," => {}
                _ => return SearchPath::Unknown,
            }
        }
        Self::of(schemas, role)
    }

    fn of(schemas: Vec<String>, role: Option<&str>) -> Self {
        let own = |schema: String| if schema == "$user" { role.map(str::to_owned) } else { Some(schema) };
        let schemas: Option<Arc<[String]>> = schemas.into_iter().map(own).collect();
        schemas.map_or(SearchPath::Unknown, SearchPath::Known)
    }
}

impl Settings {
    /// What a session of `role` starts with when neither it nor the target sets anything.
    pub fn initial(role: &str) -> Self {
        let search_path = SearchPath::parse("\"$user\", public", Some(role));
        Self {
            search_path,
            user: Some(role.into()),
            temporary: Arc::default(),
            own_code: false,
            standard_conforming_strings: true,
        }
    }

    /// Temporary relations of these names may be made.
    pub fn made_temporary(&mut self, names: &[String]) {
        let room = MAX_TEMPORARY.saturating_sub(self.temporary.len());
        if names.iter().any(|name| !self.temporary.contains(name)) {
            Arc::make_mut(&mut self.temporary).extend(names.iter().take(room).cloned());
        }
    }

    /// Something was sent on that may have set anything.
    pub fn anything_changed(&mut self) {
        self.search_path = SearchPath::Unknown;
        self.user = None;
    }

    /// Follows a statement that was sent on. `in_transaction` says that a later ROLLBACK can undo it.
    /// `standard_conforming_strings` is left alone: the server reports it.
    pub fn follow(&mut self, facts: &Facts, in_transaction: bool) {
        for change in &facts.setting_changes {
            match change {
                SettingChange::Lexing => continue,
                SettingChange::Role | SettingChange::Unknown => self.user = None,
                SettingChange::SearchPath(_) => {}
            }
            self.search_path = match change {
                SettingChange::SearchPath(schemas) if !in_transaction && facts.statement_count == 1 => {
                    SearchPath::of(schemas.clone(), self.user.as_deref())
                }
                _ => SearchPath::Unknown,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(schemas: &[&str]) -> SearchPath {
        SearchPath::Known(schemas.iter().map(|s| (*s).to_owned()).collect())
    }

    #[test]
    fn a_search_path_is_read_as_the_server_spells_it() {
        assert_eq!(SearchPath::parse("\"$user\", public", Some("bob")), known(&["bob", "public"]));
        assert_eq!(
            SearchPath::parse("Sales,\"Sales\" , pg_temp", Some("bob")),
            known(&["sales", "Sales", "pg_temp"])
        );
        assert_eq!(SearchPath::parse("", Some("bob")), known(&[]));
        assert_eq!(SearchPath::parse("'sales'", Some("bob")), SearchPath::Unknown);
    }

    #[test]
    fn a_path_that_may_be_rolled_back_is_unknown_until_it_is_set_again() {
        let set = |schemas: &[&str]| Facts {
            statement_count: 1,
            setting_changes: vec![SettingChange::SearchPath(
                schemas.iter().map(|s| (*s).to_owned()).collect(),
            )],
            ..Facts::default()
        };
        let mut settings = Settings::initial("bob");
        settings.follow(&set(&["sales"]), false);
        assert_eq!(settings.search_path, known(&["sales"]));
        settings.follow(&set(&["hr"]), true);
        assert_eq!(settings.search_path, SearchPath::Unknown);
        settings.follow(&Facts::default(), false);
        assert_eq!(settings.search_path, SearchPath::Unknown);
        settings.follow(&set(&["$user"]), false);
        assert_eq!(settings.search_path, known(&["bob"]));
        let changed = |change| Facts { setting_changes: vec![change], ..Facts::default() };
        settings.follow(&changed(SettingChange::Lexing), false);
        assert_eq!(settings.search_path, known(&["bob"]));
        settings.follow(&changed(SettingChange::Unknown), false);
        assert_eq!(settings.search_path, SearchPath::Unknown);
        settings.follow(&set(&["hr"]), false);
        assert_eq!(settings.search_path, known(&["hr"]));
        settings.follow(&changed(SettingChange::Role), false);
        settings.follow(&set(&["$user"]), false);
        assert_eq!(settings.search_path, SearchPath::Unknown, "nobody knows who the user is");
    }
}
