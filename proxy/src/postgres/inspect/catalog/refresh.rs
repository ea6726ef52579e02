//! Reading the catalog over a side connection, again and again.
//!
//! The connection is the gateway's own: it carries no statement of any client. Invariant: whatever happens to
//! it, the last good snapshot stays, traffic goes on, and somebody is told.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bodycam_record::shown;
use tokio::time::Instant;
use tokio_postgres::{Client, Config, NoTls};

use super::code::HiddenCode;
use super::{CatalogSnapshot, Relation, SharedCatalog};
use crate::postgres::upstream::UpstreamError;

/// Longest time for connecting, and for reading once.
const PATIENCE: Duration = Duration::from_secs(30);

/// The wait after the first failure; it doubles with each further one up to the refresh interval.
const RETRY: Duration = Duration::from_secs(1);

/// The least time between two readings, however many are asked for.
const GAP: Duration = Duration::from_millis(200);

/// Readings after which a database that no session uses is forgotten.
const IDLE_READINGS: u32 = 10;

/// Databases that are read at the same time.
const MAX_DATABASES: usize = 256;

// What is asked here names everything by its schema, operators and types as well: whoever may create in a schema of the
// search path could put a function of their own behind `=`. So `IN` and `<>` are left out, whose operators cannot be
// named in full. The session's path is pinned besides.

const RELATIONS: &str = "
    SELECT c.oid, n.nspname::pg_catalog.text, c.relname::pg_catalog.text, c.relkind::pg_catalog.text,
           c.reltuples::pg_catalog.float8, p.inhparent
    FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
    LEFT JOIN pg_catalog.pg_inherits p ON p.inhrelid OPERATOR(pg_catalog.=) c.oid AND c.relispartition
    WHERE c.relkind OPERATOR(pg_catalog.=) ANY ('{r,p,v,m,f,S}'::pg_catalog.\"char\"[])
      AND n.nspname OPERATOR(pg_catalog.!~) '^pg_(toast|temp_)'
    ORDER BY c.oid";

const COLUMNS: &str = "
    SELECT a.attrelid, a.attnum, a.attname::pg_catalog.text
    FROM pg_catalog.pg_attribute a
    JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) a.attrelid
    JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
    WHERE a.attnum OPERATOR(pg_catalog.>) 0 AND NOT a.attisdropped
      AND c.relkind OPERATOR(pg_catalog.=) ANY ('{r,p,v,m,f}'::pg_catalog.\"char\"[])
      AND n.nspname OPERATOR(pg_catalog.!~) '^pg_(toast|temp_)'
    ORDER BY a.attrelid, a.attnum";

const FUNCTIONS: &str = "
    SELECT p.oid, n.nspname::pg_catalog.text, p.proname::pg_catalog.text
    FROM pg_catalog.pg_proc p
    JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) p.pronamespace
    WHERE n.nspname OPERATOR(pg_catalog.!~) '^pg_temp_'
    ORDER BY 2, 3, 1";

/// What views read, but for those of the system.
const VIEWS: &str = "
    SELECT DISTINCT r.ev_class, d.refobjid
    FROM pg_catalog.pg_rewrite r
    JOIN pg_catalog.pg_depend d ON d.objid OPERATOR(pg_catalog.=) r.oid
     AND d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_rewrite'::pg_catalog.regclass
     AND d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass
    WHERE r.ev_type OPERATOR(pg_catalog.=) '1' AND d.refobjid OPERATOR(pg_catalog.<>) r.ev_class
      AND r.ev_class OPERATOR(pg_catalog.>=) 16384::pg_catalog.oid
    ORDER BY 1, 2";

