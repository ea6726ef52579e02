//! The tables that SQL sees, each made when a statement names it: the lake's tables with ids as text (hex, or
//! UUID for sessions) and times as timestamps, one view a kind of event, and what rules build on.
//!
//! Column names are those of `docs/event-format.md`, but for times: `ts_wall_ns` is `ts`, and `started_ns` is
//! `started`.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, TimeUnit};
use async_trait::async_trait;
use bodycam_lake::{FileEntry, Store, Table, View};
use bodycam_record::{Family, KindTable, TenantKey};
use datafusion::catalog::SchemaProvider;
use datafusion::common::{Column, Result};
use datafusion::datasource::{MemTable, TableProvider, ViewTable, provider_as_source};
use datafusion::functions::expr_fn::{concat, date_trunc};
use datafusion::functions_aggregate::expr_fn::{count, max, min, sum};
use datafusion::functions_window::expr_fn::row_number;
use datafusion::logical_expr::{Expr, ExprFunctionExt, LogicalPlan, LogicalPlanBuilder, cast, lit};

use super::content::{CLEAR, ContentTable};
use super::files::FilesTable;
use super::functions::{IdForm, content_kind_name, content_text, id_text_of};
use super::principals::PrincipalsTable;

/// Where rows come from.
#[derive(Debug, Clone)]
pub(super) enum Rows {
    /// The files of a lake as of one moment, and the files with findings that window records name.
    Lake { view: View, findings: Vec<Arc<FileEntry>> },
    /// Batches at hand.
    Memory(BTreeMap<Table, Vec<RecordBatch>>),
}

/// The tables that SQL sees.
#[derive(Debug, Clone)]
pub(super) struct LakeSchema {
    pub rows: Rows,
    /// What of the events is seen; everything when absent.
    pub bounds: Option<Bounds>,
    pub tenant: Option<TenantKey>,
    /// Tables that stand before those of the lake.
    pub extra: BTreeMap<String, Arc<dyn TableProvider>>,
    /// Results of the earlier steps of a statement, which stand before all others.
    pub steps: Arc<RwLock<BTreeMap<String, Arc<dyn TableProvider>>>>,
}

/// A range of event time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Bounds {
    /// First time of which single events are seen, Unix ns.
    pub events_from_ns: i64,
    /// First time of which roll-ups are seen.
    pub rollups_from_ns: i64,
    /// First time of which nothing is seen.
    pub to_ns: i64,
}

/// A table that SQL sees.
#[derive(Debug, Clone, Copy)]
enum Shape {
    /// Events of these kinds; all of the family when empty.
    Kinds(Family, &'static [&'static str]),
    /// The envelopes of all events.
    Events,
    /// Rows that left a target.
    Pulls,
    /// Requests and tunnels that were let out.
    Egress,
    /// Pulls by hour, principal, target and relation.
    HourlyPulls,
    /// Egress by hour, principal and destination.
    HourlyDestinations,
    /// Ledger records.
    Ledger,
    /// The newest row of each key of a table of revisions.
    Newest(Table, &'static str),
    /// Templates.
    Templates,
    /// Content.
    Content,
    /// Names of principals.
    Principals,
}

/// Every table, with its meaning.
const TABLES: &[(&str, Shape, &str)] = &[
    ("sessions", Shape::Newest(Table::Sessions, "session_id"), "one row a session, as it stands now"),
    ("events", Shape::Events, "the envelope of every event"),
    (
        "openings",
        Shape::Kinds(Family::Session, &["session.opened"]),
        "sessions opened: who, with what, from where",
    ),
    (
        "statements",
        Shape::Kinds(Family::Sql, &["sql.statement"]),
        "statements, with their verdicts and facts",
    ),
    ("results", Shape::Kinds(Family::Sql, &["sql.result"]), "how statements ended: rows, bytes, outcome"),
    ("copies", Shape::Kinds(Family::Sql, &["sql.copy"]), "COPY streams"),
    (
        "messages",
        Shape::Kinds(Family::Sql, &["sql.message"]),
        "notices, notifications, parameters, errors outside statements",
    ),
    ("http", Shape::Kinds(Family::Http, &[]), "requests, responses, tunnels"),
    ("control", Shape::Kinds(Family::Control, &[]), "what the gateway refused or limited"),
    ("gaps", Shape::Kinds(Family::Gap, &[]), "where the gateway could not see"),
    ("ledger", Shape::Ledger, "the producers' ledgers"),
    ("findings", Shape::Newest(Table::Findings, "id"), "findings, the newest revision of each"),
    ("templates", Shape::Templates, "literal-free statement text by fingerprint"),
    ("content", Shape::Content, "content; the columns text and bytes open it with the tenant key"),
    ("principals", Shape::Principals, "names behind principal_ref; the tenant key opens them"),
    ("pulls", Shape::Pulls, "results that sent something, COPY to the client included"),
    ("egress", Shape::Egress, "requests and tunnels that were let out"),
    (HOURLY_PULLS, Shape::HourlyPulls, "pulls by hour, principal, target and relation"),
    (HOURLY_DESTINATIONS, Shape::HourlyDestinations, "egress by hour, principal and destination"),
];

