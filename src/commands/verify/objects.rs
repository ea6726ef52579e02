//! A lake in an object store, as the verifier reads it.
//!
//! Invariant: a store that does not answer is no verdict. The first such failure is kept, and makes the run one that could
//! not be done, whatever the verifier made of the objects that it did not get.

use std::sync::{Mutex, PoisonError};

use anyhow::{Result, bail};
use bodycam_lake::{LakeError, Store};
use bodycam_verify::Files;
use bytes::{Bytes, BytesMut};
use tokio::runtime::Runtime;

use super::MAX_OBJECT;
use crate::config::LakeConfig;

/// Bytes that are asked for at once.
const PIECE: u64 = 8 << 20;

/// The objects of a lake.
pub struct Objects {
    store: Store,
    runtime: Runtime,
    failed: Mutex<Option<String>>,
}

impl Objects {
    /// Opens the store of a lake. Fails when there is none.
    pub fn open(lake: &LakeConfig) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let store = lake.open()?;
        runtime.block_on(store.reach())?;
        // A bucket that is not there, or that may not be read, must not look like a lake that was emptied.
        runtime.block_on(store.names("streams"))?;
        Ok(Self { store, runtime, failed: Mutex::default() })
    }

    /// An error when the store failed to give an object.
    pub fn answered(&self) -> Result<()> {
        match self.failed.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(why) => bail!("{why}"),
            None => Ok(()),
        }
    }

    fn noted<T>(&self, result: Result<T, LakeError>) -> Result<T, String> {
        result.map_err(|err| {
            let why = err.to_string();
            if matches!(err, LakeError::Store { action: "read" | "list", .. }) {
                self.failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| why.clone());
            }
            why
        })
    }

    async fn object(&self, path: &str, limit: u64) -> Result<Option<Bytes>, LakeError> {
        let wanted = limit.saturating_add(1);
        let mut whole = BytesMut::new();
        loop {
            let from = whole.len() as u64;
            let to = wanted.min(from + PIECE);
            // Asked first, a range of nothing would be an error.
            let there = match from {
                0 => self.store.get_start(path, to).await?,
                _ => self.store.get_range(path, from..to).await?,
            };
            let Some(piece) = there else { return Ok(None) };
            let full = piece.len() as u64 == to - from;
            if from == 0 && !full {
                return Ok(Some(piece));
            }
            whole.extend_from_slice(&piece);
            if !full || to == wanted || self.store.size(path).await? == Some(whole.len() as u64) {
                return Ok(Some(whole.freeze()));
            }
        }
    }
}

impl Files for Objects {
    fn read(&self, path: &str, limit: u64) -> Result<Option<Bytes>, String> {
        if limit > MAX_OBJECT {
            let size = self.noted(self.runtime.block_on(self.store.size(path)))?;
            if size.is_some_and(|size| size > MAX_OBJECT) {
                return Err(format!(
                    "{} bytes are more than can be checked at once",
                    size.unwrap_or_default()
                ));
            }
        }
        self.noted(self.runtime.block_on(self.object(path, limit)))
    }

    fn list(&self, folder: &str) -> Result<Option<Vec<String>>, String> {
        self.noted(self.runtime.block_on(self.store.listed(folder.trim_end_matches('/'))))
            .map(|listed| Some(listed.into_iter().map(|object| object.path).collect()))
    }
}
