//! Hashes several blocks of one length side by side, with whatever can
//! compress several lanes at once.
//!
//! Only what does not fill a compression block is copied: the salt with the
//! head of the data, and the tail with the padding. Everything between is read
//! where it is. Since all lanes have one length, one fill level serves them all.

use std::mem::MaybeUninit;
use std::ops::Range;

use crate::engine::{Engine, Stream};

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

    /// Puts what another one is filled with behind what is there.
    fn put_all(&mut self, others: &Self) {
        for (tail, other) in self.tails.iter_mut().zip(&others.tails) {
            tail[self.filled..self.filled + others.filled].copy_from_slice(&other[..others.filled]);
        }
        self.filled += others.filled;
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

    /// Puts the same bytes behind what is in each.
    pub(crate) fn put(&mut self, bytes: &[u8]) {
        put(&mut self.tails, self.filled, bytes);
        self.filled += bytes.len();
    }

    /// Puts zeros there up to `end`.
    pub(crate) fn put_zeros(&mut self, end: usize) {
        put_zeros(&mut self.tails, self.filled..end);
        self.filled = end;
    }

    /// Where each tail begins. So many bytes are readable as are filled.
    pub(crate) fn lanes(&self) -> [*const u8; LANES] {
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

    /// Compresses `count` consecutive blocks of each lane.
    ///
    /// # Safety
    ///
    /// Each pointer is valid for reads of `count` blocks.
    unsafe fn compress(&self, state: &mut Self::State, lanes: &[*const u8; LANES], count: usize);

    /// Pads and compresses the last bytes, at most a block; `total` bytes were taken
    /// in with them.
    fn finish(&self, state: &mut Self::State, tails: &mut Tails<LANES>, total: u64);

    /// Writes the digest of a lane, cut to the length of `out`.
    fn digest(&self, state: &Self::State, lane: usize, out: &mut [u8]);
}

/// An engine over `kernel`, with the salt taken in.
pub(crate) fn engine<K: Kernel<LANES>, const LANES: usize>(
    kernel: K,
    digest_size: usize,
    salt: &[u8],
) -> Box<dyn Engine> {
    let mut salted = Running { kernel, digest_size, state: kernel.start(), tails: Tails::new(), total: 0 };
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

    fn digest_group(&self, blocks: &[&[u8]], out: &mut [u8]) {
        // Not a clone: that is made in one place and moved to another, all of the tails'
        // memory with it.
        let Running { kernel, digest_size, ref state, ref tails, total } = self.salted;
        let mut running = Running { kernel, digest_size, state: state.clone(), tails: Tails::new(), total };
        running.tails.put_all(tails);
        running.take_in(&with_idle_lanes(blocks));
        running.write_digests(out);
    }

    fn start(&self) -> Box<dyn Stream> {
        Box::new(self.salted.clone())
    }
}

/// Lanes on their way through the data.
#[derive(Clone)]
struct Running<K: Kernel<LANES>, const LANES: usize> {
    kernel: K,
    digest_size: usize,
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

    fn finish(mut self: Box<Self>, out: &mut [u8]) {
        self.write_digests(out);
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
        let mut start = 0;
        let filled = self.tails.filled();
        if filled > 0 {
            start = length.min(block - filled);
            self.tails.keep(pieces, 0..start);
            if self.tails.filled() < block || length - start < kept_back {
                return;
            }
            // SAFETY: a block of each tail is filled.
            unsafe { self.kernel.compress(&mut self.state, &self.tails.lanes(), 1) };
            self.tails.filled = 0;
        }

        let count = (length - start).saturating_sub(kept_back) / block;
        let end = start + count * block;
        if count > 0 {
            let lanes = pieces.map(|piece| piece[start..end].as_ptr());
            // SAFETY: each piece has `count` blocks from `start`.
            unsafe { self.kernel.compress(&mut self.state, &lanes, count) };
        }
        self.tails.keep(pieces, end..length);
    }

    fn write_digests(&mut self, out: &mut [u8]) {
        self.kernel.finish(&mut self.state, &mut self.tails, self.total);
        for (lane, out) in out.chunks_exact_mut(self.digest_size).enumerate() {
            self.kernel.digest(&self.state, lane, out);
        }
    }
}

// What does not depend on the kernel is compiled once for all of them.

#[inline(never)]
fn copy_parts(tails: &mut [Tail], start: usize, pieces: &[&[u8]], part: Range<usize>) {
    for (tail, piece) in tails.iter_mut().zip(pieces) {
        tail[start..start + part.len()].write_copy_of_slice(&piece[part.clone()]);
    }
}

#[inline(never)]
fn put(tails: &mut [Tail], start: usize, bytes: &[u8]) {
    for tail in tails {
        tail[start..start + bytes.len()].write_copy_of_slice(bytes);
    }
}

#[inline(never)]
fn put_zeros(tails: &mut [Tail], part: Range<usize>) {
    for tail in tails {
        tail[part.clone()].fill(MaybeUninit::new(0));
    }
}

/// Lanes without a piece of their own repeat the first one.
fn with_idle_lanes<'p, const LANES: usize>(pieces: &[&'p [u8]]) -> [&'p [u8]; LANES] {
    let mut lanes = [pieces[0]; LANES];
    lanes[..pieces.len()].copy_from_slice(pieces);
    lanes
}

/// Finishes the way MD4 did, and all that followed it: one bit, zeros, and the
/// length in bits, as `bits` has it, in the last bytes of a block.
pub(crate) fn finish_with_length<K: Kernel<LANES>, const LANES: usize>(
    kernel: &K,
    state: &mut K::State,
    tails: &mut Tails<LANES>,
    bits: &[u8],
) {
    let count = (tails.filled() + 1 + bits.len()).div_ceil(kernel.block_size());
    tails.put(&[0x80]);
    tails.put_zeros(count * kernel.block_size() - bits.len());
    tails.put(bits);
    // SAFETY: `count` blocks of each tail are filled.
    unsafe { kernel.compress(state, &tails.lanes(), count) };
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
