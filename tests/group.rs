//! A group of recorders on one lake, over a real broker: streams move when a recorder is stopped, killed or started, a
//! commit that comes too late is refused, and every record is in the lake once.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bodycam_lake::{Commit, Lake, Store};
use bodycam_record::{Digest, EpochKey};

use crate::support::broker::Broker;
use crate::support::ports::free_port;
use crate::support::stack::{Process, Stack, bodycam, get, signal};

/// With six partitions and three recorders, which have two neighbouring ones each, every recorder has a gateway, and one
/// has two (`CRC32C(name) % 6` is 0, 2, 3 and 4).
const GATEWAYS: [&str; 4] = ["gw-4", "gw-7", "gw-0", "gw-2"];
const RECORDERS: usize = 3;
const CLIENTS_OF_EACH: usize = 2;
/// Longer than the group waits for a recorder that says nothing.
const STOPPED: Duration = Duration::from_secs(60);

/// A process with a configuration, a log and an admin listener of its own.
struct Part {
    name: String,
    subcommand: &'static str,
    admin: SocketAddr,
    /// Where clients of a gateway connect.
    port: u16,
}

impl Part {
    fn new(stack: &Stack, name: &str, subcommand: &'static str, recorder: &str) -> Self {
        let [postgres, http, admin, recorder_admin] =
            [(); 4].map(|()| SocketAddr::from(([127, 0, 0, 1], free_port().unwrap())));
        let mut config = std::fs::read_to_string(stack.path("bodycam.toml")).unwrap();
        for (from, to) in [
            ("producer = \"gw-test\"".to_owned(), format!("producer = \"{name}\"")),
            ("cores = 2".to_owned(), "cores = 1".to_owned()),
            (stack.postgres.to_string(), postgres.to_string()),
            (stack.http.to_string(), http.to_string()),
            (stack.admin.to_string(), admin.to_string()),
            (stack.recorder_admin.to_string(), recorder_admin.to_string()),
            ("flush_seconds = 1".to_owned(), recorder.to_owned()),
        ] {
            assert!(config.contains(&from), "{from}");
            config = config.replace(&from, &to);
        }
        std::fs::write(stack.path(&format!("{name}.toml")), config).unwrap();
        let admin = if subcommand == "recorder" { recorder_admin } else { admin };
        Self { name: name.to_owned(), subcommand, admin, port: postgres.port() }
    }

    fn start(&self, stack: &Stack) -> Process {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(stack.path(&format!("{}.log", self.name)))
            .unwrap();
        let child = bodycam()
            .env("BODYCAM_LOG", "info,bodycam_recorder=debug,bodycam_bus=debug")
            .args([self.subcommand, "--config"])
            .arg(stack.path(&format!("{}.toml", self.name)))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut process = Process { child };
        let deadline = Instant::now() + Duration::from_secs(60);
        while !get(self.admin, "/readyz").is_some_and(|answer| answer.starts_with("HTTP/1.1 200")) {
            if let Some(status) = process.child.try_wait().unwrap() {
                panic!("{} ended ({status}):\n{}", self.name, stack.log(&self.name));
            }
            assert!(Instant::now() < deadline, "{} is not ready:\n{}", self.name, stack.log(&self.name));
            std::thread::sleep(Duration::from_millis(50));
        }
        process
    }

    fn metric(&self, name: &str) -> u64 {
        let text = get(self.admin, "/metrics").unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with(&format!("bodycam_recorder_{name} ")));
        line.map_or(0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
    }
}

/// Tells what the recorders have said, when a test fails.
struct OnFailure<'a>(&'a Stack, &'a [Part]);

impl Drop for OnFailure<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for part in self.1 {
                let log = self.0.log(&part.name);
                let from = log.lines().count().saturating_sub(200);
                let last: Vec<&str> = log.lines().skip(from).collect();
                eprintln!(
                    "{}:\n{}\n{}",
                    part.name,
                    get(part.admin, "/metrics").unwrap_or_default(),
                    last.join("\n")
                );
            }
        }
    }
}

