//! Comparing two devices of this machine directly, byte by byte, on all threads.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use bdsync_device::{AlignedBuffer, BlockReader, Device, ExtentMap, ReadStrategy, plain};
use bdsync_hash::is_zero;

use crate::error::{Error, Result};
use crate::events::{Context, Event};
use crate::scan::ScanOptions;

/// What one thread compares in one go, in bytes.
const CHUNK: u64 = 1 << 20;

/// What is read at once, in bytes: both sides shall fit a core's cache.
const SPAN: usize = 1 << 17;

/// How many chunks may be ahead of the one that is written, for each thread.
const AHEAD: usize = 4;

/// How often somebody who waits looks whether it was told to stop.
const TICK: Duration = Duration::from_millis(100);

/// What to compare, and how.
#[derive(Clone, Copy, Debug)]
pub struct CompareOptions {
    /// Size of the blocks that count as one difference, in bytes.
    pub block_size: u64,
    /// How far to compare, in bytes: at most the source's size. Where the target is
    /// shorter, zeros stand for it.
    pub length: u64,
    /// Compare only this many chunks of a mebibyte, spread evenly, with the first and the last.
    pub sample: Option<NonZeroUsize>,
    /// Give back the page cache of what was read.
    pub flush_cache: bool,
    /// How the devices are read.
    pub scan: ScanOptions,
}

/// What was found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CompareStats {
    /// How many bytes were compared.
    pub compared_bytes: u64,
    /// How many blocks differ.
    pub differing_blocks: u64,
    /// How many bytes these blocks have.
    pub differing_bytes: u64,
}

/// Compares `source` with `target`. Each run of differing blocks goes to `difference`, in
/// order and with the source's bytes; a long run comes in pieces.
///
/// # Errors
///
/// Read errors of either device, and whatever `difference` returns.
pub fn compare(
    source: &Arc<Device>,
    target: &Arc<Device>,
    options: &CompareOptions,
    mut difference: impl FnMut(u64, &[u8]) -> Result<()>,
    context: Context<'_>,
) -> Result<CompareStats> {
    let size = options.length;
    let threads = options.scan.thread_count();
    let sides = Sides {
        source: Side::new(source, options)?,
        target: Side::new(target, options)?,
        block_size: options.block_size,
        size,
        flush_cache: options.flush_cache,
        trust_holes: options.scan.trust_holes,
    };
    let chunks = Chunks::new(size, options);
    let window = Window::new(threads * AHEAD);
    let next = AtomicUsize::new(0);
    let (sender, receiver) = sync_channel(threads * AHEAD);
    let mut stats = CompareStats::default();
    std::thread::scope(|scope| {
        // Whatever way this ends, nobody waits for it any more.
        let _stop = StopOnDrop(&window);
        for index in 0..threads {
            let (sender, sides, chunks, window, next) = (sender.clone(), &sides, &chunks, &window, &next);
            std::thread::Builder::new()
                .name(format!("compare-{index}"))
                .spawn_scoped(scope, move || work(sides, chunks, window, next, &sender))
                .map_err(|error| Error::Resources(format!("cannot start a thread: {error}")))?;
        }
        drop(sender);
        let mut collector = Collector { receiver, waiting: BTreeMap::new(), context };
        for index in 0..chunks.count {
            let (start, end) = chunks.range(index);
            context.observer.event(&Event::Progress { position: start, size, patch_bytes: stats.differing_bytes });
            for (position, bytes) in collector.take(index)? {
                stats.differing_blocks += (bytes.len() as u64).div_ceil(options.block_size);
                stats.differing_bytes += bytes.len() as u64;
                difference(position, &bytes)?;
            }
            stats.compared_bytes += end - start;
            window.advance();
        }
        context.observer.event(&Event::Progress { position: size, size, patch_bytes: stats.differing_bytes });
        Ok(stats)
    })
}

/// The parts that are compared.
struct Chunks {
    length: u64,
    size: u64,
    count: usize,
    /// How many there would be without sampling.
    all: usize,
}

impl Chunks {
    fn new(size: u64, options: &CompareOptions) -> Self {
        let length = CHUNK.next_multiple_of(options.block_size);
        let all = size.div_ceil(length) as usize;
        let count = options.sample.map_or(all, |sample| sample.get().min(all));
        Self { length, size, count, all }
    }

