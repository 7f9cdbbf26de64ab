//! What a patch goes through on its way: a count, a digest, a limit to its speed.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use bdsync_engine::Cancellation;
use sha2::{Digest, Sha256};

/// How often somebody who waits looks whether to stop.
const TICK: Duration = Duration::from_millis(100);

/// Counts, hashes and slows down what is written to something else.
pub struct PatchStream<W> {
    inner: W,
    digest: Option<Sha256>,
    bytes: u64,
    limit: Option<Limit>,
    cancellation: Cancellation,
}

struct Limit {
    bytes_per_second: u64,
    started: Instant,
    bytes: u64,
}

impl<W: Write> PatchStream<W> {
    /// For a patch that is kept. `limit` is in bytes a second.
    pub fn new(inner: W, limit: Option<u64>, cancellation: &Cancellation) -> Self {
        Self { digest: Some(Sha256::new()), ..Self::unhashed(inner, limit, cancellation) }
    }

    /// For what is not kept, and needs no digest.
    pub fn unhashed(inner: W, limit: Option<u64>, cancellation: &Cancellation) -> Self {
        let limit = limit.map(|bytes_per_second| Limit { bytes_per_second, started: Instant::now(), bytes: 0 });
        Self { inner, digest: None, bytes: 0, limit, cancellation: cancellation.clone() }
    }

    /// Goes on after bytes that were written before.
    pub fn resume(&mut self, bytes: u64, digest: Sha256) {
        (self.bytes, self.digest) = (bytes, Some(digest));
    }

    /// The running digest of what was written so far, if there is one.
    pub fn digest(&self) -> Option<&Sha256> {
        self.digest.as_ref()
    }

    /// What was written: its destination, its length, its SHA-256 in hexadecimal if there is one.
    pub fn finish(self) -> (W, u64, Option<String>) {
        (self.inner, self.bytes, self.digest.map(hex))
    }

    /// Waits until `count` more bytes are within the limit.
    fn wait(&mut self, count: usize) -> io::Result<()> {
        let Some(limit) = &mut self.limit else { return Ok(()) };
        // A pause in the data is no credit for a burst of more than a second.
        let elapsed = limit.started.elapsed().as_secs_f64();
        let earned = elapsed * limit.bytes_per_second as f64;
        if earned > (limit.bytes + limit.bytes_per_second) as f64 {
            limit.started = Instant::now();
            limit.bytes = 0;
        }
        limit.bytes += count as u64;
        let due = limit.started + Duration::from_secs_f64(limit.bytes as f64 / limit.bytes_per_second as f64);
        loop {
            if self.cancellation.is_cancelled() {
                return Err(io::Error::other("cancelled"));
            }
            match due.checked_duration_since(Instant::now()) {
                Some(left) if !left.is_zero() => std::thread::sleep(left.min(TICK)),
                _ => return Ok(()),
            }
        }
    }
}

impl<W: Write> Write for PatchStream<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // In pieces of a tenth of a second at most, so that the stream flows.
        let most = self.limit.as_ref().map_or(usize::MAX, |limit| (limit.bytes_per_second / 10).max(1) as usize);
        let piece = &bytes[..bytes.len().min(most)];
        self.wait(piece.len())?;
        let count = self.inner.write(piece)?;
        if let Some(digest) = &mut self.digest {
            digest.update(&piece[..count]);
        }
        self.bytes += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// A finished digest in hexadecimal.
fn hex(digest: Sha256) -> String {
    bdsync_engine::apply::hex(&digest.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_through_is_unchanged_counted_and_hashed() {
        let cancellation = Cancellation::new();
        let mut stream = PatchStream::new(Vec::new(), Some(1 << 30), &cancellation);
        stream.write_all(b"abc").unwrap();
        let (written, bytes, digest) = stream.finish();
        assert_eq!((written.as_slice(), bytes), (&b"abc"[..], 3));
        let sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(digest.as_deref(), Some(sha256));
        let mut stream = PatchStream::unhashed(Vec::new(), None, &cancellation);
        stream.write_all(b"abc").unwrap();
        assert_eq!(stream.finish(), (b"abc".to_vec(), 3, None));
    }

    #[test]
    fn a_limit_holds_back_and_a_stop_gets_through() {
        let cancellation = Cancellation::new();
        let mut stream = PatchStream::new(Vec::new(), Some(1000), &cancellation);
        let started = Instant::now();
        stream.write_all(&[0; 150]).unwrap();
        assert!(started.elapsed() >= Duration::from_millis(100));
        cancellation.cancel();
        assert!(stream.write_all(&[0; 1_000_000]).is_err());
    }
}
