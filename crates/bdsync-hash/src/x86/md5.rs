//! MD5 (RFC 1321).
//!
//! Each step waits for the one before, and one group of lanes leaves half of the
//! processor idle; two groups just fit into the registers.

use super::chained::Chained;
use super::words::{Words, block};

const START: [u32; 4] = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476];

/// Added in step `i`: the first 32 bits behind the point of `|sin(i + 1)|`.
const SINES: [u32; 64] = [
    0xd76a_a478,
    0xe8c7_b756,
    0x2420_70db,
    0xc1bd_ceee,
    0xf57c_0faf,
    0x4787_c62a,
    0xa830_4613,
    0xfd46_9501,
    0x6980_98d8,
    0x8b44_f7af,
    0xffff_5bb1,
    0x895c_d7be,
    0x6b90_1122,
    0xfd98_7193,
    0xa679_438e,
    0x49b4_0821,
    0xf61e_2562,
    0xc040_b340,
    0x265e_5a51,
    0xe9b6_c7aa,
    0xd62f_105d,
    0x0244_1453,
    0xd8a1_e681,
    0xe7d3_fbc8,
    0x21e1_cde6,
    0xc337_07d6,
    0xf4d5_0d87,
    0x455a_14ed,
    0xa9e3_e905,
    0xfcef_a3f8,
    0x676f_02d9,
    0x8d2a_4c8a,
    0xfffa_3942,
    0x8771_f681,
    0x6d9d_6122,
    0xfde5_380c,
    0xa4be_ea44,
    0x4bde_cfa9,
    0xf6bb_4b60,
    0xbebf_bc70,
    0x289b_7ec6,
    0xeaa1_27fa,
    0xd4ef_3085,
    0x0488_1d05,
    0xd9d4_d039,
    0xe6db_99e5,
    0x1fa2_7cf8,
    0xc4ac_5665,
    0xf429_2244,
    0x432a_ff97,
    0xab94_23a7,
    0xfc93_a039,
    0x655b_59c3,
    0x8f0c_cc92,
    0xffef_f47d,
    0x8584_5dd1,
    0x6fa8_7e4f,
    0xfe2c_e6e0,
    0xa301_4314,
    0x4e08_11a1,
    0xf753_7e82,
    0xbd3a_f235,
    0x2ad7_d2bb,
    0xeb86_d391,
];

/// MD5.
#[derive(Clone, Copy)]
pub(super) struct Md5;

/// The sine to add, less what the function leaves to it.
const fn sine(step: usize) -> u32 {
    if step < 48 { SINES[step] } else { SINES[step].wrapping_sub(1) }
}

impl Chained for Md5 {
    type Word = u32;
    type State<const LANES: usize> = [[u32; LANES]; 4];

    const BIG_ENDIAN: bool = false;

    fn start<const LANES: usize>(&self) -> Self::State<LANES> {
        START.map(|word| [word; LANES])
    }

    fn worthwhile(&self, _lanes: usize) -> usize {
        3
    }

    #[inline(always)]
    unsafe fn rounds<S: Words<u32, LANES>, const LANES: usize>(
        &self,
        s: S,
        state: &mut Self::State<LANES>,
        lanes: &[*const u8; LANES],
        count: usize,
    ) {
        let [mut a, mut b, mut c, mut d] = s.load_all(state);
        for index in 0..count {
            // SAFETY: the caller's promise.
            let message: [S::V; 16] = unsafe { s.read(lanes, index * block::<u32>()) };
            let before = [a, b, c, d];

            // A step is `a = b + rotate(a + function(b, c, d) + message + sine)`; these
            // are the four functions, with all that is added to `a`.
            macro_rules! add_function {
                (f, $sum:ident, $b:ident, $c:ident, $d:ident) => {
                    s.add($sum, s.select($b, $c, $d))
                };
                (g, $sum:ident, $b:ident, $c:ident, $d:ident) => {
                    s.add_select($sum, $d, $b, $c)
                };
                (h, $sum:ident, $b:ident, $c:ident, $d:ident) => {
                    s.add($sum, s.xor3($b, $c, $d))
                };
                // c ^ (b | !d) is the complement of c ^ (!b & d), and !x is -x - 1; the
                // sine has the one subtracted.
                (i, $sum:ident, $b:ident, $c:ident, $d:ident) => {
                    s.sub($sum, s.xor_without($c, $b, $d))
                };
            }
            macro_rules! step {
                ($f:ident, $a:ident, $b:ident, $c:ident, $d:ident, $i:expr, $word:expr, $turn:expr) => {
                    let sum = s.add($a, s.add(message[$word], s.all(const { sine($i) })));
                    let sum = add_function!($f, sum, $b, $c, $d);
                    $a = s.add($b, s.rotl(sum, $turn));
                };
            }
            macro_rules! four_steps {
                ($f:ident, $i:literal, [$w0:literal, $w1:literal, $w2:literal, $w3:literal],
                 [$s0:literal, $s1:literal, $s2:literal, $s3:literal]) => {
                    step!($f, a, b, c, d, $i, $w0, $s0);
                    step!($f, d, a, b, c, $i + 1, $w1, $s1);
                    step!($f, c, d, a, b, $i + 2, $w2, $s2);
                    step!($f, b, c, d, a, $i + 3, $w3, $s3);
                };
            }
            four_steps!(f, 0, [0, 1, 2, 3], [7, 12, 17, 22]);
            four_steps!(f, 4, [4, 5, 6, 7], [7, 12, 17, 22]);
            four_steps!(f, 8, [8, 9, 10, 11], [7, 12, 17, 22]);
            four_steps!(f, 12, [12, 13, 14, 15], [7, 12, 17, 22]);
            four_steps!(g, 16, [1, 6, 11, 0], [5, 9, 14, 20]);
            four_steps!(g, 20, [5, 10, 15, 4], [5, 9, 14, 20]);
            four_steps!(g, 24, [9, 14, 3, 8], [5, 9, 14, 20]);
            four_steps!(g, 28, [13, 2, 7, 12], [5, 9, 14, 20]);
            four_steps!(h, 32, [5, 8, 11, 14], [4, 11, 16, 23]);
            four_steps!(h, 36, [1, 4, 7, 10], [4, 11, 16, 23]);
            four_steps!(h, 40, [13, 0, 3, 6], [4, 11, 16, 23]);
            four_steps!(h, 44, [9, 12, 15, 2], [4, 11, 16, 23]);
            four_steps!(i, 48, [0, 7, 14, 5], [6, 10, 15, 21]);
            four_steps!(i, 52, [12, 3, 10, 1], [6, 10, 15, 21]);
            four_steps!(i, 56, [8, 15, 6, 13], [6, 10, 15, 21]);
            four_steps!(i, 60, [4, 11, 2, 9], [6, 10, 15, 21]);

            a = s.add(a, before[0]);
            b = s.add(b, before[1]);
            c = s.add(c, before[2]);
            d = s.add(d, before[3]);
        }
        s.store_all(state, [a, b, c, d]);
    }
}
