//! Which implementations of a digest this machine can run.

use std::fmt;

use crate::Algorithm;
use crate::engine::Engine;

/// How a digest is computed. Chosen once for each [`BlockHasher`](crate::BlockHasher),
/// normally the best that the processor offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Implementation {
    /// One block at a time, on any machine.
    Portable,
}

impl Implementation {
    /// The implementations of `algorithm` that this machine can run, the best
    /// first. [`Portable`](Self::Portable) is always among them.
    pub fn available(algorithm: Algorithm) -> Vec<Implementation> {
        let _ = algorithm;
        vec![Implementation::Portable]
    }

    /// The best implementation of `algorithm` that this machine can run.
    pub fn best(algorithm: Algorithm) -> Implementation {
        Self::available(algorithm)[0]
    }

    /// The engine that hashes several blocks side by side, if this is more than
    /// the portable implementation.
    pub(crate) fn wide_engine(
        self,
        _algorithm: Algorithm,
        _salt: &[u8],
    ) -> Option<Box<dyn Engine>> {
        match self {
            Implementation::Portable => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Implementation::Portable => "portable",
        }
    }
}

impl fmt::Display for Implementation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
