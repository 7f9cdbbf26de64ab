//! One test for each exit code that can be brought about from outside. Not
//! here: 7 (no randomness) and 13 (connections are other programs' business).

use bdsync_tests::patch::Patch;
use bdsync_tests::wire;
use bdsync_tests::{Outcome, Recipe, Stdin, Stdout, WorkDir};

const SIZE: usize = 20_000;

fn images() -> WorkDir {
    let dir = WorkDir::new();
    let mut image = Recipe::random(SIZE, 5).build();
    dir.write("target.img", &image);
    image[7000] ^= 1;
    dir.write("source.img", &image);
    dir
}

/// A server fed with hello, devfile, digests and `messages`.
fn server(dir: &WorkDir, messages: &[Vec<u8>]) -> Outcome {
    let start = [wire::hello("CLIENT"), wire::devfile("target.img"), wire::digests(b"salt", "md5", "")];
    dir.bdsync(["--server"]).input(&[start.concat(), messages.concat()].concat()).run()
}

/// The whole of stderr is one line.
#[track_caller]
fn one_line(outcome: &Outcome) {
    assert_eq!(outcome.lines().len(), 1, "{outcome}");
    assert!(outcome.stderr.ends_with('\n'), "{outcome}");
}

#[test]
fn exit_0_is_success() {
    let dir = images();
    let outcome = dir.client([], "source.img", "target.img").run();
    outcome.exits(0).says("");
    dir.write("patch.bin", &outcome.stdout);
    dir.bdsync(["--patch"]).stdin(Stdin::File(dir.path("patch.bin"))).run().exits(0).says("");
    assert_eq!(dir.read("target.img"), dir.read("source.img"));
    server(&dir, &[wire::done()]).exits(0).says("");
}

#[test]
fn exit_1_is_a_bad_parameter() {
    let outcome = images().bdsync(["only", "two"]).run();
    one_line(outcome.exits(1));
}

#[test]
fn exit_2_is_a_bad_patch() {
    let outcome = images().bdsync(["--patch=target.img"]).input(b"BDSYNC 9.9\n").run();
    one_line(outcome.exits(2));
}

#[test]
fn exit_3_is_different_sizes() {
    let dir = images();
    dir.write("short.img", &[0; 100]);
    let outcome = dir.client([], "source.img", "short.img").run();
    outcome.exits(3).says(&format!("Different sizes local={SIZE} remote=100\n"));
    let outcome = dir.bdsync(["--patch"]).input(&Patch::new(100, "target.img").encode()).run();
    outcome.exits(3).says(&format!("Different sizes current={SIZE} patch=100\n"));
}

#[test]
fn exit_4_is_a_broken_protocol() {
    let dir = images();
    let outcome = dir.bdsync(["--server"]).input(&wire::message(1, b"CLIENT 0.4")).run();
    assert!(outcome.lines().len() <= 1, "{outcome}");
    outcome.exits(4);
    server(&dir, &[wire::size(5)]).exits(4);
}

#[test]
fn exit_5_is_a_bad_checksum() {
    let dir = images();
    dir.client(["--checksum=nosuch"], "source.img", "target.img").run().exits(5);
    let session = [wire::hello("CLIENT"), wire::devfile("target.img"), wire::digests(b"", "md5", "nosuch")];
    dir.bdsync(["--server"]).input(&session.concat()).run().exits(5);
}

#[test]
fn exit_6_is_a_read_error() {
    let dir = images();
    server(&dir, &[]).exits(6);
    let mut long = (wire::MAX_MESSAGE + 1).to_le_bytes().to_vec();
    long.push(wire::kind::GETHASHES);
    server(&dir, &[long]).exits(6);
    dir.bdsync(["true", "source.img", "target.img"]).run().exits(6);
}

#[test]
fn exit_6_or_8_is_a_command_that_does_not_start() {
    // Stock's child says that it could not execute the command, and its client
    // sees the end of the connection (6); a client that knows better may say 8.
    let dir = images();
    let outcome = dir.bdsync(["./no-such-command", "source.img", "target.img"]).run();
    assert!(matches!(outcome.code, Some(6 | 8)), "{outcome}");
    assert!(outcome.stderr.contains("No such file or directory"), "{outcome}");
}

#[test]
fn exit_9_is_a_write_error() {
    let dir = images();
    let outcome = dir.client([], "source.img", "target.img").stdout(Stdout::File("/dev/full".into())).run();
    one_line(outcome.exits(9));
}

#[test]
fn exit_10_is_an_unknown_digest() {
    let dir = images();
    let session = [wire::hello("CLIENT"), wire::devfile("target.img"), wire::digests(b"", "nosuch", "")];
    dir.bdsync(["--server"]).input(&session.concat()).run().exits(10);
}

#[test]
fn exit_11_is_a_block_past_the_end() {
    let dir = images();
    server(&dir, &[wire::getblock(SIZE as i64 - 10, 20), wire::done()]).exits(11);
}

#[test]
fn exit_12_is_a_device_that_does_not_open() {
    let dir = images();
    let missing = "opendev [nofile]: No such file or directory\n";
    dir.client([], "nofile", "target.img").run().exits(12).says(missing);
    dir.bdsync(["--patch=nofile"]).input(&Patch::new(5, "target.img").encode()).run().exits(12).says(missing);
    let session = [wire::hello("CLIENT"), wire::devfile("nofile")];
    dir.bdsync(["--server"]).input(&session.concat()).run().exits(12);
    // Stock takes the size of a folder for that of a device.
    dir.client([], ".", "target.img").run().exits(12);
    dir.bdsync(["--patch=."]).input(&Patch::new(5, "target.img").encode()).run().exits(12);
}
