//! The names by which users and the far end ask for digests.

use bdsync_hash::{Algorithm, Checksum};

#[test]
fn names_are_read_in_any_case() {
    for &algorithm in Algorithm::ALL {
        let name = algorithm.name();
        assert_eq!(name.parse(), Ok(algorithm));
        assert_eq!(name.to_uppercase().parse(), Ok(algorithm));
        assert_eq!(algorithm.to_string(), name);
    }
}

#[test]
fn openssl_aliases_are_read() {
    let aliases = [
        ("RSA-MD5", Algorithm::Md5),
        ("ssl3-md5", Algorithm::Md5),
        ("md5WithRSAEncryption", Algorithm::Md5),
        ("1.2.840.113549.2.5", Algorithm::Md5),
        ("SHA-1", Algorithm::Sha1),
        ("ssl3-sha1", Algorithm::Sha1),
        ("RSA-SHA1-2", Algorithm::Sha1),
        ("SHA2-256", Algorithm::Sha256),
        ("SHA-256", Algorithm::Sha256),
        ("RSA-SHA256", Algorithm::Sha256),
        ("SHA-512/224", Algorithm::Sha512_224),
        ("SHA-512/256", Algorithm::Sha512_256),
        ("SHA2-512/256", Algorithm::Sha512_256),
        ("RSA-SHA512/256", Algorithm::Sha512_256),
        ("id-rsassa-pkcs1-v1_5-with-sha3-384", Algorithm::Sha3_384),
        ("SHAKE-128", Algorithm::Shake128),
        ("BLAKE2B-512", Algorithm::Blake2b512),
        ("BLAKE2s-256", Algorithm::Blake2s256),
        ("ripemd", Algorithm::Ripemd160),
        ("rmd160", Algorithm::Ripemd160),
        ("RIPEMD-160", Algorithm::Ripemd160),
        ("ripemd160WithRSA", Algorithm::Ripemd160),
        ("RSA-SM3", Algorithm::Sm3),
    ];
    for (alias, algorithm) in aliases {
        assert_eq!(alias.parse(), Ok(algorithm), "{alias}");
    }
}

#[test]
fn no_name_means_two_algorithms() {
    let mut names: Vec<_> =
        Algorithm::ALL.iter().flat_map(|a| std::iter::once(a.name()).chain(a.aliases().iter().copied())).collect();
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count);
    assert!(names.iter().all(|name| *name == name.to_lowercase()));
}

#[test]
fn an_unknown_name_is_told_with_the_known_ones() {
    for name in ["foo", "", "md5 ", "md4", "whirlpool", "blake2b", "sha"] {
        let error = name.parse::<Algorithm>().unwrap_err();
        assert_eq!(error.name(), name);
        let message = error.to_string();
        let start = format!("Unknown digest \"{name}\"; known digests: md5, sha1, sha224, ");
        assert!(message.starts_with(&start), "{message}");
        assert!(message.ends_with(", sm3, md5-sha1"), "{message}");
    }
}

#[test]
fn digests_are_as_long_as_promised() {
    for &algorithm in Algorithm::ALL {
        let digest = Checksum::new(algorithm).finish();
        assert_eq!(digest.len(), algorithm.digest_size(), "{algorithm}");
    }
}
