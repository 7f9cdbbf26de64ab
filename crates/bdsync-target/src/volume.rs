//! Targets that are logical volumes: made, resized, and kept as they were before a patch
//! (`proto-spec/agent.md` section 3.1).

use std::path::Path;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::TargetError;
use crate::lvm::{Lvm, Volume, is_name, is_size, size_in_bytes, size_words, tag, task_tag};

/// The tag of snapshots of targets.
pub const ROLLBACK_TAG: &str = "bdsync-manager.rollback";

/// The tag of one whose run has not ended well so far.
const OPEN_TAG: &str = "bdsync-manager.rollback.open";

/// What the names of snapshots have behind the target's, in letters.
const SUFFIX: &str = "-before-YYYYMMDDThhmmss";

/// How long the names of a group and a volume together can be for the device mapper, with
/// what LVM puts around them.
const LONGEST_NAME: usize = 127 - "-".len() - "-cow".len();

/// The name of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeName {
    group: String,
    name: String,
}

impl VolumeName {
    /// That of a device `/dev/GROUP/NAME`.
    ///
    /// # Errors
    ///
    /// It is no such name.
    pub fn new(device: &Path, group: &str) -> Result<Self, TargetError> {
        let name = device.strip_prefix("/dev").ok().and_then(|rest| rest.strip_prefix(group).ok());
        match name.and_then(Path::to_str).filter(|name| is_name(name) && is_name(group)) {
            Some(name) => Ok(Self { group: group.into(), name: name.into() }),
            None => Err(TargetError::refused(format!(
                "{} is no name of a logical volume of the group {group} (/dev/{group}/NAME is)",
                device.display()
            ))),
        }
    }

    /// Whether a snapshot of it can have a name.
    pub fn has_room_for_snapshots(&self) -> bool {
        // Hyphens are doubled there.
        let length = |name: &str| name.len() + name.matches('-').count();
        length(&self.group) + length(&self.name) + length(SUFFIX) <= LONGEST_NAME
    }

    fn full(&self) -> String {
        format!("{}/{}", self.group, self.name)
    }
}

/// What a volume shall be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeWish {
    /// How many bytes it has to hold.
    pub bytes: u64,
    /// Whether it may be made.
    #[serde(default)]
    pub create: bool,
    /// Whether it may be larger than that.
    #[serde(default)]
    pub shrink: bool,
    /// Whether what is behind `bytes` is cut off now.
    #[serde(default)]
    pub cut: bool,
    /// The thin pool that it is made in.
    #[serde(default)]
    pub pool: Option<String>,
}

/// What a volume is, and what it was.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct VolumeState {
    /// Its size in bytes.
    pub bytes: u64,
    /// Whether it was made just now.
    pub created: bool,
    /// Its size in bytes before.
    pub before_bytes: Option<u64>,
    /// The snapshot that keeps it from being made smaller.
    pub kept_by: Option<String>,
}

