//! The manager with the agent at the far end, over a command and over SSH, in both directions.
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;

use bdsync_tests::{Outcome, Run, Site, Sshd, agent, bdsync, not_run, stock};

/// A remote in one of its forms: what a test calls it, and its section.
fn remotes(site: &Site, sshd: Option<&Sshd>) -> Vec<(&'static str, String)> {
    let cache = format!("agent_path = \"{}\"\n", site.dir.path_text("cache"));
    let installed = format!("agent = \"installed\"\nagent_path = \"{}\"\n", agent());
    let ours = format!("remote_bdsync_bin = \"{}\"\n", bdsync());
    let command = |words: &str, rest: &str| format!("[remote.far]\nconnection_command = \"{words}\"\n{rest}\n");
    let mut found = vec![
        ("deployed by sh", command("sh -c", &format!("agent = \"deploy\"\n{cache}"))),
        ("installed, by words", command("env", &installed)),
        ("stock by sh", command("sh -c", &ours)),
    ];
    if let Some(sshd) = sshd {
        found.push(("deployed by SSH", sshd.remote("far", &format!("agent = \"deploy\"\n{cache}"))));
        found.push(("installed by SSH", sshd.remote("far", &installed)));
        let program = format!("ssh_program = \"ssh\"\nagent = \"deploy\"\n{cache}");
        found.push(("deployed by the ssh program", sshd.remote("far", &program)));
        found.push(("deployed by ssh", command(&sshd.command(), &cache)));
        found.push(("stock by SSH", sshd.remote("far", &ours)));
        if let Some(stock) = stock() {
            found.push(("real stock by SSH", sshd.remote("far", &format!("remote_bdsync_bin = \"{stock}\"\n"))));
        }
    }
    found
}

fn sshd(test: &str) -> Option<Sshd> {
    Sshd::start().map_err(|why| not_run(test, why)).ok()
}

fn task(site: &Site, direction: &str, target: &str, settings: &str) -> String {
    site.task("t", target, &format!("{direction} = \"far\"\n{settings}"))
}

#[track_caller]
fn is_synced(site: &Site, target: &str, outcome: &Outcome, what: &str) {
    outcome.exits(0);
    assert!(site.is_synced(target), "{what}: the target is not the source: {outcome}");
    assert_eq!(site.patches(), Vec::<PathBuf>::new(), "{what}: something is left: {outcome}");
}

#[test]
fn both_directions_over_every_kind_of_remote() {
    let sshd = sshd("both_directions_over_every_kind_of_remote");
    for settings in [
        "",
        "apply_patch_in_place = true\n",
        "hash = \"sha256\"\nblock_size = \"64k\"\nverify = \"full\"\nzero_blocks = true\n",
        "two_pass = true\nflush_cache = true\nverify = \"sample\"\nthreads = 1\nbandwidth_limit = \"40m\"\n",
    ] {
        for direction in ["remote", "source_remote"] {
            for (name, remote) in remotes(&Site::new(), sshd.as_ref()) {
                let site = Site::new();
                let what = format!("{name}, {direction}, {settings}");
                let outcome = site.manager(&(remote + &task(&site, direction, "target.img", settings)), []).run();
                is_synced(&site, "target.img", &outcome, &what);
                assert!(!outcome.stderr.contains("WARNING"), "{what}: {outcome}");
            }
        }
    }
}

