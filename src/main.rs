//! `bodycam`: parse, dispatch, print the error. Nothing else.

#![deny(clippy::print_stdout, clippy::print_stderr)]

#[cfg(not(any(feature = "gateway", feature = "reader")))]
compile_error!("choose at least one of the features `gateway` and `reader`");

mod cli;
mod commands;
mod config;
#[cfg(feature = "analyzer")]
mod demo;
mod reference;
mod speak;
mod tenant_key;

use std::io::Write;
use std::process::ExitCode;

use bodycam_record::shown::{is_hostile, shown_lines};
use clap::builder::styling::Styles;
use clap::{CommandFactory, FromArgMatches, Parser};

fn main() -> ExitCode {
    let is_safe = is_safe();
    let cli = match parse(is_safe) {
        Ok(cli) => cli,
        Err(error) => return refused(&error, is_safe),
    };
    match commands::run(cli) {
        Ok(code) => code,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            speak::to_stderr(format_args!("bodycam: {}\n", shown_lines(&told(&error))));
            ExitCode::from(2)
        }
    }
}

/// Whether nothing that clap repeats (arguments, and environment variables that stand for them) does anything to a
/// terminal.
fn is_safe() -> bool {
    let is_safe = |text: &std::ffi::OsStr| text.to_str().is_some_and(|text| !text.chars().any(is_hostile));
    let ours = std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("BODYCAM"));
    std::env::args_os().all(|argument| is_safe(&argument))
        && ours.into_iter().all(|(_, value)| is_safe(&value))
}

/// Parses the command line. Unless it is safe, what clap says of it has no colours: then every escape in it came from
/// outside.
fn parse(is_safe: bool) -> Result<cli::Cli, clap::Error> {
    if is_safe {
        return cli::Cli::try_parse();
    }
    let matches = cli::Cli::command().styles(Styles::plain()).try_get_matches()?;
    cli::Cli::from_arg_matches(&matches)
}

/// Help and version end well, a wrong command line with 2; but 2 from `verify` means that the record was altered.
fn refused(error: &clap::Error, is_safe: bool) -> ExitCode {
    // Nothing is left to do when even this cannot be written.
    let _ = match (is_safe, error.use_stderr()) {
        (true, _) => error.print(),
        (false, true) => writeln!(std::io::stderr(), "{}", shown_lines(&error.render().ansi().to_string())),
        (false, false) => writeln!(std::io::stdout(), "{}", shown_lines(&error.render().ansi().to_string())),
    };
    match error.use_stderr() {
        false => ExitCode::SUCCESS,
        true if std::env::args_os().any(|a| a == "verify") => ExitCode::from(1),
        true => ExitCode::from(2),
    }
}

/// An error with its causes, each said once: some messages repeat theirs.
fn told(error: &anyhow::Error) -> String {
    error.chain().fold(String::new(), |mut text, cause| {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            text.push_str(if text.is_empty() { "" } else { ": " });
            text.push_str(&cause);
        }
        text
    })
}

/// A reader that has seen enough (`| head`) is no failure.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
    })
}
