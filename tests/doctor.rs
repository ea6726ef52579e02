//! `bodycam doctor`, as who keeps the gateway runs it.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::support::stack::Stack;

/// A session that waits: straight to the server, or through the gateway.
struct Waiting(Child);

impl Drop for Waiting {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What the server answers its superuser.
fn ask(stack: &Stack, sql: &str) -> String {
    let output = Command::new("psql")
        .args(["-X", "-A", "-t", "-h", "127.0.0.1", "-U", "postgres", "-d", "app", "-c", sql])
        .args(["-p", &stack.cluster.port().to_string()])
        .env("PGPASSWORD", "superuser-password")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn wait_in(stack: &Stack, port: u16, user: &str, password: &str, application: &str) -> Waiting {
    let conninfo =
        format!("host=127.0.0.1 port={port} user={user} dbname=app application_name={application}");
    let psql = Command::new("psql")
        .args(["-X", "-c", "SELECT pg_sleep(60)", &conninfo])
        .env("PGPASSWORD", password)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let waiting = Waiting(psql);
    let sql = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = '{application}' AND state = 'active'"
    );
    stack.wait_for("the session at the server", Duration::from_secs(20), || ask(stack, &sql) == "1");
    waiting
}

fn report(stack: &Stack) -> (i32, Value) {
    let output = stack.run(&["doctor", "--json"]);
    let report = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&output.stderr)));
    (output.status.code().unwrap(), report)
}

fn state<'a>(report: &'a Value, check: &str) -> &'a str {
    let checks = report["checks"].as_array().unwrap();
    let worst = |s: &&str| ["ok", "warn", "fail"].iter().position(|known| known == s);
    let states = checks.iter().filter(|c| c["check"] == check).map(|c| c["state"].as_str().unwrap());
    states.max_by_key(worst).unwrap_or("missing")
}

#[test]
fn doctor_names_the_sessions_that_did_not_come_through_the_gateway() {
    let stack = Stack::new("");
    let up = stack.start("up");
    let token = stack.token("robot");
    let _through = wait_in(&stack, stack.postgres.port(), "robot", &token, "through");
    let (code, quiet) = report(&stack);
    assert_eq!((code, &quiet["not_through_the_gateway"]), (0, &serde_json::json!([])), "{quiet:#}");
    assert_eq!(state(&quiet, "gateway"), "ok");
    assert_eq!(state(&quiet, "target app"), "warn", "the role sees little of others' sessions");
    stack.cluster.run("postgres", "GRANT pg_read_all_stats TO app").unwrap();
    let (_, quiet) = report(&stack);
    assert_eq!(state(&quiet, "target app"), "ok", "{quiet:#}");
    // ada holds no token.
    assert_eq!(state(&quiet, "tokens"), "warn");

    let around = wait_in(&stack, stack.cluster.port(), "app", "app-password", "bodycam");
    let (code, found) = report(&stack);
    let named = found["not_through_the_gateway"].as_array().unwrap();
    assert_eq!(code, 1);
    assert_eq!(named.len(), 1, "{named:#?}");
    assert_eq!(named[0]["application"], "bodycam");
    assert_eq!(named[0]["user"], "app");
    let pid: i64 =
        ask(&stack, "SELECT pid FROM pg_stat_activity WHERE application_name = 'bodycam'").parse().unwrap();
    assert_eq!(named[0]["pid"], pid);
    let text = String::from_utf8(stack.run(&["doctor"]).stdout).unwrap();
    assert!(text.contains("FAIL  target app") && text.contains(&pid.to_string()), "{text}");
    drop(around);

    // Without a gateway nobody can say whose sessions they are, and that is not "ok".
    assert!(up.terminate().success(), "{}", stack.log("up"));
    let _left = wait_in(&stack, stack.cluster.port(), "app", "app-password", "left");
    let (_, alone) = report(&stack);
    assert_eq!(state(&alone, "gateway"), "warn");
    assert_eq!(state(&alone, "target app"), "warn");
}

#[test]
fn doctor_names_sensitive_relations_that_are_not_there() {
    let stack = Stack::new("");
    let config = std::fs::read_to_string(stack.path("bodycam.toml")).unwrap();
    let list = |databases: &str, relations: &str| {
        let listed = format!("tls = \"disable\"\nsensitive = [{relations}]");
        let changed = config
            .replace("tls = \"disable\"", &listed)
            .replace("databases = [\"app\"]", &format!("databases = [{databases}]"));
        std::fs::write(stack.path("bodycam.toml"), changed).unwrap();
        let (_, report) = report(&stack);
        let checks = report["checks"].as_array().unwrap().clone();
        checks.into_iter().find(|c| c["check"] == "sensitive of app").unwrap_or_default()
    };
    stack
        .cluster
        .run("app", "CREATE TABLE people (n int); CREATE VIEW \"Names\" AS SELECT n FROM people")
        .unwrap();
    stack.cluster.run("postgres", "CREATE DATABASE other OWNER app").unwrap();
    stack.cluster.run("other", "CREATE SCHEMA hr; CREATE TABLE hr.pay (n int)").unwrap();
    let there = "\"public.people\", \"public.Names\"";
    assert_eq!(list("\"app\"", there)["state"], "ok");
    let check = list("\"app\"", &format!("{there}, \"public.People\", \"hr.pay\""));
    let detail = check["detail"].as_str().unwrap();
    assert!(check["state"] == "warn" && detail.contains("has public.People, hr.pay:"), "{check:#}");
    // It is in another database, which leads to the target now.
    for databases in ["\"app\", \"other\"", "\"*\""] {
        let check = list(databases, &format!("{there}, \"hr.pay\""));
        assert_eq!(check["state"], "ok", "{check:#}");
    }
    assert_eq!(list("\"app\"", ""), Value::Null, "nothing is said of an empty list");
}

#[test]
fn doctor_names_what_is_wrong_with_the_set_up() {
    let stack = Stack::new("");
    let (code, fresh) = report(&stack);
    assert_eq!(code, 1, "there is no tenant key yet: {fresh:#}");
    assert_eq!(state(&fresh, "tenant key"), "fail");
    assert_eq!(state(&fresh, "spool"), "warn");
    assert_eq!(state(&fresh, "lake"), "warn");

    let up = stack.start("up");
    stack.token("ada");
    stack.token("robot");
    assert!(up.terminate().success(), "{}", stack.log("up"));
    let loose = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    std::fs::set_permissions(stack.path("tenant.key"), loose).unwrap();
    std::fs::write(stack.path("lake/streams/0.json"), "{").unwrap();
    stack.cluster.run("postgres", "ALTER ROLE app PASSWORD 'another'").unwrap();
    let (code, broken) = report(&stack);
    assert_eq!(code, 1);
    for check in ["tenant key", "lake", "target app"] {
        assert_eq!(state(&broken, check), "fail", "{check}: {broken:#}");
    }
    assert_eq!(state(&broken, "tokens"), "ok");
    let config = std::fs::read_to_string(stack.path("bodycam.toml")).unwrap();
    let nowhere = config.replace(&format!(":{}\"\nrole", stack.cluster.port()), ":1\"\nrole");
    assert_ne!(nowhere, config);
    std::fs::write(stack.path("bodycam.toml"), nowhere).unwrap();
    let (_, gone) = report(&stack);
    let detail = gone["checks"].as_array().unwrap().iter().find(|c| c["check"] == "target app").unwrap();
    assert!(detail["detail"].as_str().unwrap().contains("cannot reach target 'app'"), "{detail:#}");
}
