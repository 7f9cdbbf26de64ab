//! The manager's configuration from outside: what is refused and how, INI files, templates, examples.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use bdsync_tests::{Run, Site, not_run, program};

fn list(site: &Site, config: &str) -> Vec<serde_json::Value> {
    let outcome = site.run(config, ["--json", "list"]).run();
    outcome.exits(0);
    String::from_utf8(outcome.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn without_time(mut events: Vec<serde_json::Value>) -> Vec<serde_json::Value> {
    for event in &mut events {
        event.as_object_mut().unwrap().remove("time");
    }
    events
}

#[test]
fn everything_that_is_wrong_is_said_at_once_with_its_place() {
    let site = Site::new();
    let config = "[defalts]\n[remote.r]\nsource_path = 1\n[task.a]\nsource_pth = \"x\"\nblock_size = \"64q\"\ndisabled = \"yes\"\nhash = \"md6\"\nbandwidth_limit = 0\n[task.b]\nremote = \"no\"\nsource_path = \"/x\"\ntarget_path = \"/y\"\nbdsync_args = \"--remdata\"\nsize_policy = \"big\"\n";
    let outcome = site.manager(config, []).run();
    outcome.exits(2);
    for expected in [
        "manager.toml:1: defalts: unknown section; did you mean [defaults]?",
        "manager.toml:3: remote.r: source_path: does not belong into a [remote]",
        "manager.toml:5: task.a: source_pth: unknown key; did you mean source_path?",
        "manager.toml:6: task.a: block_size: expected a number",
        "manager.toml:7: task.a: disabled: invalid type: string \"yes\", expected a boolean",
        "manager.toml:8: task.a: hash: Unknown digest \"md6\"",
        "manager.toml:9: task.a: bandwidth_limit: the limit must be positive",
        "manager.toml:4: task.a: target_path: is missing",
        "manager.toml:11: task.b: remote: there is no section [remote.no]",
        "manager.toml:14: task.b: bdsync_args: --remdata",
        "manager.toml:15: task.b: size_policy: expected strict, minsize or resize",
        "target_patch_dir: is missing",
    ] {
        assert!(outcome.stderr.contains(expected), "no {expected:?}\n{outcome}");
    }
    let syntax = site.manager("[task.a]\nx = \n[task.b\ny = 1\n", []).run();
    syntax.exits(2);
    assert!(syntax.stderr.contains("manager.toml:2:") && syntax.stderr.contains("manager.toml:3:"), "{syntax}");
}

#[test]
fn what_is_wrong_is_said_once_and_names_show_nothing_else() {
    let site = Site::new();
    let run = |config: &str| site.manager(config, ["list"]).run().exits(2).stderr.clone();
    let wrong = run("[task.c]\nsource_path = 1\ntarget_path = \"/x\"\ntarget_patch_dir = 5\n");
    assert!(wrong.contains("manager.toml:4: task.c: target_patch_dir: invalid type"), "{wrong}");
    assert!(!wrong.contains("is missing"), "{wrong}");
    let empty = run("[task.c]\n");
    for key in ["source_path", "target_path", "target_patch_dir"] {
        assert!(empty.contains(&format!("task.c: {key}: is missing")), "{empty}");
    }
    assert!(run("[task.c]\n[task.c]\n").contains("manager.toml:2: [task.c]: duplicate key"));
    assert!(run("[task.\"a\\u001bb\"]\n").contains(r#"manager.toml:1: task: "a\u{1b}b" is no name"#));
    // Names of files are not ours to refuse.
    site.dir.write("a\nb.img", b"x");
    let folder = site.dir.folder().display().to_string();
    let config = format!(
        "[task.t]\nsource_paths = [\"{folder}/*b.img\"]\ntarget_path = \"{folder}/copies/{{name}}\"\napply_patch_in_place = true\n"
    );
    let listed = site.manager(&config, ["list"]).run();
    listed.exits(0);
    assert_eq!(listed.stdout_text().lines().count(), 1, "{listed}");
    assert!(listed.stdout_text().starts_with(r"t/a\nb.img: "), "{}", listed.stdout_text());
}

#[test]
fn two_tasks_with_one_target_are_refused() {
    let site = Site::new();
    let config = site.task("a", "target.img", "") + &site.task("b", "target.img", "");
    let outcome = site.manager(&config, []).run();
    outcome.exits(2);
    assert!(outcome.stderr.contains("task a has the same target"), "{outcome}");
}

#[test]
fn a_template_makes_a_task_of_each_source() {
    let site = Site::new();
    let folder = site.dir.folder().display().to_string();
    for name in ["b.img", "a.img", "c.raw"] {
        std::fs::create_dir_all(site.dir.path("guests")).unwrap();
        std::fs::copy(site.dir.path("source.img"), site.dir.path(&format!("guests/{name}"))).unwrap();
    }
    std::fs::create_dir(site.dir.path("copies")).unwrap();
    let config = format!(
        "[task.g]\nsource_paths = [\"{folder}/guests/*.img\", \"{folder}/guests/c.raw\"]\ntarget_path = \"{folder}/copies/{{name}}\"\ntarget_patch_dir = \"{folder}/patches\"\ncreate_target_if_missing = true\n"
    );
    site.manager(&config, ["run", "--jobs", "3"]).run().exits(0);
    for name in ["a.img", "b.img", "c.raw"] {
        assert!(site.is_synced(&format!("copies/{name}")), "{name}");
    }
    let names: Vec<_> =
        list(&site, "manager.toml").iter().map(|task| task["task"].as_str().unwrap().to_string()).collect();
    assert_eq!(names, ["g/a.img", "g/b.img", "g/c.raw"]);
    std::fs::remove_file(site.dir.path("copies/a.img")).unwrap();
    std::fs::remove_file(site.dir.path("copies/b.img")).unwrap();
    site.run("manager.toml", ["--task", "g/b.img"]).run().exits(0);
    assert!(site.dir.path("copies/b.img").exists() && !site.dir.path("copies/a.img").exists());
    site.run("manager.toml", ["--task", "g"]).run().exits(0);
    assert!(site.dir.path("copies/a.img").exists());
}

#[test]
fn a_setting_on_the_command_line_goes_first() {
    let site = Site::new();
    let config = site.task("t", "target.img", "");
    let outcome = site.manager(&config, ["--log-level", "info", "run", "--set", "apply_patch_in_place=true"]).run();
    outcome.exits(0);
    assert!(outcome.stderr.contains("Change Apply Time"), "{outcome}");
    let wrong = site.manager(&config, ["run", "--set", "colour=blue", "--set", "disabled=maybe"]).run();
    wrong.exits(2);
    assert!(wrong.stderr.contains("unknown key") && wrong.stderr.contains("expected yes, no"), "{wrong}");
}

/// A file in the original's manner, with all it allows.
const INI: &str = "# Nightly\n[DEFAULT]\nlocal_bdsync_bin = /usr/sbin/bdsync\nremote_bdsync_bin: /usr/local/bin/bdsync\nbase = /srv\ntarget_patch_dir = %(base)s/patches\ncreate_target_if_missing = Yes\n\n[web server]\nsource_path = {source}\ntarget_path = %(base)s/web 100%%.img\nconnection_command = ssh -p 2222\n   root@example.org\nbdsync_args = --twopass --hash=sha256 -b65536 --diffsize=resize\nbandwidth_limit = 42m\n; off for now\n[mail]\nsource_path = {source}\ntarget_path = {folder}/mail.img\napply_patch_in_place = on\ndisabled = true\n";

#[test]
fn an_ini_file_and_what_it_is_converted_to_mean_the_same() {
    let site = Site::new();
    let text = INI
        .replace("{source}", &site.dir.path_text("source.img"))
        .replace("{folder}", site.dir.folder().to_str().unwrap());
    site.dir.write("old.conf", text.as_bytes());
    let converted = site.run("old.conf", ["config", "convert", "old.conf"]).run();
    converted.exits(0);
    let toml = String::from_utf8(converted.stdout.clone()).unwrap();
    site.dir.write("new.toml", &converted.stdout);
    assert_eq!(without_time(list(&site, "old.conf")), without_time(list(&site, "new.toml")), "{toml}");
    for line in [
        "hash = \"sha256\"",
        "two_pass = true",
        "block_size = 65536",
        "size_policy = \"resize\"",
        "[task.\"web server\"]",
        "web 100%.img",
    ] {
        assert!(toml.contains(line), "no {line}:\n{toml}");
    }
}

#[test]
fn ini_files_are_read_as_pythons_configparser_reads_them() {
    let test = "ini_files_are_read_as_pythons_configparser_reads_them";
    let Some(python) = program("python3") else { return not_run(test, "python3 is not installed") };
    let site = Site::new();
    let source = site.dir.path_text("source.img");
    let script = "import configparser, json, sys\nc = configparser.ConfigParser()\ntry:\n    c.read([sys.argv[1]])\n    print(json.dumps([[s, c[s]['target_path']] for s in c.sections()]))\nexcept configparser.Error as e:\n    print('null')\n";
    let head = format!("[DEFAULT]\nsource_path={source}\napply_patch_in_place=1\nx = /tmp\n");
    for tail in [
        "[a]\ntarget_path = /tmp/x\n",
        "[a]\ntarget_path=/tmp/x ; y # z\n[b]\nTARGET_PATH : /tmp/=:y\n",
        "[a]\ntarget_path = %(x)s/%(x)s%%\n",
        "[a]\n  target_path = /tmp/1\n  y = 2\n[b]\ntarget_path = /tmp/2\n",
        "[a]\ntarget_path = /tmp/a\n  b\n\n  c\n\nz = 1\n",
        "[a]\ntarget_path = /tmp/a\n # comment\n  b\n",
        "[a]\ntarget_path =\n  /tmp/b\n",
        "  [a]\n  target_path = /tmp/b\n",
        "[a]b]\ntarget_path = /tmp/b\n",
        "[a] trailing\ntarget_path = /tmp/b\n",
        "[a]\ntarget_path\n",
        "[a]\ntarget_path = %(nothing)s\n",
        "[a]\ntarget_path = /tmp/50%\n",
        "[a]\ny = %(target_path)s\ntarget_path = %(y)s\n",
        "[a]\ntarget_path = /tmp/a\n[a]\ntarget_path = /tmp/a\n",
        "[a]\ntarget_path = /tmp/a\ntarget_path = /tmp/b\n",
        "[a]\n= /tmp/a\n",
        "[]\ntarget_path = /tmp/a\n",
        "[default]\ntarget_path = /tmp/a\n",
        "[DEFAULT]\ntarget_path = /tmp/again\n[a]\n",
        "[a]\ntarget_path = \"/tmp/quoted\"\n",
        "[a]\n\ttarget_path = /tmp/tab\n",
        "[a]\r\ntarget_path = /tmp/crlf\r\n",
    ] {
        site.dir.write("x.conf", format!("{head}{tail}").as_bytes());
        let theirs = Run::new(python.to_str().unwrap()).args(["-c", script, &site.dir.path_text("x.conf")]).run();
        theirs.exits(0);
        let theirs: serde_json::Value = serde_json::from_slice(&theirs.stdout).unwrap();
        let outcome = site.run("x.conf", ["--json", "list"]).run();
        if theirs.is_null() {
            outcome.exits(2);
            continue;
        }
        // A path with a folder that is not there is refused, with the path in the message.
        let theirs: Vec<(String, String)> = serde_json::from_value(theirs).unwrap();
        if outcome.code == Some(0) {
            let ours: Vec<_> = list(&site, "x.conf")
                .iter()
                .map(|task| (task["task"].as_str().unwrap().to_string(), task["target"].as_str().unwrap().to_string()))
                .collect();
            assert_eq!(ours, theirs, "{tail:?}");
        } else {
            outcome.exits(2);
            let folder = Path::new(&theirs[0].1).parent().unwrap().display().to_string();
            assert!(
                outcome.stderr.contains(&format!("the target's folder {folder} does not exist")),
                "{tail:?} {theirs:?} {outcome}"
            );
        }
    }
}

#[test]
fn every_example_is_a_configuration() {
    let site = Site::new();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/config");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        // Patterns must find something here.
        let text = std::fs::read_to_string(&path).unwrap().replace("/srv/guests/*.img", &site.dir.path_text("*.img"));
        site.dir.write("example.toml", text.as_bytes());
        assert!(!list(&site, "example.toml").is_empty(), "{}", path.display());
        count += 1;
    }
    assert!(count >= 4);
}

#[test]
fn completions_and_man_pages_are_made() {
    let site = Site::new();
    for shell in ["bash", "zsh", "fish"] {
        let outcome = Run::new(&bdsync_tests::manager()).args(["completions", shell]).run();
        outcome.exits(0);
        assert!(
            String::from_utf8_lossy(&outcome.stdout).contains("bandwidth") || outcome.stdout.len() > 1000,
            "{shell}"
        );
    }
    let folder = site.dir.path_text("man");
    std::fs::create_dir(&folder).unwrap();
    Run::new(&bdsync_tests::manager()).args(["man", &folder]).run().exits(0);
    let page = std::fs::read_to_string(site.dir.path("man/bdsync-manager.1")).unwrap();
    assert!(page.contains("Exit status") && page.contains("dry") | page.contains("verify"), "{page}");
}

#[test]
fn a_bench_picks_a_digest() {
    let outcome = Run::new(&bdsync_tests::manager()).args(["--json", "bench", "--seconds", "0.1"]).run();
    outcome.exits(0);
    let report: serde_json::Value = serde_json::from_slice(&outcome.stdout).unwrap();
    assert!(report["pick"]["digest"].is_string(), "{report}");
}

#[test]
fn programs_are_told_what_is_wrong_and_what_a_check_finds() {
    let site = Site::new();
    let events = |run: Run, code: i32| -> Vec<serde_json::Value> {
        let outcome = run.run();
        let text = String::from_utf8(outcome.exits(code).stdout.clone()).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let found = events(site.manager("[task.a]\nsource_pth = \"x\"\n", ["--json", "check"]), 2);
    let unknown = found.iter().find(|event| event["line"] == 2).unwrap();
    assert_eq!(unknown["event"], "configuration_error");
    assert!(unknown["error"].as_str().unwrap().contains("did you mean source_path?"), "{unknown}");
    let config = site.task("t", "target.img", "");
    let found = events(site.manager(&config, ["--json", "check"]), 0);
    assert_eq!((&found[0]["source_bytes"], &found[0]["target_exists"]), (&3_000_000.into(), &true.into()));
    assert_eq!((&found[0]["pending_patch"], &found[0]["in_place"]), (&false.into(), &false.into()));
}

#[test]
fn toml_is_toml_whatever_the_file_is_called() {
    let site = Site::new();
    site.dir.write("tasks.conf", site.task("t", "target.img", "").as_bytes());
    assert_eq!(list(&site, "tasks.conf")[0]["task"], "t");
    let outcome = site.run("tasks.conf", ["config", "convert", "tasks.conf"]).run();
    assert!(outcome.exits(2).stderr.contains("is a TOML configuration already"), "{outcome}");
    assert!(outcome.stdout.is_empty());
    site.run("tasks.conf", ["run", "--jobs", "0"]).run().exits(2);
}

#[test]
fn a_far_end_that_is_named_by_nothing_is_a_mistake_in_the_configuration() {
    let site = Site::new();
    for (settings, told) in
        [("host = \" \"", "host: it is empty"), ("host = \"x\"\nssh_program = \"\"", "ssh_program: it is empty")]
    {
        let config = format!("[remote.far]\n{settings}\n{}", site.task("t", "target.img", "remote = \"far\""));
        let outcome = site.manager(&config, ["check"]).run();
        outcome.exits(2);
        assert!(outcome.stderr.contains(told), "{outcome}");
    }
}
