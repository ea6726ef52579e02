use super::*;
use crate::kafka::Topic;
use crate::kafka::batch::{BATCH_BYTES, Batcher};

const PLACE: Place = (Topic::Events, 0);
const ORIGIN: Id16 = Id16([1; 16]);

/// A log of messages, and a demultiplexer that reads it as the thread does.
struct Log {
    messages: Vec<(i64, Vec<u8>)>,
    demux: Demux,
    at: i64,
}

fn record(n: i64, len: usize) -> Record {
    Record::Template { fingerprint: Id16([n as u8; 16]), text: "x".repeat(len) }
}

fn id(name: &str) -> StreamId {
    name.parse().unwrap()
}

impl Log {
    fn new() -> Self {
        Self { messages: Vec::new(), demux: Demux::default(), at: 0 }
    }

    /// Sends records of a stream, `per` a message; `from` is where the sender takes the stream to go on.
    fn send(&mut self, name: &str, origin: Id16, from: i64, positions: std::ops::Range<i64>, per: i64) {
        let mut batcher = Batcher::new(&id(name), origin, from);
        let mut out = Vec::new();
        for position in positions {
            let mut bytes = Vec::new();
            record(position, 3).encode(&mut bytes);
            batcher.push(position, &bytes, &mut out);
            if (position + 1) % per == 0 {
                out.extend(batcher.cut());
            }
        }
        out.extend(batcher.cut());
        self.append(out.into_iter().map(|o| o.value));
    }

    fn append(&mut self, values: impl IntoIterator<Item = Vec<u8>>) {
        for value in values {
            let offset = self.messages.last().map_or(0, |(offset, _)| offset + 1);
            self.messages.push((offset, value));
        }
    }

    /// Reads from `offset` on: from the start, or behind a message that is shown to be the one of a claim.
    fn assign(&mut self, offset: i64) {
        let before = self.messages.iter().find(|(before, _)| *before == offset - 1);
        let claim = before.map(|(_, value)| Claim { last: crc32c::crc32c(value), ..Claim::default() });
        self.at = if claim.is_some() { offset - 1 } else { offset };
        self.demux.assigned(PLACE, self.at, claim);
    }

    /// Reads to the end, and again from wherever that is wanted.
    fn read(&mut self) {
        loop {
            if let Some(rewind) = self.demux.rewind(PLACE) {
                let low = self.messages.first().map_or(0, |(offset, _)| *offset);
                self.at = match rewind {
                    Rewind::Start => low,
                    Rewind::To(offset) => offset.max(low),
                };
                self.demux.rewound(PLACE, rewind, self.at, self.at <= low);
            }
            let Some((offset, value)) = self.messages.iter().find(|(offset, _)| *offset >= self.at) else {
                break;
            };
            self.at = offset + 1;
            self.demux.message(PLACE, *offset, value, |_| PLACE);
        }
    }

    fn take(&mut self, name: &str, number: u64) -> Result<Vec<i64>, BusError> {
        let (records, _) = self.demux.take(&id(name), number, usize::MAX)?;
        for (position, got) in &records {
            assert_eq!(*got, record(*position, 3));
        }
        Ok(records.into_iter().map(|(position, _)| position).collect())
    }
}

fn range(of: std::ops::Range<i64>) -> Vec<i64> {
    of.collect()
}

#[test]
fn what_was_sent_again_comes_once_however_it_is_cut() {
    for per in 1..7 {
        let mut log = Log::new();
        log.send("gw/0", ORIGIN, 0, 0..20, per);
        log.send("gw/1", ORIGIN, 0, 0..5, 2);
        log.send("gw/0", ORIGIN, 13, 13..30, 7 - per);
        log.send("gw/0", ORIGIN, 0, 0..31, 4);
        log.assign(0);
        log.read();
        let zero = log.demux.subscribe(&id("gw/0"), PLACE, 0).unwrap();
        let one = log.demux.subscribe(&id("gw/1"), PLACE, 2).unwrap();
        assert_eq!(log.take("gw/0", zero).unwrap(), range(0..31));
        assert_eq!(log.take("gw/1", one).unwrap(), range(2..5));
        assert_eq!(log.demux.repeated, 7 + 30);
    }
}

