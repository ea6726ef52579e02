//! What clients send after startup.

use std::ops::RangeInclusive;

use super::{Body, Direction, FrameError, LARGE, SMALL, frame, put_text};

/// The direction from client to target.
#[derive(Debug)]
pub struct Frontend;

/// Message types of clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    Bind,
    Close,
    CopyData,
    CopyDone,
    CopyFail,
    Describe,
    Execute,
    Flush,
    FunctionCall,
    Parse,
    /// PasswordMessage, SASLInitialResponse, SASLResponse, GSSResponse: lawful during authentication only.
    Password,
    Query,
    Sync,
    Terminate,
}

impl Direction for Frontend {
    type Kind = Kind;
    const FROM: &'static str = "client";

    fn kind(tag: u8) -> Option<(Kind, RangeInclusive<usize>)> {
        Some(match tag {
            b'B' => (Kind::Bind, 8..=LARGE),
            b'C' => (Kind::Close, 2..=SMALL),
            b'd' => (Kind::CopyData, 0..=LARGE),
            b'c' => (Kind::CopyDone, 0..=0),
            b'f' => (Kind::CopyFail, 1..=SMALL),
            b'D' => (Kind::Describe, 2..=SMALL),
            b'E' => (Kind::Execute, 5..=SMALL),
            b'H' => (Kind::Flush, 0..=0),
            b'F' => (Kind::FunctionCall, 10..=LARGE),
            b'P' => (Kind::Parse, 4..=LARGE),
            b'p' => (Kind::Password, 0..=SMALL),
            b'Q' => (Kind::Query, 1..=LARGE),
            b'S' => (Kind::Sync, 0..=0),
            b'X' => (Kind::Terminate, 0..=0),
            _ => return None,
        })
    }
}

/// Which map a name of Describe or Close is looked up in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Named<'a> {
    Statement(&'a [u8]),
    Portal(&'a [u8]),
}

/// Parse.
#[derive(Debug)]
pub struct Parse<'a> {
    pub name: &'a [u8],
    pub text: &'a [u8],
    pub types: Vec<u32>,
}

/// Bind.
#[derive(Debug)]
pub struct Bind<'a> {
    pub portal: &'a [u8],
    pub statement: &'a [u8],
    pub formats: Formats<'a>,
    pub values: Vec<Option<&'a [u8]>>,
    pub result_formats: Formats<'a>,
}

/// FunctionCall.
#[derive(Debug)]
pub struct FunctionCall<'a> {
    pub function: u32,
    pub formats: Formats<'a>,
    pub values: Vec<Option<&'a [u8]>>,
    pub result_format: i16,
}

/// Format codes: none means text for all, one stands for all, else one each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Formats<'a>(&'a [u8]);

impl<'a> Formats<'a> {
    fn read(body: &mut Body<'a>) -> Result<Self, FrameError> {
        let count = body.count_unsigned()?;
        body.bytes(count * 2).map(Formats)
    }

    /// Format codes as they stand in a message.
    pub fn of(bytes: &'a [u8]) -> Self {
        Formats(bytes)
    }

    /// The codes as they stand in the message.
    pub fn as_bytes(&self) -> &'a [u8] {
        self.0
    }

    /// How many codes were given.
    pub fn count(&self) -> usize {
        self.0.len() / 2
    }

    /// The format of the value at `index`: 0 text, 1 binary.
    pub fn at(&self, index: usize) -> i64 {
        let index = if self.count() == 1 { 0 } else { index };
        let code = self.0.get(index * 2..).and_then(<[u8]>::first_chunk::<2>);
        code.map_or(0, |b| i64::from(i16::from_be_bytes(*b)))
    }
}

/// The text of a Query.
pub fn query(body: &[u8]) -> Result<&[u8], FrameError> {
    let mut body = Body::new("Query", body);
    let text = body.text()?;
    body.end()?;
    Ok(text)
}

