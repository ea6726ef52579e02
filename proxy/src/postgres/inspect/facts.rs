//! The facts of a statement.

use std::sync::Arc;

use bodycam_record::Fingerprint;
use bodycam_record::kinds::sql::SqlStatement;

/// What the session has set that changes what a text means.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Settings {
    /// Where unqualified names are looked up.
    pub search_path: SearchPath,
    /// `standard_conforming_strings`.
    pub standard_conforming_strings: bool,
}

/// Where unqualified names are looked up.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum SearchPath {
    /// These schemas, in order (`pg_catalog` first unless it is listed).
    Known(Arc<[String]>),
    /// Not known: a name stands for every relation that bears it.
    Unknown,
}

/// A name by which this statement defines or uses another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reference {
    /// `PREPARE name`.
    Prepares(String),
    /// `EXECUTE name`.
    Executes(String),
    /// `DEALLOCATE name`; all of them when absent.
    Deallocates(Option<String>),
    /// `DECLARE name CURSOR`.
    Declares(String),
    /// `FETCH`, `MOVE` from `name`.
    Fetches(String),
    /// `CLOSE name`; all of them when absent.
    Closes(Option<String>),
}

/// What a statement does, as far as its text and the catalog tell. The fields are those of [`SqlStatement`].
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
    /// The text with secrets replaced, when it held any: what content must hold instead.
    pub redacted: Option<Arc<str>>,
    /// Names of prepared statements and cursors, in the order of the text.
    pub references: Vec<Reference>,
    /// Whether it may change `search_path` or `standard_conforming_strings` (SET, RESET, DISCARD ALL, set_config).
    pub changes_settings: bool,
}

impl Facts {
    /// The facts of a text that could not be analysed, with the reason from the list of `opaque`.
    pub fn unparsed(reason: &'static str) -> Self {
        Self { statement_kind: "unparsed", statement_count: 1, opaque: vec![reason], ..Self::default() }
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
        body.has_predicate = self.has_predicate;
        body.limit_rows = self.limit_rows;
        body.offset_rows = self.offset_rows;
        body.statement_count = self.statement_count;
        body.opaque = self.opaque.iter().map(|reason| (*reason).to_owned()).collect();
        body.est_rows = self.est_rows;
    }
}
