//! A gateway whose clock is set forth and back under open sessions, while a recorder stores what it records: every chain
//! and every ledger stays whole, in the order in which things happened, and nobody is accused of anything.
//!
//! The clock is the injected one; the machine's is never touched.

use std::sync::Arc;
use std::time::Duration;

use bodycam_bus::spool::SpoolBus;
use bodycam_lake::Store;
use bodycam_proxy::clock::Clock;
use bodycam_record::EpochKey;
use bodycam_recorder::{Metrics, RecorderConfig};

use super::{Random, setting};
use crate::support::gateway::{Gateway, Setup};
use crate::support::postgres;
use crate::support::stack::bodycam;

const SECOND_NS: i64 = 1_000_000_000;
/// How far the clock is set, in seconds: less and more than what the verifier, the ledger and the layout by hours forgive.
const STEPS: [i64; 10] = [-1, 1, -61, 61, -900, 900, -3_601, 3_601, -86_400, 86_400];

/// A session, with a new token when the one in use is none by the clock as it is now.
async fn session(gateway: &Gateway, token: &mut String) -> tokio_postgres::Client {
    let connect = async |token: &str| {
        let info = gateway.conninfo("ada", token, "postgres");
        tokio_postgres::connect(&info, tokio_postgres::NoTls).await
    };
    let (client, connection) = match connect(token).await {
        Ok(connected) => connected,
        Err(_) => {
            *token = gateway.token("ada");
            connect(token).await.unwrap()
        }
    };
    tokio::spawn(connection);
    client
}

#[test]
fn a_clock_that_is_set_forth_and_back_breaks_no_chain_and_raises_no_alarm() {
    let seed = setting("BODYCAM_CRASH_SEED", u64::from(std::process::id()));
    let mut random = Random(seed);
    let clock = Clock::simulated();
    let cluster = postgres::shared();
    let mut setup = Setup::new(cluster);
    setup.clock = clock.clone();
    let mut gateway = setup.start();
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("lake");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let config = RecorderConfig { flush_seconds: 1, compact_seconds: 1, ..RecorderConfig::default() };
    let recorder = runtime.spawn(bodycam_recorder::run(
        SpoolBus::new(gateway.spool()),
        Store::create(root.to_str().unwrap()).unwrap(),
        Arc::new(EpochKey::from_seed(&[5; 32])),
        config,
        Arc::new(Metrics::default()),
        async move { drop(stopped.await) },
    ));

    let mut sent = Vec::new();
    runtime.block_on(async {
        let mut token = gateway.token("ada");
        let mut long = session(&gateway, &mut token).await;
        let mut steps: Vec<i64> = (0..24).map(|_| STEPS[random.below(STEPS.len() as u64) as usize]).collect();
        // One that passes the life of a token, and one that goes back before it, whatever the seed.
        steps.extend([86_400, -86_400]);
        for (n, step) in steps.iter().enumerate() {
            // A token can have expired by the new time: then the session was closed, as it must be.
            let mut text = format!("SELECT 'long', {n}");
            if long.batch_execute(&text).await.is_err() {
                long = session(&gateway, &mut token).await;
                text = format!("SELECT 'anew', {n}");
                long.batch_execute(&text).await.unwrap();
            }
            sent.push(text);
            let short = session(&gateway, &mut token).await;
            clock.set(clock.wall_ns() + step * SECOND_NS);
            let text = format!("SELECT 'short', {n}");
            if short.batch_execute(&text).await.is_ok() {
                sent.push(text);
            }
            drop(short);
            tokio::time::sleep(Duration::from_millis(150 + random.below(200))).await;
        }
    });
    gateway.wait_closed();
    gateway.drain();
    stop.send(()).unwrap();
    runtime.block_on(recorder).unwrap().unwrap();

    let verified = bodycam().args(["verify", "--json", "--lake"]).arg(&root).output().unwrap();
    let report: serde_json::Value = serde_json::from_slice(&verified.stdout).unwrap();
    assert_eq!(
        verified.status.code(),
        Some(4),
        "seed {seed}: nothing was altered and nothing lost: {report:#}"
    );
    let faults: Vec<_> =
        report["faults"].as_array().unwrap().iter().filter(|f| f["gravity"] != "notice").collect();
    assert!(faults.is_empty(), "seed {seed}: {faults:#?}");
    // In the lake, too, statements stand in the order in which they were sent, and none is missing.
    let key = dir.path().join("tenant.key");
    std::fs::write(&key, "07".repeat(32)).unwrap();
    std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let sql = "SELECT s.session_id, s.statement_no, c.text FROM statements s JOIN content c \
               ON c.session_id = s.session_id AND c.content_no = s.content_no \
               WHERE c.content_kind = 'sql-text' ORDER BY s.session_id, s.statement_no";
    let output = bodycam()
        .args(["query", sql, "--format", "json", "--lake"])
        .arg(&root)
        .arg("--tenant-key")
        .arg(format!("file:{}", key.display()))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let rows = String::from_utf8(output.stdout).unwrap();
    let rows: Vec<serde_json::Value> = rows.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let mut recorded: Vec<String> = rows.iter().map(|row| row["text"].as_str().unwrap().to_owned()).collect();
    let number = |text: &str| text.rsplit(' ').next().unwrap().parse::<usize>().unwrap();
    for pair in rows.windows(2).filter(|pair| pair[0]["session_id"] == pair[1]["session_id"]) {
        let of = |row: &serde_json::Value| number(row["text"].as_str().unwrap());
        assert!(of(&pair[0]) < of(&pair[1]), "seed {seed}: {pair:?}");
    }
    recorded.retain(|text| sent.contains(text));
    recorded.sort();
    sent.sort();
    assert_eq!(recorded, sent, "seed {seed}");
}
