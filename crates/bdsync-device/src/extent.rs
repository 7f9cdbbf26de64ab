//! Where a file has data and where it has holes.

use std::collections::VecDeque;
use std::fs::File;
use std::sync::{Mutex, PoisonError};

use rustix::fs::{FsWord, SeekFrom, fstat, fstatfs, seek};

use crate::device::Device;

/// A part of a device that is all data or all hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Whether nothing is stored there; reading gives zeros.
    pub hole: bool,
    /// Where it begins (or a later byte that was asked for).
    pub start: u64,
    /// Where it ends.
    pub end: u64,
}

/// Asks the file system; `position` must be before `size`.
pub(crate) fn query(file: &File, position: u64, size: u64) -> Extent {
    let data = Extent { hole: false, start: position, end: size };
    if is_full_in_memory(file, size) {
        return data;
    }
    let extent = ask(file, position, size, data);
    // A file that became shorter has no hole at its end: it has no end there any more,
    // and reading will say so.
    let shorter = || fstat(file).is_ok_and(|stat| (stat.st_size as u64) < size);
    if extent.hole && extent.end >= size && shorter() { data } else { extent }
}

/// The number that tmpfs names itself with in `statfs`.
const TMPFS_MAGIC: FsWord = 0x0102_1994;
/// What `st_blocks` counts in, in bytes.
const STAT_BLOCK: u64 = 512;

/// Whether a file lies in a tmpfs and every page of it is there. To find that there is no
/// hole, a tmpfs looks at one page after another, which takes longer than comparing some of them.
/// Other file systems look at extents, and count as stored what was reserved and reads as a hole.
fn is_full_in_memory(file: &File, size: u64) -> bool {
    let all_stored = || fstat(file).is_ok_and(|stat| stat.st_blocks as u64 * STAT_BLOCK >= size);
    fstatfs(file).is_ok_and(|system| system.f_type == TMPFS_MAGIC) && all_stored()
}

fn ask(file: &File, position: u64, size: u64, data: Extent) -> Extent {
    match seek(file, SeekFrom::Data(position)) {
        Ok(at) if at > position => Extent { hole: true, start: position, end: at.min(size) },
        Ok(_) => match seek(file, SeekFrom::Hole(position)) {
            Ok(end) if end > position => Extent { end: end.min(size), ..data },
            _ => data,
        },
        // No data from here to the end.
        Err(rustix::io::Errno::NXIO) => Extent { hole: true, ..data },
        // Block devices and some file systems cannot tell.
        Err(_) => data,
    }
}

/// How many extents are remembered: enough for all threads that scan side by side.
const REMEMBERED: usize = 16;

/// The extents of a device, asked for once and remembered for a while.
///
/// Finding where a long extent ends means walking all of it, so threads that
/// scan neighbouring ranges share the answer.
#[derive(Debug, Default)]
pub struct ExtentMap {
    recent: Mutex<VecDeque<Extent>>,
}

impl ExtentMap {
    /// A map that knows nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The extent of `device` that `position` lies in, starting there.
    pub fn extent_at(&self, device: &Device, position: u64) -> Extent {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let known = recent.iter().find(|extent| (extent.start..extent.end).contains(&position));
        let extent = match known {
            Some(extent) => *extent,
            None => {
                let extent = device.extent_at(position);
                if recent.len() == REMEMBERED {
                    recent.pop_front();
                }
                recent.push_back(extent);
                extent
            }
        };
        Extent { start: position, ..extent }
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::os::unix::fs::FileExt;

    use super::*;
    use crate::device::Access;

    fn sparse() -> io::Result<tempfile::NamedTempFile> {
        let file = tempfile::NamedTempFile::new()?;
        file.as_file().set_len(8 << 20)?;
        file.as_file().write_all_at(&[1; 4096], 1 << 20)?;
        Ok(file)
    }

    #[test]
    fn holes_and_data_are_told_apart() {
        let file = sparse().unwrap();
        let device = Device::open(file.path(), Access::Read).unwrap();
        let map = ExtentMap::new();
        for _ in 0..2 {
            assert_eq!(map.extent_at(&device, 0), Extent { hole: true, start: 0, end: 1 << 20 });
            assert_eq!(map.extent_at(&device, 5000), Extent { hole: true, start: 5000, end: 1 << 20 });
            let data = map.extent_at(&device, 1 << 20);
            assert!(!data.hole && data.end >= (1 << 20) + 4096, "{data:?}");
            assert_eq!(map.extent_at(&device, 7 << 20), Extent { hole: true, start: 7 << 20, end: 8 << 20 });
        }
    }

    #[test]
    fn in_memory_only_a_file_with_all_its_pages_is_full() {
        let file = tempfile::NamedTempFile::new_in("/dev/shm").unwrap();
        file.as_file().set_len(1 << 20).unwrap();
        file.as_file().write_all_at(&[1; 1 << 19], 0).unwrap();
        let device = Device::open(file.path(), Access::Read).unwrap();
        assert!(!is_full_in_memory(file.as_file(), 1 << 20));
        assert_eq!(device.extent_at(1 << 19), Extent { hole: true, start: 1 << 19, end: 1 << 20 });
        file.as_file().write_all_at(&[1; 1 << 19], 1 << 19).unwrap();
        assert!(is_full_in_memory(file.as_file(), 1 << 20));
        assert_eq!(device.extent_at(4096), Extent { hole: false, start: 4096, end: 1 << 20 });
    }
}
