//! How many sessions each principal has open in this gateway, over all protocols and cores.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use bodycam_record::PrincipalRef;

/// Counts open sessions per principal.
#[derive(Debug, Clone, Default)]
pub struct SessionSlots {
    open: Arc<Mutex<HashMap<PrincipalRef, u32>>>,
}

/// One session's place; given back when it is dropped.
#[derive(Debug)]
pub struct Slot {
    slots: SessionSlots,
    principal: PrincipalRef,
}

impl SessionSlots {
    /// Takes a place for `principal`, unless it has `limit` open already.
    pub fn enter(&self, principal: PrincipalRef, limit: u32) -> Option<Slot> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(principal).or_default();
        if *count >= limit {
            return None;
        }
        *count += 1;
        Some(Slot { slots: self.clone(), principal })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut open = self.slots.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.principal) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                open.remove(&self.principal);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bodycam_record::Id16;

    #[test]
    fn a_place_is_given_back_when_its_session_ends() {
        let slots = SessionSlots::default();
        let a = Id16([1; 16]);
        let first = slots.enter(a, 1);
        assert!(first.is_some());
        assert!(slots.enter(a, 1).is_none());
        assert!(slots.enter(Id16([2; 16]), 1).is_some(), "another principal is not concerned");
        drop(first);
        assert!(slots.enter(a, 1).is_some());
    }
}
