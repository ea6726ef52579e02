//! Segment files: names, framing, scanning, release.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use bodycam_record::Id16;
use bodycam_record::ids::from_hex;

use crate::BusError;

/// First bytes of every segment.
pub(super) const MAGIC: &[u8; 8] = b"BCSPOOL1";
/// Bytes before a record's kind byte.
pub(super) const HEADER: usize = 8;
/// Longest record, kind byte included: a 256 KiB chunk with room to spare.
pub(crate) const MAX_RECORD: usize = 16 << 20;
/// Kind byte of a protobuf record.
pub(super) const KIND_PROTOBUF: u8 = 1;
/// Kind byte of a skip: the positions from here to the i64 LE that it holds are lost; it has none itself.
pub(super) const KIND_SKIP: u8 = 2;
/// File that holds the origin of a lane.
const ORIGIN: &str = "origin";
/// Fewest bytes of a record: header and kind.
pub(super) const MIN_RECORD: u64 = HEADER as u64 + 1;
/// Bytes that a search for whole records behind damage may checksum before it takes them for there.
const SEARCH_BUDGET: usize = 1 << 30;

/// A segment file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Segment {
    /// Position of its first record.
    pub first: i64,
    /// Its file.
    pub path: PathBuf,
}

/// What a scan found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    /// Position after the last whole record.
    pub next: i64,
    /// Bytes up to there.
    pub valid: u64,
    /// Bytes after it: a torn tail.
    pub torn: u64,
}

/// One framed record or why there is none.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Framed<'a> {
    /// A whole record: kind byte and payload, and the bytes after it.
    Whole { kind: u8, payload: &'a [u8], rest: &'a [u8] },
    /// The bytes end before the record does.
    Incomplete,
    /// The bytes are no record.
    Bad(&'static str),
}

/// Appends the frame of a payload of kind protobuf that `fill` writes.
pub(super) fn frame(out: &mut Vec<u8>, fill: impl FnOnce(&mut Vec<u8>)) {
    frame_of(KIND_PROTOBUF, out, fill);
}

/// Appends the frame of a skip to position `to`.
pub(super) fn frame_skip(out: &mut Vec<u8>, to: i64) {
    frame_of(KIND_SKIP, out, |out| out.extend_from_slice(&to.to_le_bytes()));
}

/// Position after a record at `at`; nothing when it is a skip that makes no sense.
pub(super) fn after(kind: u8, payload: &[u8], at: i64) -> Option<i64> {
    if kind != KIND_SKIP {
        return at.checked_add(1);
    }
    payload.try_into().ok().map(i64::from_le_bytes).filter(|to| *to >= at)
}

fn frame_of(kind: u8, out: &mut Vec<u8>, fill: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    out.extend_from_slice(&[0; HEADER]);
    out.push(kind);
    fill(out);
    let (len, crc) = match out.get(at + HEADER..) {
        Some(body) => (body.len() as u32, crc32c::crc32c(body)),
        None => return,
    };
    if let Some(header) = out.get_mut(at..at + HEADER) {
        let (l, c) = header.split_at_mut(4);
        l.copy_from_slice(&len.to_le_bytes());
        c.copy_from_slice(&crc.to_le_bytes());
    }
}

/// The first record in `bytes`.
pub(super) fn unframe(bytes: &[u8]) -> Framed<'_> {
    let Some((header, rest)) = bytes.split_first_chunk::<HEADER>() else { return Framed::Incomplete };
    let [l0, l1, l2, l3, c0, c1, c2, c3] = *header;
    let len = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
    if len == 0 || len > MAX_RECORD {
        return Framed::Bad("impossible record length");
    }
    let Some((body, rest)) = rest.split_at_checked(len) else { return Framed::Incomplete };
    if crc32c::crc32c(body) != u32::from_le_bytes([c0, c1, c2, c3]) {
        return Framed::Bad("checksum does not match");
    }
    match body.split_first() {
        Some((kind, payload)) => Framed::Whole { kind: *kind, payload, rest },
        None => Framed::Bad("empty record"),
    }
}

