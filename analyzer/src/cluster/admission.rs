//! What may run on an executor: plans that read files of the lake, by what their nodes are. The same list says, on
//! the client, what can be sent.

use std::any::Any;
use std::sync::Arc;

use bodycam_lake::Store;
use bodycam_record::shown;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Result, exec_err};
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::datasource::physical_plan::{FileScanConfig, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::physical_plan::ExecutionPlan;

use crate::engine::files::reading;

/// Nodes that compute rows from rows, or have none.
const NODES: [&str; 22] = [
    "AggregateExec",
    "BoundedWindowAggExec",
    "CoalesceBatchesExec",
    "CoalescePartitionsExec",
    "CooperativeExec",
    "CrossJoinExec",
    "EmptyExec",
    "FilterExec",
    "GlobalLimitExec",
    "HashJoinExec",
    "InterleaveExec",
    "LocalLimitExec",
    "NestedLoopJoinExec",
    "PlaceholderRowExec",
    "ProjectionExec",
    "RepartitionExec",
    "SortExec",
    "SortExec(TopK)",
    "SortMergeJoinExec",
    "SortPreservingMergeExec",
    "UnionExec",
    "UnnestExec",
];

/// Further ones of ours and of the stages.
const OTHER_NODES: [&str; 6] = [
    "OpenContent",
    "PartialSortExec",
    "ShuffleReaderExec",
    "ShuffleWriterExec",
    "SortShuffleWriterExec",
    "WindowAggExec",
];

/// Refuses `node` when it is not one that runs on executors. Its sources are not looked at.
pub(super) fn admit_node(node: &dyn ExecutionPlan) -> Result<()> {
    let name = node.name();
    match NODES.contains(&name) || OTHER_NODES.contains(&name) || name == "DataSourceExec" {
        true => Ok(()),
        false => exec_err!("{} does not run on a cluster: ask without --cluster", shown(name)),
    }
}

/// The files that a node reads, when it is a scan of Parquet files.
pub(super) fn scan(node: &dyn ExecutionPlan) -> Option<(&FileScanConfig, &ParquetSource)> {
    let scan = (node as &dyn Any).downcast_ref::<DataSourceExec>()?;
    let config = (scan.data_source().as_ref() as &dyn Any).downcast_ref::<FileScanConfig>()?;
    let source = (config.file_source().as_ref() as &dyn Any).downcast_ref::<ParquetSource>()?;
    Some((config, source))
}

/// Whether a scan reads files of the lake: parts in memory have numbers for names.
pub(super) fn reads_the_lake(config: &FileScanConfig) -> bool {
    let is_ours = |path: &str| path.ends_with(".parquet") && !path.split('/').any(|part| part == "..");
    let mut files = config.file_groups.iter().flat_map(|group| group.iter());
    files.all(|file| is_ours(file.object_meta.location.as_ref()))
}

/// `plan` as an executor runs it: it reads Parquet files from `store` and nothing else, with the lake's own readers.
pub(super) fn admitted(
    plan: Arc<dyn ExecutionPlan>,
    store: &Store,
    runtime: &RuntimeEnv,
) -> Result<Arc<dyn ExecutionPlan>> {
    let admitted = plan.transform_up(|node| {
        admit_node(node.as_ref())?;
        let Some((config, source)) = scan(node.as_ref()) else { return admit_rows(node) };
        if config.object_store_url != ObjectStoreUrl::local_filesystem() {
            return exec_err!("a plan reads from {}", shown(config.object_store_url.as_str()));
        }
        if !reads_the_lake(config) {
            return exec_err!("a plan reads files that are none of the lake's tables");
        }
        let source = reading(source.clone(), store, runtime);
        let config = FileScanConfigBuilder::from(config.clone()).with_source(Arc::new(source)).build();
        Ok(Transformed::yes(DataSourceExec::from_data_source(config) as Arc<dyn ExecutionPlan>))
    });
    Ok(admitted?.data)
}

/// A node that is no scan of Parquet files; of sources only rows that came with the plan.
fn admit_rows(node: Arc<dyn ExecutionPlan>) -> Result<Transformed<Arc<dyn ExecutionPlan>>> {
    if let Some(source) = (node.as_ref() as &dyn Any).downcast_ref::<DataSourceExec>()
        && !(source.data_source().as_ref() as &dyn Any).is::<MemorySourceConfig>()
    {
        return exec_err!("a plan reads something else than Parquet files");
    }
    Ok(Transformed::no(node))
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::datatypes::{DataType, Field, Schema};
    use datafusion::datasource::listing::PartitionedFile;
    use datafusion::datasource::physical_plan::{CsvSource, FileSource};
    use datafusion::physical_plan::analyze::AnalyzeExec;
    use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;

    fn reads(url: &str, path: &str, source: Arc<dyn FileSource>) -> Arc<dyn ExecutionPlan> {
        let url = ObjectStoreUrl::parse(url).unwrap();
        let file = PartitionedFile::new(path.to_owned(), 10);
        let config = FileScanConfigBuilder::new(url, source).with_file(file).build();
        DataSourceExec::from_data_source(config)
    }

    #[test]
    fn only_what_reads_the_lakes_files_runs() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::create(dir.path().to_str().unwrap()).unwrap();
        let runtime = RuntimeEnv::default();
        let schema = Arc::new(Schema::new(vec![Field::new("a", DataType::Int64, true)]));
        let parquet = || Arc::new(ParquetSource::new(schema.clone()));
        let ours = || reads("file:///", "tables/sql/dt=2026-11-01/hh=00/a.parquet", parquet());
        let above = |plan| Arc::new(CoalescePartitionsExec::new(plan)) as Arc<dyn ExecutionPlan>;
        let run = |plan| admitted(plan, &store, &runtime);
        let rebuilt = run(above(ours())).unwrap();
        let (_, source) = scan(rebuilt.children()[0].as_ref()).unwrap();
        assert!(source.parquet_file_reader_factory().is_some(), "it reads with the lake's readers");
        let csv = Arc::new(CsvSource::new(schema.clone()));
        let analyze = AnalyzeExec::builder(false, false, ours(), schema.clone()).build();
        for (plan, expected) in [
            (reads("file:///", "keys/019a3f2c", parquet()), "none of the lake's tables"),
            (reads("s3://elsewhere", "tables/a.parquet", parquet()), "reads from s3://elsewhere"),
            (reads("file:///", "tables/a.parquet", csv), "something else than Parquet"),
            (Arc::new(analyze) as Arc<dyn ExecutionPlan>, "AnalyzeExec does not run"),
        ] {
            let said = run(above(plan)).unwrap_err().to_string();
            assert!(said.contains(expected), "{said}");
        }
    }
}
