//! Targets that must not be written: in use by something else, or the source itself.

use std::fs::{self, File, Metadata};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use bdsync_device::plain;
use rustix::fs::{FlockOperation, OFlags, flock, major, minor};

use crate::TargetError;

/// A device's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Number(u32, u32);

impl Number {
    fn of(metadata: &Metadata) -> Option<Self> {
        let rdev = metadata.rdev();
        metadata.file_type().is_block_device().then(|| Self(major(rdev), minor(rdev)))
    }

    fn parse(text: &str) -> Option<Self> {
        let (major, minor) = text.trim().split_once(':')?;
        Some(Self(major.parse().ok()?, minor.parse().ok()?))
    }

    fn folder(self) -> PathBuf {
        PathBuf::from(format!("/sys/dev/block/{}:{}", self.0, self.1))
    }
}

/// Refuses a local target that something else uses, or that is the source.
///
/// # Errors
///
/// Why it must not be written.
pub fn check(source: &Path, target: &Path) -> Result<(), TargetError> {
    let refuse =
        |why: String| TargetError::refused(format!("the target {} {why}; nothing was changed", target.display()));
    if let (Ok(target), Ok(other)) = (fs::metadata(target), fs::metadata(source))
        && is_same(&target, &other)
    {
        return Err(refuse(format!("is the source {} itself", source.display())));
    }
    busy(target)?.map_or(Ok(()), |why| Err(refuse(why)))
}

/// Refuses places where no file is made: what is missing there is a device.
///
/// # Errors
///
/// It is such a place.
pub fn check_place(target: &Path) -> Result<(), TargetError> {
    let folder = target.parent().and_then(|parent| fs::canonicalize(parent).ok());
    let place = folder.as_deref().unwrap_or(target);
    match place.starts_with("/dev") && !place.starts_with("/dev/shm") {
        true => Err(TargetError::refused(format!(
            "the target {} is missing, and no file is made in place of a device (target_vg makes a logical volume)",
            target.display()
        ))),
        false => Ok(()),
    }
}

/// What else uses a target, in words that follow its name.
///
/// # Errors
///
/// When it cannot be looked at.
pub fn busy(target: &Path) -> Result<Option<String>, TargetError> {
    Ok(take(target)?.err())
}

/// A claim to a target; or what else uses it, in words that follow its name.
fn take(target: &Path) -> Result<Result<Claim, String>, TargetError> {
    let failed =
        |error: std::io::Error| TargetError::refused(format!("cannot look at {}: {}", target.display(), plain(&error)));
    let metadata = fs::metadata(target).map_err(failed)?;
    if !metadata.is_file() && !metadata.file_type().is_block_device() {
        return Ok(Err("is neither a file nor a block device".into()));
    }
    Ok(match usage(&metadata) {
        Some(why) => Err(why),
        None if metadata.is_file() => Ok(Claim { _file: None }),
        None => exclusive(target).map(|file| Claim { _file: file }),
    })
}

/// Opens a block device so that nobody else can mount it or hold it in this way; or says who
/// does, in words that follow its name.
fn exclusive(target: &Path) -> Result<Option<File>, String> {
    let opened = fs::OpenOptions::new().read(true).write(true).custom_flags(OFlags::EXCL.bits() as i32).open(target);
    match opened {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::BUSY.raw_os_error()) => {
            Err("is held open exclusively by another program".into())
        }
        // Whoever writes to it hears of that.
        Err(_) => Ok(None),
    }
}

/// A target that is about to be written: as long as this lives, a block device can neither be
/// mounted nor used by another that claims it, too.
#[derive(Debug)]
pub struct Claim {
    _file: Option<File>,
}

/// Claims a target.
///
/// # Errors
///
/// Something else uses it, or it cannot be looked at.
pub fn claim(target: &Path) -> Result<Claim, TargetError> {
    take(target)?
        .map_err(|why| TargetError::refused(format!("the target {} {why}; it was not changed", target.display())))
}

/// By device number, or by what a file is on its file system; also through a loop device.
fn is_same(one: &Metadata, other: &Metadata) -> bool {
    let same_file = |a: &Metadata, b: &Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
    match (Number::of(one), Number::of(other)) {
        (Some(one), Some(other)) => one == other,
        (None, None) => same_file(one, other),
        (Some(device), None) => backing(device).is_some_and(|backing| same_file(&backing, other)),
        (None, Some(device)) => backing(device).is_some_and(|backing| same_file(&backing, one)),
    }
}

/// The file behind a loop device.
fn backing(device: Number) -> Option<Metadata> {
    let path = fs::read_to_string(device.folder().join("loop/backing_file")).ok()?;
    fs::metadata(path.trim_end_matches('\n')).ok()
}

