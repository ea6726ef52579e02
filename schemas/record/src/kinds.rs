//! The kinds of event and the fields of their bodies.
//!
//! Each kind is declared once, below `kinds/`; the typed struct, the canonical encoder, the Parquet columns,
//! the documentation and the test vectors all come from that declaration. A released kind never changes:
//! a new field means a new version.

use crate::canonical::{DecodeError, Reader, Writer};
use crate::digest::{Context, Digest};
use crate::value::{Type, Value};

pub mod control;
pub mod gap;
pub mod http;
pub mod ledger;
pub mod session;
pub mod sql;

/// A family of kinds: one table in the lake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// Opened, checkpoint, closed.
    Session,
    /// Statements, results, COPY, side messages.
    Sql,
    /// Requests, responses, tunnels.
    Http,
    /// Decisions, limits.
    Control,
    /// Where we could not see.
    Gap,
    /// A producer's ledger (not events of a session).
    Ledger,
}

impl Family {
    /// Every family of events.
    pub const EVENTS: [Family; 5] =
        [Family::Session, Family::Sql, Family::Http, Family::Control, Family::Gap];

    /// Its name in paths.
    pub fn name(self) -> &'static str {
        match self {
            Family::Session => "session",
            Family::Sql => "sql",
            Family::Http => "http",
            Family::Control => "control",
            Family::Gap => "gap",
            Family::Ledger => "ledger",
        }
    }

    /// The kinds of this family, in the order of their codes.
    pub fn tables(self) -> impl Iterator<Item = &'static KindTable> {
        TABLES.iter().copied().filter(move |t| t.family == self)
    }
}

/// One field of a kind.
#[derive(Debug)]
pub struct Field {
    /// Column name.
    pub name: &'static str,
    /// Type of the value when present.
    pub ty: Type,
    /// Whether it may be absent.
    pub optional: bool,
    /// Meaning and unit.
    pub doc: &'static str,
}

/// The declaration of a kind.
pub struct KindTable {
    /// Code, as hashed.
    pub code: i64,
    /// Name, e.g. `sql.statement`.
    pub name: &'static str,
    /// Version of the field list, as hashed.
    pub version: i64,
    /// The table its events rest in.
    pub family: Family,
    /// What it means.
    pub doc: &'static str,
    /// Its fields, in hashing order.
    pub fields: &'static [Field],
    context: Context,
}

impl KindTable {
    /// The hash context of the body digest: `bodycam 2026-11-21 body <name> v<version>`.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// The digest of canonical body bytes of this kind.
    pub fn body_digest(&self, canonical: &[u8]) -> Digest {
        self.context.digest(canonical)
    }

    /// The table of this code.
    pub fn of(code: i64) -> Option<&'static KindTable> {
        TABLES.iter().copied().find(|t| t.code == code)
    }

    /// The table of this name.
    pub fn named(name: &str) -> Option<&'static KindTable> {
        TABLES.iter().copied().find(|t| t.name == name)
    }

    /// Canonical body bytes from cells in field order.
    pub fn encode_values(&self, values: Vec<Value>) -> Result<Vec<u8>, DecodeError> {
        let mut w = Writer::new();
        Body::from_values(self.code, self.version, values)?.put(&mut w);
        Ok(w.into_vec())
    }
}

impl std::fmt::Debug for KindTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

/// What every declared kind can do.
pub trait KindBody: Sized + Into<Body> {
    /// The declaration.
    const TABLE: &'static KindTable;
}

