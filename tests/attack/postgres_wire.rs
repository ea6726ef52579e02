//! The PostgreSQL wire under attack, from either side.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use bodycam_proxy::postgres::codec::startup::Version;
use bodycam_proxy::postgres::{ClientAuth, ClientTls};
use bodycam_record::ContentKind;

use crate::support::gateway::{Gateway, Recorded, Setup};
use crate::support::postgres::{DIRECT, shared};
use crate::support::wire::{Wire, bind, close, describe, execute, line, message, parse, query, sync};

fn gateway(change: impl FnOnce(&mut Setup)) -> Gateway {
    let mut setup = Setup::new(shared());
    setup.postgres.auth = ClientAuth::Token;
    change(&mut setup);
    setup.start()
}

/// The last decision in the record, without its first word.
fn decision(gateway: &Gateway) -> String {
    gateway.wait_closed();
    let story = gateway.story();
    let last = story.iter().rev().find_map(|l| l.strip_prefix("decision "));
    last.unwrap_or("none").to_owned()
}

#[test]
fn a_client_that_breaks_the_protocol_is_closed_and_nothing_of_it_runs() {
    let gateway = gateway(|_| ());
    let database = shared().database();
    shared().sql(&database, "CREATE TABLE t (id int); GRANT ALL ON t TO app");
    let token = gateway.token("ada");
    let framed = |tag: u8, length: [u8; 4], body: &[u8]| [&[tag][..], &length, body].concat();
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("an unknown type", message(b'z', b""), "unknown-message"),
        ("a type of servers", message(b'Z', b"I"), "unknown-message"),
        ("a password after the login", message(b'p', b"secret\0"), "unknown-message"),
        ("a length of 0", framed(b'Q', [0; 4], b"INSERT INTO t VALUES (1)\0"), "bad-length"),
        ("a length of 3", framed(b'Q', [0, 0, 0, 3], b"INSERT INTO t VALUES (1)\0"), "bad-length"),
        ("a negative length", framed(b'Q', [0xff; 4], b"INSERT INTO t VALUES (1)\0"), "bad-length"),
        (
            "the longest length",
            framed(b'Q', [0x7f, 0xff, 0xff, 0xff], b"INSERT INTO t VALUES (1)\0"),
            "bad-length",
        ),
        ("a long Describe", framed(b'D', [0, 1, 0, 0], b"S"), "bad-length"),
        ("Sync with a body", message(b'S', b"x"), "bad-length"),
        (
            "text behind the end",
            message(b'Q', b"SELECT 1\0; INSERT INTO t VALUES (1)\0"),
            "malformed-message",
        ),
        ("text without an end", message(b'Q', b"INSERT INTO t VALUES (1)"), "malformed-message"),
        ("a Describe of nothing", message(b'D', b"Xname\0"), "malformed-message"),
        ("a Close of nothing", message(b'C', b"\0\0"), "malformed-message"),
        ("an Execute cut short", message(b'E', b"\0\0\0\0"), "bad-length"),
        ("an Execute without a name's end", message(b'E', b"namedlong"), "malformed-message"),
        (
            "a Parse with too few types",
            message(b'P', b"\0INSERT INTO t VALUES (1)\0\0\x05\0\0\0\x01"),
            "malformed-message",
        ),
        (
            "a Bind with more values than there are",
            message(b'B', b"\0\0\0\0\x7f\xff\0\0\0\x01a\0\0"),
            "malformed-message",
        ),
        (
            "a Bind with a value of -2 bytes",
            message(b'B', b"\0\0\0\0\0\x01\xff\xff\xff\xfe\0\0"),
            "malformed-message",
        ),
        (
            "a Bind with a value beyond its end",
            message(b'B', b"\0\0\0\0\0\x01\0\0\xff\xffa\0\0"),
            "malformed-message",
        ),
        ("a CopyFail without text", message(b'f', b"x"), "malformed-message"),
    ];
    for (name, bytes, reason) in cases {
        let mut wire = Wire::log_in(gateway.port, "ada", &token, &database);
        wire.send(&bytes);
        assert_eq!(wire.until_end(), "E(08P01)", "{name}");
        assert_eq!(decision(&gateway), format!("message {reason} 08P01"), "{name}");
    }
    assert_eq!(shared().sql(&database, "SELECT count(*) FROM t"), "0");
}

#[test]
fn a_connection_that_ends_in_the_middle_of_a_message_is_told_as_that() {
    let gateway = gateway(|_| ());
    let database = shared().database();
    for cut in [1, 4, 5, 9] {
        let mut wire = Wire::log_in(gateway.port, "ada", &gateway.token("ada"), &database);
        assert_eq!(wire.query("SELECT 1"), "T D(1) C(SELECT 1) ZI");
        wire.send(&query("SELECT 'canary'")[..cut]);
        wire.stream.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(wire.until_end(), "E(08P01)", "{cut}");
        assert_eq!(decision(&gateway), "message truncated-message 08P01", "{cut}");
        assert_eq!(gateway.story().last().unwrap(), "closed client", "{cut}");
    }
    let described = message(
        b'T',
        &[0, 1, b'c', 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 25, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0],
    );
    let short = message(b'D', &[0, 1, 0, 0, 0, 1, b'x'])[..7].to_vec();
    let (port, _server) = hostile_server_that([described.clone(), short].concat(), true);
    let gateway = self::gateway(|s| s.targets[0].address = format!("127.0.0.1:{port}"));
    let mut wire = Wire::log_in(gateway.port, "ada", &gateway.token("ada"), "any");
    wire.send(&query("SELECT 'canary'"));
    assert_eq!(wire.until_end(), "T E(08006)");
    assert_eq!(decision(&gateway), "message truncated-message 08006");
    assert_eq!(gateway.story().last().unwrap(), "closed server");

    // Of a long row the beginning has left before its end is known.
    let mut long = vec![0, 1, 0, 0, 0, 5];
    long.resize(200_000, b'x');
    let (port, _server) = hostile_server([described, message(b'D', &long)].concat());
    let gateway = self::gateway(|s| s.targets[0].address = format!("127.0.0.1:{port}"));
    let mut wire = Wire::log_in(gateway.port, "ada", &gateway.token("ada"), "any");
    wire.send(&query("SELECT 'canary'"));
    let mut got = Vec::new();
    let _ = wire.stream.read_to_end(&mut got);
    assert!(got.len() < long.len(), "{} bytes", got.len());
    assert_eq!(decision(&gateway), "message malformed-message 08P01");
}

#[test]
fn packets_before_the_login_that_cannot_be_are_answered_once_and_closed() {
    let files = tempfile::tempdir().unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let cert =
        rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
    let (cert_file, key_file) = (files.path().join("cert"), files.path().join("key"));
    std::fs::write(&cert_file, cert.pem()).unwrap();
    std::fs::write(&key_file, key.serialize_pem()).unwrap();
    let gateway = gateway(|s| {
        s.postgres.tls = Some(ClientTls { cert: cert_file, key: key_file, required: false });
        s.postgres.startup_timeout_seconds = 2;
    });
    const TLS: &[u8] = &[0, 0, 0, 8, 4, 210, 22, 47];
    const GSS: &[u8] = &[0, 0, 0, 8, 4, 210, 22, 48];
    let startup = |pairs: &[u8]| {
        let length = u32::try_from(pairs.len() + 8).unwrap().to_be_bytes();
        [&length[..], &[0, 3, 0, 0], pairs].concat()
    };
    let cases: Vec<(&str, Vec<u8>, &[u8], &str)> = vec![
        ("a startup message behind SSLRequest", [TLS, &startup(b"user\0ada\0\0")].concat(), b"", "E(08P01)"),
        ("a byte behind SSLRequest", [TLS, b"x"].concat(), b"", "E(08P01)"),
        (
            "a startup message behind GSSENCRequest",
            [GSS, &startup(b"user\0ada\0\0")].concat(),
            b"",
            "E(08P01)",
        ),
        ("GSSENCRequest behind GSSENCRequest", [GSS, GSS].concat(), b"", "E(08P01)"),
        ("a length of 0", vec![0, 0, 0, 0], b"", "E(08P01)"),
        ("a length of 7", vec![0, 0, 0, 7, 0, 3, 0], b"", "E(08P01)"),
        ("a negative length", vec![0xff, 0xff, 0xff, 0xff], b"", "E(08P01)"),
        ("a length of 10,001", vec![0, 0, 0x27, 0x11], b"", "E(08P01)"),
        ("a length of 2 GiB", vec![0x7f, 0xff, 0xff, 0xff], b"", "E(08P01)"),
        ("no user", startup(b"database\0x\0\0"), b"", "E(28000)"),
        ("an empty user", startup(b"user\0\0\0"), b"", "E(28000)"),
        ("a parameter without a value", startup(b"user\0ada\0x\0"), b"", "E(08P01)"),
        ("bytes behind the parameters", startup(b"user\0ada\0\0x"), b"", "E(08P01)"),
        ("TLS that is none", vec![0x16, 3, 1, 0, 4, 1, 2, 3, 4], b"\x15", ""),
        ("a query at once", query("SELECT 1"), b"", "E(08P01)"),
    ];
    for (name, bytes, first, rest) in cases {
        let mut wire = Wire::connect(gateway.port);
        wire.send(&bytes);
        if first.is_empty() {
            assert_eq!(wire.until_end(), rest, "{name}");
        } else {
            let mut answer = Vec::new();
            let _ = wire.stream.read_to_end(&mut answer);
            assert!(answer.starts_with(first) || answer.is_empty(), "{name}: {answer:?}");
        }
    }
    // Answered in order: `N` to GSSENCRequest, then `S` to SSLRequest, then only TLS is understood.
    let mut wire = Wire::connect(gateway.port);
    wire.send(GSS);
    let mut answer = [0];
    wire.stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer, *b"N");
    wire.send(TLS);
    wire.stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer, *b"S");
    wire.send(&startup(b"user\0ada\0\0"));
    let mut rest = Vec::new();
    let _ = wire.stream.read_to_end(&mut rest);
    assert!(!rest.contains(&b'R'), "a login in clear after the promise of TLS: {rest:?}");
    assert!(gateway.events().is_empty());
}

