//! `bodycam`: parse, dispatch, print the error. Nothing else.

#[cfg(not(any(feature = "gateway", feature = "reader")))]
compile_error!("choose at least one of the features `gateway` and `reader`");

mod cli;
mod commands;
mod config;
#[cfg(feature = "analyzer")]
mod demo;
mod tenant_key;

use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = match <cli::Cli as clap::Parser>::try_parse() {
        Ok(cli) => cli,
        Err(error) => return refused(&error),
    };
    match commands::run(cli) {
        Ok(code) => code,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bodycam: {}", bodycam_record::shown::shown_lines(&told(&error)));
            ExitCode::from(2)
        }
    }
}

/// Help and version end well, a wrong command line with 2; but 2 from `verify` means that the record was altered.
fn refused(error: &clap::Error) -> ExitCode {
    // Nothing is left to do when even this cannot be written.
    let _ = error.print();
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
