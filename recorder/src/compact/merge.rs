//! Sorted files → one sorted file: rows stream from all inputs at once, so that memory does not grow with the files.
//!
//! What is in memory: of each input the pages that are being read and about a mebibyte of rows, of the output a row
//! group ([`bodycam_lake::file::ROW_GROUP_BYTES`]). Invariant: what goes in comes out, every row once, but for
//! superseded rows of the index of sessions; an input that is not sorted is an error and never merged as if it were.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::array::{Array, ArrayRef, MutableArrayData, RecordBatch, make_array, new_null_array};
use arrow::compute::{SortColumn, SortOptions, concat_batches, lexsort_to_indices, take_record_batch};
use arrow::error::ArrowError;
use arrow::row::{RowConverter, Rows, SortField};
use bodycam_lake::columns::sessions;
use bodycam_lake::columns::sessions::SessionRow;
use bodycam_lake::{FileEntry, FileWriter, LakeError, Table};

/// Rows that are gathered before they are encoded.
const GATHERED_ROWS: usize = 8 * 1024;
/// Bytes, about, that are gathered before they are encoded.
const GATHERED_BYTES: usize = 4 << 20;

/// The rows of a file, in the order of the file.
pub struct Input {
    /// Where it is in the lake.
    pub path: String,
    /// Its rows.
    pub batches: Batches,
    /// Bytes of a row in memory, about.
    pub row_bytes: usize,
}

/// Rows as they are read.
pub type Batches = Box<dyn Iterator<Item = Result<RecordBatch, ArrowError>> + Send>;

/// Why files were not merged.
#[derive(Debug)]
pub enum Unmerged {
    /// A file cannot be read, or the output cannot be written.
    Lake(LakeError),
    /// A file is not sorted as its table is.
    Unsorted(String),
    /// The process is to stop.
    Stopped,
}

impl From<LakeError> for Unmerged {
    fn from(err: LakeError) -> Self {
        Unmerged::Lake(err)
    }
}

/// Writes one file with the rows of all inputs to `out`; gives what a commit says about it. In the table of sessions
/// superseded revisions are left out.
pub fn merge<W: Write + Send>(
    table: Table,
    inputs: Vec<Input>,
    out: W,
    stop: &AtomicBool,
) -> Result<(W, FileEntry), Unmerged> {
    let mut writer = Output { table, writer: FileWriter::to(table, out)?, newest: None };
    let mut cursors = Vec::new();
    let mut heads = BinaryHeap::new();
    for input in inputs {
        let mut cursor = Cursor::new(table, input)?;
        if cursor.advance()? {
            heads.push(Reverse((cursor.key(cursor.at), cursors.len())));
        }
        cursors.push(cursor);
    }
    let mut gathered = Gathered::default();
    while let Some(Reverse((_, n))) = heads.pop() {
        if stop.load(Ordering::Relaxed) {
            return Err(Unmerged::Stopped);
        }
        let Some(cursor) = cursors.get_mut(n) else { continue };
        // Of equal keys, those of the first input come first.
        let until = heads.peek().map(|Reverse((key, other))| (key.as_slice(), n < *other));
        let end = cursor.end_of_run(until).min(cursor.at + gathered.room(cursor.row_bytes));
        gathered.add(cursor, end);
        if gathered.is_full() {
            let batch = gathered.take(table, &mut cursors)?;
            writer.write(&batch)?;
        }
        let Some(cursor) = cursors.get_mut(n) else { continue };
        if cursor.at < cursor.keys.num_rows() || cursor.advance()? {
            heads.push(Reverse((cursor.key(cursor.at), n)));
        }
    }
    writer.write(&gathered.take(table, &mut cursors)?)?;
    writer.close()
}

/// The rows of a file that is not sorted, sorted. They are all in memory.
pub fn sorted(table: Table, input: Input) -> Result<Input, LakeError> {
    let failed = |err: ArrowError| columns(table, &err);
    let batches: Result<Vec<_>, _> = input
        .batches
        .map(|batch| {
            batch.map_err(|err| damaged(&input.path, &err)).and_then(|b| in_schema(table, &input.path, &b))
        })
        .collect();
    let all = concat_batches(&table.schema(), &batches?).map_err(failed)?;
    let keys: Vec<_> = key_columns(table, &all)
        .into_iter()
        .map(|values| {
            let options = Some(SortOptions { descending: false, nulls_first: false });
            SortColumn { values, options }
        })
        .collect();
    let order = lexsort_to_indices(&keys, None).map_err(failed)?;
    let all = take_record_batch(&all, &order).map_err(failed)?;
    Ok(Input { batches: Box::new(std::iter::once(Ok(all))), ..input })
}

