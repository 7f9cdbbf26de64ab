//! What is to be compared, and in which requests.

use bdsync_proto::{HashRange, limits};

use crate::error::Result;

/// How much one request covers, in bytes, as long as blocks are small: little
/// enough that both ends always have one to hash while others travel.
const REQUEST: u64 = 4 << 20;

/// How many blocks a request has at least, however large they are: enough to
/// hash many side by side.
const LEAST_BLOCKS: u64 = 16;

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

/// Cuts what is to be compared into requests, from the front.
#[derive(Clone, Debug)]
pub(crate) struct Requests {
    position: u64,
    end: u64,
    step: u64,
    digest_size: usize,
}

impl Requests {
    /// Requests for `step`-byte blocks from `start` on, until `end` is covered.
    pub(crate) fn new(start: u64, end: u64, step: u64, digest_size: usize) -> Self {
        Self { position: start, end, step, digest_size }
    }

    /// Where the next request begins.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// The next request, if anything is left.
    pub(crate) fn take(&mut self) -> Result<Option<HashRange>> {
        if self.position >= self.end {
            return Ok(None);
        }
        let left = (self.end - self.position).div_ceil(self.step);
        let wanted = (REQUEST / self.step).max(LEAST_BLOCKS);
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
