//! What the target sends, and what the gateway itself says to a client.

use std::ops::RangeInclusive;

use super::{Body, Direction, FrameError, LARGE, frame, put_text};

/// The direction from target to client.
#[derive(Debug)]
pub struct Backend;

/// Message types of servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    Authentication,
    BackendKeyData,
    BindComplete,
    CloseComplete,
    CommandComplete,
    CopyBoth,
    CopyData,
    CopyDone,
    CopyIn,
    CopyOut,
    DataRow,
    EmptyQuery,
    Error,
    FunctionResult,
    NegotiateVersion,
    NoData,
    Notice,
    Notification,
    ParameterDescription,
    ParameterStatus,
    ParseComplete,
    PortalSuspended,
    ReadyForQuery,
    RowDescription,
}

/// Longest body of a message that is looked at as a whole.
const MEDIUM: usize = 1 << 20;

impl Direction for Backend {
    type Kind = Kind;
    const FROM: &'static str = "target";

    fn kind(tag: u8) -> Option<(Kind, RangeInclusive<usize>)> {
        Some(match tag {
            b'R' => (Kind::Authentication, 4..=MEDIUM),
            b'K' => (Kind::BackendKeyData, 8..=260),
            b'2' => (Kind::BindComplete, 0..=0),
            b'3' => (Kind::CloseComplete, 0..=0),
            b'C' => (Kind::CommandComplete, 1..=MEDIUM),
            b'W' => (Kind::CopyBoth, 3..=MEDIUM),
            b'd' => (Kind::CopyData, 0..=LARGE),
            b'c' => (Kind::CopyDone, 0..=0),
            b'G' => (Kind::CopyIn, 3..=MEDIUM),
            b'H' => (Kind::CopyOut, 3..=MEDIUM),
            b'D' => (Kind::DataRow, 2..=LARGE),
            b'I' => (Kind::EmptyQuery, 0..=0),
            b'E' => (Kind::Error, 1..=LARGE),
            b'V' => (Kind::FunctionResult, 4..=LARGE),
            b'v' => (Kind::NegotiateVersion, 8..=MEDIUM),
            b'n' => (Kind::NoData, 0..=0),
            b'N' => (Kind::Notice, 1..=LARGE),
            b'A' => (Kind::Notification, 6..=MEDIUM),
            b't' => (Kind::ParameterDescription, 2..=MEDIUM),
            b'S' => (Kind::ParameterStatus, 2..=MEDIUM),
            b'1' => (Kind::ParseComplete, 0..=0),
            b's' => (Kind::PortalSuspended, 0..=0),
            b'Z' => (Kind::ReadyForQuery, 1..=1),
            b'T' => (Kind::RowDescription, 2..=MEDIUM),
            _ => return None,
        })
    }
}

impl Kind {
    /// Whether such a message passes piece by piece when it is long, instead of being looked at as a whole.
    pub fn streams(self) -> bool {
        matches!(self, Kind::DataRow | Kind::CopyData | Kind::Error | Kind::Notice | Kind::FunctionResult)
    }
}

/// What the target asks for, or says, during authentication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Authentication<'a> {
    Ok,
    Cleartext,
    Md5([u8; 4]),
    /// The names of the mechanisms, NUL after each.
    Sasl(&'a [u8]),
    SaslContinue(&'a [u8]),
    SaslFinal(&'a [u8]),
    /// A method that this gateway does not speak.
    Other(i32),
}

/// Reads an Authentication message.
pub fn authentication(body: &[u8]) -> Result<Authentication<'_>, FrameError> {
    let mut body = Body::new("Authentication", body);
    let answer = match body.i32()? {
        0 => Authentication::Ok,
        3 => Authentication::Cleartext,
        5 => {
            let salt = body.bytes(4)?;
            Authentication::Md5(*salt.first_chunk().ok_or(body.malformed("salt"))?)
        }
        10 => return Ok(Authentication::Sasl(body.rest())),
        11 => return Ok(Authentication::SaslContinue(body.rest())),
        12 => return Ok(Authentication::SaslFinal(body.rest())),
        other => return Ok(Authentication::Other(other)),
    };
    body.end()?;
    Ok(answer)
}

/// Process id and secret key.
pub fn key_data(body: &[u8]) -> Result<(i32, &[u8]), FrameError> {
    let mut body = Body::new("BackendKeyData", body);
    Ok((body.i32()?, body.rest()))
}

/// Name and value of a ParameterStatus.
pub fn parameter(body: &[u8]) -> Result<(&[u8], &[u8]), FrameError> {
    let mut body = Body::new("ParameterStatus", body);
    let pair = (body.text()?, body.text()?);
    body.end()?;
    Ok(pair)
}

/// Transaction status of a ReadyForQuery: `I`, `T` or `E`.
pub fn ready(body: &[u8]) -> Result<u8, FrameError> {
    match body {
        [status @ (b'I' | b'T' | b'E')] => Ok(*status),
        _ => Err(FrameError::Malformed { message: "ReadyForQuery", what: "unknown transaction status" }),
    }
}

/// The tag of a CommandComplete.
pub fn tag(body: &[u8]) -> Result<&[u8], FrameError> {
    let mut body = Body::new("CommandComplete", body);
    let tag = body.text()?;
    body.end()?;
    Ok(tag)
}

/// The columns of a RowDescription.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Columns {
    pub tables: Vec<i64>,
    pub attributes: Vec<i64>,
    pub types: Vec<i64>,
    pub formats: Vec<i64>,
    /// The message's body as sent.
    pub body: Vec<u8>,
}