/// A server that says hello to whoever comes, answers the gateway's own first query, sends `answer` to what
/// comes next, and tells what it got after that. Whoever comes for the catalog is sent away.
fn hostile_server(answer: Vec<u8>) -> (u16, std::sync::mpsc::Receiver<Vec<u8>>) {
    hostile_server_that(answer, false)
}

/// As [`hostile_server`]; it may leave when it has answered.
fn hostile_server_that(answer: Vec<u8>, leaves: bool) -> (u16, std::sync::mpsc::Receiver<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let serve = move |mut stream: TcpStream| {
        let mut buffer = [0; 65536];
        let n = stream.read(&mut buffer).unwrap();
        let packet = String::from_utf8_lossy(&buffer[..n]).into_owned();
        if packet.contains("bodycam catalog") || !packet.contains("user") {
            return None;
        }
        let mut hello = message(b'R', &[0; 4]);
        hello.extend(message(b'S', b"client_encoding\0UTF8\0"));
        hello.extend(message(b'K', &[0, 0, 0, 9, 1, 2, 3, 4]));
        hello.extend(message(b'Z', b"I"));
        stream.write_all(&hello).unwrap();
        let _ = stream.read(&mut buffer).unwrap();
        stream.write_all(&[message(b'C', b"SHOW\0"), message(b'Z', b"I")].concat()).unwrap();
        let (mut got, mut answered) = (Vec::new(), false);
        while let Ok(n @ 1..) = stream.read(&mut buffer) {
            got.extend_from_slice(&buffer[..n]);
            if !std::mem::replace(&mut answered, true) {
                stream.write_all(&answer).unwrap();
                if leaves {
                    break;
                }
            }
        }
        Some(got)
    };
    let (send, receive) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (serve, send) = (serve.clone(), send.clone());
            std::thread::spawn(move || serve(stream.unwrap()).map(|got| send.send(got)));
        }
    });
    (port, receive)
}

#[test]
fn a_target_that_breaks_the_protocol_ends_the_session_on_both_sides() {
    let row = message(b'D', &[0, 1, 0, 0, 0, 1, b'x']);
    let complete = message(b'C', b"SELECT 1\0");
    let ready = message(b'Z', b"I");
    let described = message(
        b'T',
        &[0, 1, b'c', 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 25, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0],
    );
    let good = [described.clone(), row.clone(), complete.clone(), ready.clone()].concat();
    let cases: Vec<(&str, Vec<u8>, &str, &str)> = vec![
        ("an unknown type", message(b'z', b""), "E(08P01)", "message unknown-message 08P01"),
        ("a type of clients", message(b'Q', b"SELECT 1\0"), "E(08P01)", "message unknown-message 08P01"),
        ("a negative length", vec![b'D', 0xff, 0xff, 0xff, 0xff], "E(08P01)", "message bad-length 08P01"),
        ("a length of 0", vec![b'C', 0, 0, 0, 0], "E(08P01)", "message bad-length 08P01"),
        ("a tag of 2 MiB", vec![b'C', 0, 0x20, 0, 0, b'x'], "E(08P01)", "message bad-length 08P01"),
        ("a status that is none", message(b'Z', b"X"), "E(08P01)", "message malformed-message 08P01"),
        ("columns that are not there", message(b'T', &[0, 9]), "E(08P01)", "message malformed-message 08P01"),
        ("authentication in a session", message(b'R', &[0; 4]), "E(08P01)", "message out-of-order 08P01"),
        ("a new cancel key in a session", message(b'K', &[0; 8]), "E(08P01)", "message out-of-order 08P01"),
        ("an answer to Parse that nobody sent", message(b'1', b""), "E(08P01)", "message out-of-order 08P01"),
        ("COPY in both directions", message(b'W', &[0, 0, 0]), "E(08P01)", "message copy-both 08P01"),
        ("COPY data without COPY", message(b'd', b"x"), "E(08P01)", "message out-of-order 08P01"),
        (
            "rows after an error",
            [message(b'E', b"SERROR\0C22012\0\0"), row.clone()].concat(),
            "E(22012) E(08P01)",
            "message out-of-order 08P01",
        ),
        (
            "one answer too many",
            [good.clone(), ready.clone()].concat(),
            "T D(x) C(SELECT 1) ZI E(08P01)",
            "message out-of-order 08P01",
        ),
        (
            "rows that nobody asked for",
            [good.clone(), row.clone()].concat(),
            "T D(x) C(SELECT 1) ZI E(08P01)",
            "message out-of-order 08P01",
        ),
        ("rows without columns", row.clone(), "E(08P01)", "message out-of-order 08P01"),
        (
            "rows of a second statement without columns",
            [described.clone(), row.clone(), complete.clone(), row.clone()].concat(),
            "T D(x) C(SELECT 1) E(08P01)",
            "message out-of-order 08P01",
        ),
        ("an error without an end", message(b'E', b"SERROR"), "E(08P01)", "message malformed-message 08P01"),
        ("a notice with more", message(b'N', b"SNOTICE\0\0x"), "E(08P01)", "message malformed-message 08P01"),
        (
            "an error without SQLSTATE",
            [message(b'E', b"SERROR\0\0"), ready.clone()].concat(),
            "E() ZI",
            "none",
        ),
    ];
    let rows: [(&str, &[u8]); 6] = [
        ("more columns than announced", &[0, 2, 0, 0, 0, 1, b'x', 0, 0, 0, 1, b'y']),
        ("fewer columns than announced", &[0, 0]),
        ("a count below zero", &[0xff, 0xff]),
        ("a field of -7 bytes", &[0, 1, 0xff, 0xff, 0xff, 0xf9, b'x']),
        ("a field beyond the row", &[0, 1, 0, 0, 0, 100, b'x']),
        ("bytes behind the row", &[0, 1, 0, 0, 0, 1, b'x', b'y']),
    ];
    let rows = rows.map(|(name, row)| {
        let answer = [described.clone(), message(b'D', row), complete.clone(), ready.clone()].concat();
        (name, answer, "T E(08P01)", "message malformed-message 08P01")
    });
    for (name, answer, seen, decided) in cases.into_iter().chain(rows) {
        let (port, server) = hostile_server(answer);
        let gateway = gateway(|s| s.targets[0].address = format!("127.0.0.1:{port}"));
        let mut wire = Wire::log_in(gateway.port, "ada", &gateway.token("ada"), "any");
        wire.send(&query("SELECT 'canary'"));
        if decided == "none" {
            assert_eq!(line(&wire.until_ready()), seen, "{name}");
            drop(wire);
        } else {
            assert_eq!(wire.until_end(), seen, "{name}");
        }
        assert_eq!(decision(&gateway), decided, "{name}");
        let got = server.recv().unwrap();
        assert!(got.starts_with(&query("SELECT 'canary'")), "{name}: the server is let go");
        assert!(
            gateway.story().iter().any(|l| l.starts_with("result #1.0")),
            "{name}: {:?}",
            gateway.story()
        );
    }
}

#[test]
fn a_session_sent_byte_by_byte_is_the_same_session() {
    let gateway = gateway(|_| ());
    let database = shared().database();
    let token = gateway.token("ada");
    let mut wire = Wire::connect(gateway.port);
    let mut bytes = Vec::new();
    let pairs = [(&b"user"[..], &b"ada"[..]), (b"database", database.as_bytes())];
    bodycam_proxy::postgres::codec::startup::put_startup(&mut bytes, Version::V3_0, pairs);
    bodycam_proxy::postgres::codec::frontend::put_password(&mut bytes, token.as_bytes());
    bytes.extend(
        [query("SELECT 1"), parse("s", "SELECT $1::text"), bind("", "s", &["two"]), execute("", 0), sync()]
            .concat(),
    );
    for byte in &bytes {
        wire.send(&[*byte]);
    }
    wire.until_ready();
    assert_eq!(line(&wire.until_ready()), "T D(1) C(SELECT 1) ZI");
    assert_eq!(line(&wire.until_ready()), "1 2 D(two) C(SELECT 1) ZI");
    drop(wire);
    gateway.wait_closed();
    let story = gateway.story();
    let run = story.iter().filter(|l| l.starts_with("result") && l.ends_with("complete SELECT 1 1 rows"));
    assert_eq!(run.count(), 2, "{story:?}");
}

/// A database with `customers`, whose rows nobody may see without the record saying so, and `colours`.
fn shop() -> String {
    let database = shared().database();
    shared().sql(
        &database,
        "CREATE TABLE customers (id text); INSERT INTO customers VALUES ('canary');
         CREATE TABLE colours (id text); INSERT INTO colours VALUES ('red');
         GRANT ALL ON customers, colours TO app",
    );
    database
}

