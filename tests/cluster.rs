//! Queries and detections on a real cluster, a scheduler and two executors of the real binary, over a lake that a real
//! gateway and recorder made: the same rows as on one machine, or an error, whatever happens to an executor.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use bodycam_lake::{Hour, Store, Table};
use bodycam_record::Family;

use crate::support::history::{Row, Writer, batch, session};
use crate::support::ports::free_port;
use crate::support::s3::S3;
use crate::support::stack::{Process, Stack, bodycam};
use crate::support::web::Certificates;

const WAIT: Duration = Duration::from_secs(60);
/// 2026-11-01T00Z.
const FIRST: i64 = 498_192;
const HOURS: i64 = 48;
const ROWS_AN_HOUR: u64 = 400;

/// Queries whose results differ with every mistake that can be made in sharing them out.
const QUERIES: [&str; 38] = [
    "SELECT count(*) FROM events",
    "SELECT count(*), sum(rows), min(ts), max(ts), count(DISTINCT principal_ref) FROM results",
    "SELECT target, statement_kind, count(*), sum(bytes) FROM results GROUP BY 1, 2",
    "SELECT * FROM statements WHERE main_relation = 'public.people'",
    "SELECT session_id, seq, event_id, hash FROM openings",
    "SELECT text, content_kind, session_id FROM content",
    "SELECT content_kind, count(*), max(length(text)) FROM content WHERE text LIKE '%people%' GROUP BY 1",
    "SELECT p.name, count(*) FROM principals p JOIN sessions s ON s.principal_ref = p.principal_ref GROUP BY 1",
    "SELECT p.name, r.rows FROM results r LEFT JOIN principals p USING (principal_ref) WHERE r.rows > 380",
    "SELECT count(*) FROM sessions WHERE principal_ref = principal_ref('robot')",
    "SELECT principal_ref(target) AS of, count(*) FROM results GROUP BY 1",
    "SELECT h.hour, sum(h.pulls), sum(d.contacts) FROM hourly_pulls h FULL JOIN hourly_destinations d ON h.hour = d.hour \
     GROUP BY 1",
    "SELECT principal_ref, rows, rank() OVER (PARTITION BY principal_ref ORDER BY rows DESC, event_id) AS r \
     FROM results WHERE rows > 300",
    "SELECT ts, rows, sum(rows) OVER (ORDER BY ts, event_id ROWS BETWEEN 5 PRECEDING AND CURRENT ROW) FROM results \
     WHERE seq < 20",
    "SELECT ts, rows, event_id FROM results ORDER BY rows DESC, event_id LIMIT 25 OFFSET 5",
    "SELECT count(*) FROM (SELECT * FROM results LIMIT 7)",
    "SELECT a.principal_ref, count(*) FROM results a JOIN results b ON a.principal_ref = b.principal_ref \
     AND a.rows < b.rows AND b.rows > 390 GROUP BY 1",
    "SELECT r.event_id FROM results r LEFT JOIN (SELECT * FROM results WHERE rows > 398) b ON r.rows + 2 > b.rows \
     AND r.bytes < b.bytes WHERE r.seq < 3 AND b.rows IS NULL",
    "SELECT v.low, r.event_id FROM (VALUES (397), (399), (100000)) v(low) LEFT JOIN results r ON r.rows > v.low",
    "SELECT v.low, r.event_id FROM (VALUES (397), (100000)) v(low) FULL JOIN results r ON r.rows > v.low AND r.seq < 5 \
     WHERE r.seq IS NULL OR r.seq < 5",
    "SELECT count(*) FROM results WHERE principal_ref NOT IN (SELECT principal_ref FROM sessions)",
    "SELECT count(*) FROM results WHERE main_relation NOT IN (SELECT main_relation FROM statements WHERE main_relation \
     IS NOT NULL)",
    "SELECT count(*) FROM results r WHERE EXISTS (SELECT 1 FROM results o WHERE o.principal_ref = r.principal_ref \
     AND o.rows > r.rows + 350) AND r.seq < 40",
    "SELECT rows FROM results WHERE rows > (SELECT avg(rows) * 1.9 FROM results)",
    "SELECT kind_name, count(*) FROM (SELECT kind_name FROM statements UNION ALL SELECT kind_name FROM http UNION ALL \
     SELECT kind_name FROM results WHERE rows > 200) GROUP BY 1 UNION ALL SELECT 'all', count(*) FROM events",
    "SELECT upper(target) || '/' || lpad(CAST(rows AS TEXT), 6, '0') AS t, array_agg(DISTINCT main_relation) \
     FROM results WHERE rows IN (1, 17, 399) GROUP BY 1",
    "SELECT principal_ref FROM results INTERSECT SELECT principal_ref FROM http",
    "SELECT rows FROM results WHERE rows < 20 EXCEPT SELECT rows FROM results WHERE rows % 2 = 0",
    "SELECT target, main_relation, count(*), sum(rows) FROM results GROUP BY GROUPING SETS ((target), (main_relation), \
     (target, main_relation), ())",
    "SELECT DISTINCT target, main_relation FROM results WHERE rows < 9 UNION SELECT 'x', 'y'",
    "SELECT target, avg(rows) AS mean FROM results GROUP BY 1 HAVING avg(rows) > (SELECT min(rows) FROM results)",
    "SELECT count(*) FROM (SELECT rows FROM results LIMIT 9) a CROSS JOIN (SELECT seq FROM http LIMIT 4) b",
    "SELECT b.x, count(a.rows) FROM results a RIGHT JOIN (VALUES (1), (2), (900)) b(x) ON a.rows = b.x GROUP BY 1",
    "SELECT a.event_id, b.event_id FROM results a FULL JOIN http b ON a.session_id = b.session_id AND a.seq = b.seq \
     AND b.seq < 50 WHERE coalesce(a.seq, b.seq) < 60",
    "SELECT main_relation, median(rows), count(DISTINCT bytes) FROM results GROUP BY 1",
    "SELECT hour, sum(pulls) OVER (ORDER BY hour) FROM (SELECT hour, sum(pulls) AS pulls FROM hourly_pulls GROUP BY 1)",
    "SELECT target FROM results WHERE rows = (SELECT max(rows) FROM results o WHERE o.target = results.target) AND seq < 99",
    "SELECT g.value, count(r.rows) FROM generate_series(1, 50) g LEFT JOIN results r ON r.rows = g.value GROUP BY 1",
];

