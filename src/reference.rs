//! References to secrets: `file:PATH` or `env:NAME`, never the secret itself.

use anyhow::{Context, Result, bail, ensure};

/// The secret that `reference` names, without the blanks and line ends around it.
pub fn read(reference: &str) -> Result<String> {
    let (text, from) = match reference.split_once(':') {
        Some(("env", name)) if !name.is_empty() => {
            let name = bodycam_record::shown(name);
            let text = std::env::var(&name).ok();
            (text.with_context(|| format!("the environment variable {name} is not set"))?, name)
        }
        Some(("file", path)) if !path.is_empty() => {
            let shown = bodycam_record::shown(path);
            (std::fs::read_to_string(path).with_context(|| format!("cannot read {shown}"))?, shown)
        }
        // What stands there may be the secret: it is not repeated.
        _ => bail!("want a reference, file:PATH or env:NAME, not the secret"),
    };
    let text = text.trim();
    ensure!(!text.is_empty(), "{from} is empty");
    Ok(text.to_owned())
}
