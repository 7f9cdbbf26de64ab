//! The options, as scripts that know stock use them.

use bdsync_tests::patch::Patch;
use bdsync_tests::{Outcome, Recipe, Run, Stdin, WorkDir};

const BLOCK: usize = 4096;
const SIZE: usize = 25 * BLOCK;

/// A source and a target that differ in one byte of the fourth block, and a
/// longer source.
fn images() -> WorkDir {
    let dir = WorkDir::new();
    let mut image = Recipe::random(SIZE, 1).build();
    dir.write("target.img", &image);
    image[3 * BLOCK + 5] ^= 1;
    dir.write("source.img", &image);
    image.extend([7; 100]);
    dir.write("longer.img", &image);
    dir
}

/// A client run on the two images of the same size.
fn client(dir: &WorkDir, options: &[&str]) -> Outcome {
    dir.client(options.iter().copied(), "source.img", "target.img").run()
}

/// The patch of a client run that went well.
#[track_caller]
fn patch(outcome: &Outcome) -> Patch {
    outcome.exits(0);
    Patch::parse(&outcome.stdout).unwrap_or_else(|| panic!("no complete patch: {outcome}"))
}

/// The bytes of one block of the source.
fn block_of(dir: &WorkDir, size: usize) -> Vec<(i64, Vec<u8>)> {
    let start = (3 * BLOCK + 5) / size * size;
    vec![(start as i64, dir.read("source.img")[start..(start + size).min(SIZE)].to_vec())]
}

/// A complete session of a client that only says hello and goodbye.
fn short_session() -> Vec<u8> {
    use bdsync_tests::wire;
    [wire::hello("CLIENT"), wire::devfile("target.img"), wire::done()].concat()
}

#[track_caller]
fn is_usage(text: &str) {
    assert!(text.starts_with("USAGE"), "no usage: {text}");
    for option in ["--server", "--patch", "--hash", "--blocksize", "--diffsize", "--progress", "--help"] {
        assert!(text.contains(option), "{option} is not in the usage: {text}");
    }
}

#[test]
fn no_arguments_print_the_usage_and_succeed() {
    let outcome = images().bdsync([]).run();
    outcome.exits(0);
    is_usage(&String::from_utf8_lossy(&outcome.stdout));
}

#[test]
fn help_prints_the_usage_and_succeeds() {
    let dir = images();
    for help in ["--help", "-H", "--hel"] {
        let outcome = dir.bdsync([help]).run();
        outcome.exits(0).says("");
        is_usage(&String::from_utf8_lossy(&outcome.stdout));
    }
}

#[test]
fn unknown_options_are_named_with_the_usage() {
    let dir = images();
    for (option, message) in [
        ("--nosuch", "unrecognized option '--nosuch'"),
        ("-x", "invalid option -- 'x'"),
        ("-P", "invalid option -- 'P'"),
        ("-tx", "invalid option -- 'x'"),
        ("--h", "option '--h' is ambiguous"),
        ("--server=3", "option '--server' doesn't allow an argument"),
        ("--twopass=yes", "option '--twopass' doesn't allow an argument"),
        ("--blocksize", "option '--blocksize' requires an argument"),
        ("-b", "requires an argument"),
        ("--hash", "option '--hash' requires an argument"),
        ("-c", "requires an argument"),
    ] {
        let outcome = dir.bdsync([option]).run();
        outcome.exits(1);
        assert!(outcome.stderr.contains(message), "wanted {message}: {outcome}");
        assert!(outcome.stdout.is_empty(), "{outcome}");
    }
}

#[test]
fn short_options_take_their_values_attached() {
    let dir = images();
    assert_eq!(patch(&client(&dir, &["-b8192"])).records, block_of(&dir, 8192));
    assert_eq!(patch(&client(&dir, &["-hsha1"])).records, block_of(&dir, BLOCK));
    let checksum = patch(&client(&dir, &["-cmd5"])).checksum.expect("a checksum");
    assert_eq!(checksum.0, b"md5");
    let outcome = dir.client(["-dminsize"], "longer.img", "target.img").run();
    assert_eq!(patch(&outcome).size, SIZE as i64);

    dir.write("good.bin", &Patch::new(SIZE as i64, "other.img").record(0, b"hello").encode());
    let outcome = dir.bdsync(["-ptarget.img"]).stdin(Stdin::File(dir.path("good.bin"))).run();
    outcome.exits(0).says("");
    assert_eq!(&dir.read("target.img")[..5], b"hello");
}

