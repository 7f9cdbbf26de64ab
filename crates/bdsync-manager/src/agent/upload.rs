//! Writing what differs into a patch at the far end, and where it can go on.

use std::collections::VecDeque;
use std::io::Write;
use std::sync::Arc;

use bdsync_device::Device;
use bdsync_engine::Error;
use bdsync_engine::tree::{Differences, PieceWriter};
use bdsync_proto::patch::{PatchStats, PatchWriter};
use bdsync_target::stream::PatchStream;
use sha2::Sha256;

/// How much is read from the source at once to be written into the patch, in bytes.
const PIECE: u64 = 128 << 10;

/// How many places are remembered where a comparison can go on.
const CHECKPOINTS: usize = 256;

/// How much of a patch is between two of them at least, in bytes.
const BETWEEN: u64 = 1 << 20;

/// A place where a comparison can go on.
#[derive(Clone)]
pub(super) struct Checkpoint {
    /// How far the device was dealt with.
    pub(super) position: u64,
    pub(super) patch: PatchStats,
    pub(super) digest: Sha256,
}

/// Writes what differs into a patch at the far end.
pub(super) struct Upload {
    patch: Option<PatchWriter<PatchStream<PieceWriter>>>,
    source: Arc<Device>,
    pub(super) checkpoints: VecDeque<Checkpoint>,
    buffer: Vec<u8>,
}

impl Upload {
    /// Goes on with what `patch` has, or begins with it.
    pub(super) fn new(
        patch: PatchWriter<PatchStream<PieceWriter>>,
        source: &Arc<Device>,
        checkpoint: Option<&Checkpoint>,
    ) -> Self {
        let checkpoints = checkpoint.cloned().into_iter().collect();
        Self { patch: Some(patch), source: Arc::clone(source), checkpoints, buffer: vec![0; PIECE as usize] }
    }

    fn patch(&mut self) -> Result<&mut PatchWriter<PatchStream<PieceWriter>>, Error> {
        self.patch.as_mut().ok_or_else(|| Error::Resources("the patch is finished".into()))
    }

    /// Ends the patch; gives what is in it and, if it is kept, its SHA-256.
    pub(super) fn finish(&mut self) -> Result<(PatchStats, Option<String>), Error> {
        let Some(patch) = self.patch.take() else { return Err(Error::Resources("the patch is finished".into())) };
        let (stream, stats) = patch.finish(None).map_err(Error::WritePeer)?;
        let (mut pieces, _, sha256) = stream.finish();
        pieces.flush().map_err(Error::WritePeer)?;
        Ok((stats, sha256))
    }
}

impl Differences for Upload {
    fn differs(&mut self, position: u64, length: u64) -> Result<(), Error> {
        let end = position + length;
        let mut buffer = std::mem::take(&mut self.buffer);
        let mut position = position;
        while position < end {
            let piece = &mut buffer[..(end - position).min(PIECE) as usize];
            self.source.read_at(position, piece)?;
            self.patch()?.write_data(position, piece).map_err(Error::WritePeer)?;
            position += piece.len() as u64;
        }
        self.buffer = buffer;
        Ok(())
    }

    fn resolved(&mut self, position: u64) -> Result<(), Error> {
        let patch = self.patch()?;
        let stats = patch.stats();
        // What is not kept cannot be gone on with.
        let Some(digest) = patch.stream().digest().cloned() else { return Ok(()) };
        let last = self.checkpoints.back().map_or(0, |checkpoint| checkpoint.patch.patch_bytes);
        if stats.patch_bytes - last.min(stats.patch_bytes) >= BETWEEN {
            if self.checkpoints.len() == CHECKPOINTS {
                self.checkpoints.pop_front();
            }
            self.checkpoints.push_back(Checkpoint { position, patch: stats, digest });
        } else if let Some(checkpoint) = self.checkpoints.back_mut()
            && checkpoint.patch.patch_bytes == stats.patch_bytes
        {
            // Nothing differed since then.
            checkpoint.position = position;
        }
        Ok(())
    }
}
