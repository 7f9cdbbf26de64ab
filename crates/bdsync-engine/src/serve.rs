//! The server's run: answer what a client asks for
//! (`proto-spec/protocol.md`, server).

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::str::FromStr;
use std::sync::Arc;

use bdsync_device::{Access, Device};
use bdsync_hash::{Algorithm, BlockHasher};
use bdsync_proto::limits::MAX_OPEN_HASH_REQUESTS;
use bdsync_proto::{BlockRange, DigestChoice, HashRange, Hello, Hint, ServerEvent, ServerSession};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::checksum::RunningChecksum;
use crate::diff::usual_length;
use crate::error::{Error, Result};
use crate::events::{Context, Event};
use crate::inbound::{Inbound, Queue};
use crate::scan::{ScanOptions, Scanner};

/// How many requests are worked on at once. The next ones wait in the connection.
const OPEN_REQUESTS: usize = 8;

/// Opens the device that a client names.
pub type Opener = Box<dyn Fn(&OsStr) -> Result<Device>>;

/// How to serve.
pub struct ServeOptions {
    /// How devices are read.
    pub scan: ScanOptions,
    /// The hello was said already.
    pub hello_is_said: bool,
    /// Opens the device that a client names.
    pub open: Opener,
}

impl From<ScanOptions> for ServeOptions {
    fn from(scan: ScanOptions) -> Self {
        let open = Box::new(|name: &OsStr| Ok(Device::open(name, Access::Read)?));
        Self { scan, hello_is_said: false, open }
    }
}

/// Answers one client until it is done.
///
/// # Errors
///
/// Whatever ends the session early: the client breaks the protocol or off, the
/// device or the connection fails.
pub fn serve<R, W>(input: R, output: W, options: impl Into<ServeOptions>, context: Context<'_>) -> Result<()>
where
    R: Read + AsFd + Send + 'static,
    W: Write,
{
    let mut queue = Queue::new();
    queue.read_peer(input, is_ready)?;
    let options: ServeOptions = options.into();
    let mut session = ServerSession::new(&Hello::server());
    if options.hello_is_said {
        session.output().clear();
    }
    let mut server = Server {
        session,
        output,
        queue,
        context,
        options,
        open: None,
        pending: VecDeque::new(),
        first_pending: 0,
        input_ended: false,
        said_hello: false,
    };
    let result = server.run();
    if let (Err(_), Some(open)) = (&result, &server.open) {
        open.scanner.stop();
    }
    if result.is_err() {
        // What was answered before the error still goes out; the error itself is worth more than another.
        let _ = server.send();
    }
    result
}

/// Whether there is more to read at once.
fn is_ready(input: &impl AsFd) -> bool {
    let mut fds = [PollFd::new(input, PollFlags::IN)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&now)).is_ok_and(|count| count > 0)
}

/// A request that is not answered yet.
enum Pending {
    Open(Vec<u8>),
    Hashes(HashRange, Option<Vec<u8>>),
    Hint(Hint),
    Block(BlockRange),
    Checksum,
    Done,
}

/// What is there once a device was opened.
struct OpenDevice {
    scanner: Arc<Scanner>,
    hasher: Option<HasherChoice>,
    checksum: Option<RunningChecksum>,
    released: u64,
    ahead: Ahead,
}

/// What a client has asked for and, as far as it says so, not used yet.
///
/// A slow client that asks for much at once (stock does) is not served any faster by
/// all threads, and on one machine they take the processor that it needs.
#[derive(Default)]
struct Ahead {
    ranges: VecDeque<HashRange>,
    /// How long they are together, in bytes.
    bytes: u64,
    /// Where the furthest range so far ends.
    end: u64,
    /// The client does not say what it has used.
    is_unknown: bool,
}

impl Ahead {
    /// If there are more ranges than this, the client says too little.
    const MOST: usize = 2 * MAX_OPEN_HASH_REQUESTS;

    /// As many requests of ours can be open, or used without our having seen that said.
    const NEAR: u64 = MAX_OPEN_HASH_REQUESTS as u64 + OPEN_REQUESTS as u64 + 2;

    /// After how many bytes at the latest our own client says what it has used, and some more.
    const LATE: u64 = 64 << 20;