/// Schemas, types, indexes and extensions: statements name them, too.
const NAMES: &str = "
    SELECT nspname::pg_catalog.text FROM pg_catalog.pg_namespace
    UNION SELECT t.typname::pg_catalog.text FROM pg_catalog.pg_type t
          JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) t.typnamespace
          WHERE t.typname OPERATOR(pg_catalog.!~) '^_' AND n.nspname OPERATOR(pg_catalog.!~) '^pg_(toast|temp_)'
    UNION SELECT c.relname::pg_catalog.text FROM pg_catalog.pg_class c
          JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
          WHERE c.relkind OPERATOR(pg_catalog.=) ANY ('{i,I}'::pg_catalog.\"char\"[])
            AND n.nspname OPERATOR(pg_catalog.!~) '^pg_(toast|temp_)'
    UNION SELECT extname::pg_catalog.text FROM pg_catalog.pg_extension";

/// A side connection: the client, and what moves its bytes (tokio-postgres's `Connection`).
pub struct SideConnection {
    /// What queries go through.
    pub client: Client,
    /// Runs until the connection ends.
    pub driver: Pin<Box<dyn Future<Output = ()> + Send>>,
}

/// Whatever went wrong with a side connection.
pub type SideError = Box<dyn std::error::Error + Send + Sync>;

/// Makes side connections to one database.
pub type Connector =
    Arc<dyn Fn() -> Pin<Box<dyn Future<Output = Result<SideConnection, SideError>> + Send>> + Send + Sync>;

/// The catalogs of all databases behind the gateway, each read by a task of its own. Cheap to clone.
#[derive(Clone)]
pub struct Catalogs {
    databases: Arc<Mutex<HashMap<(String, String), SharedCatalog>>>,
    every: Duration,
}

impl Catalogs {
    /// Catalogs that are read every `every`.
    pub fn new(every: Duration) -> Self {
        Self { databases: Arc::default(), every }
    }

    /// The catalog of a database of a target. The first call makes the task that reads it, on the current
    /// runtime; hold the answer as long as the session lives.
    pub fn of(&self, target: &str, database: &str, connector: impl FnOnce() -> Connector) -> SharedCatalog {
        let key = (target.to_owned(), database.to_owned());
        let mut databases = self.databases.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(catalog) = databases.get(&key) {
            return catalog.clone();
        }
        let catalog = SharedCatalog::default();
        if databases.len() >= MAX_DATABASES {
            // One that no session uses goes: its reader holds one handle, the registry the other.
            let idle = databases.iter().find(|(_, c)| c.handles() <= 2).map(|(key, _)| key.clone());
            if let Some(idle) = idle {
                databases.remove(&idle);
            }
        }
        if databases.len() >= MAX_DATABASES {
            tracing::warn!(event = "catalog.refused", target = %shown(target), "facts go without a catalog: too many databases");
            catalog.tried();
            return catalog;
        }
        databases.insert(key.clone(), catalog.clone());
        tokio::spawn(read_forever(self.clone(), key, catalog.clone(), connector()));
        catalog
    }

    /// Databases whose catalog is being read.
    pub fn databases(&self) -> usize {
        self.databases.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

/// A connector in clear, for targets without TLS.
pub fn tcp(config: Config) -> Connector {
    Arc::new(move || {
        let config = config.clone();
        Box::pin(async move {
            let (client, connection) = config.connect(NoTls).await?;
            let driver = Box::pin(async move {
                // Why it ended shows in the query that fails.
                let _ = connection.await;
            });
            Ok(SideConnection { client, driver })
        })
    })
}

/// Reads until no session has used the catalog for a while.
async fn read_forever(
    catalogs: Catalogs,
    key: (String, String),
    catalog: SharedCatalog,
    connector: Connector,
) {
    let (target, database) = (shown(&key.0), shown(&key.1));
    let mut connection: Option<(Client, tokio::task::JoinHandle<()>)> = None;
    let (mut retry, mut idle) = (RETRY, 0);
    let mut asking = catalog.asked();
    loop {
        let (asked, began) = (*asking.borrow_and_update(), Instant::now());
        match read_once(&mut connection, &connector).await {
            Ok(read) => {
                catalog.put(read);
                retry = RETRY;
            }
            Err(error) => {
                if let Some((_, driver)) = connection.take() {
                    driver.abort();
                }
                catalog.failed();
                if is_no_database(error.as_ref()) && forgotten(&catalogs, &key, &catalog) {
                    return;
                }
                let error = shown(&error.to_string());
                tracing::warn!(event = "catalog.unreadable", %target, %database, %error, "facts go on with the catalog last read");
            }
        }
        let wait = if connection.is_some() { catalogs.every } else { retry.min(catalogs.every) };
        retry = retry.saturating_mul(2);
        catalog.answered(asked);
        // The catalog holds the asking end, so that the channel cannot be closed.
        let _ = tokio::time::timeout(wait, asking.changed()).await;
        tokio::time::sleep_until(began + GAP).await;
        // One handle is ours and one is the registry's.
        idle = if catalog.handles() > 2 { 0 } else { idle + 1 };
        if idle >= IDLE_READINGS || catalog.handles() == 1 {
            if forgotten(&catalogs, &key, &catalog) {
                if let Some((_, driver)) = connection {
                    driver.abort();
                }
                return;
            }
            idle = 0;
        }
    }
}

/// Takes a catalog that no session uses out of the registry, unless it has been put out already.
fn forgotten(catalogs: &Catalogs, key: &(String, String), catalog: &SharedCatalog) -> bool {
    let mut databases = catalogs.databases.lock().unwrap_or_else(PoisonError::into_inner);
    match catalog.handles() {
        0 | 1 => true,
        2 => databases.remove(key).is_some(),
        _ => false,
    }
}

/// Whether the target says that there is no such database (any more).
fn is_no_database(error: &(dyn std::error::Error + Send + Sync + 'static)) -> bool {
    let refused = error.downcast_ref::<UpstreamError>().map(UpstreamError::sqlstate);
    let said = error.downcast_ref::<tokio_postgres::Error>().and_then(|e| e.code()).map(|code| code.code());
    refused.or(said) == Some("3D000")
}

async fn read_once(
    connection: &mut Option<(Client, tokio::task::JoinHandle<()>)>,
    connector: &Connector,
) -> Result<CatalogSnapshot, SideError> {
    let client = match connection {
        Some((client, _)) if !client.is_closed() => &*client,
        _ => {
            let side = tokio::time::timeout(PATIENCE, connector()).await??;
            &connection.insert((side.client, tokio::spawn(side.driver))).0
        }
    };
    Ok(tokio::time::timeout(PATIENCE, refresh(client)).await??)
}

/// Reads the catalog of the database that `client` is connected to.
pub async fn refresh(client: &Client) -> Result<CatalogSnapshot, tokio_postgres::Error> {
    let mut relations = Vec::new();
    let mut parents = HashMap::new();
    for row in client.query(RELATIONS, &[]).await? {
        let oid: u32 = row.try_get(0)?;
        let kind = row.try_get::<_, String>(3)?.chars().next().unwrap_or('r');
        let tuples: f64 = row.try_get(4)?;
        if let Some(parent) = row.try_get::<_, Option<u32>>(5)? {
            parents.insert(oid, parent);
        }
        // -1: never analysed. Views and sequences have no rows of their own to estimate.
        let counted = tuples >= 0.0 && matches!(kind, 'r' | 'm' | 'f' | 'p');
        relations.push(Relation {
            oid,
            schema: row.try_get::<_, String>(1)?.into(),
            name: row.try_get::<_, String>(2)?.into(),
            kind,
            est_rows: counted.then_some(tuples as i64),
            columns: Vec::new(),
        });
    }
    let places: HashMap<u32, usize> = relations.iter().enumerate().map(|(at, r)| (r.oid, at)).collect();
    for row in client.query(COLUMNS, &[]).await? {
        let relation = places.get(&row.try_get(0)?).and_then(|at| relations.get_mut(*at));
        if let Some(relation) = relation {
            relation.columns.push((row.try_get(1)?, row.try_get::<_, String>(2)?.into()));
        }
    }
    sum_partitions(&mut relations, &parents);
    let mut numbers: Vec<(u32, String, String)> = Vec::new();
    for row in client.query(FUNCTIONS, &[]).await? {
        numbers.push((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?));
    }
    let mut names = Vec::new();
    for row in client.query(NAMES, &[]).await? {
        names.push(row.try_get(0)?);
    }
    let mut views = Vec::new();
    for row in client.query(VIEWS, &[]).await? {
        views.push((row.try_get(0)?, row.try_get(1)?));
    }
    let code = HiddenCode::read(client).await?;
    let mut functions: Vec<(String, String)> =
        numbers.iter().map(|(_, schema, name)| (schema.clone(), name.clone())).collect();
    functions.dedup();
    let snapshot = CatalogSnapshot::new(relations, functions, names).with_views(&views).with_code(code);
    Ok(snapshot.with_numbered(numbers))
}

/// A partitioned table has the rows of its leaves, whether it was analysed itself or not.
fn sum_partitions(relations: &mut [Relation], parents: &HashMap<u32, u32>) {
    let mut sums: HashMap<u32, i64> = HashMap::new();
    for leaf in relations.iter().filter(|r| r.kind != 'p') {
        let (Some(rows), mut at) = (leaf.est_rows, leaf.oid) else { continue };
        // Partition trees are shallow; the bound only guards against a catalog that loops.
        for _ in 0..64 {
            let Some(parent) = parents.get(&at) else { break };
            let sum = sums.entry(*parent).or_default();
            *sum = sum.saturating_add(rows);
            at = *parent;
        }
    }
    for relation in relations.iter_mut().filter(|r| r.kind == 'p') {
        relation.est_rows = sums.get(&relation.oid).copied().or(relation.est_rows);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn relation(oid: u32, kind: char, est_rows: Option<i64>) -> Relation {
        let name = format!("r{oid}").into();
        Relation { oid, schema: "public".into(), name, kind, est_rows, columns: Vec::new() }
    }

    #[test]
    fn a_partitioned_table_has_the_rows_of_its_leaves() {
        let mut all = vec![
            relation(1, 'p', None),
            relation(2, 'p', Some(0)),
            relation(3, 'r', Some(10)),
            relation(4, 'r', Some(5)),
            relation(5, 'r', None),
            relation(6, 'p', None),
        ];
        sum_partitions(&mut all, &HashMap::from([(2, 1), (3, 2), (4, 1), (5, 1)]));
        let rows: Vec<_> = all.iter().map(|r| r.est_rows).collect();
        assert_eq!(rows, [Some(15), Some(10), Some(10), Some(5), None, None]);
    }

    #[tokio::test]
    async fn an_unreachable_target_leaves_an_empty_catalog_and_does_not_hang() {
        let mut config = Config::new();
        // Port 1 on loopback: nothing listens there.
        config.host("127.0.0.1").port(1).user("nobody").connect_timeout(Duration::from_secs(1));
        let catalogs = Catalogs::new(Duration::from_secs(60));
        let catalog = catalogs.of("orders", "shop", || tcp(config));
        catalog.first_reading(Duration::from_secs(10)).await;
        assert_eq!(catalog.current().generation(), 0);
        assert!(catalog.failures() > 0);
        assert_eq!(catalogs.databases(), 1);
    }

    fn refusing(sqlstate: &'static str) -> Connector {
        Arc::new(move || {
            let (target, sqlstate) = ("orders".to_owned(), sqlstate.to_owned());
            let refused = UpstreamError::Refused { target, sqlstate, error: Vec::new() };
            Box::pin(async move { Err(SideError::from(refused)) })
        })
    }

    #[tokio::test]
    async fn databases_that_no_session_uses_keep_none_from_its_catalog() {
        let catalogs = Catalogs::new(Duration::from_secs(60));
        let used = catalogs.of("orders", "used", || refusing("53300"));
        for n in 0..2 * MAX_DATABASES {
            drop(catalogs.of("orders", &n.to_string(), || refusing("53300")));
        }
        assert_eq!(catalogs.databases(), MAX_DATABASES);
        let again = catalogs.of("orders", "used", || refusing("53300"));
        assert!(Arc::ptr_eq(&used.0, &again.0), "what a session uses stays");
    }

    #[tokio::test]
    async fn a_database_that_is_no_more_is_forgotten_at_once() {
        let catalogs = Catalogs::new(Duration::from_secs(60));
        let gone = catalogs.of("orders", "gone", || refusing("3D000"));
        gone.first_reading(Duration::from_secs(10)).await;
        drop(gone);
        for _ in 0..200 {
            if catalogs.databases() == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{} databases are still read", catalogs.databases());
    }
}
