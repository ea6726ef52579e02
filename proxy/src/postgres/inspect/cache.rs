//! Facts of statements that were seen before, by their exact text or their shape, the session's settings and
//! the catalog.
//!
//! Two halves: what is used moves to the young one; when that is full it becomes the old one, and what was
//! not used since is gone. Invariant: entries and bytes stay within their bounds, and a hit allocates nothing.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError};

use super::facts::Facts;
use super::settings::{SearchPath, Settings};
use super::shape::{Shape, shape};

/// Shares of the cache with a lock of their own.
const SHARDS: usize = 16;

/// What identifies an analysis: a keyed digest, which nobody can aim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key([u8; 32]);

/// The cache of all cores.
pub struct Cache {
    key: [u8; 32],
    shards: [Mutex<Shard>; SHARDS],
    /// Bounds of one half of one shard.
    entries: usize,
    bytes: usize,
}

#[derive(Default)]
struct Shard {
    young: Half,
    old: Half,
}

#[derive(Default)]
struct Half {
    facts: HashMap<Key, Arc<Facts>, BuildHasherDefault<FirstBytes>>,
    bytes: usize,
}

impl Cache {
    /// A cache of at most this many entries and bytes. `key` is random.
    pub fn new(key: [u8; 32], entries: usize, bytes: usize) -> Self {
        Self {
            key,
            shards: Default::default(),
            entries: (entries / SHARDS / 2).max(1),
            bytes: bytes / SHARDS / 2,
        }
    }

    /// The key of a text under these settings and this catalog.
    pub fn key_of(&self, sql: &str, settings: &Settings, generation: u64) -> Key {
        let mut hasher = self.hasher(b"text", settings, generation);
        hasher.update(sql.as_bytes());
        Key(*hasher.finalize().as_bytes())
    }

    /// The key of a text's shape under these settings and this catalog, and the shape.
    pub fn shape_of(&self, sql: &str, settings: &Settings, generation: u64) -> (Key, Shape) {
        let mut hasher = self.hasher(b"shape", settings, generation);
        let shape = shape(sql, settings.standard_conforming_strings, &mut hasher);
        (Key(*hasher.finalize().as_bytes()), shape)
    }

    fn hasher(&self, of: &[u8], settings: &Settings, generation: u64) -> blake3::Hasher {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(of);
        hasher.update(&generation.to_le_bytes());
        hasher.update(&[u8::from(settings.standard_conforming_strings), u8::from(settings.own_code)]);
        hasher.update(&(settings.temporary.len() as u64).to_le_bytes());
        for name in settings.temporary.iter() {
            hasher.update(&(name.len() as u64).to_le_bytes());
            hasher.update(name.as_bytes());
        }
        match &settings.search_path {
            SearchPath::Known(schemas) => {
                hasher.update(&(schemas.len() as u64).to_le_bytes());
                for schema in schemas.iter() {
                    hasher.update(&(schema.len() as u64).to_le_bytes());
                    hasher.update(schema.as_bytes());
                }
            }
            SearchPath::Unknown => {
                hasher.update(&u64::MAX.to_le_bytes());
            }
        }
        hasher
    }

    /// The facts under this key.
    pub fn get(&self, key: &Key) -> Option<Arc<Facts>> {
        let mut shard = self.shard(key)?.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(facts) = shard.young.facts.get(key) {
            return Some(facts.clone());
        }
        let facts = shard.old.facts.remove(key)?;
        self.insert(&mut shard, *key, facts.clone());
        Some(facts)
    }

    /// Keeps the facts under this key.
    pub fn put(&self, key: Key, facts: Arc<Facts>) {
        if let Some(shard) = self.shard(&key) {
            self.insert(&mut shard.lock().unwrap_or_else(PoisonError::into_inner), key, facts);
        }
    }

    /// Entries held.
    #[cfg(test)]
    fn len(&self) -> usize {
        let entries = |shard: &Mutex<Shard>| {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            shard.young.facts.len() + shard.old.facts.len()
        };
        self.shards.iter().map(entries).sum()
    }

    fn insert(&self, shard: &mut Shard, key: Key, facts: Arc<Facts>) {
        let weight = facts.weight();
        if weight > self.bytes {
            return;
        }
        if shard.young.facts.len() >= self.entries || shard.young.bytes + weight > self.bytes {
            shard.old = std::mem::take(&mut shard.young);
        }
        if shard.young.facts.insert(key, facts).is_none() {
            shard.young.bytes += weight;
        }
    }

    fn shard(&self, key: &Key) -> Option<&Mutex<Shard>> {
        self.shards.get(usize::from(key.0[31]) % SHARDS)
    }
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(&self.0);
    }
}

/// A digest is its own hash.
#[derive(Default)]
struct FirstBytes(u64);

impl Hasher for FirstBytes {
    fn write(&mut self, bytes: &[u8]) {
        if let Some(first) = bytes.first_chunk() {
            self.0 = u64::from_le_bytes(*first);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(template: &str) -> Arc<Facts> {
        Arc::new(Facts { template: Some(template.to_owned()), ..Facts::default() })
    }

    #[test]
    fn a_key_depends_on_text_settings_and_catalog() {
        let cache = Cache::new([1; 32], 100, 1 << 20);
        let settings = Settings::initial("bob");
        let of = |sql: &str, settings: &Settings, generation| cache.key_of(sql, settings, generation);
        let first = of("select 1", &settings, 1);
        assert_eq!(first, of("select 1", &settings, 1));
        assert_ne!(first, of("select 2", &settings, 1));
        assert_ne!(first, of("select 1", &settings, 2));
        assert_ne!(first, of("select 1", &Settings::initial("ann"), 1));
        let unknown = Settings { search_path: SearchPath::Unknown, ..settings.clone() };
        assert_ne!(first, of("select 1", &unknown, 1));
        let lax = Settings { standard_conforming_strings: false, ..settings };
        assert_ne!(first, of("select 1", &lax, 1));
    }

    #[test]
    fn what_is_used_stays_and_the_bounds_hold() {
        let cache = Cache::new([1; 32], 320, 1 << 20);
        let settings = Settings::initial("bob");
        let hot = cache.key_of("hot", &settings, 0);
        cache.put(hot, facts("hot"));
        for number in 0..10_000 {
            let key = cache.key_of(&format!("cold {number}"), &settings, 0);
            cache.put(key, facts("cold"));
            assert_eq!(cache.get(&hot).unwrap().template.as_deref(), Some("hot"), "{number}");
            assert!(cache.len() <= 320 + SHARDS);
        }
        let heavy = Arc::new(Facts { template: Some("x".repeat(1 << 20)), ..Facts::default() });
        let key = cache.key_of("heavy", &settings, 0);
        cache.put(key, heavy);
        assert!(cache.get(&key).is_none());
    }
}
