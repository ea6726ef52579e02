//! A record from the bus, and the body of an event: any bytes give a value or an error, and what decodes encodes
//! to the same bytes again.
#![no_main]

use bodycam_bus::Record;
use bodycam_record::kinds::{Body, TABLES};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(record) = Record::decode(bytes) {
        let mut again = Vec::new();
        record.encode(&mut again);
        assert_eq!(Record::decode(&again).as_ref(), Ok(&record));
        match &record {
            Record::Event(event) => drop(event.decode_body()),
            Record::Ledger(record) => drop(record.decode_body()),
            _ => {}
        }
    }
    for table in TABLES {
        if let Ok(body) = Body::decode(table.code, table.version, bytes) {
            assert_eq!(body.canonical(), bytes, "{} has two encodings", table.name);
        }
    }
});
