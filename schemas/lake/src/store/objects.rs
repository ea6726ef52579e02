//! Writes through `object_store`.
//!
//! Invariant: whether an object was written is known, or said to be unknown. A service can store an object and lose the
//! answer; asked again it says that the object is there. A put-if-absent is therefore tried again by this module, not by
//! the client, and one that finds its name taken after an attempt without an answer looks whose bytes lie there.
//! What two writers can want the name of, a commit above all, is put whole, under the condition that it is not there.

use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use object_store::{Error, MultipartUpload, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use tokio::time::Instant;

use super::{Put, Writes, absent_is_none, failed, object_path};
use crate::error::LakeError;
use crate::layout::WrittenFor;

/// Objects above this size are written in parts of it.
const PART: usize = 16 << 20;
/// Parts on their way at once.
const PARTS_AT_ONCE: usize = 4;
/// First wait before another attempt; doubled each time.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Longest wait.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The writing side of an object store.
pub(super) struct ObjectWrites {
    /// Tries again by itself.
    store: Arc<dyn ObjectStore>,
    /// Tries once.
    once: Arc<dyn ObjectStore>,
    retry: Duration,
}

impl ObjectWrites {
    /// Writes by `store`, which may try requests again by itself, and put-if-absent by `once`, which must not; these are
    /// tried again for `retry`.
    pub fn new(store: Arc<dyn ObjectStore>, once: Arc<dyn ObjectStore>, retry: Duration) -> Self {
        Self { store, once, retry }
    }

    /// A small object, put if absent.
    async fn create(&self, path: &str, bytes: Bytes) -> Result<Put, LakeError> {
        let at = object_path(path)?;
        let until = Instant::now() + self.retry;
        let mut pause = FIRST_PAUSE;
        // Whether an earlier attempt may have been carried out.
        let mut unanswered = false;
        loop {
            let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
            let why = match self.once.put_opts(&at, PutPayload::from(bytes.clone()), options).await {
                Ok(_) => return Ok(Put::New),
                Err(why @ Error::AlreadyExists { .. }) => match self.there(path).await {
                    Ok(Some(there)) if unanswered && there == bytes => return Ok(Put::New),
                    Ok(Some(_)) => return Ok(Put::Exists),
                    // So S3 answers, too, while another write of this name is on its way (409).
                    Ok(None) => why,
                    Err(_) if unanswered => return Err(unknown(path, &why)),
                    Err(err) => return Err(err),
                },
                Err(why) if is_final(&why) && unanswered => return Err(unknown(path, &why)),
                Err(why) if is_final(&why) => return Err(failed("write", path, why)),
                Err(why) => {
                    unanswered = true;
                    why
                }
            };
            if Instant::now() + pause > until {
                return Err(match unanswered {
                    true => unknown(path, &why),
                    false => failed("write", path, why),
                });
            }
            let shown = (bodycam_record::shown(path), bodycam_record::shown(&why.to_string()));
            tracing::info!(path = %shown.0, error = %shown.1, "store_asked_again");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn there(&self, path: &str) -> Result<Option<Bytes>, LakeError> {
        let found = match self.store.get(&object_path(path)?).await {
            Ok(found) => found.bytes().await,
            Err(err) => Err(err),
        };
        absent_is_none(path, found)
    }

    /// A large data file, in parts. This client has no put-if-absent for them, and they need none: their names hold chance
    /// bits of their writer. Everything whose name two writers can want goes in one put, however large it is.
    async fn create_in_parts(&self, path: &str, whole: &Whole) -> Result<Put, LakeError> {
        let at = object_path(path)?;
        if absent_is_none(path, self.store.head(&at).await)?.is_some() {
            return Ok(Put::Exists);
        }
        self.write_in_parts(path, whole).await.map(|()| Put::New)
    }

    async fn write_in_parts(&self, path: &str, whole: &Whole) -> Result<(), LakeError> {
        let upload = self.store.put_multipart(&object_path(path)?).await;
        let mut upload = upload.map_err(|err| failed("write", path, err))?;
        let why = match send(upload.as_mut(), path, whole).await {
            Ok(()) => match upload.complete().await {
                Ok(_) => return Ok(()),
                Err(why) => failed("write", path, why),
            },
            Err(why) => why,
        };
        // An end whose answer was lost is refused when it is asked for again: the upload is none any more.
        if matches!(self.holds(path, whole).await, Ok(true)) {
            return Ok(());
        }
        // What was stored of it costs money until it is given up.
        if let Err(err) = upload.abort().await {
            let (path, error) = (bodycam_record::shown(path), bodycam_record::shown(&err.to_string()));
            tracing::warn!(path, error, "upload_not_given_up");
        }
        Err(why)
    }

    /// Whether an object is there with just these bytes.
    async fn holds(&self, path: &str, whole: &Whole) -> Result<bool, LakeError> {
        let at = object_path(path)?;
        match absent_is_none(path, self.store.head(&at).await)? {
            Some(head) if head.size == whole.len() => {}
            _ => return Ok(false),
        }
        for part in whole.parts() {
            let there = absent_is_none(path, self.store.get_range(&at, part.clone()).await)?;
            if there != Some(whole.read(path, part).await?) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Sends all parts, some at once.
async fn send(upload: &mut dyn MultipartUpload, path: &str, whole: &Whole) -> Result<(), LakeError> {
    let mut under_way = FuturesUnordered::new();
    for part in whole.parts() {
        let bytes = whole.read(path, part).await?;
        let full = under_way.len() >= PARTS_AT_ONCE;
        if full && let Some(sent) = under_way.next().await {
            sent?;
        }
        let sending = upload.put_part(bytes.into());
        under_way
            .push(async move { sending.await.map_err(|err| failed("write a part of", path, err)) }.boxed());
    }
    while let Some(sent) = under_way.next().await {
        sent?;
    }
    Ok(())
}

/// What is written: bytes in memory, or in a local file of a length.
enum Whole {
    Bytes(Bytes),
    File(Arc<std::fs::File>, u64),
}

impl Whole {
    fn len(&self) -> u64 {
        match self {
            Whole::Bytes(bytes) => bytes.len() as u64,
            Whole::File(_, length) => *length,
        }
    }

    fn parts(&self) -> impl Iterator<Item = Range<u64>> + use<> {
        let length = self.len();
        (0..length).step_by(PART).map(move |from| from..length.min(from + PART as u64))
    }

    async fn read(&self, path: &str, part: Range<u64>) -> Result<Bytes, LakeError> {
        let short = || failed("read", path, "a part lies past its end");
        let (from, to) = (usize::try_from(part.start), usize::try_from(part.end));
        let (Ok(from), Ok(to)) = (from, to) else { return Err(short()) };
        match self {
            Whole::Bytes(bytes) if to <= bytes.len() => Ok(bytes.slice(from..to)),
            Whole::Bytes(_) => Err(short()),
            Whole::File(file, _) => {
                let file = file.clone();
                let read = move || {
                    let mut bytes = vec![0; to.saturating_sub(from)];
                    file.read_exact_at(&mut bytes, part.start).map(|()| Bytes::from(bytes))
                };
                let read =
                    tokio::task::spawn_blocking(read).await.map_err(|err| failed("read", path, err))?;
                read.map_err(|err| failed("read", path, err))
            }
        }
    }
}

fn unknown(path: &str, why: &Error) -> LakeError {
    LakeError::Unanswered {
        path: bodycam_record::shown(path),
        reason: bodycam_record::shown(&why.to_string()),
    }
}

/// Whether an object is a data file of a recorder, whose name nobody else gives.
fn is_data_file(path: &str) -> bool {
    WrittenFor::of(path).is_some()
}

/// Whether another attempt would end the same way.
fn is_final(err: &Error) -> bool {
    matches!(
        err,
        Error::NotFound { .. }
            | Error::PermissionDenied { .. }
            | Error::Unauthenticated { .. }
            | Error::NotSupported { .. }
            | Error::NotImplemented { .. }
            | Error::InvalidPath { .. }
            | Error::UnknownConfigurationKey { .. }
    )
}

impl Writes for ObjectWrites {
    fn put_new(&self, path: String, bytes: Bytes) -> BoxFuture<'_, Result<Put, LakeError>> {
        Box::pin(async move {
            match bytes.len() > PART && is_data_file(&path) {
                true => self.create_in_parts(&path, &Whole::Bytes(bytes)).await,
                false => self.create(&path, bytes).await,
            }
        })
    }

    fn put_new_file(&self, path: String, file: PathBuf) -> BoxFuture<'_, Result<Put, LakeError>> {
        Box::pin(async move {
            let opened = tokio::task::spawn_blocking(move || {
                let file = std::fs::File::open(file)?;
                let length = file.metadata()?.len();
                Ok::<_, std::io::Error>(Whole::File(Arc::new(file), length))
            });
            let opened = opened.await.map_err(|err| failed("write", &path, err))?;
            let whole = opened.map_err(|err| failed("write", &path, err))?;
            match whole.len() > PART as u64 && is_data_file(&path) {
                true => self.create_in_parts(&path, &whole).await,
                false => self.create(&path, whole.read(&path, 0..whole.len()).await?).await,
            }
        })
    }

    fn put(&self, path: String, bytes: Bytes) -> BoxFuture<'_, Result<(), LakeError>> {
        Box::pin(async move {
            if bytes.len() > PART {
                return self.write_in_parts(&path, &Whole::Bytes(bytes)).await;
            }
            let put = self.store.put(&object_path(&path)?, PutPayload::from(bytes)).await;
            put.map(drop).map_err(|err| failed("write", &path, err))
        })
    }

    fn delete(&self, path: String) -> BoxFuture<'_, Result<(), LakeError>> {
        Box::pin(async move {
            match self.store.delete(&object_path(&path)?).await {
                Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
                Err(err) => Err(failed("delete", &path, err)),
            }
        })
    }
}
