//! Running a program under a hard time limit.

use std::fmt;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// What a program reads.
#[derive(Clone, Debug)]
pub enum Stdin {
    /// Nothing.
    Null,
    /// These bytes by a pipe, then its end.
    Pipe(Vec<u8>),
    /// These bytes by a pipe that stays open until the program ends.
    OpenPipe(Vec<u8>),
    /// A file.
    File(PathBuf),
}

/// Where a program writes to.
#[derive(Clone, Debug)]
pub enum Stdout {
    /// Into the outcome.
    Capture,
    /// Into a file that exists or can be made.
    File(PathBuf),
    /// Into a pipe that nobody reads.
    ClosedPipe,
}

/// A program about to be run.
#[derive(Debug)]
pub struct Run {
    command: Command,
    stdin: Stdin,
    stdout: Stdout,
    limit: Duration,
}

/// How a run ended.
#[derive(Debug)]
pub struct Outcome {
    /// Exit status; `None` after a signal.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// What it wrote to stdout.
    pub stdout: Vec<u8>,
    /// What it wrote to stderr.
    pub stderr: String,
    /// Largest resident size, of the program or a descendant it waited for, in bytes.
    pub peak_resident_bytes: u64,
    command: String,
}

impl Run {
    /// A program with nothing on stdin, a captured stdout and one minute.
    pub fn new(program: &str) -> Self {
        Self {
            command: Command::new(program),
            stdin: Stdin::Null,
            stdout: Stdout::Capture,
            limit: Duration::from_secs(60),
        }
    }

    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, arg: &str) -> Self {
        self.command.arg(arg);
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<'a>(mut self, args: impl IntoIterator<Item = &'a str>) -> Self {
        self.command.args(args);
        self
    }

    /// Runs in `folder`.
    #[must_use]
    pub fn cwd(mut self, folder: &Path) -> Self {
        self.command.current_dir(folder);
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    /// Chooses what the program reads.
    #[must_use]
    pub fn stdin(mut self, stdin: Stdin) -> Self {
        self.stdin = stdin;
        self
    }

    /// Gives the program these bytes by a pipe.
    #[must_use]
    pub fn input(self, bytes: &[u8]) -> Self {
        self.stdin(Stdin::Pipe(bytes.to_vec()))
    }

    /// Chooses where the program writes to.
    #[must_use]
    pub fn stdout(mut self, stdout: Stdout) -> Self {
        self.stdout = stdout;
        self
    }

    /// Sets the time after which the program is killed and the test fails.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Runs the program to its end.
    ///
    /// # Panics
    ///
    /// When it cannot be started or takes too long.
    pub fn run(self) -> Outcome {
        self.execute(None)
    }

    /// Runs the program to its end and calls `look` with its process id every few milliseconds.
    ///
    /// # Panics
    ///
    /// When it cannot be started or takes too long.
    pub fn run_watched(self, mut look: impl FnMut(u32)) -> Outcome {
        self.execute(Some(&mut look))
    }

    #[expect(clippy::zombie_processes, reason = "wait4 waits for it, and says how much memory it took")]
    fn execute(mut self, look: Option<&mut dyn FnMut(u32)>) -> Outcome {
        let description = format!("{:?}", self.command);
        let deadline = Instant::now() + self.limit;
        self.command.stdin(self.stdin.stdio()).stdout(self.stdout.stdio()).stderr(Stdio::piped());
        // A group of its own, so that a killed program takes its children with it.
        self.command.process_group(0);
        let mut child = self.command.spawn().unwrap_or_else(|error| panic!("start {description}: {error}"));
        // The parent's copies of the descriptors go with the command.
        drop(self.command);

        let held_open = child.stdin.take().map(|pipe| self.stdin.feed(pipe));
        let stdout = child.stdout.take().map(read_all);
        let stderr = child.stderr.take().map(read_all);
        let Some((status, peak_resident_bytes)) = wait(&child, deadline, look) else {
            kill_group(&child);
            panic!("{description} did not end in {:?}", self.limit)
        };
        drop(held_open);
        let collect = |output: Option<Receiver<Vec<u8>>>| {
            let left = deadline.saturating_duration_since(Instant::now());
            output.map_or(Ok(Vec::new()), |output| output.recv_timeout(left)).unwrap_or_else(|_| {
                kill_group(&child);
                panic!("{description} left a process behind that holds its output open")
            })
        };
        Outcome {
            code: status.code(),
            signal: status.signal(),
            stdout: collect(stdout),
            stderr: String::from_utf8_lossy(&collect(stderr)).into_owned(),
            peak_resident_bytes,
            command: description,
        }
    }
}

