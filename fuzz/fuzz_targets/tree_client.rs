//! What an agent could send to a client that compares: ranges come in order and within the
//! device, data only where it was asked for, and an end only when everything was dealt with.
#![no_main]

use std::io::{Cursor, Write};
use std::num::NonZeroUsize;
use std::sync::{Arc, OnceLock};

use bdsync_device::{Access, Device};
use bdsync_engine::tree::{Differences, Link, LinkOptions, Shape, tree_client};
use bdsync_engine::{Cancellation, Context, Result, ScanOptions, Scanner};
use bdsync_hash::Algorithm;
use libfuzzer_sys::fuzz_target;

const SIZE: u64 = 100_000;

#[derive(Default)]
struct Found {
    last: u64,
    resolved: u64,
    asked: u64,
    got: u64,
}

impl Differences for Found {
    fn differs(&mut self, position: u64, length: u64) -> Result<()> {
        assert!(length > 0 && position >= self.last && position + length <= SIZE);
        self.last = position + length;
        self.asked += length;
        Ok(())
    }

    fn data(&mut self, position: u64, bytes: &[u8]) -> Result<()> {
        self.got += bytes.len() as u64;
        assert!(position + bytes.len() as u64 <= self.last && self.got <= self.asked);
        Ok(())
    }

    fn resolved(&mut self, position: u64) -> Result<()> {
        assert!(position >= self.resolved && position <= SIZE);
        self.resolved = position;
        Ok(())
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
    let fetch = choice & 128 != 0;
    let mut link =
        Link::new(Cursor::new(data.to_vec()), std::io::sink(), LinkOptions::Refuse(1 << 20), true).expect("a link");
    let scan = ScanOptions { threads: NonZeroUsize::new(1), ..ScanOptions::default() };
    let scanner = Scanner::new(device(), scan).expect("a scanner");
    let cancellation = Cancellation::new();
    let context = Context { observer: &|_: &_| {}, cancellation: &cancellation };
    let mut found = Found::default();
    if let Ok(stats) = tree_client(&mut link, &scanner, &shape, fetch, &mut found, context) {
        assert_eq!((stats.compared_bytes, found.resolved), (SIZE, SIZE));
        assert_eq!(stats.differing_bytes, found.asked);
        assert!(!fetch || found.got == found.asked);
    }
});
