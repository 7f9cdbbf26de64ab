//! Ways to start a command on another machine.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::sync::Arc;

use bdsync_device::plain;
use tokio::runtime::Handle;

use crate::failure::Failure;
use crate::feed::FeedWriter;

/// How the connection wants what it shall run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// One argument, which a shell reads: ssh, `sh -c`.
    Shell,
    /// The words of a command, which is run as it is: sudo, chroot, nsenter.
    Words,
}

/// A way to run commands on another machine.
pub(crate) trait Transport: Send + Sync {
    /// Starts a script.
    fn start(&self, script: &str, style: Style) -> Result<Started, Failure>;
}

/// What leads to a command's standard input.
pub(crate) enum Inlet {
    Pipe(OwnedFd),
    Feed(FeedWriter),
}

/// A command that was started: its streams, and how it is waited for.
pub(crate) struct Started {
    pub(crate) stdin: Inlet,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
    pub(crate) process: Process,
}

/// What runs for us.
pub(crate) enum Process {
    /// A program of this machine.
    Child {
        child: tokio::process::Child,
        /// Whether it has a process group of its own, which ends as a whole.
        own_group: bool,
    },
    /// A channel of an SSH connection.
    Channel { ended: tokio::sync::oneshot::Receiver<Status>, give_up: Arc<dyn Fn() + Send + Sync> },
}

impl Process {
    pub(crate) async fn wait(&mut self) -> io::Result<Status> {
        match self {
            Self::Child { child, .. } => {
                let status = child.wait().await?;
                Ok(Status { code: status.code(), signal: status.signal().map(|number| number.to_string()), lost: None })
            }
            Self::Channel { ended, .. } => Ok(ended.await.unwrap_or_else(|_| Status {
                code: None,
                signal: None,
                lost: Some("the connection ended".into()),
            })),
        }
    }

    pub(crate) fn kill(&mut self) -> io::Result<()> {
        match self {
            Self::Child { child, own_group } => {
                let group = child.id().and_then(|id| rustix::process::Pid::from_raw(id as i32));
                match group.filter(|_| *own_group) {
                    Some(group) => Ok(rustix::process::kill_process_group(group, rustix::process::Signal::KILL)?),
                    None => child.start_kill(),
                }
            }
            Self::Channel { give_up, .. } => {
                give_up();
                Ok(())
            }
        }
    }
}

/// How something ended.
#[derive(Clone, Debug, Default)]
pub(crate) struct Status {
    pub(crate) code: Option<i32>,
    pub(crate) signal: Option<String>,
    /// Why the connection is gone, if it is.
    pub(crate) lost: Option<String>,
}

/// The connection command of the configuration.
pub(crate) struct CommandTransport {
    pub(crate) words: Vec<String>,
    pub(crate) runtime: Handle,
}

impl Transport for CommandTransport {
    fn start(&self, script: &str, style: Style) -> Result<Started, Failure> {
        let Some((program, words)) = self.words.split_first() else {
            return Err(Failure::new("the connection command is empty"));
        };
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
            Failure::Unreachable(format!("cannot start the connection command {program}: {}", plain(&error)))
        })?;
        let streams = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(stdin), Some(stdout), Some(stderr)) = streams else {
            return Err(Failure::new("the connection command has no streams"));
        };
        Ok(Started {
            stdin: Inlet::Pipe(stdin.into_owned_fd().map_err(no_pipe)?),
            stdout: stdout.into_owned_fd().map_err(no_pipe)?,
            stderr: stderr.into_owned_fd().map_err(no_pipe)?,
            process: Process::Child { child, own_group },
        })
    }
}

pub(crate) fn no_pipe(error: io::Error) -> Failure {
    Failure::new(format!("cannot use a pipe: {error}"))
}
