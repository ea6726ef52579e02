//! What somebody with write access to a lake, and no key, would do: change one cell and write a valid file.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::Int64Type;
use bodycam_record::SessionId;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

/// What was changed.
pub struct Altered {
    /// The file, relative to the lake.
    pub file: String,
    /// Session of the event.
    pub session: SessionId,
    /// Its number.
    pub seq: i64,
    /// The value before.
    pub was: i64,
}

/// Copies the lake and sets the largest recorded row count to 3.
pub fn alter_one_cell(lake: &Path, copy: &Path) -> Result<Altered> {
    copy_directory(lake, copy)?;
    let mut best: Option<(i64, PathBuf, usize)> = None;
    for path in parquet_files(&copy.join("tables/sql"))? {
        let rows = int_column(&read(&path)?, "rows")?;
        for (row, value) in rows.iter().enumerate().filter_map(|(i, v)| Some((i, v?))) {
            if best.as_ref().is_none_or(|(most, ..)| value > *most) {
                best = Some((value, path.clone(), row));
            }
        }
    }
    let (was, path, row) = best.context("the lake holds no results")?;
    let batch = read(&path)?;
    let changed: Int64Array = int_column(&batch, "rows")?
        .iter()
        .enumerate()
        .map(|(i, v)| if i == row { Some(3) } else { v })
        .collect();
    let at = batch.schema().index_of("rows")?;
    let columns: Vec<ArrayRef> = (0..batch.num_columns())
        .map(|i| if i == at { Arc::new(changed.clone()) as ArrayRef } else { Arc::clone(batch.column(i)) })
        .collect();
    let mut writer = ArrowWriter::try_new(File::create(&path)?, batch.schema(), None)?;
    writer.write(&RecordBatch::try_new(batch.schema(), columns)?)?;
    writer.close()?;
    let session = batch.column_by_name("session_id").context("no session_id")?;
    let session = SessionId::try_from(session.as_fixed_size_binary().value(row))?;
    let seq = int_column(&batch, "seq")?.value(row);
    let file = path.strip_prefix(copy).unwrap_or(&path).display().to_string();
    Ok(Altered { file, session, seq, was })
}

fn read(path: &Path) -> Result<RecordBatch> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(path)?)?.build()?;
    let schema = arrow::record_batch::RecordBatchReader::schema(&reader);
    let batches = reader.collect::<Result<Vec<_>, _>>()?;
    Ok(concat_batches(&schema, &batches)?)
}

fn int_column(batch: &RecordBatch, name: &str) -> Result<Int64Array> {
    let column = batch.column_by_name(name).with_context(|| format!("no column {name}"))?;
    Ok(column.as_primitive_opt::<Int64Type>().with_context(|| format!("{name} is not Int64"))?.clone())
}

fn parquet_files(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(parquet_files(&path)?);
        } else if path.extension().is_some_and(|e| e == "parquet") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn copy_directory(from: &Path, to: &Path) -> Result<()> {
    if to.exists() {
        bail!("{} is there already", to.display());
    }
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_directory(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
