//! Configuration files: found, read, checked, made into tasks.

pub(crate) mod args;
mod convert;
mod ini;
mod remote;
mod resolve;
mod settings;
mod sources;
mod task;
mod value;

use std::fmt;
use std::path::{Path, PathBuf};

use serde_json::json;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

pub(crate) use convert::convert;
pub(crate) use task::{CIPHERS, LvmSnapshot, Remote, SnapshotKind, Ssh, Task, Way};
pub(crate) use value::{AgentMode, Verify};

use crate::report::Reporter;
use ini::Ini;
use settings::{REMOTE_KEYS, REMOTE_ONLY_KEYS, Refused, Settings, TASK_ONLY_KEYS, similar};

/// Where the configuration is when nothing is said; the second is the original manager's.
pub(crate) const DEFAULT_PATHS: [&str; 2] = ["/etc/bdsync-manager.toml", "/etc/bdsync-manager.conf"];

/// Something wrong in a configuration file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    /// Line, from 1; 0 if it is about the whole file.
    line: usize,
    /// Section and key, as far as there are any.
    place: String,
    text: String,
}

/// Everything that is wrong with a configuration.
#[derive(Debug)]
pub(crate) struct Problems {
    path: PathBuf,
    problems: Vec<Problem>,
}

impl Problems {
    /// A problem with the file as such.
    fn of_file(path: &Path, text: impl Into<String>) -> Self {
        let problem = Problem { line: 0, place: String::new(), text: text.into() };
        Self { path: path.to_path_buf(), problems: vec![problem] }
    }

    /// An event for each, for programs that read them.
    pub(crate) fn report(&self, reporter: &Reporter) {
        for Problem { line, place, text } in &self.problems {
            let line = (*line > 0).then_some(line);
            let facts = json!({ "file": self.path.display().to_string(), "line": line, "place": place, "error": text });
            reporter.event("configuration_error", facts);
        }
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut problems = self.problems.clone();
        problems.sort_by_key(|problem| problem.line);
        for (index, Problem { line, place, text }) in problems.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{}:", self.path.display())?;
            if *line > 0 {
                write!(f, "{line}:")?;
            }
            if !place.is_empty() {
                write!(f, " {place}:")?;
            }
            write!(f, " {text}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// A kind of file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Toml,
    /// The original manager's.
    Ini,
}

/// A configuration that makes sense.
#[derive(Debug)]
pub(crate) struct Configuration {
    pub(crate) path: PathBuf,
    pub(crate) tasks: Vec<Task>,
    pub(crate) remotes: Vec<Remote>,
    /// What is odd and no error.
    pub(crate) warnings: Vec<String>,
}

impl Configuration {
    /// Reads `path`, or the first of the default files that is there. `overrides` are
    /// settings as `key=value` that go before what the file says.
    ///
    /// # Errors
    ///
    /// All that is wrong with it.
    pub(crate) fn load(path: Option<&Path>, overrides: &[String]) -> Result<Self, Problems> {
        let path = path.map_or_else(default_path, Path::to_path_buf);
        let text = read(&path)?;
        let mut file = match format_of(&path, &text) {
            Format::Toml => read_toml(&text),
            Format::Ini => read_ini(&text),
        };
        override_settings(overrides, &mut file);
        let (tasks, problems) = resolve::resolve(&file);
        file.problems.extend(problems);
        match file.problems.is_empty() {
            true => Ok(Self { path, tasks, remotes: resolve::remotes(&file), warnings: file.warnings }),
            false => Err(Problems { path, problems: file.problems }),
        }
    }
}

fn default_path() -> PathBuf {
    let found = DEFAULT_PATHS.iter().find(|path| Path::new(path).exists());
    PathBuf::from(found.unwrap_or(&DEFAULT_PATHS[0]))
}

fn read(path: &Path) -> Result<String, Problems> {
    let bytes = std::fs::read(path)
        .map_err(|error| Problems::of_file(path, format!("cannot read it: {}", bdsync_device::plain(&error))))?;
    String::from_utf8(bytes).map_err(|_| Problems::of_file(path, "it is not UTF-8 text"))
}

/// By the name's ending; by what is in it if that says nothing, or cannot be.
pub(crate) fn format_of(path: &Path, text: &str) -> Format {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("toml") => Format::Toml,
        _ if is_toml(text) => Format::Toml,
        _ => Format::Ini,
    }
}

/// Whether a text is TOML with sections as they are here. The original's files are not: paths
/// have no quotation marks there.
fn is_toml(text: &str) -> bool {
    let is_ours = |table: &DeTable<'_>| table.iter().any(|(key, _)| SECTIONS.contains(&key.get_ref().as_ref()));
    DeTable::parse(text).is_ok_and(|table| is_ours(table.get_ref()))
}

const SECTIONS: &[&str] = &["defaults", "remote", "task"];

/// A file as it is, before sections are put together.
pub(crate) struct File {
    format: Format,
    defaults: Settings,
    remotes: Vec<Named>,
    tasks: Vec<Named>,
    problems: Vec<Problem>,
    warnings: Vec<String>,
}

/// The settings of a section with a name, and where it is.
struct Named {
    name: String,
    line: usize,
    settings: Settings,
    /// The line of each setting.
    lines: Vec<(String, usize)>,
}

impl Named {
    fn line_of(&self, key: &str) -> usize {
        self.lines.iter().find(|(known, _)| known == key).map_or(self.line, |(_, line)| *line)
    }

