//! SHA-512 and its shorter kin (FIPS 180-4): four lanes in vector registers, and
//! a fifth in general ones.
//!
//! A round is some three dozen operations, a third of them shifts, of which
//! vector units do the fewest. Meanwhile the scalar units would be idle, and
//! they can rotate in one go: interleaved round by round, the fifth block costs
//! next to nothing. Where no round waits for it, a rotation is done by
//! multiplying, to spare the shifts.

use super::vector::*;
use crate::constants::SHA512_K;
use crate::lanes::{Kernel, Tails, finish_with_length, write_words};

/// Lanes in vector registers.
const VECTOR: usize = 4;
const LANES: usize = VECTOR + 1;
const BLOCK: usize = 128;

/// SHA-512 with AVX2.
#[derive(Clone, Copy)]
pub(super) struct Sha512 {
    start: &'static [u64; 8],
}

impl Sha512 {
    /// The variant of the family that has these starting values.
    ///
    /// # Safety
    ///
    /// The processor has AVX2, BMI1 and BMI2.
    pub(super) unsafe fn new(start: &'static [u64; 8]) -> Self {
        Sha512 { start }
    }
}

#[derive(Clone)]
pub(super) struct State {
    /// The chaining values of the lanes in vector registers: word, lane.
    vector: [[u64; VECTOR]; 8],
    /// The chaining values of the last lane.
    scalar: [u64; 8],
}

// SAFETY: `Sha512::new` demands the features.
unsafe impl Kernel<LANES> for Sha512 {
    type State = State;

    const WORTHWHILE: usize = 4;

    fn block_size(&self) -> usize {
        BLOCK
    }

    fn start(&self) -> State {
        State { vector: self.start.map(|word| [word; VECTOR]), scalar: *self.start }
    }

    unsafe fn compress(&self, state: &mut State, lanes: &[*const u8; LANES], count: usize) {
        // SAFETY: the processor has AVX2, and the pointers are as asked for.
        unsafe { compress(state, lanes, count) }
    }

    fn finish(&self, state: &mut State, tails: &mut Tails<LANES>, filled: usize, total: u64) {
        let bits = (u128::from(total) * 8).to_be_bytes();
        finish_with_length(self, state, tails, filled, bits);
    }

    fn digest(&self, state: &State, lane: usize, out: &mut [u8]) {
        let word = |i: usize| state.vector[i].get(lane).unwrap_or(&state.scalar[i]);
        write_words((0..8).map(|i| word(i).to_be_bytes()), out);
    }
}

/// What rounds are made of, for words in vector and in general registers.
mod vector {
    use super::*;

    #[inline]
    #[target_feature(enable = "avx2")]
    pub(super) fn spread_a(x: V) -> V {
        xor(xor(rotr64::<28>(x), rotr64::<34>(x)), rotr64::<40>(rotl64::<1>(x)))
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    pub(super) fn spread_e(x: V) -> V {
        xor(xor(rotr64::<14>(x), rotr64::<18>(x)), rotr64::<41>(x))
    }

    /// The word of the message for sixteen rounds on.
    #[inline]
    #[target_feature(enable = "avx2")]
    pub(super) fn next_word(now: V, after_1: V, after_9: V, after_14: V) -> V {
        let low = xor(xor(multiply_rotr64::<1>(after_1), rotr64::<8>(after_1)), shr64::<7>(after_1));
        let high = xor(xor(rotr64::<19>(after_14), multiply_rotr64::<61>(after_14)), shr64::<6>(after_14));
        add64(add64(now, low), add64(after_9, high))
    }
}

mod scalar {
    #[inline]
    pub(super) fn spread_a(x: u64) -> u64 {
        x.rotate_right(28) ^ x.rotate_right(34) ^ x.rotate_right(39)
    }

    #[inline]
    pub(super) fn spread_e(x: u64) -> u64 {
        x.rotate_right(14) ^ x.rotate_right(18) ^ x.rotate_right(41)
    }

