//! The client: starts the remote command, compares, writes the patch to standard output.

use std::io::BufWriter;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use bdsync_device::{Access, Device};
use bdsync_engine::diff::{Names, Peer, diff};
use bdsync_engine::{Cancellation, Context, Error, Event, Observer, Scanner};

use crate::failure::Failure;
use crate::options::ClientOptions;
use crate::remote::Remote;
use crate::report::Report;
use crate::streams::Stream;

/// How much of the patch is written at once, in bytes.
const WRITE: usize = 1 << 18;

/// Runs the client; gives the remote command's exit status.
pub(crate) fn run(options: &ClientOptions) -> Result<u8, Failure> {
    let report = Report::new(options.verbose, options.progress);
    let device = Device::open(&options.local_device, Access::Read).map_err(Error::from)?;
    report.event(&Event::Opened { device: options.local_device.to_string_lossy().into_owned() });
    let names = Names { local: options.local_device.as_bytes(), remote: options.remote_device.as_bytes() };
    options.diff.check(names)?;
    let scanner = Scanner::new(Arc::new(device), options.scan)?;
    let patch = BufWriter::with_capacity(WRITE, Stream::output()?);

    let (remote, output, input) = Remote::start(&options.remote_command)?;
    let cancellation = Cancellation::new();
    let context = Context { observer: &report, cancellation: &cancellation };
    let result = diff(&scanner, names, Peer { input, output }, patch, &options.diff, context);
    match result {
        Ok((patch, _)) => {
            drop(patch);
            remote.finish()
        }
        Err(error) => match (remote.abandon(), &error) {
            (Some(ended), Error::Protocol(_) | Error::ReadPeer(_) | Error::WritePeer(_)) => {
                Err(Failure::InContext { error, context: format!("; the remote command {ended}") })
            }
            _ => Err(error.into()),
        },
    }
}
