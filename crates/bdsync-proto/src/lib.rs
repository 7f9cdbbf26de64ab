//! What two ends of a block-device synchronisation say to each other: the
//! bdsync protocol 0.5 and the patch format 0.3.
//!
//! This crate turns bytes into messages and messages into bytes. It opens no
//! file and no socket, starts no thread and reads no clock: whoever has the
//! bytes drives it. [`ServerSession`] and [`ClientSession`] hold what each side
//! may say next and what is outstanding; a message that a session does not
//! allow is a [`ProtocolError`] and never reaches the caller.
//!
//! The documents in `proto-spec/` are the source; this code follows them.

#![forbid(unsafe_code)]

pub mod agent;
mod client;
mod error;
mod exit;
mod frame;
mod hello;
pub mod limits;
mod message;
pub mod patch;
mod request;
mod server;

pub use client::{ClientEvent, ClientSession};
pub use error::ProtocolError;
pub use exit::ExitCode;
pub use frame::{Frame, FrameDecoder};
pub use hello::{Hello, VERSION};
pub use message::{Message, MessageType};
pub use request::{BlockRange, DigestChoice, HashRange, Hint};
pub use server::{ServerEvent, ServerSession};
