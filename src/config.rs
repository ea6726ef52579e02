//! `bodycam.toml`: each crate owns its section, this module only joins them, and checks what no section can see
//! alone. A setting that would do nothing is refused.

use std::ffi::OsString;
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use serde::de::DeserializeOwned;

mod lake;
#[cfg(not(feature = "gateway"))]
mod reading;
#[cfg(feature = "analyzer")]
mod reference;
#[cfg(feature = "gateway")]
mod serving;

#[cfg(feature = "reader")]
pub use bodycam_replay_tui::config::ReplayConfig;
pub use lake::LakeConfig;
#[cfg(not(feature = "gateway"))]
pub use reading::Config;
#[cfg(feature = "analyzer")]
pub use reference::reference;
#[cfg(feature = "gateway")]
pub use serving::Config;

/// Environment variables that override settings: `BODYCAM__SECTION__SETTING=value`.
const ENV_PREFIX: &str = "BODYCAM__";

/// A `file:` reference whose relative path lies below `base`.
fn rebased_reference(reference: &str, base: &Path) -> String {
    match reference.strip_prefix("file:") {
        Some(path) => format!("file:{}", base.join(path).display()),
        None => reference.to_owned(),
    }
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path)
        .with_context(|| format!("cannot read the configuration {}; name it with --config", path.display()))
}

/// `text` with the `BODYCAM__…` variables of `env` applied.
fn parse<C: DeserializeOwned>(text: &str, env: impl Iterator<Item = (OsString, OsString)>) -> Result<C> {
    let mut overrides = Vec::new();
    for (name, value) in env {
        // Others may hold any bytes.
        let Some(name) = name.to_str().filter(|name| name.starts_with(ENV_PREFIX)) else { continue };
        let value = value.into_string().map_err(|_| anyhow!("environment variable {name}: not UTF-8"))?;
        overrides.push((name.to_owned(), value));
    }
    if overrides.is_empty() {
        // Errors then have line and column.
        return Ok(toml::from_str(text)?);
    }
    let mut table: toml::Table = toml::from_str(text)?;
    overrides.sort();
    for (name, value) in overrides {
        apply(&mut table, &name, &value)?;
    }
    Ok(table.try_into()?)
}

/// Applies one `BODYCAM__SECTION__SETTING=value`; the value is TOML where it parses as such, else text.
fn apply(table: &mut toml::Table, name: &str, value: &str) -> Result<()> {
    let path: Vec<String> = name.trim_start_matches(ENV_PREFIX).split("__").map(str::to_lowercase).collect();
    let parsed = toml::from_str::<toml::Table>(&format!("value = {value}"))
        .ok()
        .and_then(|mut t| t.remove("value"))
        .unwrap_or_else(|| toml::Value::String(value.to_owned()));
    let Some((last, sections)) = path.split_last() else { return Ok(()) };
    let mut at = table;
    for section in sections {
        at = at
            .entry(section.clone())
            .or_insert_with(|| toml::Value::Table(toml::Table::new()))
            .as_table_mut()
            .with_context(|| format!("environment variable {name}: '{section}' is not a section"))?;
    }
    at.insert(last.clone(), parsed);
    Ok(())
}
