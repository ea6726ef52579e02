//! The whole pipeline over a real Apache Kafka broker: psql → gateway → spool → Kafka → recorder → lake → verify, with
//! the broker away in between.

use std::time::Duration;

use crate::support::broker::Broker;
use crate::support::stack::{Stack, get};

fn section(broker: &Broker) -> String {
    format!(
        "[kafka]\nbrokers = [\"{}\"]\npartitions = 3\nreplicas = 1\nmin_insync_replicas = 1\ndrain_seconds = 30\n",
        broker.address()
    )
}

fn count(stack: &Stack, sql: &str) -> i64 {
    let output = stack.run(&["query", sql, "--format", "csv"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
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
