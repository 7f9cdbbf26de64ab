//! From sections to tasks: defaults, remotes, templates, and whether all fits together.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bdsync_proto::limits::MAX_BLOCK_SIZE;

use super::settings::Settings;
use super::task::{Compare, Hooks, LvmSnapshot, Remote, Task};
use super::value::{Count, Digest, Io, Rate, Size, Sizes, Span, VerifyMode};
use super::{File, Format, Named, Problem, args};

const DEFAULT_RETRIES: u32 = 3;
const DEFAULT_RETRY_DELAY: Duration = Duration::from_secs(5);
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(300);

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

/// Two tasks that write the same target undo each other's work.
fn shared_targets(file: &File, tasks: &[Task]) -> Vec<Problem> {
    let mut problems = Vec::new();
    let active: Vec<_> = tasks.iter().filter(|task| !task.disabled).collect();
    for (index, task) in active.iter().enumerate() {
        let same = |other: &&&Task| other.target == task.target && other.remote == task.remote;
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

struct Resolver<'a> {
    file: &'a File,
    named: &'a Named,
    settings: Settings,
    problems: Vec<Problem>,
}

impl Resolver<'_> {
    fn problem(&mut self, key: &str, text: impl Into<String>) {
        let section = if self.file.format == Format::Toml { "task" } else { "" };
        self.problems.push(self.named.problem(section, key, text));
    }

    fn tasks(&mut self) -> Vec<Task> {
        let remote = self.remote_section();
        self.settings.or(&self.file.defaults);
        let remote = self.remote(remote);
        let compare = self.compare();
        let patch_folder = self.patch_folder();
        let snapshot = self.snapshot();
        let targets = self.paths(remote.is_some());
        let legacy = self.file.format == Format::Ini;
        let mut tasks = Vec::new();
        for (name, source, target) in targets {
            let settings = &self.settings;
            tasks.push(Task {
                name,
                source,
                target,
                remote: remote.clone(),
                disabled: settings.disabled.unwrap_or(false),
                create_target: settings.create_target_if_missing.unwrap_or(false),
                patch_folder: patch_folder.clone(),
                bandwidth_limit: settings.bandwidth_limit.as_ref().map(|Rate(rate)| *rate),
                compare: compare.clone(),
                verify: settings.verify.as_ref().map_or_else(Default::default, |VerifyMode(mode)| *mode),
                hooks: Hooks {
                    before: settings.hook_before.clone(),
                    after: settings.hook_after.clone(),
                    error: settings.hook_error.clone(),
                },
                snapshot: snapshot.clone(),
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

    /// Puts the named remote's settings under the task's own.
    fn remote_section(&mut self) -> Option<String> {
        let wanted = self.settings.remote.clone().or_else(|| self.file.defaults.remote.clone())?;
        match self.file.remotes.iter().find(|remote| remote.name == wanted) {
            Some(remote) => {
                self.settings.or(&remote.settings);
                if self.settings.connection_command.is_none() && self.file.defaults.connection_command.is_none() {
                    let problem = remote.problem("remote", "", "connection_command is missing, such as \"ssh backup\"");
                    self.problems.push(problem);
                }
            }
            None => {
                let known: Vec<_> = self.file.remotes.iter().map(|remote| remote.name.as_str()).collect();
                let known =
                    if known.is_empty() { "there is none".into() } else { format!("there are: {}", known.join(", ")) };
                self.problem("remote", format!("there is no section [remote.{wanted}]; {known}"));
            }
        }
        Some(wanted)
    }

    fn remote(&mut self, section: Option<String>) -> Option<Remote> {
        let command = self.settings.connection_command.clone()?;
        let words = shlex::split(&command).filter(|words| !words.is_empty());
        let Some(command) = words else {
            let key = if section.is_some() { "remote" } else { "connection_command" };
            self.problem(key, format!("{command} is no command: empty, or a quote is not closed"));
            return None;
        };
        let program = self.settings.remote_bdsync_bin.as_deref().map(expand);
        if program.is_none() && self.file.format == Format::Ini {
            self.problem("remote_bdsync_bin", "is required where there is a connection_command");
        }
        let settings = &self.settings;
        Some(Remote {
            command,
            program: program.unwrap_or_else(|| "bdsync".into()),
            retries: settings.retries.as_ref().map_or(DEFAULT_RETRIES, |Count(count)| *count),
            retry_delay: settings.retry_delay.as_ref().map_or(DEFAULT_RETRY_DELAY, |Span(span)| *span),
            timeout: settings.timeout.as_ref().map_or(DEFAULT_TIMEOUT, |Span(span)| *span),
        })
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
            compare.io = io;
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
        if self.settings.apply_patch_in_place.unwrap_or(false) {
            return None;
        }
        let folder = self.settings.target_patch_dir.as_deref().map(expand);
        if folder.is_none() {
            let text = "is missing: a folder at the target for patches until they are applied (or set apply_patch_in_place, and do without the safety)";
            self.problem("target_patch_dir", text);
        }
        folder
    }

    fn snapshot(&mut self) -> Option<LvmSnapshot> {
        if !self.settings.lvm_snapshot_enabled.unwrap_or(false) {
            return None;
        }
        let size = self.settings.lvm_snapshot_size.clone();
        if size.is_none() {
            self.problem("lvm_snapshot_size", "is missing, such as 5G");
        }
        let name = self.settings.lvm_snapshot_name.clone();
        let program = self.settings.lvm_program_path.as_deref().map(expand);
        Some(LvmSnapshot {
            size: size.unwrap_or_default(),
            name: name.unwrap_or_else(|| "bdsync-snapshot".into()),
            program: program.unwrap_or_else(|| "/sbin/lvm".into()),
        })
    }

    /// Names, sources and targets: one of each, or those that a template makes.
    fn paths(&mut self, is_remote: bool) -> Vec<(String, PathBuf, PathBuf)> {
        let name = self.named.name.clone();
        let Some(target) = self.settings.target_path.clone() else {
            self.problem("target_path", "is missing: the copy to be brought up to date");
            return Vec::new();
        };
        let target = expand(&target);
        let patterns = match (&self.settings.source_path, &self.settings.source_paths) {
            (Some(source), None) => {
                if self.file.format == Format::Ini || !is_pattern(source) {
                    return vec![(name, expand(source), target)];
                }
                vec![source.clone()]
            }
            (None, Some(sources)) => sources.iter().map(PathBuf::from).collect(),
            (Some(_), Some(_)) => {
                self.problem("source_paths", "there is a source_path, too; only one of them may be given");
                return Vec::new();
            }
            (None, None) => {
                self.problem("source_path", "is missing: the device or file to be copied");
                return Vec::new();
            }
        };
        let text = target.to_string_lossy().into_owned();
        if !text.contains("{name}") {
            self.problem("target_path", "several sources need {name} in the target's path, such as /backup/{name}");
            return Vec::new();
        }
        let _ = is_remote;
        let mut sources: Vec<PathBuf> = Vec::new();
        for pattern in patterns {
            for source in self.sources(&expand(&pattern)) {
                if !sources.contains(&source) {
                    sources.push(source);
                }
            }
        }
        let mut tasks: Vec<(String, PathBuf, PathBuf)> = Vec::new();
        for source in sources {
            let Some(base) = source.file_name().map(|base| base.to_string_lossy().into_owned()) else { continue };
            let task = format!("{name}/{base}");
            if let Some((_, other, _)) = tasks.iter().find(|(known, ..)| *known == task) {
                let text =
                    format!("{} and {} have the same name and so the same target", other.display(), source.display());
                self.problem("source_paths", text);
                continue;
            }
            tasks.push((task, source, PathBuf::from(text.replace("{name}", &base))));
        }
        tasks
    }

    fn sources(&mut self, pattern: &Path) -> Vec<PathBuf> {
        let text = pattern.to_string_lossy();
        if !is_pattern(pattern) {
            return vec![pattern.to_path_buf()];
        }
        let key = if self.settings.source_paths.is_some() { "source_paths" } else { "source_path" };
        match glob::glob(&text) {
            Ok(found) => {
                let found: Vec<_> = found.filter_map(Result::ok).filter(|path| !path.is_dir()).collect();
                if found.is_empty() {
                    self.problem(key, format!("nothing is found by the pattern {text}"));
                }
                found
            }
            Err(error) => {
                self.problem(key, format!("{text} is no pattern: {error}"));
                Vec::new()
            }
        }
    }

    fn paths_are_there(&mut self, task: &Task) {
        if !task.source.exists() {
            self.problem("source_path", format!("the source {} does not exist", task.source.display()));
        }
        if let Some(snapshot) = &task.snapshot
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
            && !folder.is_dir()
        {
            self.problem("target_patch_dir", format!("the folder {} does not exist", folder.display()));
        }
    }
}

fn is_pattern(path: &Path) -> bool {
    path.to_string_lossy().contains(['*', '?', '['])
}

/// Puts the user's home folder in place of a leading `~`.
fn expand(path: &Path) -> PathBuf {
    let Ok(rest) = path.strip_prefix("~") else { return path.to_path_buf() };
    let home = std::env::home_dir().filter(|home| !home.as_os_str().is_empty());
    match home {
        Some(home) if rest.as_os_str().is_empty() => home,
        Some(home) => home.join(rest),
        None => path.to_path_buf(),
    }
}
