//! A lake on a real directory: commits, conflicts, snapshots, readers.

use bodycam_record::kinds::gap::Gap;
use bodycam_record::kinds::sql::SqlMessage;
use bodycam_record::{
    Body, Chain, Chunk, ContentKind, Digest, Draft, EpochKey, Event, Family, Genesis, Id16, SessionId,
    SessionKey, TenantKey,
};
use futures::TryStreamExt;

use super::*;
use crate::columns::sessions::SessionRow;
use crate::columns::{self, Table, content, sessions};
use crate::commit::{SessionState, Signature};
use crate::content::{ContentReader, Opened};
use crate::file::{self, EncodedFile};
use crate::layout::{FileName, HOUR_NS, Hour};
use crate::reader::Filter;

const T0: i64 = 1_795_255_200_000_000_000;

struct Scene {
    dir: tempfile::TempDir,
    lake: Lake,
    key: EpochKey,
    files: usize,
}

fn session(n: u8) -> SessionId {
    SessionId::new(u64::try_from(T0 / 1_000_000).unwrap() + u64::from(n), [n; 10])
}

/// `count` events of a session, alternating between two tables, one a minute.
fn events(id: SessionId, count: usize) -> Vec<Event> {
    use proptest::strategy::{Strategy, ValueTree};
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let table = bodycam_record::KindTable::named("session.opened").unwrap();
    let Body::SessionOpened(opened) = columns::samples::body(table).new_tree(&mut runner).unwrap().current()
    else {
        unreachable!()
    };
    let genesis =
        Genesis { producer: "gw", epoch: 1, session: id, policy_digest: Digest([7; 32]), opened: &opened };
    let mut chain = Chain::start(&genesis, Id16([1; 16]), "shop");
    (0..count)
        .map(|i| {
            let body: Body = match i {
                0 => opened.clone().into(),
                i if i % 2 == 0 => {
                    Gap { reason: "opaque-tunnel".into(), dropped_events: 0, opaque_bytes: i as i64 }.into()
                }
                i => SqlMessage {
                    message: "notice".into(),
                    sqlstate: None,
                    parameter: None,
                    bytes: i as i64,
                    digest: Digest([3; 32]),
                }
                .into(),
            };
            let ts_wall_ns = T0 + i as i64 * 60_000_000_000;
            chain.append(&Draft {
                ts_wall_ns,
                ts_mono_ns: i as i64,
                parent_seq: None,
                body,
                content: (i == 1).then_some((0, Digest([9; 32]))),
            })
        })
        .collect()
}

fn row(id: SessionId, revision: i64, last_activity_ns: i64) -> SessionRow {
    SessionRow {
        session_id: id,
        revision,
        principal_ref: Id16([1; 16]),
        principal_kind: "agent".into(),
        target: "shop".into(),
        protocol: "postgres".into(),
        database: "shop".into(),
        producer: "gw".into(),
        epoch: 1,
        started_ns: T0,
        ended_ns: None,
        last_activity_ns,
        state: "open".into(),
        end_reason: None,
        statements: revision,
        rows: 0,
        bytes_in: 0,
        bytes_out: 0,
        denies: 0,
        errors: 0,
        events: revision,
        head: Digest::ZERO,
        simulated_clock: false,
        correlation: None,
    }
}

