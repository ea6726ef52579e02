//! What a producer does to a lane that a crash or a bad disk has left, before anything reads or writes it.
//!
//! A torn tail (nothing whole after it) is cut. Damage (whole records after it) is kept aside as
//! `<segment>.damaged`: the segment goes on as what is whole before it, a skip past every position that may
//! have been used, and what is whole behind it, under new positions (under its own where the next segment tells
//! them). A tail that the lake has and the spool
//! has not is skipped. Every skip is noted in `<lane>/gaps` until the ledger says GAP.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::segment::{self, Extent, Segment};
use crate::stream::LEDGER_LANE;
use crate::{BusError, StreamId};

/// File that holds the gaps of a lane that are not in the ledger yet, one a line.
const PENDING: &str = "gaps";

/// Positions of a stream that were lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LostPositions {
    /// The stream.
    pub stream: StreamId,
    /// First position lost.
    pub from: i64,
    /// First position after them.
    pub to: i64,
    /// Why.
    pub reason: String,
}

/// Makes a lane fit to be read and written again.
pub(super) fn repair(dir: &Path, stream: &StreamId) -> Result<(), BusError> {
    let released = segment::released(dir)?;
    let segments = segment::list(dir)?;
    for pair in segments.windows(2) {
        if let [segment, next] = pair
            && next.first > released
        {
            repair_closed(dir, stream, segment, next.first)?;
        }
    }
    match segments.last() {
        Some(newest) => repair_newest(dir, stream, newest, released),
        None => Ok(()),
    }
}

/// A segment behind which another begins, so that it is known which positions it held.
fn repair_closed(dir: &Path, stream: &StreamId, segment: &Segment, end: i64) -> Result<(), BusError> {
    let extent = segment::scan(segment)?;
    if extent.next == end && extent.torn == 0 {
        return Ok(());
    }
    let (salvaged, count) = segment::salvage(&read_from(&segment.path, extent.valid)?);
    let to = i64::try_from(count).ok().and_then(|count| end.checked_sub(count));
    let (to, salvaged) = match to {
        Some(to) if to >= extent.next => (to, (salvaged, count)),
        _ => (end, (Vec::new(), 0)),
    };
    set_aside(dir, stream, segment, extent, salvaged, to)
}

fn repair_newest(dir: &Path, stream: &StreamId, last: &Segment, released: i64) -> Result<(), BusError> {
    let extent = segment::scan(last)?;
    if extent.torn > 0 {
        let rest = read_from(&last.path, extent.valid)?;
        let (salvaged, count) = segment::salvage(&rest);
        let foreign = extent.valid == 0 && rest.len() >= segment::MAGIC.len();
        if count > 0 || foreign {
            let used = i64::try_from(extent.torn / segment::MIN_RECORD).unwrap_or(i64::MAX / 2);
            let to = extent.next.saturating_add(used).saturating_add(1).max(released);
            return set_aside(dir, stream, last, extent, (salvaged, count), to);
        }
        cut(last, extent)?;
    }
    if extent.next < released {
        if stream.lane() == LEDGER_LANE {
            return Err(BusError::LedgerLost { stream: stream.to_string(), end: extent.next, released });
        }
        let reason = "the end of the spool was lost after the lake had stored it";
        note(dir, extent.next, released, reason)?;
        let mut skip = Vec::new();
        if extent.valid < segment::MAGIC.len() as u64 {
            skip.extend_from_slice(segment::MAGIC);
        }
        segment::frame_skip(&mut skip, released);
        let mut file =
            OpenOptions::new().append(true).open(&last.path).map_err(BusError::io("open", &last.path))?;
        file.write_all(&skip).map_err(BusError::io("write", &last.path))?;
        file.sync_all().map_err(BusError::io("fsync", &last.path))?;
        tracing::error!(event = "spool_tail_lost", stream = %stream, from = extent.next, to = released, "{reason}");
    }
    Ok(())
}

