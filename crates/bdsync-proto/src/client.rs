//! The client's side of a session (`proto-spec/protocol.md`, client).

use std::collections::VecDeque;

use crate::error::ProtocolError;
use crate::frame::FrameDecoder;
use crate::hello::Hello;
use crate::limits::{MAX_OPEN_BLOCK_REQUESTS, MAX_OPEN_HASH_REQUESTS};
use crate::message::{Message, MessageType, hashes_fit};
use crate::request::{BlockRange, DigestChoice, HashRange, Hint};

/// What a server answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientEvent {
    /// The server's hello.
    Hello(Hello),
    /// The size of its device in bytes.
    Size(u64),
    /// The digests of the oldest range asked for, one after another.
    Hashes(HashRange, Vec<u8>),
    /// A hint was heard.
    HintHeard(Hint),
    /// The bytes of the oldest block asked for.
    Block(BlockRange, Vec<u8>),
    /// The digest over everything.
    Checksum(Vec<u8>),
    /// The server is done, too.
    Done,
}

/// A request that waits for its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Request {
    Hello,
    Size,
    Hashes(HashRange),
    Hint(Hint),
    Block(BlockRange),
    Checksum,
    Done,
}

impl std::fmt::Display for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Hello => f.write_str("hello"),
            Self::Size => f.write_str("size"),
            Self::Hashes(range) => {
                write!(f, "hashes of {} blocks of {} bytes at {}", range.count(), range.step(), range.start())
            }
            Self::Hint(hint) => write!(f, "the answer to hint {}", hint.number),
            Self::Block(range) => write!(f, "a block of {} bytes at {}", range.length(), range.position()),
            Self::Checksum => f.write_str("checksum"),
            Self::Done => f.write_str("done"),
        }
    }
}

/// A session seen from the client, without I/O.
///
/// Only the answer to the oldest open request is accepted, with the numbers
/// that were asked for and of exactly the right length.
#[derive(Debug)]
pub struct ClientSession {
    decoder: FrameDecoder,
    open: VecDeque<Request>,
    open_hashes: usize,
    open_blocks: usize,
    digest_size: usize,
    checksum_size: usize,
    peer: Option<Hello>,
    done: bool,
    output: Vec<u8>,
}

impl ClientSession {
    /// A new session that opens `device` (its name at the server, 2 bytes to
    /// [`MAX_DEVICE_NAME`](crate::limits::MAX_DEVICE_NAME)); hello and the name are in the output already.
    pub fn new(hello: &Hello, device: &[u8]) -> Self {
        let mut output = Vec::new();
        Message::Hello(hello.clone()).encode(&mut output);
        Message::DevFile(device.to_vec()).encode(&mut output);
        Self {
            decoder: FrameDecoder::new(),
            open: VecDeque::from([Request::Hello, Request::Size]),
            open_hashes: 0,
            open_blocks: 0,
            digest_size: 0,
            checksum_size: 0,
            peer: None,
            done: false,
            output,
        }
    }

    /// Takes bytes from the server.
    pub fn receive(&mut self, bytes: &[u8]) {
        if !self.done {
            self.decoder.push(bytes);
        }
    }

    /// Bytes for the server; whoever sends them takes them out.
    pub fn output(&mut self) -> &mut Vec<u8> {
        &mut self.output
    }

    /// The server's hello, once it has come.
    pub fn peer(&self) -> Option<&Hello> {
        self.peer.as_ref()
    }

    /// Whether the server has said that it is done.
    pub fn is_done(&self) -> bool {
        self.done
    }

    /// What is waited for, in words.
    pub fn waiting_for(&self) -> String {
        self.open.front().map_or_else(|| "nothing".into(), ToString::to_string)
    }

    /// Chooses how blocks are hashed, with the sizes of the two digests in bytes.
    pub fn choose_digests(&mut self, choice: DigestChoice, digest_size: usize, checksum_size: usize) {
        self.digest_size = digest_size;
        self.checksum_size = if choice.checksum.is_some() { checksum_size } else { 0 };
        Message::Digests(choice).encode(&mut self.output);
    }

    /// Whether another hash request may be made now.
    pub fn can_request_hashes(&self) -> bool {
        self.open_hashes < MAX_OPEN_HASH_REQUESTS
    }

    /// Whether another block request may be made now.
    pub fn can_request_block(&self) -> bool {
        self.open_blocks < MAX_OPEN_BLOCK_REQUESTS
    }

