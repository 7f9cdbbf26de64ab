//! Block devices: the program on loop devices. Needs root and losetup.

use std::fs;

use bdsync_tests::patch::Patch;
use bdsync_tests::wire::{self, kind};
use bdsync_tests::{AgentClient, Recipe, Run, Site, Stdin, WorkDir, is_root, not_run, program};
use serde_json::json;

const SIZE: usize = 2048 * 512;
const SECTOR: usize = 512;

/// O_EXCL, as open(2) has it.
const OPEN_EXCLUSIVELY: i32 = 0o200;

/// A loop device that is given back.
struct LoopDevice {
    path: String,
}

impl LoopDevice {
    fn attach(dir: &WorkDir, image: &str, options: &[&str]) -> Result<Self, String> {
        let losetup = program("losetup").ok_or("losetup is not installed")?;
        let run = Run::new(losetup.to_str().expect("a UTF-8 path")).args(options.iter().copied());
        let outcome = run.args(["--find", "--show", image]).cwd(dir.folder()).run();
        if outcome.code != Some(0) {
            return Err(outcome.to_string());
        }
        Ok(Self { path: String::from_utf8_lossy(&outcome.stdout).trim().to_owned() })
    }

    fn read(&self) -> Vec<u8> {
        fs::read(&self.path).expect("a loop device to read")
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let losetup = program("losetup").expect("losetup");
        let outcome = Run::new(losetup.to_str().expect("a UTF-8 path")).args(["--detach", &self.path]).run();
        if outcome.code != Some(0) && !std::thread::panicking() {
            panic!("{outcome}");
        }
    }
}

/// A folder with a source, and a device over a target of `size` bytes that differs from it
/// in three places.
fn device(test: &str, size: usize, options: &[&str]) -> Option<(WorkDir, LoopDevice)> {
    if !is_root() {
        not_run(test, "loop devices need root");
        return None;
    }
    let dir = WorkDir::new();
    let image = Recipe::random(SIZE.max(size), 1).build();
    let mut target = image[..size].to_vec();
    for position in [5, 300_000, SIZE - 1] {
        target[position] ^= 1;
    }
    dir.write("source.img", &image[..SIZE]);
    dir.write("target.img", &target);
    match LoopDevice::attach(&dir, "target.img", options) {
        Ok(device) => Some((dir, device)),
        Err(why) => {
            not_run(test, &format!("no loop device: {why}"));
            None
        }
    }
}

#[test]
fn a_patch_makes_a_block_device_like_its_source() {
    for options in [&[][..], &["--twopass"], &["--blocksize=65536"], &["--flushcache", "--checksum=sha256"]] {
        let test = "a_patch_makes_a_block_device_like_its_source";
        let Some((dir, device)) = device(test, SIZE, &[]) else { return };
        let outcome = dir.client(options.iter().copied(), "source.img", &device.path).run();
        outcome.exits(0).says("");
        let patch = Patch::parse(&outcome.stdout).expect("a complete patch");
        assert_eq!((patch.size, patch.device.as_slice()), (SIZE as i64, device.path.as_bytes()));
        dir.write("patch.bin", &outcome.stdout);
        dir.bdsync(["--patch"]).stdin(Stdin::File(dir.path("patch.bin"))).run().exits(0);
        assert!(device.read() == dir.read("source.img"), "{options:?}");
        // The program had the device synced, so the file below it has it all.
        let again = dir.client([], "source.img", &device.path).run();
        assert!(Patch::parse(&again.stdout).expect("a complete patch").records.is_empty());
    }
}

#[test]
fn a_block_device_can_be_the_source() {
    let Some((dir, device)) = device("a_block_device_can_be_the_source", SIZE, &[]) else { return };
    let wanted = device.read();
    let outcome = dir.client([], &device.path, "source.img").run();
    outcome.exits(0).says("");
    dir.bdsync(["--patch"]).input(&outcome.stdout).run().exits(0);
    assert!(dir.read("source.img") == wanted);

    // And with --remdata the device is the remote one.
    let outcome = dir.client(["--remdata", "--checksum=md5"], "source.img", &device.path).run();
    outcome.exits(0).says("");
    assert!(Patch::parse(&outcome.stdout).expect("a complete patch").records.is_empty());
}

#[test]
fn the_size_of_a_block_device_is_its_own() {
    let Some((dir, device)) = device("the_size_of_a_block_device_is_its_own", SIZE + SECTOR, &[]) else { return };
    let session = [wire::hello("CLIENT"), wire::devfile(&device.path), wire::done()];
    let outcome = dir.bdsync(["--server"]).input(&session.concat()).run();
    outcome.exits(0);
    let answers = wire::split(&outcome.stdout);
    assert_eq!(answers[1], (kind::SIZE, ((SIZE + SECTOR) as i64).to_le_bytes().as_slice()));
}