    /// The word of the message for sixteen rounds on.
    #[inline]
    pub(super) fn next_word(now: u64, after_1: u64, after_9: u64, after_14: u64) -> u64 {
        let low = after_1.rotate_right(1) ^ after_1.rotate_right(8) ^ (after_1 >> 7);
        let high = after_14.rotate_right(19) ^ after_14.rotate_right(61) ^ (after_14 >> 6);
        now.wrapping_add(low).wrapping_add(after_9).wrapping_add(high)
    }
}

/// # Safety
///
/// Each pointer is valid for reads of `count` blocks.
#[target_feature(enable = "avx2,bmi1,bmi2")]
unsafe fn compress(state: &mut State, lanes: &[*const u8; LANES], count: usize) {
    let [vector_lanes @ .., scalar_lane] = lanes;
    let mut chain = state.vector.map(|word| load64(&word));
    let mut scalar_chain = state.scalar;
    for block in 0..count {
        // SAFETY: the caller's promise.
        let mut message = unsafe { read_words64::<true>(vector_lanes, block * BLOCK) };
        // SAFETY: the caller's promise.
        let bytes = unsafe { &*scalar_lane.add(block * BLOCK).cast::<[u8; BLOCK]>() };
        let mut scalar_message: [u64; 16] = std::array::from_fn(|i| u64::from_be_bytes(bytes.as_chunks().0[i]));
        let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] =
            std::array::from_fn(|i| (chain[i], scalar_chain[i]));
        // b ^ c, which the round before knew as a ^ b.
        let mut b_c = (xor(b.0, c.0), b.1 ^ c.1);

        macro_rules! round {
            ($i:literal, $k:ident,
             $a:ident, $b:ident, $c:ident, $d:ident, $e:ident, $f:ident, $g:ident, $h:ident) => {
                let sum = add64(add64($h.0, message[$i]), all64($k[$i]));
                let sum = add64(sum, add64(select($e.0, $f.0, $g.0), vector::spread_e($e.0)));
                $d.0 = add64($d.0, sum);
                let a_b = xor($a.0, $b.0);
                let majority = xor($b.0, and(a_b, b_c.0));
                b_c.0 = a_b;
                $h.0 = add64(add64(sum, majority), vector::spread_a($a.0));

                let sum =
                    $h.1.wrapping_add(scalar_message[$i])
                        .wrapping_add($k[$i])
                        .wrapping_add(($e.1 & $f.1) ^ (!$e.1 & $g.1))
                        .wrapping_add(scalar::spread_e($e.1));
                $d.1 = $d.1.wrapping_add(sum);
                let a_b = $a.1 ^ $b.1;
                let majority = $b.1 ^ (a_b & b_c.1);
                b_c.1 = a_b;
                $h.1 = sum.wrapping_add(majority).wrapping_add(scalar::spread_a($a.1));
            };
        }
        macro_rules! next_word {
            ($i:literal) => {
                message[$i] = vector::next_word(
                    message[$i],
                    message[($i + 1) % 16],
                    message[($i + 9) % 16],
                    message[($i + 14) % 16],
                );
                scalar_message[$i] = scalar::next_word(
                    scalar_message[$i],
                    scalar_message[($i + 1) % 16],
                    scalar_message[($i + 9) % 16],
                    scalar_message[($i + 14) % 16],
                );
            };
        }
        let (constants, _) = SHA512_K.as_chunks::<16>();
        for (turn, k) in constants.iter().enumerate() {
            macro_rules! eight_rounds {
                ($i0:literal, $i1:literal, $i2:literal, $i3:literal,
                 $i4:literal, $i5:literal, $i6:literal, $i7:literal) => {
                    round!($i0, k, a, b, c, d, e, f, g, h);
                    round!($i1, k, h, a, b, c, d, e, f, g);
                    round!($i2, k, g, h, a, b, c, d, e, f);
                    round!($i3, k, f, g, h, a, b, c, d, e);
                    round!($i4, k, e, f, g, h, a, b, c, d);
                    round!($i5, k, d, e, f, g, h, a, b, c);
                    round!($i6, k, c, d, e, f, g, h, a, b);
                    round!($i7, k, b, c, d, e, f, g, h, a);
                };
            }
            if turn > 0 {
                next_word!(0);
                next_word!(1);
                next_word!(2);
                next_word!(3);
                next_word!(4);
                next_word!(5);
                next_word!(6);
                next_word!(7);
                next_word!(8);
                next_word!(9);
                next_word!(10);
                next_word!(11);
                next_word!(12);
                next_word!(13);
                next_word!(14);
                next_word!(15);
            }
            eight_rounds!(0, 1, 2, 3, 4, 5, 6, 7);
            eight_rounds!(8, 9, 10, 11, 12, 13, 14, 15);
        }

        for (i, value) in [a, b, c, d, e, f, g, h].into_iter().enumerate() {
            chain[i] = add64(chain[i], value.0);
            scalar_chain[i] = scalar_chain[i].wrapping_add(value.1);
        }
    }
    for (word, value) in state.vector.iter_mut().zip(chain) {
        store64(word, value);
    }
    state.scalar = scalar_chain;
}
