//! Options that stock does not have.

use bdsync_tests::patch::Patch;
use bdsync_tests::{Recipe, Stdin, WorkDir};

const SIZE: usize = 300_001;

fn images() -> WorkDir {
    let dir = WorkDir::new();
    let mut image = Recipe::random(SIZE, 3).build();
    dir.write("target.img", &image);
    image[100_000] ^= 1;
    dir.write("source.img", &image);
    dir
}

/// Writes the patch of a client run with `options` into patch.bin.
fn make_patch(dir: &WorkDir, options: &[&str]) -> Patch {
    let outcome = dir.client(options.iter().copied(), "source.img", "target.img").run();
    outcome.exits(0);
    dir.write("patch.bin", &outcome.stdout);
    Patch::parse(&outcome.stdout).expect("a complete patch")
}

fn verify(dir: &WorkDir, options: &[&str]) -> bdsync_tests::Outcome {
    let run = dir.bdsync(["--patch", "--verify"]).args(options.iter().copied());
    run.stdin(Stdin::File(dir.path("patch.bin"))).run()
}

#[test]
fn a_right_checksum_is_verified() {
    for options in [&[][..], &["--blocksize=1000"], &["--twopass"], &["--twopass", "--blocksize=512"]] {
        let dir = images();
        make_patch(&dir, &[options, &["--checksum=sha256"]].concat());
        let outcome = verify(&dir, options);
        outcome.exits(0);
        assert!(outcome.stderr.starts_with("checksum[sha256]: "), "{outcome}");
        assert!(dir.read("target.img") == dir.read("source.img"));
    }
}

#[test]
fn a_wrong_checksum_is_reported_as_exit_5() {
    let dir = images();
    let mut patch = make_patch(&dir, &["--checksum=md5"]);
    patch.checksum = Some((b"md5".to_vec(), vec![0; 16]));
    dir.write("patch.bin", &patch.encode());
    verify(&dir, &[]).exits(5);
}

#[test]
fn a_target_that_was_not_what_the_patch_was_made_for_fails_verification() {
    let dir = images();
    make_patch(&dir, &["--checksum=md5"]);
    let mut target = dir.read("target.img");
    target[200_000] ^= 1;
    dir.write("target.img", &target);
    verify(&dir, &[]).exits(5);
}

#[test]
fn a_patch_that_cannot_be_verified_is_not_a_success() {
    let dir = images();
    let patch = make_patch(&dir, &[]);
    verify(&dir, &[]).exits(5);
    for (name, value) in [(&b"nosuch"[..], 16), (b"md5", 15)] {
        let checksum = Some((name.to_vec(), vec![0; value]));
        dir.write("patch.bin", &Patch { checksum, ..patch.clone() }.encode());
        verify(&dir, &[]).exits(5);
    }
}

#[test]
fn verify_belongs_to_patch() {
    let dir = images();
    dir.client(["--verify"], "source.img", "target.img").run().exits(1);
    dir.bdsync(["--server", "--verify"]).run().exits(1);
}

#[test]
fn every_way_of_reading_and_every_number_of_threads_makes_the_same_patch() {
    let dir = images();
    for options in [&["--checksum=sha1"][..], &["--twopass", "--blocksize=512", "--checksum=md5"], &["--remdata"]] {
        let wanted = make_patch(&dir, options);
        for own in [&["--io=mapped"][..], &["--io=positional"], &["--threads=1"], &["--threads=5", "--io=mapped"]] {
            assert!(make_patch(&dir, &[options, own].concat()) == wanted, "{options:?} {own:?}");
            let server = [&[dir.server().as_str()], own].concat().join(" ");
            let outcome = dir.bdsync(options.iter().copied()).args([&server, "source.img", "target.img"]).run();
            outcome.exits(0).says("");
            assert!(Patch::parse(&outcome.stdout) == Some(wanted.clone()), "{options:?} {own:?}");
        }
    }
}

#[test]
fn bad_values_are_refused_with_one_line() {
    let dir = images();
    for option in ["--threads=0", "--threads=x", "--threads=-1", "--io=foo", "--io="] {
        let outcome = dir.client([option], "source.img", "target.img").run();
        outcome.exits(1);
        assert_eq!(outcome.lines().len(), 1, "{outcome}");
    }
}

