//! The agent's side of a comparison.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bdsync_proto::agent::{
    AgentMessage, DigestWriter, MAX_OPEN_FETCH, MAX_OPEN_LEAVES, MAX_PIECE, bad, read_number, read_pairs,
};

use super::link::{Link, LinkEvent, ended};
use super::piece::{Piece, PieceWriter};
use super::shape::{Hashers, Shape};
use super::spans::{Batch, SpanScan};
use crate::error::{Error, Result};
use crate::events::Context;
use crate::scan::Scanner;

/// How often the client is told that all is well.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// Takes the patch that the client sends.
pub trait PatchSink {
    /// The next bytes of it. Gives back the memory of a piece that is not needed any more,
    /// this one's or an earlier one's.
    ///
    /// # Errors
    ///
    /// They cannot be stored.
    fn write(&mut self, piece: Piece) -> Result<Option<Vec<u8>>>;
}

/// Sends the digests of a device and answers what is asked about it, until the client
/// ends that; says whether it is complete (and was not given up).
///
/// # Errors
///
/// The device, the connection, a client that does not keep to the rules, or the sink.
pub fn tree_server(
    link: &mut Link,
    scanner: &Arc<Scanner>,
    shape: &Shape,
    sink: Option<&mut dyn PatchSink>,
    context: Context<'_>,
) -> Result<bool> {
    shape.check()?;
    let hashers = Arc::new(shape.hashers());
    let scan = SpanScan::new(scanner, shape, &hashers, link.sender());
    let data = PieceWriter::new(link.output().clone(), AgentMessage::Data, link.zstd())?;
    let (released, sent) = (shape.first_span(), shape.first_span());
    let server = Server { link, shape, hashers, scan, sink, data, kept: VecDeque::new(), held: 0, released, sent };
    server.run(scanner, context)
}

struct Server<'a, 'b> {
    link: &'a mut Link,
    shape: &'a Shape,
    hashers: Arc<Hashers>,
    scan: SpanScan,
    sink: Option<&'b mut dyn PatchSink>,
    data: PieceWriter,
    /// Batches that may yet be asked about.
    kept: VecDeque<Batch>,
    /// How many spans they have, without those of zeros.
    held: u64,
    /// The client needs nothing before this span.
    released: u64,
    /// What is before this span was sent.
    sent: u64,
}