    /// Asks for the digests of a range.
    ///
    /// # Panics
    ///
    /// If too many requests are open or one message cannot carry the answer.
    pub fn request_hashes(&mut self, range: HashRange) {
        assert!(self.can_request_hashes(), "too many open hash requests");
        assert!(self.digest_size > 0 && hashes_fit(&range, self.digest_size), "an answer that does not fit");
        self.open_hashes += 1;
        self.request(Request::Hashes(range), &Message::GetHashes(range));
    }

    /// Gives the server a hint.
    pub fn request_hint(&mut self, hint: Hint) {
        self.request(Request::Hint(hint), &Message::Hint(hint));
    }

    /// Asks for the bytes of a range.
    ///
    /// # Panics
    ///
    /// If too many requests are open.
    pub fn request_block(&mut self, range: BlockRange) {
        assert!(self.can_request_block(), "too many open block requests");
        self.open_blocks += 1;
        self.request(Request::Block(range), &Message::GetBlock(range));
    }

    /// Asks for the digest over everything that was hashed.
    pub fn request_checksum(&mut self) {
        self.request(Request::Checksum, &Message::GetChecksum);
    }

    /// Ends the session.
    pub fn request_done(&mut self) {
        self.request(Request::Done, &Message::Done);
    }

    /// The next answer, or `None` if more bytes are needed.
    ///
    /// # Errors
    ///
    /// Anything but the answer to the oldest open request. The session is over then.
    pub fn poll(&mut self) -> Result<Option<ClientEvent>, ProtocolError> {
        if self.done {
            return Ok(None);
        }
        let Some(frame) = self.decoder.next_frame()? else {
            return Ok(None);
        };
        let Some(request) = self.open.front().copied() else {
            return Err(ProtocolError::Unexpected { message: frame.message, expected: "nothing".into() });
        };
        let kind = frame.message;
        let unexpected = || ProtocolError::Unexpected { message: kind, expected: request.to_string() };
        // A type that cannot be the answer is not even parsed.
        if kind != answer_type(&request) {
            return Err(unexpected());
        }
        let wrong = |reason: String| ProtocolError::BadPayload { message: kind, reason };
        let event = match (request, Message::parse(&frame)?) {
            (Request::Hello, Message::Hello(hello)) => {
                self.peer = Some(hello.clone());
                ClientEvent::Hello(hello)
            }
            (Request::Size, Message::Size(size)) => ClientEvent::Size(size),
            (Request::Hashes(asked), Message::Hashes(range, digests)) if asked == range => {
                let length = range.count() as usize * self.digest_size;
                if digests.len() != length {
                    let got = digests.len();
                    return Err(wrong(format!("{got} bytes of digests where {length} were asked for")));
                }
                self.open_hashes -= 1;
                ClientEvent::Hashes(range, digests)
            }
            (Request::Hashes(_), Message::Hashes(range, _)) => {
                let (count, step, start) = (range.count(), range.step(), range.start());
                return Err(wrong(format!("{count} blocks of {step} bytes at {start}, expected {request}")));
            }
            (Request::Hint(asked), Message::HintHeard(hint)) if asked == hint => ClientEvent::HintHeard(hint),
            (Request::Block(asked), Message::Block(position, data)) => {
                if position != asked.position() || data.len() != asked.length() as usize {
                    let length = data.len();
                    return Err(wrong(format!("{length} bytes at {position}, expected {request}")));
                }
                self.open_blocks -= 1;
                ClientEvent::Block(asked, data)
            }
            (Request::Checksum, Message::Checksum(digest)) => {
                if digest.len() != self.checksum_size {
                    let (got, size) = (digest.len(), self.checksum_size);
                    return Err(wrong(format!("{got} bytes, expected {size}")));
                }
                ClientEvent::Checksum(digest)
            }
            (Request::Done, Message::Done) => {
                self.done = true;
                ClientEvent::Done
            }
            _ => return Err(unexpected()),
        };
        self.open.pop_front();
        Ok(Some(event))
    }

    /// Says that the server's stream has ended.
    ///
    /// # Errors
    ///
    /// If the server had not said that it is done.
    pub fn end_of_input(&self) -> Result<(), ProtocolError> {
        if self.done {
            return Ok(());
        }
        Err(ProtocolError::UnexpectedEnd { expected: self.waiting_for() })
    }

    fn request(&mut self, request: Request, message: &Message) {
        message.encode(&mut self.output);
        self.open.push_back(request);
    }
}

