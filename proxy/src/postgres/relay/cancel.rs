//! Cancel requests: clients hold keys of our making, which lead to the target's own.
//!
//! Invariant: a key is random, belongs to one open session, and is forgotten when that ends.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use subtle::ConstantTimeEq;

use crate::postgres::codec::startup::Version;
use crate::postgres::upstream::Target;

/// The keys of all open sessions.
#[derive(Default, Clone)]
pub(in crate::postgres) struct CancelKeys(Arc<Mutex<HashMap<i32, Vec<Entry>>>>);

struct Entry {
    ours: Vec<u8>,
    session: Session,
}

/// What a key cancels.
#[derive(Clone)]
pub(super) struct Session {
    pub target: Arc<Target>,
    pub address: SocketAddr,
    pub process: i32,
    pub key: Vec<u8>,
}

/// A key that is valid as long as this lives.
pub(super) struct CancelKey {
    keys: CancelKeys,
    process: i32,
    pub key: Vec<u8>,
}

impl CancelKeys {
    /// Makes a key for a session: 4 bytes in protocol 3.0, 32 from 3.2 on.
    pub(super) fn register(&self, version: Version, session: Session) -> Result<CancelKey, getrandom::Error> {
        let mut key = vec![0; if version >= Version::V3_2 { 32 } else { 4 }];
        getrandom::fill(&mut key)?;
        let process = session.process;
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry(process).or_default().push(Entry { ours: key.clone(), session });
        drop(all);
        Ok(CancelKey { keys: self.clone(), process, key })
    }

    /// What a cancel request names, if anything.
    pub(super) fn find(&self, process: i32, key: &[u8]) -> Option<Session> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut found = None;
        for entry in all.get(&process)? {
            if bool::from(entry.ours.ct_eq(key)) {
                found = Some(entry.session.clone());
            }
        }
        found
    }
}

impl Session {
    /// Asks the target to cancel what the session runs.
    pub async fn cancel(&self) {
        if self.key.is_empty() {
            return;
        }
        if let Err(error) = self.target.cancel(self.address, self.process, &self.key).await {
            tracing::warn!(event = "cancel_failed", error = %error, "a cancel request did not reach the target");
        }
    }
}

impl Drop for CancelKey {
    fn drop(&mut self) {
        let mut all = self.keys.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entries) = all.get_mut(&self.process) {
            entries.retain(|e| e.ours != self.key);
            if entries.is_empty() {
                all.remove(&self.process);
            }
        }
    }
}
