//! Both directions of a connection that carries the agent's messages.

use std::io::{self, BufWriter, Read, Write};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use bdsync_proto::ProtocolError;
use bdsync_proto::agent::{AgentMessage, message_length};

use super::spans::Batch;
use crate::error::{Error, Result};
use crate::events::{Context, Event};

/// How long a cancellation can go unnoticed.
const TICK: Duration = Duration::from_millis(100);

/// How much is written at once, in bytes.
const BUFFER: usize = 1 << 16;

/// How much is read at once, in bytes: small messages come in numbers, and what is longer
/// than this is read to where it belongs.
const READ: usize = 1 << 13;

/// From what length on, in bytes, the memory of a message is worth being used again.
const WORTH_KEEPING: usize = 1 << 14;

/// How many such pieces of memory are kept, at most.
const KEPT: usize = 64;

/// What happens when more comes in than is used up.
#[derive(Clone, Copy, Debug)]
pub enum LinkOptions {
    /// The peer has to wait behind this many bytes.
    Wait(usize),
    /// It is a mistake of the peer, which must not send more than was asked for.
    Refuse(usize),
}

/// Something to react to.
#[derive(Debug)]
pub enum LinkEvent {
    /// A message.
    Message(AgentMessage, Vec<u8>),
    /// The peer's stream ended between two messages.
    End,
    /// Some of the own device was scanned.
    Scanned(Scanned),
    /// Nothing happened for a moment.
    Tick,
}

/// Spans that were scanned.
#[derive(Debug)]
pub struct Scanned {
    pub(crate) number: u64,
    pub(crate) batch: Result<Batch>,
}

#[derive(Debug)]
pub(crate) enum Inbound {
    Message(AgentMessage, Vec<u8>),
    End,
    Failed(Error),
    Scanned(Scanned),
}

/// What is written; clones write to the same stream.
#[derive(Clone)]
pub struct Output(Arc<Mutex<BufWriter<Box<dyn Write + Send>>>>);

impl Output {
    /// Writes a message, or puts it by for the next [`flush`](Self::flush).
    ///
    /// # Errors
    ///
    /// The connection.
    pub fn send(&self, message: AgentMessage, parts: &[&[u8]]) -> Result<()> {
        let length = 1 + parts.iter().map(|part| part.len()).sum::<usize>();
        let mut output = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut write = || {
            output.write_all(&(length as u32).to_le_bytes())?;
            output.write_all(&[message as u8])?;
            parts.iter().try_for_each(|part| output.write_all(part))
        };
        write().map_err(Error::WritePeer)
    }

    /// Sends everything off.
    ///
    /// # Errors
    ///
    /// The connection.
    pub fn flush(&self) -> Result<()> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).flush().map_err(Error::WritePeer)
    }
}

/// Bytes that came in and were not used up.
#[derive(Default)]
struct Queued {
    bytes: Mutex<usize>,
    fewer: Condvar,
    /// Somebody who waits goes on when there are no more than this: not for every message.
    few: usize,
    /// Memory of messages that were used up.
    free: Mutex<Vec<Vec<u8>>>,
}

impl Queued {
    fn new(options: LinkOptions) -> Self {
        let (LinkOptions::Wait(most) | LinkOptions::Refuse(most)) = options;
        Self { few: most / 2, ..Self::default() }
    }

    fn memory(&self, length: usize) -> Vec<u8> {
        let free = match length {
            0..WORTH_KEEPING => None,
            _ => self.free.lock().unwrap_or_else(PoisonError::into_inner).pop(),
        };
        let mut memory = free.unwrap_or_default();
        memory.resize(length, 0);
        memory
    }

    fn used_up(&self, length: usize) {
        let mut bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        let before = *bytes;
        *bytes -= length;
        if before > self.few && *bytes <= self.few {
            self.fewer.notify_all();
        }
    }
}

/// A connection.
pub struct Link {
    output: Output,
    receiver: Receiver<Inbound>,
    sender: Sender<Inbound>,
    queued: Arc<Queued>,
    zstd: bool,
}

impl Link {
    /// A connection whose ends have said hello. A thread reads `input` until it ends.
    ///
    /// # Errors
    ///
    /// There is no thread to be had.
    pub fn new(
        input: impl Read + Send + 'static,
        output: impl Write + Send + 'static,
        options: LinkOptions,
        zstd: bool,
    ) -> Result<Self> {
        let (sender, receiver) = channel();
        let queued = Arc::new(Queued::new(options));
        let (to, count) = (sender.clone(), Arc::clone(&queued));
        std::thread::Builder::new()
            .name("link".into())
            .spawn(move || {
                let last = match read(input, &to, &count, options) {
                    Ok(()) => Inbound::End,
                    Err(error) => Inbound::Failed(error),
                };
                // Nobody may be left to hear of it.
                let _ = to.send(last);
            })
            .map_err(|error| Error::Resources(format!("cannot start a thread: {error}")))?;
        let output = Output(Arc::new(Mutex::new(BufWriter::with_capacity(BUFFER, Box::new(output)))));
        Ok(Self { output, receiver, sender, queued, zstd })
    }

    /// What messages are written to.
    pub fn output(&self) -> &Output {
        &self.output
    }

    /// Whether pieces may be compressed.
    pub fn zstd(&self) -> bool {
        self.zstd
    }

