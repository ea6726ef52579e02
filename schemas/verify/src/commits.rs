//! The commits of a lake, walked by name: which files are part of it, and whether any commit is missing,
//! damaged, or does not follow on the one before it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use bodycam_lake::commit::MAX_BYTES;
use bodycam_lake::file::RowSum;
use bodycam_lake::state::fold_sessions;
use bodycam_lake::{
    Commit, FileEntry, LakeError, LedgerState, SessionState, StreamEntry, StreamName, Table, layout,
};
use bodycam_record::{Digest, SessionId};
use bytes::Bytes;

use crate::declared::Generation;
use crate::fault::{Class, Fault};
use crate::files::{DataFile, unreadable};
use crate::snapshots::Snapshots;
use crate::strays;
use crate::trust::Trust;
use crate::{Files, listed};

/// The commits of a stream, each with its name.
type Named = Vec<(Arc<str>, Commit)>;

/// The lane of ledgers.
const LEDGER: &str = "ledger";

/// What the commits say.
#[derive(Debug, Default)]
pub struct Walk {
    /// The files that are part of the lake, in the order of the hours that they hold.
    pub files: Vec<DataFile>,
    /// Number of events of every session that the commits call open.
    pub open: HashMap<SessionId, i64>,
    /// Every statement of a commit about a session, with the commit.
    pub stated: Vec<(Arc<str>, SessionState)>,
    /// Every statement of a commit about a ledger, with the commit.
    pub ledgers: Vec<(Arc<str>, LedgerState)>,
    /// Whether an entry of the list of streams or a commit could not be read.
    pub unread: bool,
    /// Time of the newest commit of each producer's streams, Unix ns.
    pub newest_ns: HashMap<String, i64>,
    /// Names of the commits that would follow on the last of each ledger, by producer.
    pub next_ledger: HashMap<String, Vec<String>>,
    /// Name of the next entry of the list of streams.
    pub next_stream: String,
    /// For each producer with streams of events, the largest number of commits of one of them.
    pub lanes: HashMap<String, u64>,
    /// Streams.
    pub streams: u64,
    /// Commits.
    pub commits: u64,
    /// Number of commits of every listed stream and generation.
    pub commits_of: BTreeMap<(StreamName, u64), u64>,
    /// Where the commits of every listed stream end, by its name in paths and its generation.
    pub ends: BTreeMap<(String, u64), u64>,
    /// Paths of all data files that any commit names.
    pub named: HashSet<String>,
    /// Commits that were read, by name.
    read: HashSet<String>,
    /// Objects in `streams/` and `commits/` that are no part of either.
    pub strays: Vec<String>,
    /// Keys that signed commits.
    pub recorders: BTreeSet<Digest>,
    /// Every listed stream that did not begin at its first record, or began anew.
    pub generations: Vec<Generation>,
    /// What is wrong.
    pub faults: Vec<Fault>,
}

impl Walk {
    /// Whether a recorder has written since the commits were read: then what a ledger does not hold yet can be
    /// on its way. Asked at the end, when what was on its way has had time to arrive.
    pub fn has_grown(&self, files: &dyn Files, producer: &str) -> bool {
        let there = |path: &str| files.read(path, 0).is_ok_and(|found| found.is_some());
        let ledger = self.next_ledger.get(producer);
        ledger.is_some_and(|paths| paths.iter().any(|path| there(path)))
            || (ledger.is_none() && there(&self.next_stream))
    }
}

