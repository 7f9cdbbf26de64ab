//! SHA-1 (FIPS 180-4) with the SHA instructions, four blocks in turn: while one
//! waits for its four rounds, the others do theirs.

use std::arch::x86_64::*;

use super::sha_ni::ShaNi;
use crate::constants::SHA1_START;
use crate::lanes::{Kernel, Part, Tails, pad_with_length, write_words};

const LANES: usize = 4;
const BLOCK: usize = 64;

/// SHA-1 with SHA-NI.
#[derive(Clone, Copy)]
pub(super) struct Sha1(pub(super) ShaNi);

/// The chaining values: lane, word.
type State = [[u32; 5]; LANES];

impl Kernel<LANES> for Sha1 {
    type State = State;

    fn worthwhile(&self) -> usize {
        3
    }

    fn block_size(&self) -> usize {
        BLOCK
    }

    fn start(&self) -> State {
        [SHA1_START; LANES]
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

/// # Safety
///
/// As for [`Kernel::compress`].
#[target_feature(enable = "sha,avx")]
unsafe fn compress(state: &mut State, parts: &[Part<LANES>]) {
    let big_endian = _mm_set_epi64x(0x0001_0203_0405_0607, 0x0809_0a0b_0c0d_0e0f);
    // The instructions want the first word in the highest place.
    let mut abcd = state.map(|words| {
        let [a, b, c, d, _] = words.map(u32::cast_signed);
        _mm_set_epi32(a, b, c, d)
    });
    let mut e = state.map(|words| _mm_set_epi32(words[4].cast_signed(), 0, 0, 0));
    for (lanes, block) in parts.iter().flat_map(|part| (0..part.count).map(|block| (&part.lanes, block))) {
        let (abcd_before, e_before) = (abcd, e);
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
                for n in 0..LANES {
                    // Here e holds the a of four rounds ago, except at the start.
                    let sum =
                        if $i == 0 { _mm_add_epi32(e[n], words[n][w]) } else { _mm_sha1nexte_epu32(e[n], words[n][w]) };
                    e[n] = abcd[n];
                    abcd[n] = _mm_sha1rnds4_epu32::<{ $i / 5 }>(abcd[n], sum);
                }
                if $i < 16 {
                    // The words for four rounds, sixteen rounds on.
                    for n in 0..LANES {
                        let words = &mut words[n];
                        let older = _mm_sha1msg1_epu32(words[w], words[x]);
                        words[w] = _mm_sha1msg2_epu32(_mm_xor_si128(older, words[y]), words[z]);
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
        four_rounds!(16);
        four_rounds!(17);
        four_rounds!(18);
        four_rounds!(19);

        for n in 0..LANES {
            abcd[n] = _mm_add_epi32(abcd[n], abcd_before[n]);
            e[n] = _mm_sha1nexte_epu32(e[n], e_before[n]);
        }
    }
    for (words, (abcd, e)) in state.iter_mut().zip(abcd.into_iter().zip(e)) {
        *words = [
            _mm_extract_epi32::<3>(abcd).cast_unsigned(),
            _mm_extract_epi32::<2>(abcd).cast_unsigned(),
            _mm_extract_epi32::<1>(abcd).cast_unsigned(),
            _mm_extract_epi32::<0>(abcd).cast_unsigned(),
            _mm_extract_epi32::<3>(e).cast_unsigned(),
        ];
    }
}
