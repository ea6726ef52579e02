//! `bodycam up`, `gateway` and `recorder` as processes: readiness, signals, settings that are refused.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use base64::Engine as _;

use crate::support::stack::{Stack, bodycam, get, signal};

/// A client that has sent part of a request and then says nothing.
fn silent_request(stack: &Stack, token: &str) -> TcpStream {
    let mut stream = TcpStream::connect(stack.http).unwrap();
    let credentials = base64::engine::general_purpose::STANDARD.encode(format!("robot:{token}"));
    write!(
        stream,
        "POST http://127.0.0.1:9/ HTTP/1.1\r\nHost: 127.0.0.1:9\r\nProxy-Authorization: Basic {credentials}\r\n\
         Content-Length: 10\r\n\r\n12345"
    )
    .unwrap();
    stream
}

#[test]
fn metrics_tell_of_both_wires_and_of_the_recorder() {
    let stack = Stack::new("");
    let up = stack.start("up");
    let token = stack.token("robot");
    assert!(stack.psql("robot", &token, "SELECT 1").status.success());
    let metrics = get(stack.admin, "/metrics").unwrap();
    for name in [
        "bodycam_gateway_sessions_accepted_total 1",
        "bodycam_http_connections_total 0",
        "bodycam_recorder_failing 0",
    ] {
        assert!(metrics.contains(name), "no '{name}' in:\n{metrics}");
    }
    let body = metrics.split_once("\r\n\r\n").unwrap().1;
    for line in body.lines().filter(|l| !l.starts_with('#')) {
        let (_, value) = line.rsplit_once(' ').unwrap();
        assert!(value.parse::<f64>().is_ok(), "{line}");
    }
    assert!(up.terminate().success(), "{}", stack.log("up"));
}

#[test]
fn a_second_signal_ends_open_sessions_at_once_and_seals_them() {
    let stack = Stack::new("");
    let config = std::fs::read_to_string(stack.path("bodycam.toml")).unwrap();
    let patient = config.replace("drain_seconds = 5", "drain_seconds = 120");
    assert_ne!(patient, config);
    std::fs::write(stack.path("bodycam.toml"), patient).unwrap();
    let up = stack.start("up");
    let token = stack.token("robot");
    let mut open = silent_request(&stack, &token);
    stack.wait_for("the open session", Duration::from_secs(10), || {
        get(stack.admin, "/metrics").unwrap().contains("bodycam_http_connections_open 1")
    });
    let began = Instant::now();
    signal(up.child.id(), "TERM");
    stack.wait_for("readiness to end", Duration::from_secs(10), || {
        get(stack.admin, "/readyz").is_none_or(|answer| answer.contains("503"))
    });
    assert!(up.terminate().success(), "{}", stack.log("up"));
    // The wait for the open session would have been two minutes.
    assert!(began.elapsed() < Duration::from_secs(60));
    let _ = open.read(&mut [0; 64]);
    let (code, report) = stack.verify();
    assert_eq!(code, 4, "{report:#}");
}

#[test]
fn a_recorder_that_fails_is_not_ready_and_says_why() {
    let stack = Stack::new("");
    let gateway = stack.start("gateway");
    let recorder = stack.start("recorder");
    std::fs::rename(stack.path("lake"), stack.path("lake.away")).unwrap();
    std::fs::write(stack.path("lake"), "no directory").unwrap();
    let token = stack.token("robot");
    assert!(
        stack.psql("robot", &token, "SELECT 1").status.success(),
        "the spool holds what the lake does not"
    );
    stack.wait_for("the recorder to be not ready", Duration::from_secs(30), || {
        get(stack.recorder_admin, "/readyz").is_some_and(|answer| answer.contains("503"))
    });
    assert!(get(stack.admin, "/readyz").unwrap().contains(" 200 "), "the gateway goes on");
    std::fs::remove_file(stack.path("lake")).unwrap();
    std::fs::rename(stack.path("lake.away"), stack.path("lake")).unwrap();
    stack.wait_for("the recorder to be ready again", Duration::from_secs(90), || {
        get(stack.recorder_admin, "/readyz").is_some_and(|answer| answer.contains(" 200 "))
    });
    assert!(gateway.terminate().success(), "{}", stack.log("gateway"));
    assert!(recorder.terminate().success(), "{}", stack.log("recorder"));
    let (code, report) = stack.verify();
    assert_eq!(code, 4, "{report:#}");
}

#[test]
fn settings_that_would_do_nothing_or_cannot_work_are_refused_by_name() {
    let stack = Stack::new("");
    let config = std::fs::read_to_string(stack.path("bodycam.toml")).unwrap();
    let admin = format!("listen = \"{}\"\nrecorder", stack.admin);
    let cases = [
        (admin.as_str(), format!("listen = \"{}\"\nrecorder", stack.http), "[admin] listen"),
        ("file:tenant.key", "aa".repeat(32), "not the key"),
        ("file:tenant.key", "env:BODYCAM_TEST_NOT_SET".to_owned(), "BODYCAM_TEST_NOT_SET"),
        ("url = \"lake\"", "url = \"s3://bucket\"".to_owned(), "s3://"),
        ("url = \"lake\"", "url = \"\"".to_owned(), "[lake] url"),
        ("[spool]\n", "[spool]\nmax_bytes = 0\n".to_owned(), "max_bytes"),
        ("producer = \"gw-test\"", "producer = \"../up\"".to_owned(), "producer"),
        ("cores = 2", "cores = 2\nmax_connections = 0".to_owned(), "max_connections"),
        ("flush_seconds = 1", "flush_second = 1".to_owned(), "flush_second"),
        ("[admin]", "[detect]\nrules_dir = \"nowhere\"\n[admin]".to_owned(), "nowhere"),
        ("targets = [\"*\"]", "targets = [\"crm\"]".to_owned(), "crm"),
    ];
    for (from, to, named) in cases {
        let changed = config.replacen(from, &to, 1);
        assert_ne!(changed, config, "{from}");
        std::fs::write(stack.path("changed.toml"), changed).unwrap();
        let output =
            bodycam().args(["config", "check", "-c"]).arg(stack.path("changed.toml")).output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{to}: {error}");
        assert!(error.contains(named) && error.contains("changed.toml"), "{to}: {error}");
        assert!(!error.contains(&"aa".repeat(32)), "the key is not repeated: {error}");
    }
    // A variable of somebody else's may hold any bytes.
    use std::os::unix::ffi::OsStrExt;
    let bytes = std::ffi::OsStr::from_bytes(b"\xff");
    let output = bodycam()
        .env("FOREIGN", bytes)
        .args(["config", "check", "-c"])
        .arg(stack.path("bodycam.toml"))
        .output();
    assert!(output.unwrap().status.success());
}
