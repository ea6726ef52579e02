//! `bodycam replay`, in the terminal or as text, and the lists: `sessions`, `events`, `findings`, `keys`.

use std::io::BufWriter;
use std::process::ExitCode;

use anyhow::{Result, bail};
use bodycam_replay_tui::text::{
    self, EventsOptions, Format, ListOptions, Outcome, ReplayFormat as TextFormat, ReplayText,
};
use bodycam_replay_tui::{Ended, LakeSource, ReplayError, ReplayOptions, no_terminal_hint};

use super::{LakeAt, lake_at, now_ns};
use crate::cli::{Events, Findings, LakeArg, ListFormat, ReplayFormat, Sessions};
use crate::config::ReplayConfig;

/// What of a session is shown.
pub struct Part {
    pub at: Option<String>,
    pub to: Option<String>,
    /// Rows of each result.
    pub rows: u32,
}

/// Opens the replay in the terminal, or prints a session with `format`.
pub fn replay(
    session: Option<String>,
    format: Option<ReplayFormat>,
    part: Part,
    lake: &LakeArg,
) -> Result<ExitCode> {
    match (format, session) {
        (Some(format), Some(session)) => as_text(session, format, part, lake),
        (Some(_), None) => bail!("name the session to print; `bodycam sessions ls` lists them"),
        (None, session) => in_terminal(session.as_deref(), part.at, lake),
    }
}

fn in_terminal(session: Option<&str>, at: Option<String>, lake: &LakeArg) -> Result<ExitCode> {
    open(session, at, lake_at(lake)?)
}

/// Opens the replay in this terminal.
pub fn open(session: Option<&str>, at: Option<String>, lake: LakeAt) -> Result<ExitCode> {
    let LakeAt { lake, tenant_key, config } = lake;
    let store = lake.reach()?;
    let session = match session {
        None => None,
        Some(text) => {
            Some(text::find(&LakeSource::of(store.clone(), tenant_key.clone())?, text)?.row.session_id)
        }
    };
    let config = config.map(|c| c.replay).unwrap_or_default();
    let options = ReplayOptions { tenant_key, session, at, config, ..ReplayOptions::of(store) };
    match bodycam_replay_tui::run(options)? {
        Ended::Left => Ok(ExitCode::SUCCESS),
        Ended::NoTerminal => bail!("{}", no_terminal_hint(session)),
    }
}

/// Prints the keys of the replay.
pub fn keys(format: ListFormat) -> Result<ExitCode> {
    text::keys(list_format(format), &mut std::io::stdout().lock())?;
    Ok(ExitCode::SUCCESS)
}

fn as_text(
    session: String,
    format: ReplayFormat,
    Part { at, to, rows }: Part,
    lake: &LakeArg,
) -> Result<ExitCode> {
    let rows = usize::try_from(rows).unwrap_or(usize::MAX);
    let format = match format {
        ReplayFormat::Text => TextFormat::Text,
        ReplayFormat::Jsonl => TextFormat::Jsonl,
    };
    let options = ReplayText { session, at, to, format, rows, ascii: is_ascii() };
    print(lake, |source, _, out| text::replay(source, &options, out))
}

/// Lists and shows sessions.
pub fn sessions(command: Sessions) -> Result<ExitCode> {
    match command {
        Sessions::Ls { filter, format, limit, lake } => print(&lake, |source, config, out| {
            text::sessions(source, &list(filter, limit, format, config), out)
        }),
        Sessions::Show { session, format, lake } => {
            print(&lake, |source, _, out| text::show(source, &session, list_format(format), out))
        }
    }
}

/// Lists and searches events.
pub fn events(command: Events) -> Result<ExitCode> {
    match command {
        Events::Ls { session, filter, format, limit, lake } => print(&lake, |source, config, out| {
            let list = list(filter, limit, format, config);
            text::events(
                source,
                &EventsOptions { list, session: Some(session), ..EventsOptions::default() },
                out,
            )
        }),
        Events::Grep { pattern, regex, filter, session, format, limit, lake } => {
            print(&lake, |source, config, out| {
                let list = list(filter, limit, format, config);
                text::events(source, &EventsOptions { list, session, pattern: Some(pattern), regex }, out)
            })
        }
    }
}

/// Lists findings.
pub fn findings(command: Findings) -> Result<ExitCode> {
    let Findings::Ls { filter, format, limit, lake } = command;
    print(&lake, |source, config, out| text::findings(source, &list(filter, limit, format, config), out))
}

fn list(filter: Option<String>, limit: usize, format: ListFormat, config: &ReplayConfig) -> ListOptions {
    ListOptions {
        filter: filter.unwrap_or_default(),
        saved: config.filters.clone(),
        limit,
        format: list_format(format),
        now_ns: now_ns(),
    }
}

fn list_format(format: ListFormat) -> Format {
    match format {
        ListFormat::Table => Format::Table,
        ListFormat::Json => Format::Json,
        ListFormat::Jsonl => Format::Jsonl,
        ListFormat::Csv => Format::Csv,
    }
}

/// Opens the lake, prints, and gives the exit code: 0 something, 1 nothing, 2 failed.
fn print(
    lake: &LakeArg,
    run: impl FnOnce(&LakeSource, &ReplayConfig, &mut dyn std::io::Write) -> Result<Outcome, ReplayError>,
) -> Result<ExitCode> {
    let at = lake_at(lake)?;
    let source = LakeSource::of(at.lake.reach()?, at.tenant_key)?;
    let config = at.config.map(|c| c.replay).unwrap_or_default();
    let mut out = BufWriter::new(std::io::stdout().lock());
    let result = run(&source, &config, &mut out).and_then(|outcome| {
        std::io::Write::flush(&mut out)?;
        Ok(outcome)
    });
    let code = text::exit_code(&result);
    match result {
        Err(error) if code == 2 => Err(error.into()),
        _ => Ok(ExitCode::from(code)),
    }
}

/// Whether the terminal wants nothing but ASCII.
fn is_ascii() -> bool {
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"]
        .iter()
        .find_map(|name| std::env::var(name).ok().filter(|v| !v.is_empty()));
    locale.is_some_and(|l| !l.to_ascii_lowercase().replace('-', "").contains("utf8"))
}
