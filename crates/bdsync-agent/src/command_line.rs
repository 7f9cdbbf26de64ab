//! What the command line asks for. Without a library that is larger than what it does:
//! this program travels.

use std::ffi::{OsStr, OsString};
use std::fmt::Display;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;

use bdsync_hash::Algorithm;
use lexopt::{Arg, Parser};

/// The variable that stands for `--threads`.
const THREADS: &str = "BDSYNC_THREADS";

/// The largest block that is measured, in bytes.
const MAX_BLOCK_SIZE: u64 = 1 << 26;

const HELP: &str = "\
The far end of a block device synchronisation

Usage: bdsync-agent <COMMAND>

Commands:
  serve  Serve a client on standard input and output: a manager, or a stock bdsync
  bench  Measure how fast this machine hashes, and reads a device
  help   Print this message or the help of the given subcommand(s)

Options:
  -h, --help     Print help
  -V, --version  Print version
";

const SERVE_HELP: &str = "\
Serve a client on standard input and output: a manager, or a stock bdsync

Usage: bdsync-agent serve [OPTIONS]

Options:
      --restrict-to <PATH>...  Only this device, file, folder with all in it, or pattern (may be given several times)
      --read-only              Change nothing
      --append-only-patches    Take patches and make them ready, but neither apply nor remove any
      --threads <N>            How many threads hash [default: one a processor] [env: BDSYNC_THREADS]
  -h, --help                   Print help
";

const BENCH_HELP: &str = "\
Measure how fast this machine hashes, and reads a device

Usage: bdsync-agent bench [OPTIONS]

Options:
      --device <PATH>       Also measure how fast this file or block device is read and scanned (nothing is written)
      --digest <NAME>       Digests to measure, separated by commas [default: all]
      --block-size <BYTES>  Block sizes to measure, in bytes, separated by commas [default: 4096,65536]
      --threads <N>         Most threads to measure: 1, 2, 4 and so on up to this [default: one a processor] [env: BDSYNC_THREADS]
      --seconds <SECONDS>   About how long all digests together may take, in seconds [default: 4]
      --json                One JSON object instead of the table
  -h, --help                Print help
";

/// What is to be done.
#[derive(Debug, PartialEq)]
pub(crate) enum Command {
    /// Print this and be done.
    Print(String),
    Serve(ServeOptions),
    Bench(BenchOptions),
}

/// How to serve.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct ServeOptions {
    /// What may be touched; nothing: everything.
    pub(crate) restrict_to: Vec<String>,
    pub(crate) read_only: bool,
    pub(crate) append_only_patches: bool,
    /// How many threads hash; `None`: one a processor.
    pub(crate) threads: Option<NonZeroUsize>,
}

/// What to measure.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct BenchOptions {
    pub(crate) device: Option<PathBuf>,
    pub(crate) digests: Vec<Algorithm>,
    pub(crate) block_sizes: Vec<u64>,
    pub(crate) threads: Option<NonZeroUsize>,
    pub(crate) seconds: f64,
    pub(crate) json: bool,
}

/// Reads the command line; `threads` is the variable that stands for `--threads`.
///
/// # Errors
///
/// What is wrong, and how it is used.
pub(crate) fn parse(words: impl IntoIterator<Item = OsString>, threads: Option<&OsStr>) -> Result<Command, String> {
    let mut parser = Parser::from_args(words);
    let failed = |usage: &str, why: String| {
        format!("error: {why}\n\nUsage: bdsync-agent {usage}\n\nFor more information, try '--help'.\n")
    };
    let usage = "<COMMAND>";
    match parser.next().map_err(|error| failed(usage, error.to_string()))? {
        None => Err(HELP.into()),
        Some(Arg::Short('h') | Arg::Long("help")) => Ok(Command::Print(HELP.into())),
        Some(Arg::Short('V') | Arg::Long("version")) => {
            Ok(Command::Print(format!("bdsync-agent {}\n", env!("CARGO_PKG_VERSION"))))
        }
        Some(Arg::Value(name)) if name == "serve" => {
            serve(&mut parser, threads).map_err(|why| failed("serve [OPTIONS]", why))
        }
        Some(Arg::Value(name)) if name == "bench" => {
            bench(&mut parser, threads).map_err(|why| failed("bench [OPTIONS]", why))
        }
        Some(Arg::Value(name)) if name == "help" => {
            help(&mut parser).map_err(|why| failed("help [COMMAND]", why)).map(Command::Print)
        }
        Some(Arg::Value(name)) => Err(failed(usage, unknown(&name))),
        Some(argument) => Err(failed(usage, argument.unexpected().to_string())),
    }
}

