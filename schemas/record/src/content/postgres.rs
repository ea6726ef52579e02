//! Reading recorded PostgreSQL message bodies (RowDescription, DataRow, ErrorResponse) for display.
//! <https://www.postgresql.org/docs/current/protocol-message-formats.html>

/// A column of a recorded result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Name as sent; may hold anything.
    pub name: Vec<u8>,
    /// Table OID, 0 for expressions.
    pub table_oid: u32,
    /// Attribute number, 0 for expressions.
    pub attribute: i16,
    /// Type OID.
    pub type_oid: u32,
    /// 0 text, 1 binary.
    pub format: i16,
}

/// A cell; none for NULL.
pub type Cell = Option<Vec<u8>>;

struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(n)?;
        self.0 = tail;
        Some(head)
    }
    fn i16(&mut self) -> Option<i16> {
        self.take(2)?.try_into().ok().map(i16::from_be_bytes)
    }
    fn i32(&mut self) -> Option<i32> {
        self.take(4)?.try_into().ok().map(i32::from_be_bytes)
    }
    fn cstr(&mut self) -> Option<&'a [u8]> {
        let end = self.0.iter().position(|b| *b == 0)?;
        let text = self.take(end)?;
        self.take(1)?;
        Some(text)
    }
}

/// The columns of a RowDescription body; none when it is malformed.
pub fn columns(body: &[u8]) -> Option<Vec<Column>> {
    let mut c = Cursor(body);
    let n = c.i16()?;
    let mut out = Vec::new();
    for _ in 0..n {
        let name = c.cstr()?.to_vec();
        let table_oid = c.i32()?.cast_unsigned();
        let attribute = c.i16()?;
        let type_oid = c.i32()?.cast_unsigned();
        c.take(6)?;
        out.push(Column { name, table_oid, attribute, type_oid, format: c.i16()? });
    }
    Some(out)
}

/// The rows in recorded DataRow frames; a cut last frame is left out.
pub fn rows(frames: &[u8]) -> Vec<Vec<Cell>> {
    let mut c = Cursor(frames);
    let mut out = Vec::new();
    while let Some(row) = next_row(&mut c) {
        out.push(row);
    }
    out
}

fn next_row(c: &mut Cursor<'_>) -> Option<Vec<Cell>> {
    if c.take(1)? != b"D" {
        return None;
    }
    let len = usize::try_from(c.i32()?).ok()?.checked_sub(4)?;
    let mut body = Cursor(c.take(len)?);
    let n = body.i16()?;
    let mut row = Vec::new();
    for _ in 0..n {
        row.push(match usize::try_from(body.i32()?) {
            Ok(len) => Some(body.take(len)?.to_vec()),
            Err(_) => None,
        });
    }
    Some(row)
}

/// The fields of an ErrorResponse or NoticeResponse body: code byte and text.
pub fn error_fields(body: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut c = Cursor(body);
    let mut out = Vec::new();
    while let Some([code]) = c.take(1) {
        let (1.., Some(text)) = (*code, c.cstr()) else { break };
        out.push((*code, text.to_vec()));
    }
    out
}
