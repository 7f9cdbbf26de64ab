//! Commands around a task, with the task's facts in their environment.

use std::io;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use crate::config::Task;
use crate::failure::Failure;
use crate::run::Control;
use crate::state::TaskStats;

/// What a `before` hook exits with to leave the task out for now, without an error.
const SOFT: i32 = 75;

/// How long an error hook may take once everything is to end.
const LAST_WORDS: Duration = Duration::from_millis(1500);

/// How long the streams of a hook that has ended are waited for.
const GRACE: Duration = Duration::from_millis(200);

/// How much of what a hook says is kept, in bytes.
const KEPT: usize = 4000;

/// Which of the hooks.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Moment<'a> {
    Before,
    SnapshotBefore,
    SnapshotAfter,
    After(&'a TaskStats),
    Error(&'a Failure),
}

/// Runs the hook for this moment, if the task has one.
///
/// # Errors
///
/// A hook that fails; [`Failure::Skipped`] if it does so softly.
pub(crate) fn run(task: &Task, moment: Moment<'_>, control: &Control) -> Result<(), Failure> {
    let (name, command) = match moment {
        Moment::Before => ("hook_before", &task.hooks.before),
        Moment::SnapshotBefore => ("hook_snapshot_before", &task.hooks.snapshot_before),
        Moment::SnapshotAfter => ("hook_snapshot_after", &task.hooks.snapshot_after),
        Moment::After(_) => ("hook_after", &task.hooks.after),
        Moment::Error(_) => ("hook_error", &task.hooks.error),
    };
    let Some(text) = command else { return Ok(()) };
    tracing::debug!(task = task.name, "Running {name}: {text}");
    let runtime = Handle::current();
    let _entered = runtime.enter();
    let mut command = tokio::process::Command::new("sh");
    command.args(["-c", text]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let remote = task.remote.as_ref().map_or(String::new(), |remote| remote.label.clone());
    command.process_group(0);
    command
        .env("BDSYNC_TASK", &task.name)
        .env("BDSYNC_SOURCE", &task.source)
        .env("BDSYNC_TARGET", &task.target)
        .env("BDSYNC_REMOTE", remote);
    match moment {
        Moment::Before | Moment::SnapshotBefore | Moment::SnapshotAfter => command.env("BDSYNC_RESULT", "starting"),
        Moment::After(stats) => command
            .env("BDSYNC_RESULT", "ok")
            .env("BDSYNC_SCANNED_BYTES", stats.scanned_bytes.to_string())
            .env("BDSYNC_CHANGED_BYTES", stats.changed_bytes.to_string())
            .env("BDSYNC_PATCH_BYTES", stats.patch_bytes.to_string()),
        Moment::Error(failure) => command
            .env("BDSYNC_RESULT", if matches!(failure, Failure::Cancelled) { "cancelled" } else { "failed" })
            .env("BDSYNC_ERROR", failure.to_string()),
    };
    // An error hook reports a cancelled task, too: it has a moment for that.
    let is_error = matches!(moment, Moment::Error(_));
    // What was frozen has to thaw, whatever happens.
    let is_thaw = matches!(moment, Moment::SnapshotAfter);
    let output = runtime.block_on(async {
        let mut child = command.spawn()?;
        let (stdout, stderr) = (collect(child.stdout.take()), collect(child.stderr.take()));
        let group = child.id().and_then(|id| rustix::process::Pid::from_raw(id as i32));
        let mut cancelled: Option<Instant> = None;
        let status = loop {
            tokio::select! {
                status = child.wait() => break status?,
                () = tokio::time::sleep(Duration::from_millis(50)) => {
                    if is_thaw || !control.cancellation.is_cancelled() {
                        continue;
                    }
                    let since = *cancelled.get_or_insert_with(Instant::now);
                    if !is_error || since.elapsed() > LAST_WORDS {
                        if let Some(group) = group {
                            // It may have ended just now.
                            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
                        }
                        return Ok(None);
                    }
                }
            }
        };
        // What it started in the background may keep its streams; that is not waited for.
        let gather = async |reader: JoinHandle<()>, text: Arc<Mutex<Vec<u8>>>| {
            let _ = tokio::time::timeout(GRACE, reader).await;
            text.lock().unwrap_or_else(PoisonError::into_inner).clone()
        };
        drop(gather(stdout.0, stdout.1).await);
        Ok::<_, io::Error>(Some((status, gather(stderr.0, stderr.1).await)))
    });
    let (status, stderr) = match output {
        Ok(Some(output)) => output,
        Ok(None) => return Err(Failure::Cancelled),
        Err(error) => return Err(Failure::new(format!("{name} cannot be run: {error}"))),
    };
    let said = String::from_utf8_lossy(&stderr).trim().replace('\n', "; ");
    if !said.is_empty() {
        tracing::info!(task = task.name, "{name}: {said}");
    }
    let said = if said.is_empty() { "it said nothing on standard error".into() } else { said };
    match status.code() {
        Some(0) => Ok(()),
        Some(SOFT) if matches!(moment, Moment::Before) => {
            Err(Failure::Skipped(format!("{name} ended with exit status {SOFT}: {said}")))
        }
        _ => Err(Failure::new(format!("{name} failed ({status}): {said}"))),
    }
}

/// Reads a stream in the background, and keeps its beginning.
fn collect(stream: Option<impl AsyncRead + Unpin + Send + 'static>) -> (JoinHandle<()>, Arc<Mutex<Vec<u8>>>) {
    let kept = Arc::<Mutex<Vec<u8>>>::default();
    let text = Arc::clone(&kept);
    let reader = tokio::spawn(async move {
        let Some(mut stream) = stream else { return };
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = stream.read(&mut buffer).await {
            let mut text = text.lock().unwrap_or_else(PoisonError::into_inner);
            let room = KEPT.saturating_sub(text.len()).min(count);
            text.extend_from_slice(&buffer[..room]);
        }
    });
    (reader, kept)
}
