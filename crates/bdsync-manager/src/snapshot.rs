//! A consistent source: a snapshot that is compared in its place (`docs/snapshots.md`).

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use bdsync_device::plain;
use rustix::fs::{OFlags, major, minor};
use serde::Deserialize;

use crate::config::{LvmSnapshot, SnapshotKind, Task};
use crate::failure::Failure;

/// The tag of every snapshot that is ours.
const TAG: &str = "bdsync-manager";

/// A source as it is at one moment.
pub(crate) trait Snapshot: Send {
    /// Where it can be read.
    fn path(&self) -> &Path;

    /// What is wrong with it, if a read error may come of that.
    fn diagnose(&self) -> Option<String>;

    /// Takes it away.
    fn remove(&mut self) -> Result<(), Failure>;
}

/// Takes the snapshot that a task asks for.
pub(crate) fn take(task: &Task) -> Result<Option<Box<dyn Snapshot>>, Failure> {
    let taking = |failure: Failure| failure.during("taking the snapshot; nothing was changed");
    match &task.snapshot {
        None => Ok(None),
        Some(SnapshotKind::Lvm(settings)) => {
            Volume::take(task, settings).map(|snapshot| Some(Box::new(snapshot) as Box<dyn Snapshot>)).map_err(taking)
        }
        Some(SnapshotKind::Reflink) => {
            Clone::take(&task.source).map(|clone| Some(Box::new(clone) as Box<dyn Snapshot>)).map_err(taking)
        }
    }
}

/// A clone of a file that shares its blocks. It has no name: whatever happens, it goes when
/// nobody has it open.
struct Clone {
    _file: File,
    path: PathBuf,
}

impl Clone {
    fn take(source: &Path) -> Result<Self, Failure> {
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

    fn diagnose(&self) -> Option<String> {
        None
    }

    fn remove(&mut self) -> Result<(), Failure> {
        Ok(())
    }
}

/// A logical volume, as `lvs` tells of it; every value is text there.
#[derive(Clone, Debug, Deserialize)]
struct Lv {
    vg_name: String,
    lv_name: String,
    lv_size: String,
    vg_free: String,
    lv_attr: String,
    origin: String,
    pool_lv: String,
    lv_tags: String,
    lv_kernel_major: String,
    lv_kernel_minor: String,
    data_percent: String,
}

const COLUMNS: &str =
    "vg_name,lv_name,lv_size,vg_free,lv_attr,origin,pool_lv,lv_tags,lv_kernel_major,lv_kernel_minor,data_percent";

#[derive(Deserialize)]
struct Report {
    report: Vec<Lvs>,
}

#[derive(Deserialize)]
struct Lvs {
    lv: Vec<Lv>,
}

impl Lv {
    fn bytes(text: &str) -> u64 {
        text.parse().unwrap_or(0)
    }

    fn is_ours(&self) -> bool {
        self.lv_tags.split(',').any(|tag| tag == TAG)
    }
}

/// The lvm program.
#[derive(Clone)]
struct Lvm(PathBuf);

impl Lvm {
    fn run(&self, words: &[&str]) -> Result<Vec<u8>, Failure> {
        tracing::debug!("{} {}", self.0.display(), words.join(" "));
        let output = Command::new(&self.0)
            .args(words)
            .env("LC_ALL", "C")
            .env("LVM_SUPPRESS_FD_WARNINGS", "1")
            .stdin(std::process::Stdio::null())
            .output()
            .map_err(|error| Failure::new(format!("cannot run {}: {}", self.0.display(), plain(&error))))?;
        match output.status.success() {
            true => Ok(output.stdout),
            false => {
                let said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', ";");
                Err(Failure::new(format!("{} {} failed: {said}", self.0.display(), words.first().unwrap_or(&""))))
            }
        }
    }

