//! Lakes on a disk, as the recorder left them, altered, and judged by `bodycam verify` itself.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use bodycam_bus::SpoolConfig;
use bodycam_bus::spool::SpoolBus;
use bodycam_lake::columns::findings::FindingRow;
use bodycam_lake::columns::{self, Table, findings, sessions, templates};
use bodycam_lake::commit::{Commit, FileEntry, LedgerState, SessionState, Signature, TableName, VERSION};
use bodycam_lake::layout::{self, Hour};
use bodycam_lake::window::{FindingMark, IndexEntry, WindowRecord};
use bodycam_lake::{EncodedFile, Lake as Recorded, Store, StreamName, Windows, file};
use bodycam_record::kinds::Body;
use bodycam_record::rule::Severity;
use bodycam_record::{Digest, Event, Family, Id16, SessionId};
use bodycam_recorder::{Metrics, Recorder, RecorderConfig};
use tokio::sync::OnceCell;

use super::fixture::*;
use crate::support::stack::bodycam;

/// A lake that the recorder made in several flushes, with snapshots, and with what detection leaves.
async fn recorded() -> &'static Lake {
    static LAKE: OnceCell<Lake> = OnceCell::const_new();
    LAKE.get_or_init(|| async {
        let dir = tempfile::tempdir().unwrap();
        let (spool_dir, root) = (dir.path().join("spool"), dir.path().join("lake"));
        std::fs::create_dir_all(&spool_dir).unwrap();
        spool(&spool_dir).await;
        let bus = SpoolBus::new(&SpoolConfig { dir: spool_dir, ..SpoolConfig::default() });
        let store = Store::create(root.to_str().unwrap()).unwrap();
        let config = RecorderConfig { snapshot_commits: 2, ..RecorderConfig::default() };
        let (key, metrics) = (Arc::new(recorder_key()), Arc::new(Metrics::default()));
        let mut recorder = Recorder::open(bus, store.clone(), key, config, metrics).await.unwrap();
        recorder.run(async {}).await.unwrap();
        detected(store).await;
        from_directory(&root)
    })
    .await
}

/// Three windows of a rule, two of them with a finding, announced in three entries of the list.
async fn detected(store: Store) {
    evaluated(store, 0..3).await;
}

/// Windows of a rule, the first two of all with a finding, announced in as many entries of the list.
async fn evaluated(store: Store, numbers: std::ops::Range<u8>) {
    let mut windows = Windows::open(store).await.unwrap();
    for n in numbers {
        let start_ns = 1_795_255_200_000_000_000 + i64::from(n) * 3_600_000_000_000;
        let row = FindingRow {
            id: Id16([n; 16]),
            rule: "EXF-002".into(),
            rule_version: "1.0".into(),
            severity: "high".into(),
            window_start_ns: start_ns,
            window_end_ns: start_ns + 1,
            principal_ref: None,
            target: None,
            session_ids: vec![],
            measure: Some(30),
            threshold: Some(20),
            evidence_sessions: vec![],
            evidence_seqs: vec![],
            revision: 0,
            is_final: true,
            text: "a large result".into(),
        };
        let marks = vec![FindingMark { id: row.id, severity: Severity::High, said: Digest::ZERO }];
        let record = WindowRecord {
            version: VERSION,
            rule: "EXF-002".parse().unwrap(),
            rule_version: "1.0".to_owned().try_into().unwrap(),
            rule_digest: Digest::ZERO,
            window_start_ns: start_ns,
            window_end_ns: start_ns + 1,
            n: 0,
            closed: true,
            input: Digest::ZERO,
            history: Digest::ZERO,
            read: vec![],
            files: vec![],
            findings: if n < 2 { marks } else { vec![] },
            retracted: vec![],
        };
        let key = record.key();
        let file =
            (n < 2).then(|| file::encode(Table::Findings, &findings::encode([&row]).unwrap()).unwrap());
        windows.put(record, file).await.unwrap();
        windows.announce(&BTreeSet::from([key])).await.unwrap();
    }
}

/// What `bodycam verify --json` says of the lake in a directory.
struct Said {
    code: i32,
    json: serde_json::Value,
}

impl Said {
    fn classes(&self) -> BTreeSet<String> {
        let faults = self.json["faults"].as_array().unwrap();
        faults
            .iter()
            .filter(|f| f["gravity"] != "notice")
            .map(|f| f["class"].as_str().unwrap().to_owned())
            .collect()
    }

    fn state(&self, aspect: &str) -> &str {
        let properties = self.json["properties"].as_array().unwrap();
        properties.iter().find(|p| p["aspect"] == aspect).unwrap()["state"].as_str().unwrap()
    }

    #[track_caller]
    fn is(&self, what: &str, code: i32, class: &str) {
        assert!(self.code == code && self.classes().contains(class), "{what}: {} {:#}", self.code, self.json);
    }
}

