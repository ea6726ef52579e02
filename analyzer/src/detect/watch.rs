//! Detection that goes on: cheap looks for new commits, and an evaluation when there are some or when time has passed.

use std::future::Future;
use std::pin::pin;
use std::time::{Duration, Instant};

use super::{DetectOptions, Detector, Listener, Summary};
use crate::error::AnalyzerError;

/// Between two looks for new commits.
const LOOK: Duration = Duration::from_millis(500);
/// So many times as long as the last evaluation took, nothing is evaluated: under load detection takes a quarter of
/// the time.
const REST: u32 = 3;

/// Evaluates what is due again and again, until `shutdown`; the evaluation that is under way then is finished, and what
/// was claimed is left to others. Whatever fails, the opening included, is tried again.
pub async fn watch(
    options: DetectOptions,
    listener: Listener<'_>,
    shutdown: impl Future<Output = ()> + Send,
) -> Summary {
    let every = Duration::from_secs(options.config.interval_seconds.max(1));
    let mut detector = None;
    let mut total = Summary::default();
    let mut shutdown = pin!(shutdown);
    loop {
        let started = Instant::now();
        let outcome = look(&mut detector, &options, listener).await;
        let took = started.elapsed();
        options.metrics.took(took);
        options.metrics.looked(outcome.as_ref().ok().map(|summary| summary.failures.len()));
        match outcome {
            Ok(summary) => total.add(summary),
            Err(err) => {
                tracing::error!(event = "detect.cycle_failed", error = %err, "detection is tried again")
            }
        }
        tokio::select! {
            () = &mut shutdown => break,
            () = until_due(detector.as_mut(), every, took) => {}
        }
    }
    if let Some(detector) = detector {
        detector.close().await;
    }
    total
}

/// One evaluation of what is due, by the detector of the earlier ones or by a new one.
async fn look(
    detector: &mut Option<Detector>,
    options: &DetectOptions,
    listener: Listener<'_>,
) -> Result<Summary, AnalyzerError> {
    let mut working = match detector.take() {
        Some(detector) => detector,
        None => Detector::open(options.clone()).await?.into_worker().await?,
    };
    let outcome = working.cycle(listener).await;
    *detector = Some(working);
    outcome
}

/// Waits for the next evaluation: for new commits, but no longer than `every`.
async fn until_due(detector: Option<&mut Detector>, every: Duration, took: Duration) {
    let Some(detector) = detector else { return tokio::time::sleep(every).await };
    let started = Instant::now();
    let rest = took.saturating_mul(REST).clamp(LOOK, every.max(LOOK));
    tokio::time::sleep(rest).await;
    while started.elapsed() < every {
        // What cannot be read is said by the evaluation.
        if detector.has_news().await.unwrap_or(true) {
            return;
        }
        tokio::time::sleep(LOOK.min(every.saturating_sub(started.elapsed()))).await;
    }
}
