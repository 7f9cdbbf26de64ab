//! What stock gets wrong, done right.

use std::os::unix::fs::MetadataExt;

use bdsync_tests::patch::Patch;
use bdsync_tests::wire;
use bdsync_tests::{Recipe, Rng, Run, Stdin, Stdout, WorkDir, not_run, program};

/// Diffs source.img against target.img and applies the patch to `device`.
#[track_caller]
fn sync(dir: &WorkDir, options: &[&str], patch_options: &[&str]) {
    let outcome = dir.client(options.iter().copied(), "source.img", "target.img").run();
    outcome.exits(0);
    let patch = Patch::parse(&outcome.stdout).unwrap_or_else(|| panic!("no complete patch: {outcome}"));
    for (position, data) in &patch.records {
        assert!(
            *position >= 0 && position + data.len() as i64 <= patch.size,
            "a record past {}: {outcome}",
            patch.size
        );
    }
    dir.write("patch.bin", &outcome.stdout);
    let apply = dir.bdsync(["--patch"]).args(patch_options.iter().copied());
    apply.stdin(Stdin::File(dir.path("patch.bin"))).run().exits(0);
}

#[test]
fn large_blocks_and_a_shorter_source_make_a_right_patch() {
    for block_size in ["32769", "65536", "131072", "1048576"] {
        for source_size in [0, 1, 32_768, 40_000, 65_536, 100_003, 131_071] {
            let block_size = format!("--blocksize={block_size}");
            let dir = WorkDir::new();
            let target = Recipe::random(300_001, 1).build();
            dir.write("target.img", &target);
            let source = Recipe::random(source_size, 2).build();
            dir.write("source.img", &source);
            sync(&dir, &["--diffsize=minsize", &block_size], &["--diffsize=minsize"]);
            assert!(dir.read("target.img") == [&source, &target[source_size..]].concat(), "{block_size} {source_size}");

            dir.write("target.img", &target);
            sync(&dir, &["--diffsize", &block_size, "--twopass"], &["--diffsize"]);
            assert!(dir.read("target.img") == source, "{block_size} {source_size}");
        }
    }
}

#[test]
fn large_blocks_and_a_shorter_remote_make_a_right_patch_with_remdata() {
    for block_size in ["65536", "1048576"] {
        for target_size in [0, 1, 40_000, 100_003] {
            let dir = WorkDir::new();
            dir.write("source.img", &Recipe::random(300_001, 1).build());
            let target = Recipe::random(target_size, 2).build();
            dir.write("target.img", &target);
            let block_size = format!("--blocksize={block_size}");
            sync(&dir, &["--remdata", "--diffsize", &block_size], &["--diffsize"]);
            assert!(dir.read("source.img") == target, "{block_size} {target_size}");
        }
    }
}

#[test]
fn a_message_of_length_0_is_a_protocol_error() {
    let dir = WorkDir::new();
    dir.write("target.img", &[1; 5000]);
    let start = [wire::hello("CLIENT"), wire::devfile("target.img"), wire::digests(b"salt", "md5", "")];
    for messages in 0..=start.len() {
        let stream = [start[..messages].concat(), vec![0; 4], wire::done()].concat();
        dir.bdsync(["--server"]).input(&stream).run().exits(4);
    }
}

#[test]
fn a_target_can_be_made_empty() {
    let dir = WorkDir::new();
    dir.write("source.img", b"");
    dir.write("target.img", &[1; 70_000]);
    sync(&dir, &["--diffsize"], &["--diffsize"]);
    assert!(dir.read("target.img").is_empty());
}

#[test]
fn a_patch_file_cut_anywhere_leaves_the_target_untouched() {
    let target = Recipe::random(9000, 1).build();
    let mut patch =
        Patch::new(9000, "target.img").record(0, b"first").record(4096, &[7; 40]).record(8990, b"0123456789");
    patch.checksum = Some((b"md5".to_vec(), vec![3; 16]));
    let patch = patch.encode();
    let dir = WorkDir::new();
    dir.write("target.img", &target);
    for length in 0..patch.len() {
        dir.write("cut.bin", &patch[..length]);
        let outcome = dir.bdsync(["--patch"]).stdin(Stdin::File(dir.path("cut.bin"))).run();
        assert_eq!(outcome.code, Some(2), "cut at {length}: {outcome}");
        assert_eq!(outcome.lines().len(), 1, "cut at {length}: {outcome}");
        assert!(dir.read("target.img") == target, "cut at {length}: the target was changed");
    }
    dir.write("whole.bin", &patch);
    dir.bdsync(["--patch"]).stdin(Stdin::File(dir.path("whole.bin"))).run().exits(0);
}