/// Sees to it that a volume is as it is wished.
///
/// # Errors
///
/// When it cannot be, or must not be; then it is as it was.
pub fn ensure(lvm: &Lvm, volume: &VolumeName, wish: &VolumeWish) -> Result<VolumeState, TargetError> {
    let group = lvm.group(&volume.group)?;
    let volumes = lvm.volumes_of(&volume.group)?;
    let extent = group.extent_bytes.max(512);
    let too_large = || TargetError::refused(format!("no volume has {} bytes", wish.bytes));
    // An empty source still needs a target that is there.
    let round = |unit: u64| wish.bytes.max(1).div_ceil(unit).checked_mul(unit).ok_or_else(too_large);
    let wanted = round(extent)?;
    let size = format!("{wanted}b");
    let (full, free) = (volume.full(), group.free_bytes);
    let lacking = |needed: u64| {
        TargetError::refused(format!(
            "the volume group {} has {free} bytes free, and the target {full} needs {needed} more; nothing was changed",
            volume.group
        ))
    };
    let Some(found) = volumes.iter().find(|known| known.name == volume.name) else {
        if !wish.create {
            return Err(TargetError::refused(format!(
                "The target does not exist (while 'create_target_if_missing' is disabled): {full}"
            )));
        }
        let mut words = vec!["lvcreate", "--yes", "--wipesignatures", "n", "--name", &volume.name];
        match &wish.pool {
            Some(pool) if is_name(pool) => words.extend(["--virtualsize", &size, "--thinpool", pool]),
            Some(pool) => return Err(TargetError::refused(format!("{pool:?} is no name of a thin pool"))),
            None if wanted > free => return Err(lacking(wanted)),
            None => words.extend(["--size", &size]),
        }
        words.extend(["--", &volume.group]);
        lvm.run(&words)?;
        return Ok(VolumeState { bytes: wanted, created: true, ..VolumeState::default() });
    };
    if !found.is_ordinary() {
        return Err(TargetError::refused(format!("the target {full} is no ordinary volume (a snapshot, or a pool)")));
    }
    if !found.is_active() {
        // A run that was killed while it resized it leaves it like this.
        lvm.run(&["lvchange", "--activate", "y", "--", &full])?;
    }
    let before = found.bytes;
    let state = |bytes| VolumeState { bytes, before_bytes: Some(before), ..VolumeState::default() };
    // Stripes are filled side by side, so that a volume has a multiple of so many extents.
    let striped = if before == wanted { wanted } else { round(extent.saturating_mul(lvm.stripes(&full)?))? };
    let (wanted, size) = (striped, format!("{striped}b"));
    let is_larger = before > wanted;
    if is_larger && !wish.shrink {
        return Err(TargetError::refused(format!(
            "the target {full} has {before} bytes and the source only {}; nothing was changed (target_shrink = true allows to cut off the end)",
            wish.bytes
        )));
    }
    if before >= wish.bytes && !(is_larger && wish.cut) {
        return Ok(state(before));
    }
    let snapshot = volumes.iter().find(|other| other.is_classic_snapshot() && other.origin == volume.name);
    if let Some(snapshot) = snapshot.filter(|_| is_larger) {
        return Ok(VolumeState { kept_by: Some(snapshot.full_name()), ..state(before) });
    }
    if before < wanted && found.pool.is_empty() && wanted - before > free {
        return Err(lacking(wanted - before));
    }
    if let Some(why) = crate::guard::busy(&found.path())? {
        return Err(TargetError::refused(format!("the target {full} {why}; it was not resized")));
    }
    // LVM extends the origin of snapshots only while it is not in use.
    if snapshot.is_some() {
        lvm.run(&["lvchange", "--activate", "n", "--", &full])?;
    }
    let command = if before < wanted { &["lvextend"][..] } else { &["lvreduce", "--force"] };
    let resized = lvm.run(&[command, &["--yes", "--size", &size, "--", &full]].concat());
    if snapshot.is_some() {
        lvm.run(&["lvchange", "--activate", "y", "--", &full])?;
    }
    resized?;
    let bytes = lvm.volume(&full)?.bytes;
    match bytes >= wish.bytes {
        true => Ok(state(bytes)),
        false => Err(TargetError::refused(format!(
            "LVM gave the target {full} {bytes} bytes, and the source has {}; it was not changed otherwise",
            wish.bytes
        ))),
    }
}

/// A way back: a snapshot of a target before a patch is applied to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollback {
    /// How many of them are kept, at least one.
    pub keep: u32,
    /// The task that changes the target.
    pub task: String,
    /// How much may change until it overflows, as LVM writes sizes; thin volumes need none.
    #[serde(default)]
    pub size: Option<String>,
    /// How much is about to change, in bytes, as far as that is known.
    #[serde(default)]
    pub changed_bytes: u64,
}

/// The snapshots of a target that are ways back, the oldest first.
fn ways_back<'a>(volumes: &'a [Volume], volume: &VolumeName) -> Vec<&'a Volume> {
    // By a tag: merging one makes LVM forget what the others are of.
    let of = origin_tag(volume);
    let mut found: Vec<_> = volumes.iter().filter(|known| known.has_tag(ROLLBACK_TAG) && known.has_tag(&of)).collect();
    found.sort_by(|one, other| one.name.cmp(&other.name));
    found
}

fn origin_tag(volume: &VolumeName) -> String {
    tag(&format!("bdsync-manager.of.{}", volume.name))
}

