//! Our client against our server over pipes, without processes.

#![allow(clippy::unwrap_used)] // the helpers of tests are tests

use std::io::{Cursor, PipeReader, PipeWriter, Read, Write, pipe};
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt;
use std::str::FromStr;
use std::sync::Arc;

use bdsync_device::{Access, Device, ReadStrategy};
use bdsync_engine::apply::{ApplyOptions, apply, check};
use bdsync_engine::diff::{DiffOptions, DiffStats, NamedDigest, Names, Peer, diff};
use bdsync_engine::serve::serve;
use bdsync_engine::{Cancellation, Context, Error, Event, Result, ScanOptions, Scanner, SizePolicy};
use bdsync_hash::Algorithm;
use proptest::prelude::*;
use tempfile::NamedTempFile;

fn digest(name: &str) -> NamedDigest {
    NamedDigest { algorithm: Algorithm::from_str(name).unwrap(), name: name.into() }
}

fn image(content: &[u8]) -> NamedTempFile {
    let file = NamedTempFile::new().unwrap();
    file.as_file().write_all_at(content, 0).unwrap();
    file
}

fn scan(strategy: ReadStrategy) -> ScanOptions {
    ScanOptions { strategy, threads: NonZeroUsize::new(2), ..ScanOptions::default() }
}

fn scanner(file: &NamedTempFile, options: ScanOptions) -> Arc<Scanner> {
    Scanner::new(Arc::new(Device::open(file.path(), Access::Read).unwrap()), options).unwrap()
}

const QUIET: &dyn bdsync_engine::Observer = &(|_: &Event| {});

/// Runs a client on `source` against a server on `target`.
fn run(
    source: &NamedTempFile,
    target: &NamedTempFile,
    options: &DiffOptions,
    strategy: ReadStrategy,
) -> Result<(Vec<u8>, DiffStats)> {
    let (server_input, output) = pipe().unwrap();
    let (input, server_output) = pipe().unwrap();
    let cancellation = Cancellation::new();
    let context = Context { observer: QUIET, cancellation: &cancellation };
    std::thread::scope(|scope| {
        let server = scope.spawn(|| {
            let cancellation = Cancellation::new();
            let context = Context { observer: QUIET, cancellation: &cancellation };
            serve(server_input, server_output, scan(strategy), context)
        });
        let names = Names { local: b"source", remote: target.path().as_os_str().as_encoded_bytes() };
        let peer: Peer<PipeReader, PipeWriter> = Peer { input, output };
        let result = diff(&scanner(source, scan(strategy)), names, peer, Vec::new(), options, context);
        let served = server.join().unwrap();
        assert_eq!(result.is_ok(), served.is_ok(), "{result:?} {served:?}");
        result
    })
}

fn apply_to(target: &NamedTempFile, patch: &[u8], punch_holes: bool) {
    let options = ApplyOptions {
        device: Some(target.path().into()),
        size_policy: SizePolicy::Resize,
        warn_size: false,
        warn_device: false,
        punch_holes,
        // Now in one way, now in the other.
        read_ahead: patch.len().is_multiple_of(2),
        verify: None,
    };
    let cancellation = Cancellation::new();
    let context = Context { observer: QUIET, cancellation: &cancellation };
    check(Cursor::new(patch), context).unwrap();
    apply(patch, &options, context).unwrap();
}

#[derive(Debug, Clone)]
struct Case {
    source: Vec<u8>,
    target: Vec<u8>,
    block_size: u64,
    two_pass: bool,
    remote_data: bool,
    checksum: bool,
    strategy: ReadStrategy,
    punch_holes: bool,
}

fn content() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        (1..200_000usize).prop_map(|length| vec![0; length]),
        (1..100_000usize, any::<u8>())
            .prop_map(|(length, seed)| (0..length).map(|at| (at / 7) as u8 ^ seed).collect::<Vec<u8>>()),
    ];
    prop::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat())
}

