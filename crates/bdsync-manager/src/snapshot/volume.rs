//! Snapshots of logical volumes, classic and thin.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bdsync_device::plain;
use bdsync_target::lvm::{Lvm, Volume, size_in_bytes, size_words, tag, task_tag, volume_of};

use super::watch::Watch;
use super::{Snapshot, TAG};
use crate::config::{LvmSnapshot, Task};
use crate::failure::Failure;
use crate::report::binary;
use crate::run::Control;
use crate::state::NameLock;

/// What the tag of a run begins with; the number of the process follows.
const RUN: &str = "bdsync-manager.run.";

/// What the tag with the name that a snapshot was made with begins with.
const AS: &str = "bdsync-manager.as.";

/// From which percentage on a thin pool is told of.
const POOL_WARNING: f64 = 90.0;

/// How often a removal is tried: something (udev) may have a look at a volume for a moment.
const REMOVALS: u32 = 20;
const BETWEEN_REMOVALS: Duration = Duration::from_millis(100);

/// What the snapshots that are taken in one go share.
pub(super) struct Surroundings<'a> {
    pub(super) lvm: Lvm,
    pub(super) volumes: Vec<Volume>,
    pub(super) control: &'a Control,
    /// What is spoken for already, of each group.
    pub(super) spent_bytes: HashMap<String, u64>,
    /// The snapshots that are planned.
    pub(super) names: Vec<String>,
}

/// A snapshot that can be made.
pub(super) struct Plan {
    lvm: Lvm,
    origin: Volume,
    /// `VG/LV`.
    name: String,
    /// The tag that no other snapshot has.
    run: String,
    words: Vec<String>,
    settings: LvmSnapshot,
    lock: NameLock,
}

impl Plan {
    /// Looks whether a snapshot can be made. What an earlier run left is removed.
    pub(super) fn make(task: &Task, settings: &LvmSnapshot, around: &mut Surroundings<'_>) -> Result<Self, Failure> {
        let lvm = around.lvm.clone();
        let source = task.source.display();
        fs::metadata(&task.source)
            .map_err(|error| Failure::new(format!("cannot look at the source {source}: {}", plain(&error))))?;
        let find = |volumes: &[Volume]| {
            volume_of(volumes, &task.source).cloned().ok_or_else(|| {
                Failure::new(format!(
                    "the source {source} is no active logical volume (lvm_snapshot_enabled, or snapshot = \"lvm\")"
                ))
            })
        };
        let mut origin = find(&around.volumes)?;
        let snapshot = settings.name.replace("{lv}", &origin.name);
        let name = format!("{}/{snapshot}", origin.group);
        if around.names.contains(&name) {
            return Err(Failure::new(format!(
                "two snapshots that are taken in one go cannot both be called {name} (lvm_snapshot_name; {{lv}} in it is the volume's name)"
            )));
        }
        around.names.push(name.clone());
        let (lock, has_waited) = around.control.state.lock_name(&name, &around.control.cancellation)?;
        if has_waited {
            around.volumes = lvm.volumes()?;
            origin = find(&around.volumes)?;
        }
        let mut free = origin.free_bytes;
        let same_task = task_tag(&task.name);
        let mut removed = Vec::new();
        for leftover in &around.volumes {
            let has_name = leftover.group == origin.group && leftover.name == snapshot;
            if has_name {
                remove_leftover(&lvm, leftover, &origin, task)?;
            } else if is_own_leftover(leftover, &same_task) {
                // In nobody's way: whoever looks at it may do so.
                if let Err(failure) = remove_leftover(&lvm, leftover, &origin, task) {
                    tracing::warn!(task = task.name, "{failure}");
                    continue;
                }
            } else {
                continue;
            }
            removed.push(leftover.clone());
        }
        around.volumes.retain(|volume| !removed.contains(volume));
        for gone in removed.iter().filter(|gone| gone.is_classic_snapshot()) {
            for volume in around.volumes.iter_mut().filter(|volume| volume.group == gone.group) {
                volume.free_bytes += gone.bytes;
            }
            if gone.group == origin.group {
                free += gone.bytes;
            }
        }
        let spent = around.spent_bytes.entry(origin.group.clone()).or_default();
        let mut words: Vec<String> =
            ["lvcreate", "--snapshot", "--permission", "r", "--name", &snapshot, "--addtag", TAG]
                .map(Into::into)
                .into();
        let run = tag(&format!("{RUN}{}.{}", std::process::id(), jiff::Timestamp::now().as_nanosecond()));
        words.extend(["--addtag".into(), same_task, "--addtag".into(), run.clone()]);
        words.extend(["--addtag".into(), tag(&format!("{AS}{snapshot}"))]);
        if origin.pool.is_empty() {
            let Some(size) = &settings.size else {
                return Err(Failure::new(format!(
                    "lvm_snapshot_size is missing, such as 5G or 10%ORIGIN: {} is no thin volume",
                    origin.full_name()
                )));
            };
            // LVM makes none larger than it can get.
            if let Some(wanted) = size_in_bytes(size, origin.bytes).map(|wanted| wanted.min(origin.bytes)) {
                let left = free.saturating_sub(*spent);
                if wanted > left {
                    return Err(Failure::new(format!(
                        "the volume group {} has {left} bytes free, and the snapshot of {} needs {wanted} (lvm_snapshot_size {size})",
                        origin.group, origin.name
                    )));
                }
                *spent += wanted;
            }
            words.extend(size_words(size).map(String::from));
        } else {
            let pool = around.volumes.iter().find(|known| known.group == origin.group && known.name == origin.pool);
            check_pool(pool, task)?;
            // Activated now, in place of at the next time somebody asks for it.
            words.extend(["--setactivationskip", "n"].map(String::from));
        }
        words.extend(["--".into(), origin.full_name()]);
        Ok(Self { lvm, origin, name, run, words, settings: settings.clone(), lock })
    }

