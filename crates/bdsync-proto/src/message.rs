//! The messages: what each type carries and which values it may have
//! (`proto-spec/protocol.md`, messages; `proto-spec/limits.md`).
//!
//! A value of these types is valid: everything from outside is checked when it
//! is parsed.

use std::fmt;

use crate::error::ProtocolError;
use crate::frame::{Frame, encode};
use crate::hello::Hello;
use crate::limits::{MAX_DEVICE_NAME, MAX_DIGEST_NAME, MAX_MESSAGE, MAX_SALT, MAX_STEP, MIN_DEVICE_NAME};
use crate::request::{BlockRange, DigestChoice, HashRange, Hint};

/// The type byte of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
#[allow(missing_docs)] // the names are the wire's own, described in the protocol document
pub enum MessageType {
    Hello = 1,
    DevFile = 2,
    Size = 3,
    Digests = 4,
    GetHashes = 5,
    Hashes = 6,
    Done = 7,
    GetBlock = 8,
    Block = 9,
    GetChecksum = 10,
    Checksum = 11,
}

impl TryFrom<u8> for MessageType {
    type Error = ProtocolError;

    fn try_from(value: u8) -> Result<Self, ProtocolError> {
        Ok(match value {
            1 => Self::Hello,
            2 => Self::DevFile,
            3 => Self::Size,
            4 => Self::Digests,
            5 => Self::GetHashes,
            6 => Self::Hashes,
            7 => Self::Done,
            8 => Self::GetBlock,
            9 => Self::Block,
            10 => Self::GetChecksum,
            11 => Self::Checksum,
            other => return Err(ProtocolError::UnknownType(other)),
        })
    }
}

impl fmt::Display for MessageType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hello => "hello",
            Self::DevFile => "devfile",
            Self::Size => "size",
            Self::Digests => "digests",
            Self::GetHashes => "gethashes",
            Self::Hashes => "hashes",
            Self::Done => "done",
            Self::GetBlock => "getblock",
            Self::Block => "block",
            Self::GetChecksum => "getchecksum",
            Self::Checksum => "checksum",
        })
    }
}

/// One message of the protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Who speaks.
    Hello(Hello),
    /// Open this device; the name's raw bytes.
    DevFile(Vec<u8>),
    /// The device's size in bytes.
    Size(u64),
    /// How blocks are hashed from here on.
    Digests(DigestChoice),
    /// Send the digests of these blocks.
    GetHashes(HashRange),
    /// A gethashes with count 0.
    Hint(Hint),
    /// The digests of these blocks, one after another.
    Hashes(HashRange, Vec<u8>),
    /// A hashes with count 0: the hint was heard.
    HintHeard(Hint),
    /// The session is over.
    Done,
    /// Send these bytes.
    GetBlock(BlockRange),
    /// The bytes at this position.
    Block(u64, Vec<u8>),
    /// Send the digest over everything.
    GetChecksum,
    /// The digest over everything.
    Checksum(Vec<u8>),
}

impl Message {
    /// Which type this message is of.
    pub fn message_type(&self) -> MessageType {
        match self {
            Self::Hello(_) => MessageType::Hello,
            Self::DevFile(_) => MessageType::DevFile,
            Self::Size(_) => MessageType::Size,
            Self::Digests(_) => MessageType::Digests,
            Self::GetHashes(_) | Self::Hint(_) => MessageType::GetHashes,
            Self::Hashes(..) | Self::HintHeard(_) => MessageType::Hashes,
            Self::Done => MessageType::Done,
            Self::GetBlock(_) => MessageType::GetBlock,
            Self::Block(..) => MessageType::Block,
            Self::GetChecksum => MessageType::GetChecksum,
            Self::Checksum(_) => MessageType::Checksum,
        }
    }

