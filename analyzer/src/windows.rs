//! Which windows of a rule are due. A window is done when its newest record was made from the rows that the
//! lake holds now, and it was closed then. So late rows re-open exactly the windows that they touch, windows
//! that see them in their history only are looked at again, and compaction, which moves rows into other files,
//! re-opens none.
//!
//! Invariant: what is due follows from commits and records alone.

use std::collections::{BTreeMap, BTreeSet};

use arrow::compute::kernels::cast_utils::string_to_timestamp_nanos;
use bodycam_lake::layout::HOUR_NS;
use bodycam_lake::window::{ReadPosition, WindowRecord};
use bodycam_lake::{FileEntry, Hour, LakeError, LakeState, Table};
use bodycam_record::canonical::Writer;
use bodycam_record::digest::{self, Context};
use bodycam_record::{Digest, Family};

use crate::rules::LoadedRule;

/// Sums of the hashes of rows, by family and hour of event time: equal sums, equal rows, in whatever files.
#[derive(Debug, Clone, Default)]
pub(crate) struct Inputs {
    /// For each family its hours with rows, each with the sum over all hours up to and with it.
    families: BTreeMap<Family, BTreeMap<i64, Sum>>,
}

/// Rows and the sum of their hashes modulo 2^256.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Sum {
    pub rows: u64,
    limbs: [u64; 4],
}

/// A window to evaluate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Due {
    /// First nanosecond.
    pub start_ns: i64,
    /// What the evaluation sees.
    pub seen: Seen,
    /// Whether the watermark has passed it.
    pub closes: bool,
    /// Whether only its history has changed since it was closed.
    pub is_recheck: bool,
}

/// What an evaluation sees: digests over the sums of the rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Of events.
    pub input: Digest,
    /// Of events, rolled up.
    pub history: Digest,
}

impl Due {
    /// Whether `record` was made from the same rows, and closed if this evaluation would be.
    pub(crate) fn is_done_by(&self, record: &WindowRecord) -> bool {
        record.input == self.seen.input
            && record.history == self.seen.history
            && (record.closed || !self.closes)
    }
}

impl Sum {
    fn of(rows: u64, sum: Digest) -> Self {
        let mut limbs = [0; 4];
        for (limb, bytes) in limbs.iter_mut().zip(sum.0.chunks_exact(8)) {
            *limb = u64::from_le_bytes(bytes.try_into().unwrap_or_default());
        }
        Self { rows, limbs }
    }

    fn plus(mut self, other: Sum) -> Self {
        let mut carry = false;
        for (limb, with) in self.limbs.iter_mut().zip(other.limbs) {
            let (sum, over) = limb.overflowing_add(with);
            let (sum, again) = sum.overflowing_add(u64::from(carry));
            (*limb, carry) = (sum, over || again);
        }
        self.rows += other.rows;
        self
    }

    fn minus(mut self, other: Sum) -> Self {
        let mut borrow = false;
        for (limb, with) in self.limbs.iter_mut().zip(other.limbs) {
            let (rest, under) = limb.overflowing_sub(with);
            let (rest, again) = rest.overflowing_sub(u64::from(borrow));
            (*limb, borrow) = (rest, under || again);
        }
        self.rows = self.rows.saturating_sub(other.rows);
        self
    }

    pub(crate) fn put(self, w: &mut Writer) {
        w.bytes(&self.rows.to_le_bytes());
        for limb in self.limbs {
            w.bytes(&limb.to_le_bytes());
        }
    }
}

impl Inputs {
    /// The sums over the files that are part of the lake. A file whose hours nobody can tell is an error: left out,
    /// its rows would be in no window.
    pub(crate) fn of(state: &LakeState) -> Result<Self, LakeError> {
        let mut families = BTreeMap::new();
        for family in Family::EVENTS {
            let mut hours: BTreeMap<i64, Sum> = BTreeMap::new();
            for file in state.files(Table::Events(family)) {
                // Without a sum its rows are told apart by the bytes that they rest in.
                let sum = Sum::of(file.rows, file.row_sum.unwrap_or(file.sha256));
                // Files rest by hour. One that spanned two would count in both: too often due, never too rarely.
                let (first, last) = hours_of(file)?;
                for hour in first..=last {
                    let at = hours.entry(hour).or_default();
                    *at = at.plus(sum);
                }
            }
            let mut total = Sum::default();
            for sum in hours.values_mut() {
                total = total.plus(*sum);
                *sum = total;
            }
            families.insert(family, hours);
        }
        Ok(Self { families })
    }