/// A Parse.
pub fn parse(body: &[u8]) -> Result<Parse<'_>, FrameError> {
    let mut body = Body::new("Parse", body);
    let (name, text) = (body.text()?, body.text()?);
    let count = body.count_unsigned()?;
    let mut types = Vec::new();
    for _ in 0..count {
        types.push(body.oid()?);
    }
    body.end()?;
    Ok(Parse { name, text, types })
}

/// A Bind.
pub fn bind(body: &[u8]) -> Result<Bind<'_>, FrameError> {
    let mut body = Body::new("Bind", body);
    let (portal, statement) = (body.text()?, body.text()?);
    let (formats, values) = arguments(&mut body)?;
    let result_formats = Formats::read(&mut body)?;
    body.end()?;
    Ok(Bind { portal, statement, formats, values, result_formats })
}

/// A FunctionCall.
pub fn function_call(body: &[u8]) -> Result<FunctionCall<'_>, FrameError> {
    let mut body = Body::new("FunctionCall", body);
    let function = body.oid()?;
    let (formats, values) = arguments(&mut body)?;
    let result_format = body.i16()?;
    body.end()?;
    Ok(FunctionCall { function, formats, values, result_format })
}

type Arguments<'a> = (Formats<'a>, Vec<Option<&'a [u8]>>);

fn arguments<'a>(body: &mut Body<'a>) -> Result<Arguments<'a>, FrameError> {
    let formats = Formats::read(body)?;
    let count = body.count_unsigned()?;
    if formats.count() > 1 && formats.count() != count {
        return Err(body.malformed("format codes and parameters differ in number"));
    }
    let mut values = Vec::new();
    for _ in 0..count {
        values.push(body.value()?);
    }
    Ok((formats, values))
}

/// What a Describe or a Close (`message`) names.
pub fn named<'a>(message: &'static str, body: &'a [u8]) -> Result<Named<'a>, FrameError> {
    let mut body = Body::new(message, body);
    let kind = body.byte()?;
    let name = body.text()?;
    let named = match kind {
        b'S' => Named::Statement(name),
        b'P' => Named::Portal(name),
        _ => return Err(body.malformed("names neither a statement nor a portal")),
    };
    body.end()?;
    Ok(named)
}

/// The portal of an Execute.
pub fn execute(body: &[u8]) -> Result<&[u8], FrameError> {
    let mut body = Body::new("Execute", body);
    let portal = body.text()?;
    body.i32()?;
    body.end()?;
    Ok(portal)
}

/// Checks a CopyFail.
pub fn copy_fail(body: &[u8]) -> Result<(), FrameError> {
    let mut body = Body::new("CopyFail", body);
    body.text()?;
    body.end()
}

/// Mechanism and data of a SASLInitialResponse.
pub fn sasl_initial(body: &[u8]) -> Result<(&[u8], &[u8]), FrameError> {
    let mut body = Body::new("SASLInitialResponse", body);
    let mechanism = body.text()?;
    let data = body.value()?.ok_or(body.malformed("no initial response"))?;
    body.end()?;
    Ok((mechanism, data))
}

/// The password of a PasswordMessage.
pub fn password(body: &[u8]) -> Result<&[u8], FrameError> {
    let mut body = Body::new("PasswordMessage", body);
    let password = body.text()?;
    body.end()?;
    Ok(password)
}

/// Appends a Query.
pub fn put_query(out: &mut Vec<u8>, text: &[u8]) {
    frame(out, b'Q', |out| put_text(out, text));
}

/// Appends a Parse without parameter types.
pub fn put_parse(out: &mut Vec<u8>, name: &[u8], text: &[u8]) {
    frame(out, b'P', |out| {
        put_text(out, name);
        put_text(out, text);
        out.extend_from_slice(&[0, 0]);
    });
}

/// Appends a Bind without parameters.
pub fn put_bind(out: &mut Vec<u8>, portal: &[u8], statement: &[u8]) {
    frame(out, b'B', |out| {
        put_text(out, portal);
        put_text(out, statement);
        out.extend_from_slice(&[0; 6]);
    });
}

