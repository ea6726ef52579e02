//! Gateway, recorder, compactor and broker are killed (SIGKILL) at random moments under busy clients. Afterwards three logs must
//! agree: what clients saw acknowledged, what the target table holds, what the lake holds.
//!
//! `BODYCAM_CRASH_SEED` repeats a run, `BODYCAM_CRASH_KILLS` and `BODYCAM_CRASH_OUTAGE_SECONDS` (how long the broker is away
//! at the end) make it longer: `make soak`.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use bodycam_bus::kafka::{Kafka, KafkaBus, KafkaConfig};
use bodycam_bus::{Bus, StreamId, Subscription};
use bodycam_lake::{Filter, Lake, LakeState, Store, Table};
use bodycam_record::Family;
use futures::TryStreamExt;
use serde_json::json;

use crate::support::broker::Broker;
use crate::support::s3::S3;
use crate::support::stack::{Process, Stack, bodycam, get};

mod clients;
mod clock;
mod disk;

use clients::Clients;

/// Kills of a run in CI; half as many where a broker is killed, too.
const FEWEST_KILLS: u64 = 20;

/// SplitMix64 (Steele, Lea, Flood 2014): small, seedable, good enough to choose moments.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |v| v.parse().unwrap())
}

#[test]
fn after_kills_of_gateway_and_recorder_clients_table_and_lake_agree() {
    crash(kills(FEWEST_KILLS), &Stack::new(""), None, None);
}

#[test]
fn after_kills_of_gateway_recorder_and_broker_clients_table_and_lake_agree() {
    let Some(mut broker) = Broker::start(None) else { return };
    let kafka = kafka(&broker);
    crash(kills(FEWEST_KILLS / 2), &Stack::new(&kafka), Some(&mut broker), None);
}

#[test]
fn after_kills_over_a_bucket_that_fails_clients_table_and_lake_agree() {
    let Some(mut broker) = Broker::start(None) else { return };
    let s3 = S3::start(None);
    let stack = Stack::on(|dir| s3.section(dir, "lake"), &kafka(&broker));
    // Every answer of the service may be lost, late, or an error; lists are behind.
    s3.faults(&json!([
        { "do": "cut", "share": 0.03 },
        { "do": "500", "share": 0.03 },
        { "do": "503", "share": 0.03 },
        { "do": "lost", "method": "PUT", "share": 0.02, "seconds": 3 },
        { "do": "late", "method": "PUT", "share": 0.02, "seconds": 3 },
        { "do": "lag", "method": "GET", "path": "list-type", "seconds": 5 },
    ]));
    crash(kills(FEWEST_KILLS / 2), &stack, Some(&mut broker), Some(&s3));
}

/// Killed moments ago, or away from the broker, a recorder has its partitions when the group has noticed that. What it has
/// it stores to the end.
fn has_its_partitions(stack: &Stack) {
    stack.wait_for("the partitions of the recorder", Duration::from_secs(300), || {
        let metrics = get(stack.recorder_admin, "/metrics").unwrap_or_default();
        metrics.contains("bodycam_recorder_kafka_partitions 9\n")
    });
}

fn kafka(broker: &Broker) -> String {
    format!(
        "[kafka]\nbrokers = [\"{}\"]\npartitions = 3\nreplicas = 1\nmin_insync_replicas = 1\ndrain_seconds = 300\n",
        broker.address()
    )
}

/// How many kills; in CI at least `fewest`.
fn kills(fewest: u64) -> u64 {
    let kills = setting("BODYCAM_CRASH_KILLS", fewest);
    let ci = std::env::var_os("CI").is_some_and(|v| !v.is_empty());
    assert!(kills >= fewest || !ci, "{kills} kills say too little: at least {fewest} in CI");
    kills
}

