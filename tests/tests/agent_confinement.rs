//! `bdsync-agent serve --restrict-to`: ways out that must be closed, and ways in that must be open.
#![allow(clippy::unwrap_used)]

use std::os::unix::fs::symlink;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bdsync_tests::{AgentClient, WorkDir, compare_request, is_root, not_run, wire};
use serde_json::json;

const STEM: &str = "bdsync-manager-x-0123456789abcdef";

/// A folder with an inside and an outside.
struct Cell {
    dir: WorkDir,
}

impl Cell {
    fn new() -> Self {
        let dir = WorkDir::new();
        for folder in ["in/sub", "in/patches", "out", "in-not"] {
            std::fs::create_dir_all(dir.path(folder)).unwrap();
        }
        for file in ["in/disk", "in/sub/disk", "out/secret", "in-not/secret", "inside.img"] {
            dir.write(file, b"some bytes");
        }
        Self { dir }
    }

    fn path(&self, name: &str) -> String {
        self.dir.path_text(name)
    }

    fn agent(&self) -> AgentClient {
        AgentClient::start(&["--restrict-to", &self.path("in"), &self.path("inside.img")])
    }

    /// Every request that names a path is refused for this one, in the same words.
    #[track_caller]
    fn refused(&self, path: &str) {
        let mut agent = self.agent();
        let is_closed = |result: Result<serde_json::Value, String>, what: &str| {
            let error = result.expect_err(what);
            // A descriptor of the agent's own can be of something inside, and is no folder then.
            let closed = ["--restrict-to", "is no path", "is not there"].iter().any(|text| error.contains(text));
            assert!(closed, "{what} {path:?}: {error}");
        };
        is_closed(agent.facts(path), "facts");
        is_closed(agent.ask(compare_request(path, 10)), "compare");
        is_closed(agent.ask(json!({ "op": "create", "path": path })), "create");
        is_closed(agent.ask(json!({ "op": "bench", "path": path, "seconds": 0.1 })), "bench");
        let mut place = compare_request(&self.path("in/disk"), 10);
        place["patch"] = json!({ "place": { "folder": path, "stem": STEM } });
        is_closed(agent.ask(place), "place");
        let place = json!({ "folder": path, "stem": STEM });
        is_closed(agent.ask(json!({ "op": "discard", "place": place, "ready": true })), "discard");
        // And in plain 0.5.
        assert!(!self.serves_plain(path), "{path:?} is served in plain 0.5");
    }

    /// Whether plain 0.5 opens a path.
    fn serves_plain(&self, path: &str) -> bool {
        let mut child = Command::new(bdsync_tests::agent())
            .args(["serve", "--restrict-to", &self.path("in"), &self.path("inside.img")])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let input = [wire::hello("CLIENT"), wire::devfile(path), wire::done()].concat();
        // It may end before it has read everything.
        let _ = std::io::Write::write_all(&mut child.stdin.take().unwrap(), &input);
        child.wait_with_output().unwrap().status.success()
    }

    #[track_caller]
    fn allowed(&self, path: &str) {
        let facts = self.agent().facts(path).unwrap();
        assert_eq!(facts["kind"], "file", "{path}");
        assert!(self.serves_plain(path), "{path}");
    }
}

#[test]
fn what_is_inside_is_allowed_under_any_name() {
    let cell = Cell::new();
    symlink(cell.path("in/disk"), cell.path("out/link-in")).unwrap();
    symlink("../disk", cell.path("in/sub/up")).unwrap();
    for name in ["in/disk", "in/sub/disk", "inside.img", "out/link-in", "in/sub/up", "in/sub/../disk", "out/../in/disk"]
    {
        cell.allowed(&cell.path(name));
    }
}

#[test]
fn plain_ways_out_are_closed() {
    let cell = Cell::new();
    for name in ["out/secret", "in/../out/secret", "in-not/secret", "in/sub/../../out/secret", ".", "out", "in/.."] {
        cell.refused(&cell.path(name));
    }
    for path in [
        "/etc/passwd",
        "/",
        "/dev/null",
        "/dev/zero",
        "/dev/stdin",
        "/dev/fd/0",
        "/proc/self/mem",
        "/proc/self/environ",
        "/proc/self/exe",
        "/proc/1/root/etc/passwd",
        "/proc/self/root/etc/passwd",
        "/proc/self/cwd",
        "/sys/kernel/notes",
        "relative",
        "../../../../../../../../etc/passwd",
        "",
        "a\0b",
    ] {
        cell.refused(path);
    }
    cell.refused(&format!("{}\n/out/secret", cell.path("in")));
    cell.refused(&format!("{}\0/disk", cell.path("in")));
    cell.refused(&format!("{}/{}", cell.path("in"), "a/".repeat(2500)));
    cell.refused(&format!("{}/{}", cell.path("in"), "x".repeat(300)));
    cell.refused(&format!("{}/new/", cell.path("in")));
    cell.refused(&format!("{}/..", cell.path("in/sub/../..")));
}

