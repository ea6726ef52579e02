//! What was read of data files, kept for the next reader: where each request takes tens of milliseconds, the footer of a file
//! is read once. Data files never change under their names.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

/// Bytes that are kept at most.
const LIMIT: usize = 64 << 20;

/// Ends of files, or small files whole; those that were used last.
#[derive(Debug, Default)]
pub(crate) struct Cache(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    /// By path: since which use, from which byte of the file on, and the bytes.
    ends: HashMap<Arc<str>, (u64, u64, Bytes)>,
    by_use: BTreeMap<u64, Arc<str>>,
    uses: u64,
    bytes: usize,
}

impl Cache {
    /// The end of a file: from which byte on, and the bytes.
    pub fn get(&self, path: &str) -> Option<(u64, Bytes)> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (path, (used, from, bytes)) = kept.ends.remove_entry(path)?;
        kept.by_use.remove(&used);
        let found = (from, bytes.clone());
        kept.add(path, from, bytes);
        Some(found)
    }

    /// Keeps the end of a file from a byte on.
    pub fn keep(&self, path: Arc<str>, from: u64, bytes: Bytes) {
        if bytes.len() > LIMIT / 8 {
            return;
        }
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((used, _, old)) = kept.ends.remove(&path) {
            kept.by_use.remove(&used);
            kept.bytes -= old.len();
        }
        kept.bytes += bytes.len();
        kept.add(path, from, bytes);
        while kept.bytes > LIMIT
            && let Some((_, path)) = kept.by_use.pop_first()
        {
            if let Some((_, _, old)) = kept.ends.remove(&path) {
                kept.bytes -= old.len();
            }
        }
    }
}

impl Kept {
    fn add(&mut self, path: Arc<str>, from: u64, bytes: Bytes) {
        self.uses += 1;
        self.by_use.insert(self.uses, path.clone());
        self.ends.insert(path, (self.uses, from, bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_used_last_stays_and_the_rest_makes_room() {
        let cache = Cache::default();
        let piece = |n: u8| Bytes::from(vec![n; LIMIT / 8]);
        for n in 0..8u8 {
            cache.keep(format!("{n}").into(), u64::from(n), piece(n));
        }
        assert_eq!(cache.get("0"), Some((0, piece(0))));
        cache.keep("8".into(), 8, piece(8));
        assert_eq!(cache.get("1"), None, "it was used longest ago");
        for n in [0, 2, 8] {
            assert_eq!(cache.get(&n.to_string()), Some((u64::from(n), piece(n))));
        }
        cache.keep("8".into(), 9, Bytes::from_static(b"other"));
        assert_eq!(cache.get("8"), Some((9, Bytes::from_static(b"other"))));
        cache.keep("large".into(), 0, Bytes::from(vec![0; LIMIT / 8 + 1]));
        assert_eq!(cache.get("large"), None);
    }
}
