//! An executor: asks the scheduler for work, runs it over the lake, keeps its rows until they are fetched.

use std::collections::HashMap;
use std::fs::{self, DirBuilder};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_flight::flight_service_server::FlightServiceServer;
use ballista_core::config::TaskSchedulingPolicy;
use ballista_core::error::BallistaError;
use ballista_core::extension::SessionConfigExt;
use ballista_core::registry::BallistaFunctionRegistry;
use ballista_core::utils::{GrpcServerConfig, create_grpc_server};
use ballista_core::{JobId, RuntimeProducer};
use ballista_executor::ArrowFlightServerProvider;
use ballista_executor::execution_engine::{DefaultExecutionEngine, ExecutionEngine, QueryStageExecutor};
use ballista_executor::executor_process::{ExecutorProcessConfig, start_executor_process};
use ballista_executor::flight_service::BallistaFlightService;
use ballista_executor::shutdown::Shutdown;
use bodycam_lake::Store;
use bodycam_record::{TenantKey, shown};
use datafusion::common::Result as DataFusionResult;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::prelude::SessionConfig;
use tonic::transport::server::TcpIncoming;

use super::admission::admitted;
use super::codec::Codec;
use super::{ClusterConfig, MESSAGE_BYTES, Tls};
use crate::engine::content::WrappedKeys;
use crate::engine::{Engine, functions_of_plans};
use crate::error::AnalyzerError;

/// How long an executor waits at its start for the scheduler.
const SCHEDULER_SECONDS: u16 = 60;
/// Rows of a job that nobody has touched for so long are removed, whatever became of the scheduler.
const KEEP_ROWS_SECONDS: u64 = 3600;

/// What an executor works with.
#[derive(Debug, Clone)]
pub struct Executor {
    /// `[cluster]`.
    pub config: ClusterConfig,
    /// The lake.
    pub store: Store,
    /// The key that opens content; without it, stages that need it fail.
    pub tenant: Option<TenantKey>,
    /// TLS, when it is configured.
    pub tls: Option<Tls>,
}

/// Runs an executor until SIGTERM or SIGINT: it then ends what it has begun.
pub async fn run(executor: Executor) -> Result<(), AnalyzerError> {
    let failed = |what: &str, err: &dyn std::fmt::Display| {
        AnalyzerError::Cluster(format!("{what}: {}", shown(&err.to_string())))
    };
    let Executor { config, store, tenant, tls } = executor;
    let (host, port) =
        config.host_and_port().ok_or_else(|| failed("[cluster] scheduler", &"want host:port"))?;
    let listen = config.executor_listen;
    let rows = rows_dir(&config.work_dir, listen.port())
        .map_err(|err| failed(&format!("[cluster] work_dir {}", config.work_dir.display()), &err))?;
    let memory = config.memory_mib.saturating_mul(1 << 20);
    let functions = functions_of_plans(usize::try_from(memory).unwrap_or(usize::MAX), tenant.as_ref());
    let functions: HashMap<_, _> = functions.into_iter().map(|f| (f.name().to_owned(), f)).collect();
    let runtime = Arc::clone(Engine::new(&store)?.runtime());
    let keys = tenant.map(|tenant| WrappedKeys { store: store.clone(), tenant });
    let bytes = u32::try_from(MESSAGE_BYTES).unwrap_or(u32::MAX);
    let engine = OverTheLake::new(store, Arc::clone(&runtime));
    let producer: RuntimeProducer = Arc::new(move |_| Ok(Arc::clone(&runtime)));
    let advertised = config.executor_host.clone().unwrap_or_else(|| listen.ip().to_string());
    let slots = match config.slots {
        0 => std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get),
        slots => usize::from(slots),
    };
    let with_tls = tls.is_some();
    let endpoints = tls.as_ref().map(Tls::endpoints);
    let producer_endpoints = endpoints.clone();
    let session = move || {
        let config = SessionConfig::new_with_ballista().with_ballista_use_tls(with_tls);
        match &producer_endpoints {
            Some(endpoints) => {
                config.with_ballista_override_create_grpc_client_endpoint(Arc::clone(endpoints))
            }
            None => config,
        }
    };
    let process = ExecutorProcessConfig {
        bind_host: listen.ip().to_string(),
        external_host: Some(advertised),
        port: listen.port(),
        scheduler_host: host.to_owned(),
        scheduler_port: port,
        scheduler_connect_timeout_seconds: SCHEDULER_SECONDS,
        vcores: slots,
        task_scheduling_policy: TaskSchedulingPolicy::PullStaged,
        work_dir: Some(rows.display().to_string()),
        job_data_ttl_seconds: KEEP_ROWS_SECONDS,
        job_data_clean_up_interval_seconds: KEEP_ROWS_SECONDS / 4,
        grpc_max_decoding_message_size: bytes,
        grpc_max_encoding_message_size: bytes,
        memory_pool_size: Some(memory),
        override_execution_engine: Some(Arc::new(engine)),
        override_function_registry: Some(Arc::new(BallistaFunctionRegistry {
            scalar_functions: functions,
            ..BallistaFunctionRegistry::default()
        })),
        override_runtime_producer: Some(producer),
        override_config_producer: Some(Arc::new(session)),
        override_physical_codec: Some(Arc::new(Codec::with_keys(keys))),
        override_arrow_flight_service: Some(giving_rows(tls)),
        override_create_grpc_client_endpoint: endpoints,
        ..ExecutorProcessConfig::default()
    };
    let ended = start_executor_process(Arc::new(process)).await;
    // Nothing but rows of queries is in it.
    let removed = fs::remove_dir_all(&rows);
    ended.map_err(|err| failed("the executor ended", &err))?;
    removed.map_err(|err| failed(&format!("cannot remove {}", rows.display()), &err))
}

