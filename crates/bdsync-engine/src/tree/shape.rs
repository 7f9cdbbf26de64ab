//! How a device is cut into spans and leaves.

use std::num::NonZeroUsize;
use std::sync::Arc;

use bdsync_hash::{Algorithm, BlockHasher, MAX_SALT};
use bdsync_proto::agent::{FANOUT, MAX_OPEN_LEAVES, MAX_WINDOW};
use bdsync_proto::limits::{MAX_BLOCK_SIZE, MAX_POSITION};

use crate::error::{Error, Result};

/// Roughly how much a span shall have, in bytes: the fewest bytes travel where one leaf
/// in a thousand differs.
const SPAN: u64 = 128 << 10;

/// How much memory the digests of leaves may take that may yet be asked for, in bytes.
const KEPT: u64 = 16 << 20;

/// How a device is cut, and how the parts are hashed.
#[derive(Clone, Debug)]
pub struct Shape {
    /// A leaf, in bytes.
    pub block_size: u64,
    /// How many leaves a span has.
    pub fanout: u64,
    /// The digest.
    pub algorithm: Algorithm,
    /// What is hashed in front of everything.
    pub salt: Vec<u8>,
    /// How far the device is compared, in bytes.
    pub length: u64,
    /// Where it begins, in bytes; a multiple of the span's length.
    pub start: u64,
    /// How many spans are compared, spread evenly; `None`: all.
    pub parts: Option<NonZeroUsize>,
    /// How many spans the agent may be ahead.
    pub window: u64,
}

impl Shape {
    /// The usual one for a block size and a digest.
    pub fn new(block_size: u64, algorithm: Algorithm, salt: Vec<u8>, length: u64) -> Self {
        let fanout = (SPAN / block_size.max(1)).clamp(*FANOUT.start(), *FANOUT.end());
        let kept = fanout * algorithm.digest_size() as u64;
        let window = (KEPT / kept).clamp(1, MAX_WINDOW).min(MAX_OPEN_LEAVES / fanout);
        Self { block_size, fanout, algorithm, salt, length, start: 0, parts: None, window }
    }

    /// Refuses what is beyond the limits.
    ///
    /// # Errors
    ///
    /// What is wrong.
    pub fn check(&self) -> Result<()> {
        let refuse = |what: String| Err(Error::Parameter(what));
        if !(1..=MAX_BLOCK_SIZE).contains(&self.block_size) {
            return refuse(format!("a block size of {} bytes; it must be from 1 to {MAX_BLOCK_SIZE}", self.block_size));
        }
        if !FANOUT.contains(&self.fanout) {
            return refuse(format!(
                "a fanout of {}; it must be from {} to {}",
                self.fanout,
                FANOUT.start(),
                FANOUT.end()
            ));
        }
        if self.salt.len() > MAX_SALT {
            return refuse(format!("a salt of {} bytes; it has at most {MAX_SALT}", self.salt.len()));
        }
        let span = self.span_bytes();
        if self.length > MAX_POSITION - span || self.start > self.length || !self.start.is_multiple_of(span) {
            return refuse(format!("a comparison from {} to {} bytes in spans of {span}", self.start, self.length));
        }
        if !(1..=MAX_WINDOW).contains(&self.window) || self.window * self.fanout > MAX_OPEN_LEAVES {
            return refuse(format!("a window of {} spans", self.window));
        }
        Ok(())
    }

    /// The length of a span, in bytes.
    pub fn span_bytes(&self) -> u64 {
        self.block_size * self.fanout
    }

    /// The number of the first span.
    pub fn first_span(&self) -> u64 {
        self.start / self.span_bytes()
    }

    /// The number behind the last span.
    pub fn end_span(&self) -> u64 {
        self.length.div_ceil(self.span_bytes())
    }

    /// Spans that are compared, in groups of neighbours: number and count.
    pub(crate) fn groups(&self) -> Vec<(u64, u64)> {
        let (first, end) = (self.first_span(), self.end_span());
        let all = end - first;
        match self.parts {
            Some(parts) if (parts.get() as u64) < all => {
                let parts = parts.get() as u64;
                let spread = |part: u64| match parts {
                    1 => 0,
                    _ => (u128::from(part) * u128::from(all - 1) / u128::from(parts - 1)) as u64,
                };
                (0..parts).map(|part| (first + spread(part), 1)).collect()
            }
            _ if all == 0 => Vec::new(),
            _ => vec![(first, all)],
        }
    }

    pub(crate) fn hashers(&self) -> Hashers {
        let leaf = BlockHasher::new(self.algorithm, &self.salt, self.block_size);
        let size = leaf.digest_size();
        let span = BlockHasher::new(self.algorithm, &self.salt, self.fanout * size as u64);
        let zero_leaf = leaf.zero_digest().to_vec();
        let mut zero_span = vec![0; size];
        span.hash_blocks(&zero_leaf.repeat(self.fanout as usize), &mut zero_span);
        Hashers { leaf: Arc::new(leaf), span: Arc::new(span), zero_leaf, zero_span, digest_size: size }
    }
}

/// What hashes leaves and spans.
pub(crate) struct Hashers {
    pub(crate) leaf: Arc<BlockHasher>,
    pub(crate) span: Arc<BlockHasher>,
    pub(crate) zero_leaf: Vec<u8>,
    pub(crate) zero_span: Vec<u8>,
    pub(crate) digest_size: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_spread_from_the_first_to_the_last() {
        let mut shape = Shape::new(4096, Algorithm::Md5, Vec::new(), 100 * (128 << 10) - 5);
        assert_eq!(shape.groups(), [(0, 100)]);
        shape.parts = NonZeroUsize::new(3);
        assert_eq!(shape.groups(), [(0, 1), (49, 1), (99, 1)]);
        shape.parts = NonZeroUsize::new(1);
        assert_eq!(shape.groups(), [(0, 1)]);
        shape.parts = NonZeroUsize::new(1000);
        assert_eq!(shape.groups(), [(0, 100)]);
        shape.length = 0;
        assert!(shape.groups().is_empty());
    }

    #[test]
    fn what_is_beyond_the_limits_is_refused() {
        let good = Shape::new(4096, Algorithm::Sha512, vec![1; 16], 1 << 40);
        assert!(good.check().is_ok());
        assert!(Shape { block_size: 0, ..good.clone() }.check().is_err());
        assert!(Shape { fanout: 1, ..good.clone() }.check().is_err());
        assert!(Shape { salt: vec![0; 128], ..good.clone() }.check().is_err());
        assert!(Shape { length: u64::MAX, ..good.clone() }.check().is_err());
        assert!(Shape { start: 4096, ..good.clone() }.check().is_err());
        assert!(Shape { window: 0, ..good.clone() }.check().is_err());
        assert!(Shape { window: 1 << 40, ..good }.check().is_err());
        for block_size in [1, 512, 4096, 1 << 20, 1 << 30] {
            assert!(Shape::new(block_size, Algorithm::Sha512, Vec::new(), 1 << 40).check().is_ok(), "{block_size}");
        }
    }
}