impl Scene {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::create(dir.path().to_str().unwrap()).unwrap();
        let lake = Lake::open(store).await.unwrap();
        Self { dir, lake, key: EpochKey::from_seed(&[5; 32]), files: 0 }
    }

    async fn reopen(&self) -> Lake {
        Lake::open(Store::open(self.dir.path().to_str().unwrap()).unwrap()).await.unwrap()
    }

    async fn put(&mut self, stream: &str, mut file: EncodedFile, hour: Option<Hour>) -> crate::FileEntry {
        self.files += 1;
        let stream: StreamName = stream.parse().unwrap();
        let name = FileName { stream: &stream, generation: 0, from: 0, n: self.files, writer: 1 };
        file.entry.path = layout::data_file(file.entry.table.0, hour, name);
        self.lake.store().put_new(&file.entry.path, file.bytes).await.unwrap();
        file.entry
    }

    async fn write_events(&mut self, stream: &str, events: &[Event]) -> Vec<crate::FileEntry> {
        let mut entries = Vec::new();
        for family in Family::EVENTS {
            let of: Vec<_> = events.iter().filter(|e| e.table().unwrap().family == family).cloned().collect();
            for hour in [Hour::of_ns(T0), Hour(Hour::of_ns(T0).0 + 1)] {
                let of: Vec<_> = of.iter().filter(|e| Hour::of_ns(e.envelope.ts_wall_ns) == hour).collect();
                if of.is_empty() {
                    continue;
                }
                let batch = columns::encode(family, of).unwrap();
                let encoded = file::encode(Table::Events(family), &batch).unwrap();
                entries.push(self.put(stream, encoded, Some(hour)).await);
            }
        }
        entries
    }

    fn commit(&self, stream: &str, from: u64, to: u64, files: Vec<crate::FileEntry>) -> Commit {
        Commit {
            version: VERSION,
            stream: stream.parse().unwrap(),
            generation: 0,
            from,
            to,
            created_ns: T0,
            previous: None,
            files,
            replaces: vec![],
            deleted_to: 0,
            sessions: vec![],
            ledger: None,
            duplicates: 0,
            recorder: Digest::ZERO,
            signature: Signature::NONE,
        }
    }

    async fn add(&mut self, stream: &str, from: u64, to: u64, files: Vec<crate::FileEntry>) {
        let mut commit = self.commit(stream, from, to, files);
        commit.sessions =
            vec![SessionState { session: session(1), next_seq: to as i64, head: Digest::ZERO, open: true }];
        self.lake.add_stream(&commit.stream.clone(), 0, 0).await.unwrap();
        self.lake.commit(commit, &self.key).await.unwrap();
    }
}

fn summary(lake: &Lake) -> (Vec<(String, u64)>, Vec<String>, u64) {
    let state = lake.state();
    let streams = state.streams.iter().map(|s| (s.stream.to_string(), s.position)).collect();
    (streams, state.all_files().map(|f| f.path.clone()).collect(), state.commits)
}

#[tokio::test]
async fn a_reader_finds_every_commit_by_its_name_and_then_the_new_ones() {
    let mut scene = Scene::new().await;
    let all = events(session(1), 30);
    let files = scene.write_events("gw/0", &all[..10]).await;
    scene.add("gw/0", 0, 10, files).await;
    let mut reader = scene.reopen().await;
    assert_eq!(summary(&reader), summary(&scene.lake));
    let before = reader.view();

    let files = scene.write_events("gw/0", &all[10..]).await;
    scene.add("gw/0", 10, 30, files).await;
    scene.add("gw/1", 0, 5, vec![]).await;
    assert_eq!(reader.refresh().await.unwrap(), 2);
    assert_eq!(reader.refresh().await.unwrap(), 0);
    assert_eq!(summary(&reader), summary(&scene.lake));
    assert_eq!(reader.state().stream(&"gw/0".parse().unwrap(), 0).unwrap().1.position, 30);

    let found = reader.view().events_of(session(1)).await.unwrap();
    assert_eq!(found.faults, []);
    assert_eq!(found.events.len(), 30);
    for (stored, original) in found.events.into_iter().zip(&all) {
        assert_eq!(&stored.after(original.envelope.prev), original);
    }
    assert_eq!(before.events_of(session(1)).await.unwrap().events.len(), 10, "a view never changes");
}

#[tokio::test]
async fn a_second_writer_is_told_which_commit_stands_in_its_way() {
    let mut scene = Scene::new().await;
    scene.add("gw/0", 0, 10, vec![]).await;
    let mut other = scene.reopen().await;
    scene.add("gw/0", 10, 20, vec![]).await;
    let err = other.commit(scene.commit("gw/0", 10, 15, vec![]), &scene.key).await.unwrap_err();
    assert!(matches!(&err, LakeError::CommitConflict { path } if path == "commits/gw@0/0/10.json"), "{err}");
    assert!(err.to_string().contains("another recorder"));
    assert_eq!(other.state().streams[0].position, 10, "the loser's state is as it was");
    other.refresh().await.unwrap();
    assert_eq!(other.state().streams[0].position, 20);
}

#[tokio::test]
async fn two_writers_that_add_streams_at_once_both_find_them() {
    let scene = Scene::new().await;
    let (mut a, mut b) = (scene.reopen().await, scene.reopen().await);
    let names: Vec<StreamName> = ["x/0", "x/1", "x/2"].iter().map(|n| n.parse().unwrap()).collect();
    for name in &names {
        let (first, second) = tokio::join!(a.add_stream(name, 0, 0), b.add_stream(name, 0, 0));
        assert_eq!(first.unwrap(), second.unwrap());
    }
    assert_eq!(summary(&a), summary(&scene.reopen().await));
    assert_eq!(a.state().streams.len(), 3);
}

