//! `bdsync`: the drop-in for the stock command. Thin: it reads the command line,
//! opens the streams, and prints what the engine says.

mod client;
mod failure;
mod idle;
mod options;
mod patch;
mod remote;
mod report;
mod server;
mod shell_words;
mod streams;
mod usage;

use std::io::Write;
use std::process::ExitCode;

use failure::Failure;
use options::{CommandLine, Mode};

fn main() -> ExitCode {
    match run() {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            if !matches!(failure, Failure::Quiet(_)) {
                streams::say(&failure);
            }
            failure.exit_code().into()
        }
    }
}

fn run() -> Result<u8, Failure> {
    let CommandLine { mode, idle } = options::parse(std::env::args_os())?;
    if idle {
        idle::become_idle().map_err(|error| Failure::Process(format!("cannot become idle: {error}")))?;
    }
    match mode {
        Mode::Help => print(usage::USAGE),
        Mode::Version => print(concat!("bdsync ", env!("CARGO_PKG_VERSION"), ", protocol 0.5, patch format 0.3\n")),
        Mode::Client(options) => client::run(&options),
        Mode::Server(options) => server::run(&options).map(|()| 0),
        Mode::Patch(options) => patch::run(&options).map(|()| 0),
    }
}

fn print(text: &str) -> Result<u8, Failure> {
    std::io::stdout().write_all(text.as_bytes()).map_err(|error| Failure::Output(error.to_string()))?;
    Ok(0)
}
