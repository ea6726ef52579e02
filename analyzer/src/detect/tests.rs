//! Detection on lakes that grow, arrive late, are compacted, and die.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::Ordering;

use bodycam_record::Event;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::claims::Place;
use super::*;
use crate::scene::{Dying, MINUTE, Scene, at, events};

mod litter;
mod rollups;
mod workers;

/// A principal that pulls in bulk, an export job with its own habits, and data that leaves.
const WORKLOAD: &str = r#"
- { at: "2026-11-20T01:10:00Z", principal: etl, target: crm, kind: sql.result, verdict: allow, rows: 9000, bytes: 900, main_relation: public.customers, repeat: { times: 6, every: 1h } }
- { at: "2026-11-20T08:10:00Z", principal: etl, target: crm, kind: sql.result, verdict: allow, rows: 20000, bytes: 900, main_relation: public.customers }
- { at: "2026-11-20T08:20:00Z", principal: bot, target: crm, kind: sql.result, verdict: allow, rows: 12000, bytes: 900, main_relation: public.customers }
- { at: "2026-11-20T08:30:00Z", principal: bot, session: out, target: egress, kind: http.tunnel_opened, verdict: allow, host: drop.example.net, port: 443 }
- { at: "2026-11-20T09:10:00Z", principal: bot, target: crm, kind: sql.result, verdict: allow, rows: 6000, bytes: 900, main_relation: public.orders, repeat: { times: 10, every: 2m } }
- { at: "2026-11-20T09:40:00Z", principal: bot, session: out, target: egress, kind: http.tunnel_opened, verdict: allow, host: drop.example.net, port: 443 }
- { at: "2026-11-20T09:45:00Z", principal: someone, kind: sql.message, message: notice }
"#;

fn options(scene: &Scene, only: &[&str]) -> DetectOptions {
    let all = ["EXF-001", "EXF-002", "EXF-014", "EXF-019"];
    let disable = all.iter().filter(|id| !only.contains(*id)).map(|id| (*id).to_owned()).collect();
    DetectOptions {
        store: scene.store.clone(),
        config: DetectConfig { disable, ..DetectConfig::default() },
        sensitive: vec![],
        tenant: Some(TenantKey::new([3; 32])),
        metrics: Arc::default(),
        elsewhere: None,
    }
}

/// What receivers tell news apart by.
fn named(news: &News) -> (Id16, i64) {
    match news {
        News::Found { finding, .. } => (finding.id, finding.revision),
        News::Retracted { id, revision, .. } => (*id, *revision as i64),
    }
}

const RULES: [&str; 3] = ["EXF-001", "EXF-002", "EXF-014"];

async fn cycle(detector: &mut Detector) -> (Summary, Vec<News>) {
    let mut news = Vec::new();
    let summary = detector.cycle(&mut |n| news.push(n.clone())).await.unwrap();
    assert_eq!(summary.failures, Vec::<String>::new());
    (summary, news)
}

/// What a finding says, without how often its window was evaluated.
fn said(mut rows: Vec<FindingRow>) -> Vec<FindingRow> {
    rows.iter_mut().for_each(|row| row.revision = 0);
    rows
}

/// The findings of one evaluation of everything at once.
async fn recomputed(events: &[Event], rules: &[&str]) -> Vec<FindingRow> {
    let mut scene = Scene::new().await;
    scene.commit("gw/0", events).await;
    scene.heartbeat("gw", at("12:00:00"), true).await;
    let mut detector = Detector::open(options(&scene, rules)).await.unwrap();
    cycle(&mut detector).await;
    scene.findings().await
}