fn case() -> impl Strategy<Value = Case> {
    let strategies =
        prop_oneof![Just(ReadStrategy::Positional), Just(ReadStrategy::Mapped), Just(ReadStrategy::Direct)];
    let block_size = prop_oneof![1000..5000u64, Just(4096), Just(512), Just(65_536), Just(1 << 20), Just(1_048_577)];
    let edits = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..5);
    let flags = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    (content(), prop::option::of(content()), edits, block_size, flags, strategies).prop_map(
        |(source, other, edits, block_size, (two_pass, remote_data, checksum, punch_holes), strategy)| {
            let mut target = other.unwrap_or_else(|| source.clone());
            for (at, byte) in edits {
                if !target.is_empty() {
                    let at = at.index(target.len());
                    target[at] ^= byte;
                }
            }
            Case { source, target, block_size, two_pass, remote_data, checksum, strategy, punch_holes }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    /// Whatever the two devices, the blocks and the way to read them.
    #[test]
    fn after_applying_the_patch_both_devices_are_equal(case in case()) {
        let (source, target) = (image(&case.source), image(&case.target));
        let mut options = DiffOptions::new(digest("md5"));
        options.block_size = case.block_size;
        options.two_pass = case.two_pass;
        options.remote_data = case.remote_data;
        options.checksum = case.checksum.then(|| digest("sha256"));
        options.size_policy = SizePolicy::Resize;
        let (patch, stats) = run(&source, &target, &options, case.strategy).unwrap();
        prop_assert_eq!(stats.patch.patch_bytes, patch.len() as u64);
        let patched = if case.remote_data { &source } else { &target };
        apply_to(patched, &patch, case.punch_holes);
        prop_assert!(std::fs::read(source.path()).unwrap() == std::fs::read(target.path()).unwrap());
    }
}

#[test]
fn a_source_that_shrinks_is_an_error_and_never_a_patch_of_zeros() {
    let strategies = [ReadStrategy::Positional, ReadStrategy::Mapped, ReadStrategy::Direct];
    // Many blocks that are hashed as a whole, and some that are hashed piece by piece, of
    // which the last one loses its end. What is lost was zeros.
    let shapes = [(1 << 20, 4096, 4096), (12 << 20, 4 << 20, (8 << 20) + 4096)];
    for (strategy, (size, block_size, left)) in
        strategies.into_iter().flat_map(|strategy| shapes.map(|shape| (strategy, shape)))
    {
        let mut content = vec![0; size];
        for start in (0..left).step_by(block_size) {
            content[start..start + 4096].fill(7);
        }
        let (source, target) = (image(&content), image(&content));
        let shrinking = scanner(&source, scan(strategy));
        source.as_file().set_len(left as u64).unwrap();
        let (server_input, output) = pipe().unwrap();
        let (input, server_output) = pipe().unwrap();
        let name = target.path().to_path_buf();
        let server = std::thread::spawn(move || {
            let cancellation = Cancellation::new();
            let context = Context { observer: QUIET, cancellation: &cancellation };
            serve(server_input, server_output, scan(ReadStrategy::Positional), context)
        });
        let names = Names { local: b"source", remote: name.as_os_str().as_encoded_bytes() };
        let cancellation = Cancellation::new();
        let context = Context { observer: QUIET, cancellation: &cancellation };
        let mut options = DiffOptions::new(digest("md5"));
        options.block_size = block_size as u64;
        let mut patch = Vec::new();
        let error =
            diff(&shrinking, names, Peer { input, output }, &mut patch, &options, context).map(drop).unwrap_err();
        assert_eq!(error.exit_code().code(), 6, "{strategy:?}: {error}");
        assert!(check(Cursor::new(&patch), context).is_err(), "{strategy:?}: a whole patch");
        server.join().unwrap().unwrap_err();
    }
}

/// Frames as they stand on the wire.
fn message(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32 + 1).to_le_bytes().to_vec();
    bytes.push(kind);
    bytes.extend_from_slice(payload);
    bytes
}

fn words(a: u64, b: u64, c: u64) -> Vec<u8> {
    [a.to_le_bytes(), b.to_le_bytes(), c.to_le_bytes()].concat()
}

