//! Threads for parsing what would hold up a core.
//!
//! They have deep stacks, because parse trees nest as deep as texts do. Invariant: one principal occupies at
//! most its share of the threads; whoever wants more waits, and nobody is turned away.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError, mpsc};

use bodycam_record::Id16;
use tokio::sync::{Semaphore, oneshot};

/// Stack of each thread.
const STACK: usize = 16 * 1024 * 1024;

type Job = Box<dyn FnOnce() + Send>;

/// The pool.
pub struct Pool {
    jobs: mpsc::Sender<Job>,
    /// Places in the queue: as many as there are threads, so that what waits waits by principal.
    places: Semaphore,
    per_principal: usize,
    principals: Mutex<HashMap<Id16, Arc<Semaphore>>>,
}

impl Pool {
    /// Starts `threads` threads, of which one principal gets at most `per_principal`.
    pub fn new(threads: usize, per_principal: usize) -> std::io::Result<Self> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let queue = Arc::new(Mutex::new(queue));
        for number in 0..threads.max(1) {
            let queue = queue.clone();
            std::thread::Builder::new().name(format!("parse-{number}")).stack_size(STACK).spawn(
                move || {
                    loop {
                        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
                        let Ok(job) = job else { return };
                        job();
                    }
                },
            )?;
        }
        Ok(Self {
            jobs,
            places: Semaphore::new(threads.max(1)),
            per_principal: per_principal.max(1),
            principals: Mutex::default(),
        })
    }

    /// Runs `work` on a thread of the pool; nothing when it panicked.
    pub async fn run<T: Send + 'static>(
        &self,
        principal: Id16,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let share = self.share(principal);
        let done = async {
            let _mine = share.acquire().await.ok()?;
            let _place = self.places.acquire().await.ok()?;
            let (answer, result) = oneshot::channel();
            self.jobs
                .send(Box::new(move || {
                    // The work owns all it touches, so that nothing is left half done.
                    if let Ok(value) = catch_unwind(AssertUnwindSafe(work)) {
                        let _ = answer.send(value);
                    }
                }))
                .ok()?;
            result.await.ok()
        };
        let value = done.await;
        drop(share);
        self.forget(principal);
        value
    }

    fn share(&self, principal: Id16) -> Arc<Semaphore> {
        let mut principals = self.principals.lock().unwrap_or_else(PoisonError::into_inner);
        principals.entry(principal).or_insert_with(|| Arc::new(Semaphore::new(self.per_principal))).clone()
    }

    /// Drops the share of a principal that has nothing here any more.
    fn forget(&self, principal: Id16) {
        let mut principals = self.principals.lock().unwrap_or_else(PoisonError::into_inner);
        if principals.get(&principal).is_some_and(|share| Arc::strong_count(share) == 1) {
            principals.remove(&principal);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn one_principal_leaves_threads_to_the_others() {
        let pool = Arc::new(Pool::new(2, 1).unwrap());
        let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let greedy: Vec<_> = (0..8)
            .map(|_| {
                let (pool, running, most) = (pool.clone(), running.clone(), most.clone());
                tokio::spawn(async move {
                    pool.run(Id16([1; 16]), move || {
                        most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                        std::thread::sleep(Duration::from_millis(20));
                        running.fetch_sub(1, Ordering::SeqCst);
                    })
                    .await
                })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(10)).await;
        let other = tokio::time::timeout(Duration::from_millis(100), pool.run(Id16([2; 16]), || 7)).await;
        assert_eq!(other.unwrap(), Some(7));
        for task in greedy {
            task.await.unwrap().unwrap();
        }
        assert_eq!(most.load(Ordering::SeqCst), 1);
        assert!(pool.principals.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_panic_is_no_answer_and_ends_no_thread() {
        let pool = Pool::new(1, 1).unwrap();
        assert_eq!(pool.run(Id16::ZERO, || -> u8 { panic!("on purpose") }).await, None);
        assert_eq!(pool.run(Id16::ZERO, || 1).await, Some(1));
    }

    #[tokio::test]
    async fn whoever_stops_waiting_keeps_no_place() {
        let pool = Arc::new(Pool::new(1, 1).unwrap());
        let slow = pool.run(Id16::ZERO, || std::thread::sleep(Duration::from_millis(50)));
        assert!(tokio::time::timeout(Duration::from_millis(5), slow).await.is_err());
        assert_eq!(pool.run(Id16::ZERO, || 1).await, Some(1));
    }
}
