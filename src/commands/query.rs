//! `bodycam query`.

use std::fs::Permissions;
use std::io::{BufWriter, IsTerminal, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bodycam_analyzer::query::{self, Format, QueryOptions};
use bodycam_record::shown;
use tempfile::NamedTempFile;

use crate::cli::{LakeArg, QueryFormat};
use crate::speak::to_stderr;

/// Symbolic links that are followed one after the other, as Linux does.
const MAX_LINKS: usize = 40;

/// Asks the lake.
pub fn run(
    sql: &str,
    format: QueryFormat,
    output: Option<PathBuf>,
    timeout: u64,
    memory: u64,
    cluster: Option<&str>,
    lake: &LakeArg,
) -> Result<ExitCode> {
    let at = super::lake_at(lake)?;
    let elsewhere = super::cluster::elsewhere(cluster, at.config.as_ref())?;
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
        memory_bytes: usize::try_from(memory.saturating_mul(1 << 20)).unwrap_or(usize::MAX),
        tenant: at.tenant_key,
        elsewhere,
    };
    let store = at.lake.reach()?;
    if let (Some(path), Some(lake)) = (&output, store.directory()) {
        keep_out_of(lake, path)?;
    }
    let terminal = std::io::stderr().is_terminal();
    let (mut out, whole) = match &output {
        Some(path) => written_to(path)
            .with_context(|| format!("cannot write {}", shown(&path.display().to_string())))?,
        None => (Box::new(BufWriter::new(std::io::stdout())) as Box<dyn Write + Send>, None),
    };
    let outcome = super::runtime()?.block_on(query::run(&store, &options, &mut *out, &mut |p| {
        if terminal {
            let (read, total, s) = (p.rows_read, p.rows_total, p.elapsed.as_secs());
            to_stderr(format_args!("\r{read} of {total} rows read, {s} s\x1b[K"));
        }
    }));
    if terminal {
        to_stderr(format_args!("\r\x1b[K"));
    }
    let written = outcome.map_err(anyhow::Error::from).and_then(|outcome| {
        out.flush()?;
        if let Some((partial, to)) = whole {
            let to_text = shown(&to.display().to_string());
            partial.persist(&to).with_context(|| format!("cannot write {to_text}"))?;
        }
        Ok(outcome)
    });
    let outcome = written?;
    if terminal {
        let (rows, s) = (outcome.rows, outcome.elapsed.as_secs_f64());
        to_stderr(format_args!("{rows} rows in {s:.2} s\n"));
    }
    Ok(ExitCode::SUCCESS)
}

/// Refuses a result in the lake itself: there is only what commits name.
fn keep_out_of(lake: &Path, path: &Path) -> Result<()> {
    let name = || shown(&path.display().to_string());
    let to = followed(path).with_context(|| format!("cannot write {}", name()))?;
    // Of a path that is not there the part that is says where it would lie.
    let there = to.ancestors().map(|part| if part.as_os_str().is_empty() { Path::new(".") } else { part });
    let real = there.filter_map(|part| part.canonicalize().ok()).next();
    if real.is_some_and(|real| real.starts_with(lake)) {
        bail!("{} lies in the lake itself: name a file outside it with --output", name());
    }
    Ok(())
}

/// Where a result goes, and, when it is a plain file, what becomes that file once the result is whole.
type Sink = (Box<dyn Write + Send>, Option<(NamedTempFile, PathBuf)>);

/// Opens `path` for a result. A file appears whole or not at all, under the name that a link leads to, and with the
/// rights of the one that was there; what is no plain file (a pipe, a device) is written as it comes.
fn written_to(path: &Path) -> std::io::Result<Sink> {
    if path.exists() && !path.is_file() {
        return Ok((Box::new(BufWriter::new(std::fs::File::create(path)?)), None));
    }
    let path = followed(path)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let known = path.metadata().ok().map(|file| file.permissions());
    // The umask takes its part away, as from any new file.
    let rights = known.clone().unwrap_or(Permissions::from_mode(0o666));
    let mut builder = tempfile::Builder::new();
    // A name that nobody has: another file, or another query that writes there, stays as it is.
    let partial = builder.prefix(".bodycam-").suffix(".partial").permissions(rights).tempfile_in(folder)?;
    if let Some(rights) = known {
        partial.as_file().set_permissions(rights)?;
    }
    let out = BufWriter::new(partial.as_file().try_clone()?);
    Ok((Box::new(out), Some((partial, path))))
}

/// The path that symbolic links at `path` lead to, whether or not something is there.
fn followed(path: &Path) -> std::io::Result<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..MAX_LINKS {
        match path.read_link() {
            Ok(target) => path = path.parent().unwrap_or(Path::new("")).join(target),
            // No link, or nothing at all.
            Err(_) => return Ok(path),
        }
    }
    Err(std::io::Error::other("too many symbolic links"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn write(path: &Path, text: &str) {
        let (mut out, whole) = written_to(path).unwrap();
        out.write_all(text.as_bytes()).unwrap();
        out.flush().unwrap();
        let (partial, to) = whole.unwrap();
        partial.persist(to).unwrap();
    }

    #[test]
    fn a_result_does_not_go_into_the_lake() {
        let dir = tempfile::tempdir().unwrap();
        let lake = dir.path().canonicalize().unwrap().join("lake");
        fs::create_dir_all(lake.join("tables")).unwrap();
        symlink("lake/tables/x.parquet", dir.path().join("link")).unwrap();
        for inside in ["lake/x.csv", "lake/tables/x.csv", "lake/new/x.csv", "lake/../lake/x.csv", "link"] {
            let said = keep_out_of(&lake, &dir.path().join(inside)).unwrap_err().to_string();
            assert!(said.contains("lies in the lake itself"), "{said}");
        }
        for outside in ["x.csv", "lake.csv", "lake/../x.csv", "new/x.csv"] {
            keep_out_of(&lake, &dir.path().join(outside)).unwrap();
        }
    }

    #[test]
    fn a_result_takes_the_place_of_its_file_and_of_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("out.csv.partial"), "mine").unwrap();
        fs::create_dir(at("elsewhere")).unwrap();
        fs::write(at("elsewhere/real.csv"), "old").unwrap();
        fs::set_permissions(at("elsewhere/real.csv"), Permissions::from_mode(0o666)).unwrap();
        symlink("elsewhere/real.csv", at("link.csv")).unwrap();
        symlink("link.csv", at("second.csv")).unwrap();
        symlink("elsewhere/new.csv", at("dangling.csv")).unwrap();
        for (name, lands_in) in [
            ("out.csv", "out.csv"),
            ("second.csv", "elsewhere/real.csv"),
            ("dangling.csv", "elsewhere/new.csv"),
        ] {
            write(&at(name), name);
            assert_eq!(fs::read_to_string(at(lands_in)).unwrap(), name);
        }
        assert_eq!(fs::read_to_string(at("out.csv.partial")).unwrap(), "mine");
        for link in ["link.csv", "second.csv", "dangling.csv"] {
            assert!(at(link).symlink_metadata().unwrap().is_symlink(), "{link} stays a link");
        }
        let mode = at("elsewhere/real.csv").metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o666, "as it was, whatever the umask is");
        // What is not finished leaves what was there, and nothing beside it.
        drop(written_to(&at("out.csv")).unwrap());
        assert_eq!(fs::read_to_string(at("out.csv")).unwrap(), "out.csv");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 6);
        symlink("loop.csv", at("loop.csv")).unwrap();
        assert!(written_to(&at("loop.csv")).is_err());
    }
}
