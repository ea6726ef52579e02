//! What lies in the folders of a lake and is no part of it. A recorder or a detection that was killed leaves such
//! objects, and readers of ours pass over them; others take whatever a folder holds, so that each folder's are
//! counted and the first ones named.
//!
//! Folders are listed before the commits are read: whatever a recorder at work has put there by then, the commits
//! name by the time they are read, or it waits for its commit.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use bodycam_lake::columns::Table;
use bodycam_lake::layout;
use bodycam_record::{SessionId, shown};
use serde::Serialize;

use crate::Files;
use crate::commits::{Walk, number};
use crate::fault::{Class, Fault};
use crate::ledger::{End, Ledgers};
use crate::windows::Windows;

/// Objects of a folder that are named.
const FIRST: usize = 10;

/// The lane of wrapped keys and names.
const KEYS: &str = "keys";

/// Objects in a folder that are no part of the lake.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Strays {
    /// The folder.
    pub folder: String,
    /// How many there are.
    pub count: u64,
    /// The first of them.
    pub first: Vec<String>,
}

/// What the folders of data files, keys and names held before the commits were read.
pub struct Listing(BTreeMap<String, Result<Option<Vec<String>>, String>>);

/// What is known of the lake, and can be told from its folders.
pub struct Known<'a> {
    /// The commits.
    pub walk: &'a Walk,
    /// The ledgers.
    pub ledgers: &'a Ledgers,
    /// The window records.
    pub windows: &'a Windows,
    /// Sessions of which there are events.
    pub sessions: &'a dyn Fn(SessionId) -> bool,
    /// Where the names of their principals are, and of those that ledgers name.
    pub principals: &'a HashSet<String>,
}

impl Listing {
    /// Lists each folder once.
    pub fn of(files: &dyn Files) -> Self {
        let mut folders: BTreeSet<String> =
            Table::ALL.into_iter().map(|t| top(&layout::table_dir(t))).collect();
        folders.extend(["keys/".to_owned(), "directory/".to_owned()]);
        Self(folders.into_iter().map(|folder| (folder.clone(), files.list(&folder))).collect())
    }

    /// What a folder held; none when the store cannot list.
    pub fn folder(&self, folder: &str) -> Result<Option<&[String]>, &str> {
        match self.0.get(folder) {
            Some(Ok(found)) => Ok(found.as_deref()),
            Some(Err(why)) => Err(why),
            None => Ok(None),
        }
    }

    /// The objects that are no part of the lake, by folder.
    pub fn strays(&self, known: &Known<'_>, faults: &mut Vec<Fault>) -> Vec<Strays> {
        let mut found: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
        let mut count: BTreeMap<String, u64> = BTreeMap::new();
        let listed = self.0.values().filter_map(|found| found.as_ref().ok()?.as_ref()).flatten();
        let beside = known.walk.strays.iter();
        for path in listed.filter(|path| !known.has(path)).chain(beside) {
            let folder = folder_of(path);
            *count.entry(folder.clone()).or_default() += 1;
            let first = found.entry(folder).or_default();
            first.insert(path);
            if first.len() > FIRST {
                first.pop_last();
            }
        }
        let strays: Vec<Strays> = found
            .into_iter()
            .map(|(folder, first)| Strays {
                count: count.get(&folder).copied().unwrap_or_default(),
                folder: shown(&folder),
                first: first.into_iter().map(shown).collect(),
            })
            .collect();
        for Strays { folder, count, first } in &strays {
            let more = if *count > first.len() as u64 { ", …" } else { "" };
            let detail = format!(
                "{count} objects that are no part of the lake; programs that read whole folders take them for it: {}{more}",
                first.join(", ")
            );
            faults.push(Fault::new(Class::Stray, detail).at(folder));
        }
        let data = self.0.iter().filter(|(folder, _)| !matches!(folder.as_str(), "keys/" | "directory/"));
        for (folder, why) in data.filter_map(|(folder, found)| Some((folder, found.as_ref().err()?))) {
            let detail =
                format!("cannot be listed, so that nobody can say what else is there: {}", shown(why));
            faults.push(Fault::new(Class::Stray, detail).at(folder));
        }
        strays
    }

