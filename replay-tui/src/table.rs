//! A recorded result as a table of which only the rows that are looked at are decoded.

use std::sync::Arc;

use bodycam_record::content::postgres::{self, Column};

use crate::shown::Shown;
use crate::values;

/// Rows whose width is taken into account when columns are sized.
const SAMPLED: usize = 200;
/// Widest column.
pub const MAX_COLUMN_WIDTH: usize = 40;

/// The rows of one result, as stored.
#[derive(Debug, Clone, Default)]
pub struct ResultTable {
    columns: Vec<TableColumn>,
    frames: Arc<Vec<u8>>,
    /// Where each row's frame starts; one more for the end.
    starts: Vec<usize>,
    /// Rows that were sent to the client.
    pub sent: i64,
    /// Whether not all of them were stored.
    pub cut: bool,
}

/// A column.
#[derive(Debug, Clone)]
pub struct TableColumn {
    /// Its name.
    pub name: Shown,
    /// Its width in the terminal.
    pub width: usize,
    /// Whether its values stand at the right.
    pub numeric: bool,
    type_oid: u32,
    format: i64,
}

impl ResultTable {
    /// The table of stored DataRow frames under a RowDescription body. Without a description the columns are
    /// numbered and taken as text.
    pub fn new(
        description: Option<&[u8]>,
        frames: Vec<u8>,
        formats: &[i64],
        types: &[i64],
        sent: i64,
        cut: bool,
    ) -> Self {
        let starts = starts(&frames);
        let first = starts.first().zip(starts.get(1)).and_then(|(a, b)| frames.get(*a..*b));
        let width = first.and_then(|f| postgres::rows(f).pop()).map_or(0, |r| r.len());
        let described = description.and_then(postgres::columns).unwrap_or_default();
        let count = described.len().max(width);
        let columns = (0..count)
            .map(|i| {
                let column = described.get(i);
                let number = |list: &[i64]| list.get(i).copied();
                let type_oid =
                    column.map(|c| c.type_oid).or(number(types).and_then(|t| u32::try_from(t).ok()));
                let type_oid = type_oid.unwrap_or(0);
                let name = column.map_or_else(|| Shown::of(&format!("#{}", i + 1)), name_of);
                // The formats of the result are those in force at Execute; a description made at Parse says 0.
                let format = number(formats).or(column.map(|c| i64::from(c.format))).unwrap_or(0);
                TableColumn { width: 1, numeric: values::is_numeric(type_oid), name, type_oid, format }
            })
            .collect();
        let mut table = Self { columns, frames: Arc::new(frames), starts, sent, cut };
        table.size_columns();
        table
    }

    /// The columns.
    pub fn columns(&self) -> &[TableColumn] {
        &self.columns
    }

    /// Rows stored.
    pub fn rows(&self) -> usize {
        self.starts.len().saturating_sub(1)
    }

    /// The cells of row `row`; `NULL` where there is no value.
    pub fn row(&self, row: usize) -> Vec<Shown> {
        self.decoded(row, values::cell)
    }

    /// The cells of row `row` as text for machines: whole, unescaped where they are text.
    pub fn cells(&self, row: usize) -> Vec<Option<String>> {
        self.decoded(row, |cell, type_oid, format| {
            let text = cell.filter(|_| format != 1).and_then(|c| std::str::from_utf8(c).ok());
            match (cell, text) {
                (None, _) => None,
                (_, Some(text)) => Some(text.to_owned()),
                (cell, None) => Some(values::cell(cell, type_oid, format).into()),
            }
        })
    }

    fn decoded<T>(&self, row: usize, decode: impl Fn(Option<&[u8]>, u32, i64) -> T) -> Vec<T> {
        let frame =
            self.starts.get(row).zip(self.starts.get(row + 1)).and_then(|(a, b)| self.frames.get(*a..*b));
        let cells = frame.and_then(|f| postgres::rows(f).pop()).unwrap_or_default();
        let column = |i: usize| self.columns.get(i).map_or((0, 0), |c| (c.type_oid, c.format));
        cells
            .iter()
            .enumerate()
            .map(|(i, cell)| {
                let (type_oid, format) = column(i);
                decode(cell.as_deref(), type_oid, format)
            })
            .collect()
    }

