//! Logical volumes, by the `lvm` program. What is there is read from its JSON reports, in
//! exact bytes; what it says to people is only ever passed on.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use bdsync_device::plain;
use rustix::fs::{major, minor};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};

use crate::TargetError;

/// Where `lvm` is when nobody says so.
const PLACES: [&str; 4] = ["/sbin/lvm", "/usr/sbin/lvm", "/bin/lvm", "/usr/bin/lvm"];

/// What is asked about a volume.
const COLUMNS: &str = "vg_name,vg_free,lv_name,lv_size,lv_attr,origin,pool_lv,lv_tags,lv_kernel_major,lv_kernel_minor,data_percent,metadata_percent,lv_device_open";

/// A logical volume, as LVM reports it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Volume {
    /// Its volume group.
    #[serde(rename = "vg_name")]
    pub group: String,
    /// Its name there; empty: the group has no volumes.
    #[serde(rename = "lv_name")]
    pub name: String,
    /// Its size in bytes.
    #[serde(rename = "lv_size", deserialize_with = "number")]
    pub bytes: u64,
    /// How much of its group is free, in bytes.
    #[serde(rename = "vg_free", deserialize_with = "number")]
    pub free_bytes: u64,
    /// What it is a snapshot of, or empty.
    pub origin: String,
    /// The thin pool that it is in, or empty.
    #[serde(rename = "pool_lv")]
    pub pool: String,
    /// Which percentage of it is used (snapshots, pools).
    #[serde(rename = "data_percent", deserialize_with = "percentage")]
    pub used_percent: Option<f64>,
    /// Which percentage of its metadata is used (pools).
    #[serde(rename = "metadata_percent", deserialize_with = "percentage")]
    pub metadata_percent: Option<f64>,
    /// Whether something has it open.
    #[serde(rename = "lv_device_open", deserialize_with = "is_open")]
    pub is_open: bool,
    #[serde(rename = "lv_attr")]
    attributes: String,
    #[serde(rename = "lv_tags")]
    tags: String,
    #[serde(rename = "lv_kernel_major")]
    major: String,
    #[serde(rename = "lv_kernel_minor")]
    minor: String,
}

/// Every value is text in a report; sizes that do not apply are empty.
fn number<'de, D: Deserializer<'de>>(value: D) -> Result<u64, D::Error> {
    let text = String::deserialize(value)?;
    if text.is_empty() { Ok(0) } else { text.parse().map_err(serde::de::Error::custom) }
}

fn percentage<'de, D: Deserializer<'de>>(value: D) -> Result<Option<f64>, D::Error> {
    Ok(String::deserialize(value)?.parse().ok().filter(|percent: &f64| (0.0..=100.0).contains(percent)))
}

fn is_open<'de, D: Deserializer<'de>>(value: D) -> Result<bool, D::Error> {
    Ok(String::deserialize(value)? == "open")
}

impl Volume {
    /// `VG/LV`.
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.group, self.name)
    }

    /// Its device.
    pub fn path(&self) -> PathBuf {
        Path::new("/dev").join(&self.group).join(&self.name)
    }

    /// Its tags.
    pub fn tags(&self) -> impl Iterator<Item = &str> {
        self.tags.split(',')
    }

    /// Whether it has a tag.
    pub fn has_tag(&self, tag: &str) -> bool {
        self.tags().any(|known| known == tag)
    }

    /// Whether it is a snapshot with a size of its own, and not a thin one.
    pub fn is_classic_snapshot(&self) -> bool {
        self.attributes.starts_with(['s', 'S'])
    }

    /// Whether it holds data for whoever uses it, in place of being a part of another volume.
    pub fn is_ordinary(&self) -> bool {
        self.attributes.starts_with(['-', 'o', 'O', 'V', 'v', 'm', 'M', 'r', 'R', 'C', 'c'])
            && !self.name.starts_with('[')
    }

    /// Whether it is active.
    pub fn is_active(&self) -> bool {
        self.attributes.as_bytes().get(4).is_some_and(|state| state.is_ascii_alphabetic())
    }

    /// Whether it is a snapshot that has overflowed.
    pub fn has_overflowed(&self) -> bool {
        let is_invalid = self.attributes.as_bytes().get(4).is_some_and(|state| b"IS".contains(state));
        is_invalid || (self.is_classic_snapshot() && self.used_percent.is_some_and(|percent| percent >= 100.0))
    }

    /// Its device's number.
    pub fn number(&self) -> Option<(u32, u32)> {
        Some((self.major.parse().ok()?, self.minor.parse().ok()?))
    }
}

/// A volume group.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Group {
    /// How much of it is free, in bytes.
    #[serde(rename = "vg_free", deserialize_with = "number")]
    pub free_bytes: u64,
    /// The size of its extents, in bytes.
    #[serde(rename = "vg_extent_size", deserialize_with = "number")]
    pub extent_bytes: u64,
}

