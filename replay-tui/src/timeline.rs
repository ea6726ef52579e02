//! A session on the axis of time: one small tick an event, running totals, idle gaps, and the player's clock.
//!
//! Invariant: what the player shows at time t follows from t alone: `seek(t)` gives what playing from 0 to t
//! gives.

use crate::error::ReplayError;
use crate::event::{EventItem, Mark};

/// A pause longer than this is idle time.
pub const IDLE_NS: i64 = 3_000_000_000;
/// What is left of idle time when it is skipped.
const SKIPPED_NS: i64 = 1_000_000_000;
/// Running totals are kept for every this many ticks; the rest is added up from there.
const KEYFRAME: usize = 512;
/// A day.
const DAY_NS: i64 = 86_400_000_000_000;

/// One event on the axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tick {
    /// Number of the event in its session.
    pub seq: i64,
    /// Nanoseconds since the session's first event; never smaller than the tick before.
    pub at_ns: i64,
    /// Rows to the client, at most `u32::MAX`.
    pub rows: u32,
    /// Bytes that left.
    pub bytes: i64,
    /// What it means to the eye.
    pub mark: Mark,
    /// Whether it is a statement, request or tunnel.
    pub step: bool,
}

/// Totals up to a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    pub events: i64,
    pub steps: i64,
    pub rows: i64,
    pub bytes: i64,
    pub denies: i64,
    pub errors: i64,
    pub gaps: i64,
}

/// A stretch without events, of which only a second is left when idle time is skipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdleGap {
    /// Where it starts.
    pub from_ns: i64,
    /// Where it ends.
    pub to_ns: i64,
    /// Time skipped by all gaps up to and including this one.
    skipped_ns: i64,
}

/// All ticks of a session, as far as they are known.
#[derive(Debug, Clone, Default)]
pub struct Timeline {
    ticks: Vec<Tick>,
    /// Totals before tick `KEYFRAME * i`.
    keyframes: Vec<Totals>,
    running: Totals,
    gaps: Vec<IdleGap>,
}

/// Makes ticks of events, in order.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ticker {
    origin_ns: Option<i64>,
    last_ns: i64,
    by_wall_clock: bool,
}

/// One column of the timeline's drawing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bucket {
    /// What happened in it.
    pub totals: Totals,
    /// Length of the idle gap that starts in it, when idle time is cut.
    pub idle_ns: Option<i64>,
}

impl Totals {
    fn add(&mut self, tick: &Tick) {
        self.events += 1;
        self.steps += i64::from(tick.step);
        self.rows += i64::from(tick.rows);
        // What an altered lake claims may be any number.
        self.bytes = self.bytes.saturating_add(tick.bytes);
        self.denies += i64::from(tick.mark == Mark::Deny);
        self.errors += i64::from(tick.mark == Mark::Error);
        self.gaps += i64::from(tick.mark == Mark::Gap);
    }

    fn since(&self, before: &Totals) -> Totals {
        Totals {
            events: self.events - before.events,
            steps: self.steps - before.steps,
            rows: self.rows - before.rows,
            bytes: self.bytes.saturating_sub(before.bytes),
            denies: self.denies - before.denies,
            errors: self.errors - before.errors,
            gaps: self.gaps - before.gaps,
        }
    }

    /// How hot it is: what left, seen so that one row and a thousand are both visible.
    pub fn heat(&self) -> f64 {
        let volume = self.rows.saturating_add(self.bytes.saturating_add(1023) / 1024).max(0);
        #[allow(clippy::cast_precision_loss, reason = "a drawing")]
        let heat = (volume as f64).ln_1p() * 2.0 + (self.events.max(0) as f64).ln_1p();
        heat
    }
}

impl Ticker {
    /// The ticks of the events that follow. Wall time counts when the gateway's clock was injected (monotonic
    /// time says nothing then), monotonic time otherwise (wall time can be set back).
    pub fn ticks(&mut self, events: &[EventItem]) -> Vec<Tick> {
        events.iter().map(|event| self.tick(event)).collect()
    }

    fn tick(&mut self, event: &EventItem) -> Tick {
        use bodycam_record::kinds::Body;
        let envelope = &event.event.envelope;
        if self.origin_ns.is_none() {
            self.by_wall_clock = matches!(&event.body, Some(Body::SessionOpened(o)) if o.simulated_clock);
        }
        let ns = if self.by_wall_clock { envelope.ts_wall_ns } else { envelope.ts_mono_ns };
        let origin = *self.origin_ns.get_or_insert(ns);
        self.last_ns = ns.saturating_sub(origin).max(self.last_ns);
        // The bytes of a COPY are those of its own event; its result counts them again.
        let bytes = match &event.body {
            Some(Body::SqlResult(b)) if b.statement_kind == "copy" => 0,
            _ => event.bytes().unwrap_or(0),
        };
        let small = |n: i64| u32::try_from(n.max(0)).unwrap_or(u32::MAX);
        Tick {
            seq: event.seq(),
            at_ns: self.last_ns,
            rows: small(event.rows().unwrap_or(0)),
            bytes: bytes.max(0),
            mark: event.mark(),
            step: event.is_step(),
        }
    }
}

