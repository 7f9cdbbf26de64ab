//! Patch mode: applies the patch on standard input.

use std::io::Cursor;

use bdsync_device::BlockReader;
use bdsync_engine::apply::{ApplyStats, READ_AHEAD_FROM, apply, check, hex, verifiable};
use bdsync_engine::{Cancellation, Context, Error, Event};

use crate::failure::Failure;
use crate::options::PatchOptions;
use crate::report::describe;
use crate::streams::{Stream, printable, say};

/// Applies the patch; one that can be read twice is checked to its end first.
pub(crate) fn run(options: &PatchOptions) -> Result<(), Failure> {
    let mut input = Stream::input()?;
    let cancellation = Cancellation::new();
    let observer = |event: &Event| {
        let text = match event {
            Event::SizesDiffer { local, remote } => Some(format!("Different sizes current={local} patch={remote}")),
            other => describe(other, options.verbose),
        };
        if let Some(text) = text {
            say(text);
        }
    };
    let context = Context { observer: &observer, cancellation: &cancellation };

    let mut apply_options = options.apply.clone();
    if input.is_seekable() {
        let untouched = |error: Error| Failure::InContext { error, context: "; the target was not touched".into() };
        let (patch, start) = input.rest()?;
        let length = patch.device().size().saturating_sub(start) as usize;
        let summary = patch.lend(start, length, |bytes| check(Cursor::new(bytes), context));
        let summary = summary.map_err(Error::from).flatten().map_err(untouched)?;
        if options.apply.verify.is_some() {
            verifiable(summary.checksum.as_ref()).map_err(untouched)?;
        }
        apply_options.read_ahead = summary.data_bytes >= READ_AHEAD_FROM;
    }
    let ApplyStats { checksum, .. } = apply(&mut input, &apply_options, context)?;
    if let Some(checksum) = checksum {
        say(format_args!("checksum[{}]: {}", printable(&checksum.name), hex(&checksum.digest)));
    }
    Ok(())
}
