//! How fast each implementation of each digest hashes blocks, on one thread.

use std::hint::black_box;

use bdsync_hash::{Algorithm, BlockHasher, Implementation};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

const SALT: [u8; 32] = [7; 32];
const BLOCK_SIZE: usize = 4096;
const BLOCKS: usize = 256;

fn digests(criterion: &mut Criterion) {
    let data: Vec<u8> = (0..BLOCKS * BLOCK_SIZE).map(|i| (i % 251) as u8).collect();
    let mut group = criterion.benchmark_group("digests");
    group.throughput(Throughput::Bytes(data.len() as u64));
    for &algorithm in Algorithm::ALL {
        let mut out = vec![0; BLOCKS * algorithm.digest_size()];
        for implementation in Implementation::available(algorithm) {
            let hasher = BlockHasher::with_implementation(algorithm, &SALT, BLOCK_SIZE as u64, implementation);
            let id = BenchmarkId::new(algorithm.name(), implementation);
            group.bench_function(id, |bencher| {
                bencher.iter(|| hasher.hash_blocks(black_box(&data), black_box(&mut out)));
            });
        }
    }
    group.finish();
}

criterion_group!(benches, digests);
criterion_main!(benches);