#[test]
fn a_cut_patch_file_does_not_even_resize_the_target() {
    let dir = WorkDir::new();
    dir.write("target.img", &[1; 9000]);
    let patch = Patch::new(20_000, "target.img").record(0, b"first");
    let (open, whole) = (patch.encode_open(), patch.encode());
    for cut in [&open[..], &whole[..whole.len() - 1]] {
        dir.write("cut.bin", cut);
        dir.bdsync(["--patch", "--diffsize"]).stdin(Stdin::File(dir.path("cut.bin"))).run().exits(2);
        assert_eq!(dir.read("target.img"), [1; 9000]);
    }
}

#[test]
fn a_patch_in_the_middle_of_a_file_is_read_from_where_the_file_stands() {
    let dir = WorkDir::new();
    dir.write("target.img", &[1; 9000]);
    let patch = Patch::new(9000, "target.img").record(10, b"hello").encode();
    dir.write("archive", &[b"a line before\n".to_vec(), patch].concat());
    let script = format!("read line; exec {} --patch", bdsync_tests::bdsync());
    let run = Run::new("sh").args(["-c", &script]).cwd(dir.folder());
    run.stdin(Stdin::File(dir.path("archive"))).run().exits(0).says("");
    assert_eq!(&dir.read("target.img")[10..15], b"hello");
}

#[test]
fn positions_that_cannot_be_are_refused_as_bad_patches() {
    let dir = WorkDir::new();
    let target = vec![1; 9000];
    dir.write("target.img", &target);
    for position in [-1, i64::MIN, i64::MAX, i64::MAX - 2, 8999, 9000, 1 << 40] {
        let bytes = Patch::new(9000, "target.img").record(position, b"abc").encode();
        dir.write("bad.bin", &bytes);
        for run in
            [dir.bdsync(["--patch"]).stdin(Stdin::File(dir.path("bad.bin"))), dir.bdsync(["--patch"]).input(&bytes)]
        {
            run.run().exits(2);
            assert_eq!(dir.read("target.img"), target, "position {position}");
        }
    }
    for size in [-1, i64::MIN] {
        let bytes = Patch::new(size, "target.img").encode();
        for options in [&["--patch"][..], &["--patch", "--diffsize"], &["--patch", "--diffsize=minsize"]] {
            dir.bdsync(options.iter().copied()).input(&bytes).run().exits(2);
            assert_eq!(dir.read("target.img"), target, "size {size}");
        }
    }
}

#[test]
fn bytes_that_are_no_patch_never_crash_and_never_change_the_target() {
    let dir = WorkDir::new();
    let target = Recipe::random(9000, 1).build();
    dir.write("target.img", &target);
    let good = Patch::new(9000, "target.img").record(0, b"first").record(4096, &[7; 40]).encode();
    let mut rng = Rng::from_environment(1);
    for case in 0..200 {
        let mut bytes = good.clone();
        // Only the header and what follows the records is damaged, in ways that cannot be right.
        match case % 3 {
            0 => bytes[rng.below(11) as usize] ^= 1 + rng.below(255) as u8,
            1 => bytes[18] |= 0x80,
            _ => bytes.truncate(rng.below(good.len() as u64) as usize),
        }
        dir.write("bad.bin", &bytes);
        let outcome = dir.bdsync(["--patch=target.img", "--diffsize"]).stdin(Stdin::File(dir.path("bad.bin"))).run();
        assert_eq!(outcome.code, Some(2), "case {case}: {outcome}");
        assert!(dir.read("target.img") == target, "case {case}: the target was changed");
    }
}

