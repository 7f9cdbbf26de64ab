//! What kernels are written in: operations on one word of several lanes, for
//! registers of any width.
//!
//! A kernel is written once for any [`Words`] and compiled for each that it is
//! used with. A function takes part in that only if it is always inlined, down
//! to [`Vectors::enter`]: that one alone is compiled for the processor that has
//! the instructions, and what stayed outside of it would call each of them as
//! a function. For the same reason there are loops where a closure would do.

use crate::lanes::{Part, write_words};

/// A number of a digest's word size.
pub(super) trait Word: Copy + Default + Send + Sync + 'static {
    /// How many bits it has.
    const BITS: u32;

    /// Its bytes, as an array.
    type Bytes: AsRef<[u8]>;

    fn to_be_bytes(self) -> Self::Bytes;

    fn to_le_bytes(self) -> Self::Bytes;
}

macro_rules! word {
    ($word:ty) => {
        impl Word for $word {
            const BITS: u32 = <$word>::BITS;

            type Bytes = [u8; size_of::<$word>()];

            fn to_be_bytes(self) -> Self::Bytes {
                self.to_be_bytes()
            }

            fn to_le_bytes(self) -> Self::Bytes {
                self.to_le_bytes()
            }
        }
    };
}
word!(u32);
word!(u64);

/// Bytes of a compression block of sixteen words.
pub(super) const fn block<W: Word>() -> usize {
    16 * size_of::<W>()
}

/// Writes the bytes of a lane's words, as far as `out` goes. Compiled once for all
/// kernels that have as many words.
#[inline(never)]
pub(super) fn write_lane<W: Word, const LANES: usize>(
    words: &[[W; LANES]],
    lane: usize,
    big_endian: bool,
    out: &mut [u8],
) {
    let words = words.iter().map(|word| word[lane]);
    if big_endian {
        write_words(words.map(W::to_be_bytes), out);
    } else {
        write_words(words.map(W::to_le_bytes), out);
    }
}

/// Registers and the instructions for them. There is a value of an implementing
/// type only where the processor has both.
pub(super) trait Vectors: Copy + Send + Sync + 'static {
    /// How many of them there are.
    const REGISTERS: usize;

    /// Runs the kernel's rounds, compiled for these registers.
    ///
    /// # Safety
    ///
    /// As for [`Rounds::rounds`].
    unsafe fn enter<K: Rounds<LANES>, const LANES: usize>(
        self,
        kernel: &K,
        state: &mut K::State,
        parts: &[Part<LANES>],
    );
}

/// A compression function over [`Words`], which gets its features from
/// [`Vectors::enter`].
pub(super) trait Rounds<const LANES: usize> {
    /// The chaining values of all lanes.
    type State;

    /// Compresses the blocks of one part after another. Always inlined.
    ///
    /// # Safety
    ///
    /// Each part has a block, and each of its pointers is valid for reads of as many blocks as it has.
    unsafe fn rounds(&self, state: &mut Self::State, parts: &[Part<LANES>]);
}

/// Operations on one word of each of `LANES` lanes.
pub(super) trait Words<W: Word, const LANES: usize>: Vectors {
    /// One word of each lane.
    type V: Copy;

    /// One number in all lanes.
    fn all(self, word: W) -> Self::V;

    fn load(self, words: &[W; LANES]) -> Self::V;

    fn store(self, value: Self::V) -> [W; LANES];

    /// Reads `N` words of each lane, the first `offset` bytes behind its
    /// pointer. They are an even number of 64 bits, a multiple of four of 32,
    /// or one of 64.
    ///
    /// # Safety
    ///
    /// As many bytes are readable there.
    unsafe fn read<const N: usize>(self, lanes: &[*const u8; LANES], offset: usize) -> [Self::V; N];

    /// Reverses the bytes of each word.
    fn swap_bytes(self, x: Self::V) -> Self::V;

    fn add(self, a: Self::V, b: Self::V) -> Self::V;

    fn sub(self, a: Self::V, b: Self::V) -> Self::V;

    fn xor(self, a: Self::V, b: Self::V) -> Self::V;

    fn xor3(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;

    /// `a`, and where `b` is not set, changed by `c`: `a ^ (!b & c)`.
    fn xor_without(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;

    /// The bits of `yes` where `mask` is set, else those of `no`.
    fn select(self, mask: Self::V, yes: Self::V, no: Self::V) -> Self::V;

    /// Adds what [`select`](Self::select) gives, with the shortest wait for `yes`.
    fn add_select(self, sum: Self::V, mask: Self::V, yes: Self::V, no: Self::V) -> Self::V;

    /// The bits that at least two have.
    fn majority(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;

    /// Moves the bits up, those at the end out.
    fn shr(self, x: Self::V, bits: u32) -> Self::V;

    /// Rotates left by `bits`, more than none and less than all.
    fn rotl(self, x: Self::V, bits: u32) -> Self::V;

    /// Rotates right.
    #[inline(always)]
    fn rotr(self, x: Self::V, bits: u32) -> Self::V {
        self.rotl(x, W::BITS - bits)
    }

    /// Rotates right, with the fewest shifts where there is no other rotation:
    /// for results that are not waited for.
    #[inline(always)]
    fn rotr_sparing(self, x: Self::V, bits: u32) -> Self::V {
        self.rotr(x, bits)
    }

    /// `x`, changed by what rotating it left by `bits` gives, and by a byte more.
    #[inline(always)]
    fn xor_turned(self, x: Self::V, bits: u32) -> Self::V {
        self.xor3(x, self.rotl(x, bits), self.rotl(x, bits + 8))
    }

    /// Each number in all lanes.
    #[inline(always)]
    fn all_of<const N: usize>(self, words: &[W; N]) -> [Self::V; N] {
        let mut values = [self.all(W::default()); N];
        for (value, word) in values.iter_mut().zip(words) {
            *value = self.all(*word);
        }
        values
    }

    #[inline(always)]
    fn load_all<const N: usize>(self, words: &[[W; LANES]; N]) -> [Self::V; N] {
        let mut values = [self.all(W::default()); N];
        for (value, words) in values.iter_mut().zip(words) {
            *value = self.load(words);
        }
        values
    }

    #[inline(always)]
    fn store_all<const N: usize>(self, words: &mut [[W; LANES]; N], values: [Self::V; N]) {
        for (words, value) in words.iter_mut().zip(values) {
            *words = self.store(value);
        }
    }

    #[inline(always)]
    fn swap_bytes_of_all<const N: usize>(self, mut values: [Self::V; N]) -> [Self::V; N] {
        for value in &mut values {
            *value = self.swap_bytes(*value);
        }
        values
    }
}
