//! A result in the form that was asked for: a table or CSV with everything hostile made visible, JSON lines
//! with it escaped, or Parquet with it as it is.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::str::FromStr;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringBuilder};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::json::WriterBuilder;
use arrow::json::writer::LineDelimited;
use arrow::util::display::{ArrayFormatter, DurationFormat, FormatOptions};
use bodycam_record::shown;
use bodycam_record::shown::{shown_json, shown_limit};
use parquet::arrow::ArrowWriter;
use std::sync::Arc;

use crate::error::AnalyzerError;

/// Rows that a table looks at before it settles the width of its columns.
const SAMPLE_ROWS: usize = 500;
/// Widest cell of a table.
const CELL_WIDTH: usize = 120;

/// How a result is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// Columns side by side, for people.
    #[default]
    Table,
    /// RFC 4180, with a header; control characters are written as escapes.
    Csv,
    /// One JSON object a line.
    Json,
    /// A Parquet file.
    Parquet,
}

impl FromStr for Format {
    type Err = String;
    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "table" => Ok(Format::Table),
            "csv" => Ok(Format::Csv),
            "json" => Ok(Format::Json),
            "parquet" => Ok(Format::Parquet),
            _ => Err(format!("'{}' is not a format: table, csv, json, parquet", shown(name))),
        }
    }
}

/// Writes a result.
pub(super) struct Output<'a> {
    out: Option<&'a mut (dyn Write + Send)>,
    form: Form<'a>,
    schema: SchemaRef,
    rows: u64,
}

enum Form<'a> {
    Table { sample: Vec<Vec<String>>, widths: Vec<usize>, right: Vec<bool>, settled: bool },
    Csv,
    Json,
    Parquet(Option<Box<ArrowWriter<&'a mut (dyn Write + Send)>>>),
}

impl<'a> Output<'a> {
    pub(super) fn new(format: Format, out: &'a mut (dyn Write + Send)) -> Self {
        let form = match format {
            Format::Table => {
                Form::Table { sample: Vec::new(), widths: Vec::new(), right: Vec::new(), settled: false }
            }
            Format::Csv => Form::Csv,
            Format::Json => Form::Json,
            Format::Parquet => Form::Parquet(None),
        };
        Self { out: Some(out), form, schema: Arc::new(Schema::empty()), rows: 0 }
    }

    /// Rows so far.
    pub(super) fn rows(&self) -> u64 {
        self.rows
    }

    pub(super) fn start(&mut self, schema: SchemaRef) -> Result<(), AnalyzerError> {
        self.schema = schema.clone();
        if matches!(self.form, Form::Json | Form::Parquet(_)) {
            let mut seen = BTreeSet::new();
            if let Some(field) = schema.fields().iter().find(|f| !seen.insert(f.name())) {
                let reason = format!("two columns are named {}: rename one with AS", shown(field.name()));
                return Err(AnalyzerError::Refused(reason));
            }
        }
        let names = || schema.fields().iter().map(|f| shown(f.name()));
        match &mut self.form {
            Form::Table { widths, right, .. } => {
                *widths = names().map(|name| width(&name)).collect();
                *right = schema.fields().iter().map(|f| f.data_type().is_numeric()).collect();
            }
            Form::Csv => {
                let header: Vec<String> = names().map(|name| csv_field(&name)).collect();
                writeln(&mut self.out, &header.join(","))?;
            }
            Form::Json => {}
            Form::Parquet(writer) => {
                if let Some(out) = self.out.take() {
                    *writer =
                        Some(Box::new(ArrowWriter::try_new(out, schema, None).map_err(parquet_failed)?));
                }
            }
        }
        Ok(())
    }

    pub(super) fn write(&mut self, batch: &RecordBatch) -> Result<(), AnalyzerError> {
        self.rows += batch.num_rows() as u64;
        match &mut self.form {
            Form::Parquet(Some(writer)) => writer.write(batch).map_err(parquet_failed),
            Form::Parquet(None) => Ok(()),
            Form::Json => write_json(&mut self.out, batch),
            Form::Csv => {
                for row in text_rows(batch)? {
                    let fields: Vec<String> = row
                        .iter()
                        .map(|cell| {
                            cell.as_deref()
                                .map_or_else(String::new, |c| csv_field(&shown_limit(c, usize::MAX)))
                        })
                        .collect();
                    writeln(&mut self.out, &fields.join(","))?;
                }
                Ok(())
            }
            Form::Table { sample, .. } => {
                let rows = text_rows(batch)?.into_iter().map(|row| {
                    row.into_iter()
                        .map(|cell| cell.map_or_else(String::new, |c| shown_limit(&c, CELL_WIDTH)))
                        .collect()
                });
                sample.extend(rows);
                if sample.len() >= SAMPLE_ROWS { self.flush_table() } else { Ok(()) }
            }
        }
    }