#[tokio::test]
async fn a_snapshot_stands_for_the_commits_before_it() {
    let mut scene = Scene::new().await;
    let all = events(session(1), 12);
    for i in 0..12 {
        let files = scene.write_events("gw/0", &all[i..=i]).await;
        scene.add("gw/0", i as u64, i as u64 + 1, files).await;
        let wrote = scene.lake.snapshot(5, &scene.key).await.unwrap();
        assert_eq!(wrote, (i + 1) % 5 == 0, "after {}", i + 1);
    }
    let bytes = scene.lake.store().get("snapshots/1.json").await.unwrap().unwrap();
    let snapshot = Snapshot::parse("s", &bytes).unwrap();
    let mut walked = LakeState::default();
    let stream = StreamEntry {
        version: VERSION,
        stream: "gw/0".parse().unwrap(),
        generation: 0,
        from: 0,
        origin: None,
    };
    walked.add_stream("s", stream).unwrap();
    for from in 0..12u64 {
        assert_eq!(snapshot.is_of(&walked), from == 10, "before {from}");
        let path = format!("commits/gw@0/0/{from}.json");
        let bytes = scene.lake.store().get(&path).await.unwrap().unwrap();
        walked.apply(0, &Commit::parse(&path, &bytes).unwrap()).unwrap();
    }
    for from in 0..9 {
        scene.lake.store().delete(&format!("commits/gw@0/0/{from}.json")).await.unwrap();
    }
    let reader = scene.reopen().await;
    assert_eq!(summary(&reader), summary(&scene.lake));
    assert_eq!(reader.view().events_of(session(1)).await.unwrap().events.len(), 12);
    assert_eq!(reader.state().open[&session(1)], (0, scene.lake.state().open[&session(1)].1));
}

#[tokio::test]
async fn a_compaction_commit_must_hold_exactly_the_rows_that_it_replaces() {
    let mut scene = Scene::new().await;
    let all: Vec<_> = events(session(1), 20).into_iter().filter(|e| e.envelope.kind == 40).collect();
    let a = scene.write_events("gw/0", &all[..4]).await;
    let b = scene.write_events("gw/0", &all[4..]).await;
    scene.add("gw/0", 0, 10, a.clone()).await;
    scene.add("gw/0", 10, 20, b.clone()).await;
    let mut stale = scene.reopen().await.view();
    scene.lake.add_stream(&StreamName::compaction(), 0, 0).await.unwrap();
    let replaces: Vec<_> = a.iter().chain(&b).map(|f| f.path.clone()).collect();

    let lossy = scene.write_events("compaction", &all[1..]).await;
    let mut commit = scene.commit("compaction", 0, 1, lossy);
    commit.replaces = replaces.clone();
    let message = scene.lake.commit(commit, &scene.key).await.unwrap_err().to_string();
    assert!(message.contains("gap rows are not those"), "{message}");

    let whole = scene.write_events("compaction", &all).await;
    let mut commit = scene.commit("compaction", 0, 1, whole);
    commit.replaces = replaces.clone();
    scene.lake.commit(commit, &scene.key).await.unwrap();
    let mut reader = scene.reopen().await;
    assert_eq!(summary(&reader), summary(&scene.lake));
    assert_eq!(reader.state().tombstones.len(), replaces.len());
    assert_eq!(reader.view().events_of(session(1)).await.unwrap().events.len(), all.len());
    assert_eq!(stale.events_of(session(1)).await.unwrap().events.len(), all.len(), "an old view still reads");
    stale = reader.view();

    let mut commit = scene.commit("compaction", 1, 2, vec![]);
    commit.replaces = replaces;
    assert!(scene.lake.commit(commit, &scene.key).await.is_err(), "nothing is replaced twice");
    assert_eq!(reader.refresh().await.unwrap(), 0);
    assert_eq!(stale.state().all_files().count(), 1);
}

#[tokio::test]
async fn a_compaction_that_overtakes_its_inputs_is_still_read_in_order() {
    let mut scene = Scene::new().await;
    scene.lake.add_stream(&StreamName::compaction(), 0, 0).await.unwrap();
    let all: Vec<_> = events(session(1), 9).into_iter().filter(|e| e.envelope.kind == 40).collect();
    let a = scene.write_events("gw/0", &all).await;
    scene.add("gw/0", 0, 10, a.clone()).await;
    let whole = scene.write_events("compaction", &all).await;
    let mut commit = scene.commit("compaction", 0, 1, whole);
    commit.replaces = a.iter().map(|f| f.path.clone()).collect();
    scene.lake.commit(commit, &scene.key).await.unwrap();
    // The list of streams names compaction first, so its commit is met before that of its input.
    assert_eq!(summary(&scene.reopen().await), summary(&scene.lake));
}

