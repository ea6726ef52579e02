//! The whole pipeline with its lake in an object store: psql → gateway → spool → recorder → S3 → query, detect, replay,
//! verify, while the service fails in the ways in which such services fail.

use std::path::Path;
use std::time::Duration;

use bodycam_lake::store::{Put, S3Options, Store};
use bodycam_lake::{Lake, Table};
use bodycam_record::Family;
use bytes::Bytes;
use serde_json::json;

use crate::support::s3::{ACCESS_KEY, BUCKET, S3, SECRET_KEY};
use crate::support::stack::{Process, Stack};

const LONG: Duration = Duration::from_secs(90);

/// Longest time for which requests are asked again.
const PATIENT: Duration = Duration::from_secs(15);
const IMPATIENT: Duration = Duration::from_millis(300);

fn count(stack: &Stack, sql: &str) -> i64 {
    let output = stack.run(&["query", sql, "--format", "csv"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().nth(1).unwrap().parse().unwrap()
}

/// Count of a query that may fail while there is no lake yet.
fn sealed(stack: &Stack) -> i64 {
    let sql = "SELECT count(*) FROM sessions WHERE state = 'sealed'";
    let output = stack.run(&["query", sql, "--format", "csv"]);
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().nth(1).and_then(|line| line.parse().ok()).unwrap_or(0)
}

#[test]
fn sessions_rest_in_a_bucket_and_every_reader_finds_them_there() {
    let s3 = S3::start(None);
    let stack = Stack::on(|dir| s3.section(dir, "prod/lake"), "");
    let up = stack.start("up");
    let token = stack.token("robot");
    let made = stack.psql("robot", &token, "CREATE TABLE people (id int, name text)");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let filled = "INSERT INTO people SELECT n, 'Ada ' || n FROM generate_series(1, 2000) n";
    assert!(stack.psql("robot", &token, filled).status.success());
    let read = stack.psql("robot", &token, "SELECT name FROM people WHERE id <= 1500");
    assert_eq!(String::from_utf8(read.stdout).unwrap().lines().count(), 1500);
    stack.wait_for("the sealed sessions in the bucket", LONG, || sealed(&stack) == 3);

    // A reader that is given the place alone knows the service from the environment, as Amazon's tools do.
    let at = format!("s3://{BUCKET}/prod/lake");
    let by_environment = |args: &[&str], secret: &str| {
        let mut command = crate::support::stack::bodycam();
        command.args(args).args(["--lake", &at]).env("AWS_ENDPOINT_URL", s3.endpoint());
        command.env("AWS_ALLOW_HTTP", "true").env("AWS_REGION", "us-east-1");
        command.env("AWS_ACCESS_KEY_ID", ACCESS_KEY).env("AWS_SECRET_ACCESS_KEY", secret);
        command.output().unwrap()
    };
    let query = by_environment(
        &["query", "SELECT sum(rows) FROM results WHERE statement_kind = 'select'", "--format", "csv"],
        SECRET_KEY,
    );
    let error = String::from_utf8(query.stderr).unwrap();
    assert_eq!(String::from_utf8(query.stdout).unwrap().lines().nth(1), Some("1500"), "{error}");
    for reader in
        [&["query", "SELECT 1 FROM sessions"][..], &["sessions", "ls"], &["verify"], &["detect", "run"]]
    {
        let refused = by_environment(reader, "wrong");
        let error = String::from_utf8(refused.stderr).unwrap();
        assert!(!refused.status.success() && error.contains("SignatureDoesNotMatch"), "{reader:?}: {error}");
        let expected = if reader[0] == "verify" { 1 } else { 2 };
        assert_eq!(refused.status.code(), Some(expected), "{reader:?}: {error}");
    }

    let sessions = stack.run(&["sessions", "ls", "--format", "json"]);
    let sessions: serde_json::Value = serde_json::from_slice(&sessions.stdout).unwrap();
    assert_eq!(sessions["total"], 3);
    let replayed: String = sessions["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|s| stack.run(&["replay", s["session"].as_str().unwrap(), "--format", "text"]).stdout)
        .map(|text| String::from_utf8(text).unwrap())
        .collect();
    assert!(replayed.contains("Ada 1") && replayed.contains("robot"), "{replayed}");
    let detected = stack.run(&["detect", "run"]);
    assert!(detected.status.success(), "{}", String::from_utf8_lossy(&detected.stderr));
    let doctor = stack.run(&["doctor", "--json"]);
    assert!(String::from_utf8(doctor.stdout).unwrap().contains("3 streams"));

    // A session that is large beside the others costs those who read of the others nothing.
    let large = "SELECT md5(n::text) || md5((-n)::text) AS large FROM generate_series(1, 150000) n;";
    assert!(stack.psql("robot", &token, &large.repeat(5)).status.success());
    stack.wait_for("the large session", LONG, || sealed(&stack) == 4);
    assert!(up.terminate().success(), "{}", stack.log("up"));
    readers_fetch_what_they_need_and_no_more(&s3, &stack);
    let (code, report) = stack.verify();
    assert_eq!(code, 4, "consistent, not anchored: {report:#}");
    an_object_that_was_altered_or_removed_is_named(&s3, &stack);
}

/// Nobody else reads meanwhile.
fn readers_fetch_what_they_need_and_no_more(s3: &S3, stack: &Stack) {
    let id = |rows: u32| {
        let sql = format!("SELECT session_id FROM results WHERE rows = {rows}");
        let output = stack.run(&["query", &sql, "--format", "csv"]);
        String::from_utf8(output.stdout).unwrap().lines().nth(1).unwrap().to_owned()
    };
    let (small, large) = (id(1500), id(150_000));
    let read = |args: &[&str]| {
        s3.forget();
        let output = stack.run(args);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let requests = s3.requests();
        let listed: Vec<_> = requests.iter().filter(|r| r.path.contains("list-type")).collect();
        // What a lake holds is never asked of a listing: these look behind the ends of its streams.
        assert!(
            listed.iter().all(|r| r.path.contains("commits/") || r.path.contains("streams")),
            "{listed:?}"
        );
        requests.into_iter().filter(|r| r.path.contains(".parquet")).collect::<Vec<_>>()
    };
    let sent = |requests: &[crate::support::s3::Request]| requests.iter().map(|r| r.sent).sum::<u64>();
    let content = sent(&read(&["replay", &large, "--format", "text", "--rows", "100000"]));
    assert!(content > 1 << 20, "there is little to save: {content}");
    let counted = read(&["query", "SELECT count(*) FROM sessions WHERE state = 'sealed'"]);
    assert!(counted.iter().all(|r| r.path.contains("/sessions/")), "{counted:?}");
    let one =
        read(&["query", &format!("SELECT statement_kind FROM statements WHERE session_id = '{small}'")]);
    assert!(one.iter().all(|r| !r.path.contains("/content/")) && sent(&one) < 1 << 20, "{one:?}");
    let replayed = read(&["replay", &small, "--format", "text"]);
    assert!(sent(&replayed) < content / 4, "{} of {content}: {replayed:?}", sent(&replayed));
    let parts: std::collections::BTreeSet<_> = replayed.iter().map(|r| (&r.path, &r.range)).collect();
    assert_eq!(parts.len(), replayed.len(), "something was fetched twice: {replayed:?}");
}

/// Somebody who can write the bucket but has no key.
fn an_object_that_was_altered_or_removed_is_named(s3: &S3, stack: &Stack) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let bucket = s3.store("prod/lake", PATIENT);
    // One that is part of the lake: others may have been replaced, and be waiting to be deleted.
    let lake = runtime.block_on(Lake::open(bucket.clone())).unwrap();
    let file = lake.state().files(Table::Events(Family::Sql)).next().unwrap().path.clone();
    let kept = runtime.block_on(bucket.get(&file)).unwrap().unwrap();
    let mut changed = kept.to_vec();
    // In the pages of the first columns: elsewhere, as in a Bloom filter, it would change no row.
    changed[200..400].iter_mut().for_each(|byte| *byte ^= 1);
    let cut = kept.slice(..kept.len() - 100);
    let longer: Bytes = [&kept[..], b"more"].concat().into();
    for altered in [Bytes::from(changed), cut, longer, Bytes::new()] {
        runtime.block_on(bucket.put(&file, altered)).unwrap();
        let (code, report) = stack.verify();
        assert!(code == 2 && report.to_string().contains(&file), "{code} {report:#}");
    }
    runtime.block_on(bucket.delete(&file)).unwrap();
    let (code, report) = stack.verify();
    assert!(code == 2 && report.to_string().contains(&file), "{code} {report:#}");
    let query = stack.run(&["query", "SELECT count(statement_kind) FROM statements"]);
    let error = String::from_utf8(query.stderr).unwrap();
    assert!(!query.status.success() && error.contains(&file), "{error}");
    runtime.block_on(bucket.put(&file, kept)).unwrap();
    assert_eq!(stack.verify().0, 4);
}

#[test]
fn a_service_that_fails_in_every_way_loses_and_doubles_nothing() {
    let s3 = S3::start(None);
    let stack = Stack::on(|dir| s3.section(dir, "lake"), "");
    let gateway = stack.start("gateway");
    let recorder = stack.start("recorder");
    let token = stack.token("robot");
    let run = |sql: &str| {
        let output = stack.psql("robot", &token, sql);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    run("CREATE TABLE notes (n int)");
    s3.faults(&json!([
        { "do": "lost", "method": "PUT", "path": "/commits/", "share": 0.3, "seconds": 3, "times": 6 },
        { "do": "late", "method": "PUT", "path": "/commits/", "share": 0.3, "seconds": 3, "times": 6 },
        { "do": "cut", "method": "PUT", "share": 0.1 },
        { "do": "lost", "method": "PUT", "share": 0.05, "seconds": 3, "times": 6 },
        { "do": "500", "share": 0.1 },
        { "do": "503", "share": 0.1 },
        { "do": "cut", "method": "GET", "share": 0.05 },
        { "do": "lag", "method": "GET", "path": "list-type", "seconds": 5 },
    ]));
    for n in 1..=20 {
        run(&format!("INSERT INTO notes SELECT {n} FROM generate_series(1, 10)"));
        std::thread::sleep(Duration::from_millis(300));
    }
    stack.wait_for("all sessions in the bucket, through the faults", LONG * 2, || sealed(&stack) == 21);
    assert!(s3.applied().iter().all(|times| *times > 0), "{:?}", s3.applied());
    // With the lists as they were, and the rest well again, the verifier has no doubt either.
    s3.heal();
    assert!(gateway.terminate().success(), "{}", stack.log("gateway"));
    assert!(recorder.terminate().success(), "{}", stack.log("recorder"));
    let (code, report) = stack.verify();
    assert_eq!(code, 4, "{report:#}\n{}", stack.log("recorder"));
    assert_eq!(count(&stack, "SELECT count(*) FROM statements WHERE statement_kind = 'insert'"), 20);
    assert_eq!(count(&stack, "SELECT count(*) - count(DISTINCT session_id || '/' || seq) FROM events"), 0);
}

/// A stack on the bucket that is not patient with it, at work, with its first session and a token.
fn impatient(s3: &S3) -> (Stack, Process, String) {
    let lake = |dir: &Path| s3.section(dir, "lake").replace("retry_seconds = 20", "retry_seconds = 1");
    let stack = Stack::on(lake, "");
    let up = stack.start("up");
    let token = stack.token("robot");
    assert!(stack.psql("robot", &token, "CREATE TABLE notes (n int)").status.success());
    (stack, up, token)
}

#[test]
fn a_service_that_is_away_or_slow_holds_the_recorder_up_and_no_longer() {
    let s3 = S3::start(None);
    let (stack, up, token) = impatient(&s3);
    stack.wait_for("the first session", LONG, || sealed(&stack) == 1);
    s3.faults(&json!([{ "do": "503" }]));
    assert!(stack.psql("robot", &token, "INSERT INTO notes VALUES (1)").status.success());
    stack.wait_for("the recorder's word", LONG, || stack.log("up").contains("recorder_failed"));
    // The lake's reader says what is the matter, the verifier gives no verdict.
    let query = stack.run(&["query", "SELECT count(*) FROM sessions"]);
    assert!(String::from_utf8(query.stderr).unwrap().contains("503"));
    assert_eq!(stack.run(&["verify"]).status.code(), Some(1));
    assert!(stack.psql("robot", &token, "INSERT INTO notes VALUES (2)").status.success());
    s3.heal();
    stack.wait_for("what waited in the spool", LONG, || sealed(&stack) == 3);
    assert!(up.terminate().success(), "{}", stack.log("up"));
    assert_eq!(stack.verify().0, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn whether_an_object_was_written_is_known_whatever_became_of_the_answer() {
    let s3 = S3::start(None);
    let store = s3.store("some/prefix", PATIENT);
    store.probe(1).await.unwrap();
    let bytes = |text: &'static str| Bytes::from_static(text.as_bytes());
    for (n, fault) in ["lost", "cut", "500", "503", "late"].into_iter().enumerate() {
        s3.faults(&json!([{ "do": fault, "method": "PUT", "times": 2, "seconds": 2 }]));
        let name = format!("commits/x/0/{n}.json");
        assert_eq!(store.put_new(&name, bytes("mine")).await.unwrap(), Put::New, "{fault}");
        assert_eq!(s3.applied(), [2], "{fault}");
        s3.heal();
        assert_eq!(store.put_new(&name, bytes("mine")).await.unwrap(), Put::Exists, "{fault}");
        // Another's object is never taken for one's own.
        s3.faults(&json!([{ "do": fault, "method": "PUT", "times": 1, "seconds": 2 }]));
        assert_eq!(store.put_new(&name, bytes("another's")).await.unwrap(), Put::Exists, "{fault}");
        assert_eq!(store.get(&name).await.unwrap(), Some(bytes("mine")));
    }
    s3.heal();
    let impatient = s3.store("some/prefix", IMPATIENT);
    s3.faults(&json!([{ "do": "500" }]));
    let error = impatient.put_new("commits/x/0/9.json", bytes("mine")).await.unwrap_err().to_string();
    assert!(error.contains("commits/x/0/9.json") && error.contains("is not known"), "{error}");
    let error = impatient.get("commits/x/0/9.json").await.unwrap_err().to_string();
    assert!(error.contains("cannot read commits/x/0/9.json") && error.contains("500"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_writers_of_one_name_in_a_bucket_exactly_one_wins() {
    let s3 = S3::start(None);
    let stores: Vec<_> = (0..12).map(|_| s3.store("some/prefix", PATIENT)).collect();
    s3.faults(&json!([{ "do": "cut", "method": "PUT", "share": 0.3 }, { "do": "500", "share": 0.2 }]));
    for round in 0..5 {
        let name = format!("commits/x/0/{round}.json");
        let puts = stores.iter().enumerate().map(|(n, store)| {
            let (store, name) = (store.clone(), name.clone());
            tokio::spawn(async move { store.put_new(&name, Bytes::from(vec![n as u8; 100])).await })
        });
        let puts: Vec<_> = puts.collect();
        let mut won = Vec::new();
        for (n, put) in puts.into_iter().enumerate() {
            if put.await.unwrap().unwrap() == Put::New {
                won.push(n as u8);
            }
        }
        assert_eq!(won.len(), 1, "round {round}");
        assert_eq!(stores[0].get(&name).await.unwrap().unwrap().as_ref(), [won[0]; 100]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_file_goes_in_parts_and_is_whole_or_not_there() {
    let s3 = S3::start(None);
    let store = s3.store("some/prefix", PATIENT);
    let large: Bytes = (0..40u32 << 18).flat_map(u32::to_le_bytes).collect::<Vec<u8>>().into();
    let name = |n: u32| format!("tables/sql/dt=2026-11-21/hh=09/gw@0-0-1-{n}-0000000a.parquet");
    s3.faults(&json!([
        { "do": "500", "method": "PUT", "path": "partNumber=2", "times": 2 },
        { "do": "lost", "method": "POST", "path": "uploadId", "times": 1, "seconds": 2 },
    ]));
    assert_eq!(store.put_new(&name(1), large.clone()).await.unwrap(), Put::New);
    assert_eq!(s3.applied(), [2, 1]);
    assert!(store.get(&name(1)).await.unwrap().unwrap() == large);
    let parts = s3.requests().iter().filter(|r| r.path.contains("partNumber=") && r.status == 200).count();
    assert_eq!(parts, 3, "40 MiB in parts of 16");
    assert_eq!(store.put_new(&name(1), large.clone()).await.unwrap(), Put::Exists);
    // From a file, too, of which no more is held in memory than the parts on their way.
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &large).unwrap();
    s3.faults(&json!([{ "do": "cut", "method": "POST", "path": "uploadId", "times": 1 }]));
    assert_eq!(store.put_new_file(&name(3), file.path()).await.unwrap(), Put::New);
    assert_eq!(s3.applied(), [1]);
    assert!(store.get(&name(3)).await.unwrap().unwrap() == large);
    // What two writers can want the name of is put under its condition, however large it is.
    let commit = "commits/gw/0/0/0.json";
    assert_eq!(store.put_new(commit, large.slice(..20 << 20)).await.unwrap(), Put::New);
    assert_eq!(store.put_new(commit, large.slice(1..20 << 20)).await.unwrap(), Put::Exists);
    assert!(store.get(commit).await.unwrap().unwrap() == large.slice(..20 << 20));
    // Given up, it leaves nothing: neither the object nor parts that are paid for.
    let impatient = s3.store("some/prefix", IMPATIENT);
    s3.faults(&json!([{ "do": "503", "method": "PUT", "path": "partNumber=3" }]));
    impatient.put_new(&name(2), large).await.unwrap_err();
    s3.heal();
    assert!(!store.exists(&name(2)).await.unwrap());
    assert!(s3.requests().iter().any(|r| r.method == "DELETE" && r.path.contains("uploadId")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_overwrites_is_refused_before_anything_is_recorded() {
    // A service that knows no conditional writes takes the second object as well as the first.
    let s3 = S3::start(None);
    s3.faults(&json!([{ "do": "unconditional", "method": "PUT" }]));
    let error = s3.store("some/prefix", PATIENT).probe(1).await.unwrap_err().to_string();
    assert!(error.contains("put-if-absent") && error.contains(BUCKET), "{error}");
}

#[test]
fn a_service_with_a_certificate_of_its_own_is_trusted_by_its_authority() {
    let dir = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (cert, key) = (dir.path().join("s3.crt"), dir.path().join("s3.pem"));
    std::fs::write(&cert, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let s3 = S3::start(Some((&cert, &key)));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let with = |ca: Option<Vec<u8>>| {
        let options = S3Options { ca, allow_http: false, ..s3.options(IMPATIENT) };
        runtime.block_on(Store::open_at(&format!("s3://{BUCKET}/lake"), &options).unwrap().probe(3))
    };
    let refused = with(None).unwrap_err().to_string();
    assert!(refused.contains("certificate") || refused.contains("error sending request"), "{refused}");
    with(Some(made.cert.pem().into_bytes())).unwrap();
}

/// Answers every request with 404; gives what was asked for.
fn captured() -> (String, std::sync::mpsc::Receiver<String>) {
    use std::io::{BufRead, BufReader, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (tell, hear) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let mut lines = BufReader::new(&stream).lines().map_while(Result::ok);
            let _ = tell.send(lines.next().unwrap_or_default());
            lines.take_while(|line| !line.is_empty()).for_each(drop);
            let gone = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
            let _ = (&stream).write_all(gone.as_bytes());
        }
    });
    (address, hear)
}

#[test]
fn the_bucket_stands_in_front_of_the_endpoints_host_when_it_does_not_stand_in_the_path() {
    let (proxy, asked) = captured();
    let stack = Stack::on(
        |dir| {
            std::fs::write(dir.join("key"), "x").unwrap();
            "[lake]\nurl = \"s3://the-lake/v1\"\n[lake.s3]\nendpoint = \"http://s3.internal.example:9000\"\n\
             allow_http = true\nregion = \"us-east-1\"\naccess_key = \"file:key\"\nsecret_key = \"file:key\"\n\
             path_style = false\nretry_seconds = 1\n"
                .to_owned()
        },
        "",
    );
    let mut ls = crate::support::stack::bodycam();
    ls.args(["sessions", "ls", "--tenant-key", "none", "--config"]).arg(stack.path("bodycam.toml"));
    ls.env("HTTP_PROXY", format!("http://{proxy}")).env("http_proxy", format!("http://{proxy}"));
    assert!(!ls.output().unwrap().status.success());
    let first = asked.recv_timeout(LONG).unwrap();
    assert_eq!(first, "HEAD http://the-lake.s3.internal.example:9000/v1/streams/0.json HTTP/1.1");
}

#[test]
fn commands_say_within_seconds_that_nobody_takes_connections_where_the_bucket_should_be() {
    let free = crate::support::ports::free_port().unwrap();
    let endpoint = format!("http://127.0.0.1:{free}");
    for command in [&["sessions", "ls"][..], &["query", "SELECT 1"], &["verify"], &["detect", "run"]] {
        let mut command_line = crate::support::stack::bodycam();
        command_line.args(command).args(["--lake", "s3://the-lake/v1"]);
        command_line.env("AWS_ENDPOINT_URL", &endpoint).env("AWS_ALLOW_HTTP", "true");
        command_line.env("AWS_ACCESS_KEY_ID", ACCESS_KEY).env("AWS_SECRET_ACCESS_KEY", SECRET_KEY);
        let began = std::time::Instant::now();
        let output = command_line.output().unwrap();
        let took = began.elapsed();
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && took < Duration::from_secs(20), "{command:?} {took:?}: {error}");
        for part in ["s3://the-lake/v1", &endpoint, "refused", "AWS_ENDPOINT_URL"] {
            assert!(error.contains(part), "{command:?}: {part} is not in {error}");
        }
    }
}

#[test]
fn a_collection_that_fails_midway_says_what_is_gone_and_what_failed() {
    let s3 = S3::start(None);
    let (stack, up, _) = impatient(&s3);
    stack.wait_for("the session", LONG, || sealed(&stack) == 1);
    assert!(up.terminate().success(), "{}", stack.log("up"));
    // Two that no commit names, nor can: the streams stand behind their position.
    let store = s3.store("lake", PATIENT);
    let orphans = [1, 2].map(|n| format!("templates/gw-test@ledger-0-0-{n}-deadbeef.parquet"));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    for orphan in &orphans {
        runtime.block_on(store.put_new(orphan, Bytes::from_static(b"left"))).unwrap();
    }
    std::thread::sleep(Duration::from_secs(2));
    let is_there = |path: &str| runtime.block_on(store.exists(path)).unwrap();
    for json in [false, true] {
        // The first is deleted, the second is refused each time.
        s3.faults(&json!([
            { "do": "late", "seconds": 0, "method": "POST|DELETE", "times": 1 },
            { "do": "500", "method": "POST|DELETE" },
        ]));
        let args = ["lake", "gc", "--remove", "--older-than", "1s", "--json"];
        let output = stack.run(if json { &args } else { &args[..5] });
        s3.heal();
        let said = String::from_utf8(output.stdout).unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success(), "{said} {error}");
        let (gone, left): (Vec<_>, Vec<_>) = orphans.iter().partition(|path| !is_there(path));
        let ([gone], [left]) = (&gone[..], &left[..]) else { panic!("{gone:?} {left:?}: {said} {error}") };
        assert!(error.contains(&**left) && error.contains("1 files are gone"), "{error}");
        assert!(error.contains("Run this again"), "{error}");
        if json {
            let report: serde_json::Value = serde_json::from_str(&said).unwrap();
            assert_eq!(report["removed_files"], json!([gone]), "{report:#}");
            assert!(report["error"].as_str().unwrap().contains(&**left), "{report:#}");
        } else {
            let removed = format!("removed: {gone}: ");
            assert!(said.lines().any(|line| line.starts_with(&removed)), "{said}");
            assert!(said.contains(&format!("not removed: {left}: ")), "{said}");
            assert!(said.ends_with("\n1 files removed\n"), "{said}");
            let again = runtime.block_on(store.put_new(gone, Bytes::from_static(b"left"))).unwrap();
            assert_eq!(again, Put::New);
            std::thread::sleep(Duration::from_secs(2));
        }
    }
    assert!(stack.run(&["lake", "gc", "--remove", "--older-than", "1s"]).status.success());
    assert!(orphans.iter().all(|path| !is_there(path)));
}
