//! Messages of the agent's extension (`proto-spec/agent.md`).

use crate::error::ProtocolError;
use crate::limits::MAX_MESSAGE;

/// The version of the extension that is spoken.
pub const AGENT_VERSION: &str = "1";

/// The capability that names it in a hello.
pub const CAPABILITY: &str = "agent";

/// The capability for compressed pieces.
pub const ZSTD: &str = "zstd";

/// Longest piece of a patch or of data, decoded, in bytes.
pub const MAX_PIECE: usize = 131_000;

/// Fewest and most leaves in a span.
pub const FANOUT: std::ops::RangeInclusive<u64> = 2..=1024;

/// The most spans that an agent may be ahead.
pub const MAX_WINDOW: u64 = 65_536;

/// How many leaves may be asked for and not answered.
pub const MAX_OPEN_LEAVES: u64 = 1 << 20;

/// How many bytes may be fetched and not answered.
pub const MAX_OPEN_FETCH: u64 = 16 << 20;

/// How many digests one message may have.
pub const MAX_DIGESTS: usize = 65_536;

/// Marks a run of equal digests.
const REPEATED: u32 = 1 << 31;

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum AgentMessage {
    /// A JSON object: what to do.
    Request = 64,
    /// A JSON object: what came of it.
    Answer = 65,
    /// A JSON object: how far it is.
    Progress = 66,
    /// Digests of spans.
    Digests = 70,
    /// Asks for the leaves of spans.
    Refine = 71,
    /// The leaves of one span.
    Leaves = 72,
    /// Spans that are dealt with.
    Release = 73,
    /// Asks for bytes of the device.
    Fetch = 74,
    /// Bytes of the device.
    Data = 75,
    /// What comes next in the patch.
    Patch = 76,
    /// The end of a comparison.
    End = 77,
}

impl AgentMessage {
    /// Every type there is.
    pub const ALL: [Self; 11] = [
        Self::Request,
        Self::Answer,
        Self::Progress,
        Self::Digests,
        Self::Refine,
        Self::Leaves,
        Self::Release,
        Self::Fetch,
        Self::Data,
        Self::Patch,
        Self::End,
    ];
}

impl TryFrom<u8> for AgentMessage {
    type Error = ProtocolError;

    fn try_from(kind: u8) -> Result<Self, ProtocolError> {
        Self::ALL.into_iter().find(|known| *known as u8 == kind).ok_or(ProtocolError::UnknownType(kind))
    }
}

/// A message that must not be: what is wrong with it.
pub fn bad(message: AgentMessage, reason: impl Into<String>) -> ProtocolError {
    ProtocolError::BadAgentMessage { message, reason: reason.into() }
}

/// Appends a message to `output`.
///
/// # Panics
///
/// If it is longer than the protocol allows: that is a mistake of the caller.
pub fn encode(output: &mut Vec<u8>, message: AgentMessage, parts: &[&[u8]]) {
    let length = 1 + parts.iter().map(|part| part.len()).sum::<usize>();
    assert!(length <= MAX_MESSAGE, "a {message:?} message of {length} bytes");
    output.extend_from_slice(&(length as u32).to_le_bytes());
    output.push(message as u8);
    for part in parts {
        output.extend_from_slice(part);
    }
}

/// Reads the length of a message that begins with these bytes.
///
/// # Errors
///
/// None can have this length.
pub fn message_length(head: [u8; 4]) -> Result<usize, ProtocolError> {
    let length = u32::from_le_bytes(head);
    match length {
        0 => Err(ProtocolError::EmptyMessage),
        _ if length as usize > MAX_MESSAGE => Err(ProtocolError::MessageTooLong { length }),
        _ => Ok(length as usize),
    }
}

