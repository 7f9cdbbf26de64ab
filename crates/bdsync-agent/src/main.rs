//! `bdsync-agent`: the far end. Thin: it reads the command line and calls the engine.

mod bench;
mod gate;
mod serve;

use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The far end of a block device synchronisation
#[derive(Debug, Parser)]
#[command(version)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve a client on standard input and output: a manager, or a stock bdsync
    Serve(serve::ServeArgs),
    /// Measure how fast this machine hashes, and reads a device
    Bench(bench::BenchOptions),
}

fn main() -> ExitCode {
    let command_line = match CommandLine::try_parse() {
        Ok(command_line) => command_line,
        Err(error) => {
            // Help and version are printed like this, too; those are no failure.
            let _ = error.print();
            return ExitCode::from(u8::from(error.use_stderr()));
        }
    };
    let result = match command_line.command {
        Command::Serve(options) => serve::run(options),
        Command::Bench(options) => bench::run(options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // A message that nobody can see changes no exit code.
            let engine = error.downcast_ref::<bdsync_engine::Error>();
            // The engine's messages say the cause themselves.
            let _ = match engine {
                Some(error) => writeln!(std::io::stderr(), "bdsync-agent: {error}"),
                None => writeln!(std::io::stderr(), "bdsync-agent: {error:#}"),
            };
            ExitCode::from(engine.map_or(1, |error| error.exit_code().code()))
        }
    }
}
