//! What comes from partitions, sorted into streams: by position, each record once, no gap passed over.
//!
//! Pure: the reader's thread feeds it, subscriptions take from it. Where to read is decided here, too: an offset that
//! the group has committed is a place to begin when the lake is shown to hold what lies before it ([`Claim`]), and
//! when a reader wants what lies before, the partition is read again from where the oldest unreleased message lies,
//! and then from its start, before the stream counts as cut.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bodycam_record::Id16;

use super::Place;
use super::batch::Incoming;
use super::claim::{self, Claim, Seen};
use crate::{BusError, Held, Record, StreamId};

/// Bytes of all partitions that wait for their readers: each has an equal share, beyond which no more is read from it
/// (a message more, at most). Fixed shares, so that a ledger never fills the room of the streams that it waits for.
pub(super) const WAITING_BYTES: usize = 64 << 20;

/// The streams of the partitions that are read.
#[derive(Debug, Default)]
pub(super) struct Demux {
    partitions: BTreeMap<Place, Partition>,
    feeds: BTreeMap<StreamId, Feed>,
    /// What the lake holds; none before it has been said.
    held: Option<BTreeMap<StreamId, Held>>,
    /// Whether that is to be said again, because partitions came that others may have read since.
    asks: bool,
    /// Streams that nobody is going to read.
    parked: BTreeSet<StreamId>,
    subscriptions: u64,
    /// Messages that were no batches of ours.
    pub foreign: u64,
    /// Records dropped because they came again.
    pub repeated: u64,
    /// Messages taken.
    pub messages: u64,
}

#[derive(Debug)]
struct Partition {
    /// Offset after the last message taken.
    read_to: i64,
    /// Whether it is read from the first message that it has.
    whole: bool,
    /// Where it is to be read again from, before anything else is taken.
    rewind: Option<Rewind>,
    /// Digest of the message at `read_to`, when it is one that must be there.
    expected: Option<Expected>,
    /// What the lake was shown to hold before the place where reading began.
    claimed: claim::Streams,
    /// The messages that were read last.
    seen: Seen,
}

/// A message that must be where it was, or the log is another one of the same name.
#[derive(Debug, Clone, Copy)]
struct Expected {
    digest: u32,
    /// Whether it may have been removed since: what was read is known then, what is claimed is not.
    may_be_gone: bool,
}

/// Where to read again from; the lesser of two serves both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rewind {
    /// The first message that the partition has.
    Start,
    /// An offset.
    To(i64),
}

/// Records with their positions, and the position after them; none when there are none.
pub(super) type Given = (Vec<(i64, Record)>, Option<i64>);

/// One stream.
#[derive(Debug)]
struct Feed {
    place: Place,
    origin: Option<Id16>,
    /// First position that is neither in the queue nor given out.
    next: i64,
    /// First position from which the queue has everything.
    start: i64,
    queue: VecDeque<Item>,
    bytes: usize,
    /// The beginning of a record that came in pieces, and the offset of the first.
    partial: Option<Partial>,
    /// Given out and not released: offset of a message, and the position that releases it.
    unreleased: VecDeque<(i64, i64)>,
    /// Everything before it rests in the lake.
    released: i64,
    /// Why it does not go on, and at which message.
    failed: Option<(Failure, i64)>,
    /// Number of its subscription; 0 for none.
    subscription: u64,
    /// Whether anything was given out or passed over: then what came before lies in the log alone.
    given: bool,
    /// How far it was read again from for this subscription.
    tried: Tried,
}

