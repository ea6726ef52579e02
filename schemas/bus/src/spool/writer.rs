//! The writing side: one [`Spool`] per producer process, one [`LaneWriter`] per lane.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::watch;

use super::repair::{self, LostPositions};
use super::segment;
use super::sync::{LaneSync, Syncer};
use super::usage::Usage;
use crate::{BusError, Durability, Publisher, Record, SpoolConfig, StreamId, wire};

/// How often a lane looks at how much the whole spool holds.
const MEASURE_EVERY: u64 = 1 << 20;

/// A producer's spool, held by one process (the lock file says so).
#[derive(Debug)]
pub struct Spool {
    dir: PathBuf,
    producer: String,
    syncer: Arc<Syncer>,
    usage: Arc<Usage>,
    lost: Vec<LostPositions>,
    lock: File,
}

/// The writing end of one lane.
#[derive(Debug)]
pub struct LaneWriter {
    stream: StreamId,
    dir: PathBuf,
    file: Arc<File>,
    path: PathBuf,
    segment_len: u64,
    total: u64,
    next: i64,
    buffered: i64,
    buf: Vec<u8>,
    syncer: Arc<Syncer>,
    sync: Arc<LaneSync>,
    synced: watch::Receiver<Result<u64, String>>,
    usage: Arc<Usage>,
    since_measure: u64,
    poisoned: Option<String>,
    #[cfg(test)]
    pub(super) fail_entering: bool,
}

impl Spool {
    /// Opens (or makes) the spool of `producer`, and makes every lane fit to be read and written again;
    /// refused while another process holds it.
    pub fn open(config: &SpoolConfig, producer: &str) -> Result<Self, BusError> {
        StreamId::new(producer, "lock")?;
        let dir = config.dir.join(producer);
        make_directory(&dir)?;
        let path = dir.join("lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(BusError::io("open", &path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Err(BusError::InUse { path: dir }),
            Err(fs::TryLockError::Error(e)) => return Err(BusError::io("lock", &path)(e)),
        }
        let mut lost = Vec::new();
        for lane in segment::subdirectories(&dir)? {
            let (stream, lane) = (StreamId::new(producer, &lane)?, dir.join(&lane));
            repair::repair(&lane, &stream)?;
            segment::make_origin(&lane)?;
            lost.extend(repair::pending(&lane, &stream)?);
        }
        let syncer =
            Arc::new(Syncer::start(config.durability).map_err(BusError::io("start fsync thread of", &dir))?);
        let usage = Arc::new(Usage::new(dir.clone(), config)?);
        Ok(Self { producer: producer.to_owned(), syncer, usage, lost, lock, dir })
    }

    /// The producer.
    pub fn producer(&self) -> &str {
        &self.producer
    }

    /// Positions that were lost and that the ledger does not say yet.
    pub fn lost(&self) -> &[LostPositions] {
        &self.lost
    }

    /// Says that the ledger holds a GAP for each of [`Spool::lost`].
    pub fn declared(&mut self) -> Result<(), BusError> {
        for lost in &self.lost {
            repair::declared(&self.dir.join(lost.stream.lane()))?;
        }
        self.lost.clear();
        Ok(())
    }

    /// Bytes that wait for the recorder, as last measured.
    pub fn used_bytes(&self) -> u64 {
        self.usage.used()
    }

    /// Measures how many bytes wait for the recorder.
    pub fn measure(&self) -> Result<(), BusError> {
        self.usage.measure()
    }

    /// Refuses when events would be.
    pub fn has_room(&self) -> Result<(), BusError> {
        self.usage.admit("", 1)
    }

