//! Who may come in, while a gateway runs: tokens, contracts, the roster in the configuration, the state store.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use bodycam_record::kinds::Body;

use crate::support::egress::{Egress, close_reasons, closed, decisions, origin, read_to_end};
use crate::support::gateway::Gateway;
use crate::support::postgres::shared;
use crate::support::stack::{Stack, signal};

/// A server that sends back what it gets.
fn echo() -> SocketAddr {
    origin(|mut stream| {
        let mut buf = [0; 4096];
        while let Ok(n @ 1..) = stream.read(&mut buf) {
            if stream.write_all(&buf[..n]).is_err() {
                return;
            }
        }
    })
}

/// Opens a tunnel through `proxy` and sees it work.
fn tunnel(proxy: SocketAddr, token: &str, to: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(proxy).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let credential = Egress::credential(token);
    write!(stream, "CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n{credential}\r\n").unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        answer.push(byte[0]);
    }
    assert!(answer.starts_with(b"HTTP/1.1 200 "), "{}", answer.escape_ascii());
    assert!(works(&mut stream));
    stream
}

fn works(stream: &mut TcpStream) -> bool {
    let mut back = [0];
    stream.write_all(b"x").is_ok() && stream.read_exact(&mut back).is_ok()
}

#[test]
fn an_expired_token_and_an_ended_contract_close_what_is_open_and_the_record_says_which() {
    const OPEN: &[&str] = &["opaque:127.0.0.1:*"];
    let (echo, egress) = (echo(), Egress::start(OPEN));
    let mut short = tunnel(egress.address, &egress.token_for("robot", Duration::from_secs(3)), echo);
    assert_eq!(read_to_end(&mut short), "");
    let token = egress.token("robot");
    egress.contract(OPEN, Duration::from_secs(3));
    let mut contracted = tunnel(egress.address, &token, echo);
    assert_eq!(read_to_end(&mut contracted), "");
    let events = egress.closed(2);
    let outcomes: Vec<_> = closed(&events).iter().map(|c| c.outcome.clone()).collect();
    assert_eq!(outcomes, ["expired", "contract-over"]);
    assert_eq!(decisions(&events), ["expired", "contract-over"]);
    assert_eq!(close_reasons(&events), ["expired", "ended"]);
}

#[test]
fn one_credential_from_two_addresses_is_visible() {
    let egress = Egress::start(&["127.0.0.1:*"]);
    let (token, other) = (egress.token("robot"), egress.token("robot"));
    for (token, from) in
        [(&token, "127.0.0.1"), (&token, "127.0.0.2"), (&token, "127.0.0.1"), (&other, "127.0.0.3")]
    {
        let mut curl = egress.client("curl", token);
        curl.args(["-sS", "--interface", from, "http://unlisted.example/"]);
        let answer = String::from_utf8(curl.output().unwrap().stdout).unwrap();
        assert!(answer.contains("host-not-allowed"), "{answer}");
    }
    let events = egress.closed(4);
    let opened = events.iter().filter_map(|e| match &e.body {
        Body::SessionOpened(opened) => Some((opened.credential, opened.credential_addresses)),
        _ => None,
    });
    let opened: Vec<_> = opened.collect();
    let counts: Vec<_> = opened.iter().map(|(_, addresses)| *addresses).collect();
    assert_eq!(counts, [1, 2, 2, 1]);
    assert!(opened[0].0 == opened[1].0 && opened[0].0 != opened[3].0);
}

#[test]
fn every_live_token_of_a_principal_logs_in_over_scram_as_itself() {
    let gateway = Gateway::before(shared());
    let tokens: Vec<_> = (0..3).map(|_| gateway.token("robot")).collect();
    let login = |token: &str| {
        let mut psql = gateway.client("psql", "robot", "postgres");
        psql.env("PGPASSWORD", token).args(["-X", "-A", "-t", "-c", "SELECT 'in'"]).output().unwrap()
    };
    for token in &tokens {
        let output = login(token);
        assert_eq!(output.stdout, b"in\n", "{}", String::from_utf8_lossy(&output.stderr));
    }
    gateway.revoke(&tokens[1]);
    assert!(!login(&tokens[1]).status.success());
    assert!(login(&tokens[0]).status.success() && login(&tokens[2]).status.success());
    gateway.wait_closed();
    let mut credentials: Vec<_> = gateway
        .events()
        .iter()
        .filter_map(|e| match &e.body {
            Body::SessionOpened(opened) if opened.auth_method == "scram-sha-256" => Some(opened.credential),
            _ => None,
        })
        .collect();
    assert_eq!(credentials.len(), 5);
    credentials.sort();
    credentials.dedup();
    assert_eq!(credentials.len(), 3, "each token is a credential of its own");
}

