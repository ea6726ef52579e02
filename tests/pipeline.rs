//! One query from the wire to proof, with the real binary: psql → gateway → spool → lake → query, replay,
//! verify; then a cell is altered and named.

use std::time::Duration;

use crate::support::stack::{Stack, python};

fn count(stack: &Stack, sql: &str) -> i64 {
    let output = stack.run(&["query", sql, "--format", "csv"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().nth(1).unwrap().parse().unwrap()
}

#[test]
fn a_psql_session_is_recorded_stored_verified_and_replayed_and_an_altered_cell_is_named() {
    let stack = Stack::new("");
    let up = stack.start("up");
    let token = stack.token("robot");
    let made = stack.psql(
        "robot",
        &token,
        "CREATE TABLE people (id int, name text); INSERT INTO people VALUES (1, 'Ada'), (2, 'Bo')",
    );
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let read = stack.psql("robot", &token, "SELECT name FROM people WHERE id = 2");
    assert_eq!(String::from_utf8(read.stdout).unwrap().trim(), "Bo");

    stack.wait_for("the sessions' seals in the lake", Duration::from_secs(20), || {
        count(&stack, "SELECT count(*) FROM sessions WHERE state = 'sealed'") == 2
    });
    assert_eq!(
        count(
            &stack,
            "SELECT count(*) FROM statements WHERE main_relation = 'public.people' AND has_predicate"
        ),
        1
    );
    assert_eq!(count(&stack, "SELECT sum(rows) FROM results WHERE statement_kind = 'select'"), 1);

    let sessions = stack.run(&["sessions", "ls", "--format", "json"]);
    let sessions: serde_json::Value = serde_json::from_slice(&sessions.stdout).unwrap();
    assert_eq!(sessions["total"], 2);
    let replayed: String = sessions["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|s| {
            let id = s["session"].as_str().unwrap();
            String::from_utf8(stack.run(&["replay", id, "--format", "text"]).stdout).unwrap()
        })
        .collect();
    let replayed = replayed.split_whitespace().collect::<Vec<_>>().join(" ");
    for wanted in ["SELECT name FROM people WHERE id = 2", "Bo", "robot"] {
        assert!(replayed.contains(wanted), "no '{wanted}' in:\n{replayed}");
    }

    assert!(up.terminate().success(), "{}", stack.log("up"));
    let (code, report) = stack.verify();
    assert_eq!(code, 4, "consistent, not anchored: {report:#}");

    // One cell of one row, re-encoded as a valid file by somebody who can write the lake but has no key.
    // Smaller or larger than it was, the cell is named.
    for (compression, from, to) in [("zstd", "1", "1000"), ("none", "1000", "2000")] {
        let lake = stack.path("lake");
        let altered =
            python().args(["-c", ALTER, lake.to_str().unwrap(), compression, from, to]).output().unwrap();
        assert!(altered.status.success(), "{}", String::from_utf8_lossy(&altered.stderr));
        let named: Vec<String> =
            String::from_utf8(altered.stdout).unwrap().split_whitespace().map(str::to_owned).collect();
        let [session, seq] = named.as_slice() else { panic!("{named:?}") };
        let (code, report) = stack.verify();
        assert_eq!(code, 2, "{report:#}");
        let text = report.to_string();
        assert!(
            text.contains(session) && text.contains(&format!("\"seq\":{seq}")),
            "{session} {seq}: {report:#}"
        );
        // Whoever only reads sees what is there now, and that it is not what was recorded.
        assert_eq!(count(&stack, &format!("SELECT count(*) FROM results WHERE rows = {to}")), 1);
        for shown in [&["sessions", "show", session][..], &["replay", session, "--format", "text"]] {
            let shown = stack.run(shown);
            let text = String::from_utf8(shown.stdout).unwrap();
            assert!(text.contains(&format!("BROKEN at #{seq}: the hash does not follow")), "{text}");
        }
    }

    let short = |rows: &str| {
        let id = sessions["items"][0]["session"].as_str().unwrap();
        let text = stack.run(&["replay", id, "--format", "text", "--rows", rows]).stdout;
        String::from_utf8(text).unwrap().contains("raise --rows")
    };
    assert!(short("0") && !short("5"));
    assert_eq!(stack.run(&["replay", "x", "--format", "text", "--rows", "100001"]).status.code(), Some(2));
    let inside = stack.path("lake/tables/mine.csv");
    let refused = stack.run(&["query", "SELECT 1", "--output", inside.to_str().unwrap()]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(!inside.exists());
    nothing_is_left_out_in_silence(&stack);
}

/// On a lake that lacks something, every reader fails, and says what is missing, where, and what to do.
fn nothing_is_left_out_in_silence(stack: &Stack) {
    let copy = || {
        let _ = std::fs::remove_dir_all(stack.path("copy"));
        let mut cp = std::process::Command::new("cp");
        assert!(cp.arg("-r").args([stack.path("lake"), stack.path("copy")]).status().unwrap().success());
    };
    let readers: [&[&str]; 7] = [
        &["query", "SELECT count(rows), min(tag), max(bytes) FROM results"],
        &["sessions", "ls"],
        &["sessions", "show", "0123"],
        &["events", "grep", "select"],
        &["findings", "ls"],
        &["replay", "0123", "--format", "text"],
        &["detect", "run"],
    ];
    let fails = |readers: &[&[&str]], lake: &str, said: &[&str]| {
        for reader in readers {
            let lake = stack.path(lake);
            let output = stack.run(&[*reader, &["--lake", lake.to_str().unwrap()]].concat());
            let text = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(2), "{reader:?}: {text}");
            assert!(said.iter().all(|part| text.contains(part)), "{reader:?}: {said:?} not in {text}");
            assert_eq!(text.lines().count(), 1, "{text}");
        }
    };
    copy();
    let mut commits = stack.files_below("copy/commits");
    let number = |p: &std::path::PathBuf| p.file_stem().unwrap().to_str().unwrap().parse::<u64>().unwrap();
    commits.sort_by_key(|p| (p.parent().unwrap().to_owned(), number(p)));
    let pair = commits.windows(2).find(|pair| pair[0].parent() == pair[1].parent()).unwrap();
    std::fs::remove_file(&pair[0]).unwrap();
    let _ = std::fs::remove_dir_all(stack.path("copy/snapshots"));
    let name = pair[0].strip_prefix(stack.path("copy")).unwrap().to_str().unwrap();
    fails(&readers, "copy", &[name, "is missing", "bodycam verify"]);

    std::fs::remove_dir_all(stack.path("copy/streams")).unwrap();
    fails(&readers, "copy", &["there is no lake at "]);
    std::fs::create_dir(stack.path("empty")).unwrap();
    fails(&readers, "empty", &["there is no lake at ", "the path is wrong"]);

    for damage in ["missing", "cut", "changed"] {
        copy();
        let file =
            stack.files_below("copy/tables/sql").into_iter().max_by_key(|p| p.metadata().unwrap().len());
        let file = file.unwrap();
        let mut bytes = std::fs::read(&file).unwrap();
        match damage {
            "missing" => std::fs::remove_file(&file).unwrap(),
            "cut" => std::fs::write(&file, &bytes[..bytes.len() - 100]).unwrap(),
            _ => {
                bytes[4..200].fill(0xa5);
                let end = bytes.len() * 2 / 3;
                bytes[200..end].fill(0xa5);
                std::fs::write(&file, bytes).unwrap();
            }
        }
        let name = file.strip_prefix(stack.path("copy")).unwrap().to_str().unwrap();
        let why = if damage == "missing" { "is missing" } else { "not as committed" };
        fails(&readers[..1], "copy", &[name, why, "bodycam verify"]);
    }
}

/// Changes the row count of one recorded result; prints session and seq of the event.
const ALTER: &str = r#"
import pathlib, sys, uuid
import pyarrow as pa, pyarrow.parquet as pq
for path in sorted(pathlib.Path(sys.argv[1]).glob("tables/sql/**/*.parquet")):
    table = pq.read_table(path)
    rows = table.column("rows").to_pylist()
    hit = [i for i, r in enumerate(rows) if r == int(sys.argv[3])]
    if hit:
        rows[hit[0]] = int(sys.argv[4])
        at = table.schema.get_field_index("rows")
        changed = table.set_column(at, table.schema.field(at), pa.array(rows, table.schema.field(at).type))
        pq.write_table(changed, path, compression=sys.argv[2], use_dictionary=sys.argv[2] != "none")
        print(uuid.UUID(bytes=table.column("session_id")[hit[0]].as_py()), table.column("seq")[hit[0]].as_py())
        break
"#;

#[test]
fn sigterm_seals_every_session_and_commits_everything() {
    let stack = Stack::new("");
    let up = stack.start("up");
    let token = stack.token("ada");
    let mut idle = std::process::Command::new("psql")
        .args(["-X", "-h", "127.0.0.1", "-U", "ada", "-d", "app", "-p", &stack.postgres.port().to_string()])
        .args(["-c", "SELECT pg_sleep(60)"])
        .env("PGPASSWORD", &token)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    stack.wait_for("the session", Duration::from_secs(20), || {
        count(&stack, "SELECT count(*) FROM sessions") == 1
    });
    assert!(up.terminate().success(), "{}", stack.log("up"));
    idle.wait().unwrap();
    assert_eq!(count(&stack, "SELECT count(*) FROM sessions WHERE state = 'sealed'"), 1);
    assert_eq!(count(&stack, "SELECT count(*) FROM ledger WHERE kind_name = 'ledger.stop'"), 1);
    assert_eq!(stack.verify().0, 4);
}

#[test]
fn a_revoked_token_logs_nobody_in_and_the_lake_holds_no_secret() {
    let stack = Stack::new("");
    let up = stack.start("up");
    let token = stack.token("ada");
    assert!(stack.psql("ada", &token, "SELECT 'canary-9f3e77'").status.success());
    let listed = String::from_utf8(stack.run(&["token", "ls"]).stdout).unwrap();
    assert!(!listed.contains(&token));
    let id = listed.lines().nth(1).unwrap().split_whitespace().next().unwrap().to_owned();
    assert!(stack.run(&["token", "revoke", &id]).status.success());
    // Changes of the state store are read within half a second.
    std::thread::sleep(Duration::from_secs(1));
    let refused = stack.psql("ada", &token, "SELECT 1");
    assert!(!refused.status.success());
    let message = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(message.contains("FATAL"), "{message}");
    assert!(up.terminate().success());
    for name in ["lake", "spool", "state.db"] {
        let hit = std::process::Command::new("grep")
            .args(["-r", "-a", "-l", "-e", &token, "-e", "app-password", "-e", "canary-9f3e77"])
            .arg(stack.path(name))
            .output()
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&hit.stdout), "", "secrets in clear");
    }
}

