//! What users see while tasks run: bars on a terminal, JSON lines, log messages.

use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bdsync_engine::{Event, Observer};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};

/// How often a JSON progress event is written at most.
const JSON_PAUSE: Duration = Duration::from_secs(1);

/// What a task is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Prepare,
    Finish,
    Compare,
    Commit,
    Apply,
    Verify,
}

impl Phase {
    /// What it is called in messages and events.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Prepare => "prepare",
            Self::Finish => "finish earlier patch",
            Self::Compare => "compare",
            Self::Commit => "check patch",
            Self::Apply => "apply",
            Self::Verify => "verify",
        }
    }
}

/// Where everything is shown.
#[derive(Clone, Debug)]
pub(crate) struct Reporter {
    bars: MultiProgress,
    json: bool,
}

impl Reporter {
    /// Bars are drawn if standard error is a terminal and nothing reads JSON.
    pub(crate) fn new(json: bool) -> Self {
        let show = !json && io::stderr().is_terminal();
        let target = if show { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        Self { bars: MultiProgress::with_draw_target(target), json }
    }

    /// Writes text to standard error without upsetting the bars.
    pub(crate) fn message(&self, text: &str) {
        // A message that nobody can see is no reason to stop.
        self.bars.suspend(|| drop(io::stderr().write_all(text.as_bytes())));
    }

    /// Writes text to standard output, between the bars.
    pub(crate) fn print(&self, text: &str) -> io::Result<()> {
        self.bars.suspend(|| {
            let mut out = io::stdout().lock();
            out.write_all(text.as_bytes())?;
            out.flush()
        })
    }

    /// One JSON line, if they are wanted.
    pub(crate) fn event(&self, event: &str, mut facts: Value) {
        if !self.json {
            return;
        }
        facts["event"] = json!(event);
        facts["time"] = json!(jiff::Timestamp::now().to_string());
        // As above.
        let _ = self.print(&format!("{facts}\n"));
    }

    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// The reporter of one task.
    pub(crate) fn task(&self, name: &str) -> Arc<TaskReporter> {
        let bar = ProgressBar::new(0).with_style(style(0));
        let bar = self.bars.add(bar.with_prefix(name.to_string()));
        let state = State { phase: Phase::Prepare, total: 0, changed: 0, last: Instant::now() };
        Arc::new(TaskReporter { reporter: self.clone(), task: name.into(), bar, state: Mutex::new(state) })
    }
}

/// How a bar looks that has `total` bytes to get to (0: not known), on 80 columns or more.
fn style(total: u64) -> ProgressStyle {
    let template = match total {
        0 => "{prefix:10!} {msg}",
        _ => "{prefix:10!} {msg:25!} {wide_bar} {percent:>3}% {binary_bytes:>10} {binary_bytes_per_sec:>12} {eta:>4}",
    };
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// Shows what one task does.
#[derive(Debug)]
pub(crate) struct TaskReporter {
    reporter: Reporter,
    pub(crate) task: String,
    bar: ProgressBar,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    total: u64,
    changed: u64,
    last: Instant,
}

impl TaskReporter {
    /// A new phase, which has `total` bytes to deal with (0: not known).
    pub(crate) fn phase(&self, phase: Phase, total: u64) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        (state.phase, state.total, state.changed) = (phase, total, 0);
        drop(state);
        self.bar.reset();
        self.set_length(total);
        self.bar.set_message(phase.name());
        self.event("phase", json!({ "phase": phase.name(), "total_bytes": total }));
        tracing::debug!(task = self.task, "Phase: {}", phase.name());
    }

    fn set_length(&self, total: u64) {
        if self.bar.length() == Some(total) {
            return;
        }
        self.bar.set_style(style(total));
        self.bar.set_length(total);
    }

    /// So much of the phase is done.
    pub(crate) fn progress(&self, position: u64, changed: u64) {
        self.bar.set_position(position);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.changed != changed {
            state.changed = changed;
            self.bar.set_message(format!("{} ({} changed)", state.phase.name(), binary(changed)));
        }
        if !self.reporter.json || state.last.elapsed() < JSON_PAUSE {
            return;
        }
        state.last = Instant::now();
        let facts = json!({ "phase": state.phase.name(), "position_bytes": position, "total_bytes": state.total, "changed_bytes": changed });
        drop(state);
        self.event("progress", facts);
    }

    pub(crate) fn event(&self, event: &str, mut facts: Value) {
        facts["task"] = json!(self.task);
        self.reporter.event(event, facts);
    }

    /// How much of the phase is done, from 0 to 1.
    pub(crate) fn fraction(&self) -> f64 {
        match self.bar.length() {
            Some(length @ 1..) => self.bar.position() as f64 / length as f64,
            _ => 0.0,
        }
    }

    /// Takes the bar away.
    pub(crate) fn done(&self) {
        self.bar.finish_and_clear();
    }
}

impl Observer for TaskReporter {
    fn event(&self, event: &Event) {
        match event {
            Event::Progress { position, size, patch_bytes } => {
                self.set_length(*size);
                self.state.lock().unwrap_or_else(PoisonError::into_inner).total = *size;
                self.progress(*position, *patch_bytes);
            }
            Event::Applied { data_bytes } => self.progress(*data_bytes, 0),
            Event::SizesDiffer { local, remote } => {
                tracing::info!(task = self.task, "Different sizes: source {local}, target {remote}");
            }
            _ => self.bar.tick(),
        }
    }
}

/// Bytes as the original prints them.
pub(crate) fn binary(bytes: u64) -> String {
    let mut number = bytes as f64;
    for unit in ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"] {
        if number < 1024.0 {
            return format!("{number:.1}{unit}B");
        }
        number /= 1024.0;
    }
    format!("{number:.1}ZiB")
}

/// A span as Python prints it: hours, minutes, seconds and microseconds.
pub(crate) fn python_time(seconds: f64) -> String {
    let micros = (seconds * 1e6).round() as u64;
    let (whole, fraction) = (micros / 1_000_000, micros % 1_000_000);
    let (days, rest) = (whole / 86400, whole % 86400);
    let days = match days {
        0 => String::new(),
        1 => "1 day, ".into(),
        days => format!("{days} days, "),
    };
    let clock = format!("{days}{}:{:02}:{:02}", rest / 3600, rest / 60 % 60, rest % 60);
    if fraction == 0 { clock } else { format!("{clock}.{fraction:06}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_look_as_the_original_prints_them() {
        assert_eq!(binary(0), "0.0B");
        assert_eq!(binary(1536), "1.5KiB");
        assert_eq!(binary(5 << 30), "5.0GiB");
        assert_eq!(python_time(0.25), "0:00:00.250000");
        assert_eq!(python_time(3661.0), "1:01:01");
        assert_eq!(python_time(90061.5), "1 day, 1:01:01.500000");
    }
}
