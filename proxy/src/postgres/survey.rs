//! A look at a target over the gateway's own way in: does it let the role in, what may the role see, and who
//! is connected. `bodycam doctor` uses it; no client's session does.
//!
//! Invariant: it only reads `pg_catalog`.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use thiserror::Error;
use tokio::task::JoinHandle;
use tokio_postgres::Client;

use super::config::{ConfigError, TargetConfig};
use super::inspect::catalog::refresh::SideError;
use super::live::Live;
use super::upstream::{Target, UpstreamError};

/// The database that a survey connects to when the target is configured by patterns only.
const DEFAULT_DATABASE: &str = "postgres";

const SERVER: &str = "
    SELECT pg_catalog.current_setting('server_version'),
           pg_catalog.date_part('epoch', pg_catalog.clock_timestamp()),
           r.rolsuper,
           r.rolreplication,
           r.rolbypassrls,
           pg_catalog.pg_has_role(r.oid, 'pg_read_all_stats', 'USAGE')
    FROM pg_catalog.pg_roles r WHERE r.rolname OPERATOR(pg_catalog.=) current_user";

// Without pg_read_all_stats the columns about others' sessions are null, but those with a database are known.
const SESSIONS: &str = "
    SELECT a.pid,
           coalesce(a.usename, '')::pg_catalog.text,
           coalesce(a.datname, '')::pg_catalog.text,
           coalesce(a.application_name, ''),
           CASE WHEN a.client_addr IS NOT NULL THEN pg_catalog.concat(pg_catalog.host(a.client_addr), ':', a.client_port)
                WHEN a.client_port OPERATOR(pg_catalog.=) -1 THEN 'unix socket'
                ELSE '' END,
           coalesce(pg_catalog.to_char(pg_catalog.timezone('UTC', a.backend_start), 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'), '')
    FROM pg_catalog.pg_stat_activity a
    WHERE a.usesysid IS NOT NULL AND a.pid OPERATOR(pg_catalog.<>) pg_catalog.pg_backend_pid()
      AND CASE WHEN a.backend_type IS NULL THEN a.datid IS NOT NULL AND a.datid OPERATOR(pg_catalog.<>) 0::pg_catalog.oid
               ELSE a.backend_type OPERATOR(pg_catalog.=) ANY ('{client backend,walsender}'::pg_catalog.text[]) END
    ORDER BY a.pid";

/// Databases that the role may connect to.
const DATABASES: &str = "
    SELECT d.datname::pg_catalog.text FROM pg_catalog.pg_database d
    WHERE d.datallowconn AND pg_catalog.has_database_privilege(d.oid, 'CONNECT')
    ORDER BY 1";

/// Those of these relations ($1) that are there, as the record spells them.
const RELATIONS: &str = "
    SELECT pg_catalog.concat(n.nspname, '.', c.relname)
    FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
    WHERE c.relkind OPERATOR(pg_catalog.=) ANY ('{r,p,v,m,f,S}'::pg_catalog.\"char\"[])
      AND pg_catalog.concat(n.nspname, '.', c.relname) OPERATOR(pg_catalog.=) ANY ($1::pg_catalog.text[])";

/// A target, and an open connection to it.
pub struct Survey {
    /// `server_version`.
    pub version: String,
    /// The server's clock minus ours, seconds; half of the way there and back is its error.
    pub clock_offset: f64,
    /// Attributes of the configured role that no gateway needs: `SUPERUSER`, `REPLICATION`, `BYPASSRLS`.
    pub excess: Vec<&'static str>,
    /// Whether the role may see who the other sessions are.
    pub sees_sessions: bool,
    target: Arc<Target>,
    timeout: Duration,
    client: Client,
    driver: JoinHandle<()>,
}

/// A session of the target, however it came there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerSession {
    /// The server's process id.
    pub process: i32,
    /// Its role.
    pub user: String,
    /// Its database.
    pub database: String,
    /// `application_name`: the client's own words.
    pub application: String,
    /// `host:port`, or `unix socket`; empty when the role may not see it.
    pub client: String,
    /// When it began, RFC 3339; empty when the role may not see it.
    pub since: String,
}

/// The target could not be surveyed.
#[derive(Debug, Error)]
pub enum SurveyError {
    /// Its configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The way that clients' sessions take.
    #[error("{0}")]
    Connect(String),
    /// The way that the catalog's readings take, or what they ask.
    #[error("cannot read the catalog of target '{target}', database '{database}': {why}")]
    Catalog { target: String, database: String, why: String },
}

impl Survey {
    /// Connects as a client's session would, then as the reader of the catalog does.
    pub async fn of(config: &TargetConfig, timeout: Duration) -> Result<Self, SurveyError> {
        let target = Arc::new(Target::new(config.clone(), timeout, Live::default())?);
        let database = config.databases.iter().find(|d| !d.contains('*')).map_or(DEFAULT_DATABASE, |d| d);
        drop(target.connect(database, &[]).await.map_err(|e| SurveyError::Connect(told(&e)))?);
        let work = async {
            let side = (target.side_connector(database))().await?;
            let driver = tokio::spawn(side.driver);
            let before = seconds_now();
            let row = side.client.query_one(SERVER, &[]).await?;
            let now = (before + seconds_now()) / 2.0;
            let mut excess = Vec::new();
            for (at, name) in [(2, "SUPERUSER"), (3, "REPLICATION"), (4, "BYPASSRLS")] {
                if row.try_get::<_, bool>(at)? {
                    excess.push(name);
                }
            }
            Ok::<_, SideError>(Self {
                version: row.try_get(0)?,
                clock_offset: row.try_get::<_, f64>(1)? - now,
                excess,
                sees_sessions: row.try_get(5)?,
                target: Arc::clone(&target),
                timeout,
                client: side.client,
                driver,
            })
        };
        in_time(&target, database, timeout, work).await
    }

    /// The databases of the server that the role may connect to.
    pub async fn databases(&self) -> Result<Vec<String>, tokio_postgres::Error> {
        let rows = self.client.query(DATABASES, &[]).await?;
        rows.iter().map(|row| row.try_get(0)).collect()
    }

    /// Those of `relations` (`schema.relation`) that none of `databases` has.
    pub async fn lacking(
        &self,
        databases: &[String],
        relations: &[String],
    ) -> Result<Vec<String>, SurveyError> {
        let mut lacking = relations.to_vec();
        for database in databases {
            if lacking.is_empty() {
                break;
            }
            let work = async {
                let side = (self.target.side_connector(database))().await?;
                let driver = tokio::spawn(side.driver);
                let rows = side.client.query(RELATIONS, &[&lacking]).await;
                driver.abort();
                let found = rows?.iter().map(|row| row.try_get(0)).collect::<Result<Vec<String>, _>>()?;
                Ok::<_, SideError>(found)
            };
            let found = in_time(&self.target, database, self.timeout, work).await?;
            lacking.retain(|relation| !found.contains(relation));
        }
        Ok(lacking)
    }

    /// Everybody who is connected to the server now, in whatever database, without this survey itself.
    pub async fn sessions(&self) -> Result<Vec<ServerSession>, tokio_postgres::Error> {
        let rows = self.client.query(SESSIONS, &[]).await?;
        rows.iter()
            .map(|row| {
                Ok(ServerSession {
                    process: row.try_get(0)?,
                    user: row.try_get(1)?,
                    database: row.try_get(2)?,
                    application: row.try_get(3)?,
                    client: row.try_get(4)?,
                    since: row.try_get(5)?,
                })
            })
            .collect()
    }
}

impl Drop for Survey {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// The outcome of `work` on the catalog of a database.
async fn in_time<T>(
    target: &Target,
    database: &str,
    timeout: Duration,
    work: impl Future<Output = Result<T, SideError>>,
) -> Result<T, SurveyError> {
    let why = match tokio::time::timeout(timeout, work).await {
        Ok(Ok(outcome)) => return Ok(outcome),
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no answer within {} s", timeout.as_secs()),
    };
    Err(SurveyError::Catalog {
        target: target.config.name.clone(),
        database: bodycam_record::shown(database),
        why: bodycam_record::shown(&why),
    })
}

/// What the target said, with its own words where it has any.
fn told(error: &UpstreamError) -> String {
    let words = match error {
        UpstreamError::Refused { error, .. } => super::codec::backend::error_field(error, b'M'),
        _ => None,
    };
    match words {
        Some(words) => format!("{error}: {}", bodycam_record::shown::shown_bytes(words)),
        None => error.to_string(),
    }
}

fn seconds_now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}
