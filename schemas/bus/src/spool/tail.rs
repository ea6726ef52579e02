//! The reading side: follows a lane's segments as they grow.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::time::Duration;

use super::segment::{self, Framed, MAGIC, Segment};
use crate::{BusError, Record, StreamId, Subscription, wire};

/// How long to wait at the end of a lane before looking again.
const POLL: Duration = Duration::from_millis(20);

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
        let mut records = Vec::new();
        let mut taken = 0;
        while taken < max_bytes {
            let Some(mut open) = self.open.take().map_or_else(|| self.locate(), |open| Ok(Some(open)))?
            else {
                break;
            };
            let (progress, bytes) = self.read(&mut open, max_bytes - taken, &mut records)?;
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
                    if self.read(&mut open, max_bytes, &mut records)?.0 {
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
        Ok(Open { segment, file, offset: 0, at })
    }

    /// Reads on in the open segment. Gives whether anything was consumed, and the bytes of what was kept.
    fn read(
        &mut self,
        open: &mut Open,
        budget: usize,
        records: &mut Vec<(i64, Record)>,
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
                    Framed::Whole { kind, payload, rest: after } => {
                        if open.at >= self.position {
                            if kind != segment::KIND_PROTOBUF {
                                let what = format!("record kind {kind} is unknown to this version");
                                return Err(BusError::Damaged { path, offset: open.offset, what });
                            }
                            let record = wire::decode(payload).map_err(|source| BusError::Decode {
                                stream: self.stream.to_string(),
                                position: open.at,
                                source,
                            })?;
                            records.push((open.at, record));
                            kept += payload.len();
                            self.position = open.at + 1;
                        }
                        open.offset += (rest.len() - after.len()) as u64;
                        open.at += 1;
                        rest = after;
                    }
                    Framed::Incomplete => break,
                    Framed::Bad(what) => {
                        // A torn tail is cut by the next writer; in a closed segment it is damage.
                        let closed = segment::list(&self.dir)?.iter().any(|s| s.first > open.segment.first);
                        if closed {
                            return Err(BusError::Damaged {
                                path,
                                offset: open.offset,
                                what: what.to_owned(),
                            });
                        }
                        break;
                    }
                }
            }
            if rest.len() < buf.len() {
                return Ok((true, kept));
            }
            if buf.len() < window || window > 2 * segment::MAX_RECORD {
                return Ok((false, 0));
            }
            window *= 4;
        }
    }
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

    #[test]
    fn damage_in_a_closed_segment_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(&dir);
        write(&config, 0..100);
        let first = segment::list(&config.dir.join("gw/0")).unwrap().remove(0);
        let mut bytes = std::fs::read(&first.path).unwrap();
        let at = bytes.len() / 2;
        bytes[at] ^= 1;
        std::fs::write(&first.path, bytes).unwrap();
        let mut sub = SpoolBus::new(&config).subscribe(&"gw/0".parse().unwrap(), 0).unwrap();
        let error = loop {
            match sub.poll(1 << 20) {
                Ok(batch) => assert!(!batch.is_empty(), "damage was skipped silently"),
                Err(e) => break e.to_string(),
            }
        };
        assert!(error.contains("damaged at byte") && error.contains(".seg"), "{error}");
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