#[test]
fn a_patch_that_cannot_be_written_is_a_write_error() {
    let dir = WorkDir::new();
    dir.write("target.img", &Recipe::random(1_000_000, 1).build());
    dir.write("source.img", &Recipe::random(1_000_000, 2).build());
    dir.write("same.img", &Recipe::random(1_000_000, 1).build());
    for source in ["source.img", "same.img"] {
        for stdout in [Stdout::File("/dev/full".into()), Stdout::ClosedPipe] {
            let outcome = dir.client([], source, "target.img").stdout(stdout.clone()).run();
            assert_eq!(outcome.code, Some(9), "{stdout:?}: {outcome}");
            assert_eq!(outcome.lines().len(), 1, "{stdout:?}: {outcome}");
        }
    }
}

#[test]
fn a_server_whose_client_stops_reading_is_a_write_error() {
    let dir = WorkDir::new();
    dir.write("target.img", &Recipe::random(1_000_000, 1).build());
    let mut stream = [wire::hello("CLIENT"), wire::devfile("target.img"), wire::digests(b"", "sha512", "")].concat();
    for _ in 0..10 {
        stream.extend(wire::gethashes(0, 512, 1953));
    }
    stream.extend(wire::done());
    for stdout in [Stdout::ClosedPipe, Stdout::File("/dev/full".into())] {
        let outcome = dir.bdsync(["--server"]).input(&stream).stdout(stdout).run();
        outcome.exits(9);
        assert!(outcome.lines().len() <= 1, "{outcome}");
    }
}

#[test]
fn a_sparse_target_stays_sparse() {
    let dir = WorkDir::new();
    dir.sparse("target.img", 64 << 20);
    let grow = Patch::new(256 << 20, "target.img").record(200 << 20, &[5; 4096]).encode();
    dir.bdsync(["--patch", "--diffsize"]).input(&grow).run().exits(0);
    let target = std::fs::metadata(dir.path("target.img")).expect("the target");
    assert_eq!(target.len(), 256 << 20);
    assert!(target.blocks() * 512 < 1 << 20, "{} bytes are allocated", target.blocks() * 512);

    let shrink = Patch::new(201 << 20, "target.img").encode();
    dir.bdsync(["--patch", "--diffsize"]).input(&shrink).run().exits(0);
    let target = std::fs::metadata(dir.path("target.img")).expect("the target");
    assert_eq!(target.len(), 201 << 20);
    assert!(target.blocks() * 512 < 1 << 20, "{} bytes are allocated", target.blocks() * 512);
}

#[test]
fn a_patch_is_on_disk_before_success_is_reported() {
    const TEST: &str = "a_patch_is_on_disk_before_success_is_reported";
    let Some(strace) = program("strace") else { return not_run(TEST, "strace is not installed") };
    let strace = strace.to_str().expect("a UTF-8 path");
    let probe = Run::new(strace).args(["-f", "-o", "/dev/null", "true"]).run();
    if probe.code != Some(0) {
        return not_run(TEST, &format!("strace does not work here: {}", probe.stderr));
    }
    for size in [9000, 20_000] {
        let dir = WorkDir::new();
        dir.write("target.img", &[1; 9000]);
        dir.write("patch.bin", &Patch::new(size, "target.img").record(10, b"hello").encode());
        let calls = "trace=write,pwrite64,pwritev,pwritev2,ftruncate,fsync,fdatasync,sync,syncfs,msync,exit_group";
        let run = Run::new(strace).args(["-f", "-y", "-o", "trace", "-e", calls, &bdsync_tests::bdsync()]);
        let run = run.args(["--patch", "--diffsize"]).cwd(dir.folder());
        run.stdin(Stdin::File(dir.path("patch.bin"))).run().exits(0);
        let trace = String::from_utf8_lossy(&dir.read("trace")).into_owned();
        let lines: Vec<&str> = trace.lines().collect();
        let last = |calls: &[&str], on: &str| {
            lines.iter().rposition(|line| {
                let call = line.split_once(' ').map_or(*line, |(_, call)| call.trim_start());
                calls.iter().any(|name| call.starts_with(&format!("{name}("))) && line.contains(on)
            })
        };
        let changed = last(&["write", "pwrite64", "pwritev", "pwritev2", "ftruncate"], "target.img");
        let synced = last(&["fsync", "fdatasync", "syncfs"], "target.img").max(last(&["sync", "msync"], ""));
        let ended = last(&["exit_group"], "");
        assert!(changed.is_some() && changed < synced && synced < ended, "{trace}");
    }
}
