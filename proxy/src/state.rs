//! Shared small state: what several gateway processes and the command line must agree on.
//!
//! Invariant: what one process writes, every other one sees at its next read; nothing here holds a secret
//! that could log anybody in.

use std::path::PathBuf;

use bodycam_record::Id16;

pub mod sqlite;

pub use sqlite::SqliteState;

/// A token as the store keeps it: enough to check a secret, not enough to present one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredToken {
    /// Id, the middle part of the token's text.
    pub id: String,
    /// Principal it logs in.
    pub principal: String,
    /// What the issuer wrote beside it.
    pub note: String,
    /// When it was issued, Unix ns.
    pub issued_ns: i64,
    /// First moment it no longer works, Unix ns.
    pub expires_ns: i64,
    /// When it was revoked, Unix ns.
    pub revoked_ns: Option<i64>,
    /// SHA-256 of the whole token text.
    pub verifier: [u8; 32],
    /// SCRAM StoredKey of the whole token text (RFC 5802 §3).
    pub stored_key: [u8; 32],
    /// SCRAM ServerKey of the whole token text.
    pub server_key: [u8; 32],
}

/// PBKDF2 iterations of new salts: what PostgreSQL itself uses. The secret has 200 random bits, so that the
/// count protects nothing more; it is what clients expect.
pub const SCRAM_ITERATIONS: u32 = 4096;

/// Salt and iteration count that all tokens of one principal share, so that SCRAM can try each of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScramSalt {
    /// Salt.
    pub salt: [u8; 16],
    /// PBKDF2 iterations.
    pub iterations: u32,
}

/// The store could not answer.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The file cannot be opened or made.
    #[error("state store {path}: cannot open: {why}; check the path and its owner")]
    Open { path: PathBuf, why: std::io::Error },
    /// There is no file.
    #[error(
        "state store {path}: there is no such file; check [state] path, or issue the first token: `bodycam token issue`"
    )]
    Missing { path: PathBuf },
    /// Others could read it.
    #[error("state store {path}: readable by others (mode {mode:o}); run: chmod 600 {path}")]
    Exposed { path: PathBuf, mode: u32 },
    /// It was written by a newer version.
    #[error("state store {path}: format {found}, this version reads {known}; upgrade bodycam")]
    Newer { path: PathBuf, found: i64, known: i64 },
    /// It is a database of somebody else.
    #[error("state store {path}: it is a database, but not of bodycam; check [state] path")]
    Foreign { path: PathBuf },
    /// Another file took its place, beside what belongs to the one that is open.
    #[error(
        "state store {path}: another file took its place, and {path}-wal and {path}-shm still belong to the old one; \
         stop bodycam, remove both, and start it again"
    )]
    Replaced { path: PathBuf },
    /// A read or a write failed.
    #[error("state store {path}: {action} failed: {why}")]
    Database { path: PathBuf, action: &'static str, why: rusqlite::Error },
    /// No randomness.
    #[error("state store: the system gave no random bytes: {0}")]
    Random(getrandom::Error),
    /// Nothing looks at the store in the background.
    #[error("state store: cannot start the thread that reads it: {0}")]
    Thread(std::io::Error),
    /// A column holds what no version of this code wrote.
    #[error("state store: {what} is malformed; restore the file from a backup")]
    Malformed { what: &'static str },
}

/// The contract of a store. Calls are short reads and writes of a local file or a near database.
pub trait State: Send + Sync {
    /// Changes whenever tokens or salts may have changed, whoever changed them.
    fn version(&self) -> Result<u64, StateError>;
    /// Every token, live or not, oldest first.
    fn tokens(&self) -> Result<Vec<StoredToken>, StateError>;
    /// Every principal's SCRAM salt.
    fn salts(&self) -> Result<Vec<(String, ScramSalt)>, StateError>;
    /// The principal's SCRAM salt, made at the first call.
    fn salt_of(&self, principal: &str) -> Result<ScramSalt, StateError>;
    /// Adds a token, durably.
    fn add_token(&self, token: &StoredToken) -> Result<(), StateError>;
    /// Marks a token revoked, durably; false when there is no such token, or it was revoked before.
    fn revoke_token(&self, id: &str, now_ns: i64) -> Result<bool, StateError>;
    /// A random key of this store, stable over its life: what fake salts are made with.
    fn decoy_key(&self) -> Result<[u8; 32], StateError>;
    /// Notes that a credential was used from an address and counts the different addresses that used it
    /// since `since_ns`, this one included.
    fn sighting(
        &self,
        credential: Id16,
        address: Id16,
        now_ns: i64,
        since_ns: i64,
    ) -> Result<i64, StateError>;
}
