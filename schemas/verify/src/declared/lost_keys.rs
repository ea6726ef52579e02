//! Which wrapped keys and names can have lain in a hole of a producer's lane of keys.
//!
//! The lane has no row that says at which position the key of a session is. But a producer writes the key of each session
//! there before the session's OPEN goes into its ledger, and the name of a principal right behind the first key that it
//! writes for them in an epoch. So the ledger tells how many records lie before a key at least, and how many behind it,
//! and the commits tell where the lane ends.
//!
//! Invariant: a key or name is accounted for only where its record can have had a position of a hole, and no hole
//! accounts for more records than it has positions. Sessions that several cores may have opened at the same time count as
//! neither before nor behind one another; where the positions of a lane began anew, only the number of records bounds.

use std::collections::{HashMap, HashSet};

use bodycam_lake::layout;
use bodycam_record::{Id16, SessionId};

use super::{Generation, Hole, KEYS};
use crate::commits::Walk;
use crate::fault::{Class, Fault};
use crate::ledger::{End, InLedger, Ledgers};

/// Positions that a record can have had, from the first to the last.
#[derive(Debug, Clone, Copy)]
struct Positions {
    first: i64,
    last: i64,
}

/// Sessions of a producer in the order of their OPENs, and how its lane of keys must look because of them.
struct Lane<'a> {
    sessions: Vec<(SessionId, &'a InLedger)>,
    /// For each number of sessions from the first on: names written with them.
    names: Vec<i64>,
    /// For each number of sessions from the first on: the latest time of an OPEN among them.
    latest: Vec<i64>,
    /// For each session: the earliest time at which it or a later one was begun.
    earliest: Vec<i64>,
    /// Whether one core opened all of them, one after another.
    in_turn: bool,
    /// Where the lane ends, when its positions never began anew.
    end: Option<i64>,
}

/// What a finding says is gone.
struct Lost {
    /// Number of the finding.
    fault: usize,
    /// For each lane that had it, by producer: where. One that had it elsewhere than in a hole would have kept it.
    places: Vec<(String, Positions)>,
}

/// For each finding of a key or a name that is gone, the hole that accounts for it, if one does.
pub(super) fn accounted<'h, 'a>(
    holes: &'h [Hole<'a>],
    walk: &Walk,
    ledgers: &Ledgers,
    faults: &[Fault],
) -> HashMap<usize, &'h Hole<'a>> {
    let holes: Vec<&Hole<'_>> = holes.iter().filter(|hole| hole.stream.lane() == KEYS).collect();
    let mut accounted = HashMap::new();
    if holes.is_empty() {
        return accounted;
    }
    let producers: HashSet<&str> = ledgers.sessions.values().map(|session| &*session.producer).collect();
    let lanes: HashMap<&str, Lane<'_>> =
        producers.into_iter().map(|producer| (producer, Lane::of(producer, walk, ledgers))).collect();
    let mut lost: Vec<Lost> = Vec::new();
    let gone = faults.iter().enumerate().filter(|(_, fault)| fault.class == Class::UndeclaredErasure);
    let (keys, names): (Vec<_>, Vec<_>) = gone.partition(|(_, fault)| fault.session.is_some());
    for (fault, found) in keys {
        let Some(session) = found.session else { continue };
        let Some(lane) = ledgers.sessions.get(&session).map(|s| &*s.producer) else { continue };
        let place = lanes.get(lane).and_then(|lane| lane.key_of(session));
        lost.extend(place.map(|place| Lost { fault, places: vec![(lane.to_owned(), place)] }));
    }
    if !names.is_empty() {
        let mut written: HashMap<String, Vec<(String, Positions)>> = HashMap::new();
        for (producer, lane) in &lanes {
            for (principal, place) in lane.names_of() {
                let of = written.entry(layout::directory_entry(principal)).or_default();
                of.push(((*producer).to_owned(), place));
            }
        }
        for (fault, found) in names {
            let places = found.path.as_ref().and_then(|path| written.remove(path)).unwrap_or_default();
            lost.push(Lost { fault, places });
        }
    }
    // Those that must lie nearest to the beginning first: so as many find room as can.
    lost.sort_by_key(|lost| lost.places.iter().map(|(_, at)| (at.last, at.first)).min());
    let mut room: Vec<i64> = holes.iter().map(|hole| hole.to.saturating_sub(hole.from)).collect();
    for Lost { fault, places } in lost {
        let mut taken = Vec::new();
        for (producer, at) in &places {
            let fits = |(n, hole): &(usize, &&Hole<'_>)| {
                let within = at.first < hole.to && at.last >= hole.from;
                let has_room = room.get(*n).is_some_and(|room| *room > 0);
                hole.stream.producer() == producer && within && has_room
            };
            let first = holes.iter().enumerate().filter(fits).min_by_key(|(_, hole)| hole.from);
            taken.extend(first.map(|(n, _)| n));
        }
        if taken.len() != places.len() {
            continue;
        }
        for n in &taken {
            room.iter_mut().skip(*n).take(1).for_each(|room| *room -= 1);
        }
        if let Some(hole) = taken.first().and_then(|n| holes.get(*n)) {
            accounted.insert(fault, *hole);
        }
    }
    accounted
}