/// Whatever a client does with names: rows of `customers` belong to a statement whose event says so, or says
/// that it is not known, and each statement ends once.
fn assert_rows_belong_to_their_statements(gateway: &Gateway, name: &str) {
    gateway.wait_closed();
    let mut seen = 0;
    for (recorded, statement, results) in gateway.statements() {
        let rows: usize = results
            .iter()
            .flat_map(|(r, _)| r.rows())
            .flatten()
            .flatten()
            .filter(|cell| cell == "canary")
            .count();
        seen += rows;
        let told = statement.relations_read.contains(&"public.customers".to_owned());
        assert!(
            rows == 0 || told || !statement.opaque.is_empty(),
            "{name}: rows of customers under {:?}: {:?}",
            recorded.text(ContentKind::SqlText),
            gateway.story()
        );
        let finals = results.iter().filter(|(_, r)| r.outcome != "suspended").count();
        let parsed = statement.form == "parse" && finals == 0;
        let several = statement.statement_count > 1 && finals > 0;
        assert!(
            finals == 1 || parsed || several,
            "{name}: {finals} ends of {statement:?}: {:?}",
            gateway.story()
        );
    }
    assert!(seen > 0, "{name}: the attack saw no row: {:?}", gateway.story());
}

#[test]
fn no_trick_with_names_shows_rows_under_another_statement() {
    let gateway = gateway(|_| ());
    let database = shop();
    let token = gateway.token("ada");
    let (safe, loot) = ("SELECT id FROM colours", "SELECT id FROM customers");
    let run = |portal: &str, statement: &str| [bind(portal, statement, &[]), execute(portal, 0)].concat();
    let do_block = |body: &str| query(&format!("DO $$ BEGIN {body} END $$"));
    // Each step is one write; the next follows when everything was answered.
    let cases: Vec<(&str, Vec<Vec<u8>>)> = vec![
        (
            "a Parse that fails because the name is taken",
            vec![
                [parse("n", loot), sync()].concat(),
                [parse("n", safe), sync(), run("", "n"), sync()].concat(),
            ],
        ),
        (
            "a Close and a Parse that are skipped",
            vec![
                [parse("n", loot), sync()].concat(),
                [parse("e", "SELEC"), close(b'S', "n"), parse("n", safe), sync(), run("", "n"), sync()].concat(),
            ],
        ),
        (
            "an unnamed Parse that is skipped",
            vec![
                [parse("", loot), sync()].concat(),
                [parse("e", "SELEC"), parse("", safe), sync(), run("", ""), sync()].concat(),
            ],
        ),
        (
            "a portal that a savepoint brings back",
            vec![
                query("BEGIN"),
                [parse("", loot), bind("p", "", &[]), parse("c", safe), sync()].concat(),
                query("SAVEPOINT s"),
                [bind("p", "c", &[]), sync(), query("ROLLBACK TO s"), execute("p", 0), sync()].concat(),
            ],
        ),
        (
            "a statement that SQL defines anew on the way",
            vec![
                [parse("s", safe), sync()].concat(),
                [query(&format!("DEALLOCATE s; PREPARE s AS {loot}")), run("", "s"), sync()].concat(),
            ],
        ),
        (
            "a statement that SQL defines anew before it fails",
            vec![
                [parse("s", safe), sync()].concat(),
                [query(&format!("DEALLOCATE s; PREPARE s AS {loot}; SELECT 1/0")), run("", "s"), sync()].concat(),
            ],
        ),
        (
            "a cursor that SQL opens anew on the way",
            vec![
                query("BEGIN"),
                [parse("", safe), bind("c1", "", &[]), sync()].concat(),
                [
                    query(&format!("CLOSE c1; DECLARE c1 CURSOR FOR {loot}")),
                    execute("c1", 0),
                    sync(),
                ]
                .concat(),
            ],
        ),
        (
            "a statement that a DO block defines anew",
            vec![
                [parse("s", safe), sync()].concat(),
                do_block("EXECUTE 'DEALL'||'OCATE s'; EXECUTE 'PREP'||'ARE s AS SELECT id FROM cust'||'omers';"),
                [run("", "s"), sync()].concat(),
            ],
        ),
        (
            "the same for EXECUTE",
            vec![
                query(&format!("PREPARE s AS {safe}")),
                do_block("EXECUTE 'DEALL'||'OCATE s'; EXECUTE 'PREP'||'ARE s AS SELECT id FROM cust'||'omers';"),
                query("EXECUTE s"),
            ],
        ),
        (
            "the same in one batch",
            vec![
                [parse("s", safe), sync()].concat(),
                [
                    parse(
                        "",
                        "DO $$ BEGIN EXECUTE 'DEALL'||'OCATE s'; EXECUTE 'PREP'||'ARE s AS SELECT id FROM cust'||'omers'; END $$",
                    ),
                    run("", ""),
                    run("", "s"),
                    sync(),
                ]
                .concat(),
            ],
        ),
        (
            "a portal that a DO block opens anew",
            vec![
                query("BEGIN"),
                [parse("", safe), bind("c", "", &[]), sync()].concat(),
                do_block("EXECUTE 'CLOSE c'; EXECUTE 'DECL'||'ARE c CURSOR FOR SELECT id FROM cust'||'omers';"),
                [execute("c", 1), execute("c", 0), sync()].concat(),
            ],
        ),
        (
            "a cursor of a transaction that is over, which a DO block opens anew",
            vec![
                query(&format!("BEGIN; DECLARE c CURSOR FOR {safe}")),
                query("ROLLBACK"),
                query("BEGIN"),
                do_block("EXECUTE 'DECL'||'ARE c CURSOR FOR SELECT id FROM cust'||'omers';"),
                query("FETCH ALL FROM c"),
            ],
        ),
        (
            "a DEALLOCATE in a transaction that has failed",
            vec![
                query(&format!("PREPARE s AS {loot}")),
                query("BEGIN"),
                query("SELECT 1/0"),
                query("DEALLOCATE s"),
                query(&format!("PREPARE s AS {safe}")),
                query("ROLLBACK"),
                query("EXECUTE s"),
            ],
        ),
        (
            "the same with EXECUTE on the way",
            vec![
                query(&format!("PREPARE s AS {loot}")),
                [query("BEGIN"), query("SELECT 1/0"), query(&format!("DEALLOCATE s; PREPARE s AS {safe}")),
                 query("ROLLBACK"), query("EXECUTE s")].concat(),
            ],
        ),
        (
            "strings that are read another way",
            vec![
                [query("SET standard_conforming_strings = off"),
                 query("SELECT 'a\\' , (SELECT id FROM customers), ' -- x'")].concat(),
            ],
        ),
        (
            "strings that are read another way in one batch",
            vec![
                [parse("", "SET standard_conforming_strings = off"), run("", ""),
                 parse("", "SELECT 'a\\' , (SELECT id FROM customers), ' -- x'"), run("", ""), sync()].concat(),
            ],
        ),
        (
            "an Execute too many",
            vec![
                query("BEGIN"),
                [parse("", loot), bind("p", "", &[]), execute("p", 1), execute("p", 0), execute("p", 0), sync()].concat(),
            ],
        ),
        (
            "a cursor of SQL that Execute reads in parts",
            vec![
                query(&format!("DECLARE h CURSOR WITH HOLD FOR {loot}")),
                [execute("h", 1), execute("h", 1), sync()].concat(),
            ],
        ),
    ];
    for (name, steps) in cases {
        let mut wire = Wire::log_in(gateway.port, "ada", &token, &database);
        for step in steps {
            wire.send(&step);
            let mut at = 0;
            while let Some(length) = step.get(at + 1..at + 5) {
                if matches!(step[at], b'Q' | b'S') {
                    wire.until_ready();
                }
                at += 1 + usize::try_from(u32::from_be_bytes(length.try_into().unwrap())).unwrap();
            }
        }
        drop(wire);
        assert_rows_belong_to_their_statements(&gateway, name);
    }
}

#[test]
fn a_result_names_the_relations_that_its_statement_hid() {
    let gateway = gateway(|_| ());
    let database = shop();
    shared().sql(&database, "ALTER TABLE customers OWNER TO app; CREATE VIEW fine AS SELECT id FROM customers; GRANT SELECT ON fine TO app");
    let mut wire = Wire::log_in(gateway.port, "ada", &gateway.token("ada"), &database);
    for text in
        ["SELECT id FROM customers", "SELECT id FROM fine", "INSERT INTO customers VALUES ('b') RETURNING id"]
    {
        wire.query(text);
    }
    wire.query("BEGIN");
    wire.query("ALTER TABLE customers RENAME TO x");
    wire.query("SELECT id, 1 FROM x LIMIT 1");
    wire.ask(&[parse("", "SELECT id FROM x LIMIT 1"), bind("", "", &[]), execute("", 0), sync()].concat());
    wire.ask(
        &[
            parse("s", "SELECT id FROM x LIMIT 1"),
            describe(b'S', "s"),
            bind("", "s", &[]),
            execute("", 0),
            sync(),
        ]
        .concat(),
    );
    wire.query("ROLLBACK");
    drop(wire);
    gateway.wait_closed();
    let seen: Vec<Vec<String>> = gateway
        .statements()
        .into_iter()
        .filter_map(|(_, _, results)| {
            results.into_iter().find(|(_, r)| r.rows > 0).map(|(_, r)| r.relations_seen)
        })
        .collect();
    let hidden = vec!["public.customers".to_owned()];
    let nothing = Vec::new();
    assert_eq!(seen, [nothing.clone(), nothing.clone(), nothing, hidden.clone(), hidden.clone(), hidden]);
}

