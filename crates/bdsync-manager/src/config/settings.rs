//! Every setting there is: its name, its kind, what it is for.

use std::path::PathBuf;

use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeValue, ValueDeserializer};

use super::value::{
    AgentChoice, Count, Digest, HostKeys, IniValue, Io, LvmSize, Port, Rate, Size, Sizes, SnapshotChoice, Span,
    VerifyMode,
};

/// Why a setting was not taken.
pub(crate) enum Refused {
    /// There is none of this name.
    Unknown,
    /// The value makes no sense; what would.
    Value(String),
}

macro_rules! settings {
    ($($(#[doc = $doc:literal])* $key:ident: $kind:ty,)*) => {
        /// The settings of one section, as far as they are given there.
        #[derive(Clone, Debug, Default)]
        pub(crate) struct Settings {
            $($(#[doc = $doc])* pub(crate) $key: Option<$kind>,)*
        }

        impl Settings {
            /// The names of all settings.
            pub(crate) const KEYS: &[&str] = &[$(stringify!($key)),*];

            /// Takes a value of a TOML file.
            pub(crate) fn set_toml(&mut self, key: &str, value: Spanned<DeValue<'_>>) -> Result<(), Refused> {
                let value = ValueDeserializer::from(value);
                match key {
                    $(stringify!($key) => {
                        let value = <$kind>::deserialize(value);
                        self.$key = Some(value.map_err(|error| Refused::Value(error.message().to_string()))?);
                    })*
                    _ => return Err(Refused::Unknown),
                }
                Ok(())
            }

            /// Takes a value of an INI file.
            pub(crate) fn set_ini(&mut self, key: &str, value: &str) -> Result<(), Refused> {
                match key {
                    $(stringify!($key) => self.$key = Some(<$kind>::from_ini(value).map_err(Refused::Value)?),)*
                    _ => return Err(Refused::Unknown),
                }
                Ok(())
            }

            /// Takes from `defaults` what is not given here.
            pub(crate) fn or(&mut self, defaults: &Self) {
                $(if self.$key.is_none() {
                    self.$key.clone_from(&defaults.$key);
                })*
            }

            /// Which settings are given.
            pub(crate) fn given(&self) -> Vec<&'static str> {
                let mut given = Vec::new();
                $(if self.$key.is_some() {
                    given.push(stringify!($key));
                })*
                given
            }
        }
    };
}

settings! {
    /// The device or file that is copied; a pattern in a template.
    source_path: PathBuf,
    /// Several of them, or patterns: a task for each.
    source_paths: Vec<String>,
    /// A volume group all of whose volumes are copied, each by a task.
    source_vg: String,
    /// Patterns of names: only these volumes of it.
    source_vg_include: Vec<String>,
    /// Patterns of names: not these.
    source_vg_exclude: Vec<String>,
    /// The copy; `{name}` in a template.
    target_path: PathBuf,
    /// The volume group of a target that is a logical volume.
    target_vg: String,
    /// The thin pool that such a target is made in.
    target_thin_pool: String,
    /// Make such a target smaller when the source has become so.
    target_shrink: bool,
    /// How many snapshots of such a target are kept, each from before a run.
    target_snapshots: Count,
    /// The size of such a snapshot.
    target_snapshot_size: LvmSize,
    /// The section `[remote.NAME]` that says where the target is.
    remote: String,
    /// The section `[remote.NAME]` that says where the source is.
    source_remote: String,
    /// The host name or address for SSH.
    host: String,
    /// Its SSH port.
    port: Port,
    /// The user to log in as.
    user: String,
    /// The private key to log in with.
    identity_file: PathBuf,
    /// The file of known host keys.
    known_hosts: PathBuf,
    /// What to do about unknown host keys.
    host_key_checking: HostKeys,
    /// Use the keys of the ssh-agent that is running.
    ssh_agent: bool,
    /// How often a sign of life is asked for.
    keepalive: Span,
    /// Compress everything (the agent does it by itself).
    compression: bool,
    /// The program to connect with, in place of the SSH that is built in.
    ssh_program: PathBuf,
    /// What is used at the other end.
    agent: AgentChoice,
    /// The installed agent there, or the folder that it is put into.
    agent_path: PathBuf,
    /// The command that reaches the machine with the target.
    connection_command: String,
    /// Leave the task out.
    disabled: bool,
    /// Make the target if it is not there.
    create_target_if_missing: bool,
    /// Change the target while comparing, without a patch file.
    apply_patch_in_place: bool,
    /// At most so many bytes of patch a second.
    bandwidth_limit: Rate,
    /// Not needed; the original's.
    local_bdsync_bin: PathBuf,
    /// The bdsync at the remote end.
    remote_bdsync_bin: PathBuf,
    /// Options in the words of the bdsync command.
    bdsync_args: String,
    /// Where patches are kept until they are applied, at the target.
    target_patch_dir: PathBuf,
    /// What kind of snapshot to compare in the source's place.
    snapshot: SnapshotChoice,
    /// Compare a snapshot of the source.
    lvm_snapshot_enabled: bool,
    /// The snapshot's size.
    lvm_snapshot_size: LvmSize,
    /// By how much a snapshot that is nearly full is extended.
    lvm_snapshot_autoextend: LvmSize,
    /// The snapshot's name.
    lvm_snapshot_name: String,
    /// The lvm program.
    lvm_program_path: PathBuf,
    /// Tasks of one group have snapshots of one moment.
    consistency_group: String,
    /// Hold all writes while snapshots are taken.
    fsfreeze: bool,
    /// Runs right before snapshots are taken.
    hook_snapshot_before: String,
    /// Runs right after that.
    hook_snapshot_after: String,
    /// The digest that compares blocks.
    hash: Digest,
    /// The size of blocks.
    block_size: Size,
    /// Compare large blocks first.
    two_pass: bool,
    /// Tell the peer of blocks of zeros.
    zero_blocks: bool,
    /// What to do about different sizes.
    size_policy: Sizes,
    /// A digest of the source, in the patch.
    checksum: Digest,
    /// Give back the page cache.
    flush_cache: bool,
    /// How many threads compare.
    threads: Count,
    /// How devices are read.
    io: Io,
    /// Compare again after applying.
    verify: VerifyMode,
    /// How often a connection that broke is tried again.
    retries: Count,
    /// The pause before the first time; it doubles.
    retry_delay: Span,
    /// How long a connection may be silent.
    timeout: Span,
    /// Runs before the task.
    hook_before: String,
    /// Runs after a task that went well.
    hook_after: String,
    /// Runs after a task that failed.
    hook_error: String,
}

/// What may stand in `[remote.NAME]` only.
pub(crate) const REMOTE_ONLY_KEYS: &[&str] = &[
    "host",
    "port",
    "user",
    "identity_file",
    "known_hosts",
    "host_key_checking",
    "ssh_agent",
    "keepalive",
    "compression",
    "ssh_program",
];

/// What may stand in `[remote.NAME]`.
pub(crate) const REMOTE_KEYS: &[&str] = &[
    "host",
    "port",
    "user",
    "identity_file",
    "known_hosts",
    "host_key_checking",
    "ssh_agent",
    "keepalive",
    "compression",
    "ssh_program",
    "agent",
    "agent_path",
    "connection_command",
    "remote_bdsync_bin",
    "target_patch_dir",
    "bandwidth_limit",
    "retries",
    "retry_delay",
    "timeout",
];

/// What may not stand in `[defaults]` of a TOML file.
pub(crate) const TASK_ONLY_KEYS: &[&str] =
    &["source_path", "source_paths", "source_vg", "source_vg_include", "source_vg_exclude", "target_path"];

/// The known name that is most like this one, if one is like it at all.
pub(crate) fn similar(key: &str, known: &[&'static str]) -> Option<&'static str> {
    let best = known.iter().map(|name| (distance(key, name), *name)).min()?;
    (best.0 <= 1 + key.len() / 4).then_some(best.1)
}

fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistyped_name_has_a_neighbour_and_nonsense_has_none() {
        assert_eq!(similar("source_pth", Settings::KEYS), Some("source_path"));
        assert_eq!(similar("bandwith_limit", Settings::KEYS), Some("bandwidth_limit"));
        assert_eq!(similar("xyzzy", Settings::KEYS), None);
    }
}
