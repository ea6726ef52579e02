//! Unmodified clients work through the gateway as they do without it.

use std::process::Command;

use bodycam_record::ContentKind;

use crate::support::gateway::{Gateway, Setup};
use crate::support::postgres::{self, SUPERUSER_PASSWORD, shared, succeeded};

/// A Python with psycopg 3, as `make test` prepares it.
fn python() -> Command {
    let path = std::env::var("BODYCAM_TEST_PYTHON");
    Command::new(
        path.expect("BODYCAM_TEST_PYTHON names a Python with tests/requirements.txt; `make test` sets it"),
    )
}

#[test]
fn psql_shows_the_same_through_the_gateway() {
    let gateway = Gateway::before(shared());
    let database = shared().database();
    let script = r"
        CREATE TABLE people (id int PRIMARY KEY, name text NOT NULL, age int);
        INSERT INTO people VALUES (1, 'Ada', 36), (2, 'Grace', 85), (3, NULL, 1);
        \set ON_ERROR_STOP off
        INSERT INTO people VALUES (1, 'Twice', 1);
        INSERT INTO people VALUES (1, 'Ada', 36), (2, 'Grace', 85);
        SELECT * FROM people ORDER BY id;
        SELECT id FROM people \gdesc
        SELECT * FROM people WHERE id = $1 \bind 2 \g
        BEGIN; SELECT 1/0; SELECT 2; ROLLBACK;
        DO $$ BEGIN RAISE NOTICE 'hello'; END $$;
        \copy people (id, name, age) FROM PROGRAM 'printf ''7,x,1\n8,y,2\n''' WITH (FORMAT csv)
        \copy people TO STDOUT
        COPY people TO STDOUT WITH (FORMAT csv);
        SELECT 1 \; SELECT 2 \; SELECT 3;
        \d people
        SELECT pg_backend_pid() > 0;
        LISTEN c; NOTIFY c, 'payload';
        SET application_name = 'other'; SHOW application_name;
    ";
    let run = |mut psql: Command| {
        use std::process::Stdio;
        psql.args(["-X", "-a"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = psql.spawn().unwrap();
        use std::io::Write as _;
        child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        [String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap()]
    };
    let through = {
        let psql = gateway.client("psql", "ada", &database);
        run(psql)
    };
    let direct = {
        let database = shared().database();
        let mut psql = Command::new("psql");
        psql.env("PGHOST", "127.0.0.1")
            .env("PGPORT", shared().port().to_string())
            .env("PGDATABASE", database);
        psql.env("PGUSER", postgres::ROLE).env("PGPASSWORD", postgres::ROLE_PASSWORD);
        run(psql)
    };
    let pid = |text: &str| {
        let from = text.find("process").map(|_| ());
        let mut out = String::new();
        for word in text.split_inclusive(' ') {
            let digits = word.trim_end().trim_end_matches('.').parse::<u32>().is_ok();
            out.push_str(if from.is_some() && digits { "N " } else { word });
        }
        out
    };
    for (through, direct) in through.iter().zip(&direct) {
        assert_eq!(pid(through), pid(direct));
    }
    assert!(through[0].contains("Grace") && through[1].contains("division by zero"), "{through:?}");
}

#[test]
fn pgbench_runs_in_every_mode_and_every_transaction_is_recorded() {
    let gateway = Gateway::before(shared());
    let database = shared().database();
    let pgbench = |args: &[&str]| {
        let output = gateway.client("pgbench", "ada", &database).args(args).output().unwrap();
        succeeded(output)
    };
    pgbench(&["-i", "-q", "-s", "1"]);
    for mode in ["simple", "extended", "prepared"] {
        let before = gateway.statements().len();
        let out = pgbench(&["-M", mode, "-c", "4", "-j", "2", "-t", "50", "-n"]);
        assert!(out.contains("number of transactions actually processed: 200/200"), "{mode}: {out}");
        let out = pgbench(&["-M", mode, "-S", "-c", "2", "-t", "100", "-n"]);
        assert!(out.contains("processed: 200/200"), "{mode}: {out}");
        gateway.wait_closed();
        let statements = gateway.statements();
        let new = &statements[before..];
        let selects = new
            .iter()
            .filter(|(s, ..)| s.text(ContentKind::SqlText).unwrap().starts_with("SELECT abalance"))
            .filter(|(_, s, _)| s.form != "parse");
        assert_eq!(selects.clone().count(), 400, "{mode}");
        for (_, statement, results) in selects {
            assert_eq!(statement.main_relation.as_deref(), Some("public.pgbench_accounts"), "{mode}");
            assert_eq!(statement.bind_count, i64::from(mode != "simple"), "{mode}");
            assert_eq!(results.len(), 1, "{mode}");
            assert_eq!((results[0].1.rows, results[0].1.column_tables.len()), (1, 1), "{mode}");
        }
    }
    let sums = shared().sql(
        &database,
        "SELECT (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(delta) FROM pgbench_history),
                (SELECT count(*) FROM pgbench_history)",
    );
    assert_eq!(sums, "t|600");
}

#[test]
fn pg_dump_gives_the_same_dump() {
    let gateway = Gateway::before(shared());
    let database = shared().database();
    succeeded(gateway.client("pgbench", "ada", &database).args(["-i", "-q", "-s", "1"]).output().unwrap());
    let through = succeeded(gateway.client("pg_dump", "ada", &database).output().unwrap());
    let mut direct = Command::new(postgres::bin().join("pg_dump"));
    direct.args(["-h", "127.0.0.1", "-p", &shared().port().to_string(), "-U", "postgres", &database]);
    let direct = succeeded(direct.env("PGPASSWORD", SUPERUSER_PASSWORD).output().unwrap());
    // The key of \restrict is random.
    let lines = |dump: &str| -> Vec<String> {
        dump.lines().filter(|l| !l.contains("restrict ")).map(str::to_owned).collect()
    };
    assert!(lines(&through) == lines(&direct), "the dumps differ");
    assert!(through.len() > 8_000_000);
    let copies =
        gateway.story().into_iter().filter(|l| l.starts_with("copy") && l.contains(" out done ")).count();
    assert_eq!(copies, 4, "one for each table");
}

#[test]
fn psycopg_works_with_pipelines_copy_cursors_and_notifications() {
    let gateway = Gateway::before(shared());
    let database = shared().database();
    let conninfo = gateway.conninfo("robot", &gateway.token("robot"), &database);
    let script = r#"
import sys, uuid, datetime, decimal
import psycopg
from psycopg import sql
with psycopg.connect(sys.argv[1], autocommit=True) as conn:
    assert conn.pgconn.server_version >= 150000
    conn.execute("CREATE TABLE t (id int PRIMARY KEY, v text, n numeric, at timestamptz, b bytea, u uuid)")
    row = (1, "ä'\\ \u20ac", decimal.Decimal("1.50"), datetime.datetime.now(datetime.timezone.utc), b"\x00\xff", uuid.uuid4())
    for binary in (False, True):
        cur = conn.cursor(binary=binary)
        cur.execute("INSERT INTO t VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT (id) DO UPDATE SET v = excluded.v", row)
        assert cur.execute("SELECT * FROM t WHERE id = %s", (1,)).fetchone() == row, binary
    # prepared after the fifth execution
    for i in range(10):
        assert conn.execute("SELECT %s + 1", (i,), prepare=True).fetchone() == (i + 1,)
    with conn.pipeline() as p:
        curs = [conn.execute("SELECT %s::int", (i,)) for i in range(100)]
    assert [c.fetchone()[0] for c in curs] == list(range(100))
    # an error in the middle of a pipeline
    try:
        with conn.pipeline():
            conn.execute("SELECT 1")
            conn.execute("SELECT 1/0")
            conn.execute("SELECT 2")
        assert False
    except psycopg.errors.DivisionByZero:
        pass
    assert conn.execute("SELECT 3").fetchone() == (3,)
    with conn.cursor().copy("COPY t (id, v) FROM STDIN") as copy:
        for i in range(100, 1100):
            copy.write_row((i, f"row {i}"))
    try:
        with conn.cursor().copy("COPY t (id, v) FROM STDIN") as copy:
            copy.write_row(("not a number", "x"))
        assert False
    except psycopg.errors.InvalidTextRepresentation:
        pass
    with conn.cursor().copy("COPY (SELECT id, v FROM t ORDER BY id) TO STDOUT (FORMAT binary)") as copy:
        copy.set_types(["int4", "text"])
        assert sum(1 for _ in copy.rows()) == 1001
    with conn.transaction(), conn.cursor(name="server_side") as cur:
        cur.itersize = 100
        cur.execute("SELECT id FROM t ORDER BY id")
        assert len(list(cur)) == 1001
    conn.execute("LISTEN channel")
    conn.execute("SELECT pg_notify('channel', 'payload')")
    assert [n.payload for n in conn.notifies(timeout=2, stop_after=1)] == ["payload"]
    assert conn.execute("SELECT pg_backend_pid()").fetchone()[0] == conn.info.backend_pid
print("fine")
"#;
    let output = python().args(["-c", script, &conninfo]).output().unwrap();
    assert_eq!(succeeded(output).trim(), "fine");
    gateway.wait_closed();
    let statements = gateway.statements();
    let inserts: Vec<_> = statements
        .iter()
        .filter(|(s, ..)| s.text(ContentKind::SqlText).unwrap().starts_with("INSERT"))
        .collect();
    assert_eq!(inserts.len(), 2);
    let (event, statement, _) = inserts[0];
    assert_eq!((statement.bind_count, event.binds()[1].value.as_deref()), (6, Some("ä'\\ €".as_bytes())));
    assert!(
        gateway.story().iter().any(|l| l.contains("copy") && l.contains("in failed")),
        "{:?}",
        gateway.story()
    );
    for (recorded, statement, results) in &statements {
        assert!(
            !results.is_empty() || statement.form == "parse",
            "no result: {:?}",
            recorded.text(ContentKind::SqlText)
        );
    }
}

#[test]
fn tokio_postgres_works_with_pipelines_and_copy() {
    use futures::SinkExt as _;
    use tokio_postgres::types::ToSql;
    let gateway = Setup::new(shared()).start();
    let database = shared().database();
    let conninfo = gateway.conninfo("robot", &gateway.token("robot"), &database);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (client, connection) = tokio_postgres::connect(&conninfo, tokio_postgres::NoTls).await.unwrap();
        let driver = tokio::spawn(connection);
        client.batch_execute("CREATE TABLE t (id int, v text)").await.unwrap();
        let insert = client.prepare("INSERT INTO t VALUES ($1, $2)").await.unwrap();
        let work = (0..50).map(|i| {
            let (client, insert) = (&client, &insert);
            async move { client.execute(insert, &[&i, &format!("v{i}")]).await.unwrap() }
        });
        assert_eq!(futures::future::join_all(work).await.into_iter().sum::<u64>(), 50);
        let sink = client.copy_in("COPY t FROM STDIN").await.unwrap();
        let mut sink = std::pin::pin!(sink);
        sink.send(tokio_postgres::types::private::BytesMut::from(&b"100\tx\n101\ty\n"[..]).freeze())
            .await
            .unwrap();
        assert_eq!(sink.finish().await.unwrap(), 2);
        let none: [&(dyn ToSql + Sync); 0] = [];
        assert_eq!(client.query("SELECT * FROM t", &none).await.unwrap().len(), 52);
        assert!(client.query("SELECT * FROM nowhere", &none).await.is_err());
        assert_eq!(client.query_one("SELECT 1::int", &none).await.unwrap().get::<_, i32>(0), 1);
        drop((insert, client));
        driver.await.unwrap().unwrap();
    });
    gateway.wait_closed();
    let statements = gateway.statements();
    let inserts = statements
        .iter()
        .filter(|(_, s, r)| s.form == "extended" && s.statement_kind == "insert" && r.len() == 1);
    assert_eq!(inserts.count(), 50);
}
