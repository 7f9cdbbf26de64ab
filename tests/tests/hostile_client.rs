//! A server against a client that sends what it should not.

use bdsync_tests::wire::{self, kind};
use bdsync_tests::{Outcome, Recipe, Rng, Stdin, WorkDir};

const SIZE: usize = 102_400;
const MEMORY_LIMIT: u64 = 128 << 20;

/// Runs a server on a stream that stays open: it has to end by itself.
fn serve(stream: &[u8]) -> Outcome {
    let dir = WorkDir::new();
    dir.write("target.img", &Recipe::random(SIZE, 1).build());
    let outcome = dir.bdsync(["--server"]).stdin(Stdin::OpenPipe(stream.to_vec())).run();
    let peak = outcome.peak_resident_bytes;
    assert!(peak < MEMORY_LIMIT, "{peak} bytes of memory: {outcome}");
    assert!(outcome.lines().len() <= 1, "{outcome}");
    outcome
}

fn start(digest: &str) -> Vec<u8> {
    [wire::hello("CLIENT"), wire::devfile("target.img"), wire::digests(b"salt", digest, "")].concat()
}

/// The server answers nothing to `message`, and ends with `codes`.
#[track_caller]
fn refuses(what: &str, message: &[u8], codes: &[i32]) {
    let outcome = serve(&[&start("md5"), message, &wire::done()].concat());
    assert!(outcome.code.is_some_and(|code| codes.contains(&code)), "{what}: {outcome}");
    let answers = wire::split(&outcome.stdout);
    assert!(answers.iter().all(|(kind, _)| [kind::HELLO, kind::SIZE].contains(kind)), "{what}: answered: {outcome}");
}

#[test]
fn requests_with_impossible_numbers_are_refused() {
    for (start, step, count) in [
        (-1, 4096, 1),
        (i64::MIN, 4096, 1),
        (i64::MAX, 4096, 1),
        (i64::MAX - 4095, 4096, 1),
        (0, 0, 1),
        (0, -1, 1),
        (0, i64::MIN, 1),
        (0, i64::MAX, 1),
        (0, i64::MAX, 2),
        (0, 1 << 40, 1),
        (0, 4096, -1),
        (0, 4096, i64::MIN),
        (0, 4096, i64::MAX),
        (0, 4096, 1 << 32),
        (0, 4096, (1 << 32) + 1),
        (0, 1 << 35, 1 << 30),
    ] {
        refuses(&format!("{start} {step} {count}"), &wire::gethashes(start, step, count), &[4]);
    }
}

#[test]
fn requests_for_more_digests_than_fit_a_message_are_refused() {
    for (digest, size) in [("md5", 16), ("sha1", 20), ("sha512", 64)] {
        let most = (131_072 - 24) / size;
        let outcome = serve(&[start(digest), wire::gethashes(0, 8, most), wire::done()].concat());
        outcome.exits(0);
        let answers = wire::split(&outcome.stdout);
        assert_eq!(answers[2].1.len() as i64, 24 + most * size, "{digest}");
        serve(&[start(digest), wire::gethashes(0, 8, most + 1), wire::done()].concat()).exits(4);
    }
}

#[test]
fn blocks_with_impossible_numbers_are_refused() {
    for (position, length, codes) in [
        (-1, 10, &[4][..]),
        (i64::MIN, 10, &[4]),
        (0, -1, &[4]),
        (0, i64::MIN, &[4]),
        (0, 131_072, &[4]),
        (0, i64::MAX, &[4]),
        (0, 1 << 32, &[4]),
        (i64::MAX, 10, &[4, 11]),
        (i64::MAX, i64::MAX, &[4]),
        (SIZE as i64, 1, &[11]),
        (SIZE as i64 - 1, 2, &[11]),
        (1 << 40, 4096, &[11]),
    ] {
        refuses(&format!("{position} {length}"), &wire::getblock(position, length), codes);
    }
}

#[test]
fn messages_that_only_a_server_sends_are_refused() {
    for (what, message) in [
        ("size", wire::size(5)),
        ("hashes", wire::hashes(0, 4096, 1, &[0; 16])),
        ("block", wire::block(0, &[0; 10])),
        ("checksum", wire::message(kind::CHECKSUM, &[0; 16])),
        ("no type", wire::message(0, b"x")),
        ("unknown", wire::message(12, b"x")),
    ] {
        refuses(what, &message, &[4]);
    }
}

#[test]
fn a_second_greeting_is_refused() {
    refuses("hello", &wire::hello("CLIENT"), &[4]);
    refuses("devfile", &wire::devfile("target.img"), &[4]);
}

#[test]
fn requests_before_the_digests_are_refused() {
    let start = [wire::hello("CLIENT"), wire::devfile("target.img")].concat();
    let outcome = serve(&[start, wire::gethashes(0, 4096, 1), wire::done()].concat());
    outcome.exits(4);
}

