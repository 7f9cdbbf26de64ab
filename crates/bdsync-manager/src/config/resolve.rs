//! From sections to tasks: defaults, remotes, templates, and whether all fits together.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use bdsync_proto::limits::MAX_BLOCK_SIZE;
use bdsync_target::volume::VolumeName;

use super::settings::Settings;
use super::sources::{self, Names};
use super::task::{Compare, Hooks, LvmSnapshot, Remote, SnapshotKind, TargetVolume, Task};
use super::value::{Count, Digest, Io, LvmSize, Rate, Size, Sizes, VerifyMode};
use super::{File, Format, Named, Problem, args};

/// The tasks of a file, in its order, and what is wrong with it.
pub(super) fn resolve(file: &File) -> (Vec<Task>, Vec<Problem>) {
    let mut tasks = Vec::new();
    let mut problems = Vec::new();
    for named in &file.tasks {
        let mut resolver = Resolver { file, named, settings: named.settings.clone(), problems: Vec::new() };
        tasks.extend(resolver.tasks());
        problems.extend(resolver.problems);
    }
    if file.format == Format::Toml {
        problems.extend(shared_targets(file, &tasks));
    }
    (tasks, problems)
}

/// The machines that the file names.
pub(super) fn remotes(file: &File) -> Vec<Remote> {
    let resolve = |named| {
        let named: &Named = named;
        let mut resolver = Resolver { file, named, settings: named.settings.clone(), problems: Vec::new() };
        resolver.remote(Some(named.name.clone()))
    };
    file.remotes.iter().filter_map(resolve).collect()
}

/// Two tasks that write the same target undo each other's work.
fn shared_targets(file: &File, tasks: &[Task]) -> Vec<Problem> {
    let mut problems = Vec::new();
    let active: Vec<_> = tasks.iter().filter(|task| !task.disabled).collect();
    for (index, task) in active.iter().enumerate() {
        let way = |task: &Task| task.remote.as_ref().filter(|_| !task.pull).map(|remote| remote.way.clone());
        // However it is written: `a/./b` is `a/b`.
        let same = |other: &&&Task| other.target.components().eq(task.target.components()) && way(other) == way(task);
        if let Some(other) = active[..index].iter().find(same) {
            let section = task.name.split('/').next().unwrap_or(&task.name);
            let line =
                file.tasks.iter().find(|named| named.name == section).map_or(0, |named| named.line_of("target_path"));
            let text = format!("task {} has the same target", other.name);
            problems.push(Problem { line, place: format!("task.{}: target_path", task.name), text });
        }
    }
    problems
}

pub(super) struct Resolver<'a> {
    pub(super) file: &'a File,
    pub(super) named: &'a Named,
    pub(super) settings: Settings,
    pub(super) problems: Vec<Problem>,
}

