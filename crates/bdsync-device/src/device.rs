//! One open file or block device.

use std::ffi::OsStr;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Advice, FallocateFlags, fadvise, fallocate};
use rustix::io::Errno;

use crate::error::DeviceError;
use crate::extent::Extent;

/// How many zeros are written at once, in bytes.
const ZEROS: u64 = 1 << 16;

/// What a device is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reading only.
    Read,
    /// Reading and writing.
    ReadWrite,
}

/// What stands behind a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    /// A regular file; it can change its size and have holes.
    File,
    /// A block device; its size is fixed.
    Block,
}

/// An open file or block device.
#[derive(Debug)]
pub struct Device {
    file: File,
    path: PathBuf,
    kind: DeviceKind,
    size: u64,
}

impl Device {
    /// Opens a file or a block device and asks for its size.
    ///
    /// # Errors
    ///
    /// What the system says, or that it is something else, such as a folder or a pipe.
    pub fn open(path: impl AsRef<OsStr>, access: Access) -> Result<Self, DeviceError> {
        let path = PathBuf::from(path.as_ref());
        let failed = |source| DeviceError::Open { path: path.clone(), source };
        let refused = |kind| DeviceError::Kind { path: path.clone(), kind };
        // Opening a pipe would wait for its other end, so it is looked at before.
        kind_of(&std::fs::metadata(&path).map_err(failed)?).map_err(refused)?;
        let opened = OpenOptions::new().read(true).write(access == Access::ReadWrite).open(&path);
        Self::from_file(opened.map_err(failed)?, path.clone())
    }

    /// Takes a file that is open already; `path` is what errors call it. The file's own position moves.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn from_file(mut file: File, path: PathBuf) -> Result<Self, DeviceError> {
        let failed = |source| DeviceError::Open { path: path.clone(), source };
        let refused = |kind| DeviceError::Kind { path: path.clone(), kind };
        let kind = kind_of(&file.metadata().map_err(failed)?).map_err(refused)?;
        // The end of a block device is its BLKGETSIZE64.
        let size = file.seek(SeekFrom::End(0)).map_err(failed)?;
        Ok(Self { file, path, kind, size })
    }

    /// The path that it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A file or a block device.
    pub fn kind(&self) -> DeviceKind {
        self.kind
    }

    /// Its size in bytes when it was opened or last resized.
    pub fn size(&self) -> u64 {
        self.size
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Fills `buffer` with the bytes from `position` on.
    ///
    /// # Errors
    ///
    /// What the system says; an end before the buffer is full is an error, too.
    /// The position in the error is that of the first byte that could not be read.
    pub fn read_at(&self, position: u64, buffer: &mut [u8]) -> Result<(), DeviceError> {
        let mut done = 0;
        while done < buffer.len() {
            let at = position + done as u64;
            match self.file.read_at(&mut buffer[done..], at) {
                Ok(0) => return Err(self.read_error(at, ended())),
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.read_error(at, error)),
            }
        }
        Ok(())
    }

    /// Writes `data` at `position`.
    ///
    /// # Errors
    ///
    /// What the system says, with the position of the first byte that was not written.
    pub fn write_at(&self, position: u64, data: &[u8]) -> Result<(), DeviceError> {
        let mut done = 0;
        while done < data.len() {
            let at = position + done as u64;
            match self.file.write_at(&data[done..], at) {
                Ok(0) => return Err(self.write_error(at, io::ErrorKind::WriteZero.into())),
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.write_error(at, error)),
            }
        }
        Ok(())
    }

    /// Makes the `length` bytes from `position` on read as zeros, without storing them
    /// where the file system or the disk can do that, and by writing zeros elsewhere.
    ///
    /// # Errors
    ///
    /// A write error with its position.
    pub fn write_zeros(&self, position: u64, length: u64) -> Result<(), DeviceError> {
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match fallocate(&self.file, punch, position, length) {
            Ok(()) => return Ok(()),
            // Not here, or not at this alignment.
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL | Errno::NODEV) => {}
            Err(error) => return Err(self.write_error(position, error.into())),
        }
        let zeros = vec![0; length.min(ZEROS) as usize];
        let mut done = 0;
        while done < length {
            let piece = (length - done).min(ZEROS) as usize;
            self.write_at(position + done, &zeros[..piece])?;
            done += piece as u64;
        }
        Ok(())
    }

    /// Gives a file another size. What is added is a hole.
    ///
    /// # Errors
    ///
    /// A block device keeps its size; for files what the system says.
    pub fn resize(&mut self, size: u64) -> Result<(), DeviceError> {
        let failed =
            |reason: String| DeviceError::Resize { path: self.path.clone(), from: self.size, to: size, reason };
        if self.kind == DeviceKind::Block {
            return Err(failed("a block device keeps its size; resize it with the tool that made it".into()));
        }
        self.file.set_len(size).map_err(|error| failed(crate::error::plain(&error)))?;
        self.size = size;
        Ok(())
    }

    /// Makes everything that was written durable.
    ///
    /// # Errors
    ///
    /// What the system says; nothing that was written may be relied on then, and reading gives
    /// what the disk has, as far as the page cache can be made to forget the rest.
    pub fn sync(&self) -> Result<(), DeviceError> {
        self.file.sync_all().map_err(|source| {
            // Pages that could not be written count as clean from now on, and would hide that
            // from whoever compares them.
            self.release(0, self.size);
            DeviceError::Sync { path: self.path.clone(), source }
        })
    }

    /// Tells the system that these bytes will not be needed again soon: their
    /// place in the page cache can be given back.
    pub fn release(&self, start: u64, end: u64) {
        let Some(length) = end.checked_sub(start).and_then(std::num::NonZeroU64::new) else {
            return;
        };
        // Advice: whether it is taken changes no result.
        let _ = fadvise(&self.file, start, Some(length), Advice::DontNeed);
    }

    /// The data or hole that `position` lies in, as far as the file system tells.
    /// Where it tells nothing, everything is data.
    pub fn extent_at(&self, position: u64) -> Extent {
        crate::extent::query(&self.file, position, self.size)
    }

    pub(crate) fn read_error(&self, position: u64, source: io::Error) -> DeviceError {
        DeviceError::Read { path: self.path.clone(), position, source }
    }

    fn write_error(&self, position: u64, source: io::Error) -> DeviceError {
        DeviceError::Write { path: self.path.clone(), position, source }
    }
}