fn unknown(command: &OsStr) -> String {
    format!("unrecognized subcommand '{}'", command.to_string_lossy())
}

fn help(parser: &mut Parser) -> Result<String, String> {
    let text = match parser.next().map_err(|error| error.to_string())? {
        None => HELP,
        Some(Arg::Value(name)) if name == "help" => HELP,
        Some(Arg::Value(name)) if name == "serve" => SERVE_HELP,
        Some(Arg::Value(name)) if name == "bench" => BENCH_HELP,
        Some(Arg::Value(name)) => return Err(unknown(&name)),
        Some(argument) => return Err(argument.unexpected().to_string()),
    };
    match parser.next().map_err(|error| error.to_string())? {
        None => Ok(text.into()),
        Some(argument) => Err(argument.unexpected().to_string()),
    }
}

fn serve(parser: &mut Parser, threads: Option<&OsStr>) -> Result<Command, String> {
    let mut options = ServeOptions::default();
    while let Some(argument) = parser.next().map_err(|error| error.to_string())? {
        match argument {
            Arg::Long("restrict-to") => {
                for path in parser.values().map_err(|error| error.to_string())? {
                    options.restrict_to.push(text("--restrict-to <PATH>...", path)?);
                }
            }
            Arg::Long("read-only") => options.read_only = true,
            Arg::Long("append-only-patches") => options.append_only_patches = true,
            Arg::Long("threads") => set(&mut options.threads, "--threads <N>", parser)?,
            Arg::Short('h') | Arg::Long("help") => return Ok(Command::Print(SERVE_HELP.into())),
            other => return Err(other.unexpected().to_string()),
        }
    }
    options.threads = or_variable(options.threads, threads)?;
    Ok(Command::Serve(options))
}

fn bench(parser: &mut Parser, threads: Option<&OsStr>) -> Result<Command, String> {
    let mut options = BenchOptions::default();
    let mut seconds = None;
    while let Some(argument) = parser.next().map_err(|error| error.to_string())? {
        match argument {
            Arg::Long("device") => match options.device {
                Some(_) => return Err(twice("--device <PATH>")),
                None => options.device = Some(parser.value().map_err(|error| error.to_string())?.into()),
            },
            Arg::Long("digest") => options.digests.extend(list::<Algorithm>("--digest <NAME>", parser)?),
            Arg::Long("block-size") => {
                let name = "--block-size <BYTES>";
                for size in list(name, parser)? {
                    if !(1..=MAX_BLOCK_SIZE).contains(&size) {
                        return Err(invalid(name, &size.to_string(), format!("{size} is not in 1..={MAX_BLOCK_SIZE}")));
                    }
                    options.block_sizes.push(size);
                }
            }
            Arg::Long("threads") => set(&mut options.threads, "--threads <N>", parser)?,
            Arg::Long("seconds") => set(&mut seconds, "--seconds <SECONDS>", parser)?,
            Arg::Long("json") => options.json = true,
            Arg::Short('h') | Arg::Long("help") => return Ok(Command::Print(BENCH_HELP.into())),
            other => return Err(other.unexpected().to_string()),
        }
    }
    if options.block_sizes.is_empty() {
        options.block_sizes = vec![4096, 65536];
    }
    options.seconds = seconds.unwrap_or(4.0);
    options.threads = or_variable(options.threads, threads)?;
    Ok(Command::Bench(options))
}

fn invalid(name: &str, value: &str, why: impl Display) -> String {
    format!("invalid value '{value}' for '{name}': {why}")
}

fn twice(name: &str) -> String {
    format!("the argument '{name}' cannot be used multiple times")
}

fn text(name: &str, value: OsString) -> Result<String, String> {
    value.into_string().map_err(|value| invalid(name, &value.to_string_lossy(), "it is not UTF-8"))
}

fn number<T: FromStr<Err: Display>>(name: &str, value: &str) -> Result<T, String> {
    value.parse().map_err(|error| invalid(name, value, error))
}

/// Takes the value of an option that may be given once.
fn set<T: FromStr<Err: Display>>(to: &mut Option<T>, name: &str, parser: &mut Parser) -> Result<(), String> {
    if to.is_some() {
        return Err(twice(name));
    }
    let value = text(name, parser.value().map_err(|error| error.to_string())?)?;
    *to = Some(number(name, &value)?);
    Ok(())
}

