//! Stores that fail, or answer late.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

use bodycam_lake::store::{Put, Writes};
use bodycam_lake::{LakeError, Store};
use bytes::Bytes;
use futures::future::BoxFuture;

/// Fails a store's writes from the `k`th on (before or after it is made), for good or for some writes.
pub struct Failing {
    inner: Arc<dyn Writes>,
    left: AtomicI64,
    after: bool,
    fails: i64,
}

impl Failing {
    pub fn wrap(store: Store, k: i64, after: bool) -> Store {
        Self::of(store, k, after, i64::MAX)
    }

    /// Fails one write, the `k`th, before it is made.
    pub fn once(store: Store, k: i64) -> Store {
        Self::of(store, k, false, 1)
    }

    fn of(store: Store, k: i64, after: bool, fails: i64) -> Store {
        store.with_writes(|inner| Arc::new(Failing { inner, left: AtomicI64::new(k), after, fails }))
    }

    async fn write<T>(&self, write: impl Future<Output = Result<T, LakeError>>) -> Result<T, LakeError> {
        let left = self.left.fetch_sub(1, Ordering::SeqCst) - 1;
        if left > 0 || -left >= self.fails {
            return write.await;
        }
        if left == 0 && self.after {
            drop(write.await?);
        }
        Err(LakeError::Store { action: "write", path: "x".into(), reason: "No space left on device".into() })
    }
}

impl Writes for Failing {
    fn put_new(&self, path: String, bytes: Bytes) -> BoxFuture<'_, Result<Put, LakeError>> {
        Box::pin(self.write(self.inner.put_new(path, bytes)))
    }

    fn put(&self, path: String, bytes: Bytes) -> BoxFuture<'_, Result<(), LakeError>> {
        Box::pin(self.write(self.inner.put(path, bytes)))
    }

    fn delete(&self, path: String) -> BoxFuture<'_, Result<(), LakeError>> {
        Box::pin(self.write(self.inner.delete(path)))
    }
}

/// A store that gives no answer to the `k`th put of a commit, and carries it out only when its name is wanted again.
pub struct Late {
    inner: Arc<dyn Writes>,
    left: AtomicI64,
    late: Mutex<Option<(String, Bytes)>>,
}

impl Late {
    pub fn wrap(store: Store, k: i64) -> Store {
        store.with_writes(|inner| Arc::new(Late { inner, left: AtomicI64::new(k), late: Mutex::default() }))
    }
}

impl Writes for Late {
    fn put_new(&self, path: String, bytes: Bytes) -> BoxFuture<'_, Result<Put, LakeError>> {
        Box::pin(async move {
            if path.starts_with("commits/") && self.left.fetch_sub(1, Ordering::SeqCst) == 1 {
                *self.late.lock().unwrap() = Some((path.clone(), bytes));
                return Err(LakeError::Unanswered { path, reason: "timed out".into() });
            }
            let wanted = self.late.lock().unwrap().take_if(|(late, _)| *late == path);
            if let Some((path, bytes)) = wanted {
                assert_eq!(self.inner.put_new(path, bytes).await?, Put::New);
            }
            self.inner.put_new(path, bytes).await
        })
    }

    fn put(&self, path: String, bytes: Bytes) -> BoxFuture<'_, Result<(), LakeError>> {
        self.inner.put(path, bytes)
    }

    fn delete(&self, path: String) -> BoxFuture<'_, Result<(), LakeError>> {
        self.inner.delete(path)
    }
}
