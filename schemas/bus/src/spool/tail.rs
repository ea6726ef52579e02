//! The reading side: follows a lane's segments as they grow.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::segment::{self, Framed, MAGIC, Segment};
use crate::{BusError, Record, StreamId, Subscription, wire};

/// How long to wait at the end of a lane before looking again.
const POLL: Duration = Duration::from_millis(20);
/// A record that has been incomplete for so long is looked behind: its length may be what is damaged.
const PATIENCE: Duration = Duration::from_secs(1);

/// Reads one lane, in order, from a position on; waits at the end.
#[derive(Debug)]
pub struct SpoolSubscription {
    dir: PathBuf,
    stream: StreamId,
    position: i64,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    segment: Segment,
    file: File,
    offset: u64,
    at: i64,
    /// Since when the record at `offset` has been incomplete.
    stuck: Option<(u64, Instant)>,
    /// Length of the file when whole records were last looked for behind it.
    searched: u64,
}

impl SpoolSubscription {
    pub(super) fn open(dir: PathBuf, stream: StreamId, from: i64) -> Result<Self, BusError> {
        let first = match segment::list(&dir)?.first() {
            Some(segment) => segment.first,
            None => segment::released(&dir)?,
        };
        if from < first {
            return Err(BusError::Truncated { stream: stream.to_string(), first, wanted: from });
        }
        Ok(Self { dir, stream, position: from, open: None })
    }

    /// What can be read now, without waiting; empty at the end.
    pub fn poll(&mut self, max_bytes: usize) -> Result<Vec<(i64, Record)>, BusError> {
        let stream = self.stream.to_string();
        self.poll_as(max_bytes, |position, payload| {
            wire::decode(payload).map_err(|source| BusError::Decode {
                stream: stream.clone(),
                position,
                source,
            })
        })
    }

    /// As [`SpoolSubscription::poll`], of the records' encoded bytes.
    #[cfg(feature = "kafka")]
    pub(crate) fn poll_encoded(&mut self, max_bytes: usize) -> Result<Vec<(i64, Vec<u8>)>, BusError> {
        self.poll_as(max_bytes, |_, payload| Ok(payload.to_vec()))
    }

    fn poll_as<T>(
        &mut self,
        max_bytes: usize,
        take: impl Fn(i64, &[u8]) -> Result<T, BusError>,
    ) -> Result<Vec<(i64, T)>, BusError> {
        let mut records = Vec::new();
        let mut taken = 0;
        while taken < max_bytes {
            let Some(mut open) = self.open.take().map_or_else(|| self.locate(), |open| Ok(Some(open)))?
            else {
                break;
            };
            let (progress, bytes) = self.read(&mut open, max_bytes - taken, &mut records, &take)?;
            taken += bytes;
            if progress {
                self.open = Some(open);
                continue;
            }
            // At the end of this segment: go on in the next one if there is one that starts here.
            let next = segment::list(&self.dir)?.into_iter().find(|s| s.first > open.segment.first);
            match next {
                Some(next) if next.first == self.position => self.open = Some(self.enter(next)?),
                Some(next) => {
                    // The writer may have finished this segment between our read and the listing.
                    if self.read(&mut open, max_bytes, &mut records, &take)?.0 {
                        self.open = Some(open);
                        continue;
                    }
                    return Err(BusError::Damaged {
                        path: open.segment.path,
                        offset: open.offset,
                        what: format!(
                            "ends at position {}, the next segment starts at {}",
                            self.position, next.first
                        ),
                    });
                }
                None => {
                    self.open = Some(open);
                    break;
                }
            }
        }
        Ok(records)
    }

    fn locate(&self) -> Result<Option<Open>, BusError> {
        let segments = segment::list(&self.dir)?;
        let Some(segment) = segments.iter().rev().find(|s| s.first <= self.position) else {
            return match segments.first() {
                None => Ok(None),
                Some(s) => Err(BusError::Truncated {
                    stream: self.stream.to_string(),
                    first: s.first,
                    wanted: self.position,
                }),
            };
        };
        self.enter(segment.clone()).map(Some)
    }

    fn enter(&self, segment: Segment) -> Result<Open, BusError> {
        let file = File::open(&segment.path).map_err(BusError::io("open", &segment.path))?;
        let at = segment.first;
        Ok(Open { segment, file, offset: 0, at, stuck: None, searched: 0 })
    }

