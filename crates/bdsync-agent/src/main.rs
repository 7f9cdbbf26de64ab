//! `bdsync-agent`: the far end. Thin: it reads the command line and calls the engine.

mod applied;
mod bench;
mod command_line;
mod gate;
mod serve;
mod stored;

use std::io::Write;
use std::process::ExitCode;

use command_line::Command;

fn main() -> ExitCode {
    let result = match command_line::of_this_process() {
        // A message that nobody can see changes no exit code.
        Ok(Command::Print(text)) => {
            let _ = std::io::stdout().write_all(text.as_bytes());
            return ExitCode::SUCCESS;
        }
        Err(text) => {
            let _ = std::io::stderr().write_all(text.as_bytes());
            return ExitCode::FAILURE;
        }
        Ok(Command::Serve(options)) => serve::run(options),
        Ok(Command::Bench(options)) => bench::run(options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
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
