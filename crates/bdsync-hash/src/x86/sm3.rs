//! SM3 (GB/T 32905-2016), eight lanes.

use super::vector::*;
use crate::lanes::{Kernel, Tails, finish_with_length, write_words};

const LANES: usize = 8;
const BLOCK: usize = 64;

const START: [u32; 8] =
    [0x7380_166f, 0x4914_b2b9, 0x1724_42d7, 0xda8a_0600, 0xa96f_30bc, 0x1631_38aa, 0xe38d_ee4d, 0xb0fb_0e4e];

/// What each round adds: a constant, rotated by the number of the round.
const ADD: [u32; 64] = {
    let mut add = [0; 64];
    let mut i = 0;
    while i < 64 {
        let constant: u32 = if i < 16 { 0x79cc_4519 } else { 0x7a87_9d8a };
        add[i] = constant.rotate_left(i as u32 % 32);
        i += 1;
    }
    add
};

/// SM3 with AVX2.
#[derive(Clone, Copy)]
pub(super) struct Sm3(());

impl Sm3 {
    /// # Safety
    ///
    /// The processor has AVX2.
    pub(super) unsafe fn new() -> Self {
        Sm3(())
    }
}

/// The chaining values: word, lane.
type State = [[u32; LANES]; 8];

// SAFETY: `Sm3::new` demands AVX2.
unsafe impl Kernel<LANES> for Sm3 {
    type State = State;

    const WORTHWHILE: usize = 4;

    fn block_size(&self) -> usize {
        BLOCK
    }

    fn start(&self) -> State {
        START.map(|word| [word; LANES])
    }

    unsafe fn compress(&self, state: &mut State, lanes: &[*const u8; LANES], count: usize) {
        // SAFETY: the processor has AVX2, and the pointers are as asked for.
        unsafe { compress(state, lanes, count) }
    }

    fn finish(&self, state: &mut State, tails: &mut Tails<LANES>, filled: usize, total: u64) {
        let bits = total.wrapping_mul(8).to_be_bytes();
        finish_with_length(self, state, tails, filled, bits);
    }

    fn digest(&self, state: &State, lane: usize, out: &mut [u8]) {
        write_words(state.iter().map(|word| word[lane].to_be_bytes()), out);
    }
}

/// x ^ rotate 9 ^ rotate 17, of which the second is a byte more than the first.
#[inline]
#[target_feature(enable = "avx2")]
fn permute_chain(x: V) -> V {
    xor(x, rotl32::<9>(xor(x, rotl32::<8>(x))))
}

/// x ^ rotate 15 ^ rotate 23, of which the second is a byte more than the first.
#[inline]
#[target_feature(enable = "avx2")]
fn permute_word(x: V) -> V {
    xor(x, rotl32::<15>(xor(x, rotl32::<8>(x))))
}

/// The word of the message for sixteen rounds on.
#[inline]
#[target_feature(enable = "avx2")]
fn next_word(now: V, after_3: V, after_7: V, after_10: V, after_13: V) -> V {
    let mixed = permute_word(xor(xor(now, after_7), rotl32::<15>(after_13)));
    xor(xor(mixed, rotl32::<7>(after_3)), after_10)
}

/// The Boolean functions of a round, early and late.
#[inline]
#[target_feature(enable = "avx2")]
fn parity(x: V, y: V, z: V) -> V {
    xor(x, xor(y, z))
}

#[inline]
#[target_feature(enable = "avx2")]
fn majority(x: V, y: V, z: V) -> V {
    or(and(x, y), and(z, or(x, y)))
}

/// # Safety
///
/// Each pointer is valid for reads of `count` blocks.
#[target_feature(enable = "avx2")]
unsafe fn compress(state: &mut State, lanes: &[*const u8; LANES], count: usize) {
    let mut chain = state.map(|word| load32(&word));
    for block in 0..count {
        // SAFETY: the caller's promise.
        let mut message = unsafe { read_words32::<true>(lanes, block * BLOCK) };
        let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = chain;

        macro_rules! round {
            ($i:expr, $w:literal, $abc:ident, $efg:ident,
             $a:ident, $b:ident, $c:ident, $d:ident, $e:ident, $f:ident, $g:ident, $h:ident) => {
                let a_12 = rotl32::<12>($a);
                let turned = rotl32::<7>(add32(add32(a_12, $e), all32(ADD[$i])));
                let word = message[$w];
                // Four rounds on, of which the word may be the next to be made.
                let later = message[($w + 4) % 16];
                let left = add32($abc($a, $b, $c), add32($d, xor(turned, a_12)));
                let right = add32($efg($e, $f, $g), add32($h, add32(turned, word)));
                $d = add32(left, xor(word, later));
                $b = rotl32::<9>($b);
                $h = permute_chain(right);
                $f = rotl32::<19>($f);
            };
        }
        macro_rules! four_rounds {
            ($i:expr, $w0:literal, $w1:literal, $w2:literal, $w3:literal,
             $abc:ident, $efg:ident) => {
                round!($i, $w0, $abc, $efg, a, b, c, d, e, f, g, h);
                round!($i + 1, $w1, $abc, $efg, d, a, b, c, h, e, f, g);
                round!($i + 2, $w2, $abc, $efg, c, d, a, b, g, h, e, f);
                round!($i + 3, $w3, $abc, $efg, b, c, d, a, f, g, h, e);
            };
        }
        macro_rules! next_words {
            ($($w:literal),*) => {
                $(message[$w] = next_word(
                    message[$w],
                    message[($w + 3) % 16],
                    message[($w + 7) % 16],
                    message[($w + 10) % 16],
                    message[($w + 13) % 16],
                );)*
            };
        }
        // Each four rounds look four words ahead.
        four_rounds!(0, 0, 1, 2, 3, parity, parity);
        four_rounds!(4, 4, 5, 6, 7, parity, parity);
        four_rounds!(8, 8, 9, 10, 11, parity, parity);
        next_words!(0, 1, 2, 3);
        four_rounds!(12, 12, 13, 14, 15, parity, parity);
        for i in [16, 32, 48] {
            next_words!(4, 5, 6, 7);
            four_rounds!(i, 0, 1, 2, 3, majority, select);
            next_words!(8, 9, 10, 11);
            four_rounds!(i + 4, 4, 5, 6, 7, majority, select);
            next_words!(12, 13, 14, 15);
            four_rounds!(i + 8, 8, 9, 10, 11, majority, select);
            next_words!(0, 1, 2, 3);
            four_rounds!(i + 12, 12, 13, 14, 15, majority, select);
        }

        for (word, value) in chain.iter_mut().zip([a, b, c, d, e, f, g, h]) {
            *word = xor(*word, value);
        }
    }
    for (word, value) in state.iter_mut().zip(chain) {
        store32(word, value);
    }
}
