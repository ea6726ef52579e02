//! Roll-ups of hours and days, so that a rule with weeks of history reads a few rows an hour and not every event.
//!
//! The roll-up of an hour is a pure function of the rows of its hour, and its name is made of the digest of their
//! sum: it is never stale, needs no invalidation, and survives compaction. The roll-up of a day is the rows of its
//! hours, sorted so that one principal or host lies together; a late row changes the names of its hour and its day,
//! and of nothing else. Hours that can still grow are kept in memory only, and so is everything without a tenant key.
//!
//! Invariant: what is at hand is what the events of now give, row for row. A kept roll-up saves work and decides
//! nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::{SortColumn, concat_batches, lexsort_to_indices, take_record_batch};
use arrow::datatypes::{SchemaRef, TimestampNanosecondType};
use bodycam_lake::layout::HOUR_NS;
use bodycam_lake::store::Listed;
use bodycam_lake::window::ReadPosition;
use bodycam_lake::{Hour, LakeError, Store, View};
use bodycam_record::canonical::Writer;
use bodycam_record::{Digest, Family, TenantKey, digest};
use datafusion::common::{Column, ScalarValue};
use datafusion::datasource::{TableProvider, ViewTable, provider_as_source};
use datafusion::logical_expr::{Expr, LogicalPlanBuilder, lit};
use futures::{StreamExt, TryStreamExt, stream};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::detect::Metrics;
use crate::engine::{Bounds, Engine, HOURLY_DESTINATIONS, HOURLY_PULLS, Part, PartsTable, Scope, spawn};
use crate::error::AnalyzerError;
use crate::windows::{Inputs, Sum, positions};

mod kept;

use kept::{Kept, encode};

/// The roll-ups.
const ROLLUPS: [Rollup; 2] = [
    Rollup {
        table: HOURLY_PULLS,
        family: Family::Sql,
        key: &["principal_ref", "target", "main_relation"],
        version: 3,
    },
    Rollup { table: HOURLY_DESTINATIONS, family: Family::Http, key: &["host", "principal_ref"], version: 2 },
];

/// Hours of a day, and most hours that are computed by one query.
const DAY: i64 = 24;
/// Objects that are read at once.
const READ_AHEAD: usize = 16;
/// Rows that are decoded at once.
const BATCH_ROWS: usize = 64 * 1024;

/// What a roll-up is.
struct Rollup {
    /// The table that SQL sees.
    table: &'static str,
    /// The family of its events.
    family: Family,
    /// With the hour, what tells its rows apart; they are sorted by it.
    key: &'static [&'static str],
    /// Version of its definition.
    version: u64,
}

/// An hour or a day since 1970-01-01T00Z.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Period {
    Hour(i64),
    Day(i64),
}

/// A part of a table that is wanted: the hours with rows, and what their rows add up to.
struct Piece {
    period: Period,
    id: Digest,
    hours: Vec<(i64, Digest)>,
    is_settled: bool,
}

/// Roll-ups at hand.
pub(crate) struct Rollups {
    engine: Engine,
    memory_bytes: usize,
    /// Most bytes that are held between evaluations.
    hold_bytes: usize,
    parts: BTreeMap<(&'static str, Period), (Digest, Part)>,
    schemas: BTreeMap<&'static str, SchemaRef>,
    kept: Kept,
    metrics: Arc<Metrics>,
}

impl Rollups {
    /// Roll-ups that are kept in `store` under the tenant key, if there is one.
    pub(crate) fn new(
        store: Store,
        engine: Engine,
        memory_bytes: usize,
        tenant: Option<TenantKey>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            engine,
            memory_bytes,
            hold_bytes: memory_bytes / 2,
            parts: BTreeMap::new(),
            schemas: BTreeMap::new(),
            kept: Kept::new(store, tenant, metrics.clone()),
            metrics,
        }
    }

