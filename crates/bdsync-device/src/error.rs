//! What can go wrong with a device.

use std::io;
use std::path::PathBuf;

/// A device or a file failed, and which one, where and how.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// It could not be opened.
    #[error("opendev [{}]: {}", path.display(), plain(source))]
    Open {
        /// Which one.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is neither a file nor a block device.
    #[error("opendev [{}]: {kind}; only regular files and block devices can be synchronised", path.display())]
    Kind {
        /// Which one.
        path: PathBuf,
        /// What it is instead.
        kind: &'static str,
    },
    /// Reading failed, or the device ends before the size it had when it was opened.
    #[error("Read error: cannot read {} at position {position}: {}", path.display(), plain(source))]
    Read {
        /// Which one.
        path: PathBuf,
        /// Where, in bytes.
        position: u64,
        /// What the system said.
        source: io::Error,
    },
    /// Writing failed.
    #[error("Write error: cannot write {} at position {position}: {}", path.display(), plain(source))]
    Write {
        /// Which one.
        path: PathBuf,
        /// Where, in bytes.
        position: u64,
        /// What the system said.
        source: io::Error,
    },
    /// What was written could not be made durable.
    #[error("Write error: cannot sync {} to its disk: {}", path.display(), plain(source))]
    Sync {
        /// Which one.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It cannot have another size.
    #[error("Cannot resize {} from {from} to {to} bytes: {reason}", path.display())]
    Resize {
        /// Which one.
        path: PathBuf,
        /// Its size in bytes.
        from: u64,
        /// The wanted size in bytes.
        to: u64,
        /// Why not.
        reason: String,
    },
}

/// The system's message without Rust's "(os error N)".
pub fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    match text.find(" (os error") {
        Some(at) => text[..at].to_string(),
        None => text,
    }
}
