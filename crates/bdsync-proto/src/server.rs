//! The server's side of a session (`proto-spec/protocol.md`, server).

use std::collections::VecDeque;

use crate::error::ProtocolError;
use crate::frame::FrameDecoder;
use crate::hello::Hello;
use crate::limits::max_hashes;
use crate::message::{Message, MessageType, encode_block, encode_hashes, hashes_fit};
use crate::request::{BlockRange, DigestChoice, HashRange, Hint};

/// What a client asks for. Each but [`Digests`](Self::Digests) must be answered
/// by the session's method for it, in the order in which they came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerEvent {
    /// Open this device and tell its size: [`ServerSession::answer_size`].
    Open(Vec<u8>),
    /// Hash like this from here on: [`ServerSession::accept_digests`].
    Digests(DigestChoice),
    /// Hash these blocks: [`ServerSession::answer_hashes`].
    Hashes(HashRange),
    /// Take this hint: [`ServerSession::answer_hint`].
    Hint(Hint),
    /// Send these bytes: [`ServerSession::answer_block`].
    Block(BlockRange),
    /// Send the digest over everything hashed: [`ServerSession::answer_checksum`].
    Checksum,
    /// The client is done: [`ServerSession::answer_done`].
    Done,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    AwaitHello,
    AwaitDevice,
    Open,
    Done,
}

/// A session seen from the server, without I/O.
///
/// Bytes from the client go in by [`receive`](Self::receive), what it asks for
/// comes out of [`poll`](Self::poll), bytes for the client are in
/// [`output`](Self::output).
#[derive(Debug)]
pub struct ServerSession {
    decoder: FrameDecoder,
    state: State,
    digest_size: Option<usize>,
    unanswered: VecDeque<MessageType>,
    peer: Option<Hello>,
    output: Vec<u8>,
}

impl Default for ServerSession {
    fn default() -> Self {
        Self::new(&Hello::server())
    }
}

impl ServerSession {
    /// A new session; its hello is in the output already.
    pub fn new(hello: &Hello) -> Self {
        let mut output = Vec::new();
        Message::Hello(hello.clone()).encode(&mut output);
        Self {
            decoder: FrameDecoder::new(),
            state: State::AwaitHello,
            digest_size: None,
            unanswered: VecDeque::new(),
            peer: None,
            output,
        }
    }

    /// Takes bytes from the client.
    pub fn receive(&mut self, bytes: &[u8]) {
        if self.state != State::Done {
            self.decoder.push(bytes);
        }
    }

    /// The client's hello, once it has come.
    pub fn peer(&self) -> Option<&Hello> {
        self.peer.as_ref()
    }

    /// The next thing that the client asks for, or `None` if more bytes are needed.
    ///
    /// # Errors
    ///
    /// Anything that the client may not send now. The session is over then.
    pub fn poll(&mut self) -> Result<Option<ServerEvent>, ProtocolError> {
        loop {
            if self.state == State::Done {
                return Ok(None);
            }
            let Some(frame) = self.decoder.next_frame()? else {
                return Ok(None);
            };
            let expected = match self.state {
                State::AwaitHello if frame.message != MessageType::Hello => "hello",
                State::AwaitDevice if frame.message != MessageType::DevFile => "devfile",
                _ => "",
            };
            if !expected.is_empty() {
                let message = frame.message;
                return Err(ProtocolError::Unexpected { message, expected: expected.into() });
            }
            let message = Message::parse(&frame)?;
            if let Some(event) = self.accept(message)? {
                return Ok(Some(event));
            }
        }
    }

    /// Says that the client's stream has ended.
    ///
    /// # Errors
    ///
    /// If the client had not said that it is done.
    pub fn end_of_input(&self) -> Result<(), ProtocolError> {
        let expected = match self.state {
            _ if self.is_within_message() => "the rest of a message",
            State::Done => return Ok(()),
            State::AwaitHello => "the client's hello",
            State::AwaitDevice => "the device's name",
            State::Open => "the client's next request",
        };
        Err(ProtocolError::UnexpectedEnd { expected: expected.into() })
    }

