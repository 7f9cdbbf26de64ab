//! The command line: as GNU getopt reads it, with stock's options and ours
//! (`proto-spec/protocol.md`, exit codes; the usage text).

use std::ffi::{OsStr, OsString};
use std::num::NonZeroUsize;
use std::os::unix::ffi::OsStrExt;
use std::str::FromStr;

use bdsync_device::ReadStrategy;
use bdsync_engine::apply::{ApplyOptions, VerifyOptions};
use bdsync_engine::diff::{DiffOptions, NamedDigest};
use bdsync_engine::{Salt, ScanOptions, SizePolicy};
use bdsync_hash::Algorithm;
use bdsync_proto::limits::MAX_BLOCK_SIZE;
use lexopt::Arg;

use crate::failure::Failure;
use crate::usage::USAGE;

/// A command line that makes sense.
#[derive(Debug)]
pub(crate) struct CommandLine {
    pub(crate) mode: Mode,
    /// Whether everything else on the machine goes first.
    pub(crate) idle: bool,
}

/// What the command line asks for.
#[derive(Debug)]
pub(crate) enum Mode {
    Help,
    Version,
    Client(Box<ClientOptions>),
    Server(ServerOptions),
    Patch(Box<PatchOptions>),
}

#[derive(Debug)]
pub(crate) struct ClientOptions {
    pub(crate) remote_command: OsString,
    pub(crate) local_device: OsString,
    pub(crate) remote_device: OsString,
    pub(crate) diff: DiffOptions,
    pub(crate) scan: ScanOptions,
    pub(crate) progress: Option<Progress>,
    pub(crate) verbose: bool,
}

#[derive(Debug)]
pub(crate) struct ServerOptions {
    pub(crate) scan: ScanOptions,
    pub(crate) verbose: bool,
}

#[derive(Debug)]
pub(crate) struct PatchOptions {
    pub(crate) apply: ApplyOptions,
    pub(crate) verbose: bool,
}

/// How `PROGRESS:` lines end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Each on a line of its own.
    Lines,
    /// Each over the one before.
    NoScroll,
}

/// How an option takes its value.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Value {
    None,
    Required,
    Optional,
}

/// An option's long name, its letter, how it takes a value, and whether it is
/// stock's: only those may be cut short, so that scripts mean what they always meant.
struct Spec(&'static str, Option<char>, Value, bool);

const SPECS: &[Spec] = &[
    Spec("server", Some('s'), Value::None, true),
    Spec("patch", Some('p'), Value::Optional, true),
    Spec("warndev", Some('w'), Value::None, true),
    Spec("verbose", Some('v'), Value::None, true),
    Spec("hash", Some('h'), Value::Required, true),
    Spec("blocksize", Some('b'), Value::Required, true),
    Spec("checksum", Some('c'), Value::Required, true),
    Spec("twopass", Some('t'), Value::None, true),
    Spec("remdata", Some('r'), Value::None, true),
    Spec("diffsize", Some('d'), Value::Optional, true),
    Spec("zeroblocks", Some('z'), Value::None, true),
    Spec("fixedsalt", Some('f'), Value::None, true),
    Spec("flushcache", Some('F'), Value::None, true),
    Spec("progress", None, Value::Optional, true),
    Spec("help", Some('H'), Value::None, true),
    Spec("threads", None, Value::Required, false),
    Spec("io", None, Value::Required, false),
    Spec("idle", None, Value::None, false),
    Spec("read-holes", None, Value::None, false),
    Spec("sparse", None, Value::None, false),
    Spec("verify", None, Value::None, false),
    Spec("version", None, Value::None, false),
];

/// Everything that was given, before it is known what it is for.
#[derive(Default)]
struct Given {
    server: bool,
    patch: Option<Option<OsString>>,
    warn_device: bool,
    verbose: bool,
    hash: Option<String>,
    block_size: Option<i128>,
    checksum: Option<String>,
    two_pass: bool,
    remote_data: bool,
    diffsize: Option<(SizePolicy, bool)>,
    zero_blocks: bool,
    fixed_salt: bool,
    flush_cache: bool,
    progress: Option<Progress>,
    help: bool,
    threads: Option<NonZeroUsize>,
    io: ReadStrategy,
    idle: bool,
    read_holes: bool,
    sparse: bool,
    verify: bool,
    version: bool,
    operands: Vec<OsString>,
}

/// Reads a command line; its first word is the program's name.
pub(crate) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<CommandLine, Failure> {
    let mut arguments = arguments.into_iter().peekable();
    let program = arguments.next().unwrap_or_else(|| "bdsync".into()).to_string_lossy().into_owned();
    if arguments.peek().is_none() {
        return Ok(CommandLine { mode: Mode::Help, idle: false });
    }
    let mut parser = lexopt::Parser::from_args(arguments);
    parser.set_short_equals(false);
    let mut given = Given::default();
    let syntax = |text: String| Failure::Usage(format!("{program}: {text}\n{USAGE}"));
    loop {
        let argument = parser.next().map_err(|error| syntax(lexopt_message(&error)))?;
        let spec = match argument {
            None => break,
            Some(Arg::Value(operand)) => {
                given.operands.push(operand);
                continue;
            }
            Some(Arg::Short(letter)) => SPECS
                .iter()
                .find(|spec| spec.1 == Some(letter))
                .ok_or_else(|| syntax(format!("invalid option -- '{letter}'")))?,
            Some(Arg::Long(name)) => find_long(name).map_err(syntax)?,
        };
        let Spec(name, _, takes, _) = *spec;
        let value = match takes {
            // One that was given all the same is an error of the parser's next step.
            Value::None => None,
            Value::Required => {
                Some(parser.value().map_err(|_| syntax(format!("option '--{name}' requires an argument")))?)
            }
            Value::Optional => parser.optional_value(),
        };
        given.take(name, value)?;
    }
    let idle = given.idle;
    Ok(CommandLine { mode: given.into_mode()?, idle })
}

/// The option of this name, or stock's one that begins like this.
fn find_long(name: &str) -> Result<&'static Spec, String> {
    if let Some(spec) = SPECS.iter().find(|spec| spec.0 == name) {
        return Ok(spec);
    }
    let begin = |stock: bool| SPECS.iter().filter(move |spec| spec.3 == stock && spec.0.starts_with(name));
    let mut candidates: Vec<_> = begin(true).collect();
    if candidates.is_empty() {
        candidates = begin(false).collect();
    }
    match candidates[..] {
        [] => Err(format!("unrecognized option '--{name}'")),
        [spec] => Ok(spec),
        _ => {
            let names: String = candidates.iter().map(|spec| format!(" '--{}'", spec.0)).collect();
            Err(format!("option '--{name}' is ambiguous; possibilities:{names}"))
        }
    }
}

