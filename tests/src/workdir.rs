//! A folder for one test, and runs of the program in it.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::{Run, bdsync};

/// A temporary folder that goes away with the test.
#[derive(Debug)]
pub struct WorkDir {
    folder: TempDir,
}

impl Default for WorkDir {
    fn default() -> Self {
        Self::new()
    }
}

impl WorkDir {
    /// An empty folder.
    ///
    /// # Panics
    ///
    /// When it cannot be made.
    pub fn new() -> Self {
        Self { folder: tempfile::Builder::new().prefix("bdsync-test-").tempdir().expect("a temporary folder") }
    }

    /// The folder itself.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Where `name` is in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The same as text, for command lines.
    pub fn path_text(&self, name: &str) -> String {
        self.path(name).to_str().expect("temporary paths are UTF-8").to_owned()
    }

    /// Writes a file.
    ///
    /// # Panics
    ///
    /// When that fails.
    pub fn write(&self, name: &str, data: &[u8]) {
        fs::write(self.path(name), data).unwrap_or_else(|error| panic!("write {name}: {error}"));
    }

    /// Reads a file.
    ///
    /// # Panics
    ///
    /// When that fails.
    pub fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap_or_else(|error| panic!("read {name}: {error}"))
    }

    /// Makes a file of `size` bytes that is one hole.
    ///
    /// # Panics
    ///
    /// When that fails.
    pub fn sparse(&self, name: &str, size: u64) {
        let file = fs::File::create(self.path(name)).expect("a new file");
        file.set_len(size).expect("a file of the wanted size");
    }

    /// Writes a shell script that can be executed, and returns its path.
    ///
    /// # Panics
    ///
    /// When that fails.
    pub fn script(&self, name: &str, body: &str) -> String {
        use std::os::unix::fs::PermissionsExt;

        // Another thread's fork may hold a file open for writing that we are
        // about to execute (ETXTBSY); written under another name and copied by
        // a child, no descriptor of ours was ever open on it.
        let draft = format!("{name}.draft");
        self.write(&draft, format!("#!/bin/sh\n{body}\n").as_bytes());
        fs::set_permissions(self.path(&draft), fs::Permissions::from_mode(0o755)).expect("an executable script");
        let copied = Run::new("cp").args(["-p", &draft, name]).cwd(self.folder()).run();
        assert_eq!(copied.code, Some(0), "{copied}");
        self.path_text(name)
    }

    /// A run of the program under test in this folder.
    pub fn bdsync<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Run {
        Run::new(&bdsync()).args(args).cwd(self.folder())
    }

    /// The command for a server of the program under test.
    pub fn server(&self) -> String {
        format!("{} --server", bdsync())
    }

    /// A run of a client against a server of the same program.
    pub fn client<'a>(&self, options: impl IntoIterator<Item = &'a str>, local: &str, remote: &str) -> Run {
        self.bdsync(options).args([self.server().as_str(), local, remote])
    }
}
