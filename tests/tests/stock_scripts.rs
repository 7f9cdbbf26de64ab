//! Stock's own shell tests with this program in stock's place. Needs
//! `STOCK_BDSYNC_TESTS`, the folder of stock's source tree.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bdsync_tests::{Run, WorkDir, bdsync, not_run_even_in_ci};

#[test]
fn stocks_own_shell_tests_pass() {
    let Some(tree) = std::env::var_os("STOCK_BDSYNC_TESTS").filter(|tree| !tree.is_empty()).map(PathBuf::from) else {
        return not_run_even_in_ci("stocks_own_shell_tests_pass", "STOCK_BDSYNC_TESTS is not set");
    };
    // The folder itself may be named as well.
    let scripts = if tree.join("tests").is_dir() { tree.join("tests") } else { tree };
    let names = scripts_in(&scripts);
    assert!(!names.is_empty(), "no tests in {}", scripts.display());
    let failures: Vec<String> = names.iter().filter_map(|name| run(&scripts, name).err()).collect();
    let line = format!("{} of {} of stock's own tests passed\n", names.len() - failures.len(), names.len());
    let _ = std::io::stderr().write_all(line.as_bytes());
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// The names that stock's runner takes: `test` and a digit.
fn scripts_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("read {}: {error}", folder.display()));
    let mut names: Vec<String> = entries
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("a UTF-8 name"))
        .filter(|name| name.strip_prefix("test").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit())))
        .filter(|name| name.ends_with(".sh"))
        .collect();
    names.sort();
    names
}

/// Runs one script in a copy of the tree, where `./bdsync` is this program.
fn run(scripts: &Path, name: &str) -> Result<(), String> {
    let dir = WorkDir::new();
    let copy = Run::new("cp").args(["-rL", scripts.to_str().expect("a UTF-8 path"), "tests"]).cwd(dir.folder()).run();
    copy.exits(0);
    std::os::unix::fs::symlink(bdsync(), dir.path("bdsync")).expect("a link to the program");
    let script = format!("tests/{name}");
    let outcome = Run::new("bash").arg(&script).cwd(dir.folder()).limit(Duration::from_secs(300)).run();
    if outcome.code == Some(0) {
        return Ok(());
    }
    Err(format!("{outcome}{}", String::from_utf8_lossy(&outcome.stdout)))
}
