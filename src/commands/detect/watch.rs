//! Detection that goes on, beside a gateway or in a process of its own.
//!
//! Invariant: nothing in a lake ends it. What fails is tried again, and a panic is an error like another. What it finds is
//! told first to whoever started it, then to Kafka's topic of findings where there is one.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use bodycam_analyzer::detect::{self, DetectOptions, Metrics, Summary};
use bodycam_analyzer::findings::News;
use bodycam_bus::kafka::{FindingsTopic, Kafka};
use bodycam_proxy::admin::{self, Admin};
use tokio::sync::watch;

use super::super::service::{Signals, init_logging};
use super::super::{LakeAt, lake_at, runtime};
use crate::cli::LakeArg;

/// Who is told what was found.
pub type Tell = Arc<dyn Fn(&News) + Send + Sync>;

/// Detection that is about to go on.
pub struct Watching {
    options: DetectOptions,
    topic: Option<Arc<FindingsTopic>>,
    tell: Tell,
}

impl Watching {
    /// Detection on a lake; with Kafka, its topic is told as well.
    pub fn new(options: DetectOptions, kafka: Option<&Kafka>, tell: Tell) -> Result<Self> {
        let topic = kafka.map(FindingsTopic::open).transpose()?.map(Arc::new);
        Ok(Self { options, topic, tell })
    }

    /// Looks, evaluates and tells until it is stopped.
    pub async fn run(self, mut stopped: watch::Receiver<bool>) -> Summary {
        let every = Duration::from_secs(self.options.config.interval_seconds);
        loop {
            let options = self.options.clone();
            let (mut inner, tell, topic) = (stopped.clone(), Arc::clone(&self.tell), self.topic.clone());
            let metrics = Arc::clone(&options.metrics);
            // A task of its own, so that a panic ends no more than that.
            let watching = tokio::spawn(async move {
                let shutdown = async move { drop(inner.wait_for(|stop| *stop).await) };
                let mut told = |news: &News| {
                    tell(news);
                    if let Some(topic) = &topic
                        && let Err(error) = topic.send(&news.id().to_string(), &news.to_json())
                    {
                        metrics.not_sent();
                        tracing::error!(event = "finding_not_sent", finding = %news.id(), error = %error, "the lake has it, the topic may not");
                    }
                };
                detect::watch(options, &mut told, shutdown).await
            });
            let error = match watching.await {
                Ok(summary) => return summary,
                Err(error) => error,
            };
            self.options.metrics.looked(None);
            tracing::error!(
                event = "detect.panicked",
                panicked = error.is_panic(),
                "detection is started again"
            );
            tokio::select! {
                _ = stopped.wait_for(|stop| *stop) => return Summary::default(),
                () = tokio::time::sleep(every) => {}
            }
        }
    }
}

/// `bodycam detect watch`: until SIGTERM, SIGINT or SIGHUP.
pub fn run(json: bool, cluster: Option<&str>, lake: &LakeArg) -> Result<ExitCode> {
    let at = lake_at(lake)?;
    let listen = at.config.as_ref().and_then(|config| config.admin.detect_listen);
    let kafka = at.config.as_ref().map(|config| config.kafka()).transpose()?.flatten();
    let options = at.detect_options(cluster)?;
    init_logging();
    let runtime = runtime()?;
    // Before anything is opened: a signal during the start stops in order, too.
    let mut signals = Signals::listen(&runtime)?;
    // A rule that does not hold together is said at once; what fails later is tried again.
    runtime.block_on(detect::ls(&options.config))?;
    let probe = Arc::new(Probe(Arc::clone(&options.metrics)));
    let watching = Watching::new(options, kafka.as_ref(), Arc::new(move |news| super::tell(news, json)))?;
    let admin = {
        let _guard = runtime.enter();
        listen.map(|listen| Admin::start(listen, probe)).transpose()?
    };
    if let Some(admin) = &admin {
        tracing::info!(event = "serving", admin = %admin.address(), "started");
    }
    let summary = runtime.block_on(async {
        let (stop, stopped) = watch::channel(false);
        let mut running = std::pin::pin!(watching.run(stopped));
        tokio::select! {
            summary = &mut running => return summary,
            () = signals.stop_or_hangup() => {}
        }
        admin.iter().for_each(Admin::draining);
        stop.send_replace(true);
        running.await
    });
    super::conclude(&summary, json);
    Ok(ExitCode::SUCCESS)
}

impl LakeAt {
    /// What detection needs, with the settings of the configuration where there is one; on the cluster that is named.
    pub(super) fn detect_options(self, cluster: Option<&str>) -> Result<DetectOptions> {
        let LakeAt { lake, config, tenant_key } = self;
        let elsewhere = super::super::cluster::elsewhere(cluster, config.as_ref())?;
        Ok(DetectOptions { elsewhere, ..super::options(&config.unwrap_or_default(), &lake, tenant_key)? })
    }
}

/// What the admin listener asks of detection that runs alone.
struct Probe(Arc<Metrics>);

impl admin::Probe for Probe {
    fn ready(&self) -> Result<(), String> {
        self.0.ready().map_err(str::to_owned)
    }

    fn note(&self) -> Option<String> {
        self.0.is_failing().then(|| "rules fail again and again: see the log".to_owned())
    }

    fn metrics(&self) -> String {
        self.0.prometheus()
    }
}
