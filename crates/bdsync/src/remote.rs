//! The remote command: started directly, with its standard streams as pipes.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use bdsync_device::plain;

use crate::failure::Failure;
use crate::shell_words;

/// The longest line of the remote's standard error that is kept together, in bytes.
const LINE: u64 = 4096;

/// How long a command that has closed its streams may take to end.
const GRACE: Duration = Duration::from_millis(500);

/// A running remote command.
pub(crate) struct Remote {
    child: Child,
    name: String,
    /// Closed when everything on the remote's standard error was printed.
    errors_done: Receiver<()>,
}

impl Remote {
    /// Starts a command; gives it and the streams to talk to it.
    pub(crate) fn start(command: &OsStr) -> Result<(Self, ChildStdin, ChildStdout), Failure> {
        let shown = command.to_string_lossy();
        let words = shell_words::split(command)
            .map_err(|quote| Failure::Usage(format!("Missing trailing {quote} in remote-shell command: {shown}")))?;
        let Some((program, arguments)) = words.split_first() else {
            return Err(Failure::Usage("Empty remote-shell command".into()));
        };
        let name = program.to_string_lossy().into_owned();
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| Failure::Process(format!("cannot start the remote command {name}: {}", plain(&error))))?;
        let (Some(input), Some(output), Some(errors)) = (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            unreachable!("all three streams are pipes");
        };
        let (done, errors_done) = channel();
        let thread = std::thread::Builder::new().name("errors".into());
        let started = thread.spawn(move || {
            print_errors(errors);
            drop(done);
        });
        if let Err(error) = started {
            let _ = child.kill();
            return Err(Failure::Process(format!("cannot start a thread: {error}")));
        }
        Ok((Self { child, name, errors_done }, input, output))
    }

    /// Waits for the end of a command whose session went well; gives its exit status.
    pub(crate) fn finish(mut self) -> Result<u8, Failure> {
        let status = self.child.wait().map_err(|error| Failure::Process(format!("cannot wait: {error}")))?;
        self.wait_for_errors();
        match status.code() {
            Some(code) => Ok(code as u8),
            None => Err(Failure::Process(format!("the remote command {} {}", self.name, describe(status)))),
        }
    }

    /// Ends a command whose session failed; says how it ended if it did so by itself.
    pub(crate) fn abandon(mut self) -> Option<String> {
        let ended = wait_until(&mut self.child, GRACE);
        match ended {
            Some(_) => self.wait_for_errors(),
            None => {
                let _ = self.child.kill();
                let _ = self.child.wait();
            }
        }
        ended.filter(|status| !status.success()).map(|status| format!("{} {}", self.name, describe(status)))
    }

    /// What the command said last belongs in front of what we say. Another process
    /// can keep its standard error open; that is not waited for.
    fn wait_for_errors(&self) {
        let done = self.errors_done.recv_timeout(Duration::from_secs(1));
        debug_assert!(matches!(done, Err(RecvTimeoutError::Disconnected | RecvTimeoutError::Timeout)));
    }
}

fn wait_until(child: &mut Child, grace: Duration) -> Option<ExitStatus> {
    let deadline = Instant::now() + grace;
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status),
            Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(10)),
            _ => return None,
        }
    }
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with exit status {code}"),
        (_, Some(signal)) => format!("was killed by signal {signal}"),
        _ => format!("ended: {status}"),
    }
}

/// Prints the remote's standard error line by line, without what could upset a terminal.
fn print_errors(errors: ChildStderr) {
    let mut errors = BufReader::new(errors);
    let mut line = Vec::new();
    loop {
        line.clear();
        match errors.by_ref().take(LINE).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let printable = line.iter().copied().filter(|byte| matches!(byte, 0x20..=0x7e));
        let text: Vec<u8> = b"RMTERR: ".iter().copied().chain(printable).chain(*b"\n").collect();
        // A message that nobody can see is no reason to stop.
        let _ = std::io::stderr().write_all(&text);
    }
}
