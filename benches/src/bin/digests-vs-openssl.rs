//! Compares this project's block digests with OpenSSL's on one thread: the two
//! take turns on the same data, and medians over many rounds are printed.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bdsync_hash::{Algorithm, BlockHasher, Implementation, MAX_SALT};
use lexopt::prelude::*;
use openssl::md::Md;
use openssl::md_ctx::MdCtx;
use serde::Serialize;

const USAGE: &str = "\
Usage: digests-vs-openssl [OPTION]... [DIGEST]...

Without a digest, all are compared.

  --block-size BYTES  length of a block (default 4096)
  --blocks N          blocks hashed in one go (default 256)
  --salt BYTES        length of the salt (default 32)
  --rounds N          turns of each side (default 21)
  --turn MS           least time of one turn (default 10)
  --every             every implementation, not only the best
  --json              print one JSON array
  --help              print this text
";

struct Options {
    digests: Vec<Algorithm>,
    block_size: usize,
    blocks: usize,
    salt: usize,
    rounds: usize,
    turn: Duration,
    every: bool,
    json: bool,
}

/// What came out for one digest. Speeds are in 10^9 bytes of block data a
/// second, medians over the rounds; the ratio is the median of the rounds' ratios. The
/// best are the fastest round of each side, which a busy machine disturbs least.
#[derive(Serialize)]
struct Row {
    digest: &'static str,
    implementation: String,
    block_size_bytes: usize,
    rounds: usize,
    ours_gb_per_s: f64,
    openssl_gb_per_s: f64,
    ratio: f64,
    ours_best_gb_per_s: f64,
    openssl_best_gb_per_s: f64,
    best_ratio: f64,
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let Some(options) = read_options()? else {
        print!("{USAGE}");
        return Ok(());
    };
    let mut rows = Vec::new();
    if !options.json {
        println!(
            "{:<11} {:<14} {:>10} {:>8} {:>7}   {:>10} {:>8} {:>7}",
            "digest", "implementation", "ours GB/s", "OpenSSL", "ratio", "best: ours", "OpenSSL", "ratio"
        );
    }
    for &algorithm in &options.digests {
        let mut implementations = Implementation::available(algorithm);
        if !options.every {
            implementations.truncate(1);
        }
        for implementation in implementations {
            let row = compare(&options, algorithm, implementation)?;
            if !options.json {
                println!(
                    "{:<11} {:<14} {:>10.3} {:>8.3} {:>6.2}x   {:>10.3} {:>8.3} {:>6.2}x",
                    row.digest,
                    row.implementation,
                    row.ours_gb_per_s,
                    row.openssl_gb_per_s,
                    row.ratio,
                    row.ours_best_gb_per_s,
                    row.openssl_best_gb_per_s,
                    row.best_ratio
                );
            }
            rows.push(row);
        }
    }
    if options.json {
        println!("{}", serde_json::to_string_pretty(&rows)?);
    }
    Ok(())
}

/// The options, or nothing where help was asked for.
fn read_options() -> Result<Option<Options>> {
    let mut options = Options {
        digests: Vec::new(),
        block_size: 4096,
        blocks: 256,
        salt: 32,
        rounds: 21,
        turn: Duration::from_millis(10),
        every: false,
        json: false,
    };
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("block-size") => options.block_size = parser.value()?.parse()?,
            Long("blocks") => options.blocks = parser.value()?.parse()?,
            Long("salt") => options.salt = parser.value()?.parse()?,
            Long("rounds") => options.rounds = parser.value()?.parse()?,
            Long("turn") => options.turn = Duration::from_millis(parser.value()?.parse()?),
            Long("every") => options.every = true,
            Long("json") => options.json = true,
            Long("help") => return Ok(None),
            Value(name) => options.digests.push(name.parse()?),
            _ => return Err(argument.unexpected().into()),
        }
    }
    ensure!(options.block_size > 0 && options.blocks > 0 && options.rounds > 0, "Sizes and numbers must be at least 1");
    ensure!(options.salt <= MAX_SALT, "A salt has at most {MAX_SALT} bytes");
    if options.digests.is_empty() {
        options.digests = Algorithm::ALL.to_vec();
    }
    Ok(Some(options))
}

