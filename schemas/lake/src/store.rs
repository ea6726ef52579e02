//! Where a lake rests: a directory, or any object store with put-if-absent.
//!
//! Invariant: when a write returns, the object is whole and durable under its name, and nobody ever sees a
//! part of it. On a local disk that takes an fsync of the file and of its directory, which `object_store`
//! does not do, so local writes are done here.

use std::ops::Range;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectStore, ObjectStoreExt};

use crate::commit::FileEntry;
use crate::error::LakeError;

mod cache;
mod local;
mod objects;
mod s3;

use cache::Cache;
use local::LocalWrites;
pub use local::Lock;
use objects::ObjectWrites;
pub use s3::{S3Credentials, S3Options};

/// Names that one request for a listing gives, and few stores more.
const NEAR: usize = 1000;

/// A store of objects.
#[derive(Clone)]
pub struct Store {
    name: Arc<str>,
    reads: Arc<dyn ObjectStore>,
    writes: Arc<dyn Writes>,
    directory: Option<Arc<PathBuf>>,
    /// What was read of data files, where reading them takes long.
    cache: Option<Arc<Cache>>,
    /// How it is found out whether there is a service at all.
    contact: Option<Arc<s3::Contact>>,
}

/// Whether an object was written by a put-if-absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// It was not there, and now is.
    New,
    /// It was there; nothing was written.
    Exists,
}

/// An object of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its path.
    pub path: String,
    /// Its size.
    pub bytes: u64,
    /// When it was written by the clock of the store, Unix ns.
    pub written_ns: i64,
}

/// The writing side of a store. Each call is atomic and durable when it returns.
pub trait Writes: Send + Sync {
    /// Writes an object unless there is one of this name.
    fn put_new(&self, path: String, bytes: Bytes) -> BoxFuture<'_, Result<Put, LakeError>>;
    /// Writes an object with the content of a local file unless there is one of this name.
    fn put_new_file(&self, path: String, file: PathBuf) -> BoxFuture<'_, Result<Put, LakeError>> {
        Box::pin(async move {
            let bytes = tokio::task::spawn_blocking(move || std::fs::read(file)).await;
            let bytes = bytes.map_err(|err| failed("write", &path, err))?;
            self.put_new(path.clone(), bytes.map_err(|err| failed("write", &path, err))?.into()).await
        })
    }
    /// Writes an object in the place of whatever is there.
    fn put(&self, path: String, bytes: Bytes) -> BoxFuture<'_, Result<(), LakeError>>;
    /// Deletes an object; one that is not there is no error.
    fn delete(&self, path: String) -> BoxFuture<'_, Result<(), LakeError>>;
}

impl Store {
    /// The store at `location`: a directory, a `file://` URL, or `s3://bucket/prefix` as the environment describes it.
    /// A directory must exist; an S3 service is not asked yet.
    pub fn open(location: &str) -> Result<Self, LakeError> {
        Self::open_at(location, &S3Options::default())
    }

    /// As [`Store::open`], with what is known of the S3 service.
    pub fn open_at(location: &str, s3: &S3Options) -> Result<Self, LakeError> {
        let unsuitable =
            |reason: String| LakeError::Unsuitable { store: bodycam_record::shown(location), reason };
        let directory = match location.split_once("://") {
            Some(("file", path)) => PathBuf::from(path),
            Some((s3::SCHEME, place)) => {
                let sides = s3::open(place.trim_end_matches('/'), s3)?;
                let name = bodycam_record::shown(location).into();
                let (reads, writes) = (sides.reads, Arc::new(sides.writes));
                let (cache, contact) = (Some(Arc::default()), Some(Arc::new(sides.contact)));
                return Ok(Self { name, reads, writes, directory: None, cache, contact });
            }
            Some((scheme, _)) => {
                return Err(unsuitable(format!(
                    "a lake is a directory, file://PATH or s3://BUCKET/PREFIX, not {}://",
                    bodycam_record::shown(scheme)
                )));
            }
            None => PathBuf::from(location),
        };
        let directory = directory.canonicalize().map_err(|err| unsuitable(err.to_string()))?;
        let reads =
            LocalFileSystem::new_with_prefix(&directory).map_err(|err| unsuitable(err.to_string()))?;
        Ok(Self {
            name: bodycam_record::shown(&directory.display().to_string()).into(),
            reads: Arc::new(reads),
            writes: Arc::new(LocalWrites::new(directory.clone())),
            directory: Some(Arc::new(directory)),
            cache: None,
            contact: None,
        })
    }

