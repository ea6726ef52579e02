//! `bodycam verify`: brings the bytes and the threads; the verdict is `bodycam_verify`'s.

use std::io::{ErrorKind, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result};
use bodycam_record::TenantKey;
use bodycam_record::shown::shown_lines;
use bodycam_verify::{Files, Options, Pool, Progress, Report, Trust};

use crate::cli::LakeArg;
use crate::config::LakeConfig;
use crate::speak::to_stderr;

mod directory;
mod objects;

use directory::Directory;
use objects::Objects;

/// Runs the verification and prints the report.
pub fn run(json: bool, as_of: Option<String>, trust: Option<PathBuf>, lake: &LakeArg) -> Result<ExitCode> {
    match verdict(as_of.as_deref(), trust.as_deref(), lake) {
        Ok(report) => {
            let text = if json { serde_json::to_string_pretty(&report)? + "\n" } else { report.to_text() };
            match std::io::stdout().lock().write_all(text.as_bytes()) {
                // A reader that has seen enough changes nothing about the verdict.
                Err(error) if error.kind() != ErrorKind::BrokenPipe => could_not_run(&error.into()),
                _ => Ok(ExitCode::from(report.exit_code)),
            }
        }
        Err(error) => could_not_run(&error),
    }
}

/// 1 = could not run; every other failure of the binary is 2, which here means tampered.
fn could_not_run(error: &anyhow::Error) -> Result<ExitCode> {
    let error = shown_lines(&format!("{error:#}"));
    to_stderr(format_args!("bodycam verify: could not run: {error}\n"));
    Ok(ExitCode::from(1))
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
    check(&at.lake, at.tenant_key, as_of_ns, trust)
}

/// Verifies a lake.
pub fn check(
    lake: &LakeConfig,
    tenant_key: Option<TenantKey>,
    as_of_ns: Option<i64>,
    trust: Option<Trust>,
) -> Result<Report> {
    let options = Options { as_of_ns, trust, tenant_key, ..Options::default() };
    let terminal = std::io::stderr().is_terminal();
    let checked = |files: &dyn Files, threads| {
        bodycam_verify::run(files, &options, &threads, &|p| progress(terminal, p))
    };
    let report = match lake.url.split_once("://") {
        None | Some(("file", _)) => checked(&Directory::open(&lake.url)?, Threads::for_computing()),
        Some(_) => {
            let objects = Objects::open(lake)?;
            let report = checked(&objects, Threads(REQUESTS));
            objects.answered()?;
            report
        }
    };
    if terminal {
        to_stderr(format_args!("\r\x1b[K"));
    }
    Ok(report)
}

fn progress(terminal: bool, p: Progress) {
    if terminal && p.files.is_multiple_of(8) {
        to_stderr(format_args!(
            "\rchecked {} of {} files, {} of {} MiB\x1b[K",
            p.files,
            p.files_total,
            p.bytes >> 20,
            p.bytes_total >> 20
        ));
    }
}

/// Largest object that is read: each is held in memory as a whole.
const MAX_OBJECT: u64 = 4 << 30;
/// Objects that are asked for at once where each answer takes a while. Each is held in memory.
const REQUESTS: usize = 6;

/// So many threads.
struct Threads(usize);

impl Threads {
    /// One a core, as long as it is the processor that takes the time.
    fn for_computing() -> Self {
        Self(std::thread::available_parallelism().map_or(1, usize::from))
    }
}

impl Pool for Threads {
    fn each(&self, n: usize, work: &(dyn Fn(usize) + Sync)) {
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..self.0.clamp(1, n.max(1)) {
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
