//! Which digests there are, and every name OpenSSL knows them by.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// A digest algorithm, as OpenSSL's default provider offers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// MD5, 16 bytes; the protocol's default.
    Md5,
    /// SHA-1, 20 bytes.
    Sha1,
    /// SHA-224, 28 bytes.
    Sha224,
    /// SHA-256, 32 bytes.
    Sha256,
    /// SHA-384, 48 bytes.
    Sha384,
    /// SHA-512, 64 bytes.
    Sha512,
    /// SHA-512/224, 28 bytes.
    Sha512_224,
    /// SHA-512/256, 32 bytes.
    Sha512_256,
    /// SHA3-224, 28 bytes.
    Sha3_224,
    /// SHA3-256, 32 bytes.
    Sha3_256,
    /// SHA3-384, 48 bytes.
    Sha3_384,
    /// SHA3-512, 64 bytes.
    Sha3_512,
    /// SHAKE128 with OpenSSL's default output of 16 bytes.
    Shake128,
    /// SHAKE256 with OpenSSL's default output of 32 bytes.
    Shake256,
    /// Unkeyed BLAKE2b with 64 bytes of output.
    Blake2b512,
    /// Unkeyed BLAKE2s with 32 bytes of output.
    Blake2s256,
    /// RIPEMD-160, 20 bytes.
    Ripemd160,
    /// SM3, 32 bytes.
    Sm3,
    /// MD5 followed by SHA-1 of the same input, 36 bytes.
    Md5Sha1,
}

/// A digest name that is none of those this crate knows.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("Unknown digest \"{name}\"; known digests: {}", KnownNames)]
pub struct UnknownDigest {
    name: String,
}