fn lexopt_message(error: &lexopt::Error) -> String {
    match error {
        lexopt::Error::UnexpectedValue { option, .. } => {
            let name = find_long(option.trim_start_matches('-')).map_or(option.as_str(), |spec| spec.0);
            format!("option '--{name}' doesn't allow an argument")
        }
        other => other.to_string(),
    }
}

fn usage<T>(text: impl Into<String>) -> Result<T, Failure> {
    Err(Failure::Usage(text.into()))
}

fn text(value: &OsStr) -> String {
    value.to_string_lossy().into_owned()
}

impl Given {
    fn take(&mut self, name: &str, value: Option<OsString>) -> Result<(), Failure> {
        let required = || text(value.as_deref().unwrap_or_default());
        match name {
            "server" => self.server = true,
            "patch" => self.patch = Some(value),
            "warndev" => self.warn_device = true,
            "verbose" => self.verbose = true,
            "hash" => self.hash = Some(required()),
            "blocksize" => self.block_size = Some(block_size(&required())?),
            "checksum" => self.checksum = Some(required()),
            "twopass" => self.two_pass = true,
            "remdata" => self.remote_data = true,
            "diffsize" => self.diffsize = Some(diffsize(value.as_deref())?),
            "zeroblocks" => self.zero_blocks = true,
            "fixedsalt" => self.fixed_salt = true,
            "flushcache" => self.flush_cache = true,
            "progress" => self.progress = Some(progress(value.as_deref())?),
            "help" => self.help = true,
            "threads" => self.threads = Some(threads(&required(), "--threads")?),
            "io" => self.io = read_strategy(&required())?,
            "idle" => self.idle = true,
            "read-holes" => self.read_holes = true,
            "sparse" => self.sparse = true,
            "verify" => self.verify = true,
            "version" => self.version = true,
            _ => unreachable!("every option of the table is taken"),
        }
        Ok(())
    }

    fn into_mode(mut self) -> Result<Mode, Failure> {
        if self.help {
            return Ok(Mode::Help);
        }
        if self.version {
            return Ok(Mode::Version);
        }
        self.check_contradictions()?;
        if self.threads.is_none()
            && let Some(value) = std::env::var_os("BDSYNC_THREADS")
        {
            self.threads = Some(threads(&text(&value), "BDSYNC_THREADS")?);
        }
        let scan = ScanOptions { strategy: self.io, threads: self.threads, trust_holes: !self.read_holes };
        let wanted = if self.server || self.patch.is_some() { 0 } else { 3 };
        if self.operands.len() != wanted {
            return usage(format!("Bad number of arguments {}", self.operands.len()));
        }
        if self.server {
            return Ok(Mode::Server(ServerOptions { scan, verbose: self.verbose }));
        }
        if let Some(device) = self.patch.take() {
            return self.into_patch(device).map(|patch| Mode::Patch(Box::new(patch)));
        }
        self.into_client(scan).map(|client| Mode::Client(Box::new(client)))
    }

