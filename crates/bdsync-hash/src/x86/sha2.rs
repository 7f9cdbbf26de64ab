//! SHA-256, SHA-512 and their shorter kin (FIPS 180-4).
//!
//! With AVX2, a round is some three dozen operations, a third of them shifts, of
//! which vector units do the fewest. Meanwhile the scalar units would be idle, and
//! they can rotate in one go: interleaved round by round, a block in general
//! registers costs next to nothing.

use super::chained::Chained;
use super::sha_ni::ShaNi;
use super::words::{Word, Words, block};
use crate::constants::{SHA256_K, SHA512_K};

/// What the two halves of the family have of their own.
pub(super) trait Variant: Word {
    /// What each round adds; sixteen rounds use up a message.
    const K: &'static [[Self; 16]];
    /// How far to rotate to the right for a round's sums, from `a` and from `e`.
    const SPREAD_A: [u32; 3];
    const SPREAD_E: [u32; 3];
    /// How far to rotate words of the message to the right, twice, and to shift them.
    const AFTER_1: [u32; 3];
    const AFTER_14: [u32; 3];

    /// How many blocks make it worth while to run so many lanes.
    fn worthwhile(lanes: usize) -> usize;
}

impl Variant for u32 {
    const K: &'static [[u32; 16]] = SHA256_K.as_chunks().0;
    const SPREAD_A: [u32; 3] = [2, 13, 22];
    const SPREAD_E: [u32; 3] = [6, 11, 25];
    const AFTER_1: [u32; 3] = [7, 18, 3];
    const AFTER_14: [u32; 3] = [17, 19, 10];

    fn worthwhile(lanes: usize) -> usize {
        // One at a time is fast with the SHA instructions, and slow without them.
        if ShaNi::detect().is_some() { lanes / 2 + 1 } else { 3 }
    }
}

impl Variant for u64 {
    const K: &'static [[u64; 16]] = SHA512_K.as_chunks().0;
    const SPREAD_A: [u32; 3] = [28, 34, 39];
    const SPREAD_E: [u32; 3] = [14, 18, 41];
    const AFTER_1: [u32; 3] = [1, 8, 7];
    const AFTER_14: [u32; 3] = [19, 61, 6];

    fn worthwhile(_lanes: usize) -> usize {
        4
    }
}

/// SHA-2 with words of the type `W`: the variant of the family that has these
/// starting values.
#[derive(Clone, Copy)]
pub(super) struct Sha2<W: 'static>(pub(super) &'static [W; 8]);

impl<W: Variant> Chained for Sha2<W> {
    type Word = W;
    type State<const LANES: usize> = [[W; LANES]; 8];

    const BIG_ENDIAN: bool = true;

    fn start<const LANES: usize>(&self) -> Self::State<LANES> {
        self.0.map(|word| [word; LANES])
    }

    fn worthwhile(&self, lanes: usize) -> usize {
        W::worthwhile(lanes)
    }

    #[inline(always)]
    unsafe fn rounds<S: Words<W, LANES>, const LANES: usize>(
        &self,
        s: S,
        state: &mut Self::State<LANES>,
        lanes: &[*const u8; LANES],
        count: usize,
    ) {
        let mut chain = s.load_all(state);
        for index in 0..count {
            // SAFETY: the caller's promise.
            let mut message: [S::V; 16] = s.swap_bytes_of_all(unsafe { s.read(lanes, index * block::<W>()) });
            let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = chain;

            macro_rules! round {
                ($i:literal, $k:ident,
                 $a:ident, $b:ident, $c:ident, $d:ident, $e:ident, $f:ident, $g:ident, $h:ident) => {
                    let sum = s.add(s.add($h, message[$i]), s.all($k[$i]));
                    let [x, y, z] = W::SPREAD_E;
                    let spread = s.xor3(s.rotr($e, x), s.rotr($e, y), s.rotr($e, z));
                    let sum = s.add(sum, s.add(s.select($e, $f, $g), spread));
                    $d = s.add($d, sum);
                    let [x, y, z] = W::SPREAD_A;
                    let spread = s.xor3(s.rotr_sparing($a, x), s.rotr_sparing($a, y), s.rotr_sparing($a, z));
                    $h = s.add(s.add(sum, s.majority($a, $b, $c)), spread);
                };
            }
            // The word of the message for sixteen rounds on.
            macro_rules! next_word {
                ($i:literal) => {
                    let after_1 = message[($i + 1) % 16];
                    let [x, y, z] = W::AFTER_1;
                    let low = s.xor3(s.rotr_sparing(after_1, x), s.rotr_sparing(after_1, y), s.shr(after_1, z));
                    let after_14 = message[($i + 14) % 16];
                    let [x, y, z] = W::AFTER_14;
                    let high = s.xor3(s.rotr_sparing(after_14, x), s.rotr_sparing(after_14, y), s.shr(after_14, z));
                    message[$i] = s.add(s.add(message[$i], low), s.add(message[($i + 9) % 16], high));
                };
            }
            macro_rules! sixteen_rounds {
                ($k:ident, $then:ident) => {
                    eight_rounds!($k, $then, 0, 1, 2, 3, 4, 5, 6, 7);
                    eight_rounds!($k, $then, 8, 9, 10, 11, 12, 13, 14, 15);
                };
            }
            macro_rules! eight_rounds {
                ($k:ident, $then:ident, $i0:literal, $i1:literal, $i2:literal, $i3:literal,
                 $i4:literal, $i5:literal, $i6:literal, $i7:literal) => {
                    round!($i0, $k, a, b, c, d, e, f, g, h);
                    $then!($i0);
                    round!($i1, $k, h, a, b, c, d, e, f, g);
                    $then!($i1);
                    round!($i2, $k, g, h, a, b, c, d, e, f);
                    $then!($i2);
                    round!($i3, $k, f, g, h, a, b, c, d, e);
                    $then!($i3);
                    round!($i4, $k, e, f, g, h, a, b, c, d);
                    $then!($i4);
                    round!($i5, $k, d, e, f, g, h, a, b, c);
                    $then!($i5);
                    round!($i6, $k, c, d, e, f, g, h, a, b);
                    $then!($i6);
                    round!($i7, $k, b, c, d, e, f, g, h, a);
                    $then!($i7);
                };
            }
            macro_rules! nothing {
                ($i:literal) => {};
            }
            if S::REGISTERS >= 32 {
                // Each word as soon as its predecessor is used, so that neither waits.
                if let Some((last, before)) = W::K.split_last() {
                    for k in before {
                        sixteen_rounds!(k, next_word);
                    }
                    sixteen_rounds!(last, nothing);
                }
            } else {
                for (turn, k) in W::K.iter().enumerate() {
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
                    sixteen_rounds!(k, nothing);
                }
            }

            for (word, value) in chain.iter_mut().zip([a, b, c, d, e, f, g, h]) {
                *word = s.add(*word, value);
            }
        }
        s.store_all(state, chain);
    }
}