/// A FunctionCall with parameters in text.
fn call(function: u32, values: &[&str]) -> Vec<u8> {
    let mut body = function.to_be_bytes().to_vec();
    body.extend([0, 0]);
    body.extend(u16::try_from(values.len()).unwrap().to_be_bytes());
    for value in values {
        body.extend(u32::try_from(value.len()).unwrap().to_be_bytes());
        body.extend(value.as_bytes());
    }
    body.extend([0, 0]);
    message(b'F', &body)
}

#[test]
fn the_unnamed_statement_is_not_taken_for_what_it_was_under_another_path_or_before_a_trigger() {
    let gateway = gateway(|_| ());
    let database = shop();
    shared().sql(
        &database,
        "CREATE SCHEMA decoy; CREATE TABLE decoy.customers (id text); GRANT USAGE, CREATE ON SCHEMA decoy TO app;
         GRANT SELECT ON decoy.customers TO app;
         CREATE FUNCTION fire() RETURNS trigger LANGUAGE plpgsql AS
         $$ BEGIN PERFORM set_config('search_path', 'decoy', false); RETURN new; END $$",
    );
    let mut wire = Wire::log_in(gateway.port, "ada", &gateway.token("ada"), &database);
    wire.ask(&[parse("", "SELECT id FROM customers"), sync()].concat());
    let path = "SET search_path = decoy, public";
    wire.ask(&[parse("s", path), bind("p", "s", &[]), execute("p", 0), sync()].concat());
    wire.ask(&[bind("", "", &[]), execute("", 0), sync()].concat());
    wire.query("CREATE TABLE decoy.own (id int)");
    wire.ask(&[parse("i", "INSERT INTO decoy.own VALUES (1)"), sync()].concat());
    wire.query("CREATE TRIGGER t BEFORE INSERT ON decoy.own FOR EACH ROW EXECUTE FUNCTION public.fire()");
    wire.ask(&[bind("", "i", &[]), execute("", 0), sync()].concat());
    drop(wire);
    gateway.wait_closed();
    let doubtful = |kind: &str| {
        let statements = gateway.statements();
        let (_, last, _) = statements
            .iter()
            .rfind(|(_, s, _)| s.form == "extended" && s.statement_kind == kind)
            .unwrap_or_else(|| panic!("{:?}", gateway.story()));
        last.opaque.contains(&"execute-unknown".to_owned())
    };
    assert!(doubtful("select") && doubtful("insert"), "{:?}", gateway.statements());
}

#[test]
fn no_change_of_the_search_path_behind_the_gateway_hides_what_is_read() {
    let gateway = gateway(|_| ());
    let database = shop();
    shared().sql(
        &database,
        "CREATE SCHEMA decoy; CREATE TABLE decoy.customers (id text); GRANT USAGE ON SCHEMA decoy TO app;
         GRANT SELECT ON decoy.customers TO app;
         CREATE FUNCTION move_to(text) RETURNS int LANGUAGE plpgsql AS
         $$ BEGIN PERFORM set_config('search_path', $1, false); RETURN 1; END $$;
         CREATE FUNCTION fire() RETURNS trigger LANGUAGE plpgsql AS
         $$ BEGIN PERFORM set_config('search_path', 'public', false); RETURN new; END $$;
         CREATE FUNCTION twice(int, int) RETURNS int LANGUAGE sql AS $$ SELECT move_to('public') $$;
         CREATE OPERATOR public.@@@ (leftarg = int, rightarg = int, function = twice);
         CREATE TABLE fired (id int PRIMARY KEY); CREATE TRIGGER t BEFORE INSERT OR UPDATE ON fired FOR EACH ROW EXECUTE FUNCTION fire();
         CREATE TABLE parent (id int PRIMARY KEY); INSERT INTO parent VALUES (1);
         CREATE TABLE child (id int REFERENCES parent ON UPDATE CASCADE); INSERT INTO child VALUES (1);
         CREATE TRIGGER t BEFORE UPDATE ON child FOR EACH ROW EXECUTE FUNCTION fire();
         CREATE TABLE defaulted (id int, x text DEFAULT set_config('search_path', 'public', false), y int DEFAULT move_to('public'));
         CREATE TABLE checked (id int CHECK (move_to('public') = 1));
         CREATE TABLE ruled (id int); CREATE RULE r AS ON INSERT TO ruled DO ALSO SELECT move_to('public');
         CREATE VIEW seen AS SELECT set_config('search_path', 'public', false);
         CREATE VIEW above AS SELECT * FROM seen;
         CREATE VIEW inserts AS SELECT id FROM fired;
         CREATE DOMAIN dom AS int CHECK (move_to('public') = 1); CREATE DOMAIN over AS dom;
         CREATE TABLE typed (id int, d over);
         CREATE TABLE plain (id int PRIMARY KEY, at timestamptz DEFAULT now(), CHECK (id > 0));
         GRANT ALL ON ALL TABLES IN SCHEMA public TO app",
    );
    let path: u32 = shared().sql(&database, "SELECT 'move_to(text)'::regprocedure::oid").parse().unwrap();
    let token = gateway.token("ada");
    let back = "SET search_path = public";
    // Each begins in `decoy` as far as the gateway can tell, and ends in `public`.
    let cases: Vec<(&str, Vec<Vec<u8>>)> = vec![
        ("set_config by its OID", vec![call(2078, &["search_path", "public", "f"])]),
        ("a function of the database by its OID", vec![call(path, &["public"])]),
        (
            "a write of pg_settings",
            vec![query("UPDATE pg_settings SET setting = 'public' WHERE name = 'search_path'")],
        ),
        (
            "a write of pg_settings by a name of its own",
            vec![
                query("CREATE TEMP VIEW v AS SELECT * FROM pg_catalog.pg_settings"),
                query("SET search_path = decoy"),
                query("UPDATE v SET setting = 'public' WHERE name = 'search_path'"),
            ],
        ),
        ("a reset", vec![query("RESET search_path")]),
        ("a trigger", vec![query("INSERT INTO public.fired VALUES (1)")]),
        (
            "a trigger behind COPY",
            vec![[query("COPY public.fired FROM STDIN"), message(b'd', b"2\n"), message(b'c', b"")].concat()],
        ),
        ("a trigger behind a view", vec![query("INSERT INTO public.inserts VALUES (3)")]),
        ("a trigger behind a foreign key", vec![query("UPDATE public.parent SET id = id + 1")]),
        (
            "a trigger in a query",
            vec![query("WITH w AS (INSERT INTO public.fired VALUES (4) RETURNING id) SELECT * FROM w")],
        ),
        ("a default", vec![query("INSERT INTO public.defaulted (id) VALUES (1)")]),
        ("a check", vec![query("INSERT INTO public.checked VALUES (1)")]),
        ("a rule", vec![query("INSERT INTO public.ruled VALUES (1)")]),
        ("a view", vec![query("SELECT * FROM public.above")]),
        ("a cast to a domain", vec![query("SELECT 1::public.over")]),
        ("a column of a domain", vec![query("INSERT INTO public.typed VALUES (1, 1)")]),
        ("an operator", vec![query("SET search_path = decoy, public"), query("SELECT 1 @@@ 2")]),
        (
            "a trigger on a temporary table",
            vec![
                query("CREATE TEMP TABLE own (id int)"),
                query("CREATE TRIGGER t BEFORE INSERT ON own FOR EACH ROW EXECUTE FUNCTION public.fire()"),
                query("SET search_path = decoy"),
                query("INSERT INTO own VALUES (1)"),
            ],
        ),
        (
            "a temporary view",
            vec![
                query("CREATE TEMP VIEW v AS SELECT public.move_to('public')"),
                query("SET search_path = decoy"),
                query("SELECT * FROM v"),
            ],
        ),
        (
            "a statement that was prepared",
            vec![query("PREPARE p AS INSERT INTO public.fired VALUES (5)"), query("EXECUTE p")],
        ),
        ("a function", vec![query("SELECT public.move_to('public')")]),
    ];
    for (name, steps) in cases {
        let mut wire = Wire::log_in(gateway.port, "ada", &token, &database);
        assert_eq!(wire.query("SET search_path = decoy"), "C(SET) ZI");
        for step in steps {
            wire.ask(&step);
        }
        let seen = wire.query("SELECT id FROM customers");
        assert_eq!(seen, "T D(canary) C(SELECT 1) ZI", "{name}");
        drop(wire);
        assert_rows_belong_to_their_statements(&gateway, name);
    }
    // What runs nothing leaves the path known.
    let mut wire = Wire::log_in(gateway.port, "ada", &token, &database);
    for quiet in [
        "SET search_path = decoy",
        "INSERT INTO public.plain VALUES (1)",
        "UPDATE public.plain SET id = id + 1 WHERE id = 1",
        "CREATE TEMP TABLE own (id int)",
        "INSERT INTO own VALUES (1)",
        "SELECT * FROM own",
        "SELECT * FROM customers",
    ] {
        wire.query(quiet);
    }
    drop(wire);
    gateway.wait_closed();
    assert_eq!(gateway.statements().last().unwrap().1.relations_read, ["decoy.customers"]);
    // A SET whose implicit transaction is rolled back when all of its answers have been read.
    let mut wire = Wire::log_in(gateway.port, "ada", &token, &database);
    wire.query(back);
    for (step, answers) in [
        ([parse("", "SET search_path = decoy"), bind("", "", &[]), message(b'H', b"")].concat(), 2),
        ([execute("", 0), message(b'H', b"")].concat(), 1),
        (parse("", "SELEC"), 1),
    ] {
        wire.send(&step);
        for _ in 0..answers {
            wire.read().unwrap();
        }
    }
    // What is skipped sets nothing either.
    wire.send(&query("SET search_path = decoy"));
    assert_eq!(wire.ask(&sync()), "ZI");
    assert_eq!(wire.query("SELECT id FROM customers"), "T D(canary) C(SELECT 1) ZI");
    drop(wire);
    assert_rows_belong_to_their_statements(&gateway, "a SET that is rolled back");
}

