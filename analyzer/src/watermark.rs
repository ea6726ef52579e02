//! Up to which event time the lake is complete. Ledgers say it: a producer's ledger record is committed only
//! after the events spooled before it, and heartbeats come when nothing else happens, so an idle producer
//! holds nobody up. No clock is read here.

use std::collections::BTreeMap;

use bodycam_lake::{LakeState, LedgerState, Table};

/// A running producer whose ledger is this far behind the newest one is taken for dead: it no longer holds
/// windows open, and what it still had to say re-opens them.
const SILENCE_NS: i64 = 600 * 1_000_000_000;

/// The time before which the lake is complete; `i64::MAX` when every producer has stopped in order, none when
/// there is nothing to go by.
pub fn watermark_ns(state: &LakeState) -> Option<i64> {
    let mut producers: BTreeMap<&str, &LedgerState> = BTreeMap::new();
    for ledger in state.watermarks() {
        match producers.get(ledger.producer.as_str()) {
            Some(known) if (known.epoch, known.next_seq) >= (ledger.epoch, ledger.next_seq) => {}
            _ => drop(producers.insert(&ledger.producer, ledger)),
        }
    }
    if producers.is_empty() {
        // Without a single ledger all that is known is how far events have come.
        let events = bodycam_record::Family::EVENTS.into_iter().flat_map(|f| state.files(Table::Events(f)));
        return events.filter_map(|file| file.max_ts_ns).max();
    }
    let running = || producers.values().filter(|l| !l.stopped).map(|l| l.watermark_ns);
    let Some(newest) = running().max() else { return Some(i64::MAX) };
    running().filter(|ns| *ns >= newest.saturating_sub(SILENCE_NS)).min()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bodycam_lake::StreamEntry;
    use bodycam_record::Digest;

    const MINUTE: i64 = 60_000_000_000;

    fn state(ledgers: &[(&str, i64, i64, bool)]) -> LakeState {
        let mut state = LakeState::default();
        for (n, (producer, epoch, watermark_ns, stopped)) in ledgers.iter().enumerate() {
            let stream = format!("{producer}/ledger").parse().unwrap();
            let entry = StreamEntry { version: 1, stream, generation: n as u64, from: 0, origin: None };
            state.add_stream("streams/0.json", entry).unwrap();
            state.streams[n].ledger = Some(LedgerState {
                producer: (*producer).to_owned(),
                epoch: *epoch,
                next_seq: 1,
                head: Digest::ZERO,
                epoch_key: Digest::ZERO,
                producer_key: Digest::ZERO,
                watermark_ns: *watermark_ns,
                stopped: *stopped,
            });
        }
        state
    }

    #[test]
    fn the_slowest_running_producer_says_how_far_the_lake_is() {
        for (ledgers, expected) in [
            (vec![], None),
            (vec![("a", 1, 10 * MINUTE, false), ("b", 1, 8 * MINUTE, false)], Some(8 * MINUTE)),
            (vec![("a", 1, 10 * MINUTE, false), ("b", 1, 8 * MINUTE, true)], Some(10 * MINUTE)),
            (vec![("a", 1, 60 * MINUTE, false), ("b", 1, 50 * MINUTE, false)], Some(50 * MINUTE)),
            (vec![("a", 1, 60 * MINUTE, false), ("b", 1, 49 * MINUTE, false)], Some(60 * MINUTE)),
            (vec![("a", 1, 60 * MINUTE, true), ("b", 1, 49 * MINUTE, true)], Some(i64::MAX)),
            (vec![("a", 1, 60 * MINUTE, true), ("a", 2, 61 * MINUTE, false)], Some(61 * MINUTE)),
        ] {
            assert_eq!(watermark_ns(&state(&ledgers)), expected, "{ledgers:?}");
        }
    }
}
