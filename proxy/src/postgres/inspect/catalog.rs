//! What the target's catalog knew when it was last read: relations, columns, functions, estimates.
//!
//! A side connection reads it ([`refresh`]); when that fails, traffic goes on without. Invariant: a snapshot
//! never changes, and a reading that brings nothing new keeps the old one, with its generation.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;

pub mod code;
pub mod refresh;

use super::builtin;
use super::settings::SearchPath;
use code::HiddenCode;

/// Numbers every snapshot of every database, so that a generation alone says which one it is.
static GENERATIONS: AtomicU64 = AtomicU64::new(0);

/// The catalog of one database at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CatalogSnapshot {
    generation: u64,
    /// The generation of the first snapshot under which statements meant what they mean under this one.
    meaning: u64,
    relations: Vec<Relation>,
    by_name: HashMap<Box<str>, Vec<usize>>,
    by_oid: HashMap<u32, usize>,
    /// Schemas of the functions of each name.
    functions: HashMap<Box<str>, Vec<Box<str>>>,
    /// Schema and name of the function of each OID, for calls that name nothing else.
    numbered: HashMap<u32, (Box<str>, Box<str>)>,
    /// Places of the relations that each view reads, those beneath other views included.
    views: HashMap<usize, Vec<usize>>,
    /// What runs functions unseen.
    code: HiddenCode,
    /// Every name that may stand in a literal-free text.
    known: HashSet<Box<str>>,
}

/// A table, view, sequence or the like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relation {
    /// `pg_class.oid`.
    pub oid: u32,
    /// Schema, as the catalog spells it.
    pub schema: Box<str>,
    /// Name, as the catalog spells it.
    pub name: Box<str>,
    /// `pg_class.relkind`.
    pub kind: char,
    /// The target's own estimate of its rows; of a partitioned table, the sum over its partitions.
    pub est_rows: Option<i64>,
    /// Attribute number and name of its columns, in the order of the numbers.
    pub columns: Vec<(i16, Box<str>)>,
}

/// Where the latest snapshot of one database is found. Cheap to clone.
#[derive(Debug, Clone)]
pub struct SharedCatalog(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    latest: watch::Sender<Latest>,
    /// Generation of the latest snapshot, for a look that takes no lock.
    generation: AtomicU64,
    /// Readings asked for so far; each wakes the reader.
    asked: watch::Sender<u64>,
    failures: AtomicU64,
}

#[derive(Debug, Default)]
struct Latest {
    snapshot: Arc<CatalogSnapshot>,
    /// Whether a reading has ended, well or badly.
    tried: bool,
    /// What was asked for when the last reading that has ended began.
    answered: u64,
}

impl Relation {
    /// `schema.name`.
    pub fn label(&self) -> String {
        format!("{}.{}", self.schema, self.name)
    }

    /// Whether `label` is its [`Relation::label`].
    pub fn is_called(&self, label: &str) -> bool {
        let name = label.strip_prefix(&*self.schema).and_then(|rest| rest.strip_prefix('.'));
        name == Some(&*self.name)
    }

    /// Whether it has a column of this name.
    pub fn has_column(&self, name: &str) -> bool {
        self.columns.iter().any(|(_, column)| **column == *name)
    }

    /// The name of an attribute, for result columns.
    pub fn column(&self, attribute: i16) -> Option<&str> {
        self.columns.iter().find(|(number, _)| *number == attribute).map(|(_, name)| &**name)
    }
}

impl CatalogSnapshot {
    /// A catalog that knows nothing but what every server has.
    pub fn empty() -> Arc<Self> {
        Arc::default()
    }

    /// A catalog of these relations, functions (schema, name) and other names, under a generation of its own.
    /// Temporary schemas are left out: their names are whatever a session makes up.
    pub fn new(
        relations: Vec<Relation>,
        functions: impl IntoIterator<Item = (String, String)>,
        names: impl IntoIterator<Item = String>,
    ) -> Self {
        let generation = GENERATIONS.fetch_add(1, Ordering::Relaxed) + 1;
        let mut new = Self { generation, meaning: generation, ..Self::default() };
        let temporary = |schema: &str| schema.starts_with("pg_temp_") || schema.starts_with("pg_toast");
        for relation in relations.into_iter().filter(|r| !temporary(&r.schema)) {
            let at = new.relations.len();
            new.by_name.entry(relation.name.clone()).or_default().push(at);
            new.by_oid.insert(relation.oid, at);
            new.known.insert(relation.schema.clone());
            new.known.insert(relation.name.clone());
            new.known.extend(relation.columns.iter().map(|(_, name)| name.clone()));
            new.relations.push(relation);
        }
        for (schema, name) in functions {
            if !temporary(&schema) {
                new.known.insert(name.as_str().into());
                new.functions.entry(name.into()).or_default().push(schema.into());
            }
        }
        new.known.extend(names.into_iter().filter(|name| !temporary(name)).map(Into::into));
        new
    }

