//! The fsync thread of a spool: `process` durability syncs in the background, every few milliseconds and never
//! for more than a tenth of the time, `power` as soon as something was written, all waiting writers with one fsync.

use std::fs::File;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::Durability;

/// Shortest and longest time between background fsyncs in `process` durability.
const BACKGROUND: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(50));
/// The pause is so many times as long as the fsync before it took.
const PAUSE: u32 = 10;

/// What the writer of a lane and the fsync thread share.
#[derive(Debug)]
pub(super) struct LaneSync {
    file: Mutex<Arc<File>>,
    written: AtomicU64,
    synced: watch::Sender<Result<u64, String>>,
}

/// The fsync thread.
#[derive(Debug)]
pub(super) struct Syncer {
    shared: Arc<Shared>,
    durability: Durability,
    thread: Option<std::thread::JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    lanes: Mutex<Vec<Arc<LaneSync>>>,
    dirty: Mutex<bool>,
    wake: Condvar,
    stop: AtomicBool,
}

impl LaneSync {
    pub(super) fn new(file: Arc<File>) -> Arc<Self> {
        Arc::new(Self {
            file: Mutex::new(file),
            written: AtomicU64::new(0),
            synced: watch::Sender::new(Ok(0)),
        })
    }

    /// Syncs the old segment and goes on with a new one.
    pub(super) fn rotate(&self, file: Arc<File>) -> std::io::Result<()> {
        let mut current = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        current.sync_data()?;
        *current = file;
        Ok(())
    }

    /// Receives the number of bytes synced so far, or why syncing failed.
    pub(super) fn subscribe(&self) -> watch::Receiver<Result<u64, String>> {
        self.synced.subscribe()
    }

    fn sync(&self) {
        let written = self.written.load(Ordering::Acquire);
        if matches!(&*self.synced.borrow(), Ok(synced) if *synced < written) {
            let file = Arc::clone(&self.file.lock().unwrap_or_else(PoisonError::into_inner));
            let outcome = file.sync_data().map(|()| written).map_err(|e| format!("fsync failed: {e}"));
            drop(self.synced.send_replace(outcome));
        }
    }
}

impl Syncer {
    pub(super) fn start(durability: Durability) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let mine = Arc::clone(&shared);
        let thread =
            std::thread::Builder::new().name("spool-fsync".to_owned()).spawn(move || mine.run(durability))?;
        Ok(Self { shared, durability, thread: Some(thread) })
    }

    pub(super) fn durability(&self) -> Durability {
        self.durability
    }

    pub(super) fn register(&self, lane: Arc<LaneSync>) {
        self.shared.lanes.lock().unwrap_or_else(PoisonError::into_inner).push(lane);
    }

    /// Says that `lane` has written `total` bytes since it was opened.
    pub(super) fn written(&self, lane: &LaneSync, total: u64) {
        lane.written.store(total, Ordering::Release);
        let mut dirty = self.shared.dirty.lock().unwrap_or_else(PoisonError::into_inner);
        if !*dirty {
            *dirty = true;
            self.shared.wake.notify_one();
        }
    }
}

impl Drop for Syncer {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        *self.shared.dirty.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.shared.wake.notify_one();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn run(&self, durability: Durability) {
        loop {
            let mut dirty = self.dirty.lock().unwrap_or_else(PoisonError::into_inner);
            while !*dirty {
                dirty = self.wake.wait(dirty).unwrap_or_else(PoisonError::into_inner);
            }
            *dirty = false;
            drop(dirty);
            let began = Instant::now();
            let lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner).clone();
            lanes.iter().for_each(|lane| lane.sync());
            if self.stop.load(Ordering::Acquire) {
                return;
            }
            if durability == Durability::Process {
                let (least, most) = BACKGROUND;
                std::thread::sleep((began.elapsed() * PAUSE).clamp(least, most));
            }
        }
    }
}