fn compare(options: &Options, algorithm: Algorithm, implementation: Implementation) -> Result<Row> {
    let data = bytes(options.block_size * options.blocks);
    let salt = bytes(options.salt);
    let hasher = BlockHasher::with_implementation(algorithm, &salt, options.block_size as u64, implementation);
    let mut openssl = OpenSsl::new(algorithm)?;
    let mut ours = vec![0; options.blocks * algorithm.digest_size()];
    let mut theirs = ours.clone();

    // The first turns warm up both sides, and must agree.
    hasher.hash_blocks(&data, &mut ours);
    openssl.hash_blocks(&salt, &data, options.block_size, &mut theirs)?;
    if ours != theirs {
        bail!("{algorithm}: the two sides differ");
    }
    let our_repeats = repeats(options.turn, || hasher.hash_blocks(&data, &mut ours));
    let mut their_result = Ok(());
    let their_repeats = repeats(options.turn, || {
        their_result = openssl.hash_blocks(&salt, &data, options.block_size, &mut theirs);
    });
    their_result?;

    let (mut our_speeds, mut their_speeds, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..options.rounds {
        let our_time = time(our_repeats, || hasher.hash_blocks(&data, &mut ours));
        let mut their_result = Ok(());
        let their_time = time(their_repeats, || {
            their_result = openssl.hash_blocks(&salt, &data, options.block_size, &mut theirs);
        });
        their_result?;
        let our_speed = data.len() as f64 / our_time / 1e9;
        let their_speed = data.len() as f64 / their_time / 1e9;
        our_speeds.push(our_speed);
        their_speeds.push(their_speed);
        ratios.push(our_speed / their_speed);
    }
    let ours_gb_per_s = median(&mut our_speeds);
    let openssl_gb_per_s = median(&mut their_speeds);
    // Sorted by now.
    let (ours_best, openssl_best) = (our_speeds[options.rounds - 1], their_speeds[options.rounds - 1]);
    Ok(Row {
        digest: algorithm.name(),
        implementation: implementation.to_string(),
        block_size_bytes: options.block_size,
        rounds: options.rounds,
        ours_gb_per_s,
        openssl_gb_per_s,
        ratio: median(&mut ratios),
        ours_best_gb_per_s: ours_best,
        openssl_best_gb_per_s: openssl_best,
        best_ratio: ours_best / openssl_best,
    })
}

/// The other side: OpenSSL's EVP interface, block after block.
struct OpenSsl {
    digest: Md,
    context: MdCtx,
    digest_size: usize,
}

impl OpenSsl {
    fn new(algorithm: Algorithm) -> Result<Self> {
        let digest =
            Md::fetch(None, algorithm.name(), None).with_context(|| format!("OpenSSL does not offer {algorithm}"))?;
        Ok(OpenSsl { digest, context: MdCtx::new()?, digest_size: algorithm.digest_size() })
    }

    fn hash_blocks(&mut self, salt: &[u8], data: &[u8], block_size: usize, out: &mut [u8]) -> Result<()> {
        for (block, digest) in data.chunks(block_size).zip(out.chunks_exact_mut(self.digest_size)) {
            self.context.digest_init(&self.digest)?;
            self.context.digest_update(salt)?;
            self.context.digest_update(block)?;
            self.context.digest_final(digest)?;
        }
        Ok(())
    }
}

/// How often to run `work` for one turn.
fn repeats(turn: Duration, mut work: impl FnMut()) -> u32 {
    let once = time(1, &mut work);
    (turn.as_secs_f64() / once).ceil().clamp(1.0, 1e6) as u32
}

/// Seconds that one run of `work` takes, out of so many.
fn time(repeats: u32, mut work: impl FnMut()) -> f64 {
    let start = Instant::now();
    for _ in 0..repeats {
        work();
    }
    start.elapsed().as_secs_f64() / f64::from(repeats)
}

/// Sorts the values and takes the middle one.
fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Bytes that are not zero for long and compress badly.
fn bytes(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        })
        .collect()
}
