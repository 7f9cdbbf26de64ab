//! `bdsync-agent` from outside.

use bdsync_tests::{Recipe, Run, WorkDir, agent};

fn bench(dir: &WorkDir, options: &[&str]) -> Run {
    Run::new(&agent()).cwd(dir.folder()).arg("bench").args(options.iter().copied())
}

#[test]
fn bench_measures_each_digest_on_each_number_of_threads() {
    let dir = WorkDir::new();
    let options = ["--seconds=0.1", "--threads=2", "--digest=md5,SHA256", "--block-size=4096,512", "--json"];
    let outcome = bench(&dir, &options).run();
    outcome.exits(0);
    let report: serde_json::Value = serde_json::from_slice(&outcome.stdout).expect("JSON");
    let digests = report["digests"].as_array().expect("a list");
    assert_eq!(digests.len(), 8, "{report}");
    for digest in digests {
        assert!(digest["bytes_per_second"].as_f64().is_some_and(|speed| speed > 1e6), "{digest}");
    }
    assert!(["md5", "sha256"].contains(&report["pick"]["digest"].as_str().expect("a name")), "{report}");
}

#[test]
fn bench_reads_and_scans_a_device_and_leaves_it_alone() {
    let dir = WorkDir::new();
    let image = Recipe::random(3_000_001, 4).build();
    dir.write("device.img", &image);
    let options = ["--seconds=0.1", "--digest=md5", "--device=device.img", "--json"];
    let outcome = bench(&dir, &options).run();
    outcome.exits(0);
    let report: serde_json::Value = serde_json::from_slice(&outcome.stdout).expect("JSON");
    let devices = report["devices"].as_array().expect("a list");
    let reads = devices.iter().filter(|device| device["digest"].is_null()).count();
    assert!(reads >= 2 && devices.len() == reads + 1, "{report}");
    assert!(dir.read("device.img") == image);
}

#[test]
fn bench_prints_a_table_and_the_digest_it_would_pick() {
    let dir = WorkDir::new();
    let outcome = bench(&dir, &["--seconds=0.1", "--threads=1"]).run();
    outcome.exits(0);
    let text = String::from_utf8_lossy(&outcome.stdout).into_owned();
    for name in ["md5", "sha3-512", "blake2b512", "sm3", "1 thread", "Pick: "] {
        assert!(text.contains(name), "{name} is missing:\n{text}");
    }
}

#[test]
fn bench_explains_what_it_cannot_measure() {
    let dir = WorkDir::new();
    dir.write("empty.img", b"");
    for (options, code, words) in [
        (&["--device=nofile"][..], 12, "opendev [nofile]: No such file or directory\n"),
        (&["--device=empty.img", "--seconds=0.1", "--digest=md5"], 1, "empty.img is empty"),
        (&["--digest=nosuch"], 1, "nosuch"),
        (&["--seconds=0"], 1, "bad --seconds"),
        (&["--block-size=0"], 1, "--block-size"),
    ] {
        let outcome = bench(&dir, options).run();
        outcome.exits(code);
        assert!(outcome.stderr.contains(words), "{outcome}");
    }
}
