//! `bdsync-agent bench`: which digest keeps up with this machine's disks.

use std::io::{IsTerminal, Write};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bdsync_device::{Access, Device, ReadStrategy};
use bdsync_engine::bench::{Load, device_speed, hash_speed};
use bdsync_hash::Algorithm;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

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

/// What one digest does.
#[derive(Clone, Debug, Serialize)]
struct DigestSpeed {
    digest: &'static str,
    block_size: u64,
    threads: usize,
    bytes_per_second: f64,
}

/// What the device does.
#[derive(Clone, Debug, Serialize)]
struct DeviceSpeed {
    device: String,
    io: &'static str,
    /// The digest that ran over what was read; `null`: it was only read.
    digest: Option<&'static str>,
    threads: usize,
    bytes_per_second: f64,
}

#[derive(Debug, Serialize)]
struct Report {
    digests: Vec<DigestSpeed>,
    devices: Vec<DeviceSpeed>,
    pick: Option<Pick>,
}

/// The digest that this machine should use.
#[derive(Clone, Debug, Serialize)]
struct Pick {
    digest: &'static str,
    reason: String,
}

pub(crate) fn run(options: &BenchOptions) -> Result<()> {
    ensure!(
        options.seconds.is_finite() && (0.01..=3600.0).contains(&options.seconds),
        "bad --seconds {}: it must be from 0.01 to 3600",
        options.seconds
    );
    let digests = if options.digest.is_empty() { Algorithm::ALL } else { &options.digest };
    let threads = thread_counts(options.threads);
    let steps = digests.len() * options.block_size.len() * threads.len();
    let time = Duration::from_secs_f64(options.seconds / steps as f64);
    let device = options.device.as_ref().map(|path| Device::open(path, Access::Read)).transpose();
    let device = device.map_err(bdsync_engine::Error::from)?.map(Arc::new);

    let bar = progress_bar(steps as u64, options.json);
    let mut report = Report { digests: Vec::with_capacity(steps), devices: Vec::new(), pick: None };
    for &block_size in &options.block_size {
        for &digest in digests {
            for &count in &threads {
                bar.set_message(digest.name());
                let bytes_per_second = hash_speed(digest, block_size, count, time);
                let (digest, threads) = (digest.name(), count.get());
                report.digests.push(DigestSpeed { digest, block_size, threads, bytes_per_second });
                bar.inc(1);
            }
        }
    }
    let most = *threads.last().context("no thread count")?;
    report.pick = pick(&report.digests, None);
    if let Some(device) = &device {
        bar.set_message("reading");
        measure_device(device, most, options, digests, &mut report)?;
    }
    bar.finish_and_clear();
    let text = if options.json { serde_json::to_string(&report)? + "\n" } else { table(&report, &threads) };
    std::io::stdout().write_all(text.as_bytes()).context("cannot write the report")
}

/// 1, 2, 4 and so on, and the most itself.
fn thread_counts(most: Option<NonZeroUsize>) -> Vec<NonZeroUsize> {
    let most = most.or_else(|| std::thread::available_parallelism().ok()).unwrap_or(NonZeroUsize::MIN);
    let doubled =
        std::iter::successors(Some(NonZeroUsize::MIN), |count| count.checked_mul(NonZeroUsize::MIN.saturating_add(1)));
    doubled.take_while(|count| *count < most).chain([most]).collect()
}

