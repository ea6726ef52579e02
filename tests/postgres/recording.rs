//! What is recorded of statements, results, COPY and side messages.

use bodycam_proxy::postgres::ClientAuth;
use bodycam_proxy::recording::{RecordingConfig, Rows};
use bodycam_record::ContentKind;
use bodycam_record::kinds::Body;

use crate::support::gateway::{Gateway, Setup};
use crate::support::postgres::{shared, succeeded};
use crate::support::wire::{Wire, bind, close, describe, execute, message, parse, query, sync};

/// A gateway for clients that speak on the wire, a database, and a connection to it.
fn wired(change: impl FnOnce(&mut Setup)) -> (Gateway, String, Wire) {
    let mut setup = Setup::new(shared());
    setup.postgres.auth = ClientAuth::Token;
    change(&mut setup);
    let gateway = setup.start();
    let database = shared().database();
    shared().sql(
        &database,
        "CREATE TABLE people (id int, name text); GRANT ALL ON people TO app;
        INSERT INTO people VALUES (1, 'Ada'), (2, 'Bo'), (3, 'Cy')",
    );
    let wire = Wire::log_in(gateway.port, "robot", &gateway.token("robot"), &database);
    (gateway, database, wire)
}

/// The story of the last session without its first and last line.
fn told(gateway: &Gateway, wire: Wire) -> Vec<String> {
    drop(wire);
    gateway.wait_closed();
    let story = gateway.story();
    let from = story.iter().rposition(|l| l.starts_with("opened")).unwrap();
    story[from + 1..story.len() - 1].to_vec()
}

#[test]
fn rows_are_recorded_as_sent_with_the_origin_of_their_columns() {
    let (gateway, _, mut wire) = wired(|_| ());
    assert_eq!(wire.query("SELECT id, name, 7 FROM people WHERE id < 3"), "T D(1) D(2) C(SELECT 2) ZI");
    drop(wire);
    gateway.wait_closed();
    let statements = gateway.statements();
    let (_, statement, results) = &statements[0];
    assert_eq!((statement.form.as_str(), statement.has_predicate), ("simple", true));
    assert_eq!(statement.relations_read, ["public.people"]);
    let (recorded, result) = &results[0];
    assert_eq!((result.rows, result.rows_stored, result.rows_cut), (2, 2, false));
    assert_eq!(result.column_attributes, [1, 2, 0]);
    assert_eq!(result.column_tables[0], result.column_tables[1]);
    assert_eq!(result.column_tables[2], 0);
    assert_eq!(result.column_types, [23, 25, 23]);
    let cell = |text: &str| Some(text.to_owned());
    assert_eq!(recorded.rows(), [[cell("1"), cell("Ada"), cell("7")], [cell("2"), cell("Bo"), cell("7")]]);
    let columns =
        bodycam_record::content::postgres::columns(recorded.bytes(ContentKind::Columns).unwrap()).unwrap();
    assert_eq!(columns[1].name, b"name");
    assert!(result.rows_digest.is_some() && result.bytes > 0);
}

#[test]
fn without_clear_rows_counts_and_digest_are_kept_and_no_value() {
    let (gateway, _, mut wire) = wired(|s| s.recording.rows = Rows::Digest);
    assert_eq!(wire.query("SELECT name FROM people"), "T D(Ada) D(Bo) D(Cy) C(SELECT 3) ZI");
    assert_eq!(wire.query("SELECT name FROM people"), "T D(Ada) D(Bo) D(Cy) C(SELECT 3) ZI");
    drop(wire);
    gateway.wait_closed();
    let statements = gateway.statements();
    let results: Vec<_> = statements.iter().map(|(_, _, r)| &r[0]).collect();
    assert_eq!((results[0].1.rows, results[0].1.rows_stored), (3, 0));
    assert!(results[0].0.content.is_empty(), "{:?}", results[0].0.content);
    assert_eq!(results[0].1.rows_digest, results[1].1.rows_digest, "equal rows, equal digest in one session");
}

