//! A throw-away PostgreSQL cluster on a free port, run as `postgres` when we are root (initdb refuses root).

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::ports::free_port;

/// Longest wait for a cluster to answer.
const START: Duration = Duration::from_secs(30);

/// A running cluster; stopped and killed when it is dropped.
pub struct Cluster {
    child: Child,
    bin: PathBuf,
    dir: PathBuf,
    port: u16,
    password: String,
}

impl Cluster {
    /// Makes a cluster below `dir` and starts it. The superuser is `postgres`.
    pub fn start(dir: &Path, password: &str) -> Result<Self> {
        let bin = binaries()?;
        let dir = dir.join("postgres");
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let password_file = dir.join("password");
        fs::write(&password_file, password)?;
        fs::set_permissions(&password_file, fs::Permissions::from_mode(0o600))?;
        if let Some((uid, gid)) = server_account() {
            chown(&dir, Some(uid), Some(gid))?;
            chown(&password_file, Some(uid), Some(gid))?;
        }
        let data = dir.join("data");
        let mut initdb = as_server(&bin.join("initdb"));
        initdb
            .args([
                "--auth=scram-sha-256",
                "--username=postgres",
                "--encoding=UTF8",
                "--locale=C",
                "--no-sync",
            ])
            .arg("--pgdata")
            .arg(&data)
            .arg("--pwfile")
            .arg(&password_file);
        quiet(&mut initdb).context("initdb failed")?;
        let port = free_port()?;
        let log = fs::File::create(dir.join("log"))?;
        let child = as_server(&bin.join("postgres"))
            .arg("-D")
            .arg(&data)
            .args(["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off", "-c", "max_connections=100"])
            .args([OsStr::new("-c"), OsStr::new(&format!("port={port}"))])
            .args(["-c", "unix_socket_directories="])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot start postgres")?;
        let cluster = Self { child, bin, dir, port, password: password.to_owned() };
        cluster.wait()?;
        Ok(cluster)
    }

    /// Port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Runs SQL as the superuser, straight at the server.
    pub fn run(&self, database: &str, sql: &str) -> Result<()> {
        let mut psql = Command::new("psql");
        psql.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-U", "postgres", "-d", database])
            .args(["-p", &self.port.to_string(), "-c", sql])
            .env("PGPASSWORD", &self.password)
            .env("PGSSLMODE", "disable");
        quiet(&mut psql).context("psql failed")
    }

    fn wait(&self) -> Result<()> {
        let deadline = Instant::now() + START;
        loop {
            let ready = Command::new(self.bin.join("pg_isready"))
                .args(["-q", "-h", "127.0.0.1", "-p", &self.port.to_string()])
                .status()
                .context("cannot run pg_isready")?;
            if ready.success() {
                return Ok(());
            }
            if Instant::now() > deadline {
                let log = fs::read_to_string(self.dir.join("log")).unwrap_or_default();
                bail!("postgres did not start: {}", bodycam_record::shown(&log));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let _ = as_server(&self.bin.join("pg_ctl"))
            .args(["stop", "--mode=immediate", "--silent", "--pgdata"])
            .arg(self.dir.join("data"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The programs of the newest PostgreSQL on this machine.
fn binaries() -> Result<PathBuf> {
    let mut found: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .filter(|(_, bin)| bin.join("initdb").exists())
        .collect();
    found.sort();
    found
        .pop()
        .map(|(_, bin)| bin)
        .context("no PostgreSQL server on this machine: apt-get install postgresql")
}

/// uid and gid of `postgres`, when we are root.
fn server_account() -> Option<(u32, u32)> {
    let root = fs::metadata("/proc/self").map(|m| std::os::unix::fs::MetadataExt::uid(&m)).ok()? == 0;
    let passwd = fs::read_to_string("/etc/passwd").ok()?;
    let line = passwd.lines().find(|l| l.starts_with("postgres:"))?;
    let mut fields = line.split(':').skip(2);
    let (uid, gid) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    root.then_some((uid, gid))
}

fn as_server(program: &Path) -> Command {
    match server_account() {
        None => Command::new(program),
        Some((uid, gid)) => {
            let mut command = Command::new("setpriv");
            command
                .args([format!("--reuid={uid}"), format!("--regid={gid}")])
                .arg("--clear-groups")
                .arg(program);
            command.current_dir("/");
            command
        }
    }
}

fn quiet(command: &mut Command) -> Result<()> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {command:?}"))?;
    if !output.status.success() {
        bail!("{}", bodycam_record::shown(&String::from_utf8_lossy(&output.stderr)));
    }
    Ok(())
}
