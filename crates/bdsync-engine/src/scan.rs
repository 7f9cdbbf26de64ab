//! Hashing a device where its bytes are, on all threads at once.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};

use bdsync_device::{AlignedBuffer, BlockReader, Device, Extent, ExtentMap, ReadStrategy, plain};
use bdsync_hash::{BlockHasher, is_zero};
use bdsync_proto::HashRange;
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::error::{Error, Result};

/// The most that one thread does in one go, in bytes, as long as blocks are smaller than that:
/// one request. What was hashed is given back at the end of a task, which costs every other
/// thread an interruption.
const TASK: u64 = 4 << 20;

/// The least that one thread does in one go where there are many of them, in bytes.
const LEAST_TASK: u64 = 1 << 20;

/// What the tasks of all threads are together, in bytes, as far as the two above allow it:
/// each shall find another one among the requests that are open.
const TASKS: u64 = 16 << 20;

/// What is copied at once, in bytes: it shall still be in a core's cache when it is hashed.
const SPAN: u64 = 1 << 18;

/// The memory that one thread reads into, in bytes.
const BUFFER: usize = 1 << 20;

/// Threads that are used when nothing is said; more would mostly wait for the device.
const MAX_DEFAULT_THREADS: usize = 16;

/// Hashes ranges of one device in the background, on its own threads.
///
/// Holes and blocks of zeros are recognised and cost next to nothing. Memory is
/// bounded by the number of threads, whatever the size of the blocks.
pub struct Scanner {
    reader: Box<dyn BlockReader>,
    extents: ExtentMap,
    pool: ThreadPool,
    /// One thread for what is not urgent; none where it cannot be had, or is the only one.
    ahead: OnceLock<Option<ThreadPool>>,
    buffers: Mutex<Vec<AlignedBuffer>>,
    flush: AtomicBool,
    stop: AtomicBool,
    trust_holes: bool,
    active: Arc<Active>,
    /// What lies behind this counts as zeros, in bytes.
    size: AtomicU64,
}

/// How to read and hash a device.
#[derive(Clone, Copy, Debug)]
pub struct ScanOptions {
    /// How its bytes are read.
    pub strategy: ReadStrategy,
    /// On how many threads; `None`: one a processor, up to 16. Where there are several, a
    /// server has one more for what is not urgent.
    pub threads: Option<NonZeroUsize>,
    /// Whether holes that the file system tells of are taken for zeros without reading them.
    pub trust_holes: bool,
}

impl Default for ScanOptions {
    fn default() -> Self {
        Self { strategy: ReadStrategy::default(), threads: None, trust_holes: true }
    }
}

impl ScanOptions {
    /// How many threads that makes.
    pub(crate) fn thread_count(&self) -> usize {
        let default = || std::thread::available_parallelism().map_or(1, |count| count.get().min(MAX_DEFAULT_THREADS));
        self.threads.map_or_else(default, NonZeroUsize::get)
    }
}

