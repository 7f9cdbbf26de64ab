//! The implementation that every machine has: one block at a time.

use digest::{ExtendableOutput, FixedOutput, Update, XofReader};

use crate::Algorithm;
use crate::engine::{Engine, Stream};

/// A running digest whose length is known.
pub(crate) trait Digest: Clone + Send + Sync + 'static {
    fn update(&mut self, data: &[u8]);
    /// Writes the digest; `out` is as long as it is.
    fn finish(self, out: &mut [u8]);
}

/// Makes something of the digest type that belongs to an algorithm.
pub(crate) trait Visitor {
    type Result;
    fn visit<D: Digest>(self, new: D) -> Self::Result;
}

/// Calls `visitor` with a fresh digest of the algorithm.
pub(crate) fn visit<V: Visitor>(algorithm: Algorithm, visitor: V) -> V::Result {
    fn fixed<D: Default>() -> Fixed<D> {
        Fixed(D::default())
    }
    match algorithm {
        Algorithm::Md5 => visitor.visit(fixed::<md5::Md5>()),
        Algorithm::Sha1 => visitor.visit(fixed::<sha1::Sha1>()),
        Algorithm::Sha224 => visitor.visit(fixed::<sha2::Sha224>()),
        Algorithm::Sha256 => visitor.visit(fixed::<sha2::Sha256>()),
        Algorithm::Sha384 => visitor.visit(fixed::<sha2::Sha384>()),
        Algorithm::Sha512 => visitor.visit(fixed::<sha2::Sha512>()),
        Algorithm::Sha512_224 => visitor.visit(fixed::<sha2::Sha512_224>()),
        Algorithm::Sha512_256 => visitor.visit(fixed::<sha2::Sha512_256>()),
        Algorithm::Sha3_224 => visitor.visit(fixed::<sha3::Sha3_224>()),
        Algorithm::Sha3_256 => visitor.visit(fixed::<sha3::Sha3_256>()),
        Algorithm::Sha3_384 => visitor.visit(fixed::<sha3::Sha3_384>()),
        Algorithm::Sha3_512 => visitor.visit(fixed::<sha3::Sha3_512>()),
        Algorithm::Shake128 => visitor.visit(Extendable(shake::Shake128::default())),
        Algorithm::Shake256 => visitor.visit(Extendable(shake::Shake256::default())),
        Algorithm::Blake2b512 => visitor.visit(fixed::<blake2::Blake2b512>()),
        Algorithm::Blake2s256 => visitor.visit(fixed::<blake2::Blake2s256>()),
        Algorithm::Ripemd160 => visitor.visit(fixed::<ripemd::Ripemd160>()),
        Algorithm::Sm3 => visitor.visit(fixed::<sm3::Sm3>()),
        Algorithm::Md5Sha1 => visitor.visit(Both(fixed::<md5::Md5>(), fixed::<sha1::Sha1>())),
    }
}

/// The portable engine of the algorithm.
pub(crate) fn engine(algorithm: Algorithm, salt: &[u8]) -> Box<dyn Engine> {
    struct MakeEngine<'a>(&'a [u8]);
    impl Visitor for MakeEngine<'_> {
        type Result = Box<dyn Engine>;
        fn visit<D: Digest>(self, mut salted: D) -> Box<dyn Engine> {
            salted.update(self.0);
            Box::new(OneByOne(salted))
        }
    }
    visit(algorithm, MakeEngine(salt))
}

struct OneByOne<D>(D);

impl<D: Digest> Engine for OneByOne<D> {
    fn lanes(&self) -> usize {
        1
    }

    fn worthwhile(&self) -> usize {
        1
    }

    fn digest_group(&self, blocks: &[&[u8]], digests: &mut [&mut [u8]]) {
        for (block, out) in blocks.iter().zip(digests) {
            let mut digest = self.0.clone();
            digest.update(block);
            digest.finish(out);
        }
    }

    fn start(&self) -> Box<dyn Stream> {
        Box::new(One(self.0.clone()))
    }
}

struct One<D>(D);

impl<D: Digest> Stream for One<D> {
    fn update(&mut self, pieces: &[&[u8]]) {
        for piece in pieces {
            self.0.update(piece);
        }
    }

    fn finish(self: Box<Self>, digests: &mut [&mut [u8]]) {
        self.0.finish(digests[0]);
    }
}

#[derive(Clone)]
struct Fixed<D>(D);

impl<D: FixedOutput + Update + Clone + Send + Sync + 'static> Digest for Fixed<D> {
    fn update(&mut self, data: &[u8]) {
        self.0.update(data);
    }

    fn finish(self, out: &mut [u8]) {
        out.copy_from_slice(&self.0.finalize_fixed());
    }
}

#[derive(Clone)]
struct Extendable<D>(D);

impl<D: ExtendableOutput + Update + Clone + Send + Sync + 'static> Digest for Extendable<D> {
    fn update(&mut self, data: &[u8]) {
        self.0.update(data);
    }

    fn finish(self, out: &mut [u8]) {
        self.0.finalize_xof().read(out);
    }
}

/// Two digests of one input, one after the other; the first is MD5.
#[derive(Clone)]
struct Both<A, B>(A, B);

impl<A: Digest, B: Digest> Digest for Both<A, B> {
    fn update(&mut self, data: &[u8]) {
        // Short pieces, so that the second digest finds the data in the cache.
        for piece in data.chunks(4096) {
            self.0.update(piece);
            self.1.update(piece);
        }
    }

    fn finish(self, out: &mut [u8]) {
        let (first, second) = out.split_at_mut(Algorithm::Md5.digest_size());
        self.0.finish(first);
        self.1.finish(second);
    }
}
