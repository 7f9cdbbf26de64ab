//! Running tasks: locks, hooks, retries, results.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bdsync_device::{Access, Device};
use bdsync_engine::{Cancellation, Context};
use bdsync_target::guard;
use bdsync_target::redo::{Origin, RedoState};
use serde_json::json;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::agent::Resume;
use crate::config::Task;
use crate::end;
use crate::failure::{Exit, Failure};
use crate::hooks::{self, Moment};
use crate::report::{Phase, Reporter, TaskReporter, binary, python_time};
use crate::snapshot;
use crate::state::{Outcome, Record, StateFolder, TaskStats};

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
    /// How long the last patch was, in bytes.
    pub(crate) expected_patch_bytes: u64,
    /// Where the source is read: a snapshot of it, or itself.
    pub(crate) source: PathBuf,
    /// Where a comparison can go on whose connection broke. What it has found is of the very
    /// source that is read here.
    pub(crate) resume: Mutex<Option<Resume>>,
}

impl<'a> Job<'a> {
    pub(crate) fn new(control: &'a Control, reporter: &'a TaskReporter, task: &Task) -> Self {
        Self { control, reporter, expected_patch_bytes: 0, source: task.source.clone(), resume: Mutex::default() }
    }

    /// For the engine.
    pub(crate) fn context(&self) -> Context<'_> {
        Context { observer: self.reporter, cancellation: &self.control.cancellation }
    }
}

/// The state file for a patch of this length and SHA-256.
pub(crate) fn redo_state(task: &Task, patch: (u64, String), device_bytes: u64, target_bytes: u64) -> RedoState {
    let now = jiff::Timestamp::now().to_string();
    let origin = Origin { task: &task.name, source: &task.source, target: &task.target, now: &now };
    RedoState::new(origin, patch, device_bytes, target_bytes)
}

/// Ranges that differ, as (start, end) in bytes, in order.
#[derive(Debug, Default)]
pub(crate) struct Ranges {
    /// The first of them.
    pub(crate) shown: Vec<(u64, u64)>,
    /// How many there are.
    pub(crate) count: u64,
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
        self.last_end = end;
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
    for task in tasks {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { break };
        if control.cancellation.is_cancelled() {
            outcomes.push(Outcome::Cancelled);
            break;
        }
        let control = control.clone();
        running.spawn_blocking(move || {
            let outcome = run_task(&task, &control, options);
            drop(slot);
            outcome
        });
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

fn run_task(task: &Task, control: &Control, options: RunOptions) -> Outcome {
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
    let expected_patch_bytes = before.map_or(0, |record| record.stats.patch_bytes);
    let job = Job { expected_patch_bytes, ..Job::new(control, &reporter, task) };
    let started = (jiff::Timestamp::now().to_string(), Instant::now());
    let target = task.target.display().to_string();
    reporter.event(
        "task_started",
        json!({ "source": task.source.display().to_string(), "target": target, "dry_run": options.dry_run }),
    );
    let result = match options.dry_run {
        true => end::dry_run(task, &job),
        false => locked(task, &job, &started.0),
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
            let patch_bytes = if is_space { expected_patch_bytes / 2 } else { expected_patch_bytes };
            TaskStats { patch_bytes, ..TaskStats::default() }
        });
        let record = Record { outcome, started: started.0, seconds, error, stats, last_success: None };
        if let Err(error) = control.state.remember(&control.config, &task.name, record) {
            tracing::warn!(task = task.name, "The result cannot be remembered: {error:#}");
        }
    }
    outcome
}

/// Holds the target's lock and runs the hooks around the task.
fn locked(task: &Task, job: &Job<'_>, started: &str) -> Result<TaskStats, Failure> {
    let on_error = |failure: Failure| {
        if let Err(hook) = hooks::run(task, Moment::Error(&failure.to_string()), job.control) {
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
    };
    if let Err(error) = job.control.state.remember(&job.control.config, &task.name, running) {
        tracing::warn!(task = task.name, "The start cannot be remembered: {error:#}");
    }
    let result = hooks::run(task, Moment::Before, job.control).and_then(|()| with_snapshot(task, job));
    match result {
        Ok(stats) => hooks::run(task, Moment::After(&stats), job.control).map(|()| stats),
        Err(failure @ Failure::Skipped(_)) => Err(failure),
        Err(failure) => Err(on_error(failure)),
    }
}

/// Runs a task from a snapshot of its source, if it wants one: the same for all tries, for
/// what one try has found the next one goes on with.
fn with_snapshot(task: &Task, job: &Job<'_>) -> Result<TaskStats, Failure> {
    job.reporter.phase(Phase::Prepare, 0);
    if task.snapshot.is_none() {
        return with_retries(task, job);
    }
    // What is wrong with the source shows before a snapshot is taken of it.
    drop(Device::open(&task.source, Access::Read)?);
    if task.remote.is_none() && task.target.exists() {
        guard::check(&task.source, &task.target)?;
    }
    let Some(mut snapshot) = snapshot::take(task)? else { return with_retries(task, job) };
    let taken = Job { source: snapshot.path().to_path_buf(), resume: Mutex::default(), ..*job };
    let result = with_retries(task, &taken).map_err(|failure| match (&failure, snapshot.diagnose()) {
        (Failure::Permanent(text), Some(why)) => Failure::new(format!("{why} ({text})")),
        _ => failure,
    });
    // One that is left behind is removed by the next run.
    match (result, snapshot.remove()) {
        (Ok(_), Err(failure)) => Err(failure.during("removing the snapshot; the target is up to date")),
        (result, _) => result,
    }
}

/// Tries again after connections that broke, with growing pauses.
fn with_retries(task: &Task, job: &Job<'_>) -> Result<TaskStats, Failure> {
    let (mut left, mut pause) =
        task.remote.as_ref().map_or((0, Duration::ZERO), |remote| (remote.retries, remote.retry_delay));
    pause = pause.min(LONGEST_PAUSE);
    loop {
        let result = end::run(task, job);
        if job.control.cancellation.is_cancelled() && result.is_err() {
            return Err(Failure::Cancelled);
        }
        match result {
            Err(failure) if failure.is_worth_a_retry() && left > 0 => {
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
    } else if task.patch_folder.is_some() {
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
