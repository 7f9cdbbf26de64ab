//! The real client, whatever the server answers: it ends, and a patch with an end
//! comes only from a session that ended well.
#![no_main]

use std::io::Cursor;
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt;
use std::str::FromStr;
use std::sync::{Arc, OnceLock};

use bdsync_device::{Access, Device};
use bdsync_engine::diff::{DiffOptions, NamedDigest, Names, Peer, diff};
use bdsync_engine::{Cancellation, Context, Event, Salt, ScanOptions, Scanner, SizePolicy};
use bdsync_hash::Algorithm;
use bdsync_proto::patch::PatchReader;
use libfuzzer_sys::fuzz_target;

fn path() -> &'static std::path::Path {
    static IMAGE: OnceLock<tempfile::NamedTempFile> = OnceLock::new();
    let image = IMAGE.get_or_init(|| {
        let image = tempfile::NamedTempFile::new_in("/dev/shm").expect("a file");
        image.as_file().set_len(307_200).expect("space");
        image.as_file().write_all_at(&[5; 30_000], 10_000).expect("space");
        image
    });
    image.path()
}

/// Whether the server claims a size at which comparing zeros is all the client would do.
fn is_slow(data: &[u8]) -> bool {
    data.windows(13).any(|window| {
        let size = u64::from_le_bytes(window[5..].try_into().expect("eight bytes"));
        window[..5] == [9, 0, 0, 0, 3] && size > 1 << 30
    })
}

fuzz_target!(|data: &[u8]| {
    let Some((&mode, data)) = data.split_first() else { return };
    if is_slow(data) {
        return;
    }
    let device = Device::open(path(), Access::Read).expect("the image");
    let scanner =
        Scanner::new(Arc::new(device), ScanOptions { threads: NonZeroUsize::new(1), ..ScanOptions::default() })
            .expect("a scanner");
    let digest = NamedDigest { algorithm: Algorithm::from_str("md5").expect("known"), name: "md5".into() };
    let mut options = DiffOptions::new(digest.clone());
    options.salt = Salt::zeros();
    options.two_pass = mode & 1 != 0;
    options.remote_data = mode & 2 != 0;
    options.checksum = (mode & 4 != 0).then_some(digest);
    options.size_policy = if mode & 8 != 0 { SizePolicy::Resize } else { SizePolicy::MinSize };
    let cancellation = Cancellation::new();
    let observer = |_: &Event| {};
    let context = Context { observer: &observer, cancellation: &cancellation };
    let peer = Peer { input: Cursor::new(data.to_vec()), output: std::io::sink() };
    let names = Names { local: b"source.img", remote: b"target.img" };
    let mut patch = Vec::new();
    let result = diff(&scanner, names, peer, &mut patch, &options, context).map(|(_, stats)| stats);
    match result {
        Ok(stats) => assert_eq!(stats.patch.patch_bytes, patch.len() as u64),
        Err(error) => {
            assert_ne!(error.exit_code().code(), 0);
            let whole = PatchReader::new(&patch[..]).and_then(PatchReader::finish);
            assert!(whole.is_err(), "a whole patch from a session that failed: {error}");
        }
    }
});
