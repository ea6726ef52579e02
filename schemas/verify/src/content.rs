//! Content against the commitments of its events. With the tenant key every chunk is opened and every
//! commitment recomputed; without it, it is only seen whether what an event commits to is there.
//!
//! Content without an event is no fault: a crash can come between the rows of a result and its event.

use std::collections::{BTreeMap, HashMap, HashSet};

use bodycam_record::canonical::{DecodeError, Writer};
use bodycam_record::{Digest, SealedChunk, SessionId, SessionKey, digest};

use crate::fault::{Class, Fault};

/// The end of what is said of content whose chunks do not make its commitment.
pub const NOT_WHOLE: &str = "altered, or not whole";

/// What a file says about content.
#[derive(Debug, Default)]
pub struct ContentFacts {
    /// Numbers of contents that events commit to, when nothing is opened.
    committed: HashMap<SessionId, Ranges>,
    /// Numbers of contents that are there, when nothing is opened.
    there: HashMap<SessionId, Ranges>,
    /// Commitments, when content is opened: session, number, event, commitment.
    commitments: Vec<(SessionId, i64, i64, Digest)>,
    /// Opened chunks: session, number, index and part of the commitment.
    parts: Vec<(SessionId, i64, u32, Part)>,
    /// Sessions whose content could not be opened, for want of a key.
    closed: HashSet<SessionId>,
    /// Salt of the content of the last chunk.
    salt: Option<(SessionId, i64, [u8; 32])>,
}

/// What a chunk contributes to a commitment.
#[derive(Debug, Clone, Copy)]
struct Part {
    kind: i64,
    bytes: i64,
    digest: Digest,
    salt: [u8; 32],
}

/// Numbers, as ranges `[from, to)`.
#[derive(Debug, Clone, Default)]
struct Ranges(BTreeMap<i64, i64>);

impl Ranges {
    fn insert(&mut self, from: i64, to: i64) {
        let (mut from, mut to) = (from, to);
        while let Some((f, t)) =
            self.0.range(..=to).next_back().map(|(f, t)| (*f, *t)).filter(|(_, t)| *t >= from)
        {
            self.0.remove(&f);
            (from, to) = (from.min(f), to.max(t));
        }
        self.0.insert(from, to);
    }

    /// How many numbers of `[from, to)` are in here, and the ranges of those that are not.
    fn covers(&self, from: i64, to: i64) -> (u64, Vec<(i64, i64)>) {
        let (mut at, mut missing) = (from, Vec::new());
        let before = self.0.range(..from).next_back();
        for (f, t) in before.into_iter().chain(self.0.range(from..to)) {
            if *f > at {
                missing.push((at, *f));
            }
            at = at.max(*t);
        }
        if at < to {
            missing.push((at, to));
        }
        let absent: i64 = missing.iter().map(|(f, t)| t - f).sum();
        (u64::try_from(to.saturating_sub(from).saturating_sub(absent)).unwrap_or_default(), missing)
    }

    fn has(&self, n: i64) -> bool {
        self.0.range(..=n).next_back().is_some_and(|(_, to)| n < *to)
    }
}

impl ContentFacts {
    /// An event commits to a content.
    pub fn commits(&mut self, session: SessionId, no: i64, seq: i64, commitment: Digest, opened: bool) {
        match opened {
            true => self.commitments.push((session, no, seq, commitment)),
            false => self.committed.entry(session).or_default().insert(no, no.saturating_add(1)),
        }
    }

    /// A chunk of a content is there.
    pub fn is_there(&mut self, session: SessionId, no: i64) {
        self.there.entry(session).or_default().insert(no, no.saturating_add(1));
    }

    /// Content of this session cannot be opened.
    pub fn is_closed(&mut self, session: SessionId) {
        self.closed.insert(session);
    }