#[test]
fn a_second_gateway_on_the_same_spool_is_refused() {
    let stack = Stack::new("");
    let _gateway = stack.start("gateway");
    let second = stack.run(&["gateway"]);
    assert_eq!(second.status.code(), Some(2));
    let message = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(message.contains("in use by another gateway") || message.contains("cannot listen"), "{message}");
}

#[test]
fn egress_is_recorded_beside_sql_and_refusals_are_told() {
    let stack = Stack::new("");
    let up = stack.start("up");
    let token = stack.token("robot");
    let site = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/report?q=1", site.local_addr().unwrap());
    let served = std::thread::spawn(move || {
        use std::io::{Read, Write};
        let (mut stream, _) = site.accept().unwrap();
        let mut head = [0; 4096];
        let n = stream.read(&mut head).unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello").unwrap();
        String::from_utf8_lossy(&head[..n]).into_owned()
    });
    let curl = |url: &str| {
        std::process::Command::new("curl")
            .args(["-sS", "--max-time", "20", "--proxy", &format!("http://{}", stack.http)])
            .args(["--proxy-user", &format!("robot:{token}"), "-w", " %{http_code}", url])
            .env_remove("no_proxy")
            .env_remove("NO_PROXY")
            .output()
            .unwrap()
    };
    assert_eq!(String::from_utf8_lossy(&curl(&url).stdout), "hello 200");
    let head = served.join().unwrap();
    assert!(head.starts_with("GET /report?q=1 HTTP/1.1\r\n") && !head.contains("Proxy-Auth"), "{head}");
    let refused = String::from_utf8_lossy(&curl("http://elsewhere.example/").stdout).into_owned();
    assert!(refused.ends_with(" 403") && refused.contains("elsewhere.example"), "{refused}");
    assert!(up.terminate().success(), "{}", stack.log("up"));
    let requests = |verdict: &str| {
        let sql =
            format!("SELECT count(*) FROM http WHERE kind_name = 'http.request' AND verdict = '{verdict}'");
        count(&stack, &sql)
    };
    assert_eq!((requests("allow"), requests("deny")), (1, 1));
    assert_eq!(stack.verify().0, 4);
}

