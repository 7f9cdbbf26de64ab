//! The agent as a process: how it is started, asked, and how it ends.

use std::io::{Read, Write};
use std::time::Duration;

use bdsync_engine::tree::{Link, LinkOptions};
use bdsync_engine::{Cancellation, Error};
use bdsync_proto::agent::{AGENT_VERSION, CAPABILITY, ZSTD};
use bdsync_proto::{Hello, MessageType, limits};
use bdsync_target::ops::{About, Answer, ProgressReport, Request};
use serde::de::DeserializeOwned;

use crate::config::{AgentMode, Task};
use crate::deploy;
use crate::failure::Failure;
use crate::remote::{Connection, Session};
use crate::run::Job;

use super::AgentSession;

/// How many bytes may wait here; the agent never has a reason to send so much.
const QUEUE: usize = 64 << 20;

/// How long a cancelled task waits for the agent to clean up.
pub(super) const LAST_WORDS: Duration = Duration::from_millis(1200);

impl<'a> AgentSession<'a> {
    /// Starts the agent.
    pub(crate) fn start(
        task: &'a Task,
        job: &'a Job<'a>,
        connection: Connection,
    ) -> Result<Self, (Failure, Box<Connection>)> {
        let mut kill = Cancellation::new();
        let mut opened = Self::open(&connection, job, &kill);
        // Where the agent can be put there, looking for it finds that out.
        let is_installed = connection.remote().agent == AgentMode::Installed;
        if is_installed && matches!(opened, Err(Failure::Permanent(_))) && connection.wants_words() {
            kill.cancel();
            kill = Cancellation::new();
            let first = opened;
            // If it is no better, the first try says more.
            opened = Self::open(&connection, job, &kill).or(first);
        }
        match opened {
            Ok((link, session)) => {
                let about = About::default();
                let session = Some(session);
                let mut agent = Self { task, job, link, session, connection, kill, about, is_comparing: false };
                match agent.call(&Request::About) {
                    Ok(about) => agent.about = about,
                    Err(failure) => return Err((failure, Box::new(agent.give_back()))),
                }
                let About { version, host, machine, time, .. } = &agent.about;
                tracing::debug!(task = task.name, "Agent {version} on {host} ({machine}), where it is {time}");
                Ok(agent)
            }
            Err(failure) => {
                kill.cancel();
                Err((failure, Box::new(connection)))
            }
        }
    }

    /// The connection, to be used in another way.
    fn give_back(mut self) -> Connection {
        self.kill.cancel();
        self.session = None;
        let replacement = Connection::new(self.connection.remote(), &self.task.name, &self.job.control.cancellation);
        std::mem::replace(&mut self.connection, replacement)
    }

    fn open(connection: &Connection, job: &Job<'_>, kill: &Cancellation) -> Result<(Link, Session), Failure> {
        // A cancelled task has a moment left for the agent to clean up.
        let (cancellation, end) = (job.control.cancellation.clone(), kill.clone());
        connection.runtime().spawn(async move {
            while !end.is_cancelled() {
                tokio::time::sleep(Duration::from_millis(100)).await;
                if cancellation.is_cancelled() {
                    tokio::time::sleep(LAST_WORDS).await;
                    end.cancel();
                }
            }
        });
        let mut session = deploy::start(connection, connection.remote(), kill)?;
        let (Some(mut output), Some(mut input)) = (session.stdin.take(), session.stdout.take()) else {
            return Err(Failure::new("the agent has no streams"));
        };
        let greeted = greet(&mut output, &mut input);
        match greeted {
            Ok(zstd) => {
                let link = Link::new(input, output, LinkOptions::Refuse(QUEUE), zstd)?;
                Ok((link, session))
            }
            Err(text) => {
                drop((output, input));
                let end = session.wait()?;
                end.is_connected()?;
                let said = if end.said.is_empty() { text } else { format!("{text} ({})", end.said) };
                Err(Failure::new(match end.code() {
                    Some(126 | 127) => format!("it cannot be run: {said}"),
                    _ => said,
                }))
            }
        }
    }

    /// What is used at the far end.
    pub(crate) fn name(&self) -> String {
        format!("bdsync-agent {} on {}", self.about.version, self.about.host)
    }

    pub(super) fn call<T: DeserializeOwned>(&mut self, request: &Request) -> Result<T, Failure> {
        let text = serde_json::to_vec(request).map_err(|error| Failure::new(format!("no request: {error}")))?;
        let reporter = self.job.reporter;
        let answer = self.link.call(&text, &mut |payload| show(payload, reporter), self.job.context());
        self.take(answer)
    }

