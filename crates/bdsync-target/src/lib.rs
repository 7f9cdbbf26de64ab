//! What a target needs on the machine that has it, be that the manager's own or the
//! agent's: [`guard`] refuses targets that must not be written, [`redo`] keeps a patch
//! until it is applied (`proto-spec/redo.md`), and [`stream`] is what a patch goes
//! through on its way there.

#![forbid(unsafe_code)]

pub mod guard;
pub mod lvm;
pub mod ops;
pub mod redo;
pub mod stream;
pub mod volume;

use bdsync_device::DeviceError;

/// Why a target cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// It must not or cannot be done, and why.
    #[error("{0}")]
    Refused(String),
    /// Somebody else is at work on it.
    #[error("{0}")]
    Locked(String),
    /// There is not as much space as the last patch took.
    #[error("{0}")]
    NoSpace(String),
    /// What the engine says.
    #[error(transparent)]
    Engine(#[from] bdsync_engine::Error),
    /// What the engine says, and what was being done.
    #[error("{0}: {1}")]
    During(String, #[source] bdsync_engine::Error),
}

impl TargetError {
    /// A refusal.
    pub fn refused(text: impl Into<String>) -> Self {
        Self::Refused(text.into())
    }

    /// Whether it was told to stop.
    pub fn is_cancelled(&self) -> bool {
        use bdsync_engine::Error;
        match self {
            Self::Refused(_) | Self::Locked(_) | Self::NoSpace(_) => false,
            Self::Engine(error) | Self::During(_, error) => match error {
                Error::Cancelled => true,
                Error::PartlyApplied { cause, .. } => matches!(**cause, Error::Cancelled),
                _ => false,
            },
        }
    }

    fn during(self, what: &str) -> Self {
        match self {
            Self::Refused(text) => Self::Refused(format!("{what}: {text}")),
            Self::Locked(text) => Self::Locked(format!("{what}: {text}")),
            Self::NoSpace(text) => Self::NoSpace(text),
            Self::Engine(error) | Self::During(_, error) => Self::During(what.into(), error),
        }
    }
}

impl From<DeviceError> for TargetError {
    fn from(error: DeviceError) -> Self {
        Self::Engine(error.into())
    }
}
