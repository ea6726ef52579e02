//! What Kafka lost before a recorder read it: refused until that is acknowledged, then declared by the recorder and told
//! by the verifier, with its exact range. Offsets that somebody set lose nothing.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::{Offset, TopicPartitionList};

use super::{count, metric, section};
use crate::support::broker::Broker;
use crate::support::stack::{Process, Stack, get};

const EVENTS: &str = "bodycam.events";
const PARTITIONS: i32 = 3;

struct Scene {
    broker: Broker,
    stack: Stack,
    token: String,
    runtime: tokio::runtime::Runtime,
}

impl Scene {
    /// With one lane, so that it is known which stream has what.
    fn new() -> Option<Self> {
        let broker = Broker::start(None)?;
        let stack = Stack::new(&section(&broker));
        let config = std::fs::read_to_string(stack.path("bodycam.toml")).unwrap();
        std::fs::write(stack.path("bodycam.toml"), config.replace("cores = 2", "cores = 1")).unwrap();
        stack.cluster.run("app", "CREATE TABLE notes (n int); GRANT ALL ON notes TO app").unwrap();
        let token = stack.token("robot");
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        Some(Self { broker, stack, token, runtime })
    }

    /// A session that stays open.
    fn session(&self) -> tokio_postgres::Client {
        let mut config = tokio_postgres::Config::new();
        let port = self.stack.postgres.port();
        config.host("127.0.0.1").port(port).user("robot").password(&self.token).dbname("app");
        self.runtime.block_on(async {
            let (session, connection) = config.connect(tokio_postgres::NoTls).await.unwrap();
            tokio::spawn(connection);
            session
        })
    }

    fn insert(&self, session: &tokio_postgres::Client, n: usize) {
        self.runtime.block_on(async {
            for n in 0..n {
                session.batch_execute(&format!("INSERT INTO notes VALUES ({n})")).await.unwrap();
            }
        });
    }

    /// Gateway and recorder at work, and a session that stays open, with so many statements in the lake.
    fn recorded(&self, statements: usize) -> (Process, Process, tokio_postgres::Client) {
        let gateway = self.stack.start("gateway");
        let recorder = self.stack.start("recorder");
        let session = self.session();
        self.insert(&session, statements);
        self.wait_for_statements(i64::try_from(statements).unwrap());
        (gateway, recorder, session)
    }

    fn statements(&self) -> i64 {
        count(&self.stack, "SELECT count(*) FROM statements")
    }

    fn wait_for_statements(&self, n: i64) {
        self.stack.wait_for("the statements in the lake", Duration::from_secs(90), || self.statements() == n);
    }

    /// Waits until everything that the gateway has is in Kafka.
    fn sent(&self) {
        let sent = || metric(&self.stack, "unsent_records") == 0;
        self.stack.wait_for("an empty lag", Duration::from_secs(60), sent);
    }

    fn admin(&self) -> AdminClient<DefaultClientContext> {
        ClientConfig::new().set("bootstrap.servers", self.broker.address()).create().unwrap()
    }

    /// A recorder parks the stream of events, ends with that, and goes on once it is acknowledged.
    fn refused_until_acknowledged(&self) -> Process {
        let recorder = self.stack.start("recorder");
        let parked = || {
            let metrics = get(self.stack.recorder_admin, "/metrics").unwrap_or_default();
            metrics.lines().any(|line| line == "bodycam_recorder_parked_streams 1")
        };
        self.stack.wait_for("a parked stream", Duration::from_secs(60), parked);
        let before = self.statements();
        std::thread::sleep(Duration::from_secs(3));
        assert_eq!(self.statements(), before, "nothing behind the hole is taken");
        assert!(!recorder.terminate().success());
        let log = self.stack.log("recorder");
        assert!(log.contains("were removed before they were read"), "{log}");
        assert!(log.contains("recorder.truncated names 'gw-test/0'"), "{log}");
        let config = std::fs::read_to_string(self.stack.path("bodycam.toml")).unwrap();
        let acknowledged =
            config.replace("flush_seconds = 1", "flush_seconds = 1\ntruncated = [\"gw-test/0\"]");
        std::fs::write(self.stack.path("bodycam.toml"), acknowledged).unwrap();
        self.stack.start("recorder")
    }