#[test]
fn stored_rows_are_bounded_per_result_and_per_session_and_the_event_says_so() {
    let (gateway, _, mut wire) = wired(|s| {
        s.recording =
            RecordingConfig { max_rows_per_result: 2, max_rows_per_session: 3, ..s.recording.clone() };
    });
    for _ in 0..3 {
        wire.query("SELECT id FROM people");
    }
    drop(wire);
    gateway.wait_closed();
    let stored: Vec<_> = gateway
        .statements()
        .iter()
        .map(|(_, _, r)| (r[0].1.rows, r[0].1.rows_stored, r[0].1.rows_cut, r[0].0.rows().len()))
        .collect();
    assert_eq!(stored, [(3, 2, true, 2), (3, 1, true, 1), (3, 0, true, 0)]);
}

#[test]
fn parameters_belong_to_the_execution_that_used_them() {
    let (gateway, _, mut wire) = wired(|_| ());
    let prepare = [parse("by_id", "SELECT name FROM people WHERE id = $1"), describe(b'S', "by_id"), sync()];
    assert_eq!(wire.ask(&prepare.concat()), "1 t T ZI");
    for (id, name) in [("1", "Ada"), ("2", "Bo")] {
        let run = [bind("", "by_id", &[id]), execute("", 0), sync()].concat();
        assert_eq!(wire.ask(&run), format!("2 D({name}) C(SELECT 1) ZI"));
    }
    drop(wire);
    gateway.wait_closed();
    let statements = gateway.statements();
    let forms: Vec<_> = statements.iter().map(|(_, s, r)| (s.form.as_str(), s.bind_count, r.len())).collect();
    assert_eq!(forms, [("parse", 0, 0), ("extended", 1, 1), ("extended", 1, 1)]);
    assert_eq!(statements[2].0.binds()[0].value.as_deref(), Some(&b"2"[..]));
    assert_eq!(statements[2].0.binds()[0].type_oid, 23, "as the target described it");
    assert_eq!(statements[2].0.event.envelope.parent_seq, Some(statements[0].0.event.envelope.seq));
    // Execute alone carries no description: the one of the prepared statement stands.
    assert_eq!(statements[2].2[0].1.column_attributes, [2]);
    assert_eq!(statements[1].1.statement_digest, statements[0].1.statement_digest);
}

#[test]
fn parse_and_execution_in_one_batch_are_one_event() {
    let (gateway, _, mut wire) = wired(|_| ());
    let batch =
        [parse("", "SELECT $1::int"), bind("", "", &["5"]), describe(b'P', ""), execute("", 0), sync()];
    assert_eq!(wire.ask(&batch.concat()), "1 2 T D(5) C(SELECT 1) ZI");
    assert_eq!(
        told(&gateway, wire),
        ["extended #1 allow SELECT $1::int", "result #1.0 complete SELECT 1 1 rows"]
    );
}

#[test]
fn paging_through_a_portal_counts_every_page() {
    let (gateway, _, mut wire) = wired(|_| ());
    wire.query("BEGIN");
    let open = [parse("", "SELECT id FROM people ORDER BY id"), bind("p", "", &[]), execute("p", 2), sync()];
    assert_eq!(wire.ask(&open.concat()), "1 2 D(1) D(2) s ZT");
    assert_eq!(wire.ask(&[execute("p", 2), sync()].concat()), "D(3) C(SELECT 1) ZT");
    // A portal that has ended says so to whoever asks again, and each time is a statement.
    assert_eq!(wire.ask(&[execute("p", 0), sync()].concat()), "C(SELECT 0) ZT");
    assert_eq!(wire.query("COMMIT"), "C(COMMIT) ZI");
    let story = told(&gateway, wire);
    assert_eq!(
        story[5..7],
        ["extended #3 allow SELECT id FROM people ORDER BY id", "result #3.0 complete SELECT 0 0 rows"]
    );
    assert_eq!(
        story[2..5],
        [
            "extended #2 allow SELECT id FROM people ORDER BY id",
            "result #2.0 suspended  2 rows",
            "result #2.1 complete SELECT 1 1 rows",
        ]
    );
}