impl Resolver<'_> {
    pub(super) fn problem(&mut self, key: &str, text: impl Into<String>) {
        let section = if self.file.format == Format::Toml { "task" } else { "" };
        self.problems.push(self.named.problem(section, key, text));
    }

    /// A setting is needed. What is wrong with one that is there has been told.
    fn missing(&mut self, key: &str, text: &str) {
        if !self.named.has(key) {
            self.problem(key, text);
        }
    }

    fn tasks(&mut self) -> Vec<Task> {
        let section = self.remote_section();
        self.settings.or(&self.file.defaults);
        let remote = self.remote(section);
        let pull = self.settings.source_remote.is_some();
        let compare = self.compare();
        let patch_folder = self.patch_folder();
        let snapshot = self.snapshot();
        let volume = self.target_volume();
        let mut compare = compare;
        if volume.is_some() {
            // The volume is made as large as it has to be; what is behind that is nobody's.
            compare.size_policy = bdsync_engine::SizePolicy::MinSize;
        }
        let targets = self.paths(remote.is_some(), pull);
        let legacy = self.file.format == Format::Ini;
        let mut tasks = Vec::new();
        let has_ways_back = volume.as_ref().is_some_and(|volume| volume.snapshots > 0);
        for Names { name, source, target, mut problem } in targets {
            let volume_name = volume.as_ref().and_then(|volume| VolumeName::new(&target, &volume.group).ok());
            if has_ways_back && volume_name.is_some_and(|name| !name.has_room_for_snapshots()) {
                let text = "the target's name is too long for snapshots of it to have one (target_snapshots)";
                problem.get_or_insert_with(|| text.into());
            }
            let settings = &self.settings;
            tasks.push(Task {
                name,
                source,
                target,
                remote: remote.clone(),
                pull,
                disabled: settings.disabled.unwrap_or(false),
                create_target: settings.create_target_if_missing.unwrap_or(false),
                patch_folder: patch_folder.clone(),
                in_place: settings.apply_patch_in_place.unwrap_or(false),
                bandwidth_limit: settings.bandwidth_limit.as_ref().map(|Rate(rate)| *rate),
                compare: compare.clone(),
                verify: settings.verify.as_ref().map_or_else(Default::default, |VerifyMode(mode)| *mode),
                hooks: Hooks {
                    before: settings.hook_before.clone(),
                    after: settings.hook_after.clone(),
                    error: settings.hook_error.clone(),
                    snapshot_before: settings.hook_snapshot_before.clone(),
                    snapshot_after: settings.hook_snapshot_after.clone(),
                },
                snapshot: snapshot.clone(),
                consistency_group: settings.consistency_group.clone().filter(|_| snapshot.is_some()),
                hold_writes: settings.fsfreeze.unwrap_or(false),
                volume: volume.clone(),
                problem,
            });
        }
        // The original looks for paths when it reads the file, and so do its users.
        if legacy {
            for task in &tasks {
                self.paths_are_there(task);
            }
        }
        tasks
    }

    fn compare(&mut self) -> Compare {
        let mut compare = Compare::default();
        if let Some(text) = self.settings.bdsync_args.clone()
            && let Err(text) = args::take(&text, &mut compare)
        {
            self.problem("bdsync_args", text);
        }
        let settings = self.settings.clone();
        if let Some(Digest(digest)) = settings.hash {
            compare.digest = digest;
        }
        if let Some(Digest(digest)) = settings.checksum {
            compare.checksum = Some(digest);
        }
        if let Some(Size(size)) = settings.block_size {
            compare.block_size = size;
        }
        if let Some(Sizes(policy)) = settings.size_policy {
            compare.size_policy = policy;
        }
        if let Some(Io(io)) = settings.io {
            compare.io = Some(io);
        }
        if let Some(Count(count)) = settings.threads {
            compare.threads = NonZeroUsize::new(count as usize);
        }
        compare.two_pass = settings.two_pass.unwrap_or(compare.two_pass);
        compare.zero_blocks = settings.zero_blocks.unwrap_or(compare.zero_blocks);
        compare.flush_cache = settings.flush_cache.unwrap_or(compare.flush_cache);
        if !(1..=MAX_BLOCK_SIZE).contains(&compare.block_size) {
            let key = if self.settings.block_size.is_some() { "block_size" } else { "bdsync_args" };
            let size = compare.block_size;
            self.problem(key, format!("a block size must be from 1 to {MAX_BLOCK_SIZE} bytes, not {size}"));
        }
        compare
    }

    fn patch_folder(&mut self) -> Option<PathBuf> {
        let in_place = self.settings.apply_patch_in_place.unwrap_or(false);
        let is_far = !self.is_local_target();
        let folder = self.settings.target_patch_dir.as_deref().map(|folder| self.place(folder, is_far));
        if let Some(folder) = folder.clone() {
            self.check_place("target_patch_dir", &folder, is_far);
        }
        if folder.is_none() && !in_place {
            let text = "is missing: a folder at the target for patches until they are applied (or set apply_patch_in_place, and do without the safety)";
            self.missing("target_patch_dir", text);
        }
        folder
    }

    fn is_local_target(&self) -> bool {
        let is_far = self.settings.host.is_some() || self.settings.connection_command.is_some();
        !is_far || self.settings.source_remote.is_some()
    }

    /// A path as it is meant: `~` is a folder of this machine, though the original puts it
    /// in place in paths of others, too.
    fn place(&self, path: &Path, is_far: bool) -> PathBuf {
        if is_far && self.file.format == Format::Toml { path.to_path_buf() } else { expand(path) }
    }

    /// Refuses paths that may be something else tomorrow.
    fn check_place(&mut self, key: &str, path: &Path, is_far: bool) {
        if self.file.format == Format::Ini {
            return;
        }
        if is_far && path.starts_with("~") {
            self.problem(key, "~ is a folder of this machine; write the path as it is at the other end");
        } else if path.is_relative() && !path.as_os_str().is_empty() {
            self.problem(key, format!("{} must be an absolute path (it begins with /)", path.display()));
        }
    }

    fn snapshot(&mut self) -> Option<SnapshotKind> {
        let settings = &self.settings;
        let is_lvm = settings.lvm_snapshot_enabled.unwrap_or(false);
        let is_pull = settings.source_remote.is_some();
        let kind = match (settings.snapshot.as_ref().map(|choice| choice.0), is_lvm) {
            (Some(Some(true)), true) => {
                self.problem("snapshot", "there is lvm_snapshot_enabled, too; only one of the two can be");
                return None;
            }
            (Some(Some(true)), false) => Some(SnapshotKind::Reflink),
            (Some(None), _) | (None, false) => None,
            (Some(Some(false)) | None, _) => Some(SnapshotKind::Lvm(self.lvm_snapshot())),
        };
        if is_pull && kind.is_some() {
            self.problem("snapshot", "snapshots are taken of sources of this machine only");
            return None;
        }
        for (key, is_given) in [
            ("consistency_group", self.settings.consistency_group.is_some()),
            ("fsfreeze", self.settings.fsfreeze == Some(true)),
            ("hook_snapshot_before", self.settings.hook_snapshot_before.is_some()),
            ("hook_snapshot_after", self.settings.hook_snapshot_after.is_some()),
        ] {
            // What the defaults say is for those tasks that have one.
            if is_given && kind.is_none() && self.named.settings.given().contains(&key) {
                self.problem(key, "there is no snapshot to take; set snapshot = \"lvm\" or \"reflink\", too");
            }
        }
        if self.named.settings.fsfreeze == Some(true) && kind == Some(SnapshotKind::Reflink) {
            self.problem("fsfreeze", "a file on a frozen file system cannot be cloned; it is for snapshot = \"lvm\"");
        }
        kind
    }

    fn lvm_snapshot(&mut self) -> LvmSnapshot {
        let size = self.settings.lvm_snapshot_size.clone().map(|LvmSize(size)| size);
        // The original wants it always; thin volumes need none.
        if size.is_none() && self.file.format == Format::Ini {
            self.problem("lvm_snapshot_size", "is missing, such as 5G");
        }
        let settings = &self.settings;
        // One of a name can be in a group at a time.
        let has_company = settings.source_vg.is_some() || settings.consistency_group.is_some();
        let usual = if has_company { "bdsync-snapshot-{lv}" } else { "bdsync-snapshot" };
        let name = settings.lvm_snapshot_name.clone().unwrap_or_else(|| usual.into());
        if !bdsync_target::lvm::is_name(&name.replace("{lv}", "x")) && self.file.format == Format::Toml {
            self.problem("lvm_snapshot_name", "expected letters, digits and + _ . - (and {lv} for the volume's name)");
        }
        LvmSnapshot {
            size,
            autoextend: self.settings.lvm_snapshot_autoextend.clone().map(|LvmSize(size)| size),
            name,
            program: self.lvm_program(),
        }
    }

    fn lvm_program(&self) -> PathBuf {
        self.settings.lvm_program_path.as_deref().map_or_else(|| "/sbin/lvm".into(), expand)
    }

    fn target_volume(&mut self) -> Option<TargetVolume> {
        let Some(group) = self.settings.target_vg.clone() else {
            for key in ["target_thin_pool", "target_shrink", "target_snapshots", "target_snapshot_size"] {
                if self.named.settings.given().contains(&key) {
                    self.problem(key, "is for targets that are logical volumes; set target_vg, too");
                }
            }
            return None;
        };
        if self.named.settings.size_policy.is_some() {
            self.problem("size_policy", "a logical volume is made as large as the source (target_vg); leave it out");
        }
        for (key, name) in [("target_vg", Some(&group)), ("target_thin_pool", self.settings.target_thin_pool.as_ref())]
        {
            if name.is_some_and(|name| !bdsync_target::lvm::is_name(name)) {
                let text = "expected the name of a volume group: letters, digits and + _ . -";
                self.problems.push(self.named.problem("task", key, text));
            }
        }
        let settings = &self.settings;
        Some(TargetVolume {
            group,
            pool: settings.target_thin_pool.clone(),
            shrink: settings.target_shrink.unwrap_or(false),
            snapshots: settings.target_snapshots.as_ref().map_or(0, |Count(count)| *count),
            snapshot_size: settings.target_snapshot_size.clone().map(|LvmSize(size)| size),
            program: self.lvm_program(),
        })
    }

    /// Names, sources and targets: one of each, or those that a template makes.
    fn paths(&mut self, is_remote: bool, pull: bool) -> Vec<Names> {
        let (far_source, far_target) = (is_remote && pull, is_remote && !pull);
        let settings = self.settings.clone();
        let given = [settings.source_path.is_some(), settings.source_paths.is_some(), settings.source_vg.is_some()];
        if given.iter().filter(|given| **given).count() > 1 {
            let key = if settings.source_vg.is_some() { "source_vg" } else { "source_paths" };
            self.problem(key, "only one of source_path, source_paths and source_vg may be given");
            return Vec::new();
        }
        let target = self.target(far_target);
        if !given.contains(&true) {
            self.missing("source_path", "is missing: the device or file to be copied");
        }
        let Some(target) = target else { return Vec::new() };
        if let Some(group) = &settings.source_vg {
            return self.volumes(group, &target, far_source);
        }
        for key in ["source_vg_include", "source_vg_exclude"] {
            if self.named.settings.given().contains(&key) {
                self.problem(key, "is for source_vg, which is not given");
            }
        }
        let patterns = match (&settings.source_path, &settings.source_paths) {
            (Some(source), _) => {
                let source = self.source(source, far_source, "source_path");
                if self.file.format == Format::Ini || !sources::is_pattern(&source) {
                    let target = match self.file.format {
                        Format::Ini => target,
                        Format::Toml => target.replace("{name}", &sources::base(&source)),
                    };
                    return vec![Names::new(self.named.name.clone(), source, target.into())];
                }
                vec![source]
            }
            (None, Some(sources)) => {
                sources.iter().map(|source| self.source(Path::new(source), far_source, "source_paths")).collect()
            }
            (None, None) => return Vec::new(),
        };
        if !target.contains("{name}") {
            self.problem("target_path", "several sources need {name} in the target's path, such as /backup/{name}");
            return Vec::new();
        }
        let key = if settings.source_paths.is_some() { "source_paths" } else { "source_path" };
        let (found, problems) = sources::of_patterns(&self.named.name, &patterns, &target);
        problems.into_iter().for_each(|text| self.problem(key, text));
        found
    }

    /// A source's path as it is meant.
    fn source(&mut self, path: &Path, is_far: bool, key: &str) -> PathBuf {
        // A volume may be called as LVM calls it.
        let is_lvm = matches!(&self.settings.snapshot, Some(choice) if choice.0 == Some(false))
            || self.settings.lvm_snapshot_enabled == Some(true);
        if is_lvm && !is_far && self.file.format == Format::Toml {
            let names: Vec<_> = path.to_str().unwrap_or_default().split('/').collect();
            if names.len() == 2 && names.iter().all(|name| bdsync_target::lvm::is_name(name)) {
                return Path::new("/dev").join(path);
            }
        }
        let path = self.place(path, is_far);
        self.check_place(key, &path, is_far);
        if is_far && sources::is_pattern(&path) {
            self.problem(key, "patterns only find sources of this machine; list them in source_paths");
        }
        path
    }

    /// The target's path, with `{name}` where there is a template.
    fn target(&mut self, is_far: bool) -> Option<String> {
        let group = self.settings.target_vg.clone();
        let given = self.settings.target_path.clone();
        let target = match (given, group) {
            (None, None) => {
                self.missing("target_path", "is missing: the copy to be brought up to date");
                return None;
            }
            (None, Some(group)) => Path::new("/dev").join(group).join("{name}"),
            (Some(target), Some(group)) if target.components().count() == 1 && target.is_relative() => {
                Path::new("/dev").join(group).join(target)
            }
            (Some(target), _) => target,
        };
        let target = self.place(&target, is_far);
        self.check_place("target_path", &target, is_far);
        let text = target.to_string_lossy().into_owned();
        let text = if self.file.format == Format::Ini { text } else { text.replace("{lv}", "{name}") };
        if let Some(group) = &self.settings.target_vg {
            let example = text.replace("{name}", "x");
            if let Err(error) = VolumeName::new(Path::new(&example), group) {
                self.problem("target_path", format!("with target_vg: {error}"));
            }
        }
        Some(text)
    }

    /// A task for each volume of a group.
    fn volumes(&mut self, group: &str, target: &str, far_source: bool) -> Vec<Names> {
        if !bdsync_target::lvm::is_name(group) {
            self.problem("source_vg", "expected the name of a volume group: letters, digits and + _ . -");
            return Vec::new();
        }
        if far_source {
            self.problem("source_vg", "a volume group of another machine cannot be listed; use source_paths");
            return Vec::new();
        }
        if !target.contains("{name}") {
            self.problem("target_path", "several sources need {lv} in the target's path, such as /backup/{lv}.img");
            return Vec::new();
        }
        let mut patterns = [Vec::new(), Vec::new()];
        let given = [
            ("source_vg_include", &self.settings.source_vg_include),
            ("source_vg_exclude", &self.settings.source_vg_exclude),
        ];
        let mut problems = Vec::new();
        for ((key, texts), patterns) in given.into_iter().zip(&mut patterns) {
            for text in texts.iter().flatten() {
                match glob::Pattern::new(text) {
                    Ok(pattern) => patterns.push(pattern),
                    Err(error) => problems.push((key, format!("{text} is no pattern: {error}"))),
                }
            }
        }
        problems.into_iter().for_each(|(key, text)| self.problem(key, text));
        let [include, exclude] = patterns;
        sources::of_group(&self.named.name, group, &sources::Choice { include, exclude }, target, &self.lvm_program())
    }

    fn paths_are_there(&mut self, task: &Task) {
        if !task.source.exists() {
            self.problem("source_path", format!("the source {} does not exist", task.source.display()));
        }
        if let Some(SnapshotKind::Lvm(snapshot)) = &task.snapshot
            && !snapshot.program.exists()
        {
            self.problem("lvm_program_path", format!("there is no lvm program {}", snapshot.program.display()));
        }
        if task.remote.is_some() {
            return;
        }
        let parent = task.target.parent().filter(|parent| !parent.as_os_str().is_empty());
        if let Some(parent) = parent
            && !parent.exists()
        {
            self.problem("target_path", format!("the target's folder {} does not exist", parent.display()));
        }
        if let Some(folder) = &task.patch_folder
            && !task.in_place
            && !folder.is_dir()
        {
            self.problem("target_patch_dir", format!("the folder {} does not exist", folder.display()));
        }
    }
}

/// Puts the user's home folder in place of a leading `~`.
pub(super) fn expand(path: &Path) -> PathBuf {
    let Ok(rest) = path.strip_prefix("~") else { return path.to_path_buf() };
    let home = std::env::home_dir().filter(|home| !home.as_os_str().is_empty());
    match home {
        Some(home) if rest.as_os_str().is_empty() => home,
        Some(home) => home.join(rest),
        None => path.to_path_buf(),
    }
}
