//! From a client's first byte to a sealed session: login, encryption, refusals, cancelling, limits, the end.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bodycam_proxy::clock::Clock;
use bodycam_proxy::postgres::codec::startup::Version;
use bodycam_proxy::postgres::{ClientAuth, ClientTls, UpstreamTls};
use bodycam_record::ContentKind;
use bodycam_record::kinds::Body;

use crate::support::gateway::{Gateway, Setup};
use crate::support::postgres::{Cluster, ROLE, Settings, shared, succeeded};
use crate::support::wire::{Wire, last_error, query};

fn stderr(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(!output.status.success(), "it was let in");
    String::from_utf8(output.stderr).unwrap()
}

fn python() -> Command {
    let path = std::env::var("BODYCAM_TEST_PYTHON");
    Command::new(
        path.expect("BODYCAM_TEST_PYTHON names a Python with tests/requirements.txt; `make test` sets it"),
    )
}

/// A self-signed authority and a certificate of it for `name`, all in PEM: authority, certificate, key.
fn certificate(name: &str) -> [String; 3] {
    let mut authority = rcgen::CertificateParams::new(Vec::<String>::new()).unwrap();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    authority.distinguished_name.push(rcgen::DnType::CommonName, "the tests' authority");
    let authority_key = rcgen::KeyPair::generate().unwrap();
    let authority_pem = authority.self_signed(&authority_key).unwrap().pem();
    let issuer = rcgen::Issuer::new(authority, authority_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let own = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
    [authority_pem, own.signed_by(&key, &issuer).unwrap().pem(), key.serialize_pem()]
}

fn file(dir: &tempfile::TempDir, name: &str, text: &str) -> std::path::PathBuf {
    let path = dir.path().join(name);
    std::fs::write(&path, text).unwrap();
    path
}

#[test]
fn a_session_is_opened_told_and_sealed() {
    let gateway = Gateway::before(shared());
    let database = shared().database();
    let out =
        succeeded(gateway.psql(&database).args(["-c", "SELECT 1 AS one, 'zwei' AS two"]).output().unwrap());
    assert_eq!(out.trim(), "1|zwei");
    gateway.wait_closed();
    let events = gateway.events();
    let Body::SessionOpened(opened) = &events[0].body else { panic!("{:?}", events[0]) };
    assert_eq!((opened.principal_kind.as_str(), opened.auth_method.as_str()), ("person", "scram-sha-256"));
    assert_eq!((opened.upstream_role.as_str(), opened.database.as_str()), (ROLE, database.as_str()));
    assert_eq!((opened.client_tls, opened.upstream_tls, opened.credential_addresses), (false, false, 1));
    let facts = events[0].text(ContentKind::SessionFacts).unwrap();
    assert!(facts.contains("startup.application_name") && facts.contains("psql"), "{facts}");
    assert!(!events.iter().any(|e| format!("{e:?}").contains("bcam_")), "a token was recorded");
    assert_eq!(
        gateway.story()[1..],
        [
            "simple #1 allow SELECT 1 AS one, 'zwei' AS two",
            "result #1.0 complete SELECT 1 1 rows",
            "closed client",
        ]
    );
    let Body::SessionClosed(closed) = &events[3].body else { panic!() };
    assert_eq!((closed.statements, closed.rows), (1, 1));
    assert!(closed.bytes_in > 0 && closed.bytes_out > 100);
}

#[test]
fn who_cannot_prove_who_it_is_learns_nothing() {
    let gateway = Gateway::before(shared());
    let database = shared().database();
    let robot = gateway.token("robot");
    let revoked = gateway.token("ada");
    gateway.revoke(&revoked);
    let wrong = "bcam_aaaaaaaaaaaaaaaa_aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    let mut answers = Vec::new();
    for (user, secret) in
        [("ada", wrong), ("nobody", wrong), ("ada", &robot), ("ada", &revoked), ("ada", "x")]
    {
        let mut psql = gateway.psql(&database);
        psql.env("PGUSER", user).env("PGPASSWORD", secret).args(["-c", "SELECT 1"]);
        let message = stderr(&mut psql);
        answers.push(message.split("FATAL:").nth(1).unwrap().to_owned());
    }
    answers.dedup();
    assert_eq!(answers.len(), 1, "{answers:?}");
    assert!(answers[0].contains("authentication failed"));
    gateway.wait_closed();
    let opened = gateway.events().into_iter().filter_map(|e| match e.body {
        Body::SessionOpened(o) => Some(o.principal_kind),
        _ => None,
    });
    assert_eq!(opened.collect::<Vec<_>>(), ["unknown"; 5], "no session of a principal");
}

#[test]
fn tokens_as_passwords_work_where_they_are_configured() {
    let mut setup = Setup::new(shared());
    setup.postgres.auth = ClientAuth::Token;
    let gateway = setup.start();
    let database = shared().database();
    let out = gateway.psql(&database).args(["-c", "SELECT current_user"]).output().unwrap();
    assert_eq!(succeeded(out).trim(), ROLE);
    let mut psql = gateway.psql(&database);
    assert!(
        stderr(psql.env("PGPASSWORD", "bcam_wrong").args(["-c", "SELECT 1"]))
            .contains("authentication failed")
    );
    gateway.wait_closed();
    let events = gateway.events();
    let Body::SessionOpened(opened) = &events[0].body else { panic!() };
    assert_eq!(opened.auth_method, "token");
}

#[test]
fn encrypted_clients_of_both_protocol_versions_work_with_channel_binding() {
    let files = tempfile::tempdir().unwrap();
    let [authority, cert, key] = certificate("localhost");
    let ca = file(&files, "ca.pem", &authority);
    let mut setup = Setup::new(shared());
    let tls = ClientTls { cert: file(&files, "cert", &cert), key: file(&files, "key", &key), required: true };
    setup.postgres.tls = Some(tls);
    let gateway = setup.start();
    let database = shared().database();
    let token = gateway.token("ada");
    let base = format!(
        "host=localhost hostaddr=127.0.0.1 port={} user=ada password={token} dbname={database} sslrootcert={}",
        gateway.port,
        ca.display()
    );
    // libpq 15: SSLRequest first.
    let mut psql = Command::new("psql");
    psql.args([
        "-X",
        "-A",
        "-t",
        "-c",
        "SELECT 1",
        &format!("{base} sslmode=verify-full channel_binding=require"),
    ]);
    assert_eq!(succeeded(psql.output().unwrap()).trim(), "1");
    let clear =
        stderr(Command::new("psql").args(["-X", "-c", "SELECT 1", &format!("{base} sslmode=disable")]));
    assert!(clear.contains("must be encrypted"), "{clear}");
    // libpq 18: protocol 3.2, TLS from the first byte.
    let script = r"
import psycopg, sys, threading, time
assert psycopg.pq.version() >= 180000
with psycopg.connect(sys.argv[1], autocommit=True) as conn:
    assert conn.execute('SELECT 1').fetchone() == (1,)
    assert conn.pgconn.ssl_in_use
    assert conn.execute('SELECT pg_backend_pid()').fetchone()[0] == conn.info.backend_pid
    failed = []
    def cancel():
        try:
            conn.cancel_safe()
        except Exception as error:
            failed.append(error)
    timer = threading.Timer(0.3, cancel)
    timer.start()
    try:
        conn.execute('SELECT pg_sleep(30)')
        assert False
    except psycopg.errors.QueryCanceled:
        timer.join()
        assert not failed, failed
        print('canceled')
";
    for more in ["sslmode=verify-full", "sslmode=verify-full sslnegotiation=direct max_protocol_version=3.2"]
    {
        let out = python().args(["-c", script, &format!("{base} {more}")]).output().unwrap();
        assert_eq!(succeeded(out).trim(), "canceled", "{more}");
    }
    gateway.wait_closed();
    let opened: Vec<_> = gateway
        .events()
        .into_iter()
        .filter_map(|e| match e.body {
            // One of the clients tries with a password that is none.
            Body::SessionOpened(o) if o.principal_kind != "unknown" => {
                Some((o.client_tls, o.protocol_version))
            }
            _ => None,
        })
        .collect();
    assert_eq!(opened, [(true, "3.0".to_owned()), (true, "3.0".to_owned()), (true, "3.2".to_owned())]);
}

#[test]
fn protocol_versions_and_options_that_nobody_knows_are_negotiated() {
    let mut setup = Setup::new(shared());
    setup.postgres.auth = ClientAuth::Token;
    let gateway = setup.start();
    let database = shared().database();
    let v = |minor| Version { major: 3, minor };
    let cases: [(Version, &[(&str, &str)], Option<(i32, usize)>); 5] = [
        (v(0), &[], None),
        (v(2), &[], None),
        (v(1), &[], Some((0x30000, 0))),
        (v(9999), &[("_pq_.test_protocol_negotiation", "")], Some((0x30002, 1))),
        (v(0), &[("_pq_.command_tag_format", "x")], Some((0x30000, 1))),
    ];
    for (version, more, negotiated) in cases {
        let mut wire = Wire::connect(gateway.port);
        wire.hello(version, &[&[("user", "ada"), ("database", &database)], more].concat());
        let (tag, body) = wire.read().unwrap();
        match negotiated {
            None => assert_eq!(tag, b'R', "{version}"),
            Some((spoken, unknown)) => {
                assert_eq!(
                    (tag, i32::from_be_bytes(body[..4].try_into().unwrap())),
                    (b'v', spoken),
                    "{version}"
                );
                assert_eq!(
                    usize::try_from(u32::from_be_bytes(body[4..8].try_into().unwrap())).unwrap(),
                    unknown
                );
                assert_eq!(wire.read().unwrap().0, b'R');
            }
        }
    }
    let mut wire = Wire::connect(gateway.port);
    wire.hello(Version { major: 2, minor: 0 }, &[("user", "ada")]);
    assert_eq!(wire.until_end(), "E(0A000)");
}

#[test]
fn what_cannot_be_recorded_is_refused_at_startup_and_the_record_says_so() {
    let gateway = Gateway::before(shared());
    let database = shared().database();
    let token = gateway.token("ada");
    let conninfo = gateway.conninfo("ada", &token, &database);
    let cases = [
        ("replication=database", "replication", "0A000"),
        ("replication=true", "replication", "0A000"),
        ("options='-e'", "options", "0A000"),
        ("options='-c geqo=off -W 1'", "options", "0A000"),
    ];
    for (parameter, reason, code) in cases {
        let message =
            stderr(Command::new("psql").args(["-X", "-c", "SELECT 1", &format!("{conninfo} {parameter}")]));
        assert!(message.contains("bodycam:"), "{parameter}: {message}");
        gateway.wait_closed();
        let story = gateway.story();
        assert_eq!(
            story[story.len() - 2..],
            [format!("decision startup {reason} {code}"), "closed error".to_owned()]
        );
    }
    let lawful = format!("{conninfo} options='-c geqo=off --work-mem=5MB'");
    let out = Command::new("psql")
        .args(["-X", "-A", "-t", "-c", "SHOW geqo", "-c", "SHOW work_mem", &lawful])
        .output();
    assert_eq!(succeeded(out.unwrap()), "off\n5MB\n");
    let opened = gateway.events().into_iter().rfind(|e| matches!(e.body, Body::SessionOpened(_))).unwrap();
    assert!(opened.text(ContentKind::SessionFacts).unwrap().contains("--work-mem=5MB"));
}

#[test]
fn targets_that_are_unknown_forbidden_or_say_no() {
    let mut setup = Setup::new(shared());
    setup.targets[0].databases = vec!["db*".to_owned(), "missing".to_owned()];
    setup.principals[1].targets = vec!["other".to_owned()];
    let gateway = setup.start();
    let database = shared().database();
    let ask = |user: &str, database: &str| {
        let mut psql = gateway.client("psql", user, database);
        stderr(psql.args(["-X", "-c", "SELECT 1"]))
    };
    assert!(ask("ada", "nowhere").contains("leads to no target"));
    assert!(ask("robot", &database).contains("may not reach"));
    let missing = ask("ada", "missing");
    assert!(missing.contains("database \"missing\" does not exist"), "the server's own words: {missing}");
    gateway.wait_closed();
    let story = gateway.story();
    assert_eq!(
        story,
        [
            "opened  3.0",
            "decision startup no-target 3D000",
            "closed error",
            &format!("opened {database} 3.0"),
            "decision startup target 42501",
            "closed error",
            "opened missing 3.0",
            "decision startup target-refused 3D000",
            "closed error",
        ]
    );
}

#[test]
fn a_target_that_cannot_be_reached_or_trusted_is_a_clear_error() {
    let [authority, cert, key] = certificate("127.0.0.1");
    let [other_authority, ..] = certificate("127.0.0.1");
    let cluster = Cluster::with(&Settings { tls: Some((&cert, &key)), ..Settings::default() });
    let files = tempfile::tempdir().unwrap();
    let (ca, other_ca) = (file(&files, "ca", &authority), file(&files, "other", &other_authority));
    let tried = |change: &dyn Fn(&mut Setup)| {
        let mut setup = Setup::new(&cluster);
        change(&mut setup);
        let gateway = setup.start();
        let output = gateway.psql("postgres").args(["-c", "SELECT 1"]).output().unwrap();
        gateway.wait_closed();
        let opened = gateway.events().into_iter().find_map(|e| match e.body {
            Body::SessionOpened(o) => Some(o.upstream_tls),
            _ => None,
        });
        (
            String::from_utf8(output.stdout).unwrap(),
            String::from_utf8(output.stderr).unwrap(),
            gateway.story(),
            opened,
        )
    };
    let verified = tried(&|s| {
        s.targets[0].tls = UpstreamTls::VerifyFull;
        s.targets[0].ca = Some(ca.clone());
    });
    assert_eq!((verified.0.trim(), verified.3), ("1", Some(true)), "{}", verified.1);
    let required = tried(&|s| s.targets[0].tls = UpstreamTls::Require);
    assert_eq!((required.0.trim(), required.3), ("1", Some(true)));
    let wrong_authority = tried(&|s| {
        s.targets[0].tls = UpstreamTls::VerifyFull;
        s.targets[0].ca = Some(other_ca.clone());
    });
    let wrong_name = tried(&|s| {
        s.targets[0].address = format!("localhost:{}", cluster.port());
        s.targets[0].tls = UpstreamTls::VerifyFull;
        s.targets[0].ca = Some(ca.clone());
    });
    for (_, message, story, _) in [&wrong_authority, &wrong_name] {
        assert!(message.contains("TLS to target 'crm'") && message.contains("certificate"), "{message}");
        assert_eq!(story[1], "decision startup target-tls 08001");
    }
    let unreachable = tried(&|s| s.targets[0].address = "127.0.0.1:1".to_owned());
    assert!(unreachable.1.contains("cannot reach target 'crm' at 127.0.0.1:1"), "{}", unreachable.1);
    assert_eq!(unreachable.2[1], "decision startup target-unreachable 08001");
    let password = file(&files, "wrong", "wrong");
    let login = tried(&|s| {
        s.targets[0].password = Some(format!("file:{}", password.display()).try_into().unwrap());
    });
    assert!(login.1.contains("cannot log in to target 'crm'") && !login.1.contains(ROLE), "{}", login.1);
    assert_eq!(login.2[1], "decision startup target-login 08001");
}

#[test]
fn a_server_that_has_signed_its_own_certificate_is_trusted_by_that_and_by_its_name() {
    // As `openssl req -x509` makes it: marked as an authority.
    let own = |name: &str, until: i32| {
        let mut params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.not_after = rcgen::date_time_ymd(until, 1, 1);
        let key = rcgen::KeyPair::generate().unwrap();
        [params.self_signed(&key).unwrap().pem(), key.serialize_pem()]
    };
    let files = tempfile::tempdir().unwrap();
    let [other, _] = own("127.0.0.1", 2090);
    for (at, name, until, trusts_it, says) in [
        (0, "127.0.0.1", 2090, true, ""),
        (1, "db.example.com", 2090, true, "not valid for name"),
        (2, "127.0.0.1", 2020, true, "expired"),
        (3, "127.0.0.1", 2090, false, "put the certificate itself into `ca`"),
    ] {
        let [cert, key] = own(name, until);
        let cluster = Cluster::with(&Settings { tls: Some((&cert, &key)), ..Settings::default() });
        let ca = file(&files, &format!("ca{at}"), if trusts_it { &cert } else { &other });
        let mut setup = Setup::new(&cluster);
        setup.targets[0].tls = UpstreamTls::VerifyFull;
        setup.targets[0].ca = Some(ca);
        let output = setup.start().psql("postgres").args(["-c", "SELECT 1"]).output().unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.success(), says.is_empty(), "{at}: {told}");
        assert!(told.contains(says), "{at}: {told}");
    }
}

