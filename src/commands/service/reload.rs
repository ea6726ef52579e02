//! Follows the configuration file while the gateway runs: who may come in changes without a restart.
//!
//! The whole file is read and checked again when it has changed and then stayed the same for a look, or at once
//! on SIGHUP. `[[principals]]` come into force in one step, other sections at the next start, which is logged.
//! Invariant: a file that is not usable as a whole changes nothing.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use bodycam_proxy::identity::{Directory, Roster};
use bodycam_proxy::recording::Producer;
use bodycam_record::shown;

use super::policy_digest;
use crate::config::Config;

/// Time between two looks at the file.
const LOOK: Duration = Duration::from_secs(2);

/// The thread that follows the file; it ends when this is dropped.
pub struct Reload {
    wake: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

struct Follower {
    path: PathBuf,
    /// What is in force, but for the sections that wait for a restart.
    running: Config,
    directory: Directory,
    producer: Producer,
    /// The file as it was last read, and as it was at the last look.
    read: Option<Stamp>,
    looked: Option<Stamp>,
}

/// What tells one content of a file from another without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    length: u64,
    modified: (i64, i64),
}

impl Reload {
    /// Follows the file at `path`, of which `running` was read.
    pub fn start(path: &Path, running: Config, directory: Directory, producer: Producer) -> Result<Self> {
        let stamp = Stamp::of(path);
        let path = path.to_owned();
        let mut follower = Follower { path, running, directory, producer, read: stamp, looked: stamp };
        let (wake, woken) = channel();
        let thread = std::thread::Builder::new()
            .name("reload".to_owned())
            .spawn(move || {
                loop {
                    match woken.recv_timeout(LOOK) {
                        Ok(()) => follower.read(),
                        Err(RecvTimeoutError::Timeout) => follower.look(),
                        Err(RecvTimeoutError::Disconnected) => return,
                    }
                }
            })
            .context("cannot start the thread that follows the configuration")?;
        Ok(Self { wake: Some(wake), thread: Some(thread) })
    }

    /// Reads the file now, changed or not.
    pub fn now(&self) {
        if let Some(wake) = &self.wake {
            // A thread that has ended has logged why.
            let _ = wake.send(());
        }
    }
}

impl Drop for Reload {
    fn drop(&mut self) {
        self.wake = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Follower {
    /// Reads the file if it has changed, and not since the last look: a file that is being written may be
    /// valid half way, with half of the principals.
    fn look(&mut self) {
        let now = Stamp::of(&self.path);
        let settled = now == std::mem::replace(&mut self.looked, now);
        if settled && now != self.read {
            self.read();
        }
    }

    fn read(&mut self) {
        self.read = Stamp::of(&self.path);
        let path = shown(&self.path.display().to_string());
        match self.apply() {
            Ok(Applied { principals, waiting }) => {
                if principals {
                    let count = self.running.principals.len();
                    tracing::info!(
                        event = "config.principals",
                        path,
                        count,
                        "the principals in the file are in force"
                    );
                }
                if !waiting.is_empty() {
                    tracing::warn!(
                        event = "config.restart",
                        path,
                        sections = waiting.join(", "),
                        "changed sections wait for a restart"
                    );
                }
            }
            Err(error) => {
                let error = shown(&format!("{error:#}"));
                tracing::error!(
                    event = "config.refused",
                    path,
                    error,
                    "nothing of the file is used; what was in force stays"
                );
            }
        }
    }

    fn apply(&mut self) -> Result<Applied> {
        let next = Config::load_again(&self.path)?;
        let mut waiting = changed(&self.running, &next)?;
        let before = waiting.len();
        waiting.retain(|section| section != "principals");
        let principals = waiting.len() < before;
        if principals {
            let roster = Roster::new(&next.principals)?;
            self.running.principals = next.principals;
            self.directory.set_roster(roster);
            self.producer.set_policy_digest(policy_digest(&self.running)?);
        }
        Ok(Applied { principals, waiting })
    }
}

/// What a new file has changed.
struct Applied {
    principals: bool,
    waiting: Vec<String>,
}

/// The sections in which two configurations differ.
fn changed(before: &Config, after: &Config) -> Result<Vec<String>> {
    let (before, after) = (toml::Table::try_from(before)?, toml::Table::try_from(after)?);
    let mut names: Vec<&String> = before.keys().chain(after.keys()).collect();
    names.sort();
    names.dedup();
    Ok(names.into_iter().filter(|name| before.get(*name) != after.get(*name)).cloned().collect())
}

impl Stamp {
    /// None while there is no file.
    fn of(path: &Path) -> Option<Self> {
        let metadata = std::fs::metadata(path).ok()?;
        let modified = (metadata.mtime(), metadata.mtime_nsec());
        Some(Self { inode: metadata.ino(), length: metadata.len(), modified })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changed_sections_are_named() {
        let text = "[http]\nlisten = \"127.0.0.1:3128\"\n[[principals]]\nname = \"ada\"\nkind = \"person\"\negress = [\"a.example.com\"]\n";
        let parse = |text: &str| toml::from_str::<Config>(text).unwrap();
        let before = parse(text);
        for (from, to, want) in [
            ("ada", "ada", &[][..]),
            ("person\"", "person\"\ndisabled = true", &["principals"]),
            ("3128", "3129", &["http"]),
            ("[http]", "[admin]\nlisten = \"127.0.0.1:1\"\n[http]\nidle_seconds = 5", &["admin", "http"]),
        ] {
            assert_eq!(changed(&before, &parse(&text.replace(from, to))).unwrap(), want, "{to}");
        }
    }
}
