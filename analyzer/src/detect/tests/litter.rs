//! What detection leaves, and takes away again.

use std::path::Path;
use std::time::SystemTime;

use super::*;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// The names under `state/`.
fn left(dir: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(dir.join("state")).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn age(dir: &Path, name: &str, age: Duration) {
    let file = std::fs::File::options().write(true).open(dir.join("state").join(name)).unwrap();
    file.set_modified(SystemTime::now() - age).unwrap();
}

async fn worker(scene: &Scene) -> Detector {
    Detector::open(options(scene, &RULES)).await.unwrap().into_worker().await.unwrap()
}

#[tokio::test]
async fn beats_claims_and_roll_ups_go_when_something_newer_stands_for_them_and_never_else() {
    let (dir, mut scene) = on_disk(at("23:00:00") + 2 * DAY_NS).await;
    let at_lake = dir.path();
    scene.commit("gw/0", &events(WORKLOAD)).await;
    scene.heartbeat("gw", at("23:00:00") + DAY_NS, true).await;
    let mut detector = worker(&scene).await;
    cycle(&mut detector).await;
    let is_rollup = |name: &&String| name.ends_with(".rollup");
    let before: BTreeSet<String> = left(at_lake).iter().filter(is_rollup).cloned().collect();
    assert!(before.iter().any(|name| name.contains("-day")), "{before:?}");
    // A late row: its hour and its day have other names from now on.
    let late = r#"[{ at: "2026-11-20T01:50:00Z", principal: etl, target: crm, kind: sql.result, verdict: allow, rows: 9000, bytes: 900, main_relation: public.customers }]"#;
    scene.commit("gw/1", &events(late)).await;
    cycle(&mut detector).await;
    let all: BTreeSet<String> = left(at_lake).iter().filter(is_rollup).cloned().collect();
    let what = |name: &String| name.rsplit_once('-').unwrap().0.to_owned();
    let made: BTreeSet<&String> = all.difference(&before).collect();
    let replaced: BTreeSet<&String> =
        before.iter().filter(|name| made.iter().any(|new| what(new) == what(name))).collect();
    assert_eq!((made.len(), replaced.len()), (2, 2), "{made:?} {replaced:?}");
    all.iter().for_each(|name| age(at_lake, name, if made.contains(name) { 2 * DAY } else { 3 * DAY }));

    // One that is gone, one that lives, and what each has claimed.
    let key = || Some(TenantKey::new([3; 32]));
    let claims = async || {
        let metrics = Arc::new(Metrics::default());
        Claims::open(scene.store.clone(), key(), Duration::from_secs(5), metrics).await.unwrap()
    };
    let known = detector.windows.known().map(|(key, _)| key.clone()).next().unwrap();
    let elsewhere = |start_ns| (WindowKey { start_ns, ..known.clone() }, 0);
    let (mut gone, mut living) = (claims().await, claims().await);
    let names = |path: String| path.strip_prefix("state/").unwrap().to_owned();
    let first = |claims: &Claims, place: &Place| format!("{}-0", names(claims.place_path(place).unwrap()));
    let places = [elsewhere(-1), elsewhere(-2), elsewhere(-3), (known.clone(), 0)];
    assert!(gone.take(&places[0], true).await.unwrap() && gone.take(&places[1], true).await.unwrap());
    assert!(living.take(&places[2], true).await.unwrap() && living.take(&places[3], true).await.unwrap());
    let beats = [names(gone.own_beat().unwrap()), names(living.own_beat().unwrap())];
    let held = places.each_ref().map(|place| first(&living, place));
    drop(gone);
    // Of somebody else: not made with the tenant key.
    let foreign = [
        "worker-00000000000000000000000000000000".to_owned(),
        "claim-00000000000000000000000000000000-0".to_owned(),
        format!("{}-00000000000000000000000000000000.rollup", what(replaced.first().unwrap())),
        "notes".to_owned(),
    ];
    for name in &foreign {
        std::fs::write(at_lake.join("state").join(name), b"of somebody").unwrap();
        age(at_lake, name, 3 * DAY);
    }
    // The second claim of the one that is gone is young.
    for name in [&beats[0], &held[0], &held[2], &held[3]] {
        age(at_lake, name, 2 * DAY);
    }

    let before = left(at_lake);
    cycle(&mut detector).await;
    assert_eq!(left(at_lake), before, "it is not looked for at every look");
    detector.litter = Litter::default();
    cycle(&mut detector).await;
    let went: BTreeSet<String> = before.difference(&left(at_lake)).cloned().collect();
    let expected: BTreeSet<String> =
        replaced.into_iter().chain([&beats[0], &held[0], &held[3]]).cloned().collect();
    assert_eq!(went, expected);
    assert!(detector.options.metrics.prometheus().contains("\nbodycam_detect_litter_removed_total 5\n"));

    // Nothing that was needed is gone: whoever comes next makes nothing again.
    let mut next = worker(&scene).await;
    next.told.clear();
    let view = next.lake.view();
    let inputs = Inputs::of(view.state()).unwrap();
    let range = (at("00:00:00"), at("23:00:00"));
    let read = next.rollups.table("hourly_pulls", &view, &inputs, range, at("23:00:00") + DAY_NS).await;
    assert!(read.unwrap().is_some());
    assert_eq!(next.options.metrics.rollups_made(), 0);
    living.close().await;
}
