//! SSH without the `ssh` program: one connection for all commands of a task.
//!
//! libssh2 is driven by one thread for each connection, which moves bytes between
//! channels on one side, feeds and pipes on the other; to the rest of the program a
//! channel looks like a process.

mod connect;

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bdsync_engine::Cancellation;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::pipe::{PipeFlags, pipe_with};
use ssh2::{Channel, ErrorCode, Session};
use tokio::sync::oneshot;

use crate::config::Ssh;
use crate::failure::Failure;
use crate::feed::{Fed, FeedReader, feed};
use crate::transport::{Inlet, Process, Started, Status, Style, Transport, no_pipe};
use connect::{Connecting, directions};

/// How often somebody who waits looks whether to stop.
const TICK: Duration = Duration::from_millis(100);

/// How much a channel may send us before it has to wait, in bytes.
const WINDOW: u32 = 8 << 20;

/// The longest packet that we take, in bytes.
const PACKET: u32 = 32 << 10;

/// How much is moved at once, in bytes.
const BUFFER: usize = 256 << 10;

/// How much a pipe shall hold, in bytes; the system may have a lower limit.
const PIPE: usize = 1 << 20;

/// What libssh2 says when it has to wait.
const AGAIN: ErrorCode = ErrorCode::Session(-37);

/// A machine that is reached with SSH.
pub(crate) struct SshTransport {
    settings: Ssh,
    timeout: Duration,
    cancellation: Cancellation,
    worker: Mutex<Option<Worker>>,
}

/// The thread that has the connection.
struct Worker {
    orders: Sender<Order>,
    wake: Arc<OwnedFd>,
    dead: Arc<AtomicBool>,
}

/// A command to be run.
struct Order {
    command: String,
    stdin: FeedReader,
    stdout: OwnedFd,
    stderr: OwnedFd,
    ended: oneshot::Sender<Status>,
    given_up: Arc<AtomicBool>,
}

impl SshTransport {
    pub(crate) fn new(settings: &Ssh, timeout: Duration, cancellation: &Cancellation) -> Self {
        Self { settings: settings.clone(), timeout, cancellation: cancellation.clone(), worker: Mutex::default() }
    }

    fn worker(&self) -> Result<(Sender<Order>, Arc<OwnedFd>), Failure> {
        let mut worker = self.worker.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(worker) = worker.as_ref().filter(|worker| !worker.dead.load(Ordering::Relaxed)) {
            return Ok((worker.orders.clone(), Arc::clone(&worker.wake)));
        }
        let connecting =
            Connecting { settings: &self.settings, timeout: self.timeout, cancellation: &self.cancellation };
        let (session, socket) = connecting.connect()?;
        let (orders, receiver) = channel();
        let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(|e| no_pipe(e.into()))?);
        let dead = Arc::new(AtomicBool::new(false));
        let pump = Pump {
            session,
            socket,
            orders: receiver,
            wake: Arc::clone(&wake),
            waiting: VecDeque::new(),
            channels: Vec::new(),
            closed: false,
        };
        let died = Arc::clone(&dead);
        std::thread::Builder::new()
            .name("ssh".into())
            .spawn(move || {
                pump.run();
                died.store(true, Ordering::Relaxed);
            })
            .map_err(no_pipe)?;
        *worker = Some(Worker { orders: orders.clone(), wake: Arc::clone(&wake), dead });
        Ok((orders, wake))
    }
}

impl Drop for SshTransport {
    fn drop(&mut self) {
        if let Some(worker) = self.worker.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            let wake = Arc::clone(&worker.wake);
            drop(worker);
            // It sees that nobody can give it orders any more.
            let _ = rustix::io::write(&*wake, &1u64.to_ne_bytes());
        }
    }
}

impl Transport for SshTransport {
    fn start(&self, script: &str, style: Style) -> Result<Started, Failure> {
        let (orders, wake) = self.worker()?;
        let command = match style {
            Style::Shell => script.to_string(),
            Style::Words => format!("sh -c {}", crate::remote::quote(script)),
        };
        let pipe = || {
            let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).map_err(|error| no_pipe(error.into()))?;
            // It works with a small one, too.
            let _ = rustix::pipe::fcntl_setpipe_size(&writer, PIPE);
            Ok::<_, Failure>((reader, writer))
        };
        let (stdin, stdin_end) = feed(&wake);
        let ((stdout, stdout_end), (stderr, stderr_end)) = (pipe()?, pipe()?);
        for end in [&stdout_end, &stderr_end] {
            rustix::io::ioctl_fionbio(end, true).map_err(|error| no_pipe(error.into()))?;
        }
        let (sender, ended) = oneshot::channel();
        let given_up = Arc::new(AtomicBool::new(false));
        let order = Order {
            command,
            stdin: stdin_end,
            stdout: stdout_end,
            stderr: stderr_end,
            ended: sender,
            given_up: Arc::clone(&given_up),
        };
        orders.send(order).map_err(|_| Failure::Connection("the SSH connection ended".into()))?;
        let _ = rustix::io::write(&*wake, &1u64.to_ne_bytes());
        let give_up = Arc::new(move || {
            given_up.store(true, Ordering::Relaxed);
            let _ = rustix::io::write(&*wake, &1u64.to_ne_bytes());
        });
        let stdin = Inlet::Feed(stdin);
        Ok(Started { stdin, stdout, stderr, process: Process::Channel { ended, give_up } })
    }
}

