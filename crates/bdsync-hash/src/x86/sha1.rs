//! SHA-1 (FIPS 180-4).

use super::chained::Chained;
use super::sha_ni::ShaNi;
use super::words::{Words, block};
use crate::constants::SHA1_START;

/// What twenty rounds each add.
const K: [u32; 4] = [0x5a82_7999, 0x6ed9_eba1, 0x8f1b_bcdc, 0xca62_c1d6];

/// SHA-1.
#[derive(Clone, Copy)]
pub(super) struct Sha1;

impl Chained for Sha1 {
    type Word = u32;
    type State<const LANES: usize> = [[u32; LANES]; 5];

    const BIG_ENDIAN: bool = true;

    fn start<const LANES: usize>(&self) -> Self::State<LANES> {
        SHA1_START.map(|word| [word; LANES])
    }

    fn worthwhile(&self, lanes: usize) -> usize {
        // One at a time is fast with the SHA instructions, and slow without them.
        if ShaNi::detect().is_some() { lanes / 4 + 1 } else { 3 }
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
            let [mut a, mut b, mut c, mut d, mut e] = chain;

            macro_rules! round {
                ($f:ident, $i:expr, $a:ident, $b:ident, $c:ident, $d:ident, $e:ident) => {
                    let word = message[$i % 16];
                    let sum = s.add(s.add($e, s.all(K[$i / 20])), word);
                    let sum = s.add(sum, s.$f($b, $c, $d));
                    $e = s.add(s.rotl($a, 5), sum);
                    $b = s.rotl($b, 30);
                    if $i < 64 {
                        // The word for sixteen rounds on.
                        let mixed = s.xor3(word, message[($i + 2) % 16], message[($i + 8) % 16]);
                        message[$i % 16] = s.rotl(s.xor(mixed, message[($i + 13) % 16]), 1);
                    }
                };
            }
            macro_rules! five_rounds {
                ($f:ident, $i:literal) => {
                    round!($f, $i, a, b, c, d, e);
                    round!($f, $i + 1, e, a, b, c, d);
                    round!($f, $i + 2, d, e, a, b, c);
                    round!($f, $i + 3, c, d, e, a, b);
                    round!($f, $i + 4, b, c, d, e, a);
                };
            }
            five_rounds!(select, 0);
            five_rounds!(select, 5);
            five_rounds!(select, 10);
            five_rounds!(select, 15);
            five_rounds!(xor3, 20);
            five_rounds!(xor3, 25);
            five_rounds!(xor3, 30);
            five_rounds!(xor3, 35);
            five_rounds!(majority, 40);
            five_rounds!(majority, 45);
            five_rounds!(majority, 50);
            five_rounds!(majority, 55);
            five_rounds!(xor3, 60);
            five_rounds!(xor3, 65);
            five_rounds!(xor3, 70);
            five_rounds!(xor3, 75);

            for (word, value) in chain.iter_mut().zip([a, b, c, d, e]) {
                *word = s.add(*word, value);
            }
        }
        s.store_all(state, chain);
    }
}
