//! Connections that break at random bytes: the manager goes on, or tries again, and a target
//! is never wrong. `CUTS` is how often they break in each test; 10 unless told.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use bdsync_tests::{Break, Relay, Rng, Site, Sshd, agent, bdsync, not_run};

const SIZE: usize = 12_000_000;

fn cuts() -> u64 {
    std::env::var("CUTS").ok().map_or(10, |text| text.parse().unwrap())
}

fn run(test: &str, far_end: &str, how: Break, cuts: u64, seed: u64) {
    let sshd = match Sshd::start() {
        Ok(sshd) => sshd,
        Err(why) => return not_run(test, why),
    };
    let relay = Relay::start(sshd.port());
    let site = Site::with_size(SIZE, 3);
    site.change_everything();
    let (old, new) = (site.dir.read("target.img"), site.dir.read("source.img"));
    let settings = format!("retries = 1\nretry_delay = \"0s\"\ntimeout = \"2s\"\n{far_end}");
    let config =
        sshd.remote_through("far", relay.port(), &settings) + &site.task("t", "target.img", "remote = \"far\"\n");
    let mut rng = Rng::new(seed);
    let (mut gone_on, mut failed) = (0, 0);
    for round in 0..cuts {
        site.dir.write("target.img", &old);
        // A bit more than goes over the line in a run.
        relay.break_after(rng.below(SIZE as u64 * 11 / 10), how);
        let outcome = site.manager(&config, ["--log-level", "info"]).limit(Duration::from_secs(120)).run();
        let target = site.dir.read("target.img");
        match outcome.code {
            Some(0) => {
                assert!(target == new, "round {round}: success and a wrong target: {outcome}");
                gone_on += u64::from(outcome.stderr.contains("Going on at"));
            }
            Some(3) => {
                failed += 1;
                assert!(target == old || target == new || site.is_ready(), "round {round}: {outcome}");
            }
            _ => panic!("round {round}: {outcome}"),
        }
        if relay.has_broken() && how == Break::Stall && outcome.stderr.contains("Trying again") {
            let named = ["silent for 2 seconds", "within 2 seconds", "it was given up", "ended", "broke", "failed"];
            assert!(named.iter().any(|text| outcome.stderr.contains(text)), "round {round}: {outcome}");
        }
        relay.break_after(u64::MAX >> 1, Break::Cut);
        site.manager(&config, []).run().exits(0);
        assert!(site.is_synced("target.img"), "round {round}");
        assert!(site.patches().is_empty(), "round {round}: something is left");
    }
    println!(
        "{cuts} broken connections: {gone_on} runs went on where they were, {failed} failed and were finished later"
    );
}

fn installed() -> String {
    format!("agent = \"installed\"\nagent_path = \"{}\"\n", agent())
}

#[test]
fn a_connection_to_the_agent_may_be_cut_anywhere() {
    run("a_connection_to_the_agent_may_be_cut_anywhere", &installed(), Break::Cut, cuts(), 21);
}

#[test]
fn a_connection_to_the_agent_may_stall_anywhere() {
    let test = "a_connection_to_the_agent_may_stall_anywhere";
    run(test, &installed(), Break::Stall, cuts().div_ceil(4), 22);
}

#[test]
fn a_connection_to_a_stock_bdsync_may_be_cut_anywhere() {
    let far_end = format!("remote_bdsync_bin = \"{}\"\n", bdsync());
    run("a_connection_to_a_stock_bdsync_may_be_cut_anywhere", &far_end, Break::Cut, cuts().div_ceil(2), 23);
}

#[test]
fn a_source_that_shrinks_and_a_target_that_goes_are_errors() {
    let agent = format!("[remote.far]\nconnection_command = \"sh -c\"\n{}", installed());
    let stock = format!("[remote.far]\nconnection_command = \"sh -c\"\nremote_bdsync_bin = \"{}\"\n", bdsync());
    for (section, settings) in [(String::new(), ""), (agent, "remote = \"far\"\n"), (stock, "remote = \"far\"\n")] {
        for (file, is_source) in [("source.img", true), ("target.img", false)] {
            let site = Site::with_size(SIZE, 5);
            site.change_everything();
            // Slow enough that it is in the middle when the file goes.
            let config = format!(
                "{section}{}",
                site.task("t", "target.img", &format!("{settings}bandwidth_limit = \"2m\"\nretries = 0\n"))
            );
            let mut child = site.start(&config);
            let deadline = std::time::Instant::now() + Duration::from_secs(20);
            let begun = || site.patches().iter().any(|path| path.metadata().is_ok_and(|found| found.len() > 100_000));
            while !begun() && std::time::Instant::now() < deadline {
                std::thread::yield_now();
            }
            let path = site.dir.path(file);
            if is_source {
                std::fs::File::options().write(true).open(&path).unwrap().set_len(100_000).unwrap();
            } else {
                std::fs::remove_file(&path).unwrap();
            }
            let status = child.wait().unwrap();
            let log = String::from_utf8_lossy(&site.dir.read("log")).into_owned();
            assert_eq!(status.code(), Some(3), "{file}, {section}: {log}");
            let told = log.lines().find(|line| line.contains("ERROR")).unwrap_or_default();
            assert!(told.contains(file) || told.contains("target"), "{file}, {section}: {told}");
            if is_source {
                assert!(site.dir.read("target.img").len() == SIZE, "{section}");
                assert!(site.patches().is_empty(), "{section}: {:?}", site.patches());
            } else {
                assert!(!path.exists(), "a target that is gone is not made anew");
            }
        }
    }
}

#[test]
fn a_far_end_that_runs_no_commands_is_quoted_and_not_read_for_ever() {
    let nologin = "echo 'This account is not available.'; exit 1";
    // Two that print without end, and one that refuses in words.
    for (far_end, answer) in [
        ("yes garbage".to_string(), "garbage"),
        (format!("sh -c \"{nologin}\""), "This account is not available."),
        ("sh -c \"cat /dev/zero\"".to_string(), "\\0\\0"),
    ] {
        for agent in ["stock", "auto"] {
            let site = Site::new();
            let before = site.dir.read("target.img");
            let settings = format!("{}agent = \"{agent}\"\nretries = 0\n", site.far(&far_end));
            let outcome = site.manager(&site.task("t", "target.img", &settings), []).run();
            outcome.exits(3);
            let told = &outcome.stderr;
            assert!(told.contains(answer), "{agent}, {far_end}: {told}");
            assert!(told.len() < 4000, "{agent}, {far_end}: {} bytes", told.len());
            assert!(site.dir.read("target.img") == before);
        }
    }
}
