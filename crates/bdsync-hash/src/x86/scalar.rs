//! One lane in general registers.

use super::words::{Rounds, Vectors, Words};
use crate::lanes::Part;

/// General registers, which every processor has.
#[derive(Clone, Copy)]
pub(super) struct Scalar;

impl Vectors for Scalar {
    const REGISTERS: usize = 16;

    #[inline(always)]
    unsafe fn enter<K: Rounds<LANES>, const LANES: usize>(
        self,
        kernel: &K,
        state: &mut K::State,
        parts: &[Part<LANES>],
    ) {
        // SAFETY: the caller's promise.
        unsafe { kernel.rounds(state, parts) }
    }
}

impl Words<u64, 1> for Scalar {
    type V = u64;

    #[inline(always)]
    fn all(self, word: u64) -> u64 {
        word
    }

    #[inline(always)]
    fn load(self, words: &[u64; 1]) -> u64 {
        words[0]
    }

    #[inline(always)]
    fn store(self, value: u64) -> [u64; 1] {
        [value]
    }

    #[inline(always)]
    unsafe fn read<const N: usize>(self, lanes: &[*const u8; 1], offset: usize) -> [u64; N] {
        // SAFETY: the caller's promise.
        unsafe { lanes[0].add(offset).cast::<[u64; N]>().read_unaligned() }
    }

    #[inline(always)]
    fn swap_bytes(self, x: u64) -> u64 {
        x.swap_bytes()
    }

    #[inline(always)]
    fn add(self, a: u64, b: u64) -> u64 {
        a.wrapping_add(b)
    }

    #[inline(always)]
    fn sub(self, a: u64, b: u64) -> u64 {
        a.wrapping_sub(b)
    }

    #[inline(always)]
    fn xor(self, a: u64, b: u64) -> u64 {
        a ^ b
    }

    #[inline(always)]
    fn xor3(self, a: u64, b: u64, c: u64) -> u64 {
        a ^ b ^ c
    }

    #[inline(always)]
    fn xor_without(self, a: u64, b: u64, c: u64) -> u64 {
        a ^ (!b & c)
    }

    #[inline(always)]
    fn select(self, mask: u64, yes: u64, no: u64) -> u64 {
        (mask & yes) ^ (!mask & no)
    }

    #[inline(always)]
    fn add_select(self, sum: u64, mask: u64, yes: u64, no: u64) -> u64 {
        sum.wrapping_add(!mask & no).wrapping_add(mask & yes)
    }

    #[inline(always)]
    fn majority(self, a: u64, b: u64, c: u64) -> u64 {
        b ^ ((a ^ b) & (b ^ c))
    }

    #[inline(always)]
    fn shr(self, x: u64, bits: u32) -> u64 {
        x >> bits
    }

    #[inline(always)]
    fn rotl(self, x: u64, bits: u32) -> u64 {
        x.rotate_left(bits)
    }
}
