//! Writing a patch.

use std::io::{self, Write};

use super::{FORMAT_VERSION, MAGIC, PatchChecksum, PatchHeader};
use crate::limits::{MAX_DEVICE_NAME, MAX_DIGEST, MAX_DIGEST_NAME, MAX_POSITION, MAX_WRITTEN_RECORD};

/// What was written into a patch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PatchStats {
    /// Length of the whole patch.
    pub patch_bytes: u64,
    /// How many records it has.
    pub record_count: u64,
    /// Length of the data in its records.
    pub data_bytes: u64,
}

/// Writes a patch to a stream.
///
/// Writes are small: give it a buffered stream. Without
/// [`finish`](Self::finish) the patch has no end marker and no reader takes it for a whole one.
#[derive(Debug)]
pub struct PatchWriter<W> {
    stream: W,
    size: u64,
    stats: PatchStats,
}

impl<W: Write> PatchWriter<W> {
    /// Writes the header.
    ///
    /// # Errors
    ///
    /// What the stream says; `InvalidInput` for a name or a size beyond the limits.
    pub fn new(mut stream: W, header: &PatchHeader) -> io::Result<Self> {
        if header.device.len() > MAX_DEVICE_NAME || header.size > MAX_POSITION {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "device name or size beyond the patch format"));
        }
        let name_length = header.device.len() as u16;
        stream.write_all(MAGIC)?;
        stream.write_all(FORMAT_VERSION)?;
        stream.write_all(&header.size.to_le_bytes())?;
        stream.write_all(&name_length.to_le_bytes())?;
        stream.write_all(&header.device)?;
        let patch_bytes = (MAGIC.len() + FORMAT_VERSION.len() + 8 + 2 + header.device.len()) as u64;
        Ok(Self { stream, size: header.size, stats: PatchStats { patch_bytes, ..PatchStats::default() } })
    }

    /// Goes on with a patch for a device of `size` bytes of which something was written
    /// before, up to the end of a record.
    pub fn resume(stream: W, size: u64, stats: PatchStats) -> Self {
        Self { stream, size, stats }
    }

    /// The stream that is written to.
    pub fn stream(&mut self) -> &mut W {
        &mut self.stream
    }

    /// Writes `data` as it shall stand at `position`, in pieces of at most
    /// [`MAX_WRITTEN_RECORD`] bytes.
    ///
    /// # Errors
    ///
    /// What the stream says; `InvalidInput` for data past the size in the header.
    pub fn write_data(&mut self, position: u64, data: &[u8]) -> io::Result<()> {
        let end = position.checked_add(data.len() as u64);
        if end.is_none_or(|end| end > self.size) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "record past the end of the device"));
        }
        let mut position = position;
        for piece in data.chunks(MAX_WRITTEN_RECORD) {
            let mut head = [0; 10];
            head[..8].copy_from_slice(&position.to_le_bytes());
            head[8..].copy_from_slice(&(piece.len() as u16).to_le_bytes());
            self.stream.write_all(&head)?;
            self.stream.write_all(piece)?;
            position += piece.len() as u64;
            self.stats.record_count += 1;
            self.stats.data_bytes += piece.len() as u64;
            self.stats.patch_bytes += (head.len() + piece.len()) as u64;
        }
        Ok(())
    }

    /// What was written so far.
    pub fn stats(&self) -> PatchStats {
        self.stats
    }

    /// Writes the end marker and the checksum, flushes, and gives back the stream.
    ///
    /// # Errors
    ///
    /// What the stream says; `InvalidInput` for a checksum beyond the limits.
    pub fn finish(mut self, checksum: Option<&PatchChecksum>) -> io::Result<(W, PatchStats)> {
        let mut tail = vec![0; 10];
        match checksum {
            None => tail.push(0),
            Some(PatchChecksum { name, digest }) => {
                if !(1..=MAX_DIGEST_NAME).contains(&name.len()) || digest.len() > MAX_DIGEST {
                    return Err(io::Error::new(io::ErrorKind::InvalidInput, "checksum beyond the patch format"));
                }
                tail.push(name.len() as u8);
                tail.extend_from_slice(name.as_bytes());
                tail.push(digest.len() as u8);
                tail.extend_from_slice(digest);
            }
        }
        self.stream.write_all(&tail)?;
        self.stream.flush()?;
        self.stats.patch_bytes += tail.len() as u64;
        Ok((self.stream, self.stats))
    }
}
