//! The AVX2 operations that the kernels are written in: words of several
//! lanes in a register, and messages turned from lanes into such words.

use std::arch::asm;
use std::arch::x86_64::*;

/// Eight 32-bit words or four 64-bit words, one of each lane.
pub(super) type V = __m256i;

#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn load32(words: &[u32; 8]) -> V {
    // SAFETY: the array is as long as the register.
    unsafe { _mm256_loadu_si256(words.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn store32(words: &mut [u32; 8], value: V) {
    // SAFETY: the array is as long as the register.
    unsafe { _mm256_storeu_si256(words.as_mut_ptr().cast(), value) }
}

#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn load64(words: &[u64; 4]) -> V {
    // SAFETY: the array is as long as the register.
    unsafe { _mm256_loadu_si256(words.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn store64(words: &mut [u64; 4], value: V) {
    // SAFETY: the array is as long as the register.
    unsafe { _mm256_storeu_si256(words.as_mut_ptr().cast(), value) }
}

/// One number in all lanes.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn all32(word: u32) -> V {
    _mm256_set1_epi32(word.cast_signed())
}

/// One number in all lanes.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn all64(word: u64) -> V {
    _mm256_set1_epi64x(word.cast_signed())
}

#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn add32(a: V, b: V) -> V {
    _mm256_add_epi32(a, b)
}

#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn sub32(a: V, b: V) -> V {
    _mm256_sub_epi32(a, b)
}

#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn add64(a: V, b: V) -> V {
    _mm256_add_epi64(a, b)
}

#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn xor(a: V, b: V) -> V {
    _mm256_xor_si256(a, b)
}

#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn and(a: V, b: V) -> V {
    _mm256_and_si256(a, b)
}

#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn or(a: V, b: V) -> V {
    _mm256_or_si256(a, b)
}

/// The bits of `b` that are not in `a`.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn without(a: V, b: V) -> V {
    _mm256_andnot_si256(a, b)
}

/// The bits of `yes` where `mask` is set, else those of `no`.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn select(mask: V, yes: V, no: V) -> V {
    xor(no, and(mask, xor(yes, no)))
}

#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn shr64<const N: i32>(x: V) -> V {
    _mm256_srli_epi64::<N>(x)
}

/// Rotates 32-bit words left. Shuffles and additions where they can do it,
/// since processors shift less often in a cycle than they do anything else.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn rotl32<const N: i32>(x: V) -> V {
    const { assert!(0 < N && N < 32) };
    match N {
        1 => or(add32(x, x), _mm256_srli_epi32::<31>(x)),
        8 | 16 | 24 => _mm256_shuffle_epi8(x, byte_rotation::<4>(N)),
        _ => or(_mm256_sll_epi32(x, _mm_cvtsi32_si128(N)), _mm256_srl_epi32(x, _mm_cvtsi32_si128(32 - N))),
    }
}

/// Rotates 64-bit words left; see [`rotl32`].
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn rotl64<const N: i32>(x: V) -> V {
    const { assert!(0 < N && N < 64) };
    match N {
        1 => or(add64(x, x), shr64::<63>(x)),
        32 => _mm256_shuffle_epi32::<0b10_11_00_01>(x),
        8 | 16 | 24 | 40 | 48 | 56 => _mm256_shuffle_epi8(x, byte_rotation::<8>(N)),
        _ => or(_mm256_sll_epi64(x, _mm_cvtsi32_si128(N)), _mm256_srl_epi64(x, _mm_cvtsi32_si128(64 - N))),
    }
}

/// Rotates 32-bit words right.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn rotr32<const N: i32>(x: V) -> V {
    const { assert!(0 < N && N < 32) };
    match N {
        8 | 16 | 24 => _mm256_shuffle_epi8(x, byte_rotation::<4>(32 - N)),
        _ => or(_mm256_srl_epi32(x, _mm_cvtsi32_si128(N)), _mm256_sll_epi32(x, _mm_cvtsi32_si128(32 - N))),
    }
}

/// Rotates 64-bit words right.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn rotr64<const N: i32>(x: V) -> V {
    const { assert!(0 < N && N < 64) };
    match N {
        32 => _mm256_shuffle_epi32::<0b10_11_00_01>(x),
        8 | 16 | 24 | 40 | 48 | 56 => _mm256_shuffle_epi8(x, byte_rotation::<8>(64 - N)),
        63 => rotl64::<1>(x),
        _ => or(_mm256_srl_epi64(x, _mm_cvtsi32_si128(N)), _mm256_sll_epi64(x, _mm_cvtsi32_si128(64 - N))),
    }
}

/// Rotates 64-bit words right by less than 16 bits, or by more than 48, with
/// multiplications. One operation more than with shifts, and worth it where
/// nearly all others are shifts.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn multiply_rotr64<const N: i32>(x: V) -> V {
    const { assert!((0 < N && N < 16) || (48 < N && N < 64)) };
    // The product of a quarter of a word has the bits that stay in the quarter
    // in its lower half, and those that go to the next one in its upper half.
    // Opaque, or the compiler would make shifts of it.
    let factor = opaque(_mm256_set1_epi16((1 << ((64 - N) % 16)) as i16));
    let stay = _mm256_mullo_epi16(x, factor);
    let go = _mm256_mulhi_epu16(x, factor);
    if N < 16 { xor(rotl64::<48>(stay), go) } else { xor(stay, rotl64::<16>(go)) }
}

