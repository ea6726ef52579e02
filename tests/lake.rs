//! `bodycam lake`: what it says and does, beside a recorder at work, killed, and in how much memory.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use bodycam_lake::columns::content;
use bodycam_lake::commit::{Signature, VERSION};
use bodycam_lake::{Commit, FileEntry, Hour, Lake, Store, StreamName, Table, file, layout};
use bodycam_record::{Digest, EpochKey, SealedChunk, SessionId};
use serde_json::Value;

use crate::support::stack::{Process, Stack, bodycam};

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn json(stack: &Stack, args: &[&str]) -> Value {
    let output = stack.run(args);
    assert!(output.status.success(), "{args:?}: {}", text(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Makes flushes, compactions and snapshots frequent.
fn busy(stack: &Stack) {
    let config = std::fs::read_to_string(stack.path("bodycam.toml")).unwrap();
    let busy = "flush_seconds = 1\ncompact_seconds = 1\ncompact_grace_seconds = 2\nsnapshot_commits = 5";
    std::fs::write(stack.path("bodycam.toml"), config.replace("flush_seconds = 1", busy)).unwrap();
}

/// Inserts numbers through the gateway until told to stop; gives how many.
fn insert(port: u16, token: &str, stop: &AtomicBool) -> i64 {
    let mut n = 0;
    while !stop.load(Ordering::SeqCst) {
        let sql: String = (0..20).map(|i| format!("INSERT INTO numbers VALUES ({});", n + i)).collect();
        let port = port.to_string();
        let output = Command::new("psql")
            .args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-U", "robot", "-d", "app"])
            .args(["-p", &port, "-c", &sql])
            .env("PGPASSWORD", token)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", text(&output));
        n += 20;
    }
    n
}

#[test]
fn compactors_and_recorders_at_work_at_once_and_killed_lose_and_repeat_nothing() {
    let stack = Stack::new("");
    busy(&stack);
    stack.cluster.run("app", "CREATE TABLE numbers (n bigint); GRANT ALL ON numbers TO app").unwrap();
    let token = stack.token("robot");
    let gateway = stack.start("gateway");
    let mut recorder = stack.start("recorder");
    let stop = Arc::new(AtomicBool::new(false));
    let (seen, port) = (Arc::clone(&stop), stack.postgres.port());
    let client = std::thread::spawn(move || insert(port, &token, &seen));
    let compact = || {
        let mut command = bodycam();
        command.args(["lake", "compact", "--config"]).arg(stack.path("bodycam.toml"));
        let child =
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        Process { child }
    };
    let (mut killed, mut ended) = (0, 0);
    for round in 0..14u64 {
        std::thread::sleep(Duration::from_millis(400));
        // Two at once, each killed a little later than in the round before; some come to their end.
        let (mut first, second) = (compact(), compact());
        std::thread::sleep(Duration::from_millis(15 * round));
        second.kill();
        if round % 3 == 2 {
            recorder.kill();
            recorder = stack.start("recorder");
        }
        if round % 2 == 0 {
            killed += u64::from(first.child.try_wait().unwrap().is_none());
            first.kill();
        } else {
            let status = first.child.wait().unwrap();
            let mut said = String::new();
            std::io::Read::read_to_string(first.child.stderr.as_mut().unwrap(), &mut said).unwrap();
            assert!(status.success(), "{said}");
            ended += 1;
        }
    }
    assert!(killed > 0 && ended == 7, "{killed} were killed");
    stop.store(true, Ordering::SeqCst);
    let inserted = client.join().unwrap();
    assert!(gateway.terminate().success(), "{}", stack.log("gateway"));
    assert!(recorder.terminate().success(), "{}", stack.log("recorder"));

    // Everything is there once: what is counted by the target, by the events, and by whoever verifies.
    assert_eq!(stack.direct("SELECT count(*) FROM numbers"), inserted.to_string());
    let sql = "SELECT text FROM content WHERE content_kind = 'sql-text' AND text LIKE '%INTO numbers%'";
    let output = stack.run(&["query", sql, "--format", "csv"]);
    let recorded: Vec<i64> = String::from_utf8(output.stdout)
        .unwrap()
        .split("VALUES (")
        .skip(1)
        .map(|part| part.split(')').next().unwrap().parse().unwrap())
        .collect();
    let distinct: BTreeSet<i64> = recorded.iter().copied().collect();
    assert_eq!(distinct, (0..inserted).collect());
    assert_eq!(recorded.len(), distinct.len());
    let (code, report) = stack.verify();
    assert_eq!(code, 4, "whole, and anchored nowhere outside: {report:#}");

    // What the killed ones left behind is known as such, and too young to go.
    let stat = json(&stack, &["lake", "stat", "--json"]);
    let merged: u64 = stat["files"].as_array().unwrap().iter().map(|f| f["files"].as_u64().unwrap()).sum();
    assert!(merged > 0 && stat["commits"].as_u64().unwrap() > merged, "{stat:#}");
    let orphans = stat["orphans"].as_array().unwrap();
    assert!(orphans.iter().all(|orphan| orphan["stays"] == "too young"), "{orphans:#?}");
    let gc = stack.run(&["lake", "gc", "--remove", "--older-than", "1s"]);
    assert!(gc.status.success(), "{}", text(&gc));
    let left = json(&stack, &["lake", "gc", "--json"]);
    let young = left["orphans"].as_array().unwrap();
    let from_compaction = |o: &Value| o["path"].as_str().unwrap().contains("/compaction-");
    assert!(young.iter().all(from_compaction), "a minute says nothing of these: {young:#?}");
    assert_eq!(stack.verify().0, 4);
}

#[test]
fn the_lake_says_what_is_in_it_merges_and_removes() {
    let stack = Stack::new("");
    let token = stack.token("robot");
    stack.cluster.run("app", "CREATE TABLE numbers (n bigint); GRANT ALL ON numbers TO app").unwrap();
    let gateway = stack.start("gateway");
    for n in 0..3 {
        let recorder = stack.start("recorder");
        stack.psql("robot", &token, &format!("INSERT INTO numbers VALUES ({n})"));
        assert!(recorder.terminate().success());
    }
    assert!(gateway.terminate().success());
    assert!(stack.start("recorder").terminate().success());

    let before = json(&stack, &["lake", "stat", "--by", "hour", "--json"]);
    let of = |stat: &Value, table: &str, what: &str| -> u64 {
        let files = stat["files"].as_array().unwrap();
        files.iter().filter(|f| f["table"] == table).map(|f| f[what].as_u64().unwrap()).sum()
    };
    assert!(of(&before, "sql", "files") >= 3 && of(&before, "sql", "small_files") >= 3, "{before:#}");
    let streams: Vec<_> =
        before["streams"].as_array().unwrap().iter().map(|s| s["stream"].as_str().unwrap()).collect();
    assert!(streams.contains(&"gw-test/ledger"), "{streams:?}");
    assert!(before["streams"][0]["last_commit_age_seconds"].as_u64().unwrap() < 600);
    assert_eq!(before["commits_since_snapshot"], before["commits"]);
    let hour =
        before["files"].as_array().unwrap().iter().find(|f| f["table"] == "sql").unwrap()["time"].clone();
    let hour = hour.as_str().unwrap().replace("dt=", "").replace("/hh=", "T");

    let plan = json(&stack, &["lake", "compact", "--dry-run", "--json"]);
    let tables: BTreeSet<_> =
        plan.as_array().unwrap().iter().map(|job| job["table"].as_str().unwrap()).collect();
    assert!(tables.contains("sql") && tables.contains("sessions"), "{plan:#}");
    let said = text(&stack.run(&["lake", "compact", "--dry-run", "--table", "sql", "--hour", &hour]));
    assert!(said.starts_with("would merge ") && said.contains("tables/sql/dt="), "{said}");
    assert!(said.lines().all(|line| line.contains("tables/sql/")), "{said}");
    let said = text(&stack.run(&["lake", "compact", "--dry-run", "--hour", "2001-01-01T00"]));
    assert_eq!(said, "nothing to merge\n");
    let unchanged = json(&stack, &["lake", "stat", "--by", "hour", "--json"]);
    assert_eq!(unchanged["commits"], before["commits"], "that merged nothing");

    let output = stack.run(&["lake", "compact", "--table", "sql"]);
    assert!(output.status.success() && text(&output).contains(" became "), "{}", text(&output));
    let after = json(&stack, &["lake", "stat", "--by", "hour", "--json"]);
    assert!(of(&after, "sql", "files") <= 2, "{after:#}");
    assert_eq!(of(&after, "sql", "rows"), of(&before, "sql", "rows"));
    assert_eq!(of(&after, "sessions", "files"), of(&before, "sessions", "files"), "that was not asked for");
    let replaced = after["replaced"].as_array().unwrap().len() as u64;
    assert!(replaced >= 3, "{after:#}");

    // Orphans: one that is old and whose commit was made, one that is young, one of somebody else.
    let folder = "tables/sql/dt=2026-11-21/hh=10";
    let old = format!("{folder}/gw-test@0-0-0-0-deadbeef.parquet");
    for (path, age) in [
        (&old, 3 * 86_400),
        (&format!("{folder}/gw-test@0-0-0-1-deadbeef.parquet"), 60),
        (&format!("{folder}/mine.parquet"), 3 * 86_400),
    ] {
        let at = stack.path("lake").join(path);
        std::fs::create_dir_all(at.parent().unwrap()).unwrap();
        std::fs::write(&at, "left").unwrap();
        let file = std::fs::OpenOptions::new().write(true).open(&at).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(age)).unwrap();
    }
    let said = text(&stack.run(&["lake", "gc"]));
    assert!(
        said.contains(&format!("would remove: {old}: no commit names it, nor can; 3 days old")),
        "{said}"
    );
    assert!(said.contains("too young") && said.contains("not written by a recorder"), "{said}");
    assert!(said.contains("readers may use it until"), "{said}");
    assert!(said.ends_with("nothing was removed: that takes --remove\n"), "{said}");
    assert!(stack.path("lake").join(&old).exists());
    let said = text(&stack.run(&["lake", "gc", "--remove"]));
    assert!(said.contains(&format!("removed: {old}")) && said.ends_with("\n1 files removed\n"), "{said}");
    assert!(!stack.path("lake").join(&old).exists());
    assert_eq!(stack.files_below(&format!("lake/{folder}")).len(), 2);
    for path in stack.files_below(&format!("lake/{folder}")) {
        std::fs::remove_file(path).unwrap();
    }
    let said = text(&stack.run(&["lake", "stat"]));
    for part in ["TABLE", "sql", "files by size: below 64 KiB:", "gw-test/ledger", "replaced files that wait"]
    {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(said.contains("files that no commit names: 0"), "{said}");
    assert!(said.contains("kept by detection under state/: "), "{said}");
    assert_eq!(stack.verify().0, 4);

    // A lake without its recorder's configuration is looked at, and not changed.
    let lake = stack.path("lake");
    let alone = |args: &[&str]| {
        let mut command = bodycam();
        let nowhere = stack.path("nowhere");
        std::fs::create_dir_all(&nowhere).unwrap();
        command.current_dir(nowhere).args(args).arg("--lake").arg(&lake).output().unwrap()
    };
    assert!(alone(&["lake", "stat"]).status.success());
    let refused = alone(&["lake", "compact"]);
    assert!(!refused.status.success() && text(&refused).contains("recorder.key"), "{}", text(&refused));
}

/// A lake of content in `files` files of `rows` rows of 16 KiB each: parts of the same sessions in every file.
fn lake_of_content(dir: &Path, files: u64, rows: i64) {
    let key = EpochKey::from_seed(&[7; 32]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let store = Store::create(dir.join("lake").to_str().unwrap()).unwrap();
        let mut lake = Lake::open(store.clone()).await.unwrap();
        let stream: StreamName = "gw/0".parse().unwrap();
        lake.add_stream(&stream, 0, 0).await.unwrap();
        for n in 0..files {
            let chunks: Vec<_> = (0..rows)
                .map(|row| SealedChunk {
                    session: SessionId::new(1_795_255_200_000 + (row / 8) as u64, [1; 10]),
                    content_no: 8 * n as i64 + row % 8,
                    index: 0,
                    kind: 1,
                    sealed: vec![(row + n as i64) as u8; 16 << 10],
                })
                .collect();
            let encoded = file::encode(Table::Content, &content::encode(&chunks).unwrap()).unwrap();
            let name = layout::FileName { stream: &stream, generation: 0, from: n, n: 0, writer: 1 };
            let hour = Hour::of_session(chunks[0].session);
            let path = layout::data_file(Table::Content, Some(hour), name);
            store.put_new(&path, encoded.bytes).await.unwrap();
            let commit = Commit {
                version: VERSION,
                stream: stream.clone(),
                generation: 0,
                from: n,
                to: n + 1,
                created_ns: 0,
                previous: None,
                files: vec![FileEntry { path, ..encoded.entry }],
                replaces: Vec::new(),
                deleted_to: 0,
                sessions: Vec::new(),
                ledger: None,
                duplicates: 0,
                recorder: Digest::ZERO,
                signature: Signature::NONE,
            };
            lake.commit(commit, &key).await.unwrap();
        }
    });
    std::fs::write(dir.join("recorder.key"), "07".repeat(32)).unwrap();
    let owner_only = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(dir.join("recorder.key"), owner_only).unwrap();
    let listen = crate::support::ports::free_port().unwrap();
    let config = format!(
        "[gateway]\nproducer = \"gw\"\ntenant = \"t\"\ntenant_key = \"file:tenant.key\"\n[lake]\nurl = \"lake\"\n\
         [recorder]\nkey = \"recorder.key\"\n[http]\nlisten = \"127.0.0.1:{listen}\"\n\
         [[principals]]\nname = \"ada\"\nkind = \"person\"\negress = [\"example.com:443\"]\n"
    );
    std::fs::write(dir.join("bodycam.toml"), config).unwrap();
}

/// Most memory that `lake compact` has on a lake, in MiB; the lake is one file afterwards.
fn peak_of_compaction(dir: &Path) -> u64 {
    let mut command = bodycam();
    command.args(["lake", "compact", "--config"]).arg(dir.join("bodycam.toml"));
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut process = Process { child };
    let status = format!("/proc/{}/status", process.child.id());
    let mut peak = 0;
    let started = Instant::now();
    while process.child.try_wait().unwrap().is_none() {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib: u64 = line.and_then(|l| l.split_whitespace().next()?.parse().ok()).unwrap_or(0);
        peak = peak.max(kib);
        assert!(started.elapsed() < Duration::from_secs(300));
        std::thread::sleep(Duration::from_millis(2));
    }
    let mut said = String::new();
    std::io::Read::read_to_string(process.child.stderr.as_mut().unwrap(), &mut said).unwrap();
    std::io::Read::read_to_string(process.child.stdout.as_mut().unwrap(), &mut said).unwrap();
    assert!(process.child.wait().unwrap().success() && said.ends_with(" became 1\n"), "{said}");
    peak >> 10
}

#[test]
fn the_memory_of_a_merge_does_not_grow_with_the_files() {
    let mut peaks = Vec::new();
    for (files, rows) in [(10, 640), (10, 1536)] {
        let dir = tempfile::tempdir().unwrap();
        lake_of_content(dir.path(), files, rows);
        peaks.push(peak_of_compaction(dir.path()));
    }
    // 100 and 240 MiB of files; the difference is nothing but chance.
    assert!(peaks[1] < 280, "{peaks:?} MiB");
    assert!(peaks[1] < peaks[0] + 60, "{peaks:?} MiB");
}
