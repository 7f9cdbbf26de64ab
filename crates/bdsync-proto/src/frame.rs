//! Framing: where one message ends and the next begins
//! (`proto-spec/protocol.md`, framing).

use crate::error::ProtocolError;
use crate::limits::MAX_MESSAGE;
use crate::message::MessageType;

/// One message as it stands in the stream.
#[derive(Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// What it is.
    pub message: MessageType,
    /// What follows the type byte.
    pub payload: &'a [u8],
}

/// Cuts a stream of bytes into frames.
///
/// Keeps at most what it was given and not yet asked for: a caller that takes
/// all frames after each [`push`](Self::push) makes it hold less than one message.
///
/// A message over the limit spoils the stream as soon as its length is seen, before
/// the messages in front of it are taken.
#[derive(Debug, Default)]
pub struct FrameDecoder {
    buffer: Vec<u8>,
    /// Where the next frame begins.
    start: usize,
    /// Where the first frame begins whose end was not seen yet.
    incomplete: usize,
    spoiled: Option<ProtocolError>,
}

impl FrameDecoder {
    /// A decoder at the beginning of a stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes of the stream.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.start == self.buffer.len() {
            self.buffer.clear();
            (self.start, self.incomplete) = (0, 0);
        } else if self.start > MAX_MESSAGE {
            self.buffer.drain(..self.start);
            self.incomplete -= self.start;
            self.start = 0;
        }
        self.buffer.extend_from_slice(bytes);
        self.look_ahead();
    }

    fn look_ahead(&mut self) {
        while self.spoiled.is_none() {
            let Some(head) = self.buffer[self.incomplete..].first_chunk::<4>() else { return };
            let length = u32::from_le_bytes(*head);
            if length as usize > MAX_MESSAGE {
                self.spoiled = Some(ProtocolError::MessageTooLong { length });
                return;
            }
            let end = self.incomplete + 4 + length as usize;
            if length == 0 || end > self.buffer.len() {
                return;
            }
            self.incomplete = end;
        }
    }

    /// Whether [`next_frame`](Self::next_frame) has something to give, a frame or an error.
    pub fn has_frame(&self) -> bool {
        let head = self.buffer[self.start..].first_chunk::<4>();
        self.spoiled.is_some() || self.start < self.incomplete || head == Some(&[0; 4])
    }

    /// Whether the bytes so far end within a frame.
    pub fn is_within_frame(&self) -> bool {
        let rest = &self.buffer[self.incomplete..];
        // A length of 0 is a mistake, not a beginning.
        !rest.is_empty() && rest.first_chunk::<4>() != Some(&[0; 4])
    }

    /// The next whole frame, or `None` if more bytes are needed.
    ///
    /// # Errors
    ///
    /// A length of 0 or beyond the limit, and an unknown type, are reported as
    /// soon as they are seen; the stream cannot be continued after that.
    pub fn next_frame(&mut self) -> Result<Option<Frame<'_>>, ProtocolError> {
        if let Some(error) = &self.spoiled {
            return Err(error.clone());
        }
        let pending = &self.buffer[self.start..];
        let Some((head, rest)) = pending.split_first_chunk::<4>() else {
            return Ok(None);
        };
        let length = u32::from_le_bytes(*head);
        if length == 0 {
            return Err(ProtocolError::EmptyMessage);
        }
        let Some((&kind, _)) = rest.split_first() else {
            return Ok(None);
        };
        let message = MessageType::try_from(kind)?;
        if rest.len() < length as usize {
            return Ok(None);
        }
        let payload_at = self.start + 5;
        self.start += 4 + length as usize;
        Ok(Some(Frame { message, payload: &self.buffer[payload_at..self.start] }))
    }

    /// How many bytes wait for the rest of their frame.
    pub fn pending(&self) -> usize {
        self.buffer.len() - self.start
    }
}

/// Appends one message to `output`; `parts` are written one after the other as its payload.
///
/// # Panics
///
/// If the message is longer than the protocol allows: that is a mistake of the caller.
pub(crate) fn encode(output: &mut Vec<u8>, message: MessageType, parts: &[&[u8]]) {
    let length = 1 + parts.iter().map(|part| part.len()).sum::<usize>();
    assert!(length <= MAX_MESSAGE, "a {message} message of {length} bytes");
    output.reserve(4 + length);
    output.extend_from_slice(&(length as u32).to_le_bytes());
    output.push(message as u8);
    for part in parts {
        output.extend_from_slice(part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(messages: &[(MessageType, &[u8])]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (message, payload) in messages {
            encode(&mut bytes, *message, &[payload]);
        }
        bytes
    }

    #[test]
    fn frames_come_out_as_they_went_in_however_the_stream_is_cut() {
        let long = vec![7; MAX_MESSAGE - 1];
        let bytes = stream(&[
            (MessageType::Hello, b"CLIENT 0.5"),
            (MessageType::Done, b""),
            (MessageType::Block, &long),
            (MessageType::GetChecksum, b""),
        ]);
        for cut in [1, 3, 4, 5, 7, 1000, 65536, bytes.len()] {
            let mut decoder = FrameDecoder::new();
            let mut seen = Vec::new();
            for piece in bytes.chunks(cut) {
                decoder.push(piece);
                while let Some(frame) = decoder.next_frame().unwrap() {
                    seen.push((frame.message, frame.payload.to_vec()));
                }
            }
            assert_eq!(seen.len(), 4, "cut {cut}");
            assert_eq!(seen[0], (MessageType::Hello, b"CLIENT 0.5".to_vec()));
            assert_eq!(seen[2], (MessageType::Block, long.clone()));
            assert_eq!(decoder.pending(), 0);
        }
    }

    #[test]
    fn a_message_of_length_zero_is_refused() {
        let mut decoder = FrameDecoder::new();
        decoder.push(&[0; 4]);
        assert_eq!(decoder.next_frame(), Err(ProtocolError::EmptyMessage));
    }

    #[test]
    fn a_message_over_the_limit_is_refused_before_its_body_comes() {
        let mut decoder = FrameDecoder::new();
        decoder.push(&(MAX_MESSAGE as u32 + 1).to_le_bytes());
        let length = MAX_MESSAGE as u32 + 1;
        assert_eq!(decoder.next_frame(), Err(ProtocolError::MessageTooLong { length }));
    }

    #[test]
    fn a_message_over_the_limit_spoils_what_was_not_taken_before_it() {
        let mut decoder = FrameDecoder::new();
        let mut bytes = stream(&[(MessageType::Done, b"")]);
        bytes.extend_from_slice(&u32::MAX.to_le_bytes());
        decoder.push(&bytes);
        assert_eq!(decoder.next_frame(), Err(ProtocolError::MessageTooLong { length: u32::MAX }));
    }

    #[test]
    fn an_end_within_a_frame_is_seen() {
        let mut decoder = FrameDecoder::new();
        let bytes = stream(&[(MessageType::Done, b""), (MessageType::Hello, b"CLIENT 0.5")]);
        for end in 0..bytes.len() {
            assert_eq!(decoder.is_within_frame(), ![0, 5].contains(&end), "{end}");
            decoder.push(&bytes[end..=end]);
        }
        assert!(!decoder.is_within_frame());
    }

    #[test]
    fn an_unknown_type_is_refused_before_its_body_comes() {
        let mut decoder = FrameDecoder::new();
        decoder.push(&[100, 0, 0, 0, 99]);
        assert_eq!(decoder.next_frame(), Err(ProtocolError::UnknownType(99)));
    }
}
