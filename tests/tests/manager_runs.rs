//! The manager's tasks from outside: local and behind a connection, in two phases and in place.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bdsync_tests::{Outcome, Run, Site, Sshd, bdsync, is_root, manager, not_run, program};

#[track_caller]
fn is_synced(site: &Site, target: &str, outcome: &Outcome) {
    outcome.exits(0);
    assert!(site.is_synced(target), "the target is not the source: {outcome}");
    assert_eq!(site.patches(), Vec::<PathBuf>::new(), "something is left: {outcome}");
}

/// Runs one task in two phases and one in place, locally and through `connections`.
fn run_everywhere(connections: &[String], settings: &str) {
    for connection in std::iter::once(None).chain(connections.iter().map(Some)) {
        for in_place in [false, true] {
            let site = Site::new();
            let far = connection.map_or(String::new(), |connection| site.far(connection));
            let config = site.task("t", "target.img", &format!("{far}apply_patch_in_place = {in_place}\n{settings}"));
            let outcome = site.manager(&config, ["--log-level", "info"]).run();
            is_synced(&site, "target.img", &outcome);
            let line = if in_place {
                "[Task t] INFO: Change Apply Time: 0:00:0"
            } else {
                "[Task t] INFO: Patch Generate Time: 0:00:0"
            };
            assert!(outcome.stderr.contains(line), "{outcome}");
        }
    }
}

#[test]
fn a_target_is_brought_up_to_date_whatever_the_settings() {
    for settings in [
        "",
        "hash = \"sha256\"\nblock_size = \"64k\"\ntwo_pass = true\nverify = \"full\"\n",
        "zero_blocks = true\nchecksum = \"md5\"\nflush_cache = true\nverify = \"sample\"\nio = \"mapped\"\nthreads = 1\n",
        "bdsync_args = \"--twopass --blocksize=8192 --diffsize=minsize -z\"\n",
    ] {
        run_everywhere(&["sh -c".into(), "env".into()], settings);
    }
}

#[test]
fn a_target_behind_ssh_is_brought_up_to_date() {
    match Sshd::start() {
        Ok(sshd) => run_everywhere(&[sshd.command()], "verify = \"full\"\n"),
        Err(why) => not_run("a_target_behind_ssh_is_brought_up_to_date", why),
    }
}

#[test]
fn a_sample_is_compared_in_parts_everywhere() {
    const SIZE: u64 = 2 << 30;
    for is_far in [false, true] {
        let site = Site::new();
        site.dir.sparse("source.img", SIZE);
        site.dir.sparse("target.img", SIZE);
        let far = if is_far { site.far("sh -c") } else { String::new() };
        let config = site.task("t", "target.img", &format!("{far}verify = \"sample\"\n"));
        let outcome = site.manager(&config, ["--json"]).run();
        outcome.exits(0);
        let finished = outcome.stdout_text();
        let finished = finished.lines().find(|line| line.contains("task_finished")).unwrap();
        let finished: serde_json::Value = serde_json::from_str(finished).unwrap();
        assert_eq!(finished["scanned_bytes"], SIZE, "{finished}");
        // 512 spans or requests of a mebibyte at far ends, 64 where everything is here.
        assert_eq!(finished["verified_bytes"], if is_far { 512 << 20 } else { 64 << 20 }, "{finished}");
    }
}

#[test]
fn stock_is_a_far_end() {
    let Some(stock) = bdsync_tests::stock() else {
        return bdsync_tests::not_run_even_in_ci("stock_is_a_far_end", "STOCK_BDSYNC is not set");
    };
    for settings in [
        "",
        "apply_patch_in_place = true\n",
        "two_pass = true\nzero_blocks = true\nhash = \"sha256\"\n",
        "create_target_if_missing = true\n",
    ] {
        let site = Site::new();
        let target = if settings.contains("create") { "new.img" } else { "target.img" };
        let far = format!("connection_command = \"sh -c\"\nremote_bdsync_bin = \"{stock}\"\n");
        let config = site.task("t", target, &format!("{far}{settings}"));
        let outcome = site.manager(&config, []).run();
        is_synced(&site, target, &outcome);
    }
}

