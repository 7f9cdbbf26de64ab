//! The engine's events as stock's lines on standard error.

use std::cell::RefCell;
use std::io::Write;
use std::time::{Duration, Instant};

use bdsync_engine::apply::hex;
use bdsync_engine::{Event, Observer};

use crate::options::Progress;
use crate::streams::{printable, say};

/// How long a `PROGRESS:` line may be old.
const REFRESH: Duration = Duration::from_secs(1);

/// Prints what scripts look for, and more when verbose.
pub(crate) struct Report {
    verbose: bool,
    progress: Option<RefCell<ProgressLines>>,
}

impl Report {
    pub(crate) fn new(verbose: bool, progress: Option<Progress>) -> Self {
        Self { verbose, progress: progress.map(|style| RefCell::new(ProgressLines::new(style))) }
    }
}

impl Observer for Report {
    fn event(&self, event: &Event) {
        if let Some(text) = describe(event, self.verbose) {
            say(text);
        }
        if let Some(lines) = &self.progress {
            lines.borrow_mut().event(event);
        }
    }
}

/// The line for an event, if it has one.
pub(crate) fn describe(event: &Event, verbose: bool) -> Option<String> {
    let text = match event {
        Event::SizesDiffer { local, remote } => return Some(format!("Different sizes local={local} remote={remote}")),
        Event::NamesDiffer { given, in_patch } => {
            let (given, in_patch) = (printable(given), printable(in_patch));
            return Some(format!("Warning: different device names parameter={given} data={in_patch}"));
        }
        Event::Opened { device } => format!("opendev: opened {}", printable(device)),
        Event::PeerHello { word } => format!("parse_hello: hello = {}, version = 0.5", printable(word)),
        Event::RemoteSize(size) => format!("parse_size: size = {size}"),
        Event::Digests { salt, digest, checksum } => {
            let checksum = printable(checksum.as_deref().unwrap_or("(none)"));
            let (salt, digest) = (hex(salt), printable(digest));
            format!("send_digests: salt = {salt}, digest = {digest}, checksum = {checksum}")
        }
        Event::HashesRequested(range) => {
            format!("send_gethashes: start={} step={} nstep={}", range.start(), range.step(), range.count())
        }
        Event::SessionDone => "parse_done".to_string(),
        _ => return None,
    };
    verbose.then_some(text)
}

/// The lines of `--progress`.
struct ProgressLines {
    style: Progress,
    begin: Instant,
    printed_at: Instant,
    percent: Option<u64>,
    last: (u64, u64, u64),
}

impl ProgressLines {
    fn new(style: Progress) -> Self {
        let now = Instant::now();
        Self { style, begin: now, printed_at: now, percent: None, last: (0, 0, 0) }
    }

    fn event(&mut self, event: &Event) {
        match event {
            Event::Progress { position, size, patch_bytes } => {
                self.last = (*position, *size, *patch_bytes);
                let percent = percent(*position, *size);
                if self.percent != Some(percent) || self.printed_at.elapsed() >= REFRESH {
                    self.print();
                }
            }
            Event::Waiting if self.percent.is_some() && self.printed_at.elapsed() >= REFRESH => self.print(),
            Event::SessionDone if self.style == Progress::NoScroll => say(""),
            _ => {}
        }
    }

    fn print(&mut self) {
        let (position, size, patch_bytes) = self.last;
        let times = times(self.begin.elapsed(), position, size);
        let end = if self.style == Progress::NoScroll { '\r' } else { '\n' };
        let percent = percent(position, size);
        let line = format!("PROGRESS:{percent:03}%,{patch_bytes},{position},{size},{times}{end}");
        // Progress that nobody can see is no reason to stop.
        let _ = std::io::stderr().write_all(line.as_bytes());
        self.percent = Some(percent);
        self.printed_at = Instant::now();
    }
}

fn percent(position: u64, size: u64) -> u64 {
    match size {
        0 => 100,
        _ => (u128::from(position) * 100 / u128::from(size)) as u64,
    }
}

/// Elapsed and remaining seconds; unknown at the beginning.
fn times(elapsed: Duration, position: u64, size: u64) -> String {
    if position == 0 && size > 0 {
        return "-,-".into();
    }
    let elapsed = elapsed.as_secs_f64();
    let remaining = if position == 0 { 0.0 } else { elapsed * (size - position) as f64 / position as f64 };
    format!("{elapsed:.3},{remaining:.3}        ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_device_is_done() {
        assert_eq!(percent(0, 0), 100);
        assert_eq!(times(Duration::from_millis(1500), 0, 0), "1.500,0.000        ");
    }

    #[test]
    fn times_are_unknown_until_something_was_compared() {
        assert_eq!(times(Duration::from_secs(1), 0, 10), "-,-");
        assert_eq!(times(Duration::from_secs(1), 5, 10), "1.000,1.000        ");
        assert_eq!(percent(u64::MAX / 2, u64::MAX), 49);
    }
}
