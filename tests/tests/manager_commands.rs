//! The manager's commands that change nothing, from outside.
#![allow(clippy::unwrap_used)]

use bdsync_tests::Site;

#[test]
fn verify_lists_the_ranges_that_differ_and_changes_nothing() {
    for far in [false, true] {
        let site = Site::new();
        let far = if far { site.far("sh -c") } else { String::new() };
        let config = site.task("t", "target.img", &far);
        let before = site.dir.read("target.img");
        let outcome = site.manager(&config, ["verify"]).run();
        outcome.exits(5);
        let text = String::from_utf8(outcome.stdout).unwrap();
        assert!(text.contains("t: DIFFERENT") && text.contains("  98304 110592"), "{text}");
        let outcome = site.manager(&config, ["--json", "verify"]).run();
        let facts = outcome.stdout_text().lines().find(|line| line.contains("verified")).unwrap().to_string();
        let facts: serde_json::Value = serde_json::from_str(&facts).unwrap();
        let sum = |ranges: &serde_json::Value| -> u64 {
            let length = |range: &serde_json::Value| range["end"].as_u64().unwrap() - range["start"].as_u64().unwrap();
            ranges.as_array().unwrap().iter().map(length).sum()
        };
        assert_eq!(facts["different_bytes"].as_u64(), Some(sum(&facts["ranges"])), "{facts}");
        assert!(facts["seconds"].as_f64().unwrap() > 0.0 && facts["equal"] == false, "{facts}");
        assert!(site.dir.read("target.img") == before);
        site.manager(&config, []).run().exits(0);
        let outcome = site.manager(&config, ["verify"]).run();
        outcome.exits(0);
        assert_eq!(outcome.stdout, b"t: equal\n");
    }
}

#[test]
fn a_dry_run_and_a_check_say_what_would_be_done_and_do_nothing() {
    for far in [false, true] {
        let site = Site::new();
        let far = if far { site.far("sh -c") } else { String::new() };
        let config = site.task("t", "target.img", &far);
        let before = site.dir.read("target.img");
        let dry = site.manager(&config, ["run", "--dry-run"]).run();
        dry.exits(0);
        let text = String::from_utf8_lossy(&dry.stdout).into_owned();
        assert!(text.contains("would change") && text.contains("of 2.9MiB"), "{text}");
        let check = site.manager(&config, ["check"]).run();
        check.exits(0);
        assert!(String::from_utf8_lossy(&check.stdout).contains("would compare"), "{check}");
        assert!(site.dir.read("target.img") == before && site.patches().is_empty());
    }
}

#[test]
fn check_says_what_a_run_would_refuse() {
    let site = Site::new();
    site.dir.write("longer.img", &[0; 3_000_512]);
    site.dir.write("empty.img", b"");
    let target = |name: &str, settings: &str| site.task("t", name, settings);
    let nowhere = target("nowhere/target.img", "create_target_if_missing = true\n");
    let device = nowhere.replace(&site.dir.path_text("nowhere/target.img"), "/dev/no-such-device");
    for (config, text) in [
        (target("longer.img", ""), "Different sizes"),
        (target("longer.img", &site.far("sh -c")), "Different sizes"),
        (target("empty.img", "size_policy = \"minsize\"\n"), "The target is empty"),
        (nowhere.clone(), "does not exist"),
        (device, "no file is made in place of a device"),
    ] {
        let outcome = site.manager(&config, ["check"]).run();
        let said = String::from_utf8_lossy(&outcome.exits(3).stdout).into_owned() + &outcome.stderr;
        assert!(said.contains(text), "{text}: {said}");
    }
    // With less of it in the target than there is, that is said.
    site.dir.write("shorter.img", &[0; 1_000_000]);
    let outcome = site.manager(&target("shorter.img", "size_policy = \"minsize\"\n"), []).run();
    assert!(outcome.exits(0).stderr.contains("the last 2000000 of the source are not in it"), "{outcome}");
}