impl Timeline {
    /// Adds the ticks that follow.
    pub fn extend(&mut self, ticks: impl IntoIterator<Item = Tick>) {
        ticks.into_iter().for_each(|tick| self.push(tick));
    }

    fn push(&mut self, tick: Tick) {
        if let Some(last) = self.ticks.last()
            && tick.at_ns - last.at_ns > IDLE_NS
        {
            let before = self.gaps.last().map_or(0, |g| g.skipped_ns);
            let skipped_ns = before + (tick.at_ns - last.at_ns - SKIPPED_NS);
            self.gaps.push(IdleGap { from_ns: last.at_ns, to_ns: tick.at_ns, skipped_ns });
        }
        if self.ticks.len().is_multiple_of(KEYFRAME) {
            self.keyframes.push(self.running);
        }
        self.running.add(&tick);
        self.ticks.push(tick);
    }

    /// The ticks.
    pub fn ticks(&self) -> &[Tick] {
        &self.ticks
    }

    /// Number of ticks.
    pub fn len(&self) -> usize {
        self.ticks.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ticks.is_empty()
    }

    /// Where the last tick stands.
    pub fn end_ns(&self) -> i64 {
        self.ticks.last().map_or(0, |t| t.at_ns)
    }

    /// The idle gaps.
    pub fn gaps(&self) -> &[IdleGap] {
        &self.gaps
    }

    /// Totals over the first `count` ticks.
    pub fn totals(&self, count: usize) -> Totals {
        let count = count.min(self.ticks.len());
        let keyframe = (count / KEYFRAME).min(self.keyframes.len().saturating_sub(1));
        let mut totals = self.keyframes.get(keyframe).copied().unwrap_or_default();
        let rest = self.ticks.get(keyframe * KEYFRAME..count).unwrap_or_default();
        rest.iter().for_each(|t| totals.add(t));
        totals
    }

    /// How many ticks have happened at `at_ns`.
    pub fn happened(&self, at_ns: i64) -> usize {
        self.ticks.partition_point(|t| t.at_ns <= at_ns)
    }

    /// Index of the event that is shown at `at_ns`: the last that has happened.
    pub fn index_at(&self, at_ns: i64) -> Option<usize> {
        self.happened(at_ns).checked_sub(1)
    }

    /// Where tick `index` stands.
    pub fn at(&self, index: usize) -> i64 {
        self.ticks.get(index).map_or_else(|| self.end_ns(), |t| t.at_ns)
    }

    /// Index of the tick with number `seq`, or the first after it.
    pub fn index_of_seq(&self, seq: i64) -> usize {
        self.ticks.partition_point(|t| t.seq < seq)
    }

    /// Index of the next tick after `index` (or before it) for which `test` holds.
    pub fn find(&self, index: usize, forward: bool, test: impl Fn(&Tick) -> bool) -> Option<usize> {
        match forward {
            true => {
                let from = index.saturating_add(1);
                let rest = self.ticks.get(from..).unwrap_or_default();
                rest.iter().position(test).map(|i| from + i)
            }
            false => self.ticks.get(..index.min(self.ticks.len())).unwrap_or_default().iter().rposition(test),
        }
    }

    /// Position on the axis with idle time cut (or not) for a position in real time.
    pub fn play_ns(&self, at_ns: i64, skip_idle: bool) -> i64 {
        if !skip_idle {
            return at_ns;
        }
        let after = self.gaps.partition_point(|g| g.from_ns <= at_ns);
        let Some((gap, before)) = after.checked_sub(1).and_then(|i| {
            let before = i.checked_sub(1).and_then(|b| self.gaps.get(b)).map_or(0, |g| g.skipped_ns);
            self.gaps.get(i).map(|g| (g, before))
        }) else {
            return at_ns;
        };
        // Inside a gap the second that is left of it runs as fast as the gap is long.
        match at_ns < gap.to_ns {
            true => {
                let length = i128::from(gap.to_ns - gap.from_ns);
                let part = i128::from(at_ns - gap.from_ns) * i128::from(SKIPPED_NS) / length;
                gap.from_ns - before + i64::try_from(part).unwrap_or(SKIPPED_NS)
            }
            false => at_ns - gap.skipped_ns,
        }
    }