    pub(crate) fn sender(&self) -> Sender<Inbound> {
        self.sender.clone()
    }

    fn unpack(&self, inbound: Inbound) -> Result<LinkEvent> {
        match inbound {
            Inbound::Message(message, payload) => {
                self.queued.used_up(payload.len());
                Ok(LinkEvent::Message(message, payload))
            }
            Inbound::End => Ok(LinkEvent::End),
            Inbound::Failed(error) => Err(error),
            Inbound::Scanned(scanned) => Ok(LinkEvent::Scanned(scanned)),
        }
    }

    /// Takes back the memory of a message that was dealt with, for one that is to come.
    pub fn recycle(&self, payload: Vec<u8>) {
        if payload.capacity() >= WORTH_KEEPING {
            let mut free = self.queued.free.lock().unwrap_or_else(PoisonError::into_inner);
            if free.len() < KEPT {
                free.push(payload);
            }
        }
    }

    /// What is there already, if anything is.
    ///
    /// # Errors
    ///
    /// The connection, or a message that is none.
    pub fn poll(&mut self) -> Result<Option<LinkEvent>> {
        match self.receiver.try_recv() {
            Ok(inbound) => self.unpack(inbound).map(Some),
            Err(TryRecvError::Empty) => Ok(None),
            // Its own sender lives as long as it does.
            Err(TryRecvError::Disconnected) => Ok(Some(LinkEvent::End)),
        }
    }

    /// Sends off what was written, and waits for the next event.
    ///
    /// # Errors
    ///
    /// The connection, a message that is none, or it was told to stop.
    pub fn wait(&mut self, context: Context<'_>) -> Result<LinkEvent> {
        if let Some(event) = self.poll()? {
            return Ok(event);
        }
        self.output.flush()?;
        context.cancellation.check()?;
        match self.receiver.recv_timeout(TICK) {
            Ok(inbound) => self.unpack(inbound),
            Err(RecvTimeoutError::Timeout) => {
                context.observer.event(&Event::Waiting);
                Ok(LinkEvent::Tick)
            }
            Err(RecvTimeoutError::Disconnected) => Ok(LinkEvent::End),
        }
    }

    /// Sends a request and waits for its answer; `progress` gets what comes before.
    ///
    /// # Errors
    ///
    /// The connection, or another message than these.
    pub fn call(&mut self, request: &[u8], progress: &mut dyn FnMut(&[u8]), context: Context<'_>) -> Result<Vec<u8>> {
        self.output.send(AgentMessage::Request, &[request])?;
        self.answer(progress, context)
    }

    /// Waits for an answer.
    ///
    /// # Errors
    ///
    /// As for [`call`](Self::call).
    pub fn answer(&mut self, progress: &mut dyn FnMut(&[u8]), context: Context<'_>) -> Result<Vec<u8>> {
        loop {
            match self.wait(context)? {
                LinkEvent::Message(AgentMessage::Answer, payload) => return Ok(payload),
                LinkEvent::Message(AgentMessage::Progress, payload) => progress(&payload),
                // What was asked for before a comparison was given up.
                LinkEvent::Message(AgentMessage::Digests | AgentMessage::Leaves | AgentMessage::Data, _)
                | LinkEvent::Scanned(_)
                | LinkEvent::Tick => {}
                LinkEvent::Message(message, _) => {
                    return Err(bdsync_proto::agent::bad(message, "an answer was expected").into());
                }
                LinkEvent::End => return Err(ended("an answer")),
            }
        }
    }
}

/// The connection ended too early.
pub(crate) fn ended(expected: &str) -> Error {
    ProtocolError::UnexpectedEnd { expected: expected.into() }.into()
}

fn read(mut input: impl Read, to: &Sender<Inbound>, queued: &Queued, options: LinkOptions) -> Result<()> {
    let mut input = io::BufReader::with_capacity(READ, &mut input);
    loop {
        let mut head = [0; 4];
        let mut filled = 0;
        while filled < head.len() {
            match input.read(&mut head[filled..]) {
                Ok(0) if filled == 0 => return Ok(()),
                Ok(0) => return Err(ended("the rest of a message")),
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::ReadPeer(error)),
            }
        }
        let length = message_length(head)?;
        let mut kind = [0];
        let mut payload = queued.memory(length - 1);
        input.read_exact(&mut kind).and_then(|()| input.read_exact(&mut payload)).map_err(|error| {
            match error.kind() {
                io::ErrorKind::UnexpectedEof => ended("the rest of a message"),
                _ => Error::ReadPeer(error),
            }
        })?;
        let message = AgentMessage::try_from(kind[0])?;
        let mut bytes = queued.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        match options {
            LinkOptions::Wait(most) if *bytes > most => {
                let many = |bytes: &mut usize| *bytes > queued.few;
                bytes = queued.fewer.wait_while(bytes, many).unwrap_or_else(PoisonError::into_inner);
            }
            LinkOptions::Refuse(most) if *bytes > most => {
                return Err(bdsync_proto::agent::bad(message, "there is far more than was asked for").into());
            }
            LinkOptions::Wait(_) | LinkOptions::Refuse(_) => {}
        }
        *bytes += payload.len();
        drop(bytes);
        if to.send(Inbound::Message(message, payload)).is_err() {
            return Ok(());
        }
    }
}
