//! BLAKE2b and BLAKE2s (RFC 7693), without a key and with all of their output.
//!
//! The four mixings of half a round are independent of each other, which is
//! nearly work enough for the processor without a second group of lanes.

use super::avx2::Avx2;
use super::avx512::Avx512;
use super::words::{Rounds, Word, Words, block, write_lane};
use crate::constants::{SHA256_START, SHA512_START};
use crate::lanes::{Kernel, Part, TAIL, Tails};

/// Gives a macro the words of the message that each round takes.
macro_rules! with_order {
    ($macro:ident) => {
        $macro! {
            [0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15]
            [14 10 4 8 9 15 13 6 1 12 0 2 11 7 5 3]
            [11 8 12 0 5 2 15 13 10 14 3 6 7 1 9 4]
            [7 9 3 1 13 12 11 14 2 6 5 10 4 0 15 8]
            [9 0 5 7 2 4 10 15 14 1 11 12 6 8 3 13]
            [2 12 6 10 0 11 8 3 4 13 7 5 15 14 1 9]
            [12 5 1 15 14 13 4 10 0 7 6 3 9 2 8 11]
            [13 11 7 14 12 1 3 9 5 0 15 4 8 6 2 10]
            [6 15 14 9 11 3 0 8 12 2 13 7 1 4 10 5]
            [10 2 8 4 7 6 1 5 15 11 9 14 3 12 13 0]
        }
    };
}
pub(super) use with_order;

macro_rules! table {
    ($([$($word:literal)*])*) => {
        [$([$($word),*]),*]
    };
}

/// Which words of the message each round takes.
const ORDER: [[usize; 16]; 10] = with_order!(table);

/// What the two have of their own; BLAKE2b works on 64-bit words.
pub(super) trait Variant: Word {
    const ROUNDS: usize;
    /// How far a mixing rotates to the right, one time after another.
    const TURNS: [u32; 4];
    /// What a compression works with besides the chaining values.
    const START: [Self; 8];
    /// The chaining values before the first byte: `START`, of which the first word
    /// is changed by the parameter block. That of an unkeyed digest begins with its
    /// length, no key, and fanout and depth of one.
    const FIRST_CHAIN: [Self; 8];
    /// What tells the last block, at 1, from all others.
    const LAST: [Self; 2];
    /// Whether to mix two columns in step instead of four where registers are few.
    const BY_TWO: bool;

    /// The lower and the upper half of a counter.
    fn halves(counter: u64) -> [Self; 2];
}

impl Variant for u64 {
    const ROUNDS: usize = 12;
    const TURNS: [u32; 4] = [32, 24, 16, 63];
    const START: [u64; 8] = SHA512_START;
    const FIRST_CHAIN: [u64; 8] = {
        let mut start = SHA512_START;
        start[0] ^= 0x0101_0040;
        start
    };
    const LAST: [u64; 2] = [0, u64::MAX];
    const BY_TWO: bool = true;

    fn halves(counter: u64) -> [u64; 2] {
        // The counter has 128 bits, of which these are enough.
        [counter, 0]
    }
}

impl Variant for u32 {
    const ROUNDS: usize = 10;
    const TURNS: [u32; 4] = [16, 12, 8, 7];
    const START: [u32; 8] = SHA256_START;
    const FIRST_CHAIN: [u32; 8] = {
        let mut start = SHA256_START;
        start[0] ^= 0x0101_0020;
        start
    };
    const LAST: [u32; 2] = [0, u32::MAX];
    const BY_TWO: bool = false;

    fn halves(counter: u64) -> [u32; 2] {
        [counter as u32, (counter >> 32) as u32]
    }
}

/// BLAKE2 with words of the type `W`, in vector registers.
#[derive(Clone, Copy)]
pub(super) struct Blake2<W, S> {
    words: S,
    start: [W; 8],
}

impl<S> Blake2<u64, S> {
    /// BLAKE2b with 64 bytes of output.
    pub(super) fn b512(words: S) -> Self {
        Blake2 { words, start: u64::FIRST_CHAIN }
    }
}

