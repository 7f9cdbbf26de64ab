//! Running tasks: locks, hooks, retries, results.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bdsync_device::{Access, Device};
use bdsync_engine::{Cancellation, Context};
use bdsync_target::guard;
use bdsync_target::redo::{Origin, RedoState};
use serde_json::json;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::agent::Resume;
use crate::config::{Task, Verify};
use crate::end;
use crate::failure::{Exit, Failure};
use crate::hooks::{self, Moment};
use crate::report::{Phase, Reporter, TaskReporter, binary, python_time};
use crate::snapshot::{self, Snapshot};
use crate::state::{Outcome, Pending, Record, StateFolder, TaskStats};

/// The longest pause between two tries.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// How many ranges are remembered to be shown.
const SHOWN_RANGES: usize = 10_000;

/// What all tasks of a run share.
#[derive(Clone)]
pub(crate) struct Control {
    pub(crate) cancellation: Cancellation,
    pub(crate) reporter: Reporter,
    pub(crate) state: StateFolder,
    pub(crate) config: Arc<Path>,
}

/// One run of one task.
pub(crate) struct Job<'a> {
    pub(crate) control: &'a Control,
    pub(crate) reporter: &'a TaskReporter,
    task: String,
    /// How long the last patch was, in bytes.
    pub(crate) expected_patch_bytes: u64,
    /// What is read in the source's place.
    snapshot: Mutex<Hold>,
    /// What the next run has to deal with, as far as is known.
    pending: Mutex<Pending>,
    /// Where a comparison can go on whose connection broke. What it has found is of the very
    /// source, or the snapshot of it, that is read here.
    pub(crate) resume: Mutex<Option<Resume>>,
    /// What was done, once the target is up to date.
    finished: Mutex<Option<TaskStats>>,
}

impl<'a> Job<'a> {
    pub(crate) fn new(control: &'a Control, reporter: &'a TaskReporter, task: &Task) -> Self {
        Self {
            control,
            reporter,
            task: task.name.clone(),
            expected_patch_bytes: 0,
            snapshot: Mutex::default(),
            pending: Mutex::default(),
            resume: Mutex::default(),
            finished: Mutex::default(),
        }
    }

    /// What is to be compared is about to be: from a snapshot, where a run wants one.
    pub(crate) fn comparing(&self, task: &Task, source: &mut OpenSource) -> Result<(), Failure> {
        let mut hold = self.snapshot.lock().unwrap_or_else(PoisonError::into_inner);
        if hold.is_wanted && hold.snapshot.is_none() {
            hold.snapshot = snapshot::take(&[task], self.control)?.pop();
            // What one try has found is of another moment than this.
            *self.resume.lock().unwrap_or_else(PoisonError::into_inner) = None;
            let name = hold.snapshot.as_ref().and_then(|snapshot| snapshot.name());
            if name.is_some() {
                self.note(|pending| pending.snapshot = name);
            }
        }
        let Some(snapshot) = &hold.snapshot else { return Ok(()) };
        let taken = OpenSource::open(snapshot.path())?;
        if taken.bytes != source.bytes {
            // The target was made ready for the size before.
            return Err(Failure::new(format!(
                "the source {} was resized during the run, from {} to {} bytes; nothing was compared",
                task.source.display(),
                source.bytes,
                taken.bytes
            )));
        }
        *source = taken;
        Ok(())
    }

    /// The comparison is over: a snapshot that nothing needs any more goes.
    pub(crate) fn compared(&self, task: &Task, source: &mut OpenSource) {
        let mut hold = self.snapshot.lock().unwrap_or_else(PoisonError::into_inner);
        // Others of the group are of the same moment: there will be no second one.
        if hold.is_shared || task.verify != Verify::Off {
            return;
        }
        if let Some(snapshot) = &mut hold.snapshot {
            source.device = None;
            match snapshot.remove() {
                Ok(()) => {
                    hold.snapshot = None;
                    self.note(|pending| pending.snapshot = None);
                }
                // Once more at the end, where it counts.
                Err(failure) => tracing::debug!(task = task.name, "The snapshot cannot be removed yet: {failure}"),
            }
        }
    }

    /// Remembers what the next run would have to deal with.
    pub(crate) fn note(&self, change: impl FnOnce(&mut Pending)) {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        let before = pending.clone();
        change(&mut pending);
        if *pending == before {
            return;
        }
        if let Err(error) = self.control.state.note(&self.control.config, &self.task, |known| *known = pending.clone())
        {
            tracing::warn!(task = self.task, "What is pending cannot be remembered: {error:#}");
        }
    }