    /// As [`Store::open`], but makes the directory when it is not there. A bucket is never made.
    pub fn create(location: &str) -> Result<Self, LakeError> {
        Self::create_at(location, &S3Options::default())
    }

    /// As [`Store::create`], with what is known of the S3 service.
    pub fn create_at(location: &str, s3: &S3Options) -> Result<Self, LakeError> {
        let directory = location.strip_prefix("file://").unwrap_or(location);
        if !directory.contains("://") {
            std::fs::create_dir_all(directory).map_err(|err| LakeError::Store {
                action: "create",
                path: bodycam_record::shown(directory),
                reason: err.to_string(),
            })?;
        }
        Self::open_at(location, s3)
    }

    /// A lake in any object store; `name` is what messages call it.
    pub fn on(store: Arc<dyn ObjectStore>, name: &str) -> Self {
        let writes = ObjectWrites::new(store.clone(), store.clone(), Duration::from_secs(1));
        let writes = Arc::new(writes);
        Self { name: name.into(), reads: store, writes, directory: None, cache: None, contact: None }
    }

    /// Whether the service takes connections, said within seconds: for people who wait, and not for services, whose
    /// requests are tried again for as long as the options say. A directory is always there.
    pub async fn reach(&self) -> Result<(), LakeError> {
        match &self.contact {
            Some(contact) => contact.reach().await,
            None => Ok(()),
        }
    }

    /// The same store with another writing side.
    pub fn with_writes(self, wrap: impl FnOnce(Arc<dyn Writes>) -> Arc<dyn Writes>) -> Self {
        Self { writes: wrap(self.writes), ..self }
    }

    /// What messages call it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its directory, when it is local.
    pub fn directory(&self) -> Option<&std::path::Path> {
        self.directory.as_deref().map(PathBuf::as_path)
    }

    pub(crate) fn cache(&self) -> Option<&Cache> {
        self.cache.as_deref()
    }

    /// A directory for files that are being made, on the disk of the lake where that is local, and that of temporary
    /// files otherwise. [`Store::sweep`] deletes what is left there.
    pub fn scratch(&self) -> Result<PathBuf, LakeError> {
        let scratch = self.local_root().join(local::STAGING);
        let made = match self.directory {
            Some(_) => local::make_directories(&scratch, false),
            // Others can write beside it: it must be ours, and nobody else's.
            None => local::make_private(&self.local_root()).and_then(|()| local::make_private(&scratch)),
        };
        made.map_err(|err| failed("create", &scratch.display().to_string(), err))?;
        Ok(scratch)
    }

    /// The reading side, for engines that bring their own readers.
    pub fn object_store(&self) -> Arc<dyn ObjectStore> {
        self.reads.clone()
    }

    /// Refuses a store on which a second writer would go unnoticed: puts one object twice, and expects the
    /// second to be refused.
    pub async fn probe(&self, nonce: u64) -> Result<(), LakeError> {
        let path = format!("state/probe-{nonce:016x}");
        let unsuitable = |reason: &str| LakeError::Unsuitable {
            store: self.name.to_string(),
            reason: format!("{reason}, so two recorders could overwrite one another; choose another store"),
        };
        let first = self.writes.put_new(path.clone(), Bytes::from_static(b"probe")).await?;
        let second = self.writes.put_new(path.clone(), Bytes::from_static(b"again")).await;
        let kept = self.get(&path).await?;
        self.writes.delete(path).await?;
        if first != Put::New || second? != Put::Exists {
            return Err(unsuitable("it does not refuse to overwrite an object (put-if-absent)"));
        }
        if kept.as_deref() != Some(b"probe") {
            return Err(unsuitable("it does not read back what was written"));
        }
        Ok(())
    }

    fn local_root(&self) -> PathBuf {
        let elsewhere = || std::env::temp_dir().join(format!("bodycam-lake-{}", local::user()));
        self.directory.as_deref().cloned().unwrap_or_else(elsewhere)
    }

    /// Takes a lock on the store, for as long as what is returned lives. Refused while another process, or another
    /// part of this one, holds it. None where there is nothing to lock: on an object store commits alone decide.
    pub fn lock(&self, name: &str) -> Result<Option<Lock>, LakeError> {
        self.lock_by(name, std::fs::File::try_lock)
    }

    /// As [`Store::lock`], beside others who take it in this way: it keeps out those who want it alone.
    pub fn lock_shared(&self, name: &str) -> Result<Option<Lock>, LakeError> {
        self.lock_by(name, std::fs::File::try_lock_shared)
    }