#[test]
fn an_offset_that_is_too_high_costs_a_second_look_and_no_record() {
    let mut log = Log::new();
    log.send("gw/0", ORIGIN, 0, 0..40, 4);
    log.assign(7);
    log.read();
    // The lake holds less than what the group has committed.
    let number = log.demux.subscribe(&id("gw/0"), PLACE, 9).unwrap();
    log.read();
    assert_eq!(log.take("gw/0", number).unwrap(), range(9..40));
    // Nothing of the stream comes after the offset.
    let mut log = Log::new();
    log.send("gw/0", ORIGIN, 0, 0..40, 4);
    log.send("gw/1", ORIGIN, 0, 0..40, 4);
    log.assign(12);
    log.read();
    let number = log.demux.subscribe(&id("gw/0"), PLACE, 39).unwrap();
    log.read();
    assert_eq!(log.take("gw/0", number).unwrap(), range(39..40));
}

#[test]
fn a_new_reader_in_the_same_process_begins_at_what_is_not_released() {
    let mut log = Log::new();
    log.send("gw/0", ORIGIN, 0, 0..40, 4);
    log.assign(0);
    log.read();
    let old = log.demux.subscribe(&id("gw/0"), PLACE, 0).unwrap();
    assert_eq!(log.take("gw/0", old).unwrap(), range(0..40));
    log.demux.release(&id("gw/0"), 18);
    assert_eq!(log.demux.floor(PLACE), Some(4), "message 4 holds 16 to 19");
    let new = log.demux.subscribe(&id("gw/0"), PLACE, 18).unwrap();
    assert_eq!(log.demux.rewind(PLACE), Some(Rewind::To(4)));
    log.read();
    assert_eq!(log.take("gw/0", new).unwrap(), range(18..40));
    assert!(matches!(log.take("gw/0", old), Err(BusError::Revoked { .. })));
    // Even what was released is read again for who asks.
    log.demux.release(&id("gw/0"), 40);
    assert_eq!(log.demux.floor(PLACE), Some(10));
    let again = log.demux.subscribe(&id("gw/0"), PLACE, 3).unwrap();
    log.read();
    assert_eq!(log.take("gw/0", again).unwrap(), range(3..40));
}

#[test]
fn what_several_streams_want_read_again_is_all_read_again() {
    let two = || {
        let mut log = Log::new();
        log.send("gw/0", ORIGIN, 0, 0..40, 4);
        log.send("gw/1", ORIGIN, 0, 0..40, 4);
        log
    };
    // One wants the start, and then the other what it had: whoever asks last does not decide.
    let mut log = two();
    log.assign(12);
    log.read();
    let one = log.demux.subscribe(&id("gw/1"), PLACE, 8).unwrap();
    assert_eq!(log.take("gw/1", one).unwrap(), range(8..40));
    let zero = log.demux.subscribe(&id("gw/0"), PLACE, 39).unwrap();
    let one = log.demux.subscribe(&id("gw/1"), PLACE, 8).unwrap();
    assert_eq!((log.demux.rewind(PLACE), log.demux.floor(PLACE)), (Some(Rewind::Start), None));
    log.read();
    assert_eq!(log.take("gw/0", zero).unwrap(), range(39..40));
    assert_eq!(log.take("gw/1", one).unwrap(), range(8..40));
    // Both want what they had, the first from further back.
    let mut log = two();
    log.assign(0);
    log.read();
    for name in ["gw/0", "gw/1"] {
        let number = log.demux.subscribe(&id(name), PLACE, 0).unwrap();
        log.take(name, number).unwrap();
        log.demux.release(&id(name), 8);
    }
    let numbers = ["gw/0", "gw/1"].map(|name| log.demux.subscribe(&id(name), PLACE, 8).unwrap());
    assert_eq!((log.demux.rewind(PLACE), log.demux.floor(PLACE)), (Some(Rewind::To(2)), Some(2)));
    log.read();
    for (name, number) in ["gw/0", "gw/1"].into_iter().zip(numbers) {
        assert_eq!(log.take(name, number).unwrap(), range(8..40), "{name}");
    }
}