impl Server<'_, '_> {
    fn run(mut self, scanner: &Arc<Scanner>, context: Context<'_>) -> Result<bool> {
        let mut last_sign = Instant::now();
        loop {
            let mut moved = false;
            // What is asked goes first: the other end waits for it.
            while let Some(event) = self.link.poll()? {
                moved = true;
                if let Some(complete) = self.react(event, scanner)? {
                    return Ok(complete);
                }
            }
            moved |= self.send_digests()?;
            if moved {
                last_sign = Instant::now();
                continue;
            }
            if last_sign.elapsed() > HEARTBEAT {
                self.link.output().send(AgentMessage::Progress, &[br#"{"done":0,"total":0}"#])?;
                last_sign = Instant::now();
            }
            let event = self.link.wait(context)?;
            if let Some(complete) = self.react(event, scanner)? {
                return Ok(complete);
            }
        }
    }

    /// Sends what is scanned, as far as the client lets it; says whether it did.
    fn send_digests(&mut self) -> Result<bool> {
        let mut moved = false;
        while self.held < self.shape.window {
            self.scan.advance()?;
            let Some(batch) = self.scan.take() else { break };
            moved = true;
            match &batch {
                Batch::Zeros { first, count } => {
                    let mut position = *first;
                    while position < first + count {
                        let part = (first + count - position).min(u64::from(u32::MAX >> 1));
                        let mut digests = DigestWriter::new(position, self.hashers.digest_size);
                        digests.repeat(part as u32, &self.hashers.zero_span);
                        self.link.output().send(AgentMessage::Digests, &[digests.payload()])?;
                        position += part;
                    }
                    self.sent = first + count;
                    // Two runs with nothing between them are remembered as one.
                    match self.kept.back_mut() {
                        Some(Batch::Zeros { first: before, count: length }) if *before + *length == *first => {
                            *length += count;
                            continue;
                        }
                        _ => {}
                    }
                }
                Batch::Hashed { first, spans, .. } => {
                    let count = (spans.len() / self.hashers.digest_size) as u64;
                    let mut digests = DigestWriter::new(*first, self.hashers.digest_size);
                    digests.list(spans);
                    self.link.output().send(AgentMessage::Digests, &[digests.payload()])?;
                    self.sent = first + count;
                    self.held += count;
                }
            }
            self.kept.push_back(batch);
        }
        Ok(moved)
    }

    /// Deals with one event; says how the comparison ended, if it did.
    fn react(&mut self, event: LinkEvent, scanner: &Arc<Scanner>) -> Result<Option<bool>> {
        match event {
            LinkEvent::Message(AgentMessage::Refine, payload) => {
                for (first, count) in read_pairs(AgentMessage::Refine, &payload)? {
                    if u64::from(count) * self.shape.fanout > MAX_OPEN_LEAVES {
                        return Err(bad(AgentMessage::Refine, format!("{count} spans at once")).into());
                    }
                    (first..first.saturating_add(count.into())).try_for_each(|span| self.send_leaves(span))?;
                }
            }
            LinkEvent::Message(AgentMessage::Release, payload) => {
                let span = read_number(AgentMessage::Release, &payload)?;
                if span < self.released || span > self.sent {
                    return Err(bad(AgentMessage::Release, format!("span {span} of {}", self.sent)).into());
                }
                self.released = span;
                self.forget();
            }
            LinkEvent::Message(AgentMessage::Fetch, payload) => {
                let pairs = read_pairs(AgentMessage::Fetch, &payload)?;
                if pairs.iter().map(|(_, length)| u64::from(*length)).sum::<u64>() > MAX_OPEN_FETCH {
                    return Err(bad(AgentMessage::Fetch, "too much at once").into());
                }
                for (position, length) in pairs {
                    self.send_data(position, length.into(), scanner)?;
                }
            }
            LinkEvent::Message(AgentMessage::Patch, payload) => {
                let Some(sink) = &mut self.sink else {
                    return Err(bad(AgentMessage::Patch, "no patch was announced").into());
                };
                if let Some(memory) = sink.write(Piece::decode(AgentMessage::Patch, payload)?)? {
                    self.link.recycle(memory);
                }
            }
            LinkEvent::Message(AgentMessage::End, payload) => {
                return match payload.as_slice() {
                    [0] => Ok(Some(true)),
                    [1] => Ok(Some(false)),
                    _ => Err(bad(AgentMessage::End, "neither complete nor given up").into()),
                };
            }
            LinkEvent::Message(message, _) => return Err(bad(message, "it must not come while comparing").into()),
            LinkEvent::End => return Err(ended("the end of a comparison")),
            LinkEvent::Scanned(scanned) => self.scan.put(scanned)?,
            LinkEvent::Tick => {}
        }
        Ok(None)
    }

    /// Drops what the client has dealt with.
    fn forget(&mut self) {
        let size = self.hashers.digest_size;
        while let Some(batch) = self.kept.front() {
            let (end, held) = match batch {
                Batch::Zeros { first, count } => (first + count, 0),
                Batch::Hashed { first, spans, .. } => {
                    let count = (spans.len() / size) as u64;
                    (first + count, count)
                }
            };
            if end > self.released {
                return;
            }
            self.held -= held;
            self.kept.pop_front();
        }
    }

    fn send_leaves(&self, span: u64) -> Result<()> {
        let size = self.hashers.digest_size;
        let unknown = || Error::from(bad(AgentMessage::Refine, format!("span {span} is not there to be asked for")));
        // Few batches are kept; the ones asked for are mostly among the first.
        let batch = self.kept.iter().find(|batch| match batch {
            Batch::Zeros { first, count } => (*first..first + count).contains(&span),
            Batch::Hashed { first, spans, .. } => (*first..first + (spans.len() / size) as u64).contains(&span),
        });
        let mut digests = DigestWriter::new(span, size);
        match batch.ok_or_else(unknown)? {
            Batch::Zeros { .. } => digests.repeat(self.shape.fanout as u32, &self.hashers.zero_leaf),
            Batch::Hashed { first, leaves, .. } => {
                let length = self.shape.fanout as usize * size;
                let from = (span - first) as usize * length;
                digests.list(&leaves[from..from + length]);
            }
        }
        self.link.output().send(AgentMessage::Leaves, &[digests.payload()])
    }

    fn send_data(&mut self, position: u64, length: u64, scanner: &Arc<Scanner>) -> Result<()> {
        let end = position.checked_add(length).filter(|end| *end <= self.shape.length);
        let Some(end) = end else {
            return Err(bad(AgentMessage::Fetch, format!("{length} bytes at {position}, past the end")).into());
        };
        let mut buffer = vec![0; MAX_PIECE.min(length as usize)];
        let mut position = position;
        while position < end {
            let piece = &mut buffer[..((end - position) as usize).min(MAX_PIECE)];
            // What is behind the device's end is zeros.
            let stored = scanner.size().saturating_sub(position).min(piece.len() as u64) as usize;
            scanner.read_into(position, &mut piece[..stored])?;
            piece[stored..].fill(0);
            let length = piece.len() as u64;
            self.data.send(&position.to_le_bytes(), piece)?;
            position += length;
        }
        Ok(())
    }
}
