//! A disk of a few megabytes, to be filled.

use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::stack::bodycam;

/// A small disk, mounted at a directory in a mount namespace of its own, which nobody else sees; where there is none to
/// be had (the root is no mount point, as in a chroot) for all to see until the test ends, which takes root.
pub struct SmallDisk {
    directory: PathBuf,
    /// Keeps the namespace.
    holder: Option<Child>,
}

impl SmallDisk {
    /// Makes the directory, and mounts `megabytes` there.
    pub fn at(directory: PathBuf, megabytes: u64) -> Self {
        std::fs::create_dir_all(&directory).unwrap();
        let mount = format!("mount -t tmpfs -o size={megabytes}m tmpfs '{}'", directory.display());
        let mut own = Command::new("unshare");
        own.args(["--mount", "--propagation", "private"]);
        if !is_root() {
            own.args(["--user", "--map-root-user"]);
        }
        own.args(["sh", "-c"]).arg(format!("{mount} && exec sleep 3600"));
        let holder = own.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let mut disk = Self { directory, holder: holder.ok() };
        let outside = std::fs::metadata(&disk.directory).unwrap().dev();
        let deadline = Instant::now() + Duration::from_secs(20);
        while let Some(holder) = &mut disk.holder {
            if holder.try_wait().unwrap().is_some() || Instant::now() > deadline {
                disk.holder = None;
            } else if std::fs::metadata(disk.seen()).is_ok_and(|inside| inside.dev() != outside) {
                return disk;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let mounted = Command::new("sh").arg("-c").arg(mount).output().unwrap();
        assert!(
            mounted.status.success(),
            "a full disk needs root, or the right to make a user namespace: {}",
            String::from_utf8_lossy(&mounted.stderr)
        );
        disk
    }

    /// The directory as this process sees it.
    pub fn seen(&self) -> PathBuf {
        match &self.holder {
            None => self.directory.clone(),
            Some(holder) => PathBuf::from(format!("/proc/{}/root{}", holder.id(), self.directory.display())),
        }
    }

    /// `bodycam`, which sees the disk.
    pub fn bodycam(&self) -> Command {
        let Some(holder) = &self.holder else { return bodycam() };
        let mut command = Command::new("nsenter");
        command.args(["--target", &holder.id().to_string(), "--mount"]);
        if !is_root() {
            command.args(["--user", "--preserve-credentials"]);
        }
        command.arg("--").arg(bodycam().get_program());
        command.env_remove("BODYCAM_CONFIG").env_remove("BODYCAM_LAKE").env("NO_COLOR", "1");
        command
    }

    /// Fills it to the last byte.
    pub fn fill(&self) {
        let mut file = std::fs::File::create(self.seen().join("filler")).unwrap();
        let full = std::iter::repeat_with(|| file.write_all(&[1; 4096])).find_map(Result::err).unwrap();
        assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    }

    /// Takes away what filled it.
    pub fn free(&self) {
        std::fs::remove_file(self.seen().join("filler")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        match &mut self.holder {
            // With the last process of the namespace the disk is gone.
            Some(holder) => {
                let _ = holder.kill();
                let _ = holder.wait();
            }
            None => {
                let _ = Command::new("umount").arg("-l").arg(&self.directory).output();
            }
        }
    }
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").unwrap().uid() == 0
}
