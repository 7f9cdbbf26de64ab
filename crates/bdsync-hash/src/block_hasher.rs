//! Hashing equal-sized blocks, several side by side.

use std::fmt;
use std::sync::{Arc, OnceLock};

use crate::engine::{Engine, Stream};
use crate::zero::ZEROS;
use crate::{Algorithm, Implementation, is_zero, portable};

/// Longest salt in bytes; the protocol has no longer ones.
pub const MAX_SALT: usize = 127;

/// Most lanes that any implementation has.
const MAX_LANES: usize = 16;

/// Hashes equal-sized blocks with a salt in front of each: `digest(salt || block)`.
///
/// Clones share everything, the digest of a zero block too.
#[derive(Clone)]
pub struct BlockHasher {
    shared: Arc<Shared>,
}

struct Shared {
    algorithm: Algorithm,
    implementation: Implementation,
    block_size: u64,
    /// Hashes several blocks side by side, where there is such an implementation.
    wide: Option<Box<dyn Engine>>,
    /// Hashes blocks one at a time.
    narrow: Box<dyn Engine>,
    zero_digest: OnceLock<Vec<u8>>,
}

impl BlockHasher {
    /// A hasher with the best implementation for this machine.
    ///
    /// `block_size` is in bytes and may be larger than memory.
    ///
    /// # Panics
    ///
    /// If `salt` is longer than [`MAX_SALT`] or `block_size` is zero.
    pub fn new(algorithm: Algorithm, salt: &[u8], block_size: u64) -> Self {
        Self::with_implementation(algorithm, salt, block_size, Implementation::best(algorithm))
    }

    /// A hasher that uses the given implementation, for tests and benchmarks.
    ///
    /// # Panics
    ///
    /// As [`new`](Self::new), and if the implementation is not
    /// [available](Implementation::available) for the algorithm.
    pub fn with_implementation(
        algorithm: Algorithm,
        salt: &[u8],
        block_size: u64,
        implementation: Implementation,
    ) -> Self {
        assert!(salt.len() <= MAX_SALT, "a salt has at most {MAX_SALT} bytes");
        assert!(block_size > 0, "a block has at least one byte");
        assert!(
            Implementation::available(algorithm).contains(&implementation),
            "{algorithm} has no {implementation} implementation on this machine"
        );
        let wide = implementation.wide_engine(algorithm, salt);
        debug_assert!(wide.as_ref().is_none_or(|wide| wide.lanes() <= MAX_LANES));
        BlockHasher {
            shared: Arc::new(Shared {
                algorithm,
                implementation,
                block_size,
                wide,
                narrow: portable::engine(algorithm, salt),
                zero_digest: OnceLock::new(),
            }),
        }
    }

    /// The digest algorithm.
    pub fn algorithm(&self) -> Algorithm {
        self.shared.algorithm
    }

    /// The implementation in use.
    pub fn implementation(&self) -> Implementation {
        self.shared.implementation
    }

    /// Length of a block in bytes.
    pub fn block_size(&self) -> u64 {
        self.shared.block_size
    }

    /// Length of a digest in bytes.
    pub fn digest_size(&self) -> usize {
        self.shared.algorithm.digest_size()
    }

    /// How many blocks are hashed side by side. A thread should be given this
    /// many at once, or a multiple, to keep the processor busy.
    pub fn lanes(&self) -> usize {
        self.shared.wide.as_ref().map_or(1, |wide| wide.lanes())
    }

    /// Hashes `data` as consecutive blocks, into one digest after another.
    ///
    /// A short last block counts as filled up with zero bytes. A block of zero
    /// bytes is recognised and not hashed.
    ///
    /// # Panics
    ///
    /// If `out` is not as long as the digests of all blocks.
    pub fn hash_blocks(&self, data: &[u8], out: &mut [u8]) {
        let digest_size = self.digest_size();
        // A block that does not fit in memory is a short last one here.
        let block_size = usize::try_from(self.block_size()).unwrap_or(usize::MAX);
        let blocks = data.len().div_ceil(block_size);
        assert_eq!(out.len(), blocks * digest_size, "room for {blocks} digests of {digest_size} bytes");

        let mut group = Group::new(self);
        for (block, digest) in data.chunks(block_size).zip(out.chunks_exact_mut(digest_size)) {
            if is_zero(block) {
                digest.copy_from_slice(self.zero_digest());
            } else if block.len() as u64 == self.block_size() {
                group.push(block, digest);
            } else {
                let mut stream = self.shared.narrow.start();
                stream.update(&[block]);
                fill_up(&mut *stream, 1, self.block_size() - block.len() as u64);
                stream.finish(&mut [digest]);
            }
        }
        group.flush();
    }

    /// The digest of a block of zero bytes, computed when first asked for.
    pub fn zero_digest(&self) -> &[u8] {
        self.shared.zero_digest.get_or_init(|| {
            let mut digest = vec![0; self.digest_size()];
            let mut stream = self.shared.narrow.start();
            fill_up(&mut *stream, 1, self.block_size());
            stream.finish(&mut [&mut digest]);
            digest
        })
    }