    /// With what its views read: pairs of the OIDs of a view and of a relation in its query.
    pub fn with_views(mut self, reads: &[(u32, u32)]) -> Self {
        let mut direct: HashMap<usize, Vec<usize>> = HashMap::new();
        for (view, relation) in reads {
            if let (Some(view), Some(relation)) = (self.by_oid.get(view), self.by_oid.get(relation)) {
                direct.entry(*view).or_default().push(*relation);
            }
        }
        for view in direct.keys() {
            let (mut all, mut next) = (BTreeSet::new(), vec![*view]);
            while let Some(at) = next.pop() {
                let beneath = direct.get(&at).into_iter().flatten().copied();
                next.extend(beneath.filter(|relation| relation != view && all.insert(*relation)));
            }
            self.views.insert(*view, all.into_iter().collect());
        }
        self
    }

    /// With the functions by OID: OID, schema, name.
    pub fn with_numbered(mut self, functions: impl IntoIterator<Item = (u32, String, String)>) -> Self {
        let entry = |(oid, schema, name): (u32, String, String)| (oid, (schema.into(), name.into()));
        self.numbered = functions.into_iter().map(entry).collect();
        self
    }

    /// Schema and name of the function with this OID.
    pub fn function(&self, oid: u32) -> Option<(&str, &str)> {
        self.numbered.get(&oid).map(|(schema, name)| (&**schema, &**name))
    }

    /// With what runs functions although no statement names them.
    pub fn with_code(mut self, code: HiddenCode) -> Self {
        self.code = code;
        self
    }

    /// What runs functions unseen.
    pub(super) fn code(&self) -> &HiddenCode {
        &self.code
    }

    /// Places of the relations that the view at this place reads.
    pub(super) fn beneath(&self, at: usize) -> Vec<usize> {
        self.views.get(&at).cloned().unwrap_or_default()
    }

    /// Which snapshot this is: 0 for the empty catalog, another number for each one read, of any database.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// What changes when a statement may mean something else than before: other relations, views, functions or
    /// code, but not other estimates.
    pub fn meaning(&self) -> u64 {
        self.meaning
    }

    /// The relation of an OID, for result columns.
    pub fn relation(&self, oid: u32) -> Option<&Relation> {
        self.by_oid.get(&oid).and_then(|at| self.relations.get(*at))
    }

    /// The relation at this place in the snapshot.
    pub(super) fn at(&self, index: usize) -> Option<&Relation> {
        self.relations.get(index)
    }

    /// Columns of every relation of this name, whatever its schema, in the order of their numbers.
    pub(super) fn columns_of(&self, name: &str) -> Vec<Vec<String>> {
        let places = self.by_name.get(name).map(Vec::as_slice).unwrap_or_default();
        let relations = places.iter().filter_map(|at| self.at(*at));
        relations.map(|r| r.columns.iter().map(|(_, column)| column.to_string()).collect()).collect()
    }

    /// Places of the relations that a name in a statement can mean: one where the schema or the search path
    /// says which, every one of that name where it is not known, none where the catalog knows none.
    pub(super) fn resolve(&self, schema: &str, name: &str, path: &SearchPath) -> Vec<usize> {
        let Some(places) = self.by_name.get(name) else { return Vec::new() };
        let in_schema = |wanted: &str| {
            let here = |at: &&usize| self.at(**at).is_some_and(|r| *r.schema == *wanted);
            places.iter().find(here).copied()
        };
        if !schema.is_empty() {
            return in_schema(schema).into_iter().collect();
        }
        match path {
            SearchPath::Known(path) => path_of(path).find_map(in_schema).into_iter().collect(),
            SearchPath::Unknown => places.clone(),
        }
    }

