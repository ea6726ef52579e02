//! The facts of a statement: what `analyse` finds and what the record keeps.

use std::sync::Arc;

use bodycam_record::Fingerprint;
use bodycam_record::kinds::sql::SqlStatement;

use super::redact::SecretParameters;

/// Entries that one list of facts holds at most; more make the statement `too-large`.
pub const MAX_LISTED: usize = 1000;

/// The reason in `opaque` for EXECUTE or FETCH of a name whose meaning is not known.
pub const EXECUTE_UNKNOWN: &str = "execute-unknown";

/// The reason in `opaque` for relations that were named while no catalog of the database was at hand.
pub const NO_CATALOG: &str = "no-catalog";

/// What a statement does, as far as its text and the catalog tell. Fields without a comment are those of
/// [`SqlStatement`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Facts {
    pub statement_kind: &'static str,
    pub fingerprint: Option<Fingerprint>,
    /// The literal-free text.
    pub template: Option<String>,
    pub main_relation: Option<String>,
    pub relations_read: Vec<String>,
    pub relations_written: Vec<String>,
    pub output_columns: Vec<String>,
    pub functions: Vec<String>,
    pub has_predicate: bool,
    pub limit_rows: Option<i64>,
    pub offset_rows: Option<i64>,
    pub statement_count: i64,
    pub opaque: Vec<&'static str>,
    pub est_rows: Option<i64>,
    /// The text with its secrets replaced, when it holds any: content must hold this instead.
    pub redacted: Option<Arc<str>>,
    /// Names of the temporary relations that it makes.
    pub temporary: Vec<String>,
    /// Whether it puts functions where later statements run them unseen: views, triggers, defaults and the like.
    pub attaches_code: bool,
    /// Parameters whose values content must not hold.
    pub secret_parameters: SecretParameters,
    /// Prepared statements and cursors that it defines or uses, in the order of the text.
    pub references: Vec<Reference>,
    /// What it does to the settings that change what later texts mean.
    pub setting_changes: Vec<SettingChange>,
}

/// A prepared statement or cursor that a statement defines or uses by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reference {
    /// `PREPARE name AS …`, with the facts of what it prepares.
    Prepares(String, Arc<Facts>),
    /// `EXECUTE name`.
    Executes(String),
    /// `DEALLOCATE name`; all of them without a name.
    Deallocates(Option<String>),
    /// `DECLARE name CURSOR FOR …`, with the facts of its query, and whether it outlives its transaction.
    Declares(String, Arc<Facts>, bool),
    /// `FETCH`, `MOVE` of `name`.
    Fetches(String),
    /// `CLOSE name`; all of them without a name.
    Closes(Option<String>),
}

/// A change of a setting that tells what later texts mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SettingChange {
    /// To these schemas, `$user` among them as it is written.
    SearchPath(Vec<String>),
    /// How texts are read: `standard_conforming_strings`, `client_encoding`. The target reports what they are.
    Lexing,
    /// Any of them, to something that the text does not tell, or not for the whole session.
    Unknown,
    /// As [`SettingChange::Unknown`], and another role may be the user from now on.
    Role,
}

impl Facts {
    /// The facts of a text that could not be analysed, with the reason from the list of `opaque`.
    pub fn unparsed(reason: &'static str) -> Self {
        // What the parser does not take the server will not take either; the rest can set anything.
        let setting_changes = if reason == "unparsed" { Vec::new() } else { vec![SettingChange::Unknown] };
        let opaque = vec![reason];
        // Nobody knows where its parameters stand.
        let secret_parameters = SecretParameters::All;
        Self {
            statement_kind: "unparsed",
            statement_count: 1,
            opaque,
            setting_changes,
            secret_parameters,
            ..Self::default()
        }
    }

    /// Whether its text or parameters hold secrets, which an error or notice may repeat.
    pub fn holds_secrets(&self) -> bool {
        self.redacted.is_some() || matches!(self.secret_parameters, SecretParameters::Some(_))
    }

    /// Whether its rows may repeat what a setting was set to. Rows of relations are none of these.
    pub fn returns_settings(&self) -> bool {
        self.relations_read.is_empty() && self.functions.iter().any(|name| name == "set_config")
    }

    /// Whether it may change how texts are read.
    pub fn changes_lexing(&self) -> bool {
        let changes = |c: &SettingChange| !matches!(c, SettingChange::SearchPath(_));
        self.setting_changes.iter().any(changes) || self.may_define_names()
    }

