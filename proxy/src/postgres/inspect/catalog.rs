//! What the target's catalog knew when it was last read: relations, columns, functions, estimates.
//!
//! A side connection reads it; when that fails, traffic goes on without. Invariant: a snapshot never changes;
//! its generation grows exactly when its content differs from the one before.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock};

/// The catalog of one database at one moment.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct CatalogSnapshot {
    /// 0 for the empty snapshot, from 1 upwards for what was read.
    pub generation: u64,
    relations: Vec<Relation>,
    by_name: HashMap<Box<str>, Vec<usize>>,
    by_oid: HashMap<u32, usize>,
    /// Schemas of the functions of each name.
    functions: HashMap<Box<str>, Vec<Box<str>>>,
    /// Every name that may stand in a literal-free text.
    known: HashSet<Box<str>>,
}

/// A table, view, index, sequence or the like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relation {
    pub oid: u32,
    pub schema: Box<str>,
    pub name: Box<str>,
    /// `pg_class.relkind`.
    pub kind: char,
    /// The target's own estimate of its rows.
    pub est_rows: Option<i64>,
    /// Attribute number and name, in the order of the numbers.
    pub columns: Vec<(i16, Box<str>)>,
}

impl CatalogSnapshot {
    /// A catalog that knows nothing.
    pub fn empty() -> Arc<Self> {
        Arc::default()
    }

    /// The relation of an OID, for result columns.
    pub fn relation(&self, oid: u32) -> Option<&Relation> {
        self.by_oid.get(&oid).and_then(|at| self.relations.get(*at))
    }
}

/// Where the latest snapshot of one database is found.
#[derive(Debug, Clone, Default)]
pub struct SharedCatalog(Arc<RwLock<Arc<CatalogSnapshot>>>);

impl SharedCatalog {
    /// The latest snapshot; empty before the first reading.
    pub fn current(&self) -> Arc<CatalogSnapshot> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
