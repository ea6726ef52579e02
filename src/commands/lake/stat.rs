//! `bodycam lake stat`: what a lake holds, as its commits say it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use anyhow::Result;
use bodycam_lake::lake::newest_snapshot_number;
use bodycam_lake::state::Snapshot;
use bodycam_lake::{Commit, FileEntry, Store, Table, layout};
use bodycam_record::shown;
use bodycam_recorder::RecorderConfig;
use bodycam_recorder::compact::plan::LARGE;
use bodycam_recorder::garbage::{Garbage, ORPHAN_AGE, Orphan, Replaced};
use serde_json::{Value, json};

use super::{bytes, moment, now_ns, span};
use crate::cli::By;

/// Upper ends of the classes of sizes.
const CLASSES: [(u64, &str); 5] = [
    (64 << 10, "below 64 KiB"),
    (1 << 20, "to 1 MiB"),
    (16 << 20, "to 16 MiB"),
    (LARGE, "to 128 MiB"),
    (u64::MAX, "128 MiB and more"),
];

/// What was found.
pub struct Stat {
    lake: String,
    files: Vec<(Table, String, FileFacts)>,
    commits: u64,
    snapshot: Option<SnapshotFacts>,
    streams: Vec<StreamFacts>,
    garbage: Garbage,
    /// What detection keeps beside the record: roll-ups, and who works at which window.
    kept: (usize, u64),
    now_ns: i64,
}

/// Files counted together.
#[derive(Debug, Clone, Copy, Default)]
struct FileFacts {
    files: u64,
    small: u64,
    rows: u64,
    bytes: u64,
    classes: [u64; CLASSES.len()],
}

struct SnapshotFacts {
    n: u64,
    commits: u64,
    written_ns: Option<i64>,
}

struct StreamFacts {
    name: String,
    generation: u64,
    position: u64,
    last_commit_ns: Option<i64>,
}

impl FileFacts {
    fn add(&mut self, other: &FileFacts) {
        self.files += other.files;
        self.small += other.small;
        self.rows += other.rows;
        self.bytes += other.bytes;
        self.classes.iter_mut().zip(other.classes).for_each(|(n, more)| *n += more);
    }

    fn of(file: &FileEntry) -> Self {
        let class = CLASSES.iter().position(|(end, _)| file.bytes < *end).unwrap_or(CLASSES.len() - 1);
        let mut classes = [0; CLASSES.len()];
        classes.iter_mut().skip(class).take(1).for_each(|n| *n = 1);
        Self { files: 1, small: u64::from(file.bytes < LARGE), rows: file.rows, bytes: file.bytes, classes }
    }
}

/// Looks at the lake in `store`.
pub async fn gather(store: &Store, config: &RecorderConfig, table: Option<Table>) -> Result<Stat> {
    let grace = Duration::from_secs(config.compact_grace_seconds);
    let (garbage, lake) = Garbage::find(store, None, grace, ORPHAN_AGE).await?;
    lake.expect_recorded().await?;
    let state = lake.state();
    let mut folders: BTreeMap<(Table, String), FileFacts> = BTreeMap::new();
    for file in state.all_files().filter(|file| table.is_none_or(|table| file.table.0 == table)) {
        let hour = file.path.find("dt=").and_then(|at| Some(file.path.get(at..)?.rsplit_once('/')?.0));
        let folder = (file.table.0, hour.unwrap_or("").to_owned());
        folders.entry(folder).or_default().add(&FileFacts::of(file));
    }
    let mut streams = Vec::new();
    for stream in &state.streams {
        let mut last_commit_ns = None;
        if let Some(from) = stream.last_from {
            let path = layout::commit(&stream.stream, stream.generation, from);
            let commit = Commit::parse(&path, &store.need(&path, "the state of the lake").await?)?;
            last_commit_ns = Some(commit.created_ns);
        }
        let (generation, position) = (stream.generation, stream.position);
        streams.push(StreamFacts { name: stream.stream.to_string(), generation, position, last_commit_ns });
    }
    let kept = store.listed("state").await?;
    Ok(Stat {
        kept: (kept.len(), kept.iter().map(|object| object.bytes).sum()),
        lake: store.name().to_owned(),
        files: folders.into_iter().map(|((table, hour), facts)| (table, hour, facts)).collect(),
        commits: state.commits,
        snapshot: snapshot(store).await?,
        streams,
        garbage,
        now_ns: now_ns(),
    })
}

/// The newest snapshot; none when there is none, or none that can be read.
async fn snapshot(store: &Store) -> Result<Option<SnapshotFacts>> {
    let Some(n) = newest_snapshot_number(store).await? else { return Ok(None) };
    let path = layout::snapshot(n);
    let Some(object) = store.get(&path).await? else { return Ok(None) };
    let Ok(snapshot) = Snapshot::parse(&path, &object) else { return Ok(None) };
    Ok(Some(SnapshotFacts { n, commits: snapshot.commits, written_ns: store.written_ns(&path).await? }))
}

impl Stat {
    /// Files by table and the time that `by` asks for.
    fn counted(&self, by: By) -> BTreeMap<(Table, &str), FileFacts> {
        let mut counted: BTreeMap<(Table, &str), FileFacts> = BTreeMap::new();
        for (table, hour, facts) in &self.files {
            let time = match by {
                By::Table => "",
                By::Day => hour.split('/').next().unwrap_or(""),
                By::Hour => hour,
            };
            counted.entry((*table, time)).or_default().add(facts);
        }
        counted
    }

    fn age(&self, ns: i64) -> Duration {
        Duration::from_nanos(u64::try_from(self.now_ns.saturating_sub(ns)).unwrap_or(0))
    }

