//! What the sources of a template are, and what their tasks are called.

use std::path::{Path, PathBuf};

use bdsync_target::lvm::{Lvm, Volume};
use bdsync_target::volume::ROLLBACK_TAG;
use glob::Pattern;

use crate::snapshot::TAG;

/// A task's name, source and target.
#[derive(Debug)]
pub(super) struct Names {
    pub(super) name: String,
    pub(super) source: PathBuf,
    pub(super) target: PathBuf,
    /// Why there is nothing to be done.
    pub(super) problem: Option<String>,
}

impl Names {
    pub(super) fn new(name: String, source: PathBuf, target: PathBuf) -> Self {
        Self { name, source, target, problem: None }
    }
}

/// Which volumes of a group.
pub(super) struct Choice {
    /// These; empty: all.
    pub(super) include: Vec<Pattern>,
    /// But not these.
    pub(super) exclude: Vec<Pattern>,
}

pub(super) fn is_pattern(path: &Path) -> bool {
    path.to_string_lossy().contains(['*', '?', '['])
}

/// The last part of a path.
pub(super) fn base(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// What the patterns find, and what is wrong with that.
pub(super) fn of_patterns(task: &str, patterns: &[PathBuf], target: &str) -> (Vec<Names>, Vec<String>) {
    let (mut problems, mut sources) = (Vec::new(), Vec::<PathBuf>::new());
    for pattern in patterns {
        let found = match is_pattern(pattern) {
            false => vec![pattern.clone()],
            true => match glob::glob(&pattern.to_string_lossy()) {
                Ok(found) => {
                    let found: Vec<_> = found.filter_map(Result::ok).filter(|path| !path.is_dir()).collect();
                    // What is missing today is the task's failure, and not that of all others.
                    if found.is_empty() { vec![pattern.clone()] } else { found }
                }
                Err(error) => {
                    problems.push(format!("{} is no pattern: {error}", pattern.display()));
                    continue;
                }
            },
        };
        for source in found {
            if !sources.contains(&source) {
                sources.push(source);
            }
        }
    }
    let mut tasks: Vec<Names> = Vec::new();
    for source in sources {
        let base = base(&source);
        let name = format!("{task}/{base}");
        match tasks.iter().find(|known| known.name == name) {
            Some(other) => problems.push(format!(
                "{} and {} have the same name and so the same target",
                other.source.display(),
                source.display()
            )),
            None => tasks.push(Names::new(name, source, target.replace("{name}", &base).into())),
        }
    }
    (tasks, problems)
}

/// The volumes of a group that were chosen. A group that cannot be listed is the failure of
/// the task, and not that of all others.
pub(super) fn of_group(task: &str, group: &str, choice: &Choice, target: &str, program: &Path) -> Vec<Names> {
    let nothing = |problem: String| {
        let name = Names::new(task.into(), Path::new("/dev").join(group), target.into());
        vec![Names { problem: Some(problem), ..name }]
    };
    let volumes = match Lvm::new(program).volumes_of(group) {
        Ok(volumes) => volumes,
        Err(error) => return nothing(format!("the volume group {group} (source_vg) cannot be listed: {error}")),
    };
    let chosen = |volume: &&Volume| {
        let is_in = |patterns: &[Pattern]| patterns.iter().any(|pattern| pattern.matches(&volume.name));
        // What is made for or by runs of ours goes and comes.
        let is_data = volume.is_ordinary() && !volume.has_tag(TAG) && !volume.has_tag(ROLLBACK_TAG);
        is_data && (choice.include.is_empty() || is_in(&choice.include)) && !is_in(&choice.exclude)
    };
    let found: Vec<_> = volumes
        .iter()
        .filter(chosen)
        .map(|volume| {
            let name = format!("{task}/{}", volume.name);
            Names::new(name, volume.path(), target.replace("{name}", &volume.name).into())
        })
        .collect();
    if found.is_empty() {
        return nothing(format!("the volume group {group} (source_vg) has no volumes that were chosen"));
    }
    found
}