    /// Whether a run in place has left the target partly changed, as far as is known.
    pub(crate) fn is_partly_changed(&self) -> bool {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner).partly_changed
    }

    /// For the engine.
    pub(crate) fn context(&self) -> Context<'_> {
        Context { observer: self.reporter, cancellation: &self.control.cancellation }
    }
}

/// The snapshot that a task is compared from.
#[derive(Default)]
struct Hold {
    /// Whether one is to be taken where there is none.
    is_wanted: bool,
    /// Whether it was taken together with others.
    is_shared: bool,
    snapshot: Option<Box<dyn Snapshot>>,
}

/// A source of this machine, open as long as it is needed.
pub(crate) struct OpenSource {
    device: Option<Arc<Device>>,
    bytes: u64,
}

impl OpenSource {
    /// Opens it.
    pub(crate) fn open(path: &Path) -> Result<Self, Failure> {
        let device = Arc::new(Device::open(path, Access::Read)?);
        Ok(Self { bytes: device.size(), device: Some(device) })
    }

    /// What is read.
    pub(crate) fn device(&self) -> Result<&Arc<Device>, Failure> {
        self.device.as_ref().ok_or_else(|| Failure::new("the source is not open any more"))
    }

    /// Its size in bytes.
    pub(crate) fn size(&self) -> u64 {
        self.bytes
    }
}

/// The state file for a patch of this length and SHA-256.
pub(crate) fn redo_state(task: &Task, patch: (u64, String), device_bytes: u64, target_bytes: u64) -> RedoState {
    let now = now();
    let origin = Origin { task: &task.name, source: &task.source, target: &task.target, now: &now };
    RedoState::new(origin, patch, device_bytes, target_bytes)
}

/// The time in UTC, to the second, as RFC 3339 says it.
fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Ranges that differ, as (start, end) in bytes, in order.
#[derive(Debug, Default)]
pub(crate) struct Ranges {
    /// The first of them.
    pub(crate) shown: Vec<(u64, u64)>,
    /// How many there are.
    pub(crate) count: u64,
    /// All their bytes.
    pub(crate) bytes: u64,
    last_end: u64,
}

impl Ranges {
    /// Adds one; neighbours become one.
    pub(crate) fn add(&mut self, start: u64, end: u64) {
        if self.count > 0 && self.last_end == start {
            if self.count == self.shown.len() as u64
                && let Some(last) = self.shown.last_mut()
            {
                last.1 = end;
            }
        } else {
            self.count += 1;
            if self.shown.len() < SHOWN_RANGES {
                self.shown.push((start, end));
            }
        }
        self.bytes += end - start;
        self.last_end = end;
    }

    /// Refuses what differs, in `blocks` blocks, right after it was made equal.
    pub(crate) fn must_be_none(&self, blocks: u64) -> Result<(), Failure> {
        let Some((start, end)) = self.shown.first() else { return Ok(()) };
        Err(Failure::new(format!(
            "Verification failed: {blocks} blocks differ after applying, the first at bytes {start} to {end}; does the source change while it is compared? (take a snapshot)"
        )))
    }
}

/// How a run goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RunOptions {
    pub(crate) jobs: usize,
    pub(crate) dry_run: bool,
}

/// Runs tasks, `jobs` at a time, in their order; gives the exit status.
pub(crate) async fn run_tasks(tasks: Vec<Task>, control: &Control, options: RunOptions) -> Exit {
    let slots = Arc::new(Semaphore::new(options.jobs.max(1)));
    let mut running = JoinSet::new();
    let started = Instant::now();
    let mut outcomes = Vec::new();
    'all: for group in in_groups(tasks) {
        let mut given: Option<VecDeque<Given>> = None;
        for task in &group {
            let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { break 'all };
            if control.cancellation.is_cancelled() {
                outcomes.push(Outcome::Cancelled);
                break 'all;
            }
            // Not before the first of them runs: snapshots fill while they wait.
            let given = match &mut given {
                Some(given) => given,
                None => given.insert(given_to(&group, control, options).await),
            };
            let (task, control, given) = (task.clone(), control.clone(), given.pop_front().unwrap_or(Given::Nothing));
            running.spawn_blocking(move || {
                let outcome = run_task(&task, given, &control, options);
                drop(slot);
                outcome
            });
        }
    }
    while let Some(outcome) = running.join_next().await {
        outcomes.push(outcome.unwrap_or_else(|error| {
            tracing::error!("A task ended in a way that it must not: {error}");
            Outcome::Failed
        }));
    }
    let count = |wanted: Outcome| outcomes.iter().filter(|outcome| **outcome == wanted).count();
    control.reporter.event(
        "summary",
        json!({
            "ok": count(Outcome::Ok),
            "failed": count(Outcome::Failed),
            "skipped": count(Outcome::Skipped),
            "cancelled": count(Outcome::Cancelled),
            "seconds": started.elapsed().as_secs_f64(),
        }),
    );
    match () {
        () if control.cancellation.is_cancelled() => Exit::Cancelled,
        () if count(Outcome::Failed) > 0 => Exit::TaskFailed,
        () => Exit::Success,
    }
}

