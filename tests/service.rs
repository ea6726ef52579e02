//! `bodycam up`, `gateway` and `recorder` as processes: readiness, signals, settings that are refused.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine as _;

use crate::support::disk::SmallDisk;
use crate::support::stack::{Stack, bodycam, get, signal};

/// A client that has sent part of a request and then says nothing.
fn silent_request(stack: &Stack, token: &str) -> TcpStream {
    let mut stream = TcpStream::connect(stack.http).unwrap();
    let credentials = base64::engine::general_purpose::STANDARD.encode(format!("robot:{token}"));
    write!(
        stream,
        "POST http://127.0.0.1:9/ HTTP/1.1\r\nHost: 127.0.0.1:9\r\nProxy-Authorization: Basic {credentials}\r\n\
         Content-Length: 10\r\n\r\n12345"
    )
    .unwrap();
    stream
}

#[test]
fn metrics_tell_of_both_wires_and_of_the_recorder() {
    let stack = Stack::new("");
    let up = stack.start("up");
    let token = stack.token("robot");
    assert!(stack.psql("robot", &token, "SELECT 1").status.success());
    let metrics = get(stack.admin, "/metrics").unwrap();
    for name in [
        "bodycam_gateway_sessions_accepted_total 1",
        "bodycam_http_connections_total 0",
        "bodycam_recorder_failing 0",
    ] {
        assert!(metrics.contains(name), "no '{name}' in:\n{metrics}");
    }
    let body = metrics.split_once("\r\n\r\n").unwrap().1;
    for line in body.lines().filter(|l| !l.starts_with('#')) {
        let (_, value) = line.rsplit_once(' ').unwrap();
        assert!(value.parse::<f64>().is_ok(), "{line}");
    }
    assert!(up.terminate().success(), "{}", stack.log("up"));
}

#[test]
fn a_second_signal_ends_open_sessions_at_once_and_seals_them() {
    let stack = Stack::new("");
    let config = std::fs::read_to_string(stack.path("bodycam.toml")).unwrap();
    let patient = config.replace("drain_seconds = 5", "drain_seconds = 120");
    assert_ne!(patient, config);
    std::fs::write(stack.path("bodycam.toml"), patient).unwrap();
    let up = stack.start("up");
    let token = stack.token("robot");
    let mut open = silent_request(&stack, &token);
    stack.wait_for("the open session", Duration::from_secs(10), || {
        get(stack.admin, "/metrics").unwrap().contains("bodycam_http_connections_open 1")
    });
    let began = Instant::now();
    signal(up.child.id(), "TERM");
    stack.wait_for("readiness to end", Duration::from_secs(10), || {
        get(stack.admin, "/readyz").is_none_or(|answer| answer.contains("503"))
    });
    assert!(up.terminate().success(), "{}", stack.log("up"));
    // The wait for the open session would have been two minutes.
    assert!(began.elapsed() < Duration::from_secs(60));
    let _ = open.read(&mut [0; 64]);
    let (code, report) = stack.verify();
    assert_eq!(code, 4, "{report:#}");
}

#[test]
fn a_second_signal_cancels_what_runs_and_the_record_says_that_it_was_cut() {
    let stack = Stack::new("");
    stack.cluster.run("app", "CREATE TABLE late (n int); GRANT ALL ON late TO app").unwrap();
    let up = stack.start("up");
    let token = stack.token("robot");
    let port = stack.postgres.port().to_string();
    let mut psql = Command::new("psql")
        .args(["-X", "-h", "127.0.0.1", "-U", "robot", "-d", "app", "-p", &port])
        .args(["-c", "INSERT INTO late SELECT 1 FROM pg_sleep(8)"])
        .env("PGPASSWORD", &token)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let running =
        "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'INSERT INTO late%' AND state = 'active'";
    stack.wait_for("the statement", Duration::from_secs(20), || stack.direct(running) == "1");
    signal(up.child.id(), "TERM");
    stack.wait_for("readiness to end", Duration::from_secs(10), || {
        get(stack.admin, "/readyz").is_none_or(|answer| answer.contains("503"))
    });
    assert!(up.terminate().success(), "{}", stack.log("up"));
    let mut told = String::new();
    psql.stderr.take().unwrap().read_to_string(&mut told).unwrap();
    assert!(told.contains("the gateway is stopping"), "{told}");
    psql.wait().unwrap();
    // Its backend is gone, and took nothing with it.
    stack.wait_for("the statement's end", Duration::from_secs(20), || stack.direct(running) == "0");
    assert_eq!(stack.direct("SELECT count(*) FROM late"), "0");
    let results = stack.run(&["query", "--format", "csv", "SELECT outcome FROM results"]);
    assert!(String::from_utf8_lossy(&results.stdout).contains("cut"), "{results:?}");
    let (code, report) = stack.verify();
    assert_eq!(code, 4, "{report:#}");
}

