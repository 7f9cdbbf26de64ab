//! Targets that are logical volumes: made, resized, and kept as they were before a patch
//! (`proto-spec/agent.md` section 3.1).

use std::path::Path;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::TargetError;
use crate::lvm::{Lvm, Volume, is_name, size_in_bytes, size_words, task_tag};

/// The tag of snapshots of targets.
const ROLLBACK_TAG: &str = "bdsync-manager.rollback";

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
    /// Whether its end may be cut off.
    #[serde(default)]
    pub shrink: bool,
    /// The thin pool that it is made in.
    #[serde(default)]
    pub pool: Option<String>,
}

/// What a volume is, and what it was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct VolumeState {
    /// Its size in bytes.
    pub bytes: u64,
    /// Whether it was made just now.
    pub created: bool,
    /// Its size in bytes before.
    pub before_bytes: Option<u64>,
}

/// Sees to it that a volume is as it is wished.
///
/// # Errors
///
/// When it cannot be, or must not be; then it is as it was.
pub fn ensure(lvm: &Lvm, volume: &VolumeName, wish: &VolumeWish) -> Result<VolumeState, TargetError> {
    let group = lvm.group(&volume.group)?;
    let volumes = lvm.volumes_of(&volume.group)?;
    let too_large = || TargetError::refused(format!("no volume has {} bytes", wish.bytes));
    // An empty source still needs a target that is there.
    let extents = wish.bytes.max(1).div_ceil(group.extent_bytes.max(512));
    let wanted = extents.checked_mul(group.extent_bytes.max(512)).ok_or_else(too_large)?;
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
        return Ok(VolumeState { bytes: wanted, created: true, before_bytes: None });
    };
    if !found.is_ordinary() {
        return Err(TargetError::refused(format!("the target {full} is no ordinary volume (a snapshot, or a pool)")));
    }
    let before = found.bytes;
    if wish.bytes <= before && before <= wanted {
        return Ok(VolumeState { bytes: before, created: false, before_bytes: Some(before) });
    }
    let is_thin = !found.pool.is_empty();
    if before > wanted && !wish.shrink {
        return Err(TargetError::refused(format!(
            "the target {full} has {before} bytes and the source only {}; nothing was changed (target_shrink = true allows to cut off the end)",
            wish.bytes
        )));
    }
    if before < wanted && !is_thin && wanted - before > free {
        return Err(lacking(wanted - before));
    }
    let has_snapshots = volumes.iter().any(|other| other.is_classic_snapshot() && other.origin == volume.name);
    // LVM resizes the origin of snapshots only while it is not in use.
    if has_snapshots {
        lvm.run(&["lvchange", "--activate", "n", "--", &full])?;
    }
    let command = if before < wanted { &["lvextend"][..] } else { &["lvreduce", "--force"] };
    let resized = lvm.run(&[command, &["--yes", "--size", &size, "--", &full]].concat());
    if has_snapshots {
        lvm.run(&["lvchange", "--activate", "y", "--", &full])?;
    }
    resized?;
    Ok(VolumeState { bytes: wanted, created: false, before_bytes: Some(before) })
}

/// A way back: a snapshot of a target before a patch is applied to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollback {
    /// How many of them are kept.
    pub keep: u32,
    /// The task that changes the target.
    pub task: String,
    /// How much may change until it overflows, as LVM writes sizes; thin volumes need none.
    #[serde(default)]
    pub size: Option<String>,
}

/// Makes a snapshot of a volume as it is, and removes the oldest ones that are not to be
/// kept any more; gives the new one's name.
///
/// # Errors
///
/// When it cannot be made. One that cannot be removed is none: the next run tries again.
pub fn keep_for_rollback(lvm: &Lvm, volume: &VolumeName, rollback: &Rollback) -> Result<String, TargetError> {
    let full = volume.full();
    let volumes = lvm.volumes_of(&volume.group)?;
    let find = |name: &str| volumes.iter().find(|known| known.name == name);
    let Some(origin) = find(&volume.name) else {
        return Err(TargetError::refused(format!("there is no volume {full}")));
    };
    let stamp = stamp(SystemTime::now());
    let begin: String = volume.name.chars().take(127 - "-before-".len() - stamp.len()).collect();
    let name = format!("{begin}-before-{stamp}");
    let tag = task_tag(&rollback.task);
    let mut words = vec!["lvcreate", "--snapshot", "--permission", "r", "--name", &name];
    words.extend(["--addtag", ROLLBACK_TAG, "--addtag", &tag]);
    if origin.pool.is_empty() {
        let Some(size) = &rollback.size else {
            let text = format!("target_snapshot_size is missing, such as 5G or 20%ORIGIN: {full} is no thin volume");
            return Err(TargetError::refused(text));
        };
        let wanted = size_in_bytes(size, origin.bytes);
        if let Some(wanted) = wanted.filter(|wanted| *wanted > origin.free_bytes) {
            return Err(TargetError::refused(format!(
                "the volume group {} has {} bytes free, and the snapshot of the target {full} needs {wanted} (target_snapshot_size {size})",
                volume.group, origin.free_bytes
            )));
        }
        words.extend(size_words(size));
    } else {
        words.extend(["--setactivationskip", "n"]);
    }
    words.extend(["--", &full]);
    lvm.run(&words)?;
    let mut kept: Vec<&Volume> =
        volumes.iter().filter(|known| known.origin == volume.name && known.has_tag(ROLLBACK_TAG)).collect();
    // The new one is kept in any case.
    let surplus = kept.len().saturating_sub(rollback.keep.saturating_sub(1) as usize);
    kept.sort_by(|one, other| one.name.cmp(&other.name));
    for old in kept.into_iter().take(surplus) {
        // Somebody may look at it just now.
        let _ = lvm.run(&["lvremove", "--yes", "--", &old.full_name()]);
    }
    Ok(name)
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
