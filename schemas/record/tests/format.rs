//! The event format as others see it: test vectors of everything that is hashed, and the tables of
//! `docs/event-format.md`. Both are made from the code; the tests fail when what is committed differs, and
//! `make vectors` and `make docs` write it anew.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "format/docs.rs"]
mod docs;
#[path = "format/vectors.rs"]
mod vectors;

use std::path::{Path, PathBuf};

/// The root of the repository.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Compares `path` with `expected`; with `BODYCAM_UPDATE=1` writes it.
fn is_current(path: &Path, expected: &str, update: &str) {
    if std::env::var("BODYCAM_UPDATE").is_ok_and(|v| v == "1") {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, expected).unwrap();
        return;
    }
    let found = std::fs::read_to_string(path).unwrap_or_default();
    let differs = found.lines().zip(expected.lines()).position(|(a, b)| a != b);
    let line = differs.unwrap_or_else(|| found.lines().count().min(expected.lines().count())) + 1;
    assert!(found == expected, "{} differs from the code at line {line}: run `{update}`", path.display());
}