#[test]
fn a_trigger_that_somebody_else_attaches_is_seen_by_what_was_prepared_before() {
    let gateway = gateway(|_| ());
    let token = gateway.token("ada");
    let run = |name: &str| [bind("", name, &[]), execute("", 0), sync()].concat();
    let prepared = [
        parse("later", "INSERT INTO public.later VALUES (1)"),
        parse("quiet", "INSERT INTO public.quiet VALUES (1)"),
        // Read anew under other settings it could be another statement.
        parse("doubted", r"INSERT INTO public.later VALUES (E'\x31'::int)"),
        sync(),
    ];
    for attack in ["later", "doubted", "sql"] {
        let database = shop();
        shared().sql(
        &database,
        "CREATE SCHEMA decoy; CREATE TABLE decoy.customers (id text); GRANT USAGE, CREATE ON SCHEMA decoy TO app;
         GRANT SELECT ON decoy.customers TO app;
         CREATE TABLE public.quiet (id int); CREATE TABLE public.later (id int); GRANT ALL ON public.quiet, public.later TO app;
         CREATE FUNCTION fire() RETURNS trigger LANGUAGE plpgsql AS
         $$ BEGIN PERFORM set_config('search_path', 'public', false); RETURN new; END $$",
    );
        let mut wire = Wire::log_in(gateway.port, "ada", &token, &database);
        assert_eq!(wire.query("SET search_path = decoy"), "C(SET) ZI");
        wire.ask(&prepared.concat());
        wire.query("PREPARE sql AS INSERT INTO public.later VALUES (2)");
        shared().sql(
            &database,
            "CREATE TRIGGER t BEFORE INSERT ON later FOR EACH ROW EXECUTE FUNCTION public.fire()",
        );
        // A relation that the gateway does not know makes it read the catalog, and wait for it.
        let mut other = Wire::log_in(gateway.port, "ada", &token, &database);
        other.query(&format!("CREATE TABLE decoy.fresh_{attack} (id int)"));
        other.query(&format!("SELECT * FROM decoy.fresh_{attack}"));
        drop(other);
        wire.ask(&run("quiet"));
        // What runs nothing unseen is as certain as before.
        let certain = format!("SELECT id AS {attack} FROM customers");
        assert_eq!(wire.query(&certain), "T C(SELECT 0) ZI");
        let statements = gateway.statements();
        let told = |(r, ..): &&(Recorded, _, _)| r.text(ContentKind::SqlText).as_deref() == Some(&certain);
        let (_, told, _) = statements.iter().find(told).unwrap();
        assert_eq!(told.relations_read, ["decoy.customers"], "{attack}: {:?}", told.opaque);
        match attack {
            "sql" => wire.query("EXECUTE sql"),
            name => wire.ask(&run(name)),
        };
        assert_eq!(wire.query("SELECT id FROM customers"), "T D(canary) C(SELECT 1) ZI", "{attack}");
        drop(wire);
        assert_rows_belong_to_their_statements(&gateway, attack);
    }
}

#[test]
fn what_the_gateway_refuses_cannot_run_under_a_name_that_a_client_prepared() {
    let gateway = gateway(|s| s.postgres.max_statement_bytes = 4096);
    let database = shop();
    let mut wire = Wire::log_in(gateway.port, "ada", &gateway.token("ada"), &database);
    let poison = "bodycam refused this statement";
    wire.ask(&[parse(poison, "SELECT id FROM customers"), parse("s", "SELECT $1::text"), sync()].concat());
    let long = "x".repeat(5000);
    assert_eq!(wire.ask(&[bind("", "s", &[&long]), execute("", 0), sync()].concat()), "E(54000) ZI");
    drop(wire);
    // A target that takes what must not parse.
    for (name, sent, answer) in [
        ("Parse", parse("", &long), message(b'1', b"")),
        ("Bind", bind("", "s", &[&long]), message(b'2', b"")),
        ("Query", query(&long), message(b'C', b"SELECT 1\0")),
        ("Query with rows", query(&long), message(b'T', &[0, 0])),
    ] {
        let (port, _server) = hostile_server([answer, message(b'Z', b"I")].concat());
        let gateway = self::gateway(|s| {
            s.targets[0].address = format!("127.0.0.1:{port}");
            s.postgres.max_statement_bytes = 4096;
        });
        let mut wire = Wire::log_in(gateway.port, "ada", &gateway.token("ada"), "any");
        wire.send(&[sent, sync()].concat());
        assert_eq!(wire.until_end(), "E(08P01)", "{name}");
        assert_eq!(decision(&gateway), "message out-of-order 08P01", "{name}");
    }
}

#[test]
fn another_role_at_startup_resolves_names_as_the_target_does() {
    let gateway = gateway(|_| ());
    let database = shared().database();
    shared().sql(
        &database,
        "DROP ROLE IF EXISTS bob; CREATE ROLE bob; GRANT bob TO app; CREATE SCHEMA bob AUTHORIZATION bob;
         CREATE TABLE public.t1 (id int); CREATE TABLE bob.t1 (id int);
         GRANT ALL ON public.t1, bob.t1 TO app, bob; GRANT USAGE ON SCHEMA bob TO app",
    );
    let token = gateway.token("ada");
    for (name, parameter, expected) in [
        ("none", ("application_name", "x"), "public.t1"),
        ("role", ("role", "bob"), "bob.t1"),
        ("options", ("options", "-c role=bob"), "bob.t1"),
    ] {
        let mut wire = Wire::connect(gateway.port);
        let mut hello = Vec::new();
        let pairs = [("user", "ada"), ("database", &database), parameter];
        let pairs = pairs.iter().map(|(n, v)| (n.as_bytes(), v.as_bytes()));
        bodycam_proxy::postgres::codec::startup::put_startup(&mut hello, Version::V3_0, pairs);
        bodycam_proxy::postgres::codec::frontend::put_password(&mut hello, token.as_bytes());
        wire.send(&hello);
        wire.until_ready();
        assert_eq!(wire.query("SELECT * FROM t1"), "T C(SELECT 0) ZI");
        drop(wire);
        gateway.wait_closed();
        let statements = gateway.statements();
        assert_eq!(statements.last().unwrap().1.relations_read, [expected], "{name}");
    }
    shared().sql(&database, "DROP SCHEMA bob CASCADE; DROP OWNED BY bob; DROP ROLE bob");
}