    /// Whether [`poll`](Self::poll) has something to give, an event or an error.
    pub fn has_message(&self) -> bool {
        self.state != State::Done && self.decoder.has_frame()
    }

    /// Whether what came so far ends within a message. A client whose stream ends
    /// there broke off, whatever it asked for before.
    pub fn is_within_message(&self) -> bool {
        self.state != State::Done && self.decoder.is_within_frame()
    }

    /// Bytes for the client; whoever sends them takes them out.
    pub fn output(&mut self) -> &mut Vec<u8> {
        &mut self.output
    }

    /// Answers [`ServerEvent::Open`] with the device's size in bytes.
    pub fn answer_size(&mut self, size: u64) {
        self.answered(MessageType::DevFile);
        Message::Size(size).encode(&mut self.output);
    }

    /// Takes the digest chosen in [`ServerEvent::Digests`]; its size in bytes
    /// decides how many hashes one answer can carry. Nothing is sent.
    pub fn accept_digests(&mut self, digest_size: usize) {
        self.digest_size = Some(digest_size);
    }

    /// Answers [`ServerEvent::Hashes`] with the digests, one after another.
    pub fn answer_hashes(&mut self, range: &HashRange, digests: &[u8]) {
        self.answered(MessageType::GetHashes);
        encode_hashes(&mut self.output, range, digests);
    }

    /// Answers [`ServerEvent::Hint`].
    pub fn answer_hint(&mut self, hint: Hint) {
        self.answered(MessageType::GetHashes);
        Message::HintHeard(hint).encode(&mut self.output);
    }

    /// Answers [`ServerEvent::Block`] with the bytes asked for.
    pub fn answer_block(&mut self, range: &BlockRange, data: &[u8]) {
        self.answered(MessageType::GetBlock);
        assert_eq!(data.len(), range.length() as usize, "a block answer must be as long as it was asked for");
        encode_block(&mut self.output, range.position(), data);
    }

    /// Answers [`ServerEvent::Checksum`]; empty if no checksum was chosen.
    pub fn answer_checksum(&mut self, digest: &[u8]) {
        self.answered(MessageType::GetChecksum);
        Message::Checksum(digest.to_vec()).encode(&mut self.output);
    }

    /// Answers [`ServerEvent::Done`].
    pub fn answer_done(&mut self) {
        self.answered(MessageType::Done);
        Message::Done.encode(&mut self.output);
    }

    fn accept(&mut self, message: Message) -> Result<Option<ServerEvent>, ProtocolError> {
        let kind = message.message_type();
        let unexpected = |expected: &str| ProtocolError::Unexpected { message: kind, expected: expected.into() };
        let event = match (self.state, message) {
            (State::AwaitHello, Message::Hello(hello)) => {
                self.peer = Some(hello);
                self.state = State::AwaitDevice;
                return Ok(None);
            }
            (State::AwaitDevice, Message::DevFile(name)) => {
                self.state = State::Open;
                ServerEvent::Open(name)
            }
            (State::Open, Message::Digests(choice)) => {
                // Until the caller accepts the new choice no request can be checked against it.
                self.digest_size = None;
                return Ok(Some(ServerEvent::Digests(choice)));
            }
            (State::Open, Message::GetHashes(range)) => {
                let digest_size = self.digest_size.ok_or_else(|| unexpected("digests"))?;
                if !hashes_fit(&range, digest_size) {
                    return Err(ProtocolError::Limit {
                        asked: format!("{} digests of {digest_size} bytes in one answer", range.count()),
                        limit: format!("{}", max_hashes(digest_size)),
                    });
                }
                ServerEvent::Hashes(range)
            }
            (State::Open, Message::Hint(hint)) => ServerEvent::Hint(hint),
            (State::Open, Message::GetBlock(range)) => ServerEvent::Block(range),
            (State::Open, Message::GetChecksum) => ServerEvent::Checksum,
            (State::Open, Message::Done) => {
                self.state = State::Done;
                ServerEvent::Done
            }
            _ => return Err(unexpected("a request")),
        };
        self.unanswered.push_back(kind);
        Ok(Some(event))
    }

