//! What a client may reach (`docs/security.md`).
//!
//! With restrictions every path is resolved once, by the kernel, to a descriptor that has
//! no rights; what it stands for is compared with what is allowed, and everything that
//! follows goes through that descriptor. Whatever happens to links and names meanwhile,
//! what is opened is what was checked.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use bdsync_target::TargetError;
use bdsync_target::lvm::is_name;
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, Stat, fstat, open, openat2};

/// As patterns find paths: a `*` stands for nothing that has a `/` in it.
const AS_IN_FOLDERS: glob::MatchOptions =
    glob::MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: false };

/// What may be done.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gate {
    /// Paths and patterns; empty: everything that the user may reach.
    pub(crate) allowed: Vec<String>,
    pub(crate) read_only: bool,
    pub(crate) append_only_patches: bool,
}

/// Something that may be used, for as long as this lives.
#[derive(Debug)]
pub(crate) struct Handle {
    /// How to open it.
    pub(crate) path: PathBuf,
    /// How it was asked for.
    pub(crate) asked: String,
    pub(crate) exists: bool,
    _descriptor: Option<OwnedFd>,
}

impl Handle {
    fn new(asked: &str, path: PathBuf, exists: bool, descriptor: Option<OwnedFd>) -> Self {
        Self { path, asked: asked.into(), exists, _descriptor: descriptor }
    }

    /// A message about it, with the name that the client knows.
    pub(crate) fn restore(&self, text: &str) -> String {
        match self._descriptor {
            Some(_) => text.replace(&*self.path.to_string_lossy(), &self.asked),
            None => text.into(),
        }
    }
}

fn link(descriptor: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", descriptor.as_raw_fd()))
}

/// The path that a descriptor stands for; `None` if it has none any more.
fn real_path(descriptor: &OwnedFd) -> Option<PathBuf> {
    std::fs::read_link(link(descriptor)).ok().filter(|path| path.is_absolute())
}

fn resolve(path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    open(path, OFlags::PATH | OFlags::CLOEXEC | flags, Mode::empty())
}

fn is_same(one: &Stat, other: &Stat) -> bool {
    let is_block = |stat: &Stat| FileType::from_raw_mode(stat.st_mode) == FileType::BlockDevice;
    (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)
        || (is_block(one) && is_block(other) && one.st_rdev == other.st_rdev)
}

impl Gate {
    fn refuse(path: &str) -> TargetError {
        TargetError::refused(format!("{path:?} is not within what this agent may use (--restrict-to)"))
    }

    /// A file or device, or the place where one may be made.
    pub(crate) fn target(&self, path: &str) -> Result<Handle, TargetError> {
        if path.contains('\0') || path.is_empty() {
            return Err(TargetError::refused(format!("{path:?} is no path")));
        }
        let asked = Path::new(path);
        if self.allowed.is_empty() {
            let exists = asked.symlink_metadata().is_ok();
            return Ok(Handle::new(path, asked.into(), exists, None));
        }
        match resolve(asked, OFlags::empty()) {
            Ok(descriptor) if self.allows(&descriptor) => {
                Ok(Handle::new(path, link(&descriptor), true, Some(descriptor)))
            }
            Ok(_) => Err(Self::refuse(path)),
            Err(rustix::io::Errno::NOENT) => self.missing(path),
            // Whether it is there is nobody's business who may not use it.
            Err(_) => Err(Self::refuse(path)),
        }
    }

    /// A place where something may be made: its folder must be allowed, or its very name.
    fn missing(&self, path: &str) -> Result<Handle, TargetError> {
        let refuse = || Self::refuse(path);
        let asked = Path::new(path);
        let Some(Component::Normal(name)) = asked.components().next_back() else { return Err(refuse()) };
        if path.ends_with('/') || path.ends_with("/.") {
            return Err(refuse());
        }
        // A logical volume that LVM may make. No file is made there; its group's folder need not
        // be there either, nor lead to what is in it.
        if self.volume_folder(path).is_some_and(|group| self.names(path, group)) {
            return Ok(Handle::new(path, asked.into(), false, None));
        }
        let parent = asked.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let folder = resolve(parent, OFlags::DIRECTORY).map_err(|_| refuse())?;
        // A link whose end is missing is no place to make something.
        if link(&folder).join(name).symlink_metadata().is_ok() {
            return Err(refuse());
        }
        let named = self.allowed.iter().any(|entry| {
            let entry = Path::new(entry);
            let same = |dir: &Path| {
                let stat = resolve(dir, OFlags::DIRECTORY).ok().and_then(|dir| fstat(&dir).ok());
                stat.zip(fstat(&folder).ok()).is_some_and(|(one, other)| is_same(&one, &other))
            };
            entry.file_name() == Some(name) && entry.parent().is_some_and(same)
        });
        match named || self.allows(&folder) {
            true => Ok(Handle::new(path, link(&folder).join(name), false, Some(folder))),
            false => Err(refuse()),
        }
    }

