//! The commands beside `run`.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::CommandFactory;
use serde_json::json;

use crate::cli::CommandLine;
use crate::config::{SnapshotKind, Task, Verify};
use crate::end;
use crate::failure::{Exit, Failure};
use crate::report::binary;
use crate::run::{Control, Job, Ranges};
use crate::state::Outcome;
use bdsync_target::redo::Redo;

/// `list`: names, sources, targets.
pub(crate) fn list(tasks: &[Task], control: &Control) -> Result<Exit> {
    for task in tasks {
        if control.reporter.is_json() {
            control.reporter.event("task", describe(task));
            continue;
        }
        let disabled = if task.disabled { " (disabled)" } else { "" };
        let text = format!("{}{disabled}: {} -> {}\n", name(task), shown(&task.source), place(task));
        control.reporter.print(&text)?;
    }
    Ok(Exit::Success)
}

/// Where a target is, in words.
fn place(task: &Task) -> String {
    match &task.remote {
        Some(remote) if !task.pull => format!("{} at {}", shown(&task.target), remote.label),
        _ => shown(&task.target),
    }
}

/// A path for a terminal, which control characters could make show something else.
fn shown(path: &Path) -> String {
    let escaped = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.into() };
    path.to_string_lossy().chars().map(escaped).collect()
}

/// A task's name, which may be that of a file.
fn name(task: &Task) -> String {
    shown(Path::new(&task.name))
}

fn describe(task: &Task) -> serde_json::Value {
    json!({
        "task": task.name,
        "source": task.source.display().to_string(),
        "target": task.target.display().to_string(),
        "remote": task.remote.as_ref().map(|remote| remote.label.as_str()),
        "disabled": task.disabled,
        "in_place": task.in_place,
    })
}

/// `check`: reaches everything, changes nothing.
pub(crate) fn check(tasks: &[Task], control: &Control) -> Result<Exit> {
    let mut exit = Exit::Success;
    for task in tasks.iter().filter(|task| !task.disabled) {
        let reporter = control.reporter.task(&task.name);
        let job = Job::new(control, &reporter, task);
        let result = check_task(task, &job);
        reporter.done();
        let mut facts = describe(task);
        let (text, problem) = match result {
            Ok((plan, found)) => {
                facts["source_bytes"] = json!(found.source_bytes);
                facts["target_exists"] = json!(found.target_exists);
                facts["pending_patch"] = json!(found.is_ready);
                facts["far_end"] = json!(found.far_end);
                (format!("{}: {plan}\n", name(task)), None)
            }
            Err(Failure::Cancelled) => return Ok(Exit::Cancelled),
            Err(failure) => {
                exit = Exit::TaskFailed;
                (format!("{}: PROBLEM: {failure}\n", name(task)), Some(failure.to_string()))
            }
        };
        match control.reporter.is_json() {
            true => {
                facts["problem"] = json!(problem);
                control.reporter.event("check", facts);
            }
            false => control.reporter.print(&text)?,
        }
    }
    Ok(exit)
}

fn check_task(task: &Task, job: &Job<'_>) -> Result<(String, end::Found), Failure> {
    let found = end::check(task, job)?;
    let at = |is_far: bool| match &task.remote {
        Some(remote) if is_far => format!(" at {}", remote.label),
        _ => String::new(),
    };
    let mut plan = format!(
        "would compare {}{} ({}) with {}{}",
        shown(&task.source),
        at(task.pull),
        binary(found.source_bytes),
        shown(&task.target),
        at(!task.pull)
    );
    plan += match &task.snapshot {
        Some(SnapshotKind::Lvm(_)) => ", from a snapshot of the volume",
        Some(SnapshotKind::Reflink) => ", from a clone of the file",
        None => "",
    };
    if !found.target_exists {
        plan += ", which would be created";
    }
    plan += match task.in_place {
        false => ", store a patch and apply it",
        true => ", and change it in place",
    };
    if found.is_ready {
        plan += "; first it would finish the patch that an earlier run left";
    }
    if task.verify != Verify::Off {
        plan += "; then compare again";
    }
    if let Some(way) = &found.far_end {
        plan += &format!(" (with {way})");
    }
    Ok((plan, found))
}

/// `verify`: the ranges that differ.
pub(crate) fn verify(tasks: &[Task], control: &Control) -> Result<Exit> {
    let (mut failed, mut different) = (false, false);
    for task in tasks.iter().filter(|task| !task.disabled) {
        let reporter = control.reporter.task(&task.name);
        let job = Job::new(control, &reporter, task);
        let start = Instant::now();
        let result = end::verify(task, &job);
        reporter.done();
        match result {
            Ok(ranges) => {
                different |= ranges.count > 0;
                print_ranges(task, &ranges, start.elapsed(), control)?;
            }
            Err(Failure::Cancelled) => return Ok(Exit::Cancelled),
            Err(failure) => {
                failed = true;
                tracing::error!(task = task.name, "{failure}");
                reporter.event("task_failed", json!({ "error": failure.to_string() }));
            }
        }
    }
    Ok(match (failed, different) {
        (true, _) => Exit::TaskFailed,
        (false, true) => Exit::Different,
        (false, false) => Exit::Success,
    })
}

