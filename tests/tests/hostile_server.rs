//! A client against a server that sends what it should not.

use bdsync_tests::patch::Patch;
use bdsync_tests::wire::{self, kind};
use bdsync_tests::{Outcome, Recipe, Run, WorkDir, bdsync};

/// One block, so that the one request for digests is known: 0, 4096, 1.
const SIZE: usize = 4096;
const MEMORY_LIMIT: u64 = 128 << 20;

fn images() -> WorkDir {
    let dir = WorkDir::new();
    dir.write("source.img", &Recipe::random(SIZE, 1).build());
    dir
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Runs a client against a fake server that follows `script`.
fn client(dir: &WorkDir, options: &[&str], script: &str) -> Outcome {
    dir.write("script", script.as_bytes());
    let command = format!("{} script", env!("CARGO_BIN_EXE_fake-peer"));
    let outcome = dir.bdsync(options.iter().copied()).args([&command, "source.img", "target.img"]).run();
    let peak = outcome.peak_resident_bytes;
    assert!(peak < MEMORY_LIMIT, "{peak} bytes of memory: {outcome}");
    assert!(Patch::parse(&outcome.stdout).is_none(), "a complete patch: {outcome}");
    outcome
}

/// A server that says hello and the size, sends `messages`, and then neither speaks nor goes
/// away: the client has to see by itself that something is wrong.
#[track_caller]
fn refuses(options: &[&str], what: &str, messages: &[Vec<u8>]) {
    let start = [wire::hello("SERVER"), wire::size(SIZE as i64)].concat();
    refuses_from_start(options, what, &[vec![start], messages.to_vec()].concat());
}

#[track_caller]
fn refuses_from_start(options: &[&str], what: &str, messages: &[Vec<u8>]) {
    let outcome = client(&images(), options, &format!("send {}\ndrain\n", hex(&messages.concat())));
    assert_eq!(outcome.code, Some(4), "{what}: {outcome}");
    assert_eq!(outcome.lines().len(), 1, "{what}: {outcome}");
}

fn other_digest() -> Vec<u8> {
    wire::hashes(0, 4096, 1, &[0; 16])
}

#[test]
fn digests_for_other_numbers_than_asked_for_are_refused() {
    for (start, step, count) in [
        (1, 4096, 1),
        (4096, 4096, 1),
        (-4096, 4096, 1),
        (i64::MIN, 4096, 1),
        (i64::MAX, 4096, 1),
        (0, 4095, 1),
        (0, 1, 1),
        (0, 0, 1),
        (0, -4096, 1),
        (0, i64::MAX, 1),
        (0, i64::MIN, 1),
        (0, 4096, 2),
        (0, 4096, -1),
        (0, 4096, i64::MAX),
        (0, 4096, i64::MIN),
        (0, 4096, 1 << 32),
    ] {
        refuses(&[], &format!("{start} {step} {count}"), &[wire::hashes(start, step, count, &[0; 16])]);
    }
}

#[test]
fn another_number_of_digests_than_asked_for_is_refused() {
    for digests in [0, 1, 15, 17, 32, 131_000] {
        refuses(&[], &format!("{digests} bytes"), &[wire::hashes(0, 4096, 1, &vec![0; digests])]);
    }
    refuses(&[], "two digests", &[wire::hashes(0, 4096, 2, &[0; 32])]);
    refuses(&[], "half a header", &[wire::message(kind::HASHES, &[0; 12])]);
}

#[test]
fn answers_not_asked_for_are_refused() {
    refuses(&[], "digests again", &[other_digest(), other_digest(), other_digest()]);
    refuses(&[], "an unknown hint", &[wire::hashes(0, 77, 0, &[])]);
    refuses(&[], "a hint with digests", &[other_digest(), wire::hashes(4096, 1, 0, &[0; 16])]);
    refuses(&[], "a block", &[wire::block(0, &[0; 4096])]);
    refuses(&[], "a block after digests", &[other_digest(), wire::block(0, &[0; 4096])]);
    refuses(&[], "a checksum", &[wire::message(kind::CHECKSUM, &[0; 16])]);
    refuses(
        &["--checksum=md5"],
        "a checksum of the remote",
        &[other_digest(), wire::message(kind::CHECKSUM, &[0; 16])],
    );
    refuses(&[], "another size", &[wire::size(4096)]);
    refuses(&[], "another hello", &[wire::hello("SERVER")]);
}

#[test]
fn messages_that_only_a_client_sends_are_refused() {
    for (what, message) in [
        ("devfile", wire::devfile("target.img")),
        ("digests", wire::digests(b"salt", "md5", "")),
        ("gethashes", wire::gethashes(0, 4096, 1)),
        ("getblock", wire::getblock(0, 4096)),
        ("getchecksum", wire::getchecksum()),
    ] {
        refuses(&[], what, &[message]);
    }
}

#[test]
fn messages_of_no_known_type_are_refused() {
    for kind in [0, 12, 99, 255] {
        refuses(&[], &format!("type {kind}"), &[wire::message(kind, b"payload")]);
    }
    refuses(&[], "no type at all", &[vec![0; 4]]);
}

#[test]
fn an_end_before_the_answers_is_refused() {
    refuses(&[], "done instead of digests", &[wire::done()]);
    refuses(&["--remdata"], "done instead of a block", &[other_digest(), wire::done()]);
    refuses(&[], "done with a body", &[other_digest(), wire::hashes(4096, 1, 0, &[]), wire::message(kind::DONE, b"x")]);
}

#[test]
fn wrong_greetings_are_refused() {
    for hello in ["SERVER 0.4", "SERVER", "SERVER 0.5 ", "SERVER x 0.5", "SERVER 0.55", "", "0.5"] {
        refuses_from_start(&[], hello, &[wire::message(kind::HELLO, hello.as_bytes()), wire::size(4096)]);
    }
    refuses_from_start(&[], "no hello", &[wire::size(4096)]);
    refuses_from_start(&[], "done", &[wire::done()]);
    refuses_from_start(&[], "no size", &[wire::hello("SERVER"), other_digest()]);
    for length in [0, 7, 9, 100] {
        let size = wire::message(kind::SIZE, &vec![0; length]);
        refuses_from_start(&[], &format!("a size of {length} bytes"), &[wire::hello("SERVER"), size]);
    }
}

#[test]
fn sizes_that_cannot_be_are_refused() {
    for size in [-1, -4096, i64::MIN] {
        for options in [&[][..], &["--diffsize"], &["--diffsize=minsize"], &["--diffsize", "--remdata"]] {
            refuses_from_start(options, &format!("{size}"), &[wire::hello("SERVER"), wire::size(size)]);
        }
    }
}

#[test]
fn enormous_sizes_neither_crash_nor_fill_the_memory() {
    for size in [i64::MAX, i64::MAX - 4095, 1 << 62] {
        for options in [&["--diffsize"][..], &["--diffsize", "--twopass"], &["--diffsize", "--remdata", "--progress"]] {
            let start = hex(&[wire::hello("SERVER"), wire::size(size)].concat());
            let outcome = client(&images(), options, &format!("send {start}\nclose\ndrain\n"));
            assert!(matches!(outcome.code, Some(4 | 6)), "{outcome}");
        }
    }
}

#[test]
fn blocks_other_than_asked_for_are_refused() {
    let refuses = |what: &str, block: Vec<u8>| refuses(&["--remdata"], what, &[other_digest(), block]);
    for position in [1, -1, 4096, i64::MAX, i64::MIN] {
        refuses(&format!("position {position}"), wire::block(position, &[0; 4096]));
    }
    for length in [0, 1, 4095, 4097, 32_768, 131_000] {
        refuses(&format!("{length} bytes"), wire::block(0, &vec![0; length]));
    }
    refuses("no position", wire::message(kind::BLOCK, &[0; 5]));
}

#[test]
fn announced_lengths_are_not_believed() {
    for length in [131_073, 1 << 20, 1 << 31, u32::MAX] {
        for start in [vec![], wire::hello("SERVER"), [wire::hello("SERVER"), wire::size(4096)].concat()] {
            let bytes = hex(&[start, length.to_le_bytes().to_vec(), vec![kind::HASHES; 100]].concat());
            let outcome = client(&images(), &[], &format!("send {bytes}\ndrain\n"));
            assert!(matches!(outcome.code, Some(4 | 6)), "{length}: {outcome}");
        }
    }
}

#[test]
fn endless_streams_are_cut_off() {
    let start = hex(&[wire::hello("SERVER"), wire::size(4096)].concat());
    for endless in [
        wire::hello("SERVER"),
        wire::size(4096),
        wire::hashes(4096, 1, 0, &[]),
        wire::hashes(0, 4096, 1, &[0; 16]),
        wire::block(0, &[0; 4096]),
        wire::done(),
        vec![0],
        vec![255],
        b"Welcome to this machine!\n".to_vec(),
    ] {
        for start in ["", &start] {
            let outcome = client(&images(), &[], &format!("send {start}\nendless {}\n", hex(&endless)));
            assert!(matches!(outcome.code, Some(4 | 6)), "{outcome}");
        }
    }
}

#[test]
fn a_complaint_without_end_fits_the_memory() {
    let dir = images();
    dir.write("target.img", &Recipe::random(SIZE, 2).build());
    // 96 MiB on one line, and then a good session.
    let line = hex(&[b'x'; 64]);
    dir.write("script", format!("complain {} {line}\n", (96 << 20) / 64).as_bytes());
    let command = format!("sh -c '{} script; exec {} --server'", env!("CARGO_BIN_EXE_fake-peer"), bdsync());
    let run = Run::new("sh").args(["-c", "exec \"$@\" 2>stderr", "sh", &bdsync()]).cwd(dir.folder());
    let outcome = run.args([&command, "source.img", "target.img"]).run();
    outcome.exits(0);
    assert!(outcome.peak_resident_bytes < 64 << 20, "{} bytes: {outcome}", outcome.peak_resident_bytes);
    assert!(Patch::parse(&outcome.stdout).is_some(), "no complete patch: {outcome}");
}

#[test]
fn a_session_with_a_silent_server_ends_when_the_server_does() {
    for script in ["exit 0\n", "exit 3\n", "close\ndrain\n", "await 15\nexit 0\n"] {
        let outcome = client(&images(), &[], script);
        assert!(matches!(outcome.code, Some(6 | 9)), "{script}: {outcome}");
        assert!(!outcome.stderr.is_empty(), "{script}: {outcome}");
    }
}