#[tokio::test]
async fn a_missing_truncated_or_foreign_object_is_an_error_that_names_it() {
    let mut scene = Scene::new().await;
    let files = scene.write_events("gw/0", &events(session(1), 10)).await;
    let data = files[0].path.clone();
    scene.add("gw/0", 0, 10, files).await;
    scene.lake.snapshot(1, &scene.key).await.unwrap();
    let root = scene.dir.path().to_owned();
    let open = || async { Lake::open(Store::open(root.to_str().unwrap()).unwrap()).await };
    let read = || async { open().await?.view().events_of(session(1)).await };
    read().await.unwrap();

    let cases =
        ["snapshots/0.json", "snapshots/newest.json", "streams/0.json", "commits/gw@0/0/0.json", &data];
    for (i, path) in cases.into_iter().enumerate() {
        let at = root.join(path);
        let good = std::fs::read(&at).unwrap();
        if (2..4).contains(&i) {
            // Behind a snapshot these are not all read; without it they are.
            std::fs::rename(root.join("snapshots"), root.join("aside")).unwrap();
        }
        for bad in [&good[..good.len() / 2], b"", b"PAR1 no such thing PAR1", &[0xff; 300]] {
            std::fs::write(&at, bad).unwrap();
            let outcome = read().await;
            if i < 2 {
                assert_eq!(outcome.unwrap().events.len(), 10, "{path}: the commits are still there");
            } else {
                let message = outcome.unwrap_err().to_string();
                assert!(message.contains(path), "{path}: {message}");
            }
        }
        std::fs::remove_file(&at).unwrap();
        if i < 2 {
            assert_eq!(read().await.unwrap().events.len(), 10, "{path}");
        } else if i == 4 {
            let message = read().await.unwrap_err().to_string();
            assert!(message.contains(path) && message.contains("is missing"), "{path}: {message}");
        }
        std::fs::write(&at, &good).unwrap();
        if (2..4).contains(&i) {
            std::fs::rename(root.join("aside"), root.join("snapshots")).unwrap();
        }
        read().await.unwrap();
    }
}

#[tokio::test]
async fn a_late_hint_that_names_a_deleted_snapshot_leads_to_the_newest_that_there_is() {
    for is_local in [true, false] {
        let mut scene = Scene::new().await;
        if !is_local {
            let store = Store::on(std::sync::Arc::new(object_store::memory::InMemory::new()), "memory");
            scene.lake = Lake::open(store).await.unwrap();
        }
        for from in 0..14u64 {
            scene.add("gw/0", from, from + 1, vec![]).await;
            assert!(scene.lake.snapshot(1, &scene.key).await.unwrap());
        }
        let store = scene.lake.store().clone();
        let late = |n| serde_json::to_vec(&Hint { version: VERSION, n }).unwrap();
        for n in [2, 9, 13] {
            store.put(layout::SNAPSHOT_HINT, late(n).into()).await.unwrap();
            assert_eq!(store.exists(&layout::snapshot(n)).await.unwrap(), n > 3);
            assert_eq!(newest_snapshot_number(&store).await.unwrap(), Some(13), "{n}");
        }
        // Whoever begins at the first commit finds none.
        for from in 0..12 {
            store.delete(&format!("commits/gw@0/0/{from}.json")).await.unwrap();
        }
        store.put(layout::SNAPSHOT_HINT, late(2).into()).await.unwrap();
        let own = scene.key.public();
        for lake in
            [Lake::open(store.clone()).await.unwrap(), Lake::open_as(store.clone(), own).await.unwrap()]
        {
            assert_eq!(summary(&lake), summary(&scene.lake));
            assert_eq!(lake.next_snapshot, 14, "or its next one would be taken for the newest");
        }
        // Nothing behind it either.
        for n in 0..14 {
            store.delete(&layout::snapshot(n)).await.unwrap();
        }
        assert_eq!(newest_snapshot_number(&store).await.unwrap(), None);
    }
}

