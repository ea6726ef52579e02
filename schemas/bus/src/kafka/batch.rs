//! The value of a Kafka message: consecutive records of one stream.
//!
//! Invariant: the batches of a stream, in the order in which they are sent, account for every position once: a
//! batch begins where the one before it ended. A batch that was sent again begins earlier; one that begins later
//! tells that something between was lost.

use bodycam_record::Id16;
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint};

use crate::StreamId;
use crate::spool::MAX_RECORD;
use crate::wire::proto;

/// Bytes of records in a batch. A sealed chunk of 256 KiB fits; a larger record goes in pieces.
pub(super) const BATCH_BYTES: usize = 384 << 10;
/// Most records in a batch: what they hold is in memory at once on both sides.
const BATCH_RECORDS: usize = 4096;
/// The first byte of an encoded [`crate::Record::State`]: field 7 of the union, length-delimited.
const STATE: u8 = (7 << 3) | 2;

/// A message to send.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Outgoing {
    /// Position after the last record that is whole with it.
    pub to: i64,
    /// The value.
    pub value: Vec<u8>,
}

/// A message that came.
#[derive(Debug)]
pub(super) struct Incoming {
    pub stream: StreamId,
    pub origin: Id16,
    pub from: i64,
    pub to: i64,
    pub entries: Vec<Entry>,
}

/// A record of it, or a piece of one.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub position: i64,
    pub at: usize,
    pub more: bool,
    pub bytes: Vec<u8>,
}

/// Makes batches of a stream's records.
#[derive(Debug)]
pub(super) struct Batcher {
    head: Vec<u8>,
    /// First position that no batch accounts for.
    next: i64,
    /// The batch that is being filled.
    body: Vec<u8>,
    count: usize,
    to: i64,
}

impl Batcher {
    /// For the records of `stream` from position `next` on.
    pub fn new(stream: &StreamId, origin: Id16, next: i64) -> Self {
        let mut head = Vec::new();
        put_bytes(&mut head, 1, stream.to_string().as_bytes());
        put_bytes(&mut head, 2, &origin.0);
        Self { head, next, body: Vec::new(), count: 0, to: next }
    }

    /// Takes the next record; gives the batches that are full with it. What only the producer needs is left out.
    pub fn push(&mut self, position: i64, record: &[u8], full: &mut Vec<Outgoing>) {
        if record.first() == Some(&STATE) {
            return;
        }
        if self.count > 0 && (self.body.len() + record.len() > BATCH_BYTES || self.count >= BATCH_RECORDS) {
            full.extend(self.cut());
        }
        let mut at = 0;
        let mut pieces = record.chunks(BATCH_BYTES).peekable();
        while let Some(piece) = pieces.next() {
            let more = pieces.peek().is_some();
            put_entry(&mut self.body, position, piece, at, more);
            self.count += 1;
            at += piece.len();
            if more {
                // The record counts with its last piece; until then only what is lost before it does.
                self.to = position;
                full.extend(self.cut());
            }
        }
        self.to = position.saturating_add(1);
    }

    /// The batch that is being filled, if there is anything in it.
    pub fn cut(&mut self) -> Option<Outgoing> {
        if self.count == 0 {
            return None;
        }
        let mut value = Vec::with_capacity(self.head.len() + self.body.len() + 24);
        value.extend_from_slice(&self.head);
        put_int(&mut value, 3, self.next);
        put_int(&mut value, 4, self.to);
        value.append(&mut self.body);
        (self.count, self.next) = (0, self.to);
        Some(Outgoing { to: self.to, value })
    }
}

impl Incoming {
    /// The batch that a value holds; why it is none, if so. Nothing is taken that no gateway would send: a batch that
    /// accounts for more positions than its records reach would hide those that come after it.
    pub fn decode(value: &[u8]) -> Result<Self, String> {
        let batch = proto::Batch::decode(value).map_err(|e| e.to_string())?;
        let stream = batch.stream.parse::<StreamId>().map_err(|e| e.to_string())?;
        let origin = Id16::try_from(batch.origin.as_slice()).map_err(|_| "its origin has not 16 bytes")?;
        let (from, to, count) = (batch.from, batch.to, batch.entries.len());
        if from < 0 || count == 0 || count > BATCH_RECORDS {
            return Err(format!("it begins at position {from} and has {count} records"));
        }
        let mut after = from;
        let mut entries = Vec::with_capacity(count);
        for (n, entry) in batch.entries.into_iter().enumerate() {
            let position = entry.position;
            let next = position.checked_add(1).filter(|_| position >= after && position <= to);
            let Some(next) = next else {
                return Err(format!("position {position} does not belong in {from}..{to}"));
            };
            let at = usize::try_from(entry.at).map_err(|_| "a piece has no place")?;
            let end = at.checked_add(entry.record.len()).filter(|end| *end <= MAX_RECORD);
            if end.is_none() || (at > 0 && n > 0) || (entry.more && n + 1 < count) {
                return Err(format!("a piece of the record at {position} is where none can be"));
            }
            after = if entry.more { position } else { next };
            entries.push(Entry { position, at, more: entry.more, bytes: entry.record });
        }
        if after != to {
            return Err(format!("its records end at {after}, it says {to}"));
        }
        Ok(Self { stream, origin, from, to, entries })
    }
}

