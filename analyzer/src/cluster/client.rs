//! Sends plans to a scheduler and gives their rows.
//!
//! Invariant: what is sent gives the rows that it gives here. What a cluster would compute otherwise is brought into a
//! shape that it computes rightly, or refused.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use ballista_core::client::BallistaClient;
use ballista_core::extension::{BallistaConfigGrpcEndpoint, SessionConfigExt};
use ballista_core::optimizer::with_ballista_optimizer_rules;
use ballista_core::serde::protobuf::execute_query_params::Query;
use ballista_core::serde::protobuf::execute_query_result;
use ballista_core::serde::protobuf::job_status::Status;
use ballista_core::serde::protobuf::scheduler_grpc_client::SchedulerGrpcClient;
use ballista_core::serde::protobuf::{
    CancelJobParams, CleanJobDataParams, ExecuteQueryParams, GetJobStatusParams, KeyValuePair,
    PartitionLocation, RemoveSessionParams, SuccessfulJob,
};
use ballista_core::utils::{GrpcClientConfig, create_grpc_client_endpoint};
use ballista_core::version;
use bodycam_record::shown;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{DataFusionError, JoinType, Result, exec_datafusion_err, exec_err};
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::datasource::source::DataSourceExec;
use datafusion::execution::context::SessionContext;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::joins::{HashJoinExec, NestedLoopJoinExec};
use datafusion::physical_plan::limit::GlobalLimitExec;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    ChildrenPropertiesMode, ExecutionPlan, ExecutionPlanProperties, ReplaceChildrenOptions, collect,
    execute_stream,
};
use datafusion::prelude::SessionConfig;
use datafusion_proto::physical_plan::AsExecutionPlan;
use datafusion_proto::protobuf::PhysicalPlanNode;
use futures::{StreamExt, TryStreamExt};
use tonic::transport::{Channel, Endpoint};

use super::admission::{admit_node, reads_the_lake, scan};
use super::codec::Codec;
use super::{MESSAGE_BYTES, Tls};
use crate::engine::{Elsewhere, Rule};
use crate::error::AnalyzerError;

/// Times between two questions after a job: it is short at first, so that short queries stay short.
const FIRST_WAIT: Duration = Duration::from_millis(10);
const LONGEST_WAIT: Duration = Duration::from_millis(250);
/// Longest time that a client waits for a connection, and in the end for the scheduler to hear that a job is over.
const CONNECT: Duration = Duration::from_secs(10);
const GOODBYE: Duration = Duration::from_secs(2);
/// How often reading rows is tried again, and after how long.
const FETCHES: u8 = 3;
const FETCH_AGAIN_MS: u64 = 500;
/// Most bytes of rows that travel with a plan.
const ROWS_WITH_PLAN: usize = 64 << 20;

type Scheduler = SchedulerGrpcClient<Channel>;

/// A cluster, as one that asks it.
#[derive(Debug, Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    endpoint: Endpoint,
    tls: Option<Tls>,
    partitions: usize,
    codec: Codec,
    /// Jobs that are not over, with their sessions.
    open: Mutex<BTreeMap<String, String>>,
    sessions: AtomicU64,
}

