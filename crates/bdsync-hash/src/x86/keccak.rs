//! SHA-3 and SHAKE (FIPS 202), on Keccak-f[1600].
//!
//! SHAKE's digests are shorter than its rate here, so that one squeeze does.

use super::words::{Rounds, Words, write_lane};
use crate::lanes::{Kernel, Part, TAIL, Tails};

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

/// A sponge over Keccak, in vector registers.
#[derive(Clone, Copy)]
pub(super) struct Keccak<S> {
    words: S,
    /// Bytes taken in between two permutations.
    rate: usize,
    /// What is appended to the message, with the first bit of padding.
    suffix: u8,
}

impl<S> Keccak<S> {
    /// SHA-3 with digests of `digest_size` bytes.
    pub(super) fn sha3(words: S, digest_size: usize) -> Self {
        Keccak { words, rate: WIDTH - 2 * digest_size, suffix: 0b110 }
    }

    /// SHAKE of a strength of `strength` bytes.
    pub(super) fn shake(words: S, strength: usize) -> Self {
        Keccak { words, rate: WIDTH - 2 * strength, suffix: 0b1_1111 }
    }
}

/// Word, lane; a row of five after another.
type State<const LANES: usize> = [[u64; LANES]; 25];

impl<S: Words<u64, LANES>, const LANES: usize> Kernel<LANES> for Keccak<S> {
    type State = State<LANES>;

    fn worthwhile(&self) -> usize {
        3
    }

    fn block_size(&self) -> usize {
        self.rate
    }

    fn start(&self) -> State<LANES> {
        [[0; LANES]; 25]
    }

    unsafe fn compress(&self, state: &mut State<LANES>, parts: &[Part<LANES>]) {
        // SAFETY: the caller's promise.
        unsafe { self.words.enter(self, state, parts) }
    }

    fn pad(&self, _state: &mut State<LANES>, tails: &mut Tails<LANES>, _total: u64) {
        debug_assert!(self.rate <= TAIL);
        let last = self.rate - 1;
        if tails.filled() == last {
            tails.put(&[self.suffix | 0x80]);
        } else {
            tails.put(&[self.suffix]);
            tails.put_zeros(last);
            tails.put(&[0x80]);
        }
    }

    fn digest(&self, state: &State<LANES>, lane: usize, out: &mut [u8]) {
        debug_assert!(out.len() <= self.rate);
        write_lane(state, lane, false, out);
    }
}

impl<S: Words<u64, LANES>, const LANES: usize> Rounds<LANES> for Keccak<S> {
    type State = State<LANES>;

    #[inline(always)]
    unsafe fn rounds(&self, state: &mut State<LANES>, parts: &[Part<LANES>]) {
        let (s, rate) = (self.words, self.rate);
        let mut words = s.load_all(state);
        for (lanes, block) in parts.iter().flat_map(|part| (0..part.count).map(|block| (&part.lanes, block))) {
            let start = block * rate;
            let (pairs, odd) = words[..rate / 8].as_chunks_mut::<2>();
            for (i, pair) in pairs.iter_mut().enumerate() {
                // SAFETY: the caller's promise; the words in use are as long as a block.
                let [even, odd] = unsafe { s.read(lanes, start + 16 * i) };
                pair[0] = s.xor(pair[0], even);
                pair[1] = s.xor(pair[1], odd);
            }
            for word in odd {
                // SAFETY: the caller's promise; the last word ends with the block.
                let [last] = unsafe { s.read(lanes, start + rate - 8) };
                *word = s.xor(*word, last);
            }
            permute(s, &mut words);
        }
        s.store_all(state, words);
    }
}

#[inline(always)]
fn permute<S: Words<u64, LANES>, const LANES: usize>(s: S, words: &mut [S::V; 25]) {
    for constant in ROUND {
        let w = *words;
        // Theta: each column's parity, and that of its neighbours.
        macro_rules! parity {
            ($x:literal) => {
                s.xor3(s.xor3(w[$x], w[$x + 5], w[$x + 10]), w[$x + 15], w[$x + 20])
            };
        }
        let parity = [parity!(0), parity!(1), parity!(2), parity!(3), parity!(4)];
        macro_rules! change {
            ($x:literal) => {
                s.xor(parity[($x + 4) % 5], s.rotl(parity[($x + 1) % 5], 1))
            };
        }
        let change = [change!(0), change!(1), change!(2), change!(3), change!(4)];

        // Rho and pi: each word turns by its own distance and finds a new place.
        macro_rules! moved {
            ($from:literal) => {
                s.xor(w[$from], change[$from % 5])
            };
            ($from:literal, $turn:literal) => {
                s.rotl(moved!($from), $turn)
            };
        }
        // Chi, row by row.
        macro_rules! row {
            ($a:expr, $b:expr, $c:expr, $d:expr, $e:expr) => {{
                let (a, b, c, d, e) = ($a, $b, $c, $d, $e);
                [
                    s.xor_without(a, b, c),
                    s.xor_without(b, c, d),
                    s.xor_without(c, d, e),
                    s.xor_without(d, e, a),
                    s.xor_without(e, a, b),
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
        words[0] = s.xor(words[0], s.all(constant));
    }
}
