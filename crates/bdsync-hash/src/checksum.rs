//! A running digest over one stream of bytes.

use crate::Algorithm;
use crate::portable::{self, Digest, Visitor};
use crate::zero::ZEROS;

/// A running, unsalted digest over one stream, for checksums of whole devices.
#[derive(Clone)]
pub struct Checksum {
    algorithm: Algorithm,
    running: Box<dyn Running>,
}

impl Checksum {
    /// Starts a digest of nothing.
    pub fn new(algorithm: Algorithm) -> Self {
        struct MakeRunning;
        impl Visitor for MakeRunning {
            type Result = Box<dyn Running>;
            fn visit<D: Digest>(self, new: D) -> Box<dyn Running> {
                Box::new(new)
            }
        }
        Checksum { algorithm, running: portable::visit(algorithm, MakeRunning) }
    }

    /// The algorithm the digest was started with.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Takes in the next bytes of the stream.
    pub fn update(&mut self, data: &[u8]) {
        self.running.update(data);
    }

    /// Takes in `count` zero bytes, as a hole reads.
    pub fn update_zeros(&mut self, mut count: u64) {
        while count > 0 {
            let length = count.min(ZEROS.len() as u64);
            self.running.update(&ZEROS[..length as usize]);
            count -= length;
        }
    }

    /// The digest of all that was taken in.
    pub fn finish(self) -> Vec<u8> {
        let mut digest = vec![0; self.algorithm.digest_size()];
        self.running.finish(&mut digest);
        digest
    }
}

/// [`Digest`] without its type.
trait Running: Send + Sync {
    fn boxed_clone(&self) -> Box<dyn Running>;
    fn update(&mut self, data: &[u8]);
    fn finish(self: Box<Self>, out: &mut [u8]);
}

impl Clone for Box<dyn Running> {
    fn clone(&self) -> Self {
        (**self).boxed_clone()
    }
}

impl<D: Digest> Running for D {
    fn boxed_clone(&self) -> Box<dyn Running> {
        Box::new(self.clone())
    }

    fn update(&mut self, data: &[u8]) {
        Digest::update(self, data);
    }

    fn finish(self: Box<Self>, out: &mut [u8]) {
        Digest::finish(*self, out);
    }
}
