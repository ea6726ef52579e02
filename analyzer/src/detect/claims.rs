//! Who evaluates which window, where several workers watch one lake.
//!
//! A worker claims a window by an object under `state/`, put if absent: the claim number `k` on the window's record
//! number `n`. The last one counts for as long as its worker lives, and a worker lives while its beat, another object,
//! moves: each worker measures that by itself, so no clocks are compared. Whoever finds the last claim to be of a dead
//! worker puts the next one. Claims and beats carry a MAC under the tenant key; without one of these they are not there.
//!
//! Invariant: claims spread work and decide nothing else. Two workers on one window cost time: the window's record is
//! put if absent, so one of them publishes and the other notices.

use std::collections::hash_map::RandomState;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::{BuildHasher, Hasher};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bodycam_lake::store::Put;
use bodycam_lake::window::WindowKey;
use bodycam_lake::{LakeError, Store, layout};
use bodycam_record::TenantKey;
use bodycam_record::rule::RuleId;
use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::Metrics;
use crate::engine::{Job, spawn};
use crate::error::AnalyzerError;

/// More claims on one record than this are litter: then the window is evaluated without one.
const MOST_CLAIMS: u64 = 64;
/// Beats in the time after which a worker without one counts as dead.
const BEATS: u32 = 5;
/// A window that is over and that a living worker has not done for so long is evaluated all the same: nobody who can
/// write to the lake holds a window up for longer by what looks like claims.
const PATIENCE: Duration = Duration::from_secs(600);

/// A window and the number of the record that is to be written for it.
pub(super) type Place = (WindowKey, u64);

/// The claims of one worker.
pub(super) struct Claims {
    objects: Objects,
    worker: String,
    /// A worker whose beat does not move for so long is dead.
    lease: Duration,
    /// Number of the last claim that is known, by place, and whether it is this worker's.
    heads: HashMap<Place, Head>,
    /// When others were last seen to live.
    others: HashMap<String, Other>,
    /// Whose beats were read in this look.
    looked_at: HashSet<String>,
    failing: Arc<Mutex<BTreeSet<RuleId>>>,
    metrics: Arc<Metrics>,
    beats: Job<()>,
}

/// What is known of the claims on a place.
#[derive(Clone)]
struct Head {
    /// Number after the last claim.
    next: u64,
    /// Whose the last claim is.
    worker: Option<String>,
    /// Since when the window has been left to others.
    left_since: Option<Instant>,
}

struct Other {
    count: u64,
    since: Instant,
    beat: Option<Beat>,
}

/// A claim as it rests.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Claim {
    version: i64,
    worker: String,
}

/// A beat as it rests.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Beat {
    version: i64,
    worker: String,
    /// Grows with every beat.
    count: u64,
    /// Rules that fail where this worker runs: its claims on their windows do not count.
    failing: BTreeSet<RuleId>,
}

/// Small authenticated objects under `state/`.
#[derive(Clone)]
struct Objects {
    store: Store,
    /// Without a tenant key, a key that everybody has.
    key: TenantKey,
}

impl Claims {
    /// A new worker, whose beats begin.
    pub(super) async fn open(
        store: Store,
        tenant: Option<TenantKey>,
        lease: Duration,
        metrics: Arc<Metrics>,
    ) -> Result<Self, AnalyzerError> {
        let chance = || RandomState::new().build_hasher().finish();
        let worker = format!("{:016x}{:016x}", chance(), chance());
        let objects = Objects { store, key: tenant.unwrap_or_else(|| TenantKey::new([0; 32])) };
        let failing: Arc<Mutex<BTreeSet<RuleId>>> = Arc::default();
        // The first beat comes before the first claim.
        objects.beat(&worker, 0, &failing).await?;
        let beats = spawn(beats(objects.clone(), worker.clone(), failing.clone(), lease / BEATS))?;
        Ok(Self {
            objects,
            worker,
            lease,
            heads: HashMap::new(),
            others: HashMap::new(),
            looked_at: HashSet::new(),
            failing,
            metrics,
            beats,
        })
    }

    /// Where a worker begins: differs from worker to worker, so that they seldom meet.
    pub(super) fn order(&self, rule: &RuleId) -> u64 {
        let mut hasher = std::hash::DefaultHasher::new();
        hasher.write(self.worker.as_bytes());
        hasher.write(rule.as_str().as_bytes());
        hasher.finish()
    }

    /// A new look at the lake begins; places that are `done` need no claims any more.
    pub(super) fn look(&mut self, done: impl Fn(&Place) -> bool) {
        self.looked_at.clear();
        self.heads.retain(|place, _| !done(place));
    }

