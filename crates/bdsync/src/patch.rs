//! Patch mode: applies the patch on standard input.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::fd::AsFd;

use bdsync_engine::apply::{ApplyStats, apply, check, hex};
use bdsync_engine::{Cancellation, Context, Event};

use crate::failure::Failure;
use crate::options::PatchOptions;
use crate::report::describe;

/// Applies the patch; a patch in a file is checked to its end first.
pub(crate) fn run(options: &PatchOptions) -> Result<(), Failure> {
    let input = io::stdin().as_fd().try_clone_to_owned().map_err(|error| Failure::Input(error.to_string()))?;
    let mut input = File::from(input);
    let cancellation = Cancellation::new();
    let observer = |event: &Event| {
        let text = match event {
            Event::SizesDiffer { local, remote } => Some(format!("Different sizes current={local} patch={remote}")),
            other => describe(other, options.verbose),
        };
        if let Some(text) = text {
            eprintln!("{text}");
        }
    };
    let context = Context { observer: &observer, cancellation: &cancellation };

    if input.metadata().is_ok_and(|metadata| metadata.is_file()) {
        let failed = |error: io::Error| Failure::Input(format!("cannot seek in the patch: {error}"));
        let start = input.stream_position().map_err(failed)?;
        check(&input, context)
            .map_err(|error| Failure::InContext { error, context: "; the target was not touched".into() })?;
        input.seek(SeekFrom::Start(start)).map_err(failed)?;
    }
    let ApplyStats { checksum, .. } = apply(&input, &options.apply, context)?;
    if let Some(checksum) = checksum {
        eprintln!("checksum[{}]: {}", checksum.name, hex(&checksum.digest));
    }
    Ok(())
}
