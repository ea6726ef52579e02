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
    let cli = <cli::Cli as clap::Parser>::parse();
    match commands::run(cli) {
        Ok(code) => code,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bodycam: {}", bodycam_record::shown(&format!("{error:#}")));
            ExitCode::from(2)
        }
    }
}

/// A reader that has seen enough (`| head`) is no failure.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
    })
}
