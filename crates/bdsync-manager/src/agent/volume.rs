//! Targets of the agent's machine that are logical volumes.

use bdsync_target::ops::{NewSnapshot, Request};
use bdsync_target::volume::VolumeState;

use super::AgentSession;
use crate::failure::Failure;
use crate::local::tell_of_volume;

impl AgentSession<'_> {
    /// Sees to it that a target that is a logical volume holds what it has to; says whether it
    /// was made.
    pub(super) fn ensure_volume(&mut self, bytes: u64, cut: bool) -> Result<bool, Failure> {
        let Some(volume) = &self.task.volume else { return Ok(false) };
        let (path, vg, wish) = (self.target(), volume.group.clone(), volume.wish(self.task, bytes, cut));
        let state: VolumeState = self.call(&Request::Volume { path, vg, wish })?;
        tell_of_volume(self.task, &state);
        Ok(state.created)
    }

    /// All is in the target that has to be: what is behind it may go, and old ways back.
    pub(super) fn settle_volume(&mut self, bytes: u64) -> Result<(), Failure> {
        let Some(volume) = self.task.volume.as_ref().filter(|_| !self.about.append_only_patches) else { return Ok(()) };
        if volume.snapshots > 0 {
            let (path, vg, keep) = (self.target(), volume.group.clone(), volume.snapshots);
            self.call::<serde::de::IgnoredAny>(&Request::VolumeSettled { path, vg, keep })?;
        }
        if volume.shrink && self.facts()?.size.is_some_and(|size| size > bytes) {
            self.ensure_volume(bytes, true)?;
        }
        Ok(())
    }

    /// Keeps a target that is a logical volume as it is, as the way back.
    pub(super) fn keep_for_rollback(&mut self, changed_bytes: u64) -> Result<(), Failure> {
        let wanted = self.task.volume.as_ref();
        let wanted = wanted.and_then(|volume| Some((&volume.group, volume.rollback(self.task, changed_bytes)?)));
        // An agent that applies nothing makes no snapshots either; whoever applies does.
        let Some((group, rollback)) = wanted.filter(|_| !self.about.append_only_patches) else { return Ok(()) };
        let (path, vg) = (self.target(), group.clone());
        let kept: NewSnapshot = self.call(&Request::VolumeSnapshot { path, vg, rollback })?;
        tracing::info!(task = self.task.name, "The target as it was is kept as {group}/{}", kept.name);
        Ok(())
    }
}