    pub(super) fn take<T: DeserializeOwned>(&mut self, answer: Result<Vec<u8>, Error>) -> Result<T, Failure> {
        let answer = answer.and_then(|payload| Answer::parse(&payload)).map_err(|error| self.blame(error))?;
        match answer {
            Answer::Ok(value) => serde_json::from_value(value)
                .map_err(|error| Failure::new(format!("the agent's answer is not understood: {error}"))),
            Answer::Error(text) => Err(Failure::new(text)),
            Answer::Locked(text) => Err(Failure::TargetLocked(text)),
        }
    }

    /// What really went wrong.
    pub(super) fn blame(&mut self, error: Error) -> Failure {
        if self.job.control.cancellation.is_cancelled() {
            return Failure::Cancelled;
        }
        match error {
            Error::Remote(payload) => match Answer::parse(&payload) {
                Ok(Answer::Error(text)) => Failure::new(text),
                Ok(Answer::Locked(text)) => Failure::TargetLocked(text),
                _ => Failure::new("the agent's answer is not understood"),
            },
            Error::ReadPeer(_) | Error::WritePeer(_) => self.connection_failure(&error),
            Error::Protocol(bdsync_proto::ProtocolError::UnexpectedEnd { .. }) => self.connection_failure(&error),
            other => other.into(),
        }
    }

    /// A connection that broke: how the agent ended says more than the streams do.
    fn connection_failure(&mut self, error: &Error) -> Failure {
        let Some(session) = self.session.take() else { return Failure::Connection(error.to_string()) };
        // It ends by itself now; if not, not for long.
        let (kill, ended) = (self.kill.clone(), Cancellation::new());
        let (timer_kill, timer_ended) = (kill.clone(), ended.clone());
        self.connection.runtime().spawn(async move {
            tokio::time::sleep(Duration::from_secs(2)).await;
            if !timer_ended.is_cancelled() {
                timer_kill.cancel();
            }
        });
        let end = session.wait();
        ended.cancel();
        let told: Result<(), Failure> = end.and_then(|end| {
            end.is_connected()?;
            let said = if end.said.is_empty() { error.to_string() } else { end.said.clone() };
            let code = end.code().map_or_else(String::new, |code| format!(" with exit status {code}"));
            Err(Failure::Connection(format!("the agent at {} ended{code}: {said}", self.connection.name())))
        });
        match told {
            Err(failure @ Failure::Connection(_)) => failure,
            // It was ended by us, because it did not end by itself.
            _ => Failure::Connection(format!("the connection {} broke: {error}", self.connection.name())),
        }
    }
}

impl Drop for AgentSession<'_> {
    fn drop(&mut self) {
        self.abandon();
        // Its standard input ends only with the link, which is dropped later.
        self.kill.cancel();
    }
}

/// Says hello and hears it; says whether pieces may be compressed.
fn greet(output: &mut impl Write, input: &mut impl Read) -> Result<bool, String> {
    let hello = Hello::with_capabilities("CLIENT", &[&format!("{CAPABILITY}={AGENT_VERSION}"), ZSTD]).to_payload();
    let mut message = (hello.len() as u32 + 1).to_le_bytes().to_vec();
    message.push(MessageType::Hello as u8);
    message.extend_from_slice(&hello);
    let failed = |_| "it does not answer".to_string();
    output.write_all(&message).map_err(failed)?;
    let mut head = [0; 5];
    input.read_exact(&mut head).map_err(failed)?;
    let length = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
    if head[4] != MessageType::Hello as u8 || !(1..=limits::MAX_HELLO + 1).contains(&length) {
        let shown = String::from_utf8_lossy(&head).escape_debug().to_string();
        return Err(format!("it answers {shown:?} in place of a hello (does a login script print something?)"));
    }
    let mut payload = vec![0; length - 1];
    input.read_exact(&mut payload).map_err(failed)?;
    let hello = Hello::parse(&payload).map_err(|error| error.to_string())?;
    let capabilities = hello.capabilities("SERVER");
    match capabilities.iter().any(|(name, _)| *name == CAPABILITY) {
        true => Ok(capabilities.iter().any(|(name, _)| *name == ZSTD)),
        false => Err("it is a bdsync without the agent's extension".into()),
    }
}

pub(super) fn show(payload: &[u8], reporter: &crate::report::TaskReporter) {
    if let Ok(ProgressReport { done, total: 1.. }) = serde_json::from_slice(payload) {
        reporter.progress(done, 0);
    }
}
