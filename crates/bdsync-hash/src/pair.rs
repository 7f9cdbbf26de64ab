//! Two digests of the same blocks, each by an engine of its own.

use crate::engine::{Engine, Stream};

/// Two engines over one salt; a block's digest is that of the first, and then
/// that of the second.
pub(crate) struct Pair {
    /// The one with more lanes.
    pub(crate) first: Box<dyn Engine>,
    pub(crate) second: Box<dyn Engine>,
    /// Lengths of their digests in bytes.
    pub(crate) digest_sizes: [usize; 2],
}

impl Engine for Pair {
    fn lanes(&self) -> usize {
        self.first.lanes()
    }

    fn worthwhile(&self) -> usize {
        self.first.worthwhile()
    }

    fn digest_group(&self, blocks: &[&[u8]], out: &mut [u8]) {
        let mut digests = Digests::new(out, self.digest_sizes);
        self.first.digest_group(blocks, &mut digests.first);
        let chunk = self.second.lanes() * self.digest_sizes[1];
        for (blocks, digests) in blocks.chunks(self.second.lanes()).zip(digests.second.chunks_mut(chunk)) {
            self.second.digest_group(blocks, digests);
        }
        digests.put_together(out);
    }

    fn start(&self) -> Box<dyn Stream> {
        let count = self.first.lanes().div_ceil(self.second.lanes());
        Box::new(PairStream {
            first: self.first.start(),
            second: (0..count).map(|_| self.second.start()).collect(),
            second_lanes: self.second.lanes(),
            digest_sizes: self.digest_sizes,
        })
    }
}

struct PairStream {
    first: Box<dyn Stream>,
    /// As many as it takes for the lanes of the first.
    second: Vec<Box<dyn Stream>>,
    second_lanes: usize,
    digest_sizes: [usize; 2],
}

impl Stream for PairStream {
    fn update(&mut self, pieces: &[&[u8]]) {
        self.first.update(pieces);
        for (stream, pieces) in self.second.iter_mut().zip(pieces.chunks(self.second_lanes)) {
            stream.update(pieces);
        }
    }

    fn finish(self: Box<Self>, out: &mut [u8]) {
        let mut digests = Digests::new(out, self.digest_sizes);
        self.first.finish(&mut digests.first);
        let chunk = self.second_lanes * self.digest_sizes[1];
        for (stream, digests) in self.second.into_iter().zip(digests.second.chunks_mut(chunk)) {
            stream.finish(digests);
        }
        digests.put_together(out);
    }
}

/// The digests of some blocks by the one engine and by the other.
struct Digests {
    first: Vec<u8>,
    second: Vec<u8>,
    sizes: [usize; 2],
}

impl Digests {
    /// For as many blocks as `out` has room for.
    fn new(out: &[u8], sizes: [usize; 2]) -> Self {
        let blocks = out.len() / (sizes[0] + sizes[1]);
        Digests { first: vec![0; blocks * sizes[0]], second: vec![0; blocks * sizes[1]], sizes }
    }

    /// Writes the two digests of each block one behind the other.
    fn put_together(&self, out: &mut [u8]) {
        let [first_size, second_size] = self.sizes;
        for ((out, first), second) in out
            .chunks_exact_mut(first_size + second_size)
            .zip(self.first.chunks_exact(first_size))
            .zip(self.second.chunks_exact(second_size))
        {
            out[..first_size].copy_from_slice(first);
            out[first_size..].copy_from_slice(second);
        }
    }
}