/// A stack with a lake that is at rest, and the settings of a cluster.
struct Place {
    stack: Stack,
    scheduler: SocketAddr,
}

/// An executor and where it gives its rows.
struct Executor {
    process: Process,
    listen: SocketAddr,
}

fn local() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], free_port().unwrap()))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn header_and_rows(output: &Output) -> (String, Vec<String>) {
    let all = text(&output.stdout);
    let mut lines = all.lines().map(str::to_owned);
    let header = lines.next().unwrap_or_default();
    let mut rows: Vec<String> = lines.collect();
    rows.sort();
    (header, rows)
}

impl Place {
    /// What two principals did, recorded; on a lake as `lake` says.
    fn recorded(lake: impl FnOnce(&Path) -> String, extra: &str) -> Self {
        let scheduler = local();
        let section = format!(
            "[cluster]\nlisten = \"{scheduler}\"\nscheduler = \"localhost:{}\"\nslots = 2\npartitions = 4\n{extra}",
            scheduler.port()
        );
        let stack = Stack::on(lake, &section);
        let up = stack.start("up");
        let (ada, robot) = (stack.token("ada"), stack.token("robot"));
        for (user, token, sql) in [
            ("robot", &robot, "CREATE TABLE people (id int, name text)"),
            ("robot", &robot, "INSERT INTO people SELECT n, 'somebody ' || n FROM generate_series(1, 50) n"),
            ("ada", &ada, "SELECT name FROM people WHERE id < 20"),
            ("robot", &robot, "SELECT * FROM people"),
            ("ada", &ada, "SELECT count(*) FROM people; SELECT 'two'"),
        ] {
            let done = stack.psql(user, token, sql);
            assert!(done.status.success(), "{sql}: {}", text(&done.stderr));
        }
        stack.wait_for("sealed sessions", WAIT, || {
            let asked = stack.run(&[
                "query",
                "SELECT count(*) FROM sessions WHERE state = 'sealed'",
                "--format",
                "csv",
            ]);
            text(&asked.stdout).lines().nth(1) == Some("5")
        });
        assert!(up.terminate().success(), "{}", stack.log("up"));
        Self { stack, scheduler }
    }