/// An input and how far it is read.
struct Cursor {
    table: Table,
    path: String,
    batches: Batches,
    converter: RowConverter,
    batch: RecordBatch,
    /// The keys of the batch's rows.
    keys: Rows,
    /// The next row of the batch.
    at: usize,
    row_bytes: usize,
    /// The place of the batch among those that are gathered from.
    gathered_as: Option<usize>,
}

impl Cursor {
    fn new(table: Table, input: Input) -> Result<Self, LakeError> {
        let schema = table.schema();
        let fields = table.sorted_by().iter().filter_map(|name| schema.field_with_name(name).ok());
        let options = SortOptions { descending: false, nulls_first: false };
        let fields = fields.map(|f| SortField::new_with_options(f.data_type().clone(), options));
        let converter = RowConverter::new(fields.collect()).map_err(|err| columns(table, &err))?;
        let keys = converter.empty_rows(0, 0);
        let batch = RecordBatch::new_empty(schema);
        let Input { path, batches, row_bytes } = input;
        Ok(Self { table, path, batches, converter, batch, keys, at: 0, row_bytes, gathered_as: None })
    }

    /// Goes on to the next batch; false at the end.
    fn advance(&mut self) -> Result<bool, Unmerged> {
        let last = self.keys.num_rows().checked_sub(1).map(|row| self.key(row));
        for batch in self.batches.by_ref() {
            let batch = batch.map_err(|err| damaged(&self.path, &err))?;
            if batch.num_rows() == 0 {
                continue;
            }
            self.batch = in_schema(self.table, &self.path, &batch)?;
            let keys = self.converter.convert_columns(&key_columns(self.table, &self.batch));
            self.keys = keys.map_err(|err| columns(self.table, &err))?;
            (self.at, self.gathered_as) = (0, None);
            let follows = last.is_none_or(|last| last.as_slice() <= self.keys.row(0).data());
            if !follows || !self.keys.iter().is_sorted() {
                return Err(Unmerged::Unsorted(self.path.clone()));
            }
            return Ok(true);
        }
        Ok(false)
    }

    fn key(&self, row: usize) -> Vec<u8> {
        self.keys.row(row).data().to_vec()
    }

    /// The first row from the next one on that does not come before `until`: a key, and whether rows of this very
    /// key come before it.
    fn end_of_run(&self, until: Option<(&[u8], bool)>) -> usize {
        let rows = self.keys.num_rows();
        let Some((key, equal_too)) = until else { return rows };
        let is_before = |row: usize| {
            let own = self.keys.row(row).data();
            if equal_too { own <= key } else { own < key }
        };
        // Doubling steps first: runs are short where many sessions are open, and long otherwise.
        let (mut low, mut step) = (self.at, 1);
        while low + step < rows && is_before(low + step) {
            low += step;
            step *= 2;
        }
        let mut high = rows.min(low + step);
        while low + 1 < high {
            let middle = low + (high - low) / 2;
            if is_before(middle) { low = middle } else { high = middle }
        }
        low + 1
    }
}

/// Rows that were chosen and are not copied yet.
#[derive(Default)]
struct Gathered {
    batches: Vec<RecordBatch>,
    /// Batch, first row, and the row after the last.
    runs: Vec<(usize, usize, usize)>,
    rows: usize,
    bytes: usize,
}

impl Gathered {
    /// Rows of this size for which there is room; one in any case.
    fn room(&self, row_bytes: usize) -> usize {
        let by_bytes = GATHERED_BYTES.saturating_sub(self.bytes) / row_bytes.max(1);
        GATHERED_ROWS.saturating_sub(self.rows).min(by_bytes).max(1)
    }

    fn is_full(&self) -> bool {
        self.rows >= GATHERED_ROWS || self.bytes >= GATHERED_BYTES
    }

