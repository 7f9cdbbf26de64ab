//! The server: answers a client on standard input and output.

use std::sync::Mutex;

use bdsync_engine::serve::serve;
use bdsync_engine::{Cancellation, Context, Error, Event};
use bdsync_proto::ProtocolError;
use syslog::{Facility, Formatter3164, Logger, LoggerBackend};

use crate::failure::Failure;
use crate::options::ServerOptions;
use crate::report::describe;
use crate::streams::Stream;

/// Runs the server until its client is done.
pub(crate) fn run(options: &ServerOptions) -> Result<(), Failure> {
    let log = Log::new(options.verbose);
    let cancellation = Cancellation::new();
    let observer = |event: &Event| {
        if let Some(text) = describe(event, true) {
            log.info(&text);
        }
    };
    let context = Context { observer: &observer, cancellation: &cancellation };
    let result = serve(Stream::input()?, Stream::output()?, options.scan, context);
    if let Err(error) = &result {
        log.info(&error.to_string());
    }
    match result {
        // A client that goes away has its reasons, and nobody who would read ours.
        Err(Error::Protocol(error @ ProtocolError::UnexpectedEnd { .. })) => Err(Failure::Quiet(error.exit_code())),
        result => Ok(result?),
    }
}

/// The system's log, facility user, level info; silent unless asked for and there.
struct Log(Option<Mutex<Logger<LoggerBackend, Formatter3164>>>);

impl Log {
    fn new(verbose: bool) -> Self {
        let formatter = Formatter3164 {
            facility: Facility::LOG_USER,
            hostname: None,
            process: "bdsync".into(),
            pid: std::process::id(),
        };
        // A machine without syslog serves all the same.
        Self(verbose.then(|| syslog::unix(formatter).ok()).flatten().map(Mutex::new))
    }

    fn info(&self, text: &str) {
        if let Some(logger) = &self.0
            && let Ok(mut logger) = logger.lock()
        {
            // Nor does it stop when its log does.
            let _ = logger.info(text);
        }
    }
}