#[test]
fn no_way_of_sending_a_secret_leaves_it_in_content() {
    let gateway = gateway(|_| ());
    let database = shared().database();
    shared()
        .sql(&database, "CREATE TABLE people (id int, name text, password text); GRANT ALL ON people TO app");
    let token = gateway.token("ada");
    let mut wire = Wire::connect(gateway.port);
    let mut hello = Vec::new();
    let pairs = [
        ("user", "ada"),
        ("database", &database),
        ("options", "-c my.secret_token=CANARY --my.other=seen"),
        ("my.password", "CANARY"),
    ];
    let pairs = pairs.iter().map(|(n, v)| (n.as_bytes(), v.as_bytes()));
    bodycam_proxy::postgres::codec::startup::put_startup(&mut hello, Version::V3_0, pairs);
    bodycam_proxy::postgres::codec::frontend::put_password(&mut hello, token.as_bytes());
    wire.send(&hello);
    wire.until_ready();
    for (text, values) in [
        ("SELECT set_config('my.password', $1, false)", &["CANARY"][..]),
        ("SELECT set_config($1, $2, false)", &["my.password", "CANARY"]),
        ("UPDATE people SET password = $1", &["CANARY"]),
        ("UPDATE people SET password = $1::int::text", &["CANARY"]),
        ("INSERT INTO people (id, password) VALUES (1, $1)", &["CANARY"]),
        ("INSERT INTO people VALUES (1, 'a', $1)", &["CANARY"]),
        ("SELECT length($1)", &["postgres://bob:CANARY@host/db"]),
        ("SELECT crypt($1, gen_salt('bf'))", &["CANARY"]),
    ] {
        wire.ask(&[parse("", text), bind("", "", values), execute("", 0), sync()].concat());
    }
    for text in [
        "PREPARE x(text) AS SELECT set_config('app.password', $1, false)",
        "EXECUTE x('CANARY')",
        "UPDATE people SET (name, password) = ('x', 'CANARY') WHERE id = 1",
        "INSERT INTO people VALUES (900002, 'a', 'CANARY')",
        "INSERT INTO people (id, password) SELECT 900003, x FROM (VALUES ('CANARY')) v(x)",
        "MERGE INTO people c USING (VALUES (1, 'CANARY')) v(i, p) ON c.id = v.i WHEN MATCHED THEN UPDATE SET password = v.p",
        "SELECT 1 FROM people WHERE password = any(array['CANARY'])",
        "SELECT 1 FROM people WHERE password = 'CANARY'::int::text",
        "SELECT no_such('h', 'host=a pass'||'word=CANARY')",
        "SELECT length('Authorization: Bearer CANARY')",
        "SELECT length('Server=a;User=b;pass=CANARY')",
        "SELECT length('-----BEGIN PRIVATE KEY-----CANARY')",
        "SELECT length('private_key=CANARY')",
        "COPY people FROM PROGRAM 'curl -s -u bob:CANARY http://127.0.0.1:1/'",
        "SELECT length('x') -- postgres://u:CANARY@h/db",
        "SELECT crypt('CANARY', gen_salt('bf'))",
        "SELECT pgp_sym_encrypt('x', 'CANARY')",
    ] {
        wire.query(text);
    }
    // set_config by its OID.
    assert_eq!(wire.ask(&call(2078, &["my.password", "CANARY", "f"])), "V ZI");
    drop(wire);
    gateway.wait_closed();
    let mut seen = 0;
    for recorded in gateway.events() {
        for (kind, bytes) in &recorded.content {
            let text = String::from_utf8_lossy(bytes);
            assert!(!text.contains("CANARY"), "{kind:?}: {text}");
            seen += usize::from(text.contains("my.other=seen") || text.contains("***"));
        }
    }
    assert!(seen > 15, "what is replaced says so: {seen}");
}

#[test]
fn a_secret_in_an_expression_a_definition_or_a_query_is_nowhere_in_the_spool() {
    let gateway = gateway(|_| ());
    let database = shared().database();
    shared().sql(
        &database,
        "CREATE TABLE users (id int, name text UNIQUE, password text, data jsonb);
         GRANT ALL ON users TO app; GRANT CREATE ON SCHEMA public TO app",
    );
    let mut wire = Wire::log_in(gateway.port, "ada", &gateway.token("ada"), &database);
    let forms = [
        "update users set password='x'||@ where id=1",
        "update users set password=case when true then @ end",
        "update users set (name, password) = ('x', @)",
        "update users set password = (select @::text)",
        "update users set password = v.p from (values (@)) v(p)",
        "with n(password) as (values (@)) insert into users(password) select password from n",
        "insert into users(name, password) values ('kept', lower('x' || @))",
        "insert into users(password) select @",
        "insert into users(name) values ('a') on conflict (name) do update set password = 'x' || @",
        "merge into users u using (select 7 as id) n on u.id = n.id when not matched then insert (password) values ('x' || @)",
        "select 1 from (values ('x', @)) as v(name, password)",
        "select 'x' || @ as password",
        "select password from users union all select @",
        "select 1 from users where password = 'x' || @ or password in ('x', @) or password like 'x' || @",
        "select case password when @ then 1 end from users",
        "select 1 from users where 'x' || @ = password",
        "select 1 from users where data ->> 'password' = @",
        "select set_config('my.password', 'x' || @, false)",
        "explain select 1 from users where password = 'x' || @",
        "declare c cursor with hold for select 'x' || @ as password",
        "create table u2(password text default @)",
        "create table u3(password text default 'x' || @)",
        "create table u3(id int, password text check (lower(password) <> 'x' || @))",
        "alter table users alter password set default 'x' || @",
        "alter table u3 alter password set default @",
        "alter table u3 add if not exists password text default 'x' || @",
        "create domain password as text default @",
        "create procedure pq(password text default @) language sql as ''",
        "create view u4(password) as select 'x' || @",
        "/* alter role sa1 password @ */ select 1",
        "select 1 -- password 'CANARY'",
        "do $do$ begin update users set password = 'x' || @; end $do$",
        "prepare q as update users set password = 'x' || @",
    ];
    let literals = [
        "'CANARY'",
        "E'\\x41 CANARY'",
        "U&'CANARY'",
        "N'CANARY'",
        "$$CANARY$$",
        "$x$CANARY$x$",
        "'a'\n'CANARY'",
    ];
    for (form, literal) in forms.iter().flat_map(|form| literals.map(|literal| (form, literal))) {
        let text = form.replace('@', literal);
        wire.query(&text);
        wire.ask(&[parse("", &text), bind("", "", &[]), execute("", 0), sync()].concat());
    }
    // In comments and bodies a parameter stands for nothing.
    let takes = |form: &str| form.contains('@') && !form.starts_with("/*") && !form.starts_with("do ");
    for form in forms.into_iter().filter(|form| takes(form)) {
        let text = form.replace('@', "$1");
        wire.ask(&[parse("", &text), bind("", "", &["CANARY"]), execute("", 0), sync()].concat());
    }
    drop(wire);
    gateway.wait_closed();
    let (mut cut, mut kept) = (0, 0);
    for recorded in gateway.events() {
        let body = format!("{:?}", recorded.body);
        assert!(!body.contains("CANARY"), "{body}");
        // What the target answers is not searched.
        for (kind, bytes) in recorded.content.iter().filter(|(kind, _)| *kind != ContentKind::Rows) {
            let text = String::from_utf8_lossy(bytes);
            assert!(!text.contains("CANARY"), "{kind:?}: {text}");
            cut += usize::from(text.contains("***"));
            kept += usize::from(text.contains("'kept'"));
        }
    }
    assert!(gateway.templates().iter().all(|text| !text.contains("CANARY")));
    assert!(cut >= 2 * forms.len() * literals.len() - 10 && kept > 10, "{cut} {kept}");
}

#[test]
fn a_token_in_any_place_of_a_login_or_statement_is_recorded_by_its_id_only() {
    let gateway = gateway(|s| s.targets[0].databases = vec!["db*".to_owned(), "bcam_*".to_owned()]);
    let database = shared().database();
    let token = gateway.token("ada");
    let (shown, secret) = token.split_at(token.len() - 46);
    let ends = |parameters: &[(&str, &str)]| {
        let mut wire = Wire::connect(gateway.port);
        wire.hello(Version::V3_0, parameters);
        let mut out = Vec::new();
        bodycam_proxy::postgres::codec::frontend::put_password(&mut out, token.as_bytes());
        wire.send(&out);
        let answer = line(&wire.until_ready());
        gateway.wait_closed();
        answer
    };
    assert_eq!(ends(&[("user", &token), ("database", &database)]), "R E(28P01)");
    let misplaced = format!("x{token}");
    assert_eq!(ends(&[("user", "ada"), ("database", &misplaced)]), "R R E(3D000)", "no target");
    assert_eq!(ends(&[("user", "ada"), ("database", &token)]), "R R E(3D000)", "no database of the target");
    let mut wire = Wire::connect(gateway.port);
    let name = format!("agent/{token}");
    wire.hello(Version::V3_0, &[("user", "ada"), ("database", &database), ("application_name", &name)]);
    let mut out = Vec::new();
    bodycam_proxy::postgres::codec::frontend::put_password(&mut out, token.as_bytes());
    wire.send(&out);
    wire.until_ready();
    wire.query(&format!("SELECT length('{token}')"));
    wire.query(&format!("SET application_name = {token}"));
    wire.ask(
        &[parse(&token, "SELECT length($1)"), bind(&token, &token, &[&token]), execute(&token, 0), sync()]
            .concat(),
    );
    drop(wire);
    gateway.wait_closed();
    let events = gateway.events();
    let mut cut = 0;
    for recorded in &events {
        let body = format!("{:?}", recorded.body);
        assert!(!body.contains(secret), "{body}");
        if let bodycam_record::kinds::Body::SessionOpened(opened) = &recorded.body {
            assert!(["", &database].contains(&opened.database.as_str()), "{}", opened.database);
        }
        for (kind, bytes) in &recorded.content {
            let text = String::from_utf8_lossy(bytes);
            assert!(!text.contains(secret), "{kind:?}: {text}");
            cut += usize::from(text.contains("***"));
        }
    }
    let claimed =
        events.iter().find_map(|e| e.text(ContentKind::SessionFacts).filter(|f| f.contains("claimed")));
    assert!(claimed.unwrap().contains(&format!("{shown}***")), "whose token it was stays known");
    assert!(cut > 8, "{cut}");
}

#[test]
fn a_target_that_is_withdrawn_ends_the_sessions_with_it() {
    let gateway = gateway(|s| s.postgres.recheck_seconds = 1);
    let database = shared().database();
    let mut open = Wire::log_in(gateway.port, "robot", &gateway.token("robot"), &database);
    let mut other = Wire::log_in(gateway.port, "ada", &gateway.token("ada"), &database);
    assert_eq!(open.query("SELECT 1"), "T D(1) C(SELECT 1) ZI");
    gateway.allow_only("robot", &["another"]);
    assert_eq!(open.until_end(), "E(57P01)");
    assert_eq!(other.query("SELECT 1"), "T D(1) C(SELECT 1) ZI", "who may still be here stays");
    // An agent has no more than its owner.
    let mut open = Wire::log_in(gateway.port, "ada", &gateway.token("ada"), &database);
    gateway.allow_only("ada", &[]);
    assert_eq!(open.until_end(), "E(57P01)");
    drop(other);
    gateway.wait_closed();
    let story = gateway.story();
    assert!(
        story.contains(&"closed revoked".to_owned())
            && story.contains(&"decision session unlisted 57P01".to_owned()),
        "{story:?}"
    );
}

