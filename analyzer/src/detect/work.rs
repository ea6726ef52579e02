//! One batch of windows: claimed, evaluated, recorded.

use std::sync::Arc;

use super::claims::Place;
use super::{Detector, Due, Listener, Look, Summary, window_key};
use crate::error::AnalyzerError;
use crate::rules::LoadedRule;

/// What a worker has claimed of a batch.
struct Claimed {
    /// To be evaluated.
    mine: Vec<Due>,
    /// Not asked for yet, or to be asked for again.
    rest: Vec<Due>,
    /// What was claimed.
    places: Vec<Place>,
}

impl Detector {
    /// Claims windows of a batch, evaluates and records them; gives those that are still to be claimed. What fails is
    /// said once a look, and its windows stay due.
    pub(super) async fn work(
        &mut self,
        rule: &Arc<LoadedRule>,
        look: &Look,
        batch: Vec<Due>,
        may_come_back: bool,
        summary: &mut Summary,
        listener: Listener<'_>,
    ) -> Result<Vec<Due>, AnalyzerError> {
        let id = &rule.rule.id;
        if summary.failed.contains(id) {
            return Ok(Vec::new());
        }
        let Claimed { mine, rest, places } =
            self.claim(rule, batch, may_come_back, summary, listener).await?;
        if mine.is_empty() {
            return Ok(rest);
        }
        match self.evaluate(rule, look, &mine).await {
            Ok(hits) => self.record(rule, &mine, hits, summary, listener).await?,
            Err(AnalyzerError::Lake(err)) => return Err(err.into()),
            Err(err) => {
                tracing::error!(event = "detect.rule_failed", rule = %id, error = %err);
                summary.failures.push(format!("{id}: {err}"));
                summary.failed.insert(id.clone());
            }
        }
        if let Some(claims) = &mut self.claims {
            claims.fails(id, summary.failed.contains(id));
        }
        self.settle(&places).await;
        Ok(rest)
    }

    /// Claims windows of a batch, as many as follow on one another. Those that another worker has done are told,
    /// should it have died before it could.
    async fn claim(
        &mut self,
        rule: &LoadedRule,
        batch: Vec<Due>,
        may_come_back: bool,
        summary: &mut Summary,
        listener: Listener<'_>,
    ) -> Result<Claimed, AnalyzerError> {
        if self.claims.is_none() {
            return Ok(Claimed { mine: batch, rest: Vec::new(), places: Vec::new() });
        }
        let mut open = Vec::new();
        for window in batch {
            let key = window_key(rule, window.start_ns);
            // Others may have done it since it was found to be due.
            if self.known(&key).await?.is_none_or(|record| !window.is_done_by(&record)) {
                let n = self.windows.revision(&key).map_or(0, |n| n + 1);
                open.push((window, (key, n)));
            }
        }
        let (mut taken, mut rest) = (Vec::new(), Vec::new());
        let mut windows = open.into_iter();
        for (window, place) in windows.by_ref() {
            let Some(claims) = &mut self.claims else { break };
            if claims.take(&place, window.closes).await? {
                taken.push((window, place));
                continue;
            }
            match taken.is_empty() && may_come_back {
                true => rest.push(window),
                false => summary.with_others += 1,
            }
            break;
        }
        rest.extend(windows.map(|(window, _)| window));
        self.windows.refresh().await?;
        let (mut mine, mut places) = (Vec::new(), Vec::new());
        for (window, place) in taken {
            let before = self.known(&place.0).await?;
            if !self.windows.look_for(&place.0, place.1).await? {
                mine.push(window);
            } else if !self.windows.is_listed(&place.0) {
                let news = self.untold(rule, &place.0, before.as_deref()).await?;
                self.unlisted.insert(place.0.clone());
                self.tell(news, summary, listener);
            }
            places.push(place);
        }
        self.list().await?;
        self.settle(&places).await;
        Ok(Claimed { mine, rest, places })
    }

    /// Takes the claims away of which the records are there and listed.
    async fn settle(&mut self, places: &[Place]) {
        let Some(claims) = &mut self.claims else { return };
        for place in places {
            if self.windows.revision(&place.0) >= Some(place.1) {
                claims.done(place).await;
            }
        }
    }
}