    /// Reads on in the open segment. Gives whether anything was consumed, and the bytes of what was kept.
    fn read<T>(
        &mut self,
        open: &mut Open,
        budget: usize,
        records: &mut Vec<(i64, T)>,
        take: &impl Fn(i64, &[u8]) -> Result<T, BusError>,
    ) -> Result<(bool, usize), BusError> {
        let path = open.segment.path.clone();
        if open.offset == 0 {
            let mut magic = [0; 8];
            let n = read_some(&mut open.file, &mut magic).map_err(BusError::io("read", &path))?;
            if n < magic.len() {
                return Ok((false, 0));
            }
            if &magic != MAGIC {
                let what = "not a spool segment of this version".to_owned();
                return Err(BusError::Damaged { path, offset: 0, what });
            }
            open.offset = 8;
        }
        let mut window = budget.clamp(64 << 10, 1 << 20);
        let mut buf = Vec::new();
        loop {
            open.file.seek(SeekFrom::Start(open.offset)).map_err(BusError::io("read", &path))?;
            buf.clear();
            (&open.file).take(window as u64).read_to_end(&mut buf).map_err(BusError::io("read", &path))?;
            let mut rest = buf.as_slice();
            let mut kept = 0;
            loop {
                match segment::unframe(rest) {
                    Framed::Whole { kind, payload, rest: behind } => {
                        let damaged = |what: String| {
                            Err(BusError::Damaged { path: path.clone(), offset: open.offset, what })
                        };
                        let Some(next) = segment::after(kind, payload, open.at) else {
                            return damaged("a skip to where the stream has been".to_owned());
                        };
                        if kind == segment::KIND_SKIP {
                            self.position = self.position.max(next);
                        } else if open.at >= self.position {
                            if kind != segment::KIND_PROTOBUF {
                                return damaged(format!("record kind {kind} is unknown to this version"));
                            }
                            records.push((open.at, take(open.at, payload)?));
                            kept += payload.len();
                            self.position = next;
                        }
                        open.offset += (rest.len() - behind.len()) as u64;
                        open.at = next;
                        rest = behind;
                    }
                    Framed::Incomplete => break,
                    Framed::Bad(what) => {
                        // A torn tail is cut by the next writer; anything else is damage.
                        let closed = segment::list(&self.dir)?.iter().any(|s| s.first > open.segment.first);
                        if closed || behind(open)? {
                            let what = what.to_owned();
                            return Err(BusError::Damaged { path, offset: open.offset, what });
                        }
                        break;
                    }
                }
            }
            if rest.len() < buf.len() {
                return Ok((true, kept));
            }
            if buf.len() < window || window > 2 * segment::MAX_RECORD {
                let since = open.stuck.filter(|(at, _)| *at == open.offset).map(|(_, since)| since);
                open.stuck = Some((open.offset, since.unwrap_or_else(Instant::now)));
                if !rest.is_empty() && since.is_some_and(|s| s.elapsed() >= PATIENCE) && behind(open)? {
                    let what = "whole records follow on one that is incomplete".to_owned();
                    return Err(BusError::Damaged { path, offset: open.offset, what });
                }
                return Ok((false, 0));
            }
            window *= 4;
        }
    }
}

/// Whether whole records lie behind the one that cannot be read: then it is no torn tail.
fn behind(open: &mut Open) -> Result<bool, BusError> {
    let path = &open.segment.path;
    let len = open.file.metadata().map_err(BusError::io("inspect", path))?.len();
    if len == open.searched {
        return Ok(false);
    }
    open.file.seek(SeekFrom::Start(open.offset)).map_err(BusError::io("read", path))?;
    let mut rest = Vec::new();
    (&open.file).read_to_end(&mut rest).map_err(BusError::io("read", path))?;
    open.searched = len;
    Ok(segment::whole_behind(&rest).is_some())
}

fn read_some(file: &mut File, buf: &mut [u8]) -> std::io::Result<usize> {
    file.seek(SeekFrom::Start(0))?;
    let mut collected = Vec::new();
    let n = file.take(buf.len() as u64).read_to_end(&mut collected)?;
    if let Some(into) = buf.get_mut(..n) {
        into.copy_from_slice(&collected);
    }
    Ok(n)
}

impl Subscription for SpoolSubscription {
    async fn next(&mut self, max_bytes: usize) -> Result<Vec<(i64, Record)>, BusError> {
        loop {
            let records = self.poll(max_bytes)?;
            if !records.is_empty() {
                return Ok(records);
            }
            tokio::time::sleep(POLL).await;
        }
    }

    fn position(&self) -> i64 {
        self.position
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Spool, SpoolBus};
    use super::*;
    use crate::{Bus, Durability, Publisher, SpoolConfig};
    use bodycam_record::Id16;