/// Walks all commits. None when there is no lake.
pub fn walk(files: &dyn Files, trust: Option<&Trust>) -> Option<Walk> {
    let mut out = Walk::default();
    let snapshots = Snapshots::read(files, &mut out);
    let (listed, there) = streams(files, &mut out)?;
    out.streams = listed.len() as u64;
    // In this order, what a later stream holds covers all that an earlier one speaks of, even while a recorder
    // writes: rows are committed before they are compacted, and events before the ledger that names them.
    let rank = |s: &StreamName| match (s.as_str().contains('/'), s.lane()) {
        (false, _) => 0,
        (true, LEDGER) => 1,
        _ => 2,
    };
    let mut ranked: Vec<(usize, &StreamEntry)> = listed.iter().enumerate().collect();
    ranked.sort_by_key(|(_, s)| rank(&s.stream));
    let mut walked: Vec<(usize, Named)> = Vec::new();
    for (index, stream) in ranked {
        let commits = walk_stream(files, stream, trust, &mut out);
        for (path, commit) in &commits {
            unstated(path, commit, &mut out.faults);
            out.stated.extend(commit.sessions.iter().map(|state| (Arc::clone(path), *state)));
            out.ledgers.extend(commit.ledger.iter().map(|state| (Arc::clone(path), state.clone())));
        }
        let (name, n) = (&stream.stream, commits.len() as u64);
        let end = commits.last().map_or(stream.from, |(_, commit)| commit.to);
        out.ends.insert((name.in_path(), stream.generation), end);
        let producer = name.producer().to_owned();
        match rank(name) {
            0 => {}
            1 => {
                let next = commits.last().map_or(stream.from, |(_, c)| c.to);
                let path = layout::commit(name, stream.generation, next);
                out.next_ledger.entry(producer).or_default().push(path);
            }
            _ if n > 0 => {
                let most = out.lanes.entry(producer).or_default();
                *most = n.max(*most);
            }
            _ => {}
        }
        *out.commits_of.entry((name.clone(), stream.generation)).or_default() += n;
        walked.push((index, commits));
    }
    passed_over(&listed, there, &mut out);
    walked.sort_by_key(|(index, _)| *index);
    let (mut open, mut ended) = (HashMap::new(), BTreeMap::new());
    for (index, commits) in &walked {
        commits.iter().for_each(|(_, commit)| fold_sessions(&mut open, &mut ended, *index, commit));
    }
    out.open = open.into_iter().map(|(session, (_, state))| (session, state.next_seq)).collect();
    let anew: HashSet<&StreamName> =
        listed.iter().filter(|s| s.generation > 0 || s.from > 0).map(|s| &s.stream).collect();
    for (entry, (_, commits)) in listed.iter().zip(&walked).filter(|(s, _)| anew.contains(&s.stream)) {
        let place = (entry.generation, entry.from);
        out.generations.push(Generation::of(&entry.stream, place, commits.iter().map(|(_, commit)| commit)));
    }
    let by_stream = listed
        .iter()
        .zip(&walked)
        .map(|(entry, (_, commits))| (entry.clone(), commits.iter().map(|(_, commit)| commit).collect()));
    snapshots.check(&by_stream.collect(), trust, &mut out);
    let commits: Vec<_> = walked.into_iter().flat_map(|(_, commits)| commits).collect();
    out.commits = commits.len() as u64;
    // Compaction was read first and is applied last.
    let (replacing, adding): (Vec<_>, Vec<_>) =
        commits.into_iter().partition(|(_, c)| !c.replaces.is_empty());
    let mut live: BTreeMap<String, DataFile> = BTreeMap::new();
    for (path, commit) in adding.into_iter().chain(replacing) {
        out.named.extend(commit.files.iter().map(|file| file.path.clone()));
        apply(&path, commit, &mut live, &mut out);
    }
    out.files = live.into_values().collect();
    out.files.sort_by_cached_key(|f| order(&f.entry));
    Some(out)
}

/// Files of one hour together, what is small in it first: sessions can then be settled hour by hour.
fn order(entry: &FileEntry) -> (String, u8, String) {
    let hour = entry.path.find("/dt=").and_then(|at| entry.path.get(at + 1..at + 20)).unwrap_or_default();
    let rank = match entry.table.0 {
        Table::Events(bodycam_record::Family::Session) => 0,
        Table::Events(_) => 1,
        _ => 2,
    };
    (hour.to_owned(), rank, entry.path.clone())
}

/// An object, when it is there.
#[derive(Debug)]
enum Found {
    Bytes(Bytes),
    Nothing,
    /// It cannot be read, which was told.
    Unreadable,
}

