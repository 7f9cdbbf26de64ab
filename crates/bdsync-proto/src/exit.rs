//! The exit codes that stock bdsync's users know.

/// Why a program ended, as its exit status (`proto-spec/protocol.md`, exit codes).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ExitCode {
    /// All went well.
    Success = 0,
    /// Invalid or conflicting parameters.
    Parameter = 1,
    /// A patch that is not one, or is damaged.
    PatchFormat = 2,
    /// The sizes of the devices differ and the size policy does not allow that.
    DifferentSizes = 3,
    /// The other end broke the protocol or a limit.
    Protocol = 4,
    /// An unknown checksum, or one that does not match.
    Checksum = 5,
    /// Reading a device or the connection failed.
    Read = 6,
    /// The system gave no random bytes.
    Random = 7,
    /// A process could not be started or waited for.
    Process = 8,
    /// Writing the patch, a device or the connection failed.
    Write = 9,
    /// A digest that this end does not know was asked for.
    Digest = 10,
    /// A block was asked for that cannot be read in full.
    Transmission = 11,
    /// A device could not be opened.
    Io = 12,
    /// The connection failed.
    Connection = 13,
}

impl ExitCode {
    /// The number for the operating system.
    pub fn code(self) -> u8 {
        self as u8
    }
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        Self::from(code.code())
    }
}
