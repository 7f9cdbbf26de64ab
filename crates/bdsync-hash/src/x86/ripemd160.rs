//! RIPEMD-160 (Dobbertin, Bosselaers, Preneel 1996), eight lanes.
//!
//! The two lines of the function are independent of each other, which is work
//! enough for the processor without a second group of lanes.

use super::vector::*;
use crate::lanes::{Kernel, Tails, finish_with_length, write_words};

const LANES: usize = 8;
const BLOCK: usize = 64;

const START: [u32; 5] = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476, 0xc3d2_e1f0];

/// Which word of the message each step takes, in the left and the right line.
const LEFT_WORD: [[u8; 16]; 5] = [
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
    [7, 4, 13, 1, 10, 6, 15, 3, 12, 0, 9, 5, 2, 14, 11, 8],
    [3, 10, 14, 4, 9, 15, 8, 1, 2, 7, 0, 6, 13, 11, 5, 12],
    [1, 9, 11, 10, 0, 8, 12, 4, 13, 3, 7, 15, 14, 5, 6, 2],
    [4, 0, 5, 9, 7, 12, 2, 10, 14, 1, 3, 8, 11, 6, 15, 13],
];
const RIGHT_WORD: [[u8; 16]; 5] = [
    [5, 14, 7, 0, 9, 2, 11, 4, 13, 6, 15, 8, 1, 10, 3, 12],
    [6, 11, 3, 7, 0, 13, 5, 10, 14, 15, 8, 12, 4, 9, 1, 2],
    [15, 5, 1, 3, 7, 14, 6, 9, 11, 8, 12, 2, 10, 0, 4, 13],
    [8, 6, 4, 1, 3, 11, 15, 0, 5, 12, 2, 13, 9, 7, 10, 14],
    [12, 15, 10, 4, 1, 5, 8, 7, 6, 2, 13, 14, 0, 3, 9, 11],
];

/// How far each step rotates.
const LEFT_TURN: [[u8; 16]; 5] = [
    [11, 14, 15, 12, 5, 8, 7, 9, 11, 13, 14, 15, 6, 7, 9, 8],
    [7, 6, 8, 13, 11, 9, 7, 15, 7, 12, 15, 9, 11, 7, 13, 12],
    [11, 13, 6, 7, 14, 9, 13, 15, 14, 8, 13, 6, 5, 12, 7, 5],
    [11, 12, 14, 15, 14, 15, 9, 8, 9, 14, 5, 6, 8, 6, 5, 12],
    [9, 15, 5, 11, 6, 8, 13, 12, 5, 12, 13, 14, 11, 8, 5, 6],
];
const RIGHT_TURN: [[u8; 16]; 5] = [
    [8, 9, 9, 11, 13, 15, 15, 5, 7, 7, 8, 11, 14, 14, 12, 6],
    [9, 13, 15, 7, 12, 8, 9, 11, 7, 7, 12, 7, 6, 15, 13, 11],
    [9, 7, 15, 11, 8, 6, 6, 14, 12, 13, 5, 14, 13, 13, 7, 5],
    [15, 5, 8, 11, 14, 14, 6, 14, 6, 9, 12, 9, 12, 5, 15, 8],
    [8, 5, 12, 9, 12, 5, 14, 6, 8, 13, 6, 5, 15, 13, 11, 11],
];

/// What the steps of a round add.
const LEFT_ADD: [u32; 5] = [0, 0x5a82_7999, 0x6ed9_eba1, 0x8f1b_bcdc, 0xa953_fd4e];
const RIGHT_ADD: [u32; 5] = [0x50a2_8be6, 0x5c4d_d124, 0x6d70_3ef3, 0x7a6d_76e9, 0];

/// RIPEMD-160 with AVX2.
#[derive(Clone, Copy)]
pub(super) struct Ripemd160(());

impl Ripemd160 {
    /// # Safety
    ///
    /// The processor has AVX2.
    pub(super) unsafe fn new() -> Self {
        Ripemd160(())
    }
}

/// The chaining values: word, lane.
type State = [[u32; 8]; 5];

// SAFETY: `Ripemd160::new` demands AVX2.
unsafe impl Kernel<LANES> for Ripemd160 {
    type State = State;

    const WORTHWHILE: usize = 2;

    fn block_size(&self) -> usize {
        BLOCK
    }

    fn start(&self) -> State {
        START.map(|word| [word; 8])
    }

    unsafe fn compress(&self, state: &mut State, lanes: &[*const u8; LANES], count: usize) {
        // SAFETY: the processor has AVX2, and the pointers are as asked for.
        unsafe { compress(state, lanes, count) }
    }

    fn finish(&self, state: &mut State, tails: &mut Tails<LANES>, filled: usize, total: u64) {
        let bits = total.wrapping_mul(8).to_le_bytes();
        finish_with_length(self, state, tails, filled, bits);
    }

    fn digest(&self, state: &State, lane: usize, out: &mut [u8]) {
        write_words(state.iter().map(|word| word[lane].to_le_bytes()), out);
    }
}

