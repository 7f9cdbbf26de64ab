//! Hashes several blocks of one length side by side, with whatever can
//! compress several lanes at once.
//!
//! Only what does not fill a compression block is copied: the salt with the
//! head of the data, and the tail with the padding. Everything between is read
//! where it is. Since all lanes have one length, one fill level serves them all.

use std::mem::MaybeUninit;
use std::ops::Range;
use std::ptr;

use crate::engine::{Engine, Stream};
use crate::zero::ZEROS;

/// Longest compression block of any digest, in bytes, twice: padding may need
/// a second one.
pub(crate) const TAIL: usize = 2 * 168;

/// The last bytes of a lane, with room for padding.
type Tail = [MaybeUninit<u8>; TAIL];

/// The last bytes of each lane, from the front. What was not put there is not
/// initialised: filling them for each group of blocks would take time that is seen.
pub(crate) struct Tails<const LANES: usize> {
    tails: [Tail; LANES],
    /// How many bytes of each were put there.
    filled: usize,
}

impl<const LANES: usize> Tails<LANES> {
    fn new() -> Self {
        Tails { tails: [[MaybeUninit::uninit(); TAIL]; LANES], filled: 0 }
    }

    /// How many bytes of each tail are filled.
    pub(crate) fn filled(&self) -> usize {
        self.filled
    }

    /// Puts a part of each piece behind what is there.
    fn keep(&mut self, pieces: &[&[u8]; LANES], part: Range<usize>) {
        let length = part.len();
        copy_parts(&mut self.tails, self.filled, pieces, part);
        self.filled += length;
    }

    /// Puts what another one is filled with behind what is there.
    fn put_all(&mut self, others: &Self) {
        for (tail, other) in self.tails.iter_mut().zip(&others.tails) {
            copy(&mut tail[self.filled..][..others.filled], &other[..others.filled]);
        }
        self.filled += others.filled;
    }

    /// Puts the same bytes behind what is in each.
    pub(crate) fn put(&mut self, bytes: &[u8]) {
        put(&mut self.tails, self.filled, bytes);
        self.filled += bytes.len();
    }

    /// Puts zeros there up to `end`.
    pub(crate) fn put_zeros(&mut self, end: usize) {
        put(&mut self.tails, self.filled, &ZEROS[..end - self.filled]);
        self.filled = end;
    }

    /// Where each tail begins. So many bytes are readable as are filled.
    fn lanes(&self) -> [*const u8; LANES] {
        self.tails.each_ref().map(|tail| tail.as_ptr().cast())
    }
}

impl<const LANES: usize> Clone for Tails<LANES> {
    fn clone(&self) -> Self {
        let mut tails = Self::new();
        tails.put_all(self);
        tails
    }
}

/// Consecutive compression blocks of each lane, at least one.
#[derive(Clone, Copy)]
pub(crate) struct Part<const LANES: usize> {
    /// Where those of each lane begin.
    pub(crate) lanes: [*const u8; LANES],
    /// How many of them each lane has.
    pub(crate) count: usize,
}

/// A digest's compression function for several lanes.
///
/// A value of an implementing type exists only where the processor has the
/// features that its functions use.
pub(crate) trait Kernel<const LANES: usize>: Copy + Send + Sync + 'static {
    /// The chaining values of all lanes.
    type State: Clone + Send + Sync;

    /// Whether the last full block is compressed in its own way, so that it has
    /// to wait until it is known whether more follows.
    const LAST_BLOCK_WAITS: bool = false;

    /// See [`Engine::worthwhile`].
    fn worthwhile(&self) -> usize;

    /// Bytes that one compression takes from each lane.
    fn block_size(&self) -> usize;

    /// The chaining values before the first byte.
    fn start(&self) -> Self::State;

    /// Compresses the blocks of one part after another.
    ///
    /// # Safety
    ///
    /// Each part has a block, and each of its pointers is valid for reads of as many blocks as it has.
    unsafe fn compress(&self, state: &mut Self::State, parts: &[Part<LANES>]);

    /// Fills the last bytes, at most a block, up to whole blocks; `total` bytes were
    /// taken in with them. What is compressed next ends with these blocks.
    fn pad(&self, state: &mut Self::State, tails: &mut Tails<LANES>, total: u64);

    /// Writes the digest of a lane, cut to the length of `out`.
    fn digest(&self, state: &Self::State, lane: usize, out: &mut [u8]);
}

/// An engine over `kernel`, with the salt taken in.
pub(crate) fn engine<K: Kernel<LANES>, const LANES: usize>(kernel: K, salt: &[u8]) -> Box<dyn Engine> {
    let mut salted = Running { kernel, state: kernel.start(), tails: Tails::new(), total: 0 };
    salted.take_in(&[salt; LANES]);
    Box::new(SideBySide { salted })
}

struct SideBySide<K: Kernel<LANES>, const LANES: usize> {
    salted: Running<K, LANES>,
}

impl<K: Kernel<LANES>, const LANES: usize> Engine for SideBySide<K, LANES> {
    fn lanes(&self) -> usize {
        LANES
    }

    fn worthwhile(&self) -> usize {
        self.salted.kernel.worthwhile()
    }

    fn digest_group(&self, blocks: &[&[u8]], digests: &mut [&mut [u8]]) {
        // Not a clone: that is made in one place and moved to another, all of the tails'
        // memory with it.
        let Running { kernel, ref state, ref tails, total } = self.salted;
        let mut running = Running { kernel, state: state.clone(), tails: Tails::new(), total };
        running.tails.put_all(tails);
        running.take_in(&with_idle_lanes(blocks));
        running.write_digests(digests);
    }

