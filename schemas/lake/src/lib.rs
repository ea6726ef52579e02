//! How events rest: the layout of the lake, its commits, the columns of its tables, and, with the feature
//! `io`, the store, the snapshot and the readers.
//!
//! Invariant: what exists is what the commits say, never what a directory holds; and every event hash can be
//! recomputed from the columns alone.

pub mod columns;
pub mod commit;
pub mod error;
pub mod file;
pub mod layout;
pub mod state;

pub use columns::{StoredEvent, Table};
pub use commit::{Commit, FileEntry, LedgerState, SessionRange, SessionState, StreamEntry};
pub use error::LakeError;
pub use file::{EncodedFile, FileWriter};
pub use layout::{Hour, StreamName};
pub use state::LakeState;
