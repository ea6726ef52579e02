//! The state store in one SQLite file, shared by the processes of one machine.
//!
//! Write-ahead logging lets readers go on while another process writes; a revision number in the file tells
//! every process at once that tokens changed. Invariants: the file and its side files are readable by their
//! owner only; nobody is judged by a file that no longer lies at its path.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
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

/// How long a token is kept after it expired, so that its use is recorded as such.
const KEEP_DEAD_NS: i64 = 90 * 86_400 * 1_000_000_000;

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
    open: Mutex<Open>,
    path: PathBuf,
}

/// The file as it was opened.
struct Open {
    connection: Connection,
    file: FileId,
    /// The log and its index: SQLite finds them by name, whatever database they belong to.
    beside: [Option<FileId>; 2],
    /// How many files this process has had open at the path before.
    generation: u64,
}

/// Which file lies at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FileId {
    device: u64,
    inode: u64,
}

/// Whether a file that is not there is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Missing {
    Make,
    Refuse,
}

impl SqliteState {
    /// Opens the store at `path`, or makes it.
    pub fn open(path: &Path) -> Result<Self, StateError> {
        let open = Open::at(path, Missing::Make, 0)?;
        Ok(Self { open: Mutex::new(open), path: path.to_owned() })
    }

    /// Opens the store at `path`. For commands that would not know a new one from the one that was meant.
    pub fn open_existing(path: &Path) -> Result<Self, StateError> {
        let open = Open::at(path, Missing::Refuse, 0)?;
        Ok(Self { open: Mutex::new(open), path: path.to_owned() })
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
        let mut open = self.lock();
        let connection = &mut open.connection;
        connection.execute_batch("PRAGMA synchronous = FULL").map_err(self.failed(action))?;
        let changed = (|| {
            let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let changed = write(&tx)?;
            tx.execute("UPDATE store SET revision = revision + 1", [])?;
            tx.commit()?;
            Ok(changed)
        })();
        connection.execute_batch("PRAGMA synchronous = NORMAL").map_err(self.failed(action))?;
        changed.map_err(self.failed(action))
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        // A poisoned lock only means that another thread panicked between two statements; SQLite rolled back.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self, action: &'static str) -> impl FnOnce(rusqlite::Error) -> StateError + '_ {
        database(&self.path, action)
    }
}

impl Open {
    fn at(path: &Path, missing: Missing, generation: u64) -> Result<Self, StateError> {
        let failed = |why: io::Error| match why.kind() {
            io::ErrorKind::NotFound if missing == Missing::Refuse => {
                StateError::Missing { path: path.to_owned() }
            }
            _ => StateError::Open { path: path.to_owned(), why },
        };
        // SQLite would make the file with the process's umask; its -wal and -shm files copy this mode.
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(missing == Missing::Make)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        let mode = metadata.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(StateError::Exposed { path: path.to_owned(), mode });
        }
        // Closing any descriptor of the file gives up the POSIX locks that SQLite holds on it, and another process
        // would then take the log away under this one: ours is closed before SQLite opens its own.
        drop(file);
        let mut connection = Connection::open(path).map_err(database(path, "opening the file"))?;
        prepare(&mut connection, path, missing)?;
        let file = FileId { device: metadata.dev(), inode: metadata.ino() };
        // Taken after SQLite has opened everything: a file that changed in between is noticed at the next look.
        let beside = [beside(path, "-wal"), beside(path, "-shm")];
        Ok(Self { connection, file, beside, generation })
    }

    /// Opens the file that lies at the path now, if it is another one. A log that was left behind would be taken
    /// for the new file's own: then nothing can be said any more.
    fn follow(&mut self, path: &Path) -> Result<(), StateError> {
        let now = FileId::at(path).map_err(|why| match why.kind() {
            io::ErrorKind::NotFound => StateError::Missing { path: path.to_owned() },
            _ => StateError::Open { path: path.to_owned(), why },
        })?;
        if now == self.file {
            return Ok(());
        }
        let left = [beside(path, "-wal"), beside(path, "-shm")];
        if left.iter().zip(&self.beside).any(|(now, then)| now.is_some() && now == then) {
            return Err(StateError::Replaced { path: path.to_owned() });
        }
        *self = Self::at(path, Missing::Refuse, self.generation.wrapping_add(1))?;
        tracing::warn!(event = "state.replaced", path = %path.display(), "another file took the place of the state store and is used from now on");
        Ok(())
    }
}

impl FileId {
    fn at(path: &Path) -> io::Result<Self> {
        let metadata = std::fs::metadata(path)?;
        Ok(Self { device: metadata.dev(), inode: metadata.ino() })
    }
}

fn beside(path: &Path, suffix: &str) -> Option<FileId> {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    FileId::at(Path::new(&name)).ok()
}

