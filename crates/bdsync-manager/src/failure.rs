//! How a task can fail.

use bdsync_engine::Error;

/// Why a task did not end well.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// It was told to stop.
    #[error("Terminated via user input")]
    Cancelled,
    /// A connection broke or hangs; trying again may help.
    #[error("{0}")]
    Connection(String),
    /// There is no connection, and neither trying again nor another program at its other end
    /// helps.
    #[error("{0}")]
    Unreachable(String),
    /// Trying again does not help.
    #[error("{0}")]
    Permanent(String),
    /// Another run of this machine is at the target.
    #[error("{0}")]
    Locked(String),
    /// Somebody else has locked the target itself.
    #[error("{0}")]
    TargetLocked(String),
    /// There is not as much space as the last patch took.
    #[error("{0}")]
    NoSpace(String),
    /// A `before` hook asked to leave the task out for now.
    #[error("Skipped: {0}")]
    Skipped(String),
}

impl Failure {
    /// A permanent failure.
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self::Permanent(text.into())
    }

    /// The same, with what was being done in front.
    pub(crate) fn during(self, what: &str) -> Self {
        match self {
            Self::Connection(text) => Self::Connection(format!("{what}: {text}")),
            Self::Unreachable(text) => Self::Unreachable(format!("{what}: {text}")),
            Self::Permanent(text) => Self::Permanent(format!("{what}: {text}")),
            Self::TargetLocked(text) => Self::TargetLocked(format!("{what}: {text}")),
            other => other,
        }
    }

    pub(crate) fn is_worth_a_retry(&self) -> bool {
        matches!(self, Self::Connection(_))
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Cancelled => Self::Cancelled,
            Error::PartlyApplied { cause, .. } if matches!(*cause, Error::Cancelled) => Self::Cancelled,
            other => Self::Permanent(other.to_string()),
        }
    }
}

impl From<bdsync_target::TargetError> for Failure {
    fn from(error: bdsync_target::TargetError) -> Self {
        match error {
            _ if error.is_cancelled() => Self::Cancelled,
            bdsync_target::TargetError::Locked(text) => Self::TargetLocked(text),
            bdsync_target::TargetError::NoSpace(text) => Self::NoSpace(text),
            error => Self::Permanent(error.to_string()),
        }
    }
}

impl From<bdsync_device::DeviceError> for Failure {
    fn from(error: bdsync_device::DeviceError) -> Self {
        match error {
            bdsync_device::DeviceError::Open { path, source } => {
                Self::Permanent(format!("cannot open {}: {}", path.display(), bdsync_device::plain(&source)))
            }
            error => Self::Permanent(error.to_string()),
        }
    }
}

/// What the program ends with; the first five are the original manager's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    Success = 0,
    MissingDependency = 1,
    Configuration = 2,
    TaskFailed = 3,
    Cancelled = 4,
    Different = 5,
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}
