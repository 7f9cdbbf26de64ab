//! What users can choose that more than one operation knows.

/// What to do when the two devices have different sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum SizePolicy {
    /// Refuse.
    #[default]
    Strict,
    /// Synchronise up to the smaller size.
    MinSize,
    /// Synchronise everything; the target gets the source's size.
    Resize,
}

/// What goes in front of each block that is hashed.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Salt {
    /// 32 bytes from the system's random generator.
    #[default]
    Random,
    /// These bytes, at most [`bdsync_hash::MAX_SALT`].
    Fixed(Vec<u8>),
}

impl Salt {
    /// How many bytes a random salt has.
    pub const LENGTH: usize = 32;

    /// The salt of `--fixedsalt`: zeros.
    pub fn zeros() -> Self {
        Self::Fixed(vec![0; Self::LENGTH])
    }
}