#[test]
fn sizes_and_missing_targets_are_dealt_with_as_everywhere() {
    for direction in ["remote", "source_remote"] {
        for (name, remote) in remotes(&Site::new(), None) {
            for in_place in [false, true] {
                let site = Site::new();
                let config = |target: &str, settings: &str| {
                    let settings = format!("apply_patch_in_place = {in_place}\n{settings}");
                    remote.clone() + &task(&site, direction, target, &settings)
                };
                let what = format!("{name}, {direction}, in place {in_place}");
                let refused = site.manager(&config("new.img", ""), []).run();
                refused.exits(3);
                assert!(refused.stderr.contains("The target does not exist"), "{what}: {refused}");
                let create = "create_target_if_missing = true\n";
                let outcome = site.manager(&config("new.img", create), []).run();
                is_synced(&site, "new.img", &outcome, &what);
                for size in [1_000_000, 5_000_000] {
                    let mut old = site.dir.read("target.img");
                    old.resize(size, 9);
                    site.dir.write("target.img", &old);
                    let refused = site.manager(&config("target.img", ""), []).run();
                    refused.exits(3);
                    assert!(refused.stderr.contains("Different sizes"), "{what}: {refused}");
                    assert!(site.dir.read("target.img") == old, "{what}");
                    let verified = site.manager(&config("target.img", ""), ["verify"]).run();
                    verified.exits(5);
                    let least = site.manager(&config("target.img", "size_policy = \"minsize\"\n"), []).run();
                    least.exits(0);
                    let (now, source) = (site.dir.read("target.img"), site.dir.read("source.img"));
                    let common = size.min(source.len());
                    assert_eq!(now.len(), size, "{what}");
                    assert!(now[..common] == source[..common] && now[common..] == old[common..], "{what}: {least}");
                    let resized = site.manager(&config("target.img", "size_policy = \"resize\"\n"), []).run();
                    is_synced(&site, "target.img", &resized, &what);
                    site.manager(&config("target.img", ""), ["verify"]).run().exits(0);
                }
            }
        }
    }
}

#[test]
fn check_verify_and_dry_run_change_nothing_and_say_what_is_used() {
    for direction in ["remote", "source_remote"] {
        for (name, remote) in remotes(&Site::new(), None) {
            let site = Site::new();
            let config = remote + &task(&site, direction, "target.img", "");
            let before = site.dir.read("target.img");
            let check = site.manager(&config, ["check"]).run();
            check.exits(0);
            let used = if name.starts_with("stock") { "(with the bdsync " } else { "(with bdsync-agent " };
            assert!(check.stdout_text().contains(used), "{name}: {check}");
            let dry = site.manager(&config, ["run", "--dry-run"]).run();
            dry.exits(0);
            assert!(dry.stdout_text().contains("would change"), "{name}: {dry}");
            let verify = site.manager(&config, ["verify"]).run();
            verify.exits(5);
            // The first of the changed places, in whole blocks.
            assert!(verify.stdout_text().contains("DIFFERENT in 30 ranges"), "{name}: {verify}");
            assert!(site.dir.read("target.img") == before && site.patches().is_empty(), "{name}");
        }
    }
}