    /// Takes the rows of a cursor up to `end`.
    fn add(&mut self, cursor: &mut Cursor, end: usize) {
        let batch = *cursor.gathered_as.get_or_insert_with(|| {
            self.batches.push(cursor.batch.clone());
            self.batches.len() - 1
        });
        match self.runs.last_mut() {
            Some(last) if last.0 == batch && last.2 == cursor.at => last.2 = end,
            _ => self.runs.push((batch, cursor.at, end)),
        }
        self.rows += end - cursor.at;
        self.bytes += (end - cursor.at) * cursor.row_bytes;
        cursor.at = end;
    }

    /// The rows, in their order.
    fn take(&mut self, table: Table, cursors: &mut [Cursor]) -> Result<RecordBatch, LakeError> {
        let Gathered { batches, runs, rows, .. } = std::mem::take(self);
        cursors.iter_mut().for_each(|cursor| cursor.gathered_as = None);
        if let ([(0, from, to)], [batch]) = (runs.as_slice(), batches.as_slice()) {
            return Ok(batch.slice(*from, to - from));
        }
        let schema = table.schema();
        let columns_of = schema.fields().iter().enumerate().map(|(i, field)| {
            let columns: Vec<_> = batches.iter().map(|batch| batch.column(i)).collect();
            if columns.iter().all(|column| column.null_count() == column.len()) {
                return Ok(new_null_array(field.data_type(), rows));
            }
            let columns: Vec<_> = columns.into_iter().map(Array::to_data).collect();
            let mut picked = MutableArrayData::new(columns.iter().collect(), false, rows);
            for (batch, from, to) in &runs {
                picked.try_extend(*batch, *from, *to)?;
            }
            Ok(make_array(picked.freeze()))
        });
        let gathered = columns_of.collect::<Result<Vec<_>, ArrowError>>();
        let gathered = gathered.and_then(|gathered| RecordBatch::try_new(schema.clone(), gathered));
        gathered.map_err(|err| columns(table, &err))
    }
}

/// The file that is written.
struct Output<W: Write + Send> {
    table: Table,
    writer: FileWriter<W>,
    /// In the table of sessions: the newest row of the last session so far.
    newest: Option<SessionRow>,
}

impl<W: Write + Send> Output<W> {
    fn write(&mut self, batch: &RecordBatch) -> Result<(), LakeError> {
        if self.table != Table::Sessions {
            return self.writer.write(batch);
        }
        let rows = self.newest.take().into_iter().chain(sessions::decode(batch)?);
        let mut rows = sessions::newest(rows);
        self.newest = rows.pop();
        self.writer.write(&sessions::encode(&rows)?)
    }

    fn close(mut self) -> Result<(W, FileEntry), Unmerged> {
        let last = self.newest.take();
        if last.is_some() {
            self.writer.write(&sessions::encode(&last)?)?;
        }
        Ok(self.writer.close()?)
    }
}

fn key_columns(table: Table, batch: &RecordBatch) -> Vec<ArrayRef> {
    table.sorted_by().iter().filter_map(|name| batch.column_by_name(name)).cloned().collect()
}

/// `batch` with the columns of today's table: those that its file did not have yet are null. A file with
/// columns that this build does not know is refused.
fn in_schema(table: Table, path: &str, batch: &RecordBatch) -> Result<RecordBatch, LakeError> {
    let schema = table.schema();
    if batch.schema_ref().fields() == schema.fields() {
        return Ok(batch.clone());
    }
    let unknown = batch.schema_ref().fields().iter().find(|f| schema.index_of(f.name()).is_err());
    if let Some(field) = unknown {
        let reason = format!("column {} is not known to this build", bodycam_record::shown(field.name()));
        return Err(LakeError::Damaged { path: path.to_owned(), reason });
    }
    let columns = schema.fields().iter().map(|field| match batch.column_by_name(field.name()) {
        Some(column) => column.clone(),
        None => new_null_array(field.data_type(), batch.num_rows()),
    });
    RecordBatch::try_new(schema.clone(), columns.collect()).map_err(|err| damaged(path, &err))
}

fn damaged(path: &str, err: &ArrowError) -> LakeError {
    LakeError::Damaged { path: path.to_owned(), reason: bodycam_record::shown(&err.to_string()) }
}

fn columns(table: Table, err: &ArrowError) -> LakeError {
    LakeError::Columns { table: table.name(), reason: bodycam_record::shown(&err.to_string()) }
}

#[cfg(test)]
mod tests;