fn read(files: &dyn Files, path: &str, out: &mut Walk) -> Found {
    match files.read(path, MAX_BYTES as u64) {
        Ok(Some(bytes)) => Found::Bytes(bytes),
        Ok(None) => Found::Nothing,
        Err(why) => {
            out.faults.push(unreadable(path, &why));
            out.unread = true;
            Found::Unreadable
        }
    }
}

/// The list of streams, and the objects in `commits/` from before it was read.
fn streams(files: &dyn Files, out: &mut Walk) -> Option<(Vec<StreamEntry>, Vec<String>)> {
    let mut streams = Vec::new();
    // Before the streams are read: a recorder that is at work lists a stream before it writes to it.
    let commits = listed(files, "commits/", &mut out.faults).unwrap_or_default();
    let numbers = listed(files, "streams/", &mut out.faults).unwrap_or_default();
    let (entries, strays): (Vec<String>, Vec<String>) =
        numbers.into_iter().partition(|path| strays::is_entry(path));
    out.strays = strays;
    let numbers: BTreeSet<u64> = entries.iter().filter_map(|name| number(name)).collect();
    let mut n = 0;
    loop {
        let path = layout::stream(n);
        let later = numbers.range(n.saturating_add(1)..).next().copied();
        match read(files, &path, out) {
            Found::Bytes(bytes) => match StreamEntry::parse(&path, &bytes) {
                Ok(entry) => streams.push(entry),
                Err(error) => out.faults.push(object_fault(&path, &error)),
            },
            Found::Nothing => {
                let Some(next) = later else { break };
                let detail = format!("missing, though the list of streams goes on at {next}");
                out.faults.push(Fault::new(Class::CommitGap, detail).at(&path));
                n = next;
                continue;
            }
            // Where nothing can be read, nothing says that there is an end.
            Found::Unreadable if later.is_none() => break,
            Found::Unreadable => {}
        }
        n = n.saturating_add(1);
    }
    let known: BTreeSet<String> = streams.iter().filter_map(commit_folder).collect();
    let folder = |path: &str| path.rsplit_once('/').map(|(folder, _)| folder.to_owned());
    let found = commits.iter().filter(|name| number(name).is_some()).filter_map(|name| folder(name));
    for stray in found.collect::<BTreeSet<String>>().difference(&known) {
        let detail = "commits of a stream that the list of streams does not know";
        out.faults.push(Fault::new(Class::CommitGap, detail).at(stray));
    }
    out.next_stream = layout::stream(n);
    (n > 0 || !out.faults.is_empty()).then_some((streams, commits))
}

/// Commits in the folder of a listed stream that the walk does not come to, and what is no commit at all. A
/// recorder writes each where the one before it ends, so that whatever lies elsewhere was put there, or what led to
/// it was taken away.
fn passed_over(listed: &[StreamEntry], there: Vec<String>, out: &mut Walk) {
    let known: BTreeSet<String> = listed.iter().filter_map(commit_folder).collect();
    for path in there.into_iter().filter(|path| !out.read.contains(path)).collect::<Vec<_>>() {
        let Some((folder, name)) = path.rsplit_once('/') else { continue };
        match number(&path) {
            // What could not be read was told, and what follows on it is not known.
            Some(_) if out.unread => {}
            Some(n) if known.contains(folder) && name == format!("{n}.json") => {
                let detail = "a commit that no other one of its stream leads to";
                out.faults.push(Fault::new(Class::CommitGap, detail).at(&path));
            }
            // Commits of a stream that is not listed were told with the list of streams.
            Some(_) if !known.contains(folder) => {}
            _ => out.strays.push(path),
        }
    }
}

/// The folder of a stream's commits.
fn commit_folder(stream: &StreamEntry) -> Option<String> {
    let path = layout::commit(&stream.stream, stream.generation, 0);
    path.rsplit_once('/').map(|(folder, _)| folder.to_owned())
}

/// The number in `<folder>/<number>.json`.
pub fn number(path: &str) -> Option<u64> {
    path.rsplit('/').next()?.strip_suffix(".json")?.parse().ok()
}