#[test]
fn host_keys_are_checked() {
    let Some(sshd) = sshd("host_keys_are_checked") else { return };
    let site = Site::new();
    let installed = format!("agent = \"installed\"\nagent_path = \"{}\"\nretries = 0\n", agent());
    let known = site.dir.path_text("known");
    let run = |settings: &str| {
        let remote = sshd.remote_with("far", &known, &format!("{installed}{settings}"));
        site.manager(&(remote + &task(&site, "remote", "target.img", "")), []).run()
    };
    let unknown = run("");
    unknown.exits(3);
    assert!(unknown.stderr.contains("SHA256:") && unknown.stderr.contains("accept-new"), "{unknown}");
    let accepted = run("host_key_checking = \"accept-new\"\n");
    is_synced(&site, "target.img", &accepted, "accept-new");
    // It is known now.
    run("").exits(0);
    let entry = String::from_utf8(site.dir.read("known")).unwrap();
    assert!(entry.starts_with(&format!("[127.0.0.1]:{} ssh-ed25519 ", sshd.port())), "{entry}");
    // Hashed, as ssh-keygen does it.
    Run::new("ssh-keygen").args(["-q", "-H", "-f", known.as_str()]).run().exits(0);
    assert!(!String::from_utf8(site.dir.read("known")).unwrap().contains("127.0.0.1"));
    run("").exits(0);
    // A key of the kind that is known is asked for.
    for kind in ["ecdsa", "rsa"] {
        let key = String::from_utf8(sshd.dir().read(&format!("host-{kind}.pub"))).unwrap();
        site.dir.write("known", format!("[127.0.0.1]:{} {key}", sshd.port()).as_bytes());
        run("").exits(0);
        run("host_key_checking = \"accept-new\"\n").exits(0);
        assert_eq!(site.dir.read("known").iter().filter(|byte| **byte == b'\n').count(), 1, "no other key is added");
    }
    // Another key for the same host: both fingerprints and the line.
    let other = String::from_utf8(sshd.dir().read("user.pub")).unwrap();
    let other: Vec<_> = other.split_whitespace().take(2).collect();
    let line = format!("# a comment\n[127.0.0.1]:{} {}\n", sshd.port(), other.join(" "));
    site.dir.write("known", line.as_bytes());
    for settings in ["", "host_key_checking = \"accept-new\"\n"] {
        let changed = run(settings);
        changed.exits(3);
        assert!(changed.stderr.contains("HAS CHANGED") && changed.stderr.contains("known:2 has SHA256:"), "{changed}");
    }
}

#[test]
fn keys_of_all_kinds_log_in_and_refusals_say_what_was_tried() {
    let Some(sshd) = sshd("keys_of_all_kinds_log_in_and_refusals_say_what_was_tried") else { return };
    let site = Site::new();
    let run = |settings: &str| {
        let installed = format!("agent = \"installed\"\nagent_path = \"{}\"\nretries = 0\n{settings}", agent());
        let remote = sshd.remote("far", &installed);
        site.manager(&(remote + &task(&site, "remote", "target.img", "")), []).run()
    };
    let mut authorized = sshd.dir().read("authorized");
    for (name, options) in [("ecdsa", vec!["-t", "ecdsa"]), ("rsa", vec!["-t", "rsa", "-b", "2048"])] {
        let path = site.dir.path_text(name);
        let words = [vec!["-q", "-N", "", "-f", path.as_str()], options].concat();
        Run::new("ssh-keygen").args(words).run().exits(0);
        authorized.extend(site.dir.read(&format!("{name}.pub")));
        sshd.dir().write("authorized", &authorized);
        run(&format!("identity_file = \"{path}\"\n")).exits(0);
    }
    let stranger = site.dir.path_text("stranger");
    Run::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f", stranger.as_str()]).run().exits(0);
    let refused = run(&format!("identity_file = \"{stranger}\"\n"));
    refused.exits(3);
    assert!(refused.stderr.contains("no key was accepted") && refused.stderr.contains("stranger"), "{refused}");
    let missing = run("identity_file = \"/nonexistent/key\"\n");
    missing.exits(3);
    assert!(missing.stderr.contains("/nonexistent/key (No such file"), "{missing}");
    let locked = site.dir.path_text("locked");
    Run::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "secret", "-f", locked.as_str()]).run().exits(0);
    let passphrase = run(&format!("identity_file = \"{locked}\"\n"));
    passphrase.exits(3);
    assert!(passphrase.stderr.contains("belongs into ssh-agent"), "{passphrase}");
}

#[test]
fn connections_that_fail_are_tried_again_and_named() {
    let site = Site::new();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let remote = format!(
        "[remote.far]\nhost = \"127.0.0.1\"\nport = {free}\nuser = \"x\"\nretries = 1\nretry_delay = \"1s\"\ntimeout = \"2s\"\n"
    );
    let outcome = site.manager(&(remote + &task(&site, "remote", "target.img", "")), []).run();
    outcome.exits(3);
    assert_eq!(outcome.stderr.matches("Connection refused").count(), 2, "{outcome}");
    // One that accepts and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let remote =
        format!("[remote.far]\nhost = \"127.0.0.1\"\nport = {port}\nuser = \"x\"\nretries = 0\ntimeout = \"1s\"\n");
    let outcome = site.manager(&(remote + &task(&site, "remote", "target.img", "")), []).run();
    outcome.exits(3);
    assert!(outcome.stderr.contains("the handshake") && outcome.stderr.contains("within 1 seconds"), "{outcome}");
}