    fn config(dir: &tempfile::TempDir) -> SpoolConfig {
        SpoolConfig { dir: dir.path().join("spool"), segment_bytes: 4096, ..SpoolConfig::default() }
    }

    fn template(n: usize) -> Record {
        Record::Template { fingerprint: Id16([n as u8; 16]), text: "x".repeat(n % 500) }
    }

    fn write(config: &SpoolConfig, range: std::ops::Range<usize>) {
        let spool = Spool::open(config, "gw").unwrap();
        let mut lane = spool.lane("0").unwrap();
        for n in range {
            lane.append(&template(n)).unwrap();
            if n % 3 == 0 {
                lane.flush().unwrap();
                if lane.wants_rotation() {
                    lane.rotate(b"state".to_vec()).unwrap();
                }
            }
        }
        lane.flush().unwrap();
    }

    fn read_all(config: &SpoolConfig, from: i64) -> Vec<(i64, Record)> {
        let bus = SpoolBus::new(config);
        let mut sub = bus.subscribe(&"gw/0".parse().unwrap(), from).unwrap();
        let mut all = Vec::new();
        loop {
            let batch = sub.poll(1000).unwrap();
            if batch.is_empty() {
                return all;
            }
            all.extend(batch);
        }
    }

    #[test]
    fn records_come_back_in_order_across_segments_restarts_and_offsets() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(&dir);
        write(&config, 0..100);
        write(&config, 100..150);
        let all = read_all(&config, 0);
        let records: Vec<_> = all.iter().filter(|(_, r)| !matches!(r, Record::State(_))).cloned().collect();
        assert!(all.len() > 151, "several segments");
        assert!(all.iter().enumerate().all(|(i, (position, _))| i as i64 == *position));
        assert_eq!(
            records.iter().map(|(_, r)| r).cloned().collect::<Vec<_>>(),
            (0..150).map(template).collect::<Vec<_>>()
        );
        for from in [1, 57, 99, 100, all.len() as i64] {
            assert_eq!(read_all(&config, from), all[from as usize..], "from {from}");
        }
        assert_eq!(SpoolBus::new(&config).end(&"gw/0".parse().unwrap()).unwrap(), all.len() as i64);
    }

    #[test]
    fn a_torn_tail_is_cut_and_writing_goes_on_at_the_next_position() {
        let dir = tempfile::tempdir().unwrap();
        let config = SpoolConfig { segment_bytes: 1 << 20, ..config(&dir) };
        write(&config, 0..5);
        let lane = config.dir.join("gw/0");
        let last = segment::list(&lane).unwrap().pop().unwrap();
        let whole = std::fs::read(&last.path).unwrap();
        for cut in 1..12 {
            std::fs::write(&last.path, &whole[..whole.len() - cut]).unwrap();
            let extent = segment::scan(&last).unwrap();
            assert_eq!(extent.next, 4);
        }
        write(&config, 7..8);
        let got = read_all(&config, 0).into_iter().map(|(_, r)| r).collect::<Vec<_>>();
        assert_eq!(got, [0, 1, 2, 3, 7].map(template));
    }

    #[test]
    fn released_segments_go_and_a_late_reader_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(&dir);
        write(&config, 0..100);
        let bus = SpoolBus::new(&config);
        let stream = "gw/0".parse().unwrap();
        bus.release(&stream, 90).unwrap();
        assert!(matches!(bus.subscribe(&stream, 0), Err(BusError::Truncated { wanted: 0, .. })));
        let end = bus.end(&stream).unwrap();
        assert_eq!(read_all(&config, 90).len() as i64, end - 90);
        bus.release(&stream, end).unwrap();
        write(&config, 100..101);
        assert_eq!(read_all(&config, end), [(end, template(100))]);
    }

    #[test]
    fn a_full_spool_refuses_and_goes_on_after_release() {
        let dir = tempfile::tempdir().unwrap();
        let config = SpoolConfig { max_bytes: 20_000, ..config(&dir) };
        let spool = Spool::open(&config, "gw").unwrap();
        let mut lane = spool.lane("0").unwrap();
        let mut n = 0;
        let full = loop {
            lane.append(&template(499)).unwrap();
            match lane.flush() {
                Ok(()) => n += 1,
                Err(e) => break e,
            }
            if lane.wants_rotation() {
                lane.rotate(Vec::new()).unwrap();
                n += 1;
            }
        };
        assert!(matches!(full, BusError::Full { .. }), "{full}");
        SpoolBus::new(&config).release(lane.stream(), n).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(250));
        lane.flush().unwrap();
        assert_eq!(read_all(&config, n), [(n, template(499))], "the held record was not lost");
    }

    #[test]
    fn a_second_process_on_the_same_spool_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(&dir);
        let _first = Spool::open(&config, "gw").unwrap();
        assert!(matches!(Spool::open(&config, "gw"), Err(BusError::InUse { .. })));
    }

    fn damage(path: &std::path::Path, at: usize) {
        let mut bytes = std::fs::read(path).unwrap();
        bytes[at] ^= 1;
        std::fs::write(path, bytes).unwrap();
    }

    fn read_error(config: &SpoolConfig) -> String {
        let mut sub = SpoolBus::new(config).subscribe(&"gw/0".parse().unwrap(), 0).unwrap();
        let started = Instant::now();
        loop {
            match sub.poll(1 << 20) {
                Err(e) => return e.to_string(),
                Ok(_) => assert!(started.elapsed() < Duration::from_secs(5), "damage was waited on"),
            }
        }
    }

    #[test]
    fn damage_in_a_closed_segment_is_named_kept_aside_and_costs_one_record() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(&dir);
        write(&config, 0..100);
        let before = read_all(&config, 0);
        let first = segment::list(&config.dir.join("gw/0")).unwrap().remove(0);
        damage(&first.path, std::fs::metadata(&first.path).unwrap().len() as usize / 2);
        let error = read_error(&config);
        assert!(error.contains("damaged at byte") && error.contains(".seg"), "{error}");
        let lost = Spool::open(&config, "gw").unwrap().lost().to_vec();
        assert_eq!(lost.len(), 1);
        assert_eq!(lost[0].to - lost[0].from, 1, "the next segment tells the positions: {lost:?}");
        let kept: Vec<_> = before.into_iter().filter(|(at, _)| *at != lost[0].from).collect();
        assert_eq!(read_all(&config, 0), kept);
    }

    #[test]
    fn damage_in_the_newest_segment_is_told_and_what_is_whole_behind_it_is_not_dropped() {
        // A flipped bit in a body, in a length, and in the first bytes of the file.
        for at in [200, 8, 11, 0] {
            let dir = tempfile::tempdir().unwrap();
            let config = SpoolConfig { segment_bytes: 1 << 20, ..config(&dir) };
            write(&config, 1..40);
            let segment = segment::list(&config.dir.join("gw/0")).unwrap().remove(0);
            damage(&segment.path, at);
            let error = read_error(&config);
            assert!(error.contains("damaged at byte") && error.contains(".seg"), "{at}: {error}");
            let mut spool = Spool::open(&config, "gw").unwrap();
            let [lost] = spool.lost() else { panic!("{:?}", spool.lost()) };
            let (from, to) = (lost.from, lost.to);
            assert!(to - from > 39 - from, "{at}: past every position that was used: {from}..{to}");
            assert!(segment.path.with_extension("seg.damaged").exists());
            let mut lane = spool.lane("0").unwrap();
            assert!(lane.append(&template(77)).unwrap() >= to);
            lane.flush().unwrap();
            let all = read_all(&config, 0);
            assert!(all.iter().all(|(position, _)| *position < from || *position >= to));
            let records: Vec<_> = all.into_iter().map(|(_, r)| r).collect();
            let whole = (1..40).chain([77]).map(template).filter(|r| records.contains(r)).count();
            let kept = if at == 0 { 40 } else { 39 };
            assert_eq!((whole, records.len()), (kept, kept), "{at}: at most one record was lost");
            spool.declared().unwrap();
            drop((lane, spool));
            assert_eq!(Spool::open(&config, "gw").unwrap().lost(), []);
        }
    }

    #[test]
    fn positions_that_the_lake_has_are_not_given_out_again_after_a_lost_tail() {
        let dir = tempfile::tempdir().unwrap();
        let config = SpoolConfig { segment_bytes: 1 << 20, ..config(&dir) };
        write(&config, 0..10);
        let bus = SpoolBus::new(&config);
        let stream: StreamId = "gw/0".parse().unwrap();
        bus.release(&stream, 10).unwrap();
        let segment = segment::list(&config.dir.join("gw/0")).unwrap().remove(0);
        let file = std::fs::OpenOptions::new().write(true).open(&segment.path).unwrap();
        file.set_len(std::fs::metadata(&segment.path).unwrap().len() / 2).unwrap();
        assert_eq!(bus.end(&stream).unwrap(), 10);
        let mut reader = bus.subscribe(&stream, 10).unwrap();
        assert_eq!(reader.poll(1 << 20).unwrap(), []);
        let spool = Spool::open(&config, "gw").unwrap();
        let [lost] = spool.lost() else { panic!("{:?}", spool.lost()) };
        assert_eq!(lost.to, 10);
        let mut lane = spool.lane("0").unwrap();
        assert_eq!(lane.append(&template(5)).unwrap(), 10);
        lane.flush().unwrap();
        assert_eq!(reader.poll(1 << 20).unwrap(), [(10, template(5))], "nothing new is taken for old");
    }

    #[test]
    fn a_ledger_whose_end_is_lost_is_not_forked() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(&dir);
        drop(Spool::open(&config, "gw").unwrap().lane("ledger").unwrap());
        SpoolBus::new(&config).release(&"gw/ledger".parse().unwrap(), 5).unwrap();
        let error = Spool::open(&config, "gw").unwrap_err();
        assert!(matches!(error, BusError::LedgerLost { end: 0, released: 5, .. }), "{error}");
    }

    #[test]
    fn a_spool_smaller_than_its_segments_empties_again() {
        let dir = tempfile::tempdir().unwrap();
        let config = SpoolConfig { max_bytes: 40_000, segment_bytes: 1 << 20, ..config(&dir) };
        let spool = Spool::open(&config, "gw").unwrap();
        let mut lanes = ["0", "1"].map(|lane| spool.lane(lane).unwrap());
        for _ in 0..3 {
            let full = loop {
                let failed = lanes.iter_mut().find_map(|lane| {
                    lane.append(&template(499)).unwrap();
                    lane.flush_and_rotate(Vec::new).err()
                });
                if let Some(error) = failed {
                    break error;
                }
            };
            assert!(matches!(full, BusError::Full { .. }), "{full}");
            let bus = SpoolBus::new(&config);
            for lane in &lanes {
                bus.release(lane.stream(), bus.end(lane.stream()).unwrap()).unwrap();
            }
            std::thread::sleep(Duration::from_millis(250));
            for lane in &mut lanes {
                lane.flush().unwrap();
            }
        }
    }

    #[test]
    fn a_full_spool_still_takes_the_ledger() {
        let dir = tempfile::tempdir().unwrap();
        let config = SpoolConfig { max_bytes: 10_000, ..config(&dir) };
        let spool = Spool::open(&config, "gw").unwrap();
        let mut lane = spool.lane("0").unwrap();
        while lane.append(&template(499)).is_ok_and(|_| lane.flush().is_ok()) {}
        assert!(spool.has_room().is_ok() || spool.used_bytes() > 9_000);
        let mut ledger = spool.lane("ledger").unwrap();
        for _ in 0..50 {
            ledger.append(&template(499)).unwrap();
        }
        ledger.flush().unwrap();
        assert!(matches!(spool.has_room(), Err(BusError::Full { .. })));
    }

    #[test]
    fn the_spool_is_for_its_owner_only() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let config = config(&dir);
        write(&config, 0..100);
        SpoolBus::new(&config).release(&"gw/0".parse().unwrap(), 3).unwrap();
        let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let lane = config.dir.join("gw/0");
        for dir in [&config.dir, &config.dir.join("gw"), &lane] {
            assert_eq!(mode(dir), 0o700, "{}", dir.display());
        }
        for file in std::fs::read_dir(&lane).unwrap().map(Result::unwrap) {
            assert_eq!(mode(&file.path()), 0o600, "{}", file.path().display());
        }
    }

    #[test]
    fn a_segment_that_was_begun_and_cannot_be_entered_ends_the_lane() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(&dir);
        let spool = Spool::open(&config, "gw").unwrap();
        let mut lane = spool.lane("0").unwrap();
        lane.append(&template(1)).unwrap();
        lane.flush().unwrap();
        lane.fail_entering = true;
        assert!(lane.rotate(Vec::new()).is_err());
        lane.append(&template(2)).unwrap();
        assert!(
            matches!(lane.flush(), Err(BusError::Poisoned { .. })),
            "its positions are the new segment's"
        );
    }

    #[tokio::test]
    async fn power_durability_settles() {
        let dir = tempfile::tempdir().unwrap();
        let config = SpoolConfig { durability: Durability::Power, ..config(&dir) };
        let spool = Spool::open(&config, "gw").unwrap();
        let mut lane = spool.lane("0").unwrap();
        lane.append(&template(3)).unwrap();
        lane.flush().unwrap();
        lane.settled().await.unwrap();
    }

    #[test]
    fn lanes_hidden_or_odd_do_not_break_listing() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(&dir);
        write(&config, 0..1);
        assert_eq!(SpoolBus::new(&config).streams().unwrap(), vec!["gw/0".parse::<StreamId>().unwrap()]);
        assert!("../x/0".parse::<StreamId>().is_err());
        assert!(StreamId::new("..", "0").is_err());
    }
}
