//! How many sessions each principal has open in this gateway, over all protocols and cores.
//!
//! A listener's limit counts the sessions of its own protocol: idle connections of a proxy must not keep anybody from
//! the database. Only what the roster says of a principal counts all of them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use bodycam_record::PrincipalRef;

/// Counts open sessions per principal and protocol.
#[derive(Debug, Clone, Default)]
pub struct SessionSlots {
    open: Arc<Mutex<HashMap<PrincipalRef, Counts>>>,
}

/// Sessions by protocol; there are few.
type Counts = Vec<(&'static str, u32)>;

/// How many sessions a principal may have open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// With everything together: the roster says so.
    Overall(u32),
    /// With the protocol at hand: the listener says so.
    Here(u32),
}

/// One session's place; given back when it is dropped.
#[derive(Debug)]
pub struct Slot {
    slots: SessionSlots,
    principal: PrincipalRef,
    protocol: &'static str,
}

impl Limit {
    /// That of the roster, else that of the listener.
    pub fn of(roster: Option<u32>, listener: u32) -> Self {
        roster.map_or(Limit::Here(listener), Limit::Overall)
    }

    /// The number.
    pub fn value(self) -> u32 {
        match self {
            Limit::Overall(value) | Limit::Here(value) => value,
        }
    }
}

impl SessionSlots {
    /// Takes a place for a session of `principal` over `protocol`, unless it has as many open as it may.
    pub fn enter(&self, principal: PrincipalRef, protocol: &'static str, limit: Limit) -> Option<Slot> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let counts = open.entry(principal).or_default();
        let counted = counts.iter().filter(|(of, _)| matches!(limit, Limit::Overall(_)) || *of == protocol);
        if counted.map(|(_, count)| u64::from(*count)).sum::<u64>() >= u64::from(limit.value()) {
            return None;
        }
        match counts.iter_mut().find(|(of, _)| *of == protocol) {
            Some((_, count)) => *count += 1,
            None => counts.push((protocol, 1)),
        }
        Some(Slot { slots: self.clone(), principal, protocol })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut open = self.slots.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(counts) = open.get_mut(&self.principal) {
            for (_, count) in counts.iter_mut().filter(|(of, _)| *of == self.protocol) {
                *count = count.saturating_sub(1);
            }
            counts.retain(|(_, count)| *count > 0);
            if counts.is_empty() {
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
        let enter = |principal| slots.enter(principal, "postgres", Limit::Here(1));
        let first = enter(a);
        assert!(first.is_some());
        assert!(enter(a).is_none());
        assert!(enter(Id16([2; 16])).is_some(), "another principal is not concerned");
        drop(first);
        assert!(enter(a).is_some());
        drop(slots.enter(a, "http", Limit::Here(1)));
        assert!(slots.open.lock().unwrap().is_empty());
    }

    #[test]
    fn idle_connections_to_one_listener_take_no_place_at_another() {
        let slots = SessionSlots::default();
        let a = Id16([1; 16]);
        let idle: Vec<_> = (0..256).map(|_| slots.enter(a, "http", Limit::of(None, 256)).unwrap()).collect();
        assert!(slots.enter(a, "http", Limit::of(None, 256)).is_none());
        let query = slots.enter(a, "postgres", Limit::of(None, 100));
        assert!(query.is_some());
        // The roster counts them together.
        assert!(slots.enter(a, "postgres", Limit::of(Some(257), 100)).is_none());
        drop(idle);
        assert!(slots.enter(a, "postgres", Limit::of(Some(2), 100)).is_some());
    }
}