#[test]
fn names_with_blanks_quotes_and_newlines_are_only_names() {
    for name in
        ["it's", "a b", "two\\nlines", "$(touch hit)", "`touch hit`;touch hit", "-rf", "\\\"q\\\"", "[x]*?", "~"]
    {
        for far in [false, true] {
            let site = Site::new();
            let real = name.replace("\\n", "\n").replace("\\\"", "\"");
            std::fs::rename(site.dir.path("target.img"), site.dir.path(&real)).unwrap();
            let folder = site.dir.path_text("p d'q");
            std::fs::create_dir(&folder).unwrap();
            let (source, target) =
                (site.dir.path_text("source.img"), format!("{}/{name}", site.dir.folder().display()));
            let far = if far { site.far("sh -c") } else { String::new() };
            let config = format!(
                "[task.t]\nsource_path = \"{source}\"\ntarget_path = \"{target}\"\ntarget_patch_dir = \"{folder}\"\n{far}"
            );
            let outcome = site.manager(&config, []).run();
            outcome.exits(0);
            assert!(site.is_synced(&real), "{name}: {outcome}");
            assert!(!site.dir.path("hit").exists(), "{name} was run");
            assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0, "{name}: {outcome}");
        }
    }
}

#[test]
fn a_missing_target_is_made_if_the_task_says_so() {
    for far in [false, true] {
        for in_place in [false, true] {
            let site = Site::new();
            let far = if far { site.far("sh -c") } else { String::new() };
            let settings = format!("{far}apply_patch_in_place = {in_place}\n");
            let refused = site.manager(&site.task("t", "new.img", &settings), []).run();
            refused.exits(3);
            assert!(refused.stderr.contains("The target does not exist"), "{refused}");
            assert!(!site.dir.path("new.img").exists());
            let create = format!("{settings}create_target_if_missing = true\n");
            let outcome = site.manager(&site.task("t", "new.img", &create), []).run();
            is_synced(&site, "new.img", &outcome);
            // As an earlier run leaves it that was killed right after making it.
            site.dir.write("new.img", b"");
            is_synced(&site, "new.img", &site.manager(&site.task("t", "new.img", &create), []).run());
        }
    }
}

#[test]
fn different_sizes_are_refused_or_dealt_with_as_the_task_says() {
    for far in [false, true] {
        for size in [1_000_000, 5_000_000] {
            for in_place in [false, true] {
                let site = Site::new();
                let far = if far { site.far("sh -c") } else { String::new() };
                let mut old = site.dir.read("target.img");
                old.resize(size, 9);
                site.dir.write("target.img", &old);
                let task = |policy: &str| {
                    let settings = format!("{far}apply_patch_in_place = {in_place}\nsize_policy = \"{policy}\"\n");
                    site.task("t", "target.img", &settings)
                };
                let refused = site.manager(&task("strict"), []).run();
                refused.exits(3);
                assert!(refused.stderr.contains("Different sizes"), "{refused}");
                assert!(site.dir.read("target.img") == old, "{refused}");
                let outcome = site.manager(&task("minsize"), []).run();
                outcome.exits(0);
                let (source, now) = (site.dir.read("source.img"), site.dir.read("target.img"));
                let common = size.min(source.len());
                assert!(now.len() == size && now[..common] == source[..common] && now[common..] == old[common..]);
                is_synced(&site, "target.img", &site.manager(&task("resize"), []).run());
            }
        }
    }
}

