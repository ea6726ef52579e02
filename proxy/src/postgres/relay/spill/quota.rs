//! How much may be kept aside at a time: by one principal, and by all together.
//!
//! Invariant: what a message announces is counted before its first byte is kept, and given back when the last has
//! been sent on or the session ends.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use bodycam_record::Id16;

/// Messages of the greatest size that one principal may have kept aside.
const PER_PRINCIPAL: usize = 2;
/// The same for all principals.
const TOGETHER: usize = 8;

/// What is kept aside by all sessions of the process. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(in crate::postgres) struct Quota(Arc<Mutex<HashMap<Id16, usize>>>);

/// Room for one message; given back when it is dropped.
#[derive(Debug)]
pub(in crate::postgres) struct Room {
    quota: Quota,
    principal: Id16,
    bytes: usize,
}

impl Quota {
    /// Room for `bytes` of `principal`, where a message may have `greatest`; none when too much is kept already.
    pub(in crate::postgres) fn take(&self, principal: Id16, bytes: usize, greatest: usize) -> Option<Room> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let own = kept.get(&principal).copied().unwrap_or(0).saturating_add(bytes);
        let all = kept.values().fold(bytes, |sum, kept| sum.saturating_add(*kept));
        if own > greatest.saturating_mul(PER_PRINCIPAL) || all > greatest.saturating_mul(TOGETHER) {
            return None;
        }
        kept.insert(principal, own);
        Some(Room { quota: self.clone(), principal, bytes })
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let mut kept = self.quota.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = kept.get_mut(&self.principal) {
            *own = own.saturating_sub(self.bytes);
            if *own == 0 {
                kept.remove(&self.principal);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_principal_has_its_share_and_all_have_theirs() {
        let quota = Quota::default();
        let of = |n: u8, bytes| quota.take(Id16([n; 16]), bytes, 100);
        let first = of(1, 100).unwrap();
        let _second = of(1, 100).unwrap();
        assert!(of(1, 1).is_none(), "a principal has two");
        drop(first);
        let _third = of(1, 100).unwrap();
        let others: Vec<_> = (2..5).flat_map(|n| [of(n, 100).unwrap(), of(n, 100).unwrap()]).collect();
        assert!(of(9, 1).is_none(), "all have eight");
        drop(others);
        assert!(of(9, 100).is_some());
        assert_eq!(quota.0.lock().unwrap().len(), 1, "who keeps nothing takes no room");
    }
}