impl Scanner {
    /// A scanner of `device`.
    ///
    /// # Errors
    ///
    /// When there are no threads to be had, or the device cannot be read in this way.
    pub fn new(device: Arc<Device>, options: ScanOptions) -> Result<Arc<Self>> {
        let ScanOptions { strategy, trust_holes, .. } = options;
        let threads = options.thread_count();
        let pool = ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|index| format!("scan-{index}"))
            .build()
            .map_err(|error| Error::Resources(format!("cannot start {threads} threads: {error}")))?;
        let path = device.path().to_path_buf();
        let size = AtomicU64::new(device.size());
        let reader = strategy.reader(device).map_err(|error| {
            Error::Resources(format!("cannot read {} in this way: {}", path.display(), plain(&error)))
        })?;
        let (buffers, flush, stop) = (Mutex::default(), AtomicBool::new(false), AtomicBool::new(false));
        Ok(Arc::new(Self {
            reader,
            extents: ExtentMap::new(),
            pool,
            ahead: OnceLock::new(),
            buffers,
            flush,
            stop,
            trust_holes,
            active: Arc::default(),
            size,
        }))
    }

    /// The device that is scanned.
    pub fn device(&self) -> &Device {
        self.reader.device()
    }

    /// How much of the device counts, in bytes; what lies behind is taken for zeros.
    pub fn size(&self) -> u64 {
        self.size.load(Ordering::Relaxed)
    }

    /// Drops everything that was asked for and waits until the device is not read any
    /// more. The scanner is of no use after that.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
        self.active.wait_until_none();
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn check_stopped(&self) -> Result<()> {
        if self.is_stopped() { Err(Error::Cancelled) } else { Ok(()) }
    }

    /// From now on, nothing behind `size` bytes counts.
    pub(crate) fn cut_to(&self, size: u64) {
        self.size.fetch_min(size, Ordering::Relaxed);
    }

    /// From now on, gives back the page cache's copy of what was read.
    pub fn flush_cache(&self) {
        self.flush.store(true, Ordering::Relaxed);
    }

    /// Fills `buffer` with the device's bytes from `position` on.
    ///
    /// # Errors
    ///
    /// A read error with its position.
    pub fn read_into(&self, position: u64, buffer: &mut [u8]) -> Result<()> {
        Ok(self.reader.read_into(position, buffer)?)
    }

    /// Hashes the blocks of `range` in the background. `done` is called once, from
    /// one of the scanner's threads, with the digests one after another.
    pub fn scan(
        self: &Arc<Self>,
        range: HashRange,
        hasher: &Arc<BlockHasher>,
        done: impl FnOnce(Result<Vec<u8>>) + Send + 'static,
    ) {
        self.scan_in(&self.pool, range, hasher, done);
    }

    /// The same for what is not needed soon: one thread does all of that, one range
    /// after another.
    pub(crate) fn scan_ahead(
        self: &Arc<Self>,
        range: HashRange,
        hasher: &Arc<BlockHasher>,
        done: impl FnOnce(Result<Vec<u8>>) + Send + 'static,
    ) {
        let start = || {
            let one = ThreadPoolBuilder::new().num_threads(1).thread_name(|_| "ahead".into());
            if self.pool.current_num_threads() > 1 { one.build().ok() } else { None }
        };
        self.scan_in(self.ahead.get_or_init(start).as_ref().unwrap_or(&self.pool), range, hasher, done);
    }

    fn scan_in(
        self: &Arc<Self>,
        pool: &ThreadPool,
        range: HashRange,
        hasher: &Arc<BlockHasher>,
        done: impl FnOnce(Result<Vec<u8>>) + Send + 'static,
    ) {
        debug_assert_eq!(range.step(), hasher.block_size());
        let lanes = hasher.lanes() as u64;
        let task = (TASKS / self.pool.current_num_threads() as u64).clamp(LEAST_TASK, TASK);
        let blocks = (task / range.step()).next_multiple_of(lanes).max(lanes);
        let count = u64::from(range.count());
        let tasks = count.div_ceil(blocks);
        let job = Arc::new(Job {
            parts: Mutex::new((0..tasks).map(|_| None).collect()),
            missing: AtomicUsize::new(tasks as usize),
            done: Mutex::new(Some(done)),
        });
        for task in 0..tasks {
            let (scanner, hasher, job) = (Arc::clone(self), Arc::clone(hasher), Arc::clone(&job));
            let ticket = Active::begin(&self.active);
            pool.spawn_fifo(move || {
                let first = task * blocks;
                let start = range.start() + first * range.step();
                let part = scanner.hash_blocks(&hasher, start, blocks.min(count - first));
                // Whoever waits for the ticket may rely on the device being left alone.
                drop(scanner);
                job.finish_part(task as usize, part);
                drop(ticket);
            });
        }
    }

    /// Reads a range in the background and does nothing with it, for measurements.
    pub(crate) fn read_through(
        self: &Arc<Self>,
        position: u64,
        length: u64,
        done: impl FnOnce(Result<()>) + Send + 'static,
    ) {
        let scanner = Arc::clone(self);
        self.pool.spawn_fifo(move || {
            let read = || {
                let mut buffer = scanner.take_buffer()?;
                for start in (position..position + length).step_by(SPAN as usize) {
                    let piece = (position + length - start).min(SPAN) as usize;
                    scanner.reader.visit(start, piece, &mut buffer, &mut |bytes| {
                        // A map reads a page when it is touched.
                        std::hint::black_box(bytes.iter().step_by(4096).fold(0, |sum, byte| sum ^ byte));
                    })?;
                }
                scanner.give_buffer(buffer);
                Ok(())
            };
            done(read());
        });
    }

    fn give_buffer(&self, buffer: AlignedBuffer) {
        self.buffers.lock().unwrap_or_else(PoisonError::into_inner).push(buffer);
    }

    /// Digests of `count` blocks from `start` on.
    fn hash_blocks(&self, hasher: &BlockHasher, start: u64, count: u64) -> Result<Vec<u8>> {
        let digest_size = hasher.digest_size();
        let mut digests = vec![0; count as usize * digest_size];
        let mut buffer = self.take_buffer()?;
        let end = start + count * hasher.block_size();
        let mut blocks = Blocks { scanner: self, hasher, position: start, end, digests: &mut digests };
        let result = blocks.run(&mut buffer);
        self.give_buffer(buffer);
        if self.flush.load(Ordering::Relaxed) {
            self.device().release(start, end);
        }
        result.map(|()| digests)
    }

    fn take_buffer(&self) -> Result<AlignedBuffer> {
        let free = self.buffers.lock().unwrap_or_else(PoisonError::into_inner).pop();
        match free {
            Some(buffer) => Ok(buffer),
            None => AlignedBuffer::new(BUFFER).map_err(|error| Error::Resources(format!("no memory: {error}"))),
        }
    }
}

