//! SM3 (GB/T 32905-2016).

use super::chained::Chained;
use super::words::{Words, block};

const START: [u32; 8] =
    [0x7380_166f, 0x4914_b2b9, 0x1724_42d7, 0xda8a_0600, 0xa96f_30bc, 0x1631_38aa, 0xe38d_ee4d, 0xb0fb_0e4e];

/// What each round adds, by the word it takes: a constant, rotated by the number
/// of the round.
const ADD: [[u32; 16]; 4] = {
    let mut add = [[0; 16]; 4];
    let mut i = 0;
    while i < 64 {
        let constant: u32 = if i < 16 { 0x79cc_4519 } else { 0x7a87_9d8a };
        add[i / 16][i % 16] = constant.rotate_left(i as u32 % 32);
        i += 1;
    }
    add
};

/// SM3.
#[derive(Clone, Copy)]
pub(super) struct Sm3;

impl Chained for Sm3 {
    type Word = u32;
    type State<const LANES: usize> = [[u32; LANES]; 8];

    const BIG_ENDIAN: bool = true;

    fn start<const LANES: usize>(&self) -> Self::State<LANES> {
        START.map(|word| [word; LANES])
    }

    fn worthwhile(&self, _lanes: usize) -> usize {
        4
    }

    #[inline(always)]
    unsafe fn rounds<S: Words<u32, LANES>, const LANES: usize>(
        &self,
        s: S,
        state: &mut Self::State<LANES>,
        lanes: &[*const u8; LANES],
        count: usize,
    ) {
        let mut chain = s.load_all(state);
        for index in 0..count {
            // SAFETY: the caller's promise.
            let mut message: [S::V; 16] = s.swap_bytes_of_all(unsafe { s.read(lanes, index * block::<u32>()) });
            let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = chain;

            macro_rules! round {
                ($add:ident, $w:literal, $abc:ident, $efg:ident,
                 $a:ident, $b:ident, $c:ident, $d:ident, $e:ident, $f:ident, $g:ident, $h:ident) => {
                    let a_12 = s.rotl($a, 12);
                    let turned = s.rotl(s.add(s.add(a_12, $e), s.all($add[$w])), 7);
                    let word = message[$w];
                    // Four rounds on, of which the word may be the next to be made.
                    let later = message[($w + 4) % 16];
                    let left = s.add(s.$abc($a, $b, $c), s.add($d, s.xor(turned, a_12)));
                    let right = s.add(s.$efg($e, $f, $g), s.add($h, s.add(turned, word)));
                    $d = s.add(left, s.xor(word, later));
                    $b = s.rotl($b, 9);
                    $h = s.xor_turned(right, 9);
                    $f = s.rotl($f, 19);
                };
            }
            macro_rules! four_rounds {
                ($add:ident, $w0:literal, $w1:literal, $w2:literal, $w3:literal,
                 $abc:ident, $efg:ident) => {
                    round!($add, $w0, $abc, $efg, a, b, c, d, e, f, g, h);
                    round!($add, $w1, $abc, $efg, d, a, b, c, h, e, f, g);
                    round!($add, $w2, $abc, $efg, c, d, a, b, g, h, e, f);
                    round!($add, $w3, $abc, $efg, b, c, d, a, f, g, h, e);
                };
            }
            macro_rules! next_words {
                ($($w:literal),*) => {
                    $(
                        let after_13 = s.rotl(message[($w + 13) % 16], 15);
                        let mixed = s.xor_turned(s.xor3(message[$w], message[($w + 7) % 16], after_13), 15);
                        message[$w] = s.xor3(mixed, s.rotl(message[($w + 3) % 16], 7), message[($w + 10) % 16]);
                    )*
                };
            }
            let [first, later @ ..] = &ADD;
            // Each four rounds look four words ahead.
            four_rounds!(first, 0, 1, 2, 3, xor3, xor3);
            four_rounds!(first, 4, 5, 6, 7, xor3, xor3);
            four_rounds!(first, 8, 9, 10, 11, xor3, xor3);
            next_words!(0, 1, 2, 3);
            four_rounds!(first, 12, 13, 14, 15, xor3, xor3);
            for add in later {
                next_words!(4, 5, 6, 7);
                four_rounds!(add, 0, 1, 2, 3, majority, select);
                next_words!(8, 9, 10, 11);
                four_rounds!(add, 4, 5, 6, 7, majority, select);
                next_words!(12, 13, 14, 15);
                four_rounds!(add, 8, 9, 10, 11, majority, select);
                next_words!(0, 1, 2, 3);
                four_rounds!(add, 12, 13, 14, 15, majority, select);
            }

            for (word, value) in chain.iter_mut().zip([a, b, c, d, e, f, g, h]) {
                *word = s.xor(*word, value);
            }
        }
        s.store_all(state, chain);
    }
}