#[test]
fn a_wish_that_comes_while_another_is_served_is_served_next() {
    let mut log = Log::new();
    log.send("gw/0", ORIGIN, 0, 0..40, 4);
    log.send("gw/1", ORIGIN, 0, 0..40, 4);
    log.assign(12);
    log.read();
    let one = log.demux.subscribe(&id("gw/1"), PLACE, 8).unwrap();
    log.take("gw/1", one).unwrap();
    log.demux.subscribe(&id("gw/1"), PLACE, 8).unwrap();
    let served = log.demux.rewind(PLACE).unwrap();
    assert_eq!(served, Rewind::To(12));
    // The thread seeks; meanwhile a reader wants more.
    let zero = log.demux.subscribe(&id("gw/0"), PLACE, 39).unwrap();
    log.at = 12;
    log.demux.rewound(PLACE, served, 12, false);
    assert_eq!(log.demux.rewind(PLACE), Some(Rewind::Start));
    log.read();
    assert_eq!(log.take("gw/0", zero).unwrap(), range(39..40));
}

#[test]
fn a_stream_seen_behind_an_offset_is_not_cut_because_another_had_the_start_read() {
    let mut log = Log::new();
    log.send("gw/0", ORIGIN, 0, 0..40, 4);
    log.send("gw/1", ORIGIN, 0, 0..40, 4);
    log.assign(12);
    log.read();
    let zero = log.demux.subscribe(&id("gw/0"), PLACE, 39).unwrap();
    let wanted = log.demux.rewind(PLACE).unwrap();
    log.at = 0;
    log.demux.rewound(PLACE, wanted, 0, true);
    // It was seen from 8 on; what lies before is on its way.
    let one = log.demux.subscribe(&id("gw/1"), PLACE, 3).unwrap();
    log.read();
    assert_eq!(log.take("gw/1", one).unwrap(), range(3..40));
    assert_eq!(log.take("gw/0", zero).unwrap(), range(39..40));
}

#[test]
fn a_gap_is_an_error_that_names_it_after_everything_was_read_again() {
    // Removed before it was read: at the start, and behind an offset.
    for begin in [3, 6] {
        let mut log = Log::new();
        log.send("gw/0", ORIGIN, 0, 0..40, 4);
        log.messages.drain(..3);
        log.assign(begin);
        log.read();
        let error = match log.demux.subscribe(&id("gw/0"), PLACE, 5) {
            Err(error) => error,
            Ok(number) => {
                log.read();
                log.take("gw/0", number).unwrap_err()
            }
        };
        assert!(matches!(error, BusError::Truncated { first: 12, wanted: 5, .. }), "{begin}: {error}");
        let number = log.demux.subscribe(&id("gw/0"), PLACE, 12).unwrap();
        log.read();
        assert_eq!(log.take("gw/0", number).unwrap(), range(12..40), "{begin}");
    }
    // Lost in the middle: what lies before it is given out first.
    let mut log = Log::new();
    log.send("gw/0", ORIGIN, 0, 0..40, 4);
    log.messages.remove(5);
    log.assign(0);
    let number = log.demux.subscribe(&id("gw/0"), PLACE, 0).unwrap();
    log.read();
    assert_eq!(log.take("gw/0", number).unwrap(), range(0..20));
    log.read();
    assert!(!log.demux.given_out(PLACE, 9, |_| true), "what is missing was not given out");
    assert!(log.demux.given_out(PLACE, 9, |_| false));
    let error = log.take("gw/0", number).unwrap_err();
    assert!(matches!(error, BusError::Truncated { first: 24, wanted: 20, .. }), "{error}");
    assert!(log.demux.floor(PLACE).unwrap() <= 5, "the offset does not go past what is missing");
}