    /// The inverse of [`Timeline::play_ns`].
    pub fn real_ns(&self, play_ns: i64, skip_idle: bool) -> i64 {
        if !skip_idle {
            return play_ns;
        }
        let before = |i: usize| i.checked_sub(1).and_then(|b| self.gaps.get(b)).map_or(0, |g| g.skipped_ns);
        let mut low = 0;
        let mut high = self.gaps.len();
        while low < high {
            let middle = low + (high - low) / 2;
            match self.gaps.get(middle) {
                Some(gap) if gap.from_ns - before(middle) <= play_ns => low = middle + 1,
                _ => high = middle,
            }
        }
        let Some((gap, skipped_before)) =
            low.checked_sub(1).and_then(|i| self.gaps.get(i).map(|g| (g, before(i))))
        else {
            return play_ns;
        };
        let into = play_ns - (gap.from_ns - skipped_before);
        match into < SKIPPED_NS {
            true => {
                let length = i128::from(gap.to_ns - gap.from_ns);
                let part = i128::from(into) * length / i128::from(SKIPPED_NS);
                gap.from_ns + i64::try_from(part).unwrap_or(0)
            }
            false => play_ns + gap.skipped_ns,
        }
    }

    /// The timeline in `width` columns.
    pub fn buckets(&self, width: usize, skip_idle: bool) -> Vec<Bucket> {
        let end = self.play_ns(self.end_ns(), skip_idle);
        let columns = i64::try_from(width.max(1)).unwrap_or(1);
        // The last column holds the last tick.
        let edge = |column: i64| {
            let share = i128::from(end.saturating_add(1)) * i128::from(column) / i128::from(columns);
            self.real_ns(i64::try_from(share).unwrap_or(i64::MAX), skip_idle)
        };
        let mut buckets = Vec::with_capacity(width);
        let mut from_ns = 0;
        let mut before = Totals::default();
        for column in 1..=i64::try_from(width).unwrap_or(0) {
            let to_ns = if column == columns { i64::MAX } else { edge(column) };
            let totals = self.totals(self.ticks.partition_point(|t| t.at_ns < to_ns));
            let gap = self.gaps.partition_point(|g| g.from_ns < from_ns);
            let idle_ns = match skip_idle {
                true => self.gaps.get(gap).filter(|g| g.from_ns < to_ns).map(|g| g.to_ns - g.from_ns),
                false => None,
            };
            buckets.push(Bucket { totals: totals.since(&before), idle_ns });
            (before, from_ns) = (totals, to_ns);
        }
        buckets
    }

    /// The column of `width` in which a position lies.
    pub fn column_of(&self, at_ns: i64, width: usize, skip_idle: bool) -> usize {
        let end = i128::from(self.play_ns(self.end_ns(), skip_idle)) + 1;
        let at = i128::from(self.play_ns(at_ns, skip_idle).max(0));
        let column = at * i128::try_from(width).unwrap_or(0) / end;
        usize::try_from(column).unwrap_or(0).min(width.saturating_sub(1))
    }
}

/// Speeds that can be chosen, in quarters of real time.
const SPEEDS: [i64; 8] = [1, 2, 4, 8, 16, 32, 64, 256];

/// The player's clock: where it stands, and whether it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Player {
    /// Position in the session, nanoseconds of real time.
    pub at_ns: i64,
    /// Whether it runs.
    pub playing: bool,
    /// Whether idle time is cut.
    pub skip_idle: bool,
    speed: usize,
    /// Time of the last advance, on the caller's monotonic clock.
    ticked_ns: Option<i64>,
}

impl Default for Player {
    fn default() -> Self {
        Self { at_ns: 0, playing: false, skip_idle: true, speed: 2, ticked_ns: None }
    }
}

