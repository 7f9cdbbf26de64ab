//! A far end with our agent there (`proto-spec/agent.md`): one process and one connection
//! do a whole task.

mod session;
mod source;
mod two_phases;
mod upload;
mod volume;

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Instant;

use bdsync_device::Device;
use bdsync_engine::tree::{Differences, Link, Shape, TreeStats, tree_client};
use bdsync_engine::{Cancellation, Error, Scanner, SizePolicy};
use bdsync_proto::agent::AgentMessage;
use bdsync_proto::patch::PatchStats;
use bdsync_target::ops::{About, AppliedPatch, Compare, Compared, Facts, PatchGoes, Place, Request};
use bdsync_target::redo::file_stem;
use serde::de::DeserializeOwned;

use crate::config::{Task, Verify};
use crate::end::{SAMPLE, far_source_size, size_changed};
use crate::failure::Failure;
use crate::local::{after_earlier, check_size, final_size, missing};
use crate::remote::{Connection, Session};
use crate::report::Phase;
use crate::run::{Job, OpenSource, Ranges};
use crate::state::TaskStats;
use session::{LAST_WORDS, show};
use source::AgentSource;
use upload::{Checkpoint, Upload};

/// Length of a salt, in bytes.
const SALT: usize = 16;

/// A running agent.
pub(crate) struct AgentSession<'a> {
    task: &'a Task,
    job: &'a Job<'a>,
    link: Link,
    session: Option<Session>,
    connection: Connection,
    kill: Cancellation,
    about: About,
    /// Whether a comparison is going on that has to be given up.
    is_comparing: bool,
}

/// What becomes of a target.
#[derive(Clone, Copy)]
struct Goal {
    /// The size that it shall have, in bytes.
    size: u64,
    /// The size that it has, in bytes.
    before: u64,
    is_new: bool,
    /// Whether this run made it: there is nothing to go back to.
    created: bool,
}

/// Where a comparison can go on after its connection broke.
pub(crate) struct Resume {
    shape: Shape,
    source_bytes: u64,
    target_bytes: u64,
    identity: Option<String>,
    checkpoints: VecDeque<Checkpoint>,
}

impl<'a> AgentSession<'a> {
    fn target(&self) -> String {
        self.task.target.to_string_lossy().into_owned()
    }

    fn place(&self) -> Option<Place> {
        let folder = self.task.patch_folder.as_ref()?;
        Some(Place { folder: folder.to_string_lossy().into_owned(), stem: file_stem(&self.task.target) })
    }

    fn facts(&mut self) -> Result<Facts, Failure> {
        let (path, place) = (self.target(), self.place());
        self.call(&Request::Facts { path, place })
    }

    /// Refuses what must not or cannot be done, before anything is.
    fn check(&self, facts: &Facts) -> Result<(), Failure> {
        let target = self.task.target.display();
        if let Some(busy) = &facts.busy {
            return Err(Failure::new(format!("the target {target} {busy}; nothing was changed")));
        }
        match facts.kind.as_str() {
            "other" => return Err(Failure::new(format!("the target {target} is neither a file nor a block device"))),
            // A volume may be there and not be active.
            "missing" if !self.task.create_target && self.task.volume.is_none() => return Err(missing()),
            _ => {}
        }
        match &self.task.patch_folder {
            Some(folder) if !self.task.in_place && (!facts.folder || !facts.writable) => Err(Failure::new(format!(
                "the patch folder {} (target_patch_dir) is not there, or cannot be written",
                folder.display()
            ))),
            _ => Ok(()),
        }
    }

    /// What `check` tells: whether the target is there, and has a ready patch.
    pub(crate) fn look(&mut self, source_bytes: u64) -> Result<(bool, bool), Failure> {
        let facts = self.facts()?;
        self.check(&facts)?;
        if let Some(size) = facts.size {
            check_size(self.task, source_bytes, size, facts.kind == "block")?;
        }
        match facts.kind != "missing" || self.task.create_target {
            true => Ok((facts.kind != "missing", facts.ready.is_some())),
            false => Err(missing()),
        }
    }

    /// What a run would find. Nothing is written.
    pub(crate) fn dry_run(&mut self, source: &Arc<Device>) -> Result<TaskStats, Failure> {
        let facts = self.facts()?;
        self.check(&facts)?;
        if facts.kind == "missing" && !self.task.create_target {
            return Err(missing());
        }
        if facts.kind == "missing" {
            return Ok(TaskStats { changed_bytes: source.size(), ..TaskStats::default() });
        }
        self.job.reporter.phase(Phase::Compare, source.size());
        let (_, found) = self.differences(source, None)?;
        let (scanned_bytes, changed_bytes) = (found.compared_bytes, found.differing_bytes);
        Ok(TaskStats { scanned_bytes, changed_bytes, ..TaskStats::default() })
    }

