//! A lake in a directory, as the verifier reads it.

use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use bodycam_verify::Files;
use bytes::Bytes;

/// A lake in a directory.
pub struct Directory(PathBuf);

impl Directory {
    /// The lake at `url`, a path or a `file://` URL.
    pub fn open(url: &str) -> Result<Self> {
        let path = PathBuf::from(url.strip_prefix("file://").unwrap_or(url));
        let path = path.canonicalize().with_context(|| format!("cannot open the lake {}", path.display()))?;
        anyhow::ensure!(path.is_dir(), "the lake {} is not a directory", path.display());
        Ok(Self(path))
    }

    /// Paths come from commits that anyone may have written, and so may symbolic links: nothing outside the lake
    /// is read. None when there is no such object.
    fn inside(&self, path: &str) -> std::io::Result<Option<PathBuf>> {
        let plain = path.split('/').all(|part| !matches!(part, "" | "." | "..")) && !path.contains('\0');
        if !plain {
            return Err(std::io::Error::other("not a path inside the lake"));
        }
        match self.0.join(path).canonicalize() {
            Ok(real) if real.starts_with(&self.0) => Ok(Some(real)),
            Ok(_) => Err(std::io::Error::other("a symbolic link leads out of the lake")),
            // A file where a folder should be: what should lie in that folder is missing.
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn object(&self, path: &str, limit: u64) -> std::io::Result<Option<Bytes>> {
        let Some(path) = self.inside(path)? else { return Ok(None) };
        // Before it is opened: opening a pipe would wait for its writer.
        let length = match path.metadata()? {
            metadata if metadata.is_file() => metadata.len(),
            _ => return Err(std::io::Error::other("not a regular file")),
        };
        let wanted = length.min(limit.saturating_add(1));
        if wanted > super::MAX_OBJECT {
            return Err(std::io::Error::other(format!(
                "{wanted} bytes are more than can be checked at once"
            )));
        }
        let mut bytes = Vec::with_capacity(usize::try_from(wanted).unwrap_or(0));
        std::fs::File::open(path)?.take(wanted).read_to_end(&mut bytes)?;
        Ok(Some(bytes.into()))
    }

    fn list_below(&self, folder: &str) -> std::io::Result<Vec<String>> {
        let mut found = Vec::new();
        if let Some(folder) = self.inside(folder.trim_end_matches('/'))?.filter(|folder| folder.is_dir()) {
            self.list_into(&folder, &mut found)?;
        }
        Ok(found)
    }

    /// Adds the objects below `folder`. Links are not followed, so that it ends.
    fn list_into(&self, folder: &Path, found: &mut Vec<String>) -> std::io::Result<()> {
        let entries = match std::fs::read_dir(folder) {
            Ok(entries) => entries,
            // A writer has taken it away since it was seen.
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(self.in_folder(folder, &error)),
        };
        for entry in entries {
            let entry = entry.map_err(|error| self.in_folder(folder, &error))?;
            let path = entry.path();
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => self.list_into(&path, found)?,
                Ok(_) => {
                    let name = path.strip_prefix(&self.0).ok().and_then(Path::to_str);
                    found.extend(name.map(str::to_owned));
                }
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(self.in_folder(&path, &error)),
            }
        }
        Ok(())
    }

    /// The error, with the folder in which it came.
    fn in_folder(&self, folder: &Path, error: &std::io::Error) -> std::io::Error {
        let name = folder.strip_prefix(&self.0).unwrap_or(folder);
        std::io::Error::other(format!("{}: {error}", name.display()))
    }
}

impl Files for Directory {
    fn read(&self, path: &str, limit: u64) -> Result<Option<Bytes>, String> {
        self.object(path, limit).map_err(|e| e.to_string())
    }

    fn list(&self, folder: &str) -> Result<Option<Vec<String>>, String> {
        self.list_below(folder).map(Some).map_err(|e| e.to_string())
    }
}
