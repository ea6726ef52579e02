//! `bodycam demo`.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use crate::demo::story;

/// Tells the story in `dir`, or in a new directory that stays.
pub fn run(dir: Option<PathBuf>, offer_replay: bool) -> Result<ExitCode> {
    let dir = match dir {
        Some(dir) => {
            let occupied = dir.read_dir().is_ok_and(|mut entries| entries.next().is_some());
            if occupied {
                bail!("{} is not empty; name another directory with --dir", dir.display());
            }
            std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
            dir.canonicalize()?
        }
        None => tempfile::Builder::new().prefix("bodycam-demo-").tempdir()?.keep(),
    };
    // The database server runs as another user when we are root.
    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o755))?;
    story::tell(&dir, offer_replay)
}
