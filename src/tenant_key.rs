//! The tenant key: where it lies, and how it is made.

use std::fs;

use anyhow::{Context, Result};
use bodycam_record::TenantKey;
use bodycam_record::ids::from_hex;

use crate::reference;

/// The tenant key that `reference` names: `file:PATH` or `env:NAME`, 64 hex digits. With `create`, a missing
/// file is made (mode 0600).
pub fn load(reference: &str, create: bool) -> Result<TenantKey> {
    if create
        && let Some(path) = reference.strip_prefix("file:")
        && !fs::exists(path).with_context(|| format!("tenant key: cannot read {path}"))?
    {
        return made(path);
    }
    let text = reference::read(reference).context("tenant key")?;
    from_hex(&text).map(TenantKey::new).context("tenant key: want 64 hex digits")
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
    anyhow::bail!("tenant key: {path} does not exist")
}