    /// Ends the result; gives the number of rows.
    pub(super) fn finish(mut self) -> Result<u64, AnalyzerError> {
        self.flush_table()?;
        if let Form::Table { .. } = self.form {
            let noun = if self.rows == 1 { "row" } else { "rows" };
            writeln(&mut self.out, &format!("({} {noun})", self.rows))?;
        }
        if let Form::Parquet(writer) = &mut self.form
            && let Some(writer) = writer.take()
        {
            let out = writer.into_inner().map_err(parquet_failed)?;
            out.flush()?;
        }
        if let Some(out) = &mut self.out {
            out.flush()?;
        }
        Ok(self.rows)
    }

    fn flush_table(&mut self) -> Result<(), AnalyzerError> {
        let Form::Table { sample, widths, right, settled } = &mut self.form else { return Ok(()) };
        let rows = std::mem::take(sample);
        if !*settled {
            for row in &rows {
                for (at, cell) in widths.iter_mut().zip(row) {
                    *at = (*at).max(width(cell));
                }
            }
            let names: Vec<String> = self.schema.fields().iter().map(|f| shown(f.name())).collect();
            writeln(&mut self.out, &aligned(&names, widths, right))?;
            let rule: Vec<String> = widths.iter().map(|w| "-".repeat(*w)).collect();
            writeln(&mut self.out, &rule.join("-+-"))?;
            *settled = true;
        }
        for row in rows {
            writeln(&mut self.out, &aligned(&row, widths, right))?;
        }
        Ok(())
    }
}

fn writeln(out: &mut Option<&mut (dyn Write + Send)>, line: &str) -> Result<(), AnalyzerError> {
    match out {
        Some(out) => Ok(out.write_all(line.as_bytes()).and_then(|()| out.write_all(b"\n"))?),
        None => Ok(()),
    }
}

fn parquet_failed(err: parquet::errors::ParquetError) -> AnalyzerError {
    AnalyzerError::Output(io::Error::other(err.to_string()))
}

/// Columns that a terminal gives to a text. Everything hostile has been made visible before.
fn width(text: &str) -> usize {
    text.chars().count()
}

fn aligned(cells: &[String], widths: &[usize], right: &[bool]) -> String {
    let mut line = String::new();
    for (at, ((cell, wide), right)) in cells.iter().zip(widths).zip(right).enumerate() {
        if at > 0 {
            line.push_str(" | ");
        }
        let pad = " ".repeat(wide.saturating_sub(width(cell)));
        match right {
            true => line.extend([pad.as_str(), cell]),
            false => line.extend([cell, pad.as_str()]),
        }
    }
    line.truncate(line.trim_end().len());
    line
}

fn csv_field(text: &str) -> String {
    match text.contains(['"', ',', '\n', '\r']) || text.starts_with(' ') || text.ends_with(' ') {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text.to_owned(),
    }
}

/// The cells of a batch as text; none for NULL.
fn text_rows(batch: &RecordBatch) -> Result<Vec<Vec<Option<String>>>, AnalyzerError> {
    let failed = |err: arrow::error::ArrowError| AnalyzerError::Output(io::Error::other(err.to_string()));
    let options = FormatOptions::new()
        .with_null("")
        .with_duration_format(DurationFormat::Pretty)
        .with_timestamp_tz_format(Some("%Y-%m-%dT%H:%M:%S%.9fZ"));
    let formatters: Result<Vec<_>, _> =
        batch.columns().iter().map(|column| ArrayFormatter::try_new(column, &options)).collect();
    let formatters = formatters.map_err(failed)?;
    let mut rows = Vec::with_capacity(batch.num_rows());
    for at in 0..batch.num_rows() {
        let row =
            formatters.iter().zip(batch.columns()).map(|(formatter, column)| match column.is_null(at) {
                true => Ok(None),
                false => formatter.value(at).try_to_string().map(Some),
            });
        rows.push(row.collect::<Result<Vec<_>, _>>().map_err(failed)?);
    }
    Ok(rows)
}

/// Writes rows as JSON objects, with every hostile character as `\uXXXX`: the same text to a JSON parser,
/// harmless to a terminal.
fn write_json(out: &mut Option<&mut (dyn Write + Send)>, batch: &RecordBatch) -> Result<(), AnalyzerError> {
    let failed = |err: arrow::error::ArrowError| AnalyzerError::Output(io::Error::other(err.to_string()));
    let batch = plain_columns(batch).map_err(failed)?;
    let mut writer = WriterBuilder::new().with_explicit_nulls(true).build::<_, LineDelimited>(Vec::new());
    writer.write(&batch).map_err(failed)?;
    writer.finish().map_err(failed)?;
    let text = String::from_utf8(writer.into_inner()).map_err(|e| io::Error::other(e.to_string()))?;
    for line in text.lines() {
        writeln(out, &shown_json(line))?;
    }
    Ok(())
}

