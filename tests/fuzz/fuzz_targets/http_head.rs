//! Heads, authorities, targets, chunked bodies and ClientHellos from anyone. Laws: the outcome does not depend on
//! how the bytes were split; nothing beyond the limits comes out; what was accepted says the same when it is
//! written again.
#![no_main]

use bodycam_fuzz::bits;
use bodycam_proxy::http::codec::authority::Authority;
use bodycam_proxy::http::codec::chunked::{ChunkDecoder, ChunkError, Decoded};
use bodycam_proxy::http::codec::fields::{Fields, Limits, Scanner, is_token};
use bodycam_proxy::http::codec::head::{
    Framing, HeadError, RequestHead, ResponseHead, Version, request_scanner, response_scanner,
};
use bodycam_proxy::http::codec::target::{AbsoluteForm, authority_form};
use bodycam_proxy::http::codec::tls_client_hello::{HelloReader, Sniffed};
use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;

const LIMITS: Limits = Limits { bytes: 512, fields: 8, url: 128 };

fuzz_target!(|bytes: &[u8]| {
    request(bytes);
    for method in ["GET", "HEAD"] {
        response(bytes, method);
    }
    authority(bytes);
    chunked(bytes);
    hello(bytes);
});

fn request(bytes: &[u8]) {
    let read = |scanner: &mut Scanner, bytes: &[u8]| RequestHead::read(scanner, bytes, LIMITS);
    let whole = read(&mut request_scanner(), bytes);
    assert_eq!(byte_by_byte(request_scanner(), bytes, read), whole);
    let Ok(Some(head)) = whole else { return };
    assert!(head.bytes <= LIMITS.bytes && head.bytes <= bytes.len());
    assert!(!head.target.is_empty() && head.target.len() <= LIMITS.url);
    assert!(is_token(head.method.as_bytes()));
    check_fields(&head.fields, head.body, head.version);
    assert!(!(head.method == "CONNECT" && head.body != Framing::None));
    let mut again = [head.method.as_bytes(), b" ", &head.target, b" "].concat();
    again.extend_from_slice(if head.version == Version::Http11 { b"HTTP/1.1\r\n" } else { b"HTTP/1.0\r\n" });
    put_fields(&mut again, &head.fields);
    let bytes = again.len();
    assert_eq!(read(&mut request_scanner(), &again), Ok(Some(RequestHead { bytes, ..head.clone() })));
    let host = head.fields.all("host").next();
    if let Ok(form) = AbsoluteForm::parse(&head.target, host) {
        assert_eq!(AbsoluteForm::parse(form.url().as_bytes(), host), Ok(form));
    }
    if let Ok(authority) = authority_form(&head.target, host) {
        assert_eq!(authority_form(authority.to_string().as_bytes(), host), Ok(authority));
    }
}

fn response(bytes: &[u8], method: &str) {
    let read = |scanner: &mut Scanner, bytes: &[u8]| ResponseHead::read(scanner, bytes, LIMITS, method);
    let whole = read(&mut response_scanner(), bytes);
    assert_eq!(byte_by_byte(response_scanner(), bytes, read), whole);
    let Ok(Some(head)) = whole else { return };
    assert!((100..600).contains(&head.status) && head.bytes <= bytes.len());
    assert!(head.reason.bytes().all(|b| b == b' ' || b.is_ascii_graphic()));
    check_fields(&head.fields, head.body, Version::Http11);
    if method == "HEAD" || head.status < 200 || [204, 304].contains(&head.status) {
        assert_eq!(head.body, Framing::None);
    }
}

fn byte_by_byte<T>(
    mut scanner: Scanner,
    bytes: &[u8],
    read: impl Fn(&mut Scanner, &[u8]) -> Result<Option<T>, HeadError>,
) -> Result<Option<T>, HeadError> {
    for end in 0..=bytes.len() {
        match read(&mut scanner, &bytes[..end]) {
            Ok(None) => {}
            outcome => return outcome,
        }
    }
    Ok(None)
}

fn check_fields(fields: &Fields, body: Framing, version: Version) {
    assert!(fields.iter().count() <= LIMITS.fields);
    for field in fields.iter() {
        assert!(is_token(field.name.as_bytes()), "{field:?}");
        assert!(field.value.iter().all(|b| *b == b'\t' || (*b >= 0x20 && *b != 0x7f)), "{field:?}");
    }
    let (lengths, encodings) =
        (fields.all("content-length").count(), fields.all("transfer-encoding").count());
    assert!(lengths + encodings <= 1, "two ways to say where the body ends");
    match body {
        Framing::Length(n) => assert!(lengths == 1 && n > 0),
        Framing::Chunked => assert!(encodings == 1 && version == Version::Http11),
        Framing::None | Framing::UntilClose => {}
    }
}

fn put_fields(out: &mut Vec<u8>, fields: &Fields) {
    for field in fields.iter() {
        out.extend_from_slice(field.name.as_bytes());
        out.push(b':');
        out.extend_from_slice(&field.value);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

fn authority(bytes: &[u8]) {
    for default_port in [None, Some(80)] {
        if let Ok(authority) = Authority::parse(bytes, default_port) {
            let spelled = authority.to_string();
            assert_eq!(Authority::parse(spelled.as_bytes(), None), Ok(authority.clone()), "{spelled}");
            let field = authority.host_field(80);
            assert_eq!(Authority::parse(field.as_bytes(), Some(80)), Ok(authority), "{field}");
        }
    }
    if let Ok(form) = AbsoluteForm::parse(bytes, None) {
        assert_eq!(AbsoluteForm::parse(form.url().as_bytes(), None), Ok(form));
    }
}

/// The data of a chunked body that arrives in pieces, and how it ended.
fn decode(bytes: &[u8], cuts: impl Iterator<Item = usize>) -> (Vec<u8>, Result<bool, ChunkError>) {
    let (mut decoder, mut buf, mut data, mut at) = (ChunkDecoder::default(), BytesMut::new(), Vec::new(), 0);
    for cut in cuts.chain([bytes.len()]) {
        buf.extend_from_slice(&bytes[at..cut.max(at)]);
        at = cut.max(at);
        loop {
            match decoder.decode(&mut buf) {
                Ok(Decoded::Data(piece)) => {
                    assert!(!piece.is_empty());
                    data.extend_from_slice(&piece);
                }
                Ok(Decoded::NeedMore) => break,
                Ok(Decoded::End) => return (data, Ok(true)),
                Err(error) => return (data, Err(error)),
            }
        }
    }
    (data, Ok(false))
}

fn chunked(bytes: &[u8]) {
    let whole = decode(bytes, [].into_iter());
    assert_eq!(decode(bytes, 0..bytes.len()), whole);
    assert_eq!(decode(bytes, bits::cuts(bytes).into_iter()), whole);
    assert!(whole.0.len() <= bytes.len());
}

fn hello(bytes: &[u8]) {
    let whole = HelloReader::default().push(bytes);
    let mut reader = HelloReader::default();
    let mut last = reader.push(&[]);
    for byte in bytes {
        last = reader.push(&[*byte]);
    }
    assert_eq!(last, whole);
    if let Sniffed::Hello(hello) = whole {
        let held: usize = hello.server_name.iter().chain(&hello.alpn).map(Vec::len).sum();
        assert!(held <= bytes.len());
    }
}
