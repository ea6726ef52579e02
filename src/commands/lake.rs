//! `bodycam lake …`: what is in the lake, and looking after it. Everything here may run beside recorders.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use bodycam_lake::{Store, Table};
use bodycam_record::shown::shown_json;
use bodycam_record::{EpochKey, shown};
use bodycam_recorder::compact::{Compactor, Job, Selection};
use bodycam_recorder::garbage::{Garbage, Removed};
use bodycam_recorder::{Metrics, RecorderConfig};
use serde_json::json;

use super::{moment, now_ns, runtime};
use crate::cli::{LakeAdminArg, LakeCommand};
use crate::config::{Config, LakeConfig};
use crate::speak::{to_stderr, to_stdout};

mod stat;

/// Looks, merges, removes.
pub fn run(command: LakeCommand) -> Result<ExitCode> {
    match command {
        LakeCommand::Stat { by, table, json, lake } => {
            let config = if lake.lake.is_some() && !lake.config.exists() { None } else { Some(load(&lake)?) };
            let store = place(&lake, config.as_ref()).reach()?;
            let table = table.as_deref().map(table_named).transpose()?;
            let recorder = config.map(|config| config.recorder).unwrap_or_default();
            let stat = runtime()?.block_on(stat::gather(&store, &recorder, table))?;
            match json {
                true => print(stat.to_json(by))?,
                false => to_stdout(format_args!("{}", stat.to_text(by)))?,
            }
        }
        LakeCommand::Compact { hour, table, dry_run, json, lake } => {
            let selection = Selection {
                table: table.as_deref().map(table_named).transpose()?,
                hour: hour.as_deref().map(hour_folder).transpose()?,
            };
            let owner = Owner::of(&lake)?;
            if !runtime()?.block_on(owner.compact(&selection, dry_run, json))? {
                return Ok(ExitCode::from(1));
            }
        }
        LakeCommand::Gc { older_than, remove, json, lake } => {
            let age = bodycam_proxy::identity::token::parse_ttl(&older_than).context("--older-than")?;
            let age = Duration::from_nanos(u64::try_from(age)?);
            let owner = Owner::of(&lake)?;
            runtime()?.block_on(owner.collect(age, remove, json))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Who may change a lake: the one who has the recorder's key.
struct Owner {
    store: Store,
    key: Arc<EpochKey>,
    config: RecorderConfig,
}

impl Owner {
    fn of(lake: &LakeAdminArg) -> Result<Self> {
        let config =
            load(lake).context("what changes a lake is signed with the recorder's key (recorder.key)")?;
        let path = &config.recorder.key;
        anyhow::ensure!(
            path.exists(),
            "there is no recorder's key at {}: a recorder makes it at its first start; run this with its \
             configuration",
            shown(&path.display().to_string())
        );
        let seed = bodycam_proxy::recording::load_or_create_key_file(path)?;
        let store = place(lake, Some(&config)).reach()?;
        Ok(Self { store, key: Arc::new(EpochKey::from_seed(&seed)), config: config.recorder })
    }

    /// Whether nothing had to be left alone.
    async fn compact(&self, selection: &Selection, dry_run: bool, json: bool) -> Result<bool> {
        let lake = bodycam_lake::Lake::open_by(self.store.clone(), &self.config.believed(&self.key)?).await?;
        lake.expect_recorded().await?;
        drop(lake);
        let mut compactor =
            Compactor::new(self.store.clone(), self.key.clone(), &self.config, Arc::new(Metrics::default()));
        if dry_run {
            let jobs = compactor.plan(selection).await?;
            if json {
                print(jobs.iter().map(job_json).collect())?;
                return Ok(true);
            }
            let text: String = jobs.iter().map(job_text).collect();
            let nothing = if jobs.is_empty() { "nothing to merge\n" } else { "" };
            to_stdout(format_args!("{text}{nothing}"))?;
            return Ok(true);
        }
        let done = compactor.compact_all(selection).await?;
        for (path, why) in compactor.left_alone() {
            to_stderr(format_args!("left alone: {}: {}\n", shown(path), shown(why)));
        }
        let whole = compactor.left_alone().next().is_none();
        if json {
            let left: Vec<_> =
                compactor.left_alone().map(|(path, why)| json!({"path": path, "why": why})).collect();
            let report = json!({
                "merges": done.commits, "files": done.files, "bytes": done.bytes, "left_alone": left,
            });
            print(report)?;
            return Ok(whole);
        }
        let (files, commits) = (done.files, done.commits);
        to_stdout(format_args!("{files} files ({}) became {commits}\n", bytes(done.bytes)))?;
        Ok(whole)
    }

    async fn collect(&self, age: Duration, remove: bool, json: bool) -> Result<()> {
        let grace = Duration::from_secs(self.config.compact_grace_seconds);
        let believed = self.config.believed(&self.key)?;
        let (garbage, mut lake) = Garbage::find(&self.store, Some(&believed), grace, age).await?;
        lake.expect_recorded().await?;
        let mut removed = Removed::default();
        let outcome = match remove {
            true => garbage.remove(&mut lake, &self.key, &mut removed).await,
            false => Ok(()),
        };
        // What is gone is said before why the rest is not.
        match json {
            true => print(json!({
                "removed": remove,
                "removed_files": removed.paths,
                "replaced": garbage.replaced.iter().map(stat::replaced_json).collect::<Vec<_>>(),
                "orphans": garbage.orphans.iter().map(stat::orphan_json).collect::<Vec<_>>(),
                "error": outcome.as_ref().err().map(ToString::to_string),
            }))?,
            false => to_stdout(format_args!("{}", collected(&garbage, remove.then_some(&removed))))?,
        }
        outcome.with_context(|| {
            format!(
                "not everything that is due was removed: {} files are gone, and listed; whether the one that failed is gone \
                 is not known. Run this again: it looks anew, and takes up where it ended",
                removed.paths.len()
            )
        })
    }
}

/// What was found, and what became of it if something was to be `removed`.
fn collected(garbage: &Garbage, removed: Option<&Removed>) -> String {
    let now = now_ns();
    let goes = |path: &str| match removed {
        None => "would remove",
        Some(removed) if removed.paths.contains(path) => "removed",
        Some(_) => "not removed",
    };
    let mut text = String::new();
    for file in &garbage.replaced {
        let (path, at) = (&file.tombstone.path, moment(file.tombstone.replaced_ns));
        match file.due_ns <= now {
            true => text += &format!("{}: {}: replaced at {at}\n", goes(path), shown(path)),
            false => {
                let until = moment(file.due_ns);
                text += &format!("kept: {}: replaced; readers may use it until {until}\n", shown(path));
            }
        }
    }
    for orphan in &garbage.orphans {
        let (path, old) = (&orphan.file.path, span(orphan.age));
        match &orphan.stays {
            None => {
                text += &format!("{}: {}: no commit names it, nor can; {old} old\n", goes(path), shown(path))
            }
            Some(why) => text += &format!("kept: {}: no commit names it, {old} old; {why}\n", shown(path)),
        }
    }
    text += &match removed {
        Some(removed) => format!("{} files removed\n", removed.paths.len()),
        None => "nothing was removed: that takes --remove\n".to_owned(),
    };
    text
}

/// JSON on standard output.
fn print(value: serde_json::Value) -> std::io::Result<()> {
    to_stdout(format_args!("{}\n", shown_json(&format!("{value:#}"))))
}

fn load(lake: &LakeAdminArg) -> Result<Config> {
    Config::load(&lake.config)
}

/// The lake that was named; what the configuration says of its service holds for the lake of the configuration alone.
fn place(lake: &LakeAdminArg, config: Option<&Config>) -> LakeConfig {
    let configured = config.map(|config| &config.lake);
    match (&lake.lake, configured) {
        (Some(url), Some(configured)) if configured.url == *url => configured.clone(),
        (Some(url), _) => LakeConfig::at(url),
        (None, configured) => configured.cloned().unwrap_or_default(),
    }
}

fn table_named(name: &str) -> Result<Table> {
    Table::named(name).with_context(|| {
        let known: Vec<_> = Table::ALL.iter().map(|table| table.name()).collect();
        format!("there is no table '{}'; there are {}", shown(name), known.join(", "))
    })
}

/// The end of the folder of an hour.
fn hour_folder(hour: &str) -> Result<String> {
    let start: jiff::Timestamp = format!("{hour}:00:00Z")
        .parse()
        .with_context(|| format!("--hour '{}': want an hour in UTC as 2026-11-21T10", shown(hour)))?;
    Ok(bodycam_lake::Hour::of_ns(i64::try_from(start.as_nanosecond())?).partition())
}

fn job_json(job: &Job) -> serde_json::Value {
    json!({
        "table": job.table.name(), "folder": job.folder, "files": job.inputs.len(), "bytes": job.bytes(),
        "rows": job.rows(), "why": job.why.text(),
    })
}

fn job_text(job: &Job) -> String {
    let (files, rows) = (job.inputs.len(), job.rows());
    format!("would merge {files} files ({}, {rows} rows) of {}\n", bytes(job.bytes()), shown(&job.folder))
}

/// A size for people.
fn bytes(n: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let (mut scaled, mut name) = (n as f64, "B");
    for unit in units {
        if scaled < 1024.0 {
            break;
        }
        (scaled, name) = (scaled / 1024.0, unit);
    }
    let digits = usize::from(name != "B" && scaled < 100.0);
    format!("{scaled:.digits$} {name}")
}

/// A time span for people.
fn span(age: Duration) -> String {
    match age.as_secs() {
        s @ 0..120 => format!("{s} s"),
        s @ 120..7_200 => format!("{} min", s / 60),
        s @ 7_200..172_800 => format!("{} h", s / 3600),
        s => format!("{} days", s / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_spans_are_short_and_hours_are_folders() {
        for (n, text) in
            [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (200 << 20, "200 MiB"), (u64::MAX, "16.0 EiB")]
        {
            assert_eq!(bytes(n), text);
        }
        for (s, text) in [(0, "0 s"), (119, "119 s"), (120, "2 min"), (7200, "2 h"), (200_000, "2 days")] {
            assert_eq!(span(Duration::from_secs(s)), text);
        }
        assert_eq!(hour_folder("2026-11-21T10").unwrap(), "dt=2026-11-21/hh=10");
        for bad in ["2026-11-21", "2026-11-21T10:30", "x", "2026-11-21T25"] {
            let message = hour_folder(bad).unwrap_err().to_string();
            assert!(message.contains(bad) && message.contains("2026-11-21T10"), "{message}");
        }
        let message = table_named("sqlx").unwrap_err().to_string();
        assert!(message.contains("sqlx") && message.contains("session, sql, http"), "{message}");
    }
}