#[test]
fn descriptors_of_the_agent_are_no_way_out() {
    let cell = Cell::new();
    for number in 0..20 {
        cell.refused(&format!("/proc/self/fd/{number}"));
        cell.refused(&format!("/proc/self/fd/{number}/../../../../etc/passwd"));
    }
}

#[test]
fn links_that_lead_out_are_closed() {
    let cell = Cell::new();
    symlink(cell.path("out/secret"), cell.path("in/absolute")).unwrap();
    symlink("../out/secret", cell.path("in/relative")).unwrap();
    symlink(cell.path("out"), cell.path("in/folder")).unwrap();
    symlink("/proc/self/root", cell.path("in/magic")).unwrap();
    symlink("loop", cell.path("in/loop")).unwrap();
    symlink(cell.path("in/absolute"), cell.path("in/chain")).unwrap();
    let names =
        ["in/absolute", "in/relative", "in/folder/secret", "in/magic/etc/passwd", "in/loop", "in/chain", "in/folder"];
    for name in names {
        cell.refused(&cell.path(name));
    }
    // One that leads nowhere makes nothing outside.
    symlink(cell.path("out/new"), cell.path("in/dangling")).unwrap();
    cell.refused(&cell.path("in/dangling"));
    assert!(!cell.dir.path("out/new").exists());
}

#[test]
fn files_are_only_made_inside() {
    let cell = Cell::new();
    let mut agent = cell.agent();
    let mut create = |name: &str| agent.ask(json!({ "op": "create", "path": cell.path(name) }));
    create("in/new").unwrap();
    assert!(cell.dir.path("in/new").exists());
    assert!(create("in/new").is_err(), "what is there is not made again");
    for name in ["out/new", "in/../out/new", "in-new", "in/none/new"] {
        assert!(create(name).unwrap_err().contains("--restrict-to"), "{name}");
    }
    assert!(!cell.dir.path("out/new").exists() && !cell.dir.path("in-new").exists());
}

#[test]
fn names_of_patches_lead_nowhere_else() {
    let cell = Cell::new();
    let mut agent = cell.agent();
    for stem in ["../out/secret", "disk", "bdsync-manager-../../x", "bdsync-manager-a/b", "", "bdsync-manager-a\n"] {
        let place = json!({ "folder": cell.path("in/patches"), "stem": stem });
        let error = agent.ask(json!({ "op": "discard", "place": place, "ready": true })).unwrap_err();
        assert!(error.contains("is no name of a patch"), "{stem}: {error}");
    }
    // A link in the folder under a patch's name is not followed.
    symlink(cell.path("out/secret"), cell.path(&format!("in/patches/{STEM}.partial"))).unwrap();
    let mut request = compare_request(&cell.path("in/disk"), 10);
    request["patch"] = json!({ "place": { "folder": cell.path("in/patches"), "stem": STEM } });
    agent.ask(request.clone()).unwrap();
    agent.send(76, b"\0patch");
    agent.send(77, &[0]);
    loop {
        let (kind, _) = agent.receive();
        if kind == 65 {
            break;
        }
    }
    assert_eq!(cell.dir.read("out/secret"), b"some bytes");
    assert_eq!(cell.dir.read(&format!("in/patches/{STEM}.partial")), b"patch");
    // Nor when one is gone on with, or read; the target's lock goes with the session.
    drop(agent);
    let mut agent = cell.agent();
    for suffix in ["partial", "ready", "state"] {
        let path = cell.dir.path(&format!("in/patches/{STEM}.{suffix}"));
        let _ = std::fs::remove_file(&path);
        symlink(cell.path("out/secret"), path).unwrap();
    }
    request["patch"]["offset"] = json!(10);
    request["patch"]["sha256"] = json!("3b6c41c4f6b0c2f2");
    let error = agent.ask(request).unwrap_err();
    assert!(!error.contains("locked") && error.contains("partial"), "{error}");
    let place = json!({ "folder": cell.path("in/patches"), "stem": STEM });
    let facts = agent.ask(json!({ "op": "facts", "path": cell.path("in/disk"), "place": place }));
    assert!(!format!("{facts:?}").contains("3b6c"), "{facts:?}");
    assert!(facts.is_err(), "{facts:?}");
}

#[test]
fn links_that_are_swapped_during_requests_are_no_way_out() {
    let cell = Cell::new();
    symlink("disk", cell.path("in/swap")).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let swapper = {
        let (stop, dir) = (Arc::clone(&stop), cell.dir.folder().to_path_buf());
        std::thread::spawn(move || {
            let (link, new) = (dir.join("in/swap"), dir.join("in/new-link"));
            while !stop.load(Ordering::Relaxed) {
                for target in ["../out/secret", "disk"] {
                    symlink(target, &new).unwrap();
                    std::fs::rename(&new, &link).unwrap();
                }
            }
        })
    };
    cell.dir.write("out/secret", &[7; 5000]);
    let mut agent = cell.agent();
    let (mut open, mut closed) = (0, 0);
    for _ in 0..2000 {
        match agent.facts(&cell.path("in/swap")) {
            // Only ever the one that is inside, whose length is another.
            Ok(facts) => {
                assert_eq!(facts["size"], 10);
                open += 1;
            }
            Err(error) => {
                assert!(error.contains("--restrict-to"), "{error}");
                closed += 1;
            }
        }
    }
    stop.store(true, Ordering::Relaxed);
    swapper.join().unwrap();
    assert!(open > 0 && closed > 0, "{open} times open, {closed} times closed");
}

