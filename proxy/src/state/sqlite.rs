//! The state store in one SQLite file, shared by the processes of one machine.
//!
//! Write-ahead logging lets readers go on while another process writes; a revision number in the file tells
//! every process at once that tokens changed. Invariant: the file and its side files are readable by their owner only.

use std::fs::OpenOptions;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bodycam_record::Id16;
use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};

use super::{SCRAM_ITERATIONS, ScramSalt, State, StateError, StoredToken};

/// Version of the tables, in `PRAGMA user_version`.
const FORMAT: i64 = 1;

/// How long a write waits for another process's write.
const BUSY: Duration = Duration::from_secs(5);

/// A sighting younger than this is not written again.
const SIGHTING_COARSE_NS: i64 = 60 * 1_000_000_000;

const TABLES: &str = "
    CREATE TABLE tokens (
        id TEXT PRIMARY KEY, principal TEXT NOT NULL, note TEXT NOT NULL, issued_ns INTEGER NOT NULL,
        expires_ns INTEGER NOT NULL, revoked_ns INTEGER, verifier BLOB NOT NULL, stored_key BLOB NOT NULL,
        server_key BLOB NOT NULL) STRICT;
    CREATE TABLE salts (principal TEXT PRIMARY KEY, salt BLOB NOT NULL, iterations INTEGER NOT NULL) STRICT;
    CREATE TABLE sightings (
        credential BLOB NOT NULL, address BLOB NOT NULL, last_ns INTEGER NOT NULL,
        PRIMARY KEY (credential, address)) STRICT, WITHOUT ROWID;
    CREATE TABLE store (decoy_key BLOB NOT NULL, revision INTEGER NOT NULL) STRICT;
";

/// One SQLite file.
pub struct SqliteState {
    connection: Mutex<Connection>,
    path: PathBuf,
}

