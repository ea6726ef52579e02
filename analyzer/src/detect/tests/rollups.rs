//! Roll-ups that are kept from commit to commit, against a full recompute.

use super::*;

/// What is looked at: the roll-ups and the order of their rows.
const TABLES: [(&str, &str); 2] = [
    ("hourly_pulls", "hour, principal_ref, target, main_relation"),
    ("hourly_destinations", "hour, host, principal_ref"),
];

/// Three days of reads and contacts, and a drop site: every shipped rule finds something in them.
const DAYS: &str = r#"
- { at: "2026-11-18T21:10:00Z", principal: etl, target: crm, kind: sql.result, verdict: allow, rows: 900, bytes: 900, main_relation: public.customers, repeat: { times: 7, every: 5h } }
- { at: "2026-11-18T23:30:00Z", principal: bot, session: early, target: egress, kind: http.tunnel_opened, verdict: allow, host: known.example.net, port: 443, repeat: { times: 3, every: 14h } }
- { at: "2026-11-20T08:10:00Z", principal: etl, target: crm, kind: sql.result, verdict: allow, rows: 60000, bytes: 900, main_relation: public.customers }
- { at: "2026-11-20T08:20:00Z", principal: bot, target: crm, kind: sql.result, verdict: allow, rows: 12000, bytes: 900, main_relation: public.customers }
- { at: "2026-11-20T08:30:00Z", principal: bot, session: out, target: egress, kind: http.tunnel_opened, verdict: allow, host: drop.example.net, port: 443 }
- { at: "2026-11-20T08:40:00Z", principal: bot, session: out, target: egress, kind: http.tunnel_opened, verdict: allow, host: known.example.net, port: 443 }
- { at: "2026-11-20T08:41:00Z", principal: bot, session: out, target: egress, kind: http.tunnel_opened, verdict: allow, host: paste.ee, port: 443 }
- { at: "2026-11-20T08:45:00Z", principal: someone, kind: sql.message, message: notice }
"#;

const EVERY_RULE: [&str; 4] = ["EXF-001", "EXF-002", "EXF-014", "EXF-019"];

async fn ordered(view: &bodycam_lake::View, scope: Scope, table: &str, order: &str) -> String {
    let engine = Engine::new(view.store()).unwrap();
    let sql = format!("SELECT * FROM {table} ORDER BY {order}");
    spawn(async move {
        let context = engine.context(&scope)?;
        let batches = context.sql(&sql).await.unwrap().collect().await.unwrap();
        Ok(arrow::util::pretty::pretty_format_batches(&batches).unwrap().to_string())
    })
    .unwrap()
    .await
    .unwrap()
}

/// The rows that `rollups` give of each roll-up, and those that the events give.
async fn both(scene: &Scene, rollups: &mut Rollups, settled_ns: i64) -> (Vec<String>, Vec<String>) {
    let view = scene_view(scene).await;
    let inputs = Inputs::of(view.state()).unwrap();
    let range = (at("00:00:00") - 3 * DAY_NS, at("12:00:00"));
    let scope = || Scope::lake(view.clone(), vec![], 64 << 20);
    let (mut kept, mut direct) = (Vec::new(), Vec::new());
    for (table, order) in TABLES {
        let rows = rollups.table(table, &view, &inputs, range, settled_ns).await.unwrap().unwrap();
        kept.push(ordered(&view, scope().with_table(table, rows), table, order).await);
        direct.push(ordered(&view, scope(), table, order).await);
    }
    (kept, direct)
}