#[tokio::test]
async fn a_snapshot_that_no_recorder_of_the_commits_signed_hides_nothing() {
    let mut scene = Scene::new().await;
    let all = events(session(1), 10);
    for i in 0..10 {
        let files = scene.write_events("gw/0", &all[i..=i]).await;
        scene.add("gw/0", i as u64, i as u64 + 1, files).await;
    }
    let store = scene.lake.store().clone();
    let own = scene.key.public();
    // The state without its first file, as somebody else would like it to be.
    let forge = |key: &EpochKey, n: u64| {
        let snapshot = scene.lake.state().snapshot(n, key);
        let mut json: serde_json::Value = serde_json::from_slice(&snapshot.to_json()).unwrap();
        json["files"].as_array_mut().unwrap().remove(0);
        let unsigned: Snapshot = serde_json::from_value(json).unwrap();
        unsigned.into_state().snapshot(n, key)
    };
    for (key, n) in [(EpochKey::from_seed(&[66; 32]), 0), (EpochKey::from_seed(&[66; 32]), u64::MAX)] {
        let forged = forge(&key, n);
        store.put(&forged.path(), forged.to_json().into()).await.unwrap();
        let hint = serde_json::to_vec(&Hint { version: VERSION, n }).unwrap();
        store.put(layout::SNAPSHOT_HINT, hint.into()).await.unwrap();
        for lake in
            [Lake::open(store.clone()).await.unwrap(), Lake::open_as(store.clone(), own).await.unwrap()]
        {
            assert_eq!(summary(&lake), summary(&scene.lake), "{n}");
        }
        // The recorder's next snapshot is found again, whatever lies in its way.
        let mut lake = Lake::open_as(store.clone(), own).await.unwrap();
        if n == 0 {
            assert!(lake.snapshot(1, &scene.key).await.unwrap());
            assert_eq!(lake.next_snapshot, 2);
        }
    }
    let forged = forge(&scene.key, 7);
    assert!(!forged.is_of(scene.lake.state()), "only the verifier tells what the recorder's own key signed");
}

proptest::proptest! {
    #[test]
    fn where_sessions_stand_does_not_depend_on_the_order_of_streams(
        takes in proptest::collection::vec(proptest::bool::ANY, 12),
        lives in proptest::collection::vec((0i64..4, 0usize..4), 1..6),
    ) {
        // A lane with commits of each session as it grows; a ledger that ends some of them with a CRASH.
        let id = |n: usize| SessionId([n as u8; 16]);
        let state = |n: usize, next_seq, open| SessionState { session: id(n), next_seq, head: Digest::ZERO, open };
        let bare = |stream: &str, from: u64, sessions: Vec<SessionState>, ledger: bool| Commit {
            version: VERSION,
            stream: stream.parse().unwrap(),
            generation: 0,
            from,
            to: from + 1,
            created_ns: 0,
            previous: None,
            files: vec![],
            replaces: vec![],
            deleted_to: 0,
            sessions,
            ledger: ledger.then(|| crate::LedgerState {
                producer: "gw".into(),
                epoch: 1,
                producer_key: Digest::ZERO,
                epoch_key: Digest::ZERO,
                next_seq: 0,
                head: Digest::ZERO,
                watermark_ns: 0,
                stopped: false,
            }),
            duplicates: 0,
            recorder: Digest::ZERO,
            signature: Signature::NONE,
        };
        let lane: Vec<Commit> = (0..6).map(|at| {
            let touched = lives.iter().enumerate().filter(|(_, (last, _))| at <= *last + 1);
            // How it ends: 0 stays open, 1 closes, 2 is cut by a crash, 3 closes and is declared cut all the same.
            let states = touched.map(|(n, (last, end))| {
                state(n, at + 1, !(at == last + 1 && matches!(end, 1 | 3)))
            });
            bare("gw/0", at as u64, states.collect(), false)
        }).collect();
        let cut = lives.iter().enumerate().filter(|(_, (_, end))| *end >= 2);
        let ledger: Vec<Commit> =
            cut.enumerate().map(|(at, (n, (last, _)))| {
                bare("gw/ledger", at as u64, vec![state(n, last + 2, false)], true)
            }).collect();
        let fold = |order: &mut dyn FnMut() -> bool| {
            let (mut open, mut ended) = (Default::default(), Default::default());
            let (mut lane, mut ledger) = (lane.iter().peekable(), ledger.iter().peekable());
            while lane.peek().is_some() || ledger.peek().is_some() {
                let from_lane = ledger.peek().is_none() || (lane.peek().is_some() && order());
                let next = if from_lane { lane.next() } else { ledger.next() };
                crate::state::fold_sessions(&mut open, &mut ended, usize::from(!from_lane), next.unwrap());
            }
            (open, ended)
        };
        let lane_first = fold(&mut || true);
        proptest::prop_assert_eq!(&fold(&mut || false), &lane_first);
        let mut takes = takes.into_iter().cycle();
        proptest::prop_assert_eq!(&fold(&mut || takes.next().unwrap()), &lane_first);
        for (n, (_, end)) in lives.iter().enumerate() {
            proptest::prop_assert_eq!(lane_first.0.contains_key(&id(n)), *end == 0);
        }
    }
}

