//! The recordings of stock in `proto-spec/vectors`, replayed.

use bdsync_tests::patch::Patch;
use bdsync_tests::recording::{self, PatchRun, Recording, Server, Sync};
use bdsync_tests::wire::{self, kind};
use bdsync_tests::{Outcome, Run, Stdin, WorkDir, sha256_hex};

/// Runs `check` over all recordings of a kind and names every one that fails.
fn each<T: serde::de::DeserializeOwned>(kind: &str, check: impl Fn(&Recording<T>) -> Result<(), String>) {
    let recordings = recording::all::<T>(kind);
    let failures: Vec<String> = recordings
        .iter()
        .filter_map(|recording| check(recording).err().map(|why| format!("{kind}/{}: {why}", recording.name)))
        .collect();
    assert!(failures.is_empty(), "{} of {}:\n{}", failures.len(), recordings.len(), failures.join("\n"));
}

fn ensure(holds: bool, why: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(why()) }
}

fn exits(outcome: &Outcome, code: i32) -> Result<(), String> {
    ensure(outcome.code == Some(code), || format!("wanted exit {code}: {outcome}"))
}

fn is_image(image: &[u8], size: u64, sha256: &str) -> Result<(), String> {
    ensure(image.len() as u64 == size, || format!("the result has {} bytes instead of {size}", image.len()))?;
    ensure(sha256_hex(image) == sha256, || "the result has other bytes".to_owned())
}

fn images(case: &Sync) -> WorkDir {
    let dir = WorkDir::new();
    dir.write("source.img", &case.source.build());
    dir.write("target.img", &case.target.build());
    dir
}

fn run_client(case: &Sync, dir: &WorkDir) -> Outcome {
    let server = [vec![dir.server()], case.server_args.clone()].concat().join(" ");
    let salt = if case.fixedsalt { vec!["--fixedsalt"] } else { vec![] };
    dir.bdsync(salt)
        .args(case.args.iter().map(String::as_str))
        .args([server.as_str(), "source.img", "target.img"])
        .run()
}

fn apply(case: &Sync, dir: &WorkDir, patch: &[u8]) -> Outcome {
    dir.write("patch.bin", patch);
    dir.bdsync(["--patch"])
        .args(case.patch_args.iter().map(String::as_str))
        .stdin(Stdin::File(dir.path("patch.bin")))
        .run()
}

#[test]
fn server_answers_recorded_clients_byte_for_byte() {
    each("sync", |recording: &Recording<Sync>| {
        let dir = images(&recording.case);
        let client = recording.file("c2s.bin");
        let answer =
            dir.bdsync(["--server"]).args(recording.case.server_args.iter().map(String::as_str)).input(&client).run();
        let complete = wire::split(&client).last().is_some_and(|(kind, _)| *kind == kind::DONE);
        // A client that gives up (sizes differ) just goes away.
        exits(&answer, if complete { 0 } else { 6 })?;
        ensure(answer.stdout == recording.file("s2c.bin"), || format!("other bytes: {answer}"))
    });
}

#[test]
fn client_ends_as_recorded_and_writes_the_recorded_patch() {
    each("sync", |recording: &Recording<Sync>| {
        let case = &recording.case;
        let outcome = run_client(case, &images(case));
        exits(&outcome, case.client_exit)?;
        ensure(outcome.stderr == case.client_stderr, || format!("wanted stderr {:?}: {outcome}", case.client_stderr))?;
        let recorded = recording.file("patch.bin");
        if case.args.iter().any(|arg| arg == "--twopass") {
            // The order of the second pass's records is free, their number is not.
            let patch = Patch::parse(&outcome.stdout).ok_or("no complete patch")?;
            let recorded_patch = Patch::parse(&recorded).ok_or("no complete recorded patch")?;
            ensure(patch.checksum == recorded_patch.checksum, || "another checksum".to_owned())?;
            ensure(outcome.stdout.len() <= recorded.len(), || {
                format!("{} bytes where stock needs {}", outcome.stdout.len(), recorded.len())
            })
        } else {
            ensure(outcome.stdout == recorded, || format!("other bytes: {outcome}"))
        }
    });
}

#[test]
fn own_patches_leave_the_recorded_result() {
    each("sync", |recording: &Recording<Sync>| {
        let Some(wanted) = &recording.case.apply else { return Ok(()) };
        let dir = images(&recording.case);
        let patch = run_client(&recording.case, &dir).stdout;
        exits(&apply(&recording.case, &dir, &patch), 0)?;
        is_image(&dir.read(&wanted.device), wanted.result_size, &wanted.result_sha256)
    });
}