#[test]
fn a_session_cannot_fill_the_gateway_with_what_it_prepared() {
    let gateway = gateway(|_| ());
    let database = shared().database();
    let column = |n: usize| format!("{n:04}{}", "c".repeat(58));
    let columns: Vec<String> = (0..400).map(|n| format!("\"{}\" int", column(n))).collect();
    shared().sql(&database, &format!("CREATE TABLE wide ({}); GRANT ALL ON wide TO app", columns.join(", ")));
    let mut wire = Wire::log_in(gateway.port, "ada", &gateway.token("ada"), &database);
    let columns: Vec<String> = (0..1000).map(|n| format!("\"{}\"", column(n % 400))).collect();
    let wide = format!("SELECT {} FROM wide", columns.join(","));
    // What is given back makes room again.
    for _ in 0..40 {
        let batch: Vec<u8> = (0..10)
            .flat_map(|n| [parse(&format!("s{n}"), &wide), close(b'S', &format!("s{n}"))].concat())
            .collect();
        let answer = wire.ask(&[batch, sync()].concat());
        assert!(answer.ends_with("1 3 ZI"), "{answer}");
    }
    let mut seen = Vec::new();
    for n in 0..1000 {
        if wire.stream.write_all(&[parse(&format!("t{n}"), &wide), sync()].concat()).is_err() {
            break;
        }
        seen = wire.until_ready();
        if seen.last().is_none_or(|(tag, _)| *tag != b'Z') {
            assert!(n > 100, "{n} are nothing yet");
            break;
        }
    }
    assert_eq!(line(&seen), "E(54000)");
    gateway.wait_closed();
    assert!(gateway.story().contains(&"limit kept-facts closed".to_owned()), "{:?}", gateway.story().last());
}

#[test]
fn what_clients_leave_out_or_break_off_is_recorded_all_the_same() {
    let mut gateway = gateway(|s| s.postgres.drain_seconds = 1);
    let database = shop();
    shared().sql(
        &database,
        "CREATE TABLE dfr (id int UNIQUE DEFERRABLE INITIALLY DEFERRED); GRANT ALL ON dfr TO app",
    );
    let mut wire = Wire::log_in(gateway.port, "ada", &gateway.token("ada"), &database);
    // Columns without Describe, the client's view unchanged.
    let loot = "SELECT id, 1 FROM customers";
    assert_eq!(
        wire.ask(&[parse("", loot), bind("", "", &[]), execute("", 0), sync()].concat()),
        "1 2 D(canary) C(SELECT 1) ZI"
    );
    assert_eq!(
        wire.ask(&[parse("", "SELEC"), bind("", "", &[]), execute("", 0), sync()].concat()),
        "E(42601) ZI"
    );
    // A commit that fails at Sync.
    let twice = "INSERT INTO dfr VALUES (1), (1)";
    assert_eq!(
        wire.ask(&[parse("", twice), bind("", "", &[]), execute("", 0), sync()].concat()),
        "1 2 C(INSERT 0 2) E(23505) ZI"
    );
    // A Parse that the target skips.
    wire.send(&[parse("", "SELECT 1/0"), bind("", "", &[]), execute("", 0), message(b'H', b"")].concat());
    while wire.read().unwrap().0 != b'E' {}
    assert_eq!(wire.ask(&[parse("later", "DELETE FROM customers"), sync()].concat()), "ZI");
    // Binary COPY.
    wire.send(&query("COPY customers TO STDOUT (FORMAT binary)"));
    wire.until_ready();
    // Data that nothing reads, without end.
    let pairs = [message(b'd', b""), message(b'c', b"")].concat().repeat(20_000);
    wire.send(&pairs);
    assert_eq!(wire.query("SELECT 2"), "T D(2) C(SELECT 1) ZI");
    // Two statements of which one is cut.
    wire.send(&query("SELECT 3; SELECT repeat('x', 20000); SELECT pg_sleep(60)"));
    std::thread::sleep(std::time::Duration::from_millis(500));
    gateway.drain();
    let story = gateway.story();
    let copies = story.iter().filter(|l| l.starts_with("copy #0")).count();
    assert_eq!(copies, 1, "{story:?}");
    let statements = gateway.statements();
    let of = |text: &str| {
        let found = statements.iter().find(|(r, ..)| r.text(ContentKind::SqlText).is_some_and(|t| t == text));
        let (_, _, results) = found.unwrap_or_else(|| panic!("{text}: {story:?}"));
        results.iter().map(|(_, r)| r.clone()).collect::<Vec<_>>()
    };
    let outcomes = |text: &str| of(text).into_iter().map(|r| r.outcome).collect::<Vec<_>>();
    assert_eq!(of(loot)[0].column_attributes, [1, 0]);
    assert_eq!(outcomes(twice), ["complete", "rolled-back"]);
    assert_eq!(of(twice)[1].sqlstate.as_deref(), Some("23505"));
    assert_eq!(outcomes("DELETE FROM customers"), ["skipped"]);
    assert_eq!(of("COPY customers TO STDOUT (FORMAT binary)")[0].rows, 1);
    assert_eq!(outcomes("SELECT 3; SELECT repeat('x', 20000); SELECT pg_sleep(60)"), ["complete", "cut"]);
}

#[test]
fn views_and_temporary_tables_do_not_hide_what_is_read() {
    let gateway = gateway(|_| ());
    let database = shop();
    shared().sql(
        &database,
        "CREATE VIEW harmless AS SELECT id FROM customers; CREATE VIEW outermost AS SELECT id FROM harmless;
         GRANT SELECT ON harmless, outermost TO app",
    );
    let mut wire = Wire::log_in(gateway.port, "ada", &gateway.token("ada"), &database);
    wire.query("SELECT id FROM outermost WHERE id = 'x'");
    wire.query("SELECT id FROM colours");
    wire.query("CREATE TEMP TABLE colours AS SELECT id FROM customers");
    wire.query("SELECT id FROM colours");
    drop(wire);
    gateway.wait_closed();
    let statements = gateway.statements();
    let read = |at: usize| statements[at].1.relations_read.clone();
    assert_eq!(read(0), ["public.customers", "public.harmless", "public.outermost"]);
    assert_eq!(read(1), ["public.colours"]);
    assert_eq!(statements[2].1.relations_written, ["pg_temp.colours"]);
    assert_eq!(read(3), ["pg_temp.colours", "public.colours"]);
}

#[test]
fn operators_and_settings_of_the_role_do_not_blind_the_gateways_own_session() {
    let gateway = gateway(|_| ());
    let database = shop();
    // All of it is within the rights of the role that the gateway logs in with.
    shared().sql(
        &database,
        "SET ROLE app;
         CREATE SCHEMA evil;
         CREATE TABLE evil.ran (who text);
         CREATE FUNCTION evil.nothing(name, text) RETURNS bool LANGUAGE plpgsql AS $$
         BEGIN
           PERFORM set_config('search_path', 'evil', false);
           PERFORM set_config('transaction_read_only', 'off', true);
           INSERT INTO evil.ran VALUES (current_setting('application_name'));
           RETURN false;
         EXCEPTION WHEN OTHERS THEN RETURN false;
         END $$;
         CREATE FUNCTION evil.never(oid, oid) RETURNS bool LANGUAGE sql AS 'SELECT false';
         CREATE OPERATOR evil.!~ (leftarg = name, rightarg = text, function = evil.nothing);
         CREATE OPERATOR evil.= (leftarg = oid, rightarg = oid, function = evil.never);",
    );
    for setting in [
        "search_path = evil, pg_catalog, public",
        "default_transaction_isolation = serializable",
        "default_transaction_deferrable = on",
        "statement_timeout = 1",
        "standard_conforming_strings = off",
        "client_encoding = LATIN1",
    ] {
        shared().sql(&database, &format!("ALTER ROLE app IN DATABASE {database} SET {setting}"));
    }
    let token = gateway.token("ada");
    let mut wire = Wire::log_in(gateway.port, "ada", &token, &database);
    assert_eq!(
        wire.query("SET search_path = public, pg_catalog; SET statement_timeout = 0"),
        "C(SET) C(SET) ZI"
    );
    assert_eq!(wire.query("SELECT id FROM public.customers"), "T D(canary) C(SELECT 1) ZI");
    // Ended by the client, it comes back as blind to the role's settings as it was.
    let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
               WHERE application_name = 'bodycam catalog' AND datname = current_database()";
    assert_eq!(wire.query(end), "T D(1) C(SELECT 1) ZI");
    wire.query("CREATE TABLE public.later (id text)");
    assert_eq!(wire.query("SELECT id FROM public.later"), "T C(SELECT 0) ZI");
    drop(wire);
    gateway.wait_closed();
    let statements = gateway.statements();
    assert_eq!(statements[1].1.relations_read, ["public.customers"]);
    assert_eq!(statements[4].1.relations_read, ["public.later"]);
    assert_eq!(shared().sql(&database, "SELECT count(*) FROM evil.ran"), "0", "nothing of evil ran in it");
}

