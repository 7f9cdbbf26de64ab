//! Which blocks of a range differ.

use bdsync_proto::HashRange;

/// The runs of neighbouring blocks whose digests differ, as (start, end) in bytes.
pub(crate) fn differing_runs(range: &HashRange, local: &[u8], remote: &[u8], digest_size: usize) -> Vec<(u64, u64)> {
    debug_assert_eq!(local.len(), remote.len());
    let mut runs: Vec<(u64, u64)> = Vec::new();
    if local == remote {
        return runs;
    }
    let pairs = local.chunks_exact(digest_size).zip(remote.chunks_exact(digest_size));
    for (index, (ours, theirs)) in pairs.enumerate() {
        if ours == theirs {
            continue;
        }
        let start = range.start() + index as u64 * range.step();
        match runs.last_mut() {
            Some((_, end)) if *end == start => *end += range.step(),
            _ => runs.push((start, start + range.step())),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbouring_blocks_make_one_run() {
        let range = HashRange::new(100, 10, 6).unwrap();
        assert_eq!(differing_runs(&range, b"abcdef", b"abcdef", 1), []);
        assert_eq!(differing_runs(&range, b"abcdef", b"XbXXef", 1), [(100, 110), (120, 140)]);
        assert_eq!(differing_runs(&range, b"abcdef", b"abcdeX", 1), [(150, 160)]);
    }
}