#[tokio::test]
async fn rows_are_chosen_by_session_number_time_and_kind() {
    let mut scene = Scene::new().await;
    for n in 1..=3 {
        let files = scene.write_events("gw/0", &events(session(n), 100)).await;
        scene.add("gw/0", u64::from(n - 1) * 100, u64::from(n) * 100, files).await;
    }
    let view = scene.lake.view();
    let count = |filter: Filter| {
        let view = view.clone();
        async move { view.events(&filter).await.unwrap().events.len() }
    };
    assert_eq!(count(Filter::all()).await, 300);
    assert_eq!(count(Filter::session(session(2))).await, 100);
    assert_eq!(count(Filter::session(session(9))).await, 0);
    assert_eq!(count(Filter { seq: Some((10, 20)), ..Filter::session(session(2)) }).await, 10);
    assert_eq!(count(Filter::between(T0 + HOUR_NS, T0 + 2 * HOUR_NS)).await, 3 * 40);
    assert_eq!(count(Filter::between(T0 + 60_000_000_000, T0 + 120_000_000_000)).await, 3);
    assert_eq!(count(Filter { kinds: vec![40], ..Filter::all() }).await, 3 * 49);
    let second_hour = Filter::between(T0 + HOUR_NS, T0 + 2 * HOUR_NS);
    assert_eq!(view.files(Table::Events(Family::Gap), &second_hour).len(), 3);
    assert_eq!(view.files(Table::Events(Family::Gap), &Filter::session(session(2))).len(), 2);

    let filter = Filter::session(session(1)).with_columns(&["seq", "hash"]);
    let batches: Vec<_> = view.read(Table::Events(Family::Gap), &filter).try_collect().await.unwrap();
    assert!(batches.iter().all(|(_, b)| b.num_columns() == 2));
    let hashes = view.event_hashes(session(3)).await.unwrap();
    let expected = events(session(3), 100).iter().map(|e| (e.envelope.seq, vec![e.hash])).collect();
    assert_eq!(hashes, expected);
}

#[tokio::test]
async fn the_newest_row_of_a_session_counts_and_the_newest_sessions_come_first() {
    let mut scene = Scene::new().await;
    for (i, rows) in [
        vec![row(session(1), 1, T0), row(session(2), 1, T0 + 1)],
        vec![row(session(1), 5, T0 + 50), row(session(3), 2, T0 + 20)],
        vec![row(session(2), 3, T0 + 30)],
    ]
    .into_iter()
    .enumerate()
    {
        let encoded = file::encode(Table::Sessions, &sessions::encode(&rows).unwrap()).unwrap();
        let entry = scene.put("gw/0", encoded, None).await;
        scene.add("gw/0", i as u64, i as u64 + 1, vec![entry]).await;
    }
    let view = scene.lake.view();
    let all = view.sessions(&Filter::all()).await.unwrap();
    assert_eq!(
        all.iter().map(|r| (r.session_id, r.revision)).collect::<Vec<_>>(),
        [(session(1), 5), (session(2), 3), (session(3), 2)]
    );
    for n in 0..5 {
        let recent: Vec<_> =
            view.recent_sessions(n).await.unwrap().iter().map(|r| (r.session_id, r.revision)).collect();
        let expected = [(session(1), 5), (session(2), 3), (session(3), 2)];
        assert_eq!(recent, expected[..n.min(3)], "{n}");
    }
    assert_eq!(view.session(session(2)).await.unwrap(), Some(row(session(2), 3, T0 + 30)));
    assert_eq!(view.session(session(9)).await.unwrap(), None);
}

#[tokio::test]
async fn a_session_is_found_whole_whatever_its_row_says_of_its_time() {
    let mut scene = Scene::new().await;
    let all = events(session(1), 100);
    let mut files = scene.write_events("gw/0", &all).await;
    // The index knows of 100 events around T0; the second one says a day earlier, as a clock that jumped would.
    for (revision, last) in [(1, T0 + HOUR_NS), (2, T0 - 24 * HOUR_NS)] {
        let mut row = row(session(1), revision, last);
        (row.started_ns, row.events) = (last - HOUR_NS, 100);
        let encoded = file::encode(Table::Sessions, &sessions::encode([&row]).unwrap()).unwrap();
        files.push(scene.put("gw/0", encoded, None).await);
        scene.add("gw/0", revision as u64 - 1, revision as u64, std::mem::take(&mut files)).await;
        assert_eq!(scene.lake.view().events_of(session(1)).await.unwrap().events.len(), 100);
    }
}

