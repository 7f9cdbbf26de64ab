//! Scanning a device span by span, with several batches at work at once.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::mpsc::Sender;

use bdsync_proto::HashRange;

use super::link::{Inbound, Scanned};
use super::shape::{Hashers, Shape};
use crate::error::{Error, Result};
use crate::scan::Scanner;

/// Roughly how much is scanned as one batch, in bytes.
const BATCH: u64 = 4 << 20;

/// How many batches are at work or wait to be taken.
const AHEAD: usize = 12;

/// How much the digests of one batch may take, in bytes, if it has more than one span.
const DIGESTS: u64 = 1 << 20;

/// Neighbouring spans.
#[derive(Debug)]
pub(crate) enum Batch {
    /// There is nothing but zeros in them.
    Zeros {
        /// The number of the first.
        first: u64,
        /// How many.
        count: u64,
    },
    /// They were hashed.
    Hashed {
        /// The number of the first.
        first: u64,
        /// Digests of the spans.
        spans: Vec<u8>,
        /// Digests of the leaves.
        leaves: Vec<u8>,
    },
}

/// Gives the batches of a device in order.
pub(crate) struct SpanScan {
    scanner: Arc<Scanner>,
    hashers: Arc<Hashers>,
    fanout: u64,
    span_bytes: u64,
    /// How many spans a batch has at most.
    most: u64,
    sender: Sender<Inbound>,
    groups: VecDeque<(u64, u64)>,
    /// Batches that were begun, and the next to be given.
    begun: u64,
    given: u64,
    done: BTreeMap<u64, Batch>,
}

impl SpanScan {
    /// Results come to `sender` and are to be handed to [`put`](Self::put).
    pub(crate) fn new(scanner: &Arc<Scanner>, shape: &Shape, hashers: &Arc<Hashers>, sender: Sender<Inbound>) -> Self {
        scanner.cut_to(shape.length);
        let digests = (DIGESTS / (shape.fanout * hashers.digest_size as u64)).max(1);
        Self {
            scanner: Arc::clone(scanner),
            hashers: Arc::clone(hashers),
            fanout: shape.fanout,
            span_bytes: shape.span_bytes(),
            most: (BATCH / shape.span_bytes()).clamp(1, shape.window).min(digests),
            sender,
            groups: shape.groups().into(),
            begun: 0,
            given: 0,
            done: BTreeMap::new(),
        }
    }

    /// Begins as much as may be at work at once.
    pub(crate) fn advance(&mut self) -> Result<()> {
        while self.begun - self.given < AHEAD as u64 {
            let Some(&(first, count)) = self.groups.front() else { return Ok(()) };
            let position = first * self.span_bytes;
            let zeros = (self.scanner.zeros_until(position) / self.span_bytes).saturating_sub(first).min(count);
            let number = self.begun;
            self.begun += 1;
            let taken = match zeros {
                0 => {
                    let taken = self.most.min(count);
                    self.scan(number, first, taken)?;
                    taken
                }
                zeros => {
                    self.done.insert(number, Batch::Zeros { first, count: zeros });
                    zeros
                }
            };
            if taken == count {
                self.groups.pop_front();
            } else if let Some(group) = self.groups.front_mut() {
                *group = (first + taken, count - taken);
            }
        }
        Ok(())
    }

    fn scan(&self, number: u64, first: u64, count: u64) -> Result<()> {
        let leaves = u32::try_from(count * self.fanout).unwrap_or(u32::MAX);
        let range = HashRange::new(first * self.span_bytes, self.span_bytes / self.fanout, leaves)?;
        let (hashers, sender) = (Arc::clone(&self.hashers), self.sender.clone());
        self.scanner.scan(range, &self.hashers.leaf, move |leaves| {
            let batch = leaves.map(|leaves| {
                let mut spans = vec![0; count as usize * hashers.digest_size];
                hashers.span.hash_blocks(&leaves, &mut spans);
                Batch::Hashed { first, spans, leaves }
            });
            // Nobody may be left to hear of it.
            let _ = sender.send(Inbound::Scanned(Scanned { number, batch }));
        });
        Ok(())
    }

    /// Takes what came from the scanner.
    pub(crate) fn put(&mut self, scanned: Scanned) -> Result<()> {
        let batch = scanned.batch?;
        match scanned.number {
            number if number < self.begun && number >= self.given => drop(self.done.insert(number, batch)),
            number => return Err(Error::Resources(format!("batch {number} was not asked for"))),
        }
        Ok(())
    }

    /// The next batch, if it is there.
    pub(crate) fn take(&mut self) -> Option<Batch> {
        let batch = self.done.remove(&self.given)?;
        self.given += 1;
        Some(batch)
    }
}

impl Drop for SpanScan {
    /// Nothing is read any more for nobody; the scanner is of no use after that.
    fn drop(&mut self) {
        self.scanner.stop();
    }
}