/// Moves bytes between channels, feeds and pipes.
struct Pump {
    session: Session,
    socket: TcpStream,
    orders: Receiver<Order>,
    wake: Arc<OwnedFd>,
    /// Commands whose channel is not open yet; one is opened after the other.
    waiting: VecDeque<(Order, Option<Channel>)>,
    channels: Vec<Running>,
    /// Nobody gives orders any more.
    closed: bool,
}

/// A channel, and what it is connected with.
struct Running {
    channel: Channel,
    stdin: Option<FeedReader>,
    input: Buffered,
    is_eof_sent: bool,
    stdout: Outlet,
    stderr: Outlet,
    ended: Option<oneshot::Sender<Status>>,
    given_up: Arc<AtomicBool>,
    is_closing: bool,
}

#[derive(Default)]
struct Buffered {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Buffered {
    fn is_empty(&self) -> bool {
        self.start == self.end
    }

    fn fill(&mut self, mut from: impl FnMut(&mut [u8]) -> io::Result<usize>) -> io::Result<usize> {
        debug_assert!(self.is_empty());
        self.bytes.resize(BUFFER, 0);
        let count = from(&mut self.bytes)?;
        (self.start, self.end) = (0, count);
        Ok(count)
    }

    fn drain(&mut self, mut to: impl FnMut(&[u8]) -> io::Result<usize>) -> io::Result<usize> {
        let count = to(&self.bytes[self.start..self.end])?;
        self.start += count;
        Ok(count)
    }
}

impl From<Vec<u8>> for Buffered {
    fn from(bytes: Vec<u8>) -> Self {
        Self { start: 0, end: bytes.len(), bytes }
    }
}

/// What goes from a channel into a pipe.
struct Outlet {
    /// `None` once nobody reads it any more; what comes is dropped then.
    pipe: Option<File>,
    buffer: Buffered,
    is_done: bool,
}

impl Outlet {
    fn new(pipe: OwnedFd) -> Self {
        Self { pipe: Some(File::from(pipe)), buffer: Buffered::default(), is_done: false }
    }

    /// Moves what can be moved; says whether anything was.
    fn pass(&mut self, stream: &mut ssh2::Stream, is_eof: bool) -> io::Result<bool> {
        let mut moved = false;
        loop {
            if self.buffer.is_empty() {
                match self.buffer.fill(|bytes| stream.read(bytes)) {
                    Ok(0) => {
                        if is_eof && !self.is_done {
                            self.is_done = true;
                            self.pipe = None;
                        }
                        return Ok(moved);
                    }
                    Ok(_) => moved = true,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(moved),
                    Err(error) => return Err(error),
                }
            }
            let Some(pipe) = &mut self.pipe else {
                self.buffer = Buffered::default();
                continue;
            };
            match self.buffer.drain(|bytes| pipe.write(bytes)) {
                Ok(_) => moved = true,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(moved),
                Err(_) => self.pipe = None,
            }
        }
    }
}

impl Pump {
    fn run(mut self) {
        let end = loop {
            let moved = match self.step() {
                Ok(moved) => moved,
                Err(error) => break error,
            };
            if self.closed && self.channels.is_empty() && self.waiting.is_empty() {
                let _ = self.session.disconnect(None, "done", None);
                return;
            }
            if moved {
                continue;
            }
            if let Err(error) = self.session.keepalive_send()
                && error.code() != AGAIN
            {
                break error.to_string();
            }
            self.wait();
        };
        let lost = Status { code: None, signal: None, lost: Some(end) };
        let running = self.channels.iter_mut().filter_map(|running| running.ended.take());
        let waiting = std::mem::take(&mut self.waiting).into_iter().map(|(order, _)| order.ended);
        for ended in running.chain(waiting) {
            // Nobody may wait for it.
            let _ = ended.send(lost.clone());
        }
    }

    /// Does everything that can be done now; says whether there was anything.
    fn step(&mut self) -> Result<bool, String> {
        let mut moved = false;
        loop {
            match self.orders.try_recv() {
                Ok(order) => self.waiting.push_back((order, None)),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => {
                    self.closed = true;
                    break;
                }
            }
        }
        while self.open()? {
            moved = true;
        }
        let mut index = 0;
        while index < self.channels.len() {
            let running = &mut self.channels[index];
            moved |= running.step().map_err(|error| error.to_string())?;
            match running.ended.is_none() {
                true => drop(self.channels.swap_remove(index)),
                false => index += 1,
            }
        }
        Ok(moved)
    }

