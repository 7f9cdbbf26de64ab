//! A virtual machine with real LVM, for what the tests' own kernel has not or must not be
//! done to: volumes, failing disks, power cuts. It boots in seconds from memory and sees
//! nothing but the disks that it is given.

use std::collections::hash_map::DefaultHasher;
use std::fmt;
use std::fs::{self, File};
use std::hash::{Hash, Hasher};
use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::{Run, WorkDir, bdsync, manager, program};

/// Makes the images.
const IMAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/vm/image");

/// What every script begins with.
const LIBRARY: &str = include_str!("../vm/lib.sh");

/// How long a machine may run: it is emulated, and others run beside it.
const LIMIT: Duration = Duration::from_secs(300);

/// What it takes, and the packages that have it.
const NEEDED: [(&str, &str); 5] = [
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("busybox", "busybox-static"),
    ("cpio", "cpio"),
    ("lvm", "lvm2"),
    ("pdata_tools", "thin-provisioning-tools"),
];

/// A machine that can be booted, again and again.
#[derive(Debug)]
pub struct Vm {
    /// Its folder: disks and console.
    pub dir: WorkDir,
    base: PathBuf,
    programs: PathBuf,
    disks: Vec<PathBuf>,
    files: Vec<(PathBuf, String)>,
    port: Option<u16>,
}

/// A machine that runs.
#[derive(Debug)]
pub struct Running {
    child: Child,
    console: PathBuf,
}

/// How a machine ended.
#[derive(Debug)]
pub struct Ended {
    /// The script's exit status; `None`: it did not come to its end.
    pub code: Option<i32>,
    /// What it wrote.
    pub console: String,
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "exit status {:?}, console:\n{}", self.code, self.console)
    }
}

impl Ended {
    /// Makes sure that the script went well.
    ///
    /// # Panics
    ///
    /// When it did not.
    pub fn is_good(&self) {
        assert_eq!(self.code, Some(0), "{self}");
    }
}

impl Vm {
    /// A machine with the programs under test, others beside them, and empty disks of these
    /// sizes in MiB. All machines of a process have the same programs.
    ///
    /// # Errors
    ///
    /// What this machine lacks for it.
    ///
    /// # Panics
    ///
    /// When it cannot be made although everything is there.
    pub fn new(disks: &[u64], others: &[&str]) -> Result<Self, String> {
        if !cfg!(target_arch = "x86_64") {
            return Err("the virtual machine is one for x86-64".into());
        }
        for (name, package) in NEEDED {
            program(name).ok_or_else(|| format!("{name} is not installed ({package})"))?;
        }
        static BASE: OnceLock<PathBuf> = OnceLock::new();
        let base = BASE.get_or_init(base).clone();
        static PROGRAMS: OnceLock<WorkDir> = OnceLock::new();
        let programs = PROGRAMS.get_or_init(|| programs(others)).path("programs.cpio");
        let dir = WorkDir::new();
        let name = |index: usize| format!("disk{index}.img");
        for (index, size) in disks.iter().enumerate() {
            dir.sparse(&name(index), size << 20);
        }
        let disks = (0..disks.len()).map(|index| dir.path(&name(index))).collect();
        Ok(Self { dir, base, programs, disks, files: Vec::new(), port: None })
    }

    /// One more disk, which is this file.
    #[must_use]
    pub fn disk(mut self, image: PathBuf) -> Self {
        self.disks.push(image);
        self
    }

    /// A file of this machine that is there at `place`.
    #[must_use]
    pub fn file(mut self, file: PathBuf, place: &str) -> Self {
        self.files.push((file, place.into()));
        self
    }

    /// With a network: the machine's port 22 is this port on 127.0.0.1, and it reaches nothing.
    ///
    /// # Panics
    ///
    /// When there is no free port.
    pub fn with_port(&mut self) -> u16 {
        let port = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port").port();
        self.port = Some(port);
        port
    }

    /// Boots it, and runs a script for busybox's shell, as root.
    ///
    /// # Panics
    ///
    /// When it cannot be started, or takes too long.
    pub fn run(&self, script: &str) -> Ended {
        self.start(script).wait()
    }

