//! The tenant key: where it lies, and how it is made.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;

use anyhow::{Context, Result, bail};
use bodycam_record::TenantKey;
use bodycam_record::ids::{from_hex, to_hex};

/// The tenant key that `reference` names: `file:PATH` or `env:NAME`, 64 hex digits. With `create`, a missing
/// file is made (mode 0600).
pub fn load(reference: &str, create: bool) -> Result<TenantKey> {
    let text = match reference.split_once(':') {
        Some(("env", name)) => std::env::var(name)
            .with_context(|| format!("tenant key: the environment variable {name} must hold 64 hex digits"))?,
        Some(("file", path)) => match fs::read_to_string(path) {
            Ok(text) => text,
            Err(e) if e.kind() == ErrorKind::NotFound && create => make(path)?,
            Err(e) => return Err(e).with_context(|| format!("tenant key: cannot read {path}")),
        },
        _ => bail!("tenant key '{}': want file:PATH or env:NAME", bodycam_record::shown(reference)),
    };
    from_hex(text.trim()).map(TenantKey::new).context("tenant key: want 64 hex digits")
}

fn make(path: &str) -> Result<String> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).context("tenant key: no random bytes")?;
    let text = to_hex(&seed);
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
        .with_context(|| format!("tenant key: cannot make {path}"))?;
    Ok(text)
}