    /// Schemas, of those in the path, that hold a function of this name.
    pub(super) fn function_schemas(&self, name: &str, path: &SearchPath) -> Vec<&str> {
        let schemas = self.functions.get(name).map(Vec::as_slice).unwrap_or_default();
        let seen = |schema: &str| match path {
            SearchPath::Known(path) => path_of(path).any(|p| p == schema),
            SearchPath::Unknown => true,
        };
        let mut found: Vec<&str> = schemas.iter().map(|s| &**s).filter(|s| seen(s)).collect();
        if found.is_empty() && builtin::is_function(name) {
            found.push("pg_catalog");
        }
        found.dedup();
        found
    }

    /// Whether this schema holds a function of this name.
    pub(super) fn has_function(&self, schema: &str, name: &str) -> bool {
        self.functions.get(name).is_some_and(|schemas| schemas.iter().any(|s| **s == *schema))
            || (schema == "pg_catalog" && builtin::is_function(name))
    }

    /// Whether a name may stand in a literal-free text.
    pub(super) fn knows(&self, name: &str) -> bool {
        self.known.contains(name) || builtin::is_name(name)
    }

    fn same_content(&self, other: &Self) -> bool {
        self.relations == other.relations
            && self.views == other.views
            && self.code == other.code
            && self.functions == other.functions
            && self.numbered == other.numbered
            && self.known == other.known
    }

    fn same_meaning(&self, other: &Self) -> bool {
        let same = |(a, b): (&Relation, &Relation)| {
            (a.oid, &a.schema, &a.name, a.kind, &a.columns) == (b.oid, &b.schema, &b.name, b.kind, &b.columns)
        };
        self.relations.len() == other.relations.len()
            && self.relations.iter().zip(&other.relations).all(same)
            && self.views == other.views
            && self.code == other.code
            && self.functions == other.functions
            && self.numbered == other.numbered
    }
}

/// The schemas in the order of a look-up: `pg_catalog` comes first unless the path names it.
fn path_of(path: &[String]) -> impl Iterator<Item = &str> {
    let implicit = (!path.iter().any(|p| p == "pg_catalog")).then_some("pg_catalog");
    implicit.into_iter().chain(path.iter().map(String::as_str))
}

impl Default for SharedCatalog {
    fn default() -> Self {
        let (latest, asked) = (watch::Sender::new(Latest::default()), watch::Sender::new(0));
        let (generation, failures) = (AtomicU64::new(0), AtomicU64::new(0));
        Self(Arc::new(Shared { latest, generation, asked, failures }))
    }
}

impl SharedCatalog {
    /// The latest snapshot; empty before the first reading.
    pub fn current(&self) -> Arc<CatalogSnapshot> {
        self.0.latest.borrow().snapshot.clone()
    }

    /// Generation of the latest snapshot.
    pub fn generation(&self) -> u64 {
        self.0.generation.load(Ordering::Acquire)
    }

    /// Waits until the first reading has ended, well or badly, at most `patience`.
    pub async fn first_reading(&self, patience: Duration) {
        let mut latest = self.0.latest.subscribe();
        // Without a catalog facts are poorer, not wrong: neither a timeout nor a failure stops anybody.
        let _ = tokio::time::timeout(patience, latest.wait_for(|l| l.tried)).await;
    }

    /// The target's catalog has changed: asks for a reading that begins after this.
    pub fn outdated(&self) {
        self.0.asked.send_modify(|asked| *asked += 1);
    }

    /// Waits until what was asked for has been read, well or badly, at most `patience`.
    pub async fn up_to_date(&self, patience: Duration) {
        let asked = *self.0.asked.borrow();
        let mut latest = self.0.latest.subscribe();
        let _ = tokio::time::timeout(patience, latest.wait_for(|l| l.answered >= asked)).await;
    }

    /// Readings asked for so far.
    fn asked(&self) -> watch::Receiver<u64> {
        self.0.asked.subscribe()
    }

    /// A reading has ended that began when `asked` had been asked for.
    fn answered(&self, asked: u64) {
        self.0.latest.send_modify(|latest| latest.answered = latest.answered.max(asked));
    }

    /// Readings that failed since the start.
    pub fn failures(&self) -> u64 {
        self.0.failures.load(Ordering::Relaxed)
    }

