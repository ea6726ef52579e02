//! The non-interactive twins: what the screens show, printed. Stable order, machine formats with totals,
//! nothing cut silently, exit codes 0 (match), 1 (no match), 2 (error).

use std::io::Write;

use serde_json::{Map, Value, json};

use crate::error::ReplayError;
use crate::shown::{Shown, fit, fit_right};

mod events;
mod findings;
mod keys;
mod replay;
mod screen;
mod sessions;

pub use events::{EventsOptions, events};
pub(crate) use findings::FIELDS as FINDING_FIELDS;
pub use findings::findings;
pub use keys::keys;
pub(crate) use replay::event_json;
pub use replay::{ReplayFormat, ReplayText, replay};
pub use screen::{Screen, screen};
pub(crate) use sessions::SESSIONS_ONLY;
pub use sessions::{ListOptions, find, sessions, show};

/// How a list is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// One object with `total`, `returned`, `truncated` and `items`.
    Json,
    /// One object a line.
    Jsonl,
    /// Comma-separated values with a head (RFC 4180).
    Csv,
}

/// Whether there was anything to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// There was.
    Match,
    /// There was not.
    NoMatch,
}

/// The exit code of a twin. A reader that goes away (`| head`) is no failure.
pub fn exit_code(result: &Result<Outcome, ReplayError>) -> u8 {
    match result {
        Ok(Outcome::Match) => 0,
        Ok(Outcome::NoMatch) => 1,
        Err(err) if err.is_broken_pipe() => 0,
        Err(_) => 2,
    }
}

impl std::str::FromStr for Format {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "table" => Ok(Format::Table),
            "json" => Ok(Format::Json),
            "jsonl" => Ok(Format::Jsonl),
            "csv" => Ok(Format::Csv),
            _ => Err(format!("'{}' is not a format: table, json, jsonl or csv", Shown::of(text))),
        }
    }
}

/// A column of a list: what people read and what machines read.
pub(crate) struct Column<T> {
    name: &'static str,
    right: bool,
    text: fn(&T) -> Shown,
    json: fn(&T) -> Value,
}

impl<T> Column<T> {
    pub(crate) const fn left(name: &'static str, text: fn(&T) -> Shown, json: fn(&T) -> Value) -> Self {
        Self { name, right: false, text, json }
    }

    pub(crate) const fn right(name: &'static str, text: fn(&T) -> Shown, json: fn(&T) -> Value) -> Self {
        Self { name, right: true, text, json }
    }
}

/// Widest column of a table that is not its last.
const MAX_WIDTH: usize = 48;

/// Prints `items`, the first of `total`.
pub(crate) fn print<T>(
    out: &mut dyn Write,
    format: Format,
    columns: &[Column<T>],
    items: &[T],
    total: usize,
) -> Result<Outcome, ReplayError> {
    let object = |item: &T| {
        let fields = columns.iter().map(|c| (c.name.to_owned(), (c.json)(item)));
        Value::Object(fields.collect::<Map<_, _>>())
    };
    match format {
        Format::Table => table(out, columns, items, total)?,
        Format::Json => {
            let list: Vec<_> = items.iter().map(object).collect();
            let returned = items.len();
            json_line(
                out,
                &json!({ "total": total, "returned": returned, "truncated": returned < total, "items": list }),
            )?;
        }
        Format::Jsonl => items.iter().try_for_each(|item| json_line(out, &object(item)))?,
        Format::Csv => {
            let head: Vec<_> = columns.iter().map(|c| c.name.to_owned()).collect();
            writeln!(out, "{}", head.join(","))?;
            for item in items {
                let cells: Vec<_> = columns.iter().map(|c| csv_cell(&(c.json)(item))).collect();
                writeln!(out, "{}", cells.join(","))?;
            }
        }
    }
    out.flush()?;
    Ok(if items.is_empty() { Outcome::NoMatch } else { Outcome::Match })
}

fn table<T>(
    out: &mut dyn Write,
    columns: &[Column<T>],
    items: &[T],
    total: usize,
) -> Result<(), ReplayError> {
    let texts: Vec<Vec<Shown>> =
        items.iter().map(|item| columns.iter().map(|c| (c.text)(item)).collect()).collect();
    let width = |i: usize, column: &Column<T>| {
        let widest = texts.iter().filter_map(|row| row.get(i)).map(Shown::width).max().unwrap_or(0);
        widest.max(column.name.len()).min(MAX_WIDTH)
    };
    let widths: Vec<usize> = columns.iter().enumerate().map(|(i, c)| width(i, c)).collect();
    let mut line = |cells: &[&str]| -> std::io::Result<()> {
        let mut text = String::new();
        for (i, ((cell, column), width)) in cells.iter().zip(columns).zip(&widths).enumerate() {
            if i > 0 {
                text.push_str("  ");
            }
            match (column.right, i + 1 == columns.len()) {
                (true, _) => text.push_str(&fit_right(cell, *width)),
                (false, true) => text.push_str(cell),
                (false, false) => text.push_str(&fit(cell, *width)),
            }
        }
        writeln!(out, "{}", text.trim_end())
    };
    if !items.is_empty() {
        let heads: Vec<String> = columns.iter().map(|c| c.name.to_uppercase().replace('_', " ")).collect();
        line(&heads.iter().map(String::as_str).collect::<Vec<_>>())?;
    }
    for row in &texts {
        line(&row.iter().map(Shown::as_str).collect::<Vec<_>>())?;
    }
    if items.len() < total {
        writeln!(out, "… {} of {total} shown; raise --limit for more", items.len())?;
    }
    Ok(())
}

fn csv_cell(value: &Value) -> String {
    let text = match value {
        Value::Null => String::new(),
        Value::String(text) => Shown::limit(text, usize::MAX).into(),
        Value::Array(items) => {
            let items: Vec<String> =
                items.iter().map(|i| i.as_str().map_or(i.to_string(), str::to_owned)).collect();
            Shown::limit(&items.join(";"), usize::MAX).into()
        }
        other => Shown::limit(&other.to_string(), usize::MAX).into(),
    };
    match text.contains([',', '"']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text,
    }
}

/// One line of JSON in which everything that a terminal would act upon is escaped, also above ASCII.
pub(crate) fn json_line(out: &mut dyn Write, value: &Value) -> Result<(), ReplayError> {
    let mut line = bodycam_record::shown::shown_json(&value.to_string());
    line.push('\n');
    out.write_all(line.as_bytes())?;
    Ok(())
}

#[cfg(test)]
mod tests;
