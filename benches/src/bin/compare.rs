//! Times our `bdsync` against a stock one, in alternating runs on the same images.
//!
//! Machines drift, so only ratios of neighbouring runs say something: each round
//! runs both sides, and the figure is the median over the rounds.

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use bdsync_benches::{SplitMix64, median};
use clap::Parser;
use serde::Serialize;

/// Compares our bdsync with a stock one: wall and processor time, in alternating runs
#[derive(Debug, Parser)]
struct Options {
    /// The stock bdsync
    #[arg(long, env = "STOCK_BDSYNC")]
    stock: PathBuf,
    /// Our bdsync [default: the one beside this program]
    #[arg(long)]
    ours: Option<PathBuf>,
    /// Folder for the images; a tmpfs, so that no disk is measured
    #[arg(long, default_value = "/dev/shm")]
    folder: PathBuf,
    /// Size of each image, in MiB
    #[arg(long, default_value_t = 2048)]
    size: u64,
    /// Size of the images that are one hole, in MiB
    #[arg(long, default_value_t = 4096)]
    hole_size: u64,
    /// Rounds of each case
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Only cases whose name contains this
    #[arg(long)]
    only: Option<String>,
    /// One JSON object a case, instead of the table
    #[arg(long)]
    json: bool,
}

/// Which images a case compares.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Images {
    Identical,
    Changed,
    Zeros,
    Holes,
}

/// What a case runs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Run {
    /// Our client and server against stock's.
    Both,
    /// Our client and a stock server against stock's.
    OurClient,
    /// A stock client and our server against stock's.
    OurServer,
    /// Our `--patch` against stock's.
    Apply,
}

