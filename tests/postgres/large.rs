//! Large messages, large rows, slow peers: memory stays flat and nothing is lost.

use std::io::Write as _;
use std::time::Duration;

use bodycam_proxy::postgres::ClientAuth;
use bodycam_record::ContentKind;
use bodycam_record::kinds::Body;

use crate::support::gateway::{Gateway, Setup};
use crate::support::postgres::shared;
use crate::support::stack::Stack;
use crate::support::wire::{Wire, bind, execute, last_error, line, message, parse, query, sync};

const MIB: usize = 1 << 20;

fn wired(change: impl FnOnce(&mut Setup)) -> (Gateway, String, Wire) {
    let mut setup = Setup::new(shared());
    setup.postgres.auth = ClientAuth::Token;
    change(&mut setup);
    let gateway = setup.start();
    let database = shared().database();
    let wire = Wire::log_in(gateway.port, "robot", &gateway.token("robot"), &database);
    (gateway, database, wire)
}

/// Resident memory of a process in bytes.
fn resident(process: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}

#[test]
fn statements_longer_than_what_is_held_pass_through_the_disk_and_keep_digest_length_and_beginning() {
    let (gateway, _, mut wire) = wired(|_| ());
    let text = format!("SELECT length('{}')", "x".repeat(5 * MIB));
    assert_eq!(wire.query(&text), format!("T D({}) C(SELECT 1) ZI", 5 * MIB));
    let batch = [parse("long", &text), bind("", "long", &[]), execute("", 0), sync()].concat();
    assert_eq!(wire.ask(&batch), format!("1 2 D({}) C(SELECT 1) ZI", 5 * MIB));
    let value = "y".repeat(3 * MIB);
    let batch =
        [parse("", "SELECT length($1), $2::int"), bind("", "", &[&value, "7"]), execute("", 0), sync()]
            .concat();
    assert_eq!(wire.ask(&batch), format!("1 2 D({}) C(SELECT 1) ZI", 3 * MIB));
    assert_eq!(wire.query("SELECT 1"), "T D(1) C(SELECT 1) ZI");
    drop(wire);
    gateway.wait_closed();
    let statements = gateway.statements();
    let run: Vec<_> = statements.iter().filter(|(_, s, _)| s.form != "parse").collect();
    for (recorded, statement, _) in &run[..2] {
        assert_eq!(statement.statement_bytes as usize, text.len());
        assert!(statement.content_cut && statement.opaque == ["too-large"]);
        let kept = recorded.bytes(ContentKind::SqlText).unwrap();
        assert!(kept.len() == MIB && text.as_bytes().starts_with(kept));
    }
    assert_eq!(run[0].1.statement_digest, run[1].1.statement_digest, "one text, one digest, however it came");
    let (recorded, statement, _) = run[2];
    assert_eq!((statement.bind_count, statement.bind_bytes as usize), (2, 3 * MIB + 1));
    assert!(statement.content_cut && statement.binds_digest.is_some() && recorded.binds().is_empty());
}

#[test]
fn a_message_beyond_the_limit_is_refused_like_any_error_and_the_session_goes_on() {
    let (gateway, _, mut wire) = wired(|s| s.postgres.max_statement_bytes = 2 * MIB);
    let long = format!("SELECT length('{}')", "x".repeat(3 * MIB));
    wire.send(&query(&long));
    let answer = wire.until_ready();
    assert_eq!(line(&answer), "E(54000) ZI");
    assert!(last_error(&answer).contains("longer than 2097152 bytes"), "{}", last_error(&answer));
    assert_eq!(wire.query("BEGIN"), "C(BEGIN) ZT");
    // Before it and behind it in the pipeline everything is as with any error of the server's own.
    let pipeline = [
        parse("", "SELECT 1"),
        bind("", "", &[]),
        execute("", 0),
        parse("", &long),
        bind("", "", &[]),
        execute("", 0),
        sync(),
    ];
    assert_eq!(wire.ask(&pipeline.concat()), "1 2 D(1) C(SELECT 1) E(54000) ZE");
    assert_eq!(wire.query("ROLLBACK"), "C(ROLLBACK) ZI");
    let value = "y".repeat(3 * MIB);
    assert_eq!(
        wire.ask(&[parse("", "SELECT $1"), bind("", "", &[&value]), execute("", 0), sync()].concat()),
        "1 E(54000) ZI"
    );
    assert_eq!(wire.ask(&[bind("", "", &["z"]), execute("", 0), sync()].concat()), "2 D(z) C(SELECT 1) ZI");
    let mut call = vec![0, 0, 0, 1, 0, 0, 0, 1];
    call.extend_from_slice(&u32::try_from(3 * MIB).unwrap().to_be_bytes());
    call.extend(vec![b'1'; 3 * MIB]);
    call.extend_from_slice(&[0, 0]);
    assert_eq!(wire.ask(&message(b'F', &call)), "E(54000) ZI");
    drop(wire);
    gateway.wait_closed();
    let denied: Vec<_> = gateway.statements().into_iter().filter(|(_, s, _)| s.verdict == "deny").collect();
    assert_eq!(denied.len(), 4);
    for (_, statement, results) in &denied {
        assert_eq!(results.len(), 1, "{}", statement.form);
        assert_eq!((results[0].1.outcome.as_str(), results[0].1.verdict.as_str()), ("error", "deny"));
    }
    assert_eq!(gateway.story().iter().filter(|l| *l == "limit statement-bytes refused").count(), 4);
}