    /// Whether a setting is there, even if it was not understood.
    fn has(&self, key: &str) -> bool {
        self.lines.iter().any(|(known, _)| known == key)
    }

    fn problem(&self, section: &str, key: &str, text: impl Into<String>) -> Problem {
        let place = if section.is_empty() { format!("[{}]", self.name) } else { format!("{section}.{}", self.name) };
        let place = if key.is_empty() { place } else { format!("{place}: {key}") };
        Problem { line: self.line_of(key), place, text: text.into() }
    }
}

fn read_toml(text: &str) -> File {
    let mut file = File {
        format: Format::Toml,
        defaults: Settings::default(),
        remotes: Vec::new(),
        tasks: Vec::new(),
        problems: Vec::new(),
        warnings: Vec::new(),
    };
    let line_at = |offset: usize| text[..offset.min(text.len())].matches('\n').count() + 1;
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        let line = error.span().map_or(0, |span| line_at(span.start));
        let place = text.lines().nth(line.saturating_sub(1)).unwrap_or_default().trim().chars().take(60).collect();
        let problem = Problem { line, place, text: error.message().to_string() };
        // What is wrong with a line is said once.
        if !file.problems.iter().any(|known| known.line == line) {
            file.problems.push(problem);
        }
    }
    let mut sections: Vec<_> = table.into_inner().into_iter().collect();
    sections.sort_by_key(|(key, _)| key.span().start);
    for (key, value) in sections {
        let (name, line) = (key.get_ref().to_string(), line_at(key.span().start));
        let problem = |text: String| Problem { line, place: name.clone(), text };
        let DeValue::Table(table) = value.into_inner() else {
            file.problems.push(problem("expected sections [defaults], [remote.NAME] and [task.NAME]".into()));
            continue;
        };
        match name.as_str() {
            "defaults" => {
                let named = take_section(&mut file.problems, "defaults", "", line, table, &line_at);
                for key in TASK_ONLY_KEYS.iter().filter(|key| named.settings.given().contains(*key)) {
                    let place = format!("defaults: {key}");
                    let text = "belongs into each [task.NAME]".to_string();
                    file.problems.push(Problem { line: named.line_of(key), place, text });
                }
                file.defaults = named.settings;
            }
            "remote" | "task" => {
                let mut entries: Vec<_> = table.into_iter().collect();
                entries.sort_by_key(|(key, _)| key.span().start);
                for (key, value) in entries {
                    let line = line_at(key.span().start);
                    let DeValue::Table(table) = value.into_inner() else {
                        let place = format!("{name}: {}", key.get_ref());
                        let text = format!("expected a section [{name}.NAME]");
                        file.problems.push(Problem { line, place, text });
                        continue;
                    };
                    if key.get_ref().is_empty() || key.get_ref().contains(char::is_control) {
                        let text = format!("{:?} is no name: it is empty, or has control characters", key.get_ref());
                        file.problems.push(Problem { line, place: name.clone(), text });
                    }
                    let named = take_section(&mut file.problems, &name, key.get_ref(), line, table, &line_at);
                    if name == "task" { file.tasks.push(named) } else { file.remotes.push(named) }
                }
            }
            _ => {
                let hint = similar(&name, SECTIONS).map_or(String::new(), |name| format!("; did you mean [{name}]?"));
                file.problems.push(problem(format!("unknown section{hint}")));
            }
        }
    }
    file
}

