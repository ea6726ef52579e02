//! What the commands say to people. A terminal, a pipe or a disk that takes no more text must neither end a command
//! nor change its exit code: nothing here panics, and `println!` and its kin, which do, are refused by lint.

use std::fmt::Arguments;
use std::io::Write;

/// Writes to standard error; when that fails, nobody is left to be told.
pub fn to_stderr(text: Arguments<'_>) {
    let _ = std::io::stderr().write_fmt(text);
}

/// Writes what a command was asked for to standard output. The caller passes an error on: a broken pipe is success.
#[cfg(feature = "gateway")]
pub fn to_stdout(text: Arguments<'_>) -> std::io::Result<()> {
    let mut out = std::io::stdout();
    out.write_fmt(text)?;
    out.flush()
}

/// As `to_stdout`, for what goes on whether or not anyone reads along.
#[cfg(feature = "analyzer")]
pub fn along(text: Arguments<'_>) {
    let _ = to_stdout(text);
}
