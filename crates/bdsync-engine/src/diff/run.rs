//! The comparison itself: requests out, answers in, differing blocks into the patch.

use std::collections::VecDeque;
use std::io::Write;
use std::sync::Arc;

use bdsync_hash::BlockHasher;
use bdsync_proto::patch::{PatchChecksum, PatchWriter};
use bdsync_proto::{BlockRange, ClientEvent, HashRange, Hint, limits};

use super::blocks::differing_runs;
use super::plan::{Requests, Sizes};
use super::{Connection, DiffOptions, DiffStats, NamedDigest};
use crate::checksum::RunningChecksum;
use crate::error::{Error, Result};
use crate::events::Event;
use crate::inbound::Inbound;
use crate::scan::Scanner;

/// How much local data is read at once for the patch, in bytes; a multiple of a record's length.
const COPY: usize = 1 << 20;

/// After how many bytes the ends are told that what lies behind is not needed any more.
const RELEASE: u64 = 32 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pass {
    /// The blocks that this range is made of go into the patch where they differ.
    Small,
    /// Large blocks: where they differ, small ones are asked for.
    Large,
}

/// A range that is being hashed at both ends.
struct Flight {
    range: HashRange,
    pass: Pass,
    local: Option<Vec<u8>>,
    remote: Option<Vec<u8>>,
}

pub(crate) struct Run<'a, W, P> {
    scanner: &'a Arc<Scanner>,
    connection: Connection<'a, W>,
    patch: PatchWriter<P>,
    options: &'a DiffOptions,
    sizes: Sizes,
    /// Local checksum, where the data is ours.
    checksum: Option<RunningChecksum>,
    small: Arc<BlockHasher>,
    large: Option<Arc<BlockHasher>>,
    /// What is left of the first pass.
    first: Requests,
    /// What was found to need a second pass.
    second: VecDeque<Requests>,
    flights: VecDeque<Flight>,
    /// The number of the first flight in the queue.
    first_flight: u64,
    /// Remote bytes that go into the patch, not asked for yet, as (start, end).
    wanted: VecDeque<(u64, u64)>,
    /// Remote bytes that were asked for.
    blocks_open: usize,
    released: u64,
    /// How much of the first pass was asked for, and where it ends.
    sampled_bytes: u64,
    end: u64,
    copy: Vec<u8>,
    stats: DiffStats,
}

impl<'a, W: Write, P: Write> Run<'a, W, P> {
    pub(crate) fn new(
        scanner: &'a Arc<Scanner>,
        mut connection: Connection<'a, W>,
        patch: PatchWriter<P>,
        sizes: Sizes,
        options: &'a DiffOptions,
        salt: &[u8],
    ) -> Result<Self> {
        let algorithm = options.digest.algorithm;
        let hasher = |step| Arc::new(BlockHasher::new(algorithm, salt, step));
        let large_step = options.block_size * limits::TWO_PASS_FACTOR;
        let large = options.two_pass.then(|| hasher(large_step));
        let first_step = if options.two_pass { large_step } else { options.block_size };
        let remote_checksum = options.remote_data && options.checksum.is_some();
        let compare = sizes.compare_size(remote_checksum);
        let checksum = match &options.checksum {
            Some(named) if !options.remote_data => {
                let sender = connection.queue.sender();
                Some(RunningChecksum::start(named.algorithm, Arc::clone(scanner), sender)?)
            }
            _ => None,
        };
        if options.flush_cache {
            scanner.flush_cache();
            connection.session.request_hint(Hint::flush_cache());
        }
        Ok(Self {
            scanner,
            connection,
            patch,
            options,
            sizes,
            checksum,
            small: hasher(options.block_size),
            large,
            first: match options.sample {
                Some(parts) => Requests::sample(compare, first_step, algorithm.digest_size(), parts),
                None => Requests::new(0, compare, first_step, algorithm.digest_size()),
            },
            sampled_bytes: 0,
            end: compare,
            second: VecDeque::new(),
            flights: VecDeque::new(),
            first_flight: 0,
            wanted: VecDeque::new(),
            blocks_open: 0,
            released: 0,
            copy: Vec::new(),
            stats: DiffStats {
                remote_bytes: sizes.remote,
                compared_bytes: sizes.checksum_size(),
                ..DiffStats::default()
            },
        })
    }

