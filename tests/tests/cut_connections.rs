//! A connection that ends at any byte is an error at both ends, and never a
//! patch that looks complete.

use bdsync_tests::patch::Patch;
use bdsync_tests::wire::{self, kind};
use bdsync_tests::{Outcome, Recipe, WorkDir, bdsync};

const OPTIONS: &[&[&str]] = &[
    &["--fixedsalt", "--blocksize=64"],
    &["--fixedsalt", "--blocksize=64", "--remdata", "--checksum=md5"],
    &["--fixedsalt", "--blocksize=16", "--twopass"],
];

/// A session between two ends that are under test: what went from the client to the server, and back.
struct Session {
    dir: WorkDir,
    client: Vec<u8>,
    server: Vec<u8>,
}

fn session(options: &[&str]) -> Session {
    let dir = WorkDir::new();
    let mut image = Recipe::random(250, 1).build();
    dir.write("target.img", &image);
    image[100] ^= 1;
    image[249] ^= 1;
    dir.write("source.img", &image);
    let relay = format!("sh -c 'tee c2s.bin | {} --server | tee s2c.bin'", bdsync());
    let outcome = dir.bdsync(options.iter().copied()).args([&relay, "source.img", "target.img"]).run();
    outcome.exits(0).says("");
    let (client, server) = (dir.read("c2s.bin"), dir.read("s2c.bin"));
    Session { dir, client, server }
}

impl Session {
    /// The client against the first `length` recorded bytes, after which the server does `end`.
    /// Each answer waits for its request, as that of a real server does.
    fn replay(&self, options: &[&str], length: usize, end: &str) -> Outcome {
        let mut script = String::new();
        let mut first = 0;
        let mut requests = wire::split(&self.client).into_iter();
        for (index, (_, payload)) in wire::split(&self.server).into_iter().enumerate() {
            // The hello of the server answers nothing.
            let mut wait = 0;
            while index > 0
                && let Some((kind, payload)) = requests.next()
            {
                wait += 5 + payload.len();
                if ![kind::HELLO, kind::DIGESTS].contains(&kind) {
                    break;
                }
            }
            if first >= length {
                break;
            }
            let end = (first + 5 + payload.len()).min(length);
            script += &format!("await {wait}\nfile s2c.bin {first} {end}\n");
            first = end;
        }
        self.dir.write("script", format!("{script}{end}\n").as_bytes());
        let fake = format!("{} script", env!("CARGO_BIN_EXE_fake-peer"));
        self.dir.bdsync(options.iter().copied()).args([&fake, "source.img", "target.img"]).run()
    }
}

#[test]
fn a_client_whose_server_dies_at_any_byte_leaves_no_complete_patch() {
    for options in OPTIONS {
        let session = session(options);
        let whole = session.replay(options, session.server.len(), "drain");
        whole.exits(0);
        assert!(Patch::parse(&whole.stdout).is_some(), "no complete patch: {whole}");
        for length in 0..session.server.len() {
            // A server that goes away all at once may be noticed on writing or on reading.
            for (end, codes) in [("close\ndrain", &[6][..]), ("exit 0", &[6, 9])] {
                let outcome = session.replay(options, length, end);
                let noticed = outcome.code.is_some_and(|code| codes.contains(&code));
                assert!(noticed, "{options:?}, {length} bytes, {end}: {outcome}");
                assert!(Patch::parse(&outcome.stdout).is_none(), "{options:?}, {length} bytes: complete: {outcome}");
                assert!(!outcome.stderr.is_empty(), "{options:?}, {length} bytes: no message");
            }
        }
    }
}

#[test]
fn a_server_whose_client_dies_at_any_byte_ends_with_a_read_error() {
    for options in OPTIONS {
        let Session { dir, client, server } = session(options);
        let whole = dir.bdsync(["--server"]).input(&client).run();
        whole.exits(0);
        assert_eq!(whole.stdout, server);
        for length in 0..client.len() {
            let outcome = dir.bdsync(["--server"]).input(&client[..length]).run();
            assert_eq!(outcome.code, Some(6), "{options:?}, {length} bytes: {outcome}");
            assert!(server.starts_with(&outcome.stdout), "{options:?}, {length} bytes: other answers");
            assert!(outcome.lines().len() <= 1, "{options:?}, {length} bytes: {outcome}");
        }
    }
}

#[test]
fn a_client_that_gives_up_takes_its_server_with_it() {
    // The harness fails a run that leaves a process with an open stderr behind.
    let session = session(OPTIONS[0]);
    session.dir.write("short.img", b"short");
    let relay = format!("sh -c '{} --server; echo ended >&2'", bdsync());
    let outcome = session.dir.bdsync([&relay, "short.img", "target.img"]).run();
    outcome.exits(3);
    assert!(outcome.stderr.contains("Different sizes local=5 remote=250\n"), "{outcome}");
}