impl UnknownDigest {
    /// The name that was asked for.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Algorithm {
    /// All algorithms, in the order in which they are listed to users.
    pub const ALL: &'static [Algorithm] = &[
        Algorithm::Md5,
        Algorithm::Sha1,
        Algorithm::Sha224,
        Algorithm::Sha256,
        Algorithm::Sha384,
        Algorithm::Sha512,
        Algorithm::Sha512_224,
        Algorithm::Sha512_256,
        Algorithm::Sha3_224,
        Algorithm::Sha3_256,
        Algorithm::Sha3_384,
        Algorithm::Sha3_512,
        Algorithm::Shake128,
        Algorithm::Shake256,
        Algorithm::Blake2b512,
        Algorithm::Blake2s256,
        Algorithm::Ripemd160,
        Algorithm::Sm3,
        Algorithm::Md5Sha1,
    ];

    /// OpenSSL's name of the digest, in lower case.
    pub fn name(self) -> &'static str {
        match self {
            Algorithm::Md5 => "md5",
            Algorithm::Sha1 => "sha1",
            Algorithm::Sha224 => "sha224",
            Algorithm::Sha256 => "sha256",
            Algorithm::Sha384 => "sha384",
            Algorithm::Sha512 => "sha512",
            Algorithm::Sha512_224 => "sha512-224",
            Algorithm::Sha512_256 => "sha512-256",
            Algorithm::Sha3_224 => "sha3-224",
            Algorithm::Sha3_256 => "sha3-256",
            Algorithm::Sha3_384 => "sha3-384",
            Algorithm::Sha3_512 => "sha3-512",
            Algorithm::Shake128 => "shake128",
            Algorithm::Shake256 => "shake256",
            Algorithm::Blake2b512 => "blake2b512",
            Algorithm::Blake2s256 => "blake2s256",
            Algorithm::Ripemd160 => "ripemd160",
            Algorithm::Sm3 => "sm3",
            Algorithm::Md5Sha1 => "md5-sha1",
        }
    }

    /// The other names OpenSSL accepts, in lower case: spellings with a hyphen,
    /// names of signature schemes that use the digest, and object identifiers.
    pub fn aliases(self) -> &'static [&'static str] {
        match self {
            Algorithm::Md5 => &["ssl3-md5", "rsa-md5", "md5withrsaencryption", "1.2.840.113549.2.5"],
            Algorithm::Sha1 => &[
                "sha-1",
                "ssl3-sha1",
                "rsa-sha1",
                "rsa-sha1-2",
                "sha1withrsa",
                "sha1withrsaencryption",
                "1.3.14.3.2.26",
            ],
            Algorithm::Sha224 => {
                &["sha-224", "sha2-224", "rsa-sha224", "sha224withrsaencryption", "2.16.840.1.101.3.4.2.4"]
            }
            Algorithm::Sha256 => {
                &["sha-256", "sha2-256", "rsa-sha256", "sha256withrsaencryption", "2.16.840.1.101.3.4.2.1"]
            }
            Algorithm::Sha384 => {
                &["sha-384", "sha2-384", "rsa-sha384", "sha384withrsaencryption", "2.16.840.1.101.3.4.2.2"]
            }
            Algorithm::Sha512 => {
                &["sha-512", "sha2-512", "rsa-sha512", "sha512withrsaencryption", "2.16.840.1.101.3.4.2.3"]
            }
            Algorithm::Sha512_224 => &[
                "sha-512/224",
                "sha2-512/224",
                "rsa-sha512/224",
                "sha512-224withrsaencryption",
                "2.16.840.1.101.3.4.2.5",
            ],
            Algorithm::Sha512_256 => &[
                "sha-512/256",
                "sha2-512/256",
                "rsa-sha512/256",
                "sha512-256withrsaencryption",
                "2.16.840.1.101.3.4.2.6",
            ],
            Algorithm::Sha3_224 => &["rsa-sha3-224", "id-rsassa-pkcs1-v1_5-with-sha3-224", "2.16.840.1.101.3.4.2.7"],
            Algorithm::Sha3_256 => &["rsa-sha3-256", "id-rsassa-pkcs1-v1_5-with-sha3-256", "2.16.840.1.101.3.4.2.8"],
            Algorithm::Sha3_384 => &["rsa-sha3-384", "id-rsassa-pkcs1-v1_5-with-sha3-384", "2.16.840.1.101.3.4.2.9"],
            Algorithm::Sha3_512 => &["rsa-sha3-512", "id-rsassa-pkcs1-v1_5-with-sha3-512", "2.16.840.1.101.3.4.2.10"],
            Algorithm::Shake128 => &["shake-128", "2.16.840.1.101.3.4.2.11"],
            Algorithm::Shake256 => &["shake-256", "2.16.840.1.101.3.4.2.12"],
            Algorithm::Blake2b512 => &["blake2b-512", "1.3.6.1.4.1.1722.12.2.1.16"],
            Algorithm::Blake2s256 => &["blake2s-256", "1.3.6.1.4.1.1722.12.2.2.8"],
            Algorithm::Ripemd160 => {
                &["ripemd", "ripemd-160", "rmd160", "rsa-ripemd160", "ripemd160withrsa", "1.3.36.3.2.1"]
            }
            Algorithm::Sm3 => &["rsa-sm3", "sm3withrsaencryption", "1.2.156.10197.1.401"],
            Algorithm::Md5Sha1 => &[],
        }
    }

    /// Length of the digest in bytes.
    pub fn digest_size(self) -> usize {
        match self {
            Algorithm::Md5 | Algorithm::Shake128 => 16,
            Algorithm::Sha1 | Algorithm::Ripemd160 => 20,
            Algorithm::Sha224 | Algorithm::Sha512_224 | Algorithm::Sha3_224 => 28,
            Algorithm::Sha256
            | Algorithm::Sha512_256
            | Algorithm::Sha3_256
            | Algorithm::Shake256
            | Algorithm::Blake2s256
            | Algorithm::Sm3 => 32,
            Algorithm::Md5Sha1 => 36,
            Algorithm::Sha384 | Algorithm::Sha3_384 => 48,
            Algorithm::Sha512 | Algorithm::Sha3_512 | Algorithm::Blake2b512 => 64,
        }
    }
}

impl FromStr for Algorithm {
    type Err = UnknownDigest;

    /// Accepts every name OpenSSL does, without regard to case.
    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let is_named = |known: &&str| known.eq_ignore_ascii_case(name);
        Algorithm::ALL
            .iter()
            .copied()
            .find(|algorithm| is_named(&algorithm.name()) || algorithm.aliases().iter().any(is_named))
            .ok_or_else(|| UnknownDigest { name: name.to_owned() })
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Writes the known names, separated by commas.
struct KnownNames;

impl fmt::Display for KnownNames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, algorithm) in Algorithm::ALL.iter().enumerate() {
            if i > 0 {
                f.write_str(", ")?;
            }
            f.write_str(algorithm.name())?;
        }
        Ok(())
    }
}