fn progress_bar(steps: u64, json: bool) -> ProgressBar {
    if json || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{wide_bar} {msg:12} {pos}/{len}");
    ProgressBar::new(steps).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

fn measure_device(
    device: &Arc<Device>,
    threads: NonZeroUsize,
    options: &BenchOptions,
    digests: &[Algorithm],
    report: &mut Report,
) -> Result<()> {
    let block_size = *options.block_size.first().context("no block size")?;
    let time = Duration::from_secs_f64((options.seconds / 4.0).max(0.1));
    let name = device.path().display().to_string();
    for (io, strategy) in
        [("positional", ReadStrategy::Positional), ("mapped", ReadStrategy::Mapped), ("direct", ReadStrategy::Direct)]
    {
        // A way of reading that this device does not allow is none of its speeds.
        if strategy.reader(Arc::clone(device)).is_err() {
            continue;
        }
        let bytes_per_second = device_speed(device, strategy, Load::Read, block_size, threads, time)?;
        let (device, threads) = (name.clone(), threads.get());
        report.devices.push(DeviceSpeed { device, io, digest: None, threads, bytes_per_second });
    }
    let reading = report.devices.first().map(|speed| speed.bytes_per_second);
    report.pick = pick(&report.digests, reading);
    let picked = report.pick.as_ref().map(|pick| pick.digest);
    for &digest in digests.iter().filter(|digest| Some(digest.name()) == picked || **digest == Algorithm::Md5) {
        let load = Load::Scan(digest);
        let bytes_per_second = device_speed(device, ReadStrategy::Positional, load, block_size, threads, time)?;
        let (device, threads, digest) = (name.clone(), threads.get(), Some(digest.name()));
        report.devices.push(DeviceSpeed { device, io: "positional", digest, threads, bytes_per_second });
    }
    Ok(())
}

/// Digests that nobody can find collisions of, whatever the salt.
fn is_strong(digest: &str) -> bool {
    !digest.starts_with("md5") && !digest.starts_with("sha1")
}

/// The fastest digest; a strong one where that is fast enough for the device.
fn pick(speeds: &[DigestSpeed], reading: Option<f64>) -> Option<Pick> {
    let most = speeds.iter().map(|speed| speed.threads).max()?;
    let block_size = speeds.first()?.block_size;
    let candidates = || speeds.iter().filter(|speed| speed.threads == most && speed.block_size == block_size);
    let fastest = |speeds: &mut dyn Iterator<Item = &'_ DigestSpeed>| {
        speeds.max_by(|a, b| a.bytes_per_second.total_cmp(&b.bytes_per_second)).cloned()
    };
    let strong = fastest(&mut candidates().filter(|speed| is_strong(speed.digest)));
    if let (Some(strong), Some(reading)) = (&strong, reading)
        && strong.bytes_per_second >= reading
    {
        return Some(Pick {
            digest: strong.digest,
            reason: "the fastest strong digest; it keeps up with the device".into(),
        });
    }
    let any = fastest(&mut candidates())?;
    let reason = match reading {
        Some(_) => "the fastest; no strong digest keeps up with the device",
        None => "the fastest on all threads",
    };
    Some(Pick { digest: any.digest, reason: reason.into() })
}

fn table(report: &Report, threads: &[NonZeroUsize]) -> String {
    let mut text = format!("{:14}{:>10}", "GB/s", "block");
    for count in threads {
        text += &format!("{:>12}", format!("{count} thread{}", if count.get() == 1 { "" } else { "s" }));
    }
    for row in report.digests.chunks(threads.len()) {
        text += &format!("\n{:14}{:>10}", row[0].digest, row[0].block_size);
        for speed in row {
            text += &format!("{:12.2}", speed.bytes_per_second / 1e9);
        }
    }
    text.push('\n');
    for speed in &report.devices {
        let what = speed.digest.map_or_else(|| "read".to_string(), |digest| format!("scan with {digest}"));
        let (io, threads, rate) = (speed.io, speed.threads, speed.bytes_per_second / 1e9);
        text += &format!("{}: {what} ({io}, {threads} threads): {rate:.2} GB/s\n", speed.device);
    }
    if let Some(Pick { digest, reason }) = &report.pick {
        text += &format!("Pick: {digest} ({reason})\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn speed(digest: &'static str, bytes_per_second: f64) -> DigestSpeed {
        DigestSpeed { digest, block_size: 4096, threads: 2, bytes_per_second }
    }

    #[test]
    fn a_strong_digest_is_picked_where_it_keeps_up() {
        let speeds = [speed("md5", 8e9), speed("sha256", 5e9), speed("blake2b512", 4e9)];
        assert_eq!(pick(&speeds, None).map(|pick| pick.digest), Some("md5"));
        assert_eq!(pick(&speeds, Some(2e9)).map(|pick| pick.digest), Some("sha256"));
        assert_eq!(pick(&speeds, Some(6e9)).map(|pick| pick.digest), Some("md5"));
    }

    #[test]
    fn thread_counts_double_up_to_the_most() {
        let counts = |most| thread_counts(NonZeroUsize::new(most)).iter().map(|count| count.get()).collect::<Vec<_>>();
        assert_eq!(counts(1), [1]);
        assert_eq!(counts(2), [1, 2]);
        assert_eq!(counts(6), [1, 2, 4, 6]);
        assert_eq!(counts(8), [1, 2, 4, 8]);
    }
}
