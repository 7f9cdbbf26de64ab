//! How blocks are hashed: digests by their OpenSSL names, many blocks at once.
//!
//! A block's digest is `digest(salt || block)`, and all blocks of a request
//! have one size. That makes them ideal for SIMD: equal lengths mean that one
//! instruction stream can hash as many blocks as a register has lanes.
//! [`BlockHasher`] does that for blocks in memory, and through
//! [`Interleaved`] for blocks too large for it. [`Checksum`] is a plain
//! running digest over one stream.
//!
//! Every digest has a portable implementation, and most have a faster one for
//! processors that allow it; [`Implementation`] says which, and can force one.
//! This crate uses the calling thread only: splitting work over threads is the
//! caller's business.

mod algorithm;
mod block_hasher;
mod checksum;
#[cfg(target_arch = "x86_64")]
mod constants;
mod engine;
mod implementation;
#[cfg(target_arch = "x86_64")]
mod lanes;
#[cfg(target_arch = "x86_64")]
mod pair;
mod portable;
#[cfg(target_arch = "x86_64")]
mod x86;
mod zero;

pub use algorithm::{Algorithm, UnknownDigest};
pub use block_hasher::{BlockHasher, Interleaved, MAX_SALT};
pub use checksum::Checksum;
pub use implementation::Implementation;
pub use zero::is_zero;
