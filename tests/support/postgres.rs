//! PostgreSQL servers of the tests' own, on free ports of the loopback address.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Password of the superuser `postgres`.
pub const SUPERUSER_PASSWORD: &str = "superuser-password";
/// The role that gateways log in with, and its password.
pub const ROLE: &str = "app";
pub const ROLE_PASSWORD: &str = "app-password";

/// A role that needs no password, for tests that compare with a connection without a gateway.
pub const DIRECT: &str = "direct";

/// A running server; stopped when it is dropped, and when the test process ends in whatever way.
pub struct Cluster {
    dir: tempfile::TempDir,
    port: u16,
    child: Child,
    /// Removes the directory when the test process ends: nothing that is shared is ever dropped.
    _sweeper: Child,
}

/// What is not default.
#[derive(Default)]
pub struct Settings<'a> {
    /// Name and value of settings.
    pub conf: &'a [(&'a str, &'a str)],
    /// Lines before those of `pg_hba.conf` that let everybody in with SCRAM.
    pub hba: &'a str,
    /// Certificate and key (PEM): with them `ssl` is on.
    pub tls: Option<(&'a str, &'a str)>,
}

impl Cluster {
    /// A server with default settings and the role [`ROLE`].
    pub fn start() -> Self {
        Self::with(&Settings::default())
    }

    /// A server with these settings and the role [`ROLE`].
    pub fn with(settings: &Settings<'_>) -> Self {
        let dir = tempfile::Builder::new().prefix("bodycam-pg-").tempdir().unwrap();
        let (data, password) = (dir.path().join("data"), dir.path().join("password"));
        fs::write(&password, SUPERUSER_PASSWORD).unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        for path in [dir.path(), &password] {
            give_to_server(path);
        }
        let mut initdb = as_server("initdb");
        initdb.args([
            "--auth=scram-sha-256",
            "--username=postgres",
            "--encoding=UTF8",
            "--locale=C",
            "--no-sync",
        ]);
        succeeded(initdb.arg("--pgdata").arg(&data).arg("--pwfile").arg(&password).output().unwrap());
        let hba = format!(
            "host all {DIRECT} 127.0.0.1/32 trust\n{}\nhost all all 127.0.0.1/32 scram-sha-256\n",
            settings.hba
        );
        fs::write(data.join("pg_hba.conf"), hba).unwrap();
        let port = super::ports::free_port().unwrap();
        let mut conf = format!(
            "listen_addresses = '127.0.0.1'\nport = {port}\nunix_socket_directories = ''\nfsync = off\n\
             max_connections = 200\nmax_prepared_transactions = 4\nshared_buffers = 32MB\n"
        );
        if let Some((cert, key)) = settings.tls {
            for (name, text) in [("server.crt", cert), ("server.key", key)] {
                let path = data.join(name);
                fs::write(&path, text).unwrap();
                fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
                give_to_server(&path);
            }
            conf.push_str("ssl = on\n");
        }
        for (name, value) in settings.conf {
            conf.push_str(&format!("{name} = '{value}'\n"));
        }
        fs::write(data.join("postgresql.auto.conf"), conf).unwrap();
        let log = fs::File::create(dir.path().join("log")).unwrap();
        let child = spawn_for_good(
            as_server("postgres").arg("-D").arg(&data).stdout(log.try_clone().unwrap()).stderr(log),
        );
        let sweeper = Command::new("sh")
            .args(["-c", "read -r _; sleep 2; rm -rf \"$0\""])
            .arg(dir.path())
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let cluster = Self { dir, port, child, _sweeper: sweeper };
        cluster.wait();
        cluster.sql("postgres", &format!("CREATE ROLE {ROLE} LOGIN PASSWORD '{ROLE_PASSWORD}' CREATEDB"));
        cluster.sql("postgres", &format!("CREATE ROLE {DIRECT} LOGIN IN ROLE {ROLE}"));
        cluster
    }

    /// Port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `127.0.0.1:port`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// A new database that belongs to [`ROLE`].
    pub fn database(&self) -> String {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("db{}", NEXT.fetch_add(1, Ordering::Relaxed));
        self.sql("postgres", &format!("CREATE DATABASE {name} OWNER {ROLE}"));
        self.sql(&name, "CREATE EXTENSION IF NOT EXISTS plpgsql");
        name
    }

    /// Runs SQL as the superuser, straight at the server; gives unaligned rows.
    pub fn sql(&self, database: &str, sql: &str) -> String {
        let mut psql = Command::new("psql");
        psql.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-U", "postgres"])
            .args(["-d", database, "-p", &self.port.to_string(), "-c", sql])
            .env("PGPASSWORD", SUPERUSER_PASSWORD);
        succeeded(psql.output().unwrap()).trim_end().to_owned()
    }

    fn wait(&self) {
        let deadline = Instant::now() + Duration::from_secs(60);
        let ready = || {
            let port = self.port.to_string();
            let mut probe = Command::new(bin().join("pg_isready"));
            probe.args(["-q", "-h", "127.0.0.1", "-p", &port]).status().unwrap().success()
        };
        while !ready() {
            let log = || fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
            assert!(Instant::now() < deadline, "postgres did not start:\n{}", log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // SIGKILL would leave the server's own children behind.
        let _ = as_server("pg_ctl")
            .args(["stop", "--mode=immediate", "--silent", "-D"])
            .arg(self.dir.path().join("data"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        let _ = self.child.wait();
    }
}

/// The server that most tests share, each with a database of its own.
pub fn shared() -> &'static Cluster {
    static SHARED: OnceLock<Cluster> = OnceLock::new();
    SHARED.get_or_init(Cluster::start)
}

/// The directory with the newest server's programs.
pub fn bin() -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL: apt-get install postgresql");
    let number = |path: &Path| path.file_name()?.to_str()?.parse::<u32>().ok();
    let newest = versions
        .flatten()
        .map(|v| v.path())
        .filter(|p| p.join("bin/initdb").exists())
        .max_by_key(|p| number(p));
    newest.expect("PostgreSQL: apt-get install postgresql").join("bin")
}

/// Standard output of a program that must succeed.
pub fn succeeded(output: Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Starts `command` from a thread that outlives every test: the kernel's "signal at the parent's death" means
/// the parent thread's.
fn spawn_for_good(command: &mut Command) -> Child {
    let (send, receive) = std::sync::mpsc::channel();
    let mut command = std::mem::replace(command, Command::new("true"));
    std::thread::spawn(move || {
        send.send(command.spawn().unwrap()).unwrap();
        loop {
            std::thread::park();
        }
    });
    receive.recv().unwrap()
}

/// A server program, run as `postgres` when we are root (initdb refuses root), stopped when we are gone.
fn as_server(program: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.arg("--pdeathsig=QUIT");
    if let Some((uid, gid)) = server_account() {
        command.args([format!("--reuid={uid}"), format!("--regid={gid}"), "--clear-groups".to_owned()]);
    }
    command.arg("--").arg(bin().join(program)).current_dir("/");
    command
}

fn give_to_server(path: &Path) {
    if let Some((uid, gid)) = server_account() {
        chown(path, Some(uid), Some(gid)).unwrap();
    }
}

fn server_account() -> Option<(u32, u32)> {
    if fs::metadata("/proc/self").unwrap().uid() != 0 {
        return None;
    }
    let passwd = fs::read_to_string("/etc/passwd").unwrap();
    let line = passwd.lines().find(|l| l.starts_with("postgres:")).expect("an account `postgres`");
    let mut fields = line.split(':').skip(2).map(|f| f.parse().unwrap());
    Some((fields.next().unwrap(), fields.next().unwrap()))
}