    fn range(&self, index: usize) -> (u64, u64) {
        let spread = if self.count < 2 { 0 } else { index as u128 * (self.all - 1) as u128 / (self.count - 1) as u128 };
        let start = spread as u64 * self.length;
        (start, (start + self.length).min(self.size))
    }
}

type Differences = Vec<(u64, Vec<u8>)>;

fn work(
    sides: &Sides,
    chunks: &Chunks,
    window: &Window,
    next: &AtomicUsize,
    sender: &SyncSender<(usize, Result<Differences>)>,
) {
    let mut buffers = match Buffers::new() {
        Ok(buffers) => buffers,
        Err(error) => return drop(sender.send((0, Err(error)))),
    };
    loop {
        let index = next.fetch_add(1, Ordering::Relaxed);
        if index >= chunks.count || !window.wait_for(index) {
            return;
        }
        let (start, end) = chunks.range(index);
        let result = sides.compare(start, end, &mut buffers);
        let failed = result.is_err();
        if sender.send((index, result)).is_err() || failed {
            return;
        }
    }
}

/// Puts what the threads found into order.
struct Collector<'a> {
    receiver: Receiver<(usize, Result<Differences>)>,
    waiting: BTreeMap<usize, Differences>,
    context: Context<'a>,
}

impl Collector<'_> {
    fn take(&mut self, wanted: usize) -> Result<Differences> {
        loop {
            self.context.cancellation.check()?;
            if let Some(found) = self.waiting.remove(&wanted) {
                return Ok(found);
            }
            match self.receiver.recv_timeout(TICK) {
                Ok((index, result)) => drop(self.waiting.insert(index, result?)),
                Err(std::sync::mpsc::RecvTimeoutError::Timeout) => self.context.observer.event(&Event::Waiting),
                Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => {
                    return Err(Error::Resources("a comparing thread ended early".into()));
                }
            }
        }
    }
}

/// Keeps the threads from running ahead without end.
struct Window {
    done: Mutex<usize>,
    moved: Condvar,
    stop: AtomicBool,
    ahead: usize,
}

impl Window {
    fn new(ahead: usize) -> Self {
        Self { done: Mutex::new(0), moved: Condvar::new(), stop: AtomicBool::new(false), ahead }
    }

    /// Waits until chunk `index` may be compared; false if none may be any more.
    fn wait_for(&self, index: usize) -> bool {
        let done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        let closed = |done: &mut usize| index >= *done + self.ahead && !self.stop.load(Ordering::Relaxed);
        drop(self.moved.wait_while(done, closed).unwrap_or_else(PoisonError::into_inner));
        !self.stop.load(Ordering::Relaxed)
    }

    fn advance(&self) {
        *self.done.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.moved.notify_all();
    }

    fn stop(&self) {
        // Under the lock: who is about to wait must not miss it.
        let done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        self.stop.store(true, Ordering::Relaxed);
        self.moved.notify_all();
        drop(done);
    }
}

struct StopOnDrop<'a>(&'a Window);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.stop();
    }
}

struct Buffers {
    source: AlignedBuffer,
    target: AlignedBuffer,
}

impl Buffers {
    fn new() -> Result<Self> {
        let buffer = || AlignedBuffer::new(SPAN).map_err(|error| Error::Resources(format!("no memory: {error}")));
        Ok(Self { source: buffer()?, target: buffer()? })
    }
}

/// One of the two devices.
struct Side {
    reader: Box<dyn BlockReader>,
    extents: ExtentMap,
    size: u64,
}

impl Side {
    fn new(device: &Arc<Device>, options: &CompareOptions) -> Result<Self> {
        let strategy: ReadStrategy = options.scan.strategy;
        let reader = strategy.reader(Arc::clone(device)).map_err(|error| {
            Error::Resources(format!("cannot read {} in this way: {}", device.path().display(), plain(&error)))
        })?;
        Ok(Self { reader, extents: ExtentMap::new(), size: device.size() })
    }

    /// Whether there are only zeros from `position` on, and up to where that is known.
    fn hole(&self, position: u64, trust_holes: bool) -> (bool, u64) {
        if position >= self.size {
            return (true, u64::MAX);
        }
        if !trust_holes {
            return (false, self.size);
        }
        let extent = self.extents.extent_at(self.reader.device(), position);
        (extent.hole, extent.end)
    }
}

struct Sides {
    source: Side,
    target: Side,
    block_size: u64,
    size: u64,
    flush_cache: bool,
    trust_holes: bool,
}

