//! The scheduler: takes plans, cuts them into stages, hands those to executors that ask for work. It reads no file and
//! holds no key.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

use ballista_core::config::TaskSchedulingPolicy;
use ballista_core::extension::SessionConfigExt;
use ballista_core::serde::protobuf::scheduler_grpc_server::SchedulerGrpcServer;
use ballista_core::utils::{GrpcServerConfig, create_grpc_server};
use ballista_scheduler::cluster::BallistaCluster;
use ballista_scheduler::config::SchedulerConfig;
use ballista_scheduler::scheduler_process::create_scheduler;
use bodycam_record::shown;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::prelude::SessionConfig;
use datafusion_proto::protobuf::{LogicalPlanNode, PhysicalPlanNode};
use object_store::memory::InMemory;

use super::codec::Codec;
use super::{MESSAGE_BYTES, Tls};
use crate::engine::functions_of_plans;
use crate::error::AnalyzerError;

/// An executor that has not asked for work for so long is gone: it asks at least every 5 s.
const EXECUTOR_TIMEOUT_SECONDS: u64 = 20;
const LOOK_FOR_DEAD_SECONDS: u64 = 3;
/// How long rows are kept that no client has fetched and let go of.
const KEEP_ROWS_SECONDS: u64 = 600;

/// Runs a scheduler on `listen` until `stopped` is over. `ready` is told the address.
pub async fn run(
    listen: SocketAddr,
    tls: Option<Tls>,
    ready: impl FnOnce(SocketAddr),
    stopped: impl Future<Output = ()>,
) -> Result<(), AnalyzerError> {
    let failed = |what: &str, err: &dyn std::fmt::Display| {
        AnalyzerError::Cluster(format!("{what}: {}", shown(&err.to_string())))
    };
    let runtime = runtime().map_err(|err| failed("setting up the scheduler", &err))?;
    let functions = functions_of_plans(usize::MAX, None);
    let session = move |config: SessionConfig| {
        let builder = SessionStateBuilder::new_with_default_features()
            .with_config(config)
            .with_runtime_env(Arc::clone(&runtime));
        let mut state = builder.build();
        for function in &functions {
            datafusion::execution::FunctionRegistry::register_udf(&mut state, Arc::clone(function))?;
        }
        Ok(state)
    };
    let bytes = u32::try_from(MESSAGE_BYTES).unwrap_or(u32::MAX);
    let config = SchedulerConfig {
        external_host: listen.ip().to_string(),
        bind_host: listen.ip().to_string(),
        bind_port: listen.port(),
        // Executors ask: no process of the cluster but the scheduler and the givers of rows need be reachable.
        scheduling_policy: TaskSchedulingPolicy::PullStaged,
        finished_job_data_clean_up_interval_seconds: KEEP_ROWS_SECONDS,
        finished_job_state_clean_up_interval_seconds: KEEP_ROWS_SECONDS,
        executor_timeout_seconds: EXECUTOR_TIMEOUT_SECONDS,
        expire_dead_executor_interval_seconds: LOOK_FOR_DEAD_SECONDS,
        no_executors_grace_period_seconds: EXECUTOR_TIMEOUT_SECONDS,
        grpc_server_max_decoding_message_size: bytes,
        grpc_server_max_encoding_message_size: bytes,
        grpc_client_max_message_size: bytes,
        override_physical_codec: Some(Arc::new(Codec::default())),
        override_session_builder: Some(Arc::new(session)),
        override_config_producer: Some(Arc::new(SessionConfig::new_with_ballista)),
        ..SchedulerConfig::default()
    };
    let config = Arc::new(config);
    let cluster = BallistaCluster::new_from_config(&config).await;
    let cluster = cluster.map_err(|err| failed("setting up the scheduler", &err))?;
    let scheduler = create_scheduler::<LogicalPlanNode, PhysicalPlanNode>(cluster, config).await;
    let scheduler = scheduler.map_err(|err| failed("setting up the scheduler", &err))?;
    let service = SchedulerGrpcServer::new(scheduler)
        .max_decoding_message_size(MESSAGE_BYTES)
        .max_encoding_message_size(MESSAGE_BYTES);
    let mut server = create_grpc_server(&GrpcServerConfig::default());
    if let Some(tls) = tls {
        server = server.tls_config(tls.server()).map_err(|err| failed("[cluster.tls]", &err))?;
    }
    let incoming = tonic::transport::server::TcpIncoming::bind(listen)
        .map_err(|err| failed(&format!("cannot listen on {listen}"), &err))?
        .with_nodelay(Some(true));
    ready(incoming.local_addr().unwrap_or(listen));
    let served = server.add_service(service).serve_with_incoming_shutdown(incoming, stopped).await;
    served.map_err(|err| failed("the scheduler ended", &err))
}

/// What plans are looked at with: the store of their files is known by name and holds nothing.
fn runtime() -> datafusion::common::Result<Arc<RuntimeEnv>> {
    let runtime = RuntimeEnvBuilder::new()
        .with_object_list_cache_limit(0)
        .with_disk_manager_builder(DiskManagerBuilder::default().with_mode(DiskManagerMode::Disabled))
        .build_arc()?;
    runtime.register_object_store(ObjectStoreUrl::local_filesystem().as_ref(), Arc::new(InMemory::new()));
    Ok(runtime)
}