#[test]
fn one_task_that_fails_does_not_keep_the_others() {
    let site = Site::new();
    let broken =
        "[task.a]\nsource_path = \"/nonexistent\"\ntarget_path = \"/nonexistent2\"\napply_patch_in_place = true\n";
    let config = format!(
        "{broken}{}[task.off]\nsource_path = \"/x\"\ntarget_path = \"/y\"\ndisabled = true\napply_patch_in_place = true\n",
        site.task("b", "target.img", "")
    );
    let outcome = site.manager(&config, ["--log-level", "info"]).run();
    outcome.exits(3);
    assert!(site.is_synced("target.img"), "{outcome}");
    assert!(outcome.stderr.contains("[Task off] INFO: Skipping disabled task"), "{outcome}");
    let status = site.run("manager.toml", ["status"]).run();
    let text = String::from_utf8(status.stdout).unwrap();
    assert!(text.contains("a: FAILED") && text.contains("b: ok") && text.contains("off: never run"), "{text}");
}

#[test]
fn json_lines_tell_everything() {
    let site = Site::new();
    let outcome = site.manager(&site.task("t", "target.img", "verify = \"full\"\n"), ["--json"]).run();
    outcome.exits(0);
    let text = String::from_utf8(outcome.stdout).unwrap();
    let events: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let find =
        |name: &str| events.iter().find(|event| event["event"] == name).unwrap_or_else(|| panic!("{name}: {text}"));
    find("task_started");
    let finished = find("task_finished");
    assert_eq!(finished["scanned_bytes"], 3_000_000);
    assert!(finished["changed_bytes"].as_u64().unwrap() > 0 && finished["patch_bytes"].as_u64().unwrap() > 0);
    assert_eq!(find("summary")["ok"], 1);
    let phases: Vec<_> =
        events.iter().filter(|event| event["event"] == "phase").map(|event| event["phase"].clone()).collect();
    assert_eq!(phases, ["prepare", "compare", "check patch", "apply", "verify"]);
}

#[test]
fn hooks_run_around_a_task_and_know_its_facts() {
    let site = Site::new();
    let hooks = "hook_before = 'echo \"before $BDSYNC_TASK $BDSYNC_RESULT\" >> log'\nhook_after = 'echo \"after $BDSYNC_CHANGED_BYTES\" >> log'\nhook_error = 'echo \"error $BDSYNC_ERROR\" >> log'\n";
    site.manager(&site.task("t", "target.img", hooks), []).run().exits(0);
    let log = String::from_utf8(site.dir.read("log")).unwrap();
    assert!(log.starts_with("before t starting\nafter ") && !log.contains("error"), "{log}");

    site.dir.write("log", b"");
    site.manager(&site.task("t", "missing.img", hooks), []).run().exits(3);
    let log = String::from_utf8(site.dir.read("log")).unwrap();
    assert!(log.contains("error The target does not exist"), "{log}");

    for (code, exit) in [(75, 0), (1, 3)] {
        let site = Site::new();
        let before = site.dir.read("target.img");
        let hook = format!("hook_before = 'echo not today >&2; exit {code}'\n");
        let outcome = site.manager(&site.task("t", "target.img", &hook), []).run();
        outcome.exits(exit);
        assert!(outcome.stderr.contains("not today"), "{outcome}");
        assert!(site.dir.read("target.img") == before);
    }
}