#[derive(Debug)]
struct Partial {
    position: i64,
    offset: i64,
    bytes: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tried {
    Nothing,
    Unreleased,
    Start,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Failure {
    /// Its reader is gone.
    Left,
    Truncated {
        first: i64,
        wanted: i64,
    },
    Recreated {
        known: Id16,
        found: Id16,
    },
    Undecodable {
        position: i64,
        source: bodycam_record::canonical::DecodeError,
    },
}

#[derive(Debug)]
struct Item {
    offset: i64,
    position: i64,
    /// Position of the next record.
    after: i64,
    bytes: usize,
    record: Record,
}

impl Demux {
    /// The lake holds this. What was said before of other streams stays.
    pub fn holds(&mut self, held: BTreeMap<StreamId, Held>) {
        self.held.get_or_insert_default().extend(held);
        self.asks = false;
    }

    /// The lake holds this of one stream.
    pub fn goes_on(&mut self, stream: &StreamId, held: Held) {
        self.held.get_or_insert_default().insert(stream.clone(), held);
    }

    /// Wants to be told again what the lake holds.
    pub fn ask(&mut self) {
        self.asks = true;
    }

    /// Whether it waits to be told again.
    pub fn asks(&self) -> bool {
        self.asks
    }

    /// What the lake holds; none before it has been said, and while it is to be said again.
    pub fn held(&self) -> Option<&BTreeMap<StreamId, Held>> {
        self.held.as_ref().filter(|_| !self.asks)
    }

    /// A partition is this reader's from now on, and is read from `offset`: its first message, or the last one before
    /// an offset with a claim that the lake holds.
    pub fn assigned(&mut self, place: Place, offset: i64, claim: Option<Claim>) {
        let believed =
            |claim: Claim| (Some(Expected { digest: claim.last, may_be_gone: false }), claim.streams);
        let (expected, claimed) = claim.map(believed).unwrap_or_default();
        let partition = Partition {
            read_to: offset,
            whole: expected.is_none(),
            rewind: None,
            expected,
            claimed,
            seen: Seen::default(),
        };
        self.partitions.insert(place, partition);
    }

    /// Partitions are someone else's from now on: what they gave and is not committed is theirs to read. All at once, so
    /// that nobody takes what is left of a producer for the whole of it.
    pub fn revoked(&mut self, places: &[Place]) {
        self.partitions.retain(|place, _| !places.contains(place));
        self.feeds.retain(|_, feed| !places.contains(&feed.place));
    }

    /// The partitions that are read.
    pub fn places(&self) -> impl Iterator<Item = Place> {
        self.partitions.keys().copied()
    }

    /// Whether a partition is read.
    pub fn has(&self, place: Place) -> bool {
        self.partitions.contains_key(&place)
    }

    /// Bytes that wait for readers of all partitions, beginnings of records among them.
    pub fn waiting(&self) -> usize {
        self.feeds.values().map(|feed| feed.bytes + feed.begun()).sum()
    }

    /// Whether more of a partition can be taken now.
    pub fn has_room(&self, place: Place) -> bool {
        let share = WAITING_BYTES / self.partitions.len().max(1);
        let waiting: usize = self.feeds.values().filter(|f| f.place == place).map(|f| f.bytes).sum();
        // Nobody can take the beginning of a record. When there are too many of them, one partition goes on alone.
        let begun: usize = self.feeds.values().map(Feed::begun).sum();
        let first = self.feeds.values().find(|feed| feed.partial.is_some()).map(|feed| feed.place);
        waiting < share && (begun < WAITING_BYTES || first == Some(place))
    }

    /// Where the partition is to be read again from, if it is.
    pub fn rewind(&self, place: Place) -> Option<Rewind> {
        self.partitions.get(&place)?.rewind
    }

    /// The partition is read again, from `offset`, as `served` wanted. What was wanted meanwhile is still to be served.
    pub fn rewound(&mut self, place: Place, served: Rewind, offset: i64, whole: bool) {
        let Some(partition) = self.partitions.get_mut(&place) else { return };
        partition.read_to = offset;
        partition.whole |= whole;
        partition.expected = None;
        partition.seen.forget_from(offset);
        if partition.rewind == Some(served) {
            partition.rewind = None;
        }
        // What nobody reads yet comes again, and possibly what lay before it.
        self.feeds.retain(|_, feed| feed.place != place || feed.subscription != 0);
    }

    /// Offset of the message that was read last, when it can be looked whether it is still there.
    pub fn last(&self, place: Place) -> Option<i64> {
        let partition = self.partitions.get(&place)?;
        let last = partition.read_to.checked_sub(1)?;
        partition.seen.digest(last).filter(|_| partition.rewind.is_none() && partition.expected.is_none())?;
        Some(last)
    }

    /// The partition is read again from the message at `last`, which was read last: a log that was made anew and has grown
    /// beyond it shows by that alone.
    pub fn look_again(&mut self, place: Place, last: i64) {
        let Some(partition) = self.partitions.get_mut(&place) else { return };
        let Some(digest) = partition.seen.digest(last) else { return };
        partition.seen.forget_from(last);
        partition.read_to = last;
        partition.expected = Some(Expected { digest, may_be_gone: true });
    }

    /// Takes a message.
    pub fn message(&mut self, place: Place, offset: i64, value: &[u8], belongs: impl Fn(&StreamId) -> Place) {
        let Some(partition) = self.partitions.get_mut(&place) else { return };
        // One that came while the partition is to be read again comes again.
        if partition.rewind.is_some() {
            return;
        }
        if offset < partition.read_to {
            self.replaced(place, offset);
            return;
        }
        let digest = crc32c::crc32c(value);
        let mut expected = partition.expected.take();
        if expected.is_some_and(|expected| expected.may_be_gone && offset > partition.read_to) {
            expected = None;
        }
        if expected.is_some_and(|expected| (offset, digest) != (partition.read_to, expected.digest)) {
            self.replaced(place, offset);
            return;
        }
        partition.read_to = offset.saturating_add(1);
        partition.seen.push(offset, digest);
        self.messages += 1;
        if expected.is_some() {
            // It was read before, here or by who claims that.
            return;
        }
        let batch = Incoming::decode(value).and_then(|batch| match belongs(&batch.stream) == place {
            true => Ok(batch),
            false => Err(format!("stream {} does not belong here", batch.stream)),
        });
        match batch {
            Ok(batch) => self.batch(place, offset, batch),
            Err(why) => {
                // If it was one of ours, its stream goes on with a gap, which is refused.
                self.foreign += 1;
                tracing::error!(
                    event = "kafka_foreign_message",
                    topic = place.0.suffix(),
                    partition = place.1,
                    offset,
                    why,
                    "a message that no gateway sends was passed over"
                );
            }
        }
    }

    /// Nobody has sought this offset, and it lies before what was read: the topic is another one under the same name.
    fn replaced(&mut self, place: Place, offset: i64) {
        let Some(partition) = self.partitions.get_mut(&place) else { return };
        tracing::error!(
            event = "kafka_log_replaced",
            topic = place.0.suffix(),
            partition = place.1,
            offset,
            read_to = partition.read_to,
            "the partition begins anew: the topic was deleted and made again; it is read from its start"
        );
        partition.rewind = Some(Rewind::Start);
        (partition.claimed, partition.seen) = Default::default();
        for feed in self.feeds.values_mut().filter(|feed| feed.place == place) {
            feed.log_replaced();
        }
    }

    fn batch(&mut self, place: Place, offset: i64, batch: Incoming) {
        let held = self.held.as_ref().and_then(|held| held.get(&batch.stream));
        if held.is_some_and(|held| held.has_in_older(batch.origin, batch.to)) {
            self.repeated += batch.entries.iter().filter(|entry| !entry.more).count() as u64;
            return;
        }
        let feed = self.feeds.entry(batch.stream.clone()).or_insert_with(|| {
            tracing::debug!(event = "kafka_stream", stream = %batch.stream, position = batch.from, offset, "a stream is on the bus");
            Feed::new(place, batch.from)
        });
        if feed.failed.is_some() {
            return;
        }
        // Who reads it wants it to go on as the lake has it; who is to begin looks at what is here.
        let wanted = held.and_then(|held| held.origin).filter(|_| feed.subscription != 0);
        match feed.origin.or(wanted) {
            Some(known) if known != batch.origin => {
                feed.fail(Failure::Recreated { known, found: batch.origin }, offset);
                return;
            }
            _ => feed.origin = Some(batch.origin),
        }
        if self.parked.contains(&batch.stream) {
            feed.leave(offset);
            return;
        }
        if batch.from > feed.next {
            let whole = self.partitions.get(&place).is_some_and(|partition| partition.whole);
            match feed.look_back(whole, offset) {
                Some(target) => self.look_back(place, &batch.stream, target),
                None => {
                    if let Some(feed) = self.feeds.get_mut(&batch.stream) {
                        let failure = Failure::Truncated { first: batch.from, wanted: feed.next };
                        feed.fail(failure, offset);
                    }
                }
            }
            return;
        }
        feed.take(offset, batch, &mut self.repeated);
    }

    fn look_back(&mut self, place: Place, stream: &StreamId, target: Tried) {
        let floor = self.floor(place);
        let Some(feed) = self.feeds.get_mut(stream) else { return };
        feed.tried = target;
        feed.partial = None;
        if let Some(partition) = self.partitions.get_mut(&place) {
            partition.read_again(match (target, floor) {
                (Tried::Unreleased, Some(floor)) => Rewind::To(floor),
                _ => Rewind::Start,
            });
        }
    }

    /// Offset before which everything of the partition is released; none when it is to be read again from its start.
    pub fn floor(&self, place: Place) -> Option<i64> {
        let partition = self.partitions.get(&place)?;
        let limit = match partition.rewind {
            Some(Rewind::Start) => return None,
            Some(Rewind::To(offset)) => partition.read_to.min(offset),
            None => partition.read_to,
        };
        let of_place = self.feeds.values().filter(|f| f.place == place);
        Some(of_place.filter_map(Feed::floor).min().map_or(limit, |floor| floor.min(limit)))
    }

    /// An offset to commit before which everything of the partition is released, and the claim that goes with it; none
    /// when there is none yet.
    pub fn bookmark(&mut self, place: Place) -> Option<(i64, Claim)> {
        let floor = self.floor(place)?;
        let partition = self.partitions.get_mut(&place)?;
        let (before, last) = partition.seen.last_before(floor)?;
        let mut streams = partition.claimed.clone();
        for (stream, feed) in self.feeds.iter().filter(|(_, f)| f.place == place && f.subscription != 0) {
            if let Some(origin) = feed.origin {
                streams.insert(stream.clone(), (claim::beginning(origin), feed.released));
            }
        }
        Some((before.saturating_add(1), Claim { last, streams }))
    }

    /// The streams that are known.
    pub fn streams(&self) -> Vec<StreamId> {
        self.feeds.keys().cloned().collect()
    }

    /// The origin of a stream; of one that begins anew, that of what comes next, once the lake holds all that was before.
    pub fn origin(&self, stream: &StreamId) -> Option<Id16> {
        let feed = self.feeds.get(stream)?;
        match feed.failed {
            Some((Failure::Recreated { found, .. }, _)) if feed.floor_of_records().is_none() => Some(found),
            _ => feed.origin,
        }
    }

    /// A reader wants `stream` from `from` on. Gives the number of the subscription.
    pub fn subscribe(&mut self, stream: &StreamId, place: Place, from: i64) -> Result<u64, BusError> {
        let Some(partition) = self.partitions.get(&place) else {
            return Err(BusError::Revoked { stream: stream.to_string() });
        };
        self.parked.remove(stream);
        self.subscriptions += 1;
        let number = self.subscriptions;
        let whole = partition.whole;
        let known = self.feeds.contains_key(stream);
        let feed = self.feeds.entry(stream.clone()).or_insert_with(|| Feed::new(place, from));
        if known && from < feed.start && whole && !feed.given {
            return Err(BusError::Truncated { stream: stream.to_string(), first: feed.start, wanted: from });
        }
        let newest = self.held.as_ref().and_then(|held| held.get(stream)?.origin);
        if let Some((Failure::Recreated { found, .. }, at)) = feed.failed
            && newest == Some(found)
        {
            // It goes on as a new generation, from the message that showed it.
            *feed = Feed { origin: newest, subscription: number, released: from, ..Feed::new(place, from) };
            if let Some(partition) = self.partitions.get_mut(&place) {
                partition.read_again(Rewind::To(at));
            }
            return Ok(number);
        }
        feed.subscription = number;
        feed.tried = Tried::Nothing;
        feed.released = from;
        let left = matches!(feed.failed, Some((Failure::Left, _)));
        let cut = left || matches!(feed.failed, Some((Failure::Truncated { .. }, _)));
        if known && from >= feed.start && !cut {
            while feed.queue.front().is_some_and(|item| item.position < from) {
                drop(feed.pop_front());
                feed.given = true;
            }
            feed.start = from;
            feed.next = feed.next.max(from);
            if feed.partial.as_ref().is_some_and(|begun| begun.position < feed.next) {
                feed.partial = None;
            }
            return Ok(number);
        }
        let target = match feed.unreleased.is_empty() {
            false => Tried::Unreleased,
            true if left => Tried::Unreleased,
            true if known || !whole => Tried::Start,
            true => return Ok(number),
        };
        // In this order: what is not released says where to look.
        self.look_back(place, stream, target);
        if let Some(feed) = self.feeds.get_mut(stream) {
            feed.queue.clear();
            feed.unreleased.clear();
            (feed.bytes, feed.start, feed.next) = (0, from, from);
            // It comes again.
            feed.failed = None;
        }
        Ok(number)
    }

    /// What a subscription can have now: at least one record if there is any, and about `max_bytes`; and the
    /// position of the next.
    pub fn take(
        &mut self,
        stream: &StreamId,
        subscription: u64,
        max_bytes: usize,
    ) -> Result<Given, BusError> {
        let feed = self.feeds.get_mut(stream).filter(|feed| feed.subscription == subscription);
        let Some(feed) = feed else { return Err(BusError::Revoked { stream: stream.to_string() }) };
        let (mut records, mut taken, mut after) = (Vec::new(), 0, None);
        while taken < max_bytes
            && let Some(item) = feed.pop_front()
        {
            taken += item.bytes;
            after = Some(item.after);
            (feed.start, feed.given) = (item.after, true);
            match feed.unreleased.back_mut().filter(|(offset, _)| *offset == item.offset) {
                Some((_, released_by)) => *released_by = item.after,
                None => feed.unreleased.push_back((item.offset, item.after)),
            }
            records.push((item.position, item.record));
        }
        match &feed.failed {
            Some((failure, _)) if records.is_empty() => Err(failure.error(stream)),
            _ => Ok((records, after)),
        }
    }

    /// The reader of a subscription is gone: what waits for it is forgotten, and is read again for the next one.
    pub fn leave(&mut self, stream: &StreamId, subscription: u64) {
        let Some(feed) = self.feeds.get_mut(stream).filter(|feed| feed.subscription == subscription) else {
            return;
        };
        if feed.failed.is_some() && feed.queue.is_empty() {
            return;
        }
        let read_to = self.partitions.get(&feed.place).map_or(0, |partition| partition.read_to);
        feed.leave(read_to);
    }

    /// Nobody is going to read the stream: nothing waits for it, and the offset stays before what it has.
    pub fn park(&mut self, stream: &StreamId) {
        self.parked.insert(stream.clone());
        let subscription = self.feeds.get(stream).map_or(0, |feed| feed.subscription);
        self.leave(stream, subscription);
    }

    /// Everything of `stream` before `to` rests in the lake.
    pub fn release(&mut self, stream: &StreamId, to: i64) {
        let Some(feed) = self.feeds.get_mut(stream) else { return };
        feed.released = feed.released.max(to);
        if let Some(held) = &mut self.held {
            let held = held.entry(stream.clone()).or_default();
            held.position = held.position.max(to);
            held.origin = held.origin.or(feed.origin);
        }
        while feed.unreleased.front().is_some_and(|(_, released_by)| *released_by <= to) {
            feed.unreleased.pop_front();
        }
    }

    /// Whether everything of the streams in `scope` that lay in the partition before `end` was given out. One that
    /// cannot go on never gives it.
    pub fn given_out(&self, place: Place, end: i64, scope: impl Fn(&StreamId) -> bool) -> bool {
        // A partition that is someone else's now gives nothing more here.
        let Some(partition) = self.partitions.get(&place) else { return true };
        let waits = |(stream, feed): (&StreamId, &Feed)| {
            let failed = feed.failed.as_ref().is_some_and(|(_, offset)| *offset < end);
            let waiting = feed.queue.front().is_some_and(|item| item.offset < end);
            feed.place == place && scope(stream) && (failed || waiting)
        };
        partition.rewind.is_none() && partition.read_to >= end && !self.feeds.iter().any(waits)
    }
}

impl Partition {
    /// Wants it read again, besides what is wanted already.
    fn read_again(&mut self, wanted: Rewind) {
        self.rewind = Some(self.rewind.map_or(wanted, |pending| pending.min(wanted)));
    }
}

impl Feed {
    fn new(place: Place, next: i64) -> Self {
        Self {
            place,
            origin: None,
            next,
            start: next,
            queue: VecDeque::new(),
            bytes: 0,
            partial: None,
            unreleased: VecDeque::new(),
            released: 0,
            failed: None,
            subscription: 0,
            given: false,
            tried: Tried::Nothing,
        }
    }

    fn fail(&mut self, failure: Failure, offset: i64) {
        self.partial = None;
        self.failed = Some((failure, offset));
    }

    /// Nobody reads it now: what waits is read again for who comes next, from `read_to` at the latest.
    fn leave(&mut self, read_to: i64) {
        let at = self.floor().map_or(read_to, |floor| floor.min(read_to));
        self.queue.clear();
        self.bytes = 0;
        self.given = true;
        self.fail(Failure::Left, at);
    }

    /// What to read again for records that lie before the message at `offset`; nothing when all was read.
    fn look_back(&self, whole: bool, offset: i64) -> Option<Tried> {
        let unreleased = self.unreleased.front().is_some_and(|(first, _)| *first < offset);
        match self.tried {
            Tried::Start => None,
            _ if whole && !self.given => None,
            Tried::Nothing if unreleased => Some(Tried::Unreleased),
            _ => Some(Tried::Start),
        }
    }

    /// Takes the entries of a batch that begins no later than the next position.
    fn take(&mut self, offset: i64, batch: Incoming, repeated: &mut u64) {
        let last = batch.entries.len().saturating_sub(1);
        for (n, entry) in batch.entries.into_iter().enumerate() {
            if entry.position < self.next {
                *repeated += u64::from(!entry.more);
                continue;
            }
            let (offset, whole) = match self.partial.take() {
                _ if entry.at == 0 => (offset, entry.bytes),
                Some(mut begun) if begun.position == entry.position && begun.bytes.len() == entry.at => {
                    begun.bytes.extend_from_slice(&entry.bytes);
                    (begun.offset, begun.bytes)
                }
                // A piece whose beginning is not there: that record was cut off.
                _ => {
                    let failure =
                        Failure::Truncated { first: entry.position.saturating_add(1), wanted: self.next };
                    self.fail(failure, offset);
                    return;
                }
            };
            if entry.more {
                self.partial = Some(Partial { position: entry.position, offset, bytes: whole });
                continue;
            }
            let after = if n == last { batch.to } else { entry.position.saturating_add(1) };
            match Record::decode(&whole) {
                Ok(record) => {
                    let bytes = whole.len().saturating_add(96);
                    self.bytes += bytes;
                    self.queue.push_back(Item { offset, position: entry.position, after, bytes, record });
                    self.next = after;
                }
                Err(source) => {
                    self.fail(Failure::Undecodable { position: entry.position, source }, offset);
                    return;
                }
            }
        }
        self.next = self.next.max(batch.to);
    }

    /// Offsets of before mean nothing now, and there is nothing to look back to.
    fn log_replaced(&mut self) {
        self.tried = Tried::Start;
        self.partial = None;
        self.unreleased.clear();
        self.queue.iter_mut().for_each(|item| item.offset = 0);
        if let Some((_, offset)) = &mut self.failed {
            *offset = 0;
        }
    }

    /// Bytes of a record whose end has not come.
    fn begun(&self) -> usize {
        self.partial.as_ref().map_or(0, |begun| begun.bytes.len())
    }

    fn pop_front(&mut self) -> Option<Item> {
        let item = self.queue.pop_front()?;
        self.bytes -= item.bytes;
        Some(item)
    }

    /// Offset of the first message that is not released.
    fn floor(&self) -> Option<i64> {
        let failed = self.failed.as_ref().map(|(_, offset)| *offset);
        [self.floor_of_records(), failed].into_iter().flatten().min()
    }

    /// Offset of the first message with a record that was taken and is not released.
    fn floor_of_records(&self) -> Option<i64> {
        let given = self.unreleased.front().map(|(offset, _)| *offset);
        let waiting = self.queue.front().map(|item| item.offset);
        let partial = self.partial.as_ref().map(|begun| begun.offset);
        [given, waiting, partial].into_iter().flatten().min()
    }
}

impl Failure {
    fn error(&self, stream: &StreamId) -> BusError {
        let stream = stream.to_string();
        match self.clone() {
            Failure::Left => BusError::Revoked { stream },
            Failure::Truncated { first, wanted } => BusError::Truncated { stream, first, wanted },
            Failure::Recreated { known, found } => {
                BusError::Recreated { stream, known: known.to_string(), found: found.to_string() }
            }
            Failure::Undecodable { position, source } => BusError::Decode { stream, position, source },
        }
    }
}

#[cfg(test)]
mod tests;