#[test]
fn targets_that_ask_for_md5_or_for_nothing_work_and_for_clear_passwords_only_under_tls() {
    let [authority, cert, key] = certificate("127.0.0.1");
    let files = tempfile::tempdir().unwrap();
    let ca = file(&files, "ca", &authority);
    let cluster = Cluster::with(&Settings {
        conf: &[("password_encryption", "md5")],
        hba: "host trusted all 127.0.0.1/32 trust\nhost clear all 127.0.0.1/32 password\n\
              host md5 all 127.0.0.1/32 md5\nhost all postgres 127.0.0.1/32 scram-sha-256",
        tls: Some((&cert, &key)),
    });
    for database in ["trusted", "clear", "md5"] {
        cluster.sql("postgres", &format!("CREATE DATABASE {database}"));
    }
    let run = |database: &str, tls: UpstreamTls| {
        let mut setup = Setup::new(&cluster);
        setup.targets[0].tls = tls;
        setup.targets[0].ca = (tls == UpstreamTls::VerifyFull).then(|| ca.clone());
        setup.start().psql(database).args(["-c", "SELECT 1"]).output().unwrap()
    };
    for (database, tls) in [
        ("trusted", UpstreamTls::Disable),
        ("md5", UpstreamTls::Disable),
        ("md5", UpstreamTls::VerifyFull),
        ("clear", UpstreamTls::VerifyFull),
    ] {
        assert_eq!(succeeded(run(database, tls)).trim(), "1", "{database} {tls:?}");
    }
    for tls in [UpstreamTls::Disable, UpstreamTls::Require] {
        let message = String::from_utf8(run("clear", tls).stderr).unwrap();
        assert!(message.contains("asks for the password in clear"), "{tls:?}: {message}");
    }
}