/// The function of a round, added to `sum`; the right line goes through them
/// backwards.
///
/// Functions three and five end in a complement, and `!x` is `-x - 1`:
/// [`addend`] has the one subtracted.
#[inline]
#[target_feature(enable = "avx2")]
fn add_function<const ROUND: usize>(sum: V, x: V, y: V, z: V) -> V {
    match ROUND {
        0 => add32(sum, xor(x, xor(y, z))),
        1 => add32(add32(sum, without(x, z)), and(x, y)),
        2 => sub32(sum, xor(without(x, y), z)),
        3 => add32(add32(sum, without(z, y)), and(x, z)),
        _ => sub32(sum, xor(x, without(y, z))),
    }
}

const fn addend(constant: u32, function: usize) -> u32 {
    constant.wrapping_sub((function == 2 || function == 4) as u32)
}

/// # Safety
///
/// Each pointer is valid for reads of `count` blocks.
#[target_feature(enable = "avx2")]
unsafe fn compress(state: &mut State, lanes: &[*const u8; LANES], count: usize) {
    let mut chain = state.map(|word| load32(&word));
    for block in 0..count {
        // SAFETY: the caller's promise.
        let message = unsafe { read_words32::<false>(lanes, block * BLOCK) };
        let [mut a, mut b, mut c, mut d, mut e] = chain;
        let [mut aa, mut bb, mut cc, mut dd, mut ee] = chain;

        macro_rules! line_step {
            ($a:ident, $b:ident, $c:ident, $d:ident, $e:ident,
             $function:expr, $add:expr, $word:expr, $turn:expr) => {
                let add = all32(const { addend($add, $function) });
                let sum = add32($a, add32(message[const { $word as usize }], add));
                let sum = add_function::<{ $function }>(sum, $b, $c, $d);
                $a = add32(rotl32::<{ $turn as i32 }>(sum), $e);
                $c = rotl32::<10>($c);
            };
        }
        macro_rules! step {
            ($r:literal, $i:expr, [$a:ident, $b:ident, $c:ident, $d:ident, $e:ident],
             [$aa:ident, $bb:ident, $cc:ident, $dd:ident, $ee:ident]) => {
                line_step!($a, $b, $c, $d, $e, $r, LEFT_ADD[$r], LEFT_WORD[$r][$i], LEFT_TURN[$r][$i]);
                line_step!($aa, $bb, $cc, $dd, $ee, 4 - $r, RIGHT_ADD[$r], RIGHT_WORD[$r][$i], RIGHT_TURN[$r][$i]);
            };
        }
        // After five steps each variable has its first part again.
        macro_rules! five_steps {
            ($r0:literal $i0:literal, $r1:literal $i1:literal, $r2:literal $i2:literal,
             $r3:literal $i3:literal, $r4:literal $i4:literal) => {
                step!($r0, $i0, [a, b, c, d, e], [aa, bb, cc, dd, ee]);
                step!($r1, $i1, [e, a, b, c, d], [ee, aa, bb, cc, dd]);
                step!($r2, $i2, [d, e, a, b, c], [dd, ee, aa, bb, cc]);
                step!($r3, $i3, [c, d, e, a, b], [cc, dd, ee, aa, bb]);
                step!($r4, $i4, [b, c, d, e, a], [bb, cc, dd, ee, aa]);
            };
        }
        five_steps!(0 0, 0 1, 0 2, 0 3, 0 4);
        five_steps!(0 5, 0 6, 0 7, 0 8, 0 9);
        five_steps!(0 10, 0 11, 0 12, 0 13, 0 14);
        five_steps!(0 15, 1 0, 1 1, 1 2, 1 3);
        five_steps!(1 4, 1 5, 1 6, 1 7, 1 8);
        five_steps!(1 9, 1 10, 1 11, 1 12, 1 13);
        five_steps!(1 14, 1 15, 2 0, 2 1, 2 2);
        five_steps!(2 3, 2 4, 2 5, 2 6, 2 7);
        five_steps!(2 8, 2 9, 2 10, 2 11, 2 12);
        five_steps!(2 13, 2 14, 2 15, 3 0, 3 1);
        five_steps!(3 2, 3 3, 3 4, 3 5, 3 6);
        five_steps!(3 7, 3 8, 3 9, 3 10, 3 11);
        five_steps!(3 12, 3 13, 3 14, 3 15, 4 0);
        five_steps!(4 1, 4 2, 4 3, 4 4, 4 5);
        five_steps!(4 6, 4 7, 4 8, 4 9, 4 10);
        five_steps!(4 11, 4 12, 4 13, 4 14, 4 15);

        chain = [
            add32(chain[1], add32(c, dd)),
            add32(chain[2], add32(d, ee)),
            add32(chain[3], add32(e, aa)),
            add32(chain[4], add32(a, bb)),
            add32(chain[0], add32(b, cc)),
        ];
    }
    for (word, value) in state.iter_mut().zip(chain) {
        store32(word, value);
    }
}
