//! What detection leaves under `state/` and nobody needs any more, taken away by detection itself.
//!
//! It is done here and not by `lake gc`, because only the tenant key tells whose an object is and what it stood for, and
//! only detection knows windows and roll-ups. The age of an object is measured against this worker's own beat, which the
//! same store has just dated: no clock of ours decides.
//!
//! Invariant: what goes is a day old, was written under the tenant key, and was replaced by something that is there:
//!
//! - a **beat** by nothing but time: a living worker writes its own anew every few seconds, one that was paused for days
//!   beats again, and a beat decides no more than who works;
//! - the **claims** on a record by that record, or, where there is none, by nobody: all who claimed it are gone. One that is
//!   not, after all, finds its record's name taken or takes it, as without claims;
//! - a **roll-up** by a later one of the same hour or day that stands for the rows of now. Whoever still reads the rows of
//!   then makes it again: a kept roll-up saves work and decides nothing.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::{Duration, Instant};

use bodycam_lake::store::Listed;
use bodycam_lake::{LakeError, Windows};

use super::claims::Claims;
use crate::state::Rollups;
use crate::windows::Inputs;

/// Age from which something is looked at.
const AGE: Duration = Duration::from_secs(24 * 3600);
/// Between two looks.
const EVERY: Duration = Duration::from_secs(3600);

/// When it was last looked for.
#[derive(Default)]
pub(super) struct Litter {
    looked: Option<Instant>,
}

impl Litter {
    /// Looks now and then; how many objects went. That it cannot is no reason not to go on.
    pub(super) async fn collect(
        &mut self,
        claims: &Claims,
        windows: &Windows,
        rollups: &Rollups,
        inputs: &Inputs,
    ) -> u64 {
        if self.looked.is_some_and(|looked| looked.elapsed() < EVERY) {
            return 0;
        }
        self.looked = Some(Instant::now());
        match collect(claims, windows, rollups, inputs).await {
            Ok(0) => 0,
            Ok(removed) => {
                tracing::info!(event = "detect.litter_removed", objects = removed, "nobody needed them");
                removed
            }
            Err(err) => {
                tracing::warn!(event = "detect.litter_stays", error = %err, "it is looked at again in an hour");
                0
            }
        }
    }
}

async fn collect(
    claims: &Claims,
    windows: &Windows,
    rollups: &Rollups,
    inputs: &Inputs,
) -> Result<u64, LakeError> {
    let (store, own) = (claims.store(), claims.own_beat()?);
    let listed: BTreeMap<String, Listed> =
        store.listed("state").await?.into_iter().map(|object| (object.path.clone(), object)).collect();
    // Without a beat of its own it is taken for dead itself.
    let Some(now_ns) = listed.get(&own).map(|beat| beat.written_ns) else { return Ok(0) };
    let least_age = i64::try_from(AGE.as_nanos()).unwrap_or(i64::MAX);
    let is_old = |object: &Listed| now_ns.saturating_sub(object.written_ns) >= least_age;
    let named = |start: &str| {
        let start = format!("state/{start}");
        listed.values().filter(move |object| object.path.starts_with(&start))
    };

    let mut litter: Vec<String> = Vec::new();
    let (dead, living): (Vec<_>, Vec<_>) = named("worker-").partition(|beat| is_old(beat));
    for beat in dead {
        litter.extend(claims.is_beat(&beat.path).await?.then(|| beat.path.clone()));
    }
    let living: HashSet<&str> = living.iter().map(|beat| beat.path.as_str()).collect();

    // The claims on a record go together: one that is missing below another would be made anew.
    let mut places: BTreeMap<&str, Vec<&Listed>> = BTreeMap::new();
    for claim in named("claim-") {
        let place = claim.path.rsplit_once('-').map_or("", |(place, _)| place);
        places.entry(place).or_default().push(claim);
    }
    places.retain(|_, on| on.iter().all(|claim| is_old(claim)));
    let done = if places.is_empty() { BTreeSet::new() } else { done(claims, windows)? };
    for (place, on) in places {
        let mut is_needed = false;
        for claim in &on {
            is_needed |= match claims.claimed_by(&claim.path).await? {
                Some(beat) => living.contains(beat.as_str()) && !done.contains(place),
                // Not made with the tenant key: it is not ours to judge.
                None => true,
            };
        }
        if !is_needed {
            litter.extend(on.iter().map(|claim| claim.path.clone()));
        }
    }

    for path in rollups.superseded(inputs, &listed)? {
        if listed.get(&path).is_some_and(is_old) && rollups.is_ours(&path).await? {
            litter.push(path);
        }
    }
    for path in &litter {
        store.delete(path).await?;
    }
    Ok(litter.len() as u64)
}

/// The places whose records are there, as the names of claims begin.
fn done(claims: &Claims, windows: &Windows) -> Result<BTreeSet<String>, LakeError> {
    let mut done = BTreeSet::new();
    for (key, _) in windows.known() {
        for n in 0..=windows.revision(key).unwrap_or_default() {
            done.insert(claims.place_path(&(key.clone(), n))?);
        }
    }
    Ok(done)
}