    /// The roll-up `table` over `[from_ns, to_ns)`; none when it is not a roll-up. Hours that end by
    /// `settled_ns` are kept in the lake.
    pub(crate) async fn table(
        &mut self,
        table: &str,
        view: &View,
        inputs: &Inputs,
        (from_ns, to_ns): (i64, i64),
        settled_ns: i64,
    ) -> Result<Option<Arc<dyn TableProvider>>, AnalyzerError> {
        let Some(rollup) = ROLLUPS.iter().find(|rollup| rollup.table == table) else { return Ok(None) };
        let (from, to) = (from_ns.div_euclid(HOUR_NS), to_ns.div_euclid(HOUR_NS));
        let settled = settled_ns.div_euclid(HOUR_NS);
        let wanted = rollup.pieces(inputs, from, to, settled);
        self.read(rollup, wanted.iter()).await?;
        let mut hours = Vec::new();
        for piece in &wanted {
            match piece.period {
                _ if self.has(rollup, piece.period, piece.id) => {}
                Period::Hour(_) => hours.extend(piece.hours.iter().copied()),
                Period::Day(day) => self.make_day(rollup, day, piece, view).await?,
            }
        }
        self.make_hours(rollup, &hours, view, settled).await?;
        let mut parts = Vec::new();
        for piece in &wanted {
            parts.extend(self.parts.get(&(rollup.table, piece.period)).map(|(_, part)| part.clone()));
            if matches!(piece.period, Period::Day(_)) {
                // The day stands for them.
                piece.hours.iter().for_each(|(hour, _)| {
                    self.parts.remove(&(rollup.table, Period::Hour(*hour)));
                });
            }
        }
        let schema = self.schema(rollup, view).await?;
        self.forget();
        self.metrics.rollups_held(self.parts.values().map(|(_, part)| part.bytes().len() as u64).sum());
        let bounded = bounded(PartsTable::new(schema, parts), from_ns, to_ns);
        Ok(Some(bounded.map_err(|err| AnalyzerError::sql("preparing a roll-up", err))?))
    }

    /// Of the objects under `state/`, the roll-ups in whose place a later one of the same hour or day lies, which stands
    /// for the rows of now.
    pub(crate) fn superseded(
        &self,
        inputs: &Inputs,
        listed: &BTreeMap<String, Listed>,
    ) -> Result<Vec<String>, LakeError> {
        let mut now = BTreeMap::new();
        for rollup in &ROLLUPS {
            let mut days: BTreeMap<i64, Vec<(i64, Digest)>> = BTreeMap::new();
            for (hour, sum) in inputs.hours(rollup.family, i64::MIN, i64::MAX) {
                days.entry(hour.div_euclid(DAY)).or_default().push((hour, rollup.identity(hour, sum)));
            }
            let hours = days.values().flatten().map(|(hour, id)| (Period::Hour(*hour), *id));
            let whole = days.iter().map(|(day, hours)| (Period::Day(*day), day_identity(hours)));
            for (period, id) in hours.chain(whole) {
                let Some(path) = self.kept.path(rollup.table, period, id)? else { return Ok(Vec::new()) };
                if let (Some(object), Some(what)) = (listed.get(&path), kept::what(&path)) {
                    now.insert(what.to_owned(), object);
                }
            }
        }
        let is_older = |object: &&Listed| {
            let newest = kept::what(&object.path).and_then(|what| now.get(what));
            newest.is_some_and(|newest| newest.path != object.path && object.written_ns < newest.written_ns)
        };
        Ok(listed.values().filter(is_older).map(|object| object.path.clone()).collect())
    }

    /// Whether the object was written under the tenant key.
    pub(crate) async fn is_ours(&self, path: &str) -> Result<bool, LakeError> {
        self.kept.is_ours(path).await
    }

    fn has(&self, rollup: &Rollup, period: Period, id: Digest) -> bool {
        self.parts.get(&(rollup.table, period)).is_some_and(|(known, _)| *known == id)
    }

    /// Reads those that are settled and not at hand, several at once.
    async fn read(&mut self, rollup: &Rollup, pieces: impl Iterator<Item = &Piece>) -> Result<(), LakeError> {
        let missing: Vec<_> = pieces
            .filter(|piece| piece.is_settled && !self.has(rollup, piece.period, piece.id))
            .map(|piece| (piece.period, piece.id))
            .collect();
        let kept = &self.kept;
        let read = stream::iter(missing)
            .map(|(period, id)| async move {
                let part = kept.read(rollup.table, period, id).await?;
                Ok::<_, LakeError>(part.map(|part| ((rollup.table, period), (id, part))))
            })
            .buffer_unordered(READ_AHEAD)
            .try_collect::<Vec<_>>()
            .await?;
        self.parts.extend(read.into_iter().flatten());
        Ok(())
    }