#[test]
fn a_cancel_request_reaches_its_own_session_and_no_other() {
    let mut setup = Setup::new(shared());
    setup.postgres.auth = ClientAuth::Token;
    let gateway = setup.start();
    let database = shared().database();
    let token = gateway.token("robot");
    let log_in = || {
        let mut wire = Wire::connect(gateway.port);
        wire.hello(Version::V3_0, &[("user", "robot"), ("database", &database)]);
        wire.read();
        let mut out = Vec::new();
        bodycam_proxy::postgres::codec::frontend::put_password(&mut out, token.as_bytes());
        wire.send(&out);
        let key = wire.until_ready().into_iter().find(|(tag, _)| *tag == b'K').unwrap().1;
        (wire, key)
    };
    let ((mut first, first_key), (mut second, _)) = (log_in(), log_in());
    assert_eq!(first_key.len(), 8);
    let pid = i32::from_be_bytes(first_key[..4].try_into().unwrap());
    assert_eq!(
        first.query("SELECT pg_backend_pid()"),
        format!("T D({pid}) C(SELECT 1) ZI"),
        "the pid is the server's"
    );
    for wire in [&mut first, &mut second] {
        wire.send(&query("SELECT pg_sleep(5)"));
    }
    let both = "SELECT count(*) = 2 FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(5)' AND state = 'active' AND datname = current_database()";
    while shared().sql(&database, both) != "t" {
        std::thread::sleep(Duration::from_millis(20));
    }
    let cancel = |key: &[u8]| {
        let mut packet = vec![0, 0, 0, 16, 4, 210, 22, 46];
        packet.extend_from_slice(&pid.to_be_bytes());
        packet.extend_from_slice(key);
        let mut wire = Wire::connect(gateway.port);
        wire.send(&packet);
        assert_eq!(wire.until_end(), "", "a cancel request has no answer");
    };
    cancel(&[0, 0, 0, 0]);
    let started = Instant::now();
    cancel(&first_key[4..]);
    assert_eq!(crate::support::wire::line(&first.until_ready()), "T E(57014) ZI");
    assert!(started.elapsed() < Duration::from_secs(3));
    drop(first);
    assert_eq!(
        crate::support::wire::line(&second.until_ready()),
        "T D() C(SELECT 1) ZI",
        "nobody cancelled this one"
    );
    drop(second);
    gateway.wait_closed();
    cancel(&first_key[4..]);
}