/// Appends a Describe of a portal.
pub fn put_describe_portal(out: &mut Vec<u8>, portal: &[u8]) {
    frame(out, b'D', |out| {
        out.push(b'P');
        put_text(out, portal);
    });
}

/// Appends a FunctionCall without arguments.
pub fn put_function_call(out: &mut Vec<u8>, function: u32) {
    frame(out, b'F', |out| {
        out.extend_from_slice(&function.to_be_bytes());
        out.extend_from_slice(&[0; 6]);
    });
}

/// Appends a PasswordMessage.
pub fn put_password(out: &mut Vec<u8>, password: &[u8]) {
    frame(out, b'p', |out| put_text(out, password));
}

/// Appends a SASLInitialResponse.
pub fn put_sasl_initial(out: &mut Vec<u8>, mechanism: &str, data: &[u8]) {
    frame(out, b'p', |out| {
        put_text(out, mechanism.as_bytes());
        out.extend_from_slice(&i32::try_from(data.len()).unwrap_or(0).to_be_bytes());
        out.extend_from_slice(data);
    });
}

/// Appends a SASLResponse.
pub fn put_sasl_response(out: &mut Vec<u8>, data: &[u8]) {
    frame(out, b'p', |out| out.extend_from_slice(data));
}

/// Appends a Terminate.
pub fn put_terminate(out: &mut Vec<u8>) {
    frame(out, b'X', |_| ());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_bind_is_read_as_the_server_reads_it() {
        let mut body = b"p\0s\0".to_vec();
        body.extend_from_slice(&[0, 1, 0, 1, 0, 2]);
        body.extend_from_slice(&[0, 0, 0, 2, b'a', b'b', 0xff, 0xff, 0xff, 0xff]);
        body.extend_from_slice(&[0, 2, 0, 0, 0, 1]);
        let bind = bind(&body).unwrap();
        assert_eq!((bind.portal, bind.statement), (&b"p"[..], &b"s"[..]));
        assert_eq!(bind.values, [Some(&b"ab"[..]), None]);
        assert_eq!((bind.formats.at(0), bind.formats.at(1)), (1, 1), "one code stands for all");
        assert_eq!((bind.result_formats.at(0), bind.result_formats.at(1)), (0, 1));
    }

    #[test]
    fn counts_and_lengths_that_do_not_fit_the_body_are_refused() {
        let cases: [&[u8]; 8] = [
            b"",
            b"p\0s",
            b"p\0s\0\0\0\0\x01\0\0",
            b"p\0s\0\0\0\0\x01\0\0\0\x05ab\0\0",
            b"p\0s\0\0\0\0\x01\xff\xff\xff\xfe\0\0",
            b"p\0s\0\0\x02\0\0\0\0\0\x01\0\0\0\0\0\0",
            b"p\0s\0\0\0\0\0\0\0x",
            b"p\0s\0\xff\xff\0\0\0\0",
        ];
        for body in cases {
            assert_eq!(bind(body).unwrap_err().reason(), "malformed-message", "{body:?}");
        }
        for body in [&b"SELECT 1"[..], b"SELECT 1\0x", b"SELECT\x001\0"] {
            assert!(query(body).is_err(), "{body:?}");
        }
        assert!(named("Close", b"Xname\0").is_err());
    }

    proptest! {
        #[test]
        fn no_body_makes_a_reader_panic(body in proptest::collection::vec(any::<u8>(), 0..48)) {
            let _ = (query(&body).is_ok(), parse(&body).is_ok(), bind(&body).is_ok(), execute(&body).is_ok());
            let _ = (function_call(&body).is_ok(), named("Close", &body).is_ok(), copy_fail(&body).is_ok());
            let _ = (sasl_initial(&body).is_ok(), password(&body).is_ok());
        }
    }
}
