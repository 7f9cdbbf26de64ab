//! How fast this machine hashes and reads.

mod report;

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use bdsync_device::{Device, ReadStrategy};
use bdsync_hash::{Algorithm, BlockHasher};
use bdsync_proto::HashRange;

use crate::error::{Error, Result};
use crate::options::Salt;
use crate::scan::{ScanOptions, Scanner};

pub use report::{BenchReport, DeviceSpeed, DigestSpeed, Pick, Plan, Step, measure};

/// What one thread hashes again and again, in bytes: it stays in a core's cache, as
/// data that was just read does.
const WORK: usize = 1 << 18;

/// How much of a device is scanned or read in one request, in bytes.
const REQUEST: u64 = 4 << 20;

/// How many requests are under way at once.
const REQUESTS: u64 = 8;

/// Hashes blocks in memory on `threads` threads for about `time`; gives bytes a second.
pub fn hash_speed(algorithm: Algorithm, block_size: u64, threads: NonZeroUsize, time: Duration) -> f64 {
    let stop = AtomicBool::new(false);
    let hashed = AtomicU64::new(0);
    let begin = Instant::now();
    let work = || {
        let hasher = BlockHasher::new(algorithm, &[7; Salt::LENGTH], block_size);
        let length = WORK.next_multiple_of(block_size as usize);
        let data: Vec<u8> = (0..length).map(|at| (at % 251) as u8 + 1).collect();
        let mut digests = vec![0; length / block_size as usize * hasher.digest_size()];
        while !stop.load(Ordering::Relaxed) {
            hasher.hash_blocks(&data, &mut digests);
            hashed.fetch_add(length as u64, Ordering::Relaxed);
            if begin.elapsed() >= time {
                stop.store(true, Ordering::Relaxed);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads.get() {
            scope.spawn(work);
        }
        work();
    });
    hashed.load(Ordering::Relaxed) as f64 / begin.elapsed().as_secs_f64()
}

/// What [`device_speed`] does with what it reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// Nothing.
    Read,
    /// Digests, as for a comparison.
    Scan(Algorithm),
}

/// Reads a device from its beginning on `threads` threads, for about `time` or to its
/// end; gives bytes a second.
///
/// # Errors
///
/// What the device says; a device without bytes has no speed.
pub fn device_speed(
    device: &Arc<Device>,
    strategy: ReadStrategy,
    load: Load,
    block_size: u64,
    threads: NonZeroUsize,
    time: Duration,
) -> Result<f64> {
    let options = ScanOptions { strategy, threads: Some(threads), trust_holes: false };
    let scanner = Scanner::new(Arc::clone(device), options)?;
    let size = device.size();
    if size == 0 {
        return Err(Error::Parameter(format!("{} is empty: there is nothing to measure", device.path().display())));
    }
    let algorithm = if let Load::Scan(algorithm) = load { algorithm } else { Algorithm::Md5 };
    let hasher = Arc::new(BlockHasher::new(algorithm, &[7; Salt::LENGTH], block_size));
    let (sender, results) = channel();
    let begin = Instant::now();
    let (mut position, mut under_way, mut done) = (0, 0, 0);
    loop {
        while under_way < REQUESTS && position < size && begin.elapsed() < time {
            let count = (REQUEST / block_size).max(1).min((size - position).div_ceil(block_size));
            let range = HashRange::new(position, block_size, count as u32)?;
            let (sender, length) = (sender.clone(), range.end().min(size) - position);
            let finished = move |result: Result<()>| {
                // The measurement may have ended with an error.
                let _ = sender.send(result.map(|()| length));
            };
            match load {
                Load::Read => scanner.read_through(position, length, finished),
                Load::Scan(_) => scanner.scan(range, &hasher, move |digests| finished(digests.map(drop))),
            }
            position = range.end();
            under_way += 1;
        }
        if under_way == 0 {
            break;
        }
        done += results.recv().map_err(|_| Error::Resources("the scanner's threads ended early".into()))??;
        under_way -= 1;
    }
    Ok(done as f64 / begin.elapsed().as_secs_f64())
}