impl State for SqliteState {
    fn version(&self) -> Result<u64, StateError> {
        let mut open = self.lock();
        open.follow(&self.path)?;
        let revision: i64 = open
            .connection
            .prepare_cached("SELECT revision FROM store")
            .and_then(|mut q| q.query_row([], |row| row.get(0)))
            .map_err(self.failed("reading the revision"))?;
        // Another file may happen to have the same number.
        Ok((revision as u64).wrapping_add(open.generation << 40))
    }

    fn tokens(&self) -> Result<Vec<StoredToken>, StateError> {
        let open = self.lock();
        let mut query = open
            .connection
            .prepare_cached(
                "SELECT id, principal, note, issued_ns, expires_ns, revoked_ns, verifier, stored_key, server_key
                 FROM tokens ORDER BY issued_ns, id",
            )
            .map_err(self.failed("reading tokens"))?;
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
            .map_err(self.failed("reading tokens"))?;
        rows.collect::<Result<_, _>>().map_err(self.failed("reading tokens"))
    }

    fn salts(&self) -> Result<Vec<(String, ScramSalt)>, StateError> {
        let open = self.lock();
        let mut query = open
            .connection
            .prepare_cached("SELECT principal, salt, iterations FROM salts")
            .map_err(self.failed("reading salts"))?;
        let rows = query
            .query_map([], |row| Ok((row.get(0)?, ScramSalt { salt: row.get(1)?, iterations: row.get(2)? })))
            .map_err(self.failed("reading salts"))?;
        rows.collect::<Result<_, _>>().map_err(self.failed("reading salts"))
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
            .connection
            .query_row("SELECT salt, iterations FROM salts WHERE principal = ?1", [principal], |row| {
                Ok(ScramSalt { salt: row.get(0)?, iterations: row.get(1)? })
            })
            .map_err(self.failed("reading a salt"))
    }

    fn add_token(&self, token: &StoredToken) -> Result<(), StateError> {
        self.change("adding a token", |tx| {
            tx.execute("DELETE FROM tokens WHERE expires_ns < ?1", [token.issued_ns - KEEP_DEAD_NS])?;
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
            .connection
            .query_row("SELECT decoy_key FROM store", [], |row| row.get(0))
            .map_err(self.failed("reading the decoy key"))
    }

    fn sighting(
        &self,
        credential: Id16,
        address: Id16,
        now_ns: i64,
        since_ns: i64,
    ) -> Result<i64, StateError> {
        let mut open = self.lock();
        let connection = &mut open.connection;
        let known: Option<i64> = connection
            .prepare_cached("SELECT last_ns FROM sightings WHERE credential = ?1 AND address = ?2")
            .and_then(|mut q| q.query_row(params![credential.0, address.0], |row| row.get(0)).optional())
            .map_err(self.failed("reading sightings"))?;
        let mut unsaved = 0;
        if known.is_none_or(|last| now_ns.saturating_sub(last) >= SIGHTING_COARSE_NS) {
            // A login does not wait for another process's write: what is not noted now is at the next login.
            connection.busy_timeout(Duration::ZERO).map_err(self.failed("noting a sighting"))?;
            let noted = note_sighting(connection, credential, address, now_ns, since_ns);
            connection.busy_timeout(BUSY).map_err(self.failed("noting a sighting"))?;
            match noted {
                Err(error) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseBusy) => {
                    unsaved = i64::from(known.is_none_or(|last| last < since_ns));
                }
                noted => noted.map_err(self.failed("noting a sighting"))?,
            }
        }
        let saved: i64 = connection
            .prepare_cached("SELECT count(*) FROM sightings WHERE credential = ?1 AND last_ns >= ?2")
            .and_then(|mut q| q.query_row(params![credential.0, since_ns], |row| row.get(0)))
            .map_err(self.failed("counting sightings"))?;
        Ok(saved + unsaved)
    }
}

fn note_sighting(
    connection: &mut Connection,
    credential: Id16,
    address: Id16,
    now_ns: i64,
    since_ns: i64,
) -> rusqlite::Result<()> {
    let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    tx.prepare_cached(
        "INSERT INTO sightings (credential, address, last_ns) VALUES (?1, ?2, ?3)
         ON CONFLICT DO UPDATE SET last_ns = max(last_ns, excluded.last_ns)",
    )?
    .execute(params![credential.0, address.0, now_ns])?;
    tx.prepare_cached("DELETE FROM sightings WHERE credential = ?1 AND last_ns < ?2")?
        .execute(params![credential.0, since_ns])?;
    tx.commit()
}

fn database(path: &Path, action: &'static str) -> impl FnOnce(rusqlite::Error) -> StateError {
    move |why| StateError::Database { path: path.to_owned(), action, why }
}

fn random<const N: usize>() -> Result<[u8; N], StateError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(StateError::Random)?;
    Ok(bytes)
}

