//! What a PostgreSQL client may send: the frame walker and the bodies of every message.
#![no_main]

use bodycam_proxy::postgres::codec::{frontend, header};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut rest = bytes;
    while let Ok(Some(head)) = header::<frontend::Frontend>(rest) {
        let Some((frame, after)) = rest.split_at_checked(head.frame()) else { break };
        let body = &frame[5..];
        let _ = frontend::query(body);
        let _ = frontend::parse(body);
        let _ = frontend::bind(body);
        let _ = frontend::function_call(body);
        let _ = frontend::named("Describe", body);
        let _ = frontend::execute(body);
        rest = after;
    }
});
