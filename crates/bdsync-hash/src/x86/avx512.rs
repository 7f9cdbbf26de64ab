//! Words of 512 bits of lanes, with AVX-512.
//!
//! It rotates in one instruction, and does any function of three bits in one.

use std::arch::x86_64::*;
use std::arch::x86_64::{
    _mm512_add_epi32 as add32, _mm512_add_epi64 as add64, _mm512_sub_epi32 as sub32, _mm512_sub_epi64 as sub64,
    _mm512_unpackhi_epi32 as zip_high32, _mm512_unpackhi_epi64 as zip_high64, _mm512_unpacklo_epi32 as zip_low32,
    _mm512_unpacklo_epi64 as zip_low64, _mm512_xor_si512 as xor,
};

use super::registers::registers;
use super::words::{Rounds, Vectors, Words};
use crate::lanes::Part;

/// The parts of AVX-512 that all processors with 512-bit registers have but
/// the earliest, which were made for other work.
#[derive(Clone, Copy)]
pub(super) struct Avx512(());

impl Avx512 {
    /// If the processor has it.
    pub(super) fn detect() -> Option<Avx512> {
        let detected = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl");
        detected.then_some(Avx512(()))
    }
}

registers!(Avx512 = 32 of V with "avx512f,avx512bw,avx512vl", u32 in 16 lanes {}, u64 in 8 lanes {});

type V = __m512i;

#[inline]
#[target_feature(enable = "avx512f")]
fn all32(word: u32) -> V {
    _mm512_set1_epi32(word.cast_signed())
}

#[inline]
#[target_feature(enable = "avx512f")]
fn all64(word: u64) -> V {
    _mm512_set1_epi64(word.cast_signed())
}

// The bits of a function's number are its results: the lowest for no input
// set, then with the third, the second, the second and third, and so on.

#[inline]
#[target_feature(enable = "avx512f")]
fn xor3(a: V, b: V, c: V) -> V {
    _mm512_ternarylogic_epi32::<0b1001_0110>(a, b, c)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn xor_without(a: V, b: V, c: V) -> V {
    _mm512_ternarylogic_epi32::<0b1101_0010>(a, b, c)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn select(mask: V, yes: V, no: V) -> V {
    _mm512_ternarylogic_epi32::<0b1100_1010>(mask, yes, no)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn majority(a: V, b: V, c: V) -> V {
    _mm512_ternarylogic_epi32::<0b1110_1000>(a, b, c)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn add_select32(sum: V, mask: V, yes: V, no: V) -> V {
    add32(sum, select(mask, yes, no))
}

#[inline]
#[target_feature(enable = "avx512f")]
fn add_select64(sum: V, mask: V, yes: V, no: V) -> V {
    add64(sum, select(mask, yes, no))
}

#[inline]
#[target_feature(enable = "avx512f")]
fn shr32(x: V, bits: u32) -> V {
    _mm512_srlv_epi32(x, all32(bits))
}

#[inline]
#[target_feature(enable = "avx512f")]
fn shr64(x: V, bits: u32) -> V {
    _mm512_srlv_epi64(x, all64(u64::from(bits)))
}

#[inline]
#[target_feature(enable = "avx512f")]
fn rotl32(x: V, bits: u32) -> V {
    _mm512_rolv_epi32(x, all32(bits))
}

#[inline]
#[target_feature(enable = "avx512f")]
fn rotl64(x: V, bits: u32) -> V {
    _mm512_rolv_epi64(x, all64(u64::from(bits)))
}

#[inline]
#[target_feature(enable = "avx512bw")]
fn swap_bytes32(x: V) -> V {
    _mm512_shuffle_epi8(x, _mm512_set4_epi32(0x0c0d_0e0f, 0x0809_0a0b, 0x0405_0607, 0x0001_0203))
}

#[inline]
#[target_feature(enable = "avx512bw")]
fn swap_bytes64(x: V) -> V {
    _mm512_shuffle_epi8(x, _mm512_set4_epi32(0x0809_0a0b, 0x0c0d_0e0f, 0x0001_0203, 0x0405_0607))
}

/// The first of some lanes lowest, and then each `step` further.
///
/// # Safety
///
/// From `offset` on, 16 bytes behind each pointer are readable.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn load_row(lanes: &[*const u8], first: usize, step: usize, offset: usize) -> V {
    // SAFETY: the caller's promise.
    let [a, b, c, d] = std::array::from_fn(|i| unsafe { _mm_loadu_si128(lanes[first + i * step].add(offset).cast()) });
    let row = _mm512_inserti32x4::<1>(_mm512_castsi128_si512(a), b);
    _mm512_inserti32x4::<3>(_mm512_inserti32x4::<2>(row, c), d)
}
