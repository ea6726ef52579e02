//! The whole pipeline over a real Apache Kafka broker: psql → gateway → spool → Kafka → recorder → lake → verify, with
//! the broker away in between.

use std::time::Duration;

use crate::support::broker::Broker;
use crate::support::stack::{Stack, get};

mod findings;
mod gaps;

fn section(broker: &Broker) -> String {
    format!(
        "[kafka]\nbrokers = [\"{}\"]\npartitions = 3\nreplicas = 1\nmin_insync_replicas = 1\ndrain_seconds = 30\n",
        broker.address()
    )
}

fn count(stack: &Stack, sql: &str) -> i64 {
    let output = stack.run(&["query", sql, "--format", "csv"]);
    let error = String::from_utf8_lossy(&output.stderr);
    // A recorder that is still waiting for its partitions has not begun a lake.
    if error.contains("there is no lake") {
        return 0;
    }
    assert!(output.status.success(), "{error}");
    String::from_utf8(output.stdout).unwrap().lines().nth(1).unwrap().parse().unwrap()
}

/// A metric of the gateway.
fn metric(stack: &Stack, name: &str) -> u64 {
    let text = get(stack.admin, "/metrics").unwrap();
    let line = text.lines().find(|line| line.starts_with(&format!("bodycam_gateway_kafka_{name} ")));
    line.unwrap_or_else(|| panic!("no {name} in\n{text}")).rsplit(' ').next().unwrap().parse().unwrap()
}