    /// What it will be called.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The number of the origin's device.
    pub(super) fn origin_number(&self) -> Option<(u32, u32)> {
        self.origin.number()
    }

    /// The origin, as LVM calls it.
    pub(super) fn origin_name(&self) -> String {
        self.origin.full_name()
    }

    /// Makes it.
    pub(super) fn create(self) -> Result<VolumeSnapshot, Failure> {
        let path = Path::new("/dev").join(&self.name);
        let Self { lvm, origin, name, run, words, settings, lock } = self;
        tracing::debug!("lvm {}", words.join(" "));
        // From here on it is removed, also if lvcreate was ended halfway.
        let snapshot =
            VolumeSnapshot { lvm, origin, name, run, settings, path, watch: None, is_removed: false, _lock: lock };
        snapshot.lvm.run(&words.iter().map(String::as_str).collect::<Vec<_>>())?;
        // What is no device would be read as a file, and found empty.
        match fs::metadata(&snapshot.path).is_ok_and(|metadata| metadata.file_type().is_block_device()) {
            true => Ok(snapshot),
            false => Err(Failure::new(format!("there is no device {} for the new snapshot", snapshot.path.display()))),
        }
    }
}

/// The process that made a snapshot, by its tag.
fn run_of(snapshot: &Volume) -> Option<&str> {
    snapshot.tags().find_map(|tag| tag.strip_prefix(RUN)?.split('.').next())
}

/// Whether the run that made a snapshot still goes on.
fn is_alive(snapshot: &Volume) -> bool {
    let Some(process) = run_of(snapshot).filter(|process| **process != *std::process::id().to_string()) else {
        return false;
    };
    let name = |process: &str| fs::read_to_string(format!("/proc/{process}/comm")).ok();
    name(process).is_some() && name(process) == name("self")
}

/// Whether a task left this snapshot in an earlier run. One that somebody has renamed is his.
fn is_own_leftover(snapshot: &Volume, task: &str) -> bool {
    let is_ours = snapshot.has_tag(TAG) && snapshot.has_tag(task);
    let is_own_run = run_of(snapshot).is_none_or(|process| *process == *std::process::id().to_string());
    is_ours && !is_own_run && !is_alive(snapshot) && snapshot.has_tag(&tag(&format!("{AS}{}", snapshot.name)))
}

/// Removes what a run that was killed left; anything else of that name is left alone.
fn remove_leftover(lvm: &Lvm, leftover: &Volume, origin: &Volume, task: &Task) -> Result<(), Failure> {
    let name = leftover.full_name();
    if is_alive(leftover) {
        return Err(Failure::new(format!(
            "the snapshot {name} belongs to a run that goes on, of process {} (setting lvm_snapshot_name)",
            run_of(leftover).unwrap_or_default()
        )));
    }
    let is_ours = leftover.has_tag(TAG) && (leftover.origin == origin.name || run_of(leftover).is_some());
    if !is_ours {
        return Err(Failure::new(format!(
            "there is a volume {name} already, and it is no snapshot of {} made by bdsync-manager; it was left alone (setting lvm_snapshot_name)",
            origin.name
        )));
    }
    if leftover.is_open {
        return Err(Failure::new(format!(
            "the snapshot {name} that an earlier run left is in use by another program; it was left alone (setting lvm_snapshot_name)"
        )));
    }
    tracing::warn!(task = task.name, "Removing the snapshot {name} that an earlier run left");
    lvm.run(&["lvremove", "--yes", "--", &name])?;
    Ok(())
}