/// Takes values that are separated by commas.
fn list<T: FromStr<Err: Display>>(name: &str, parser: &mut Parser) -> Result<Vec<T>, String> {
    let value = text(name, parser.value().map_err(|error| error.to_string())?)?;
    value.split(',').map(|value| number(name, value)).collect()
}

fn or_variable(given: Option<NonZeroUsize>, variable: Option<&OsStr>) -> Result<Option<NonZeroUsize>, String> {
    match (given, variable) {
        (None, Some(value)) => number(THREADS, &value.to_string_lossy()).map(Some),
        (given, _) => Ok(given),
    }
}

/// The command line of this process.
///
/// # Errors
///
/// As [`parse`].
pub(crate) fn of_this_process() -> Result<Command, String> {
    parse(std::env::args_os().skip(1), std::env::var_os(THREADS).as_deref())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(words: &str) -> Result<Command, String> {
        parse(words.split_whitespace().map(OsString::from), None)
    }

    #[test]
    fn paths_are_taken_up_to_the_next_option() {
        let Ok(Command::Serve(options)) = of("serve --restrict-to /a /b --read-only --restrict-to=/c") else {
            panic!()
        };
        assert_eq!(options.restrict_to, ["/a", "/b", "/c"]);
        assert!(options.read_only && !options.append_only_patches);
        assert!(of("serve --restrict-to").is_err(), "nothing would be everything");
        assert!(of("serve --restrict-to --read-only").is_err(), "nothing would be everything");
    }

    #[test]
    fn what_is_not_given_has_its_default() {
        let Ok(Command::Bench(options)) = of("bench") else { panic!() };
        assert_eq!((options.block_sizes, options.seconds), (vec![4096, 65536], 4.0));
        let Ok(Command::Bench(options)) = of("bench --block-size 512,1024 --block-size=1 --digest md5,SHA1") else {
            panic!()
        };
        assert_eq!((options.block_sizes, options.digests.len()), (vec![512, 1024, 1], 2));
    }

    #[test]
    fn the_variable_counts_where_the_option_is_missing() {
        let parse = |words: &str| parse(words.split_whitespace().map(OsString::from), Some(OsStr::new("3")));
        let Ok(Command::Serve(options)) = parse("serve") else { panic!() };
        assert_eq!(options.threads, NonZeroUsize::new(3));
        let Ok(Command::Serve(options)) = parse("serve --threads 2") else { panic!() };
        assert_eq!(options.threads, NonZeroUsize::new(2));
        let bad = super::parse(["serve".into()], Some(OsStr::new("many")));
        assert!(bad.is_err_and(|text| text.contains("BDSYNC_THREADS")));
    }

    #[test]
    fn help_and_version_are_printed() {
        for words in ["--help", "-h", "help"] {
            assert_eq!(of(words), Ok(Command::Print(HELP.into())));
        }
        for words in ["serve --help", "help serve", "serve --read-only -h"] {
            assert_eq!(of(words), Ok(Command::Print(SERVE_HELP.into())));
        }
        for words in ["bench --help", "help bench"] {
            assert_eq!(of(words), Ok(Command::Print(BENCH_HELP.into())));
        }
        assert!(matches!(of("-V"), Ok(Command::Print(text)) if text.starts_with("bdsync-agent 0.")));
    }

    #[test]
    fn mistakes_are_named() {
        for (words, name) in [
            ("", "Commands:"),
            ("nosuch", "'nosuch'"),
            ("--nosuch", "'--nosuch'"),
            ("help nosuch", "'nosuch'"),
            ("serve --nosuch", "'--nosuch'"),
            ("serve --read-only=yes", "--read-only"),
            ("serve word", "\"word\""),
            ("serve --threads", "--threads"),
            ("serve --threads 0", "'--threads <N>'"),
            ("serve --threads 1 --threads 1", "multiple times"),
            ("bench --device a --device b", "multiple times"),
            ("bench --block-size 0", "'--block-size <BYTES>'"),
            ("bench --block-size 4096,", "'--block-size <BYTES>'"),
            ("bench --block-size 67108865", "1..=67108864"),
            ("bench --digest nosuch", "'nosuch'"),
            ("bench --seconds soon", "'soon'"),
        ] {
            assert!(of(words).is_err_and(|text| text.contains(name)), "{words}: {:?}", of(words));
        }
    }
}