/// What a task is given before it starts.
enum Given {
    Nothing,
    /// A snapshot of the same moment as those of its group.
    Snapshot(Box<dyn Snapshot>),
    /// Why there is none.
    Refusal(String),
}

/// Whether a task has its snapshot taken together with others.
fn is_member(task: &Task) -> bool {
    task.consistency_group.is_some() && task.problem.is_none() && !task.disabled
}

/// The tasks of one consistency group side by side, where the first of them stands.
fn in_groups(tasks: Vec<Task>) -> Vec<Vec<Task>> {
    let mut groups: Vec<Vec<Task>> = Vec::new();
    for task in tasks {
        let is_in = |group: &&mut Vec<Task>| {
            let shared = group.first().and_then(|first| first.consistency_group.as_ref());
            is_member(&task) && group.iter().all(is_member) && shared == task.consistency_group.as_ref()
        };
        match groups.iter_mut().find(is_in) {
            Some(group) => group.push(task),
            None => groups.push(vec![task]),
        }
    }
    groups
}

/// Takes the snapshots of a consistency group. Without all of them none is worth anything.
async fn given_to(group: &[Task], control: &Control, options: RunOptions) -> VecDeque<Given> {
    if options.dry_run || !group.iter().all(is_member) {
        return VecDeque::new();
    }
    let (tasks, control, noting) = (group.to_vec(), control.clone(), control);
    let taken = tokio::task::spawn_blocking(move || {
        for task in &tasks {
            // What is wrong with a source shows before there is a snapshot of any.
            drop(Device::open(&task.source, Access::Read)?);
        }
        snapshot::take(&tasks.iter().collect::<Vec<_>>(), &control)
    });
    match taken.await.unwrap_or_else(|error| Err(Failure::new(error.to_string()))) {
        Ok(snapshots) => snapshots.into_iter().map(Given::Snapshot).collect(),
        Err(failure) => {
            for task in group {
                // It is taken away again, if it was there.
                let _ = noting.state.note(&noting.config, &task.name, |pending| pending.snapshot = None);
            }
            let name = group.first().and_then(|task| task.consistency_group.as_deref()).unwrap_or_default();
            group.iter().map(|_| Given::Refusal(format!("consistency group {name}: {failure}"))).collect()
        }
    }
}