#[test]
fn an_agent_that_cannot_be_put_there_gets_its_own_error() {
    let site = Site::new();
    let run = |remote: &str| {
        let remote = format!("[remote.far]\nretries = 0\n{remote}");
        site.manager(&(remote + &task(&site, "remote", "target.img", "")), []).run()
    };
    let by_sh = "connection_command = \"sh -c\"\n";
    // A folder that cannot be made: below a file.
    site.dir.write("file", b"");
    let below = run(&format!("{by_sh}agent = \"deploy\"\nagent_path = \"{}\"\n", site.dir.path_text("file/x")));
    below.exits(3);
    assert!(below.stderr.contains("the folder cannot be made") && below.stderr.contains("agent_path"), "{below}");
    // Another kind of machine.
    std::fs::create_dir(site.dir.path("bin")).unwrap();
    site.dir.script("bin/uname", "echo vax");
    let path = format!("env PATH={}:/usr/bin:/bin sh -c", site.dir.path_text("bin"));
    let other = run(&format!("connection_command = \"{path}\"\nagent = \"deploy\"\n"));
    other.exits(3);
    assert!(other.stderr.contains("a machine of type vax"), "{other}");
    // Then stock is fallen back to.
    let auto =
        run(&format!("connection_command = \"{path}\"\nagent = \"auto\"\nremote_bdsync_bin = \"{}\"\n", bdsync()));
    is_synced(&site, "target.img", &auto, "auto");
    assert!(auto.stderr.contains("Falling back to a stock bdsync"), "{auto}");
    // What is installed is no agent.
    let wrong = run(&format!("{by_sh}agent = \"installed\"\nagent_path = \"/bin/true\"\n"));
    wrong.exits(3);
    assert!(wrong.stderr.contains("it does not answer"), "{wrong}");
    let missing = run(&format!("{by_sh}agent = \"installed\"\nagent_path = \"/nonexistent/agent\"\n"));
    missing.exits(3);
    assert!(missing.stderr.contains("it cannot be run"), "{missing}");
}

#[test]
fn an_agent_that_is_there_takes_one_command() {
    let site = Site::new();
    // Says so of each, and has something to say first, as login scripts do.
    let log = site.dir.path_text("commands");
    let command = site.dir.script("connect", &format!("echo >> {log}\necho Welcome\nexec sh -c \"$1\""));
    let config = format!(
        "[remote.far]\nconnection_command = \"{command}\"\nagent = \"deploy\"\nagent_path = \"{}\"\n{}",
        site.dir.path_text("cache"),
        task(&site, "remote", "target.img", "")
    );
    // To look for it, to put it there, to run it.
    for (commands, what) in [(3, "the first time"), (1, "when it is there")] {
        site.dir.write("commands", b"");
        site.dir.write("target.img", &[7; 3_000_000]);
        is_synced(&site, "target.img", &site.manager(&config, []).run(), what);
        assert_eq!(site.dir.read("commands").len(), commands, "{what}");
    }
    // What is there under its name is not it.
    let agent = std::fs::read_dir(site.dir.path("cache")).unwrap().next().unwrap().unwrap().path();
    std::fs::write(&agent, "#!/bin/sh\ntouch started\n").unwrap();
    site.dir.write("target.img", &[7; 3_000_000]);
    is_synced(&site, "target.img", &site.manager(&config, []).run(), "not the right one");
    assert!(!site.dir.path("started").exists());
}

