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
    /// Several blocks in the lanes of AVX-512 registers.
    Avx512,
    /// Several blocks in the lanes of AVX2 registers.
    Avx2,
    /// Several blocks in turn with the SHA instructions of x86-64, each block
    /// working while the others wait for their results.
    ShaNi,
}

impl Implementation {
    /// The implementations of `algorithm` that this machine can run, the best
    /// first. [`Portable`](Self::Portable) is always among them.
    pub fn available(algorithm: Algorithm) -> Vec<Implementation> {
        let mut available = vec![Implementation::Avx512, Implementation::ShaNi, Implementation::Avx2];
        available.retain(|i| i.wide_engine(algorithm, b"").is_some());
        available.push(Implementation::Portable);
        available
    }

    /// The best implementation of `algorithm` that this machine can run.
    pub fn best(algorithm: Algorithm) -> Implementation {
        Self::available(algorithm)[0]
    }

    /// The engine that hashes several blocks side by side, where this
    /// implementation has one for the algorithm and the machine can run it.
    pub(crate) fn wide_engine(self, algorithm: Algorithm, salt: &[u8]) -> Option<Box<dyn Engine>> {
        #[cfg(target_arch = "x86_64")]
        return crate::x86::engine(self, algorithm, salt);
        #[cfg(not(target_arch = "x86_64"))]
        {
            let _ = (algorithm, salt);
            None
        }
    }

    fn name(self) -> &'static str {
        match self {
            Implementation::Portable => "portable",
            Implementation::Avx512 => "avx512",
            Implementation::Avx2 => "avx2",
            Implementation::ShaNi => "sha-ni",
        }
    }
}

impl fmt::Display for Implementation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
