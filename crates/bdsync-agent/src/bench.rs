//! `bdsync-agent bench`: which digest keeps up with this machine's disks.

use std::io::{IsTerminal, Write};
use std::num::NonZeroUsize;
use std::path::PathBuf;

use anyhow::{Context, Result};
use bdsync_engine::bench::{Plan, measure};
use bdsync_hash::Algorithm;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

#[derive(Debug, Args)]
pub(crate) struct BenchOptions {
    /// Also measure how fast this file or block device is read and scanned (nothing is written)
    #[arg(long, value_name = "PATH")]
    device: Option<PathBuf>,
    /// Digests to measure, separated by commas [default: all]
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    digest: Vec<Algorithm>,
    /// Block sizes to measure, in bytes, separated by commas
    #[arg(long, value_name = "BYTES", value_delimiter = ',', default_value = "4096,65536",
          value_parser = clap::value_parser!(u64).range(1..=1 << 26))]
    block_size: Vec<u64>,
    /// Most threads to measure: 1, 2, 4 and so on up to this [default: one a processor]
    #[arg(long, value_name = "N", env = "BDSYNC_THREADS")]
    threads: Option<NonZeroUsize>,
    /// About how long all digests together may take, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 4.0)]
    seconds: f64,
    /// One JSON object instead of the table
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(options: BenchOptions) -> Result<()> {
    let BenchOptions { device, digest: digests, block_size: block_sizes, threads, seconds, json } = options;
    let plan = Plan { device, digests, block_sizes, threads, seconds };
    let bar = progress_bar(json);
    let report = measure(&plan, &mut |step| {
        bar.set_length(step.total as u64);
        bar.set_position(step.done as u64);
        bar.set_message(step.name);
    })?;
    bar.finish_and_clear();
    let text = if json { serde_json::to_string(&report)? + "\n" } else { report.to_string() };
    std::io::stdout().write_all(text.as_bytes()).context("cannot write the report")
}

fn progress_bar(json: bool) -> ProgressBar {
    if json || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{wide_bar} {msg:12} {pos}/{len}");
    ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
