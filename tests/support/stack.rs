//! The real `bodycam` binary in front of a throw-away PostgreSQL: configuration, processes, tokens, clients.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use super::cluster::Cluster;
use super::ports::free_port;

/// Longest wait for a process to be ready.
const READY: Duration = Duration::from_secs(90);

/// A directory with a configuration, and what runs on it.
pub struct Stack {
    pub dir: tempfile::TempDir,
    pub cluster: Cluster,
    pub postgres: SocketAddr,
    pub http: SocketAddr,
    pub admin: SocketAddr,
    pub recorder_admin: SocketAddr,
}

/// A `bodycam` process; killed with its children when dropped.
pub struct Process {
    pub child: Child,
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Stack {
    /// With `BODYCAM_TEST_KEEP` set, what a test has failed on can be looked at afterwards.
    fn drop(&mut self) {
        if std::thread::panicking() && std::env::var_os("BODYCAM_TEST_KEEP").is_some() {
            self.dir.disable_cleanup(true);
            eprintln!("kept: {}", self.dir.path().display());
        }
    }
}

impl Process {
    /// SIGTERM, then waits for the end.
    pub fn terminate(mut self) -> std::process::ExitStatus {
        signal(self.child.id(), "TERM");
        self.child.wait().unwrap()
    }

    /// SIGKILL, then waits for the end.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// Sends a signal by name.
pub fn signal(pid: u32, name: &str) {
    assert!(Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status().unwrap().success());
}

impl Stack {
    /// A cluster with the role `app` and the database `app`, and a configuration with the principals `ada`
    /// (a person) and `robot` (her agent). `extra` is appended to the configuration.
    pub fn new(extra: &str) -> Self {
        Self::on(|_| "[lake]\nurl = \"lake\"\n".to_owned(), extra)
    }

    /// As [`Stack::new`], with a `[lake]` of its own; it is told the directory.
    pub fn on(lake: impl FnOnce(&Path) -> String, extra: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("bodycam-test-").tempdir().unwrap();
        // The server runs as another user when we are root.
        std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let cluster = Cluster::start(dir.path(), "superuser-password").unwrap();
        cluster.run("postgres", "CREATE ROLE app LOGIN PASSWORD 'app-password'").unwrap();
        cluster.run("postgres", "CREATE DATABASE app OWNER app").unwrap();
        std::fs::write(dir.path().join("app.password"), "app-password").unwrap();
        let local = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let [postgres, http, admin, recorder_admin] = [(); 4].map(|()| local(free_port().unwrap()));
        let config = format!(
            r#"
[gateway]
producer = "gw-test"
tenant = "test"
tenant_key = "file:tenant.key"
cores = 2
drain_seconds = 5

[spool]
dir = "spool"

[record]
rows = "clear"

[postgres]
listen = "{postgres}"

[[targets]]
name = "app"
databases = ["app"]
address = "127.0.0.1:{port}"
role = "app"
password = "file:{dir}/app.password"
tls = "disable"

[http]
listen = "{http}"

[[principals]]
name = "ada"
kind = "person"
targets = ["*"]
egress = ["127.0.0.1:*"]

[[principals]]
name = "robot"
kind = "agent"
owner = "ada"
targets = ["*"]
egress = ["127.0.0.1:*"]

[state]
path = "state.db"

{lake}
[recorder]
flush_seconds = 1

[admin]
listen = "{admin}"
recorder_listen = "{recorder_admin}"
{extra}
"#,
            port = cluster.port(),
            lake = lake(dir.path()),
            dir = dir.path().display(),
        );
        std::fs::write(dir.path().join("bodycam.toml"), config).unwrap();
        Self { dir, cluster, postgres, http, admin, recorder_admin }
    }

    /// Path of a file in the directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Every file below a folder of the directory; none when there is no such folder.
    pub fn files_below(&self, folder: &str) -> Vec<PathBuf> {
        let (mut found, mut folders) = (Vec::new(), vec![self.path(folder)]);
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).into_iter().flatten() {
                // What is compacted or collected meanwhile may go away.
                let Ok(path) = entry.map(|entry| entry.path()) else { continue };
                if path.is_dir() { folders.push(path) } else { found.push(path) }
            }
        }
        found
    }