    /// Reads the payload of a frame.
    ///
    /// # Errors
    ///
    /// A payload that its type does not allow, or that is beyond the limits.
    pub fn parse(frame: &Frame<'_>) -> Result<Self, ProtocolError> {
        let payload = frame.payload;
        let message = frame.message;
        let bad_length = || ProtocolError::BadLength { message, length: payload.len() };
        let mut fields = Fields { rest: payload, message, length: payload.len() };
        match message {
            MessageType::Hello => Hello::parse(payload).map(Self::Hello),
            MessageType::DevFile => parse_device_name(payload).map(Self::DevFile),
            MessageType::Size => {
                let size = fields.position("size")?;
                fields.end()?;
                Ok(Self::Size(size))
            }
            MessageType::Digests => parse_digests(payload).map(Self::Digests),
            MessageType::GetHashes => {
                let message = fields.hash_header()?;
                fields.end()?;
                Ok(match message {
                    HashHeader::Range(range) => Self::GetHashes(range),
                    HashHeader::Hint(hint) => Self::Hint(hint),
                })
            }
            MessageType::Hashes => match fields.hash_header()? {
                HashHeader::Range(range) => Ok(Self::Hashes(range, fields.rest.to_vec())),
                HashHeader::Hint(hint) => {
                    fields.end()?;
                    Ok(Self::HintHeard(hint))
                }
            },
            MessageType::GetBlock => {
                let position = fields.position("position")?;
                let length = fields.position("length")?;
                fields.end()?;
                BlockRange::new(position, length).map(Self::GetBlock)
            }
            MessageType::Block => {
                let position = fields.position("position")?;
                Ok(Self::Block(position, fields.rest.to_vec()))
            }
            MessageType::Checksum => Ok(Self::Checksum(payload.to_vec())),
            MessageType::Done | MessageType::GetChecksum if !payload.is_empty() => Err(bad_length()),
            MessageType::Done => Ok(Self::Done),
            MessageType::GetChecksum => Ok(Self::GetChecksum),
        }
    }

    /// Appends the message to a stream.
    pub fn encode(&self, output: &mut Vec<u8>) {
        let kind = self.message_type();
        let position = |value: u64| value.to_le_bytes();
        match self {
            Self::Hello(hello) => encode(output, kind, &[&hello.to_payload()]),
            Self::DevFile(name) => encode(output, kind, &[name]),
            Self::Size(size) => encode(output, kind, &[&position(*size)]),
            Self::Digests(choice) => {
                let checksum = choice.checksum.as_deref().unwrap_or("");
                let salt_length = [choice.salt.len() as u8];
                let digest = choice.digest.as_bytes();
                encode(output, kind, &[&salt_length, &choice.salt, digest, b"\0", checksum.as_bytes(), b"\0"]);
            }
            Self::GetHashes(range) => encode(output, kind, &[&hash_header(range)]),
            Self::Hint(hint) | Self::HintHeard(hint) => encode(output, kind, &[&hint_header(hint)]),
            Self::Hashes(range, digests) => encode_hashes(output, range, digests),
            Self::GetBlock(range) => {
                encode(output, kind, &[&position(range.position()), &position(u64::from(range.length()))]);
            }
            Self::Block(at, data) => encode_block(output, *at, data),
            Self::Checksum(digest) => encode(output, kind, &[digest]),
            Self::Done | Self::GetChecksum => encode(output, kind, &[]),
        }
    }
}

/// Appends a hashes message without a copy of the digests of its own.
pub(crate) fn encode_hashes(output: &mut Vec<u8>, range: &HashRange, digests: &[u8]) {
    encode(output, MessageType::Hashes, &[&hash_header(range), digests]);
}

/// Appends a block message without a copy of the data of its own.
pub(crate) fn encode_block(output: &mut Vec<u8>, position: u64, data: &[u8]) {
    encode(output, MessageType::Block, &[&position.to_le_bytes(), data]);
}

/// Whether digests of this size for this range fit one message.
pub(crate) fn hashes_fit(range: &HashRange, digest_size: usize) -> bool {
    (range.count() as usize).checked_mul(digest_size).is_some_and(|length| 1 + 24 + length <= MAX_MESSAGE)
}

