//! What a task is once its settings are resolved.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use bdsync_device::ReadStrategy;
use bdsync_engine::diff::NamedDigest;
use bdsync_engine::{ScanOptions, SizePolicy};
use bdsync_hash::Algorithm;
use bdsync_target::volume::{Rollback, VolumeWish};

use super::value::{AgentMode, Verify};

/// One synchronisation, with everything that is needed to do it.
#[derive(Clone, Debug)]
pub(crate) struct Task {
    pub(crate) name: String,
    pub(crate) source: PathBuf,
    pub(crate) target: PathBuf,
    /// The other machine; `None`: both ends are on this one.
    pub(crate) remote: Option<Remote>,
    /// Whether the source is there, and not the target.
    pub(crate) pull: bool,
    pub(crate) disabled: bool,
    pub(crate) create_target: bool,
    /// Where patches are kept; in place, where earlier runs may have kept one.
    pub(crate) patch_folder: Option<PathBuf>,
    /// Whether the target is changed at once.
    pub(crate) in_place: bool,
    /// Bytes a second.
    pub(crate) bandwidth_limit: Option<u64>,
    pub(crate) compare: Compare,
    pub(crate) verify: Verify,
    pub(crate) hooks: Hooks,
    pub(crate) snapshot: Option<SnapshotKind>,
    /// Tasks with the same name here have snapshots of one moment.
    pub(crate) consistency_group: Option<String>,
    /// Whether writes are held while snapshots are taken.
    pub(crate) hold_writes: bool,
    /// What a target that is a logical volume shall be.
    pub(crate) volume: Option<TargetVolume>,
    /// Why there is nothing to be done, where that is this task's fault and not the file's.
    pub(crate) problem: Option<String>,
}

/// Another machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Remote {
    /// What it is called in messages: never more of a command than its ends, for there may
    /// be a password in it.
    pub(crate) label: String,
    pub(crate) way: Way,
    pub(crate) agent: AgentMode,
    /// The agent's program there, if it is installed; else the folder that it is put into.
    pub(crate) agent_path: Option<PathBuf>,
    /// The bdsync there.
    pub(crate) program: PathBuf,
    pub(crate) retries: u32,
    pub(crate) retry_delay: Duration,
    pub(crate) timeout: Duration,
}

/// How a machine is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// By a command: its words.
    Command(Vec<String>),
    /// By SSH, built in.
    Ssh(Ssh),
    /// The same by an ssh program, with these words.
    OpenSsh(Ssh, Vec<String>),
}

/// SSH ciphers in the order in which they are fast on machines of today.
pub(crate) const CIPHERS: &str =
    "aes128-gcm@openssh.com,aes256-gcm@openssh.com,chacha20-poly1305@openssh.com,aes128-ctr,aes192-ctr,aes256-ctr";

/// An SSH connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ssh {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) user: String,
    pub(crate) identity_files: Vec<PathBuf>,
    pub(crate) known_hosts: PathBuf,
    /// Keep the key of a host that is not known, in place of refusing it.
    pub(crate) accept_new: bool,
    pub(crate) ssh_agent: bool,
    pub(crate) keepalive: Duration,
    pub(crate) compression: bool,
}

/// How to compare.
#[derive(Clone, Debug)]
pub(crate) struct Compare {
    pub(crate) digest: NamedDigest,
    pub(crate) block_size: u64,
    pub(crate) two_pass: bool,
    pub(crate) zero_blocks: bool,
    pub(crate) size_policy: SizePolicy,
    pub(crate) checksum: Option<NamedDigest>,
    pub(crate) flush_cache: bool,
    pub(crate) threads: Option<NonZeroUsize>,
    pub(crate) io: Option<ReadStrategy>,
}

impl Default for Compare {
    fn default() -> Self {
        Self {
            digest: NamedDigest { algorithm: Algorithm::Md5, name: "md5".into() },
            block_size: 4096,
            two_pass: false,
            zero_blocks: false,
            size_policy: SizePolicy::Strict,
            checksum: None,
            flush_cache: false,
            threads: None,
            io: None,
        }
    }
}

impl Compare {
    /// How a device is scanned whose digests are compared.
    pub(crate) fn scan(&self) -> ScanOptions {
        self.scan_by(ReadStrategy::Usual)
    }

    /// How two devices of this machine are read: without a copy, which is what takes the
    /// time where nothing is hashed.
    pub(crate) fn direct_scan(&self) -> ScanOptions {
        self.scan_by(ReadStrategy::Mapped)
    }

    fn scan_by(&self, usual: ReadStrategy) -> ScanOptions {
        ScanOptions { strategy: self.io.unwrap_or(usual), threads: self.threads, trust_holes: true }
    }
}

/// A target that is a logical volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TargetVolume {
    pub(crate) group: String,
    /// The thin pool that it is made in.
    pub(crate) pool: Option<String>,
    pub(crate) shrink: bool,
    /// How many snapshots of it are kept, each from before a run.
    pub(crate) snapshots: u32,
    /// As LVM writes it; thin volumes need none.
    pub(crate) snapshot_size: Option<String>,
    /// The lvm program, if the target is on this machine.
    pub(crate) program: PathBuf,
}

impl TargetVolume {
    /// What it shall be for a source of so many bytes; `cut`: also not larger.
    pub(crate) fn wish(&self, task: &Task, bytes: u64, cut: bool) -> VolumeWish {
        VolumeWish { bytes, create: task.create_target && !cut, shrink: self.shrink, cut, pool: self.pool.clone() }
    }

    /// How it is kept as it was before a run that changes so many bytes.
    pub(crate) fn rollback(&self, task: &Task, changed_bytes: u64) -> Option<Rollback> {
        let (task, size) = (task.name.clone(), self.snapshot_size.clone());
        (self.snapshots > 0).then_some(Rollback { keep: self.snapshots, task, size, changed_bytes })
    }
}

/// Commands around a task, and around the moment in which its snapshot is taken.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hooks {
    pub(crate) snapshot_before: Option<String>,
    pub(crate) snapshot_after: Option<String>,
    pub(crate) before: Option<String>,
    pub(crate) after: Option<String>,
    pub(crate) error: Option<String>,
}

/// What is compared in the source's place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SnapshotKind {
    /// A snapshot of a logical volume.
    Lvm(LvmSnapshot),
    /// A clone of a file that shares its blocks.
    Reflink,
}

/// A snapshot of a logical volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LvmSnapshot {
    /// As LVM writes it; thin volumes need none.
    pub(crate) size: Option<String>,
    /// By how much it grows when it is nearly full.
    pub(crate) autoextend: Option<String>,
    /// `{lv}` in it is the volume's name.
    pub(crate) name: String,
    pub(crate) program: PathBuf,
}
