//! How a gateway stops: sessions finish what they are at, then they are cut; either way each ends itself, with its
//! record complete.

use tokio::sync::watch;

/// How far the stop of a gateway has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Stage {
    /// It serves.
    #[default]
    Serving,
    /// Sessions may finish what they are at.
    Draining,
    /// Sessions end now: what runs for them is cancelled, recorded as cut, and sealed.
    Cutting,
}

/// What sessions hear of the stop.
pub type Stop = watch::Receiver<Stage>;

/// Returns when the stop has come to `stage`. A gateway that is gone has stopped.
pub(crate) async fn reached(stop: &mut Stop, stage: Stage) {
    if stop.wait_for(|now| *now >= stage).await.is_err() {
        tracing::debug!(event = "stop_unheard", "whoever could say stop is gone: that comes to the same");
    }
}