    fn start(&self) -> Box<dyn Stream> {
        Box::new(self.salted.clone())
    }
}

/// Lanes on their way through the data.
#[derive(Clone)]
struct Running<K: Kernel<LANES>, const LANES: usize> {
    kernel: K,
    state: K::State,
    /// What was taken in but not compressed; at most a compression block.
    tails: Tails<LANES>,
    /// Bytes taken in by each lane.
    total: u64,
}

impl<K: Kernel<LANES>, const LANES: usize> Stream for Running<K, LANES> {
    fn update(&mut self, pieces: &[&[u8]]) {
        self.take_in(&with_idle_lanes(pieces));
    }

    fn finish(mut self: Box<Self>, digests: &mut [&mut [u8]]) {
        self.write_digests(digests);
    }
}

impl<K: Kernel<LANES>, const LANES: usize> Running<K, LANES> {
    fn take_in(&mut self, pieces: &[&[u8]; LANES]) {
        let length = pieces[0].len();
        assert!(pieces.iter().all(|piece| piece.len() == length));
        self.total += length as u64;

        let block = self.kernel.block_size();
        // A block that waits leaves at least one byte behind it.
        let kept_back = usize::from(K::LAST_BLOCK_WAITS);
        let filled = self.tails.filled();
        let start = if filled > 0 { length.min(block - filled) } else { 0 };
        self.tails.keep(pieces, 0..start);
        if filled > 0 && (self.tails.filled() < block || length - start < kept_back) {
            return;
        }

        let count = (length - start).saturating_sub(kept_back) / block;
        let end = start + count * block;
        let parts = [
            Part { lanes: self.tails.lanes(), count: 1 },
            Part { lanes: pieces.map(|piece| piece[start..end].as_ptr()), count },
        ];
        let used = usize::from(filled == 0)..1 + usize::from(count > 0);
        // SAFETY: a block of each tail is filled if any was waiting, and each piece has
        // `count` blocks from `start`; what has none is not in use.
        unsafe { self.kernel.compress(&mut self.state, &parts[used]) };
        self.tails.filled = 0;
        // Not before: what comes last is in the cache now.
        self.tails.keep(pieces, end..length);
    }

    fn write_digests(&mut self, digests: &mut [&mut [u8]]) {
        self.kernel.pad(&mut self.state, &mut self.tails, self.total);
        let last = Part { lanes: self.tails.lanes(), count: self.tails.filled() / self.kernel.block_size() };
        // SAFETY: so many blocks of each tail are filled, at least the padding's.
        unsafe { self.kernel.compress(&mut self.state, &[last]) };
        for (lane, digest) in digests.iter_mut().enumerate() {
            self.kernel.digest(&self.state, lane, digest);
        }
    }
}

// What does not depend on the kernel is compiled once for all of them.

#[inline(never)]
fn copy_parts(tails: &mut [Tail], start: usize, pieces: &[&[u8]], part: Range<usize>) {
    for (tail, piece) in tails.iter_mut().zip(pieces) {
        copy(&mut tail[start..][..part.len()], initialised(&piece[part.clone()]));
    }
}

#[inline(never)]
fn put(tails: &mut [Tail], start: usize, bytes: &[u8]) {
    for tail in tails {
        copy(&mut tail[start..][..bytes.len()], initialised(bytes));
    }
}

/// Bytes as what need not be any.
fn initialised(bytes: &[u8]) -> &[MaybeUninit<u8>] {
    // SAFETY: what is initialised is also what may be.
    unsafe { &*(ptr::from_ref(bytes) as *const [MaybeUninit<u8>]) }
}

/// Copies a few bytes, without the call that takes longer than that.
#[inline(always)]
fn copy(to: &mut [MaybeUninit<u8>], from: &[MaybeUninit<u8>]) {
    const CHUNK: usize = 32;
    // A length that is not a multiple ends with a chunk that covers some bytes twice.
    if let (Some(to), Some(from)) = (to.last_chunk_mut::<CHUNK>(), from.last_chunk::<CHUNK>()) {
        *to = *from;
    } else {
        to.copy_from_slice(from);
        return;
    }
    for (to, from) in to.as_chunks_mut::<CHUNK>().0.iter_mut().zip(from.as_chunks::<CHUNK>().0) {
        *to = *from;
    }
}

/// Lanes without a piece of their own repeat the first one.
fn with_idle_lanes<'p, const LANES: usize>(pieces: &[&'p [u8]]) -> [&'p [u8]; LANES] {
    let mut lanes = [pieces[0]; LANES];
    lanes[..pieces.len()].copy_from_slice(pieces);
    lanes
}

/// Pads the way MD4 did, and all that followed it: one bit, zeros, and the
/// length in bits, as `bits` has it, in the last bytes of a block.
pub(crate) fn pad_with_length<const LANES: usize>(block_size: usize, tails: &mut Tails<LANES>, bits: &[u8]) {
    let end = (tails.filled() + 1 + bits.len()).next_multiple_of(block_size);
    tails.put(&[0x80]);
    tails.put_zeros(end - bits.len());
    tails.put(bits);
}

/// Writes the words' bytes, as far as `out` goes.
pub(crate) fn write_words<W: AsRef<[u8]>>(mut words: impl Iterator<Item = W>, out: &mut [u8]) {
    let mut whole = out.chunks_exact_mut(size_of::<W>());
    for (out, word) in whole.by_ref().zip(&mut words) {
        out.copy_from_slice(word.as_ref());
    }
    let rest = whole.into_remainder();
    if let Some(word) = words.next() {
        rest.copy_from_slice(&word.as_ref()[..rest.len()]);
    }
}
