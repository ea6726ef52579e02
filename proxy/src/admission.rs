//! Places for connections. Whoever has logged in keeps the place; whoever has not is one of a bounded crowd, in
//! all and per source address, and the oldest of the source with the most goes when it grows too large. So
//! silent connections use up nobody's place but their own kind's.

use std::cell::Cell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use tokio::sync::Notify;

/// Connections that may always wait for their login, however small the limit is.
const LEAST: usize = 64;

/// The places of a gateway.
#[derive(Debug)]
pub struct Admissions {
    limit: usize,
    waiting_limit: usize,
    source_limit: usize,
    known: AtomicUsize,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    all: BTreeMap<u64, (IpAddr, Arc<Notify>)>,
    /// For each source, its connections, the oldest first.
    sources: BTreeMap<IpAddr, BTreeSet<u64>>,
}

/// One connection's place. Given back when it is dropped.
#[derive(Debug, Default)]
pub struct Admission {
    place: Option<Place>,
}

#[derive(Debug)]
struct Place {
    admissions: Arc<Admissions>,
    number: u64,
    known: Cell<bool>,
    evicted: Arc<Notify>,
}

impl Admissions {
    /// Places for `limit` connections, a quarter of which may be of clients that have not logged in, and a
    /// quarter of these of one source address.
    pub fn new(limit: usize) -> Arc<Self> {
        let waiting_limit = (limit / 4).max(LEAST.min(limit)).max(1);
        Arc::new(Self {
            limit,
            waiting_limit,
            source_limit: (waiting_limit / 4).max(LEAST.min(waiting_limit)),
            known: AtomicUsize::new(0),
            waiting: Mutex::default(),
        })
    }

    /// Whether everyone with a place has logged in, so that nobody can be asked to go.
    pub fn is_full(&self) -> bool {
        self.known.load(Ordering::Relaxed) >= self.limit
    }

    /// Connections that have not logged in.
    pub fn waiting(&self) -> usize {
        self.lock().all.len()
    }

    /// A place for a connection from `source`; gives how many others had to go for it.
    pub fn enter(self: &Arc<Self>, source: IpAddr) -> (Admission, usize) {
        let evicted = Arc::new(Notify::new());
        let mut waiting = self.lock();
        let number = waiting.next;
        waiting.next += 1;
        waiting.all.insert(number, (source, Arc::clone(&evicted)));
        waiting.sources.entry(source).or_default().insert(number);
        let mut gone = 0;
        while waiting.of(source) > self.source_limit && waiting.evict(source) {
            gone += 1;
        }
        let room = self.limit.saturating_sub(self.known.load(Ordering::Relaxed)).max(1);
        while waiting.all.len() > self.waiting_limit.min(room) {
            // The source with the most; of several, the one that has waited longest.
            let most = waiting.sources.iter().max_by_key(|(_, of)| (of.len(), Reverse(of.first())));
            let most = most.map(|(source, _)| *source);
            match most {
                Some(most) if waiting.evict(most) => gone += 1,
                _ => break,
            }
        }
        drop(waiting);
        let place = Place { admissions: Arc::clone(self), number, known: Cell::new(false), evicted };
        (Admission { place: Some(place) }, gone)
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn of(&self, source: IpAddr) -> usize {
        self.sources.get(&source).map_or(0, BTreeSet::len)
    }

    /// Asks the oldest of a source to go.
    fn evict(&mut self, source: IpAddr) -> bool {
        let oldest = self.sources.get(&source).and_then(|of| of.first().copied());
        match oldest.and_then(|number| self.remove(number)) {
            Some(notify) => {
                notify.notify_one();
                true
            }
            None => false,
        }
    }

    fn remove(&mut self, number: u64) -> Option<Arc<Notify>> {
        let (source, notify) = self.all.remove(&number)?;
        if let Some(of) = self.sources.get_mut(&source) {
            of.remove(&number);
            if of.is_empty() {
                self.sources.remove(&source);
            }
        }
        Some(notify)
    }
}

impl Admission {
    /// The client has proven who it is.
    pub fn logged_in(&self) {
        let Some(place) = &self.place else { return };
        // One that was asked to go in this very moment goes.
        if !place.known.get() && place.admissions.lock().remove(place.number).is_some() {
            place.known.set(true);
            place.admissions.known.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Runs `serve` to its end, or until the place is needed by another; gives whether it came to its end.
    pub async fn hold(&self, serve: impl Future<Output = ()>) -> bool {
        let Some(place) = &self.place else {
            serve.await;
            return true;
        };
        let (mut serve, mut evicted) = (pin!(serve), pin!(place.evicted.notified()));
        std::future::poll_fn(|cx| {
            if serve.as_mut().poll(cx).is_ready() {
                return Poll::Ready(true);
            }
            if !place.known.get() && evicted.as_mut().poll(cx).is_ready() {
                return Poll::Ready(false);
            }
            Poll::Pending
        })
        .await
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.known.get() {
            self.admissions.known.fetch_sub(1, Ordering::Relaxed);
        } else {
            self.admissions.lock().remove(self.number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(n: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, n])
    }

    async fn is_asked_to_go(admission: &Admission) -> bool {
        let forever = std::future::pending();
        let soon = std::time::Duration::from_millis(5);
        tokio::time::timeout(soon, admission.hold(forever)).await == Ok(false)
    }

    #[tokio::test]
    async fn silent_connections_of_one_source_push_out_their_own_oldest_only() {
        let admissions = Admissions::new(1000);
        let quiet = admissions.enter(address(1)).0;
        let flood: Vec<_> = (0..200).map(|_| admissions.enter(address(2)).0).collect();
        assert_eq!(admissions.waiting(), 1 + 64, "a quarter of a quarter, but 64 at least");
        assert!(!is_asked_to_go(&quiet).await);
        assert!(is_asked_to_go(&flood[0]).await && !is_asked_to_go(&flood[199]).await);
    }

    #[tokio::test]
    async fn a_crowd_of_many_sources_is_bounded_and_takes_no_place_of_those_who_logged_in() {
        let admissions = Admissions::new(400);
        let known = admissions.enter(address(1)).0;
        known.logged_in();
        let crowd: Vec<_> = (0..=255).map(|n| admissions.enter(address(n)).0).collect();
        assert_eq!(admissions.waiting(), 100);
        assert!(!is_asked_to_go(&known).await && !admissions.is_full());
        let newest = crowd.last().unwrap();
        assert!(!is_asked_to_go(newest).await, "who comes still gets the chance to log in");
        newest.logged_in();
        assert_eq!(admissions.waiting(), 99);
    }

    #[test]
    fn a_gateway_is_full_when_everyone_has_logged_in_and_places_come_back() {
        let admissions = Admissions::new(2);
        let [a, b] = [1, 2].map(|n| admissions.enter(address(n)).0);
        assert!(!admissions.is_full());
        a.logged_in();
        a.logged_in();
        b.logged_in();
        assert!(admissions.is_full());
        drop(a);
        assert!(!admissions.is_full() && admissions.waiting() == 0);
        let (c, gone) = admissions.enter(address(3));
        assert_eq!(gone, 0);
        let (_d, gone) = admissions.enter(address(3));
        assert_eq!(gone, 1, "one place is left, and the newest has it");
        c.logged_in();
        assert!(!admissions.is_full(), "who was asked to go has no place any more");
    }
}
