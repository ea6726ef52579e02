//! DataFusion over a lake as of one moment. This is the only file that builds a `SessionContext`.
//!
//! Invariant: a context reads the files that commits and window records name and nothing else. It is made for
//! one statement or one evaluation and sees one moment of the lake; there is no listing cache to go stale,
//! and nothing is spilled, so clear content never reaches a disk.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};

use arrow::array::RecordBatch;
use async_trait::async_trait;
use bodycam_lake::{FileEntry, Store, Table, View};
use bodycam_record::TenantKey;
use datafusion::catalog::{CatalogProvider, MemoryCatalogProvider};
use datafusion::datasource::TableProvider;
use datafusion::error::DataFusionError;
use datafusion::execution::context::SessionContext;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::GreedyMemoryPool;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::execution::{FunctionRegistry, SendableRecordBatchStream};
use datafusion::logical_expr::LogicalPlan;
use datafusion::optimizer::{Optimizer, OptimizerRule};
use datafusion::physical_optimizer::optimizer::PhysicalOptimizer;
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use datafusion::prelude::SessionConfig;
use futures::TryStreamExt;

use crate::error::AnalyzerError;

mod bounded;
mod catalog;
pub(crate) mod content;
pub(crate) mod files;
pub(crate) mod functions;
mod parts;
mod pool;
mod principals;
mod pushdown;

pub use catalog::{Bounds, tables};
pub(crate) use parts::{Part, PartsTable};
pub(crate) use pool::{Job, last_panic, spawn};

pub(crate) use catalog::{HOURLY_DESTINATIONS, HOURLY_PULLS, families_of, timestamp};

use bounded::{BoundEverything, Budget, bounded};
use catalog::{LakeSchema, Rows};

/// Memory for parsed Parquet footers, kept between queries.
const METADATA_CACHE: usize = 64 << 20;
/// Rows in a batch.
const BATCH_ROWS: usize = 8192;
/// Rules of the physical optimizer without which a plan does not run, or goes unchecked; the others make it faster.
const NEEDED_RULES: [&str; 4] =
    ["OutputRequirements", "EnsureRequirements", "OptimizeAggregateOrder", "SanityCheckPlan"];

/// What makes a plan better.
pub type Rule = Arc<dyn OptimizerRule + Send + Sync>;

/// Where plans run that the engine makes but does not run itself.
#[async_trait]
pub trait Elsewhere: std::fmt::Debug + Send + Sync {
    /// The settings with which plans for it are made.
    fn settings(&self, config: SessionConfig) -> SessionConfig;

    /// The rules by which plans for it are made better, of those that are used here.
    fn rules(&self, here: Vec<Rule>) -> Vec<Rule>;

    /// Runs `plan` and gives its rows. `context` is for those parts that run here.
    async fn run(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        context: &SessionContext,
    ) -> Result<SendableRecordBatchStream, DataFusionError>;

    /// Stops what nobody waits for any more.
    async fn settle(&self);
}

/// Queries over one store.
#[derive(Clone)]
pub struct Engine {
    runtime: Arc<RuntimeEnv>,
    elsewhere: Option<Arc<dyn Elsewhere>>,
    threads: usize,
    /// How often the optimizer goes over a plan.
    passes: usize,
}

/// What a query may use and see.
#[derive(Clone)]
pub struct Scope {
    schema: LakeSchema,
    memory_bytes: usize,
    window_ns: Option<i64>,
}

impl Engine {
    /// An engine that reads from `store`.
    pub fn new(store: &Store) -> Result<Self, AnalyzerError> {
        let engine = Self { threads: pool::threads(), passes: 3, ..Self::without_store()? };
        engine
            .runtime
            .register_object_store(ObjectStoreUrl::local_filesystem().as_ref(), store.object_store());
        Ok(engine)
    }