#[test]
fn other_file_systems_inside_are_out_of_scope() {
    let test = "other_file_systems_inside_are_out_of_scope";
    if !is_root() {
        return not_run(test, "it mounts, which needs root");
    }
    let cell = Cell::new();
    let (from, to) = (cell.path("out"), cell.path("in/sub"));
    let script = format!(
        "mount --bind '{from}' '{to}' && exec '{}' serve --restrict-to '{}'",
        bdsync_tests::agent(),
        cell.path("in")
    );
    // In a mount namespace of its own, which goes with it.
    let mut child = Command::new("unshare")
        .args(["-m", "sh", "-c", &script])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let hello = wire::hello("CLIENT+agent=1");
    let request = json!({ "op": "facts", "path": cell.path("in/sub/secret") }).to_string();
    let mut message = (request.len() as u32 + 1).to_le_bytes().to_vec();
    message.push(64);
    message.extend(request.bytes());
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), &[hello, message].concat()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("is not within what this agent may use"), "{said} {:?}", output.status);
}

#[test]
fn a_hard_link_inside_is_inside() {
    // What has a name inside is inside; only who may write there can give it one.
    let cell = Cell::new();
    std::fs::hard_link(cell.path("out/secret"), cell.path("in/hard")).unwrap();
    cell.allowed(&cell.path("in/hard"));
}

#[test]
fn patterns_and_devices_are_what_they_stand_for() {
    let cell = Cell::new();
    cell.dir.write("in/a.img", b"x");
    let pattern = format!("{}/*.img", cell.path("in"));
    let mut agent = AgentClient::start(&["--restrict-to", &pattern]);
    assert!(agent.facts(&cell.path("in/a.img")).is_ok());
    for name in ["in/disk", "in/sub/disk", "in", "inside.img"] {
        assert!(agent.facts(&cell.path(name)).is_err(), "{name}");
    }
    // A link is what it leads to, on both sides.
    symlink("disk", cell.path("in/link.img")).unwrap();
    assert!(agent.facts(&cell.path("in/disk")).is_ok());
}

#[test]
fn read_only_and_append_only_agents_change_nothing_else() {
    let cell = Cell::new();
    let place = json!({ "folder": cell.path("in/patches"), "stem": STEM });
    let requests = |agent: &mut AgentClient| {
        let mut applied = compare_request(&cell.path("in/disk"), 10);
        applied["patch"] = json!({ "in_place": "strict" });
        let path = cell.path("in/disk");
        [
            agent.ask(json!({ "op": "create", "path": cell.path("in/new") })),
            agent.ask(applied),
            agent.ask(json!({ "op": "apply", "path": path, "place": place, "size_policy": "strict" })),
            agent.ask(json!({ "op": "discard", "place": place, "ready": true })),
        ]
    };
    let mut stored = compare_request(&cell.path("in/disk"), 10);
    stored["patch"] = json!({ "place": place });
    for (option, can_store) in [("--read-only", false), ("--append-only-patches", true)] {
        let mut agent = AgentClient::start(&[option, "--restrict-to", &cell.path("in")]);
        for result in requests(&mut agent) {
            assert!(result.unwrap_err().contains(option));
        }
        assert!(agent.facts(&cell.path("in/disk")).is_ok());
        assert_eq!(agent.ask(stored.clone()).is_ok(), can_store, "{option}");
    }
    assert_eq!(cell.dir.read("in/disk"), b"some bytes");
}

#[test]
fn requests_that_mean_nothing_are_answered_and_the_session_goes_on() {
    let cell = Cell::new();
    let mut agent = cell.agent();
    for request in [json!({}), json!({ "op": "nonsense" }), json!({ "op": "facts" }), json!([1]), json!("x")] {
        assert!(agent.ask(request).unwrap_err().contains("not understood"));
    }
    for (key, value) in [("block_size", json!(0)), ("fanout", json!(1)), ("window", json!(0)), ("hash", json!("md9"))] {
        let mut request = compare_request(&cell.path("in/disk"), 10);
        request[key] = value;
        assert!(agent.ask(request).is_err(), "{key}");
    }
    let about = agent.ask(json!({ "op": "about" })).unwrap();
    assert_eq!((about["restricted"].clone(), about["read_only"].clone()), (json!(true), json!(false)));
    assert!(about["time"].as_str().unwrap().ends_with('Z'), "{about}");
    assert_eq!(agent.end(), Some(0));
}
