//! A real sshd on loopback, with keys and a port of its own.

use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::{Run, WorkDir, is_root, program};

/// A running sshd; it ends with the test.
#[derive(Debug)]
pub struct Sshd {
    child: Child,
    dir: WorkDir,
    port: u16,
}

impl Sshd {
    /// Starts one, or says what is missing.
    ///
    /// # Errors
    ///
    /// What the machine lacks.
    ///
    /// # Panics
    ///
    /// When it does not start although everything is there.
    pub fn start() -> Result<Self, &'static str> {
        let sshd = program("sshd").ok_or("sshd is not installed (openssh-server)")?;
        program("ssh").ok_or("ssh is not installed (openssh-client)")?;
        if !is_root() {
            return Err("it needs root: sshd lets others only log in as themselves");
        }
        // Where it separates its privileges.
        std::fs::create_dir_all("/run/sshd").expect("the folder /run/sshd");
        let dir = WorkDir::new();
        for key in ["host", "user"] {
            let path = dir.path_text(key);
            Run::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f", path.as_str()]).run().exits(0);
        }
        dir.write("authorized", &dir.read("user.pub"));
        for _ in 0..5 {
            // Somebody else may take the port before sshd does.
            let port = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port").port();
            let config = format!(
                "ListenAddress 127.0.0.1\nPort {port}\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\nPermitRootLogin yes\nStrictModes no\nUsePAM no\nPasswordAuthentication no\nMaxStartups 100\n",
                dir.path_text("host"),
                dir.path_text("authorized")
            );
            dir.write("config", config.as_bytes());
            if let Some(child) = start(&sshd, &dir, port) {
                return Ok(Self { child, dir, port });
            }
        }
        panic!("sshd does not start: {}", String::from_utf8_lossy(&dir.read("log")));
    }

    /// The command that connects to it.
    pub fn command(&self) -> String {
        format!(
            "ssh -F none -p {} -i {} -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR root@127.0.0.1",
            self.port,
            self.dir.path_text("user")
        )
    }
}

fn start(sshd: &Path, dir: &WorkDir, port: u16) -> Option<Child> {
    let log = std::fs::File::create(dir.path("log")).expect("a log");
    let mut child = Command::new(sshd)
        .args(["-D", "-e", "-f", dir.path_text("config").as_str()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("sshd");
    let deadline = Instant::now() + Duration::from_secs(20);
    while Instant::now() < deadline {
        if child.try_wait().expect("the child's status").is_some() {
            return None;
        }
        if TcpStream::connect(("127.0.0.1", port)).is_ok() {
            return Some(child);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let _ = child.kill();
    let _ = child.wait();
    None
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