#[test]
fn what_never_ran_says_so() {
    let (gateway, _, mut wire) = wired(|_| ());
    // Bound, never executed.
    wire.ask(&[parse("", "SELECT 1"), bind("", "", &[]), sync()].concat());
    // An error skips what follows, even a simple query, until Sync.
    let batch = [
        parse("", "SELECT 1/0"),
        bind("", "", &[]),
        execute("", 0),
        parse("", "SELECT 'never'"),
        bind("", "", &[]),
        execute("", 0),
        query("SELECT 'never either'"),
        sync(),
    ];
    assert_eq!(wire.ask(&batch.concat()), "1 E(22012) ZI");
    assert_eq!(wire.query("SELECT 2"), "T D(2) C(SELECT 1) ZI");
    let story = told(&gateway, wire);
    let outcomes: Vec<_> = story.iter().filter(|l| l.starts_with("result")).map(String::as_str).collect();
    assert_eq!(
        outcomes,
        [
            "result #1.0 skipped  0 rows",
            "result #2.0 error 22012 0 rows",
            "result #3.0 skipped  0 rows",
            "result #4.0 skipped  0 rows",
            "result #5.0 complete SELECT 1 1 rows",
        ]
    );
}

#[test]
fn a_statement_that_cannot_be_parsed_is_recorded_with_its_error() {
    let (gateway, _, mut wire) = wired(|_| ());
    assert_eq!(wire.query("SELEC 1"), "E(42601) ZI");
    assert_eq!(wire.ask(&[parse("", "SELECT nope"), sync()].concat()), "E(42703) ZI");
    assert_eq!(
        told(&gateway, wire),
        [
            "simple #1 allow SELEC 1",
            "result #1.0 error 42601 0 rows",
            "parse #2 allow SELECT nope",
            "result #2.0 error 42703 0 rows",
        ]
    );
    let error = &gateway.statements()[0].2[0].0;
    assert!(error.text(ContentKind::Error).unwrap().contains("syntax error"));
}

#[test]
fn a_refused_redefinition_does_not_change_what_a_name_stands_for() {
    let (gateway, _, mut wire) = wired(|_| ());
    wire.ask(&[parse("s", "SELECT name FROM people"), sync()].concat());
    // The name exists: the target refuses, and the old statement stays.
    assert_eq!(wire.ask(&[parse("s", "SELECT 1"), sync()].concat()), "E(42P05) ZI");
    assert_eq!(
        wire.ask(&[bind("", "s", &[]), execute("", 0), sync()].concat()),
        "2 D(Ada) D(Bo) D(Cy) C(SELECT 3) ZI"
    );
    assert_eq!(wire.ask(&[close(b'S', "s"), parse("s", "SELECT 2"), sync()].concat()), "3 1 ZI");
    assert_eq!(wire.ask(&[bind("", "s", &[]), execute("", 0), sync()].concat()), "2 D(2) C(SELECT 1) ZI");
    let story = told(&gateway, wire);
    let run: Vec<_> = story.iter().filter(|l| l.starts_with("extended")).map(String::as_str).collect();
    assert_eq!(run, ["extended #3 allow SELECT name FROM people", "extended #5 allow SELECT 2"]);
}

#[test]
fn names_are_shared_by_sql_and_protocol() {
    let (gateway, _, mut wire) = wired(|_| ());
    wire.ask(&[parse("s8", "SELECT name FROM people"), sync()].concat());
    assert_eq!(wire.query("EXECUTE s8"), "T D(Ada) D(Bo) D(Cy) C(SELECT 3) ZI");
    wire.query("PREPARE q AS SELECT id FROM people");
    assert_eq!(wire.ask(&[bind("", "q", &[]), execute("", 1), sync()].concat()), "2 D(1) s ZI");
    wire.query("BEGIN");
    wire.query("DECLARE c CURSOR FOR SELECT name FROM people");
    assert_eq!(wire.ask(&[execute("c", 1), sync()].concat()), "D(Ada) s ZT");
    assert_eq!(wire.query("FETCH 1 FROM c"), "T D(Bo) C(FETCH 1) ZT");
    drop(wire);
    gateway.wait_closed();
    for (recorded, statement, results) in gateway.statements() {
        let rows: i64 = results.iter().map(|(_, r)| r.rows).sum();
        if rows > 0 {
            let text = recorded.text(ContentKind::SqlText);
            assert_eq!(statement.relations_read, ["public.people"], "{text:?} {statement:?}");
        }
    }
}