#[test]
fn no_connection_of_the_gateway_sends_the_password_in_clear_to_whoever_asks() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (send, receive) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, send) = (stream.unwrap(), send.clone());
            std::thread::spawn(move || {
                let (mut got, mut buffer) = (Vec::new(), [0; 4096]);
                let n = stream.read(&mut buffer).unwrap_or(0);
                got.extend_from_slice(&buffer[..n]);
                if String::from_utf8_lossy(&got).contains("bodycam catalog") {
                    stream.write_all(&message(b'R', &[0, 0, 0, 3])).unwrap();
                    while let Ok(n @ 1..) = stream.read(&mut buffer) {
                        got.extend_from_slice(&buffer[..n]);
                    }
                    send.send(got).unwrap();
                    return;
                }
                let hello = [message(b'R', &[0; 4]), message(b'Z', b"I")].concat();
                stream.write_all(&hello).unwrap();
                while let Ok(1..) = stream.read(&mut buffer) {
                    let answer = [message(b'C', b"SELECT 0\0"), message(b'Z', b"I")].concat();
                    if stream.write_all(&answer).is_err() {
                        break;
                    }
                }
            });
        }
    });
    let gateway = gateway(|s| s.targets[0].address = format!("127.0.0.1:{port}"));
    let _wire = Wire::log_in(gateway.port, "ada", &gateway.token("ada"), "any");
    let got = receive.recv_timeout(std::time::Duration::from_secs(10)).unwrap();
    let text = String::from_utf8_lossy(&got);
    assert!(text.contains("bodycam catalog") && !text.contains("app-password"), "{text}");
}

#[test]
fn a_refused_parse_never_runs_the_statement_before_it() {
    let gateway = gateway(|s| s.postgres.max_statement_bytes = 4096);
    let database = shared().database();
    shared().sql(&database, "CREATE TABLE t (id int); GRANT ALL ON t TO app");
    let mut wire = Wire::log_in(gateway.port, "ada", &gateway.token("ada"), &database);
    assert_eq!(wire.ask(&[parse("", "INSERT INTO t VALUES (1)"), sync()].concat()), "1 ZI");
    let long = format!("SELECT '{}'", "x".repeat(8192));
    assert_eq!(
        wire.ask(&[parse("", &long), bind("", "", &[]), execute("", 0), sync()].concat()),
        "E(54000) ZI"
    );
    assert_eq!(wire.ask(&[bind("", "", &[]), execute("", 0), sync()].concat()), "E(26000) ZI");
    assert_eq!(shared().sql(&database, "SELECT count(*) FROM t"), "0");
}

#[test]
fn a_client_that_leaves_in_the_middle_of_copy_commits_nothing() {
    let gateway = gateway(|_| ());
    let database = shared().database();
    shared().sql(&database, "CREATE TABLE t (id int); GRANT ALL ON t TO app");
    for last in [message(b'X', b""), Vec::new()] {
        let mut wire = Wire::log_in(gateway.port, "ada", &gateway.token("ada"), &database);
        wire.send(&query("COPY t FROM STDIN"));
        assert_eq!(wire.read().unwrap().0, b'G');
        wire.send(&[message(b'd', b"1\n2\n"), last].concat());
        drop(wire);
        gateway.wait_closed();
    }
    assert_eq!(shared().sql(&database, "SELECT count(*) FROM t"), "0");
    let story = gateway.story();
    let copies: Vec<_> = story.iter().filter(|l| l.starts_with("copy")).collect();
    assert!(copies.len() == 2 && copies.iter().all(|c| !c.contains("done")), "{story:?}");
}

#[test]
fn stray_copy_data_and_storms_of_sync_and_flush_put_nothing_out_of_step() {
    let gateway = gateway(|_| ());
    let database = shared().database();
    let mut wire = Wire::log_in(gateway.port, "ada", &gateway.token("ada"), &database);
    wire.send(&[message(b'd', b"nobody reads this"), message(b'c', b""), message(b'f', b"x\0")].concat());
    assert_eq!(wire.query("SELECT 1"), "T D(1) C(SELECT 1) ZI");
    wire.send(&[message(b'H', b"").repeat(2000), sync().repeat(2000)].concat());
    for _ in 0..2000 {
        assert_eq!(line(&wire.until_ready()), "ZI");
    }
    assert_eq!(wire.query("SELECT 2"), "T D(2) C(SELECT 1) ZI");
    drop(wire);
    gateway.wait_closed();
    assert!(gateway.story().iter().any(|l| l.starts_with("copy #0 in failed")), "{:?}", gateway.story());
}

#[test]
fn a_session_cannot_fill_the_gateway_with_names() {
    let gateway = gateway(|_| ());
    let database = shared().database();
    let mut wire = Wire::log_in(gateway.port, "ada", &gateway.token("ada"), &database);
    let mut seen = Vec::new();
    for batch in 0..11 {
        let parses: Vec<u8> = (0..1000).flat_map(|n| parse(&format!("s{batch}_{n}"), "SELECT 1")).collect();
        if wire.stream.write_all(&[parses, sync()].concat()).is_err() {
            break;
        }
        seen = wire.until_ready();
        if seen.last().is_none_or(|(tag, _)| *tag != b'Z') {
            break;
        }
    }
    assert!(line(&seen).ends_with("E(54000)"), "{}", line(&seen));
    gateway.wait_closed();
    assert!(gateway.story().contains(&"limit names closed".to_owned()));
}

/// SplitMix64 (Steele, Lea, Flood 2014).
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % n).unwrap()
    }
}

/// A random pipeline that ends in Sync, so that both sides come to rest.
fn pipeline(random: &mut Random) -> Vec<u8> {
    const TEXTS: &[&str] = &[
        "SELECT 1",
        "SELECT $1::int",
        "SELECT 1/0",
        "SELEC",
        "SELECT generate_series(1, 5)",
        "BEGIN",
        "COMMIT",
        "ROLLBACK",
        "PREPARE a AS SELECT 'sql'",
        "EXECUTE a",
        "DEALLOCATE a",
        "DECLARE b CURSOR FOR SELECT 7",
        "FETCH 1 FROM b",
        "CLOSE b",
        "SELECT 1; SELECT 2",
        "",
        "SET LOCAL work_mem = '4MB'",
        "DO $$ BEGIN RAISE NOTICE 'n'; END $$",
        "DISCARD ALL",
        "SELECT * FROM nowhere",
        "COPY (SELECT 8) TO STDOUT",
    ];
    const NAMES: &[&str] = &["", "", "a", "b"];
    let mut out = Vec::new();
    for _ in 0..1 + random.below(10) {
        let text = TEXTS[random.below(TEXTS.len() as u64)];
        let name = NAMES[random.below(4)];
        let other = NAMES[random.below(4)];
        out.extend(match random.below(16) {
            0..=3 => parse(name, text),
            4..=6 => bind(name, other, if random.below(3) == 0 { &["5"] } else { &[] }),
            7..=9 => execute(name, u32::try_from(random.below(3)).unwrap()),
            10 => describe(b'S', name),
            11 => describe(b'P', name),
            12 => close(if random.below(2) == 0 { b'S' } else { b'P' }, name),
            13 => query(text),
            14 => message(b'H', b""),
            _ => sync(),
        });
    }
    out.extend(sync());
    out
}

#[test]
fn random_pipelines_look_the_same_with_and_without_the_gateway() {
    let seed = std::env::var("BODYCAM_PIPELINE_SEED").ok().map_or(20261121, |s| s.parse().unwrap());
    let sessions = std::env::var("BODYCAM_PIPELINES").ok().map_or(60, |s| s.parse().unwrap());
    let gateway = gateway(|_| ());
    let database = shared().database();
    let token = gateway.token("ada");
    let mut random = Random(seed);
    for session in 0..sessions {
        let mut through = Wire::log_in(gateway.port, "ada", &token, &database);
        let mut direct = Wire::direct(shared().port(), DIRECT, &database);
        for _ in 0..8 {
            let sent = pipeline(&mut random);
            let mut answers = [Vec::new(), Vec::new()];
            for (wire, answer) in [&mut through, &mut direct].into_iter().zip(&mut answers) {
                // A last query tells where the answers end, however many ReadyForQuery there are.
                wire.send(&[sent.clone(), query("ROLLBACK; SELECT 'the end'")].concat());
                loop {
                    let message = wire.read().expect("a message");
                    let end = message.0 == b'D' && message.1.ends_with(b"the end");
                    answer.push(message);
                    if end {
                        answer.extend(wire.until_ready());
                        break;
                    }
                }
            }
            let [through, direct] = answers;
            assert_eq!(
                line(&through),
                line(&direct),
                "seed {seed}, session {session}: {}",
                String::from_utf8_lossy(&sent).escape_debug()
            );
            assert!(through == direct, "seed {seed}, session {session}: the bytes differ");
        }
    }
    gateway.wait_closed();
    // Every statement has its outcome; only a Parse that went well has none.
    for (recorded, statement, results) in gateway.statements() {
        let finals = results.iter().filter(|(_, r)| r.outcome != "suspended").count();
        assert!(finals > 0 || statement.form == "parse", "seed {seed}: {recorded:?}");
    }
}