fn hash_header(range: &HashRange) -> [u8; 24] {
    three_words(range.start(), range.step(), u64::from(range.count()))
}

fn hint_header(hint: &Hint) -> [u8; 24] {
    three_words(hint.argument, hint.number as u64, 0)
}

fn three_words(a: u64, b: u64, c: u64) -> [u8; 24] {
    let mut bytes = [0; 24];
    bytes[..8].copy_from_slice(&a.to_le_bytes());
    bytes[8..16].copy_from_slice(&b.to_le_bytes());
    bytes[16..].copy_from_slice(&c.to_le_bytes());
    bytes
}

fn parse_device_name(payload: &[u8]) -> Result<Vec<u8>, ProtocolError> {
    let message = MessageType::DevFile;
    if !(MIN_DEVICE_NAME..=MAX_DEVICE_NAME).contains(&payload.len()) {
        return Err(ProtocolError::BadLength { message, length: payload.len() });
    }
    if payload.contains(&0) {
        let reason = "the device's name has a NUL byte".to_string();
        return Err(ProtocolError::BadPayload { message, reason });
    }
    Ok(payload.to_vec())
}

fn parse_digests(payload: &[u8]) -> Result<DigestChoice, ProtocolError> {
    let message = MessageType::Digests;
    let bad = |reason: String| ProtocolError::BadPayload { message, reason };
    let (&salt_length, rest) =
        payload.split_first().ok_or(ProtocolError::BadLength { message, length: payload.len() })?;
    let salt_length = usize::from(salt_length);
    if salt_length > MAX_SALT || salt_length > rest.len() {
        return Err(bad(format!("a salt of {salt_length} bytes")));
    }
    let (salt, names) = rest.split_at(salt_length);
    let names = names.strip_suffix(&[0]).ok_or_else(|| bad("a name without its end".into()))?;
    let mut parts = names.split(|&byte| byte == 0);
    let (Some(digest), Some(checksum), None) = (parts.next(), parts.next(), parts.next()) else {
        return Err(bad("not two names".into()));
    };
    let text = |name: &[u8]| {
        if name.len() > MAX_DIGEST_NAME {
            return Err(bad(format!("a digest's name of {} bytes", name.len())));
        }
        String::from_utf8(name.to_vec()).map_err(|_| bad("a digest's name that is not text".into()))
    };
    let checksum = if checksum.is_empty() { None } else { Some(text(checksum)?) };
    Ok(DigestChoice { salt: salt.to_vec(), digest: text(digest)?, checksum })
}

enum HashHeader {
    Range(HashRange),
    Hint(Hint),
}

/// What is left of a payload, read from the front.
struct Fields<'a> {
    rest: &'a [u8],
    message: MessageType,
    length: usize,
}

