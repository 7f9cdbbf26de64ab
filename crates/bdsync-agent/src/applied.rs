//! A patch that comes and is applied at once, in a thread of its own.

use std::io::{self, Read};
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

use bdsync_engine::apply::{ApplyOptions, apply};
use bdsync_engine::tree::{PatchSink, Piece};
use bdsync_engine::{Cancellation, Context, Error, Event, SizePolicy};
use bdsync_target::TargetError;
use bdsync_target::guard::Claim;
use bdsync_target::ops::AppliedPatch;

/// How many pieces wait to be applied.
const AHEAD: usize = 8;

/// A patch that is applied while it comes.
pub(crate) struct Applied {
    to: Option<SyncSender<Piece>>,
    /// Memory of pieces that are applied.
    used: Receiver<Vec<u8>>,
    thread: Option<std::thread::JoinHandle<Result<u64, Error>>>,
}

impl Drop for Applied {
    fn drop(&mut self) {
        // Nothing is written any more once the target's lock is let go of.
        drop(self.to.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Applied {
    /// Begins to change `target`, which is claimed until that is over.
    ///
    /// # Errors
    ///
    /// There is no thread for it.
    pub(crate) fn start(target: &Path, size_policy: SizePolicy, claim: Claim) -> Result<Self, TargetError> {
        let failed = |error: io::Error| TargetError::refused(format!("cannot apply in place: {error}"));
        let (to, pieces) = sync_channel(AHEAD);
        let (free, used) = channel();
        let reader = Pieces { pieces, piece: None, free };
        let options = ApplyOptions {
            device: Some(target.into()),
            size_policy,
            warn_size: false,
            warn_device: false,
            punch_holes: false,
            read_ahead: false,
            verify: None,
        };
        let thread = std::thread::Builder::new()
            .name("apply".into())
            .spawn(move || {
                let cancellation = Cancellation::new();
                let context = Context { observer: &|_: &Event| {}, cancellation: &cancellation };
                let applied = apply(reader, &options, context).map(|stats| stats.written_bytes);
                drop(claim);
                applied
            })
            .map_err(failed)?;
        Ok(Self { to: Some(to), used, thread: Some(thread) })
    }

    /// Waits until everything is written and durable.
    ///
    /// # Errors
    ///
    /// It is not; the target may be partly changed.
    pub(crate) fn finish(mut self) -> Result<AppliedPatch, TargetError> {
        drop(self.to.take());
        match self.thread.take().map(std::thread::JoinHandle::join) {
            Some(Ok(written)) => Ok(AppliedPatch { written_bytes: written?, done_before: false }),
            _ => Err(TargetError::refused("applying ended in a way that it must not")),
        }
    }
}

impl PatchSink for Applied {
    fn write(&mut self, piece: Piece) -> Result<Option<Vec<u8>>, Error> {
        // If it has ended, why is said at the end.
        if self.to.as_ref().is_some_and(|to| to.send(piece).is_err()) {
            self.to = None;
        }
        Ok(self.used.try_recv().ok())
    }
}

/// Reads pieces one after another, and gives their memory back.
struct Pieces {
    pieces: Receiver<Piece>,
    piece: Option<(Piece, usize)>,
    free: Sender<Vec<u8>>,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some((piece, done)) = &mut self.piece {
                let rest = &piece.bytes()[*done..];
                if !rest.is_empty() || buffer.is_empty() {
                    let length = rest.len().min(buffer.len());
                    buffer[..length].copy_from_slice(&rest[..length]);
                    *done += length;
                    return Ok(length);
                }
            }
            if let Some((piece, _)) = self.piece.take() {
                // Who has everything needs no more memory.
                let _ = self.free.send(piece.into_memory());
            }
            match self.pieces.recv() {
                Ok(piece) => self.piece = Some((piece, 0)),
                Err(_) => return Ok(0),
            }
        }
    }
}
