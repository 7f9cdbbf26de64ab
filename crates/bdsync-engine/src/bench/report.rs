//! A report over all digests and a device: what `bench` commands print.

use std::fmt;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bdsync_device::{Access, Device, ReadStrategy};
use bdsync_hash::Algorithm;
use serde::Serialize;

use super::{Load, device_speed, hash_speed};
use crate::error::{Error, Result};

/// What to measure.
#[derive(Clone, Debug)]
pub struct Plan {
    /// A file or block device that is read and scanned, too.
    pub device: Option<PathBuf>,
    /// The digests; none: all of them.
    pub digests: Vec<Algorithm>,
    /// Sizes of blocks, in bytes.
    pub block_sizes: Vec<u64>,
    /// The most threads; `None`: one a processor.
    pub threads: Option<NonZeroUsize>,
    /// About how long all digests together may take, in seconds.
    pub seconds: f64,
}

impl Default for Plan {
    fn default() -> Self {
        Self { device: None, digests: Vec::new(), block_sizes: vec![4096, 65536], threads: None, seconds: 4.0 }
    }
}

/// How far a measurement is.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// What is measured next.
    pub name: &'static str,
    /// How many steps are done.
    pub done: usize,
    /// How many there are.
    pub total: usize,
}

/// What one digest does.
#[derive(Clone, Debug, Serialize)]
pub struct DigestSpeed {
    /// Its name.
    pub digest: &'static str,
    /// Size of the blocks in bytes.
    pub block_size: u64,
    /// On how many threads.
    pub threads: usize,
    /// How fast.
    pub bytes_per_second: f64,
}

/// What the device does.
#[derive(Clone, Debug, Serialize)]
pub struct DeviceSpeed {
    /// Its path.
    pub device: String,
    /// The way of reading.
    pub io: &'static str,
    /// The digest that ran over what was read; `null`: it was only read.
    pub digest: Option<&'static str>,
    /// On how many threads.
    pub threads: usize,
    /// How fast.
    pub bytes_per_second: f64,
}

/// Everything that was measured.
#[derive(Debug, Serialize)]
pub struct BenchReport {
    /// The digests.
    pub digests: Vec<DigestSpeed>,
    /// The device, in all ways it can be read.
    pub devices: Vec<DeviceSpeed>,
    /// The digest that this machine should use.
    pub pick: Option<Pick>,
}

/// The digest that this machine should use.
#[derive(Clone, Debug, Serialize)]
pub struct Pick {
    /// Its name.
    pub digest: &'static str,
    /// Why this one.
    pub reason: String,
}

/// Measures. `step` is told before each one.
///
/// # Errors
///
/// A plan that makes no sense, or a device that cannot be read.
pub fn measure(plan: &Plan, step: &mut dyn FnMut(Step)) -> Result<BenchReport> {
    let seconds = plan.seconds;
    if !seconds.is_finite() || !(0.01..=3600.0).contains(&seconds) {
        return Err(Error::Parameter(format!("bad --seconds {seconds}: it must be from 0.01 to 3600")));
    }
    let digests = if plan.digests.is_empty() { Algorithm::ALL } else { &plan.digests };
    let threads = thread_counts(plan.threads);
    let total = digests.len() * plan.block_sizes.len() * threads.len();
    let time = Duration::from_secs_f64(seconds / total.max(1) as f64);
    let device = plan.device.as_ref().map(|path| Device::open(path, Access::Read)).transpose()?.map(Arc::new);
    let mut report = BenchReport { digests: Vec::with_capacity(total), devices: Vec::new(), pick: None };
    for &block_size in &plan.block_sizes {
        for &digest in digests {
            for &count in &threads {
                step(Step { name: digest.name(), done: report.digests.len(), total });
                let bytes_per_second = hash_speed(digest, block_size, count, time);
                let (digest, threads) = (digest.name(), count.get());
                report.digests.push(DigestSpeed { digest, block_size, threads, bytes_per_second });
            }
        }
    }
    report.pick = pick(&report.digests, None);
    if let (Some(device), Some(most)) = (&device, threads.last()) {
        step(Step { name: "reading", done: total, total });
        measure_device(device, *most, plan, digests, &mut report)?;
    }
    Ok(report)
}

/// 1, 2, 4 and so on, and the most itself.
fn thread_counts(most: Option<NonZeroUsize>) -> Vec<NonZeroUsize> {
    let most = most.or_else(|| std::thread::available_parallelism().ok()).unwrap_or(NonZeroUsize::MIN);
    let doubled =
        std::iter::successors(Some(NonZeroUsize::MIN), |count| count.checked_mul(NonZeroUsize::MIN.saturating_add(1)));
    doubled.take_while(|count| *count < most).chain([most]).collect()
}

fn measure_device(
    device: &Arc<Device>,
    threads: NonZeroUsize,
    plan: &Plan,
    digests: &[Algorithm],
    report: &mut BenchReport,
) -> Result<()> {
    let block_size = plan.block_sizes.first().copied().unwrap_or(4096);
    let time = Duration::from_secs_f64((plan.seconds / 4.0).max(0.1));
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

impl fmt::Display for BenchReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut threads: Vec<usize> = self.digests.iter().map(|speed| speed.threads).collect();
        threads.sort_unstable();
        threads.dedup();
        write!(f, "{:14}{:>10}", "GB/s", "block")?;
        for count in &threads {
            write!(f, "{:>12}", format!("{count} thread{}", if *count == 1 { "" } else { "s" }))?;
        }
        for row in self.digests.chunks(threads.len().max(1)) {
            write!(f, "\n{:14}{:>10}", row[0].digest, row[0].block_size)?;
            for speed in row {
                write!(f, "{:12.2}", speed.bytes_per_second / 1e9)?;
            }
        }
        writeln!(f)?;
        for speed in &self.devices {
            let what = speed.digest.map_or_else(|| "read".to_string(), |digest| format!("scan with {digest}"));
            let (io, threads, rate) = (speed.io, speed.threads, speed.bytes_per_second / 1e9);
            writeln!(f, "{}: {what} ({io}, {threads} threads): {rate:.2} GB/s", speed.device)?;
        }
        if let Some(Pick { digest, reason }) = &self.pick {
            writeln!(f, "Pick: {digest} ({reason})")?;
        }
        Ok(())
    }
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
