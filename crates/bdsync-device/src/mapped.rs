//! Reading through a memory map of the whole device.

use std::io;
use std::sync::Arc;

use memmap2::{Advice, Mmap, MmapOptions, UncheckedAdvice};

use crate::buffer::AlignedBuffer;
use crate::device::{Device, DeviceKind, ended};
use crate::error::DeviceError;
use crate::reader::BlockReader;
use crate::sigbus::Guard;

/// Lends bytes without a copy. Pages that cannot be read (a failing disk, a file
/// that became shorter) are noticed after the fact and reported as a read error.
#[derive(Debug)]
pub struct MappedReader {
    device: Arc<Device>,
    // The guard must go before the map that it watches.
    guard: Option<Guard>,
    map: Option<Mmap>,
}

impl MappedReader {
    /// Maps a device as long as it is now.
    ///
    /// # Errors
    ///
    /// The system can refuse; the error says why.
    pub fn new(device: Arc<Device>) -> io::Result<Self> {
        let length = usize::try_from(device.size()).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
        if length == 0 {
            return Ok(Self { device, guard: None, map: None });
        }
        // SAFETY: the map is only ever lent as bytes that may change while they are
        // looked at (digests and comparisons of a live device have no other meaning),
        // and pages that vanish are replaced by the guard below.
        let map = unsafe { MmapOptions::new().len(length).map(device.file())? };
        // Advice: whether it is taken changes no result.
        let _ = map.advise(Advice::Sequential);
        let guard = Guard::new(map.as_ptr() as usize, length)?;
        Ok(Self { device, guard: Some(guard), map: Some(map) })
    }

    /// Lends the `length` bytes from `position` on, without a copy.
    ///
    /// # Errors
    ///
    /// A read error with its position. If `look` was called before the error was
    /// seen, what it saw must not be used.
    pub fn lend<T>(&self, position: u64, length: usize, look: impl FnOnce(&[u8]) -> T) -> Result<T, DeviceError> {
        let seen = look(self.bytes(position, length)?);
        self.check(position, length)?;
        Ok(seen)
    }

    fn bytes(&self, position: u64, length: usize) -> Result<&[u8], DeviceError> {
        if length == 0 {
            return Ok(&[]);
        }
        let map: &[u8] = self.map.as_deref().unwrap_or_default();
        let range = usize::try_from(position).ok().and_then(|start| Some(start..start.checked_add(length)?));
        range
            .and_then(|range| map.get(range))
            .ok_or_else(|| self.device.read_error(position.max(self.device.size()), ended()))
    }

    /// Whether a page of this range was missing when it was looked at.
    fn check(&self, position: u64, length: usize) -> Result<(), DeviceError> {
        let end = position + length as u64;
        // The last page of a file that became shorter is there, with zeros behind the end.
        if self.device.kind() == DeviceKind::File {
            let now = self.device.file().metadata().map_err(|error| self.device.read_error(position, error))?.len();
            if now < end && length > 0 {
                return Err(self.device.read_error(now.max(position), ended()));
            }
        }
        let Some(fault) = self.guard.as_ref().and_then(Guard::first_fault) else {
            return Ok(());
        };
        // A page was replaced by zeros for good: what lies behind it is not to be trusted either.
        if fault as u64 >= end {
            return Ok(());
        }
        // The system can say what is wrong where the map could not.
        let at = (fault as u64).max(position);
        let mut probe = [0];
        match self.device.read_at(at, &mut probe) {
            Err(error) => Err(error),
            Ok(()) => Err(self.device.read_error(at, io::Error::other("a page of the memory map could not be read"))),
        }
    }
}

impl BlockReader for MappedReader {
    fn device(&self) -> &Device {
        &self.device
    }

    fn read_into(&self, position: u64, buffer: &mut [u8]) -> Result<(), DeviceError> {
        buffer.copy_from_slice(self.bytes(position, buffer.len())?);
        self.check(position, buffer.len())
    }

    fn lends(&self) -> bool {
        true
    }

    fn lent(&self, position: u64, length: usize) -> Result<Option<&[u8]>, DeviceError> {
        self.bytes(position, length).map(Some)
    }

    fn check_lent(&self, position: u64, length: usize) -> Result<(), DeviceError> {
        self.check(position, length)
    }

    fn visit(
        &self,
        position: u64,
        length: usize,
        _scratch: &mut AlignedBuffer,
        visit: &mut dyn FnMut(&[u8]),
    ) -> Result<(), DeviceError> {
        self.lend(position, length, visit)
    }

    fn forget(&self, start: u64, end: u64) {
        let range = usize::try_from(start).ok().zip(usize::try_from(end.min(self.device.size())).ok());
        if let (Some(map), Some((start, end))) = (&self.map, range)
            && start < end
        {
            // SAFETY: the map shows a file's pages and nothing was written through it, so pages
            // that go are the file's when they come back.
            // Advice: whether it is taken changes no result.
            let _ = unsafe { map.unchecked_advise_range(UncheckedAdvice::DontNeed, start, end - start) };
        }
    }
}
