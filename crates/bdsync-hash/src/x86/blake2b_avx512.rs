//! BLAKE2b for two groups of lanes in AVX-512 registers.
//!
//! What a compression works with takes 16 registers in each group, which makes all
//! that there are; the message stays in memory, where additions take it from at no
//! cost. Each instruction writes where it reads, so that nothing else is needed.
//! Compilers do not find that: they load words of the message and spill what is in
//! their way, and keep four fifths of the processor's vector units busy. Taken in
//! turn, the two groups fill more than nine tenths.
//!
//! The vector instructions are not two in a cycle, where the processor takes in six.
//! The rest is free for reading the next block: word by word through a general
//! register, which puts it where its lane is in the message, so that no vector
//! instruction is spent on that, and what comes from afar has time to come.

use std::arch::asm;
use std::mem::MaybeUninit;

use super::avx512::Avx512;
use super::beside::Beside;
use super::blake2::{Mixing, with_order};
use super::words::Words;

type V = <Avx512 as Words<u64, 8>>::V;

/// Lanes of both groups.
const LANES: usize = 16;

/// The words of a block: word, lane.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
struct Block([[u64; LANES]; 16]);

/// The block that is mixed in, and room for the next one.
pub(super) struct Message {
    blocks: [MaybeUninit<Block>; 2],
    current: usize,
}

/// Copies a word of the next block, if one of a lane is to be copied.
macro_rules! copy {
    ([], $($word:tt)*) => {
        ""
    };
    ([$lane:literal: $first:literal], $word:literal $(+ $more:literal)?) => {
        concat!(
            "mov {word}, qword ptr [{lane} + {next} + 8 * (", $first, " + ", $word, $(" + ", $more,)? ")]\n",
            "mov qword ptr [{n} + 128 * (", $first, " + ", $word, $(" + ", $more,)? ") + 8 * ", $lane, "], {word}\n",
        )
    };
}

/// Half of a mixing of four columns or diagonals: for each, the registers of both
/// groups, and the word of the message. Before that is how far to rotate to the
/// right, and which words of which lane of the next block to copy meanwhile.
macro_rules! half {
    (
        $d_turn:literal, $b_turn:literal, $from:tt,
        $([$a:literal $b:literal $c:literal $d:literal | $a2:literal $b2:literal $c2:literal $d2:literal]
          $m:literal $copy:literal)*
    ) => {
        concat!(
            $(
                "vpaddq zmm", $a, ", zmm", $a, ", zmmword ptr [{m} + 128 * ", $m, "]\n",
                "vpaddq zmm", $a2, ", zmm", $a2, ", zmmword ptr [{m} + 128 * ", $m, " + 64]\n",
                copy!($from, $copy),
            )*
            $(
                "vpaddq zmm", $a, ", zmm", $a, ", zmm", $b, "\n",
                "vpaddq zmm", $a2, ", zmm", $a2, ", zmm", $b2, "\n",
            )*
            $(
                "vpxorq zmm", $d, ", zmm", $d, ", zmm", $a, "\n",
                "vpxorq zmm", $d2, ", zmm", $d2, ", zmm", $a2, "\n",
                "vprorq zmm", $d, ", zmm", $d, ", ", $d_turn, "\n",
                "vprorq zmm", $d2, ", zmm", $d2, ", ", $d_turn, "\n",
                copy!($from, $copy + 4),
            )*
            $(
                "vpaddq zmm", $c, ", zmm", $c, ", zmm", $d, "\n",
                "vpaddq zmm", $c2, ", zmm", $c2, ", zmm", $d2, "\n",
            )*
            $(
                "vpxorq zmm", $b, ", zmm", $b, ", zmm", $c, "\n",
                "vpxorq zmm", $b2, ", zmm", $b2, ", zmm", $c2, "\n",
                "vprorq zmm", $b, ", zmm", $b, ", ", $b_turn, "\n",
                "vprorq zmm", $b2, ", zmm", $b2, ", ", $b_turn, "\n",
            )*
        )
    };
}

macro_rules! columns {
    (
        $d:literal, $b:literal, $from:tt,
        $m0:literal $m1:literal $m2:literal $m3:literal
    ) => {
        half!(
            $d, $b, $from,
            [0 4 8 12 | 16 20 24 28] $m0 0
            [1 5 9 13 | 17 21 25 29] $m1 1
            [2 6 10 14 | 18 22 26 30] $m2 2
            [3 7 11 15 | 19 23 27 31] $m3 3
        )
    };
}

macro_rules! diagonals {
    (
        $d:literal, $b:literal, $from:tt,
        $m0:literal $m1:literal $m2:literal $m3:literal
    ) => {
        half!(
            $d, $b, $from,
            [0 5 10 15 | 16 21 26 31] $m0 0
            [1 6 11 12 | 17 22 27 28] $m1 1
            [2 7 8 13 | 18 23 24 29] $m2 2
            [3 4 9 14 | 19 20 25 30] $m3 3
        )
    };
}

