//! Files with other bytes than their commits name. Programs that put rows in another order, or encode them in another
//! way, alter nothing that was recorded: such a file is named, and no alarm. It is one as long as anything is not
//! shown to be the same.
//!
//! What shows it: number and sum of the row hashes, the sessions with their numbers and heads, the times and the
//! hour are those that the commit states ([`crate::files`]); nothing is found wrong with the file, nor with a
//! session or ledger of which it holds rows, so that each row hashes to what entered the sum; and other readers see
//! the columns that this one saw. Where rows are bound by nothing but the sum, the recorder's own encoding of them
//! must be the committed file, byte for byte.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::{SortColumn, cast, concat_batches, lexsort_to_indices, take_record_batch};
use arrow::datatypes::DataType;
use bodycam_lake::columns::Table;
use bodycam_lake::file::{self, FileWriter, ROW_GROUP_ROWS};
use bodycam_lake::{FileEntry, LakeError};
use bodycam_record::{Family, SessionId, shown};
use bytes::Bytes;

use crate::fault::{Aspect, Class, Fault, Gravity};
use crate::files::DataFile;

/// A file with other bytes than its commit says, of which no more is wrong as far as it was looked at alone.
#[derive(Debug)]
pub struct Rewritten {
    /// What the commit says about it.
    pub entry: Arc<FileEntry>,
    /// The fault that it is unless its rows are shown to be the same.
    pub fault: Fault,
}

/// Tells of each file whether it is a notice or a fault, by everything else that was found.
pub fn judge(files: Vec<Rewritten>, faults: &mut Vec<Fault>) {
    if files.is_empty() {
        return;
    }
    let grave = |f: &&Fault| f.gravity <= Gravity::Tamper;
    let paths: HashSet<&str> = faults.iter().filter(grave).filter_map(|f| f.path.as_deref()).collect();
    let unknown: HashSet<&str> = faults
        .iter()
        .filter(|f| f.gravity == Gravity::Unsupported)
        .filter_map(|f| f.path.as_deref())
        .collect();
    // A finding about a session as a whole can be about any row of it.
    let (mut sessions, mut contents) = (HashSet::new(), HashSet::new());
    // Rows of the index are compared only with sessions of which nothing is wrong or unknown.
    let told_of: HashSet<SessionId> =
        faults.iter().filter(|f| f.gravity <= Gravity::Unsupported).filter_map(|f| f.session).collect();
    let mut ledgers = false;
    for fault in faults.iter().filter(grave).filter(|f| f.path.is_none()) {
        match fault.class.aspect() {
            Aspect::Content => contents.extend(fault.session),
            _ => sessions.extend(fault.session),
        }
        ledgers |= fault.producer.is_some() && fault.session.is_none();
    }
    let concerns = |entry: &FileEntry, sessions: &HashSet<SessionId>| {
        !sessions.is_empty()
            && entry
                .sessions
                .as_ref()
                .is_none_or(|ranges| ranges.iter().any(|r| sessions.contains(&r.session)))
    };
    let mut told = Vec::new();
    for Rewritten { entry, fault } in files {
        let path = shown(&entry.path);
        let doubted = paths.contains(path.as_str())
            || match entry.table.0 {
                Table::Events(Family::Ledger) => ledgers,
                Table::Events(_) => concerns(&entry, &sessions),
                Table::Sessions => concerns(&entry, &told_of),
                Table::Content => concerns(&entry, &contents),
                Table::Templates | Table::Findings => false,
            };
        told.push(match (doubted, unknown.contains(path.as_str())) {
            (true, _) => fault,
            (false, true) => {
                let detail = "written anew: other bytes than its commit names, and the same rows but for those of \
                              an unknown format, which state the committed hashes";
                Fault::new(Class::Rewritten, detail).at(&entry.path)
            }
            (false, false) => {
                let detail = "written anew: other bytes than its commit names, and the same rows";
                Fault::new(Class::Rewritten, detail).at(&entry.path)
            }
        });
    }
    faults.append(&mut told);
}

