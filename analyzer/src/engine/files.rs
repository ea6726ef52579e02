//! A table made of the data files that commits name, and of no others: nothing here lists a directory.
//!
//! Files are left out by what their commit says about times and sessions, row groups and pages by their
//! statistics and Bloom filters. Filters run inside the Parquet reader only where they pick few rows.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, FixedSizeBinaryBuilder, Int64Array};
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use bodycam_lake::{FileEntry, LakeError, Store, Table};
use bodycam_record::SessionId;
use bytes::Bytes;
use datafusion::catalog::Session;
use datafusion::common::project_schema;
use datafusion::common::pruning::PruningStatistics;
use datafusion::common::stats::Precision;
use datafusion::common::{Column, DFSchema, DataFusionError, Result, Statistics};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::parquet::{
    CachedParquetFileReaderFactory, ParquetFileReaderFactory,
};
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::datasource::{TableProvider, TableType};
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, utils::conjunction};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_optimizer::pruning::PruningPredicateBuilder;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use datafusion::scalar::ScalarValue;
use futures::future::BoxFuture;
use futures::{FutureExt, TryFutureExt};
use parquet::arrow::arrow_reader::ArrowReaderOptions;
use parquet::arrow::async_reader::AsyncFileReader;
use parquet::errors::ParquetError;
use parquet::file::metadata::ParquetMetaData;

use super::pushdown;

/// Bytes from the end of a file that are read first: footer and page index in one request.
const FOOTER_BYTES: usize = 64 * 1024;

/// One table of the lake, as files.
#[derive(Debug)]
pub(super) struct FilesTable {
    table: Table,
    schema: SchemaRef,
    store: Store,
    files: Vec<Arc<FileEntry>>,
}

impl FilesTable {
    pub(super) fn new(table: Table, store: Store, files: Vec<Arc<FileEntry>>) -> Self {
        Self { table, schema: table.schema(), store, files }
    }

    /// The files that can hold rows that `predicate` lets through.
    fn prune(&self, predicate: Option<&Arc<dyn PhysicalExpr>>) -> Result<Vec<&Arc<FileEntry>>> {
        let Some(predicate) = predicate else { return Ok(self.files.iter().collect()) };
        let pruning = PruningPredicateBuilder::new()
            .with_file_schema(self.schema.clone())
            .try_build(predicate.clone())?;
        let keep = pruning.prune(&Known { table: self.table, files: &self.files })?;
        Ok(self.files.iter().zip(keep).filter_map(|(file, keep)| keep.then_some(file)).collect())
    }
}

#[async_trait]
impl TableProvider for FilesTable {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let schema = DFSchema::try_from(self.schema.clone())?;
        let filters: Result<Vec<_>> =
            filters.iter().map(|f| pushdown::translate(f.clone(), &self.schema)).collect();
        let filter = conjunction(filters?);
        let needle = filter.as_ref().is_some_and(pushdown::is_needle);
        let predicate = filter.map(|f| state.create_physical_expr(f, &schema)).transpose()?;
        let files = self.prune(predicate.as_ref())?;
        if files.is_empty() {
            // A scan of no files has no partition, and the plans above it need one.
            return Ok(Arc::new(EmptyExec::new(project_schema(&self.schema, projection)?)));
        }

        let mut options = state.default_table_options().parquet;
        options.global.pushdown_filters = needle;
        options.global.reorder_filters = needle;
        let source = ParquetSource::new(self.schema.clone()).with_table_parquet_options(options);
        let mut source = reading(source, &self.store, state.runtime_env());
        if let Some(predicate) = predicate {
            source = source.with_predicate(predicate);
        }
        let sizes: std::result::Result<Vec<u64>, _> = files.iter().map(|f| self.store.size_of(f)).collect();
        let sizes = sizes.map_err(|err| DataFusionError::External(Box::new(err)))?;
        let bytes = sizes.iter().fold(0u64, |sum, size| sum.saturating_add(*size));
        // Of a file that somebody encoded anew nobody knows how many rows it has.
        let as_committed = files.iter().zip(&sizes).all(|(file, size)| file.bytes == *size);
        let rows = if as_committed { exactly(files.iter().map(|f| f.rows).sum()) } else { Precision::Absent };
        let statistics = Statistics::new_unknown(&self.schema)
            .with_num_rows(rows)
            .with_total_byte_size(exactly(bytes).to_inexact());
        let partitioned = |(file, size)| partitioned(file, size, &self.schema);
        let files = files.into_iter().zip(sizes).map(partitioned).collect();
        scan_of(state, source, files, statistics, projection, limit)
    }
}

/// `source`, which reads the lake's files and caches their footers in `runtime`.
pub(crate) fn reading(source: ParquetSource, store: &Store, runtime: &RuntimeEnv) -> ParquetSource {
    let reader = NamedFiles(CachedParquetFileReaderFactory::new(
        store.object_store(),
        runtime.cache_manager.get_file_metadata_cache(),
    ));
    source.with_metadata_size_hint(FOOTER_BYTES).with_parquet_file_reader_factory(Arc::new(reader))
}