#[test]
fn a_topic_that_was_made_again_is_read_from_its_start() {
    let mut log = Log::new();
    log.send("gw/0", ORIGIN, 0, 0..40, 4);
    log.send("gw/1", ORIGIN, 0, 0..20, 4);
    log.assign(0);
    let [zero, one] = ["gw/0", "gw/1"].map(|name| log.demux.subscribe(&id(name), PLACE, 0).unwrap());
    log.read();
    assert_eq!(log.take("gw/0", zero).unwrap(), range(0..40));
    assert_eq!(log.take("gw/1", one).unwrap(), range(0..20));
    // The library finds its offset beyond the end of the new log, and goes on at what is there, not at its start.
    log.messages.clear();
    log.send("gw/0", ORIGIN, 38, 38..50, 4);
    log.send("gw/1", ORIGIN, 24, 24..30, 4);
    log.at = 2;
    log.read();
    assert_eq!(log.take("gw/0", zero).unwrap(), range(40..50));
    // What went with the old topic before it was read is missing, and is named.
    let error = log.take("gw/1", one).unwrap_err();
    assert!(matches!(error, BusError::Truncated { first: 24, wanted: 20, .. }), "{error}");
}

#[test]
fn a_topic_that_was_made_again_and_is_as_long_as_the_old_one_shows_by_its_last_message() {
    let mut log = Log::new();
    log.send("gw/0", ORIGIN, 0, 0..20, 4);
    log.send("gw/1", ORIGIN, 0, 0..20, 4);
    log.assign(0);
    let [zero, one] = ["gw/0", "gw/1"].map(|name| log.demux.subscribe(&id(name), PLACE, 0).unwrap());
    log.read();
    log.take("gw/0", zero).unwrap();
    log.take("gw/1", one).unwrap();
    let look = |log: &mut Log| {
        let last = log.demux.last(PLACE).unwrap();
        log.at = last;
        log.demux.look_again(PLACE, last);
        assert_eq!(log.demux.last(PLACE), None, "it is looked at already");
        log.read();
    };
    // Nothing has changed: nothing comes again.
    look(&mut log);
    assert_eq!((log.demux.repeated, log.demux.last(PLACE)), (0, Some(9)));
    assert_eq!(log.take("gw/0", zero).unwrap(), range(0..0));
    // What was read is removed, as it may be.
    log.messages.clear();
    log.messages.push((10, Vec::new()));
    look(&mut log);
    assert_eq!((log.demux.rewind(PLACE), log.demux.last(PLACE)), (None, Some(10)));
    // Another log, whose end nobody has to read on for.
    log.messages.clear();
    log.send("gw/1", ORIGIN, 20, 20..40, 4);
    log.send("gw/0", ORIGIN, 20, 20..44, 4);
    look(&mut log);
    assert_eq!(log.take("gw/1", one).unwrap(), range(20..40));
    assert_eq!(log.take("gw/0", zero).unwrap(), range(20..44));
}

