//! What the names of prepared statements and portals stand for, as the target sees it.
//!
//! A Parse, Bind or Close takes effect when the target answers it, but what follows it in the pipeline is
//! judged before. Invariant: a change that the target refused or skipped never shows in `confirmed`.

use std::collections::{HashMap, VecDeque};

/// A map from names to what they stand for, with the changes that the target has not answered yet.
#[derive(Debug)]
pub(super) struct Slots<T> {
    named: HashMap<Box<[u8]>, Slot<T>>,
    unnamed: Slot<T>,
}

#[derive(Debug)]
struct Slot<T> {
    confirmed: Option<T>,
    pending: VecDeque<Option<T>>,
}

impl<T> Default for Slot<T> {
    fn default() -> Self {
        Self { confirmed: None, pending: VecDeque::new() }
    }
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self { named: HashMap::new(), unnamed: Slot::default() }
    }
}

impl<T> Slots<T> {
    /// Number of names.
    pub fn len(&self) -> usize {
        self.named.len()
    }

    /// What `name` will stand for when everything sent so far has succeeded.
    pub fn latest(&self, name: &[u8]) -> Option<&T> {
        let slot = if name.is_empty() { Some(&self.unnamed) } else { self.named.get(name) }?;
        slot.pending.back().map_or(slot.confirmed.as_ref(), Option::as_ref)
    }

    /// A message was sent that makes `name` stand for `change`, or for nothing.
    pub fn send(&mut self, name: &[u8], change: Option<T>) {
        if name.is_empty() {
            self.unnamed.pending.push_back(change);
        } else {
            self.named.entry(name.into()).or_default().pending.push_back(change);
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

    #[test]
    fn a_refused_change_leaves_what_was_there() {
        let mut slots = Slots::default();
        slots.send(b"s", Some(1));
        assert_eq!(slots.latest(b"s"), Some(&1), "the pipeline goes on with it");
        slots.settle(b"s", true);
        slots.send(b"s", Some(2));
        assert_eq!(slots.latest(b"s"), Some(&2));
        slots.settle(b"s", false);
        assert_eq!(slots.latest(b"s"), Some(&1), "the target refused: the name exists");
    }

    #[test]
    fn close_and_parse_in_one_pipeline_take_effect_in_order() {
        let mut slots = Slots::default();
        for change in [Some(1), None, Some(2)] {
            slots.send(b"", change);
        }
        assert_eq!(slots.latest(b""), Some(&2));
        slots.settle(b"", true);
        assert_eq!(slots.settle(b"", true), Some(1));
        slots.settle(b"", false);
        assert_eq!(slots.latest(b""), None);
    }

    #[test]
    fn names_that_stand_for_nothing_take_no_room() {
        let mut slots = Slots::default();
        for n in 0..1000u32 {
            slots.send(&n.to_be_bytes(), Some(n));
            slots.settle(&n.to_be_bytes(), n % 2 == 0);
        }
        assert_eq!(slots.len(), 500);
        assert_eq!(slots.clear().len(), 500);
        assert_eq!(slots.len(), 0);
    }
}
