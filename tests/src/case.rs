//! Random cases of a whole run: images of any sizes, options of any kind, and
//! what has to come out.

use crate::patch::Patch;
use crate::{Outcome, Rng, Run, Stdin, WorkDir};

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

/// How different sizes are handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sizes {
    /// No option: refused.
    Default,
    /// Refused.
    Strict,
    /// The target becomes as long as the source.
    Resize,
    /// Only what both have.
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

/// Two images and the options of one run.
#[derive(Clone, Debug)]
pub struct Case {
    /// The client's image.
    pub source: Vec<u8>,
    /// The server's image.
    pub target: Vec<u8>,
    /// In bytes.
    pub block_size: usize,
    /// The client's options.
    pub options: Vec<String>,
    /// The server's options, besides `--server`.
    pub server_options: Vec<String>,
    /// What to do about different sizes.
    pub sizes: Sizes,
    /// Whether the source is the one to be patched.
    pub remdata: bool,
    /// Whether the order of the records is free.
    pub twopass: bool,
}

impl Case {
    /// A case that follows from `seed`.
    pub fn random(seed: u64) -> Self {
        let rng = &mut Rng::new(seed);
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

    /// Whether the sizes forbid the run.
    pub fn refused(&self) -> bool {
        matches!(self.sizes, Sizes::Default | Sizes::Strict) && self.source.len() != self.target.len()
    }

    /// The image that is to be patched, and what becomes of it.
    pub fn patched(&self) -> (&'static str, Vec<u8>) {
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

    fn run_client(&self, dir: &WorkDir, client: &str, server: &str) -> Outcome {
        dir.write("source.img", &self.source);
        dir.write("target.img", &self.target);
        let server = [vec![server.to_owned(), "--server".to_owned()], self.server_options.clone()].concat().join(" ");
        let run = Run::new(client).args(self.options.iter().map(String::as_str)).cwd(dir.folder());
        run.args([server.as_str(), "source.img", "target.img"]).run()
    }

    fn run_patch(&self, dir: &WorkDir, program: &str, patch: &[u8]) -> Outcome {
        dir.write("patch.bin", patch);
        let run = Run::new(program).arg("--patch").cwd(dir.folder()).stdin(Stdin::File(dir.path("patch.bin")));
        match self.sizes.option() {
            Some(option) => run.arg(&option).run(),
            None => run.run(),
        }
    }

    /// Diffs and applies; gives back the patch and what applying it said.
    ///
    /// # Errors
    ///
    /// What went otherwise than the sizes and images ask for.
    pub fn check(&self, dir: &WorkDir, client: &str, server: &str, patcher: &str) -> Result<(Vec<u8>, String), String> {
        let outcome = self.run_client(dir, client, server);
        if self.refused() {
            let refused = outcome.code == Some(3) && outcome.stdout.is_empty();
            return if refused { Ok((vec![], String::new())) } else { Err(format!("not refused: {outcome}")) };
        }
        if outcome.code != Some(0) || !outcome.stderr.is_empty() {
            return Err(format!("the client failed: {outcome}"));
        }
        if Patch::parse(&outcome.stdout).is_none() {
            return Err(format!("no complete patch: {outcome}"));
        }
        let applied = self.run_patch(dir, patcher, &outcome.stdout);
        if applied.code != Some(0) {
            return Err(format!("the patch was not applied: {applied}"));
        }
        let (name, wanted) = self.patched();
        if dir.read(name) != wanted {
            return Err(format!("{name} is not what it should be: {applied}"));
        }
        Ok((outcome.stdout, applied.stderr))
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
