//! What a PostgreSQL server may send. Laws as for clients; and of an error cut short, a field is either not there
//! yet or the one that the whole has.
#![no_main]

use bodycam_fuzz::{bits, walk_is_split_invariant};
use bodycam_proxy::postgres::codec::backend::{self, Authentication, Backend, Kind};
use bodycam_proxy::postgres::codec::{frame, put_text};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    walk_is_split_invariant::<Backend>(bytes, |head, whole| {
        let body = &whole[5..];
        if let Some(again) = again(head.kind, body) {
            assert_eq!(again, body, "{:?} has two spellings", head.kind);
        }
    });
});

/// The body that what was read of `body` writes.
fn again(kind: Kind, body: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    match kind {
        Kind::Authentication => match backend::authentication(body).ok()? {
            Authentication::Ok => backend::put_authentication(&mut out, 0, &[]),
            Authentication::Cleartext => backend::put_authentication(&mut out, 3, &[]),
            Authentication::Md5(salt) => backend::put_authentication(&mut out, 5, &salt),
            Authentication::Sasl(names) => backend::put_authentication(&mut out, 10, names),
            Authentication::SaslContinue(data) => backend::put_authentication(&mut out, 11, data),
            Authentication::SaslFinal(data) => backend::put_authentication(&mut out, 12, data),
            Authentication::Other(code) => {
                assert!(![0, 3, 5, 10, 11, 12].contains(&code));
                return None;
            }
        },
        Kind::BackendKeyData => {
            let (process, key) = backend::key_data(body).ok()?;
            assert!((4..=256).contains(&key.len()), "a key of {} bytes", key.len());
            backend::put_key_data(&mut out, process, key);
        }
        Kind::ParameterStatus => {
            let (name, value) = backend::parameter(body).ok()?;
            frame(&mut out, b'S', |out| {
                put_text(out, name);
                put_text(out, value);
            });
        }
        Kind::ReadyForQuery => {
            let status = backend::ready(body).ok()?;
            frame(&mut out, b'Z', |out| out.push(status));
        }
        Kind::CommandComplete => {
            let tag = backend::tag(body).ok()?;
            frame(&mut out, b'C', |out| put_text(out, tag));
        }
        Kind::ParameterDescription => {
            let types = backend::parameter_types(body).ok()?;
            frame(&mut out, b't', |out| {
                bits::count(out, types.len());
                types.iter().for_each(|oid| out.extend_from_slice(&oid.to_be_bytes()));
            });
        }
        Kind::RowDescription => {
            let columns = backend::columns(body).ok()?;
            let count = usize::from(u16::from_be_bytes([body[0], body[1]]));
            let lists = [&columns.tables, &columns.attributes, &columns.types, &columns.formats];
            assert!(lists.iter().all(|list| list.len() == count));
            return Some(columns.body);
        }
        Kind::CopyIn | Kind::CopyOut | Kind::CopyBoth => {
            let format = backend::copy_format(body).ok()?;
            assert_eq!(format, i64::from(body[0]));
            return None;
        }
        Kind::DataRow => {
            let Ok(values) = backend::values(body) else { return None };
            // Written again, they are the bytes that they were read from.
            let mut again = u16::try_from(values.len()).unwrap().to_be_bytes().to_vec();
            for value in &values {
                let length = value.as_ref().map_or(-1, |v| i32::try_from(v.len()).unwrap());
                again.extend_from_slice(&length.to_be_bytes());
                again.extend_from_slice(value.as_deref().unwrap_or_default());
            }
            assert_eq!(body.get(..again.len()), Some(again.as_slice()));
            return None;
        }
        Kind::Error | Kind::Notice => {
            cut_errors_say_the_same(body);
            return None;
        }
        _ => return None,
    }
    Some(out.split_off(5))
}

fn cut_errors_say_the_same(body: &[u8]) {
    for field in [b'C', b'M', b'S'] {
        let whole = backend::error_field(body, field);
        assert!(whole.is_none_or(|text| !text.contains(&0)));
        for cut in bits::cuts(body) {
            if let Some(text) = backend::error_field(&body[..cut], field) {
                assert_eq!(Some(text), whole, "cut at {cut}");
            }
        }
    }
    if let Some(code) = backend::sqlstate(body) {
        let mut out = Vec::new();
        backend::put_error(&mut out, "ERROR", &code, "again", None);
        assert_eq!(backend::sqlstate(&out[5..]), Some(code));
    }
}