#[test]
fn a_target_that_is_the_source_or_in_use_is_refused() {
    let site = Site::new();
    std::fs::hard_link(site.dir.path("source.img"), site.dir.path("same.img")).unwrap();
    let outcome = site.manager(&site.task("t", "same.img", ""), []).run();
    outcome.exits(3);
    assert!(outcome.stderr.contains("is the source"), "{outcome}");

    if !is_root() {
        return not_run("a_target_that_is_the_source_or_in_use_is_refused", "it needs root for loop devices");
    }
    let site = Site::new();
    site.dir.sparse("disk.img", 16 << 20);
    let tool = |program_name: &str, args: &[&str]| {
        let path = program(program_name).unwrap_or_else(|| panic!("{program_name} is not installed"));
        let outcome = Run::new(path.to_str().unwrap()).args(args.iter().copied()).run();
        outcome.exits(0);
        String::from_utf8(outcome.stdout).unwrap().trim().to_string()
    };
    tool("mke2fs", &["-q", "-t", "ext4", &site.dir.path_text("disk.img")]);
    std::fs::create_dir(site.dir.path("mnt")).unwrap();
    let device = tool("losetup", &["--find", "--show", &site.dir.path_text("disk.img")]);
    let before = site.dir.read("disk.img");
    let results: Vec<_> = [false, true]
        .into_iter()
        .map(|far| {
            let far = if far { site.far("sh -c") } else { String::new() };
            let attached = site.manager(&site.task("t", "disk.img", &far), []).run();
            tool("mount", &["-o", "ro", &device, &site.dir.path_text("mnt")]);
            let config = site.task("t", "x", &far).replace(&site.dir.path_text("x"), &device);
            let mounted = site.manager(&config, []).run();
            tool("umount", &[&site.dir.path_text("mnt")]);
            (attached, mounted)
        })
        .collect();
    tool("losetup", &["--detach", &device]);
    for (attached, mounted) in results {
        attached.exits(3);
        assert!(attached.stderr.contains("is attached to /dev/loop"), "{attached}");
        mounted.exits(3);
        assert!(mounted.stderr.contains("is mounted on"), "{mounted}");
    }
    assert!(site.dir.read("disk.img") == before);
}

