//! What lies in a spool.

use bodycam_bus::spool::SpoolBus;
use bodycam_bus::{Bus, Record, SpoolConfig};

/// Every record of every lane, lane after lane.
pub fn records(spool: &SpoolConfig) -> Vec<Record> {
    let bus = SpoolBus::new(spool);
    let mut records = Vec::new();
    for stream in bus.streams().unwrap() {
        let mut subscription = bus.subscribe(&stream, 0).unwrap();
        loop {
            let batch = subscription.poll(1 << 20).unwrap();
            if batch.is_empty() {
                break;
            }
            records.extend(batch.into_iter().map(|(_, record)| record));
        }
    }
    records
}