macro_rules! kind {
    ($(#[doc = $doc:literal])* $ty:ident = $code:literal $name:literal v $version:literal in $family:ident {
        $($(#[doc = $fdoc:literal])* $field:ident: $fty:ty,)*
    }) => {
        $(#[doc = $doc])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct $ty { $($(#[doc = $fdoc])* pub $field: $fty,)* }

        impl $ty {
            // Copied once, into the static of its kind; nobody uses the constant's own cell.
            #[allow(clippy::declare_interior_mutable_const)]
            pub(crate) const DECLARATION: crate::kinds::KindTable = crate::kinds::KindTable {
                code: $code,
                name: $name,
                version: $version,
                family: crate::kinds::Family::$family,
                doc: concat!($($doc),*),
                fields: &[$(crate::kinds::Field {
                    name: stringify!($field),
                    ty: <$fty as crate::value::FieldType>::TYPE,
                    optional: <$fty as crate::value::FieldType>::OPTIONAL,
                    doc: concat!($($fdoc),*),
                }),*],
                context: crate::digest::Context::new(concat!("bodycam 2026-11-21 body ", $name, " v", $version)),
            };

            pub(crate) fn put(&self, w: &mut crate::canonical::Writer) {
                $(crate::value::put_field(w, &self.$field);)*
            }

            pub(crate) fn take(r: &mut crate::canonical::Reader<'_>) -> Result<Self, crate::canonical::DecodeError> {
                Ok(Self { $($field: crate::value::take_field(r)?,)* })
            }

            pub(crate) fn values(&self) -> Vec<crate::value::Value> {
                vec![$(crate::value::FieldType::to_value(&self.$field)),*]
            }

            pub(crate) fn from_values(values: Vec<crate::value::Value>) -> Result<Self, crate::canonical::DecodeError> {
                let short = crate::canonical::DecodeError::Malformed { expected: "complete list of fields" };
                let mut values = values.into_iter();
                let body = Self { $($field: crate::value::FieldType::from_value(values.next().ok_or(short.clone())?)?,)* };
                match values.next() {
                    None => Ok(body),
                    Some(_) => Err(short),
                }
            }
        }
    };
}
pub(crate) use kind;

macro_rules! bodies {
    ($($module:ident :: $ty:ident => $table:ident),* $(,)?) => {
        $(static $table: KindTable = $module::$ty::DECLARATION;)*

        /// Every kind, in the order of codes.
        pub static TABLES: &[&KindTable] = &[$(&$table),*];

        /// A body of any kind.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub enum Body { $($ty($module::$ty)),* }

        $(
            impl From<$module::$ty> for Body {
                fn from(body: $module::$ty) -> Self { Body::$ty(body) }
            }
            impl KindBody for $module::$ty {
                const TABLE: &'static KindTable = &$table;
            }
        )*

        impl Body {
            /// The declaration of its kind.
            pub fn table(&self) -> &'static KindTable {
                match self { $(Body::$ty(_) => &$table),* }
            }

            /// Appends its canonical bytes.
            pub fn put(&self, w: &mut Writer) {
                match self { $(Body::$ty(b) => b.put(w)),* }
            }

            /// Its cells, in field order.
            pub fn values(&self) -> Vec<Value> {
                match self { $(Body::$ty(b) => b.values()),* }
            }

            /// The body of kind `code` in `version` from its canonical bytes.
            pub fn decode(code: i64, version: i64, canonical: &[u8]) -> Result<Self, DecodeError> {
                let table = known(code, version)?;
                let mut r = Reader::new(canonical);
                let body = $(if table.code == $table.code { Body::$ty($module::$ty::take(&mut r)?) } else)* {
                    return Err(DecodeError::Unknown { what: "event kind", code });
                };
                r.finish()?;
                Ok(body)
            }

            /// The body of kind `code` in `version` from its cells in field order.
            pub fn from_values(code: i64, version: i64, values: Vec<Value>) -> Result<Self, DecodeError> {
                let table = known(code, version)?;
                $(if table.code == $table.code { return Ok(Body::$ty($module::$ty::from_values(values)?)); })*
                Err(DecodeError::Unknown { what: "event kind", code })
            }
        }
    };
}

fn known(code: i64, version: i64) -> Result<&'static KindTable, DecodeError> {
    let table = KindTable::of(code).ok_or(DecodeError::Unknown { what: "event kind", code })?;
    if table.version != version {
        return Err(DecodeError::Unknown { what: "version of an event kind", code: version });
    }
    Ok(table)
}

impl Body {
    /// Its canonical bytes.
    pub fn canonical(&self) -> Vec<u8> {
        let mut w = Writer::new();
        self.put(&mut w);
        w.into_vec()
    }
}

bodies! {
    session::SessionOpened => SESSION_OPENED,
    session::SessionCheckpoint => SESSION_CHECKPOINT,
    session::SessionClosed => SESSION_CLOSED,
    sql::SqlStatement => SQL_STATEMENT,
    sql::SqlResult => SQL_RESULT,
    sql::SqlCopy => SQL_COPY,
    sql::SqlMessage => SQL_MESSAGE,
    http::HttpRequest => HTTP_REQUEST,
    http::HttpResponse => HTTP_RESPONSE,
    http::HttpTunnelOpened => HTTP_TUNNEL_OPENED,
    http::HttpTunnelClosed => HTTP_TUNNEL_CLOSED,
    control::ControlDecision => CONTROL_DECISION,
    control::ControlLimit => CONTROL_LIMIT,
    gap::Gap => GAP,
    ledger::LedgerStart => LEDGER_START,
    ledger::LedgerOpen => LEDGER_OPEN,
    ledger::LedgerSeal => LEDGER_SEAL,
    ledger::LedgerHeartbeat => LEDGER_HEARTBEAT,
    ledger::LedgerGap => LEDGER_GAP,
    ledger::LedgerCrash => LEDGER_CRASH,
    ledger::LedgerStop => LEDGER_STOP,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_names_are_unique_and_sorted() {
        assert!(TABLES.windows(2).all(|w| w[0].code < w[1].code));
        let mut names: Vec<_> = TABLES.iter().map(|t| t.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), TABLES.len());
    }

    #[test]
    fn a_column_name_has_one_type_in_its_family() {
        for table in TABLES {
            for field in table.fields {
                for other in table.family.tables() {
                    for f in other.fields.iter().filter(|f| f.name == field.name) {
                        assert_eq!(f.ty, field.ty, "{}.{} and {}", table.name, field.name, other.name);
                    }
                }
            }
        }
    }
}