#[test]
fn an_offset_is_committed_with_what_the_lake_holds_before_it() {
    let mut log = Log::new();
    log.send("gw/0", ORIGIN, 0, 0..40, 4);
    log.send("gw/1", Id16([2; 16]), 0, 0..40, 4);
    let claim = |n: usize, streams: &[(&str, u8, i64)]| {
        let streams = streams.iter().map(|(name, origin, to)| (id(name), ([*origin; 4], *to)));
        Claim { last: crc32c::crc32c(&log.messages[n].1), streams: streams.collect() }
    };
    let claims = [
        (10, claim(9, &[("gw/0", 1, 40), ("gw/1", 2, 0)])),
        (12, claim(11, &[("gw/0", 1, 40), ("gw/1", 2, 9)])),
    ];
    log.assign(0);
    assert_eq!(log.demux.bookmark(PLACE), None);
    log.read();
    assert_eq!(log.demux.bookmark(PLACE), None, "nobody has taken anything");
    let [zero, one] = ["gw/0", "gw/1"].map(|name| log.demux.subscribe(&id(name), PLACE, 0).unwrap());
    log.take("gw/0", zero).unwrap();
    assert_eq!(log.demux.bookmark(PLACE), None, "nothing is released");
    log.demux.release(&id("gw/0"), 40);
    assert_eq!(log.demux.bookmark(PLACE).as_ref(), Some(&claims[0]));
    log.take("gw/1", one).unwrap();
    log.demux.release(&id("gw/1"), 9);
    assert_eq!(log.demux.bookmark(PLACE).as_ref(), Some(&claims[1]));
    // The next reader begins there, and claims what it was shown as long as nobody says more.
    let mut next = Demux::default();
    next.assigned(PLACE, 11, Some(claims[1].1.clone()));
    let mut log = Log { demux: next, at: 11, messages: log.messages };
    log.read();
    assert_eq!(log.demux.streams(), [id("gw/1")], "gw/0 had nothing more");
    let one = log.demux.subscribe(&id("gw/1"), PLACE, 9).unwrap();
    assert_eq!(log.demux.bookmark(PLACE).as_ref(), Some(&claims[1]));
    assert_eq!(log.take("gw/1", one).unwrap(), range(9..40));
    log.demux.release(&id("gw/1"), 40);
    let (offset, claim) = log.demux.bookmark(PLACE).unwrap();
    assert_eq!((offset, claim.streams[&id("gw/0")].1, claim.streams[&id("gw/1")].1), (20, 40, 40));
}

#[test]
fn an_offset_of_another_log_is_not_believed() {
    let mut log = Log::new();
    log.send("gw/0", ORIGIN, 0, 0..40, 4);
    log.send("gw/1", ORIGIN, 0, 0..40, 4);
    // Committed for the topic that had this name before; gw/0 has nothing behind it.
    let claim = Claim { last: crc32c::crc32c(b"another message"), ..Claim::default() };
    log.demux.assigned(PLACE, 14, Some(claim));
    log.at = 14;
    log.read();
    assert_eq!(log.demux.streams(), [id("gw/0"), id("gw/1")]);
    let number = log.demux.subscribe(&id("gw/0"), PLACE, 0).unwrap();
    assert_eq!(log.take("gw/0", number).unwrap(), range(0..40));
}

#[test]
fn what_the_producer_says_is_lost_is_no_gap() {
    let mut log = Log::new();
    log.send("gw/0", ORIGIN, 0, 0..10, 4);
    // Its spool has skipped 10 to 14: the batch begins where the last one ended.
    log.send("gw/0", ORIGIN, 10, 15..20, 4);
    log.assign(0);
    let number = log.demux.subscribe(&id("gw/0"), PLACE, 0).unwrap();
    log.read();
    assert_eq!(log.take("gw/0", number).unwrap(), [range(0..10), range(15..20)].concat());
}

#[test]
fn another_origin_under_the_same_name_is_refused() {
    let mut log = Log::new();
    log.send("gw/0", ORIGIN, 0, 0..10, 4);
    log.send("gw/0", Id16([2; 16]), 0, 0..30, 4);
    log.assign(0);
    let number = log.demux.subscribe(&id("gw/0"), PLACE, 0).unwrap();
    log.read();
    assert_eq!(log.take("gw/0", number).unwrap(), range(0..10));
    assert!(matches!(log.take("gw/0", number), Err(BusError::Recreated { .. })));
}

