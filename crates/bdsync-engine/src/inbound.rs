//! One queue for everything that a session's thread waits for.

use std::io::{self, Read};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::events::{Context, Event};

/// How much is read from the peer at once, in bytes.
const CHUNK: usize = 1 << 16;

/// How many things may wait. Chunks from the peer fill it at most to some MiB;
/// results of scans are fewer than this, so that no worker waits here for long.
const DEPTH: usize = 48;

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
    /// Everything before this position is in the checksum.
    Summed(Result<u64>),
}

/// The queue's end that the session's thread has.
pub(crate) struct Queue {
    receiver: Receiver<Inbound>,
    sender: SyncSender<Inbound>,
}

impl Queue {
    /// A queue without a peer.
    pub(crate) fn new() -> Self {
        let (sender, receiver) = sync_channel(DEPTH);
        Self { receiver, sender }
    }

    /// Reads the peer's stream into the queue, in a thread of its own. The thread
    /// ends with the stream, or with the queue at the next bytes.
    ///
    /// `is_ready` tells whether the stream has more to give at once (its end, too):
    /// then that is handed over together with what came before.
    pub(crate) fn read_peer<R>(&self, peer: R, is_ready: fn(&R) -> bool) -> Result<()>
    where
        R: Read + Send + 'static,
    {
        let sender = self.sender.clone();
        let thread = std::thread::Builder::new().name("peer".into());
        thread
            .spawn(move || read_all(peer, is_ready, &sender))
            .map(drop)
            .map_err(|error| Error::Resources(format!("cannot start a thread: {error}")))
    }

    /// An end for those who put something in.
    pub(crate) fn sender(&self) -> SyncSender<Inbound> {
        self.sender.clone()
    }

    /// The next thing; waits for it without using the processor.
    pub(crate) fn next(&self, context: Context<'_>) -> Result<Inbound> {
        loop {
            context.cancellation.check()?;
            match self.receiver.recv_timeout(TICK) {
                Ok(inbound) => return Ok(inbound),
                Err(RecvTimeoutError::Timeout) => context.observer.event(&Event::Waiting),
                Err(RecvTimeoutError::Disconnected) => unreachable!("the queue itself has a sender"),
            }
        }
    }
}

fn read_all<R: Read>(mut peer: R, is_ready: fn(&R) -> bool, sender: &SyncSender<Inbound>) {
    let mut chunk = vec![0; CHUNK];
    loop {
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