#[test]
fn roll_ups_kept_from_commit_to_commit_are_those_of_a_full_recompute() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let all = events(DAYS);
    // Stream, compaction, hours that are settled, restart, and the write at which the worker is killed, if it is.
    let step =
        (0usize..3, any::<bool>(), 0i64..96, any::<bool>(), proptest::option::of((0i64..9, any::<bool>())));
    let strategy = (Just(all).prop_shuffle(), proptest::collection::vec(step, 2..7));
    let mut runner = TestRunner::new(Config { cases: 6, ..Config::default() });
    let outcome = runner.run(&strategy, |(shuffled, steps)| {
        runtime.block_on(async {
            let mut scene = Scene::new().await;
            let mut rollups = rollups_of(&scene.store);
            let size = shuffled.len().div_ceil(steps.len());
            for (slice, (stream, compacts, settled, restarts, killed)) in shuffled.chunks(size).zip(&steps) {
                scene.commit(&format!("gw{stream}/0"), slice).await;
                if *compacts {
                    scene.compact().await;
                }
                let settled_ns = at("00:00:00") - 3 * DAY_NS + settled * 60 * MINUTE;
                if let Some((left, write_first)) = killed {
                    let (dying, _) = Dying::wrap(scene.store.clone(), *left, *write_first);
                    let (kept, direct) = both(&scene, &mut rollups_of(&dying), settled_ns).await;
                    prop_assert_eq!(kept, direct, "by the one that is killed");
                }
                if *restarts {
                    rollups = rollups_of(&scene.store);
                }
                let (kept, direct) = both(&scene, &mut rollups, settled_ns).await;
                prop_assert_eq!(kept, direct);
            }
            // Whoever comes last reads what all the others left.
            let (kept, direct) = both(&scene, &mut rollups_of(&scene.store), at("23:00:00")).await;
            prop_assert_eq!(kept, direct);
            Ok(())
        })
    });
    outcome.unwrap();
}

#[test]
fn every_rule_finds_with_kept_roll_ups_what_it_finds_in_a_full_recompute() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let all = events(DAYS);
    let expected = said(runtime.block_on(recomputed(&all, &EVERY_RULE)));
    for rule in EVERY_RULE {
        assert!(expected.iter().any(|row| row.rule == rule), "{rule} finds nothing: {expected:#?}");
    }
    let step = (0usize..3, any::<bool>(), 0i64..80, proptest::option::of((0i64..40, any::<bool>())));
    let strategy = (Just(all).prop_shuffle(), proptest::collection::vec(step, 2..5));
    let mut runner = TestRunner::new(Config { cases: 4, ..Config::default() });
    let outcome = runner.run(&strategy, |(shuffled, steps)| {
        runtime.block_on(async {
            let mut scene = Scene::new().await;
            let size = shuffled.len().div_ceil(steps.len());
            for (slice, (stream, compacts, hour, killed)) in shuffled.chunks(size).zip(&steps) {
                scene.commit(&format!("gw{stream}/0"), slice).await;
                if *compacts {
                    scene.compact().await;
                }
                scene.heartbeat("gw", at("00:00:00") - 2 * DAY_NS + hour * 60 * MINUTE, false).await;
                if let Some((left, write_first)) = killed {
                    let (dying, _) = Dying::wrap(scene.store.clone(), *left, *write_first);
                    let options = DetectOptions { store: dying, ..options(&scene, &EVERY_RULE) };
                    let _ = Detector::open(options).await.unwrap().cycle(&mut |_| {}).await;
                }
                cycle(&mut Detector::open(options(&scene, &EVERY_RULE)).await.unwrap()).await;
            }
            scene.heartbeat("gw", at("23:00:00"), true).await;
            let mut last = Detector::open(options(&scene, &EVERY_RULE)).await.unwrap();
            cycle(&mut last).await;
            let (again, news) = cycle(&mut last).await;
            prop_assert_eq!((again.records, news), (0, vec![]));
            prop_assert_eq!(&said(scene.findings().await), &expected);
            Ok(())
        })
    });
    outcome.unwrap();
}