/// The shuffle that rotates words of `W` bytes left by `bits`.
#[inline]
#[target_feature(enable = "avx2")]
fn byte_rotation<const W: usize>(bits: i32) -> V {
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

/// Reverses the bytes of each 32-bit word.
#[inline]
#[target_feature(enable = "avx2")]
fn swap_bytes32(x: V) -> V {
    let order = _mm256_setr_epi8(
        3, 2, 1, 0, 7, 6, 5, 4, 11, 10, 9, 8, 15, 14, 13, 12, //
        3, 2, 1, 0, 7, 6, 5, 4, 11, 10, 9, 8, 15, 14, 13, 12,
    );
    _mm256_shuffle_epi8(x, order)
}

/// Reverses the bytes of each 64-bit word.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn swap_bytes64(x: V) -> V {
    let order = _mm256_setr_epi8(
        7, 6, 5, 4, 3, 2, 1, 0, 15, 14, 13, 12, 11, 10, 9, 8, //
        7, 6, 5, 4, 3, 2, 1, 0, 15, 14, 13, 12, 11, 10, 9, 8,
    );
    _mm256_shuffle_epi8(x, order)
}

/// Sixteen bytes of one lane in the lower half, and of another in the upper.
///
/// # Safety
///
/// From `offset` on, 16 bytes behind each pointer are readable.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn load_halves(lower: *const u8, upper: *const u8, offset: usize) -> V {
    // SAFETY: the caller's promise.
    unsafe {
        let lower = _mm_loadu_si128(lower.add(offset).cast());
        let upper = _mm_loadu_si128(upper.add(offset).cast());
        _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(lower), upper)
    }
}

/// Reads 64 bytes of each lane as 16 words of 32 bits.
///
/// # Safety
///
/// From `offset` on, 64 bytes behind each pointer are readable.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) unsafe fn read_words32<const BIG_ENDIAN: bool>(lanes: &[*const u8; 8], offset: usize) -> [V; 16] {
    let mut words = [_mm256_setzero_si256(); 16];
    for (i, words) in words.as_chunks_mut::<4>().0.iter_mut().enumerate() {
        let rows: [V; 4] = std::array::from_fn(|lane| {
            // SAFETY: the caller's promise; four times 16 bytes are 64.
            let row = unsafe { load_halves(lanes[lane], lanes[lane + 4], offset + 16 * i) };
            if BIG_ENDIAN { swap_bytes32(row) } else { row }
        });
        let low01 = _mm256_unpacklo_epi32(rows[0], rows[1]);
        let high01 = _mm256_unpackhi_epi32(rows[0], rows[1]);
        let low23 = _mm256_unpacklo_epi32(rows[2], rows[3]);
        let high23 = _mm256_unpackhi_epi32(rows[2], rows[3]);
        *words = [
            _mm256_unpacklo_epi64(low01, low23),
            _mm256_unpackhi_epi64(low01, low23),
            _mm256_unpacklo_epi64(high01, high23),
            _mm256_unpackhi_epi64(high01, high23),
        ];
    }
    words
}

/// Reads two words of 64 bits of each lane.
///
/// # Safety
///
/// From `offset` on, 16 bytes behind each pointer are readable.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) unsafe fn read_two_words64(lanes: &[*const u8; 4], offset: usize) -> [V; 2] {
    // SAFETY: the caller's promise.
    let (even, odd) = unsafe { (load_halves(lanes[0], lanes[2], offset), load_halves(lanes[1], lanes[3], offset)) };
    [_mm256_unpacklo_epi64(even, odd), _mm256_unpackhi_epi64(even, odd)]
}

/// Reads one word of 64 bits of each lane.
///
/// # Safety
///
/// From `offset` on, 8 bytes behind each pointer are readable.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) unsafe fn read_word64(lanes: &[*const u8; 4], offset: usize) -> V {
    // SAFETY: the caller's promise.
    load64(&lanes.map(|lane| unsafe { lane.add(offset).cast::<u64>().read_unaligned() }))
}

/// Reads 128 bytes of each lane as 16 words of 64 bits.
///
/// # Safety
///
/// From `offset` on, 128 bytes behind each pointer are readable.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) unsafe fn read_words64<const BIG_ENDIAN: bool>(lanes: &[*const u8; 4], offset: usize) -> [V; 16] {
    let mut words = [_mm256_setzero_si256(); 16];
    for (i, words) in words.as_chunks_mut::<2>().0.iter_mut().enumerate() {
        // SAFETY: the caller's promise; eight times 16 bytes are 128.
        let two = unsafe { read_two_words64(lanes, offset + 16 * i) };
        *words = if BIG_ENDIAN { two.map(|word| swap_bytes64(word)) } else { two };
    }
    words
}
