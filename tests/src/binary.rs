//! Which programs are tested.

use std::path::PathBuf;
use std::sync::OnceLock;

/// The `bdsync` under test: `BDSYNC_BIN`, or the one built from the workspace
/// in the profile of the tests, once a process.
///
/// # Panics
///
/// When `BDSYNC_BIN` names no file or the build fails.
pub fn bdsync() -> String {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    let path = PATH.get_or_init(|| match std::env::var_os("BDSYNC_BIN") {
        Some(path) => {
            std::fs::canonicalize(&path).unwrap_or_else(|error| panic!("BDSYNC_BIN {}: {error}", path.display()))
        }
        None => escargot::CargoBuild::new()
            .manifest_path(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml"))
            .package("bdsync")
            .bin("bdsync")
            .current_release()
            .run()
            .expect("bdsync builds")
            .path()
            .to_owned(),
    });
    path.to_str().expect("the path of the program is UTF-8").to_owned()
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