    /// Whether it may run what its text does not show: that can prepare, deallocate, open and close by any name.
    pub fn may_define_names(&self) -> bool {
        self.opaque.iter().any(|reason| !matches!(*reason, "copy-program" | "copy-file" | NO_CATALOG))
    }

    /// These facts with what `used` does added.
    pub fn using(&self, used: &Facts) -> Facts {
        let mut whole = self.clone();
        for (into, from) in [
            (&mut whole.relations_read, &used.relations_read),
            (&mut whole.relations_written, &used.relations_written),
            (&mut whole.functions, &used.functions),
        ] {
            into.extend(from.iter().cloned());
            into.sort();
            into.dedup();
            into.truncate(MAX_LISTED);
        }
        whole.opaque.extend(&used.opaque);
        whole.opaque.sort_unstable();
        whole.opaque.dedup();
        if whole.output_columns.is_empty() {
            whole.output_columns.clone_from(&used.output_columns);
        } else if whole.output_columns != used.output_columns && !used.output_columns.is_empty() {
            whole.output_columns = vec!["?".to_owned()];
        }
        if used.secret_parameters != SecretParameters::None {
            whole.secret_parameters = SecretParameters::All;
        }
        if !used.setting_changes.is_empty() && !whole.setting_changes.contains(&SettingChange::Unknown) {
            whole.setting_changes.push(SettingChange::Unknown);
        }
        whole.attaches_code |= used.attaches_code;
        whole.has_predicate &= used.has_predicate;
        if whole.main_relation.is_none() || used.est_rows > whole.est_rows {
            whole.main_relation.clone_from(&used.main_relation);
            whole.est_rows = used.est_rows;
        }
        whole.limit_rows = whole.limit_rows.or(used.limit_rows);
        whole.offset_rows = whole.offset_rows.or(used.offset_rows);
        whole
    }

    /// Puts the facts into an event's body.
    pub fn fill(&self, body: &mut SqlStatement) {
        body.statement_kind = self.statement_kind.to_owned();
        body.fingerprint = self.fingerprint;
        body.main_relation.clone_from(&self.main_relation);
        body.relations_read.clone_from(&self.relations_read);
        body.relations_written.clone_from(&self.relations_written);
        body.output_columns.clone_from(&self.output_columns);
        body.functions.clone_from(&self.functions);
        // What EXECUTE of an unknown name reads is not narrowed as far as anybody knows.
        body.has_predicate = self.has_predicate && !self.opaque.contains(&EXECUTE_UNKNOWN);
        body.limit_rows = self.limit_rows;
        body.offset_rows = self.offset_rows;
        body.statement_count = self.statement_count;
        body.opaque = self.opaque.iter().map(|reason| (*reason).to_owned()).collect();
        body.est_rows = self.est_rows;
    }

    /// The same without the texts, which can be long: what a session keeps when it keeps too much. Whether it holds
    /// secrets stays known.
    pub fn lean(&self) -> Facts {
        let references = self.references.iter().map(|reference| match reference {
            Reference::Prepares(name, facts) => Reference::Prepares(name.clone(), Arc::new(facts.lean())),
            Reference::Declares(name, facts, holds) => {
                Reference::Declares(name.clone(), Arc::new(facts.lean()), *holds)
            }
            other => other.clone(),
        });
        Facts {
            references: references.collect(),
            template: None,
            redacted: self.redacted.as_ref().map(|_| "".into()),
            ..self.clone()
        }
    }

    /// Bytes that these facts hold in memory, roughly.
    pub fn weight(&self) -> usize {
        let named: usize = self
            .setting_changes
            .iter()
            .map(|change| match change {
                SettingChange::SearchPath(schemas) => schemas.iter().map(|s| s.len() + 24).sum(),
                _ => 0,
            })
            .sum();
        let secret = match &self.secret_parameters {
            SecretParameters::Some(numbers) => numbers.len() * 24,
            SecretParameters::None | SecretParameters::All => 0,
        };
        let lists = [
            &self.relations_read,
            &self.relations_written,
            &self.output_columns,
            &self.functions,
            &self.temporary,
        ];
        let listed: usize = lists.iter().flat_map(|list| list.iter()).map(|s| s.len() + 24).sum();
        let inner: usize = self
            .references
            .iter()
            .map(|r| match r {
                Reference::Prepares(_, facts) | Reference::Declares(_, facts, _) => 64 + facts.weight(),
                _ => 64,
            })
            .sum();
        let texts =
            self.template.as_ref().map_or(0, String::len) + self.redacted.as_ref().map_or(0, |r| r.len());
        512 + named + secret + listed + inner + texts
    }
}
