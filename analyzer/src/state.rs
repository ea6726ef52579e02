//! Roll-ups of hours, so that a rule with weeks of history reads a few rows an hour and not every event.
//!
//! A roll-up is a pure function of the rows of its hour, and its name holds the digest of their sum: it is
//! never stale, needs no invalidation, and survives compaction. Hours that can still grow are kept in memory
//! only, and so are all of them without a tenant key.
//!
//! Invariant: what is read back was written under the tenant key, under this very name. Whatever else lies there
//! is made again from the events: a kept roll-up saves work and decides nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::{SchemaRef, TimestampNanosecondType};
use bodycam_lake::layout::{self, HOUR_NS};
use bodycam_lake::store::Put;
use bodycam_lake::{Hour, LakeError, Store, View};
use bodycam_record::canonical::Writer;
use bodycam_record::{Digest, Family, TenantKey, digest};
use bytes::Bytes;
use datafusion::datasource::{MemTable, TableProvider};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;

use crate::detect::Metrics;
use crate::engine::{Bounds, Engine, HOURLY_DESTINATIONS, HOURLY_PULLS, Scope, spawn};
use crate::error::AnalyzerError;
use crate::windows::{Inputs, Sum};

/// The roll-ups: table, family of its events, key columns that its rows are sorted by, version of its definition.
const ROLLUPS: [(&str, Family, &str, u64); 2] = [
    (HOURLY_PULLS, Family::Sql, "hour, principal_ref, target, main_relation", 2),
    (HOURLY_DESTINATIONS, Family::Http, "hour, principal_ref, host", 1),
];

/// Hours that are computed by one query.
const HOURS_AT_ONCE: i64 = 24;

/// Roll-ups at hand.
pub(crate) struct Rollups {
    store: Store,
    engine: Engine,
    memory_bytes: usize,
    /// Most bytes that are kept between evaluations.
    keep_bytes: usize,
    hours: BTreeMap<(&'static str, i64), (Digest, RecordBatch)>,
    /// Authenticates what is kept in the lake.
    tenant: Option<TenantKey>,
    metrics: Arc<Metrics>,
}

impl Rollups {
    pub(crate) fn new(store: Store, engine: Engine, memory_bytes: usize) -> Self {
        Self {
            store,
            engine,
            memory_bytes,
            keep_bytes: memory_bytes / 2,
            hours: BTreeMap::new(),
            tenant: None,
            metrics: Arc::default(),
        }
    }

    /// The same, kept in the lake under the tenant key, if there is one.
    pub(crate) fn kept_under(self, tenant: Option<TenantKey>, metrics: Arc<Metrics>) -> Self {
        Self { tenant, metrics, ..self }
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
        let Some((table, family, key, version)) = ROLLUPS.into_iter().find(|(name, ..)| *name == table)
        else {
            return Ok(None);
        };
        let (from, to) = (from_ns.div_euclid(HOUR_NS), to_ns.div_euclid(HOUR_NS));
        let wanted: Vec<(i64, Digest)> = inputs
            .hours(family, from, to)
            .map(|(hour, sum)| (hour, identity(table, version, hour, sum)))
            .collect();
        let mut missing = Vec::new();
        for (hour, id) in &wanted {
            let known = self.hours.get(&(table, *hour)).is_some_and(|(known, _)| known == id);
            if known {
                continue;
            }
            match self.read(table, *hour, *id, settled_ns).await? {
                Some(batch) => drop(self.hours.insert((table, *hour), (*id, batch))),
                None => missing.push((*hour, *id)),
            }
        }
        let mut rest = missing.as_slice();
        while let Some((first, _)) = rest.first() {
            let run = rest.iter().take_while(|(hour, _)| hour - first < HOURS_AT_ONCE).count();
            let (now, later) = rest.split_at(run);
            self.compute(table, key, view, now, settled_ns).await?;
            rest = later;
        }
        let mut batches: Vec<RecordBatch> = wanted
            .iter()
            .filter_map(|(hour, _)| self.hours.get(&(table, *hour)).map(|(_, batch)| batch.clone()))
            .collect();
        let schema = match batches.first() {
            Some(batch) => batch.schema(),
            None => {
                let empty = self.query(table, key, view.clone(), 0, 0).await?;
                batches.push(empty.clone());
                empty.schema()
            }
        };
        self.forget();
        let table = MemTable::try_new(schema, vec![batches]);
        Ok(Some(Arc::new(table.map_err(|err| AnalyzerError::sql("preparing a roll-up", err))?)))
    }

    /// Computes some hours and keeps them.
    async fn compute(
        &mut self,
        table: &'static str,
        key: &'static str,
        view: &View,
        hours: &[(i64, Digest)],
        settled_ns: i64,
    ) -> Result<(), AnalyzerError> {
        let (Some((first, _)), Some((last, _))) = (hours.first(), hours.last()) else { return Ok(()) };
        let to_ns = Hour(last + 1).start_ns();
        let rows = self.query(table, key, view.clone(), Hour(*first).start_ns(), to_ns).await?;
        let column =
            rows.column_by_name("hour").and_then(|a| a.as_primitive_opt::<TimestampNanosecondType>());
        let starts = column.map(|c| c.values().to_vec()).unwrap_or_default();
        for (hour, id) in hours {
            // Rows come in the order of hours.
            let start_ns = Hour(*hour).start_ns();
            let from = starts.partition_point(|ns| *ns < start_ns);
            let to = starts.partition_point(|ns| *ns <= start_ns);
            let batch = rows.slice(from, to - from);
            if Hour(hour + 1).start_ns() <= settled_ns {
                self.keep(&path(table, *hour, *id)?, encode(table, &batch)?).await;
            }
            // A slice would keep all hours of the query in memory.
            let batch = concat_batches(&rows.schema(), [&batch]).map_err(|err| columns(table, err))?;
            self.hours.insert((table, *hour), (*id, batch));
        }
        Ok(())
    }

