//! The writing side: one [`Spool`] per producer process, one [`LaneWriter`] per lane.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use tokio::sync::watch;

use super::segment::{self, Segment};
use super::sync::{LaneSync, Syncer};
use crate::{BusError, Durability, Publisher, Record, SpoolConfig, StreamId, wire};

/// How often a lane looks at how much the whole spool holds.
const MEASURE_EVERY: u64 = 1 << 20;
/// How often a full spool is measured again, in milliseconds.
const MEASURE_FULL_MS: u128 = 200;

/// A producer's spool, held by one process (the lock file says so).
#[derive(Debug)]
pub struct Spool {
    dir: PathBuf,
    producer: String,
    config: SpoolConfig,
    syncer: Arc<Syncer>,
    used: Arc<AtomicU64>,
    lock: File,
}

/// The writing end of one lane.
#[derive(Debug)]
pub struct LaneWriter {
    stream: StreamId,
    dir: PathBuf,
    producer_dir: PathBuf,
    config: SpoolConfig,
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
    used: Arc<AtomicU64>,
    since_measure: u64,
    measured_full: Option<Instant>,
    poisoned: Option<String>,
}

impl Spool {
    /// Opens (or makes) the spool of `producer`; refused while another process holds it.
    pub fn open(config: &SpoolConfig, producer: &str) -> Result<Self, BusError> {
        StreamId::new(producer, "lock")?;
        let dir = config.dir.join(producer);
        fs::create_dir_all(&dir).map_err(BusError::io("create", &dir))?;
        let path = dir.join("lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(BusError::io("open", &path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Err(BusError::InUse { path: dir }),
            Err(fs::TryLockError::Error(e)) => return Err(BusError::io("lock", &path)(e)),
        }
        let syncer =
            Arc::new(Syncer::start(config.durability).map_err(BusError::io("start fsync thread of", &dir))?);
        let spool = Self {
            producer: producer.to_owned(),
            config: config.clone(),
            syncer,
            used: Arc::new(AtomicU64::new(0)),
            lock,
            dir,
        };
        spool.used.store(measure(&spool.dir)?, Ordering::Relaxed);
        Ok(spool)
    }

    /// The producer.
    pub fn producer(&self) -> &str {
        &self.producer
    }