#[tokio::test]
async fn a_late_row_makes_its_hour_anew_and_no_other_and_compaction_makes_none() {
    let mut scene = Scene::new().await;
    let (late, rest): (Vec<_>, Vec<_>) =
        events(DAYS).into_iter().partition(|e| e.envelope.ts_wall_ns == at("08:20:00"));
    scene.commit("gw/0", &rest).await;
    let metrics = Arc::new(Metrics::default());
    let mut made = 0;
    let mut look = async |scene: &Scene, what: &str, expected: u64| {
        let (store, tenant) = (scene.store.clone(), Some(TenantKey::new([3; 32])));
        let engine = Engine::new(&store).unwrap();
        let mut rollups = Rollups::new(store, engine, 64 << 20, tenant, metrics.clone());
        let (kept, direct) = both(scene, &mut rollups, at("23:00:00") + DAY_NS).await;
        assert_eq!(kept, direct, "{what}");
        assert_eq!(metrics.rollups_made() - made, expected, "{what}");
        made = metrics.rollups_made();
    };
    look(&scene, "everything", 8 + 4).await;
    look(&scene, "nothing new", 0).await;
    scene.compact().await;
    look(&scene, "other files, the same rows", 0).await;
    scene.commit("gw/1", &late).await;
    look(&scene, "a late row", 1).await;
}

#[tokio::test]
async fn days_that_are_rolled_up_are_not_read_again() {
    let (dir, mut scene) = on_disk(at("23:00:00")).await;
    let all = events(DAYS);
    let (today, before): (Vec<_>, Vec<_>) =
        all.iter().cloned().partition(|e| e.envelope.ts_wall_ns >= at("06:00:00"));
    let expected = said(recomputed(&all, &EVERY_RULE).await);
    scene.commit("gw/0", &before).await;
    scene.heartbeat("gw", at("05:30:00"), false).await;
    cycle(&mut Detector::open(options(&scene, &EVERY_RULE)).await.unwrap()).await;
    // What is not there cannot be read.
    let mut gone = 0;
    for family in ["sql", "http"] {
        for day in ["dt=2026-11-18", "dt=2026-11-19"] {
            let folder = dir.path().join("tables").join(family).join(day);
            gone += usize::from(std::fs::remove_dir_all(folder).is_ok());
        }
    }
    assert_eq!(gone, 4);
    scene.commit("gw/0", &today).await;
    scene.heartbeat("gw", at("23:00:00"), false).await;
    let options = options(&scene, &EVERY_RULE);
    cycle(&mut Detector::open(options.clone()).await.unwrap()).await;
    assert_eq!(said(scene.findings().await), expected, "by what was kept of the days before");
    assert!(options.metrics.rollups_made() <= 3, "{}", options.metrics.rollups_made());
    // And without it they are missed.
    let kept: Vec<_> = files(dir.path(), "state", ".rollup");
    assert!(kept.iter().any(|path| path.to_str().unwrap().contains("-day")), "{kept:?}");
    for folder in ["state", "windows", "findings"] {
        std::fs::remove_dir_all(dir.path().join(folder)).unwrap();
    }
    let failed = Detector::open(options).await.unwrap().cycle(&mut |_| {}).await;
    assert!(failed.is_err() || !failed.unwrap().failures.is_empty());
}

#[tokio::test]
async fn a_kept_roll_up_says_which_commits_it_was_made_from() {
    let (dir, mut scene) = on_disk(at("23:00:00")).await;
    scene.commit("gw/0", &events(DAYS)).await;
    scene.heartbeat("gw", at("23:00:00"), true).await;
    cycle(&mut Detector::open(options(&scene, &EVERY_RULE)).await.unwrap()).await;
    let view = scene_view(&scene).await;
    let expected = serde_json::to_string(&positions(view.state())).unwrap();
    for path in files(dir.path(), "state", ".rollup") {
        let parquet = bytes::Bytes::from(std::fs::read(&path).unwrap()).slice(32..);
        let file = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(parquet).unwrap();
        let metadata = file.metadata().file_metadata().key_value_metadata().unwrap();
        let read = metadata.iter().find(|pair| pair.key == "bodycam.read").unwrap();
        assert_eq!(read.value.as_deref(), Some(expected.as_str()), "{path:?}");
    }
}
