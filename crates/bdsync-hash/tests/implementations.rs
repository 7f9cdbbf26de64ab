//! Every implementation gives the digests of the reference, however the blocks
//! are cut, salted and filled up.

mod common;

use bdsync_hash::{Algorithm, BlockHasher, Implementation, MAX_SALT, is_zero};
use common::{pattern, reference};
use proptest::prelude::*;

/// Every hasher this machine has for the algorithm.
fn hashers(algorithm: Algorithm, salt: &[u8], block_size: u64) -> Vec<BlockHasher> {
    Implementation::available(algorithm)
        .into_iter()
        .map(|i| BlockHasher::with_implementation(algorithm, salt, block_size, i))
        .collect()
}

/// One digest after another, by the reference.
fn expected(algorithm: Algorithm, salt: &[u8], block_size: usize, data: &[u8]) -> Vec<u8> {
    data.chunks(block_size)
        .flat_map(|block| {
            let missing = vec![0; block_size - block.len()];
            reference(algorithm, &[salt, block, &missing])
        })
        .collect()
}

fn hash(hasher: &BlockHasher, data: &[u8]) -> Vec<u8> {
    let blocks = data.len().div_ceil(hasher.block_size() as usize);
    let mut out = vec![0xaa; blocks * hasher.digest_size()];
    hasher.hash_blocks(data, &mut out);
    out
}

fn any_algorithm() -> impl Strategy<Value = Algorithm> {
    proptest::sample::select(Algorithm::ALL)
}

/// Lengths around the digests' own block sizes, and any others.
fn any_block_size() -> impl Strategy<Value = usize> {
    prop_oneof![
        3 => 1usize..=300,
        2 => (1usize..=64, -2isize..=2).prop_map(|(n, d)| (n * 64).saturating_add_signed(d)),
        1 => 300usize..=9000,
    ]
}

/// A salt, blocks of one size of which some may be zero, and a tail.
#[derive(Debug, Clone)]
struct Case {
    algorithm: Algorithm,
    salt: Vec<u8>,
    block_size: usize,
    data: Vec<u8>,
}

