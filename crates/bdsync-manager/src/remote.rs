//! Reaching the machine with the target: shell scripts run through a transport.
//!
//! A script is one argument for a POSIX shell at the far end. Whatever is sent is
//! quoted for it, so that no path can be taken for a command.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use bdsync_engine::Cancellation;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use crate::config::{Remote, Way};
use crate::failure::Failure;
use crate::feed::FeedWriter;
use crate::ssh::SshTransport;
use crate::transport::{CommandTransport, Inlet, Process, Status, Style, Transport, no_pipe};

/// How often a running command is looked after.
const TICK: Duration = Duration::from_millis(100);

/// How long the streams of a command that has ended are waited for, if some other
/// process still has them.
const GRACE: Duration = Duration::from_millis(500);

/// How long a command that was killed is waited for.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long the last clean-up of a cancelled task may take.
const LAST: Duration = Duration::from_millis(1200);

/// How much of what a command says on standard error is kept for messages, in bytes.
const KEPT: usize = 2000;

/// The longest line of it that is kept together, in bytes.
const LINE: u64 = 4096;

/// The most that a script prints, in bytes.
const PRINTED: usize = 1 << 20;

/// How long it may take until a far end shows that it runs a script.
pub(crate) const ANSWER: Duration = Duration::from_secs(30);

/// A machine that commands can be run on.
pub(crate) struct Connection {
    remote: Remote,
    task: String,
    transport: Box<dyn Transport>,
    style: OnceLock<Style>,
    cancellation: Cancellation,
    runtime: Handle,
    signs: Signs,
}

impl Connection {
    pub(crate) fn new(remote: &Remote, task: &str, cancellation: &Cancellation) -> Self {
        let runtime = Handle::current();
        let transport: Box<dyn Transport> = match &remote.way {
            Way::Command(words) | Way::OpenSsh(_, words) => {
                Box::new(CommandTransport { words: words.clone(), runtime: runtime.clone() })
            }
            Way::Ssh(ssh) => Box::new(SshTransport::new(ssh, remote.timeout, cancellation)),
        };
        Self {
            remote: remote.clone(),
            task: task.into(),
            transport,
            style: OnceLock::new(),
            cancellation: cancellation.clone(),
            runtime,
            signs: Signs::new(),
        }
    }

    /// What it is called in messages.
    pub(crate) fn name(&self) -> &str {
        &self.remote.label
    }

    /// Starts a script.
    pub(crate) fn start(&self, script: &str) -> Result<Session, Failure> {
        self.start_as(self.style(), script, self.remote.timeout, &self.cancellation)
    }

    /// Starts a script that ends with `cancellation`, and not with the task's.
    pub(crate) fn start_apart(&self, script: &str, cancellation: &Cancellation) -> Result<Session, Failure> {
        self.start_apart_as(self.style(), script, cancellation)
    }

    /// The same in one of the ways that commands can be taken.
    pub(crate) fn start_apart_as(
        &self,
        style: Style,
        script: &str,
        cancellation: &Cancellation,
    ) -> Result<Session, Failure> {
        self.start_as(style, script, self.remote.timeout, cancellation)
    }

    /// The ways in which this connection may take commands.
    pub(crate) fn styles(&self) -> Vec<Style> {
        self.style.get().map_or_else(|| vec![Style::Shell, Style::Words], |style| vec![*style])
    }

    /// It does take commands in this way.
    pub(crate) fn keep_style(&self, style: Style) {
        let _ = self.style.set(style);
    }

    /// Finds out, if that is not known, whether the connection wants words.
    pub(crate) fn wants_words(&self) -> bool {
        const MARK: &str = "bdsync-manager words";
        let is_known = self.style.get().is_some();
        !is_known && self.run_first(&format!("echo '{MARK}'"), MARK).is_ok() && self.style() == Style::Words
    }

    pub(crate) fn runtime(&self) -> &Handle {
        &self.runtime
    }

    pub(crate) fn remote(&self) -> &Remote {
        &self.remote
    }

