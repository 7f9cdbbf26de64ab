//! One way to read for all ways to read.

use std::io;
use std::sync::Arc;

use crate::buffer::AlignedBuffer;
use crate::device::{Device, DeviceKind};
use crate::direct::DirectReader;
use crate::error::DeviceError;
use crate::mapped::MappedReader;
use crate::positional::PositionalReader;

/// Reads ranges of a device, from many threads at once.
pub trait BlockReader: Send + Sync {
    /// The device that is read.
    fn device(&self) -> &Device;

    /// Fills `buffer` with the bytes from `position` on. An empty buffer is filled anywhere.
    ///
    /// # Errors
    ///
    /// A read error with the position where it happened.
    fn read_into(&self, position: u64, buffer: &mut [u8]) -> Result<(), DeviceError>;

    /// Whether bytes are lent where they are, without a copy: by `visit`, and by `lent`.
    fn lends(&self) -> bool {
        false
    }

    /// The `length` bytes from `position` on where they are, if this reader
    /// [lends](Self::lends). What was seen of them must not be used before
    /// [`check_lent`](Self::check_lent) has said so.
    ///
    /// # Errors
    ///
    /// Bytes that the device does not have.
    fn lent(&self, _position: u64, _length: usize) -> Result<Option<&[u8]>, DeviceError> {
        Ok(None)
    }

    /// Whether all of these bytes were there when they were looked at.
    ///
    /// # Errors
    ///
    /// A read error with its position.
    fn check_lent(&self, _position: u64, _length: usize) -> Result<(), DeviceError> {
        Ok(())
    }

    /// Lends the `length` bytes from `position` on to `visit`, which is called
    /// once; `scratch` is used where they must be copied and is at least as long.
    ///
    /// # Errors
    ///
    /// A read error with its position. If `visit` was called before the error was
    /// seen, what it saw must not be used.
    fn visit(
        &self,
        position: u64,
        length: usize,
        scratch: &mut AlignedBuffer,
        visit: &mut dyn FnMut(&[u8]),
    ) -> Result<(), DeviceError>;

    /// These bytes will not be looked at again soon: what this reader holds of them can go.
    /// Whoever calls this from many threads spares one of them to do it all at the end.
    fn forget(&self, _start: u64, _end: u64) {}
}

/// How bytes come from a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum ReadStrategy {
    /// A memory map of a file, reads at positions of a block device.
    #[default]
    Usual,
    /// Reads at positions into aligned memory.
    Positional,
    /// A memory map of the whole device.
    Mapped,
    /// Reads past the page cache.
    Direct,
}

