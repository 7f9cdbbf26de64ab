//! This program and stock, each as the other's client and server, and each
//! applying the other's patches. Needs `STOCK_BDSYNC`.

use std::fs::OpenOptions;
use std::io::Write;

use bdsync_tests::patch::Patch;
use bdsync_tests::{Outcome, Rng, Run, Stdin, WorkDir, bdsync, not_run_even_in_ci, stock};

const DIGESTS: &[&str] = &[
    "md5",
    "sha1",
    "sha224",
    "SHA256",
    "sha384",
    "sha512",
    "sha512-224",
    "sha512-256",
    "sha3-224",
    "sha3-256",
    "sha3-384",
    "sha3-512",
    "shake128",
    "shake256",
    "blake2b512",
    "blake2s256",
    "ripemd160",
    "rmd160",
    "sm3",
    "md5-sha1",
];
const BLOCK_SIZES: &[usize] =
    &[1, 2, 3, 7, 13, 64, 100, 511, 512, 513, 1000, 4095, 4096, 4097, 8192, 10_000, 32_767, 32_768];
const LARGE_BLOCK_SIZES: &[usize] = &[32_769, 40_000, 65_536, 100_001, 131_072, 1 << 20];
/// How many blocks a case may have, so that one-byte blocks stay quick.
const MOST_BLOCKS: u64 = 12_000;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Sizes {
    Default,
    Strict,
    Resize,
    Minsize,
}

impl Sizes {
    fn option(self) -> Option<String> {
        match self {
            Self::Default => None,
            Self::Strict => Some("--diffsize=strict".to_owned()),
            Self::Resize => Some("--diffsize=resize".to_owned()),
            Self::Minsize => Some("--diffsize=minsize".to_owned()),
        }
    }
}

/// One random case.
#[derive(Clone, Debug)]
struct Case {
    source: Vec<u8>,
    target: Vec<u8>,
    block_size: usize,
    options: Vec<String>,
    server_options: Vec<String>,
    sizes: Sizes,
    remdata: bool,
    twopass: bool,
}

impl Case {
    fn random(rng: &mut Rng) -> Self {
        let block_sizes = if rng.one_in(4) { LARGE_BLOCK_SIZES } else { BLOCK_SIZES };
        let block_size = *rng.pick(block_sizes);
        let most = (block_size as u64 * MOST_BLOCKS).min(600_000);
        let size = |rng: &mut Rng| match rng.below(10) {
            0 => 0,
            1 => 1,
            2 => rng.below(20),
            3 => (rng.below(most / block_size as u64 + 1)) * block_size as u64,
            _ => rng.below(most),
        };
        let sizes = *rng.pick(&[Sizes::Default, Sizes::Strict, Sizes::Resize, Sizes::Resize, Sizes::Minsize]);
        let source_size = size(rng) as usize;
        let equal = matches!(sizes, Sizes::Default | Sizes::Strict) && !rng.one_in(5) || rng.one_in(3);
        let target_size = if equal { source_size } else { size(rng) as usize };
        let source = image(rng, source_size);
        let target = related(rng, &source, target_size);

        let mut options = vec![format!("--blocksize={block_size}"), format!("--hash={}", rng.pick(DIGESTS))];
        let [twopass, remdata, zeroblocks, checksum] = [(); 4].map(|()| rng.one_in(3));
        let flushcache = rng.one_in(5);
        for (flag, wanted) in
            [("--twopass", twopass), ("--remdata", remdata), ("--zeroblocks", zeroblocks), ("--flushcache", flushcache)]
        {
            options.extend(wanted.then(|| flag.to_owned()));
        }
        options.extend(checksum.then(|| format!("--checksum={}", rng.pick(DIGESTS))));
        options.extend(sizes.option());
        let server_options = rng.one_in(3).then(|| "--zeroblocks".to_owned()).into_iter().collect();
        Self { source, target, block_size, options, server_options, sizes, remdata, twopass }
    }

    fn refused(&self) -> bool {
        matches!(self.sizes, Sizes::Default | Sizes::Strict) && self.source.len() != self.target.len()
    }