/// What a path leads to, if it can be synchronised.
fn kind_of(metadata: &Metadata) -> Result<DeviceKind, &'static str> {
    let file_type = metadata.file_type();
    // `/dev/null` stands for an empty file.
    let is_null = file_type.is_char_device() && metadata.rdev() == rustix::fs::makedev(1, 3);
    if file_type.is_file() || is_null {
        Ok(DeviceKind::File)
    } else if file_type.is_block_device() {
        Ok(DeviceKind::Block)
    } else if file_type.is_dir() {
        Err("Is a directory")
    } else if file_type.is_char_device() {
        Err("Is a character device")
    } else {
        Err("Is a pipe or a socket")
    }
}

/// The error for a device that is shorter than it was.
pub(crate) fn ended() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "it ends here, but was longer when it was opened")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn image(content: &[u8]) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(content).unwrap();
        file
    }

    #[test]
    fn what_was_written_is_read_back() {
        let file = image(&[0; 100]);
        let device = Device::open(file.path(), Access::ReadWrite).unwrap();
        assert_eq!((device.size(), device.kind()), (100, DeviceKind::File));
        device.write_at(40, b"hello").unwrap();
        device.sync().unwrap();
        let mut buffer = [0; 7];
        device.read_at(39, &mut buffer).unwrap();
        assert_eq!(&buffer, b"\0hello\0");
    }

    #[test]
    fn an_end_before_the_buffer_is_full_is_an_error_with_its_position() {
        let file = image(&[1; 100]);
        let device = Device::open(file.path(), Access::Read).unwrap();
        let error = device.read_at(90, &mut [0; 20]).unwrap_err();
        assert!(matches!(error, DeviceError::Read { position: 100, .. }), "{error}");
    }

    #[test]
    fn a_file_grows_and_shrinks_without_taking_space() {
        use std::os::unix::fs::MetadataExt;
        let file = image(&[1; 10]);
        let mut device = Device::open(file.path(), Access::ReadWrite).unwrap();
        device.resize(1 << 30).unwrap();
        assert_eq!(device.size(), 1 << 30);
        assert!(file.as_file().metadata().unwrap().blocks() < 100);
        device.resize(0).unwrap();
        assert_eq!(file.as_file().metadata().unwrap().len(), 0);
    }

    #[test]
    fn zeros_take_no_space_where_that_is_possible() {
        use std::os::unix::fs::MetadataExt;
        let file = image(&[1; 1 << 20]);
        let device = Device::open(file.path(), Access::ReadWrite).unwrap();
        let before = file.as_file().metadata().unwrap().blocks();
        device.write_zeros(4096, (1 << 20) - 8192).unwrap();
        assert!(file.as_file().metadata().unwrap().blocks() < before / 2);
        let mut content = vec![9; 1 << 20];
        device.read_at(0, &mut content).unwrap();
        assert!(content[4096..(1 << 20) - 4096].iter().all(|&byte| byte == 0));
        assert_eq!((content[4095], content[(1 << 20) - 4096]), (1, 1));
    }

    #[test]
    fn folders_pipes_and_missing_files_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let kind = Device::open(folder.path(), Access::Read).unwrap_err();
        assert!(matches!(kind, DeviceError::Kind { .. }), "{kind}");
        let zero = Device::open("/dev/zero", Access::Read).unwrap_err();
        assert!(zero.to_string().contains("character device"), "{zero}");
        assert_eq!(Device::open("/dev/null", Access::Read).unwrap().size(), 0);
        let missing = Device::open(folder.path().join("no"), Access::Read).unwrap_err();
        assert!(missing.to_string().ends_with("]: No such file or directory"), "{missing}");
        let pipe = folder.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap();
        assert!(matches!(Device::open(&pipe, Access::Read), Err(DeviceError::Kind { .. })));
    }

    #[test]
    fn writing_to_a_device_opened_for_reading_is_an_error() {
        let file = image(&[0; 10]);
        let device = Device::open(file.path(), Access::Read).unwrap();
        assert!(matches!(device.write_at(0, b"x"), Err(DeviceError::Write { position: 0, .. })));
    }
}
