//! What detection left: the list of window records, the records, and the findings files that they name.
//!
//! Nothing of this is signed, so that it is only seen whether it is whole: a record or a file that something
//! names is there and is what it should be, and the list has no gap.

use std::collections::{BTreeMap, BTreeSet};

use bodycam_lake::columns::findings;
use bodycam_lake::commit::MAX_BYTES;
use bodycam_lake::window::{IndexEntry, WindowKey, WindowMark, WindowRecord};
use bodycam_lake::{FileEntry, LakeError, file, layout};

use crate::Files;
use crate::commits::number;
use crate::fault::{Class, Fault};
use crate::files::unreadable;

/// How much there was.
#[derive(Debug, Clone, Copy, Default)]
pub struct Windows {
    /// Windows.
    pub windows: u64,
    /// Findings in the newest record of each.
    pub findings: u64,
}

/// Checks the list of window records from its first entry on, and everything that it names.
pub fn check(files: &dyn Files, faults: &mut Vec<Fault>) -> Windows {
    let mut out = Windows::default();
    for (window, mark) in newest(files, faults) {
        out.windows += 1;
        let Ok(path) = window.path(mark.n) else { continue };
        let record = match files.read(&path, MAX_BYTES as u64) {
            Ok(Some(bytes)) => WindowRecord::parse(&path, &bytes),
            Ok(None) => {
                faults.push(fault("missing, though the list of window records names it", &path));
                continue;
            }
            Err(why) => {
                faults.push(unreadable(&path, &why));
                continue;
            }
        };
        let record = match record {
            Ok(record) => record,
            Err(error) => {
                faults.push(damaged(&path, &error));
                continue;
            }
        };
        if record.mark() != mark {
            faults.push(fault(
                "it has another number of findings than the list of window records states",
                &path,
            ));
        }
        let mut found: BTreeSet<_> = BTreeSet::new();
        for entry in &record.files {
            match findings_in(files, entry) {
                Ok(ids) => found.extend(ids),
                Err(fault) => faults.push(*fault),
            }
        }
        let named: BTreeSet<_> = record.findings.iter().map(|mark| mark.id).collect();
        if found != named
            && !faults.iter().any(|f| record.files.iter().any(|e| f.path.as_deref() == Some(&e.path)))
        {
            faults.push(fault("the findings in its files are not those that it names", &path));
        }
        out.findings += named.len() as u64;
    }
    unnamed(files, out, faults);
    out
}

/// For each window, the newest record that the list names.
fn newest(files: &dyn Files, faults: &mut Vec<Fault>) -> BTreeMap<WindowKey, WindowMark> {
    let listed = files.list("windows/index/").unwrap_or_default();
    let listed: BTreeSet<u64> = listed.iter().filter_map(|name| number(name)).collect();
    let mut newest: BTreeMap<WindowKey, WindowMark> = BTreeMap::new();
    let mut k = 0;
    loop {
        let path = layout::window_index(k);
        match files.read(&path, MAX_BYTES as u64) {
            Ok(Some(bytes)) => match IndexEntry::parse(&path, &bytes) {
                Ok(entry) => {
                    for mark in entry.windows {
                        let known = newest.entry(mark.window.clone()).or_insert_with(|| mark.clone());
                        if mark.n > known.n {
                            *known = mark;
                        }
                    }
                }
                Err(error) => faults.push(damaged(&path, &error)),
            },
            Ok(None) => {
                let Some(next) = listed.range(k.saturating_add(1)..).next() else { return newest };
                let detail = format!("missing, though the list of window records goes on at {next}");
                faults.push(fault(&detail, &path));
                k = *next;
                continue;
            }
            Err(why) => faults.push(unreadable(&path, &why)),
        }
        k = k.saturating_add(1);
    }
}

/// The ids of the findings in a file, when it is the one that its record names.
fn findings_in(files: &dyn Files, entry: &FileEntry) -> Result<Vec<bodycam_record::Id16>, Box<Fault>> {
    let path = &entry.path;
    let bytes = match files.read(path, entry.bytes) {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return Err(Box::new(fault("missing, though a window record names it", path))),
        Err(why) => return Err(Box::new(unreadable(path, &why))),
    };
    if entry.bytes != bytes.len() as u64 || entry.sha256 != file::sha256(&bytes) {
        return Err(Box::new(fault(
            "not the file that its window record names: it was changed or replaced",
            path,
        )));
    }
    let rows = || -> Result<Vec<_>, LakeError> {
        let mut rows = Vec::new();
        for batch in file::batches(path, bytes.clone(), 8192)? {
            let batch =
                batch.map_err(|err| LakeError::Damaged { path: path.clone(), reason: err.to_string() })?;
            rows.extend(findings::decode(&batch)?);
        }
        Ok(rows)
    };
    let rows = rows().map_err(|error| Box::new(damaged(path, &error)))?;
    Ok(rows.into_iter().map(|row| row.id).collect())
}

/// Records and files without any list that could name them: the list was removed.
fn unnamed(files: &dyn Files, seen: Windows, faults: &mut Vec<Fault>) {
    if seen.windows > 0 {
        return;
    }
    let records = files.list("windows/").unwrap_or_default();
    if let Some(path) = records.iter().find(|p| number(p).is_some_and(|n| n > 0) && !p.contains("/index/")) {
        faults.push(fault("a later evaluation of a window, though there is no list of window records", path));
    }
}

fn fault(detail: &str, path: &str) -> Fault {
    Fault::new(Class::Window, detail).at(path)
}

fn damaged(path: &str, error: &LakeError) -> Fault {
    match error {
        LakeError::Unsupported { .. } => Fault::new(Class::Unsupported, error).at(path),
        LakeError::Damaged { reason, .. } => fault(reason, path),
        other => fault(&other.to_string(), path),
    }
}