    /// Brings the far target up to date with `source`.
    pub(crate) fn push(mut self, source: &mut OpenSource) -> Result<TaskStats, Failure> {
        let preparing = |failure: Failure| failure.during("preparing");
        let mut facts = self.facts().map_err(preparing)?;
        self.check(&facts)?;
        let mut created = false;
        if facts.kind == "missing" && self.task.volume.is_some() {
            created = self.ensure_volume(source.size(), false).map_err(preparing)?;
            facts = self.facts().map_err(preparing)?;
        } else if facts.kind == "missing" {
            let target = self.task.target.display();
            tracing::warn!(task = self.task.name, "Creating missing target file: {target}");
            let path = self.target();
            self.call::<serde::de::IgnoredAny>(&Request::Create { path })
                .map_err(|failure| failure.during("creating the target"))?;
            facts = self.facts().map_err(preparing)?;
        }
        let mut stats = TaskStats::default();
        let place = self.place().filter(|_| !self.task.in_place || facts.folder);
        if let Some(place) = &place {
            stats.finished_earlier_patch = self.finish_earlier(place, &facts)?;
            facts = self.facts().map_err(preparing)?;
            self.job.note(|pending| pending.patch = facts.ready.is_some());
            let expected = self.job.expected_patch_bytes.min(source.size());
            if !self.task.in_place
                && let Some(free) = facts.free_bytes.filter(|free| *free < expected.max(4096))
            {
                return Err(Failure::NoSpace(format!(
                    "not enough space in the patch folder {}: {free} bytes are free, and the last patch had {expected}; nothing was changed",
                    place.folder
                )));
            }
        }
        // One that applies nothing resizes nothing either; whoever applies does, if it must be.
        let is_enough = self.about.append_only_patches && facts.size >= Some(source.size());
        if self.task.volume.is_some() && facts.size != Some(source.size()) && !is_enough {
            self.ensure_volume(source.size(), false).map_err(preparing)?;
            facts = self.facts().map_err(preparing)?;
        }
        let target_bytes = facts.size.unwrap_or(0);
        // One that was just made, or by a run that was killed right after that.
        let is_new = self.task.create_target && facts.kind == "file" && target_bytes == 0;
        let size = final_size(self.task, source.size(), target_bytes, facts.kind == "block", is_new)
            .map_err(|failure| after_earlier(failure, &stats))?;
        let goal = Goal { size, before: target_bytes, is_new, created };
        match place {
            Some(place) if !self.task.in_place => self.two_phases(source, &place, &facts, goal, &mut stats)?,
            place => {
                self.in_place(source, goal, &mut stats)?;
                // One that could not be applied must not be some other day.
                if let Some(place) = place.filter(|_| facts.ready.is_some()) {
                    let path = Some(self.target());
                    let removed = self.call::<serde::de::IgnoredAny>(&Request::Discard { place, ready: true, path });
                    removed.map_err(|failure| failure.during("the target is up to date"))?;
                    self.job.note(|pending| pending.patch = false);
                }
            }
        }
        if !self.about.append_only_patches {
            self.job.note(|pending| pending.partly_changed = false);
        }
        if self.task.verify != Verify::Off && !self.about.append_only_patches {
            self.job.reporter.phase(Phase::Verify, source.size());
            let parts = (self.task.verify == Verify::Sample).then_some(SAMPLE);
            let (ranges, found) =
                self.differences(source.device()?, parts).map_err(|failure| failure.during("verifying"))?;
            stats.verified_bytes = found.compared_bytes;
            ranges.must_be_none(found.differing_blocks)?;
        }
        self.settle_volume(source.size()).map_err(|failure| failure.during("the target is up to date"))?;
        Ok(stats)
    }

    fn shape(&self, length: u64) -> Result<Shape, Failure> {
        let compare = &self.task.compare;
        let mut salt = vec![0; SALT];
        let filled = rustix::rand::getrandom(&mut salt, rustix::rand::GetRandomFlags::empty());
        filled.map_err(|error| Failure::from(Error::Random(error.into())))?;
        Ok(Shape::new(compare.block_size, compare.digest.algorithm, salt, length))
    }

    /// Has the agent begin a comparison of its device, which had `bytes` bytes before.
    fn begin(&mut self, request: Compare, bytes: u64) -> Result<(), Failure> {
        let path = request.path.clone();
        let compared = self.call::<Compared>(&Request::Compare(request))?;
        self.is_comparing = true;
        if compared.size != bytes {
            self.abandon();
            return Err(size_changed(&path, self.connection.name(), bytes, compared.size));
        }
        Ok(())
    }

    /// Compares, as it was begun, with what `differences` makes of it; the agent waits for
    /// the end then.
    fn compare(
        &mut self,
        device: &Arc<Device>,
        shape: &Shape,
        fetch: bool,
        differences: &mut dyn Differences,
    ) -> Result<TreeStats, Failure> {
        let scanner = Scanner::new(Arc::clone(device), self.task.compare.scan())?;
        if self.task.compare.flush_cache {
            scanner.flush_cache();
        }
        let found = tree_client(&mut self.link, &scanner, shape, fetch, differences, self.job.context());
        found.map_err(|error| {
            // After its answer it expects no end any more.
            self.is_comparing = !matches!(error, Error::Remote(_));
            self.blame(error)
        })
    }

