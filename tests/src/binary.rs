//! Which programs are tested.

use std::sync::OnceLock;

/// The `bdsync` under test: `BDSYNC_BIN`, or the one built from the workspace
/// in the profile of the tests, once a process.
///
/// # Panics
///
/// When `BDSYNC_BIN` names no file or the build fails.
pub fn bdsync() -> String {
    // A failure is kept as well: no test need see the same build fail again.
    static PROGRAM: OnceLock<Result<String, String>> = OnceLock::new();
    PROGRAM.get_or_init(|| find("bdsync", "BDSYNC_BIN")).clone().unwrap_or_else(|why| panic!("{why}"))
}

/// The `bdsync-agent` under test: `BDSYNC_AGENT_BIN`, or the one built from the workspace.
///
/// # Panics
///
/// As for [`bdsync`].
pub fn agent() -> String {
    static PROGRAM: OnceLock<Result<String, String>> = OnceLock::new();
    PROGRAM.get_or_init(|| find("bdsync-agent", "BDSYNC_AGENT_BIN")).clone().unwrap_or_else(|why| panic!("{why}"))
}

/// The `bdsync-manager` under test: `BDSYNC_MANAGER_BIN`, or the one built from the workspace.
///
/// # Panics
///
/// As for [`bdsync`].
pub fn manager() -> String {
    static PROGRAM: OnceLock<Result<String, String>> = OnceLock::new();
    PROGRAM.get_or_init(|| find("bdsync-manager", "BDSYNC_MANAGER_BIN")).clone().unwrap_or_else(|why| panic!("{why}"))
}

/// A `bdsync-agent` that needs no libraries, as releases have it; built from the workspace.
///
/// # Panics
///
/// When the build fails.
pub fn static_agent() -> String {
    let target = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/static");
    let built = escargot::CargoBuild::new()
        .manifest_path(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml"))
        .package("bdsync-agent")
        .bin("bdsync-agent")
        .current_release()
        .target_dir(target)
        // With a target of its own, so that the flags are not for what runs while building.
        .target("x86_64-unknown-linux-gnu")
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        .run();
    let built = built.unwrap_or_else(|error| panic!("no static bdsync-agent can be built: {error}"));
    built.path().to_str().expect("its path is UTF-8").to_owned()
}

fn find(name: &str, variable: &str) -> Result<String, String> {
    let path = match std::env::var_os(variable) {
        Some(path) => {
            std::fs::canonicalize(&path).map_err(|error| format!("{variable} {}: {error}", path.display()))?
        }
        None => escargot::CargoBuild::new()
            .manifest_path(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml"))
            .package(name)
            .bin(name)
            .current_release()
            .run()
            .map_err(|error| format!("{name} does not build: {error}"))?
            .path()
            .to_owned(),
    };
    path.into_os_string().into_string().map_err(|path| format!("not UTF-8: {}", path.display()))
}

/// The stock `bdsync` that `STOCK_BDSYNC` names.
///
/// # Panics
///
/// When it names no file.
pub fn stock() -> Option<String> {
    let path = std::env::var_os("STOCK_BDSYNC").filter(|path| !path.is_empty())?;
    let path = std::fs::canonicalize(&path).unwrap_or_else(|error| panic!("STOCK_BDSYNC {}: {error}", path.display()));
    Some(path.to_str().expect("the path of stock is UTF-8").to_owned())
}
