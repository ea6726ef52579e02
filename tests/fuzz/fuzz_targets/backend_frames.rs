//! What a PostgreSQL server may send: the frame walker and the bodies of every message.
#![no_main]

use bodycam_proxy::postgres::codec::{backend, header};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut rest = bytes;
    while let Ok(Some(head)) = header::<backend::Backend>(rest) {
        let Some((frame, after)) = rest.split_at_checked(head.frame()) else { break };
        let body = &frame[5..];
        let _ = backend::authentication(body);
        let _ = backend::key_data(body);
        let _ = backend::parameter(body);
        let _ = backend::ready(body);
        let _ = backend::tag(body);
        let _ = backend::columns(body);
        let _ = backend::copy_format(body);
        let _ = backend::parameter_types(body);
        let _ = backend::sqlstate(body);
        rest = after;
    }
});
