//! Pieces of patches and data, compressed where that is faster.

use std::borrow::Cow;
use std::io::{self, Write};
use std::time::{Duration, Instant};

use bdsync_proto::agent::{AgentMessage, MAX_PIECE, bad};

use super::link::Output;
use crate::error::{Error, Result};

const PLAIN: u8 = 0;
const ZSTD: u8 = 1;

/// How much is gathered for one piece, in bytes: whole pages, so that those are written
/// whole at the other end.
const GATHERED: usize = MAX_PIECE & !4095;

/// The compression level: the fastest of the usual ones.
const LEVEL: i32 = 1;

/// How many pieces in a row go uncompressed before it is tried again, at most.
const LONGEST_PAUSE: u32 = 64;

/// A decoded piece, in the memory of the message that it came with where it can be.
#[derive(Debug)]
pub struct Piece {
    memory: Vec<u8>,
    start: usize,
}

impl Piece {
    /// Decodes the piece that is a message's whole payload.
    ///
    /// # Errors
    ///
    /// It is none, or too long.
    pub(crate) fn decode(message: AgentMessage, payload: Vec<u8>) -> Result<Self> {
        match decode_piece(message, &payload)? {
            Cow::Borrowed(bytes) => Ok(Self { start: payload.len() - bytes.len(), memory: payload }),
            Cow::Owned(memory) => Ok(Self { memory, start: 0 }),
        }
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.memory[self.start..]
    }

    /// Memory for another message.
    pub fn into_memory(self) -> Vec<u8> {
        self.memory
    }
}

/// Decodes a piece.
///
/// # Errors
///
/// It is none, or too long.
pub fn decode_piece(message: AgentMessage, piece: &[u8]) -> Result<Cow<'_, [u8]>> {
    let bytes = match piece.split_first() {
        Some((&PLAIN, bytes)) => Cow::Borrowed(bytes),
        Some((&ZSTD, bytes)) => {
            let decoded = zstd::bulk::decompress(bytes, MAX_PIECE);
            decoded.map_err(|error| bad(message, format!("it cannot be decompressed: {error}")))?.into()
        }
        _ => return Err(bad(message, "its encoding is unknown").into()),
    };
    match bytes.len() {
        length if length > MAX_PIECE => Err(bad(message, format!("a piece of {length} bytes")).into()),
        _ => Ok(bytes),
    }
}

/// Sends bytes in pieces, and finds out whether it pays to compress them.
pub struct PieceWriter {
    output: Output,
    message: AgentMessage,
    compressor: Option<Compressor>,
    buffer: Vec<u8>,
    /// What went over the line, in bytes.
    pub sent_bytes: u64,
}

struct Compressor {
    zstd: zstd::bulk::Compressor<'static>,
    /// Seconds that the line takes for a byte; what it took lately.
    line: f64,
    /// How many more pieces are not tried, and how many that were when it was last of no use.
    pause: u32,
    last_pause: u32,
}

impl PieceWriter {
    /// For `patch` or `data` messages.
    ///
    /// # Errors
    ///
    /// There is no memory.
    pub fn new(output: Output, message: AgentMessage, zstd: bool) -> Result<Self> {
        let compressor = match zstd {
            true => {
                let zstd = zstd::bulk::Compressor::new(LEVEL);
                let zstd = zstd.map_err(|error| Error::Resources(format!("no memory to compress: {error}")))?;
                Some(Compressor { zstd, line: 0.0, pause: 0, last_pause: 0 })
            }
            false => None,
        };
        Ok(Self { output, message, compressor, buffer: Vec::new(), sent_bytes: 0 })
    }

    /// Sends one piece with `head` in front.
    ///
    /// # Errors
    ///
    /// The connection.
    pub fn send(&mut self, head: &[u8], bytes: &[u8]) -> Result<()> {
        debug_assert!(bytes.len() <= MAX_PIECE);
        let mut packed = None;
        if let Some(compressor) = &mut self.compressor {
            packed = compressor.pack(bytes);
        }
        let begin = Instant::now();
        let (encoding, body) = packed.as_ref().map_or((PLAIN, bytes), |packed| (ZSTD, packed.as_slice()));
        self.output.send(self.message, &[head, &[encoding], body])?;
        self.sent_bytes += body.len() as u64;
        if let Some(compressor) = &mut self.compressor {
            compressor.measure(begin.elapsed(), body.len());
        }
        Ok(())
    }
}

impl Compressor {
    /// The bytes compressed, if that is likely to be faster than to send them as they are.
    fn pack(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        if self.pause > 0 {
            self.pause -= 1;
            return None;
        }
        let begin = Instant::now();
        let packed = self.zstd.compress(bytes).ok().filter(|packed| packed.len() < bytes.len());
        let cost = begin.elapsed().as_secs_f64();
        let saved = packed.as_ref().map_or(0, |packed| bytes.len() - packed.len()) as f64 * self.line;
        // While nothing is known of the line, a third less is worth it.
        let pays = match self.line > 0.0 {
            true => saved > cost,
            false => packed.as_ref().is_some_and(|packed| packed.len() * 3 < bytes.len() * 2),
        };
        if pays {
            self.last_pause = 0;
        } else {
            self.last_pause = (self.last_pause * 2 + 1).min(LONGEST_PAUSE);
            self.pause = self.last_pause;
        }
        packed.filter(|_| pays)
    }

    /// Learns how fast the line takes bytes. What goes into a buffer takes no time: the
    /// average over many pieces tells.
    fn measure(&mut self, took: Duration, bytes: usize) {
        let now = took.as_secs_f64() / bytes.max(1) as f64;
        self.line = if self.line == 0.0 { now } else { self.line * 0.95 + now * 0.05 };
    }
}

impl Write for PieceWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(GATHERED - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..count]);
        if self.buffer.len() == GATHERED {
            self.flush()?;
        }
        Ok(count)
    }

    /// Sends what was gathered, as a piece of its own.
    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let buffer = std::mem::take(&mut self.buffer);
        let sent = self.send(&[], &buffer);
        self.buffer = buffer;
        self.buffer.clear();
        sent.map_err(|error| match error {
            Error::WritePeer(error) => error,
            error => io::Error::other(error.to_string()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_is_what_it_was() {
        assert_eq!(*decode_piece(AgentMessage::Patch, b"\0abc").unwrap(), *b"abc");
        let mut packed = vec![ZSTD];
        packed.extend(zstd::bulk::compress(&[7; MAX_PIECE], LEVEL).unwrap());
        assert_eq!(*decode_piece(AgentMessage::Patch, &packed).unwrap(), [7; MAX_PIECE]);
    }

    #[test]
    fn what_is_no_piece_is_refused() {
        for piece in [&b""[..], b"\x02abc", b"\x01abc"] {
            assert!(decode_piece(AgentMessage::Patch, piece).is_err());
        }
        let mut bomb = vec![ZSTD];
        bomb.extend(zstd::bulk::compress(&vec![0; MAX_PIECE * 100], LEVEL).unwrap());
        assert!(decode_piece(AgentMessage::Patch, &bomb).is_err());
    }
}
