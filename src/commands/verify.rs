//! `bodycam verify`: brings the bytes and the threads; the verdict is `bodycam_verify`'s.

use std::io::{ErrorKind, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result};
use bodycam_record::TenantKey;
use bodycam_record::shown::shown_lines;
use bodycam_verify::{Files, Options, Pool, Progress, Report, Trust};
use bytes::Bytes;

use crate::cli::LakeArg;
use crate::speak::to_stderr;

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

/// A lake in a directory.
struct Directory(PathBuf);

impl Directory {
    fn open(url: &str) -> Result<Self> {
        let path = PathBuf::from(url.strip_prefix("file://").unwrap_or(url));
        let path = path.canonicalize().with_context(|| format!("cannot open the lake {}", path.display()))?;
        anyhow::ensure!(path.is_dir(), "the lake {} is not a directory", path.display());
        Ok(Self(path))
    }

    /// Paths come from commits that anyone may have written, and so may symbolic links: nothing outside the lake
    /// is read. None when there is no such object.
    fn inside(&self, path: &str) -> std::io::Result<Option<PathBuf>> {
        let plain = path.split('/').all(|part| !matches!(part, "" | "." | "..")) && !path.contains('\0');
        if !plain {
            return Err(std::io::Error::other("not a path inside the lake"));
        }
        match self.0.join(path).canonicalize() {
            Ok(real) if real.starts_with(&self.0) => Ok(Some(real)),
            Ok(_) => Err(std::io::Error::other("a symbolic link leads out of the lake")),
            // A file where a folder should be: what should lie in that folder is missing.
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn object(&self, path: &str, limit: u64) -> std::io::Result<Option<Bytes>> {
        let Some(path) = self.inside(path)? else { return Ok(None) };
        // Before it is opened: opening a pipe would wait for its writer.
        let length = match path.metadata()? {
            metadata if metadata.is_file() => metadata.len(),
            _ => return Err(std::io::Error::other("not a regular file")),
        };
        let wanted = length.min(limit.saturating_add(1));
        if wanted > MAX_OBJECT {
            return Err(std::io::Error::other(format!(
                "{wanted} bytes are more than can be checked at once"
            )));
        }
        let mut bytes = Vec::with_capacity(usize::try_from(wanted).unwrap_or(0));
        std::fs::File::open(path)?.take(wanted).read_to_end(&mut bytes)?;
        Ok(Some(bytes.into()))
    }

    fn list_below(&self, folder: &str) -> std::io::Result<Vec<String>> {
        let mut found = Vec::new();
        if let Some(folder) = self.inside(folder.trim_end_matches('/'))?.filter(|folder| folder.is_dir()) {
            self.list_into(&folder, &mut found)?;
        }
        Ok(found)
    }

    /// Adds the objects below `folder`. Links are not followed, so that it ends.
    fn list_into(&self, folder: &Path, found: &mut Vec<String>) -> std::io::Result<()> {
        let entries = match std::fs::read_dir(folder) {
            Ok(entries) => entries,
            // A writer has taken it away since it was seen.
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(self.in_folder(folder, &error)),
        };
        for entry in entries {
            let entry = entry.map_err(|error| self.in_folder(folder, &error))?;
            let path = entry.path();
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => self.list_into(&path, found)?,
                Ok(_) => {
                    let name = path.strip_prefix(&self.0).ok().and_then(Path::to_str);
                    found.extend(name.map(str::to_owned));
                }
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(self.in_folder(&path, &error)),
            }
        }
        Ok(())
    }

    /// The error, with the folder in which it came.
    fn in_folder(&self, folder: &Path, error: &std::io::Error) -> std::io::Error {
        let name = folder.strip_prefix(&self.0).unwrap_or(folder);
        std::io::Error::other(format!("{}: {error}", name.display()))
    }
}

impl Files for Directory {
    fn read(&self, path: &str, limit: u64) -> Result<Option<Bytes>, String> {
        self.object(path, limit).map_err(|e| e.to_string())
    }

    fn list(&self, folder: &str) -> Result<Option<Vec<String>>, String> {
        self.list_below(folder).map(Some).map_err(|e| e.to_string())
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