/// What uses a target, in words that follow its name.
fn usage(metadata: &Metadata) -> Option<String> {
    let swaps = fs::read_to_string("/proc/swaps").unwrap_or_default();
    let paths = swaps.lines().skip(1).filter_map(|line| line.split_whitespace().next());
    let is_swap = |path: &str| fs::metadata(unescape(path)).is_ok_and(|swap| is_same(&swap, metadata));
    if paths.into_iter().any(is_swap) {
        return Some("is in use as swap".into());
    }
    let Some(number) = Number::of(metadata) else { return loop_of(metadata) };
    // The disk and its partitions.
    let mut folders = vec![number.folder()];
    let below = fs::read_dir(number.folder()).into_iter().flatten().filter_map(Result::ok);
    folders.extend(below.map(|entry| entry.path()).filter(|folder| folder.join("partition").exists()));
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    for folder in folders {
        let number = fs::read_to_string(folder.join("dev")).ok().and_then(|text| Number::parse(&text));
        if let Some(place) = number.and_then(|number| mount_place(&mounts, number)) {
            return Some(format!("is mounted on {place}"));
        }
        if let Some(holder) = fs::read_dir(folder.join("holders")).ok().and_then(|mut holders| holders.next()?.ok()) {
            return Some(format!("is in use by the device {}", holder.file_name().to_string_lossy()));
        }
    }
    None
}

/// Where a device is mounted; `mounts` is a mountinfo file.
fn mount_place(mounts: &str, number: Number) -> Option<String> {
    mounts.lines().find_map(|line| {
        let (front, back) = line.split_once(" - ")?;
        let mut fields = front.split(' ');
        let mounted = Number::parse(fields.nth(2)?);
        let place = fields.nth(1)?;
        // Some file systems have numbers of their own there and name the device behind.
        let named = || {
            let source = back.split(' ').nth(1).filter(|source| source.starts_with('/'))?;
            Number::of(&fs::metadata(unescape(source)).ok()?)
        };
        (mounted == Some(number) || named() == Some(number)).then(|| unescape(place))
    })
}

/// Where a block device is mounted so that it can be written, if it is.
pub fn writable_mount(device: &Path) -> Option<String> {
    let number = Number::of(&fs::metadata(device).ok()?)?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    writable_place(&mounts, number)
}

/// The same; `mounts` is a mountinfo file, which ends each line with what counts for the file system.
fn writable_place(mounts: &str, number: Number) -> Option<String> {
    let is_writable =
        |line: &&str| line.rsplit(' ').next().is_some_and(|options| options.split(',').any(|o| o == "rw"));
    mount_place(&mounts.lines().filter(is_writable).collect::<Vec<_>>().join("\n"), number)
}

/// The numbers of the block devices that a path's file system is on, and of those below them.
pub fn devices_below(path: &Path) -> Vec<(u32, u32)> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    let mut found: Vec<Number> = mounted_at(&mounts, &path);
    let mut index = 0;
    while index < found.len() {
        let slaves = fs::read_dir(found[index].folder().join("slaves")).into_iter().flatten().filter_map(Result::ok);
        let numbers = slaves.filter_map(|slave| Number::parse(&fs::read_to_string(slave.path().join("dev")).ok()?));
        for number in numbers.collect::<Vec<_>>() {
            if !found.contains(&number) {
                found.push(number);
            }
        }
        index += 1;
    }
    found.into_iter().map(|Number(major, minor)| (major, minor)).collect()
}

/// What is mounted where this path is; `mounts` is a mountinfo file.
fn mounted_at(mounts: &str, path: &Path) -> Vec<Number> {
    let mut best: Option<(PathBuf, Vec<Number>)> = None;
    for line in mounts.lines() {
        let Some((front, back)) = line.split_once(" - ") else { continue };
        let fields: Vec<_> = front.split(' ').collect();
        let (Some(number), Some(place)) = (fields.get(2), fields.get(4)) else { continue };
        let place = PathBuf::from(unescape(place));
        // Of two at the same place the later one is seen.
        let is_better = best.as_ref().is_none_or(|(known, _)| place.as_os_str().len() >= known.as_os_str().len());
        if path.starts_with(&place) && is_better {
            // Some file systems have numbers of their own there and name the device behind.
            let source = back.split(' ').nth(1).filter(|source| source.starts_with('/'));
            let source = source.and_then(|source| Number::of(&fs::metadata(unescape(source)).ok()?));
            best = Some((place, Number::parse(number).into_iter().chain(source).collect()));
        }
    }
    best.map(|(_, numbers)| numbers).unwrap_or_default()
}

