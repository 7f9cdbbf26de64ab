//! Every name of a digest that stock knows is known here, in any case.

use bdsync_tests::patch::Patch;
use bdsync_tests::wire::{self, kind};
use bdsync_tests::{Recipe, WorkDir};

/// Names of one digest, and its length in bytes.
const DIGESTS: &[(&[&str], usize)] = &[
    (&["md5", "MD5", "Md5", "ssl3-md5", "SSL3-MD5", "RSA-MD5", "md5WithRSAEncryption", "1.2.840.113549.2.5"], 16),
    (&["sha1", "SHA1", "sha-1", "SHA-1", "ssl3-sha1", "SSL3-SHA1", "RSA-SHA1", "sha1WithRSAEncryption"], 20),
    (&["sha224", "SHA224", "sha-224", "SHA2-224", "RSA-SHA224", "sha224WithRSAEncryption"], 28),
    (&["sha256", "SHA256", "Sha256", "sha-256", "SHA2-256", "rsa-sha256", "sha256WithRSAEncryption"], 32),
    (&["sha384", "SHA384", "sha-384", "SHA2-384", "RSA-SHA384", "sha384WithRSAEncryption"], 48),
    (&["sha512", "SHA512", "sha-512", "SHA2-512", "RSA-SHA512", "sha512WithRSAEncryption"], 64),
    (&["sha512-224", "SHA512-224", "SHA-512/224", "sha2-512/224", "RSA-SHA512/224"], 28),
    (&["sha512-256", "SHA512-256", "SHA-512/256", "sha2-512/256", "RSA-SHA512/256"], 32),
    (&["sha3-224", "SHA3-224", "RSA-SHA3-224", "id-rsassa-pkcs1-v1_5-with-sha3-224"], 28),
    (&["sha3-256", "SHA3-256", "RSA-SHA3-256", "id-rsassa-pkcs1-v1_5-with-sha3-256"], 32),
    (&["sha3-384", "SHA3-384", "Sha3-384", "RSA-SHA3-384", "id-rsassa-pkcs1-v1_5-with-sha3-384"], 48),
    (&["sha3-512", "SHA3-512", "RSA-SHA3-512", "id-rsassa-pkcs1-v1_5-with-sha3-512"], 64),
    (&["shake128", "SHAKE128", "shake-128", "SHAKE-128"], 16),
    (&["shake256", "SHAKE256", "shake-256", "SHAKE-256"], 32),
    (&["blake2b512", "BLAKE2b512", "BLAKE2B512", "blake2b-512", "BLAKE2B-512"], 64),
    (&["blake2s256", "BLAKE2s256", "BLAKE2S256", "blake2s-256", "BLAKE2S-256"], 32),
    (&["ripemd160", "RIPEMD160", "ripemd", "RIPEMD", "rmd160", "RMD160", "ripemd-160", "RSA-RIPEMD160"], 20),
    (&["sm3", "SM3", "Sm3", "RSA-SM3", "sm3WithRSAEncryption"], 32),
    (&["md5-sha1", "MD5-SHA1", "Md5-Sha1"], 36),
];

