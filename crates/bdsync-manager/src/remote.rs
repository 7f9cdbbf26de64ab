//! Reaching the machine with the target: shell scripts run through a connection command.
//!
//! A script is one argument for a POSIX shell at the far end. Whatever is sent is
//! quoted for it, so that no path can be taken for a command.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};

use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use bdsync_device::plain;
use bdsync_engine::Cancellation;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use crate::config::Remote;
use crate::failure::Failure;

/// How often a running command is looked after.
const TICK: Duration = Duration::from_millis(100);

/// How much of what a command says on standard error is kept for messages, in bytes.
const KEPT: usize = 2000;

/// The longest line of it that is kept together, in bytes.
const LINE: u64 = 4096;

/// How the connection command wants what it shall run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// One argument, which a shell reads: ssh, `sh -c`.
    Shell,
    /// The words of a command, which is run as it is: sudo, chroot, nsenter.
    Words,
}

/// A machine that commands can be run on.
pub(crate) struct Connection {
    remote: Remote,
    task: String,
    style: OnceLock<Style>,
    cancellation: Cancellation,
    runtime: Handle,
}

impl Connection {
    pub(crate) fn new(remote: &Remote, task: &str, cancellation: &Cancellation) -> Self {
        Self {
            remote: remote.clone(),
            task: task.into(),
            style: OnceLock::new(),
            cancellation: cancellation.clone(),
            runtime: Handle::current(),
        }
    }

    /// What it is called in messages.
    pub(crate) fn name(&self) -> String {
        self.remote.command.join(" ")
    }

    /// Starts a script.
    pub(crate) fn start(&self, script: &str) -> Result<Session, Failure> {
        self.start_as(self.style.get().copied().unwrap_or(Style::Shell), script)
    }

    fn start_as(&self, style: Style, script: &str) -> Result<Session, Failure> {
        let Some((program, words)) = self.remote.command.split_first() else {
            return Err(Failure::new("the connection command is empty"));
        };
        tracing::debug!(task = self.task, "Remote command ({}): {script}", self.name());
        let _runtime = self.runtime.enter();
        let mut command = tokio::process::Command::new(program);
        command.args(words);
        if style == Style::Words {
            command.args(["sh", "-c"]);
        }
        command.arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        // On a terminal it must stay in the foreground, where it may ask for a passphrase.
        let own_group = File::open("/dev/tty").is_err();
        if own_group {
            command.process_group(0);
        }
        let mut child = command.spawn().map_err(|error| {
            Failure::new(format!("cannot start the connection command {program}: {}", plain(&error)))
        })?;
        let streams = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(stdin), Some(stdout), Some(stderr)) = streams else {
            return Err(Failure::new("the connection command has no streams"));
        };
        let failed = |error: io::Error| Failure::new(format!("cannot use a pipe: {error}"));
        let alive = Alive::new();
        let input = Active::new(stdin.into_owned_fd().map_err(failed)?, &alive).map_err(failed)?;
        let output = Active::new(stdout.into_owned_fd().map_err(failed)?, &alive).map_err(failed)?;
        let errors = File::from(stderr.into_owned_fd().map_err(failed)?);
        let said = Arc::new(Mutex::new(String::new()));
        let (task, kept) = (self.task.clone(), Arc::clone(&said));
        let listener = std::thread::Builder::new()
            .name("remote-errors".into())
            .spawn(move || listen(errors, &task, &kept))
            .map_err(failed)?;
        let care = Care { alive, timeout: self.remote.timeout, cancellation: self.cancellation.clone(), own_group };
        let ended = self.runtime.spawn(look_after(child, care));
        Ok(Session {
            stdin: Some(input),
            stdout: Some(output),
            ended,
            said,
            listener,
            runtime: self.runtime.clone(),
            name: self.name(),
        })
    }

    /// Runs a short script to its end; gives what it printed.
    pub(crate) fn run(&self, script: &str) -> Result<String, Failure> {
        let (output, end) = self.run_as(self.style.get().copied().unwrap_or(Style::Shell), script)?;
        end.success()?;
        Ok(output)
    }

    fn run_as(&self, style: Style, script: &str) -> Result<(String, End), Failure> {
        let mut session = self.start_as(style, script)?;
        drop(session.stdin.take());
        let mut output = Vec::new();
        if let Some(mut stdout) = session.stdout.take() {
            // How it ended says more than how reading from it did.
            let _ = stdout.read_to_end(&mut output);
        }
        let end = session.wait()?;
        Ok((String::from_utf8_lossy(&output).into_owned(), end))
    }

    /// Runs the first script, whose output has a line that is `mark`, and finds out in what
    /// way this connection takes commands.
    pub(crate) fn run_first(&self, script: &str, mark: &str) -> Result<String, Failure> {
        if self.style.get().is_some() {
            return self.run(script);
        }
        let (output, end) = self.run_as(Style::Shell, script)?;
        if output.lines().any(|line| line.trim_end() == mark) {
            let _ = self.style.set(Style::Shell);
            return Ok(output);
        }
        end.is_connected()?;
        let (words_output, words_end) = self.run_as(Style::Words, script)?;
        if words_output.lines().any(|line| line.trim_end() == mark) {
            let _ = self.style.set(Style::Words);
            return Ok(words_output);
        }
        words_end.is_connected()?;
        end.success()?;
        Err(Failure::new(format!("{} does not run commands: it answered {:?}", self.name(), first_line(&output))))
    }
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().chars().take(100).collect()
}