/// Makes a snapshot of a volume as it is before a run; gives its name. One that was made for
/// a run that did not end well is kept in its place: the volume may be half changed since.
///
/// # Errors
///
/// When it cannot be made.
pub fn keep_for_rollback(lvm: &Lvm, volume: &VolumeName, rollback: &Rollback) -> Result<String, TargetError> {
    let full = volume.full();
    let volumes = lvm.volumes_of(&volume.group)?;
    let Some(origin) = volumes.iter().find(|known| known.name == volume.name) else {
        return Err(TargetError::refused(format!("there is no volume {full}")));
    };
    if let Some(open) = ways_back(&volumes, volume).into_iter().find(|known| known.has_tag(OPEN_TAG)) {
        return match open.has_overflowed() {
            false => Ok(open.name.clone()),
            true => Err(TargetError::refused(format!(
                "the snapshot {} of the target from before a run that did not end well has overflowed, and so there is no way back to that; remove it with lvremove to go on",
                open.full_name()
            ))),
        };
    }
    let mut time = SystemTime::now();
    let name = loop {
        let name = format!("{}-before-{}", volume.name, stamp(time));
        if !volumes.iter().any(|known| known.name == name) {
            break name;
        }
        time += Duration::from_secs(1);
    };
    let (task, of) = (task_tag(&rollback.task), origin_tag(volume));
    let mut words = vec!["lvcreate", "--snapshot", "--permission", "r", "--name", &name];
    for tag in [ROLLBACK_TAG, OPEN_TAG, &task, &of] {
        words.extend(["--addtag", tag]);
    }
    if origin.pool.is_empty() {
        let Some(size) = &rollback.size else {
            let text = format!("target_snapshot_size is missing, such as 5G or 20%ORIGIN: {full} is no thin volume");
            return Err(TargetError::refused(text));
        };
        if !is_size(size) {
            return Err(TargetError::refused(format!("{size:?} is no size as LVM writes it (target_snapshot_size)")));
        }
        // LVM never makes one larger than it can get.
        let wanted = size_in_bytes(size, origin.bytes).map(|wanted| wanted.min(origin.bytes));
        if let Some(wanted) = wanted.filter(|wanted| *wanted > origin.free_bytes) {
            return Err(TargetError::refused(format!(
                "the volume group {} has {} bytes free, and the snapshot of the target {full} needs {wanted} (target_snapshot_size {size})",
                volume.group, origin.free_bytes
            )));
        }
        // Beside the blocks it has an account of them.
        let needed = rollback.changed_bytes + rollback.changed_bytes / 128;
        if wanted.is_some_and(|wanted| wanted < needed.min(origin.bytes)) {
            return Err(TargetError::refused(format!(
                "the snapshot of the target {full} would overflow in this very run, which changes {} bytes (target_snapshot_size {size})",
                rollback.changed_bytes
            )));
        }
        words.extend(size_words(size));
    } else {
        words.extend(["--setactivationskip", "n"]);
    }
    words.extend(["--", &full]);
    lvm.run(&words)?;
    Ok(name)
}

/// The run went well: what it made counts as a way back from now on, and those that are not
/// to be kept any more are removed, the oldest first.
///
/// # Errors
///
/// When the new one cannot be marked. One that cannot be removed is none: the next run tries
/// again.
pub fn settle_rollback(lvm: &Lvm, volume: &VolumeName, keep: u32) -> Result<(), TargetError> {
    let volumes = lvm.volumes_of(&volume.group)?;
    let found = ways_back(&volumes, volume);
    for open in found.iter().filter(|known| known.has_tag(OPEN_TAG)) {
        lvm.run(&["lvchange", "--deltag", OPEN_TAG, "--", &open.full_name()])?;
    }
    // One that has overflowed leads nowhere. The new one stays, whatever the clock says.
    let (lost, sound): (Vec<_>, Vec<_>) = found.into_iter().partition(|known| known.has_overflowed());
    let surplus = sound.len().saturating_sub(keep.max(1) as usize);
    let old = sound.into_iter().filter(|known| !known.has_tag(OPEN_TAG)).take(surplus);
    for old in lost.into_iter().chain(old) {
        // Somebody may look at it just now.
        let _ = lvm.run(&["lvremove", "--yes", "--", &old.full_name()]);
    }
    Ok(())
}

/// A moment as `YYYYMMDDThhmmss`, in UTC.
fn stamp(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string().replace(['-', ':', 'Z'], "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_sort_as_text() {
        assert_eq!(stamp(SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(951_782_400)), "20000229T000000");
    }

    #[test]
    fn names_leave_room_for_those_of_snapshots() {
        let has_room =
            |name: &str| VolumeName::new(&Path::new("/dev/vg").join(name), "vg").unwrap().has_room_for_snapshots();
        assert!(has_room(&"a".repeat(95)) && !has_room(&"a".repeat(96)) && !has_room(&"a-".repeat(32)));
    }

    #[test]
    fn names_are_those_of_devices_in_the_group() {
        let name = |path: &str, group: &str| VolumeName::new(Path::new(path), group).ok().map(|name| name.full());
        assert_eq!(name("/dev/vg0/a-b", "vg0"), Some("vg0/a-b".into()));
        for (path, group) in [
            ("/dev/vg1/a", "vg0"),
            ("/dev/vg0", "vg0"),
            ("/dev/vg0/a/b", "vg0"),
            ("/dev/vg0/../x", "vg0"),
            ("/dev/vg0/-x", "vg0"),
            ("/dev/-v/x", "-v"),
            ("/srv/vg0/a", "vg0"),
            ("/dev//a", ""),
        ] {
            assert_eq!(name(path, group), None, "{path}");
        }
    }
}