#[test]
fn reading_again_across_a_stream_that_began_anew_repeats_nothing() {
    const ANEW: Id16 = Id16([2; 16]);
    let held = |position| Held { position, origin: Some(ANEW), older: vec![(ORIGIN, 10)] };
    let mut log = Log::new();
    log.send("gw/0", ORIGIN, 0, 0..10, 4);
    log.send("gw/0", ANEW, 0, 0..30, 4);
    for position in [0, 7, 30] {
        let mut log = Log { messages: log.messages.clone(), ..Log::new() };
        log.demux.holds([(id("gw/0"), held(position))].into());
        log.assign(0);
        log.read();
        assert_eq!(log.demux.origin(&id("gw/0")), Some(ANEW));
        let number = log.demux.subscribe(&id("gw/0"), PLACE, position).unwrap();
        log.read();
        assert_eq!(log.take("gw/0", number).unwrap(), range(position..30));
        assert_eq!(log.demux.repeated, 10);
    }
    // A gateway that goes on under the old origin, while the other one is at work, is no repeat.
    log.send("gw/0", ORIGIN, 8, 8..14, 4);
    log.demux.holds([(id("gw/0"), held(30))].into());
    log.assign(0);
    log.read();
    let number = log.demux.subscribe(&id("gw/0"), PLACE, 30).unwrap();
    let error = log.take("gw/0", number).unwrap_err();
    assert!(matches!(&error, BusError::Recreated { found, .. } if *found == ORIGIN.to_string()), "{error}");
    // Nor is another one taken for what the lake has because nothing of that was seen.
    let mut log = Log { messages: log.messages, ..Log::new() };
    log.demux.holds([(id("gw/0"), Held { origin: Some(Id16([3; 16])), ..Held::default() })].into());
    log.assign(0);
    let number = log.demux.subscribe(&id("gw/0"), PLACE, 0).unwrap();
    log.read();
    assert!(matches!(log.take("gw/0", number), Err(BusError::Recreated { .. })));
    let next = held(30).followed_by(Some(ORIGIN));
    assert_eq!(next, Held { position: 10, origin: Some(ORIGIN), older: vec![(ORIGIN, 10), (ANEW, 30)] });
}

#[test]
fn a_stream_that_began_anew_goes_on_once_it_is_acknowledged_and_what_was_before_is_stored() {
    const ANEW: Id16 = Id16([2; 16]);
    let mut log = Log::new();
    log.send("gw/0", ORIGIN, 0, 0..10, 4);
    log.send("gw/0", ANEW, 0, 0..30, 4);
    log.assign(0);
    log.read();
    let lake = Held { position: 6, origin: Some(ORIGIN), older: Vec::new() };
    log.demux.holds([(id("gw/0"), lake.clone())].into());
    let mut number = log.demux.subscribe(&id("gw/0"), PLACE, 6).unwrap();
    assert_eq!(log.take("gw/0", number).unwrap(), range(6..10));
    assert!(matches!(log.take("gw/0", number), Err(BusError::Recreated { .. })));
    // A reader that died before it stored the end has it again.
    assert_eq!(log.demux.origin(&id("gw/0")), Some(ORIGIN), "the end is not stored");
    log.demux.leave(&id("gw/0"), number);
    number = log.demux.subscribe(&id("gw/0"), PLACE, 6).unwrap();
    log.read();
    assert_eq!(log.take("gw/0", number).unwrap(), range(6..10));
    log.demux.release(&id("gw/0"), 10);
    assert_eq!(log.demux.origin(&id("gw/0")), Some(ANEW));
    log.demux.leave(&id("gw/0"), number);
    let next = Held { position: 10, ..lake }.followed_by(Some(ANEW));
    assert_eq!(next, Held { position: 0, origin: Some(ANEW), older: vec![(ORIGIN, 10)] });
    log.demux.holds([(id("gw/0"), next)].into());
    let number = log.demux.subscribe(&id("gw/0"), PLACE, 0).unwrap();
    log.read();
    assert_eq!(log.take("gw/0", number).unwrap(), range(0..30));
}

#[test]
fn what_a_reader_leaves_behind_waits_in_the_log() {
    let mut log = Log::new();
    log.send("gw/0", ORIGIN, 0, 0..40, 4);
    log.send("gw/1", ORIGIN, 0, 0..8, 4);
    log.assign(0);
    log.read();
    let zero = log.demux.subscribe(&id("gw/0"), PLACE, 0).unwrap();
    let one = log.demux.subscribe(&id("gw/1"), PLACE, 0).unwrap();
    log.take("gw/1", one).unwrap();
    log.demux.release(&id("gw/1"), 8);
    assert!(log.demux.waiting() > 0);
    log.demux.leave(&id("gw/0"), zero);
    log.demux.leave(&id("gw/1"), one);
    log.send("gw/0", ORIGIN, 40, 40..80, 4);
    log.read();
    assert_eq!((log.demux.waiting(), log.demux.floor(PLACE)), (0, Some(0)));
    let zero = log.demux.subscribe(&id("gw/0"), PLACE, 2).unwrap();
    let one = log.demux.subscribe(&id("gw/1"), PLACE, 8).unwrap();
    log.read();
    assert_eq!(log.take("gw/0", zero).unwrap(), range(2..80));
    assert_eq!(log.take("gw/1", one).unwrap(), range(8..8));
}