/// Kills parts at random moments; the broker, where there is one, as often as the others.
#[expect(clippy::explicit_write, reason = "libtest keeps what eprintln! writes when a test passes")]
fn crash(kills: u64, stack: &Stack, mut broker: Option<&mut Broker>, s3: Option<&S3>) {
    let seed = setting("BODYCAM_CRASH_SEED", u64::from(std::process::id()));
    // Written past libtest, which keeps what `eprintln!` writes to itself when a test passes: a run can be repeated
    // only by its seed.
    writeln!(std::io::stderr(), "crash test: BODYCAM_CRASH_SEED={seed} BODYCAM_CRASH_KILLS={kills}").unwrap();
    let mut random = Random(seed);
    // Compaction and snapshots are at work all the time, and are killed like the rest.
    let config = std::fs::read_to_string(stack.path("bodycam.toml")).unwrap();
    let busy = "flush_seconds = 1\ncompact_seconds = 1\ncompact_grace_seconds = 2\nsnapshot_commits = 3";
    assert!(config.contains("flush_seconds = 1"));
    std::fs::write(stack.path("bodycam.toml"), config.replace("flush_seconds = 1", busy)).unwrap();
    let mut running: BTreeMap<&str, Process> =
        ["gateway", "recorder"].into_iter().map(|part| (part, stack.start(part))).collect();

    let outage = broker.as_ref().map_or(0, |_| setting("BODYCAM_CRASH_OUTAGE_SECONDS", 5));
    // In a long run what is compared at the end must stay in proportion.
    let clients =
        Clients::start(stack, Duration::from_millis(if outage > 60 || kills > 50 { 10 } else { 0 }));
    // Merges everything at once beside the recorder's own compaction; killed when it is dropped, wherever it is.
    let compact = || {
        let mut command = bodycam();
        command.args(["lake", "compact", "--config"]).arg(stack.path("bodycam.toml"));
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        Process { child }
    };
    let mut compactor = None;
    let mut since_start = 0;
    for kill in 0..kills {
        if random.below(2) == 0 {
            compactor = Some(compact());
        }
        std::thread::sleep(Duration::from_millis(150 + random.below(700)));
        if kill > 0
            && let Some(broker) = broker.as_deref_mut()
            && random.below(3) == 0
        {
            broker.kill();
            std::thread::sleep(Duration::from_millis(random.below(1000)));
            broker.resume();
            continue;
        }
        // The first of all kills is one that interrupts sessions: that has to be declared.
        let part = if kill == 0 || random.below(2) == 0 { "gateway" } else { "recorder" };
        if part == "gateway" {
            clients.reach(stack, since_start + 1);
        }
        running.remove(part).unwrap().kill();
        std::thread::sleep(Duration::from_millis(random.below(300)));
        running.insert(part, stack.start(part));
        if part == "gateway" {
            since_start = clients.acknowledged();
        }
    }
    drop(compactor);
    if let Some(broker) = broker.as_deref_mut() {
        broker.kill();
        std::thread::sleep(Duration::from_secs(outage));
        broker.resume();
    }
    // What was recorded until now has to be stored, however slow the machine is: nothing is added to it.
    let acknowledged = clients.stop();
    let store = match s3 {
        None => Store::open(stack.path("lake").to_str().unwrap()).unwrap(),
        Some(s3) => s3.store("lake", Duration::from_secs(30)),
    };
    assert!(running.remove("gateway").unwrap().terminate().success(), "{}", stack.log("gateway"));
    if broker.is_some() {
        has_its_partitions(stack);
    }
    let ended = running.remove("recorder").unwrap().terminate();
    assert!(ended.success(), "{ended}\n{}", stack.log("recorder"));
    // A recorder that is killed again and again may not have come to compact anything.
    let compaction = stack.run(&["lake", "compact"]);
    assert!(compaction.status.success(), "{}", String::from_utf8_lossy(&compaction.stderr));

    let table = table(stack);
    if let Some(s3) = s3 {
        let applied = s3.applied();
        assert!(applied.iter().all(|times| *times > 0), "seed {seed}: faults that never came: {applied:?}");
        s3.heal();
    }
    let recorded = recorded(stack, bodycam());
    assert!(acknowledged.len() > 100, "only {} statements were acknowledged", acknowledged.len());
    agree(&acknowledged, &table, &recorded, &format!("seed {seed}: "));

    writeln!(
        std::io::stderr(),
        "crash test: seed {seed}, {kills} kills, {outage} s without a broker: {} statements acknowledged, {} in the table, {} \
         recorded",
        acknowledged.len(),
        table.len(),
        recorded.len()
    )
    .unwrap();
    let (code, report) = stack.verify();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    assert_eq!(code, 3, "seed {seed}: crashes are declared, nothing is tampered: {report:#}");
    runtime.block_on(async {
        let lake = Lake::open(store.clone()).await.unwrap();
        assert!(lake.state().all_files().any(|f| f.path.contains("/compaction-")), "nothing was compacted");
        if let Some(broker) = broker {
            topics_agree(&broker.address(), lake.state()).await;
        }
        for (table, key) in [
            (Table::Events(Family::Session), vec!["hash"]),
            (Table::Events(Family::Sql), vec!["hash"]),
            (Table::Events(Family::Control), vec!["hash"]),
            (Table::Events(Family::Ledger), vec!["producer", "seq"]),
            (Table::Content, vec!["session_id", "content_no", "chunk_index"]),
            (Table::Templates, vec!["fingerprint"]),
        ] {
            let (rows, repeated) = repeated(&lake, table, &key).await;
            assert!(rows > 0 || table == Table::Events(Family::Control), "no rows of {}", table.name());
            assert_eq!(repeated, 0, "seed {seed}: rows of {} stand twice in the lake", table.name());
        }
        assert!(store.exists("snapshots/newest.json").await.unwrap(), "no snapshot was written");
        let walked = Lake::open_from_commits(store).await.unwrap();
        let paths = |lake: &Lake| lake.state().all_files().map(|f| f.path.clone()).collect::<Vec<_>>();
        assert_eq!(paths(&lake), paths(&walked), "the snapshot is not what the commits say");
    });
}

