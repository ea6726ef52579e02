//! References to secrets: the configuration names where a secret lies, never the secret itself.
//!
//! Invariant: no `Debug`, `Display` or serialised form of anything here shows a secret's value.

use std::collections::BTreeSet;
use std::fmt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use bodycam_record::shown;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// Files that others can read and that were logged.
static WARNED: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// Longest secret that is read.
const MAX_SECRET: usize = 64 * 1024;

/// Where a secret lies: `env:NAME` or `file:PATH`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct Secret(Source);

#[derive(Clone, PartialEq, Eq)]
enum Source {
    Env(String),
    File(PathBuf),
}

/// A secret could not be read.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The reference has no known form.
    #[error("a secret is named as \"env:NAME\" or \"file:PATH\", not by its value")]
    Reference,
    /// The environment variable is not set, or empty.
    #[error("secret env:{0}: the variable is not set, empty, or not text; set it before starting")]
    Variable(String),
    /// The file cannot be read.
    #[error(
        "secret file:{path}: {why}; put the secret there, readable by the gateway's user, or name another place"
    )]
    File { path: String, why: String },
}

impl Secret {
    /// A file named by a relative path lies below `base`.
    pub fn rebase(&mut self, base: &Path) {
        if let Source::File(path) = &mut self.0 {
            *path = base.join(&*path);
        }
    }

    /// The file that holds it, and its mode, when others than its owner can read it.
    pub fn exposed(&self) -> Option<(&Path, u32)> {
        let Source::File(path) = &self.0 else { return None };
        let mode = std::fs::metadata(path).ok()?.permissions().mode() & 0o777;
        (mode & 0o077 != 0).then_some((path.as_path(), mode))
    }

    /// Reads the secret. One line end at the end of a file does not belong to it. A file that others can read
    /// is used all the same, because that is how containers mount it, and logged once.
    pub fn read(&self) -> Result<Zeroizing<String>, SecretError> {
        match &self.0 {
            Source::Env(name) => match std::env::var(name).map(Zeroizing::new) {
                Ok(value) if !value.is_empty() => Ok(value),
                _ => Err(SecretError::Variable(shown(name))),
            },
            Source::File(path) => {
                if let Some((path, mode)) = self.exposed()
                    && WARNED.lock().unwrap_or_else(PoisonError::into_inner).insert(path.to_owned())
                {
                    let path = shown(&path.to_string_lossy());
                    tracing::warn!(
                        event = "secret.exposed",
                        path,
                        mode = format!("{mode:03o}"),
                        "others can read this secret: chmod 600"
                    );
                }
                let fault = |why: String| SecretError::File { path: shown(&path.to_string_lossy()), why };
                let mut value =
                    std::fs::read_to_string(path).map(Zeroizing::new).map_err(|e| fault(e.to_string()))?;
                if value.ends_with('\n') {
                    value.pop();
                    if value.ends_with('\r') {
                        value.pop();
                    }
                }
                match value.len() {
                    0 => Err(fault("is empty".to_owned())),
                    MAX_SECRET.. => Err(fault(format!("is longer than {MAX_SECRET} bytes"))),
                    _ => Ok(value),
                }
            }
        }
    }
}

impl TryFrom<String> for Secret {
    type Error = SecretError;
    fn try_from(text: String) -> Result<Self, SecretError> {
        match text.split_once(':') {
            Some(("env", name)) if !name.is_empty() => Ok(Secret(Source::Env(name.to_owned()))),
            Some(("file", path)) if !path.is_empty() => Ok(Secret(Source::File(path.into()))),
            _ => Err(SecretError::Reference),
        }
    }
}

impl From<Secret> for String {
    fn from(secret: Secret) -> Self {
        match secret.0 {
            Source::Env(name) => format!("env:{name}"),
            Source::File(path) => format!("file:{}", path.display()),
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&shown(&String::from(self.clone())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_named_never_written_down() {
        for bad in ["hunter2", "", "env:", "file:", "plain:hunter2"] {
            let error = Secret::try_from(bad.to_owned()).unwrap_err().to_string();
            assert!(error.contains("env:NAME") && !error.contains("hunter2"), "{bad}: {error}");
        }
    }

    #[test]
    fn a_file_gives_its_line_without_the_line_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("password");
        for (written, read) in [("s3cret\n", "s3cret"), ("s3cret\r\n", "s3cret"), (" a b \n\n", " a b \n")] {
            std::fs::write(&path, written).unwrap();
            let secret = Secret::try_from(format!("file:{}", path.display())).unwrap();
            assert_eq!(secret.read().unwrap().as_str(), read);
        }
        std::fs::write(&path, "\n").unwrap();
        let secret = Secret::try_from(format!("file:{}", path.display())).unwrap();
        assert!(secret.read().unwrap_err().to_string().contains("is empty"));
    }

    #[test]
    fn a_file_that_others_can_read_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("password");
        std::fs::write(&path, "s3cret").unwrap();
        let secret = Secret::try_from(format!("file:{}", path.display())).unwrap();
        for (mode, exposed) in [(0o600, false), (0o400, false), (0o640, true), (0o644, true)] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(secret.exposed().map(|(_, mode)| mode), exposed.then_some(mode), "{mode:o}");
            assert_eq!(secret.read().unwrap().as_str(), "s3cret");
        }
    }
}