    /// Goes on opening the next channel; says whether that is done.
    fn open(&mut self) -> Result<bool, String> {
        let Some((order, opened)) = self.waiting.front_mut() else { return Ok(false) };
        if order.given_up.load(Ordering::Relaxed) {
            // A channel that is half open cannot be taken back.
            return Err("it was given up while a channel was opened".into());
        }
        if opened.is_none() {
            match self.session.channel_open("session", WINDOW, PACKET, None) {
                Ok(channel) => *opened = Some(channel),
                Err(error) if error.code() == AGAIN => return Ok(false),
                Err(error) => return Err(format!("no channel: {error}")),
            }
        }
        let Some(channel) = opened else { return Ok(false) };
        match channel.exec(&order.command) {
            Ok(()) => {}
            Err(error) if error.code() == AGAIN => return Ok(false),
            Err(error) => return Err(format!("the command was refused: {error}")),
        }
        if let Some((order, Some(channel))) = self.waiting.pop_front() {
            self.channels.push(Running {
                channel,
                stdin: Some(order.stdin),
                input: Buffered::default(),
                is_eof_sent: false,
                stdout: Outlet::new(order.stdout),
                stderr: Outlet::new(order.stderr),
                ended: Some(order.ended),
                given_up: order.given_up,
                is_closing: false,
            });
        }
        Ok(true)
    }

    fn wait(&self) {
        let mut fds =
            vec![PollFd::new(&self.socket, directions(&self.session)), PollFd::new(&*self.wake, PollFlags::IN)];
        for running in &self.channels {
            for outlet in [&running.stdout, &running.stderr] {
                if let Some(pipe) = outlet.pipe.as_ref().filter(|_| !outlet.buffer.is_empty()) {
                    fds.push(PollFd::new(pipe, PollFlags::OUT));
                }
            }
        }
        let second = Timespec { tv_sec: 1, tv_nsec: 0 };
        let _ = poll(&mut fds, Some(&second));
        let mut count = [0; 8];
        let _ = rustix::io::read(&*self.wake, &mut count);
    }
}

impl Running {
    fn step(&mut self) -> io::Result<bool> {
        if self.given_up.load(Ordering::Relaxed) {
            let _ = self.channel.close();
            self.finish(Status { code: None, signal: None, lost: Some("it was given up".into()) });
            return Ok(true);
        }
        let mut moved = self.pass_input()?;
        let is_eof = self.channel.eof();
        moved |= self.stdout.pass(&mut self.channel.stream(0), is_eof)?;
        moved |= self.stderr.pass(&mut self.channel.stderr(), is_eof)?;
        let is_drained = |outlet: &Outlet| outlet.is_done || (outlet.pipe.is_none() && outlet.buffer.is_empty());
        if self.channel.eof() && is_drained(&self.stdout) && is_drained(&self.stderr) {
            self.stdin = None;
            if !self.is_closing {
                match self.channel.close() {
                    Ok(()) => self.is_closing = true,
                    Err(error) if error.code() == AGAIN => return Ok(moved),
                    Err(error) => return Err(error.into()),
                }
            }
            match self.channel.wait_close() {
                Ok(()) => {}
                Err(error) if error.code() == AGAIN => return Ok(moved),
                Err(error) => return Err(error.into()),
            }
            let signal = self.channel.exit_signal().ok().and_then(|signal| signal.exit_signal);
            let code = if signal.is_some() { None } else { self.channel.exit_status().ok() };
            self.finish(Status { code, signal, lost: None });
            return Ok(true);
        }
        Ok(moved)
    }

    fn pass_input(&mut self) -> io::Result<bool> {
        let mut moved = false;
        loop {
            if self.input.is_empty() {
                let Some(stdin) = &mut self.stdin else { break };
                match stdin.take(std::mem::take(&mut self.input).bytes) {
                    Fed::Chunk(chunk) => {
                        self.input = chunk.into();
                        moved = true;
                    }
                    Fed::Nothing => return Ok(moved),
                    Fed::End => self.stdin = None,
                }
                continue;
            }
            if self.channel.eof() {
                // The other end has stopped reading.
                self.input = Buffered::default();
                self.stdin = None;
                break;
            }
            match self.input.drain(|bytes| self.channel.write(bytes)) {
                Ok(_) => moved = true,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(moved),
                Err(error) => return Err(error),
            }
        }
        if !self.is_eof_sent && !self.channel.eof() {
            match self.channel.send_eof() {
                Ok(()) => {
                    self.is_eof_sent = true;
                    moved = true;
                }
                Err(error) if error.code() == AGAIN => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(moved)
    }

    fn finish(&mut self, status: Status) {
        if let Some(ended) = self.ended.take() {
            // Nobody may wait for it.
            let _ = ended.send(status);
        }
    }
}
