//! The first bytes of a PostgreSQL client, before anyone is known.
#![no_main]

use bodycam_proxy::postgres::codec::startup;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(Some((packet, used))) = startup::packet(bytes) {
        assert!(used <= bytes.len() && used >= 8);
        if let startup::Packet::Startup(startup) = packet {
            let _ = startup.get("user");
            let _ = startup.get("options").and_then(startup::options);
        }
    }
    let _ = startup::options(bytes);
});
