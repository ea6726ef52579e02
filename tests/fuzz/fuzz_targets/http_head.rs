//! Request and response heads, authorities, targets, chunked bodies and ClientHellos from anyone.
#![no_main]

use bodycam_proxy::http::codec::authority::Authority;
use bodycam_proxy::http::codec::chunked::ChunkDecoder;
use bodycam_proxy::http::codec::fields::Limits;
use bodycam_proxy::http::codec::head::{RequestHead, request_scanner};
use bodycam_proxy::http::codec::target::{AbsoluteForm, authority_form};
use bodycam_proxy::http::codec::tls_client_hello::HelloReader;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let limits = Limits::default();
    let whole = RequestHead::read(&mut request_scanner(), bytes, limits);
    // However the bytes arrive, the outcome is the same.
    let mut scanner = request_scanner();
    let mut split = Ok(None);
    for end in 0..=bytes.len() {
        split = RequestHead::read(&mut scanner, &bytes[..end], limits);
        if !matches!(split, Ok(None)) {
            break;
        }
    }
    assert_eq!(whole.is_ok_and(|h| h.is_some()), split.is_ok_and(|h| h.is_some()));
    let _ = Authority::parse(bytes, Some(80));
    let _ = AbsoluteForm::parse(bytes, None);
    let _ = authority_form(bytes, None);
    let _ = HelloReader::default().push(bytes);
    let mut body = bytes.into();
    let _ = ChunkDecoder::default().decode(&mut body);
});