#[test]
fn a_row_of_hundreds_of_megabytes_and_a_client_that_stops_reading_leave_memory_flat() {
    // A gateway in a process of its own: nobody else's memory counts.
    let stack = Stack::new("");
    let config = std::fs::read_to_string(stack.path("bodycam.toml")).unwrap();
    assert!(config.contains("[postgres]"));
    let by_token = config.replace("[postgres]", "[postgres]\nauth = \"token\"");
    std::fs::write(stack.path("bodycam.toml"), by_token).unwrap();
    let gateway = stack.start("gateway");
    let token = stack.token("robot");
    let mut wire = Wire::log_in(stack.postgres.port(), "robot", &token, "app");
    wire.query("SELECT repeat('warm up', 1000000)");
    let resident = || resident(gateway.child.id());
    let before = resident();
    wire.send(&query("SELECT repeat('0123456789abcdef', 20 * 1024 * 1024), repeat('x', 1000)"));
    // Nobody reads for a while.
    std::thread::sleep(Duration::from_millis(1500));
    assert!(resident() < before + 40 * MIB, "{} MiB more", (resident() - before) / MIB);
    let mut sink = vec![0; 1 << 20];
    let (mut read, mut tail) = (0, Vec::new());
    while !tail.ends_with(&[b'Z', 0, 0, 0, 5, b'I']) {
        let n = std::io::Read::read(&mut wire.stream, &mut sink).unwrap();
        assert!(n > 0);
        read += n;
        tail.extend_from_slice(&sink[..n]);
        tail.drain(..tail.len().saturating_sub(6));
        assert!(resident() < before + 40 * MIB, "{} MiB more", (resident() - before) / MIB);
    }
    assert!(read > 320 * MIB);
    // Nor does one message of COPY data stay in memory.
    wire.query("CREATE TABLE copied (v text)");
    wire.send(&query("COPY copied FROM STDIN"));
    assert_eq!(wire.read().unwrap().0, b'G');
    let length = u32::try_from(64 * MIB + 4).unwrap();
    wire.send(&[&[b'd'][..], &length.to_be_bytes()].concat());
    let block = [vec![b'v'; MIB - 1], vec![b'\n']].concat();
    for _ in 0..64 {
        wire.stream.write_all(&block).unwrap();
        assert!(resident() < before + 40 * MIB, "{} MiB more", (resident() - before) / MIB);
    }
    assert_eq!(wire.ask(&message(b'c', b"")), "C(COPY 64) ZI");
}

#[test]
fn a_row_of_hundreds_of_megabytes_is_counted_and_digested_as_it_passes() {
    let (gateway, _, mut wire) = wired(|s| s.recording.max_bytes_per_result = 4 << 20);
    wire.query("SELECT 1");
    wire.send(&query("SELECT repeat('0123456789abcdef', 20 * 1024 * 1024), repeat('x', 1000)"));
    let (mut sink, mut tail) = (vec![0; 1 << 20], Vec::new());
    while !tail.ends_with(&[b'Z', 0, 0, 0, 5, b'I']) {
        let n = std::io::Read::read(&mut wire.stream, &mut sink).unwrap();
        assert!(n > 0);
        tail.extend_from_slice(&sink[..n]);
        tail.drain(..tail.len().saturating_sub(6));
    }
    drop(wire);
    gateway.wait_closed();
    let statements = gateway.statements();
    let result = &statements[1].2[0].1;
    assert_eq!((result.rows, result.rows_stored, result.rows_cut), (1, 0, true));
    assert!(result.bytes as usize > 320 * MIB && result.rows_digest.is_some());
    let marks = gateway
        .events()
        .into_iter()
        .filter(|e| matches!(&e.body, Body::SqlMessage(m) if m.message == "progress"));
    assert_eq!(marks.count(), 20, "a running digest every 16 MiB");
}