    /// An engine for a few rows that are in memory. Without a store it can read no file at all.
    pub fn without_store() -> Result<Self, AnalyzerError> {
        let runtime = RuntimeEnvBuilder::new()
            .with_object_list_cache_limit(0)
            .with_metadata_cache_limit(METADATA_CACHE)
            .with_disk_manager_builder(DiskManagerBuilder::default().with_mode(DiskManagerMode::Disabled))
            .build_arc()
            .map_err(|err| AnalyzerError::sql("setting up the query engine", err))?;
        runtime
            .deregister_object_store(ObjectStoreUrl::local_filesystem().as_ref())
            .map_err(|err| AnalyzerError::sql("setting up the query engine", err))?;
        // Planning takes longer than a few rows do.
        Ok(Self { runtime, elsewhere: None, threads: 1, passes: 1 })
    }

    /// The same, whose plans run `elsewhere`; here without one.
    pub fn running(self, elsewhere: Option<Arc<dyn Elsewhere>>) -> Self {
        Self { elsewhere, ..self }
    }

    /// What plans run in.
    #[cfg(feature = "cluster")]
    pub(crate) fn runtime(&self) -> &Arc<RuntimeEnv> {
        &self.runtime
    }

    /// Runs a plan of `context`.
    pub(crate) async fn run(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        context: &SessionContext,
    ) -> Result<SendableRecordBatchStream, DataFusionError> {
        match &self.elsewhere {
            Some(elsewhere) => elsewhere.run(plan, context).await,
            None => execute_stream(plan, context.task_ctx()),
        }
    }

    /// Runs a plan of `context` to its end.
    pub(crate) async fn collect(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        context: &SessionContext,
    ) -> Result<Vec<RecordBatch>, DataFusionError> {
        self.run(plan, context).await?.try_collect().await
    }

    /// A context over `scope`, with a memory pool of its own.
    pub fn context(&self, scope: &Scope) -> Result<SessionContext, AnalyzerError> {
        let runtime = RuntimeEnv {
            memory_pool: Arc::new(GreedyMemoryPool::new(scope.memory_bytes)),
            ..self.runtime.as_ref().clone()
        };
        let budget = Arc::new(Budget::new(scope.memory_bytes, BATCH_ROWS));
        let mut config = SessionConfig::new()
            .with_extension(Arc::clone(&budget))
            .with_target_partitions(self.threads)
            .with_batch_size(BATCH_ROWS)
            .with_information_schema(true)
            .with_default_catalog_and_schema("lake", "public")
            .with_create_default_catalog_and_schema(false)
            .with_collect_statistics(false);
        config.options_mut().optimizer.max_passes = self.passes;
        let parquet = &mut config.options_mut().execution.parquet;
        parquet.enable_page_index = true;
        parquet.bloom_filter_on_read = true;
        parquet.pruning = true;
        config.options_mut().sql_parser.map_string_types_to_utf8view = false;
        if let Some(elsewhere) = &self.elsewhere {
            config = elsewhere.settings(config);
        }
        let mut builder = SessionStateBuilder::new_with_default_features()
            .with_config(config)
            .with_runtime_env(Arc::new(runtime));
        if self.passes == 1 {
            let needed = |name: &str| NEEDED_RULES.contains(&name);
            let rules = PhysicalOptimizer::new().rules.into_iter().filter(|rule| needed(rule.name()));
            builder = builder.with_physical_optimizer_rules(rules.collect());
        }
        if let Some(elsewhere) = &self.elsewhere {
            builder = builder.with_optimizer_rules(elsewhere.rules(Optimizer::new().rules));
        }
        let failed = |err| AnalyzerError::sql("setting up the query engine", err);
        let mut state = builder.build();
        let functions: Vec<_> = state.scalar_functions().values().cloned().collect();
        for function in functions {
            state.register_udf(bounded(function, &budget)).map_err(failed)?;
        }
        // Those that the parser writes for operators and literals, and those that the optimizer brings.
        state.register_function_rewrite(Arc::new(BoundEverything(budget))).map_err(failed)?;
        let context = SessionContext::new_with_state(state);
        let catalog = MemoryCatalogProvider::new();
        catalog.register_schema("public", Arc::new(scope.schema.clone())).map_err(failed)?;
        context.register_catalog("lake", Arc::new(catalog));
        for form in [functions::IdForm::Hex, functions::IdForm::Uuid] {
            context.register_udf(functions::id_text(form));
        }
        if let Some(tenant) = &scope.schema.tenant {
            functions::pseudonyms(Some(tenant)).into_iter().for_each(|f| context.register_udf(f));
        }
        if let Some(window_ns) = scope.window_ns {
            context.register_udf(functions::window_of(window_ns));
        }
        Ok(context)
    }
}