    /// Opens a chunk.
    pub fn opened(&mut self, key: &SessionKey, chunk: &SealedChunk) -> Result<(), DecodeError> {
        let (session, no) = (chunk.session, chunk.content_no);
        let opened = chunk.open(key)?;
        let salt = match self.salt {
            Some((s, n, salt)) if (s, n) == (session, no) => salt,
            _ => key.salt(no),
        };
        self.salt = Some((session, no, salt));
        let mut w = Writer::new();
        w.bytes(&salt);
        w.int(chunk.kind);
        w.int(i64::from(chunk.index));
        w.bytes(&opened.bytes);
        let bytes = i64::try_from(opened.bytes.len()).unwrap_or(i64::MAX);
        let part = Part { kind: chunk.kind, bytes, digest: digest::CHUNK.digest(w.as_slice()), salt };
        self.parts.push((session, no, chunk.index, part));
        Ok(())
    }
}

/// Joins what the files say about content.
#[derive(Debug, Default)]
pub struct Contents {
    committed: HashMap<SessionId, Ranges>,
    there: HashMap<SessionId, Ranges>,
    waiting: HashMap<(SessionId, i64), Waiting>,
    settled: HashMap<SessionId, Ranges>,
    closed: HashSet<SessionId>,
    /// Contents whose commitment was recomputed and fits.
    pub verified: u64,
    /// Contents that are there and were not opened.
    pub not_opened: u64,
}

#[derive(Debug, Default)]
struct Waiting {
    commitment: Option<(i64, Digest)>,
    parts: BTreeMap<u32, Part>,
    contradiction: bool,
}

impl Contents {
    /// Takes what a file says.
    pub fn add(&mut self, facts: ContentFacts) {
        for (side, found) in [(&mut self.committed, facts.committed), (&mut self.there, facts.there)] {
            for (session, ranges) in found {
                let all = side.entry(session).or_default();
                ranges.0.iter().for_each(|(from, to)| all.insert(*from, *to));
            }
        }
        self.closed.extend(facts.closed);
        for (session, no, index, part) in facts.parts {
            let waiting = self.waiting.entry((session, no)).or_default();
            let known = waiting.parts.insert(index, part);
            waiting.contradiction |= known.is_some_and(|k| k.digest != part.digest);
            self.settle(session, no);
        }
        for (session, no, seq, commitment) in facts.commitments {
            // A duplicate of an event repeats its commitment.
            if !self.settled.get(&session).is_some_and(|s| s.has(no)) {
                self.waiting.entry((session, no)).or_default().commitment = Some((seq, commitment));
                self.settle(session, no);
            }
        }
    }

    /// Forgets a content that fits.
    fn settle(&mut self, session: SessionId, no: i64) {
        let Some(waiting) = self.waiting.get(&(session, no)) else { return };
        if waiting.commitment.is_some_and(|(_, c)| waiting.fits(c)) {
            self.waiting.remove(&(session, no));
            self.settled.entry(session).or_default().insert(no, no.saturating_add(1));
            self.verified += 1;
        }
    }

    /// What is missing or does not fit. `suspect` sessions have wrong events, whose commitments say nothing.
    pub fn finish(&mut self, suspect: &HashSet<SessionId>) -> Vec<Fault> {
        let mut faults = Vec::new();
        for (session, ranges) in self.committed.iter().filter(|(s, _)| !suspect.contains(s)) {
            let there = self.there.get(session);
            for (from, to) in &ranges.0 {
                let (present, missing) = there.map_or((0, vec![(*from, *to)]), |t| t.covers(*from, *to));
                self.not_opened += present;
                for (from, to) in missing {
                    let detail = match to - from {
                        1 => format!("an event commits to content {from}, of which there is nothing"),
                        _ => {
                            format!("events commit to contents {from}-{}, of which there is nothing", to - 1)
                        }
                    };
                    faults.push(Fault::new(Class::PayloadMissing, detail).of(*session));
                }
            }
        }
        for ((session, no), waiting) in &self.waiting {
            let Some((seq, _)) = waiting.commitment else { continue };
            if self.closed.contains(session) {
                self.not_opened += 1;
            } else if suspect.contains(session) {
                continue;
            } else if waiting.parts.is_empty() {
                let detail = format!("the event commits to content {no}, of which there is nothing");
                faults.push(Fault::new(Class::PayloadMissing, detail).of(*session).seq(seq));
            } else {
                let how =
                    if waiting.contradiction { "two different chunks with one number" } else { NOT_WHOLE };
                let detail = format!("content {no} is not what the event commits to: {how}");
                faults.push(Fault::new(Class::Payload, detail).of(*session).seq(seq));
            }
        }
        faults
    }
}