    /// What lies behind the hole is stored, `statements` in all; then gateway and recorder stop.
    fn goes_on_behind_the_hole(&self, gateway: Process, statements: i64) {
        let recorder = self.refused_until_acknowledged();
        assert!(gateway.terminate().success(), "{}", self.stack.log("gateway"));
        let stored = || self.statements() >= statements;
        self.stack.wait_for("what lies behind the hole", Duration::from_secs(60), stored);
        assert!(recorder.terminate().success(), "{}", self.stack.log("recorder"));
    }

    /// The range that the recorder says was given up.
    fn given_up(&self) -> (i64, i64) {
        let log = self.stack.log("recorder");
        let line = log.lines().find(|line| line.contains("gap_declared")).unwrap();
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        let of = |field: &str| line["fields"][field].as_i64().unwrap();
        (of("from"), of("to"))
    }

    /// Nothing but declared gaps is found, and this range is named.
    fn is_declared(&self, (from, to): (i64, i64), lost: &str) {
        let (code, report) = self.stack.verify();
        assert_eq!(code, 3, "incomplete, and declared: {report:#}");
        let faults = report["faults"].as_array().unwrap();
        let alarms: Vec<_> = faults
            .iter()
            .filter(|f| !["incomplete", "notice"].contains(&f["gravity"].as_str().unwrap()))
            .collect();
        assert!(alarms.is_empty(), "{alarms:#?}");
        let range = format!("positions {from} to {} of stream gw-test/0", to - 1);
        let declared: Vec<&str> = faults
            .iter()
            .filter(|fault| fault["class"] == "DECLARED_GAP")
            .map(|fault| fault["detail"].as_str().unwrap())
            .collect();
        assert!(
            declared.iter().any(|d| d.starts_with(&range) && d.contains("recorder.truncated")),
            "{declared:#?}"
        );
        assert!(declared.iter().any(|d| d.starts_with(lost) && d.contains(&range)), "{declared:#?}");
    }
}

#[test]
fn records_that_the_broker_removed_before_they_were_read_are_a_declared_gap() {
    let Some(scene) = Scene::new() else { return };
    let (gateway, recorder, session) = scene.recorded(20);
    assert!(recorder.terminate().success(), "{}", scene.stack.log("recorder"));
    // What the log is cut of, up to its end: the middle of one session, and the whole of another.
    scene.insert(&session, 20);
    scene.insert(&scene.session(), 3);
    scene.sent();
    let mut ends = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        ends.add_partition_offset(EVENTS, partition, Offset::End).unwrap();
    }
    let admin = scene.admin();
    scene.runtime.block_on(admin.delete_records(&ends, &AdminOptions::new())).unwrap();
    scene.insert(&session, 20);
    drop(session);
    scene.sent();
    scene.goes_on_behind_the_hole(gateway, 40);
    scene.is_declared(scene.given_up(), "SEQ_GAP: ");
}

#[test]
fn records_of_a_topic_that_was_made_again_before_they_were_read_are_a_declared_gap() {
    let Some(scene) = Scene::new() else { return };
    let gateway = scene.stack.start("gateway");
    let recorder = scene.stack.start("recorder");
    scene.insert(&scene.session(), 10);
    scene.wait_for_statements(10);
    assert!(recorder.terminate().success(), "{}", scene.stack.log("recorder"));
    scene.insert(&scene.session(), 10);
    scene.sent();
    assert!(gateway.terminate().success(), "{}", scene.stack.log("gateway"));
    let admin = scene.admin();
    let deleted = scene.runtime.block_on(admin.delete_topics(&[EVENTS], &AdminOptions::new())).unwrap();
    assert!(deleted.iter().all(Result::is_ok), "{deleted:?}");
    // The gateway makes it again, and its positions go on.
    let gateway = scene.stack.start("gateway");
    scene.insert(&scene.session(), 10);
    scene.sent();
    scene.goes_on_behind_the_hole(gateway, 20);
    scene.is_declared(scene.given_up(), "MISSING_SESSION: ");
}

