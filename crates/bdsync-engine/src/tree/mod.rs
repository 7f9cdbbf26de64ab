//! Comparing two devices over a connection with a tree of digests, and carrying
//! patches and data beside that (`proto-spec/agent.md`).
//!
//! Both ends scan at once. The agent sends one digest a span as it gets on; the client
//! asks for the digests of the leaves where they differ from its own. Nobody waits for
//! an answer, so a slow line costs its bytes and not its round trips.

mod client;
mod link;
mod piece;
mod server;
mod shape;
mod spans;

pub use client::{Differences, TreeStats, tree_client};
pub use link::{Link, LinkEvent, LinkOptions, Output};
pub use piece::{Piece, PieceWriter, decode_piece};
pub use server::{PatchSink, tree_server};
pub use shape::Shape;