#[test]
fn short_options_take_their_values_apart() {
    let dir = images();
    assert_eq!(patch(&client(&dir, &["-b", "512", "-h", "sha256", "-c", "sha1"])).records, block_of(&dir, 512));
}

#[test]
fn an_optional_value_is_never_the_next_argument() {
    let dir = images();
    // The operands are four then.
    let outcome = dir.bdsync(["-d", "minsize", &dir.server(), "source.img", "target.img"]).run();
    outcome.exits(1).says("Bad number of arguments 4\n");
    let outcome = dir.bdsync(["--patch", "target.img"]).run();
    outcome.exits(1).says("Bad number of arguments 1\n");
}

#[test]
fn short_options_cluster() {
    let dir = images();
    assert_eq!(patch(&client(&dir, &["-tz"])).records, block_of(&dir, BLOCK));
    assert_eq!(patch(&client(&dir, &["-tzfb8192"])).records, block_of(&dir, 8192));
    // In -pz the z is the device.
    let outcome = dir.bdsync(["-pz"]).input(&Patch::new(SIZE as i64, "target.img").encode()).run();
    outcome.exits(12).says("opendev [z]: No such file or directory\n");
}

#[test]
fn long_options_may_be_cut_to_a_unique_prefix() {
    let dir = images();
    assert_eq!(patch(&client(&dir, &["--two", "--blocks=512", "--has=sha1"])).records, block_of(&dir, 512));
    assert_eq!(patch(&client(&dir, &["--bl", "8192", "--fl", "--z", "--fi"])).records, block_of(&dir, 8192));
    let remote = patch(&client(&dir, &["--rem"]));
    assert_eq!(remote.device, b"source.img");
    assert_ne!(remote.records, block_of(&dir, BLOCK));
    dir.bdsync(["--ser"]).input(&short_session()).run().exits(0);
}

#[test]
fn options_of_this_program_alone_take_no_prefix_from_stocks() {
    let dir = images();
    for prefix in ["--v", "--ve", "--ver", "--verb", "--t", "--tw", "--r", "--d", "--z", "--fl", "--fi", "--pr"] {
        patch(&client(&dir, &[prefix]));
    }
    for (prefix, value) in [("--b", "512"), ("--ha", "md5"), ("--c", "md5")] {
        patch(&client(&dir, &[prefix, value]));
    }
    dir.bdsync(["--s"]).input(&short_session()).run().exits(0);
    dir.bdsync(["--pa", "--w"]).input(&Patch::new(SIZE as i64, "target.img").encode()).run().exits(0);
    is_usage(&String::from_utf8_lossy(&dir.bdsync(["--he"]).run().exits(0).stdout));
}

#[test]
fn options_may_follow_operands() {
    let dir = images();
    let server = dir.server();
    let outcome = dir.bdsync([server.as_str(), "source.img", "target.img", "--blocksize=8192"]).run();
    assert_eq!(patch(&outcome).records, block_of(&dir, 8192));
    let outcome = dir.bdsync([server.as_str(), "-t", "source.img", "-b", "512", "target.img"]).run();
    assert_eq!(patch(&outcome).records, block_of(&dir, 512));
}

#[test]
fn two_dashes_end_the_options() {
    let dir = images();
    let server = dir.server();
    patch(&dir.bdsync(["--", &server, "source.img", "target.img"]).run());
    patch(&dir.bdsync([&server, "--", "source.img", "target.img"]).run());
    dir.write("--twopass", &dir.read("source.img"));
    let outcome = dir.bdsync(["--", &server, "--twopass", "target.img"]).run();
    assert_eq!(patch(&outcome).records, block_of(&dir, BLOCK));
}

#[test]
fn wrong_numbers_of_operands_are_counted() {
    let dir = images();
    for operands in [&["a"][..], &["a", "b"], &["a", "b", "c", "d"]] {
        let outcome = dir.bdsync(operands.iter().copied()).run();
        outcome.exits(1).says(&format!("Bad number of arguments {}\n", operands.len()));
    }
    dir.bdsync(["--server", "extra"]).run().exits(1);
}