/// Bytes of the log of each partition of events.
fn logs(broker: &Broker) -> BTreeMap<PathBuf, u64> {
    (0..PARTITIONS)
        .map(|partition| {
            let name = format!("data/{EVENTS}-{partition}/00000000000000000000.log");
            let path = broker.dir.path().join(name);
            let bytes = std::fs::metadata(&path).unwrap().len();
            (path, bytes)
        })
        .collect()
}

/// A power cut: the broker is gone, and of what came after `before` the disk has a third, which ends anywhere.
fn power_cut(broker: &mut Broker, before: &BTreeMap<PathBuf, u64>) {
    broker.kill();
    let mut cut = 0;
    for (path, now) in logs(broker) {
        let kept = before[&path] + (now - before[&path]) / 3;
        cut += now - kept;
        std::fs::File::options().write(true).open(&path).unwrap().set_len(kept).unwrap();
    }
    assert!(cut > 0, "nothing was lost");
    broker.resume();
}

#[test]
fn what_a_broker_acknowledged_and_lost_in_a_power_cut_is_a_declared_gap() {
    let Some(mut scene) = Scene::new() else { return };
    let (gateway, recorder, session) = scene.recorded(20);
    assert!(recorder.terminate().success(), "{}", scene.stack.log("recorder"));
    let before = logs(&scene.broker);
    for _ in 0..10 {
        scene.insert(&session, 5);
        scene.sent();
    }
    power_cut(&mut scene.broker, &before);
    // More than was lost: where the lost records were, others are now.
    scene.insert(&session, 100);
    drop(session);
    scene.sent();
    scene.goes_on_behind_the_hole(gateway, 120);
    assert!((120..170).contains(&scene.statements()), "{}", scene.statements());
    scene.is_declared(scene.given_up(), "SEQ_GAP: ");
}

#[test]
fn what_a_recorder_had_read_before_a_broker_lost_it_is_not_missed() {
    let Some(mut scene) = Scene::new() else { return };
    let (gateway, recorder, session) = scene.recorded(20);
    let before = logs(&scene.broker);
    scene.insert(&session, 50);
    scene.wait_for_statements(70);
    scene.sent();
    power_cut(&mut scene.broker, &before);
    scene.insert(&session, 10);
    scene.wait_for_statements(80);
    // Another one begins where the log is another one than it was.
    assert!(recorder.terminate().success(), "{}", scene.stack.log("recorder"));
    scene.insert(&session, 100);
    drop(session);
    scene.sent();
    let recorder = scene.stack.start("recorder");
    scene.wait_for_statements(180);
    assert!(gateway.terminate().success(), "{}", scene.stack.log("gateway"));
    assert!(recorder.terminate().success(), "{}", scene.stack.log("recorder"));
    let (code, report) = scene.stack.verify();
    assert_eq!(code, 4, "complete: {report:#}");
}

#[test]
fn offsets_that_somebody_set_lose_nothing() {
    let Some(scene) = Scene::new() else { return };
    let gateway = scene.stack.start("gateway");
    let recorder = scene.stack.start("recorder");
    scene.insert(&scene.session(), 10);
    scene.wait_for_statements(10);
    assert!(recorder.terminate().success(), "{}", scene.stack.log("recorder"));
    scene.insert(&scene.session(), 10);
    scene.sent();
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", scene.broker.address())
        .set("group.id", "bodycam-recorder")
        .create()
        .unwrap();
    let mut ends = TopicPartitionList::new();
    for topic in [EVENTS, "bodycam.keys", "bodycam.ledger"] {
        for partition in 0..PARTITIONS {
            let (_, end) = consumer.fetch_watermarks(topic, partition, Duration::from_secs(20)).unwrap();
            ends.add_partition_offset(topic, partition, Offset::Offset(end)).unwrap();
        }
    }
    consumer.commit(&ends, CommitMode::Sync).unwrap();
    let recorder = scene.stack.start("recorder");
    scene.wait_for_statements(20);
    assert!(gateway.terminate().success(), "{}", scene.stack.log("gateway"));
    assert!(recorder.terminate().success(), "{}", scene.stack.log("recorder"));
    let (code, report) = scene.stack.verify();
    assert_eq!(code, 4, "complete: {report:#}");
}