    /// Starts hashing `blocks` blocks side by side, piece by piece, for blocks
    /// too large to be in memory at once.
    ///
    /// The number of blocks is best [`lanes`](Self::lanes) or a multiple of it.
    pub fn interleaved(&self, blocks: usize) -> Interleaved<'_> {
        let mut parts = Vec::new();
        let mut left = blocks;
        while left > 0 {
            let engine = self.engine_for(left);
            let lanes = engine.lanes().min(left);
            parts.push(Part { lanes, stream: engine.start() });
            left -= lanes;
        }
        Interleaved { hasher: self, blocks, fed: 0, parts }
    }

    /// The engine that takes the least time for this many blocks.
    fn engine_for(&self, blocks: usize) -> &dyn Engine {
        match &self.shared.wide {
            Some(wide) if blocks >= wide.worthwhile() => &**wide,
            _ => &*self.shared.narrow,
        }
    }
}

impl fmt::Debug for BlockHasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlockHasher")
            .field("algorithm", &self.shared.algorithm)
            .field("implementation", &self.shared.implementation)
            .field("block_size", &self.shared.block_size)
            .finish_non_exhaustive()
    }
}

/// Blocks being hashed side by side, piece by piece; made by
/// [`BlockHasher::interleaved`].
pub struct Interleaved<'a> {
    hasher: &'a BlockHasher,
    blocks: usize,
    /// Bytes of each block so far.
    fed: u64,
    parts: Vec<Part>,
}

/// Some of the blocks, hashed by one engine.
struct Part {
    lanes: usize,
    stream: Box<dyn Stream>,
}

impl Interleaved<'_> {
    /// Takes in the next piece of each block. Pieces may have any length, also
    /// none.
    ///
    /// # Panics
    ///
    /// If there is not one piece for each block, if the pieces differ in
    /// length, or if the blocks grow past the block size.
    pub fn update(&mut self, pieces: &[&[u8]]) {
        assert_eq!(pieces.len(), self.blocks, "one piece for each block");
        let length = pieces.first().map_or(0, |piece| piece.len());
        assert!(pieces.iter().all(|piece| piece.len() == length), "the pieces of a round have one length");
        assert!(length as u64 <= self.hasher.block_size() - self.fed, "a block ends at the block size");
        self.fed += length as u64;

        let mut rest = pieces;
        for part in &mut self.parts {
            let (mine, others) = rest.split_at(part.lanes);
            part.stream.update(mine);
            rest = others;
        }
    }

    /// Writes one digest after another. Blocks that are shorter than the block
    /// size count as filled up with zero bytes.
    ///
    /// # Panics
    ///
    /// If `out` is not as long as the digests of all blocks.
    pub fn finish(self, out: &mut [u8]) {
        let digest_size = self.hasher.digest_size();
        assert_eq!(out.len(), self.blocks * digest_size, "room for {} digests of {digest_size} bytes", self.blocks);
        let missing = self.hasher.block_size() - self.fed;
        let mut digests: Vec<_> = out.chunks_exact_mut(digest_size).collect();
        let mut rest = &mut digests[..];
        for mut part in self.parts {
            let (mine, others) = rest.split_at_mut(part.lanes);
            fill_up(&mut *part.stream, part.lanes, missing);
            part.stream.finish(mine);
            rest = others;
        }
    }
}

/// Feeds `missing` zero bytes to each of the lanes in use.
fn fill_up(stream: &mut dyn Stream, lanes: usize, mut missing: u64) {
    while missing > 0 {
        let length = missing.min(ZEROS.len() as u64);
        let piece: &[u8] = &ZEROS[..length as usize];
        stream.update(&[piece; MAX_LANES][..lanes]);
        missing -= length;
    }
}

/// Blocks that wait for enough others to be hashed side by side, and where
/// their digests go.
struct Group<'h, 'd> {
    hasher: &'h BlockHasher,
    lanes: usize,
    waiting: usize,
    blocks: [&'d [u8]; MAX_LANES],
    digests: [&'d mut [u8]; MAX_LANES],
}

impl<'h, 'd> Group<'h, 'd> {
    fn new(hasher: &'h BlockHasher) -> Self {
        Group { hasher, lanes: hasher.lanes(), waiting: 0, blocks: [&[]; MAX_LANES], digests: Default::default() }
    }

    fn push(&mut self, block: &'d [u8], digest: &'d mut [u8]) {
        self.blocks[self.waiting] = block;
        self.digests[self.waiting] = digest;
        self.waiting += 1;
        if self.waiting == self.lanes {
            self.flush();
        }
    }

    fn flush(&mut self) {
        let mut start = 0;
        while start < self.waiting {
            let engine = self.hasher.engine_for(self.waiting - start);
            let end = self.waiting.min(start + engine.lanes());
            engine.digest_group(&self.blocks[start..end], &mut self.digests[start..end]);
            start = end;
        }
        self.waiting = 0;
    }
}