    fn style(&self) -> Style {
        self.style.get().copied().unwrap_or(Style::Shell)
    }

    fn start_as(
        &self,
        style: Style,
        script: &str,
        timeout: Duration,
        cancellation: &Cancellation,
    ) -> Result<Session, Failure> {
        tracing::debug!(task = self.task, "Remote command ({}): {script}", self.name());
        self.signs.touch();
        let started = self.transport.start(script, style)?;
        let alive = Alive { signs: self.signs.clone(), given_up: Arc::default() };
        self.signs.touch();
        let input = match started.stdin {
            Inlet::Pipe(pipe) => Active::new(pipe, &alive).map_err(no_pipe)?,
            Inlet::Feed(feed) => Active { stream: Stream::Feed(feed), alive: alive.clone(), deadline: None },
        };
        let output = Active::new(started.stdout, &alive).map_err(no_pipe)?;
        let errors = File::from(started.stderr);
        let said = Arc::new(Mutex::new(String::new()));
        let (task, kept) = (self.task.clone(), Arc::clone(&said));
        let listener = std::thread::Builder::new()
            .name("remote-errors".into())
            .spawn(move || listen(errors, &task, &kept))
            .map_err(no_pipe)?;
        let care = Care { alive, timeout, cancellation: cancellation.clone() };
        let ended = self.runtime.spawn(look_after(started.process, care));
        Ok(Session {
            stdin: Some(input),
            stdout: Some(output),
            ended,
            said,
            listener,
            runtime: self.runtime.clone(),
            name: self.name().into(),
        })
    }

    /// Runs a short script to its end; gives what it printed.
    pub(crate) fn run(&self, script: &str) -> Result<String, Failure> {
        let (output, end) = finish(self.start(script)?, None)?;
        end.success()?;
        Ok(output)
    }

    /// Cleans up at the end, even of a cancelled task: then it has a second for it.
    pub(crate) fn run_last(&self, script: &str) {
        let result = match self.cancellation.is_cancelled() {
            false => self.run(script).map(drop),
            true => self
                .start_as(self.style(), script, LAST, &Cancellation::new())
                .and_then(|session| finish(session, None))
                .and_then(|(_, end)| end.success()),
        };
        if let Err(failure) = result {
            // The next run does it.
            tracing::debug!(task = self.task, "Not cleaned up: {failure}");
        }
    }

    fn run_as(&self, style: Style, script: &str, mark: &str) -> Result<(String, End), Failure> {
        finish(self.start_as(style, script, self.remote.timeout, &self.cancellation)?, Some(mark))
    }

    /// Runs the first script, whose output has a line that is `mark`, and finds out in what
    /// way this connection takes commands.
    pub(crate) fn run_first(&self, script: &str, mark: &str) -> Result<String, Failure> {
        if self.style.get().is_some() {
            return self.run(script);
        }
        let (output, end) = self.run_as(Style::Shell, script, mark)?;
        end.is_connected()?;
        if has_line(&output, mark) {
            let _ = self.style.set(Style::Shell);
            end.success()?;
            return Ok(output);
        }
        let (words_output, words_end) = self.run_as(Style::Words, script, mark)?;
        words_end.is_connected()?;
        if has_line(&words_output, mark) {
            let _ = self.style.set(Style::Words);
            words_end.success()?;
            return Ok(words_output);
        }
        // What it printed says more than how it ended.
        if first_line(&output).is_empty() {
            end.success()?;
        }
        Err(runs_nothing(self.name(), &output))
    }
}

