//! What the command ends with, as a message and an exit code.

use bdsync_proto::ExitCode;

/// Why the command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The command line makes no sense.
    #[error("{0}")]
    Usage(String),
    /// An unknown checksum on the command line.
    #[error("{0}")]
    Checksum(String),
    /// The engine gave up.
    #[error("{0}")]
    Engine(#[from] bdsync_engine::Error),
    /// The engine gave up, and there is more to say about it.
    #[error("{error}{context}")]
    InContext {
        /// What the engine said.
        error: bdsync_engine::Error,
        /// What follows it.
        context: String,
    },
    /// A process could not be started or ended badly.
    #[error("Process error: {0}")]
    Process(String),
    /// A standard stream could not be read.
    #[error("Read error: {0}")]
    Input(String),
    /// There is an exit code and nothing to say.
    #[error("")]
    Quiet(ExitCode),
    /// A standard stream could not be written.
    #[error("Write error: {0}")]
    Output(String),
}

impl Failure {
    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            Self::Usage(_) => ExitCode::Parameter,
            Self::Checksum(_) => ExitCode::Checksum,
            Self::Engine(error) | Self::InContext { error, .. } => error.exit_code(),
            Self::Process(_) => ExitCode::Process,
            Self::Quiet(code) => *code,
            Self::Input(_) => ExitCode::Read,
            Self::Output(_) => ExitCode::Write,
        }
    }
}