#[derive(Deserialize)]
struct Segment {
    #[serde(deserialize_with = "number")]
    stripes: u64,
}

#[derive(Deserialize)]
struct Report<T> {
    report: Vec<Part<T>>,
}

#[derive(Deserialize)]
struct Part<T> {
    #[serde(alias = "vg")]
    lv: Vec<T>,
}

fn parse<T: DeserializeOwned>(output: &[u8]) -> Result<Vec<T>, serde_json::Error> {
    let report: Report<T> = serde_json::from_slice(output)?;
    Ok(report.report.into_iter().flat_map(|part| part.lv).collect())
}

/// The `lvm` program.
#[derive(Clone, Debug)]
pub struct Lvm(PathBuf);

impl Lvm {
    /// The one at `program`.
    pub fn new(program: &Path) -> Self {
        Self(program.to_path_buf())
    }

    /// The one of this machine.
    pub fn of_this_machine() -> Self {
        let place = PLACES.iter().find(|place| Path::new(place).exists()).unwrap_or(&PLACES[0]);
        Self(place.into())
    }

    /// Runs a command; gives what it prints.
    ///
    /// # Errors
    ///
    /// What it says when it fails.
    pub fn run(&self, words: &[&str]) -> Result<Vec<u8>, TargetError> {
        let program = self.0.display();
        // In a group of its own: who stops us with Ctrl-C must not stop it halfway.
        let output = Command::new(&self.0)
            .args(words)
            .process_group(0)
            .env("LC_ALL", "C")
            .env("LVM_SUPPRESS_FD_WARNINGS", "1")
            .stdin(Stdio::null())
            .output()
            .map_err(|error| TargetError::refused(format!("cannot run {program}: {}", plain(&error))))?;
        match output.status.success() {
            true => Ok(output.stdout),
            false => {
                let said: Vec<_> =
                    String::from_utf8_lossy(&output.stderr).lines().map(|s| s.trim().to_string()).collect();
                let command = words.first().unwrap_or(&"");
                Err(TargetError::refused(format!("{program} {command} failed: {}", said.join("; "))))
            }
        }
    }

    fn report<T: DeserializeOwned>(&self, command: &str, columns: &str, only: &[&str]) -> Result<Vec<T>, TargetError> {
        let mut words = vec![command, "--reportformat", "json", "--units", "b", "--nosuffix", "-o", columns];
        words.extend(only);
        parse(&self.run(&words)?).map_err(|error| {
            TargetError::refused(format!("{} {command}: its report is not understood: {error}", self.0.display()))
        })
    }

    /// All volumes of all groups, also those that are parts of others.
    ///
    /// # Errors
    ///
    /// When `lvm` fails.
    pub fn volumes(&self) -> Result<Vec<Volume>, TargetError> {
        self.report("lvs", COLUMNS, &["-a"])
    }

    /// The volumes of a group but for the parts of others.
    ///
    /// # Errors
    ///
    /// When there is no such group, or `lvm` fails.
    pub fn volumes_of(&self, group: &str) -> Result<Vec<Volume>, TargetError> {
        self.report("lvs", COLUMNS, &["--", group])
    }

    /// One volume, by its full name.
    ///
    /// # Errors
    ///
    /// When there is none, or `lvm` fails.
    pub fn volume(&self, full_name: &str) -> Result<Volume, TargetError> {
        let found = self.report("lvs", COLUMNS, &["--", full_name])?.pop();
        found.ok_or_else(|| TargetError::refused(format!("there is no volume {full_name}")))
    }

    /// Over how many disks a volume is striped at most: it has a multiple of so many extents.
    ///
    /// # Errors
    ///
    /// When `lvm` fails.
    pub fn stripes(&self, full_name: &str) -> Result<u64, TargetError> {
        let segments: Vec<Segment> = self.report("lvs", "stripes", &["--", full_name])?;
        Ok(segments.iter().map(|segment| segment.stripes).max().unwrap_or(1).max(1))
    }

    /// A group.
    ///
    /// # Errors
    ///
    /// When there is none, or `lvm` fails.
    pub fn group(&self, group: &str) -> Result<Group, TargetError> {
        let found = self.report("vgs", "vg_free,vg_extent_size", &["--", group])?.pop();
        found.ok_or_else(|| TargetError::refused(format!("there is no volume group {group}")))
    }
}

/// The active volume whose device this is, under any name.
pub fn volume_of<'a>(volumes: &'a [Volume], device: &Path) -> Option<&'a Volume> {
    let metadata = fs::metadata(device).ok().filter(|metadata| metadata.file_type().is_block_device())?;
    let number = (major(metadata.rdev()), minor(metadata.rdev()));
    volumes.iter().find(|volume| volume.number() == Some(number))
}