    /// Answers must be given in order: anything else is a mistake of the caller.
    fn answered(&mut self, kind: MessageType) {
        let oldest = self.unanswered.pop_front();
        assert_eq!(oldest, Some(kind), "answers must follow the order of the requests");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(session: &mut ServerSession, messages: &[Message]) {
        let mut bytes = Vec::new();
        for message in messages {
            message.encode(&mut bytes);
        }
        session.receive(&bytes);
    }

    fn open_session() -> ServerSession {
        let mut session = ServerSession::default();
        feed(&mut session, &[Message::Hello(Hello::client()), Message::DevFile(b"x.img".to_vec())]);
        assert_eq!(session.poll(), Ok(Some(ServerEvent::Open(b"x.img".to_vec()))));
        session.answer_size(100);
        session
    }

    fn choice() -> DigestChoice {
        DigestChoice { salt: vec![], digest: "md5".into(), checksum: None }
    }

    #[test]
    fn a_whole_session_is_answered_in_order() {
        let mut session = open_session();
        let range = HashRange::new(0, 10, 2).unwrap();
        feed(&mut session, &[Message::Digests(choice()), Message::GetHashes(range), Message::Done]);
        assert_eq!(session.poll(), Ok(Some(ServerEvent::Digests(choice()))));
        session.accept_digests(16);
        assert_eq!(session.poll(), Ok(Some(ServerEvent::Hashes(range))));
        assert_eq!(session.poll(), Ok(Some(ServerEvent::Done)));
        session.answer_hashes(&range, &[5; 32]);
        session.answer_done();
        assert_eq!(session.poll(), Ok(None));
        assert_eq!(session.end_of_input(), Ok(()));
    }

    #[test]
    fn the_first_message_must_be_hello_and_the_second_devfile() {
        let mut session = ServerSession::default();
        feed(&mut session, &[Message::DevFile(b"x.img".to_vec())]);
        assert!(matches!(session.poll(), Err(ProtocolError::Unexpected { .. })));
        let mut session = ServerSession::default();
        feed(&mut session, &[Message::Hello(Hello::client()), Message::Done]);
        assert!(matches!(session.poll(), Err(ProtocolError::Unexpected { .. })));
    }

    #[test]
    fn a_servers_own_messages_are_refused() {
        for message in [Message::Size(1), Message::Checksum(vec![]), Message::Hello(Hello::client())] {
            let mut session = open_session();
            feed(&mut session, &[message]);
            assert!(matches!(session.poll(), Err(ProtocolError::Unexpected { .. })));
        }
    }

    #[test]
    fn hashes_before_a_digest_is_chosen_are_refused() {
        let mut session = open_session();
        feed(&mut session, &[Message::GetHashes(HashRange::new(0, 10, 2).unwrap())]);
        assert!(session.poll().is_err());
    }

    #[test]
    fn more_hashes_than_an_answer_holds_are_refused() {
        let mut session = open_session();
        let most = max_hashes(16);
        feed(&mut session, &[Message::Digests(choice())]);
        session.poll().unwrap();
        session.accept_digests(16);
        feed(&mut session, &[Message::GetHashes(HashRange::new(0, 1, most).unwrap())]);
        assert!(matches!(session.poll(), Ok(Some(ServerEvent::Hashes(_)))));
        feed(&mut session, &[Message::GetHashes(HashRange::new(0, 1, most + 1).unwrap())]);
        assert!(matches!(session.poll(), Err(ProtocolError::Limit { .. })));
    }

    #[test]
    fn an_end_before_done_is_an_error() {
        let session = open_session();
        assert!(matches!(session.end_of_input(), Err(ProtocolError::UnexpectedEnd { .. })));
    }
}
