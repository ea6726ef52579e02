//! The tenant key: where it lies, and how it is made.

use std::fs;
use std::io::ErrorKind;

use anyhow::{Context, Result, bail};
use bodycam_record::TenantKey;
use bodycam_record::ids::from_hex;

/// The tenant key that `reference` names: `file:PATH` or `env:NAME`, 64 hex digits. With `create`, a missing
/// file is made (mode 0600).
pub fn load(reference: &str, create: bool) -> Result<TenantKey> {
    let text = match reference.split_once(':') {
        Some(("env", name)) => std::env::var(name).with_context(|| {
            format!("tenant key: the environment variable {name} must hold 64 hex digits")
        })?,
        Some(("file", path)) => match fs::read_to_string(path) {
            Ok(text) => text,
            Err(e) if e.kind() == ErrorKind::NotFound && create => return made(path),
            Err(e) => return Err(e).with_context(|| format!("tenant key: cannot read {path}")),
        },
        _ => bail!("tenant key '{}': want file:PATH or env:NAME", bodycam_record::shown(reference)),
    };
    from_hex(text.trim()).map(TenantKey::new).context("tenant key: want 64 hex digits")
}

/// Whether [`load`] can do with `reference`, where it makes a file that is missing. Nothing is made.
#[cfg(feature = "gateway")]
pub fn check(reference: &str) -> Result<()> {
    match reference.strip_prefix("file:").map(std::path::Path::new) {
        Some(path) if !path.exists() => Ok(bodycam_proxy::recording::check_key_file(path)?),
        _ => load(reference, false).map(drop),
    }
}

#[cfg(feature = "gateway")]
fn made(path: &str) -> Result<TenantKey> {
    Ok(TenantKey::new(*bodycam_proxy::recording::load_or_create_key_file(std::path::Path::new(path))?))
}

#[cfg(not(feature = "gateway"))]
fn made(path: &str) -> Result<TenantKey> {
    bail!("tenant key: {path} does not exist")
}