impl Waiting {
    /// Whether the chunks from 0 on, without a hole, make this commitment.
    fn fits(&self, commitment: Digest) -> bool {
        let Some(first) = self.parts.first_key_value().map(|(_, p)| *p) else { return false };
        let holed = self.parts.keys().zip(0u32..).any(|(index, n)| *index != n);
        if holed || self.contradiction {
            return false;
        }
        let mut w = Writer::new();
        w.bytes(&first.salt);
        w.int(i64::try_from(self.parts.len()).unwrap_or(i64::MAX));
        for part in self.parts.values() {
            w.int(part.kind);
            w.int(part.bytes);
            w.bytes(&part.digest.0);
        }
        digest::COMMIT.digest(w.as_slice()) == commitment
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bodycam_record::ContentKind;
    use bodycam_record::content::{Commitment, seal_chunk};

    #[test]
    fn content_fits_in_any_order_and_a_missing_or_foreign_chunk_does_not() {
        let (key, session) = (SessionKey::new([3; 32]), SessionId([1; 16]));
        let mut commitment = Commitment::new(&key, 5);
        let chunks: Vec<_> = (0..3u32)
            .map(|index| {
                let bytes = vec![index as u8; 300];
                commitment.add(ContentKind::Rows, &bytes);
                seal_chunk(&key, session, 5, index, ContentKind::Rows, &bytes)
            })
            .collect();
        let commitment = commitment.finish().unwrap();
        let check = |order: &[usize], event: bool| {
            let mut contents = Contents::default();
            if event {
                let mut facts = ContentFacts::default();
                facts.commits(session, 5, 9, commitment, true);
                contents.add(facts);
            }
            for i in order {
                let mut facts = ContentFacts::default();
                facts.opened(&key, &chunks[*i]).unwrap();
                contents.add(facts);
            }
            let faults = contents.finish(&HashSet::new());
            (contents.verified, faults.into_iter().map(|f| (f.class, f.seq)).collect::<Vec<_>>())
        };
        assert_eq!(check(&[0, 1, 2], true), (1, vec![]));
        assert_eq!(check(&[2, 0, 1], true), (1, vec![]));
        assert_eq!(check(&[0, 2], true), (0, vec![(Class::Payload, Some(9))]));
        assert_eq!(check(&[], true), (0, vec![(Class::PayloadMissing, Some(9))]));
        assert_eq!(check(&[0, 1, 2], false), (0, vec![]), "content whose event a crash took");
        let moved = SealedChunk { content_no: 6, ..chunks[0].clone() };
        assert!(ContentFacts::default().opened(&key, &moved).is_err());
    }

    #[test]
    fn without_a_key_it_is_seen_whether_content_is_there() {
        let session = SessionId([1; 16]);
        let mut contents = Contents::default();
        let mut facts = ContentFacts::default();
        for no in [3, 0, 1, 2, 9] {
            facts.commits(session, no, no, Digest::ZERO, false);
        }
        for no in [2, 3, 0, 5, 20] {
            facts.is_there(session, no);
        }
        for no in 19..23 {
            facts.commits(session, no, no, Digest::ZERO, false);
        }
        contents.add(facts);
        let faults = contents.finish(&HashSet::new());
        assert_eq!(contents.not_opened, 4);
        assert!(faults.iter().all(|f| f.class == Class::PayloadMissing));
        let details: Vec<_> = faults.iter().map(|f| f.detail.split(',').next().unwrap()).collect();
        let said = [
            "an event commits to content 1",
            "an event commits to content 9",
            "an event commits to content 19",
            "events commit to contents 21-22",
        ];
        assert_eq!(details, said);
    }
}
