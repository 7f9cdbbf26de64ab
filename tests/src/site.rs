//! A place where the manager works: images, a folder for patches, a state folder.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use crate::{Recipe, Run, WorkDir, bdsync, manager};

/// Images of this size, unless a test makes its own.
const SIZE: usize = 3_000_000;

/// A folder with `source.img`, `target.img` (an older copy), `patches` and `state`.
#[derive(Debug)]
pub struct Site {
    /// The folder.
    pub dir: WorkDir,
}

impl Default for Site {
    fn default() -> Self {
        Self::new()
    }
}

impl Site {
    /// A new one.
    ///
    /// # Panics
    ///
    /// When it cannot be made.
    pub fn new() -> Self {
        Self::with_size(SIZE, 1)
    }

    /// One with images of `size` bytes, of which about a tenth differs.
    ///
    /// # Panics
    ///
    /// As for [`Site::new`].
    pub fn with_size(size: usize, seed: u64) -> Self {
        let dir = WorkDir::new();
        let mut image = Recipe::random(size, seed).build();
        dir.write("target.img", &image);
        for start in (0..size).step_by(100_000) {
            let end = (start + 9000).min(size);
            for byte in &mut image[start..end] {
                *byte ^= 0x5a;
            }
        }
        dir.write("source.img", &image);
        std::fs::create_dir(dir.path("patches")).expect("a folder for patches");
        Self { dir }
    }

    /// Makes every block of the target another one than the source's.
    pub fn change_everything(&self) {
        let mut image = self.dir.read("source.img");
        for byte in &mut image {
            *byte ^= 0xa5;
        }
        self.dir.write("target.img", &image);
    }

    /// The settings of a task that every test has; `target` is a name in the folder.
    pub fn task(&self, name: &str, target: &str, settings: &str) -> String {
        let text = |name: &str| toml_text(&self.dir.path_text(name));
        format!(
            "[task.{name}]\nsource_path = {}\ntarget_path = {}\ntarget_patch_dir = {}\n{settings}\n",
            text("source.img"),
            text(target),
            text("patches")
        )
    }

    /// The settings of a target behind a connection command, with our bdsync there.
    pub fn far(&self, connection: &str) -> String {
        format!("connection_command = {}\nremote_bdsync_bin = {}\n", toml_text(connection), toml_text(&bdsync()))
    }

    /// Writes a configuration and gives a run of the manager with it.
    pub fn manager<'a>(&self, config: &str, args: impl IntoIterator<Item = &'a str>) -> Run {
        self.dir.write("manager.toml", config.as_bytes());
        self.run("manager.toml", args)
    }

    /// A run of the manager with a file that is there.
    pub fn run<'a>(&self, config: &str, args: impl IntoIterator<Item = &'a str>) -> Run {
        let state = self.dir.path_text("state");
        Run::new(&manager()).cwd(self.dir.folder()).args(["--config", config, "--state-dir", state.as_str()]).args(args)
    }

    /// Starts the manager with a configuration and does not wait for it.
    ///
    /// # Panics
    ///
    /// When it cannot be started.
    pub fn start(&self, config: &str) -> Child {
        self.dir.write("manager.toml", config.as_bytes());
        let mut command = Command::new(manager());
        // Whoever runs the tests in the background of a shell has it ignored, and so would the manager.
        // SAFETY: between fork and exec, a signal's disposition may be set.
        unsafe {
            std::os::unix::process::CommandExt::pre_exec(&mut command, || {
                libc::signal(libc::SIGINT, libc::SIG_DFL);
                Ok(())
            });
        }
        command
            .current_dir(self.dir.folder())
            .args(["--config", "manager.toml", "--state-dir", "state", "--log-level", "debug"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(self.dir.path("log")).expect("a log"))
            .spawn()
            .expect("the manager")
    }

    /// Whether a target has the source's content.
    pub fn is_synced(&self, target: &str) -> bool {
        self.dir.read(target) == self.dir.read("source.img")
    }

    /// What is in the folder for patches.
    ///
    /// # Panics
    ///
    /// When it cannot be read.
    pub fn patches(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.dir.path("patches")).expect("the folder for patches");
        entries.map(|entry| entry.expect("an entry").path()).collect()
    }

    /// Whether a ready patch is there.
    pub fn is_ready(&self) -> bool {
        self.patches().iter().any(|path| path.extension().is_some_and(|extension| extension == "ready"))
    }
}

/// Text as a TOML string.
fn toml_text(text: &str) -> String {
    let escaped: String = text
        .chars()
        .map(|c| match c {
            '"' | '\\' => format!("\\{c}"),
            '\n' => "\\n".into(),
            c => c.into(),
        })
        .collect();
    format!("\"{escaped}\"")
}