#[test]
fn a_connection_that_runs_no_scripts_is_not_waited_for() {
    let site = Site::new();
    // Whatever it is asked for, there is always the same, or it waits for what never comes.
    let serve = format!("exec {} serve", agent());
    for program in [&serve, "echo No", "exec true", "exec cat"] {
        let command = site.dir.script("connect", program);
        let config = format!(
            "[remote.far]\nconnection_command = \"{command}\"\nagent = \"deploy\"\nretries = 0\ntimeout = \"4s\"\n{}",
            task(&site, "remote", "target.img", "")
        );
        let outcome = site.manager(&config, []).run();
        outcome.exits(3);
        assert!(outcome.stderr.contains("starting the agent at far"), "{program}: {outcome}");
    }
}

#[test]
fn a_program_that_cannot_be_started_is_told_once() {
    let site = Site::new();
    for way in ["connection_command = \"/nonexistent/ssh x\"", "host = \"h\"\nssh_program = \"/nonexistent/ssh\""] {
        let config = format!("[remote.far]\n{way}\n{}", task(&site, "remote", "target.img", ""));
        let outcome = site.manager(&config, []).run();
        outcome.exits(3);
        assert_eq!(outcome.stderr.matches("cannot start the connection command").count(), 1, "{outcome}");
    }
}

#[test]
fn an_ssh_program_is_given_what_is_set_and_nothing_else() {
    let site = Site::new();
    let log = site.dir.path_text("words");
    let program = site.dir.script("ssh", &format!("printf '%s\\n' \"$@\" > {log}; exit 255"));
    let run = |settings: &str| {
        let config = format!(
            "[remote.far]\nhost = \"me@[::1]\"\nssh_program = \"{program}\"\nretries = 0\n{settings}{}",
            task(&site, "remote", "target.img", "")
        );
        site.manager(&config, []).run().exits(3);
        String::from_utf8(site.dir.read("words")).unwrap()
    };
    let little = run("");
    let expected = "-o|BatchMode=yes|-o|ClearAllForwardings=yes|-o|RemoteCommand=none|-o|Ciphers=";
    assert!(little.replace('\n', "|").starts_with(expected), "{little}");
    assert!(little.contains("\n-T\n-a\n-x\n--\nme@::1\n"), "{little}");
    // Behind the options in front of the host there is the ciphers' list only.
    assert_eq!(little.matches("-o\n").count(), 4, "{little}");
    let much = run(
        "port = 2222\nuser = \"you\"\nidentity_file = \"/a 100% key\"\nknown_hosts = \"/known\"\nhost_key_checking = \"accept-new\"\nssh_agent = false\nkeepalive = \"5s\"\ncompression = true\n",
    );
    for word in [
        "Port=2222",
        "User=you",
        "IdentityFile=\"/a 100%% key\"",
        "IdentitiesOnly=yes",
        "UserKnownHostsFile=\"/known\"",
        "GlobalKnownHostsFile=/dev/null",
        "StrictHostKeyChecking=accept-new",
        "IdentityAgent=none",
        "ServerAliveInterval=5",
        "Compression=yes",
    ] {
        assert!(much.contains(&format!("-o\n{word}\n")), "{word}: {much}");
    }
}

#[test]
fn both_ends_at_other_machines_are_refused_with_a_hint() {
    let site = Site::new();
    let config = format!(
        "[remote.far]\nconnection_command = \"sh -c\"\n{}",
        site.task("t", "target.img", "remote = \"far\"\nsource_remote = \"far\"\n")
    );
    let outcome = site.manager(&config, []).run();
    outcome.exits(2);
    assert!(outcome.stderr.contains("run the manager on one of the two"), "{outcome}");
}

