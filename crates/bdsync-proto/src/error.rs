//! What can be wrong with what the other end sent.

use crate::exit::ExitCode;
use crate::limits;
use crate::message::MessageType;

/// The other end broke the protocol, a limit, or off.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// A message of length 0, which cannot even have a type.
    #[error("Protocol error: the peer sent a message of length 0")]
    EmptyMessage,
    /// A message longer than any may be.
    #[error(
        "Read error: the peer announced a message of {length} bytes, the limit is {}; is its output mixed with something else (a login banner, a shell's messages)?",
        limits::MAX_MESSAGE
    )]
    MessageTooLong {
        /// The announced length.
        length: u32,
    },
    /// A type that the protocol does not have.
    #[error("Protocol error: the peer sent a message of unknown type {0}")]
    UnknownType(u8),
    /// A payload whose length does not fit its type.
    #[error("Protocol error: the peer sent a {message} message with a payload of {length} bytes")]
    BadLength {
        /// The message's type.
        message: MessageType,
        /// The length of its payload.
        length: usize,
    },
    /// A payload that means nothing.
    #[error("Protocol error: the peer sent a bad {message} message: {reason}")]
    BadPayload {
        /// The message's type.
        message: MessageType,
        /// What is wrong with it.
        reason: String,
    },
    /// A message of the agent's extension that means nothing, or may not come now.
    #[error("Protocol error: the peer sent a bad {message:?} message: {reason}")]
    BadAgentMessage {
        /// The message's type.
        message: crate::agent::AgentMessage,
        /// What is wrong with it.
        reason: String,
    },
    /// A message that the other end may not send now.
    #[error("Protocol error: the peer sent a {message} message where {expected} was expected")]
    Unexpected {
        /// The message's type.
        message: MessageType,
        /// What it could have sent.
        expected: String,
    },
    /// A hello of another version, or none at all.
    #[error(
        "Protocol error: the peer's hello is \"{0}\", expected a word and version 0.5; is the remote command a bdsync server?"
    )]
    BadHello(String),
    /// Something beyond the limits of the protocol or of this end.
    #[error("Protocol error: {asked}: the limit is {limit}")]
    Limit {
        /// What was asked for.
        asked: String,
        /// What may be asked for.
        limit: String,
    },
    /// The connection ended too early.
    #[error("Read error: the connection ended while waiting for {expected}")]
    UnexpectedEnd {
        /// What should have come.
        expected: String,
    },
}

impl ProtocolError {
    /// The exit code that a program ends with because of this error.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::MessageTooLong { .. } | Self::UnexpectedEnd { .. } => ExitCode::Read,
            _ => ExitCode::Protocol,
        }
    }
}
