//! Words of 256 bits of lanes, with AVX2.

use std::arch::asm;
use std::arch::x86_64::*;
use std::arch::x86_64::{
    _mm256_add_epi32 as add32, _mm256_add_epi64 as add64, _mm256_and_si256 as and, _mm256_andnot_si256 as and_not,
    _mm256_or_si256 as or, _mm256_sub_epi32 as sub32, _mm256_sub_epi64 as sub64, _mm256_unpackhi_epi32 as zip_high32,
    _mm256_unpackhi_epi64 as zip_high64, _mm256_unpacklo_epi32 as zip_low32, _mm256_unpacklo_epi64 as zip_low64,
    _mm256_xor_si256 as xor,
};

use super::registers::registers;
use super::words::{Rounds, Vectors, Words};
use crate::lanes::Part;

/// AVX2. Every processor that has it has the bit manipulations too.
#[derive(Clone, Copy)]
pub(super) struct Avx2(());

impl Avx2 {
    /// If the processor has it.
    pub(super) fn detect() -> Option<Avx2> {
        let detected =
            is_x86_feature_detected!("avx2") && is_x86_feature_detected!("bmi1") && is_x86_feature_detected!("bmi2");
        detected.then_some(Avx2(()))
    }
}

registers!(
    Avx2 = 16 of V with "avx2,bmi1,bmi2",
    u32 in 8 lanes { xor_turned(x: V, bits: u32) = xor_turned32; },
    u64 in 4 lanes { rotr_sparing(x: V, bits: u32) = rotr_sparing64; }
);

type V = __m256i;

#[inline]
#[target_feature(enable = "avx2")]
fn all32(word: u32) -> V {
    _mm256_set1_epi32(word.cast_signed())
}

#[inline]
#[target_feature(enable = "avx2")]
fn all64(word: u64) -> V {
    _mm256_set1_epi64x(word.cast_signed())
}

#[inline]
#[target_feature(enable = "avx2")]
fn xor3(a: V, b: V, c: V) -> V {
    xor(a, xor(b, c))
}

#[inline]
#[target_feature(enable = "avx2")]
fn xor_without(a: V, b: V, c: V) -> V {
    xor(a, and_not(b, c))
}

#[inline]
#[target_feature(enable = "avx2")]
fn select(mask: V, yes: V, no: V) -> V {
    xor(no, and(mask, xor(yes, no)))
}

// The two halves of a selection have no bit in common: they may be added one
// after the other, the one that is there first.

#[inline]
#[target_feature(enable = "avx2")]
fn add_select32(sum: V, mask: V, yes: V, no: V) -> V {
    add32(add32(sum, and_not(mask, no)), and(mask, yes))
}

#[inline]
#[target_feature(enable = "avx2")]
fn add_select64(sum: V, mask: V, yes: V, no: V) -> V {
    add64(add64(sum, and_not(mask, no)), and(mask, yes))
}

/// Where a round hands its first two words on as the last two, the next one
/// has what it needs of them already.
#[inline]
#[target_feature(enable = "avx2")]
fn majority(a: V, b: V, c: V) -> V {
    xor(b, and(xor(a, b), xor(b, c)))
}

#[inline]
#[target_feature(enable = "avx2")]
fn shl32(x: V, bits: u32) -> V {
    _mm256_sll_epi32(x, _mm_cvtsi32_si128(bits.cast_signed()))
}

#[inline]
#[target_feature(enable = "avx2")]
fn shr32(x: V, bits: u32) -> V {
    _mm256_srl_epi32(x, _mm_cvtsi32_si128(bits.cast_signed()))
}

#[inline]
#[target_feature(enable = "avx2")]
fn shl64(x: V, bits: u32) -> V {
    _mm256_sll_epi64(x, _mm_cvtsi32_si128(bits.cast_signed()))
}

#[inline]
#[target_feature(enable = "avx2")]
fn shr64(x: V, bits: u32) -> V {
    _mm256_srl_epi64(x, _mm_cvtsi32_si128(bits.cast_signed()))
}

/// Rotates 32-bit words left. Shuffles and additions where they can do it,
/// since processors shift less often in a cycle than they do anything else.
#[inline]
#[target_feature(enable = "avx2")]
fn rotl32(x: V, bits: u32) -> V {
    match bits {
        1 => or(add32(x, x), shr32(x, 31)),
        8 | 16 | 24 => _mm256_shuffle_epi8(x, byte_rotation::<4>(bits)),
        _ => or(shl32(x, bits), shr32(x, 32 - bits)),
    }
}

