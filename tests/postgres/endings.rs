//! What must happen at the end of a statement or a session, however busy the wire is.

use std::io::Read;
use std::time::{Duration, Instant};

use bodycam_proxy::postgres::ClientAuth;
use bodycam_record::ContentKind;
use bodycam_record::kinds::Body;

use crate::support::gateway::Setup;
use crate::support::postgres::shared;
use crate::support::wire::{Wire, line, query};

/// Longest wait for what must happen.
const PATIENCE: Duration = Duration::from_secs(20);

fn setup() -> Setup {
    let mut setup = Setup::new(shared());
    setup.postgres.auth = ClientAuth::Token;
    setup
}

/// Reads as fast as it can until the end of the connection.
fn read_to_end(wire: &mut Wire) {
    let (began, mut buffer) = (Instant::now(), vec![0; 1 << 16]);
    while !matches!(wire.stream.read(&mut buffer), Ok(0) | Err(_)) {
        assert!(began.elapsed() < PATIENCE, "the session goes on");
    }
}

#[test]
fn a_cancel_request_that_has_ended_reaches_no_later_statement() {
    let gateway = setup().start();
    let database = shared().database();
    let token = gateway.token("robot");
    let mut wire = Wire::connect(gateway.port);
    wire.hello(
        bodycam_proxy::postgres::codec::startup::Version::V3_0,
        &[("user", "robot"), ("database", &database)],
    );
    wire.read();
    let mut password = Vec::new();
    bodycam_proxy::postgres::codec::frontend::put_password(&mut password, token.as_bytes());
    wire.send(&password);
    let key = wire.until_ready().into_iter().find(|(tag, _)| *tag == b'K').unwrap().1;
    let packet = [&[0, 0, 0, 16, 4, 210, 22, 46][..], &key].concat();
    for round in 0..40 {
        wire.send(&query("SELECT pg_sleep(0.004)"));
        let mut cancel = Wire::connect(gateway.port);
        cancel.send(&packet);
        assert_eq!(cancel.until_end(), "");
        wire.until_ready();
        assert_eq!(wire.query("SELECT 2 FROM pg_sleep(0.01)"), "T D(2) C(SELECT 1) ZI", "round {round}");
    }
}

#[test]
fn a_busy_stream_ends_when_its_principal_is_revoked() {
    let mut setup = setup();
    setup.postgres.recheck_seconds = 1;
    let gateway = setup.start();
    let database = shared().database();
    let token = gateway.token("robot");
    let mut wire = Wire::log_in(gateway.port, "robot", &token, &database);
    wire.send(&query("COPY (SELECT repeat('x', 200), generate_series(1, 2000000000)) TO STDOUT"));
    wire.stream.read_exact(&mut [0; 1 << 16]).unwrap();
    gateway.revoke(&token);
    read_to_end(&mut wire);
    gateway.wait_closed();
    assert!(gateway.story().contains(&"closed revoked".to_owned()));
}

#[test]
fn a_busy_stream_is_cut_when_the_gateway_stops_and_its_statement_has_a_result() {
    let mut setup = setup();
    setup.postgres.drain_seconds = 1;
    let mut gateway = setup.start();
    let database = shared().database();
    let token = gateway.token("robot");
    let mut wire = Wire::log_in(gateway.port, "robot", &token, &database);
    wire.send(&query("COPY (SELECT repeat('x', 200), generate_series(1, 2000000000)) TO STDOUT"));
    wire.stream.read_exact(&mut [0; 1 << 16]).unwrap();
    let reader = std::thread::spawn(move || read_to_end(&mut wire));
    gateway.drain();
    reader.join().unwrap();
    let story = gateway.story();
    assert!(story.contains(&"closed drain".to_owned()), "{story:?}");
    assert!(story.iter().any(|l| l.starts_with("result #1.0 cut")), "{story:?}");
}

#[test]
fn small_copy_messages_share_a_chunk() {
    const ROWS: usize = 50_000;
    let gateway = setup().start();
    let database = shared().database();
    shared().sql(&database, "CREATE TABLE narrow (n int); GRANT ALL ON narrow TO app");
    let token = gateway.token("robot");
    let mut wire = Wire::log_in(gateway.port, "robot", &token, &database);
    wire.send(&query("COPY narrow FROM STDIN"));
    assert_eq!(wire.read().unwrap().0, b'G');
    let data = [&[b'd', 0, 0, 0, 6][..], b"1\n"].concat().repeat(ROWS);
    wire.send(&[&data[..], &[b'c', 0, 0, 0, 4]].concat());
    assert_eq!(line(&wire.until_ready()), format!("C(COPY {ROWS}) ZI"));
    wire.send(&query("COPY narrow TO STDOUT"));
    wire.until_ready();
    drop(wire);
    gateway.wait_closed();
    let copies: Vec<_> =
        gateway.events().into_iter().filter(|e| matches!(e.body, Body::SqlCopy(_))).collect();
    assert_eq!(copies.len(), 2);
    for copy in &copies {
        assert_eq!(copy.bytes(ContentKind::CopyData).unwrap(), b"1\n".repeat(ROWS), "stored whole");
    }
    let (rows, chunks) = (2 * ROWS, gateway.chunks());
    assert!(chunks < rows / 100, "{chunks} chunks for {rows} messages");
}
