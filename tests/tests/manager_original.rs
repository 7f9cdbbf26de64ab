//! The manager beside the original one from PyPI, on the same INI files: same targets,
//! same exit codes, same summary lines.
#![allow(clippy::unwrap_used)]

use bdsync_tests::{Outcome, Run, Site, bdsync, manager, not_run, original_manager, program};

/// The last part of a path that both see and neither may have.
const MISSING: &str = "missing";

/// What an INI file says of each task, with words in braces that stand for paths.
const BASE: &str = "local_bdsync_bin = {bdsync}\nsource_path = {dir}/source.img\ntarget_path = {dir}/target.img\ntarget_patch_dir = {dir}/patches\n";
const FAR: &str = "connection_command = {shell} user@host\nremote_bdsync_bin = {bdsync}\n";

/// Settings on top of those; the words `far` and `base` stand for them.
const CASES: &[(&str, &str)] = &[
    ("two phases", "[t]\n{base}"),
    ("in place", "[t]\n{base}apply_patch_in_place = yes\n"),
    ("in place, other booleans", "[t]\n{base}apply_patch_in_place = ON\ndisabled = 0\n"),
    ("connection, two phases", "[t]\n{base}{far}"),
    ("connection, in place", "[t]\n{base}{far}apply_patch_in_place = true\n"),
    ("connection without remote_bdsync_bin", "[t]\n{base}connection_command = {shell} user@host\n"),
    ("disabled", "[t]\n{base}disabled = yes\n"),
    ("bdsync_args", "[t]\n{base}bdsync_args = --twopass --blocksize=8192\n"),
    ("bdsync_args over a connection", "[t]\n{base}{far}bdsync_args = --diffsize=resize --flushcache\n"),
    ("bandwidth_limit", "[t]\n{base}bandwidth_limit = 42M\n"),
    ("bandwidth_limit without a unit", "[t]\n{base}{far}bandwidth_limit = 10000000\n"),
    ("an empty bandwidth_limit", "[t]\n{base}bandwidth_limit =\n"),
    ("a bandwidth_limit of 0", "[t]\n{base}bandwidth_limit = 0\n"),
    ("a bad bandwidth_limit", "[t]\n{base}bandwidth_limit = fast\n"),
    (
        "no patch folder named",
        "[t]\nlocal_bdsync_bin = {bdsync}\nsource_path = {dir}/source.img\ntarget_path = {dir}/target.img\n",
    ),
    ("a patch folder that is not there", "[t]\n{base2}target_patch_dir = {dir}/missing\n"),
    ("a source that is not there", "[t]\n{base}\n[u]\n{base3}source_path = {dir}/missing\n"),
    ("a target that is not there", "[t]\n{base4}target_path = {dir}/missing\n"),
    ("a target that is not there, far", "[t]\n{base4}{far}target_path = {dir}/missing\n"),
    ("a target whose folder is not there", "[t]\n{base4}target_path = {dir}/missing/x\n"),
    (
        "a target that is made",
        "[t]\n{base4}target_path = {dir}/missing\ncreate_target_if_missing = yes\nbdsync_args = --diffsize\n",
    ),
    (
        "a target that is made, far",
        "[t]\n{base4}{far}target_path = {dir}/missing\ncreate_target_if_missing = yes\nbdsync_args = -d\n",
    ),
    ("different sizes", "[t]\n{base4}target_path = {dir}/short.img\n"),
    ("different sizes, in place, far", "[t]\n{base4}{far}target_path = {dir}/short.img\napply_patch_in_place = 1\n"),
    ("resized", "[t]\n{base4}target_path = {dir}/short.img\nbdsync_args = --diffsize=resize\n"),
    ("cut to the smaller size", "[t]\n{base4}target_path = {dir}/short.img\nbdsync_args = --diffsize=minsize\n"),
    (
        "defaults and references",
        "[DEFAULT]\nlocal_bdsync_bin = {bdsync}\nbase: {dir}\ntarget_patch_dir = %(base)s/patches\n# a comment\n; another\n[t one]\nsource_path = %(BASE)s/source.img\ntarget_path = %(base)s/target.img\nApply_Patch_In_Place = no\n",
    ),
    ("a value over two lines", "[t]\n{base}bdsync_args = --twopass\n   --blocksize=8192\n"),
    ("one failing task of two", "[a]\n{base4}target_path = {dir}/short.img\n[b]\n{base}"),
    ("no tasks", "[DEFAULT]\nlocal_bdsync_bin = x\n"),
    ("an empty file", ""),
    ("a line that is none", "[t]\n{base}nonsense\n"),
    ("a setting twice", "[t]\n{base}disabled = no\ndisabled = no\n"),
    ("a section twice", "[t]\n{base}[t]\n{base}"),
    ("no section", "disabled = no\n"),
    ("a setting that nobody knows", "[t]\n{base}colour = blue\n"),
];

/// What a run did: its exit code, its summary lines without the figures, and what became of the files.
#[derive(Debug, PartialEq, Eq)]
struct Result {
    code: Option<i32>,
    summary: Vec<String>,
    files: Vec<(String, Option<String>)>,
}

