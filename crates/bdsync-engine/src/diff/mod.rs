//! The client's run: compare a local device with a remote one, write a patch
//! (`proto-spec/protocol.md`, client; `proto-spec/patch.md`).

mod blocks;
mod plan;
mod run;

use std::io::{Read, Write};
use std::num::NonZeroU64;
use std::sync::Arc;

use bdsync_hash::Algorithm;
use bdsync_proto::patch::{PatchHeader, PatchStats, PatchWriter};
use bdsync_proto::{ClientEvent, ClientSession, DigestChoice, Hello, limits};

use crate::error::{Error, Result};
use crate::events::{Context, Event, Observer};
use crate::inbound::{Inbound, Queue};
use crate::options::{Salt, SizePolicy};
use crate::scan::Scanner;
use plan::Sizes;
pub(crate) use plan::usual_length;

/// A digest and the name by which the user asked for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedDigest {
    /// The digest.
    pub algorithm: Algorithm,
    /// The name that the peer is told and that stands in the patch.
    pub name: String,
}

/// How to compare.
#[derive(Clone, Debug)]
pub struct DiffOptions {
    /// Size of the blocks that are compared, in bytes.
    pub block_size: u64,
    /// The digest that compares them.
    pub digest: NamedDigest,
    /// The digest over everything that the patch shall carry.
    pub checksum: Option<NamedDigest>,
    /// Compare large blocks first, and small ones only where the large ones differ.
    pub two_pass: bool,
    /// Write the remote blocks into the patch, not the local ones.
    pub remote_data: bool,
    /// What to do when the sizes differ.
    pub size_policy: SizePolicy,
    /// Tell the observer when the sizes differ, although that is no error.
    pub warn_size: bool,
    /// Give back the page cache of what was read at once, at both ends.
    pub flush_cache: bool,
    /// What goes in front of each block.
    pub salt: Salt,
    /// Compare only this many parts of a mebibyte, spread evenly, with the first and the last.
    pub sample: Option<NonZeroU64>,
}

impl DiffOptions {
    /// Options as the command has them when nothing is said.
    pub fn new(digest: NamedDigest) -> Self {
        Self {
            block_size: 4096,
            digest,
            checksum: None,
            two_pass: false,
            remote_data: false,
            size_policy: SizePolicy::Strict,
            warn_size: true,
            flush_cache: false,
            salt: Salt::Random,
            sample: None,
        }
    }