/// Inserts nonces, a few in each session, until told to stop; gives those acknowledged.
async fn client(client: usize, port: u16, token: String, stop: Arc<AtomicBool>) -> Vec<i64> {
    let (mut acknowledged, mut n) = (Vec::new(), 0);
    while !stop.load(Ordering::SeqCst) {
        let mut config = tokio_postgres::Config::new();
        config.host("127.0.0.1").port(port).user("robot").password(&token).dbname("app");
        let (session, connection) = config.connect(tokio_postgres::NoTls).await.unwrap();
        let driver = tokio::spawn(connection);
        for _ in 0..20 {
            n += 1;
            let nonce = i64::try_from(client).unwrap() * 1_000_000_000 + n;
            session.batch_execute(&format!("INSERT INTO nonces VALUES ({nonce})")).await.unwrap();
            acknowledged.push(nonce);
            tokio::time::sleep(Duration::from_millis(15)).await;
        }
        drop(session);
        driver.await.unwrap().unwrap();
    }
    acknowledged
}

/// Where streams stand, by their names in paths: the end of each, and the key that signed the last commit.
fn ends(stack: &Stack) -> BTreeMap<String, (u64, Digest)> {
    let mut ends: BTreeMap<String, (u64, Digest)> = BTreeMap::new();
    for path in stack.files_below("lake/commits") {
        let stream = path.components().rev().nth(2).unwrap().as_os_str().to_string_lossy().into_owned();
        let Ok(bytes) = std::fs::read(&path) else { continue };
        let commit = Commit::parse(&path.display().to_string(), &bytes).unwrap();
        let end = ends.entry(stream).or_insert((0, commit.recorder));
        if commit.to > end.0 {
            *end = (commit.to, commit.recorder);
        }
    }
    ends
}

/// Data files of these streams from where they stood, of which no commit is there.
fn uncommitted(stack: &Stack, ends: &BTreeMap<String, (u64, Digest)>) -> Vec<std::path::PathBuf> {
    let mut found = stack.files_below("lake/tables");
    found.extend(stack.files_below("lake/content"));
    found.retain(|path| {
        let name = path.file_name().unwrap().to_string_lossy();
        ends.iter().any(|(stream, (end, _))| {
            name.starts_with(&format!("{stream}-0-{end}-"))
                && !stack.path(&format!("lake/commits/{stream}/0/{end}.json")).exists()
        })
    });
    found
}

/// Stops a recorder between a data file and the commit that would name it. Gives the stream and position of that.
fn stop_before_a_commit(stack: &Stack, process: &Process, key: Digest) -> (String, u64, std::path::PathBuf) {
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        assert!(Instant::now() < deadline, "no moment between a data file and its commit was met");
        let mut of_it = ends(stack);
        of_it.retain(|stream, (_, by)| *by == key && stream.contains("@"));
        let soon = Instant::now() + Duration::from_secs(2);
        while Instant::now() < soon && uncommitted(stack, &of_it).is_empty() {
            std::thread::sleep(Duration::from_millis(1));
        }
        signal(process.child.id(), "STOP");
        // What the kernel had begun for it is done by then.
        std::thread::sleep(Duration::from_millis(300));
        if let Some(file) = uncommitted(stack, &of_it).pop() {
            let name = file.file_name().unwrap().to_string_lossy().into_owned();
            let (stream, (from, _)) =
                of_it.iter().find(|(s, _)| name.starts_with(&format!("{s}-0-"))).unwrap();
            return (stream.clone(), *from, file);
        }
        signal(process.child.id(), "CONT");
    }
}

