//! Consistent sources: snapshots that are compared in their place (`docs/snapshots.md`).

mod clone;
mod hold;
mod volume;
mod watch;

use std::collections::HashMap;
use std::path::Path;

use bdsync_target::lvm::Lvm;

use crate::config::{SnapshotKind, Task};
use crate::failure::Failure;
use crate::hooks::{self, Moment};
use crate::run::Control;
use crate::state::Pending;
use clone::Clone;
use hold::Hold;
use volume::{Plan, Surroundings};

/// The tag of every snapshot of a source that is ours.
pub(crate) const TAG: &str = "bdsync-manager";

/// A source as it is at one moment.
pub(crate) trait Snapshot: Send {
    /// Where it can be read.
    fn path(&self) -> &Path;

    /// What it is called, if it can be left behind.
    fn name(&self) -> Option<String>;

    /// Keeps an eye on it until it is removed.
    fn watch(&mut self, task: &Task);

    /// What is wrong with it, if a read error may come of that; `done` is how much of the
    /// comparison was done, from 0 to 1.
    fn diagnose(&self, done: f64) -> Option<String>;

    /// Takes it away.
    fn remove(&mut self) -> Result<(), Failure>;
}

/// Takes the snapshots that these tasks ask for, all in one go: those of one moment, as far
/// as hooks or `fsfreeze` see to that. All of them, or none.
pub(crate) fn take(tasks: &[&Task], control: &Control) -> Result<Vec<Box<dyn Snapshot>>, Failure> {
    take_all(tasks, control).map_err(|failure| failure.during("taking the snapshot; nothing was changed"))
}

fn take_all(tasks: &[&Task], control: &Control) -> Result<Vec<Box<dyn Snapshot>>, Failure> {
    let mut plans = plan(tasks, control)?;
    let mut hold = None;
    let hooks_before = around(tasks, control, |task| task.hooks.snapshot_before.as_deref(), Moment::SnapshotBefore);
    let taken = hooks_before.and_then(|()| {
        let held: Vec<_> =
            tasks.iter().zip(&plans).filter(|(task, _)| task.hold_writes).map(|(_, plan)| plan).collect();
        if !held.is_empty() {
            hold = Some(Hold::start(held.iter().filter_map(|plan| plan.as_ref()), control)?);
        }
        let mut taken: Vec<Box<dyn Snapshot>> = Vec::new();
        for (task, plan) in tasks.iter().zip(&mut plans) {
            taken.push(match plan.take() {
                Some(plan) => {
                    // Before it is there: a run that is killed right after that leaves it.
                    let note = |pending: &mut Pending| pending.snapshot = Some(plan.name().into());
                    if let Err(error) = control.state.note(&control.config, &task.name, note) {
                        tracing::warn!(task = task.name, "What is pending cannot be remembered: {error:#}");
                    }
                    Box::new(plan.create()?)
                }
                None => Box::new(Clone::take(&task.source)?),
            });
        }
        Ok(taken)
    });
    // Whatever went wrong, nothing stays frozen.
    let released = hold.map_or(Ok(()), Hold::release);
    let hooks_after = around(tasks, control, |task| task.hooks.snapshot_after.as_deref(), Moment::SnapshotAfter);
    let mut taken = taken?;
    released?;
    hooks_after?;
    for (snapshot, task) in taken.iter_mut().zip(tasks) {
        snapshot.watch(task);
    }
    Ok(taken)
}

/// Runs the hooks of all tasks, those that are the same once. Goes on after one that
/// fails: they may have to undo something.
fn around<'a>(
    tasks: &[&'a Task],
    control: &Control,
    hook: impl Fn(&'a Task) -> Option<&'a str>,
    moment: Moment<'_>,
) -> Result<(), Failure> {
    let mut seen = Vec::new();
    let mut result = Ok(());
    for task in tasks {
        let Some(text) = hook(task).filter(|text| !seen.contains(text)) else { continue };
        seen.push(text);
        result = result.and(hooks::run(task, moment, control));
    }
    result
}

/// What is to be made of logical volumes; `None`: a clone, which needs no plan.
fn plan(tasks: &[&Task], control: &Control) -> Result<Vec<Option<Plan>>, Failure> {
    let settings = tasks.iter().find_map(|task| match &task.snapshot {
        Some(SnapshotKind::Lvm(settings)) => Some(settings),
        _ => None,
    });
    let Some(settings) = settings else { return Ok(tasks.iter().map(|_| None).collect()) };
    let lvm = Lvm::new(&settings.program);
    let mut surroundings =
        Surroundings { volumes: lvm.volumes()?, lvm, control, spent_bytes: HashMap::new(), names: Vec::new() };
    // Everybody takes locks in the same order.
    let mut order: Vec<usize> = (0..tasks.len()).collect();
    let real = |path: &Path| std::fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    order.sort_by_key(|index| real(&tasks[*index].source));
    let mut plans: Vec<Option<Plan>> = tasks.iter().map(|_| None).collect();
    for index in order {
        if let Some(SnapshotKind::Lvm(settings)) = &tasks[index].snapshot {
            plans[index] = Some(Plan::make(tasks[index], settings, &mut surroundings)?);
        }
    }
    Ok(plans)
}