/// The roll-up of `pulls`.
pub(crate) const HOURLY_PULLS: &str = "hourly_pulls";
/// The roll-up of `egress`.
pub(crate) const HOURLY_DESTINATIONS: &str = "hourly_destinations";

/// The tables whose events a table is made of; none for tables that no window of event time bounds.
pub(crate) fn families_of(table: &str) -> Option<&'static [Family]> {
    let (_, shape, _) = TABLES.iter().find(|(name, ..)| *name == table)?;
    Some(match shape {
        Shape::Kinds(Family::Session, _) => &[Family::Session],
        Shape::Kinds(Family::Sql, _) | Shape::Pulls | Shape::HourlyPulls => &[Family::Sql],
        Shape::Kinds(Family::Http, _) | Shape::Egress | Shape::HourlyDestinations => &[Family::Http],
        Shape::Kinds(Family::Control, _) => &[Family::Control],
        Shape::Kinds(Family::Gap, _) => &[Family::Gap],
        Shape::Events => &Family::EVENTS,
        Shape::Templates => &[],
        Shape::Kinds(Family::Ledger, _)
        | Shape::Ledger
        | Shape::Newest(..)
        | Shape::Content
        | Shape::Principals => return None,
    })
}

/// The tables and their meaning, for the documentation.
pub fn tables() -> impl Iterator<Item = (&'static str, &'static str)> {
    TABLES.iter().map(|(name, _, doc)| (*name, *doc))
}

/// The type of times.
pub(crate) fn timestamp() -> DataType {
    DataType::Timestamp(TimeUnit::Nanosecond, Some("+00:00".into()))
}

#[async_trait]
impl SchemaProvider for LakeSchema {
    fn table_names(&self) -> Vec<String> {
        let lake = TABLES.iter().map(|(name, ..)| (*name).to_owned());
        lake.chain(self.extra.keys().cloned()).collect()
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        if let Some(table) = self.step(name).or_else(|| self.extra.get(name).cloned()) {
            return Ok(Some(table));
        }
        let Some((_, shape, _)) = TABLES.iter().find(|(n, ..)| *n == name) else { return Ok(None) };
        let plan = self.plan(*shape)?;
        Ok(Some(Arc::new(ViewTable::new(plan, None))))
    }

    fn table_exist(&self, name: &str) -> bool {
        self.step(name).is_some() || self.extra.contains_key(name) || TABLES.iter().any(|(n, ..)| *n == name)
    }
}