    /// The roll-up of `[from_ns, to_ns)` from the events, in order of its key.
    async fn query(
        &self,
        table: &'static str,
        key: &'static str,
        view: View,
        from_ns: i64,
        to_ns: i64,
    ) -> Result<RecordBatch, AnalyzerError> {
        let (engine, memory_bytes) = (self.engine.clone(), self.memory_bytes);
        spawn(async move {
            let failed = |err| AnalyzerError::sql(format!("the roll-up {table}"), err);
            let bounds = Bounds { events_from_ns: from_ns, rollups_from_ns: from_ns, to_ns };
            let scope = Scope::lake(view, Vec::new(), memory_bytes).within(bounds);
            let context = engine.context(&scope)?;
            let frame =
                context.sql(&format!("SELECT * FROM {table} ORDER BY {key}")).await.map_err(failed)?;
            let schema: SchemaRef = Arc::new(frame.schema().as_arrow().clone());
            let batches = frame.collect().await.map_err(failed)?;
            concat_batches(&schema, &batches).map_err(|err| columns(table, err).into())
        })?
        .await
    }

    /// Keeps a roll-up in the lake, in the place of one that is not ours. That it cannot is no reason not to go on.
    async fn keep(&self, path: &str, parquet: Bytes) {
        let Some(tenant) = &self.tenant else { return };
        let mac = tenant.state_mac(path, &parquet);
        let object = Bytes::from([&mac.0, parquet.as_ref()].concat());
        let put = match self.store.put_new(path, object.clone()).await {
            // It was looked for and could not be used.
            Ok(Put::Exists) => self.store.put(path, object).await,
            put => put.map(drop),
        };
        if let Err(err) = put {
            tracing::warn!(event = "detect.rollup_not_kept", error = %err, "it is made again when it is needed");
        }
    }

    /// A kept roll-up of an hour that has been over since `settled_ns`; none when there is none that can be used.
    async fn read(
        &self,
        table: &'static str,
        hour: i64,
        id: Digest,
        settled_ns: i64,
    ) -> Result<Option<RecordBatch>, AnalyzerError> {
        let Some(tenant) = self.tenant.as_ref().filter(|_| Hour(hour + 1).start_ns() <= settled_ns) else {
            return Ok(None);
        };
        let path = path(table, hour, id)?;
        let reason = match self.store.get(&path).await {
            Ok(None) => return Ok(None),
            Ok(Some(object)) => match opened(tenant, &path, object) {
                Ok(batch) => return Ok(Some(batch)),
                Err(reason) => reason,
            },
            Err(err) => err.to_string(),
        };
        self.metrics.rollup_unreadable();
        tracing::warn!(event = "detect.rollup_unreadable", path = %path, reason = %reason, "it is made again from the events");
        Ok(None)
    }

    /// Lets go of the oldest hours until what is left fits.
    fn forget(&mut self) {
        let mut bytes: usize = self.hours.values().map(|(_, batch)| batch.get_array_memory_size()).sum();
        while bytes > self.keep_bytes {
            let oldest = self.hours.keys().min_by_key(|(_, hour)| *hour).copied();
            match oldest.and_then(|key| self.hours.remove(&key)) {
                Some((_, batch)) => bytes = bytes.saturating_sub(batch.get_array_memory_size()),
                None => return,
            }
        }
    }
}

/// What the rows of an hour add up to, for one definition of a roll-up.
fn identity(table: &str, version: u64, hour: i64, sum: Sum) -> Digest {
    let mut w = Writer::new();
    w.bytes(table.as_bytes());
    w.bytes(&version.to_le_bytes());
    w.int(hour);
    sum.put(&mut w);
    digest::ROLL_UP.digest(w.as_slice())
}

fn path(table: &str, hour: i64, id: Digest) -> Result<String, LakeError> {
    let id = id.to_hex();
    layout::state(&format!("{table}-{hour}-{}.rollup", id.get(..32).unwrap_or_default()))
}

/// The rows of a kept roll-up: 32 bytes that only the tenant key can make of its name and the rest, and the rest
/// as Parquet. Nothing is parsed that was not authenticated.
fn opened(tenant: &TenantKey, path: &str, object: Bytes) -> Result<RecordBatch, String> {
    let Some((mac, parquet)) = object.split_at_checked(32) else { return Err("it is cut".to_owned()) };
    if mac != tenant.state_mac(path, parquet).0 {
        return Err("it was not written under the tenant key".to_owned());
    }
    let failed = |err: &dyn std::fmt::Display| bodycam_record::shown(&err.to_string());
    let builder = ParquetRecordBatchReaderBuilder::try_new(object.slice(32..)).map_err(|err| failed(&err))?;
    let schema = builder.schema().clone();
    let batches: Result<Vec<_>, _> = builder.build().map_err(|err| failed(&err))?.collect();
    concat_batches(&schema, &batches.map_err(|err| failed(&err))?).map_err(|err| failed(&err))
}

fn encode(table: &'static str, batch: &RecordBatch) -> Result<Bytes, AnalyzerError> {
    let properties =
        WriterProperties::builder().set_compression(Compression::ZSTD(Default::default())).build();
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties))
        .map_err(|err| columns(table, err))?;
    writer.write(batch).map_err(|err| columns(table, err))?;
    Ok(writer.into_inner().map_err(|err| columns(table, err))?.into())
}

fn columns(table: &'static str, err: impl std::fmt::Display) -> LakeError {
    LakeError::Columns { table, reason: bodycam_record::shown(&err.to_string()) }
}
