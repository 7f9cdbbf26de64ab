//! SHA-256 and SHA-224 (FIPS 180-4) with the SHA instructions, two blocks in
//! turn: while one waits for its two rounds, the other does its own.
//!
//! The instructions take two cycles each and give their result after four, so
//! that two blocks keep them busy. Their words fit into the registers; with
//! three or four blocks they do not, and a third of the speed is lost.

use std::arch::x86_64::*;

use super::sha_ni::ShaNi;
use crate::constants::SHA256_K;
use crate::lanes::{Kernel, Part, Tails, pad_with_length, write_words};

const LANES: usize = 2;
const BLOCK: usize = 64;

/// SHA-256 with SHA-NI.
#[derive(Clone, Copy)]
pub(super) struct Sha256 {
    _features: ShaNi,
    start: &'static [u32; 8],
}

impl Sha256 {
    /// The variant of the family that has these starting values.
    pub(super) fn new(features: ShaNi, start: &'static [u32; 8]) -> Self {
        Sha256 { _features: features, start }
    }
}

/// The chaining values: lane, word.
type State = [[u32; 8]; LANES];

impl Kernel<LANES> for Sha256 {
    type State = State;

    fn worthwhile(&self) -> usize {
        2
    }

    fn block_size(&self) -> usize {
        BLOCK
    }

    fn start(&self) -> State {
        [*self.start; LANES]
    }

    unsafe fn compress(&self, state: &mut State, parts: &[Part<LANES>]) {
        // SAFETY: the processor has the features, and the pointers are as asked for.
        unsafe { compress(state, parts) }
    }

    fn pad(&self, _state: &mut State, tails: &mut Tails<LANES>, total: u64) {
        let bits = total.wrapping_mul(8).to_be_bytes();
        pad_with_length(BLOCK, tails, &bits);
    }

    fn digest(&self, state: &State, lane: usize, out: &mut [u8]) {
        write_words(state[lane].iter().map(|word| word.to_be_bytes()), out);
    }
}

/// Four words, the first in the highest place.
#[inline]
#[target_feature(enable = "sse2")]
fn pack(words: [u32; 4]) -> __m128i {
    let [a, b, c, d] = words.map(u32::cast_signed);
    _mm_set_epi32(a, b, c, d)
}

#[inline]
#[target_feature(enable = "sse2")]
fn unpack(words: __m128i) -> [u32; 4] {
    let mut out = [0_u32; 4];
    // SAFETY: the array is as long as the register.
    unsafe { _mm_storeu_si128(out.as_mut_ptr().cast(), words) };
    out.reverse();
    out
}

/// # Safety
///
/// As for [`Kernel::compress`].
#[target_feature(enable = "sha,avx")]
unsafe fn compress(state: &mut State, parts: &[Part<LANES>]) {
    let big_endian = _mm_set_epi64x(0x0c0d_0e0f_0809_0a0b, 0x0405_0607_0001_0203);
    // The order in which the instructions want the words.
    let mut abef = state.map(|[a, b, _, _, e, f, _, _]| pack([a, b, e, f]));
    let mut cdgh = state.map(|[_, _, c, d, _, _, g, h]| pack([c, d, g, h]));
    for (lanes, block) in parts.iter().flat_map(|part| (0..part.count).map(|block| (&part.lanes, block))) {
        let (abef_before, cdgh_before) = (abef, cdgh);
        let mut words: [[__m128i; 4]; LANES] = lanes.map(|lane| {
            std::array::from_fn(|i| {
                // SAFETY: the caller's promise; four times 16 bytes are a block.
                let bytes = unsafe { _mm_loadu_si128(lane.add(block * BLOCK + 16 * i).cast()) };
                _mm_shuffle_epi8(bytes, big_endian)
            })
        });

        macro_rules! four_rounds {
            ($i:literal) => {
                let [w, x, y, z] = const { [$i % 4, ($i + 1) % 4, ($i + 2) % 4, ($i + 3) % 4] };
                let k = pack(
                    const { [SHA256_K[4 * $i + 3], SHA256_K[4 * $i + 2], SHA256_K[4 * $i + 1], SHA256_K[4 * $i]] },
                );
                let mut sum = [k; LANES];
                for n in 0..LANES {
                    sum[n] = _mm_add_epi32(words[n][w], k);
                    cdgh[n] = _mm_sha256rnds2_epu32(cdgh[n], abef[n], sum[n]);
                }
                for n in 0..LANES {
                    let sum = _mm_shuffle_epi32::<0x0e>(sum[n]);
                    abef[n] = _mm_sha256rnds2_epu32(abef[n], cdgh[n], sum);
                }
                if $i < 12 {
                    // The words for four rounds, sixteen rounds on.
                    for n in 0..LANES {
                        let words = &mut words[n];
                        let older = _mm_sha256msg1_epu32(words[w], words[x]);
                        let middle = _mm_alignr_epi8::<4>(words[z], words[y]);
                        words[w] = _mm_sha256msg2_epu32(_mm_add_epi32(older, middle), words[z]);
                    }
                }
            };
        }
        four_rounds!(0);
        four_rounds!(1);
        four_rounds!(2);
        four_rounds!(3);
        four_rounds!(4);
        four_rounds!(5);
        four_rounds!(6);
        four_rounds!(7);
        four_rounds!(8);
        four_rounds!(9);
        four_rounds!(10);
        four_rounds!(11);
        four_rounds!(12);
        four_rounds!(13);
        four_rounds!(14);
        four_rounds!(15);

        for n in 0..LANES {
            abef[n] = _mm_add_epi32(abef[n], abef_before[n]);
            cdgh[n] = _mm_add_epi32(cdgh[n], cdgh_before[n]);
        }
    }
    for (words, (abef, cdgh)) in state.iter_mut().zip(abef.into_iter().zip(cdgh)) {
        let ([a, b, e, f], [c, d, g, h]) = (unpack(abef), unpack(cdgh));
        *words = [a, b, c, d, e, f, g, h];
    }
}
