//! A table made of Parquet files in memory: roll-ups, compressed, and read as sparingly as the lake's own files. A
//! rule that asks about one principal decodes the pages that hold it.

use std::ops::Range;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use bytes::Bytes;
use datafusion::catalog::Session;
use datafusion::common::stats::Precision;
use datafusion::common::{DFSchema, Result, Statistics, project_schema};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::ParquetSource;
use datafusion::datasource::physical_plan::parquet::ParquetFileReaderFactory;
use datafusion::datasource::{TableProvider, TableType};
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, utils::conjunction};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use futures::FutureExt;
use futures::future::{BoxFuture, ready};
use parquet::arrow::arrow_reader::ArrowReaderOptions;
use parquet::arrow::async_reader::AsyncFileReader;
use parquet::errors::ParquetError;
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader};

use super::files::scan_of;

/// A Parquet file in memory.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    bytes: Bytes,
    metadata: Arc<ParquetMetaData>,
}

impl Part {
    /// The file that `bytes` are.
    pub(crate) fn new(bytes: Bytes) -> std::result::Result<Self, ParquetError> {
        let reader = ParquetMetaDataReader::new().with_page_index_policy(PageIndexPolicy::Optional);
        let metadata = Arc::new(reader.parse_and_finish(&bytes)?);
        Ok(Self { bytes, metadata })
    }

    /// Its bytes.
    pub(crate) fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    fn rows(&self) -> usize {
        usize::try_from(self.metadata.file_metadata().num_rows()).unwrap_or(usize::MAX)
    }
}

/// Parts as one table.
#[derive(Debug)]
pub(crate) struct PartsTable {
    schema: SchemaRef,
    parts: Arc<Vec<Part>>,
}

impl PartsTable {
    /// The table of `parts`, each with the columns of `schema`.
    pub(crate) fn new(schema: SchemaRef, parts: Vec<Part>) -> Self {
        Self { schema, parts: Arc::new(parts) }
    }
}

#[async_trait]
impl TableProvider for PartsTable {
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
        if self.parts.is_empty() {
            return Ok(Arc::new(EmptyExec::new(project_schema(&self.schema, projection)?)));
        }
        let schema = DFSchema::try_from(self.schema.clone())?;
        let mut options = state.default_table_options().parquet;
        options.global.pushdown_filters = true;
        let mut source = ParquetSource::new(self.schema.clone())
            .with_table_parquet_options(options)
            .with_parquet_file_reader_factory(Arc::new(InMemory(self.parts.clone())));
        if let Some(filter) = conjunction(filters.to_vec()) {
            source = source.with_predicate(state.create_physical_expr(filter, &schema)?);
        }
        let exactly = |n: usize| Precision::Exact(n);
        let unknown = || Statistics::new_unknown(&self.schema);
        let files = self.parts.iter().enumerate().map(|(at, part)| {
            let statistics = unknown().with_num_rows(exactly(part.rows()));
            PartitionedFile::new(at.to_string(), part.bytes.len() as u64)
                .with_statistics(Arc::new(statistics))
        });
        let rows = self.parts.iter().map(Part::rows).sum();
        let statistics = unknown().with_num_rows(exactly(rows));
        scan_of(state, source, files.collect(), statistics, projection, limit)
    }
}

/// Readers of parts; the name of each is its place.
#[derive(Debug)]
struct InMemory(Arc<Vec<Part>>);

impl ParquetFileReaderFactory for InMemory {
    fn create_reader(
        &self,
        _: usize,
        file: PartitionedFile,
        _: Option<usize>,
        _: &ExecutionPlanMetricsSet,
    ) -> Result<Box<dyn AsyncFileReader + Send>> {
        let at = file.object_meta.location.as_ref().parse::<usize>().ok();
        let part = at.and_then(|at| self.0.get(at)).cloned();
        let part = part.ok_or_else(|| ParquetError::General("no such part".to_owned()))?;
        Ok(Box::new(part))
    }
}

impl AsyncFileReader for Part {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, std::result::Result<Bytes, ParquetError>> {
        let (Ok(from), Ok(to)) = (usize::try_from(range.start), usize::try_from(range.end)) else {
            return ready(Err(ParquetError::EOF("beyond memory".to_owned()))).boxed();
        };
        let bytes = match from <= to && to <= self.bytes.len() {
            true => Ok(self.bytes.slice(from..to)),
            false => Err(ParquetError::EOF("beyond the end of a part".to_owned())),
        };
        ready(bytes).boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        _: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, std::result::Result<Arc<ParquetMetaData>, ParquetError>> {
        ready(Ok(self.metadata.clone())).boxed()
    }
}
