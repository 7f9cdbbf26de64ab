//! Everything that can end an operation, and the exit code for it.

use std::io;

use bdsync_device::{DeviceError, plain};
use bdsync_proto::patch::PatchError;
use bdsync_proto::{ExitCode, ProtocolError};

/// Shorthand for the engine's results.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an operation ended early.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The other end broke the protocol or off.
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
    /// A device failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The patch is none, or is damaged.
    #[error(transparent)]
    Patch(#[from] PatchError),
    /// The sizes differ and may not.
    #[error("Different sizes {near}={near_bytes} {far}={far_bytes}")]
    DifferentSizes {
        /// What the near size is called.
        near: &'static str,
        /// The near size in bytes.
        near_bytes: u64,
        /// What the far size is called.
        far: &'static str,
        /// The far size in bytes.
        far_bytes: u64,
    },
    /// Reading from the other end failed.
    #[error("Read error: cannot read from the peer: {}", plain(.0))]
    ReadPeer(io::Error),
    /// Writing to the other end failed.
    #[error("Write error: cannot write to the peer: {}", plain(.0))]
    WritePeer(io::Error),
    /// Writing the patch failed.
    #[error("Write error: cannot write the patch: {}", plain(.0))]
    WritePatch(io::Error),
    /// A digest that this end does not have was asked for by the other end.
    #[error("Digest error: the peer asked for an {0}")]
    PeerDigest(String),
    /// A checksum digest that this end does not have was asked for by the other end.
    #[error("Checksum error: the peer asked for an {0}")]
    PeerChecksum(String),
    /// Hashes were asked for that leave a gap in the checksum where there is no data.
    #[error(
        "Checksum error: the peer asked for hashes at {start}, the checksum has come to {end} and the device's size is {size}"
    )]
    ChecksumGap {
        /// Where the range begins, in bytes.
        start: u64,
        /// How far the checksum has come, in bytes.
        end: u64,
        /// The device's size in bytes.
        size: u64,
    },
    /// A block was asked for that the device does not have.
    #[error("Transmission error: the peer asked for {length} bytes at {position}, the device has {size}")]
    PastEnd {
        /// Where the block begins, in bytes.
        position: u64,
        /// Its length in bytes.
        length: u64,
        /// The device's size in bytes.
        size: u64,
    },
    /// A parameter out of range.
    #[error("{0}")]
    Parameter(String),
    /// The system's random generator failed.
    #[error("No random bytes for the salt: {}", plain(.0))]
    Random(io::Error),
    /// Threads or memory could not be had.
    #[error("Process error: {0}")]
    Resources(String),
    /// A part of the patch was applied before the error.
    #[error(
        "{cause}; {device} is PARTLY CHANGED: {record_count} records with {data_bytes} bytes were written, the last at position {last_position}{resized}. Apply a whole patch, or synchronise again"
    )]
    PartlyApplied {
        /// What went wrong.
        cause: Box<Error>,
        /// The target.
        device: String,
        /// How many records were written.
        record_count: u64,
        /// How many bytes were written.
        data_bytes: u64,
        /// The position of the last record that was written.
        last_position: u64,
        /// What happened to its size, in words that follow the rest.
        resized: String,
    },
    /// The checksum in a patch is not that of the device after applying.
    #[error(
        "Checksum error: the patch says {name} {expected}, {device} has {found}; are --blocksize and --twopass those that made the patch (and is it the first time that it is applied, if the sizes differed)?"
    )]
    ChecksumMismatch {
        /// The digest's name.
        name: String,
        /// The digest in the patch, in hexadecimal digits.
        expected: String,
        /// The digest of the device, in hexadecimal digits.
        found: String,
        /// The target.
        device: String,
    },
    /// A checksum was to be verified and there is none, or it is of an unknown kind.
    #[error("Checksum error: {0}")]
    CannotVerify(String),
    /// The agent cannot go on: its answer, a JSON object.
    #[error("the agent cannot go on: {}", String::from_utf8_lossy(.0))]
    Remote(Vec<u8>),
    /// It was told to stop.
    #[error("Cancelled")]
    Cancelled,
}

impl Error {
    /// The exit code that a program ends with because of this error.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Protocol(error) => error.exit_code(),
            Self::Device(error) => match error {
                DeviceError::Open { .. } | DeviceError::Kind { .. } => ExitCode::Io,
                DeviceError::Read { .. } => ExitCode::Read,
                DeviceError::Write { .. } | DeviceError::Sync { .. } => ExitCode::Write,
                DeviceError::Resize { .. } => ExitCode::DifferentSizes,
            },
            Self::Patch(error) => error.exit_code(),
            Self::DifferentSizes { .. } => ExitCode::DifferentSizes,
            Self::ReadPeer(_) => ExitCode::Read,
            Self::WritePeer(_) | Self::WritePatch(_) => ExitCode::Write,
            Self::PeerDigest(_) => ExitCode::Digest,
            Self::PeerChecksum(_)
            | Self::ChecksumGap { .. }
            | Self::ChecksumMismatch { .. }
            | Self::CannotVerify(_) => ExitCode::Checksum,
            Self::PastEnd { .. } => ExitCode::Transmission,
            Self::Parameter(_) => ExitCode::Parameter,
            Self::Remote(_) => ExitCode::Io,
            Self::Random(_) => ExitCode::Random,
            Self::Resources(_) | Self::Cancelled => ExitCode::Process,
            Self::PartlyApplied { cause, .. } => cause.exit_code(),
        }
    }
}
