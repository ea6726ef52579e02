//! `bodycam verify`: brings the bytes and the threads; the verdict is `bodycam_verify`'s.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result};
use bodycam_record::TenantKey;
use bodycam_verify::{Files, Options, Pool, Progress, Report, Trust};
use bytes::Bytes;

use crate::cli::LakeArg;

/// Runs the verification and prints the report.
pub fn run(json: bool, as_of: Option<String>, trust: Option<PathBuf>, lake: &LakeArg) -> Result<ExitCode> {
    match verdict(as_of.as_deref(), trust.as_deref(), lake) {
        Ok(report) => {
            let mut out = std::io::stdout().lock();
            if json {
                serde_json::to_writer_pretty(&mut out, &report)?;
                writeln!(out)?;
            } else {
                write!(out, "{}", report.to_text())?;
            }
            Ok(ExitCode::from(report.exit_code))
        }
        // 1 = could not run; every other failure of the binary is 2, which here means tampered.
        Err(error) => {
            eprintln!("bodycam verify: could not run: {}", bodycam_record::shown(&format!("{error:#}")));
            Ok(ExitCode::from(1))
        }
    }
}

fn verdict(as_of: Option<&str>, trust: Option<&Path>, lake: &LakeArg) -> Result<Report> {
    let at = super::lake_at(lake)?;
    let as_of_ns = as_of.map(parse_time).transpose()?;
    let trust = match trust {
        None => None,
        Some(path) => {
            let text =
                std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
            Some(Trust::parse(&text).with_context(|| format!("{} is not a trust file", path.display()))?)
        }
    };
    check(&at.url, at.tenant_key, as_of_ns, trust)
}

/// Verifies the lake at `url`.
pub fn check(
    url: &str,
    tenant_key: Option<TenantKey>,
    as_of_ns: Option<i64>,
    trust: Option<Trust>,
) -> Result<Report> {
    let directory = Directory::open(url)?;
    let options = Options { as_of_ns, trust, tenant_key, ..Options::default() };
    let terminal = std::io::stderr().is_terminal();
    let report = bodycam_verify::run(&directory, &options, &Threads, &|p| progress(terminal, p));
    if terminal {
        eprint!("\r\x1b[K");
    }
    Ok(report)
}

fn progress(terminal: bool, p: Progress) {
    if terminal && p.files.is_multiple_of(8) {
        eprint!(
            "\rchecked {} of {} files, {} of {} MiB\x1b[K",
            p.files,
            p.files_total,
            p.bytes >> 20,
            p.bytes_total >> 20
        );
    }
}

/// A lake in a directory.
struct Directory(PathBuf);

impl Directory {
    fn open(url: &str) -> Result<Self> {
        let path = PathBuf::from(url.strip_prefix("file://").unwrap_or(url));
        let is_directory =
            path.metadata().with_context(|| format!("cannot open the lake {}", path.display()))?.is_dir();
        anyhow::ensure!(is_directory, "the lake {} is not a directory", path.display());
        Ok(Self(path))
    }

    /// Paths come from commits that anyone may have written: nothing outside the lake is read.
    fn inside(&self, path: &str) -> Option<PathBuf> {
        let plain = path.split('/').all(|part| !matches!(part, "" | "." | "..")) && !path.contains('\0');
        plain.then(|| self.0.join(path))
    }
}

impl Files for Directory {
    fn read(&self, path: &str) -> Result<Option<Bytes>, String> {
        let Some(path) = self.inside(path) else { return Err("not a path inside the lake".to_owned()) };
        match std::fs::read(path) {
            Ok(bytes) => Ok(Some(bytes.into())),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e.to_string()),
        }
    }

    fn list(&self, folder: &str) -> Option<Vec<String>> {
        let entries = std::fs::read_dir(self.inside(folder.trim_end_matches('/'))?).ok()?;
        Some(entries.flatten().filter_map(|e| e.file_name().into_string().ok()).collect())
    }
}

/// One thread a core.
struct Threads;

impl Pool for Threads {
    fn each(&self, n: usize, work: &(dyn Fn(usize) + Sync)) {
        let next = AtomicUsize::new(0);
        let cores = std::thread::available_parallelism().map_or(1, usize::from).min(n.max(1));
        std::thread::scope(|scope| {
            for _ in 0..cores {
                scope.spawn(|| {
                    loop {
                        let i = next.fetch_add(1, Ordering::Relaxed);
                        if i >= n {
                            return;
                        }
                        work(i);
                    }
                });
            }
        });
    }
}

/// RFC 3339, or Unix seconds.
fn parse_time(text: &str) -> Result<i64> {
    if let Ok(seconds) = text.parse::<i64>() {
        return seconds.checked_mul(1_000_000_000).context("--as-of is out of range");
    }
    let moment: jiff::Timestamp = text.parse().with_context(|| {
        format!(
            "--as-of '{}': want RFC 3339 (2026-11-21T12:00:00Z) or Unix seconds",
            bodycam_record::shown(text)
        )
    })?;
    i64::try_from(moment.as_nanosecond()).context("--as-of is out of range")
}