    /// The hours with rows of a family in `[from, to)`, each with its own sum.
    pub(crate) fn hours(&self, family: Family, from: i64, to: i64) -> impl Iterator<Item = (i64, Sum)> {
        let hours = self.families.get(&family);
        let mut before = self.up_to(family, from);
        hours.into_iter().flat_map(move |h| h.range(from..to.max(from))).map(move |(hour, total)| {
            let own = total.minus(before);
            before = *total;
            (*hour, own)
        })
    }

    /// The newest hour with rows of one of `families`.
    pub(crate) fn newest(&self, families: &BTreeSet<Family>) -> Option<i64> {
        let hours = families.iter().filter_map(|family| self.families.get(family));
        hours.filter_map(|hours| hours.last_key_value().map(|(hour, _)| *hour)).max()
    }

    /// The hours with rows that begin after `now_ns`: how many, and the newest.
    pub(crate) fn ahead_of(&self, now_ns: i64) -> Option<(u64, Hour)> {
        let after = self.families.values().flat_map(|hours| hours.range(Hour::of_ns(now_ns).0 + 1..));
        let hours: BTreeSet<i64> = after.map(|(hour, _)| *hour).collect();
        hours.last().map(|newest| (hours.len() as u64, Hour(*newest)))
    }

    /// The sum over all hours of a family before `hour`.
    fn up_to(&self, family: Family, hour: i64) -> Sum {
        let hours = self.families.get(&family);
        hours.and_then(|h| h.range(..hour).next_back()).map(|(_, sum)| *sum).unwrap_or_default()
    }

    /// Digest over the rows of `families` in `[from_ns, to_ns)`, whole hours, under the context of what they are for.
    fn digest(&self, context: &Context, families: &BTreeSet<Family>, from_ns: i64, to_ns: i64) -> Digest {
        let mut w = Writer::new();
        let (from, to) = (from_ns.div_euclid(HOUR_NS), to_ns.div_euclid(HOUR_NS));
        for family in families {
            w.bytes(family.name().as_bytes());
            self.up_to(*family, to).minus(self.up_to(*family, from)).put(&mut w);
        }
        context.digest(w.as_slice())
    }
}

/// First and last hour of a file's rows: by their times, else by the folder that it rests in.
fn hours_of(file: &FileEntry) -> Result<(i64, i64), LakeError> {
    if let (Some(min), Some(max)) = (file.min_ts_ns, file.max_ts_ns) {
        return Ok((Hour::of_ns(min).0, Hour::of_ns(max).0));
    }
    let folder = file.path.split('/').filter_map(|part| part.split_once('=')).collect::<BTreeMap<_, _>>();
    let hour = folder.get("dt").zip(folder.get("hh")).and_then(|(day, hour)| {
        let start = string_to_timestamp_nanos(&format!("{day}T{hour}:00:00Z")).ok()?;
        Some(Hour::of_ns(start).0)
    });
    let hour = hour.ok_or_else(|| LakeError::Damaged {
        path: file.path.clone(),
        reason: "its commit says neither by times nor by its folder from which hours its rows are".to_owned(),
    })?;
    Ok((hour, hour))
}

/// The windows of `rule` with rows, newest first, that lie at or after `from_ns` or have a record.
pub(crate) fn candidates(
    rule: &LoadedRule,
    inputs: &Inputs,
    from_ns: i64,
    recorded: &BTreeSet<i64>,
) -> Vec<i64> {
    let mut starts = BTreeSet::new();
    for family in &rule.families {
        for hour in inputs.families.get(family).into_iter().flat_map(BTreeMap::keys) {
            starts.insert(rule.rule.window_start(Hour(*hour).start_ns()));
        }
    }
    let wanted = |start: &i64| *start >= from_ns || recorded.contains(start);
    starts.into_iter().rev().filter(wanted).collect()
}

