//! A record from the bus, and the body of an event. Laws: any bytes give a value or an error; a body has one
//! encoding; a record survives being sent on; a body survives the columns of its table.
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
            Record::Event(event) => {
                if let Ok(body) = event.decode_body() {
                    assert_eq!(body.canonical(), event.body);
                    assert_eq!(body.table().code, event.envelope.kind);
                }
            }
            Record::Ledger(record) => {
                if let Ok(body) = record.decode_body() {
                    assert_eq!(body.canonical(), record.body);
                }
            }
            _ => {}
        }
    }
    for table in TABLES {
        if let Ok(body) = Body::decode(table.code, table.version, bytes) {
            assert_eq!(body.canonical(), bytes, "{} has two encodings", table.name);
            assert_eq!(Body::from_values(table.code, table.version, body.values()).as_ref(), Ok(&body));
            assert_eq!(table.encode_values(body.values()).as_deref(), Ok(bytes));
            assert!(Body::decode(table.code, table.version + 1, bytes).is_err(), "{}", table.name);
        }
    }
});