#[test]
fn silent_connections_do_not_hold_up_a_stop() {
    let stack = Stack::new("");
    let config = std::fs::read_to_string(stack.path("bodycam.toml")).unwrap();
    let patient = config.replace("[postgres]", "[postgres]\nstartup_timeout_seconds = 300");
    assert_ne!(patient, config);
    std::fs::write(stack.path("bodycam.toml"), patient).unwrap();
    let up = stack.start("up");
    let silent = [stack.postgres, stack.http].map(|address| TcpStream::connect(address).unwrap());
    std::thread::sleep(Duration::from_millis(200));
    let began = Instant::now();
    assert!(up.terminate().success(), "{}", stack.log("up"));
    assert!(began.elapsed() < Duration::from_secs(100), "it waited for clients that had said nothing");
    drop(silent);
}

#[test]
fn a_full_disk_holds_traffic_and_then_closes_and_nothing_is_let_through() {
    let stack = Stack::new("");
    let config = std::fs::read_to_string(stack.path("bodycam.toml")).unwrap();
    let impatient = config.replace("[record]", "[record]\nhold_seconds = 3");
    assert_ne!(impatient, config);
    std::fs::write(stack.path("bodycam.toml"), impatient).unwrap();
    stack.cluster.run("app", "CREATE TABLE t (n int); GRANT ALL ON t TO app").unwrap();
    // The spool alone lies on a small disk.
    let disk = SmallDisk::at(stack.path("spool"), 24);
    let up = stack.start_by(disk.bodycam(), "up");
    let token = stack.token("robot");
    let mut psql = Command::new("psql")
        .args([
            "-X",
            "-q",
            "-h",
            "127.0.0.1",
            "-U",
            "robot",
            "-d",
            "app",
            "-p",
            &stack.postgres.port().to_string(),
        ])
        .env("PGPASSWORD", &token)
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut open = psql.stdin.take().unwrap();
    writeln!(open, "INSERT INTO t VALUES (1);").unwrap();
    stack
        .wait_for("the first row", Duration::from_secs(20), || stack.direct("SELECT count(*) FROM t") == "1");
    disk.fill();

    // Longer than what is left of the segment's last page, and not to be packed into it.
    let noise: String = (0..2000u32).map(|n| format!("{:08x}", n.wrapping_mul(2_654_435_761))).collect();
    writeln!(open, "INSERT INTO t VALUES (2) /* {noise} */;").unwrap();
    drop(open);
    let told = String::from_utf8(psql.wait_with_output().unwrap().stderr).unwrap();
    assert!(told.contains("this session cannot be recorded and is closed"), "{told}");
    let turned_away = stack.psql("robot", &token, &format!("INSERT INTO t VALUES (2) /* {noise} */"));
    assert!(!turned_away.status.success());
    let ready = get(stack.admin, "/readyz").unwrap();
    assert!(ready.contains("503") && ready.contains("No space left on device"), "{ready}");
    assert!(stack.log("up").contains("No space left on device"), "{}", stack.log("up"));
    let rows = "SELECT string_agg(n::text, ',' ORDER BY n) FROM t";
    assert_eq!(stack.direct(rows), "1", "nothing unrecorded passed");

    disk.free();
    stack.wait_for("the gateway to serve again", Duration::from_secs(20), || {
        stack.psql("robot", &token, "INSERT INTO t VALUES (3)").status.success()
    });
    assert!(up.terminate().success(), "{}", stack.log("up"));
    let (code, report) = stack.verify();
    assert_eq!(code, 4, "{report:#}");
}

