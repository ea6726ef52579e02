//! What is said with an offset that the group commits, so that the next reader need not believe it.
//!
//! Invariant: reading begins at an offset only where the lake is shown to hold everything that lies before it: of every
//! stream at least as much as it did when the offset was committed, and in the log that it was committed for. A lake
//! that was restored from a backup, an offset that someone set, a topic that was made again: the partition is read from
//! its start.

use std::collections::{BTreeMap, VecDeque};

use bodycam_record::Id16;

use crate::{Held, StreamId};

/// First word of the text: the version of its form.
const FORM: &str = "bodycam-1";
/// Longest text: brokers take 4,096 bytes unless they are told otherwise.
const MAX_TEXT: usize = 4_000;
/// Most messages of which the digest is kept; of more, that of every second one, of every fourth, and so on.
const MAX_SEEN: usize = 4_096;

/// Goes with an offset.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Claim {
    /// CRC32C of the message before the offset: what tells the log from another one of the same name.
    pub last: u32,
    /// What the lake held of the streams of the partition.
    pub streams: Streams,
}

/// First positions that a lake does not hold, and beginnings of the origins of the streams.
pub(super) type Streams = BTreeMap<StreamId, ([u8; 4], i64)>;

/// The beginning of an origin.
pub(super) fn beginning(origin: Id16) -> [u8; 4] {
    let [a, b, c, d, ..] = origin.0;
    [a, b, c, d]
}

impl Claim {
    /// The text; none when it would be too long for a broker.
    pub fn to_text(&self) -> Option<String> {
        use std::fmt::Write as _;
        let mut text = format!("{FORM} {:08x}", self.last);
        for (stream, (origin, to)) in &self.streams {
            let _ = write!(text, " {stream}:{:08x}:{to}", u32::from_be_bytes(*origin));
        }
        (text.len() <= MAX_TEXT).then_some(text)
    }

    /// The claim that a text makes, if it makes one.
    pub fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        if words.next() != Some(FORM) {
            return None;
        }
        let last = u32::from_str_radix(words.next()?, 16).ok()?;
        let stream = |word: &str| {
            let mut parts = word.split(':');
            let (name, origin, to) = (parts.next()?, parts.next()?, parts.next()?);
            let origin = u32::from_str_radix(origin, 16).ok()?.to_be_bytes();
            parts.next().is_none().then_some((name.parse().ok()?, (origin, to.parse().ok()?)))
        };
        Some(Self { last, streams: words.map(stream).collect::<Option<_>>()? })
    }

    /// Whether a lake that holds this holds everything that it says.
    pub fn is_held(&self, held: &BTreeMap<StreamId, Held>) -> bool {
        self.streams.iter().all(|(stream, (origin, to))| {
            let Some(held) = held.get(stream) else { return false };
            let of_newest = held.origin.filter(|newest| beginning(*newest) == *origin).map(|_| held.position);
            let of_older = held.older.iter().filter(|(known, _)| beginning(*known) == *origin);
            of_newest.into_iter().chain(of_older.map(|(_, end)| *end)).any(|end| end >= *to)
        })
    }
}

/// Digests of the messages that were read last.
#[derive(Debug, Default)]
pub(super) struct Seen {
    kept: VecDeque<(i64, u32)>,
    /// Binary logarithm of how many messages there are for each that is kept.
    thinned: u32,
    pushed: u64,
}

impl Seen {
    /// Notes a message. Later ones have greater offsets.
    pub fn push(&mut self, offset: i64, digest: u32) {
        self.pushed = self.pushed.wrapping_add(1);
        if self.pushed.trailing_zeros() < self.thinned {
            return;
        }
        self.kept.push_back((offset, digest));
        if self.kept.len() > MAX_SEEN {
            self.thinned += 1;
            let mut n = 0_usize;
            self.kept.retain(|_| {
                n += 1;
                n.is_multiple_of(2)
            });
        }
    }

    /// The last one of those before `floor`; what lies before it is forgotten.
    pub fn last_before(&mut self, floor: i64) -> Option<(i64, u32)> {
        let before = self.kept.partition_point(|(offset, _)| *offset < floor);
        self.kept.drain(..before.saturating_sub(1));
        if self.kept.len() < MAX_SEEN / 4 {
            self.thinned = self.thinned.saturating_sub(1);
        }
        self.kept.front().copied().filter(|(offset, _)| *offset < floor)
    }

