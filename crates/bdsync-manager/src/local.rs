//! A target on this machine: compared directly, patched in two phases or in place.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::num::NonZeroUsize;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use bdsync_device::{Access, Device, DeviceKind, plain};
use bdsync_engine::compare::{CompareOptions, CompareStats, compare};
use bdsync_engine::{Error, SizePolicy};
use bdsync_proto::patch::{PatchHeader, PatchWriter};
use bdsync_target::guard::{self, TargetLock};
use bdsync_target::lvm::Lvm;
use bdsync_target::redo::{Redo, RedoState};
use bdsync_target::stream::PatchStream;
use bdsync_target::volume::{self, VolumeName, VolumeState};

use crate::config::{Task, Verify};
use crate::failure::Failure;
use crate::report::Phase;
use crate::run::{Job, OpenSource, Ranges, redo_state};
use crate::state::TaskStats;

/// How many parts of a mebibyte a sample has.
const SAMPLE: NonZeroUsize = NonZeroUsize::new(64).unwrap();

/// Takes the source's bytes of what differs.
pub(crate) type Difference<'a> = dyn FnMut(u64, &[u8]) -> Result<(), Error> + 'a;

/// What a target of this machine is compared with.
pub(crate) trait Source {
    /// Its size in bytes.
    fn size(&self) -> u64;

    /// Its path, if it is on this machine.
    fn path(&self) -> Option<&Path>;

    /// Compares; the source's bytes of what differs go to `difference`, in order.
    fn compare(
        &mut self,
        target: &Arc<Device>,
        options: &CompareOptions,
        difference: &mut Difference<'_>,
        job: &Job<'_>,
    ) -> Result<CompareStats, Failure>;

    /// It is about to be compared.
    fn comparing(&mut self, _: &Task, _: &Job<'_>) -> Result<(), Failure> {
        Ok(())
    }

    /// It was compared, and is not needed any more unless there is something to verify.
    fn compared(&mut self, _: &Task, _: &Job<'_>) {}
}

impl Source for OpenSource {
    fn size(&self) -> u64 {
        OpenSource::size(self)
    }

    fn path(&self) -> Option<&Path> {
        self.device().ok().map(|device| Device::path(device))
    }

    fn compare(
        &mut self,
        target: &Arc<Device>,
        options: &CompareOptions,
        difference: &mut Difference<'_>,
        job: &Job<'_>,
    ) -> Result<CompareStats, Failure> {
        Ok(compare(self.device()?, target, options, difference, job.context())?)
    }

    fn comparing(&mut self, task: &Task, job: &Job<'_>) -> Result<(), Failure> {
        job.comparing(task, self)
    }

