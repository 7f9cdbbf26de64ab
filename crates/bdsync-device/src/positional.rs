//! Reading at positions into memory of our own.

use std::sync::Arc;

use crate::buffer::AlignedBuffer;
use crate::device::Device;
use crate::error::DeviceError;
use crate::reader::BlockReader;

/// Reads with `pread`: an error of the device is an error code, nothing else can happen.
#[derive(Debug)]
pub(crate) struct PositionalReader {
    device: Arc<Device>,
}

impl PositionalReader {
    pub(crate) fn new(device: Arc<Device>) -> Self {
        Self { device }
    }
}

impl BlockReader for PositionalReader {
    fn device(&self) -> &Device {
        &self.device
    }

    fn read_into(&self, position: u64, buffer: &mut [u8]) -> Result<(), DeviceError> {
        self.device.read_at(position, buffer)
    }

    fn visit(
        &self,
        position: u64,
        length: usize,
        scratch: &mut AlignedBuffer,
        visit: &mut dyn FnMut(&[u8]),
    ) -> Result<(), DeviceError> {
        let bytes = &mut scratch[..length];
        self.device.read_at(position, bytes)?;
        visit(bytes);
        Ok(())
    }
}