    fn since_snapshot(&self) -> u64 {
        self.commits.saturating_sub(self.snapshot.as_ref().map_or(0, |snapshot| snapshot.commits))
    }

    /// As JSON.
    pub fn to_json(&self, by: By) -> Value {
        let files = self.counted(by).into_iter().map(|((table, time), facts)| {
            let sizes =
                CLASSES.iter().zip(facts.classes).map(|((_, name), n)| ((*name).to_owned(), json!(n)));
            json!({
                "table": table.name(), "time": time, "files": facts.files, "small_files": facts.small,
                "rows": facts.rows, "bytes": facts.bytes, "sizes": sizes.collect::<serde_json::Map<_, _>>(),
            })
        });
        let seconds = |ns: i64| self.age(ns).as_secs();
        let streams = self.streams.iter().map(|stream| {
            json!({
                "stream": stream.name, "generation": stream.generation, "position": stream.position,
                "last_commit": stream.last_commit_ns.map(moment),
                "last_commit_age_seconds": stream.last_commit_ns.map(seconds),
            })
        });
        let snapshot = self.snapshot.as_ref().map(|snapshot| {
            json!({
                "number": snapshot.n, "commits": snapshot.commits, "age_seconds": snapshot.written_ns.map(seconds),
            })
        });
        json!({
            "lake": self.lake,
            "files": files.collect::<Vec<_>>(),
            "streams": streams.collect::<Vec<_>>(),
            "commits": self.commits,
            "commits_since_snapshot": self.since_snapshot(),
            "snapshot": snapshot,
            "replaced": self.garbage.replaced.iter().map(replaced_json).collect::<Vec<_>>(),
            "orphans": self.garbage.orphans.iter().map(orphan_json).collect::<Vec<_>>(),
            "state": { "objects": self.kept.0, "bytes": self.kept.1 },
        })
    }

    /// As text for people.
    pub fn to_text(&self, by: By) -> String {
        let mut out = String::new();
        let snapshot = match &self.snapshot {
            None => "no snapshot".to_owned(),
            Some(SnapshotFacts { n, written_ns, .. }) => {
                let age = written_ns.map(|ns| format!(", {} old", span(self.age(ns)))).unwrap_or_default();
                format!("{} since snapshot {n}{age}", self.since_snapshot())
            }
        };
        let _ = writeln!(out, "{}: {} commits, {snapshot}\n", self.lake, self.commits);
        let _ = writeln!(
            out,
            "{:<10} {:<19} {:>7} {:>7} {:>12} {:>10}",
            "TABLE", "TIME", "FILES", "SMALL", "ROWS", "BYTES"
        );
        let mut all = FileFacts::default();
        for ((table, time), facts) in self.counted(by) {
            all.add(&facts);
            line(&mut out, table.name(), time, &facts);
        }
        line(&mut out, "all", "", &all);
        let classes: Vec<_> =
            CLASSES.iter().zip(all.classes).map(|((_, name), n)| format!("{name}: {n}")).collect();
        let _ = writeln!(out, "\nfiles by size: {}\n", classes.join(", "));
        let _ = writeln!(out, "{:<32} {:>4} {:>12} LAST COMMIT", "STREAM", "GEN", "POSITION");
        for StreamFacts { name, generation, position, last_commit_ns } in &self.streams {
            let last = last_commit_ns
                .map_or_else(|| "-".to_owned(), |ns| format!("{} ({} ago)", moment(ns), span(self.age(ns))));
            let _ = writeln!(out, "{:<32} {generation:>4} {position:>12} {last}", shown(name));
        }
        let due = self.garbage.replaced.iter().map(|replaced| replaced.due_ns).min();
        let due = due.map(|ns| format!(", the first due at {}", moment(ns))).unwrap_or_default();
        let _ =
            writeln!(out, "\nreplaced files that wait to be deleted: {}{due}", self.garbage.replaced.len());
        let (objects, size) = self.kept;
        let _ = writeln!(
            out,
            "kept by detection under state/: {objects} objects ({}); `detect watch` removes what is replaced",
            bytes(size)
        );
        let orphans = &self.garbage.orphans;
        let size: u64 = orphans.iter().map(|orphan| orphan.file.bytes).sum();
        let _ = writeln!(out, "files that no commit names: {} ({})", orphans.len(), bytes(size));
        for Orphan { file, age, stays } in orphans {
            let stays = stays.as_ref().map_or_else(|| "goes with `lake gc`".to_owned(), ToString::to_string);
            let _ =
                writeln!(out, "  {}: {}, {} old; {stays}", shown(&file.path), bytes(file.bytes), span(*age));
        }
        out
    }
}

fn line(out: &mut String, table: &str, time: &str, facts: &FileFacts) {
    let FileFacts { files, small, rows, .. } = facts;
    let time = if time.is_empty() { "-" } else { time };
    let _ =
        writeln!(out, "{table:<10} {time:<19} {files:>7} {small:>7} {rows:>12} {:>10}", bytes(facts.bytes));
}

/// A replaced file as JSON.
pub fn replaced_json(replaced: &Replaced) -> Value {
    json!({
        "path": replaced.tombstone.path, "replaced": moment(replaced.tombstone.replaced_ns),
        "due": moment(replaced.due_ns),
    })
}

/// A file that no commit names as JSON.
pub fn orphan_json(orphan: &Orphan) -> Value {
    json!({
        "path": orphan.file.path, "bytes": orphan.file.bytes, "age_seconds": orphan.age.as_secs(),
        "stays": orphan.stays.as_ref().map(ToString::to_string),
    })
}
