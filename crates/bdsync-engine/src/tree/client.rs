//! The client's side of a comparison: the one that decides.

use std::collections::VecDeque;
use std::sync::Arc;

use bdsync_proto::agent::{AgentMessage, MAX_OPEN_FETCH, Run, bad, read_digests, write_pairs};

use super::link::{Link, LinkEvent, ended};
use super::piece::decode_piece;
use super::shape::{Hashers, Shape};
use super::spans::{Batch, SpanScan};
use crate::error::{Error, Result};
use crate::events::{Context, Event};
use crate::scan::Scanner;

/// The most bytes that are fetched with one pair.
const FETCH: u64 = 1 << 20;

/// What becomes of the differences. Everything comes in the device's order.
pub trait Differences {
    /// These bytes differ.
    ///
    /// # Errors
    ///
    /// Whatever ends the comparison.
    fn differs(&mut self, position: u64, length: u64) -> Result<()>;

    /// The agent's bytes, if they are fetched; some of those that differ.
    ///
    /// # Errors
    ///
    /// Whatever ends the comparison.
    fn data(&mut self, _position: u64, _bytes: &[u8]) -> Result<()> {
        Ok(())
    }

    /// Everything before this position is dealt with.
    ///
    /// # Errors
    ///
    /// Whatever ends the comparison.
    fn resolved(&mut self, _position: u64) -> Result<()> {
        Ok(())
    }
}

/// What a comparison came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TreeStats {
    /// How many bytes were compared.
    pub compared_bytes: u64,
    /// How many blocks differ.
    pub differing_blocks: u64,
    /// How many bytes these have.
    pub differing_bytes: u64,
}

/// Compares the scanner's device with the agent's, which was asked to. With `fetch`,
/// the agent's bytes of what differs are fetched. The end is not told to the agent.
///
/// # Errors
///
/// The device, the connection, an agent that does not keep to the rules, whatever it
/// answers in place of digests ([`Error::Remote`]), and whatever `differences` returns.
pub fn tree_client(
    link: &mut Link,
    scanner: &Arc<Scanner>,
    shape: &Shape,
    fetch: bool,
    differences: &mut dyn Differences,
    context: Context<'_>,
) -> Result<TreeStats> {
    shape.check()?;
    let hashers = Arc::new(shape.hashers());
    let scan = SpanScan::new(scanner, shape, &hashers, link.sender());
    let client = Client {
        link,
        shape,
        hashers,
        scan,
        fetch,
        differences,
        expected: shape.groups().into(),
        local: VecDeque::new(),
        remote: VecDeque::new(),
        work: VecDeque::new(),
        fetching: VecDeque::new(),
        open_bytes: 0,
        refine: Vec::new(),
        compared: shape.first_span(),
        compared_spans: 0,
        released: shape.first_span(),
        stats: TreeStats::default(),
    };
    client.run(context)
}

/// Spans with the digests that one end has of them.
#[derive(Debug)]
enum Spans {
    /// So many times the same.
    Repeated { first: u64, count: u64, digest: Vec<u8> },
    /// One after another; leaves only of the own ones.
    Listed { first: u64, digests: Vec<u8>, leaves: Vec<u8> },
}

impl Spans {
    fn first(&self) -> u64 {
        match self {
            Self::Repeated { first, .. } | Self::Listed { first, .. } => *first,
        }
    }

    fn count(&self, digest_size: usize) -> u64 {
        match self {
            Self::Repeated { count, .. } => *count,
            Self::Listed { digests, .. } => (digests.len() / digest_size) as u64,
        }
    }

    /// The digest of one of its spans.
    fn digest(&self, span: u64, digest_size: usize) -> &[u8] {
        match self {
            Self::Repeated { digest, .. } => digest,
            Self::Listed { first, digests, .. } => &digests[(span - first) as usize * digest_size..][..digest_size],
        }
    }
}

/// What is still to be done, in the device's order.
enum Work {
    /// These ranges (in bytes) differ.
    Differ(Vec<(u64, u64)>),
    /// The leaves of this span were asked for; the own ones.
    Asked { span: u64, leaves: Vec<u8> },
    /// Everything before this span is dealt with.
    Mark(u64),
}

/// What was fetched, in order.
enum Fetch {
    Bytes { position: u64, end: u64 },
    Mark(u64),
}