/// The loop device that shows this file as a device.
fn loop_of(metadata: &Metadata) -> Option<String> {
    let devices = fs::read_dir("/sys/block").ok()?.filter_map(Result::ok);
    for device in devices.filter(|device| device.file_name().to_string_lossy().starts_with("loop")) {
        let Ok(path) = fs::read_to_string(device.path().join("loop/backing_file")) else { continue };
        let same = |other: Metadata| (other.dev(), other.ino()) == (metadata.dev(), metadata.ino());
        if fs::metadata(path.trim_end_matches('\n')).is_ok_and(same) {
            return Some(format!("is attached to /dev/{}", device.file_name().to_string_lossy()));
        }
    }
    None
}

/// The kernel writes blanks in paths as octal numbers.
fn unescape(path: &str) -> String {
    ["\\040", "\\011", "\\012", "\\134"]
        .iter()
        .zip([" ", "\t", "\n", "\\"])
        .fold(path.to_string(), |path, (code, text)| path.replace(code, text))
}

/// A lock on the target itself, which other programs that ask for it see.
#[derive(Debug)]
pub struct TargetLock(File);

impl TargetLock {
    /// Refuses to go on if another file or device has come to stand under the target's name.
    ///
    /// # Errors
    ///
    /// It has, or it cannot be looked at.
    pub fn check(&self, target: &Path) -> Result<(), TargetError> {
        let identity = |metadata: Metadata| (metadata.dev(), metadata.ino(), metadata.rdev());
        let failed = |error: std::io::Error| {
            TargetError::refused(format!("cannot look at the target {} any more: {}", target.display(), plain(&error)))
        };
        let locked = self.0.metadata().map_err(failed).map(identity)?;
        match fs::metadata(target).map_err(failed).map(identity)? == locked {
            true => Ok(()),
            false => Err(TargetError::refused(format!(
                "another file or device has taken the place of the target {} during the run; it was not changed",
                target.display()
            ))),
        }
    }
}

/// Locks a target.
///
/// # Errors
///
/// Somebody else has it, or it cannot be taken.
pub fn lock_target(target: &Path) -> Result<TargetLock, TargetError> {
    let failed =
        |error: std::io::Error| TargetError::refused(format!("cannot lock {}: {}", target.display(), plain(&error)));
    let file = File::open(target).map_err(failed)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(TargetLock(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            Err(TargetError::Locked(format!("the target {} is locked by another process", target.display())))
        }
        Err(error) => Err(failed(error.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_source_is_known_under_any_name() {
        let folder = tempfile::tempdir().unwrap();
        let (source, link, other) = (folder.path().join("a"), folder.path().join("b"), folder.path().join("c"));
        fs::write(&source, "x").unwrap();
        fs::write(&other, "x").unwrap();
        fs::hard_link(&source, &link).unwrap();
        assert!(check(&source, &link).unwrap_err().to_string().contains("is the source"));
        assert!(check(&source, &other).is_ok());
    }

    #[test]
    fn a_mounted_device_is_found_by_its_number() {
        let mounts =
            "36 35 98:0 /x /mnt\\040a/b rw shared:1 - ext3 /dev/nothing rw\n37 35 0:44 / /b rw - btrfs none rw\n";
        assert_eq!(mount_place(mounts, Number(98, 0)), Some("/mnt a/b".into()));
        assert_eq!(mount_place(mounts, Number(98, 1)), None);
        let mounts = "1 0 98:0 / /ro ro - ext4 x ro,errors=continue\n2 1 98:1 / /b ro - ext4 x rw,errors=continue\n";
        assert_eq!(writable_place(mounts, Number(98, 0)), None);
        assert_eq!(writable_place(mounts, Number(98, 1)), Some("/b".into()));
    }

    #[test]
    fn a_path_is_on_what_is_mounted_nearest() {
        let mounts = "1 0 98:0 / / rw - ext4 /dev/nothing rw\n2 1 98:1 / /srv rw - ext4 x rw\n3 1 98:2 / /srv rw - ext4 x rw\n4 1 98:3 / /srv/a\\040b rw - ext4 x rw\n";
        for (path, minor) in [("/", 0), ("/srvx", 0), ("/srv/x", 2), ("/srv/a b/c", 3)] {
            assert_eq!(mounted_at(mounts, Path::new(path)), [Number(98, minor)], "{path}");
        }
        assert_eq!(mounted_at("", Path::new("/")), []);
    }

    #[test]
    fn a_locked_target_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let _held = lock_target(file.path()).unwrap();
        assert!(lock_target(file.path()).is_err());
    }
}
