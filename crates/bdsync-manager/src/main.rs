//! `bdsync-manager`: an administrator's synchronisation tasks, run unattended.

mod agent;
mod cli;
mod commands;
mod config;
mod deploy;
mod end;
mod failure;
mod far;
mod feed;
mod hooks;
mod known_hosts;
mod local;
mod logging;
mod remote;
mod report;
mod run;
mod snapshot;
mod ssh;
mod state;
mod transport;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Result;
use bdsync_engine::Cancellation;
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

use cli::{Command, CommandLine, ConfigCommand, RunArgs};
use config::{Configuration, Task};
use failure::Exit;
use report::Reporter;
use run::{Control, RunOptions};
use state::StateFolder;

fn main() -> ExitCode {
    let command_line = match CommandLine::try_parse() {
        Ok(command_line) => command_line,
        Err(error) => {
            // Help and version are printed like this, too; those are no failure.
            let _ = error.print();
            return if error.use_stderr() { Exit::Configuration } else { Exit::Success }.into();
        }
    };
    let reporter = Reporter::new(command_line.json);
    match start(command_line, &reporter) {
        Ok(exit) => exit.into(),
        Err(error) => {
            reporter.message(&format!("[bdsync-manager] ERROR: {error:#}\n"));
            Exit::MissingDependency.into()
        }
    }
}

fn start(command_line: CommandLine, reporter: &Reporter) -> Result<Exit> {
    logging::start(command_line.log_level, command_line.log_format, reporter)?;
    match &command_line.command {
        Some(Command::Completions { shell }) => {
            commands::completions(*shell);
            return Ok(Exit::Success);
        }
        Some(Command::Man { folder }) => {
            commands::man(folder)?;
            return Ok(Exit::Success);
        }
        Some(Command::Config(ConfigCommand::Convert { old })) => {
            return Ok(match config::convert(old) {
                Ok(text) => {
                    reporter.print(&text)?;
                    Exit::Success
                }
                Err(problems) => wrong(&problems, reporter),
            });
        }
        Some(Command::Bench(options)) if options.remote.is_none() => {
            bench(options, reporter)?;
            return Ok(Exit::Success);
        }
        _ => {}
    }
    let run = match &command_line.command {
        Some(Command::Run(run)) => run.clone(),
        _ => RunArgs { jobs: 1, ..RunArgs::default() },
    };
    let configuration = match Configuration::load(command_line.config.as_deref(), &run.set) {
        Ok(configuration) => configuration,
        Err(problems) => return Ok(wrong(&problems, reporter)),
    };
    for warning in &configuration.warnings {
        tracing::warn!("{warning}");
    }
    let is_plain_run = command_line.command.is_none();
    if let Some(Command::Bench(options)) = &command_line.command {
        return bench_remote(options, &configuration, reporter);
    }
    let Some(tasks) = choose(&configuration.tasks, &command_line.tasks, is_plain_run) else {
        return Ok(Exit::Configuration);
    };
    let control = Control {
        cancellation: Cancellation::new(),
        reporter: reporter.clone(),
        state: StateFolder::open(command_line.state_dir.as_deref())?,
        config: Arc::from(configuration.path.as_path() as &Path),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        listen_for_signals(&control)?;
        match command_line.command {
            None | Some(Command::Run(_)) => {
                let options = RunOptions { jobs: run.jobs, dry_run: run.dry_run };
                Ok(run::run_tasks(tasks, &control, options).await)
            }
            Some(command) => {
                let control = control.clone();
                let looked = tokio::task::spawn_blocking(move || match command {
                    Command::List => commands::list(&tasks, &control),
                    Command::Check => commands::check(&tasks, &control),
                    Command::Verify => commands::verify(&tasks, &control),
                    _ => commands::status(&tasks, &control),
                });
                looked.await?
            }
        }
    })
}

/// Says what is wrong with a configuration.
fn wrong(problems: &config::Problems, reporter: &Reporter) -> Exit {
    problems.report(reporter);
    tracing::error!("{problems}");
    Exit::Configuration
}

/// The tasks that were asked for, by name or by the name of the template that makes
/// them. An unknown name is left out with a warning in the original's calls, as the
/// original does; it is an error where a command was given.
fn choose(all: &[Task], names: &[String], is_plain_run: bool) -> Option<Vec<Task>> {
    if all.is_empty() {
        tracing::warn!("There is nothing to be done (no tasks found in config file).");
    }
    if names.is_empty() {
        return Some(all.to_vec());
    }
    let mut chosen: Vec<Task> = Vec::new();
    for name in names {
        let matches = |task: &&Task| {
            task.name == *name || task.name.strip_prefix(name.as_str()).is_some_and(|rest| rest.starts_with('/'))
        };
        let found: Vec<_> = all.iter().filter(matches).cloned().collect();
        if found.is_empty() {
            if !is_plain_run {
                let known: Vec<_> = all.iter().map(|task| task.name.as_str()).collect();
                tracing::error!("There is no task {name}; there are: {}", known.join(", "));
                return None;
            }
            tracing::warn!("Skipping unknown task: {name}");
        }
        for task in found {
            if !chosen.iter().any(|known| known.name == task.name) {
                chosen.push(task);
            }
        }
    }
    if chosen.is_empty() {
        tracing::warn!("There is nothing to be done (no tasks found in config file).");
    }
    Some(chosen)
}

/// Ctrl-C and SIGTERM end everything cleanly; a second one at once, which is safe, too.
fn listen_for_signals(control: &Control) -> Result<()> {
    for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()] {
        // Who has this ignored (nohup) means it.
        if is_ignored(kind) {
            continue;
        }
        let (mut stream, cancellation) = (signal(kind)?, control.cancellation.clone());
        tokio::spawn(async move {
            while stream.recv().await.is_some() {
                if cancellation.is_cancelled() {
                    std::process::exit(Exit::Cancelled as i32);
                }
                cancellation.cancel();
            }
        });
    }
    Ok(())
}

/// Whether a signal was ignored by whoever started this program.
fn is_ignored(kind: SignalKind) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask >> (kind.as_raw_value() - 1) & 1 == 1
}

/// `bench --remote`: what the agent at the other end measures.
fn bench_remote(options: &cli::BenchArgs, configuration: &Configuration, reporter: &Reporter) -> Result<Exit> {
    let name = options.remote.clone().unwrap_or_default();
    let Some(remote) = configuration.remotes.iter().find(|remote| remote.label == name) else {
        let known: Vec<_> = configuration.remotes.iter().map(|remote| remote.label.as_str()).collect();
        tracing::error!("There is no section [remote.{name}]; there are: {}", known.join(", "));
        return Ok(Exit::Configuration);
    };
    let cancellation = Cancellation::new();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let _entered = runtime.enter();
    match end::bench(remote, options, &cancellation, reporter.is_json()) {
        Ok(text) => {
            reporter.print(&text)?;
            Ok(Exit::Success)
        }
        Err(failure) => {
            tracing::error!("{failure}");
            Ok(Exit::TaskFailed)
        }
    }
}

fn bench(options: &cli::BenchArgs, reporter: &Reporter) -> Result<()> {
    use bdsync_engine::bench::{Plan, measure};
    let plan = Plan { device: options.device.clone(), seconds: options.seconds, ..Plan::default() };
    let report = measure(&plan, &mut |_| {})?;
    let text = if reporter.is_json() { serde_json::to_string(&report)? + "\n" } else { report.to_string() };
    reporter.print(&text)?;
    Ok(())
}
