//! What detection left: the list of window records, the records, and the findings files that they name.
//!
//! Nothing of this is signed, so that it is only seen whether it is whole: a record or a file that something
//! names is there and is what it should be, the list has no gap, its entries do not contradict one another, and
//! what readers begin with repeats everything before it.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use bodycam_lake::columns::findings;
use bodycam_lake::commit::MAX_BYTES;
use bodycam_lake::window::{
    COMPLETE_EVERY, IndexEntry, RECORDS_AT_ONCE, WindowKey, WindowMark, WindowRecord,
};
use bodycam_lake::{FileEntry, LakeError, file, layout};

use crate::commits::number;
use crate::fault::{Class, Fault};
use crate::files::unreadable;
use crate::{Files, listed};

/// How much there was.
#[derive(Debug, Clone, Default)]
pub struct Windows {
    /// Windows.
    pub windows: u64,
    /// Findings in the newest record of each.
    pub findings: u64,
    /// Window records that are there and that the list does not name.
    pub unnamed: u64,
    /// Paths of the window records that are there.
    pub records: HashSet<String>,
    /// Findings files that the newest record of a window names.
    pub files: HashSet<String>,
}

/// The list of window records, as far as it could be read.
#[derive(Default)]
struct Marks {
    /// For each window, the newest record that the list names.
    newest: BTreeMap<WindowKey, WindowMark>,
    /// Whether an entry could not be read, so that it is not known what the list names.
    unread: bool,
}

/// Checks the list of window records from its first entry on, and everything that it names.
pub fn check(files: &dyn Files, faults: &mut Vec<Fault>) -> Windows {
    let mut out = Windows::default();
    // Before the list is read: records are written before it names them.
    let there = listed(files, "windows/", faults).unwrap_or_default();
    let marks = Marks::read(files, &there, faults);
    out.unnamed = unnamed(&there, &marks, faults);
    for (window, mark) in marks.newest {
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
            out.files.insert(entry.path.clone());
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
    out.records = there.into_iter().collect();
    out
}

impl Marks {
    fn read(files: &dyn Files, there: &[String], faults: &mut Vec<Fault>) -> Self {
        let entries = there.iter().filter(|path| is_entry(path));
        let entries: BTreeSet<u64> = entries.filter_map(|path| number(path)).collect();
        let mut out = Self::default();
        let mut k: u64 = 0;
        loop {
            let path = layout::window_index(k);
            let later = entries.range(k.saturating_add(1)..).next().copied();
            match files.read(&path, MAX_BYTES as u64) {
                Ok(Some(bytes)) => match IndexEntry::parse(&path, &bytes) {
                    Ok(entry) => out.add(k, &path, entry, faults),
                    Err(error) => {
                        faults.push(damaged(&path, &error));
                        out.unread = true;
                    }
                },
                Ok(None) => {
                    let Some(next) = later else { return out };
                    let detail = format!("missing, though the list of window records goes on at {next}");
                    faults.push(fault(&detail, &path));
                    k = next;
                    continue;
                }
                Err(why) => {
                    faults.push(unreadable(&path, &why));
                    out.unread = true;
                    // Where nothing can be read, nothing says that there is an end.
                    if later.is_none() {
                        return out;
                    }
                }
            }
            k = k.saturating_add(1);
        }
    }

    /// Takes entry number `k`.
    fn add(&mut self, k: u64, path: &str, entry: IndexEntry, faults: &mut Vec<Fault>) {
        let complete = k.is_multiple_of(COMPLETE_EVERY);
        if entry.complete != complete {
            let detail = match complete {
                true => "it does not say that it repeats everything before it, as every 64th entry must",
                false => "it says that it repeats everything before it, which only every 64th entry does",
            };
            faults.push(fault(detail, path));
        }
        if complete {
            let marks: BTreeMap<&WindowKey, u64> = entry.windows.iter().map(|m| (&m.window, m.n)).collect();
            let lost = |known: &&WindowMark| marks.get(&known.window).is_none_or(|n| *n < known.n);
            let lost = self.newest.values().filter(lost).count();
            if lost > 0 {
                let detail = format!(
                    "readers begin with it, and it leaves out or sets back {lost} window records that entries \
                     before it name"
                );
                faults.push(fault(&detail, path));
            }
        }
        for mark in entry.windows {
            let known = self.newest.entry(mark.window.clone()).or_insert_with(|| mark.clone());
            if mark.n == known.n && mark != *known {
                let window = known.window.path(known.n).unwrap_or_default();
                let detail = format!(
                    "it states {} findings of {window}, and another mark {}",
                    mark.findings, known.findings
                );
                faults.push(fault(&detail, path));
            }
            if mark.n > known.n {
                *known = mark;
            }
        }
    }
}

/// Whether a path is one of the list.
fn is_entry(path: &str) -> bool {
    path.starts_with("windows/index/")
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

/// How many records there are that the list does not name. As many as one detection has under way come before
/// their entry; more of them, or a later evaluation without the first, and the list was removed or cut.
fn unnamed(there: &[String], marks: &Marks, faults: &mut Vec<Fault>) -> u64 {
    if marks.unread {
        return 0;
    }
    let folder = |path: &str| path.rsplit_once('/').map(|(folder, _)| folder.to_owned());
    let named: BTreeMap<String, u64> = marks
        .newest
        .iter()
        .filter_map(|(window, mark)| Some((folder(&window.path(0).ok()?)?, mark.n)))
        .collect();
    let is_unnamed = |path: &&String| {
        let known = folder(path).and_then(|folder| named.get(&folder).copied());
        !is_entry(path) && number(path).is_some_and(|n| known.is_none_or(|known| n > known))
    };
    let unnamed: Vec<&String> = there.iter().filter(is_unnamed).collect();
    let count = unnamed.len() as u64;
    if count > RECORDS_AT_ONCE {
        let detail = format!(
            "{count} window records are there that the list of window records does not name: it was removed or cut"
        );
        faults.push(fault(&detail, "windows/index/"));
    }
    if marks.newest.is_empty()
        && let Some(path) = unnamed.iter().find(|path| number(path).is_some_and(|n| n > 0))
    {
        faults.push(fault("a later evaluation of a window, though there is no list of window records", path));
    }
    count
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