    /// Where claims and beats lie.
    pub(super) fn store(&self) -> &Store {
        &self.objects.store
    }

    /// Where this worker's beat lies.
    pub(super) fn own_beat(&self) -> Result<String, LakeError> {
        self.objects.beat_of(&self.worker)
    }

    /// Whether a beat of ours lies there.
    pub(super) async fn is_beat(&self, path: &str) -> Result<bool, LakeError> {
        Ok(matches!(self.objects.read::<Beat>(path).await?, Read::Ours(_)))
    }

    /// Where the beat of the worker lies whose claim this is; none when it is no claim of ours.
    pub(super) async fn claimed_by(&self, path: &str) -> Result<Option<String>, LakeError> {
        match self.objects.read::<Claim>(path).await? {
            Read::Ours(claim) => Ok(Some(self.objects.beat_of(&claim.worker)?)),
            Read::Absent | Read::Foreign => Ok(None),
        }
    }

    /// How the paths of the claims on a place begin, but for the last separator.
    pub(super) fn place_path(&self, place: &Place) -> Result<String, LakeError> {
        self.objects.place(place)
    }

    /// How many windows are this worker's.
    pub(super) fn held(&self) -> usize {
        self.heads.values().filter(|head| head.worker.as_ref() == Some(&self.worker)).count()
    }

    /// Says whether a rule fails here.
    pub(super) fn fails(&self, rule: &RuleId, fails: bool) {
        let mut failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        match fails {
            true => drop(failing.insert(rule.clone())),
            false => drop(failing.remove(rule)),
        }
    }

    /// Claims a window; whether it is this worker's now. `is_over`: nothing but an evaluation is missing.
    pub(super) async fn take(&mut self, place: &Place, is_over: bool) -> Result<bool, LakeError> {
        let mut head = self.heads.remove(place).unwrap_or(Head { next: 0, worker: None, left_since: None });
        let had = head.worker.as_ref() == Some(&self.worker);
        let taken = loop {
            if head.next >= MOST_CLAIMS {
                break true;
            }
            let path = self.objects.claim(place, head.next)?;
            match self.objects.read::<Claim>(&path).await? {
                Read::Absent => {}
                Read::Foreign => {
                    head.next += 1;
                    continue;
                }
                Read::Ours(claim) => {
                    head.worker = Some(claim.worker);
                    head.next += 1;
                    continue;
                }
            }
            let of_another = match &head.worker {
                Some(worker) if *worker == self.worker => break true,
                Some(worker) => {
                    // Of a window that goes on nothing is missing yet.
                    let since = is_over.then(|| head.left_since.unwrap_or_else(Instant::now));
                    head.left_since = since;
                    let patient = since.is_none_or(|since| since.elapsed() < PATIENCE);
                    let worker = worker.clone();
                    if patient && self.lives(&worker, &place.0.rule).await? {
                        break false;
                    }
                    Some(worker)
                }
                None => None,
            };
            let claim = Claim { version: 1, worker: self.worker.clone() };
            if self.objects.put_new(&path, &claim).await? == Put::New {
                head.worker = Some(self.worker.clone());
                head.next += 1;
                if let Some(worker) = of_another {
                    self.metrics.claim_taken_over();
                    self.bury(&worker).await;
                }
                break true;
            }
        };
        if had && !taken {
            self.metrics.claim_lost();
            tracing::warn!(event = "detect.claim_lost", rule = %place.0.rule, window_start_ns = place.0.start_ns,
                "another worker has taken the window over");
        }
        self.heads.insert(place.clone(), head);
        Ok(taken)
    }

    /// Whether a worker lives, and does not fail at a rule.
    async fn lives(&mut self, worker: &str, rule: &RuleId) -> Result<bool, LakeError> {
        if self.looked_at.insert(worker.to_owned()) {
            let beat = match self.objects.read::<Beat>(&self.objects.beat_of(worker)?).await? {
                Read::Ours(beat) if beat.worker == worker => Some(beat),
                _ => None,
            };
            let count = beat.as_ref().map(|beat| beat.count);
            match (self.others.get_mut(worker), count) {
                // Only a beat that was never seen is a sign of life.
                (Some(other), Some(count)) if count > other.count => {
                    *other = Other { count, since: Instant::now(), beat };
                }
                (Some(other), Some(_)) => drop(other.beat.is_none().then(|| other.beat = beat)),
                (Some(other), None) => other.beat = None,
                (None, count) => {
                    let other = Other { count: count.unwrap_or_default(), since: Instant::now(), beat };
                    self.others.insert(worker.to_owned(), other);
                }
            }
        }
        let other = self.others.get(worker);
        Ok(other.is_some_and(|other| {
            // Whoever ends in order takes its beat away.
            other.since.elapsed() < self.lease
                && other.beat.as_ref().is_some_and(|beat| !beat.failing.contains(rule))
        }))
    }