#[test]
fn a_parked_stream_takes_no_room_and_its_offset_stays() {
    let mut log = Log::new();
    log.send("gw/1", ORIGIN, 0, 0..8, 4);
    log.send("gw/0", ORIGIN, 0, 0..40, 4);
    log.assign(0);
    log.read();
    // Never subscribed to, as one that began anew and is not acknowledged.
    log.demux.park(&id("gw/0"));
    let one = log.demux.subscribe(&id("gw/1"), PLACE, 0).unwrap();
    assert_eq!(log.take("gw/1", one).unwrap(), range(0..8));
    log.demux.release(&id("gw/1"), 8);
    log.send("gw/0", ORIGIN, 40, 40..80, 4);
    log.read();
    assert_eq!((log.demux.waiting(), log.demux.floor(PLACE)), (0, Some(2)));
    assert_eq!(log.demux.bookmark(PLACE).unwrap().0, 2);
    // Nor does it after the partition came back.
    log.demux.revoked(&[PLACE]);
    log.assign(0);
    log.read();
    assert_eq!((log.demux.origin(&id("gw/0")), log.demux.floor(PLACE)), (Some(ORIGIN), Some(0)));
    assert_eq!(log.demux.feeds[&id("gw/0")].bytes, 0);
    let zero = log.demux.subscribe(&id("gw/0"), PLACE, 0).unwrap();
    log.read();
    assert_eq!(log.take("gw/0", zero).unwrap(), range(0..80));
}

#[test]
fn a_record_in_pieces_comes_whole_and_its_first_piece_holds_the_offset() {
    let mut log = Log::new();
    let big = record(0, 2 * BATCH_BYTES + 7);
    let mut bytes = Vec::new();
    big.encode(&mut bytes);
    let mut batcher = Batcher::new(&id("gw/0"), ORIGIN, 0);
    let mut out = Vec::new();
    batcher.push(0, &bytes, &mut out);
    out.extend(batcher.cut());
    let values: Vec<_> = out.into_iter().map(|o| o.value).collect();
    assert_eq!(values.len(), 3);
    // Killed after two pieces, and sent again.
    log.append(values.iter().take(2).cloned());
    log.append(values);
    log.assign(0);
    let number = log.demux.subscribe(&id("gw/0"), PLACE, 0).unwrap();
    log.read();
    let (records, after) = log.demux.take(&id("gw/0"), number, 1).unwrap();
    assert!(records == [(0, big)] && after == Some(1));
    assert_eq!(log.demux.floor(PLACE), Some(2));
    log.demux.release(&id("gw/0"), 1);
    assert_eq!(log.demux.floor(PLACE), Some(5));
    // The first piece is gone: the record is.
    log.messages.drain(..3);
    log.assign(3);
    log.demux.revoked(&[PLACE]);
    log.assign(3);
    let number = log.demux.subscribe(&id("gw/0"), PLACE, 0).unwrap();
    log.read();
    let error = log.take("gw/0", number).unwrap_err();
    assert!(matches!(error, BusError::Truncated { first: 1, wanted: 0, .. }), "{error}");
}

#[test]
fn foreign_messages_are_passed_over_and_counted() {
    let mut log = Log::new();
    log.append([b"hello".to_vec(), Vec::new()]);
    log.send("gw/0", ORIGIN, 0, 0..3, 4);
    log.assign(0);
    let number = log.demux.subscribe(&id("gw/0"), PLACE, 0).unwrap();
    log.read();
    assert_eq!(log.take("gw/0", number).unwrap(), range(0..3));
    assert_eq!(log.demux.foreign, 2);
}