struct Case(&'static str, Images, Run, &'static [&'static str], &'static [&'static str]);

const CASES: &[Case] = &[
    Case("md5", Images::Identical, Run::Both, &[], &[]),
    Case("md5, 1 % changed", Images::Changed, Run::Both, &[], &[]),
    Case("sha256", Images::Identical, Run::Both, &["--hash=sha256"], &[]),
    Case("blake2b512", Images::Identical, Run::Both, &["--hash=blake2b512"], &[]),
    Case("md5, two passes", Images::Identical, Run::Both, &["--twopass"], &[]),
    Case("md5, two passes, 1 % changed", Images::Changed, Run::Both, &["--twopass"], &[]),
    Case("md5, remote data, 1 % changed", Images::Changed, Run::Both, &["--remdata"], &[]),
    Case("md5, zero blocks", Images::Zeros, Run::Both, &["--zeroblocks"], &["--zeroblocks"]),
    Case("md5, holes", Images::Holes, Run::Both, &["--zeroblocks"], &["--zeroblocks"]),
    Case("md5, our client only", Images::Identical, Run::OurClient, &[], &[]),
    Case("md5, our server only", Images::Identical, Run::OurServer, &[], &[]),
    Case("md5, two passes, our client only", Images::Identical, Run::OurClient, &["--twopass"], &[]),
    Case("md5, two passes, our server only", Images::Identical, Run::OurServer, &["--twopass"], &[]),
    Case("apply, 1 % changed", Images::Changed, Run::Apply, &[], &[]),
];

/// What one case came to; times in seconds.
#[derive(Debug, Serialize)]
struct Figures {
    case: &'static str,
    ours_wall_seconds: f64,
    stock_wall_seconds: f64,
    ours_cpu_seconds: f64,
    stock_cpu_seconds: f64,
    /// How many times faster ours is by the clock: the median of the rounds' ratios.
    wall_ratio: f64,
    cpu_ratio: f64,
    rounds: usize,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let ours = match &options.ours {
        Some(path) => path.clone(),
        None => std::env::current_exe()?.with_file_name("bdsync"),
    };
    ensure!(ours.is_file(), "{} is not there; build it with: cargo build --release --bins", ours.display());
    let folder = tempfile::tempdir_in(&options.folder).context("cannot make a folder for the images")?;
    let bench = Bench { ours, stock: options.stock.clone(), folder: folder.path().to_path_buf() };
    let wanted = |case: &&Case| options.only.as_ref().is_none_or(|part| case.0.contains(part.as_str()));
    let cases: Vec<_> = CASES.iter().filter(wanted).collect();
    ensure!(!cases.is_empty(), "no case has that in its name");
    bench.make_images(&cases, options.size << 20, options.hole_size << 20)?;
    if !options.json {
        println!(
            "{:34} {:>9} {:>9} {:>7} {:>9} {:>9} {:>7}",
            "", "ours s", "stock s", "ratio", "ours cpu", "stock cpu", "ratio"
        );
    }
    for case in cases {
        let figures = bench.run(case, options.rounds)?;
        if options.json {
            println!("{}", serde_json::to_string(&figures)?);
        } else {
            println!(
                "{:34} {:9.3} {:9.3} {:6.2}x {:9.3} {:9.3} {:6.2}x",
                figures.case,
                figures.ours_wall_seconds,
                figures.stock_wall_seconds,
                figures.wall_ratio,
                figures.ours_cpu_seconds,
                figures.stock_cpu_seconds,
                figures.cpu_ratio
            );
        }
    }
    Ok(())
}

struct Bench {
    ours: PathBuf,
    stock: PathBuf,
    folder: PathBuf,
}

impl Bench {
    fn image(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn make_images(&self, cases: &[&Case], size: u64, hole_size: u64) -> Result<()> {
        let needs = |images: &[Images]| cases.iter().any(|case| images.contains(&case.1));
        if needs(&[Images::Identical, Images::Changed]) {
            write_random(&self.image("source.img"), size)?;
        }
        if needs(&[Images::Identical]) {
            fs::copy(self.image("source.img"), self.image("same.img"))?;
        }
        if needs(&[Images::Changed]) {
            fs::copy(self.image("source.img"), self.image("changed.img"))?;
            change_one_percent(&self.image("changed.img"), size)?;
        }
        if needs(&[Images::Zeros]) {
            for name in ["zeros.img", "zeros2.img"] {
                let file = File::create(self.image(name))?;
                for piece in 0..size >> 20 {
                    file.write_all_at(&vec![0; 1 << 20], piece << 20)?;
                }
            }
        }
        if needs(&[Images::Holes]) {
            for name in ["holes.img", "holes2.img"] {
                File::create(self.image(name))?.set_len(hole_size)?;
            }
        }
        Ok(())
    }

    fn run(&self, case: &Case, rounds: usize) -> Result<Figures> {
        let Case(name, images, run, client, server) = *case;
        let (source, target) = match images {
            Images::Identical => ("source.img", "same.img"),
            Images::Changed => ("source.img", "changed.img"),
            Images::Zeros => ("zeros.img", "zeros2.img"),
            Images::Holes => ("holes.img", "holes2.img"),
        };
        let (client_of_ours, server_of_ours) = match run {
            Run::Both | Run::Apply => (&self.ours, &self.ours),
            Run::OurClient => (&self.ours, &self.stock),
            Run::OurServer => (&self.stock, &self.ours),
        };
        let sync = |program: &Path, remote: &Path| {
            let mut command = Command::new(program);
            let mut remote = OsString::from(remote);
            for argument in ["--server"].iter().chain(server) {
                remote.push(" ");
                remote.push(argument);
            }
            command.args(client).arg(remote).arg(source).arg(target);
            command
        };
        let mut rows = Vec::new();
        if run == Run::Apply {
            let patch = self.image("patch");
            let status =
                sync(&self.ours, &self.ours).current_dir(&self.folder).stdout(File::create(&patch)?).status()?;
            ensure!(status.success(), "making the patch failed");
        }
        for round in 0..=rounds {
            let mut times = [(0.0, 0.0); 2];
            for (index, time) in times.iter_mut().enumerate() {
                let mut command = match (run, index) {
                    (Run::Apply, 0) => self.apply(&self.ours, target)?,
                    (Run::Apply, _) => self.apply(&self.stock, target)?,
                    (_, 0) => sync(client_of_ours, server_of_ours),
                    _ => sync(&self.stock, &self.stock),
                };
                *time = self.time(&mut command)?;
            }
            // The first round warms up.
            if round > 0 {
                rows.push(times);
            }
        }
        let of = |value: fn(&[(f64, f64); 2]) -> f64| median(rows.iter().map(value).collect());
        Ok(Figures {
            case: name,
            ours_wall_seconds: of(|[ours, _]| ours.0),
            stock_wall_seconds: of(|[_, stock]| stock.0),
            ours_cpu_seconds: of(|[ours, _]| ours.1),
            stock_cpu_seconds: of(|[_, stock]| stock.1),
            wall_ratio: of(|[ours, stock]| stock.0 / ours.0),
            cpu_ratio: of(|[ours, stock]| stock.1 / ours.1.max(1e-6)),
            rounds,
        })
    }

    fn apply(&self, program: &Path, target: &str) -> Result<Command> {
        let mut command = Command::new(program);
        command.arg(format!("--patch={target}")).stdin(File::open(self.image("patch"))?);
        Ok(command)
    }

    /// Wall and processor seconds of a command and all that it waits for.
    fn time(&self, command: &mut Command) -> Result<(f64, f64)> {
        command.current_dir(&self.folder).stdout(Stdio::null());
        let cpu_before = children_cpu_seconds();
        let begin = Instant::now();
        let status = command.status().with_context(|| format!("cannot run {command:?}"))?;
        let wall = begin.elapsed().as_secs_f64();
        if !status.success() {
            bail!("{command:?} failed: {status}");
        }
        Ok((wall, children_cpu_seconds() - cpu_before))
    }
}

fn children_cpu_seconds() -> f64 {
    // SAFETY: an all-zero rusage is a valid value for the call to overwrite.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a valid rusage.
    unsafe { libc::getrusage(libc::RUSAGE_CHILDREN, &mut usage) };
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    seconds(usage.ru_utime) + seconds(usage.ru_stime)
}

fn write_random(path: &Path, size: u64) -> Result<()> {
    let file = File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
    let mut random = SplitMix64::new(1);
    let mut piece = vec![0; 1 << 20];
    for at in (0..size).step_by(1 << 20) {
        random.fill(&mut piece);
        let length = piece.len().min((size - at) as usize);
        file.write_all_at(&piece[..length], at).context("cannot write an image; is the folder large enough?")?;
    }
    Ok(())
}

fn change_one_percent(path: &Path, size: u64) -> Result<()> {
    let file = File::options().write(true).open(path)?;
    let mut random = SplitMix64::new(2);
    let blocks = size / 4096;
    for _ in 0..blocks / 100 {
        let block = random.next() % blocks;
        file.write_all_at(&random.next().to_le_bytes(), block * 4096 + 100)?;
    }
    Ok(())
}