struct Client<'a, 'b> {
    link: &'a mut Link,
    shape: &'a Shape,
    hashers: Arc<Hashers>,
    scan: SpanScan,
    fetch: bool,
    differences: &'b mut dyn Differences,
    /// Spans whose digests are to come: number and count.
    expected: VecDeque<(u64, u64)>,
    local: VecDeque<Spans>,
    remote: VecDeque<Spans>,
    work: VecDeque<Work>,
    fetching: VecDeque<Fetch>,
    open_bytes: u64,
    /// Spans to be asked for.
    refine: Vec<(u64, u32)>,
    /// The digests of spans before this one were compared.
    compared: u64,
    compared_spans: u64,
    released: u64,
    stats: TreeStats,
}

impl Client<'_, '_> {
    fn run(mut self, context: Context<'_>) -> Result<TreeStats> {
        let total: u64 = self.expected.iter().map(|(_, count)| count).sum();
        loop {
            self.scan.advance()?;
            while let Some(batch) = self.scan.take() {
                self.local.push_back(match batch {
                    Batch::Zeros { first, count } => {
                        Spans::Repeated { first, count, digest: self.hashers.zero_span.clone() }
                    }
                    Batch::Hashed { first, spans, leaves } => Spans::Listed { first, digests: spans, leaves },
                });
                // More than the agent is ahead is of no use.
                if self.local.len() > 64 {
                    break;
                }
                self.scan.advance()?;
            }
            self.compare()?;
            self.ask()?;
            self.work(context)?;
            let resting = self.work.is_empty() && self.fetching.is_empty();
            if resting && self.compared_spans == total {
                self.stats.compared_bytes = match self.shape.parts {
                    Some(_) => (total * self.shape.span_bytes()).min(self.shape.length),
                    None => self.shape.length - self.shape.start,
                };
                let size = self.shape.length;
                let patch_bytes = self.stats.differing_bytes;
                context.observer.event(&Event::Progress { position: size, size, patch_bytes });
                return Ok(self.stats);
            }
            match self.link.wait(context)? {
                LinkEvent::Message(AgentMessage::Digests, payload) => self.take_digests(&payload)?,
                LinkEvent::Message(AgentMessage::Leaves, payload) => self.take_leaves(&payload)?,
                LinkEvent::Message(AgentMessage::Data, payload) => {
                    self.take_data(&payload, context)?;
                    self.link.recycle(payload);
                }
                LinkEvent::Message(AgentMessage::Progress, _) | LinkEvent::Tick => {}
                // It cannot go on, and says why.
                LinkEvent::Message(AgentMessage::Answer, payload) => return Err(Error::Remote(payload)),
                LinkEvent::Message(message, _) => return Err(bad(message, "digests were expected").into()),
                LinkEvent::Scanned(scanned) => self.scan.put(scanned)?,
                LinkEvent::End => return Err(ended("digests")),
            }
        }
    }

    fn take_digests(&mut self, payload: &[u8]) -> Result<()> {
        let size = self.hashers.digest_size;
        let (mut first, runs) = read_digests(AgentMessage::Digests, payload, size)?;
        for run in runs {
            let (spans, count) = match run {
                Run::Repeated(count, digest) => {
                    (Spans::Repeated { first, count: count.into(), digest: digest.to_vec() }, u64::from(count))
                }
                Run::Listed(digests) => (
                    Spans::Listed { first, digests: digests.to_vec(), leaves: Vec::new() },
                    (digests.len() / size) as u64,
                ),
            };
            // Exactly what is to come next may come.
            let mut left = count;
            let mut next = first;
            while left > 0 {
                let Some((expected, length)) = self.expected.front_mut().filter(|(expected, _)| *expected == next)
                else {
                    return Err(bad(AgentMessage::Digests, format!("span {next} was not asked for")).into());
                };
                let part = left.min(*length);
                (*expected, *length) = (*expected + part, *length - part);
                if *length == 0 {
                    self.expected.pop_front();
                }
                (left, next) = (left - part, next + part);
            }
            // Runs of zeros that go on are one: they do not count below, and an agent must not
            // decide how much is remembered.
            match (self.remote.back_mut(), spans) {
                (
                    Some(Spans::Repeated { first: begin, count: before, digest }),
                    Spans::Repeated { digest: next, .. },
                ) if *begin + *before == first && *digest == next && next == self.hashers.zero_span => {
                    *before += count;
                }
                (_, spans) => self.remote.push_back(spans),
            }
            first += count;
        }
        let held: u64 = self
            .remote
            .iter()
            .map(|spans| match spans {
                Spans::Repeated { digest, .. } if *digest == self.hashers.zero_span => 0,
                spans => spans.count(size),
            })
            .sum();
        match held > self.shape.window * 2 {
            true => Err(bad(AgentMessage::Digests, "more than the window allows").into()),
            false => Ok(()),
        }
    }