    /// Stock's client writes records past the end, or its session dies.
    fn breaks_stocks_client(&self) -> bool {
        self.block_size > 32_768 && self.source.len() != self.target.len()
    }

    /// The image that is to be patched, and what becomes of it.
    fn patched(&self) -> (&'static str, Vec<u8>) {
        let (name, from, to) = if self.remdata {
            ("source.img", &self.target, &self.source)
        } else {
            ("target.img", &self.source, &self.target)
        };
        let mut result = from.clone();
        if self.sizes == Sizes::Minsize {
            let common = from.len().min(to.len());
            result = [&from[..common], &to[common..]].concat();
        }
        (name, result)
    }

    /// Stock does not make a target empty.
    fn breaks_stocks_patch(&self) -> bool {
        self.sizes == Sizes::Resize && self.source.len() != self.target.len() && self.patched().1.is_empty()
    }
}

/// Random bytes with runs of zeros.
fn image(rng: &mut Rng, size: usize) -> Vec<u8> {
    let mut image = vec![0; size];
    rng.fill(&mut image);
    for _ in 0..rng.below(4) {
        let range = range(rng, size);
        image[range].fill(0);
    }
    image
}

/// Another size of the image with some places changed.
fn related(rng: &mut Rng, image: &[u8], size: usize) -> Vec<u8> {
    let mut other = image.to_vec();
    let old = other.len().min(size);
    other.resize(size, 0);
    if rng.one_in(2) {
        rng.fill(&mut other[old..]);
    }
    for _ in 0..rng.below(6) {
        let range = range(rng, size);
        match rng.below(3) {
            0 => other[range].fill(0),
            1 => other[range].iter_mut().take(1).for_each(|byte| *byte ^= 1),
            _ => rng.fill(&mut other[range]),
        }
    }
    other
}

fn range(rng: &mut Rng, size: usize) -> std::ops::Range<usize> {
    if size == 0 {
        return 0..0;
    }
    let start = rng.below(size as u64);
    let longest = if rng.one_in(4) { size as u64 } else { 5000 };
    start as usize..(start + 1 + rng.below(longest)).min(size as u64) as usize
}

fn run_client(case: &Case, dir: &WorkDir, client: &str, server: &str) -> Outcome {
    dir.write("source.img", &case.source);
    dir.write("target.img", &case.target);
    let server = [vec![server.to_owned(), "--server".to_owned()], case.server_options.clone()].concat().join(" ");
    let run = Run::new(client).args(case.options.iter().map(String::as_str)).cwd(dir.folder());
    run.args([server.as_str(), "source.img", "target.img"]).run()
}

fn run_patch(case: &Case, dir: &WorkDir, program: &str, patch: &[u8]) -> Outcome {
    dir.write("patch.bin", patch);
    let run = Run::new(program).arg("--patch").cwd(dir.folder()).stdin(Stdin::File(dir.path("patch.bin")));
    match case.sizes.option() {
        Some(option) => run.arg(&option).run(),
        None => run.run(),
    }
}

/// Diffs and applies, and gives back the patch and the checksum line.
fn check(case: &Case, dir: &WorkDir, client: &str, server: &str, patcher: &str) -> Result<(Vec<u8>, String), String> {
    let outcome = run_client(case, dir, client, server);
    if case.refused() {
        let refused = outcome.code == Some(3) && outcome.stdout.is_empty();
        return if refused { Ok((vec![], String::new())) } else { Err(format!("not refused: {outcome}")) };
    }
    if outcome.code != Some(0) || !outcome.stderr.is_empty() {
        return Err(format!("the client failed: {outcome}"));
    }
    if Patch::parse(&outcome.stdout).is_none() {
        return Err(format!("no complete patch: {outcome}"));
    }
    let applied = run_patch(case, dir, patcher, &outcome.stdout);
    if applied.code != Some(0) {
        return Err(format!("the patch was not applied: {applied}"));
    }
    let (name, wanted) = case.patched();
    if dir.read(name) != wanted {
        return Err(format!("{name} is not what it should be: {applied}"));
    }
    Ok((outcome.stdout, applied.stderr))
}

