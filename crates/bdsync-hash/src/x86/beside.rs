//! Two groups of lanes in step, for processors that one group leaves idle.

use super::words::{Rounds, Vectors, Word, Words};
use crate::lanes::Part;

/// The lanes of the first, and then those of the second, which the features of
/// the first have to be enough for.
#[derive(Clone, Copy)]
pub(super) struct Beside<A, B>(pub(super) A, pub(super) B);

impl<A: Vectors, B: Copy + Send + Sync + 'static> Vectors for Beside<A, B> {
    const REGISTERS: usize = A::REGISTERS;

    #[inline(always)]
    unsafe fn enter<K: Rounds<LANES>, const LANES: usize>(
        self,
        kernel: &K,
        state: &mut K::State,
        parts: &[Part<LANES>],
    ) {
        // SAFETY: the caller's promise.
        unsafe { self.0.enter(kernel, state, parts) }
    }
}

/// Operations that are done by both on their own lanes.
macro_rules! by_both {
    ($($name:ident($($value:ident),* $(; $number:ident: $type:ty)?);)*) => {
        $(
            #[inline(always)]
            fn $name(self, $($value: Self::V,)* $($number: $type)?) -> Self::V {
                (self.0.$name($($value.0,)* $($number)?), self.1.$name($($value.1,)* $($number)?))
            }
        )*
    };
}

/// Numbers of lanes that are made of two.
macro_rules! lanes {
    ($lanes:literal = $first:literal + $second:literal) => {
        impl<W: Word, A: Words<W, $first>, B: Words<W, $second>> Words<W, $lanes> for Beside<A, B> {
            type V = (A::V, B::V);

            #[inline(always)]
            fn all(self, word: W) -> Self::V {
                (self.0.all(word), self.1.all(word))
            }

            #[inline(always)]
            fn load(self, words: &[W; $lanes]) -> Self::V {
                let first = std::array::from_fn(|lane| words[lane]);
                let second = std::array::from_fn(|lane| words[$first + lane]);
                (self.0.load(&first), self.1.load(&second))
            }

            #[inline(always)]
            fn store(self, value: Self::V) -> [W; $lanes] {
                let mut words = [W::default(); $lanes];
                let (first, second) = words.split_at_mut($first);
                first.copy_from_slice(&self.0.store(value.0));
                second.copy_from_slice(&self.1.store(value.1));
                words
            }

            #[inline(always)]
            unsafe fn read<const N: usize>(self, lanes: &[*const u8; $lanes], offset: usize) -> [Self::V; N] {
                let first = std::array::from_fn(|lane| lanes[lane]);
                let second = std::array::from_fn(|lane| lanes[$first + lane]);
                // SAFETY: the caller's promise.
                let (first, second) = unsafe { (self.0.read::<N>(&first, offset), self.1.read::<N>(&second, offset)) };
                let mut words = [self.all(W::default()); N];
                for (i, word) in words.iter_mut().enumerate() {
                    *word = (first[i], second[i]);
                }
                words
            }

            by_both! {
                swap_bytes(x);
                add(a, b);
                sub(a, b);
                xor(a, b);
                xor3(a, b, c);
                xor_without(a, b, c);
                select(mask, yes, no);
                add_select(sum, mask, yes, no);
                majority(a, b, c);
                shr(x; bits: u32);
                rotl(x; bits: u32);
                rotr(x; bits: u32);
                rotr_sparing(x; bits: u32);
                xor_turned(x; bits: u32);
            }
        }
    };
}
lanes!(5 = 4 + 1);
lanes!(16 = 8 + 8);
