//! A recorder that keeps going: started again after failures that may pass, with compaction beside it.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bodycam_bus::Bus;
use bodycam_lake::Store;
use bodycam_record::EpochKey;

use crate::compact::Compactor;
use crate::config::RecorderConfig;
use crate::error::RecorderError;
use crate::metrics::{Metrics, add};
use crate::recorder::{Recorder, lock};

/// Waits between attempts after a transient failure.
const RETRY: [Duration; 5] = [
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(3),
    Duration::from_secs(10),
    Duration::from_secs(30),
];
/// A run that lasts this long has left the last failure behind.
const STEADY: Duration = Duration::from_secs(10);

/// Runs a recorder and its compaction until `shutdown` is ready, and starts again after failures that may pass
/// (a full disk, a store that does not answer). Anything else ends it with the reason.
pub async fn run<B: Bus + Clone>(
    bus: B,
    store: Store,
    key: Arc<EpochKey>,
    config: RecorderConfig,
    metrics: Arc<Metrics>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), RecorderError> {
    // The newcomer is refused before it has written anything, and the one at work goes on.
    let _lock = lock(&bus, &store)?;
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let mut shutdown = std::pin::pin!(shutdown);
    let compaction = Compactor::new(store.clone(), key.clone(), &config, metrics.clone());
    let compaction = tokio::spawn(compaction.run(stopped.clone()));
    let mut attempt = 0;
    // Whether a commit was given up of which nobody knows whether the store will have it.
    let mut unanswered = false;
    let result = loop {
        let started = Instant::now();
        let once = async {
            let (bus, store, key) = (bus.clone(), store.clone(), key.clone());
            let mut recorder =
                Recorder::open_locked(bus, store, key, config.clone(), metrics.clone()).await?;
            let mut seen = stopped.clone();
            recorder.run(async move { drop(seen.wait_for(|stop| *stop).await) }).await
        };
        let mut once = std::pin::pin!(once);
        let steady = async {
            tokio::time::sleep(STEADY).await;
            metrics.failing.store(0, Ordering::Relaxed);
            std::future::pending::<std::convert::Infallible>().await
        };
        let ended = tokio::select! {
            ended = &mut once => ended,
            never = steady => match never {},
            () = &mut shutdown, if !*stop.borrow() => {
                let _ = stop.send(true);
                once.await
            }
        };
        match ended {
            Err(err) if (err.is_transient() || unanswered && err.is_conflict()) && !*stop.borrow() => {
                // A commit that comes to be after all takes the name of the next one, once.
                unanswered = err.is_unanswered() || unanswered && !err.is_conflict();
                if started.elapsed() > Duration::from_secs(60) {
                    attempt = 0;
                }
                let wait = RETRY.get(attempt).or(RETRY.last()).copied().unwrap_or(Duration::ZERO);
                attempt += 1;
                add(&metrics.restarts_total, 1);
                metrics.failed(&err);
                tracing::error!(error = %err, retry_in_ms = wait.as_millis() as u64, "recorder_failed");
                tokio::select! {
                    () = tokio::time::sleep(wait) => {}
                    () = &mut shutdown => drop(stop.send(true)),
                }
            }
            ended => break ended,
        }
    };
    let _ = stop.send(true);
    compaction.await.map_err(|err| RecorderError::Task(err.to_string()))?;
    result
}
