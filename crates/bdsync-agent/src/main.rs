//! `bdsync-agent`: the far end. Thin: it reads the command line and calls the engine.

mod bench;

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
    /// Measure how fast this machine hashes, and reads a device
    Bench(bench::BenchOptions),
}

fn main() -> ExitCode {
    let result = match CommandLine::parse().command {
        Command::Bench(options) => bench::run(&options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bdsync-agent: {error:#}");
            let engine = error.downcast_ref::<bdsync_engine::Error>();
            ExitCode::from(engine.map_or(1, |error| error.exit_code().code()))
        }
    }
}