    /// Makes the roll-up of a day from those of its hours, and keeps it.
    async fn make_day(
        &mut self,
        rollup: &'static Rollup,
        day: i64,
        piece: &Piece,
        view: &View,
    ) -> Result<(), AnalyzerError> {
        let hours: Vec<_> = piece.hours.iter().map(|hour| Piece::hour(*hour, true)).collect();
        self.read(rollup, hours.iter()).await?;
        let missing: Vec<_> = hours.iter().filter(|hour| !self.has(rollup, hour.period, hour.id)).collect();
        let missing: Vec<_> = missing.into_iter().flat_map(|hour| hour.hours.iter().copied()).collect();
        self.make_hours(rollup, &missing, view, i64::MAX).await?;
        let parts: Vec<_> =
            hours.iter().filter_map(|hour| self.parts.remove(&(rollup.table, hour.period))).collect();
        let read = positions(view.state());
        let made = spawn(async move {
            let parts: Vec<Part> = parts.into_iter().map(|(_, part)| part).collect();
            Ok(merged(rollup, &parts, &read)?)
        })?;
        let made = made.await?;
        self.kept.keep(rollup.table, Period::Day(day), piece.id, &made).await;
        self.parts.insert((rollup.table, Period::Day(day)), (piece.id, made));
        Ok(())
    }

    /// Computes hours from their events, and keeps those that end by hour `settled`.
    async fn make_hours(
        &mut self,
        rollup: &'static Rollup,
        mut hours: &[(i64, Digest)],
        view: &View,
        settled: i64,
    ) -> Result<(), AnalyzerError> {
        let read = positions(view.state());
        while let Some((first, _)) = hours.first() {
            let run = hours.iter().take_while(|(hour, _)| hour - first < DAY).count();
            let (now, later) = hours.split_at(run);
            hours = later;
            let last = now.last().map_or(*first, |(hour, _)| *hour);
            let (from_ns, to_ns) = (Hour(*first).start_ns(), Hour(last + 1).start_ns());
            let rows = self.query(rollup, view.clone(), from_ns, to_ns).await?;
            let column =
                rows.column_by_name("hour").and_then(|a| a.as_primitive_opt::<TimestampNanosecondType>());
            let starts = column.map(|c| c.values().to_vec()).unwrap_or_default();
            for (hour, id) in now {
                // Rows come in the order of hours.
                let start_ns = Hour(*hour).start_ns();
                let from = starts.partition_point(|ns| *ns < start_ns);
                let to = starts.partition_point(|ns| *ns <= start_ns);
                let part = encode(rollup.table, &rows.slice(from, to - from), &read)?;
                if *hour < settled {
                    self.kept.keep(rollup.table, Period::Hour(*hour), *id, &part).await;
                }
                self.metrics.rollup_made();
                self.parts.insert((rollup.table, Period::Hour(*hour)), (*id, part));
            }
        }
        Ok(())
    }

    /// The roll-up of `[from_ns, to_ns)` from the events, by hour and key.
    async fn query(
        &self,
        rollup: &Rollup,
        view: View,
        from_ns: i64,
        to_ns: i64,
    ) -> Result<RecordBatch, AnalyzerError> {
        let (engine, memory_bytes, table) = (self.engine.clone(), self.memory_bytes, rollup.table);
        let sql = format!("SELECT * FROM {table} ORDER BY hour, {}", rollup.key.join(", "));
        spawn(async move {
            let failed = |err| AnalyzerError::sql(format!("the roll-up {table}"), err);
            let bounds = Bounds { events_from_ns: from_ns, rollups_from_ns: from_ns, to_ns };
            let scope = Scope::lake(view, Vec::new(), memory_bytes).within(bounds);
            let context = engine.context(&scope)?;
            let frame = context.sql(&sql).await.map_err(failed)?;
            let schema: SchemaRef = Arc::new(frame.schema().as_arrow().clone());
            let plan = frame.create_physical_plan().await.map_err(failed)?;
            let batches = engine.collect(plan, &context).await.map_err(failed)?;
            concat_batches(&schema, &batches).map_err(|err| columns(table, err).into())
        })?
        .await
    }

    /// The columns of a roll-up.
    async fn schema(&mut self, rollup: &Rollup, view: &View) -> Result<SchemaRef, AnalyzerError> {
        if let Some(schema) = self.schemas.get(rollup.table) {
            return Ok(schema.clone());
        }
        let schema = self.query(rollup, view.clone(), 0, 0).await?.schema();
        self.schemas.insert(rollup.table, schema.clone());
        Ok(schema)
    }

    /// Lets go of the oldest until what is left fits.
    fn forget(&mut self) {
        let mut bytes: usize = self.parts.values().map(|(_, part)| part.bytes().len()).sum();
        while bytes > self.hold_bytes {
            let oldest = self.parts.keys().min_by_key(|(_, period)| period.first_hour()).copied();
            match oldest.and_then(|key| self.parts.remove(&key)) {
                Some((_, part)) => bytes = bytes.saturating_sub(part.bytes().len()),
                None => return,
            }
        }
    }
}

