//! `bodycam query`.

use std::io::{BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bodycam_analyzer::query::{self, Format, QueryOptions};
use bodycam_lake::Store;

use crate::cli::{LakeArg, QueryFormat};

/// Asks the lake.
pub fn run(
    sql: &str,
    format: QueryFormat,
    output: Option<PathBuf>,
    timeout: u64,
    memory: usize,
    lake: &LakeArg,
) -> Result<ExitCode> {
    let at = super::lake_at(lake)?;
    let format = match format {
        QueryFormat::Table => Format::Table,
        QueryFormat::Csv => Format::Csv,
        QueryFormat::Json => Format::Json,
        QueryFormat::Parquet => Format::Parquet,
    };
    if format == Format::Parquet && output.is_none() && std::io::stdout().is_terminal() {
        bail!("parquet is no text: name a file with --output");
    }
    let options = QueryOptions {
        sql: sql.to_owned(),
        format,
        timeout: Duration::from_secs(timeout),
        memory_bytes: memory.saturating_mul(1 << 20),
        tenant: at.tenant_key,
    };
    let store = Store::open(&at.url)?;
    let terminal = std::io::stderr().is_terminal();
    // A file appears whole or not at all; what is no plain file (a pipe, a device) is written as it comes.
    let whole = output.as_ref().filter(|path| path.is_file() || !path.exists()).map(|path| partial(path));
    let mut out: Box<dyn Write + Send> = match whole.as_ref().or(output.as_ref()) {
        Some(path) => {
            let file =
                std::fs::File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
            Box::new(BufWriter::new(file))
        }
        None => Box::new(BufWriter::new(std::io::stdout())),
    };
    let outcome = super::runtime()?.block_on(query::run(&store, &options, &mut *out, &mut |p| {
        if terminal {
            eprint!("\r{} of {} rows read, {} s\x1b[K", p.rows_read, p.rows_total, p.elapsed.as_secs());
        }
    }));
    if terminal {
        eprint!("\r\x1b[K");
    }
    let written = outcome.map_err(anyhow::Error::from).and_then(|outcome| {
        out.flush()?;
        if let (Some(from), Some(to)) = (&whole, &output) {
            std::fs::rename(from, to).with_context(|| format!("cannot write {}", to.display()))?;
        }
        Ok(outcome)
    });
    if let (Err(_), Some(partial)) = (&written, &whole) {
        let _ = std::fs::remove_file(partial);
    }
    let outcome = written?;
    if terminal {
        eprintln!("{} rows in {:.2} s", outcome.rows, outcome.elapsed.as_secs_f64());
    }
    Ok(ExitCode::SUCCESS)
}

/// Where a result is written until it is whole.
fn partial(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".partial");
    path.with_file_name(name)
}