    /// Takes a request; whether its hashes will not be needed for a while. Those of smaller
    /// blocks of what was asked for before are waited for.
    fn ask(&mut self, range: HashRange) -> bool {
        if self.is_unknown {
            return false;
        }
        let step = self.ranges.iter().map(HashRange::step).fold(range.step(), u64::max);
        let near = usual_length(step).saturating_mul(Self::NEAR).saturating_add(Self::LATE);
        let is_far = range.start() >= self.end && self.bytes > near;
        self.bytes = self.bytes.saturating_add(range.end() - range.start());
        self.end = self.end.max(range.end());
        self.ranges.push_back(range);
        if self.ranges.len() > Self::MOST {
            self.give_up();
        }
        is_far
    }

    /// Everything before `position` was used.
    fn used_to(&mut self, position: u64) {
        while let Some(range) = self.ranges.pop_front_if(|range| range.end() <= position) {
            self.bytes = self.bytes.saturating_sub(range.end() - range.start());
        }
    }

    /// From now on, nothing is far.
    fn give_up(&mut self) {
        *self = Ahead { is_unknown: true, ..Ahead::default() };
    }
}

struct HasherChoice {
    algorithm: Algorithm,
    salt: Vec<u8>,
    /// One for each block size; clients use one or two.
    hashers: Vec<Arc<BlockHasher>>,
}

struct Server<'a, W> {
    session: ServerSession,
    output: W,
    queue: Queue,
    context: Context<'a>,
    options: ServeOptions,
    open: Option<OpenDevice>,
    pending: VecDeque<Pending>,
    /// The number of the first pending request.
    first_pending: u64,
    input_ended: bool,
    said_hello: bool,
}