#[test]
fn contradicting_options_are_refused_in_stocks_words() {
    let dir = images();
    let server = dir.server();
    let cases: &[(&[&str], &str)] = &[
        (&["--server", "--patch"], "Contradictive options --server and --patch"),
        (&["--patch", "--server"], "Contradictive options --server and --patch"),
        (&["-s", "-pdevice"], "Contradictive options --server and --patch"),
        (&["--server", "--hash=md5"], "Contradictive options --hash and --server"),
        (&["--server", "--checksum=md5"], "Contradictive options --checksum and --server"),
        (&["--patch", "--hash=md5"], "Contradictive options --hash and --patch"),
        (&["--patch", "--checksum=md5"], "Contradictive options --checksum and --patch"),
        (&["--warndev", &server, "source.img", "target.img"], "Options --warndev only valid with --patch"),
        (&["--warndev", "--server"], "Options --warndev only valid with --patch"),
        (&["--patch", "--zeroblocks"], "Contradictive options --zeroblocks and --patch"),
        (&["--zeroblocks", "--patch=x"], "Contradictive options --zeroblocks and --patch"),
    ];
    for (args, message) in cases {
        dir.bdsync(args.iter().copied()).run().exits(1).says(&format!("{message}\n"));
    }
}

#[test]
fn bad_values_are_refused_in_stocks_words() {
    let dir = images();
    let cases: &[(&[&str], i32, &str)] = &[
        (&["--hash=nosuch"], 1, "Bad hash nosuch"),
        (&["--checksum=nosuch"], 5, "Bad checksum nosuch"),
        (&["--blocksize=abc"], 1, "bad number abc"),
        (&["--blocksize=10x"], 1, "bad number 10x"),
        (&["--blocksize=0x1000"], 1, "bad number 0x1000"),
        (&["--blocksize="], 1, "bad number "),
        (&["--diffsize=foo"], 1, "bad diffsize options foo"),
        (&["-d=minsize"], 1, "bad diffsize options =minsize"),
        (&["--progress=foo"], 1, "bad progress option foo"),
        (&["--progress=nosc"], 1, "bad progress option nosc"),
    ];
    for (options, code, message) in cases {
        let outcome = client(&dir, options);
        outcome.exits(*code);
        assert!(outcome.stderr.starts_with(message), "wanted {message}: {outcome}");
        assert!(outcome.stdout.is_empty(), "{outcome}");
    }
}

#[test]
fn block_sizes_that_cannot_be_are_refused() {
    let dir = images();
    for size in ["0", "-5", "-4096", "99999999999999", "9223372036854775807", "99999999999999999999999"] {
        let outcome = client(&dir, &[&format!("--blocksize={size}")]);
        outcome.exits(1);
        assert_eq!(outcome.lines().len(), 1, "{outcome}");
        assert!(outcome.stdout.is_empty(), "{outcome}");
    }
}

#[test]
fn block_sizes_are_read_as_decimal() {
    let dir = images();
    assert_eq!(patch(&client(&dir, &["--blocksize=0512"])).records, block_of(&dir, 512));
    assert_eq!(patch(&client(&dir, &["--blocksize=+512"])).records, block_of(&dir, 512));
}

#[test]
fn contradicting_size_policies_are_refused() {
    let dir = images();
    for policy in ["strict,resize", "minsize,resize", "s,m", "resize,warn,strict"] {
        let outcome = client(&dir, &[&format!("--diffsize={policy}")]);
        outcome.exits(1);
        assert_eq!(outcome.lines().len(), 1, "{outcome}");
    }
}