#[test]
fn a_long_row_within_the_limits_is_stored_whole() {
    let (gateway, _, mut wire) = wired(|_| ());
    wire.send(&query("SELECT repeat('r', 3000000), 1"));
    wire.until_ready();
    drop(wire);
    gateway.wait_closed();
    let statements = gateway.statements();
    let (recorded, result) = &statements[0].2[0];
    assert_eq!((result.rows, result.rows_stored, result.rows_cut), (1, 1, false));
    assert_eq!(recorded.rows()[0][0].as_ref().unwrap().len(), 3_000_000);
}

#[test]
fn a_long_error_and_a_long_notice_arrive_whole() {
    let (gateway, _, mut wire) = wired(|_| ());
    wire.send(&query(
        "DO $$ BEGIN RAISE NOTICE '%', repeat('n', 700000); RAISE EXCEPTION '%', repeat('e', 600000); END $$",
    ));
    let answer = wire.until_ready();
    assert_eq!(line(&answer), "N E(P0001) ZI");
    assert!(answer[0].1.len() > 700_000 && answer[1].1.len() > 600_000);
    assert_eq!(wire.query("SELECT 1"), "T D(1) C(SELECT 1) ZI");
    drop(wire);
    gateway.wait_closed();
    let result = gateway.statements()[0].2[0].1.clone();
    assert_eq!(result.sqlstate.as_deref(), Some("P0001"));
}

#[test]
fn copy_data_of_any_length_streams_in() {
    let (gateway, database, mut wire) = wired(|_| ());
    shared().sql(&database, "CREATE TABLE t (v text); GRANT ALL ON t TO app");
    wire.send(&query("COPY t FROM STDIN"));
    assert_eq!(wire.read().unwrap().0, b'G');
    // One message of 64 MiB, then many small ones.
    let length = u32::try_from(64 * MIB + 4).unwrap();
    wire.send(&[&[b'd'][..], &length.to_be_bytes()].concat());
    let line_of_text = [vec![b'v'; 1023], vec![b'\n']].concat();
    let block = line_of_text.repeat(1024);
    for _ in 0..64 {
        wire.stream.write_all(&block).unwrap();
    }
    for _ in 0..1000 {
        wire.send(&message(b'd', b"short\n"));
    }
    assert_eq!(wire.ask(&message(b'c', b"")), format!("C(COPY {}) ZI", 64 * 1024 + 1000));
    drop(wire);
    gateway.wait_closed();
    let copied = gateway.events().into_iter().find_map(|e| match e.body {
        Body::SqlCopy(c) => Some((c.messages, c.bytes as usize, c.bytes_stored)),
        _ => None,
    });
    assert_eq!(copied, Some((1001, 64 * MIB + 6000, 16 << 20)));
}

#[test]
fn both_directions_move_while_both_peers_are_full() {
    let (gateway, _, wire) = wired(|_| ());
    // More queries than fit any buffer, each with an answer that does not fit either, and nobody reads yet.
    let mut batch = Vec::new();
    for _ in 0..400 {
        batch.extend(
            [
                parse("", &format!("SELECT repeat('z', 50000) -- {}", "q".repeat(50_000))),
                bind("", "", &[]),
                execute("", 0),
            ]
            .concat(),
        );
    }
    batch.extend(sync());
    let mut sender = wire.stream.try_clone().unwrap();
    let sending = std::thread::spawn(move || sender.write_all(&batch).unwrap());
    std::thread::sleep(Duration::from_millis(500));
    let mut wire = wire;
    let answer = wire.until_ready();
    sending.join().unwrap();
    assert_eq!(answer.iter().filter(|(tag, body)| *tag == b'D' && body.len() > 50_000).count(), 400);
    drop(wire);
    gateway.wait_closed();
}