impl Stdin {
    fn stdio(&self) -> Stdio {
        match self {
            Self::Null => Stdio::null(),
            Self::Pipe(_) | Self::OpenPipe(_) => Stdio::piped(),
            Self::File(path) => File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).into(),
        }
    }

    /// Writes to the program from another thread; the pipe comes back if it is to stay open.
    fn feed(self, mut pipe: ChildStdin) -> Receiver<ChildStdin> {
        let (sender, receiver) = channel();
        std::thread::spawn(move || {
            // A program that stops reading is the test's business, not the harness's.
            match self {
                Self::Null | Self::File(_) => {}
                Self::Pipe(bytes) => _ = pipe.write_all(&bytes),
                Self::OpenPipe(bytes) => {
                    let _ = pipe.write_all(&bytes);
                    let _ = sender.send(pipe);
                }
            }
        });
        receiver
    }
}

impl Stdout {
    fn stdio(&self) -> Stdio {
        match self {
            Self::Capture => Stdio::piped(),
            Self::File(path) => File::options()
                .write(true)
                .create(true)
                .truncate(true)
                .open(path)
                .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
                .into(),
            Self::ClosedPipe => std::io::pipe().expect("a pipe").1.into(),
        }
    }
}

impl Outcome {
    /// Standard output as text.
    pub fn stdout_text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// The lines of stderr.
    pub fn lines(&self) -> Vec<&str> {
        self.stderr.lines().collect()
    }

    /// Fails unless the program ended with `code`.
    ///
    /// # Panics
    ///
    /// When it did not.
    #[track_caller]
    pub fn exits(&self, code: i32) -> &Self {
        assert_eq!(self.code, Some(code), "{self}");
        self
    }

    /// Fails unless stderr is exactly `text`.
    ///
    /// # Panics
    ///
    /// When it is not.
    #[track_caller]
    pub fn says(&self, text: &str) -> &Self {
        assert_eq!(self.stderr, text, "{self}");
        self
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.command)?;
        writeln!(f, "exit {:?}, signal {:?}, {} bytes on stdout, stderr:", self.code, self.signal, self.stdout.len())?;
        for line in self.stderr.lines().take(40) {
            writeln!(f, "  {line}")?;
        }
        Ok(())
    }
}

fn read_all(mut pipe: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = pipe.read_to_end(&mut bytes);
        let _ = sender.send(bytes);
    });
    receiver
}

/// Waits for the end of a child: its status and peak resident bytes, or `None` at the deadline.
fn wait(child: &Child, deadline: Instant, mut look: Option<&mut dyn FnMut(u32)>) -> Option<(ExitStatus, u64)> {
    let pid = child.id() as libc::pid_t;
    // SAFETY: the child is ours and not waited for, so its id is still its own.
    let descriptor = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    assert!(descriptor >= 0, "pidfd_open: {}", std::io::Error::last_os_error());
    // SAFETY: the call above returned a new descriptor that nobody else has.
    let descriptor = unsafe { OwnedFd::from_raw_fd(descriptor as i32) };
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let pause = match look.as_mut() {
            Some(look) => {
                look(child.id());
                left.min(Duration::from_millis(3))
            }
            None => left,
        };
        let mut poll = libc::pollfd { fd: descriptor.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one pollfd that lives through the call.
        if unsafe { libc::poll(&raw mut poll, 1, pause.as_millis() as i32) } > 0 {
            break;
        }
        if left.is_zero() {
            return None;
        }
    }
    let mut status = 0;
    // SAFETY: rusage is plain numbers, for which zeros are a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to locals of the right type.
    let waited = unsafe { libc::wait4(pid, &raw mut status, 0, &raw mut usage) };
    assert_eq!(waited, pid, "wait4: {}", std::io::Error::last_os_error());
    Some((ExitStatus::from_raw(status), usage.ru_maxrss as u64 * 1024))
}

fn kill_group(child: &Child) {
    // SAFETY: the group was made for this child alone.
    unsafe { libc::kill(-(child.id() as libc::pid_t), libc::SIGKILL) };
}
