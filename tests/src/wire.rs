//! Messages of protocol 0.5, written and read without the crates under test, so
//! that a mistake there is not repeated here.

/// The largest length a message may announce: type byte and payload.
pub const MAX_MESSAGE: u32 = 131_072;

/// Types of messages.
pub mod kind {
    #![allow(missing_docs)]
    pub const HELLO: u8 = 1;
    pub const DEVFILE: u8 = 2;
    pub const SIZE: u8 = 3;
    pub const DIGESTS: u8 = 4;
    pub const GETHASHES: u8 = 5;
    pub const HASHES: u8 = 6;
    pub const DONE: u8 = 7;
    pub const GETBLOCK: u8 = 8;
    pub const BLOCK: u8 = 9;
    pub const GETCHECKSUM: u8 = 10;
    pub const CHECKSUM: u8 = 11;
}

/// A message: length, type, payload.
pub fn message(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32 + 1).to_le_bytes().to_vec();
    bytes.push(kind);
    bytes.extend(payload);
    bytes
}

/// Three integers, as the payload of gethashes and the start of hashes.
pub fn three(start: i64, step: i64, count: i64) -> Vec<u8> {
    [start, step, count].iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// `WORD 0.5`.
pub fn hello(word: &str) -> Vec<u8> {
    message(kind::HELLO, format!("{word} 0.5").as_bytes())
}

/// The device a client asks for.
pub fn devfile(path: &str) -> Vec<u8> {
    message(kind::DEVFILE, path.as_bytes())
}

/// The size a server answers.
pub fn size(size: i64) -> Vec<u8> {
    message(kind::SIZE, &size.to_le_bytes())
}

/// Salt, digest and checksum.
pub fn digests(salt: &[u8], digest: &str, checksum: &str) -> Vec<u8> {
    let mut payload = vec![salt.len() as u8];
    payload.extend(salt);
    for name in [digest, checksum] {
        payload.extend(name.as_bytes());
        payload.push(0);
    }
    message(kind::DIGESTS, &payload)
}

/// A request for digests, or with count 0 a hint.
pub fn gethashes(start: i64, step: i64, count: i64) -> Vec<u8> {
    message(kind::GETHASHES, &three(start, step, count))
}

/// An answer with digests.
pub fn hashes(start: i64, step: i64, count: i64, digests: &[u8]) -> Vec<u8> {
    let mut payload = three(start, step, count);
    payload.extend(digests);
    message(kind::HASHES, &payload)
}

/// A request for bytes.
pub fn getblock(position: i64, length: i64) -> Vec<u8> {
    let payload: Vec<u8> = [position, length].iter().flat_map(|value| value.to_le_bytes()).collect();
    message(kind::GETBLOCK, &payload)
}

/// An answer with bytes.
pub fn block(position: i64, data: &[u8]) -> Vec<u8> {
    let mut payload = position.to_le_bytes().to_vec();
    payload.extend(data);
    message(kind::BLOCK, &payload)
}

/// The end of a session.
pub fn done() -> Vec<u8> {
    message(kind::DONE, &[])
}

/// A request for the checksum.
pub fn getchecksum() -> Vec<u8> {
    message(kind::GETCHECKSUM, &[])
}

/// Splits a stream into types and payloads; a cut last message is left out.
pub fn split(mut stream: &[u8]) -> Vec<(u8, &[u8])> {
    let mut messages = Vec::new();
    while let Some((length, rest)) = stream.split_first_chunk::<4>() {
        let length = u32::from_le_bytes(*length) as usize;
        let Some((body, rest)) = rest.split_at_checked(length) else { break };
        let Some((kind, payload)) = body.split_first() else { break };
        messages.push((*kind, payload));
        stream = rest;
    }
    messages
}