#[test]
fn a_server_that_is_busy_stops_reading() {
    let target = image(b"x");
    let name = target.path().as_os_str().as_encoded_bytes().to_vec();
    let (server_input, mut client) = pipe().unwrap();
    let (_answers, server_output) = pipe().unwrap();
    let cancellation = Cancellation::new();
    let stop = cancellation.clone();
    let server = std::thread::spawn(move || {
        let context = Context { observer: QUIET, cancellation: &stop };
        serve(server_input, server_output, scan(ReadStrategy::Positional), context)
    });
    // Blocks that take minutes, then as many small requests as the server reads.
    client.write_all(&message(1, b"CLIENT 0.5")).unwrap();
    client.write_all(&message(2, &name)).unwrap();
    client.write_all(&message(4, b"\0md5\0\0")).unwrap();
    for _ in 0..8 {
        client.write_all(&message(5, &words(0, 1 << 35, 1))).unwrap();
    }
    let flood = message(8, &[0; 16]).repeat(1000);
    rustix::fs::fcntl_setfl(&client, rustix::fs::OFlags::NONBLOCK).unwrap();
    let mut taken = 0;
    let mut idle = 0;
    // The pipe stays full once the server has stopped; a server that goes on reading empties it.
    while idle < 300 {
        match client.write(&flood[taken % flood.len()..]) {
            Ok(count) => (taken, idle) = (taken + count, 0),
            Err(error) => {
                if error.kind() != std::io::ErrorKind::WouldBlock {
                    panic!("the server ended early: {:?}", server.join());
                }
                idle += 1;
                let timeout = rustix::event::Timespec { tv_sec: 0, tv_nsec: 10_000_000 };
                let mut fds = [rustix::event::PollFd::new(&client, rustix::event::PollFlags::OUT)];
                rustix::event::poll(&mut fds, Some(&timeout)).unwrap();
            }
        }
        assert!(taken < 16 << 20, "the server has read {taken} bytes ahead");
    }
    cancellation.cancel();
    assert!(matches!(server.join().unwrap(), Err(Error::Cancelled)));
}

#[test]
fn a_server_that_floods_its_client_ends_the_run_with_a_protocol_error() {
    let content = vec![3; 3 << 20];
    let source = image(&content);
    let (mut requests, output) = pipe().unwrap();
    let (input, mut answers) = pipe().unwrap();
    let drain = std::thread::spawn(move || requests.read_to_end(&mut Vec::new()));
    let flood = std::thread::spawn(move || {
        let mut bytes = message(1, b"SERVER 0.5");
        bytes.extend(message(3, &(3u64 << 20).to_le_bytes()));
        answers.write_all(&bytes).unwrap();
        let done = message(7, b"").repeat(1000);
        while answers.write_all(&done).is_ok() {}
    });
    let mut options = DiffOptions::new(digest("md5"));
    options.checksum = Some(digest("md5"));
    let cancellation = Cancellation::new();
    let context = Context { observer: QUIET, cancellation: &cancellation };
    let names = Names { local: b"source", remote: b"remote" };
    let scanner = scanner(&source, scan(ReadStrategy::Positional));
    let error = diff(&scanner, names, Peer { input, output }, Vec::new(), &options, context).unwrap_err();
    assert_eq!(error.exit_code().code(), 4, "{error}");
    drain.join().unwrap().unwrap();
    flood.join().unwrap();
}

#[test]
fn a_cancelled_run_reads_the_device_no_more() {
    let source = image(b"");
    source.as_file().set_len(1 << 40).unwrap();
    let (_requests, output) = pipe().unwrap();
    let (input, mut answers) = pipe().unwrap();
    answers.write_all(&message(1, b"SERVER 0.5")).unwrap();
    answers.write_all(&message(3, &(1u64 << 40).to_le_bytes())).unwrap();
    let cancellation = Cancellation::new();
    let stop = cancellation.clone();
    let observer = move |event: &Event| {
        if matches!(event, Event::HashesRequested(_)) {
            stop.cancel();
        }
    };
    let context = Context { observer: &observer, cancellation: &cancellation };
    let options = ScanOptions { trust_holes: false, ..scan(ReadStrategy::Positional) };
    let scanner = scanner(&source, options);
    let names = Names { local: b"source", remote: b"remote" };
    let options = DiffOptions::new(digest("md5"));
    let error = diff(&scanner, names, Peer { input, output }, Vec::new(), &options, context).unwrap_err();
    assert!(matches!(error, Error::Cancelled), "{error}");
    // Nobody else holds the device: not a thread, not a queue.
    drop(scanner);
    let holders = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    let path = source.path().to_path_buf();
    let open = holders.filter(|fd| std::fs::read_link(fd.path()).is_ok_and(|link| link == path)).count();
    assert_eq!(open, 1, "only the test itself still has the file open");
}
