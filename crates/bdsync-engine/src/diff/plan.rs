//! What is to be compared, and in which requests.

use std::num::NonZeroU64;

use bdsync_proto::{HashRange, limits};

use crate::error::Result;

/// How much one request covers, in bytes, as long as blocks are small: little
/// enough that both ends always have one to hash while others travel.
const REQUEST: u64 = 4 << 20;

/// How many blocks a request has at least, however large they are: enough to
/// hash many side by side.
const LEAST_BLOCKS: u64 = 16;

/// How much one of our requests covers, in bytes, if nothing limits it.
pub(crate) fn usual_length(step: u64) -> u64 {
    REQUEST.max(step.saturating_mul(LEAST_BLOCKS))
}

/// The sizes of both devices and what follows from them. All in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    pub(crate) local: u64,
    pub(crate) remote: u64,
    pub(crate) cut_to_smaller: bool,
    pub(crate) remote_data: bool,
}

impl Sizes {
    /// The size that the target shall have, and where the patch's records end.
    pub(crate) fn patch_size(&self) -> u64 {
        match (self.cut_to_smaller, self.remote_data) {
            (true, _) => self.local.min(self.remote),
            (false, true) => self.remote,
            (false, false) => self.local,
        }
    }

    /// What the checksum covers, before it is rounded up to whole blocks.
    pub(crate) fn checksum_size(&self) -> u64 {
        match self.cut_to_smaller {
            true => self.local.min(self.remote),
            false => self.local.max(self.remote),
        }
    }

    /// How far to compare. Beyond the end of the data that would go into the patch
    /// nothing can be written; only a checksum at the remote end needs it all to be asked for.
    pub(crate) fn compare_size(&self, remote_checksum: bool) -> u64 {
        if remote_checksum { self.checksum_size() } else { self.patch_size() }
    }
}

/// How long each part of a sample is, in bytes, as far as one request reaches.
const PART: u64 = 1 << 20;

/// Cuts what is to be compared into requests, from the front.
#[derive(Clone, Debug)]
pub(crate) struct Requests {
    position: u64,
    end: u64,
    step: u64,
    digest_size: usize,
    sample: Option<Sample>,
}

/// Parts that are spread evenly, with the first and the last.
#[derive(Clone, Copy, Debug)]
struct Sample {
    /// How many parts are asked for.
    count: u64,
    /// How many there are.
    all: u64,
    /// How many blocks each has.
    blocks: u64,
    /// The next one's number among those that are asked for.
    next: u64,
}

impl Sample {
    fn start(&self, step: u64) -> Option<u64> {
        let last = self.count.saturating_sub(1).max(1);
        let part = u128::from(self.next) * u128::from(self.all.saturating_sub(1)) / u128::from(last);
        (self.next < self.count).then_some(part as u64 * self.blocks * step)
    }
}

impl Requests {
    /// Requests for `step`-byte blocks from `start` on, until `end` is covered.
    pub(crate) fn new(start: u64, end: u64, step: u64, digest_size: usize) -> Self {
        Self { position: start, end, step, digest_size, sample: None }
    }

    /// Requests for `parts` parts of what is before `end`, one a part.
    pub(crate) fn sample(end: u64, step: u64, digest_size: usize, parts: NonZeroU64) -> Self {
        let blocks = (PART / step).clamp(1, u64::from(limits::max_hashes(digest_size)));
        let all = end.div_ceil(blocks * step);
        let sample = Some(Sample { count: parts.get().min(all), all, blocks, next: 0 });
        Self { sample, ..Self::new(0, end, step, digest_size) }
    }

    /// Where the next request begins.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// The next request, if anything is left.
    pub(crate) fn take(&mut self) -> Result<Option<HashRange>> {
        if let Some(sample) = &mut self.sample {
            let Some(start) = sample.start(self.step) else { return Ok(None) };
            let count = (self.end - start).div_ceil(self.step).min(sample.blocks);
            sample.next += 1;
            self.position = sample.start(self.step).unwrap_or(self.end);
            return Ok(Some(HashRange::new(start, self.step, count as u32)?));
        }
        if self.position >= self.end {
            return Ok(None);
        }
        let left = (self.end - self.position).div_ceil(self.step);
        let wanted = usual_length(self.step) / self.step;
        let count = left.min(wanted).min(u64::from(limits::max_hashes(self.digest_size)));
        let range = HashRange::new(self.position, self.step, count as u32)?;
        self.position = range.end();
        Ok(Some(range))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(mut requests: Requests) -> Vec<(u64, u64, u32)> {
        std::iter::from_fn(|| requests.take().unwrap())
            .map(|range| (range.start(), range.step(), range.count()))
            .collect()
    }

    #[test]
    fn requests_cover_everything_once() {
        assert_eq!(ranges(Requests::new(0, 0, 4096, 16)), []);
        assert_eq!(ranges(Requests::new(0, 1, 4096, 16)), [(0, 4096, 1)]);
        assert_eq!(ranges(Requests::new(0, (4 << 20) + 1, 4096, 16)), [(0, 4096, 1024), (4 << 20, 4096, 1)]);
        assert_eq!(ranges(Requests::new(8192, 8193, 1 << 30, 16)), [(8192, 1 << 30, 1)]);
    }

    #[test]
    fn a_request_never_asks_for_more_digests_than_a_message_holds() {
        for (step, digest_size) in [(1, 16), (1, 64), (512, 16), (512, 64)] {
            for (_, _, count) in ranges(Requests::new(0, 10 << 20, step, digest_size)) {
                assert!(count <= limits::max_hashes(digest_size));
            }
        }
    }

    #[test]
    fn a_sample_has_the_first_and_the_last_part_and_some_between() {
        let parts = |end, step, count| ranges(Requests::sample(end, step, 16, NonZeroU64::new(count).unwrap()));
        assert_eq!(parts(0, 4096, 3), []);
        assert_eq!(parts(5000, 4096, 3), [(0, 4096, 2)]);
        assert_eq!(parts((10 << 20) + 1, 4096, 3), [(0, 4096, 256), (5 << 20, 4096, 256), (10 << 20, 4096, 1)]);
        assert_eq!(parts(2 << 20, 4096, 9), [(0, 4096, 256), (1 << 20, 4096, 256)]);
        assert_eq!(parts(8 << 20, 4096, 1), [(0, 4096, 256)]);
        // Large blocks are parts of their own, and small ones are as many as a message has digests of.
        assert_eq!(parts(9 << 20, 4 << 20, 2), [(0, 4 << 20, 1), (8 << 20, 4 << 20, 1)]);
        assert_eq!(parts(8190, 1, 5), [(0, 1, 8190)]);
    }

    #[test]
    fn the_patch_ends_where_the_data_in_it_ends() {
        let sizes = |cut_to_smaller, remote_data| Sizes { local: 10, remote: 20, cut_to_smaller, remote_data };
        assert_eq!(sizes(false, false).patch_size(), 10);
        assert_eq!(sizes(false, true).patch_size(), 20);
        assert_eq!(sizes(true, false).patch_size(), 10);
        assert_eq!(sizes(true, true).patch_size(), 10);
        assert_eq!(sizes(false, false).checksum_size(), 20);
        assert_eq!(sizes(true, true).checksum_size(), 10);
    }
}
