//! What requests carry: ranges, hints, the choice of digests
//! (`proto-spec/protocol.md`, messages; `proto-spec/limits.md`).

use crate::error::ProtocolError;
use crate::limits::{MAX_BLOCK_ANSWER, MAX_POSITION, MAX_STEP};

/// `count` blocks of `step` bytes from `start` on, to be hashed one by one.
///
/// It may reach past the end of a device (what lies there is read as zeros),
/// but its end fits the wire's integers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HashRange {
    start: u64,
    step: u64,
    count: u32,
}

impl HashRange {
    /// A range, if it is within the limits.
    ///
    /// # Errors
    ///
    /// A step of 0 or over [`MAX_STEP`], a count of 0, an end past [`MAX_POSITION`].
    pub fn new(start: u64, step: u64, count: u32) -> Result<Self, ProtocolError> {
        let end = step.checked_mul(u64::from(count)).and_then(|length| start.checked_add(length));
        if step == 0 || step > MAX_STEP {
            return Err(ProtocolError::Limit {
                asked: format!("hashes of blocks of {step} bytes"),
                limit: format!("1 to {MAX_STEP} bytes"),
            });
        }
        if count == 0 || end.is_none_or(|end| end > MAX_POSITION) {
            return Err(ProtocolError::Limit {
                asked: format!("hashes of {count} blocks of {step} bytes at {start}"),
                limit: format!("at least one block that ends at or before {MAX_POSITION}"),
            });
        }
        Ok(Self { start, step, count })
    }

    /// Where the first block begins, in bytes.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// The length of each block, in bytes.
    pub fn step(&self) -> u64 {
        self.step
    }

    /// How many blocks.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Where the last block ends, in bytes.
    pub fn end(&self) -> u64 {
        self.start + self.step * u64::from(self.count)
    }
}

/// `length` bytes of a device from `position` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BlockRange {
    position: u64,
    length: u32,
}

impl BlockRange {
    /// A range, if one answer can carry it.
    ///
    /// # Errors
    ///
    /// A length over [`MAX_BLOCK_ANSWER`], an end past [`MAX_POSITION`].
    pub fn new(position: u64, length: u64) -> Result<Self, ProtocolError> {
        if length > MAX_BLOCK_ANSWER as u64 || position > MAX_POSITION - length {
            return Err(ProtocolError::Limit {
                asked: format!("a block of {length} bytes at {position}"),
                limit: format!("{MAX_BLOCK_ANSWER} bytes that end at or before {MAX_POSITION}"),
            });
        }
        Ok(Self { position, length: length as u32 })
    }

    /// Where it begins, in bytes.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// How long it is, in bytes.
    pub fn length(&self) -> u32 {
        self.length
    }
}

/// Something a client tells a server about its reading; it is answered, but
/// changes no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Hint {
    /// Which hint.
    pub number: i64,
    /// Its argument.
    pub argument: u64,
}

impl Hint {
    /// The number of the hint to drop each block from the page cache after reading it.
    pub const FLUSH_CACHE: i64 = 0;
    /// The number of the hint that everything before the argument will not be read again.
    pub const RELEASED_POSITION: i64 = 1;

    /// Drop each block from the page cache after reading it.
    pub fn flush_cache() -> Self {
        Self { number: Self::FLUSH_CACHE, argument: 0 }
    }

    /// Everything before `position` will not be read again.
    pub fn released(position: u64) -> Self {
        Self { number: Self::RELEASED_POSITION, argument: position.min(MAX_POSITION) }
    }
}

/// How blocks are to be hashed, as a client says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DigestChoice {
    /// What goes before each block.
    pub salt: Vec<u8>,
    /// The digest's name, in the peer's own spelling.
    pub digest: String,
    /// The name of the digest over everything, if one is wanted.
    pub checksum: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_beyond_the_limits_are_refused() {
        assert!(HashRange::new(0, 0, 1).is_err());
        assert!(HashRange::new(0, MAX_STEP + 1, 1).is_err());
        assert!(HashRange::new(0, 1, 0).is_err());
        assert!(HashRange::new(MAX_POSITION, 1, 1).is_err());
        assert!(HashRange::new(u64::MAX, MAX_STEP, u32::MAX).is_err());
        assert!(HashRange::new(MAX_POSITION - 1, 1, 1).is_ok());
        assert!(BlockRange::new(0, MAX_BLOCK_ANSWER as u64 + 1).is_err());
        assert!(BlockRange::new(MAX_POSITION, 1).is_err());
        assert!(BlockRange::new(0, MAX_BLOCK_ANSWER as u64).is_ok());
    }
}