    /// The same, with two days of results and requests in an hour's files each.
    fn with_history() -> Self {
        let rules =
            "[detect]\nbackfill_days = 3650\n\n[detect.params.EXF-002]\nmin_rows = 398\nratio = 1.0\n";
        let place = Self::recorded(|_| "[lake]\nurl = \"lake\"\n".to_owned(), rules);
        let store = Store::open(place.stack.path("lake").to_str().unwrap()).unwrap();
        let (sql, http) = (Table::Events(Family::Sql), Table::Events(Family::Http));
        let filled = async {
            let mut writer = Writer::open(store, "history/0").await.unwrap();
            for hour in FIRST..FIRST + HOURS {
                let row = |n: u64| Row {
                    session: session(hour, n * 7 / ROWS_AN_HOUR),
                    seq: n as i64,
                    ts_ns: Hour(hour).start_ns() + n as i64 * 1_000_000_000,
                    kind: "sql.result",
                    principal: u128::from(n % 11).to_be_bytes(),
                    target: format!("target {}", n % 3),
                    statement_no: n as i64,
                    rows: (n * 7919 % ROWS_AN_HOUR) as i64,
                    bytes: (n * 31 % 1009) as i64,
                    relation: if n.is_multiple_of(5) { String::new() } else { format!("public.r{}", n % 4) },
                    ..Row::default()
                };
                let sent =
                    |n: u64| Row { kind: "http.request", host: format!("h{}.example", n % 5), ..row(n) };
                let results: Vec<Row> = (0..ROWS_AN_HOUR).map(row).collect();
                let requests: Vec<Row> = (0..ROWS_AN_HOUR / 4).map(sent).collect();
                let batches = [
                    (sql, Hour(hour), batch(sql, &results, hour as u64).unwrap()),
                    (http, Hour(hour), batch(http, &requests, 1 + hour as u64).unwrap()),
                ];
                writer.commit(&batches, Hour(hour + 1).start_ns()).await.unwrap();
            }
        };
        tokio::runtime::Runtime::new().unwrap().block_on(filled);
        place
    }

    fn url(&self) -> String {
        format!("http://localhost:{}", self.scheduler.port())
    }

    fn start(&self, name: &str, change: impl FnOnce(&mut Command)) -> Process {
        let log = std::fs::File::create(self.stack.path(&format!("{name}.log"))).unwrap();
        let mut command = bodycam();
        let what = name.split('-').next().unwrap();
        command.args(["cluster", what, "--config"]).arg(self.stack.path("bodycam.toml"));
        command.env("BODYCAM_LOG", "info");
        change(&mut command);
        let child =
            command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        Process { child }
    }

    fn scheduler(&self) -> Process {
        let process = self.start("scheduler", |_| {});
        self.wait_for_listener("scheduler", self.scheduler);
        process
    }

    fn executor(&self, n: usize, change: impl FnOnce(&mut Command)) -> Executor {
        let (listen, name) = (local(), format!("executor-{n}"));
        let process = self.start(&name, |command| {
            command.env("BODYCAM__CLUSTER__EXECUTOR_LISTEN", listen.to_string());
            command.env("BODYCAM__CLUSTER__EXECUTOR_HOST", "localhost");
            change(command);
        });
        self.wait_for_listener(&name, listen);
        Executor { process, listen }
    }