#[tokio::test]
async fn a_workload_gives_the_findings_that_it_holds() {
    let rows = recomputed(&events(WORKLOAD), &RULES).await;
    let mut found: BTreeMap<&str, Vec<Option<i64>>> = BTreeMap::new();
    for row in &rows {
        found.entry(&row.rule).or_default().push(row.measure);
        assert!(row.is_final && !row.evidence_seqs.is_empty(), "{row:?}");
        assert_eq!(row.evidence_sessions.len(), row.evidence_seqs.len());
    }
    assert_eq!(found["EXF-001"], [Some(60_000)], "the hour of many pulls, and not the one of the export job");
    assert_eq!(found["EXF-002"], [Some(12_000)], "the principal's one big result");
    assert_eq!(found["EXF-014"].len(), 2, "data that leaves in each of two hours");
}

#[test]
fn commits_in_any_order_give_the_findings_of_one_full_recompute() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let all = events(WORKLOAD);
    let expected = said(runtime.block_on(recomputed(&all, &RULES)));
    assert!(expected.len() >= 4);
    let step = (0usize..4, any::<bool>(), any::<bool>(), 0i64..12);
    let strategy = (Just(all).prop_shuffle(), proptest::collection::vec(step, 2..6), any::<bool>());
    let mut runner = TestRunner::new(Config { cases: 6, ..Config::default() });
    let outcome = runner.run(&strategy, |(shuffled, steps, reopen)| {
        let found = runtime.block_on(async {
            let mut scene = Scene::new().await;
            let mut detector = Detector::open(options(&scene, &RULES)).await.unwrap();
            let size = shuffled.len().div_ceil(steps.len());
            for (slice, (stream, looks, compacts, hour)) in shuffled.chunks(size).zip(&steps) {
                scene.commit(&format!("gw{stream}/0"), slice).await;
                if *compacts {
                    scene.compact().await;
                }
                if *looks {
                    // Watermarks that run ahead of what is still to come close windows too early.
                    scene.heartbeat("gw", at("00:00:00") + hour * 60 * MINUTE, false).await;
                    cycle(&mut detector).await;
                }
                if reopen {
                    detector = Detector::open(options(&scene, &RULES)).await.unwrap();
                }
            }
            scene.heartbeat("gw", at("23:00:00"), true).await;
            cycle(&mut detector).await;
            let (again, news) = cycle(&mut detector).await;
            assert_eq!((again.records, news), (0, vec![]), "a look at nothing new does nothing");
            said(scene.findings().await)
        });
        prop_assert_eq!(&found, &expected);
        Ok(())
    });
    outcome.unwrap();
}

#[tokio::test]
async fn a_kill_at_any_write_leaves_nothing_that_changes_the_findings() {
    let all = events(WORKLOAD);
    let only = ["EXF-001", "EXF-002"];
    let expected = recomputed(&all, &only).await;
    let mut killed = 0;
    for write_first in [false, true] {
        for left in 0.. {
            let mut scene = Scene::new().await;
            scene.commit("gw/0", &all).await;
            scene.heartbeat("gw", at("23:00:00"), true).await;
            let (dying, _) = Dying::wrap(scene.store.clone(), left, write_first);
            let mut first =
                Detector::open(DetectOptions { store: dying, ..options(&scene, &only) }).await.unwrap();
            let survived = first.cycle(&mut |_| {}).await.is_ok();
            let mut second = Detector::open(options(&scene, &only)).await.unwrap();
            cycle(&mut second).await;
            assert_eq!(
                scene.findings().await,
                expected,
                "killed at write {left}, written first: {write_first}"
            );
            if survived {
                break;
            }
            killed += 1;
        }
    }
    assert!(killed > 20, "only {killed} kills");
}

#[tokio::test]
async fn two_workers_record_every_window_once() {
    let mut scene = Scene::new().await;
    scene.commit("gw/0", &events(WORKLOAD)).await;
    scene.heartbeat("gw", at("23:00:00"), true).await;
    let mut a = Detector::open(options(&scene, &RULES)).await.unwrap();
    let mut b = Detector::open(options(&scene, &RULES)).await.unwrap();
    let ((a_did, a_news), (b_did, b_news)) = tokio::join!(cycle(&mut a), cycle(&mut b));
    let mut windows = Windows::open(scene.store.clone()).await.unwrap();
    let keys: Vec<_> = windows.known().map(|(key, _)| key.clone()).collect();
    assert_eq!(a_did.records + b_did.records, keys.len() as u64);
    for key in keys {
        assert_eq!(windows.record(&key).await.unwrap().unwrap().n, 0, "{key:?}");
    }
    let told: BTreeSet<_> = a_news.iter().chain(&b_news).map(named).collect();
    assert_eq!(
        told.len(),
        scene.findings().await.len(),
        "each finding is told, by one or by both under one id"
    );
}