impl ReadStrategy {
    /// A reader of this kind for a device.
    ///
    /// # Errors
    ///
    /// A map or direct reads can be refused by the system; the error says why.
    pub fn reader(self, device: Arc<Device>) -> io::Result<Box<dyn BlockReader>> {
        Ok(match self {
            // Some file systems have no maps.
            Self::Usual if device.kind() == DeviceKind::Block => Box::new(PositionalReader::new(device)),
            Self::Usual => match MappedReader::new(Arc::clone(&device)) {
                Ok(mapped) => Box::new(mapped),
                Err(_) => Box::new(PositionalReader::new(device)),
            },
            Self::Positional => Box::new(PositionalReader::new(device)),
            Self::Mapped => Box::new(MappedReader::new(device)?),
            Self::Direct => Box::new(DirectReader::new(device)?),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;
    use crate::device::Access;

    const STRATEGIES: [ReadStrategy; 4] =
        [ReadStrategy::Usual, ReadStrategy::Positional, ReadStrategy::Mapped, ReadStrategy::Direct];

    fn pattern(length: usize) -> Vec<u8> {
        (0..length).map(|at| (at * 7 + at / 256) as u8).collect()
    }

    fn file_with(content: &[u8]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().write_all_at(content, 0).unwrap();
        file
    }

    fn open(file: &tempfile::NamedTempFile, strategy: ReadStrategy) -> Box<dyn BlockReader> {
        let device = Device::open(file.path(), Access::Read).unwrap();
        strategy.reader(Arc::new(device)).unwrap()
    }

    #[test]
    fn every_strategy_gives_the_same_bytes() {
        let content = pattern(100_001);
        let file = file_with(&content);
        for strategy in STRATEGIES {
            let reader = open(&file, strategy);
            let mut scratch = AlignedBuffer::new(100_001).unwrap();
            for (start, end) in [(0, 100_001), (1, 2), (4095, 8193), (100_000, 100_001), (5, 5)] {
                let mut into = vec![0; end - start];
                reader.read_into(start as u64, &mut into).unwrap();
                assert_eq!(into, content[start..end], "{strategy:?}");
                let mut seen = Vec::new();
                reader
                    .visit(start as u64, end - start, &mut scratch, &mut |bytes| seen.extend_from_slice(bytes))
                    .unwrap();
                assert_eq!(seen, content[start..end], "{strategy:?}");
            }
        }
    }

    #[test]
    fn nothing_is_read_anywhere() {
        let file = file_with(&pattern(5000));
        for strategy in STRATEGIES {
            let reader = open(&file, strategy);
            for position in [0, 4999, 5000, 5001, 1 << 40] {
                reader.read_into(position, &mut []).unwrap();
            }
        }
    }

    #[test]
    fn a_file_that_shrinks_within_a_page_is_noticed() {
        for strategy in STRATEGIES {
            let file = file_with(&pattern(5096));
            let reader = open(&file, strategy);
            file.as_file().set_len(4097).unwrap();
            let error = reader.read_into(4096, &mut [0; 1000]).unwrap_err();
            assert!(matches!(error, DeviceError::Read { position: 4097, .. }), "{strategy:?}: {error}");
        }
    }

    #[test]
    fn an_empty_file_can_be_opened_and_has_nothing_to_read() {
        let file = file_with(b"");
        for strategy in STRATEGIES {
            let reader = open(&file, strategy);
            reader.read_into(0, &mut []).unwrap();
            assert!(reader.read_into(0, &mut [0]).is_err());
        }
    }

    #[test]
    fn a_file_that_shrinks_is_a_read_error_and_not_a_crash() {
        let content = pattern(1 << 20);
        for strategy in STRATEGIES {
            let file = file_with(&content);
            let reader = open(&file, strategy);
            let mut scratch = AlignedBuffer::new(1 << 20).unwrap();
            let mut buffer = vec![0; 1 << 20];
            file.as_file().set_len(300_000).unwrap();
            reader.read_into(0, &mut buffer[..299_000]).unwrap();
            let error = reader.read_into(0, &mut buffer).unwrap_err();
            let DeviceError::Read { position, .. } = error else { panic!("{strategy:?}: {error}") };
            assert!((300_000..=303_104).contains(&position), "{strategy:?}: {position}");
            let mut sum = 0u64;
            let visited = reader.visit(262_144, 200_000, &mut scratch, &mut |bytes| {
                sum += bytes.iter().map(|byte| u64::from(*byte)).sum::<u64>();
            });
            assert!(matches!(visited, Err(DeviceError::Read { .. })), "{strategy:?}");
        }
    }

    #[test]
    fn a_file_that_shrinks_while_it_is_read_never_crashes() {
        let content = pattern(4 << 20);
        for strategy in STRATEGIES {
            let file = file_with(&content);
            let reader = open(&file, strategy);
            let mut scratch = AlignedBuffer::new(4 << 20).unwrap();
            let result = reader.visit(0, 4 << 20, &mut scratch, &mut |bytes| {
                file.as_file().set_len(8192).unwrap();
                std::hint::black_box(bytes.iter().map(|byte| u64::from(*byte)).sum::<u64>());
            });
            match strategy {
                ReadStrategy::Positional | ReadStrategy::Direct => assert!(result.is_ok()),
                ReadStrategy::Usual | ReadStrategy::Mapped => {
                    assert!(matches!(result, Err(DeviceError::Read { .. })));
                }
            }
        }
    }
}
