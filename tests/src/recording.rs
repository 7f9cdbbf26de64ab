//! The recordings of stock in `proto-spec/vectors`.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::Recipe;

/// One client run.
#[derive(Debug, Deserialize)]
#[allow(missing_docs)]
pub struct Sync {
    pub source: Recipe,
    pub target: Recipe,
    pub args: Vec<String>,
    pub server_args: Vec<String>,
    pub fixedsalt: bool,
    pub patch_args: Vec<String>,
    pub client_exit: i32,
    pub client_stderr: String,
    pub apply: Option<Apply>,
}

/// What applying the patch of a run did.
#[derive(Debug, Deserialize)]
#[allow(missing_docs)]
pub struct Apply {
    pub device: String,
    pub exit: i32,
    pub stderr: String,
    pub result_size: u64,
    pub result_sha256: String,
}

/// What a server answered.
#[derive(Debug, Deserialize)]
#[allow(missing_docs)]
pub struct Server {
    pub target: Recipe,
    pub exit: i32,
}

/// What `--patch` did.
#[derive(Debug, Deserialize)]
#[allow(missing_docs)]
pub struct PatchRun {
    pub target: Recipe,
    pub args: Vec<String>,
    pub device: Option<String>,
    pub exit: i32,
    pub stderr: String,
    pub result_size: u64,
    pub result_sha256: String,
}

/// A recording: its name, its folder, and what stands in its `case.json`.
#[derive(Debug)]
pub struct Recording<T> {
    /// Name of the folder.
    pub name: String,
    /// The folder.
    pub folder: PathBuf,
    /// The case.
    pub case: T,
}

impl<T> Recording<T> {
    /// A file of the recording.
    ///
    /// # Panics
    ///
    /// When it cannot be read.
    pub fn file(&self, name: &str) -> Vec<u8> {
        let path = self.folder.join(name);
        fs::read(&path).unwrap_or_else(|error| panic!("read {}: {error}", path.display()))
    }
}

/// All recordings of a kind: `sync`, `server` or `patch`.
///
/// # Panics
///
/// When there are none or one cannot be read.
pub fn all<T: DeserializeOwned>(kind: &str) -> Vec<Recording<T>> {
    let folder = folder(kind);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("read {}: {error}", folder.display()));
    let mut names: Vec<String> = entries
        .map(|entry| entry.expect("an entry of the recordings").file_name().into_string().expect("a UTF-8 name"))
        .collect();
    names.sort();
    assert!(!names.is_empty(), "no recordings in {}", folder.display());
    names.iter().map(|name| one(kind, name)).collect()
}

/// One recording.
///
/// # Panics
///
/// When it cannot be read.
pub fn one<T: DeserializeOwned>(kind: &str, name: &str) -> Recording<T> {
    let folder = folder(kind).join(name);
    let path = folder.join("case.json");
    let text = fs::read(&path).unwrap_or_else(|error| panic!("read {}: {error}", path.display()));
    let case = serde_json::from_slice(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    Recording { name: name.to_owned(), folder, case }
}

fn folder(kind: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto-spec/vectors").join(kind)
}
