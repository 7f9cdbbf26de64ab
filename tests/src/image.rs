//! Images made from recipes, so that no image has to be stored.

use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::Rng;

/// A size, and what is written on that many zero bytes.
#[derive(Clone, Debug, Deserialize)]
pub struct Recipe {
    /// Size in bytes.
    pub size: u64,
    /// What is written, in order.
    pub ops: Vec<Operation>,
}

/// One write of a recipe.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Operation {
    /// Random bytes.
    Random {
        /// First byte.
        at: usize,
        /// Number of bytes.
        len: usize,
        /// Seed of the generator.
        seed: u64,
    },
    /// One byte over and over.
    Fill {
        /// First byte.
        at: usize,
        /// Number of bytes.
        len: usize,
        /// The byte.
        byte: u8,
    },
}

impl Recipe {
    /// The image.
    pub fn build(&self) -> Vec<u8> {
        let mut image = vec![0; usize::try_from(self.size).expect("a recipe's image fits memory")];
        for operation in &self.ops {
            match *operation {
                Operation::Random { at, len, seed } => Rng::new(seed).fill(&mut image[at..at + len]),
                Operation::Fill { at, len, byte } => image[at..at + len].fill(byte),
            }
        }
        image
    }

    /// An image of random bytes.
    pub fn random(size: usize, seed: u64) -> Self {
        Self { size: size as u64, ops: vec![Operation::Random { at: 0, len: size, seed }] }
    }
}

/// The SHA-256 of `data` in hexadecimal.
pub fn sha256_hex(data: &[u8]) -> String {
    Sha256::digest(data).iter().map(|byte| format!("{byte:02x}")).collect()
}
