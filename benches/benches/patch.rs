//! Writing, checking and applying patches.

use std::hint::black_box;

use bdsync_benches::SplitMix64;
use bdsync_engine::apply::{ApplyOptions, apply, check};
use bdsync_engine::{Cancellation, Context, Event, SizePolicy};
use bdsync_proto::patch::{PatchHeader, PatchWriter};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const BLOCK: usize = 4096;
const BLOCKS: usize = 4096;

fn write_patch(block: &[u8]) -> Vec<u8> {
    let size = (BLOCKS * BLOCK * 2) as u64;
    let header = PatchHeader { size, device: b"target.img".to_vec() };
    let stream = Vec::with_capacity(BLOCKS * (BLOCK + 10) + 100);
    let mut writer = PatchWriter::new(stream, &header).expect("memory");
    for index in 0..BLOCKS {
        writer.write_data((index * BLOCK * 2) as u64, block).expect("memory");
    }
    writer.finish(None).expect("memory").0
}

fn patches(criterion: &mut Criterion) {
    let mut block = vec![0; BLOCK];
    SplitMix64::new(3).fill(&mut block);
    let patch = write_patch(&block);
    let target = tempfile::NamedTempFile::new_in("/dev/shm").expect("a file");
    target.as_file().set_len((BLOCKS * BLOCK * 2) as u64).expect("space");
    let options = ApplyOptions {
        device: Some(target.path().as_os_str().to_owned()),
        size_policy: SizePolicy::Strict,
        warn_size: false,
        warn_device: false,
        punch_holes: false,
        read_ahead: false,
        verify: None,
    };
    let cancellation = Cancellation::new();
    let observer = |_: &Event| {};
    let context = Context { observer: &observer, cancellation: &cancellation };

    let mut group = criterion.benchmark_group("patch");
    group.throughput(Throughput::Bytes(patch.len() as u64));
    group.bench_function("write", |bencher| bencher.iter(|| black_box(write_patch(&block))));
    group.bench_function("check", |bencher| {
        bencher.iter(|| check(std::io::Cursor::new(&patch), context).expect("a good patch"))
    });
    group.bench_function("apply", |bencher| {
        bencher.iter(|| apply(&patch[..], &options, context).expect("a good patch"));
    });
    group.finish();
}

criterion_group!(benches, patches);
criterion_main!(benches);
