//! Patches that are kept until they are applied (`proto-spec/redo.md`).

use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::limit::hex;

/// The version of the state file that is written and read.
const FORMAT: u32 = 1;

/// How much of the target's name goes into the files' names, in bytes.
const LABEL: usize = 40;

/// The state file beside a ready patch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RedoState {
    pub(crate) format: u32,
    pub(crate) task: String,
    pub(crate) host: String,
    pub(crate) source: String,
    pub(crate) target: String,
    pub(crate) created: String,
    pub(crate) patch_bytes: u64,
    pub(crate) sha256: String,
    pub(crate) device_bytes: u64,
    pub(crate) target_bytes: u64,
}

impl RedoState {
    pub(crate) fn new(task: &crate::config::Task, patch: (u64, String), device_bytes: u64, target_bytes: u64) -> Self {
        Self {
            format: FORMAT,
            task: task.name.clone(),
            host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            source: task.source.to_string_lossy().into_owned(),
            target: task.target.to_string_lossy().into_owned(),
            created: jiff::Timestamp::now().to_string(),
            patch_bytes: patch.0,
            sha256: patch.1,
            device_bytes,
            target_bytes,
        }
    }

    /// The file's content, one line.
    pub(crate) fn to_line(&self) -> String {
        // Strings and numbers have a JSON form, always.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// What a state file says, if it is one that is understood.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok().filter(|state: &Self| state.format == FORMAT)
    }

    /// Why a ready patch with this length and digest must not be applied to a target of
    /// this size; `None` if it may be.
    pub(crate) fn objection(&self, patch_bytes: u64, sha256: Option<&str>, target_bytes: u64) -> Option<String> {
        if self.patch_bytes != patch_bytes || sha256.is_some_and(|sha256| sha256 != self.sha256) {
            return Some("it is not the patch that its state file describes".into());
        }
        if ![self.target_bytes, self.device_bytes].contains(&target_bytes) {
            let (before, after) = (self.target_bytes, self.device_bytes);
            return Some(format!("it is for a target of {before} or {after} bytes, and the target has {target_bytes}"));
        }
        None
    }
}

/// What the names of all files for a target begin with.
pub(crate) fn file_stem(target: &Path) -> String {
    let bytes = target.as_os_str().as_encoded_bytes();
    let name = target.file_name().unwrap_or_default().as_encoded_bytes();
    let label: String = name
        .iter()
        .take(LABEL)
        .map(|byte| if byte.is_ascii_alphanumeric() || b"_-".contains(byte) { char::from(*byte) } else { '_' })
        .collect();
    let key = hex(Sha256::new_with_prefix(bytes));
    format!("bdsync-manager-{label}-{}", &key[..16])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain_and_tell_targets_apart() {
        let stem = file_stem(Path::new("/dev/vg/it's a\nname"));
        assert!(stem.starts_with("bdsync-manager-it_s_a_name-"), "{stem}");
        assert_ne!(stem, file_stem(Path::new("/dev/vh/it's a\nname")));
        assert_eq!(file_stem(Path::new("/")).len(), "bdsync-manager--".len() + 16);
    }

    #[test]
    fn a_ready_patch_is_only_for_the_target_it_was_made_for() {
        let state = RedoState {
            format: 1,
            task: "t".into(),
            host: "h".into(),
            source: "s".into(),
            target: "t".into(),
            created: String::new(),
            patch_bytes: 10,
            sha256: "ab".into(),
            device_bytes: 100,
            target_bytes: 50,
        };
        assert_eq!(RedoState::parse(&state.to_line()), Some(state.clone()));
        assert_eq!(RedoState::parse("{}"), None);
        assert_eq!(state.objection(10, Some("ab"), 50), None);
        assert_eq!(state.objection(10, None, 100), None);
        assert!(state.objection(11, Some("ab"), 50).is_some());
        assert!(state.objection(10, Some("cd"), 50).is_some());
        assert!(state.objection(10, Some("ab"), 60).is_some());
    }
}
