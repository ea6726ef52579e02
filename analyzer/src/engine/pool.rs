//! The threads that plan and run statements. Apart from the caller's, so that a long query never stalls a
//! gateway in the same process, and with deep stacks: planning walks expressions by recursion.

use std::future::Future;
use std::io;
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::sync::OnceLock;
use std::task::{Context, Poll};

use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;

use crate::error::AnalyzerError;

/// Stack of a thread. Address space only: pages are used as deep as a statement goes.
const STACK_BYTES: usize = 128 << 20;

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
        Builder::new_multi_thread()
            .worker_threads(threads())
            .thread_name("analyzer")
            .thread_stack_size(STACK_BYTES)
            .enable_all()
            .build()
    });
    match pool {
        Ok(pool) => Ok(Job(pool.spawn(work))),
        Err(err) => Err(AnalyzerError::Output(io::Error::new(err.kind(), err.to_string()))),
    }
}

impl<T> Future for Job<T> {
    type Output = Result<T, AnalyzerError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map(|joined| match joined {
            Ok(result) => result,
            Err(err) if err.is_cancelled() => Err(AnalyzerError::Cancelled),
            Err(_) => Err(AnalyzerError::Sql {
                what: "the query engine".to_owned(),
                reason: "it stopped unexpectedly (a bug: please report the statement)".to_owned(),
            }),
        })
    }
}

impl<T> Drop for Job<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
