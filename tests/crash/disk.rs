//! Disks that are full: the lake's, and the spool's while Kafka is away. Nothing is lost, and nothing passes unrecorded.

use std::time::Duration;

use super::clients::Clients;
use super::{agree, has_its_partitions, kafka, recorded, table};
use crate::support::broker::Broker;
use crate::support::disk::SmallDisk;
use crate::support::stack::{Stack, get};

/// Between two statements of a client.
const PAUSE: Duration = Duration::from_millis(5);

#[test]
fn a_full_disk_under_the_lake_holds_up_the_recorder_and_nothing_else() {
    let stack = Stack::new("");
    let disk = SmallDisk::at(stack.path("lake"), 32);
    let gateway = stack.start("gateway");
    let recorder = stack.start_by(disk.bodycam(), "recorder");
    let clients = Clients::start(&stack, PAUSE);
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
    agree(&acknowledged, &table(&stack), &recorded(&stack, disk.bodycam()), "");
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
    let clients = Clients::start(&stack, PAUSE);
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
    agree(&acknowledged, &table(&stack), &recorded(&stack, disk.bodycam()), "");
    let (code, report) = stack.verify();
    assert_eq!(code, 4, "complete: {report:#}");
}