#[tokio::test]
async fn a_finding_is_told_as_it_crosses_and_again_when_its_window_closes() {
    let mut scene = Scene::new().await;
    let pulls = events(
        r#"[{ at: "2026-11-20T10:05:00Z", principal: bot, target: crm, kind: sql.result, verdict: allow, rows: 20000, repeat: { times: 4, every: 1m } }]"#,
    );
    let mut detector = Detector::open(options(&scene, &["EXF-001"])).await.unwrap();
    scene.commit("gw/0", &pulls[..2]).await;
    scene.heartbeat("gw", at("10:10:00"), false).await;
    assert_eq!(cycle(&mut detector).await.1, [], "40,000 rows are not enough");

    scene.commit("gw/0", &pulls[2..3]).await;
    let (_, news) = cycle(&mut detector).await;
    let [News::Found { finding: early, is_new: true, .. }] = news.as_slice() else { panic!("{news:?}") };
    assert_eq!((early.measure, early.is_final, early.revision), (Some(60_000), false, 0));

    scene.commit("gw/0", &pulls[3..]).await;
    assert_eq!(cycle(&mut detector).await.1, [], "more of the same is no news");
    scene.heartbeat("gw", at("11:01:59"), false).await;
    assert_eq!(cycle(&mut detector).await.1, [], "late events are still allowed");

    scene.heartbeat("gw", at("11:02:00"), false).await;
    let (_, news) = cycle(&mut detector).await;
    let [News::Found { finding: last, is_new: false, .. }] = news.as_slice() else { panic!("{news:?}") };
    assert_eq!((last.id, last.measure, last.is_final, last.revision), (early.id, Some(80_000), true, 1));
    assert_eq!(scene.findings().await, std::slice::from_ref(last));
    assert_eq!(cycle(&mut detector).await.0.evaluated, 0);
}

#[tokio::test]
async fn late_events_re_open_the_windows_that_they_touch_and_no_others() {
    let mut scene = Scene::new().await;
    let early = events(
        r#"
- { at: "2026-11-20T08:05:00Z", principal: a, target: crm, kind: sql.result, verdict: allow, rows: 20000, repeat: { times: 4, every: 1h } }
- { at: "2026-11-20T10:06:00Z", principal: b, session: late, target: crm, kind: sql.result, verdict: allow, rows: 30000 }
"#,
    );
    let (late, early): (Vec<_>, Vec<_>) =
        early.into_iter().partition(|e| e.envelope.ts_wall_ns == at("10:06:00"));
    scene.commit("gw/0", &early).await;
    scene.heartbeat("gw", at("14:00:00"), false).await;
    let mut detector = Detector::open(options(&scene, &["EXF-002"])).await.unwrap();
    assert_eq!(cycle(&mut detector).await.0.records, 4);
    scene.compact().await;
    assert_eq!(cycle(&mut detector).await.0.evaluated, 0, "other files, the same rows");

    scene.commit("gw/1", &late).await;
    let (did, news) = cycle(&mut detector).await;
    assert_eq!((did.records, news.len()), (1, 1), "{news:?}");
    let mut windows = Windows::open(scene.store.clone()).await.unwrap();
    let mut revisions = Vec::new();
    for hour in ["08", "09", "10", "11"] {
        let start_ns = at(&format!("{hour}:00:00"));
        let key = WindowKey { rule: "EXF-002".parse().unwrap(), major: 1, start_ns };
        revisions.push(windows.record(&key).await.unwrap().unwrap().n);
    }
    assert_eq!(revisions, [0, 0, 1, 0]);
    assert_eq!(cycle(&mut detector).await.0.evaluated, 0);
    // A worker that comes anew looks once more at windows whose history has changed, and has nothing to say.
    let mut other = Detector::open(options(&scene, &["EXF-002"])).await.unwrap();
    let (did, news) = cycle(&mut other).await;
    assert_eq!((did.records, news), (0, vec![]));
}