/// The gaps of a lane that the ledger does not hold yet.
pub(super) fn pending(dir: &Path, stream: &StreamId) -> Result<Vec<LostPositions>, BusError> {
    let path = dir.join(PENDING);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(BusError::io("read", &path)(e)),
    };
    let gap = |line: &str| {
        let mut parts = line.splitn(3, ' ');
        let from = parts.next()?.parse().ok()?;
        let to = parts.next()?.parse().ok()?;
        Some(LostPositions { stream: stream.clone(), from, to, reason: parts.next()?.to_owned() })
    };
    // A line that a crash cut was followed by no skip: the repair is done again and notes it again.
    Ok(text.lines().filter_map(gap).collect())
}

/// Forgets the gaps of a lane: the ledger holds them.
pub(super) fn declared(dir: &Path) -> Result<(), BusError> {
    let path = dir.join(PENDING);
    match fs::remove_file(&path) {
        Ok(()) => segment::sync_directory(dir),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        Err(e) => Err(BusError::io("remove", &path)(e)),
    }
}

fn note(dir: &Path, from: i64, to: i64, reason: &str) -> Result<(), BusError> {
    let path = dir.join(PENDING);
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(0o600);
    let mut file = options.open(&path).map_err(BusError::io("open", &path))?;
    file.write_all(format!("{from} {to} {reason}\n").as_bytes()).map_err(BusError::io("write", &path))?;
    file.sync_all().map_err(BusError::io("fsync", &path))?;
    segment::sync_directory(dir)
}

fn set_aside(
    dir: &Path,
    stream: &StreamId,
    last: &Segment,
    extent: Extent,
    (salvaged, count): (Vec<u8>, u64),
    to: i64,
) -> Result<(), BusError> {
    let mut aside = last.path.clone().into_os_string();
    aside.push(".damaged");
    let aside = PathBuf::from(aside);
    let name = aside.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let reason = format!(
        "damage at byte {} of a segment, kept aside as {name}; {count} records behind it were recorded again",
        extent.valid
    );
    note(dir, extent.next, to, &reason)?;
    let mut whole = match extent.valid {
        0 => segment::MAGIC.to_vec(),
        valid => {
            let mut whole = Vec::new();
            let file = fs::File::open(&last.path).map_err(BusError::io("open", &last.path))?;
            file.take(valid).read_to_end(&mut whole).map_err(BusError::io("read", &last.path))?;
            whole
        }
    };
    segment::frame_skip(&mut whole, to);
    whole.extend_from_slice(&salvaged);
    let temporary = last.path.with_extension("tmp");
    let mut file = segment::create(&temporary)?;
    file.write_all(&whole).map_err(BusError::io("write", &temporary))?;
    file.sync_all().map_err(BusError::io("fsync", &temporary))?;
    match fs::hard_link(&last.path, &aside) {
        // One that is there holds the same: a crash has cut an earlier try.
        Err(e) if e.kind() != ErrorKind::AlreadyExists => return Err(BusError::io("keep aside", &aside)(e)),
        _ => {}
    }
    fs::rename(&temporary, &last.path).map_err(BusError::io("rename", &last.path))?;
    segment::sync_directory(dir)?;
    tracing::error!(
        event = "spool_damaged",
        stream = %stream,
        path = %last.path.display(),
        at = extent.valid,
        kept_aside = %aside.display(),
        records_behind = count,
        "a spool segment was damaged: what is whole goes on, the ledger will say GAP"
    );
    Ok(())
}

fn read_from(path: &Path, offset: u64) -> Result<Vec<u8>, BusError> {
    let mut file = fs::File::open(path).map_err(BusError::io("open", path))?;
    file.seek(SeekFrom::Start(offset)).map_err(BusError::io("read", path))?;
    let mut rest = Vec::new();
    file.read_to_end(&mut rest).map_err(BusError::io("read", path))?;
    Ok(rest)
}

fn cut(last: &Segment, extent: Extent) -> Result<(), BusError> {
    tracing::warn!(
        event = "spool_torn_tail_cut",
        path = %last.path.display(),
        at = extent.valid,
        bytes = extent.torn,
        "cut an incomplete record that a crash left at the end of a spool segment"
    );
    let file = OpenOptions::new().write(true).open(&last.path).map_err(BusError::io("open", &last.path))?;
    file.set_len(extent.valid).map_err(BusError::io("cut", &last.path))?;
    file.sync_all().map_err(BusError::io("fsync", &last.path))
}