#[test]
fn a_tebibyte_of_holes_takes_less_than_five_seconds() {
    let site = Site::new();
    for name in ["source.img", "target.img"] {
        std::fs::File::create(site.dir.path(name)).unwrap().set_len(1 << 40).unwrap();
    }
    use std::os::unix::fs::FileExt;
    let source = std::fs::File::options().write(true).open(site.dir.path("source.img")).unwrap();
    source.write_at(b"at the end", (1 << 40) - 10).unwrap();
    let remote =
        format!("[remote.far]\nconnection_command = \"sh -c\"\nagent = \"installed\"\nagent_path = \"{}\"\n", agent());
    let config = remote + &task(&site, "remote", "target.img", "");
    bdsync_tests::manager();
    let begin = std::time::Instant::now();
    site.manager(&config, []).run().exits(0);
    assert!(begin.elapsed().as_secs_f64() < 5.0, "{:?}", begin.elapsed());
    let mut end = [0; 10];
    std::fs::File::open(site.dir.path("target.img")).unwrap().read_at(&mut end, (1 << 40) - 10).unwrap();
    assert_eq!(&end, b"at the end");
}

#[test]
fn a_target_that_lacks_zeros_at_its_end_differs() {
    let mut sections: Vec<_> =
        remotes(&Site::new(), None).into_iter().map(|(_, remote)| (remote, "remote = \"far\"\n")).collect();
    sections.push((String::new(), ""));
    for (remote, settings) in sections {
        let site = Site::new();
        site.dir.write("source.img", &[0; 100_000]);
        site.dir.write("target.img", &[0; 60_000]);
        let outcome = site.manager(&(remote + &site.task("t", "target.img", settings)), ["verify"]).run();
        outcome.exits(5);
        assert!(outcome.stdout_text().contains("60000 100000"), "{settings}: {}", outcome.stdout_text());
    }
}

#[test]
fn a_key_that_may_only_run_the_agent_is_enough_and_is_confined() {
    let Some(sshd) = sshd("a_key_that_may_only_run_the_agent_is_enough_and_is_confined") else { return };
    let site = Site::new();
    let key = String::from_utf8(sshd.dir().read("user.pub")).unwrap();
    let allow = |options: &str| {
        let line = format!("command=\"{} serve {options}\",restrict {key}", agent());
        sshd.dir().write("authorized", line.as_bytes());
    };
    let inside = format!("--restrict-to {} {}", site.dir.path_text("target.img"), site.dir.path_text("patches"));
    let config = |target: &str| {
        sshd.remote("far", "agent = \"installed\"\nretries = 0\n")
            + &task(&site, "remote", target, "verify = \"full\"\n")
    };
    allow(&inside);
    is_synced(&site, "target.img", &site.manager(&config("target.img"), []).run(), "forced command");
    site.dir.write("other.img", &[1; 3_000_000]);
    let refused = site.manager(&config("other.img"), []).run();
    refused.exits(3);
    assert!(refused.stderr.contains("--restrict-to"), "{refused}");
    assert_eq!(site.dir.read("other.img"), [1; 3_000_000]);
    // Read-only: nothing is stored; append-only: stored, and applied by somebody there.
    site.change_everything();
    let old = site.dir.read("target.img");
    allow(&format!("{inside} --read-only"));
    let refused = site.manager(&config("target.img"), []).run();
    refused.exits(3);
    assert!(refused.stderr.contains("--read-only"), "{refused}");
    allow(&format!("{inside} --append-only-patches"));
    let stored = site.manager(&config("target.img"), []).run();
    stored.exits(0);
    assert!(stored.stderr.contains("applies none"), "{stored}");
    assert!(site.is_ready() && site.dir.read("target.img") == old, "{stored}");
    let again = site.manager(&config("target.img"), []).run();
    again.exits(3);
    assert!(again.stderr.contains("still to be applied"), "{again}");
    let ready = site.patches().into_iter().find(|path| path.extension().is_some_and(|end| end == "ready")).unwrap();
    let patch = std::fs::read(&ready).unwrap();
    site.dir.bdsync(["--patch"]).input(&patch).run().exits(0);
    assert!(site.is_synced("target.img"));
}