fn any_case() -> impl Strategy<Value = Case> {
    let shape = (any_algorithm(), any_block_size(), 0usize..=40);
    shape.prop_flat_map(|(algorithm, block_size, blocks)| {
        let salt = proptest::collection::vec(any::<u8>(), 0..=MAX_SALT);
        let zero = proptest::collection::vec(proptest::bool::weighted(0.2), blocks);
        let inputs = (salt, zero, 0..block_size, any::<u8>());
        inputs.prop_map(move |(salt, zero, tail, seed)| {
            let mut data = pattern(blocks * block_size + tail);
            for (i, byte) in data.iter_mut().enumerate() {
                *byte = if *zero.get(i / block_size).unwrap_or(&false) {
                    0
                } else {
                    byte.wrapping_mul(7).wrapping_add(seed)
                };
            }
            Case { algorithm, salt, block_size, data }
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn blocks_hash_as_the_reference_does(case in any_case()) {
        let Case { algorithm, salt, block_size, data } = case;
        let expected = expected(algorithm, &salt, block_size, &data);
        for hasher in hashers(algorithm, &salt, block_size as u64) {
            prop_assert_eq!(&hash(&hasher, &data), &expected, "{:?}", hasher);
        }
    }

    #[test]
    fn pieces_hash_as_whole_blocks(
        algorithm in any_algorithm(),
        block_size in any_block_size(),
        blocks in 1usize..=35,
        salt in proptest::collection::vec(any::<u8>(), 0..=MAX_SALT),
        cuts in proptest::collection::vec(0.0..=1.0, 0..6),
        fill in 0.0..=1.0,
    ) {
        let given = (block_size as f64 * fill) as usize;
        let data = pattern(blocks * given);
        let block = |i: usize| &data[i * given..][..given];
        let missing = vec![0; block_size - given];
        let expected: Vec<u8> = (0..blocks)
            .flat_map(|i| reference(algorithm, &[&salt, block(i), &missing]))
            .collect();
        let mut cuts: Vec<_> = cuts.iter().map(|cut| (given as f64 * cut) as usize).collect();
        cuts.extend([0, given]);
        cuts.sort_unstable();

        for hasher in hashers(algorithm, &salt, block_size as u64) {
            let mut running = hasher.interleaved(blocks);
            for cut in cuts.windows(2) {
                let pieces: Vec<_> = (0..blocks).map(|i| &block(i)[cut[0]..cut[1]]).collect();
                running.update(&pieces);
            }
            let mut out = vec![0xaa; expected.len()];
            running.finish(&mut out);
            prop_assert_eq!(&out, &expected, "{:?}", hasher);
        }
    }

    #[test]
    fn only_zero_bytes_are_zero(length in 0usize..5000, start in 0usize..64, at in any::<usize>()) {
        let mut data = vec![0; start + length];
        prop_assert!(is_zero(&data[start..]));
        if length > 0 {
            data[start + at % length] = 1 << (at % 8);
            prop_assert!(!is_zero(&data[start..]));
        }
    }
}

#[test]
fn every_salt_length_fits_every_algorithm() {
    for &algorithm in Algorithm::ALL {
        for salt in 0..=MAX_SALT {
            let salt = &pattern(MAX_SALT)[..salt];
            for block_size in [1, 64, 100, 256] {
                let data = pattern(17 * block_size);
                let expected = expected(algorithm, salt, block_size, &data);
                for hasher in hashers(algorithm, salt, block_size as u64) {
                    assert_eq!(hash(&hasher, &data), expected, "{hasher:?}");
                }
            }
        }
    }
}

#[test]
fn large_blocks_hash_as_the_reference_does() {
    for &algorithm in Algorithm::ALL {
        for block_size in [65_536, 100_003, 1 << 20] {
            let blocks = BlockHasher::new(algorithm, b"", 1).lanes();
            let data = pattern(blocks * block_size - 77);
            let expected = expected(algorithm, b"salt", block_size, &data);
            for hasher in hashers(algorithm, b"salt", block_size as u64) {
                assert_eq!(hash(&hasher, &data), expected, "{hasher:?}");
            }
        }
    }
}

#[test]
fn a_zero_block_hashes_as_zero_bytes_do() {
    for &algorithm in Algorithm::ALL {
        for block_size in [1usize, 100, 4096, 100_000] {
            let expected = reference(algorithm, &[b"salt", &vec![0; block_size]]);
            for hasher in hashers(algorithm, b"salt", block_size as u64) {
                assert_eq!(hasher.zero_digest(), expected, "{hasher:?}");
                assert_eq!(hash(&hasher, &vec![0; 3 * block_size]), expected.repeat(3));
                assert_eq!(hash(&hasher.clone(), &[0]), expected);
            }
        }
    }
}

#[test]
fn no_data_has_no_digests() {
    let hasher = BlockHasher::new(Algorithm::Md5, b"", 4096);
    hasher.hash_blocks(&[], &mut []);
    hasher.interleaved(0).finish(&mut []);
}

#[test]
fn a_block_larger_than_the_data_is_filled_up_with_zeros() {
    let block_size = 5 << 20;
    let expected = reference(Algorithm::Sha256, &[b"x", b"data", &vec![0; block_size - 4]]);
    let hasher = BlockHasher::new(Algorithm::Sha256, b"x", block_size as u64);
    assert_eq!(hash(&hasher, b"data"), expected);
}

#[test]
fn hashers_may_be_shared_between_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<BlockHasher>();
    shared::<bdsync_hash::Interleaved<'static>>();
    shared::<bdsync_hash::Checksum>();
}

#[test]
#[should_panic(expected = "a salt has at most 127 bytes")]
fn a_salt_that_is_too_long_is_refused() {
    BlockHasher::new(Algorithm::Md5, &[0; 128], 1);
}

#[test]
#[should_panic(expected = "a block has at least one byte")]
fn a_block_size_of_zero_is_refused() {
    BlockHasher::new(Algorithm::Md5, b"", 0);
}

#[test]
#[should_panic(expected = "room for 2 digests of 16 bytes")]
fn room_for_too_few_digests_is_refused() {
    BlockHasher::new(Algorithm::Md5, b"", 10).hash_blocks(&[1; 20], &mut [0; 31]);
}

#[test]
#[should_panic(expected = "a block ends at the block size")]
fn a_piece_past_the_end_of_the_block_is_refused() {
    let hasher = BlockHasher::new(Algorithm::Md5, b"", 10);
    let mut running = hasher.interleaved(1);
    running.update(&[&[1; 8]]);
    running.update(&[&[1; 3]]);
}