/// Some digests in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Run<'a> {
    /// So many times the same.
    Repeated(u32, &'a [u8]),
    /// One after another.
    Listed(&'a [u8]),
}

/// Collects digests for one message.
#[derive(Debug)]
pub struct DigestWriter {
    payload: Vec<u8>,
    digest_size: usize,
}

impl DigestWriter {
    /// For digests that begin with that of this span.
    pub fn new(first: u64, digest_size: usize) -> Self {
        Self { payload: first.to_le_bytes().to_vec(), digest_size }
    }

    /// Adds a run of equal digests.
    pub fn repeat(&mut self, count: u32, digest: &[u8]) {
        debug_assert!(count < REPEATED && digest.len() == self.digest_size);
        self.payload.extend_from_slice(&(count | REPEATED).to_le_bytes());
        self.payload.extend_from_slice(digest);
    }

    /// Adds digests, one after another; equal neighbours become runs.
    pub fn list(&mut self, digests: &[u8]) {
        let size = self.digest_size;
        let mut rest = digests;
        while !rest.is_empty() {
            let first = &rest[..size];
            let equal = rest.chunks_exact(size).take_while(|digest| *digest == first).count();
            if equal > 1 {
                self.repeat(equal as u32, first);
                rest = &rest[equal * size..];
                continue;
            }
            // Up to where the next run begins.
            let pairs = rest.chunks_exact(size).zip(rest.chunks_exact(size).skip(1));
            let single = pairs.take_while(|(a, b)| a != b).count();
            let listed = if single + 1 == rest.len() / size { single + 1 } else { single };
            self.payload.extend_from_slice(&(listed as u32).to_le_bytes());
            self.payload.extend_from_slice(&rest[..listed * size]);
            rest = &rest[listed * size..];
        }
    }

    /// How many more bytes of digests surely fit.
    pub fn room(&self) -> usize {
        // A digest on its own costs four bytes more at most.
        let left = (MAX_MESSAGE - 1).saturating_sub(self.payload.len());
        left / (self.digest_size + 4) * self.digest_size
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.payload.len() == 8
    }

    /// The message's payload.
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }
}

/// Reads a payload with digests: the number in front, and the runs.
///
/// # Errors
///
/// It is cut off, or has an empty run, or too many digests one by one.
pub fn read_digests(
    message: AgentMessage,
    payload: &[u8],
    digest_size: usize,
) -> Result<(u64, Vec<Run<'_>>), ProtocolError> {
    let short = || bad(message, "it is cut off");
    let (first, mut rest) = payload.split_first_chunk::<8>().ok_or_else(short)?;
    let mut runs = Vec::new();
    let mut listed = 0;
    while !rest.is_empty() {
        let (count, digests) = rest.split_first_chunk::<4>().ok_or_else(short)?;
        let count = u32::from_le_bytes(*count);
        let (repeated, count) = (count & REPEATED != 0, count & !REPEATED);
        if count == 0 {
            return Err(bad(message, "it has an empty run"));
        }
        let wanted = if repeated { 1 } else { count as usize };
        listed += wanted;
        if listed > MAX_DIGESTS {
            return Err(bad(message, format!("it has more than {MAX_DIGESTS} digests")));
        }
        let length = wanted * digest_size;
        let (digests, behind) = digests.split_at_checked(length).ok_or_else(short)?;
        runs.push(if repeated { Run::Repeated(count, digests) } else { Run::Listed(digests) });
        rest = behind;
    }
    Ok((u64::from_le_bytes(*first), runs))
}

/// Pairs of a 64-bit and a 32-bit number: spans and counts, positions and lengths.
///
/// # Errors
///
/// The payload has another length, or a second number is 0.
pub fn read_pairs(message: AgentMessage, payload: &[u8]) -> Result<Vec<(u64, u32)>, ProtocolError> {
    let (pairs, rest) = payload.as_chunks::<12>();
    if !rest.is_empty() || pairs.is_empty() {
        return Err(bad(message, format!("it has {} bytes", payload.len())));
    }
    let pair = |bytes: &[u8; 12]| {
        let mut first = [0; 8];
        let mut second = [0; 4];
        first.copy_from_slice(&bytes[..8]);
        second.copy_from_slice(&bytes[8..]);
        (u64::from_le_bytes(first), u32::from_le_bytes(second))
    };
    let pairs: Vec<_> = pairs.iter().map(pair).collect();
    match pairs.iter().any(|(_, count)| *count == 0) {
        true => Err(bad(message, "it asks for nothing")),
        false => Ok(pairs),
    }
}

