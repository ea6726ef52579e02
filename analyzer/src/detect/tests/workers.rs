//! Several workers on one lake.

use super::*;

const LEASE: Duration = Duration::from_millis(600);

async fn claims(store: &Store, tenant: Option<TenantKey>) -> (Claims, Arc<Metrics>) {
    let metrics = Arc::new(Metrics::default());
    (Claims::open(store.clone(), tenant, LEASE, metrics.clone()).await.unwrap(), metrics)
}

fn place(start_ns: i64, n: u64) -> Place {
    (WindowKey { rule: "EXF-002".parse().unwrap(), major: 1, start_ns }, n)
}

fn key() -> Option<TenantKey> {
    Some(TenantKey::new([3; 32]))
}

/// Looks until a place is taken; how long that took.
async fn until_taken(claims: &mut Claims, place: &Place) -> Duration {
    let started = std::time::Instant::now();
    loop {
        claims.look(|_| false);
        if claims.take(place, true).await.unwrap() {
            return started.elapsed();
        }
        assert!(started.elapsed() < Duration::from_secs(30));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_window_belongs_to_who_claims_it_first_for_as_long_as_it_lives() {
    let store = Scene::new().await.store;
    let ((mut a, a_metrics), (mut b, _)) = (claims(&store, key()).await, claims(&store, key()).await);
    let window = place(-7, 0);
    assert!(a.take(&window, true).await.unwrap() && a.take(&window, true).await.unwrap());
    assert!(b.take(&place(-7, 1), true).await.unwrap(), "the next record is another matter");
    let started = std::time::Instant::now();
    while started.elapsed() < 3 * LEASE {
        b.look(|_| false);
        assert!(!b.take(&window, true).await.unwrap(), "it beats");
        tokio::time::sleep(LEASE / 6).await;
    }
    // As after a kill: no more beats, and the last one stays.
    drop(a);
    let took = until_taken(&mut b, &window).await;
    assert!(took > LEASE / 6, "{took:?}");
    assert_eq!(a_metrics.claims_lost(), 0);
    b.done(&window).await;
    assert!(store.names("state").await.unwrap().iter().filter(|n| n.starts_with("claim-")).count() == 1);
}

#[tokio::test]
async fn a_worker_that_was_paused_finds_that_its_window_was_taken_over() {
    let store = Scene::new().await.store;
    let (mut a, metrics) = claims(&store, key()).await;
    let window = place(0, 0);
    assert!(a.take(&window, true).await.unwrap());
    a.pause();
    let (mut b, _) = claims(&store, key()).await;
    until_taken(&mut b, &window).await;
    a.look(|_| false);
    assert!(!a.take(&window, true).await.unwrap());
    assert_eq!(metrics.claims_lost(), 1);
}

#[tokio::test]
async fn who_ends_in_order_or_fails_at_a_rule_keeps_nobody_waiting() {
    let store = Scene::new().await.store;
    let ((mut a, _), (mut b, _)) = (claims(&store, key()).await, claims(&store, key()).await);
    assert!(a.take(&place(0, 0), true).await.unwrap() && a.take(&place(1, 0), true).await.unwrap());
    assert!(!b.take(&place(0, 0), true).await.unwrap());
    a.fails(&"EXF-002".parse().unwrap(), true);
    until_taken(&mut b, &place(0, 0)).await;
    a.fails(&"EXF-002".parse().unwrap(), false);
    assert!(b.take(&place(2, 0), true).await.unwrap());
    b.close().await;
    a.look(|_| false);
    assert!(a.take(&place(2, 0), true).await.unwrap(), "at once");
    a.close().await;
    let left = store.names("state").await.unwrap();
    assert!(!left.iter().any(|name| name.starts_with("worker-")), "{left:?}");
}

#[tokio::test]
async fn claims_and_beats_of_another_key_or_of_none_hold_nobody_up() {
    let store = Scene::new().await.store;
    let (mut other, _) = claims(&store, Some(TenantKey::new([4; 32]))).await;
    let (mut keyless, _) = claims(&store, None).await;
    let (mut ours, metrics) = claims(&store, key()).await;
    let window = place(0, 0);
    for claims in [&mut other, &mut keyless, &mut ours] {
        assert!(claims.take(&window, true).await.unwrap());
    }
    // What somebody writes in the place of a claim of ours is passed over, and what it replaced is lost with it.
    let names = store.names("state").await.unwrap();
    for name in names.iter().filter(|name| name.starts_with("claim-")) {
        store.put(&format!("state/{name}"), bytes::Bytes::from_static(b"{\"worker\":\"me\"}")).await.unwrap();
    }
    let (mut fresh, _) = claims(&store, key()).await;
    assert!(fresh.take(&window, true).await.unwrap());
    ours.look(|_| false);
    assert!(!ours.take(&window, true).await.unwrap());
    assert_eq!(metrics.claims_lost(), 1);
}

#[tokio::test]
async fn three_workers_share_the_windows_of_a_lake_and_none_is_evaluated_twice() {
    let mut scene = Scene::new().await;
    let pulls = r#"[{ at: "2026-11-10T00:05:00Z", principal: bot, target: crm, kind: sql.result, verdict: allow, rows: 20000, repeat: { times: 200, every: 1h } }]"#;
    scene.commit("gw/0", &events(pulls)).await;
    scene.heartbeat("gw", at("00:00:00"), false).await;
    let mut workers = Vec::new();
    for _ in 0..3 {
        let detector = Detector::open(options(&scene, &RULES)).await.unwrap();
        workers.push(detector.into_worker().await.unwrap());
    }
    let [a, b, c] = &mut workers[..] else { panic!() };
    let did = tokio::join!(cycle(a), cycle(b), cycle(c));
    let did = [did.0, did.1, did.2];
    let mut windows = Windows::open(scene.store.clone()).await.unwrap();
    let keys: Vec<_> = windows.known().map(|(key, _)| key.clone()).collect();
    assert_eq!(keys.len(), 3 * 200);
    for key in &keys {
        assert_eq!(windows.record(key).await.unwrap().unwrap().n, 0, "{key:?}");
    }
    assert_eq!(did.iter().map(|(did, _)| did.evaluated).sum::<u64>(), keys.len() as u64);
    assert!(did.iter().all(|(did, _)| did.records > 0), "{:?}", did.map(|(did, _)| did.records));
    let told: Vec<_> = did.iter().flat_map(|(_, news)| news.iter().map(named)).collect();
    let once: BTreeSet<_> = told.iter().collect();
    assert_eq!((told.len(), once.len()), (scene.findings().await.len(), told.len()));
    for worker in workers {
        worker.close().await;
    }
    let left = scene.store.names("state").await.unwrap();
    assert!(!left.iter().any(|name| name.starts_with("claim-") || name.starts_with("worker-")), "{left:?}");
}

#[tokio::test]
async fn what_a_worker_recorded_and_could_not_tell_is_told_by_the_one_that_takes_over() {
    let expected = recomputed(&events(WORKLOAD), &["EXF-002"]).await.len();
    assert_eq!(expected, 1);
    for left in 0.. {
        let mut fresh = Scene::new().await;
        fresh.commit("gw/0", &events(WORKLOAD)).await;
        fresh.heartbeat("gw", at("23:00:00"), true).await;
        let mut told = BTreeSet::new();
        let (dying, _) = Dying::wrap(fresh.store.clone(), left, true);
        let mut config = options(&fresh, &["EXF-002"]);
        config.config.lease_seconds = 1;
        let dies = DetectOptions { store: dying, ..config.clone() };
        let Ok(mut first) = Detector::open(dies).await.unwrap().into_worker().await else { continue };
        let survived = first.cycle(&mut |news| told.extend([named(news)])).await.is_ok();
        drop(first);
        let mut second = Detector::open(config).await.unwrap().into_worker().await.unwrap();
        let started = std::time::Instant::now();
        while told.is_empty() || fresh.findings().await.is_empty() {
            assert!(started.elapsed() < Duration::from_secs(60), "killed at write {left}");
            second.cycle(&mut |news| told.extend([named(news)])).await.unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!((told.len(), fresh.findings().await.len()), (1, 1), "killed at write {left}");
        if survived {
            break;
        }
    }
}

#[tokio::test]
async fn new_data_is_told_within_a_second_or_so_of_its_commit_however_long_the_interval() {
    let mut scene = Scene::new().await;
    scene.heartbeat("gw", at("08:00:00"), false).await;
    let mut options = options(&scene, &["EXF-002"]);
    options.config.interval_seconds = 3600;
    let (tell, mut hear) = tokio::sync::mpsc::unbounded_channel();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let watching = tokio::spawn(async move {
        let mut listener = |news: &News| drop(tell.send(news.clone()));
        watch(options, &mut listener, async { drop(stopped.await) }).await
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    let pull = r#"[{ at: "2026-11-20T10:05:00Z", principal: bot, target: crm, kind: sql.result, verdict: allow, rows: 20000 }]"#;
    scene.commit("gw/0", &events(pull)).await;
    // Far from the interval; the machine may be busy.
    tokio::time::timeout(Duration::from_secs(60), hear.recv()).await.unwrap().unwrap();
    stop.send(()).unwrap();
    assert_eq!(watching.await.unwrap().found, 1);
}
