//! What all vector registers have in common, whatever their width.

/// Makes [`Vectors`](super::words::Vectors) and [`Words`](super::words::Words) of
/// a module's functions for the processor: one for each operation, which is named
/// after it and the bits of a word, `rotl32`; and `load_row`, which fills a
/// register with 16 bytes of each of some lanes. In braces are operations that
/// are better done otherwise than `Words` has them.
macro_rules! registers {
    (
        $name:ident = $count:literal of $v:ident with $features:literal,
        u32 in $lanes32:literal lanes { $($more32:tt)* },
        u64 in $lanes64:literal lanes { $($more64:tt)* }
    ) => {
        impl Vectors for $name {
            const REGISTERS: usize = $count;

            #[inline]
            unsafe fn enter<K: Rounds<LANES>, const LANES: usize>(
                self,
                kernel: &K,
                state: &mut K::State,
                parts: &[Part<LANES>],
            ) {
                #[target_feature(enable = $features)]
                unsafe fn with_features<K: Rounds<LANES>, const LANES: usize>(
                    kernel: &K,
                    state: &mut K::State,
                    parts: &[Part<LANES>],
                ) {
                    // SAFETY: the caller's promise.
                    unsafe { kernel.rounds(state, parts) }
                }
                // SAFETY: there is a `self` only where the processor has the features;
                // the rest is the caller's promise.
                unsafe { with_features(kernel, state, parts) }
            }
        }

        impl Words<u32, $lanes32> for $name {
            $crate::x86::registers::operations! {
                $v, u32, $lanes32,
                all(word: u32) = all32;
                swap_bytes(x: $v) = swap_bytes32;
                add(a: $v, b: $v) = add32;
                sub(a: $v, b: $v) = sub32;
                xor(a: $v, b: $v) = xor;
                xor3(a: $v, b: $v, c: $v) = xor3;
                xor_without(a: $v, b: $v, c: $v) = xor_without;
                select(mask: $v, yes: $v, no: $v) = select;
                add_select(sum: $v, mask: $v, yes: $v, no: $v) = add_select32;
                majority(a: $v, b: $v, c: $v) = majority;
                shr(x: $v, bits: u32) = shr32;
                rotl(x: $v, bits: u32) = rotl32;
                $($more32)*
            }

            #[inline(always)]
            unsafe fn read<const N: usize>(self, lanes: &[*const u8; $lanes32], offset: usize) -> [$v; N] {
                const { assert!(N.is_multiple_of(4)) };
                let mut words = [self.all(0_u32); N];
                for (i, words) in words.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                    // SAFETY: there is a `self` only where the processor has the features;
                    // the rest is the caller's promise.
                    *words = unsafe { read_four_words32(lanes, offset + 16 * i) };
                }
                words
            }
        }

        impl Words<u64, $lanes64> for $name {
            $crate::x86::registers::operations! {
                $v, u64, $lanes64,
                all(word: u64) = all64;
                swap_bytes(x: $v) = swap_bytes64;
                add(a: $v, b: $v) = add64;
                sub(a: $v, b: $v) = sub64;
                xor(a: $v, b: $v) = xor;
                xor3(a: $v, b: $v, c: $v) = xor3;
                xor_without(a: $v, b: $v, c: $v) = xor_without;
                select(mask: $v, yes: $v, no: $v) = select;
                add_select(sum: $v, mask: $v, yes: $v, no: $v) = add_select64;
                majority(a: $v, b: $v, c: $v) = majority;
                shr(x: $v, bits: u32) = shr64;
                rotl(x: $v, bits: u32) = rotl64;
                $($more64)*
            }

            #[inline(always)]
            unsafe fn read<const N: usize>(self, lanes: &[*const u8; $lanes64], offset: usize) -> [$v; N] {
                const { assert!(N == 1 || N.is_multiple_of(2)) };
                let mut words = [self.all(0_u64); N];
                if N == 1 {
                    // SAFETY: the caller's promise.
                    words[0] = self.load(&lanes.map(|lane| unsafe { lane.add(offset).cast::<u64>().read_unaligned() }));
                }
                for (i, words) in words.as_chunks_mut::<2>().0.iter_mut().enumerate() {
                    // SAFETY: there is a `self` only where the processor has the features;
                    // the rest is the caller's promise.
                    *words = unsafe { read_two_words64(lanes, offset + 16 * i) };
                }
                words
            }
        }

        /// Reads four words of 32 bits of each lane.
        ///
        /// # Safety
        ///
        /// From `offset` on, 16 bytes behind each pointer are readable.
        #[inline]
        #[target_feature(enable = $features)]
        unsafe fn read_four_words32(lanes: &[*const u8; $lanes32], offset: usize) -> [$v; 4] {
            // SAFETY: the caller's promise.
            let rows: [$v; 4] = std::array::from_fn(|first| unsafe { load_row(lanes, first, 4, offset) });
            let (low01, high01) = (zip_low32(rows[0], rows[1]), zip_high32(rows[0], rows[1]));
            let (low23, high23) = (zip_low32(rows[2], rows[3]), zip_high32(rows[2], rows[3]));
            [zip_low64(low01, low23), zip_high64(low01, low23), zip_low64(high01, high23), zip_high64(high01, high23)]
        }

        /// Reads two words of 64 bits of each lane.
        ///
        /// # Safety
        ///
        /// From `offset` on, 16 bytes behind each pointer are readable.
        #[inline]
        #[target_feature(enable = $features)]
        unsafe fn read_two_words64(lanes: &[*const u8; $lanes64], offset: usize) -> [$v; 2] {
            // SAFETY: the caller's promise.
            let (even, odd) = unsafe { (load_row(lanes, 0, 2, offset), load_row(lanes, 1, 2, offset)) };
            [zip_low64(even, odd), zip_high64(even, odd)]
        }
    };
}
pub(super) use registers;

/// The operations of [`Words`](super::words::Words) that are a function each, and
/// those that all registers do alike.
macro_rules! operations {
    (
        $v:ident, $word:ident, $lanes:literal,
        $($name:ident($($argument:ident: $type:ident),*) = $function:ident;)*
    ) => {
        type V = $v;

        #[inline(always)]
        fn load(self, words: &[$word; $lanes]) -> $v {
            // SAFETY: they have one length, and any bits are numbers.
            unsafe { std::mem::transmute(*words) }
        }

        #[inline(always)]
        fn store(self, value: $v) -> [$word; $lanes] {
            // SAFETY: they have one length, and any bits are numbers.
            unsafe { std::mem::transmute(value) }
        }

        $(
            #[inline(always)]
            fn $name(self, $($argument: $type),*) -> $v {
                // SAFETY: there is a `self` only where the processor has the features.
                unsafe { $function($($argument),*) }
            }
        )*
    };
}
pub(super) use operations;