/// Where the first whole record lies behind the one at the start of `bytes`, which is none.
pub(super) fn whole_behind(bytes: &[u8]) -> Option<usize> {
    let mut spent = 0;
    for at in 1..bytes.len() {
        let rest = bytes.get(at..)?;
        let [l0, l1, l2, l3, _, _, _, _, kind, ..] = *rest else { return None };
        let len = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        if len == 0 || len > rest.len() - HEADER || !matches!(kind, KIND_PROTOBUF | KIND_SKIP) {
            continue;
        }
        if spent > SEARCH_BUDGET || matches!(unframe(rest), Framed::Whole { .. }) {
            return Some(at);
        }
        spent += len;
    }
    None
}

/// The whole records of kind protobuf among `bytes`, as frames, and their number.
pub(super) fn salvage(bytes: &[u8]) -> (Vec<u8>, u64) {
    let (mut frames, mut count, mut rest) = (Vec::new(), 0, bytes);
    loop {
        if let Framed::Whole { kind, rest: after, .. } = unframe(rest) {
            if kind == KIND_PROTOBUF {
                frames.extend_from_slice(rest.get(..rest.len() - after.len()).unwrap_or_default());
                count += 1;
            }
            rest = after;
            continue;
        }
        match whole_behind(rest).and_then(|at| rest.get(at..)) {
            Some(behind) if matches!(unframe(behind), Framed::Whole { .. }) => rest = behind,
            _ => return (frames, count),
        }
    }
}

/// Path of the segment that starts at `first`.
pub(super) fn path(dir: &Path, first: i64) -> PathBuf {
    dir.join(format!("{first:020}.seg"))
}

/// The segments of a lane, oldest first; none when the lane does not exist.
pub(super) fn list(dir: &Path) -> Result<Vec<Segment>, BusError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(BusError::io("list", dir)(e)),
    };
    let mut segments = Vec::new();
    for entry in entries {
        let path = entry.map_err(BusError::io("list", dir))?.path();
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        if let Some(first) = name.strip_suffix(".seg").filter(|n| n.len() == 20).and_then(|n| n.parse().ok())
        {
            segments.push(Segment { first, path });
        }
    }
    segments.sort_by_key(|s| s.first);
    Ok(segments)
}

