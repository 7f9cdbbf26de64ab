//! A patch that passes the check applies whole; one that does not is refused by
//! applying, too; what is written lies within the device.
#![no_main]

use std::fs;
use std::io::Cursor;

use bdsync_engine::apply::{ApplyOptions, apply, check};
use bdsync_engine::{Cancellation, Context, Error, Event, SizePolicy};
use libfuzzer_sys::fuzz_target;

/// Larger targets would fill the disk, not find more.
const MOST: u64 = 1 << 40;

fuzz_target!(|data: &[u8]| {
    let Some((&mode, data)) = data.split_first() else { return };
    let target = tempfile::NamedTempFile::new_in("/dev/shm").expect("a file");
    target.as_file().set_len(102_400).expect("space");
    let size_policy = match mode % 3 {
        0 => SizePolicy::Strict,
        1 => SizePolicy::MinSize,
        _ => SizePolicy::Resize,
    };
    let options = ApplyOptions {
        device: Some(target.path().as_os_str().to_owned()),
        size_policy,
        warn_size: false,
        warn_device: false,
        punch_holes: mode & 128 != 0,
        read_ahead: mode & 64 != 0,
        verify: None,
    };
    let cancellation = Cancellation::new();
    let observer = |_: &Event| {};
    let context = Context { observer: &observer, cancellation: &cancellation };
    let checked = check(Cursor::new(data), context);
    if checked.as_ref().is_ok_and(|summary| summary.header.size > MOST) {
        return;
    }
    let applied = apply(Cursor::new(data), &options, context);
    let size = fs::metadata(target.path()).expect("still there").len();
    match (&checked, &applied) {
        (Ok(summary), Ok(stats)) => {
            let wanted = if size_policy == SizePolicy::Resize { summary.header.size } else { 102_400 };
            assert_eq!((size, stats.device_bytes), (wanted, wanted));
            assert!(stats.written_bytes <= summary.data_bytes);
        }
        (Ok(_), Err(Error::DifferentSizes { .. } | Error::Device(_))) => assert_eq!(size, 102_400),
        (Err(_), Err(_)) => {}
        (checked, applied) => panic!("{checked:?} {applied:?}"),
    }
});
