//! Page-aligned memory.

use std::io;
use std::ops::{Deref, DerefMut};

use memmap2::MmapMut;

/// Zeroed memory that begins at a page's start.
///
/// Reads into memory that begins elsewhere in a page run at a third of the speed.
#[derive(Debug)]
pub struct AlignedBuffer(MmapMut);

impl AlignedBuffer {
    /// A buffer of `length` bytes; pages take memory when they are first written.
    ///
    /// # Errors
    ///
    /// What the system says when there is no memory.
    pub fn new(length: usize) -> io::Result<Self> {
        MmapMut::map_anon(length.max(1)).map(Self)
    }
}

impl Deref for AlignedBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl DerefMut for AlignedBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}
