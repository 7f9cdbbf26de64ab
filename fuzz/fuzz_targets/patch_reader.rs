//! A patch that reads is written again to the same bytes, however it comes.
#![no_main]

use std::io::Read;

use bdsync_proto::patch::{PatchReader, PatchWriter};
use libfuzzer_sys::fuzz_target;

/// A stream that gives a few bytes at a time.
struct Slow<'a>(&'a [u8]);

impl Read for Slow<'_> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let count = out.len().min(self.0.len()).min(7);
        out[..count].copy_from_slice(&self.0[..count]);
        self.0 = &self.0[count..];
        Ok(count)
    }
}

/// Reads and writes a patch; `None` if it is not one. Records longer than a
/// writer makes them, and empty ones, do not come out as they went in.
fn rewrite(data: impl Read) -> Option<(Vec<u8>, bool)> {
    let mut reader = PatchReader::new(data).ok()?;
    let mut writer = PatchWriter::new(Vec::new(), reader.header()).expect("a header that was read");
    let mut same = true;
    while let Some(record) = reader.next_record().ok()? {
        same &= (1..=32_768).contains(&record.data.len());
        writer.write_data(record.position, record.data).expect("a record that was read");
    }
    let checksum = reader.finish().ok()?;
    let (bytes, _) = writer.finish(checksum.as_ref()).expect("a checksum that was read");
    Some((bytes, same))
}

fuzz_target!(|data: &[u8]| {
    let at_once = rewrite(data);
    let slowly = rewrite(Slow(data));
    assert_eq!(at_once, slowly);
    if let Some((bytes, true)) = at_once {
        assert_eq!(bytes, data[..bytes.len()]);
    }
});