impl<'a> Lane<'a> {
    fn of(producer: &str, walk: &Walk, ledgers: &'a Ledgers) -> Self {
        let of_producer = ledgers.sessions.iter().filter(|(_, session)| *session.producer == *producer);
        let mut sessions: Vec<_> = of_producer.map(|(id, session)| (*id, session)).collect();
        sessions.sort_by_key(|(_, session)| session.open_seq);
        let (mut names, mut latest) = (vec![0], vec![i64::MIN]);
        let mut named = HashSet::new();
        for (_, session) in &sessions {
            let before = names.last().copied().unwrap_or(0);
            names.push(before + i64::from(named.insert((session.epoch, session.principal_ref))));
            latest.push(latest.last().copied().unwrap_or(i64::MIN).max(session.opened_ns));
        }
        let mut earliest: Vec<i64> = sessions.iter().map(|(id, _)| begun_ns(*id)).collect();
        for n in (1..earliest.len()).rev() {
            let later = earliest.get(n).copied().unwrap_or(i64::MAX);
            earliest.iter_mut().skip(n - 1).take(1).for_each(|own| *own = later.min(*own));
        }
        let is_lane = |g: &&Generation| g.stream.producer() == producer;
        let cores: HashSet<&str> = walk
            .generations
            .iter()
            .filter(is_lane)
            .map(|g| g.stream.lane())
            .filter(|lane| lane.parse::<u16>().is_ok())
            .collect();
        let mut out = Self { sessions, names, latest, earliest, in_turn: cores.len() <= 1, end: None };
        out.end = end_of(producer, walk).filter(|end| out.records() <= *end);
        out
    }

    /// Records that the sessions had written.
    fn records(&self) -> i64 {
        count(self.sessions.len()).saturating_add(self.names.last().copied().unwrap_or(0))
    }

    /// Where the key of a session can have lain.
    fn key_of(&self, session: SessionId) -> Option<Positions> {
        self.sessions.iter().position(|(id, _)| *id == session).and_then(|n| self.key(n))
    }

    fn key(&self, n: usize) -> Option<Positions> {
        let (id, session) = self.sessions.get(n)?;
        let Some(end) = self.end else { return Some(Positions { first: 0, last: i64::MAX }) };
        let (before, behind) = match self.in_turn {
            true => (n, n + 1),
            false => {
                // Begun after all of these had been opened; and those that were begun after it had been.
                let before = self.latest.partition_point(|opened| *opened < begun_ns(*id)).saturating_sub(1);
                let behind = self.earliest.partition_point(|begun| *begun <= session.opened_ns);
                (before.min(n), behind.max(n + 1))
            }
        };
        let names_before = |n: usize| self.names.get(n).copied().unwrap_or(0);
        // Its own name, if it was the first, lies behind it, too; of several at the same time nobody knows which was.
        let named_from = if self.in_turn { n } else { behind };
        let names_behind = self.names.last().copied().unwrap_or(0) - names_before(named_from);
        let keys_behind = count(self.sessions.len().saturating_sub(behind));
        Some(Positions {
            first: count(before) + names_before(before),
            last: end - 1 - keys_behind - names_behind,
        })
    }

    /// Every name that was written, as often as it was: right behind the first key of the principal in an epoch. Of
    /// sessions that go on it can still be on its way.
    fn names_of(&self) -> Vec<(Id16, Positions)> {
        let mut written: HashMap<(i64, Id16), (bool, Positions)> = HashMap::new();
        for (n, (_, session)) in self.sessions.iter().enumerate() {
            let Some(key) = self.key(n) else { continue };
            let own = Positions { first: key.first.saturating_add(1), last: key.last.saturating_add(1) };
            let ended = !matches!(session.end, End::Open);
            let known = written.entry((session.epoch, session.principal_ref)).or_insert((ended, own));
            *known = (
                known.0 || ended,
                Positions { first: known.1.first.min(own.first), last: known.1.last.min(own.last) },
            );
        }
        let ended = written.into_iter().filter(|(_, (ended, _))| *ended);
        ended.map(|((_, principal), (_, at))| (principal, at)).collect()
    }
}

/// Where the lane of keys of a producer ends; none when its positions began anew, or nothing is known of it.
fn end_of(producer: &str, walk: &Walk) -> Option<i64> {
    let is_it = |g: &&Generation| g.stream.producer() == producer && g.stream.lane() == KEYS;
    let mut generations: Vec<&Generation> = walk.generations.iter().filter(is_it).collect();
    generations.sort_by_key(|g| g.generation);
    let goes_on = generations.iter().zip(generations.iter().skip(1)).all(|(one, next)| next.from >= one.end);
    let end = generations.last().map(|g| g.end).filter(|_| goes_on)?;
    i64::try_from(end).ok()
}

