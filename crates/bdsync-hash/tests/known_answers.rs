//! Digests that are known: what OpenSSL 3.0 says of the same bytes.

mod common;

use bdsync_hash::{Algorithm, BlockHasher, Checksum, Implementation};
use common::{hex, pattern};

/// Name, digest of nothing, of "abc", and of the first 4128 bytes of [`pattern`].
const KNOWN: &[(&str, &str, &str, &str)] = &[
    ("md5", "d41d8cd98f00b204e9800998ecf8427e", "900150983cd24fb0d6963f7d28e17f72", "13bc0715e732af614e4b6b5f74db1a98"),
    (
        "sha1",
        "da39a3ee5e6b4b0d3255bfef95601890afd80709",
        "a9993e364706816aba3e25717850c26c9cd0d89d",
        "23183625128496e8ff4f76a1b0ef3f3b6c9880c5",
    ),
    (
        "sha224",
        "d14a028c2a3a2bc9476102bb288234c415a2b01f828ea62ac5b3e42f",
        "23097d223405d8228642a477bda255b32aadbce4bda0b3f7e36c9da7",
        "7f18a0eee8a0268fb61b364857abd26a2b45c6a3c8c1f036c45b677b",
    ),
    (
        "sha256",
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        "b8f43255326dac8cc4d3df037f775073ca8468defea87b47132387706d0efe48",
    ),
    (
        "sha384",
        "38b060a751ac96384cd9327eb1b1e36a21fdb71114be07434c0cc7bf63f6e1da274edebfe76f65fbd51ad2f14898b95b",
        "cb00753f45a35e8bb5a03d699ac65007272c32ab0eded1631a8b605a43ff5bed8086072ba1e7cc2358baeca134c825a7",
        "e33de80148b0c3fea1a3550388582e73a38293fae9335eda24a786d1af217b002c1ceab2c63abf179b1050c6f51d007d",
    ),
    (
        "sha512",
        "cf83e1357eefb8bdf1542850d66d8007d620e4050b5715dc83f4a921d36ce9ce47d0d13c5d85f2b0ff8318d2877eec2f63b931bd47417a81a538327af927da3e",
        "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
        "b4c419d396bbdb323e361787df9668f23484350b5c1db456667de72c92091d82da4078bfdb97bceccfa99e6ff7b81f621334b232a73f81517e2ec494e276095f",
    ),
    (
        "sha512-224",
        "6ed0dd02806fa89e25de060c19d3ac86cabb87d6a0ddd05c333b84f4",
        "4634270f707b6a54daae7530460842e20e37ed265ceee9a43e8924aa",
        "d1385038c8b8ec2aefb5a03673baf59420178f25c164e0f5f726e248",
    ),
    (
        "sha512-256",
        "c672b8d1ef56ed28ab87c3622c5114069bdd3ad7b8f9737498d0c01ecef0967a",
        "53048e2681941ef99b2e29b76b4c7dabe4c2d0c634fc6d46e0e2f13107e7af23",
        "5bad09143f115df464680542eaffbcf43cd0a03a37253e6b0233fa6ba3bea592",
    ),
    (
        "sha3-224",
        "6b4e03423667dbb73b6e15454f0eb1abd4597f9a1b078e3f5b5a6bc7",
        "e642824c3f8cf24ad09234ee7d3c766fc9a3a5168d0c94ad73b46fdf",
        "58086389bf46c26cfe7d090b6c1c1a017678390c13471ccedaf18092",
    ),
    (
        "sha3-256",
        "a7ffc6f8bf1ed76651c14756a061d662f580ff4de43b49fa82d80a4b80f8434a",
        "3a985da74fe225b2045c172d6bd390bd855f086e3e9d525b46bfe24511431532",
        "f5b2825569a16008f16fc21c3e6c37c8c2165481f482bba86fa63b2a69a524bb",
    ),
    (
        "sha3-384",
        "0c63a75b845e4f7d01107d852e4c2485c51a50aaaa94fc61995e71bbee983a2ac3713831264adb47fb6bd1e058d5f004",
        "ec01498288516fc926459f58e2c6ad8df9b473cb0fc08c2596da7cf0e49be4b298d88cea927ac7f539f1edf228376d25",
        "6a0f46caa79232da2cc7873d5ee7b982e045e47cbef7ffe47156e6acf25c81b3cdf2444041ac122e60878c5faa9ba045",
    ),
    (
        "sha3-512",
        "a69f73cca23a9ac5c8b567dc185a756e97c982164fe25859e0d1dcc1475c80a615b2123af1f5f94c11e3e9402c3ac558f500199d95b6d3e301758586281dcd26",
        "b751850b1a57168a5693cd924b6b096e08f621827444f70d884f5d0240d2712e10e116e9192af3c91a7ec57647e3934057340b4cf408d5a56592f8274eec53f0",
        "3917c4a12cfbb14acf918a40cf79a341ac50e71bcfbf81674980b9e7ca45dd6b5aad4fb0c42641bd393a5712f05bcd41b6553f640d17fd1fbbb4a5d974b757e4",
    ),
    (
        "shake128",
        "7f9c2ba4e88f827d616045507605853e",
        "5881092dd818bf5cf8a3ddb793fbcba7",
        "1d53a817d4adfd95eb976aa6ccbfcb21",
    ),
    (
        "shake256",
        "46b9dd2b0ba88d13233b3feb743eeb243fcd52ea62b81b82b50c27646ed5762f",
        "483366601360a8771c6863080cc4114d8db44530f8f1e1ee4f94ea37e78b5739",
        "a779042e1ef177fc28ee5ac7c28c222b6b99aff6484eb434539e8a5ef7170e1d",
    ),
    (
        "blake2b512",
        "786a02f742015903c6c6fd852552d272912f4740e15847618a86e217f71f5419d25e1031afee585313896444934eb04b903a685b1448b755d56f701afe9be2ce",
        "ba80a53f981c4d0d6a2797b69f12f6e94c212f14685ac4b74b12bb6fdbffa2d17d87c5392aab792dc252d5de4533cc9518d38aa8dbf1925ab92386edd4009923",
        "d2c26b3e87eadadc6d96efe3d6dfd61fde1e388b5d1209c3f03f3831a44bce4419baa2f9da1dfc95deeddf474e95aae34f204eeec37ee35fc6a69e6f45b916b8",
    ),
    (
        "blake2s256",
        "69217a3079908094e11121d042354a7c1f55b6482ca1a51e1b250dfd1ed0eef9",
        "508c5e8c327c14e2e1a72ba34eeb452f37458b209ed63a294d999b4c86675982",
        "47cc323b34bd5d1768b73c60a14da3610bfefdfd5bfa7c7576e1bc29acce2669",
    ),
    (
        "ripemd160",
        "9c1185a5c5e9fc54612808977ee8f548b2258d31",
        "8eb208f7e05d987a9b044a8e98c6b087f15a0bfc",
        "cf3505fd93e182550a4d0f21967ea5d00be0a35c",
    ),
    (
        "sm3",
        "1ab21d8355cfa17f8e61194831e81a8f22bec8c728fefb747ed035eb5082aa2b",
        "66c7f0f462eeedd9d1f2d46bdc10e4e24167c4875cf2f7a2297da02b8f4ba8e0",
        "b0cf2ad0172336dc23df7fc7b3628bd690dce4df7b2e3a0bc535b9b21b2aeec2",
    ),
    (
        "md5-sha1",
        "d41d8cd98f00b204e9800998ecf8427eda39a3ee5e6b4b0d3255bfef95601890afd80709",
        "900150983cd24fb0d6963f7d28e17f72a9993e364706816aba3e25717850c26c9cd0d89d",
        "13bc0715e732af614e4b6b5f74db1a9823183625128496e8ff4f76a1b0ef3f3b6c9880c5",
    ),
];