    fn compared(&mut self, task: &Task, job: &Job<'_>) {
        job.compared(task, self);
    }
}

/// Brings the target up to date with `source`.
pub(crate) fn run(task: &Task, source: &mut dyn Source, job: &Job<'_>) -> Result<TaskStats, Failure> {
    let redo = redo(task)?;
    let created = ensure_target(task, source.size())?;
    check(source, task)?;
    let mut lock = guard::lock_target(&task.target)?;
    let mut stats = TaskStats::default();
    if let Some(redo) = &redo {
        stats.finished_earlier_patch = finish_earlier(redo, task, &lock, job)?;
    }
    if task.volume.is_some() && Device::open(&task.target, Access::Read)?.size() != source.size() {
        // Whoever has it open keeps LVM from changing it.
        drop(lock);
        ensure_volume(task, source.size(), false)?;
        lock = guard::lock_target(&task.target)?;
    }
    let target = Device::open(&task.target, Access::Read)?;
    // One that was just made, or by a run that was killed right after that.
    let is_new = task.create_target && target.kind() == DeviceKind::File && target.size() == 0;
    let size = final_size(task, source.size(), target.size(), target.kind() == DeviceKind::Block, is_new)
        .map_err(|failure| after_earlier(failure, &stats))?;
    let target = Target { device: target, lock: &lock, is_new, created };
    match &redo {
        Some(redo) if !task.in_place => two_phases(task, source, target, size, redo, job, &mut stats)?,
        _ => {
            in_place(task, source, target, size, job, &mut stats)?;
            // One that could not be applied must not be some other day.
            if let Some(redo) = redo.filter(|redo| matches!(redo.is_ready(), Ok(true))) {
                redo.drop_ready().map_err(|error| Failure::from(error).during("the target is up to date"))?;
            }
        }
    }
    job.note(|pending| pending.partly_changed = false);
    if task.verify != Verify::Off {
        job.reporter.phase(Phase::Verify, size);
        let (ranges, found) = differences(task, source, task.verify == Verify::Sample, job)?;
        stats.verified_bytes = found.compared_bytes;
        ranges.must_be_none(found.differing_blocks)?;
    }
    // Whoever has it open keeps LVM from changing it.
    drop(lock);
    settle_volume(task, source.size())?;
    Ok(stats)
}

/// The task's patches. In place there may be no folder for them.
fn redo(task: &Task) -> Result<Option<Redo>, Failure> {
    let folder = task.patch_folder.as_deref().filter(|folder| !task.in_place || folder.is_dir());
    Ok(folder.map(|folder| Redo::new(folder, &task.target)).transpose()?)
}

/// What a run would find: how much differs. Nothing is written.
pub(crate) fn dry_run(task: &Task, source: &mut dyn Source, job: &Job<'_>) -> Result<TaskStats, Failure> {
    if !task.target.exists() {
        return match task.create_target {
            true => Ok(TaskStats { changed_bytes: source.size(), ..TaskStats::default() }),
            false => Err(missing()),
        };
    }
    check(source, task)?;
    job.reporter.phase(Phase::Compare, source.size());
    let (_, found) = differences(task, source, false, job)?;
    Ok(TaskStats { scanned_bytes: found.compared_bytes, changed_bytes: found.differing_bytes, ..TaskStats::default() })
}

/// The ranges that differ between the two, as (start, end) in bytes, and the totals.
pub(crate) fn differences(
    task: &Task,
    source: &mut dyn Source,
    sample: bool,
    job: &Job<'_>,
) -> Result<(Ranges, CompareStats), Failure> {
    let target = Arc::new(Device::open(&task.target, Access::Read)?);
    let (from, to) = (source.size(), target.size());
    // What counts is what the disk has, and not what was written to it just now.
    target.release(0, to);
    let mut options = options(task, from.min(to));
    options.sample = sample.then_some(SAMPLE);
    let mut ranges = Ranges::default();
    let mut difference = |position: u64, bytes: &[u8]| {
        ranges.add(position, position + bytes.len() as u64);
        Ok(())
    };
    let mut stats = source.compare(&target, &options, &mut difference, job)?;
    // What only one of them has differs, whatever it is.
    if from != to && (task.compare.size_policy != SizePolicy::MinSize || (task.volume.is_some() && to < from)) {
        ranges.add(from.min(to), from.max(to));
        stats.differing_blocks += from.abs_diff(to).div_ceil(options.block_size);
        stats.differing_bytes += from.saturating_sub(to);
    }
    Ok((ranges, stats))
}

pub(crate) fn missing() -> Failure {
    Failure::new("The target does not exist (while 'create_target_if_missing' is disabled)")
}

/// Sees to it that a target that is a logical volume holds what it has to; says whether it
/// was made.
fn ensure_volume(task: &Task, bytes: u64, cut: bool) -> Result<bool, Failure> {
    let Some(volume) = &task.volume else { return Ok(false) };
    let name = VolumeName::new(&task.target, &volume.group)?;
    let state = volume::ensure(&Lvm::new(&volume.program), &name, &volume.wish(task, bytes, cut))?;
    tell_of_volume(task, &state);
    Ok(state.created)
}

/// All is in the target that has to be: what is behind it may go, and old ways back.
fn settle_volume(task: &Task, bytes: u64) -> Result<(), Failure> {
    let Some(volume) = &task.volume else { return Ok(()) };
    if volume.snapshots > 0 {
        let name = VolumeName::new(&task.target, &volume.group)?;
        volume::settle_rollback(&Lvm::new(&volume.program), &name, volume.snapshots)?;
    }
    if volume.shrink && Device::open(&task.target, Access::Read)?.size() > bytes {
        ensure_volume(task, bytes, true)?;
    }
    Ok(())
}

/// Says what became of a target that is a logical volume.
pub(crate) fn tell_of_volume(task: &Task, state: &VolumeState) {
    let (target, bytes) = (task.target.display(), state.bytes);
    if let Some(snapshot) = &state.kept_by {
        tracing::warn!(
            task = task.name,
            "The target volume {target} stays larger than the source: LVM makes none smaller that has snapshots, such as {snapshot}"
        );
    }
    match state.before_bytes {
        None => tracing::warn!(task = task.name, "Created the missing target volume {target} ({bytes} bytes)"),
        Some(before) if before != bytes => {
            tracing::warn!(task = task.name, "Resized the target volume {target} from {before} to {bytes} bytes");
        }
        Some(_) => {}
    }
}

/// Keeps a target that is a logical volume as it is, as the way back.
fn keep_for_rollback(task: &Task, changed_bytes: u64) -> Result<(), Failure> {
    let wanted = task.volume.as_ref().and_then(|volume| Some((volume, volume.rollback(task, changed_bytes)?)));
    let Some((volume, rollback)) = wanted else {
        return Ok(());
    };
    let name = VolumeName::new(&task.target, &volume.group)?;
    let kept = volume::keep_for_rollback(&Lvm::new(&volume.program), &name, &rollback)?;
    tracing::info!(task = task.name, "The target as it was is kept as {}/{kept}", volume.group);
    Ok(())
}

/// Makes the target if it is missing and may be made; says whether it was.
fn ensure_target(task: &Task, bytes: u64) -> Result<bool, Failure> {
    let target = &task.target;
    match fs::metadata(target) {
        Ok(_) => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::NotFound && task.volume.is_some() => {
            ensure_volume(task, bytes, false)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound && task.create_target => {
            guard::check_place(target)?;
            tracing::warn!(task = task.name, "Creating missing target file: {}", target.display());
            File::options().write(true).create_new(true).mode(0o600).open(target).map(|_| true).map_err(|error| {
                Failure::new(format!("cannot create the target {}: {}", target.display(), plain(&error)))
            })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(missing()),
        Err(error) => Err(Failure::new(format!("cannot look at {}: {}", target.display(), plain(&error)))),
    }
}

/// Refuses targets that must not be written.
fn check(source: &dyn Source, task: &Task) -> Result<(), Failure> {
    match source.path() {
        Some(path) => Ok(guard::check(path, &task.target)?),
        None => match guard::busy(&task.target)? {
            Some(why) => Err(Failure::new(format!("the target {} {why}; nothing was changed", task.target.display()))),
            None => Ok(()),
        },
    }
}

/// What `check` tells of a local target: whether it is there, and has a ready patch.
pub(crate) fn look(task: &Task, source: &dyn Source) -> Result<(bool, bool), Failure> {
    let redo = redo(task)?;
    let exists = task.target.exists();
    if exists {
        check(source, task)?;
        let target = Device::open(&task.target, Access::Read)?;
        check_size(task, source.size(), target.size(), target.kind() == DeviceKind::Block)?;
    } else if task.volume.is_none() {
        if !task.create_target {
            return Err(missing());
        }
        guard::check_place(&task.target)?;
        let folder = task.target.parent().filter(|folder| !folder.as_os_str().is_empty());
        if let Some(folder) = folder.filter(|folder| !folder.is_dir()) {
            let text = format!("the target's folder {} does not exist", folder.display());
            return Err(Failure::new(text));
        }
    }
    Ok((exists, redo.map_or(Ok(false), |redo| redo.is_ready())?))
}

/// Refuses sizes that a run would refuse.
pub(crate) fn check_size(task: &Task, from: u64, to: u64, is_block: bool) -> Result<(), Failure> {
    // A volume is made as large as it has to be.
    if task.volume.is_some() {
        return Ok(());
    }
    let is_new = task.create_target && !is_block && to == 0;
    final_size(task, from, to, is_block, is_new).map(drop)
}

/// A failure of a run that may have applied the patch of an earlier one before.
pub(crate) fn after_earlier(failure: Failure, stats: &TaskStats) -> Failure {
    match stats.finished_earlier_patch {
        true => failure.during("after the patch of an earlier run was applied, whose state the target has now"),
        false => failure,
    }
}

/// The size that a target shall have, if the task allows it.
pub(crate) fn final_size(task: &Task, from: u64, to: u64, is_block: bool, is_new: bool) -> Result<u64, Failure> {
    if from == to {
        return Ok(from);
    }
    if task.volume.is_some() && to < from {
        return Err(Failure::new(format!(
            "the source has {from} bytes, and the target volume only {to}; nothing was changed"
        )));
    }
    match task.compare.size_policy {
        SizePolicy::MinSize if !is_new && to == 0 => {
            return Err(Failure::new("The target is empty, and size_policy = \"minsize\" would leave it so"));
        }
        SizePolicy::MinSize if !is_new => {
            if to < from {
                let missing = from - to;
                tracing::warn!(
                    task = task.name,
                    "The target has only {to} bytes: the last {missing} of the source are not in it (size_policy = \"minsize\")"
                );
            }
            return Ok(from.min(to));
        }
        SizePolicy::Strict if !is_new => {
            return Err(Failure::new(format!(
                "Different sizes: the source has {from} bytes and the target {to}; nothing was changed (size_policy = \"resize\" gives the target the source's size, \"minsize\" leaves out what only one of them has)"
            )));
        }
        _ => {}
    }
    if is_block {
        return Err(Failure::new(format!(
            "Different sizes: the source has {from} bytes and the target {to}, and a block device cannot be resized from here"
        )));
    }
    Ok(from)
}

fn options(task: &Task, length: u64) -> CompareOptions {
    CompareOptions {
        block_size: task.compare.block_size,
        length,
        sample: None,
        flush_cache: task.compare.flush_cache,
        scan: task.compare.direct_scan(),
    }
}

fn in_place(
    task: &Task,
    source: &mut dyn Source,
    target: Target<'_>,
    size: u64,
    job: &Job<'_>,
    stats: &mut TaskStats,
) -> Result<(), Failure> {
    let started = Instant::now();
    let Target { device, lock, created, .. } = target;
    drop(device);
    lock.check(&task.target)?;
    source.comparing(task, job)?;
    if !created {
        keep_for_rollback(task, 0)?;
    }
    let _claim = guard::claim(&task.target)?;
    let mut target = Device::open(&task.target, Access::ReadWrite)?;
    let was_partly_changed = job.is_partly_changed();
    job.note(|pending| pending.partly_changed = true);
    let resize = task.compare.size_policy != SizePolicy::MinSize || target.size() == 0;
    let is_resized = target.size() != size && resize;
    if is_resized {
        target.resize(size)?;
    }
    let target = Arc::new(target);
    job.reporter.phase(Phase::Compare, size);
    let mut written = 0;
    let mut throttle = PatchStream::unhashed(io::sink(), task.bandwidth_limit, &job.control.cancellation);
    let mut difference = |position: u64, bytes: &[u8]| {
        if task.bandwidth_limit.is_some() {
            throttle.write_all(bytes).map_err(|_| Error::Cancelled)?;
        }
        target.write_at(position, bytes)?;
        written += bytes.len() as u64;
        Ok(())
    };
    let compared = source.compare(&target, &options(task, size), &mut difference, job);
    let compared = compared.and_then(|compared| {
        target.sync()?;
        Ok(compared)
    });
    let compared = compared.map_err(|failure| match written {
        0 => {
            job.note(|pending| pending.partly_changed = was_partly_changed || is_resized);
            failure
        }
        _ => failure.during(&format!("{} is PARTLY CHANGED ({written} bytes, in place)", task.target.display())),
    })?;
    stats.scanned_bytes = compared.compared_bytes;
    stats.changed_bytes = compared.differing_bytes;
    stats.apply_seconds = started.elapsed().as_secs_f64();
    Ok(())
}

/// A target that is there.
struct Target<'a> {
    device: Device,
    lock: &'a TargetLock,
    is_new: bool,
    /// Whether this run made it: there is nothing to go back to.
    created: bool,
}

fn two_phases(
    task: &Task,
    source: &mut dyn Source,
    target: Target<'_>,
    size: u64,
    redo: &Redo,
    job: &Job<'_>,
    stats: &mut TaskStats,
) -> Result<(), Failure> {
    let started = Instant::now();
    redo.check_space(job.expected_patch_bytes.min(size))?;
    source.comparing(task, job)?;
    job.reporter.phase(Phase::Compare, size);
    let Target { device, lock, is_new, created } = target;
    let target_bytes = device.size();
    let (found, patch) = write(redo, task, source, &Arc::new(device), size, job).inspect_err(|_| redo.discard())?;
    source.compared(task, job);
    stats.scanned_bytes = found.compared_bytes;
    stats.changed_bytes = found.differing_bytes;
    stats.patch_bytes = patch.0;
    let resize = target_bytes != size && (is_new || task.compare.size_policy != SizePolicy::MinSize);
    if found.differing_bytes == 0 && !resize {
        if redo.is_ready()? {
            // Source and target are equal: nothing is left for it to do.
            redo.drop_ready()?;
        }
        redo.discard();
        stats.generate_seconds = started.elapsed().as_secs_f64();
        return Ok(());
    }
    job.reporter.phase(Phase::Commit, patch.0);
    if !created {
        keep_for_rollback(task, found.differing_bytes).inspect_err(|_| redo.discard())?;
    }
    let state = redo_state(task, patch, size, target_bytes);
    redo.commit(&state, None, job.context()).inspect_err(|_| redo.discard())?;
    stats.generate_seconds = started.elapsed().as_secs_f64();
    let started = Instant::now();
    if !apply(redo, task, &state, lock, job)? {
        return Err(vanished());
    }
    stats.apply_seconds = started.elapsed().as_secs_f64();
    Ok(())
}

/// Deals with what an earlier run left; says whether a patch was finished. One that is of
/// no use stays until there is a better one.
fn finish_earlier(redo: &Redo, task: &Task, lock: &TargetLock, job: &Job<'_>) -> Result<bool, Failure> {
    let mut finished = false;
    if redo.is_ready()? {
        match (redo.objection(&task.target, job.context())?, redo.ready_state()?) {
            (None, Some(state)) => {
                tracing::warn!(task = task.name, "Finishing the patch that a run of {} left", state.created);
                job.reporter.phase(Phase::Finish, state.patch_bytes);
                finished = apply(redo, task, &state, lock, job)?;
            }
            (why, _) => {
                let why = why.unwrap_or_default();
                tracing::warn!(
                    task = task.name,
                    "The patch of an earlier run cannot be applied: {why}. All is compared anew"
                );
            }
        }
    }
    redo.discard();
    Ok(finished)
}

/// Compares, and writes the patch; gives its length and SHA-256.
fn write(
    redo: &Redo,
    task: &Task,
    source: &mut dyn Source,
    target: &Arc<Device>,
    size: u64,
    job: &Job<'_>,
) -> Result<(CompareStats, (u64, String)), Failure> {
    let failed = |error: io::Error| Failure::from(redo.write_failed(&error));
    let file = redo.begin()?;
    let stream =
        PatchStream::new(BufWriter::with_capacity(1 << 18, file), task.bandwidth_limit, &job.control.cancellation);
    let header = PatchHeader { size, device: task.target.as_os_str().as_encoded_bytes().to_vec() };
    let mut patch = PatchWriter::new(stream, &header).map_err(failed)?;
    let mut write_error = None;
    let mut difference = |position: u64, bytes: &[u8]| {
        patch.write_data(position, bytes).map_err(|error| {
            write_error = Some(error);
            Error::Cancelled
        })
    };
    let found = source.compare(target, &options(task, size), &mut difference, job);
    if let Some(error) = write_error
        && !job.control.cancellation.is_cancelled()
    {
        return Err(failed(error));
    }
    let found = found?;
    let (stream, _) = patch.finish(None).map_err(failed)?;
    let (mut buffer, bytes, sha256) = stream.finish();
    buffer.flush().map_err(failed)?;
    let file = buffer.into_inner().map_err(|error| failed(error.into_error()))?;
    // A failing disk may say so only here.
    file.sync_all().map_err(failed)?;
    Ok((found, (bytes, sha256.unwrap_or_default())))
}

/// Applies the ready patch and removes it; says whether there still was one.
fn apply(redo: &Redo, task: &Task, state: &RedoState, lock: &TargetLock, job: &Job<'_>) -> Result<bool, Failure> {
    job.reporter.phase(Phase::Apply, state.patch_bytes);
    lock.check(&task.target)?;
    Ok(redo.apply(&task.target, state, task.compare.size_policy, job.context())?.is_some())
}

/// A patch that was ready a moment ago is not there any more.
pub(crate) fn vanished() -> Failure {
    Failure::new(
        "The ready patch has vanished before it was applied (does something clean up target_patch_dir?); the target was not changed",
    )
}
