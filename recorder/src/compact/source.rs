//! The files that are merged: what is read is what was digested, and what was digested is what the commit says.
//!
//! A small file is held in memory. A larger one is read where it lies when the lake is on a local disk; from an object
//! store it is copied to a scratch file first, so that each byte is fetched once.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::error::ArrowError;
use bodycam_lake::file::sha256;
use bodycam_lake::{FileEntry, LakeError, Store};
use bodycam_record::Digest;
use bytes::Bytes;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use parquet::errors::ParquetError;
use parquet::file::reader::ChunkReader;
use sha2::{Digest as _, Sha256};

use super::merge::Input;

/// Files up to this size are held in memory.
const WHOLE: u64 = 1 << 20;
/// Bytes that are fetched or digested at once.
const PIECE: usize = 4 << 20;
/// Bytes of rows, about, that are unpacked at once.
const BATCH_BYTES: usize = 1 << 20;
/// Most rows that are unpacked at once.
const BATCH_ROWS: usize = 8 * 1024;

/// A file outside the lake, removed when it is dropped.
#[derive(Debug)]
pub struct Scratch(PathBuf);

/// A file that is what its commit says.
pub struct Source {
    entry: Arc<FileEntry>,
    bytes: Content,
}

enum Content {
    Whole(Bytes),
    OnDisk(File, Option<Scratch>),
}

impl Scratch {
    /// A new file in `directory`.
    pub fn create(directory: &Path) -> Result<(Self, File), LakeError> {
        let name = format!("compaction-{:016x}", super::chance());
        let path = directory.join(name);
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path);
        let file = file.map_err(|err| failed("create", &path.display().to_string(), &err))?;
        Ok((Self(path), file))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // One that stays, because the process is killed, is swept with what is half-written.
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Source {
    /// Opens a file of `store` and digests it.
    pub async fn open(store: &Store, entry: &Arc<FileEntry>, scratch: &Path) -> Result<Self, LakeError> {
        let (digest, bytes) = if entry.bytes <= WHOLE {
            let bytes = store.need(&entry.path, "a commit").await?;
            (sha256(&bytes), Content::Whole(bytes))
        } else if let Some(directory) = store.directory() {
            let (path, at) = (entry.path.clone(), directory.join(&entry.path));
            blocking(move || local(&path, &at)).await?
        } else {
            copy(store, entry, scratch).await?
        };
        if digest != entry.sha256 {
            let reason = "its SHA-256 is not the one in its commit".to_owned();
            return Err(LakeError::Damaged { path: entry.path.clone(), reason });
        }
        Ok(Self { entry: entry.clone(), bytes })
    }

    /// Its rows.
    pub fn rows(self) -> Result<Input, LakeError> {
        let path = self.entry.path.clone();
        match self.bytes {
            Content::Whole(bytes) => rows(path, bytes, None),
            Content::OnDisk(file, scratch) => rows(path, file, scratch),
        }
    }
}

fn rows(
    path: String,
    file: impl ChunkReader + 'static,
    scratch: Option<Scratch>,
) -> Result<Input, LakeError> {
    let damaged = |err: ParquetError| LakeError::Damaged {
        path: path.clone(),
        reason: bodycam_record::shown(&err.to_string()),
    };
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(damaged)?;
    let groups = builder.metadata().row_groups();
    // What the widest row group says, so that a stretch of wide rows does not surprise.
    let row_bytes = groups.iter().filter_map(|g| g.total_byte_size().checked_div(g.num_rows())).max();
    let row_bytes = usize::try_from(row_bytes.unwrap_or(0)).unwrap_or(0).max(1);
    let at_once = (BATCH_BYTES / row_bytes).clamp(16, BATCH_ROWS);
    let reader = builder.with_batch_size(at_once).build().map_err(damaged)?;
    let batches = Reading { batches: reader, _scratch: scratch };
    Ok(Input { path, batches: Box::new(batches), row_bytes })
}

/// Rows of a file, and the scratch file that they are read from: it stays as long as it is read.
struct Reading {
    batches: ParquetRecordBatchReader,
    _scratch: Option<Scratch>,
}

impl Iterator for Reading {
    type Item = Result<RecordBatch, ArrowError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.batches.next()
    }
}

/// A file on a local disk, and its digest.
fn local(path: &str, at: &Path) -> Result<(Digest, Content), LakeError> {
    let read = |err: &io::Error| match err.kind() {
        io::ErrorKind::NotFound => {
            LakeError::Missing { path: path.to_owned(), named_by: "a commit".to_owned() }
        }
        _ => failed("read", path, err),
    };
    // Before it is opened: opening a pipe would wait for its writer.
    if !at.metadata().map_err(|err| read(&err))?.is_file() {
        return Err(LakeError::Damaged { path: path.to_owned(), reason: "it is no regular file".to_owned() });
    }
    let mut file = File::open(at).map_err(|err| read(&err))?;
    let digest = digest(&mut file).map_err(|err| read(&err))?;
    Ok((digest, Content::OnDisk(file, None)))
}

fn digest(file: &mut File) -> io::Result<Digest> {
    let mut sha256 = Sha256::new();
    let mut piece = vec![0; PIECE];
    loop {
        match file.read(&mut piece)? {
            0 => break,
            n => sha256.update(piece.get(..n).unwrap_or_default()),
        }
    }
    file.rewind()?;
    Ok(Digest(sha256.finalize().into()))
}

/// Copies an object to a scratch file; gives it and its digest.
async fn copy(store: &Store, entry: &FileEntry, scratch: &Path) -> Result<(Digest, Content), LakeError> {
    let (scratch, mut file) = Scratch::create(scratch)?;
    let mut sha256 = Sha256::new();
    let mut at = 0;
    while at < entry.bytes {
        let end = entry.bytes.min(at + PIECE as u64);
        let Some(piece) = store.get_range(&entry.path, at..end).await? else {
            return Err(LakeError::Missing { path: entry.path.clone(), named_by: "a commit".to_owned() });
        };
        if piece.is_empty() {
            break;
        }
        at += piece.len() as u64;
        let path = scratch.path().display().to_string();
        (file, sha256) = blocking(move || {
            sha256.update(&piece);
            file.write_all(&piece).map_err(|err| failed("write", &path, &err))?;
            Ok((file, sha256))
        })
        .await?;
    }
    Ok((Digest(sha256.finalize().into()), Content::OnDisk(file, Some(scratch))))
}

/// Runs blocking work off the runtime's threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, LakeError> + Send + 'static,
) -> Result<T, LakeError> {
    tokio::task::spawn_blocking(work).await.map_err(|err| failed("read", "a file", &io::Error::other(err)))?
}

/// The error of a file on a local disk.
pub fn failed(action: &'static str, path: &str, err: &io::Error) -> LakeError {
    LakeError::Store {
        action,
        path: bodycam_record::shown(path),
        reason: bodycam_record::shown(&err.to_string()),
    }
}
