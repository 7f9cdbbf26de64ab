//! The digest over everything that was compared, computed in order beside the scan.

use std::sync::Arc;
use std::sync::mpsc::{Sender, SyncSender, channel};

use bdsync_hash::{Algorithm, Checksum};

use crate::error::{Error, Result};
use crate::inbound::Inbound;
use crate::scan::Scanner;

/// What is read at once, in bytes.
const PIECE: usize = 1 << 18;

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
}

impl RunningChecksum {
    /// Starts at position 0; each [`extend`](Self::extend) is answered in `inbound`.
    pub(crate) fn start(algorithm: Algorithm, scanner: Arc<Scanner>, inbound: SyncSender<Inbound>) -> Result<Self> {
        let (orders, receiver) = channel();
        let run = move || {
            let mut checksum = Checksum::new(algorithm);
            let mut position = 0;
            let mut buffer = vec![0; PIECE];
            for order in receiver {
                match order {
                    Order::Extend(end) => {
                        let result = extend(&mut checksum, &scanner, &mut position, end, &mut buffer);
                        let failed = result.is_err();
                        if inbound.send(Inbound::Summed(result.map(|()| position))).is_err() || failed {
                            return;
                        }
                    }
                    Order::Finish(reply) => {
                        // Whoever asked may be gone; then nobody needs it.
                        let _ = reply.send(checksum.finish());
                        return;
                    }
                }
            }
        };
        let thread = std::thread::Builder::new().name("checksum".into()).spawn(run);
        thread.map_err(|error| Error::Resources(format!("cannot start a thread: {error}")))?;
        Ok(Self { orders })
    }

    /// Takes in everything before `end` that was not taken in yet.
    pub(crate) fn extend(&self, end: u64) {
        // A thread that is gone has said why in the queue.
        let _ = self.orders.send(Order::Extend(end));
    }

    /// The digest over everything so far; waits for it.
    pub(crate) fn finish(self) -> Result<Vec<u8>> {
        let (reply, digest) = std::sync::mpsc::sync_channel(1);
        let gone = || Error::Resources("the checksum's thread ended early".into());
        self.orders.send(Order::Finish(reply)).map_err(|_| gone())?;
        digest.recv().map_err(|_| gone())
    }
}

fn extend(checksum: &mut Checksum, scanner: &Scanner, position: &mut u64, end: u64, buffer: &mut [u8]) -> Result<()> {
    let stored_end = end.min(scanner.size());
    while *position < stored_end {
        let piece_length = (stored_end - *position).min(buffer.len() as u64) as usize;
        let piece = &mut buffer[..piece_length];
        scanner.read_into(*position, piece)?;
        checksum.update(piece);
        *position += piece_length as u64;
    }
    if *position < end {
        checksum.update_zeros(end - *position);
        *position = end;
    }
    Ok(())
}