#[tokio::test]
async fn what_late_history_makes_ordinary_is_taken_back() {
    let mut scene = Scene::new().await;
    let all = events(
        r#"
- { at: "2026-11-20T01:05:00Z", principal: etl, target: crm, kind: sql.result, verdict: allow, rows: 9000, bytes: 100, repeat: { times: 5, every: 1h } }
- { at: "2026-11-20T10:06:00Z", principal: etl, session: big, target: crm, kind: sql.result, verdict: allow, rows: 30000, bytes: 100 }
"#,
    );
    let (history, big): (Vec<_>, Vec<_>) =
        all.into_iter().partition(|e| e.envelope.ts_wall_ns < at("10:00:00"));
    scene.commit("gw/0", &big).await;
    scene.heartbeat("gw", at("14:00:00"), false).await;
    let mut detector = Detector::open(options(&scene, &["EXF-002"])).await.unwrap();
    assert_eq!(cycle(&mut detector).await.0.found, 1);
    scene.commit("gw/1", &history).await;
    let (did, news) = cycle(&mut detector).await;
    let [News::Retracted { revision: 1, .. }] = news.as_slice() else { panic!("{news:?}") };
    assert_eq!(did.retracted, 1);
    assert_eq!(scene.findings().await, []);
}

#[tokio::test]
async fn a_worker_that_has_seen_less_supersedes_nothing() {
    let mut scene = Scene::new().await;
    let all = events(WORKLOAD);
    scene.commit("gw/0", &all[..3]).await;
    scene.heartbeat("gw", at("23:00:00"), true).await;
    let stale = Detector::open(options(&scene, &["EXF-002"])).await.unwrap();
    scene.commit("gw/0", &all[3..]).await;
    let mut fresh = Detector::open(options(&scene, &["EXF-002"])).await.unwrap();
    cycle(&mut fresh).await;
    let before = scene.findings().await;
    // The state of before the second commit, with the records of after it.
    let view = stale.lake.state().clone();
    let key = WindowKey { rule: "EXF-002".parse().unwrap(), major: 1, start_ns: at("08:00:00") };
    let record = fresh.windows.record(&key).await.unwrap().unwrap();
    assert!(!has_seen(&view, &record) && has_seen(fresh.lake.state(), &record));
    assert_eq!(scene.findings().await, before);
}

#[tokio::test]
async fn a_file_that_lands_while_watching_is_seen_at_the_next_look() {
    let mut scene = Scene::new().await;
    scene.heartbeat("gw", at("08:00:00"), false).await;
    let mut options = options(&scene, &["EXF-002"]);
    options.config.interval_seconds = 1;
    let (tell, mut hear) = tokio::sync::mpsc::unbounded_channel();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let watching = tokio::spawn(async move {
        let mut listener = |news: &News| drop(tell.send(news.clone()));
        watch(options, &mut listener, async { drop(stopped.await) }).await
    });
    for (n, expected) in [("a", 1), ("b", 2), ("c", 3)] {
        let pull = format!(
            r#"[{{ at: "2026-11-20T10:0{expected}:00Z", principal: {n}, target: crm, kind: sql.result, verdict: allow, rows: 20000 }}]"#
        );
        scene.commit("gw/0", &events(&pull)).await;
        let news =
            tokio::time::timeout(std::time::Duration::from_secs(60), hear.recv()).await.unwrap().unwrap();
        assert!(matches!(&news, News::Found { is_new: true, .. }), "{news:?}");
        // The earlier findings of the window come again in its new record only when they say something else.
        assert!(hear.try_recv().is_err());
    }
    stop.send(()).unwrap();
    let summary = watching.await.unwrap();
    assert_eq!(summary.found, 3);
}