fn run(lake: &Lake, arguments: &[&str], with_key: bool) -> (i32, String) {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("lake");
    std::fs::create_dir(&root).unwrap();
    to_directory(lake, &root);
    let key = dir.path().join("tenant.key");
    std::fs::write(&key, "01".repeat(32)).unwrap();
    let mut command = bodycam();
    command.args(arguments).arg("--lake").arg(&root);
    if with_key {
        command.arg("--tenant-key").arg(format!("file:{}", key.display()));
    }
    let output = command.current_dir(dir.path()).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(!text.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    (output.status.code().unwrap(), text)
}

fn said(lake: &Lake, with_key: bool) -> Said {
    let (code, text) = run(lake, &["verify", "--json"], with_key);
    Said { code, json: serde_json::from_str(&text).unwrap() }
}

/// The lake without the objects whose path `gone` names.
fn without(lake: &Lake, gone: impl Fn(&str) -> bool) -> Lake {
    let mut lake = lake.clone();
    let before = lake.objects.len();
    lake.objects.retain(|path, _| !gone(path));
    assert!(lake.objects.len() < before, "something was removed");
    lake
}

/// Number of the stream in the list of streams.
fn entry_of(lake: &Lake, stream: &str) -> String {
    let named = |bytes: &[u8]| String::from_utf8_lossy(bytes).contains(&format!("\"{stream}\""));
    lake.objects.iter().find(|(p, b)| p.starts_with("streams/") && named(b)).unwrap().0.clone()
}

/// Adds a commit of the thief to the end of a stream.
fn append(lake: &mut Lake, stream: &str, files: Vec<FileEntry>, replaces: Vec<String>) {
    let stream: StreamName = stream.parse().unwrap();
    let last = lake.commits().into_iter().filter(|c| c.stream == stream).max_by_key(|c| c.from);
    if last.is_none() {
        let n = lake.objects.keys().filter(|p| p.starts_with("streams/")).count() as u64;
        let entry = format!("{{\"version\":1,\"stream\":\"{stream}\",\"generation\":0,\"from\":0}}\n");
        lake.put(&layout::stream(n), entry.into_bytes());
    }
    let from = last.as_ref().map_or(0, |c| c.to);
    let created_ns = lake.commits().iter().map(|c| c.created_ns).max().unwrap() + 1;
    let mut stand: BTreeMap<SessionId, SessionState> = BTreeMap::new();
    let events = files.iter().filter(|f| matches!(f.table.0, Table::Events(_)) && replaces.is_empty());
    for range in events.flat_map(|f| f.sessions.iter().flatten()) {
        let (session, next_seq, head) = (range.session, range.seq_to + 1, range.head.unwrap());
        let known = stand.entry(session).or_insert(SessionState { session, next_seq: 0, head, open: true });
        if next_seq > known.next_seq {
            (known.next_seq, known.head) = (next_seq, head);
        }
    }
    let commit = Commit {
        version: VERSION,
        stream,
        generation: 0,
        from,
        to: from + 1,
        created_ns,
        previous: last.map(|c| c.digest()),
        files,
        replaces,
        deleted_to: 0,
        sessions: stand.into_values().collect(),
        ledger: None,
        duplicates: 0,
        recorder: Digest::ZERO,
        signature: Signature::NONE,
    };
    lake.commit(commit, &thief_key());
}

/// What R makes of the commits: all stated anew and linked, signed with R's own key.
fn restated(lake: &Lake, change: impl Fn(&mut Commit)) -> Lake {
    let mut altered = without(lake, |p| p.starts_with("snapshots/"));
    let mut commits = lake.commits();
    commits.sort_by_key(|c| (c.stream.clone(), c.from));
    let mut previous: HashMap<StreamName, Digest> = HashMap::new();
    for mut commit in commits {
        commit.previous = previous.get(&commit.stream).copied();
        change(&mut commit);
        let stream = commit.stream.clone();
        previous.insert(stream, altered.commit(commit, &thief_key()));
    }
    altered
}

/// Live files of a table.
fn live(lake: &Lake, table: Table) -> Vec<FileEntry> {
    let commits = lake.commits();
    let gone: BTreeSet<String> = commits.iter().flat_map(|c| c.replaces.clone()).collect();
    let files = commits.into_iter().flat_map(|c| c.files);
    files.filter(|f| f.table == TableName(table) && !gone.contains(&f.path)).collect()
}

/// Replaces all files of a table by one of the thief's, in a well-formed compaction commit.
fn replace(lake: &mut Lake, table: Table, encoded: EncodedFile) {
    let old: Vec<String> = live(lake, table).into_iter().map(|f| f.path).collect();
    let entry = lake.data(&StreamName::compaction(), 0, 99, table, None, encoded);
    append(lake, "compaction", vec![entry], old);
}

#[tokio::test]
async fn what_the_recorder_left_on_the_disk_verifies_with_and_without_the_key() {
    let lake = recorded().await;
    for with_key in [true, false] {
        let clean = said(lake, with_key);
        assert_eq!(clean.code, 4, "{:#}", clean.json);
        assert_eq!(clean.classes(), BTreeSet::new());
        assert_eq!(clean.state("findings"), "partial", "nothing that is not anchored is called whole");
    }
    assert!(lake.objects.keys().any(|p| p.starts_with("snapshots/")));
    assert!(lake.objects.keys().any(|p| p.starts_with("templates/")));
}

#[tokio::test]
async fn a_forged_snapshot_hides_nothing_from_readers_and_is_named_by_the_verifier() {
    let lake = recorded().await;
    let count =
        |lake: &Lake| run(lake, &["query", "SELECT count(*) FROM statements", "--format", "csv"], true).1;
    let dir = tempfile::tempdir().unwrap();
    to_directory(lake, dir.path());
    let state = Recorded::open(Store::open(dir.path().to_str().unwrap()).unwrap()).await.unwrap();
    for key in [thief_key(), recorder_key()] {
        let json = state.state().snapshot(0, &key).to_json();
        let mut json: serde_json::Value = serde_json::from_slice(&json).unwrap();
        json["files"].as_array_mut().unwrap().retain(|f| f["table"] != "sql");
        let snapshot: bodycam_lake::state::Snapshot = serde_json::from_value(json).unwrap();
        let forged = snapshot.into_state().snapshot(40, &key);
        let mut altered = lake.clone();
        altered.put("snapshots/40.json", forged.to_json());
        altered.put("snapshots/newest.json", b"{\"version\":1,\"n\":40}".to_vec());
        said(&altered, true).is("forged snapshot", 2, "SNAPSHOT");
        if key.public() == thief_key().public() {
            assert_eq!(count(&altered), count(lake), "readers go by the commits");
        }
    }
    let mut broken = lake.clone();
    let newest = broken.objects.keys().filter(|p| p.starts_with("snapshots/") && !p.contains("newest")).max();
    let newest = newest.unwrap().clone();
    broken.put(&newest, b"{\"version\":1}".to_vec());
    assert_eq!(count(&broken), count(lake));
    said(&broken, true).is("damaged snapshot", 2, "SNAPSHOT");
    let none = without(lake, |p| p.starts_with("snapshots/"));
    assert_eq!((count(&none), said(&none, true).code), (count(lake), 4), "a lake needs no snapshot");
}

/// A copy of a session of the recording, under another id, with whatever is changed in its envelopes.
fn forged_session(lake: &mut Lake, ledger_seq: i64, change: impl Fn(&mut Event)) -> SessionId {
    let clean = recording();
    let (old, new) = (clean.sessions()[1], foreign_session());
    let mut forged = clean.clone();
    forged.events.retain(|e| e.envelope.session == old);
    // Whoever has no key cannot sign a checkpoint: it stops before the first.
    let signed = |e: &&Event| matches!(e.decode_body(), Ok(Body::SessionCheckpoint(_)));
    if let Some(first) = forged.events.iter().find(signed).map(|e| e.envelope.seq) {
        forged.events.retain(|e| e.envelope.seq < first);
    }
    for event in &mut forged.events {
        event.envelope.session = new;
        if let Body::SessionOpened(mut opened) = event.decode_body().unwrap() {
            opened.ledger_seq = ledger_seq;
            let body = Body::from(opened);
            event.body = body.canonical();
            event.envelope.body_digest = body.table().body_digest(&event.body);
        }
        (event.envelope.content, event.envelope.content_no) = (None, None);
        change(event);
    }
    forged.rehash(new);
    let stream: StreamName = "gw-1/0".parse().unwrap();
    let mut files = Vec::new();
    for family in [Family::Session, Family::Sql] {
        let rows: Vec<&Event> =
            forged.events.iter().filter(|e| e.table().unwrap().family == family).collect();
        let encoded =
            file::encode(Table::Events(family), &columns::encode(family, rows.iter().copied()).unwrap());
        let hour = Hour::of_ns(rows[0].envelope.ts_wall_ns);
        files.push(lake.data(
            &stream,
            9_999,
            files.len(),
            Table::Events(family),
            Some(hour),
            encoded.unwrap(),
        ));
    }
    let mut row = sessions::SessionRow::blank(new);
    forged.events.iter().for_each(|e| row.take(&e.envelope, &e.body, e.hash));
    let encoded = file::encode(Table::Sessions, &sessions::encode([&row]).unwrap()).unwrap();
    files.push(lake.data(&stream, 9_999, files.len(), Table::Sessions, None, encoded));
    append(lake, "gw-1/0", files, vec![]);
    new
}

#[tokio::test]
async fn a_session_that_the_ledger_can_announce_no_more_is_no_pending_one() {
    let open = open_recording().lake();
    let next = open_recording().ledger.last().unwrap().seq + 1;
    for (what, lake, ledger_seq, epoch) in [
        ("after STOP", recorded().await, 1_000_000, 1),
        ("after STOP, next", recorded().await, recording().ledger.last().unwrap().seq + 1, 1),
        ("an epoch without START", recorded().await, 1_000_000, 2),
        ("an epoch far ahead", recorded().await, 1_000_000, 9),
        ("an epoch before the first", recorded().await, 1_000_000, 0),
        ("further ahead than can be", &open, next + 1_000_000, 1),
        ("a number that is taken", &open, next - 1, 1),
    ] {
        let mut forged = lake.clone();
        forged_session(&mut forged, ledger_seq, |e| e.envelope.epoch = epoch);
        said(&forged, false).is(what, 2, "ORPHAN_SESSION");
    }
    let mut pending = open.clone();
    // What is about to be announced is as young as the ledger's last word.
    let newest = open_recording().ledger.last().unwrap().ts_wall_ns;
    let oldest = recording().events.iter().map(|e| e.envelope.ts_wall_ns).min().unwrap();
    forged_session(&mut pending, next, |e| e.envelope.ts_wall_ns += newest - oldest);
    let said = said(&pending, false);
    assert_eq!(said.code, 4, "what can still be announced is pending: {}", said.json["faults"]);
}

#[tokio::test]
async fn a_ledger_or_list_of_streams_that_was_removed_is_seen() {
    let lake = recorded().await;
    let ledger = entry_of(lake, "gw-1/ledger");
    said(&without(lake, |p| p == ledger), true).is("ledger not listed", 2, "COMMIT_GAP");
    for stream in ["gw-1/0", "gw-1/keys"] {
        let entry = entry_of(lake, stream);
        said(&without(lake, |p| p == entry), true).is(stream, 2, "COMMIT_GAP");
    }
    let no_streams = said(&without(lake, |p| p.starts_with("streams/")), true);
    no_streams.is("no list of streams", 2, "COMMIT_GAP");
    // Everything of the ledger, and the list of streams renumbered.
    let gone = |p: &str| p.starts_with("commits/gw-1@ledger/") || p.starts_with("tables/ledger/");
    let mut renumbered = without(lake, |p| gone(p) || p.starts_with("streams/"));
    let left = lake.objects.iter().filter(|(p, _)| p.starts_with("streams/") && **p != ledger);
    for (n, (_, bytes)) in left.enumerate() {
        renumbered.objects.insert(layout::stream(n as u64), bytes.clone());
    }
    renumbered.objects.retain(|p, _| !p.starts_with("snapshots/"));
    said(&renumbered, true).is("no ledger at all", 2, "LEDGER_TAIL");

    let nothing = tempfile::tempdir().unwrap();
    let output = bodycam().args(["verify", "--json", "--lake"]).arg(nothing.path()).output().unwrap();
    let empty =
        Said { code: output.status.code().unwrap(), json: serde_json::from_slice(&output.stdout).unwrap() };
    empty.is("nothing", 1, "UNREADABLE");
    for aspect in ["order", "session-completeness", "authenticity", "content", "support", "findings"] {
        assert_eq!(empty.state(aspect), "not-checked", "{aspect}");
    }
}

#[tokio::test]
async fn whatever_readers_choose_files_by_is_recomputed_for_every_table() {
    let lake = recorded().await;
    let other = Some(foreign_session());
    let changes: [(&str, fn(&FileEntry) -> bool, Box<dyn Fn(&mut FileEntry)>); 9] = [
        ("no smallest time", |f| f.min_ts_ns.is_some(), Box::new(|f| f.min_ts_ns = None)),
        ("no largest time", |f| f.max_ts_ns.is_some(), Box::new(|f| f.max_ts_ns = None)),
        ("no sum of rows", |f| f.row_sum.is_some(), Box::new(|f| f.row_sum = None)),
        ("smallest time", |f| f.min_ts_ns.is_some(), Box::new(|f| f.min_ts_ns = Some(0))),
        ("largest time", |f| f.max_ts_ns.is_some(), Box::new(|f| f.max_ts_ns = Some(1))),
        ("smallest session", |f| f.min_session.is_some(), Box::new(move |f| f.min_session = other)),
        ("largest session", |f| f.max_session.is_some(), Box::new(move |f| f.max_session = other)),
        ("sessions", |f| f.sessions.is_some(), Box::new(|f| f.sessions = Some(vec![]))),
        ("sessions", |f| f.sessions.is_some(), Box::new(|f| f.sessions.as_mut().unwrap()[0].seq_to -= 1)),
    ];
    let mut checked = BTreeSet::new();
    for table in Table::ALL {
        for (what, applies, change) in &changes {
            // The last commit of its stream, so that it alone has to be signed anew.
            let mut altered = lake.clone();
            let mut commits = altered.commits();
            commits.sort_by_key(|c| c.from);
            let holds = |c: &Commit| c.files.iter().any(|f| f.table == TableName(table) && applies(f));
            let Some(at) = commits.iter().rposition(holds) else { continue };
            let mut commit = commits.remove(at);
            let entry = commit.files.iter_mut().find(|f| f.table == TableName(table) && applies(f)).unwrap();
            change(entry);
            altered.objects.retain(|p, _| !p.starts_with("snapshots/"));
            altered.commit(commit, &thief_key());
            let said = said(&altered, false);
            said.is(&format!("{what} of {}", table.name()), 2, "MANIFEST");
            checked.insert(table.name());
        }
    }
    assert_eq!(checked, BTreeSet::from(["session", "sql", "ledger", "content", "sessions", "templates"]));
    // A file in the folder of another hour.
    let mut moved = lake.clone();
    let mut commits = moved.commits();
    commits.sort_by_key(|c| c.from);
    let sql = |f: &FileEntry| f.table == TableName(Table::Events(Family::Sql));
    let mut commit = commits.into_iter().rfind(|c| c.files.iter().any(sql)).unwrap();
    let entry = commit.files.iter_mut().find(|f| sql(f)).unwrap();
    let path = "tables/sql/dt=2020-01-01/hh=00/moved.parquet".to_owned();
    let bytes = moved.objects.remove(&entry.path).unwrap();
    moved.objects.insert(path.clone(), bytes);
    entry.path = path;
    moved.objects.retain(|p, _| !p.starts_with("snapshots/"));
    moved.commit(commit, &thief_key());
    said(&moved, false).is("another hour", 2, "MANIFEST");
}

#[tokio::test]
async fn derived_rows_are_compared_with_what_they_are_derived_from() {
    let lake = recorded().await;
    let rows = |lake: &Lake| -> Vec<sessions::SessionRow> {
        let files = live(lake, Table::Sessions);
        let all = files
            .iter()
            .flat_map(|f| sessions::decode(&super::files::batch_of(&lake.objects[&f.path])).unwrap());
        sessions::newest(all)
    };
    let with = |rows: &[sessions::SessionRow]| {
        let mut altered = lake.clone();
        let encoded = file::encode(Table::Sessions, &sessions::encode(rows).unwrap()).unwrap();
        replace(&mut altered, Table::Sessions, encoded);
        altered
    };
    let clean = rows(lake);
    assert_eq!(clean.len(), 3);
    assert_eq!(said(&with(&clean), false).code, 4, "superseded rows may go");
    let altered = |change: &dyn Fn(&mut sessions::SessionRow)| {
        let mut rows = clean.clone();
        change(&mut rows[1]);
        rows.sort_by_key(|r| r.session_id);
        with(&rows)
    };
    let changes: [(&str, &dyn Fn(&mut sessions::SessionRow)); 9] = [
        ("rows", &|r| r.rows += 1),
        ("statements", &|r| r.statements -= 1),
        ("a later revision", &|r| (r.revision, r.bytes_out) = (r.revision + 100, 0)),
        ("state", &|r| r.state = "open".into()),
        ("target", &|r| r.target = "test".into()),
        ("principal", &|r| r.principal_ref = Id16([9; 16])),
        ("started", &|r| r.started_ns += 1),
        ("head", &|r| r.head = Digest::ZERO),
        ("another session", &|r| r.session_id = foreign_session()),
    ];
    for (what, change) in changes {
        said(&altered(change), false).is(what, 2, "INDEX");
    }
    said(&with(&clean[..2]), false).is("a row less", 2, "INDEX");

    let files = live(lake, Table::Templates);
    let texts: Vec<_> = files.iter().map(|f| super::files::batch_of(&lake.objects[&f.path])).collect();
    let mut texts: Vec<_> = texts.iter().flat_map(|b| templates::decode(b).unwrap()).collect();
    assert!(!texts.is_empty());
    texts.iter_mut().for_each(|t| t.text = "SELECT 1".into());
    let mut altered = lake.clone();
    let encoded = file::encode(Table::Templates, &templates::encode(&texts).unwrap()).unwrap();
    replace(&mut altered, Table::Templates, encoded);
    said(&altered, true).is("a text", 2, "INDEX");
    said(&altered, false).is("a text, by the sums of the commits", 2, "COMPACTION");
    // Without a compaction: the commit itself is made anew.
    let mut altered = lake.clone();
    let encoded = file::encode(Table::Templates, &templates::encode(&texts).unwrap()).unwrap();
    let entry = altered.data(&"gw-1/0".parse().unwrap(), 9_999, 7, Table::Templates, None, encoded);
    append(&mut altered, "gw-1/0", vec![entry], vec![]);
    said(&altered, true).is("a text more", 2, "INDEX");
}

#[tokio::test]
async fn what_detection_left_has_no_gap_and_is_never_called_anchored() {
    let lake = recorded().await;
    let record = lake.objects.keys().find(|p| p.starts_with("windows/EXF-002/")).unwrap().clone();
    let file = lake.objects.keys().find(|p| p.starts_with("findings/EXF-002")).unwrap().clone();
    for (what, gone) in [
        ("a record", record.as_str()),
        ("a findings file", file.as_str()),
        ("an entry of the list", "windows/index/1.json"),
        ("the first entry of the list", "windows/index/0.json"),
    ] {
        said(&without(lake, |p| p == gone), false).is(what, 2, "WINDOW");
    }
    said(&without(lake, |p| p.starts_with("findings/")), false).is("all findings", 2, "WINDOW");
    let mut altered = lake.clone();
    let text = String::from_utf8(lake.objects[&record].to_vec()).unwrap();
    assert!(text.contains("\"high\""));
    altered.put(&record, text.replace("\"findings\":[{", "\"findings\":[],\"x\":[{").into_bytes());
    said(&altered, false).is("an altered record", 2, "WINDOW");
    let mut altered = lake.clone();
    let mut bytes = lake.objects[&file].to_vec();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    altered.put(&file, bytes);
    said(&altered, false).is("an altered findings file", 2, "WINDOW");
    let all = said(&without(lake, |p| p.starts_with("windows/") || p.starts_with("findings/")), false);
    assert_eq!(all.code, 4, "nothing outside names them: {:#}", all.json);
    assert_eq!(all.state("findings"), "not-checked");
}

#[tokio::test]
async fn keys_and_names_that_are_gone_or_exchanged_are_seen() {
    let lake = recorded().await;
    for with_key in [true, false] {
        said(&without(lake, |p| p.starts_with("keys/")), with_key).is("keys", 2, "UNDECLARED_ERASURE");
        said(&without(lake, |p| p.starts_with("directory/")), with_key).is("names", 2, "UNDECLARED_ERASURE");
        let one = lake.objects.keys().find(|p| p.starts_with("keys/")).unwrap();
        said(&without(lake, |p| p == one), with_key).is("a key", 2, "UNDECLARED_ERASURE");
    }
    let names: Vec<String> = lake.objects.keys().filter(|p| p.starts_with("directory/")).cloned().collect();
    let mut exchanged = lake.clone();
    exchanged.objects.insert(names[0].clone(), lake.objects[&names[1]].clone());
    said(&exchanged, true).is("exchanged", 2, "KEY");
    let principal = recording().names[0].0;
    let mut renamed = lake.clone();
    renamed.put(&layout::directory_entry(principal), tenant().wrap_name(principal, "somebody-else"));
    said(&renamed, true).is("renamed", 2, "KEY");
}

#[tokio::test]
async fn what_commits_state_of_ledgers_and_sessions_is_what_the_rows_say() {
    let lake = recorded().await;
    assert_eq!(said(&restated(lake, |_| {}), false).code, 4);
    let ledgers: [(&str, fn(&mut LedgerState)); 6] = [
        ("watermark", |l| l.watermark_ns = 0),
        ("stopped", |l| l.stopped = !l.stopped),
        ("head", |l| l.head = Digest([9; 32])),
        ("epoch", |l| l.epoch += 1),
        ("producer key", |l| l.producer_key = Digest([9; 32])),
        ("epoch key", |l| l.epoch_key = Digest([9; 32])),
    ];
    for (what, change) in ledgers {
        let altered = restated(lake, |c| c.ledger.iter_mut().for_each(change));
        said(&altered, false).is(what, 2, "COMMIT");
    }
    said(&restated(lake, |c| c.ledger = None), false).is("no ledger", 2, "COMMIT");
    let sessions: [(&str, fn(&mut SessionState)); 5] = [
        ("one event less, and open", |s| (s.next_seq, s.open) = (s.next_seq - 1, true)),
        ("open", |s| s.open = true),
        ("ended", |s| s.open = false),
        ("one event more", |s| s.next_seq += 1),
        ("head", |s| s.head = Digest([9; 32])),
    ];
    // All events of a session can lie in one commit: then none says that it is open.
    let some_open = lake.commits().iter().flat_map(|c| &c.sessions).any(|s| s.open);
    for (what, change) in sessions.into_iter().filter(|(what, _)| *what != "ended" || some_open) {
        let altered = restated(lake, |c| c.sessions.iter_mut().for_each(change));
        said(&altered, false).is(what, 2, "COMMIT");
    }
    said(&restated(lake, |c| c.sessions.clear()), false).is("no session", 2, "COMMIT");
    // A session that no ledger announces yet is missed by what a commit says of it.
    let mut pending = open_recording().lake();
    let (next, session) = (open_recording().ledger.last().unwrap().seq + 1, foreign_session());
    let newest = open_recording().ledger.last().unwrap().ts_wall_ns;
    let oldest = recording().events.iter().map(|e| e.envelope.ts_wall_ns).min().unwrap();
    forged_session(&mut pending, next, |e| e.envelope.ts_wall_ns += newest - oldest);
    assert_eq!(said(&pending, false).code, 4);
    let gone = restated_pending(&pending, session);
    said(&gone, false).is("a pending session", 2, "MISSING_SESSION");
}

/// The lake without the files that hold a session and no other.
fn restated_pending(lake: &Lake, session: SessionId) -> Lake {
    let mut altered = lake.clone();
    for mut commit in lake.commits() {
        let before = commit.files.len();
        let only = |f: &FileEntry| (f.min_session, f.max_session) == (Some(session), Some(session));
        commit.files.retain(|f| !only(f));
        if commit.files.len() < before {
            altered.commit(commit, &thief_key());
        }
    }
    altered
}

#[tokio::test]
async fn the_text_of_every_statement_is_there() {
    let lake = recorded().await;
    let gone = restated(lake, |c| c.files.retain(|f| f.table != TableName(Table::Templates)));
    for with_key in [true, false] {
        said(&gone, with_key).is("no texts", 2, "INDEX");
    }
}

/// The lake with 66 windows in as many entries of the list, two of them with a finding.
async fn long_list() -> Lake {
    let dir = tempfile::tempdir().unwrap();
    to_directory(recorded().await, dir.path());
    evaluated(Store::open(dir.path().to_str().unwrap()).unwrap(), 3..66).await;
    from_directory(dir.path())
}

#[tokio::test]
async fn an_entry_with_which_readers_begin_repeats_everything_before_it() {
    let lake = long_list().await;
    assert_eq!(said(&lake, false).code, 4);
    let altered = |k: u64, change: &dyn Fn(&mut IndexEntry)| {
        let (mut altered, path) = (lake.clone(), layout::window_index(k));
        let mut entry = IndexEntry::parse(&path, &lake.objects[&path]).unwrap();
        change(&mut entry);
        altered.put(&path, entry.to_json());
        said(&altered, false)
    };
    assert_eq!(altered(64, &|_| {}).code, 4);
    let changes: [(&str, u64, &dyn Fn(&mut IndexEntry)); 7] = [
        ("without the findings", 64, &|e| e.windows.retain(|m| m.findings == 0)),
        ("without a window", 64, &|e| drop(e.windows.remove(0))),
        ("other numbers of findings", 64, &|e| e.windows.iter_mut().for_each(|m| m.findings = 0)),
        ("not said to be complete", 64, &|e| e.complete = false),
        ("the first not said to be complete", 0, &|e| e.complete = false),
        ("said to be complete", 63, &|e| e.complete = true),
        ("a second mark", 65, &|e| {
            let mut again = e.windows[0].clone();
            again.findings += 1;
            e.windows.push(again);
        }),
    ];
    for (what, k, change) in changes {
        altered(k, change).is(what, 2, "WINDOW");
    }
}

#[tokio::test]
async fn records_of_windows_that_no_list_names_are_counted_and_many_are_a_fault() {
    let no_list = |lake: &Lake| without(lake, |p| p.starts_with("windows/index/"));
    let few = said(&no_list(recorded().await), false);
    assert_eq!(few.code, 4, "one evaluation can have been cut before its entry: {:#}", few.json);
    let property = few.json["properties"].as_array().unwrap().iter().find(|p| p["aspect"] == "findings");
    assert!(property.unwrap()["detail"].as_str().unwrap().contains("3 window records"), "{:#}", few.json);
    let lake = long_list().await;
    said(&no_list(&lake), false).is("no list", 2, "WINDOW");
    let cut = without(&lake, |p| {
        p.strip_prefix("windows/index/")
            .is_some_and(|k| k.trim_end_matches(".json").parse::<u64>().unwrap() > 30)
    });
    said(&cut, false).is("the end of the list", 2, "WINDOW");
}

/// The paths of all values in a JSON document that have none below them.
fn leaves(value: &serde_json::Value, at: &str, out: &mut Vec<String>) {
    match value {
        serde_json::Value::Array(items) => {
            items.iter().enumerate().for_each(|(n, item)| leaves(item, &format!("{at}/{n}"), out));
        }
        serde_json::Value::Object(fields) => {
            fields.iter().for_each(|(name, item)| leaves(item, &format!("{at}/{name}"), out));
        }
        _ => out.push(at.to_owned()),
    }
}

#[tokio::test]
async fn nothing_that_somebody_writes_into_a_commit_or_list_keeps_the_rest_from_being_verified() {
    let lake = recorded().await;
    let values = [
        serde_json::json!("../../../etc/passwd"),
        serde_json::json!("tables/sql/../../../etc/passwd"),
        serde_json::json!(u64::MAX),
        serde_json::json!(i64::MAX),
        serde_json::json!(i64::MIN),
        serde_json::json!(null),
        serde_json::json!([]),
    ];
    let mut tried = 0;
    for folder in ["streams/", "commits/", "windows/"] {
        for (path, bytes) in lake.objects.iter().filter(|(path, _)| path.starts_with(folder)) {
            let clean: serde_json::Value = serde_json::from_slice(bytes).unwrap();
            let mut places = Vec::new();
            leaves(&clean, "", &mut places);
            // All of a few files in each run: the same ones, spread over all kinds of values.
            for (n, place) in places.iter().enumerate().filter(|(n, _)| folder == "streams/" || n % 2 == 0) {
                let mut json = clean.clone();
                let value = &values[(n / 5 + tried) % values.len()];
                if json.pointer(place) == Some(value) {
                    continue;
                }
                *json.pointer_mut(place).unwrap() = value.clone();
                let mut altered = lake.clone();
                altered.put(path, serde_json::to_vec(&json).unwrap());
                let report = verify(&altered);
                // Of window records nothing is signed, and not all that they say can be held against anything.
                let wanted: &[u8] = if folder == "windows/" { &[2, 4, 5] } else { &[2, 5] };
                assert!(
                    wanted.contains(&report.exit_code) || value.is_null(),
                    "{path} {place} {value}: {}",
                    report.to_text()
                );
                assert_ne!(report.exit_code, 1, "{path} {place} {value}: {}", report.to_text());
                tried += 1;
            }
        }
    }
    assert!(tried > 100, "{tried}");
}

#[tokio::test]
async fn a_commit_that_leads_out_of_the_lake_is_proof_and_everything_else_is_still_checked() {
    let lake = recorded().await;
    let named = live(lake, Table::Events(Family::Sql)).remove(0).path;
    let (path, bytes) = lake
        .objects
        .iter()
        .find(|(p, b)| p.starts_with("commits/") && String::from_utf8_lossy(b).contains(&named))
        .unwrap();
    let mut altered = lake.clone();
    let out = "tables/sql/../../../etc/passwd";
    altered.put(path, String::from_utf8_lossy(bytes).replace(&named, out).into_bytes());
    let key = altered.objects.keys().find(|p| p.starts_with("keys/")).unwrap().clone();
    altered.objects.remove(&key);
    let found = said(&altered, true);
    found.is("a way out", 2, "COMMIT");
    found.is("a way out", 2, "MANIFEST");
    found.is("what else is wrong", 2, "UNDECLARED_ERASURE");
    assert!(!found.classes().contains("UNREADABLE"), "{:#}", found.json);
    let faults = found.json["faults"].as_array().unwrap();
    assert!(faults.iter().any(|f| f["class"] == "MANIFEST" && f["path"] == out), "{:#}", found.json);
    assert!(
        found.json["properties"]
            .as_array()
            .unwrap()
            .iter()
            .all(|p| { p["state"] != "not-checked" || p["aspect"] == "freshness" })
    );
}

#[tokio::test]
async fn what_no_commit_names_is_counted_by_folder_and_changes_nothing_else() {
    let lake = recorded().await;
    let mut more = lake.clone();
    let data = live(lake, Table::Events(Family::Sql)).remove(0).path;
    let (folder, _) = data.rsplit_once('/').unwrap();
    for n in 0..12 {
        more.put(&format!("{folder}/leftover-{n:02}.parquet"), b"PAR1".to_vec());
    }
    let session = foreign_session();
    for path in [
        &layout::session_key(session),
        "directory/0123",
        "findings/gw-1@0-0-0-1-00000abc.parquet",
        "findings/EXF-002-1-5-0-0123456789abcdef.parquet",
        "content/note.txt",
        "streams/00.json",
        "streams/readme",
        "commits/readme",
    ] {
        more.put(path, b"{}".to_vec());
    }
    let clean = said(lake, true);
    assert_eq!(clean.json["strays"], serde_json::json!([]));
    let found = said(&more, true);
    assert_eq!((found.code, found.classes()), (4, BTreeSet::new()), "{:#}", found.json);
    let strays: BTreeMap<&str, (u64, usize)> = found.json["strays"]
        .as_array()
        .unwrap()
        .iter()
        .map(|s| {
            let first = s["first"].as_array().unwrap().len();
            (s["folder"].as_str().unwrap(), (s["count"].as_u64().unwrap(), first))
        })
        .collect();
    let wanted = [
        ("tables/sql/", (12, 10)),
        ("keys/", (1, 1)),
        ("directory/", (1, 1)),
        ("findings/", (2, 2)),
        ("content/", (1, 1)),
        ("streams/", (2, 2)),
        ("commits/", (1, 1)),
    ];
    assert_eq!(strays, wanted.into(), "{:#}", found.json);
    let notices = found.json["faults"].as_array().unwrap().iter().filter(|f| f["class"] == "STRAY").count();
    assert_eq!(notices, wanted.len());
    let (_, text) = run(&more, &["verify"], false);
    assert!(
        text.contains("STRAY  tables/sql/\n    12 objects") && text.contains("leftover-09.parquet, …"),
        "{text}"
    );
}

#[tokio::test]
async fn a_commit_that_no_other_one_leads_to_was_put_there_or_cut_off() {
    let lake = recorded().await;
    let events = lake.commits().into_iter().find(|c| c.stream.as_str() == "gw-1/0").unwrap();
    let mut planted = lake.clone();
    planted.put("commits/gw-1@0/0/999999.json", events.to_json());
    said(&planted, true).is("planted", 2, "COMMIT_GAP");
    // The list of streams begins behind the ledger's commits.
    let mut begins = lake.clone();
    let entry = entry_of(lake, "gw-1/ledger");
    let json = String::from_utf8_lossy(&lake.objects[&entry]).replace("\"from\":0", "\"from\":100000");
    begins.put(&entry, json.into_bytes());
    said(&begins, true).is("an entry that begins later", 2, "COMMIT_GAP");
}

#[tokio::test]
async fn commits_of_keys_that_are_gone_are_missed_once_the_ledger_has_gone_on() {
    let lake = without(recorded().await, |path| path.starts_with("snapshots/"));
    let gone = without(&lake, |path| path.starts_with("commits/gw-1@keys/"));
    let found = said(&gone, false);
    found.is("the keys' commits", 2, "COMMIT_GAP");
    let faults = found.json["faults"].as_array().unwrap();
    assert!(faults.iter().any(|f| f["path"] == "commits/gw-1@keys"), "{:#}", found.json);
    // Files of later commits tell that all commits were taken away.
    let all = without(&lake, |path| path.starts_with("commits/"));
    said(&all, false).is("all commits", 2, "COMMIT_GAP");
    let tail = "commits/gw-1@0/0/";
    let last = lake.objects.keys().filter(|p| p.starts_with(tail)).max_by_key(|p| p.len()).unwrap().clone();
    let cut = without(&lake, |path| path == last);
    assert_eq!(said(&cut, false).code, 2);
    // A young lake: streams are listed, and nothing of them is committed.
    let young = without(&lake, |path| {
        ["commits/", "tables/", "content/", "sessions/", "templates/", "findings/", "windows/"]
            .iter()
            .any(|folder| path.starts_with(folder))
    });
    let found = said(&young, false);
    assert_eq!((found.code, found.classes()), (4, BTreeSet::new()), "{:#}", found.json);
    let empty =
        found.json["faults"].as_array().unwrap().iter().filter(|f| f["class"] == "EMPTY_STREAM").count();
    let listed = lake.objects.keys().filter(|path| path.starts_with("streams/")).count();
    assert_eq!(empty, listed, "{:#}", found.json);
    // A stream that was listed a moment before it begins.
    let mut begun = lake.clone();
    let n = listed as u64;
    let entry = "{\"version\":1,\"stream\":\"gw-2/keys\",\"generation\":0,\"from\":0}\n";
    begun.put(&layout::stream(n), entry.as_bytes().to_vec());
    let found = said(&begun, false);
    assert_eq!((found.code, found.classes()), (4, BTreeSet::new()), "{:#}", found.json);
}

#[test]
fn times_are_told_in_utc() {
    let (_, text) = run(&open_recording().lake(), &["verify"], false);
    assert!(text.contains("last heartbeat at 2026-11-21T10:"), "{text}");
    assert!(!text.contains("at 1795"), "{text}");
}
