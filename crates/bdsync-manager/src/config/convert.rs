//! `config convert`: the original manager's file as TOML.

use std::fmt::Write;
use std::path::Path;

use super::ini::{Entry, Ini};
use super::settings::{Refused, Settings};
use super::task::Compare;
use super::{Problem, Problems, args, read};

/// The TOML that says what the INI file `path` says.
///
/// # Errors
///
/// What is wrong with the INI file.
pub(crate) fn convert(path: &Path) -> Result<String, Problems> {
    let text = read(path)?;
    if super::is_toml(&text) {
        let text = "is a TOML configuration already".into();
        return Err(Problems { path: path.into(), problems: vec![Problem { line: 0, place: String::new(), text }] });
    }
    let failed = |faults: Vec<super::ini::Fault>, place: &str| Problems {
        path: path.to_path_buf(),
        problems: faults
            .into_iter()
            .map(|fault| Problem { line: fault.line, place: place.into(), text: fault.text })
            .collect(),
    };
    let ini = Ini::parse(&text).map_err(|faults| failed(faults, ""))?;
    let mut out = format!("# Made from {} by bdsync-manager config convert.\n", path.display());
    let shared = shared_defaults(&ini);
    if !shared.is_empty() {
        out.push_str("\n[defaults]\n");
        for entry in &shared {
            out.push_str(&setting(entry).map_err(|problem| Problems { path: path.into(), problems: vec![problem] })?);
        }
    }
    for section in &ini.sections {
        let place = format!("[{}]", section.name);
        let entries = ini.resolve(section).map_err(|faults| failed(faults, &place))?;
        // Writing to a string cannot fail.
        let _ = writeln!(out, "\n[task.{}]", key(&section.name));
        for entry in entries
            .iter()
            .filter(|entry| !shared.iter().any(|shared| (&shared.key, &shared.value) == (&entry.key, &entry.value)))
        {
            out.push_str(&setting(entry).map_err(|problem| Problems { path: path.into(), problems: vec![problem] })?);
        }
    }
    Ok(out)
}

/// What all sections inherit with one value: that can stay in one place.
fn shared_defaults(ini: &Ini) -> Vec<Entry> {
    let resolved: Vec<_> = ini.sections.iter().filter_map(|section| ini.resolve(section).ok()).collect();
    let Some(first) = resolved.first() else { return Vec::new() };
    let is_default = |entry: &&Entry| ini.defaults.entries.iter().any(|default| default.key == entry.key);
    let everywhere = |entry: &&Entry| {
        resolved
            .iter()
            .all(|entries| entries.iter().any(|other| (&other.key, &other.value) == (&entry.key, &entry.value)))
    };
    let own = |entry: &&Entry| {
        !super::settings::TASK_ONLY_KEYS.contains(&entry.key.as_str())
            && !ini.sections.iter().any(|section| section.entries.iter().any(|known| known.key == entry.key))
    };
    first.iter().filter(is_default).filter(everywhere).filter(own).cloned().collect()
}

/// One setting as lines of TOML.
fn setting(entry: &Entry) -> Result<String, Problem> {
    let Entry { key, value, line } = entry;
    let problem = |text: String| Problem { line: *line, place: key.clone(), text };
    if value.is_empty() {
        return Ok(format!("# {key} was empty, which means that it is not set.\n"));
    }
    match Settings::default().set_ini(key, value) {
        Ok(()) => {}
        Err(Refused::Unknown) => return Ok(format!("# {key} is no setting and was left out: {}\n", quoted(value))),
        Err(Refused::Value(text)) => return Err(problem(text)),
    }
    match key.as_str() {
        "disabled" | "create_target_if_missing" | "apply_patch_in_place" | "lvm_snapshot_enabled" => {
            let lower = value.to_lowercase();
            Ok(format!("{key} = {}\n", matches!(lower.as_str(), "1" | "yes" | "true" | "on")))
        }
        "local_bdsync_bin" => {
            Ok(format!("# local_bdsync_bin is not needed: bdsync is built in. It was {}\n", quoted(value)))
        }
        "bdsync_args" => bdsync_args(value).map_err(problem),
        // A star in a path was a star.
        "source_path" if value.contains(['*', '?', '[']) => {
            let escaped = glob::Pattern::escape(value);
            Ok(format!(
                "# Patterns are understood now; this one is kept from being one.\nsource_path = {}\n",
                quoted(&escaped)
            ))
        }
        _ => Ok(format!("{key} = {}\n", quoted(value))),
    }
}

/// The typed settings in place of options.
fn bdsync_args(value: &str) -> Result<String, String> {
    let (mut compare, default) = (Compare::default(), Compare::default());
    args::take(value, &mut compare)?;
    let mut out = format!("# bdsync_args = {}\n", quoted(value));
    // Writing to a string cannot fail.
    if compare.digest != default.digest {
        let _ = writeln!(out, "hash = {}", quoted(&compare.digest.name));
    }
    if compare.block_size != default.block_size {
        let _ = writeln!(out, "block_size = {}", compare.block_size);
    }
    if let Some(checksum) = &compare.checksum {
        let _ = writeln!(out, "checksum = {}", quoted(&checksum.name));
    }
    for (on, key) in
        [(compare.two_pass, "two_pass"), (compare.zero_blocks, "zero_blocks"), (compare.flush_cache, "flush_cache")]
    {
        if on {
            let _ = writeln!(out, "{key} = true");
        }
    }
    match compare.size_policy {
        bdsync_engine::SizePolicy::Strict => {}
        bdsync_engine::SizePolicy::MinSize => out.push_str("size_policy = \"minsize\"\n"),
        bdsync_engine::SizePolicy::Resize => out.push_str("size_policy = \"resize\"\n"),
    }
    Ok(out)
}

fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

fn key(name: &str) -> String {
    let bare = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
    if bare { name.to_string() } else { quoted(name) }
}
