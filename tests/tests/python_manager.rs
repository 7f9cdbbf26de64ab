//! The original bdsync-manager from PyPI works unchanged on top of this `bdsync`.
//! Needs python3 with venv, and the package index, unless `BDSYNC_MANAGER_PY` names the program.

use bdsync_tests::{Outcome, Recipe, Run, WorkDir, bdsync, not_run, original_manager};

const SIZE: usize = 600_000;

/// A source, a target, and a folder for patches.
fn images() -> WorkDir {
    let dir = WorkDir::new();
    let mut image = Recipe::random(SIZE, 1).build();
    dir.write("target.img", &image);
    image[100_000..100_100].fill(7);
    image[SIZE - 1] ^= 1;
    dir.write("source.img", &image);
    std::fs::create_dir(dir.path("patches")).expect("a folder for patches");
    dir
}

/// Runs one task with these settings on top of the paths.
fn run_task(test: &str, dir: &WorkDir, settings: &[(&str, &str)]) -> Option<Outcome> {
    let manager = match original_manager() {
        Ok(manager) => manager,
        Err(why) => {
            not_run(test, why);
            return None;
        }
    };
    let mut config = String::from("[task]\n");
    let paths = [
        ("local_bdsync_bin", bdsync()),
        ("source_path", dir.path_text("source.img")),
        ("target_path", dir.path_text("target.img")),
        ("target_patch_dir", dir.path_text("patches")),
    ];
    for (name, value) in paths.iter().map(|(name, value)| (*name, value.as_str())).chain(settings.iter().copied()) {
        config += &format!("{name} = {value}\n");
    }
    dir.write("manager.conf", config.as_bytes());
    let run = Run::new(manager.to_str().expect("a UTF-8 path")).cwd(dir.folder());
    Some(run.args(["--log-level", "debug", "--config", "manager.conf"]).run())
}

#[track_caller]
fn is_synced(dir: &WorkDir, outcome: &Outcome) {
    outcome.exits(0);
    assert!(dir.read("target.img") == dir.read("source.img"), "the target is not the source: {outcome}");
    let left = std::fs::read_dir(dir.path("patches")).expect("the folder for patches").count();
    assert_eq!(left, 0, "a patch was left behind: {outcome}");
}

/// What ssh does with a command line: it joins the words and gives them to a shell.
fn remote_shell(dir: &WorkDir) -> String {
    let shell = dir.script("remote-shell", "[ \"$1\" = user@host ] || exit 99\nshift\nexec sh -c \"$*\"");
    format!("{shell} user@host")
}

const ARGUMENTS: &[&str] = &[
    "",
    "--twopass",
    "--diffsize=resize",
    "--diffsize=minsize,warn --flushcache",
    "--blocksize=65536 --twopass --flushcache --diffsize",
    "--progress --verbose",
];

#[test]
fn a_local_target_is_synced_in_place_and_in_two_phases() {
    for in_place in ["yes", "no"] {
        for arguments in ARGUMENTS {
            let dir = images();
            let settings = [("bdsync_args", *arguments), ("apply_patch_in_place", in_place)];
            let test = "a_local_target_is_synced_in_place_and_in_two_phases";
            let Some(outcome) = run_task(test, &dir, &settings) else { return };
            is_synced(&dir, &outcome);
        }
    }
}

#[test]
fn a_target_behind_a_connection_is_synced_in_place_and_in_two_phases() {
    for in_place in ["yes", "no"] {
        for arguments in ARGUMENTS {
            let dir = images();
            let (connection, program) = (remote_shell(&dir), bdsync());
            let settings = [
                ("connection_command", connection.as_str()),
                ("remote_bdsync_bin", &program),
                ("bdsync_args", arguments),
                ("apply_patch_in_place", in_place),
            ];
            let test = "a_target_behind_a_connection_is_synced_in_place_and_in_two_phases";
            let Some(outcome) = run_task(test, &dir, &settings) else { return };
            is_synced(&dir, &outcome);
        }
    }
}

#[test]
fn a_missing_target_is_made() {
    for in_place in ["yes", "no"] {
        let dir = images();
        std::fs::remove_file(dir.path("target.img")).expect("the target to go");
        let connection = remote_shell(&dir);
        let program = bdsync();
        let settings = [
            ("connection_command", connection.as_str()),
            ("remote_bdsync_bin", &program),
            ("bdsync_args", "--diffsize=resize"),
            ("create_target_if_missing", "yes"),
            ("apply_patch_in_place", in_place),
        ];
        let Some(outcome) = run_task("a_missing_target_is_made", &dir, &settings) else { return };
        is_synced(&dir, &outcome);
    }
}

#[test]
fn different_sizes_fail_the_task_and_leave_the_target() {
    let dir = images();
    dir.write("target.img", b"short");
    let settings = [("apply_patch_in_place", "no")];
    let test = "different_sizes_fail_the_task_and_leave_the_target";
    let Some(outcome) = run_task(test, &dir, &settings) else { return };
    assert_ne!(outcome.code, Some(0), "{outcome}");
    assert!(outcome.stderr.contains("exit code: 3"), "{outcome}");
    assert_eq!(dir.read("target.img"), b"short");
}
