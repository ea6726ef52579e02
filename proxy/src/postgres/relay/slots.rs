//! What the names of prepared statements and portals stand for, as the target sees it.
//!
//! A Parse, Bind or Close takes effect when the target answers it, but what follows it in the pipeline is
//! judged before. Within one batch that is safe: if the change fails, the target skips what uses it. Behind a
//! Sync or Query it is not: the target goes on with what the name stood for before, so that whoever asks must
//! wait. Invariant: a change that the target refused or skipped never shows in `confirmed`, and nothing is
//! judged by a change of an earlier batch that the target has not answered.

use std::collections::{HashMap, VecDeque};

/// A map from names to what they stand for, with the changes that the target has not answered yet.
#[derive(Debug)]
pub(super) struct Slots<T> {
    named: HashMap<Box<[u8]>, Slot<T>>,
    unnamed: Slot<T>,
    /// Numbers of the last requests on their way that change names by SQL.
    touched: HashMap<Box<[u8]>, u64>,
    /// The last request that changes every name.
    all_touched: Option<u64>,
}

#[derive(Debug)]
struct Slot<T> {
    confirmed: Option<T>,
    pending: VecDeque<Option<T>>,
    /// Number of the request that changed it last.
    changed: u64,
}

/// Where the requests of a session stand, by their numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Window {
    /// The oldest without an answer.
    pub oldest: u64,
    /// The first of the batch that is being sent.
    pub batch: u64,
    /// The next.
    pub next: u64,
}

/// What a name stands for when the target comes to the next request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Latest<T> {
    This(T),
    /// Nothing, or nothing that is known here.
    Unknown,
    /// Only the target's answer tells.
    Wait,
}

/// Names on their way that SQL changes, each for itself.
const MAX_TOUCHED: usize = 4096;

impl<T> Latest<T> {
    /// What it stands for, if that is known.
    pub fn known(self) -> Option<T> {
        match self {
            Latest::This(this) => Some(this),
            Latest::Unknown | Latest::Wait => None,
        }
    }
}

impl<T> Default for Slot<T> {
    fn default() -> Self {
        Self { confirmed: None, pending: VecDeque::new(), changed: 0 }
    }
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self { named: HashMap::new(), unnamed: Slot::default(), touched: HashMap::new(), all_touched: None }
    }
}

impl<T> Slots<T> {
    /// Number of names.
    pub fn len(&self) -> usize {
        self.named.len()
    }

    /// What `name` will stand for when the target comes to the next request, if it comes to it.
    pub fn latest(&self, name: &[u8], window: Window) -> Latest<&T> {
        let slot = if name.is_empty() { Some(&self.unnamed) } else { self.named.get(name) };
        let sent = slot.and_then(|slot| slot.pending.back().map(|change| (slot.changed, change.as_ref())));
        let by_sql = [self.touched.get(name).copied(), self.all_touched];
        let by_sql = by_sql.into_iter().flatten().filter(|at| *at >= window.oldest && !name.is_empty()).max();
        match (sent, by_sql) {
            (Some((at, change)), by_sql) if by_sql.is_none_or(|sql| sql < at) => match change {
                _ if at < window.batch => Latest::Wait,
                Some(change) => Latest::This(change),
                None => Latest::Unknown,
            },
            (_, Some(at)) if at < window.batch => Latest::Wait,
            (_, Some(_)) => Latest::Unknown,
            (_, None) => match slot.and_then(|slot| slot.confirmed.as_ref()) {
                Some(confirmed) => Latest::This(confirmed),
                None => Latest::Unknown,
            },
        }
    }

    /// Request number `at` is sent, which makes `name` stand for `change`, or for nothing.
    pub fn send(&mut self, name: &[u8], at: u64, change: Option<T>) {
        let slot =
            if name.is_empty() { &mut self.unnamed } else { self.named.entry(name.into()).or_default() };
        slot.pending.push_back(change);
        slot.changed = at;
    }

    /// A statement of SQL is sent that changes what `name` stands for; every name without one.
    pub fn touch(&mut self, name: Option<&[u8]>, window: Window) {
        if self.touched.len() >= MAX_TOUCHED || window.oldest == window.next {
            self.touched.retain(|_, at| *at >= window.oldest);
        }
        match name {
            Some(name) if self.touched.len() < MAX_TOUCHED => {
                self.touched.insert(name.into(), window.next);
            }
            _ => self.all_touched = Some(window.next),
        }
    }

    /// The target answered the oldest change of `name`, or skipped it. Gives what the name stood for before
    /// when that is replaced.
    pub fn settle(&mut self, name: &[u8], done: bool) -> Option<T> {
        let slot = if name.is_empty() { Some(&mut self.unnamed) } else { self.named.get_mut(name) }?;
        let change = slot.pending.pop_front()?;
        let before = if done { std::mem::replace(&mut slot.confirmed, change) } else { None };
        if !name.is_empty() && slot.confirmed.is_none() && slot.pending.is_empty() {
            self.named.remove(name);
        }
        before
    }