    /// A folder for patches.
    pub(crate) fn folder(&self, path: &str) -> Result<Handle, TargetError> {
        let handle = self.target(path)?;
        match handle.exists {
            true => Ok(handle),
            false => Err(TargetError::refused(format!("the patch folder {path} (target_patch_dir) is not there"))),
        }
    }

    /// The volume group whose volume a path names.
    fn volume_folder<'a>(&self, path: &'a str) -> Option<&'a str> {
        let (group, name) = path.strip_prefix("/dev/")?.split_once('/')?;
        (is_name(group) && is_name(name) && group != "shm").then_some(group)
    }

    /// Whether a logical volume is allowed by its very name, which is what LVM goes by.
    fn names(&self, path: &str, group: &str) -> bool {
        self.allowed.iter().any(|entry| {
            entry == path
                || entry.trim_end_matches('/') == format!("/dev/{group}")
                || glob::Pattern::new(entry).is_ok_and(|pattern| pattern.matches_with(path, AS_IN_FOLDERS))
        })
    }

    /// A logical volume that LVM may make or change: `/dev/GROUP/NAME`.
    pub(crate) fn volume(&self, path: &str, group: &str) -> Result<(), TargetError> {
        match self.allowed.is_empty() || self.names(path, group) {
            true => Ok(()),
            false => Err(Self::refuse(path)),
        }
    }

    /// Whether a descriptor stands for something that is allowed, or within it.
    fn allows(&self, descriptor: &OwnedFd) -> bool {
        let Ok(stat) = fstat(descriptor) else { return false };
        self.allowed.iter().any(|entry| match entry.contains(['*', '?', '[']) {
            true => glob::glob(entry)
                .is_ok_and(|found| found.filter_map(Result::ok).any(|path| is_within(descriptor, &stat, &path))),
            false => is_within(descriptor, &stat, Path::new(entry)),
        })
    }

    /// Refuses what changes something.
    pub(crate) fn may_write(&self, what: &str) -> Result<(), TargetError> {
        match () {
            () if self.read_only => Err(TargetError::refused(format!("this agent is --read-only: it may not {what}"))),
            () if self.append_only_patches => {
                Err(TargetError::refused(format!("this agent takes --append-only-patches: it may not {what}")))
            }
            () => Ok(()),
        }
    }

    /// Refuses to take patches.
    pub(crate) fn may_store(&self) -> Result<(), TargetError> {
        match self.read_only {
            true => Err(TargetError::refused("this agent is --read-only: it may not store a patch")),
            false => Ok(()),
        }
    }
}

fn is_within(descriptor: &OwnedFd, stat: &Stat, allowed: &Path) -> bool {
    let Ok(entry) = resolve(allowed, OFlags::empty()) else { return false };
    let Ok(entry_stat) = fstat(&entry) else { return false };
    if is_same(stat, &entry_stat) {
        return true;
    }
    if FileType::from_raw_mode(entry_stat.st_mode) != FileType::Directory {
        return false;
    }
    let (Some(path), Some(folder)) = (real_path(descriptor), real_path(&entry)) else { return false };
    let Ok(below) = path.strip_prefix(&folder) else { return false };
    // The same thing must be found on the way down, without links and other file systems.
    let flags = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    let found = openat2(&entry, below, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), flags);
    found.ok().and_then(|found| fstat(found).ok()).is_some_and(|found| is_same(stat, &found))
}

/// Whether this system has what restrictions need.
pub(crate) fn is_supported() -> bool {
    let root = File::open("/").map(OwnedFd::from);
    let flags = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV;
    root.is_ok_and(|root| openat2(&root, ".", OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), flags).is_ok())
        && resolve(Path::new("/proc/self/fd"), OFlags::DIRECTORY).is_ok()
}
