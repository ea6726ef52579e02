//! Writes through `object_store`.
//!
//! Invariant: whether an object was written is known, or said to be unknown. A service can store an object and lose the
//! answer; asked again it says that the object is there. A put-if-absent is therefore tried again by this module, not by
//! the client, and one that finds its name taken after an attempt without an answer looks whose bytes lie there.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use tokio::time::Instant;

use super::{Put, Writes, absent_is_none, failed, object_path};
use crate::error::LakeError;

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

    /// A large object, in parts. S3 has no put-if-absent for them in this client, and needs none here: their names hold
    /// chance bits of their writer or a part of their digest, so that whoever writes the same name writes the same bytes.
    async fn create_in_parts(&self, path: &str, bytes: Bytes) -> Result<Put, LakeError> {
        let at = object_path(path)?;
        if absent_is_none(path, self.store.head(&at).await)?.is_some() {
            return Ok(Put::Exists);
        }
        self.write_in_parts(path, bytes).await.map(|()| Put::New)
    }

    async fn write_in_parts(&self, path: &str, bytes: Bytes) -> Result<(), LakeError> {
        let upload = self.store.put_multipart(&object_path(path)?).await;
        let mut upload = upload.map_err(|err| failed("write", path, err))?;
        let starts = (0..bytes.len()).step_by(PART);
        let parts: Vec<_> = starts
            .map(|from| upload.put_part(bytes.slice(from..bytes.len().min(from + PART)).into()))
            .collect();
        let sent = stream::iter(parts).buffer_unordered(PARTS_AT_ONCE).try_collect::<()>().await;
        let why = match sent {
            Ok(()) => match upload.complete().await {
                Ok(_) => return Ok(()),
                Err(why) => why,
            },
            Err(why) => why,
        };
        // An end whose answer was lost is refused when it is asked for again: the upload is none any more.
        if self.there(path).await?.is_some_and(|there| there == bytes) {
            return Ok(());
        }
        // What was stored of it costs money until it is given up.
        if let Err(err) = upload.abort().await {
            tracing::warn!(path = %bodycam_record::shown(path), error = %bodycam_record::shown(&err.to_string()), "upload_not_given_up");
        }
        Err(failed("write", path, why))
    }
}

fn unknown(path: &str, why: &Error) -> LakeError {
    LakeError::Unanswered {
        path: bodycam_record::shown(path),
        reason: bodycam_record::shown(&why.to_string()),
    }
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
            match bytes.len() > PART {
                true => self.create_in_parts(&path, bytes).await,
                false => self.create(&path, bytes).await,
            }
        })
    }

    fn put(&self, path: String, bytes: Bytes) -> BoxFuture<'_, Result<(), LakeError>> {
        Box::pin(async move {
            if bytes.len() > PART {
                return self.write_in_parts(&path, bytes).await;
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
