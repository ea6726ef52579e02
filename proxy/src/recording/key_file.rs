//! Key files: 32 bytes as 64 hex digits, readable by their owner only, never half written.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use zeroize::Zeroizing;

use super::RecordingError;
use super::producer::random_seed;

/// The 32 bytes in a key file (64 hex digits, mode 0600); made when it is missing.
pub fn load_or_create_key_file(path: &Path) -> Result<Zeroizing<[u8; 32]>, RecordingError> {
    if let Some(seed) = load(path)? {
        return Ok(seed);
    }
    let seed = random_seed()?;
    match create(path, &seed) {
        Ok(()) => Ok(seed),
        // Another process has made it in between.
        Err(e) if e.kind() == ErrorKind::AlreadyExists => match load(path)? {
            Some(seed) => Ok(seed),
            None => Err(key_error(path, "it came and went while it was made")),
        },
        Err(e) => Err(key_error(path, format!("cannot make it: {e}"))),
    }
}

/// Whether [`load_or_create_key_file`] can do with `path`: the key in it is one, or it can be made beside what is there.
/// Nothing is made.
pub fn check_key_file(path: &Path) -> Result<(), RecordingError> {
    let dir = directory_of(path);
    match load(path)? {
        None if !dir.is_dir() => {
            let why =
                format!("there is no directory {} to make it in; make that, or name another", dir.display());
            Err(key_error(path, why))
        }
        _ => Ok(()),
    }
}

fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

pub(super) fn key_error(path: &Path, why: impl std::fmt::Display) -> RecordingError {
    RecordingError::Key { what: path.display().to_string(), why: why.to_string() }
}

fn load(path: &Path) -> Result<Option<Zeroizing<[u8; 32]>>, RecordingError> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(key_error(path, format!("cannot read it: {e}"))),
    };
    let mode = file.metadata().map_err(|e| key_error(path, e))?.mode();
    if mode & 0o077 != 0 {
        let why = format!(
            "others may read or change it (mode {:04o}); run: chmod 600 {}",
            mode & 0o7777,
            path.display()
        );
        return Err(key_error(path, why));
    }
    let mut text = Zeroizing::new(String::new());
    file.read_to_string(&mut text).map_err(|e| key_error(path, e))?;
    match bodycam_record::ids::from_hex(text.trim()) {
        Some(seed) => Ok(Some(Zeroizing::new(seed))),
        None => Err(key_error(
            path,
            "want 64 hex digits; restore the file from a backup (a new key is a new producer)",
        )),
    }
}

/// Writes the whole file under another name first: a crash leaves all of it or nothing.
fn create(path: &Path, seed: &[u8; 32]) -> std::io::Result<()> {
    let dir = directory_of(path);
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{}.tmp", std::process::id()));
    let temporary = Path::new(&temporary);
    match fs::remove_file(temporary) {
        Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let text = Zeroizing::new(bodycam_record::ids::to_hex(seed));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(temporary)?;
    let linked = file
        .write_all(text.as_bytes())
        .and_then(|()| file.sync_all())
        // A link, unlike a rename, never takes the place of a key that is there.
        .and_then(|()| fs::hard_link(temporary, path));
    let removed = fs::remove_file(temporary);
    linked.and(removed)?;
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_key_file_is_made_once_whole_and_for_its_owner_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tenant.key");
        let made = load_or_create_key_file(&path).unwrap();
        assert_eq!(*load_or_create_key_file(&path).unwrap(), *made);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing else is left");
    }

    #[test]
    fn a_check_makes_nothing_and_says_what_would_not_work() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tenant.key");
        check_key_file(&path).unwrap();
        assert!(!path.exists());
        let error = check_key_file(&dir.path().join("nowhere/tenant.key")).unwrap_err().to_string();
        assert!(error.contains("no directory"), "{error}");
        load_or_create_key_file(&path).unwrap();
        check_key_file(&path).unwrap();
        fs::write(&path, "abc").unwrap();
        assert!(check_key_file(&path).unwrap_err().to_string().contains("64 hex digits"));
    }

    #[test]
    fn a_key_that_others_may_read_is_refused_with_the_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tenant.key");
        load_or_create_key_file(&path).unwrap();
        for mode in [0o640, 0o604, 0o602, 0o666] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let error = load_or_create_key_file(&path).unwrap_err().to_string();
            assert!(error.contains("chmod 600"), "{error}");
        }
    }

    #[test]
    fn a_file_that_cannot_be_read_is_never_taken_for_a_missing_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tenant.key");
        fs::write(&path, [0xff, 0xfe]).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(load_or_create_key_file(&path).unwrap_err().to_string().contains("tenant.key"));
        fs::write(&path, "abc").unwrap();
        assert!(load_or_create_key_file(&path).unwrap_err().to_string().contains("64 hex digits"));
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(load_or_create_key_file(&path).is_err());
    }
}