/// The payload of such pairs.
pub fn write_pairs(pairs: &[(u64, u32)]) -> Vec<u8> {
    pairs
        .iter()
        .flat_map(|(first, second)| [first.to_le_bytes().to_vec(), second.to_le_bytes().to_vec()].concat())
        .collect()
}

/// A payload that is one 64-bit number.
///
/// # Errors
///
/// It has another length.
pub fn read_number(message: AgentMessage, payload: &[u8]) -> Result<u64, ProtocolError> {
    let number: [u8; 8] = payload.try_into().map_err(|_| bad(message, format!("it has {} bytes", payload.len())))?;
    Ok(u64::from_le_bytes(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_come_out_as_they_went_in() {
        for digests in ["", "ab", "aabb", "abcd", "aaaa", "abbbcd", "aaabc", "abccc", "abab"] {
            let mut bytes = Vec::new();
            for letter in digests.bytes() {
                bytes.extend_from_slice(&[letter; 3]);
            }
            let mut writer = DigestWriter::new(7, 3);
            writer.list(&bytes);
            let (first, runs) = read_digests(AgentMessage::Digests, writer.payload(), 3).unwrap();
            let mut read = Vec::new();
            for run in runs {
                match run {
                    Run::Repeated(count, digest) => (0..count).for_each(|_| read.extend_from_slice(digest)),
                    Run::Listed(digests) => read.extend_from_slice(digests),
                }
            }
            assert_eq!((first, read), (7, bytes), "{digests}");
        }
    }

    #[test]
    fn a_terabyte_of_zeros_is_a_few_bytes() {
        let mut writer = DigestWriter::new(0, 16);
        writer.repeat(1 << 30, &[1; 16]);
        assert_eq!(writer.payload().len(), 28);
    }

    #[test]
    fn what_fits_is_known_before() {
        let mut writer = DigestWriter::new(0, 16);
        let mut digests = Vec::new();
        // The worst there is: runs of two between single ones.
        for index in 0..writer.room() as u32 / 16 {
            digests.extend_from_slice(&[(index / 3 * 2 + u32::from(index % 3 == 2)) as u8; 16]);
        }
        writer.list(&digests);
        encode(&mut Vec::new(), AgentMessage::Digests, &[writer.payload()]);
        assert!(writer.room() < 100_000);
    }

    #[test]
    fn damaged_messages_are_refused() {
        let read = |payload: &[u8]| read_digests(AgentMessage::Digests, payload, 4).map(drop);
        let mut writer = DigestWriter::new(0, 4);
        writer.list(&[1, 2, 3, 4, 5, 6, 7, 8]);
        writer.repeat(9, &[1; 4]);
        let good = writer.payload().to_vec();
        for end in 0..good.len() {
            // A message may end behind any of its runs.
            assert_eq!(read(&good[..end]).is_ok(), [8, 20].contains(&end), "{end}");
        }
        assert!(read(&[0; 12]).is_err());
        let mut huge = vec![0; 8];
        huge.extend_from_slice(&(REPEATED - 1).to_le_bytes());
        assert!(read(&huge).is_err());
        assert!(read_pairs(AgentMessage::Refine, &[]).is_err());
        assert!(read_pairs(AgentMessage::Refine, &[0; 12]).is_err());
        assert!(read_pairs(AgentMessage::Refine, &[1; 13]).is_err());
        assert_eq!(read_pairs(AgentMessage::Refine, &write_pairs(&[(1, 2), (3, 4)])).unwrap(), [(1, 2), (3, 4)]);
        assert!(read_number(AgentMessage::Release, &[0; 7]).is_err());
        assert!(AgentMessage::try_from(2).is_err());
        assert!(message_length([0; 4]).is_err() && message_length([255; 4]).is_err());
    }
}