/// The topics, read from their start by a group of its own, hold of every stream what the lake holds, and no more.
async fn topics_agree(broker: &str, lake: &LakeState) {
    let config = KafkaConfig {
        group: "auditor".to_owned(),
        partitions: 3,
        replicas: 1,
        min_insync_replicas: 1,
        ..KafkaConfig::at(&[broker])
    };
    let bus = KafkaBus::open(Kafka::new(config, None)).unwrap();
    bus.holds(BTreeMap::new()).unwrap();
    let of_gateways = lake.streams.iter().filter(|s| s.stream.as_str().starts_with("gw-"));
    let in_lake: BTreeMap<StreamId, i64> = of_gateways
        .map(|s| (s.stream.as_str().parse().unwrap(), i64::try_from(s.position).unwrap()))
        .collect();
    let deadline = std::time::Instant::now() + Duration::from_secs(120);
    while in_lake.keys().any(|stream| !bus.streams().unwrap().contains(stream)) {
        if bus.asks().unwrap() {
            bus.holds(BTreeMap::new()).unwrap();
        }
        assert!(
            std::time::Instant::now() < deadline,
            "of {in_lake:?} Kafka has {:?}",
            bus.streams().unwrap()
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(bus.streams().unwrap().len(), in_lake.len(), "streams that the lake has not");
    // Together: a stream that nobody reads would hold up those beside it.
    futures::future::join_all(in_lake.iter().map(|(stream, to)| {
        let mut subscription = bus.subscribe(stream, 0).unwrap();
        async move {
            while subscription.position() < *to {
                let next = tokio::time::timeout(Duration::from_secs(120), subscription.next(1 << 20)).await;
                next.unwrap_or_else(|_| panic!("{stream} ends at {}, not at {to}", subscription.position()))
                    .unwrap();
            }
            assert_eq!(subscription.position(), *to, "{stream}");
            let more = tokio::time::timeout(Duration::from_secs(2), subscription.next(1)).await;
            assert!(more.is_err(), "{stream}: the lake lacks what comes at {to}");
        }
    }))
    .await;
}

/// Rows of a table, and how many of them have the key of another one.
async fn repeated(lake: &Lake, table: Table, key: &[&str]) -> (usize, usize) {
    let (view, filter) = (lake.view(), Filter::all().with_columns(key));
    let batches: Vec<_> = view.read(table, &filter).try_collect().await.unwrap();
    let (mut rows, mut seen) = (0, BTreeSet::new());
    for (_, batch) in batches {
        for row in 0..batch.num_rows() {
            rows += 1;
            seen.insert(format!("{:?}", batch.slice(row, 1).columns()));
        }
    }
    (rows, rows - seen.len())
}

/// Clients, table and lake agree.
fn agree(acknowledged: &BTreeSet<i64>, table: &BTreeSet<i64>, recorded: &BTreeSet<i64>, run: &str) {
    let lost: Vec<_> = acknowledged.difference(table).take(5).collect();
    assert!(lost.is_empty(), "{run}acknowledged but not in the table: {lost:?}");
    let unrecorded: Vec<_> = table.difference(recorded).take(5).collect();
    assert!(unrecorded.is_empty(), "{run}in the table but not in the lake: {unrecorded:?}");
}

/// The nonces in the target's table.
fn table(stack: &Stack) -> BTreeSet<i64> {
    stack.direct("SELECT nonce FROM nonces").lines().map(|line| line.parse().unwrap()).collect()
}

/// The nonces in the text of all recorded statements, as this command reads the lake.
fn recorded(stack: &Stack, mut bodycam: Command) -> BTreeSet<i64> {
    let sql = "SELECT text FROM content WHERE content_kind = 'sql-text' AND text LIKE 'INSERT INTO nonces VALUES (%'";
    bodycam.args(["query", sql, "--format", "csv", "--config"]).arg(stack.path("bodycam.toml"));
    let output = bodycam.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().filter_map(|l| l.split(['(', ')']).nth(1)?.parse().ok()).collect()
}
