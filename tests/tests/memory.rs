//! Memory does not grow with the device: what no file backs stays below a limit
//! at both ends.

use std::collections::HashMap;
use std::time::Duration;

use bdsync_tests::{Recipe, Stdout, WorkDir, procfs};

const LIMIT: u64 = 64 << 20;
const SPARSE: u64 = 3 << 30;
const FULL: usize = 256 << 20;

/// Two holes of 3 GiB.
fn sparse_pair() -> WorkDir {
    let dir = WorkDir::new();
    dir.sparse("source.img", SPARSE);
    dir.sparse("target.img", SPARSE);
    dir
}

/// Runs a client and a server, and checks the anonymous memory of both.
#[track_caller]
fn stays_small(dir: &WorkDir, options: &[&str]) {
    let mut peaks = HashMap::new();
    let run = dir.client(options.iter().copied(), "source.img", "target.img").limit(Duration::from_secs(300));
    let outcome = run.stdout(Stdout::File(dir.path("patch.bin"))).run_watched(|pid| {
        for process in [vec![pid], procfs::children(pid)].concat() {
            // A child that has not yet become the server looks like the client.
            let name = procfs::program_name(process);
            let peak = peaks.entry((process == pid, name)).or_insert(0);
            *peak = procfs::anonymous_bytes(process).max(*peak);
        }
    });
    outcome.exits(0).says("");
    assert!(peaks.keys().any(|(client, _)| !client), "the server was never seen: {outcome}");
    for ((client, _), peak) in peaks {
        let who = if client { "client" } else { "server" };
        println!("{options:?}: the {who} took {} KiB", peak >> 10);
        assert!(peak < LIMIT, "the {who} took {peak} bytes: {outcome}");
    }
}

#[test]
fn small_blocks_of_a_large_device_fit_the_memory() {
    stays_small(&sparse_pair(), &["--blocksize=512"]);
}

#[test]
fn common_blocks_of_a_large_device_fit_the_memory() {
    stays_small(&sparse_pair(), &["--blocksize=4096"]);
}

#[test]
fn large_blocks_of_a_large_device_fit_the_memory() {
    stays_small(&sparse_pair(), &["--blocksize=1048576"]);
}

#[test]
fn two_passes_of_large_blocks_fit_the_memory() {
    stays_small(&sparse_pair(), &["--blocksize=1048576", "--twopass"]);
}

#[test]
fn long_digests_and_remote_data_fit_the_memory() {
    stays_small(&sparse_pair(), &["--hash=sha3-512", "--remdata"]);
}

#[test]
fn devices_that_differ_everywhere_fit_the_memory() {
    let dir = WorkDir::new();
    dir.write("source.img", &Recipe::random(FULL, 1).build());
    dir.sparse("target.img", FULL as u64);
    for options in [&[][..], &["--remdata"], &["--blocksize=1048576", "--twopass"], &["--twopass", "--remdata"]] {
        stays_small(&dir, options);
    }
}

#[test]
fn applying_a_large_patch_fits_the_memory() {
    let dir = WorkDir::new();
    dir.write("source.img", &Recipe::random(FULL, 1).build());
    dir.sparse("target.img", FULL as u64);
    let run = dir.client([], "source.img", "target.img");
    run.stdout(Stdout::File(dir.path("patch.bin"))).run().exits(0);
    let mut peak = 0;
    let run = dir.bdsync(["--patch"]).stdin(bdsync_tests::Stdin::File(dir.path("patch.bin")));
    run.run_watched(|pid| peak = procfs::anonymous_bytes(pid).max(peak)).exits(0);
    assert!(peak < LIMIT, "--patch took {peak} bytes");
    let (source, target) = (dir.read("source.img"), dir.read("target.img"));
    assert!(source == target, "the target is not the source");
}
