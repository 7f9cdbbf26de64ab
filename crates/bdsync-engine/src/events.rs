//! What the engine tells while it works, and how it is told to stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bdsync_proto::HashRange;

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A device was opened.
    Opened {
        /// Its name as it was given.
        device: String,
    },
    /// The other end said hello.
    PeerHello {
        /// The word in front of the version.
        word: String,
    },
    /// The remote device has this size in bytes.
    RemoteSize(u64),
    /// The digests were chosen.
    Digests {
        /// The salt.
        salt: Vec<u8>,
        /// The digest that compares blocks.
        digest: String,
        /// The digest over everything.
        checksum: Option<String>,
    },
    /// Digests of a range were asked for.
    HashesRequested(HashRange),
    /// The sizes of the devices differ, and that is to be said.
    SizesDiffer {
        /// Size of the local device (of the target, when applying), in bytes.
        local: u64,
        /// Size of the remote device (in the patch, when applying), in bytes.
        remote: u64,
    },
    /// The patch was made for a device of another name, and that is to be said.
    NamesDiffer {
        /// The name that was given.
        given: String,
        /// The name in the patch.
        in_patch: String,
    },
    /// How far it is.
    Progress {
        /// Everything before this position is compared, in bytes.
        position: u64,
        /// How much there is to compare, in bytes.
        size: u64,
        /// Length of the patch so far, in bytes.
        patch_bytes: u64,
    },
    /// So much of a patch is applied.
    Applied {
        /// How many bytes were written to the target.
        data_bytes: u64,
    },
    /// Nothing happened for a moment; a display may refresh itself.
    Waiting,
    /// The session is over.
    SessionDone,
}

/// Takes the engine's events.
pub trait Observer {
    /// Called for each event, in order, from the thread that the operation was called in.
    fn event(&self, event: &Event);
}

impl<F: Fn(&Event)> Observer for F {
    fn event(&self, event: &Event) {
        self(event);
    }
}

/// Whom an operation tells what happens, and who may stop it.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// Takes the events.
    pub observer: &'a dyn Observer,
    /// The switch to stop.
    pub cancellation: &'a Cancellation,
}

/// Tells running operations to stop. Clones are the same switch.
#[derive(Clone, Debug, Default)]
pub struct Cancellation(Arc<AtomicBool>);

impl Cancellation {
    /// A switch that is not thrown.
    pub fn new() -> Self {
        Self::default()
    }

    /// Tells every operation that has this switch to stop soon, with
    /// [`Error::Cancelled`](crate::Error::Cancelled).
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether it was thrown.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    pub(crate) fn check(&self) -> crate::Result<()> {
        if self.is_cancelled() { Err(crate::Error::Cancelled) } else { Ok(()) }
    }
}
