//! A patch first, whole and durable at the far end, and then the target.

use std::io;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use bdsync_device::Device;
use bdsync_engine::apply::hex;
use bdsync_engine::tree::{PieceWriter, Shape};
use bdsync_engine::{Error, SizePolicy};
use bdsync_proto::agent::AgentMessage;
use bdsync_proto::patch::{PatchHeader, PatchWriter};
use bdsync_target::ops::{AppliedPatch, Compare, Facts, PatchGoes, Place, Request, StoredPatch};
use bdsync_target::redo::RedoState;
use bdsync_target::stream::PatchStream;
use sha2::Digest;

use crate::failure::Failure;
use crate::local::vanished;
use crate::report::Phase;
use crate::run::{OpenSource, redo_state};
use crate::state::TaskStats;

use super::upload::{Checkpoint, Upload};
use super::{AgentSession, Goal, Resume};

impl AgentSession<'_> {
    /// Deals with what an earlier run left; says whether a patch was finished.
    pub(super) fn finish_earlier(&mut self, place: &Place, facts: &Facts) -> Result<bool, Failure> {
        let Some(ready) = &facts.ready else {
            let can_resume = self.job.resume.lock().unwrap_or_else(PoisonError::into_inner).is_some();
            if (facts.leftovers || facts.partial_bytes.is_some()) && !can_resume {
                let request = Request::Discard { place: place.clone(), ready: false, path: Some(self.target()) };
                self.call::<serde::de::IgnoredAny>(&request).map_err(|failure| failure.during("removing leftovers"))?;
            }
            return Ok(false);
        };
        if self.about.append_only_patches {
            return Err(Failure::new(format!(
                "the patch of an earlier run is still to be applied at {}, whose agent applies none (--append-only-patches)",
                self.connection.name()
            )));
        }
        let objection = match &ready.state {
            None => Some("there is no state file to it that is understood".to_string()),
            Some(state) => {
                let target = facts.size.unwrap_or(state.target_bytes);
                state.objection(ready.bytes, Some(&ready.sha256), target)
            }
        };
        match (objection, &ready.state) {
            (None, Some(state)) => {
                tracing::warn!(task = self.task.name, "Finishing the patch that a run of {} left", state.created);
                self.job.reporter.phase(Phase::Finish, state.patch_bytes);
                self.apply(place, state)
            }
            (why, _) => {
                let why = why.unwrap_or_default();
                tracing::warn!(
                    task = self.task.name,
                    "The patch of an earlier run cannot be applied: {why}. All is compared anew"
                );
                Ok(false)
            }
        }
    }

    pub(super) fn two_phases(
        &mut self,
        source: &mut OpenSource,
        place: &Place,
        facts: &Facts,
        goal: Goal,
        stats: &mut TaskStats,
    ) -> Result<(), Failure> {
        let Goal { size, before: target_bytes, is_new, created } = goal;
        let started = Instant::now();
        self.job.comparing(self.task, source)?;
        self.job.reporter.phase(Phase::Compare, size);
        let generating = |failure: Failure| failure.during("generating the patch; the target was not changed");
        let before = self.job.resume.lock().unwrap_or_else(PoisonError::into_inner).take();
        let before = before.filter(|resume| {
            (resume.source_bytes, resume.target_bytes, &resume.identity)
                == (source.size(), target_bytes, &facts.identity)
                && resume.shape.length == size
        });
        let partial = facts.partial_bytes.unwrap_or(0);
        let checkpoint = before.as_ref().and_then(|resume| {
            resume.checkpoints.iter().rev().find(|checkpoint| checkpoint.patch.patch_bytes <= partial).cloned()
        });
        let mut shape = match &before {
            Some(resume) => resume.shape.clone(),
            None => self.shape(size)?,
        };
        shape.start = checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.position);
        let mut request = Compare::new(&self.target(), &shape);
        request.flush_cache = self.task.compare.flush_cache;
        let (offset, sha256) = match &checkpoint {
            Some(checkpoint) => {
                let offset = checkpoint.patch.patch_bytes;
                tracing::info!(task = self.task.name, "Going on at {} bytes of the source", checkpoint.position);
                (offset, hex(&checkpoint.digest.clone().finalize()))
            }
            None => (0, String::new()),
        };
        request.patch = Some(PatchGoes::Stored { place: place.clone(), offset, sha256 });
        match self.begin(request, target_bytes) {
            // It cannot be gone on with (its machine may have lost the end of it).
            Err(Failure::Permanent(why)) if checkpoint.is_some() => {
                tracing::warn!(task = self.task.name, "{why}. All is compared anew");
                return self.two_phases(source, place, facts, goal, stats);
            }
            Err(failure) => {
                // What was found so far is as good as before.
                *self.job.resume.lock().unwrap_or_else(PoisonError::into_inner) = before;
                return Err(generating(failure));
            }
            Ok(()) => {}
        }
        let mut upload = self.upload(source.device()?, size, true, checkpoint.as_ref())?;
        let compared = self.send(source.device()?, &shape, &mut upload);
        let (patch, sha256) = compared.map_err(|failure| {
            if failure.is_worth_a_retry() {
                let resume = Resume {
                    shape: Shape { start: 0, ..shape.clone() },
                    source_bytes: source.size(),
                    target_bytes,
                    identity: facts.identity.clone(),
                    checkpoints: std::mem::take(&mut upload.checkpoints),
                };
                *self.job.resume.lock().unwrap_or_else(PoisonError::into_inner) = Some(resume);
            } else {
                self.abandon();
            }
            generating(failure)
        })?;
        let sha256 = sha256.unwrap_or_default();
        drop(upload);
        self.job.compared(self.task, source);
        stats.scanned_bytes = size;
        stats.changed_bytes = patch.data_bytes;
        stats.patch_bytes = patch.patch_bytes;
        let is_resized = target_bytes != size && (is_new || self.task.compare.size_policy != SizePolicy::MinSize);
        if patch.record_count == 0 && !is_resized {
            self.end::<serde::de::IgnoredAny>(false).map_err(generating)?;
            if facts.ready.is_some() {
                // Source and target are equal: nothing is left for it to do.
                let request = Request::Discard { place: place.clone(), ready: true, path: Some(self.target()) };
                self.call::<serde::de::IgnoredAny>(&request)?;
                self.job.note(|pending| pending.patch = false);
            }
            stats.generate_seconds = started.elapsed().as_secs_f64();
            return Ok(());
        }
        self.job.reporter.phase(Phase::Commit, patch.patch_bytes);
        let stored: StoredPatch = self.end(true).map_err(generating)?;
        if (stored.patch_bytes, &stored.sha256) != (patch.patch_bytes, &sha256) {
            self.discard(place);
            return Err(generating(Failure::Connection("the stored patch is not what was sent".into())));
        }
        if !created {
            self.keep_for_rollback(patch.data_bytes).map_err(|failure| {
                self.discard(place);
                failure.during("keeping the target as it was; it was not changed")
            })?;
        }
        let state = redo_state(self.task, (patch.patch_bytes, sha256), size, target_bytes);
        let request = Request::Commit { place: place.clone(), state: state.clone(), path: Some(self.target()) };
        let committed = self.call::<serde::de::IgnoredAny>(&request);
        committed.map_err(|failure| {
            self.discard(place);
            failure.during("checking the stored patch; the target was not changed")
        })?;
        self.job.note(|pending| pending.patch = true);
        stats.generate_seconds = started.elapsed().as_secs_f64();
        let started = Instant::now();
        if self.about.append_only_patches {
            tracing::warn!(
                task = self.task.name,
                "The patch is ready at {}, whose agent applies none (--append-only-patches)",
                self.connection.name()
            );
            return Ok(());
        }
        if !self.apply(place, &state)? {
            return Err(vanished());
        }
        stats.apply_seconds = started.elapsed().as_secs_f64();
        Ok(())
    }

    /// What writes the patch, which is `kept` at the far end or applied at once.
    pub(super) fn upload(
        &self,
        source: &Arc<Device>,
        size: u64,
        kept: bool,
        checkpoint: Option<&Checkpoint>,
    ) -> Result<Upload, Failure> {
        let pieces = PieceWriter::new(self.link.output().clone(), AgentMessage::Patch, self.link.zstd())?;
        let new = if kept { PatchStream::new } else { PatchStream::unhashed };
        let mut stream = new(pieces, self.task.bandwidth_limit, &self.job.control.cancellation);
        let broken = |error: io::Error| Failure::from(Error::WritePatch(error));
        let patch = match checkpoint {
            Some(checkpoint) => {
                stream.resume(checkpoint.patch.patch_bytes, checkpoint.digest.clone());
                PatchWriter::resume(stream, size, checkpoint.patch)
            }
            None => {
                let device = self.task.target.as_os_str().as_encoded_bytes().to_vec();
                PatchWriter::new(stream, &PatchHeader { size, device }).map_err(broken)?
            }
        };
        Ok(Upload::new(patch, source, checkpoint))
    }

    /// Has the ready patch applied; says whether there still was one.
    pub(super) fn apply(&mut self, place: &Place, state: &RedoState) -> Result<bool, Failure> {
        self.job.reporter.phase(Phase::Apply, state.patch_bytes);
        let size_policy = self.task.compare.size_policy.into();
        let request = Request::Apply { path: self.target(), place: place.clone(), size_policy };
        let applied = self.call::<AppliedPatch>(&request).map_err(|failure| {
            failure.during("applying the patch (it stays at the target until the next run finishes it)")
        })?;
        self.job.note(|pending| pending.patch = false);
        Ok(!applied.done_before)
    }

    /// Removes what is worth nothing; if that does not work, the next run does it.
    pub(super) fn discard(&mut self, place: &Place) {
        let request = Request::Discard { place: place.clone(), ready: false, path: Some(self.target()) };
        if let Err(failure) = self.call::<serde::de::IgnoredAny>(&request) {
            tracing::debug!(task = self.task.name, "Not cleaned up: {failure}");
        }
    }
}