#[tokio::test]
async fn content_opens_with_the_tenant_key_and_not_without_the_sessions_key() {
    let mut scene = Scene::new().await;
    let (tenant, key, id) = (TenantKey::new([1; 32]), SessionKey::new([2; 32]), session(1));
    let chunk = |index, text: &str| Chunk { kind: ContentKind::SqlText, index, bytes: text.into() };
    let mut sealed = vec![chunk(0, "select 1").seal(&key, id, 4), chunk(1, "+ 1").seal(&key, id, 4)];
    sealed.push(chunk(0, "other").seal(&key, id, 5));
    sealed.push(chunk(0, "moved").seal(&key, id, 7));
    sealed[3].content_no = 6;
    let encoded = file::encode(Table::Content, &content::encode(&sealed).unwrap()).unwrap();
    let entry = scene.put("gw/0", encoded, Some(Hour::of_session(id))).await;
    scene.add("gw/0", 0, 4, vec![entry]).await;
    let store = scene.lake.store().clone();
    let name = tenant.principal_ref("ada");
    let mut reader = ContentReader::new(scene.lake.view(), tenant.clone());
    assert_eq!(reader.open(id, 4).await.unwrap(), Opened::NoKey);
    assert_eq!(reader.name(name).await.unwrap(), None);

    store.put_new(&layout::session_key(id), tenant.wrap(id, &key).into()).await.unwrap();
    store.put_new(&layout::directory_entry(name), tenant.wrap_name(name, "ada").into()).await.unwrap();
    reader.set_view(scene.lake.view());
    assert_eq!(
        reader.open(id, 4).await.unwrap(),
        Opened::Chunks(vec![chunk(0, "select 1"), chunk(1, "+ 1")])
    );
    assert_eq!(reader.open(id, 6).await.unwrap(), Opened::Altered);
    assert_eq!(reader.open(id, 9).await.unwrap(), Opened::Chunks(vec![]));
    assert_eq!(reader.open_range(id, 0, 6).await.unwrap().len(), 2);
    assert_eq!(reader.name(name).await.unwrap().as_deref(), Some("ada"));
    let mut stranger = ContentReader::new(scene.lake.view(), TenantKey::new([8; 32]));
    let message = stranger.open(id, 4).await.unwrap_err().to_string();
    assert!(message.contains(&layout::session_key(id)) && message.contains("tenant key"), "{message}");
}

#[tokio::test]
async fn a_commit_or_stream_that_is_missing_before_a_later_one_is_an_error_that_names_it() {
    let mut scene = Scene::new().await;
    for i in 0..4u64 {
        scene.add("gw/0", i * 10, i * 10 + 10, vec![]).await;
        if i == 1 {
            scene.lake.snapshot(1, &scene.key).await.unwrap();
        }
    }
    scene.add("gw/1", 0, 10, vec![]).await;
    let root = scene.dir.path().to_owned();
    let open = || async { Lake::open(Store::open(root.to_str().unwrap()).unwrap()).await };
    let whole = open().await.unwrap().state().commits;
    for path in ["commits/gw@0/0/20.json", "streams/1.json"] {
        if path.starts_with("streams") {
            std::fs::write(root.join("streams/2.json"), "{}").unwrap();
        }
        let good = std::fs::read(root.join(path)).unwrap();
        std::fs::remove_file(root.join(path)).unwrap();
        let message = open().await.unwrap_err().to_string();
        assert!(message.contains(&format!("{path} is missing")), "{message}");
        assert!(message.contains("bodycam verify"), "{message}");
        std::fs::write(root.join(path), good).unwrap();
        let _ = std::fs::remove_file(root.join("streams/2.json"));
    }
    // The snapshot stands for what is before it; without it, the beginning is missed as well.
    std::fs::remove_file(root.join("commits/gw@0/0/0.json")).unwrap();
    assert_eq!(open().await.unwrap().state().commits, whole);
    std::fs::remove_dir_all(root.join("snapshots")).unwrap();
    let message = open().await.unwrap_err().to_string();
    assert!(message.contains("commits/gw@0/0/0.json is missing"), "{message}");
}

