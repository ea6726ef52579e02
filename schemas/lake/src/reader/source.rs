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
    whole: Option<Bytes>,
}

impl FileSource {
    /// Opens a file that a commit names. One that is not there, or not of the size that the commit states, is
    /// an error that names it.
    pub async fn open(store: &Store, file: &FileEntry) -> Result<Self, LakeError> {
        let mut source =
            Self { store: store.clone(), path: file.path.as_str().into(), size: file.bytes, whole: None };
        if file.bytes <= WHOLE {
            let bytes = store.need(&file.path, "a commit").await?;
            if bytes.len() as u64 != file.bytes {
                let reason = format!("it has {} bytes, its commit says {}", bytes.len(), file.bytes);
                return Err(LakeError::damaged(&file.path, reason));
            }
            source.whole = Some(bytes);
        }
        Ok(source)
    }

    async fn fetch(&self, range: Range<u64>) -> Result<Bytes, ParquetError> {
        if let Some(whole) = &self.whole {
            let (from, to) = (usize::try_from(range.start)?, usize::try_from(range.end)?);
            if from > to || to > whole.len() {
                return Err(ParquetError::EOF(format!("bytes {from}..{to} lie past the end")));
            }
            return Ok(whole.slice(from..to));
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
            Err(other) => LakeError::damaged(path, other),
        },
        other => LakeError::damaged(path, other),
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
            let size = self.size;
            let mut reader = ParquetMetaDataReader::new().with_prefetch_hint(Some(FOOTER));
            if let Some(options) = options {
                reader = reader
                    .with_column_index_policy(options.column_index_policy())
                    .with_offset_index_policy(options.offset_index_policy());
            }
            Ok(Arc::new(reader.load_and_finish(self, size).await?))
        }
        .boxed()
    }
}