/// What is to be done about a window whose newest record is `record`.
pub(crate) fn due(
    rule: &LoadedRule,
    inputs: &Inputs,
    start_ns: i64,
    closed_before_ns: i64,
    record: Option<&WindowRecord>,
) -> Option<Due> {
    let end_ns = start_ns.saturating_add(rule.rule.window.nanos());
    let reach_ns = start_ns.saturating_sub(rule.rule.reach.nanos());
    let lookback_ns = start_ns.saturating_sub(rule.rule.lookback.nanos());
    let seen = Seen {
        input: inputs.digest(&digest::RULE_INPUT, &rule.families, reach_ns, end_ns),
        history: inputs.digest(&digest::RULE_HISTORY, &rule.families, lookback_ns, start_ns),
    };
    let closes = end_ns <= closed_before_ns;
    let same_input = record.is_some_and(|r| r.input == seen.input && (r.closed || !closes));
    let same_history = record.is_some_and(|r| r.history == seen.history);
    let is_due = !(same_input && same_history) && (closes || rule.rule.early);
    is_due.then_some(Due { start_ns, seen, closes, is_recheck: same_input && closes })
}

/// How far each stream of `state` was read.
pub(crate) fn positions(state: &LakeState) -> Vec<ReadPosition> {
    let streams = state.streams.iter();
    let position = |s: &bodycam_lake::state::StreamState| ReadPosition {
        stream: s.stream.clone(),
        generation: s.generation,
        position: s.position,
    };
    streams.map(position).collect()
}

/// Whether `state` holds at least what `record` was made from. A record of someone who has seen more is not to
/// be superseded by one who has seen less.
pub(crate) fn has_seen(state: &LakeState, record: &WindowRecord) -> bool {
    record.read.iter().all(|read| {
        state.stream(&read.stream, read.generation).is_some_and(|(_, s)| s.position >= read.position)
    })
}

/// Windows to evaluate together: runs of at most `most` windows, in the order of `due` (newest first).
pub(crate) fn batches(due: Vec<Due>, window_ns: i64, most: i64) -> Vec<Vec<Due>> {
    let mut batches: Vec<Vec<Due>> = Vec::new();
    let reach = window_ns.saturating_mul(most);
    for window in due {
        match batches.last_mut() {
            Some(batch) if batch.first().is_some_and(|newest| newest.start_ns - window.start_ns < reach) => {
                batch.push(window);
            }
            _ => batches.push(vec![window]),
        }
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn sums_add_and_subtract_modulo_two_to_the_256(a: [u8; 32], b: [u8; 32], c: [u8; 32]) {
            let [a, b, c] = [a, b, c].map(|bytes| Sum::of(1, Digest(bytes)));
            prop_assert_eq!(a.plus(b).plus(c), c.plus(a).plus(b));
            prop_assert_eq!(a.plus(b).minus(b), a);
            prop_assert_eq!(a.plus(b).plus(c).minus(a.plus(b)), c);
        }
    }

    #[test]
    fn a_file_without_times_counts_in_the_hour_of_its_folder_and_one_without_either_is_an_error() {
        let file = |path: &str, times: Option<(i64, i64)>| FileEntry {
            path: path.to_owned(),
            table: bodycam_lake::commit::TableName(Table::Events(Family::Sql)),
            rows: 1,
            bytes: 1,
            sha256: Digest::ZERO,
            min_ts_ns: times.map(|(min, _)| min),
            max_ts_ns: times.map(|(_, max)| max),
            row_sum: None,
            min_session: None,
            max_session: None,
            sessions: None,
        };
        let in_folder = "tables/sql/dt=1970-01-02/hh=03/a.parquet";
        assert_eq!(hours_of(&file(in_folder, Some((0, HOUR_NS)))).unwrap(), (0, 1), "times come first");
        assert_eq!(hours_of(&file(in_folder, None)).unwrap(), (27, 27));
        let mut half = file(in_folder, None);
        half.min_ts_ns = Some(0);
        assert_eq!(hours_of(&half).unwrap(), (27, 27));
        let message = hours_of(&file("tables/sql/a.parquet", None)).unwrap_err().to_string();
        assert!(message.contains("tables/sql/a.parquet") && message.contains("which hours"), "{message}");
    }

    #[test]
    fn windows_are_put_together_newest_first() {
        let seen = Seen { input: Digest::ZERO, history: Digest::ZERO };
        let due = |start_ns| Due { start_ns, seen, closes: true, is_recheck: false };
        let starts = [90, 80, 70, 40, 30, 0].map(due).to_vec();
        let batches = batches(starts, 10, 3);
        let starts: Vec<Vec<i64>> = batches.iter().map(|b| b.iter().map(|d| d.start_ns).collect()).collect();
        assert_eq!(starts, [vec![90, 80, 70], vec![40, 30], vec![0]]);
    }
}
