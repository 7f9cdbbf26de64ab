//! The command line. Completions and man pages are made from these definitions.

use std::path::PathBuf;

use clap::builder::RangedU64ValueParser;
use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

use crate::logging::{LogFormat, LogLevel};

/// What `--help` says at its end.
const EXIT_STATUS: &str = "\
Exit status:
  0  everything went well
  1  a missing dependency, or the state folder cannot be used
  2  the configuration or the command line is wrong; nothing was done
  3  a task failed (the others were run)
  4  cancelled by Ctrl-C or SIGTERM
  5  verify: source and target differ";

/// Run synchronisation tasks of block devices and images
#[derive(Debug, Parser)]
#[command(name = "bdsync-manager", version, after_help = EXIT_STATUS, after_long_help = EXIT_STATUS)]
pub(crate) struct CommandLine {
    /// The configuration file [default: /etc/bdsync-manager.toml, or /etc/bdsync-manager.conf]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Only this task (may be given several times) [default: all, in the file's order]
    #[arg(long = "task", global = true, value_name = "NAME")]
    pub(crate) tasks: Vec<String>,
    /// How much is said on standard error
    #[arg(long, global = true, value_enum, default_value = "warning", value_name = "LEVEL")]
    pub(crate) log_level: LogLevel,
    /// Where and how it is said
    #[arg(long, global = true, value_enum, default_value = "plain", value_name = "FORMAT")]
    pub(crate) log_format: LogFormat,
    /// Write events and results as JSON lines to standard output
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Where results and locks are kept [default: /var/lib/bdsync-manager, or under XDG_STATE_HOME for a user]
    #[arg(long, global = true, env = "BDSYNC_MANAGER_STATE_DIR", value_name = "FOLDER")]
    pub(crate) state_dir: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the tasks (what happens without a command, too)
    Run(RunArgs),
    /// Look whether the configuration makes sense and everything can be reached; change nothing
    Check,
    /// List the tasks
    List,
    /// Compare sources and targets, and list the ranges that differ; change nothing
    Verify,
    /// Show how each task last ended, and what is pending
    Status,
    /// Measure how fast this machine, or another one, hashes and reads a device
    Bench(BenchArgs),
    /// Work with configuration files
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Write man pages into a folder
    Man {
        /// The folder
        folder: PathBuf,
    },
}

#[derive(Clone, Debug, Default, Args)]
pub(crate) struct RunArgs {
    /// Compare and say what would change; change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// How many tasks run at the same time
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = RangedU64ValueParser::<usize>::new().range(1..))]
    pub(crate) jobs: usize,
    /// Use this setting in place of the file's, in every task (may be given several times)
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// Also measure how fast this file or block device is read and scanned (nothing is written)
    #[arg(long, value_name = "PATH")]
    pub(crate) device: Option<PathBuf>,
    /// Measure at the other end, with the agent there: the name of a [remote.NAME]
    #[arg(long, value_name = "NAME")]
    pub(crate) remote: Option<String>,
    /// About how long all digests together may take, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 4.0)]
    pub(crate) seconds: f64,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Print a configuration of the original manager (INI) as TOML
    Convert {
        /// The original's file
        old: PathBuf,
    },
}
