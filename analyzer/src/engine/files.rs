//! A table made of the data files that commits name, and of no others: nothing here lists a directory.
//!
//! Files are left out by what their commit says about times and sessions, row groups and pages by their
//! statistics and Bloom filters. Filters run inside the Parquet reader only where they pick few rows.

use std::sync::Arc;

use arrow::array::{ArrayRef, FixedSizeBinaryBuilder, Int64Array};
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use bodycam_lake::{FileEntry, Store, Table};
use bodycam_record::SessionId;
use datafusion::catalog::Session;
use datafusion::common::project_schema;
use datafusion::common::pruning::PruningStatistics;
use datafusion::common::stats::Precision;
use datafusion::common::{Column, DFSchema, Result, Statistics};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::parquet::CachedParquetFileReaderFactory;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::datasource::{TableProvider, TableType};
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, utils::conjunction};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_optimizer::pruning::PruningPredicateBuilder;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::scalar::ScalarValue;

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
        let reader = CachedParquetFileReaderFactory::new(
            self.store.object_store(),
            state.runtime_env().cache_manager.get_file_metadata_cache(),
        );
        let mut source = ParquetSource::new(self.schema.clone())
            .with_table_parquet_options(options)
            .with_metadata_size_hint(FOOTER_BYTES)
            .with_parquet_file_reader_factory(Arc::new(reader));
        if let Some(predicate) = predicate {
            source = source.with_predicate(predicate);
        }
        let rows = files.iter().map(|f| f.rows).sum::<u64>();
        let bytes = files.iter().map(|f| f.bytes).sum::<u64>();
        let statistics = Statistics::new_unknown(&self.schema)
            .with_num_rows(exactly(rows))
            .with_total_byte_size(exactly(bytes).to_inexact());
        let group = FileGroup::new(files.into_iter().map(|f| partitioned(f, &self.schema)).collect());
        let groups = group.split_files(state.config().target_partitions());
        let config = FileScanConfigBuilder::new(ObjectStoreUrl::local_filesystem(), Arc::new(source))
            .with_file_groups(groups)
            .with_statistics(statistics)
            .with_projection_indices(projection.cloned())?
            .with_limit(limit)
            .build();
        Ok(DataSourceExec::from_data_source(config))
    }
}

fn exactly(n: u64) -> Precision<usize> {
    usize::try_from(n).map_or(Precision::Absent, Precision::Exact)
}

fn partitioned(file: &Arc<FileEntry>, schema: &SchemaRef) -> PartitionedFile {
    let statistics = Statistics::new_unknown(schema).with_num_rows(exactly(file.rows));
    let mut partitioned =
        PartitionedFile::new(file.path.clone(), file.bytes).with_statistics(Arc::new(statistics));
    // Files never change under a name; the digest keeps the metadata cache honest all the same.
    partitioned.object_meta.e_tag = Some(file.sha256.to_hex());
    partitioned
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
