//! Every limit of the protocol and the patch format, in one place
//! (`proto-spec/limits.md`).

/// Longest message: type byte and payload, in bytes.
pub const MAX_MESSAGE: usize = 131_072;

/// Longest payload of a hello, in bytes.
pub const MAX_HELLO: usize = 1024;

/// Shortest device name that a server accepts, in bytes.
pub const MIN_DEVICE_NAME: usize = 2;

/// Longest device name, in a message or a patch, in bytes.
pub const MAX_DEVICE_NAME: usize = 16_384;

/// Longest salt, in bytes.
pub const MAX_SALT: usize = 127;

/// Longest name of a digest, in a message or a patch, in bytes.
pub const MAX_DIGEST_NAME: usize = 127;

/// Longest digest in a patch's trailer, in bytes.
pub const MAX_DIGEST: usize = 127;

/// Largest position, size or end of a range, in bytes: what fits the wire's signed integers.
pub const MAX_POSITION: u64 = i64::MAX as u64;

/// Largest block that may be hashed in one piece, in bytes (64 GiB: the large
/// block of a two-pass run with the largest block size).
pub const MAX_STEP: u64 = 1 << 36;

/// Largest `--blocksize`, in bytes.
pub const MAX_BLOCK_SIZE: u64 = 1 << 30;

/// How many blocks make a large one in the first of two passes.
pub const TWO_PASS_FACTOR: u64 = 64;

/// Longest block that fits one answer, in bytes.
pub const MAX_BLOCK_ANSWER: usize = MAX_MESSAGE - 1 - 8;

/// How many hash requests a client keeps open.
pub const MAX_OPEN_HASH_REQUESTS: usize = 32;

/// How many block requests a client keeps open.
pub const MAX_OPEN_BLOCK_REQUESTS: usize = 32;

/// Longest data of a record as a writer writes it, in bytes.
pub const MAX_WRITTEN_RECORD: usize = 32_768;

/// Longest data of a record that a reader takes, in bytes.
pub const MAX_READ_RECORD: usize = u16::MAX as usize;

/// The largest count of digests of `digest_size` bytes that one message carries.
pub fn max_hashes(digest_size: usize) -> u32 {
    ((MAX_MESSAGE - 25) / digest_size.max(1)) as u32
}