/// Reads what a session prints, to its end. Until a line is `mark`, it may not take long.
fn finish(mut session: Session, mark: Option<&str>) -> Result<(String, End), Failure> {
    drop(session.stdin.take());
    let mut output = Vec::new();
    let mut is_cut = false;
    if let Some(mut stdout) = session.stdout.take() {
        let mut deadline = mark.map(|_| Instant::now() + ANSWER);
        stdout.set_deadline(deadline);
        let mut chunk = [0; 8192];
        loop {
            match stdout.read(&mut chunk) {
                Ok(0) => break,
                Ok(count) => output.extend_from_slice(&chunk[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // How it ended says more than how reading from it did.
                Err(_) => break,
            }
            if deadline.is_some() && mark.is_some_and(|mark| has_line(&String::from_utf8_lossy(&output), mark)) {
                deadline = None;
                stdout.set_deadline(None);
            }
            if output.len() > PRINTED || deadline.is_some_and(|deadline| Instant::now() > deadline) {
                is_cut = true;
                break;
            }
        }
        is_cut |= deadline.is_some_and(|deadline| Instant::now() > deadline);
    }
    let name = session.name.clone();
    let output = String::from_utf8_lossy(&output).into_owned();
    let end = session.wait()?;
    match is_cut {
        true if end.ended == Ended::Cancelled => Ok((output, end)),
        true if mark.is_none_or(|mark| has_line(&output, mark)) => {
            Err(Failure::new(format!("{name} prints more than {PRINTED} bytes where a few were asked for")))
        }
        true => Err(runs_nothing(&name, &output)),
        false => Ok((output, end)),
    }
}

fn has_line(text: &str, mark: &str) -> bool {
    text.lines().any(|line| line.trim_end() == mark)
}

fn runs_nothing(name: &str, output: &str) -> Failure {
    Failure::new(format!(
        "{name} does not run commands: it answered {:?}; does it allow them for this key and account, and does a login script print something?",
        first_line(output)
    ))
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().chars().take(100).collect()
}

/// When something was last heard or said, on any of a connection's sessions: one of them
/// may have nothing to say for a long time while another is at work.
#[derive(Clone)]
struct Signs {
    start: Instant,
    last: Arc<AtomicU64>,
}

impl Signs {
    fn new() -> Self {
        Self { start: Instant::now(), last: Arc::default() }
    }

    fn touch(&self) {
        self.last.store(self.start.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    fn silence(&self) -> Duration {
        self.start.elapsed().saturating_sub(Duration::from_millis(self.last.load(Ordering::Relaxed)))
    }
}

#[derive(Clone)]
struct Alive {
    signs: Signs,
    /// Nothing is waited for any more.
    given_up: Arc<AtomicBool>,
}

/// A stream that counts as a sign of life when it moves, and that fails once the
/// command was given up, even if some process still holds its other end.
pub(crate) struct Active {
    stream: Stream,
    alive: Alive,
    deadline: Option<Instant>,
}

enum Stream {
    Pipe(File),
    Feed(FeedWriter),
}

impl Active {
    fn new(pipe: OwnedFd, alive: &Alive) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&pipe, true)?;
        Ok(Self { stream: Stream::Pipe(File::from(pipe)), alive: alive.clone(), deadline: None })
    }

    /// Until when something has to move.
    pub(crate) fn set_deadline(&mut self, deadline: Option<Instant>) {
        self.deadline = deadline;
    }

    /// Repeats a step until it moved something; it gives `None` after having waited a
    /// moment for nothing.
    fn transfer(&mut self, mut step: impl FnMut(&mut Stream) -> io::Result<Option<usize>>) -> io::Result<usize> {
        loop {
            if let Some(count) = step(&mut self.stream)? {
                self.alive.signs.touch();
                return Ok(count);
            }
            if self.deadline.is_some_and(|deadline| Instant::now() > deadline) {
                return Err(io::ErrorKind::TimedOut.into());
            }
            if self.alive.given_up.load(Ordering::Relaxed) {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "the command was given up"));
            }
        }
    }
}

/// What a step on a pipe moved; if it would have to wait, it is waited for a moment.
fn moved(result: io::Result<usize>, pipe: &File, events: PollFlags) -> io::Result<Option<usize>> {
    let tick = Timespec { tv_sec: 0, tv_nsec: TICK.as_nanos() as i64 };
    match result {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            match poll(&mut [PollFd::new(pipe, events)], Some(&tick)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => Ok(None),
                Err(error) => Err(error.into()),
            }
        }
        result => result.map(Some),
    }
}