fn take_section(
    problems: &mut Vec<Problem>,
    kind: &str,
    name: &str,
    line: usize,
    table: DeTable<'_>,
    line_at: &dyn Fn(usize) -> usize,
) -> Named {
    let mut named = Named { name: name.into(), line, settings: Settings::default(), lines: Vec::new() };
    let section = if name.is_empty() { kind.to_string() } else { format!("{kind}.{name}") };
    let known = if kind == "remote" { REMOTE_KEYS } else { Settings::KEYS };
    for (key, value) in table {
        let (line, key): (usize, String) = (line_at(key.span().start), key.get_ref().to_string());
        named.lines.push((key.clone(), line));
        let value: Spanned<DeValue<'_>> = value;
        let is_known = known.contains(&key.as_str()) && (kind == "remote" || !REMOTE_ONLY_KEYS.contains(&key.as_str()));
        let refused = match is_known {
            true => named.settings.set_toml(&key, value),
            false => Err(Refused::Unknown),
        };
        let text = match refused {
            Ok(()) => continue,
            Err(Refused::Value(text)) => text.trim_end().to_string(),
            Err(Refused::Unknown) if REMOTE_ONLY_KEYS.contains(&key.as_str()) => {
                format!("does not belong into [{section}]; put it into a [remote.NAME], and remote = \"NAME\" here")
            }
            Err(Refused::Unknown) if Settings::KEYS.contains(&key.as_str()) => {
                format!("does not belong into a [{kind}]; put it into the task or the defaults")
            }
            Err(Refused::Unknown) => match similar(&key, known) {
                Some(name) => format!("unknown key; did you mean {name}?"),
                None => "unknown key".to_string(),
            },
        };
        problems.push(Problem { line, place: format!("{section}: {key}"), text });
    }
    named
}

fn read_ini(text: &str) -> File {
    let mut file = File {
        format: Format::Ini,
        defaults: Settings::default(),
        remotes: Vec::new(),
        tasks: Vec::new(),
        problems: Vec::new(),
        warnings: Vec::new(),
    };
    let of_fault =
        |place: String| move |fault: ini::Fault| Problem { line: fault.line, place: place.clone(), text: fault.text };
    let ini = match Ini::parse(text) {
        Ok(ini) => ini,
        Err(faults) => {
            file.problems = faults.into_iter().map(of_fault(String::new())).collect();
            return file;
        }
    };
    for section in &ini.sections {
        let place = format!("[{}]", section.name);
        let entries = match ini.resolve(section) {
            Ok(entries) => entries,
            Err(faults) => {
                file.problems.extend(faults.into_iter().map(of_fault(place)));
                continue;
            }
        };
        let (name, line) = (section.name.clone(), section.line);
        let mut named = Named { name, line, settings: Settings::default(), lines: Vec::new() };
        for entry in entries {
            named.lines.push((entry.key.clone(), entry.line));
            // An empty value stands for no value, as in the original.
            if entry.value.is_empty() {
                continue;
            }
            match named.settings.set_ini(&entry.key, &entry.value) {
                Ok(()) => {}
                // The original did not mind, and a name may be there to be referred to.
                Err(Refused::Unknown) => {
                    let hint = similar(&entry.key, Settings::KEYS);
                    let Some(hint) = hint else { continue };
                    let text = format!("{place}: {} is no setting; did you mean {hint}?", entry.key);
                    if !file.warnings.contains(&text) {
                        file.warnings.push(text);
                    }
                }
                Err(Refused::Value(text)) => {
                    file.problems.push(Problem { line: entry.line, place: format!("{place}: {}", entry.key), text });
                }
            }
        }
        file.tasks.push(named);
    }
    file
}

/// Puts `key=value` words over every task.
fn override_settings(overrides: &[String], file: &mut File) {
    for text in overrides {
        let place = format!("--set {text}");
        let mut problem = |text: String| {
            let known = Problem { line: 0, place: place.clone(), text };
            if !file.problems.contains(&known) {
                file.problems.push(known);
            }
        };
        let Some((key, value)) = text.split_once('=') else {
            problem("expected KEY=VALUE".into());
            continue;
        };
        for task in &mut file.tasks {
            match task.settings.set_ini(key.trim(), value.trim()) {
                Ok(()) => {}
                Err(Refused::Value(text)) => problem(text),
                Err(Refused::Unknown) => {
                    let hint =
                        similar(key, Settings::KEYS).map_or(String::new(), |name| format!("; did you mean {name}?"));
                    problem(format!("unknown key{hint}"));
                }
            }
        }
    }
}