/// How many tasks are waiting or running.
#[derive(Default)]
struct Active {
    count: Mutex<usize>,
    none: Condvar,
}

impl Active {
    fn begin(active: &Arc<Self>) -> Ticket {
        *active.count.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        Ticket(Arc::clone(active))
    }

    fn wait_until_none(&self) {
        let count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.none.wait_while(count, |count| *count > 0));
    }
}

/// Counts as one task while it lives.
struct Ticket(Arc<Active>);

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut count = self.0.count.lock().unwrap_or_else(PoisonError::into_inner);
        *count -= 1;
        if *count == 0 {
            self.0.none.notify_all();
        }
    }
}

/// One call of [`Scanner::scan`] while its tasks run.
struct Job<D> {
    parts: Mutex<Vec<Option<Result<Vec<u8>>>>>,
    missing: AtomicUsize,
    done: Mutex<Option<D>>,
}

impl<D: FnOnce(Result<Vec<u8>>)> Job<D> {
    fn finish_part(&self, task: usize, part: Result<Vec<u8>>) {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)[task] = Some(part);
        if self.missing.fetch_sub(1, Ordering::AcqRel) > 1 {
            return;
        }
        let parts = std::mem::take(&mut *self.parts.lock().unwrap_or_else(PoisonError::into_inner));
        // All parts are there: this was the last. The first error is the one that counts.
        let digests = parts.into_iter().flatten().collect::<Result<Vec<_>>>().map(|mut parts| match parts.len() {
            1 => parts.remove(0),
            _ => parts.concat(),
        });
        if let Some(done) = self.done.lock().unwrap_or_else(PoisonError::into_inner).take() {
            done(digests);
        }
    }
}

/// Blocks that one task hashes, from the front.
struct Blocks<'a> {
    scanner: &'a Scanner,
    hasher: &'a BlockHasher,
    position: u64,
    end: u64,
    digests: &'a mut [u8],
}

