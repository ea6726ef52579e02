//! The threads that plan and run statements. Apart from the caller's, so that a long query never stalls a
//! gateway in the same process, and with deep stacks: planning walks expressions by recursion.

use std::future::Future;
use std::io;
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll};

use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;

use crate::error::AnalyzerError;

/// Stack of a thread. Address space only: pages are used as deep as a statement goes.
const STACK_BYTES: usize = 128 << 20;

/// Name of the threads, by which the panic hook knows them.
const THREADS: &str = "analyzer";
/// Where a thread of the pool last panicked.
static LAST_PANIC: Mutex<Option<String>> = Mutex::new(None);

/// Work on the pool. Dropped, it is stopped.
pub(crate) struct Job<T>(JoinHandle<Result<T, AnalyzerError>>);

/// Number of threads.
pub(super) fn threads() -> usize {
    std::thread::available_parallelism().map_or(2, NonZeroUsize::get)
}

/// Runs `work` on the pool.
pub(crate) fn spawn<T: Send + 'static>(
    work: impl Future<Output = Result<T, AnalyzerError>> + Send + 'static,
) -> Result<Job<T>, AnalyzerError> {
    static POOL: OnceLock<io::Result<Runtime>> = OnceLock::new();
    let pool = POOL.get_or_init(|| {
        quiet_panics();
        Builder::new_multi_thread()
            .worker_threads(threads())
            .thread_name(THREADS)
            .thread_stack_size(STACK_BYTES)
            .enable_all()
            .build()
    });
    match pool {
        Ok(pool) => Ok(Job(pool.spawn(work))),
        Err(err) => Err(AnalyzerError::Output(io::Error::new(err.kind(), err.to_string()))),
    }
}

/// A panic of the pool becomes the error of its statement. What it says is printed nowhere: values of the statement
/// may be in it, raw.
fn quiet_panics() {
    let others = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if std::thread::current().name() != Some(THREADS) {
            return others(info);
        }
        let place = info.location().map(|at| {
            let file = at.file().rsplit('/').next().unwrap_or_default();
            format!("{file}:{}", at.line())
        });
        *LAST_PANIC.lock().unwrap_or_else(PoisonError::into_inner) = place;
    }));
}

/// Where a thread of the pool last panicked.
pub(crate) fn last_panic() -> Option<String> {
    LAST_PANIC.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

#[cfg(test)]
impl<T> Job<T> {
    /// Stops it.
    pub(crate) fn abort(&self) {
        self.0.abort();
    }
}

impl<T> Job<T> {
    /// Stops it, and waits until nothing of it is under way.
    pub(crate) async fn stop(mut self) {
        self.0.abort();
        let _ = (&mut self.0).await;
    }
}

impl<T> Future for Job<T> {
    type Output = Result<T, AnalyzerError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map(|joined| match joined {
            Ok(result) => result,
            Err(err) if err.is_cancelled() => Err(AnalyzerError::Cancelled),
            Err(_) => Err(AnalyzerError::panicked("the statement")),
        })
    }
}

impl<T> Drop for Job<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