    /// Bytes that wait for the recorder, as last measured.
    pub fn used_bytes(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Opens a lane for writing: cuts a torn tail and goes on after the last whole record.
    pub fn lane(&self, lane: &str) -> Result<LaneWriter, BusError> {
        let stream = StreamId::new(&self.producer, lane)?;
        let dir = self.dir.join(lane);
        fs::create_dir_all(&dir).map_err(BusError::io("create", &dir))?;
        let (path, next) = match segment::list(&dir)?.pop() {
            None => {
                let next = segment::released(&dir)?;
                (segment::path(&dir, next), next)
            }
            Some(last) => {
                let next = cut_torn_tail(&last)?;
                (last.path, next)
            }
        };
        let (file, segment_len) = start_segment(&path)?;
        let sync = LaneSync::new(Arc::clone(&file));
        self.syncer.register(Arc::clone(&sync));
        sync_directory(&dir)?;
        Ok(LaneWriter {
            stream,
            producer_dir: self.dir.clone(),
            config: self.config.clone(),
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
            used: Arc::clone(&self.used),
            since_measure: 0,
            measured_full: None,
            poisoned: None,
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

    fn check(&mut self) -> Result<(), BusError> {
        if let Some(why) = &self.poisoned {
            return Err(BusError::Poisoned { stream: self.stream.to_string(), why: why.clone() });
        }
        if let Err(why) = &*self.synced.borrow() {
            return Err(BusError::Poisoned { stream: self.stream.to_string(), why: why.clone() });
        }
        let used = self.used.load(Ordering::Relaxed);
        if used + self.buf.len() as u64 > self.config.max_bytes {
            let due = self.measured_full.is_none_or(|at| at.elapsed().as_millis() >= MEASURE_FULL_MS);
            let used = if due { self.measure()? } else { used };
            if used + self.buf.len() as u64 > self.config.max_bytes {
                self.measured_full = Some(self.measured_full.filter(|_| !due).unwrap_or_else(Instant::now));
                return Err(BusError::Full { path: self.dir.clone(), used, limit: self.config.max_bytes });
            }
        }
        Ok(())
    }

    fn measure(&mut self) -> Result<u64, BusError> {
        self.since_measure = 0;
        let used = measure(&self.producer_dir)?;
        self.used.store(used, Ordering::Relaxed);
        Ok(used)
    }

    /// A handle that waits for what is flushed now.
    pub fn settling(&self) -> Settling {
        let target = (self.syncer.durability() == Durability::Power).then_some(self.total);
        Settling { stream: self.stream.clone(), target, synced: self.synced.clone() }
    }

    /// Whether the segment has reached its size: the writer should call [`LaneWriter::rotate`].
    pub fn wants_rotation(&self) -> bool {
        self.segment_len >= self.config.segment_bytes && self.buf.is_empty()
    }

    /// Goes on in a new segment, whose first record is `state`: what the producer needs to know if it starts
    /// again and finds nothing older. Everything before must be flushed.
    pub fn rotate(&mut self, state: Vec<u8>) -> Result<(), BusError> {
        self.flush()?;
        let path = segment::path(&self.dir, self.next);
        let temporary = path.with_extension("tmp");
        let mut first = segment::MAGIC.to_vec();
        segment::frame(&mut first, |out| wire::encode(&Record::State(state), out));
        let file = File::create(&temporary).map_err(BusError::io("create", &temporary))?;
        (&file).write_all(&first).map_err(BusError::io("write", &temporary))?;
        file.sync_all().map_err(BusError::io("fsync", &temporary))?;
        fs::rename(&temporary, &path).map_err(BusError::io("rename", &path))?;
        sync_directory(&self.dir)?;
        let file = Arc::new(file);
        self.sync.rotate(Arc::clone(&file)).map_err(BusError::io("fsync", &self.path))?;
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
        if self.buf.is_empty() {
            return Ok(());
        }
        self.check()?;
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
        self.used.fetch_add(len, Ordering::Relaxed);
        self.since_measure += len;
        self.syncer.written(&self.sync, self.total);
        self.buf.clear();
        self.buf.shrink_to(1 << 20);
        self.buffered = 0;
        if self.since_measure >= MEASURE_EVERY {
            self.measure()?;
        }
        Ok(())
    }

    async fn settled(&mut self) -> Result<(), BusError> {
        self.settling().wait().await
    }
}

/// Waits until what was flushed before it was made is as durable as configured, without holding the lane.
#[derive(Debug)]
pub struct Settling {
    stream: StreamId,
    target: Option<u64>,
    synced: watch::Receiver<Result<u64, String>>,
}

impl Settling {
    /// Returns when it is, or with why it will never be.
    pub async fn wait(mut self) -> Result<(), BusError> {
        let Some(target) = self.target else { return Ok(()) };
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

fn cut_torn_tail(last: &Segment) -> Result<i64, BusError> {
    let extent = segment::scan(last)?;
    if extent.torn > 0 {
        tracing::warn!(
            event = "spool_torn_tail_cut",
            path = %last.path.display(),
            at = extent.valid,
            bytes = extent.torn,
            "cut an incomplete record that a crash left at the end of a spool segment"
        );
        let file =
            OpenOptions::new().write(true).open(&last.path).map_err(BusError::io("open", &last.path))?;
        file.set_len(extent.valid).map_err(BusError::io("cut", &last.path))?;
        file.sync_all().map_err(BusError::io("fsync", &last.path))?;
    }
    Ok(extent.next)
}

/// Opens the segment to go on in: a new one, or the last one, whose torn tail was cut.
fn start_segment(path: &std::path::Path) -> Result<(Arc<File>, u64), BusError> {
    let mut file =
        OpenOptions::new().create(true).append(true).open(path).map_err(BusError::io("create", path))?;
    let mut len = file.metadata().map_err(BusError::io("inspect", path))?.len();
    if len < segment::MAGIC.len() as u64 {
        file.set_len(0).map_err(BusError::io("cut", path))?;
        file.write_all(segment::MAGIC).map_err(BusError::io("write", path))?;
        len = segment::MAGIC.len() as u64;
    }
    Ok((Arc::new(file), len))
}

fn sync_directory(dir: &std::path::Path) -> Result<(), BusError> {
    File::open(dir).and_then(|d| d.sync_all()).map_err(BusError::io("fsync", dir))
}

fn measure(producer_dir: &std::path::Path) -> Result<u64, BusError> {
    let mut bytes = 0;
    for lane in segment::subdirectories(producer_dir)? {
        for segment in segment::list(&producer_dir.join(lane))? {
            bytes += fs::metadata(&segment.path).map_or(0, |m| m.len());
        }
    }
    Ok(bytes)
}