#[test]
fn copy_is_counted_digested_and_stored_in_both_directions() {
    let (gateway, _, mut wire) = wired(|_| ());
    wire.send(&query("COPY people FROM STDIN"));
    assert_eq!(wire.read().unwrap().0, b'G');
    wire.send(&[message(b'd', b"8\tEve\n"), message(b'd', b"9\tFay\n"), message(b'c', b"")].concat());
    assert_eq!(crate::support::wire::line(&wire.until_ready()), "C(COPY 2) ZI");
    assert_eq!(wire.query("COPY people (id) TO STDOUT"), "H d d d d d c C(COPY 5) ZI");
    wire.send(&query("COPY people FROM STDIN"));
    wire.read().unwrap();
    wire.send(&[message(b'd', b"10\tGus\n"), message(b'f', b"enough\0")].concat());
    assert_eq!(crate::support::wire::line(&wire.until_ready()), "E(57014) ZI");
    drop(wire);
    gateway.wait_closed();
    let copies: Vec<_> = gateway
        .events()
        .into_iter()
        .filter_map(|e| match &e.body {
            Body::SqlCopy(c) => Some((
                c.direction.clone(),
                c.outcome.clone(),
                c.messages,
                e.text(ContentKind::CopyData).unwrap(),
            )),
            _ => None,
        })
        .collect();
    let expected = [
        ("in", "done", 2, "8\tEve\n9\tFay\n"),
        ("out", "done", 5, "1\n2\n3\n8\n9\n"),
        ("in", "failed", 1, "10\tGus\n"),
    ];
    let expected = expected.map(|(d, o, n, t)| (d.to_owned(), o.to_owned(), n, t.to_owned()));
    assert_eq!(copies, expected);
    let out = &gateway.statements()[1].2[0].1;
    assert_eq!((out.rows, out.bytes, out.rows_digest.is_some()), (5, 10, true), "a COPY out is a result");
}

#[test]
fn a_copy_to_the_client_has_the_rows_of_its_tag_in_every_format_and_what_was_sent_when_it_fails() {
    let (gateway, _, mut wire) = wired(|_| ());
    assert_eq!(wire.query("COPY people (id) TO STDOUT (FORMAT csv, HEADER)"), "H d d d d c C(COPY 3) ZI");
    wire.send(&query("COPY people (id) TO STDOUT (FORMAT binary)"));
    wire.until_ready();
    wire.send(&query("COPY (SELECT 1 / (4 - n) FROM generate_series(1, 9) n) TO STDOUT"));
    wire.until_ready();
    assert_eq!(wire.query("SELECT 1"), "T D(1) C(SELECT 1) ZI");
    drop(wire);
    gateway.wait_closed();
    let results: Vec<_> = gateway.statements().into_iter().flat_map(|(_, _, results)| results).collect();
    let sent: Vec<_> = results.iter().map(|(_, r)| (r.outcome.as_str(), r.rows, r.bytes > 0)).collect();
    assert_eq!(
        sent,
        [("complete", 3, true), ("complete", 3, true), ("error", 3, true), ("complete", 1, true)]
    );
}