/// A scan of Parquet files, shared among the threads of the query.
pub(super) fn scan_of(
    state: &dyn Session,
    source: ParquetSource,
    files: Vec<PartitionedFile>,
    statistics: Statistics,
    projection: Option<&Vec<usize>>,
    limit: Option<usize>,
) -> Result<Arc<dyn ExecutionPlan>> {
    let groups = FileGroup::new(files).split_files(state.config().target_partitions());
    let config = FileScanConfigBuilder::new(ObjectStoreUrl::local_filesystem(), Arc::new(source))
        .with_file_groups(groups)
        .with_statistics(statistics)
        .with_projection_indices(projection.cloned())?
        .with_limit(limit)
        .build();
    Ok(DataSourceExec::from_data_source(config))
}

fn exactly(n: u64) -> Precision<usize> {
    usize::try_from(n).map_or(Precision::Absent, Precision::Exact)
}

fn partitioned(file: &Arc<FileEntry>, size: u64, schema: &SchemaRef) -> PartitionedFile {
    let rows = if size == file.bytes { exactly(file.rows) } else { Precision::Absent };
    let statistics = Statistics::new_unknown(schema).with_num_rows(rows);
    let mut partitioned = PartitionedFile::new(file.path.clone(), size).with_statistics(Arc::new(statistics));
    // Files never change under a name; the digest keeps the metadata cache honest all the same.
    partitioned.object_meta.e_tag = Some(file.sha256.to_hex());
    partitioned
}

/// Readers whose errors name their file.
#[derive(Debug)]
struct NamedFiles(CachedParquetFileReaderFactory);

impl ParquetFileReaderFactory for NamedFiles {
    fn create_reader(
        &self,
        partition: usize,
        file: PartitionedFile,
        metadata_size_hint: Option<usize>,
        metrics: &ExecutionPlanMetricsSet,
    ) -> Result<Box<dyn AsyncFileReader + Send>> {
        let path = file.object_meta.location.to_string();
        let inner = self.0.create_reader(partition, file, metadata_size_hint, metrics)?;
        Ok(Box::new(NamedFile { path, inner }))
    }
}

struct NamedFile {
    path: String,
    inner: Box<dyn AsyncFileReader + Send>,
}

impl NamedFile {
    fn named(path: &str, err: ParquetError) -> ParquetError {
        // What DataFusion says of a footer names the file once more.
        let text = err.to_string();
        let text = text.split_once(&format!("{path}: ")).map_or(text.as_str(), |(_, rest)| rest);
        ParquetError::External(Box::new(LakeError::not_as_committed(path, text)))
    }
}

impl AsyncFileReader for NamedFile {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, std::result::Result<Bytes, ParquetError>> {
        self.inner.get_bytes(range).map_err(|err| Self::named(&self.path, err)).boxed()
    }

    fn get_byte_ranges(
        &mut self,
        ranges: Vec<Range<u64>>,
    ) -> BoxFuture<'_, std::result::Result<Vec<Bytes>, ParquetError>> {
        self.inner.get_byte_ranges(ranges).map_err(|err| Self::named(&self.path, err)).boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, std::result::Result<Arc<ParquetMetaData>, ParquetError>> {
        self.inner.get_metadata(options).map_err(|err| Self::named(&self.path, err)).boxed()
    }
}

/// What commits say about files, as statistics of their columns.
struct Known<'a> {
    table: Table,
    files: &'a [Arc<FileEntry>],
}

impl Known<'_> {
    fn bound(
        &self,
        column: &Column,
        ts: fn(&FileEntry) -> Option<i64>,
        session: fn(&FileEntry) -> Option<SessionId>,
    ) -> Option<ArrayRef> {
        match (self.table, column.name.as_str()) {
            (Table::Events(_), "ts_wall_ns") | (Table::Findings, "window_start_ns") => {
                Some(Arc::new(self.files.iter().map(|f| ts(f)).collect::<Int64Array>()))
            }
            (Table::Events(_) | Table::Content | Table::Sessions, "session_id") => {
                let mut ids = FixedSizeBinaryBuilder::new(16);
                for file in self.files {
                    match session(file) {
                        Some(id) => ids.append_value(id.0).ok()?,
                        None => ids.append_null(),
                    }
                }
                Some(Arc::new(ids.finish()))
            }
            _ => None,
        }
    }
}

impl PruningStatistics for Known<'_> {
    fn min_values(&self, column: &Column) -> Option<ArrayRef> {
        self.bound(column, |f| f.min_ts_ns, |f| f.min_session)
    }

    fn max_values(&self, column: &Column) -> Option<ArrayRef> {
        self.bound(column, |f| f.max_ts_ns, |f| f.max_session)
    }

    fn num_containers(&self) -> usize {
        self.files.len()
    }

    fn null_counts(&self, _: &Column) -> Option<ArrayRef> {
        None
    }

    fn row_counts(&self) -> Option<ArrayRef> {
        None
    }

    fn contained(
        &self,
        column: &Column,
        values: &std::collections::HashSet<ScalarValue>,
    ) -> Option<arrow::array::BooleanArray> {
        if column.name != "session_id" {
            return None;
        }
        let sessions: Option<Vec<SessionId>> = values
            .iter()
            .map(|value| match value {
                ScalarValue::FixedSizeBinary(16, Some(id)) => SessionId::try_from(id.as_slice()).ok(),
                _ => None,
            })
            .collect();
        let sessions = sessions?;
        // `None` says: it may hold one of them.
        let hold = self.files.iter().map(|f| (!sessions.iter().any(|s| f.may_hold(*s))).then_some(false));
        Some(hold.collect())
    }
}