#[tokio::test]
async fn a_place_without_a_lake_is_told_from_one_that_a_recorder_is_about_to_fill() {
    let dir = tempfile::tempdir().unwrap();
    let open =
        || async { Lake::open_recorded(Store::open(dir.path().to_str().unwrap()).unwrap()).await.map(drop) };
    let message = open().await.unwrap_err().to_string();
    assert!(message.starts_with("there is no lake at /"), "{message}");
    std::fs::write(dir.path().join(layout::RECORDER_LOCK), "").unwrap();
    open().await.unwrap();
    std::fs::create_dir_all(dir.path().join("commits/gw@0/0")).unwrap();
    assert!(matches!(open().await, Err(LakeError::NoLake { .. })), "its list of streams was taken away");
}

#[tokio::test]
async fn a_file_that_somebody_encoded_anew_is_read_on_any_store() {
    for is_local in [true, false] {
        let mut scene = Scene::new().await;
        if !is_local {
            let store = Store::on(std::sync::Arc::new(object_store::memory::InMemory::new()), "memory");
            scene.lake = Lake::open(store).await.unwrap();
        }
        let files = scene.write_events("gw/0", &events(session(1), 10)).await;
        let claimed = |mut file: crate::FileEntry| {
            // So large that its footer is asked for before the rest.
            file.bytes += if is_local { 7 } else { 2 << 20 };
            file
        };
        let files = files.into_iter().map(claimed).collect();
        scene.add("gw/0", 0, 10, files).await;
        let events = scene.lake.view().events(&Filter::session(session(1))).await;
        assert_eq!(events.unwrap().events.len(), 10, "{is_local}");
    }
}

#[tokio::test]
async fn of_many_streams_those_are_asked_that_hints_name_and_all_of_them_now_and_then() {
    let mut scene = Scene::new().await;
    let name = |n: u64| format!("gw-{n}/0");
    for n in 0..100 {
        scene.add(&name(n), 0, 1, vec![]).await;
    }
    let mut follower = scene.reopen().await;
    assert_eq!(follower.follow().await.unwrap(), 0);

    // Nobody has told of it yet.
    scene.add(&name(77), 1, 2, vec![]).await;
    assert_eq!(follower.follow().await.unwrap(), 0);
    scene.lake.tell("one").await.unwrap();
    assert_eq!(follower.follow().await.unwrap(), 1);
    // A writer beside it, which is killed before it tells of its second commit.
    let second = scene.reopen().await;
    let first = std::mem::replace(&mut scene.lake, second);
    scene.add(&name(5), 1, 2, vec![]).await;
    scene.add(&name(100), 0, 1, vec![]).await;
    scene.lake.tell("another").await.unwrap();
    scene.add(&name(6), 1, 2, vec![]).await;
    assert_eq!(follower.follow().await.unwrap(), 2, "a stream that is new among them");
    assert_eq!(follower.follow().await.unwrap(), 0);
    follower.moved.swept = None;
    assert_eq!(follower.follow().await.unwrap(), 1);
    assert_eq!(summary(&follower), summary(&scene.lake));

    // What hints say besides is passed over.
    let store = scene.lake.store().clone();
    for (name, text) in [
        ("x", "no JSON".to_owned()),
        ("y", r#"{"version":1,"streams":{"7":9000,"4000000":1}}"#.to_owned()),
        ("z", r#"{"version":9,"streams":{}}"#.to_owned()),
    ] {
        store.put(&layout::recent(name).unwrap(), text.into()).await.unwrap();
    }
    assert_eq!(follower.follow().await.unwrap(), 0);
    // A file that is replaced before anybody has told of the commit that brought it.
    scene.lake = first;
    scene.lake.refresh().await.unwrap();
    let entries = scene.write_events(&name(9), &events(session(1), 4)).await;
    scene.add(&name(9), 1, 5, entries.clone()).await;
    let mut compaction = scene.reopen().await;
    compaction.add_stream(&StreamName::compaction(), 0, 0).await.unwrap();
    let whole = scene.write_events("compaction", &events(session(1), 4)).await;
    let mut commit = scene.commit("compaction", 0, 1, whole);
    commit.replaces = entries.iter().map(|entry| entry.path.clone()).collect();
    compaction.commit(commit, &scene.key).await.unwrap();
    compaction.tell("compaction").await.unwrap();
    assert_eq!(follower.follow().await.unwrap(), 2);
}

#[tokio::test]
async fn of_few_streams_all_are_asked_and_nothing_is_told() {
    let mut scene = Scene::new().await;
    scene.add("gw/0", 0, 1, vec![]).await;
    let mut follower = scene.reopen().await;
    scene.add("gw/0", 1, 2, vec![]).await;
    scene.lake.tell("one").await.unwrap();
    assert_eq!(follower.follow().await.unwrap(), 1);
    assert!(scene.lake.store().listed(layout::RECENT).await.unwrap().is_empty());
}