impl Read for Active {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.transfer(|stream| match stream {
            Stream::Pipe(pipe) => moved(pipe.read(buffer), pipe, PollFlags::IN),
            Stream::Feed(_) => Err(io::ErrorKind::Unsupported.into()),
        })
    }
}

impl Write for Active {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.transfer(|stream| match stream {
            Stream::Pipe(pipe) => moved(pipe.write(bytes), pipe, PollFlags::OUT),
            Stream::Feed(feed) => feed.write(bytes, TICK),
        })
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
}

async fn look_after(mut process: Process, care: Care) -> io::Result<(Status, Ended)> {
    let mut ended = Ended::ByItself;
    let mut killed: Option<Instant> = None;
    let status = loop {
        tokio::select! {
            status = process.wait() => break status?,
            () = tokio::time::sleep(TICK), if killed.is_some() => {
                if killed.is_some_and(|since| since.elapsed() > PATIENCE) {
                    break Status { lost: Some("it could not be ended".into()), ..Status::default() };
                }
            }
            () = tokio::time::sleep(TICK), if ended == Ended::ByItself => {
                if care.cancellation.is_cancelled() {
                    ended = Ended::Cancelled;
                } else if care.alive.signs.silence() > care.timeout {
                    ended = Ended::Silent(care.timeout);
                }
                if ended != Ended::ByItself {
                    care.alive.given_up.store(true, Ordering::Relaxed);
                    process.kill()?;
                    killed = Some(Instant::now());
                }
            }
        }
    };
    // What it has written can be read; nobody waits for more than that.
    let given_up = Arc::clone(&care.alive.given_up);
    tokio::spawn(async move {
        tokio::time::sleep(GRACE).await;
        given_up.store(true, Ordering::Relaxed);
    });
    Ok((status, ended))
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
    ended: JoinHandle<io::Result<(Status, Ended)>>,
    said: Arc<Mutex<String>>,
    listener: std::thread::JoinHandle<()>,
    runtime: Handle,
    name: String,
}

impl Session {
    /// Reads and drops what it prints, in a thread, so that it never waits for that.
    pub(crate) fn drain(&mut self) {
        if let Some(mut stdout) = self.stdout.take() {
            // If there is no thread, its pipe is closed, which is as well.
            let _ = std::thread::Builder::new()
                .name("remote-output".into())
                .spawn(move || drop(io::copy(&mut stdout, &mut io::sink())));
        }
    }

    /// Waits for its end. Its streams are closed first.
    pub(crate) fn wait(mut self) -> Result<End, Failure> {
        drop((self.stdin.take(), self.stdout.take()));
        let ended = self.runtime.block_on(self.ended);
        let (status, ended) = ended
            .map_err(io::Error::other)
            .and_then(|ended| ended)
            .map_err(|error| Failure::new(format!("cannot wait for {}: {error}", self.name)))?;
        // A process in the background can keep its standard error open; that is not waited for.
        let deadline = Instant::now() + GRACE;
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
    status: Status,
    ended: Ended,
    /// What it said on standard error.
    pub(crate) said: String,
    name: String,
}

impl End {
    pub(crate) fn code(&self) -> Option<i32> {
        self.status.code
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
        match (self.status.code, &self.status.signal, &self.status.lost) {
            (_, _, Some(why)) => Err(Failure::Connection(format!("the connection {} failed: {why}{said}", self.name))),
            // What ssh says when it cannot connect, or loses the connection.
            (Some(255), ..) => Err(Failure::Connection(format!("the connection {} failed{said}", self.name))),
            // It went on printing when nobody read any more.
            (None, Some(signal), _) if ["13", "PIPE"].contains(&signal.as_str()) => Ok(()),
            (None, Some(signal), _) => {
                Err(Failure::Connection(format!("the connection {} was killed by signal {signal}{said}", self.name)))
            }
            _ => Ok(()),
        }
    }

    /// An error unless it ended well.
    pub(crate) fn success(&self) -> Result<(), Failure> {
        self.is_connected()?;
        match self.status.code {
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