fn print_ranges(task: &Task, ranges: &Ranges, took: Duration, control: &Control) -> io::Result<()> {
    if control.reporter.is_json() {
        let shown: Vec<_> = ranges.shown.iter().map(|(start, end)| json!({ "start": start, "end": end })).collect();
        let facts = json!({
            "task": task.name, "equal": ranges.count == 0, "range_count": ranges.count, "ranges": shown,
            "different_bytes": ranges.bytes, "seconds": took.as_secs_f64(),
        });
        control.reporter.event("verified", facts);
        return Ok(());
    }
    if ranges.count == 0 {
        return control.reporter.print(&format!("{}: equal\n", name(task)));
    }
    let (count, bytes) = (ranges.count, ranges.bytes);
    let mut text = format!("{}: DIFFERENT in {count} ranges, {bytes} bytes (from, to, end not included)\n", name(task));
    for (start, end) in &ranges.shown {
        text += &format!("  {start} {end}\n");
    }
    if ranges.count > ranges.shown.len() as u64 {
        text += &format!("  and {} more\n", ranges.count - ranges.shown.len() as u64);
    }
    control.reporter.print(&text)
}

/// `status`: last results, and what is pending.
pub(crate) fn status(tasks: &[Task], control: &Control) -> Result<Exit> {
    for task in tasks {
        let record = control.state.record(&control.config, &task.name)?;
        let local_folder = task.patch_folder.as_deref().filter(|_| task.remote.is_none() || task.pull);
        let redo = local_folder.and_then(|folder| Redo::new(folder, &task.target).ok());
        let running = control.state.is_locked(task);
        // What is at another machine is known from the last run.
        let left = record.as_ref().map(|record| record.pending.clone()).unwrap_or_default();
        let pending = redo.and_then(|redo| redo.is_ready().ok()).unwrap_or(left.patch);
        let snapshot = left.snapshot.filter(|_| !running);
        if control.reporter.is_json() {
            let mut facts = describe(task);
            facts["last"] = json!(record);
            // What was running when its process ended was killed.
            if record.as_ref().is_some_and(|record| record.outcome == Outcome::Running) && !running {
                facts["last"]["outcome"] = json!("killed");
            }
            facts["pending_patch"] = json!(pending);
            facts["pending_snapshot"] = json!(snapshot);
            facts["target_partly_changed"] = json!(left.partly_changed);
            facts["running"] = json!(running);
            control.reporter.event("status", facts);
            continue;
        }
        let mut text = format!("{}: ", name(task));
        text += &match &record {
            None => "never run".to_string(),
            Some(record) => {
                let outcome = match record.outcome {
                    Outcome::Ok => "ok",
                    Outcome::Failed => "FAILED",
                    Outcome::Skipped => "skipped",
                    Outcome::Cancelled => "cancelled",
                    Outcome::Running if running => "running",
                    Outcome::Running => "KILLED",
                };
                let stats = &record.stats;
                let (changed, scanned) = (binary(stats.changed_bytes), binary(stats.scanned_bytes));
                let mut text = format!("{outcome}, {}", record.started);
                if record.outcome != Outcome::Running {
                    text += &format!(", {:.1} s", record.seconds);
                }
                if stats.scanned_bytes > 0 {
                    text += &format!(", {changed} of {scanned} changed");
                }
                if let Some(error) = &record.error {
                    text += &format!("\n    {error}");
                }
                match &record.last_success {
                    Some(last) if record.outcome != Outcome::Ok => text += &format!("\n    last success: {last}"),
                    None => text += "\n    no success so far",
                    _ => {}
                }
                text
            }
        };
        if task.disabled {
            text += "\n    disabled";
        }
        if pending {
            text += "\n    a ready patch is pending: the next run finishes it";
        }
        if left.partly_changed && !running {
            text += "\n    the target may be PARTLY CHANGED, in place, until a run ends well";
        }
        if let Some(snapshot) = snapshot {
            text += &format!("\n    the snapshot {snapshot} is left: the next run removes it");
        }
        control.reporter.print(&(text + "\n"))?;
    }
    Ok(Exit::Success)
}

/// `completions`: a script for a shell.
pub(crate) fn completions(shell: clap_complete::Shell) {
    clap_complete::generate(shell, &mut CommandLine::command(), "bdsync-manager", &mut io::stdout());
}

/// `man`: one page a command.
pub(crate) fn man(folder: &Path) -> Result<()> {
    clap_mangen::generate_to(CommandLine::command(), folder)
        .with_context(|| format!("cannot write man pages into {}", folder.display()))
}
