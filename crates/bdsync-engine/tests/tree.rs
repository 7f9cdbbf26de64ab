//! Two devices compared over a connection with a tree of digests.
#![allow(clippy::unwrap_used)]

use std::io::Write;
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bdsync_device::{Access, Device};
use bdsync_engine::tree::{
    Differences, Link, LinkOptions, PatchSink, Piece, PieceWriter, Shape, TreeStats, tree_client, tree_server,
};
use bdsync_engine::{Cancellation, Context, Error, Result, ScanOptions, Scanner};
use bdsync_hash::Algorithm;
use bdsync_proto::agent::AgentMessage;
use proptest::prelude::*;

fn file(content: &[u8], size: u64) -> (tempfile::NamedTempFile, Arc<Scanner>) {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(size).unwrap();
    for (index, block) in content.chunks(4096).enumerate().filter(|(_, block)| block.iter().any(|byte| *byte > 0)) {
        file.as_file().write_at(block, index as u64 * 4096).unwrap();
    }
    let device = Arc::new(Device::open(file.path(), Access::Read).unwrap());
    let scanner = Scanner::new(device, ScanOptions { threads: NonZeroUsize::new(2), ..ScanOptions::default() });
    (file, scanner.unwrap())
}

fn links() -> (Link, Link) {
    let (near, far) = UnixStream::pair().unwrap();
    let near = Link::new(near.try_clone().unwrap(), near, LinkOptions::Refuse(64 << 20), true).unwrap();
    let far = Link::new(far.try_clone().unwrap(), far, LinkOptions::Wait(1 << 20), true).unwrap();
    (near, far)
}

#[derive(Default)]
struct Found {
    ranges: Vec<(u64, u64)>,
    data: Vec<u8>,
    resolved: u64,
    upload: Option<PieceWriter>,
}

impl Differences for Found {
    fn differs(&mut self, position: u64, length: u64) -> Result<()> {
        assert!(position >= self.resolved);
        self.ranges.push((position, length));
        if let Some(upload) = &mut self.upload {
            upload.write_all(format!("{position}+{length} ").as_bytes()).unwrap();
        }
        Ok(())
    }

    fn data(&mut self, _: u64, bytes: &[u8]) -> Result<()> {
        self.data.extend_from_slice(bytes);
        Ok(())
    }

    fn resolved(&mut self, position: u64) -> Result<()> {
        assert!(position >= self.resolved);
        self.resolved = position;
        Ok(())
    }
}

#[derive(Default)]
struct Stored(Vec<u8>);

impl PatchSink for Stored {
    fn write(&mut self, piece: Piece) -> Result<Option<Vec<u8>>> {
        self.0.extend_from_slice(piece.bytes());
        Ok(Some(piece.into_memory()))
    }
}

struct Case {
    found: Found,
    stats: TreeStats,
    stored: Vec<u8>,
}

fn compare(near: &Arc<Scanner>, far: &Arc<Scanner>, shape: &Shape, fetch: bool, upload: bool) -> Result<Case> {
    let (mut near_link, mut far_link) = links();
    let (far, far_shape) = (Arc::clone(far), shape.clone());
    let server = std::thread::spawn(move || {
        let cancellation = Cancellation::new();
        let context = Context { observer: &|_: &_| {}, cancellation: &cancellation };
        let mut stored = Stored::default();
        let sink: Option<&mut dyn PatchSink> = if upload { Some(&mut stored) } else { None };
        let complete = tree_server(&mut far_link, &far, &far_shape, sink, context)?;
        Ok::<_, Error>((complete, stored.0))
    });
    let cancellation = Cancellation::new();
    let context = Context { observer: &|_: &_| {}, cancellation: &cancellation };
    let output = near_link.output().clone();
    let upload = upload.then(|| PieceWriter::new(output.clone(), AgentMessage::Patch, true).unwrap());
    let mut found = Found { upload, ..Found::default() };
    let stats = tree_client(&mut near_link, near, shape, fetch, &mut found, context)?;
    if let Some(upload) = &mut found.upload {
        upload.flush().unwrap();
    }
    output.send(AgentMessage::End, &[&[0]])?;
    output.flush()?;
    let (complete, stored) = server.join().unwrap()?;
    assert!(complete);
    Ok(Case { found, stats, stored })
}

