//! Header and trailer fields (RFC 9110 §5, RFC 9112 §5), and the scanner that finds where a section ends.
//!
//! Invariant: a section is accepted or refused alike however its bytes were split over reads.

use super::head::HeadError;

/// How large a head may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the whole section, first line and last empty line included.
    pub bytes: usize,
    /// Fields.
    pub fields: usize,
    /// Bytes of the request target.
    pub url: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { bytes: 64 << 10, fields: 128, url: 16 << 10 }
    }
}

/// One field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// Name as sent.
    pub name: Box<str>,
    /// Value without the white space around it.
    pub value: Box<[u8]>,
}

/// The fields of a section, in order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Fields(Vec<Field>);

/// Finds the empty line that ends a section, over as many reads as it takes.
#[derive(Debug, Clone)]
pub struct Scanner {
    kind: Section,
    at: usize,
    line_start: usize,
    lines: usize,
}

/// What kind of section is scanned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Section {
    /// A request head: first line and fields.
    Request,
    /// A response head.
    Response,
    /// Trailer fields, which have no first line and may be absent.
    Trailers,
}

impl Fields {
    /// Every field.
    pub fn iter(&self) -> impl Iterator<Item = &Field> {
        self.0.iter()
    }

    /// The values of `name`, in order.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.0.iter().filter(move |f| f.name.eq_ignore_ascii_case(name)).map(|f| &*f.value)
    }

    /// The value of a field that may appear once; `repeated` when it appears more often.
    pub fn at_most_one<'a>(
        &'a self,
        name: &'a str,
        repeated: HeadError,
    ) -> Result<Option<&'a [u8]>, HeadError> {
        let mut values = self.all(name);
        match (values.next(), values.next()) {
            (_, Some(_)) => Err(repeated),
            (value, None) => Ok(value),
        }
    }

    /// The comma-separated members of `name`, over all its fields.
    pub fn tokens<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.all(name).flat_map(|v| v.split(|b| *b == b',')).map(trim).filter(|t| !t.is_empty())
    }

    /// Whether a list field has this member, in any case.
    pub fn has_token(&self, name: &str, token: &str) -> bool {
        self.tokens(name).any(|t| t.eq_ignore_ascii_case(token.as_bytes()))
    }

    /// Reads the lines of a section (without its first line), each ended by CRLF, up to the empty one.
    pub fn parse(section: &[u8], limit: usize) -> Result<Self, HeadError> {
        let mut fields = Vec::new();
        for line in lines(section) {
            if line.is_empty() {
                break;
            }
            if fields.len() == limit {
                return Err(HeadError::TooManyFields);
            }
            fields.push(field(line)?);
        }
        Ok(Self(fields))
    }
}

impl Scanner {
    /// A scanner at the start of a section.
    pub fn new(kind: Section) -> Self {
        Self { kind, at: 0, line_start: 0, lines: 0 }
    }

    /// The length of the section with its last empty line, once `buf` holds it. `buf` starts at the section
    /// and only grows between calls.
    pub fn end(&mut self, buf: &[u8], limits: Limits) -> Result<Option<usize>, HeadError> {
        while let Some(&byte) = buf.get(self.at) {
            if self.at >= limits.bytes {
                return Err(HeadError::TooLarge);
            }
            if self.lines == 0 && self.at > limits.url.saturating_add(MAX_REQUEST_LINE_OVERHEAD) {
                return Err(HeadError::UrlTooLong);
            }
            match byte {
                b'\n' => return Err(HeadError::BareLf),
                b'\r' => match buf.get(self.at + 1) {
                    None => return Ok(None),
                    Some(b'\n') => {
                        if let Some(end) = self.line_ends(limits)? {
                            return Ok(Some(end));
                        }
                        continue;
                    }
                    Some(_) => return Err(HeadError::BareCr),
                },
                b'\t' => {}
                0..=0x1f | 0x7f => return Err(HeadError::ControlByte),
                first if self.at == 0 && !self.may_begin(first) => return Err(HeadError::FirstLine),
                _ => {}
            }
            self.at += 1;
        }
        Ok(None)
    }

    fn line_ends(&mut self, limits: Limits) -> Result<Option<usize>, HeadError> {
        let empty = self.at == self.line_start;
        self.at += 2;
        self.line_start = self.at;
        if self.at > limits.bytes {
            return Err(HeadError::TooLarge);
        }
        if empty && (self.lines > 0 || self.kind == Section::Trailers) {
            return Ok(Some(self.at));
        }
        if empty {
            return Err(HeadError::FirstLine);
        }
        self.lines += 1;
        let first = usize::from(self.kind != Section::Trailers);
        if self.lines > limits.fields.saturating_add(first) {
            return Err(HeadError::TooManyFields);
        }
        Ok(None)
    }

    /// Tells a TLS hello, or any other protocol, from a head at its first byte.
    fn may_begin(&self, byte: u8) -> bool {
        match self.kind {
            Section::Request => is_token_byte(byte),
            Section::Response => byte == b'H',
            Section::Trailers => true,
        }
    }
}

/// Method, spaces and version of a request line; a status line with its reason fits too.
const MAX_REQUEST_LINE_OVERHEAD: usize = 256;

/// Whether `byte` may stand in a token (RFC 9110 §5.6.2).
pub fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Whether `bytes` is a token.
pub fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|b| is_token_byte(*b))
}

/// `value` without spaces and tabs around it.
pub fn trim(value: &[u8]) -> &[u8] {
    let is_space = |b: &u8| matches!(b, b' ' | b'\t');
    let start = value.iter().position(|b| !is_space(b)).unwrap_or(value.len());
    let end = value.iter().rposition(|b| !is_space(b)).map_or(start, |at| at + 1);
    value.get(start..end).unwrap_or_default()
}

/// The lines of bytes in which every CR stands before an LF and every LF after a CR.
pub fn lines(section: &[u8]) -> impl Iterator<Item = &[u8]> {
    section.split(|b| *b == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line))
}

fn field(line: &[u8]) -> Result<Field, HeadError> {
    if matches!(line.first(), Some(b' ' | b'\t')) {
        return Err(HeadError::ObsFold);
    }
    let colon = line.iter().position(|b| *b == b':').ok_or(HeadError::NoColon)?;
    let (name, value) = line.split_at_checked(colon).ok_or(HeadError::NoColon)?;
    if matches!(name.last(), Some(b' ' | b'\t')) {
        return Err(HeadError::SpaceBeforeColon);
    }
    if !is_token(name) {
        return Err(HeadError::FieldName);
    }
    let name = std::str::from_utf8(name).map_err(|_| HeadError::FieldName)?;
    Ok(Field { name: name.into(), value: trim(value.get(1..).unwrap_or_default()).into() })
}
