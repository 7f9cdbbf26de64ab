//! The original bdsync-manager, from the package index, unless `BDSYNC_MANAGER_PY` names it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use crate::{Run, program};

/// The manager, installed once a machine; or why there is none.
///
/// # Errors
///
/// What is missing.
pub fn original_manager() -> Result<&'static Path, &'static str> {
    static MANAGER: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    MANAGER.get_or_init(find).as_ref().map(PathBuf::as_path).map_err(String::as_str)
}

fn find() -> Result<PathBuf, String> {
    if let Some(path) = std::env::var_os("BDSYNC_MANAGER_PY") {
        return std::fs::canonicalize(&path).map_err(|error| format!("{}: {error}", path.display()));
    }
    let venv = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tmp").join("bdsync-manager-py");
    let manager = venv.join("bin/bdsync-manager");
    // Only one test program installs it.
    let lock = venv.with_extension("lock");
    let failed = |error: std::io::Error| format!("{}: {error}", lock.display());
    std::fs::create_dir_all(venv.parent().unwrap_or(&venv)).map_err(failed)?;
    let held = File::create(&lock).map_err(failed)?;
    held.lock().map_err(failed)?;
    if manager.is_file() {
        return Ok(manager);
    }
    let python = program("python3").ok_or("python3 is not installed")?;
    let step = |program: &Path, args: &[&str]| {
        let run = Run::new(program.to_str().expect("a UTF-8 path")).args(args.iter().copied());
        let outcome = run.limit(Duration::from_secs(300)).run();
        if outcome.code == Some(0) { Ok(()) } else { Err(outcome.to_string()) }
    };
    step(&python, &["-m", "venv", "--clear", venv.to_str().expect("a UTF-8 path")])?;
    step(&venv.join("bin/pip"), &["install", "--quiet", "bdsync-manager", "plumbum"])?;
    manager.is_file().then_some(manager).ok_or_else(|| "the package holds no bdsync-manager".to_owned())
}
