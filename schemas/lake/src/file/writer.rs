//! Writes one file, wherever it goes, in memory that does not grow with it.
//!
//! Invariant: the bytes of a file are a function of its rows in their order, however they were cut into batches. The
//! verifier asks for that: it encodes rows anew to see whether they are those of a committed file.

use std::io::{self, Write};

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::DataType;
use bodycam_record::Digest;
use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use sha2::{Digest as _, Sha256};

use super::about::About;
use super::{EncodedFile, ROW_GROUP_BYTES, ROW_GROUP_ROWS, properties, step_rows};
use crate::columns::Table;
use crate::commit::FileEntry;
use crate::error::LakeError;

/// Writes one file of a table, and gathers what the commit says about it. Rows come sorted as
/// [`Table::sorted_by`] says.
pub struct FileWriter<W: Write + Send = Vec<u8>> {
    table: Table,
    writer: ArrowWriter<Digesting<W>>,
    about: About,
    /// Rows that do not make a step yet.
    pending: Vec<RecordBatch>,
    pending_rows: usize,
    /// Rows in the row group that is being made, and bytes of what has no fixed width in them.
    group: (usize, u64),
}

impl FileWriter {
    /// A writer of one file in memory.
    pub fn new(table: Table) -> Result<Self, LakeError> {
        Self::to(table, Vec::new())
    }

    /// Finishes the file.
    pub fn finish(self) -> Result<EncodedFile, LakeError> {
        let (bytes, entry) = self.close()?;
        Ok(EncodedFile { bytes: Bytes::from(bytes), entry })
    }
}

impl<W: Write + Send> FileWriter<W> {
    /// A writer of one file to `out`. What it keeps in memory is a row group.
    pub fn to(table: Table, out: W) -> Result<Self, LakeError> {
        let out = Digesting { out, sha256: Sha256::new(), bytes: 0 };
        let writer = ArrowWriter::try_new(out, table.schema(), Some(properties(table)))
            .map_err(|err| LakeError::columns(table.name(), err))?;
        let about = About::default();
        Ok(Self { table, writer, about, pending: Vec::new(), pending_rows: 0, group: (0, 0) })
    }

    /// Appends rows.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<(), LakeError> {
        self.about.add(self.table, batch)?;
        let step = step_rows(self.table);
        let mut at = 0;
        if self.pending_rows > 0 {
            at = (step - self.pending_rows).min(batch.num_rows());
            self.pend(batch.slice(0, at));
            if self.pending_rows < step {
                return Ok(());
            }
            self.write_pending()?;
        }
        let mut begun = at;
        while batch.num_rows() - at >= step {
            self.group.0 += step;
            self.group.1 += batch.columns().iter().map(|a| bytes_of(&a.slice(at, step))).sum::<u64>();
            at += step;
            if self.group.0 >= ROW_GROUP_ROWS || self.group.1 >= ROW_GROUP_BYTES {
                self.encode(&batch.slice(begun, at - begun))?;
                self.end_group()?;
                begun = at;
            }
        }
        self.encode(&batch.slice(begun, at - begun))?;
        if at < batch.num_rows() {
            self.pend(batch.slice(at, batch.num_rows() - at));
        }
        Ok(())
    }

    /// Finishes the file; gives where it went, and what a commit says about it, with an empty path.
    pub fn close(mut self) -> Result<(W, FileEntry), LakeError> {
        self.write_pending()?;
        let written = self.writer.into_inner().map_err(|err| LakeError::columns(self.table.name(), err))?;
        let Digesting { out, sha256, bytes } = written;
        Ok((out, self.about.entry(self.table, bytes, Digest(sha256.finalize().into()))))
    }

    fn pend(&mut self, batch: RecordBatch) {
        self.pending_rows += batch.num_rows();
        self.pending.push(batch);
    }

    /// Writes what waits: a step, or the end of the file.
    fn write_pending(&mut self) -> Result<(), LakeError> {
        let pending = std::mem::take(&mut self.pending);
        self.pending_rows = 0;
        let step = concat_batches(&self.table.schema(), &pending)
            .map_err(|err| LakeError::columns(self.table.name(), err))?;
        self.group.0 += step.num_rows();
        self.group.1 += step.columns().iter().map(bytes_of).sum::<u64>();
        self.encode(&step)?;
        if self.group.0 >= ROW_GROUP_ROWS || self.group.1 >= ROW_GROUP_BYTES {
            self.end_group()?;
        }
        Ok(())
    }

    fn encode(&mut self, batch: &RecordBatch) -> Result<(), LakeError> {
        self.writer.write(batch).map_err(|err| LakeError::columns(self.table.name(), err))
    }

    fn end_group(&mut self) -> Result<(), LakeError> {
        self.group = (0, 0);
        self.writer.flush().map_err(|err| LakeError::columns(self.table.name(), err))
    }
}

/// Bytes of values that have no fixed width.
fn bytes_of(array: &arrow::array::ArrayRef) -> u64 {
    let span = |offsets: &[i32]| match offsets {
        [first, .., last] => u64::try_from(last - first).unwrap_or(0),
        _ => 0,
    };
    match array.data_type() {
        DataType::Utf8 => array.as_string_opt::<i32>().map_or(0, |a| span(a.value_offsets())),
        DataType::Binary => array.as_binary_opt::<i32>().map_or(0, |a| span(a.value_offsets())),
        DataType::List(_) => array.as_list_opt::<i32>().map_or(0, |list| {
            let (from, items) = (list.value_offsets().first().copied(), span(list.value_offsets()));
            let (from, len) = (usize::try_from(from.unwrap_or(0)), usize::try_from(items));
            let values = |from, len| bytes_of(&list.values().slice(from, len));
            8 * items + from.ok().zip(len.ok()).map_or(0, |(from, len)| values(from, len))
        }),
        _ => 0,
    }
}

/// Passes bytes on, and takes their SHA-256.
struct Digesting<W> {
    out: W,
    sha256: Sha256,
    bytes: u64,
}

impl<W: Write> Write for Digesting<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.out.write(bytes)?;
        self.sha256.update(bytes.get(..n).unwrap_or_default());
        self.bytes += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
