//! Kernels for x86-64, one file each, and the registers that they are for.

mod avx2;
mod avx512;
mod beside;
mod blake2;
mod blake2b_avx512;
mod chained;
mod keccak;
mod md5;
mod registers;
mod ripemd160;
mod scalar;
mod sha1;
mod sha1_ni;
mod sha2;
mod sha256_ni;
mod sha_ni;
mod sm3;
mod words;

use avx2::Avx2;
use avx512::Avx512;
use beside::Beside;
use blake2::Blake2;
use chained::InRegisters;
use keccak::Keccak;
use md5::Md5;
use ripemd160::Ripemd160;
use scalar::Scalar;
use sha_ni::ShaNi;
use sha1::Sha1;
use sha2::Sha2;
use sm3::Sm3;

use crate::constants::{SHA224_START, SHA256_START, SHA384_START, SHA512_224_START, SHA512_256_START, SHA512_START};
use crate::engine::Engine;
use crate::pair::Pair;
use crate::{Algorithm, Implementation, lanes};

/// The engine of the implementation, if there is one and the machine runs it.
pub(crate) fn engine(implementation: Implementation, algorithm: Algorithm, salt: &[u8]) -> Option<Box<dyn Engine>> {
    match implementation {
        Implementation::Portable => None,
        Implementation::Avx512 => Some(avx512(Avx512::detect()?, algorithm, salt)),
        Implementation::Avx2 => Some(avx2(Avx2::detect()?, algorithm, salt)),
        Implementation::ShaNi => sha_ni(ShaNi::detect()?, algorithm, salt),
    }
}

/// The engine of an algorithm for registers that do all of them. MD5, SHA-512 and
/// BLAKE2b may have more lanes than the registers' own.
macro_rules! wide {
    ($algorithm:ident, $salt:ident, $words:expr, md5: $md5:expr, sha512: $sha512:expr, blake2b: $blake2b:expr, sha1: $sha1:expr) => {{
        let words = $words;
        let sha256 = |start| lanes::engine(InRegisters(Sha2(start), words), $salt);
        let sha512 = |start| lanes::engine(InRegisters(Sha2(start), $sha512), $salt);
        match $algorithm {
            Algorithm::Md5 => lanes::engine(InRegisters(Md5, $md5), $salt),
            Algorithm::Sha1 => lanes::engine(InRegisters(Sha1, words), $salt),
            Algorithm::Sha224 => sha256(&SHA224_START),
            Algorithm::Sha256 => sha256(&SHA256_START),
            Algorithm::Sha384 => sha512(&SHA384_START),
            Algorithm::Sha512 => sha512(&SHA512_START),
            Algorithm::Sha512_224 => sha512(&SHA512_224_START),
            Algorithm::Sha512_256 => sha512(&SHA512_256_START),
            Algorithm::Sha3_224 | Algorithm::Sha3_256 | Algorithm::Sha3_384 | Algorithm::Sha3_512 => {
                lanes::engine(Keccak::sha3(words, $algorithm.digest_size()), $salt)
            }
            Algorithm::Shake128 => lanes::engine(Keccak::shake(words, 16), $salt),
            Algorithm::Shake256 => lanes::engine(Keccak::shake(words, 32), $salt),
            Algorithm::Blake2b512 => lanes::engine(Blake2::b512($blake2b), $salt),
            Algorithm::Blake2s256 => lanes::engine(Blake2::s256(words), $salt),
            Algorithm::Ripemd160 => lanes::engine(InRegisters(Ripemd160, words), $salt),
            Algorithm::Sm3 => lanes::engine(InRegisters(Sm3, words), $salt),
            Algorithm::Md5Sha1 => Box::new(Pair {
                first: lanes::engine(InRegisters(Md5, $md5), $salt),
                second: $sha1,
                first_size: Algorithm::Md5.digest_size(),
            }),
        }
    }};
}

fn avx512(words: Avx512, algorithm: Algorithm, salt: &[u8]) -> Box<dyn Engine> {
    wide!(algorithm, salt, words, md5: words, sha512: words, blake2b: Beside(words, words), sha1: avx512(words, Algorithm::Sha1, salt))
}

fn avx2(words: Avx2, algorithm: Algorithm, salt: &[u8]) -> Box<dyn Engine> {
    let sha1 = || engine(Implementation::ShaNi, Algorithm::Sha1, salt);
    wide!(
        algorithm,
        salt,
        words,
        md5: Beside(words, words),
        sha512: Beside(words, Scalar),
        blake2b: words,
        sha1: sha1().unwrap_or_else(|| avx2(words, Algorithm::Sha1, salt))
    )
}

fn sha_ni(features: ShaNi, algorithm: Algorithm, salt: &[u8]) -> Option<Box<dyn Engine>> {
    Some(match algorithm {
        Algorithm::Sha1 => lanes::engine(sha1_ni::Sha1(features), salt),
        Algorithm::Sha224 => lanes::engine(sha256_ni::Sha256::new(features, &SHA224_START), salt),
        Algorithm::Sha256 => lanes::engine(sha256_ni::Sha256::new(features, &SHA256_START), salt),
        _ => return None,
    })
}