impl Sides {
    fn compare(&self, start: u64, end: u64, buffers: &mut Buffers) -> Result<Differences> {
        let mut found = Found { runs: Vec::new(), block_size: self.block_size };
        let mut position = start;
        while position < end {
            let (source_hole, source_end) = self.source.hole(position, self.trust_holes);
            let (target_hole, target_end) = self.target.hole(position, self.trust_holes);
            let limit = source_end.min(target_end).min(end);
            let piece = limit.min(position + SPAN as u64);
            match (source_hole, target_hole) {
                (true, true) => position = limit,
                (true, false) => {
                    self.target_alone(position, piece, buffers, &mut found)?;
                    position = piece;
                }
                (false, true) => {
                    self.source_alone(position, piece, buffers, &mut found)?;
                    position = piece;
                }
                (false, false) => {
                    self.both(position, piece, buffers, &mut found)?;
                    position = piece;
                }
            }
        }
        self.source.reader.forget(start, end);
        self.target.reader.forget(start, end);
        if self.flush_cache {
            self.source.reader.device().release(start, end);
            self.target.reader.device().release(start, end);
        }
        self.complete(found)
    }

    /// Zeros in the source, data in the target.
    fn target_alone(&self, start: u64, end: u64, buffers: &mut Buffers, found: &mut Found) -> Result<()> {
        let length = (end - start) as usize;
        Ok(self.target.reader.visit(start, length, &mut buffers.target, &mut |target| {
            found.look(start, target.len(), |range| !is_zero(&target[range]));
        })?)
    }

    /// Data in the source, zeros (or nothing) in the target.
    fn source_alone(&self, start: u64, end: u64, buffers: &mut Buffers, found: &mut Found) -> Result<()> {
        let length = (end - start) as usize;
        Ok(self.source.reader.visit(start, length, &mut buffers.source, &mut |source| {
            found.look(start, source.len(), |range| !is_zero(&source[range]));
        })?)
    }

    fn both(&self, start: u64, end: u64, buffers: &mut Buffers, found: &mut Found) -> Result<()> {
        let length = (end - start) as usize;
        let Buffers { source, target } = buffers;
        let mut inner = Ok(());
        self.source.reader.visit(start, length, source, &mut |source| {
            inner = self.target.reader.visit(start, length, target, &mut |target| {
                if source != target {
                    found.look(start, length, |range| source[range.clone()] != target[range]);
                }
            });
        })?;
        Ok(inner?)
    }

    /// Reads the source's bytes of what differs.
    fn complete(&self, found: Found) -> Result<Differences> {
        let mut differences = Vec::with_capacity(found.runs.len());
        for (start, end) in found.runs {
            let end = end.min(self.size);
            let mut bytes = vec![0; (end - start) as usize];
            self.source.reader.read_into(start, &mut bytes)?;
            differences.push((start, bytes));
        }
        Ok(differences)
    }
}

/// Runs of differing blocks, as (start, end); whole blocks.
struct Found {
    runs: Vec<(u64, u64)>,
    block_size: u64,
}

impl Found {
    /// Looks at each block's part of a piece at `start`, unless it is known to differ.
    fn look(&mut self, start: u64, length: usize, differs: impl Fn(std::ops::Range<usize>) -> bool) {
        let end = start + length as u64;
        let mut position = start;
        while position < end {
            let block = position / self.block_size * self.block_size;
            let next = (block + self.block_size).min(end);
            let known = self.runs.last().is_some_and(|run| run.1 > position);
            if !known && differs((position - start) as usize..(next - start) as usize) {
                self.add(block);
            }
            position = next;
        }
    }