    fn lock_by(&self, name: &str, how: local::HowToLock) -> Result<Option<Lock>, LakeError> {
        let Some(directory) = self.directory() else { return Ok(None) };
        local::lock(&directory.join(name), how).map(Some).map_err(|err| match err {
            std::fs::TryLockError::WouldBlock => {
                LakeError::Locked { store: self.name.to_string(), lock: name.to_owned() }
            }
            std::fs::TryLockError::Error(err) => failed("lock", name, err),
        })
    }

    /// Deletes what killed writers left half-written, from `age` on; gives their number.
    pub async fn sweep(&self, age: Duration) -> Result<u64, LakeError> {
        // What is somebody else's is not swept.
        if self.directory.is_none() && self.scratch().is_err() {
            return Ok(0);
        }
        let directory = self.local_root();
        let swept = tokio::task::spawn_blocking(move || local::sweep(&directory, age)).await;
        let swept = swept.map_err(|err| failed("sweep", local::STAGING, err))?;
        swept.map_err(|err| failed("sweep", local::STAGING, err))
    }

    /// An object; none when it is not there.
    pub async fn get(&self, path: &str) -> Result<Option<Bytes>, LakeError> {
        let result = match self.reads.get(&object_path(path)?).await {
            Ok(found) => found.bytes().await,
            Err(err) => Err(err),
        };
        absent_is_none(path, result)
    }

    /// An object that `named_by` says is there.
    pub async fn need(&self, path: &str, named_by: &str) -> Result<Bytes, LakeError> {
        let missing = || LakeError::Missing { path: path.to_owned(), named_by: named_by.to_owned() };
        self.get(path).await?.ok_or_else(missing)
    }

    /// A part of an object; none when the object is not there.
    pub async fn get_range(&self, path: &str, range: Range<u64>) -> Result<Option<Bytes>, LakeError> {
        let options = GetOptions { range: Some(GetRange::Bounded(range)), ..GetOptions::default() };
        let result = match self.reads.get_opts(&object_path(path)?, options).await {
            Ok(found) => found.bytes().await,
            Err(err) => Err(err),
        };
        absent_is_none(path, result)
    }

    /// The first `most` bytes of an object, or all of it when it is shorter; none when it is not there.
    pub async fn get_start(&self, path: &str, most: u64) -> Result<Option<Bytes>, LakeError> {
        match self.get_range(path, 0..most).await {
            // Of an object without bytes there is no range.
            Err(_) if self.size(path).await? == Some(0) => Ok(Some(Bytes::new())),
            start => start,
        }
    }

    /// Whether there is an object of this name.
    pub async fn exists(&self, path: &str) -> Result<bool, LakeError> {
        absent_is_none(path, self.reads.head(&object_path(path)?).await).map(|head| head.is_some())
    }

    /// Objects under `folder`. For finding leftovers of killed writers, and for the verifier, which compares: what a lake
    /// holds is said by its commits, never by a listing.
    pub async fn listed(&self, folder: &str) -> Result<Vec<Listed>, LakeError> {
        let prefix = object_path(folder)?;
        let mut listing = self.reads.list(Some(&prefix));
        let mut found = Vec::new();
        while let Some(object) = listing.next().await {
            let object = object.map_err(|err| failed("list", folder, err))?;
            let written_ns = object.last_modified.timestamp_nanos_opt().unwrap_or(i64::MAX);
            found.push(Listed { path: object.location.to_string(), bytes: object.size, written_ns });
        }
        Ok(found)
    }

    /// Names in `folder`, of objects and folders. For noticing what should not be there only: what a lake holds is said
    /// by its commits, never by a listing.
    pub async fn names(&self, folder: &str) -> Result<Vec<String>, LakeError> {
        let prefix = object_path(folder)?;
        if let Some(directory) = self.directory() {
            let folder_here = directory.join(prefix.as_ref());
            let listed = tokio::task::spawn_blocking(move || local::names(&folder_here)).await;
            let listed = listed.map_err(|err| failed("list", folder, err))?;
            return listed.map_err(|err| failed("list", folder, err));
        }
        let mut listing = self.reads.list(Some(&prefix));
        let mut found = std::collections::BTreeSet::new();
        while let Some(object) = listing.next().await {
            let object = object.map_err(|err| failed("list", folder, err))?;
            let name = object.location.prefix_match(&prefix).and_then(|mut parts| parts.next());
            found.extend(name.map(|name| name.as_ref().to_owned()));
        }
        Ok(found.into_iter().collect())
    }

