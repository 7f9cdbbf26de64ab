//! A verbose server logs to syslog. Runs in a mount namespace of its own with a
//! `/dev/log` that the test listens on; needs root and unshare.

use std::os::unix::net::UnixDatagram;

use bdsync_tests::wire;
use bdsync_tests::{Outcome, Run, WorkDir, bdsync, is_root, not_run, program};

/// Makes a small `/dev` whose `log` is the socket of the test, and runs the rest in it.
const NAMESPACE: &str = r#"
set -e
mkdir dev
mount -t tmpfs none dev
for node in null zero full random urandom log; do touch dev/$node; done
for node in null zero full random urandom; do mount --bind /dev/$node dev/$node; done
mount --bind log.socket dev/log
mount --rbind dev /dev
exec "$@"
"#;

/// What the test itself sends when the server has ended.
const END: &[u8] = b"the end of the log";

/// Runs a server in such a namespace: how it ended, and what it logged.
fn serve(test: &str, options: &[&str]) -> Option<(Outcome, Vec<String>)> {
    if !is_root() {
        not_run(test, "a mount namespace needs root");
        return None;
    }
    let Some(unshare) = program("unshare") else {
        not_run(test, "unshare is not installed");
        return None;
    };
    let unshare = unshare.to_str().expect("a UTF-8 path").to_owned();
    if Run::new(&unshare).args(["--mount", "true"]).run().code != Some(0) {
        not_run(test, "no mount namespace can be made here");
        return None;
    }
    let dir = WorkDir::new();
    dir.write("target.img", &[5; 10_000]);
    let socket = UnixDatagram::bind(dir.path("log.socket")).expect("a socket");
    // The queue of a socket is short: somebody has to read while the server runs.
    let listener = std::thread::spawn(move || listen(&socket));
    let session = [
        wire::hello("CLIENT"),
        wire::devfile("target.img"),
        wire::digests(b"salt", "md5", ""),
        wire::gethashes(0, 4096, 3),
        wire::done(),
    ];
    let run = Run::new(&unshare).args(["--mount", "--propagation", "private", "sh", "-c", NAMESPACE, "sh", &bdsync()]);
    let run = run.arg("--server").args(options.iter().copied()).cwd(dir.folder());
    let outcome = run.input(&session.concat()).run();
    let last = UnixDatagram::unbound().expect("a socket");
    last.send_to(END, dir.path("log.socket")).expect("the end of the log");
    let lines = listener.join().expect("the lines of the log");
    Some((outcome, lines))
}

/// What the socket receives until the test ends the log.
fn listen(socket: &UnixDatagram) -> Vec<String> {
    let mut lines = Vec::new();
    let mut buffer = [0; 65_536];
    while let Ok(length) = socket.recv(&mut buffer) {
        if &buffer[..length] == END {
            break;
        }
        lines.push(String::from_utf8_lossy(&buffer[..length]).into_owned());
    }
    lines
}

#[test]
fn a_verbose_server_logs_as_user_info() {
    for options in [&["--verbose"][..], &["-v"], &["-vv"]] {
        let Some((outcome, lines)) = serve("a_verbose_server_logs_as_user_info", options) else { return };
        outcome.exits(0).says("");
        assert!(!lines.is_empty(), "nothing was logged with {options:?}");
        for line in &lines {
            assert!(line.starts_with("<14>"), "not facility user, level info: {line:?}");
            assert!(line.contains("bdsync"), "the program is not named: {line:?}");
        }
        assert!(lines.iter().any(|line| line.contains("target.img")), "the device is not named: {lines:?}");
    }
}

#[test]
fn a_quiet_server_does_not_log() {
    let Some((outcome, lines)) = serve("a_quiet_server_does_not_log", &[]) else { return };
    outcome.exits(0).says("");
    assert!(lines.is_empty(), "{lines:?}");
}

#[test]
fn a_verbose_server_works_where_nothing_listens() {
    let dir = WorkDir::new();
    dir.write("target.img", &[5; 10_000]);
    let session = [wire::hello("CLIENT"), wire::devfile("target.img"), wire::done()].concat();
    dir.bdsync(["--server", "--verbose"]).input(&session).run().exits(0);
}
