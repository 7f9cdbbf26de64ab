//! What a block-device synchronisation does: [`diff`](diff::diff) compares a local
//! device with a remote one and writes a patch, [`serve`](serve::serve) answers the
//! other end of that, [`apply`](apply::apply) brings a device up to date with a patch,
//! [`compare`](compare::compare) compares two devices of one machine without digests.
//!
//! The engine knows no command line and no way to reach another machine: it is
//! given streams, and reports what happens as [`Event`]s.

#![forbid(unsafe_code)]

pub mod apply;
pub mod bench;
mod checksum;
pub mod compare;
pub mod diff;
mod error;
mod events;
mod inbound;
mod options;
mod scan;
pub mod serve;
pub mod tree;

pub use error::{Error, Result};
pub use events::{Cancellation, Context, Event, Observer};
pub use options::{Salt, SizePolicy};
pub use scan::{ScanOptions, Scanner};