impl SqliteState {
    /// Opens the store at `path`, or makes it.
    pub fn open(path: &Path) -> Result<Self, StateError> {
        let io = |source| StateError::Open { path: path.to_owned(), source };
        // SQLite would make the file with the process's umask; its -wal and -shm files copy this mode.
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(io)?;
        let mode = file.metadata().map_err(io)?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(StateError::Exposed { path: path.to_owned(), mode });
        }
        let mut connection = Connection::open(path).map_err(database("opening the file"))?;
        prepare(&mut connection, path)?;
        Ok(Self { connection: Mutex::new(connection), path: path.to_owned() })
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// One change that every reader notices, and that is on the disk when this returns: a revocation must
    /// survive a power cut.
    fn change(
        &self,
        action: &'static str,
        write: impl FnOnce(&Connection) -> rusqlite::Result<usize>,
    ) -> Result<usize, StateError> {
        let mut connection = self.lock();
        connection.execute_batch("PRAGMA synchronous = FULL").map_err(database(action))?;
        let changed = (|| {
            let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let changed = write(&tx)?;
            tx.execute("UPDATE store SET revision = revision + 1", [])?;
            tx.commit()?;
            Ok(changed)
        })();
        connection.execute_batch("PRAGMA synchronous = NORMAL").map_err(database(action))?;
        changed.map_err(database(action))
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        // A poisoned lock only means that another thread panicked between two statements; SQLite rolled back.
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State for SqliteState {
    fn version(&self) -> Result<u64, StateError> {
        let revision: i64 = self
            .lock()
            .prepare_cached("SELECT revision FROM store")
            .and_then(|mut q| q.query_row([], |row| row.get(0)))
            .map_err(database("reading the revision"))?;
        Ok(revision as u64)
    }

    fn tokens(&self) -> Result<Vec<StoredToken>, StateError> {
        let connection = self.lock();
        let mut query = connection
            .prepare_cached(
                "SELECT id, principal, note, issued_ns, expires_ns, revoked_ns, verifier, stored_key, server_key
                 FROM tokens ORDER BY issued_ns, id",
            )
            .map_err(database("reading tokens"))?;
        let rows = query
            .query_map([], |row| {
                Ok(StoredToken {
                    id: row.get(0)?,
                    principal: row.get(1)?,
                    note: row.get(2)?,
                    issued_ns: row.get(3)?,
                    expires_ns: row.get(4)?,
                    revoked_ns: row.get(5)?,
                    verifier: row.get(6)?,
                    stored_key: row.get(7)?,
                    server_key: row.get(8)?,
                })
            })
            .map_err(database("reading tokens"))?;
        rows.collect::<Result<_, _>>().map_err(database("reading tokens"))
    }

    fn salts(&self) -> Result<Vec<(String, ScramSalt)>, StateError> {
        let connection = self.lock();
        let mut query = connection
            .prepare_cached("SELECT principal, salt, iterations FROM salts")
            .map_err(database("reading salts"))?;
        let rows = query
            .query_map([], |row| Ok((row.get(0)?, ScramSalt { salt: row.get(1)?, iterations: row.get(2)? })))
            .map_err(database("reading salts"))?;
        rows.collect::<Result<_, _>>().map_err(database("reading salts"))
    }

    fn salt_of(&self, principal: &str) -> Result<ScramSalt, StateError> {
        let salt: [u8; 16] = random()?;
        self.change("making a salt", |tx| {
            tx.execute(
                "INSERT INTO salts (principal, salt, iterations) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING",
                params![principal, salt, SCRAM_ITERATIONS],
            )
        })?;
        self.lock()
            .query_row("SELECT salt, iterations FROM salts WHERE principal = ?1", [principal], |row| {
                Ok(ScramSalt { salt: row.get(0)?, iterations: row.get(1)? })
            })
            .map_err(database("reading a salt"))
    }

    fn add_token(&self, token: &StoredToken) -> Result<(), StateError> {
        self.change("adding a token", |tx| {
            tx.execute(
                "INSERT INTO tokens (id, principal, note, issued_ns, expires_ns, revoked_ns, verifier, stored_key,
                 server_key) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
                params![
                    token.id,
                    token.principal,
                    token.note,
                    token.issued_ns,
                    token.expires_ns,
                    token.revoked_ns,
                    token.verifier,
                    token.stored_key,
                    token.server_key
                ],
            )
        })
        .map(|_| ())
    }

    fn revoke_token(&self, id: &str, now_ns: i64) -> Result<bool, StateError> {
        self.change("revoking a token", |tx| {
            tx.execute(
                "UPDATE tokens SET revoked_ns = ?2 WHERE id = ?1 AND revoked_ns IS NULL",
                params![id, now_ns],
            )
        })
        .map(|changed| changed > 0)
    }

    fn decoy_key(&self) -> Result<[u8; 32], StateError> {
        self.lock()
            .query_row("SELECT decoy_key FROM store", [], |row| row.get(0))
            .map_err(database("reading the decoy key"))
    }

    fn sighting(
        &self,
        credential: Id16,
        address: Id16,
        now_ns: i64,
        since_ns: i64,
    ) -> Result<i64, StateError> {
        let mut connection = self.lock();
        let known: Option<i64> = connection
            .prepare_cached("SELECT last_ns FROM sightings WHERE credential = ?1 AND address = ?2")
            .and_then(|mut q| q.query_row(params![credential.0, address.0], |row| row.get(0)).optional())
            .map_err(database("reading sightings"))?;
        if known.is_none_or(|last| now_ns.saturating_sub(last) >= SIGHTING_COARSE_NS) {
            let write = |connection: &mut Connection| -> rusqlite::Result<()> {
                let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
                tx.prepare_cached(
                    "INSERT INTO sightings (credential, address, last_ns) VALUES (?1, ?2, ?3)
                     ON CONFLICT DO UPDATE SET last_ns = max(last_ns, excluded.last_ns)",
                )?
                .execute(params![credential.0, address.0, now_ns])?;
                tx.prepare_cached("DELETE FROM sightings WHERE credential = ?1 AND last_ns < ?2")?
                    .execute(params![credential.0, since_ns])?;
                tx.commit()
            };
            write(&mut connection).map_err(database("noting a sighting"))?;
        }
        connection
            .prepare_cached("SELECT count(*) FROM sightings WHERE credential = ?1 AND last_ns >= ?2")
            .and_then(|mut q| q.query_row(params![credential.0, since_ns], |row| row.get(0)))
            .map_err(database("counting sightings"))
    }
}

fn database(action: &'static str) -> impl FnOnce(rusqlite::Error) -> StateError {
    move |source| StateError::Database { action, source }
}

fn random<const N: usize>() -> Result<[u8; N], StateError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(StateError::Random)?;
    Ok(bytes)
}

fn prepare(connection: &mut Connection, path: &Path) -> Result<(), StateError> {
    let failed = || database("preparing the file");
    connection.busy_timeout(BUSY).map_err(failed())?;
    connection.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;").map_err(failed())?;
    let decoy: [u8; 32] = random()?;
    let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed())?;
    let format: i64 = tx.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(failed())?;
    match format {
        0 => {
            tx.execute_batch(TABLES).map_err(failed())?;
            tx.execute("INSERT INTO store (decoy_key, revision) VALUES (?1, 0)", params![decoy])
                .map_err(failed())?;
            tx.pragma_update(None, "user_version", FORMAT).map_err(failed())?;
        }
        FORMAT => {}
        found => return Err(StateError::Newer { path: path.to_owned(), found, known: FORMAT }),
    }
    tx.commit().map_err(failed())
}