    /// Takes the beat of a dead worker away, for others to know at once. One that was paused beats again.
    async fn bury(&mut self, worker: &str) {
        let is_dead = self.others.get(worker).is_some_and(|other| other.since.elapsed() >= self.lease);
        if is_dead
            && let Ok(path) = self.objects.beat_of(worker)
            && let Err(err) = self.objects.store.delete(&path).await
        {
            tracing::debug!(event = "detect.beat_not_deleted", error = %err);
        }
    }

    /// As SIGSTOP does.
    #[cfg(test)]
    pub(super) fn pause(&mut self) {
        self.beats.abort();
    }

    /// The window's record is there and listed: nobody needs the claims on it any more.
    pub(super) async fn done(&mut self, place: &Place) {
        let Some(head) = self.heads.remove(place) else { return };
        for k in 0..head.next {
            if let Ok(path) = self.objects.claim(place, k)
                && let Err(err) = self.objects.store.delete(&path).await
            {
                tracing::debug!(event = "detect.claim_not_deleted", error = %err);
            }
        }
    }

    /// Gives everything up, for others to go on at once.
    pub(super) async fn close(mut self) {
        let held: BTreeMap<Place, u64> = self
            .heads
            .drain()
            .filter(|(_, head)| head.worker.as_ref() == Some(&self.worker))
            .map(|(place, head)| (place, head.next))
            .collect();
        // One more beat behind the end of the last would look like a sign of life.
        self.beats.stop().await;
        if let Ok(path) = self.objects.beat_of(&self.worker)
            && let Err(err) = self.objects.store.delete(&path).await
        {
            tracing::warn!(event = "detect.beat_not_deleted", error = %err, "others wait until it is old");
        }
        for (place, next) in held {
            if let Some(k) = next.checked_sub(1)
                && let Ok(path) = self.objects.claim(&place, k)
            {
                drop(self.objects.store.delete(&path).await);
            }
        }
    }
}

/// Beats, for as long as they are wanted.
async fn beats(
    objects: Objects,
    worker: String,
    failing: Arc<Mutex<BTreeSet<RuleId>>>,
    every: Duration,
) -> Result<(), AnalyzerError> {
    let mut count: u64 = 0;
    loop {
        tokio::time::sleep(every).await;
        count += 1;
        if let Err(err) = objects.beat(&worker, count, &failing).await {
            tracing::warn!(event = "detect.beat_failed", error = %err, "others may take windows over");
        }
    }
}

/// What lies under a name.
enum Read<T> {
    Absent,
    /// Something that was not written under this key.
    Foreign,
    Ours(T),
}

impl Objects {
    fn place(&self, (window, n): &Place) -> Result<String, LakeError> {
        let name = self.key.state_mac("claim", window.path(*n)?.as_bytes()).to_hex();
        layout::state(&format!("claim-{}", name.get(..32).unwrap_or_default()))
    }

    fn claim(&self, place: &Place, k: u64) -> Result<String, LakeError> {
        Ok(format!("{}-{k}", self.place(place)?))
    }

    fn beat_of(&self, worker: &str) -> Result<String, LakeError> {
        layout::state(&format!("worker-{worker}"))
    }

    async fn beat(
        &self,
        worker: &str,
        count: u64,
        failing: &Mutex<BTreeSet<RuleId>>,
    ) -> Result<(), LakeError> {
        let failing = failing.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let path = self.beat_of(worker)?;
        let beat = Beat { version: 1, worker: worker.to_owned(), count, failing };
        self.store.put(&path, self.sealed(&path, &beat)).await
    }

    async fn put_new(&self, path: &str, value: &impl Serialize) -> Result<Put, LakeError> {
        self.store.put_new(path, self.sealed(path, value)).await
    }

    fn sealed(&self, path: &str, value: &impl Serialize) -> Bytes {
        let json = serde_json::to_vec(value).unwrap_or_default();
        let mac = self.key.state_mac(path, &json);
        [mac.0.as_slice(), &json].concat().into()
    }

    async fn read<T: DeserializeOwned>(&self, path: &str) -> Result<Read<T>, LakeError> {
        let Some(object) = self.store.get(path).await? else { return Ok(Read::Absent) };
        let opened = object.split_at_checked(32).and_then(|(mac, json)| {
            let ours = mac == self.key.state_mac(path, json).0;
            ours.then(|| serde_json::from_slice(json).ok()).flatten()
        });
        Ok(opened.map_or(Read::Foreign, Read::Ours))
    }
}