impl<S> Blake2<u32, S> {
    /// BLAKE2s with 32 bytes of output.
    pub(super) fn s256(words: S) -> Self {
        Blake2 { words, start: u32::FIRST_CHAIN }
    }
}

#[derive(Clone)]
pub(super) struct State<W, const LANES: usize> {
    /// The chaining values: word, lane.
    chain: [[W; LANES]; 8],
    /// Bytes that each lane has compressed.
    counted: u64,
    /// How many bytes there are in all, when what is compressed is the end.
    total: Option<u64>,
}

/// Registers that BLAKE2 can be computed in.
pub(super) trait Mixing<W: Variant, const LANES: usize>: Words<W, LANES> {
    /// A block of each lane.
    type Message;

    /// Reads the first block.
    ///
    /// # Safety
    ///
    /// Each pointer is valid for reads of a block.
    unsafe fn first(self, lanes: &[*const u8; LANES]) -> Self::Message;

    /// Mixes the message into what a compression works with, in all rounds, and
    /// replaces it by the block that is `next` bytes behind each pointer, if there is a
    /// next one. Always inlined.
    ///
    /// # Safety
    ///
    /// A block is readable there, and without a next one at each pointer.
    unsafe fn mix(
        self,
        v: [Self::V; 16],
        message: &mut Self::Message,
        lanes: &[*const u8; LANES],
        next: Option<usize>,
    ) -> [Self::V; 16];
}

/// Registers for which the compiler arranges the rounds.
macro_rules! arranged {
    ($($words:ty: $word:ty, $lanes:literal;)*) => {$(
        impl Mixing<$word, $lanes> for $words {
            type Message = [Self::V; 16];

            #[inline(always)]
            unsafe fn first(self, lanes: &[*const u8; $lanes]) -> Self::Message {
                // SAFETY: the caller's promise.
                unsafe { self.read(lanes, 0) }
            }

            #[inline(always)]
            unsafe fn mix(
                self,
                v: [Self::V; 16],
                message: &mut Self::Message,
                lanes: &[*const u8; $lanes],
                next: Option<usize>,
            ) -> [Self::V; 16] {
                let mixed = mix::<$word, _, $lanes>(self, v, message);
                if let Some(next) = next {
                    // SAFETY: the caller's promise.
                    *message = unsafe { self.read(lanes, next) };
                }
                mixed
            }
        }
    )*};
}
arranged! {
    Avx2: u64, 4;
    Avx2: u32, 8;
    Avx512: u32, 16;
}

impl<W: Variant, S: Mixing<W, LANES>, const LANES: usize> Kernel<LANES> for Blake2<W, S> {
    type State = State<W, LANES>;

    const LAST_BLOCK_WAITS: bool = true;
    fn worthwhile(&self) -> usize {
        // In the time of two groups in step one lane could do four blocks.
        match (W::BITS, LANES) {
            (64, 16) => 4,
            (64, _) => 2,
            _ => 3,
        }
    }

    fn block_size(&self) -> usize {
        block::<W>()
    }

    fn start(&self) -> Self::State {
        State { chain: self.start.map(|word| [word; LANES]), counted: 0, total: None }
    }

    unsafe fn compress(&self, state: &mut Self::State, parts: &[Part<LANES>]) {
        // SAFETY: the caller's promise.
        unsafe { self.words.enter(self, state, parts) };
    }

    fn pad(&self, state: &mut Self::State, tails: &mut Tails<LANES>, total: u64) {
        const { assert!(block::<W>() <= TAIL) };
        tails.put_zeros(block::<W>());
        state.total = Some(total);
    }

    fn digest(&self, state: &Self::State, lane: usize, out: &mut [u8]) {
        write_lane(&state.chain, lane, false, out);
    }
}

impl<W: Variant, S: Mixing<W, LANES>, const LANES: usize> Rounds<LANES> for Blake2<W, S> {
    type State = State<W, LANES>;