#[test]
fn a_key_with_a_passphrase_logs_in_through_an_agent_of_ssh_and_all_may_be_compressed() {
    let test = "a_key_with_a_passphrase_logs_in_through_an_agent_of_ssh_and_all_may_be_compressed";
    let Some(sshd) = sshd(test) else { return };
    let site = Site::new();
    let (key, socket) = (site.dir.path_text("locked"), site.dir.path_text("agent.sock"));
    Run::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "secret", "-f", key.as_str()]).run().exits(0);
    sshd.dir().write("authorized", &site.dir.read("locked.pub"));
    // In the foreground, so that it ends with its process.
    let mut keys = std::process::Command::new("ssh-agent")
        .args(["-D", "-a", &socket])
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    while !site.dir.path("agent.sock").exists() {
        assert!(keys.try_wait().unwrap().is_none(), "ssh-agent ended");
        std::thread::yield_now();
    }
    let ask = site.dir.script("ask", "echo secret");
    let add = Run::new("ssh-add").args([key.as_str()]).env("SSH_AUTH_SOCK", &socket).env("SSH_ASKPASS", &ask);
    add.env("SSH_ASKPASS_REQUIRE", "force").run().exits(0);
    let installed = format!("agent = \"installed\"\nagent_path = \"{}\"\ncompression = true\n", agent());
    let remote = sshd.remote("far", &format!("{installed}identity_file = \"/nonexistent\"\n"));
    let config = remote.replace("ssh_agent = false", "ssh_agent = true") + &task(&site, "remote", "target.img", "");
    let outcome = site.manager(&config, []).env("SSH_AUTH_SOCK", &socket).run();
    keys.kill().unwrap();
    keys.wait().unwrap();
    is_synced(&site, "target.img", &outcome, "ssh-agent");
}

#[test]
fn a_folder_that_is_full_or_noexec_takes_no_agent_and_says_so() {
    let test = "a_folder_that_is_full_or_noexec_takes_no_agent_and_says_so";
    if !bdsync_tests::is_root() {
        return not_run(test, "it mounts, which needs root");
    }
    for (options, said) in [("noexec,size=200m", "mounted noexec"), ("size=64k", "disk full")] {
        let site = Site::new();
        let folder = site.dir.path_text("cache");
        std::fs::create_dir(&folder).unwrap();
        // In a mount namespace of the connection's own, which goes with it.
        let command = site.dir.script(
            "connect",
            &format!(
                "exec unshare -m sh -c 'mount -t tmpfs -o {options} none {folder} && exec sh -c \"$1\"' sh \"$1\""
            ),
        );
        let config = format!(
            "[remote.far]\nconnection_command = \"{command}\"\nagent = \"deploy\"\nagent_path = \"{folder}\"\nretries = 0\n{}",
            task(&site, "remote", "target.img", "")
        );
        let outcome = site.manager(&config, []).run();
        outcome.exits(3);
        assert!(outcome.stderr.contains(said) && outcome.stderr.contains("agent_path"), "{options}: {outcome}");
    }
}

#[test]
fn another_machine_is_measured_by_its_agent() {
    for (name, remote) in remotes(&Site::new(), None).into_iter().filter(|(name, _)| !name.starts_with("stock")) {
        let site = Site::new();
        let config = remote + &task(&site, "remote", "target.img", "");
        let outcome = site.manager(&config, ["--json", "bench", "--remote", "far", "--seconds", "0.1"]).run();
        outcome.exits(0);
        let report: serde_json::Value = serde_json::from_slice(&outcome.stdout).unwrap();
        assert!(report["pick"]["digest"].is_string(), "{name}: {report}");
        let unknown = site.manager(&config, ["bench", "--remote", "near"]).run();
        unknown.exits(2);
        assert!(unknown.stderr.contains("there are: far"), "{unknown}");
    }
}