fn content(site: &Site, text: &str) -> String {
    let line = |name: &str| {
        BASE.lines().filter(|line| !line.starts_with(name)).map(|line| format!("{line}\n")).collect::<String>()
    };
    // The original joins its words and gives them to a shell, as ssh does.
    let shell = site.dir.path_text("remote-shell");
    text.replace("{base}", BASE)
        .replace("{base2}", &line("target_patch_dir"))
        .replace("{base3}", &line("source_path"))
        .replace("{base4}", &line("target_path"))
        .replace("{far}", FAR)
        .replace("{shell}", &shell)
        .replace("{bdsync}", &bdsync())
        .replace("{dir}", site.dir.folder().to_str().unwrap())
}

fn run(program: &str, text: &str, args: &[&str]) -> (Result, Outcome) {
    let site = Site::with_size(500_000, 3);
    let script = "[ \"$1\" = user@host ] || exit 99\nshift\nexec sh -c \"$*\"";
    site.dir.script("remote-shell", script);
    let short = site.dir.read("target.img")[..300_000].to_vec();
    site.dir.write("short.img", &short);
    site.dir.write("manager.conf", content(&site, text).as_bytes());
    let state = site.dir.path_text("state");
    let run = Run::new(program).cwd(site.dir.folder()).env("BDSYNC_MANAGER_STATE_DIR", &state);
    let outcome = run.args(["--log-level", "info", "--config", "manager.conf"]).args(args.iter().copied()).run();
    let summary = ["Patch Generate Time", "Patch Size", "Patch Apply Time", "Change Apply Time"];
    let summary = outcome
        .lines()
        .iter()
        .filter_map(|line| {
            summary
                .iter()
                .find(|name| line.contains(*name))
                .and_then(|name| line.split(name).next())
                .map(|front| (front, line))
        })
        .map(|(front, line)| {
            line[..line[front.len()..].find(": ").map_or(line.len(), |at| front.len() + at)].to_string()
        })
        .collect();
    let digest = |name: &str| std::fs::read(site.dir.path(name)).ok().map(|data| bdsync_tests::sha256_hex(&data));
    let files = ["source.img", "target.img", "short.img", MISSING].map(|name| (name.to_string(), digest(name)));
    assert!(site.patches().is_empty() || outcome.code != Some(0), "{outcome}");
    (Result { code: outcome.code, summary, files: files.into() }, outcome)
}

#[test]
fn both_do_the_same_with_the_same_file() {
    let test = "both_do_the_same_with_the_same_file";
    let original = match original_manager() {
        Ok(original) => original.to_str().unwrap(),
        Err(why) => return not_run(test, why),
    };
    if program("pv").is_none() {
        return not_run(test, "pv is not installed: the original limits bandwidth with it");
    }
    let mut table = String::new();
    let mut different = Vec::new();
    for (name, text) in CASES {
        let (theirs, their_outcome) = run(original, text, &[]);
        let (ours, our_outcome) = run(&manager(), text, &[]);
        table += &format!(
            "| {name} | {:?} {} | {:?} {} |\n",
            theirs.code.unwrap_or(-1),
            theirs.summary.len(),
            ours.code.unwrap_or(-1),
            ours.summary.len()
        );
        // Where the original ends with a traceback, ours fails the task.
        let crashed = theirs.code == Some(1) && their_outcome.stderr.contains("Traceback");
        if crashed && ours.code == Some(3) && ours.files == theirs.files {
            continue;
        }
        if ours != theirs {
            different.push(format!("{name}:\ntheirs {theirs:?}\n{their_outcome}\nours {ours:?}\n{our_outcome}"));
        }
    }
    println!("{table}");
    assert!(different.is_empty(), "{}", different.join("\n"));
}

#[test]
fn both_choose_the_same_tasks() {
    let original = match original_manager() {
        Ok(original) => original.to_str().unwrap(),
        Err(why) => return not_run("both_choose_the_same_tasks", why),
    };
    let text = "[a]\n{base}[b]\n{base4}target_path = {dir}/short.img\n";
    for args in [
        &["--task", "a"][..],
        &["--task", "b"],
        &["--task", "no"],
        &["--task", "no", "--task", "a"],
        &["--task"],
        &["--nonsense"],
        &["--log-level", "loud"],
    ] {
        let (theirs, their_outcome) = run(original, text, args);
        let (ours, our_outcome) = run(&manager(), text, args);
        assert_eq!(ours, theirs, "{args:?}\n{their_outcome}\n{our_outcome}");
    }
    for program in [original, &manager()] {
        let outcome = Run::new(program).args(["--config", "/nonexistent/file"]).run();
        outcome.exits(2);
        Run::new(program).arg("--version").run().exits(0);
    }
}

#[test]
fn where_the_original_crashes_there_is_a_clear_error() {
    let Ok(original) = original_manager() else {
        return not_run("where_the_original_crashes_there_is_a_clear_error", "no original");
    };
    for (text, says) in [
        ("[t]\n{base3}", "source_path: is missing"),
        ("[t]\n{base}disabled = perhaps\n", "disabled: expected yes, no"),
        ("[t]\n{base}bdsync_args = 'open\n", "a quote is not closed"),
        ("[t]\n{base}source_path2 = 50%\n", "a % must be followed"),
    ] {
        let (ours, outcome) = run(&manager(), text, &[]);
        assert_eq!(ours.code, Some(2), "{outcome}");
        assert!(outcome.stderr.contains(says), "{outcome}");
        let (theirs, outcome) = run(original.to_str().unwrap(), text, &[]);
        assert!(theirs.code == Some(1) || theirs.code == Some(0), "{outcome}");
    }
}