/// Empty input, which anyone can look up, by the first name of each digest that has a well-known value.
const OF_NOTHING: &[(&str, &str)] = &[
    ("md5", "d41d8cd98f00b204e9800998ecf8427e"),
    ("sha1", "da39a3ee5e6b4b0d3255bfef95601890afd80709"),
    ("sha224", "d14a028c2a3a2bc9476102bb288234c415a2b01f828ea62ac5b3e42f"),
    ("sha256", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
    ("sha512-224", "6ed0dd02806fa89e25de060c19d3ac86cabb87d6a0ddd05c333b84f4"),
    ("sha512-256", "c672b8d1ef56ed28ab87c3622c5114069bdd3ad7b8f9737498d0c01ecef0967a"),
    ("sha3-224", "6b4e03423667dbb73b6e15454f0eb1abd4597f9a1b078e3f5b5a6bc7"),
    ("sha3-256", "a7ffc6f8bf1ed76651c14756a061d662f580ff4de43b49fa82d80a4b80f8434a"),
    ("shake128", "7f9c2ba4e88f827d616045507605853e"),
    ("shake256", "46b9dd2b0ba88d13233b3feb743eeb243fcd52ea62b81b82b50c27646ed5762f"),
    ("blake2s256", "69217a3079908094e11121d042354a7c1f55b6482ca1a51e1b250dfd1ed0eef9"),
    ("ripemd160", "9c1185a5c5e9fc54612808977ee8f548b2258d31"),
    ("sm3", "1ab21d8355cfa17f8e61194831e81a8f22bec8c728fefb747ed035eb5082aa2b"),
    ("md5-sha1", "d41d8cd98f00b204e9800998ecf8427eda39a3ee5e6b4b0d3255bfef95601890afd80709"),
];

fn every_name() -> impl Iterator<Item = (&'static str, usize)> {
    DIGESTS.iter().flat_map(|(names, size)| names.iter().map(|name| (*name, *size)))
}

fn images() -> WorkDir {
    let dir = WorkDir::new();
    let mut image = Recipe::random(9000, 3).build();
    dir.write("target.img", &image);
    image[8999] ^= 1;
    dir.write("source.img", &image);
    dir
}

#[test]
fn a_client_takes_every_name_as_hash() {
    let dir = images();
    for (name, _) in every_name() {
        let outcome = dir.client([format!("--hash={name}").as_str()], "source.img", "target.img").run();
        outcome.exits(0).says("");
        let patch = Patch::parse(&outcome.stdout).expect("a complete patch");
        assert_eq!(patch.records.len(), 1, "{name}: {outcome}");
    }
}

#[test]
fn a_client_takes_every_name_as_checksum_and_writes_it_as_given() {
    let dir = images();
    for (name, size) in every_name() {
        let outcome = dir.client([format!("--checksum={name}").as_str()], "source.img", "target.img").run();
        outcome.exits(0).says("");
        let patch = Patch::parse(&outcome.stdout).expect("a complete patch");
        let (written, value) = patch.checksum.expect("a checksum");
        assert_eq!(String::from_utf8_lossy(&written), name);
        assert_eq!(value.len(), size, "{name}");
    }
}

#[test]
fn a_server_takes_every_name() {
    let dir = images();
    for (names, size) in DIGESTS {
        let mut first = None;
        for name in *names {
            let session = [
                wire::hello("CLIENT"),
                wire::devfile("target.img"),
                wire::digests(b"salt", name, name),
                wire::gethashes(0, 4096, 3),
                wire::getchecksum(),
                wire::done(),
            ];
            let outcome = dir.bdsync(["--server"]).input(&session.concat()).run();
            outcome.exits(0).says("");
            let answers = wire::split(&outcome.stdout);
            let kinds: Vec<u8> = answers.iter().map(|(kind, _)| *kind).collect();
            assert_eq!(kinds, [kind::HELLO, kind::SIZE, kind::HASHES, kind::CHECKSUM, kind::DONE], "{name}");
            assert_eq!(answers[2].1.len(), 24 + 3 * size, "{name}");
            assert_eq!(answers[3].1.len(), *size, "{name}");
            let digests = (answers[2].1.to_vec(), answers[3].1.to_vec());
            assert_eq!(*first.get_or_insert_with(|| digests.clone()), digests, "{name} is not {}", names[0]);
        }
    }
}

#[test]
fn digests_are_what_their_names_say() {
    let dir = images();
    dir.write("target.img", b"");
    for (name, wanted) in OF_NOTHING {
        let session = [
            wire::hello("CLIENT"),
            wire::devfile("target.img"),
            wire::digests(b"", "md5", name),
            wire::getchecksum(),
            wire::done(),
        ];
        let outcome = dir.bdsync(["--server"]).input(&session.concat()).run();
        outcome.exits(0);
        let answers = wire::split(&outcome.stdout);
        let checksum: String = answers[2].1.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(&checksum, wanted, "{name}");
    }
}

#[test]
fn names_that_only_look_like_digests_are_refused() {
    let dir = images();
    for name in ["md", "md55", "sha", "sha-3", "null", "undef", "blake2b", "sha256 ", "keccak-kmac-128", ""] {
        let outcome = dir.client([format!("--hash={name}").as_str()], "source.img", "target.img").run();
        outcome.exits(1);
        assert!(outcome.stderr.starts_with(&format!("Bad hash {name}")), "{outcome}");
        let outcome = dir.client([format!("--checksum={name}").as_str()], "source.img", "target.img").run();
        outcome.exits(5);
        assert!(outcome.stderr.starts_with(&format!("Bad checksum {name}")), "{outcome}");
    }
}
