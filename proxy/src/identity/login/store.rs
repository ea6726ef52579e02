//! The tokens as they are kept in memory, so that a login costs one look at the store's version.
//!
//! Invariant: a store that cannot be read is trusted from memory for the grace of who asks, and no longer.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::Directory;
use crate::state::{ScramSalt, StateError, StoredToken};

/// A store that failed is trusted from memory this long for new logins.
pub(super) const LOGIN_GRACE: Duration = Duration::from_secs(5);
/// And this long for open sessions.
pub(super) const SESSION_GRACE: Duration = Duration::from_secs(30);
/// A store that keeps failing is logged so often.
const COMPLAIN: Duration = Duration::from_secs(10);

/// The tokens as last read.
#[derive(Clone)]
pub(super) struct Cached {
    pub(super) version: Option<u64>,
    pub(super) read_at: Instant,
    pub(super) complained_at: Option<Instant>,
    pub(super) store: Arc<Snapshot>,
}

#[derive(Default)]
pub(super) struct Snapshot {
    pub(super) by_id: HashMap<String, Arc<StoredToken>>,
    pub(super) by_principal: HashMap<String, Vec<Arc<StoredToken>>>,
    pub(super) salts: HashMap<String, ScramSalt>,
}

impl Directory {
    /// The tokens, read again when they changed; from memory while the store fails, for at most `grace`.
    pub(super) fn snapshot(&self, grace: Duration) -> Result<Arc<Snapshot>, StateError> {
        let mut cached = self.0.snapshot.lock().unwrap_or_else(PoisonError::into_inner);
        match self.read(&cached) {
            Ok((version, store)) => {
                let (read_at, complained_at) = (Instant::now(), None);
                *cached = Cached { version: Some(version), read_at, complained_at, store };
                Ok(cached.store.clone())
            }
            Err(error) => {
                if cached.complained_at.is_none_or(|at| at.elapsed() >= COMPLAIN) {
                    cached.complained_at = Some(Instant::now());
                    tracing::error!(event = "state.unreadable", %error, "judging by the tokens last read: logins for 5 s, open sessions for 30 s");
                }
                if cached.version.is_none() || cached.read_at.elapsed() > grace {
                    return Err(error);
                }
                Ok(cached.store.clone())
            }
        }
    }

    fn read(&self, cached: &Cached) -> Result<(u64, Arc<Snapshot>), StateError> {
        let version = self.0.state.version()?;
        if cached.version == Some(version) {
            return Ok((version, cached.store.clone()));
        }
        // Read after the version: a change in between makes the next look read again.
        let mut store =
            Snapshot { salts: self.0.state.salts()?.into_iter().collect(), ..Snapshot::default() };
        for token in self.0.state.tokens()?.into_iter().map(Arc::new) {
            store.by_principal.entry(token.principal.clone()).or_default().push(token.clone());
            store.by_id.insert(token.id.clone(), token);
        }
        Ok((version, Arc::new(store)))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use bodycam_record::{Id16, TenantKey};

    use super::super::tests::{DAY, NOW, house};
    use super::super::{Ended, LoginRefused};
    use super::*;
    use crate::identity::roster::tests::roster;
    use crate::state::{SqliteState, State};

    /// A store that can be switched off.
    struct Switch(Arc<SqliteState>, AtomicBool);

    impl State for Switch {
        fn version(&self) -> Result<u64, StateError> {
            if self.1.load(Ordering::Relaxed) {
                return Err(StateError::Malformed { what: "everything" });
            }
            self.0.version()
        }
        fn tokens(&self) -> Result<Vec<StoredToken>, StateError> {
            self.0.tokens()
        }
        fn salts(&self) -> Result<Vec<(String, ScramSalt)>, StateError> {
            self.0.salts()
        }
        fn salt_of(&self, principal: &str) -> Result<ScramSalt, StateError> {
            self.0.salt_of(principal)
        }
        fn add_token(&self, token: &StoredToken) -> Result<(), StateError> {
            self.0.add_token(token)
        }
        fn revoke_token(&self, id: &str, now_ns: i64) -> Result<bool, StateError> {
            self.0.revoke_token(id, now_ns)
        }
        fn decoy_key(&self) -> Result<[u8; 32], StateError> {
            self.0.decoy_key()
        }
        fn sighting(&self, c: Id16, a: Id16, now_ns: i64, since_ns: i64) -> Result<i64, StateError> {
            self.0.sighting(c, a, now_ns, since_ns)
        }
    }

    #[test]
    fn without_the_store_logins_end_after_5_s_and_sessions_after_30_s() {
        let house = house();
        let token = house.issue("ann", DAY);
        let switch = Arc::new(Switch(house.state.clone(), false.into()));
        let directory = Directory::new(TenantKey::new([1; 32]), roster(), switch.clone()).unwrap();
        let login = || directory.by_token(None, &token.text, "token", NOW);
        let set = |off| switch.1.store(off, Ordering::Relaxed);
        let last_read = || directory.0.snapshot.lock().unwrap().read_at;
        let session = login().unwrap();
        // Nobody logs in for an hour; the store is read all the same.
        let age = |by: u64| {
            let mut cached = directory.0.snapshot.lock().unwrap();
            cached.read_at = Instant::now().checked_sub(Duration::from_secs(by)).unwrap();
        };
        age(3600);
        let deadline = Instant::now() + Duration::from_secs(10);
        while last_read().elapsed() > Duration::from_secs(2) {
            assert!(Instant::now() < deadline, "nobody reads the store");
            std::thread::sleep(Duration::from_millis(20));
        }
        set(true);
        assert!(login().is_ok());
        age(4);
        assert!(login().is_ok());
        age(6);
        assert_eq!(login().unwrap_err(), LoginRefused::StoreUnavailable);
        age(28);
        assert!(directory.principal_still_valid(&session, NOW).is_ok());
        age(31);
        assert_eq!(directory.principal_still_valid(&session, NOW), Err(Ended::StoreUnavailable));
        set(false);
        assert!(login().is_ok());
    }
}