/// A round, with the words of the message that it takes, and two lanes of the next
/// block to copy.
macro_rules! round {
    ([
        $m0:literal $m1:literal $m2:literal $m3:literal $m4:literal $m5:literal $m6:literal $m7:literal
        $m8:literal $m9:literal $m10:literal $m11:literal $m12:literal $m13:literal $m14:literal $m15:literal
    ] $($first:literal $second:literal)?) => {
        concat!(
            $("mov {lane}, qword ptr [{lanes} + 8 * ", $first, "]\n",)?
            columns!(32, 24, [$($first: 0)?], $m0 $m2 $m4 $m6),
            columns!(16, 63, [$($first: 8)?], $m1 $m3 $m5 $m7),
            $("mov {lane}, qword ptr [{lanes} + 8 * ", $second, "]\n",)?
            diagonals!(32, 24, [$($second: 0)?], $m8 $m10 $m12 $m14),
            diagonals!(16, 63, [$($second: 8)?], $m9 $m11 $m13 $m15),
        )
    };
}

/// The twelve rounds, of which the last two are like the first two.
macro_rules! rounds {
    ($r0:tt $r1:tt $r2:tt $r3:tt $r4:tt $r5:tt $r6:tt $r7:tt $r8:tt $r9:tt) => {
        concat!(
            round!($r0 0 1), round!($r1 2 3), round!($r2 4 5), round!($r3 6 7),
            round!($r4 8 9), round!($r5 10 11), round!($r6 12 13), round!($r7 14 15),
            round!($r8), round!($r9), round!($r0), round!($r1),
        )
    };
}

impl Mixing<u64, LANES> for Beside<Avx512, Avx512> {
    type Message = Message;

    #[inline(always)]
    unsafe fn first(self, lanes: &[*const u8; LANES]) -> Message {
        // SAFETY: the caller's promise.
        let words: [(V, V); 16] = unsafe { self.read(lanes, 0) };
        let mut block = Block([[0; LANES]; 16]);
        self.store_all(&mut block.0, words);
        Message { blocks: [MaybeUninit::new(block), MaybeUninit::uninit()], current: 0 }
    }

    #[inline(always)]
    unsafe fn mix(
        self,
        v: [(V, V); 16],
        message: &mut Message,
        lanes: &[*const u8; LANES],
        next: Option<usize>,
    ) -> [(V, V); 16] {
        let [first, second] = &mut message.blocks;
        let (current, other) = if message.current == 0 { (first, second) } else { (second, first) };
        message.current ^= 1;
        // Where there is no next block, the first one is read once more.
        let offset = next.unwrap_or(0);
        // SAFETY: there is a `self` only where the processor has AVX-512. `first` fills
        // the first block, and this the one that is next in turn. The rest is the
        // caller's promise.
        unsafe { mix(v, current.assume_init_ref(), other, lanes, offset) }
    }
}

/// Fills `next` with the block that is `offset` bytes behind each pointer.
///
/// # Safety
///
/// There it is readable.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn mix(
    mut v: [(V, V); 16],
    block: &Block,
    next: &mut MaybeUninit<Block>,
    lanes: &[*const u8; LANES],
    offset: usize,
) -> [(V, V); 16] {
    // SAFETY: `block` and the lanes are read, the next block is written; all registers
    // that change are told.
    unsafe {
        asm!(
            with_order!(rounds),
            m = in(reg) block,
            n = in(reg) next.as_mut_ptr(),
            lanes = in(reg) lanes,
            next = in(reg) offset,
            lane = out(reg) _,
            word = out(reg) _,
            inlateout("zmm0") v[0].0,
            inlateout("zmm1") v[1].0,
            inlateout("zmm2") v[2].0,
            inlateout("zmm3") v[3].0,
            inlateout("zmm4") v[4].0,
            inlateout("zmm5") v[5].0,
            inlateout("zmm6") v[6].0,
            inlateout("zmm7") v[7].0,
            inlateout("zmm8") v[8].0,
            inlateout("zmm9") v[9].0,
            inlateout("zmm10") v[10].0,
            inlateout("zmm11") v[11].0,
            inlateout("zmm12") v[12].0,
            inlateout("zmm13") v[13].0,
            inlateout("zmm14") v[14].0,
            inlateout("zmm15") v[15].0,
            inlateout("zmm16") v[0].1,
            inlateout("zmm17") v[1].1,
            inlateout("zmm18") v[2].1,
            inlateout("zmm19") v[3].1,
            inlateout("zmm20") v[4].1,
            inlateout("zmm21") v[5].1,
            inlateout("zmm22") v[6].1,
            inlateout("zmm23") v[7].1,
            inlateout("zmm24") v[8].1,
            inlateout("zmm25") v[9].1,
            inlateout("zmm26") v[10].1,
            inlateout("zmm27") v[11].1,
            inlateout("zmm28") v[12].1,
            inlateout("zmm29") v[13].1,
            inlateout("zmm30") v[14].1,
            inlateout("zmm31") v[15].1,
            options(nostack, preserves_flags),
        );
    }
    v
}