/// When a session was begun, before its key was written, Unix ns: its id says so in milliseconds.
fn begun_ns(id: SessionId) -> i64 {
    let millis = id.0.iter().take(6).fold(0i64, |millis, byte| (millis << 8) | i64::from(*byte));
    millis.saturating_mul(1_000_000)
}

fn count(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use bodycam_record::Digest;

    use super::*;

    /// Splitmix64: chance that repeats.
    fn chance(state: &mut u64) -> u64 {
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = *state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn generation(lane: &str, from: u64, end: u64) -> Generation {
        let (stated, first) = (HashMap::new(), HashMap::new());
        let stream = format!("gw/{lane}").parse().unwrap();
        Generation { stream, generation: from, from, end, stated, first, ledger: None }
    }

    /// Where each key and name lies, and what commits and ledger say.
    struct Recorded {
        keys: Vec<(SessionId, i64)>,
        names: Vec<(Id16, i64)>,
        walk: Walk,
        ledgers: Ledgers,
    }

    /// Sessions of some cores.
    fn recorded(seed: u64, cores: u64) -> Recorded {
        let mut state = seed;
        let mut sessions = Vec::new();
        for core in 0..cores {
            let mut now = 1_000_000_000_000i64;
            for n in 0..40 {
                let mut step = || i64::try_from(chance(&mut state) % 3_000_000).unwrap();
                now += step();
                let begun = now;
                let written = begun + step();
                let opened = written + step();
                now = opened;
                let mut random = [0; 10];
                random[0] = core as u8;
                random[1] = n;
                let id = SessionId::new(u64::try_from(begun / 1_000_000).unwrap(), random);
                let principal = Id16([(chance(&mut state) % 9) as u8; 16]);
                sessions.push((id, written, opened, principal));
            }
        }
        let mut ledgers = Ledgers::default();
        sessions.sort_by_key(|(_, _, opened, _)| *opened);
        for (seq, (id, _, opened, principal_ref)) in sessions.iter().enumerate() {
            let session = InLedger {
                producer: "gw".into(),
                epoch: i64::from(seq > 70),
                open_seq: count(seq),
                opened_ns: *opened,
                genesis: Digest::ZERO,
                key_digest: Digest::ZERO,
                principal_ref: *principal_ref,
                target: String::new(),
                end: End::Abandoned("for this test"),
                heartbeat: None,
            };
            ledgers.sessions.insert(*id, session);
        }
        sessions.sort_by_key(|(_, written, ..)| *written);
        let (mut keys, mut names, mut named, mut position) = (Vec::new(), Vec::new(), HashSet::new(), 0);
        for (id, _, _, principal) in &sessions {
            // What was written for one whose OPEN was not.
            position += i64::from(chance(&mut state).is_multiple_of(20));
            keys.push((*id, position));
            position += 1;
            if named.insert((ledgers.sessions[id].epoch, *principal)) {
                names.push((*principal, position));
                position += 1;
            }
        }
        let mut walk = Walk::default();
        walk.generations = (0..cores).map(|core| generation(&core.to_string(), 0, 9)).collect();
        walk.generations.push(generation(KEYS, 0, position as u64));
        Recorded { keys, names, walk, ledgers }
    }

    #[test]
    fn a_key_and_a_name_lie_within_the_positions_that_are_said_and_these_are_few() {
        for (seed, cores) in (0..60).map(|seed| (seed, 1 + seed % 4)) {
            let Recorded { keys, names, walk, ledgers } = recorded(seed, cores);
            let lane = Lane::of("gw", &walk, &ledgers);
            for (id, position) in keys {
                let at = lane.key_of(id).unwrap();
                assert!((at.first..=at.last).contains(&position), "seed {seed}: {position} in {at:?}");
                // Other cores open a few meanwhile, and some records have no OPEN.
                assert!(at.last - at.first < 60, "seed {seed}: {at:?}");
            }
            let said = lane.names_of();
            assert_eq!(said.len(), names.len());
            for (principal, position) in names {
                let within = |(of, at): &(Id16, Positions)| {
                    *of == principal && (at.first..=at.last).contains(&position)
                };
                assert!(said.iter().any(within), "seed {seed}: {position} in {said:?}");
            }
        }
    }

    #[test]
    fn positions_that_began_anew_say_nothing() {
        let Recorded { keys, mut walk, ledgers, .. } = recorded(7, 1);
        walk.generations.push(Generation { generation: 5, ..generation(KEYS, 1, 400) });
        let at = Lane::of("gw", &walk, &ledgers).key_of(keys[3].0).unwrap();
        assert_eq!((at.first, at.last), (0, i64::MAX));
    }
}
