//! The digest over everything that was compared, computed in order beside the scan.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Sender, SyncSender, channel};

use bdsync_hash::{Algorithm, Checksum};

use crate::error::{Error, Result};
use crate::inbound::Inbound;
use crate::scan::Scanner;

/// What is taken in at once, in bytes.
const PIECE: u64 = 1 << 18;

enum Order {
    /// Take in everything before this position, and say so.
    Extend(u64),
    /// Hand over the digest.
    Finish(SyncSender<Vec<u8>>),
}

/// A digest that runs over a device from its beginning, in a thread of its own.
///
/// What lies past the device's end counts as zeros; no byte counts twice.
pub(crate) struct RunningChecksum {
    orders: Sender<Order>,
    /// How far it was told to go.
    ordered: u64,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// Everything before this position is in the digest.
    position: AtomicU64,
    /// Nobody needs it any more.
    stop: AtomicBool,
}

impl Drop for RunningChecksum {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

impl RunningChecksum {
    /// Starts at position 0; each [`extend`](Self::extend) is answered in `inbound`.
    pub(crate) fn start(algorithm: Algorithm, scanner: Arc<Scanner>, inbound: Sender<Inbound>) -> Result<Self> {
        let (orders, receiver) = channel();
        let shared = Arc::new(Shared::default());
        let for_thread = Arc::clone(&shared);
        let run = move || {
            let mut running = Running { checksum: Checksum::new(algorithm), scanner, shared: for_thread };
            let mut buffer = vec![0; PIECE as usize];
            for order in receiver {
                match order {
                    Order::Extend(end) => {
                        let result = running.extend(end, &mut buffer);
                        let failed = result.is_err();
                        if inbound.send(Inbound::Summed(result)).is_err() || failed {
                            return;
                        }
                    }
                    Order::Finish(reply) => {
                        // Whoever asked may be gone; then nobody needs it.
                        let _ = reply.send(running.checksum.finish());
                        return;
                    }
                }
            }
        };
        let thread = std::thread::Builder::new().name("checksum".into()).spawn(run);
        thread.map_err(|error| Error::Resources(format!("cannot start a thread: {error}")))?;
        Ok(Self { orders, ordered: 0, shared })
    }

    /// Everything before this position is in the digest.
    pub(crate) fn position(&self) -> u64 {
        self.shared.position.load(Ordering::Acquire)
    }

    /// How far it was told to go.
    pub(crate) fn ordered(&self) -> u64 {
        self.ordered
    }

    /// Whether it has come as far as it was told to.
    pub(crate) fn is_done(&self) -> bool {
        self.position() >= self.ordered
    }

    /// Takes in everything before `end` that was not taken in yet.
    pub(crate) fn extend(&mut self, end: u64) {
        if end > self.ordered {
            self.ordered = end;
            // A thread that is gone has said why in the queue.
            let _ = self.orders.send(Order::Extend(end));
        }
    }

    /// The digest over everything, once it [is done](Self::is_done).
    pub(crate) fn finish(self) -> Result<Vec<u8>> {
        let (reply, digest) = std::sync::mpsc::sync_channel(1);
        let gone = || Error::Resources("the checksum's thread ended early".into());
        self.orders.send(Order::Finish(reply)).map_err(|_| gone())?;
        digest.recv().map_err(|_| gone())
    }
}

/// What the thread has.
struct Running {
    checksum: Checksum,
    scanner: Arc<Scanner>,
    shared: Arc<Shared>,
}

impl Running {
    fn extend(&mut self, end: u64, buffer: &mut [u8]) -> Result<()> {
        let size = self.scanner.size();
        let mut position = self.shared.position.load(Ordering::Relaxed);
        while position < end {
            if self.shared.stop.load(Ordering::Relaxed) || self.scanner.is_stopped() {
                return Err(Error::Cancelled);
            }
            let length = if position < size {
                let length = (end.min(size) - position).min(PIECE);
                let piece = &mut buffer[..length as usize];
                self.scanner.read_into(position, piece)?;
                self.checksum.update(piece);
                length
            } else {
                let length = (end - position).min(PIECE);
                self.checksum.update_zeros(length);
                length
            };
            position += length;
            self.shared.position.store(position, Ordering::Release);
        }
        Ok(())
    }
}
