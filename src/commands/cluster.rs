//! `bodycam cluster …`, and `--cluster` of the commands that ask the lake.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Result;
use bodycam_analyzer::engine::Elsewhere;

use crate::cli::Cluster;
use crate::config::Config;

/// Without the engine there is no cluster to ask, and none to be.
#[cfg(not(feature = "cluster"))]
const NOT_BUILT_IN: &str = "this bodycam was built without the cluster engine: build it with \
                            `cargo build --release --features cluster`";

/// Runs a process of a cluster.
#[cfg(not(feature = "cluster"))]
pub fn run(_: Cluster) -> Result<ExitCode> {
    anyhow::bail!(NOT_BUILT_IN)
}

/// The cluster that `--cluster` names.
#[cfg(not(feature = "cluster"))]
pub fn elsewhere(url: Option<&str>, _: Option<&Config>) -> Result<Option<Arc<dyn Elsewhere>>> {
    anyhow::ensure!(url.is_none(), NOT_BUILT_IN);
    Ok(None)
}

#[cfg(feature = "cluster")]
pub use built_in::{elsewhere, run};

#[cfg(feature = "cluster")]
mod built_in {
    use anyhow::Context;
    use bodycam_analyzer::ClusterConfig;
    use bodycam_analyzer::cluster::{self, Client, Executor, Tls};

    use super::*;
    use crate::commands::service::init_logging;

    /// Stack of a thread. Address space only: plans are walked by recursion.
    const STACK_BYTES: usize = 64 << 20;

    pub fn run(command: Cluster) -> Result<ExitCode> {
        init_logging();
        match command {
            Cluster::Scheduler(arg) => {
                let config = Config::load(&arg.config)?.cluster;
                let tls = tls(&config)?;
                let ready = |address| tracing::info!(event = "cluster.scheduler_ready", %address);
                runtime()?.block_on(cluster::run_scheduler(config.listen, tls, ready, stopped()))?;
                tracing::info!(event = "cluster.scheduler_stopped");
            }
            Cluster::Executor { tenant_key, config } => {
                let config = Config::load(&config.config)?;
                let reference = tenant_key.unwrap_or_else(|| config.gateway.tenant_key.clone());
                let tenant = match reference.as_str() {
                    "none" => None,
                    reference => Some(crate::tenant_key::load(reference, false)?),
                };
                let executor = Executor {
                    store: config.lake.open()?,
                    tenant,
                    tls: tls(&config.cluster)?,
                    config: config.cluster,
                };
                let (listen, scheduler) =
                    (executor.config.executor_listen, executor.config.scheduler.clone());
                tracing::info!(event = "cluster.executor_starting", %listen, %scheduler);
                runtime()?.block_on(cluster::run_executor(executor))?;
                tracing::info!(event = "cluster.executor_stopped");
            }
        }
        Ok(ExitCode::SUCCESS)
    }

    /// Ends at SIGINT or SIGTERM.
    async fn stopped() {
        match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
            Ok(mut terminate) => {
                tokio::select! {
                    _ = tokio::signal::ctrl_c() => {}
                    _ = terminate.recv() => {}
                }
            }
            Err(_) => drop(tokio::signal::ctrl_c().await),
        }
    }

    pub fn elsewhere(url: Option<&str>, config: Option<&Config>) -> Result<Option<Arc<dyn Elsewhere>>> {
        let Some(url) = url else { return Ok(None) };
        let default = ClusterConfig::default();
        let config = config.map_or(&default, |config| &config.cluster);
        let client = Client::new(url, tls(config)?, usize::from(config.partitions))?;
        Ok(Some(Arc::new(client)))
    }

    fn tls(config: &ClusterConfig) -> Result<Option<Tls>> {
        let Some(tls) = &config.tls else { return Ok(None) };
        let read = |setting: &str, path: &std::path::Path| {
            std::fs::read(path)
                .with_context(|| format!("[cluster.tls] {setting}: cannot read {}", path.display()))
        };
        let key = crate::reference::read(&tls.key).context("[cluster.tls] key")?;
        let (ca, certificate) = (read("ca", &tls.ca)?, read("certificate", &tls.certificate)?);
        Ok(Some(Tls::new(&ca, &certificate, key.as_bytes(), tls.name.clone())))
    }

    fn runtime() -> Result<tokio::runtime::Runtime> {
        tokio::runtime::Builder::new_multi_thread()
            .thread_stack_size(STACK_BYTES)
            .enable_all()
            .build()
            .context("cannot start the async runtime")
    }
}