fn put_entry(out: &mut Vec<u8>, position: i64, record: &[u8], at: usize, more: bool) {
    let mut entry = Vec::with_capacity(32);
    put_int(&mut entry, 1, position);
    encode_key(2, WireType::LengthDelimited, &mut entry);
    encode_varint(record.len() as u64, &mut entry);
    let mut rest = Vec::new();
    put_int(&mut rest, 3, i64::try_from(at).unwrap_or(i64::MAX));
    put_int(&mut rest, 4, i64::from(more));
    encode_key(5, WireType::LengthDelimited, out);
    encode_varint((entry.len() + record.len() + rest.len()) as u64, out);
    out.extend_from_slice(&entry);
    out.extend_from_slice(record);
    out.extend_from_slice(&rest);
}

fn put_int(out: &mut Vec<u8>, number: u32, value: i64) {
    if value != 0 {
        encode_key(number, WireType::Varint, out);
        encode_varint(value.cast_unsigned(), out);
    }
}

fn put_bytes(out: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    encode_key(number, WireType::LengthDelimited, out);
    encode_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Record;

    fn encoded(len: usize) -> Vec<u8> {
        let mut out = Vec::new();
        Record::Template { fingerprint: Id16([7; 16]), text: "x".repeat(len) }.encode(&mut out);
        out
    }

    fn batches(records: &[(i64, Vec<u8>)], from: i64) -> Vec<Outgoing> {
        let mut batcher = Batcher::new(&"gw/0".parse().unwrap(), Id16([9; 16]), from);
        let mut out = Vec::new();
        records.iter().for_each(|(position, record)| batcher.push(*position, record, &mut out));
        out.extend(batcher.cut());
        out
    }

    #[test]
    fn batches_account_for_every_position_once_and_hold_no_state() {
        let mut state = Vec::new();
        Record::State(b"mine".to_vec()).encode(&mut state);
        // 3 and 4 are lost, 6 is state; the record at 7 is in several pieces.
        let big = encoded(2 * BATCH_BYTES + 5);
        let records = [
            (2, encoded(10)),
            (5, encoded(BATCH_BYTES - 100)),
            (6, state),
            (7, big.clone()),
            (8, encoded(3)),
        ];
        let sent = batches(&records, 2);
        let got: Vec<_> = sent.iter().map(|o| Incoming::decode(&o.value).unwrap()).collect();
        assert!(sent.iter().all(|o| o.value.len() < BATCH_BYTES + 200));
        assert_eq!(got[0].from, 2);
        assert!(got.windows(2).all(|pair| pair[0].to == pair[1].from), "{got:?}");
        assert_eq!((got.last().unwrap().to, sent.last().unwrap().to), (9, 9));
        let pieces: Vec<u8> = got
            .iter()
            .flat_map(|b| &b.entries)
            .filter(|e| e.position == 7)
            .flat_map(|e| e.bytes.clone())
            .collect();
        assert_eq!(pieces, big);
        let positions: Vec<i64> =
            got.iter().flat_map(|b| &b.entries).filter(|e| !e.more).map(|e| e.position).collect();
        assert_eq!(positions, [2, 5, 7, 8]);
        assert!(batches(&[], 3).is_empty());
    }

    #[test]
    fn what_is_no_batch_is_refused() {
        let good = batches(&[(2, encoded(3)), (3, encoded(4))], 2).remove(0).value;
        assert!(Incoming::decode(&good).is_ok());
        let with = |change: &dyn Fn(&mut proto::Batch)| {
            let mut batch = proto::Batch::decode(good.as_slice()).unwrap();
            change(&mut batch);
            Incoming::decode(&batch.encode_to_vec())
        };
        assert!(with(&|b| b.stream = "no stream".into()).is_err());
        assert!(with(&|b| b.origin.truncate(3)).is_err());
        assert!(with(&|b| b.from = 3).is_err());
        assert!(with(&|b| b.to = 3).is_err());
        assert!(with(&|b| b.entries.swap(0, 1)).is_err());
        assert!(with(&|b| b.entries[0].at = -1).is_err());
        // Positions that no record accounts for, and numbers at the edge of what there is.
        assert!(with(&|b| b.to = 5).is_err());
        assert!(with(&|b| b.to = i64::MAX).is_err());
        assert!(with(&|b| b.entries.clear()).is_err());
        assert!(with(&|b| (b.from, b.to, b.entries) = (5, 9, Vec::new())).is_err());
        assert!(with(&|b| b.from = -1).is_err());
        assert!(
            with(&|b| (b.entries[1].position, b.to) = (i64::MAX, i64::MAX)).is_err(),
            "no position comes after it"
        );
        // Pieces: only the first record can be the rest of one, only the last the beginning, and none is endless.
        assert!(with(&|b| b.entries[1].at = 4).is_err());
        assert!(with(&|b| b.entries[0].more = true).is_err());
        assert!(with(&|b| b.entries[0].at = (16 << 20) - 2).is_err());
        assert!(with(&|b| b.entries[0].at = i64::MAX).is_err());
        assert!(with(&|b| b.entries[0].at = 4).is_ok());
        let many: Vec<_> = (0..5_000).map(|n| (n, encoded(1))).collect();
        assert!(batches(&many, 0).iter().all(|o| Incoming::decode(&o.value).is_ok()));
        let mut batch = proto::Batch::decode(good.as_slice()).unwrap();
        batch.entries = vec![proto::Entry { more: true, position: 2, ..Default::default() }; 5_000];
        assert!(Incoming::decode(&batch.encode_to_vec()).is_err(), "more records than a batch can have");
        for cut in 0..good.len() {
            let _ = Incoming::decode(&good[..cut]);
        }
        assert!(Incoming::decode(b"foreign bytes").is_err());
    }
}