impl Scope {
    /// Everything in a lake as of one moment; `findings` are the files that window records name.
    pub fn lake(view: View, findings: Vec<Arc<FileEntry>>, memory_bytes: usize) -> Self {
        Self::of(Rows::Lake { view, findings }, memory_bytes)
    }

    /// Batches of the lake's tables.
    pub fn memory(batches: BTreeMap<Table, Vec<RecordBatch>>, memory_bytes: usize) -> Self {
        Self::of(Rows::Memory(batches), memory_bytes)
    }

    fn of(rows: Rows, memory_bytes: usize) -> Self {
        let schema =
            LakeSchema { rows, bounds: None, tenant: None, extra: BTreeMap::new(), steps: Arc::default() };
        Self { schema, memory_bytes, window_ns: None }
    }

    /// Most memory that a query may use.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.memory_bytes
    }

    /// Only what lies in `bounds`.
    pub fn within(mut self, bounds: Bounds) -> Self {
        self.schema.bounds = Some(bounds);
        self
    }

    /// With the function `window_of` for windows of this length.
    pub fn with_window(mut self, window_ns: i64) -> Self {
        self.window_ns = Some(window_ns);
        self
    }

    /// With the key that opens content.
    pub fn with_tenant(mut self, tenant: Option<TenantKey>) -> Self {
        self.schema.tenant = tenant;
        self
    }

    /// Adds the result of a step: contexts of this scope see it from now on.
    pub(crate) fn add_step(&self, name: &str, table: Arc<dyn TableProvider>) {
        let mut steps = self.schema.steps.write().unwrap_or_else(PoisonError::into_inner);
        steps.insert(name.to_owned(), table);
    }

    /// With one more table, or one in the place of a table of the lake.
    pub fn with_table(mut self, name: &str, table: Arc<dyn TableProvider>) -> Self {
        self.schema.extra.insert(name.to_owned(), table);
        self
    }
}

/// Every scalar function that a plan of an engine may name, held to `memory_bytes`. Those that need the tenant key fail
/// without it when they are called.
#[cfg(feature = "cluster")]
pub(crate) fn functions_of_plans(
    memory_bytes: usize,
    tenant: Option<&TenantKey>,
) -> Vec<Arc<datafusion::logical_expr::ScalarUDF>> {
    let budget = Arc::new(Budget::new(memory_bytes, BATCH_ROWS));
    // A plan that has come over the wire is made.
    budget.plans(false);
    let state = SessionStateBuilder::new_with_default_features().build();
    let default = state.scalar_functions().values().cloned();
    default.chain(functions::of_plans(tenant)).map(|function| bounded(function, &budget)).collect()
}

/// What runs `plan`. While it is made, values that are written into it are held to a batch's share of the memory.
pub(crate) async fn physical(
    context: &SessionContext,
    plan: &LogicalPlan,
) -> Result<Arc<dyn ExecutionPlan>, DataFusionError> {
    plans(context, true);
    let physical = context.state().create_physical_plan(plan).await;
    plans(context, false);
    physical
}

/// Says whether a plan is in the making, or runs.
pub(crate) fn plans(context: &SessionContext, now: bool) {
    if let Some(budget) = context.state().config().get_extension::<Budget>() {
        budget.plans(now);
    }
}
