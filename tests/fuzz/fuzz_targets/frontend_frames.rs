//! What a PostgreSQL client may send. Laws: a header depends on its own bytes alone, however they were split; no
//! length outside what its type may have; a body that is read says everything that it holds, so that what was
//! read writes the same bytes again.
#![no_main]

use bodycam_fuzz::{bits, walk_is_split_invariant};
use bodycam_proxy::postgres::codec::frontend::{self, Formats, Frontend, Kind, Named};
use bodycam_proxy::postgres::codec::{frame, put_text};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    walk_is_split_invariant::<Frontend>(bytes, |head, whole| {
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
        Kind::Query => frontend::put_query(&mut out, frontend::query(body).ok()?),
        Kind::Parse => {
            let parse = frontend::parse(body).ok()?;
            frame(&mut out, b'P', |out| {
                put_text(out, parse.name);
                put_text(out, parse.text);
                bits::count(out, parse.types.len());
                parse.types.iter().for_each(|oid| out.extend_from_slice(&oid.to_be_bytes()));
            });
        }
        Kind::Bind => {
            let bind = frontend::bind(body).ok()?;
            frame(&mut out, b'B', |out| {
                put_text(out, bind.portal);
                put_text(out, bind.statement);
                put_arguments(out, bind.formats, &bind.values);
                put_formats(out, bind.result_formats);
            });
        }
        Kind::FunctionCall => {
            let call = frontend::function_call(body).ok()?;
            frame(&mut out, b'F', |out| {
                out.extend_from_slice(&call.function.to_be_bytes());
                put_arguments(out, call.formats, &call.values);
                out.extend_from_slice(&call.result_format.to_be_bytes());
            });
        }
        Kind::Describe | Kind::Close => {
            let (letter, name) = match frontend::named("Describe", body).ok()? {
                Named::Statement(name) => (b'S', name),
                Named::Portal(name) => (b'P', name),
            };
            frame(&mut out, b'D', |out| {
                out.push(letter);
                put_text(out, name);
            });
        }
        Kind::Execute => {
            let portal = frontend::execute(body).ok()?;
            frame(&mut out, b'E', |out| {
                put_text(out, portal);
                out.extend_from_slice(&body[body.len() - 4..]);
            });
        }
        Kind::Password => {
            if let Ok((mechanism, data)) = frontend::sasl_initial(body)
                && let Ok(mechanism) = std::str::from_utf8(mechanism)
            {
                frontend::put_sasl_initial(&mut out, mechanism, data);
            } else {
                frontend::put_password(&mut out, frontend::password(body).ok()?);
            }
        }
        Kind::CopyFail => {
            frontend::copy_fail(body).ok()?;
            assert_eq!(body.iter().position(|b| *b == 0), Some(body.len() - 1));
            return None;
        }
        Kind::CopyData | Kind::CopyDone | Kind::Flush | Kind::Sync | Kind::Terminate => return None,
    }
    Some(out.split_off(5))
}

fn put_arguments(out: &mut Vec<u8>, formats: Formats<'_>, values: &[Option<&[u8]>]) {
    assert!(formats.count() <= 1 || formats.count() == values.len());
    put_formats(out, formats);
    bits::count(out, values.len());
    for value in values {
        match value {
            None => out.extend_from_slice(&(-1i32).to_be_bytes()),
            Some(value) => bits::value(out, value),
        }
    }
}

fn put_formats(out: &mut Vec<u8>, formats: Formats<'_>) {
    bits::count(out, formats.count());
    out.extend_from_slice(formats.as_bytes());
}