/// Waits until the file `log` of a running manager has a line with `text`.
fn wait_for(site: &Site, text: &str) {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let log = std::fs::read(site.dir.path("log")).unwrap_or_default();
        if String::from_utf8_lossy(&log).contains(text) {
            return;
        }
        assert!(Instant::now() < deadline, "no {text} in {}", String::from_utf8_lossy(&log));
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_second_run_says_who_holds_the_target() {
    let site = Site::new();
    let config = site.task("first", "target.img", "hook_before = 'echo waiting >&2; sleep 30'\n");
    let mut first = site.start(&config);
    wait_for(&site, "Running hook_before");
    let second = site.run("manager.toml", []).run();
    second.exits(3);
    let holder = format!("is being synchronised by process {} (task first", first.id());
    assert!(second.stderr.contains(&holder), "{second}");
    first.kill().unwrap();
    first.wait().unwrap();
}

#[test]
fn a_signal_ends_a_run_cleanly_and_soon() {
    for far in [false, true] {
        for signal in [libc::SIGINT, libc::SIGTERM] {
            let site = Site::new();
            let far = if far { site.far("sh -c") } else { String::new() };
            let before = site.dir.read("target.img");
            let mut child = site.start(&site.task("t", "target.img", &format!("{far}bandwidth_limit = \"10k\"\n")));
            wait_for(&site, "Phase: compare");
            // SAFETY: the child is ours and not waited for yet.
            unsafe { libc::kill(child.id() as i32, signal) };
            let begin = Instant::now();
            let status = child.wait().unwrap();
            assert!(begin.elapsed() < Duration::from_secs(10), "it took {:?}", begin.elapsed());
            assert_eq!((status.code(), status.signal()), (Some(4), None));
            assert!(site.dir.read("target.img") == before);
            assert_eq!(site.run("manager.toml", ["status"]).run().code, Some(0));
            let status = String::from_utf8(site.run("manager.toml", ["status"]).run().stdout).unwrap();
            assert!(status.contains("t: cancelled"), "{status}");
        }
    }
}

#[test]
fn a_connection_that_hangs_is_given_up_and_tried_again() {
    let site = Site::new();
    let script = site.dir.script("hang", "echo x >> tries; exec sleep 60");
    let settings = format!(
        "connection_command = \"{script}\"\nremote_bdsync_bin = \"x\"\ntimeout = \"1s\"\nretries = 1\nretry_delay = \"100ms\"\n"
    );
    let outcome = site.manager(&site.task("t", "target.img", &settings), []).run();
    outcome.exits(3);
    assert!(outcome.stderr.contains("was silent for 1 seconds"), "{outcome}");
    assert_eq!(site.dir.read("tries"), b"x\nx\n");
}

#[test]
fn a_connection_that_breaks_is_tried_again_and_a_refusal_is_not() {
    let site = Site::new();
    // The first three calls end like an ssh that lost its connection, each at another place.
    let script = site.dir.script(
        "flaky",
        "echo x >> tries; n=$(wc -l < tries)\n[ $n = 1 ] && exit 255\n[ $n = 4 ] && { sh -c \"$1\" | head -c 300; exit 255; }\nexec sh -c \"$1\"",
    );
    let far = site.far(&script);
    let settings = format!("{far}retries = 3\nretry_delay = \"10ms\"\ntimeout = \"2s\"\n");
    let outcome = site.manager(&site.task("t", "target.img", &settings), []).run();
    is_synced(&site, "target.img", &outcome);
    assert!(outcome.stderr.contains("Trying again"), "{outcome}");

    let site = Site::new();
    let script = site.dir.script("refuse", "echo x >> tries; echo 'Permission denied' >&2; exit 1");
    let settings = format!("connection_command = \"{script}\"\nremote_bdsync_bin = \"x\"\nretry_delay = \"10ms\"\n");
    let outcome = site.manager(&site.task("t", "target.img", &settings), []).run();
    outcome.exits(3);
    assert!(outcome.stderr.contains("Permission denied") && !outcome.stderr.contains("Trying again"), "{outcome}");
}

#[test]
fn a_connection_cut_anywhere_never_spoils_the_target() {
    let site = Site::new();
    let old = site.dir.read("target.img");
    for cut in [1, 20, 100, 1000, 10_000, 100_000, 200_000, 260_000] {
        site.dir.write("target.img", &old);
        // Both directions break off after so many bytes.
        let script =
            site.dir.script(&format!("cut{cut}"), &format!("head -c {cut} | sh -c \"$1\" | head -c {cut}; exit 255"));
        // One end may be left waiting for the other.
        let settings = format!("{}retries = 0\ntimeout = \"2s\"\n", site.far(&script));
        let outcome = site.manager(&site.task("t", "target.img", &settings), []).run();
        let target = site.dir.read("target.img");
        match outcome.code {
            Some(0) => assert!(site.is_synced("target.img"), "{cut}: {outcome}"),
            Some(3) => assert!(target == old || site.is_ready() || site.is_synced("target.img"), "{cut}: {outcome}"),
            _ => panic!("{cut}: {outcome}"),
        }
        is_synced(&site, "target.img", &site.manager(&site.task("t", "target.img", &site.far("sh -c")), []).run());
    }
}

#[test]
fn a_full_disk_leaves_the_target_alone() {
    if !is_root() {
        return not_run("a_full_disk_leaves_the_target_alone", "it needs root to mount");
    }
    for far in [false, true] {
        let site = Site::new();
        let mount = |args: &[&str]| {
            let status = Command::new(args[0]).args(&args[1..]).status().unwrap();
            assert!(status.success(), "{args:?}");
        };
        let patches = site.dir.path_text("patches");
        mount(&["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", &patches]);
        let far = if far { site.far("sh -c") } else { String::new() };
        let before = site.dir.read("target.img");
        let config = site.task("t", "target.img", &far);
        let outcome = site.manager(&config, []).run();
        let left = site.patches();
        mount(&["umount", &patches]);
        outcome.exits(3);
        assert!(outcome.stderr.contains("No space left on device"), "{outcome}");
        assert!(site.dir.read("target.img") == before && left.is_empty(), "{left:?} {outcome}");
        is_synced(&site, "target.img", &site.manager(&config, []).run());
    }
}

#[test]
fn a_damaged_or_foreign_patch_is_never_applied() {
    for far in [false, true] {
        let site = Site::new();
        let far = if far { site.far("sh -c") } else { String::new() };
        let config = site.task("t", "target.img", &far);
        // A run that is killed while it applies leaves a ready patch; here a hook of ours makes one.
        let json = site.manager(&config, ["--json"]).run();
        json.exits(0);
        let old = site.dir.read("target.img");
        let stem = {
            let mut child = site.start(&config);
            child.wait().unwrap();
            "bdsync-manager-target_img-"
        };
        let key = &bdsync_tests::sha256_hex(site.dir.path_text("target.img").as_bytes())[..16];
        let ready = site.dir.path(&format!("patches/{stem}{key}.ready"));
        for state in [
            "",
            "{}",
            "{\"format\":1,\"task\":\"t\",\"host\":\"h\",\"source\":\"s\",\"target\":\"t\",\"created\":\"\",\"patch_bytes\":3,\"sha256\":\"00\",\"device_bytes\":3000000,\"target_bytes\":3000000}\n",
        ] {
            std::fs::write(&ready, b"bad").unwrap();
            std::fs::write(ready.with_extension("state"), state).unwrap();
            let outcome = site.manager(&config, []).run();
            is_synced(&site, "target.img", &outcome);
            assert!(outcome.stderr.contains("The patch of an earlier run cannot be applied"), "{outcome}");
            assert!(site.dir.read("target.img") == old);
        }
    }
}

#[test]
fn how_far_a_far_end_has_applied_a_patch_is_told() {
    let site = Site::new();
    let [go, first, program] = ["go", "first", "slow-bdsync"].map(|name| site.dir.path_text(name));
    Run::new("mkfifo").args([go.as_str()]).run().exits(0);
    // Takes some of the patch and waits until somebody has seen it.
    let script = format!(
        "#!/bin/sh\ncase $1 in --patch=*) dd bs=4096 count=1 of={first} 2> /dev/null; timeout 60 cat {go} > {first}.seen; cat {first} - | {real} \"$@\";;\n*) exec {real} \"$@\";; esac\n",
        real = bdsync(),
    );
    site.dir.write("slow-bdsync", script.as_bytes());
    Run::new("chmod").args(["755", program.as_str()]).run().exits(0);
    let far = format!("connection_command = \"sh -c\"\nremote_bdsync_bin = {program:?}\n");
    site.dir.write("manager.toml", site.task("t", "target.img", &far).as_bytes());
    let mut manager = Command::new(manager())
        .current_dir(site.dir.folder())
        .args(["--config", "manager.toml", "--state-dir", "state", "run", "--json"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut seen = false;
    for line in BufReader::new(manager.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        if !seen && line.contains(r#""phase":"apply""#) && line.contains(r#""position_bytes":4096,"#) {
            seen = true;
            assert!(!site.is_synced("target.img"), "{line}");
            std::fs::write(site.dir.path("go"), "\n").unwrap();
        }
    }
    assert!(seen && manager.wait().unwrap().success());
    assert!(site.is_synced("target.img"));
}

#[test]
fn a_ready_patch_that_vanishes_is_an_error() {
    let site = Site::new();
    let [patches, connection] = ["patches", "connection"].map(|name| site.dir.path_text(name));
    let script = format!(
        "#!/bin/sh\ncase $1 in *earlier=false*) [ -e {patches}/*.ready ] && rm {patches}/*.ready;; esac\nexec sh -c \"$1\"\n"
    );
    site.dir.write("connection", script.as_bytes());
    Run::new("chmod").args(["755", connection.as_str()]).run().exits(0);
    let before = site.dir.read("target.img");
    let config = site.task("t", "target.img", &site.far(&connection));
    let outcome = site.manager(&config, []).run();
    assert!(outcome.exits(3).stderr.contains("the ready patch has vanished before it was applied"), "{outcome}");
    assert!(site.dir.read("target.img") == before);
    is_synced(&site, "target.img", &site.manager(&site.task("t", "target.img", &site.far("sh -c")), []).run());
}

#[test]
fn what_a_broken_connection_left_at_work_is_waited_for_in_more_than_one_try() {
    let site = Site::new();
    let [target, connection, end, held, again] =
        ["target.img", "connection", "end", "held", "again"].map(|name| site.dir.path_text(name));
    Run::new("mkfifo").args([end.as_str()]).run().exits(0);
    // The first connection breaks and leaves somebody with the lock, until the second try to take it.
    let script = format!(
        "#!/bin/sh
if [ ! -e {held} ]; then
    flock {target} sh -c ': > {held}; timeout 60 cat {end}' < /dev/null > /dev/null 2>&1 &
    while [ ! -e {held} ]; do :; done
    exit 255
fi
case $1 in *'echo held'*) if [ -e {again} ]; then : > {end}; else : > {again}; fi;; esac
exec sh -c \"$1\"
"
    );
    site.dir.write("connection", script.as_bytes());
    Run::new("chmod").args(["755", connection.as_str()]).run().exits(0);
    let retries = "retries = 3\nretry_delay = \"10ms\"\n";
    let settings = site.far(&connection) + retries;
    let outcome = site.manager(&site.task("t", "target.img", &settings), []).run();
    is_synced(&site, "target.img", &outcome);
    assert!(outcome.stderr.contains("is locked by another process"), "{outcome}");
    // Without a connection that broke it is somebody else's, and that is an error.
    let lock = std::fs::File::open(&target).unwrap();
    lock.lock().unwrap();
    let settings = site.far("sh -c") + retries;
    let outcome = site.manager(&site.task("t", "target.img", &settings), []).run();
    assert!(outcome.exits(3).stderr.contains("is locked by another process"), "{outcome}");
    assert!(!outcome.stderr.contains("Trying again"), "{outcome}");
}

#[test]
fn a_run_in_place_leaves_no_patch_that_could_undo_it() {
    for (is_far, fits) in [(false, true), (false, false), (true, true), (true, false)] {
        let site = Site::new();
        // A patch that is ready when the connection breaks.
        let connection = site.dir.path_text("connection");
        site.dir.write("connection", b"#!/bin/sh\ncase $1 in *earlier=*) exit 255;; esac\nexec sh -c \"$1\"\n");
        Run::new("chmod").args(["755", connection.as_str()]).run().exits(0);
        let settings = site.far(&connection) + "retries = 0\n";
        site.manager(&site.task("t", "target.img", &settings), []).run().exits(3);
        assert!(site.is_ready());
        // The source goes on, and is brought over in place; the patch may not fit any more.
        let newer = site.dir.read("source.img").iter().map(|byte| byte ^ 1).collect::<Vec<_>>();
        site.dir.write("source.img", &newer);
        if !fits {
            site.dir.write("target.img", &site.dir.read("target.img")[..1_000_000]);
        }
        let far = if is_far { site.far("sh -c") } else { String::new() };
        let in_place = far + "apply_patch_in_place = true\nsize_policy = \"resize\"\n";
        let outcome = site.manager(&site.task("t", "target.img", &in_place), []).run();
        is_synced(&site, "target.img", &outcome);
        let text = if fits { "Finishing the patch" } else { "cannot be applied" };
        assert!(outcome.stderr.contains(text), "{outcome}");
        assert!(!site.run("manager.toml", ["status"]).run().exits(0).stdout.is_empty());
    }
}

#[test]
fn a_run_in_place_that_is_cut_off_is_remembered_until_one_ends_well() {
    let site = Site::new();
    let slow = site.task("t", "target.img", "apply_patch_in_place = true\nbandwidth_limit = \"1k\"\n");
    let mut child = site.start(&slow);
    let before = site.dir.read("target.img");
    while site.dir.read("target.img") == before {
        assert_eq!(child.try_wait().unwrap(), None);
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let status = |text: &str| {
        let outcome = site.run("manager.toml", ["status"]).run();
        assert_eq!(String::from_utf8_lossy(&outcome.exits(0).stdout).contains("PARTLY CHANGED"), text == "partly");
    };
    status("partly");
    let config = site.task("t", "target.img", "apply_patch_in_place = true\n");
    is_synced(&site, "target.img", &site.manager(&config, []).run());
    status("whole");
}
