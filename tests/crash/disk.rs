//! Disks that are full: the lake's, and the spool's while Kafka is away. Nothing is lost, and nothing passes unrecorded.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{CLIENTS, Shared, client, has_its_partitions, kafka, recorded, table};
use crate::support::broker::Broker;
use crate::support::disk::SmallDisk;
use crate::support::stack::{Stack, get};

/// Busy clients of a stack.
struct Clients {
    runtime: tokio::runtime::Runtime,
    shared: Arc<Shared>,
    tasks: Vec<tokio::task::JoinHandle<Vec<i64>>>,
}

impl Clients {
    fn start(stack: &Stack) -> Self {
        stack.cluster.run("app", "CREATE TABLE nonces (nonce bigint); GRANT ALL ON nonces TO app").unwrap();
        let token = stack.token("robot");
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let shared = Arc::new(Shared::default());
        let pause = Duration::from_millis(5);
        let tasks = (0..CLIENTS)
            .map(|n| {
                let (token, shared) = (token.clone(), Arc::clone(&shared));
                runtime.spawn(client(n, stack.postgres.port(), token, pause, shared))
            })
            .collect();
        Self { runtime, shared, tasks }
    }

    fn acknowledged(&self) -> u64 {
        self.shared.acknowledged.load(Ordering::SeqCst)
    }

    /// Waits until so many statements more were acknowledged.
    fn go_on(&self, stack: &Stack, statements: u64) {
        let before = self.acknowledged();
        stack.wait_for("statements", Duration::from_secs(60), || self.acknowledged() >= before + statements);
    }

    /// Stops them: what they saw acknowledged.
    fn stop(self) -> BTreeSet<i64> {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.runtime.block_on(async {
            let mut all = BTreeSet::new();
            for task in self.tasks {
                all.extend(task.await.unwrap());
            }
            all
        })
    }
}

/// Clients, table and lake agree.
fn agree(acknowledged: &BTreeSet<i64>, table: &BTreeSet<i64>, recorded: &BTreeSet<i64>) {
    let lost: Vec<_> = acknowledged.difference(table).take(5).collect();
    assert!(lost.is_empty(), "acknowledged but not in the table: {lost:?}");
    let unrecorded: Vec<_> = table.difference(recorded).take(5).collect();
    assert!(unrecorded.is_empty(), "in the table but not in the lake: {unrecorded:?}");
}

#[test]
fn a_full_disk_under_the_lake_holds_up_the_recorder_and_nothing_else() {
    let stack = Stack::new("");
    let disk = SmallDisk::at(stack.path("lake"), 32);
    let gateway = stack.start("gateway");
    let recorder = stack.start_by(disk.bodycam(), "recorder");
    let clients = Clients::start(&stack);
    clients.go_on(&stack, 50);
    stack.wait_for("a commit", Duration::from_secs(30), || disk.seen().join("commits").exists());
    disk.fill();
    stack.wait_for("a recorder that says what is wrong", Duration::from_secs(60), || {
        let ready = get(stack.recorder_admin, "/readyz").unwrap_or_default();
        ready.contains("503") && ready.contains("No space left on device")
    });
    // The spool holds what the lake does not.
    clients.go_on(&stack, 200);
    // What a kill leaves half written on a full disk hurts nobody.
    recorder.kill();
    disk.free();
    let recorder = stack.start_by(disk.bodycam(), "recorder");
    clients.go_on(&stack, 50);
    let acknowledged = clients.stop();
    assert!(gateway.terminate().success(), "{}", stack.log("gateway"));
    assert!(recorder.terminate().success(), "{}", stack.log("recorder"));
    agree(&acknowledged, &table(&stack), &recorded(&stack, disk.bodycam()));
    let (code, report) = stack.verify_by(disk.bodycam());
    assert_eq!(code, 4, "complete: {report:#}");
}

#[test]
fn a_spool_that_fills_its_disk_while_kafka_is_away_closes_and_drains_afterwards() {
    let Some(mut broker) = Broker::start(None) else { return };
    let stack = Stack::new(&kafka(&broker));
    let config = std::fs::read_to_string(stack.path("bodycam.toml")).unwrap();
    let impatient = config.replace("[record]", "[record]\nhold_seconds = 1");
    assert_ne!(impatient, config);
    std::fs::write(stack.path("bodycam.toml"), impatient).unwrap();
    let disk = SmallDisk::at(stack.path("spool"), 24);
    let gateway = stack.start_by(disk.bodycam(), "gateway");
    let recorder = stack.start("recorder");
    let clients = Clients::start(&stack);
    clients.go_on(&stack, 50);
    broker.kill();
    clients.go_on(&stack, 50);
    disk.fill();
    stack.wait_for("a gateway that says what is wrong", Duration::from_secs(120), || {
        let ready = get(stack.admin, "/readyz").unwrap_or_default();
        ready.contains("503") && ready.contains("No space left on device")
    });
    // Within the time that it holds traffic back every session is closed; then nothing passes.
    std::thread::sleep(Duration::from_secs(3));
    let closed = (clients.acknowledged(), table(&stack).len());
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!((clients.acknowledged(), table(&stack).len()), closed, "something passed unrecorded");
    disk.free();
    broker.resume();
    clients.go_on(&stack, 50);
    let acknowledged = clients.stop();
    assert!(gateway.terminate().success(), "{}", stack.log("gateway"));
    has_its_partitions(&stack);
    assert!(recorder.terminate().success(), "{}", stack.log("recorder"));
    agree(&acknowledged, &table(&stack), &recorded(&stack, disk.bodycam()));
    let (code, report) = stack.verify();
    assert_eq!(code, 4, "complete: {report:#}");
}