    /// Compares the digests that are there of both ends.
    fn compare(&mut self) -> Result<()> {
        let size = self.hashers.digest_size;
        while let (Some(local), Some(remote)) = (self.local.front(), self.remote.front()) {
            let span = local.first().max(remote.first());
            let (local_end, remote_end) = (local.first() + local.count(size), remote.first() + remote.count(size));
            let end = local_end.min(remote_end);
            let (from, to) = (span.max(self.compared), end);
            if let (Spans::Repeated { digest, .. }, Spans::Repeated { digest: other, .. }) = (local, remote)
                && digest == other
            {
                // Whatever their number.
            } else {
                for span in from..to {
                    let (mine, theirs) = (local.digest(span, size), remote.digest(span, size));
                    if mine == theirs {
                        continue;
                    }
                    let leaves = match local {
                        Spans::Listed { first, leaves, .. } => {
                            let length = self.shape.fanout as usize * size;
                            leaves[(span - first) as usize * length..][..length].to_vec()
                        }
                        Spans::Repeated { .. } => self.hashers.zero_leaf.repeat(self.shape.fanout as usize),
                    };
                    if theirs == self.hashers.zero_span {
                        // What its leaves are is known.
                        let ranges = differing(self.shape, size, span, &leaves, |_| &self.hashers.zero_leaf);
                        self.work.push_back(Work::Differ(ranges));
                        continue;
                    }
                    self.work.push_back(Work::Asked { span, leaves });
                    match self.refine.last_mut() {
                        Some((first, count)) if *first + u64::from(*count) == span => *count += 1,
                        _ => self.refine.push((span, 1)),
                    }
                }
            }
            self.compared = to;
            self.compared_spans += to - from;
            self.work.push_back(Work::Mark(to));
            if local_end == end {
                self.local.pop_front();
            }
            if remote_end == end {
                self.remote.pop_front();
            }
        }
        Ok(())
    }

    /// Asks for the leaves of spans that differ.
    fn ask(&mut self) -> Result<()> {
        for pairs in self.refine.chunks(1000) {
            self.link.output().send(AgentMessage::Refine, &[&write_pairs(pairs)])?;
        }
        self.refine.clear();
        Ok(())
    }

    fn take_leaves(&mut self, payload: &[u8]) -> Result<()> {
        let size = self.hashers.digest_size;
        let (span, runs) = read_digests(AgentMessage::Leaves, payload, size)?;
        // The oldest that waits is the only one that may be answered.
        let oldest = self.work.iter_mut().find(|work| matches!(work, Work::Asked { .. }));
        let Some((work, leaves)) = oldest.and_then(|work| match work {
            Work::Asked { span: asked, leaves } if *asked == span => Some(std::mem::take(leaves)).map(|l| (work, l)),
            _ => None,
        }) else {
            return Err(
                bad(AgentMessage::Leaves, format!("span {span} was not asked for, or it is not its turn")).into()
            );
        };
        let fanout = self.shape.fanout as usize;
        let mut theirs = Vec::with_capacity(fanout * size);
        for run in runs {
            match run {
                Run::Repeated(count, digest) if theirs.len() / size + count as usize <= fanout => {
                    theirs.extend_from_slice(&digest.repeat(count as usize));
                }
                Run::Listed(digests) => theirs.extend_from_slice(digests),
                Run::Repeated(..) => return Err(bad(AgentMessage::Leaves, "too many of them").into()),
            }
        }
        if theirs.len() != fanout * size {
            return Err(bad(AgentMessage::Leaves, format!("{} of {fanout} leaves", theirs.len() / size)).into());
        }
        let ranges = differing(self.shape, size, span, &leaves, |leaf| &theirs[leaf * size..][..size]);
        if ranges.is_empty() {
            return Err(bad(AgentMessage::Leaves, format!("they are not those of span {span}'s digest")).into());
        }
        *work = Work::Differ(ranges);
        Ok(())
    }