#[test]
fn every_algorithm_has_known_answers() {
    let known: Vec<_> = KNOWN.iter().map(|known| known.0).collect();
    let all: Vec<_> = Algorithm::ALL.iter().map(|a| a.name()).collect();
    assert_eq!(known, all);
}

#[test]
fn checksums_are_those_of_openssl() {
    for (name, empty, abc, long) in KNOWN {
        let algorithm: Algorithm = name.parse().unwrap();
        assert_eq!(hex(&Checksum::new(algorithm).finish()), *empty, "{name}");

        let mut checksum = Checksum::new(algorithm);
        checksum.update(b"a");
        checksum.update(b"bc");
        assert_eq!(hex(&checksum.finish()), *abc, "{name}");

        let mut checksum = Checksum::new(algorithm);
        checksum.update(&pattern(4128));
        assert_eq!(hex(&checksum.finish()), *long, "{name}");
    }
}

#[test]
fn block_digests_are_those_of_openssl_over_salt_and_block() {
    for (name, _, abc, long) in KNOWN {
        let algorithm: Algorithm = name.parse().unwrap();
        let data = pattern(4128);
        let (salt, block) = data.split_at(32);
        for implementation in Implementation::available(algorithm) {
            for count in [1, 2, 3, 4, 7, 8, 15, 16, 17, 33] {
                let unsalted = BlockHasher::with_implementation(algorithm, b"", 3, implementation);
                let mut out = vec![0; count * algorithm.digest_size()];
                unsalted.hash_blocks(&b"abc".repeat(count), &mut out);
                assert_eq!(hex(&out), abc.repeat(count), "{name}, {implementation}");

                let salted = BlockHasher::with_implementation(algorithm, salt, 4096, implementation);
                salted.hash_blocks(&block.repeat(count), &mut out);
                assert_eq!(hex(&out), long.repeat(count), "{name}, {implementation}");
            }
        }
    }
}

#[test]
fn a_checksum_over_zeros_is_that_of_zero_bytes() {
    for &algorithm in Algorithm::ALL {
        for count in [0, 1, 63, 64, 65_536, 65_537, 200_001] {
            let mut fed = Checksum::new(algorithm);
            fed.update(b"before");
            fed.update(&vec![0; count]);
            fed.update(b"after");
            let mut counted = Checksum::new(algorithm);
            counted.update(b"before");
            counted.update_zeros(count as u64);
            counted.update(b"after");
            assert_eq!(counted.algorithm(), algorithm);
            assert_eq!(counted.finish(), fed.finish(), "{algorithm}, {count} zeros");
        }
    }
}