#[test]
fn a_store_that_is_gone_or_garbled_or_another_lets_nobody_in_who_is_not_in_it() {
    let garbled: &[u8] = &[b'?'; 8192];
    for content in [None, Some(garbled)] {
        let egress = Egress::start(&["127.0.0.1:*"]);
        let credential = Egress::credential(&egress.token("robot"));
        let ask = || {
            let head = "GET http://unlisted.example/ HTTP/1.1\r\nHost: unlisted.example\r\n";
            egress.exchange(format!("{head}{credential}Connection: close\r\n\r\n").as_bytes())
        };
        assert!(ask().starts_with("HTTP/1.1 403 "), "the token is good");
        for name in ["state.db", "state.db-wal", "state.db-shm"] {
            std::fs::remove_file(egress.dir.path().join(name)).unwrap();
        }
        if let Some(content) = content {
            let path = egress.dir.path().join("state.db");
            std::fs::write(&path, content).unwrap();
            std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        }
        std::thread::sleep(Duration::from_secs(7));
        assert!(ask().starts_with("HTTP/1.1 407 "), "five seconds without a store are over");
        assert!(decisions(&egress.closed(2)).contains(&"store-unavailable".to_owned()));
    }
}

#[test]
fn a_principal_that_is_disabled_in_the_file_loses_its_open_sessions() {
    let stack = Stack::new("");
    let path = stack.path("bodycam.toml");
    let write = |change: &dyn Fn(String) -> String| {
        std::fs::write(&path, change(std::fs::read_to_string(&path).unwrap())).unwrap();
    };
    write(&|text| {
        text.replace("[postgres]", "[postgres]\nrecheck_seconds = 1")
            .replace("[http]", "[http]\nrecheck_seconds = 1")
            .replace("\"127.0.0.1:*\"", "\"opaque:127.0.0.1:*\"")
    });
    let up = stack.start("up");
    let (robot, ada) = (stack.token("robot"), stack.token("ada"));
    let psql = Command::new("psql")
        .args(["-X", "-h", "127.0.0.1", "-U", "robot", "-d", "app", "-p", &stack.postgres.port().to_string()])
        .args(["-c", "SELECT pg_sleep(60)"])
        .env("PGPASSWORD", &robot)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut open = tunnel(stack.http, &robot, echo());
    let limit = Duration::from_secs(20);
    let logged = |event: &str| stack.log("up").contains(event);

    // A file that is not usable as a whole changes nothing.
    let disable = "kind = \"agent\"\ndisabled = true";
    write(&|text| text.replace("kind = \"agent\"", disable) + "\n[nonsense]\n");
    stack.wait_for("the refusal of the file", limit, || logged("config.refused"));
    assert!(works(&mut open) && !logged("config.principals"));

    // Nor does one with what would do nothing.
    let refusals = || stack.log("up").matches("config.refused").count();
    let before = refusals();
    let (whole, idle) = ("targets = [\"*\"]\negress", "targets = [\"*\", \"*\"]\negress");
    write(&|text| text.replace("\n[nonsense]\n", "\n").replace(whole, idle));
    stack.wait_for("the refusal of a list", limit, || refusals() > before);
    assert!(stack.log("up").contains("'*' appears twice"), "{}", stack.log("up"));
    assert!(works(&mut open) && !logged("config.principals"));
    write(&|text| text.replace(idle, whole));

    // What waits for a restart is said; the principals come into force.
    write(&|text| text.replace("cores = 2", "cores = 1"));
    signal(up.child.id(), "HUP");
    stack.wait_for("the new roster", limit, || logged("config.principals"));
    assert!(logged("config.restart") && stack.log("up").contains("gateway"));
    assert_eq!(read_to_end(&mut open), "");
    let output = psql.wait_with_output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && message.contains("the principal is disabled"), "{message}");
    assert!(!stack.psql("robot", &robot, "SELECT 1").status.success());
    assert!(stack.psql("ada", &ada, "SELECT 1").status.success(), "{}", stack.log("up"));

    // And back, without a signal.
    write(&|text| text.replace("\ndisabled = true", ""));
    stack.wait_for("the old roster", limit, || stack.psql("robot", &robot, "SELECT 1").status.success());
    assert!(up.terminate().success(), "{}", stack.log("up"));
    let sql = "SELECT reason, count(*) AS n FROM control WHERE subject = 'session' GROUP BY reason";
    let reasons = stack.run(&["query", sql, "--format", "csv"]);
    let reasons = String::from_utf8_lossy(&[reasons.stdout, reasons.stderr].concat()).into_owned();
    assert_eq!(reasons.lines().skip(1).collect::<Vec<_>>(), ["disabled,2"], "{reasons}");
}