#[test]
fn a_recorder_that_fails_is_not_ready_and_says_why() {
    let stack = Stack::new("");
    let gateway = stack.start("gateway");
    let recorder = stack.start("recorder");
    std::fs::rename(stack.path("lake"), stack.path("lake.away")).unwrap();
    std::fs::write(stack.path("lake"), "no directory").unwrap();
    let token = stack.token("robot");
    assert!(
        stack.psql("robot", &token, "SELECT 1").status.success(),
        "the spool holds what the lake does not"
    );
    stack.wait_for("the recorder to be not ready", Duration::from_secs(30), || {
        get(stack.recorder_admin, "/readyz")
            .is_some_and(|answer| answer.contains("503") && answer.contains("Not a directory"))
    });
    assert!(get(stack.admin, "/readyz").unwrap().contains(" 200 "), "the gateway goes on");
    std::fs::remove_file(stack.path("lake")).unwrap();
    std::fs::rename(stack.path("lake.away"), stack.path("lake")).unwrap();
    stack.wait_for("the recorder to be ready again", Duration::from_secs(90), || {
        get(stack.recorder_admin, "/readyz").is_some_and(|answer| answer.contains(" 200 "))
    });
    assert!(gateway.terminate().success(), "{}", stack.log("gateway"));
    assert!(recorder.terminate().success(), "{}", stack.log("recorder"));
    let (code, report) = stack.verify();
    assert_eq!(code, 4, "{report:#}");
}

