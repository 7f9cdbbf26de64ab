//! Snapshots of sources: clones of files on file systems that share blocks.
#![allow(clippy::unwrap_used)]

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bdsync_tests::{Run, Site, is_root, not_run, program};

/// A file system of its own in a file, mounted until the test ends.
struct Mount {
    site: Site,
}

impl Mount {
    fn new(make: &[&str]) -> Self {
        let site = Site::new();
        site.dir.sparse("fs.img", 400 << 20);
        Run::new(make[0]).args(make[1..].iter().copied()).arg(&site.dir.path_text("fs.img")).run().exits(0);
        std::fs::create_dir(site.dir.path("mnt")).unwrap();
        let (image, folder) = (site.dir.path_text("fs.img"), site.dir.path_text("mnt"));
        Run::new("mount").args(["-o", "loop", image.as_str(), folder.as_str()]).run().exits(0);
        Self { site }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.site.dir.path("mnt")).status();
    }
}

/// Writes to a file all the time: a number in all of its blocks, from the first to the last.
fn write_generations(path: std::path::PathBuf, stop: Arc<AtomicBool>) -> std::thread::JoinHandle<u64> {
    use std::os::unix::fs::FileExt;
    std::thread::spawn(move || {
        let file = std::fs::File::options().write(true).open(path).unwrap();
        let blocks = file.metadata().unwrap().len() / 4096;
        let mut generation = 1u64;
        while !stop.load(Ordering::Relaxed) {
            generation += 1;
            for block in 0..blocks {
                file.write_at(&generation.to_le_bytes(), block * 4096).unwrap();
            }
        }
        generation
    })
}

/// Whether blocks only ever go from one generation to the one before: the state of one moment.
fn is_one_moment(content: &[u8]) -> bool {
    let generations: Vec<u64> =
        content.chunks(4096).map(|block| u64::from_le_bytes(block[..8].try_into().unwrap())).collect();
    let (first, last) = (generations[0], generations[generations.len() - 1]);
    generations.windows(2).all(|pair| pair[0] >= pair[1]) && first - last <= 1
}

#[test]
fn a_clone_is_the_source_at_one_moment() {
    let test = "a_clone_is_the_source_at_one_moment";
    if !is_root() {
        return not_run(test, "it mounts, which needs root");
    }
    for make in [&["mkfs.btrfs", "-q"][..], &["mkfs.xfs", "-q", "-m", "reflink=1"]] {
        if program(make[0]).is_none() {
            return not_run(test, &format!("{} is not installed (btrfs-progs, xfsprogs)", make[0]));
        }
        let mount = Mount::new(make);
        let site = &mount.site;
        let mut image = vec![0; 4 << 20];
        for block in image.chunks_mut(4096) {
            block[..8].copy_from_slice(&1u64.to_le_bytes());
        }
        site.dir.write("mnt/source.img", &image);
        site.dir.write("target.img", &vec![0; image.len()]);
        let config = format!(
            "[task.t]\nsource_path = \"{}\"\ntarget_path = \"{}\"\ntarget_patch_dir = \"{}\"\nsnapshot = \"reflink\"\nverify = \"full\"\n",
            site.dir.path_text("mnt/source.img"),
            site.dir.path_text("target.img"),
            site.dir.path_text("patches")
        );
        let stop = Arc::new(AtomicBool::new(false));
        let writer = write_generations(site.dir.path("mnt/source.img"), Arc::clone(&stop));
        for round in 0..5 {
            site.manager(&config, []).run().exits(0);
            assert!(is_one_moment(&site.dir.read("target.img")), "{make:?}, round {round}");
            assert_eq!(
                std::fs::read_dir(site.dir.path("mnt")).unwrap().count(),
                1,
                "something is left beside the source"
            );
        }
        stop.store(true, Ordering::Relaxed);
        assert!(writer.join().unwrap() > 2);
    }
}

#[test]
fn what_cannot_be_cloned_is_refused_and_nothing_is_changed() {
    let site = Site::new();
    std::fs::create_dir("/dev/shm/bdsync-no-reflink").ok();
    let source = "/dev/shm/bdsync-no-reflink/source.img";
    std::fs::copy(site.dir.path("source.img"), source).unwrap();
    let before = site.dir.read("target.img");
    let config = format!(
        "[task.t]\nsource_path = \"{source}\"\ntarget_path = \"{}\"\ntarget_patch_dir = \"{}\"\nsnapshot = \"reflink\"\n",
        site.dir.path_text("target.img"),
        site.dir.path_text("patches")
    );
    let outcome = site.manager(&config, []).run();
    std::fs::remove_dir_all("/dev/shm/bdsync-no-reflink").unwrap();
    outcome.exits(3);
    assert!(outcome.stderr.contains("cannot share blocks"), "{outcome}");
    assert!(site.dir.read("target.img") == before);
    // A file is no logical volume, and a missing lvm is said.
    let lvm = site.task("t", "target.img", "lvm_snapshot_enabled = true\nlvm_program_path = \"/nonexistent/lvm\"\n");
    let outcome = site.manager(&lvm, []).run();
    outcome.exits(3);
    assert!(outcome.stderr.contains("cannot run /nonexistent/lvm"), "{outcome}");
    assert!(site.dir.read("target.img") == before);
}
