//! One queue for everything that a session's thread waits for.

use std::cell::Cell;
use std::io::{self, Read};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::events::{Context, Event};

/// How much is read from the peer at once, in bytes.
const CHUNK: usize = 1 << 16;

/// How many chunks from the peer may wait here and in the session.
const CHUNKS: usize = 8;

/// How long a cancellation can go unnoticed, and how often a wait is reported.
const TICK: Duration = Duration::from_millis(100);

/// Something to react to.
#[derive(Debug)]
pub(crate) enum Inbound {
    /// Bytes from the peer, and whether its stream is known to end after them.
    Bytes { bytes: Vec<u8>, last: bool },
    /// The peer's stream ended.
    End,
    /// The peer's stream failed.
    Failed(io::Error),
    /// The digests of a range that was scanned, by its number.
    Scanned(u64, Result<Vec<u8>>),
    /// A running checksum has come further, or cannot.
    Summed(Result<()>),
}

/// The queue's end that the session's thread has.
///
/// Whoever puts in a result never waits: there are no more results than requests.
/// The peer is read only as fast as what it sent is used up: see [`used_up`](Self::used_up).
pub(crate) struct Queue {
    receiver: Receiver<Inbound>,
    sender: Sender<Inbound>,
    permits: Option<Sender<()>>,
    /// Chunks that were taken out and are not used up yet.
    taken: Cell<usize>,
}

impl Queue {
    /// A queue without a peer.
    pub(crate) fn new() -> Self {
        let (sender, receiver) = channel();
        Self { receiver, sender, permits: None, taken: Cell::new(0) }
    }

    /// Reads the peer's stream into the queue, in a thread of its own. The thread
    /// ends with the stream, or with the queue at the next bytes.
    ///
    /// `is_ready` tells whether the stream has more to give at once (its end, too):
    /// then that is handed over together with what came before.
    pub(crate) fn read_peer<R>(&mut self, peer: R, is_ready: fn(&R) -> bool) -> Result<()>
    where
        R: Read + Send + 'static,
    {
        let sender = self.sender.clone();
        let (permits, permitted) = channel();
        for _ in 0..CHUNKS {
            // The receiver is right here.
            let _ = permits.send(());
        }
        self.permits = Some(permits);
        let thread = std::thread::Builder::new().name("peer".into());
        thread
            .spawn(move || read_all(peer, is_ready, &permitted, &sender))
            .map(drop)
            .map_err(|error| Error::Resources(format!("cannot start a thread: {error}")))
    }

    /// An end for those who put something in.
    pub(crate) fn sender(&self) -> Sender<Inbound> {
        self.sender.clone()
    }

    /// Says that no whole message of what was taken out is left: the peer is read on.
    pub(crate) fn used_up(&self) {
        for _ in 0..self.taken.take() {
            if let Some(permits) = &self.permits {
                // A reader that has ended needs no permit.
                let _ = permits.send(());
            }
        }
    }

    /// The next thing; waits for it without using the processor.
    pub(crate) fn next(&self, context: Context<'_>) -> Result<Inbound> {
        loop {
            context.cancellation.check()?;
            match self.receiver.recv_timeout(TICK) {
                Ok(inbound) => {
                    if matches!(inbound, Inbound::Bytes { .. }) {
                        self.taken.set(self.taken.get() + 1);
                    }
                    return Ok(inbound);
                }
                Err(RecvTimeoutError::Timeout) => context.observer.event(&Event::Waiting),
                Err(RecvTimeoutError::Disconnected) => unreachable!("the queue itself has a sender"),
            }
        }
    }
}

fn read_all<R: Read>(mut peer: R, is_ready: fn(&R) -> bool, permitted: &Receiver<()>, sender: &Sender<Inbound>) {
    let mut chunk = vec![0; CHUNK];
    while permitted.recv().is_ok() {
        let mut filled = 0;
        let end = loop {
            match peer.read(&mut chunk[filled..]) {
                Ok(0) => break Some(Inbound::End),
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break Some(Inbound::Failed(error)),
            }
            if filled == chunk.len() || !is_ready(&peer) {
                break None;
            }
        };
        let bytes = chunk[..filled].to_vec();
        let ended = matches!(end, Some(Inbound::End));
        if filled > 0 && sender.send(Inbound::Bytes { bytes, last: ended }).is_err() {
            return;
        }
        if let Some(end) = end {
            // A session that is over needs no end.
            let _ = sender.send(end);
            return;
        }
    }
}
