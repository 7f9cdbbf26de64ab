//! SHA-3 and SHAKE (FIPS 202), four lanes of Keccak-f[1600].
//!
//! SHAKE's digests are shorter than its rate here, so that one squeeze does.

use super::vector::*;
use crate::lanes::{Kernel, TAIL, Tails, write_words};

const LANES: usize = 4;
/// Bytes of the state.
const WIDTH: usize = 200;

const ROUND: [u64; 24] = [
    0x0000_0000_0000_0001,
    0x0000_0000_0000_8082,
    0x8000_0000_0000_808a,
    0x8000_0000_8000_8000,
    0x0000_0000_0000_808b,
    0x0000_0000_8000_0001,
    0x8000_0000_8000_8081,
    0x8000_0000_0000_8009,
    0x0000_0000_0000_008a,
    0x0000_0000_0000_0088,
    0x0000_0000_8000_8009,
    0x0000_0000_8000_000a,
    0x0000_0000_8000_808b,
    0x8000_0000_0000_008b,
    0x8000_0000_0000_8089,
    0x8000_0000_0000_8003,
    0x8000_0000_0000_8002,
    0x8000_0000_0000_0080,
    0x0000_0000_0000_800a,
    0x8000_0000_8000_000a,
    0x8000_0000_8000_8081,
    0x8000_0000_0000_8080,
    0x0000_0000_8000_0001,
    0x8000_0000_8000_8008,
];

/// A sponge over Keccak, with AVX2.
#[derive(Clone, Copy)]
pub(super) struct Keccak {
    /// Bytes taken in between two permutations.
    rate: usize,
    /// What is appended to the message, with the first bit of padding.
    suffix: u8,
}

impl Keccak {
    /// SHA-3 with digests of `digest_size` bytes.
    ///
    /// # Safety
    ///
    /// The processor has AVX2.
    pub(super) unsafe fn sha3(digest_size: usize) -> Self {
        Keccak { rate: WIDTH - 2 * digest_size, suffix: 0b110 }
    }

    /// SHAKE of a strength of `strength` bytes.
    ///
    /// # Safety
    ///
    /// The processor has AVX2.
    pub(super) unsafe fn shake(strength: usize) -> Self {
        Keccak { rate: WIDTH - 2 * strength, suffix: 0b1_1111 }
    }
}

/// Word, lane; a row of five after another.
type State = [[u64; LANES]; 25];

// SAFETY: `Keccak::sha3` and `Keccak::shake` demand AVX2.
unsafe impl Kernel<LANES> for Keccak {
    type State = State;

    const WORTHWHILE: usize = 3;

    fn block_size(&self) -> usize {
        self.rate
    }

    fn start(&self) -> State {
        [[0; LANES]; 25]
    }

    unsafe fn compress(&self, state: &mut State, lanes: &[*const u8; LANES], count: usize) {
        // SAFETY: the processor has AVX2, and the pointers are as asked for.
        unsafe { compress(state, self.rate, lanes, count) }
    }

    fn finish(&self, state: &mut State, tails: &mut Tails<LANES>, filled: usize, _total: u64) {
        debug_assert!(self.rate <= TAIL);
        for tail in tails.iter_mut() {
            tail[filled..self.rate].fill(0);
            tail[filled] = self.suffix;
            tail[self.rate - 1] |= 0x80;
        }
        let lanes = tails.each_ref().map(|tail| tail.as_ptr());
        // SAFETY: a tail has room for a block.
        unsafe { self.compress(state, &lanes, 1) };
    }

    fn digest(&self, state: &State, lane: usize, out: &mut [u8]) {
        debug_assert!(out.len() <= self.rate);
        write_words(state.iter().map(|word| word[lane].to_le_bytes()), out);
    }
}

/// # Safety
///
/// Each pointer is valid for reads of `count` blocks of `rate` bytes.
#[target_feature(enable = "avx2")]
unsafe fn compress(state: &mut State, rate: usize, lanes: &[*const u8; LANES], count: usize) {
    let mut words = state.map(|word| load64(&word));
    for block in 0..count {
        let start = block * rate;
        let (pairs, odd) = words[..rate / 8].as_chunks_mut::<2>();
        for (i, pair) in pairs.iter_mut().enumerate() {
            // SAFETY: the caller's promise; the words in use are as long as a block.
            let [even, odd] = unsafe { read_two_words64(lanes, start + 16 * i) };
            pair[0] = xor(pair[0], even);
            pair[1] = xor(pair[1], odd);
        }
        for word in odd {
            // SAFETY: the caller's promise; the last word ends with the block.
            let last = unsafe { read_word64(lanes, start + rate - 8) };
            *word = xor(*word, last);
        }
        permute(&mut words);
    }
    for (word, value) in state.iter_mut().zip(words) {
        store64(word, value);
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn permute(words: &mut [V; 25]) {
    for constant in ROUND {
        let w = &*words;
        // Theta: each column's parity, and that of its neighbours.
        let parity: [V; 5] =
            std::array::from_fn(|x| xor(xor(xor(w[x], w[x + 5]), xor(w[x + 10], w[x + 15])), w[x + 20]));
        let change: [V; 5] = std::array::from_fn(|x| xor(parity[(x + 4) % 5], rotl64::<1>(parity[(x + 1) % 5])));

        // Rho and pi: each word turns by its own distance and finds a new place.
        macro_rules! moved {
            ($from:literal) => {
                xor(w[$from], change[$from % 5])
            };
            ($from:literal, $turn:literal) => {
                rotl64::<$turn>(moved!($from))
            };
        }
        // Chi, row by row.
        macro_rules! row {
            ($a:expr, $b:expr, $c:expr, $d:expr, $e:expr) => {{
                let (a, b, c, d, e) = ($a, $b, $c, $d, $e);
                [
                    xor(a, without(b, c)),
                    xor(b, without(c, d)),
                    xor(c, without(d, e)),
                    xor(d, without(e, a)),
                    xor(e, without(a, b)),
                ]
            }};
        }
        let rows = [
            row!(moved!(0), moved!(6, 44), moved!(12, 43), moved!(18, 21), moved!(24, 14)),
            row!(moved!(3, 28), moved!(9, 20), moved!(10, 3), moved!(16, 45), moved!(22, 61)),
            row!(moved!(1, 1), moved!(7, 6), moved!(13, 25), moved!(19, 8), moved!(20, 18)),
            row!(moved!(4, 27), moved!(5, 36), moved!(11, 10), moved!(17, 15), moved!(23, 56)),
            row!(moved!(2, 62), moved!(8, 55), moved!(14, 39), moved!(15, 41), moved!(21, 2)),
        ];
        words.copy_from_slice(rows.as_flattened());
        // Iota.
        words[0] = xor(words[0], all64(constant));
    }
}
