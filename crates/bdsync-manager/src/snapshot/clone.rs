//! A clone of a file, on a file system that shares blocks between files.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use bdsync_device::plain;
use rustix::fs::OFlags;

use super::Snapshot;
use crate::config::Task;
use crate::failure::Failure;

/// A clone of a file that shares its blocks. It has no name: whatever happens, it goes when
/// nobody has it open.
pub(super) struct Clone {
    _file: File,
    path: PathBuf,
}

impl Clone {
    pub(super) fn take(source: &Path) -> Result<Self, Failure> {
        let failed = |what: &str, error: std::io::Error| {
            Failure::new(format!("cannot {what} {}: {}", source.display(), plain(&error)))
        };
        let original = File::open(source).map_err(|error| failed("open", error))?;
        if !original.metadata().map_err(|error| failed("look at", error))?.is_file() {
            return Err(Failure::new(format!("{} is no file, so it cannot be cloned (snapshot)", source.display())));
        }
        let parent = fs::canonicalize(source).map_err(|error| failed("look at", error))?;
        let folder = parent.parent().unwrap_or(Path::new("/"));
        let clone = File::options()
            .read(true)
            .write(true)
            .mode(0o600)
            .custom_flags(OFlags::TMPFILE.bits() as i32)
            .open(folder)
            .map_err(|error| failed("make a file beside", error))?;
        rustix::fs::ioctl_ficlone(&clone, &original).map_err(|error| match error {
            rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::INVAL | rustix::io::Errno::NOTTY => {
                Failure::new(format!(
                    "{} is on a file system that cannot share blocks (btrfs, and xfs with reflink=1, can); take snapshot = \"reflink\" out",
                    source.display()
                ))
            }
            error => failed("clone", error.into()),
        })?;
        let path = PathBuf::from(format!("/proc/self/fd/{}", clone.as_raw_fd()));
        Ok(Self { _file: clone, path })
    }
}

impl Snapshot for Clone {
    fn path(&self) -> &Path {
        &self.path
    }

    fn name(&self) -> Option<String> {
        None
    }

    fn watch(&mut self, _: &Task) {}

    fn diagnose(&self, _: f64) -> Option<String> {
        None
    }

    fn remove(&mut self) -> Result<(), Failure> {
        Ok(())
    }
}
