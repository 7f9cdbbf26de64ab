//! The standard streams: read and written whatever state another program left them in.

use std::fmt::Display;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;

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

    /// What is left of it, read apart from it: its own position stays.
    pub(crate) fn rest(&self) -> io::Result<Positioned<'_>> {
        let mut file = &self.0;
        Ok(Positioned { position: file.stream_position()?, file: &self.0 })
    }

    fn wait(&self, events: PollFlags) -> io::Result<()> {
        match poll(&mut [PollFd::new(&self.0, events)], None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// A file that is read at positions of our own: stepping over data costs nothing.
#[derive(Debug)]
pub(crate) struct Positioned<'a> {
    file: &'a File,
    position: u64,
}

impl Read for Positioned<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(buffer, self.position)?;
        self.position += count as u64;
        Ok(count)
    }
}

impl Seek for Positioned<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::Current(distance) => self.position.checked_add_signed(distance),
            SeekFrom::End(distance) => {
                let mut file = self.file;
                let here = file.stream_position()?;
                let end = file.seek(SeekFrom::End(0))?;
                file.seek(SeekFrom::Start(here))?;
                end.checked_add_signed(distance)
            }
        };
        self.position = position.ok_or(ErrorKind::InvalidInput)?;
        Ok(self.position)
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
