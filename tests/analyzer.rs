//! Queries and detections with the real binary, on what a real gateway recorded: a COPY under one identity, data
//! sent out under another for the same task, and detection that is killed, run again, and watched.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use crate::support::stack::{Stack, bodycam};

mod workers;

const WAIT: Duration = Duration::from_secs(60);
const ROWS: i64 = 12_000;

/// Runs a command, and prints the most memory that it had, in KiB.
const MEASURED: &str = "import resource, subprocess, sys
code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)";

/// A gateway and a recorder before a database with customers, which the configuration lists as sensitive.
fn company() -> (Stack, String, String) {
    let stack = Stack::new("[detect]\ninterval_seconds = 1\n");
    let config = std::fs::read_to_string(stack.path("bodycam.toml")).unwrap();
    let config = config.replace("tls = \"disable\"", "tls = \"disable\"\nsensitive = [\"public.customers\"]");
    std::fs::write(stack.path("bodycam.toml"), config).unwrap();
    stack
        .cluster
        .run(
            "app",
            &format!(
                "CREATE TABLE customers AS SELECT n AS id, 'customer ' || n AS name FROM generate_series(1, {ROWS}) n;
                 ALTER TABLE customers OWNER TO app"
            ),
        )
        .unwrap();
    let (ada, robot) = (stack.token("ada"), stack.token("robot"));
    (stack, ada, robot)
}

/// psql for a task.
fn psql(stack: &Stack, user: &str, token: &str, task: &str, sql: &str) -> Output {
    let output = Command::new("psql")
        .args(["-X", "-A", "-t", "-h", "127.0.0.1", "-U", user, "-d", "app"])
        .args(["-p", &stack.postgres.port().to_string(), "-c", sql])
        .env("PGPASSWORD", token)
        .env("PGAPPNAME", task)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output
}