    /// All volumes, or one.
    fn volumes(&self, only: Option<&str>) -> Result<Vec<Lv>, Failure> {
        let mut words = vec!["lvs", "--reportformat", "json", "--units", "b", "--nosuffix", "-a", "-o", COLUMNS];
        words.extend(only);
        let output = self.run(&words)?;
        let report: Report = serde_json::from_slice(&output).map_err(|error| {
            Failure::new(format!("{} lvs: its report is not understood: {error}", self.0.display()))
        })?;
        Ok(report.report.into_iter().flat_map(|report| report.lv).collect())
    }
}

/// A snapshot of a logical volume.
struct Volume {
    lvm: Lvm,
    /// `VG/LV`.
    name: String,
    size: String,
    path: PathBuf,
    is_removed: bool,
}

impl Volume {
    fn take(task: &Task, settings: &LvmSnapshot) -> Result<Self, Failure> {
        let lvm = Lvm(settings.program.clone());
        let source = task.source.display();
        let metadata = fs::metadata(&task.source)
            .map_err(|error| Failure::new(format!("cannot look at the source {source}: {}", plain(&error))))?;
        let volumes = lvm.volumes(None)?;
        let number = metadata.file_type().is_block_device().then(|| metadata.rdev());
        let is_source = |lv: &&Lv| {
            let number = number.map(|number| (major(number).to_string(), minor(number).to_string()));
            number == Some((lv.lv_kernel_major.clone(), lv.lv_kernel_minor.clone()))
        };
        let Some(origin) = volumes.iter().find(is_source) else {
            return Err(Failure::new(format!(
                "the source {source} is no active logical volume (lvm_snapshot_enabled)"
            )));
        };
        let name = format!("{}/{}", origin.vg_name, settings.name);
        let same_name = |lv: &&Lv| lv.vg_name == origin.vg_name && lv.lv_name == settings.name;
        let mut free = Lv::bytes(&origin.vg_free);
        if let Some(other) = volumes.iter().find(same_name) {
            if !other.is_ours() || other.origin != origin.lv_name {
                return Err(Failure::new(format!(
                    "there is a volume {name} already, and it is no snapshot of {} made by bdsync-manager; it was left alone (setting lvm_snapshot_name)",
                    origin.lv_name
                )));
            }
            tracing::warn!(task = task.name, "Removing the snapshot {name} that an earlier run left");
            lvm.run(&["lvremove", "--yes", &name])?;
            free += Lv::bytes(&other.lv_size);
        }
        let (whole, tag) = (format!("{}/{}", origin.vg_name, origin.lv_name), task_tag(&task.name));
        let mut words = vec!["lvcreate", "--snapshot", "--permission", "r", "--name", &settings.name];
        words.extend(["--addtag", TAG, "--addtag", &tag]);
        let is_thin = !origin.pool_lv.is_empty();
        if is_thin {
            let pool = volumes.iter().find(|lv| lv.vg_name == origin.vg_name && lv.lv_name == origin.pool_lv);
            let full = pool.and_then(|pool| pool.data_percent.parse::<f64>().ok()).unwrap_or(0.0);
            if full >= 100.0 {
                return Err(Failure::new(format!("the thin pool {} is full", origin.pool_lv)));
            }
            // Activated now, in place of at the next time somebody asks for it.
            words.extend(["--setactivationskip", "n"]);
        } else {
            let Some(size) = &settings.size else {
                return Err(Failure::new("lvm_snapshot_size is missing, such as 5G or 10%ORIGIN"));
            };
            if let Some(wanted) = size_in_bytes(size, Lv::bytes(&origin.lv_size)).filter(|wanted| *wanted > free) {
                return Err(Failure::new(format!(
                    "the volume group {} has {free} bytes free, and the snapshot needs {wanted} (lvm_snapshot_size {size})",
                    origin.vg_name
                )));
            }
            words.push(if size.contains('%') { "--extents" } else { "--size" });
            words.push(size);
        }
        words.push(&whole);
        lvm.run(&words)?;
        let size = settings.size.clone().unwrap_or_default();
        let path = Path::new("/dev").join(&origin.vg_name).join(&settings.name);
        let snapshot = Self { lvm, name, size, path, is_removed: false };
        // What is no device would be read as a file, and found empty.
        match fs::metadata(&snapshot.path).is_ok_and(|metadata| metadata.file_type().is_block_device()) {
            true => Ok(snapshot),
            false => Err(Failure::new(format!("there is no device {} for the new snapshot", snapshot.path.display()))),
        }
    }
}

impl Snapshot for Volume {
    fn path(&self) -> &Path {
        &self.path
    }