#[test]
fn copy_in_the_extended_protocol_ignores_the_sync_sent_into_it() {
    let (gateway, _, mut wire) = wired(|_| ());
    let begin = [parse("", "COPY people FROM STDIN"), bind("", "", &[]), execute("", 0), sync()].concat();
    for (data, end) in [("20\tZoe\n", "C(COPY 1) ZI"), ("not a number\tx\n", "E(22P02) ZI")] {
        wire.send(&begin);
        while wire.read().unwrap().0 != b'G' {}
        wire.send(&[message(b'd', data.as_bytes()), message(b'c', b""), sync()].concat());
        assert_eq!(crate::support::wire::line(&wire.until_ready()), end);
        assert_eq!(wire.query("SELECT 1"), "T D(1) C(SELECT 1) ZI", "nothing is out of step");
    }
    // Everything at once, without waiting for the target to say that it reads.
    let at_once =
        [begin[..begin.len() - 5].to_vec(), message(b'd', b"21\tYan\n"), message(b'c', b""), sync()].concat();
    assert_eq!(wire.ask(&at_once), "1 2 G C(COPY 1) ZI");
    assert_eq!(wire.query("SELECT 2"), "T D(2) C(SELECT 1) ZI");
    drop(wire);
    gateway.wait_closed();
}

#[test]
fn side_messages_are_recorded_before_they_arrive() {
    let (gateway, _, mut wire) = wired(|_| ());
    wire.query("LISTEN c");
    assert_eq!(wire.query("DO $$ BEGIN RAISE NOTICE 'found %', 42; END $$"), "N C(DO) ZI");
    assert_eq!(wire.query("NOTIFY c, 'a payload'"), "C(NOTIFY) A ZI");
    assert_eq!(wire.query("SET application_name = 'run-77'"), "C(SET) S ZI");
    wire.query("SELECT 1");
    drop(wire);
    gateway.wait_closed();
    let events = gateway.events();
    let messages: Vec<_> = events
        .iter()
        .filter_map(|e| match &e.body {
            Body::SqlMessage(m) => {
                Some((m.message.as_str(), m.parameter.as_deref(), e.text(ContentKind::Message).unwrap()))
            }
            _ => None,
        })
        .collect();
    assert_eq!(messages.len(), 3, "{messages:?}");
    assert!(messages[0].0 == "notice" && messages[0].2.contains("found 42"));
    assert!(messages[1].0 == "notification" && messages[1].2.contains("a payload"));
    assert_eq!((messages[2].0, messages[2].1), ("parameter", Some("application_name")));
    let statements = gateway.statements();
    assert!(
        statements.last().unwrap().1.correlation.is_some(),
        "a new application name is a new correlation id"
    );
    assert_eq!(statements[0].1.correlation, None);
}

#[test]
fn a_function_call_message_is_a_statement() {
    let (gateway, database, mut wire) = wired(|_| ());
    let oid: u32 = shared().sql(&database, "SELECT 'int4pl'::regproc::oid").parse().unwrap();
    let mut body = oid.to_be_bytes().to_vec();
    body.extend_from_slice(&[0, 0, 0, 2, 0, 0, 0, 2, b'4', b'0', 0, 0, 0, 1, b'2', 0, 0]);
    assert_eq!(wire.ask(&message(b'F', &body)), "V ZI");
    assert_eq!(wire.ask(&message(b'F', &[0; 10])), "E(42883) ZI");
    // query_to_xml(text, boolean, boolean, text), which runs what it is given.
    let mut body = 2924u32.to_be_bytes().to_vec();
    body.extend_from_slice(&[0, 0, 0, 4]);
    for value in ["SELECT 1", "t", "f", ""] {
        body.extend(u32::try_from(value.len()).unwrap().to_be_bytes());
        body.extend(value.as_bytes());
    }
    body.extend_from_slice(&[0, 0]);
    assert_eq!(wire.ask(&message(b'F', &body)), "V ZI");
    drop(wire);
    gateway.wait_closed();
    let statements = gateway.statements();
    let (recorded, statement, results) = &statements[0];
    assert_eq!(
        (statement.form.as_str(), &statement.opaque[..]),
        ("function-call", &["function-call".to_owned()][..])
    );
    assert_eq!(statement.functions, ["int4pl"]);
    let (_, xml, _) = &statements[2];
    assert_eq!(
        (&xml.functions[..], &xml.opaque[..]),
        (&["query_to_xml".to_owned()][..], &["function-call".to_owned(), "dynamic-sql".to_owned()][..])
    );
    assert_eq!(recorded.binds()[0].value.as_deref(), Some(&b"40"[..]));
    assert!(recorded.text(ContentKind::Detail).unwrap().contains(&oid.to_string()));
    assert_eq!((results[0].1.outcome.as_str(), results[0].1.rows), ("complete", 1));
    assert_eq!(statements[1].2[0].1.outcome, "error");
}