    /// Says what is wrong with these options or names before anything is started.
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`], with the limits.
    pub fn check(&self, names: Names<'_>) -> Result<()> {
        let parameter = |text: String| Err(Error::Parameter(text));
        if !(1..=limits::MAX_BLOCK_SIZE).contains(&self.block_size) {
            let (size, most) = (self.block_size, limits::MAX_BLOCK_SIZE);
            return parameter(format!("Bad block size {size}: it must be from 1 to {most} bytes"));
        }
        let length = names.remote.len();
        if !(limits::MIN_DEVICE_NAME..=limits::MAX_DEVICE_NAME).contains(&length) {
            let (least, most) = (limits::MIN_DEVICE_NAME, limits::MAX_DEVICE_NAME);
            return parameter(format!(
                "Bad remote device name of {length} bytes: it must have from {least} to {most} (for a short one write ./NAME)"
            ));
        }
        let length = names.local.len();
        if self.remote_data && !(1..=limits::MAX_DEVICE_NAME).contains(&length) {
            let most = limits::MAX_DEVICE_NAME;
            return parameter(format!("Bad local device name of {length} bytes: a patch holds from 1 to {most}"));
        }
        Ok(())
    }
}

/// What a run found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiffStats {
    /// How many bytes the remote device has.
    pub remote_bytes: u64,
    /// How many bytes were compared.
    pub compared_bytes: u64,
    /// How many blocks differ.
    pub differing_blocks: u64,
    /// What was written.
    pub patch: PatchStats,
}

/// Where the peer is.
#[derive(Debug)]
pub struct Peer<R, W> {
    /// Bytes from the server.
    pub input: R,
    /// Bytes for the server.
    pub output: W,
}

/// What the two devices are called.
#[derive(Clone, Copy, Debug)]
pub struct Names<'a> {
    /// What a patch calls the local device when it is the one to be patched.
    pub local: &'a [u8],
    /// The device that the server is to open.
    pub remote: &'a [u8],
}

/// Compares the scanner's device with the one at the peer and writes the
/// differences into `patch`, which is flushed.
///
/// # Errors
///
/// Whatever ends the run early; the patch has no end marker then, and the scanner is
/// stopped: nothing reads the device any more.
pub fn diff<R, W, P>(
    scanner: &Arc<Scanner>,
    names: Names<'_>,
    peer: Peer<R, W>,
    patch: P,
    options: &DiffOptions,
    context: Context<'_>,
) -> Result<(P, DiffStats)>
where
    R: Read + Send + 'static,
    W: Write,
    P: Write,
{
    options.check(names)?;
    let observer = context.observer;
    let mut queue = Queue::new();
    queue.read_peer(peer.input, |_| false)?;
    let session = ClientSession::new(&Hello::client(), names.remote);
    let mut connection = Connection { session, output: peer.output, queue, context };

    let remote_size = connection.open()?;
    let sizes = compare_sizes(scanner.device().size(), remote_size, options, observer)?;
    if sizes.cut_to_smaller {
        // The remote end knows nothing of it and keeps what it has behind that.
        scanner.cut_to(sizes.patch_size());
    }
    let device = if options.remote_data { names.local } else { names.remote };
    let header = PatchHeader { size: sizes.patch_size(), device: device.to_vec() };
    let writer = PatchWriter::new(patch, &header).map_err(Error::WritePatch)?;

    let choice = DigestChoice {
        salt: salt_bytes(&options.salt)?,
        digest: options.digest.name.clone(),
        // Only the end that has the data can compute the digest over it.
        checksum: options.checksum.as_ref().filter(|_| options.remote_data).map(|checksum| checksum.name.clone()),
    };
    observer.event(&Event::Digests {
        salt: choice.salt.clone(),
        digest: choice.digest.clone(),
        checksum: choice.checksum.clone(),
    });
    let salt = choice.salt.clone();
    let checksum_size = options.checksum.as_ref().map_or(0, |checksum| checksum.algorithm.digest_size());
    connection.session.choose_digests(choice, options.digest.algorithm.digest_size(), checksum_size);
    let result = run::Run::new(scanner, connection, writer, sizes, options, &salt).and_then(run::Run::complete);
    if result.is_err() {
        scanner.stop();
    }
    result
}

fn compare_sizes(local: u64, remote: u64, options: &DiffOptions, observer: &dyn Observer) -> Result<Sizes> {
    if local != remote {
        if options.size_policy == SizePolicy::Strict {
            let (near, far) = ("local", "remote");
            return Err(Error::DifferentSizes { near, near_bytes: local, far, far_bytes: remote });
        }
        if options.warn_size {
            observer.event(&Event::SizesDiffer { local, remote });
        }
    }
    Ok(Sizes {
        local,
        remote,
        cut_to_smaller: options.size_policy == SizePolicy::MinSize,
        remote_data: options.remote_data,
    })
}

fn salt_bytes(salt: &Salt) -> Result<Vec<u8>> {
    match salt {
        Salt::Fixed(bytes) => Ok(bytes.clone()),
        Salt::Random => {
            let mut bytes = vec![0; Salt::LENGTH];
            let count = rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::empty())
                .map_err(|error| Error::Random(error.into()))?;
            if count < Salt::LENGTH {
                return Err(Error::Random(std::io::ErrorKind::UnexpectedEof.into()));
            }
            Ok(bytes)
        }
    }
}

/// A session and the streams under it.
pub(crate) struct Connection<'a, W> {
    pub(crate) session: ClientSession,
    output: W,
    pub(crate) queue: Queue,
    pub(crate) context: Context<'a>,
}

impl<W: Write> Connection<'_, W> {
    /// Exchanges hellos and gets the remote device's size.
    fn open(&mut self) -> Result<u64> {
        loop {
            self.send()?;
            match self.session.poll()? {
                Some(ClientEvent::Hello(hello)) => {
                    self.context.observer.event(&Event::PeerHello { word: hello.word().to_string() });
                }
                Some(ClientEvent::Size(size)) => {
                    self.context.observer.event(&Event::RemoteSize(size));
                    return Ok(size);
                }
                // The session lets nothing else through before the size.
                Some(_) => {}
                None => {
                    self.queue.used_up();
                    let inbound = self.receive()?;
                    debug_assert!(inbound.is_none(), "nothing else is under way yet");
                }
            }
        }
    }

    /// Sends what the session has to say.
    pub(crate) fn send(&mut self) -> Result<()> {
        let bytes = self.session.output();
        if bytes.is_empty() {
            return Ok(());
        }
        let sent = self.output.write_all(bytes).and_then(|()| self.output.flush());
        bytes.clear();
        match sent {
            Ok(()) => Ok(()),
            // A peer that went away says more in what it sent last, or by having sent nothing.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => self.read_to_the_end(error),
            Err(error) => Err(Error::WritePeer(error)),
        }
    }

    /// Waits for something to happen. Bytes of the peer go to the session; anything else is given back.
    pub(crate) fn receive(&mut self) -> Result<Option<Inbound>> {
        match self.queue.next(self.context)? {
            Inbound::Bytes { bytes, .. } => {
                self.session.receive(&bytes);
                Ok(None)
            }
            Inbound::End => {
                self.session.end_of_input()?;
                Ok(None)
            }
            Inbound::Failed(error) => Err(Error::ReadPeer(error)),
            other => Ok(Some(other)),
        }
    }

    fn read_to_the_end(&mut self, error: std::io::Error) -> Result<()> {
        loop {
            while self.session.poll()?.is_some() {}
            self.queue.used_up();
            if self.session.is_done() {
                return Err(Error::WritePeer(error));
            }
            self.receive()?;
        }
    }
}