fn run_task(task: &Task, given: Given, control: &Control, options: RunOptions) -> Outcome {
    if task.disabled {
        tracing::info!(task = task.name, "Skipping disabled task");
        control.reporter.event("task_skipped", json!({ "task": task.name, "reason": "disabled" }));
        return Outcome::Skipped;
    }
    let reporter = control.reporter.task(&task.name);
    let before = control.state.record(&control.config, &task.name).unwrap_or_else(|error| {
        tracing::warn!(task = task.name, "The last result cannot be read: {error:#}");
        None
    });
    let expected_patch_bytes = before.as_ref().map_or(0, |record| record.stats.patch_bytes);
    let pending = Mutex::new(before.map(|record| record.pending).unwrap_or_default());
    let job = Job { expected_patch_bytes, pending, ..Job::new(control, &reporter, task) };
    let is_forgotten = task.patch_folder.is_none() && job.pending.lock().is_ok_and(|pending| pending.patch);
    if is_forgotten {
        tracing::warn!(
            task = task.name,
            "An earlier run left a ready patch in the target_patch_dir that the task had then: remove it, or a run with that folder would apply it"
        );
    }
    let started = (now(), Instant::now());
    let target = task.target.display().to_string();
    reporter.event(
        "task_started",
        json!({ "source": task.source.display().to_string(), "target": target, "dry_run": options.dry_run }),
    );
    let result = match (&task.problem, options.dry_run) {
        (Some(problem), _) => Err(Failure::new(problem)),
        (None, true) => end::dry_run(task, &job),
        (None, false) => locked(task, given, &job, &started.0),
    };
    reporter.done();
    let seconds = started.1.elapsed().as_secs_f64();
    let outcome = match &result {
        Ok(stats) => {
            report(task, stats, seconds, options.dry_run, control);
            Outcome::Ok
        }
        Err(failure) => {
            let (outcome, event) = match failure {
                Failure::Cancelled => (Outcome::Cancelled, "task_cancelled"),
                Failure::Skipped(_) => (Outcome::Skipped, "task_skipped"),
                _ => (Outcome::Failed, "task_failed"),
            };
            match outcome {
                Outcome::Skipped => tracing::warn!(task = task.name, "{failure}"),
                _ => tracing::error!(task = task.name, "{failure}"),
            }
            reporter.event(event, json!({ "error": failure.to_string(), "seconds": seconds }));
            outcome
        }
    };
    // The record of a run that is going on is that run's.
    if !options.dry_run && !matches!(result, Err(Failure::Locked(_))) {
        let error = result.as_ref().err().map(ToString::to_string);
        let stats = result.unwrap_or_else(|failure| {
            // How long the last patch was is still worth knowing; but one that was long once
            // must not keep all later ones away.
            let is_space = matches!(failure, Failure::NoSpace(_));
            if let Some(stats) = job.finished.lock().unwrap_or_else(PoisonError::into_inner).take() {
                return stats;
            }
            let patch_bytes = if is_space { expected_patch_bytes / 2 } else { expected_patch_bytes };
            TaskStats { patch_bytes, ..TaskStats::default() }
        });
        let pending = job.pending.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let record = Record { outcome, started: started.0, seconds, error, stats, last_success: None, pending };
        if let Err(error) = control.state.remember(&control.config, &task.name, record) {
            tracing::warn!(task = task.name, "The result cannot be remembered: {error:#}");
        }
    }
    outcome
}

/// Holds the target's lock and runs the hooks around the task.
fn locked(task: &Task, given: Given, job: &Job<'_>, started: &str) -> Result<TaskStats, Failure> {
    let on_error = |failure: Failure| {
        if let Err(hook) = hooks::run(task, Moment::Error(&failure), job.control) {
            tracing::error!(task = task.name, "{hook}");
        }
        failure
    };
    let _lock = job.control.state.lock(task).map_err(on_error)?;
    let running = Record {
        outcome: Outcome::Running,
        started: started.into(),
        seconds: 0.0,
        error: None,
        stats: TaskStats { patch_bytes: job.expected_patch_bytes, ..TaskStats::default() },
        last_success: None,
        pending: job.pending.lock().unwrap_or_else(PoisonError::into_inner).clone(),
    };
    if let Err(error) = job.control.state.remember(&job.control.config, &task.name, running) {
        tracing::warn!(task = task.name, "The start cannot be remembered: {error:#}");
    }
    let result = hooks::run(task, Moment::Before, job.control).and_then(|()| with_snapshot(task, given, job));
    match result {
        Ok(stats) => {
            let after = hooks::run(task, Moment::After(&stats), job.control);
            *job.finished.lock().unwrap_or_else(PoisonError::into_inner) = Some(stats.clone());
            after.map(|()| stats).map_err(|failure| failure.during("the target is up to date"))
        }
        Err(failure @ Failure::Skipped(_)) => Err(failure),
        Err(failure) => Err(on_error(failure)),
    }
}

