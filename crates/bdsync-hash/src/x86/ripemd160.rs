//! RIPEMD-160 (Dobbertin, Bosselaers, Preneel 1996).
//!
//! The two lines of the function are independent of each other, which is work
//! enough for the processor without a second group of lanes.

use super::chained::Chained;
use super::words::{Words, block};

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

/// RIPEMD-160.
#[derive(Clone, Copy)]
pub(super) struct Ripemd160;

/// The constant to add, less what the function leaves to it: functions three
/// and five end in a complement, and `!x` is `-x - 1`.
const fn addend(constant: u32, function: usize) -> u32 {
    constant.wrapping_sub((function == 2 || function == 4) as u32)
}

impl Chained for Ripemd160 {
    type Word = u32;
    type State<const LANES: usize> = [[u32; LANES]; 5];

    const BIG_ENDIAN: bool = false;

    fn start<const LANES: usize>(&self) -> Self::State<LANES> {
        START.map(|word| [word; LANES])
    }

    fn worthwhile(&self, _lanes: usize) -> usize {
        2
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
            let message: [S::V; 16] = unsafe { s.read(lanes, index * block::<u32>()) };
            let [mut a, mut b, mut c, mut d, mut e] = chain;
            let [mut aa, mut bb, mut cc, mut dd, mut ee] = chain;

            macro_rules! line_step {
                ($a:ident, $b:ident, $c:ident, $d:ident, $e:ident,
                 $function:expr, $add:expr, $word:expr, $turn:expr) => {
                    let add = s.all(const { addend($add, $function) });
                    let sum = s.add($a, s.add(message[const { $word as usize }], add));
                    // The right line goes through the functions backwards.
                    let sum = match $function {
                        0 => s.add(sum, s.xor3($b, $c, $d)),
                        1 => s.add_select(sum, $b, $c, $d),
                        2 => s.sub(sum, s.xor_without($d, $b, $c)),
                        3 => s.add_select(sum, $d, $b, $c),
                        _ => s.sub(sum, s.xor_without($b, $c, $d)),
                    };
                    $a = s.add(s.rotl(sum, const { $turn as u32 }), $e);
                    $c = s.rotl($c, 10);
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
                s.add(chain[1], s.add(c, dd)),
                s.add(chain[2], s.add(d, ee)),
                s.add(chain[3], s.add(e, aa)),
                s.add(chain[4], s.add(a, bb)),
                s.add(chain[0], s.add(b, cc)),
            ];
        }
        s.store_all(state, chain);
    }
}