/// When something was last heard or said.
#[derive(Clone)]
struct Alive {
    start: Instant,
    last: Arc<AtomicU64>,
    given_up: Arc<AtomicBool>,
}

impl Alive {
    fn new() -> Self {
        Self { start: Instant::now(), last: Arc::default(), given_up: Arc::default() }
    }

    fn touch(&self) {
        self.last.store(self.start.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    fn silence(&self) -> Duration {
        self.start.elapsed().saturating_sub(Duration::from_millis(self.last.load(Ordering::Relaxed)))
    }
}

/// A stream that counts as a sign of life when it moves, and that fails once the
/// command was given up, even if some process still holds its other end.
pub(crate) struct Active {
    file: File,
    alive: Alive,
}

impl Active {
    fn new(pipe: OwnedFd, alive: &Alive) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&pipe, true)?;
        Ok(Self { file: File::from(pipe), alive: alive.clone() })
    }

    /// Waits until the stream can move.
    fn wait(&self, events: PollFlags) -> io::Result<()> {
        let tick = Timespec { tv_sec: 0, tv_nsec: TICK.as_nanos() as i64 };
        loop {
            if self.alive.given_up.load(Ordering::Relaxed) {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "the command was given up"));
            }
            match poll(&mut [PollFd::new(&self.file, events)], Some(&tick)) {
                Ok(0) | Err(rustix::io::Errno::INTR) => {}
                Ok(_) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn transfer(
        &mut self,
        events: PollFlags,
        mut step: impl FnMut(&mut File) -> io::Result<usize>,
    ) -> io::Result<usize> {
        loop {
            match step(&mut self.file) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.wait(events)?,
                Err(error) => return Err(error),
                Ok(count) => {
                    self.alive.touch();
                    return Ok(count);
                }
            }
        }
    }
}

impl Read for Active {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.transfer(PollFlags::IN, |file| file.read(buffer))
    }
}

