//! `bdsync-agent bench`: which digest keeps up with this machine's disks.

use std::io::{IsTerminal, Write};

use anyhow::{Context, Result};
use bdsync_engine::bench::{Plan, measure};

use crate::command_line::BenchOptions;

/// Back to the begin of a terminal's line, which is cleared.
const CLEAR: &str = "\r\x1b[K";

pub(crate) fn run(options: BenchOptions) -> Result<()> {
    let BenchOptions { device, digests, block_sizes, threads, seconds, json } = options;
    let plan = Plan { device, digests, block_sizes, threads, seconds };
    let is_watched = !json && std::io::stderr().is_terminal();
    let show = |text: &str| {
        if is_watched {
            // Nothing depends on its being seen.
            let _ = std::io::stderr().write_all(text.as_bytes());
        }
    };
    let report = measure(&plan, &mut |step| show(&format!("{CLEAR}{}/{} {}", step.done, step.total, step.name)));
    show(CLEAR);
    let report = report?;
    let text = if json { serde_json::to_string(&report)? + "\n" } else { report.to_string() };
    std::io::stdout().write_all(text.as_bytes()).context("cannot write the report")
}
