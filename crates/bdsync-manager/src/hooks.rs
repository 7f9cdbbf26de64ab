//! Commands around a task, with the task's facts in their environment.

use std::process::Stdio;
use std::time::Duration;

use tokio::runtime::Handle;

use crate::config::Task;
use crate::failure::Failure;
use crate::run::Control;
use crate::state::TaskStats;

/// What a `before` hook exits with to leave the task out for now, without an error.
const SOFT: i32 = 75;

/// Which of the hooks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Moment<'a> {
    Before,
    After(&'a TaskStats),
    Error(&'a str),
}

/// Runs the hook for this moment, if the task has one.
///
/// # Errors
///
/// A hook that fails; [`Failure::Skipped`] if it does so softly.
pub(crate) fn run(task: &Task, moment: Moment<'_>, control: &Control) -> Result<(), Failure> {
    let (name, command) = match moment {
        Moment::Before => ("hook_before", &task.hooks.before),
        Moment::After(_) => ("hook_after", &task.hooks.after),
        Moment::Error(_) => ("hook_error", &task.hooks.error),
    };
    let Some(text) = command else { return Ok(()) };
    tracing::debug!(task = task.name, "Running {name}: {text}");
    let runtime = Handle::current();
    let _entered = runtime.enter();
    let mut command = tokio::process::Command::new("sh");
    command.args(["-c", text]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let remote = task.remote.as_ref().map_or(String::new(), |remote| remote.command.join(" "));
    command
        .env("BDSYNC_TASK", &task.name)
        .env("BDSYNC_SOURCE", &task.source)
        .env("BDSYNC_TARGET", &task.target)
        .env("BDSYNC_REMOTE", remote);
    match moment {
        Moment::Before => command.env("BDSYNC_RESULT", "starting"),
        Moment::After(stats) => command
            .env("BDSYNC_RESULT", "ok")
            .env("BDSYNC_SCANNED_BYTES", stats.scanned_bytes.to_string())
            .env("BDSYNC_CHANGED_BYTES", stats.changed_bytes.to_string())
            .env("BDSYNC_PATCH_BYTES", stats.patch_bytes.to_string()),
        Moment::Error(error) => command.env("BDSYNC_RESULT", "failed").env("BDSYNC_ERROR", error),
    };
    // An error hook reports a cancelled task, too: it is not cancelled itself.
    let is_error = matches!(moment, Moment::Error(_));
    let output = runtime.block_on(async {
        let child = command.spawn()?.wait_with_output();
        tokio::pin!(child);
        loop {
            tokio::select! {
                output = &mut child => return output.map(Some),
                () = tokio::time::sleep(Duration::from_millis(100)) => {
                    if control.cancellation.is_cancelled() && !is_error {
                        return Ok(None);
                    }
                }
            }
        }
    });
    let output = match output {
        Ok(Some(output)) => output,
        Ok(None) => return Err(Failure::Cancelled),
        Err(error) => return Err(Failure::new(format!("{name} cannot be run: {error}"))),
    };
    let said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
    if !said.is_empty() {
        tracing::info!(task = task.name, "{name}: {said}");
    }
    match output.status.code() {
        Some(0) => Ok(()),
        Some(SOFT) if moment == Moment::Before => {
            Err(Failure::Skipped(format!("{name} ended with exit status {SOFT}: {said}")))
        }
        _ => Err(Failure::new(format!("{name} failed ({}): {said}", output.status))),
    }
}