#[test]
fn a_partition_with_much_that_nobody_reads_takes_no_more() {
    let mut log = Log::new();
    log.assign(0);
    let mut bytes = Vec::new();
    record(0, 1 << 20).encode(&mut bytes);
    let mut batcher = Batcher::new(&id("gw/0"), ORIGIN, 0);
    let mut out = Vec::new();
    for position in 0..30 {
        batcher.push(position, &bytes, &mut out);
    }
    out.extend(batcher.cut());
    log.append(out.into_iter().map(|o| o.value));
    // The room is shared with the other partitions.
    (1..4).for_each(|n| log.demux.assigned((Topic::Events, n), 0, None));
    assert!(log.demux.has_room(PLACE));
    log.read();
    assert!(!log.demux.has_room(PLACE));
    let number = log.demux.subscribe(&id("gw/0"), PLACE, 0).unwrap();
    assert!(!log.demux.given_out(PLACE, 5, |_| true));
    log.demux.take(&id("gw/0"), number, usize::MAX).unwrap();
    assert!(log.demux.has_room(PLACE) && log.demux.given_out(PLACE, 5, |_| true));
}

#[test]
fn what_waits_of_all_partitions_stays_in_one_budget_however_many_there_are() {
    for partitions in [1, 40] {
        let mut demux = Demux::default();
        let places: Vec<Place> = (0..partitions).map(|n| (Topic::Events, n)).collect();
        places.iter().for_each(|place| demux.assigned(*place, 0, None));
        for place in &places {
            let mut batcher = Batcher::new(&id(&format!("gw-{}/0", place.1)), ORIGIN, 0);
            let (mut out, mut bytes) = (Vec::new(), Vec::new());
            record(0, 300 << 10).encode(&mut bytes);
            for offset in 0.. {
                batcher.push(offset, &bytes, &mut out);
                let Some(batch) = batcher.cut() else { unreachable!() };
                if !demux.has_room(*place) {
                    break;
                }
                demux.message(*place, offset, &batch.value, |_| *place);
            }
        }
        let most = WAITING_BYTES + places.len() * (301 << 10);
        assert!((WAITING_BYTES..=most).contains(&demux.waiting()), "{partitions}: {}", demux.waiting());
    }
}

#[test]
fn beginnings_of_many_large_records_wait_for_one_that_ends() {
    let mut demux = Demux::default();
    let places: Vec<Place> = (0..8).map(|n| (Topic::Events, n)).collect();
    places.iter().for_each(|place| demux.assigned(*place, 0, None));
    let big = record(0, 15 << 20);
    let mut bytes = Vec::new();
    big.encode(&mut bytes);
    let mut logs: Vec<Vec<Vec<u8>>> = Vec::new();
    for place in &places {
        let (mut batcher, mut out) =
            (Batcher::new(&id(&format!("gw-{:02}/0", place.1)), ORIGIN, 0), Vec::new());
        batcher.push(0, &bytes, &mut out);
        out.extend(batcher.cut());
        logs.push(out.into_iter().map(|o| o.value).collect());
    }
    let mut at = vec![0_usize; places.len()];
    let (mut most, mut got) = (0, 0);
    while got < places.len() {
        let before = at.clone();
        for (n, place) in places.iter().enumerate() {
            if at[n] < logs[n].len() && demux.has_room(*place) {
                demux.message(*place, at[n] as i64, &logs[n][at[n]], |_| *place);
                at[n] += 1;
            }
            most = most.max(demux.waiting());
            if at[n] == logs[n].len() {
                at[n] += 1;
                let stream = id(&format!("gw-{:02}/0", place.1));
                let number = demux.subscribe(&stream, *place, 0).unwrap();
                assert!(demux.take(&stream, number, 1).unwrap().0 == [(0, big.clone())]);
                got += 1;
            }
        }
        assert_ne!(at, before, "nobody can go on");
    }
    assert!(most < WAITING_BYTES + (16 << 20), "{most}");
}