    /// Puts what was read in place if it differs. Says whether it did.
    pub fn put(&self, mut read: CatalogSnapshot) -> bool {
        let mut changed = false;
        self.0.latest.send_modify(|latest| {
            latest.tried = true;
            changed = latest.snapshot.generation == 0 || !latest.snapshot.same_content(&read);
            if changed {
                if latest.snapshot.generation != 0 && latest.snapshot.same_meaning(&read) {
                    read.meaning = latest.snapshot.meaning;
                }
                self.0.generation.store(read.generation, Ordering::Release);
                latest.snapshot = Arc::new(read);
            }
        });
        changed
    }

    /// Notes that a reading failed.
    fn failed(&self) {
        self.0.failures.fetch_add(1, Ordering::Relaxed);
        self.tried();
    }

    fn tried(&self) {
        self.0.latest.send_modify(|latest| latest.tried = true);
    }

    fn handles(&self) -> usize {
        Arc::strong_count(&self.0)
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// The catalog of a small shop.
    pub fn shop() -> CatalogSnapshot {
        let relation = |oid, schema: &str, name: &str, kind, est_rows, columns: &[&str]| Relation {
            oid,
            schema: schema.into(),
            name: name.into(),
            kind,
            est_rows,
            columns: (1..).zip(columns.iter().map(|c| (*c).into())).collect(),
        };
        let relations = vec![
            relation(10, "public", "customers", 'r', Some(50_000), &["id", "name", "email", "card"]),
            relation(11, "public", "orders", 'r', Some(200_000), &["id", "customer_id", "total", "note"]),
            relation(12, "public", "Odd Table", 'r', Some(3), &["Odd Column"]),
            relation(13, "hr", "salaries", 'r', None, &["person", "amount"]),
            relation(14, "hr", "customers", 'r', Some(7), &["id", "secret_note"]),
            relation(15, "public", "big_spenders", 'v', None, &["id", "name"]),
            relation(16, "pg_temp_3", "my secret", 'r', Some(1), &["x"]),
            relation(17, "pg_catalog", "pg_class", 'r', Some(400), &["oid", "relname"]),
        ];
        let functions = [
            ("pg_catalog", "count"),
            ("pg_catalog", "lower"),
            ("public", "lower_all"),
            ("public", "card_of"),
            ("hr", "lower"),
        ];
        let functions = functions.map(|(schema, name)| (schema.to_owned(), name.to_owned()));
        CatalogSnapshot::new(relations, functions, ["public".to_owned(), "hr".to_owned()])
    }

    fn path(schemas: &[&str]) -> SearchPath {
        SearchPath::Known(schemas.iter().map(|s| (*s).to_owned()).collect())
    }

    #[test]
    fn a_name_is_resolved_as_the_server_does() {
        let shop = shop();
        let of = |schema: &str, name: &str, path: &SearchPath| -> Vec<String> {
            shop.resolve(schema, name, path)
                .into_iter()
                .filter_map(|at| shop.at(at).map(Relation::label))
                .collect()
        };
        assert_eq!(of("", "customers", &path(&["public"])), ["public.customers"]);
        assert_eq!(of("", "customers", &path(&["hr", "public"])), ["hr.customers"]);
        assert_eq!(of("", "customers", &SearchPath::Unknown), ["public.customers", "hr.customers"]);
        assert_eq!(of("hr", "customers", &path(&["public"])), ["hr.customers"]);
        assert_eq!(of("", "salaries", &path(&["public"])), [""; 0]);
        assert_eq!(of("", "pg_class", &path(&[])), ["pg_catalog.pg_class"]);
        assert_eq!(of("", "my secret", &SearchPath::Unknown), [""; 0]);
    }

    #[test]
    fn a_result_column_finds_its_relation_and_name() {
        let shop = shop();
        assert_eq!(shop.relation(10).unwrap().column(3), Some("email"));
        assert_eq!(shop.relation(10).unwrap().column(9), None);
        assert!(shop.relation(16).is_none(), "temporary tables are left out");
    }

    #[test]
    fn a_reading_that_brings_nothing_new_keeps_the_generation() {
        let shared = SharedCatalog::default();
        assert_eq!(shared.current().generation(), 0);
        assert!(shared.put(shop()));
        let first = shared.current().generation();
        assert!(!shared.put(shop()));
        assert_eq!(shared.current().generation(), first);
        let mut other = shop();
        other.relations[0].est_rows = Some(1);
        assert!(shared.put(other));
        assert_ne!(shared.current().generation(), first);
    }
}