    /// Compares and sends the patch; gives what is in it and, if it is kept, its SHA-256.
    fn send(
        &mut self,
        source: &Arc<Device>,
        shape: &Shape,
        upload: &mut Upload,
    ) -> Result<(PatchStats, Option<String>), Failure> {
        self.compare(source, shape, false, upload)?;
        upload.finish().map_err(|error| self.blame(error))
    }

    /// Ends a comparison.
    fn end<T: DeserializeOwned>(&mut self, complete: bool) -> Result<T, Failure> {
        self.is_comparing = false;
        let ended = self.link.output().send(AgentMessage::End, &[&[u8::from(!complete)]]);
        let reporter = self.job.reporter;
        let answer = ended.and_then(|()| self.link.answer(&mut |payload| show(payload, reporter), self.job.context()));
        self.take(answer)
    }

    fn in_place(&mut self, source: &mut OpenSource, goal: Goal, stats: &mut TaskStats) -> Result<(), Failure> {
        let Goal { size, before: target_bytes, is_new, created } = goal;
        let started = Instant::now();
        self.job.reporter.phase(Phase::Compare, size);
        let partly = |failure: Failure| {
            failure.during("changing the target in place; it may be PARTLY CHANGED until a run ends well")
        };
        self.job.comparing(self.task, source)?;
        let keeping = |failure: Failure| failure.during("keeping the target as it was; it was not changed");
        if !created {
            self.keep_for_rollback(0).map_err(keeping)?;
        }
        let policy = if is_new { SizePolicy::Resize } else { self.task.compare.size_policy };
        let shape = self.shape(size)?;
        let mut request = Compare::new(&self.target(), &shape);
        request.flush_cache = self.task.compare.flush_cache;
        request.patch = Some(PatchGoes::Applied { in_place: policy.into() });
        self.begin(request, target_bytes)?;
        self.job.note(|pending| pending.partly_changed = true);
        let mut upload = self.upload(source.device()?, size, false, None)?;
        let (patch, _) = self.send(source.device()?, &shape, &mut upload).map_err(|failure| {
            self.abandon();
            partly(failure)
        })?;
        self.end::<AppliedPatch>(true).map_err(partly)?;
        stats.scanned_bytes = size;
        stats.changed_bytes = patch.data_bytes;
        stats.patch_bytes = patch.patch_bytes;
        stats.apply_seconds = started.elapsed().as_secs_f64();
        Ok(())
    }

    /// Has the agent remove a partial patch, even when everything is to end.
    fn abandon(&mut self) {
        if !std::mem::take(&mut self.is_comparing) {
            return;
        }
        let observer = |_: &bdsync_engine::Event| {};
        let context = bdsync_engine::Context { observer: &observer, cancellation: &self.kill };
        // Not for longer than a cancelled task would wait: an agent can go on talking.
        let kill = self.kill.clone();
        self.connection.runtime().spawn(async move {
            tokio::time::sleep(LAST_WORDS).await;
            kill.cancel();
        });
        let sent = self.link.output().send(AgentMessage::End, &[&[1]]);
        // If it does not come to that, the next run does it.
        let _ = sent.and_then(|()| self.link.answer(&mut |_| {}, context));
    }

    /// The ranges that differ, as (start, end) in bytes, and the totals; of `parts` only.
    pub(crate) fn differences(
        &mut self,
        source: &Arc<Device>,
        parts: Option<NonZeroUsize>,
    ) -> Result<(Ranges, TreeStats), Failure> {
        let facts = self.facts()?;
        if facts.kind == "missing" {
            return Err(Failure::new(format!("the target {} does not exist", self.task.target.display())));
        }
        let (from, to) = (source.size(), facts.size.unwrap_or(0));
        let mut shape = self.shape(from.min(to))?;
        shape.parts = parts;
        let mut request = Compare::new(&self.target(), &shape);
        request.flush_cache = self.task.compare.flush_cache;
        // What counts is what the disk has, and not what was written to it just now.
        request.fresh = true;
        let mut ranges = RangeList::default();
        self.begin(request, to)?;
        let mut found = self.compare(source, &shape, false, &mut ranges)?;
        self.end::<serde::de::IgnoredAny>(true)?;
        // What only one of them has differs, whatever it is.
        let is_short = self.task.volume.is_some() && to < from;
        if from != to && (self.task.compare.size_policy != SizePolicy::MinSize || is_short) {
            ranges.0.add(from.min(to), from.max(to));
            found.differing_blocks += from.abs_diff(to).div_ceil(shape.block_size);
            found.differing_bytes += from.saturating_sub(to);
        }
        Ok((ranges.0, found))
    }

    /// A source at the far end.
    pub(crate) fn into_source(mut self) -> Result<AgentSource<'a>, Failure> {
        let path = self.task.source.to_string_lossy().into_owned();
        let facts: Facts = self.call(&Request::Facts { path, place: None })?;
        let size = far_source_size(self.task, self.connection.name(), &facts.kind, facts.size)?;
        Ok(AgentSource { agent: self, size })
    }
}

#[derive(Default)]
struct RangeList(Ranges);

impl Differences for RangeList {
    fn differs(&mut self, position: u64, length: u64) -> Result<(), Error> {
        self.0.add(position, position + length);
        Ok(())
    }
}