fn prepare(connection: &mut Connection, path: &Path, missing: Missing) -> Result<(), StateError> {
    let failed = || database(path, "preparing the file");
    connection.busy_timeout(BUSY).map_err(failed())?;
    connection.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;").map_err(failed())?;
    let decoy: [u8; 32] = random()?;
    let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed())?;
    let format: i64 = tx.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(failed())?;
    let tables: i64 =
        tx.query_row("SELECT count(*) FROM sqlite_master", [], |row| row.get(0)).map_err(failed())?;
    match format {
        0 if tables > 0 || missing == Missing::Refuse => {
            return Err(StateError::Foreign { path: path.to_owned() });
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: i64 = 60 * 1_000_000_000;
    const DAY: i64 = 24 * 60 * MINUTE;

    fn token(id: &str, expires_ns: i64) -> StoredToken {
        StoredToken {
            id: id.to_owned(),
            principal: "ann".to_owned(),
            note: "a note".to_owned(),
            issued_ns: expires_ns - DAY,
            expires_ns,
            revoked_ns: None,
            verifier: [1; 32],
            stored_key: [2; 32],
            server_key: [3; 32],
        }
    }

    fn open(dir: &tempfile::TempDir) -> SqliteState {
        SqliteState::open(&dir.path().join("state.db")).unwrap()
    }

    #[test]
    fn what_one_process_writes_the_other_sees_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let (gateway, command) = (open(&dir), open(&dir));
        let before = gateway.version().unwrap();
        assert_eq!(gateway.decoy_key().unwrap(), command.decoy_key().unwrap());
        command.add_token(&token("a", 100 * DAY)).unwrap();
        assert_ne!(gateway.version().unwrap(), before);
        assert_eq!(gateway.tokens().unwrap(), [token("a", 100 * DAY)]);
        let before = gateway.version().unwrap();
        gateway.sighting(Id16([1; 16]), Id16([2; 16]), DAY, 0).unwrap();
        assert_eq!(gateway.version().unwrap(), before, "a sighting makes nobody read tokens again");
        assert!(command.revoke_token("a", 7).unwrap());
        assert!(!command.revoke_token("a", 8).unwrap());
        assert!(!command.revoke_token("b", 8).unwrap());
        assert_eq!(gateway.tokens().unwrap()[0].revoked_ns, Some(7));
        assert_eq!(gateway.salt_of("ann").unwrap(), command.salt_of("ann").unwrap());
        assert_eq!(gateway.salts().unwrap().len(), 1);
    }

    #[test]
    fn different_addresses_of_a_credential_are_counted_over_the_window() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (open(&dir), open(&dir));
        let credential = Id16([1; 16]);
        let see = |state: &SqliteState, address: u8, now: i64| {
            state.sighting(credential, Id16([address; 16]), now, now - DAY).unwrap()
        };
        assert_eq!(see(&one, 1, DAY), 1);
        assert_eq!(see(&one, 1, DAY + 1), 1);
        assert_eq!(see(&two, 2, DAY + MINUTE), 2);
        assert_eq!(see(&one, 3, DAY + 2 * MINUTE), 3);
        assert_eq!(one.sighting(Id16([9; 16]), Id16([1; 16]), DAY, 0).unwrap(), 1);
        assert_eq!(see(&two, 2, 2 * DAY + MINUTE), 2, "the first address has left the window");
        assert_eq!(see(&two, 2, 4 * DAY), 1);
    }

    #[test]
    fn a_login_does_not_wait_for_another_process_that_writes() {
        let dir = tempfile::tempdir().unwrap();
        let (gateway, command) = (open(&dir), open(&dir));
        command.lock().connection.execute_batch("BEGIN IMMEDIATE").unwrap();
        let started = std::time::Instant::now();
        assert_eq!(gateway.sighting(Id16([1; 16]), Id16([2; 16]), DAY, 0).unwrap(), 1);
        assert!(started.elapsed() < Duration::from_secs(1));
        command.lock().connection.execute_batch("COMMIT").unwrap();
        assert_eq!(
            gateway.sighting(Id16([1; 16]), Id16([3; 16]), DAY, 0).unwrap(),
            1,
            "the first was not noted"
        );
        assert_eq!(gateway.sighting(Id16([1; 16]), Id16([2; 16]), DAY, 0).unwrap(), 2);
    }

    #[test]
    fn the_files_are_their_owners_only() {
        let dir = tempfile::tempdir().unwrap();
        let state = open(&dir);
        state.add_token(&token("a", DAY)).unwrap();
        for entry in std::fs::read_dir(dir.path()).unwrap() {
            let entry = entry.unwrap();
            assert_eq!(
                entry.metadata().unwrap().permissions().mode() & 0o777,
                0o600,
                "{:?}",
                entry.file_name()
            );
        }
        drop(state);
        let path = dir.path().join("state.db");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(SqliteState::open(&path), Err(StateError::Exposed { mode: 0o640, .. })));
    }

    #[test]
    fn a_file_of_another_kind_or_a_newer_version_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.db");
        open(&dir).lock().connection.pragma_update(None, "user_version", FORMAT + 1).unwrap();
        assert!(matches!(SqliteState::open(&path), Err(StateError::Newer { found: 2, known: 1, .. })));
        let foreign = dir.path().join("foreign");
        std::fs::write(&foreign, "not a database at all, but long enough to look like one".repeat(20))
            .unwrap();
        std::fs::set_permissions(&foreign, std::fs::Permissions::from_mode(0o600)).unwrap();
        let Err(error) = SqliteState::open(&foreign) else { panic!("a text file is no store") };
        let text = error.to_string();
        assert!(text.contains(foreign.to_str().unwrap()), "{text}");
        assert_eq!(text.matches("not a database").count(), 1, "{text}");
        assert!(std::error::Error::source(&error).is_none(), "whoever prints the chain says it twice");
        let other = dir.path().join("other.db");
        std::fs::File::options().create(true).append(true).mode(0o600).open(&other).unwrap();
        Connection::open(&other).unwrap().execute_batch("CREATE TABLE theirs (a)").unwrap();
        assert!(matches!(SqliteState::open(&other), Err(StateError::Foreign { .. })));
        assert!(matches!(SqliteState::open(&dir.path().join("no/such")), Err(StateError::Open { .. })));
    }

    #[test]
    fn only_who_may_make_a_store_makes_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.db");
        assert!(matches!(SqliteState::open_existing(&path), Err(StateError::Missing { .. })));
        assert!(!path.exists());
        std::fs::File::options().create(true).append(true).mode(0o600).open(&path).unwrap();
        assert!(matches!(SqliteState::open_existing(&path), Err(StateError::Foreign { .. })));
        drop(open(&dir));
        SqliteState::open_existing(&path).unwrap();
    }

    #[test]
    fn a_file_that_took_the_place_of_the_open_one_is_used_or_nothing_is() {
        let dir = tempfile::tempdir().unwrap();
        let (path, backup) = (dir.path().join("state.db"), dir.path().join("backup.db"));
        let gateway = open(&dir);
        gateway.add_token(&token("a", 100 * DAY)).unwrap();
        let other = SqliteState::open(&backup).unwrap();
        other.add_token(&token("b", 100 * DAY)).unwrap();
        assert_eq!(other.version().unwrap(), gateway.version().unwrap(), "numbers alone tell nothing");
        let before = gateway.version().unwrap();
        drop(other);
        // With the log of the old file beside it the new one cannot be read as what it is.
        std::fs::rename(&backup, &path).unwrap();
        assert!(matches!(gateway.version(), Err(StateError::Replaced { .. })));
        assert!(matches!(gateway.version(), Err(StateError::Replaced { .. })), "and stays so");
        for suffix in ["-wal", "-shm"] {
            let _ = std::fs::remove_file(dir.path().join(format!("state.db{suffix}")));
        }
        assert_ne!(gateway.version().unwrap(), before);
        assert_eq!(gateway.tokens().unwrap(), [token("b", 100 * DAY)]);
        let command = SqliteState::open_existing(&path).unwrap();
        command.revoke_token("b", 7).unwrap();
        assert_eq!(gateway.tokens().unwrap()[0].revoked_ns, Some(7), "they share the file");
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(gateway.version(), Err(StateError::Missing { .. })));
        assert!(!path.exists(), "a reader makes no store");
    }

    #[test]
    fn tokens_that_expired_long_ago_are_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let state = open(&dir);
        state.add_token(&token("old", 10 * DAY)).unwrap();
        state.add_token(&token("recent", 100 * DAY)).unwrap();
        state.add_token(&token("new", 110 * DAY)).unwrap();
        let ids: Vec<_> = state.tokens().unwrap().into_iter().map(|t| t.id).collect();
        assert_eq!(ids, ["recent", "new"]);
    }

    #[test]
    fn eight_writers_and_readers_at_once_lose_nothing() {
        let dir = tempfile::tempdir().unwrap();
        open(&dir);
        std::thread::scope(|scope| {
            for writer in 0..8u8 {
                let state = open(&dir);
                scope.spawn(move || {
                    for n in 0..10 {
                        state.add_token(&token(&format!("{writer}-{n}"), 100 * DAY)).unwrap();
                        state.sighting(Id16([0; 16]), Id16([writer; 16]), i64::from(n) * MINUTE, 0).unwrap();
                        state.tokens().unwrap();
                    }
                });
            }
        });
        assert_eq!(open(&dir).tokens().unwrap().len(), 80);
    }
}