    fn wait_for_listener(&self, name: &str, at: SocketAddr) {
        let deadline = Instant::now() + WAIT;
        while std::net::TcpStream::connect(at).is_err() {
            assert!(Instant::now() < deadline, "{name} does not listen:\n{}", self.stack.log(name));
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn query(&self, sql: &str, cluster: Option<&str>) -> Output {
        let mut args = vec!["query", sql, "--format", "csv", "--timeout", "120"];
        args.extend(cluster.iter().flat_map(|url| ["--cluster", url]));
        self.stack.run(&args)
    }

    /// The header and, in order, the rows of a query that must run.
    fn rows(&self, sql: &str, cluster: Option<&str>) -> (String, Vec<String>) {
        let output = self.query(sql, cluster);
        assert!(output.status.success(), "{cluster:?}: {sql}\n{}\n{}", text(&output.stderr), self.logs());
        header_and_rows(&output)
    }

    fn logs(&self) -> String {
        let names = ["scheduler", "executor-0", "executor-1"];
        let tail = |name: &str| {
            let log = self.stack.log(name);
            let lines: Vec<&str> = log.lines().collect();
            lines[lines.len().saturating_sub(15)..].join("\n")
        };
        names.iter().map(|name| format!("--- {name}\n{}\n", tail(name))).collect()
    }

    /// How many parts of queries an executor has run.
    fn tasks(&self, n: usize) -> usize {
        self.stack.log(&format!("executor-{n}")).matches("Finished task").count()
    }
}

#[test]
fn a_cluster_of_two_gives_the_rows_and_the_findings_of_one_machine() {
    let place = Place::with_history();
    let _scheduler = place.scheduler();
    let executors = [0, 1].map(|n| place.executor(n, |_| {}));
    let mut wrong = Vec::new();
    for sql in QUERIES {
        let alone = place.rows(sql, None);
        assert!(!alone.1.is_empty(), "{sql}: a result without rows shows nothing");
        let output = place.query(sql, Some(&place.url()));
        let shared = header_and_rows(&output);
        if !output.status.success() || shared != alone {
            let ((_, shared), (_, alone), said) = (&shared, &alone, text(&output.stderr));
            let different = shared.iter().zip(alone).find(|(a, b)| a != b);
            wrong.push(format!("{sql}: {} rows, not {}: {different:?} {said}", shared.len(), alone.len()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(place.tasks(0) > 10 && place.tasks(1) > 10, "{} and {} parts", place.tasks(0), place.tasks(1));

    // In the order that was asked for.
    let sql = "SELECT rows, event_id FROM results ORDER BY rows DESC, event_id LIMIT 200";
    let unsorted = |cluster| text(&place.query(sql, cluster).stdout);
    assert_eq!(unsorted(Some(&place.url())), unsorted(None));

    what_one_machine_refuses_is_refused(&place);
    what_a_query_leaves_is_removed(&place, &executors);
    detection_finds_the_same(&place);

    for executor in executors {
        assert!(executor.process.terminate().success(), "{}", place.logs());
        let rows = place.stack.path(&format!("cluster/rows-{}", executor.listen.port()));
        assert!(!rows.exists(), "an executor that stops leaves nothing");
    }
}

fn what_one_machine_refuses_is_refused(place: &Place) {
    let before = (place.tasks(0), place.tasks(1));
    for (sql, expected) in [
        ("SELECT * FROM read_parquet('/etc/passwd')", "no table function"),
        ("CREATE TABLE t AS SELECT 1", "not a query"),
        ("SELECT pg_read_file('x') FROM results", "Invalid function"),
        ("EXPLAIN ANALYZE SELECT count(*) FROM results", "does not run on a cluster"),
        ("SELECT rows FROM results LIMIT 5000000000", "do not run on a cluster"),
    ] {
        let output = place.query(sql, Some(&place.url()));
        assert!(!output.status.success(), "{sql}");
        let said = text(&output.stderr);
        assert!(said.contains(expected), "{sql}: {said}");
    }
    assert_eq!((place.tasks(0), place.tasks(1)), before, "nothing of them was run");
    // What reads no file is not sent.
    for sql in ["SELECT 1 + 1", "SHOW TABLES", "EXPLAIN SELECT count(*) FROM results"] {
        assert!(place.query(sql, Some(&place.url())).status.success(), "{sql}");
    }
    assert_eq!((place.tasks(0), place.tasks(1)), before);
    let failing = place.query("SELECT rows / (rows - rows) FROM results", Some(&place.url()));
    assert!(!failing.status.success());
    assert!(text(&failing.stderr).contains("DivideByZero"), "{}", text(&failing.stderr));
    let nobody = place.query("SELECT count(rows) FROM results", Some("http://localhost:1"));
    assert!(
        text(&nobody.stderr).contains("no scheduler answers at http://localhost:1"),
        "{}",
        text(&nobody.stderr)
    );
    for url in ["localhost:50050", "ftp://localhost:1", "http://localhost", "https://localhost:1"] {
        let said = text(&place.query("SELECT 1", Some(url)).stderr);
        assert!(said.contains("want ") || said.contains("[cluster.tls]"), "{url}: {said}");
    }
}

/// Rows that lay between two stages, and those of the result.
fn what_a_query_leaves_is_removed(place: &Place, executors: &[Executor]) {
    let long = "SELECT count(*) FROM results a JOIN results b ON a.rows < b.rows AND a.bytes <> b.bytes + 1";
    let output = place.stack.run(&["query", long, "--cluster", &place.url(), "--timeout", "1"]);
    assert!(text(&output.stderr).contains("stopped after 1 s"), "{}", text(&output.stderr));
    place.stack.wait_for("no rows of any query", WAIT, || {
        let rows = |e: &Executor| place.stack.files_below(&format!("cluster/rows-{}", e.listen.port())).len();
        executors.iter().map(rows).sum::<usize>() == 0
    });
}

fn detection_finds_the_same(place: &Place) {
    let stack = &place.stack;
    let run = |lake: &str, cluster: &[&str]| {
        let _ = std::fs::remove_dir_all(stack.path(lake));
        let copied = Command::new("cp").arg("-r").args([stack.path("lake"), stack.path(lake)]).status();
        assert!(copied.unwrap().success());
        let mut command = bodycam();
        command.args(["detect", "run", "--json", "--config"]).arg(stack.path("bodycam.toml")).args(cluster);
        command.env("BODYCAM__LAKE__URL", stack.path(lake));
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}\n{}", text(&output.stderr), place.logs());
        let id = |line: &str| {
            let finding: serde_json::Value = serde_json::from_str(line).unwrap();
            (
                finding["id"].as_str().unwrap().to_owned(),
                finding["text"].as_str().unwrap_or_default().to_owned(),
            )
        };
        text(&output.stdout).lines().map(id).collect::<BTreeSet<_>>()
    };
    let alone = run("alone", &[]);
    assert!(alone.len() > 20, "{}", alone.len());
    let before = place.tasks(0) + place.tasks(1);
    // Executors read the lake of their own configuration, whose files are those of the copy.
    assert_eq!(run("shared", &["--cluster", &place.url()]), alone);
    assert!(place.tasks(0) + place.tasks(1) > before, "the cluster was asked");
}

#[test]
fn an_executor_that_is_killed_gives_no_wrong_rows() {
    let place = Place::with_history();
    let _scheduler = place.scheduler();
    let [killed, other] = [0, 1].map(|n| place.executor(n, |_| {}));
    let sql = "SELECT a.principal_ref, b.target, count(*), sum(a.rows + b.bytes) FROM results a JOIN results b \
               ON a.rows = b.rows GROUP BY 1, 2";
    let alone = place.rows(sql, None);
    let asking = {
        let mut command = bodycam();
        command.args([
            "query",
            sql,
            "--format",
            "csv",
            "--timeout",
            "120",
            "--cluster",
            &place.url(),
            "--config",
        ]);
        command
            .arg(place.stack.path("bodycam.toml"))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    };
    place.stack.wait_for("work on the one that is killed", WAIT, || {
        place.stack.log("executor-0").contains("Received task")
    });
    killed.process.kill();
    let ended = asking.wait_with_output().unwrap();
    match ended.status.success() {
        true => {
            let mut rows: Vec<String> = text(&ended.stdout).lines().skip(1).map(str::to_owned).collect();
            rows.sort();
            assert_eq!(rows, alone.1);
        }
        false => assert!(text(&ended.stderr).contains("cluster"), "{}", text(&ended.stderr)),
    }
    println!("the query under the kill: {}", ended.status);
    // The one that is left does it all.
    assert_eq!(place.rows(sql, Some(&place.url())), alone);
    assert!(other.process.terminate().success());
}

#[test]
fn over_an_object_store_executors_read_what_the_plan_names_and_list_nothing() {
    let s3 = S3::start(None);
    let place = Place::recorded(|dir| s3.section(dir, "shared"), "");
    let _scheduler = place.scheduler();
    // Without the tenant key.
    let _executor = place.executor(0, |command| {
        command.args(["--tenant-key", "none"]);
    });
    let sql = "SELECT target, count(rows), sum(rows) FROM results GROUP BY 1";
    let alone = place.rows(sql, None);
    s3.forget();
    let lists = || s3.requests().iter().filter(|request| request.path.contains("list-type")).count();
    assert_eq!(place.rows(sql, None), alone);
    let by_a_client = lists();
    s3.forget();
    assert_eq!(place.rows(sql, Some(&place.url())), alone);
    assert!(place.tasks(0) > 0);
    assert!(lists() <= by_a_client, "executors list nothing: {} after {by_a_client}", lists());
    let sealed = place.query("SELECT text FROM content", Some(&place.url()));
    assert!(!sealed.status.success());
    assert!(text(&sealed.stderr).contains("no tenant key is configured here"), "{}", text(&sealed.stderr));
    assert!(place.query("SELECT content_kind FROM content", Some(&place.url())).status.success());
}

#[test]
fn with_tls_who_has_no_certificate_of_the_cluster_is_not_talked_to() {
    let certificates = tempfile::tempdir().unwrap();
    let own = Certificates::new(certificates.path(), &["bodycam-cluster"]);
    let section = |own: &Certificates| {
        format!(
            "[cluster.tls]\nca = \"{}\"\ncertificate = \"{}\"\nkey = \"file:{}\"\nname = \"bodycam-cluster\"\n",
            own.authority.display(),
            own.cert.display(),
            own.key.display()
        )
    };
    let place = Place::recorded(|_| "[lake]\nurl = \"lake\"\n".to_owned(), &section(&own));
    let _scheduler = place.scheduler();
    let _executors = [0, 1].map(|n| place.executor(n, |_| {}));
    let url = format!("https://localhost:{}", place.scheduler.port());
    let sql = "SELECT target, count(rows), sum(rows) FROM results GROUP BY 1";
    assert_eq!(place.rows(sql, Some(&url)), place.rows(sql, None));
    assert!(text(&place.query(sql, Some(&place.url())).stderr).contains("say https://"));

    // Without one, and with one of another authority.
    let config = std::fs::read_to_string(place.stack.path("bodycam.toml")).unwrap();
    let plain = config.replace(&section(&own), "");
    std::fs::write(place.stack.path("bodycam.toml"), &plain).unwrap();
    assert!(!place.query(sql, Some(&place.url())).status.success());
    let foreign = tempfile::tempdir().unwrap();
    let foreign = Certificates::new(foreign.path(), &["bodycam-cluster"]);
    std::fs::write(place.stack.path("bodycam.toml"), format!("{plain}\n{}", section(&foreign))).unwrap();
    let output = place.query(sql, Some(&url));
    assert!(!output.status.success(), "{}", text(&output.stdout));
}