#[test]
fn a_recorder_that_was_stopped_while_its_streams_moved_is_refused_and_goes_on_and_nothing_is_lost_or_repeated()
 {
    let Some(broker) = Broker::start(None) else { return };
    let stack = Stack::new(&format!(
        "[kafka]\nbrokers = [\"{}\"]\npartitions = 6\nreplicas = 1\nmin_insync_replicas = 1\ndrain_seconds = 60\n",
        broker.address()
    ));
    stack.cluster.run("app", "CREATE TABLE nonces (nonce bigint); GRANT ALL ON nonces TO app").unwrap();
    let token = stack.token("robot");
    let seeds: Vec<[u8; 32]> = (0..RECORDERS).map(|n| [n as u8 + 1; 32]).collect();
    let keys: Vec<Digest> = seeds.iter().map(|seed| EpochKey::from_seed(seed).public()).collect();
    let peers = keys.iter().map(|key| format!("\"{key}\"")).collect::<Vec<_>>().join(", ");
    let recorders: Vec<Part> = (0..RECORDERS)
        .map(|n| {
            let name = format!("recorder-{n}");
            let path = stack.path(&format!("{name}.key"));
            let file = std::fs::File::options().write(true).create_new(true).mode(0o600).open(path);
            file.unwrap().write_all(Digest(seeds[n]).to_hex().as_bytes()).unwrap();
            let section = format!(
                "key = \"{name}.key\"\nflush_seconds = 1\ncompact_seconds = 2\ncompact_grace_seconds = 20\n\
                 snapshot_commits = 20\npeers = [{peers}]"
            );
            Part::new(&stack, &name, "recorder", &section)
        })
        .collect();
    let _tell = OnFailure(&stack, &recorders);
    let mut recording: Vec<Process> = recorders.iter().map(|part| part.start(&stack)).collect();
    let gateways: Vec<Part> =
        GATEWAYS.iter().map(|name| Part::new(&stack, name, "gateway", "flush_seconds = 1")).collect();
    let serving: Vec<Process> = gateways.iter().map(|part| part.start(&stack)).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = gateways
        .iter()
        .flat_map(|gateway| [gateway.port; CLIENTS_OF_EACH])
        .enumerate()
        .map(|(n, port)| runtime.spawn(client(n, port, token.clone(), Arc::clone(&stop))))
        .collect();
    // Every recorder has partitions, and streams of gateways in them.
    stack.wait_for("work for every recorder", Duration::from_secs(120), || {
        let by: BTreeSet<Digest> = ends(&stack).into_values().map(|(_, by)| by).collect();
        keys.iter().all(|key| by.contains(key)) && recorders.iter().all(|r| r.metric("kafka_partitions") == 6)
    });

    // One is stopped when it has written a file and not yet the commit: it is certain to try that later.
    let (victim, began) = (&recorders[0], Instant::now());
    let rebalances = victim.metric("kafka_rebalances_total");
    let (stream, from, file) = stop_before_a_commit(&stack, &recording[0], keys[0]);
    let commit = format!("lake/commits/{stream}/0/{from}.json");
    assert!(file.exists() && !stack.path(&commit).exists());
    let stopped = Instant::now();
    // Its streams move, and whoever has them goes on from there.
    stack.wait_for("the stream at another recorder", STOPPED, || stack.path(&commit).exists());
    let bytes = std::fs::read(stack.path(&commit)).unwrap();
    assert_ne!(Commit::parse(&commit, &bytes).unwrap().recorder, keys[0], "by {:?}", began.elapsed());
    std::thread::sleep(STOPPED.saturating_sub(stopped.elapsed()));
    signal(recording[0].child.id(), "CONT");
    let refusal = format!("another recorder of the group has committed {} from position {from} on", {
        stream.replace('@', "/")
    });
    stack.wait_for("the refusal in its log", Duration::from_secs(30), || {
        let log = stack.log(&victim.name);
        log.lines().any(|line| line.contains("commit_refused") && line.contains(&refusal))
    });
    assert!(victim.metric("refused_commits_total") >= 1);
    stack.wait_for("its files gone", Duration::from_secs(30), || !file.exists());
    // It is in the group again, and commits what it is given.
    let before: BTreeSet<_> = stack.files_below("lake/commits").into_iter().collect();
    stack.wait_for("new commits of the one that was stopped", Duration::from_secs(60), || {
        let new = stack.files_below("lake/commits").into_iter().filter(|path| !before.contains(path));
        new.filter_map(|path| Commit::parse("new", &std::fs::read(path).ok()?).ok())
            .any(|commit| commit.recorder == keys[0] && commit.stream.as_str().contains('/'))
    });
    assert!(recording[0].child.try_wait().unwrap().is_none(), "it has not ended");
    assert!(victim.metric("kafka_rebalances_total") > rebalances && victim.metric("streams") > 0);

    // One dies and comes back.
    recording.remove(1).kill();
    std::thread::sleep(Duration::from_secs(3));
    recording.insert(1, recorders[1].start(&stack));
    std::thread::sleep(Duration::from_secs(5));

    stop.store(true, Ordering::SeqCst);
    let acknowledged: Vec<i64> = runtime.block_on(async {
        let mut all = Vec::new();
        for c in clients {
            all.extend(c.await.unwrap());
        }
        all
    });
    for (process, gateway) in serving.into_iter().zip(&gateways) {
        assert!(process.terminate().success(), "{}", stack.log(&gateway.name));
    }
    // What the recorders have to drain at their end is what came last.
    let number = |sql: &str| -> usize {
        let output = stack.run(&["query", sql, "--format", "csv"]);
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().nth(1).and_then(|line| line.parse().ok()).unwrap_or_default()
    };
    stack.wait_for("every statement in the lake", Duration::from_secs(90), || {
        number("SELECT count(*) FROM statements") == acknowledged.len()
    });
    for (process, recorder) in recording.into_iter().zip(&recorders) {
        assert!(process.terminate().success(), "{}", stack.log(&recorder.name));
        let log = stack.log(&recorder.name);
        assert!(!log.contains("stream_parked") && !log.contains("recorder_failed"), "{log}");
    }

    // What clients were told, the target and the lake are the same, and nothing is there twice.
    assert!(acknowledged.len() > 1_000, "only {} statements were acknowledged", acknowledged.len());
    let sql = "SELECT text FROM content WHERE content_kind = 'sql-text' AND text LIKE 'INSERT INTO nonces VALUES (%'";
    let output = stack.run(&["query", sql, "--format", "csv"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let mut recorded: Vec<i64> =
        text.lines().filter_map(|line| line.split(['(', ')']).nth(1)?.parse().ok()).collect();
    let mut sent = acknowledged;
    recorded.sort_unstable();
    sent.sort_unstable();
    assert_eq!(recorded.len(), sent.len());
    assert!(recorded == sent, "each statement once");
    assert_eq!(number("SELECT count(*) FROM statements"), sent.len());
    let (code, report) = stack.verify();
    assert_eq!(code, 4, "consistent, not anchored: {report:#}");
    assert_eq!(report["trust"]["recorders"].as_array().unwrap().len(), RECORDERS, "{:#}", report["trust"]);
    assert_eq!(number("SELECT count(*) FROM findings"), 0);
    runtime.block_on(async {
        let lake = Lake::open(Store::open(stack.path("lake").to_str().unwrap()).unwrap()).await.unwrap();
        let stopped = lake.state().watermarks().filter(|ledger| ledger.stopped).count();
        assert_eq!(stopped, GATEWAYS.len(), "the STOP of every gateway");
    });

    // Keys of all recorders can be pinned; one that is not is named.
    let pinned = |keys: &[Digest]| {
        let lines: String = keys.iter().map(|key| format!("recorder {key}\n")).collect();
        std::fs::write(stack.path("trust"), lines).unwrap();
        let trust = stack.path("trust");
        let output = stack.run(&["verify", "--json", "--trust", trust.to_str().unwrap()]);
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let faults = report["faults"].as_array().unwrap();
        (output.status.code().unwrap(), faults.iter().any(|fault| fault["class"] == "COMMIT_KEY"))
    };
    assert_eq!(pinned(&keys), (4, false));
    assert_eq!(pinned(&keys[1..]), (2, true));
}