    /// Names in a folder of numbered objects, among them those that come soon after `number`: in a directory all of them, in
    /// an object store what two requests tell. As with [`Store::names`], for noticing only.
    pub async fn names_near(&self, folder: &str, number: u64) -> Result<Vec<String>, LakeError> {
        if self.directory.is_some() {
            return self.names(folder).await;
        }
        let prefix = object_path(folder)?;
        // The order is that of text: the numbers that follow have as many digits, or begin anew with one more.
        let digits = number.checked_ilog10().unwrap_or(0);
        let longer = 10u64.checked_pow(digits + 1).unwrap_or(u64::MAX);
        let mut names = Vec::new();
        for from in [number, longer] {
            // An offset itself is left out, so it is what comes just before the first name.
            let offset = object_path(&format!("{folder}/{from}"))?;
            let mut listing = self.reads.list_with_offset(Some(&prefix), &offset).take(NEAR);
            while let Some(object) = listing.next().await {
                let object = object.map_err(|err| failed("list", folder, err))?;
                names.extend(object.location.filename().map(str::to_owned));
            }
        }
        Ok(names)
    }

    /// Bytes of a data file as it is on a local disk, where a file of another size than its commit says can be looked
    /// at all the same; elsewhere what the commit says.
    pub fn size_of(&self, file: &FileEntry) -> Result<u64, LakeError> {
        let path = object_path(&file.path)?;
        let Some(directory) = self.directory() else { return Ok(file.bytes) };
        match std::fs::metadata(directory.join(path.as_ref())) {
            Ok(there) if there.is_file() => Ok(there.len()),
            Ok(_) => Err(LakeError::damaged(&file.path, "it is no regular file")),
            Err(err) if err.kind() == std::io::ErrorKind::NotFound => {
                Err(LakeError::Missing { path: file.path.clone(), named_by: "a commit".to_owned() })
            }
            Err(err) => Err(failed("read", &file.path, err)),
        }
    }

    /// When an object was written, Unix ns; none when it is not there.
    pub async fn written_ns(&self, path: &str) -> Result<Option<i64>, LakeError> {
        let head = absent_is_none(path, self.reads.head(&object_path(path)?).await)?;
        Ok(head.and_then(|head| head.last_modified.timestamp_nanos_opt()))
    }

    /// Bytes of an object as the store has it; none when it is not there.
    pub async fn size(&self, path: &str) -> Result<Option<u64>, LakeError> {
        absent_is_none(path, self.reads.head(&object_path(path)?).await).map(|head| head.map(|h| h.size))
    }

    /// Writes an object unless there is one of this name.
    pub async fn put_new(&self, path: &str, bytes: Bytes) -> Result<Put, LakeError> {
        self.writes.put_new(path.to_owned(), bytes).await
    }

    /// Writes an object with the content of a local file unless there is one of this name. The file stays; it is best
    /// made in [`Store::scratch`].
    pub async fn put_new_file(&self, path: &str, file: &FilePath) -> Result<Put, LakeError> {
        self.writes.put_new_file(path.to_owned(), file.to_owned()).await
    }

    /// Writes an object that never changes: one that is there with the same content will do.
    pub async fn put_once(&self, path: &str, bytes: Bytes) -> Result<Put, LakeError> {
        match self.put_new(path, bytes.clone()).await? {
            Put::Exists if self.get(path).await?.is_none_or(|there| there != bytes) => {
                Err(LakeError::Exists { path: path.to_owned() })
            }
            put => Ok(put),
        }
    }

    /// Writes an object in the place of whatever is there.
    pub async fn put(&self, path: &str, bytes: Bytes) -> Result<(), LakeError> {
        self.writes.put(path.to_owned(), bytes).await
    }

    /// Deletes an object; one that is not there is no error.
    pub async fn delete(&self, path: &str) -> Result<(), LakeError> {
        self.writes.delete(path.to_owned()).await
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Store({})", self.name)
    }
}

/// The path of an object as `object_store` knows it.
pub fn object_path(path: &str) -> Result<Path, LakeError> {
    Path::parse(path).map_err(|err| failed("name", path, err))
}

fn failed(action: &'static str, path: &str, err: impl std::fmt::Display) -> LakeError {
    LakeError::Store {
        action,
        path: bodycam_record::shown(path),
        reason: bodycam_record::shown(&err.to_string()),
    }
}