#[test]
fn a_longer_block_device_is_refused_or_patched_up_to_the_smaller_size() {
    let test = "a_longer_block_device_is_refused_or_patched_up_to_the_smaller_size";
    let Some((dir, device)) = device(test, SIZE + SECTOR, &[]) else { return };
    let before = device.read();
    let outcome = dir.client([], "source.img", &device.path).run();
    outcome.exits(3).says(&format!("Different sizes local={SIZE} remote={}\n", SIZE + SECTOR));

    let outcome = dir.client(["--diffsize=minsize"], "source.img", &device.path).run();
    outcome.exits(0);
    dir.bdsync(["--patch"]).input(&outcome.stdout).run().exits(3);
    assert!(device.read() == before, "a refused patch changed the device");
    dir.bdsync(["--patch", "--diffsize=minsize"]).input(&outcome.stdout).run().exits(0);
    assert!(device.read() == [&dir.read("source.img"), &before[SIZE..]].concat());
}

#[test]
fn a_block_device_is_never_resized() {
    let Some((dir, device)) = device("a_block_device_is_never_resized", SIZE, &[]) else { return };
    let before = device.read();
    for size in [SIZE + SECTOR, SIZE - SECTOR] {
        let patch = Patch::new(size as i64, &device.path).record(0, b"hello").encode();
        for by_file in [true, false] {
            dir.write("patch.bin", &patch);
            let run = dir.bdsync(["--patch", "--diffsize=resize"]);
            let stdin = if by_file { Stdin::File(dir.path("patch.bin")) } else { Stdin::Pipe(patch.clone()) };
            let outcome = run.stdin(stdin).run();
            outcome.exits(3);
            assert_eq!(outcome.lines().len(), 1, "{outcome}");
            assert!(device.read() == before, "a refused patch changed the device");
        }
    }
    assert_eq!(fs::metadata(dir.path("target.img")).expect("the image").len(), SIZE as u64);
}

#[test]
fn a_read_only_block_device_can_be_compared_but_not_patched() {
    let test = "a_read_only_block_device_can_be_compared_but_not_patched";
    let Some((dir, device)) = device(test, SIZE, &["--read-only"]) else { return };
    let before = device.read();
    let outcome = dir.client([], "source.img", &device.path).run();
    outcome.exits(0).says("");
    dir.client([], &device.path, "source.img").run().exits(0).says("");
    let outcome = dir.bdsync(["--patch"]).input(&outcome.stdout).run();
    assert!(matches!(outcome.code, Some(9 | 12)), "{outcome}");
    assert_eq!(outcome.lines().len(), 1, "{outcome}");
    assert!(outcome.stderr.contains(&device.path), "{outcome}");
    assert!(device.read() == before);
    assert!(fs::read(dir.path("target.img")).expect("the image") == before);
}

#[test]
fn a_device_that_somebody_is_at_is_left_alone() {
    use std::os::unix::fs::OpenOptionsExt;
    let Some((dir, device)) = device("a_device_that_somebody_is_at_is_left_alone", SIZE, &[]) else { return };
    let before = device.read();
    let folder = dir.folder().display().to_string();
    let request = json!({ "op": "discard", "place": { "folder": folder, "stem": "bdsync-manager-x-0123456789abcdef" }, "path": device.path });
    let site = Site::new();
    let source = dir.path_text("source.img");
    let run = || {
        let config = format!(
            "[task.t]\nsource_path = \"{source}\"\ntarget_path = \"{}\"\ntarget_patch_dir = \"{folder}\"\n",
            device.path
        );
        site.manager(&config, []).run()
    };
    // What another agent works on, or one that a broken connection left.
    let mut left = AgentClient::start(&[]);
    left.ask(request.clone()).expect("the lock of the device");
    let locked = AgentClient::start(&[]).ask(request.clone()).expect_err("it is locked");
    assert!(locked.contains("is locked by another process"), "{locked}");
    let outcome = run();
    outcome.exits(3);
    assert!(outcome.stderr.contains("is locked by another process"), "{outcome}");
    left.end();
    // What has the device for itself, as a mount, LVM and others do.
    let mut options = fs::OpenOptions::new();
    let owner = options.read(true).custom_flags(OPEN_EXCLUSIVELY).open(&device.path).expect("the device");
    let outcome = run();
    outcome.exits(3);
    assert!(outcome.stderr.contains("held open exclusively"), "{outcome}");
    let busy = AgentClient::start(&[]).facts(&device.path).expect("facts")["busy"].clone();
    assert!(busy.as_str().is_some_and(|busy| busy.contains("held open exclusively")), "{busy}");
    assert!(device.read() == before);
    drop(owner);
    run().exits(0);
    assert!(device.read() == dir.read("source.img"));
}
