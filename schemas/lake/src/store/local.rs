//! Writes to a local disk: a temporary file, fsync, its final name, fsync of the directories.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::hash::{BuildHasher, Hasher};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;

use super::{Put, Writes, failed};
use crate::error::LakeError;

/// Where files are made before they get their name.
pub(super) const STAGING: &str = ".tmp";

/// A lock on a file; released when dropped, and by the system when its process dies.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// Alone, or beside others.
pub(super) type HowToLock = fn(&File) -> Result<(), TryLockError>;

/// Locks the file at `path`, made when it is not there.
pub(super) fn lock(path: &Path, how: HowToLock) -> Result<Lock, TryLockError> {
    let open = OpenOptions::new().create(true).truncate(false).write(true).open(path);
    let file = open.map_err(TryLockError::Error)?;
    how(&file)?;
    Ok(Lock { _file: file })
}

/// Deletes temporary files below `root` from `age` on; gives their number.
pub(super) fn sweep(root: &Path, age: Duration) -> io::Result<u64> {
    let entries = match fs::read_dir(root.join(STAGING)) {
        Err(err) if err.kind() == ErrorKind::NotFound => return Ok(0),
        entries => entries?,
    };
    let mut swept = 0;
    for entry in entries {
        let entry = entry?;
        let written = entry.metadata().and_then(|m| m.modified());
        // A writer that is at work removes its own file meanwhile.
        if written.is_ok_and(|at| at.elapsed().unwrap_or_default() >= age)
            && fs::remove_file(entry.path()).is_ok()
        {
            swept += 1;
        }
    }
    Ok(swept)
}

/// Makes a directory and those above it; readable by this user alone when it is `private`.
pub(super) fn make_directories(path: &Path, private: bool) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    if private {
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    }
    builder.recursive(true).create(path)
}

/// Number of the user who runs this process: it owns what the kernel tells of it.
pub(super) fn user() -> u32 {
    fs::metadata("/proc/self").map_or(u32::MAX, |own| own.uid())
}

/// Makes a directory that only its user can look into. One that is there must be that already.
pub(super) fn make_private(path: &Path) -> io::Result<()> {
    match make_directories(path, true) {
        Err(err) if err.kind() != ErrorKind::AlreadyExists => return Err(err),
        _ => {}
    }
    match is_private(path)? {
        true => Ok(()),
        false => {
            Err(io::Error::other("somebody else made it, or can write into it; remove it, or set TMPDIR"))
        }
    }
}

fn is_private(path: &Path) -> io::Result<bool> {
    let there = fs::symlink_metadata(path)?;
    Ok(there.is_dir() && there.uid() == user() && there.mode() & 0o077 == 0)
}

/// Names in a directory; none when it is not there.
pub(super) fn names(folder: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Err(err) if matches!(err.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        entries => entries?,
    };
    entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

pub(super) struct LocalWrites {
    root: Arc<PathBuf>,
    /// Chance bits, so that no two writers, wherever they run, stage under one name.
    nonce: u64,
    counter: AtomicU64,
}

impl LocalWrites {
    pub fn new(root: PathBuf) -> Self {
        let nonce = std::hash::RandomState::new().build_hasher().finish();
        Self { root: Arc::new(root), nonce, counter: AtomicU64::new(0) }
    }

    /// Runs blocking work on `path` off the runtime's threads.
    fn run<T: Send + 'static>(
        &self,
        action: &'static str,
        path: String,
        work: impl FnOnce(&Path, &Path, &Path) -> io::Result<T> + Send + 'static,
    ) -> BoxFuture<'_, Result<T, LakeError>> {
        let root = self.root.clone();
        let n = self.counter.fetch_add(1, Ordering::Relaxed);
        Box::pin(async move {
            super::object_path(&path)?;
            let target = root.join(&path);
            let staged = root.join(STAGING).join(format!("{:016x}-{n}", self.nonce));
            let done = tokio::task::spawn_blocking(move || work(&root, &target, &staged)).await;
            done.map_err(|err| failed(action, &path, err))?.map_err(|err| failed(action, &path, err))
        })
    }
}

impl Writes for LocalWrites {
    fn put_new(&self, path: String, bytes: Bytes) -> BoxFuture<'_, Result<Put, LakeError>> {
        self.run("write", path, move |root, target, staged| {
            if target.try_exists()? {
                return Ok(Put::Exists);
            }
            stage(root, staged, &bytes)?;
            let put = link(root, staged, target);
            fs::remove_file(staged)?;
            put
        })
    }

    fn put_new_file(&self, path: String, file: PathBuf) -> BoxFuture<'_, Result<Put, LakeError>> {
        self.run("write", path, move |root, target, staged| {
            File::open(&file)?.sync_all()?;
            match link(root, &file, target) {
                Err(err) if err.kind() == ErrorKind::CrossesDevices => {}
                put => return put,
            }
            make_parent(root, staged)?;
            let copied = fs::copy(&file, staged).and_then(|_| File::open(staged)?.sync_all());
            let put = copied.and_then(|()| link(root, staged, target));
            fs::remove_file(staged)?;
            put
        })
    }

    fn put(&self, path: String, bytes: Bytes) -> BoxFuture<'_, Result<(), LakeError>> {
        self.run("write", path, move |root, target, staged| {
            stage(root, staged, &bytes)?;
            make_parent(root, target)?;
            fs::rename(staged, target)?;
            sync_parent(target)
        })
    }

    fn delete(&self, path: String) -> BoxFuture<'_, Result<(), LakeError>> {
        self.run("delete", path, |_, target, _| match fs::remove_file(target) {
            Err(err) if err.kind() != ErrorKind::NotFound => Err(err),
            Err(_) => Ok(()),
            Ok(()) => sync_parent(target),
        })
    }
}

/// Writes `bytes` to a temporary file and syncs it.
fn stage(root: &Path, staged: &Path, bytes: &[u8]) -> io::Result<()> {
    make_parent(root, staged)?;
    let mut file = OpenOptions::new().write(true).create_new(true).open(staged)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    if written.is_err() {
        fs::remove_file(staged)?;
    }
    written
}

/// Gives a synced file its final name, unless that is taken.
fn link(root: &Path, file: &Path, target: &Path) -> io::Result<Put> {
    match make_parent(root, target).and_then(|()| fs::hard_link(file, target)) {
        Ok(()) => sync_parent(target).map(|()| Put::New),
        Err(err) if err.kind() == ErrorKind::AlreadyExists => Ok(Put::Exists),
        Err(err) => Err(err),
    }
}

/// Makes the directories above `path`, each durable in the one above it.
fn make_parent(root: &Path, path: &Path) -> io::Result<()> {
    let Some(parent) = path.parent() else { return Ok(()) };
    if parent == root || parent.is_dir() {
        return Ok(());
    }
    make_parent(root, parent)?;
    match fs::create_dir(parent) {
        Err(err) if err.kind() != ErrorKind::AlreadyExists => Err(err),
        _ => sync_parent(parent),
    }
}

fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}
