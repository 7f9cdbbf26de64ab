//! What an implementation of a digest offers to [`BlockHasher`](crate::BlockHasher).

/// A digest with its salt taken in, ready to hash blocks.
pub(crate) trait Engine: Send + Sync {
    /// How many blocks are hashed side by side.
    fn lanes(&self) -> usize;

    /// How many blocks make it worth while to run all lanes; fewer are faster
    /// one at a time.
    fn worthwhile(&self) -> usize;

    /// Hashes `blocks`, at most [`lanes`](Self::lanes) of them and all of one
    /// length, each into its place in `digests`, which is as long as a digest.
    fn digest_group(&self, blocks: &[&[u8]], digests: &mut [&mut [u8]]);

    /// Starts hashing up to [`lanes`](Self::lanes) blocks piece by piece.
    fn start(&self) -> Box<dyn Stream>;
}

/// Blocks being hashed side by side, piece by piece.
pub(crate) trait Stream: Send + Sync {
    /// Takes in the next piece of each block; all pieces have one length, and
    /// there are as many of them each time.
    fn update(&mut self, pieces: &[&[u8]]);

    /// Writes the digests of as many blocks as there are places for them.
    fn finish(self: Box<Self>, digests: &mut [&mut [u8]]);
}