#[tokio::test]
async fn a_rule_that_fails_advances_no_window_and_stops_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let broken = r#"
id: TEST-1
version: "1.0"
title: t
description: d
severity: low
entity: [session_id, seq]
window: 1h
unit: rows
text: x
query: |
  SELECT window_of(ts) AS window_start, session_id, seq, CAST(main_relation AS BIGINT) AS measure, 1 AS threshold,
         make_array(event_id) AS evidence FROM pulls
"#;
    std::fs::write(dir.path().join("broken.yaml"), broken).unwrap();
    let mut scene = Scene::new().await;
    scene.commit("gw/0", &events(WORKLOAD)).await;
    scene.heartbeat("gw", at("23:00:00"), true).await;
    let mut options = options(&scene, &["EXF-002"]);
    options.config.rules_dir = Some(dir.path().to_owned());
    let told = Mutex::new(0);
    let mut detector = Detector::open(options).await.unwrap();
    for _ in 0..2 {
        let summary = detector.cycle(&mut |_| *told.lock().unwrap() += 1).await.unwrap();
        assert_eq!(summary.failures.len(), 1, "{summary:?}");
        assert!(summary.failures[0].starts_with("TEST-1: "), "{summary:?}");
    }
    assert_eq!(*told.lock().unwrap(), 1);
    let windows = Windows::open(scene.store.clone()).await.unwrap();
    assert!(windows.known().all(|(key, _)| key.rule.as_str() == "EXF-002"));
}

#[tokio::test]
async fn a_killed_roll_up_is_made_again_and_a_kept_one_is_read() {
    let all = events(WORKLOAD);
    let mut scene = Scene::new().await;
    scene.commit("gw/0", &all).await;
    scene.heartbeat("gw", at("23:00:00"), true).await;
    let (counted, writes) = Dying::wrap(scene.store.clone(), i64::MAX, false);
    let view = scene_view(&scene).await;
    let inputs = Inputs::of(view.state()).unwrap();
    let range = (at("00:00:00"), at("12:00:00"));
    let mut texts = Vec::new();
    for settled in [at("05:00:00"), at("23:00:00"), at("23:00:00")] {
        let mut rollups = rollups_of(&counted);
        let table = rollups.table("hourly_pulls", &view, &inputs, range, settled).await.unwrap().unwrap();
        texts.push((rows(&view, table).await, writes.load(Ordering::SeqCst)));
    }
    let direct = direct_rows(&view).await;
    assert!(texts.iter().all(|(rows, _)| *rows == direct), "{texts:?} {direct}");
    let counts: Vec<u32> = texts.iter().map(|(_, n)| *n).collect();
    assert_eq!(counts, [4, 8, 8], "settled hours are written once");
}

/// A lake in a directory, so that what rests in it can be changed.
async fn on_disk(created_ns: i64) -> (tempfile::TempDir, Scene) {
    let dir = tempfile::tempdir().unwrap();
    let mut scene = Scene::on(Store::open(dir.path().to_str().unwrap()).unwrap()).await;
    scene.created_ns = created_ns;
    (dir, scene)
}

/// The files under a folder, in order.
fn files(root: &Path, folder: &str, ending: &str) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root.join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false if path.to_str().unwrap().ends_with(ending) => found.push(path),
                false => {}
            }
        }
    }
    found.sort();
    found
}