impl Fields<'_> {
    fn integer(&mut self) -> Result<i64, ProtocolError> {
        let (head, rest) = self
            .rest
            .split_first_chunk::<8>()
            .ok_or(ProtocolError::BadLength { message: self.message, length: self.length })?;
        self.rest = rest;
        Ok(i64::from_le_bytes(*head))
    }

    fn position(&mut self, what: &str) -> Result<u64, ProtocolError> {
        let value = self.integer()?;
        u64::try_from(value)
            .map_err(|_| ProtocolError::BadPayload { message: self.message, reason: format!("a {what} of {value}") })
    }

    fn hash_header(&mut self) -> Result<HashHeader, ProtocolError> {
        let start = self.position("start")?;
        let step = self.integer()?;
        let count = self.position("count")?;
        if count == 0 {
            return Ok(HashHeader::Hint(Hint { number: step, argument: start }));
        }
        let limit = || ProtocolError::Limit {
            asked: format!("hashes of {count} blocks of {step} bytes at {start}"),
            limit: format!("blocks of 1 to {MAX_STEP} bytes, as many as one message of {MAX_MESSAGE} bytes holds"),
        };
        let step = u64::try_from(step).map_err(|_| limit())?;
        let count = u32::try_from(count).map_err(|_| limit())?;
        HashRange::new(start, step, count).map(HashHeader::Range)
    }

    fn end(&self) -> Result<(), ProtocolError> {
        if self.rest.is_empty() {
            return Ok(());
        }
        Err(ProtocolError::BadLength { message: self.message, length: self.length })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::FrameDecoder;
    use crate::limits::MAX_POSITION;

    fn parse_one(bytes: &[u8]) -> Result<Message, ProtocolError> {
        let mut decoder = FrameDecoder::new();
        decoder.push(bytes);
        let frame = decoder.next_frame()?.expect("a whole frame");
        Message::parse(&frame)
    }

    fn raw(message: MessageType, parts: &[&[u8]]) -> Result<Message, ProtocolError> {
        let mut bytes = Vec::new();
        encode(&mut bytes, message, parts);
        parse_one(&bytes)
    }

    #[test]
    fn every_message_parses_to_what_was_encoded() {
        let range = HashRange::new(4096, 512, 3).unwrap();
        let messages = [
            Message::Hello(Hello::client()),
            Message::DevFile(b"/dev/\xff x".to_vec()),
            Message::Size(MAX_POSITION),
            Message::Digests(DigestChoice { salt: vec![0; 127], digest: "md5".into(), checksum: None }),
            Message::Digests(DigestChoice { salt: vec![], digest: "sha1".into(), checksum: Some("sha256".into()) }),
            Message::GetHashes(range),
            Message::Hint(Hint::flush_cache()),
            Message::Hint(Hint::released(77)),
            Message::Hint(Hint { number: -5, argument: 1 }),
            Message::Hashes(range, vec![1; 48]),
            Message::HintHeard(Hint::released(77)),
            Message::Done,
            Message::GetBlock(BlockRange::new(10, 20).unwrap()),
            Message::Block(10, vec![3; 20]),
            Message::GetChecksum,
            Message::Checksum(vec![9; 32]),
            Message::Checksum(vec![]),
        ];
        for message in messages {
            let mut bytes = Vec::new();
            message.encode(&mut bytes);
            assert_eq!(parse_one(&bytes), Ok(message));
        }
    }

    #[test]
    fn numbers_below_zero_are_refused() {
        let minus = (-1i64).to_le_bytes();
        let one = 1i64.to_le_bytes();
        assert!(raw(MessageType::Size, &[&minus]).is_err());
        assert!(raw(MessageType::GetHashes, &[&minus, &one, &one]).is_err());
        assert!(raw(MessageType::GetHashes, &[&one, &minus, &one]).is_err());
        assert!(raw(MessageType::GetHashes, &[&one, &one, &minus]).is_err());
        assert!(raw(MessageType::GetBlock, &[&minus, &one]).is_err());
        assert!(raw(MessageType::GetBlock, &[&one, &minus]).is_err());
        assert!(raw(MessageType::Block, &[&minus, b"x"]).is_err());
    }

    #[test]
    fn digests_without_both_terminators_are_refused() {
        assert!(raw(MessageType::Digests, &[b"\x00md5"]).is_err());
        assert!(raw(MessageType::Digests, &[b"\x00md5\0"]).is_err());
        assert!(raw(MessageType::Digests, &[b"\x00md5\0\0\0"]).is_err());
        assert!(raw(MessageType::Digests, &[b"\x04md5\0\0"]).is_err());
        assert!(raw(MessageType::Digests, &[b"\x80"]).is_err());
        assert!(raw(MessageType::Digests, &[]).is_err());
        assert!(raw(MessageType::Digests, &[b"\x00md\xff\0\0"]).is_err());
    }

    #[test]
    fn bodies_where_none_belongs_are_refused() {
        assert!(raw(MessageType::Done, &[b"x"]).is_err());
        assert!(raw(MessageType::GetChecksum, &[b"x"]).is_err());
        assert!(raw(MessageType::Size, &[&[0; 9]]).is_err());
        assert!(raw(MessageType::DevFile, &[b"t"]).is_err());
        assert!(raw(MessageType::DevFile, &[b"a\0b"]).is_err());
    }
}