    #[inline(always)]
    unsafe fn rounds(&self, state: &mut Self::State, parts: &[Part<LANES>]) {
        let s = self.words;
        let Some(first) = parts.first() else {
            return;
        };
        let mut chain = s.load_all(&state.chain);
        let mut counter = state.counted;
        // SAFETY: the caller's promise.
        let mut message = unsafe { s.first(&first.lanes) };
        let mut lanes = &first.lanes;
        for (index, part) in parts.iter().enumerate() {
            for done in 1..=part.count {
                counter = counter.wrapping_add(block::<W>() as u64);
                let mut last = W::LAST[0];
                let next = if done < part.count {
                    Some(done * block::<W>())
                } else if let Some(next) = parts.get(index + 1) {
                    lanes = &next.lanes;
                    Some(0)
                } else {
                    if let Some(total) = state.total {
                        // The count of the last block is that of its data alone.
                        counter = total;
                        last = W::LAST[1];
                    }
                    None
                };
                let [c0, c1, c2, c3, c4, c5, c6, c7] = chain;
                let [c8, c9, c10, c11, c12, c13, c14, c15] = s.all_of(&W::START);
                let [low, high] = s.all_of(&W::halves(counter));
                let last = s.all(last);
                let v = [
                    c0,
                    c1,
                    c2,
                    c3,
                    c4,
                    c5,
                    c6,
                    c7,
                    c8,
                    c9,
                    c10,
                    c11,
                    s.xor(c12, low),
                    s.xor(c13, high),
                    s.xor(c14, last),
                    c15,
                ];
                // SAFETY: the caller promises as many blocks as the parts have.
                let v = unsafe { s.mix(v, &mut message, lanes, next) };
                for (i, word) in chain.iter_mut().enumerate() {
                    *word = s.xor3(*word, v[i], v[i + 8]);
                }
            }
        }
        s.store_all(&mut state.chain, chain);
        state.counted = counter;
    }
}

/// [`Mixing::mix`], as the compiler arranges it.
#[inline(always)]
fn mix<W: Variant, S: Words<W, LANES>, const LANES: usize>(s: S, v: [S::V; 16], m: &[S::V; 16]) -> [S::V; 16] {
    let [
        mut v0,
        mut v1,
        mut v2,
        mut v3,
        mut v4,
        mut v5,
        mut v6,
        mut v7,
        mut v8,
        mut v9,
        mut v10,
        mut v11,
        mut v12,
        mut v13,
        mut v14,
        mut v15,
    ] = v;

    // Half of a mixing, for some columns or diagonals in step.
    macro_rules! half {
        ($r:literal, $first:literal, $turns:expr,
         $([$i:literal: $a:ident, $b:ident, $c:ident, $d:ident]),*) => {
            let [d_turn, b_turn] = $turns;
            $($a = s.add($a, m[const { ORDER[$r % 10][$first + 2 * $i] }]);)*
            $($a = s.add($a, $b);)*
            $($d = s.rotr(s.xor($d, $a), d_turn);)*
            $($c = s.add($c, $d);)*
            $($b = s.rotr(s.xor($b, $c), b_turn);)*
        };
    }
    macro_rules! mix {
        ($r:literal, $($quarters:tt),*) => {
            half!($r, 0, [W::TURNS[0], W::TURNS[1]], $($quarters),*);
            half!($r, 1, [W::TURNS[2], W::TURNS[3]], $($quarters),*);
        };
    }
    macro_rules! mix_four {
        ($r:literal, $q0:tt, $q1:tt, $q2:tt, $q3:tt) => {
            if W::BY_TWO && S::REGISTERS < 32 {
                mix!($r, $q0, $q1);
                mix!($r, $q2, $q3);
            } else {
                mix!($r, $q0, $q1, $q2, $q3);
            }
        };
    }
    macro_rules! round {
        ($r:literal) => {
            if $r < W::ROUNDS {
                mix_four!(
                    $r,
                    [0: v0, v4, v8, v12],
                    [1: v1, v5, v9, v13],
                    [2: v2, v6, v10, v14],
                    [3: v3, v7, v11, v15]
                );
                mix_four!(
                    $r,
                    [4: v0, v5, v10, v15],
                    [5: v1, v6, v11, v12],
                    [6: v2, v7, v8, v13],
                    [7: v3, v4, v9, v14]
                );
            }
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

    [v0, v1, v2, v3, v4, v5, v6, v7, v8, v9, v10, v11, v12, v13, v14, v15]
}
