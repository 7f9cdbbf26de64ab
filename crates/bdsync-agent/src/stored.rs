//! A patch that comes and becomes a file: hashed in the thread that takes it, and written
//! in one of its own.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::sync::mpsc::{Receiver, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;

use bdsync_engine::tree::{PatchSink, Piece};
use bdsync_engine::{Context, Error};
use bdsync_target::TargetError;
use bdsync_target::ops::StoredPatch;
use bdsync_target::redo::Redo;
use bdsync_target::stream::PatchStream;

/// How much is gathered to be written, in bytes: less than what comes with a message,
/// which so is not copied.
const GATHERED: usize = 64 << 10;

/// How many pieces wait to be written.
const AHEAD: usize = 8;

/// The patch, and who writes it.
pub(crate) struct Stored {
    redo: Redo,
    /// Counts and hashes.
    stream: Option<PatchStream<io::Sink>>,
    to: Option<SyncSender<Piece>>,
    /// Memory of pieces that are written.
    used: Receiver<Vec<u8>>,
    writer: Option<JoinHandle<io::Result<File>>>,
}

impl Stored {
    /// Begins one, or goes on with one after its first `offset` bytes, which must have this
    /// SHA-256.
    ///
    /// # Errors
    ///
    /// It is not that patch, or the file cannot be made.
    pub(crate) fn new(redo: Redo, offset: u64, sha256: &str, context: Context<'_>) -> Result<Self, TargetError> {
        let resumed = match offset {
            0 => None,
            _ => match redo.resume(offset, sha256, context)? {
                Some(resumed) => Some(resumed),
                None => {
                    return Err(TargetError::refused("the partial patch is not the one that is to be gone on with"));
                }
            },
        };
        let (file, before) = match resumed {
            Some((file, digest)) => (file, Some(digest)),
            None => (redo.begin()?, None),
        };
        let mut stream = PatchStream::new(io::sink(), None, context.cancellation);
        if let Some(digest) = before {
            stream.resume(offset, digest);
        }
        let (to, pieces) = sync_channel::<Piece>(AHEAD);
        let (free, used) = channel();
        let write = move || {
            let mut file = BufWriter::with_capacity(GATHERED, file);
            for piece in pieces {
                file.write_all(piece.bytes())?;
                // Who has everything needs no more memory.
                let _ = free.send(piece.into_memory());
            }
            file.into_inner().map_err(io::IntoInnerError::into_error)
        };
        let writer = std::thread::Builder::new().name("store".into()).spawn(write);
        let writer = writer.map_err(|error| Error::Resources(format!("cannot start a thread: {error}")))?;
        Ok(Self { redo, stream: Some(stream), to: Some(to), used, writer: Some(writer) })
    }

    /// Waits until everything is written.
    fn written(&mut self) -> io::Result<File> {
        self.to = None;
        let over = || io::Error::other("writing ended in a way that it must not");
        self.writer.take().and_then(|writer| writer.join().ok()).unwrap_or_else(|| Err(over()))
    }

    /// Makes it durable.
    ///
    /// # Errors
    ///
    /// It could not be written.
    pub(crate) fn finish(mut self) -> Result<StoredPatch, TargetError> {
        // A failing disk may say so only when it has to.
        let synced = self.written().and_then(|file| file.sync_all());
        synced.map_err(|error| self.redo.write_failed(&error))?;
        let over = || TargetError::refused("the patch is finished");
        let (_, patch_bytes, sha256) = self.stream.take().map(PatchStream::finish).ok_or_else(over)?;
        Ok(StoredPatch { patch_bytes, sha256: sha256.ok_or_else(over)? })
    }

    /// Removes it.
    pub(crate) fn discard(mut self) {
        // What cannot be written is not wanted any more.
        let _ = self.written();
        self.redo.discard();
    }
}

impl Drop for Stored {
    fn drop(&mut self) {
        // Nothing is written any more once the target's lock is let go of.
        let _ = self.written();
    }
}

impl PatchSink for Stored {
    fn write(&mut self, piece: Piece) -> Result<Option<Vec<u8>>, Error> {
        let over = || Error::WritePatch(io::ErrorKind::BrokenPipe.into());
        self.stream.as_mut().ok_or_else(over)?.write_all(piece.bytes()).map_err(Error::WritePatch)?;
        let sent = self.to.as_ref().is_some_and(|to| to.send(piece).is_ok());
        match sent {
            true => Ok(self.used.try_recv().ok()),
            // It ends early only with an error.
            false => Err(Error::WritePatch(self.written().err().unwrap_or_else(|| io::ErrorKind::BrokenPipe.into()))),
        }
    }
}
