//! A Parquet file in a store, as the Parquet reader wants it. A small file is fetched whole, so that reading
//! it costs one request.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use parquet::arrow::arrow_reader::ArrowReaderOptions;
use parquet::arrow::async_reader::AsyncFileReader;
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};

use crate::commit::FileEntry;
use crate::error::LakeError;
use crate::store::Store;

/// Files up to this size are fetched whole.
const WHOLE: u64 = 1 << 20;
/// Bytes at the end of larger files that are fetched first: footer and, mostly, the page index.
const FOOTER: usize = 128 << 10;

/// A file being read.
#[derive(Clone)]
pub(super) struct FileSource {
    store: Store,
    path: Arc<str>,
    size: u64,
    /// What is known of its end: from which byte on, and the bytes.
    end: Option<(u64, Bytes)>,
}

impl FileSource {
    /// Opens a file that a commit names. One that is not there is an error that names it. One that was encoded anew by
    /// somebody else has another size than the commit states, and is read all the same: whether its rows are those
    /// that were recorded is for the verifier to say.
    pub async fn open(store: &Store, file: &FileEntry) -> Result<Self, LakeError> {
        let size = store.size_of(file)?;
        let path: Arc<str> = file.path.as_str().into();
        if let Some((from, bytes)) = store.cache().and_then(|cache| cache.get(&path)) {
            let size = from + bytes.len() as u64;
            return Ok(Self { store: store.clone(), path, size, end: Some((from, bytes)) });
        }
        let mut source = Self { store: store.clone(), path, size, end: None };
        if size <= WHOLE {
            let bytes = store.need(&file.path, "a commit").await?;
            source.size = bytes.len() as u64;
            source.keep(0, bytes);
        }
        Ok(source)
    }

    fn keep(&mut self, from: u64, bytes: Bytes) {
        if let Some(cache) = self.store.cache() {
            cache.keep(self.path.clone(), from, bytes.clone());
        }
        self.end = Some((from, bytes));
    }

    async fn fetch(&self, range: Range<u64>) -> Result<Bytes, ParquetError> {
        if let Some((start, end)) = &self.end
            && let Some(from) = range.start.checked_sub(*start)
        {
            let (from, to) = (usize::try_from(from)?, usize::try_from(range.end.saturating_sub(*start))?);
            if from > to || to > end.len() {
                return Err(ParquetError::EOF(format!("bytes {from}..{to} lie past the end")));
            }
            return Ok(end.slice(from..to));
        }
        let wanted = range.end.saturating_sub(range.start);
        let bytes = self.store.get_range(&self.path, range).await.map_err(external)?;
        let missing = || LakeError::Missing { path: self.path.to_string(), named_by: "a commit".to_owned() };
        let bytes = bytes.ok_or_else(|| external(missing()))?;
        if bytes.len() as u64 != wanted {
            return Err(ParquetError::EOF(format!("{wanted} bytes wanted, {} there", bytes.len())));
        }
        Ok(bytes)
    }
}

fn external(err: LakeError) -> ParquetError {
    ParquetError::External(Box::new(err))
}

/// The error of reading `path`: what the store said, when it was the store.
pub(super) fn error(path: &str, err: ParquetError) -> LakeError {
    match err {
        ParquetError::External(inner) => match inner.downcast::<LakeError>() {
            Ok(err) => *err,
            Err(other) => LakeError::not_as_committed(path, other),
        },
        other => LakeError::not_as_committed(path, other),
    }
}

impl AsyncFileReader for FileSource {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, ParquetError>> {
        self.fetch(range).boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, Result<Arc<ParquetMetaData>, ParquetError>> {
        async move {
            let reader = || {
                let reader = ParquetMetaDataReader::new().with_prefetch_hint(Some(FOOTER));
                match options {
                    Some(options) => reader
                        .with_column_index_policy(options.column_index_policy())
                        .with_offset_index_policy(options.offset_index_policy()),
                    None => reader,
                }
            };
            let size = self.size;
            let footer = size.saturating_sub(FOOTER as u64);
            if self.end.is_none() {
                let bytes = self.fetch(footer..size).await;
                // One of another size than its commit says is looked at below.
                if let Ok(bytes) = bytes {
                    self.keep(footer, bytes);
                }
            }
            let err = match reader().load_and_finish(&mut *self, size).await {
                Ok(metadata) => return Ok(Arc::new(metadata)),
                Err(err) => err,
            };
            // Perhaps it is of another size than its commit says.
            match self.store.size(&self.path).await.map_err(external)? {
                Some(there) if there != size => {
                    (self.size, self.end) = (there, None);
                    Ok(Arc::new(reader().load_and_finish(self, there).await?))
                }
                _ => Err(err),
            }
        }
        .boxed()
    }
}