/// A directory of its own for the rows of an executor, empty and closed to others.
fn rows_dir(work_dir: &Path, port: u16) -> io::Result<PathBuf> {
    fs::create_dir_all(work_dir)?;
    let rows = work_dir.join(format!("rows-{port}"));
    match fs::remove_dir_all(&rows) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => return Err(err),
        _ => {}
    }
    DirBuilder::new().mode(0o700).create(&rows)?;
    rows.canonicalize()
}

/// The server that gives rows to other executors and to clients.
fn giving_rows(tls: Option<Tls>) -> Arc<ArrowFlightServerProvider> {
    Arc::new(move |work_dir: String, address: SocketAddr, mut stop: Shutdown, config: GrpcServerConfig| {
        let tls = tls.clone();
        tokio::spawn(async move {
            let service = FlightServiceServer::new(BallistaFlightService::new(work_dir))
                .max_decoding_message_size(MESSAGE_BYTES)
                .max_encoding_message_size(MESSAGE_BYTES);
            let mut server = create_grpc_server(&config);
            if let Some(tls) = tls {
                server = server.tls_config(tls.server())?;
            }
            let incoming =
                TcpIncoming::bind(address).map_err(BallistaError::IoError)?.with_nodelay(Some(true));
            server.add_service(service).serve_with_incoming_shutdown(incoming, stop.recv()).await?;
            Ok(())
        })
    })
}

/// Runs stages that read the lake, and no others.
struct OverTheLake {
    store: Store,
    runtime: Arc<RuntimeEnv>,
    ballista: DefaultExecutionEngine,
}

impl OverTheLake {
    fn new(store: Store, runtime: Arc<RuntimeEnv>) -> Self {
        Self { store, runtime, ballista: DefaultExecutionEngine::new() }
    }
}

impl ExecutionEngine for OverTheLake {
    fn create_query_stage_exec(
        &self,
        job_id: JobId,
        stage_id: usize,
        task_id: usize,
        global_output_partition_ids: Vec<usize>,
        plan: Arc<dyn ExecutionPlan>,
        work_dir: &str,
        config: &SessionConfig,
    ) -> DataFusionResult<Arc<dyn QueryStageExecutor>> {
        let plan = admitted(plan, &self.store, &self.runtime)?;
        self.ballista.create_query_stage_exec(
            job_id,
            stage_id,
            task_id,
            global_output_partition_ids,
            plan,
            work_dir,
            config,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn rows_of_another_life_are_gone_and_other_files_stay() {
        let dir = tempfile::tempdir().unwrap();
        let work = dir.path().join("deep/cluster");
        let rows = rows_dir(&work, 7).unwrap();
        fs::write(rows.join("left"), "rows").unwrap();
        fs::write(work.join("mine"), "stays").unwrap();
        assert_eq!(rows_dir(&work, 7).unwrap(), rows);
        assert_eq!(fs::read_dir(&rows).unwrap().count(), 0);
        assert_eq!(rows.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        assert!(work.join("mine").exists());
    }
}
