//! BLAKE2b (RFC 7693), four lanes, without a key and with 64 bytes of output.
//!
//! The four mixings of half a round are independent of each other, which is
//! work enough for the processor without a second group of lanes.

use super::vector::*;
use crate::constants::SHA512_START;
use crate::lanes::{Kernel, TAIL, Tails, write_words};

const LANES: usize = 4;
const BLOCK: usize = 128;

/// The parameter block of an unkeyed digest begins with its length, no key,
/// and fanout and depth of one.
const PARAMETERS: u64 = 0x0101_0040;

/// Which words of the message each round takes.
const ORDER: [[usize; 16]; 10] = [
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
    [14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3],
    [11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4],
    [7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8],
    [9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13],
    [2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9],
    [12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11],
    [13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10],
    [6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5],
    [10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0],
];

/// BLAKE2b with AVX2.
#[derive(Clone, Copy)]
pub(super) struct Blake2b512(());

impl Blake2b512 {
    /// # Safety
    ///
    /// The processor has AVX2.
    pub(super) unsafe fn new() -> Self {
        Blake2b512(())
    }
}

#[derive(Clone)]
pub(super) struct State {
    /// The chaining values: word, lane.
    chain: [[u64; LANES]; 8],
    /// Bytes that each lane has compressed.
    counted: u64,
}

// SAFETY: `Blake2b512::new` demands AVX2.
unsafe impl Kernel<LANES> for Blake2b512 {
    type State = State;

    const LAST_BLOCK_WAITS: bool = true;
    const WORTHWHILE: usize = 2;

    fn block_size(&self) -> usize {
        BLOCK
    }

    fn start(&self) -> State {
        let mut words = SHA512_START;
        words[0] ^= PARAMETERS;
        State { chain: words.map(|word| [word; LANES]), counted: 0 }
    }

    unsafe fn compress(&self, state: &mut State, lanes: &[*const u8; LANES], count: usize) {
        // SAFETY: the processor has AVX2, and the pointers are as asked for.
        unsafe { compress(&mut state.chain, lanes, count, state.counted, false) };
        state.counted += (count * BLOCK) as u64;
    }

    fn finish(&self, state: &mut State, tails: &mut Tails<LANES>, filled: usize, total: u64) {
        const { assert!(BLOCK <= TAIL) };
        for tail in tails.iter_mut() {
            tail[filled..BLOCK].fill(0);
        }
        let lanes = tails.each_ref().map(|tail| tail.as_ptr());
        // The count of the last block is that of its data alone.
        let before = total.wrapping_sub(BLOCK as u64);
        // SAFETY: the processor has AVX2, and a tail has room for a block.
        unsafe { compress(&mut state.chain, &lanes, 1, before, true) };
    }

    fn digest(&self, state: &State, lane: usize, out: &mut [u8]) {
        write_words(state.chain.iter().map(|word| word[lane].to_le_bytes()), out);
    }
}

/// Compresses blocks, `before` bytes after the start of the input.
///
/// # Safety
///
/// Each pointer is valid for reads of `count` blocks.
#[target_feature(enable = "avx2")]
unsafe fn compress(state: &mut [[u64; LANES]; 8], lanes: &[*const u8; LANES], count: usize, before: u64, last: bool) {
    let mut chain = state.map(|word| load64(&word));
    let mut counter = before;
    for block in 0..count {
        // SAFETY: the caller's promise.
        let m = unsafe { read_words64::<false>(lanes, block * BLOCK) };
        counter = counter.wrapping_add(BLOCK as u64);
        let [mut v0, mut v1, mut v2, mut v3, mut v4, mut v5, mut v6, mut v7] = chain;
        let [mut v8, mut v9, mut v10, mut v11, mut v12, mut v13, mut v14, mut v15] =
            SHA512_START.map(|word| all64(word));
        // The upper half of the counter stays zero.
        v12 = xor(v12, all64(counter));
        v14 = xor(v14, all64(if last { u64::MAX } else { 0 }));

        // Half of a mixing, for four columns or diagonals in step.
        macro_rules! half {
            ($r:literal, $first:literal, $d_turn:literal, $b_turn:literal,
             $([$i:literal: $a:ident, $b:ident, $c:ident, $d:ident]),*) => {
                $($a = add64($a, m[const { ORDER[$r % 10][$first + 2 * $i] }]);)*
                $($a = add64($a, $b);)*
                $($d = rotr64::<$d_turn>(xor($d, $a));)*
                $($c = add64($c, $d);)*
                $($b = rotr64::<$b_turn>(xor($b, $c));)*
            };
        }
        macro_rules! mix {
            ($r:literal, $($quarters:tt),*) => {
                half!($r, 0, 32, 24, $($quarters),*);
                half!($r, 1, 16, 63, $($quarters),*);
            };
        }
        macro_rules! round {
            ($r:literal) => {
                mix!($r, [0: v0, v4, v8, v12], [1: v1, v5, v9, v13]);
                mix!($r, [2: v2, v6, v10, v14], [3: v3, v7, v11, v15]);
                mix!($r, [4: v0, v5, v10, v15], [5: v1, v6, v11, v12]);
                mix!($r, [6: v2, v7, v8, v13], [7: v3, v4, v9, v14]);
            };
        }
        round!(0);
        round!(1);
        round!(2);
        round!(3);
        round!(4);
        round!(5);
        round!(6);
        round!(7);
        round!(8);
        round!(9);
        round!(10);
        round!(11);

        let halves = [(v0, v8), (v1, v9), (v2, v10), (v3, v11), (v4, v12), (v5, v13), (v6, v14), (v7, v15)];
        for (word, (low, high)) in chain.iter_mut().zip(halves) {
            *word = xor(*word, xor(low, high));
        }
    }
    for (word, value) in state.iter_mut().zip(chain) {
        store64(word, value);
    }
}