/// Rotates 64-bit words left; see [`rotl32`].
#[inline]
#[target_feature(enable = "avx2")]
fn rotl64(x: V, bits: u32) -> V {
    match bits {
        1 => or(add64(x, x), shr64(x, 63)),
        32 => _mm256_shuffle_epi32::<0b10_11_00_01>(x),
        8 | 16 | 24 | 40 | 48 | 56 => _mm256_shuffle_epi8(x, byte_rotation::<8>(bits)),
        _ => or(shl64(x, bits), shr64(x, 64 - bits)),
    }
}

/// Rotates by whole bytes for the most of it.
#[inline]
#[target_feature(enable = "avx2")]
fn xor_turned32(x: V, bits: u32) -> V {
    xor(x, rotl32(xor(x, rotl32(x, 8)), bits))
}

/// Rotates 64-bit words right with as few shifts as possible, for the more
/// operations.
#[inline]
#[target_feature(enable = "avx2")]
fn rotr_sparing64(x: V, bits: u32) -> V {
    if bits % 8 == 7 {
        rotl64(rotl64(x, 1), 63 - bits)
    } else if !bits.is_multiple_of(8) && !(16..=48).contains(&bits) {
        multiply_rotr64(x, bits)
    } else {
        rotl64(x, 64 - bits)
    }
}

/// Rotates 64-bit words right by less than 16 bits, or by more than 48, with
/// multiplications.
#[inline]
#[target_feature(enable = "avx2")]
fn multiply_rotr64(x: V, bits: u32) -> V {
    // The product of a quarter of a word has the bits that stay in the quarter
    // in its lower half, and those that go to the next one in its upper half.
    // Opaque, or the compiler would make shifts of it.
    let factor = opaque(_mm256_set1_epi16((1 << ((64 - bits) % 16)) as i16));
    let stay = _mm256_mullo_epi16(x, factor);
    let go = _mm256_mulhi_epu16(x, factor);
    if bits < 16 { xor(rotl64(stay, 48), go) } else { xor(stay, rotl64(go, 16)) }
}

/// The shuffle that rotates words of `W` bytes left by `bits`.
#[inline]
#[target_feature(enable = "avx2")]
fn byte_rotation<const W: usize>(bits: u32) -> V {
    let from: [u8; 32] = std::array::from_fn(|i| {
        let word = i % 16 / W * W;
        (word + (i % W + W - bits as usize / 8) % W) as u8
    });
    // SAFETY: the array is as long as the register.
    let from = unsafe { _mm256_loadu_si256(from.as_ptr().cast()) };
    // A compiler that knows the shuffle makes two slower ones of it.
    opaque(from)
}

/// The same value, of which the compiler knows nothing.
#[inline]
#[target_feature(enable = "avx2")]
fn opaque(mut x: V) -> V {
    // SAFETY: there is no instruction in it.
    unsafe {
        asm!("/* {0} */", inout(ymm_reg) x, options(pure, nomem, nostack, preserves_flags));
    }
    x
}

#[inline]
#[target_feature(enable = "avx2")]
fn swap_bytes32(x: V) -> V {
    let order = _mm256_setr_epi8(
        3, 2, 1, 0, 7, 6, 5, 4, 11, 10, 9, 8, 15, 14, 13, 12, //
        3, 2, 1, 0, 7, 6, 5, 4, 11, 10, 9, 8, 15, 14, 13, 12,
    );
    _mm256_shuffle_epi8(x, order)
}

#[inline]
#[target_feature(enable = "avx2")]
fn swap_bytes64(x: V) -> V {
    let order = _mm256_setr_epi8(
        7, 6, 5, 4, 3, 2, 1, 0, 15, 14, 13, 12, 11, 10, 9, 8, //
        7, 6, 5, 4, 3, 2, 1, 0, 15, 14, 13, 12, 11, 10, 9, 8,
    );
    _mm256_shuffle_epi8(x, order)
}

/// The first of some lanes in the lower half, and the one `step` further in the
/// upper.
///
/// # Safety
///
/// From `offset` on, 16 bytes behind each pointer are readable.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn load_row(lanes: &[*const u8], first: usize, step: usize, offset: usize) -> V {
    // SAFETY: the caller's promise.
    unsafe {
        let lower = _mm_loadu_si128(lanes[first].add(offset).cast());
        let upper = _mm_loadu_si128(lanes[first + step].add(offset).cast());
        _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(lower), upper)
    }
}