    /// Does what can be done in order.
    fn work(&mut self, context: Context<'_>) -> Result<()> {
        let mut mark = None;
        while let Some(work) = self.work.front_mut() {
            match work {
                Work::Asked { .. } => break,
                Work::Mark(span) => {
                    let span = *span;
                    match self.fetching.is_empty() {
                        true => mark = Some(span),
                        false => self.fetching.push_back(Fetch::Mark(span)),
                    }
                }
                Work::Differ(ranges) => {
                    if self.fetch && self.open_bytes >= MAX_OPEN_FETCH / 2 {
                        break;
                    }
                    let ranges = std::mem::take(ranges);
                    self.differ(&ranges)?;
                }
            }
            self.work.pop_front();
            context.cancellation.check()?;
        }
        if let Some(span) = mark {
            self.mark(span, context)?;
        }
        Ok(())
    }

    fn differ(&mut self, ranges: &[(u64, u64)]) -> Result<()> {
        let mut pairs = Vec::new();
        for &(start, end) in ranges {
            self.stats.differing_bytes += end - start;
            self.stats.differing_blocks += (end - start).div_ceil(self.shape.block_size);
            self.differences.differs(start, end - start)?;
            let mut position = start;
            while self.fetch && position < end {
                let next = end.min(position + FETCH);
                pairs.push((position, (next - position) as u32));
                self.fetching.push_back(Fetch::Bytes { position, end: next });
                self.open_bytes += next - position;
                position = next;
                // One request stays within what may be open.
                if pairs.len() == 8 {
                    self.link.output().send(AgentMessage::Fetch, &[&write_pairs(&pairs)])?;
                    pairs.clear();
                }
            }
        }
        match pairs.is_empty() {
            true => Ok(()),
            false => self.link.output().send(AgentMessage::Fetch, &[&write_pairs(&pairs)]),
        }
    }

    fn take_data(&mut self, payload: &[u8], context: Context<'_>) -> Result<()> {
        let wrong = |what: &str| Error::from(bad(AgentMessage::Data, what));
        let (position, piece) = payload.split_first_chunk::<8>().ok_or_else(|| wrong("it is cut off"))?;
        let position = u64::from_le_bytes(*position);
        let bytes = decode_piece(AgentMessage::Data, piece)?;
        let Some(Fetch::Bytes { position: expected, end }) = self.fetching.front_mut() else {
            return Err(wrong("nothing was asked for"));
        };
        if *expected != position || bytes.is_empty() || bytes.len() as u64 > *end - position {
            return Err(wrong("it is not what was asked for"));
        }
        *expected += bytes.len() as u64;
        let done = *expected == *end;
        self.open_bytes -= bytes.len() as u64;
        self.differences.data(position, &bytes)?;
        if done {
            self.fetching.pop_front();
        }
        while let Some(Fetch::Mark(span)) = self.fetching.front() {
            let span = *span;
            self.fetching.pop_front();
            self.mark(span, context)?;
        }
        Ok(())
    }

    /// Everything before `span` is dealt with.
    fn mark(&mut self, span: u64, context: Context<'_>) -> Result<()> {
        let size = self.shape.length;
        let position = (span * self.shape.span_bytes()).min(size);
        self.differences.resolved(position)?;
        let patch_bytes = self.stats.differing_bytes;
        context.observer.event(&Event::Progress { position, size, patch_bytes });
        if span - self.released >= (self.shape.window / 8).max(1) {
            self.released = span;
            self.link.output().send(AgentMessage::Release, &[&span.to_le_bytes()])?;
        }
        Ok(())
    }
}

/// The ranges of a span whose leaves differ, in bytes.
fn differing<'a>(
    shape: &Shape,
    digest_size: usize,
    span: u64,
    mine: &[u8],
    theirs: impl Fn(usize) -> &'a [u8],
) -> Vec<(u64, u64)> {
    let begin = span * shape.span_bytes();
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for (leaf, digest) in mine.chunks_exact(digest_size).enumerate() {
        let start = begin + leaf as u64 * shape.block_size;
        if start >= shape.length || digest == theirs(leaf) {
            continue;
        }
        let end = (start + shape.block_size).min(shape.length);
        match ranges.last_mut() {
            Some(last) if last.1 == start => last.1 = end,
            _ => ranges.push((start, end)),
        }
    }
    ranges
}