#[test]
fn settings_that_would_do_nothing_or_cannot_work_are_refused_by_name() {
    let stack = Stack::new("");
    let config = std::fs::read_to_string(stack.path("bodycam.toml")).unwrap();
    let admin = format!("listen = \"{}\"\nrecorder", stack.admin);
    // A second target, behind the first one.
    let second = |name: &str, databases: &str| {
        format!(
            "[[targets]]\nname = \"{name}\"\ndatabases = {databases}\naddress = \"127.0.0.1:1\"\nrole = \"b\"\ntls = \"disable\"\n\n[http]"
        )
    };
    let agents = "kind = \"agent\"\nowner = \"ada\"\ntargets = [\"*\"]";
    let ends = "name = \"ada\"\nkind = \"person\"\ntargets = [\"*\"]\negress = [\"127.0.0.1:*\"]";
    let person = "name = \"ada\"\nkind = \"person\"";
    let hosts = |names: &str| format!("[http]\nhosts = {{ {names} }}");
    let tls = "tls = \"disable\"";
    let password = format!("password = \"file:{}\"", stack.path("app.password").display());
    std::fs::write(stack.path("garbage"), "hunter2\n").unwrap();
    let check = |text: &str| {
        std::fs::write(stack.path("changed.toml"), text).unwrap();
        let mut command = bodycam();
        command.args(["config", "check", "-c"]).arg(stack.path("changed.toml"));
        let output = command.env("BODYCAM_TEST_PASSWORD", "hunter2").output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let near = [
        ("[http]", second("b", "[\"other\", \"ap*\"]")),
        (tls, format!("{tls}\nsensitive = [\"public.a\", \"public.b\"]")),
        (agents, format!("{}\ndisabled = true", agents.replace('*', "a*"))),
        ("name = \"robot\"", "name = \"robot\"\ndisabled = true\nmax_sessions = 1".to_owned()),
        (ends, ends.replace(person, "name = \"ada\"\nkind = \"person\"\ndisabled = true")),
        ("[state]", "[[principals]]\nname = \"cid\"\nkind = \"contractor\"\nsponsor = \"ada\"\nends = \"2020-01-01\"\n\n[state]".to_owned()),
        ("[admin]", "[detect]\ndisable = [\"EXF-001\"]\n[detect.params.EXF-002]\nmin_rows = 5\n[admin]".to_owned()),
        (&password, "password = \"env:BODYCAM_TEST_PASSWORD\"".to_owned()),
        ("url = \"lake\"", "url = \"s3://bucket/lake\"".to_owned()),
        (
            "url = \"lake\"",
            "url = \"s3://bucket/lake\"\n[lake.s3]\nendpoint = \"https://s3.internal:9000\"\npath_style = false".to_owned(),
        ),
    ];
    for (from, to) in near {
        let changed = config.replacen(from, &to, 1);
        assert_ne!(changed, config, "{from}");
        assert_eq!(check(&changed), (Some(0), String::new()), "{to}");
    }
    let s3 = |settings: &str| format!("url = \"s3://bucket/lake\"\n[lake.s3]\n{settings}");
    let cases = [
        (admin.as_str(), format!("listen = \"{}\"\nrecorder", stack.http), "[admin] listen"),
        ("file:tenant.key", "aa".repeat(32), "not the key"),
        ("file:tenant.key", "env:BODYCAM_TEST_NOT_SET".to_owned(), "BODYCAM_TEST_NOT_SET"),
        ("url = \"lake\"", "url = \"gs://bucket\"".to_owned(), "gs://"),
        (
            "url = \"lake\"",
            "url = \"lake\"\n[lake.s3]\nregion = \"x\"".to_owned(),
            "[lake.s3] would do nothing",
        ),
        ("url = \"lake\"", s3("endpoint = \"http://s3.internal\""), "allow_http = true"),
        ("url = \"lake\"", s3("endpoint = \"s3.internal:9000\""), "want https://"),
        (
            "url = \"lake\"",
            s3("endpoint = \"https://192.0.2.1:9000\"\npath_style = false"),
            "[lake.s3] path_style: no bucket can stand in front of an address (https://192.0.2.1:9000)",
        ),
        (
            admin.as_str(),
            "listen = \"127.0.0.1:5\"\ndetect_listen = \"127.0.0.1:5\"\nrecorder".to_owned(),
            "[admin] listen and [admin] detect_listen",
        ),
        ("url = \"lake\"", s3("access_key = \"env:BODYCAM_TEST_PASSWORD\""), "go together"),
        (
            "url = \"lake\"",
            s3(&format!("access_key = \"env:BODYCAM_TEST_PASSWORD\"\nsecret_key = \"{}\"", "aa".repeat(32))),
            "[lake.s3] secret_key",
        ),
        (
            "url = \"lake\"",
            s3("access_key = \"env:BODYCAM_TEST_NOT_SET\"\nsecret_key = \"file:x\""),
            "NOT_SET",
        ),
        (
            "url = \"lake\"",
            s3("session_token = \"env:BODYCAM_TEST_PASSWORD\""),
            "session_token would do nothing",
        ),
        ("url = \"lake\"", s3("ca = \"garbage\""), "holds no certificate"),
        ("url = \"lake\"", s3("retry_seconds = 0"), "[lake.s3] retry_seconds"),
        ("url = \"lake\"", "url = \"\"".to_owned(), "[lake] url"),
        ("[spool]\n", "[replay.keys]\nnope = [\"x\"]\n[spool]\n".to_owned(), "no command 'nope'"),
        ("[spool]\n", "[replay.keys]\ndown = [\"bogus-key\"]\n[spool]\n".to_owned(), "is not a key"),
        ("[spool]\n", "[replay.filters]\nx = \"bogus:1\"\n[spool]\n".to_owned(), "filters.x"),
        ("[spool]\n", "[spool]\nmax_bytes = 0\n".to_owned(), "max_bytes"),
        ("producer = \"gw-test\"", "producer = \"../up\"".to_owned(), "producer"),
        ("cores = 2", "cores = 2\nmax_connections = 0".to_owned(), "max_connections"),
        ("flush_seconds = 1", "flush_second = 1".to_owned(), "flush_second"),
        ("[admin]", "[detect]\nrules_dir = \"nowhere\"\n[admin]".to_owned(), "nowhere"),
        ("targets = [\"*\"]", "targets = [\"crm\"]".to_owned(), "crm"),
        ("[http]", second("b", "[\"app\"]"), "'b', field 'databases': 'app' never leads here: target 'app'"),
        ("databases = [\"app\"]", "databases = [\"app\", \"app\"]".to_owned(), "'app' appears twice"),
        (tls, format!("{tls}\nsensitive = [\"public.*\"]"), "list each relation, as schema.relation"),
        (tls, format!("{tls}\nsensitive = [\"a.b\", \"a.b\"]"), "'a.b' appears twice"),
        ("targets = [\"*\"]", "targets = [\"app\", \"app\"]".to_owned(), "'app' appears twice"),
        (
            "egress = [\"127",
            "egress = [\"a.example\", \"A.example\", \"127".to_owned(),
            "'A.example': appears twice",
        ),
        (
            ends,
            person.to_owned() + "\negress = [\"127.0.0.1:*\"]",
            "principal 'robot', field 'targets': no target",
        ),
        (
            "[admin]",
            "[detect]\ndisable = [\"EXF-002\"]\n[detect.params.EXF-002]\nmin_rows = 5\n[admin]".to_owned(),
            "params.EXF-002",
        ),
        ("[http]", hosts("\"x.example\" = [\"10.0.0.1\"]"), "hosts: 'x.example'"),
        (
            &password,
            "password = \"env:BODYCAM_TEST_NOT_SET\"".to_owned(),
            "target 'app', field 'password': secret env:BODYCAM_TEST_NOT_SET: the variable is not set",
        ),
        (&password, "password = \"file:nope\"".to_owned(), "nope: No such file"),
        (tls, "ca = \"nope.pem\"".to_owned(), "target 'app', field 'ca': cannot read certificates from"),
        (tls, "ca = \"garbage\"".to_owned(), "garbage: there are none in it"),
        (
            "[http]",
            "[postgres.tls]\ncert = \"nope.pem\"\nkey = \"garbage\"\n[http]".to_owned(),
            "[postgres] tls: cannot read the certificate",
        ),
        (
            "[state]",
            "[http.tls]\ncert = \"garbage\"\nkey = \"garbage\"\n[state]".to_owned(),
            "[http] tls: cannot read the certificate",
        ),
        ("file:tenant.key", "file:garbage".to_owned(), "[gateway] tenant_key: file:"),
        ("file:tenant.key", "file:nowhere/tenant.key".to_owned(), "there is no directory"),
        ("file:tenant.key", "env:BODYCAM_TEST_PASSWORD".to_owned(), "64 hex digits"),
        ("[recorder]", "[recorder]\nkey = \"garbage\"".to_owned(), "[recorder] key"),
    ];
    for (from, to, named) in cases {
        let changed = config.replacen(from, &to, 1);
        assert_ne!(changed, config, "{from}");
        let (code, error) = check(&changed);
        assert_eq!(code, Some(2), "{to}: {error}");
        assert!(error.contains(named) && error.contains("changed.toml"), "{to}: {error}");
        assert!(!error.contains("hunter2"), "{error}");
        assert!(!error.contains(&"aa".repeat(32)), "the key is not repeated: {error}");
    }
    // A variable of somebody else's may hold any bytes.
    use std::os::unix::ffi::OsStrExt;
    let bytes = std::ffi::OsStr::from_bytes(b"\xff");
    let output = bodycam()
        .env("FOREIGN", bytes)
        .args(["config", "check", "-c"])
        .arg(stack.path("bodycam.toml"))
        .output();
    assert!(output.unwrap().status.success());
}

#[test]
fn a_target_that_nobody_may_reach_is_refused_whoever_is_disabled() {
    let stack = Stack::new("");
    let config = std::fs::read_to_string(stack.path("bodycam.toml")).unwrap();
    let other = "[[targets]]\nname = \"hr\"\ndatabases = [\"hr\"]\naddress = \"127.0.0.1:1\"\nrole = \"b\"\ntls = \"disable\"\n\n[http]";
    let config = config.replace("targets = [\"*\"]", "targets = [\"app\"]").replace("[http]", other);
    let check = |more: &str| {
        std::fs::write(stack.path("bodycam.toml"), config.clone() + more).unwrap();
        let output = stack.run(&["config", "check"]);
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, error) = check("");
    assert_eq!(code, Some(2), "{error}");
    assert!(error.contains("target 'hr' would do nothing: no principal may reach it"), "{error}");
    let principal = |more: &str| format!("[[principals]]\nname = \"eve\"\ntargets = [\"hr\"]\n{more}");
    for more in [
        "kind = \"person\"",
        "kind = \"person\"\ndisabled = true",
        "kind = \"contractor\"\nsponsor = \"ada\"\nends = \"2020-01-01\"",
    ] {
        assert_eq!(check(&principal(more)), (Some(0), String::new()), "{more}");
    }
    // What an agent alone lists, it does not reach; nor is it kept for another day.
    let (code, _) = check(&principal("kind = \"agent\"\nowner = \"ada\"\ndisabled = true"));
    assert_eq!(code, Some(2));
}

#[test]
fn what_cannot_be_read_stops_the_start_before_anything_runs() {
    let stack = Stack::new("");
    let config = std::fs::read_to_string(stack.path("bodycam.toml")).unwrap();
    let nowhere = config.replace("app.password", "nope.password");
    assert_ne!(nowhere, config);
    std::fs::write(stack.path("bodycam.toml"), nowhere).unwrap();
    for part in ["up", "gateway"] {
        let output = stack.run(&[part]);
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{told}");
        assert!(told.contains("is not usable: target 'app', field 'password': secret file:"), "{told}");
        assert_eq!(told.lines().count(), 1, "nothing ran before: {told}");
        for made in ["tenant.key", "recorder.key", "spool", "lake", "state.db"] {
            assert!(!stack.path(made).exists(), "{part} made {made}");
        }
    }
    // Commands that do not need it go on without.
    assert!(!stack.token("robot").is_empty());
}