    /// Opens a lane for writing, after the last whole record.
    pub fn lane(&self, lane: &str) -> Result<LaneWriter, BusError> {
        let stream = StreamId::new(&self.producer, lane)?;
        let dir = self.dir.join(lane);
        make_directory(&dir)?;
        segment::make_origin(&dir)?;
        let (path, next) = match segment::list(&dir)?.pop() {
            None => {
                let next = segment::released(&dir)?;
                (segment::path(&dir, next), next)
            }
            Some(last) => {
                let next = segment::scan(&last)?.next;
                (last.path, next)
            }
        };
        let (file, segment_len) = start_segment(&path)?;
        let sync = LaneSync::new(Arc::clone(&file));
        self.syncer.register(Arc::clone(&sync));
        segment::sync_directory(&dir)?;
        self.usage.opened_lane();
        Ok(LaneWriter {
            stream,
            file,
            path,
            segment_len,
            total: 0,
            next,
            buffered: 0,
            buf: Vec::with_capacity(64 << 10),
            syncer: Arc::clone(&self.syncer),
            synced: sync.subscribe(),
            sync,
            usage: Arc::clone(&self.usage),
            since_measure: 0,
            poisoned: None,
            #[cfg(test)]
            fail_entering: false,
            dir,
        })
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        let _ = self.lock.unlock();
    }
}

impl LaneWriter {
    /// The stream.
    pub fn stream(&self) -> &StreamId {
        &self.stream
    }

    /// Position of the next record.
    pub fn next_position(&self) -> i64 {
        self.next + self.buffered
    }

    /// Waits until what was flushed is on the disk, whatever the configuration demands.
    pub fn sync(&self) -> Result<(), BusError> {
        self.file.sync_data().map_err(BusError::io("fsync", &self.path))
    }

    fn usable(&self) -> Result<(), BusError> {
        if let Some(why) = &self.poisoned {
            return Err(BusError::Poisoned { stream: self.stream.to_string(), why: why.clone() });
        }
        if let Err(why) = &*self.synced.borrow() {
            return Err(BusError::Poisoned { stream: self.stream.to_string(), why: why.clone() });
        }
        Ok(())
    }

    /// Flushes, and goes on in a new segment when this one has reached its size. A new segment that cannot be
    /// made is tried again next time: what was flushed is safe where it is.
    pub fn flush_and_rotate(&mut self, state: impl FnOnce() -> Vec<u8>) -> Result<(), BusError> {
        self.flush()?;
        if !self.wants_rotation() {
            return Ok(());
        }
        match self.rotate(state()) {
            Err(error) if self.poisoned.is_none() => {
                tracing::warn!(event = "segment_not_begun", stream = %self.stream, error = %error, "going on in the old segment");
                Ok(())
            }
            outcome => outcome,
        }
    }

    /// A handle that waits until what is flushed now is as durable as configured; none when it is.
    pub fn settling(&self) -> Option<Settling> {
        let waits = self.syncer.durability() == Durability::Power;
        waits.then(|| Settling {
            stream: self.stream.clone(),
            target: self.total,
            synced: self.synced.clone(),
        })
    }

    /// Whether the segment has reached its size: the writer should call [`LaneWriter::rotate`].
    pub fn wants_rotation(&self) -> bool {
        self.segment_len >= self.usage.segment_bytes() && self.buf.is_empty()
    }

    /// Goes on in a new segment, whose first record is `state`: what the producer needs to know if it starts
    /// again and finds nothing older. Everything before must be flushed.
    pub fn rotate(&mut self, state: Vec<u8>) -> Result<(), BusError> {
        self.flush()?;
        let path = segment::path(&self.dir, self.next);
        let temporary = path.with_extension("tmp");
        let mut first = segment::MAGIC.to_vec();
        segment::frame(&mut first, |out| wire::encode(&Record::State(state), out));
        let file = segment::create(&temporary)?;
        (&file).write_all(&first).map_err(BusError::io("write", &temporary))?;
        file.sync_all().map_err(BusError::io("fsync", &temporary))?;
        fs::rename(&temporary, &path).map_err(BusError::io("rename", &path))?;
        // From here on the position belongs to the new segment: the old one must take nothing more.
        let file = Arc::new(file);
        let entered = segment::sync_directory(&self.dir);
        #[cfg(test)]
        let entered = entered.and_then(|()| match self.fail_entering {
            true => Err(BusError::io("fsync", &self.dir)(std::io::Error::other("EIO"))),
            false => Ok(()),
        });
        let entered = entered
            .and_then(|()| self.sync.rotate(Arc::clone(&file)).map_err(BusError::io("fsync", &self.path)));
        if let Err(error) = entered {
            self.poisoned = Some(format!("a new segment was begun and could not be entered: {error}"));
            return Err(error);
        }
        self.usage.wrote(first.len() as u64);
        (self.file, self.path, self.segment_len) = (file, path, first.len() as u64);
        self.next += 1;
        Ok(())
    }
}

