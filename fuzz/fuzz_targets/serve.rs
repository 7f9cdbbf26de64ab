//! The real server on a real file never panics, and ends when its client does.
#![no_main]

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt;
use std::sync::Once;

use bdsync_engine::serve::serve;
use bdsync_engine::{Cancellation, Context, Event, ScanOptions};
use libfuzzer_sys::fuzz_target;

static START: Once = Once::new();

/// The recordings name `target.img`: make one, in a folder of our own.
fn start() {
    let folder = std::env::temp_dir().join(format!("bdsync-fuzz-serve-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    std::env::set_current_dir(&folder).expect("our folder");
    let image = File::create("target.img").expect("an image");
    image.set_len(102_400).expect("space");
    image.write_all_at(&[5; 30_000], 10_000).expect("space");
}

/// Whether a stream asks for blocks so large that hashing their zeros is all it would do.
fn is_slow(data: &[u8]) -> bool {
    data.windows(29).any(|window| {
        let word = |at: usize| u64::from_le_bytes(window[at..at + 8].try_into().expect("eight bytes"));
        let end = word(13).saturating_mul(word(21)).saturating_add(word(5));
        window[..5] == [25, 0, 0, 0, 5] && (word(13) > 1 << 22 || end > 1 << 27)
    })
}

fuzz_target!(|data: &[u8]| {
    START.call_once(start);
    if is_slow(data) {
        return;
    }
    let mut input = tempfile::tempfile_in("/dev/shm").expect("a file");
    input.write_all(data).expect("space");
    input.seek(SeekFrom::Start(0)).expect("its start");
    let options = ScanOptions { threads: NonZeroUsize::new(1), ..ScanOptions::default() };
    let cancellation = Cancellation::new();
    let observer = |_: &Event| {};
    let context = Context { observer: &observer, cancellation: &cancellation };
    let mut output = Vec::new();
    if let Err(error) = serve(input, &mut output, options, context) {
        assert_ne!(error.exit_code().code(), 0);
    }
    assert!(output.starts_with(b"\x0b\0\0\0\x01SERVER 0.5"));
});