#[tokio::test]
async fn a_damaged_or_missing_window_record_is_made_again_and_stops_nothing() {
    let (dir, mut scene) = on_disk(at("23:00:00")).await;
    scene.commit("gw/0", &events(WORKLOAD)).await;
    scene.heartbeat("gw", at("23:00:00"), true).await;
    cycle(&mut Detector::open(options(&scene, &RULES)).await.unwrap()).await;
    let expected = said(scene.findings().await);
    let records = files(dir.path(), "windows/EXF-001", "0.json");
    assert!(records.len() > 5);
    for record in &records {
        std::fs::write(record, &std::fs::read(record).unwrap()[..40]).unwrap();
    }
    let gone = &files(dir.path(), "windows/EXF-002", "0.json")[0];
    std::fs::remove_file(gone).unwrap();
    let again = options(&scene, &RULES);
    let mut detector = Detector::open(again.clone()).await.unwrap();
    let (did, _) = cycle(&mut detector).await;
    assert_eq!(did.records, records.len() as u64 + 1);
    assert_eq!(again.metrics.records_unreadable(), did.records);
    assert_eq!(said(scene.findings().await), expected);
    assert_eq!(cycle(&mut detector).await.0.evaluated, 0);
    assert_eq!(cycle(&mut Detector::open(again).await.unwrap()).await.0.evaluated, 0, "once is enough");
}

#[tokio::test]
async fn a_damaged_record_that_the_list_does_not_name_is_passed_over() {
    let (dir, mut scene) = on_disk(at("23:00:00")).await;
    scene.commit("gw/0", &events(WORKLOAD)).await;
    scene.heartbeat("gw", at("23:00:00"), true).await;
    cycle(&mut Detector::open(options(&scene, &["EXF-001"])).await.unwrap()).await;
    let expected = said(scene.findings().await);
    for record in files(dir.path(), "windows/EXF-001", ".json") {
        std::fs::write(record, b"{").unwrap();
    }
    std::fs::remove_dir_all(dir.path().join("windows/index")).unwrap();
    let mut detector = Detector::open(options(&scene, &["EXF-001"])).await.unwrap();
    cycle(&mut detector).await;
    cycle(&mut detector).await;
    assert_eq!(said(scene.findings().await), expected);
}

