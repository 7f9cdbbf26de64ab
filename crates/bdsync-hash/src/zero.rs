//! Zero bytes: recognising them at the speed of memory, and having some to hash.

/// Zero bytes to feed to a digest where the data has none of its own. Few, for they are
/// stored in the program.
pub(crate) static ZEROS: [u8; 4096] = [0; 4096];

/// Bytes looked at before the first decision; most blocks that are not zero
/// show it here.
const GLANCE: usize = 64;
/// Bytes looked at between later decisions.
const STRIDE: usize = 512;

/// Whether all bytes are zero. Stops early where they are not.
pub fn is_zero(data: &[u8]) -> bool {
    let (head, rest) = data.split_at(data.len().min(GLANCE));
    portable(head) && (rest.is_empty() || rest_is_zero(rest))
}

fn rest_is_zero(data: &[u8]) -> bool {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2.
        return unsafe { avx2(data) };
    }
    portable(data)
}

/// Ors a stretch of bytes together and only then decides, which compilers turn
/// into vector code of whatever width they may use.
#[inline(always)]
fn portable(data: &[u8]) -> bool {
    let (strides, rest) = data.as_chunks::<STRIDE>();
    let any_bit = |stretch: &[u8]| stretch.iter().fold(0, |bits, byte| bits | byte);
    strides.iter().all(|stride| any_bit(stride) == 0) && any_bit(rest) == 0
}

/// The portable version, compiled for AVX2.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn avx2(data: &[u8]) -> bool {
    portable(data)
}