#[test]
fn messages_of_the_wrong_length_are_refused() {
    for (what, kind, lengths) in [
        ("gethashes", kind::GETHASHES, &[0, 1, 23, 25, 131_071][..]),
        ("getblock", kind::GETBLOCK, &[0, 8, 15, 17]),
        ("getchecksum", kind::GETCHECKSUM, &[1, 100]),
        ("done", kind::DONE, &[1, 100]),
        ("digests", kind::DIGESTS, &[0]),
    ] {
        for length in lengths {
            refuses(&format!("{what} of {length} bytes"), &wire::message(kind, &vec![0; *length]), &[4]);
        }
    }
}

#[test]
fn bad_greetings_are_refused() {
    let greet = |payload: &[u8]| serve(&[wire::message(kind::HELLO, payload), wire::devfile("target.img")].concat());
    for payload in [&b""[..], b" ", b"0.5", b"CLIENT", b"CLIENT 0.5\n", b"CLIENT 0.5 ", b"CLIENT  0.5", b"CLIENT 0.6"] {
        greet(payload).exits(4);
    }
    greet(&[b'x'; 131_071]).exits(4);
    let device = |payload: &[u8]| serve(&[wire::hello("CLIENT"), wire::message(kind::DEVFILE, payload)].concat());
    device(b"").exits(4);
    device(b"x").exits(4);
    for payload in [&b"no\0where"[..], &[b'x'; 5000], &[b'x'; 131_071]] {
        let outcome = device(payload);
        assert!(matches!(outcome.code, Some(4 | 12)), "{outcome}");
    }
}

#[test]
fn bad_digest_messages_are_refused() {
    let start = [wire::hello("CLIENT"), wire::devfile("target.img")].concat();
    let digests = |payload: &[u8]| serve(&[start.clone(), wire::message(kind::DIGESTS, payload)].concat());
    for payload in [
        &b"\x80"[..],
        b"\xff",
        b"\x05salt",
        b"\x04saltmd5",
        b"\x04saltmd5\0",
        b"\x04saltmd5\0sha1",
        b"\x04saltmd5\0\0more",
        b"\x7f",
    ] {
        digests(payload).exits(4);
    }
    let outcome = digests(&[&[0][..], &[b'x'; 100_000], &[0, 0]].concat());
    assert!(matches!(outcome.code, Some(4 | 10)), "{outcome}");
}

#[test]
fn announced_lengths_are_not_believed() {
    for length in [131_073, 1 << 20, 1 << 31, u32::MAX] {
        for start in [vec![], wire::hello("CLIENT"), start("md5")] {
            let outcome = serve(&[start, length.to_le_bytes().to_vec(), vec![kind::GETHASHES; 64]].concat());
            assert!(matches!(outcome.code, Some(4 | 6)), "{length}: {outcome}");
        }
    }
}

#[test]
fn messages_after_the_end_of_a_session_are_not_answered() {
    let outcome = serve(&[start("md5"), wire::done(), wire::gethashes(0, 4096, 1), wire::message(99, b"x")].concat());
    outcome.exits(0).says("");
    let kinds: Vec<u8> = wire::split(&outcome.stdout).iter().map(|(kind, _)| *kind).collect();
    assert_eq!(kinds, [kind::HELLO, kind::SIZE, kind::DONE]);
}

#[test]
fn many_requests_at_once_are_all_answered_in_order_within_bounds() {
    let mut stream = start("sha512");
    let requests: Vec<(i64, i64, i64)> = (0..3000).map(|i| (i % 1000, 1 + i % 7, i % 300)).collect();
    for (start, step, count) in &requests {
        stream.extend(wire::gethashes(*start, *step, *count));
    }
    stream.extend(wire::done());
    let outcome = serve(&stream);
    outcome.exits(0);
    let answers = wire::split(&outcome.stdout);
    assert_eq!(answers.len(), requests.len() + 3);
    for ((start, step, count), (kind, payload)) in requests.iter().zip(&answers[2..]) {
        assert_eq!(*kind, kind::HASHES);
        assert_eq!(payload[..24], wire::three(*start, *step, *count));
        assert_eq!(payload.len() as i64, 24 + 64 * count);
    }
}

#[test]
fn noise_never_crashes_a_server() {
    let mut rng = Rng::from_environment(7);
    for case in 0..150 {
        let mut noise = vec![0; rng.below(300) as usize];
        rng.fill(&mut noise);
        let prefix = match case % 3 {
            0 => vec![],
            1 => start("md5"),
            // A frame of a known type with noise in it.
            _ => [start("md5"), wire::message(1 + rng.below(11) as u8, &noise)].concat(),
        };
        let dir = WorkDir::new();
        dir.write("target.img", &[1; 5000]);
        let outcome = dir.bdsync(["--server"]).input(&[prefix, noise].concat()).run();
        assert!(outcome.code.is_some_and(|code| (0..=13).contains(&code)), "case {case}: {outcome}");
        assert!(outcome.peak_resident_bytes < MEMORY_LIMIT, "case {case}: {outcome}");
    }
}
