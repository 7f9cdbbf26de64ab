//! What MD5, RIPEMD-160, SM3, SHA-1 and SHA-2 have in common: padding with the
//! length, and chaining values that are the digest in the end.

use super::words::{Rounds, Word, Words, block, write_lane};
use crate::lanes::{Kernel, Part, Tails, pad_with_length};

/// Such a digest, for words of any number of lanes. A compression block has
/// sixteen words, and the length in bits takes two of them.
pub(super) trait Chained: Copy + Send + Sync + 'static {
    type Word: Word;

    /// The chaining values: word, lane.
    type State<const LANES: usize>: AsRef<[[Self::Word; LANES]]> + Clone + Send + Sync;

    /// Whether the first byte of a word counts most.
    const BIG_ENDIAN: bool;

    /// The chaining values before the first byte.
    fn start<const LANES: usize>(&self) -> Self::State<LANES>;

    /// How many blocks make it worth while to run so many lanes.
    fn worthwhile(&self, lanes: usize) -> usize;

    /// Compresses `count` consecutive blocks of each lane. Always inlined.
    ///
    /// # Safety
    ///
    /// Each pointer is valid for reads of `count` blocks.
    unsafe fn rounds<S: Words<Self::Word, LANES>, const LANES: usize>(
        &self,
        s: S,
        state: &mut Self::State<LANES>,
        lanes: &[*const u8; LANES],
        count: usize,
    );
}

/// A digest in some kind of registers.
#[derive(Clone, Copy)]
pub(super) struct InRegisters<D, S>(pub(super) D, pub(super) S);

impl<D: Chained, S: Words<D::Word, LANES>, const LANES: usize> Kernel<LANES> for InRegisters<D, S> {
    type State = D::State<LANES>;

    fn worthwhile(&self) -> usize {
        self.0.worthwhile(LANES)
    }

    fn block_size(&self) -> usize {
        block::<D::Word>()
    }

    fn start(&self) -> Self::State {
        self.0.start()
    }

    unsafe fn compress(&self, state: &mut Self::State, parts: &[Part<LANES>]) {
        // SAFETY: the caller's promise.
        unsafe { self.1.enter(self, state, parts) }
    }

    fn pad(&self, _state: &mut Self::State, tails: &mut Tails<LANES>, total: u64) {
        let bits = u128::from(total) * 8;
        let length = 2 * size_of::<D::Word>();
        let (big, little) = (bits.to_be_bytes(), bits.to_le_bytes());
        let bits = if D::BIG_ENDIAN { &big[size_of::<u128>() - length..] } else { &little[..length] };
        pad_with_length(block::<D::Word>(), tails, bits);
    }

    fn digest(&self, state: &Self::State, lane: usize, out: &mut [u8]) {
        write_lane::<D::Word, LANES>(state.as_ref(), lane, D::BIG_ENDIAN, out);
    }
}

impl<D: Chained, S: Words<D::Word, LANES>, const LANES: usize> Rounds<LANES> for InRegisters<D, S> {
    type State = D::State<LANES>;

    #[inline(always)]
    unsafe fn rounds(&self, state: &mut Self::State, parts: &[Part<LANES>]) {
        for part in parts {
            // SAFETY: the caller's promise.
            unsafe { self.0.rounds(self.1, state, &part.lanes, part.count) };
        }
    }
}