/// Reads a RowDescription.
pub fn columns(whole: &[u8]) -> Result<Columns, FrameError> {
    let mut body = Body::new("RowDescription", whole);
    let count = body.count()?;
    let mut columns = Columns { body: whole.to_vec(), ..Columns::default() };
    for _ in 0..count {
        body.text()?;
        columns.tables.push(i64::from(body.oid()?));
        columns.attributes.push(i64::from(body.i16()?));
        columns.types.push(i64::from(body.oid()?));
        body.bytes(6)?;
        columns.formats.push(i64::from(body.i16()?));
    }
    body.end()?;
    Ok(columns)
}

/// The values of a DataRow.
pub fn values(body: &[u8]) -> Result<Vec<Option<Vec<u8>>>, FrameError> {
    let mut body = Body::new("DataRow", body);
    let count = body.count()?;
    (0..count).map(|_| Ok(body.value()?.map(<[u8]>::to_vec))).collect()
}

/// Reads DataRow messages, however they are split: whether each has the form of one.
#[derive(Debug, Default)]
pub struct RowReader {
    /// Columns that the row says it has; none before it has said so.
    columns: Option<usize>,
    /// Columns that are still to begin.
    left: usize,
    /// Bytes of the current value that are still to come.
    value: usize,
    /// The beginning of a number that was split.
    begun: Vec<u8>,
}

impl RowReader {
    /// Reads the next bytes of the row's body.
    pub fn feed(&mut self, mut bytes: &[u8]) -> Result<(), FrameError> {
        let malformed = |what| FrameError::Malformed { message: "DataRow", what };
        loop {
            let skipped = self.value.min(bytes.len());
            self.value -= skipped;
            bytes = bytes.get(skipped..).unwrap_or_default();
            if bytes.is_empty() {
                return Ok(());
            }
            let width = match (self.columns, self.left) {
                (None, _) => 2,
                (Some(_), 0) => return Err(malformed("bytes after its end")),
                (Some(_), _) => 4,
            };
            let missing = width - self.begun.len();
            let Some((part, rest)) = bytes.split_at_checked(missing) else {
                self.begun.extend_from_slice(bytes);
                return Ok(());
            };
            bytes = rest;
            let whole = if self.begun.is_empty() {
                part
            } else {
                self.begun.extend_from_slice(part);
                self.begun.as_slice()
            };
            match *whole {
                [a, b] => {
                    let columns = usize::try_from(i16::from_be_bytes([a, b]));
                    self.left = columns.map_err(|_| malformed("negative count"))?;
                    self.columns = Some(self.left);
                }
                [a, b, c, d] => {
                    self.left -= 1;
                    self.value = match i32::from_be_bytes([a, b, c, d]) {
                        -1 => 0,
                        length => usize::try_from(length).map_err(|_| malformed("negative length"))?,
                    };
                }
                _ => {}
            }
            self.begun.clear();
        }
    }

    /// The row's body ends here: its number of columns.
    pub fn end(&self) -> Result<usize, FrameError> {
        match self.columns {
            Some(columns) if self.left == 0 && self.value == 0 && self.begun.is_empty() => Ok(columns),
            _ => Err(FrameError::Malformed { message: "DataRow", what: "ends too early" }),
        }
    }

    /// Columns that the row says it has, once it has.
    pub fn columns(&self) -> Option<usize> {
        self.columns
    }
}

/// The number of columns of a whole DataRow.
pub fn row(body: &[u8]) -> Result<usize, FrameError> {
    let mut body = Body::new("DataRow", body);
    let count = body.count()?;
    for _ in 0..count {
        body.value()?;
    }
    body.end()?;
    Ok(count)
}

/// Whether an ErrorResponse or NoticeResponse has the form of one.
pub fn fields(message: &'static str, body: &[u8]) -> Result<(), FrameError> {
    let mut body = Body::new(message, body);
    while body.byte()? != 0 {
        body.text()?;
    }
    body.end()
}

/// Overall format of a CopyInResponse or CopyOutResponse: 0 text, 1 binary.
pub fn copy_format(body: &[u8]) -> Result<i64, FrameError> {
    let mut body = Body::new("CopyResponse", body);
    let format = body.byte()?;
    let count = body.count()?;
    body.bytes(count * 2)?;
    body.end()?;
    Ok(i64::from(format))
}

/// The parameter types of a ParameterDescription.
pub fn parameter_types(body: &[u8]) -> Result<Vec<u32>, FrameError> {
    let mut body = Body::new("ParameterDescription", body);
    let count = body.count_unsigned()?;
    let mut types = Vec::new();
    for _ in 0..count {
        types.push(body.oid()?);
    }
    body.end()?;
    Ok(types)
}