fn answer_type(request: &Request) -> MessageType {
    match request {
        Request::Hello => MessageType::Hello,
        Request::Size => MessageType::Size,
        Request::Hashes(_) | Request::Hint(_) => MessageType::Hashes,
        Request::Block(_) => MessageType::Block,
        Request::Checksum => MessageType::Checksum,
        Request::Done => MessageType::Done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(session: &mut ClientSession, messages: &[Message]) {
        let mut bytes = Vec::new();
        for message in messages {
            message.encode(&mut bytes);
        }
        session.receive(&bytes);
    }

    fn open_session() -> ClientSession {
        let mut session = ClientSession::new(&Hello::client(), b"x.img");
        feed(&mut session, &[Message::Hello(Hello::server()), Message::Size(100)]);
        assert!(matches!(session.poll(), Ok(Some(ClientEvent::Hello(_)))));
        assert_eq!(session.poll(), Ok(Some(ClientEvent::Size(100))));
        let choice = DigestChoice { salt: vec![], digest: "md5".into(), checksum: Some("md5".into()) };
        session.choose_digests(choice, 16, 16);
        session
    }

    fn range(start: u64) -> HashRange {
        HashRange::new(start, 10, 2).unwrap()
    }

    #[test]
    fn the_answers_to_open_requests_are_accepted_in_order() {
        let mut session = open_session();
        let block = BlockRange::new(5, 3).unwrap();
        session.request_hashes(range(0));
        session.request_block(block);
        session.request_hint(Hint::released(20));
        session.request_checksum();
        session.request_done();
        feed(
            &mut session,
            &[
                Message::Hashes(range(0), vec![1; 32]),
                Message::Block(5, vec![1, 2, 3]),
                Message::HintHeard(Hint::released(20)),
                Message::Checksum(vec![4; 16]),
                Message::Done,
            ],
        );
        assert_eq!(session.poll(), Ok(Some(ClientEvent::Hashes(range(0), vec![1; 32]))));
        assert_eq!(session.poll(), Ok(Some(ClientEvent::Block(block, vec![1, 2, 3]))));
        assert!(matches!(session.poll(), Ok(Some(ClientEvent::HintHeard(_)))));
        assert_eq!(session.poll(), Ok(Some(ClientEvent::Checksum(vec![4; 16]))));
        assert_eq!(session.poll(), Ok(Some(ClientEvent::Done)));
        assert_eq!(session.end_of_input(), Ok(()));
    }

    #[test]
    fn an_answer_that_nobody_asked_for_is_refused() {
        let mut session = open_session();
        feed(&mut session, &[Message::Hashes(range(0), vec![1; 32])]);
        assert_eq!(session.poll().unwrap_err().exit_code(), crate::ExitCode::Protocol);
    }

    #[test]
    fn answers_with_other_numbers_or_lengths_are_refused() {
        let block = BlockRange::new(5, 3).unwrap();
        let wrong = [
            Message::Hashes(range(10), vec![1; 32]),
            Message::Hashes(HashRange::new(0, 10, 3).unwrap(), vec![1; 48]),
            Message::Hashes(range(0), vec![1; 31]),
            Message::Hashes(range(0), vec![1; 33]),
            Message::HintHeard(Hint::released(0)),
            Message::Block(5, vec![1; 3]),
            Message::Done,
        ];
        for answer in wrong {
            let mut session = open_session();
            session.request_hashes(range(0));
            session.request_block(block);
            feed(&mut session, std::slice::from_ref(&answer));
            assert!(session.poll().is_err(), "{answer:?}");
        }
        for answer in [Message::Block(6, vec![1; 3]), Message::Block(5, vec![1; 4]), Message::Block(5, vec![])] {
            let mut session = open_session();
            session.request_block(block);
            feed(&mut session, std::slice::from_ref(&answer));
            assert!(session.poll().is_err(), "{answer:?}");
        }
    }

    #[test]
    fn a_checksum_of_another_length_is_refused() {
        let mut session = open_session();
        session.request_checksum();
        feed(&mut session, &[Message::Checksum(vec![1; 15])]);
        assert!(session.poll().is_err());
    }

    #[test]
    fn an_end_before_done_is_a_read_error() {
        let mut session = open_session();
        session.request_hashes(range(0));
        assert_eq!(session.end_of_input().unwrap_err().exit_code(), crate::ExitCode::Read);
    }

    #[test]
    fn the_number_of_open_requests_is_limited() {
        let mut session = open_session();
        for at in 0..MAX_OPEN_HASH_REQUESTS as u64 {
            assert!(session.can_request_hashes());
            session.request_hashes(range(at * 20));
        }
        assert!(!session.can_request_hashes());
    }
}