    fn check_contradictions(&self) -> Result<(), Failure> {
        let patch = self.patch.is_some();
        let contradictions = [
            (self.server && patch, "--server", "--patch"),
            (self.hash.is_some() && self.server, "--hash", "--server"),
            (self.hash.is_some() && patch, "--hash", "--patch"),
            (self.checksum.is_some() && self.server, "--checksum", "--server"),
            (self.checksum.is_some() && patch, "--checksum", "--patch"),
            (self.zero_blocks && patch, "--zeroblocks", "--patch"),
        ];
        if let Some((_, one, other)) = contradictions.iter().find(|(both, ..)| *both) {
            return usage(format!("Contradictive options {one} and {other}"));
        }
        for (given, name) in [(self.warn_device, "--warndev"), (self.sparse, "--sparse"), (self.verify, "--verify")] {
            if given && !patch {
                return usage(format!("Options {name} only valid with --patch"));
            }
        }
        Ok(())
    }

    fn into_patch(self, device: Option<OsString>) -> Result<PatchOptions, Failure> {
        let (size_policy, warn_size) = self.diffsize.unwrap_or((SizePolicy::Strict, true));
        let (block_size, two_pass) = (self.block_size, self.two_pass);
        // Managers pass one set of options to all calls; what is not used is not looked at.
        let verify = match self.verify {
            true => Some(VerifyOptions { block_size: checked_block_size(block_size)?, two_pass }),
            false => None,
        };
        let (warn_device, punch_holes) = (self.warn_device, self.sparse);
        Ok(PatchOptions {
            apply: ApplyOptions { device, size_policy, warn_size, warn_device, punch_holes, read_ahead: false, verify },
            verbose: self.verbose,
        })
    }

    fn into_client(self, scan: ScanOptions) -> Result<ClientOptions, Failure> {
        let hash = self.hash.unwrap_or_else(|| "md5".into());
        let digest = named_digest(&hash).map_err(|known| Failure::Usage(format!("Bad hash {hash}: {known}")))?;
        let checksum = match self.checksum {
            Some(name) => {
                let digest = named_digest(&name);
                Some(digest.map_err(|known| Failure::Checksum(format!("Bad checksum {name}: {known}")))?)
            }
            None => None,
        };
        let (size_policy, warn_size) = self.diffsize.unwrap_or((SizePolicy::Strict, true));
        let [remote_command, local_device, remote_device] = match <[OsString; 3]>::try_from(self.operands) {
            Ok(operands) => operands,
            Err(operands) => return usage(format!("Bad number of arguments {}", operands.len())),
        };
        Ok(ClientOptions {
            remote_command,
            local_device,
            remote_device,
            diff: DiffOptions {
                sample: None,
                block_size: checked_block_size(self.block_size)?,
                digest,
                checksum,
                two_pass: self.two_pass,
                remote_data: self.remote_data,
                size_policy,
                warn_size,
                flush_cache: self.flush_cache,
                salt: if self.fixed_salt { Salt::zeros() } else { Salt::Random },
            },
            scan,
            progress: self.progress,
            verbose: self.verbose,
        })
    }
}

fn named_digest(name: &str) -> Result<NamedDigest, bdsync_hash::UnknownDigest> {
    Ok(NamedDigest { algorithm: Algorithm::from_str(name)?, name: name.to_string() })
}

fn block_size(value: &str) -> Result<i128, Failure> {
    value.trim_start().parse().map_err(|_| Failure::Usage(format!("bad number {value}")))
}

fn checked_block_size(number: Option<i128>) -> Result<u64, Failure> {
    let number = number.unwrap_or(4096);
    match u64::try_from(number) {
        Ok(size @ 1..=MAX_BLOCK_SIZE) => Ok(size),
        _ => usage(format!("bad number {number}: a block size must be from 1 to {MAX_BLOCK_SIZE} bytes")),
    }
}

fn threads(value: &str, source: &str) -> Result<NonZeroUsize, Failure> {
    const MOST: usize = 1024;
    let number = value.parse().ok().filter(|number: &NonZeroUsize| number.get() <= MOST);
    number.ok_or_else(|| Failure::Usage(format!("bad number {value} for {source}: it must be from 1 to {MOST}")))
}

fn read_strategy(value: &str) -> Result<ReadStrategy, Failure> {
    match value {
        "positional" => Ok(ReadStrategy::Positional),
        "mapped" => Ok(ReadStrategy::Mapped),
        "direct" => Ok(ReadStrategy::Direct),
        _ => usage(format!("bad io option {value}: it must be positional, mapped or direct")),
    }
}