    /// The target made `name` stand for `change` by a statement of SQL.
    pub fn set(&mut self, name: &[u8], change: Option<T>) -> Option<T> {
        let slot =
            if name.is_empty() { &mut self.unnamed } else { self.named.entry(name.into()).or_default() };
        let before = std::mem::replace(&mut slot.confirmed, change);
        if !name.is_empty() && slot.confirmed.is_none() && slot.pending.is_empty() {
            self.named.remove(name);
        }
        before
    }

    /// The target forgot everything that it had confirmed.
    pub fn clear(&mut self) -> Vec<T> {
        let mut gone: Vec<T> = self.unnamed.confirmed.take().into_iter().collect();
        if !self.named.is_empty() {
            gone.extend(self.named.values_mut().filter_map(|slot| slot.confirmed.take()));
            self.named.retain(|_, slot| !slot.pending.is_empty());
        }
        gone
    }

    /// The target forgot every name that it had confirmed; what has none stays.
    pub fn clear_named(&mut self) {
        self.named.retain(|_, slot| {
            slot.confirmed = None;
            !slot.pending.is_empty()
        });
    }

    /// Everything that is confirmed or on its way.
    pub fn drain(&mut self) -> impl Iterator<Item = T> + use<T> {
        let unnamed = std::mem::take(&mut self.unnamed);
        let slots = std::mem::take(&mut self.named).into_values().chain([unnamed]);
        slots.flat_map(|slot| slot.confirmed.into_iter().chain(slot.pending.into_iter().flatten()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(oldest: u64, batch: u64, next: u64) -> Window {
        Window { oldest, batch, next }
    }

    #[test]
    fn a_refused_change_leaves_what_was_there() {
        let mut slots = Slots::default();
        slots.send(b"s", 0, Some(1));
        assert_eq!(slots.latest(b"s", window(0, 0, 1)), Latest::This(&1), "the batch goes on with it");
        slots.settle(b"s", true);
        slots.send(b"s", 1, Some(2));
        assert_eq!(slots.latest(b"s", window(1, 1, 2)), Latest::This(&2));
        slots.settle(b"s", false);
        assert_eq!(
            slots.latest(b"s", window(2, 1, 2)),
            Latest::This(&1),
            "the target refused: the name exists"
        );
    }

    #[test]
    fn behind_a_sync_an_unanswered_change_says_nothing() {
        let mut slots = Slots::default();
        for name in [&b"s"[..], b""] {
            slots.send(name, 0, Some(1));
            slots.settle(name, true);
            slots.send(name, 1, Some(2));
            // Request 2 was a Sync.
            assert_eq!(slots.latest(name, window(1, 3, 3)), Latest::Wait);
            slots.send(name, 3, Some(3));
            assert_eq!(slots.latest(name, window(1, 3, 4)), Latest::This(&3), "a change of this batch");
            slots.settle(name, false);
            assert_eq!(slots.latest(name, window(3, 3, 4)), Latest::This(&3));
            slots.settle(name, false);
            assert_eq!(slots.latest(name, window(4, 3, 4)), Latest::This(&1));
        }
    }

    #[test]
    fn what_sql_changes_is_waited_for_or_unknown() {
        for name in [Some(&b"s"[..]), None] {
            let mut slots = Slots::default();
            slots.send(b"s", 0, Some(1));
            slots.settle(b"s", true);
            slots.touch(name, window(1, 1, 1));
            assert_eq!(slots.latest(b"s", window(1, 1, 2)), Latest::Unknown, "in its own batch");
            assert_eq!(slots.latest(b"s", window(1, 2, 2)), Latest::Wait, "behind it");
            assert_eq!(slots.latest(b"s", window(2, 2, 2)), Latest::This(&1), "answered");
        }
    }

    #[test]
    fn close_and_parse_in_one_pipeline_take_effect_in_order() {
        let mut slots = Slots::default();
        for (at, change) in [Some(1), None, Some(2)].into_iter().enumerate() {
            slots.send(b"", at as u64, change);
        }
        assert_eq!(slots.latest(b"", window(0, 0, 3)), Latest::This(&2));
        slots.settle(b"", true);
        assert_eq!(slots.settle(b"", true), Some(1));
        slots.settle(b"", false);
        assert_eq!(slots.latest(b"", window(3, 0, 3)), Latest::Unknown);
    }

    #[test]
    fn names_that_stand_for_nothing_take_no_room() {
        let mut slots = Slots::default();
        for n in 0..1000u32 {
            slots.send(&n.to_be_bytes(), u64::from(n), Some(n));
            slots.settle(&n.to_be_bytes(), n % 2 == 0);
        }
        assert_eq!(slots.len(), 500);
        assert_eq!(slots.clear().len(), 500);
        assert_eq!(slots.len(), 0);
    }
}
