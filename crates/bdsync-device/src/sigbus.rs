//! Surviving SIGBUS in memory maps that we watch.
//!
//! Touching a mapped page that its file no longer has, or that its disk cannot
//! read, raises SIGBUS in the thread that touches it. The handler here puts a
//! page of zeros in its place and remembers where that was; the reader asks
//! afterwards. A SIGBUS anywhere else gets what it would have got without us.

use std::io;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// How many maps can be watched at once.
const SLOTS: usize = 64;

const NO_FAULT: usize = usize::MAX;

struct Slot {
    taken: AtomicBool,
    start: AtomicUsize,
    /// 0 while the slot watches nothing.
    end: AtomicUsize,
    /// Lowest address that faulted, or `NO_FAULT`.
    fault: AtomicUsize,
}

static SLOT: [Slot; SLOTS] = [const {
    Slot {
        taken: AtomicBool::new(false),
        start: AtomicUsize::new(0),
        end: AtomicUsize::new(0),
        fault: AtomicUsize::new(NO_FAULT),
    }
}; SLOTS];

static PAGE_SIZE: AtomicUsize = AtomicUsize::new(4096);
static INSTALL: Once = Once::new();
static INSTALLED: AtomicBool = AtomicBool::new(false);

/// Watches one map while it lives.
#[derive(Debug)]
pub(crate) struct Guard {
    slot: usize,
}

impl Guard {
    /// Watches the `length` bytes from address `start` on.
    pub(crate) fn new(start: usize, length: usize) -> io::Result<Self> {
        install();
        if !INSTALLED.load(Ordering::Acquire) {
            return Err(io::Error::other("cannot install a handler for SIGBUS"));
        }
        let free = |slot: &&Slot| slot.taken.compare_exchange(false, true, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        let Some(index) = SLOT.iter().position(|slot| free(&slot)) else {
            return Err(io::Error::other("too many memory maps at once"));
        };
        let slot = &SLOT[index];
        slot.fault.store(NO_FAULT, Ordering::Relaxed);
        slot.start.store(start, Ordering::Relaxed);
        slot.end.store(start + length, Ordering::Release);
        Ok(Self { slot: index })
    }

    /// The offset of the first page that had to be replaced, if any was.
    pub(crate) fn first_fault(&self) -> Option<usize> {
        let slot = &SLOT[self.slot];
        match slot.fault.load(Ordering::Acquire) {
            NO_FAULT => None,
            address => Some(address - slot.start.load(Ordering::Relaxed)),
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let slot = &SLOT[self.slot];
        slot.end.store(0, Ordering::Release);
        slot.start.store(0, Ordering::Relaxed);
        slot.taken.store(false, Ordering::Release);
    }
}

fn install() {
    INSTALL.call_once(|| {
        PAGE_SIZE.store(rustix::param::page_size(), Ordering::Relaxed);
        // SAFETY: a zeroed sigaction is a valid value, and every field that matters is set below.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = handle as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
        // SAFETY: both pointers are to valid sigaction values or null, and the
        // handler does only what a signal handler may.
        let result = unsafe { libc::sigaction(libc::SIGBUS, &action, std::ptr::null_mut()) };
        INSTALLED.store(result == 0, Ordering::Release);
    });
}

extern "C" fn handle(signal: libc::c_int, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid siginfo to a SA_SIGINFO handler; for SIGBUS it has an address.
    let address = unsafe { (*info).si_addr() } as usize;
    // SAFETY: the address of errno is this thread's own.
    let errno = unsafe { *libc::__errno_location() };
    let page_size = PAGE_SIZE.load(Ordering::Relaxed);
    let page = address & !(page_size - 1);
    for slot in &SLOT {
        let end = slot.end.load(Ordering::Acquire);
        let start = slot.start.load(Ordering::Relaxed);
        if address < start || address >= end {
            continue;
        }
        // Said first: whoever sees the zeros must find it.
        slot.fault.fetch_min(page.max(start), Ordering::AcqRel);
        // SAFETY: the page lies in a map that a live guard watches, so replacing
        // it frees nothing that is used otherwise; mmap is a plain system call.
        let replaced = unsafe {
            libc::mmap(
                page as *mut libc::c_void,
                page_size,
                libc::PROT_READ,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED,
                -1,
                0,
            )
        };
        // SAFETY: the address of errno is this thread's own.
        unsafe { *libc::__errno_location() = errno };
        if replaced == libc::MAP_FAILED {
            break;
        }
        return;
    }
    // Not ours: the default action takes place when the instruction is run again.
    // SAFETY: signal(2) with SIG_DFL is async-signal-safe.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
}