/// A request through the egress proxy for a task, to a server on this machine.
fn send_out(stack: &Stack, user: &str, token: &str, task: &str) {
    let site = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/drop", site.local_addr().unwrap());
    let served = std::thread::spawn(move || {
        let (mut stream, _) = site.accept().unwrap();
        let _ = stream.read(&mut [0; 4096]).unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").unwrap();
    });
    let curl = Command::new("curl")
        .args(["-sS", "--max-time", "20", "--proxy", &format!("http://{}", stack.http)])
        .args(["--proxy-user", &format!("{user}+{task}:{token}"), "-f", &url])
        .env_remove("no_proxy")
        .env_remove("NO_PROXY")
        .output()
        .unwrap();
    assert!(curl.status.success(), "{}", String::from_utf8_lossy(&curl.stderr));
    served.join().unwrap();
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn query(stack: &Stack, sql: &str) -> String {
    let output = stack.run(&["query", sql, "--format", "csv"]);
    assert!(output.status.success(), "{sql}: {}", text(&output.stderr));
    text(&output.stdout).lines().skip(1).collect::<Vec<_>>().join("\n")
}

/// `bodycam detect …` on a lake of this name.
fn detect(stack: &Stack, lake: &str, what: &str) -> Command {
    let mut command = bodycam();
    command.args(["detect", what, "--json", "--config"]).arg(stack.path("bodycam.toml"));
    command.env("BODYCAM__LAKE__URL", stack.path(lake)).stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn lines(stdout: &[u8]) -> Vec<serde_json::Value> {
    text(stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Id, measure and finality of every finding in a lake.
fn findings(stack: &Stack, lake: &str) -> String {
    let output = bodycam()
        .args(["query", "SELECT id, rule, measure, threshold, is_final FROM findings ORDER BY id"])
        .args(["--format", "csv", "--config"])
        .arg(stack.path("bodycam.toml"))
        .env("BODYCAM__LAKE__URL", stack.path(lake))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

#[test]
fn what_a_task_read_by_copy_and_sent_out_under_another_identity_is_found_the_same_after_any_kill() {
    let (stack, ada, robot) = company();
    let gateway = stack.start("gateway");
    let recorder = stack.start("recorder");
    psql(&stack, "ada", &ada, "task-7", "COPY customers TO STDOUT");
    send_out(&stack, "robot", &robot, "task-7");
    assert!(gateway.terminate().success(), "{}", stack.log("gateway"));
    stack.wait_for("the end of the ledger in the lake", WAIT, || {
        query(&stack, "SELECT count(*) FROM ledger WHERE kind_name = 'ledger.stop'") == "1"
    });
    assert!(recorder.terminate().success(), "{}", stack.log("recorder"));
    for copy in ["killed", "watched"] {
        let copied = Command::new("cp").arg("-r").args([stack.path("lake"), stack.path(copy)]).status();
        assert!(copied.unwrap().success());
    }

    let run = detect(&stack, "lake", "run").output().unwrap();
    assert!(run.status.success(), "{}", text(&run.stderr));
    let found = lines(&run.stdout);
    let of = |rule: &str| found.iter().filter(|f| f["rule"] == rule).collect::<Vec<_>>();
    let [huge] = of("EXF-002")[..] else { panic!("{found:#?}") };
    assert_eq!(huge["measure"].as_i64(), Some(ROWS), "a COPY counts once");
    let [sent] = of("EXF-014")[..] else { panic!("{found:#?}") };
    assert_eq!((sent["measure"].as_i64(), sent["severity"].as_str()), (Some(ROWS), Some("high")));
    let evidence: Vec<&str> =
        sent["evidence"].as_array().unwrap().iter().map(|e| e["event_id"].as_str().unwrap()).collect();
    let kinds = format!(
        "SELECT kind_name FROM events WHERE event_id IN ('{}') ORDER BY kind_name",
        evidence.join("', '")
    );
    assert_eq!(query(&stack, &kinds), "http.request\nsql.result");
    let expected = findings(&stack, "lake");
    assert_eq!(expected.lines().count(), found.len() + 1);
    let again = detect(&stack, "lake", "run").output().unwrap();
    assert_eq!(
        (again.status.success(), text(&again.stdout)),
        (true, String::new()),
        "nothing new, nothing said"
    );

    for delay in [40, 120, 250, 400, 700, 1100] {
        let mut child = detect(&stack, "killed", "run").spawn().unwrap();
        std::thread::sleep(Duration::from_millis(delay));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert!(detect(&stack, "killed", "run").output().unwrap().status.success());
    assert_eq!(findings(&stack, "killed"), expected);
    assert_eq!(stack.verify().0, 4, "findings beside the record do not disturb the proof");
}

/// The findings that a `detect watch` tells.
struct Watch {
    child: Child,
    told: Receiver<serde_json::Value>,
}

impl Watch {
    fn start(stack: &Stack) -> Self {
        let mut child = detect(stack, "lake", "watch").stderr(Stdio::null()).spawn().unwrap();
        let (tell, told) = channel();
        let out = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in out.lines() {
                tell.send(serde_json::from_str(&line.unwrap()).unwrap()).unwrap();
            }
        });
        Self { child, told }
    }

    fn next(&self) -> serde_json::Value {
        self.told.recv_timeout(WAIT).unwrap()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_watch_tells_of_what_lands_while_it_runs_and_ends_at_sigterm() {
    let (stack, ada, _) = company();
    let _gateway = stack.start("gateway");
    let _recorder = stack.start("recorder");
    let mut watch = Watch::start(&stack);
    let mut ids = BTreeSet::new();
    for sql in ["SELECT * FROM customers", "COPY customers TO STDOUT (FORMAT binary)"] {
        psql(&stack, "ada", &ada, "task-8", sql);
        let finding = watch.next();
        assert_eq!(
            (finding["rule"].as_str(), finding["measure"].as_i64()),
            (Some("EXF-002"), Some(ROWS)),
            "{sql}"
        );
        assert_eq!(finding["final"], false, "its hour is not over");
        ids.insert(finding["id"].to_string());
    }
    assert_eq!(ids.len(), 2);
    crate::support::stack::signal(watch.child.id(), "TERM");
    let started = Instant::now();
    assert!(watch.child.wait().unwrap().success());
    assert!(started.elapsed() < WAIT);
}

/// The window records of a lake of this name.
fn records(stack: &Stack, lake: &str) -> Vec<std::path::PathBuf> {
    let mut found = stack.files_below(&format!("{lake}/windows"));
    found.retain(|path| !path.iter().any(|folder| folder == "index"));
    found
}

#[test]
fn nothing_damaged_beside_the_record_takes_the_gateway_down() {
    let (stack, ada, _) = company();
    let up = stack.start("up");
    psql(&stack, "ada", &ada, "task-10", "SELECT * FROM customers");
    let told = |stack: &Stack| stack.log("up").matches("\"event\":\"finding\"").count();
    stack.wait_for("the finding", WAIT, || told(&stack) > 0);
    assert!(up.terminate().success(), "{}", stack.log("up"));
    let records = records(&stack, "lake");
    assert!(!records.is_empty());
    for record in &records {
        std::fs::write(record, b"{\"version\":1,").unwrap();
    }
    let index = stack.path("lake/windows/index/0.json");
    let entry = std::fs::read(&index).unwrap();
    std::fs::write(&index, b"{").unwrap();

    let up = stack.start("up");
    let metrics = || crate::support::stack::get(stack.admin, "/metrics").unwrap_or_default();
    stack.wait_for("detection to fail", WAIT, || metrics().contains("\nbodycam_detect_failing 1"));
    let ready = crate::support::stack::get(stack.admin, "/readyz").unwrap();
    assert!(ready.contains(" 200 ") && ready.contains("ready\nnote: detection fails"), "{ready}");
    psql(&stack, "ada", &ada, "task-10", "SELECT 1");
    std::fs::write(&index, entry).unwrap();
    stack.wait_for("detection to work again", WAIT, || metrics().contains("\nbodycam_detect_failing 0"));
    let windows: BTreeSet<_> = records.iter().map(|record| record.parent()).collect();
    stack.wait_for("the damaged records to be made again", WAIT, || {
        metrics().contains(&format!("\nbodycam_detect_records_unreadable_total {}\n", windows.len()))
    });
    psql(&stack, "ada", &ada, "task-10", "SELECT 1");
    assert!(up.terminate().success(), "{}", stack.log("up"));
    assert_eq!(query(&stack, "SELECT count(*) FROM findings WHERE rule = 'EXF-002'"), "1");
}

#[test]
fn queries_join_content_write_every_format_and_keep_within_their_limits() {
    let (stack, ada, _) = company();
    let up = stack.start("up");
    let hostile = "SELECT 'x\u{1b}]52;c;eA==\u{7}\u{9b}31m\u{202e}' AS \"canary\"";
    psql(&stack, "ada", &ada, "task-9", hostile);
    assert!(up.terminate().success(), "{}", stack.log("up"));
    let joined = "SELECT c.text FROM statements s JOIN content c \
                  ON c.session_id = s.session_id AND c.content_no = s.content_no WHERE c.text LIKE '%canary%'";
    for format in ["table", "csv", "json"] {
        let output = stack.run(&["query", joined, "--format", format]);
        let shown = text(&output.stdout);
        assert!(shown.contains("canary"), "{format}: {shown} {}", text(&output.stderr));
        let raw = ['\u{1b}', '\u{7}', '\u{9b}', '\u{202e}'];
        assert!(!shown.contains(raw), "{format}: {shown:?}");
        if format == "json" {
            assert_eq!(lines(&output.stdout)[0]["text"], hostile, "escaped, not changed");
        }
    }
    let named =
        "SELECT p.name, count(*) AS n FROM statements s JOIN principals p USING (principal_ref) GROUP BY 1";
    let named = stack.run(&["query", named, "--format", "csv"]);
    assert!(text(&named.stdout).lines().any(|line| line.starts_with("ada,")), "{named:?}");
    for closed in [joined, "SELECT name FROM principals"] {
        let closed = stack.run(&["query", closed, "--tenant-key", "none"]);
        assert!(!closed.status.success() && text(&closed.stderr).contains("no tenant key"), "{closed:?}");
    }
    let counted = stack.run(&["query", "SELECT count(*) > 0 AS c FROM content", "--tenant-key", "none"]);
    assert!(text(&counted.stdout).contains("true"), "what does not open content needs no key: {counted:?}");

    let unknown = stack.run(&["query", "SELECT nope FROM sessions"]);
    let told = text(&unknown.stderr);
    assert!(told.contains("No field named nope. Valid fields are") && told.lines().count() == 1, "{told}");

    let file = stack.path("sessions.parquet");
    let file = file.to_str().unwrap();
    let to_file = |sql: &str| stack.run(&["query", sql, "--format", "parquet", "--output", file]);
    assert!(to_file("SELECT * FROM sessions").status.success());
    let written = std::fs::read(file).unwrap();
    assert!(written.starts_with(b"PAR1") && written.ends_with(b"PAR1"));
    for sql in
        ["DROP TABLE sessions", "SELECT * FROM 'x.parquet'", "SELECT seq, seq FROM events", "SELECT 1/0"]
    {
        let refused = to_file(sql);
        assert_eq!(refused.status.code(), Some(2), "{sql}");
        assert!(!refused.stderr.is_empty());
        assert_eq!(std::fs::read(file).unwrap(), written, "{sql} left the earlier file as it was");
        assert!(!stack.path("sessions.parquet.partial").exists());
    }
    let terminal = Command::new("script")
        .args(["-q", "-e", "-c"])
        .arg(format!(
            "{} query 'SELECT 1' --format parquet --config {}",
            env!("CARGO_BIN_EXE_bodycam"),
            stack.path("bodycam.toml").display()
        ))
        .arg("/dev/null")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = text(&terminal.stdout);
    assert!(said.contains("--output") && !said.contains("PAR1"), "{said:?}");

    let started = Instant::now();
    let endless = "SELECT count(*) FROM generate_series(1, 10000000) a, generate_series(1, 10000000) b WHERE a.value + b.value = 0";
    let stopped = stack.run(&["query", endless, "--timeout", "1"]);
    assert_eq!(stopped.status.code(), Some(2));
    assert!(text(&stopped.stderr).contains("stopped after 1 s"), "{stopped:?}");
    assert!(started.elapsed() < WAIT);
    for amplified in [
        "SELECT length(repeat('x', 2000000000))",
        "SELECT sum(array_length(range(0, value * 100000000))) FROM generate_series(1, 8)",
        "SELECT repeat(cast(value AS varchar), 1000000000) FROM generate_series(1, 8)",
    ] {
        let stopped = crate::support::stack::python()
            .args([
                "-c",
                MEASURED,
                env!("CARGO_BIN_EXE_bodycam"),
                "query",
                amplified,
                "--memory",
                "64",
                "--config",
            ])
            .arg(stack.path("bodycam.toml"))
            .output()
            .unwrap();
        let kib: u64 = text(&stopped.stdout).trim().parse().unwrap();
        assert!(kib < 1 << 20, "{amplified}: {kib} KiB");
        let said = text(&stopped.stderr);
        assert_eq!(stopped.status.code(), Some(2), "{amplified}: {said}");
        assert!(said.contains("memory limit of 64 MiB") && said.contains("bytes"), "{amplified}: {said}");
        assert!(!said.contains("panicked") && !said.contains("backtrace"), "{amplified}: {said}");
    }
    let large = "SELECT array_agg(value) FROM generate_series(1, 100000000)";
    let stopped = stack.run(&["query", large, "--memory", "16"]);
    assert_eq!(stopped.status.code(), Some(2));
    assert!(text(&stopped.stderr).contains("memory limit of 16 MiB"), "{stopped:?}");
}

#[test]
fn rules_of_a_users_own_are_tested_alone_and_their_faults_have_a_file_and_a_line() {
    let dir = tempfile::tempdir().unwrap();
    let put = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    let test = || bodycam().args(["detect", "test"]).arg(dir.path()).output().unwrap();
    let nothing = test();
    assert_eq!(nothing.status.code(), Some(2));
    assert!(text(&nothing.stderr).contains("there is no rule in this directory"), "{nothing:?}");
    let rule = "id: OWN-1\nversion: \"1.0\"\ntitle: t\ndescription: d\nseverity: low\nentity: [session_id, seq]\n\
                window: 1h\nunit: rows\ntext: \"{rows} rows\"\nquery: |\n  SELECT window_of(ts) AS window_start, session_id, seq, rows,\n\
                \x20        rows AS measure, 7 AS threshold, make_array(event_id) AS evidence\n  FROM pulls WHERE rows >= 7\n";
    let event = |rows: u32| {
        format!(
            "{{ at: \"2026-11-20T10:05:00Z\", principal: bot, kind: sql.result, verdict: allow, rows: {rows} }}"
        )
    };
    let fixtures = |rows| {
        format!(
            "- name: seven rows fire\n  events: [{}]\n  expect: [{{ window: \"2026-11-20T10:05:00Z\", entity: {{ session_id: bot, seq: 0 }}, measure: 7 }}]\n\
             - name: six do not\n  events: [{}]\n",
            event(7),
            event(rows)
        )
    };
    put("own.yaml", rule);
    put("own.fixtures.yaml", &fixtures(6));
    let passed = test();
    assert!(passed.status.success() && text(&passed.stdout).ends_with("2 passed, 0 failed\n"), "{passed:?}");
    put("own.fixtures.yaml", &fixtures(8));
    let failed = test();
    assert_eq!(failed.status.code(), Some(1));
    assert!(text(&failed.stdout).contains("FAILED  OWN-1 six do not: it found"), "{failed:?}");
    put("own.yaml", &rule.replace("rows >= 7", "rows >= )"));
    let fault = test();
    assert_eq!(fault.status.code(), Some(2));
    assert!(text(&fault.stderr).contains("own.yaml:13: "), "{fault:?}");
}