    /// Starts `bodycam SUBCOMMAND` and waits until it is ready.
    pub fn start(&self, subcommand: &str) -> Process {
        self.start_by(bodycam(), subcommand)
    }

    /// As [`Stack::start`], by a command that takes what [`bodycam`] takes.
    pub fn start_by(&self, mut command: Command, subcommand: &str) -> Process {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.path(&format!("{subcommand}.log")))
            .unwrap();
        let admin = if subcommand == "recorder" { self.recorder_admin } else { self.admin };
        let child = command
            .args([subcommand, "--config"])
            .arg(self.path("bodycam.toml"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut process = Process { child };
        let deadline = Instant::now() + READY;
        while !ready(admin) {
            if let Some(status) = process.child.try_wait().unwrap() {
                panic!("bodycam {subcommand} ended ({status}):\n{}", self.log(subcommand));
            }
            assert!(
                Instant::now() < deadline,
                "bodycam {subcommand} is not ready:\n{}",
                self.log(subcommand)
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        process
    }

    /// What a process has logged.
    pub fn log(&self, subcommand: &str) -> String {
        std::fs::read_to_string(self.path(&format!("{subcommand}.log"))).unwrap_or_default()
    }

    /// A token for a principal, issued by the command.
    pub fn token(&self, principal: &str) -> String {
        let output = self.run(&["token", "issue", "--principal", principal, "--ttl", "1h"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Runs a subcommand that takes `--config`.
    pub fn run(&self, args: &[&str]) -> Output {
        bodycam().args(args).arg("--config").arg(self.path("bodycam.toml")).output().unwrap()
    }

    /// `bodycam verify --json` on this lake: exit code and report.
    pub fn verify(&self) -> (i32, serde_json::Value) {
        self.verify_by(bodycam())
    }

    /// As [`Stack::verify`], by a command that takes what [`bodycam`] takes.
    pub fn verify_by(&self, mut command: Command) -> (i32, serde_json::Value) {
        let output =
            command.args(["verify", "--json", "--config"]).arg(self.path("bodycam.toml")).output().unwrap();
        let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| {
            panic!(
                "{e}: {} {}",
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            )
        });
        (output.status.code().unwrap(), report)
    }

    /// psql through the gateway.
    pub fn psql(&self, user: &str, token: &str, sql: &str) -> Output {
        Command::new("psql")
            .args(["-X", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-U", user, "-d", "app"])
            .args(["-p", &self.postgres.port().to_string(), "-c", sql])
            .env("PGPASSWORD", token)
            .output()
            .unwrap()
    }

    /// psql past the gateway, as the target's role.
    pub fn direct(&self, sql: &str) -> String {
        let output = Command::new("psql")
            .args(["-X", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-U", "app", "-d", "app"])
            .args(["-p", &self.cluster.port().to_string(), "-c", sql])
            .env("PGPASSWORD", "app-password")
            .output()
            .unwrap();
        super::postgres::succeeded(output).trim().to_owned()
    }

    /// Waits until `done` says so, for at most `limit`.
    pub fn wait_for(&self, what: &str, limit: Duration, mut done: impl FnMut() -> bool) {
        let deadline = Instant::now() + limit;
        while !done() {
            assert!(Instant::now() < deadline, "{what} did not happen within {limit:?}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// The binary under test.
pub fn bodycam() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bodycam"));
    command.env_remove("BODYCAM_CONFIG").env_remove("BODYCAM_LAKE").env("NO_COLOR", "1");
    command
}

/// Whether `/readyz` answers 200.
fn ready(admin: SocketAddr) -> bool {
    get(admin, "/readyz").is_some_and(|answer| answer.starts_with("HTTP/1.1 200"))
}

/// A GET on the admin listener.
pub fn get(admin: SocketAddr, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&admin, Duration::from_millis(500)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

/// A Python with the packages of `tests/requirements.txt`, as `make test` prepares it.
pub fn python() -> Command {
    let path = std::env::var("BODYCAM_TEST_PYTHON").expect(
        "BODYCAM_TEST_PYTHON names a Python with tests/requirements.txt installed; `make test` sets it",
    );
    Command::new(Path::new(&path))
}