impl Player {
    /// The speed as it is shown: `¼×`, `1×`, `64×`.
    pub fn speed_label(&self) -> &'static str {
        ["1/4x", "1/2x", "1x", "2x", "4x", "8x", "16x", "64x"].get(self.speed).copied().unwrap_or("1x")
    }

    fn quarters(&self) -> i64 {
        SPEEDS.get(self.speed).copied().unwrap_or(4)
    }

    /// Doubles (or halves) the speed.
    pub fn change_speed(&mut self, faster: bool) {
        self.speed = match faster {
            true => (self.speed + 1).min(SPEEDS.len() - 1),
            false => self.speed.saturating_sub(1),
        };
    }

    /// Back to real time.
    pub fn reset_speed(&mut self) {
        self.speed = Player::default().speed;
    }

    /// Jumps.
    pub fn seek(&mut self, timeline: &Timeline, at_ns: i64) {
        self.at_ns = at_ns.clamp(0, timeline.end_ns());
        self.ticked_ns = None;
    }

    /// Starts or stops. At the end it starts again from the beginning.
    pub fn toggle(&mut self, timeline: &Timeline) {
        self.playing = !self.playing;
        self.ticked_ns = None;
        if self.playing && self.at_ns >= timeline.end_ns() {
            self.at_ns = 0;
        }
    }

    /// Lets the time since the last advance pass. Stops at the end unless the session goes on.
    pub fn advance(&mut self, timeline: &Timeline, now_ns: i64, goes_on: bool) {
        if !self.playing {
            return;
        }
        let passed = now_ns.saturating_sub(self.ticked_ns.replace(now_ns).unwrap_or(now_ns)).max(0);
        let played = passed.saturating_mul(self.quarters()) / 4;
        let play_ns = timeline.play_ns(self.at_ns, self.skip_idle).saturating_add(played);
        let end = timeline.end_ns();
        self.at_ns = timeline.real_ns(play_ns, self.skip_idle).min(end).max(self.at_ns);
        if self.at_ns >= end && !goes_on {
            self.playing = false;
        }
    }

    /// When the next event is due, on the caller's clock; none when nothing will happen.
    pub fn next_due_ns(&self, timeline: &Timeline) -> Option<i64> {
        let now = self.ticked_ns?;
        let next = timeline.ticks.get(timeline.happened(self.at_ns)).filter(|_| self.playing)?;
        let here = timeline.play_ns(self.at_ns, self.skip_idle);
        let wait = timeline.play_ns(next.at_ns, self.skip_idle).saturating_sub(here).max(0);
        Some(now.saturating_add(wait.saturating_mul(4) / self.quarters()))
    }
}

/// A place to jump to: `+12:31`, `14:02:11`, `#812`, `50%`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goto {
    /// Nanoseconds into the session.
    Offset(i64),
    /// Nanoseconds since midnight UTC.
    Clock(i64),
    /// Number of an event.
    Seq(i64),
    /// Thousandths of the session.
    PerMille(i64),
}

impl Goto {
    /// The place that `text` names.
    pub fn parse(text: &str) -> Option<Goto> {
        let text = text.trim();
        if let Some(seq) = text.strip_prefix('#') {
            return seq.parse().ok().filter(|n| *n >= 0).map(Goto::Seq);
        }
        if let Some(percent) = text.strip_suffix('%') {
            let percent: f64 = percent.parse().ok()?;
            #[allow(clippy::cast_possible_truncation, reason = "between 0 and 1000")]
            return (0.0..=100.0).contains(&percent).then_some(Goto::PerMille((percent * 10.0) as i64));
        }
        use bodycam_record::filter::{Expr, Field, Filter, Test, Time, Value};
        let time = |text: &str| match Filter::parse(&format!("at:{text}")).ok()?.expr? {
            Expr::Test(Field::At, Test::Has(Value::Time(time)), _) => Some(time),
            _ => None,
        };
        if text.starts_with('+') {
            return match time(text)? {
                Time::Offset(ns) => Some(Goto::Offset(ns)),
                _ => None,
            };
        }
        match time(&format!("1970-01-01T{text}"))? {
            Time::At(ns, _) if !text.contains('T') => Some(Goto::Clock(ns)),
            _ => None,
        }
    }

    /// Refuses the number of an event after the last.
    pub fn check(self, timeline: &Timeline) -> Result<(), ReplayError> {
        match (self, timeline.ticks.last()) {
            (Goto::Seq(seq), Some(last)) if seq > last.seq => {
                Err(ReplayError::PastEnd { seq, last: last.seq })
            }
            _ => Ok(()),
        }
    }

    /// Where that is in a session that started at `start_ns` (Unix).
    pub fn at_ns(self, timeline: &Timeline, start_ns: i64) -> i64 {
        match self {
            Goto::Offset(ns) => ns,
            Goto::Clock(ns) => {
                // The first such time that is not before the start, and the last that is. What is shown of a time
                // leaves out the fraction of its second, so that the first event's own lies before the start.
                let later = (ns - start_ns.rem_euclid(DAY_NS)).rem_euclid(DAY_NS);
                let before = DAY_NS - later;
                let starts_same_day = ns >= start_ns.rem_euclid(DAY_NS);
                let end = timeline.end_ns();
                match later <= end {
                    true if starts_same_day || later < before => later,
                    false if later - end < before => later,
                    _ => 0,
                }
            }
            Goto::Seq(seq) => timeline.at(timeline.index_of_seq(seq)),
            Goto::PerMille(n) => {
                let share = i128::from(timeline.end_ns()) * i128::from(n) / 1000;
                i64::try_from(share).unwrap_or(0)
            }
        }
    }
}

#[cfg(test)]
mod tests;