/// Bytes as hex: arrow's JSON writer knows none of its own for them in all versions.
fn plain_columns(batch: &RecordBatch) -> Result<RecordBatch, arrow::error::ArrowError> {
    let mut fields = Vec::new();
    let mut columns: Vec<ArrayRef> = Vec::new();
    for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
        let bytes = match column.data_type() {
            DataType::Binary | DataType::LargeBinary | DataType::FixedSizeBinary(_) => {
                Some(cast(column, &DataType::Binary)?)
            }
            _ => None,
        };
        match bytes.as_ref().and_then(|b| b.as_binary_opt::<i32>()) {
            Some(bytes) => {
                let mut hex = StringBuilder::new();
                bytes.iter().for_each(|b| hex.append_option(b.map(bodycam_record::ids::to_hex)));
                fields.push(Arc::new(Field::new(field.name(), DataType::Utf8, true)));
                columns.push(Arc::new(hex.finish()));
            }
            None => {
                fields.push(field.clone());
                columns.push(column.clone());
            }
        }
    }
    RecordBatch::try_new_with_options(
        Arc::new(Schema::new(fields)),
        columns,
        &arrow::array::RecordBatchOptions::new().with_row_count(Some(batch.num_rows())),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{BinaryArray, Float64Array, Int64Array, StringArray};
    use bodycam_record::shown::is_hostile;

    /// ESC, C1, CR, NUL, an OSC 52, a bidi override, a tag character.
    const HOSTILE: &str = "a\u{1b}[2J\u{9b}31m\r\0\u{1b}]52;c;x\u{7}\u{202e}\u{e0041}\n,\"b";

    fn batch() -> RecordBatch {
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("text\u{1b}[0m", Arc::new(StringArray::from(vec![Some(HOSTILE), None]))),
            ("whole", Arc::new(Int64Array::from(vec![i64::MAX, i64::MIN]))),
            ("real", Arc::new(Float64Array::from(vec![f64::NAN, f64::INFINITY]))),
            ("bytes", Arc::new(BinaryArray::from(vec![HOSTILE.as_bytes(), b""]))),
        ];
        RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, c)| (n, c, true))).unwrap()
    }

    fn written(format: Format, batch: &RecordBatch) -> Result<Vec<u8>, AnalyzerError> {
        let mut out = Vec::new();
        let mut output = Output::new(format, &mut out);
        output.start(batch.schema())?;
        output.write(batch)?;
        assert_eq!(output.finish()?, batch.num_rows() as u64);
        Ok(out)
    }

    #[test]
    fn nothing_hostile_is_written_raw_and_json_is_strict() {
        for format in [Format::Table, Format::Csv, Format::Json] {
            let text = String::from_utf8(written(format, &batch()).unwrap()).unwrap();
            assert!(!text.replace('\n', "").chars().any(is_hostile), "{format:?}: {text:?}");
            if format == Format::Json {
                let rows: Vec<serde_json::Value> =
                    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
                assert_eq!(rows.len(), 2);
                assert_eq!(rows[0]["text\u{1b}[0m"], HOSTILE, "the same text to a parser");
                assert_eq!(rows[0]["whole"], i64::MAX);
                assert!(rows[0]["real"].is_null() && rows[1]["real"].is_null(), "JSON has no NaN");
                assert!(rows[1].as_object().unwrap().contains_key("text\u{1b}[0m"), "NULL is null");
                assert!(rows[0]["bytes"].as_str().unwrap().starts_with("611b5b"));
            }
        }
    }

    #[test]
    fn a_csv_field_with_a_line_break_stays_one_line() {
        let text = String::from_utf8(written(Format::Csv, &batch()).unwrap()).unwrap();
        assert_eq!(text.lines().count(), 3, "{text:?}");
    }

    #[test]
    fn parquet_keeps_every_value_as_it_is() {
        use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
        let bytes = bytes::Bytes::from(written(Format::Parquet, &batch()).unwrap());
        let mut reader = ParquetRecordBatchReaderBuilder::try_new(bytes).unwrap().build().unwrap();
        let read = reader.next().unwrap().unwrap();
        assert_eq!(read.column(0), batch().column(0));
        assert_eq!(read.column(3), batch().column(3));
    }

    #[test]
    fn two_columns_of_one_name_are_refused_where_names_are_keys() {
        let schema = Arc::new(Schema::new(vec![
            Field::new("n", DataType::Int64, false),
            Field::new("n", DataType::Int64, false),
        ]));
        let column: ArrayRef = Arc::new(Int64Array::from(vec![1]));
        let batch = RecordBatch::try_new(schema, vec![column.clone(), column]).unwrap();
        for format in [Format::Json, Format::Parquet] {
            let message = written(format, &batch).unwrap_err().to_string();
            assert!(message.contains("two columns are named n"), "{message}");
        }
        assert_eq!(written(Format::Csv, &batch).unwrap(), b"n,n\n1,1\n");
    }
}
