//! What several tests share: bytes to hash, and digests to compare with.

#![allow(dead_code, reason = "not every test uses all of it")]

use bdsync_hash::Algorithm;
use digest::{DynDigest, ExtendableOutput, XofReader};

/// Bytes that look random enough, and are the same each time.
pub(crate) fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|i| ((i * i + 7 * i + 3) % 251) as u8).collect()
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The digest of the parts one after another, straight from the crates that
/// implement each algorithm.
pub(crate) fn reference(algorithm: Algorithm, parts: &[&[u8]]) -> Vec<u8> {
    fn of(mut digest: impl DynDigest, parts: &[&[u8]]) -> Vec<u8> {
        parts.iter().for_each(|part| digest.update(part));
        Box::new(digest).finalize().into_vec()
    }
    fn extendable(mut digest: impl ExtendableOutput, parts: &[&[u8]], size: usize) -> Vec<u8> {
        parts.iter().for_each(|part| digest.update(part));
        let mut out = vec![0; size];
        digest.finalize_xof().read(&mut out);
        out
    }
    match algorithm {
        Algorithm::Md5 => of(md5::Md5::default(), parts),
        Algorithm::Sha1 => of(sha1::Sha1::default(), parts),
        Algorithm::Sha224 => of(sha2::Sha224::default(), parts),
        Algorithm::Sha256 => of(sha2::Sha256::default(), parts),
        Algorithm::Sha384 => of(sha2::Sha384::default(), parts),
        Algorithm::Sha512 => of(sha2::Sha512::default(), parts),
        Algorithm::Sha512_224 => of(sha2::Sha512_224::default(), parts),
        Algorithm::Sha512_256 => of(sha2::Sha512_256::default(), parts),
        Algorithm::Sha3_224 => of(sha3::Sha3_224::default(), parts),
        Algorithm::Sha3_256 => of(sha3::Sha3_256::default(), parts),
        Algorithm::Sha3_384 => of(sha3::Sha3_384::default(), parts),
        Algorithm::Sha3_512 => of(sha3::Sha3_512::default(), parts),
        Algorithm::Shake128 => extendable(shake::Shake128::default(), parts, 16),
        Algorithm::Shake256 => extendable(shake::Shake256::default(), parts, 32),
        Algorithm::Blake2b512 => of(blake2::Blake2b512::default(), parts),
        Algorithm::Blake2s256 => of(blake2::Blake2s256::default(), parts),
        Algorithm::Ripemd160 => of(ripemd::Ripemd160::default(), parts),
        Algorithm::Sm3 => of(sm3::Sm3::default(), parts),
        Algorithm::Md5Sha1 => {
            let mut both = reference(Algorithm::Md5, parts);
            both.extend(reference(Algorithm::Sha1, parts));
            both
        }
    }
}