fn progress(value: Option<&OsStr>) -> Result<Progress, Failure> {
    match value {
        None => Ok(Progress::Lines),
        Some(value) if value == "noscroll" => Ok(Progress::NoScroll),
        Some(value) => usage(format!("bad progress option {}", text(value))),
    }
}

/// A size policy and whether to warn, from words that may be cut short.
fn diffsize(value: Option<&OsStr>) -> Result<(SizePolicy, bool), Failure> {
    let mut policy = None;
    let mut warn = false;
    let Some(value) = value else {
        return Ok((SizePolicy::Resize, warn));
    };
    for word in value.as_bytes().split(|&byte| byte == b',') {
        if word.is_empty() {
            continue;
        }
        let is = |name: &str| name.as_bytes().starts_with(word);
        let meant = if is("strict") {
            SizePolicy::Strict
        } else if is("minsize") {
            SizePolicy::MinSize
        } else if is("resize") {
            SizePolicy::Resize
        } else if is("warn") {
            warn = true;
            continue;
        } else {
            let options = text(value);
            return usage(format!("bad diffsize options {options}: they are strict, minsize, resize and warn"));
        };
        if policy.is_some_and(|policy| policy != meant) {
            return usage(format!("contradictive diffsize options {}", text(value)));
        }
        policy = Some(meant);
    }
    Ok((policy.unwrap_or(SizePolicy::Resize), warn))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_words(words: &[&str]) -> Result<Mode, Failure> {
        parse(std::iter::once("bdsync").chain(words.iter().copied()).map(OsString::from)).map(|line| line.mode)
    }

    fn client(words: &[&str]) -> ClientOptions {
        match parse_words(&[words, &["cmd", "local", "remote"]].concat()) {
            Ok(Mode::Client(options)) => *options,
            other => panic!("{other:?}"),
        }
    }

    fn error(words: &[&str]) -> String {
        parse_words(words).expect_err("an error").to_string()
    }

    #[test]
    fn diffsize_words_may_be_cut_short_in_any_order() {
        for (value, policy, warn) in [
            ("res", SizePolicy::Resize, false),
            ("w,m", SizePolicy::MinSize, true),
            ("strict,warn", SizePolicy::Strict, true),
            ("warn", SizePolicy::Resize, true),
            ("r,resize", SizePolicy::Resize, false),
        ] {
            let options = client(&[&format!("-d{value}")]);
            assert_eq!((options.diff.size_policy, options.diff.warn_size), (policy, warn), "{value}");
        }
        assert_eq!(client(&["--diffsize"]).diff.size_policy, SizePolicy::Resize);
        assert!(client(&[]).diff.warn_size);
        assert!(error(&["-dfoo"]).starts_with("bad diffsize options foo"));
        assert!(error(&["-dres,min"]).contains("res,min"));
        assert_eq!(client(&["--diffsize=,"]).diff.size_policy, SizePolicy::Resize);
    }

    #[test]
    fn our_own_options_take_no_prefix_away_from_stocks() {
        assert!(client(&["--t"]).diff.two_pass);
        assert!(client(&["--ver"]).verbose);
        assert_eq!(client(&["--thr=3"]).scan.threads, NonZeroUsize::new(3));
        assert!(error(&["--h"]).contains("ambiguous"));
    }

    #[test]
    fn values_of_short_options_are_attached_or_follow() {
        assert_eq!(client(&["-b8192"]).diff.block_size, 8192);
        assert_eq!(client(&["-b", "8192"]).diff.block_size, 8192);
        assert_eq!(client(&["-tzb8192"]).diff.block_size, 8192);
        assert_eq!(client(&["-hsha1", "-cmd5"]).diff.checksum.map(|digest| digest.name), Some("md5".into()));
        let Ok(Mode::Patch(options)) = parse_words(&["-p/dev/x"]) else { panic!("not a patch") };
        assert_eq!(options.apply.device, Some("/dev/x".into()));
    }

    #[test]
    fn options_may_follow_operands_until_two_dashes() {
        let Ok(Mode::Client(options)) = parse_words(&["cmd", "-t", "a", "--remdata", "b"]) else { panic!() };
        assert!(options.diff.two_pass && options.diff.remote_data);
        let Ok(Mode::Client(options)) = parse_words(&["cmd", "--", "-t", "b"]) else { panic!() };
        assert_eq!(options.local_device, "-t");
    }

    #[test]
    fn block_sizes_out_of_range_are_refused() {
        for value in ["0", "-5", "abc", "", "1073741825", "99999999999999999999999999999999999999999999"] {
            let message = error(&[&format!("--blocksize={value}"), "c", "a", "b"]);
            assert!(message.starts_with(&format!("bad number {value}")), "{message}");
        }
    }
}