/// The field `code` of an ErrorResponse or NoticeResponse, of which `body` may be only the beginning.
pub fn error_field(body: &[u8], code: u8) -> Option<&[u8]> {
    let mut body = Body::new("ErrorResponse", body);
    loop {
        match body.byte().ok()? {
            0 => return None,
            found => {
                let text = body.text().ok()?;
                if found == code {
                    return Some(text);
                }
            }
        }
    }
}

/// The SQLSTATE of an error or notice; five characters or nothing.
pub fn sqlstate(body: &[u8]) -> Option<String> {
    let code = error_field(body, b'C')?;
    (code.len() == 5 && code.iter().all(u8::is_ascii_alphanumeric))
        .then(|| String::from_utf8_lossy(code).into_owned())
}

/// Appends an ErrorResponse of the gateway's own.
pub fn put_error(out: &mut Vec<u8>, severity: &str, sqlstate: &str, message: &str, hint: Option<&str>) {
    frame(out, b'E', |out| {
        let fields = [(b'S', severity), (b'V', severity), (b'C', sqlstate), (b'M', message)];
        for (code, text) in fields.into_iter().chain(hint.map(|h| (b'H', h))) {
            out.push(code);
            put_text(out, text.as_bytes());
        }
        out.push(0);
    });
}

/// Appends an Authentication message of this code.
pub fn put_authentication(out: &mut Vec<u8>, code: i32, data: &[u8]) {
    frame(out, b'R', |out| {
        out.extend_from_slice(&code.to_be_bytes());
        out.extend_from_slice(data);
    });
}

/// Appends a BackendKeyData.
pub fn put_key_data(out: &mut Vec<u8>, process: i32, key: &[u8]) {
    frame(out, b'K', |out| {
        out.extend_from_slice(&process.to_be_bytes());
        out.extend_from_slice(key);
    });
}

/// Appends a NegotiateProtocolVersion: the newest version spoken and the options not known.
pub fn put_negotiate(out: &mut Vec<u8>, version: i32, unknown: &[Vec<u8>]) {
    frame(out, b'v', |out| {
        out.extend_from_slice(&version.to_be_bytes());
        out.extend_from_slice(&i32::try_from(unknown.len()).unwrap_or(0).to_be_bytes());
        for option in unknown {
            put_text(out, option);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_error_is_read_and_written_alike() {
        let mut out = Vec::new();
        put_error(&mut out, "FATAL", "08P01", "no\0way", Some("go away"));
        let body = &out[super::super::HEADER..];
        assert_eq!(sqlstate(body).as_deref(), Some("08P01"));
        assert_eq!(error_field(body, b'M'), Some(&b"no way"[..]));
        assert_eq!(error_field(body, b'H'), Some(&b"go away"[..]));
        assert_eq!(error_field(body, b'D'), None);
        for cut in 0..body.len() {
            let _ = sqlstate(&body[..cut]);
        }
    }

    #[test]
    fn an_error_without_sqlstate_has_none() {
        for body in [&b"SERROR\0Mx\0\0"[..], b"", b"\0", b"C\0\0", b"C4250\0\0", b"C42\x1b01\0\0"] {
            assert_eq!(sqlstate(body), None, "{body:?}");
        }
    }

    proptest! {
        #[test]
        fn a_row_in_pieces_is_judged_as_in_one(values in proptest::collection::vec(proptest::option::of(proptest::collection::vec(any::<u8>(), 0..9)), 0..5), cut in 0usize..12, extra in any::<bool>(), sizes in proptest::collection::vec(1usize..7, 1..40)) {
            let mut body = (values.len() as i16).to_be_bytes().to_vec();
            for value in &values {
                match value {
                    None => body.extend((-1i32).to_be_bytes()),
                    Some(value) => { body.extend((value.len() as i32).to_be_bytes()); body.extend(value); }
                }
            }
            if extra { body.push(0) }
            body.truncate(body.len().saturating_sub(cut));
            let whole = row(&body);
            let (mut reader, mut rest, mut fed) = (RowReader::default(), body.as_slice(), Ok(()));
            for size in sizes.iter().cycle() {
                let (part, after) = rest.split_at((*size).min(rest.len()));
                fed = fed.and_then(|()| reader.feed(part));
                rest = after;
                if rest.is_empty() { break }
            }
            prop_assert_eq!(fed.and_then(|()| reader.end()).ok(), whole.ok());
        }

        #[test]
        fn no_body_makes_a_reader_panic(body in proptest::collection::vec(any::<u8>(), 0..48)) {
            let _ = (authentication(&body).is_ok(), key_data(&body).is_ok(), parameter(&body).is_ok());
            let _ = (ready(&body).is_ok(), tag(&body).is_ok(), columns(&body).is_ok());
            let _ = (row(&body).is_ok(), fields("ErrorResponse", &body).is_ok(), values(&body).is_ok());
            let _ = (copy_format(&body).is_ok(), parameter_types(&body).is_ok(), sqlstate(&body).is_some());
        }
    }
}