/// Whether LVM takes this as the name of a group or a volume.
pub fn is_name(name: &str) -> bool {
    let is_plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+_.-".contains(&byte));
    is_plain && !name.is_empty() && name.len() <= 127 && !name.starts_with('-') && !["", ".", ".."].contains(&name)
}

/// A task's name as a tag.
pub fn task_tag(task: &str) -> String {
    tag(&format!("bdsync-manager.task.{task}"))
}

/// A tag with only what LVM takes in one.
pub fn tag(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_alphanumeric() || "_+.-".contains(c) { c } else { '_' }).take(200).collect()
}

/// A size as LVM writes it (mebibytes without a unit), or a part of the origin, in bytes;
/// `None` if it depends on something else, or is none.
pub fn size_in_bytes(text: &str, origin: u64) -> Option<u64> {
    if let Some((percent, of)) = text.split_once('%') {
        let percent: u64 = of.eq_ignore_ascii_case("ORIGIN").then(|| percent.parse().ok())??;
        return u64::try_from(u128::from(origin) * u128::from(percent) / 100).ok();
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

/// Whether LVM takes this as a size, or as a part of something.
pub fn is_size(text: &str) -> bool {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len()));
    let is_number = number.parse().is_ok_and(|number: f64| number > 0.0);
    let units = ["", "%ORIGIN", "%VG", "%FREE", "%PVS"];
    let mut letters = unit.chars();
    let is_letter = letters.next().is_some_and(|c| "bskmgtpe".contains(c.to_ascii_lowercase()));
    let is_unit = units.contains(&unit.to_ascii_uppercase().as_str())
        || (is_letter && ["", "b", "ib"].contains(&letters.as_str().to_ascii_lowercase().as_str()));
    is_number && is_unit
}

/// The words of `lvcreate` for a size.
pub fn size_words(size: &str) -> [&str; 2] {
    [if size.contains('%') { "--extents" } else { "--size" }, size]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_those_of_lvm() {
        for (text, bytes) in [
            ("5G", 5 << 30),
            ("1.5g", 3 << 29),
            ("100", 100 << 20),
            ("8k", 8192),
            ("4s", 2048),
            ("10%ORIGIN", 99),
            ("10%origin", 99),
        ] {
            assert_eq!(size_in_bytes(text, 999), Some(bytes), "{text}");
        }
        for text in ["50%FREE", "x", "%ORIGIN", "5q"] {
            assert_eq!(size_in_bytes(text, 1000), None, "{text}");
        }
        for text in ["5G", "1.5g", "100", "8KiB", "10%ORIGIN", "50%free"] {
            assert!(is_size(text), "{text}");
        }
        for text in ["", "0", "-5G", "5x", "5Gxx", "5GG", "%ORIGIN", "10%", "10%of", "G", "5 G"] {
            assert!(!is_size(text), "{text}");
        }
    }

    #[test]
    fn tags_and_names_have_only_letters_that_lvm_takes() {
        assert_eq!(task_tag("web/a b"), "bdsync-manager.task.web_a_b");
        for name in ["data", "a-b_c+d.e", "0"] {
            assert!(is_name(name), "{name}");
        }
        for name in ["", "-x", ".", "..", "a/b", "a b", "a\n", "ä"] {
            assert!(!is_name(name), "{name}");
        }
    }

    #[test]
    fn reports_are_read() {
        let text = r#"{"report":[{"lv":[{"vg_name":"vg0","vg_free":"1048576","lv_name":"s","lv_size":"33554432","lv_attr":"swi-I-s---","origin":"data","pool_lv":"","lv_tags":"a,bdsync-manager","lv_kernel_major":"253","lv_kernel_minor":"7","data_percent":"12.50","metadata_percent":"","lv_device_open":"open"}]}],"log":[]}"#;
        let volume = parse::<Volume>(text.as_bytes()).unwrap().pop().unwrap();
        assert_eq!((volume.free_bytes, volume.bytes, volume.number()), (1 << 20, 32 << 20, Some((253, 7))));
        assert_eq!((volume.used_percent, volume.metadata_percent), (Some(12.5), None));
        assert!(volume.has_tag("bdsync-manager") && volume.is_open && volume.has_overflowed());
        assert!(volume.is_classic_snapshot() && !volume.is_ordinary());
        let empty = text.replace("33554432", "").replace("\"253\"", "\"-1\"");
        let volume = parse::<Volume>(empty.as_bytes()).unwrap().pop().unwrap();
        assert_eq!((volume.bytes, volume.number()), (0, None));
        let text = r#"{"report":[{"vg":[{"vg_free":"5","vg_extent_size":"4194304"}]}]}"#;
        assert_eq!(parse::<Group>(text.as_bytes()).unwrap(), [Group { free_bytes: 5, extent_bytes: 4 << 20 }]);
        assert!(parse::<Volume>(b"{}").is_err());
    }
}
