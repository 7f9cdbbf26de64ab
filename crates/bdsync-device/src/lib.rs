//! Files and block devices as something with a size, bytes at positions, and holes.
//!
//! A [`Device`] is opened once and can be shared between threads. Its bytes are
//! read through a [`BlockReader`]: positional reads, direct ones, or a memory map that reports
//! a failing or shrinking device as an error where others die of SIGBUS.
//!
//! This crate knows nothing of protocols and digests. All sizes and positions are bytes.

mod buffer;
mod device;
mod direct;
mod error;
mod extent;
mod mapped;
mod positional;
mod reader;
mod sigbus;

pub use buffer::AlignedBuffer;
pub use device::{Access, Device, DeviceKind};
pub use error::{DeviceError, plain};
pub use extent::{Extent, ExtentMap};
pub use mapped::MappedReader;
pub use reader::{BlockReader, ReadStrategy};
