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
        for (key, kind) in [("host", "ed25519"), ("host-ecdsa", "ecdsa"), ("host-rsa", "rsa"), ("user", "ed25519")] {
            let path = dir.path_text(key);
            Run::new("ssh-keygen").args(["-q", "-t", kind, "-N", "", "-f", path.as_str()]).run().exits(0);
        }
        dir.write("authorized", &dir.read("user.pub"));
        for _ in 0..5 {
            // Somebody else may take the port before sshd does.
            let port = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port").port();
            let config = format!(
                "ListenAddress 127.0.0.1\nPort {port}\nHostKey {0}\nHostKey {0}-ecdsa\nHostKey {0}-rsa\nAuthorizedKeysFile {1}\nPidFile none\nPermitRootLogin yes\nStrictModes no\nUsePAM no\nPasswordAuthentication no\nMaxStartups 100\n",
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

impl Sshd {
    /// The `[remote.NAME]` section for SSH without the `ssh` program.
    ///
    /// # Panics
    ///
    /// When the list of known hosts cannot be written.
    pub fn remote(&self, name: &str, settings: &str) -> String {
        let key = String::from_utf8(self.dir.read("host.pub")).expect("a public key");
        let key: Vec<&str> = key.split_whitespace().take(2).collect();
        self.dir.write("known", format!("[127.0.0.1]:{} {}\n", self.port, key.join(" ")).as_bytes());
        self.remote_with(name, &self.dir.path_text("known"), settings)
    }

    /// The same, through a relay on another port.
    ///
    /// # Panics
    ///
    /// As [`remote`](Self::remote).
    pub fn remote_through(&self, name: &str, port: u16, settings: &str) -> String {
        let section = self.remote(name, settings);
        let key = String::from_utf8(self.dir.read("known")).expect("known hosts");
        self.dir.write("known", key.replace(&self.port.to_string(), &port.to_string()).as_bytes());
        section.replace(&format!("port = {}", self.port), &format!("port = {port}"))
    }

    /// The same with another list of known hosts.
    pub fn remote_with(&self, name: &str, known_hosts: &str, settings: &str) -> String {
        let text = if settings.contains("identity_file") {
            String::new()
        } else {
            format!("identity_file = \"{}\"\n", self.dir.path_text("user"))
        };
        format!(
            "[remote.{name}]\nhost = \"127.0.0.1\"\nport = {}\nuser = \"root\"\nssh_agent = false\n{text}known_hosts = \"{known_hosts}\"\n{settings}\n",
            self.port
        )
    }

    /// Its folder: `host` and `user` are its keys, `authorized` who may log in.
    pub fn dir(&self) -> &WorkDir {
        &self.dir
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its process.
    pub fn id(&self) -> u32 {
        self.child.id()
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