/// Files of a table in the lake.
fn files(stack: &Stack, table: &str) -> usize {
    let files = stack.files_below(&format!("lake/{table}"));
    files.iter().filter(|path| path.extension().is_some_and(|e| e == "parquet")).count()
}

#[test]
fn compaction_changes_no_answer_of_query_and_verify() {
    let stack = Stack::new("");
    let config = std::fs::read_to_string(stack.path("bodycam.toml")).unwrap();
    let compact = |seconds: u32| {
        let every = format!("flush_seconds = 1\ncompact_seconds = {seconds}\ncompact_grace_seconds = 1");
        let changed = config.replace("flush_seconds = 1", &every);
        assert_ne!(changed, config);
        std::fs::write(stack.path("bodycam.toml"), changed).unwrap();
    };
    compact(0);
    let (gateway, recorder) = (stack.start("gateway"), stack.start("recorder"));
    let token = stack.token("robot");
    for n in 0..6 {
        let sql = format!("SELECT {n}, repeat('x', {n} * 1000); SELECT count(*) FROM pg_class");
        assert!(stack.psql("robot", &token, &sql).status.success());
        // Each in a flush of its own.
        std::thread::sleep(Duration::from_millis(1300));
    }
    assert!(gateway.terminate().success(), "{}", stack.log("gateway"));
    assert!(recorder.terminate().success(), "{}", stack.log("recorder"));
    let answers = || {
        let (code, mut report) = stack.verify();
        // How many files and commits hold the record is what compaction changes.
        let checked = report["checked"].as_object_mut().unwrap();
        checked
            .retain(|what, _| !matches!(what.as_str(), "streams" | "files" | "commits" | "bytes" | "rows"));
        let tables = ["sessions", "events", "statements", "results", "findings"].map(|table| {
            let sql = format!("SELECT * FROM {table} ORDER BY 1, 2, 3, 4");
            let output = stack.run(&["query", &sql, "--format", "json"]);
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).unwrap()
        });
        (code, report, tables)
    };
    let (before, small) = (answers(), files(&stack, "tables/sql"));
    assert!(small >= 6 && before.0 == 4, "{small} files, {:#}", before.1);
    compact(1);
    let recorder = stack.start("recorder");
    stack.wait_for("compaction", Duration::from_secs(60), || files(&stack, "tables/sql") < small);
    assert!(recorder.terminate().success(), "{}", stack.log("recorder"));
    let after = answers();
    assert_eq!(after.0, before.0);
    assert_eq!(after.1, before.1);
    assert_eq!(after.2, before.2);
}