impl Period {
    fn first_hour(self) -> i64 {
        match self {
            Period::Hour(hour) => hour,
            Period::Day(day) => day.saturating_mul(DAY),
        }
    }
}

impl Piece {
    fn hour((hour, id): (i64, Digest), is_settled: bool) -> Self {
        Self { period: Period::Hour(hour), id, hours: vec![(hour, id)], is_settled }
    }
}

impl Rollup {
    /// What covers the hours with rows in `[from, to)`: days that are wholly settled, and hours.
    fn pieces(&self, inputs: &Inputs, from: i64, to: i64, settled: i64) -> Vec<Piece> {
        let mut pieces: Vec<Piece> = Vec::new();
        for (hour, sum) in inputs.hours(self.family, from, to) {
            let day = hour.div_euclid(DAY);
            let (first, end) = (day * DAY, (day + 1) * DAY);
            if end > settled {
                pieces.push(Piece::hour((hour, self.identity(hour, sum)), hour < settled));
            } else if pieces.last().is_none_or(|last| last.period != Period::Day(day)) {
                let hours = inputs.hours(self.family, first, end);
                let hours: Vec<_> = hours.map(|(hour, sum)| (hour, self.identity(hour, sum))).collect();
                let id = day_identity(&hours);
                pieces.push(Piece { period: Period::Day(day), id, hours, is_settled: true });
            }
        }
        pieces
    }

    /// What the rows of an hour add up to, for this definition.
    fn identity(&self, hour: i64, sum: Sum) -> Digest {
        let mut w = Writer::new();
        w.bytes(self.table.as_bytes());
        w.bytes(&self.version.to_le_bytes());
        w.int(hour);
        sum.put(&mut w);
        digest::ROLL_UP.digest(w.as_slice())
    }
}

/// What the hours of a day add up to.
fn day_identity(hours: &[(i64, Digest)]) -> Digest {
    let mut w = Writer::new();
    for (_, id) in hours {
        w.bytes(&id.0);
    }
    digest::ROLL_UP.digest(w.as_slice())
}

/// The rows of parts together, sorted by the key and the hour.
fn merged(rollup: &Rollup, parts: &[Part], read: &[ReadPosition]) -> Result<Part, LakeError> {
    let failed = |err: &dyn std::fmt::Display| columns(rollup.table, err);
    let (mut schema, mut batches) = (None, Vec::new());
    for part in parts {
        let builder =
            ParquetRecordBatchReaderBuilder::try_new(part.bytes().clone()).map_err(|err| failed(&err))?;
        schema.get_or_insert_with(|| builder.schema().clone());
        let rows = builder.with_batch_size(BATCH_ROWS).build().map_err(|err| failed(&err))?;
        for batch in rows {
            batches.push(batch.map_err(|err| failed(&err))?);
        }
    }
    let Some(schema) = schema else { return Err(failed(&"a day is made of hours")) };
    let rows = concat_batches(&schema, &batches).map_err(|err| failed(&err))?;
    let by = rollup.key.iter().chain(&["hour"]).filter_map(|name| rows.column_by_name(name));
    let by: Vec<_> = by.map(|values| SortColumn { values: values.clone(), options: None }).collect();
    let order = lexsort_to_indices(&by, None).map_err(|err| failed(&err))?;
    let rows = take_record_batch(&rows, &order).map_err(|err| failed(&err))?;
    encode(rollup.table, &rows, read)
}

/// The rows of `parts` whose hour lies in `[from_ns, to_ns)`: a day may hold more.
fn bounded(
    parts: PartsTable,
    from_ns: i64,
    to_ns: i64,
) -> datafusion::common::Result<Arc<dyn TableProvider>> {
    let hour = || Expr::Column(Column::from_name("hour"));
    let time = |ns: i64| lit(ScalarValue::TimestampNanosecond(Some(ns), Some("+00:00".into())));
    let plan = LogicalPlanBuilder::scan("hours", provider_as_source(Arc::new(parts)), None)?
        .filter(hour().gt_eq(time(from_ns)).and(hour().lt(time(to_ns))))?
        .build()?;
    Ok(Arc::new(ViewTable::new(plan, None)))
}

fn columns(table: &'static str, err: impl std::fmt::Display) -> LakeError {
    LakeError::Columns { table, reason: bodycam_record::shown(&err.to_string()) }
}