/// Runs a task from a snapshot of its source, if it wants one: the same for all tries, as
/// long as there is something to compare, for what one try has found the next one goes on
/// with.
fn with_snapshot(task: &Task, given: Given, job: &Job<'_>) -> Result<TaskStats, Failure> {
    job.reporter.phase(Phase::Prepare, 0);
    if task.snapshot.is_none() {
        if !task.pull
            && let Some(place) = guard::writable_mount(&task.source)
        {
            tracing::warn!(
                task = task.name,
                "The source {} is mounted on {place} and can change while it is compared (setting snapshot)",
                task.source.display()
            );
        }
        return with_retries(task, job);
    }
    // What is wrong with the source shows before a snapshot is taken of it.
    drop(Device::open(&task.source, Access::Read)?);
    if task.remote.is_none() && task.target.exists() {
        guard::check(&task.source, &task.target)?;
    }
    let hold = match given {
        Given::Nothing => Hold { is_wanted: true, ..Hold::default() },
        Given::Snapshot(snapshot) => Hold { is_wanted: true, is_shared: true, snapshot: Some(snapshot) },
        Given::Refusal(text) => return Err(Failure::new(text)),
    };
    let name = hold.snapshot.as_ref().and_then(|snapshot| snapshot.name());
    *job.snapshot.lock().unwrap_or_else(PoisonError::into_inner) = hold;
    if name.is_some() {
        job.note(|pending| pending.snapshot = name);
    }
    let result = with_retries(task, job);
    let mut hold = std::mem::take(&mut *job.snapshot.lock().unwrap_or_else(PoisonError::into_inner));
    let Some(snapshot) = &mut hold.snapshot else { return result };
    let result = result.map_err(|failure| match &failure {
        Failure::Permanent(text) => match snapshot.diagnose(job.reporter.fraction()) {
            Some(why) => Failure::new(format!("{why} ({text})")),
            None => failure,
        },
        _ => failure,
    });
    // One that is left behind is removed by the next run.
    match (result, snapshot.remove()) {
        (Ok(_), Err(failure)) => Err(failure.during("removing the snapshot; the target is up to date")),
        (result, removed) => {
            if removed.is_ok() {
                job.note(|pending| pending.snapshot = None);
            }
            result
        }
    }
}

/// Tries again after connections that broke, with growing pauses.
fn with_retries(task: &Task, job: &Job<'_>) -> Result<TaskStats, Failure> {
    let (mut left, mut pause) =
        task.remote.as_ref().map_or((0, Duration::ZERO), |remote| (remote.retries, remote.retry_delay));
    pause = pause.min(LONGEST_PAUSE);
    let mut was_cut = false;
    loop {
        let result = end::run(task, job);
        if job.control.cancellation.is_cancelled() && result.is_err() {
            return Err(Failure::Cancelled);
        }
        match result {
            // What a broken connection has left at the other end may still be at work there.
            Err(failure)
                if left > 0
                    && (failure.is_worth_a_retry() || (was_cut && matches!(failure, Failure::TargetLocked(_)))) =>
            {
                was_cut = true;
                let seconds = pause.as_secs_f64();
                tracing::warn!(task = task.name, "{failure}. Trying again in {seconds} seconds ({left} tries left)");
                job.reporter.event(
                    "retry",
                    json!({ "error": failure.to_string(), "pause_seconds": seconds, "tries_left": left }),
                );
                let deadline = Instant::now() + pause;
                while Instant::now() < deadline {
                    if job.control.cancellation.is_cancelled() {
                        return Err(Failure::Cancelled);
                    }
                    std::thread::sleep(Duration::from_millis(50).min(deadline - Instant::now()));
                }
                left -= 1;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            result => return result,
        }
    }
}

/// The original's summary lines, and more.
fn report(task: &Task, stats: &TaskStats, seconds: f64, dry_run: bool, control: &Control) {
    let rate = if seconds > 0.0 { stats.scanned_bytes as f64 / seconds } else { 0.0 };
    let (scanned, changed, name) = (binary(stats.scanned_bytes), binary(stats.changed_bytes), &task.name);
    if dry_run {
        let text = format!("[Task {name}] would change {changed} of {scanned} in {}\n", task.target.display());
        if !control.reporter.is_json() {
            // Nobody to tell is no reason to fail.
            let _ = control.reporter.print(&text);
        }
    } else if !task.in_place {
        tracing::info!(task = name, "Patch Generate Time: {}", python_time(stats.generate_seconds));
        tracing::info!(task = name, "Patch Size: {}", binary(stats.patch_bytes));
        tracing::info!(task = name, "Patch Apply Time: {}", python_time(stats.apply_seconds));
    } else {
        tracing::info!(task = name, "Change Apply Time: {}", python_time(stats.apply_seconds));
    }
    tracing::info!(task = name, "Scanned: {scanned}, changed: {changed}, {}/s", binary(rate as u64));
    let mut facts = json!({
        "task": name,
        "seconds": seconds,
        "bytes_per_second": rate,
        "dry_run": dry_run,
    });
    if let (Some(facts), Ok(serde_json::Value::Object(stats))) = (facts.as_object_mut(), serde_json::to_value(stats)) {
        facts.extend(stats);
    }
    control.reporter.event("task_finished", facts);
}