    /// What is said below it: how many rows were stored of how many sent.
    pub fn caption(&self) -> String {
        let stored = i64::try_from(self.rows()).unwrap_or(i64::MAX);
        let rows = crate::units::plural(self.sent, "row", "rows");
        match (stored == self.sent, self.cut) {
            (true, false) => format!("{rows}, all stored"),
            _ => format!("{} of {rows} stored, truncated", crate::units::count(stored)),
        }
    }

    fn size_columns(&mut self) {
        let mut widths: Vec<usize> = self.columns.iter().map(|c| c.name.width()).collect();
        for row in 0..self.rows().min(SAMPLED) {
            for (width, cell) in widths.iter_mut().zip(self.row(row)) {
                *width = (*width).max(cell.width());
            }
        }
        for (column, width) in self.columns.iter_mut().zip(widths) {
            column.width = width.clamp(1, MAX_COLUMN_WIDTH);
        }
    }
}

fn name_of(column: &Column) -> Shown {
    Shown::bytes_limit(&column.name, 200)
}

/// Where each whole DataRow frame starts, and where the last one ends.
fn starts(frames: &[u8]) -> Vec<usize> {
    let mut starts = Vec::new();
    let mut at = 0;
    loop {
        starts.push(at);
        let head = frames.get(at..).unwrap_or_default();
        let [b'D', a, b, c, d, ..] = head else { return starts };
        let length = usize::try_from(u32::from_be_bytes([*a, *b, *c, *d])).unwrap_or(usize::MAX);
        match at.checked_add(length).and_then(|l| l.checked_add(1)) {
            Some(next) if length >= 4 && next <= frames.len() => at = next,
            _ => return starts,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(cells: &[Option<&[u8]>]) -> Vec<u8> {
        let mut body = (cells.len() as i16).to_be_bytes().to_vec();
        for cell in cells {
            match cell {
                None => body.extend((-1i32).to_be_bytes()),
                Some(bytes) => {
                    body.extend((bytes.len() as i32).to_be_bytes());
                    body.extend(*bytes);
                }
            }
        }
        let mut frame = vec![b'D'];
        frame.extend((body.len() as i32 + 4).to_be_bytes());
        frame.extend(body);
        frame
    }

    #[test]
    fn rows_are_decoded_one_by_one_and_a_torn_tail_is_left_out() {
        let mut frames = frame(&[Some(b"1"), Some(b"a@x")]);
        frames.extend(frame(&[Some(b"2"), None]));
        frames.extend(&frame(&[Some(b"3"), Some(b"c")])[..9]);
        let table = ResultTable::new(None, frames, &[0, 0], &[23, 25], 3, true);
        assert_eq!(table.rows(), 2);
        assert_eq!(table.row(0).iter().map(Shown::as_str).collect::<Vec<_>>(), ["1", "a@x"]);
        assert_eq!(table.row(1)[1].as_str(), "NULL");
        assert!(table.row(2).is_empty());
        assert_eq!(table.columns()[0].name.as_str(), "#1");
        assert!(table.columns()[0].numeric && !table.columns()[1].numeric);
        assert_eq!(table.caption(), "2 of 3 rows stored, truncated");
    }

    #[test]
    fn frames_that_lie_about_their_length_end_the_table() {
        for bad in [&b"D\xff\xff\xff\xff"[..], b"D\0\0\0\0", b"D\0\0\0\x03", b"X\0\0\0\x04", b"D\0", b""] {
            assert_eq!(ResultTable::new(None, bad.to_vec(), &[], &[], 1, false).rows(), 0, "{bad:?}");
        }
    }
}
