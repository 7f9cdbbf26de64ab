//! The standard streams: read and written whatever state another program left them in.

use std::fmt::Display;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use bdsync_device::{Device, MappedReader};
use bdsync_engine::Error;
use rustix::event::{PollFd, PollFlags, poll};

use crate::failure::Failure;

/// Prints a message on standard error. One that nobody can see is no reason to stop.
///
/// Control characters, which could come from a peer or a patch and upset a terminal,
/// are left out, but for the ends of lines.
pub(crate) fn say(message: impl Display) {
    let text: String = message.to_string().chars().filter(|c| *c == '\n' || !c.is_control()).chain(['\n']).collect();
    let _ = io::stderr().write_all(text.as_bytes());
}

/// A name from elsewhere as it can stand in one line.
pub(crate) fn printable(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).collect()
}

/// A standard stream without the buffering that text wants. It waits where another
/// program that shares it has made it non-blocking.
#[derive(Debug)]
pub(crate) struct Stream(File);

impl Stream {
    /// Standard input.
    pub(crate) fn input() -> Result<Self, Failure> {
        Self::from_fd(io::stdin().as_fd()).map_err(|error| Failure::Input(error.to_string()))
    }

    /// Standard output.
    pub(crate) fn output() -> Result<Self, Failure> {
        Self::from_fd(io::stdout().as_fd()).map_err(|error| Failure::Output(error.to_string()))
    }

    fn from_fd(fd: BorrowedFd<'_>) -> io::Result<Self> {
        fd.try_clone_to_owned().map(|fd| Self(File::from(fd)))
    }

    /// Whether it can be read twice.
    pub(crate) fn is_seekable(&self) -> bool {
        use std::os::unix::fs::FileTypeExt;
        let kind = self.0.metadata().map(|metadata| metadata.file_type());
        kind.is_ok_and(|kind| kind.is_file() || kind.is_block_device())
    }

    /// What is left of it, as something that can be looked at without a copy, and where
    /// that begins in bytes. Its own position stays.
    pub(crate) fn rest(&self) -> Result<(MappedReader, u64), Failure> {
        let failed = |error: io::Error| Failure::Input(format!("cannot look ahead in the patch: {error}"));
        let mut file = &self.0;
        let position = file.stream_position().map_err(failed)?;
        let device = Device::from_file(self.0.try_clone().map_err(failed)?, "standard input".into());
        // The copy shares its position with this one.
        file.seek(SeekFrom::Start(position)).map_err(failed)?;
        let reader = MappedReader::new(Arc::new(device.map_err(Error::from)?)).map_err(failed)?;
        Ok((reader, position))
    }

    fn wait(&self, events: PollFlags) -> io::Result<()> {
        match poll(&mut [PollFd::new(&self.0, events)], None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.0.read(buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.wait(PollFlags::IN)?,
                result => return result,
            }
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.0.write(bytes) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.wait(PollFlags::OUT)?,
                result => return result,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}
