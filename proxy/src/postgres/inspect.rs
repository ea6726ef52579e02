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
mod shape;
mod statement;
mod template;
mod walk;

pub use catalog::{CatalogSnapshot, SharedCatalog};
pub use facts::{Facts, Reference, SettingChange};
pub use names::SessionNames;
pub use redact::{SecretParameters, redact_secrets, without_literals};
pub use settings::{SearchPath, Settings};

use cache::Cache;
use pool::Pool;
use redact::may_hold_secret;

/// Deepest shape that is analysed on a core. Handing over a tree takes some 20 KiB of stack for each level of
/// messages, of which a nested query makes six; a core's stack may have no more than 2 MiB.
const INLINE_DEPTH: usize = 8;

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
        let generation = catalog.generation();
        let key = inner.cache.key_of(sql, settings, generation);
        if let Some(facts) = inner.cache.get(&key) {
            inner.hits.fetch_add(1, Ordering::Relaxed);
            return facts;
        }
        let max = inner.config.max_analysed_bytes;
        let short = sql.len() <= inner.config.inline_bytes;
        let mut by_shape = None;
        let mut inline = false;
        if short {
            let (key, shape) = inner.cache.shape_of(sql, settings, generation);
            inline = shape.depth <= INLINE_DEPTH;
            if shape.reusable && !may_hold_secret(sql, settings.standard_conforming_strings) {
                if let Some(facts) = inner.cache.get(&key) {
                    inner.hits.fetch_add(1, Ordering::Relaxed);
                    return facts;
                }
                by_shape = Some(key);
            }
        }
        inner.misses.fetch_add(1, Ordering::Relaxed);
        let facts = if inline {
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
        // A text that does not parse may do so with other values.
        let parsed = facts.fingerprint.is_some();
        // Which literals of an INSERT are secrets the catalog tells, and each has a text of its own.
        let same = parsed && facts.redacted.is_none();
        inner.cache.put(by_shape.filter(|_| same).unwrap_or(key), facts.clone());
        facts
    }

    /// How often the cache answered since the start.
    pub fn cache_counts(&self) -> CacheCounts {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        CacheCounts { hits: load(&self.0.hits), misses: load(&self.0.misses) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inspector() -> Inspector {
        Inspector::new(InspectConfig::default(), TenantKey::new([7; 32])).unwrap()
    }

    async fn facts(inspector: &Inspector, sql: &str) -> Arc<Facts> {
        let catalog = Arc::new(catalog::tests::shop());
        let before = catalog::SharedCatalog::default();
        before.put((*catalog).clone());
        inspector.analyse(sql, &Settings::initial("bob"), &before.current(), Id16::ZERO).await
    }

    #[tokio::test]
    async fn texts_that_differ_in_values_are_analysed_once() {
        let (inspector, catalog) = (inspector(), Arc::new(catalog::tests::shop()));
        let settings = Settings::initial("bob");
        let of = |sql: &'static str| inspector.analyse(sql, &settings, &catalog, Id16::ZERO);
        let first = of("select name from customers where id = 1").await;
        let second = of("select name from customers where id = 2").await;
        assert!(Arc::ptr_eq(&first, &second));
        assert_eq!(inspector.cache_counts(), CacheCounts { hits: 1, misses: 1 });
        // A secret in a value is looked for in every text.
        let plain = of("select name from customers where name = 'ann'").await;
        assert_eq!(plain.redacted, None);
        let secret = of("select name from customers where name = 'password=x'").await;
        assert_eq!(
            secret.redacted.as_deref(),
            Some("select name from customers where name = 'password=***'")
        );
        assert_eq!(of("select name from customers limit 1").await.limit_rows, Some(1));
        assert_eq!(of("select name from customers limit 2").await.limit_rows, Some(2));
    }

    #[tokio::test]
    async fn deep_and_long_texts_are_analysed_on_a_thread_with_room() {
        let inspector = inspector();
        for sql in [
            format!("select {} id from customers", "not ".repeat(48)),
            format!("select {} id from customers", "not ".repeat(2000)),
            format!("select 1 from customers where {}", vec!["id = 1"; 20_000].join(" or ")),
            format!("select {}1 from customers{}", "(select ".repeat(60), ")".repeat(60)),
            format!("select id{} from customers", " + 1".repeat(1500)),
        ] {
            let facts = facts(&inspector, &sql).await;
            assert_eq!(facts.relations_read, ["public.customers"], "{:.60}", sql);
        }
    }

    /// Test threads have 2 MiB, as a core may have: what is analysed here must fit.
    #[tokio::test]
    async fn the_deepest_texts_that_stay_on_a_core_fit_its_stack() {
        let inspector = inspector();
        for n in 1..14 {
            for (open, close) in [
                ("(select ", ")"),
                ("(select id from customers where id = (select ", "))"),
                ("(select x from (select 1 as x union select ", ") y)"),
                ("case when true then ", " end"),
                ("card_of(id => ", ")"),
                ("array[", "]"),
                ("(with w as (select 1) select ", ")"),
                ("exists (select 1 from customers c join orders o on ", ")"),
                ("sum(1) filter (where ", ") over (partition by id)"),
            ] {
                let sql = format!("select {}1{} from customers", open.repeat(n), close.repeat(n));
                let facts = facts(&inspector, &sql).await;
                assert!(facts.relations_read.contains(&"public.customers".to_owned()), "{sql}");
            }
        }
    }

    #[test]
    fn a_configuration_with_an_unknown_key_is_refused() {
        assert!(toml::from_str::<InspectConfig>("inline_bytes = 1024").is_ok());
        assert!(toml::from_str::<InspectConfig>("inline_byte = 1024").is_err());
    }
}
