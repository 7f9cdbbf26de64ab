//! The patch format 0.3 (`proto-spec/patch.md`): streaming reader and writer.

mod reader;
mod writer;

pub use reader::{PatchError, PatchReader, Record};
pub use writer::{PatchStats, PatchWriter};

/// What a patch begins with.
pub const MAGIC: &[u8; 7] = b"BDSYNC ";

/// The format's version and the end of the first line.
pub const FORMAT_VERSION: &[u8; 4] = b"0.3\n";

/// What stands in front of the records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PatchHeader {
    /// The size in bytes that the device has after patching.
    pub size: u64,
    /// The name of the device to be patched, as raw bytes.
    pub device: Vec<u8>,
}

/// The digest over the source that a patch can carry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PatchChecksum {
    /// The digest's name as the patch has it.
    pub name: String,
    /// The digest.
    pub digest: Vec<u8>,
}