    /// Boots it, and does not wait for the script's end.
    ///
    /// # Panics
    ///
    /// When it cannot be started.
    pub fn start(&self, script: &str) -> Running {
        let root = WorkDir::new();
        root.write("script.sh", format!("{LIBRARY}\n{script}").as_bytes());
        for (file, place) in &self.files {
            let place = root.path(place.trim_start_matches('/'));
            fs::create_dir_all(place.parent().expect("a folder")).expect("a folder");
            fs::copy(file, place).expect("a file for the machine");
        }
        let (scripts, initrd) = (self.dir.path_text("script.cpio"), self.dir.path("initrd"));
        Run::new(IMAGE).args(["add", &scripts, root.folder().to_str().expect("UTF-8")]).run().exits(0);
        // Archives that follow each other are unpacked one over the other.
        let mut image = File::create(&initrd).expect("an initrd");
        for part in [&self.base.join("base.cpio"), &self.programs, Path::new(&scripts)] {
            image.write_all(&fs::read(part).expect("a part of the initrd")).expect("an initrd");
        }
        let console = self.dir.path("console");
        File::create(&console).expect("a console");
        let mut command = Command::new("qemu-system-x86_64");
        // Emulated: what looks like hardware for that may be there and not work.
        command.args(["-M", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "1", "-m", "768"]);
        command.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-append"]);
        command.arg("console=ttyS0 quiet panic=-1 mitigations=off nokaslr");
        command.arg("-kernel").arg(self.base.join("vmlinuz")).arg("-initrd").arg(&initrd);
        command.arg("-serial").arg(format!("file:{}", console.display()));
        for disk in &self.disks {
            command
                .arg("-drive")
                .arg(format!("file={},format=raw,if=virtio,cache=unsafe,discard=unmap", disk.display()));
        }
        if let Some(port) = self.port {
            command.args(["-netdev", &format!("user,id=n0,restrict=on,hostfwd=tcp:127.0.0.1:{port}-:22")]);
            command.args(["-device", "virtio-net-pci,netdev=n0,romfile="]);
        }
        let errors = File::create(self.dir.path("qemu.err")).expect("a log");
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(errors).spawn().expect("qemu");
        Running { child, console }
    }
}

impl Running {
    /// What it wrote so far.
    pub fn console(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.console).unwrap_or_default()).replace('\r', "")
    }

    /// Waits until it has written a line that begins like this.
    ///
    /// # Panics
    ///
    /// When it ends before that, or takes too long.
    pub fn wait_for(&mut self, line: &str) {
        let deadline = Instant::now() + LIMIT;
        while !self.console().lines().any(|known| known.starts_with(line)) {
            assert!(self.child.try_wait().expect("its status").is_none(), "it ended early:\n{}", self.console());
            assert!(Instant::now() < deadline, "no {line:?} after {LIMIT:?}:\n{}", self.console());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Cuts its power.
    pub fn cut(mut self) -> String {
        self.kill();
        self.console()
    }

    fn kill(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Waits for its end.
    ///
    /// # Panics
    ///
    /// When it takes too long.
    pub fn wait(mut self) -> Ended {
        let deadline = Instant::now() + LIMIT;
        while self.child.try_wait().expect("its status").is_none() {
            assert!(Instant::now() < deadline, "the machine still runs after {LIMIT:?}:\n{}", self.console());
            std::thread::sleep(Duration::from_millis(20));
        }
        let console = self.console();
        let code = console.lines().rev().find_map(|line| line.strip_prefix("VM-RESULT ")?.trim().parse().ok());
        Ended { code, console }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Kernel and root file system: made once for this way of making them and this LVM.
fn base() -> PathBuf {
    let mut hasher = DefaultHasher::new();
    fs::read(IMAGE).expect("the script that makes images").hash(&mut hasher);
    let versions =
        Run::new("dpkg-query").args(["-W", "lvm2", "dmsetup", "busybox-static", "thin-provisioning-tools"]).run();
    versions.stdout.hash(&mut hasher);
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = cache.or_else(|| Some(std::env::home_dir()?.join(".cache"))).expect("a folder for what is kept");
    let folder = cache.join(format!("bdsync-tests-vm-{:016x}", hasher.finish()));
    let path = folder.to_str().expect("UTF-8");
    Run::new(IMAGE).args(["base", path]).limit(Duration::from_secs(300)).run().exits(0);
    folder
}

/// The programs under test and others, without what only debuggers read.
fn programs(others: &[&str]) -> WorkDir {
    let dir = WorkDir::new();
    fs::create_dir(dir.path("root")).expect("a folder");
    let mut words = vec!["add".to_string(), dir.path_text("programs.cpio"), dir.path_text("root")];
    let sshd = program("sshd").map(|path| path.to_string_lossy().into_owned());
    let ours = [bdsync(), crate::agent(), manager()];
    for path in ours.into_iter().chain(others.iter().map(ToString::to_string)).chain(sshd) {
        let name = Path::new(&path).file_name().and_then(|name| name.to_str()).expect("a name");
        Run::new("strip").args(["-o", &dir.path_text(name), &path]).run().exits(0);
        words.push(dir.path_text(name));
    }
    Run::new(IMAGE).args(words.iter().map(String::as_str)).run().exits(0);
    dir
}
