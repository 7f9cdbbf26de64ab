//! What a test needs from the machine, and what happens where it is missing.

use std::io::Write;
use std::path::PathBuf;

/// Whether a test that cannot run is a failure.
pub fn in_ci() -> bool {
    std::env::var_os("CI").is_some_and(|value| value == "true")
}

/// Says on stderr that a test did not run.
///
/// # Panics
///
/// In CI, where everything a test needs has to be there.
pub fn not_run(test: &str, why: &str) {
    assert!(!in_ci(), "{test} cannot run: {why}");
    not_run_even_in_ci(test, why);
}

/// Says on stderr that a test did not run, for what no CI can install.
pub fn not_run_even_in_ci(test: &str, why: &str) {
    // The test harness keeps back what `eprintln!` prints in a test that passes.
    let line = format!("NOT RUN: {test}: {why}\n");
    let _ = std::io::stderr().write_all(line.as_bytes());
}

/// Whether the tests run as root.
pub fn is_root() -> bool {
    // SAFETY: geteuid only returns a number.
    unsafe { libc::geteuid() == 0 }
}

/// Where a program is found: on PATH or in the folders for administrators.
pub fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|folder| folder.join(name))
        .find(|candidate| candidate.is_file())
}