/// Names of the directories in `dir`; none when it does not exist.
pub(super) fn subdirectories(dir: &Path) -> Result<Vec<String>, BusError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(BusError::io("list", dir)(e)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(BusError::io("list", dir))?;
        if entry.file_type().map_err(BusError::io("inspect", entry.path()))?.is_dir()
            && let Some(name) = entry.file_name().to_str().filter(|n| !n.starts_with('.'))
        {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

/// Reads a whole segment and finds where its records end.
pub(super) fn scan(segment: &Segment) -> Result<Extent, BusError> {
    let mut file = File::open(&segment.path).map_err(BusError::io("open", &segment.path))?;
    // A writer may add to the file while it is scanned: then there is no torn tail.
    let size = file.metadata().map_err(BusError::io("inspect", &segment.path))?.len();
    let mut magic = [0; 8];
    if size < 8 {
        return Ok(Extent { next: segment.first, valid: 0, torn: size });
    }
    file.read_exact(&mut magic).map_err(BusError::io("read", &segment.path))?;
    if &magic != MAGIC {
        return Ok(Extent { next: segment.first, valid: 0, torn: size });
    }
    let (mut next, mut valid) = (segment.first, 8u64);
    let mut buf = Vec::new();
    let mut window = 1usize << 20;
    loop {
        file.seek(SeekFrom::Start(valid)).map_err(BusError::io("read", &segment.path))?;
        buf.clear();
        (&file).take(window as u64).read_to_end(&mut buf).map_err(BusError::io("read", &segment.path))?;
        let mut rest = buf.as_slice();
        let before = valid;
        while let Framed::Whole { kind, payload, rest: behind } = unframe(rest) {
            let Some(to) = after(kind, payload, next) else { break };
            valid += (rest.len() - behind.len()) as u64;
            next = to;
            rest = behind;
        }
        let exhausted = buf.len() < window;
        if valid == before {
            if exhausted || window > 2 * MAX_RECORD {
                break;
            }
            window *= 4;
        }
    }
    Ok(Extent { next, valid, torn: size.saturating_sub(valid) })
}

/// Records that everything before `to` rests elsewhere and removes the segments that hold nothing later.
/// The newest segment stays: its writer may have it open.
pub(super) fn release(dir: &Path, to: i64) -> Result<(), BusError> {
    let marker = dir.join("released");
    if to > released(dir)? {
        let temporary = dir.join("released.tmp");
        let mut file = create(&temporary)?;
        file.write_all(to.to_string().as_bytes()).map_err(BusError::io("write", &temporary))?;
        file.sync_all().map_err(BusError::io("fsync", &temporary))?;
        fs::rename(&temporary, &marker).map_err(BusError::io("rename", &marker))?;
        sync_directory(dir)?;
    }
    let segments = list(dir)?;
    for pair in segments.windows(2) {
        if let [old, next] = pair
            && next.first <= to
        {
            fs::remove_file(&old.path).map_err(BusError::io("remove", &old.path))?;
        }
    }
    Ok(())
}

/// A new file that only its owner reads, in place of any that is there.
pub(super) fn create(path: &Path) -> Result<File, BusError> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    options.open(path).map_err(BusError::io("create", path))
}

/// Makes the entries of a directory durable.
pub(super) fn sync_directory(dir: &Path) -> Result<(), BusError> {
    let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    File::open(dir).and_then(|d| d.sync_all()).map_err(BusError::io("fsync", dir))
}

/// Position before which everything was released.
pub(super) fn released(dir: &Path) -> Result<i64, BusError> {
    let marker = dir.join("released");
    match fs::read_to_string(&marker) {
        Ok(text) => text.trim().parse().map_err(|_| BusError::Damaged {
            path: marker,
            offset: 0,
            what: "not a position".to_owned(),
        }),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(0),
        Err(e) => Err(BusError::io("read", &marker)(e)),
    }
}

/// What tells a lane from another one of the same name: made with it, at random. None when the lane does not
/// exist, or is only being made.
pub(super) fn origin(dir: &Path) -> Result<Option<Id16>, BusError> {
    let path = dir.join(ORIGIN);
    match fs::read_to_string(&path) {
        Ok(text) => match from_hex(text.trim()) {
            Some(bytes) => Ok(Some(Id16(bytes))),
            None => Err(BusError::Damaged { path, offset: 0, what: "not the origin of a lane".to_owned() }),
        },
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(BusError::io("read", &path)(e)),
    }
}

/// The origin of a lane, made now when it has none. The lane's only writer calls it.
pub(super) fn make_origin(dir: &Path) -> Result<Id16, BusError> {
    if let Some(known) = origin(dir)? {
        return Ok(known);
    }
    let mut bytes = [0; 16];
    let path = dir.join(ORIGIN);
    getrandom::fill(&mut bytes).map_err(|e| BusError::io("choose", &path)(e.into()))?;
    let made = Id16(bytes);
    let temporary = dir.join("origin.tmp");
    let mut file = create(&temporary)?;
    file.write_all(made.to_string().as_bytes()).map_err(BusError::io("write", &temporary))?;
    file.sync_all().map_err(BusError::io("fsync", &temporary))?;
    fs::rename(&temporary, &path).map_err(BusError::io("rename", &path))?;
    sync_directory(dir)?;
    Ok(made)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_framed_record_comes_back_and_every_prefix_is_incomplete(payload in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut out = Vec::new();
            frame(&mut out, |b| b.extend_from_slice(&payload));
            prop_assert_eq!(unframe(&out), Framed::Whole { kind: KIND_PROTOBUF, payload: &payload, rest: &[] });
            for cut in 0..out.len() {
                prop_assert_eq!(unframe(&out[..cut]), Framed::Incomplete);
            }
        }

        #[test]
        fn a_flipped_bit_never_passes(payload in proptest::collection::vec(any::<u8>(), 1..60), at in any::<prop::sample::Index>(), bit in 0u8..8) {
            let mut out = Vec::new();
            frame(&mut out, |b| b.extend_from_slice(&payload));
            let at = at.index(out.len());
            out[at] ^= 1 << bit;
            let whole = matches!(unframe(&out), Framed::Whole { .. });
            prop_assert!(!whole);
        }

        #[test]
        fn foreign_bytes_do_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = unframe(&bytes);
        }
    }
}