impl<W: Write> Server<'_, W> {
    fn run(&mut self) -> Result<()> {
        // Both ends say hello at once.
        self.send()?;
        loop {
            self.take_requests()?;
            let done = self.answer()?;
            self.send()?;
            if done {
                self.context.observer.event(&Event::SessionDone);
                return Ok(());
            }
            // What waits in the session brings no event of its own.
            if self.session.has_message() {
                if self.pending.len() < OPEN_REQUESTS {
                    continue;
                }
            } else {
                self.queue.used_up();
            }
            // The client's end counts only after what it said before.
            if self.input_ended && self.pending.is_empty() {
                self.session.end_of_input()?;
            }
            self.wait()?;
        }
    }

    /// Takes requests from the session and starts the work for them.
    fn take_requests(&mut self) -> Result<()> {
        while self.pending.len() < OPEN_REQUESTS {
            let event = match self.session.poll() {
                Ok(Some(event)) => event,
                Ok(None) => break,
                // What was asked for before the mistake is answered all the same, as stock does.
                Err(error) => {
                    self.answer_all()?;
                    return Err(error.into());
                }
            };
            self.say_hello();
            let number = self.first_pending + self.pending.len() as u64;
            let pending = match event {
                ServerEvent::Open(name) => Pending::Open(name),
                ServerEvent::Digests(choice) => {
                    if let Err(error) = self.choose(&choice) {
                        self.answer_all()?;
                        return Err(error);
                    }
                    continue;
                }
                ServerEvent::Hashes(range) => {
                    if let Err(error) = self.start_hashing(range, number) {
                        self.answer_all()?;
                        return Err(error);
                    }
                    Pending::Hashes(range, None)
                }
                ServerEvent::Hint(hint) => Pending::Hint(hint),
                ServerEvent::Block(range) => Pending::Block(range),
                ServerEvent::Checksum => Pending::Checksum,
                ServerEvent::Done => Pending::Done,
            };
            // Later requests need the device, so it is opened at once.
            if let Pending::Open(name) = &pending {
                let name = name.clone();
                self.open_device(&name)?;
            }
            self.pending.push_back(pending);
        }
        Ok(())
    }

    fn say_hello(&mut self) {
        if let (false, Some(peer)) = (self.said_hello, self.session.peer()) {
            self.context.observer.event(&Event::PeerHello { word: peer.word().to_string() });
            self.said_hello = true;
        }
    }

    fn open_device(&mut self, name: &[u8]) -> Result<()> {
        let device = Arc::new((self.options.open)(OsStr::from_bytes(name))?);
        let scanner = Scanner::new(device, self.options.scan)?;
        self.context.observer.event(&Event::Opened { device: String::from_utf8_lossy(name).into_owned() });
        self.open = Some(OpenDevice { scanner, hasher: None, checksum: None, released: 0, ahead: Ahead::default() });
        Ok(())
    }

    fn device(&mut self) -> Result<&mut OpenDevice> {
        // The session lets nothing through before a device was named.
        self.open.as_mut().ok_or_else(|| Error::Resources("no device is open".into()))
    }

    fn choose(&mut self, choice: &DigestChoice) -> Result<()> {
        let algorithm = Algorithm::from_str(&choice.digest);
        let algorithm = algorithm.map_err(|error| Error::PeerDigest(lower_first(&error.to_string())))?;
        let checksum = choice.checksum.as_deref().map(Algorithm::from_str).transpose();
        let checksum = checksum.map_err(|error| Error::PeerChecksum(lower_first(&error.to_string())))?;
        let sender = self.queue.sender();
        let open = self.device()?;
        open.hasher = Some(HasherChoice { algorithm, salt: choice.salt.clone(), hashers: Vec::new() });
        open.checksum =
            checksum.map(|checksum| RunningChecksum::start(checksum, Arc::clone(&open.scanner), sender)).transpose()?;
        self.session.accept_digests(algorithm.digest_size());
        self.context.observer.event(&Event::Digests {
            salt: choice.salt.clone(),
            digest: choice.digest.clone(),
            checksum: choice.checksum.clone(),
        });
        Ok(())
    }

    fn start_hashing(&mut self, range: HashRange, number: u64) -> Result<()> {
        let sender = self.queue.sender();
        let open = self.device()?;
        let size = open.scanner.size();
        if let Some(checksum) = &mut open.checksum {
            let end = checksum.ordered();
            if range.start() > end.max(size) {
                return Err(Error::ChecksumGap { start: range.start(), end, size });
            }
            checksum.extend(range.end());
        }
        // The session lets no hashes through before digests were chosen.
        let choice = open.hasher.as_mut().ok_or_else(|| Error::Resources("no digest is chosen".into()))?;
        let hasher = choice.for_block_size(range.step());
        let done = move |digests| {
            // A session that is over needs no digests.
            let _ = sender.send(Inbound::Scanned(number, digests));
        };
        match open.ahead.ask(range) {
            true => open.scanner.scan_ahead(range, &hasher, done),
            false => open.scanner.scan(range, &hasher, done),
        }
        self.context.observer.event(&Event::HashesRequested(range));
        Ok(())
    }

    /// Answers requests from the front as far as they can be; true when the client is done.
    fn answer(&mut self) -> Result<bool> {
        while let Some(pending) = self.pending.front() {
            let ready = match pending {
                // The checksum's thread must not fall behind: it would read everything a second time.
                Pending::Hashes(range, digests) => digests.is_some() && self.summed(range.end()),
                Pending::Checksum => self.summed(u64::MAX),
                _ => true,
            };
            if !ready {
                break;
            }
            let Some(pending) = self.pending.pop_front() else { break };
            self.first_pending += 1;
            match pending {
                Pending::Open(_) => {
                    let size = self.device()?.scanner.device().size();
                    self.session.answer_size(size);
                }
                Pending::Hashes(range, digests) => {
                    self.session.answer_hashes(&range, &digests.unwrap_or_default());
                }
                Pending::Hint(hint) => {
                    self.device()?.take_hint(hint);
                    self.session.answer_hint(hint);
                }
                Pending::Block(range) => {
                    let data = self.device()?.read_block(&range)?;
                    self.session.answer_block(&range, &data);
                }
                Pending::Checksum => {
                    let digest = self.device()?.checksum.take().map(RunningChecksum::finish).transpose()?;
                    self.session.answer_checksum(&digest.unwrap_or_default());
                }
                Pending::Done => {
                    self.session.answer_done();
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Whether the checksum, if there is one, has come to `end` or as far as it was told to.
    fn summed(&self, end: u64) -> bool {
        let checksum = self.open.as_ref().and_then(|open| open.checksum.as_ref());
        checksum.is_none_or(|checksum| checksum.is_done() || checksum.position() >= end)
    }

    /// Answers everything that was asked for so far.
    fn answer_all(&mut self) -> Result<()> {
        loop {
            self.answer()?;
            self.send()?;
            if self.pending.is_empty() {
                return Ok(());
            }
            self.wait()?;
        }
    }

    fn send(&mut self) -> Result<()> {
        let bytes = self.session.output();
        if bytes.is_empty() {
            return Ok(());
        }
        let sent = self.output.write_all(bytes).and_then(|()| self.output.flush());
        bytes.clear();
        sent.map_err(Error::WritePeer)
    }

    fn wait(&mut self) -> Result<()> {
        match self.queue.next(self.context)? {
            Inbound::Bytes { bytes, last } => {
                self.session.receive(&bytes);
                // A client that is known to have broken off gets no more answers.
                if last && self.session.is_within_message() {
                    self.session.end_of_input()?;
                }
            }
            Inbound::End => self.input_ended = true,
            Inbound::Failed(error) => return Err(Error::ReadPeer(error)),
            // A checksum that was replaced by another ends early.
            Inbound::Summed(Err(Error::Cancelled)) => {}
            Inbound::Summed(result) => result?,
            Inbound::Scanned(number, digests) => {
                let index = (number - self.first_pending) as usize;
                if let Some(Pending::Hashes(_, slot)) = self.pending.get_mut(index) {
                    *slot = Some(digests?);
                }
            }
        }
        Ok(())
    }
}

impl OpenDevice {
    fn take_hint(&mut self, hint: Hint) {
        match hint.number {
            Hint::FLUSH_CACHE => {
                // Who asks for this does not say what was used.
                self.ahead.give_up();
                self.scanner.flush_cache();
            }
            Hint::RELEASED_POSITION => {
                self.ahead.used_to(hint.argument);
                let summed = self.checksum.as_ref().map_or(u64::MAX, RunningChecksum::position);
                let end = hint.argument.min(self.scanner.size()).min(summed);
                self.scanner.device().release(self.released, end);
                self.released = self.released.max(end);
            }
            // Hints change no answer: an unknown one is none.
            _ => {}
        }
    }

    fn read_block(&self, range: &BlockRange) -> Result<Vec<u8>> {
        let (position, length) = (range.position(), u64::from(range.length()));
        let size = self.scanner.size();
        if position + length > size {
            return Err(Error::PastEnd { position, length, size });
        }
        let mut data = vec![0; length as usize];
        self.scanner.read_into(position, &mut data)?;
        Ok(data)
    }
}

impl HasherChoice {
    fn for_block_size(&mut self, step: u64) -> Arc<BlockHasher> {
        /// More block sizes than a sensible client uses; what it costs to make one anew is a zero block's digest.
        const KEPT: usize = 4;
        if let Some(hasher) = self.hashers.iter().find(|hasher| hasher.block_size() == step) {
            return Arc::clone(hasher);
        }
        let hasher = Arc::new(BlockHasher::new(self.algorithm, &self.salt, step));
        if self.hashers.len() == KEPT {
            self.hashers.remove(0);
        }
        self.hashers.push(Arc::clone(&hasher));
        hasher
    }
}

fn lower_first(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_lowercase().collect::<String>() + letters.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// Whether any of many requests for `count` blocks is far ahead of a client of which
    /// `behind` requests are not used, or not known to be: it says so every 32 MiB.
    fn is_ever_far(step: u64, count: u32, behind: usize) -> bool {
        let mut ahead = Ahead::default();
        let mut open = VecDeque::new();
        let mut said = 0;
        let mut is_far = false;
        for index in 0..1000 {
            let range = HashRange::new(index * u64::from(count) * step, step, count).unwrap();
            is_far |= ahead.ask(range);
            open.push_back(range.end());
            if open.len() == behind {
                let used = open.pop_front().unwrap();
                if used >= said + 32 * MIB {
                    ahead.used_to(used);
                    said = used;
                }
            }
        }
        is_far
    }

    #[test]
    fn only_a_client_that_asks_for_much_is_served_by_one_thread() {
        // What a client has open, and what waits in front of the news.
        let behind = MAX_OPEN_HASH_REQUESTS + 1 + OPEN_REQUESTS;
        for step in [4096, 256 << 10, MIB, 4 * MIB, 64 * MIB] {
            let count = usual_length(step) / step;
            assert!(!is_ever_far(step, count as u32, behind), "our client with blocks of {step} bytes");
        }
        // Stock with MD5, and one like it that asks for less.
        assert!(is_ever_far(4096, 8190, behind));
        assert!(!is_ever_far(4096, 8190, 4));
    }

    #[test]
    fn a_second_pass_is_never_far() {
        let mut ahead = Ahead::default();
        let large = |index: u64| HashRange::new(index * 2048 * MIB, 256 << 10, 8192).unwrap();
        assert!(!ahead.ask(large(0)));
        assert!(ahead.ask(large(1)));
        assert!(!ahead.ask(HashRange::new(1024 * MIB, 4096, 64).unwrap()));
    }

    #[test]
    fn a_client_that_does_not_say_what_it_used_has_all_threads() {
        let mut silent = Ahead::default();
        let asked: Vec<_> =
            (0..200).map(|index| silent.ask(HashRange::new(index * 32 * MIB, 4096, 8190).unwrap())).collect();
        assert!(asked[10], "it has not been silent for long");
        assert!(!asked[100..].contains(&true));
    }
}
