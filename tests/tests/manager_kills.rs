//! The manager killed at any moment: a target is never lost, and the next run ends in equality.
//! `KILLS` is how often it is killed in each test (half as often over ssh); 25 unless told.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use bdsync_tests::{Rng, Site, Sshd, not_run};

/// Images large enough that each phase takes a while.
const SIZE: usize = 12_000_000;

fn kills() -> u64 {
    std::env::var("KILLS").ok().map_or(25, |text| text.parse().unwrap())
}

/// Kills a run at a random moment, looks, and runs again.
fn kill_and_finish(far: impl Fn(&Site) -> (String, String), rng: &mut Rng, kills: u64) {
    let site = Site::with_size(SIZE, 7);
    let old = site.dir.read("target.img");
    let new = site.dir.read("source.img");
    let (section, settings) = far(&site);
    let config = section + &site.task("t", "target.img", &format!("{settings}retries = 0\n"));
    // How long a run takes that is left alone; what is to be built is built before.
    bdsync_tests::manager();
    bdsync_tests::bdsync();
    bdsync_tests::agent();
    let begin = Instant::now();
    site.manager(&config, []).run().exits(0);
    let whole = begin.elapsed();
    let (mut untouched, mut pending) = (0, 0);
    for round in 0..kills {
        site.dir.write("target.img", &old);
        let mut child = site.start(&config);
        if rng.one_in(2) {
            // While it applies, or shortly before or after.
            let deadline = Instant::now() + Duration::from_secs(30);
            while !site.is_ready() && child.try_wait().unwrap().is_none() && Instant::now() < deadline {
                std::hint::spin_loop();
            }
            std::thread::sleep(Duration::from_micros(rng.below(20_000)));
        } else {
            std::thread::sleep(whole.mul_f64(rng.below(1200) as f64 / 1000.0));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        // What it started may go on for a moment: what counts is seen when it rests.
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let target = site.dir.read("target.img");
            if target == old || target == new {
                untouched += u64::from(target == old);
                break;
            }
            if site.is_ready() {
                pending += 1;
                break;
            }
            let again = site.dir.read("target.img");
            assert!(
                again == new || Instant::now() < deadline,
                "round {round}: the target is neither old nor new, and there is no ready patch"
            );
        }
        let outcome = site.manager(&config, []).run();
        outcome.exits(0);
        assert!(site.dir.read("target.img") == new, "round {round}: {outcome}");
        assert_eq!(site.patches(), Vec::<std::path::PathBuf>::new(), "round {round}: leftovers. {outcome}");
    }
    println!("{kills} kills: {untouched} before the target was touched, {pending} with a ready patch to finish");
}

/// Our bdsync behind a connection command.
fn stock(connection: &str) -> impl Fn(&Site) -> (String, String) {
    move |site| (String::new(), site.far(connection))
}

/// The agent behind a `[remote.far]` that begins with these settings.
fn with_agent(section: String) -> impl Fn(&Site) -> (String, String) {
    let section = format!("{section}agent = \"installed\"\nagent_path = \"{}\"\n", bdsync_tests::agent());
    move |_| (section.clone(), "remote = \"far\"\n".into())
}

#[test]
fn a_local_target_survives_kills() {
    kill_and_finish(|_| Default::default(), &mut Rng::new(11), kills());
}

#[test]
fn a_target_behind_a_command_survives_kills() {
    kill_and_finish(stock("sh -c"), &mut Rng::new(12), kills());
}

#[test]
fn a_target_behind_the_agent_survives_kills() {
    let section = "[remote.far]\nconnection_command = \"sh -c\"\n";
    kill_and_finish(with_agent(section.into()), &mut Rng::new(14), kills());
}

#[test]
fn a_target_behind_ssh_survives_kills() {
    let sshd = match Sshd::start() {
        Ok(sshd) => sshd,
        Err(why) => return not_run("a_target_behind_ssh_survives_kills", why),
    };
    kill_and_finish(stock(&sshd.command()), &mut Rng::new(13), kills().div_ceil(2));
    kill_and_finish(with_agent(sshd.remote("far", "")), &mut Rng::new(15), kills().div_ceil(2));
}