/// Whether other readers see in a batch what this one does: each column of the table at most once, none beside
/// them that says something else, and no number that is shown as a time.
pub fn is_plain(table: Table, path: &str, batch: &RecordBatch) -> bool {
    let schema = table.schema();
    let mut names = HashSet::new();
    batch.schema_ref().fields().iter().zip(batch.columns()).all(|(field, column)| {
        let name = field.name().as_str();
        let known = match name {
            "dt" | "hh" => repeats_folder(path, name, column),
            // A value in an unknown column of an event is a finding of its own.
            _ if schema.index_of(name).is_err() => {
                matches!(table, Table::Events(_)) && column.null_count() < column.len()
            }
            _ => !is_time(field.data_type()),
        };
        known && names.insert(name)
    })
}

fn is_time(ty: &DataType) -> bool {
    match ty {
        DataType::Dictionary(_, value) => is_time(value),
        DataType::RunEndEncoded(_, value) => is_time(value.data_type()),
        ty => ty.is_temporal(),
    }
}

/// Whether a column that readers make from the names of folders says what the path says.
fn repeats_folder(path: &str, name: &str, column: &ArrayRef) -> bool {
    let of_folder = |part: &str| Some(part.strip_prefix(name)?.strip_prefix('=')?.to_owned());
    let Some(stated) = path.split('/').find_map(of_folder) else { return false };
    let Ok(texts) = cast(column, &DataType::Utf8) else { return false };
    let Some(texts) = texts.as_string_opt::<i32>() else { return false };
    let number = |text: &str| text.parse::<u8>().ok();
    texts
        .iter()
        .flatten()
        .all(|text| text == stated || number(text).is_some_and(|n| number(&stated) == Some(n)))
        && texts.null_count() == 0
}

/// Whether the rows of `bytes`, sorted and encoded as the recorder does it, are the file that the commit names.
pub fn is_same(file: &DataFile, bytes: &Bytes) -> bool {
    encoded_again(file, bytes).is_ok_and(|again| file::sha256(&again) == file.entry.sha256)
}

fn encoded_again(file: &DataFile, bytes: &Bytes) -> Result<Bytes, LakeError> {
    let table = file.entry.table.0;
    let failed = |error: &dyn std::fmt::Display| LakeError::Columns {
        table: table.name(),
        reason: shown(&error.to_string()),
    };
    let schema = table.schema();
    let mut batches = Vec::new();
    for batch in file::batches(&file.entry.path, bytes.clone(), ROW_GROUP_ROWS)? {
        let batch = batch.map_err(|error| failed(&error))?;
        let column = |field: &arrow::datatypes::FieldRef| {
            let column = batch.column_by_name(field.name()).ok_or_else(|| failed(&"a column is missing"))?;
            cast(column, field.data_type()).map_err(|error| failed(&error))
        };
        let columns = schema.fields().iter().map(column).collect::<Result<Vec<_>, _>>()?;
        batches.push(RecordBatch::try_new(schema.clone(), columns).map_err(|error| failed(&error))?);
    }
    let all = concat_batches(&schema, &batches).map_err(|error| failed(&error))?;
    let by: Vec<SortColumn> = table
        .sorted_by()
        .iter()
        .filter_map(|name| all.column_by_name(name))
        .map(|column| SortColumn { values: Arc::clone(column), options: None })
        .collect();
    let order = lexsort_to_indices(&by, None).map_err(|error| failed(&error))?;
    let mut writer = FileWriter::new(table)?;
    for from in (0..order.len()).step_by(ROW_GROUP_ROWS) {
        let part = order.slice(from, ROW_GROUP_ROWS.min(order.len() - from));
        writer.write(&take_record_batch(&all, &part).map_err(|error| failed(&error))?)?;
    }
    Ok(writer.finish()?.bytes)
}