#[test]
fn the_version_names_program_protocol_and_format() {
    let outcome = images().bdsync(["--version"]).run();
    outcome.exits(0).says("");
    let version = String::from_utf8_lossy(&outcome.stdout);
    assert!(version.starts_with("bdsync ") && version.contains("0.5") && version.contains("0.3"), "{version}");
}

#[test]
fn zeros_give_their_space_back_where_that_is_asked_for() {
    use std::os::unix::fs::MetadataExt;
    let blocks = |sparse: bool| {
        let dir = WorkDir::new();
        dir.write("target.img", &Recipe::random(1 << 20, 5).build());
        let mut source = vec![0; 1 << 20];
        source[500_000..500_100].fill(7);
        dir.write("source.img", &source);
        make_patch(&dir, &[]);
        let options = if sparse { &["--patch", "--sparse"][..] } else { &["--patch"] };
        dir.bdsync(options.iter().copied()).stdin(Stdin::File(dir.path("patch.bin"))).run().exits(0);
        assert!(dir.read("target.img") == source);
        std::fs::metadata(dir.path("target.img")).expect("still there").blocks()
    };
    let (full, sparse) = (blocks(false), blocks(true));
    assert!(sparse < full / 10, "{sparse} blocks of {full}");
}

#[test]
fn a_patch_that_cannot_be_verified_does_not_touch_the_target() {
    let dir = images();
    make_patch(&dir, &[]);
    let before = dir.read("target.img");
    let outcome = verify(&dir, &[]);
    outcome.exits(5);
    assert!(outcome.stderr.contains("the target was not touched"), "{outcome}");
    assert!(dir.read("target.img") == before);
}

#[test]
fn verification_covers_what_the_patch_covers_when_sizes_differ() {
    for (source, target, policy) in [(8192, 16_384, "minsize"), (16_384, 8192, "minsize"), (8192, 16_384, "resize")] {
        let dir = WorkDir::new();
        dir.write("source.img", &Recipe::random(source, 6).build());
        dir.write("target.img", &Recipe::random(target, 7).build());
        let policy = format!("--diffsize={policy}");
        make_patch(&dir, &["--checksum=md5", &policy]);
        verify(&dir, &[&policy]).exits(0);
    }
}

#[test]
fn holes_are_read_where_that_is_asked_for() {
    let dir = WorkDir::new();
    dir.sparse("source.img", 8 << 20);
    dir.sparse("target.img", 8 << 20);
    for options in [&[][..], &["--read-holes"], &["--read-holes", "--io=mapped"]] {
        assert!(make_patch(&dir, options).records.is_empty());
    }
}

#[test]
fn an_idle_run_has_the_idle_io_class_and_the_lowest_priority() {
    let dir = images();
    let report = dir.script("report", "ionice -p $PPID >&2; ps -o ni= -p $PPID >&2; exec \"$@\"");
    let remote = format!("{report} {} --server", bdsync_tests::bdsync());
    let run = dir.bdsync(["--idle", remote.as_str(), "source.img", "target.img"]).run();
    run.exits(0);
    assert!(run.stderr.contains("RMTERR: idle") && run.stderr.contains("19"), "{run}");
}

#[test]
fn a_message_on_a_full_standard_error_changes_no_exit_code() {
    let dir = images();
    make_patch(&dir, &["--checksum=md5"]);
    let program = bdsync_tests::bdsync();
    let run = |command: &str| bdsync_tests::Run::new("sh").args(["-c", command]).cwd(dir.folder()).run();
    run(&format!("exec {program} --patch < patch.bin 2> /dev/full")).exits(0);
    assert!(dir.read("target.img") == dir.read("source.img"));
    run(&format!("printf nonsense-nonsense | {program} --server 2> /dev/full")).exits(6);
    run(&format!("exec {program} --nonsense 2> /dev/full")).exits(1);
}

#[test]
fn control_characters_from_a_patch_do_not_reach_the_terminal() {
    let dir = images();
    let mut patch = make_patch(&dir, &["--checksum=md5"]);
    patch.checksum = Some((b"a\x1b[31m\nb".to_vec(), vec![0; 4]));
    dir.write("patch.bin", &patch.encode());
    let outcome = dir.bdsync(["--patch"]).stdin(Stdin::File(dir.path("patch.bin"))).run();
    outcome.exits(0);
    assert_eq!(outcome.stderr, "checksum[a[31mb]: 00000000\n");
}