fn absent_is_none<T>(path: &str, result: object_store::Result<T>) -> Result<Option<T>, LakeError> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(object_store::Error::NotFound { .. }) => Ok(None),
        Err(err) => Err(failed("read", path, err)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use object_store::memory::InMemory;

    fn stores() -> (tempfile::TempDir, Vec<Store>) {
        let dir = tempfile::tempdir().unwrap();
        let local = Store::create(dir.path().join("new/lake").to_str().unwrap()).unwrap();
        (dir, vec![local, Store::on(Arc::new(InMemory::new()), "memory")])
    }

    #[tokio::test]
    async fn an_object_is_written_once_and_read_back_whole_or_in_part() {
        let (_dir, stores) = stores();
        for store in stores {
            store.probe(7).await.unwrap();
            let path = "tables/sql/dt=2026-11-21/hh=09/gw@0-0-1-2-0000000a.parquet";
            assert_eq!(store.put_new(path, Bytes::from_static(b"first")).await.unwrap(), Put::New);
            assert_eq!(store.put_new(path, Bytes::from_static(b"second")).await.unwrap(), Put::Exists);
            assert_eq!(store.get(path).await.unwrap().unwrap().as_ref(), b"first");
            assert_eq!(store.get_range(path, 1..3).await.unwrap().unwrap().as_ref(), b"ir");
            store.put_once(path, Bytes::from_static(b"first")).await.unwrap();
            assert!(matches!(
                store.put_once(path, Bytes::from_static(b"other")).await,
                Err(LakeError::Exists { .. })
            ));
            store.put(path, Bytes::from_static(b"third")).await.unwrap();
            assert_eq!(store.get(path).await.unwrap().unwrap().as_ref(), b"third");
            store.delete(path).await.unwrap();
            store.delete(path).await.unwrap();
            assert_eq!(store.get(path).await.unwrap(), None);
            assert!(!store.exists(path).await.unwrap());
            assert!(
                store
                    .need(path, "x")
                    .await
                    .unwrap_err()
                    .to_string()
                    .contains("is missing, though x names it")
            );
        }
    }

    #[tokio::test]
    async fn of_many_writers_of_one_name_exactly_one_wins() {
        let (_dir, stores) = stores();
        for store in stores {
            let tasks: Vec<_> = (0..16u8)
                .map(|i| {
                    let store = store.clone();
                    tokio::spawn(async move {
                        store.put_new("commits/x/0/0.json", Bytes::from(vec![i; 100])).await
                    })
                })
                .collect();
            let mut won = Vec::new();
            for (i, task) in tasks.into_iter().enumerate() {
                if task.await.unwrap().unwrap() == Put::New {
                    won.push(i as u8);
                }
            }
            assert_eq!(won.len(), 1);
            assert_eq!(store.get("commits/x/0/0.json").await.unwrap().unwrap().as_ref(), [won[0]; 100]);
        }
    }

    #[tokio::test]
    async fn a_local_store_leaves_no_temporary_files_behind() {
        let (_dir, stores) = stores();
        let local = &stores[0];
        local.put_new("a/b", Bytes::from_static(b"x")).await.unwrap();
        local.put_new("a/b", Bytes::from_static(b"y")).await.unwrap();
        local.put("a/c", Bytes::from_static(b"z")).await.unwrap();
        let names = |dir: &str| {
            let dir = local.directory().unwrap().join(dir);
            let mut names: Vec<_> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name()).collect();
            names.sort();
            names
        };
        assert_eq!(names("a"), ["b", "c"]);
        assert!(names(".tmp").is_empty());
    }

    #[tokio::test]
    async fn a_lock_is_held_once_and_what_was_half_written_is_swept_by_age() {
        let (_dir, stores) = stores();
        let local = &stores[0];
        let held = local.lock("recorder.lock").unwrap().unwrap();
        let again = Store::open(local.directory().unwrap().to_str().unwrap()).unwrap();
        let message = again.lock("recorder.lock").unwrap_err().to_string();
        assert!(message.contains("recorder.lock") && message.contains("another"), "{message}");
        drop(held);
        again.lock("recorder.lock").unwrap().unwrap();
        assert!(stores[1].lock("recorder.lock").unwrap().is_none());

        local.put_new("a/b", Bytes::from_static(b"x")).await.unwrap();
        let half = local.directory().unwrap().join(".tmp/0123-4");
        std::fs::write(&half, "half").unwrap();
        assert_eq!(local.sweep(std::time::Duration::from_secs(600)).await.unwrap(), 0);
        assert_eq!(local.sweep(std::time::Duration::ZERO).await.unwrap(), 1);
        assert!(!half.exists() && local.exists("a/b").await.unwrap());
    }

    #[test]
    fn a_location_that_cannot_be_a_lake_is_refused_with_its_name() {
        for (location, expected) in [
            ("/does/not/exist", "No such file"),
            ("gs://bucket/x", "not gs://"),
            ("s3://B/x", "3 to 63 small letters"),
        ] {
            let message = Store::open(location).unwrap_err().to_string();
            assert!(message.contains(location) && message.contains(expected), "{message}");
        }
    }
}