#[test]
fn statements_reach_the_lake_over_kafka_through_an_outage_of_the_broker() {
    let Some(mut broker) = Broker::start(None) else { return };
    let stack = Stack::new(&section(&broker));
    let gateway = stack.start("gateway");
    let recorder = stack.start("recorder");
    let token = stack.token("robot");
    let run = |sql: &str| {
        let output = stack.psql("robot", &token, sql);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    run("CREATE TABLE notes (n int)");
    stack.wait_for("a sealed session in the lake", Duration::from_secs(60), || {
        count(&stack, "SELECT count(*) FROM sessions WHERE state = 'sealed'") == 1
    });
    broker.kill();
    for n in 0..5 {
        run(&format!("INSERT INTO notes SELECT {n} FROM generate_series(1, 10)"));
    }
    stack.wait_for("the lag on /metrics", Duration::from_secs(30), || {
        metric(&stack, "unsent_records") > 0 && metric(&stack, "oldest_unsent_seconds") > 0
    });
    // The gateway stops and starts in the outage: what it could not send it still has.
    assert!(gateway.terminate().success(), "{}", stack.log("gateway"));
    let gateway = stack.start("gateway");
    run("SELECT count(*) FROM notes");
    broker.resume();
    stack.wait_for("every session in the lake", Duration::from_secs(90), || {
        count(&stack, "SELECT count(*) FROM sessions WHERE state = 'sealed'") == 7
    });
    stack.wait_for("an empty lag", Duration::from_secs(30), || metric(&stack, "unsent_records") == 0);
    assert!(gateway.terminate().success(), "{}", stack.log("gateway"));
    // STOP was sent before the gateway ended.
    assert!(recorder.terminate().success(), "{}", stack.log("recorder"));
    let (code, report) = stack.verify();
    assert_eq!(code, 4, "consistent, not anchored: {report:#}\n{}", stack.log("recorder"));
    assert_eq!(report["trust"]["producers"][0]["stopped"], true, "{report:#}");
    assert_eq!(count(&stack, "SELECT count(*) FROM statements WHERE main_relation = 'public.notes'"), 6);
}

#[test]
fn a_gateway_refuses_topics_that_would_lose_its_records_and_names_the_line_that_mends_them() {
    let Some(broker) = Broker::start(None) else { return };
    let stack = Stack::new(&section(&broker));
    assert!(stack.start("gateway").terminate().success(), "{}", stack.log("gateway"));
    let config = std::fs::read_to_string(stack.path("bodycam.toml")).unwrap();
    std::fs::write(stack.path("bodycam.toml"), format!("{config}outage_hours = 1000\n")).unwrap();
    for part in ["gateway", "recorder"] {
        let output = stack.run(&[part]);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(
            !output.status.success() && error.contains("--add-config retention.ms=3600000000"),
            "{error}"
        );
    }
    assert!(stack.run(&["config", "check"]).status.success(), "what brokers say is not asked here");
}

#[test]
fn a_gateway_that_lost_its_spool_is_parked_until_that_is_acknowledged() {
    let Some(broker) = Broker::start(None) else { return };
    let stack = Stack::new(&section(&broker));
    let gateway = stack.start("gateway");
    let recorder = stack.start("recorder");
    let token = stack.token("robot");
    let run = |sql: &str| {
        let output = stack.psql("robot", &token, sql);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    let sealed = || count(&stack, "SELECT count(*) FROM sessions WHERE state = 'sealed'");
    run("SELECT 1");
    stack.wait_for("a sealed session in the lake", Duration::from_secs(60), || sealed() == 1);
    assert!(gateway.terminate().success(), "{}", stack.log("gateway"));
    // Its disk is gone; its key was kept elsewhere.
    let home = stack.path("spool/gw-test");
    let key = std::fs::read(home.join("producer.key")).unwrap();
    std::fs::remove_dir_all(stack.path("spool")).unwrap();
    for folder in [stack.path("spool"), home.clone()] {
        std::fs::create_dir(&folder).unwrap();
        std::fs::set_permissions(&folder, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    }
    std::fs::write(home.join("producer.key"), key).unwrap();
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(home.join("producer.key"), private).unwrap();
    let gateway = stack.start("gateway");
    run("SELECT 2");
    let parked = || {
        let metrics = get(stack.recorder_admin, "/metrics").unwrap_or_default();
        let line = metrics.lines().find(|line| line.starts_with("bodycam_recorder_parked_streams "));
        line.is_some_and(|line| !line.ends_with(" 0"))
    };
    stack.wait_for("parked streams on /metrics", Duration::from_secs(60), parked);
    assert_eq!(sealed(), 1, "nothing of the other gateway is taken for this one");
    // The recorder goes on until it is stopped, and says then what to do.
    assert!(!recorder.terminate().success(), "{}", stack.log("recorder"));
    assert!(
        stack.log("recorder").contains("recorder.recreated names 'gw-test/"),
        "{}",
        stack.log("recorder")
    );
    let config = std::fs::read_to_string(stack.path("bodycam.toml")).unwrap();
    let lanes = ["0", "1", "keys", "ledger"].map(|lane| format!("\"gw-test/{lane}\"")).join(", ");
    let acknowledged = format!("flush_seconds = 1\nrecreated = [{lanes}]");
    std::fs::write(stack.path("bodycam.toml"), config.replace("flush_seconds = 1", &acknowledged)).unwrap();
    let recorder = stack.start("recorder");
    stack.wait_for("both sessions in the lake", Duration::from_secs(60), || sealed() == 2);
    assert!(gateway.terminate().success(), "{}", stack.log("gateway"));
    assert!(recorder.terminate().success(), "{}", stack.log("recorder"));
    assert_eq!(count(&stack, "SELECT count(*) FROM statements"), 2, "each once");
    // What the old spool may have had besides is told by the record itself, and by whoever verifies it.
    let (code, report) = stack.verify();
    let faults = report["faults"].as_array().unwrap();
    let declared: Vec<&str> = faults
        .iter()
        .filter(|fault| fault["class"] == "DECLARED_GAP")
        .map(|fault| fault["detail"].as_str().unwrap())
        .filter(|detail| detail.contains("recorder.recreated"))
        .collect();
    for lane in ["0", "keys", "ledger"] {
        let of = format!("of stream gw-test/{lane} on");
        assert!(declared.iter().any(|d| d.contains(&of)), "{lane} {code}: {report:#}");
    }
}