impl Write for Active {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.transfer(PollFlags::OUT, |file| file.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Why a command was ended by us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    ByItself,
    Silent(Duration),
    Cancelled,
}

/// What a running command is watched for.
struct Care {
    alive: Alive,
    timeout: Duration,
    cancellation: Cancellation,
    /// Whether it has a process group of its own, which ends as a whole.
    own_group: bool,
}

async fn look_after(mut child: tokio::process::Child, care: Care) -> io::Result<(ExitStatus, Ended)> {
    let mut ended = Ended::ByItself;
    loop {
        tokio::select! {
            status = child.wait() => return Ok((status?, ended)),
            () = tokio::time::sleep(TICK), if ended == Ended::ByItself => {
                if care.cancellation.is_cancelled() {
                    ended = Ended::Cancelled;
                } else if care.alive.silence() > care.timeout {
                    ended = Ended::Silent(care.timeout);
                }
                if ended != Ended::ByItself {
                    care.alive.given_up.store(true, Ordering::Relaxed);
                    let group = child.id().and_then(|id| rustix::process::Pid::from_raw(id as i32));
                    match group.filter(|_| care.own_group) {
                        Some(group) => rustix::process::kill_process_group(group, rustix::process::Signal::KILL)?,
                        None => child.start_kill()?,
                    }
                }
            }
        }
    }
}

/// Passes on what a command says on standard error, and keeps the last of it.
fn listen(errors: File, task: &str, said: &Mutex<String>) {
    let mut errors = BufReader::new(errors);
    let mut line = Vec::new();
    loop {
        line.clear();
        match errors.by_ref().take(LINE).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let text = String::from_utf8_lossy(&line);
        let text = text.trim_end();
        tracing::debug!(task, "Remote: {text}");
        let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.len() + text.len() < KEPT {
            if !said.is_empty() {
                said.push_str("; ");
            }
            said.extend(text.chars().filter(|c| !c.is_control()));
        }
    }
}

/// A running command.
pub(crate) struct Session {
    pub(crate) stdin: Option<Active>,
    pub(crate) stdout: Option<Active>,
    ended: JoinHandle<io::Result<(ExitStatus, Ended)>>,
    said: Arc<Mutex<String>>,
    listener: std::thread::JoinHandle<()>,
    runtime: Handle,
    name: String,
}

impl Session {
    /// Waits for its end. Its streams are closed first.
    pub(crate) fn wait(mut self) -> Result<End, Failure> {
        drop((self.stdin.take(), self.stdout.take()));
        let ended = self.runtime.block_on(self.ended);
        let (status, ended) = ended
            .map_err(io::Error::other)
            .and_then(|ended| ended)
            .map_err(|error| Failure::new(format!("cannot wait for {}: {error}", self.name)))?;
        // A process in the background can keep its standard error open; that is not waited for.
        let deadline = Instant::now() + Duration::from_millis(500);
        while !self.listener.is_finished() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(2));
        }
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Ok(End { status, ended, said, name: self.name })
    }
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct End {
    status: ExitStatus,
    ended: Ended,
    /// What it said on standard error.
    pub(crate) said: String,
    name: String,
}

impl End {
    pub(crate) fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// An error if the connection itself failed: then it says nothing about what was run.
    pub(crate) fn is_connected(&self) -> Result<(), Failure> {
        let said = if self.said.is_empty() { String::new() } else { format!(": {}", self.said) };
        match self.ended {
            Ended::Cancelled => return Err(Failure::Cancelled),
            Ended::Silent(timeout) => {
                let seconds = timeout.as_secs_f64();
                let text =
                    format!("{} was silent for {seconds} seconds and was given up (setting timeout){said}", self.name);
                return Err(Failure::Connection(text));
            }
            Ended::ByItself => {}
        }
        match (self.status.code(), self.status.signal()) {
            // What ssh says when it cannot connect, or loses the connection.
            (Some(255), _) => Err(Failure::Connection(format!("the connection {} failed{said}", self.name))),
            (None, Some(signal)) => {
                Err(Failure::Connection(format!("the connection {} was killed by signal {signal}{said}", self.name)))
            }
            _ => Ok(()),
        }
    }

    /// An error unless it ended well.
    pub(crate) fn success(&self) -> Result<(), Failure> {
        self.is_connected()?;
        match self.status.code() {
            Some(0) => Ok(()),
            code => {
                let code = code.map_or("an unknown status".into(), |code| format!("exit status {code}"));
                let said = if self.said.is_empty() { "nothing on standard error".into() } else { self.said.clone() };
                Err(Failure::new(format!("the remote command ended with {code}: {said}")))
            }
        }
    }
}

/// Text as one word of a POSIX shell.
pub(crate) fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// A path as one word that no command takes for an option.
pub(crate) fn quote_path(path: &Path) -> String {
    let text = path.to_string_lossy();
    if text.starts_with('-') { quote(&format!("./{text}")) } else { quote(&text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_words_come_out_of_a_shell_as_they_went_in() {
        for text in ["", "plain", "it's", "a b\tc", "new\nline", "$HOME `id` \"x\" \\ !*?[a]~#;&|<>(){}", "-n", "ünï"]
        {
            let script = format!("printf %s {}", quote(text));
            let output = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), text);
        }
        assert_eq!(quote_path(Path::new("-x")), "'./-x'");
    }
}
