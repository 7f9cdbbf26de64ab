//! Kernels for x86-64, one file each.

mod blake2b;
mod blake2s;
mod keccak;
mod md5;
mod ripemd160;
mod sha1;
mod sha256;
mod sha512;
mod sm3;
mod vector;

use crate::constants::{SHA224_START, SHA256_START, SHA384_START, SHA512_224_START, SHA512_256_START, SHA512_START};
use crate::engine::Engine;
use crate::pair::Pair;
use crate::{Algorithm, Implementation, lanes, portable};

/// The engine of the implementation, if there is one and the machine runs it.
pub(crate) fn engine(implementation: Implementation, algorithm: Algorithm, salt: &[u8]) -> Option<Box<dyn Engine>> {
    match implementation {
        Implementation::Portable => None,
        Implementation::Avx2 => avx2(algorithm, salt),
        Implementation::ShaNi => sha_ni(algorithm, salt),
    }
}

fn avx2(algorithm: Algorithm, salt: &[u8]) -> Option<Box<dyn Engine>> {
    // Every processor with AVX2 has the bit manipulations too.
    if !(is_x86_feature_detected!("avx2") && is_x86_feature_detected!("bmi1") && is_x86_feature_detected!("bmi2")) {
        return None;
    }
    let size = algorithm.digest_size();
    // SAFETY: the processor has AVX2, BMI1 and BMI2.
    unsafe {
        Some(match algorithm {
            Algorithm::Md5 => lanes::engine(md5::Md5::new(), size, salt),
            Algorithm::Blake2b512 => lanes::engine(blake2b::Blake2b512::new(), size, salt),
            Algorithm::Blake2s256 => lanes::engine(blake2s::Blake2s256::new(), size, salt),
            Algorithm::Ripemd160 => lanes::engine(ripemd160::Ripemd160::new(), size, salt),
            Algorithm::Sm3 => lanes::engine(sm3::Sm3::new(), size, salt),
            Algorithm::Sha384 => lanes::engine(sha512::Sha512::new(&SHA384_START), size, salt),
            Algorithm::Sha512 => lanes::engine(sha512::Sha512::new(&SHA512_START), size, salt),
            Algorithm::Sha512_224 => lanes::engine(sha512::Sha512::new(&SHA512_224_START), size, salt),
            Algorithm::Sha512_256 => lanes::engine(sha512::Sha512::new(&SHA512_256_START), size, salt),
            Algorithm::Sha3_224 | Algorithm::Sha3_256 | Algorithm::Sha3_384 | Algorithm::Sha3_512 => {
                lanes::engine(keccak::Keccak::sha3(size), size, salt)
            }
            Algorithm::Shake128 => lanes::engine(keccak::Keccak::shake(16), size, salt),
            Algorithm::Shake256 => lanes::engine(keccak::Keccak::shake(32), size, salt),
            Algorithm::Sha1 | Algorithm::Sha224 | Algorithm::Sha256 => return None,
            Algorithm::Md5Sha1 => Box::new(Pair {
                first: lanes::engine(md5::Md5::new(), Algorithm::Md5.digest_size(), salt),
                second: sha_ni(Algorithm::Sha1, salt).unwrap_or_else(|| portable::engine(Algorithm::Sha1, salt)),
                digest_sizes: [Algorithm::Md5, Algorithm::Sha1].map(Algorithm::digest_size),
            }),
        })
    }
}

fn sha_ni(algorithm: Algorithm, salt: &[u8]) -> Option<Box<dyn Engine>> {
    // AVX for its instructions with three operands, which save many copies.
    if !(is_x86_feature_detected!("sha") && is_x86_feature_detected!("avx")) {
        return None;
    }
    let size = algorithm.digest_size();
    // SAFETY: the processor has SHA-NI and AVX.
    unsafe {
        Some(match algorithm {
            Algorithm::Sha1 => lanes::engine(sha1::Sha1::new(), size, salt),
            Algorithm::Sha224 => lanes::engine(sha256::Sha256::new(&SHA224_START), size, salt),
            Algorithm::Sha256 => lanes::engine(sha256::Sha256::new(&SHA256_START), size, salt),
            _ => return None,
        })
    }
}
