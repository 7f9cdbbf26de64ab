//! This program and stock, each as the other's client and server, and each
//! applying the other's patches. Needs `STOCK_BDSYNC`.

use std::fs::OpenOptions;
use std::io::Write;

use bdsync_tests::case::{Case, Sizes};
use bdsync_tests::patch::Patch;
use bdsync_tests::{Rng, Run, WorkDir, bdsync, not_run_even_in_ci, stock};

/// Stock's client writes records past the end, or its session dies.
fn breaks_stocks_client(case: &Case) -> bool {
    case.block_size > 32_768 && case.source.len() != case.target.len()
}

/// Stock does not make a target empty.
fn breaks_stocks_patch(case: &Case) -> bool {
    case.sizes == Sizes::Resize && case.source.len() != case.target.len() && case.patched().1.is_empty()
}

/// All pairs of programs on one case.
fn check_pairs(case: &Case, ours: &str, stock: &str) -> Result<(), String> {
    let dir = WorkDir::new();
    let stocks_patch = if breaks_stocks_patch(case) { ours } else { stock };
    let mine =
        case.check(&dir, ours, stock, stocks_patch).map_err(|why| format!("our client, stock's server: {why}"))?;
    case.check(&dir, ours, ours, ours).map_err(|why| format!("our client and server: {why}"))?;
    if breaks_stocks_client(case) {
        return Ok(());
    }
    let theirs = case.check(&dir, stock, ours, ours).map_err(|why| format!("stock's client, our server: {why}"))?;
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
        let case = Case::random(rng.next_u64());
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