#[test]
fn passwords_in_statements_reach_neither_content_nor_errors() {
    let (gateway, _, mut wire) = wired(|_| ());
    wire.query("ALTER ROLE app PASSWORD 'hunter2hunter2' VALID UNTIL 'nonsense'");
    wire.query("CREATE ROLE hunter2 PASSWORD 'hunter2' oops");
    drop(wire);
    gateway.wait_closed();
    for event in gateway.events() {
        for (kind, bytes) in &event.content {
            let text = String::from_utf8_lossy(bytes);
            let role_name = text.contains("CREATE ROLE hunter2");
            assert!(!text.replace("ROLE hunter2", "").contains("hunter2"), "{kind:?}: {text} {role_name}");
        }
    }
    assert_eq!(gateway.statements().len(), 2);
}

#[test]
fn a_pipeline_with_flush_and_many_statements_stays_in_step() {
    let (gateway, _, mut wire) = wired(|_| ());
    let flush = message(b'H', b"");
    wire.send(&[parse("", "SELECT 1"), bind("", "", &[]), execute("", 0), flush].concat());
    for tag in [b'1', b'2', b'D', b'C'] {
        assert_eq!(wire.read().unwrap().0, tag);
    }
    assert_eq!(wire.ask(&sync()), "ZI");
    let mut all = Vec::new();
    for n in 0..5000 {
        all.extend([parse("", &format!("SELECT {n}")), bind("", "", &[]), execute("", 0)].concat());
    }
    all.extend(sync());
    let mut sender = wire.stream.try_clone().unwrap();
    let sending = std::thread::spawn(move || std::io::Write::write_all(&mut sender, &all).unwrap());
    let answer = wire.until_ready();
    sending.join().unwrap();
    assert_eq!(answer.iter().filter(|(tag, _)| *tag == b'D').count(), 5000);
    drop(wire);
    gateway.wait_closed();
    let statements = gateway.statements();
    assert_eq!(statements.iter().filter(|(_, s, r)| s.form == "extended" && r.len() == 1).count(), 5001);
}

#[test]
fn a_multi_statement_query_has_a_result_for_each() {
    let (gateway, _, mut wire) = wired(|_| ());
    assert_eq!(
        wire.query("SELECT 1; SELECT 2; SELECT 1/0; SELECT 3"),
        "T D(1) C(SELECT 1) T D(2) C(SELECT 1) E(22012) ZI"
    );
    assert_eq!(wire.query(""), "I ZI");
    assert_eq!(
        told(&gateway, wire),
        [
            "simple #1 allow SELECT 1; SELECT 2; SELECT 1/0; SELECT 3",
            "result #1.0 complete SELECT 1 1 rows",
            "result #1.1 complete SELECT 1 1 rows",
            "result #1.2 error 22012 0 rows",
            "simple #2 allow ",
            "result #2.0 empty  0 rows",
        ]
    );
}

#[test]
fn a_table_made_a_moment_ago_is_known_to_the_next_statement() {
    let gateway = Gateway::before(shared());
    let database = shared().database();
    succeeded(
        gateway
            .psql(&database)
            .args(["-c", "CREATE TABLE t (id int)", "-c", "SELECT * FROM t"])
            .output()
            .unwrap(),
    );
    gateway.wait_closed();
    let statements = gateway.statements();
    assert_eq!(statements.len(), 2);
    assert_eq!(statements[1].1.main_relation.as_deref(), Some("public.t"), "the catalog was read anew");
}