    /// Runs to the end and closes patch and session.
    pub(crate) fn complete(mut self) -> Result<(P, DiffStats)> {
        self.report();
        loop {
            self.request()?;
            self.connection.send()?;
            if self.flights.is_empty() && self.wanted.is_empty() && self.blocks_open == 0 {
                break;
            }
            self.wait()?;
            while self.wanted.is_empty() && self.flights.front().is_some_and(|flight| self.is_complete(flight)) {
                self.land()?;
            }
            self.release()?;
            self.report();
        }
        let checksum = self.finish_checksum()?;
        self.connection.session.request_done();
        self.connection.send()?;
        while !self.connection.session.is_done() {
            self.wait()?;
        }
        // Only now: a patch with an end is one whose session ended well.
        let (patch, written) = self.patch.finish(checksum.as_ref()).map_err(Error::WritePatch)?;
        self.stats.patch = written;
        let (position, size) = (self.stats.compared_bytes, self.stats.compared_bytes);
        self.connection.context.observer.event(&Event::Progress { position, size, patch_bytes: written.patch_bytes });
        self.connection.context.observer.event(&Event::SessionDone);
        if self.options.sample.is_some() {
            self.stats.compared_bytes = self.sampled_bytes;
        }
        Ok((patch, self.stats))
    }

    /// Asks for as much as may be open at once. The second pass goes first, so that
    /// what is open stays close together.
    fn request(&mut self) -> Result<()> {
        while let Some(&(start, end)) = self.wanted.front() {
            if !self.connection.session.can_request_block() {
                break;
            }
            let length = (end - start).min(limits::MAX_WRITTEN_RECORD as u64);
            self.connection.session.request_block(BlockRange::new(start, length)?);
            self.blocks_open += 1;
            match start + length == end {
                true => drop(self.wanted.pop_front()),
                false => self.wanted[0].0 += length,
            }
        }
        while self.connection.session.can_request_hashes() {
            let Some((range, pass)) = self.next_range()? else { break };
            let number = self.first_flight + self.flights.len() as u64;
            self.flights.push_back(Flight { range, pass, local: None, remote: None });
            self.connection.session.request_hashes(range);
            self.connection.context.observer.event(&Event::HashesRequested(range));
            let sender = self.connection.queue.sender();
            let hasher = match (&self.large, pass) {
                (Some(large), Pass::Large) => large,
                _ => &self.small,
            };
            self.scanner.scan(range, hasher, move |digests| {
                // A run that is over needs no digests.
                let _ = sender.send(Inbound::Scanned(number, digests));
            });
        }
        Ok(())
    }

    fn next_range(&mut self) -> Result<Option<(HashRange, Pass)>> {
        while let Some(requests) = self.second.front_mut() {
            if let Some(range) = requests.take()? {
                return Ok(Some((range, Pass::Small)));
            }
            self.second.pop_front();
        }
        let pass = if self.large.is_some() { Pass::Large } else { Pass::Small };
        let range = self.first.take()?;
        if let Some(range) = &range {
            self.sampled_bytes += range.end().min(self.end) - range.start();
        }
        if let (Some(range), Some(checksum)) = (&range, &mut self.checksum) {
            checksum.extend(range.end());
        }
        Ok(range.map(|range| (range, pass)))
    }

    /// Waits for one thing to happen and takes it in.
    fn wait(&mut self) -> Result<()> {
        if let Some(event) = self.connection.session.poll()? {
            return self.answered(event);
        }
        match self.connection.receive()? {
            Some(Inbound::Scanned(number, digests)) => {
                let index = (number - self.first_flight) as usize;
                self.flights[index].local = Some(digests?);
            }
            Some(Inbound::Summed(result)) => result?,
            _ => {}
        }
        while let Some(event) = self.connection.session.poll()? {
            self.answered(event)?;
        }
        self.connection.queue.used_up();
        Ok(())
    }

