//! What a statement does, by the server's own grammar and the target's catalog.
//!
//! Invariant: whatever text comes in, facts come out; what could not be established is said in `opaque`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bodycam_record::{Id16, TenantKey};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

mod analyse;
pub mod builtin;
mod cache;
pub mod catalog;
pub mod facts;
pub mod lexer;
pub mod names;
mod pool;
pub mod redact;
mod search;
pub mod settings;
mod statement;
mod template;
mod walk;

pub use catalog::{CatalogSnapshot, SharedCatalog};
pub use facts::{Facts, Reference, SettingChange};
pub use names::SessionNames;
pub use redact::redact_secrets;
pub use settings::{SearchPath, Settings};

use cache::Cache;
use pool::Pool;

/// How statements are analysed: `[postgres.inspect]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct InspectConfig {
    /// Longest statement that is analysed, in bytes; longer ones are recorded as `too-large`.
    pub max_analysed_bytes: usize,
    /// Statements up to this many bytes are analysed on the connection's own core, longer ones by the pool.
    pub inline_bytes: usize,
    /// Threads of the pool.
    pub pool_threads: usize,
    /// Statements of one principal that the pool works on at a time; more wait.
    pub pool_per_principal: usize,
    /// Statements kept in the cache.
    pub cache_entries: usize,
    /// Bytes kept in the cache.
    pub cache_bytes: usize,
    /// Seconds between two readings of the target's catalog.
    pub catalog_refresh_seconds: u64,
}

/// Analyses statements for all cores: from the cache, at once, or in the pool. Cheap to clone.
#[derive(Clone)]
pub struct Inspector(Arc<Inner>);

struct Inner {
    config: InspectConfig,
    tenant: TenantKey,
    cache: Cache,
    pool: Pool,
    hits: AtomicU64,
    misses: AtomicU64,
}

/// How often the cache answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheCounts {
    pub hits: u64,
    pub misses: u64,
}

impl Default for InspectConfig {
    fn default() -> Self {
        Self {
            max_analysed_bytes: 256 * 1024,
            inline_bytes: 8 * 1024,
            pool_threads: 2,
            pool_per_principal: 1,
            cache_entries: 10_000,
            cache_bytes: 32 * 1024 * 1024,
            catalog_refresh_seconds: 60,
        }
    }
}

impl Inspector {
    /// Starts the pool's threads.
    pub fn new(config: InspectConfig, tenant: TenantKey) -> std::io::Result<Self> {
        let mut key = [0; 32];
        getrandom::fill(&mut key).map_err(std::io::Error::other)?;
        let cache = Cache::new(key, config.cache_entries, config.cache_bytes);
        let pool = Pool::new(config.pool_threads, config.pool_per_principal)?;
        let (hits, misses) = (AtomicU64::new(0), AtomicU64::new(0));
        Ok(Self(Arc::new(Inner { config, tenant, cache, pool, hits, misses })))
    }

    /// The facts of `sql` for a session of `principal` under these settings and this catalog.
    pub async fn analyse(
        &self,
        sql: &str,
        settings: &Settings,
        catalog: &Arc<CatalogSnapshot>,
        principal: Id16,
    ) -> Arc<Facts> {
        let inner = &self.0;
        let key = inner.cache.key_of(sql, settings, catalog.generation());
        if let Some(facts) = inner.cache.get(&key) {
            inner.hits.fetch_add(1, Ordering::Relaxed);
            return facts;
        }
        inner.misses.fetch_add(1, Ordering::Relaxed);
        let max = inner.config.max_analysed_bytes;
        let facts = if sql.len() <= inner.config.inline_bytes {
            analyse::analyse(sql, settings, catalog, &inner.tenant, max)
        } else {
            let (sql, settings, catalog) = (sql.to_owned(), settings.clone(), catalog.clone());
            let tenant = inner.tenant.clone();
            let work = move || analyse::analyse(&sql, &settings, &catalog, &tenant, max);
            inner.pool.run(principal, work).await.unwrap_or_else(|| {
                tracing::error!(
                    event = "inspect.failed",
                    "an analysis ended without facts; it counts as unparsed"
                );
                // Its secrets could not be looked for, so that nothing of it may be kept.
                Facts { redacted: Some("".into()), ..Facts::unparsed("unparsed") }
            })
        };
        let facts = Arc::new(facts);
        inner.cache.put(key, facts.clone());
        facts
    }

    /// How often the cache answered since the start.
    pub fn cache_counts(&self) -> CacheCounts {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        CacheCounts { hits: load(&self.0.hits), misses: load(&self.0.misses) }
    }
}
