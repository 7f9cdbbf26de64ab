//! Bytes on their way to an SSH channel: what a pipe would do, without the system
//! copying everything twice.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How much a chunk holds, in bytes.
const CHUNK: usize = 256 << 10;

/// How many chunks may wait.
const CHUNKS: usize = 4;

/// From how few on somebody who waits for room goes on: not for every single chunk.
const FEW: usize = CHUNKS / 2;

/// Makes one. `wake` is written to when there is something to read after there was nothing.
pub(crate) fn feed(wake: &Arc<OwnedFd>) -> (FeedWriter, FeedReader) {
    let shared = Arc::<Shared>::default();
    (FeedWriter { shared: Arc::clone(&shared), wake: Arc::clone(wake) }, FeedReader { shared })
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    room: Condvar,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Default)]
struct State {
    chunks: VecDeque<Vec<u8>>,
    /// Chunks that were read, to be filled again.
    free: Vec<Vec<u8>>,
    is_ended: bool,
    is_broken: bool,
}

/// The end that is written to; the stream ends when it is dropped.
pub(crate) struct FeedWriter {
    shared: Arc<Shared>,
    wake: Arc<OwnedFd>,
}

impl FeedWriter {
    /// Takes some of `bytes`; `None` if there was no room for any within `tick`.
    ///
    /// # Errors
    ///
    /// Nobody reads any more.
    pub(crate) fn write(&mut self, bytes: &[u8], tick: Duration) -> io::Result<Option<usize>> {
        let mut state = self.shared.state();
        let has_room =
            |state: &State| state.chunks.len() < CHUNKS || state.chunks.back().is_some_and(|last| last.len() < CHUNK);
        if !state.is_broken && !has_room(&state) {
            let is_full = |state: &mut State| !state.is_broken && state.chunks.len() > FEW;
            let waited = self.shared.room.wait_timeout_while(state, tick, is_full);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            if !state.is_broken && !has_room(&state) {
                return Ok(None);
            }
        }
        if state.is_broken {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let was_empty = state.chunks.is_empty();
        let mut rest = bytes;
        while !rest.is_empty() {
            if state.chunks.back().is_none_or(|last| last.len() == CHUNK) {
                if state.chunks.len() == CHUNKS {
                    break;
                }
                let chunk = state.free.pop().unwrap_or_else(|| Vec::with_capacity(CHUNK));
                state.chunks.push_back(chunk);
            }
            if let Some(last) = state.chunks.back_mut() {
                let (now, later) = rest.split_at(rest.len().min(CHUNK - last.len()));
                last.extend_from_slice(now);
                rest = later;
            }
        }
        drop(state);
        if was_empty {
            self.wake();
        }
        Ok(Some(bytes.len() - rest.len()))
    }

    fn wake(&self) {
        let _ = rustix::io::write(&*self.wake, &1u64.to_ne_bytes());
    }
}

impl Drop for FeedWriter {
    fn drop(&mut self) {
        self.shared.state().is_ended = true;
        self.wake();
    }
}

/// What there is to read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Fed {
    Chunk(Vec<u8>),
    /// Nothing yet.
    Nothing,
    /// Nothing any more.
    End,
}

/// The end that is read; who writes is told when it is dropped.
pub(crate) struct FeedReader {
    shared: Arc<Shared>,
}

impl FeedReader {
    /// The next chunk. `used` is one that was taken before, to be filled again.
    pub(crate) fn take(&mut self, used: Vec<u8>) -> Fed {
        let mut state = self.shared.state();
        if used.capacity() >= CHUNK && state.free.len() < CHUNKS {
            let mut used = used;
            used.clear();
            state.free.push(used);
        }
        match state.chunks.pop_front() {
            Some(chunk) => {
                if state.chunks.len() == FEW {
                    self.shared.room.notify_one();
                }
                Fed::Chunk(chunk)
            }
            None if state.is_ended => Fed::End,
            None => Fed::Nothing,
        }
    }
}

impl Drop for FeedReader {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        state.is_broken = true;
        (state.chunks, state.free) = Default::default();
        drop(state);
        self.shared.room.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new() -> (FeedWriter, FeedReader, Arc<OwnedFd>) {
        let flags = rustix::event::EventfdFlags::NONBLOCK;
        let wake = Arc::new(rustix::event::eventfd(0, flags).unwrap());
        let (writer, reader) = feed(&wake);
        (writer, reader, wake)
    }

    fn was_woken(wake: &OwnedFd) -> bool {
        rustix::io::read(wake, &mut [0; 8]).is_ok()
    }

    const TICK: Duration = Duration::from_millis(5);

    #[test]
    fn bytes_come_out_in_order_and_then_the_end() {
        let (mut writer, mut reader, wake) = new();
        assert_eq!(reader.take(Vec::new()), Fed::Nothing);
        assert_eq!(writer.write(b"ab", TICK).unwrap(), Some(2));
        assert!(was_woken(&wake));
        assert_eq!(writer.write(b"c", TICK).unwrap(), Some(1));
        assert!(!was_woken(&wake), "it is awake");
        assert_eq!(reader.take(Vec::new()), Fed::Chunk(b"abc".to_vec()));
        drop(writer);
        assert!(was_woken(&wake));
        assert_eq!(reader.take(Vec::new()), Fed::End);
    }

    #[test]
    fn a_writer_waits_for_room_and_goes_on() {
        let (mut writer, mut reader, _wake) = new();
        let all: Vec<u8> = (0..20 * CHUNK + 5).map(|index| index as u8 ^ (index >> 8) as u8).collect();
        assert_eq!(writer.write(&all, TICK).unwrap(), Some(CHUNK * CHUNKS));
        assert_eq!(writer.write(&all, TICK).unwrap(), None);
        let (bytes, mut found, mut used) = (all.clone(), Vec::new(), Vec::new());
        let thread = std::thread::spawn(move || {
            let mut rest = &bytes[CHUNK * CHUNKS..];
            while !rest.is_empty() {
                rest = &rest[writer.write(rest, TICK).unwrap().unwrap_or(0)..];
            }
        });
        loop {
            match reader.take(std::mem::take(&mut used)) {
                Fed::Chunk(chunk) => {
                    found.extend_from_slice(&chunk);
                    used = chunk;
                }
                Fed::Nothing => std::thread::yield_now(),
                Fed::End => break,
            }
        }
        thread.join().unwrap();
        assert!(found == all);
    }

    #[test]
    fn a_writer_learns_that_nobody_reads() {
        let (mut writer, reader, _wake) = new();
        writer.write(&vec![0; CHUNK * CHUNKS], TICK).unwrap();
        let thread = std::thread::spawn(move || writer.write(b"x", Duration::from_secs(60)));
        drop(reader);
        assert_eq!(thread.join().unwrap().unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