/// Blocks that differ, as the client's ranges say it.
fn blocks(ranges: &[(u64, u64)], block_size: u64) -> Vec<u64> {
    ranges.iter().flat_map(|(start, length)| start / block_size..(start + length).div_ceil(block_size)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]
    #[test]
    fn exactly_what_differs_is_found(
        near in content(), far in content(), change in any::<bool>(),
        block_size in prop_oneof![Just(512u64), Just(4096), Just(1000), Just(65536)],
        fanout in prop_oneof![Just(2u64), Just(5), Just(32)],
        window in prop_oneof![Just(1u64), Just(3), Just(1000)],
        fetch in any::<bool>(), upload in any::<bool>(),
    ) {
        // Half of the cases have much in common.
        let far = if change {
            let mut mixed = near.clone();
            let cut = far.len().min(mixed.len()) / 3;
            mixed[..cut].copy_from_slice(&far[..cut]);
            mixed
        } else { far };
        let length = near.len() as u64;
        let ((_near, near_scanner), (_far, far_scanner)) = (file(&near, length), file(&far, far.len() as u64));
        let mut shape = Shape::new(block_size, Algorithm::Md5, b"salt".to_vec(), length);
        (shape.fanout, shape.window) = (fanout, window);
        let case = compare(&near_scanner, &far_scanner, &shape, fetch, upload).unwrap();
        let mut padded = far;
        padded.resize(near.len(), 0);
        let expected: Vec<u64> = near.chunks(block_size as usize).zip(padded.chunks(block_size as usize))
            .enumerate().filter(|(_, (a, b))| a != b).map(|(index, _)| index as u64).collect();
        prop_assert_eq!(blocks(&case.found.ranges, block_size), expected.clone());
        prop_assert_eq!(case.stats.differing_blocks, expected.len() as u64);
        prop_assert_eq!(case.stats.compared_bytes, length);
        prop_assert_eq!(case.found.resolved, length);
        if fetch {
            let theirs: Vec<u8> = case.found.ranges.iter()
                .flat_map(|(start, length)| padded[*start as usize..(start + length) as usize].to_vec()).collect();
            prop_assert!(case.found.data == theirs);
        }
        if upload {
            let text: String = case.found.ranges.iter().map(|(start, length)| format!("{start}+{length} ")).collect();
            prop_assert_eq!(String::from_utf8(case.stored).unwrap(), text);
        }
    }
}

/// Images with noise, runs and holes.
fn content() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        (1..40_000usize).prop_map(|length| vec![0; length]),
        (1..40_000usize, any::<u8>()).prop_map(|(length, byte)| vec![byte; length]),
        (1..20_000usize, any::<u32>()).prop_map(|(length, seed)| {
            (0..length as u32).map(|index| (index.wrapping_mul(2_654_435_761).wrapping_add(seed) >> 24) as u8).collect()
        }),
    ];
    proptest::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

#[test]
fn a_tebibyte_of_holes_takes_a_moment_and_a_few_bytes() {
    let size = 1 << 40;
    let ((_near, near), (_far, far)) = (file(b"data at the front", size), file(b"data at the fronT", size));
    let shape = Shape::new(4096, Algorithm::Md5, b"salt".to_vec(), size);
    let begin = Instant::now();
    let case = compare(&near, &far, &shape, false, false).unwrap();
    assert_eq!(case.found.ranges, [(0, 4096)]);
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
}

#[test]
fn a_sample_is_compared_and_the_rest_is_not() {
    let content = vec![1; 3_000_000];
    let mut other = content.clone();
    // In the second span, which is not in the sample, and in the last, which is.
    other[140_000] = 2;
    other[2_999_999] = 2;
    let ((_near, near), (_far, far)) = (file(&content, 3_000_000), file(&other, 3_000_000));
    let mut shape = Shape::new(4096, Algorithm::Md5, b"salt".to_vec(), 3_000_000);
    shape.parts = NonZeroUsize::new(2);
    let case = compare(&near, &far, &shape, false, false).unwrap();
    assert_eq!(case.found.ranges, [(2_998_272, 1728)]);
}

#[test]
fn a_peer_that_breaks_the_rules_is_told_apart() {
    let content = vec![3; 1_000_000];
    let (_near, near) = file(&content, 1_000_000);
    let shape = Shape::new(4096, Algorithm::Md5, Vec::new(), 1_000_000);
    let mut wrong_span = 5u64.to_le_bytes().to_vec();
    wrong_span.extend([1, 0, 0, 0]);
    wrong_span.extend([0; 16]);
    let mut too_many = 0u64.to_le_bytes().to_vec();
    too_many.extend([100, 0, 0, 128]);
    too_many.extend([0; 16]);
    for (message, payload) in [
        (AgentMessage::Digests, wrong_span),
        (AgentMessage::Digests, too_many),
        (AgentMessage::Digests, vec![0; 7]),
        (AgentMessage::Leaves, vec![0; 8]),
        (AgentMessage::Data, vec![0; 20]),
        (AgentMessage::Request, vec![]),
    ] {
        let (mut link, far) = links();
        far.output().send(message, &[&payload]).unwrap();
        far.output().flush().unwrap();
        let cancellation = Cancellation::new();
        let context = Context { observer: &|_: &_| {}, cancellation: &cancellation };
        let scanner = Scanner::new(Arc::new(Device::open(_near.path(), Access::Read).unwrap()), ScanOptions::default());
        let result = tree_client(&mut link, &scanner.unwrap(), &shape, false, &mut Found::default(), context);
        assert!(matches!(result, Err(Error::Protocol(_))), "{message:?}: {result:?}");
    }
    drop(near);
}