    /// Data files of commits that their streams do not reach: a recorder writes them when all commits before are
    /// there, so that these were taken away.
    pub fn beyond(&self, known: &Known<'_>, faults: &mut Vec<Fault>) {
        let mut first: BTreeMap<(String, u64), (u64, &str)> = BTreeMap::new();
        let mut begun = BTreeSet::new();
        let listed = self.0.values().filter_map(|found| found.as_ref().ok()?.as_ref()).flatten();
        for path in listed.filter(|path| !known.walk.named.contains(*path)) {
            let Some((stream, generation, from)) = commit_of(path) else { continue };
            let key = (stream, generation);
            begun.insert(key.clone());
            if known.walk.ends.get(&key).is_some_and(|end| from > *end) {
                let least = first.entry(key).or_insert((from, path));
                *least = (from, path.as_str()).min(*least);
            }
        }
        // One stream is written and committed after the other, keys and names with one of the first.
        let keys = self.folder("keys/").ok().flatten().is_some_and(|keys| !keys.is_empty());
        if known.walk.commits == 0 && keys && begun.len() > 1 {
            let detail = "there is no commit at all, though keys and the files of several streams are there: they were \
                          taken away";
            faults.push(Fault::new(Class::CommitGap, detail).at("commits/"));
        }
        for ((stream, generation), (from, path)) in first {
            let detail = format!(
                "the commits of stream {stream} before position {from} are gone: the file of a later one is there"
            );
            let folder = format!("commits/{stream}/{generation}");
            faults.push(Fault::new(Class::CommitGap, format!("{detail}, {path}")).at(&folder));
        }
    }

    /// Listed streams of which there is no commit. That of a producer's keys had one before the ledger could say
    /// that a session has ended whose key is there.
    pub fn empty_streams(&self, known: &Known<'_>, faults: &mut Vec<Fault>) {
        let keys: HashSet<&str> =
            self.folder("keys/").ok().flatten().unwrap_or_default().iter().map(String::as_str).collect();
        let brought: BTreeSet<&str> = known
            .ledgers
            .sessions
            .iter()
            .filter(|(_, announced)| matches!(announced.end, End::Sealed(_) | End::Crashed(_)))
            .filter(|(session, _)| keys.contains(layout::session_key(**session).as_str()))
            .map(|(_, announced)| &*announced.producer)
            .collect();
        let empty = known.walk.commits_of.iter().filter(|(_, commits)| **commits == 0);
        for ((name, _), _) in empty {
            let others = known.walk.commits_of.iter().any(|((other, _), n)| other == name && *n > 0);
            let folder = format!("commits/{}", name.in_path());
            let gone = name.lane() == KEYS && !others && brought.contains(name.producer());
            let (class, detail) = match gone {
                true => (
                    Class::CommitGap,
                    "the commits of the stream are gone: keys that they brought are there, and the ledger went on \
                     after them"
                        .to_owned(),
                ),
                false => (
                    Class::EmptyStream,
                    format!(
                        "the list of streams has {name}, and there is no commit of it: it was about to begin, or its \
                         commits were removed"
                    ),
                ),
            };
            faults.push(Fault::new(class, detail).at(&folder));
        }
    }
}

impl Known<'_> {
    /// Whether an object of a listed folder is part of the lake.
    fn has(&self, path: &str) -> bool {
        if let Some(session) = path.strip_prefix("keys/") {
            let session = session.parse::<SessionId>().ok();
            let is_known = |s: SessionId| self.ledgers.sessions.contains_key(&s) || (self.sessions)(s);
            return session.is_some_and(|s| is_known(s) && layout::session_key(s) == path);
        }
        if path.starts_with("directory/") {
            return self.principals.contains(path);
        }
        self.walk.named.contains(path)
            || self.windows.files.contains(path)
            || window_of(path).is_some_and(|record| self.windows.records.contains(&record))
    }
}

/// The record of the evaluation that a findings file names itself after. Only the newest record of a window is
/// read; of an older one that is there, the files are taken for its own.
fn window_of(path: &str) -> Option<String> {
    let mut parts = path.strip_prefix("findings/")?.strip_suffix(".parquet")?.rsplitn(5, '-');
    let (_, n, start, major) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let (rule, start) = (parts.next()?, start.replace('m', "-").parse().ok()?);
    layout::window(rule, major.parse().ok()?, start, n.parse().ok()?).ok()
}

/// Stream, generation and start of the commit that a data file was written for, as its name says.
fn commit_of(path: &str) -> Option<(String, u64, u64)> {
    let (_, name) = path.rsplit_once('/')?;
    let mut parts = name.strip_suffix(".parquet")?.rsplitn(5, '-');
    let (writer, n, from) = (parts.next()?, parts.next()?, parts.next()?);
    let (generation, stream) = (parts.next()?, parts.next()?);
    n.parse::<u64>().ok().filter(|_| writer.len() == 8)?;
    Some((stream.to_owned(), generation.parse().ok()?, from.parse().ok()?))
}

/// Whether a name in `streams/` is one that the list of streams has.
pub fn is_entry(path: &str) -> bool {
    number(path).is_some_and(|n| layout::stream(n) == path)
}

/// The folder of the table, or the first part of the path.
fn folder_of(path: &str) -> String {
    let parts = if path.starts_with("tables/") { 2 } else { 1 };
    let mut folder: Vec<&str> = path.split('/').collect();
    folder.pop();
    folder.truncate(parts);
    folder.join("/") + "/"
}

fn top(folder: &str) -> String {
    let first = folder.split('/').next().unwrap_or_default();
    format!("{first}/")
}