    fn add(&mut self, block: u64) {
        let end = block + self.block_size;
        match self.runs.last_mut() {
            Some(run) if run.1 == block => run.1 = end,
            _ => self.runs.push((block, end)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use bdsync_device::Access;

    use super::*;
    use crate::events::Cancellation;

    fn device(content: &[u8], size: u64) -> (tempfile::NamedTempFile, Arc<Device>) {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(size).unwrap();
        // Zeros stay holes.
        for (index, block) in content.chunks(4096).enumerate().filter(|(_, block)| !is_zero(block)) {
            file.as_file().write_all_at(block, index as u64 * 4096).unwrap();
        }
        let device = Device::open(file.path(), Access::Read).unwrap();
        (file, Arc::new(device))
    }

    fn options(length: u64) -> CompareOptions {
        CompareOptions { block_size: 4096, length, sample: None, flush_cache: false, scan: ScanOptions::default() }
    }

    fn run(source: &[u8], target: &[u8], options: &CompareOptions) -> (Vec<u8>, CompareStats) {
        let (_keep, source_device) = device(source, source.len() as u64);
        let (_keep, target_device) = device(target, target.len() as u64);
        let mut patched = target.to_vec();
        patched.resize(options.length as usize, 0);
        let mut last = 0;
        let cancellation = Cancellation::new();
        let context = Context { observer: &|_: &Event| {}, cancellation: &cancellation };
        let stats = compare(
            &source_device,
            &target_device,
            options,
            |position, bytes| {
                assert!(position >= last, "differences come in order");
                last = position + bytes.len() as u64;
                patched[position as usize..last as usize].copy_from_slice(bytes);
                Ok(())
            },
            context,
        )
        .unwrap();
        (patched, stats)
    }

    fn image(length: usize, seed: u32) -> Vec<u8> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        // Half of the megabytes are holes.
        (0..length).map(|at| if (at >> 20) % 2 == 0 { next() } else { 0 }).collect()
    }

    #[test]
    fn what_differs_is_found_whatever_is_a_hole() {
        let source = image((7 << 20) + 1234, 1);
        let mut target = source.clone();
        for at in [0, 4096 * 3 + 7, (1 << 20) + 5, (2 << 20) - 1, (4 << 20) + 4095, (7 << 20) + 1233] {
            target[at] ^= 1;
        }
        target[5 << 20..6 << 20].copy_from_slice(&image(1 << 20, 9));
        target[(2 << 20) + 8192..3 << 20].fill(0);
        for strategy in [ReadStrategy::Positional, ReadStrategy::Mapped] {
            for block_size in [1000, 4096, 65536, 3 << 20] {
                let mut options = options(source.len() as u64);
                options.block_size = block_size;
                options.scan.strategy = strategy;
                let (patched, stats) = run(&source, &target, &options);
                assert!(patched == source, "{strategy:?} {block_size}");
                assert_eq!(stats.compared_bytes, source.len() as u64);
                assert!(stats.differing_blocks > 0 && stats.differing_bytes <= source.len() as u64);
            }
        }
    }

    #[test]
    fn equal_devices_have_no_differences() {
        let source = image(3 << 20, 5);
        let (_, stats) = run(&source, &source, &options(3 << 20));
        assert_eq!((stats.differing_blocks, stats.differing_bytes), (0, 0));
    }

    #[test]
    fn zeros_stand_for_what_a_shorter_target_does_not_have() {
        let source = image((4 << 20) + 100, 3);
        let (patched, stats) = run(&source, &source[..5000], &options(source.len() as u64));
        assert!(patched == source);
        assert!(stats.differing_bytes < 3 << 20, "zeros behind the end are no difference: {stats:?}");
    }

    #[test]
    fn a_sample_looks_at_the_first_and_the_last_part() {
        let source = image(40 << 20, 3);
        let mut target = source.clone();
        target[0] ^= 1;
        target[(40 << 20) - 1] ^= 1;
        let mut options = options(40 << 20);
        options.sample = NonZeroUsize::new(4);
        let (_, stats) = run(&source, &target, &options);
        assert_eq!((stats.compared_bytes, stats.differing_blocks), (4 << 20, 2));
    }

    #[test]
    fn an_error_and_a_stop_end_it() {
        let (keep, source) = device(&image(8 << 20, 1), 8 << 20);
        let (_keep, target) = device(&[], 8 << 20);
        let cancellation = Cancellation::new();
        let context = Context { observer: &|_: &Event| {}, cancellation: &cancellation };
        let full = compare(&source, &target, &options(8 << 20), |_, _| Err(Error::Cancelled), context);
        assert!(matches!(full, Err(Error::Cancelled)));
        keep.as_file().set_len(1 << 20).unwrap();
        let mut untrusting = options(8 << 20);
        untrusting.scan.trust_holes = false;
        let shrunk = compare(&source, &target, &untrusting, |_, _| Ok(()), context);
        assert!(matches!(shrunk, Err(Error::Device(_))), "{shrunk:?}");
        cancellation.cancel();
        let stopped = compare(&source, &target, &options(8 << 20), |_, _| Ok(()), context);
        assert!(matches!(stopped, Err(Error::Cancelled)));
    }
}