    fn answered(&mut self, event: ClientEvent) -> Result<()> {
        match event {
            ClientEvent::Hashes(_, digests) => {
                // The session lets answers through only in the order of the requests.
                if let Some(flight) = self.flights.iter_mut().find(|flight| flight.remote.is_none()) {
                    flight.remote = Some(digests);
                }
            }
            ClientEvent::Block(range, data) => {
                self.blocks_open -= 1;
                self.patch.write_data(range.position(), &data).map_err(Error::WritePatch)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn is_complete(&self, flight: &Flight) -> bool {
        let second_pass = self.large.is_some() && flight.pass == Pass::Small;
        // The checksum's thread must not fall behind without end.
        let behind = |checksum: &RunningChecksum| checksum.position() < flight.range.end();
        let summed = second_pass || !self.checksum.as_ref().is_some_and(behind);
        summed && flight.local.is_some() && flight.remote.is_some()
    }

    /// Compares the digests of the oldest flight and deals with what differs.
    fn land(&mut self) -> Result<()> {
        let Some(Flight { range, pass, local: Some(local), remote: Some(remote) }) = self.flights.pop_front() else {
            return Ok(());
        };
        self.first_flight += 1;
        let digest_size = self.small.digest_size();
        for (start, end) in differing_runs(&range, &local, &remote, digest_size) {
            // Nothing is written past the end of the data.
            let end = end.min(self.sizes.patch_size());
            if start >= end {
                continue;
            }
            match pass {
                Pass::Large => {
                    self.second.push_back(Requests::new(start, end, self.options.block_size, digest_size));
                }
                Pass::Small => self.write_blocks(start, end)?,
            }
        }
        Ok(())
    }

    /// Puts differing blocks into the patch, or on the list of what the peer shall send.
    fn write_blocks(&mut self, start: u64, end: u64) -> Result<()> {
        let block_size = self.options.block_size;
        self.stats.differing_blocks += (end - start).div_ceil(block_size);
        if self.options.remote_data {
            let mut position = start;
            while position < end {
                let block_end = (position + block_size).min(end);
                self.wanted.push_back((position, block_end));
                position = block_end;
            }
            return Ok(());
        }
        // Several small blocks are read at once, a large one in parts that are whole
        // records: the patch is the same as if each block were read by itself.
        let copy = COPY as u64;
        let (region, unit) = match block_size <= copy {
            true => (end - start, copy / block_size * block_size),
            false => (block_size, copy),
        };
        let mut region_start = start;
        while region_start < end {
            let region_end = (region_start + region).min(end);
            self.copy_region(region_start, region_end, unit)?;
            region_start = region_end;
        }
        Ok(())
    }

    /// Copies local bytes into the patch, `unit` bytes at a time.
    fn copy_region(&mut self, start: u64, end: u64, unit: u64) -> Result<()> {
        let block = self.options.block_size.min(unit) as usize;
        self.copy.resize(COPY, 0);
        let mut position = start;
        while position < end {
            let bytes = &mut self.copy[..(end - position).min(unit) as usize];
            self.scanner.read_into(position, bytes)?;
            for data in bytes.chunks(block) {
                self.patch.write_data(position, data).map_err(Error::WritePatch)?;
                position += data.len() as u64;
            }
        }
        Ok(())
    }

    /// Everything before this position is dealt with.
    fn frontier(&self) -> u64 {
        let flying = self.flights.iter().map(|flight| flight.range.start());
        let second = self.second.iter().map(Requests::position);
        let wanted = self.wanted.front().map(|(start, _)| *start);
        flying.chain(second).chain(wanted).min().unwrap_or(u64::MAX).min(self.first.position())
    }

    /// Gives back the page cache of what is behind, here and at the peer.
    fn release(&mut self) -> Result<()> {
        if self.options.flush_cache {
            return Ok(());
        }
        let frontier = self.frontier();
        if frontier < self.released + RELEASE {
            return Ok(());
        }
        self.connection.session.request_hint(Hint::released(frontier));
        self.scanner.device().release(self.released, frontier);
        self.released = frontier;
        Ok(())
    }

    fn report(&self) {
        let size = self.stats.compared_bytes;
        let position = self.frontier().min(size);
        let patch_bytes = self.patch.stats().patch_bytes;
        // The last report is made when the patch is complete.
        if position < size || size == 0 {
            self.connection.context.observer.event(&Event::Progress { position, size, patch_bytes });
        }
    }

    fn finish_checksum(&mut self) -> Result<Option<PatchChecksum>> {
        let Some(NamedDigest { name, .. }) = &self.options.checksum else {
            return Ok(None);
        };
        let name = name.clone();
        if let Some(mut checksum) = self.checksum.take() {
            let step = self.large.as_ref().unwrap_or(&self.small).block_size();
            checksum.extend(self.sizes.checksum_size().next_multiple_of(step));
            while !checksum.is_done() {
                self.wait()?;
            }
            return Ok(Some(PatchChecksum { name, digest: checksum.finish()? }));
        }
        self.connection.session.request_checksum();
        loop {
            self.connection.send()?;
            match self.connection.session.poll()? {
                Some(ClientEvent::Checksum(digest)) => return Ok(Some(PatchChecksum { name, digest })),
                Some(event) => self.answered(event)?,
                None => {
                    self.connection.queue.used_up();
                    drop(self.connection.receive()?);
                }
            }
        }
    }
}