#[test]
fn recorded_patches_apply_as_recorded() {
    each("sync", |recording: &Recording<Sync>| {
        let Some(wanted) = &recording.case.apply else { return Ok(()) };
        let dir = images(&recording.case);
        let outcome = apply(&recording.case, &dir, &recording.file("patch.bin"));
        // Stock refuses to make a file empty; that is meant to work.
        let stock_failed = recording.name == "shrink-to-empty";
        exits(&outcome, if stock_failed { 0 } else { wanted.exit })?;
        let stderr = if stock_failed { "" } else { &wanted.stderr };
        ensure(outcome.stderr == stderr, || format!("wanted stderr {stderr:?}: {outcome}"))?;
        is_image(&dir.read(&wanted.device), wanted.result_size, &wanted.result_sha256)
    });
}

#[test]
fn recorded_patches_are_complete_and_hold_what_their_bytes_say() {
    each("sync", |recording: &Recording<Sync>| {
        let bytes = recording.file("patch.bin");
        if recording.case.client_exit != 0 {
            return ensure(bytes.is_empty(), || "a patch where there should be none".to_owned());
        }
        let patch = Patch::parse(&bytes).ok_or("no complete patch")?;
        ensure(patch.encode() == bytes, || "other bytes when written again".to_owned())
    });
}

#[test]
fn server_ends_as_recorded_whatever_it_is_fed() {
    each("server", |recording: &Recording<Server>| {
        let dir = WorkDir::new();
        let target = recording.case.target.build();
        dir.write("target.img", &target);
        let outcome = dir.bdsync(["--server"]).input(&recording.file("stdin.bin")).run();
        // Stock crashes on a message of length 0.
        exits(&outcome, if recording.case.exit < 0 { 4 } else { recording.case.exit })?;
        let lines = outcome.lines().len();
        ensure(lines <= 1, || format!("more than one line of explanation: {outcome}"))?;
        ensure(recording.case.exit != 0 || lines == 0, || format!("a complaint on success: {outcome}"))?;
        let recorded = recording.file("stdout.bin");
        // Where the input breaks off, the answer to the device may have left already, or not.
        let with_size = [recorded.clone(), wire::size(target.len() as i64)].concat();
        let same = outcome.stdout == recorded || (outcome.code == Some(6) && outcome.stdout == with_size);
        ensure(same, || format!("other bytes: {outcome}"))
    });
}

/// Runs `--patch` on a recorded input.
fn run_patch(recording: &Recording<PatchRun>, dir: &WorkDir) -> Run {
    let case = &recording.case;
    dir.write("target.img", &case.target.build());
    dir.write("stdin.bin", &recording.file("stdin.bin"));
    let patch = case.device.as_ref().map_or("--patch".to_owned(), |device| format!("--patch={device}"));
    dir.bdsync([patch.as_str()]).args(case.args.iter().map(String::as_str))
}

/// Stock hands a negative position to the kernel; that patch is broken.
fn wanted_exit(recording: &Recording<PatchRun>) -> i32 {
    if recording.name == "negative-position" { 2 } else { recording.case.exit }
}

fn says_as_recorded(recording: &Recording<PatchRun>, outcome: &Outcome) -> Result<(), String> {
    let recorded = &recording.case.stderr;
    if wanted_exit(recording) == 0 || recorded.starts_with("Different sizes") || recorded.starts_with("opendev") {
        ensure(outcome.stderr == *recorded, || format!("wanted stderr {recorded:?}: {outcome}"))
    } else {
        ensure(outcome.lines().len() == 1, || format!("wanted one line: {outcome}"))
    }
}

#[test]
fn patches_in_a_file_are_applied_whole_or_not_at_all() {
    each("patch", |recording: &Recording<PatchRun>| {
        let dir = WorkDir::new();
        let outcome = run_patch(recording, &dir).stdin(Stdin::File(dir.path("stdin.bin"))).run();
        let case = &recording.case;
        exits(&outcome, wanted_exit(recording))?;
        says_as_recorded(recording, &outcome)?;
        if case.exit == 0 {
            is_image(&dir.read("target.img"), case.result_size, &case.result_sha256)
        } else {
            ensure(dir.read("target.img") == case.target.build(), || "the target was changed".to_owned())
        }
    });
}

#[test]
fn patches_by_a_pipe_are_applied_up_to_the_break_and_the_message_says_how_far() {
    each("patch", |recording: &Recording<PatchRun>| {
        let dir = WorkDir::new();
        let outcome = run_patch(recording, &dir).input(&recording.file("stdin.bin")).run();
        let case = &recording.case;
        exits(&outcome, wanted_exit(recording))?;
        let result = dir.read("target.img");
        is_image(&result, case.result_size, &case.result_sha256)?;
        let changed = result != case.target.build();
        if case.exit == 0 || !changed {
            return says_as_recorded(recording, &outcome);
        }
        let message = outcome.stderr.to_lowercase();
        let how_far = message.contains(|c: char| c.is_ascii_digit())
            && ["written", "changed", "applied"].iter().any(|word| message.contains(word));
        ensure(how_far, || format!("does not say how far the target was changed: {outcome}"))
    });
}