#[test]
fn a_principal_has_only_so_many_sessions() {
    let mut setup = Setup::new(shared());
    setup.principals[1].max_sessions = Some(2);
    let gateway = setup.start();
    let database = shared().database();
    let sleeper = || {
        let mut psql = gateway.client("psql", "robot", &database);
        psql.args(["-X", "-c", "SELECT pg_sleep(60)"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    };
    let mut sleepers = [sleeper(), sleeper()];
    while gateway.open_sessions() < 2 {
        std::thread::sleep(Duration::from_millis(10));
    }
    let message = stderr(gateway.client("psql", "robot", &database).args(["-X", "-c", "SELECT 1"]));
    assert!(message.contains("too many sessions"), "{message}");
    succeeded(gateway.psql(&database).args(["-c", "SELECT 1"]).output().unwrap());
    assert!(gateway.story().contains(&"limit sessions refused".to_owned()));
    sleepers[0].kill().unwrap();
    sleepers[0].wait().unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    // The place is free when the server has noticed that its client is gone: at the latest when it writes.
    shared().sql(&database, "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(60)%' AND datname = current_database() AND pid <> pg_backend_pid()");
    while gateway.open_sessions() > 0 {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(20));
    }
    succeeded(gateway.client("psql", "robot", &database).args(["-X", "-c", "SELECT 1"]).output().unwrap());
    sleepers[1].kill().unwrap();
    sleepers[1].wait().unwrap();
}

#[test]
fn a_revoked_or_expired_principal_is_closed_within_the_interval_and_its_statement_stops() {
    let clock = Clock::simulated();
    let mut setup = Setup::new(shared());
    setup.clock = clock.clone();
    setup.postgres.auth = ClientAuth::Token;
    setup.postgres.recheck_seconds = 1;
    let gateway = setup.start();
    let database = shared().database();
    let (revoked, expiring) = (gateway.token("robot"), gateway.token("ada"));
    let mut idle = Wire::log_in(gateway.port, "robot", &revoked, &database);
    let mut busy = Wire::log_in(gateway.port, "robot", &revoked, &database);
    busy.send(&query("SELECT pg_sleep(60), 'busy'"));
    let mut other = Wire::log_in(gateway.port, "ada", &expiring, &database);
    gateway.revoke(&revoked);
    for wire in [&mut idle, &mut busy] {
        let mut messages = Vec::new();
        while let Some(message) = wire.read() {
            messages.push(message);
        }
        assert!(last_error(&messages).contains("revoked"), "{messages:?}");
    }
    assert_eq!(other.query("SELECT 1"), "T D(1) C(SELECT 1) ZI");
    clock.set(clock.wall_ns() + 2 * 3600 * 1_000_000_000);
    assert_eq!(other.until_end(), "E(57P01)");
    gateway.wait_closed();
    let reasons: Vec<_> = gateway.story().into_iter().filter(|l| l.starts_with("closed")).collect();
    assert_eq!(reasons, ["closed revoked", "closed revoked", "closed expired"]);
    assert!(gateway.story().contains(&"result #1.0 cut  0 rows".to_owned()));
    let running = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%''busy''%' AND state = 'active' AND pid <> pg_backend_pid()";
    let deadline = Instant::now() + Duration::from_secs(10);
    while shared().sql(&database, running) != "0" {
        assert!(Instant::now() < deadline, "the target still works for nobody");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_drain_lets_statements_finish_and_closes_the_rest() {
    let mut setup = Setup::new(shared());
    setup.postgres.auth = ClientAuth::Token;
    setup.postgres.drain_seconds = 2;
    let mut gateway = setup.start();
    let database = shared().database();
    let token = gateway.token("robot");
    let mut wires: Vec<_> = (0..4).map(|_| Wire::log_in(gateway.port, "robot", &token, &database)).collect();
    wires[1].send(&query("SELECT pg_sleep(0.5), 'short'"));
    wires[2].send(&query("SELECT pg_sleep(60)"));
    wires[3].query("BEGIN");
    std::thread::sleep(Duration::from_millis(200));
    let started = Instant::now();
    gateway.drain();
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    let ends: Vec<_> = wires.iter_mut().map(Wire::until_end).collect();
    assert_eq!(ends, ["E(57P01)", "T D() C(SELECT 1) ZI E(57P01)", "E(57P01)", "E(57P01)"]);
    let closed = gateway.story().into_iter().filter(|l| l == "closed drain").count();
    assert_eq!(closed, 4);
}

#[test]
fn silent_clients_are_let_go_and_cost_nobody_anything() {
    let mut setup = Setup::new(shared());
    setup.postgres.auth = ClientAuth::Token;
    setup.postgres.startup_timeout_seconds = 1;
    setup.postgres.idle_timeout_seconds = Some(1);
    let gateway = setup.start();
    let database = shared().database();
    let mut silent: Vec<_> = (0..50).map(|_| Wire::connect(gateway.port)).collect();
    for (n, wire) in silent.iter_mut().enumerate() {
        match n % 3 {
            0 => {}
            1 => wire.send(&[0, 0, 0x20]),
            _ => wire.send(&[0, 0, 0, 8, 4, 210, 22, 47]),
        }
    }
    let token = gateway.token("ada");
    let mut wire = Wire::log_in(gateway.port, "ada", &token, &database);
    assert_eq!(wire.query("SELECT 1"), "T D(1) C(SELECT 1) ZI");
    wire.send(&query("SELECT pg_sleep(1.5)"));
    assert_eq!(
        crate::support::wire::line(&wire.until_ready()),
        "T D() C(SELECT 1) ZI",
        "a running statement is not idle"
    );
    let started = Instant::now();
    for wire in &mut silent {
        while let Ok(1..) = std::io::Read::read(&mut wire.stream, &mut [0; 64]) {}
    }
    assert!(started.elapsed() < Duration::from_secs(3));
    assert_eq!(wire.until_end(), "E(57P05)");
    gateway.wait_closed();
    assert_eq!(gateway.story()[5..], ["limit idle closed", "closed timeout"]);
}

#[test]
fn a_server_that_goes_away_ends_the_session_with_its_own_words() {
    let mut setup = Setup::new(shared());
    setup.postgres.auth = ClientAuth::Token;
    let gateway = setup.start();
    let database = shared().database();
    let mut wire = Wire::log_in(gateway.port, "ada", &gateway.token("ada"), &database);
    wire.send(&query("SELECT pg_sleep(60)"));
    std::thread::sleep(Duration::from_millis(200));
    shared().sql(&database, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE '%pg_sleep(60)%' AND pid <> pg_backend_pid()");
    assert_eq!(wire.until_end(), "T E(57P01)");
    gateway.wait_closed();
    assert_eq!(gateway.story()[2..], ["result #1.0 error 57P01 0 rows", "closed server"]);
}

#[test]
fn a_client_that_vanishes_leaves_its_statement_to_the_target_and_the_outcome_is_recorded() {
    let mut setup = Setup::new(shared());
    setup.postgres.auth = ClientAuth::Token;
    let gateway = setup.start();
    let database = shared().database();
    shared().sql(&database, "CREATE TABLE t (id int); GRANT ALL ON t TO app");
    let mut wire = Wire::log_in(gateway.port, "ada", &gateway.token("ada"), &database);
    wire.send(&query("INSERT INTO t SELECT 1 FROM pg_sleep(0.5)"));
    drop(wire);
    gateway.wait_closed();
    assert_eq!(shared().sql(&database, "SELECT count(*) FROM t"), "1", "as without a gateway");
    assert_eq!(gateway.story()[2..], ["result #1.0 complete INSERT 0 1 0 rows", "closed client"]);
}

#[test]
fn a_spool_that_is_full_closes_both_sides_and_lets_nothing_through() {
    let mut setup = Setup::new(shared());
    setup.postgres.auth = ClientAuth::Token;
    setup.recording.hold_seconds = 1;
    setup.spool.max_bytes = 200_000;
    let gateway = setup.start();
    let database = shared().database();
    shared().sql(&database, "CREATE TABLE t (id int); GRANT ALL ON t TO app");
    let mut wire = Wire::log_in(gateway.port, "ada", &gateway.token("ada"), &database);
    let mut acknowledged = 0;
    loop {
        let answer = wire.query(&format!("INSERT INTO t VALUES ({acknowledged}) /* {} */", "x".repeat(1000)));
        if !answer.starts_with("C(INSERT") {
            assert_eq!(answer, "E(58030)");
            break;
        }
        acknowledged += 1;
    }
    assert!(acknowledged > 20);
    let stored: i32 = shared().sql(&database, "SELECT count(*) FROM t").parse().unwrap();
    let recorded = gateway.statements().len();
    assert!(
        stored >= acknowledged && usize::try_from(stored).unwrap() <= recorded,
        "{stored} {acknowledged} {recorded}"
    );
    let mut late = Wire::connect(gateway.port);
    late.hello(Version::V3_0, &[("user", "ada"), ("database", &database)]);
    assert_eq!(late.read().unwrap().0, b'R');
    let mut out = Vec::new();
    bodycam_proxy::postgres::codec::frontend::put_password(&mut out, gateway.token("ada").as_bytes());
    late.send(&out);
    assert!(late.until_end().ends_with("E(58030)"), "who comes while nothing can be recorded is told so");
}

#[test]
fn silent_connections_keep_nobody_out() {
    let mut setup = Setup::new(shared());
    setup.postgres.auth = ClientAuth::Token;
    setup.max_connections = 4;
    let gateway = setup.start();
    let database = shared().database();
    let mut first = Wire::log_in(gateway.port, "ada", &gateway.token("ada"), &database);
    let silent: Vec<_> = (0..20).map(|_| Wire::connect(gateway.port)).collect();
    let mut second = Wire::log_in(gateway.port, "ada", &gateway.token("ada"), &database);
    for wire in [&mut first, &mut second] {
        assert!(wire.query("SELECT 1").contains("C(SELECT 1)"));
    }
    drop(silent);
}

#[test]
fn a_login_that_is_refused_is_in_the_record_of_nobody() {
    let gateway = Gateway::before(shared());
    let database = shared().database();
    let revoked = gateway.token("robot");
    gateway.revoke(&revoked);
    let ask = |user: &str, password: &str| {
        let conninfo = gateway.conninfo(user, password, &database);
        stderr(Command::new("psql").args(["-X", "-c", "SELECT 1", &conninfo]))
    };
    for (user, password) in [("mallory", "guess"), ("robot", "guess"), ("robot", revoked.as_str())] {
        assert!(ask(user, password).contains("authentication failed"), "{user} is told no more than that");
    }
    gateway.wait_closed();
    let mut reasons = Vec::new();
    for recorded in gateway.events() {
        match &recorded.body {
            Body::SessionOpened(opened) => {
                assert_eq!(opened.principal_kind, "unknown");
            }
            Body::ControlDecision(decision) => {
                assert_eq!((decision.subject.as_str(), decision.verdict.as_str()), ("login", "deny"));
                reasons.push(format!("{} {}", decision.reason, decision.code));
            }
            Body::SessionClosed(closed) => assert_eq!(closed.reason, "refused"),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(reasons, ["unknown-principal 28P01", "wrong-credential 28P01", "revoked 28P01"]);
}