impl Publisher for LaneWriter {
    fn append(&mut self, record: &Record) -> Result<i64, BusError> {
        let position = self.next_position();
        segment::frame(&mut self.buf, |out| wire::encode(record, out));
        self.buffered += 1;
        Ok(position)
    }

    fn flush(&mut self) -> Result<(), BusError> {
        self.usable()?;
        if self.buf.is_empty() {
            return Ok(());
        }
        self.usage.admit(self.stream.lane(), self.buf.len() as u64)?;
        if let Err(source) = (&*self.file).write_all(&self.buf) {
            // A short write left a torn record; without cutting it, later records would be lost to readers.
            if let Err(e) = self.file.set_len(self.segment_len) {
                self.poisoned =
                    Some(format!("write failed ({source}), then cutting the torn record failed ({e})"));
            }
            return Err(BusError::Io { action: "write", path: self.path.clone(), source });
        }
        let len = self.buf.len() as u64;
        self.segment_len += len;
        self.total += len;
        self.next += self.buffered;
        self.usage.wrote(len);
        self.since_measure += len;
        self.syncer.written(&self.sync, self.total);
        self.buf.clear();
        self.buf.shrink_to(1 << 20);
        self.buffered = 0;
        if self.since_measure >= MEASURE_EVERY {
            self.since_measure = 0;
            // The records are out: that they cannot be counted now is no reason to hold them.
            if let Err(error) = self.usage.measure() {
                tracing::warn!(event = "spool_not_measured", error = %error, "how full the spool is was not seen");
            }
        }
        Ok(())
    }

    async fn settled(&mut self) -> Result<(), BusError> {
        match self.settling() {
            Some(settling) => settling.wait().await,
            None => Ok(()),
        }
    }
}

/// Waits until what was flushed before it was made is as durable as configured, without holding the lane.
#[derive(Debug)]
pub struct Settling {
    stream: StreamId,
    target: u64,
    synced: watch::Receiver<Result<u64, String>>,
}

impl Settling {
    /// Returns when it is, or with why it will never be.
    pub async fn wait(mut self) -> Result<(), BusError> {
        let target = self.target;
        let poisoned = |why: String| BusError::Poisoned { stream: self.stream.to_string(), why };
        match self.synced.wait_for(|synced| synced.as_ref().map_or(true, |done| *done >= target)).await {
            Ok(synced) => match &*synced {
                Ok(_) => Ok(()),
                Err(why) => Err(poisoned(why.clone())),
            },
            Err(_) => Err(poisoned("fsync thread ended".to_owned())),
        }
    }
}

/// Opens the segment to go on in: a new one, or the last one.
fn start_segment(path: &Path) -> Result<(Arc<File>, u64), BusError> {
    let mut file = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
        .map_err(BusError::io("create", path))?;
    let mut len = file.metadata().map_err(BusError::io("inspect", path))?.len();
    if len < segment::MAGIC.len() as u64 {
        file.set_len(0).map_err(BusError::io("cut", path))?;
        file.write_all(segment::MAGIC).map_err(BusError::io("write", path))?;
        len = segment::MAGIC.len() as u64;
    }
    // What an earlier process left here counts as written: its sessions are sealed on top of it.
    file.sync_all().map_err(BusError::io("fsync", path))?;
    Ok((Arc::new(file), len))
}

/// Makes a directory, and those above it, that only the gateway's user may enter, durably.
fn make_directory(dir: &Path) -> Result<(), BusError> {
    if dir.as_os_str().is_empty() || dir.is_dir() {
        return Ok(());
    }
    let parent = dir.parent().unwrap_or(Path::new(""));
    make_directory(parent)?;
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(e) if e.kind() != ErrorKind::AlreadyExists => Err(BusError::io("create", dir)(e)),
        _ => segment::sync_directory(parent),
    }
}
