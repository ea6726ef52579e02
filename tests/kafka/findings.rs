//! Detection in a process of its own, as a deployment runs it: it says how it is, and tells Kafka what it finds.

use std::io::Read as _;
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rdkafka::Message as _;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};

use super::section;
use crate::support::broker::Broker;
use crate::support::ports::free_port;
use crate::support::stack::{Process, Stack, bodycam, get};

const LIMIT: Duration = Duration::from_secs(90);

#[test]
fn detection_alone_says_how_it_is_and_tells_kafka_each_finding_under_its_id() {
    let Some(broker) = Broker::start(None) else { return };
    let detect = "[detect]\ninterval_seconds = 1\n[detect.params.EXF-002]\nmin_rows = 500\n";
    let stack = Stack::new(&format!("{}{detect}", section(&broker)));
    stack.cluster.run("app", "CREATE TABLE customers AS SELECT n FROM generate_series(1, 1000) n").unwrap();
    stack.cluster.run("app", "GRANT SELECT ON customers TO app").unwrap();
    let gateway = stack.start("gateway");
    let recorder = stack.start("recorder");
    let listen = SocketAddr::from(([127, 0, 0, 1], free_port().unwrap()));
    let mut watch = bodycam();
    watch.args(["detect", "watch", "--json", "--config"]).arg(stack.path("bodycam.toml"));
    watch.env("BODYCAM__ADMIN__DETECT_LISTEN", listen.to_string());
    let child = watch.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut watch = Process { child };
    stack.wait_for("the first look", LIMIT, || {
        get(listen, "/readyz").is_some_and(|answer| answer.ends_with("\r\n\r\nready\n"))
    });
    assert!(get(listen, "/healthz").unwrap().starts_with("HTTP/1.1 200"));

    let output = stack.psql("robot", &stack.token("robot"), "SELECT n FROM customers");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let found = "\nbodycam_detect_findings_total{rule=\"EXF-002\"} 1\n";
    stack.wait_for("the finding", LIMIT, || get(listen, "/metrics").unwrap().contains(found));
    let metrics = get(listen, "/metrics").unwrap();
    for name in [
        "looks_total",
        "looks_failed_total",
        "look_milliseconds",
        "last_look_seconds",
        "rules_failing",
        "windows_evaluated_total",
        "windows_recorded_total",
        "windows_of_others",
        "lag_seconds",
        "claims_held",
        "findings_not_sent_total",
    ] {
        assert!(metrics.contains(&format!("\nbodycam_detect_{name} ")), "{name} is not in {metrics}");
    }
    assert!(!metrics.contains("\nbodycam_detect_last_look_seconds 0\n"), "{metrics}");
    assert!(metrics.contains("\nbodycam_detect_findings_not_sent_total 0\n"), "{metrics}");

    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", broker.address())
        .set("group.id", "readers of findings")
        .set("auto.offset.reset", "earliest")
        .create()
        .unwrap();
    consumer.subscribe(&["bodycam.findings"]).unwrap();
    let deadline = Instant::now() + LIMIT;
    let sent = loop {
        assert!(Instant::now() < deadline, "no finding on the topic");
        if let Some(Ok(message)) = consumer.poll(Duration::from_millis(200)) {
            let finding: serde_json::Value = serde_json::from_slice(message.payload().unwrap()).unwrap();
            if finding["rule"] == "EXF-002" {
                assert_eq!(message.key(), finding["id"].as_str().map(str::as_bytes));
                break finding;
            }
        }
    };
    assert_eq!(sent["measure"], 1000);

    let mut out = watch.child.stdout.take().unwrap();
    let mut err = watch.child.stderr.take().unwrap();
    assert!(watch.terminate().success());
    let (mut told, mut log) = (String::new(), String::new());
    out.read_to_string(&mut told).unwrap();
    err.read_to_string(&mut log).unwrap();
    let told: Vec<serde_json::Value> = told.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(told.iter().any(|finding| finding["id"] == sent["id"]), "standard output has it, too: {told:?}");
    assert!(log.contains("\"event\":\"serving\"") && log.contains(&listen.to_string()), "{log}");
    assert!(gateway.terminate().success() && recorder.terminate().success());
}