    /// The digest of the message at `offset`, if that was read last and is known.
    pub fn digest(&self, offset: i64) -> Option<u32> {
        self.kept.back().filter(|(last, _)| *last == offset).map(|(_, digest)| *digest)
    }

    /// Forgets the messages from `offset` on: they are read again.
    pub fn forget_from(&mut self, offset: i64) {
        let before = self.kept.partition_point(|(seen, _)| *seen < offset);
        self.kept.truncate(before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim() -> Claim {
        let streams = [("gw/0", [1, 2, 3, 4], 17), ("gw-2.x/ledger", [0, 0, 0, 9], 0)];
        let streams = streams.map(|(name, origin, to)| (name.parse().unwrap(), (origin, to)));
        Claim { last: 0xf00, streams: streams.into() }
    }

    #[test]
    fn a_claim_reads_back_and_nothing_else_is_one() {
        let text = claim().to_text().unwrap();
        assert_eq!(text, "bodycam-1 00000f00 gw/0:01020304:17 gw-2.x/ledger:00000009:0");
        assert_eq!(Claim::parse(&text), Some(claim()));
        let bare = Claim { last: 7, streams: BTreeMap::new() };
        assert_eq!(Claim::parse(&bare.to_text().unwrap()), Some(bare));
        for bad in ["", "x", "bodycam-2 00000f00", "bodycam-1", "bodycam-1 zz", "bodycam-1 00000f00 "] {
            assert_eq!(Claim::parse(bad), None, "{bad:?}");
        }
        for bad in ["gw/0", "gw/0:01020304", "gw/0:x:1", "gw/0:01020304:y", "gw:01020304:1", "gw/0:0:1:2"] {
            assert_eq!(Claim::parse(&format!("bodycam-1 00000f00 {bad}")), None, "{bad:?}");
        }
        let many = (0..500).map(|n| (format!("gateway-{n}/0").parse().unwrap(), ([0; 4], 1))).collect();
        assert_eq!(Claim { last: 0, streams: many }.to_text(), None);
    }

    #[test]
    fn a_lake_that_holds_less_or_another_stream_does_not_hold_what_is_claimed() {
        let origin = |bytes: [u8; 4]| {
            let mut id = [7; 16];
            id[..4].copy_from_slice(&bytes);
            Id16(id)
        };
        let held = |position, bytes, older: &[([u8; 4], i64)]| Held {
            position,
            origin: Some(origin(bytes)),
            older: older.iter().map(|(bytes, end)| (origin(*bytes), *end)).collect(),
        };
        let with = |of_zero: Option<Held>| {
            let ledger = ("gw-2.x/ledger".parse().unwrap(), held(0, [0, 0, 0, 9], &[]));
            let zero = of_zero.map(|held| ("gw/0".parse().unwrap(), held));
            claim().is_held(&zero.into_iter().chain([ledger]).collect())
        };
        assert!(with(Some(held(17, [1, 2, 3, 4], &[]))));
        assert!(with(Some(held(18, [1, 2, 3, 4], &[]))));
        assert!(
            with(Some(held(3, [5, 5, 5, 5], &[([1, 2, 3, 4], 17)]))),
            "it has a generation after that one"
        );
        assert!(!with(Some(held(16, [1, 2, 3, 4], &[]))), "restored from a backup");
        assert!(!with(Some(held(99, [5, 5, 5, 5], &[([1, 2, 3, 4], 16)]))), "another one of the name");
        assert!(!with(Some(Held { position: 99, ..Held::default() })), "of an unknown origin");
        assert!(!with(None), "a fresh lake");
    }

    #[test]
    fn the_messages_seen_last_are_few_and_the_one_before_a_floor_is_among_them() {
        let mut seen = Seen::default();
        for offset in 0..100_000_i64 {
            seen.push(offset, offset as u32);
        }
        assert!(seen.kept.len() <= MAX_SEEN);
        let (offset, digest) = seen.last_before(60_000).unwrap();
        assert!((59_900..60_000).contains(&offset) && i64::from(digest) == offset, "{offset}");
        assert_eq!(seen.last_before(60_000), Some((offset, digest)));
        seen.forget_from(offset);
        assert_eq!(seen.last_before(i64::MAX), None);
        // What is pushed while few wait is kept again.
        (0..20).for_each(|_| assert_eq!(seen.last_before(0), None));
        seen.push(5, 1);
        assert_eq!((seen.last_before(5), seen.last_before(6)), (None, Some((5, 1))));
    }
}
