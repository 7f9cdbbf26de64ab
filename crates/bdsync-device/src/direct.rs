//! Reading past the page cache.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::sync::Arc;

use rustix::fs::OFlags;

use crate::buffer::AlignedBuffer;
use crate::device::{Device, ended};
use crate::error::DeviceError;
use crate::reader::BlockReader;

/// What positions, lengths and memory must be multiples of, in bytes: enough for
/// every disk with sectors up to this size.
const ALIGNMENT: usize = 4096;

/// Reads with O_DIRECT where position, length and memory allow it, and through the
/// page cache elsewhere. What others have cached stays cached.
#[derive(Debug)]
pub(crate) struct DirectReader {
    device: Arc<Device>,
    direct: File,
}

impl DirectReader {
    pub(crate) fn new(device: Arc<Device>) -> io::Result<Self> {
        let flags = OFlags::DIRECT.bits() as i32;
        let direct = OpenOptions::new().read(true).custom_flags(flags).open(device.path())?;
        // The name could have come to mean another file since the device was opened.
        let (ours, same) = (direct.metadata()?, device.file().metadata()?);
        if (ours.dev(), ours.ino()) != (same.dev(), same.ino()) {
            return Err(io::Error::other("it was replaced while it was opened"));
        }
        Ok(Self { device, direct })
    }

    /// Reads whole aligned parts directly; `buffer` may reach past the device's end.
    fn read_aligned(&self, position: u64, wanted: usize, buffer: &mut [u8]) -> Result<(), DeviceError> {
        let mut done = 0;
        while done < wanted {
            let at = position + done as u64;
            match self.direct.read_at(&mut buffer[done..], at) {
                Ok(0) => return Err(self.device.read_error(at, ended())),
                // A short read ends at a sector that is no multiple of ours: the rest goes the other way.
                Ok(count) if !count.is_multiple_of(ALIGNMENT) && done + count < wanted => {
                    return self.device.read_at(at, &mut buffer[done..wanted]);
                }
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.device.read_error(at, error)),
            }
        }
        Ok(())
    }
}

impl BlockReader for DirectReader {
    fn device(&self) -> &Device {
        &self.device
    }

    fn read_into(&self, position: u64, buffer: &mut [u8]) -> Result<(), DeviceError> {
        let aligned = position.is_multiple_of(ALIGNMENT as u64)
            && buffer.len().is_multiple_of(ALIGNMENT)
            && (buffer.as_ptr() as usize).is_multiple_of(ALIGNMENT);
        if aligned { self.read_aligned(position, buffer.len(), buffer) } else { self.device.read_at(position, buffer) }
    }

    fn visit(
        &self,
        position: u64,
        length: usize,
        scratch: &mut AlignedBuffer,
        visit: &mut dyn FnMut(&[u8]),
    ) -> Result<(), DeviceError> {
        let whole = length.next_multiple_of(ALIGNMENT);
        if position.is_multiple_of(ALIGNMENT as u64) && whole <= scratch.len() {
            self.read_aligned(position, length, &mut scratch[..whole])?;
        } else {
            self.device.read_at(position, &mut scratch[..length])?;
        }
        visit(&scratch[..length]);
        Ok(())
    }
}