impl Client {
    /// The cluster whose scheduler is at `url`: `http://host:port`, or `https://host:port` with `tls`.
    pub fn new(url: &str, tls: Option<Tls>, partitions: usize) -> std::result::Result<Self, AnalyzerError> {
        let refuse = |why: &str| AnalyzerError::Cluster(format!("{}: {why}", shown(url)));
        let plain = match url.split_once("://").map(|(scheme, _)| scheme) {
            Some("http") => true,
            Some("https") => false,
            _ => return Err(refuse("want http://HOST:PORT or https://HOST:PORT")),
        };
        let endpoint = create_grpc_client_endpoint(url.to_owned(), Some(&GrpcClientConfig::default()))
            .map_err(|err| refuse(&format!("no address: {err}")))?;
        if endpoint.uri().port().is_none() || !matches!(endpoint.uri().path(), "" | "/") {
            return Err(refuse("want the host and port of a scheduler, and no path"));
        }
        let endpoint = match (plain, &tls) {
            (true, None) => endpoint,
            (false, Some(tls)) => tls.client(&endpoint).map_err(|err| refuse(&err.to_string()))?,
            (false, None) => {
                return Err(refuse("TLS needs certificates: add [cluster.tls] to the configuration"));
            }
            (true, Some(_)) => return Err(refuse("the configuration has [cluster.tls]: say https://")),
        };
        let endpoint = endpoint.connect_timeout(CONNECT);
        let inner = Inner {
            endpoint,
            tls,
            partitions: partitions.max(1),
            codec: Codec::default(),
            open: Mutex::default(),
            sessions: AtomicU64::new(0),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    async fn scheduler(&self) -> Result<Scheduler> {
        let channel = self.inner.endpoint.connect().await.map_err(|err| {
            let why = std::error::Error::source(&err).map_or_else(|| err.to_string(), ToString::to_string);
            exec_datafusion_err!("no scheduler answers at {}: {}", self.inner.endpoint.uri(), shown(&why))
        })?;
        let client = SchedulerGrpcClient::new(channel);
        Ok(client.max_decoding_message_size(MESSAGE_BYTES).max_encoding_message_size(MESSAGE_BYTES))
    }

    /// Sends a plan, waits until it has run, and gives where its rows are.
    async fn job(&self, plan: Arc<dyn ExecutionPlan>, context: &SessionContext) -> Result<(Scheduler, Job)> {
        let message = PhysicalPlanNode::try_from_physical_plan(plan, &self.inner.codec)
            .map_err(|err| err.context("the plan cannot be sent to a cluster"))?;
        let mut bytes = Vec::new();
        message.try_encode(&mut bytes)?;
        if bytes.len() > MESSAGE_BYTES {
            return exec_err!(
                "the plan has {} bytes, more than {MESSAGE_BYTES}: narrow the query",
                bytes.len()
            );
        }
        let mut scheduler = self.scheduler().await?;
        let n = self.inner.sessions.fetch_add(1, Ordering::Relaxed);
        let session_id = format!("{}-{n}", context.session_id());
        let options = context.state().config().options().entries();
        let settings = options.into_iter().map(|e| KeyValuePair { key: e.key, value: e.value }).collect();
        let query = ExecuteQueryParams {
            session_id: session_id.clone(),
            settings,
            operation_id: session_id.clone(),
            query: Some(Query::PhysicalPlan(bytes)),
        };
        let mut request = tonic::Request::new(query);
        version::insert_version_header(request.metadata_mut());
        let answer =
            scheduler.execute_query(request).await.map_err(|err| said("the scheduler refused", &err))?;
        let job_id = match answer.into_inner().result {
            Some(execute_query_result::Result::Success(started)) => started.job_id,
            other => return exec_err!("the scheduler refused: {}", shown(&format!("{other:?}"))),
        };
        self.open().insert(job_id.clone(), session_id.clone());
        let mut wait = FIRST_WAIT;
        loop {
            let asked = GetJobStatusParams { job_id: job_id.clone() };
            let status =
                scheduler.get_job_status(asked).await.map_err(|err| said("the scheduler is gone", &err))?;
            match status.into_inner().status.and_then(|status| status.status) {
                Some(Status::Successful(SuccessfulJob { partition_location, .. })) => {
                    return Ok((scheduler, Job { id: job_id, locations: partition_location }));
                }
                Some(Status::Failed(failed)) => {
                    self.close(&mut scheduler, &job_id, false).await;
                    return Err(failure(&failed.error));
                }
                Some(Status::Queued(_) | Status::Running(_)) | None => {}
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 3 / 2).min(LONGEST_WAIT);
        }
    }

    /// The rows at a place, from the executor that has them.
    async fn fetch(self, location: PartitionLocation) -> Result<SendableRecordBatchStream> {
        let layout = location.layout();
        let (Some(executor), Some(partition)) = (location.executor_meta, location.partition_id) else {
            return exec_err!("the scheduler does not say where rows are");
        };
        let Ok(port) = u16::try_from(executor.port) else {
            return exec_err!("an executor has the port {}", executor.port);
        };
        let tls =
            self.inner.tls.as_ref().map(|tls| Arc::new(BallistaConfigGrpcEndpoint::new(tls.endpoints())));
        let gone = |err| {
            let text = shown(&format!("{err}"));
            exec_datafusion_err!(
                "the executor at {}:{port} does not give its rows: {text}",
                shown(&executor.host)
            )
        };
        let with_tls = tls.is_some();
        let mut client = BallistaClient::try_new(
            &executor.host,
            port,
            MESSAGE_BYTES,
            with_tls,
            tls,
            FETCHES,
            FETCH_AGAIN_MS,
            0,
            0,
        )
        .await
        .map_err(gone)?;
        let id = &executor.id;
        client.fetch_partition(id, &partition.into(), location.file_id, layout, true).await.map_err(gone)
    }

    /// Lets go of a job: its rows are removed everywhere.
    async fn close(&self, scheduler: &mut Scheduler, job_id: &str, still_runs: bool) {
        let Some(session_id) = self.open().remove(job_id) else { return };
        let job_id = job_id.to_owned();
        let goodbye = async {
            if still_runs {
                scheduler.cancel_job(CancelJobParams { job_id: job_id.clone() }).await?;
            }
            scheduler
                .clean_job_data(CleanJobDataParams { job_id: job_id.clone(), remove_stage_ids: Vec::new() })
                .await?;
            scheduler.remove_session(RemoveSessionParams { session_id }).await
        };
        // The scheduler cleans up by itself, later.
        match tokio::time::timeout(GOODBYE, goodbye).await {
            Ok(Ok(_)) => {}
            Ok(Err(err)) => {
                tracing::debug!(event = "cluster.not_closed", job = %shown(&job_id), error = %shown(err.message()));
            }
            Err(_) => {
                tracing::debug!(event = "cluster.not_closed", job = %shown(&job_id), error = "no answer")
            }
        }
    }

    fn open(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, String>> {
        self.inner.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A job that has run.
struct Job {
    id: String,
    locations: Vec<PartitionLocation>,
}

#[async_trait]
impl Elsewhere for Client {
    fn settings(&self, config: SessionConfig) -> SessionConfig {
        let mut config = config.upgrade_for_ballista().with_target_partitions(self.inner.partitions);
        // As here. Ballista prefers joins of sorted rows, which could spill; nothing is spilled.
        config.options_mut().optimizer.prefer_hash_join = true;
        config
    }

    fn rules(&self, here: Vec<Rule>) -> Vec<Rule> {
        with_ballista_optimizer_rules(&here)
    }

    async fn run(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        context: &SessionContext,
    ) -> Result<SendableRecordBatchStream> {
        if !reads_files(&plan)? {
            // Nothing to share: EXPLAIN, SHOW, VALUES, what is known about tables, rows at hand.
            return execute_stream(plan, context.task_ctx());
        }
        let schema = plan.schema();
        let plan = sendable(plan, &context.task_ctx()).await?;
        let (scheduler, job) = self.job(plan, context).await?;
        let (client, id) = (self.clone(), job.id);
        let fetcher = self.clone();
        let rows = futures::stream::iter(job.locations)
            .then(move |location| fetcher.clone().fetch(location))
            .try_flatten()
            .boxed();
        let rows = futures::stream::try_unfold((rows, scheduler), move |(mut rows, mut scheduler)| {
            let (client, id) = (client.clone(), id.clone());
            async move {
                let next: Result<Option<RecordBatch>> = rows.try_next().await;
                if !matches!(next, Ok(Some(_))) {
                    client.close(&mut scheduler, &id, false).await;
                }
                Ok::<_, DataFusionError>(next?.map(|batch| (batch, (rows, scheduler))))
            }
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, rows)))
    }

    async fn settle(&self) {
        let jobs: Vec<String> = self.open().keys().cloned().collect();
        if jobs.is_empty() {
            return;
        }
        let Ok(Ok(mut scheduler)) = tokio::time::timeout(GOODBYE, self.scheduler()).await else { return };
        for job in jobs {
            self.close(&mut scheduler, &job, true).await;
        }
    }
}

fn said(what: &str, status: &tonic::Status) -> DataFusionError {
    exec_datafusion_err!("{what}: {}", shown(status.message()))
}

/// Why a job failed, without the names of the layers that repeat it.
fn failure(error: &str) -> DataFusionError {
    let text = error.lines().next().unwrap_or_default();
    exec_datafusion_err!("the cluster could not run it: {}", shown(text))
}

/// Whether some part of `plan` reads files of the lake.
fn reads_files(plan: &Arc<dyn ExecutionPlan>) -> Result<bool> {
    let mut found = plan.name() == "AnalyzeExec";
    plan.apply(|node| {
        found |= scan(node.as_ref()).is_some_and(|(config, _)| reads_the_lake(config));
        Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    Ok(found)
}

/// `plan` as it can be sent: what does not read the lake's files travels as rows.
async fn sendable(
    plan: Arc<dyn ExecutionPlan>,
    context: &Arc<TaskContext>,
) -> Result<Arc<dyn ExecutionPlan>> {
    let mut leaves: Vec<Arc<dyn ExecutionPlan>> = Vec::new();
    plan.apply(|node| {
        if travels_as_rows(node) {
            leaves.push(Arc::clone(node));
        } else {
            admit_node(node.as_ref())?;
            fits(node)?;
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    let mut rows = Vec::new();
    let mut bytes = 0usize;
    for leaf in leaves {
        let batches = collect(Arc::clone(&leaf), Arc::clone(context)).await?;
        bytes = batches.iter().map(RecordBatch::get_array_memory_size).fold(bytes, usize::saturating_add);
        if bytes > ROWS_WITH_PLAN {
            return exec_err!(
                "{bytes} bytes of rows that are no files of the lake would have to travel with the plan, more than \
                 {ROWS_WITH_PLAN}: ask without --cluster"
            );
        }
        let source = MemorySourceConfig::try_new(&[batches], leaf.schema(), None)?;
        let node: Arc<dyn ExecutionPlan> = DataSourceExec::from_data_source(source);
        rows.push(in_as_many_parts(node, &leaf)?);
    }
    let mut rows = rows.into_iter();
    let plan = plan.transform_up(|node| {
        if travels_as_rows(&node) {
            return match rows.next() {
                Some(rows) => Ok(Transformed::yes(rows)),
                None => exec_err!("a plan has changed while it was looked at"),
            };
        }
        whole_other_side(node)
    })?;
    Ok(plan.data)
}

/// Whether a node becomes rows on the client: a source that is not a file of the lake. Those that have no rows, or one
/// without columns, too: the scheduler gives some tasks something else in their place, and then does not recognise what
/// they report.
fn travels_as_rows(node: &Arc<dyn ExecutionPlan>) -> bool {
    let is_lake = scan(node.as_ref()).is_some_and(|(config, _)| reads_the_lake(config));
    node.children().is_empty() && !is_lake
}

/// `rows`, of one partition, with as many partitions as `leaf` has: the nodes above count on it.
fn in_as_many_parts(
    rows: Arc<dyn ExecutionPlan>,
    leaf: &Arc<dyn ExecutionPlan>,
) -> Result<Arc<dyn ExecutionPlan>> {
    let parts = leaf.output_partitioning().partition_count();
    if parts == 1 {
        return Ok(rows);
    }
    let batches = match (rows.as_ref() as &dyn std::any::Any).downcast_ref::<DataSourceExec>() {
        Some(source) => (source.data_source().as_ref() as &dyn std::any::Any)
            .downcast_ref::<MemorySourceConfig>()
            .map(|config| config.partitions().concat())
            .unwrap_or_default(),
        None => Vec::new(),
    };
    let mut partitions = vec![Vec::new(); parts];
    if let Some(first) = partitions.first_mut() {
        *first = batches;
    }
    let source = MemorySourceConfig::try_new(&partitions, rows.schema(), None)?;
    Ok(DataSourceExec::from_data_source(source))
}

/// Refuses what would give other rows: numbers that the encoding of plans cuts off, joins whose tasks would have to know
/// of one another.
fn fits(node: &Arc<dyn ExecutionPlan>) -> Result<()> {
    let skipped = node.downcast_ref::<GlobalLimitExec>().map(GlobalLimitExec::skip);
    if node.downcast_ref::<HashJoinExec>().is_some_and(|join| join.null_aware) {
        return exec_err!("this NOT IN does not run on a cluster: use NOT EXISTS, or ask without --cluster");
    }
    match [node.fetch(), skipped].into_iter().flatten().any(|n| u32::try_from(n).is_err()) {
        true => exec_err!("LIMIT and OFFSET of more than {} rows do not run on a cluster", u32::MAX),
        false => Ok(()),
    }
}

/// A nested-loop join that tells which rows of its left side had no partner, with the whole right side before one task:
/// several tasks, each with a part of it, would each tell their own.
fn whole_other_side(node: Arc<dyn ExecutionPlan>) -> Result<Transformed<Arc<dyn ExecutionPlan>>> {
    let Some(join) = node.downcast_ref::<NestedLoopJoinExec>() else { return Ok(Transformed::no(node)) };
    let of_the_left = matches!(
        join.join_type(),
        JoinType::Left | JoinType::LeftSemi | JoinType::LeftAnti | JoinType::LeftMark | JoinType::Full
    );
    if !of_the_left || join.right().output_partitioning().partition_count() == 1 {
        return Ok(Transformed::no(node));
    }
    let right = Arc::new(CoalescePartitionsExec::new(Arc::clone(join.right())));
    let left = Arc::clone(join.left());
    Ok(Transformed::yes(node.replace_children(
        vec![left, right],
        ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute),
    )?))
}