impl Blocks<'_> {
    fn run(&mut self, buffer: &mut AlignedBuffer) -> Result<()> {
        let size = self.scanner.size();
        let step = self.hasher.block_size();
        let lanes = self.hasher.lanes() as u64;
        let start = self.position;
        while self.position < self.end {
            self.scanner.check_stopped()?;
            let hole_end = self.hole_end();
            let empty = (hole_end.min(self.end) - self.position) / step;
            if empty > 0 {
                self.skip_zeros(empty);
                continue;
            }
            // What is data now may be a hole further on: stop there.
            let data_end = self.scanner.extent_at(self.position).end;
            let data_blocks = (data_end.max(self.position + 1) - self.position).div_ceil(step);
            let blocks = data_blocks.min((self.end - self.position) / step);
            if step * lanes <= BUFFER as u64 {
                let most = BUFFER as u64 / step;
                let copied = (SPAN / step).next_multiple_of(lanes).max(lanes).min(most);
                let span = if self.scanner.reader.lends() { most } else { copied };
                self.hash_small(blocks.min(span), size, buffer)?;
            } else {
                self.hash_large(blocks.min(lanes), size, buffer)?;
            }
        }
        self.scanner.reader.forget(start, self.position);
        Ok(())
    }

    /// How far from here on nothing is stored; this position if something is.
    fn hole_end(&self) -> u64 {
        // What lies beyond the end is read as zeros, too.
        self.scanner.zeros_until(self.position)
    }

    /// Where the digests of the next `blocks` blocks go; they count as done.
    fn advance(&mut self, blocks: u64) -> &mut [u8] {
        self.position += blocks * self.hasher.block_size();
        let length = blocks as usize * self.hasher.digest_size();
        let digests = std::mem::take(&mut self.digests);
        let (now, later) = digests.split_at_mut(length);
        self.digests = later;
        now
    }

    fn skip_zeros(&mut self, blocks: u64) {
        let hasher = self.hasher;
        for digest in self.advance(blocks).chunks_exact_mut(hasher.digest_size()) {
            digest.copy_from_slice(hasher.zero_digest());
        }
    }

    /// Blocks that fit the buffer side by side.
    fn hash_small(&mut self, blocks: u64, size: u64, buffer: &mut AlignedBuffer) -> Result<()> {
        let (scanner, hasher, position) = (self.scanner, self.hasher, self.position);
        let length = (blocks * hasher.block_size()).min(size - position) as usize;
        // The last block can begin before the device's end and reach past it, but none begins there.
        let blocks = (length as u64).div_ceil(hasher.block_size());
        let digests = self.advance(blocks);
        Ok(scanner.reader.visit(position, length, buffer, &mut |bytes| hasher.hash_blocks(bytes, digests))?)
    }

    /// Blocks that do not: each is read piece by piece, all at the same offset.
    fn hash_large(&mut self, blocks: u64, size: u64, buffer: &mut AlignedBuffer) -> Result<()> {
        let (scanner, hasher, first) = (self.scanner, self.hasher, self.position);
        let step = hasher.block_size();
        let digest_size = hasher.digest_size();
        let digests = self.advance(blocks);
        let mut filled = Vec::with_capacity(blocks as usize);
        for (index, digest) in digests.chunks_exact_mut(digest_size).enumerate() {
            let start = first + index as u64 * step;
            if scanner.is_zero_block(start, step, size, buffer)? {
                digest.copy_from_slice(hasher.zero_digest());
            } else {
                filled.push(index);
            }
        }
        if filled.is_empty() {
            return Ok(());
        }
        // A piece keeps the page alignment that fast reads need.
        let piece = (BUFFER / filled.len()) & !4095;
        let mut running = hasher.interleaved(filled.len());
        let mut offset = 0;
        while offset < step {
            scanner.check_stopped()?;
            let length = (step - offset).min(piece as u64) as usize;
            let mut pieces = Vec::with_capacity(filled.len());
            for (&index, memory) in filled.iter().zip(buffer.chunks_exact_mut(piece)) {
                let start = first + index as u64 * step + offset;
                let lent = if start + length as u64 <= size { scanner.reader.lent(start, length)? } else { None };
                pieces.push(match lent {
                    Some(bytes) => bytes,
                    None => {
                        let memory = &mut memory[..length];
                        scanner.read_padded(start, size, memory)?;
                        &*memory
                    }
                });
            }
            running.update(&pieces);
            // From the first piece that can have been lent to the last.
            let last = first + filled[filled.len() - 1] as u64 * step + offset;
            let end = (last + length as u64).min(size);
            scanner.reader.check_lent(first, end.saturating_sub(first) as usize)?;
            offset += length as u64;
        }
        let mut results = vec![0; filled.len() * digest_size];
        running.finish(&mut results);
        for (&index, result) in filled.iter().zip(results.chunks_exact(digest_size)) {
            digests[index * digest_size..][..digest_size].copy_from_slice(result);
        }
        Ok(())
    }
}

impl Scanner {
    /// Up to where there is nothing but zeros, without looking: `position` itself if
    /// something is stored there, or it is not known.
    pub(crate) fn zeros_until(&self, position: u64) -> u64 {
        let size = self.size();
        if position >= size {
            return u64::MAX;
        }
        let extent = self.extent_at(position);
        match extent.hole {
            false => position,
            true if extent.end >= size => u64::MAX,
            true => extent.end,
        }
    }

    fn extent_at(&self, position: u64) -> Extent {
        match self.trust_holes {
            true => self.extents.extent_at(self.device(), position),
            false => Extent { hole: false, start: position, end: self.size() },
        }
    }

    /// Reads a piece; what lies past the device's end is zeros.
    fn read_padded(&self, position: u64, size: u64, memory: &mut [u8]) -> Result<()> {
        let stored = size.saturating_sub(position).min(memory.len() as u64) as usize;
        if stored > 0 {
            self.reader.read_into(position, &mut memory[..stored])?;
        }
        memory[stored..].fill(0);
        Ok(())
    }

    /// Whether a block is all zeros; looks no further than to the first byte that is not.
    fn is_zero_block(&self, start: u64, step: u64, size: u64, buffer: &mut AlignedBuffer) -> Result<bool> {
        let end = (start + step).min(size);
        let mut position = start;
        // Most blocks show in their first page that they are not.
        let mut length = 4096;
        while position < end {
            self.check_stopped()?;
            let extent = self.extent_at(position);
            if extent.hole {
                position = extent.end;
                continue;
            }
            let piece = &mut buffer[..(end - position).min(length) as usize];
            self.reader.read_into(position, piece)?;
            if !is_zero(piece) {
                return Ok(false);
            }
            position += piece.len() as u64;
            length = SPAN;
        }
        Ok(true)
    }
}
