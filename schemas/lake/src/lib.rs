//! How events rest: the layout of the lake, its commits, the columns of its tables, and, with the feature
//! `io`, the store, the snapshot and the readers.
//!
//! Invariant: what exists is what the commits say, never what a directory holds; and every event hash can be
//! recomputed from the columns alone.

#![deny(clippy::print_stdout, clippy::print_stderr)]

pub mod columns;
pub mod commit;
#[cfg(feature = "io")]
pub mod content;
pub mod error;
pub mod file;
#[cfg(feature = "io")]
pub mod lake;
pub mod layout;
#[cfg(feature = "io")]
pub mod reader;
pub mod state;
#[cfg(feature = "io")]
pub mod store;
#[cfg(test)]
mod vectors;
pub mod window;
#[cfg(feature = "io")]
pub mod windows;

pub use columns::{StoredEvent, Table};
pub use commit::{Commit, FileEntry, LedgerState, SessionRange, SessionState, StreamEntry};
pub use error::LakeError;
pub use file::{EncodedFile, FileWriter};
pub use layout::{Hour, StreamName};
pub use state::LakeState;
pub use window::WindowRecord;
#[cfg(feature = "io")]
pub use {
    content::ContentReader,
    lake::{Lake, View},
    reader::Filter,
    store::Store,
    windows::Windows,
};