#[tokio::test]
async fn a_lake_that_cannot_be_opened_is_tried_again_while_watching() {
    let (dir, mut scene) = on_disk(at("23:00:00")).await;
    scene.commit("gw/0", &events(WORKLOAD)).await;
    scene.heartbeat("gw", at("23:00:00"), true).await;
    let mut options = options(&scene, &["EXF-002"]);
    options.config.interval_seconds = 1;
    let metrics = Arc::clone(&options.metrics);
    let entry = dir.path().join("streams/0.json");
    let whole = std::fs::read(&entry).unwrap();
    std::fs::write(&entry, b"{").unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let watching =
        tokio::spawn(async move { watch(options, &mut |_| {}, async { drop(stopped.await) }).await });
    let until = async |failing: bool| {
        while metrics.is_failing() != failing {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(metrics.ready().unwrap_err().contains("the first look"));
    tokio::time::timeout(Duration::from_secs(60), until(true)).await.unwrap();
    assert!(metrics.prometheus().contains("\nbodycam_detect_failing 1\n"), "{}", metrics.prometheus());
    assert!(!metrics.prometheus().contains("\nbodycam_detect_looks_failed_total 0\n"));
    assert!(metrics.ready().unwrap_err().contains("cannot be looked at"));
    std::fs::write(&entry, whole).unwrap();
    tokio::time::timeout(Duration::from_secs(60), until(false)).await.unwrap();
    metrics.ready().unwrap();
    stop.send(()).unwrap();
    assert_eq!(watching.await.unwrap().found, 1);
    let found = "\nbodycam_detect_findings_total{rule=\"EXF-002\"} 1\n";
    assert!(metrics.prometheus().contains(found), "{}", metrics.prometheus());
}

#[tokio::test]
async fn an_event_dated_in_the_future_hides_nothing_and_is_named() {
    let mut scene = Scene::new().await;
    scene.created_ns = at("12:00:00");
    scene.commit("gw/0", &events(WORKLOAD)).await;
    let far = r#"
- { at: "2031-01-01T00:00:00Z", principal: liar, target: crm, kind: sql.result, verdict: allow, rows: 1 }
- { at: "2031-01-01T00:00:00Z", principal: liar, target: egress, kind: http.request, verdict: allow, host: a.example, port: 443 }
"#;
    scene.commit("gw/1", &events(far)).await;
    scene.heartbeat("gw", at("12:00:00"), false).await;
    let (did, news) = cycle(&mut Detector::open(options(&scene, &RULES)).await.unwrap()).await;
    assert_eq!(news.len(), 4, "{news:?}");
    let ahead = did.ahead.unwrap();
    assert_eq!((ahead.hours, ahead.committed_ns), (1, at("12:00:00")));
    assert_eq!(crate::findings::time(ahead.newest_ns), "2031-01-01T00:00:00Z");
}

#[tokio::test]
async fn the_events_of_another_family_do_not_move_the_backfill_of_a_rule() {
    let mut scene = Scene::new().await;
    scene.created_ns = at("12:00:00") + 400 * DAY_NS;
    scene.commit("gw/0", &events(WORKLOAD)).await;
    let later = r#"[{ at: "2027-11-20T00:00:00Z", principal: someone, target: egress, kind: http.request, verdict: allow, host: a.example, port: 443 }]"#;
    scene.commit("gw/1", &events(later)).await;
    scene.heartbeat("gw", at("12:00:00") + 400 * DAY_NS, false).await;
    let (_, news) = cycle(&mut Detector::open(options(&scene, &["EXF-001"])).await.unwrap()).await;
    assert_eq!(news.len(), 1, "{news:?}");
}

#[tokio::test]
async fn kept_roll_ups_that_were_changed_swapped_or_cut_are_made_again() {
    let (dir, mut scene) = on_disk(at("23:00:00")).await;
    scene.commit("gw/0", &events(WORKLOAD)).await;
    scene.heartbeat("gw", at("23:00:00"), true).await;
    cycle(&mut Detector::open(options(&scene, &RULES)).await.unwrap()).await;
    let expected = said(scene.findings().await);
    let kept = files(dir.path(), "state", ".rollup");
    assert!(kept.len() > 6, "{kept:?}");
    let whole: Vec<Vec<u8>> = kept.iter().map(|path| std::fs::read(path).unwrap()).collect();
    type Damage<'a> = &'a dyn Fn(usize) -> Vec<u8>;
    let damages: [(&str, Damage<'_>); 4] = [
        ("cut", &|at| whole[at][..whole[at].len() / 2].to_vec()),
        ("empty", &|_| Vec::new()),
        ("swapped", &|at| whole[(at + 1) % whole.len()].clone()),
        ("changed", &|at| {
            let mut bytes = whole[at].clone();
            bytes[60] ^= 1;
            bytes
        }),
    ];
    for (what, damaged) in damages {
        for (at, path) in kept.iter().enumerate() {
            std::fs::write(path, damaged(at)).unwrap();
        }
        for folder in ["windows", "findings"] {
            std::fs::remove_dir_all(dir.path().join(folder)).unwrap();
        }
        let options = options(&scene, &RULES);
        cycle(&mut Detector::open(options.clone()).await.unwrap()).await;
        assert_eq!(said(scene.findings().await), expected, "{what}");
        assert!(options.metrics.rollups_unreadable() > 0, "{what}");
        let now: Vec<Vec<u8>> = kept.iter().map(|path| std::fs::read(path).unwrap()).collect();
        assert_eq!(now, whole, "{what}: written anew");
    }
    // Those of another key have other names, and without a key nothing is read or kept.
    for tenant in [Some(TenantKey::new([4; 32])), None] {
        let names = files(dir.path(), "state", ".rollup").len();
        for folder in ["windows", "findings"] {
            std::fs::remove_dir_all(dir.path().join(folder)).unwrap();
        }
        let before: Vec<Vec<u8>> = kept.iter().map(|path| std::fs::read(path).unwrap()).collect();
        let options = DetectOptions { tenant: tenant.clone(), ..options(&scene, &RULES) };
        cycle(&mut Detector::open(options.clone()).await.unwrap()).await;
        assert_eq!(said(scene.findings().await), expected);
        assert_eq!(options.metrics.rollups_unreadable(), 0);
        let now: Vec<Vec<u8>> = kept.iter().map(|path| std::fs::read(path).unwrap()).collect();
        assert!(now == before, "nobody writes over those of another key");
        let more = files(dir.path(), "state", ".rollup").len() - names;
        assert_eq!(more, if tenant.is_some() { names } else { 0 });
    }
}

#[tokio::test]
async fn what_a_kill_left_recorded_and_untold_is_told_by_the_next() {
    let (dir, mut scene) = on_disk(at("23:00:00")).await;
    scene.commit("gw/0", &events(WORKLOAD)).await;
    scene.heartbeat("gw", at("23:00:00"), true).await;
    let (_, told) = cycle(&mut Detector::open(options(&scene, &RULES)).await.unwrap()).await;
    assert!(told.len() >= 4);
    // The records are there, and no entry of the list: as after a kill between the two.
    std::fs::remove_dir_all(dir.path().join("windows/index")).unwrap();
    let mut second = Detector::open(options(&scene, &RULES)).await.unwrap();
    let (did, again) = cycle(&mut second).await;
    assert_eq!((did.records, did.found), (0, told.len() as u64));
    let ids = |news: &[News]| news.iter().map(named).collect::<BTreeSet<_>>();
    assert_eq!(ids(&again), ids(&told), "the same ids and revisions");
    assert_eq!(cycle(&mut second).await.1, []);
    let (_, third) = cycle(&mut Detector::open(options(&scene, &RULES)).await.unwrap()).await;
    assert_eq!(third, [], "what the list names was told");
}

#[tokio::test]
async fn a_kill_at_any_write_loses_no_alert() {
    let all = events(WORKLOAD);
    let only = ["EXF-002"];
    for write_first in [false, true] {
        for left in 0.. {
            let mut scene = Scene::new().await;
            scene.commit("gw/0", &all).await;
            scene.heartbeat("gw", at("23:00:00"), true).await;
            let (dying, _) = Dying::wrap(scene.store.clone(), left, write_first);
            let mut told = BTreeSet::new();
            let mut first =
                Detector::open(DetectOptions { store: dying, ..options(&scene, &only) }).await.unwrap();
            // Only what was said before the kill was heard.
            let survived = first.cycle(&mut |news| told.extend([named(news)])).await.is_ok();
            let (_, news) = cycle(&mut Detector::open(options(&scene, &only)).await.unwrap()).await;
            told.extend(news.iter().map(named));
            assert_eq!(told.len(), 1, "killed at write {left}, written first: {write_first}");
            if survived {
                break;
            }
        }
    }
}

fn rollups_of(store: &Store) -> Rollups {
    let tenant = Some(TenantKey::new([3; 32]));
    Rollups::new(store.clone(), Engine::new(store).unwrap(), 64 << 20, tenant, Arc::default())
}

async fn scene_view(scene: &Scene) -> bodycam_lake::View {
    Lake::open(scene.store.clone()).await.unwrap().view()
}

async fn rows(view: &bodycam_lake::View, table: Arc<dyn datafusion::datasource::TableProvider>) -> String {
    let scope = Scope::lake(view.clone(), vec![], 64 << 20).with_table("hourly_pulls", table);
    text_of(view, scope).await
}

async fn direct_rows(view: &bodycam_lake::View) -> String {
    text_of(view, Scope::lake(view.clone(), vec![], 64 << 20)).await
}

async fn text_of(view: &bodycam_lake::View, scope: Scope) -> String {
    let engine = Engine::new(view.store()).unwrap();
    spawn(async move {
        let context = engine.context(&scope)?;
        let sql = "SELECT * FROM hourly_pulls ORDER BY hour, principal_ref, target, main_relation";
        let batches = context.sql(sql).await.unwrap().collect().await.unwrap();
        Ok(arrow::util::pretty::pretty_format_batches(&batches).unwrap().to_string())
    })
    .unwrap()
    .await
    .unwrap()
}
