//! Two digests of the same blocks, each by an engine of its own.

use crate::engine::{Engine, Stream};

/// Two engines over one salt; a block's digest is that of the first, and then
/// that of the second.
pub(crate) struct Pair {
    /// The one with more lanes.
    pub(crate) first: Box<dyn Engine>,
    pub(crate) second: Box<dyn Engine>,
    /// Length of the first one's digests, in bytes.
    pub(crate) first_size: usize,
}

impl Engine for Pair {
    fn lanes(&self) -> usize {
        self.first.lanes()
    }

    fn worthwhile(&self) -> usize {
        self.first.worthwhile()
    }

    fn digest_group(&self, blocks: &[&[u8]], digests: &mut [&mut [u8]]) {
        let (mut first, mut second) = split(digests, self.first_size);
        self.first.digest_group(blocks, &mut first);
        let lanes = self.second.lanes();
        for (blocks, digests) in blocks.chunks(lanes).zip(second.chunks_mut(lanes)) {
            self.second.digest_group(blocks, digests);
        }
    }

    fn start(&self) -> Box<dyn Stream> {
        let count = self.first.lanes().div_ceil(self.second.lanes());
        Box::new(PairStream {
            first: self.first.start(),
            second: (0..count).map(|_| self.second.start()).collect(),
            second_lanes: self.second.lanes(),
            first_size: self.first_size,
        })
    }
}

struct PairStream {
    first: Box<dyn Stream>,
    /// As many as it takes for the lanes of the first.
    second: Vec<Box<dyn Stream>>,
    second_lanes: usize,
    first_size: usize,
}

impl Stream for PairStream {
    fn update(&mut self, pieces: &[&[u8]]) {
        self.first.update(pieces);
        for (stream, pieces) in self.second.iter_mut().zip(pieces.chunks(self.second_lanes)) {
            stream.update(pieces);
        }
    }

    fn finish(self: Box<Self>, digests: &mut [&mut [u8]]) {
        let (mut first, mut second) = split(digests, self.first_size);
        self.first.finish(&mut first);
        for (stream, digests) in self.second.into_iter().zip(second.chunks_mut(self.second_lanes)) {
            stream.finish(digests);
        }
    }
}

/// The places of the first engine's digests, and of those of the second, behind them.
fn split<'d>(digests: &'d mut [&mut [u8]], first_size: usize) -> (Vec<&'d mut [u8]>, Vec<&'d mut [u8]>) {
    digests.iter_mut().map(|digest| digest.split_at_mut(first_size)).unzip()
}