#[test]
fn size_policies_may_be_cut_short_and_ordered_freely() {
    let dir = images();
    let warning = format!("Different sizes local={} remote={SIZE}\n", SIZE + 100);
    let grown = SIZE as i64 + 100;
    let smaller = SIZE as i64;
    for (policy, wanted, stderr) in [
        ("--diffsize", Some(grown), ""),
        ("-d", Some(grown), ""),
        ("--diffsize=resize", Some(grown), ""),
        ("--diffsize=res", Some(grown), ""),
        ("--diffsize=r", Some(grown), ""),
        ("--diffsize=warn", Some(grown), warning.as_str()),
        ("--diffsize=w", Some(grown), &warning),
        ("--diffsize=", Some(grown), ""),
        ("--diffsize=resize,warn", Some(grown), &warning),
        ("--diffsize=warn,r", Some(grown), &warning),
        ("-dr,w", Some(grown), &warning),
        ("--diffsize=minsize", Some(smaller), ""),
        ("--diffsize=min", Some(smaller), ""),
        ("--diffsize=w,m", Some(smaller), &warning),
        ("--diffsize=warn,warn,minsize", Some(smaller), &warning),
        ("--diffsize=strict,warn", None, &warning),
        ("--diffsize=s,w", None, &warning),
    ] {
        let outcome = dir.client([policy], "longer.img", "target.img").run();
        match wanted {
            Some(size) => assert_eq!(patch(&outcome).size, size, "{policy}: {outcome}"),
            None => _ = outcome.exits(3),
        }
        outcome.says(stderr);
    }
    // Without the option: strict, with the warning.
    let outcome = dir.client([], "longer.img", "target.img").run();
    outcome.exits(3).says(&warning);
    assert!(outcome.stdout.is_empty());
    dir.client(["--diffsize=s"], "longer.img", "target.img").run().exits(3);
}

#[test]
fn the_last_of_repeated_options_counts() {
    let dir = images();
    assert_eq!(patch(&client(&dir, &["-b512", "-b8192"])).records, block_of(&dir, 8192));
}

#[test]
fn a_server_takes_the_options_that_managers_pass_to_all_calls() {
    let dir = images();
    for options in [
        &["--twopass", "--flushcache", "--remdata", "--blocksize=4096", "--diffsize=resize", "--progress"][..],
        &["-t", "-r", "-f", "-F", "-d"],
        &["--zeroblocks", "--fixedsalt", "--diffsize=minsize,warn", "--progress=noscroll"],
    ] {
        let outcome = dir.bdsync(["--server"]).args(options.iter().copied()).input(&short_session()).run();
        // -F is the short form of a client's option that is a mere flag here.
        outcome.exits(0).says("");
    }
}

#[test]
fn patching_takes_the_options_that_managers_pass_to_all_calls() {
    let dir = images();
    dir.write("good.bin", &Patch::new(SIZE as i64, "target.img").record(0, b"hello").encode());
    for options in [
        &["--twopass", "--flushcache", "--remdata", "--blocksize=4096", "--diffsize=resize", "--progress"][..],
        &["--fixedsalt", "--diffsize=minsize,warn", "--progress=noscroll", "-t", "-r", "-f"],
    ] {
        let run = dir.bdsync(["--patch"]).args(options.iter().copied());
        let outcome = run.stdin(Stdin::File(dir.path("good.bin"))).run();
        outcome.exits(0).says("");
        assert_eq!(&dir.read("target.img")[..5], b"hello");
    }
}

#[test]
fn help_wins_over_a_mode() {
    let outcome = images().bdsync(["--server", "--help"]).run();
    outcome.exits(0);
    is_usage(&String::from_utf8_lossy(&outcome.stdout));
}

#[test]
fn verbose_talks_on_stderr_and_leaves_the_patch_alone() {
    let dir = images();
    let quiet = patch(&client(&dir, &[]));
    for verbose in ["--verbose", "-v", "-vv", "-vvv"] {
        let outcome = client(&dir, &[verbose]);
        assert_eq!(patch(&outcome), quiet);
        assert!(!outcome.stderr.is_empty(), "nothing said with {verbose}");
    }
}

#[test]
fn warndev_speaks_only_when_the_names_differ() {
    let dir = images();
    dir.write("good.bin", &Patch::new(SIZE as i64, "other.img").encode());
    let run = |args: &[&str]| -> Run { dir.bdsync(args.iter().copied()).stdin(Stdin::File(dir.path("good.bin"))) };
    let warning = "Warning: different device names parameter=target.img data=other.img\n";
    run(&["--patch=target.img", "--warndev"]).run().exits(0).says(warning);
    run(&["-ptarget.img", "-w"]).run().exits(0).says(warning);
    run(&["--patch=target.img"]).run().exits(0).says("");
    dir.write("other.img", &dir.read("target.img"));
    run(&["--patch=other.img", "--warndev"]).run().exits(0).says("");
    run(&["--patch", "--warndev"]).run().exits(0).says("");
}