/// What is wrong with an object that could not be parsed.
pub fn object_fault(path: &str, error: &LakeError) -> Fault {
    let class =
        if matches!(error, LakeError::Unsupported { .. }) { Class::Unsupported } else { Class::Commit };
    let reason = match error {
        LakeError::Damaged { reason, .. } => reason.clone(),
        other => other.to_string(),
    };
    Fault::new(class, reason).at(path)
}

fn walk_stream(
    files: &dyn Files,
    stream: &StreamEntry,
    trust: Option<&Trust>,
    out: &mut Walk,
) -> Vec<(Arc<str>, Commit)> {
    let mut commits: Vec<(Arc<str>, Commit)> = Vec::new();
    let StreamEntry { stream: name, generation, .. } = stream;
    let mut position = stream.from;
    let mut previous = Some(None);
    loop {
        let path = layout::commit(name, *generation, position);
        let mut found = read(files, &path, out);
        let next = match found {
            Found::Bytes(_) => None,
            Found::Nothing | Found::Unreadable => later(files, name, *generation, position),
        };
        if next.is_some() && matches!(found, Found::Nothing) {
            // A recorder that is at work may have written it, and more, since it was looked for.
            found = read(files, &path, out);
        }
        if matches!(found, Found::Bytes(_)) {
            out.read.insert(path.clone());
        }
        let bytes = match (found, next) {
            (Found::Bytes(bytes), _) => bytes,
            (_, None) => return commits,
            (Found::Nothing, Some(next)) => {
                let detail = format!("missing; the stream goes on at position {next}");
                out.faults.push(Fault::new(Class::CommitGap, detail).at(&path));
                (position, previous) = (next, None);
                continue;
            }
            (Found::Unreadable, Some(next)) => {
                (position, previous) = (next, None);
                continue;
            }
        };
        let parsed = Commit::parse(&path, &bytes).or_else(|error| {
            out.faults.push(object_fault(&path, &error));
            // What a damaged commit says is still followed, so that more than its damage is found.
            serde_json::from_slice::<Commit>(&bytes).map_err(|_| error)
        });
        let mut commit = match parsed {
            Ok(commit) => commit,
            Err(_) => match later(files, name, *generation, position) {
                Some(next) => {
                    (position, previous) = (next, None);
                    continue;
                }
                None => return commits,
            },
        };
        let mut wrong = |detail: &str| out.faults.push(Fault::new(Class::Commit, detail).at(&path));
        if (&commit.stream, commit.generation, commit.from) != (name, *generation, position) {
            wrong("it is of another stream or position than its name says");
        }
        if previous.is_some_and(|previous| previous != commit.previous) {
            wrong("it does not name the commit before it");
        }
        if trust.is_some_and(|t| !t.recorders.is_empty() && !t.recorders.contains(&commit.recorder)) {
            let detail = format!("signed with key {}, which is not pinned", commit.recorder);
            out.faults.push(Fault::new(Class::CommitKey, detail).at(&path));
        }
        out.recorders.insert(commit.recorder);
        let newest = out.newest_ns.entry(name.producer().to_owned()).or_insert(commit.created_ns);
        *newest = commit.created_ns.max(*newest);
        previous = Some(Some(commit.digest()));
        let advanced = commit.to > position;
        position = commit.to;
        // No writer of ours names such a path, and nothing is read there; what it keeps from being read is missing.
        commit.files.retain(|entry| {
            let belongs = layout::belongs(entry.table.0, &entry.path);
            if !belongs {
                let detail =
                    format!("{path} names it, and no file of table {} lies there", entry.table.0.name());
                out.faults.push(Fault::new(Class::Manifest, detail).at(&entry.path));
            }
            belongs
        });
        commits.push((path.into(), commit));
        if !advanced {
            return commits;
        }
    }
}

/// The first commit after `position`, when the store can list.
fn later(files: &dyn Files, stream: &StreamName, generation: u64, position: u64) -> Option<u64> {
    let path = layout::commit(stream, generation, position);
    let folder = path.rsplit_once('/').map(|(folder, _)| format!("{folder}/"))?;
    // A folder that cannot be listed was told with `commits/`, in which it lies.
    files.list(&folder).ok()??.iter().filter_map(|name| number(name)).filter(|n| *n > position).min()
}