/// All pairs of programs on one case.
fn check_pairs(case: &Case, ours: &str, stock: &str) -> Result<(), String> {
    let dir = WorkDir::new();
    let stocks_patch = if case.breaks_stocks_patch() { ours } else { stock };
    let mine =
        check(case, &dir, ours, stock, stocks_patch).map_err(|why| format!("our client, stock's server: {why}"))?;
    check(case, &dir, ours, ours, ours).map_err(|why| format!("our client and server: {why}"))?;
    if case.breaks_stocks_client() {
        return Ok(());
    }
    let theirs = check(case, &dir, stock, ours, ours).map_err(|why| format!("stock's client, our server: {why}"))?;
    if mine.1 != theirs.1 {
        return Err(format!("our checksum is {:?}, stock's {:?}", mine.1, theirs.1));
    }
    let same = if case.twopass { mine.0.len() <= theirs.0.len() } else { mine.0 == theirs.0 };
    if !same {
        return Err(format!("other patches: ours has {} bytes, stock's {}", mine.0.len(), theirs.0.len()));
    }
    Ok(())
}

#[test]
fn random_cases_end_the_same_with_stock_at_either_end() {
    let Some(stock) = stock() else {
        return not_run_even_in_ci("random_cases_end_the_same_with_stock_at_either_end", "STOCK_BDSYNC is not set");
    };
    let ours = bdsync();
    let cases = std::env::var("STOCK_CASES").map_or(500, |text| text.parse().expect("STOCK_CASES is a number"));
    let mut rng = Rng::from_environment(42);
    let mut failures = Vec::new();
    for number in 0..cases {
        // A generator of its own, so that one case can be run alone.
        let seed = rng.next();
        let case = Case::random(&mut Rng::new(seed));
        if let Err(why) = check_pairs(&case, &ours, &stock) {
            let (source, target) = (case.source.len(), case.target.len());
            failures.push(format!("case {number}: {source} and {target} bytes, {:?}: {why}", case.options));
        }
    }
    let line = format!("{} of {cases} random cases ended the same with stock at either end\n", cases - failures.len());
    let _ = std::io::stderr().write_all(line.as_bytes());
    assert!(
        failures.is_empty(),
        "{} failures, the first are\n{}",
        failures.len(),
        failures[..failures.len().min(10)].join("\n")
    );
}

#[test]
fn sparse_devices_of_several_gigabytes_end_the_same_with_stock_at_either_end() {
    const TEST: &str = "sparse_devices_of_several_gigabytes_end_the_same_with_stock_at_either_end";
    const SIZE: u64 = (4 << 30) + 12_345;
    let Some(stock) = stock() else { return not_run_even_in_ci(TEST, "STOCK_BDSYNC is not set") };
    let ours = bdsync();
    for (client, server) in [(&ours, &stock), (&stock, &ours)] {
        let dir = WorkDir::new();
        for (name, positions) in [("source.img", [1000, SIZE - 5]), ("target.img", [1 << 32, 3 << 30])] {
            dir.sparse(name, SIZE);
            let file = OpenOptions::new().write(true).open(dir.path(name)).expect("an image");
            for position in positions {
                std::os::unix::fs::FileExt::write_all_at(&file, b"data", position).expect("data");
            }
        }
        let server = format!("{server} --server --zeroblocks");
        let run = Run::new(client).args(["--blocksize=1048576", "--zeroblocks", &server, "source.img", "target.img"]);
        let outcome = run.cwd(dir.folder()).run();
        outcome.exits(0).says("");
        let patch = Patch::parse(&outcome.stdout).expect("a complete patch");
        assert!(patch.records.iter().any(|(position, _)| *position >= 1 << 32), "{outcome}");
        assert!(patch.data_bytes() <= 4 << 20, "{outcome}");
        dir.bdsync(["--patch"]).input(&outcome.stdout).run().exits(0);
        let same = Run::new("cmp").args(["source.img", "target.img"]).cwd(dir.folder()).run();
        same.exits(0);
    }
}
