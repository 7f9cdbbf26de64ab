//! What a client could send to an agent that compares: its patch arrives as it was sent, and
//! everything else is answered or refused.
#![no_main]

use std::io::{Cursor, Write};
use std::num::NonZeroUsize;
use std::sync::{Arc, OnceLock};

use bdsync_device::{Access, Device};
use bdsync_engine::tree::{Link, LinkOptions, PatchSink, Piece, Shape, tree_server};
use bdsync_engine::{Cancellation, Context, Result, ScanOptions, Scanner};
use bdsync_hash::Algorithm;
use libfuzzer_sys::fuzz_target;

const SIZE: u64 = 100_000;

struct Stored(usize);

impl PatchSink for Stored {
    fn write(&mut self, piece: Piece) -> Result<Option<Vec<u8>>> {
        assert!(piece.bytes().len() <= 131_000);
        self.0 += piece.bytes().len();
        Ok(Some(piece.into_memory()))
    }
}

fn device() -> Arc<Device> {
    static DEVICE: OnceLock<(tempfile::NamedTempFile, Arc<Device>)> = OnceLock::new();
    let (_, device) = DEVICE.get_or_init(|| {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        let content: Vec<u8> =
            (0..SIZE).map(|index| if index / 8192 % 3 == 0 { 0 } else { (index / 512) as u8 }).collect();
        file.write_all(&content).expect("its content");
        let device = Arc::new(Device::open(file.path(), Access::Read).expect("the file"));
        (file, device)
    });
    Arc::clone(device)
}

fuzz_target!(|data: &[u8]| {
    let Some((&choice, data)) = data.split_first() else { return };
    let mut shape = Shape::new(512, Algorithm::Md5, Vec::new(), SIZE);
    (shape.fanout, shape.window) = ([2, 8, 32][usize::from(choice) % 3], [1, 4, 1000][usize::from(choice) / 3 % 3]);
    let mut link =
        Link::new(Cursor::new(data.to_vec()), std::io::sink(), LinkOptions::Wait(1 << 16), true).expect("a link");
    let scan = ScanOptions { threads: NonZeroUsize::new(1), ..ScanOptions::default() };
    let scanner = Scanner::new(device(), scan).expect("a scanner");
    let cancellation = Cancellation::new();
    let context = Context { observer: &|_: &_| {}, cancellation: &cancellation };
    let mut stored = Stored(0);
    let sink: Option<&mut dyn PatchSink> = if choice & 128 == 0 { Some(&mut stored) } else { None };
    let _ = tree_server(&mut link, &scanner, &shape, sink, context);
});