/// Refuses a full thin pool, and tells of one that is nearly full.
fn check_pool(pool: Option<&Volume>, task: &Task) -> Result<(), Failure> {
    let Some(pool) = pool else { return Ok(()) };
    let name = pool.full_name();
    for (what, percent) in [("data", pool.used_percent), ("metadata", pool.metadata_percent)] {
        match percent {
            Some(percent) if percent >= 100.0 => {
                return Err(Failure::new(format!(
                    "the thin pool {name} is full (its {what}); extend it with lvextend"
                )));
            }
            Some(percent) if percent >= POOL_WARNING => {
                tracing::warn!(task = task.name, "The thin pool {name} is nearly full: {percent} % of its {what}");
            }
            _ => {}
        }
    }
    Ok(())
}

/// A snapshot of a logical volume.
pub(super) struct VolumeSnapshot {
    lvm: Lvm,
    origin: Volume,
    /// `VG/LV`.
    name: String,
    run: String,
    settings: LvmSnapshot,
    path: PathBuf,
    watch: Option<Watch>,
    is_removed: bool,
    /// Nobody else takes one of this name meanwhile.
    _lock: NameLock,
}

impl Snapshot for VolumeSnapshot {
    fn path(&self) -> &Path {
        &self.path
    }

    fn name(&self) -> Option<String> {
        Some(self.name.clone())
    }

    fn watch(&mut self, task: &Task) {
        let pool = (!self.origin.pool.is_empty()).then(|| format!("{}/{}", self.origin.group, self.origin.pool));
        let autoextend = self.settings.autoextend.clone();
        self.watch = Watch::start(self.lvm.clone(), self.name.clone(), pool, autoextend, task.name.clone());
    }

    fn diagnose(&self, done: f64) -> Option<String> {
        let volume = self.lvm.volume(&self.name).ok().filter(Volume::has_overflowed)?;
        // What keeps account of the blocks takes less than a hundredth.
        let enough = self.origin.bytes + self.origin.bytes / 100 + (4 << 20);
        let pace = match (0.01..1.0).contains(&done) {
            true => {
                let needed = (volume.bytes as f64 / done) as u64;
                let percent = (done * 100.0) as u64;
                format!(
                    "after {percent} % of the comparison. At that pace {} would have been needed",
                    binary(needed.min(enough))
                )
            }
            false => "before the comparison had come far".into(),
        };
        Some(format!(
            "the snapshot {} has overflowed: its {} were full {pace}; {} can never overflow (lvm_snapshot_size, or lvm_snapshot_autoextend)",
            self.name,
            binary(volume.bytes),
            binary(enough)
        ))
    }

    fn remove(&mut self) -> Result<(), Failure> {
        self.watch = None;
        if self.is_removed {
            return Ok(());
        }
        // This very one, or none: nothing else has the run's tag and this name.
        let (group, volume) = self.name.split_once('/').unwrap_or_default();
        let select = format!("vg_name={group} && lv_name={volume} && lv_tags={TAG} && lv_tags={}", self.run);
        let mut result = Ok(());
        for attempt in 0..REMOVALS {
            if attempt > 0 {
                std::thread::sleep(BETWEEN_REMOVALS);
            }
            result = self.lvm.run(&["lvremove", "--yes", "--select", &select]).map(drop);
            if result.is_ok() {
                self.is_removed = !self.path.exists();
                break;
            }
        }
        // What was renamed meanwhile is found by its tags at the next run.
        if result.is_ok() && !self.is_removed {
            return Err(Failure::new(format!("the snapshot {} is still there", self.name)));
        }
        Ok(result?)
    }
}

impl Drop for VolumeSnapshot {
    fn drop(&mut self) {
        if let Err(failure) = self.remove() {
            tracing::error!("The snapshot {} is left behind; the next run removes it: {failure}", self.name);
        }
    }
}