impl LakeSchema {
    fn step(&self, name: &str) -> Option<Arc<dyn TableProvider>> {
        self.steps.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    fn plan(&self, shape: Shape) -> Result<LogicalPlan> {
        match shape {
            Shape::Kinds(family, kinds) => self.kinds(family, kinds)?.build(),
            Shape::Events => self.events(),
            Shape::Pulls => self.pulls()?.build(),
            Shape::Egress => self.egress()?.build(),
            Shape::HourlyPulls => self.for_rollups().hourly_pulls(),
            Shape::HourlyDestinations => self.for_rollups().hourly_destinations(),
            Shape::Ledger => {
                let table = Table::Events(Family::Ledger);
                self.scan(table)?.project(columns(table, |_| true))?.build()
            }
            Shape::Newest(table, key) => {
                let rank = row_number()
                    .partition_by(vec![name(key)])
                    .order_by(vec![name("revision").sort(false, false)])
                    .build()?
                    .alias("newest");
                self.scan(table)?
                    .window([rank])?
                    .filter(name("newest").eq(lit(1u64)))?
                    .project(columns(table, |_| true))?
                    .build()
            }
            Shape::Templates => {
                self.scan(Table::Templates)?.project(columns(Table::Templates, |_| true))?.distinct()?.build()
            }
            Shape::Content => self.content(),
            Shape::Principals => {
                let table = PrincipalsTable::new(self.view(), self.tenant.clone());
                LogicalPlanBuilder::scan("principals", provider_as_source(Arc::new(table)), None)?.build()
            }
        }
    }

    /// The same tables, with as many events as roll-ups are made of.
    fn for_rollups(&self) -> Self {
        let wider = |b: Bounds| Bounds { events_from_ns: b.rollups_from_ns, ..b };
        Self { bounds: self.bounds.map(wider), ..self.clone() }
    }

    /// A table as it rests.
    fn raw(&self, table: Table) -> Result<Arc<dyn TableProvider>> {
        Ok(match &self.rows {
            Rows::Lake { view, findings } => {
                let mut files: Vec<_> = view.state().files(table).cloned().collect();
                if table == Table::Findings {
                    files.extend(findings.iter().cloned());
                }
                Arc::new(FilesTable::new(table, view.store().clone(), files))
            }
            Rows::Memory(batches) => {
                let batches = batches.get(&table).cloned().unwrap_or_default();
                Arc::new(MemTable::try_new(table.schema(), vec![batches])?)
            }
        })
    }

    fn view(&self) -> Option<View> {
        match &self.rows {
            Rows::Lake { view, .. } => Some(view.clone()),
            Rows::Memory(_) => None,
        }
    }

    fn store(&self) -> Option<Store> {
        match &self.rows {
            Rows::Lake { view, .. } => Some(view.store().clone()),
            Rows::Memory(_) => None,
        }
    }

    /// A table as it rests, within the bounds.
    fn scan(&self, table: Table) -> Result<LogicalPlanBuilder> {
        let plan = LogicalPlanBuilder::scan(table.name(), provider_as_source(self.raw(table)?), None)?;
        match (self.bounds, table) {
            (Some(bounds), Table::Events(_)) => {
                let from = name("ts_wall_ns").gt_eq(lit(bounds.events_from_ns));
                plan.filter(from.and(name("ts_wall_ns").lt(lit(bounds.to_ns))))
            }
            _ => Ok(plan),
        }
    }

    /// Events of some kinds of a family.
    fn kinds(&self, family: Family, kinds: &[&str]) -> Result<LogicalPlanBuilder> {
        let known = || kinds.iter().filter_map(|name| KindTable::named(name));
        let of_family: Vec<&str> = family.tables().flat_map(|t| t.fields).map(|f| f.name).collect();
        let of_these: Vec<&str> = known().flat_map(|t| t.fields).map(|f| f.name).collect();
        let shown = |name: &str| kinds.is_empty() || !of_family.contains(&name) || of_these.contains(&name);
        let table = columns(Table::Events(family), shown);
        self.of_kinds(family, kinds)?.project([event_id()].into_iter().chain(table))
    }

    /// The rows of some kinds of a family as they rest; all of the family when there are none.
    fn of_kinds(&self, family: Family, kinds: &[&str]) -> Result<LogicalPlanBuilder> {
        let plan = self.scan(Table::Events(family))?;
        if kinds.is_empty() {
            return Ok(plan);
        }
        let codes = kinds.iter().filter_map(|name| KindTable::named(name)).map(|kind| lit(kind.code));
        plan.filter(name("kind").in_list(codes.collect(), false))
    }

    /// The envelopes of all families.
    fn events(&self) -> Result<LogicalPlan> {
        let mut all: Option<LogicalPlanBuilder> = None;
        for family in Family::EVENTS {
            let table = Table::Events(family);
            let body: Vec<&str> = family.tables().flat_map(|t| t.fields).map(|f| f.name).collect();
            let envelope = columns(table, |name| !body.contains(&name));
            let plan = self.scan(table)?.project([event_id()].into_iter().chain(envelope))?;
            all = Some(match all {
                Some(all) => all.union(plan.build()?)?,
                None => plan,
            });
        }
        all.map_or_else(|| LogicalPlanBuilder::empty(false).build(), LogicalPlanBuilder::build)
    }

    /// A COPY to the client has a result as well, with the same rows and bytes and the statement's correlation
    /// id: its `sql.copy` event must not count again.
    fn pulls(&self) -> Result<LogicalPlanBuilder> {
        let sent = name("rows").gt(lit(0i64)).or(name("bytes").gt(lit(0i64)));
        let seen = columns(Table::Events(Family::Sql), |name| PULL_COLUMNS.contains(&name));
        self.of_kinds(Family::Sql, &["sql.result"])?
            .filter(name("verdict").eq(lit("allow")).and(sent))?
            .project([event_id()].into_iter().chain(seen))
    }

    fn egress(&self) -> Result<LogicalPlanBuilder> {
        let seen = columns(Table::Events(Family::Http), |name| EGRESS_COLUMNS.contains(&name));
        self.of_kinds(Family::Http, &["http.request", "http.tunnel_opened"])?
            .filter(name("verdict").eq(lit("allow")))?
            .project([event_id()].into_iter().chain(seen))
    }

    fn hourly_pulls(&self) -> Result<LogicalPlan> {
        self.pulls()?
            .aggregate(
                [hour(), name("principal_ref"), name("target"), name("main_relation")],
                [
                    count(lit(1i64)).alias("pulls"),
                    sum(name("rows")).alias("rows"),
                    sum(name("bytes")).alias("bytes"),
                    max(name("rows")).alias("max_rows"),
                    max(name("bytes")).alias("max_bytes"),
                ],
            )?
            .build()
    }

    fn hourly_destinations(&self) -> Result<LogicalPlan> {
        self.egress()?
            .aggregate(
                [hour(), name("principal_ref"), name("host")],
                [
                    count(lit(1i64)).alias("contacts"),
                    min(name("ts")).alias("first_ts"),
                    max(name("ts")).alias("last_ts"),
                ],
            )?
            .build()
    }

    fn content(&self) -> Result<LogicalPlan> {
        let sealed = self.raw(Table::Content)?;
        let table = ContentTable::new(sealed, self.store(), self.tenant.clone());
        LogicalPlanBuilder::scan("content", provider_as_source(Arc::new(table)), None)?
            .project([
                id_text_of(IdForm::Uuid, name("session_id")).alias("session_id"),
                name("content_no"),
                name("chunk_index"),
                content_kind_name(name("content_kind")).alias("content_kind"),
                content_text(name("content_kind"), name(CLEAR)).alias("text"),
                name(CLEAR).alias("bytes"),
            ])?
            .build()
    }
}

/// What `pulls` and `egress` show beside `event_id`: names as they rest.
const PULL_COLUMNS: [&str; 12] = [
    "session_id",
    "seq",
    "ts_wall_ns",
    "principal_ref",
    "target",
    "statement_no",
    "main_relation",
    "relations_seen",
    "fingerprint",
    "rows",
    "bytes",
    "correlation",
];

const EGRESS_COLUMNS: [&str; 10] = [
    "session_id",
    "seq",
    "ts_wall_ns",
    "principal_ref",
    "target",
    "kind_name",
    "request_no",
    "host",
    "port",
    "correlation",
];

fn name(column: &str) -> Expr {
    Expr::Column(Column::from_name(column))
}

fn hour() -> Expr {
    date_trunc(lit("hour"), name("ts")).alias("hour")
}

/// `<session>:<seq>`.
fn event_id() -> Expr {
    let seq = cast(name("seq"), DataType::Utf8);
    concat(vec![id_text_of(IdForm::Uuid, name("session_id")), lit(":"), seq]).alias("event_id")
}

/// The columns of a table as SQL sees them.
fn columns(table: Table, shown: impl Fn(&str) -> bool) -> Vec<Expr> {
    table.schema().fields().iter().filter(|f| shown(f.name())).map(|f| column(f)).collect()
}

fn column(field: &Field) -> Expr {
    let column = field.name().as_str();
    match (field.data_type(), column.strip_suffix("_ns")) {
        (DataType::FixedSizeBinary(16), _) if column == "session_id" => {
            id_text_of(IdForm::Uuid, name(column)).alias(column)
        }
        (DataType::FixedSizeBinary(_) | DataType::Binary, _) => {
            id_text_of(IdForm::Hex, name(column)).alias(column)
        }
        (DataType::Int64, Some("ts_wall")) => cast(name(column), timestamp()).alias("ts"),
        // The monotonic clock counts from the start of a process: a duration, not a time.
        (DataType::Int64, Some(time)) if time != "ts_mono" => cast(name(column), timestamp()).alias(time),
        _ => name(column),
    }
}