fn apply(path: &Arc<str>, commit: Commit, live: &mut BTreeMap<String, DataFile>, out: &mut Walk) {
    let mut sums: BTreeMap<Table, [(u64, RowSum); 2]> = BTreeMap::new();
    let mut unknown: BTreeSet<Table> = BTreeSet::new();
    let mut count = |entry: &FileEntry, side: usize| {
        let table = entry.table.0;
        // Superseded rows of the index of sessions are left out, and what counts is compared with the events.
        let Some(sum) = entry.row_sum.filter(|_| table != Table::Sessions) else {
            unknown.insert(table);
            return;
        };
        if let Some((rows, total)) = sums.entry(table).or_default().get_mut(side) {
            *rows = rows.saturating_add(entry.rows);
            total.add(sum);
        }
    };
    let mut is_known = true;
    for replaced in &commit.replaces {
        match live.remove(replaced) {
            Some(file) => count(&file.entry, 0),
            // The commit that added it may be one of those that cannot be read.
            None if out.unread => is_known = false,
            None => {
                let detail = format!("it replaces {replaced}, which is not part of the lake");
                out.faults.push(Fault::new(Class::Commit, detail).at(path));
            }
        }
    }
    for entry in &commit.files {
        count(entry, 1);
    }
    if !commit.replaces.is_empty() && is_known {
        let known = sums.iter().filter(|(table, _)| !unknown.contains(table));
        for (table, [before, after]) in known.filter(|(_, [before, after])| before != after) {
            let (table, before, after) = (table.name(), before.0, after.0);
            let detail = format!(
                "the rows of table {table} that it writes ({after}) are not those that it replaces ({before})"
            );
            out.faults.push(Fault::new(Class::Compaction, detail).at(path));
        }
    }
    let committed_ns = commit.created_ns;
    for entry in commit.files {
        if let Some(what) = left_out(&entry) {
            let detail = format!("{path} leaves out its {what}: readers would pass over it");
            out.faults.push(Fault::new(Class::Manifest, detail).at(&entry.path));
        }
        let known = entry.path.clone();
        let file = DataFile { entry: Arc::new(entry), committed_ns, named_by: Arc::clone(path) };
        if live.insert(known.clone(), file).is_some() {
            let detail = format!("it adds {known}, which is part of the lake already");
            out.faults.push(Fault::new(Class::Commit, detail).at(path));
        }
    }
}

/// Sessions of which a commit has events and does not say, or not of all of them, where they stand afterwards.
fn unstated(path: &str, commit: &Commit, faults: &mut Vec<Fault>) {
    if !commit.replaces.is_empty() {
        return;
    }
    let stated: HashMap<SessionId, i64> = commit.sessions.iter().map(|s| (s.session, s.next_seq)).collect();
    let events = commit.files.iter().filter(|file| matches!(file.table.0, Table::Events(_)));
    let mut missing = BTreeSet::new();
    for range in events.flat_map(|file| file.sessions.iter().flatten()) {
        if stated.get(&range.session).is_none_or(|next| *next <= range.seq_to) {
            missing.insert(range.session);
        }
    }
    for session in missing {
        let detail = "it has events of the session, and does not state where it stands after them";
        faults.push(Fault::new(Class::Commit, detail).of(session).at(path));
    }
}

/// What an entry must state and does not: readers may choose files by it, and a compaction is judged by it, so that
/// it is asked for of files that were replaced as well.
fn left_out(entry: &FileEntry) -> Option<&'static str> {
    let timed = matches!(entry.table.0, Table::Events(_) | Table::Sessions | Table::Findings);
    match entry {
        FileEntry { row_sum: None, .. } => Some("sum of row hashes (row_sum)"),
        FileEntry { min_ts_ns: None, rows: 1.., .. } if timed => Some("smallest time (min_ts_ns)"),
        FileEntry { max_ts_ns: None, rows: 1.., .. } if timed => Some("largest time (max_ts_ns)"),
        _ => None,
    }
}