    fn diagnose(&self) -> Option<String> {
        let volume = self.lvm.volumes(Some(&self.name)).ok()?.pop()?;
        let is_invalid = volume.lv_attr.as_bytes().get(4).is_some_and(|state| b"IS".contains(state));
        let is_full = volume.data_percent.parse().is_ok_and(|percent: f64| percent >= 100.0);
        (is_invalid || is_full).then(|| {
            format!(
                "the snapshot {} has overflowed: more was written to the source than lvm_snapshot_size ({}) holds; make it larger",
                self.name, self.size
            )
        })
    }

    fn remove(&mut self) -> Result<(), Failure> {
        if self.is_removed {
            return Ok(());
        }
        // Ours, or nobody's: by its tag as well as by its name.
        let (vg, lv) = self.name.split_once('/').unwrap_or_default();
        let select = format!("vg_name={vg} && lv_name={lv} && lv_tags={TAG}");
        let mut result = Ok(());
        // Something (udev) may have a look at it for a moment.
        for _ in 0..10 {
            result = self.lvm.run(&["lvremove", "--yes", "--select", &select]).map(drop);
            if result.is_ok() {
                self.is_removed = true;
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        result
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        if let Err(failure) = self.remove() {
            tracing::error!("The snapshot {} is left behind; the next run removes it: {failure}", self.name);
        }
    }
}

/// A task's name as a tag.
fn task_tag(name: &str) -> String {
    let plain: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() || "_+.-".contains(c) { c } else { '_' }).take(80).collect();
    format!("bdsync-manager.task.{plain}")
}

/// A size as LVM writes it (mebibytes without a unit), or a part of the origin or what is free.
fn size_in_bytes(text: &str, origin: u64) -> Option<u64> {
    if let Some((percent, of)) = text.split_once('%') {
        return (of.eq_ignore_ascii_case("ORIGIN"))
            .then(|| percent.parse().ok().map(|percent: u64| origin / 100 * percent))?;
    }
    let lower = text.to_ascii_lowercase();
    let (digits, factor) = match lower.find(|c: char| c.is_ascii_alphabetic()) {
        None => (lower.as_str(), 1 << 20),
        Some(at) => {
            let factor: u64 = match lower.as_bytes()[at] {
                b's' => 512,
                b'b' => 1,
                unit => 1u64.checked_shl(10 * ("kmgtpe".find(char::from(unit))? as u32 + 1))?,
            };
            (&lower[..at], factor)
        }
    };
    digits.parse::<f64>().ok().map(|number| (number * factor as f64) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_those_of_lvm() {
        for (text, bytes) in
            [("5G", 5 << 30), ("1.5g", 3 << 29), ("100", 100 << 20), ("8k", 8192), ("4s", 2048), ("10%ORIGIN", 100)]
        {
            assert_eq!(size_in_bytes(text, 1000), Some(bytes), "{text}");
        }
        assert_eq!(size_in_bytes("50%FREE", 1000), None);
        assert_eq!(size_in_bytes("x", 1000), None);
    }

    #[test]
    fn tags_have_only_letters_that_lvm_takes() {
        assert_eq!(task_tag("web/a b"), "bdsync-manager.task.web_a_b");
    }

    #[test]
    fn reports_are_read() {
        let text = r#"{"report":[{"lv":[{"vg_name":"vg0","lv_name":"data","lv_size":"33554432","vg_free":"1048576","lv_attr":"-wi-a-----","origin":"","pool_lv":"","lv_tags":"a,bdsync-manager","lv_kernel_major":"253","lv_kernel_minor":"0","data_percent":""}]}],"log":[]}"#;
        let report: Report = serde_json::from_str(text).unwrap();
        let lv = &report.report[0].lv[0];
        assert!(lv.is_ours());
        assert_eq!(Lv::bytes(&lv.vg_free), 1 << 20);
    }
}
